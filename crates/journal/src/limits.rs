//! The journal's named limits, as values that are passed in, so that a simulator can shrink them.

use crate::format::block::{BLOCK_BYTES, PAYLOAD_BYTES};
use crate::format::{batch, record};

/// No segment is longer, so that offsets in a segment fit into 32 bits.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How large things may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The length of a segment file, a multiple of 512. Segments written under another limit keep
    /// the length that stands in their head.
    pub segment_bytes: u64,
    /// No more records are put into a batch once it holds this many bytes (it holds at least one
    /// record, however long).
    pub batch_bytes_max: u64,
    /// The most that one read asks for, in recovery and when entries are fetched (a single longer
    /// entry is read at once). A multiple of 512.
    pub read_bytes: u64,
    /// Entries that are fetched share one read if no more than this many bytes lie between them.
    pub read_gap_bytes: u64,
    /// Released segments kept for reuse; more are deleted.
    pub spare_segments: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            segment_bytes: 64 << 20,
            batch_bytes_max: 4 << 20,
            read_bytes: 1 << 20,
            read_gap_bytes: 16 << 10,
            spare_segments: 2,
        }
    }
}

impl Limits {
    /// The longest body that a record may have: it must fit into one batch in one segment.
    #[must_use]
    pub fn body_bytes_max(&self) -> u64 {
        let blocks = self.segment_bytes / BLOCK_BYTES - 1;
        blocks * PAYLOAD_BYTES - batch::HEADER_BYTES - record::HEADER_BYTES
    }

    /// The most payload bytes (header included) that a batch of several records may have.
    pub(crate) fn batch_payload_max(&self) -> u64 {
        let blocks = self.segment_bytes / BLOCK_BYTES - 1;
        self.batch_bytes_max.min(blocks * PAYLOAD_BYTES)
    }

    /// Stops the process if the limits contradict each other: they are set by programs.
    pub(crate) fn check(&self) {
        assert!(
            self.segment_bytes.is_multiple_of(BLOCK_BYTES),
            "segments are whole blocks"
        );
        assert!(
            self.segment_bytes >= 4 * BLOCK_BYTES,
            "a segment holds a head and some batches"
        );
        assert!(
            self.segment_bytes <= SEGMENT_BYTES_MAX,
            "offsets in a segment fit into 32 bits"
        );
        assert!(
            self.read_bytes >= BLOCK_BYTES,
            "a read is at least one block"
        );
        assert!(
            self.read_bytes.is_multiple_of(BLOCK_BYTES),
            "reads are whole blocks"
        );
    }
}
