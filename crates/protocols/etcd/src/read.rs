//! Answers requests that change nothing, on the state or on a snapshot of it.

use state::Reader;

use crate::auth;
use crate::auth::gate::check_read;
use crate::budget::{ReadBudget, Stop};
use crate::command::{Operation, Txn};
use crate::error::Error;
use crate::lease;
use crate::plan::Read;
use crate::proto::etcdserverpb::response_op::Response as OperationResponse;
use crate::proto::etcdserverpb::{ResponseOp, TxnResponse};
use crate::range;
use crate::request::{Request, Response, header};
use crate::txn::{Branches, Work, branch, check, next};
use crate::view::{View, oldest_revision};

/// What became of a read.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadOutcome {
    /// It is answered.
    Done(Result<Response, Error>),
    /// The budget was used up: run it again on a snapshot, where it may take its time.
    TooLarge,
}

/// Answers a read within `budget`. With [`ReadBudget::UNLIMITED`] the outcome is always
/// [`ReadOutcome::Done`].
///
/// The answer's header holds the reader's revision, even if an older one is read, and nothing
/// else; the node fills in the rest.
pub fn read(reader: &Reader, read: &Read, mut budget: ReadBudget) -> ReadOutcome {
    match check_read(reader, read.caller(), read.request(), &mut budget) {
        Ok(()) => {}
        Err(Stop::Failed(error)) => return ReadOutcome::Done(Err(error)),
        Err(Stop::TooLarge) => return ReadOutcome::TooLarge,
    }
    let oldest = oldest_revision(reader);
    let answer = match read.request() {
        Request::Range(request) => {
            range::read(reader, oldest, &request.into(), &mut budget).map(Response::Range)
        }
        Request::RangePiece(piece) => {
            let answer = range::read_piece(reader, oldest, piece, &mut budget);
            answer.map(Response::Range)
        }
        Request::Txn(request) => {
            read_txn(reader, oldest, &request.into(), &mut budget).map(Response::Txn)
        }
        Request::LeaseTimeToLive(request) => {
            let clock = read.clock(reader);
            let answer = lease::time_to_live(reader, clock, request, &mut budget);
            answer.map(Response::LeaseTimeToLive)
        }
        Request::LeaseLeases => lease::leases(reader, &mut budget).map(Response::LeaseLeases),
        Request::Auth(request) => {
            auth::read::read(reader, request, &mut budget).map(Response::Auth)
        }
        // Only `plan` makes reads, and it makes none of these.
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_) => {
            Err(Error::Internal("quorate: a writing request was taken for a read").into())
        }
    };
    match answer {
        Ok(response) => ReadOutcome::Done(Ok(response)),
        Err(Stop::Failed(error)) => ReadOutcome::Done(Err(error)),
        Err(Stop::TooLarge) => ReadOutcome::TooLarge,
    }
}

fn read_txn(
    reader: &Reader,
    oldest: i64,
    txn: &Txn<'_>,
    budget: &mut ReadBudget,
) -> Result<TxnResponse, Stop> {
    let branches = Branches::decide(reader, txn, budget)?;
    let mut work = Work::allowed(reader).within(budget);
    // Too much for here may be little enough elsewhere, where the budget has no end.
    check(reader, txn, &mut branches.iter(), &mut work).map_err(|error| match error {
        Error::TxnTooLarge if budget.keys != u64::MAX => Stop::TooLarge,
        error => Stop::Failed(error),
    })?;
    let succeeded = next(&mut branches.iter());
    let mut responses = Vec::with_capacity(branch(txn, succeeded).len());
    for operation in branch(txn, succeeded) {
        let Operation::Range(range) = operation else {
            return Err(
                Error::Internal("quorate: a writing transaction was taken for a read").into(),
            );
        };
        let response = range::read(reader, oldest, range, budget)?;
        let response = Some(OperationResponse::ResponseRange(response));
        responses.push(ResponseOp { response });
    }
    Ok(TxnResponse {
        header: header(View::revision(reader)),
        succeeded,
        responses,
    })
}
