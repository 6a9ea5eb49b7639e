//! Signs of life between nodes, instead of heartbeats of each group that sleeps.
//!
//! ```text
//!   every heartbeat interval, to each node that shares a group:   Pulse(incarnation, surrendered)
//!
//!   silent for an election timeout │
//!   it closed its connections      ├─▶ the sleeping groups that it led wake, a few at a time, each
//!   its leaderships have changed   ┴   with a timer drawn at random; of those led here, the ones
//!                                      that have no quorum without it
//!   it is there (again)            ──▶ those led here, unless it sleeps in them as it did before:
//!                                      they may have gone on without it
//! ```
//!
//! Whoever leads a group brings up those who are back: its other followers have nothing to do with
//! that, and sleep on until they hear of it.
//!
//! A pulse says of a node what a heartbeat says of a group: that it is alive. `surrendered` says
//! the rest: it grows whenever a group that slept under this node is not led by it any more. So
//! what a sleeping follower believes, that its leader leads, is what the leader's node said
//! within the last election timeout, as for one that is awake.
//!
//! Whom a replica speaks to is told by its own membership, and by the table: one that was away
//! while its keyspace moved may know nobody of those who hold it now. If it has no vote to ask for,
//! or is in doubt, they are the ones who have to hear that it is back.
//!
//! Gossip decides nothing here: it may be wrong for seconds. In which order groups wake, and how
//! many at a time, says [`super::waking`].

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, Incarnation, Instant, NodeId};
use bytes::Bytes;
use cluster::meta::Keyspace;

use super::waking::{Cause, Waking};
use super::{Opened, Running};
use crate::calls::earlier;
use crate::group::{META, Moment};
use crate::interface::Output;
use crate::peers::Peers;
use crate::wire::{Frame, GroupFrame};

/// So often those who sleep under this node are told by name that it leads a group no more.
const WAKES_BEFORE_SURRENDER: u32 = 6;

/// What was last heard of a node.
#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    incarnation: Incarnation,
    surrendered: u64,
}

/// Another node, and what this one shares with it.
#[derive(Debug, Default)]
struct Pair {
    groups: BTreeSet<GroupId>,
    heard: Option<Heard>,
    is_there: bool,
}

/// The pulses of this node and of those that share groups with it.
#[derive(Debug)]
pub(super) struct Pulses {
    pairs: BTreeMap<NodeId, Pair>,
    /// Who has to do with a group by the table, and not by the membership that this node knew when
    /// the table changed.
    named: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// When to give the next sign of life, and to look who gave none.
    next: Instant,
    surrendered: u64,
    /// Groups that are to wake.
    pub(super) waking: Waking,
    /// Frames that leave behind what engines say.
    pub(super) said: Vec<(NodeId, Bytes)>,
}

impl Pulses {
    pub(super) fn new(now: Instant) -> Pulses {
        Pulses {
            pairs: BTreeMap::new(),
            named: BTreeMap::new(),
            next: now,
            surrendered: 0,
            waking: Waking::default(),
            said: Vec::new(),
        }
    }

    /// Whether a node gives signs of life.
    pub(super) fn is_there(&self, node: NodeId) -> bool {
        self.pairs.get(&node).is_some_and(|pair| pair.is_there)
    }

    /// When a node last gave one.
    fn heard_at(&self, node: NodeId) -> Option<Instant> {
        self.pairs.get(&node)?.heard.map(|heard| heard.at)
    }

    /// A group of this node has these members.
    pub(super) fn share(&mut self, id: GroupId, others: impl Iterator<Item = NodeId>) {
        self.unshare(id);
        let named = self.named.get(&id).into_iter().flatten().copied();
        for node in others.chain(named) {
            self.pairs.entry(node).or_default().groups.insert(id);
        }
        self.pairs.retain(|_, pair| !pair.groups.is_empty());
    }

    /// A group is not on this node any more.
    pub(super) fn unshare(&mut self, id: GroupId) {
        for pair in self.pairs.values_mut() {
            pair.groups.remove(&id);
        }
    }

    /// A group that slept under this node has another leader, or none: its followers are to know.
    pub(super) fn surrender(&mut self) {
        self.surrendered += 1;
    }

    /// When something is to be done.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let next = (!self.pairs.is_empty()).then_some(self.next);
        earlier(next, self.waking.deadline(now))
    }
}

