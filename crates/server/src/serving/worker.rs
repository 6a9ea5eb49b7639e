//! A worker: one thread, its connections, what they have under way, and its turn.
//!
//! ```text
//!   turn:  1. publications, then answers, that the node left     (streams are filled)
//!          2. streams that can go on, calls that were given up
//!          3. streaming services end their turn                  (streams are filled)
//!          4. everything the node is to know                     (one message, one wake-up)
//!   then:  every connection that was filled writes once
//! ```
//!
//! Connections and the turn are tasks of one thread and run in the order they were woken: all
//! connections that one look at the sockets found ready take in what has come before the turn that
//! the first of them asked for.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use etcd::auth::Caller;
use h2::RecvStream;
use h2::server::SendResponse;
use http::HeaderMap;
use node::{Call, CallId};
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::connection::{self, Accepted};
use super::grpc::{self, Payload, Prebuilt, Status};
use super::looking;
use super::mailbox::{Delivery, Mailbox};
use super::relaying::Relays;
use super::renewing::{self, RenewalService};
use super::routed;
use super::slots::{Key, Slots};
use super::streams::{Answered, Asker, Streams};
use super::unary::Method;
use super::visited::Traffic;
use super::watching::{self, WatchService};
use super::{Mailboxes, slots};
use crate::authority::{self, TokenCache};
use crate::calls::{CallError, Calls, Identity, Turn};
use crate::limits::ClientLimits;
use crate::metrics::{CallCounters, CountedCall, Metrics};
use crate::node_loop::{Asked, Clock};
use crate::tied::Followers;
use crate::tls::CommonName;

/// What all workers are given.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) calls: Calls,
    pub(crate) limits: ClientLimits,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    /// Serves what is not hot.
    pub(crate) router: Router,
    /// The way to other nodes.
    pub(crate) asker: crate::transport::Asker,
    /// Keyspaces whose keys go with leases of the default one.
    pub(crate) followers: Followers,
}

/// The worker, counted from 0, that a call belongs to; `None` if it is none of theirs. The high
/// bits of the id hold that number plus one, the low ones say which call of that worker.
pub(super) fn number_of(id: CallId) -> Option<usize> {
    usize::try_from(id.0 >> Key::BITS).ok()?.checked_sub(1)
}

/// All workers, as the acceptor sees them. Once the last clone is dropped they end, with their
/// connections.
#[derive(Clone)]
pub(crate) struct Workers {
    sockets: Arc<[mpsc::UnboundedSender<Accepted>]>,
    next: Arc<AtomicUsize>,
}

/// All workers, for one that they serve: it must not keep them from ending.
#[derive(Clone)]
pub(crate) struct WeakWorkers {
    sockets: Weak<[mpsc::UnboundedSender<Accepted>]>,
    next: Arc<AtomicUsize>,
}

impl WeakWorkers {
    /// `None` once they end.
    pub(crate) fn upgrade(&self) -> Option<Workers> {
        Some(Workers {
            sockets: self.sockets.upgrade()?,
            next: Arc::clone(&self.next),
        })
    }
}

/// A worker that has no thread yet.
pub(crate) struct Seat {
    number: usize,
    setting: Setting,
    mailbox: Arc<Mailbox>,
    sockets: mpsc::UnboundedReceiver<Accepted>,
}

impl Seat {
    /// Runs the worker on this thread, whose [`tokio::task::LocalSet`] runs its tasks.
    pub(crate) async fn take(self) {
        let worker = Worker::new(self.number, self.setting, self.mailbox);
        Rc::new(worker).run(self.sockets).await;
    }

    /// Runs the worker on a thread of its own.
    pub(crate) fn start_thread(self) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let name = format!("client-{}", self.number);
        let calls = self.setting.calls.clone();
        let run = move || {
            let serve = || LocalSet::new().block_on(&runtime, self.take());
            if catch_unwind(AssertUnwindSafe(serve)).is_err() {
                calls.report_failure();
            }
        };
        std::thread::Builder::new().name(name).spawn(run)
    }
}

