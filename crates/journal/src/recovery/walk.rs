//! The walk over the bytes of all segments, from the oldest to the newest, once.
//!
//! ```text
//!  segment 4          segment 5            segment 6 (prepared, or torn)
//! │head│b7│b8│b9│▒▒▒│head│b10│b11│░░░░░░│ no head │░░░░░░░░░░│
//!                ▲ too small for b10      ▲ tail: where b12 would be
//! ```
//!
//! Batch by batch as long as each follows the one before it. Where the next one is not whole, the
//! rest of the segment is searched for anything newer: the next segment's head may say that the
//! log goes on there; a newer block proves that what is missing was durable.

use bytes::Bytes;

use super::RecoveryError;
use super::replay::Replay;
use super::tail::{Range, Tail};
use crate::Identity;
use crate::disk::File;
use crate::format::batch;
use crate::format::block::{
    self, BLOCK_BYTES, BLOCK_HEADER_BYTES, Block, BlockHeader, PAYLOAD_BYTES, Seed,
};
use crate::format::head::{Head, SegmentHead};

/// A segment that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    pub(crate) sequence: u64,
    pub(crate) bytes: u64,
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchPlace {
    pub(crate) number: u64,
    pub(crate) range: Range,
}

/// A segment at the end that has no head of its own: prepared and never used, or torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headless {
    pub(crate) file: SegmentFile,
    /// Its head block is neither zero nor the head of an earlier use.
    pub(crate) rotten: bool,
}

/// What is looked for next in the segment that is being read.
#[derive(Debug)]
enum Mode {
    Head,
    Log,
    Search,
}

/// The walk.
#[derive(Debug)]
pub(crate) struct Walk {
    identity: Identity,
    seed: Seed,
    pub(crate) replay: Replay,
    mode: Mode,
    file: SegmentFile,
    /// Bytes of the file that have been read and not yet been judged, and where they start.
    window: Vec<u8>,
    at: u64,
    /// The number of the batch that comes next.
    pub(crate) next_batch: u64,
    /// The checksum of the batch before.
    pub(crate) checksum: u32,
    /// Every batch up to here was durable, as some newer block says.
    durable_through: u64,
    /// The oldest segment that the log needs, as the last batch says.
    pub(crate) oldest: u64,
    /// The segments with a head, in order.
    pub(crate) headed: Vec<SegmentFile>,
    pub(crate) headless: Option<Headless>,
    /// The last batch, if it stands in the last segment with a head.
    pub(crate) last_batch: Option<BatchPlace>,
    /// Where the log ends in the last segment with a head, once that is known.
    pub(crate) tail: Option<Tail>,
    /// The same for the segment without a head.
    pub(crate) headless_tail: Option<Tail>,
}

impl Walk {
    pub(crate) fn new(identity: Identity, first: SegmentFile) -> Walk {
        Walk {
            identity,
            seed: Seed::new(&identity),
            replay: Replay::default(),
            mode: Mode::Head,
            file: first,
            window: Vec::new(),
            at: 0,
            next_batch: 1,
            checksum: 0,
            durable_through: 0,
            oldest: 0,
            headed: Vec::new(),
            headless: None,
            last_batch: None,
            tail: None,
            headless_tail: None,
        }
    }

    /// Goes on with the next segment.
    pub(crate) fn enter(&mut self, file: SegmentFile) -> Result<(), RecoveryError> {
        if let Some(headless) = self.headless {
            let what = "it has no head, though there is a later segment";
            return Err(damaged(headless.file.sequence, 0, what));
        }
        self.file = file;
        self.mode = Mode::Head;
        self.window.clear();
        self.at = 0;
        Ok(())
    }

