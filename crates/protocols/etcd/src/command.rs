//! What is to be executed, as plain data: the form that requests and log records share.
//!
//! ```text
//!  PutRequest ─┐                                       ┌─ execute
//!  TxnRequest ─┼─► Command<'request> ─ encode ─► bytes ─ decode ─► Command<'bytes> ─► execute
//!  ...        ─┘      (borrowed)                            (borrowed again, nothing is copied)
//! ```
//!
//! A command holds only what decides a result; what concerns the way to it (`serializable`,
//! `physical`) is left out. Meaningless combinations that etcd tolerates are settled on the way in
//! (an unknown compare target, an operand that does not fit), so that execution has one meaning
//! for each record. The bytes are described in [`codec`].

pub(crate) mod codec;

use crate::auth::change::Change;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as OperationRequest;
use crate::proto::etcdserverpb::{
    self as pb, CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest,
};
use crate::span::KeySpan;

/// What is to be executed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command<'a> {
    /// Write a key.
    Put(Put<'a>),
    /// Delete keys.
    DeleteRange(DeleteRange<'a>),
    /// Compare, then do one of two lists of operations.
    Txn(Txn<'a>),
    /// Forget history before this revision.
    Compact(i64),
    /// Grant a lease.
    Grant(Grant),
    /// End this lease.
    Revoke(i64),
    /// Change users or roles.
    Auth(Change<'a>),
}

/// Grants a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Never 0: whoever proposes it chooses.
    pub(crate) id: i64,
    /// In seconds; what is below the floor becomes the floor.
    pub(crate) ttl: i64,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation<'a> {
    /// Read keys.
    Range(Range<'a>),
    /// Write a key.
    Put(Put<'a>),
    /// Delete keys.
    DeleteRange(DeleteRange<'a>),
    /// A transaction within the transaction.
    Txn(Txn<'a>),
}

/// Writes a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Put<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    /// 0: none.
    pub(crate) lease: i64,
    pub(crate) previous: bool,
    pub(crate) ignore_value: bool,
    pub(crate) ignore_lease: bool,
}

/// Deletes keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeleteRange<'a> {
    pub(crate) span: KeySpan<'a>,
    pub(crate) previous: bool,
}

/// Reads keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Range<'a> {
    pub(crate) span: KeySpan<'a>,
    /// 0 or less: all.
    pub(crate) limit: i64,
    /// 0 or less: the latest.
    pub(crate) revision: i64,
    pub(crate) sort: Sort,
    pub(crate) keys_only: bool,
    pub(crate) count_only: bool,
    pub(crate) filters: Filters,
}

/// In which order a range is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sort {
    pub(crate) target: SortTarget,
    pub(crate) order: SortOrder,
}

/// Which revisions a range leaves out. 0 stands for no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters {
    pub(crate) min_mod: i64,
    pub(crate) max_mod: i64,
    pub(crate) min_create: i64,
    pub(crate) max_create: i64,
}

/// Compares, then does one of two lists of operations.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Txn<'a> {
    pub(crate) compares: Vec<Compare<'a>>,
    pub(crate) success: Vec<Operation<'a>>,
    pub(crate) failure: Vec<Operation<'a>>,
}

/// A condition on each key of a span.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compare<'a> {
    pub(crate) span: KeySpan<'a>,
    pub(crate) relation: Relation,
    pub(crate) operand: Operand<'a>,
}

/// How what is found must stand to the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Equal,
    Greater,
    Less,
    NotEqual,
    /// A relation that etcd does not know: it lets every comparison pass.
    Any,
}

/// What to look at, and what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand<'a> {
    Version(i64),
    CreateRevision(i64),
    ModRevision(i64),
    Value(&'a [u8]),
    Lease(i64),
    /// A target that etcd does not know: everything is equal to it.
    Nothing,
}

impl<'a> From<&'a PutRequest> for Put<'a> {
    fn from(request: &'a PutRequest) -> Self {
        Put {
            key: &request.key,
            value: &request.value,
            lease: request.lease,
            previous: request.prev_kv,
            ignore_value: request.ignore_value,
            ignore_lease: request.ignore_lease,
        }
    }
}