impl Workers {
    /// The mailboxes of so many workers.
    pub(crate) fn mailboxes(count: usize) -> Mailboxes {
        let most = (1 << (u64::BITS - Key::BITS)) - 1;
        let count = count.clamp(1, most);
        Mailboxes((0..count).map(|_| Arc::new(Mailbox::default())).collect())
    }

    /// A worker for each mailbox.
    pub(crate) fn new(setting: &Setting, mailboxes: &Mailboxes) -> (Workers, Vec<Seat>) {
        let (mut senders, mut seats) = (Vec::new(), Vec::new());
        for (number, mailbox) in mailboxes.0.iter().enumerate() {
            let (sender, sockets) = mpsc::unbounded_channel();
            senders.push(sender);
            seats.push(Seat {
                number,
                setting: setting.clone(),
                mailbox: Arc::clone(mailbox),
                sockets,
            });
        }
        let workers = Workers {
            sockets: senders.into(),
            next: Arc::default(),
        };
        (workers, seats)
    }

    pub(crate) fn downgrade(&self) -> WeakWorkers {
        WeakWorkers {
            sockets: Arc::downgrade(&self.sockets),
            next: Arc::clone(&self.next),
        }
    }

    /// Gives a connection to the next worker. How many wait there is bounded by their places.
    pub(crate) fn hand_over(&self, accepted: Accepted) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        // A worker that has ended needs no more connections: this one is dropped and counted.
        let _ = self.sockets[turn % self.sockets.len()].send(accepted);
    }
}

/// Who gets an answer of the node.
pub(super) enum Reply {
    /// The stream of a call.
    Unary {
        method: Method,
        respond: SendResponse<Payload>,
        counted: CountedCall,
    },
    /// A streaming service.
    Service(Asker),
}

/// A call that the node has not answered yet.
struct Waiting {
    reply: Reply,
    turn: Turn,
    deadline: Option<Instant>,
}

/// A call that is to be asked.
struct Asking {
    call: Call,
    reply: Reply,
    deadline: Option<Instant>,
}

impl Asking {
    fn of_service(asker: Asker, call: Call) -> Asking {
        Asking {
            call,
            reply: Reply::Service(asker),
            deadline: None,
        }
    }
}

/// What is kept for all turns.
struct State {
    waiting: Slots<Waiting>,
    streams: Streams,
    /// What the node is to know.
    outbox: Vec<Asked>,
    /// No call's time is over before this.
    earliest_deadline: Option<Instant>,
    /// Turns that have become free and are not given back yet.
    freed: Vec<Turn>,
    /// Calls put under way in this turn.
    asked: i64,
    // Kept for their memory.
    delivery: Delivery,
    woken: Vec<Key>,
}

/// One worker; shared by the tasks of its thread.
pub(super) struct Worker {
    number: usize,
    pub(super) setting: Setting,
    pub(super) prebuilt: Prebuilt,
    /// Counters of the hot calls, by [`Method`].
    counters: [Option<Arc<CallCounters>>; Method::ALL.len()],
    mailbox: Arc<Mailbox>,
    state: RefCell<State>,
    /// The node is about to stop; connections are to take no further calls.
    is_leaving: Cell<bool>,
    /// The node does nothing any more; connections are to end.
    is_stopping: Cell<bool>,
    connections: Cell<usize>,
    /// Connections whose clients have not said yet that they know of the node's leaving.
    unaware: RefCell<BTreeSet<u64>>,
    /// The node has been told that all clients know.
    has_reported: Cell<bool>,
    /// Of connections that are to hear when the node stops.
    listeners: RefCell<BTreeMap<u64, Waker>>,
    /// Notified when a connection has ended, or the node has.
    ended: Notify,
    /// Of those who have signed in.
    tokens: RefCell<TokenCache>,
    /// The connections to other nodes that serve what is not here.
    pub(super) relays: Relays,
}

