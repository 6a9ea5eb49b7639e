//! Keyspaces move between hosts while clients ask; a move that goes wrong is found.

use base::mutant::{Mutant, plant};
use simulator::marks::Mark;
use simulator::run::{Options, keep_panics_quiet};
use simulator::scenario::{Keyspace, Scenario};
use simulator::{run, swarm};

/// Five hosts with a keyspace on three of them and one on a single one, both of which move.
fn moving(seed: u64) -> Scenario {
    let mut scenario = swarm::calm(seed, 5, 2, 50_000, 12_000_000);
    for (replicas, engine) in [(3, "raft"), (1, "paxos")] {
        scenario.keyspaces.push(Keyspace {
            engine: engine.parse().expect("an engine of that name"),
            replicas,
            created: 1_500_000,
            dropped: None,
            moves: vec![3_000_000, 5_000_000, 7_000_000, 9_000_000],
            observations: Vec::new(),
            workload: scenario.workload.clone(),
        });
    }
    scenario
}

/// One test: what is planted is planted for the whole process.
#[test]
fn keyspaces_move_and_what_goes_wrong_with_it_is_found() {
    keep_panics_quiet();
    keyspaces_are_observed_while_they_move();
    let outcome = run(&moving(1), Options::default());
    assert_eq!(outcome.violation, None);
    assert!(outcome.marks.count(Mark::KeyspaceMovedAway) > 1);
    for mutant in [Mutant::NeverLeave, Mutant::NumberAnew] {
        plant(Some(mutant));
        let caught = (1..30).find_map(|seed| run(&moving(seed), Options::default()).violation);
        plant(None);
        assert!(caught.is_some(), "{} is found", mutant.name());
    }
}

/// The same, observed in turn by those who hold it not.
fn keyspaces_are_observed_while_they_move() {
    let mut served = 0;
    for seed in 1..11 {
        let mut scenario = moving(seed);
        for keyspace in &mut scenario.keyspaces {
            keyspace.observations = vec![2_500_000, 4_000_000, 6_000_000, 8_000_000, 10_000_000];
        }
        let outcome = run(&scenario, Options::default());
        assert_eq!(outcome.violation, None, "seed {seed}");
        served += outcome.marks.count(Mark::KeyspaceObserved);
    }
    assert!(served > 10, "{served}");
}
