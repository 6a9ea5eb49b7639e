//! The keyspace that the keys of a request choose, where its client names none.
//!
//! ```text
//!   put, range, delete, txn: the message ──▶ one keyspace ─▶ served there, here or on another node
//!                                       └──▶ two ─▶ refused, with their names
//!   watches: the first message of the stream ─▶ one keyspace, for all of the stream
//! ```
//!
//! A stream of watches is in one keyspace: what it says of progress is one revision for all its
//! watches, and each keyspace counts its own. So the first watch chooses, and one that belongs
//! elsewhere is refused ([`super::watching`]); clients that watch under several prefixes open a
//! stream for each. A stream that says nothing for a moment is one of the default keyspace.
//!
//! Where no prefix leads anywhere, which is nearly always, a call costs one look at a flag.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use etcd::auth::Caller;
use etcd::proto::etcdserverpb::WatchRequest;
use etcd::proto::etcdserverpb::watch_request::RequestUnion;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request};
use node::Call;
use prost::Message as _;
use tokio::time::{Instant, timeout};

use super::demands;
use super::grpc::{Deframer, Payload, Status};
use super::relaying::{self, Came};
use super::unary::Method;
use super::visited::Traffic;
use super::watching;
use super::worker::{Reply, Worker};
use crate::keyspace::{self, BY_PREFIX, Found, KEYSPACE};
use crate::listeners::Source;
use crate::tied;
use crate::tls::CommonName;

/// How long a stream may say nothing before it is one of the default keyspace.
const FIRST_MESSAGE: Duration = Duration::from_secs(1);

/// What is needed to have a call served on another node, if its keys say so.
pub(super) struct Unplaced {
    headers: HeaderMap,
    common_name: Option<CommonName>,
}

impl Unplaced {
    /// Whether it is not to be served without a leader.
    pub(super) fn needs_leader(&self) -> bool {
        demands::needs_leader(&self.headers)
    }

    /// `None` if no prefix leads anywhere.
    pub(super) fn new(
        worker: &Worker,
        headers: &HeaderMap,
        common_name: Option<&CommonName>,
    ) -> Option<Box<Unplaced>> {
        worker.setting.calls.keyspaces().has_routes().then(|| {
            Box::new(Unplaced {
                headers: headers.clone(),
                common_name: common_name.cloned(),
            })
        })
    }

    /// Has the call served by a node that holds the keyspace.
    pub(super) fn relay(
        self,
        worker: &Rc<Worker>,
        keyspace: Arc<str>,
        method: Method,
        message: Bytes,
        respond: SendResponse<Payload>,
    ) {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(method.path());
        *request.headers_mut() = self.headers;
        let headers = request.headers_mut();
        headers.insert(BY_PREFIX, HeaderValue::from_static("1"));
        let (head, ()) = request.into_parts();
        let came = Came {
            pieces: Payload::message(message).into_parts().into(),
            rest: None,
        };
        let common_name = self.common_name.as_ref();
        relaying::begin_with(worker, keyspace, (head, came), common_name, respond);
    }
}

/// The keyspace that the keys of a request choose, and where that is; `None` is the default one.
///
/// # Errors
/// What the client is told whose request is about two, or about one that is not known here yet.
pub(super) fn place(
    worker: &Worker,
    request: &etcd::Request,
) -> Result<Option<(Arc<str>, Found)>, Status> {
    let keyspaces = worker.setting.calls.keyspaces();
    let chosen = keyspaces
        .route(request)
        .map_err(|astray| Status::with_text(astray.code(), astray.text()))?;
    let Some(name) = chosen else {
        return Ok(None);
    };
    let found = keyspaces.find(Some(&name));
    let found = found.map_err(|error| Status::from(&error))?;
    Ok(Some((name, found)))
}

