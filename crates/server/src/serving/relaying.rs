//! Calls in keyspaces that this node does not hold: carried on to a node that does.
//!
//! ```text
//!   client ── call ──▶ this node ── the same call, over the peers' port ──▶ a node that holds it
//!          ◀─────────            ◀──────────────────────────────────────── serves it as its own
//! ```
//!
//! A call is carried on as it came: headers, messages and the end, in both directions, each only as
//! fast as the other side takes it. So watches, keep-alives and locks are relayed as a put is, and
//! what is added to the protocol one day is relayed too. The other node is told which keyspace it
//! is about, and who the client's certificate says that he is; tokens are good on every node.
//!
//! - **No loops**: what comes over the peers' port is served where it arrives, or refused
//!   ([`NOT_HERE`]). Nobody relays it again.
//! - **No guessing**: a call is tried on another node only while it is certain that it has not been
//!   begun: nobody could be connected to, or the node said that it does not hold the keyspace (it
//!   knows the table of keyspaces of a moment ago, or this node does). What was sent is kept for
//!   that, up to [`RelayLimits::replay_bytes`], until the answer begins. After that, a node that
//!   goes away ends the call with an error that says that the outcome is unknown.
//! - **Bounded**: so many calls of a worker at a time, so long until one has found its node; a node
//!   that does not answer probes loses its connection, and with it the calls over it. How long a
//!   call may take is for the node that serves it to say, as it is for its own.
//!
//! Each worker has one connection to each node that it relays to.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use node::Holder;
use tokio::time::{Instant, sleep, timeout};

use super::grpc::{Payload, Status};
use super::intake::{self, Intake};
use super::routed::{Gone, send_piece};
use super::worker::Worker;
use crate::authority;
use crate::keyspace::{Found, KEYSPACE};
use crate::limits::RelayLimits;
use crate::tls::CommonName;

/// Says whose certificate the client has shown. Believed of nodes alone, this one among them.
const COMMON_NAME: HeaderName = HeaderName::from_static("quorate-common-name");
/// In an answer without messages: the call has not been begun, the keyspace is not here.
const NOT_HERE: HeaderName = HeaderName::from_static("quorate-not-here");

/// A worker's connections to other nodes.
#[derive(Default)]
pub(super) struct Relays {
    links: RefCell<HashMap<Arc<str>, Rc<Link>>>,
    under_way: Cell<usize>,
    /// Counts calls, so that they are spread over the nodes.
    turn: Cell<usize>,
}

/// One connection to a node, made when it is needed.
#[derive(Default)]
struct Link {
    requests: tokio::sync::Mutex<Option<SendRequest<Bytes>>>,
    /// It could not be made when it was last tried, at this moment.
    failed_at: Cell<Option<Instant>>,
}

impl Link {
    fn has_failed_within(&self, time: std::time::Duration) -> bool {
        let failed_at = self.failed_at.get();
        failed_at.is_some_and(|at| Instant::now() < at + time)
    }
}

/// A call's place among those that are relayed.
struct Place<'a>(&'a Cell<usize>);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Relays {
    fn place(&self, limits: &RelayLimits) -> Option<Place<'_>> {
        let count = self.under_way.get();
        (count < limits.calls).then(|| {
            self.under_way.set(count + 1);
            Place(&self.under_way)
        })
    }

    fn link(&self, address: &str) -> Rc<Link> {
        let mut links = self.links.borrow_mut();
        match links.get(address) {
            Some(link) => Rc::clone(link),
            None => Rc::clone(links.entry(address.into()).or_default()),
        }
    }
}

/// Who the client of a relayed call is, as the node that relays it says.
pub(super) fn common_name(headers: &HeaderMap) -> Option<CommonName> {
    let name = std::str::from_utf8(headers.get(COMMON_NAME)?.as_bytes()).ok()?;
    Some(CommonName(name.into()))
}

/// Says in a call of this node's own who its client is.
pub(crate) fn say_common_name(headers: &mut HeaderMap, CommonName(name): &CommonName) {
    // A name that no header can hold is nobody's, there as here.
    if let Ok(name) = HeaderValue::from_bytes(name.as_bytes()) {
        headers.insert(COMMON_NAME, name);
    }
}

/// Refuses a call whose keyspace is not on this node, so that whoever relays it may ask another.
pub(super) fn refuse(worker: &Worker, respond: &mut SendResponse<Payload>) {
    let status = Status::from(&etcd::Error::KeyspaceElsewhere);
    let mut response = worker.prebuilt.refusal(&status);
    let headers = response.headers_mut();
    headers.insert(NOT_HERE, HeaderValue::from_static("1"));
    // A node that has gone needs no answer.
    let _ = respond.send_response(response, true);
}

