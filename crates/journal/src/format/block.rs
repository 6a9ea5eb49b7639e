//! Blocks: the 512 bytes that a disk writes as one, each with its own checksum.
//!
//! A power cut may leave any subset of the blocks of the batch that was being written. So that a
//! block tells by itself what happened to it, it carries its batch's number, its place in the
//! batch, and a checksum over both, its payload, the identity of the disk and its place in the
//! file. A block is then exactly one of:
//!
//! - **zero**: never written since the segment was created (or wiped by recovery);
//! - **valid** with the expected batch number: written;
//! - **valid** with an older number: left from an earlier use of a recycled segment, so not
//!   written since;
//! - **rotten**: anything else. As sectors are written whole, no power cut makes one.

use base::checksum::{crc32c, crc32c_append};

use super::{is_zero, read_u32, read_u64};
use crate::Identity;

/// The length of a block: the smallest sector in use, written whole or not at all.
pub const BLOCK_BYTES: u64 = 512;
/// What stands before the payload of a block.
pub const BLOCK_HEADER_BYTES: u64 = 24;
/// What a block carries of its batch.
pub const PAYLOAD_BYTES: u64 = BLOCK_BYTES - BLOCK_HEADER_BYTES;

/// Starts the checksum of every block: covers the identity, so that a block of another disk,
/// brought here by whatever error, does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    /// The seed for one disk.
    #[must_use]
    pub fn new(identity: &Identity) -> Seed {
        let mut bytes = [0u8; 24];
        bytes[0..8].copy_from_slice(&identity.cluster.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&identity.node.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&identity.disk.0.to_le_bytes());
        Seed(crc32c(&bytes))
    }

    /// The checksum of a block that stands at `offset` of its segment.
    fn checksum(self, offset: u64, block: &[u8]) -> u32 {
        crc32c_append(crc32c_append(self.0, &offset.to_le_bytes()), &block[4..])
    }
}

/// What a block says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// The batch it belongs to; the first batch of a journal is number 1.
    pub batch: u64,
    /// Which block of the batch it is, from 0.
    pub position: u32,
    /// How many blocks the batch has.
    pub count: u32,
    /// How many batches, this one included, were not known durable when it was written: every
    /// batch up to `batch - unsynced` was.
    pub unsynced: u32,
}

impl BlockHeader {
    /// The last batch that was durable when this block was written.
    #[must_use]
    pub fn synced_through(&self) -> u64 {
        self.batch - u64::from(self.unsynced)
    }
}

/// What has become of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// All zero: never written.
    Zero,
    /// Its checksum is right.
    Valid(BlockHeader),
    /// Neither: the medium has changed it.
    Rotten,
}

/// Says what has become of the block at `offset` of its segment.
#[must_use]
pub fn classify(seed: Seed, offset: u64, block: &[u8]) -> Block {
    if block.len() as u64 != BLOCK_BYTES {
        return Block::Rotten;
    }
    match valid_header(seed, offset, block) {
        Some(header) => Block::Valid(header),
        None if is_zero(block) => Block::Zero,
        None => Block::Rotten,
    }
}

/// The header of a block, if its checksum is right and the header can be true.
fn valid_header(seed: Seed, offset: u64, block: &[u8]) -> Option<BlockHeader> {
    let checksum = read_u32(block, 0)?;
    let header = BlockHeader {
        position: read_u32(block, 4)?,
        count: read_u32(block, 8)?,
        unsynced: read_u32(block, 12)?,
        batch: read_u64(block, 16)?,
    };
    let plausible = header.position < header.count
        && header.unsynced > 0
        && u64::from(header.unsynced) <= header.batch;
    (plausible && seed.checksum(offset, block) == checksum).then_some(header)
}

/// Fills in the header of a block whose payload is complete.
pub(crate) fn seal(seed: Seed, offset: u64, block: &mut [u8], header: BlockHeader) {
    assert!(block.len() as u64 == BLOCK_BYTES, "a block is 512 bytes");
    block[4..8].copy_from_slice(&header.position.to_le_bytes());
    block[8..12].copy_from_slice(&header.count.to_le_bytes());
    block[12..16].copy_from_slice(&header.unsynced.to_le_bytes());
    block[16..24].copy_from_slice(&header.batch.to_le_bytes());
    let checksum = seed.checksum(offset, block);
    block[0..4].copy_from_slice(&checksum.to_le_bytes());
}

/// The number of blocks that hold so many payload bytes.
#[must_use]
pub fn blocks_for(payload_bytes: u64) -> u64 {
    payload_bytes.div_ceil(PAYLOAD_BYTES)
}

