//! Handing leadership over.
//!
//! The leader stops taking proposals, waits until the successor has accepted everything, so that
//! its phase 1 finds nothing new, and tells it to campaign at once, with priority; nobody protects
//! the old leader then. If nothing comes of it within an election timeout, the leader goes on
//! leading.

use base::{Instant, NodeId};

use crate::engine::{Output, Outputs, Refusal, Role, Ticket};
use crate::message::{Body, Occasion};
use crate::paxos::Paxos;

/// A transfer under way.
#[derive(Clone, Debug)]
pub(super) struct Handover {
    ticket: Ticket,
    successor: NodeId,
    /// When to give up.
    pub(super) deadline: Instant,
    /// The successor was told since the last heartbeat.
    told: bool,
}

impl Paxos {
    /// The voter, other than this replica, whose log is furthest.
    pub(super) fn best_successor(&self) -> Option<NodeId> {
        let leading = self.leading.as_ref()?;
        let voters = leading
            .peers
            .iter()
            .filter(|(id, _)| self.membership().voters.contains(id));
        voters
            .max_by_key(|(_, peer)| (peer.acked.upto(), peer.last_heard))
            .map(|(id, _)| *id)
    }

    /// Someone asks to hand over.
    pub(super) fn on_transfer(
        &mut self,
        now: Instant,
        ticket: Ticket,
        to: Option<NodeId>,
        out: &mut Outputs,
    ) {
        if self.leading.is_none() {
            return self.refuse(ticket, Refusal::NotLeader, out);
        }
        if self.handover.is_some() {
            return self.refuse(ticket, Refusal::Transferring, out);
        }
        if to == Some(self.config.id) {
            return out.push(Output::Done { ticket });
        }
        let successor = to.or_else(|| self.best_successor());
        let Some(successor) = successor.filter(|id| self.membership().voters.contains(id)) else {
            let reason = Refusal::InvalidChange("there is no such voter to hand over to".into());
            return self.refuse(ticket, reason, out);
        };
        let deadline = now + self.config.election_timeout;
        self.handover = Some(Handover {
            ticket,
            successor,
            deadline,
            told: false,
        });
    }

    /// Tells the successor, once its log is complete.
    pub(super) fn hand_over(&mut self) {
        let (Some(leading), Some(handover)) = (&self.leading, &mut self.handover) else {
            return;
        };
        let peer = leading.peers.get(&handover.successor);
        if !handover.told && peer.is_some_and(|peer| peer.acked.upto() == leading.proposed) {
            handover.told = true;
            let successor = handover.successor;
            self.post(successor, Body::Transfer, false);
        }
    }

    /// The word may have been lost.
    pub(super) fn repeat_handover(&mut self) {
        if let Some(handover) = &mut self.handover {
            handover.told = false;
        }
    }

    /// Another leads now.
    pub(super) fn handover_succeeded(&mut self, out: &mut Outputs) {
        let other_leads = self.leader.is_some_and(|leader| leader != self.config.id);
        if let Some(handover) = self.handover.take_if(|_| other_leads) {
            out.push(Output::Done {
                ticket: handover.ticket,
            });
        }
    }

    /// Gives up a transfer that takes too long.
    pub(super) fn on_handover_deadline(&mut self, now: Instant, out: &mut Outputs) {
        if let Some(handover) = self.handover.take_if(|handover| handover.deadline <= now) {
            self.refuse(handover.ticket, Refusal::Abandoned, out);
        }
    }

    /// The leader asks this replica to take over.
    pub(super) fn on_transfer_message(&mut self, now: Instant, from: NodeId, out: &mut Outputs) {
        if self.leader == Some(from) && self.role == Role::Follower && self.is_electable() {
            self.campaign(now, Occasion::Transfer, out);
        }
    }
}
