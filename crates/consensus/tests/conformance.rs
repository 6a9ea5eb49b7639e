//! What every engine must do, whichever way it agrees: written against the [`Engine`] trait, run
//! for each engine that is ready.
//!
//! The stories in `testdata/` show *how* Raft does it, message by message; here stands only *what*
//! a host may rely on.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod cluster;

use base::NodeId;
use cluster::network::{ELECTION_TIMEOUT, MILLISECOND, Network, member};
use quorate_consensus::{
    Change, Engine, EngineKind, Input, Note, Output, Payload, Refusal, Role, Ticket,
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
    a_new_group_elects_exactly_one_leader
    what_is_proposed_is_executed_everywhere_in_order
    only_the_leader_takes_proposals
    a_full_window_refuses
    a_dead_leader_is_replaced_and_nothing_acknowledged_is_lost
    a_minority_chooses_nothing
    reads_are_served_by_everyone_and_see_what_was_chosen
    a_leader_cut_off_answers_no_read
    leadership_is_handed_over
    a_transfer_to_the_unreachable_is_given_up
    members_are_added_and_removed
    a_change_that_makes_no_sense_is_refused
    a_learner_far_behind_gets_no_vote
    who_needs_more_than_the_log_gets_a_snapshot
    a_group_whose_nodes_all_die_comes_back
    nothing_counts_before_it_is_durable
    a_leader_whose_disk_hangs_loses_leadership
    a_leader_that_becomes_slow_hands_over_once
    losses_doubles_and_reordering_lose_nothing
    crashes_lose_nothing_durable
}

fn propose_many(network: &mut Network, leader: NodeId, count: u64) -> Vec<Ticket> {
    (0..count).map(|_| network.propose(leader)).collect()
}

fn a_new_group_elects_exactly_one_leader(kind: EngineKind) {
    for size in [1, 2, 3, 5, 7] {
        let mut network = Network::start(kind, size, size);
        let leader = network.elect();
        network.run(ELECTION_TIMEOUT * 4);
        for (id, host) in &network.hosts {
            let view = host.engine.view();
            assert_eq!(view.leader, Some(leader), "{id} follows the leader");
            assert_eq!(view.role == Role::Leader, *id == leader, "one leads");
        }
        assert_eq!(network.leader(), Some(leader), "and goes on leading");
    }
}

fn what_is_proposed_is_executed_everywhere_in_order(kind: EngineKind) {
    let mut network = Network::start(kind, 3, 1);
    let leader = network.elect();
    let tickets: Vec<Ticket> = propose_many(&mut network, leader, 200);
    network.run(MILLISECOND * 500);
    network.assert_agreement();
    let executed = network
        .chosen
        .values()
        .filter_map(|entry| match &entry.payload {
            Payload::Commands(commands) => {
                Some(u64::from_le_bytes(commands[..].try_into().unwrap()))
            }
            _ => None,
        });
    let wanted: Vec<u64> = tickets.iter().map(|ticket| ticket.0).collect();
    assert_eq!(
        executed.collect::<Vec<u64>>(),
        wanted,
        "each once, in order"
    );
}

fn only_the_leader_takes_proposals(kind: EngineKind) {
    let mut network = Network::start(kind, 3, 2);
    let leader = network.elect();
    network.run(ELECTION_TIMEOUT);
    for id in network.ids() {
        let ticket = network.propose(id);
        let refused = network.refused.get(&ticket);
        assert_eq!(refused.is_some(), id != leader, "{id} is asked");
        let named = network
            .said
            .iter()
            .rev()
            .find_map(|(_, _, output)| match output {
                Output::Refuse {
                    ticket: of, leader, ..
                } if *of == ticket => Some(*leader),
                _ => None,
            });
        assert!(
            named.is_none_or(|named| named == Some(leader)),
            "it names the leader"
        );
    }
}

