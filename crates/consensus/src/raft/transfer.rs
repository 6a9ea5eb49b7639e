//! Handing over in Raft, and taking over: `handover.rs` says how it goes.
//!
//! The successor must hold the whole log, or nobody would vote for it.

use base::{Instant, NodeId};

use crate::engine::{Output, Outputs, Refusal, Role, Ticket};
use crate::handover::{HandingOver, Handover};
use crate::health::Health;
use crate::message::{Body, Message, Occasion};
use crate::raft::Config;
use crate::raft::{Letter, Raft};
use crate::speaking::Speaking;

impl Speaking for Raft {
    fn config(&self) -> &Config {
        &self.config
    }

    fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    fn post(&mut self, to: NodeId, body: Body, when_durable: bool) {
        let message = Message::new(self.epoch, body);
        self.outbox.push(Letter {
            to,
            message,
            when_durable,
        });
    }

    fn refuse(&self, ticket: Ticket, reason: Refusal, out: &mut Outputs) {
        out.push(Output::Refuse {
            ticket,
            reason,
            leader: self.leader,
        });
    }
}

impl HandingOver for Raft {
    fn handover(&mut self) -> &mut Option<Handover> {
        &mut self.handover
    }

    fn health(&mut self) -> &mut Health {
        &mut self.health
    }

    fn is_leading(&self) -> bool {
        self.leading.is_some()
    }

    fn is_voter(&self, id: NodeId) -> bool {
        let membership = self.membership();
        membership.voters.contains(&id) && !membership.is_witness(id)
    }

    fn best_successor(&self) -> Option<NodeId> {
        let leading = self.leading.as_ref()?;
        leading.peers.furthest(|id| self.is_voter(id))
    }

    fn has_everything(&self, id: NodeId) -> bool {
        let leading = self.leading.as_ref();
        leading.is_some_and(|leading| {
            let peer = leading.peers.get(&id);
            peer.is_some_and(|peer| peer.matched == self.log.last())
        })
    }
}

impl Raft {
    /// The leader asks this replica to take over.
    pub(super) fn on_transfer_message(&mut self, now: Instant, from: NodeId, out: &mut Outputs) {
        if self.leader == Some(from) && self.role == Role::Follower && self.is_electable() {
            if self.membership().electors_commit() {
                return self.campaign(now, Occasion::Transfer, out);
            }
            // It may reach enough to be elected, and too few to choose anything.
            self.leader = None;
            self.ask_pre_votes(now, Occasion::Transfer, out);
        }
    }
}
