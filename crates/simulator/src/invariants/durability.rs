//! What a node acknowledged is there after a restart (design, promise 1; yugabyte#32875: a follower
//! acknowledged before its own log was durable).
//!
//! Only what is chosen must be there: an entry that was acknowledged and never chosen may have been
//! replaced. A node that acknowledged up to `m` in epoch `e` has what its leader had up to there,
//! and that leader had everything chosen in epochs up to `e`.

use std::collections::BTreeMap;

use base::{Epoch, NodeId, Slot};
use consensus::Raft;

use super::chosen::Chosen;
use super::{Violation, violated};

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct Durability {
    acknowledged: BTreeMap<NodeId, (Epoch, Slot)>,
}

impl Durability {
    /// A node acknowledged everything up to `matched`.
    pub fn acknowledged(&mut self, node: NodeId, epoch: Epoch, matched: Slot) {
        // A new leader may have cut what an older one was told: the newest word counts.
        self.acknowledged.insert(node, (epoch, matched));
    }

    /// With the atlas' leave, what this node had may be gone.
    pub fn excuse(&mut self, node: NodeId) {
        self.acknowledged.remove(&node);
    }

    /// A node runs again.
    ///
    /// # Errors
    /// If something is missing.
    pub fn restarted(&self, node: NodeId, raft: &Raft, chosen: &Chosen) -> Result<(), Violation> {
        let Some((epoch, matched)) = self.acknowledged.get(&node) else {
            return Ok(());
        };
        let mut slot = (*matched).min(chosen.last());
        while chosen.epoch(slot).is_some_and(|each| each > *epoch) {
            slot = slot.previous();
        }
        let glance = raft.glance();
        if slot <= glance.start || glance.is_uncertain {
            return Ok(());
        }
        if raft.epoch_of(slot) != chosen.epoch(slot) {
            return violated(
                "what was acknowledged is durable",
                format!(
                    "{node} had acknowledged slot {matched} in epoch {epoch}; slot {slot} is \
                     chosen with epoch {:?}, and after its restart it has {:?} (log {}..={})",
                    chosen.epoch(slot),
                    raft.epoch_of(slot),
                    glance.start.next(),
                    glance.last
                ),
            );
        }
        Ok(())
    }
}
