//! The deterministic replicated state of a group: spaces of rows, of which some keep history.
//!
//! - [`space`]: the named spaces, who owns them, which keep history.
//! - [`state`]: how entries change a state; [`transaction`]: one command's buffered effects.
//! - [`reader`]: reading, at the latest or an older revision, in place or from a snapshot.
//! - [`lease`]: what ends by itself unless it is renewed, on the group's own clock.
//! - [`shared_rows`]: the rows of one space, for keeping.
//! - [`origin`]: the bounded memory of which commands were executed.
//! - [`checkpoint`]: a state as a stream of checksummed blocks, and back.
//! - [`interruption`]: executions that are given up at a read and run again.
//! - [`digest`]: one number that is equal on replicas that agree.
//! - `tree` and `keyspace`: the ordered map beneath, and the versions, index and compaction.
//!
//! What a state holds is decided by its entries alone. It does no input or output and reads no
//! clock; the only errors are those of damaged checkpoints, everything else is either a result or
//! a mistake of the program. The format of checkpoints, and why things are as they are, is in
//! `docs/internals/state.md`.

mod buffered;
pub mod checkpoint;
pub mod digest;
pub mod interruption;
pub mod key_value;
mod keyspace;
mod keyspace_hash;
pub mod lease;
pub mod limits;
pub mod origin;
pub mod reader;
mod restore;
pub mod shared_rows;
pub mod space;
pub mod state;
pub mod transaction;
mod tree;

pub use checkpoint::{
    CheckpointDamage, CheckpointError, CheckpointHead, CheckpointReader, CheckpointSummary,
    CheckpointVerifier, CheckpointWriter,
};
pub use digest::Digest;
pub use interruption::Interrupted;
pub use key_value::{Event, EventBatch, EventKind, KeyRange, KeyValue, Revision};
pub use lease::{Lease, LeaseId, Tie};
pub use limits::{LEVEL_MAX, Limits, Settings};
pub use origin::{Admission, Origin};
pub use reader::{Reader, Snapshot};
pub use restore::Fate;
pub use shared_rows::SharedRows;
pub use space::Space;
pub use state::{EntryStamp, State};
pub use transaction::Transaction;
