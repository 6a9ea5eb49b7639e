//! Every run of a small group, over the real engine: three nodes, few elections, one or two
//! proposals; each message arrives at any moment, in any order, or never; each node may die at any
//! moment, and come back with any part of what it was writing.
//!
//! ```text
//!   state ──▶ deliver any message │ any timer │ finish any write │ kill, start, propose
//!     ▲                                       │
//!     └──── not seen before, within budget ◀──┘
//! ```
//!
//! States are told apart by a digest of everything that the engines, disks and the network hold,
//! but for moments in time and the random generator's state. Each node has a clock of its own,
//! which only its own timers move: whoever's patience ends first is a choice like any other. The
//! *budget* (timers, deaths, proposals, highest epoch, messages on one link) keeps the number of
//! states finite; a link that is full loses its oldest message.
//!
//! At each state: one leader per epoch; a new leader holds whatever was executed; replicas execute
//! the same; an entry is known by slot and epoch, wherever it stands.
//!
//! `SMALL_MODEL_STATES=n` explores more states of each beginning than usual.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

use base::{Epoch, Instant, NodeId, Random, Slot};
use bytes::Bytes;
use cluster::{Disk, Host};
use quorate_consensus::{
    AnyEngine, Config, Engine, EngineKind, Entry, Input, Limits, Member, Membership, Message, Note,
    Output, Role, Ticket,
};

const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
const NODES: u64 = 3;

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Budget {
    timers: u8,
    deaths: u8,
    proposals: u8,
    epoch: Epoch,
    /// Messages on one link.
    link: usize,
    /// Writes take a step of their own; otherwise they are durable at once.
    slow_disks: bool,
}

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The message at this place arrives.
    Deliver(usize),
    Timer(NodeId),
    Written(NodeId),
    /// With so many of the records under way.
    Die(NodeId, usize),
    Start(NodeId),
    Propose(NodeId),
}

#[derive(Clone)]
struct State {
    /// Shared by all states in which a node is the same, with what tells it from others.
    hosts: BTreeMap<NodeId, (Rc<Host>, u64)>,
    down: BTreeMap<NodeId, Rc<Disk>>,
    clocks: BTreeMap<NodeId, Instant>,
    network: Vec<(NodeId, NodeId, Message)>,
    budget: Budget,
    /// What must hold.
    leaders: BTreeMap<Epoch, NodeId>,
    chosen: BTreeMap<Slot, Entry>,
    kind: EngineKind,
    starts: u64,
    proposed: u64,
}

/// Hashes what is written to it, but for what says when.
struct Digest {
    hash: u64,
    /// What has been read of a word that is left out.
    text: String,
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.text.push_str(text);
        Ok(())
    }
}

impl Digest {
    fn add(&mut self, what: &dyn std::fmt::Debug) {
        self.text.clear();
        write!(self, "{what:?}").unwrap();
        let text = std::mem::take(&mut self.text);
        let mut rest = text.as_str();
        // Moments and random states differ between runs that are otherwise the same.
        while let Some(at) = ["Instant(", "Random {", "Mark("]
            .iter()
            .filter_map(|word| rest.find(word))
            .min()
        {
            self.bytes(&rest.as_bytes()[..at]);
            let end = rest[at..].find([')', '}']).unwrap_or(rest.len() - at);
            rest = &rest[at + end..];
        }
        self.bytes(rest.as_bytes());
        self.text = text;
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash = (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.hash ^= self.hash >> 29;
        }
    }
}

