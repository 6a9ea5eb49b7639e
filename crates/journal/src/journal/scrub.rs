//! Reading what has been written long ago, before somebody needs it.
//!
//! ```text
//!   segment 7 (full)                                  segment 8 (full)      segment 9 (current)
//!  │head│b40│b41│b42│ rest: zeros, earlier uses │    │head│b43│ … │         │head│  not looked at
//!    ▲    valid, of no earlier batch, and rot only     ▲ says that b42 was the last before it
//! ```
//!
//! A block that is not as it was written counts as damage only if a block of the log stands behind
//! it, or the next head tells that one is missing: behind the last batch of a segment anything may
//! stand. The current segment changes under the eyes of whoever reads it; its head does not.

use bytes::Bytes;

use super::{Done, Journal, Purpose};
use crate::disk::{DiskError, File, Lane, Operation, Request};
use crate::format::block::{self, BLOCK_BYTES, Block};
use crate::format::head::{Head, SegmentHead};
use crate::recovery::path;

/// How far a round has come.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    /// The segment that is read; what was before it has been.
    segment: u64,
    offset: u64,
    /// The number of the last batch met, and how many blocks of it are missing so far.
    batch: u64,
    missing: u32,
    /// The first block that is not of the log, since the last one that is.
    strange: Option<u64>,
    is_reading: bool,
}

/// Where something is not as it was written, and what is wrong.
type Finding = (u64, u64, String);

impl Journal {
    /// Reads the next `bytes` at most of what nobody writes to any more; answered by
    /// [`Done::Scrubbed`]. Returns whether there was something: if not, a round is over, and the
    /// next call begins another one.
    pub fn scrub(&mut self, bytes: u64, out: &mut Vec<Request>) -> bool {
        if self.halted || self.scrub.is_reading {
            return true;
        }
        let from = self.scrub.segment;
        let mut in_use = self.segments.in_use.iter().copied();
        let Some(segment) = in_use.find(|segment| segment.sequence >= from) else {
            self.scrub = Scrub::default();
            return false;
        };
        if segment.sequence != from {
            self.scrub.begin(segment.sequence);
        }
        let is_current = in_use.next().is_none();
        let end = if is_current {
            BLOCK_BYTES
        } else {
            segment.bytes
        };
        let offset = self.scrub.offset;
        let length = bytes.max(BLOCK_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
        let read = Operation::Read {
            file: File::Segment(segment.sequence),
            offset,
            length: length.min(end - offset),
        };
        let is_last = offset + length >= end;
        self.scrub.is_reading = true;
        let purpose = Purpose::Scrub {
            segment: segment.sequence,
            is_last,
        };
        self.request(Lane::Background, read, purpose, out);
        true
    }

    /// Looks at what was read.
    pub(super) fn scrubbed(
        &mut self,
        segment: u64,
        is_last: bool,
        result: Result<Bytes, DiskError>,
        done: &mut Vec<Done>,
    ) {
        self.scrub.is_reading = false;
        let offset = self.scrub.offset;
        let (bytes, finding) = match result {
            Err(error) => (
                0,
                Some((segment, offset, format!("it cannot be read: {error}"))),
            ),
            Ok(bytes) => (bytes.len() as u64, self.look_at(&bytes, is_last)),
        };
        self.scrub.offset += bytes;
        if is_last || bytes == 0 {
            let (batch, next) = (self.scrub.batch, segment + 1);
            self.scrub.begin(next);
            self.scrub.batch = batch;
        }
        // Else it was given up meanwhile, and perhaps overwritten.
        let in_use = |sequence: u64| {
            let mut segments = self.segments.in_use.iter();
            segments.any(|each| each.sequence == sequence)
        };
        let finding = finding.filter(|(found, ..)| in_use(segment) && in_use(*found));
        done.push(Done::Scrubbed {
            bytes,
            finding: finding.map(|(segment, offset, what)| {
                let file = path(File::Segment(segment));
                (
                    segment,
                    format!("{file} is damaged at byte {offset}: {what}"),
                )
            }),
        });
    }

    /// Judges blocks that follow those before them.
    fn look_at(&mut self, bytes: &[u8], is_last: bool) -> Option<Finding> {
        let scrub = &mut self.scrub;
        let (segment, mut at) = (scrub.segment, scrub.offset);
        let mut finding = None;
        let mut found = |segment, at, what: &str| {
            finding.get_or_insert((segment, at, what.to_owned()));
        };
        for bytes in bytes.chunks(BLOCK_BYTES as usize) {
            if at == 0 {
                match SegmentHead::decode(bytes) {
                    Head::Valid(head) if head.sequence == segment => {
                        if scrub.batch > 0 && head.first_batch != scrub.batch + 1 {
                            found(segment - 1, 0, "its last batch is not there");
                        }
                        scrub.batch = head.first_batch - 1;
                    }
                    _ => found(segment, at, "its head is not as it was written"),
                }
            } else {
                match block::classify(self.seed, at, bytes) {
                    Block::Valid(header) if header.batch >= scrub.batch.max(1) => {
                        if let Some(strange) = scrub.strange.take() {
                            found(segment, strange, "a block is not as it was written");
                        }
                        scrub.batch = header.batch;
                        scrub.missing = header.count - header.position.min(header.count) - 1;
                    }
                    _ => {
                        scrub.strange.get_or_insert(at);
                    }
                }
            }
            at += bytes.len() as u64;
        }
        if is_last && scrub.missing > 0 {
            let strange = scrub.strange.unwrap_or(at);
            found(
                segment,
                strange,
                "a block of the last batch is not as it was written",
            );
        }
        finding
    }
}

impl Scrub {
    /// Begins with a segment.
    fn begin(&mut self, segment: u64) {
        *self = Scrub {
            segment,
            ..Scrub::default()
        };
    }
}
