//! Reads the frames of Paxos replicas, and asks of each what its kind must fulfil.
//!
//! | frame | must be so |
//! |---|---|
//! | `Prepare` | whoever campaigns has promised the ballot to itself, and to nobody else |
//! | `Promise` | one candidate per ballot, no lower ballot later; it tells all that was accepted |
//! | `Accept` | one value per slot and ballot; what is chosen, where something is |
//! | `AcceptReply` | no higher ballot is promised; what is named is durable |
//! | `Learn` | what it teaches is chosen |
//!
//! And none calls chosen what nobody has chosen.

use base::{Epoch, NodeId, Slot};
use consensus::message::PaxosBody;
use consensus::{Entry, Payload, Slots};

use super::{Invariants, Violation, completeness, durability, violated};
use crate::marks::Mark;

impl Invariants {
    /// Looks at a message that only Paxos replicas send.
    pub(super) fn sent_by_paxos(
        &mut self,
        from: NodeId,
        to: NodeId,
        epoch: Epoch,
        body: &PaxosBody,
    ) -> Result<(), Violation> {
        match body {
            PaxosBody::Prepare { .. } => {
                self.checks += 1;
                self.elections.votes(from, epoch, from)
            }
            PaxosBody::Promise {
                granted: true,
                first,
                next,
                chosen,
                accepted,
            } => {
                self.checks += 1;
                self.votes(from, epoch, to)?;
                self.claims(from, *chosen)?;
                let known = (&self.ballots, &self.chosen);
                let range = (*first, *next, *chosen);
                durability::tells_all(from, epoch, range, accepted, known)?;
                for each in accepted {
                    let ballot = Some(each.ballot);
                    self.log
                        .told(from, ballot, &each.entry, &mut self.ballots)?;
                }
                match next {
                    Slot(0) => self.ballots.has_told(from, epoch),
                    _ => self.reached.push(Mark::ToldInPieces),
                }
                Ok(())
            }
            PaxosBody::Accept {
                session,
                chosen,
                entries,
                ..
            } if *session != 0 => {
                self.claims(from, *chosen)?;
                self.proposed(from, epoch, *chosen, entries)
            }
            PaxosBody::AcceptReply {
                durable,
                uncertain: None,
                ..
            } if *durable != Slots::default() => self.accepted(from, to, epoch, durable),
            PaxosBody::Learn {
                chosen, entries, ..
            } => {
                self.claims(from, *chosen)?;
                self.taught(from, entries)
            }
            _ => Ok(()),
        }
    }

    /// A node says that everything up to here is chosen.
    fn claims(&self, from: NodeId, chosen: Slot) -> Result<(), Violation> {
        // What one that ended in its last pass had chosen is counted once others say so too.
        match chosen <= self.chosen.last() || self.ended.contains(&from) {
            true => Ok(()),
            false => violated(
                "only what was proposed is chosen",
                format!(
                    "{from} says that everything up to slot {chosen} is chosen; only {} is",
                    self.chosen.last()
                ),
            ),
        }
    }

    fn proposed(
        &mut self,
        leader: NodeId,
        ballot: Epoch,
        told: Slot,
        entries: &[Entry],
    ) -> Result<(), Violation> {
        if entries.is_empty() {
            return Ok(());
        }
        self.checks += 1;
        for entry in entries {
            self.log
                .told(leader, Some(ballot), entry, &mut self.ballots)?;
            if entry.slot > told && entry.epoch < ballot {
                self.reached.push(Mark::ProposedAgain);
            } else if entry.epoch == ballot && entry.payload == Payload::Empty {
                self.reached.push(Mark::HoleFilled);
            }
        }
        let stop_sign = self.ballots.last_stop_sign(ballot);
        if self.ended.contains(&leader) && stop_sign > self.chosen.last() {
            // It may have stopped in the pass in which that was chosen: nobody could see it.
            return Ok(());
        }
        let by = (leader, ballot);
        completeness::proposes(by, told, entries, &self.chosen, &mut self.ballots)
    }

    fn accepted(
        &mut self,
        from: NodeId,
        to: NodeId,
        ballot: Epoch,
        durable: &Slots,
    ) -> Result<(), Violation> {
        self.votes(from, ballot, to)?;
        if !self.ballots.accepted(from, ballot, durable) {
            return Ok(());
        }
        self.checks += 1;
        if durable.highest() > durable.upto() {
            self.reached.push(Mark::AcceptedWithGap);
        }
        let Some(seen) = self.seen.iter().flatten().find(|seen| seen.node == from) else {
            return Ok(());
        };
        let glance = seen.glance;
        // What is known to be chosen may be on its way to the disk once more.
        let known = (glance.epoch == ballot).then(|| glance.durable.max(glance.chosen));
        self.vouch((from, ballot, durable.upto()), known)?;
        let stop_sign = self.ballots.last_stop_sign(ballot);
        let is_stopped = stop_sign > Slot(0) && durable.contains(stop_sign);
        if is_stopped && glance.chosen.next() < stop_sign {
            return violated(
                "a stop-sign is accepted once everything before it is chosen",
                format!(
                    "{from} accepts the membership at slot {stop_sign} under ballot {ballot}, and \
                     knows only {} to be chosen",
                    glance.chosen
                ),
            );
        }
        Ok(())
    }

    /// A node teaches chosen entries.
    fn taught(&mut self, from: NodeId, entries: &[Entry]) -> Result<(), Violation> {
        if !entries.is_empty() {
            self.reached.push(Mark::Taught);
        }
        for entry in entries {
            self.checks += 1;
            self.log.told(from, None, entry, &mut self.ballots)?;
            let chosen = self.chosen.epoch(entry.slot);
            let is_unseen = chosen.is_none() && self.ended.contains(&from);
            if chosen != Some(entry.epoch) && !is_unseen {
                return violated(
                    "only what was proposed is chosen",
                    format!(
                        "{from} teaches that {} is chosen at slot {}; {chosen:?} is",
                        entry.epoch, entry.slot
                    ),
                );
            }
        }
        Ok(())
    }
}
