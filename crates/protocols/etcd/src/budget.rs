//! How much a read may do at once.
//!
//! A replica answers reads between commands; a large range would hold up all that wait behind it.
//! So a read is given a budget, stops when it is used up, and is run again on a snapshot elsewhere.
//! What was done up to then is lost, and bounded by the budget.

use crate::error::Error;

/// How much a read may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBudget {
    /// Keys looked at, whether they are part of the answer or not.
    pub keys: u64,
    /// Bytes of keys and values looked at.
    pub bytes: u64,
}

impl ReadBudget {
    /// As much as it takes.
    pub const UNLIMITED: ReadBudget = ReadBudget {
        keys: u64::MAX,
        bytes: u64::MAX,
    };

    /// Whether `keys` more keys can be looked at.
    pub(crate) fn has_keys(&self, keys: u64) -> bool {
        keys <= self.keys
    }

    /// Looks at a key and `bytes` bytes of it.
    pub(crate) fn charge(&mut self, bytes: usize) -> Result<(), Stop> {
        self.charge_each(1, bytes)
    }

    /// Looks at so many keys and `bytes` bytes of each: at all, or, if they are too many, at none.
    pub(crate) fn charge_each(&mut self, keys: u64, bytes: usize) -> Result<(), Stop> {
        let all = keys.saturating_mul(bytes as u64);
        let keys_left = self.keys.checked_sub(keys).ok_or(Stop::TooLarge)?;
        let bytes_left = self.bytes.checked_sub(all).ok_or(Stop::TooLarge)?;
        if self.keys != u64::MAX {
            self.keys = keys_left;
        }
        if self.bytes != u64::MAX {
            self.bytes = bytes_left;
        }
        Ok(())
    }
}

/// Why a read ends without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The budget is used up.
    TooLarge,
    /// The request cannot be answered.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}
