//! Walks through every run of three nodes over the real engines.
//!
//! ```text
//!   local    a node (its engine, disk, writes under way) or what its disk holds while it is down
//!   step     fire a timer, finish a write, die with a part of the write, start, propose, change
//!   then     what was said arrives at once, in order: but each message may be lost instead, or
//!   come late (at any later time), or now and once more later state    three locals │ what is on
//!   its way, and late │ what is known to be so │ what may still happen
//! ```
//!
//! Every choice is made both ways. What bounds a walk is its *budget*: so many timers, deaths,
//! proposals, changes, and messages that come late. Losses are not bounded. (With every message
//! late at will one election alone has 78,000 states; runs that need many late ones at once are
//! left to `random_cluster.rs` and the simulator.) A death between two messages is one before the
//! first of them with the others lost, or late.
//!
//! A node is a function of what it was and what it is given, so each (local, step) is carried out
//! once, however many states have it in common: states are a few numbers. Locals are told apart by
//! a digest of everything that they hold, but for moments in time and the random generator's state.
//! Each node has a clock of its own, which only its own timers move: whoever's patience ends first
//! is a choice like any other.
//!
//! What must hold, at every state:
//! - an epoch has one leader;
//! - replicas execute the same, and what one has executed stands on the disks of enough to commit;
//! - who begins to lead by Raft has what was executed;
//! - what is promised is kept: epochs never go back, and of one epoch a vote is never changed,
//!   deaths and all; nothing is said before what it says is on the disk.

mod checks;
mod digest;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use base::{Epoch, Instant, NodeId, Slot};
use bytes::{Bytes, BytesMut};
use quorate_consensus::message::{Body, PaxosBody};
use quorate_consensus::{
    Change, Config, Engine, EngineKind, Entry, Input, Limits, Member, Membership, Message, Note,
    Output, Payload, QuorumRule, Role, Ticket,
};

use super::cluster::{Disk, Host};
use checks::{check_promises, check_said};
use digest::Digest;

const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
pub(crate) const NODES: usize = 3;
/// The last of them, where there is one.
const WITNESS: NodeId = NodeId(NODES as u64);
/// No walk has a tenth of this: more means that nodes talk without end, though no time passes.
const MESSAGES_MAX: usize = 20_000;

/// What is the same in all states of a walk.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) kind: EngineKind,
    pub(crate) quorums: QuorumRule,
    /// How many of the nodes have a vote; the others are learners.
    pub(crate) voters: usize,
    /// The last node keeps headers only.
    pub(crate) witness: bool,
    /// Writes take a step of their own; otherwise they are durable at once.
    pub(crate) slow_disks: bool,
    /// Candidates pull what they lack.
    pub(crate) pulls: bool,
    /// What a leader may be asked to change.
    pub(crate) change: Option<Change>,
}

impl Setting {
    pub(crate) fn of(kind: EngineKind) -> Setting {
        Setting {
            kind,
            quorums: QuorumRule::default(),
            voters: NODES,
            witness: false,
            slow_disks: false,
            pulls: false,
            change: None,
        }
    }
}

/// What may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Budget {
    pub(crate) timers: u8,
    pub(crate) deaths: u8,
    pub(crate) proposals: u8,
    pub(crate) changes: u8,
    /// Messages that come late, or twice.
    pub(crate) late: u8,
}

/// What may happen to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Arrives,
    IsLost,
    ComesLate,
    ComesTwice,
}

/// What may happen to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Deliver(u32),
    Timer,
    Written,
    /// With so many of the records under way.
    Die(u8),
    Start,
    /// So many proposals are left.
    Propose(u8),
    Change,
}

/// One node, up or down.
#[derive(Clone)]
enum Node {
    Up(Box<Host>),
    Down(Box<Disk>),
}

#[derive(Clone)]
struct Local {
    id: NodeId,
    node: Node,
    clock: Instant,
    starts: u64,
}

