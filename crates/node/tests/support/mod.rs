//! A small simulated world: nodes with disks that lose what was not synced, joined by connections
//! with delays, on one event queue. The same seed gives the same run.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared by the test files beside it, none of which needs all of it"
)]

mod engine;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use base::{Instant, Random, WallTime};
use bytes::Bytes;
use journal::disk::{Completion, Lane, RequestId};
use quorate_node::wire::Frame;
use quorate_node::{
    Answer, Call, CallId, Config, ConnectionId, DialId, Directory, Halt, Identity, Input, Limits,
    Node, Note, Output, Startup, Timing,
};

mod disk;
mod event;
pub mod keyspaces;
mod publishing;
pub use disk::Disk;
use event::{Event, Happening};
use publishing::Published;

/// A place where a node runs, with what it leaves behind.
struct Host {
    config: Config,
    /// Where it is reached, if that is elsewhere than its settings say.
    listens: Option<String>,
    disk: Disk,
    node: Option<Node>,
    /// Counts starts, so that events for an earlier start are dropped.
    life: u64,
    dials: BTreeMap<DialId, String>,
    paused: bool,
    /// What happened while it was paused.
    missed: Vec<Input>,
    /// How long it works on each message, and until when it is at work.
    slowness: Duration,
    busy_until: Instant,
    /// What leaves when a request of its disk has succeeded.
    departing: BTreeMap<RequestId, Vec<(ConnectionId, Bytes)>>,
    halted: Option<Halt>,
    woken_at: Option<Instant>,
    /// Passes on end that left something due.
    restless: u32,
    published: Published,
    directory: Option<Arc<Directory>>,
    /// The node has said that it can serve clients.
    is_ready: bool,
}

impl Host {
    fn address(&self) -> Option<&str> {
        let said = self.config.peer_address.as_deref();
        self.listens.as_deref().or(said)
    }
}

/// One end of a connection.
#[derive(Clone, Copy)]
struct End {
    host: usize,
    other_host: usize,
    other_end: ConnectionId,
    dial: Option<DialId>,
    /// When the last frame arrives at the other end: frames do not overtake each other.
    busy_until: Instant,
}

/// Hosts, their nodes, and what connects them.
pub struct World {
    pub now: Instant,
    hosts: Vec<Host>,
    events: BinaryHeap<Event>,
    sequence: u64,
    ends: BTreeMap<ConnectionId, End>,
    last_connection: u64,
    last_call: u64,
    answers: BTreeMap<CallId, Answer>,
    pub cut: BTreeSet<(usize, usize)>,
    /// So many passes in a row may each end with something that is due at once.
    pub restless_max: u32,
    /// What engines of these groups say does not reach these hosts.
    pub deaf: BTreeSet<(usize, base::GroupId)>,
    random: Random,
    pub notes: Vec<(usize, Note)>,
    /// How long reads take that are run elsewhere.
    pub jobs_take: Duration,
    /// The most bytes that one pass of a node put on one connection.
    pub largest_burst: usize,
}

/// The settings of node `index` (from 0) of a cluster of `count`.
pub fn config(index: usize, count: usize) -> Config {
    let address = |index: usize| format!("host{index}:2380");
    let name = |index: usize| format!("n{}", index + 1);
    Config {
        name: name(index),
        peer_address: Some(address(index)),
        place_is_logged: false,
        client_urls: vec![format!("http://host{index}:2379")],
        peers_are_encrypted: false,
        cluster: match count {
            1 => Vec::new(),
            _ => (0..count).map(|each| (name(each), address(each))).collect(),
        },
        join: Vec::new(),
        engine: engine::chosen(),
        quorums: None,
        copies: None,
        is_witness: false,
        domains: quorate_node::Domains::default(),
        tending: quorate_node::Tending::OFF,
        timing: Timing::default(),
        limits: Limits {
            journal: journal::Limits {
                segment_bytes: 1 << 20,
                ..journal::Limits::default()
            },
            ..Limits::default()
        },
    }
}

