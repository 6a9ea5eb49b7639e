//! From a request to what must be done with it: everything that can be said without the state.
//!
//! A request is refused here, in etcd's order of checks and with etcd's errors, before it costs
//! anything; otherwise it becomes either a read, answered by one replica, or a command record,
//! executed by all.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use state::limits::ROW_BYTES_MAX;
use state::{LeaseId, Reader};

use crate::auth::gate::CallerRef;
use crate::auth::{Caller, change};
use crate::command::{Command, Grant, codec};
use crate::error::Error;
use crate::lease::TTL_SECONDS_MAX;
use crate::limits::{MAX_TXN_DEPTH, RequestLimits};
use crate::overlap;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as Operation;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use crate::request::Request;

/// What must be done with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Answer it with [`crate::read()`].
    Read(Read),
    /// Propose these bytes; every replica runs them through [`crate::execute()`].
    Command(Bytes),
    /// Renew this lease, together with all that are renewed at the same time, and answer with
    /// [`crate::renewed`].
    Renew(LeaseId),
}

/// A request that changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    request: Request,
    serializable: bool,
    /// The group's clock, as far as it is known to have moved on since the last entry.
    clock: Duration,
    /// Who asks.
    caller: Option<Arc<Caller>>,
}

impl Read {
    fn new(request: Request, serializable: bool) -> Read {
        Read {
            request,
            serializable,
            clock: Duration::ZERO,
            caller: None,
        }
    }

    /// Who asks, if somebody has signed in.
    pub(crate) fn caller(&self) -> Option<CallerRef<'_>> {
        self.caller.as_deref().map(Caller::borrowed)
    }

    /// What to read: a range, a transaction of ranges, or leases.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The client allows a stale answer: any replica may give it at once. Otherwise the answer
    /// must be linearizable.
    pub fn serializable(&self) -> bool {
        self.serializable
    }

    /// Says where the group's clock is thought to be by now: the state knows it only as of its
    /// last entry, and what is left of a lease is less than that.
    pub fn set_clock(&mut self, clock: Duration) {
        self.clock = clock;
    }

    /// The group's clock.
    pub(crate) fn clock(&self, reader: &Reader) -> Duration {
        self.clock.max(reader.clock())
    }
}

/// Checks a request and says what must be done with it.
///
/// # Errors
/// etcd's, in etcd's order, for a request that could not be executed whatever the state.
pub fn plan(request: Request, limits: &RequestLimits) -> Result<Plan, Error> {
    plan_for(None, request, limits)
}

/// As [`plan`], for somebody who has signed in.
///
/// # Errors
/// As there. Whether the caller may do this is decided where it is done.
pub fn plan_for(
    caller: Option<Arc<Caller>>,
    request: Request,
    limits: &RequestLimits,
) -> Result<Plan, Error> {
    let borrowed = caller.as_deref().map(Caller::borrowed);
    let mut plan = plan_of(borrowed, request, limits)?;
    if let Plan::Read(read) = &mut plan {
        read.caller = caller;
    }
    Ok(plan)
}

