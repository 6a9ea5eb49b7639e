//! Changing who belongs to the group: by stop-signs.
//!
//! ```text
//!   ... 17   18   19   20        21 │ 22   23 ...
//!   entries of the old members  stop│ entries of the new members
//! ```
//!
//! A membership entry closes the log of the old members. The leader proposes it once everything
//! before it is chosen, holds back what comes meanwhile, and goes on behind it when it is chosen
//! and a quorum of the new members has promised. So every slot belongs to one membership, and one
//! step leads from any to the next: there is no joint phase. What it costs is about one round trip
//! per change. Where fewer commit than elect, a stop-sign is chosen only once more have it than
//! commit (`Membership::to_be_followed_by`): whoever is elected among the new members then finds
//! one who has everything before it, even if who was removed is gone.
//!
//! A leader that finds a stop-sign among what others accepted does the same with it. A leader that
//! is no voter afterwards steps down.

use std::sync::Arc;

use base::mutant::{self, Mutant};
use base::{Instant, Slot};

use crate::copying;
use crate::engine::{Output, Outputs, Refusal, Ticket};
use crate::entry::Payload;
use crate::handover::HandingOver;
use crate::membership::{Change, Membership};
use crate::message::Body;
use crate::paxos::log::Log;
use crate::paxos::{Leading, Paxos};
use crate::speaking::Speaking;

impl Paxos {
    /// Someone asks for a change.
    pub(super) fn on_reconfigure(&mut self, ticket: Ticket, change: &Change, out: &mut Outputs) {
        match self.next_membership(change) {
            Ok(membership) => {
                let leading = self.leading.as_mut().expect("only a leader changes it");
                leading.awaiting = Some(Arc::new(membership));
                leading.change = Some((ticket, None));
                leading.is_open = false;
            }
            Err(reason) => self.refuse(ticket, reason, out),
        }
    }

    fn next_membership(&self, change: &Change) -> Result<Membership, Refusal> {
        let leading = self.leading.as_ref().ok_or(Refusal::NotLeader)?;
        if self.handover.is_some() {
            return Err(Refusal::Transferring);
        }
        let chosen = self.log.chosen();
        let is_ready = leading.first_open.is_some_and(|first| chosen >= first);
        // Who lacks a copy can choose nothing until it has voted out who is gone for good.
        let is_ready = is_ready || !self.membership().witnesses.is_empty();
        if !is_ready || !leading.is_open || leading.change.is_some() {
            return Err(Refusal::ChangeInProgress);
        }
        self.check_copies(change)?;
        let membership = self.membership();
        if let Change::Promote(id) = change {
            let received = leading.peers.get(id).map(|peer| peer.acked.upto());
            let behind = leading.proposed.0 - received.unwrap_or_default().0;
            let is_learner = membership.members.contains_key(id) && !membership.is_voter(*id);
            if is_learner && behind > self.config.limits.promotion_lag_slots {
                return Err(Refusal::NotCaughtUp { behind });
            }
        }
        let next = membership.changed(change, &self.config.limits);
        let next = next.map_err(Refusal::InvalidChange)?.after_joint();
        membership
            .to_be_followed_by(&next)
            .map_err(Refusal::InvalidChange)?;
        Ok(next)
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

    /// The membership that is to follow the one in force, if a change is under way.
    pub(super) fn next_membership_to_be(&self) -> Option<Arc<Membership>> {
        Paxos::membership_to_be(self.leading.as_ref()?, &self.log)
    }

    pub(super) fn membership_to_be(leading: &Leading, log: &Log) -> Option<Arc<Membership>> {
        if leading.awaiting.is_some() {
            return leading.awaiting.clone();
        }
        match &log.get(leading.stop_sign?)?.entry.payload {
            Payload::Membership(membership) => Some(Arc::clone(membership)),
            _ => None,
        }
    }

    /// A membership was chosen, and is in force from here on.
    pub(super) fn membership_chosen(&mut self) {
        let chosen = self.log.chosen();
        if let Some(leading) = &mut self.leading {
            assert!(
                leading.proposed == chosen,
                "nothing is proposed behind a stop-sign"
            );
            leading.stop_sign = None;
            leading.is_open = false;
        }
    }

    /// Takes the next step of a change under way, whoever began it.
    pub(super) fn drive_membership(&mut self, now: Instant, out: &mut Outputs) {
        let chosen = self.log.chosen();
        let Some(leading) = &mut self.leading else {
            return;
        };
        if leading.proposed == chosen
            && let Some(membership) = leading.awaiting.take()
        {
            let slot = self.propose_new(Payload::Membership(membership));
            let leading = self.leading.as_mut().expect("it leads");
            leading.stop_sign = Some(slot);
            leading.is_open = mutant::is_on(Mutant::IgnoreStopSign);
            if let Some((_, at)) = &mut leading.change {
                *at = Some(slot);
            }
            self.ask_for_promises(now, false);
            return;
        }
        self.sync_peers(now);
        let leading = self.leading.as_mut().expect("it leads");
        let is_done = |change: &mut (Ticket, Option<Slot>)| change.1.is_some_and(|at| at <= chosen);
        if let Some((ticket, _)) = leading.change.take_if(is_done) {
            out.push(Output::Done { ticket });
        }
    }

    /// A leader that was voted out has told everybody, and leads no more.
    pub(super) fn retire(&mut self, now: Instant, out: &mut Outputs) {
        if self.leading.is_none() || self.membership().is_voter(self.config.id) {
            return;
        }
        if let Some(successor) = self.best_successor() {
            self.post(successor, Body::Transfer, false);
        }
        self.step_down(now, "it was removed", out);
    }
}
