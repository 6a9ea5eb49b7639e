//! Clusters under a random scheduler: messages are lost, doubled, delayed and reordered, nodes die
//! and come back without what was not durable, disks stall, networks split, members come and go,
//! the log is compacted under everybody's feet. What must hold, holds at every step; and once the
//! faults end, everybody agrees again in bounded time.
//!
//! Everything follows from the seed. A failure prints it; this shows all that was said:
//! ```text
//! RANDOM_CLUSTER_SEED=N cargo test -p quorate-consensus --test random_cluster -- --nocapture
//! ```

// A test fails by panicking, and tells what led to it.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "random_cluster/checks.rs"]
mod checks;
mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{Epoch, Instant, NodeId, Random, Slot};
use bytes::Bytes;
use cluster::network::check_same;
use cluster::{Disk, Host, one_by_one};
use quorate_consensus::message::{Body, PaxosBody};
use quorate_consensus::{
    Change, Config, Engine, EngineKind, Entry, Input, Limits, Liveness, Member, Membership,
    Message, Note, Output, Payload, QuorumRule, QuorumSizes, Record, Role, Slots, Tail, Ticket,
};

const MILLISECOND: Duration = Duration::from_millis(1);

struct Packet {
    from: NodeId,
    to: NodeId,
    message: Message,
}

/// What must hold, whoever says what.
#[derive(Default)]
struct Oracle {
    leaders: BTreeMap<Epoch, NodeId>,
    /// Each entry ever written, by slot and epoch, and each header, with the epoch before it.
    written: BTreeMap<(Slot, Epoch, bool), (Payload, Epoch)>,
    chosen: BTreeMap<Slot, Entry>,
    /// What was chosen when a read was asked, and where it was asked.
    reads: BTreeMap<Ticket, (Slot, NodeId)>,
    reads_answered: u64,
}

struct World {
    kind: EngineKind,
    random: Random,
    now: Instant,
    hosts: BTreeMap<NodeId, Host>,
    down: BTreeMap<NodeId, Disk>,
    packets: BTreeMap<(Instant, u64), Packet>,
    /// When the oldest write or task of a host is done.
    busy_until: BTreeMap<NodeId, Instant>,
    blocked: BTreeSet<(NodeId, NodeId)>,
    oracle: Oracle,
    sequence: u64,
    next_id: u64,
    faults: bool,
    /// Disks are damaged in this run, and therefore voters are not removed: two voters of which
    /// one is unsure of its log cannot elect anybody, and should not.
    damages: bool,
    loss: f64,
    doubling: f64,
    delay_max: u64,
    steps: u64,
    trace: bool,
}

impl World {
    fn new(kind: EngineKind, seed: u64) -> World {
        let mut random = Random::from_seed(seed);
        let size = [1, 3, 3, 3, 5][random.below(5) as usize];
        let members: BTreeMap<NodeId, Member> = (1..=size)
            .map(|id| (NodeId(id), World::member(id)))
            .collect();
        let voters = members.keys().copied().collect();
        let genesis = Membership {
            members,
            voters,
            ..Membership::default()
        };
        let damages = size >= 3 && random.chance(0.5);
        let mut genesis = genesis;
        genesis.quorums = World::quorums(size, damages, seed);
        World::call_a_witness(&mut genesis, damages, seed);
        let mut world = World {
            kind,
            loss: [0.0, 0.02, 0.2][random.below(3) as usize],
            doubling: [0.0, 0.1][random.below(2) as usize],
            delay_max: [1, 5, 60][random.below(3) as usize],
            random,
            now: Instant(1_000_000_000),
            hosts: BTreeMap::new(),
            down: BTreeMap::new(),
            packets: BTreeMap::new(),
            busy_until: BTreeMap::new(),
            blocked: BTreeSet::new(),
            oracle: Oracle::default(),
            sequence: 0,
            next_id: size + 1,
            faults: true,
            damages,
            steps: 0,
            trace: false,
        };
        for id in 1..=size {
            let disk = Disk {
                genesis: genesis.clone(),
                ..Disk::default()
            };
            world.start(NodeId(id), disk);
        }
        world
    }

