//! etcd's stream of keep-alives: what the clients of one worker renew, in bulk.
//!
//! ```text
//!   streams ── ids ──▶ gathered ── every few ms ──▶ one call of the node ──▶ batches under way
//!           ◀──────────── one piece of bytes per stream ◀── oldest first ──────┘
//! ```
//!
//! A keep-alive is asked for a few hundred times a second and stream by stream, and waits for a log
//! entry in any case. So nothing is done for one that can be done for all: the first after a pause
//! goes to the node at once, those that come within [`ClientLimits::renewal_gathering`] of it go
//! together. That time is short beside the round trip of a client and the seconds of a lease.
//!
//! A stream may owe its client so many answers ([`ClientLimits::renewals_per_stream`]), from when
//! the message is read until the connection has taken the answer; then it is not read. And a worker
//! has so many batches under way ([`ClientLimits::renewal_batches`]); then they grow, to
//! [`ClientLimits::renewals_per_batch`]: one call must not hold up the node for all others. So what
//! renewals hold is bounded without a place among the ordinary calls, which others could fill.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use base::Instant;
use bytes::{BufMut as _, Bytes, BytesMut};
use etcd::proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use http::HeaderMap;
use node::{Answer, Call, RenewedLeases};
use prost::Message as _;
use state::LeaseId;

use super::Publication;
use super::grpc::{self, PREFIX_BYTES, Status};
use super::streams::{Answered, Effect, StreamId, StreamService, Ticket};
use crate::calls::Identity;
use crate::limits::ClientLimits;

/// Where the service is found.
pub(super) const PATH: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// What is known of a stream.
#[derive(Default)]
struct Client {
    /// Messages that were read and not answered yet.
    unanswered: usize,
    /// Messages whose answers the connection has not taken yet, those included.
    owed: usize,
    /// The client has said everything.
    has_finished: bool,
}

/// Keep-alives that are renewed with one call.
struct Batch {
    ticket: Ticket,
    streams: Vec<StreamId>,
    leases: Vec<i64>,
    answered: Option<Answered>,
}

/// The keep-alives of one worker.
pub(super) struct RenewalService {
    gathering: Duration,
    batch_max: usize,
    batches_max: usize,
    owed_max: usize,
    clients: HashMap<StreamId, Client>,
    /// What the next calls renew, and for whom.
    streams: Vec<StreamId>,
    leases: Vec<LeaseId>,
    /// When the next call may be made.
    next_call: Instant,
    /// The oldest is at the front.
    batches: VecDeque<Batch>,
    last_ticket: u64,
}

impl RenewalService {
    pub(super) fn new(limits: &ClientLimits) -> RenewalService {
        RenewalService {
            gathering: limits.renewal_gathering,
            batch_max: limits.renewals_per_batch.max(1),
            batches_max: limits.renewal_batches.max(1),
            owed_max: limits.renewals_per_stream.max(1),
            clients: HashMap::new(),
            streams: Vec::new(),
            leases: Vec::new(),
            next_call: Instant::default(),
            batches: VecDeque::new(),
            last_ticket: 0,
        }
    }

    /// The oldest of what is gathered, as many as go into one call.
    fn take_batch(&mut self) -> (Vec<LeaseId>, Vec<StreamId>) {
        let count = self.leases.len().min(self.batch_max);
        let later = (self.leases.split_off(count), self.streams.split_off(count));
        (
            std::mem::replace(&mut self.leases, later.0),
            std::mem::replace(&mut self.streams, later.1),
        )
    }

    /// Ends a stream that waits for nothing and whose client has said everything.
    fn end_if_done(&mut self, stream: StreamId, out: &mut Vec<Effect>) {
        let is_done = |client: &mut Client| client.has_finished && client.unanswered == 0;
        if self.clients.get_mut(&stream).is_some_and(is_done) {
            self.clients.remove(&stream);
            let status = Status::OK;
            out.push(Effect::End { stream, status });
        }
    }

    /// Gives a batch's answers to its streams, those of one stream in one piece.
    fn give_out(&mut self, batch: &Batch, renewed: &RenewedLeases, out: &mut Vec<Effect>) {
        let mut order: Vec<usize> = (0..batch.streams.len()).collect();
        // Stable: the answers of a stream stay in the order of its messages.
        order.sort_by_key(|place| batch.streams[*place]);
        let mut buffer = BytesMut::new();
        for places in order.chunk_by(|left, right| batch.streams[*left] == batch.streams[*right]) {
            let stream = batch.streams[places[0]];
            let Some(client) = self.clients.get_mut(&stream) else {
                continue;
            };
            client.unanswered -= places.len();
            for place in places {
                let response = LeaseKeepAliveResponse {
                    header: Some(renewed.header),
                    id: batch.leases[*place],
                    ttl: renewed.seconds[*place],
                };
                let length = response.encoded_len();
                buffer.reserve(PREFIX_BYTES + length);
                buffer.put_slice(&grpc::prefix(length));
                response
                    .encode(&mut buffer)
                    .expect("room was made for the message");
            }
            out.push(Effect::SendFramed {
                stream,
                framed: buffer.split().freeze(),
                messages: places.len(),
            });
            self.end_if_done(stream, out);
        }
    }

