//! The mover at work: keyspaces get to the nodes that the table names.
//!
//! ```text
//!   the table: pods shall be on {a, b, d}          every node: opens what it shall hold
//!                 │                                            │
//!                 ▼                                            ▼
//!   the leader of its group: add d ─▶ d has caught up ─▶ promote d ─▶ says *leave* (into the
//!   table) every node: clients are served by {a, b, d} alone ◀──────┘ the leader: waits a moment
//!   ─▶ (hands over, if it leaves) ─▶ remove c ─▶ says *settle* c: closes its replica
//!   ◀──────────────────────────────────────┘
//! ```
//!
//! Each group is moved by whoever leads it, from what it sees ([`mover::steps`]); nothing is kept
//! but what stands in the table and in the group, so the next leader goes on where one stopped.
//! *Settle* is said once the removal is executed: whoever reads it deletes what it holds.
//!
//! Tables are read late: by a node that closes a replica, and by one that leads a group. So that
//! nobody closes what has got a vote again meanwhile,
//!
//! - moves have numbers, and a leader takes no step of a move, and says nothing of it, before its
//!   group has written down, in this leader's own epoch, that it is on that move. A group never
//!   goes back to an earlier one: who leads by an old table adds nobody;
//! - a node is filled only once it has said that its table is the one that the move made, or a
//!   later one. Whatever earlier tables had it close is closed by then.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{Epoch, GroupId, Instant, NodeId};
use cluster::meta::{self, Keyspace, MetaCommand, Moving};
use cluster::placement::mover::{self, Observed, Step};
use cluster::placement::plan::TableEpoch;

use super::Running;
use crate::group::{META, Moment};
use crate::interface::{KeyspaceStatus, Output};
use crate::peers::Peers;

/// What bounds keyspaces that move.
#[derive(Clone, Copy, Debug)]
pub struct MovingLimits {
    /// What one node has under way of the keyspaces that it leads; the others wait.
    pub at_a_time: mover::Limits,
    /// Keyspaces that are sent elsewhere without an operator's asking, at a time.
    pub sent_at_a_time: usize,
    /// How often it is looked whether a step can be taken.
    pub interval: Duration,
    /// From when clients are served by others until a replica is removed: what it was asked before
    /// is answered meanwhile.
    pub grace: Duration,
    /// A replica whose node has calls under way, or has not heard that others serve the keyspace,
    /// is removed all the same after so long: longer than a call may take.
    pub patience: Duration,
    /// How long to wait before the table is told the same thing again.
    pub say_again: Duration,
    /// How often it is looked who is dead, who holds too much, and who leads too much.
    pub tending_interval: Duration,
    /// How long a node that was given up must be back before it counts again.
    pub back_after: Duration,
    /// A leader that shall not lead hands over when it has led for so long.
    pub leading_rest: Duration,
    /// One that leads again what it has handed over keeps it for so long: something is in the way
    /// of the other one.
    pub leading_again: Duration,
    /// How often a node looks whether it should lead less, by what there is to do.
    pub load_interval: Duration,
    /// A node that does so little for what it leads, in commands, KiB and read rounds a second,
    /// leaves that where it is.
    pub load_least: u64,
}

impl Default for MovingLimits {
    fn default() -> MovingLimits {
        MovingLimits {
            at_a_time: mover::Limits::default(),
            sent_at_a_time: 8,
            interval: Duration::from_millis(100),
            grace: Duration::from_secs(2),
            patience: Duration::from_secs(10),
            say_again: Duration::from_secs(2),
            tending_interval: Duration::from_secs(1),
            back_after: Duration::from_secs(5),
            leading_rest: Duration::from_secs(10),
            leading_again: Duration::from_secs(300),
            load_interval: Duration::from_secs(5),
            load_least: 100,
        }
    }
}

/// A keyspace that is served by its new nodes alone.
#[derive(Debug)]
struct Leaving {
    /// Which move.
    begun: TableEpoch,
    /// When this node heard of it, and the epoch of its table then.
    heard: (Instant, TableEpoch),
    /// When those who leave were found to know it too.
    known: BTreeMap<NodeId, Instant>,
}

/// What a node keeps of the keyspaces that move.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    /// Those that it holds, by their groups.
    keyspaces: BTreeMap<GroupId, Moving>,
    /// Who leaves what, as far as this node has seen.
    leaving: BTreeMap<GroupId, Leaving>,
    /// When the table was last told something about a group.
    said: BTreeMap<GroupId, Instant>,
    /// When a group was last told which move it is on.
    told: BTreeMap<GroupId, (Epoch, TableEpoch, Instant)>,
    /// The newest move to this node that it has heard of, and told the others so.
    heard: TableEpoch,
    next_look: Instant,
}

