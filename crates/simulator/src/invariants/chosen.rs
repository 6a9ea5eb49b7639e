//! *State Machine Safety* (Raft thesis, figure 3.2): one entry is chosen per slot, for ever.
//!
//! The first to say that a slot is chosen must be right: the acknowledgements that were really sent
//! are counted again, from the frames, against the membership in force (openraft#1802: a cached
//! order lost its meaning, and entries were committed without a quorum). And it must be counted by
//! an entry of the leader's own epoch (Raft thesis 3.6.2).
//!
//! Where there are witnesses, so many of those that hold entries must have acknowledged as there
//! are to be copies.
//!
//! In Paxos (*P2*, "Paxos Made Simple", 2.2: only one value is chosen) each slot is counted for
//! itself: it is chosen only if a phase 2 quorum of **one** ballot has said that it accepted it,
//! durably, and what is chosen is what was proposed under that ballot. Which members count at a
//! slot follows from the memberships chosen before it, and from nothing else.

use std::collections::{BTreeMap, BTreeSet};

use base::{Epoch, NodeId, Slot};
use consensus::{AnyEngine, Membership};

use super::ballots::Ballots;
use super::elections::Elections;
use super::{Violation, violated};

/// What is chosen, and who said so.
#[derive(Debug, Default)]
pub struct Chosen {
    /// By slot: the epoch of the chosen entry. Slot 0 is before everything.
    epochs: Vec<Epoch>,
    /// By slot: the epoch in which it was chosen, that of the leader who counted. In Paxos the
    /// lowest ballot under which it was.
    chosen_in: Vec<Epoch>,
    /// In Paxos: the memberships that were chosen, each with its slot.
    steps: Vec<(Slot, Membership)>,
    /// In Paxos: a leader whose own acceptance was needed for what it chose last.
    pub(super) own_vote: Option<(NodeId, Epoch, Slot)>,
    /// Per node and epoch, the highest slot acknowledged.
    acknowledged: BTreeMap<(NodeId, Epoch), Slot>,
    /// The membership that a node had in force after its last pass, with its slot: a pass may
    /// choose by one and then go on to the next.
    memberships: BTreeMap<NodeId, (Slot, Membership)>,
}

impl Chosen {
    /// The last slot that is known to be chosen.
    #[must_use]
    pub fn last(&self) -> Slot {
        Slot(self.epochs.len().saturating_sub(1) as u64)
    }

    /// The last slot that was chosen in an epoch up to `epoch`: what a leader of that epoch must
    /// have. One that slept through its own election may begin to lead when a later epoch has
    /// already chosen more.
    #[must_use]
    pub fn last_in(&self, epoch: Epoch) -> Slot {
        let count = self
            .chosen_in
            .partition_point(|chosen_in| *chosen_in <= epoch);
        Slot(count.saturating_sub(1) as u64)
    }

    /// In which epoch the entry at `slot` was chosen; in Paxos, the lowest ballot.
    #[must_use]
    pub fn chosen_in(&self, slot: Slot) -> Option<Epoch> {
        self.chosen_in.get(slot.0 as usize).copied()
    }

    /// In Paxos: who counts at `slot`, as far as the memberships before it are chosen.
    #[must_use]
    pub fn membership_at(&self, slot: Slot) -> Option<(usize, &Membership)> {
        let behind = self.steps.partition_point(|(at, _)| *at < slot);
        let at = behind.checked_sub(1)?;
        Some((at, &self.steps[at].1))
    }

    /// The epoch of the entry that is chosen at `slot`.
    #[must_use]
    pub fn epoch(&self, slot: Slot) -> Option<Epoch> {
        match slot {
            Slot(0) => Some(Epoch(0)),
            slot => self.epochs.get(slot.0 as usize).copied(),
        }
    }

    /// A node acknowledged everything up to `matched`; whether that is news.
    pub fn acknowledged(&mut self, node: NodeId, epoch: Epoch, matched: Slot) -> bool {
        let known = self.acknowledged.entry((node, epoch)).or_default();
        let is_news = matched > *known;
        *known = matched.max(*known);
        is_news
    }

