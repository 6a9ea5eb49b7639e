//! Locks and elections: candidates in the order in which their keys were created.
//!
//! ```text
//!   <name>/<lease in hexadecimal>     one key per candidate, attached to its lease
//!
//!   created at   17 ── holds the lock, or leads
//!                21 ── waits until the key of 17 is gone
//!                34 ── waits until the key of 21 is gone
//! ```
//!
//! The candidate whose key has the lowest creation revision has won. Each of the others waits for
//! the one key just before its own, so that a key which goes wakes one candidate and not all. A
//! lease asks at most once: if its key exists, asking again joins the wait at the same place.
//!
//! The creation revision of a candidate's key grows from holder to holder. Whoever guards what the
//! lock protects refuses a revision lower than one it has seen (a *fencing token*): a holder whose
//! lease ended without its knowledge can then do no harm, which no lock alone can prevent.
//!
//! Keys, order and transactions are those of etcd's own recipe (its Go client's `concurrency`
//! package), so that clients of both kinds can wait in the same line. Everything here is a plain
//! request; `server` sends them and waits.

use bytes::Bytes;

use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as Operation;
use crate::proto::etcdserverpb::response_op::Response as OperationResult;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseOp,
    TxnRequest, TxnResponse,
};
use crate::proto::mvccpb::KeyValue;

/// The keys of all candidates for one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    prefix: Bytes,
}

/// One candidate's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    all: Candidates,
    key: Bytes,
    lease: i64,
}

/// What a candidate learns when it enters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    /// The revision that created its key.
    pub revision: i64,
    /// The value that stands there from an earlier entry; `None` if this one wrote its own.
    pub earlier_value: Option<Bytes>,
}

impl Candidates {
    /// The candidates for a name, which may be empty.
    #[must_use]
    pub fn new(name: &[u8]) -> Candidates {
        let prefix = [name, b"/"].concat();
        Candidates {
            prefix: prefix.into(),
        }
    }

    /// Asks for the one who has won.
    #[must_use]
    pub fn first(&self) -> RangeRequest {
        self.one(SortOrder::Ascend)
    }

    /// The keys of all candidates, as a range.
    #[must_use]
    pub fn range(&self) -> (Bytes, Bytes) {
        // A prefix that ends in '/' always has a successor: '0' in place of the '/'.
        let mut end = self.prefix.to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        (self.prefix.clone(), end.into())
    }

    /// The candidate of a lease.
    #[must_use]
    pub fn candidate(&self, lease: i64) -> Candidate {
        // As Go prints a signed number: the sign stands before the digits.
        let sign = if lease < 0 { "-" } else { "" };
        let suffix = format!("{sign}{:x}", lease.unsigned_abs());
        let key = [&self.prefix, suffix.as_bytes()].concat();
        Candidate {
            all: self.clone(),
            key: key.into(),
            lease,
        }
    }

    fn one(&self, order: SortOrder) -> RangeRequest {
        let (key, range_end) = self.range();
        RangeRequest {
            key,
            range_end,
            limit: 1,
            sort_order: order.into(),
            sort_target: SortTarget::Create.into(),
            ..RangeRequest::default()
        }
    }
}

impl Candidate {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// Its lease.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Creates the key unless it exists, and says what stands there.
    #[must_use]
    pub fn enter(&self, value: Bytes) -> TxnRequest {
        let put = Operation::RequestPut(PutRequest {
            key: self.key.clone(),
            value,
            lease: self.lease,
            ..PutRequest::default()
        });
        TxnRequest {
            compare: vec![created_at(&self.key, 0)],
            success: vec![operation(put)],
            failure: vec![operation(Operation::RequestRange(self.own()))],
        }
    }

    /// What the answer to [`Candidate::enter`] says; `None` if it answers something else.
    #[must_use]
    pub fn entered(response: &TxnResponse) -> Option<Entered> {
        if response.succeeded {
            let revision = response.header.as_ref()?.revision;
            return Some(Entered {
                revision,
                earlier_value: None,
            });
        }
        let found = match response.responses.as_slice() {
            [
                ResponseOp {
                    response: Some(OperationResult::ResponseRange(found)),
                },
            ] => found,
            _ => return None,
        };
        let found = only(found)?;
        Some(Entered {
            revision: found.create_revision,
            earlier_value: Some(found.value.clone()),
        })
    }

    /// Asks for the candidate just before the one whose key was created at `revision`.
    #[must_use]
    pub fn ahead(&self, revision: i64) -> RangeRequest {
        RangeRequest {
            max_create_revision: revision - 1,
            ..self.all.one(SortOrder::Descend)
        }
    }

    /// Asks for its own key.
    #[must_use]
    pub fn own(&self) -> RangeRequest {
        RangeRequest {
            key: self.key.clone(),
            ..RangeRequest::default()
        }
    }
}

/// Writes another value to a leader's key, if it still is the one created at `revision`.
#[must_use]
pub fn announce(key: Bytes, revision: i64, lease: i64, value: Bytes) -> TxnRequest {
    let put = Operation::RequestPut(PutRequest {
        key: key.clone(),
        value,
        lease,
        ..PutRequest::default()
    });
    TxnRequest {
        compare: vec![created_at(&key, revision)],
        success: vec![operation(put)],
        failure: Vec::new(),
    }
}

/// Deletes a candidate's key, if it still is the one created at `revision`.
#[must_use]
pub fn leave(key: Bytes, revision: i64) -> TxnRequest {
    let delete = Operation::RequestDeleteRange(DeleteRangeRequest {
        key: key.clone(),
        ..DeleteRangeRequest::default()
    });
    TxnRequest {
        compare: vec![created_at(&key, revision)],
        success: vec![operation(delete)],
        failure: Vec::new(),
    }
}

/// The one key that an answer holds, if it holds any.
#[must_use]
pub fn only(response: &RangeResponse) -> Option<&KeyValue> {
    response.kvs.first()
}

fn operation(request: Operation) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_etcds_own_recipe() {
        let all = Candidates::new(b"backup");
        assert_eq!(
            all.candidate(0x326969472).key().as_ref(),
            b"backup/326969472"
        );
        assert_eq!(all.candidate(-255).key().as_ref(), b"backup/-ff");
        assert_eq!(
            all.candidate(i64::MIN).key().as_ref(),
            b"backup/-8000000000000000"
        );
        let (start, end) = all.range();
        assert_eq!(
            (start.as_ref(), end.as_ref()),
            (&b"backup/"[..], &b"backup0"[..])
        );
    }

    #[test]
    fn entering_again_finds_the_place_taken_before() {
        let found = KeyValue {
            create_revision: 7,
            value: Bytes::from_static(b"v"),
            ..KeyValue::default()
        };
        let response = TxnResponse {
            succeeded: false,
            responses: vec![ResponseOp {
                response: Some(OperationResult::ResponseRange(RangeResponse {
                    kvs: vec![found],
                    ..RangeResponse::default()
                })),
            }],
            ..TxnResponse::default()
        };
        let expected = Entered {
            revision: 7,
            earlier_value: Some(Bytes::from_static(b"v")),
        };
        assert_eq!(Candidate::entered(&response), Some(expected));
        assert_eq!(Candidate::entered(&TxnResponse::default()), None);
    }

    #[test]
    fn only_older_candidates_are_ahead() {
        let ahead = Candidates::new(b"n").candidate(5).ahead(34);
        assert_eq!(ahead.max_create_revision, 33);
        assert_eq!(ahead.sort_order(), SortOrder::Descend);
        assert_eq!(ahead.sort_target(), SortTarget::Create);
        assert_eq!(ahead.limit, 1);
    }
}
