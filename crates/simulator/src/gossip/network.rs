//! How packets and streams get from one member to another, and what becomes of processes.
//!
//! Packets go to an address, whichever process is there by then. Exchanges belong to the two
//! processes that hold the stream. Whoever stands still finds its timers and what came meanwhile in
//! some order, as far as its socket had room.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use base::{ClusterId, Instant, NodeId, Random, WallTime};
use bytes::Bytes;
use cluster::gossip::member::Facts;
use cluster::gossip::seal::{Key, Keys};
use cluster::gossip::{Event, ExchangeId, Gossip, Input, Output, Startup, StreamId};

use super::checks::{Checks, Fate};
use super::plan::{Fault, Links, Plan};
use crate::invariants::Violation;
use crate::marks::Mark;
use crate::run::in_node;
use crate::streams::Streams;
use crate::trace::{Kind, Trace};

/// How long an exchange is waited for, as in the server.
const EXCHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// Packets that wait in a socket.
const SOCKET_PACKETS: usize = 128;
/// How soon a member that wants to be woken at once is.
const PASS: Duration = Duration::from_micros(50);
/// Things that may happen in one run: some hundred times what a usual one has.
const HAPPENINGS_MAX: u64 = 3_000_000;
/// Within which time all members have taken a step of an exchange of keys.
const KEYS_SPREAD_MS: u64 = 500;
/// How late something may come again.
const REPLAY_MS: u64 = 10_000;
/// The answer to a ping over a stream is a head and nothing else; one that compares all that is
/// known has at least a member in it.
const PONG_BYTES_MAX: usize = 80;
const WALL_BEGAN: i64 = 1_700_000_000_000;

#[derive(Debug)]
struct Process {
    gossip: Option<Gossip>,
    /// The deadline that is on the agenda.
    deadline: Option<Instant>,
    stands_until: Option<Instant>,
    backlog: Vec<Happening>,
    slow: (Instant, Duration),
    facts: Facts,
    ahead: i64,
    /// It is started again some time.
    returns: bool,
}

/// A process: which member, which start of it.
type Life = (usize, u32);

#[derive(Clone, Debug)]
enum Happening {
    Input(usize, Input),
    /// Somebody asks over a stream.
    Asked(usize, Life, ExchangeId, Bytes),
    /// Only for this process: whatever else there is by then never asked for it.
    Of(Life, Input),
    Deadline(usize),
    Wake(Life),
    /// A member starts, if this was still its newest start.
    Start(Life),
    Fault(usize),
}

#[derive(Debug)]
struct Cut {
    from: u64,
    to: u64,
    until: Instant,
}

pub(super) struct Network<'a> {
    pub(super) plan: Plan,
    pub(super) checks: Checks,
    pub(super) violation: Option<Violation>,
    pub(super) struck: BTreeMap<&'static str, u64>,
    trace: &'a mut Trace,
    now: Instant,
    links: Links,
    random: Random,
    processes: Vec<Process>,
    agenda: BTreeMap<(Instant, u64), Happening>,
    next: u64,
    cuts: Vec<Cut>,
    streams: BTreeMap<StreamId, (Life, ExchangeId)>,
    /// What keys are at each step of an exchange of them, and which step it is.
    keys: Vec<Keys>,
    step: usize,
    /// What strangers say, and the newest packet of a member, to be damaged.
    strange: Vec<Bytes>,
    newest: Bytes,
}

const BEGAN: Instant = Instant(1_000_000_000);

fn address(member: usize) -> SocketAddr {
    let last = u8::try_from(member + 1).expect("a few members");
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 7946)
}

fn member_at(address: SocketAddr, members: usize) -> Option<usize> {
    (0..members).find(|member| self::address(*member) == address)
}

