//! Groups in which not majorities elect and commit, but as many as an operator chose: what they may
//! lose, what they do when members come and go, and what is refused.
//!
//! The arithmetic itself is tested in `quorum.rs`, for every set of up to seven voters; here both
//! engines are held to it.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod cluster;

use base::NodeId;
use cluster::network::{ELECTION_TIMEOUT, MILLISECOND, Network, member};
use quorate_consensus::{
    Change, Engine, EngineKind, Input, Limits, QuorumRule, QuorumSizes, Refusal, Ticket,
};

/// Runs each of these for every engine.
macro_rules! for_every_engine {
    ($($test:ident)*) => {
        mod raft {
            $(#[test] fn $test() { super::$test(quorate_consensus::EngineKind::Raft) })*
        }
        mod paxos {
            $(#[test] fn $test() { super::$test(quorate_consensus::EngineKind::Paxos) })*
        }
    };
}

for_every_engine! {
    two_of_five_commit_and_four_elect
    who_was_told_by_one_other_alone_leads_on
    nobody_leads_who_could_not_commit
    a_voter_is_replaced_though_two_commit
    a_member_that_leaves_takes_nothing_with_it
    sizes_survive_snapshots_and_restarts
}

fn group(kind: EngineKind, size: u64, seed: u64, elect: usize, commit: usize) -> Network {
    let rule = QuorumRule::new(size as usize, QuorumSizes { elect, commit }).unwrap();
    Network::start_counting(kind, size, seed, Limits::default(), rule)
}

/// Everybody but these dies, and the names of who died.
fn only(network: &mut Network, left: &[NodeId]) -> Vec<NodeId> {
    let ids = network.ids().into_iter();
    let dead: Vec<NodeId> = ids.filter(|id| !left.contains(id)).collect();
    dead.iter().for_each(|id| network.crash(*id));
    dead
}

fn two_of_five_commit_and_four_elect(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = group(kind, 5, seed, 4, 2);
        let leader = network.elect();
        network.commit_everywhere(ELECTION_TIMEOUT);
        let others: Vec<NodeId> = network
            .ids()
            .into_iter()
            .filter(|id| *id != leader)
            .collect();
        only(&mut network, &[leader, others[0]]);
        let ticket = network.propose(leader);
        network.run(MILLISECOND * 300);
        assert!(network.is_chosen(ticket), "two of five commit");
        // Two more come back, and the leader goes: three elect nobody.
        network.restart(others[1]);
        network.restart(others[2]);
        network.run(ELECTION_TIMEOUT);
        network.crash(leader);
        let led = network.run_until(ELECTION_TIMEOUT * 10, |network| network.leader().is_some());
        assert!(!led, "three of five elect nobody");
        network.restart(others[3]);
        network.elect();
        network.commit_everywhere(ELECTION_TIMEOUT * 4);
        network.run(ELECTION_TIMEOUT);
        network.assert_agreement();
        assert!(network.is_chosen(ticket), "and nothing is lost");
    }
}

fn who_was_told_by_one_other_alone_leads_on(kind: EngineKind) {
    let mut network = group(kind, 5, 3, 4, 2);
    let leader = network.elect();
    network.commit_everywhere(ELECTION_TIMEOUT);
    let others: Vec<NodeId> = network
        .ids()
        .into_iter()
        .filter(|id| *id != leader)
        .collect();
    for away in &others[1..] {
        network.cut(leader, *away);
        network.cut(others[0], *away);
    }
    network.run(ELECTION_TIMEOUT * 6);
    assert_eq!(
        network.leader(),
        Some(leader),
        "the other three elect nobody"
    );
    let read = network.read(leader);
    let ticket = network.propose(leader);
    network.run(MILLISECOND * 100);
    assert!(
        network.ready.contains_key(&read),
        "no later leader can exist"
    );
    assert!(network.is_chosen(ticket));
}

fn nobody_leads_who_could_not_commit(kind: EngineKind) {
    let mut network = group(kind, 3, 4, 2, 3);
    network.elect();
    network.commit_everywhere(ELECTION_TIMEOUT);
    let ids = network.ids();
    network.crash(ids[0]);
    network.run(ELECTION_TIMEOUT * 4);
    let epochs = || {
        let hosts = network.hosts.values();
        hosts.map(|host| host.engine.view().epoch).max()
    };
    assert_eq!(
        network.leader(),
        None,
        "two of three elect, and commit nothing"
    );
    let before = epochs();
    network.run(ELECTION_TIMEOUT * 10);
    let hosts = network.hosts.values();
    let after = hosts.map(|host| host.engine.view().epoch).max();
    assert_eq!(after, before, "and use up no epochs");
    network.restart(ids[0]);
    network.elect();
    network.commit_everywhere(ELECTION_TIMEOUT * 4);
}

fn change(network: &mut Network, change: &Change) -> Result<(), Refusal> {
    for _ in 0..50 {
        let leader = network.elect();
        let ticket: Ticket = network.ticket();
        let change = change.clone();
        network.give(leader, Input::Reconfigure { ticket, change });
        network.run_until(ELECTION_TIMEOUT * 2, |network| {
            network.done.contains(&ticket) || network.refused.contains_key(&ticket)
        });
        match network.refused.get(&ticket) {
            Some(Refusal::ChangeInProgress | Refusal::NotLeader | Refusal::Abandoned) => {
                network.run(MILLISECOND * 100);
            }
            Some(refusal) => return Err(refusal.clone()),
            None => return Ok(()),
        }
    }
    panic!("a change is done or refused in time");
}

fn sizes(network: &Network) -> (usize, usize, usize) {
    let leader = network.leader().expect("somebody leads");
    let view = network.hosts[&leader].engine.view();
    let QuorumSizes { elect, commit } = view.membership.quorum_sizes();
    (view.membership.voters.len(), elect, commit)
}

fn a_voter_is_replaced_though_two_commit(kind: EngineKind) {
    for seed in 0..5 {
        let mut network = group(kind, 5, seed, 4, 2);
        network.commit_everywhere(ELECTION_TIMEOUT * 8);
        assert_eq!(sizes(&network), (5, 4, 2));
        let dead = network.ids()[seed as usize];
        network.crash(dead);
        network.elect();
        let id = NodeId(9);
        network.boot(id, cluster::Disk::default());
        let member = member(9);
        change(&mut network, &Change::AddLearner { id, member }).unwrap();
        network.run(ELECTION_TIMEOUT);
        change(&mut network, &Change::Promote(id)).unwrap();
        assert_eq!(sizes(&network), (6, 4, 4), "majorities of six");
        change(&mut network, &Change::Remove(dead)).unwrap();
        assert_eq!(sizes(&network), (5, 4, 2), "what was chosen for five");
        network.commit_everywhere(ELECTION_TIMEOUT * 4);
        network.run(ELECTION_TIMEOUT);
        network.assert_agreement();
    }
}

/// Two commit, and one of them is voted out and gone for good. What they have chosen must stand
/// with enough of the others before that.
fn a_member_that_leaves_takes_nothing_with_it(kind: EngineKind) {
    for seed in 0..20 {
        let mut network = group(kind, 5, seed, 4, 2);
        let leader = network.elect();
        network.commit_everywhere(ELECTION_TIMEOUT);
        let others: Vec<NodeId> = network
            .ids()
            .into_iter()
            .filter(|id| *id != leader)
            .collect();
        // Only one other hears the leader now: both have what is chosen from here on.
        let partner = others[(seed % 4) as usize];
        for away in others.iter().filter(|id| **id != partner) {
            network.cut(leader, *away);
            network.cut(partner, *away);
        }
        let ticket = network.propose(leader);
        network.run(MILLISECOND * 300);
        assert!(network.is_chosen(ticket));
        let removal = network.ticket();
        let gone = Change::Remove(partner);
        network.give(
            leader,
            Input::Reconfigure {
                ticket: removal,
                change: gone,
            },
        );
        network.run(MILLISECOND * 300);
        assert!(
            !network.done.contains(&removal),
            "two are not enough for that"
        );
        // The others hear again, and the two who knew everything go, one for good.
        network.blocked.clear();
        let done = network.run_until(ELECTION_TIMEOUT * 8, |network| {
            let leader = network
                .leader()
                .map(|leader| &network.hosts[&leader].replica);
            leader.is_some_and(|replica| {
                let membership = &replica.membership;
                !membership.is_voter(partner) && !membership.is_joint()
            })
        });
        assert!(done, "with the others it is done");
        network.crash(partner);
        network.down.remove(&partner);
        network.crash(leader);
        network.elect();
        network.commit_everywhere(ELECTION_TIMEOUT * 4);
        assert!(network.is_chosen(ticket));
        network.restart(leader);
        network.commit_everywhere(ELECTION_TIMEOUT * 4);
        network.run(ELECTION_TIMEOUT);
        network.assert_agreement();
    }
}

fn sizes_survive_snapshots_and_restarts(kind: EngineKind) {
    let mut network = group(kind, 5, 6, 4, 2);
    network.commit_everywhere(ELECTION_TIMEOUT * 8);
    for _ in 0..20 {
        network.commit_everywhere(ELECTION_TIMEOUT);
    }
    let now = network.now;
    for id in network.ids() {
        network.hosts.get_mut(&id).unwrap().take_checkpoint(now, 0);
        network.work(id);
    }
    network.run(ELECTION_TIMEOUT);
    for id in network.ids() {
        network.crash(id);
    }
    for id in (1..=5).map(NodeId) {
        network.restart(id);
    }
    network.commit_everywhere(ELECTION_TIMEOUT * 8);
    assert_eq!(sizes(&network), (5, 4, 2));
}
