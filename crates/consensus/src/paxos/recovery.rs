//! Going on alone, after a quorum was lost for good.
//!
//! ```text
//!   accepted here    40   41    ·   43  │            chosen up to 39
//!   becomes chosen   40   41  no-op 43  │ 44: stop-sign {this one}     in a ballot far above
//! ```
//!
//! As in Raft (`raft/recovery.rs`): an operator orders it, and the host keeps the lost ones out.
//! Whatever this acceptor accepted may have been chosen, and is; where it accepted nothing a no-op
//! stands. A stop-sign that is chosen by it alone ends the old membership. All that is chosen when
//! it is durable: who dies before comes back as an acceptor of the old membership, has executed
//! nothing of it, and is asked again.

use std::sync::Arc;

use base::{Epoch, Instant, NodeId, Slot};

use crate::engine::{Output, Outputs, RECOVERY_LEAP, Refusal, Ticket};
use crate::entries::Entries;
use crate::entry::{Entry, Payload};
use crate::paxos::{Paxos, ballot};
use crate::speaking::Speaking;

/// A recovery under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recovery {
    ticket: Ticket,
    /// Of the membership without the others.
    slot: Slot,
    ballot: Epoch,
}

impl Paxos {
    /// An operator gives up everybody but this replica, and `learners`, who lose their votes.
    pub(super) fn on_recover(
        &mut self,
        now: Instant,
        ticket: Ticket,
        learners: &[NodeId],
        out: &mut Outputs,
    ) {
        let (own, membership) = (self.config.id, self.membership());
        let flaw = membership.flaw_of_survivor(own).or_else(|| {
            let is_unsure = !self.may_promise() || self.is_installing();
            is_unsure.then(|| "this replica is not sure of its own log".to_owned())
        });
        if let Some(reason) = flaw {
            return self.refuse(ticket, Refusal::InvalidChange(reason), out);
        }
        let next = membership.survived_by(own, learners);
        let far = Epoch(self.epoch.0 + RECOVERY_LEAP);
        let epoch = ballot::above(far, own, membership, crate::message::Occasion::Silence);
        self.enter_epoch(now, epoch, "an operator gave up the others", out);
        self.vote = Some(own);
        self.log.seal();
        let (first, last) = (self.log.chosen().next(), self.log.last());
        let accepted = (first.0..=last.0).map(|slot| {
            let slot = Slot(slot);
            let empty = || Entry {
                slot,
                epoch,
                payload: Payload::Empty,
            };
            let cell = self.log.get(slot);
            cell.map_or_else(empty, |cell| cell.entry.clone())
        });
        let stop_sign = Entry {
            slot: last.next(),
            epoch,
            payload: Payload::Membership(Arc::new(next)),
        };
        let slot = stop_sign.slot;
        let entries: Entries = accepted.chain([stop_sign]).collect();
        self.recovery = Some(Recovery {
            ticket,
            slot,
            ballot: epoch,
        });
        self.received.insert_up_to(first.previous());
        self.accepted(first, slot);
        self.log.put(epoch, entries);
    }

    /// What was recovered is chosen by this acceptor alone, once that is durable.
    pub(super) fn choose_recovered(&mut self) {
        let Some(recovery) = self.recovery.filter(|each| each.ballot == self.epoch) else {
            return;
        };
        let is_durable = self.durable_votes().upto() >= recovery.slot;
        if is_durable && self.log.chosen() < recovery.slot {
            self.choose(recovery.slot);
        }
    }

    /// Says that the recovery is complete, a restart would go by its membership; or that somebody
    /// with a later ballot came in between, and that it has to be ordered again.
    pub(super) fn finish_recovery(&mut self, out: &mut Outputs) {
        let Some(recovery) = self.recovery else {
            return;
        };
        let ticket = recovery.ticket;
        if self.log.chosen() < recovery.slot {
            if self.epoch != recovery.ballot {
                self.recovery = None;
                self.refuse(ticket, Refusal::Abandoned, out);
            }
            return;
        }
        let leads = self.leading.as_ref().is_some_and(|leading| leading.is_open);
        let is_kept = recovery.slot <= self.chosen_written;
        if leads && is_kept && self.writes.is_durable(self.known_written) {
            self.recovery = None;
            out.push(Output::Done { ticket });
        }
    }
}