/// What a walk has to know of a local at every state.
struct Known {
    local: Local,
    /// Slots and epochs on its disk.
    stored: Vec<(Slot, Epoch)>,
    /// It keeps headers in place of commands.
    lacks_entries: bool,
    /// It has a snapshot up to here.
    covered: Slot,
    is_up: bool,
    leads: bool,
    writes: bool,
    records: u8,
    has_deadline: bool,
}

/// What one step of one node leads to.
#[derive(Clone)]
struct Outcome {
    local: u32,
    said: Vec<u32>,
    /// Indices of what was told.
    told: Vec<u32>,
}

/// Something that a node told and that others must agree with.
#[derive(Clone, Debug)]
enum Told {
    Leads {
        node: NodeId,
        epoch: Epoch,
        has: Vec<(Slot, Epoch)>,
    },
    Executes(Entry),
}

/// What is known to be so, in one state.
#[derive(Clone, Debug, Default)]
struct Past {
    leaders: BTreeMap<Epoch, NodeId>,
    executed: BTreeMap<Slot, Entry>,
}

/// See the head of this file. All numbers are names of what a [`Model`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct State {
    locals: [u32; NODES],
    /// What is on its way, in order; and what may come at any time.
    way: u32,
    late: u32,
    past: u32,
    pub(crate) budget: Budget,
}

/// How a walk went.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) states: usize,
    pub(crate) locals: usize,
    pub(crate) messages: usize,
    pub(crate) executed_most: usize,
    pub(crate) epochs: BTreeSet<Epoch>,
    pub(crate) is_complete: bool,
}

/// Gives equal things equal numbers.
struct Names<T> {
    things: Vec<Rc<T>>,
    numbers: BTreeMap<u64, u32>,
}

impl<T> Names<T> {
    fn new() -> Names<T> {
        Names {
            things: Vec::new(),
            numbers: BTreeMap::new(),
        }
    }

    fn name(&mut self, digest: u64, thing: impl FnOnce() -> T) -> u32 {
        *self.numbers.entry(digest).or_insert_with(|| {
            self.things.push(Rc::new(thing()));
            u32::try_from(self.things.len() - 1).unwrap()
        })
    }

    fn get(&self, name: u32) -> Rc<T> {
        Rc::clone(&self.things[name as usize])
    }
}

/// Everything that was seen in a walk, each once.
pub(crate) struct Model {
    setting: Setting,
    locals: Names<Known>,
    messages: Names<(NodeId, NodeId, Message)>,
    told: Names<Told>,
    pasts: Names<Past>,
    /// Lists of messages.
    lists: Names<Vec<u32>>,
    outcomes: BTreeMap<(u32, Step), Rc<Outcome>>,
    aged: BTreeMap<(u32, u32), u32>,
}