impl State {
    fn begin(kind: EngineKind, budget: Budget) -> State {
        let member = |id: u64| Member {
            name: format!("n{id}"),
            peer_address: String::new(),
        };
        let members: BTreeMap<NodeId, Member> =
            (1..=NODES).map(|id| (NodeId(id), member(id))).collect();
        let genesis = Membership {
            voters: members.keys().copied().collect(),
            members,
            ..Membership::default()
        };
        let mut state = State {
            hosts: BTreeMap::new(),
            down: BTreeMap::new(),
            clocks: BTreeMap::new(),
            network: Vec::new(),
            budget,
            leaders: BTreeMap::new(),
            chosen: BTreeMap::new(),
            kind,
            starts: 0,
            proposed: 0,
        };
        for id in (1..=NODES).map(NodeId) {
            let disk = Disk {
                genesis: genesis.clone(),
                ..Disk::default()
            };
            state.clocks.insert(id, Instant(1_000_000_000));
            state.start(id, disk);
        }
        state
    }

    fn start(&mut self, id: NodeId, disk: Disk) {
        let config = Config {
            id,
            election_timeout: ELECTION_TIMEOUT,
            heartbeat_interval: ELECTION_TIMEOUT / 5,
            limits: Limits {
                pull_bytes: 1 << 20,
                ..Limits::default()
            },
        };
        self.starts += 1;
        let host = Host::start(self.kind, config, disk, self.starts, self.clocks[&id]);
        self.hosts.insert(id, (Rc::new(host), 0));
        self.settle(id);
    }

    fn give(&mut self, id: NodeId, input: Input) {
        let now = self.clocks[&id];
        if self.hosts.contains_key(&id) {
            self.host(id).step(now, input);
            self.settle(id);
        }
    }

    fn host(&mut self, id: NodeId) -> &mut Host {
        Rc::make_mut(&mut self.hosts.get_mut(&id).unwrap().0)
    }

    fn engine(&self, id: NodeId) -> &AnyEngine {
        &self.hosts[&id].0.engine
    }

    fn leads(&self, id: NodeId) -> bool {
        self.engine(id).glance().role == Role::Leader
    }

    fn settle(&mut self, id: NodeId) {
        let now = self.clocks[&id];
        loop {
            let host = self.host(id);
            host.flush(now);
            let (said, outgoing) = (
                std::mem::take(&mut host.said),
                std::mem::take(&mut host.outgoing),
            );
            for output in said {
                self.check(id, &output);
            }
            for (to, message) in outgoing {
                self.network.push((id, to, message));
                let on_link =
                    |packet: &&(NodeId, NodeId, Message)| (packet.0, packet.1) == (id, to);
                if self.network.iter().filter(on_link).count() > self.budget.link {
                    let oldest = self.network.iter().position(|packet| on_link(&packet));
                    self.network.remove(oldest.unwrap());
                }
            }
            let slow = self.budget.slow_disks;
            let host = self.host(id);
            if host.tasks.is_empty() && (slow || host.writes.is_empty()) {
                let digest = digest_of(host);
                self.hosts.get_mut(&id).unwrap().1 = digest;
                return;
            }
            if host.tasks.is_empty() {
                host.complete_write(now);
            } else {
                host.complete_task(now);
            }
        }
    }

    fn check(&mut self, id: NodeId, output: &Output) {
        match output {
            Output::Note(Note::BecameLeader { epoch }) => {
                let other = self.leaders.insert(*epoch, id);
                assert!(
                    other.is_none_or(|other| other == id),
                    "two leaders in {epoch}"
                );
                let engine = &self.hosts[&id].0.engine;
                for (slot, entry) in &self.chosen {
                    let held = engine.epoch_of(*slot);
                    // Paxos finds out what was chosen after it leads.
                    let is_complete = self.kind == EngineKind::Paxos || held == Some(entry.epoch);
                    assert!(is_complete, "leader {id} of {epoch} lacks {slot}");
                }
            }
            Output::Note(note @ (Note::TwoLeaders { .. } | Note::MessageDropped { .. })) => {
                panic!("{id} says {note:?}");
            }
            Output::Chosen { entries } => {
                for entry in entries {
                    let known = self.chosen.entry(entry.slot).or_insert(entry.clone());
                    assert_eq!(known, entry, "replicas execute the same at {}", entry.slot);
                }
            }
            _ => {}
        }
    }

