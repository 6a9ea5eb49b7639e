//! A simulated network for gossip: latency, loss, partitions, members that crash or stand still.
//! Everything is drawn from one seed; a run is the same each time.

#![allow(dead_code)] // each test uses its own part

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use base::{ClusterId, Instant, NodeId, Random, WallTime};
use bytes::Bytes;
use quorate_cluster::gossip::config::Config;
use quorate_cluster::gossip::member::{Facts, State};
use quorate_cluster::gossip::seal::Keys;
use quorate_cluster::gossip::{Event, ExchangeId, Gossip, Input, Output, Startup, StreamId};

/// How long a stream is waited for.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Network {
    pub(crate) now: Instant,
    pub(crate) random: Random,
    pub(crate) members: Vec<Member>,
    /// Lost packets, of 1.
    pub(crate) loss: f64,
    /// Pairs between which nothing gets through, by index.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Who said what, and when.
    pub(crate) events: Vec<(Instant, usize, Event)>,
    pub(crate) packets: u64,
    pub(crate) packet_bytes: u64,
    queue: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
    streams: BTreeMap<StreamId, (usize, ExchangeId)>,
}

pub(crate) struct Member {
    pub(crate) gossip: Option<Gossip>,
    pub(crate) address: SocketAddr,
    pub(crate) start: u32,
    /// Until when its process stands still.
    pub(crate) still_until: Instant,
    waiting: Vec<Happening>,
    deadline: Option<Instant>,
    pub(crate) has_left: bool,
    /// By how much its wall clock is ahead, in milliseconds.
    pub(crate) ahead: i64,
}

#[derive(Clone, Debug)]
enum Happening {
    Deadline,
    Wake,
    Input(Input),
    /// A request over a stream: who asked, by which exchange.
    Asked(usize, ExchangeId, Bytes),
    GiveUp(ExchangeId),
}

pub(crate) fn address(index: usize) -> SocketAddr {
    let number = index as u32 + 256;
    let [_, b, c, d] = number.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, b, c, d)), 7946)
}

impl Network {
    pub(crate) fn new(seed: u64) -> Network {
        Network {
            now: Instant(1),
            random: Random::from_seed(seed),
            members: Vec::new(),
            loss: 0.0,
            cut: BTreeSet::new(),
            events: Vec::new(),
            packets: 0,
            packet_bytes: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            streams: BTreeMap::new(),
        }
    }

    pub(crate) fn startup(&mut self, index: usize, config: &Config, start: u32) -> Startup {
        Startup {
            config: config.clone(),
            cluster: ClusterId(1),
            node: NodeId(index as u64 + 1),
            name: format!("n{index}"),
            address: address(index),
            start,
            process: self.random.next_u64(),
            facts: Facts::default(),
            keys: Keys::default(),
            seed: self.random.next_u64(),
        }
    }

    pub(crate) fn add(&mut self, config: &Config) -> usize {
        let index = self.members.len();
        let startup = self.startup(index, config, 1);
        self.add_as(startup)
    }

    pub(crate) fn add_as(&mut self, startup: Startup) -> usize {
        let index = self.members.len();
        self.members.push(Member {
            address: address(index),
            gossip: Some(Gossip::new(startup, self.now)),
            start: 1,
            still_until: Instant(0),
            waiting: Vec::new(),
            deadline: None,
            has_left: false,
            ahead: 0,
        });
        self.input(index, Input::Deadline);
        index
    }

    /// Members `0..count` that have all joined through the first.
    pub(crate) fn cluster(seed: u64, count: usize, config: &Config) -> Network {
        let mut network = Network::new(seed);
        for index in 0..count {
            network.add(config);
            if index > 0 {
                network.input(index, Input::Join(vec![address(0)]));
            }
        }
        network
    }

    pub(crate) fn restart(&mut self, index: usize, config: &Config, join: usize) {
        self.members[index].start += 1;
        let start = self.members[index].start;
        let startup = self.startup(index, config, start);
        self.members[index].gossip = Some(Gossip::new(startup, self.now));
        self.members[index].deadline = None;
        self.input(index, Input::Join(vec![address(join)]));
    }

    pub(crate) fn crash(&mut self, index: usize) {
        self.members[index].gossip = None;
    }

    /// The process stands still, and then finds everything that came meanwhile.
    pub(crate) fn stand_still(&mut self, index: usize, duration: Duration) {
        let until = self.now + duration;
        self.members[index].still_until = until;
        self.schedule(until, index, Happening::Wake);
    }

    pub(crate) fn input(&mut self, index: usize, input: Input) {
        self.happen(index, Happening::Input(input));
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        self.run_until(until, |_| false);
    }

    /// Until `done`, which is asked after each second, or the time is over. Whether it was done.
    pub(crate) fn run_until(&mut self, until: Instant, done: impl Fn(&Network) -> bool) -> bool {
        let second = Duration::from_millis(100);
        let mut check = self.now + second;
        while let Some(Reverse((at, number, index))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            if at >= check {
                if done(self) {
                    return true;
                }
                check = at + second;
            }
            self.queue.pop();
            self.now = at;
            let happening = self.happenings.remove(&number).expect("scheduled once");
            self.happen(index, happening);
        }
        self.now = until;
        done(self)
    }

    pub(crate) fn state(&self, of: usize, seen_by: usize) -> Option<State> {
        let gossip = self.members[seen_by].gossip.as_ref()?;
        gossip
            .member(NodeId(of as u64 + 1))
            .map(|member| member.state)
    }

