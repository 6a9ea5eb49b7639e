//! A state as a stream of bytes: written from a snapshot, checked while it is read.
//!
//! ```text
//!   head block │ block of versions … │ block of rows … │ footer block
//!
//!   block:  kind u32 │ length u32 │ content │ crc32c of all that, u32        (little-endian)
//! ```
//!
//! Rows stand in the order of spaces and keys, the versions of a key oldest first, and a block is
//! closed by its content alone, so replicas with the same state write the same bytes. Each block
//! can be checked by itself, so damage is found where it is; the footer holds a checksum over
//! everything before it, the counts and the digest, so a missing, repeated or exchanged block is
//! found as well, and so is a fault in whoever wrote it. The index of revisions and all counters
//! are rebuilt, not stored. `docs/internals/state.md` lists every byte.

mod format;
mod read;
mod verify;
mod write;

use std::fmt;

use base::{ClusterId, Epoch, GroupId, Slot};
use bytes::Bytes;

pub use read::CheckpointReader;
pub use verify::CheckpointVerifier;
pub use write::CheckpointWriter;

/// What a checkpoint says beside the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// Which cluster the group belongs to.
    pub cluster: ClusterId,
    /// Which group.
    pub group: GroupId,
    /// The group's membership at the checkpoint's slot, in whatever form consensus keeps it.
    pub membership: Bytes,
}

/// What identifies a complete checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointSummary {
    /// The last slot it covers.
    pub slot: Slot,
    /// The epoch of that slot's entry.
    pub epoch: Epoch,
    /// Its length in bytes.
    pub length: u64,
    /// The checksum over all its bytes.
    pub checksum: u64,
}

/// A checkpoint cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointError {
    /// It is not what was written.
    Damaged(CheckpointDamage),
    /// It was written by a newer version, which this build cannot read or must not execute.
    Newer {
        /// The version of its format.
        format: u32,
        /// The level of its state.
        level: u32,
    },
}

/// Where a checkpoint is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointDamage {
    /// The byte at which the damaged block begins.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointError::Damaged(damage) => damage.fmt(formatter),
            CheckpointError::Newer { format, level } => write!(
                formatter,
                "the checkpoint was written by a newer version (format {format}, level {level})"
            ),
        }
    }
}

impl fmt::Display for CheckpointDamage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the checkpoint is damaged at byte {}: {}",
            self.offset, self.what
        )
    }
}

impl std::error::Error for CheckpointError {}

impl std::error::Error for CheckpointDamage {}

impl From<CheckpointDamage> for CheckpointError {
    fn from(damage: CheckpointDamage) -> CheckpointError {
        CheckpointError::Damaged(damage)
    }
}