    /// Sizes of quorums, half of the time other than majorities. Who has lost something neither
    /// votes nor tells of what it lost: one voter must be dispensable then, for both.
    fn quorums(size: u64, damages: bool, seed: u64) -> QuorumRule {
        let mut random = Random::from_seed(!seed);
        let sizes: &[(usize, usize)] = match (size, damages) {
            (3, false) => &[(3, 1), (3, 2), (2, 3)],
            (5, false) => &[(4, 2), (5, 1), (3, 4), (4, 3)],
            (5, true) => &[(4, 2), (3, 4), (4, 3)],
            _ => return QuorumRule::default(),
        };
        let (elect, commit) = sizes[random.below(sizes.len() as u64) as usize];
        match random.chance(0.5) {
            true => QuorumRule::new(size as usize, QuorumSizes { elect, commit }).unwrap(),
            false => QuorumRule::default(),
        }
    }

    /// In a third of the groups somebody keeps headers only; in half of these one copy is enough,
    /// if disks keep what they have.
    fn call_a_witness(genesis: &mut Membership, damages: bool, seed: u64) {
        let mut random = Random::from_seed(seed ^ 0x717);
        let last = genesis.members.last_key_value().map(|(id, _)| *id);
        let Some(last) = last.filter(|id| id.0 >= 3 && random.chance(0.35)) else {
            return;
        };
        genesis.witnesses.insert(last);
        if !damages && random.chance(0.5) {
            genesis.quorums = genesis.quorums.with_copies(1).unwrap();
        }
    }

    fn member(id: u64) -> Member {
        Member {
            name: format!("n{id}"),
            peer_address: format!("h{id}:1"),
        }
    }

    fn start(&mut self, id: NodeId, disk: Disk) {
        self.tell(
            id,
            &(
                "starts",
                disk.tail,
                disk.hard_state,
                disk.start,
                disk.last(),
            ),
        );
        let config = Config {
            id,
            election_timeout: MILLISECOND * 500,
            heartbeat_interval: MILLISECOND * 100,
            limits: Limits {
                cache_bytes: 100,
                window_bytes: 4000,
                window_entries: 50,
                write_bytes: 200,
                append_bytes: 150,
                pull_bytes: 60,
                inflight_bytes: 400,
                inflight_messages: 5,
                repeat_after: MILLISECOND,
                repeat_bytes: 60,
                delivery_bytes: 200,
                fetch_bytes: 120,
                piece_bytes: 40,
                pieces_in_flight: 2,
                waiting_reads: 100,
                promotion_lag_slots: 10,
                members: 12,
                member_text_bytes: 50,
            },
        };
        let mut host = Host::start(self.kind, config, disk, self.random.next_u64(), self.now);
        host.filler = 100;
        self.hosts.insert(id, host);
        self.busy_until.remove(&id);
        self.after(id, true);
    }

