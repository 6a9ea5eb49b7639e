//! Several hosts of one engine with a network and disks between and below them, in simulated time.
//!
//! Messages take a random time, so that they overtake each other; links can be cut in one
//! direction; disks take their time, hang, or are slow; processes die and come back with what was
//! durable. Whatever any replica executes is compared with what the others executed at that slot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{Instant, NodeId, Random, Slot};
use bytes::Bytes;
use quorate_consensus::{
    Config, Engine, EngineKind, Entry, Input, Limits, Member, Membership, Message, Output, Payload,
    QuorumRule, Refusal, Role, Ticket,
};

use super::{Disk, Host};

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);

enum Event {
    Message(NodeId, NodeId, Message),
    /// The oldest write or task of this incarnation of a host is done.
    Worked(NodeId, u64),
}

/// See the head of this file.
pub(crate) struct Network {
    kind: EngineKind,
    genesis: Membership,
    pub(crate) limits: Limits,
    pub(crate) now: Instant,
    pub(crate) hosts: BTreeMap<NodeId, Host>,
    pub(crate) down: BTreeMap<NodeId, Disk>,
    /// Messages from the first to the second are lost.
    pub(crate) blocked: BTreeSet<(NodeId, NodeId)>,
    /// Their disks do nothing.
    pub(crate) hanging: BTreeSet<NodeId>,
    /// A disk makes everything durable at once that was given before it began, as a journal does;
    /// otherwise one write after the other.
    pub(crate) syncs_together: bool,
    /// How many writes a disk is at work on.
    begun: BTreeMap<NodeId, usize>,
    /// What their disks take for one write, instead of the usual.
    pub(crate) slow: BTreeMap<NodeId, Duration>,
    pub(crate) loss: f64,
    pub(crate) doubling: f64,
    /// Messages take between 0.1 ms and this.
    pub(crate) delay_max: Duration,
    pub(crate) random: Random,
    events: BTreeMap<(Instant, u64), Event>,
    working: BTreeSet<NodeId>,
    incarnations: BTreeMap<NodeId, u64>,
    sequence: u64,
    /// What was executed, whoever did.
    pub(crate) chosen: BTreeMap<Slot, Entry>,
    /// Reads that wait, with what was chosen when they were asked.
    pub(crate) reads: BTreeMap<Ticket, Slot>,
    pub(crate) ready: BTreeMap<Ticket, Slot>,
    pub(crate) refused: BTreeMap<Ticket, Refusal>,
    pub(crate) done: BTreeSet<Ticket>,
    /// How many messages were sent on each link, whether they arrived or not.
    pub(crate) sent: BTreeMap<(NodeId, NodeId), u64>,
    /// Everything said but messages and writes, in order.
    pub(crate) said: Vec<(Instant, NodeId, Output)>,
}

pub(crate) fn member(id: u64) -> Member {
    Member {
        name: format!("n{id}"),
        peer_address: String::new(),
    }
}

impl Network {
    /// `size` replicas of a new group, called from 1 on.
    pub(crate) fn start(kind: EngineKind, size: u64, seed: u64) -> Network {
        let limits = Limits {
            pull_bytes: 1 << 20,
            ..Limits::default()
        };
        Network::start_within(kind, size, seed, limits)
    }

    /// The same with these limits.
    pub(crate) fn start_within(kind: EngineKind, size: u64, seed: u64, limits: Limits) -> Network {
        Network::start_counting(kind, size, seed, limits, QuorumRule::default())
    }

    /// The same with quorums of these sizes.
    pub(crate) fn start_counting(
        kind: EngineKind,
        size: u64,
        seed: u64,
        limits: Limits,
        quorums: QuorumRule,
    ) -> Network {
        Network::start_witnessed(kind, size, seed, limits, quorums, &[])
    }

    /// The same where these keep headers instead of entries.
    pub(crate) fn start_witnessed(
        kind: EngineKind,
        size: u64,
        seed: u64,
        limits: Limits,
        quorums: QuorumRule,
        witnesses: &[NodeId],
    ) -> Network {
        let members: BTreeMap<NodeId, Member> =
            (1..=size).map(|id| (NodeId(id), member(id))).collect();
        let genesis = Membership {
            voters: members.keys().copied().collect(),
            members,
            quorums,
            witnesses: witnesses.iter().copied().collect(),
            ..Membership::default()
        };
        let mut network = Network {
            kind,
            genesis: genesis.clone(),
            limits,
            now: Instant(1_000_000_000),
            hosts: BTreeMap::new(),
            down: BTreeMap::new(),
            blocked: BTreeSet::new(),
            hanging: BTreeSet::new(),
            syncs_together: false,
            begun: BTreeMap::new(),
            slow: BTreeMap::new(),
            loss: 0.0,
            doubling: 0.0,
            delay_max: MILLISECOND * 2,
            random: Random::from_seed(seed),
            events: BTreeMap::new(),
            working: BTreeSet::new(),
            incarnations: BTreeMap::new(),
            sequence: 0,
            chosen: BTreeMap::new(),
            reads: BTreeMap::new(),
            ready: BTreeMap::new(),
            refused: BTreeMap::new(),
            done: BTreeSet::new(),
            sent: BTreeMap::new(),
            said: Vec::new(),
        };
        for id in genesis.members.keys() {
            let disk = Disk {
                genesis: genesis.clone(),
                ..Disk::default()
            };
            network.boot(*id, disk);
        }
        network
    }