impl UnderWay {
    /// Whether a group that this node holds is being moved.
    pub(super) fn has(&self, id: GroupId) -> bool {
        self.keyspaces.contains_key(&id)
    }
}

impl Running {
    /// The table has changed: who moves.
    pub(super) fn follow_moves(&mut self, table: &[Keyspace], now: Instant) {
        let epoch = meta::epoch(self.meta().replica().reader());
        let mut has_news = false;
        let under_way = &mut self.under_way;
        let moving = table.iter().filter_map(|each| {
            let moving = each.moving.clone().filter(|_| each.is_held_by(self.own));
            Some((each.group, moving?))
        });
        under_way.keyspaces = moving.collect();
        let moving = &under_way.keyspaces;
        under_way.leaving.retain(|group, leaving| {
            let moving = moving.get(group);
            moving.is_some_and(|each| each.is_leaving && each.begun == leaving.begun)
        });
        under_way.said.retain(|group, _| moving.contains_key(group));
        under_way.told.retain(|group, _| moving.contains_key(group));
        for (group, each) in moving.iter().filter(|(_, each)| each.is_leaving) {
            if let Entry::Vacant(new) = under_way.leaving.entry(*group) {
                // *Leave* has been heard; what is said next is another thing.
                new.insert(Leaving {
                    begun: each.begun,
                    heard: (now, epoch),
                    known: BTreeMap::new(),
                });
                has_news = true;
                under_way.said.remove(group);
            }
        }
        let own = self.own;
        let to_here = moving.values().filter(|each| {
            let mut target = each.target.iter();
            target.any(|replica| replica.node == own)
        });
        let newest = to_here.map(|each| each.begun).max().unwrap_or_default();
        if newest > under_way.heard || has_news {
            under_way.heard = under_way.heard.max(newest);
            self.meta_mut().tell_facts_now(now);
        }
    }

    /// When to look next at the keyspaces that move.
    pub(super) fn moving_deadline(&self) -> Option<Instant> {
        let moving = self.under_way.keyspaces.keys().copied();
        let mut all = moving.chain(self.observing.at_work());
        let leads = all.any(|id| self.groups.get(&id).is_some_and(|each| each.group.leads()));
        leads.then_some(self.under_way.next_look)
    }

    /// Takes the next steps of the keyspaces that this node leads.
    pub(super) fn move_replicas(
        &mut self,
        moment: Moment,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let is_idle =
            self.under_way.keyspaces.is_empty() && self.observing.at_work().next().is_none();
        if is_idle || moment.now < self.under_way.next_look {
            return;
        }
        self.under_way.next_look = moment.now + self.config.limits.moving.interval;
        if !self.meta().was_current {
            return;
        }
        let (mut target, mut observed) = (BTreeMap::new(), BTreeMap::new());
        let mut unaware = Vec::new();
        for (id, moving) in &self.under_way.keyspaces {
            let opened = self.groups.get(id).filter(|opened| opened.group.leads());
            let Some(opened) = opened else {
                continue;
            };
            if !opened.group.follows_move(moving.begun) {
                unaware.push((*id, moving.begun, opened.group.epoch));
                continue;
            }
            let nodes: Vec<NodeId> = moving.target.iter().map(|each| each.node).collect();
            let observers = self.observers_of(*id);
            let mut unready = self.unready(moving);
            unready.extend(Self::unreachable(&observers, peers));
            let seen = Observed {
                unready,
                observers,
                ..opened.group.observed()
            };
            target.insert(*id, nodes);
            observed.insert(*id, seen);
        }
        for (id, seen, is_unsettled) in self.observers_to_settle(peers) {
            if is_unsettled {
                target.insert(id, seen.voters.iter().copied().collect());
            }
            observed.entry(id).or_insert(seen);
        }
        for (id, begun, epoch) in unaware {
            self.tell_of_move(moment.now, id, (epoch, begun), out);
        }
        // Of the others nothing is to be said: a group that does not follow its move yet may have
        // another membership than it seems.
        let known = observed.iter().filter(|(id, _)| target.contains_key(id));
        for (id, seen) in known {
            self.report(moment.now, *id, seen, out);
        }
        let limits = self.config.limits.moving.at_a_time;
        for (id, step) in mover::steps(&target, &observed, &limits) {
            self.move_on(moment, id, step, &observed[&id], peers, out);
        }
    }

    /// Those of a target who have not said that they know of the move.
    fn unready(&self, moving: &Moving) -> BTreeSet<NodeId> {
        let facts = &self.meta().facts;
        let knows = |node: &NodeId| {
            facts
                .get(node)
                .is_some_and(|each| each.table >= moving.begun)
        };
        let target = moving.target.iter().map(|each| each.node);
        target.filter(|node| !knows(node)).collect()
    }

