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
//! A script may have a node observe ten thousand keyspaces. So
//!
//! - whether the two differ is looked at when the table or a membership changes, never in a pass,
//!   and what is to be done is looked at in turn, some of them at a time;
//! - whoever leads fills a node in a few of them at a time, as with those that move: one that is a
//!   member counts until it has what is there. It is the leader who sees that, so that a new one
//!   looks again;
//! - the others sleep until they have their turn, and a node that is away is not added anywhere
//!   before it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use base::{Epoch, GroupId, NodeId};
use cluster::meta::Keyspace;
use cluster::placement::mover::Observed;

use super::{Opened, Running};
use crate::peers::Peers;

/// So many keyspaces, of those in which something is to be done, are looked at in one look.
const LOOKED_AT: usize = 256;

/// What a node keeps of who observes the keyspaces that it has open.
#[derive(Debug, Default)]
pub(super) struct Observing {
    /// Who shall observe, where somebody shall.
    shall: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// The groups in which somebody else does than shall.
    unsettled: BTreeSet<GroupId>,
    /// The one of those that was looked at last.
    last: GroupId,
    /// The epochs in which this node leads what somebody observes.
    led: BTreeMap<GroupId, Epoch>,
    /// Of those, the groups whose observers are members, and may not have what is there yet.
    filling: BTreeSet<GroupId>,
    /// What this node observes, and whether it has executed that it does.
    own: BTreeMap<GroupId, bool>,
}

impl Observing {
    /// The groups in which an observer has to be added or removed, or is being filled.
    pub(super) fn at_work(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.unsettled.iter().chain(&self.filling).copied()
    }

    /// Some of the groups in which an observer has to be added or removed; the next ones the next
    /// time.
    fn next_unsettled(&mut self) -> Vec<GroupId> {
        let behind = (Bound::Excluded(self.last), Bound::Unbounded);
        let before = (Bound::Unbounded, Bound::Included(self.last));
        let behind = self.unsettled.range(behind);
        let all = behind.chain(self.unsettled.range(before));
        let next: Vec<GroupId> = all.take(LOOKED_AT).copied().collect();
        self.last = next.last().copied().unwrap_or_default();
        next
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
        let observed = &self.observing.shall;
        self.observing.last = before.last;
        self.observing.led = before.led;
        self.observing.led.retain(|id, _| observed.contains_key(id));
        self.observing.filling = before.filling;
        let led = &self.observing.led;
        self.observing.filling.retain(|id| led.contains_key(id));
        let mine = self.observing.shall.iter();
        let mine = mine.filter(|(_, observers)| observers.contains(&own));
        let has = |id: &GroupId| before.own.get(id).copied().unwrap_or(false);
        self.observing.own = mine.map(|(id, _)| (*id, has(id))).collect();
        self.look_at_observers();
        // What sleeps by now has no pass in which it would be found out.
        let own = self.observing.own.iter();
        let new: Vec<GroupId> = own.filter(|(_, has)| !**has).map(|(id, _)| *id).collect();
        new.into_iter()
            .for_each(|id| self.look_at_own_observing(id));
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

    /// A group has ended a pass. Whoever leads it anew, or has added an observer, does not know
    /// what that one has.
    pub(super) fn look_at_filling(&mut self, id: GroupId, has_changed: bool) {
        if !self.observing.shall.contains_key(&id) {
            return;
        }
        let group = self.groups.get(&id).map(|opened| &opened.group);
        let Some(epoch) = group.filter(|each| each.leads()).map(|each| each.epoch) else {
            self.observing.led.remove(&id);
            self.observing.filling.remove(&id);
            return;
        };
        let before = self.observing.led.insert(id, epoch);
        if has_changed || before != Some(epoch) {
            self.observing.filling.insert(id);
        }
    }

    /// A group that this node leads sleeps: all who are there have what is there.
    pub(super) fn is_filled(&mut self, id: GroupId) {
        self.observing.filling.remove(&id);
    }

    /// Whether an observer is being filled that can be reached: it must hear of the group until it
    /// has what is there.
    pub(super) fn fills(&self, id: GroupId, is_there: impl Fn(NodeId) -> bool) -> bool {
        let mut observers = self.observing.shall.get(&id).into_iter().flatten();
        self.observing.filling.contains(&id) && observers.any(|node| is_there(*node))
    }

    /// What is to be done for observers: the groups that this node leads in which one is being
    /// filled, and some of those in which one is to be added or removed, with whether it is.
    pub(super) fn observers_to_settle(&mut self, peers: &Peers) -> Vec<(GroupId, Observed, bool)> {
        let filling = std::mem::take(&mut self.observing.filling);
        let mut all = Vec::new();
        for id in filling {
            let Some(seen) = self.observed_in(id, peers) else {
                continue;
            };
            let has_all = |node: &NodeId| seen.learners.get(node).copied().unwrap_or(true);
            if seen.is_changing || !seen.observers.iter().all(has_all) {
                self.observing.filling.insert(id);
                all.push((id, seen, false));
            }
        }
        for id in self.observing.next_unsettled() {
            // Of what moves nothing is done that the move does not say.
            if let Some(seen) = self.observed_in(id, peers)
                && !self.under_way.has(id)
            {
                all.push((id, seen, true));
            }
        }
        all
    }

    /// A group that this node leads, with who shall observe it and who of them cannot be filled.
    fn observed_in(&self, id: GroupId, peers: &Peers) -> Option<Observed> {
        let opened = self.groups.get(&id).filter(|opened| opened.group.leads())?;
        let observers = self.observers_of(id);
        Some(Observed {
            unready: Self::unreachable(&observers, peers),
            observers,
            ..opened.group.observed()
        })
    }

    /// Those who are away: they are added once they are back.
    pub(super) fn unreachable(nodes: &BTreeSet<NodeId>, peers: &Peers) -> BTreeSet<NodeId> {
        let nodes = nodes.iter().copied();
        nodes
            .filter(|node| peers.route_to(*node).is_none())
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
