//! Nodes that observe keyspaces: they hold them without a vote, and serve reads and watches.
//!
//! ```text
//!   the table: o1 observes pods ─┬─▶ o1 opens the group, empty
//!                                └─▶ its leader adds o1 as a learner, and leaves it one
//!   o1 has executed that ──────────▶ o1 serves its clients itself
//! ```
//!
//! Nothing depends on an observer: it has no vote, nobody waits for it, and whoever observes no
//! longer is removed whether it answers or not. So there are no phases as for those who vote
//! ([`super::moving`]): the table says who shall observe, the membership of the group who does, and
//! whoever leads takes the steps between.
//!
//! Whether the two differ is looked at when the table or a membership changes, never in a pass:
//! there may be ten thousand keyspaces.

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, NodeId};
use cluster::meta::Keyspace;

use super::{Opened, Running};

/// What a node keeps of who observes the keyspaces that it has open.
#[derive(Debug, Default)]
pub(super) struct Observing {
    /// Who shall observe, where somebody shall.
    shall: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// The groups in which somebody else does than shall.
    unsettled: BTreeSet<GroupId>,
    /// What this node observes, and whether it has executed that it does.
    own: BTreeMap<GroupId, bool>,
}

impl Observing {
    /// The groups in which an observer has to be added or removed.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.unsettled.iter().copied()
    }

    pub(super) fn is_unsettled(&self, id: GroupId) -> bool {
        self.unsettled.contains(&id)
    }
}

/// Who receives a group's log without a vote.
fn learners(opened: &Opened) -> BTreeSet<NodeId> {
    let members = &opened.group.membership;
    let all = members.members.keys().copied();
    all.filter(|node| !members.is_voter(*node) && !members.is_witness(*node))
        .collect()
}

impl Running {
    /// The table has changed: who observes.
    pub(super) fn follow_observers(&mut self, table: &[Keyspace]) {
        let own = self.own;
        let open = table.iter().filter(|each| each.is_open_on(own));
        let observed = open.filter(|each| !each.observers.is_empty());
        let shall = observed.map(|each| (each.group, each.observers.clone()));
        let before = std::mem::take(&mut self.observing);
        self.observing.shall = shall.collect();
        let mine = self.observing.shall.iter();
        let mine = mine.filter(|(_, observers)| observers.contains(&own));
        let has = |id: &GroupId| before.own.get(id).copied().unwrap_or(false);
        self.observing.own = mine.map(|(id, _)| (*id, has(id))).collect();
        self.look_at_observers();
    }

    /// Whether observers are who they shall be, in all groups.
    pub(super) fn look_at_observers(&mut self) {
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        groups
            .into_iter()
            .for_each(|id| self.look_at_observers_of(id));
    }

    /// The same in one group, whose members may have changed.
    pub(super) fn look_at_observers_of(&mut self, id: GroupId) {
        let Some(opened) = self.groups.get(&id).filter(|_| id != crate::group::META) else {
            self.observing.unsettled.remove(&id);
            return;
        };
        match learners(opened) == self.observers_of(id) {
            true => self.observing.unsettled.remove(&id),
            false => self.observing.unsettled.insert(id),
        };
    }

    /// Who shall observe a group: of those who are members of the cluster.
    pub(super) fn observers_of(&self, id: GroupId) -> BTreeSet<NodeId> {
        let members = &self.meta().membership.members;
        let shall = self.observing.shall.get(&id).into_iter().flatten();
        shall
            .filter(|node| members.contains_key(node))
            .copied()
            .collect()
    }

    /// Something was executed in a group that this node may observe.
    pub(super) fn look_at_own_observing(&mut self, id: GroupId) {
        let Some(has_all) = self.observing.own.get_mut(&id).filter(|has_all| !**has_all) else {
            return;
        };
        let opened = self.groups.get(&id);
        // Where it had a vote once, or observed before, it begins with what was then, and passes
        // all that was since: only what a leader has had since this replica was opened is enough.
        let own = self.own;
        let knows = |opened: &Opened| {
            let group = &opened.group;
            let membership = group.replica().membership();
            let leader = group.leader.filter(|leader| *leader != own);
            let heard = leader.and_then(|leader| group.facts.get(&leader));
            let has_as_much = heard.is_some_and(|facts| facts.applied <= group.replica().applied());
            // Who sleeps under a leader has all that it has.
            let sleeps = leader.is_some() && group.is_asleep();
            let observes = membership.members.contains_key(&own) && !membership.is_voter(own);
            observes && (has_as_much || sleeps)
        };
        if opened.is_some_and(knows) {
            *has_all = true;
            self.is_directory_old = true;
        }
    }

    /// Whether this node has what a group held when it was added there: one that is still empty
    /// would answer clients that nothing is there.
    pub(super) fn has_all(&self, id: GroupId) -> bool {
        self.observing.own.get(&id).copied().unwrap_or(true)
    }
}
