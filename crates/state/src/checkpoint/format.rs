//! The numbers that writer and reader of checkpoints share.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::limits::ROW_BYTES_MAX;

/// The first bytes of a checkpoint's head.
pub(super) const MAGIC: [u8; 8] = *b"QRCKPT\r\n";

/// The version of the format that this build writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// Kinds of blocks.
pub(super) const KIND_HEAD: u32 = 1;
pub(super) const KIND_VERSIONS: u32 = 2;
pub(super) const KIND_ROWS: u32 = 3;
pub(super) const KIND_FOOTER: u32 = 4;

/// Before a block's content: its kind and its length.
pub(super) const BLOCK_HEAD_LENGTH: usize = 8;

/// After a block's content: its checksum.
pub(super) const BLOCK_TAIL_LENGTH: usize = 4;

/// Before the records of a block: the space, and how many records follow.
pub(super) const RECORDS_HEAD_LENGTH: usize = 5;

/// The fixed part of a version's record.
pub(super) const VERSION_LENGTH: usize = 44;

/// The fixed part of a row's record.
pub(super) const ROW_LENGTH: usize = 8;

/// The footer's content.
pub(super) const FOOTER_LENGTH: usize = 56;

/// No block's content is longer. A block is closed as soon as it has reached its nominal length,
/// so only the record that closes it can carry it beyond that.
pub(super) fn content_length_max(block_bytes: usize) -> usize {
    let longest_record = VERSION_LENGTH + ROW_BYTES_MAX;
    // Another replica may write blocks of another nominal length; 1 MiB is far above any.
    RECORDS_HEAD_LENGTH + block_bytes.max(1 << 20) + longest_record
}

/// The checksum of a checkpoint up to and including `block`, from that of what is before it.
pub(super) fn chain(before: u64, block: &[u8]) -> u64 {
    xxh3_64_with_seed(block, before)
}
