//! Changing who belongs to the group.
//!
//! Changes of voters pass through a joint membership; learners, names and addresses change in one
//! step. One change runs at a time, and none before the leader has chosen an entry of its own
//! epoch (without that rule two leaders could each complete a change that the other does not know
//! of: the erratum to the thesis, section 4.1).
//!
//! Leaving the joint phase is no continuation of whoever began it: every leader that finds a chosen
//! joint membership in its log ends it. A leader that is no voter afterwards steps down.

use std::sync::Arc;

use base::{Instant, Slot};

use crate::copying;
use crate::engine::{Output, Outputs, Refusal, Ticket};
use crate::entry::Payload;
use crate::handover::HandingOver;
use crate::membership::{Change, Membership};
use crate::message::Body;
use crate::raft::Raft;
use crate::speaking::Speaking;

impl Raft {
    /// Someone asks for a change.
    pub(super) fn on_reconfigure(
        &mut self,
        now: Instant,
        ticket: Ticket,
        change: &Change,
        out: &mut Outputs,
    ) {
        match self.next_membership(change) {
            Ok(membership) => {
                let slot = self.lead_membership(now, membership);
                let leading = self
                    .leading
                    .as_mut()
                    .expect("only a leader changes membership");
                leading.change = Some((ticket, slot));
            }
            Err(reason) => self.refuse(ticket, reason, out),
        }
    }

    fn next_membership(&self, change: &Change) -> Result<Membership, Refusal> {
        let leading = self.leading.as_ref().ok_or(Refusal::NotLeader)?;
        if self.handover.is_some() {
            return Err(Refusal::Transferring);
        }
        let (slot, membership) = self.log.membership();
        let is_settled = *slot <= self.chosen && !membership.is_joint();
        // Who lacks a copy can choose nothing until it has voted out who is gone for good. A joint
        // membership needs both sets of voters to agree, whatever was chosen before.
        let leaves = matches!(change, Change::Remove(id) if membership.voters.contains(id));
        let may_wait = membership.witnesses.is_empty() || !leaves;
        let waits = self.chosen < leading.first && may_wait;
        if !is_settled || waits || leading.change.is_some() {
            return Err(Refusal::ChangeInProgress);
        }
        self.check_copies(change)?;
        if let Change::Promote(id) = change {
            let matched = leading.peers.get(id).map_or(Slot(0), |peer| peer.matched);
            let behind = self.log.last().0 - matched.0;
            let is_learner = membership.members.contains_key(id) && !membership.is_voter(*id);
            if is_learner && behind > self.config.limits.promotion_lag_slots {
                return Err(Refusal::NotCaughtUp { behind });
            }
        }
        membership
            .changed(change, &self.config.limits)
            .map_err(Refusal::InvalidChange)
    }

    /// Whether there are as many copies of a change as there must be.
    fn check_copies(&self, change: &Change) -> Result<(), Refusal> {
        match &self.leading {
            Some(leading) => {
                copying::check(change, self.membership(), |id| self.counts_on(leading, id))
            }
            None => Ok(()),
        }
    }

    fn lead_membership(&mut self, now: Instant, membership: Membership) -> Slot {
        let slot = self.lead_entry(Payload::Membership(Arc::new(membership)));
        self.sync_peers(now);
        slot
    }

    /// Takes the next step of a change under way, whoever began it.
    pub(super) fn drive_membership(&mut self, now: Instant, out: &mut Outputs) {
        let Some(leading) = &mut self.leading else {
            return;
        };
        let (slot, membership) = self.log.membership();
        if *slot > self.chosen || self.chosen < leading.first {
            return;
        }
        if membership.is_joint() {
            let next = membership.after_joint();
            self.lead_membership(now, next);
            return;
        }
        if let Some((ticket, _)) = leading.change.take_if(|(_, first)| *first <= *slot) {
            out.push(Output::Done { ticket });
        }
        if !membership.is_voter(self.config.id) {
            if let Some(successor) = self.best_successor() {
                self.post(successor, Body::Transfer, false);
            }
            self.step_down(now, "it was removed", out);
        }
    }
}
