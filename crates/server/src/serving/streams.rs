//! Calls with many requests and many answers: what watches and keep-alives are made of.
//!
//! ```text
//!   client ── DATA ──▶ messages ──────▶ ┌────────────────┐ ── calls ─────────▶ node
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
//! it cannot ask for ever more. What it sends all the same waits within the stream's window.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base::{GroupId, Instant};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use node::hub::HistoryResult;
use node::{Answer, Call};
use tokio::sync::Notify;

use super::News;
use super::grpc::{Deframer, Payload, Prebuilt, Status};
use super::intake::Intake;
use super::slots::{Key, Slots};
use super::visited::Traffic;
use super::watching;
use crate::calls::Identity;
use crate::limits::ClientLimits;
use crate::metrics::{CallCounters, CountedCall, RpcMetrics};

/// Names a stream of one worker; never used twice.
pub(crate) type StreamId = Key;

/// What a streaming service wants to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Send a message. Uses up credit of its length.
    Send {
        /// Over which stream; if it is gone, so is the message.
        stream: StreamId,
        /// The encoded message, without gRPC's prefix. Clones of one are sent without copying.
        message: Bytes,
    },
    /// Send several messages at once. Uses up credit of their length.
    SendFramed {
        /// Over which stream; if it is gone, so are the messages.
        stream: StreamId,
        /// The encoded messages, each behind gRPC's prefix.
        framed: Bytes,
        /// How many those are.
        messages: usize,
    },
    /// Send what is queued, then end a stream.
    End {
        /// Which.
        stream: StreamId,
        /// How the call has ended.
        status: Status,
    },
}

/// Names a call of a service, which chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(pub(crate) u64);

/// Whose call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    service: usize,
    ticket: Ticket,
}

/// What a call of a service has come to.
pub(crate) type Answered = Result<Answer, Status>;

/// Serves the streams of one path on one worker.
///
/// Within a turn: publications first, then answers, then what clients did, then
/// [`StreamService::flush`].
pub(crate) trait StreamService {
    /// A client has opened a stream; its headers are its metadata, and say who it is.
    fn opened(
        &mut self,
        stream: StreamId,
        headers: &HeaderMap,
        identity: Identity,
        out: &mut Vec<Effect>,
    );

    /// Whether the stream's next message may be read.
    fn takes(&self, _stream: StreamId) -> bool {
        true
    }

    /// Whether its messages can wait a while before they are read, and its answers are not worth
    /// a packet of their own.
    fn is_patient(&self) -> bool {
        false
    }

    /// A client has sent a message.
    fn message(&mut self, stream: StreamId, message: Bytes, out: &mut Vec<Effect>);

    /// A client has sent all that it will send. It still listens.
    fn finished(&mut self, stream: StreamId, out: &mut Vec<Effect>);

    /// A stream is gone, by the client's doing. After [`Effect::End`] nothing more is said of it.
    fn closed(&mut self, stream: StreamId);

    /// The connection has taken so many more messages of this stream, with so many bytes.
    fn taken(&mut self, stream: StreamId, bytes: usize, messages: usize, out: &mut Vec<Effect>);

    /// The node has answered a call of [`StreamService::flush`].
    fn answered(&mut self, _ticket: Ticket, _answered: Answered, _out: &mut Vec<Effect>) {}

    /// The node has told something.
    fn told(&mut self, now: Instant, news: &News, out: &mut Vec<Effect>);

    /// A read of a group's history has ended.
    fn history(&mut self, _: Instant, _: GroupId, _: HistoryResult, _: &mut Vec<Effect>) {}

    /// Everything that was ready has been told. What the node is to be asked goes to `calls`;
    /// how many of those are under way is bounded by the service.
    fn flush(&mut self, now: Instant, out: &mut Vec<Effect>, calls: &mut Vec<(Ticket, Call)>);

    /// When [`StreamService::flush`] is to be called even if nothing happens.
    fn deadline(&self) -> Option<Instant>;
}

/// A service and where it is found.
struct Mounted {
    path: &'static str,
    service: Box<dyn StreamService>,
    counters: Option<Arc<CallCounters>>,
}

/// What waits to be sent over a stream.
struct Queued {
    payload: Payload,
    /// How many messages it holds.
    messages: usize,
}

