//! The node's thread: takes in everything that is ready, then carries out everything that came
//! of it.
//!
//! ```text
//!   calls, frames, completions ─▶ inbox ─▶ step, step, … step, flush ─▶ outputs
//!        ▲                                                                 │
//!        │         disks: one message per lane   peers: one batch per connection
//!        └───────  answers: one delivery per worker  ◀─────────────────────┘
//! ```
//!
//! The machine is single-threaded on purpose: it never waits for anything but its inbox, and a
//! pass over a thousand inputs costs one disk sync and one packet per peer instead of a thousand.
//! Under load, batches grow by themselves, because everything that arrives during a pass is taken
//! in by the next one. With nothing to do, the thread sleeps until the node's own deadline.
//!
//! The sockets of peers belong to this thread too: between passes it reads and writes them. A
//! thread of their own would cost two more wake-ups on every way from node to node, each of which
//! is as long as a good part of a disk's sync; the work itself, checksums and copies of what the
//! node has batched, is small.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, SystemTime};

use base::{GroupId, Instant, WallTime};
use bytes::Bytes;
use journal::disk::{Completion, RequestId};
use node::group::META;
use node::hub::{HistoryJob, HistoryRequest, HubId, Publication};
use node::{Answer, Call, CallId, ConnectionId, Halt, Identity, Input, Level, Note, Output};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::authority::Authority;
use crate::changes::Changes;
use crate::disks::{Disks, Errand};
use crate::folder::{FolderError, IdentityWriter};
use crate::inbox::{Receiver, Sender};
use crate::jobs::Jobs;
use crate::keyspace::Keyspaces;
use crate::limits::NodeLimits;
use crate::metrics::Metrics;
use crate::priority;
use crate::serving::{Deliveries, News};
use crate::transport::{PeerEvent, SendQueue, Transport};

/// What reaches the node's thread.
pub(crate) enum Event {
    /// A client asks for something.
    Call {
        id: CallId,
        call: Call,
        reply: oneshot::Sender<Answer>,
    },
    /// A client no longer waits.
    Forget(CallId),
    /// What the clients of one worker ask for, in order.
    Asked(Vec<Asked>),
    /// Something happened on a connection to a peer.
    Peer(PeerEvent),
    /// Disk requests have ended.
    Disk(Vec<Completion>),
    /// The identity file is written, or not.
    IdentityWritten(Result<(), FolderError>),
    /// A job that ran elsewhere has ended.
    JobDone { id: CallId, answer: Answer },
    /// Somebody wants to know what the node counts.
    Metrics(oneshot::Sender<node::Metrics>),
    /// A thread that serves clients has failed: a bug, which has been reported where it happened.
    WorkerFailed,
    /// The process shall stop.
    Shutdown,
}

/// What a worker tells the node on a client's behalf.
#[derive(Debug)]
pub(crate) enum Asked {
    /// The client asks for something. The answer goes to the worker, which the id names.
    Call { id: CallId, call: Call },
    /// The client no longer waits.
    Forget(CallId),
    /// All clients of the worker know that the node is about to stop, and ask it no more.
    ClientsKnow,
    /// The worker's watches need history.
    ReadHistory {
        group: GroupId,
        hub: HubId,
        request: Box<HistoryRequest>,
    },
}

/// A node as its thread sees it; tests put something simpler in its place.
pub(crate) trait Machine: Send + 'static {
    fn step(&mut self, now: Instant, wall: WallTime, input: Input, out: &mut Vec<Output>);
    fn flush(&mut self, now: Instant, wall: WallTime, out: &mut Vec<Output>);
    fn deadline(&self) -> Option<Instant>;
    fn metrics(&self) -> node::Metrics;
    /// Whether the end of a request that was given out with frames to be sent after it, or with
    /// none, can wait until something else happens.
    fn is_patient(&self) -> bool {
        false
    }
}

impl Machine for node::Node {
    fn step(&mut self, now: Instant, wall: WallTime, input: Input, out: &mut Vec<Output>) {
        node::Node::step(self, now, wall, input, out);
    }

    fn flush(&mut self, now: Instant, wall: WallTime, out: &mut Vec<Output>) {
        node::Node::flush(self, now, wall, out);
    }

    fn deadline(&self) -> Option<Instant> {
        node::Node::deadline(self)
    }

    fn metrics(&self) -> node::Metrics {
        node::Node::metrics(self)
    }

