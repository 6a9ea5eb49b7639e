//! What a node acknowledged is there after a restart (design, promise 1; yugabyte#32875: a follower
//! acknowledged before its own log was durable).
//!
//! Only what is chosen must be there: an entry that was acknowledged and never chosen may have been
//! replaced. A node that acknowledged up to `m` in epoch `e` has what its leader had up to there,
//! and that leader had everything chosen in epochs up to `e`.
//!
//! In Paxos each slot counts for itself (*P1b*: what an acceptor accepted it tells to whoever asks
//! for its promise of a higher ballot, so it must never forget it). What it said that it accepted
//! must stand on its disk, under that ballot or a higher one, when it says so and when it starts
//! again; and each promise must name it. A snapshot leaves in place what was accepted behind it. A
//! slot of which it is unsure is no empty slot.

use std::collections::BTreeMap;

use base::{Epoch, NodeId, Slot};
use consensus::message::Accepted;
use consensus::{AnyEngine, HardState, Slots};
use node::group::Group;

use super::ballots::Ballots;
use super::chosen::Chosen;
use super::{Violation, violated};

/// What a node told another, to be held against its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It has everything up to this slot, in this epoch.
    Holds(Epoch, Slot),
    /// It votes for this node in this epoch.
    Votes(Epoch, NodeId),
    /// Paxos: it has accepted these slots under this ballot, of this leader.
    Accepts(Epoch, NodeId, Slots),
}

/// What a disk holds of the log, slot by slot.
pub trait OnDisk {
    /// Everything up to here is covered by a checkpoint, or was let go behind one.
    fn covered(&self) -> Slot;
    /// The ballot and the epoch of the entry at this slot; none if there is no entry.
    fn accepted(&self, slot: Slot) -> Option<(Epoch, Epoch)>;
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
    let is_promised = |epoch: Epoch, to: NodeId| {
        hard_state.epoch > epoch || hard_state.epoch == epoch && hard_state.vote == Some(to)
    };
    let kept = match &promise {
        // A log that has been cut in a later epoch may end earlier.
        Promise::Holds(epoch, slot) => last >= *slot || hard_state.epoch > *epoch,
        // What was accepted is looked at slot by slot.
        Promise::Votes(epoch, to) | Promise::Accepts(epoch, to, _) => is_promised(*epoch, *to),
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

/// Holds what an acceptor says that it accepted under a ballot against its disk.
///
/// # Errors
/// If a slot is not there, or under a lower ballot, and not chosen either.
pub fn accepts_on_disk(
    node: NodeId,
    (ballot, slots): (Epoch, &Slots),
    disk: &impl OnDisk,
    chosen: &Chosen,
) -> Result<(), Violation> {
    let covered = disk.covered();
    let from = covered
        .next()
        .0
        .max(slots.highest().0.saturating_sub(COMPARED));
    for slot in (from..=slots.highest().0).map(Slot) {
        if !slots.contains(slot) {
            continue;
        }
        let held = disk.accepted(slot);
        let is_kept = held.is_some_and(|(held, _)| held >= ballot);
        // What was learned to be chosen may take the place of what was accepted.
        let is_chosen = held.is_some_and(|(_, epoch)| chosen.epoch(slot) == Some(epoch));
        if !is_kept && !is_chosen {
            return violated(
                "what is accepted is on the disk",
                format!(
                    "{node} says that it accepted slot {slot} under ballot {ballot}; its disk \
                     holds {held:?} there (ballot, epoch), and everything up to {covered}"
                ),
            );
        }
    }
    Ok(())
}

/// An acceptor has taken in a snapshot: what it had said that it accepted behind it is still there,
/// for whoever asks. Returns whether there was anything.
///
/// # Errors
/// If something is gone.
pub fn keeps_accepted(
    acceptor: NodeId,
    engine: &AnyEngine,
    ballots: &Ballots,
) -> Result<bool, Violation> {
    let from = engine.glance().chosen.next();
    let mut is_any = false;
    for (ballot, slots) in ballots.owed(acceptor) {
        let owed = (from.0..=slots.highest().0).map(Slot);
        for slot in owed.filter(|slot| slots.contains(*slot)) {
            is_any = true;
            if engine.epoch_of(slot).is_none() {
                violated(
                    "a snapshot leaves what was accepted behind it",
                    format!(
                        "{acceptor} said that it accepted slot {slot} under ballot {ballot}; since \
                         its log begins behind slot {} it has nothing there",
                        engine.glance().start
                    ),
                )?;
            }
        }
    }
    Ok(is_any)
}

/// How many of the last slots of a ballot are compared with the disk.
const COMPARED: u64 = 512;

/// An acceptor promises a ballot, and tells what it accepted at the slots from `first` to before
/// `next` (0: to the end), behind what it knows to be chosen.
///
/// # Errors
/// If it leaves something out that it has said it accepted.
pub fn tells_all(
    acceptor: NodeId,
    ballot: Epoch,
    (first, next, chosen): (Slot, Slot, Slot),
    accepted: &[Accepted],
    (ballots, known): (&Ballots, &Chosen),
) -> Result<(), Violation> {
    let from = first.max(chosen.next());
    for (under, slots) in ballots.owed(acceptor).filter(|owed| owed.0 < ballot) {
        let end = match next {
            Slot(0) => slots.highest(),
            next => slots.highest().min(next.previous()),
        };
        for slot in (from.0..=end.0)
            .map(Slot)
            .filter(|slot| slots.contains(*slot))
        {
            let told = accepted.iter().find(|each| each.entry.slot == slot);
            // What was learned to be chosen may have taken its place.
            let is_kept = told.is_some_and(|each| {
                each.ballot >= under || known.epoch(slot) == Some(each.entry.epoch)
            });
            if !is_kept {
                return violated(
                    "a promise tells what was accepted",
                    format!(
                        "{acceptor} promises ballot {ballot} and tells {:?} at slot {slot} \
                         (ballot, epoch); it had said that it accepted that slot under ballot \
                         {under}",
                        told.map(|each| (each.ballot, each.entry.epoch))
                    ),
                );
            }
        }
    }
    Ok(())
}

/// A node has let go of the log behind a checkpoint.
///
/// # Errors
/// If its own journal did not hold the log that far.
pub fn lets_go(group: Option<&Group>, checkpoint: Slot) -> Result<(), Violation> {
    let Some(running) = group else {
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
