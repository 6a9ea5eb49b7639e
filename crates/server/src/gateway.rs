//! The JSON gateway: etcd's calls for those who have HTTP and JSON, and no gRPC.
//!
//! ```text
//!   POST /v3/kv/range ── JSON ──▶ message ──▶ ┌──────┐ ── gRPC, in memory ──▶ a worker, as any
//!                     ◀─ JSON ── message ◀── │ link │ ◀───────────────────── client's connection
//!                                             └──────┘
//! ```
//!
//! What a path means is a row of a table ([`paths`]); how its messages look in JSON is read from
//! the descriptors of the protocol's definitions ([`json`]), not from code made for each of them.
//! A call then takes the way of every client's calls: over a connection to this same server, which
//! lies in memory ([`link`]). So whatever gRPC serves is served here without further work: the hot
//! calls and streams of the workers, the services of the router, and "unimplemented" for the rest.
//!
//! Whatever a path serves is served over a websocket as well ([`websocket`]).
//!
//! Errors have all the fields that the gateway of etcd has had over its versions, since clients of
//! each are in use.

mod json;
mod link;
mod paths;
#[cfg(test)]
mod tests;
mod websocket;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body::Body as _;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::cors;
use crate::keyspace::KEYSPACE;
use crate::limits::ClientLimits;
use crate::listeners::Source;
use crate::node_loop::Phase;
use crate::serving::{Status, Workers};
use json::Objects;
use link::{Answers, Link, Questions};

/// The paths that are the gateway's, for a router.
pub(crate) const ROUTE: &str = "/v3/{*call}";

/// Serves JSON; cloning shares the connection.
#[derive(Clone)]
pub(crate) struct Gateway(Arc<Inner>);

struct Inner {
    pool: DescriptorPool,
    limits: ClientLimits,
    link: Link,
    /// A permit for each byte of texts that are held.
    held: Arc<Semaphore>,
    /// Of pages that may open websockets.
    origins: Box<[String]>,
    /// How far the node has come.
    phases: watch::Receiver<Phase>,
}

/// Makes calls of this server's own; cloning shares the connection. No client's call goes over it,
/// so what is said there of a client's certificate is true.
#[derive(Clone)]
pub(crate) struct OwnCalls(Arc<Link>);

impl OwnCalls {
    /// The connection is driven by the runtime that this is called in.
    pub(crate) fn new(limits: &ClientLimits) -> OwnCalls {
        OwnCalls(Arc::new(Link::new(limits, Source::Itself)))
    }

    /// Says who serves them.
    pub(crate) fn attach(&self, workers: &Workers) {
        self.0.attach(workers);
    }

    /// A call with one message each way.
    ///
    /// # Errors
    /// As it was answered.
    pub(crate) async fn call(
        &self,
        path: &str,
        headers: HeaderMap,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let call = self.0.open(path, headers).await?;
        answered(call, message).await
    }
}

/// The one answer to one message.
async fn answered(
    (mut questions, mut answers): (Questions, Answers),
    message: Bytes,
) -> Result<Bytes, Status> {
    questions.send(message, true).await?;
    let answer = answers.next().await?;
    let Some(answer) = answer else {
        return Err(Status::new(
            INTERNAL,
            "the call has ended without an answer",
        ));
    };
    // The end says whether it is one.
    if answers.next().await?.is_some() {
        return Err(Status::new(INTERNAL, "the call has more than one answer"));
    }
    Ok(answer)
}

impl Gateway {
    /// A gateway whose connection is driven by the runtime that this is called in.
    pub(crate) fn new(
        limits: &ClientLimits,
        origins: &[String],
        phases: watch::Receiver<Phase>,
    ) -> Gateway {
        let pool = DescriptorPool::decode(etcd::FILE_DESCRIPTOR_SET)
            .expect("the definitions are checked when they are compiled");
        Gateway(Arc::new(Inner {
            pool,
            limits: limits.clone(),
            link: Link::new(limits, Source::Gateway),
            held: Arc::new(Semaphore::new(limits.gateway_held_bytes)),
            origins: origins.into(),
            phases,
        }))
    }

    /// Says who serves its calls.
    pub(crate) fn attach(&self, workers: &Workers) {
        self.0.link.attach(workers);
    }

