//! The shapes of partly connected networks: see `connectivity.rs`, which draws them and says what
//! is demanded.

use std::time::Duration;

use base::NodeId;
use quorate_consensus::{EngineKind, Limits, Ticket};

use super::network::{ELECTION_TIMEOUT, MILLISECOND, Network};

/// Which links fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Both ways.
    Both,
    /// Messages to the node with the higher number arrive, those back do not.
    Up,
    /// The other way round.
    Down,
    /// Drawn for each link.
    Any,
}

pub(crate) const DIRECTIONS: [Direction; 4] = [
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
pub(crate) fn settled(kind: EngineKind, size: u64, seed: u64) -> (Network, NodeId) {
    settle(Network::start(kind, size, seed), seed)
}

/// The same with other limits than tests have.
pub(crate) fn settled_within(
    kind: EngineKind,
    size: u64,
    seed: u64,
    limits: Limits,
) -> (Network, NodeId) {
    settle(Network::start_within(kind, size, seed, limits), seed)
}

fn settle(mut network: Network, seed: u64) -> (Network, NodeId) {
    let leader = network.elect();
    network.commit_everywhere(ELECTION_TIMEOUT);
    network.run(MILLISECOND * u32::try_from(seed % 100).unwrap());
    (network, leader)
}

/// Proposes to whoever leads, and returns how long it took until something of it was chosen.
pub(crate) fn time_to_commit(network: &mut Network, patience: Duration) -> Option<Duration> {
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

pub(crate) fn everyone_reaches_only(network: &mut Network, hub: NodeId, direction: Direction) {
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

/// A shape: what it is called, how many nodes it needs, and how a settled group gets into it.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) size: u64,
    pub(crate) enter: fn(&mut Network, NodeId, Direction),
}

pub(crate) const QUORUM_LOSS: Shape = Shape {
    name: "quorum loss",
    size: 5,
    enter: |network, leader, direction| {
        let hub = any_but(network, &[leader]);
        everyone_reaches_only(network, hub, direction);
    },
};

pub(crate) const CONSTRAINED: Shape = Shape {
    name: "constrained election",
    size: 5,
    enter: |network, leader, direction| {
        let hub = any_but(network, &[leader]);
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
        everyone_reaches_only(network, hub, direction);
    },
};

pub(crate) const CHAINED: Shape = Shape {
    name: "chained",
    size: 3,
    enter: |network, leader, direction| {
        let other = any_but(network, &[leader]);
        fail_link(network, leader, other, direction);
    },
};
