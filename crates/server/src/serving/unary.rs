//! Calls with one request and one answer: the hot ones of etcd's key-value service.
//!
//! What a request means is known to the `etcd` crate alone, and who answers it to the node; here
//! the messages are taken out of their frames and put back into others.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use etcd::auth::Caller;
use etcd::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use h2::RecvStream;
use h2::server::SendResponse;
use http::HeaderMap;
use node::{Answer, Call};
use prost::Message as _;
use tokio::time::Instant;

use super::grpc::{self, Answered, Deframer, Payload, Status};
use super::prefixed::{self, Unplaced};
use super::worker::{Reply, Worker};
use crate::calls::as_caller;
use crate::keyspace::{self, BY_PREFIX, Found};
use crate::metrics::CountedCall;
use crate::tls::CommonName;

/// A call that is served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
}

impl Method {
    /// All of them, in order.
    pub(super) const ALL: [Method; 4] =
        [Method::Range, Method::Put, Method::DeleteRange, Method::Txn];

    /// gRPC's path.
    pub(super) fn path(self) -> &'static str {
        match self {
            Method::Range => "/etcdserverpb.KV/Range",
            Method::Put => "/etcdserverpb.KV/Put",
            Method::DeleteRange => "/etcdserverpb.KV/DeleteRange",
            Method::Txn => "/etcdserverpb.KV/Txn",
        }
    }

    /// The method behind a path, if it is one of these.
    pub(super) fn of(path: &str) -> Option<Method> {
        match path.strip_prefix("/etcdserverpb.KV/")? {
            "Range" => Some(Method::Range),
            "Put" => Some(Method::Put),
            "DeleteRange" => Some(Method::DeleteRange),
            "Txn" => Some(Method::Txn),
            _ => None,
        }
    }

    /// What the client asks for.
    fn decode(self, message: Bytes) -> Result<etcd::Request, Status> {
        let request = match self {
            Method::Range => RangeRequest::decode(message).map(etcd::Request::Range),
            Method::Put => PutRequest::decode(message).map(etcd::Request::Put),
            Method::DeleteRange => {
                DeleteRangeRequest::decode(message).map(etcd::Request::DeleteRange)
            }
            Method::Txn => TxnRequest::decode(message).map(etcd::Request::Txn),
        };
        request.map_err(|error| {
            Status::with_text(
                etcd::Code::Internal,
                format!("failed to decode Protobuf message: {error}"),
            )
        })
    }

    /// What the client is told.
    pub(super) fn encode(self, answer: Answer, large_bytes: usize) -> Result<Answered, Status> {
        use etcd::Response;
        let Answer::Etcd(result) = answer else {
            return Err(Status::mismatch());
        };
        match (self, result.map_err(|error| Status::from(&error))?) {
            (Method::Range, Response::Range(response)) => grpc::answer(response, large_bytes),
            (Method::Put, Response::Put(response)) => grpc::answer(response, large_bytes),
            (Method::DeleteRange, Response::DeleteRange(response)) => {
                grpc::answer(response, large_bytes)
            }
            (Method::Txn, Response::Txn(response)) => grpc::answer(response, large_bytes),
            _ => Err(Status::mismatch()),
        }
    }
}

/// A call whose message is still arriving.
struct Arriving {
    method: Method,
    body: RecvStream,
    respond: SendResponse<Payload>,
    deframer: Deframer,
    message: Option<Bytes>,
    deadline: Option<Instant>,
    caller: Result<Option<Arc<Caller>>, Status>,
    keyspace: Option<Arc<str>>,
    /// What is needed to serve it elsewhere, if its keys may choose the keyspace.
    unplaced: Option<Box<Unplaced>>,
    /// Another node has found out by the keys that they are of this keyspace.
    is_by_prefix: bool,
    counted: CountedCall,
}