impl<'a> Network<'a> {
    pub(super) fn new(plan: Plan, seed: u64, trace: &'a mut Trace) -> Network<'a> {
        let (old, new) = (Key::new([1; 32]), Key::new([2; 32]));
        let keys = match plan.is_sealed {
            true => vec![
                Keys(vec![old.clone()]),
                Keys(vec![old.clone(), new.clone()]),
                Keys(vec![new.clone(), old]),
                Keys(vec![new]),
            ],
            false => vec![Keys::default()],
        };
        let process = |ahead: &i64| Process {
            gossip: None,
            deadline: None,
            stands_until: None,
            backlog: Vec::new(),
            slow: (BEGAN, Duration::ZERO),
            facts: Facts::default(),
            ahead: *ahead,
            returns: true,
        };
        let mut network = Network {
            checks: Checks::new(&plan),
            violation: None,
            struck: BTreeMap::new(),
            trace,
            now: BEGAN,
            links: plan.links,
            random: Streams::of(seed).named("gossip.network"),
            processes: plan.ahead.iter().map(process).collect(),
            agenda: BTreeMap::new(),
            next: 0,
            cuts: Vec::new(),
            streams: BTreeMap::new(),
            keys,
            step: 0,
            strange: Vec::new(),
            newest: Bytes::new(),
            plan,
        };
        network.strange = network.strangers();
        for member in 0..network.plan.members {
            let at = BEGAN + network.plan.starts[member];
            network.schedule(at, Happening::Start((member, 0)));
        }
        for fault in 0..network.plan.faults.len() {
            let at = BEGAN + network.plan.faults[fault].0;
            network.schedule(at, Happening::Fault(fault));
        }
        network
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now.since(BEGAN)
    }

    pub(super) fn fail(&mut self, invariant: &'static str, text: String) {
        let at = self.elapsed();
        self.trace.line(at, Kind::Gossip(None), || {
            format!("VIOLATED {invariant}: {text}")
        });
        self.violation.get_or_insert(Violation { invariant, text });
    }

    /// Until this time has passed, or something is violated.
    pub(super) fn run_until(&mut self, elapsed: Duration) {
        let until = BEGAN + elapsed;
        while self.violation.is_none()
            && let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= until
        {
            let ((at, number), happening) = entry.remove_entry();
            self.now = at;
            if number > HAPPENINGS_MAX {
                return self.fail("gossip comes to rest", self.picture());
            }
            self.happen(happening);
        }
        self.now = until;
    }

    /// Nothing goes wrong any more, and whoever comes back does so now.
    pub(super) fn calm(&mut self) {
        let at = self.elapsed();
        self.trace
            .line(at, Kind::Gossip(None), || "the faults are over".to_owned());
        self.links = Links::CALM;
        self.cuts.clear();
        self.agenda
            .retain(|_, each| !matches!(each, Happening::Fault(_)));
        for member in 0..self.plan.members {
            self.processes[member].slow.0 = self.now;
            let start = self.checks.truths[member].start;
            self.wake((member, start));
            let is_gone = self.processes[member].gossip.is_none();
            if is_gone && self.processes[member].returns {
                self.start((member, start));
            }
        }
    }

    /// What each who runs sees.
    pub(super) fn picture(&self) -> String {
        let mut text = String::new();
        for (member, process) in self.processes.iter().enumerate() {
            let truth = &self.checks.truths[member];
            let _ = write!(
                text,
                "n{}, {:?} in start {}:",
                member + 1,
                truth.fate,
                truth.start
            );
            for seen in process.gossip.iter().flat_map(Gossip::members) {
                let (node, incarnation) = (seen.node.0, seen.incarnation.0);
                let _ = write!(text, " n{node} {} {incarnation:x},", seen.state);
            }
            text.push('\n');
        }
        text
    }

    /// Whether one who runs knows what another one says of itself now.
    pub(super) fn knows_facts(&self, viewer: usize, about: usize) -> bool {
        let gossip = self.processes[viewer].gossip.as_ref();
        let known = gossip.and_then(|gossip| gossip.member(NodeId(about as u64 + 1)));
        known.is_some_and(|known| known.facts == self.processes[about].facts)
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.next += 1;
        self.agenda.insert((at, self.next), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Fault(fault) => self.strike(fault),
            Happening::Start(life) => {
                if self.checks.truths[life.0].start == life.1 {
                    self.start(life);
                }
            }
            Happening::Wake(life) => {
                if self.processes[life.0].stands_until == Some(self.now) {
                    self.wake(life);
                }
            }
            Happening::Input(member, _)
            | Happening::Asked(member, ..)
            | Happening::Of((member, _), _)
            | Happening::Deadline(member) => {
                let process = &mut self.processes[member];
                if process.stands_until.is_none() {
                    return self.take(member, happening);
                }
                let is_packet = matches!(happening, Happening::Input(_, Input::Packet { .. }));
                if !is_packet || process.backlog.len() < SOCKET_PACKETS {
                    process.backlog.push(happening);
                }
            }
        }
    }

    /// A process takes what is for it.
    fn take(&mut self, member: usize, happening: Happening) {
        let start = self.checks.truths[member].start;
        let input = match happening {
            Happening::Input(_, input) => input,
            Happening::Of((_, of), input) if of == start => input,
            Happening::Asked(_, asker, exchange, bytes) => {
                if self.processes[member].gossip.is_none() {
                    let answer = None;
                    let done = Input::ExchangeDone { exchange, answer };
                    let at = self.now + self.links.delay;
                    return self.schedule(at, Happening::Of(asker, done));
                }
                let stream = StreamId(self.next);
                self.next += 1;
                self.streams.insert(stream, (asker, exchange));
                let from = address(asker.0);
                Input::ExchangeAsked {
                    stream,
                    from,
                    bytes,
                }
            }
            Happening::Deadline(_) => {
                let process = &mut self.processes[member];
                if process.deadline != Some(self.now) {
                    return;
                }
                process.deadline = None;
                let deadline = process.gossip.as_ref().and_then(Gossip::deadline);
                // It has been moved since.
                if let Some(at) = deadline.filter(|at| *at > self.now) {
                    process.deadline = Some(at);
                    return self.schedule(at, Happening::Deadline(member));
                }
                Input::Deadline
            }
            _ => return,
        };
        self.step(member, input);
    }

    fn step(&mut self, member: usize, input: Input) {
        let now = self.now;
        let process = &mut self.processes[member];
        let Some(gossip) = &mut process.gossip else {
            return;
        };
        let wall = WALL_BEGAN + now.since(BEGAN).as_millis() as i64 + process.ahead;
        let wall = WallTime(wall.cast_unsigned());
        let mut out = Vec::new();
        self.trace.mix(now.0 ^ member as u64);
        if let Err(text) = in_node(|| gossip.step(now, wall, input, &mut out)) {
            return self.fail("a member never panics", format!("n{}: {text}", member + 1));
        }
        let looked = self.checks.look(member, gossip, now);
        let deadline = gossip.deadline().map(|at| at.max(now + PASS));
        if let Some(at) = deadline
            && process.deadline.is_none_or(|planned| at < planned)
        {
            process.deadline = Some(at);
            self.schedule(at, Happening::Deadline(member));
        }
        if let Err(Violation { invariant, text }) = looked {
            return self.fail(invariant, text);
        }
        for output in out {
            self.carry_out(member, output);
        }
        self.streams.clear();
    }

    fn carry_out(&mut self, member: usize, output: Output) {
        let life = (member, self.checks.truths[member].start);
        match output {
            Output::Packet { to, bytes } => {
                let limit = self.plan.config.limits.packet_bytes;
                if bytes.len() > limit {
                    let text = format!("n{} sends {} bytes", member + 1, bytes.len());
                    return self.fail("packets fit", text);
                }
                if let Some(to) = member_at(to, self.plan.members) {
                    self.send(member, to, Bytes::from(bytes));
                }
            }
            Output::Exchange {
                exchange,
                to,
                bytes,
            } => {
                let answer = None;
                let given_up = Input::ExchangeDone { exchange, answer };
                self.schedule(self.now + EXCHANGE_PATIENCE, Happening::Of(life, given_up));
                let to = member_at(to, self.plan.members);
                if let Some(to) = to.filter(|to| self.is_carried(member, *to)) {
                    let at = self.now + self.travels(member, to) + self.travels(to, member);
                    let asked = Happening::Asked(to, life, exchange, Bytes::from(bytes));
                    self.schedule(at, asked);
                }
            }
            Output::Answer { stream, bytes } => {
                let Some((asker, exchange)) = self.streams.remove(&stream) else {
                    let text = format!("n{} answers what nobody asked", member + 1);
                    return self.fail("answers fit their questions", text);
                };
                if self.is_carried(member, asker.0) {
                    if bytes.len() < PONG_BYTES_MAX {
                        self.checks.marks.reach(Mark::GossipByStream);
                    }
                    let at = self.now + self.travels(member, asker.0);
                    let answer = Some(Bytes::from(bytes));
                    let done = Input::ExchangeDone { exchange, answer };
                    self.schedule(at, Happening::Of(asker, done));
                }
            }
            Output::Event(event) => self.heard(member, &event),
            Output::Left => {
                self.processes[member].gossip = None;
                self.checks.truths[member].fate = Fate::Left;
                self.tell(member, || "has left".to_owned());
            }
        }
    }

    fn heard(&mut self, member: usize, event: &Event) {
        self.tell(member, || format!("{event:?}"));
        let has_strangers = self.struck.contains_key("gossip: stranger's packet");
        let is_sealed = self.plan.is_sealed;
        let may_refuse = |name: &str| match name {
            // Keys change while packets are on their way.
            "wrong-key" => is_sealed || has_strangers,
            "damaged" | "not-sealed" | "other-cluster" => has_strangers,
            _ => false,
        };
        if let Err(violation) = self.checks.heard(member, event, may_refuse) {
            self.fail(violation.invariant, violation.text);
        }
    }

    fn tell(&mut self, member: usize, text: impl FnOnce() -> String) {
        let at = self.elapsed();
        self.trace.line(at, Kind::Gossip(Some(member)), text);
    }

    fn share(&mut self, share: u64) -> bool {
        share > 0 && self.random.below(1_000_000) < share
    }

    fn milliseconds(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.random.below(most))
    }

