//! Keyspaces: the default one, and those that operators create, move, have observed, and drop while
//! faults strike.
//!
//! ```text
//!   planned ──its time──▶ creating ──told that it is there──▶ open ──its time──▶ dropping
//!               asked of whoever runs, again and again           clients ask
//! ```
//!
//! Each has clients, an auditor and a history of its own, which the checker judges by itself: they
//! share nothing. A name is never used twice: nodes that have not heard of a drop go on serving
//! what was dropped, so one name would stand for two histories.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::{GroupId, NodeId, Random};
use node::group::META;
use node::{Answer, Call, CallId, Node, Placement};

use super::World;
use super::audit::Audit;
use super::event::World as Happening;
use crate::clients::Clients;
use crate::invariants::Violation;
use crate::invariants::revisions::Revisions;
use crate::marks::Mark;
use crate::scenario::{self, Micros, Scenario};
use crate::streams::Streams;

/// How often operators look.
const LOOK: Duration = Duration::from_millis(150);
/// The place of the default keyspace.
pub(crate) const DEFAULT: usize = 0;

/// How far a keyspace has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Planned,
    Creating,
    Open,
    Dropping,
    Dropped,
}

/// A keyspace.
pub(crate) struct Space {
    pub(crate) name: Arc<str>,
    /// Where it lives, once a node has said so.
    pub(crate) group: Option<GroupId>,
    pub(crate) stage: Stage,
    pub(crate) clients: Clients,
    pub(crate) audit: Audit,
    plan: Option<scenario::Keyspace>,
    /// When it is moved next.
    moves: VecDeque<Micros>,
    /// When another host observes it next, or one no longer.
    observations: VecDeque<Micros>,
    /// What an operator has asked, of whom, and in which life of it.
    asked: Option<(CallId, usize, u64)>,
    random: Random,
}

/// What an operator wishes of a keyspace that is open.
#[derive(Clone, Copy, Debug)]
enum Wish {
    /// A replica shall be on another host.
    Move(usize, usize),
    /// A host shall observe it, or no longer.
    Observe(usize, bool),
}

/// A client: of which keyspace, and which one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) space: usize,
    pub(crate) client: usize,
}

impl Asker {
    /// A number below 256 that stands for this client in the numbers of its calls.
    pub(crate) fn number(self) -> u64 {
        (self.space * scenario::CLIENTS_MAX + self.client) as u64
    }

    /// The client that has this number.
    pub(crate) fn of(number: u64) -> Asker {
        Asker {
            space: number as usize / scenario::CLIENTS_MAX,
            client: number as usize % scenario::CLIENTS_MAX,
        }
    }
}

impl Space {
    /// A call to this keyspace.
    pub(crate) fn within(&self, call: Call) -> Call {
        match self.plan {
            None => call,
            Some(_) => Call::In {
                keyspace: Arc::clone(&self.name),
                call: Box::new(call),
            },
        }
    }
}

/// All keyspaces of a run, the default one first.
pub(crate) fn of(scenario: &Scenario, streams: Streams) -> Vec<Space> {
    let duration = scenario.duration;
    let default = Space {
        name: Arc::from("default"),
        group: Some(META),
        stage: Stage::Open,
        clients: Clients::new(
            scenario.workload.clone(),
            duration,
            streams.named("workload"),
        ),
        audit: Audit::default(),
        plan: None,
        moves: VecDeque::new(),
        observations: VecDeque::new(),
        asked: None,
        random: streams.named("operators.default"),
    };
    let others = scenario.keyspaces.iter().enumerate();
    let others = others.map(|(index, plan)| {
        let workload = streams.named(&format!("workload.{index}"));
        Space {
            name: Arc::from(format!("space-{}", index + 1)),
            group: None,
            stage: Stage::Planned,
            clients: Clients::new(plan.workload.clone(), duration, workload),
            audit: Audit::default(),
            plan: Some(plan.clone()),
            moves: plan.moves.iter().copied().collect(),
            observations: plan.observations.iter().copied().collect(),
            asked: None,
            random: streams.named(&format!("operators.{index}")),
        }
    });
    std::iter::once(default).chain(others).collect()
}

impl World {
    /// What clients of a keyspace were told of revisions. As long as nobody knows where it lives,
    /// nobody was told anything.
    pub(crate) fn revisions_of(&mut self, space: usize) -> &mut Revisions {
        match self.spaces[space].group {
            Some(group) => &mut self.invariants.of_mut(group).revisions,
            None => &mut self.nothing,
        }
    }