impl Local {
    fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        digest.mix(self.id.0);
        let disk = match &self.node {
            Node::Up(host) => {
                digest.add(&host.engine);
                digest.add(&host.replica.applied);
                for (_, records) in &host.writes {
                    digest.add(records);
                }
                digest.add(&host.gated);
                &host.disk
            }
            Node::Down(disk) => disk,
        };
        digest.add(&(&disk.hard_state, &disk.start, &disk.entries, &disk.ballots));
        digest.hash
    }

    fn disk(&self) -> &Disk {
        match &self.node {
            Node::Up(host) => &host.disk,
            Node::Down(disk) => disk,
        }
    }

    fn known(self) -> Known {
        let disk = self.disk();
        let stored = disk.entries.values();
        let stored = stored.map(|entry| (entry.slot, entry.epoch)).collect();
        let covered = disk.start.0;
        let (mut leads, mut writes, mut records, mut has_deadline) = (false, false, 0, false);
        if let Node::Up(host) = &self.node {
            leads = host.engine.glance().role == Role::Leader;
            writes = !host.writes.is_empty();
            records = host.writes.iter().map(|(_, records)| records.len()).sum();
            has_deadline = host.engine.deadline().is_some();
        }
        let is_short = |entry: &Entry| !matches!(entry.payload, Payload::Commands(_));
        let lacks_entries = self.disk().entries.values().any(Entry::is_header);
        assert!(
            !lacks_entries || self.disk().entries.values().all(is_short),
            "{} keeps both",
            self.id
        );
        Known {
            stored,
            lacks_entries,
            covered,
            is_up: matches!(self.node, Node::Up(_)),
            leads,
            writes,
            records: u8::try_from(records).unwrap(),
            has_deadline,
            local: self,
        }
    }

    fn start(&mut self, setting: &Setting, disk: Disk) {
        let pull_bytes = if setting.pulls { 1 << 20 } else { 0 };
        let config = Config {
            id: self.id,
            election_timeout: ELECTION_TIMEOUT,
            heartbeat_interval: ELECTION_TIMEOUT / 5,
            limits: Limits {
                pull_bytes,
                ..Limits::default()
            },
        };
        self.starts += 1;
        let seed = self.id.0 * 100 + self.starts;
        let host = Host::start(setting.kind, config, disk, seed, self.clock);
        self.node = Node::Up(Box::new(host));
    }

    /// Takes a step. Returns what it said and told.
    fn take(
        &mut self,
        setting: &Setting,
        step: Step,
        message: Option<&(NodeId, NodeId, Message)>,
    ) -> (Vec<(NodeId, Message)>, Vec<Output>) {
        match (step, &mut self.node) {
            (Step::Start, Node::Down(disk)) => {
                let disk = (**disk).clone();
                self.start(setting, disk);
            }
            (Step::Die(survives), Node::Up(host)) => {
                let disk = host.clone().crash(usize::from(survives));
                self.node = Node::Down(Box::new(disk));
                return (Vec::new(), Vec::new());
            }
            (Step::Deliver(_), Node::Up(host)) => {
                let (from, _, message) = message.unwrap().clone();
                host.step(self.clock, Input::Peer { from, message });
            }
            (Step::Timer, Node::Up(host)) => {
                self.clock = self.clock.max(host.engine.deadline().unwrap());
                host.step(self.clock, Input::Deadline);
            }
            (Step::Written, Node::Up(host)) => host.complete_write(self.clock),
            (Step::Propose(left), Node::Up(host)) => {
                let commands = Bytes::copy_from_slice(&[left, self.id.0 as u8]);
                let ticket = Ticket(u64::from(left));
                host.step(self.clock, Input::Propose { ticket, commands });
            }
            (Step::Change, Node::Up(host)) => {
                let change = setting.change.clone().expect("there is one");
                let ticket = Ticket(1000);
                host.step(self.clock, Input::Reconfigure { ticket, change });
            }
            _ => unreachable!("no such step"),
        }
        self.settle(setting)
    }

    fn settle(&mut self, setting: &Setting) -> (Vec<(NodeId, Message)>, Vec<Output>) {
        let Node::Up(host) = &mut self.node else {
            unreachable!("it is up")
        };
        let (mut sent, mut told) = (Vec::new(), Vec::new());
        loop {
            host.flush(self.clock);
            told.append(&mut host.said);
            for (to, message) in std::mem::take(&mut host.outgoing) {
                check_said(self.id, host, &message);
                sent.push((to, message));
            }
            let is_done = host.writes.is_empty() || setting.slow_disks;
            if host.tasks.is_empty() && is_done {
                return (sent, told);
            }
            if host.tasks.is_empty() {
                host.complete_write(self.clock);
            } else {
                host.complete_task(self.clock);
            }
        }
    }
}