impl<'a> From<&'a DeleteRangeRequest> for DeleteRange<'a> {
    fn from(request: &'a DeleteRangeRequest) -> Self {
        DeleteRange {
            span: KeySpan::new(&request.key, &request.range_end),
            previous: request.prev_kv,
        }
    }
}

impl<'a> From<&'a RangeRequest> for Range<'a> {
    /// Enumerations that do not exist have been refused before; here they count as the default.
    fn from(request: &'a RangeRequest) -> Self {
        Range {
            span: KeySpan::new(&request.key, &request.range_end),
            limit: request.limit,
            revision: request.revision,
            sort: Sort {
                target: request.sort_target(),
                order: request.sort_order(),
            },
            keys_only: request.keys_only,
            count_only: request.count_only,
            filters: Filters {
                min_mod: request.min_mod_revision,
                max_mod: request.max_mod_revision,
                min_create: request.min_create_revision,
                max_create: request.max_create_revision,
            },
        }
    }
}

impl<'a> From<&'a TxnRequest> for Txn<'a> {
    fn from(request: &'a TxnRequest) -> Self {
        Txn {
            compares: request.compare.iter().map(Compare::from).collect(),
            success: operations(&request.success),
            failure: operations(&request.failure),
        }
    }
}

/// Operations that ask for nothing have been refused before.
fn operations(requests: &[pb::RequestOp]) -> Vec<Operation<'_>> {
    let requests = requests
        .iter()
        .filter_map(|request| request.request.as_ref());
    requests.map(Operation::from).collect()
}

impl<'a> From<&'a OperationRequest> for Operation<'a> {
    fn from(request: &'a OperationRequest) -> Self {
        match request {
            OperationRequest::RequestRange(range) => Operation::Range(range.into()),
            OperationRequest::RequestPut(put) => Operation::Put(put.into()),
            OperationRequest::RequestDeleteRange(delete) => Operation::DeleteRange(delete.into()),
            OperationRequest::RequestTxn(txn) => Operation::Txn(txn.into()),
        }
    }
}

impl<'a> From<&'a pb::Compare> for Compare<'a> {
    fn from(compare: &'a pb::Compare) -> Self {
        let union = compare.target_union.as_ref();
        let number = |pick: fn(&TargetUnion) -> Option<i64>| union.and_then(pick).unwrap_or(0);
        let operand = match CompareTarget::try_from(compare.target) {
            Ok(CompareTarget::Version) => Operand::Version(number(|given| match given {
                TargetUnion::Version(version) => Some(*version),
                _ => None,
            })),
            Ok(CompareTarget::Create) => Operand::CreateRevision(number(|given| match given {
                TargetUnion::CreateRevision(revision) => Some(*revision),
                _ => None,
            })),
            Ok(CompareTarget::Mod) => Operand::ModRevision(number(|given| match given {
                TargetUnion::ModRevision(revision) => Some(*revision),
                _ => None,
            })),
            Ok(CompareTarget::Lease) => Operand::Lease(number(|given| match given {
                TargetUnion::Lease(lease) => Some(*lease),
                _ => None,
            })),
            Ok(CompareTarget::Value) => Operand::Value(match union {
                Some(TargetUnion::Value(value)) => value,
                _ => &[],
            }),
            Err(_) => Operand::Nothing,
        };
        let relation = match CompareResult::try_from(compare.result) {
            Ok(CompareResult::Equal) => Relation::Equal,
            Ok(CompareResult::Greater) => Relation::Greater,
            Ok(CompareResult::Less) => Relation::Less,
            Ok(CompareResult::NotEqual) => Relation::NotEqual,
            Err(_) => Relation::Any,
        };
        Compare {
            span: KeySpan::new(&compare.key, &compare.range_end),
            relation,
            operand,
        }
    }
}

impl<'a> From<&'a CompactionRequest> for Command<'a> {
    fn from(request: &'a CompactionRequest) -> Self {
        Command::Compact(request.revision)
    }
}