    /// A process starts with what its disk holds.
    pub(crate) fn boot(&mut self, id: NodeId, disk: Disk) {
        let config = Config {
            id,
            election_timeout: ELECTION_TIMEOUT,
            heartbeat_interval: HEARTBEAT_INTERVAL,
            limits: self.limits,
        };
        *self.incarnations.entry(id).or_default() += 1;
        let seed = self.random.next_u64();
        let mut host = Host::start(self.kind, config, disk, seed, self.now);
        host.filler = 100;
        self.hosts.insert(id, host);
        self.working.remove(&id);
        self.settle(id);
    }

    /// A process dies; some of the records under way reach its disk.
    pub(crate) fn crash(&mut self, id: NodeId) {
        let survives = self.random.below(4) as usize;
        if let Some(host) = self.hosts.remove(&id) {
            self.down.insert(id, host.crash(survives));
        }
    }

    /// It comes back.
    pub(crate) fn restart(&mut self, id: NodeId) {
        let disk = self.down.remove(&id).expect("it is down");
        self.boot(id, disk);
    }

    fn schedule(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    /// Gives a host something, if it is up.
    pub(crate) fn give(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        if let Some(host) = self.hosts.get_mut(&id) {
            host.step(now, input);
            self.settle(id);
        }
    }

    fn settle(&mut self, id: NodeId) {
        let now = self.now;
        let host = self.hosts.get_mut(&id).expect("it is up");
        host.flush(now);
        let outgoing = std::mem::take(&mut host.outgoing);
        let said = std::mem::take(&mut host.said);
        for (to, message) in outgoing {
            self.send(id, to, &message);
        }
        for output in said {
            self.hear(id, output);
        }
        self.work(id);
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: &Message) {
        *self.sent.entry((from, to)).or_default() += 1;
        let copies = 1 + u32::from(self.random.chance(self.doubling));
        for _ in 0..copies {
            if self.blocked.contains(&(from, to)) || self.random.chance(self.loss) {
                continue;
            }
            let most = u64::try_from(self.delay_max.as_micros()).expect("short");
            let delay = Duration::from_micros(100 + self.random.below(most));
            self.schedule(delay, Event::Message(from, to, message.clone()));
        }
    }

    /// Lets the disk begin what is to be done, unless it works or hangs.
    pub(crate) fn work(&mut self, id: NodeId) {
        let Some(host) = self.hosts.get(&id) else {
            return;
        };
        let idle = host.writes.is_empty() && host.tasks.is_empty();
        if idle || self.hanging.contains(&id) || !self.working.insert(id) {
            return;
        }
        let usual = Duration::from_micros(200 + self.random.below(2_000));
        let delay = self.slow.get(&id).copied().unwrap_or(usual);
        let incarnation = self.incarnations[&id];
        let count = if self.syncs_together {
            host.writes.len()
        } else {
            1
        };
        self.begun.insert(id, count);
        self.schedule(delay, Event::Worked(id, incarnation));
    }

    fn worked(&mut self, id: NodeId, incarnation: u64) {
        if self.incarnations[&id] != incarnation || !self.hosts.contains_key(&id) {
            return;
        }
        self.working.remove(&id);
        if self.hanging.contains(&id) {
            return;
        }
        let now = self.now;
        let host = self.hosts.get_mut(&id).expect("it is up");
        if host.writes.is_empty() || (!host.tasks.is_empty() && self.random.chance(0.5)) {
            host.complete_task(now);
        } else {
            for _ in 0..self.begun[&id].max(1) {
                host.complete_write(now);
            }
        }
        self.settle(id);
    }

    fn hear(&mut self, id: NodeId, output: Output) {
        match &output {
            Output::Send { .. } | Output::Write { .. } => return,
            Output::Chosen { entries } => {
                for entry in entries {
                    let known = self.chosen.entry(entry.slot).or_insert(entry.clone());
                    check_same(known, entry);
                }
            }
            Output::ReadReady { ticket, slot } => {
                let asked = self.reads.remove(ticket).expect("a read is answered once");
                assert!(*slot >= asked, "a read at {slot} missed {asked}");
                self.ready.insert(*ticket, *slot);
            }
            Output::Refuse { ticket, reason, .. } => {
                self.reads.remove(ticket);
                self.refused.insert(*ticket, reason.clone());
            }
            Output::Done { ticket } => {
                self.done.insert(*ticket);
            }
            _ => {}
        }
        self.said.push((self.now, id, output));
    }

    /// Lets time pass until `is_done`, or until so much has; returns whether it was done.
    pub(crate) fn run_until(
        &mut self,
        duration: Duration,
        is_done: impl Fn(&Network) -> bool,
    ) -> bool {
        let until = self.now + duration;
        while !is_done(self) {
            let event = self.events.first_key_value().map(|(key, _)| key.0);
            let deadlines = self.hosts.iter().filter_map(|(id, host)| {
                let deadline = host.engine.deadline()?;
                Some((deadline.max(self.now), *id))
            });
            let deadline = deadlines.min();
            let moments = [event, deadline.map(|(at, _)| at)];
            let next = moments.into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else {
                self.now = until;
                return is_done(self);
            };
            self.now = self.now.max(next);
            if event == Some(next) {
                match self.events.pop_first().expect("there is one").1 {
                    Event::Message(from, to, message) => {
                        self.give(to, Input::Peer { from, message });
                    }
                    Event::Worked(id, incarnation) => self.worked(id, incarnation),
                }
            } else if let Some((_, id)) = deadline {
                self.give(id, Input::Deadline);
            }
        }
        true
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.hosts.keys().copied().collect()
    }

    /// Who leads the latest epoch that anybody leads.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leading = self.hosts.iter().filter_map(|(id, host)| {
            let glance = host.engine.glance();
            (glance.role == Role::Leader).then_some((glance.epoch, *id))
        });
        leading.max().map(|(_, id)| id)
    }

    /// Waits for a leader.
    pub(crate) fn elect(&mut self) -> NodeId {
        let elected = self.run_until(ELECTION_TIMEOUT * 8, |network| network.leader().is_some());
        assert!(elected, "somebody leads after eight election timeouts");
        self.leader().expect("it was seen")
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.sequence += 1;
        Ticket(self.sequence)
    }

    /// Proposes something unmistakable.
    pub(crate) fn propose(&mut self, id: NodeId) -> Ticket {
        let ticket = self.ticket();
        let commands = Bytes::copy_from_slice(&ticket.0.to_le_bytes());
        self.give(id, Input::Propose { ticket, commands });
        ticket
    }

    /// Asks for a read.
    pub(crate) fn read(&mut self, id: NodeId) -> Ticket {
        let ticket = self.ticket();
        let chosen = self.chosen.last_key_value().map_or(Slot(0), |last| *last.0);
        self.reads.insert(ticket, chosen);
        self.give(id, Input::ReadRound { ticket });
        ticket
    }

    /// Whether somebody executed a proposal.
    pub(crate) fn is_chosen(&self, ticket: Ticket) -> bool {
        self.chosen
            .values()
            .rev()
            .any(|entry| carries(entry, ticket))
    }

    /// Proposes to the leader and waits until everybody who is up has executed it.
    pub(crate) fn commit_everywhere(&mut self, patience: Duration) {
        let leader = self.elect();
        let ticket = self.propose(leader);
        let done = self.run_until(patience, |network| {
            let entry = network
                .chosen
                .values()
                .rev()
                .find(|entry| carries(entry, ticket));
            let members = &network.hosts[&leader].engine.membership().members;
            entry.is_some_and(|entry| {
                let hosts = network
                    .hosts
                    .iter()
                    .filter(|(id, _)| members.contains_key(id));
                hosts
                    .into_iter()
                    .all(|(_, host)| host.replica.applied >= entry.slot)
            })
        });
        assert!(done, "what the leader is given is executed everywhere");
    }

    /// Messages between these are lost, both ways.
    pub(crate) fn cut(&mut self, a: NodeId, b: NodeId) {
        self.blocked.extend([(a, b), (b, a)]);
    }

    /// All who execute agree, and none has executed less than was chosen.
    pub(crate) fn assert_agreement(&self) {
        let last = self.chosen.last_key_value().map_or(Slot(0), |last| *last.0);
        let replicas = self.hosts.values().filter(|host| !host.is_witness());
        let replicas: Vec<_> = replicas.map(|host| &host.replica).collect();
        for replica in &replicas {
            assert_eq!(replica.applied, last, "everybody has executed everything");
            assert_eq!(replica.digest, replicas[0].digest, "with the same result");
        }
        for host in self.hosts.values().filter(|host| host.is_witness()) {
            assert_eq!(host.replica.applied, last, "and a witness knows of it");
            let entries = host.disk.entries.values();
            let is_short = |entry: &Entry| !matches!(entry.payload, Payload::Commands(_));
            assert!(entries.into_iter().all(is_short), "and has none of it");
        }
    }
}

/// Replicas execute the same, as far as a witness can tell; keeps what says more.
pub(crate) fn check_same(known: &mut Entry, entry: &Entry) {
    if known.is_header() && known.epoch == entry.epoch {
        known.clone_from(entry);
    }
    let is_same = match entry.is_header() {
        true => known.header() == *entry,
        false => known == entry,
    };
    assert!(is_same, "replicas execute the same: {known:?}, {entry:?}");
}

/// Whether an entry is what [`Network::propose`] proposed under this ticket.
pub(crate) fn carries(entry: &Entry, ticket: Ticket) -> bool {
    match &entry.payload {
        Payload::Commands(commands) => commands[..] == ticket.0.to_le_bytes(),
        _ => false,
    }
}