impl Model {
    /// Three nodes that have never run.
    pub(crate) fn begin(setting: Setting) -> (Model, State) {
        let member = |id: u64| Member {
            name: format!("n{id}"),
            peer_address: String::new(),
        };
        let ids = 1..=NODES as u64;
        let members: BTreeMap<NodeId, Member> = ids.map(|id| (NodeId(id), member(id))).collect();
        let genesis = Membership {
            voters: members.keys().copied().take(setting.voters).collect(),
            members,
            quorums: setting.quorums,
            witnesses: setting.witness.then_some(WITNESS).into_iter().collect(),
            ..Membership::default()
        };
        let mut model = Model {
            setting,
            locals: Names::new(),
            messages: Names::new(),
            told: Names::new(),
            pasts: Names::new(),
            lists: Names::new(),
            outcomes: BTreeMap::new(),
            aged: BTreeMap::new(),
        };
        let mut locals = [0; NODES];
        for (at, local) in locals.iter_mut().enumerate() {
            let disk = Disk {
                genesis: genesis.clone(),
                ..Disk::default()
            };
            let mut fresh = Local {
                id: NodeId(at as u64 + 1),
                node: Node::Down(Box::new(disk.clone())),
                clock: Instant(1_000_000_000),
                starts: 0,
            };
            fresh.start(&model.setting, disk);
            fresh.settle(&model.setting);
            *local = model.locals.name(fresh.digest(), || fresh.known());
        }
        let state = State {
            locals,
            way: model.list(Vec::new()),
            late: model.list(Vec::new()),
            past: model.pasts.name(0, Past::default),
            budget: Budget::default(),
        };
        (model, state)
    }

    fn list(&mut self, messages: Vec<u32>) -> u32 {
        let mut digest = Digest::default();
        digest.mix(messages.len() as u64 + 1);
        messages
            .iter()
            .for_each(|name| digest.mix(u64::from(*name)));
        self.lists.name(digest.hash, || messages)
    }

    fn to(&self, message: u32) -> usize {
        self.messages.things[message as usize].1.0 as usize - 1
    }

    /// What was known, and what was told now: it must fit.
    fn age(&mut self, past: u32, told: u32) -> u32 {
        if let Some(known) = self.aged.get(&(past, told)) {
            return *known;
        }
        let mut next = (*self.pasts.get(past)).clone();
        match &*self.told.get(told) {
            Told::Leads { node, epoch, has } => {
                let other = next.leaders.insert(*epoch, *node);
                let is_one = other.is_none_or(|other| other == *node);
                assert!(is_one, "two leaders in {epoch}");
                // Paxos finds out what was chosen after it leads.
                for entry in next.executed.values() {
                    let is_held = has.contains(&(entry.slot, entry.epoch));
                    let is_complete = self.setting.kind == EngineKind::Paxos || is_held;
                    assert!(is_complete, "leader {node} of {epoch} lacks {}", entry.slot);
                }
            }
            Told::Executes(entry) => {
                let known = next.executed.entry(entry.slot).or_insert(entry.clone());
                if known.is_header() {
                    // A witness knew first.
                    assert_eq!(known.epoch, entry.epoch, "agreed at {}", entry.slot);
                    known.clone_from(entry);
                }
                let is_same = match entry.is_header() {
                    true => known.header() == *entry,
                    false => known == entry,
                };
                assert!(is_same, "replicas execute the same: {known:?}, {entry:?}");
            }
        }
        let name = self.pasts.name(Digest::of(&next), || next);
        self.aged.insert((past, told), name);
        name
    }

    fn outcome(&mut self, local: u32, step: Step) -> Rc<Outcome> {
        if let Some(known) = self.outcomes.get(&(local, step)) {
            return Rc::clone(known);
        }
        let before = self.locals.get(local);
        let mut after = before.local.clone();
        let message = match step {
            Step::Deliver(name) => Some(self.messages.get(name)),
            _ => None,
        };
        let (sent, outputs) = after.take(&self.setting, step, message.as_deref());
        check_promises(&before.local, &after);
        let id = after.id;
        let mut told = Vec::new();
        for output in outputs {
            for fact in facts(&after, output) {
                told.push(self.told.name(Digest::of(&fact), || fact));
            }
        }
        let said = sent.into_iter().map(|(to, message)| {
            let mut bytes = BytesMut::new();
            message.encode(&mut bytes);
            let mut digest = Digest::default();
            digest.mix(id.0);
            digest.mix(to.0);
            digest.bytes(&bytes);
            self.messages.name(digest.hash, || (id, to, message))
        });
        let said = said.collect();
        let next = self.locals.name(after.digest(), || after.known());
        let outcome = Rc::new(Outcome {
            local: next,
            said,
            told,
        });
        self.outcomes.insert((local, step), Rc::clone(&outcome));
        outcome
    }

