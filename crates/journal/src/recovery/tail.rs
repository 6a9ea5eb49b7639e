//! What is left where the log ends: nothing, a torn batch, or damage.
//!
//! When the batch that comes next is not whole, its blocks and everything behind it in the file
//! are looked at one by one. The verdict, if nothing newer proves that the batch was durable:
//!
//! - some block of it was **never written** (zero, or left from an earlier use): the write was
//!   under way when it was interrupted, so the batch was never durable: cut;
//! - all its blocks were written, but some are **rotten**: it may have been durable: damage.
//!
//! How many blocks it has stands in each of them; if not one can be read, only its first block is
//! certain to belong to it.

use base::mutant::{self, Mutant};

use crate::format::block::{BLOCK_BYTES, Block};

/// Bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) from: u64,
    pub(crate) upto: u64,
}

/// The place where the next batch should stand, and what is there instead.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// The number of the batch that comes next.
    batch: u64,
    /// How many blocks that batch has, as any block of it says.
    count: Option<u64>,
    /// The first block behind `offset` that was never written.
    first_missing: Option<u64>,
    /// The first block behind `offset` that is not a valid block of the batch.
    first_bad: Option<u64>,
    /// The end of the last valid block of this batch, or of a newer one.
    written_upto: u64,
    /// What must be zero before the batch's number is used again.
    to_wipe: Vec<Range>,
}

impl Tail {
    pub(crate) fn new(segment: u64, offset: u64, batch: u64) -> Tail {
        Tail {
            segment,
            offset,
            batch,
            count: None,
            first_missing: None,
            first_bad: None,
            written_upto: offset,
            to_wipe: Vec::new(),
        }
    }

    /// Looks at the next block.
    pub(crate) fn observe(&mut self, offset: u64, block: Block) {
        let position = (offset - self.offset) / BLOCK_BYTES;
        match block {
            Block::Valid(header) if header.batch >= self.batch => {
                self.wipe(offset);
                self.written_upto = offset + BLOCK_BYTES;
                if header.batch == self.batch && u64::from(header.position) == position {
                    self.count = Some(u64::from(header.count));
                    return;
                }
            }
            Block::Valid(_) | Block::Zero => {
                self.first_missing.get_or_insert(position);
            }
            Block::Rotten => self.wipe(offset),
        }
        self.first_bad.get_or_insert(position);
    }

    /// Whether the batch that comes next was certainly not written as a whole.
    pub(crate) fn is_cut(&self) -> bool {
        if mutant::is_on(Mutant::CutOnRot) {
            return true;
        }
        let Some(missing) = self.first_missing else {
            // Not one block fits behind the last batch: the next one never was to stand here.
            return self.first_bad.is_none() && self.count.is_none();
        };
        missing == 0 || self.count.is_some_and(|count| missing < count)
    }

    /// Where the first block is that should be of the batch and is not.
    pub(crate) fn damaged_at(&self) -> u64 {
        self.offset + self.first_bad.unwrap_or(0) * BLOCK_BYTES
    }

    /// How much of the batch was written: the bytes up to its last block; 0 if there is none.
    pub(crate) fn torn_bytes(&self) -> u64 {
        self.written_upto - self.offset
    }

    pub(crate) fn to_wipe(&self) -> &[Range] {
        &self.to_wipe
    }

    fn wipe(&mut self, offset: u64) {
        let upto = offset + BLOCK_BYTES;
        match self.to_wipe.last_mut() {
            Some(range) if range.upto == offset => range.upto = upto,
            _ => self.to_wipe.push(Range { from: offset, upto }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::block::BlockHeader;

    const OLD: Block = valid(4, 0, 9);
    const ROTTEN: Block = Block::Rotten;
    const ZERO: Block = Block::Zero;

    const fn valid(batch: u64, position: u32, count: u32) -> Block {
        Block::Valid(BlockHeader {
            batch,
            position,
            count,
            unsynced: 1,
        })
    }

    /// The tail at byte 1024 of segment 1, where batch 5 should be, with these blocks.
    fn tail(blocks: &[Block]) -> Tail {
        let mut tail = Tail::new(1, 1024, 5);
        for (position, block) in blocks.iter().enumerate() {
            tail.observe(1024 + position as u64 * BLOCK_BYTES, *block);
        }
        tail
    }

    #[test]
    fn what_was_never_written_is_cut() {
        let of = |position| valid(5, position, 3);
        assert!(tail(&[]).is_cut());
        assert!(tail(&[ZERO, ZERO]).is_cut());
        assert!(tail(&[OLD, OLD]).is_cut());
        assert!(tail(&[of(0), ZERO, of(2)]).is_cut());
        assert!(tail(&[of(0), of(1), OLD]).is_cut());
        assert!(tail(&[OLD, of(1), of(2)]).is_cut());
        // Rot beside a block that was never written: the batch was not durable all the same.
        assert!(tail(&[ROTTEN, ZERO, of(2)]).is_cut());
        assert!(tail(&[ZERO, ROTTEN, ROTTEN]).is_cut());
        assert!(tail(&[of(0), ROTTEN, ZERO]).is_cut());
    }

    #[test]
    fn what_may_have_been_durable_is_damage() {
        let of = |position| valid(5, position, 3);
        assert!(!tail(&[of(0), ROTTEN, of(2)]).is_cut());
        assert!(!tail(&[ROTTEN, of(1), of(2), ZERO]).is_cut());
        assert!(!tail(&[ROTTEN, ZERO, ZERO]).is_cut());
        assert!(!tail(&[ROTTEN]).is_cut());
        assert_eq!(tail(&[of(0), ROTTEN, of(2)]).damaged_at(), 1536);
    }

    #[test]
    fn what_is_left_of_a_torn_batch_is_wiped_and_nothing_else() {
        let torn = tail(&[
            valid(5, 0, 9),
            valid(5, 1, 9),
            ZERO,
            OLD,
            valid(5, 4, 9),
            ZERO,
            ROTTEN,
        ]);
        let range = |from, upto| Range { from, upto };
        assert_eq!(
            torn.to_wipe(),
            [range(1024, 2048), range(3072, 3584), range(4096, 4608)]
        );
        assert_eq!(torn.torn_bytes(), 2560);
        assert_eq!(tail(&[ZERO, OLD]).torn_bytes(), 0);
    }
}
