//! The history of a run, in the terms of the checker.

use base::Instant;
use checker::history::{
    ClientId, Compact, Compare, Comparison, Delete, DeleteResult, Done, Event, EventKind, Failure,
    KeyValue, LeaseId, OperationId, Put, PutResult, Range, RangeResult, Request, Response,
    Revision, Step, StepResult, Target, Time, Txn, TxnResult,
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

impl Recording {
    fn push(&mut self, now: Instant, event: EventKind) {
        let at = Time(now.0);
        self.events.push(Event { at, event });
    }

    /// A client asks; gives the operation a number.
    pub fn invoked(&mut self, now: Instant, client: usize, request: &etcd::Request) -> u64 {
        self.last += 1;
        let event = EventKind::Invoke {
            id: OperationId(self.last),
            client: ClientId(client as u64),
            request: request_of(request),
        };
        self.push(now, event);
        self.last
    }

    /// It was done.
    pub fn ok(&mut self, now: Instant, operation: u64, revision: i64, response: &etcd::Response) {
        let event = EventKind::Ok {
            id: OperationId(operation),
            revision: Revision(revision.unsigned_abs()),
            response: response_of(response),
        };
        self.push(now, event);
    }

    /// It certainly had no effect.
    pub fn failed(&mut self, now: Instant, operation: u64, failure: Failure, _error: etcd::Error) {
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

fn revision(number: i64) -> Revision {
    Revision(number.max(0).unsigned_abs())
}

fn range_of(range: &RangeRequest) -> Range {
    Range {
        key: checker::history::Key(range.key.clone()),
        range_end: checker::history::Key(range.range_end.clone()),
        revision: revision(range.revision),
        serializable: range.serializable,
        limit: range.limit.max(0).unsigned_abs(),
        keys_only: range.keys_only,
        count_only: range.count_only,
    }
}

fn put_of(put: &wire::PutRequest) -> Put {
    Put {
        key: checker::history::Key(put.key.clone()),
        value: checker::history::Value(put.value.clone()),
        prev_kv: put.prev_kv,
        ..Put::default()
    }
}

fn delete_of(delete: &wire::DeleteRangeRequest) -> Delete {
    Delete {
        key: checker::history::Key(delete.key.clone()),
        range_end: checker::history::Key(delete.range_end.clone()),
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
        compare::TargetUnion::Value(value) => Target::Value(checker::history::Value(value.clone())),
        compare::TargetUnion::Lease(lease) => Target::Lease(LeaseId(*lease)),
    };
    Some(Compare {
        key: checker::history::Key(compare.key.clone()),
        range_end: checker::history::Key(compare.range_end.clone()),
        is: match compare.result() {
            compare::CompareResult::Equal => Comparison::Equal,
            compare::CompareResult::NotEqual => Comparison::NotEqual,
            compare::CompareResult::Greater => Comparison::Greater,
            compare::CompareResult::Less => Comparison::Less,
        },
        target,
    })
}

fn txn_of(txn: &wire::TxnRequest) -> Txn {
    Txn {
        compares: txn.compare.iter().filter_map(compare_of).collect(),
        success: txn.success.iter().filter_map(step_of).collect(),
        failure: txn.failure.iter().filter_map(step_of).collect(),
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
        other => unreachable!("simulated clients do not ask for {other:?}"),
    }
}

fn key_value(shown: &mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: checker::history::Key(shown.key.clone()),
        value: checker::history::Value(shown.value.clone()),
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
        responses: result.responses.iter().filter_map(step_result).collect(),
    }
}

fn response_of(response: &etcd::Response) -> Response {
    match response {
        etcd::Response::Range(range) => Response::Range(range_result(range)),
        etcd::Response::Put(put) => Response::Put(put_result(put)),
        etcd::Response::DeleteRange(delete) => Response::Delete(delete_result(delete)),
        etcd::Response::Txn(txn) => Response::Txn(txn_result(txn)),
        etcd::Response::Compact(_) => Response::Compact(Done {}),
        other => unreachable!("simulated clients have not asked for {other:?}"),
    }
}
