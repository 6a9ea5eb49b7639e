//! The log on disk: one stream of records per disk, for all groups, as a pure state machine.
//!
//! ```text
//! engines ──▶ append, flush ──▶ ┌─────────┐ ──▶ one Write{sync} per batch ──▶ Done::Durable
//! engines ──▶ fetch ──────────▶ │ Journal │ ──▶ Reads, verified ──────────▶ Done::Fetched
//!  replica ─▶ release ────────▶ └─────────┘ ──▶ whole segments recycled
//!                                    ▲
//! journal folder ──▶ Recovery ───────┘   reads everything once, cuts a torn tail, refuses damage
//! ```
//!
//! One stream rather than one per group: a sync costs the same for one record as for a thousand,
//! so everything that is ready shares one. A torn tail (what a power cut leaves of the last
//! batch) is told from damage (what the medium lost of something durable): the first is cut, the
//! second is never cut, because it may be the last copy of something acknowledged.
//!
//! The formats, byte by byte, and why recovery decides as it does: `docs/internals/journal.md`.

use base::{ClusterId, DiskId, NodeId};

pub mod disk;
pub mod format;
mod index;
mod journal;
mod limits;
mod recovery;

pub use format::record::{Record, RecordKind};
pub use journal::{Done, FetchedEntry, Journal, Metrics};
pub use limits::Limits;
pub use recovery::{Recovered, RecoveredGroup, Recovery, RecoveryError, RecoveryStep, TornTail};

/// Whose journal it is. Stands in the head of each segment and in the checksum of each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The data folder.
    pub disk: DiskId,
}
