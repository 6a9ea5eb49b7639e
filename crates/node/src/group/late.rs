//! What a call is told whose time is up.
//!
//! Nothing was promised to it, and whether it has been done is not always known. But etcd's clients
//! and operators read more than that out of the error, so it is the one that etcd would give:
//!
//! | the call | a leader is known | nobody leads |
//! |---|---|---|
//! | reads what is current | request timed out | request timed out |
//! | proposes, and was sent | the same, or why it was lost | request timed out |
//! | proposes, and never left this node | the same | context deadline exceeded |
//! | is for the leader's ears | request timed out | no leader |
//!
//! A call that may have been done is never told "no leader".

use base::mutant::{self, Mutant};
use base::{Instant, NodeId};
use etcd::Error;

use super::{Group, Moment};
use crate::calls::{CallKind, Expired, Late};
use crate::interface::Output;

impl Group {
    /// Answers the calls whose time is up.
    pub(super) fn expire_calls(&mut self, moment: Moment, out: &mut Vec<Output>) {
        let expired = self.calls.expire(moment.now);
        if expired.is_empty() {
            return;
        }
        for expired in expired {
            self.metrics.calls_timed_out += 1;
            let error = match mutant::is_on(Mutant::RefuseAndPropose) {
                true => Error::NoLeader,
                false => self.late_error(moment.now, &expired),
            };
            let (id, answer) = (expired.call, expired.kind.failure(error));
            out.push(Output::Answer { id, answer });
        }
    }

    fn late_error(&self, now: Instant, expired: &Expired) -> Error {
        let is_leaderless = self.leader.is_none();
        let has_left = match (expired.kind, expired.has_left) {
            (CallKind::EtcdCluster, Some(true) | None) => !self.members.is_unsent(expired.call),
            (_, has_left) => has_left == Some(true),
        };
        match expired.late {
            // They are told in words what is missing.
            _ if matches!(expired.kind, CallKind::Operator | CallKind::Ready) => Error::Timeout,
            Late::Read => Error::Timeout,
            Late::ForLeader if is_leaderless && !has_left => Error::NoLeader,
            Late::ForLeader => Error::Timeout,
            Late::Proposal if is_leaderless && !has_left => Error::DeadlineExceeded,
            Late::Proposal => self.why_not_chosen(now),
        }
    }

    /// What has kept a proposal from being chosen in its time, as far as this node can tell.
    fn why_not_chosen(&self, now: Instant) -> Error {
        let timing = &self.config.timing;
        let asked = before(now, timing.request_timeout);
        // What was asked for while the last leader was being missed may have gone with it.
        if let Some(led) = self.members.led_since()
            && before(led, timing.election_timeout * 2) < asked
            && asked < led
        {
            return Error::TimeoutLeaderFailure;
        }
        let is_connected = |id: &NodeId| self.members.is_connected(*id, asked);
        let is_reachable = match self.leader {
            None => true,
            Some(leader) if leader == self.own => {
                let voters = &self.membership.voters;
                let connected = voters
                    .iter()
                    .filter(|id| **id == self.own || is_connected(id));
                connected.count() >= self.quorum(voters.len())
            }
            Some(leader) => is_connected(&leader),
        };
        match is_reachable {
            true => Error::Timeout,
            false => Error::TimeoutConnectionLost,
        }
    }
}

fn before(now: Instant, time: std::time::Duration) -> Instant {
    Instant(now.0.saturating_sub(time.as_nanos() as u64))
}