    fn is_patient(&self) -> bool {
        node::Node::is_patient(self)
    }
}

/// The real clocks, as the machines see them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: std::time::Instant,
    /// By how much the wall clock is wrong: nothing, but in tests.
    wall_ahead: Duration,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock {
            origin: std::time::Instant::now(),
            wall_ahead: Duration::ZERO,
        }
    }

    /// The same with a wall clock that is wrong.
    #[cfg(test)]
    pub(crate) fn ahead_by(self, wall_ahead: Duration) -> Clock {
        Clock { wall_ahead, ..self }
    }

    /// Begins a second after the origin, so that 0 is always in the past.
    pub(crate) fn now(self) -> Instant {
        let nanoseconds = self.origin.elapsed().as_nanos() + 1_000_000_000;
        Instant(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// When it is, or was, that moment.
    pub(crate) fn moment(self, at: Instant) -> std::time::Instant {
        let since = Duration::from_nanos(at.0.saturating_sub(1_000_000_000));
        self.origin + since
    }

    pub(crate) fn wall(self) -> WallTime {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let since = since + self.wall_ahead;
        WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// How far a node has come, for everyone who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Clients cannot be served yet.
    Starting,
    /// Clients are served.
    Ready,
    /// The node has been asked to stop.
    Stopping,
    /// The node does nothing any more.
    Stopped,
}

/// What the node's thread works with.
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) events: Receiver<Event>,
    /// For jobs that report back.
    pub(crate) reports: Sender<Event>,
    pub(crate) disks: Disks,
    pub(crate) transport: Transport,
    pub(crate) identity: IdentityWriter,
    pub(crate) runtime: Handle,
    /// Those who wait for single keys.
    pub(crate) changes: Changes,
    pub(crate) limits: NodeLimits,
    pub(crate) metrics: Metrics,
    pub(crate) phase: watch::Sender<Phase>,
    /// For the workers, which hear of the end when this is dropped.
    pub(crate) deliveries: Deliveries,
    /// Who knows who calls.
    pub(crate) authority: Authority,
    /// Who knows which keyspaces there are.
    pub(crate) keyspaces: Keyspaces,
}

/// A connection to a peer, and what this pass sends over it.
struct Peer {
    queue: Arc<SendQueue>,
    pending: Vec<Bytes>,
}

/// The thread's state.
pub(crate) struct NodeLoop<M> {
    machine: M,
    world: World,
    replies: HashMap<CallId, oneshot::Sender<Answer>>,
    peers: HashMap<ConnectionId, Peer>,
    jobs: Jobs,
    /// Taken from the inbox, and not looked at yet.
    events: VecDeque<Event>,
    // Of the pass under way; kept for their allocations.
    outputs: Vec<Output>,
    errands: Vec<Errand>,
    touched: Vec<ConnectionId>,
    /// Calls that clients have given up: a job may be among what the pass has brought.
    forgotten: Vec<CallId>,
    /// Workers whose clients do not know yet that the node is about to stop.
    unaware_workers: usize,
    /// The machine is told to stop then.
    leaves_at: Option<Instant>,
    /// It has been told.
    has_left: bool,
    halt: Option<Halt>,
}

impl<M: Machine> NodeLoop<M> {
    pub(crate) fn new(machine: M, world: World) -> NodeLoop<M> {
        let (runtime, reports) = (world.runtime.clone(), world.reports.clone());
        let jobs = Jobs::new(runtime, reports, world.limits.jobs);
        NodeLoop {
            machine,
            world,
            replies: HashMap::new(),
            peers: HashMap::new(),
            jobs,
            events: VecDeque::new(),
            outputs: Vec::new(),
            errands: Vec::new(),
            touched: Vec::new(),
            forgotten: Vec::new(),
            unaware_workers: 0,
            leaves_at: None,
            has_left: false,
            halt: None,
        }
    }

    /// Runs until the node halts, on a runtime that runs the transport's tasks between passes.
    pub(crate) async fn run(mut self) -> Halt {
        let halt = loop {
            let has_more = self.pass();
            if let Some(halt) = self.halt.take() {
                break halt;
            }
            if has_more {
                // Peers are read and written between passes, however much there is to do.
                tokio::task::yield_now().await;
            } else if self.world.events.rest(self.machine.is_patient()) {
                self.wait().await;
            }
        };
        self.jobs.end();
        self.say_farewell().await;
        // Handlers whose answers never come learn it from their dropped senders, peers from
        // their closed connections.
        self.replies.clear();
        let World {
            disks,
            transport,
            phase,
            limits,
            deliveries,
            ..
        } = self.world;
        drop((deliveries, transport));
        // Not on this thread: clients hear meanwhile that it is over.
        let disks_stop = tokio::task::spawn_blocking(move || disks.stop(limits.disk_timeout));
        // Nothing in there fails but by a bug, which has been reported where it happened.
        let _ = disks_stop.await;
        phase.send_replace(Phase::Stopped);
        halt
    }

