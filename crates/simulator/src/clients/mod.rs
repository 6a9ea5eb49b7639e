//! Clients: each asks one thing at a time of some node, waits with patience, and goes on.
//!
//! Requests are etcd's, typed. What a client is told goes two ways: to the invariants at once, and
//! into a history of invocations and results for the checker. A result is *ok*, *fail* (certainly
//! without effect: only what the protocol defines so) or *unknown* (a timeout, a dead node): it
//! may still take effect at any time.
//!
//! - [`sessions`]: leases, locks and elections; [`elections`]: what of these the history has.
//!   [`watching`]: clients that watch. [`workers`]: the hubs that serve these, one per host.
//!   [`variety`]: options that few requests have. [`recording`]: the history.

pub mod elections;
pub mod recording;
pub mod sessions;
pub mod variety;
pub mod watching;
pub mod workers;

use base::{Instant, Random};
use bytes::Bytes;
use etcd::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, compare, request_op,
};
use etcd::{Request, Response};
use node::CallId;

use crate::invariants::Violation;
use crate::invariants::revisions::Revisions;
use crate::marks::{Mark, Marks};
use crate::scenario::{Micros, Workload};
use recording::Recording;
use sessions::{Purpose, Sessions};

/// A request under way.
#[derive(Debug)]
pub struct Pending {
    /// The call at the node.
    pub call: CallId,
    /// Which host was asked.
    pub host: usize,
    /// What was asked.
    pub request: Request,
    /// The newest revision when it was asked.
    floor: i64,
    /// In the history; none for a step of something larger.
    operation: Option<u64>,
    purpose: Purpose,
    /// When.
    pub asked: Instant,
}

/// One client.
#[derive(Debug, Default)]
pub struct Client {
    /// What it waits for.
    pub pending: Option<Pending>,
    /// A look at its patience is planned, no later than when that ends.
    pub is_timed: bool,
    /// The last version it saw of some key, for compare-and-swap.
    last_seen: Option<(Bytes, i64)>,
    prefers: usize,
    sessions: Sessions,
    /// What the request drawn last is part of.
    purpose: Purpose,
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    /// Each of them.
    pub clients: Vec<Client>,
    workload: Workload,
    random: Random,
    operations: u64,
    /// What was asked and answered, for the checker.
    pub recording: Recording,
    /// Requests by how they ended: ok, fail, unknown.
    pub ended: [u64; 3],
    /// Somebody wants their keyspace to be no more: if it is not there, that may be so only since
    /// it did what was asked.
    pub may_vanish: bool,
}

/// How a call at a node ended.
#[derive(Debug)]
pub enum End {
    /// It was answered.
    Answered(Result<Response, etcd::Error>),
    /// Nobody will ever know.
    Lost(&'static str),
}

impl Clients {
    /// Clients that have not begun, for a run of about this length.
    #[must_use]
    pub fn new(workload: Workload, duration: Micros, random: Random) -> Clients {
        let operations = duration / workload.pause.max(1) * workload.clients as u64;
        let client = |index| Client {
            prefers: index,
            ..Client::default()
        };
        Clients {
            clients: (0..workload.clients).map(client).collect(),
            workload,
            random,
            operations: 0,
            recording: Recording::for_operations(operations),
            ended: [0; 3],
            may_vanish: false,
        }
    }

    /// How long each waits for an answer, in microseconds.
    #[must_use]
    pub fn patience(&self) -> u64 {
        self.workload.patience
    }

    /// How long a client waits before its next request, in microseconds.
    pub fn pause(&mut self, now: Instant, client: usize) -> u64 {
        if let Some(until) = self.clients[client].sessions.sleeps_until() {
            return until.since(now).as_micros() as u64 + 1;
        }
        // Exponential, so that requests come in bursts and gaps.
        let share = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let pause = -(1.0 - share).ln() * self.workload.pause as f64;
        (pause as u64).min(self.workload.pause * 10) + 1
    }

