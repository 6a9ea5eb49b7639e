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
//! Keep-alives of one keyspace go together, in a line of their own: a keyspace in which nobody
//! leads holds up no other one's.
//!
//! While users have to sign in, those of one user make a call of their own, since the node looks at
//! what each may renew. Who he is, is found out anew each time: a token may have expired, and its
//! user be gone, while the stream is open. As in etcd, a stream ends with the first message that is
//! refused; what others have sent along is answered all the same.
//!
//! A stream whose client insists on a leader (`hasleader`) ends when there has been none for the
//! time that the hubs know as `leaderless_patience`, as a stream of watches does. Not so in other
//! keyspaces than the default one: one that sleeps has its leader when somebody asks for something.
//!
//! A stream may owe its client so many answers ([`ClientLimits::renewals_per_stream`]), from when
//! the message is read until the connection has taken the answer; then it is not read. And a worker
//! has so many batches under way ([`ClientLimits::renewal_batches`]); then they grow, to
//! [`ClientLimits::renewals_per_batch`]: one call must not hold up the node for all others. So what
//! renewals hold is bounded without a place among the ordinary calls, which others could fill.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::Instant;
use bytes::{BufMut as _, Bytes, BytesMut};
use etcd::auth::Caller;
use etcd::proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use http::HeaderMap;
use node::group::META;
use node::{Answer, Call, RenewedLeases};
use prost::Message as _;
use state::LeaseId;

use super::News;
use super::demands;
use super::grpc::{self, PREFIX_BYTES, Status};
use super::streams::{Answered, Effect, StreamId, StreamService, Ticket};
use crate::authority::{Authority, TokenCache};
use crate::calls::{Identity, as_caller};
use crate::keyspace;
use crate::limits::ClientLimits;

/// Where the service is found.
pub(super) const PATH: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// A keyspace, unless it is the default one.
type Keyspace = Option<Arc<str>>;

/// Who has sent a message; an error if he is not who he says, or not any more.
type Sender = Result<Option<Arc<Caller>>, etcd::Error>;

/// What is known of a stream.
#[derive(Default)]
struct Client {
    keyspace: Keyspace,
    identity: Identity,
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

/// Keep-alives that one call can renew.
struct Part {
    sender: Sender,
    leases: Vec<LeaseId>,
    streams: Vec<StreamId>,
}

/// Knows who sends.
struct Senders {
    authority: Authority,
    tokens: TokenCache,
}

impl Senders {
    /// Takes keep-alives apart by who has sent them. While nobody has to sign in, that is one look
    /// at a flag.
    fn parts(
        &mut self,
        clients: &HashMap<StreamId, Client>,
        leases: Vec<LeaseId>,
        streams: Vec<StreamId>,
    ) -> Vec<Part> {
        if !self.authority.is_enabled() {
            return vec![Part {
                sender: Ok(None),
                leases,
                streams,
            }];
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut places: HashMap<Sender, usize> = HashMap::new();
        let mut last: Option<(StreamId, usize)> = None;
        for (lease, stream) in leases.into_iter().zip(streams) {
            let place = match last.filter(|(other, _)| *other == stream) {
                Some((_, place)) => place,
                None => {
                    // Nobody knows any more whose the others were.
                    let Some(client) = clients.get(&stream) else {
                        continue;
                    };
                    let sender = client.identity.caller(&self.authority, &mut self.tokens);
                    *places.entry(sender.clone()).or_insert_with(|| {
                        parts.push(Part {
                            sender,
                            leases: Vec::new(),
                            streams: Vec::new(),
                        });
                        parts.len() - 1
                    })
                }
            };
            last = Some((stream, place));
            parts[place].leases.push(lease);
            parts[place].streams.push(stream);
        }
        parts
    }
}

/// The keep-alives of one keyspace.
#[derive(Default)]
struct Line {
    /// Streams that are open.
    clients: usize,
    /// What the next calls renew, and for whom.
    streams: Vec<StreamId>,
    leases: Vec<LeaseId>,
    /// When the next call may be made.
    next_call: Instant,
    /// The oldest is at the front.
    batches: VecDeque<Batch>,
}

impl Line {
    /// When the next call is to be made, if one is.
    fn due(&self, batches_max: usize) -> Option<Instant> {
        let may_call = !self.leases.is_empty() && self.batches.len() < batches_max;
        may_call.then_some(self.next_call)
    }

    /// The oldest of what is gathered, as many as go into one call.
    fn take_batch(&mut self, most: usize) -> (Vec<LeaseId>, Vec<StreamId>) {
        let count = self.leases.len().min(most);
        let later = (self.leases.split_off(count), self.streams.split_off(count));
        (
            std::mem::replace(&mut self.leases, later.0),
            std::mem::replace(&mut self.streams, later.1),
        )
    }