/// Messages no longer than this are sent together, if several wait: a frame of its own costs each
/// more than being copied does, in time and in what the HTTP/2 library remembers of it.
const MERGED_MESSAGE_BYTES: usize = 1024;

/// ... until that many bytes are together.
const MERGED_BYTES: usize = 8 * 1024;

/// The places of a queue that are kept while nothing waits in it.
const QUEUE_KEPT: usize = 4;

/// What goes out next.
struct Outgoing {
    payload: Payload,
    messages: usize,
    /// The length of the messages, in what credit is counted in.
    bytes: usize,
}

/// Takes what is at the front, together with what may be sent along with it.
fn take_next(queue: &mut VecDeque<Queued>) -> Outgoing {
    let is_short = |queued: &Queued| queued.payload.remaining() <= MERGED_MESSAGE_BYTES;
    let several = queue
        .iter()
        .take(2)
        .filter(|queued| is_short(queued))
        .count()
        == 2;
    let Queued { payload, messages } = queue.pop_front().expect("something waits");
    let bytes = payload.message_bytes();
    let mut next = Outgoing {
        payload,
        messages,
        bytes,
    };
    if several {
        let mut room = next.payload.remaining();
        for queued in queue.iter().take_while(|queued| is_short(queued)) {
            if room + queued.payload.remaining() > MERGED_BYTES {
                break;
            }
            room += queued.payload.remaining();
        }
        let mut merged = BytesMut::with_capacity(room);
        merged.put(next.payload);
        while let Some(queued) = queue.front()
            && is_short(queued)
            && merged.len() + queued.payload.remaining() <= room
        {
            let Queued { payload, messages } = queue.pop_front().expect("the front is there");
            next.messages += messages;
            next.bytes += payload.message_bytes();
            merged.put(payload);
        }
        next.payload = Payload::plain(merged.freeze());
    }
    next
}

/// A stream that is open.
struct Stream {
    service: usize,
    /// What goes on on its connection.
    traffic: Rc<Traffic>,
    send: SendStream<Payload>,
    /// `None` once the client has sent everything.
    body: Option<Intake>,
    deframer: Deframer,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// How it ends once the queue is empty.
    ending: Option<Status>,
    /// It is not read until the connection has taken more.
    is_held: bool,
    /// Since when the rest of a message is missing.
    begun_at: Option<Instant>,
    /// It is among [`Streams::begun`].
    is_watched: bool,
    counted: CountedCall,
}

/// All streams of a worker, and the services behind them.
pub(super) struct Streams {
    services: Vec<Mounted>,
    streams: Slots<Stream>,
    effects: Vec<Effect>,
    /// Streams to be looked at before the turn is over.
    woken: Vec<Key>,
    asked: Vec<(Ticket, Call)>,
    /// Streams that have begun a message, each once, and when to look whether it has come; the
    /// first of them first.
    begun: VecDeque<(Key, Instant)>,
    message_patience: Duration,
    longest_message: usize,
    credit_bytes: usize,
    messages_per_look: usize,
    rpc: RpcMetrics,
}

impl Streams {
    pub(super) fn new(turn: &Arc<Notify>, limits: &ClientLimits, rpc: &RpcMetrics) -> Streams {
        Streams {
            services: Vec::new(),
            streams: Slots::new(turn),
            effects: Vec::new(),
            woken: Vec::new(),
            asked: Vec::new(),
            begun: VecDeque::new(),
            message_patience: limits.message_timeout,
            longest_message: limits.receive_bytes,
            credit_bytes: limits.stream_credit_bytes,
            messages_per_look: limits.messages_per_look,
            rpc: rpc.clone(),
        }
    }

