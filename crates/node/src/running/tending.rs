//! The cluster looks after itself: whoever leads the first group sees who is dead and who holds too
//! much, and says into the table what shall be.
//!
//! ```text
//!   connections, facts ─▶ since when is somebody dead, or back? ─▶ Stand(gone), Stand(serving)
//!   table, sites ─▶ plan ─▶ what must move, or would better ─▶ Move: a few at a time
//! ```
//!
//! Deciding is in the log, and names what it was decided on: the epoch of the table, or what the
//! node was taken for. So a leader that is one no longer changes nothing. A new leader counts from
//! the beginning how long somebody has been dead: it has not seen it itself before.
//!
//! Every other node says where it stands, if the table does not know, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{Instant, NodeId};
use cluster::meta::{self, Keyspace, MetaCommand, Picture, Tending};
use cluster::placement::plan::{Scope, TableEpoch};
use cluster::placement::site::Standing;

use super::Running;
use crate::group::{META, Moment};
use crate::interface::Output;
use crate::peers::Peers;

/// What decides what is to be moved.
#[derive(Debug, PartialEq, Eq)]
struct Situation {
    epoch: TableEpoch,
    alive: BTreeSet<NodeId>,
    voters: BTreeSet<NodeId>,
}

/// What a node has seen of the others while it leads the first group.
#[derive(Debug, Default)]
pub(super) struct Tended {
    /// Since when a node is dead, as far as is known here.
    dead: BTreeMap<NodeId, Instant>,
    /// Since when it is not.
    alive: BTreeMap<NodeId, Instant>,
    /// What was said last into the table, and when: on this epoch nothing else will be, before it
    /// is lost.
    said: Option<(TableEpoch, Instant)>,
    /// Here nothing is to be moved, or nothing more for now: what comes of looking again is known.
    at_rest: Option<Situation>,
    next_look: Instant,
    /// The table says something else of where this node stands.
    has_moved: bool,
    /// When to say again where this node stands.
    next_saying: Instant,
    /// When somebody was last heard of.
    heard: BTreeMap<NodeId, Instant>,
}

impl Running {
    /// A node has said something about the first group that it says every now and then.
    pub(super) fn heard_of(&mut self, node: NodeId, now: Instant) {
        self.tended.heard.insert(node, now);
    }

    /// How long nothing has been heard of a node, if it was heard of since this one was started.
    pub(super) fn silence_of(&self, node: NodeId, now: Instant) -> Option<Duration> {
        self.tended.heard.get(&node).map(|at| now.since(*at))
    }

    /// What was found out on the table may not hold any more.
    pub(super) fn plan_anew(&mut self) {
        let reader = self.meta().replica().reader();
        self.tended.has_moved = meta::domains(reader, self.own) != self.config.domains;
        self.tended.at_rest = None;
        self.leading.forget();
    }

    /// When to look next after the cluster.
    pub(super) fn tending_deadline(&self) -> Option<Instant> {
        let meta = self.meta();
        let has_others = meta.membership.members.len() > 1;
        let leads = meta.leads() && has_others;
        let says =
            self.tended.has_moved && !self.is_witness && meta.was_current && meta.leader.is_some();
        (leads || says).then_some(self.tended.next_look)
    }

    /// Says into the table where this node stands, if that is not what stands there.
    fn say_where(&mut self, now: Instant, out: &mut Vec<Output>) {
        // A witness holds nothing, wherever it is.
        let is_current = self.meta().was_current && !self.is_witness;
        if !self.tended.has_moved || !is_current || now < self.tended.next_saying {
            return;
        }
        self.tended.next_saying = now + self.config.limits.moving.say_again;
        let command = MetaCommand::Site {
            node: self.own,
            domains: self.config.domains.clone(),
        };
        self.with(META, out, |group, _| group.tell_table(now, &command));
    }

    /// Looks who is dead and what is to be moved, if this node leads the first group.
    pub(super) fn tend(&mut self, moment: Moment, peers: &Peers, out: &mut Vec<Output>) {
        let now = moment.now;
        if now < self.tended.next_look {
            return;
        }
        self.tended.next_look = now + self.config.limits.moving.tending_interval;
        self.say_where(now, out);
        let meta = self.meta();
        if !meta.leads() || !meta.was_current {
            // Whoever leads next counts from the beginning, this node included.
            self.tended.dead.clear();
            self.tended.alive.clear();
            self.tended.at_rest = None;
            return;
        }
        self.see_who_lives(now, peers);
        if let Some(command) = self.what_is_to_be_said(now) {
            let epoch = meta::epoch(self.meta().replica().reader());
            self.tended.said = Some((epoch, now));
            self.with(META, out, |group, _| group.tell_table(now, &command));
        }
    }

