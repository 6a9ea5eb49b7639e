//! Networks that are neither whole nor split: what is demanded is *a leader that commits within
//! four election timeouts whenever some node reaches a quorum*, and goes on committing.
//!
//! ```text
//!   quorum loss (5)          constrained election (5)        chained (3)
//!     B   C* D                 B   C* D                        B* ─ A ─ C
//!      \  |  /                  \     /
//!       ` A '                    ` A '                       B and C do not reach
//!         |                        |                         each other
//!         E                        E
//!   all reach A alone,       C is gone, all reach A
//!   also the leader C        alone, whose log is behind
//! ```
//!
//! The shapes are those of the Omni-Paxos paper (EuroSys 2023, section 2); each also with links
//! that fail in one direction only. `CONNECTIVITY_SEEDS=1000` runs as many seeds of each.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod cluster;

use std::time::Duration;

use base::NodeId;
use cluster::network::{ELECTION_TIMEOUT, MILLISECOND, Network};
use quorate_consensus::{EngineKind, Ticket};

/// Which links fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// Both ways.
    Both,
    /// Messages to the node with the higher number arrive, those back do not.
    Up,
    /// The other way round.
    Down,
    /// Drawn for each link.
    Any,
}

const DIRECTIONS: [Direction; 4] = [
    Direction::Both,
    Direction::Up,
    Direction::Down,
    Direction::Any,
];

fn fail_link(network: &mut Network, a: NodeId, b: NodeId, direction: Direction) {
    let (low, high) = (a.min(b), a.max(b));
    let up = match direction {
        Direction::Both => return network.cut(a, b),
        Direction::Up => true,
        Direction::Down => false,
        Direction::Any => match network.random.below(3) {
            0 => return network.cut(a, b),
            way => way == 1,
        },
    };
    let lost = if up { (high, low) } else { (low, high) };
    network.blocked.insert(lost);
}

/// A settled group and its leader.
fn settled(kind: EngineKind, size: u64, seed: u64) -> (Network, NodeId) {
    let mut network = Network::start(kind, size, seed);
    let leader = network.elect();
    network.commit_everywhere(ELECTION_TIMEOUT);
    network.run(MILLISECOND * u32::try_from(seed % 100).unwrap());
    (network, leader)
}

/// Proposes to whoever leads, and returns how long it took until something of it was chosen.
fn time_to_commit(network: &mut Network, patience: Duration) -> Option<Duration> {
    let began = network.now;
    let mut proposed: Vec<Ticket> = Vec::new();
    while network.now.since(began) < patience {
        for id in network.ids() {
            proposed.push(network.propose(id));
        }
        proposed.retain(|ticket| !network.refused.contains_key(ticket));
        let step = MILLISECOND * 10;
        if network.run_until(step, |network| {
            proposed.iter().any(|ticket| network.is_chosen(*ticket))
        }) {
            return Some(network.now.since(began));
        }
    }
    None
}

/// What is demanded.
fn demand(network: &mut Network, shape: &str, seed: u64) -> Duration {
    let first = time_to_commit(network, ELECTION_TIMEOUT * 4);
    let first = first.unwrap_or_else(|| panic!("{shape}, seed {seed}: nobody commits in time"));
    for _ in 0..4 {
        network.run(ELECTION_TIMEOUT);
        let again = time_to_commit(network, ELECTION_TIMEOUT * 4);
        assert!(
            again.is_some(),
            "{shape}, seed {seed}: it does not go on committing"
        );
    }
    network.blocked.clear();
    network.commit_everywhere(ELECTION_TIMEOUT * 8);
    network.run(ELECTION_TIMEOUT * 2);
    network.assert_agreement();
    first
}

fn everyone_reaches_only(network: &mut Network, hub: NodeId, direction: Direction) {
    let ids = network.ids();
    for a in &ids {
        for b in ids.iter().filter(|b| *b > a) {
            if *a != hub && *b != hub {
                fail_link(network, *a, *b, direction);
            }
        }
    }
}

fn any_but(network: &mut Network, not: &[NodeId]) -> NodeId {
    let ids = network.ids();
    let others: Vec<NodeId> = ids.into_iter().filter(|id| !not.contains(id)).collect();
    others[network.random.below(others.len() as u64) as usize]
}

fn quorum_loss(kind: EngineKind, seed: u64, direction: Direction) -> Duration {
    let (mut network, leader) = settled(kind, 5, seed);
    let hub = any_but(&mut network, &[leader]);
    everyone_reaches_only(&mut network, hub, direction);
    demand(&mut network, "quorum loss", seed)
}

fn constrained(kind: EngineKind, seed: u64, direction: Direction) -> Duration {
    let (mut network, leader) = settled(kind, 5, seed);
    let hub = any_but(&mut network, &[leader]);
    // Entries are chosen that the hub does not get.
    network.blocked.insert((leader, hub));
    for _ in 0..=network.random.below(20) {
        network.propose(leader);
    }
    network.run(MILLISECOND * 50);
    // The old leader is gone.
    for id in network.ids().into_iter().filter(|id| *id != leader) {
        network.cut(leader, id);
    }
    everyone_reaches_only(&mut network, hub, direction);
    demand(&mut network, "constrained election", seed)
}

fn chained(kind: EngineKind, seed: u64, direction: Direction) -> Duration {
    let (mut network, leader) = settled(kind, 3, seed);
    let other = any_but(&mut network, &[leader]);
    fail_link(&mut network, leader, other, direction);
    demand(&mut network, "chained", seed)
}

#[allow(clippy::disallowed_methods)] // A developer asks for more seeds by the environment.
fn seeds(usual: u64) -> u64 {
    let asked = std::env::var("CONNECTIVITY_SEEDS").ok();
    asked.map_or(usual, |count| count.parse().unwrap())
}

fn run(name: &str, shape: impl Fn(u64, Direction) -> Duration) {
    for direction in DIRECTIONS {
        let times = (0..seeds(25)).map(|seed| shape(seed, direction));
        let mut times: Vec<Duration> = times.collect();
        times.sort();
        let percent = |percent: usize| times[(times.len() - 1) * percent / 100];
        println!(
            "{name}, {direction:?}: half within {:?}, 99 of 100 within {:?}, all within {:?}",
            percent(50),
            percent(99),
            percent(100)
        );
    }
}

/// Runs each of these for every engine.
macro_rules! for_every_engine {
    ($($test:ident)*) => {
        mod raft {
            $(#[test] fn $test() {
                let kind = quorate_consensus::EngineKind::Raft;
                super::run(stringify!($test), |seed, way| super::$test(kind, seed, way));
            })*
        }
        mod paxos {
            $(#[test] fn $test() {
                let kind = quorate_consensus::EngineKind::Paxos;
                super::run(stringify!($test), |seed, way| super::$test(kind, seed, way));
            })*
        }
    };
}

for_every_engine! {
    quorum_loss
    constrained
    chained
}
