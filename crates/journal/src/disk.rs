//! What a machine may ask of a disk, and how the disk answers.
//!
//! Nothing here touches a file: `server` carries requests out on its disk threads, the simulator
//! on simulated disks. Requests of one [`Lane`] are carried out in the order they were given;
//! different lanes are independent, so that writing a checkpoint never delays a sync of the log.

use base::{GroupId, Slot};
use bytes::Bytes;

/// Comes back with the completion. Unique per node and incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Which queue of the disk a request waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The log's writes and syncs: what clients wait for.
    Journal,
    /// Everything else: preparing segments, reading back, checkpoints.
    Background,
}

/// A file of the data folder. The server knows the path of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum File {
    /// `journal/NNNNNNNNNNNNNNNN.segment`: a segment of the log, by sequence number.
    Segment(u64),
    /// `journal/NNNNNNNNNNNNNNNN.spare`: a segment that is being prepared, or waits to be
    /// recycled.
    SpareSegment(u64),
    /// `checkpoints/GGGGGGGGGGGGGGGG-NNNNNNNNNNNNNNNN.checkpoint`: a complete checkpoint, by its
    /// group and the last slot covered.
    Checkpoint(GroupId, Slot),
    /// `checkpoints/GGGGGGGGGGGGGGGG-NNNNNNNNNNNNNNNN.partial`: a checkpoint that is being written
    /// here.
    PartialCheckpoint(GroupId, Slot),
    /// `checkpoints/GGGGGGGGGGGGGGGG-NNNNNNNNNNNNNNNN.incoming`: a checkpoint that is being
    /// received.
    IncomingCheckpoint(GroupId, Slot),
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Create a file (or empty an existing one) of `length` zero bytes, really written, and sync
    /// it and its folder.
    CreateZeroed {
        /// Which file.
        file: File,
        /// Its length in bytes.
        length: u64,
    },
    /// Write at an offset; the file is created and grows if need be. With `sync`, the data (and
    /// everything written to that file before) is on stable storage when this completes.
    Write {
        /// Which file.
        file: File,
        /// Where.
        offset: u64,
        /// What, in pieces that follow each other.
        data: Vec<Bytes>,
        /// Whether to sync before completing.
        sync: bool,
    },
    /// Read `length` bytes; fewer are returned only at the end of the file.
    Read {
        /// Which file.
        file: File,
        /// From where.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Sync a file.
    Sync {
        /// Which file.
        file: File,
    },
    /// Give a file another name, replacing what has that name, and sync the folder.
    Rename {
        /// The old name.
        from: File,
        /// The new name.
        to: File,
    },
    /// Delete a file, if it is there, and sync the folder.
    Delete {
        /// Which file.
        file: File,
    },
}

/// An operation with its id and lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Comes back with the completion.
    pub id: RequestId,
    /// Which queue it waits in.
    pub lane: Lane,
    /// What to do.
    pub operation: Operation,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Of which request.
    pub id: RequestId,
    /// The bytes read (empty for everything but reads), or what went wrong.
    pub result: Result<Bytes, DiskError>,
}

/// Why an operation failed. Any failure of a write, sync, rename or create on the journal lane
/// stops the process: after a failed sync nobody knows what the disk holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// No space is left on the device.
    Full,
    /// The file does not exist.
    NotFound,
    /// The operating system does not let this process at the file (permissions, limits), which
    /// says nothing about what the file holds.
    Inaccessible(String),
    /// Anything else, as the operating system put it.
    Other(String),
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DiskError::Full => write!(formatter, "no space left on the device"),
            DiskError::NotFound => write!(formatter, "no such file"),
            DiskError::Inaccessible(text) | DiskError::Other(text) => write!(formatter, "{text}"),
        }
    }
}

impl std::error::Error for DiskError {}