    /// Takes the next bytes of the segment.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), RecoveryError> {
        self.window.extend_from_slice(bytes);
        let mut consumed = 0;
        loop {
            let step = match self.mode {
                Mode::Head => self.head(consumed)?,
                Mode::Log => self.log(consumed)?,
                Mode::Search => self.search(consumed)?,
            };
            match step {
                Some(bytes) => {
                    consumed += bytes;
                    self.at += bytes as u64;
                }
                None => break,
            }
        }
        self.window.drain(..consumed);
        Ok(())
    }

    /// The segment has been read to its end.
    pub(crate) fn end(&mut self) {
        if matches!(self.mode, Mode::Log) {
            self.start_search();
        }
    }

    /// Judges the head. Returns how many bytes it took; `None` if more must be read first.
    fn head(&mut self, consumed: usize) -> Result<Option<usize>, RecoveryError> {
        let Some(block) = self.window.get(consumed..consumed + BLOCK_BYTES as usize) else {
            return Ok(None);
        };
        let file = File::Segment(self.file.sequence);
        match SegmentHead::decode(block) {
            Head::Valid(head) if head.identity != self.identity => {
                let (found, expected) = (head.identity, self.identity);
                return Err(RecoveryError::ForeignIdentity {
                    file,
                    found,
                    expected,
                });
            }
            Head::Valid(head) if head.sequence > self.file.sequence => {
                let what = format!("its head says that it is segment {}", head.sequence);
                return Err(damaged(self.file.sequence, 0, &what));
            }
            Head::Valid(head) if head.sequence == self.file.sequence => self.follow(head)?,
            Head::Newer { version } => {
                return Err(RecoveryError::NewerFormat {
                    file,
                    found: version,
                });
            }
            Head::Valid(_) | Head::Zero => self.without_head(false),
            Head::Rotten => self.without_head(true),
        }
        Ok(Some(BLOCK_BYTES as usize))
    }

    /// The segment has a head: the log goes on in it, or something before it is missing.
    fn follow(&mut self, head: SegmentHead) -> Result<(), RecoveryError> {
        let sequence = self.file.sequence;
        if head.segment_bytes != self.file.bytes {
            return Err(RecoveryError::WrongLength {
                file: File::Segment(sequence),
                found: self.file.bytes,
                expected: head.segment_bytes,
            });
        }
        self.durable_through = self.durable_through.max(head.first_batch - 1);
        if self.headed.is_empty() {
            self.next_batch = head.first_batch;
            self.checksum = head.previous_checksum;
        }
        if head.first_batch > self.next_batch {
            return Err(self.damage("a batch is missing"));
        }
        if (head.first_batch, head.previous_checksum) != (self.next_batch, self.checksum) {
            return Err(damaged(
                sequence,
                0,
                "its head does not follow the segment before it",
            ));
        }
        self.headed.push(self.file);
        self.last_batch = None;
        self.tail = None;
        self.mode = Mode::Log;
        Ok(())
    }

    /// The segment has no head of its own, so nothing durable should be in it.
    fn without_head(&mut self, rotten: bool) {
        let sequence = self.file.sequence;
        self.headless = Some(Headless {
            file: self.file,
            rotten,
        });
        self.headless_tail = Some(Tail::new(sequence, BLOCK_BYTES, self.next_batch));
        self.mode = Mode::Search;
    }

    /// Takes the next batch if it is whole, or starts searching.
    fn log(&mut self, consumed: usize) -> Result<Option<usize>, RecoveryError> {
        let rest = &self.window[consumed..];
        let Some(first) = rest.get(..BLOCK_BYTES as usize) else {
            return Ok(None);
        };
        let header = match block::classify(self.seed, self.at, first) {
            Block::Valid(header) if header.batch == self.next_batch && header.position == 0 => {
                header
            }
            _ => {
                self.start_search();
                return Ok(Some(0));
            }
        };
        let bytes = u64::from(header.count) * BLOCK_BYTES;
        if self.at + bytes > self.file.bytes {
            let what = "a batch is longer than what is left of the segment";
            return Err(damaged(self.file.sequence, self.at, what));
        }
        let Some(blocks) = rest.get(..bytes as usize) else {
            return Ok(None);
        };
        if self.is_whole(blocks, header) {
            self.take_batch(consumed, bytes, header)?;
            return Ok(Some(bytes as usize));
        }
        self.start_search();
        Ok(Some(0))
    }

    /// Whether all blocks are those of the batch that starts with `header`.
    fn is_whole(&self, blocks: &[u8], header: BlockHeader) -> bool {
        blocks
            .chunks(BLOCK_BYTES as usize)
            .enumerate()
            .all(|(position, block)| {
                let wanted = BlockHeader {
                    position: position as u32,
                    ..header
                };
                let offset = self.at + position as u64 * BLOCK_BYTES;
                block::classify(self.seed, offset, block) == Block::Valid(wanted)
            })
    }

    /// Replays a batch whose blocks are whole.
    fn take_batch(
        &mut self,
        consumed: usize,
        bytes: u64,
        header: BlockHeader,
    ) -> Result<(), RecoveryError> {
        let (sequence, at) = (self.file.sequence, self.at);
        let fault = |what: &dyn std::fmt::Display| damaged(sequence, at, &what.to_string());
        let blocks = &self.window[consumed..consumed + bytes as usize];
        let payload = u64::from(header.count) * PAYLOAD_BYTES;
        let payload = block::copy_payload(blocks, BLOCK_HEADER_BYTES, payload)
            .expect("whole blocks have whole payloads");
        let batch = batch::decode(&Bytes::from(payload), self.next_batch, self.checksum)
            .map_err(|error| fault(&error))?;
        if batch.header.synced_through != header.synced_through()
            || batch.header.oldest_segment < self.oldest
            || batch.header.oldest_segment > sequence
        {
            return Err(fault(&batch::BatchFault::Header));
        }
        for (offset, record) in batch.records {
            self.replay
                .apply(record, sequence, at + offset)
                .map_err(|what| damaged(sequence, at + offset, &what))?;
        }
        self.durable_through = self.durable_through.max(header.synced_through());
        self.oldest = batch.header.oldest_segment;
        self.checksum = batch.header.checksum;
        let range = Range {
            from: at,
            upto: at + bytes,
        };
        self.last_batch = Some(BatchPlace {
            number: self.next_batch,
            range,
        });
        self.next_batch += 1;
        Ok(())
    }

    fn start_search(&mut self) {
        self.tail = Some(Tail::new(self.file.sequence, self.at, self.next_batch));
        self.mode = Mode::Search;
    }

    /// Looks at the next block behind the end of the log.
    fn search(&mut self, consumed: usize) -> Result<Option<usize>, RecoveryError> {
        let Some(block) = self.window.get(consumed..consumed + BLOCK_BYTES as usize) else {
            return Ok(None);
        };
        let block = block::classify(self.seed, self.at, block);
        if let Block::Valid(header) = block {
            // Older blocks are from an earlier use and prove nothing new.
            self.durable_through = self.durable_through.max(header.synced_through());
        }
        let tail = self.headless_tail.as_mut().or(self.tail.as_mut());
        tail.expect("a search has a tail").observe(self.at, block);
        Ok(Some(BLOCK_BYTES as usize))
    }

    /// Makes sure that what is behind the end of the log was never durable.
    pub(crate) fn judge(&self) -> Result<(), RecoveryError> {
        if let Some(Headless { file, rotten }) = self.headless
            && self.headed.is_empty()
            && file.sequence != 1
        {
            // The only segment there is: one is prepared only when the one before it is in use.
            return Err(match rotten {
                true => damaged(file.sequence, 0, "its head is not as it was written"),
                false => RecoveryError::MissingSegment {
                    file: File::Segment(file.sequence - 1),
                },
            });
        }
        if self.durable_through >= self.next_batch {
            return Err(self.damage("a batch is not there, though a later one was written"));
        }
        if self.tail.as_ref().is_some_and(|tail| !tail.is_cut()) {
            return Err(self.damage("a block of the last batch is not as it was written"));
        }
        let torn = self.headless_tail.as_ref().is_none_or(Tail::is_cut);
        match self.headless {
            Some(Headless { file, rotten: true }) if !torn => Err(damaged(
                file.sequence,
                0,
                "its head is not as it was written",
            )),
            _ => Ok(()),
        }
    }

    /// Damage at the place where the next batch should stand.
    fn damage(&self, what: &str) -> RecoveryError {
        let tail = self.tail.as_ref().or(self.headless_tail.as_ref());
        let tail = tail.expect("the end of a segment has been judged");
        damaged(tail.segment, tail.damaged_at(), what)
    }
}

/// Damage in a segment.
pub(crate) fn damaged(sequence: u64, offset: u64, what: &str) -> RecoveryError {
    let what = what.to_owned();
    RecoveryError::Damaged {
        file: File::Segment(sequence),
        offset,
        what,
    }
}
