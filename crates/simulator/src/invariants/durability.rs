//! What a node acknowledged is there after a restart (design, promise 1; yugabyte#32875: a follower
//! acknowledged before its own log was durable).
//!
//! Only what is chosen must be there: an entry that was acknowledged and never chosen may have been
//! replaced. A node that acknowledged up to `m` in epoch `e` has what its leader had up to there,
//! and that leader had everything chosen in epochs up to `e`.

use std::collections::BTreeMap;

use base::{Epoch, NodeId, Slot};
use consensus::{AnyEngine, HardState};
use node::running::Running;

use super::chosen::Chosen;
use super::{Violation, violated};

/// What a node told another, to be held against its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It has everything up to this slot, in this epoch.
    Holds(Epoch, Slot),
    /// It votes for this node in this epoch.
    Votes(Epoch, NodeId),
}

/// Holds a promise against what the disk would have after a power cut that takes all it may: the
/// hard state, and the log's end with the epoch of its last entry.
///
/// # Errors
/// If it would not be there.
pub fn on_disk(
    node: NodeId,
    promise: Promise,
    hard_state: &HardState,
    last: Slot,
) -> Result<(), Violation> {
    let kept = match promise {
        // A log that has been cut in a later epoch may end earlier.
        Promise::Holds(epoch, slot) => last >= slot || hard_state.epoch > epoch,
        Promise::Votes(epoch, candidate) => {
            hard_state.epoch > epoch
                || hard_state.epoch == epoch && hard_state.vote == Some(candidate)
        }
    };
    match kept {
        true => Ok(()),
        false => violated(
            "nothing is promised before it is on the disk",
            format!(
                "{node} says {promise:?}; after a power cut now its journal would end at slot \
                 {last}, with {hard_state:?}"
            ),
        ),
    }
}

/// A node has let go of the log behind a checkpoint.
///
/// # Errors
/// If its own journal did not hold the log that far.
pub fn lets_go(running: Option<&Running>, checkpoint: Slot) -> Result<(), Violation> {
    let Some(running) = running else {
        return Ok(());
    };
    let durable = running.engine().glance().durable;
    match durable >= checkpoint {
        true => Ok(()),
        false => violated(
            "a log is let go only once this disk holds it",
            format!(
                "{} lets go of the log behind its checkpoint at slot {checkpoint}, and only \
                 {durable} is durable there",
                running.id()
            ),
        ),
    }
}

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
    pub fn restarted(
        &self,
        node: NodeId,
        raft: &AnyEngine,
        chosen: &Chosen,
    ) -> Result<(), Violation> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_must_be_on_the_disk_unless_a_later_epoch_has_cut_it() {
        let voted = HardState {
            epoch: Epoch(3),
            vote: Some(NodeId(7)),
            ..HardState::default()
        };
        let looked = |promise| on_disk(NodeId(1), promise, &voted, Slot(10)).is_ok();
        assert!(looked(Promise::Holds(Epoch(3), Slot(10))));
        assert!(!looked(Promise::Holds(Epoch(3), Slot(11))));
        assert!(looked(Promise::Holds(Epoch(2), Slot(11))), "cut since");
        assert!(looked(Promise::Votes(Epoch(3), NodeId(7))));
        assert!(!looked(Promise::Votes(Epoch(3), NodeId(8))));
        assert!(!looked(Promise::Votes(Epoch(4), NodeId(7))));
        assert!(looked(Promise::Votes(Epoch(2), NodeId(8))), "over since");
    }
}