    fn send(&mut self, from: usize, to: usize, bytes: Bytes) {
        self.newest = bytes.clone();
        let packet = Happening::Input(
            to,
            Input::Packet {
                from: address(from),
                bytes,
            },
        );
        if self.share(self.links.replay_share) {
            let at = self.now + self.milliseconds(REPLAY_MS);
            self.schedule(at, packet.clone());
        }
        if self.share(self.links.loss_share) || self.is_cut(from, to) {
            return;
        }
        if self.share(self.links.duplicate_share) {
            let at = self.now + self.travels(from, to);
            self.schedule(at, packet.clone());
        }
        let at = self.now + self.travels(from, to);
        self.schedule(at, packet);
    }

    fn travels(&mut self, from: usize, to: usize) -> Duration {
        let jitter = self.links.jitter.as_micros() as u64;
        let mut time = self.links.delay + Duration::from_micros(self.random.below(jitter));
        if self.share(self.links.tail_share) {
            time += self.links.tail;
        }
        for end in [from, to] {
            let (until, by) = self.processes[end].slow;
            if self.now < until {
                time += by;
            }
        }
        time
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        let cuts =
            |cut: &Cut| self.now < cut.until && cut.from & 1 << from != 0 && cut.to & 1 << to != 0;
        self.cuts.iter().any(cuts)
    }