    /// Keeps since when each node is dead or alive. A connection can outlive what is behind it: who
    /// has said nothing for long, while others have, is dead as well.
    fn see_who_lives(&mut self, now: Instant, peers: &Peers) {
        let silence = self.config.limits.facts_interval * 10;
        let reachable: BTreeSet<NodeId> = peers.reachable().collect();
        let members = self.meta().membership.members.keys();
        let members: BTreeSet<NodeId> = members.copied().collect();
        let own = self.own;
        let Tended {
            dead, alive, heard, ..
        } = &mut self.tended;
        heard.retain(|node, _| members.contains(node));
        dead.retain(|node, _| members.contains(node));
        alive.retain(|node, _| members.contains(node));
        let newest = heard.values().max().copied().unwrap_or(now);
        for node in members {
            let last = heard.get(&node);
            let is_heard = last.is_none_or(|last| *last + silence >= newest);
            if node == own || (reachable.contains(&node) && is_heard) {
                dead.remove(&node);
                alive.entry(node).or_insert(now);
            } else {
                alive.remove(&node);
                dead.entry(node).or_insert(now);
            }
        }
    }

    /// How the cluster looks after itself.
    pub(super) fn tending(&self) -> Tending {
        let said = meta::tending(self.meta().replica().reader());
        said.unwrap_or(self.config.tending)
    }

    fn what_is_to_be_said(&mut self, now: Instant) -> Option<MetaCommand> {
        let limits = self.config.limits.moving;
        let reader = self.meta().replica().reader();
        let epoch = meta::epoch(reader);
        let tending = self.tending();
        if let Some((before, at)) = self.tended.said
            && before == epoch
            && now < at + limits.say_again
        {
            return None;
        }
        self.who_stands_otherwise(now, &tending, limits.back_after)
            .or_else(|| self.what_shall_move(epoch, &tending, limits.sent_at_a_time))
    }

    /// A node that is to be given up, or that is back. One that is being emptied stays so.
    fn who_stands_otherwise(
        &self,
        now: Instant,
        tending: &Tending,
        back_after: Duration,
    ) -> Option<MetaCommand> {
        let meta = self.meta();
        let reader = meta.replica().reader();
        let has_lasted = |since: Option<&Instant>, long| since.is_some_and(|at| *at + long <= now);
        let changed = |node: &NodeId| {
            let was = meta::standing(reader, *node);
            let is_dead = tending
                .replace_after
                .is_some_and(|long| has_lasted(self.tended.dead.get(node), long));
            let is_back = has_lasted(self.tended.alive.get(node), back_after);
            let standing = match was {
                Standing::Serving if is_dead => Standing::Gone,
                Standing::Gone if is_back => Standing::Serving,
                _ => return None,
            };
            Some(MetaCommand::Stand {
                node: *node,
                was,
                standing,
            })
        };
        let members = meta.replica().membership().members.keys();
        members.into_iter().find_map(changed)
    }

    /// What must move, and what would better if the cluster is to even itself out.
    fn what_shall_move(
        &mut self,
        epoch: TableEpoch,
        tending: &Tending,
        at_a_time: usize,
    ) -> Option<MetaCommand> {
        let replica = self.meta().replica();
        let membership = replica.membership();
        let situation = Situation {
            epoch,
            alive: self.tended.alive.keys().copied().collect(),
            voters: membership.voters.clone(),
        };
        if self.tended.at_rest.as_ref() == Some(&situation) {
            return None;
        }
        let alive = &situation.alive;
        let picture = Picture::new(replica.reader(), membership);
        // While somebody is away who may come back, nothing moves that need not.
        let is_missed = |site: &cluster::placement::site::Site| {
            site.standing == Standing::Serving && !alive.contains(&site.node)
        };
        let all_there = !picture.sites.iter().any(is_missed);
        let scope = match tending.rebalances && all_there {
            true => Scope::Everything,
            false => Scope::Necessary,
        };
        let mut proposal = picture.propose(membership, scope);
        let all = picture.keyspaces.values();
        let by_name: BTreeMap<&str, &Keyspace> =
            all.map(|each| (each.name.as_str(), each)).collect();
        let has_it = |name: &str, node| {
            let keyspace = by_name.get(name);
            keyspace.is_some_and(|each| each.is_held_by(node))
        };
        proposal.moves.retain(|(name, target)| {
            let mut target = target.iter();
            target.all(|each| alive.contains(&each.node) || has_it(name, each.node))
        });
        // Where operators want it, it stays, unless it has to go.
        let stays = |name: &str| by_name.get(name).is_some_and(|each| each.stays);
        let reasons = &proposal.reasons;
        proposal
            .moves
            .retain(|(name, _)| !stays(name) || reasons[name].is_necessary());
        // What is on its way to a node that is not there any more is sent elsewhere at once: it
        // would keep its place for ever. The same goes for what has nobody left to move it.
        let is_moving = |name: &str| by_name.get(name).is_some_and(|each| each.moving.is_some());
        let can_move = |keyspace: &&Keyspace| {
            let serving = keyspace.serving();
            let there = serving.iter().filter(|each| alive.contains(&each.node));
            keyspace.moving.is_some() && there.count() > serving.len() / 2
        };
        let in_motion = picture.keyspaces.values().filter(can_move).count();
        let mut free = at_a_time.saturating_sub(in_motion);
        proposal.moves.retain(|(name, _)| {
            if is_moving(name) {
                return true;
            }
            let has_place = free > 0;
            free = free.saturating_sub(1);
            has_place
        });
        let (seen, moves) = (proposal.seen, proposal.moves);
        if moves.is_empty() {
            self.tended.at_rest = Some(situation);
            return None;
        }
        Some(MetaCommand::Move { seen, moves })
    }
}