    /// Serves one request of HTTP.
    ///
    /// Browsers let every page send requests anywhere, and tell only which page it is. So a page is
    /// let in where its origin is named (see [`crate::cors`]); programs name none, and are.
    pub(crate) async fn serve(self, request: Request) -> Response {
        let headers = request.headers();
        if headers.contains_key(header::ORIGIN) && cors::allowed(&self.0.origins, headers).is_none()
        {
            let reason = "pages of this origin are not let in (see --cors)\n";
            return (StatusCode::FORBIDDEN, reason).into_response();
        }
        // Connections of gRPC wait for that. Who speaks JSON has nobody who would look for another
        // node meanwhile, and is told what a node says that is further behind.
        if *self.0.phases.borrow() == Phase::Starting {
            return refuse(&Status::from(&etcd::Error::NoLeader));
        }
        if websocket::is_asked_for(request.headers()) {
            return websocket::serve(self, request).await;
        }
        self.serve_plainly(request).await
    }

    async fn serve_plainly(self, request: Request) -> Response {
        match self.answer(request).await {
            Ok(response) => response,
            Err(status) => refuse(&status),
        }
    }

    async fn answer(&self, request: Request) -> Result<Response, Status> {
        let path = request.uri().path();
        let Some(called) = paths::find(path) else {
            return Err(Status::new(NOT_FOUND, "Not Found"));
        };
        if request.method() != Method::POST {
            return Err(Status::new(UNIMPLEMENTED, "Method Not Allowed"));
        }
        let Some(method) = self.method(&called) else {
            let text = "the call is not served here";
            return Err(Status::new(UNIMPLEMENTED, text));
        };
        let (head, body) = request.into_parts();
        let longest = self.0.limits.header_bytes as usize;
        let metadata = metadata(&head.headers, longest.saturating_sub(OWN_BYTES))?;
        let path = called.grpc_path();
        if method.is_client_streaming() || method.is_server_streaming() {
            let call = self.0.link.open(&path, metadata).await?;
            self.stream(&method, call, body).await
        } else {
            self.unary(&method, (&path, metadata), body).await
        }
    }

    fn method(&self, called: &paths::Called) -> Option<MethodDescriptor> {
        let service = self.0.pool.get_service_by_name(called.service)?;
        service
            .methods()
            .find(|method| method.name() == called.method)
    }

    /// A call with one message each way. It is opened once its text is there: a client that sends
    /// nothing takes no place.
    async fn unary(
        &self,
        method: &MethodDescriptor,
        (path, metadata): (&str, HeaderMap),
        body: Body,
    ) -> Result<Response, Status> {
        // What is made of the text is held as long as the call is under way.
        let (text, _held) = self.whole(body).await?;
        let message = json::to_message(method.input(), &text)?;
        drop(text);
        let call = self.0.link.open(path, metadata).await?;
        let answer = answered(call, message).await?;
        let text = json::from_message(method.output(), answer)?;
        Ok(json_response(StatusCode::OK, text.into()))
    }

    /// The body of a request, if it arrives in time and is not too long, and its permits.
    async fn whole(&self, body: Body) -> Result<(BytesMut, OwnedSemaphorePermit), Status> {
        match timeout(self.0.limits.body_timeout, self.gather(body)).await {
            Ok(gathered) => gathered,
            Err(_) => Err(Status::new(
                DEADLINE_EXCEEDED,
                "the request did not arrive in time",
            )),
        }
    }