    /// Whether a stream carries something: it needs both ways.
    fn is_carried(&mut self, from: usize, to: usize) -> bool {
        !self.is_cut(from, to) && !self.is_cut(to, from) && !self.share(self.links.break_share)
    }

    fn strike(&mut self, number: usize) {
        let fault = self.plan.faults[number].1.clone();
        *self.struck.entry(fault.family()).or_default() += 1;
        let at = self.elapsed();
        let told = || format!("{fault:?}");
        self.trace.line(at, Kind::Gossip(None), told);
        match fault {
            Fault::Kill { member, down } => self.end(member, down),
            Fault::Leave { member, away } => {
                let truth = &mut self.checks.truths[member];
                let process = &mut self.processes[member];
                // Who stands still is not told.
                if truth.fate != Fate::Up || process.stands_until.is_some() {
                    return;
                }
                truth.fate = Fate::Leaving;
                truth.left = Some((self.now, truth.start));
                process.returns = away.is_some();
                let life = (member, truth.start);
                if let Some(away) = away {
                    self.schedule(self.now + away, Happening::Start(life));
                }
                self.step(member, Input::Leave);
            }
            Fault::Pause { member, time } => {
                let process = &mut self.processes[member];
                if process.gossip.is_some() && process.stands_until.is_none() {
                    let until = self.now + time;
                    process.stands_until = Some(until);
                    let life = (member, self.checks.truths[member].start);
                    self.schedule(until, Happening::Wake(life));
                }
            }
            Fault::Slow { member, by, time } => {
                self.processes[member].slow = (self.now + time, by);
            }
            Fault::Cut {
                from,
                to,
                is_both_ways,
                time,
            } => {
                let until = self.now + time;
                self.cuts.push(Cut { from, to, until });
                if is_both_ways {
                    let (from, to) = (to, from);
                    self.cuts.push(Cut { from, to, until });
                }
            }
            Fault::Facts { member } => {
                let process = &mut self.processes[member];
                if process.gossip.is_some() {
                    process.facts.load_thousandths += 1;
                    let facts = process.facts.clone();
                    self.happen(Happening::Input(member, Input::Facts(facts)));
                }
            }
            Fault::SetWall { member, by } => {
                let process = &mut self.processes[member];
                process.ahead += by;
                let truth = &mut self.checks.truths[member];
                truth.ahead.0 = truth.ahead.0.min(process.ahead);
                truth.ahead.1 = truth.ahead.1.max(process.ahead);
            }
            Fault::Rotate => {
                self.step += 1;
                for member in 0..self.plan.members {
                    let keys = Input::Keys(self.keys[self.step].clone());
                    let at = self.now + self.milliseconds(KEYS_SPREAD_MS);
                    self.schedule(at, Happening::Input(member, keys));
                }
            }
            Fault::Stranger { member } => self.disturb(member),
        }
    }

