//! Random work, releases and crashes against a model: what was reported durable is recovered,
//! nothing is invented, and everything is in order.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use support::checked::{Checked, Step};

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![8 => 0u16..200, 2 => 0u16..2000, 1 => Just(3332u16)];
    let step = prop_oneof![
        12 => (0u8..3, any::<u8>(), length)
            .prop_map(|(group, choice, length)| Step::Append { group, choice, length }),
        6 => Just(Step::Flush),
        8 => (0u8..4, 0u8..4)
            .prop_map(|(journal, background)| Step::Work { journal, background }),
        4 => (0u8..3, 0u8..8).prop_map(|(group, behind)| Step::Release { group, behind }),
        2 => (0u8..3, 0u8..8, 0u16..3000)
            .prop_map(|(group, skip, max_bytes)| Step::Fetch { group, skip, max_bytes }),
        1 => (any::<u64>(), 0u8..6).prop_map(|(seed, again)| Step::Crash { seed, again }),
    ];
    prop::collection::vec(step, 1..250)
}

fn runner(cases: u32) -> TestRunner {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn a_journal_remembers_what_it_said_it_would() {
    let check = |steps: Vec<Step>| {
        let mut checked = Checked::new();
        for step in &steps {
            checked.step(step);
        }
        checked.settle();
        checked.step(&Step::Crash { seed: 1, again: 1 });
        Ok(())
    };
    runner(3000).run(&steps(), check).unwrap();
}