    /// Permits are taken for what has arrived, not for what is announced: whoever sends nothing
    /// must not keep others from sending. Calls that wait for each other's permits give up.
    async fn gather(&self, body: Body) -> Result<(BytesMut, OwnedSemaphorePermit), Status> {
        let limits = &self.0.limits;
        let longest = limits.gateway_text_bytes.min(limits.gateway_held_bytes);
        let refused = || {
            Status::with_text(
                etcd::Code::ResourceExhausted,
                format!("the request is broken, or longer than {longest} bytes"),
            )
        };
        let mut pieces = body.into_data_stream();
        let mut text = BytesMut::new();
        let mut held = self.hold(0).await?;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|_| refused())?;
            if piece.len() > longest - text.len() {
                return Err(refused());
            }
            held.merge(self.hold(piece.len()).await?);
            text.extend_from_slice(&piece);
        }
        Ok((text, held))
    }

    /// Permits for so many bytes, once there are some.
    async fn hold(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let turn = Arc::clone(&self.0.held).acquire_many_owned(bytes);
        match timeout(self.0.limits.turn_timeout, turn).await {
            Ok(Ok(held)) => Ok(held),
            Ok(Err(_)) | Err(_) => Err(Status::busy()),
        }
    }

    /// A call with many messages, one way or both. The answer begins with the first message, as
    /// its status of HTTP depends on that.
    async fn stream(
        &self,
        method: &MethodDescriptor,
        (questions, answers): (Questions, Answers),
        body: Body,
    ) -> Result<Response, Status> {
        let forwarding = Forwarding {
            gateway: self.clone(),
            body,
            objects: Objects::new(self.0.limits.gateway_text_bytes),
            input: method.input(),
            takes_many: method.is_client_streaming(),
        };
        // On its own: a client that takes no answers must not keep what he has begun to ask.
        let mut sending = JoinSet::new();
        sending.spawn(forwarding.run(questions));
        let mut exchange = Exchange {
            sending,
            answers,
            output: method.output(),
            has_ended: false,
        };
        let first = match exchange.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(json_response(StatusCode::OK, Body::empty())),
            Err(status) => {
                let line = json::stream_error(&status);
                return Ok(json_response(http_status(status.code), line.into()));
            }
        };
        let lines = futures_util::stream::unfold((Some(first), exchange), next_line);
        Ok(json_response(StatusCode::OK, Body::from_stream(lines)))
    }
}

async fn next_line(
    (first, mut exchange): (Option<Bytes>, Exchange),
) -> Option<(Result<Bytes, Infallible>, (Option<Bytes>, Exchange))> {
    if let Some(first) = first {
        return Some((Ok(first), (None, exchange)));
    }
    if exchange.has_ended {
        return None;
    }
    let line = match exchange.next().await {
        Ok(line) => line?,
        Err(status) => {
            exchange.has_ended = true;
            json::stream_error(&status)
        }
    };
    Some((Ok(line), (None, exchange)))
}

/// A streaming call under way. Dropping it gives the call up.
struct Exchange {
    /// Sends what the client asks; empty once all is sent.
    sending: JoinSet<Result<(), Status>>,
    answers: Answers,
    output: MessageDescriptor,
    has_ended: bool,
}

impl Exchange {
    /// The next line of the answer; `None` at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let answer = tokio::select! {
                answer = self.answers.next() => answer?,
                Some(sent) = self.sending.join_next() => {
                    let failed = |_| Status::new(INTERNAL, "the request was not sent to its end");
                    sent.map_err(failed)??;
                    continue;
                }
            };
            let Some(answer) = answer else {
                self.has_ended = true;
                return Ok(None);
            };
            return json::result_line(self.output.clone(), answer).map(Some);
        }
    }
}

/// The objects of a body on their way to a call, as they arrive. A call that takes one message gets
/// the first of them.
struct Forwarding {
    gateway: Gateway,
    body: Body,
    objects: Objects,
    input: MessageDescriptor,
    takes_many: bool,
}

impl Forwarding {
    /// Sends them, to the end of the body. Between two objects a client may take its time; one that
    /// has begun has to end, since what has come of it is held.
    async fn run(mut self, mut questions: Questions) -> Result<(), Status> {
        let patience = self.gateway.0.limits.message_timeout;
        let mut held = self.gateway.hold(0).await?;
        let mut begun: Option<Instant> = None;
        let mut sent = 0;
        loop {
            while let Some(object) = self.objects.next()? {
                begun = None;
                let message = json::to_message(self.input.clone(), &object)?;
                sent += 1;
                questions.send(message, !self.takes_many).await?;
                if !self.takes_many {
                    return Ok(());
                }
            }
            let left = self.objects.held_bytes();
            drop(held.split(held.num_permits().saturating_sub(left)));
            if left > 0 {
                begun.get_or_insert_with(Instant::now);
            }
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context));
            let frame = match begun {
                None => frame.await,
                Some(at) => timeout_at(at + patience, frame).await.map_err(|_| {
                    Status::new(DEADLINE_EXCEEDED, "the request did not arrive in time")
                })?,
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        held.merge(self.gateway.hold(bytes.len()).await?);
                        self.objects.push(&bytes);
                    }
                }
                Some(Err(_)) => return Err(Status::new(CANCELED, "the request is broken off")),
                None => break,
            }
        }
        self.objects.finish()?;
        if sent == 0 && !self.takes_many {
            // An empty body stands for an empty message.
            questions.send(Bytes::new(), true).await?;
        } else {
            questions.finish()?;
        }
        Ok(())
    }
}

