//! Locks and elections: one holder at a time, and fencing revisions in the order of holders.
//!
//! Who leads an election holds its lock: a campaign is judged as a `lock`, a resignation as an
//! `unlock`.
//!
//! A client holds the lock certainly from the answer to its `lock` until it gives it back, revokes
//! the lease, or could have lost the lease by time (its last acknowledged renewal + ttl, by the
//! rule of [`crate::lease`]). Two such spans of one lock never overlap. The fence of a lock is the
//! create revision of its key: whoever gets it later has a greater one, so that a store can refuse
//! the late.

use std::collections::BTreeMap;

use crate::history::{Key, LeaseId, Request, Revision, Time};
use crate::lease::Leases;
use crate::report::{Counts, Findings, Rule};
use crate::run::{End, Moment, Operation, Run};

/// One time that a lock was held.
struct Hold<'r, 'h> {
    operation: &'r Operation<'h>,
    key: &'h Key,
    lease: LeaseId,
    fence: Revision,
    /// The answer: held certainly from here.
    from: Moment,
    /// Until this line, and until this time.
    to_line: u64,
    to: Time,
}

/// What one at a time can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Prize<'h> {
    Lock(&'h Key),
    Leadership(&'h Key),
}

/// Judges all locks and elections of a run.
pub(crate) fn judge(run: &Run<'_>, leases: &Leases, counts: &mut Counts, findings: &mut Findings) {
    let mut prizes: BTreeMap<Prize<'_>, Vec<Hold<'_, '_>>> = BTreeMap::new();
    for operation in &run.operations {
        let (prize, lease) = match operation.request {
            Request::Lock(lock) => (Prize::Lock(&lock.name), lock.lease),
            Request::Campaign(campaign) => (Prize::Leadership(&campaign.name), campaign.lease),
            _ => continue,
        };
        let Some((from, held)) = operation
            .answer()
            .and_then(|(from, _, response)| Some((from, response.held()?)))
        else {
            continue;
        };
        match prize {
            Prize::Lock(_) => counts.locks += 1,
            Prize::Leadership(_) => counts.elections += 1,
        }
        let (to, revoked) = leases.certain_until(run, lease).unwrap_or((Time(0), 0));
        let given_back = run
            .operations
            .iter()
            .filter(|other| ends(other, &held.key, from))
            .map(|other| other.invoked.line)
            .min();
        prizes.entry(prize).or_default().push(Hold {
            operation,
            key: &held.key,
            lease,
            fence: held.fence,
            from,
            to_line: revoked.min(given_back.unwrap_or(u64::MAX)),
            to,
        });
    }
    for (prize, holds) in &mut prizes {
        holds.sort_by_key(|hold| hold.from.line);
        for (index, hold) in holds.iter().enumerate() {
            for earlier in &holds[..index] {
                pair(*prize, earlier, hold, findings);
            }
        }
    }
}

/// Whether the operation may take the lock key away after a moment.
fn ends(operation: &Operation<'_>, key: &Key, after: Moment) -> bool {
    if matches!(operation.end, End::Fail { .. }) {
        return false;
    }
    let may_delete = match operation.request {
        Request::Unlock(unlock) => unlock.key == *key,
        Request::Resign(resign) => resign.key == *key,
        Request::Delete(_) | Request::Txn(_) => crate::run::footprint(operation.request)
            .iter()
            .any(|keys| keys.contains(key)),
        _ => false,
    };
    // Open when the lock was answered, or begun later: either may end it.
    let over = operation
        .answer()
        .is_some_and(|(moment, ..)| moment.line < after.line);
    may_delete && !over
}

/// Judges two holds, of which `earlier` was answered first.
fn pair(prize: Prize<'_>, earlier: &Hold<'_, '_>, later: &Hold<'_, '_>, findings: &mut Findings) {
    let (what, holders, fencing) = match prize {
        Prize::Lock(name) => (format!("lock {name}"), Rule::LockHolders, Rule::LockFence),
        Prize::Leadership(name) => (
            format!("the leadership of {name}"),
            Rule::ElectionLeaders,
            Rule::ElectionFence,
        ),
    };
    if earlier.key == later.key && earlier.lease == later.lease {
        // The same lease asks again: it is the same hold, or a new one of its own.
        return;
    }
    let mut lines = earlier.operation.lines();
    lines.extend(later.operation.lines());
    let (one, other) = (earlier.operation.describe(), later.operation.describe());
    // Both hold it at the moment of the later answer.
    if later.from.line < earlier.to_line && later.from.at < earlier.to {
        let text = format!(
            "{what} was given to {other} (fence {}) at {}, while {one} (fence {}) held it: \
             since {}, and by its lease until {} at least",
            later.fence, later.from.at, earlier.fence, earlier.from.at, earlier.to
        );
        findings.add(holders, text, lines);
        return;
    }
    let begun_after = later.operation.invoked.line > earlier.from.line;
    if later.fence == earlier.fence || (begun_after && later.fence < earlier.fence) {
        let text = format!(
            "{what}: {other} has fence {}, but {one} had fence {} before",
            later.fence, earlier.fence
        );
        findings.add(fencing, text, lines);
    }
}