fn a_full_window_refuses(kind: EngineKind) {
    let mut network = Network::start(kind, 3, 3);
    network.limits.window_entries = 16;
    for id in network.ids() {
        network.crash(id);
        network.restart(id);
    }
    let leader = network.elect();
    network.run(MILLISECOND * 200);
    let tickets: Vec<Ticket> = propose_many(&mut network, leader, 40);
    let refused = |ticket: &&Ticket| network.refused.get(ticket) == Some(&Refusal::WindowFull);
    assert!(
        tickets.iter().filter(refused).count() >= 20,
        "more than the window is refused"
    );
    network.run(MILLISECOND * 500);
    network.assert_agreement();
    network.commit_everywhere(MILLISECOND * 500);
}

fn a_dead_leader_is_replaced_and_nothing_acknowledged_is_lost(kind: EngineKind) {
    for seed in 0..20 {
        let mut network = Network::start(kind, 3, seed);
        let leader = network.elect();
        let tickets: Vec<Ticket> = propose_many(&mut network, leader, 10);
        let settled = network.run_until(MILLISECOND * 500, |network| {
            tickets.iter().all(|ticket| network.is_chosen(*ticket))
        });
        assert!(settled, "all of it is chosen");
        network.crash(leader);
        network.run_until(ELECTION_TIMEOUT * 8, |network| network.leader().is_some());
        network.commit_everywhere(ELECTION_TIMEOUT * 2);
        network.restart(leader);
        network.commit_everywhere(ELECTION_TIMEOUT * 8);
        network.assert_agreement();
    }
}

fn a_minority_chooses_nothing(kind: EngineKind) {
    let mut network = Network::start(kind, 5, 4);
    let leader = network.elect();
    network.run(MILLISECOND * 300);
    let others: Vec<NodeId> = network
        .ids()
        .into_iter()
        .filter(|id| *id != leader)
        .collect();
    for kept in [leader, others[0]] {
        for id in &others[1..] {
            network.cut(kept, *id);
        }
    }
    let ticket = network.propose(leader);
    network.run(ELECTION_TIMEOUT * 6);
    assert!(!network.is_chosen(ticket), "two of five choose nothing");
    let successor = network.leader().expect("three of five elect somebody");
    assert!(others[1..].contains(&successor), "among themselves");
    assert_ne!(
        network.hosts[&leader].engine.view().role,
        Role::Leader,
        "who hears no quorum"
    );
    network.blocked.clear();
    network.commit_everywhere(ELECTION_TIMEOUT * 4);
    network.run(ELECTION_TIMEOUT);
    network.assert_agreement();
}

fn reads_are_served_by_everyone_and_see_what_was_chosen(kind: EngineKind) {
    let mut network = Network::start(kind, 3, 5);
    let leader = network.elect();
    network.commit_everywhere(MILLISECOND * 500);
    let mut tickets = Vec::new();
    for _ in 0..20 {
        network.propose(leader);
        for id in network.ids() {
            // The network compares each answer with what was chosen when it was asked.
            tickets.push(network.read(id));
        }
        network.run(MILLISECOND * 3);
    }
    network.run(MILLISECOND * 500);
    assert!(
        tickets
            .iter()
            .all(|ticket| network.ready.contains_key(ticket)),
        "every read is answered"
    );
}

fn a_leader_cut_off_answers_no_read(kind: EngineKind) {
    let mut network = Network::start(kind, 3, 6);
    let leader = network.elect();
    network.commit_everywhere(MILLISECOND * 500);
    for id in network.ids().into_iter().filter(|id| *id != leader) {
        network.cut(leader, id);
    }
    let ticket = network.read(leader);
    network.run(ELECTION_TIMEOUT * 6);
    assert!(
        !network.ready.contains_key(&ticket),
        "nobody vouched for it"
    );
    assert!(
        network.refused.contains_key(&ticket),
        "whoever asked is told"
    );
}

