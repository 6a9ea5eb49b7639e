//! The head of a segment: whose it is, which one it is, and where the log goes on in it.
//!
//! The magic, the version and the checksum stand at the same place in every version of the
//! format, so that a newer version is told from damage.

use base::checksum::{crc32c, crc32c_append};
use base::{ClusterId, DiskId, NodeId};

use super::block::BLOCK_BYTES;
use super::{is_zero, read_u32, read_u64};
use crate::Identity;

/// The first bytes of every segment.
pub const MAGIC: [u8; 8] = *b"QUORATEJ";
/// The version of the format that this build writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// What stands in the first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// Whose segment it is.
    pub identity: Identity,
    /// Which segment it is, from 1; each use of a recycled file has a new number.
    pub sequence: u64,
    /// The number of the first batch in it.
    pub first_batch: u64,
    /// The length of the file in bytes.
    pub segment_bytes: u64,
    /// The checksum of the batch before the first one in it (0 if there was none).
    pub previous_checksum: u32,
    /// The log begins anew here: segments with smaller numbers are not part of it.
    pub begins_anew: bool,
}

/// What has become of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// All zero: never written.
    Zero,
    /// Its checksum is right.
    Valid(SegmentHead),
    /// Its checksum is right, but the format is newer than this build knows.
    Newer {
        /// The version found.
        version: u32,
    },
    /// Anything else: the medium has changed it, or it is no segment at all.
    Rotten,
}

/// The checksum of a head block: everything but the checksum itself.
fn checksum(block: &[u8]) -> u32 {
    crc32c_append(crc32c(&block[..12]), &block[16..])
}

impl SegmentHead {
    /// The head as the first block of a segment.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK_BYTES as usize);
        block.extend_from_slice(&MAGIC);
        block.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(&self.identity.cluster.0.to_le_bytes());
        block.extend_from_slice(&self.identity.node.0.to_le_bytes());
        block.extend_from_slice(&self.identity.disk.0.to_le_bytes());
        block.extend_from_slice(&self.sequence.to_le_bytes());
        block.extend_from_slice(&self.first_batch.to_le_bytes());
        block.extend_from_slice(&self.segment_bytes.to_le_bytes());
        block.extend_from_slice(&self.previous_checksum.to_le_bytes());
        block.extend_from_slice(&(BLOCK_BYTES as u32).to_le_bytes());
        block.extend_from_slice(&u32::from(self.begins_anew).to_le_bytes());
        block.resize(BLOCK_BYTES as usize, 0);
        let checksum = checksum(&block);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads the first block of a segment.
    #[must_use]
    pub fn decode(block: &[u8]) -> Head {
        if block.len() as u64 != BLOCK_BYTES {
            return Head::Rotten;
        }
        if is_zero(block) {
            return Head::Zero;
        }
        if block[..8] != MAGIC || read_u32(block, 12) != Some(checksum(block)) {
            return Head::Rotten;
        }
        match read_u32(block, 8) {
            Some(FORMAT_VERSION) => SegmentHead::decode_fields(block).unwrap_or(Head::Rotten),
            Some(version) if version > FORMAT_VERSION => Head::Newer { version },
            _ => Head::Rotten,
        }
    }

    /// Reads the fields of version 1.
    fn decode_fields(block: &[u8]) -> Option<Head> {
        let head = SegmentHead {
            identity: Identity {
                cluster: ClusterId(read_u64(block, 16)?),
                node: NodeId(read_u64(block, 24)?),
                disk: DiskId(read_u64(block, 32)?),
            },
            sequence: read_u64(block, 40)?,
            first_batch: read_u64(block, 48)?,
            segment_bytes: read_u64(block, 56)?,
            previous_checksum: read_u32(block, 64)?,
            begins_anew: read_u32(block, 72)? != 0,
        };
        // Numbers are counted up from 1 and never come near their end.
        let plausible = 1..1 << 62;
        let sound = plausible.contains(&head.sequence)
            && plausible.contains(&head.first_batch)
            && head.segment_bytes.is_multiple_of(BLOCK_BYTES)
            && read_u32(block, 72)? <= 1
            && u64::from(read_u32(block, 68)?) == BLOCK_BYTES;
        sound.then_some(Head::Valid(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> SegmentHead {
        SegmentHead {
            identity: Identity {
                cluster: ClusterId(1),
                node: NodeId(2),
                disk: DiskId(3),
            },
            sequence: 4,
            first_batch: 5,
            segment_bytes: 4096,
            previous_checksum: 6,
            begins_anew: true,
        }
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_every_flip_is_seen() {
        let mut block = head().encode();
        assert_eq!(SegmentHead::decode(&block), Head::Valid(head()));
        for bit in 0..block.len() * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHead::decode(&block), Head::Rotten, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(SegmentHead::decode(&[0; 512]), Head::Zero);
        assert_eq!(SegmentHead::decode(&block[..511]), Head::Rotten);
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut block = head().encode();
        block[8] = 2;
        assert_eq!(SegmentHead::decode(&block), Head::Rotten);
        let checksum = checksum(&block);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(SegmentHead::decode(&block), Head::Newer { version: 2 });
    }
}