impl World {
    /// Hosts with these settings, none running.
    pub fn new(seed: u64, configs: Vec<Config>) -> World {
        let mut world = World {
            now: Instant(1),
            hosts: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            ends: BTreeMap::new(),
            last_connection: 0,
            last_call: 0,
            answers: BTreeMap::new(),
            cut: BTreeSet::new(),
            restless_max: 10,
            deaf: BTreeSet::new(),
            random: Random::from_seed(seed),
            notes: Vec::new(),
            jobs_take: Duration::from_millis(1),
            largest_burst: 0,
        };
        configs
            .into_iter()
            .for_each(|config| world.add_host(config));
        world
    }

    /// A cluster of `count` nodes, started.
    pub fn cluster(seed: u64, count: usize) -> World {
        let mut world = World::new(seed, (0..count).map(|each| config(each, count)).collect());
        (0..count).for_each(|host| world.start(host));
        world
    }

    /// Another host, not running.
    pub fn add_host(&mut self, config: Config) {
        self.hosts.push(Host {
            config,
            listens: None,
            disk: Disk::default(),
            node: None,
            life: 0,
            dials: BTreeMap::new(),
            paused: false,
            missed: Vec::new(),
            slowness: Duration::ZERO,
            busy_until: Instant(0),
            departing: BTreeMap::new(),
            halted: None,
            woken_at: None,
            restless: 0,
            published: Published::default(),
            directory: None,
            is_ready: false,
        });
    }

    pub fn config_of(&mut self, host: usize) -> &mut Config {
        &mut self.hosts[host].config
    }

    /// Has a host listen at this address, whatever its settings say.
    pub fn listen_at(&mut self, host: usize, address: &str) {
        self.hosts[host].listens = Some(address.to_owned());
    }

    pub fn disk_of(&mut self, host: usize) -> &mut Disk {
        &mut self.hosts[host].disk
    }

    pub fn identity_of(&self, host: usize) -> Option<&Identity> {
        self.hosts[host].disk.identity.as_ref()
    }

    pub fn halted(&self, host: usize) -> Option<&Halt> {
        self.hosts[host].halted.as_ref()
    }

    /// The events that a node has published since this was last asked.
    pub fn take_published(&mut self, host: usize) -> Vec<state::Event> {
        std::mem::take(&mut self.hosts[host].published.events)
    }

    /// How many events of a group a node has published.
    pub fn published_of(&self, host: usize, group: base::GroupId) -> usize {
        let counted = &self.hosts[host].published.counted;
        counted.get(&group).copied().unwrap_or(0)
    }

    /// What a node has told last of the keyspaces.
    pub fn directory(&self, host: usize) -> Option<&Directory> {
        self.hosts[host].directory.as_deref()
    }

    /// Whether a node has said that it can serve clients.
    pub fn is_ready(&self, host: usize) -> bool {
        self.is_running(host) && self.hosts[host].is_ready
    }

    pub fn is_running(&self, host: usize) -> bool {
        self.hosts[host].node.is_some()
    }

    pub fn node(&self, host: usize) -> &Node {
        self.hosts[host].node.as_ref().expect("the node runs")
    }

    pub fn start(&mut self, index: usize) {
        let seed = self.random.next_u64();
        let host = &mut self.hosts[index];
        assert!(host.node.is_none(), "it runs already");
        let startup = Startup {
            config: host.config.clone(),
            identity: host.disk.identity.clone(),
            files: host.disk.list(),
            seed,
        };
        host.node = Some(Node::new(startup));
        host.life += 1;
        host.halted = None;
        host.woken_at = None;
        host.published.begin();
        host.directory = None;
        host.is_ready = false;
        self.pass(index, vec![]);
    }

    /// The process dies: what was not synced is lost, connections are closed.
    pub fn kill(&mut self, index: usize) {
        self.hosts[index].node = None;
        self.hosts[index].disk.crash();
        self.clear(index);
    }

