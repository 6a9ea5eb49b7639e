//! What callers see: keys with their values, ranges of keys, events.

use std::fmt;

use bytes::Bytes;

use crate::space::Space;

/// Counts the transactions that changed a space with history. 0 is "nothing yet"; a new state
/// stands at 1 and its first write makes 2, as etcd's clients expect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// No state has come so far (a million changes a second for a hundred thousand years), so that
    /// arithmetic on revisions from a checkpoint cannot overflow.
    pub const MAX: Revision = Revision(i64::MAX / 2);
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// A key as it stood at some revision. Key and value are shared: a clone copies no content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key (since it was last deleted).
    pub create_revision: i64,
    /// The revision that wrote this value.
    pub mod_revision: i64,
    /// How many revisions have written the key since it was created; 1 at its creation.
    pub version: i64,
    /// The lease it is attached to; 0 is none.
    pub lease: i64,
}

/// Some keys, in their byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// One key.
    Single(Bytes),
    /// From `start` to before `end`; empty if `end` is not greater than `start`.
    Span {
        /// The first key.
        start: Bytes,
        /// The first key that is not in the range any more.
        end: Bytes,
    },
    /// All keys from `start` on; everything if it is empty.
    From {
        /// The first key.
        start: Bytes,
    },
}

impl KeyRange {
    /// Whether the range holds `key`.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        !self.is_after(key) && self.reaches(key)
    }

    /// The key that the range begins with, or would.
    pub(crate) fn start(&self) -> &Bytes {
        let (KeyRange::Single(start) | KeyRange::Span { start, .. } | KeyRange::From { start }) =
            self;
        start
    }

    /// Whether the whole range comes after `key`.
    pub(crate) fn is_after(&self, key: &[u8]) -> bool {
        key < self.start().as_ref()
    }

    /// Whether the range ends at or after `key`, wherever it begins.
    pub(crate) fn reaches(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Single(only) => key <= only.as_ref(),
            KeyRange::Span { end, .. } => key < end.as_ref(),
            KeyRange::From { .. } => true,
        }
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was created or got a new value.
    Put,
    /// It was deleted.
    Delete,
}

/// One key's change at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where the key is.
    pub space: Space,
    /// What happened.
    pub kind: EventKind,
    /// The key after the change. After a delete, only `key` and `mod_revision` are set.
    pub key_value: KeyValue,
    /// The key before the change; `None` if it was not there, or (in
    /// [`crate::Reader::changes`]) if that has been compacted.
    pub previous: Option<KeyValue>,
}

/// All changes of one revision, in the order in which the transaction made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventBatch {
    /// Which revision.
    pub revision: Revision,
    /// The changes; a key occurs at most once.
    pub events: Vec<Event>,
}
