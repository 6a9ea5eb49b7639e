//! Which memberships stand in a log, and which of them is in force.
//!
//! ```text
//!   base ── 12 ── 40 │ 77          the base is the snapshot's, the newest one is in force;
//!   earlier          │ in force    those between say who voted where the log may yet be cut
//! ```
//!
//! The one in force is asked for many times a pass, and hardly ever replaced: it stands by itself.

use std::sync::Arc;

use base::Slot;

use crate::membership::Membership;

/// A membership, and the slot from which it holds.
pub(crate) type Held = (Slot, Arc<Membership>);

/// See the head of this file: in the order of slots.
#[derive(Clone, Debug)]
pub(crate) struct Memberships {
    earlier: Vec<Held>,
    in_force: Held,
}

impl Memberships {
    /// That of the snapshot, and nothing behind it.
    pub(crate) fn new(base: Held) -> Memberships {
        Memberships {
            earlier: Vec::new(),
            in_force: base,
        }
    }

    /// The one in force.
    #[inline(always)]
    pub(crate) fn in_force(&self) -> &Held {
        &self.in_force
    }

    /// The one at the start of the log.
    pub(crate) fn base(&self) -> &Held {
        self.earlier.first().unwrap_or(&self.in_force)
    }

    /// One stands behind all others.
    pub(crate) fn push(&mut self, slot: Slot, membership: Arc<Membership>) {
        assert!(slot > self.in_force.0, "memberships come in order");
        let before = std::mem::replace(&mut self.in_force, (slot, membership));
        self.earlier.push(before);
    }

    /// `from` and everything behind it is cut off.
    pub(crate) fn cut(&mut self, from: Slot) {
        while self.in_force.0 >= from
            && let Some(before) = self.earlier.pop()
        {
            self.in_force = before;
        }
    }

    /// The log begins behind `slot`: what was in force there is the base.
    pub(crate) fn forget_until(&mut self, slot: Slot) {
        let forgotten = self.earlier.iter().skip(1).chain([&self.in_force]);
        let forgotten = forgotten.take_while(|held| held.0 <= slot).count();
        self.earlier.drain(..forgotten.min(self.earlier.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memberships(slots: &[u64]) -> Memberships {
        let held = |slot: &u64| (Slot(*slot), Arc::new(Membership::default()));
        let mut memberships = Memberships::new(held(&slots[0]));
        for (slot, membership) in slots[1..].iter().map(held) {
            memberships.push(slot, membership);
        }
        memberships
    }

    fn ends(memberships: &Memberships) -> (u64, u64) {
        (memberships.base().0.0, memberships.in_force().0.0)
    }

    #[test]
    fn a_cut_log_goes_by_what_was_in_force_before() {
        let mut some = memberships(&[5, 12, 40, 77]);
        some.cut(Slot(78));
        assert_eq!(ends(&some), (5, 77));
        some.cut(Slot(40));
        assert_eq!(ends(&some), (5, 12));
        some.cut(Slot(1));
        assert_eq!(ends(&some), (5, 5), "what a snapshot says is never cut off");
    }

    #[test]
    fn what_was_in_force_where_a_log_begins_is_its_base() {
        let mut some = memberships(&[5, 12, 40, 77]);
        some.forget_until(Slot(11));
        assert_eq!(ends(&some), (5, 77));
        some.forget_until(Slot(40));
        assert_eq!(ends(&some), (40, 77));
        some.forget_until(Slot(100));
        assert_eq!(ends(&some), (77, 77));
    }
}
