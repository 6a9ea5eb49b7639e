//! Groups with a voter that keeps headers instead of entries: what either of two sites may do while
//! the other is away, what is never lost, and what is refused.
//!
//! Every run of a small group with a witness is walked through in `small_model.rs`, and witnesses
//! take part in `random_cluster.rs`; here stands what an operator would expect.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod cluster;

use base::NodeId;
use cluster::network::{ELECTION_TIMEOUT, MILLISECOND, Network, member};
use quorate_consensus::{Change, EngineKind, Input, Limits, QuorumRule, Refusal, Tail, Ticket};

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
    without_a_second_copy_reads_go_on_and_writes_wait
    who_is_left_of_an_idle_group_serves_reads
    one_copy_is_enough_where_an_operator_says_so
    a_leader_that_dies_under_load_leaves_one_who_has_everything
    without_copies_nothing_but_a_removal_is_begun
    a_header_keeps_nobody_from_leading_who_has_all_that_was_acknowledged
    a_copy_that_is_gone_is_voted_out
    who_leaves_takes_no_only_copy_with_it
    a_witness_joins_late_and_has_no_entry
    a_damaged_witness_does_not_vote
    leadership_is_never_handed_to_a_witness
    nobody_is_left_with_witnesses_alone
}

const WITNESS: NodeId = NodeId(3);

/// Two that hold entries and a witness.
fn group(kind: EngineKind, seed: u64, copies: Option<usize>) -> Network {
    let rule = QuorumRule::default();
    let rule = copies.map_or(rule, |copies| rule.with_copies(copies).unwrap());
    let mut network = Network::start_witnessed(kind, 3, seed, Limits::default(), rule, &[WITNESS]);
    network.commit_everywhere(ELECTION_TIMEOUT * 8);
    network
}

/// Who leads, and the other one that holds entries.
fn pair(network: &mut Network) -> (NodeId, NodeId) {
    let leader = network.elect();
    assert_ne!(leader, WITNESS);
    (leader, NodeId(3 - leader.0))
}

fn agreed(network: &mut Network) {
    network.commit_everywhere(ELECTION_TIMEOUT * 8);
    network.run(ELECTION_TIMEOUT);
    network.assert_agreement();
}

/// One copy would do, but while both are there each write has two: whoever is left may lead.
fn a_leader_that_dies_under_load_leaves_one_who_has_everything(kind: EngineKind) {
    for seed in 0..20 {
        let mut network = group(kind, seed, Some(1));
        let (leader, other) = pair(&mut network);
        let mut tickets = Vec::new();
        for _ in 0..30 {
            tickets.push(network.propose(leader));
            network.run(MILLISECOND);
        }
        let acknowledged = tickets.into_iter().filter(|each| network.is_chosen(*each));
        let acknowledged: Vec<Ticket> = acknowledged.collect();
        network.crash(leader);
        assert_eq!(network.elect(), other, "it has all headers' entries");
        let ticket = network.propose(other);
        network.run(ELECTION_TIMEOUT);
        assert!(
            network.is_chosen(ticket),
            "it does not wait for the dead one"
        );
        network.restart(leader);
        agreed(&mut network);
        assert!(acknowledged.iter().all(|each| network.is_chosen(*each)));
    }
}

/// A change that cannot be chosen would keep the dead one from being voted out.
fn without_copies_nothing_but_a_removal_is_begun(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = group(kind, seed, None);
        let (leader, other) = pair(&mut network);
        network.crash(other);
        network.down.remove(&other);
        network.run(ELECTION_TIMEOUT);
        let id = NodeId(9);
        network.boot(id, cluster::Disk::default());
        let (ticket, member) = (network.ticket(), member(9));
        let change_asked = Change::AddLearner { id, member };
        let change_given = change_asked.clone();
        network.give(
            leader,
            Input::Reconfigure {
                ticket,
                change: change_given,
            },
        );
        network.run(ELECTION_TIMEOUT);
        let (have, needed) = (1, 2);
        let refusal = Refusal::LacksCopies { have, needed };
        assert_eq!(network.refused.get(&ticket), Some(&refusal));
        change(&mut network, &Change::Remove(other)).unwrap();
        change(&mut network, &change_asked).unwrap();
        agreed(&mut network);
    }
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
            Some(Refusal::InvalidChange(flaw)) => {
                return Err(Refusal::InvalidChange(flaw.clone()));
            }
            Some(_) => network.run(MILLISECOND * 100),
            None if network.done.contains(&ticket) => return Ok(()),
            None => {}
        }
    }
    panic!("a change is done or refused in time");
}