    /// Which host a client asks next.
    pub fn choose_host(&mut self, client: usize, hosts: usize) -> usize {
        if self.random.below(4) == 0 {
            self.clients[client].prefers = self.random.below(hosts as u64) as usize;
        }
        self.clients[client].prefers % hosts
    }

    /// It could not be reached: try another one.
    pub fn unreachable(&mut self, client: usize) {
        self.clients[client].prefers += 1;
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("k{:03}", self.random.below(self.workload.keys)))
    }

    fn value(&mut self) -> Bytes {
        let mut value = format!("v{}", self.operations).into_bytes();
        let length = self.random.below(self.workload.value_bytes + 1) as usize;
        value.resize(value.len().max(length), b'.');
        Bytes::from(value)
    }

    /// Draws the next request of a client.
    pub fn draw(&mut self, now: Instant, client: usize, newest: i64) -> Request {
        self.operations += 1;
        let (request, purpose) = match self.clients[client].sessions.must(&mut self.random) {
            Some(must) => must,
            None => self.draw_freely(now, client, newest),
        };
        self.clients[client].purpose = purpose;
        request
    }

    fn draw_freely(&mut self, now: Instant, client: usize, newest: i64) -> (Request, Purpose) {
        let shares = self.workload.shares;
        let mut draw = self
            .random
            .below(shares.iter().sum::<u64>() + self.workload.elections);
        let kind = shares.iter().position(|share| {
            let here = draw < *share;
            draw = draw.saturating_sub(*share);
            here
        });
        let key = self.key();
        let Some(kind) = kind else {
            let sessions = &mut self.clients[client].sessions;
            return sessions.draw_election(self.operations, &mut self.random);
        };
        let request = match kind {
            0 => put(key, self.value()),
            1 => range(key, false),
            2 => range(key, true),
            3 => {
                let value = self.value();
                let (key, seen) = match self.clients[client].last_seen.take() {
                    Some(seen) => seen,
                    None => (key, 0),
                };
                compare_and_swap(key, seen, value)
            }
            4 => Request::DeleteRange(DeleteRangeRequest {
                key,
                ..DeleteRangeRequest::default()
            }),
            5 => everything(self.random.below(3) == 0),
            7 => {
                let (number, value) = (self.operations, self.value());
                let sessions = &mut self.clients[client].sessions;
                return sessions.draw_lease(now, number, (key, value), &mut self.random);
            }
            8 => {
                let sessions = &mut self.clients[client].sessions;
                return sessions.draw_lock(self.operations, &mut self.random);
            }
            _ => {
                let back = self.random.below(50) as i64;
                Request::Compact(CompactionRequest {
                    revision: (newest - back).max(1),
                    physical: self.random.below(4) == 0,
                })
            }
        };
        (
            variety::vary(request, newest, &mut self.random),
            Purpose::Whole,
        )
    }

    /// A client has asked.
    pub fn asked(
        &mut self,
        now: Instant,
        client: usize,
        host: usize,
        call: CallId,
        request: Request,
        floor: i64,
    ) {
        let asks = &mut self.clients[client];
        let purpose = asks.purpose;
        let operation = match purpose {
            Purpose::Whole => Some(self.recording.invoked(now, client, &request)),
            Purpose::Unlock
            | Purpose::Proclaim
            | Purpose::Resign
            | Purpose::Leader
            | Purpose::List => {
                let meant = elections::meant(purpose, &request);
                Some(self.recording.begins(now, client, meant))
            }
            Purpose::Step => {
                asks.sessions.begins(now, client, &mut self.recording);
                None
            }
        };
        assert!(asks.pending.is_none(), "a client asks one thing at a time");
        asks.pending = Some(Pending {
            call,
            host,
            request,
            floor,
            operation,
            purpose,
            asked: now,
        });
    }

