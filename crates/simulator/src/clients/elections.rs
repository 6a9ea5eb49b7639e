//! What the history has of requests that are part of something larger: a lock, an election, a list.
//!
//! ```text
//!   txn if created at 7: put      proclaim          txn if created at 7: delete     resign
//!   first of the candidates       leader            delete                          unlock
//! ```
//!
//! The requests are those that the server's lock service and its election service make of such
//! calls ([`etcd::candidacy`]); the history has what a caller of these would have seen.

use bytes::Bytes;
use checker::history::{
    Done, Key, Leader, LeaseId, LeaseList, LeasesListed, Led, Proclaim, Proclaimed, Request,
    Resign, Resigned, Response, Unlock, Value,
};
use etcd::proto::etcdserverpb::{TxnRequest, compare, request_op};

use super::recording::{key_value, revision};
use super::sessions::Purpose;
use crate::marks::{Mark, Marks};

/// What a request was meant to be.
#[must_use]
pub fn meant(purpose: Purpose, request: &etcd::Request) -> Request {
    match (purpose, request) {
        (Purpose::Unlock, etcd::Request::DeleteRange(delete)) => Request::Unlock(Unlock {
            key: Key(delete.key.clone()),
        }),
        (Purpose::Proclaim, etcd::Request::Txn(txn)) => {
            let (key, fence) = guarded(txn);
            let put = txn.success.first().and_then(|step| step.request.as_ref());
            let Some(request_op::Request::RequestPut(put)) = put else {
                unreachable!("a leader says something by a put")
            };
            Request::Proclaim(Proclaim {
                key,
                fence,
                lease: LeaseId(put.lease),
                value: Value(put.value.clone()),
            })
        }
        (Purpose::Resign, etcd::Request::Txn(txn)) => {
            let (key, fence) = guarded(txn);
            Request::Resign(Resign { key, fence })
        }
        (Purpose::Leader, etcd::Request::Range(range)) => {
            // What all candidates have in common ends in a '/'.
            let name: Bytes = range.key.slice(..range.key.len() - 1);
            Request::Leader(Leader { name: Key(name) })
        }
        (Purpose::List, etcd::Request::LeaseLeases) => Request::LeaseList(LeaseList {}),
        other => unreachable!("no client asks {other:?}"),
    }
}

/// The key that a transaction compares, and the revision that it was created at.
fn guarded(txn: &TxnRequest) -> (Key, checker::history::Revision) {
    let compare = txn.compare.first();
    let created = compare.and_then(|compare| match &compare.target_union {
        Some(compare::TargetUnion::CreateRevision(created)) => Some((&compare.key, *created)),
        _ => None,
    });
    let (key, created) = created.expect("what a leader does is only done while it leads");
    (Key(key.clone()), revision(created))
}

/// What a client was told of it.
#[must_use]
pub fn told(purpose: Purpose, response: &etcd::Response, marks: &mut Marks) -> Response {
    match (purpose, response) {
        (Purpose::Unlock, etcd::Response::DeleteRange(_)) => Response::Unlock(Done {}),
        (Purpose::Proclaim, etcd::Response::Txn(txn)) => {
            let leads = txn.succeeded;
            marks.reach(match leads {
                true => Mark::Proclaimed,
                false => Mark::ProclaimedLate,
            });
            Response::Proclaim(Proclaimed { leads })
        }
        (Purpose::Resign, etcd::Response::Txn(txn)) => {
            let left = txn.succeeded;
            Response::Resign(Resigned { left })
        }
        (Purpose::Leader, etcd::Response::Range(range)) => {
            let leader = range.kvs.first().map(key_value);
            if leader.is_some() {
                marks.reach(Mark::LeaderAsked);
            }
            Response::Leader(Led { leader })
        }
        (Purpose::List, etcd::Response::LeaseLeases(list)) => {
            let leases: Vec<LeaseId> = list.leases.iter().map(|lease| LeaseId(lease.id)).collect();
            if !leases.is_empty() {
                marks.reach(Mark::LeasesListed);
            }
            Response::LeaseList(LeasesListed { leases })
        }
        other => unreachable!("no client is told {other:?}"),
    }
}
