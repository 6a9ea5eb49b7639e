//! Whether a replica can be left alone, and how it goes on when it was (see `rest.rs`).

use base::{Instant, NodeId};

use crate::engine::Role;
use crate::raft::Raft;
use crate::raft::progress::State;
use crate::rest::Rest;

impl Raft {
    /// Where it rests, if nothing is under way. `absent`: members that nobody waits for, since
    /// their nodes are not there; the others must be a quorum.
    pub(super) fn resting_place(&self, absent: &dyn Fn(NodeId) -> bool) -> Option<Rest> {
        let leader = self.leader?;
        let last = self.log.last();
        let is_settled = self.chosen == last
            && self.log.durable() == last
            && self.delivery.delivered() == last
            && self.journaling.pending().is_none()
            && !self.hard_state_changed
            && !self.is_stirred;
        let is_free = self.uncertain.is_none()
            && self.receiver.is_none()
            && self.handover.is_none()
            && self.fetches.outstanding.is_empty()
            && self.outbox.is_empty()
            && self.forwards.len() == 0
            && matches!(self.role, Role::Follower | Role::Leader)
            && !self.membership().is_joint();
        (is_settled && is_free && self.peers_rest(absent)).then_some(Rest {
            leader,
            epoch: self.epoch,
            slot: last,
        })
    }

    /// Whether a leader owes nothing to the members that are there, and these are a quorum.
    fn peers_rest(&self, absent: &dyn Fn(NodeId) -> bool) -> bool {
        let Some(leading) = &self.leading else {
            return true;
        };
        let last = self.log.last();
        let rests = |(id, peer): (&NodeId, &super::progress::Peer)| {
            let has_all = matches!(peer.state, State::Replicate)
                && peer.matched == last
                && peer.contact.chosen_told == last;
            peer.contact.departing_since.is_none() && (has_all || absent(*id))
        };
        let present = |id: NodeId| id == self.config.id || !absent(id);
        leading.change.is_none()
            && leading.reads.len() == 0
            && leading.first <= last
            && (&leading.peers).into_iter().all(rests)
            && self.membership().commits(present)
            && self.membership().elects(present)
    }

    /// The others are asked whether they rest: no heartbeat disturbs them until then.
    pub(super) fn on_hush(&mut self, until: Instant) {
        let most = self.config.election_timeout / 2;
        if let Some(leading) = &mut self.leading {
            let latest = leading.heartbeat_at + most;
            leading.heartbeat_at = leading.heartbeat_at.max(until.min(latest));
        }
    }

    /// It was not called for a while. Its timers begin anew; the leader's node was `heard` last
    /// then, by other means.
    pub(super) fn on_woken(&mut self, now: Instant, heard: Option<Instant>) {
        if let Some(leading) = &mut self.leading {
            leading.peers.hear_all(now);
            leading.heartbeat_at = now;
            return;
        }
        let heard = heard.filter(|_| self.leader.is_some());
        self.election.contact = self.election.contact.max(heard);
        let delay = self.election_delay();
        let due = heard.map_or(now + delay, |heard| heard + delay);
        self.election.deadline = due.max(now);
    }
}
