//! Leases as etcd's clients know them: whole seconds, a floor and a ceiling, and answers instead
//! of errors where clients expect those.
//!
//! Granting and revoking are commands. Renewing is not one of this crate: the node puts all
//! renewals of a moment into one command of its own, which serves every protocol; here it becomes
//! an id ([`crate::Plan::Renew`]) and an answer ([`renewed`]). What is left of a lease is a read.

use std::time::Duration;

use bytes::Bytes;
use state::{LeaseId, Reader, Space, Transaction};

use crate::budget::{ReadBudget, Stop};
use crate::command::Grant;
use crate::error::Error;
use crate::proto::etcdserverpb::{
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use crate::request::{Response, header};
use crate::view::View;

/// etcd's longest lease: 285 years.
pub(crate) const TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// Grants a lease: for less than the floor (nothing and less included), it becomes the floor.
pub(crate) fn grant(
    transaction: &mut Transaction<'_>,
    grant: &Grant,
) -> Result<LeaseGrantResponse, Error> {
    let id = LeaseId(grant.id);
    if id == LeaseId(0) {
        return Err(Error::LeaseNotFound);
    }
    if transaction.lease(id).is_some() {
        return Err(Error::LeaseExists);
    }
    let floor = i64::from(transaction.base().settings().lease_floor_seconds);
    let seconds = grant.ttl.clamp(floor, TTL_SECONDS_MAX.max(floor));
    transaction.grant_lease(id, Duration::from_secs(seconds.unsigned_abs()));
    Ok(LeaseGrantResponse {
        header: header(View::revision(transaction)),
        id: id.0,
        ttl: seconds,
        error: String::new(),
    })
}

/// Ends a lease, and deletes its keys at one revision.
pub(crate) fn revoke(
    transaction: &mut Transaction<'_>,
    id: i64,
) -> Result<LeaseRevokeResponse, Error> {
    let revoked = transaction.revoke_lease(LeaseId(id));
    revoked.ok_or(Error::LeaseNotFound)?;
    Ok(LeaseRevokeResponse {
        header: header(View::revision(transaction)),
    })
}

/// The answer to a keep-alive, once its renewal has been executed: for how long the lease is
/// granted, or `None` if there is no such lease, which etcd's clients know as 0 seconds.
#[must_use]
pub fn renewed(reader: &Reader, id: LeaseId, granted: Option<Duration>) -> Response {
    Response::LeaseKeepAlive(LeaseKeepAliveResponse {
        header: header(View::revision(reader)),
        id: id.0,
        ttl: seconds_renewed(granted),
    })
}

/// For how many seconds a renewed lease is granted, as etcd says it.
#[must_use]
pub fn seconds_renewed(granted: Option<Duration>) -> i64 {
    granted.map_or(0, seconds)
}

/// What is left of a lease at `clock`. One that does not exist has -1 seconds left.
pub(crate) fn time_to_live(
    reader: &Reader,
    clock: Duration,
    request: &LeaseTimeToLiveRequest,
    budget: &mut ReadBudget,
) -> Result<LeaseTimeToLiveResponse, Stop> {
    let id = LeaseId(request.id);
    let mut response = LeaseTimeToLiveResponse {
        header: header(View::revision(reader)),
        id: id.0,
        ttl: -1,
        ..LeaseTimeToLiveResponse::default()
    };
    let Some(lease) = reader.lease(id) else {
        return Ok(response);
    };
    response.ttl = match lease.parent {
        None => seconds(lease.deadline.saturating_sub(clock)),
        // What is left of it is known where it was granted.
        Some(_) => seconds(lease.granted),
    };
    response.granted_ttl = seconds(lease.granted);
    if request.keys {
        let keys = reader.lease_keys(id);
        for (_, key) in keys.filter(|(space, _)| *space == Space::ETCD) {
            budget.charge(key.len())?;
            response.keys.push(Bytes::clone(key));
        }
    }
    Ok(response)
}

/// All leases, the one that is over first at the front.
pub(crate) fn leases(
    reader: &Reader,
    budget: &mut ReadBudget,
) -> Result<LeaseLeasesResponse, Stop> {
    // They are all gathered and sorted for the first of them.
    budget.charge_each(reader.lease_count(), size_of::<LeaseStatus>())?;
    let leases = reader.leases_by_deadline();
    let leases = leases.map(|lease| LeaseStatus { id: lease.id.0 }).collect();
    Ok(LeaseLeasesResponse {
        header: header(View::revision(reader)),
        leases,
    })
}

/// Whole seconds, rounded down as etcd does.
fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_leases_are_refused_before_any_is_looked_at() {
        let mut state = state::State::new(state::Limits::default());
        state.begin_entry(&state::EntryStamp {
            slot: base::Slot(1),
            epoch: base::Epoch(1),
            wall: base::WallTime(0),
            elapsed: Duration::ZERO,
        });
        let mut transaction = state.transaction();
        for id in [3, 1, 2] {
            transaction.grant_lease(LeaseId(id), Duration::from_secs(9 - id.unsigned_abs()));
        }
        transaction.commit();
        assert!(state.end_entry().is_empty(), "no revision");
        let reader = state.reader();
        let bytes = size_of::<LeaseStatus>() as u64;
        let few = [
            ReadBudget::new(2, 99 * bytes),
            ReadBudget::new(99, 3 * bytes - 1),
        ];
        for mut budget in few {
            let before = budget.clone();
            assert_eq!(leases(reader, &mut budget), Err(Stop::TooLarge));
            assert_eq!(budget, before, "nothing was looked at");
        }
        let mut budget = ReadBudget::new(3, 3 * bytes);
        let all = leases(reader, &mut budget).expect("it is enough");
        let ids: Vec<i64> = all.leases.iter().map(|each| each.id).collect();
        assert_eq!(ids, [3, 2, 1], "what is over first comes first");
        assert_eq!(budget, ReadBudget::new(0, 0));
    }
}
