//! The smallest models: registers with read, write, compare-and-set, each under a key.
//!
//! Histories of these are what Porcupine and we judge side by side (`tests/porcupine`), and what a
//! protocol without revisions is held to.

use super::generic::Model;

/// What a register can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterOperation {
    /// Which register.
    pub key: u32,
    /// What.
    pub action: Action,
}

/// What is done to a register. Registers begin with 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read it.
    Read,
    /// Write a value.
    Write(i64),
    /// Write `to` if it holds `from`.
    CompareAndSet {
        /// The value expected.
        from: i64,
        /// The value written.
        to: i64,
    },
}

/// What a register answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value read.
    Value(i64),
    /// The write is done.
    Written,
    /// Whether the value was as expected, and was set.
    Set(bool),
}

/// One register. Judge many with [`judge_parts`](super::judge_parts), by key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

impl Model for Register {
    type State = i64;
    type Operation = RegisterOperation;
    type Result = Answer;

    fn init(&self) -> i64 {
        0
    }

    fn step(
        &self,
        state: &i64,
        operation: &RegisterOperation,
        result: Option<&Answer>,
    ) -> Option<i64> {
        match (operation.action, result) {
            (Action::Read, Some(Answer::Value(value))) => (value == state).then_some(*state),
            (Action::Read, None) => Some(*state),
            (Action::Write(value), Some(Answer::Written) | None) => Some(value),
            (Action::CompareAndSet { from, to }, Some(Answer::Set(set))) => {
                (*set == (from == *state)).then_some(if *set { to } else { *state })
            }
            (Action::CompareAndSet { from, to }, None) => {
                Some(if from == *state { to } else { *state })
            }
            _ => None,
        }
    }
}