    fn digest(&self) -> u64 {
        let mut digest = Digest {
            hash: 0,
            text: String::new(),
        };
        for (id, (_, of_host)) in &self.hosts {
            digest.bytes(&(of_host ^ id.0).to_le_bytes());
        }
        digest.add(&self.down);
        digest.add(&self.budget);
        // In any order.
        let mut messages = 0_u64;
        for message in &self.network {
            let mut one = Digest {
                hash: 1,
                text: String::new(),
            };
            one.add(message);
            messages = messages.wrapping_add(one.hash);
        }
        digest.hash ^ messages
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = (0..self.network.len()).map(Step::Deliver).collect();
        for (id, (host, _)) in &self.hosts {
            if self.budget.timers > 0 && host.engine.deadline().is_some() {
                steps.push(Step::Timer(*id));
            }
            if !host.writes.is_empty() {
                steps.push(Step::Written(*id));
            }
            if self.budget.deaths > 0 {
                let records = host.writes.iter().map(|(_, records)| records.len()).sum();
                steps.extend((0..=records).map(|survives| Step::Die(*id, survives)));
            }
            if self.budget.proposals > 0 && host.engine.glance().role == Role::Leader {
                steps.push(Step::Propose(*id));
            }
        }
        steps.extend(self.down.keys().map(|id| Step::Start(*id)));
        steps
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Deliver(index) => {
                let (from, to, message) = self.network.remove(index);
                self.give(to, Input::Peer { from, message });
            }
            Step::Timer(id) => {
                self.budget.timers -= 1;
                let deadline = self.engine(id).deadline().unwrap();
                let clock = self.clocks.get_mut(&id).unwrap();
                *clock = deadline.max(*clock);
                self.give(id, Input::Deadline);
            }
            Step::Written(id) => {
                let now = self.clocks[&id];
                self.host(id).complete_write(now);
                self.settle(id);
            }
            Step::Die(id, survives) => {
                self.budget.deaths -= 1;
                let host = self.hosts.remove(&id).unwrap().0;
                let disk = Rc::unwrap_or_clone(host).crash(survives);
                self.down.insert(id, Rc::new(disk));
            }
            Step::Start(id) => {
                let disk = self.down.remove(&id).unwrap();
                self.start(id, Rc::unwrap_or_clone(disk));
            }
            Step::Propose(id) => {
                self.budget.proposals -= 1;
                self.proposed += 1;
                let commands = Bytes::copy_from_slice(&[self.proposed as u8, id.0 as u8]);
                let ticket = Ticket(self.proposed);
                self.give(id, Input::Propose { ticket, commands });
            }
        }
    }

    fn is_within(&self) -> bool {
        let epochs = self.hosts.values().map(|host| host.0.engine.glance().epoch);
        epochs.max().is_none_or(|epoch| epoch <= self.budget.epoch)
    }

    /// Everything that is on its way arrives, again and again, but on cut links.
    fn deliver_all(&mut self, cut: &[NodeId]) {
        for _ in 0..200 {
            let dead = |id: &NodeId| cut.contains(id);
            self.network
                .retain(|(from, to, _)| !dead(from) && !dead(to));
            if self.network.is_empty() {
                return;
            }
            self.take(Step::Deliver(0));
        }
        panic!("messages without end");
    }
}

/// Tells what a node is from what others are.
fn digest_of(host: &Host) -> u64 {
    let mut digest = Digest {
        hash: 0,
        text: String::with_capacity(8 << 10),
    };
    digest.add(&host.engine);
    digest.add(&(&host.disk.hard_state, &host.disk.start, &host.disk.entries));
    digest.add(&(&host.disk.ballots, host.replica.applied));
    let records = host.writes.iter().map(|(_, records)| records);
    records.for_each(|records| digest.add(records));
    digest.add(&host.gated);
    digest.hash
}