impl Running {
    /// Another node gives a sign of life.
    pub(super) fn pulse(&mut self, from: NodeId, incarnation: Incarnation, surrendered: u64) {
        let now = self.moment.now;
        let Some(pair) = self.pulses.pairs.get_mut(&from) else {
            return;
        };
        let news = Heard {
            at: now,
            incarnation,
            surrendered,
        };
        let before = pair.heard.replace(news);
        let is_back = !std::mem::replace(&mut pair.is_there, true);
        let is_another = before.is_some_and(|before| before.incarnation != incarnation);
        let has_surrendered = before.is_some_and(|before| before.surrendered != surrendered);
        if is_another {
            // It sleeps under nobody.
            for id in &pair.groups {
                if let Some(opened) = self.groups.get_mut(id) {
                    opened.asleep_below.remove(&from);
                }
            }
        } else if is_back && !has_surrendered {
            // Its groups are as they were before it was silent.
            self.pulses.waking.forget_silence(from);
        }
        let own = self.own;
        if is_back || is_another {
            // Who shall observe and has not been added waits for its turn.
            let lacks = |opened: &Opened| {
                let is_member = opened.group.membership.members.contains_key(&from);
                is_member && !opened.asleep_below.contains(&from)
            };
            self.stir(from, Cause::Other, |opened| {
                let leader = opened.group.leader;
                let has_changed = leader == Some(from) && (is_another || has_surrendered);
                has_changed || leader.is_none() || (leader == Some(own) && lacks(opened))
            });
        } else if has_surrendered {
            self.stir(from, Cause::Other, |opened| {
                opened.group.leader == Some(from)
            });
        }
    }

    /// The table has changed: whom this node gives signs of life beside those whom its groups know.
    pub(super) fn follow_names(&mut self, table: &[Keyspace]) {
        let mut named: BTreeMap<GroupId, BTreeSet<NodeId>> = BTreeMap::new();
        for each in table {
            let Some(opened) = self.groups.get(&each.group) else {
                continue;
            };
            let known = &opened.group.membership.members;
            let is_new = |node: &NodeId| *node != self.own && !known.contains_key(node);
            let nodes: BTreeSet<NodeId> = each.open_on().filter(is_new).collect();
            if !nodes.is_empty() {
                named.insert(each.group, nodes);
            }
        }
        let before = std::mem::replace(&mut self.pulses.named, named);
        let after = &self.pulses.named;
        let all: BTreeSet<GroupId> = before.keys().chain(after.keys()).copied().collect();
        for id in all {
            let has_changed = before.get(&id) != self.pulses.named.get(&id);
            let opened = self.groups.get(&id).filter(|_| has_changed);
            if let Some(opened) = opened {
                let own = self.own;
                let members = opened.group.membership.members.keys().copied();
                self.pulses.share(id, members.filter(|node| *node != own));
            }
        }
    }

    /// Has such sleeping groups that are shared with a node wake, a few at a time.
    fn stir(&mut self, node: NodeId, cause: Cause, which: impl Fn(&Opened) -> bool) {
        let Pulses { pairs, waking, .. } = &mut self.pulses;
        let Some(pair) = pairs.get(&node) else {
            return;
        };
        for id in &pair.groups {
            let opened = self.groups.get(id);
            if let Some(opened) = opened.filter(|each| each.group.is_asleep() && which(each)) {
                let members = opened.group.membership.members.keys();
                waking.push(*id, super::waking::turn(*id, self.own, members), cause);
            }
        }
    }

    /// A node gives no more signs of life; its process has `ended`, if so much is known.
    pub(super) fn missed(&mut self, node: NodeId, ended: bool) {
        let own = self.own;
        let Some(pair) = self.pulses.pairs.get_mut(&node) else {
            return;
        };
        pair.is_there = false;
        let pairs = &self.pulses.pairs;
        let there: BTreeSet<NodeId> = pairs
            .iter()
            .filter(|(_, pair)| pair.is_there)
            .map(|(node, _)| *node)
            .collect();
        let cause = match ended {
            true => Cause::Ended(node),
            false => Cause::Silent(node),
        };
        self.stir(node, cause, |opened| {
            let leader = opened.group.leader;
            let members = &opened.group.membership;
            let is_there = |id: NodeId| id == own || there.contains(&id);
            let has_quorum = members.commits(is_there) && members.elects(is_there);
            leader == Some(node) || (leader == Some(own) && !has_quorum)
        });
    }

    /// Gives a sign of life if it is time, looks who gave none, and wakes some of the groups that
    /// are to wake.
    pub(super) fn keep_pulse(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        let now = moment.now;
        if self.pulses.next <= now && !self.pulses.pairs.is_empty() {
            let interval = self.config.timing.heartbeat_interval;
            // Who was not looking may not complain of silence: what came meanwhile is read first.
            let was_away = now.since(self.pulses.next) > interval;
            self.pulses.next = now + interval;
            let body = Frame::Pulse {
                incarnation: self.incarnation,
                surrendered: self.pulses.surrendered,
            };
            let body = body.encode();
            for node in self.pulses.pairs.keys() {
                peers.send(*node, body.clone(), out);
            }
            if !was_away {
                self.find_silent(now);
            }
        }
        self.wake_some(moment, peers, out);
    }

    /// The connections to a node are gone.
    pub(super) fn missed_connections(&mut self, node: NodeId, by_peer: bool) {
        // If its process did not close them, it may be back in a moment; else its silence will say.
        if by_peer {
            self.missed(node, true);
        }
    }

