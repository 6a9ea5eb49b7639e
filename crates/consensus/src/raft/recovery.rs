//! Going on alone, after a quorum was lost for good.
//!
//! ```text
//!   ... 40   41   42 │ 43: membership {this one}   44: empty, of the epoch that follows
//!   chosen │ perhaps │    epoch + 65,536              chosen by this replica alone: so is all
//!   before
//! ```
//!
//! No log can make this safe: entries that were acknowledged may stand on the lost disks only, and
//! the lost replicas, should they come back together, are a quorum of the membership that they
//! know. So an operator orders it, who has been told what may be lost, and the host keeps the lost
//! ones out. What the engine owes is that nobody who stays is confused: everything in this log
//! becomes chosen, in an epoch that nobody else can have reached by electing, and the step counts
//! once it is durable.

use std::sync::Arc;

use base::{Epoch, Instant, NodeId};

use crate::engine::{Output, Outputs, RECOVERY_LEAP, Refusal, Ticket};
use crate::entry::{Entry, Payload};
use crate::raft::Raft;
use crate::speaking::Speaking;

impl Raft {
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
            let is_unsure = self.uncertain.is_some() || self.is_installing();
            is_unsure.then(|| "this replica is not sure of its own log".to_owned())
        });
        if let Some(reason) = flaw {
            return self.refuse(ticket, Refusal::InvalidChange(reason), out);
        }
        let next = membership.survived_by(own, learners);
        let epoch = Epoch(self.epoch.0 + RECOVERY_LEAP);
        self.enter_epoch(now, epoch, "an operator gave up the others", out);
        // Nobody else begins in this epoch; a campaign of this replica, in the next, follows.
        self.vote = Some(own);
        let entry = Entry {
            slot: self.log.last().next(),
            epoch,
            payload: Payload::Membership(Arc::new(next)),
        };
        self.recovery = Some((ticket, entry.slot));
        self.log.append(entry, self.config.limits.append_bytes);
    }

    /// Says that the recovery is complete: its membership is chosen, so it is durable.
    pub(super) fn finish_recovery(&mut self, out: &mut Outputs) {
        let Some((ticket, slot)) = self.recovery else {
            return;
        };
        if self.log.membership().0 < slot {
            // Somebody with a later epoch cut it off.
            self.recovery = None;
            self.refuse(ticket, Refusal::Abandoned, out);
        } else if slot <= self.chosen {
            self.recovery = None;
            out.push(Output::Done { ticket });
        }
    }
}
