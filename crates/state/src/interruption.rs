//! Executions that are given up at a read and run again.
//!
//! ```text
//!  transaction: get a · put b · get c ✕ not in memory     its buffered effects are dropped
//!                                      └─ fetched elsewhere, then the command runs anew, from its
//!                                         beginning, and must come to the same
//! ```
//!
//! A tier on disk will answer some reads with *not yet*. In memory that never happens, so the
//! simulator makes it happen: `State::interrupt_after` names a read at which the execution
//! unwinds with [`Interrupted`], as it will then. It exists only in builds with planted bugs (the
//! feature `mutants`); in others nothing is counted and nothing unwinds.

/// What an interrupted execution unwinds with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

#[cfg(feature = "mutants")]
mod forced {
    use std::cell::Cell;

    use super::Interrupted;
    use crate::state::State;

    /// How many reads are left before the execution is interrupted.
    #[derive(Debug, Default)]
    pub(crate) struct Interruption(Cell<Option<u32>>);

    impl Interruption {
        /// A transaction reads.
        pub(crate) fn at_read(&self) {
            match self.0.get() {
                None => {}
                Some(0) => {
                    self.0.set(None);
                    std::panic::resume_unwind(Box::new(Interrupted));
                }
                Some(left) => self.0.set(Some(left - 1)),
            }
        }

        /// A transaction is committed: what it did stays, so that nothing may be run again.
        pub(crate) fn over(&self) {
            self.0.set(None);
        }
    }

    impl State {
        /// The execution that follows is interrupted at its next read after so many, unless it
        /// commits before. Whoever runs it catches [`Interrupted`] and runs it again.
        pub fn interrupt_after(&mut self, reads: u32) {
            self.interruption.0.set(Some(reads));
        }

        /// No execution is interrupted from now on.
        pub fn interrupt_no_more(&mut self) {
            self.interruption.over();
        }
    }
}

#[cfg(feature = "mutants")]
pub(crate) use forced::Interruption;

/// Nothing is ever interrupted in this build.
#[cfg(not(feature = "mutants"))]
#[derive(Debug, Default)]
pub(crate) struct Interruption;

#[cfg(not(feature = "mutants"))]
impl Interruption {
    #[inline(always)]
    pub(crate) fn at_read(&self) {}

    #[inline(always)]
    pub(crate) fn over(&self) {}
}