fn plan_of(
    caller: Option<CallerRef<'_>>,
    request: Request,
    limits: &RequestLimits,
) -> Result<Plan, Error> {
    let record = |command: &Command<'_>| record(caller, command, limits);
    match &request {
        Request::Range(range) => {
            check_range(range)?;
            let serializable = range.serializable;
            Ok(Plan::Read(Read::new(request, serializable)))
        }
        Request::RangePiece(piece) => {
            // Whatever this replica has once told, it can tell again.
            let serializable = piece.request.serializable || !piece.is_first;
            Ok(Plan::Read(Read::new(request, serializable)))
        }
        Request::Put(put) => {
            check_put(put)?;
            record(&Command::Put(put.into()))
        }
        Request::DeleteRange(delete) => {
            check_key(&delete.key)?;
            record(&Command::DeleteRange(delete.into()))
        }
        Request::Txn(txn) => {
            check_txn(txn, limits.max_txn_operations, MAX_TXN_DEPTH)?;
            overlap::check(txn)?;
            if is_read_only(txn) {
                let serializable = is_serializable(txn);
                return Ok(Plan::Read(Read::new(request, serializable)));
            }
            record(&Command::Txn(txn.into()))
        }
        Request::Compact(compaction) => record(&compaction.into()),
        Request::LeaseGrant(grant) if grant.ttl > TTL_SECONDS_MAX => Err(Error::LeaseTooLong),
        Request::LeaseGrant(LeaseGrantRequest { id, ttl }) => {
            let (id, ttl) = (*id, *ttl);
            record(&Command::Grant(Grant { id, ttl }))
        }
        Request::LeaseRevoke(revoke) => record(&Command::Revoke(revoke.id)),
        Request::LeaseKeepAlive(renewal) => Ok(Plan::Renew(LeaseId(renewal.id))),
        Request::Auth(auth) => match change::plan(auth)? {
            change::Planned::Change(change) => record(&Command::Auth(change)),
            change::Planned::Read => Ok(Plan::Read(Read::new(request, false))),
        },
        Request::LeaseTimeToLive(_) | Request::LeaseLeases => {
            Ok(Plan::Read(Read::new(request, false)))
        }
    }
}

fn record(
    caller: Option<CallerRef<'_>>,
    command: &Command<'_>,
    limits: &RequestLimits,
) -> Result<Plan, Error> {
    let record = codec::encode(caller, command);
    // Whatever the limit says: the state must be able to hold it.
    if record.len() > limits.max_request_bytes.min(ROW_BYTES_MAX) {
        return Err(Error::RequestTooLarge);
    }
    Ok(Plan::Command(record.into()))
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() {
        Err(Error::KeyEmpty)
    } else {
        Ok(())
    }
}

pub(crate) fn check_range(range: &RangeRequest) -> Result<(), Error> {
    check_key(&range.key)?;
    let order = SortOrder::try_from(range.sort_order);
    let target = SortTarget::try_from(range.sort_target);
    if order.is_err() || target.is_err() {
        Err(Error::InvalidSortOption)
    } else {
        Ok(())
    }
}

fn check_put(put: &PutRequest) -> Result<(), Error> {
    check_key(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// A nested transaction may hold as many operations as the longest list around it leaves over.
fn check_txn(txn: &TxnRequest, budget: usize, depth_left: usize) -> Result<(), Error> {
    let longest = txn
        .compare
        .len()
        .max(txn.success.len())
        .max(txn.failure.len());
    let left = budget
        .checked_sub(longest)
        .ok_or(Error::TooManyOperations)?;
    let depth_left = depth_left.checked_sub(1).ok_or(Error::TooManyOperations)?;
    for compare in &txn.compare {
        check_key(&compare.key)?;
    }
    for operation in txn.success.iter().chain(&txn.failure) {
        match &operation.request {
            Some(Operation::RequestRange(range)) => check_range(range)?,
            Some(Operation::RequestPut(put)) => check_put(put)?,
            Some(Operation::RequestDeleteRange(delete)) => check_key(&delete.key)?,
            Some(Operation::RequestTxn(nested)) => check_txn(nested, left, depth_left)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// Ranges only. A nested transaction makes it a writing one, whatever it holds, as in etcd.
fn is_read_only(txn: &TxnRequest) -> bool {
    operations(txn).all(|operation| matches!(operation, Some(Operation::RequestRange(_))))
}

/// Each range allows a stale answer.
fn is_serializable(txn: &TxnRequest) -> bool {
    operations(txn).all(|operation| match operation {
        Some(Operation::RequestRange(range)) => range.serializable,
        _ => false,
    })
}

fn operations(txn: &TxnRequest) -> impl Iterator<Item = Option<&Operation>> {
    let operations = txn.success.iter().chain(&txn.failure);
    operations.map(|operation: &RequestOp| operation.request.as_ref())
}