    /// A process dies, and is started again after so long, if ever.
    fn end(&mut self, member: usize, down: Option<Duration>) {
        let process = &mut self.processes[member];
        if process.gossip.take().is_none() {
            return;
        }
        process.returns = down.is_some();
        self.checks.truths[member].fate = Fate::Down;
        let life = (member, self.checks.truths[member].start);
        // Streams break with the process that held them; what waits in its socket is gone.
        for lost in std::mem::take(&mut self.processes[member].backlog) {
            if let Happening::Asked(_, asker, exchange, _) = lost {
                let answer = None;
                let done = Input::ExchangeDone { exchange, answer };
                self.schedule(self.now, Happening::Of(asker, done));
            }
        }
        self.processes[member].stands_until = None;
        if let Some(down) = down {
            self.schedule(self.now + down, Happening::Start(life));
        }
    }

    fn start(&mut self, (member, _): Life) {
        // Who is still saying goodbye is cut short.
        self.end(member, Some(Duration::ZERO));
        self.checks.started(member, self.now);
        let startup = self.startup(member, self.checks.truths[member].start);
        let process = &mut self.processes[member];
        process.gossip = Some(Gossip::new(startup, self.now));
        process.deadline = None;
        process.returns = true;
        self.tell(member, || "starts".to_owned());
        // As in the server: all that the log names.
        let others = (0..self.plan.members).filter(|other| *other != member);
        let others = others.map(address).collect();
        self.step(member, Input::Join(others));
    }

    fn startup(&mut self, member: usize, start: u32) -> Startup {
        Startup {
            config: self.plan.config.clone(),
            cluster: ClusterId(1),
            node: NodeId(member as u64 + 1),
            name: format!("n{}", member + 1),
            address: address(member),
            start,
            process: self.random.next_u64(),
            facts: self.processes[member].facts.clone(),
            keys: self.keys[self.step].clone(),
            seed: self.random.next_u64(),
        }
    }

    /// A process goes on, and finds its timers and what came meanwhile.
    fn wake(&mut self, (member, start): Life) {
        let process = &mut self.processes[member];
        if process.stands_until.take().is_none() {
            return;
        }
        let mut backlog = std::mem::take(&mut process.backlog);
        let timers_first = self.random.below(2) == 0;
        backlog.sort_by_key(|each| matches!(each, Happening::Deadline(_)) != timers_first);
        for each in backlog {
            if self.checks.truths[member].start == start && self.violation.is_none() {
                match each {
                    Happening::Deadline(_) => {
                        self.processes[member].deadline = None;
                        self.step(member, Input::Deadline);
                    }
                    other => self.take(member, other),
                }
            }
        }
    }

    /// What members of another cluster, and of this one under a key of their own, have to say.
    fn strangers(&mut self) -> Vec<Bytes> {
        let mut said = Vec::new();
        for (cluster, key) in [(2, None), (1, Some(Key::new([9; 32])))] {
            let startup = Startup {
                cluster: ClusterId(cluster),
                keys: key.map_or_else(|| self.keys[0].clone(), |key| Keys(vec![key])),
                ..self.startup(0, 1_000)
            };
            let mut stranger = Gossip::new(startup, BEGAN);
            let mut out = Vec::new();
            let join = Input::Join(vec![address(1)]);
            stranger.step(BEGAN, WallTime::default(), join, &mut out);
            said.extend(out.into_iter().filter_map(|output| match output {
                Output::Exchange { bytes, .. } => Some(Bytes::from(bytes)),
                _ => None,
            }));
        }
        said
    }

    fn disturb(&mut self, member: usize) {
        let bytes = match self.random.below(4) {
            0 => {
                let length = self.random.below(200);
                (0..length).map(|_| self.random.next_u64() as u8).collect()
            }
            1 if !self.newest.is_empty() => {
                let mut damaged = self.newest.to_vec();
                let at = self.random.below(damaged.len() as u64) as usize;
                damaged[at] ^= 1 << self.random.below(8);
                Bytes::from(damaged)
            }
            _ => {
                let which = self.random.below(self.strange.len() as u64) as usize;
                self.strange[which].clone()
            }
        };
        // It may put any address on a packet.
        let from = self.random.below(self.plan.members as u64) as usize;
        let from = address(from);
        self.happen(Happening::Input(member, Input::Packet { from, bytes }));
    }
}