    /// A group that this node leads is told which move it is on.
    fn tell_of_move(
        &mut self,
        now: Instant,
        id: GroupId,
        what: (Epoch, TableEpoch),
        out: &mut Vec<Output>,
    ) {
        let again = self.config.limits.moving.say_again;
        let told = self.under_way.told.get(&id);
        if told.is_some_and(|(epoch, begun, at)| (*epoch, *begun) == what && now < *at + again) {
            return;
        }
        let (epoch, begun) = what;
        self.under_way.told.insert(id, (epoch, begun, now));
        self.with(id, out, |group, _| group.follow_move(now, begun));
    }

    /// Says into the table what has been reached.
    fn report(&mut self, now: Instant, id: GroupId, seen: &Observed, out: &mut Vec<Output>) {
        let Some(moving) = self.under_way.keyspaces.get(&id) else {
            return;
        };
        if seen.is_changing && !mutant::is_on(Mutant::SettleEarly) {
            return;
        }
        let shall: BTreeSet<NodeId> = moving.target.iter().map(|each| each.node).collect();
        let begun = moving.begun;
        // Observers stay, and one that is missing holds nothing up.
        let mut learners = seen.learners.keys();
        let is_over = seen.voters == shall && learners.all(|node| seen.observers.contains(node));
        let command = match moving.is_leaving {
            true if is_over || mutant::is_on(Mutant::SettleEarly) => {
                MetaCommand::Settle { group: id, begun }
            }
            false if shall.is_subset(&seen.voters) => MetaCommand::Leave { group: id, begun },
            _ => return,
        };
        let again = self.config.limits.moving.say_again;
        let said = self.under_way.said.get(&id);
        if said.is_some_and(|at| now < *at + again) {
            return;
        }
        self.under_way.said.insert(id, now);
        self.with(META, out, |group, _| group.tell_table(now, &command));
    }

    /// Takes a step of one group, if its time has come.
    fn move_on(
        &mut self,
        moment: Moment,
        id: GroupId,
        step: Step,
        seen: &Observed,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let takes_away = match step {
            Step::AddLearner(_) | Step::Promote(_) => false,
            Step::HandOver => true,
            Step::Remove(node) => seen.voters.contains(&node),
        };
        let leaves = match step {
            Step::Remove(node) => node,
            _ => self.own,
        };
        if takes_away && !self.has_served(moment.now, id, leaves, peers) {
            return;
        }
        let member = match step {
            Step::AddLearner(node) => match self.meta().membership.members.get(&node) {
                Some(member) => Some(member.clone()),
                // It has been removed from the cluster: another target is needed.
                None => return,
            },
            _ => None,
        };
        self.with(id, out, |group, out| {
            group.take_step(moment, step, member, peers, out);
        });
    }

    /// Whether a node that leaves a keyspace has answered what it was asked there. It must have
    /// heard that others serve it now, as it says with its facts; what came before is answered in a
    /// while, and it says how much is not. One that cannot be reached, or says nothing for long, is
    /// not waited for.
    fn has_served(&mut self, now: Instant, id: GroupId, node: NodeId, peers: &Peers) -> bool {
        if mutant::is_on(Mutant::NeverLeave) {
            return false;
        }
        let MovingLimits {
            grace, patience, ..
        } = self.config.limits.moving;
        let facts = self.meta().facts.get(&node).copied();
        let calls = self.groups.get(&id).and_then(|opened| {
            let facts = opened.group.facts.get(&node);
            facts.map(|each| each.calls)
        });
        let is_own = node == self.own;
        let is_reached = peers.route_to(node).is_some();
        let Some(leaving) = self.under_way.leaving.get_mut(&id) else {
            return false;
        };
        let (heard, epoch) = leaving.heard;
        // Whoever only hands over goes on answering its own calls.
        if is_own || !is_reached || heard + patience <= now {
            return heard + grace <= now;
        }
        if facts.is_none_or(|facts| facts.table < epoch) {
            return false;
        }
        let known = *leaving.known.entry(node).or_insert(now);
        known + grace <= now && calls.is_none_or(|calls| calls == 0)
    }

    /// What is known here of keyspaces, beside what the table says.
    pub(super) fn add_progress(&self, keyspaces: &mut [KeyspaceStatus]) {
        for status in keyspaces {
            let Some(opened) = self.groups.get(&status.group) else {
                continue;
            };
            let group = &opened.group;
            let leader = group
                .leader
                .and_then(|id| group.membership.members.get(&id));
            status.leader = leader.map(|member| member.name.clone());
            let (Some(moving), Some(shown)) = (
                self.under_way.keyspaces.get(&status.group),
                &mut status.moving,
            ) else {
                continue;
            };
            let coming = moving.target.iter();
            let coming = coming.filter(|each| !status.replicas.contains(&each.name));
            shown.filled = coming
                .map(|each| (each.name.clone(), group.filled(each.node)))
                .collect();
        }
    }
}