    /// Serves `path` (`/package.Service/Method`) from now on.
    pub(super) fn mount(&mut self, path: &'static str, service: Box<dyn StreamService>) {
        let counters = self.rpc.of(path).cloned();
        self.services.push(Mounted {
            path,
            service,
            counters,
        });
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
        (headers, identity): (&HeaderMap, Identity),
        traffic: Rc<Traffic>,
        (come, body): (Bytes, RecvStream),
        respond: &mut SendResponse<Payload>,
        prebuilt: &Prebuilt,
    ) {
        let Ok(send) = respond.send_response(prebuilt.head(), false) else {
            return;
        };
        let mut deframer = Deframer::new(self.longest_message);
        deframer.push(come);
        let key = self.streams.insert(Stream {
            service,
            traffic,
            send,
            body: Some(Intake::new(body)),
            deframer,
            queue: VecDeque::new(),
            queued_bytes: 0,
            ending: None,
            is_held: false,
            begun_at: None,
            is_watched: false,
            counted: CountedCall::begin(self.services[service].counters.as_ref()),
        });
        let service = &mut self.services[service].service;
        service.opened(key, headers, identity, &mut self.effects);
        self.woken.push(key);
        let (_, waker) = self.streams.get_mut(key).expect("it was just put there");
        waker.wake_by_ref();
    }

    /// Tells every service what the node has told.
    pub(super) fn told(&mut self, now: Instant, news: &News) {
        for mounted in &mut self.services {
            mounted.service.told(now, news, &mut self.effects);
        }
    }

    /// Tells the services that a read of history has ended; it is that of the watches.
    pub(super) fn history(&mut self, now: Instant, group: GroupId, result: HistoryResult) {
        if let Some(index) = self.service_of(watching::PATH) {
            let service = &mut self.services[index].service;
            service.history(now, group, result, &mut self.effects);
        }
    }

    /// Tells a service what one of its calls has come to.
    pub(super) fn answered(&mut self, asker: Asker, answered: Answered) {
        let service = &mut self.services[asker.service].service;
        service.answered(asker.ticket, answered, &mut self.effects);
    }

    /// Lets all streams that can go on do so, then ends the services' turn. What they ask of the
    /// node is put into `calls`.
    pub(super) fn turn(
        &mut self,
        now: Instant,
        prebuilt: &Prebuilt,
        calls: &mut Vec<(Asker, Call)>,
    ) {
        let mut woken = std::mem::take(&mut self.woken);
        self.streams.take_woken(&mut woken);
        for key in woken.drain(..) {
            self.go_on(now, key, prebuilt);
        }
        self.woken = woken;
        self.end_slow(now);
        for (number, mounted) in self.services.iter_mut().enumerate() {
            let service = &mut mounted.service;
            service.flush(now, &mut self.effects, &mut self.asked);
            for (ticket, call) in self.asked.drain(..) {
                let service = number;
                calls.push((Asker { service, ticket }, call));
            }
        }
        self.carry_out(prebuilt);
    }

