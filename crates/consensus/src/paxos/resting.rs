//! Whether a replica can be left alone, and how it goes on when it was (see `rest.rs`).

use base::{Instant, NodeId};

use crate::engine::Role;
use crate::paxos::Paxos;
use crate::paxos::peer::Peer;
use crate::rest::Rest;

impl Paxos {
    /// Where it rests, if nothing is under way. `absent`: members that nobody waits for, since
    /// their nodes are not there; the others must be a quorum.
    pub(super) fn resting_place(&self, absent: &dyn Fn(NodeId) -> bool) -> Option<Rest> {
        let leader = self.leader?;
        let last = self.log.last();
        let is_settled = self.log.chosen() == last
            && self.stored.upto() >= last
            && self.received.highest() <= last
            && self.delivery.delivered() == last
            && self.writes.pending().is_none()
            && self.unwritten.is_empty()
            && !self.hard_state_changed
            && !self.is_stirred;
        let is_free = self.uncertain.is_none()
            && self.loading.is_none()
            && self.receiver.is_none()
            && self.handover.is_none()
            && self.fetches.outstanding.is_empty()
            && self.outbox.is_empty()
            && self.forwards.len() == 0
            && self.learning.is_quiet()
            && matches!(self.role, Role::Follower | Role::Leader);
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
        let rests = |(id, peer): (&NodeId, &Peer)| {
            let has_all =
                peer.is_known && peer.has_nothing_under_way() && peer.contact.chosen_told == last;
            peer.contact.departing_since.is_none() && (has_all || absent(*id))
        };
        let present = |id: NodeId| id == self.config.id || !absent(id);
        leading.is_open
            && leading.proposed == last
            && leading.stop_sign.is_none()
            && leading.awaiting.is_none()
            && leading.change.is_none()
            && leading.held.is_empty()
            && leading.reads.len() == 0
            && leading.first_open.is_some_and(|first| first <= last)
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
        let delay = self.election_delay();
        self.election.woken(now, heard, delay);
    }
}
