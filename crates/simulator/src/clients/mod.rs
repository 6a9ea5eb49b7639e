//! Clients: each asks one thing at a time of some node, waits with patience, and goes on.
//!
//! Requests are etcd's, typed. What a client is told goes two ways: to the invariants at once, and
//! into a history of invocations and results for the checker. A result is *ok*, *fail* (certainly
//! without effect: only what the protocol defines so) or *unknown* (a timeout, a dead node): it
//! may still take effect at any time.

pub mod recording;

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
use crate::scenario::Workload;
use recording::Recording;

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
    operation: u64,
}

/// One client.
#[derive(Debug, Default)]
pub struct Client {
    /// What it waits for.
    pub pending: Option<Pending>,
    /// Counts its requests, so that a late timer is told from the current one.
    pub turn: u64,
    /// The last version it saw of some key, for compare-and-swap.
    last_seen: Option<(Bytes, i64)>,
    prefers: usize,
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
    /// Clients that have not begun.
    #[must_use]
    pub fn new(workload: Workload, random: Random) -> Clients {
        let client = |index| Client {
            prefers: index,
            ..Client::default()
        };
        Clients {
            clients: (0..workload.clients).map(client).collect(),
            workload,
            random,
            operations: 0,
            recording: Recording::default(),
            ended: [0; 3],
        }
    }

    /// How long a client waits before its next request, in microseconds.
    pub fn pause(&mut self) -> u64 {
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
    pub fn draw(&mut self, client: usize, newest: i64) -> Request {
        self.operations += 1;
        let shares = self.workload.shares;
        let mut draw = self.random.below(shares.iter().sum());
        let kind = shares.iter().position(|share| {
            let here = draw < *share;
            draw = draw.saturating_sub(*share);
            here
        });
        let key = self.key();
        match kind.unwrap_or(0) {
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
            _ => {
                let back = self.random.below(50) as i64;
                Request::Compact(CompactionRequest {
                    revision: (newest - back).max(1),
                    physical: self.random.below(4) == 0,
                })
            }
        }
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
        let operation = self.recording.invoked(now, client, &request);
        let asks = &mut self.clients[client];
        assert!(asks.pending.is_none(), "a client asks one thing at a time");
        asks.turn += 1;
        asks.pending = Some(Pending {
            call,
            host,
            request,
            floor,
            operation,
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
        let operation = pending.operation;
        match end {
            End::Lost(reason) => {
                self.ended[2] += 1;
                marks.reach(Mark::ResultUnknown);
                self.recording.unknown(now, operation, reason);
            }
            End::Answered(Err(error)) => match failure(error) {
                Some(certain) => {
                    self.ended[1] += 1;
                    self.recording.failed(now, operation, certain, error);
                    self.unreachable(client);
                    if let Request::Put(put) = &pending.request {
                        revisions.failed(&put.value)?;
                    }
                }
                None => {
                    self.ended[2] += 1;
                    marks.reach(Mark::ResultUnknown);
                    self.recording.unknown(now, operation, error.text());
                }
            },
            End::Answered(Ok(mut response)) => {
                self.ended[0] += 1;
                let revision = response.header_mut().revision;
                self.recording.ok(now, operation, revision, &response);
                self.look(client, &pending, revision, &response, revisions, marks)?;
            }
        }
        Ok(true)
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
                revisions.changed(&delete.key, revision)
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

/// Whether an error says that nothing happened, in the terms of the history.
fn failure(error: etcd::Error) -> Option<checker::history::Failure> {
    use checker::history::Failure;
    use etcd::Error;
    match error {
        Error::Compacted => Some(Failure::Compacted),
        Error::FutureRevision => Some(Failure::FutureRevision),
        // A node that does not serve has not proposed anything.
        Error::NoLeader | Error::TooManyRequests | Error::NoSpace | Error::RequestTooLarge => {
            Some(Failure::Other(error.text().to_owned()))
        }
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
