//! A log that rots while a follower is away that will need it: the leader finds the damage when it
//! reads the log for that follower, and a checkpoint takes the log's place.

use consensus::EngineKind;
use simulator::marks::Mark;
use simulator::run::{Options, keep_panics_quiet};
use simulator::{run, swarm};

/// Seeds for each engine.
const SEEDS: u64 = 8;

#[test]
fn a_checkpoint_takes_the_place_of_a_log_that_rots_while_it_is_needed() {
    keep_panics_quiet();
    for &engine in EngineKind::ALL {
        let mut reached = 0;
        for seed in 0..SEEDS {
            let mut scenario = swarm::calm(seed, 3, 4, 5_000, 1_000_000);
            scenario.agree_by(engine);
            scenario.unsound = vec![(seed % 3) as usize];
            swarm::rot_log(&mut scenario);
            let outcome = run(&scenario, Options::default());
            assert_eq!(outcome.violation, None, "seed {seed}, {engine}");
            reached += outcome.marks.count(Mark::LogMended);
        }
        assert!(reached > 0, "{engine}: not in {SEEDS} runs");
    }
}
