//! Calls with many requests and many answers: what watches are made of.
//!
//! ```text
//!   client ── DATA ──▶ messages ──────▶ ┌────────────────┐ ── Effect::Call ──▶ node
//!          ◀── DATA ── queue ◀─ Send ── │ StreamService  │ ◀── answered ──────
//!              │                        │ one per worker │ ◀── published ─────
//!              └────── credit ────────▶ └────────────────┘
//! ```
//!
//! A service is a plain machine: it is told what happened and says what is to be done. It begins
//! each stream with credit for so many bytes ([`ClientLimits::stream_credit_bytes`]); what it sends
//! is queued here until the connection takes it, which gives the credit back. A service that sends
//! without credit is not stopped: what it queues then is bounded by its own rules.
//!
//! While a client does not take what it asked for, nothing more is read from its stream, so that
//! it cannot ask for ever more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use base::Instant;
use bytes::{Buf as _, Bytes};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use node::hub::HistoryResult;
use node::{Answer, Call};
use tokio::sync::Notify;

use super::Publication;
use super::grpc::{Deframer, Payload, Prebuilt, Status};
use super::slots::{Key, Slots};
use super::watching;
use crate::limits::ClientLimits;

/// Names a stream of one worker; never used twice.
pub(crate) type StreamId = Key;

/// What a streaming service wants to be done.
#[derive(Debug)]
#[allow(
    dead_code,
    reason = "watches ask the node in another way; keep-alives will use calls"
)]
pub(crate) enum Effect {
    /// Send a message. Uses up credit of its length.
    Send {
        /// Over which stream; if it is gone, so is the message.
        stream: StreamId,
        /// The encoded message, without gRPC's prefix. Clones of one are sent without copying.
        message: Bytes,
    },
    /// Send what is queued, then end a stream.
    End {
        /// Which.
        stream: StreamId,
        /// How the call has ended.
        status: Status,
    },
    /// Ask the node; [`StreamService::answered`] hears of it, unless the stream ends before.
    Call {
        /// On whose behalf.
        stream: StreamId,
        /// What.
        call: Call,
    },
}

/// What a call of a service has come to.
pub(crate) type Answered = Result<Answer, Status>;

/// Serves the streams of one path on one worker.
///
/// Within a turn: publications first, then answers, then what clients did, then
/// [`StreamService::flush`].
pub(crate) trait StreamService {
    /// A client has opened a stream; its headers are its metadata.
    fn opened(&mut self, stream: StreamId, headers: &HeaderMap, out: &mut Vec<Effect>);

    /// A client has sent a message.
    fn message(&mut self, stream: StreamId, message: Bytes, out: &mut Vec<Effect>);

    /// A client has sent all that it will send. It still listens.
    fn finished(&mut self, stream: StreamId, out: &mut Vec<Effect>);

    /// A stream is gone, by the client's doing. After [`Effect::End`] nothing more is said of it.
    fn closed(&mut self, stream: StreamId);

    /// The connection has taken so many more bytes of this stream's messages.
    fn credit(&mut self, stream: StreamId, bytes: usize, out: &mut Vec<Effect>);

    /// The node has answered an [`Effect::Call`].
    fn answered(&mut self, stream: StreamId, answered: Answered, out: &mut Vec<Effect>);

    /// The node has published something.
    fn published(&mut self, now: Instant, publication: &Publication, out: &mut Vec<Effect>);

    /// A read of history has ended.
    fn history(&mut self, _now: Instant, _result: HistoryResult, _out: &mut Vec<Effect>) {}

    /// Everything that was ready has been told.
    fn flush(&mut self, now: Instant, out: &mut Vec<Effect>);

    /// When [`StreamService::flush`] is to be called even if nothing happens.
    fn deadline(&self) -> Option<Instant>;
}

/// A service and where it is found.
struct Mounted {
    path: &'static str,
    service: Box<dyn StreamService>,
}

/// A stream that is open.
struct Stream {
    service: usize,
    send: SendStream<Payload>,
    /// `None` once the client has sent everything.
    body: Option<RecvStream>,
    deframer: Deframer,
    queue: VecDeque<Payload>,
    queued_bytes: usize,
    /// How it ends once the queue is empty.
    ending: Option<Status>,
    /// Calls that the node has not answered yet.
    calls: usize,
}