/// How a run was explored.
#[derive(Debug)]
struct Explored {
    states: usize,
    chosen_most: usize,
    epochs: BTreeSet<Epoch>,
    is_complete: bool,
}

/// Walks through everything that can follow, or through so many states of it.
fn explore(begin: State, most: usize) -> Explored {
    let mut seen = BTreeSet::from([begin.digest()]);
    let mut queue = vec![begin];
    let mut explored = Explored {
        states: 0,
        chosen_most: 0,
        epochs: BTreeSet::new(),
        is_complete: true,
    };
    // Drawn at random: if not all fits, then something of everything.
    let mut random = Random::from_seed(1);
    while !queue.is_empty() {
        let state = queue.swap_remove(random.below(queue.len() as u64) as usize);
        explored.states += 1;
        explored.chosen_most = explored.chosen_most.max(state.chosen.len());
        explored.epochs.extend(state.leaders.keys());
        for step in state.steps() {
            let mut next = state.clone();
            next.take(step);
            if !next.is_within() {
                continue;
            }
            if seen.len() >= most {
                explored.is_complete = false;
            } else if seen.insert(next.digest()) {
                queue.push(next);
            }
        }
    }
    explored
}

#[allow(clippy::disallowed_methods)] // A developer asks for more states by the environment.
fn states(usual: usize) -> usize {
    let asked = std::env::var("SMALL_MODEL_STATES").ok();
    asked.map_or(usual, |count| count.parse().unwrap())
}

fn budget() -> Budget {
    Budget {
        timers: 0,
        deaths: 0,
        proposals: 0,
        epoch: Epoch(u64::MAX),
        link: 2,
        slow_disks: false,
    }
}

/// Node 1 leads, and everybody knows.
fn led(kind: EngineKind) -> State {
    let mut state = State::begin(kind, budget());
    for _ in 0..20 {
        if state.leads(NodeId(1)) {
            break;
        }
        state.budget.timers = 1;
        state.take(Step::Timer(NodeId(1)));
        state.deliver_all(&[]);
    }
    assert!(state.leads(NodeId(1)));
    state
}

fn tell(name: &str, kind: EngineKind, explored: &Explored) {
    println!("{name}, {kind}: {explored:?}");
}

/// From nothing: everything that two timers, and the votes and entries that follow, can lead to.
fn first_elections(kind: EngineKind) {
    let mut state = State::begin(kind, budget());
    state.budget.timers = 2;
    state.budget.deaths = 1;
    state.budget.slow_disks = true;
    state.budget.link = 1;
    let explored = explore(state, states(6_000));
    tell("first elections", kind, &explored);
    assert!(!explored.epochs.is_empty(), "somebody was elected");
}

/// A leader with two proposals, and whatever one more election makes of them.
fn a_leader_and_its_successor(kind: EngineKind) {
    let mut state = led(kind);
    state.budget.timers = 2;
    state.budget.deaths = 1;
    state.budget.proposals = 2;
    state.budget.link = 1;
    let explored = explore(state, states(6_000));
    tell("a leader and its successor", kind, &explored);
    assert!(explored.chosen_most >= 2, "something was chosen");
}

/// Node 3 lacks what 1 and 2 have, 1 is gone, and 3 tries for the second time: plain Raft waits for
/// 2; the cure lets 3 pull, while the old leader goes on and anyone may die.
fn who_lacks_entries_stands(kind: EngineKind) {
    let mut state = led(kind);
    state.budget.proposals = 2;
    for _ in 0..2 {
        state.take(Step::Propose(NodeId(1)));
        state.deliver_all(&[NodeId(3)]);
    }
    // Its first attempt is heard by nobody.
    state.budget.timers = 1;
    state.take(Step::Timer(NodeId(3)));
    state.deliver_all(&[NodeId(3)]);
    let lacking = state.engine(NodeId(3)).glance().last;
    assert!(lacking < state.engine(NodeId(2)).glance().last);
    state.budget.timers = 4;
    state.budget.deaths = 1;
    state.budget.proposals = 1;
    state.budget.link = 1;
    let explored = explore(state, states(8_000));
    tell("who lacks entries stands", kind, &explored);
    assert!(explored.chosen_most >= 3, "something was chosen");
}