    /// A host was given something: maybe it flushes now, then what it said is looked at.
    fn after(&mut self, id: NodeId, flush: bool) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&id) else {
            return;
        };
        if flush {
            host.flush(now);
        }
        let said = std::mem::take(&mut host.said);
        for output in &said {
            self.check(id, output);
        }
        let host = self.hosts.get_mut(&id).unwrap();
        for (to, message) in std::mem::take(&mut host.outgoing) {
            self.check_sent(id, &message);
            self.send(id, to, message);
        }
        let host = &self.hosts[&id];
        let is_busy = self.busy_until.contains_key(&id);
        if !is_busy && (!host.writes.is_empty() || !host.tasks.is_empty()) {
            let delay = if self.faults && self.random.chance(0.005) {
                MILLISECOND * 2000
            } else {
                Duration::from_micros(100 + self.random.below(8_000))
            };
            self.busy_until.insert(id, now + delay);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if self.faults && self.random.chance(self.loss) {
            return;
        }
        let copies = if self.faults && self.random.chance(self.doubling) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = Duration::from_micros(100 + self.random.below(self.delay_max * 1000));
            // A few messages are very late.
            let late = self.faults && self.random.chance(0.01);
            let delay = if late {
                delay + MILLISECOND * 1500
            } else {
                delay
            };
            self.sequence += 1;
            let packet = Packet {
                from,
                to,
                message: message.clone(),
            };
            self.packets
                .insert((self.now + delay, self.sequence), packet);
        }
    }

    fn tell(&self, id: NodeId, what: &dyn std::fmt::Debug) {
        if self.trace {
            println!("{} {}: {what:?}", self.now.0 / 1000, id.0);
        }
    }

    fn leader(&self) -> Option<NodeId> {
        let leads = |(_, host): &(&NodeId, &Host)| host.engine.view().role == Role::Leader;
        let of_epoch = |(_, host): &(&NodeId, &Host)| host.engine.hard_state().epoch;
        self.hosts
            .iter()
            .filter(leads)
            .max_by_key(of_epoch)
            .map(|(id, _)| *id)
    }

    fn any_host(&mut self) -> Option<NodeId> {
        if self.hosts.is_empty() {
            return None;
        }
        let index = self.random.below(self.hosts.len() as u64) as usize;
        self.hosts.keys().nth(index).copied()
    }

    /// Lets the next thing happen; returns false when `until` is reached.
    fn advance(&mut self, until: Instant) -> bool {
        let packet = self.packets.first_key_value().map(|(key, _)| key.0);
        let disk = self.busy_until.iter().map(|(id, at)| (*at, *id)).min();
        let deadline = self
            .hosts
            .iter()
            .filter_map(|(id, host)| host.engine.deadline().map(|deadline| (deadline, *id)));
        let deadline = deadline.min();
        let times = [
            packet,
            disk.map(|disk| disk.0),
            deadline.map(|deadline| deadline.0),
        ];
        let Some(at) = times.into_iter().flatten().min().filter(|at| *at < until) else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(at);
        self.steps += 1;
        // Not every input is followed by a flush of its own. But who answers nothing, because it
        // was not flushed between five heartbeats, is not healthy: one of a quorum of all would
        // cost its leader the leadership.
        let flush = self.random.chance(0.8) || !self.faults;
        if packet == Some(at) {
            let ((_, _), Packet { from, to, message }) = self.packets.pop_first().unwrap();
            let blocked = self.blocked.contains(&(from, to));
            if let Some(host) = self.hosts.get_mut(&to).filter(|_| !blocked) {
                host.step(self.now, Input::Peer { from, message });
                self.after(to, flush);
            }
        } else if let Some((_, id)) = disk.filter(|disk| disk.0 == at) {
            self.busy_until.remove(&id);
            let host = self.hosts.get_mut(&id).unwrap();
            let now = self.now;
            if !host.writes.is_empty() && (host.tasks.is_empty() || self.random.chance(0.5)) {
                host.complete_write(now);
            } else {
                host.complete_task(now);
            }
            self.after(id, flush);
        } else if let Some((_, id)) = deadline {
            self.hosts
                .get_mut(&id)
                .unwrap()
                .step(self.now, Input::Deadline);
            self.after(id, true);
        }
        true
    }

    fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.advance(until) {
            assert!(self.steps < 2_000_000, "no progress: too many steps");
        }
        let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
        for id in ids {
            self.after(id, true);
        }
    }

    fn give(&mut self, id: NodeId, input: Input) {
        let flush = self.random.chance(0.5);
        if let Some(host) = self.hosts.get_mut(&id) {
            host.step(self.now, input);
            self.after(id, flush);
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.sequence += 1;
        Ticket(self.sequence)
    }

    fn propose(&mut self, id: NodeId) -> Ticket {
        let ticket = self.ticket();
        let mut commands = ticket.0.to_le_bytes().to_vec();
        commands.resize(8 + self.random.below(40) as usize, 0);
        self.give(
            id,
            Input::Propose {
                ticket,
                commands: Bytes::from(commands),
            },
        );
        ticket
    }

    fn read(&mut self, id: NodeId) {
        let ticket = self.ticket();
        let chosen = self
            .oracle
            .chosen
            .last_key_value()
            .map_or(Slot(0), |(slot, _)| *slot);
        self.oracle.reads.insert(ticket, (chosen, id));
        self.give(id, Input::ReadRound { ticket });
    }

    fn act(&mut self) {
        let Some(id) = self.any_host() else {
            return self.restart_one();
        };
        let leader = self.leader().unwrap_or(id);
        match self.random.below(100) {
            0..45 => {
                for _ in 0..=self.random.below(4) {
                    self.propose(leader);
                }
            }
            45..50 => {
                self.propose(id);
            }
            50..65 => self.read(id),
            65..70 => self.read(leader),
            70..76 => self.crash(id),
            76..82 => self.restart_one(),
            82..85 => self.split(),
            85..88 => self.blocked.clear(),
            88..92 => self.checkpoint(id),
            92..94 => {
                let ticket = self.ticket();
                self.give(leader, Input::Transfer { ticket, to: None });
            }
            94..96 => self.close_connections(id),
            _ => self.reconfigure(leader),
        }
    }

    fn crash(&mut self, id: NodeId) {
        self.tell(id, &"crashes");
        let uncertain = |host: &Host| host.engine.hard_state().uncertain;
        let damaged = self.hosts.values().any(uncertain)
            || self
                .down
                .values()
                .any(|disk| disk.hard_state.uncertain || disk.tail == Tail::Uncertain);
        let host = self.hosts.remove(&id).unwrap();
        self.oracle.reads.retain(|_, (_, asker)| *asker != id);
        self.busy_until.remove(&id);
        let survives = self.random.below(6) as usize;
        let mut disk = host.crash(survives);
        if self.damages && !damaged && self.random.chance(0.15) {
            // Damage: durable entries are gone, and the journal knows that.
            let lost = self.random.below(5);
            for _ in 0..lost {
                disk.entries.pop_last();
            }
            disk.tail = Tail::Uncertain;
        }
        self.down.insert(id, disk);
        if self.random.chance(0.5) {
            self.close_connections(id);
        }
    }

    /// Everyone hears that the connection to `peer` was closed.
    fn close_connections(&mut self, peer: NodeId) {
        let ids: Vec<NodeId> = self
            .hosts
            .keys()
            .copied()
            .filter(|id| *id != peer)
            .collect();
        for id in ids {
            self.give(
                id,
                Input::Hint {
                    peer,
                    liveness: Liveness::ConnectionClosed,
                },
            );
        }
    }

    fn restart_one(&mut self) {
        if let Some((id, disk)) = self.down.pop_first() {
            self.start(id, disk);
        }
    }

    fn split(&mut self) {
        let ids: Vec<NodeId> = self.hosts.keys().chain(self.down.keys()).copied().collect();
        let one_way = self.random.chance(0.3);
        for a in &ids {
            for b in &ids {
                if self.random.chance(0.3) {
                    self.blocked.insert((*a, *b));
                    if !one_way {
                        self.blocked.insert((*b, *a));
                    }
                }
            }
        }
    }

    fn checkpoint(&mut self, id: NodeId) {
        let kept = self.random.below(4);
        let now = self.now;
        self.hosts.get_mut(&id).unwrap().take_checkpoint(now, kept);
        self.after(id, true);
    }

    fn reconfigure(&mut self, leader: NodeId) {
        let Some(host) = self.hosts.get(&leader) else {
            return;
        };
        let membership = host.engine.membership().clone();
        let learners: Vec<NodeId> = membership
            .members
            .keys()
            .copied()
            .filter(|id| !membership.is_voter(*id))
            .collect();
        let ticket = self.ticket();
        let members: Vec<NodeId> = membership.members.keys().copied().collect();
        if members.is_empty() {
            return;
        }
        let change = match self.random.below(4) {
            0 if members.len() < 6 => {
                let id = NodeId(self.next_id);
                self.next_id += 1;
                self.start(id, Disk::default());
                let member = World::member(id.0);
                match membership.witnesses.is_empty() && id.0.is_multiple_of(4) {
                    true => Change::AddWitness { id, member },
                    false => Change::AddLearner { id, member },
                }
            }
            1 | 2 if !learners.is_empty() => Change::Promote(learners[0]),
            3 if !self.damages && (membership.voters.len() > 3 || self.random.chance(0.1)) => {
                let index = self.random.below(members.len() as u64) as usize;
                Change::Remove(members[index])
            }
            _ => Change::Update {
                id: leader,
                member: World::member(leader.0),
            },
        };
        self.give(leader, Input::Reconfigure { ticket, change });
    }

    /// The faults are over: everyone must agree in bounded time.
    fn heal(&mut self) {
        self.faults = false;
        self.blocked.clear();
        while !self.down.is_empty() {
            self.restart_one();
        }
        self.run(MILLISECOND * 6000);
        let mut done = None;
        for _ in 0..40 {
            let Some(leader) = self.leader() else {
                panic!(
                    "no leader after six seconds without faults:
{}",
                    self.describe()
                );
            };
            let ticket = self.propose(leader);
            self.read(leader);
            self.run(MILLISECOND * 500);
            let is_it = |entry: &Entry| match &entry.payload {
                Payload::Commands(commands) => commands[..8] == ticket.0.to_le_bytes(),
                _ => false,
            };
            let last = self.oracle.chosen.values().next_back();
            if self.oracle.chosen.values().rev().take(20).any(is_it) && self.agrees(leader) {
                done = last.map(|entry| entry.slot);
                break;
            }
        }
        assert!(done.is_some(), "no agreement:\n{}", self.describe());
        self.run(MILLISECOND * 2000);
        assert!(
            self.oracle.reads.is_empty(),
            "reads hang: {:?}",
            self.oracle.reads
        );
    }

    fn agrees(&self, leader: NodeId) -> bool {
        let of_leader = &self.hosts[&leader];
        let membership = of_leader.engine.membership();
        let agrees = |id: &NodeId| {
            let host = self.hosts.get(id);
            host.is_none_or(|host| match host.is_witness() {
                true => host.replica.applied == of_leader.replica.applied,
                false => host.replica == of_leader.replica,
            })
        };
        !membership.is_joint() && membership.members.keys().all(agrees)
    }

    fn describe(&self) -> String {
        let line = |(id, host): (&NodeId, &Host)| {
            let view = host.engine.view();
            format!(
                "{id}: {:?} epoch {} leader {:?} last {} durable {} chosen {} applied {} voters \
                 {:?} out {:?} {:?} {:?}",
                view.role,
                view.epoch,
                view.leader,
                view.last,
                view.durable,
                view.chosen,
                host.replica.applied,
                view.membership.voters,
                view.membership.outgoing,
                host.engine.hard_state(),
                view.progress
            )
        };
        self.hosts.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Runs one seed; returns chosen slots and answered reads, to see that something happened.
fn run(kind: EngineKind, seed: u64, trace: bool) -> (u64, u64) {
    let mut world = World::new(kind, seed);
    world.trace = trace;
    world.run(MILLISECOND * 1500);
    for _ in 0..150 {
        world.act();
        let pause = Duration::from_micros(world.random.below(40_000));
        world.run(pause);
    }
    world.heal();
    (
        world.oracle.chosen.len() as u64,
        world.oracle.reads_answered,
    )
}

#[allow(clippy::disallowed_methods)] // A developer names seeds by environment variables.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn raft_clusters_keep_their_promises() {
    keep_their_promises(EngineKind::Raft);
}

#[test]
fn paxos_clusters_keep_their_promises() {
    keep_their_promises(EngineKind::Paxos);
}

fn keep_their_promises(kind: EngineKind) {
    if let Some(seed) = setting("RANDOM_CLUSTER_SEED") {
        println!("{:?}", run(kind, seed, true));
        return;
    }
    let first = setting("RANDOM_CLUSTER_FIRST").unwrap_or(0);
    let count = setting("RANDOM_CLUSTER_COUNT").unwrap_or(200);
    let mut total = (0, 0);
    let mut failed = Vec::new();
    for seed in first..first + count {
        match std::panic::catch_unwind(|| run(kind, seed, false)) {
            Ok((chosen, reads)) => total = (total.0 + chosen, total.1 + reads),
            Err(_) => {
                eprintln!("^ seed {seed}");
                failed.push(seed);
                if failed.len() >= 10 {
                    break;
                }
            }
        }
    }
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
    println!("{total:?} slots chosen and reads answered");
    assert!(
        total.0 > count * 30 && total.1 > count * 3,
        "too little happened: {total:?}"
    );
}