/// All streams of a worker, and the services behind them.
pub(super) struct Streams {
    services: Vec<Mounted>,
    streams: Slots<Stream>,
    effects: Vec<Effect>,
    /// Streams to be looked at before the turn is over.
    woken: Vec<Key>,
    longest_message: usize,
    credit_bytes: usize,
    calls_per_stream: usize,
}

impl Streams {
    pub(super) fn new(turn: &Arc<Notify>, limits: &ClientLimits) -> Streams {
        Streams {
            services: Vec::new(),
            streams: Slots::new(turn),
            effects: Vec::new(),
            woken: Vec::new(),
            longest_message: limits.receive_bytes,
            credit_bytes: limits.stream_credit_bytes,
            calls_per_stream: limits.calls_per_stream,
        }
    }

    /// Serves `path` (`/package.Service/Method`) from now on.
    pub(super) fn mount(&mut self, path: &'static str, service: Box<dyn StreamService>) {
        self.services.push(Mounted { path, service });
    }

    /// Which service serves a path.
    pub(super) fn service_of(&self, path: &str) -> Option<usize> {
        self.services
            .iter()
            .position(|mounted| mounted.path == path)
    }

    /// How many streams are open.
    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Takes in a stream. Its messages are read in the turn.
    pub(super) fn open(
        &mut self,
        service: usize,
        headers: &HeaderMap,
        body: RecvStream,
        respond: &mut SendResponse<Payload>,
        prebuilt: &Prebuilt,
    ) {
        let Ok(send) = respond.send_response(prebuilt.head(), false) else {
            return;
        };
        let key = self.streams.insert(Stream {
            service,
            send,
            body: Some(body),
            deframer: Deframer::new(self.longest_message),
            queue: VecDeque::new(),
            queued_bytes: 0,
            ending: None,
            calls: 0,
        });
        let service = &mut self.services[service].service;
        service.opened(key, headers, &mut self.effects);
        self.woken.push(key);
        let (_, waker) = self.streams.get_mut(key).expect("it was just put there");
        waker.wake_by_ref();
    }

    /// Tells every service what the node has published.
    pub(super) fn published(&mut self, now: Instant, publication: &Publication) {
        for mounted in &mut self.services {
            mounted
                .service
                .published(now, publication, &mut self.effects);
        }
    }

    /// Tells the services that a read of history has ended; it is that of the watches.
    pub(super) fn history(&mut self, now: Instant, result: HistoryResult) {
        if let Some(index) = self.service_of(watching::PATH) {
            let service = &mut self.services[index].service;
            service.history(now, result, &mut self.effects);
        }
    }

    /// Tells a service what one of its calls has come to.
    pub(super) fn answered(&mut self, key: Key, answered: Answered) {
        if let Some((stream, _)) = self.streams.get_mut(key) {
            stream.calls -= 1;
            let service = &mut self.services[stream.service].service;
            service.answered(key, answered, &mut self.effects);
            // It may be read further.
            self.woken.push(key);
        }
    }

    /// Lets all streams that can go on do so, then ends the services' turn. What they ask of the
    /// node is put into `calls`.
    pub(super) fn turn(&mut self, now: Instant, prebuilt: &Prebuilt, calls: &mut Vec<(Key, Call)>) {
        if self.services.is_empty() {
            return;
        }
        let mut woken = std::mem::take(&mut self.woken);
        self.streams.take_woken(&mut woken);
        for key in woken.drain(..) {
            self.go_on(key, prebuilt);
        }
        self.woken = woken;
        for mounted in &mut self.services {
            mounted.service.flush(now, &mut self.effects);
        }
        self.carry_out(prebuilt, calls);
    }

