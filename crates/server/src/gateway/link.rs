//! A connection to the server that this is part of: HTTP/2 in memory, to a worker, as a client's
//! connection would be. The gateway has one, and what the server asks for itself goes over another.
//!
//! It is made when the first call comes, and again if it has ended. Its own window is as large as
//! it can be, and each stream's is small, so that a client which takes nothing holds up itself and
//! nobody else.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, header};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::keyspace::Choice;
use crate::limits::ClientLimits;
use crate::listeners::{Held, Source};
use crate::opening::Opened;
use crate::serving::{Accepted, Deframer, Socket, Status, WeakWorkers, Workers};

/// The largest window there is (RFC 9113, section 6.9.1).
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

pub(super) struct Link {
    workers: OnceLock<WeakWorkers>,
    /// Who calls.
    source: Source,
    /// Drives the connection.
    runtime: Handle,
    requests: Mutex<Option<SendRequest<Bytes>>>,
    /// A place for each call: more than the connection takes would wait without bound.
    places: Arc<Semaphore>,
    stream_window_bytes: u32,
    longest_answer: usize,
    pipe_bytes: usize,
}

/// Where a call's messages go.
pub(super) struct Questions(SendStream<Bytes>);

/// Where its answers come from. Dropping both gives the call up.
pub(super) struct Answers {
    _place: OwnedSemaphorePermit,
    state: State,
    deframer: Deframer,
}

enum State {
    Waiting(ResponseFuture),
    Open(RecvStream),
    Ended,
}

impl Link {
    pub(super) fn new(limits: &ClientLimits, source: Source) -> Link {
        Link {
            workers: OnceLock::new(),
            source,
            runtime: Handle::current(),
            requests: Mutex::new(None),
            places: Arc::new(Semaphore::new(limits.gateway_calls)),
            stream_window_bytes: limits.gateway_window_bytes,
            longest_answer: limits.gateway_answer_bytes,
            pipe_bytes: limits.gateway_pipe_bytes,
        }
    }

    pub(super) fn attach(&self, workers: &Workers) {
        // There is one set of workers for the life of a server.
        let _ = self.workers.set(workers.downgrade());
    }

    /// Begins a call.
    pub(super) async fn open(
        &self,
        path: &str,
        mut headers: HeaderMap,
    ) -> Result<(Questions, Answers), Status> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| Status::busy())?;
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let kind = HeaderValue::from_static("application/grpc");
        headers.insert(header::CONTENT_TYPE, kind);
        let mut requests = self.ready().await?;
        let mut request = Request::post(format!("http://gateway{path}"))
            .body(())
            .expect("the parts of the address are valid");
        *request.headers_mut() = headers;
        let (response, send) = requests
            .send_request(request, false)
            .map_err(|error| failed(&error))?;
        let answers = Answers {
            _place: place,
            state: State::Waiting(response),
            deframer: Deframer::new(self.longest_answer),
        };
        Ok((Questions(send), answers))
    }

    /// The connection, a new one if there is none any more.
    async fn ready(&self) -> Result<SendRequest<Bytes>, Status> {
        let mut requests = self.requests.lock().await;
        if let Some(old) = requests.take()
            && let Ok(ready) = old.ready().await
        {
            *requests = Some(ready.clone());
            return Ok(ready);
        }
        let new = self.connect().await?;
        let ready = new.ready().await.map_err(|error| failed(&error))?;
        *requests = Some(ready.clone());
        Ok(ready)
    }

    async fn connect(&self) -> Result<SendRequest<Bytes>, Status> {
        let workers = self.workers.get().and_then(WeakWorkers::upgrade);
        let workers = workers.ok_or_else(Status::stopped)?;
        let (own, other) = tokio::io::duplex(self.pipe_bytes);
        workers.hand_over(Accepted {
            stream: Opened::unread(Socket::Memory(other)),
            source: self.source,
            common_name: None,
            choice: Choice::default(),
            held: Held::by_the_server(),
        });
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(self.stream_window_bytes)
            .initial_connection_window_size(LARGEST_WINDOW)
            // What the worker still sends of calls that were given up is no attack.
            .max_local_error_reset_streams(None);
        let handshake = builder.handshake(own).await;
        let (requests, connection) = handshake.map_err(|error| failed(&error))?;
        self.runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the gateway's connection failed");
            }
        });
        Ok(requests)
    }
}

impl Questions {
    /// Sends a message, once the worker takes something; `ends` if it is the last one.
    pub(super) async fn send(&mut self, message: Bytes, ends: bool) -> Result<(), Status> {
        let mut framed = BytesMut::with_capacity(message.len() + 5);
        framed.put_u8(0);
        // A message is never longer than the text it was made of, which is bounded.
        framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        framed.extend_from_slice(&message);
        self.0.reserve_capacity(framed.len());
        while self.0.capacity() == 0 {
            match std::future::poll_fn(|context| self.0.poll_capacity(context)).await {
                Some(Ok(_)) => {}
                // The call has ended: its answer says why.
                Some(Err(_)) | None => return Ok(()),
            }
        }
        // Likewise.
        let _ = self.0.send_data(framed.freeze(), ends);
        Ok(())
    }

    /// Says that nothing more is sent.
    pub(super) fn finish(&mut self) -> Result<(), Status> {
        // A call that has ended needs no end.
        let _ = self.0.send_data(Bytes::new(), true);
        Ok(())
    }
}

impl Answers {
    /// The next message; `None` once the call has succeeded.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            match &mut self.state {
                State::Ended => return Ok(None),
                State::Waiting(response) => {
                    let response = response.await.map_err(|error| failed(&error))?;
                    if response.headers().contains_key("grpc-status") {
                        self.state = State::Ended;
                        return Status::from_headers(response.headers()).map(|()| None);
                    }
                    if !response.status().is_success() {
                        let text = format!("the call has the status {}", response.status());
                        return Err(Status::with_text(etcd::Code::Unknown, text));
                    }
                    self.state = State::Open(response.into_body());
                }
                State::Open(body) => {
                    if let Some(message) = self.deframer.next()? {
                        return Ok(Some(message));
                    }
                    match body.data().await {
                        Some(Ok(bytes)) => {
                            // Failing means that the stream is gone, which the next read says.
                            let _ = body.flow_control().release_capacity(bytes.len());
                            self.deframer.push(bytes);
                        }
                        Some(Err(error)) => return Err(failed(&error)),
                        None => {
                            let trailers = body.trailers().await;
                            let trailers = trailers.map_err(|error| failed(&error))?;
                            self.state = State::Ended;
                            let trailers = trailers.unwrap_or_default();
                            return Status::from_headers(&trailers).map(|()| None);
                        }
                    }
                }
            }
        }
    }
}

fn failed(error: &h2::Error) -> Status {
    tracing::debug!(%error, "a call of the gateway failed");
    Status::stopped()
}