    /// The keyspace that lives in a group, if anybody knows.
    pub(crate) fn space_in(&self, group: GroupId) -> Option<usize> {
        let mut spaces = self.spaces.iter();
        spaces.position(|space| space.group == Some(group))
    }

    /// A node says in which group a keyspace lives.
    pub(crate) fn space_lives_in(&mut self, name: &str, group: GroupId) {
        let Some(space) = self.spaces.iter_mut().find(|each| &*each.name == name) else {
            return;
        };
        match space.group.replace(group) {
            Some(other) if other != group => self.fail(Violation {
                invariant: "a keyspace is one group",
                text: format!("{name} lives in {other} and in {group}"),
            }),
            _ => {}
        }
    }

    /// Plans when keyspaces are created.
    pub(crate) fn plan_keyspaces(&mut self) {
        self.operators.tending = self.scenario.tending.map(|after| (None, after));
        for space in 0..self.spaces.len() {
            if let Some(plan) = &self.spaces[space].plan {
                let created = Duration::from_micros(plan.created);
                self.schedule(created, Happening::Keyspace(space));
            }
        }
    }

    /// An operator looks after a keyspace.
    pub(crate) fn tend_keyspace(&mut self, index: usize) {
        if self.is_calm {
            return;
        }
        let elapsed = self.elapsed().as_micros() as Micros;
        let space = &mut self.spaces[index];
        let dropped = space.plan.as_ref().and_then(|plan| plan.dropped);
        match space.stage {
            Stage::Planned => space.stage = Stage::Creating,
            Stage::Open if dropped.is_some_and(|at| at <= elapsed) => {
                space.stage = Stage::Dropping;
                space.clients.may_vanish = true;
            }
            Stage::Open => self.hear_mover(index),
            Stage::Dropped => {}
            Stage::Creating | Stage::Dropping => self.hear_operator(index),
        }
        self.ask_about_keyspace(index);
        let moved = self.spaces[index].moves.front().copied();
        let observed = self.spaces[index].observations.front().copied();
        let next = [dropped, moved, observed].into_iter().flatten().min();
        match (self.spaces[index].stage, next) {
            (Stage::Open, _)
                if self.spaces[index].asked.is_some() || self.operators.tending.is_some() =>
            {
                self.schedule(LOOK, Happening::Keyspace(index));
            }
            (Stage::Open, Some(at)) => {
                let left = Duration::from_micros(at.saturating_sub(elapsed) + 1).max(LOOK);
                self.schedule(left, Happening::Keyspace(index));
            }
            (Stage::Creating | Stage::Dropping, _) => {
                self.schedule(LOOK, Happening::Keyspace(index));
            }
            _ => {}
        }
    }

    /// What has become of what an operator asked.
    fn hear_operator(&mut self, index: usize) {
        let Some((id, through, life)) = self.spaces[index].asked else {
            return;
        };
        let answer = self.own_answers.remove(&id);
        if answer.is_some() || self.hosts[through].life != life {
            self.spaces[index].asked = None;
        }
        let Some(Answer::Operator(result)) = answer else {
            return;
        };
        // Asked before, without an answer.
        let is_done = |words: &str| match &result {
            Ok(_) => true,
            Err(text) => text.contains(words),
        };
        match self.spaces[index].stage {
            Stage::Creating if is_done("already") => self.keyspace_opens(index),
            Stage::Dropping if is_done("there is no keyspace") => {
                self.spaces[index].stage = Stage::Dropped;
                self.marks.reach(Mark::KeyspaceDropped);
            }
            _ => {}
        }
    }