    /// When the next turn is due by the clock alone.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let services = self.services.iter();
        services
            .filter_map(|mounted| mounted.service.deadline())
            .min()
    }

    /// Does what the services have said, until they say nothing more.
    fn carry_out(&mut self, prebuilt: &Prebuilt, calls: &mut Vec<(Key, Call)>) {
        let mut touched: Vec<Key> = Vec::new();
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    Effect::Send { stream, message } => {
                        if let Some((found, _)) = self.streams.get_mut(stream) {
                            if found.queue.is_empty() {
                                touched.push(stream);
                            }
                            found.queued_bytes += message.len();
                            found.queue.push_back(Payload::message(message));
                        }
                    }
                    Effect::End { stream, status } => {
                        if let Some((found, _)) = self.streams.get_mut(stream) {
                            found.ending.get_or_insert(status);
                            touched.push(stream);
                        }
                    }
                    Effect::Call { stream, call } => {
                        if let Some((found, _)) = self.streams.get_mut(stream) {
                            found.calls += 1;
                            calls.push((stream, call));
                        }
                    }
                }
            }
            // Credit that comes back at once may be used at once.
            for key in touched.drain(..) {
                self.write(key, prebuilt);
            }
        }
    }

    /// A stream was woken: it may be gone, or written to, or read from.
    fn go_on(&mut self, key: Key, prebuilt: &Prebuilt) {
        self.write(key, prebuilt);
        let Some((stream, waker)) = self.streams.get_mut(key) else {
            return;
        };
        let context = &mut Context::from_waker(waker);
        if stream.send.poll_reset(context).is_ready() {
            self.close(key);
            return;
        }
        self.read(key);
    }

    /// Gives the connection what it takes.
    fn write(&mut self, key: Key, prebuilt: &Prebuilt) {
        let Some((stream, waker)) = self.streams.get_mut(key) else {
            return;
        };
        let context = &mut Context::from_waker(waker);
        let mut taken = 0;
        while let Some(front) = stream.queue.front() {
            stream.send.reserve_capacity(front.remaining());
            // A message that is begun is given whole: the connection cuts it as it can send it.
            while stream.send.capacity() == 0 {
                match stream.send.poll_capacity(context) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return self.close(key),
                }
            }
            if stream.send.capacity() == 0 {
                break;
            }
            let payload = stream.queue.pop_front().expect("the front is there");
            taken += payload.message_bytes();
            if stream.send.send_data(payload, false).is_err() {
                return self.close(key);
            }
        }
        stream.queued_bytes -= taken;
        if stream.queue.is_empty()
            && let Some(status) = stream.ending.take()
        {
            // The client may have gone in the meantime.
            let _ = stream.send.send_trailers(prebuilt.trailers(&status));
            self.streams.remove(key);
        } else if taken > 0 {
            let service = stream.service;
            let service = &mut self.services[service].service;
            service.credit(key, taken, &mut self.effects);
        }
    }

    /// Takes in what the client has sent, unless it owes too much already.
    fn read(&mut self, key: Key) {
        let Some((stream, waker)) = self.streams.get_mut(key) else {
            return;
        };
        let context = &mut Context::from_waker(waker);
        let service = &mut self.services[stream.service].service;
        let mut asked = stream.calls;
        while stream.ending.is_none()
            && stream.queued_bytes < self.credit_bytes
            && asked < self.calls_per_stream
        {
            match stream.deframer.next() {
                Ok(Some(message)) => {
                    asked += 1;
                    service.message(key, message, &mut self.effects);
                    continue;
                }
                Ok(None) => {}
                Err(status) => {
                    service.closed(key);
                    // Nothing more is read; what is queued is still sent.
                    stream.ending = Some(status.clone());
                    let stream = key;
                    self.effects.push(Effect::End { stream, status });
                    return;
                }
            }
            let Some(body) = &mut stream.body else {
                return;
            };
            match body.poll_data(context) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(bytes))) => {
                    // Failing means that the stream is gone, which the next poll will say.
                    let _ = body.flow_control().release_capacity(bytes.len());
                    stream.deframer.push(bytes);
                }
                Poll::Ready(Some(Err(_))) => return self.close(key),
                Poll::Ready(None) => {
                    stream.body = None;
                    service.finished(key, &mut self.effects);
                    return;
                }
            }
        }
        // The bound on what one look takes in has been reached: the others come first.
        if stream.calls < self.calls_per_stream && stream.queued_bytes < self.credit_bytes {
            waker.wake_by_ref();
        }
    }

    /// The client is gone.
    fn close(&mut self, key: Key) {
        if let Some(stream) = self.streams.remove(key)
            && stream.ending.is_none()
        {
            self.services[stream.service].service.closed(key);
        }
    }

    /// Ends all streams, since the node does nothing any more.
    pub(super) fn stop(&mut self, prebuilt: &Prebuilt) {
        for key in self.streams.keys() {
            if let Some(mut stream) = self.streams.remove(key) {
                let trailers = prebuilt.trailers(&Status::stopped());
                // The client may have gone.
                let _ = stream.send.send_trailers(trailers);
            }
        }
    }
}

#[cfg(test)]
mod tests;
