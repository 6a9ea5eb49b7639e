//! Every command at most once: what the bounded windows admit.

use std::collections::BTreeSet;

use base::{Incarnation, NodeId};
use proptest::prelude::*;
use quorate_state::Admission::{Duplicate, Fresh, Stale};
use quorate_state::{Admission, Limits, Origin, Space, State};

mod support;

use support::{next_stamp, read, run, small_limits, write};

fn origin(incarnation: u64, sequence: u64) -> Origin {
    Origin {
        node: NodeId(9),
        incarnation: Incarnation(incarnation),
        sequence,
    }
}

/// Admits sequences of incarnation 1, each in an entry of its own.
fn admit(state: &mut State, sequences: impl IntoIterator<Item = u64>) -> Vec<Admission> {
    sequences
        .into_iter()
        .map(|sequence| admit_one(state, origin(1, sequence)))
        .collect()
}

fn admit_one(state: &mut State, origin: Origin) -> Admission {
    state.begin_entry(&next_stamp(state));
    let admission = state.admit(origin);
    assert!(state.end_entry().is_empty());
    admission
}

#[test]
fn each_sequence_is_fresh_once_in_any_order() {
    let mut state = State::new(small_limits());
    assert_eq!(
        admit(&mut state, [2, 1, 4, 3, 3, 1]),
        [Fresh, Fresh, Fresh, Fresh, Duplicate, Duplicate]
    );
    assert_eq!(admit(&mut state, [0]), [Stale], "sequences begin with 1");
}

#[test]
fn within_one_entry_the_second_is_a_duplicate() {
    let mut state = State::new(small_limits());
    state.begin_entry(&next_stamp(&state));
    assert_eq!(state.admit(origin(1, 1)), Fresh);
    assert_eq!(state.admit(origin(1, 1)), Duplicate);
    assert_eq!(
        state.admit(Origin {
            node: NodeId(10),
            ..origin(1, 1)
        }),
        Fresh
    );
    drop(state.end_entry());
    assert_eq!(admit_one(&mut state, origin(1, 1)), Duplicate);
    assert_eq!(
        state.reader().rows(Space::ORIGINS).count(),
        2,
        "one row per origin"
    );
}

#[test]
fn a_newer_incarnation_replaces_the_older_one() {
    let mut state = State::new(small_limits());
    assert_eq!(admit_one(&mut state, origin(1, 5)), Fresh);
    assert_eq!(admit_one(&mut state, origin(2, 5)), Fresh);
    assert_eq!(admit_one(&mut state, origin(1, 6)), Stale);
    assert_eq!(admit_one(&mut state, origin(1, 5)), Stale);
    assert_eq!(admit_one(&mut state, origin(2, 5)), Duplicate);
}

#[test]
fn what_falls_below_the_window_is_stale() {
    let mut state = State::new(small_limits());
    assert_eq!(admit(&mut state, [1, 3, 21]), [Fresh, Fresh, Fresh]);
    // The window is 20 wide: after 21, only 1 is forgotten.
    assert_eq!(admit(&mut state, [1, 3, 2]), [Stale, Duplicate, Fresh]);
    assert_eq!(admit(&mut state, [u64::MAX]), [Fresh]);
    assert_eq!(
        admit(&mut state, [u64::MAX, 21, 22]),
        [Duplicate, Stale, Stale]
    );
    assert_eq!(
        admit(&mut state, [u64::MAX - 1, u64::MAX - 20]),
        [Fresh, Stale]
    );
}

#[test]
fn beyond_the_number_of_runs_the_lowest_is_forgotten() {
    let mut state = State::new(small_limits());
    assert_eq!(admit(&mut state, [2, 4, 6, 8]), [Fresh; 4]);
    assert_eq!(admit(&mut state, [1]), [Fresh], "four runs are remembered");
    assert_eq!(admit(&mut state, [10]), [Fresh], "1 and 2 are forgotten");
    assert_eq!(
        admit(&mut state, [1, 2, 3, 4]),
        [Stale, Stale, Fresh, Duplicate]
    );
}