    /// When the next turn is due by the clock alone.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let services = self.services.iter();
        let services = services.filter_map(|mounted| mounted.service.deadline());
        let begun = self.begun.front().map(|(_, due)| *due);
        services.chain(begun).min()
    }

    /// Ends streams that have begun a message and do not end it: what has come of it is held.
    fn end_slow(&mut self, now: Instant) {
        while let Some((key, due)) = self.begun.front().copied()
            && due <= now
        {
            self.begun.pop_front();
            let Some((stream, _)) = self.streams.get_mut(key) else {
                continue;
            };
            stream.is_watched = false;
            let Some(begun_at) = stream.begun_at else {
                continue;
            };
            let due = begun_at + self.message_patience;
            if due > now {
                stream.is_watched = true;
                self.begun.push_back((key, due));
                continue;
            }
            let service = &mut self.services[stream.service].service;
            service.closed(key);
            let status = Status::too_slow();
            self.effects.push(Effect::End {
                stream: key,
                status,
            });
        }
    }

    /// Does what the services have said, until they say nothing more.
    fn carry_out(&mut self, prebuilt: &Prebuilt) {
        let mut touched: Vec<Key> = Vec::new();
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    Effect::Send { stream, message } => {
                        let (payload, messages) = (Payload::message(message), 1);
                        self.queue(stream, Queued { payload, messages }, &mut touched);
                    }
                    Effect::SendFramed {
                        stream,
                        framed,
                        messages,
                    } => {
                        let payload = Payload::plain(framed);
                        self.queue(stream, Queued { payload, messages }, &mut touched);
                    }
                    Effect::End { stream, status } => {
                        if let Some((found, _)) = self.streams.get_mut(stream) {
                            found.ending.get_or_insert(status);
                            touched.push(stream);
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

    fn queue(&mut self, stream: Key, queued: Queued, touched: &mut Vec<Key>) {
        if let Some((found, _)) = self.streams.get_mut(stream) {
            if found.queue.is_empty() {
                touched.push(stream);
            }
            if !self.services[found.service].service.is_patient() {
                found.traffic.urgent();
            }
            found.queued_bytes += queued.payload.message_bytes();
            found.queue.push_back(queued);
        }
    }

    /// A stream was woken: it may be gone, or written to, or read from.
    fn go_on(&mut self, now: Instant, key: Key, prebuilt: &Prebuilt) {
        self.write(key, prebuilt);
        let Some((stream, waker)) = self.streams.get_mut(key) else {
            return;
        };
        let context = &mut Context::from_waker(waker);
        if stream.send.poll_reset(context).is_ready() {
            self.close(key);
            return;
        }
        self.read(now, key);
    }

    /// Gives the connection what it takes.
    fn write(&mut self, key: Key, prebuilt: &Prebuilt) {
        let Some((stream, waker)) = self.streams.get_mut(key) else {
            return;
        };
        let context = &mut Context::from_waker(waker);
        let (mut taken, mut messages) = (0, 0);
        while let Some(front) = stream.queue.front() {
            stream.send.reserve_capacity(front.payload.remaining());
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
            let next = take_next(&mut stream.queue);
            taken += next.bytes;
            messages += next.messages;
            if stream.send.send_data(next.payload, false).is_err() {
                return self.close(key);
            }
        }
        stream.queued_bytes -= taken;
        if stream.queue.is_empty() {
            // A burst is not a reason to keep its memory: there may be a thousand streams.
            stream.queue.shrink_to(QUEUE_KEPT);
        }
        if stream.queue.is_empty()
            && let Some(status) = stream.ending.take()
        {
            stream.counted.end(status.code);
            // The client may have gone in the meantime.
            let _ = stream.send.send_trailers(prebuilt.trailers(&status));
            self.streams.remove(key);
        } else if taken > 0 {
            if std::mem::take(&mut stream.is_held) {
                // It may be read further.
                waker.wake_by_ref();
            }
            let service = stream.service;
            let service = &mut self.services[service].service;
            service.taken(key, taken, messages, &mut self.effects);
        }
    }

    /// Takes in what the client has sent, unless it owes too much already.
    fn read(&mut self, now: Instant, key: Key) {
        let Some((stream, waker)) = self.streams.get_mut(key) else {
            return;
        };
        let context = &mut Context::from_waker(waker);
        let service = &mut self.services[stream.service].service;
        if stream.ending.is_some() {
            return;
        }
        for _ in 0..self.messages_per_look {
            stream.is_held = stream.queued_bytes >= self.credit_bytes || !service.takes(key);
            if stream.is_held {
                if let Some(body) = &mut stream.body {
                    body.take_in(context);
                }
                return;
            }
            match stream.deframer.next() {
                Ok(Some(message)) => {
                    stream.begun_at = None;
                    match service.is_patient() {
                        true => stream.traffic.patient(),
                        false => stream.traffic.urgent(),
                    }
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
                Poll::Pending => {
                    if stream.deframer.has_begun() {
                        stream.begun_at.get_or_insert(now);
                        if !std::mem::replace(&mut stream.is_watched, true) {
                            self.begun.push_back((key, now + self.message_patience));
                        }
                    }
                    return;
                }
                Poll::Ready(Some(Ok(bytes))) => stream.deframer.push(bytes),
                Poll::Ready(Some(Err(_))) => return self.close(key),
                Poll::Ready(None) => {
                    stream.body = None;
                    service.finished(key, &mut self.effects);
                    return;
                }
            }
        }
        // The bound on what one look reads has been reached: the others come first.
        if let Some(body) = &mut stream.body {
            body.take_in(context);
        }
        waker.wake_by_ref();
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
                let stopped = Status::stopped();
                stream.counted.end(stopped.code);
                let trailers = prebuilt.trailers(&stopped);
                // The client may have gone.
                let _ = stream.send.send_trailers(trailers);
            }
        }
    }
}

#[cfg(test)]
mod tests;
