//! What a node shows of itself: to operators, to metrics, and to tests that look inside.

use base::{GroupId, Instant, NodeId};
use consensus::AnyEngine;

use super::Running;
use crate::group::Group;
use crate::interface::{GroupStatus, Status};
use crate::notes::Metrics;
use crate::peers::Peers;
use crate::replica::Replica;

impl Running {
    /// What this node counts.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let mut metrics = self.counted.clone();
        for opened in self.groups.values() {
            metrics.add(opened.group.metrics());
            metrics.groups_in_doubt += u64::from(opened.group.is_in_doubt());
            metrics.groups_asleep += u64::from(opened.group.fell_asleep());
        }
        metrics.journal = self.journal.metrics();
        metrics
    }

    /// What this node sees of itself, and of the first group.
    #[must_use]
    pub fn status(&self) -> Status {
        self.meta().status()
    }

    pub(super) fn group_statuses(&self, now: Instant, peers: &Peers) -> Vec<GroupStatus> {
        let groups = self.groups.iter();
        let status = groups.map(|(id, opened)| {
            let engine = &opened.group.engine;
            let glance = engine.glance();
            GroupStatus {
                group: *id,
                is_in_doubt: opened.group.is_in_doubt() || opened.group.is_given_up(),
                engine: engine.kind(),
                last: glance.last,
                last_term: engine.epoch_of(glance.last).unwrap_or_default(),
                quorums: engine.membership().quorum_sizes(),
                is_voter: engine.membership().is_voter(self.own),
                is_witness: engine.membership().is_witness(self.own),
                others: self.others_in(engine.membership(), now, peers),
                load: opened.load.figure(now),
                status: opened.group.status(),
            }
        });
        status.collect()
    }

    /// One group, if it is on this node.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(&id).map(|opened| &opened.group)
    }

    /// All groups on this node.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.groups.iter().map(|(id, opened)| (*id, &opened.group))
    }

    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.own
    }

    /// The engine of the first group.
    #[must_use]
    pub fn engine(&self) -> &AnyEngine {
        self.meta().engine()
    }

    /// The replica of the first group's state.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        self.meta().replica()
    }
}