    /// What a client asked has ended; whether anybody waited for it.
    ///
    /// # Errors
    /// If the answer cannot be.
    pub fn ended(
        &mut self,
        now: Instant,
        client: usize,
        end: End,
        revisions: &mut Revisions,
        marks: &mut Marks,
    ) -> Result<bool, Violation> {
        let Some(pending) = self.clients[client].pending.take() else {
            return Ok(false);
        };
        match end {
            End::Lost(reason) => self.unknown(now, client, &pending, reason, marks),
            End::Answered(Err(error)) => match self.failure(error) {
                Some(certain) => {
                    self.ended[1] += 1;
                    match pending.operation {
                        Some(operation) => self.recording.failed(now, operation, certain),
                        None => self.stepped(now, client, None, marks),
                    }
                    self.unreachable(client);
                    if error == etcd::Error::LeaseNotFound {
                        let sessions = &mut self.clients[client].sessions;
                        sessions.lost(now, error.text(), &mut self.recording);
                        marks.reach(Mark::LeaseGone);
                    }
                    if let Request::Put(put) = &pending.request {
                        revisions.failed(&put.value)?;
                    }
                }
                None => self.unknown(now, client, &pending, error.text(), marks),
            },
            End::Answered(Ok(mut response)) => {
                self.ended[0] += 1;
                let revision = response.header_mut().revision;
                match (pending.operation, pending.purpose) {
                    (Some(operation), Purpose::Whole) => {
                        self.recording.ok(now, operation, revision, &response);
                    }
                    (Some(operation), purpose) => {
                        let told = elections::told(purpose, &response, marks);
                        let sessions = &mut self.clients[client].sessions;
                        sessions.told(now, &told, &mut self.recording);
                        self.recording.ends(now, operation, revision, told);
                    }
                    (None, _) => self.stepped(now, client, Some(&response), marks),
                }
                let sessions = &mut self.clients[client].sessions;
                sessions.learn(pending.asked, now, &response, &mut self.recording, marks);
                match pending.purpose {
                    Purpose::Step
                    | Purpose::Proclaim
                    | Purpose::Resign
                    | Purpose::Leader
                    | Purpose::List => revisions.answered(pending.floor, revision, false)?,
                    Purpose::Whole | Purpose::Unlock => {
                        self.look(client, &pending, revision, &response, revisions, marks)?
                    }
                }
            }
        }
        Ok(true)
    }

    fn unknown(
        &mut self,
        now: Instant,
        client: usize,
        pending: &Pending,
        reason: &str,
        marks: &mut Marks,
    ) {
        self.ended[2] += 1;
        marks.reach(Mark::ResultUnknown);
        match pending.operation {
            Some(operation) => self.recording.unknown(now, operation, reason),
            None => self.stepped(now, client, None, marks),
        }
    }

    fn stepped(
        &mut self,
        now: Instant,
        client: usize,
        response: Option<&Response>,
        marks: &mut Marks,
    ) {
        let sessions = &mut self.clients[client].sessions;
        let recording = &mut self.recording;
        sessions.stepped(now, response, recording, marks, &mut self.random);
    }