    /// Takes the oldest batch, if it is answered.
    fn take_answered(&mut self) -> Option<(Batch, Answered)> {
        let answered = self.batches.front_mut()?.answered.take()?;
        let batch = self.batches.pop_front().expect("it is at the front");
        Some((batch, answered))
    }

    fn is_unused(&self) -> bool {
        self.clients == 0 && self.leases.is_empty() && self.batches.is_empty()
    }
}

/// Streams that must not live without a leader.
struct Insisting {
    patience: Duration,
    streams: BTreeSet<StreamId>,
    leaderless_since: Option<Instant>,
}

impl Insisting {
    fn told(&mut self, now: Instant, has_leader: bool) {
        match has_leader {
            true => self.leaderless_since = None,
            false => _ = self.leaderless_since.get_or_insert(now),
        }
    }

    /// When they have to end.
    fn due(&self) -> Option<Instant> {
        let since = self.leaderless_since.filter(|_| !self.streams.is_empty());
        since.map(|since| since + self.patience)
    }

    /// Those that have to end now.
    fn take_overdue(&mut self, now: Instant) -> BTreeSet<StreamId> {
        match self.due() {
            Some(due) if due <= now => std::mem::take(&mut self.streams),
            _ => BTreeSet::new(),
        }
    }
}

/// The keep-alives of one worker.
pub(super) struct RenewalService {
    gathering: Duration,
    batch_max: usize,
    batches_max: usize,
    owed_max: usize,
    senders: Senders,
    clients: HashMap<StreamId, Client>,
    lines: BTreeMap<Keyspace, Line>,
    /// Calls that are not answered, and whose line they belong to.
    under_way: BTreeMap<u64, Keyspace>,
    last_ticket: u64,
    insisting: Insisting,
}

impl RenewalService {
    pub(super) fn new(limits: &ClientLimits, authority: Authority) -> RenewalService {
        RenewalService {
            gathering: limits.renewal_gathering,
            batch_max: limits.renewals_per_batch.max(1),
            batches_max: limits.renewal_batches.max(1),
            owed_max: limits.renewals_per_stream.max(1),
            senders: Senders {
                authority,
                tokens: TokenCache::new(&limits.auth),
            },
            clients: HashMap::new(),
            lines: BTreeMap::new(),
            under_way: BTreeMap::new(),
            last_ticket: 0,
            insisting: Insisting {
                patience: limits.hub.leaderless_patience,
                streams: BTreeSet::new(),
                leaderless_since: None,
            },
        }
    }

    /// Forgets a stream; whether it was there.
    fn forget(&mut self, stream: StreamId) -> bool {
        let Some(client) = self.clients.remove(&stream) else {
            return false;
        };
        self.insisting.streams.remove(&stream);
        if let Some(line) = self.lines.get_mut(&client.keyspace) {
            line.clients -= 1;
            if line.is_unused() {
                self.lines.remove(&client.keyspace);
            }
        }
        true
    }

    /// Gives out what a line's batches have come to, up to the first that is not answered.
    fn settle_line(&mut self, keyspace: &Keyspace, out: &mut Vec<Effect>) {
        let Some(line) = self.lines.get_mut(keyspace) else {
            return;
        };
        let settled: Vec<_> = std::iter::from_fn(|| line.take_answered()).collect();
        for (batch, answered) in settled {
            self.settle(&batch, answered, out);
        }
        if self.lines.get(keyspace).is_some_and(Line::is_unused) {
            self.lines.remove(keyspace);
        }
    }

    /// Gives out what a batch has come to.
    fn settle(&mut self, batch: &Batch, answered: Answered, out: &mut Vec<Effect>) {
        match answered {
            Ok(Answer::LeasesRenewed(Ok(renewed)))
                if renewed.seconds.len() == batch.leases.len() =>
            {
                self.give_out(batch, &renewed, out);
            }
            Ok(Answer::LeasesRenewed(Err(error))) => self.fail(batch, &Status::from(&error), out),
            Err(status) => self.fail(batch, &status, out),
            Ok(_) => self.fail(batch, &Status::mismatch(), out),
        }
    }

    /// Ends a stream that waits for nothing and whose client has said everything.
    fn end_if_done(&mut self, stream: StreamId, out: &mut Vec<Effect>) {
        let is_done = |client: &mut Client| client.has_finished && client.unanswered == 0;
        if self.clients.get_mut(&stream).is_some_and(is_done) {
            self.forget(stream);
            let status = Status::OK;
            out.push(Effect::End { stream, status });
        }
    }