    fn clear(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.life += 1;
        host.dials.clear();
        host.paused = false;
        host.missed.clear();
        host.busy_until = Instant(0);
        host.departing.clear();
        let ends: Vec<ConnectionId> = self
            .ends
            .iter()
            .filter(|(_, end)| end.host == index)
            .map(|(id, _)| *id)
            .collect();
        ends.into_iter().for_each(|end| self.close(end));
    }

    /// Everything in the data folder is lost.
    pub fn wipe(&mut self, index: usize) {
        assert!(self.hosts[index].node.is_none(), "stop it first");
        self.hosts[index].disk = Disk::default();
    }

    /// Whether a host's disk is at work on something that frames wait for.
    pub fn is_acknowledging(&self, index: usize) -> bool {
        !self.hosts[index].departing.is_empty()
    }

    pub fn pause(&mut self, index: usize) {
        self.hosts[index].paused = true;
    }

    pub fn resume(&mut self, index: usize) {
        self.hosts[index].paused = false;
        let missed = std::mem::take(&mut self.hosts[index].missed);
        self.pass(index, missed);
    }

    /// From now on a host works so long on each message that it gets or sends, and looks at what
    /// comes meanwhile only then.
    pub fn slow_down(&mut self, index: usize, per_message: Duration) {
        self.hosts[index].slowness = per_message;
    }

    /// Whether a host is still at work on what came before. Then it looks at this afterwards.
    fn is_busy(&mut self, index: usize, inputs: &mut Vec<Input>) -> bool {
        let host = &mut self.hosts[index];
        let is_first = host.missed.is_empty();
        host.missed.append(inputs);
        if host.busy_until <= self.now {
            *inputs = std::mem::take(&mut host.missed);
            return false;
        }
        let until = host.busy_until;
        if is_first {
            self.schedule_at(until, index, Happening::Wake);
        }
        true
    }

    fn schedule(&mut self, delay: Duration, host: usize, what: Happening) {
        self.schedule_at(self.now + delay, host, what);
    }

    fn schedule_at(&mut self, at: Instant, host: usize, what: Happening) {
        self.sequence += 1;
        let (sequence, life) = (self.sequence, self.hosts[host].life);
        self.events.push(Event {
            at,
            sequence,
            host,
            life,
            what,
        });
    }

    /// Closes a connection from one end; the other end hears of it.
    fn close(&mut self, connection: ConnectionId) {
        let Some(end) = self.ends.remove(&connection) else {
            return;
        };
        self.ends.remove(&end.other_end);
        let delay = Duration::from_micros(100);
        let gone = Input::Disconnected {
            connection: end.other_end,
            by_peer: true,
        };
        self.schedule(delay, end.other_host, Happening::Input(gone));
        if self.hosts[end.host].node.is_some() {
            let gone = Input::Disconnected {
                connection,
                by_peer: false,
            };
            self.schedule(Duration::ZERO, end.host, Happening::Input(gone));
        }
        let dialer = match end.dial {
            Some(dial) => (end.host, dial),
            None => {
                let Some(dial) = self.dial_between(end.other_host, end.host) else {
                    return;
                };
                (end.other_host, dial)
            }
        };
        if self.hosts[dialer.0].node.is_some() {
            self.schedule(
                Duration::from_millis(20),
                dialer.0,
                Happening::TryDial(dialer.1),
            );
        }
    }

    fn dial_between(&self, from: usize, to: usize) -> Option<DialId> {
        let address = self.hosts[to].address()?.to_owned();
        let dials = &self.hosts[from].dials;
        dials
            .iter()
            .find(|(_, dialed)| **dialed == address)
            .map(|(dial, _)| *dial)
    }