    /// What has become of what an operator asked; the next move, or the next observer, when its
    /// time has come.
    fn hear_mover(&mut self, index: usize) {
        if let Some((id, through, life)) = self.spaces[index].asked {
            let answer = self.own_answers.remove(&id);
            if self
                .operators
                .tending
                .is_some_and(|(asked, _)| asked == Some(id))
            {
                let is_done = matches!(answer, Some(Answer::Operator(Ok(_))));
                self.operators.tending = self.operators.tending.filter(|_| !is_done);
            }
            if answer.is_some() || self.hosts[through].life != life {
                self.spaces[index].asked = None;
            }
        }
        if self.ask_to_tend(index) {
            return;
        }
        let elapsed = self.elapsed().as_micros() as Micros;
        let space = &mut self.spaces[index];
        let is_due = |times: &VecDeque<Micros>| times.front().is_some_and(|at| *at <= elapsed);
        let wish = if space.asked.is_some() {
            None
        } else if is_due(&space.moves) {
            space.moves.pop_front();
            self.draw_move(index)
        } else if is_due(&space.observations) {
            space.observations.pop_front();
            self.draw_observer(index)
        } else {
            None
        };
        let Some(wish) = wish else {
            return;
        };
        let through = self.spaces[index].random.below(self.hosts.len() as u64) as usize;
        if self.hosts[through].node.is_none() {
            return;
        }
        let name = self.spaces[index].name.to_string();
        let placement = match wish {
            Wish::Observe(host, observes) => Placement::Observe {
                name,
                node: super::host::name(host),
                observes,
            },
            Wish::Move(..) if self.spaces[index].random.below(6) == 0 => Placement::Cancel { name },
            Wish::Move(from, to) => Placement::Move {
                name,
                from: Some(super::host::name(from)),
                to: vec![super::host::name(to)],
            },
        };
        let life = self.hosts[through].life;
        let id = self.call(through, Call::Placement(placement));
        self.spaces[index].asked = Some((id, through, life));
    }

    /// An operator has the cluster look after itself, if that is planned and nobody has yet.
    fn ask_to_tend(&mut self, index: usize) -> bool {
        let Some((_, replace_after)) = self.operators.tending else {
            return false;
        };
        let through = self.spaces[index].random.below(self.hosts.len() as u64) as usize;
        if self.spaces[index].asked.is_some() || self.hosts[through].node.is_none() {
            return false;
        }
        let placement = Placement::Tend {
            replace_after: Some(Duration::from_secs(replace_after)),
            rebalances: Some(true),
        };
        let life = self.hosts[through].life;
        let id = self.call(through, Call::Placement(placement));
        self.spaces[index].asked = Some((id, through, life));
        self.operators.tending = Some((Some(id), replace_after));
        true
    }

    /// A replica of a keyspace is to move, to a host that has none.
    fn draw_move(&mut self, index: usize) -> Option<Wish> {
        let (with, without) = self.voting_and_not(index)?;
        if with.is_empty() || without.is_empty() {
            return None;
        }
        let random = &mut self.spaces[index].random;
        let from = with[random.below(with.len() as u64) as usize];
        let to = without[random.below(without.len() as u64) as usize];
        Some(Wish::Move(from, to))
    }

    /// A host without a vote is to observe a keyspace; one that does, to let go of it, mostly.
    fn draw_observer(&mut self, index: usize) -> Option<Wish> {
        let (_, without) = self.voting_and_not(index)?;
        if without.is_empty() {
            return None;
        }
        let members = self.invariants.of(self.spaces[index].group?)?.members()?;
        let known = members.membership.members.clone();
        let random = &mut self.spaces[index].random;
        let host = without[random.below(without.len() as u64) as usize];
        let is_often = random.below(3) > 0;
        let has = self.hosts[host]
            .id()
            .is_some_and(|id| known.contains_key(&id));
        Some(Wish::Observe(host, has != is_often))
    }

    /// The hosts that have a vote in a keyspace, and those that have none.
    fn voting_and_not(&self, index: usize) -> Option<(Vec<usize>, Vec<usize>)> {
        let group = self.spaces[index].group?;
        let voters = &self.invariants.of(group)?.members()?.membership.voters;
        let has = |host: &usize| {
            let id = self.hosts[*host].id();
            id.is_some_and(|id| voters.contains(&id))
        };
        Some((0..self.scenario.holders()).partition(has))
    }

    fn keyspace_opens(&mut self, index: usize) {
        self.spaces[index].stage = Stage::Open;
        self.marks.reach(Mark::KeyspaceCreated);
        for client in 0..self.spaces[index].clients.clients.len() {
            let space = index;
            self.next_question(Asker { space, client });
        }
    }

