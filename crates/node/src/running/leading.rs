//! Who leads what: leaderships are spread over the nodes, by load where there is any, and by
//! number else.
//!
//! ```text
//!   table, sites ─▶ leaders::preferred: the same on every node ─▶ who shall lead each group
//!   more than its share is led here: of those that it shall not lead ─▶ hand over, one at a time
//! ```
//!
//! Nobody has to be asked: each node computes the same from the table, and gives away what it leads
//! for others. A leadership that moves wakes its group, so that whoever leads its share, and a
//! little more, keeps what it has ([`leaders::surplus`]). Who shall lead and is not there gets
//! nothing, until it is. A node that is being emptied leads nothing, the first group included. What
//! has something to do goes by its load ([`super::loading`]), until it is idle again.

use std::collections::BTreeMap;

use base::{GroupId, Instant, NodeId};
use cluster::meta::{self, Picture};
use cluster::placement::leaders;
use cluster::placement::site::{Site, Standing};

use super::{MovingLimits, Running};
use crate::group::{META, Moment};
use crate::interface::Output;
use crate::peers::Peers;

/// What a node keeps of who shall lead.
#[derive(Debug, Default)]
pub(super) struct Leading {
    /// Who shall lead which group, if it has nothing to do.
    preferred: BTreeMap<GroupId, NodeId>,
    /// Who could lead each.
    pub(super) candidates: BTreeMap<GroupId, Vec<NodeId>>,
    /// The nodes that could lead something.
    pub(super) sites: Vec<Site>,
    /// This node is being emptied.
    is_draining: bool,
    /// That is so by the table as it is.
    is_made: bool,
    /// Since when this node leads the groups that it leads.
    since: BTreeMap<GroupId, Instant>,
    /// When it last gave a group away.
    given: BTreeMap<GroupId, Instant>,
    next_look: Instant,
}

impl Leading {
    /// The table has changed.
    pub(super) fn forget(&mut self) {
        self.is_made = false;
    }

    /// A group is given away.
    pub(super) fn gave(&mut self, id: GroupId, now: Instant) {
        self.given.insert(id, now);
    }

    /// Whether a group that this node leads may be given away to even out loads: not one that has
    /// just come, nor one that was given away and came back.
    pub(super) fn may_give(&self, id: GroupId, now: Instant, limits: MovingLimits) -> bool {
        let since = self.since.get(&id);
        let given = self.given.get(&id);
        since.is_some_and(|at| *at + limits.leading_rest <= now)
            && given.is_none_or(|at| *at + limits.leading_again <= now)
    }
}

impl Running {
    /// When to look next what others should lead.
    pub(super) fn leading_deadline(&self) -> Option<Instant> {
        let has_others = self.meta().membership.members.len() > 1;
        let has_keyspaces = self.groups.len() > 1;
        let may_lead_less = has_keyspaces || self.leading.is_draining;
        (has_others && may_lead_less).then_some(self.leading.next_look)
    }

    /// Hands over one leadership that another node should have.
    pub(super) fn spread_leaders(
        &mut self,
        moment: Moment,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let now = moment.now;
        if now < self.leading.next_look {
            return;
        }
        let limits = self.config.limits.moving;
        self.leading.next_look = now + limits.tending_interval;
        let led = self.groups.iter().filter(|(_, each)| each.group.leads());
        let led: Vec<GroupId> = led.map(|(id, _)| *id).collect();
        let is_open = |id: &GroupId| self.groups.contains_key(id);
        self.leading.given.retain(|id, _| is_open(id));
        let since = &mut self.leading.since;
        since.retain(|id, _| led.binary_search(id).is_ok());
        for id in &led {
            since.entry(*id).or_insert(now);
        }
        if !self.meta().was_current {
            return;
        }
        self.prefer_leaders();
        self.relieve(moment, peers, out);
        let is_draining = self.leading.is_draining;
        let rebalances = self.tending().rebalances;
        for (id, to) in self.what_others_should_lead(&led, peers) {
            let since = self.leading.since.get(&id);
            let has_rested = since.is_some_and(|since| *since + limits.leading_rest <= now);
            let given = self.leading.given.get(&id);
            // Whoever could not take one group over must not keep the others here.
            let again = match is_draining {
                true => limits.leading_rest,
                false => limits.leading_again,
            };
            let may_give = given.is_none_or(|at| *at + again <= now);
            let is_idle = self.load_of(id, now) == 0;
            if !may_give || !(is_draining || rebalances && has_rested && is_idle) {
                continue;
            }
            if self.can_lead(id, to, peers) {
                self.leading.given.insert(id, now);
                self.with(id, out, |group, out| {
                    group.hand_over_to(moment, Some(to), peers, out);
                });
                return;
            }
        }
    }

    /// What this node leads and others should, and who: all of it where it is being emptied, else
    /// what is more than its share.
    fn what_others_should_lead(&self, led: &[GroupId], peers: &Peers) -> Vec<(GroupId, NodeId)> {
        let preferred = &self.leading.preferred;
        if self.leading.is_draining {
            let heir = led.first().filter(|id| **id == META);
            let heir = heir.and_then(|id| Some((*id, self.heir_of_first(peers)?)));
            let others = led.iter().filter(|id| **id != META);
            let others = others.filter_map(|id| Some((*id, *preferred.get(id)?)));
            return heir.into_iter().chain(others).collect();
        }
        let others = self.groups.iter().filter(|(id, _)| **id != META);
        let leaders = others.filter_map(|(id, opened)| Some((*id, opened.group.leader?)));
        let is_there = |node| node == self.own || peers.route_to(node).is_some();
        leaders::surplus(self.own, preferred, &leaders.collect(), is_there)
    }

    /// Who shall lead what, if the table has changed.
    fn prefer_leaders(&mut self) {
        if self.leading.is_made {
            return;
        }
        let replica = self.meta().replica();
        let picture = Picture::new(replica.reader(), replica.membership());
        let candidates = picture.keyspaces.iter().map(|(group, keyspace)| {
            let serving = keyspace.serving().iter();
            (*group, serving.map(|each| each.node).collect())
        });
        let standing = meta::standing(replica.reader(), self.own);
        let candidates = candidates.collect();
        self.leading.preferred = leaders::preferred(&picture.sites, &candidates);
        self.leading.candidates = candidates;
        self.leading.sites = picture.sites;
        self.leading.is_draining = standing == Standing::Draining;
        self.leading.is_made = true;
    }

    /// Another node for the first group: one that takes replicas.
    fn heir_of_first(&self, peers: &Peers) -> Option<NodeId> {
        let replica = self.meta().replica();
        let mut serving = replica.membership().holders().filter(|node| {
            meta::standing(replica.reader(), *node) == Standing::Serving && *node != self.own
        });
        serving.find(|node| peers.route_to(*node).is_some())
    }

    /// Whether a node can take a group over: it is another one, connected, and votes in it, and
    /// nothing else is being changed there.
    fn can_lead(&self, id: GroupId, to: NodeId, peers: &Peers) -> bool {
        let Some(opened) = self.groups.get(&id) else {
            return false;
        };
        let seen = opened.group.observed();
        to != self.own
            && !seen.is_changing
            && seen.voters.contains(&to)
            && peers.route_to(to).is_some()
    }
}
