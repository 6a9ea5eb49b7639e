//! Options that clients seldom use, so that no request has only its plainest form: previous
//! versions, reads of the past, parts of ranges, deletions of many keys, transactions of several
//! steps.
//!
//! Drawn after the request itself, from the same stream.

use base::Random;
use bytes::Bytes;
use etcd::Request;
use etcd::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};

/// Keys that only transactions write, beside the one that they compare.
const BESIDE: &str = "k-beside";

/// The same request, or one with something more.
#[must_use]
pub fn vary(request: Request, newest: i64, random: &mut Random) -> Request {
    match request {
        Request::Put(put) => Request::Put(vary_put(put, random)),
        Request::Range(range) => Request::Range(vary_range(range, newest, random)),
        Request::DeleteRange(delete) => Request::DeleteRange(vary_delete(delete, random)),
        Request::Txn(txn) => Request::Txn(vary_txn(txn, random)),
        other => other,
    }
}

/// Whether an answer to this shows less than what stands at its revision.
#[must_use]
pub fn is_partial(range: &RangeRequest) -> bool {
    range.revision != 0 || range.keys_only || range.count_only
}

fn vary_put(mut put: PutRequest, random: &mut Random) -> PutRequest {
    put.prev_kv = random.below(4) == 0;
    // Fails if there is no such key.
    put.ignore_lease = put.lease == 0 && random.below(16) == 0;
    put
}

fn vary_range(mut range: RangeRequest, newest: i64, random: &mut Random) -> RangeRequest {
    match random.below(16) {
        0 => range.keys_only = true,
        1 => range.count_only = true,
        2 => range.limit = random.below(4) as i64 + 1,
        3 | 4 => {
            // Perhaps compacted, perhaps not there yet.
            range.revision = (newest + 3 - random.below(40) as i64).max(1);
        }
        _ => {}
    }
    range
}

fn vary_delete(mut delete: DeleteRangeRequest, random: &mut Random) -> DeleteRangeRequest {
    delete.prev_kv = random.below(2) == 0;
    if random.below(6) == 0 {
        delete.range_end = [&delete.key[..2], &[delete.key[2] + 1]].concat().into();
    }
    delete
}

fn vary_txn(mut txn: TxnRequest, random: &mut Random) -> TxnRequest {
    let step = |request| RequestOp {
        request: Some(request),
    };
    let beside = Bytes::from(format!("{BESIDE}{}", random.below(3)));
    match random.below(8) {
        0 => {
            let Some(request_op::Request::RequestPut(put)) =
                txn.success.first().and_then(|first| first.request.as_ref())
            else {
                return txn;
            };
            // A value of its own, as all are.
            let value = [b"b", &put.value[..]].concat().into();
            txn.success
                .push(step(request_op::Request::RequestPut(PutRequest {
                    key: beside,
                    value,
                    prev_kv: true,
                    ..PutRequest::default()
                })));
        }
        1 => {
            let delete = DeleteRangeRequest {
                key: beside,
                prev_kv: true,
                ..DeleteRangeRequest::default()
            };
            txn.success
                .push(step(request_op::Request::RequestDeleteRange(delete)));
        }
        2 => {
            let range = RangeRequest {
                key: Bytes::from_static(b"k"),
                range_end: Bytes::from_static(b"l"),
                ..RangeRequest::default()
            };
            txn.success
                .push(step(request_op::Request::RequestRange(range)));
        }
        _ => {}
    }
    txn
}