    /// Ends the streams of a batch that nobody knows the outcome of.
    fn fail(&mut self, batch: &Batch, status: &Status, out: &mut Vec<Effect>) {
        for stream in &batch.streams {
            if self.clients.remove(stream).is_some() {
                out.push(Effect::End {
                    stream: *stream,
                    status: status.clone(),
                });
            }
        }
    }
}

impl StreamService for RenewalService {
    /// Whoever knows a lease's id may keep it alive, as in etcd.
    fn opened(&mut self, stream: StreamId, _: &HeaderMap, _: Identity, _: &mut Vec<Effect>) {
        self.clients.insert(stream, Client::default());
    }

    fn is_patient(&self) -> bool {
        true
    }

    fn takes(&self, stream: StreamId) -> bool {
        let client = self.clients.get(&stream);
        client.is_none_or(|client| client.owed < self.owed_max)
    }

    fn message(&mut self, stream: StreamId, message: Bytes, out: &mut Vec<Effect>) {
        match LeaseKeepAliveRequest::decode(message) {
            Ok(LeaseKeepAliveRequest { id }) => {
                if let Some(client) = self.clients.get_mut(&stream) {
                    client.unanswered += 1;
                    client.owed += 1;
                    self.streams.push(stream);
                    self.leases.push(LeaseId(id));
                }
            }
            Err(error) => {
                self.closed(stream);
                let text = format!("failed to decode Protobuf message: {error}");
                let status = Status::with_text(etcd::Code::Internal, text);
                out.push(Effect::End { stream, status });
            }
        }
    }

    fn finished(&mut self, stream: StreamId, out: &mut Vec<Effect>) {
        if let Some(client) = self.clients.get_mut(&stream) {
            client.has_finished = true;
        }
        self.end_if_done(stream, out);
    }

    fn closed(&mut self, stream: StreamId) {
        // What it has asked for is renewed, and answered to nobody.
        self.clients.remove(&stream);
    }

    fn taken(&mut self, stream: StreamId, _: usize, messages: usize, _: &mut Vec<Effect>) {
        if let Some(client) = self.clients.get_mut(&stream) {
            client.owed -= messages;
        }
    }

    fn answered(&mut self, ticket: Ticket, answered: Answered, out: &mut Vec<Effect>) {
        let waiting = self.batches.iter_mut().find(|each| each.ticket == ticket);
        if let Some(batch) = waiting {
            batch.answered = Some(answered);
        }
        while let Some(answered) = self
            .batches
            .front_mut()
            .and_then(|each| each.answered.take())
        {
            let batch = self.batches.pop_front().expect("it is at the front");
            match answered {
                Ok(Answer::LeasesRenewed(Ok(renewed)))
                    if renewed.seconds.len() == batch.leases.len() =>
                {
                    self.give_out(&batch, &renewed, out);
                }
                Ok(Answer::LeasesRenewed(Err(error))) => {
                    self.fail(&batch, &Status::from(&error), out);
                }
                Err(status) => self.fail(&batch, &status, out),
                Ok(_) => self.fail(&batch, &Status::mismatch(), out),
            }
        }
    }

    fn published(&mut self, _: Instant, _: &Publication, _: &mut Vec<Effect>) {}

    fn flush(&mut self, now: Instant, _: &mut Vec<Effect>, calls: &mut Vec<(Ticket, Call)>) {
        if self.deadline().is_none_or(|due| due > now) {
            return;
        }
        self.next_call = now + self.gathering;
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let (leases, streams) = self.take_batch();
        self.batches.push_back(Batch {
            ticket,
            streams,
            leases: leases.iter().map(|lease| lease.0).collect(),
            answered: None,
        });
        calls.push((ticket, Call::RenewLeases(leases)));
    }

    fn deadline(&self) -> Option<Instant> {
        let may_call = !self.leases.is_empty() && self.batches.len() < self.batches_max;
        may_call.then_some(self.next_call)
    }
}

#[cfg(test)]
mod tests;