    /// Whether everybody that runs sees `of` in this state.
    pub(crate) fn all_see(&self, of: usize, state: State) -> bool {
        (0..self.members.len())
            .filter(|index| *index != of && self.members[*index].gossip.is_some())
            .all(|index| self.state(of, index) == Some(state))
    }

    /// Whether everybody that runs sees everybody that runs.
    pub(crate) fn is_whole(&self) -> bool {
        let runs: Vec<bool> = self
            .members
            .iter()
            .map(|each| each.gossip.is_some())
            .collect();
        let running = runs.iter().filter(|runs| **runs).count();
        // One walk through each roster: at a thousand members, looking each up takes longer than
        // what is simulated.
        let is_there = |member: &&quorate_cluster::gossip::member::Member| {
            member.state == State::Alive && runs[member.node.0 as usize - 1]
        };
        let gossips = self.members.iter().filter_map(|each| each.gossip.as_ref());
        gossips
            .map(|gossip| gossip.members().filter(is_there).count())
            .all(|seen| seen == running)
    }

    fn latency(&mut self) -> Duration {
        Duration::from_micros(200 + self.random.below(1800))
    }

    fn schedule(&mut self, at: Instant, index: usize, happening: Happening) {
        self.next += 1;
        self.happenings.insert(self.next, happening);
        self.queue.push(Reverse((at, self.next, index)));
    }

    fn happen(&mut self, index: usize, happening: Happening) {
        if self.now < self.members[index].still_until {
            self.members[index].waiting.push(happening);
            return;
        }
        // A process that wakes hears its timers first, then what came meanwhile: the worse order.
        let mut waiting = std::mem::take(&mut self.members[index].waiting);
        waiting.sort_by_key(|waited| !matches!(waited, Happening::Deadline));
        for waited in waiting {
            self.take(index, waited);
        }
        self.take(index, happening);
    }

    fn take(&mut self, index: usize, happening: Happening) {
        let input = match happening {
            Happening::Wake => Input::Deadline,
            Happening::Deadline => {
                let member = &mut self.members[index];
                if member.deadline.is_none_or(|at| at > self.now) {
                    return;
                }
                member.deadline = None;
                Input::Deadline
            }
            Happening::Input(input) => input,
            Happening::GiveUp(exchange) => Input::ExchangeDone {
                exchange,
                answer: None,
            },
            Happening::Asked(asker, exchange, bytes) => {
                if self.members[index].gossip.is_none() {
                    let at = self.now + self.latency();
                    return self.schedule(at, asker, Happening::GiveUp(exchange));
                }
                self.next += 1;
                let stream = StreamId(self.next);
                self.streams.insert(stream, (asker, exchange));
                Input::ExchangeAsked {
                    stream,
                    from: address(asker),
                    bytes,
                }
            }
        };
        let mut out = Vec::new();
        let member = &mut self.members[index];
        let Some(gossip) = &mut member.gossip else {
            return;
        };
        let wall = 1_700_000_000_000 + (self.now.0 / 1_000_000).cast_signed() + member.ahead;
        let wall = WallTime(wall.cast_unsigned());
        gossip.step(self.now, wall, input, &mut out);
        let deadline = gossip.deadline();
        if let Some(at) = deadline
            && member.deadline.is_none_or(|scheduled| at < scheduled)
        {
            member.deadline = Some(at);
            self.schedule(at.max(self.now), index, Happening::Deadline);
        }
        for output in out {
            self.carry_out(index, output);
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        match output {
            Output::Packet { to, bytes } => {
                assert!(bytes.len() <= 1400, "a packet of {} bytes", bytes.len());
                self.packets += 1;
                self.packet_bytes += bytes.len() as u64;
                let lost = self.random.chance(self.loss);
                let Some(target) = self.find(to).filter(|to| !lost && self.reaches(index, *to))
                else {
                    return;
                };
                let at = self.now + self.latency();
                let (from, bytes) = (address(index), Bytes::from(bytes));
                self.schedule(at, target, Happening::Input(Input::Packet { from, bytes }));
            }
            Output::Exchange {
                exchange,
                to,
                bytes,
            } => {
                let give_up = self.now + STREAM_PATIENCE;
                self.schedule(give_up, index, Happening::GiveUp(exchange));
                if let Some(target) = self.find(to).filter(|to| self.reaches(index, *to)) {
                    let at = self.now + self.latency() + self.latency();
                    let asked = Happening::Asked(index, exchange, Bytes::from(bytes));
                    self.schedule(at, target, asked);
                }
            }
            Output::Answer { stream, bytes } => {
                let (asker, exchange) = self.streams.remove(&stream).expect("asked");
                if self.reaches(index, asker) {
                    let at = self.now + self.latency();
                    let answer = Some(Bytes::from(bytes));
                    let done = Input::ExchangeDone { exchange, answer };
                    self.schedule(at, asker, Happening::Input(done));
                }
            }
            Output::Event(event) => self.events.push((self.now, index, event)),
            Output::Left => {
                self.members[index].has_left = true;
                self.members[index].gossip = None;
            }
        }
    }

    fn find(&self, to: SocketAddr) -> Option<usize> {
        let IpAddr::V4(ip) = to.ip() else {
            return None;
        };
        let index = (ip.to_bits() & 0x00FF_FFFF).checked_sub(256)? as usize;
        (index < self.members.len()).then_some(index)
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }
}