/// Where the payload byte number `payload` stands, counted from the start of block 0.
#[must_use]
pub fn offset_of_payload(payload: u64) -> u64 {
    payload / PAYLOAD_BYTES * BLOCK_BYTES + BLOCK_HEADER_BYTES + payload % PAYLOAD_BYTES
}

/// The offset behind `length` payload bytes that start at `offset` (of a payload byte; `length`
/// is at least 1). The bytes themselves reach from `offset` to here, with the block headers
/// between.
#[must_use]
pub fn end_of_payload(offset: u64, length: u64) -> u64 {
    let within = offset % BLOCK_BYTES - BLOCK_HEADER_BYTES;
    let last = within + length - 1;
    offset - offset % BLOCK_BYTES + offset_of_payload(last) + 1
}

/// The payload bytes of `blocks` (which start at a block's start) from `offset` on, in pieces.
pub fn payload_pieces(blocks: &[u8], offset: u64) -> impl Iterator<Item = &[u8]> {
    let block_bytes = BLOCK_BYTES as usize;
    let header_bytes = BLOCK_HEADER_BYTES as usize;
    let first = offset as usize / block_bytes;
    blocks
        .chunks(block_bytes)
        .enumerate()
        .skip(first)
        .map(move |(index, block)| {
            let skip = if index == first {
                offset as usize % block_bytes
            } else {
                header_bytes
            };
            block.get(skip.max(header_bytes)..).unwrap_or(&[])
        })
}

/// Copies `length` payload bytes from `offset` on; `None` if there are not so many.
#[must_use]
pub fn copy_payload(blocks: &[u8], offset: u64, length: u64) -> Option<Vec<u8>> {
    let mut missing = usize::try_from(length).ok()?;
    if missing > blocks.len() {
        return None;
    }
    let mut bytes = Vec::with_capacity(missing);
    for piece in payload_pieces(blocks, offset) {
        let take = piece.len().min(missing);
        bytes.extend_from_slice(&piece[..take]);
        missing -= take;
        if missing == 0 {
            break;
        }
    }
    (missing == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{ClusterId, DiskId, NodeId};

    fn seed() -> Seed {
        Seed::new(&Identity {
            cluster: ClusterId(1),
            node: NodeId(2),
            disk: DiskId(3),
        })
    }

    fn sealed() -> Vec<u8> {
        let mut block: Vec<u8> = (0..BLOCK_BYTES).map(|byte| byte as u8).collect();
        let header = BlockHeader {
            batch: 7,
            position: 1,
            count: 3,
            unsynced: 1,
        };
        seal(seed(), 1024, &mut block, header);
        block
    }

    #[test]
    fn a_sealed_block_is_valid_only_at_its_place_and_on_its_disk() {
        let block = sealed();
        let header = BlockHeader {
            batch: 7,
            position: 1,
            count: 3,
            unsynced: 1,
        };
        assert_eq!(classify(seed(), 1024, &block), Block::Valid(header));
        assert_eq!(header.synced_through(), 6);
        assert_eq!(classify(seed(), 1536, &block), Block::Rotten);
        let other = Identity {
            cluster: ClusterId(1),
            node: NodeId(2),
            disk: DiskId(4),
        };
        assert_eq!(classify(Seed::new(&other), 1024, &block), Block::Rotten);
    }

    #[test]
    fn every_flipped_bit_makes_a_block_rotten() {
        let mut block = sealed();
        for bit in 0..BLOCK_BYTES as usize * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(classify(seed(), 1024, &block), Block::Rotten, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn zeros_are_never_written_and_short_blocks_are_rotten() {
        assert_eq!(classify(seed(), 0, &[0; 512]), Block::Zero);
        assert_eq!(classify(seed(), 0, &[0; 511]), Block::Rotten);
    }

    #[test]
    fn payload_arithmetic_agrees_with_copying() {
        let blocks: Vec<u8> = (0..4 * BLOCK_BYTES).map(|at| (at % 251) as u8).collect();
        for from in [0, 1, 487, 488, 489, 975, 976] {
            for length in [1, 2, 487, 488, 489, 900] {
                let offset = offset_of_payload(from);
                let end = end_of_payload(offset, length);
                assert_eq!(end, offset_of_payload(from + length - 1) + 1);
                if end <= blocks.len() as u64 {
                    let copied = copy_payload(&blocks, offset, length).unwrap();
                    assert_eq!(copied.len() as u64, length);
                    assert_eq!(copied[0], blocks[offset as usize]);
                    assert_eq!(copied[copied.len() - 1], blocks[end as usize - 1]);
                } else {
                    assert_eq!(copy_payload(&blocks, offset, length), None);
                }
            }
        }
    }
}