fn without_a_second_copy_reads_go_on_and_writes_wait(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = group(kind, seed, None);
        let (leader, other) = pair(&mut network);
        network.crash(other);
        let ticket = network.propose(leader);
        network.run(ELECTION_TIMEOUT * 6);
        assert!(!network.is_chosen(ticket), "one copy is not two");
        assert_eq!(network.leader(), Some(leader), "and yet it leads on");
        let reads = [network.read(leader), network.read(WITNESS)];
        network.run(ELECTION_TIMEOUT);
        assert!(reads.iter().all(|read| network.ready.contains_key(read)));
        network.restart(other);
        network.run(ELECTION_TIMEOUT * 2);
        assert!(network.is_chosen(ticket));
        agreed(&mut network);
    }
}

fn who_is_left_of_an_idle_group_serves_reads(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = group(kind, seed, None);
        network.run(ELECTION_TIMEOUT);
        let (leader, other) = pair(&mut network);
        network.crash(leader);
        assert_eq!(network.elect(), other);
        let read = network.read(other);
        network.run(ELECTION_TIMEOUT);
        assert!(network.ready.contains_key(&read), "all was known");
        let ticket = network.propose(other);
        network.run(ELECTION_TIMEOUT * 2);
        assert!(!network.is_chosen(ticket), "one copy is not two");
        network.restart(leader);
        agreed(&mut network);
    }
}

fn one_copy_is_enough_where_an_operator_says_so(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = group(kind, seed, Some(1));
        let (leader, other) = pair(&mut network);
        network.crash(other);
        let ticket = network.propose(leader);
        network.run(ELECTION_TIMEOUT);
        assert!(network.is_chosen(ticket), "with the witness it is agreed");
        // The only copy is away: nobody leads, and nothing takes its place.
        network.crash(leader);
        network.restart(other);
        let led = network.run_until(ELECTION_TIMEOUT * 20, |network| network.leader().is_some());
        assert!(!led, "no progress rather than a loss");
        network.restart(leader);
        agreed(&mut network);
        assert!(network.is_chosen(ticket));
        // The other way round it goes on as well, whoever leads.
        let (leader, _) = pair(&mut network);
        network.crash(leader);
        network.elect();
        let (leader, _) = pair(&mut network);
        let ticket = network.propose(leader);
        network.run(ELECTION_TIMEOUT * 2);
        assert!(network.is_chosen(ticket));
    }
}

/// One is away while the other is given what can have no second copy; then that one is gone for
/// good. Nothing of it was acknowledged, so the first must be able to lead.
fn a_header_keeps_nobody_from_leading_who_has_all_that_was_acknowledged(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = group(kind, seed, None);
        let (leader, other) = pair(&mut network);
        network.crash(other);
        let ticket = network.propose(leader);
        network.run(ELECTION_TIMEOUT);
        assert!(!network.is_chosen(ticket));
        network.crash(leader);
        network.down.remove(&leader);
        network.restart(other);
        assert_eq!(network.elect(), other);
        change(&mut network, &Change::Remove(leader)).unwrap();
        agreed(&mut network);
    }
}

fn a_copy_that_is_gone_is_voted_out(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = group(kind, seed, None);
        let (leader, other) = pair(&mut network);
        network.crash(other);
        network.down.remove(&other);
        let ticket = network.propose(leader);
        network.run(ELECTION_TIMEOUT);
        assert!(!network.is_chosen(ticket));
        change(&mut network, &Change::Remove(other)).unwrap();
        assert!(
            network.is_chosen(ticket),
            "an operator said to go on with one"
        );
        let id = NodeId(9);
        network.boot(id, cluster::Disk::default());
        let member = member(9);
        change(&mut network, &Change::AddLearner { id, member }).unwrap();
        network.run(ELECTION_TIMEOUT);
        change(&mut network, &Change::Promote(id)).unwrap();
        agreed(&mut network);
        // Both are copies now.
        network.crash(leader);
        assert_eq!(network.elect(), id);
        assert!(network.is_chosen(ticket));
    }
}

/// Who holds the only copy of what was acknowledged is not let go before the others have it.
fn who_leaves_takes_no_only_copy_with_it(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = group(kind, seed, Some(1));
        let (leader, other) = pair(&mut network);
        network.crash(other);
        let ticket = network.propose(leader);
        network.run(ELECTION_TIMEOUT);
        assert!(network.is_chosen(ticket));
        let removal = network.ticket();
        network.give(
            leader,
            Input::Reconfigure {
                ticket: removal,
                change: Change::Remove(leader),
            },
        );
        network.run(ELECTION_TIMEOUT * 4);
        assert!(!network.done.contains(&removal), "the other lacks it");
        network.restart(other);
        let left = network.run_until(ELECTION_TIMEOUT * 20, |network| {
            network.hosts[&other].engine.membership().voters.len() == 2
                && network.leader() == Some(other)
        });
        assert!(left, "then it goes");
        network.crash(leader);
        network.down.remove(&leader);
        network.run(ELECTION_TIMEOUT * 4);
        agreed(&mut network);
        assert!(network.is_chosen(ticket));
    }
}

