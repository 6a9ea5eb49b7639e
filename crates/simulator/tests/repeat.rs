//! The same seed twice gives the same run, byte for byte: without that, a failure could not be
//! looked into, and a minimised script would prove nothing.

use simulator::run::{Options, keep_panics_quiet};
use simulator::scenario::Scenario;
use simulator::{run, swarm};

const KEEP: Options = Options {
    keep_trace: true,
    until: None,
};

#[test]
fn the_same_seed_gives_the_same_trace() {
    keep_panics_quiet();
    for seed in 1..=12 {
        let scenario = swarm::draw(seed);
        let (first, second) = (run(&scenario, KEEP), run(&scenario, KEEP));
        assert_eq!(first.violation, None, "seed {seed}");
        assert!(!first.trace.lines().is_empty(), "a run leaves a trace");
        assert_eq!(first.trace.hash(), second.trace.hash(), "seed {seed}");
        assert_eq!(first.trace.to_text(), second.trace.to_text(), "seed {seed}");
        assert_eq!(first.histories, second.histories, "seed {seed}");
    }
}

#[test]
fn a_script_gives_the_run_of_its_seed_and_keeping_lines_changes_nothing() {
    keep_panics_quiet();
    let scenario = swarm::draw(3);
    let script = Scenario::from_script(&scenario.to_script()).expect("a script that we wrote");
    let (first, second) = (run(&scenario, KEEP), run(&script, Options::default()));
    assert_eq!(first.trace.hash(), second.trace.hash());
    let other = run(&swarm::draw(4), Options::default());
    assert_ne!(first.trace.hash(), other.trace.hash());
}

#[test]
fn a_calm_cluster_answers_everything() {
    keep_panics_quiet();
    let outcome = run(&swarm::calm(7, 3, 4, 50_000, 20_000_000), KEEP);
    assert_eq!(outcome.violation, None);
    let [ok, failed, unknown] = outcome.requests;
    assert!(ok > 1_000, "{ok}");
    // Before the cluster has formed, requests are refused.
    assert!(failed < 100, "{failed}");
    assert_eq!(unknown, 0);
}