#[test]
fn a_dropped_transaction_does_not_undo_the_admission() {
    let mut state = State::new(small_limits());
    state.begin_entry(&next_stamp(&state));
    assert_eq!(state.admit(origin(1, 1)), Fresh);
    drop(state.transaction());
    drop(state.end_entry());
    assert_eq!(admit_one(&mut state, origin(1, 1)), Duplicate);
}

#[test]
fn a_stale_or_repeated_command_writes_no_row() {
    let mut state = State::new(small_limits());
    admit_one(&mut state, origin(2, 1));
    let before = state.reader().row(Space::ORIGINS, &9u64.to_be_bytes());
    admit_one(&mut state, origin(2, 1));
    admit_one(&mut state, origin(1, 1));
    assert_eq!(
        state.reader().row(Space::ORIGINS, &9u64.to_be_bytes()),
        before
    );
}

#[test]
fn an_origin_that_is_gone_can_be_forgotten() {
    let mut state = State::new(small_limits());
    admit_one(&mut state, origin(1, 1));
    state.begin_entry(&next_stamp(&state));
    assert_eq!(state.admit(origin(1, 2)), Fresh);
    let mut transaction = state.transaction();
    transaction.delete_row(Space::ORIGINS, &9u64.to_be_bytes());
    transaction.commit();
    drop(state.end_entry());
    assert_eq!(state.reader().rows(Space::ORIGINS).count(), 0);
}

#[test]
#[should_panic(expected = "origins are recorded by admitting their commands")]
fn nobody_else_writes_the_rows_of_origins() {
    let mut state = State::new(Limits::default());
    run(&mut state, |transaction| {
        transaction.set_row(Space::ORIGINS, b"12345678", b"")
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Against the plain set of everything that was executed, and through checkpoints.
    #[test]
    fn never_twice_and_bounded(
        steps in proptest::collection::vec((1..3u64, 1..90u64, 0..8u8), 1..300),
    ) {
        let mut state = State::new(small_limits());
        let mut model = Model::default();
        for (incarnation, sequence, event) in steps {
            let expected = model.admit(incarnation, sequence);
            prop_assert_eq!(admit_one(&mut state, origin(incarnation, sequence)), expected);
            let row = state.reader().row(Space::ORIGINS, &9u64.to_be_bytes()).expect("a row");
            prop_assert!(row.len() <= 20 + 16 * 4, "four runs at most");
            if event == 0 {
                let bytes = write(state.snapshot(), small_limits());
                let restored = read(&bytes, small_limits(), 64).expect("it was just written");
                prop_assert_eq!(restored.digest(), state.digest());
                state = restored;
            }
        }
    }
}

/// A window as a plain set.
#[derive(Default)]
struct Model {
    incarnation: u64,
    executed: BTreeSet<u64>,
    forgotten: u64,
}

impl Model {
    fn admit(&mut self, incarnation: u64, sequence: u64) -> Admission {
        if incarnation > self.incarnation {
            *self = Model {
                incarnation,
                ..Model::default()
            };
        }
        if incarnation < self.incarnation || sequence <= self.forgotten {
            return Stale;
        }
        if !self.executed.insert(sequence) {
            return Duplicate;
        }
        let highest = *self.executed.last().expect("one was just inserted");
        self.forgotten = self.forgotten.max(highest.saturating_sub(20));
        // Walk down from the top; the fifth run and all below are forgotten.
        let (mut runs, mut next) = (0, u64::MAX);
        for &sequence in self.executed.iter().rev() {
            runs += usize::from(sequence + 1 != next);
            next = sequence;
            if runs > 4 {
                self.forgotten = self.forgotten.max(sequence);
                break;
            }
        }
        self.executed = self.executed.split_off(&(self.forgotten + 1));
        Fresh
    }
}