/// Asks for what attaches keys to leases of the default keyspace, once the keyspace of the keys
/// follows those. That is rare where many keys go with a lease, and costs a read round and at most
/// one entry of the log.
pub(super) fn ask_leased(
    worker: &Rc<Worker>,
    (keyspace, caller, leases): (Arc<str>, Option<Arc<Caller>>, Vec<i64>),
    call: Call,
    mut reply: Reply,
    deadline: Option<Instant>,
) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let calls = worker.setting.calls.within(keyspace);
        let over = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let followed = tokio::select! {
            followed = tied::follow(&calls, caller, &leases) => followed,
            () = over => Err(Status::too_late()),
            () = reply.given_up() => return,
        };
        match followed {
            Ok(()) => worker.ask(call, reply, deadline),
            Err(status) => worker.refuse(reply, status),
        }
    });
}

/// Whether calls of this path may be about a keyspace that only their keys name.
pub(super) fn is_placed_by_keys(path: &str) -> bool {
    Method::of(path).is_some() || path == watching::PATH
}

/// Whether the first message of a stream chooses its keyspace.
pub(super) fn may_choose(worker: &Worker, source: Source, head: &http::request::Parts) -> bool {
    source != Source::Peer
        && head.uri.path() == watching::PATH
        && keyspace::named(&head.headers).is_none()
        && worker.setting.calls.keyspaces().has_routes()
}

/// A stream of watches that is to be opened.
pub(super) struct Opening {
    pub(super) service: usize,
    pub(super) traffic: Rc<Traffic>,
    pub(super) head: http::request::Parts,
    pub(super) common_name: Option<CommonName>,
}

/// Opens a stream of watches where its first message belongs, in a task of its own.
pub(super) fn begin_watch(
    worker: &Rc<Worker>,
    opening: Opening,
    mut body: RecvStream,
    mut respond: SendResponse<Payload>,
) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let longest = worker.setting.limits.receive_bytes;
        let mut pieces = Vec::new();
        let first = first_message(&mut body, &mut pieces, longest);
        let first = tokio::select! {
            first = timeout(FIRST_MESSAGE, first) => first.unwrap_or(Ok(None)),
            // The client has given up.
            _ = std::future::poll_fn(|context| respond.poll_reset(context)) => return,
        };
        let first = match first {
            Ok(first) => first,
            Err(status) => return worker.prebuilt.refuse(&mut respond, &status),
        };
        let Opening {
            service,
            traffic,
            mut head,
            common_name,
        } = opening;
        let common_name = common_name.as_ref();
        if let Some((name, found)) = first.and_then(|first| place_of_watch(&worker, first)) {
            head.headers
                .insert(BY_PREFIX, HeaderValue::from_static("1"));
            if let Found::Elsewhere(_) = found {
                let rest = Some(body);
                let came = Came { pieces, rest };
                return relaying::begin_with(&worker, name, (head, came), common_name, respond);
            }
            if let Ok(name) = HeaderValue::from_str(&name) {
                head.headers.insert(KEYSPACE, name);
            }
        }
        let come = (joined(pieces), body);
        worker.open_stream(service, &head.headers, common_name, traffic, come, respond);
    });
}

/// The first message of a stream, whose bytes go to `pieces`; `None` if there is none.
async fn first_message(
    body: &mut RecvStream,
    pieces: &mut Vec<Bytes>,
    longest: usize,
) -> Result<Option<Bytes>, Status> {
    let mut deframer = Deframer::new(longest);
    loop {
        if let Some(message) = deframer.next()? {
            return Ok(Some(message));
        }
        let Some(Ok(piece)) = body.data().await else {
            return Ok(None);
        };
        // Failing means that the stream is gone, which the next read will say.
        let _ = body.flow_control().release_capacity(piece.len());
        deframer.push(piece.clone());
        pieces.push(piece);
    }
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    all.freeze()
}

/// Where a watch belongs, other than to the default keyspace. One that belongs nowhere is refused
/// by the stream that it is on.
fn place_of_watch(worker: &Worker, message: Bytes) -> Option<(Arc<str>, Found)> {
    let request = WatchRequest::decode(message).ok()?;
    let Some(RequestUnion::CreateRequest(create)) = request.request_union else {
        return None;
    };
    let keyspaces = worker.setting.calls.keyspaces();
    let name = keyspaces.route_watch(&create).ok()??;
    let found = keyspaces.find(Some(&name)).ok()?;
    Some((name, found))
}
