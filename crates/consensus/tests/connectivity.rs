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

use cluster::network::{ELECTION_TIMEOUT, Network};
use cluster::shapes::{
    CHAINED, CONSTRAINED, DIRECTIONS, Direction, QUORUM_LOSS, Shape, settled, time_to_commit,
};
use quorate_consensus::EngineKind;

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

/// Enters a shape, and returns how long it took until somebody committed.
fn run_shape(kind: EngineKind, shape: &Shape, seed: u64, direction: Direction) -> Duration {
    let (mut network, leader) = settled(kind, shape.size, seed);
    (shape.enter)(&mut network, leader, direction);
    demand(&mut network, shape.name, seed)
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
    ($($test:ident: $shape:ident)*) => {
        mod raft {
            $(#[test] fn $test() {
                let kind = quorate_consensus::EngineKind::Raft;
                let shape = &super::$shape;
                super::run(shape.name, |seed, way| super::run_shape(kind, shape, seed, way));
            })*
        }
        mod paxos {
            $(#[test] fn $test() {
                let kind = quorate_consensus::EngineKind::Paxos;
                let shape = &super::$shape;
                super::run(shape.name, |seed, way| super::run_shape(kind, shape, seed, way));
            })*
        }
    };
}

for_every_engine! {
    quorum_loss: QUORUM_LOSS
    constrained: CONSTRAINED
    chained: CHAINED
}