    fn look(
        &mut self,
        client: usize,
        pending: &Pending,
        revision: i64,
        response: &Response,
        revisions: &mut Revisions,
        marks: &mut Marks,
    ) -> Result<(), Violation> {
        let floor = pending.floor;
        let stale = matches!(&pending.request, Request::Range(range) if range.serializable);
        revisions.answered(floor, revision, stale)?;
        match (&pending.request, response) {
            (Request::Put(put), Response::Put(_)) => {
                revisions.owns(floor, revision)?;
                revisions.put(&put.value, revision)?;
                revisions.changed(&put.key, revision)
            }
            (Request::DeleteRange(delete), Response::DeleteRange(deleted))
                if deleted.deleted > 0 =>
            {
                revisions.owns(floor, revision)?;
                for gone in &deleted.prev_kvs {
                    revisions.changed(&gone.key, revision)?;
                }
                match delete.range_end.is_empty() {
                    true => revisions.changed(&delete.key, revision),
                    false => Ok(()),
                }
            }
            // What is shown stood there before, or not in full.
            (Request::Range(range), Response::Range(_)) if variety::is_partial(range) => {
                marks.reach(Mark::ReadBack);
                Ok(())
            }
            (Request::Range(_), Response::Range(result)) => {
                for shown in &result.kvs {
                    revisions.saw(shown, revision)?;
                }
                if let Some(shown) = result.kvs.first() {
                    let seen = (shown.key.clone(), shown.mod_revision);
                    self.clients[client].last_seen = Some(seen);
                }
                Ok(())
            }
            (Request::Txn(txn), Response::Txn(result)) if result.succeeded => {
                revisions.owns(floor, revision)?;
                if let Some(request_op::Request::RequestPut(put)) =
                    txn.success.first().and_then(|step| step.request.as_ref())
                {
                    revisions.put(&put.value, revision)?;
                    revisions.changed(&put.key, revision)?;
                    self.clients[client].last_seen = Some((put.key.clone(), revision));
                }
                Ok(())
            }
            (Request::Txn(_), Response::Txn(result)) => {
                use etcd::proto::etcdserverpb::response_op::Response as Step;
                marks.reach(Mark::CompareFailed);
                if let Some(Step::ResponseRange(range)) = result
                    .responses
                    .first()
                    .and_then(|step| step.response.as_ref())
                {
                    for shown in &range.kvs {
                        revisions.saw(shown, revision)?;
                    }
                }
                Ok(())
            }
            (Request::Compact(_), _) => {
                marks.reach(Mark::Compacted);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Clients {
    /// Whether an error says that nothing happened, in the terms of the history.
    fn failure(&self, error: etcd::Error) -> Option<checker::history::Failure> {
        match error {
            etcd::Error::KeyspaceNotFound if self.may_vanish => None,
            error => failure(error),
        }
    }
}

/// The same, where no keyspace ends.
fn failure(error: etcd::Error) -> Option<checker::history::Failure> {
    use checker::history::Failure;
    use etcd::Error;
    match error {
        Error::Compacted => Some(Failure::Compacted),
        Error::FutureRevision => Some(Failure::FutureRevision),
        Error::KeyNotFound => Some(Failure::KeyNotFound),
        Error::LeaseNotFound => Some(Failure::LeaseNotFound),
        Error::LeaseExists => Some(Failure::LeaseExists),
        // A node that does not serve, or refuses what it is asked, has not proposed anything.
        Error::NoLeader
        | Error::TooManyRequests
        | Error::NoSpace
        | Error::RequestTooLarge
        | Error::KeyspaceElsewhere
        | Error::Witness
        | Error::KeyspaceNotFound
        | Error::DuplicateKey => Some(Failure::Other(error.text().to_owned())),
        _ => None,
    }
}

/// A put.
#[must_use]
pub fn put(key: Bytes, value: Bytes) -> Request {
    Request::Put(PutRequest {
        key,
        value,
        ..PutRequest::default()
    })
}

/// A read of one key.
#[must_use]
pub fn range(key: Bytes, serializable: bool) -> Request {
    Request::Range(RangeRequest {
        key,
        serializable,
        ..RangeRequest::default()
    })
}

/// A read of all keys.
#[must_use]
pub fn everything(serializable: bool) -> Request {
    Request::Range(RangeRequest {
        key: Bytes::from_static(b"k"),
        range_end: Bytes::from_static(b"l"),
        serializable,
        ..RangeRequest::default()
    })
}

fn compare_and_swap(key: Bytes, seen: i64, value: Bytes) -> Request {
    let step = |request| RequestOp {
        request: Some(request),
    };
    Request::Txn(TxnRequest {
        compare: vec![Compare {
            result: compare::CompareResult::Equal as i32,
            target: compare::CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(compare::TargetUnion::ModRevision(seen)),
            ..Compare::default()
        }],
        success: vec![step(request_op::Request::RequestPut(PutRequest {
            key: key.clone(),
            value,
            ..PutRequest::default()
        }))],
        failure: vec![step(request_op::Request::RequestRange(RangeRequest {
            key,
            ..RangeRequest::default()
        }))],
    })
}
