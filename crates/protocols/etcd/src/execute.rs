//! Executes command records: the same on every replica, from nothing but the record and the state.
//!
//! ```text
//!  record ─ decode ─► alarms, permissions, quota ─► checks on the state before ─► writes ─► commit
//!              │                │                               │
//!              └────────────────┴───────────────────────────────┴─► error: the transaction is
//!                                                                   dropped, nothing happened
//! ```
//!
//! What can fail has failed before the first write; should something fail later nevertheless, the
//! buffered writes are dropped with the transaction.
//!
//! What a transaction's ranges find is part of the answer and of nothing else. So they are read
//! only where somebody waits for the answer: on one replica, and not again when it is started anew.

use bytes::Bytes;
use state::{Revision, Space, Transaction};

use crate::auth::{Gates, change, gate};
use crate::budget::{ReadBudget, Stop};
use crate::command::codec::{self, Damage};
use crate::command::{Command, DeleteRange, Operation, Put, Txn};
use crate::error::Error;
use crate::lease;
use crate::maintenance::alarm;
use crate::proto::etcdserverpb::response_op::Response as OperationResponse;
use crate::proto::etcdserverpb::{
    CompactionResponse, DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader,
    ResponseOp, TxnResponse,
};
use crate::quota;
use crate::range::{self, whole_pair};
use crate::request::{Response, header};
use crate::span::KeySpan;
use crate::txn::{Branches, Work, branch, check, check_put, next};
use crate::view::{View, key_range, oldest_revision};

/// Executes a command record that [`crate::plan()`] has made. The answer's header holds the
/// revision and nothing else; the node fills in the rest.
///
/// # Errors
/// Whatever depends on the state: what the caller may not do, a missing key or lease, a revision
/// that is compacted or not there yet, the quota, an alarm. And [`Error::Internal`] if the record
/// cannot be understood, which nothing but a bug can bring about. After an error nothing has
/// changed.
pub fn execute(transaction: Transaction<'_>, command: &[u8]) -> Result<Response, Error> {
    execute_with(&mut Gates::default(), transaction, command, true)
}

/// As [`execute`], for one command after the other: what was found out about users who asked
/// lately is not looked up again, and does not change what comes out. If the answer is not
/// `awaited`, what ranges within a transaction find and the previous pairs of deletions are left
/// out of it; what is done is the same.
///
/// # Errors
/// As there.
pub fn execute_with(
    gates: &mut Gates,
    mut transaction: Transaction<'_>,
    command: &[u8],
    awaited: bool,
) -> Result<Response, Error> {
    let codec::Record { caller, command } =
        codec::decode(command).map_err(|damage| match damage {
            Damage::UnknownVersion => {
                Error::Internal("quorate: a command record of unknown version")
            }
            Damage::Malformed => Error::Internal("quorate: a malformed command record"),
        })?;
    let raised = alarm::raised(transaction.base());
    if raised.corrupt {
        return Err(Error::Corrupt);
    }
    gate::check_command(gates, transaction.base(), caller, &command)?;
    let cost = quota::cost(&command);
    if cost > 0 && (raised.no_space || !transaction.room_for(cost)) {
        return Err(Error::NoSpace);
    }
    let response = match &command {
        Command::Put(request) => {
            check_put(transaction.base(), request)?;
            Response::Put(put(&mut transaction, request)?)
        }
        Command::DeleteRange(request) => {
            Response::DeleteRange(delete_range(&mut transaction, request, awaited))
        }
        Command::Txn(request) => Response::Txn(run(&mut transaction, request, awaited)?),
        Command::Compact(revision) => Response::Compact(compact(&mut transaction, *revision)?),
        Command::Grant(request) => Response::LeaseGrant(lease::grant(&mut transaction, request)?),
        Command::Revoke(id) => Response::LeaseRevoke(lease::revoke(&mut transaction, *id)?),
        Command::Auth(change) => Response::Auth(change::execute(&mut transaction, change)?),
    };
    transaction.commit();
    Ok(response)
}

