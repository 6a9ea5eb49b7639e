//! How much a read may do at once.
//!
//! A replica answers reads between commands; a large range would hold up all that wait behind it.
//! So a read is given a budget, stops when it is used up, and is run again on a snapshot elsewhere.
//! What was done up to then is lost, and bounded by the budget.
//!
//! There it may do as much as it takes, as long as somebody waits for it: as in etcd, a read whose
//! client has given up ends at the next key.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;

/// Tells whether somebody still waits for what is read. Asked at every key; what is wanted no
/// longer never is again.
pub type Wanted = Arc<dyn Fn() -> bool + Send + Sync>;

/// How much a read may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBudget {
    /// Keys looked at, whether they are part of the answer or not.
    pub keys: u64,
    /// Bytes of keys and values looked at.
    pub bytes: u64,
    asker: Asker,
}

impl ReadBudget {
    /// As much as it takes.
    pub const UNLIMITED: ReadBudget = ReadBudget::new(u64::MAX, u64::MAX);

    /// So many keys, and so many bytes of keys and values.
    #[must_use]
    pub const fn new(keys: u64, bytes: u64) -> ReadBudget {
        let asker = Asker(None);
        ReadBudget { keys, bytes, asker }
    }

    /// The same, as long as somebody waits: after that the read fails, and nobody hears of it.
    #[must_use]
    pub fn while_wanted(self, wanted: Wanted) -> ReadBudget {
        let asker = Asker(Some(wanted));
        ReadBudget { asker, ..self }
    }

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
        if !self.asker.is_there() {
            return Err(Error::RequestCanceled.into());
        }
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

/// Who waits for a read; `None`: somebody always does.
#[derive(Clone)]
struct Asker(Option<Wanted>);

impl Asker {
    fn is_there(&self) -> bool {
        self.0.as_ref().is_none_or(|wanted| wanted())
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            None => "always",
            Some(_) => "while wanted",
        })
    }
}

impl PartialEq for Asker {
    fn eq(&self, other: &Asker) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Eq for Asker {}

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