fn leadership_is_handed_over(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = Network::start(kind, 3, seed);
        let leader = network.elect();
        network.commit_everywhere(MILLISECOND * 500);
        let successor = network.ids().into_iter().find(|id| *id != leader).unwrap();
        let ticket = network.ticket();
        let to = Some(successor);
        network.give(leader, Input::Transfer { ticket, to });
        let refused = network.propose(leader);
        let done = network.run_until(ELECTION_TIMEOUT, |network| network.done.contains(&ticket));
        assert!(done, "the transfer succeeds");
        assert_eq!(network.leader(), Some(successor), "the one asked for leads");
        assert!(!network.is_chosen(refused), "nothing is taken meanwhile");
        network.commit_everywhere(ELECTION_TIMEOUT);
    }
}

fn a_transfer_to_the_unreachable_is_given_up(kind: EngineKind) {
    let mut network = Network::start(kind, 3, 7);
    let leader = network.elect();
    network.commit_everywhere(MILLISECOND * 500);
    let successor = network.ids().into_iter().find(|id| *id != leader).unwrap();
    network.cut(leader, successor);
    network.propose(leader);
    let ticket = network.ticket();
    let to = Some(successor);
    network.give(leader, Input::Transfer { ticket, to });
    network.run(ELECTION_TIMEOUT * 2);
    assert_eq!(
        network.refused.get(&ticket),
        Some(&Refusal::Abandoned),
        "it is told so"
    );
    assert_eq!(network.leader(), Some(leader), "it goes on leading");
    let ticket = network.propose(leader);
    network.run(MILLISECOND * 100);
    assert!(network.is_chosen(ticket), "and chooses");
}

fn change(network: &mut Network, change: &Change) -> Result<(), Refusal> {
    for _ in 0..50 {
        let leader = network.elect();
        let ticket = network.ticket();
        let change = change.clone();
        network.give(leader, Input::Reconfigure { ticket, change });
        network.run_until(ELECTION_TIMEOUT * 2, |network| {
            network.done.contains(&ticket) || network.refused.contains_key(&ticket)
        });
        match network.refused.get(&ticket) {
            // It may be too new a leader, or handing over.
            Some(Refusal::ChangeInProgress | Refusal::NotLeader | Refusal::Abandoned) => {
                network.run(MILLISECOND * 100);
            }
            Some(refusal) => return Err(refusal.clone()),
            None => return Ok(()),
        }
    }
    panic!("a change is done or refused in time");
}

fn members_are_added_and_removed(kind: EngineKind) {
    let mut network = Network::start(kind, 3, 8);
    network.commit_everywhere(ELECTION_TIMEOUT * 8);
    let id = NodeId(4);
    network.boot(id, cluster::Disk::default());
    let member = member(4);
    change(&mut network, &Change::AddLearner { id, member }).unwrap();
    network.commit_everywhere(ELECTION_TIMEOUT);
    change(&mut network, &Change::Promote(id)).unwrap();
    network.commit_everywhere(ELECTION_TIMEOUT);
    let leader = network.leader().unwrap();
    change(&mut network, &Change::Remove(leader)).unwrap();
    network.run(ELECTION_TIMEOUT * 4);
    let successor = network.leader().expect("another leads");
    assert_ne!(successor, leader, "who was removed leads no more");
    let membership = network.hosts[&successor].engine.membership().clone();
    assert!(!membership.is_joint() && membership.voters.len() == 3);
    assert!(membership.voters.contains(&id) && !membership.members.contains_key(&leader));
    network.hosts.remove(&leader);
    network.commit_everywhere(ELECTION_TIMEOUT);
    network.assert_agreement();
}

