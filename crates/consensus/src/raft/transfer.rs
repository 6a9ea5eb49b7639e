//! Handing leadership over (Raft thesis, section 3.10).
//!
//! The leader stops taking proposals, brings the successor's log up to the end of its own, and
//! tells it to campaign at once; nobody protects the old leader then. If nothing comes of it within
//! an election timeout, the leader goes on leading.

use base::{Instant, NodeId};

use crate::engine::{Note, Output, Outputs, Refusal, Role, Ticket};
use crate::message::{Body, Occasion};
use crate::raft::Raft;

/// A transfer under way.
#[derive(Clone, Debug)]
pub(crate) struct Handover {
    /// Who asked; nobody if this replica finds itself too slow.
    ticket: Option<Ticket>,
    successor: NodeId,
    /// When to give up.
    pub(crate) deadline: Instant,
    /// The successor was told since the last heartbeat.
    told: bool,
}

impl Raft {
    /// The voter, other than this replica, whose log is furthest.
    pub(super) fn best_successor(&self) -> Option<NodeId> {
        let leading = self.leading.as_ref()?;
        let voters = leading
            .peers
            .iter()
            .filter(|(id, _)| self.membership().voters.contains(id));
        voters
            .max_by_key(|(_, peer)| (peer.matched, peer.last_heard))
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
            ticket: Some(ticket),
            successor,
            deadline,
            told: false,
        });
    }

    /// This replica is the slow one: it hands over by itself.
    pub(super) fn abdicate(&mut self, now: Instant, out: &mut Outputs) {
        let Some(successor) = self.best_successor().filter(|_| self.handover.is_none()) else {
            return;
        };
        self.health.abdicated(now);
        out.push(Output::Note(Note::Abdicating { successor }));
        self.handover = Some(Handover {
            ticket: None,
            successor,
            deadline: now + self.config.election_timeout,
            told: false,
        });
    }

    /// Tells the successor, once its log is complete.
    pub(super) fn hand_over(&mut self) {
        let last = self.log.last();
        let (Some(leading), Some(handover)) = (&self.leading, &mut self.handover) else {
            return;
        };
        let peer = leading.peers.get(&handover.successor);
        if !handover.told && peer.is_some_and(|peer| peer.matched == last) {
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
        let ended = self.handover.take_if(|_| other_leads);
        if let Some(ticket) = ended.and_then(|handover| handover.ticket) {
            out.push(Output::Done { ticket });
        }
    }

    /// Gives up a transfer that takes too long.
    pub(super) fn on_handover_deadline(&mut self, now: Instant, out: &mut Outputs) {
        let is_over = |handover: &mut Handover| handover.deadline <= now;
        let ended = self.handover.take_if(is_over);
        if let Some(ticket) = ended.and_then(|handover| handover.ticket) {
            self.refuse(ticket, Refusal::Abandoned, out);
        }
    }

    /// The leader asks this replica to take over.
    pub(super) fn on_transfer_message(&mut self, now: Instant, from: NodeId, out: &mut Outputs) {
        if self.leader == Some(from) && self.role == Role::Follower && self.is_electable() {
            self.campaign(now, Occasion::Transfer, out);
        }
    }
}