impl Worker {
    fn new(number: usize, setting: Setting, mailbox: Arc<Mailbox>) -> Worker {
        let mut streams = Streams::new(&mailbox.turn, &setting.limits, &setting.metrics.rpc);
        let watches = WatchService::new(number, &setting);
        streams.mount(watching::PATH, Box::new(watches));
        let authority = setting.calls.authority().clone();
        let renewals = RenewalService::new(&setting.limits, authority);
        streams.mount(renewing::PATH, Box::new(renewals));
        let state = State {
            waiting: Slots::new(&mailbox.turn),
            streams,
            outbox: Vec::new(),
            earliest_deadline: None,
            freed: Vec::new(),
            asked: 0,
            delivery: Delivery::default(),
            woken: Vec::new(),
        };
        let tokens = RefCell::new(TokenCache::new(&setting.limits.auth));
        let counters = Method::ALL.map(|method| setting.metrics.rpc.of(method.path()).cloned());
        Worker {
            number,
            tokens,
            setting,
            counters,
            prebuilt: Prebuilt::new(),
            mailbox,
            state: RefCell::new(state),
            is_leaving: Cell::new(false),
            is_stopping: Cell::new(false),
            connections: Cell::new(0),
            unaware: RefCell::default(),
            has_reported: Cell::new(false),
            listeners: RefCell::new(BTreeMap::new()),
            ended: Notify::new(),
            relays: Relays::default(),
        }
    }
}

impl Worker {
    /// Serves connections until the acceptor has ended, and the node has.
    async fn run(self: Rc<Worker>, mut sockets: mpsc::UnboundedReceiver<Accepted>) {
        // Within this task, so that a bug in there ends the worker, and with it the server,
        // instead of leaving one behind that takes calls and answers none.
        tokio::select! {
            never = Rc::clone(&self).turns() => match never {},
            () = self.accept(&mut sockets) => {}
        }
    }

    async fn accept(self: &Rc<Worker>, sockets: &mut mpsc::UnboundedReceiver<Accepted>) {
        let mut number = 0;
        while let Some(accepted) = sockets.recv().await {
            number += 1;
            let place = Place::new(self, number);
            tokio::task::spawn_local(async move {
                connection::serve(&place.worker, number, accepted).await;
            });
        }
        // Listeners close while the node still answers what is under way.
        while !self.is_stopping.get() {
            self.ended.notified().await;
        }
        let all_ended = async {
            while self.connections.get() > 0 {
                self.ended.notified().await;
            }
        };
        // Those that have not ended by then end with the thread.
        let _ = tokio::time::timeout(self.setting.limits.drain_timeout, all_ended).await;
    }

    /// Wakes a connection when the node stops. Told once per connection.
    pub(super) fn listen(&self, number: u64, waker: &Waker) {
        self.listeners.borrow_mut().insert(number, waker.clone());
    }