    /// What follows from a step of a node.
    pub(crate) fn next(&mut self, state: &State, node: usize, step: Step) -> State {
        let outcome = self.outcome(state.locals[node], step);
        let mut next = *state;
        next.locals[node] = outcome.local;
        if !outcome.said.is_empty() {
            let way = self.lists.get(next.way);
            next.way = self.list([&way[..], &outcome.said].concat());
        }
        for told in &outcome.told {
            next.past = self.age(next.past, *told);
        }
        let budget = &mut next.budget;
        match step {
            Step::Timer => budget.timers -= 1,
            Step::Die(_) => budget.deaths -= 1,
            Step::Propose(_) => budget.proposals -= 1,
            Step::Change => budget.changes -= 1,
            Step::Deliver(_) | Step::Written | Step::Start => {}
        }
        next
    }

    /// The first message on its way meets its fate.
    fn meet(&mut self, state: &State, fate: Fate) -> State {
        let way = self.lists.get(state.way);
        let (message, to) = (way[0], self.to(way[0]));
        let mut next = *state;
        next.way = self.list(way[1..].to_vec());
        if matches!(fate, Fate::ComesLate | Fate::ComesTwice) {
            next.budget.late -= 1;
            let mut late = (*self.lists.get(next.late)).clone();
            if let Err(at) = late.binary_search(&message) {
                late.insert(at, message);
            }
            next.late = self.list(late);
        }
        match fate {
            Fate::Arrives | Fate::ComesTwice => self.next(&next, to, Step::Deliver(message)),
            Fate::IsLost | Fate::ComesLate => next,
        }
    }

    fn is_up(&self, state: &State, node: usize) -> bool {
        self.locals.things[state.locals[node] as usize].is_up
    }

    /// Everything that may follow.
    fn followers(&mut self, state: &State, followers: &mut Vec<State>) {
        if let Some(first) = self.lists.get(state.way).first() {
            let is_up = self.is_up(state, self.to(*first));
            followers.push(self.meet(state, Fate::IsLost));
            if is_up {
                followers.push(self.meet(state, Fate::Arrives));
            }
            if state.budget.late > 0 {
                followers.push(self.meet(state, Fate::ComesLate));
            }
            if state.budget.late > 0 && is_up {
                followers.push(self.meet(state, Fate::ComesTwice));
            }
            return;
        }
        let late = self.lists.get(state.late);
        for (at, message) in late.iter().enumerate() {
            let to = self.to(*message);
            if self.is_up(state, to) {
                let mut rest = (*late).clone();
                rest.remove(at);
                let mut next = *state;
                next.late = self.list(rest);
                followers.push(self.next(&next, to, Step::Deliver(*message)));
            }
        }
        for (node, step) in self.steps(state) {
            followers.push(self.next(state, node, step));
        }
    }

    /// What may happen while nothing is on its way.
    fn steps(&self, state: &State) -> Vec<(usize, Step)> {
        let mut steps = Vec::new();
        let budget = &state.budget;
        for (node, local) in state.locals.iter().enumerate() {
            let known = &self.locals.things[*local as usize];
            if !known.is_up {
                steps.push((node, Step::Start));
                continue;
            }
            if budget.timers > 0 && known.has_deadline {
                steps.push((node, Step::Timer));
            }
            if known.writes {
                steps.push((node, Step::Written));
            }
            if budget.deaths > 0 {
                steps.extend((0..=known.records).map(|survives| (node, Step::Die(survives))));
            }
            if budget.proposals > 0 && known.leads {
                steps.push((node, Step::Propose(budget.proposals)));
            }
            if budget.changes > 0 && known.leads {
                steps.push((node, Step::Change));
            }
        }
        steps
    }

