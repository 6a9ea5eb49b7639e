//! No lease ends early, what has ended stays so, and in the end every lease that nobody renews is
//! gone (etcd#15247 and #9888: leases that a new leader ended too soon, or never).
//!
//! ```text
//!   true time     ├──────── elapsed · (1 + drift) + jumps ───────▶  the most that clocks can show
//!   group's clock ├───────────────────────▶  never beyond that, on any replica
//!   lease         ├── … renewed ──▶ deadline · · · gone: not before the group's clock is there
//! ```
//!
//! Seen from inside, between two passes; what clients were told of leases is the checker's.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Instant, NodeId, Slot};
use checker::history::Bounds;
use state::{LeaseId, Reader};

use super::{Violation, violated};

#[derive(Clone, Copy, Debug)]
struct Known {
    /// The newest slot at which it was seen, and its deadline there.
    slot: Slot,
    deadline: Duration,
    /// The first slot known without it.
    gone: Option<Slot>,
}

/// Every lease that some replica has had.
#[derive(Debug, Default)]
pub struct Leases {
    began: Instant,
    bounds: Bounds,
    known: BTreeMap<LeaseId, Known>,
    /// Those that may go at any time: their clients want it.
    revoked: BTreeMap<LeaseId, ()>,
    /// Those that time has ended, since somebody last looked here.
    pub expired: Vec<LeaseId>,
}

impl Leases {
    /// What clocks may do in this run.
    pub fn hold_to(&mut self, began: Instant, bounds: Bounds) {
        (self.began, self.bounds) = (began, bounds);
    }

    /// A client asks for the end of a lease.
    pub fn revoking(&mut self, lease: LeaseId) {
        self.revoked.insert(lease, ());
    }

    /// A replica has executed more.
    ///
    /// # Errors
    /// What does not hold.
    pub fn executed(
        &mut self,
        now: Instant,
        own: NodeId,
        reader: &Reader,
    ) -> Result<(), Violation> {
        self.clock(now, own, reader.clock())?;
        if reader.lease_count() == 0 && self.known.is_empty() {
            return Ok(());
        }
        let applied = reader.applied();
        for lease in reader.leases_by_deadline() {
            let known = self.known.entry(lease.id).or_insert(Known {
                slot: applied,
                deadline: lease.deadline,
                gone: None,
            });
            if known.gone.is_some_and(|gone| gone <= applied) {
                return violated(
                    "what has ended stays ended",
                    format!("{own} has lease {:?} again at slot {applied}", lease.id.0),
                );
            }
            if known.slot <= applied {
                (known.slot, known.deadline) = (applied, lease.deadline);
            }
        }
        let clock = reader.clock();
        for (id, known) in &mut self.known {
            let is_gone =
                known.gone.is_none() && known.slot < applied && reader.lease(*id).is_none();
            if !is_gone {
                continue;
            }
            known.gone = Some(applied);
            if self.revoked.contains_key(id) {
                continue;
            }
            if clock < known.deadline {
                return violated(
                    "no lease ends early",
                    format!(
                        "lease {} is gone on {own} at slot {applied}, where the group's clock is \
                         at {clock:?}; it had until {:?}",
                        id.0, known.deadline
                    ),
                );
            }
            self.expired.push(*id);
        }
        Ok(())
    }

    fn clock(&self, now: Instant, own: NodeId, clock: Duration) -> Result<(), Violation> {
        let passed = now.since(self.began).as_nanos();
        let drift = passed * u128::from(self.bounds.clock_drift_ppm) / 1_000_000;
        let most = passed + drift + u128::from(self.bounds.lease_early_ns);
        if clock.as_nanos() > most {
            return violated(
                "the group's clock never runs ahead",
                format!(
                    "it shows {clock:?} on {own}, {:?} after the beginning; with all that clocks \
                     did it can be {most} ns at most",
                    now.since(self.began)
                ),
            );
        }
        Ok(())
    }
}

/// How much time is left of the last lease that any of these replicas has; `None`: there is none.
#[must_use]
pub fn last(readers: &[&Reader]) -> Option<Duration> {
    let left = readers.iter().filter_map(|reader| {
        let last = reader.leases_by_deadline().map(|lease| lease.deadline);
        Some(last.max()?.saturating_sub(reader.clock()))
    });
    left.max()
}