    /// Takes a frame that is about sleep, and whatever else wakes nobody. Tells whether it was one.
    pub(super) fn is_about_sleep(&mut self, id: GroupId, from: NodeId, frame: &GroupFrame) -> bool {
        let Some(opened) = self.groups.get_mut(&id) else {
            return true;
        };
        match *frame {
            GroupFrame::Sleep { epoch, slot } => {
                if opened.group.asked_to_sleep(from, epoch, slot) {
                    let body = GroupFrame::Asleep { epoch, slot }.encode(id);
                    self.pulses.said.push((from, body));
                } else {
                    self.rouse(id, Some(from));
                    self.wake(id);
                }
            }
            GroupFrame::Asleep { epoch, slot } => {
                if !opened.group.is_asleep() {
                    opened.group.follower_sleeps(from, epoch, slot);
                    self.wake(id);
                }
            }
            GroupFrame::Wake => {
                opened.asleep_below.remove(&from);
                opened.group.follower_woke(from);
                self.rouse(id, Some(from));
                self.wake(id);
            }
            GroupFrame::Facts(facts) if opened.group.is_asleep() => {
                opened.group.facts.insert(from, facts);
            }
            GroupFrame::Digest { slot, digest } => {
                return opened.group.agrees_in_sleep(from, slot, digest);
            }
            _ => return false,
        }
        true
    }

    fn find_silent(&mut self, now: Instant) {
        let patience = self.config.timing.election_timeout;
        let pairs = self.pulses.pairs.iter();
        let is_silent = |pair: &Pair| {
            let heard = pair.heard.map(|heard| heard.at);
            pair.is_there && heard.is_none_or(|at| now.since(at) >= patience)
        };
        let silent: Vec<NodeId> = pairs
            .filter(|(_, pair)| is_silent(pair))
            .map(|(node, _)| *node)
            .collect();
        for node in silent {
            self.missed(node, false);
        }
    }

    /// Something is about to happen to a group: if it sleeps, it wakes, and its leader with it,
    /// unless that is `by` whom it happens.
    pub(super) fn rouse(&mut self, id: GroupId, by: Option<NodeId>) {
        let now = self.moment.now;
        let Some(opened) = self.groups.get_mut(&id) else {
            return;
        };
        if !opened.group.is_asleep() {
            return;
        }
        let heard = opened
            .group
            .leader
            .and_then(|node| self.pulses.heard_at(node));
        if let Some(leader) = opened
            .group
            .wake_up(now, heard)
            .filter(|to| by != Some(*to))
        {
            let body = GroupFrame::Wake.encode(id);
            self.pulses.said.push((leader, body));
        }
        self.woken_before_its_turn(id, by);
    }

    /// A group has been looked at: it falls asleep if it can.
    pub(super) fn consider_sleep(&mut self, id: GroupId, now: Instant, peers: &Peers) {
        self.consider_surrender(id, now);
        let Some(opened) = self.groups.get_mut(&id).filter(|_| id != META) else {
            return;
        };
        let has_changed = opened.group.take_membership_change();
        if has_changed {
            let own = self.own;
            let members = opened.group.membership.members.keys().copied();
            self.pulses.share(id, members.filter(|node| *node != own));
            self.look_at_observers_of(id);
        }
        self.look_at_own_observing(id);
        self.look_at_filling(id, has_changed);
        let fills = self.fills(id, |node| peers.route_to(node).is_some());
        let Some(opened) = self.groups.get_mut(&id) else {
            return;
        };
        if self.under_way.has(id) || fills {
            // Its new replicas must hear of it until they are filled.
            return;
        }
        let mut said = std::mem::take(&mut self.pulses.said);
        let is_there = |node| self.pulses.is_there(node);
        opened.group.consider_sleep(now, &is_there, &mut said);
        if opened.group.is_asleep() {
            if opened.group.leads() {
                // Those who are not there have not said that they sleep.
                let members = opened.group.membership.members.keys().copied();
                opened.asleep_below = members.filter(|node| is_there(*node)).collect();
            }
            self.pulses.waking.slept(id);
            self.is_filled(id);
        }
        self.pulses.said = said;
        self.look_at_own_observing(id);
    }

    /// Whoever may be asleep under this node, and is not led by it any more, is to wake. Who leads
    /// instead speaks to them itself, and so does a candidate. If there is neither for long, they
    /// are told of this group; only if that comes to nothing, all hear of it by the pulse, which
    /// wakes whatever this node leads.
    fn consider_surrender(&mut self, id: GroupId, now: Instant) {
        let Some(opened) = self.groups.get_mut(&id) else {
            return;
        };
        if opened.asleep_below.is_empty() || opened.group.leads() {
            opened.unled = None;
            return;
        }
        if opened.group.leader.is_some() {
            opened.asleep_below.clear();
            return;
        }
        let (since, told) = opened.unled.get_or_insert((now, 0));
        if *since + self.config.timing.election_timeout * (*told + 1) > now {
            return;
        }
        *told += 1;
        if *told <= WAKES_BEFORE_SURRENDER {
            let body = GroupFrame::Wake.encode(id);
            let below = opened.asleep_below.iter();
            self.pulses.said.extend(below.map(|to| (*to, body.clone())));
        } else {
            opened.asleep_below.clear();
            self.pulses.surrender();
        }
    }

    /// What groups say behind their engines.
    pub(super) fn say_rest(&mut self, peers: &Peers, out: &mut Vec<Output>) {
        for (to, body) in self.pulses.said.drain(..) {
            peers.send(to, body, out);
        }
    }
}
