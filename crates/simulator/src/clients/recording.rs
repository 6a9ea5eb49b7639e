//! The history of a run, in the terms of the checker.

use base::Instant;
use checker::history::{
    ClientId, Compact, Compare, Comparison, Delete, DeleteResult, Done, Event, EventKind, Failure,
    Key, KeyValue, LeaseGrant, LeaseGranted, LeaseId, LeaseKeptAlive, LeaseName, LeaseRevoke,
    LeaseTimeToLive, LeaseTimeToLiveResult, OperationId, Put, PutResult, Range, RangeResult,
    Request, Response, Revision, Step, StepResult, Target, Time, Txn, TxnResult, Value,
};
use etcd::proto::etcdserverpb::{
    self as wire, RangeRequest, RangeResponse, compare, request_op, response_op,
};
use etcd::proto::mvccpb;

/// Events in the order of true time.
#[derive(Debug, Default)]
pub struct Recording {
    /// What was recorded; empty if nobody wants it.
    pub events: Vec<Event>,
    last: u64,
}

/// Lines that most runs do not exceed.
const USUAL_LINES: usize = 1 << 10;
/// Lines that are made room for at most before there is anything.
const LINES_AT_ONCE: u64 = 1 << 16;

impl Recording {
    /// A history of about so many operations; each has two lines, and one of what it did.
    #[must_use]
    pub fn for_operations(count: u64) -> Recording {
        let lines = count.saturating_mul(3).min(LINES_AT_ONCE) as usize;
        Recording {
            events: Vec::with_capacity(lines.max(USUAL_LINES)),
            last: 0,
        }
    }

    fn push(&mut self, now: Instant, event: EventKind) {
        let at = Time(now.0);
        self.events.push(Event { at, event });
    }

    /// A client asks; gives the operation a number.
    pub fn invoked(&mut self, now: Instant, client: usize, request: &etcd::Request) -> u64 {
        self.begins(now, client, request_of(request))
    }

    /// A client asks for this, whatever requests that takes.
    pub fn begins(&mut self, now: Instant, client: usize, request: Request) -> u64 {
        self.last += 1;
        let event = EventKind::Invoke {
            id: OperationId(self.last),
            client: ClientId(client as u64),
            request,
        };
        self.push(now, event);
        self.last
    }

    /// It is done, and the client was told this.
    pub fn ends(&mut self, now: Instant, operation: u64, at: i64, response: Response) {
        let event = EventKind::Ok {
            id: OperationId(operation),
            revision: revision(at),
            response,
        };
        self.push(now, event);
    }

    /// Something that a watch was told, or asked for.
    pub fn watch(&mut self, now: Instant, event: EventKind) {
        self.push(now, event);
    }

    /// The cluster has ended a lease, as an observer inside saw.
    pub fn lease_expired(&mut self, now: Instant, lease: i64) {
        let lease = LeaseId(lease);
        self.push(now, EventKind::LeaseExpired { lease });
    }

    /// It was done.
    pub fn ok(&mut self, now: Instant, operation: u64, revision: i64, response: &etcd::Response) {
        self.ends(now, operation, revision, response_of(response));
    }

    /// It certainly had no effect.
    pub fn failed(&mut self, now: Instant, operation: u64, failure: Failure) {
        let id = OperationId(operation);
        self.push(now, EventKind::Fail { id, failure });
    }

    /// Nobody knows.
    pub fn unknown(&mut self, now: Instant, operation: u64, reason: &str) {
        let id = OperationId(operation);
        let reason = reason.to_owned();
        self.push(now, EventKind::Unknown { id, reason });
    }

    /// No more faults from now on.
    pub fn calm(&mut self, now: Instant) {
        self.push(now, EventKind::Calm {});
    }
}

pub(super) fn revision(number: i64) -> Revision {
    Revision(number.max(0).unsigned_abs())
}

fn range_of(range: &RangeRequest) -> Range {
    Range {
        key: Key(range.key.clone()),
        range_end: Key(range.range_end.clone()),
        revision: revision(range.revision),
        serializable: range.serializable,
        limit: range.limit.max(0).unsigned_abs(),
        keys_only: range.keys_only,
        count_only: range.count_only,
    }
}