    /// Whether connections are to say that they take no further calls.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.get() || self.is_stopping.get()
    }

    /// A connection's client knows that the node is about to stop: it asks nothing more here.
    pub(super) fn is_aware(&self, number: u64) {
        self.unaware.borrow_mut().remove(&number);
        self.mailbox.turn.notify_one();
    }

    /// Tells the node once all clients know that it is about to stop.
    fn report_leaving(&self, state: &mut State) {
        let all_know = self.is_leaving.get() && self.unaware.borrow().is_empty();
        if all_know && !self.has_reported.replace(true) {
            state.outbox.push(Asked::ClientsKnow);
        }
    }

    /// Has a turn whenever something happened.
    async fn turns(self: Rc<Worker>) -> Infallible {
        let alarm = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(alarm);
        loop {
            let due = self.turn();
            if due.is_some_and(|due| due <= Instant::now()) {
                // What did not fit into this turn: after the connections have written.
                tokio::task::yield_now().await;
                continue;
            }
            if let Some(due) = due
                && due != alarm.deadline()
            {
                alarm.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                () = self.mailbox.turn.notified() => {}
                () = &mut alarm, if due.is_some() => {}
            }
            // Connections run too, however often turns are asked for.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// One turn. Returns when the next one is due by the clock alone.
    fn turn(self: &Rc<Worker>) -> Option<Instant> {
        let state = &mut *self.state.borrow_mut();
        let now = self.setting.clock.now();
        let mut delivery = std::mem::take(&mut state.delivery);
        self.mailbox.take(&mut delivery);
        for news in delivery.news.drain(..) {
            state.streams.told(now, &news);
        }
        for (group, result) in delivery.histories.drain(..) {
            state.streams.history(now, group, result);
        }
        for (id, answer) in delivery.answers.drain(..) {
            self.answered(state, Key::from_bits(id.0), Ok(answer));
        }
        self.forget_given_up(state);
        let mut calls = Vec::new();
        state.streams.turn(now, &self.prebuilt, &mut calls);
        for (asker, call) in calls {
            if let Some(call) = looking::look(self, asker, call) {
                self.put_under_way(state, Asking::of_service(asker, call), Turn::OfService);
            }
        }
        self.expire(state);
        if std::mem::take(&mut delivery.leaving) {
            self.is_leaving.set(true);
            self.wake_connections();
        }
        if std::mem::take(&mut delivery.stopped) && !self.is_stopping.replace(true) {
            self.stop(state);
        }
        state.delivery = delivery;
        self.report_leaving(state);
        self.tell(state);
        let streams_due = state.streams.deadline();
        let streams_due = streams_due.map(|due| Instant::from_std(self.setting.clock.moment(due)));
        [streams_due, state.earliest_deadline]
            .into_iter()
            .flatten()
            .min()
    }

    /// Who makes a hot call. While nobody has to sign in, that is one look at a flag.
    pub(super) fn caller(
        &self,
        headers: &HeaderMap,
        common_name: Option<&CommonName>,
    ) -> Result<Option<Arc<Caller>>, Status> {
        let authority = self.setting.calls.authority();
        if !authority.is_enabled() {
            return Ok(None);
        }
        let token = authority::token_of(headers);
        let common_name = authority::common_name_of(headers, common_name);
        let caller = authority.caller(token, common_name, &mut self.tokens.borrow_mut());
        caller.map_err(|error| Status::from(&error))
    }

    /// Asks the node on a client's behalf, with the next turn. A call that finds too many under
    /// way waits a while for others to end.
    pub(super) fn ask(self: &Rc<Worker>, call: Call, reply: Reply, deadline: Option<Instant>) {
        let asking = {
            let state = &mut *self.state.borrow_mut();
            self.ask_in(
                state,
                Asking {
                    call,
                    reply,
                    deadline,
                },
            )
        };
        self.mailbox.turn.notify_one();
        if let Some(asking) = asking {
            let worker = Rc::clone(self);
            tokio::task::spawn_local(async move { worker.ask_later(asking).await });
        }
    }

    /// Asks the node for a streaming service, with the next turn.
    pub(super) fn ask_for_service(&self, asker: Asker, call: Call) {
        let state = &mut *self.state.borrow_mut();
        self.put_under_way(state, Asking::of_service(asker, call), Turn::OfService);
        self.mailbox.turn.notify_one();
    }

    /// Answers a call that the node is not asked for.
    pub(super) fn refuse(&self, reply: Reply, status: Status) {
        let state = &mut *self.state.borrow_mut();
        self.reply(state, reply, Err(status));
    }

    /// Waits until the call may be made, as long as its client does.
    async fn ask_later(&self, mut asking: Asking) {
        let turn = tokio::select! {
            turn = self.setting.calls.wait_for_turn() => turn,
            () = asking.reply.given_up() => return,
        };
        let state = &mut *self.state.borrow_mut();
        match turn {
            Ok(turn) => self.put_under_way(state, asking, turn),
            Err(CallError::Busy) => self.reply(state, asking.reply, Err(Status::busy())),
            Err(CallError::Stopped) => self.reply(state, asking.reply, Err(Status::stopped())),
            Err(CallError::Refused(error)) => {
                self.reply(state, asking.reply, Err(Status::from(&error)));
            }
        }
        self.mailbox.turn.notify_one();
    }

    /// Asks the node unless too many calls are under way, which gives it back.
    fn ask_in(&self, state: &mut State, asking: Asking) -> Option<Asking> {
        if state.waiting.len() + 1 >= slots::MOST {
            self.reply(state, asking.reply, Err(Status::busy()));
            return None;
        }
        let Some(turn) = self.setting.calls.try_turn(&asking.call) else {
            return Some(asking);
        };
        self.put_under_way(state, asking, turn);
        None
    }

    fn put_under_way(&self, state: &mut State, asking: Asking, turn: Turn) {
        let Asking {
            call,
            reply,
            deadline,
        } = asking;
        state.asked += 1;
        if self.is_stopping.get() {
            state.freed.push(turn);
            return self.reply(state, reply, Err(Status::stopped()));
        }
        let key = state.waiting.insert(Waiting {
            reply,
            turn,
            deadline,
        });
        let (waiting, waker) = state.waiting.get_mut(key).expect("it was just put there");
        if waiting.reply.is_given_up(waker) {
            state.waiting.remove(key);
            state.freed.push(turn);
            return;
        }
        if let Some(deadline) = deadline {
            let earliest = state.earliest_deadline.get_or_insert(deadline);
            *earliest = deadline.min(*earliest);
        }
        let id = self.id(key);
        state.outbox.push(Asked::Call { id, call });
    }

    fn id(&self, key: Key) -> CallId {
        CallId((self.number as u64 + 1) << Key::BITS | key.bits())
    }

    /// A call has come to its end.
    fn answered(&self, state: &mut State, key: Key, answered: Answered) {
        // The client may have given up while the answer was on its way.
        if let Some(waiting) = state.waiting.remove(key) {
            state.freed.push(waiting.turn);
            self.reply(state, waiting.reply, answered);
        }
    }

    fn reply(&self, state: &mut State, reply: Reply, answered: Answered) {
        match reply {
            Reply::Service(asker) => state.streams.answered(asker, answered),
            Reply::Unary {
                method,
                mut respond,
                mut counted,
            } => {
                let large_bytes = self.setting.limits.stream_send_bytes;
                let answered = answered.and_then(|answer| method.encode(answer, large_bytes));
                counted.end(answered.as_ref().map_or_else(|status| status.code, |_| 0));
                match answered {
                    Err(status) => self.prebuilt.refuse(&mut respond, &status),
                    Ok(grpc::Answered::Ready(payload)) => {
                        self.prebuilt.answer(&mut respond, payload);
                    }
                    Ok(grpc::Answered::Large(answer)) => {
                        let trailers = self.prebuilt.trailers(&Status::OK);
                        let head = self.prebuilt.head();
                        let send = routed::send_large(head, respond, answer, trailers);
                        tokio::task::spawn_local(send);
                    }
                }
            }
        }
    }

    /// Tells the node of calls whose clients have gone.
    fn forget_given_up(&self, state: &mut State) {
        let mut woken = std::mem::take(&mut state.woken);
        state.waiting.take_woken(&mut woken);
        for key in woken.drain(..) {
            if let Some((waiting, waker)) = state.waiting.get_mut(key)
                && waiting.reply.is_given_up(waker)
            {
                self.forget(state, key);
            }
        }
        state.woken = woken;
    }

    fn forget(&self, state: &mut State, key: Key) -> Option<Reply> {
        let waiting = state.waiting.remove(key)?;
        state.freed.push(waiting.turn);
        state.outbox.push(Asked::Forget(self.id(key)));
        Some(waiting.reply)
    }

    /// Answers the calls whose clients said how long they would wait, and have waited that long.
    fn expire(&self, state: &mut State) {
        let Some(earliest) = state.earliest_deadline else {
            return;
        };
        let now = Instant::now();
        if earliest > now {
            return;
        }
        let mut earliest: Option<Instant> = None;
        for key in state.waiting.keys() {
            let Some((waiting, _)) = state.waiting.get_mut(key) else {
                continue;
            };
            match waiting.deadline {
                Some(deadline) if deadline <= now => {
                    if let Some(reply) = self.forget(state, key) {
                        self.reply(state, reply, Err(Status::too_late()));
                    }
                }
                Some(deadline) => {
                    earliest = Some(earliest.map_or(deadline, |earliest| earliest.min(deadline)));
                }
                None => {}
            }
        }
        // Every look goes over all calls, so looks keep a distance.
        let soonest = now + self.setting.limits.deadline_glance;
        state.earliest_deadline = earliest.map(|earliest| earliest.max(soonest));
    }

    /// Hands over what the node is to know, and gives back the turns of calls that have ended.
    fn tell(&self, state: &mut State) {
        let metrics = &self.setting.metrics;
        if state.asked > 0 {
            metrics.calls_under_way.inc_by(state.asked);
            state.asked = 0;
        }
        if !state.outbox.is_empty() {
            let outbox = std::mem::take(&mut state.outbox);
            if self.setting.calls.tell(outbox).is_err() {
                self.stop(state);
            }
        }
        if !state.freed.is_empty() {
            metrics.calls_under_way.dec_by(state.freed.len() as i64);
            self.setting.calls.free(&mut state.freed);
        }
    }

    /// The node does nothing any more: whatever is under way ends, and so do connections.
    fn stop(&self, state: &mut State) {
        self.is_stopping.set(true);
        for key in state.waiting.keys() {
            self.answered(state, key, Err(Status::stopped()));
        }
        state.streams.stop(&self.prebuilt);
        self.wake_connections();
        self.ended.notify_one();
    }

    fn wake_connections(&self) {
        for waker in self.listeners.borrow().values() {
            waker.wake_by_ref();
        }
    }

    /// A hot call begins.
    pub(super) fn count(&self, method: Method) -> CountedCall {
        CountedCall::begin(self.counters[method as usize].as_ref())
    }

    /// Takes in a stream for one of the streaming services; `come` has been read of it.
    pub(super) fn open_stream(
        &self,
        service: usize,
        headers: &HeaderMap,
        common_name: Option<&CommonName>,
        traffic: Rc<Traffic>,
        (come, body): (Bytes, RecvStream),
        mut respond: SendResponse<Payload>,
    ) {
        let identity = Identity::new(headers, common_name);
        let state = &mut *self.state.borrow_mut();
        if self.is_stopping.get() {
            return self.prebuilt.refuse(&mut respond, &Status::stopped());
        }
        if let Err(status) = self.let_in(&identity) {
            return self.prebuilt.refuse(&mut respond, &status);
        }
        if state.streams.len() >= self.setting.limits.streams_per_worker.min(slots::MOST) {
            return self.prebuilt.refuse(&mut respond, &Status::busy());
        }
        state.streams.open(
            service,
            (headers, identity),
            traffic,
            (come, body),
            &mut respond,
            &self.prebuilt,
        );
    }

    /// Whether somebody may open a stream in the keyspace that he names. What he may ask for in the
    /// default one is looked at when he does.
    fn let_in(&self, identity: &Identity) -> Result<(), Status> {
        let Some(keyspace) = identity.keyspace() else {
            return Ok(());
        };
        let calls = &self.setting.calls;
        calls
            .keyspaces()
            .group(Some(keyspace))
            .map_err(|error| Status::from(&error))?;
        let authority = calls.authority();
        if !authority.is_enabled() {
            return Ok(());
        }
        let caller = identity.caller(authority, &mut self.tokens.borrow_mut());
        let may = caller.and_then(|caller| {
            let access = authority.access();
            access.check_keyspace(caller.as_deref(), keyspace)
        });
        may.map_err(|error| Status::from(&error))
    }

    /// The streaming service behind a path, if it is one.
    pub(super) fn service_of(&self, path: &str) -> Option<usize> {
        self.state.borrow().streams.service_of(path)
    }
}

/// A connection's place on its worker.
struct Place {
    worker: Rc<Worker>,
    number: u64,
}

impl Place {
    fn new(worker: &Rc<Worker>, number: u64) -> Place {
        worker.connections.set(worker.connections.get() + 1);
        worker.unaware.borrow_mut().insert(number);
        Place {
            worker: Rc::clone(worker),
            number,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.listeners.borrow_mut().remove(&self.number);
        self.worker.is_aware(self.number);
        self.worker
            .connections
            .set(self.worker.connections.get() - 1);
        self.worker.ended.notify_one();
    }
}

impl Reply {
    /// Whether nobody waits for the answer any more; wakes `waker` once that is so.
    fn is_given_up(&mut self, waker: &Waker) -> bool {
        match self {
            Reply::Service(_) => false,
            Reply::Unary { respond, .. } => {
                let context = &mut Context::from_waker(waker);
                respond.poll_reset(context).is_ready()
            }
        }
    }

    /// Waits until nobody waits for the answer any more.
    pub(super) async fn given_up(&mut self) {
        match self {
            Reply::Service(_) => std::future::pending().await,
            Reply::Unary { respond, .. } => {
                // Why does not matter.
                let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
            }
        }
    }
}
