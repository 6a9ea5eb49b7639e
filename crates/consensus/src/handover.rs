//! Handing leadership over, whichever way the engine agrees (Raft thesis, section 3.10).
//!
//! The leader stops taking proposals, brings the successor's log up to the end of its own, and
//! tells it to campaign at once; nobody protects the old leader then. If nothing comes of it within
//! an election timeout, the leader goes on leading.
//!
//! Somebody asks for it, or the leader itself finds that it is the slow one (`health.rs`).

use std::time::Duration;

use base::{Instant, NodeId};

use crate::engine::{Note, Output, Outputs, Refusal, Ticket};
use crate::health::Health;
use crate::message::Body;
use crate::speaking::Speaking;

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

/// An engine that can hand over. What is required says where it stands; what is provided is done
/// with it.
pub(crate) trait HandingOver: Speaking {
    /// The transfer under way.
    fn handover(&mut self) -> &mut Option<Handover>;

    /// The recent behaviour of its disk and clock.
    fn health(&mut self) -> &mut Health;

    /// Whether it leads.
    fn is_leading(&self) -> bool;

    /// Whether this is a voter that could lead.
    fn is_voter(&self, id: NodeId) -> bool;

    /// The voter, other than this replica, whose log is furthest, if this replica leads.
    fn best_successor(&self) -> Option<NodeId>;

    /// Whether everything that this leader has, down to the last entry, is durable there.
    fn has_everything(&self, id: NodeId) -> bool;

    /// Someone asks to hand over.
    fn on_transfer(&mut self, now: Instant, ticket: Ticket, to: Option<NodeId>, out: &mut Outputs) {
        if !self.is_leading() {
            return self.refuse(ticket, Refusal::NotLeader, out);
        }
        if self.handover().is_some() {
            return self.refuse(ticket, Refusal::Transferring, out);
        }
        if to == Some(self.config().id) {
            return out.push(Output::Done { ticket });
        }
        let successor = to.or_else(|| self.best_successor());
        let Some(successor) = successor.filter(|id| self.is_voter(*id)) else {
            let reason = Refusal::InvalidChange("there is no such voter to hand over to".into());
            return self.refuse(ticket, reason, out);
        };
        self.begin_handover(now, Some(ticket), successor);
    }

    /// Begins a transfer.
    fn begin_handover(&mut self, now: Instant, ticket: Option<Ticket>, successor: NodeId) {
        let deadline = now + self.config().election_timeout;
        *self.handover() = Some(Handover {
            ticket,
            successor,
            deadline,
            told: false,
        });
    }

    /// A leader's heartbeat is due, and comes `late` by so much. `lags`: what was chosen is not
    /// durable here. If this replica has become the slow one, it hands over by itself.
    fn watch_health(&mut self, now: Instant, late: Duration, lags: bool, out: &mut Outputs) {
        let interval = self.config().heartbeat_interval;
        let timeout = self.config().election_timeout;
        if !self.health().heartbeat(now, late, lags, interval, timeout) {
            return;
        }
        if self.handover().is_some() {
            return;
        }
        if let Some(successor) = self.best_successor() {
            self.health().abdicated(now);
            out.push(Output::Note(Note::Abdicating { successor }));
            self.begin_handover(now, None, successor);
        }
    }

    /// Tells the successor, once its log is complete.
    fn hand_over(&mut self) {
        let Some(handover) = self.handover() else {
            return;
        };
        let (successor, told) = (handover.successor, handover.told);
        if told || !self.is_leading() || !self.has_everything(successor) {
            return;
        }
        if let Some(handover) = self.handover() {
            handover.told = true;
        }
        self.post(successor, Body::Transfer, false);
    }

    /// The word may have been lost.
    fn repeat_handover(&mut self) {
        if let Some(handover) = self.handover() {
            handover.told = false;
        }
    }

    /// Another leads now.
    fn handover_succeeded(&mut self, out: &mut Outputs) {
        let own = self.config().id;
        let other_leads = self.leader().is_some_and(|leader| leader != own);
        let ended = self.handover().take_if(|_| other_leads);
        if let Some(ticket) = ended.and_then(|handover| handover.ticket) {
            out.push(Output::Done { ticket });
        }
    }

    /// Gives up a transfer that takes too long.
    fn on_handover_deadline(&mut self, now: Instant, out: &mut Outputs) {
        let is_over = |handover: &mut Handover| handover.deadline <= now;
        let ended = self.handover().take_if(is_over);
        if let Some(ticket) = ended.and_then(|handover| handover.ticket) {
            self.refuse(ticket, Refusal::Abandoned, out);
        }
    }
}