    /// A node says that more is chosen than `from`; it was in epoch `was` when it was last seen.
    ///
    /// # Errors
    /// If that contradicts what was chosen before, or nobody can have chosen it.
    pub fn advanced(
        &mut self,
        own: NodeId,
        raft: &AnyEngine,
        from: Slot,
        (was, ballots, elections): (Epoch, &Ballots, &Elections),
    ) -> Result<(), Violation> {
        let glance = raft.glance();
        if self.epochs.is_empty() {
            self.epochs.push(Epoch(0));
            self.chosen_in.push(Epoch(0));
            let (slot, membership) = raft.membership_in_force();
            self.steps.push((slot, membership.clone()));
        }
        let known = self.last();
        match raft {
            AnyEngine::Paxos(_) => self.count(own, raft, (was, ballots, elections))?,
            AnyEngine::Raft(_) if glance.chosen > known => self.recount(own, raft)?,
            AnyEngine::Raft(_) => {}
        }
        let (slot, membership) = raft.membership_in_force();
        if self
            .memberships
            .get(&own)
            .is_none_or(|(known, _)| *known != slot)
        {
            self.memberships.insert(own, (slot, membership.clone()));
        }
        // Whoever is first to say so has counted by an entry of the epoch that it led.
        let chosen_in = raft.epoch_of(glance.chosen).unwrap_or(glance.epoch);
        let first = from.max(glance.start).next();
        for slot in first.0..=glance.chosen.0 {
            let slot = Slot(slot);
            let Some(epoch) = raft.epoch_of(slot) else {
                return violated(
                    "state machine safety",
                    format!("{own} says slot {slot} is chosen, and does not have it"),
                );
            };
            match self.epochs.get(slot.0 as usize) {
                Some(known) if *known == epoch => {}
                Some(known) => {
                    return violated(
                        "state machine safety",
                        format!("slot {slot}: epoch {known} was chosen, {own} has {epoch}"),
                    );
                }
                None if slot.0 as usize == self.epochs.len() => {
                    self.epochs.push(epoch);
                    self.chosen_in.push(chosen_in);
                }
                None => {
                    return violated(
                        "state machine safety",
                        format!(
                            "{own} says slot {slot} is chosen, but nobody chose what is before"
                        ),
                    );
                }
            }
        }
        Ok(())
    }

    fn recount(&self, own: NodeId, raft: &AnyEngine) -> Result<(), Violation> {
        let glance = raft.glance();
        let slot = glance.chosen;
        // Whoever counted led the epoch of that entry; it may have stepped down in the same pass.
        let Some(epoch) = raft.epoch_of(slot) else {
            return violated(
                "commit index recounted",
                format!("{own} says slot {slot} is chosen, and does not have it"),
            );
        };
        // A leader tells nobody of what it has itself; another one may not have heard yet what its
        // disk has told for it.
        let holds = |id: NodeId| {
            let acknowledged = self.acknowledged.get(&(id, epoch));
            acknowledged.is_some_and(|matched| *matched >= slot)
                || (id == own && glance.durable >= slot)
        };
        let is_quorum = |membership: &Membership| {
            let are_enough = |voters: &BTreeSet<NodeId>| {
                let count = voters.iter().filter(|id| holds(**id)).count();
                count >= membership.quorums.of(voters.len()).commit
            };
            are_enough(&membership.voters)
                && has_copies(membership, holds)
                && (membership.outgoing.is_empty() || are_enough(&membership.outgoing))
        };
        let (_, now) = raft.membership_in_force();
        let before = self.memberships.get(&own);
        if !is_quorum(now) && !before.is_some_and(|(_, before)| is_quorum(before)) {
            let of_epoch = self.acknowledged.iter().filter(|((_, of), _)| *of == epoch);
            return violated(
                "commit index recounted",
                format!(
                    "{own} says slot {slot} of epoch {epoch} is chosen; acknowledged by: {:?}, \
                     itself up to {}",
                    of_epoch.collect::<Vec<_>>(),
                    glance.durable
                ),
            );
        }
        Ok(())
    }