fn put_of(put: &wire::PutRequest) -> Put {
    Put {
        key: Key(put.key.clone()),
        value: Value(put.value.clone()),
        lease: LeaseId(put.lease),
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn delete_of(delete: &wire::DeleteRangeRequest) -> Delete {
    Delete {
        key: Key(delete.key.clone()),
        range_end: Key(delete.range_end.clone()),
        prev_kv: delete.prev_kv,
    }
}

fn step_of(step: &wire::RequestOp) -> Option<Step> {
    Some(match step.request.as_ref()? {
        request_op::Request::RequestRange(range) => Step::Range(range_of(range)),
        request_op::Request::RequestPut(put) => Step::Put(put_of(put)),
        request_op::Request::RequestDeleteRange(delete) => Step::Delete(delete_of(delete)),
        request_op::Request::RequestTxn(txn) => Step::Txn(txn_of(txn)),
    })
}

fn compare_of(compare: &wire::Compare) -> Option<Compare> {
    let target = match compare.target_union.as_ref()? {
        compare::TargetUnion::Version(version) => Target::Version(version.unsigned_abs()),
        compare::TargetUnion::CreateRevision(create) => Target::CreateRevision(revision(*create)),
        compare::TargetUnion::ModRevision(modified) => Target::ModRevision(revision(*modified)),
        compare::TargetUnion::Value(value) => Target::Value(Value(value.clone())),
        compare::TargetUnion::Lease(lease) => Target::Lease(LeaseId(*lease)),
    };
    Some(Compare {
        key: Key(compare.key.clone()),
        range_end: Key(compare.range_end.clone()),
        is: match compare.result() {
            compare::CompareResult::Equal => Comparison::Equal,
            compare::CompareResult::NotEqual => Comparison::NotEqual,
            compare::CompareResult::Greater => Comparison::Greater,
            compare::CompareResult::Less => Comparison::Less,
        },
        target,
    })
}

/// What becomes of each, with no more room than needed: a history keeps many of these.
fn exactly<Wire, Ours>(wire: &[Wire], of: impl Fn(&Wire) -> Option<Ours>) -> Vec<Ours> {
    let mut ours = Vec::with_capacity(wire.len());
    ours.extend(wire.iter().filter_map(of));
    ours
}

fn txn_of(txn: &wire::TxnRequest) -> Txn {
    Txn {
        compares: exactly(&txn.compare, compare_of),
        success: exactly(&txn.success, step_of),
        failure: exactly(&txn.failure, step_of),
    }
}

fn request_of(request: &etcd::Request) -> Request {
    match request {
        etcd::Request::Range(range) => Request::Range(range_of(range)),
        etcd::Request::Put(put) => Request::Put(put_of(put)),
        etcd::Request::DeleteRange(delete) => Request::Delete(delete_of(delete)),
        etcd::Request::Txn(txn) => Request::Txn(txn_of(txn)),
        etcd::Request::Compact(compact) => Request::Compact(Compact {
            revision: revision(compact.revision),
        }),
        etcd::Request::LeaseGrant(grant) => Request::LeaseGrant(LeaseGrant {
            lease: LeaseId(grant.id),
            ttl: grant.ttl,
        }),
        etcd::Request::LeaseRevoke(revoke) => Request::LeaseRevoke(LeaseRevoke {
            lease: LeaseId(revoke.id),
        }),
        etcd::Request::LeaseKeepAlive(renewal) => Request::LeaseKeepAlive(LeaseName {
            lease: LeaseId(renewal.id),
        }),
        etcd::Request::LeaseTimeToLive(question) => Request::LeaseTimeToLive(LeaseTimeToLive {
            lease: LeaseId(question.id),
            keys: question.keys,
        }),
        other => unreachable!("simulated clients do not ask for {other:?}"),
    }
}

pub(super) fn key_value(shown: &mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: Key(shown.key.clone()),
        value: Value(shown.value.clone()),
        create_revision: revision(shown.create_revision),
        mod_revision: revision(shown.mod_revision),
        version: shown.version.unsigned_abs(),
        lease: LeaseId(shown.lease),
    }
}

fn range_result(result: &RangeResponse) -> RangeResult {
    RangeResult {
        key_values: result.kvs.iter().map(key_value).collect(),
        count: result.count.unsigned_abs(),
        more: result.more,
    }
}

fn put_result(result: &wire::PutResponse) -> PutResult {
    PutResult {
        prev_kv: result.prev_kv.as_ref().map(key_value),
    }
}

fn delete_result(result: &wire::DeleteRangeResponse) -> DeleteResult {
    DeleteResult {
        deleted: result.deleted.unsigned_abs(),
        prev_kvs: result.prev_kvs.iter().map(key_value).collect(),
    }
}

fn step_result(step: &wire::ResponseOp) -> Option<StepResult> {
    Some(match step.response.as_ref()? {
        response_op::Response::ResponseRange(range) => StepResult::Range(range_result(range)),
        response_op::Response::ResponsePut(put) => StepResult::Put(put_result(put)),
        response_op::Response::ResponseDeleteRange(delete) => {
            StepResult::Delete(delete_result(delete))
        }
        response_op::Response::ResponseTxn(txn) => StepResult::Txn(txn_result(txn)),
    })
}

fn txn_result(result: &wire::TxnResponse) -> TxnResult {
    TxnResult {
        succeeded: result.succeeded,
        responses: exactly(&result.responses, step_result),
    }
}

fn response_of(response: &etcd::Response) -> Response {
    match response {
        etcd::Response::Range(range) => Response::Range(range_result(range)),
        etcd::Response::Put(put) => Response::Put(put_result(put)),
        etcd::Response::DeleteRange(delete) => Response::Delete(delete_result(delete)),
        etcd::Response::Txn(txn) => Response::Txn(txn_result(txn)),
        etcd::Response::Compact(_) => Response::Compact(Done {}),
        etcd::Response::LeaseGrant(granted) => Response::LeaseGrant(LeaseGranted {
            lease: LeaseId(granted.id),
            ttl: granted.ttl,
        }),
        etcd::Response::LeaseRevoke(_) => Response::LeaseRevoke(Done {}),
        etcd::Response::LeaseKeepAlive(kept) => {
            Response::LeaseKeepAlive(LeaseKeptAlive { ttl: kept.ttl })
        }
        etcd::Response::LeaseTimeToLive(left) => Response::LeaseTimeToLive(LeaseTimeToLiveResult {
            ttl: left.ttl,
            granted_ttl: left.granted_ttl,
            keys: left.keys.iter().cloned().map(Key).collect(),
        }),
        other => unreachable!("simulated clients have not asked for {other:?}"),
    }
}