    /// Sleeps until something happens or the node's deadline comes.
    async fn wait(&mut self) {
        let filled = self.world.events.filled();
        match self.deadline() {
            None => filled.await,
            Some(deadline) => {
                let wait = deadline - self.world.clock.now();
                // Which of the two it was shows in the next pass.
                let _ = tokio::time::timeout(wait, filled).await;
            }
        }
    }

    /// Lets the last frames leave before their connections end.
    async fn say_farewell(&mut self) {
        let deadline = self.world.clock.now() + self.world.limits.farewell_timeout;
        let is_silent = || self.peers.values().all(|peer| peer.queue.is_empty());
        while !is_silent() && self.world.clock.now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// One pass; whether there is something left that can be done at once.
    fn pass(&mut self) -> bool {
        let (now, wall) = (self.world.clock.now(), self.world.clock.wall());
        let mut inputs = 0;
        if self.events.is_empty() {
            let mut events = std::mem::take(&mut self.events).into();
            self.world.events.take(&mut events);
            self.events = events.into();
        }
        while inputs < self.world.limits.inputs_per_pass
            && let Some(event) = self.events.pop_front()
        {
            inputs += self.take_in(now, wall, event);
        }
        if self.is_due(now) {
            let is_leaving = self.leaves_at.is_some_and(|at| at <= now);
            let input = match is_leaving && !std::mem::replace(&mut self.has_left, is_leaving) {
                true => Input::Shutdown,
                false => Input::Deadline,
            };
            self.machine.step(now, wall, input, &mut self.outputs);
            inputs += 1;
        }
        self.machine.flush(now, wall, &mut self.outputs);
        self.carry_out();
        self.world.metrics.pass_inputs.observe(inputs as f64);
        let end = self.world.clock.now();
        self.world
            .metrics
            .pass_seconds
            .observe((end - now).as_secs_f64());
        !self.events.is_empty() || self.is_due(end)
    }

    fn is_due(&self, now: Instant) -> bool {
        let deadline = self.deadline();
        deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Steps the machine with what an event holds; the number of inputs.
    fn take_in(&mut self, now: Instant, wall: WallTime, event: Event) -> usize {
        let input = match event {
            Event::Call { id, call, reply } => {
                self.replies.insert(id, reply);
                Input::Call { id, call }
            }
            Event::Forget(id) => {
                // An answer may have been on its way when the client gave up.
                if self.replies.remove(&id).is_none() {
                    return 0;
                }
                self.forgotten.push(id);
                Input::Forget { id }
            }
            Event::Asked(asked) => {
                let count = asked.len();
                for each in asked {
                    let input = match each {
                        Asked::Call { id, call } => Input::Call { id, call },
                        Asked::Forget(id) => {
                            self.forgotten.push(id);
                            Input::Forget { id }
                        }
                        Asked::ClientsKnow => {
                            self.clients_know(now);
                            continue;
                        }
                        Asked::ReadHistory {
                            group,
                            hub,
                            request,
                        } => Input::ReadHistory {
                            group,
                            hub,
                            request,
                        },
                    };
                    self.machine.step(now, wall, input, &mut self.outputs);
                }
                return count;
            }
            Event::Peer(event) => return self.take_in_peer(now, wall, event),
            Event::Disk(completions) => {
                let count = completions.len();
                for completion in completions {
                    self.machine
                        .step(now, wall, Input::Disk(completion), &mut self.outputs);
                }
                return count;
            }
            Event::IdentityWritten(Ok(())) => Input::IdentityPersisted,
            Event::IdentityWritten(Err(error)) => {
                self.halt = Some(Halt::Refused(error.to_string()));
                return 0;
            }
            Event::JobDone { id, answer } => {
                self.jobs.ended(id);
                Input::JobDone { id, answer }
            }
            Event::Metrics(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.machine.metrics());
                return 0;
            }
            Event::WorkerFailed => {
                let reason = "serving clients has failed inside; please report what it said above";
                self.halt = Some(Halt::Refused(reason.to_owned()));
                return 0;
            }
            Event::Shutdown => {
                self.leave(now);
                return 0;
            }
        };
        self.machine.step(now, wall, input, &mut self.outputs);
        1
    }

    /// Clients are sent away, and served until they have said that they know, or have had the time
    /// to; then the machine is told. So nobody's call meets a node that refuses it.
    fn leave(&mut self, now: Instant) {
        if self.leaves_at.is_none() {
            self.world.phase.send_replace(Phase::Stopping);
            self.unaware_workers = self.world.deliveries.leave();
            let limits = &self.world.limits;
            // Even if nobody is connected: somebody may be about to be.
            self.leaves_at = Some(match self.unaware_workers {
                0 => now + limits.leave_pause,
                _ => now + limits.leave_time,
            });
        }
    }

    /// The clients of one worker know. Once all do, calls under way have a moment to arrive.
    fn clients_know(&mut self, now: Instant) {
        self.unaware_workers = self.unaware_workers.saturating_sub(1);
        if self.unaware_workers == 0 {
            let soon = now + self.world.limits.leave_pause;
            self.leaves_at = self.leaves_at.map(|at| at.min(soon));
        }
    }

    /// The moment at which something is due, of the machine or of ours.
    fn deadline(&self) -> Option<Instant> {
        let leaves_at = self.leaves_at.filter(|_| !self.has_left);
        [self.machine.deadline(), leaves_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn take_in_peer(&mut self, now: Instant, wall: WallTime, event: PeerEvent) -> usize {
        let input = match event {
            PeerEvent::Connected {
                connection,
                dial,
                queue,
            } => {
                self.peers.insert(
                    connection,
                    Peer {
                        queue,
                        pending: Vec::new(),
                    },
                );
                Input::Connected { connection, dial }
            }
            PeerEvent::Disconnected {
                connection,
                by_peer,
            } => {
                self.peers.remove(&connection);
                Input::Disconnected {
                    connection,
                    by_peer,
                }
            }
            PeerEvent::Frames {
                connection,
                bodies,
                credit,
            } => {
                let count = bodies.len();
                for body in bodies {
                    let input = Input::Frame { connection, body };
                    self.machine.step(now, wall, input, &mut self.outputs);
                }
                drop(credit);
                return count;
            }
        };
        self.machine.step(now, wall, input, &mut self.outputs);
        1
    }

    /// Carries out what the pass brought: peers and disk first, since others wait for those, and
    /// they work while the rest is carried out. Of the two, a peer's answer takes longer.
    fn carry_out(&mut self) {
        let mut later = Vec::new();
        for output in std::mem::take(&mut self.outputs).drain(..) {
            match output {
                Output::Disk(request) => self.errands.push(request.into()),
                Output::FramesAfter { request, frames } => self.send_after(request, frames),
                Output::Frame { connection, body } => self.queue_frame(connection, body),
                other => later.push(other),
            }
        }
        for connection in self.touched.drain(..) {
            if let Some(peer) = self.peers.get_mut(&connection) {
                peer.queue.push(&mut peer.pending);
            }
        }
        if !self.errands.is_empty() && self.world.disks.submit(&mut self.errands).is_err() {
            self.halt_because_a_disk_thread_is_gone();
        }
        for output in later {
            self.carry_out_one(output);
        }
        for id in self.forgotten.drain(..) {
            self.jobs.call_over(id);
        }
        self.world.deliveries.deliver();
    }

    fn queue_frame(&mut self, connection: ConnectionId, body: Bytes) {
        // A connection that is gone takes its frames with it.
        if let Some(peer) = self.peers.get_mut(&connection) {
            if peer.pending.is_empty() {
                self.touched.push(connection);
            }
            peer.pending.push(body);
        }
    }

    /// Gives frames to the disk's thread along with the request that they wait for.
    fn send_after(&mut self, request: RequestId, frames: Vec<(ConnectionId, Bytes)>) {
        let errand = self.errands.iter_mut().rev();
        let mut errand = errand.filter(|errand| errand.request.id == request);
        let errand = errand.next().expect("it was given out in this pass");
        let mut departing: Vec<(Arc<SendQueue>, Vec<Bytes>)> = Vec::with_capacity(frames.len());
        for (connection, body) in frames {
            let Some(Peer { queue, .. }) = self.peers.get(&connection) else {
                continue;
            };
            match departing.iter_mut().find(|(to, _)| Arc::ptr_eq(to, queue)) {
                Some((_, bodies)) => bodies.push(body),
                None => departing.push((Arc::clone(queue), vec![body])),
            }
        }
        errand.then = Some(Box::new(move || {
            for (queue, mut bodies) in departing {
                queue.push(&mut bodies);
            }
        }));
    }

    fn carry_out_one(&mut self, output: Output) {
        match output {
            Output::Answer { id, answer } => {
                self.jobs.call_over(id);
                let Some(answer) = self.world.deliveries.answer(id, answer) else {
                    return;
                };
                if let Some(reply) = self.replies.remove(&id) {
                    // The client may have gone; the node will hear of it.
                    let _ = reply.send(answer);
                }
            }
            Output::Dial { dial, address } => self.world.transport.dial(dial, address),
            Output::HangUp { dial } => self.world.transport.hang_up(dial),
            Output::Disconnect { connection } => {
                if let Some(peer) = self.peers.get(&connection) {
                    peer.queue.finish();
                }
            }
            Output::PersistIdentity(identity) => self.persist(identity),
            Output::Offload { id, job } => self.jobs.begin(id, job),
            Output::Discard(discarded) => {
                // Fails where no thread can be had: then it is let go of here, with the closure.
                let _ = Builder::new().name("discard".into()).spawn(move || {
                    priority::give_way_to_all();
                    drop(discarded);
                });
            }
            Output::Publish { group, publication } => self.publish(group, publication),
            Output::Unpublish { group, error } => {
                self.world.changes.gone(group);
                self.world.deliveries.tell(&News::Gone { group, error });
            }
            Output::Keyspaces(directory) => self.world.keyspaces.told(directory),
            Output::ReadHistory { group, job } => self.read_history(group, *job),
            Output::Note(note) => self.note(&note),
            Output::Ready => {
                self.world.phase.send_if_modified(|phase| {
                    let starting = *phase == Phase::Starting;
                    if starting {
                        *phase = Phase::Ready;
                    }
                    starting
                });
            }
            Output::Halt(halt) => self.halt = Some(halt),
            Output::Disk(_) | Output::Frame { .. } | Output::FramesAfter { .. } => {
                unreachable!("disk requests and frames are carried out before all others")
            }
        }
    }

    fn publish(&mut self, group: GroupId, mut publication: Publication) {
        // Users are those of the cluster; another group's state has none.
        if group != META {
            publication.access = None;
        }
        if let Some(access) = &publication.access {
            self.world.authority.told(Arc::clone(access));
        }
        if group == META {
            let keyspaces = &self.world.keyspaces;
            keyspaces.told_of_leader(publication.has_leader);
        }
        self.world.changes.published(group, &publication);
        let news = News::Published { group, publication };
        self.world.deliveries.tell(&news);
    }

    fn persist(&mut self, identity: Identity) {
        let writer = self.world.identity.clone();
        let reports = self.world.reports.clone();
        // On a disk thread, so that identities are written in the order they were given.
        let job = move || {
            // The node's thread may have ended; then nobody needs to know.
            let _ = reports.send(Event::IdentityWritten(writer.write(&identity)));
        };
        if self.world.disks.run(Box::new(job)).is_err() {
            self.halt_because_a_disk_thread_is_gone();
        }
    }

    fn read_history(&self, group: GroupId, job: HistoryJob) {
        let Some(reader) = self.world.deliveries.reader(job.hub()) else {
            return;
        };
        let number = job.number();
        self.world.runtime.spawn_blocking(move || {
            let result = catch_unwind(AssertUnwindSafe(|| job.run()));
            reader.tell(group, result.unwrap_or_else(|_| HistoryJob::failed(number)));
        });
    }

    fn note(&mut self, note: &Note) {
        let name = note.name();
        self.world
            .metrics
            .notes
            .get_or_create(&[("note", name)])
            .inc();
        match note.level() {
            Level::Error => tracing::error!(note = name, "{note}"),
            Level::Warn => tracing::warn!(note = name, "{note}"),
            Level::Info => tracing::info!(note = name, "{note}"),
            Level::Debug => tracing::debug!(note = name, "{note}"),
        }
    }

    fn halt_because_a_disk_thread_is_gone(&mut self) {
        let text = "a disk thread has failed inside; please report what it said above";
        self.halt.get_or_insert_with(|| Halt::Refused(text.into()));
    }
}
