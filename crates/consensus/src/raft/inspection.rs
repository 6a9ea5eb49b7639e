//! What a simulator looks at after every step: plain numbers, without a copy of anything.
//!
//! [`crate::Engine::view`] is for people and costs allocations; checks that run after each of
//! millions of steps need something that costs nothing.

use std::sync::Arc;

use base::{Epoch, NodeId, Slot};

use crate::engine::Role;
use crate::membership::Membership;
use crate::raft::Raft;

/// A replica at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// The part this replica plays.
    pub role: Role,
    /// The current epoch.
    pub epoch: Epoch,
    /// Whom it voted for in that epoch, whether that is durable or not.
    pub vote: Option<NodeId>,
    /// Everything up to here is chosen, as far as known.
    pub chosen: Slot,
    /// The log begins behind this slot.
    pub start: Slot,
    /// The last slot in the log.
    pub last: Slot,
    /// The last slot that is durable here.
    pub durable: Slot,
    /// It is unsure of its own log's end.
    pub is_uncertain: bool,
}

impl Raft {
    /// The replica at a glance.
    #[must_use]
    pub fn glance(&self) -> Glance {
        Glance {
            role: self.role,
            epoch: self.epoch,
            vote: self.vote,
            chosen: self.chosen,
            start: self.log.start().slot,
            last: self.log.last(),
            durable: self.log.durable(),
            is_uncertain: self.uncertain.is_some(),
        }
    }

    /// The epoch of the log's entry at `slot`, if the log reaches there.
    #[must_use]
    pub fn epoch_of(&self, slot: Slot) -> Option<Epoch> {
        self.log.epoch_at(slot)
    }

    /// The membership in force, and the slot of the entry that it stands in.
    #[must_use]
    pub fn membership_in_force(&self) -> (Slot, &Membership) {
        let (slot, membership) = self.log.membership();
        (*slot, membership)
    }

    /// The membership in force, shared.
    #[must_use]
    pub fn membership_shared(&self) -> &Arc<Membership> {
        &self.log.membership().1
    }
}
