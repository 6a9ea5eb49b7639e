//! What can be seen of a Paxos replica.

use std::sync::Arc;

use base::{Epoch, Slot};

use crate::engine::{self, Role, View};
use crate::membership::Membership;
use crate::paxos::Paxos;
use crate::raft::Glance;

impl Paxos {
    /// The replica at a glance. `last` is the last slot that holds anything; there may be gaps
    /// behind `chosen`.
    #[must_use]
    pub fn glance(&self) -> Glance {
        Glance {
            role: self.role,
            epoch: self.epoch,
            vote: self.vote,
            chosen: self.log.chosen(),
            start: self.log.start().slot,
            last: self.log.last(),
            durable: self.stored.upto(),
            is_uncertain: self.uncertain.is_some(),
        }
    }

    /// The epoch of the entry at `slot`, if the log holds one there.
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

    pub(super) fn look(&self) -> View {
        let role = match self.role {
            Role::Follower if !self.membership().is_voter(self.config.id) => Role::Learner,
            role => role,
        };
        let peers = self.leading.iter().flat_map(|leading| &leading.peers);
        let progress = peers.map(|(id, peer)| engine::Progress {
            id: *id,
            matched: peer.acked.upto(),
            last_heard: peer.contact.last_heard,
            is_counted_on: peer.contact.copying.is_counted_on(),
            receiving_snapshot: self.learning.couriers.contains_key(id),
        });
        View {
            role,
            epoch: self.epoch,
            leader: self.leader,
            chosen: self.log.chosen(),
            last: self.log.last(),
            durable: self.stored.upto(),
            membership: self.membership().clone(),
            progress: progress.collect(),
        }
    }
}