fn forget(network: &mut Network) {
    let now = network.now;
    for id in network.ids() {
        network.hosts.get_mut(&id).unwrap().take_checkpoint(now, 0);
        network.work(id);
    }
    network.run(ELECTION_TIMEOUT);
}

fn a_witness_joins_late_and_has_no_entry(kind: EngineKind) {
    for seed in 0..5 {
        let limits = Limits {
            window_entries: 8,
            piece_bytes: 16,
            ..Limits::default()
        };
        let mut network = Network::start_within(kind, 2, seed, limits);
        for _ in 0..20 {
            network.commit_everywhere(ELECTION_TIMEOUT * 8);
        }
        forget(&mut network);
        network.boot(WITNESS, cluster::Disk::default());
        let (id, member) = (WITNESS, member(3));
        change(&mut network, &Change::AddWitness { id, member }).unwrap();
        network.run(ELECTION_TIMEOUT * 2);
        change(&mut network, &Change::Promote(WITNESS)).unwrap();
        agreed(&mut network);
        // It is away for longer than the others keep their logs.
        network.crash(WITNESS);
        for _ in 0..40 {
            network.commit_everywhere(ELECTION_TIMEOUT);
        }
        forget(&mut network);
        network.restart(WITNESS);
        agreed(&mut network);
        for _ in 0..40 {
            network.commit_everywhere(ELECTION_TIMEOUT);
        }
        forget(&mut network);
        let kept = network.hosts[&WITNESS].disk.entries.len();
        assert!(kept < 40, "{kept} headers are kept");
        // With what it knows the one that is left leads.
        let (leader, other) = pair(&mut network);
        network.crash(WITNESS);
        network.restart(WITNESS);
        network.crash(leader);
        assert_eq!(network.elect(), other);
        network.restart(leader);
        agreed(&mut network);
    }
}

fn a_damaged_witness_does_not_vote(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = group(kind, seed, Some(1));
        let (leader, other) = pair(&mut network);
        network.crash(other);
        let ticket = network.propose(leader);
        network.run(ELECTION_TIMEOUT);
        assert!(network.is_chosen(ticket));
        network.crash(leader);
        network.crash(WITNESS);
        // It has lost the header, and knows that it has lost something.
        let disk = network.down.get_mut(&WITNESS).unwrap();
        disk.entries.clear();
        disk.tail = Tail::Uncertain;
        network.restart(WITNESS);
        network.restart(other);
        let led = network.run_until(ELECTION_TIMEOUT * 20, |network| network.leader().is_some());
        assert!(!led, "who is in doubt helps nobody");
        network.restart(leader);
        agreed(&mut network);
        assert!(network.is_chosen(ticket));
        let host = &network.hosts[&WITNESS];
        assert!(!host.engine.glance().is_uncertain, "it was told the truth");
    }
}

fn leadership_is_never_handed_to_a_witness(kind: EngineKind) {
    let mut network = group(kind, 1, Some(1));
    let (leader, other) = pair(&mut network);
    let ticket = network.ticket();
    let to = Some(WITNESS);
    network.give(leader, Input::Transfer { ticket, to });
    network.run(ELECTION_TIMEOUT);
    assert!(network.refused.contains_key(&ticket));
    let ticket = network.ticket();
    network.give(leader, Input::Transfer { ticket, to: None });
    network.run(ELECTION_TIMEOUT);
    assert_eq!(network.leader(), Some(other));
}

fn nobody_is_left_with_witnesses_alone(kind: EngineKind) {
    let mut network = group(kind, 1, None);
    let (leader, other) = pair(&mut network);
    change(&mut network, &Change::Remove(other)).unwrap();
    let Err(Refusal::InvalidChange(flaw)) = change(&mut network, &Change::Remove(leader)) else {
        panic!("nobody would hold an entry");
    };
    assert!(flaw.contains("1 - 1 = 0 hold entries"), "{flaw}");
    let mut network = group(kind, 1, Some(2));
    let (_, other) = pair(&mut network);
    let Err(Refusal::InvalidChange(flaw)) = change(&mut network, &Change::Remove(other)) else {
        panic!("there would be one copy");
    };
    assert!(flaw.contains("2 - 1 = 1 hold entries"), "{flaw}");
}