/// Whether a path is one of the gateway's, which waits for what arrives in its own way.
pub(crate) fn serves(path: &str) -> bool {
    paths::find(path).is_some()
}

const CANCELED: i32 = 1;
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNIMPLEMENTED: i32 = 12;
const INTERNAL: i32 = 13;

/// How gRPC's codes are said in HTTP, as the gateway of etcd says them.
fn http_status(code: i32) -> StatusCode {
    let number = match code {
        0 => 200,
        CANCELED => 499,
        3 | 9 | 11 => 400,
        DEADLINE_EXCEEDED => 504,
        NOT_FOUND => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        UNIMPLEMENTED => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    StatusCode::from_u16(number).expect("the numbers above are statuses of HTTP")
}

fn json_response(status: StatusCode, body: Body) -> Response {
    let kind = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}

fn refuse(status: &Status) -> Response {
    json_response(http_status(status.code), json::error(status).into())
}

/// What of a request's headers goes along with the call: the token, the keyspace, and whatever a
/// client marks as meant for gRPC. All calls share a connection, which must not end by what one of
/// them brings.
fn metadata(headers: &HeaderMap, longest: usize) -> Result<HeaderMap, Status> {
    let mut metadata = HeaderMap::new();
    let mut length = 0;
    for (name, value) in headers {
        let name = match name.as_str() {
            "authorization" | "grpc-timeout" => name.clone(),
            _ if *name == KEYSPACE => name.clone(),
            other => match other.strip_prefix("grpc-metadata-") {
                // Those are the link's own.
                Some(marked) if !marked.starts_with("grpc-") && !OWN.contains(&marked) => {
                    match HeaderName::try_from(marked) {
                        Ok(name) => name,
                        Err(_) => continue,
                    }
                }
                _ => continue,
            },
        };
        length += name.as_str().len() + value.len() + FIELD_BYTES;
        if length > longest {
            let text = "the request's headers are too long";
            return Err(Status::new(RESOURCE_EXHAUSTED, text));
        }
        metadata.append(name, value.clone());
    }
    Ok(metadata)
}

/// A header counts so many bytes besides its name and value (RFC 9113, section 6.5.2).
const FIELD_BYTES: usize = 32;

/// What the headers count that are the link's own, with some room.
const OWN_BYTES: usize = 1024;

/// Headers of a call that its caller does not choose: gRPC's, and those that concern one hop
/// (RFC 9113, section 8.2.2).
const OWN: &[&str] = &[
    "te",
    "content-type",
    "content-length",
    "connection",
    "host",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// A stream of objects, in pieces; see [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_objects<'a>(pieces: impl Iterator<Item = &'a [u8]>) {
    let mut objects = Objects::new(1 << 16);
    for piece in pieces {
        objects.push(piece);
        loop {
            match objects.next() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    let _ = objects.finish();
}

/// A text as the message of a call, and that as a text again; see [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_call(call: usize, text: &[u8]) {
    static POOL: std::sync::OnceLock<DescriptorPool> = std::sync::OnceLock::new();
    let pool = POOL.get_or_init(|| {
        DescriptorPool::decode(etcd::FILE_DESCRIPTOR_SET).expect("the definitions are sound")
    });
    let (_, service, method) = paths::PATHS[call % paths::PATHS.len()];
    let service = pool.get_service_by_name(service).expect("it is defined");
    let mut methods = service.methods();
    let method = methods.find(|each| each.name() == method);
    let input = method.expect("it is defined").input();
    if let Ok(message) = json::to_message(input.clone(), text) {
        let again = json::from_message(input.clone(), message.clone());
        let again = again.expect("a message that was read has a text");
        let again = json::to_message(input, &again);
        assert!(
            again.is_ok_and(|again| again == message),
            "it stays the same message"
        );
    }
}