/// The same with the old leader gone for good. This is walked through to the end.
fn two_of_three_are_left(kind: EngineKind, timers: u8, deaths: u8) {
    let mut state = led(kind);
    state.budget.proposals = 2;
    for _ in 0..2 {
        state.take(Step::Propose(NodeId(1)));
        state.deliver_all(&[NodeId(3)]);
    }
    state.hosts.remove(&NodeId(1));
    state.network.clear();
    state.budget.timers = timers;
    state.budget.deaths = deaths;
    state.budget.proposals = 1;
    state.budget.link = 1;
    let explored = explore(state, states(60_000));
    tell("two of three are left", kind, &explored);
    assert!(explored.is_complete, "every run was walked through");
    assert!(explored.epochs.len() >= 2, "somebody else was elected");
}

/// Node 3 holds an entry of the old leader that nobody else has, and lacks what was chosen since:
/// what it pulls replaces what it holds.
fn who_pulls_loses_what_was_never_chosen(kind: EngineKind) {
    let mut state = led(kind);
    let (one, two, three) = (NodeId(1), NodeId(2), NodeId(3));
    // 3 leads next, and writes what reaches nobody.
    state.budget.timers = 10;
    for _ in 0..5 {
        if state.leads(three) {
            break;
        }
        for id in [two, three] {
            state.take(Step::Timer(id));
            state.network.retain(|packet| packet.0 == three);
        }
        state.deliver_all(&[one]);
    }
    if !state.leads(three) {
        return;
    }
    state.budget.proposals = 3;
    state.take(Step::Propose(three));
    state.network.clear();
    // 1 and 2 go on without it.
    state.budget.timers = 20;
    for _ in 0..8 {
        if state.leads(one) || state.leads(two) {
            break;
        }
        for id in [one, two] {
            state.take(Step::Timer(id));
        }
        state.deliver_all(&[three]);
    }
    state.budget.timers = 4;
    state.budget.deaths = 1;
    state.budget.proposals = 1;
    state.budget.link = 1;
    let explored = explore(state, states(8_000));
    tell("who pulls loses what was never chosen", kind, &explored);
}

mod raft {
    use super::EngineKind::Raft;

    #[test]
    fn first_elections() {
        super::first_elections(Raft);
    }

    #[test]
    fn a_leader_and_its_successor() {
        super::a_leader_and_its_successor(Raft);
    }

    #[test]
    fn who_lacks_entries_stands() {
        super::who_lacks_entries_stands(Raft);
    }

    #[test]
    fn two_of_three_are_left() {
        super::two_of_three_are_left(Raft, 3, 0);
    }

    #[test]
    #[ignore = "complete, and takes half a minute"]
    fn two_of_three_are_left_and_one_may_die() {
        super::two_of_three_are_left(Raft, 3, 1);
    }

    #[test]
    fn who_pulls_loses_what_was_never_chosen() {
        super::who_pulls_loses_what_was_never_chosen(Raft);
    }
}

mod paxos {
    use super::EngineKind::Paxos;

    #[test]
    fn first_elections() {
        super::first_elections(Paxos);
    }

    #[test]
    fn a_leader_and_its_successor() {
        super::a_leader_and_its_successor(Paxos);
    }

    #[test]
    fn who_lacks_entries_stands() {
        super::who_lacks_entries_stands(Paxos);
    }

    #[test]
    fn two_of_three_are_left() {
        super::two_of_three_are_left(Paxos, 3, 0);
    }
}