    fn try_dial(&mut self, host: usize, dial: DialId) {
        let Some(address) = self.hosts[host].dials.get(&dial).cloned() else {
            return;
        };
        if self
            .ends
            .values()
            .any(|end| end.host == host && end.dial == Some(dial))
        {
            return;
        }
        let target = self
            .hosts
            .iter()
            .position(|each| each.node.is_some() && each.address() == Some(&address));
        let Some(target) = target.filter(|target| !self.is_cut(host, *target)) else {
            self.schedule(Duration::from_millis(50), host, Happening::TryDial(dial));
            return;
        };
        let near = ConnectionId(self.last_connection + 1);
        let far = ConnectionId(self.last_connection + 2);
        self.last_connection += 2;
        let busy_until = self.now;
        let end = |host, other_host, other_end, dial| End {
            host,
            other_host,
            other_end,
            dial,
            busy_until,
        };
        self.ends.insert(near, end(host, target, far, Some(dial)));
        self.ends.insert(far, end(target, host, near, None));
        let delay = Duration::from_micros(200);
        let input = Input::Connected {
            connection: near,
            dial: Some(dial),
        };
        self.schedule(delay, host, Happening::Input(input));
        let input = Input::Connected {
            connection: far,
            dial: None,
        };
        self.schedule(delay, target, Happening::Input(input));
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Cuts two hosts off from each other, or joins them again.
    pub fn part(&mut self, hosts: (usize, usize), cut: bool) {
        for pair in [hosts, (hosts.1, hosts.0)] {
            if cut {
                self.cut.insert(pair);
            } else {
                self.cut.remove(&pair);
            }
        }
    }

    /// Cuts a host off from the others, or joins it again.
    pub fn isolate(&mut self, host: usize, cut: bool) {
        for other in 0..self.hosts.len() {
            self.part((host, other), cut);
        }
    }

    fn send(&mut self, connection: ConnectionId, body: Bytes) {
        let jitter = Duration::from_micros(50 + self.random.below(200));
        let Some(end) = self.ends.get_mut(&connection) else {
            return;
        };
        let at = (self.now + jitter).max(end.busy_until);
        end.busy_until = at;
        let (from, to, other) = (end.host, end.other_host, end.other_end);
        if self.is_cut(from, to) {
            return;
        }
        let body = match Frame::decode(body.clone()) {
            Ok(Frame::Engine(mut messages)) if !self.deaf.is_empty() => {
                messages.retain(|(group, _)| !self.deaf.contains(&(to, *group)));
                Frame::Engine(messages).encode()
            }
            _ => body,
        };
        let input = Input::Frame {
            connection: other,
            body,
        };
        self.schedule_at(at, to, Happening::Input(input));
    }

    /// One pass of a node over these inputs.
    fn pass(&mut self, index: usize, mut inputs: Vec<Input>) {
        if self.hosts[index].paused {
            self.hosts[index].missed.extend(inputs);
            return;
        }
        let slowness = self.hosts[index].slowness;
        if !slowness.is_zero() && self.is_busy(index, &mut inputs) {
            return;
        }
        let mut work = match slowness.is_zero() {
            true => 0,
            false => inputs.iter().map(event::messages_in).sum(),
        };
        let (now, wall) = (
            self.now,
            WallTime(1_700_000_000_000 + self.now.0 / 1_000_000),
        );
        let Some(node) = self.hosts[index].node.as_mut() else {
            return;
        };
        let mut out = Vec::new();
        for input in inputs {
            node.step(now, wall, input, &mut out);
        }
        node.flush(now, wall, &mut out);
        let deadline = node.deadline();
        let host = &mut self.hosts[index];
        match deadline.is_some_and(|at| at <= now) {
            true => host.restless += 1,
            false => host.restless = 0,
        }
        assert!(
            host.restless < self.restless_max,
            "it always has something due: {deadline:?}"
        );
        let mut bursts: BTreeMap<ConnectionId, usize> = BTreeMap::new();
        for output in &out {
            if let Output::Frame { connection, body } = output {
                *bursts.entry(*connection).or_default() += body.len();
            }
        }
        if !slowness.is_zero() {
            work += out.iter().map(event::messages_out).sum::<u32>();
            self.hosts[index].busy_until = now + slowness * work;
        }
        let largest = bursts.into_values().max().unwrap_or(0);
        self.largest_burst = self.largest_burst.max(largest);
        for output in out {
            self.carry_out(index, output);
        }
        if let Some(at) = deadline
            && self.hosts[index].node.is_some()
            && self.hosts[index]
                .woken_at
                .is_none_or(|woken| woken > at || woken <= now)
        {
            let at = at.max(Instant(now.0 + 1));
            self.hosts[index].woken_at = Some(at);
            self.schedule_at(at, index, Happening::Wake);
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        match output {
            Output::Dial { dial, address } => {
                self.hosts[index].dials.insert(dial, address);
                self.schedule(Duration::from_millis(1), index, Happening::TryDial(dial));
            }
            Output::HangUp { dial } => {
                self.hosts[index].dials.remove(&dial);
                let ends: Vec<ConnectionId> = self
                    .ends
                    .iter()
                    .filter(|(_, end)| end.host == index && end.dial == Some(dial))
                    .map(|(id, _)| *id)
                    .collect();
                ends.into_iter().for_each(|end| self.close(end));
            }
            Output::Frame { connection, body } => self.send(connection, body),
            Output::Disconnect { connection } => self.close(connection),
            Output::Answer { id, mut answer } => {
                self.hosts[index].published.check_answer(&mut answer);
                let before = self.answers.insert(id, answer);
                assert!(before.is_none(), "a call is answered once");
            }
            Output::Disk(request) => {
                let delay = Duration::from_micros(100 + self.random.below(100));
                self.schedule(delay, index, Happening::Disk(request));
            }
            Output::FramesAfter { request, frames } => {
                let before = self.hosts[index].departing.insert(request, frames);
                assert!(before.is_none(), "a request is named once");
            }
            Output::PersistIdentity(identity) => {
                self.schedule(
                    Duration::from_millis(1),
                    index,
                    Happening::Persisted(identity),
                );
            }
            Output::Offload { id, job } => {
                let answer = job.run(Arc::new(|| true));
                let input = Input::JobDone { id, answer };
                self.schedule(self.jobs_take, index, Happening::Input(input));
            }
            Output::Publish { group, publication } => {
                self.hosts[index].published.take_in(group, &publication)
            }
            Output::Note(note) => self.notes.push((index, note)),
            Output::Keyspaces(directory) => self.hosts[index].directory = Some(directory),
            Output::Unpublish { group, .. } => self.hosts[index].published.end(group),
            Output::Ready => {
                let before = std::mem::replace(&mut self.hosts[index].is_ready, true);
                assert!(!before, "a node says once that it is ready");
            }
            Output::ReadHistory { .. } | Output::Discard(_) => {}
            Output::Halt(halt) => {
                let host = &mut self.hosts[index];
                host.node = None;
                host.halted = Some(halt);
                self.clear(index);
            }
        }
    }

    /// Lets the next event happen; false if there is none.
    pub fn step(&mut self) -> bool {
        let Some(event) = self.events.pop() else {
            return false;
        };
        self.now = self.now.max(event.at);
        let Event {
            host, life, what, ..
        } = event;
        if life != self.hosts[host].life {
            return true;
        }
        match what {
            Happening::Input(input) => self.pass(host, vec![input]),
            Happening::Wake => self.pass(host, vec![Input::Deadline]),
            Happening::TryDial(dial) => self.try_dial(host, dial),
            Happening::Persisted(identity) if self.hosts[host].disk.keeps_identity => {
                let later = Duration::from_millis(5);
                self.schedule(later, host, Happening::Persisted(identity));
            }
            Happening::Persisted(identity) => {
                self.hosts[host].disk.identity = Some(identity);
                self.pass(host, vec![Input::IdentityPersisted]);
            }
            Happening::Disk(request)
                if self.hosts[host].disk.is_stuck && request.lane == Lane::Journal =>
            {
                self.schedule(Duration::from_millis(5), host, Happening::Disk(request));
            }
            Happening::Disk(request) => {
                let result = self.hosts[host].disk.carry_out(request.operation);
                let frames = self.hosts[host].departing.remove(&request.id);
                if result.is_ok() {
                    let frames = frames.into_iter().flatten();
                    frames.for_each(|(connection, body)| self.send(connection, body));
                }
                self.pass(
                    host,
                    vec![Input::Disk(Completion {
                        id: request.id,
                        result,
                    })],
                );
            }
        }
        true
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.events.peek().is_some_and(|event| event.at <= until) {
            self.step();
        }
        self.now = until;
    }

    /// Lets time pass until something is so.
    ///
    /// # Panics
    /// If it is not so within `patience`.
    pub fn run_until(&mut self, patience: Duration, what: &str, so: impl Fn(&World) -> bool) {
        let until = self.now + patience;
        while !so(self) {
            assert!(
                self.now < until,
                "waited {patience:?} in vain: {what}\n{}",
                self.picture()
            );
            let slice = Duration::from_millis(1);
            self.run(slice);
        }
    }

    /// What every node says of itself, for failures.
    pub fn picture(&self) -> String {
        let nodes = self
            .hosts
            .iter()
            .enumerate()
            .map(|(index, host)| match &host.node {
                Some(node) => format!("{index}: {:?}\n", node.status()),
                None => format!("{index}: not running, {:?}\n", host.halted),
            });
        let notes = self.notes.iter().rev().take(40).rev();
        let notes = notes.map(|(host, note)| format!("  {host} {note}\n"));
        nodes.chain(notes).collect()
    }

    /// A connection from nowhere says these frames to a node.
    pub fn whisper(&mut self, host: usize, frames: Vec<Bytes>) {
        self.last_connection += 1;
        let connection = ConnectionId(self.last_connection);
        let dial = None;
        let mut inputs = vec![Input::Connected { connection, dial }];
        inputs.extend(
            frames
                .into_iter()
                .map(|body| Input::Frame { connection, body }),
        );
        self.pass(host, inputs);
    }

    /// Asks something of a node; the answer comes later.
    pub fn call(&mut self, host: usize, call: Call) -> CallId {
        self.last_call += 1;
        let id = CallId(self.last_call);
        self.pass(host, vec![Input::Call { id, call }]);
        id
    }

    /// Asks many things of a node at one moment; the answers come later.
    pub fn call_together(&mut self, host: usize, calls: Vec<Call>) -> Vec<CallId> {
        let first = self.last_call + 1;
        self.last_call += calls.len() as u64;
        let ids: Vec<CallId> = (first..=self.last_call).map(CallId).collect();
        let inputs = ids.iter().zip(calls);
        let inputs = inputs.map(|(id, call)| Input::Call { id: *id, call });
        let inputs = inputs.collect();
        self.pass(host, inputs);
        ids
    }

    /// The answer to a call, once.
    pub fn answer(&mut self, id: CallId) -> Option<Answer> {
        self.answers.remove(&id)
    }

    /// Asks something of a node and waits for the answer.
    pub fn ask(&mut self, host: usize, call: Call) -> Answer {
        let text = format!("{call:?}");
        let id = self.call(host, call);
        self.run_until(Duration::from_secs(30), &text, |world| {
            world.answers.contains_key(&id)
        });
        self.answer(id).expect("it is there")
    }

    pub fn shutdown(&mut self, host: usize) {
        self.pass(host, vec![Input::Shutdown]);
    }

    /// The host that leads, if all running nodes agree on it.
    pub fn leader(&self) -> Option<usize> {
        let mut leader = None;
        for host in self.hosts.iter().filter(|host| !host.paused) {
            let Some(node) = &host.node else { continue };
            let name = node.status().leader?;
            if leader.get_or_insert(name.clone()) != &name {
                return None;
            }
        }
        let name = leader?;
        self.hosts
            .iter()
            .position(|host| host.config.name == name && host.node.is_some())
    }

    pub fn wait_for_leader(&mut self) -> usize {
        self.run_until(Duration::from_secs(10), "a leader", |world| {
            world.leader().is_some()
        });
        self.leader().expect("it has been waited for")
    }
}
