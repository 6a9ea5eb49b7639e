//! Keyspaces beside the default one are served, judged, and dropped; and a bug that shows only
//! there is found there.

use base::mutant::{Mutant, plant};
use simulator::marks::Mark;
use simulator::run::{Options, keep_panics_quiet};
use simulator::scenario::{Keyspace, Scenario};
use simulator::{run, swarm};

/// Three hosts with two keyspaces, of either engine; nobody asks anything of the default one.
fn scenario(seed: u64) -> Scenario {
    let mut scenario = swarm::calm(seed, 3, 4, 20_000, 8_000_000);
    let mut workload = std::mem::replace(
        &mut scenario.workload,
        swarm::calm(seed, 3, 0, 20_000, 8_000_000).workload,
    );
    workload.watches = 2;
    for (engine, dropped) in [("raft", None), ("paxos", Some(6_000_000))] {
        scenario.keyspaces.push(Keyspace {
            engine: engine.parse().expect("an engine of that name"),
            replicas: 3,
            created: 1_500_000,
            dropped,
            moves: Vec::new(),
            observations: Vec::new(),
            workload: workload.clone(),
        });
    }
    scenario
}

#[test]
fn each_keyspace_is_served_and_judged_by_itself() {
    keep_panics_quiet();
    let outcome = run(&scenario(1), Options::default());
    assert_eq!(outcome.violation, None);
    assert_eq!(outcome.marks.count(Mark::KeyspaceCreated), 2);
    assert_eq!(outcome.marks.count(Mark::KeyspaceDropped), 1);
    let [default, first, second] = outcome.histories.as_slice() else {
        panic!("{} histories", outcome.histories.len());
    };
    assert_eq!(default.0, "default");
    let lines = |history: &(String, checker::history::History)| history.1.events.len();
    assert!(lines(default) < 20, "nobody asked anything there");
    assert!(lines(first) > 1_000, "{}", lines(first));
    assert!(lines(second) > 500, "{}", lines(second));

    // Nobody watches the default keyspace, so this bug shows in the others or nowhere.
    plant(Some(Mutant::PublishLate));
    let caught = (1..5).find_map(|seed| {
        let outcome = run(&scenario(seed), Options::default());
        outcome.violation
    });
    plant(None);
    let caught = caught.expect("a bug that shows only in other keyspaces is found");
    assert_eq!(caught.invariant, "publications come before answers");
}