/// Has a call served by another node, in a task of its own.
pub(super) fn begin(
    worker: &Rc<Worker>,
    keyspace: Arc<str>,
    request: Request<RecvStream>,
    common_name: Option<&CommonName>,
    respond: SendResponse<Payload>,
) {
    let (head, body) = request.into_parts();
    let came = Came {
        pieces: Vec::new(),
        rest: Some(body),
    };
    begin_with(worker, keyspace, (head, came), common_name, respond);
}

/// What a client has sent of a call, and where the rest comes from.
pub(super) struct Came {
    pub(super) pieces: Vec<Bytes>,
    /// `None`: that was all.
    pub(super) rest: Option<RecvStream>,
}

/// The same for a call of which something has been read.
pub(super) fn begin_with(
    worker: &Rc<Worker>,
    keyspace: Arc<str>,
    (head, came): (http::request::Parts, Came),
    common_name: Option<&CommonName>,
    mut respond: SendResponse<Payload>,
) {
    let worker = Rc::clone(worker);
    let common_name = authority::common_name_of(&head.headers, common_name).cloned();
    tokio::task::spawn_local(async move {
        let Some(_place) = worker.relays.place(&worker.setting.limits.relays) else {
            return worker.prebuilt.refuse(&mut respond, &Status::busy());
        };
        let call = Call {
            worker: &worker,
            head: head_for(&head, &keyspace, common_name.as_ref()),
            keyspace,
            body: RefCell::new(Body::new(came, worker.setting.limits.relays.replay_bytes)),
        };
        worker.setting.metrics.relay.calls.inc();
        let relayed = call.relay(&mut respond);
        let take_in = |context: &mut Context<'_>| call.body.borrow_mut().take_in(context);
        match intake::wait(relayed, take_in).await {
            Ok(()) | Err(Failure::GivenUp) => {}
            Err(Failure::Refused(error)) => {
                worker.setting.metrics.relay.failures.inc();
                worker.prebuilt.refuse(&mut respond, &Status::from(&error));
            }
        }
    });
}

/// The head of the call for the other node.
fn head_for(
    head: &http::request::Parts,
    keyspace: &str,
    common_name: Option<&CommonName>,
) -> Request<()> {
    let path = head.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme("http").authority("node");
    let uri = uri.path_and_query(path).build();
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri.expect("its parts are valid");
    let headers = request.headers_mut();
    *headers = head.headers.clone();
    headers.remove(http::header::HOST);
    headers.remove(COMMON_NAME);
    headers.remove(KEYSPACE);
    if let Ok(keyspace) = HeaderValue::from_str(keyspace) {
        headers.insert(KEYSPACE, keyspace);
    }
    if let Some(name) = common_name {
        say_common_name(headers, name);
    }
    request
}

/// Why a call has no answer of another node.
enum Failure {
    /// The client does not wait any more.
    GivenUp,
    /// The client is told this.
    Refused(etcd::Error),
}

impl From<etcd::Error> for Failure {
    fn from(error: etcd::Error) -> Failure {
        Failure::Refused(error)
    }
}

/// What came of asking one node.
enum Attempt {
    /// The call has been answered to its end.
    Answered,
    /// It has certainly not been begun there.
    NotBegun,
}

/// A call that is being relayed.
struct Call<'a> {
    worker: &'a Rc<Worker>,
    keyspace: Arc<str>,
    head: Request<()>,
    body: RefCell<Body>,
}