fn a_change_that_makes_no_sense_is_refused(kind: EngineKind) {
    let mut network = Network::start(kind, 1, 9);
    network.commit_everywhere(ELECTION_TIMEOUT * 8);
    for wrong in [
        Change::Remove(NodeId(1)),
        Change::Remove(NodeId(9)),
        Change::Promote(NodeId(1)),
        Change::AddLearner {
            id: NodeId(1),
            member: member(1),
        },
    ] {
        let refused = change(&mut network, &wrong);
        assert!(
            matches!(refused, Err(Refusal::InvalidChange(_))),
            "{wrong:?}: {refused:?}"
        );
    }
}

fn a_learner_far_behind_gets_no_vote(kind: EngineKind) {
    let mut network = Network::start(kind, 3, 10);
    network.limits.promotion_lag_slots = 8;
    for id in network.ids() {
        network.crash(id);
        network.restart(id);
    }
    let leader = network.elect();
    network.commit_everywhere(ELECTION_TIMEOUT);
    propose_many(&mut network, leader, 40);
    network.run(MILLISECOND * 200);
    let (id, member) = (NodeId(4), member(4));
    change(&mut network, &Change::AddLearner { id, member }).unwrap();
    let refused = change(&mut network, &Change::Promote(id));
    assert!(
        matches!(refused, Err(Refusal::NotCaughtUp { .. })),
        "{refused:?}"
    );
}

fn who_needs_more_than_the_log_gets_a_snapshot(kind: EngineKind) {
    for seed in 0..5 {
        let mut network = Network::start(kind, 3, seed);
        network.limits.piece_bytes = 40;
        network.loss = if seed % 2 == 1 { 0.02 } else { 0.0 };
        let leader = network.elect();
        let late = network.ids().into_iter().find(|id| *id != leader).unwrap();
        network.crash(late);
        for _ in 0..50 {
            let leader = network.elect();
            network.propose(leader);
            network.run(MILLISECOND * 5);
        }
        let now = network.now;
        for host in network.hosts.values_mut() {
            assert!(
                host.take_checkpoint(now, 0),
                "there is something to checkpoint"
            );
        }
        network.restart(late);
        network.run(ELECTION_TIMEOUT * 8);
        network.loss = 0.0;
        network.commit_everywhere(ELECTION_TIMEOUT * 4);
        let sent = |(_, _, output): &(_, _, Output)| {
            matches!(output, Output::Note(Note::SendingSnapshot { .. }))
        };
        assert!(network.said.iter().any(sent), "a snapshot was sent");
        network.assert_agreement();
    }
}

fn a_group_whose_nodes_all_die_comes_back(kind: EngineKind) {
    for seed in 0..20 {
        let mut network = Network::start(kind, 3, seed);
        let leader = network.elect();
        for _ in 0..20 {
            network.propose(leader);
            network.run(MILLISECOND);
        }
        for id in network.ids() {
            network.crash(id);
        }
        for id in [1, 2, 3].map(NodeId) {
            network.restart(id);
        }
        network.commit_everywhere(ELECTION_TIMEOUT * 8);
        network.run(ELECTION_TIMEOUT);
        network.assert_agreement();
    }
}

fn nothing_counts_before_it_is_durable(kind: EngineKind) {
    let mut network = Network::start(kind, 3, 11);
    let leader = network.elect();
    network.commit_everywhere(MILLISECOND * 500);
    // Only the leader's disk works: one of three is no quorum.
    for id in network.ids().into_iter().filter(|id| *id != leader) {
        network.hanging.insert(id);
    }
    let ticket = network.propose(leader);
    network.run(ELECTION_TIMEOUT * 2);
    assert!(!network.is_chosen(ticket), "one disk of three is no quorum");
    // The others die without having written it, and come back.
    network.hanging.clear();
    for id in network.ids().into_iter().filter(|id| *id != leader) {
        let host = network.hosts.remove(&id).unwrap();
        network.down.insert(id, host.crash(0));
        network.restart(id);
    }
    network.commit_everywhere(ELECTION_TIMEOUT * 8);
    network.run(ELECTION_TIMEOUT);
    network.assert_agreement();
}