    /// Gives a batch's answers to its streams, those of one stream in one piece. A stream ends with
    /// the first that is refused.
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
            let (mut messages, mut refused) = (0, None);
            for place in places {
                let ttl = match renewed.seconds[*place] {
                    Ok(seconds) => seconds,
                    Err(error) => {
                        refused = Some(error);
                        break;
                    }
                };
                messages += 1;
                let response = LeaseKeepAliveResponse {
                    header: Some(renewed.header),
                    id: batch.leases[*place],
                    ttl,
                };
                let length = response.encoded_len();
                buffer.reserve(PREFIX_BYTES + length);
                buffer.put_slice(&grpc::prefix(length));
                response
                    .encode(&mut buffer)
                    .expect("room was made for the message");
            }
            if messages > 0 {
                out.push(Effect::SendFramed {
                    stream,
                    framed: buffer.split().freeze(),
                    messages,
                });
            }
            match refused {
                None => self.end_if_done(stream, out),
                Some(error) => {
                    self.forget(stream);
                    let status = Status::from(&error);
                    out.push(Effect::End { stream, status });
                }
            }
        }
    }

    /// Ends the streams of a batch that nobody knows the outcome of.
    fn fail(&mut self, batch: &Batch, status: &Status, out: &mut Vec<Effect>) {
        for stream in &batch.streams {
            if self.forget(*stream) {
                out.push(Effect::End {
                    stream: *stream,
                    status: status.clone(),
                });
            }
        }
    }
}

impl StreamService for RenewalService {
    /// What a client may renew is looked at when he asks for it.
    fn opened(
        &mut self,
        stream: StreamId,
        headers: &HeaderMap,
        identity: Identity,
        _: &mut Vec<Effect>,
    ) {
        let keyspace = identity.keyspace().cloned();
        if keyspace.is_none() && demands::needs_leader(headers) {
            self.insisting.streams.insert(stream);
        }
        self.lines.entry(keyspace.clone()).or_default().clients += 1;
        let client = Client {
            keyspace,
            identity,
            ..Client::default()
        };
        self.clients.insert(stream, client);
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
                    let line = self.lines.get_mut(&client.keyspace);
                    let line = line.expect("a stream that is open has a line");
                    line.streams.push(stream);
                    line.leases.push(LeaseId(id));
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
        self.forget(stream);
    }

    fn taken(&mut self, stream: StreamId, _: usize, messages: usize, _: &mut Vec<Effect>) {
        if let Some(client) = self.clients.get_mut(&stream) {
            client.owed -= messages;
        }
    }

    fn answered(&mut self, ticket: Ticket, answered: Answered, out: &mut Vec<Effect>) {
        let Some(keyspace) = self.under_way.remove(&ticket.0) else {
            return;
        };
        let Some(line) = self.lines.get_mut(&keyspace) else {
            return;
        };
        let waiting = line.batches.iter_mut().find(|each| each.ticket == ticket);
        if let Some(batch) = waiting {
            batch.answered = Some(answered);
        }
        self.settle_line(&keyspace, out);
    }

    fn told(&mut self, now: Instant, news: &News, _: &mut Vec<Effect>) {
        if let News::Published { group, publication } = news
            && *group == META
        {
            self.insisting.told(now, publication.has_leader);
        }
    }

    fn flush(&mut self, now: Instant, out: &mut Vec<Effect>, calls: &mut Vec<(Ticket, Call)>) {
        for stream in self.insisting.take_overdue(now) {
            self.forget(stream);
            let status = Status::from(&etcd::Error::NoLeader);
            out.push(Effect::End { stream, status });
        }
        let mut without_call = Vec::new();
        for (keyspace, line) in &mut self.lines {
            if line.due(self.batches_max).is_none_or(|due| due > now) {
                continue;
            }
            line.next_call = now + self.gathering;
            let (leases, streams) = line.take_batch(self.batch_max);
            let parts = self.senders.parts(&self.clients, leases, streams);
            if parts.iter().all(|part| part.sender.is_err()) {
                without_call.push(keyspace.clone());
            }
            for part in parts {
                self.last_ticket += 1;
                let ticket = Ticket(self.last_ticket);
                let refusal = part.sender.as_ref().err().map(Status::from);
                // What was sent before is answered before.
                line.batches.push_back(Batch {
                    ticket,
                    streams: part.streams,
                    leases: part.leases.iter().map(|lease| lease.0).collect(),
                    answered: refusal.map(Err),
                });
                if let Ok(caller) = part.sender {
                    self.under_way.insert(ticket.0, keyspace.clone());
                    let call = Call::RenewLeases {
                        leases: part.leases,
                        refused: Vec::new(),
                    };
                    let call = keyspace::within(keyspace.clone(), as_caller(caller, call));
                    calls.push((ticket, call));
                }
            }
        }
        for keyspace in without_call {
            self.settle_line(&keyspace, out);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let lines = self.lines.values();
        let lines = lines.filter_map(|line| line.due(self.batches_max));
        lines.chain(self.insisting.due()).min()
    }
}

#[cfg(test)]
mod tests;