/// Takes in a call. Nearly always its whole message has come along with its head; if not, a task
/// waits for the rest.
pub(super) fn begin(
    worker: &Rc<Worker>,
    method: Method,
    headers: &HeaderMap,
    common_name: Option<&CommonName>,
    body: RecvStream,
    respond: SendResponse<Payload>,
) {
    let longest = worker.setting.limits.receive_bytes;
    let deadline = grpc::time_allowed(headers)
        .filter(|allowed| *allowed < worker.setting.limits.longest_call)
        .map(|allowed| Instant::now() + allowed);
    let keyspace = keyspace::named(headers);
    let unplaced = match keyspace {
        None => Unplaced::new(worker, headers, common_name),
        Some(_) => None,
    };
    let is_by_prefix = keyspace.is_some() && headers.contains_key(BY_PREFIX);
    let mut arriving = Arriving {
        method,
        body,
        respond,
        deframer: Deframer::new(longest),
        message: None,
        deadline,
        caller: worker.caller(headers, common_name),
        keyspace,
        unplaced,
        is_by_prefix,
        counted: worker.count(method),
    };
    match arriving.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => finish(worker, arriving, result),
        Poll::Pending => {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                // A client that resets the stream ends this too, as does its connection.
                let rest = std::future::poll_fn(|context| arriving.poll(context));
                let patience = worker.setting.limits.message_timeout;
                let rest = tokio::time::timeout(patience, rest).await;
                let result = rest.unwrap_or_else(|_| Err(Some(Status::too_slow())));
                finish(&worker, arriving, result);
            });
        }
    }
}

impl Arriving {
    /// Ready once the request has ended, with its message.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Option<Status>>> {
        loop {
            if self.message.is_none() {
                self.message = self.deframer.next().map_err(Some)?;
            }
            match self.body.poll_data(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(bytes))) => {
                    // Failing means that the stream is gone, which the next poll will say.
                    let _ = self.body.flow_control().release_capacity(bytes.len());
                    if self.message.is_none() {
                        self.deframer.push(bytes);
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(None)),
                Poll::Ready(None) => {
                    let missing = || {
                        let code = etcd::Code::Internal.number();
                        Some(Status::new(code, "Missing request message."))
                    };
                    return Poll::Ready(self.message.take().ok_or_else(missing));
                }
            }
        }
    }
}

/// Hands a call to the node, or says why not; if there is no status, nobody listens.
fn finish(worker: &Rc<Worker>, arriving: Arriving, result: Result<Bytes, Option<Status>>) {
    let Arriving {
        method,
        mut respond,
        deadline,
        caller,
        mut keyspace,
        unplaced,
        mut is_by_prefix,
        mut counted,
        ..
    } = arriving;
    let message = match result {
        Ok(message) => message,
        Err(Some(status)) => {
            counted.end(status.code);
            return worker.prebuilt.refuse(&mut respond, &status);
        }
        Err(None) => return,
    };
    // Kept only where it may have to be sent on.
    let unplaced = unplaced.map(|unplaced| (unplaced, message.clone()));
    let mut request = method.decode(message);
    if let (Some((unplaced, message)), Ok(asked)) = (unplaced, &request) {
        match prefixed::place(worker, asked) {
            Ok(None) => {
                if unplaced.needs_leader() && !worker.setting.calls.keyspaces().is_led() {
                    request = Err(Status::from(&etcd::Error::NoLeader));
                }
            }
            Ok(Some((name, Found::Here(_)))) => {
                (keyspace, is_by_prefix) = (Some(name), true);
            }
            Ok(Some((name, Found::Elsewhere(_)))) => {
                // Its outcome is counted where it is served.
                counted.end(0);
                return unplaced.relay(worker, name, method, message, respond);
            }
            Err(status) => request = Err(status),
        }
    }
    let leased = match (&request, &keyspace, &caller) {
        (Ok(request), Some(keyspace), Ok(caller)) if is_by_prefix => {
            let leases = etcd::leases_of(request);
            (!leases.is_empty()).then(|| (Arc::clone(keyspace), caller.clone(), leases))
        }
        _ => None,
    };
    let call = caller.and_then(|caller| {
        let call = as_caller(caller, Call::Etcd(request?));
        Ok(keyspace::within(keyspace, call))
    });
    match call {
        Ok(call) => {
            let reply = Reply::Unary {
                method,
                respond,
                counted,
            };
            match leased {
                None => worker.ask(call, reply, deadline),
                Some(leased) => prefixed::ask_leased(worker, leased, call, reply, deadline),
            }
        }
        Err(status) => {
            counted.end(status.code);
            worker.prebuilt.refuse(&mut respond, &status);
        }
    }
}