fn a_leader_whose_disk_hangs_loses_leadership(kind: EngineKind) {
    for seed in 0..20 {
        let mut network = Network::start(kind, 3, seed);
        let leader = network.elect();
        network.commit_everywhere(MILLISECOND * 500);
        network.hanging.insert(leader);
        for _ in 0..60 {
            network.propose(leader);
            network.run(ELECTION_TIMEOUT / 10);
        }
        let successor = network.leader();
        assert!(
            successor.is_some_and(|id| id != leader),
            "another leads: {successor:?}"
        );
        let ticket = network.propose(successor.unwrap());
        network.run(MILLISECOND * 200);
        assert!(network.is_chosen(ticket), "and chooses");
    }
}

fn a_leader_that_becomes_slow_hands_over_once(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = Network::start(kind, 3, seed);
        let leader = network.elect();
        for _ in 0..100 {
            network.propose(leader);
            network.run(MILLISECOND * 10);
        }
        let abdications = |network: &Network| {
            let is_one =
                |said: &&(_, _, Output)| matches!(said.2, Output::Note(Note::Abdicating { .. }));
            network.said.iter().filter(is_one).count()
        };
        assert_eq!(abdications(&network), 0, "as fast as ever");
        network.slow.insert(leader, MILLISECOND * 80);
        for _ in 0..200 {
            let leader = network.elect();
            network.propose(leader);
            network.run(MILLISECOND * 10);
        }
        assert_eq!(abdications(&network), 1, "once");
        assert!(
            network.leader().is_some_and(|id| id != leader),
            "a faster one leads"
        );
        // All become slow alike: nobody is better, and nobody hands over again so soon.
        for id in network.ids() {
            network.slow.insert(id, MILLISECOND * 80);
        }
        for _ in 0..200 {
            let leader = network.elect();
            network.propose(leader);
            network.run(MILLISECOND * 10);
        }
        assert!(
            abdications(&network) <= 3,
            "each at most once: {}",
            abdications(&network)
        );
    }
}

fn losses_doubles_and_reordering_lose_nothing(kind: EngineKind) {
    for seed in 0..10 {
        let mut network = Network::start(kind, 3 + 2 * (seed % 2), seed);
        network.loss = 0.05;
        network.doubling = 0.05;
        network.delay_max = MILLISECOND * 20;
        for _ in 0..100 {
            let leader = network.elect();
            propose_many(&mut network, leader, 5);
            network.read(leader);
            network.run(MILLISECOND * 10);
        }
        network.loss = 0.0;
        network.commit_everywhere(ELECTION_TIMEOUT * 8);
        network.run(ELECTION_TIMEOUT * 4);
        network.assert_agreement();
        assert!(
            network.chosen.len() > 400,
            "most of it was chosen: {}",
            network.chosen.len()
        );
        assert!(network.reads.is_empty(), "no read hangs");
    }
}

fn crashes_lose_nothing_durable(kind: EngineKind) {
    let mut chosen = 0;
    for seed in 0..20 {
        let mut network = Network::start(kind, 3, seed);
        network.loss = 0.02;
        for round in 0..40 {
            if let Some(leader) = network.leader() {
                propose_many(&mut network, leader, 5);
            }
            let id = NodeId(1 + network.random.below(3));
            if network.hosts.contains_key(&id) && network.down.is_empty() && round % 4 == 0 {
                network.crash(id);
            } else if network.down.contains_key(&id) {
                network.restart(id);
            }
            network.run(MILLISECOND * 60);
        }
        for id in network.down.keys().copied().collect::<Vec<NodeId>>() {
            network.restart(id);
        }
        network.loss = 0.0;
        network.commit_everywhere(ELECTION_TIMEOUT * 8);
        network.run(ELECTION_TIMEOUT * 4);
        network.assert_agreement();
        chosen += network.chosen.len();
    }
    assert!(chosen > 600, "something happened: {chosen} in 20 runs");
}
