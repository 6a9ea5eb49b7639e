//! A checkpoint that is being written: how much at a time, and when.
//!
//! ```text
//!   blocks   ├──────┼─────────┼───────┼──────────┼────┤
//!   chunks   ├─────────────────┤ ─ ─ ─ ─ ─ ─ ─ ─ ─┤ ─┤     each ends at a whole block of a device
//! ```
//!
//! Those who write meanwhile share processor and disk with it. So it is written slowly. It must
//! come to its end, however much is written: for each byte that the log has grown by, some more of
//! it may follow at once, so that the log is never longer than by a part of it.

use std::time::Duration;

use base::{Instant, Slot};
use bytes::Bytes;
use state::{CheckpointSummary, CheckpointWriter};

/// Offsets of chunks are multiples of this, so that a host can write them past its page cache.
const ALIGNMENT: u64 = 4096;

/// For each byte of the log that came since it was begun, so many bytes need not wait.
const BYTES_PER_LOG_BYTE: u64 = 4;

/// See the head of this file.
pub(super) struct Writing {
    pub(super) slot: Slot,
    writer: CheckpointWriter,
    written: u64,
    /// What has been taken from the writer, and belongs to the next chunk.
    rest: Vec<Bytes>,
    started: Instant,
    /// How long the log was when it was begun.
    log_bytes: u64,
    /// The next chunk may be written; no other one is under way.
    may_go_on: bool,
    /// When it is to be written.
    next_chunk: Instant,
}

/// What is to be written next.
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Nothing if all has been written.
    pub(super) data: Vec<Bytes>,
}

impl Writing {
    pub(super) fn new(
        now: Instant,
        slot: Slot,
        writer: CheckpointWriter,
        log_bytes: u64,
    ) -> Writing {
        Writing {
            slot,
            writer,
            written: 0,
            rest: Vec::new(),
            started: now,
            log_bytes,
            may_go_on: true,
            next_chunk: now,
        }
    }

    /// When there is something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.may_go_on.then_some(self.next_chunk)
    }

    /// The next chunk, of about so many bytes, if its time has come.
    pub(super) fn take_chunk(&mut self, now: Instant, bytes: u64) -> Option<Chunk> {
        if !self.may_go_on || self.next_chunk > now {
            return None;
        }
        self.may_go_on = false;
        let mut data = std::mem::take(&mut self.rest);
        let mut length: u64 = data.iter().map(|block| block.len() as u64).sum();
        let mut is_end = false;
        while length < bytes && !is_end {
            match self.writer.next_block() {
                Some(block) => {
                    length += block.len() as u64;
                    data.push(block);
                }
                None => is_end = true,
            }
        }
        if !is_end && bytes >= ALIGNMENT {
            self.rest = split_off_end(&mut data, length % ALIGNMENT);
            length -= length % ALIGNMENT;
        }
        let offset = self.written;
        self.written += length;
        Some(Chunk {
            offset,
            length,
            data,
        })
    }

    /// A chunk has been written: the next one follows in time for so many bytes a second.
    pub(super) fn chunk_written(&mut self, now: Instant, log_bytes: u64, pace: u64) {
        let grown = log_bytes.saturating_sub(self.log_bytes);
        let paced = self
            .written
            .saturating_sub(grown.saturating_mul(BYTES_PER_LOG_BYTE));
        let nanoseconds = u128::from(paced) * 1_000_000_000 / u128::from(pace.max(1));
        let due = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.next_chunk = (self.started + due).max(now);
        self.may_go_on = true;
    }

    /// What identifies it, once all of it has been taken.
    pub(super) fn summary(&self) -> Option<CheckpointSummary> {
        self.writer.summary()
    }
}

/// Takes so many bytes away from the end.
fn split_off_end(data: &mut Vec<Bytes>, mut bytes: u64) -> Vec<Bytes> {
    let mut rest = Vec::new();
    while bytes > 0 {
        let mut last = data.pop().expect("there are as many");
        let length = last.len() as u64;
        if length > bytes {
            let kept = usize::try_from(length - bytes).expect("shorter than a block");
            rest.push(last.split_off(kept));
            data.push(last);
            break;
        }
        bytes -= length;
        rest.push(last);
    }
    rest.reverse();
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(lengths: &[usize]) -> Vec<Bytes> {
        let mut next = 0_u8;
        let mut block = |length: &usize| {
            let bytes: Vec<u8> = (0..*length)
                .map(|each| next.wrapping_add(each as u8))
                .collect();
            next = next.wrapping_add(*length as u8);
            Bytes::from(bytes)
        };
        lengths.iter().map(&mut block).collect()
    }

    #[test]
    fn what_is_split_off_goes_on_where_the_rest_ends() {
        for bytes in 0..=30 {
            let mut data = blocks(&[10, 1, 0, 7, 12]);
            let all = data.concat();
            let rest = split_off_end(&mut data, bytes).concat();
            assert_eq!(rest.len() as u64, bytes);
            assert_eq!([data.concat(), rest].concat(), all);
        }
    }
}