    fn ask_about_keyspace(&mut self, index: usize) {
        let hosts = self.hosts.len() as u64;
        let space = &mut self.spaces[index];
        let Some(plan) = space.plan.as_ref().filter(|_| space.asked.is_none()) else {
            return;
        };
        let name = space.name.to_string();
        let call = match space.stage {
            Stage::Creating => Call::KeyspaceCreate {
                names: vec![name],
                replicas: plan.replicas,
                engine: plan.engine,
                quorums: None,
            },
            Stage::Dropping => Call::KeyspaceDrop { name },
            _ => return,
        };
        let through = space.random.below(hosts) as usize;
        if self.hosts[through].node.is_some() {
            let life = self.hosts[through].life;
            let id = self.call(through, call);
            self.spaces[index].asked = Some((id, through, life));
        }
    }

    /// Which of these hosts hold a keyspace; none if they are too few to serve it, or nobody need
    /// serve it.
    pub(crate) fn holders(&self, index: usize, hosts: &[usize]) -> Vec<usize> {
        let space = &self.spaces[index];
        if index == DEFAULT {
            let mut holders = hosts.to_vec();
            holders.retain(|host| !self.scenario.is_witness(*host));
            return holders;
        }
        let group = space.group.filter(|_| space.stage == Stage::Open);
        let members = group.and_then(|group| self.invariants.of(group)?.members());
        let Some(members) = members else {
            return Vec::new();
        };
        let id = |host: &usize| self.hosts[*host].id();
        let has = |node: NodeId| hosts.iter().any(|host| id(host) == Some(node));
        if !(members.membership.elects(has) && members.membership.commits(has)) {
            return Vec::new();
        }
        // Whoever is being filled, or has left, serves nobody; who has got its vote is still being
        // filled until the table says that all have. That the table is the newest, the default
        // keyspace is asked for. Who observes is asked as those are who vote.
        let belongs = |host: &&usize| {
            let id = id(host);
            let is_voter = id.is_some_and(|id| members.membership.voters.contains(&id));
            let is_member = id.is_some_and(|id| members.membership.members.contains_key(&id));
            let running = self.hosts[**host].node.as_ref().and_then(Node::running);
            let serves = running
                .zip(group)
                .map(|(running, group)| running.serves(group));
            is_member && serves.unwrap_or(is_voter)
        };
        hosts.iter().filter(belongs).copied().collect()
    }

    /// Whether a host has a vote in a keyspace.
    pub(crate) fn votes(&self, index: usize, host: usize) -> bool {
        let voting = self.voting_and_not(index);
        voting.is_some_and(|(voting, _)| voting.contains(&host))
    }

    /// Whether as many as shall vote in a keyspace, nobody is on the way in or out, and those of
    /// the cluster observe it who shall.
    pub(crate) fn is_whole(&self, index: usize) -> bool {
        let space = &self.spaces[index];
        let (Some(plan), Some(group)) = (&space.plan, space.group) else {
            return true;
        };
        if space.stage != Stage::Open {
            return true;
        }
        let members = self.invariants.of(group).and_then(|each| each.members());
        members.is_none_or(|members| {
            let membership = &members.membership;
            let has_vote = |node: &NodeId| membership.voters.contains(node);
            let without = membership.members.keys().filter(|node| !has_vote(node));
            let observes: BTreeSet<NodeId> = without.copied().collect();
            let cluster = self.invariants.first().members();
            let is_there = |node: &NodeId| {
                cluster.is_none_or(|cluster| cluster.membership.members.contains_key(node))
            };
            let table = self.invariants.newest_table();
            let named = table
                .and_then(|table| table.get(&group))
                .into_iter()
                .flatten();
            let shall = named.filter(|node| !has_vote(node) && is_there(node));
            let shall: BTreeSet<NodeId> = shall.copied().collect();
            membership.voters.len() == plan.replicas && observes == shall
        })
    }

    /// Whether a host holds all that there is of some keyspace: nobody can repair that for it.
    pub(crate) fn holds_alone(&self, host: usize) -> bool {
        let Some(own) = self.hosts[host].id() else {
            return false;
        };
        let groups = self.spaces[1..].iter().filter_map(|space| space.group);
        let mut members = groups.filter_map(|group| self.invariants.of(group)?.members());
        members.any(|members| members.membership.voters.iter().eq([&own]))
    }

    /// How many copies make a group's majority.
    pub(crate) fn majority_of(&self, group: GroupId) -> usize {
        let members = self.invariants.of(group).and_then(|each| each.members());
        let voters = members.map(|members| members.membership.voters.len());
        match voters {
            Some(voters) if group != META => voters / 2 + 1,
            _ => self.hosts.len() / 2 + 1,
        }
    }
}