impl Call<'_> {
    /// Asks one node after the other until one serves the call, as long as there is patience.
    async fn relay(&self, respond: &mut SendResponse<Payload>) -> Result<(), Failure> {
        let limits = &self.worker.setting.limits.relays;
        let until = Instant::now() + limits.patience;
        loop {
            // Looked up each time: the keyspace may have moved.
            let keyspaces = self.worker.setting.calls.keyspaces();
            let holders = match keyspaces.find(Some(&self.keyspace))? {
                Found::Elsewhere(holders) => holders,
                // It has come here meanwhile. The call is carried on all the same, to the others;
                // if there are none, the client's next try is served here.
                Found::Here(_) => match keyspaces.others(&self.keyspace) {
                    others if others.is_empty() => {
                        return Err(etcd::Error::KeyspaceElsewhere.into());
                    }
                    others => others,
                },
            };
            for holder in self.in_order(&holders) {
                match self.ask(&holder.address, respond).await? {
                    Attempt::Answered => return Ok(()),
                    Attempt::NotBegun if self.body.borrow().can_be_repeated() => {}
                    Attempt::NotBegun => return Err(etcd::Error::KeyspaceElsewhere.into()),
                }
            }
            if Instant::now() >= until {
                return Err(etcd::Error::KeyspaceUnreachable.into());
            }
            tokio::select! {
                () = sleep(limits.pause) => {}
                () = given_up(respond) => return Err(Failure::GivenUp),
            }
        }
    }

    /// In which order nodes are asked: in turn, and last those that could not be reached of late.
    fn in_order<'h>(&self, holders: &'h [Holder]) -> Vec<&'h Holder> {
        let relays = &self.worker.relays;
        let limits = &self.worker.setting.limits.relays;
        let turn = relays.turn.get().wrapping_add(1);
        relays.turn.set(turn);
        let first = turn % holders.len().max(1);
        let mut order: Vec<&Holder> = holders[first..].iter().chain(&holders[..first]).collect();
        order.sort_by_key(|holder| {
            let link = relays.link(&holder.address);
            link.has_failed_within(limits.avoided)
        });
        order
    }

    /// Asks one node.
    async fn ask(
        &self,
        address: &str,
        respond: &mut SendResponse<Payload>,
    ) -> Result<Attempt, Failure> {
        let connected = tokio::select! {
            connected = connect(self.worker, address) => connected,
            () = given_up(respond) => return Err(Failure::GivenUp),
        };
        let Some(mut requests) = connected else {
            return Ok(Attempt::NotBegun);
        };
        let Ok((answer, send)) = requests.send_request(self.head.clone(), false) else {
            return Ok(Attempt::NotBegun);
        };
        let sending = send_body(&self.body, send);
        tokio::pin!(sending, answer);
        let mut is_sent = false;
        let response = loop {
            tokio::select! {
                biased;
                answer = &mut answer => break answer,
                () = &mut sending, if !is_sent => is_sent = true,
                () = given_up(respond) => return Err(Failure::GivenUp),
            }
        };
        let response = response.map_err(|error| {
            tracing::debug!(%error, address, "a call that was relayed has no answer");
            etcd::Error::KeyspaceLost
        })?;
        if response.headers().contains_key(NOT_HERE) {
            return Ok(Attempt::NotBegun);
        }
        self.body.borrow_mut().kept = None;
        let receiving = receive(response, respond);
        tokio::pin!(receiving);
        loop {
            tokio::select! {
                biased;
                () = &mut receiving => return Ok(Attempt::Answered),
                () = &mut sending, if !is_sent => is_sent = true,
            }
        }
    }
}

/// What a client sends, and what of it is kept in case that another node has to be asked.
struct Body {
    /// Read before the call was relayed, and not sent on yet; the next one is the last.
    come: Vec<Bytes>,
    /// `None` once all has come.
    stream: Option<Intake>,
    /// All that has come; `None` once it is too much, or not needed any more.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
    most_bytes: usize,
    has_ended: bool,
    has_failed: bool,
}

impl Body {
    fn new(came: Came, most_bytes: usize) -> Body {
        let Came { mut pieces, rest } = came;
        pieces.reverse();
        Body {
            come: pieces,
            stream: rest.map(Intake::new),
            kept: Some(Vec::new()),
            kept_bytes: 0,
            most_bytes,
            has_ended: false,
            has_failed: false,
        }
    }

    fn can_be_repeated(&self) -> bool {
        self.kept.is_some() && !self.has_failed
    }

    /// Keeps a piece in case that it has to be sent again.
    fn keep(&mut self, piece: Bytes) -> Bytes {
        self.kept_bytes += piece.len();
        if self.kept_bytes > self.most_bytes {
            self.kept = None;
        }
        if let Some(kept) = &mut self.kept {
            kept.push(piece.clone());
        }
        piece
    }

    /// Takes in what has come, since nobody reads it now.
    fn take_in(&mut self, context: &mut Context<'_>) {
        if let Some(stream) = &mut self.stream {
            stream.take_in(context);
        }
    }

    /// The next piece of what comes; `None` at the end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if let Some(piece) = self.come.pop() {
            return Poll::Ready(Some(self.keep(piece)));
        }
        let Some(stream) = &mut self.stream else {
            self.has_ended = true;
            return Poll::Ready(None);
        };
        match std::task::ready!(stream.poll_data(context)) {
            Some(Ok(piece)) => Poll::Ready(Some(self.keep(piece))),
            end => {
                self.has_ended = true;
                self.has_failed = end.is_some();
                Poll::Ready(None)
            }
        }
    }
}

/// Sends what the client sends: first what another node was sent already, then what comes.
async fn send_body(body: &RefCell<Body>, mut send: SendStream<Bytes>) {
    // Taken along: nothing is kept any more once the answer begins, which may be before all of it
    // has been sent again.
    let mut again = body.borrow().kept.clone().unwrap_or_default().into_iter();
    loop {
        let piece = match again.next() {
            Some(piece) => Some(piece),
            None => std::future::poll_fn(|context| body.borrow_mut().poll(context)).await,
        };
        let Some(piece) = piece else {
            break;
        };
        if send_all(&mut send, piece).await.is_err() {
            // The answer says why.
            return;
        }
    }
    if body.borrow().has_failed {
        return send.send_reset(h2::Reason::CANCEL);
    }
    // A node that has gone needs no end.
    let _ = send.send_data(Bytes::new(), true);
}

