//! Batches: what one write and one sync make durable together.
//!
//! A batch is built in the very buffer that is written: records are copied once, around the gaps
//! that are left for the block headers; sealing fills the gaps in.

use base::checksum::crc32c_append;
use bytes::Bytes;

use super::block::{self, BLOCK_BYTES, BLOCK_HEADER_BYTES, BlockHeader, PAYLOAD_BYTES, Seed};
use super::record::{self, RecordFault, StoredRecord};
use super::{is_zero, read_u32, read_u64};

/// What stands before the records of a batch.
pub const HEADER_BYTES: u64 = 40;

/// What stands at the start of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Covers the checksums of all records in order, then the rest of this header.
    pub checksum: u32,
    /// The checksum of the batch before this one (0 for the first): the chain.
    pub previous_checksum: u32,
    /// Counts the batches of a journal from 1, without a gap.
    pub number: u64,
    /// The last batch known to be durable when this one was written.
    pub synced_through: u64,
    /// The oldest segment that the log needs from here on.
    pub oldest_segment: u64,
    /// The bytes of the records behind this header.
    pub records_bytes: u32,
    /// How many records there are.
    pub records: u32,
}

impl BatchHeader {
    /// The header's bytes; `checksum` covers everything but itself.
    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0u8; HEADER_BYTES as usize];
        bytes[0..4].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.previous_checksum.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.synced_through.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.oldest_segment.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.records_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.records.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` if there are too few bytes.
    fn decode(bytes: &[u8]) -> Option<BatchHeader> {
        Some(BatchHeader {
            checksum: read_u32(bytes, 0)?,
            previous_checksum: read_u32(bytes, 4)?,
            number: read_u64(bytes, 8)?,
            synced_through: read_u64(bytes, 16)?,
            oldest_segment: read_u64(bytes, 24)?,
            records_bytes: read_u32(bytes, 32)?,
            records: read_u32(bytes, 36)?,
        })
    }
}

/// What a batch is told when it is sealed.
#[derive(Clone, Copy, Debug)]
pub struct Sealing {
    /// The seed of the block checksums.
    pub seed: Seed,
    /// Where in the segment the batch starts.
    pub offset: u64,
    /// See [`BatchHeader::number`].
    pub number: u64,
    /// See [`BatchHeader::previous_checksum`].
    pub previous_checksum: u32,
    /// See [`BatchHeader::synced_through`].
    pub synced_through: u64,
    /// See [`BatchHeader::oldest_segment`].
    pub oldest_segment: u64,
}

/// A batch that records are still added to.
#[derive(Debug)]
pub struct BatchBuilder {
    /// Blocks, the last one perhaps partly filled; block headers and batch header are still zero.
    buffer: Vec<u8>,
    /// Covers the checksums of the records so far.
    checksum: u32,
    records: u32,
}

impl BatchBuilder {
    /// An empty batch in a buffer (used before, so that it need not be allocated anew).
    #[must_use]
    pub fn new(mut buffer: Vec<u8>) -> BatchBuilder {
        buffer.clear();
        buffer.resize((BLOCK_HEADER_BYTES + HEADER_BYTES) as usize, 0);
        BatchBuilder {
            buffer,
            checksum: 0,
            records: 0,
        }
    }

    /// Adds a record; returns where it starts, counted from the start of the batch.
    pub fn push(&mut self, record: &StoredRecord) -> u64 {
        let (header, checksum) = record.encode_header();
        self.open_block();
        let offset = self.buffer.len() as u64;
        self.extend(&header);
        self.extend(&record.body);
        self.checksum = crc32c_append(self.checksum, &checksum.to_le_bytes());
        self.records += 1;
        offset
    }

    /// How many records there are.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records
    }

    /// The payload bytes so far, batch header included.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        let length = self.buffer.len() as u64;
        let (whole, rest) = (length / BLOCK_BYTES, length % BLOCK_BYTES);
        whole * PAYLOAD_BYTES + rest.saturating_sub(BLOCK_HEADER_BYTES)
    }

    /// The bytes that the batch will take on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        (self.buffer.len() as u64).next_multiple_of(BLOCK_BYTES)
    }

    /// The blocks so far, with empty headers: for reading entries back before they are written.
    #[must_use]
    pub fn blocks(&self) -> &[u8] {
        &self.buffer
    }

    /// Completes the batch; returns its blocks and its checksum.
    #[must_use]
    pub fn seal(mut self, sealing: &Sealing) -> (Vec<u8>, u32) {
        assert!(
            sealing.synced_through < sealing.number,
            "a batch is not durable before itself"
        );
        let records_bytes = self.payload_bytes() - HEADER_BYTES;
        let mut header = BatchHeader {
            checksum: 0,
            previous_checksum: sealing.previous_checksum,
            number: sealing.number,
            synced_through: sealing.synced_through,
            oldest_segment: sealing.oldest_segment,
            records_bytes: u32::try_from(records_bytes).expect("a batch fits into a segment"),
            records: self.records,
        };
        header.checksum = crc32c_append(self.checksum, &header.encode()[4..]);
        let at = BLOCK_HEADER_BYTES as usize;
        self.buffer[at..at + HEADER_BYTES as usize].copy_from_slice(&header.encode());

        self.buffer.resize(self.disk_bytes() as usize, 0);
        let count = self.buffer.len() as u64 / BLOCK_BYTES;
        let unsynced = sealing.number - sealing.synced_through;
        let blocks = self.buffer.chunks_exact_mut(BLOCK_BYTES as usize);
        for (position, block) in blocks.enumerate() {
            let header = BlockHeader {
                batch: sealing.number,
                position: position as u32,
                count: u32::try_from(count).expect("a batch fits into a segment"),
                unsynced: u32::try_from(unsynced).expect("few batches are in flight"),
            };
            block::seal(
                sealing.seed,
                sealing.offset + position as u64 * BLOCK_BYTES,
                block,
                header,
            );
        }
        (self.buffer, header.checksum)
    }

    /// Leaves room for the next block's header if a block is full.
    fn open_block(&mut self) {
        if (self.buffer.len() as u64).is_multiple_of(BLOCK_BYTES) {
            self.buffer
                .resize(self.buffer.len() + BLOCK_HEADER_BYTES as usize, 0);
        }
    }

    /// Copies bytes around the block headers.
    fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.open_block();
            let room = BLOCK_BYTES as usize - self.buffer.len() % BLOCK_BYTES as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
    }
}

/// Why the payload of a batch, whose blocks are all valid, is no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFault {
    /// The header contradicts the blocks.
    Header,
    /// It follows another batch than the one before it.
    Chain,
    /// A record is not whole.
    Record(RecordFault),
    /// The checksum over all of it is wrong.
    Checksum,
}

impl std::fmt::Display for BatchFault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BatchFault::Header => write!(formatter, "the header of a batch is impossible"),
            BatchFault::Chain => write!(formatter, "a batch does not follow the one before it"),
            BatchFault::Record(fault) => write!(formatter, "{fault}"),
            BatchFault::Checksum => write!(formatter, "the checksum of a batch is wrong"),
        }
    }
}

/// A batch as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its header.
    pub header: BatchHeader,
    /// Its records, each with the place of its first byte, counted from the start of block 0.
    pub records: Vec<(u64, StoredRecord)>,
}

/// Reads a batch from its payload (the blocks without their headers), whose blocks say that it is
/// number `number`.
///
/// # Errors
/// If it is not whole, or does not follow the batch with the checksum `previous_checksum`.
pub fn decode(payload: &Bytes, number: u64, previous_checksum: u32) -> Result<Batch, BatchFault> {
    let header = BatchHeader::decode(payload).ok_or(BatchFault::Header)?;
    let end = HEADER_BYTES + u64::from(header.records_bytes);
    let sound = header.number == number
        && header.synced_through < number
        && end <= payload.len() as u64
        && block::blocks_for(end) * PAYLOAD_BYTES == payload.len() as u64
        && is_zero(&payload[end as usize..]);
    if !sound {
        return Err(BatchFault::Header);
    }
    if header.previous_checksum != previous_checksum {
        return Err(BatchFault::Chain);
    }
    let (mut at, mut checksum) = (HEADER_BYTES, 0);
    let mut records = Vec::new();
    while at < end {
        let rest = payload.slice(at as usize..end as usize);
        let (record, of_record) = record::decode(&rest).map_err(BatchFault::Record)?;
        checksum = crc32c_append(checksum, &of_record.to_le_bytes());
        let length = record.encoded_bytes();
        records.push((block::offset_of_payload(at), record));
        at += length;
    }
    checksum = crc32c_append(checksum, &header.encode()[4..]);
    if records.len() as u64 != u64::from(header.records) || checksum != header.checksum {
        return Err(BatchFault::Checksum);
    }
    Ok(Batch { header, records })
}

#[cfg(test)]
mod tests {
    use super::super::record::{RecordKind, StoredKind};
    use super::*;
    use crate::Identity;
    use base::{ClusterId, DiskId, Epoch, GroupId, NodeId, Slot};

    fn sealing() -> Sealing {
        let identity = Identity {
            cluster: ClusterId(1),
            node: NodeId(2),
            disk: DiskId(3),
        };
        Sealing {
            seed: Seed::new(&identity),
            offset: 512,
            number: 9,
            previous_checksum: 77,
            synced_through: 8,
            oldest_segment: 2,
        }
    }

    fn record(slot: u64, length: usize) -> StoredRecord {
        StoredRecord {
            group: GroupId(1),
            kind: StoredKind::Given(RecordKind::Entry),
            slot: Slot(slot),
            epoch: Epoch(3),
            body: Bytes::from(vec![slot as u8; length]),
        }
    }

    fn payload(blocks: &[u8]) -> Bytes {
        let bytes = blocks.len() as u64 / BLOCK_BYTES * PAYLOAD_BYTES;
        block::copy_payload(blocks, BLOCK_HEADER_BYTES, bytes)
            .unwrap()
            .into()
    }

    /// Lengths around every boundary: a record that ends with its block, one that starts a block,
    /// one that leaves less than a header.
    #[test]
    fn a_batch_is_read_as_it_was_built() {
        for first in [0, 1, 375, 376, 377, 411, 412, 413, 900, 2000] {
            let mut builder = BatchBuilder::new(vec![1, 2, 3]);
            let wanted: Vec<(u64, StoredRecord)> = [first, 0, 5, 488, 3]
                .into_iter()
                .enumerate()
                .map(|(slot, length)| record(slot as u64 + 1, length))
                .map(|record| (builder.push(&record), record))
                .collect();
            let disk_bytes = builder.disk_bytes();
            let payload_bytes = builder.payload_bytes();
            let (blocks, checksum) = builder.seal(&sealing());
            assert_eq!(blocks.len() as u64, disk_bytes);
            assert_eq!(block::blocks_for(payload_bytes) * BLOCK_BYTES, disk_bytes);
            let batch = decode(&payload(&blocks), 9, 77).unwrap();
            assert_eq!(batch.records, wanted);
            assert_eq!(batch.header.checksum, checksum);
            assert_eq!(
                (batch.header.synced_through, batch.header.oldest_segment),
                (8, 2)
            );
            assert_eq!(decode(&payload(&blocks), 10, 77), Err(BatchFault::Header));
            assert_eq!(decode(&payload(&blocks), 9, 78), Err(BatchFault::Chain));
        }
    }

    #[test]
    fn an_empty_batch_takes_one_block() {
        let (blocks, _) = BatchBuilder::new(Vec::new()).seal(&sealing());
        assert_eq!(blocks.len(), 512);
        assert_eq!(decode(&payload(&blocks), 9, 77).unwrap().records, vec![]);
    }

    /// Even without the block checksums, nothing but the truth is read from a batch.
    #[test]
    fn every_flipped_byte_of_the_payload_is_seen() {
        let mut builder = BatchBuilder::new(Vec::new());
        for slot in 1..4 {
            builder.push(&record(slot, 200));
        }
        let whole = payload(&builder.seal(&sealing()).0);
        for at in 0..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 0x40;
            assert!(decode(&bytes.into(), 9, 77).is_err(), "byte {at}");
        }
    }
}