    /// Walks through everything that can follow, or through so many states of it.
    pub(crate) fn walk(&mut self, begin: State, most: usize) -> Walked {
        let mut seen = BTreeSet::from([begin]);
        let mut queue = vec![begin];
        let mut followers = Vec::new();
        let mut is_complete = true;
        // The newest first: what is left is small, and all depths are reached if not all fits.
        while let Some(state) = queue.pop() {
            self.check_kept(&state);
            self.check_headers(&state);
            let messages = self.messages.things.len();
            let newest = || &self.messages.things[messages - 4..];
            assert!(messages < MESSAGES_MAX, "without end: {:?}", newest());
            self.followers(&state, &mut followers);
            for next in followers.drain(..) {
                if seen.len() >= most {
                    is_complete = false;
                    queue.clear();
                    break;
                }
                if seen.insert(next) {
                    queue.push(next);
                }
            }
        }
        let pasts = || self.pasts.things.iter();
        Walked {
            states: seen.len(),
            locals: self.locals.things.len(),
            messages: self.messages.things.len(),
            executed_most: pasts().map(|past| past.executed.len()).max().unwrap(),
            epochs: pasts()
                .flat_map(|past| past.leaders.keys().copied())
                .collect(),
            is_complete,
        }
    }

    pub(crate) fn leads(&self, state: &State, node: usize) -> bool {
        self.locals.things[state.locals[node] as usize].leads
    }

    /// The end of a node's log.
    pub(crate) fn last(&self, state: &State, node: usize) -> Slot {
        let known = &self.locals.things[state.locals[node] as usize];
        known.stored.last().map_or(known.covered, |stored| stored.0)
    }

    /// A step of a node that costs nothing.
    pub(crate) fn given(&mut self, state: &State, node: usize, step: Step) -> State {
        let mut rich = *state;
        let most = Budget {
            timers: 1,
            deaths: 1,
            proposals: 1,
            changes: 1,
            late: 0,
        };
        let before = std::mem::replace(&mut rich.budget, most);
        let mut next = self.next(&rich, node, step);
        next.budget = before;
        next
    }

    /// Everything that was said arrives and everything is written, but what is said to and by
    /// these.
    pub(crate) fn all_arrives(&mut self, state: &State, but: &[usize]) -> State {
        let mut state = *state;
        loop {
            if let Some(first) = self.lists.get(state.way).first() {
                let (from, to, _) = &*self.messages.get(*first);
                let is_cut = |node: &NodeId| but.contains(&(node.0 as usize - 1));
                let fate = match is_cut(from) || is_cut(to) {
                    true => Fate::IsLost,
                    false => Fate::Arrives,
                };
                state = self.meet(&state, fate);
                continue;
            }
            let writes = |node: &usize| self.locals.things[state.locals[*node] as usize].writes;
            match (0..NODES).find(writes) {
                Some(node) => state = self.given(&state, node, Step::Written),
                None => return state,
            }
        }
    }
}

/// What a node tells with an output that others must agree with.
fn facts(local: &Local, output: Output) -> Vec<Told> {
    let Node::Up(host) = &local.node else {
        return Vec::new();
    };
    match output {
        Output::Note(Note::BecameLeader { epoch }) => {
            let slots = (1..=host.engine.glance().last.0).map(Slot);
            let has = slots.filter_map(|slot| Some((slot, host.engine.epoch_of(slot)?)));
            assert!(!host.is_witness(), "a witness leads {epoch}");
            vec![Told::Leads {
                node: local.id,
                epoch,
                has: has.collect(),
            }]
        }
        Output::Note(note @ (Note::TwoLeaders { .. } | Note::MessageDropped { .. })) => {
            panic!("{} says {note:?}", local.id);
        }
        Output::Chosen { entries } => entries.iter().cloned().map(Told::Executes).collect(),
        _ => Vec::new(),
    }
}
