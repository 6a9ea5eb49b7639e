//! A leader of Multi-Paxos finds a slot that nobody has heard of before one that somebody has
//! accepted, and fills it with a no-op.

use consensus::EngineKind;
use simulator::marks::Mark;
use simulator::run::{Options, keep_panics_quiet};
use simulator::{run, swarm};

/// So many runs, of which one at least must get there.
const SEEDS: u64 = 24;

#[test]
fn a_slot_that_nobody_has_heard_of_is_filled_with_a_no_op() {
    keep_panics_quiet();
    let mut reached = 0;
    for seed in 0..SEEDS {
        let mut scenario = swarm::calm(seed, 3, 4, 5_000, 8_000_000);
        scenario.agree_by(EngineKind::Paxos);
        swarm::leave_holes(&mut scenario);
        let outcome = run(&scenario, Options::default());
        assert_eq!(outcome.violation, None, "seed {seed}");
        reached += outcome.marks.count(Mark::HoleFilled);
    }
    assert!(reached > 0, "not in {SEEDS} runs");
}
