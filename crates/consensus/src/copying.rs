//! Whether a replica that is to hold a copy makes one, as its leader sees it.
//!
//! Where there are witnesses an operator may say that fewer copies are enough than commit: then
//! writes go on while a site is away. That is meant for a site that is away, not for every write.
//! A header told to a witness keeps everybody from leading who lacks the entry; were it told as
//! soon as the leader's own disk has it, then the loss of the leader would nearly always leave
//! nobody who may lead. So a leader counts on as many copies as commit while so many keep up, and
//! on fewer only without those that do not:
//!
//! ```text
//!   counted on ──── nothing heard for three heartbeats, or its connection was closed,
//!       ▲           or nothing new durable there for an election timeout ────▶ not counted on
//!       └──────────────── everything that is chosen is durable there ◀───────────┘
//! ```
//!
//! This decides when, never whether something is chosen: that is counted by the membership alone
//! (`quorum.rs`), and so whoever is wrong here waits too long, or not long enough to have one copy
//! more than was promised.

use std::time::Duration;

use base::{Instant, NodeId, Slot};

use crate::engine::Refusal;
use crate::membership::{Change, Membership};

/// Heartbeats without an answer, after which nobody waits for a copy.
const HEARTBEATS: u32 = 3;

/// Whether there are as many copies of a change of the members as there must be. Who lacks one can
/// choose nothing but the removal of a voter, and only while no other change is under way.
pub(crate) fn check(
    change: &Change,
    membership: &Membership,
    is_counted_on: impl Fn(NodeId) -> bool,
) -> Result<(), Refusal> {
    let leaves = matches!(change, Change::Remove(id) if membership.voters.contains(id));
    if membership.witnesses.is_empty() || leaves {
        return Ok(());
    }
    let have = membership.holders().filter(|id| is_counted_on(*id)).count();
    match membership.copies() {
        needed if have < needed => Err(Refusal::LacksCopies { have, needed }),
        _ => Ok(()),
    }
}

/// See the head of this file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copying {
    is_counted_on: bool,
    /// Everything up to here is durable there.
    reach: Slot,
    /// When it last came further, or had nothing left to do.
    moved_at: Instant,
}

impl Copying {
    /// One of which nothing is known: it is counted on.
    pub(crate) fn new(now: Instant) -> Copying {
        Copying {
            is_counted_on: true,
            reach: Slot(0),
            moved_at: now,
        }
    }

    /// Whether a copy there is waited for.
    pub(crate) fn is_counted_on(&self) -> bool {
        self.is_counted_on
    }

    /// It has said that everything up to `reach` is durable there.
    pub(crate) fn reached(&mut self, reach: Slot, chosen: Slot, now: Instant) {
        if reach > self.reach || reach >= chosen {
            self.moved_at = now;
        }
        self.reach = reach;
        self.is_counted_on |= reach >= chosen;
    }

    /// Its process has closed its connection.
    pub(crate) fn left(&mut self) {
        self.is_counted_on = false;
    }

    /// Looks whether it still keeps up with a leader whose own disk has everything up to `durable`,
    /// and who heard it last at `heard_at`.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        heard_at: Instant,
        durable: Slot,
        (heartbeat_interval, election_timeout): (Duration, Duration),
    ) {
        if self.reach >= durable {
            self.moved_at = now;
        }
        let is_silent = now.since(heard_at) >= heartbeat_interval * HEARTBEATS;
        let stands_still = now.since(self.moved_at) >= election_timeout;
        if is_silent || stands_still {
            self.is_counted_on = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

    fn at(milliseconds: u64) -> Instant {
        Instant(0) + Duration::from_millis(milliseconds)
    }

    #[test]
    fn who_is_silent_is_not_waited_for_until_it_has_what_is_chosen() {
        let mut copying = Copying::new(at(0));
        copying.reached(Slot(5), Slot(5), at(10));
        copying.look(at(300), at(10), Slot(5), TIMES);
        assert!(copying.is_counted_on());
        copying.look(at(310), at(10), Slot(5), TIMES);
        assert!(!copying.is_counted_on());
        copying.reached(Slot(6), Slot(7), at(400));
        assert!(
            !copying.is_counted_on(),
            "it is behind what was chosen meanwhile"
        );
        copying.reached(Slot(7), Slot(7), at(410));
        assert!(copying.is_counted_on());
        copying.left();
        assert!(!copying.is_counted_on());
    }

    #[test]
    fn who_answers_and_gets_nothing_done_is_not_waited_for_either() {
        let mut copying = Copying::new(at(0));
        for now in (100..=500).step_by(100) {
            copying.reached(Slot(5), Slot(9), at(now));
            copying.look(at(now), at(now), Slot(9), TIMES);
        }
        assert!(copying.is_counted_on(), "it had come further at 100");
        copying.look(at(600), at(600), Slot(9), TIMES);
        assert!(!copying.is_counted_on());
        // Who is slow and comes on is waited for.
        let mut copying = Copying::new(at(0));
        for now in (100..=2000).step_by(100) {
            copying.reached(Slot(now), Slot(9000), at(now));
            copying.look(at(now), at(now), Slot(9000), TIMES);
        }
        assert!(copying.is_counted_on());
    }
}