    /// Paxos: counts each slot that a node is the first to call chosen, and takes it in.
    fn count(
        &mut self,
        own: NodeId,
        paxos: &AnyEngine,
        (was, ballots, elections): (Epoch, &Ballots, &Elections),
    ) -> Result<(), Violation> {
        let glance = paxos.glance();
        for slot in (self.last().0 + 1..=glance.chosen.0).map(Slot) {
            let learnt = paxos.epoch_of(slot);
            let Some((_, membership)) = self.membership_at(slot) else {
                return violated("chosen by one ballot", "there are no members".to_owned());
            };
            // A leader of a group of one proposes to nobody.
            let alone = [(glance.epoch, learnt.unwrap_or_default())];
            let proposals = match ballots.proposals(slot) {
                [] => &alone[..],
                proposals => proposals,
            };
            // A leader tells itself of its own proposals, and nobody hears of that. It may have
            // stepped down in this pass.
            let leads = |ballot: Epoch, id| {
                id == own
                    && elections.leader(ballot) == Some(own)
                    && (ballot == glance.epoch || ballot == was)
                    && glance.durable >= slot
            };
            let is_counted = |(ballot, _): &&(Epoch, Epoch)| {
                let has = |id| leads(*ballot, id) || ballots.has_accepted(id, *ballot, slot);
                membership.commits(has) && has_copies(membership, has)
            };
            // What a leader told itself before it was gone may have counted, or not.
            let may_be = |(ballot, epoch): &&(Epoch, Epoch)| {
                let has = |id| leads(*ballot, id) || ballots.may_have_accepted(id, *ballot, slot);
                learnt == Some(*epoch) && membership.commits(has) && has_copies(membership, has)
            };
            let counted = proposals.iter().find(is_counted);
            let counted = counted.or_else(|| proposals.iter().find(may_be));
            // It may have proposed again to itself what others had proposed before.
            let counted = counted.or_else(|| alone.iter().find(is_counted));
            let Some((ballot, epoch)) = counted.copied() else {
                return violated(
                    "chosen by one ballot",
                    format!(
                        "{own} says slot {slot} is chosen, with {learnt:?}; proposed there \
                         (ballot, epoch): {proposals:?}, and no ballot was accepted by a quorum of \
                         {membership:?}; durable at {own} up to {}",
                        glance.durable
                    ),
                );
            };
            if learnt != Some(epoch) {
                return violated(
                    "only what was proposed is chosen",
                    format!(
                        "{own} says slot {slot} is chosen with {learnt:?}; a quorum accepted what \
                         ballot {ballot} proposed: {epoch}"
                    ),
                );
            }
            let without = |id| ballots.has_accepted(id, ballot, slot);
            if !membership.commits(without) {
                self.own_vote = Some((own, ballot, slot));
            }
            // P2c, for what was proposed before this was known to be chosen.
            let later = proposals
                .iter()
                .find(|(other, other_epoch)| *other > ballot && *other_epoch != epoch);
            if let Some((other, other_epoch)) = later {
                return violated(
                    "what is chosen is what higher ballots propose",
                    format!(
                        "slot {slot} is chosen with {epoch} under ballot {ballot}, and ballot \
                         {other} proposed {other_epoch}"
                    ),
                );
            }
            self.epochs.push(epoch);
            self.chosen_in.push(ballot);
            self.step(slot, epoch, paxos, ballots);
        }
        Ok(())
    }

    /// Paxos: a chosen membership is in force behind its slot.
    fn step(&mut self, slot: Slot, epoch: Epoch, paxos: &AnyEngine, ballots: &Ballots) {
        let (in_force, membership) = paxos.membership_in_force();
        if let Some(proposed) = ballots.membership(slot, epoch) {
            self.steps.push((slot, proposed.clone()));
        } else if in_force == slot {
            self.steps.push((slot, membership.clone()));
        }
    }
}

/// Whether so many of those that hold entries have one as there are to be copies; counted here once
/// more, and not by the engine.
fn has_copies(membership: &Membership, holds: impl Fn(NodeId) -> bool) -> bool {
    if membership.witnesses.is_empty() {
        return true;
    }
    let voters = membership.voters.iter();
    let holders = voters.filter(|id| !membership.witnesses.contains(id));
    let commit = membership.quorums.of(membership.voters.len()).commit;
    let asked = membership.quorums.copies().unwrap_or(commit).min(commit);
    let wanted = asked.min(holders.clone().count());
    holders.filter(|id| holds(**id)).count() >= wanted
}