fn put(transaction: &mut Transaction<'_>, put: &Put<'_>) -> Result<PutResponse, Error> {
    let mut value = put.value;
    let mut lease = put.lease;
    let kept;
    if put.ignore_value || put.ignore_lease {
        kept = View::get(transaction, put.key, None).ok_or(Error::KeyNotFound)?;
        if put.ignore_value {
            value = &kept.value;
        }
        if put.ignore_lease {
            lease = kept.lease;
        }
    }
    let previous = transaction.put(Space::ETCD, put.key, value, lease);
    let prev_kv = previous.filter(|_| put.previous).map(whole_pair);
    Ok(PutResponse {
        header: header(View::revision(transaction)),
        prev_kv,
    })
}

fn delete_range(
    transaction: &mut Transaction<'_>,
    delete: &DeleteRange<'_>,
    awaited: bool,
) -> DeleteRangeResponse {
    let mut response = DeleteRangeResponse::default();
    let mut delete_key = |transaction: &mut Transaction<'_>, key: &[u8]| {
        if let Some(previous) = transaction.delete(Space::ETCD, key) {
            response.deleted += 1;
            if delete.previous && awaited {
                response.prev_kvs.push(whole_pair(previous));
            }
        }
    };
    match delete.span {
        KeySpan::Single(key) => delete_key(transaction, key),
        span if span.is_empty() => {}
        span => {
            let range = key_range(&span);
            let found = View::range(transaction, &range, None);
            let keys: Vec<Bytes> = found.map(|found| found.key).collect();
            for key in keys {
                delete_key(transaction, &key);
            }
        }
    }
    response.header = header(View::revision(transaction));
    response
}

/// A revision up to which history is compacted already cannot be compacted again, a future one
/// not yet. To compact a new keyspace at 0 is allowed, and does nothing.
fn compact(transaction: &mut Transaction<'_>, revision: i64) -> Result<CompactionResponse, Error> {
    if revision <= oldest_revision(transaction.base()) {
        return Err(Error::Compacted);
    }
    if revision > View::revision(transaction.base()) {
        return Err(Error::FutureRevision);
    }
    if revision > 0 {
        transaction.compact(Revision(revision));
    }
    Ok(CompactionResponse {
        header: header(View::revision(transaction)),
    })
}

fn run(
    transaction: &mut Transaction<'_>,
    txn: &Txn<'_>,
    awaited: bool,
) -> Result<TxnResponse, Error> {
    let base = transaction.base();
    let mut work = Work::allowed(base);
    let branches = Branches::decide(base, txn, &mut work.budget()).map_err(failed)?;
    check(base, txn, &mut branches.iter(), &mut work)?;
    let mut response = run_branch(transaction, txn, &mut branches.iter(), awaited)?;
    response.header = header(View::revision(transaction));
    Ok(response)
}

fn run_branch(
    transaction: &mut Transaction<'_>,
    txn: &Txn<'_>,
    branches: &mut dyn Iterator<Item = bool>,
    awaited: bool,
) -> Result<TxnResponse, Error> {
    let succeeded = next(branches);
    let operations = branch(txn, succeeded);
    let mut responses = Vec::with_capacity(operations.len());
    for operation in operations {
        let response = match operation {
            Operation::Range(_) if !awaited => {
                OperationResponse::ResponseRange(RangeResponse::default())
            }
            Operation::Range(request) => {
                let oldest = oldest_revision(transaction.base());
                let mut budget = ReadBudget::UNLIMITED;
                let answer = range::read(transaction, oldest, request, &mut budget);
                OperationResponse::ResponseRange(answer.map_err(failed)?)
            }
            Operation::Put(request) => OperationResponse::ResponsePut(put(transaction, request)?),
            Operation::DeleteRange(request) => {
                OperationResponse::ResponseDeleteRange(delete_range(transaction, request, awaited))
            }
            Operation::Txn(nested) => {
                OperationResponse::ResponseTxn(run_branch(transaction, nested, branches, awaited)?)
            }
        };
        responses.push(ResponseOp {
            response: Some(response),
        });
    }
    // Only the outermost transaction tells a revision.
    Ok(TxnResponse {
        header: Some(ResponseHeader::default()),
        succeeded,
        responses,
    })
}

/// Comparisons have a budget; once the first write is done, a command is executed to its end.
fn failed(stop: Stop) -> Error {
    match stop {
        Stop::Failed(error) => error,
        Stop::TooLarge => Error::TxnTooLarge,
    }
}
