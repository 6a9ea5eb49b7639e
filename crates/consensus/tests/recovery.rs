//! Going on alone, after a quorum was lost for good: at any moment, whatever was under way.
//!
//! That nothing *chosen* is lost cannot be demanded: it may have stood on the lost disks. What must
//! hold is that those who are left agree, that nothing one of them had executed changes, that
//! everything in the log of the survivor is executed, and that the step outlives deaths.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod cluster;

use base::NodeId;
use cluster::network::{ELECTION_TIMEOUT, MILLISECOND, Network};
use quorate_consensus::{Change, EngineKind, Input, Refusal, Ticket};

const KINDS: [EngineKind; 2] = [EngineKind::Raft, EngineKind::Paxos];

/// Five nodes under load, of which three are lost at some moment.
fn after_the_loss(kind: EngineKind, seed: u64) -> Network {
    let mut network = Network::start(kind, 5, seed);
    network.loss = if seed.is_multiple_of(3) { 0.1 } else { 0.0 };
    let leader = network.elect();
    for _ in 0..20 + seed % 17 {
        network.propose(leader);
        network.run(MILLISECOND / 2);
    }
    let lost = (0..3).map(|at| NodeId((seed + 2 * at) % 5 + 1));
    for id in lost.collect::<Vec<NodeId>>() {
        network.crash(id);
        if seed.is_multiple_of(4) {
            network.run(MILLISECOND);
        }
    }
    network.loss = 0.0;
    network.run(ELECTION_TIMEOUT * 6);
    assert_eq!(network.hosts.len(), 2);
    assert_eq!(network.leader(), None, "two of five elect nobody");
    network
}

/// The one with the newest log, and the other.
fn survivors(network: &Network) -> (NodeId, NodeId) {
    let newest = |id: &NodeId| {
        let glance = network.hosts[id].engine.glance();
        let epoch = network.hosts[id].engine.epoch_of(glance.last);
        match network.hosts[id].engine.kind() {
            EngineKind::Raft => (epoch.unwrap().0, glance.last),
            EngineKind::Paxos => (glance.chosen.0, glance.last),
        }
    };
    let ids = network.ids();
    let survivor = ids.iter().copied().max_by_key(newest).unwrap();
    let other = ids.into_iter().find(|id| *id != survivor).unwrap();
    (survivor, other)
}

fn recover(network: &mut Network, survivor: NodeId, learners: Vec<NodeId>) -> Ticket {
    let ticket = network.ticket();
    network.give(survivor, Input::Recover { ticket, learners });
    ticket
}

/// What the lost ones alone have executed need not hold any more.
fn forget_what_is_lost(network: &mut Network) {
    let applied = network.hosts.values().map(|host| host.replica.applied);
    let executed = applied.max().unwrap();
    network.chosen.split_off(&executed.next());
}

#[test]
fn who_is_left_goes_on_with_everything_that_it_has() {
    for (kind, seed) in KINDS
        .into_iter()
        .flat_map(|kind| (0..60).map(move |seed| (kind, seed)))
    {
        let mut network = after_the_loss(kind, seed);
        let (survivor, other) = survivors(&network);
        forget_what_is_lost(&mut network);
        let last = network.hosts[&survivor].engine.glance().last;
        let ticket = recover(&mut network, survivor, vec![other]);
        let is_done = |network: &Network| network.done.contains(&ticket);
        assert!(
            network.run_until(ELECTION_TIMEOUT * 2, is_done),
            "{kind} {seed}"
        );
        network.commit_everywhere(ELECTION_TIMEOUT * 2);
        network.run(ELECTION_TIMEOUT);
        network.assert_agreement();
        assert!(network.hosts[&survivor].replica.applied > last);
        let membership = network.hosts[&survivor].engine.membership().clone();
        assert_eq!(membership.voters, [survivor].into());
        let members: Vec<NodeId> = membership.members.keys().copied().collect();
        assert_eq!(
            members.len(),
            2,
            "the lost ones are no members: {members:?}"
        );
        // A restart goes by it, and the other one may have a vote again.
        network.crash(survivor);
        network.restart(survivor);
        network.commit_everywhere(ELECTION_TIMEOUT * 4);
        let ticket = network.ticket();
        let change = Change::Promote(other);
        network.give(survivor, Input::Reconfigure { ticket, change });
        let is_done = |network: &Network| network.done.contains(&ticket);
        assert!(
            network.run_until(ELECTION_TIMEOUT * 2, is_done),
            "{kind} {seed}"
        );
        network.commit_everywhere(ELECTION_TIMEOUT * 2);
        network.assert_agreement();
    }
}

#[test]
fn a_recovery_that_is_cut_short_is_ordered_again() {
    for (kind, seed) in KINDS
        .into_iter()
        .flat_map(|kind| (0..60).map(move |seed| (kind, seed)))
    {
        let mut network = after_the_loss(kind, seed);
        let (survivor, other) = survivors(&network);
        forget_what_is_lost(&mut network);
        recover(&mut network, survivor, vec![other]);
        // The process dies with whatever of it is on the disk.
        network.run(MILLISECOND * (seed % 4) as u32);
        network.crash(survivor);
        network.restart(survivor);
        network.run(ELECTION_TIMEOUT);
        let ticket = recover(&mut network, survivor, vec![other]);
        // Or what was on the disk was all of it.
        let is_complete =
            |why: &Refusal| matches!(why, Refusal::InvalidChange(why) if why.contains("already"));
        let is_done = |network: &Network| {
            let refusal = network.refused.get(&ticket);
            network.done.contains(&ticket) || refusal.is_some_and(is_complete)
        };
        assert!(
            network.run_until(ELECTION_TIMEOUT * 4, is_done),
            "{kind} {seed}"
        );
        network.commit_everywhere(ELECTION_TIMEOUT * 2);
        network.run(ELECTION_TIMEOUT);
        network.assert_agreement();
    }
}

#[test]
fn who_cannot_go_on_alone_refuses() {
    for kind in KINDS {
        let mut network = Network::start_witnessed(
            kind,
            3,
            1,
            quorate_consensus::Limits::default(),
            quorate_consensus::QuorumRule::default(),
            &[NodeId(3)],
        );
        network.elect();
        network.run(ELECTION_TIMEOUT);
        network.crash(NodeId(1));
        network.crash(NodeId(2));
        let ticket = recover(&mut network, NodeId(3), Vec::new());
        let refused = &network.refused[&ticket];
        assert!(matches!(refused, Refusal::InvalidChange(why) if why.contains("witness")));
    }
}