/// Sends a piece at the speed at which the other node takes it.
async fn send_all(send: &mut SendStream<Bytes>, mut piece: Bytes) -> Result<(), Gone> {
    while !piece.is_empty() {
        send.reserve_capacity(piece.len());
        if send.capacity() == 0 {
            let capacity = std::future::poll_fn(|context| send.poll_capacity(context)).await;
            if !matches!(capacity, Some(Ok(_))) {
                return Err(Gone);
            }
        }
        let part = piece.split_to(send.capacity().min(piece.len()));
        if !part.is_empty() && send.send_data(part, false).is_err() {
            return Err(Gone);
        }
    }
    Ok(())
}

/// Gives the client what the other node answers, at the speed at which he takes it.
async fn receive(response: Response<RecvStream>, respond: &mut SendResponse<Payload>) {
    let (head, body) = response.into_parts();
    let ends = body.is_end_stream();
    let mut body = Intake::new(body);
    let Ok(mut send) = respond.send_response(Response::from_parts(head, ()), ends) else {
        return;
    };
    if ends {
        return;
    }
    loop {
        let next = std::future::poll_fn(|context| match send.poll_reset(context) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => body.poll_data(context).map(Some),
        });
        match next.await {
            // The client has given up; dropping what is held here tells the other node.
            None => return,
            Some(Some(Ok(piece))) => {
                let sent = send_piece(&mut send, piece);
                if intake::wait(sent, |context| body.take_in(context))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Some(Some(Err(error))) => {
                tracing::debug!(%error, "an answer that is relayed has ended before its end");
                let status = Status::from(&etcd::Error::KeyspaceLost);
                // The client may have gone too.
                let _ = send.send_trailers(status.headers());
                return;
            }
            Some(None) => break,
        }
    }
    // Either may have gone.
    let trailers = body.trailers().await.ok().flatten();
    let unknown = || Status::from(&etcd::Error::KeyspaceLost).headers();
    let _ = send.send_trailers(trailers.unwrap_or_else(unknown));
}

/// Waits until the client does not wait any more.
async fn given_up(respond: &mut SendResponse<Payload>) {
    // Why does not matter.
    let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
}

/// The connection to a node, a new one if there is none; `None` if it cannot be had now.
async fn connect(worker: &Rc<Worker>, address: &str) -> Option<SendRequest<Bytes>> {
    let link = worker.relays.link(address);
    let limits = &worker.setting.limits.relays;
    // One connects, and the others wait for that.
    let mut requests = link.requests.lock().await;
    if let Some(old) = requests.take()
        && let Ok(ready) = old.ready().await
    {
        *requests = Some(ready.clone());
        return Some(ready);
    }
    if link.has_failed_within(limits.pause) {
        return None;
    }
    match timeout(limits.connect_timeout, open(worker, address)).await {
        Ok(Ok(new)) => {
            link.failed_at.set(None);
            *requests = Some(new.clone());
            Some(new)
        }
        failed => {
            let error = failed.map(|opened| opened.err());
            tracing::debug!(
                ?error,
                address,
                "a node cannot be reached for its keyspaces"
            );
            link.failed_at.set(Some(Instant::now()));
            None
        }
    }
}

/// Connects to a node, and drives the connection in a task of its own.
async fn open(worker: &Rc<Worker>, address: &str) -> std::io::Result<SendRequest<Bytes>> {
    let limits = &worker.setting.limits.relays;
    let stream = worker.setting.asker.open_relay(address).await?;
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        // The other side is a node. What it sends of calls that were given up meanwhile is no
        // attack, nor are short pieces: those that wait are taken in.
        .max_local_error_reset_streams(None)
        .data_frame_budget(usize::MAX);
    let handshake = builder.handshake::<_, Bytes>(stream).await;
    let (requests, mut connection) = handshake.map_err(std::io::Error::other)?;
    let pings = connection.ping_pong();
    let limits = limits.clone();
    tokio::task::spawn_local(async move {
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to another node failed");
                }
            }
            () = probe(pings, &limits) => {
                tracing::debug!("another node does not answer; its connection is given up");
            }
        }
    });
    requests.ready().await.map_err(std::io::Error::other)
}

/// Returns when the other node does not answer.
async fn probe(pings: Option<PingPong>, limits: &RelayLimits) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        sleep(limits.probe_interval).await;
        let answered = timeout(limits.probe_timeout, pings.ping(Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
