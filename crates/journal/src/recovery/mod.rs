//! Recovery: from the files of the journal folder to a journal that goes on.
//!
//! ```text
//! read all segments once ──▶ judge the tail ──▶ write the last batch again, ──▶ Journal
//! (walk: replay, tail)           │              wipe what is torn, sync
//!                                └──▶ Refused: damage, a foreign file, a newer format, ...
//! ```
//!
//! **Why the last batch is written again.** It is whole in what was read, but that may have come
//! from the operating system's cache: the process may have died, or its sync failed, before the
//! batch reached the disk. Everything recovery hands out counts as durable, so it is made so.
//!
//! **Why a torn batch is wiped.** The next batch has the same number. Were blocks of the torn one
//! left, a second power cut could leave a mixture of both.
//!
//! **What is set aside** stands before a head that says that the log begins anew there. Once that
//! segment is given up, it stands before a gap in the numbers. A gap for any other reason is
//! damage: the last batch behind it then needs a segment that is missing.

use std::collections::{BTreeMap, VecDeque};

use base::{Epoch, GroupId, Slot};
use bytes::Bytes;

use crate::disk::{Completion, DiskError, File, Lane, Operation, Request, RequestId};
use crate::format::block::{self, BLOCK_BYTES, Block, Seed};
use crate::format::head::{Head, SegmentHead};
use crate::index::{GroupLog, LiveCounts};
use crate::journal::{RequestIds, Resumption, Segment, Segments};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::{Identity, Journal, Limits};

mod error;
mod replay;
mod tail;
mod walk;

pub use error::RecoveryError;
pub(crate) use error::path;

use replay::Replayed;
use tail::Range;
use walk::{SegmentFile, Walk, damaged};

/// How recovery goes on.
#[derive(Debug)]
pub enum RecoveryStep {
    /// It waits for more completions.
    Working {
        /// What has been read so far.
        read_bytes: u64,
        /// What there is to read.
        total_bytes: u64,
    },
    /// The journal is whole. The requests that `complete` gave out last belong to it.
    Done(Box<(Journal, Recovered)>),
    /// The journal cannot be used as it is. What it holds was not changed.
    Refused(RecoveryError),
}

/// What stood in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What each group had asked to remember.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// Groups that were closed: what they had asked to remember, promises too, is gone, but for the
    /// body of the record that closed them. A group stays in here for as long as anything stands in
    /// the journal that was written before its end.
    pub closed: BTreeMap<GroupId, Bytes>,
    /// What was cut off at the end: a batch that never became durable.
    pub torn_tail: Option<TornTail>,
    /// There was no journal: the folder held no segment. A node that knows itself a member of a
    /// cluster must treat this as the loss of its log.
    pub created: bool,
}

/// What one group had asked to remember.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// The body of the newest hard state.
    pub hard_state: Option<Bytes>,
    /// What the group was opened with, if it was.
    pub description: Option<Bytes>,
    /// The log begins behind this slot (slot 0 and epoch 0 at first).
    pub start: (Slot, Epoch),
    /// The last entry's slot; the start's slot if there are no entries.
    pub last: Slot,
    /// The epochs of the entries in runs: from this slot on, this epoch.
    pub epochs: Vec<(Slot, Epoch)>,
    /// The entries that change the membership, by slot.
    pub memberships: Vec<(Slot, Bytes)>,
    /// The entries that were accepted under a ballot later than their epoch, by slot.
    pub ballots: Vec<(Slot, Epoch)>,
    /// Where entries are missing between the start and the last one: first and last slot of each
    /// gap. Only records that stand at their slots alone leave any.
    pub gaps: Vec<(Slot, Slot)>,
}

/// A batch that was being written when the power went, or the process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment in which it stood.
    pub segment: u64,
    /// Where it started.
    pub offset: u64,
    /// The bytes from there to the end of the last block that was written of it.
    pub bytes: u64,
}

/// The result, once there is one.
type Ended = Option<Box<(Journal, Recovered)>>;

/// No segment holds as many batches as this power of two.
const SEGMENT_BATCHES_BITS: u32 = 24;

/// The first segment of a journal that is not there yet.
const NO_SEGMENT: SegmentFile = SegmentFile {
    sequence: 1,
    bytes: 0,
};

/// What recovery waits for.
#[derive(Debug)]
enum Stage {
    /// Nothing was asked for yet.
    Unstarted,
    /// The first spare of a fresh journal is being created.
    Creating { spare: u64 },
    /// The heads are read, the newest first: does the log begin anew somewhere?
    Heads { index: usize },
    /// The segments are read, one after another.
    Reading {
        index: usize,
        offset: u64,
        length: u64,
    },
    /// What may not be on stable storage is read again.
    Confirming {
        segment: u64,
        range: Range,
        replayed: Box<Replayed>,
    },
    /// It is written, and the torn batch is wiped.
    Repairing {
        outstanding: usize,
        replayed: Box<Replayed>,
    },
    /// Recovery has given its result.
    Ended,
}

/// Reads a journal folder.
#[derive(Debug)]
pub struct Recovery {
    identity: Identity,
    limits: Limits,
    /// Oldest first.
    segments: Vec<SegmentFile>,
    spares: Vec<u64>,
    ids: RequestIds,
    /// The requests under way, with what they do, in words.
    requests: BTreeMap<RequestId, (&'static str, File)>,
    stage: Stage,
    walk: Walk,
    /// Segments of a damaged log before the one that counts.
    set_aside: Vec<SegmentFile>,
    read_bytes: u64,
    total_bytes: u64,
}

impl Recovery {
    /// Recovers the journal that consists of these files (file and length) of the journal folder;
    /// none for a fresh folder. Other files are ignored, and what was set aside is left alone.
    #[must_use]
    pub fn new(identity: Identity, limits: Limits, files: &[(File, u64)]) -> Recovery {
        limits.check();
        let (mut segments, mut spares) = (Vec::new(), Vec::new());
        for (file, bytes) in files {
            match file {
                File::Segment(sequence) => {
                    segments.push(SegmentFile {
                        sequence: *sequence,
                        bytes: *bytes,
                    });
                }
                File::SpareSegment(number) => spares.push(*number),
                _ => {}
            }
        }
        segments.sort_unstable_by_key(|segment| segment.sequence);
        spares.sort_unstable();
        // What stands before a gap was set aside; if not, `conclude` finds out.
        let mut pairs = segments.windows(2);
        let gap = pairs.rposition(|pair| pair[1].sequence != pair[0].sequence + 1);
        let log = segments.split_off(gap.map_or(0, |before| before + 1));
        let (set_aside, segments) = (segments, log);
        let first = segments.first().copied().unwrap_or(NO_SEGMENT);
        Recovery {
            identity,
            limits,
            total_bytes: segments.iter().map(|segment| segment.bytes).sum(),
            segments,
            spares,
            ids: RequestIds::default(),
            requests: BTreeMap::new(),
            stage: Stage::Unstarted,
            walk: Walk::new(identity, first),
            set_aside,
            read_bytes: 0,
        }
    }

    /// Begins the log anew although there are segments, because they are damaged. They stay as
    /// they are, and count as long as nothing of the new log is on stable storage; after that they
    /// are set aside until [`Journal::forget_set_aside`]. Whoever does this has lost what the log
    /// held, and must know how to live without it.
    #[must_use]
    pub fn anew(identity: Identity, limits: Limits, files: &[(File, u64)]) -> Recovery {
        let mut recovery = Recovery::new(identity, limits, files);
        recovery.set_aside.append(&mut recovery.segments);
        recovery
    }

    /// Gives out the first requests: always at least one.
    pub fn start(&mut self, out: &mut Vec<Request>) {
        assert!(
            matches!(self.stage, Stage::Unstarted),
            "a recovery starts once"
        );
        if self.segments.is_empty() {
            let spare = self.spares.last().map_or(1, |last| last + 1);
            let file = File::SpareSegment(spare);
            let create = Operation::CreateZeroed {
                file,
                length: self.limits.segment_bytes,
            };
            self.request("create", file, Lane::Background, create, out);
            self.stage = Stage::Creating { spare };
        } else if self.segments.len() == 1 {
            self.read(0, 0, out);
        } else {
            self.read_head(self.segments.len() - 1, out);
        }
    }

    /// Asks for the head of a segment.
    fn read_head(&mut self, index: usize, out: &mut Vec<Request>) {
        let file = File::Segment(self.segments[index].sequence);
        let read = Operation::Read {
            file,
            offset: 0,
            length: BLOCK_BYTES,
        };
        self.request("read", file, Lane::Background, read, out);
        self.stage = Stage::Heads { index };
    }

    /// A head has been read, or could not be: if the log begins anew there, what is before it is
    /// set aside. Else the one before it is looked at.
    fn take_head(&mut self, index: usize, block: Option<&Bytes>, out: &mut Vec<Request>) {
        let own = |head: &SegmentHead| {
            let sequence = self.segments[index].sequence;
            head.identity == self.identity && head.sequence == sequence && head.begins_anew
        };
        let is_start = match block.map(|block| SegmentHead::decode(block)) {
            Some(Head::Valid(head)) => own(&head),
            _ => false,
        };
        if is_start {
            let log = self.segments.split_off(index);
            self.set_aside.append(&mut self.segments);
            self.segments = log;
            self.total_bytes = self.segments.iter().map(|segment| segment.bytes).sum();
        }
        if is_start || index == 0 {
            self.walk = Walk::new(self.identity, self.segments[0]);
            return self.read(0, 0, out);
        }
        self.read_head(index - 1, out);
    }

    /// Takes the end of a request.
    ///
    /// # Panics
    /// If the request is not one of this recovery's that is under way.
    pub fn complete(&mut self, completion: Completion, out: &mut Vec<Request>) -> RecoveryStep {
        let request = self.requests.remove(&completion.id);
        let (action, file) = request.expect("a completion belongs to a request of this recovery");
        let is_inaccessible = matches!(completion.result, Err(DiskError::Inaccessible(_)));
        if let Stage::Heads { index } = self.stage
            && !is_inaccessible
        {
            // One that is damaged is judged when all is read.
            self.take_head(index, completion.result.as_ref().ok(), out);
            return self.working();
        }
        let step = match completion.result {
            Ok(bytes) => self.advance(bytes, out),
            Err(error) => Err(RecoveryError::Disk {
                action,
                file,
                error,
            }),
        };
        match step {
            Ok(Some(done)) => RecoveryStep::Done(done),
            Ok(None) => self.working(),
            Err(error) => {
                self.stage = Stage::Ended;
                RecoveryStep::Refused(error)
            }
        }
    }

    fn working(&self) -> RecoveryStep {
        RecoveryStep::Working {
            read_bytes: self.read_bytes,
            total_bytes: self.total_bytes,
        }
    }

    /// One step further.
    fn advance(&mut self, bytes: Bytes, out: &mut Vec<Request>) -> Result<Ended, RecoveryError> {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Creating { spare } => Ok(Some(self.create(spare, out))),
            Stage::Reading {
                index,
                offset,
                length,
            } => {
                self.check_files()?;
                self.take_bytes(index, offset, length, &bytes)?;
                let offset = offset + length;
                let (next, offset) = match self.segments[index].bytes == offset {
                    true => (index + 1, 0),
                    false => (index, offset),
                };
                if next == self.segments.len() {
                    return self.conclude(out);
                }
                if offset == 0 {
                    self.walk.enter(self.segments[next])?;
                }
                self.read(next, offset, out);
                Ok(None)
            }
            Stage::Confirming {
                segment,
                range,
                replayed,
            } => {
                self.confirm(segment, range, &bytes)?;
                let file = File::Segment(segment);
                let mut writes = vec![(file, range.from, vec![bytes])];
                self.add_wipes(&mut writes);
                self.repair(writes, replayed, out)
            }
            Stage::Repairing {
                outstanding: 1,
                replayed,
            } => Ok(Some(self.hand_over(*replayed, out))),
            Stage::Repairing {
                outstanding,
                replayed,
            } => {
                self.stage = Stage::Repairing {
                    outstanding: outstanding - 1,
                    replayed,
                };
                Ok(None)
            }
            Stage::Unstarted | Stage::Heads { .. } | Stage::Ended => {
                panic!("no request is under way")
            }
        }
    }

    /// The files must have a length that a segment can have.
    fn check_files(&self) -> Result<(), RecoveryError> {
        for segment in &self.segments {
            let possible = 2 * BLOCK_BYTES..=SEGMENT_BYTES_MAX;
            if !possible.contains(&segment.bytes) || !segment.bytes.is_multiple_of(BLOCK_BYTES) {
                return Err(RecoveryError::WrongLength {
                    file: File::Segment(segment.sequence),
                    found: segment.bytes,
                    expected: self.limits.segment_bytes,
                });
            }
        }
        Ok(())
    }

    /// Asks for the next bytes of a segment.
    fn read(&mut self, index: usize, offset: u64, out: &mut Vec<Request>) {
        let segment = self.segments[index];
        let length = (segment.bytes - offset).min(self.limits.read_bytes);
        let file = File::Segment(segment.sequence);
        let read = Operation::Read {
            file,
            offset,
            length,
        };
        self.request("read", file, Lane::Background, read, out);
        self.stage = Stage::Reading {
            index,
            offset,
            length,
        };
    }

    /// Lets the walk see bytes that were read.
    fn take_bytes(
        &mut self,
        index: usize,
        offset: u64,
        length: u64,
        bytes: &Bytes,
    ) -> Result<(), RecoveryError> {
        let segment = self.segments[index];
        if bytes.len() as u64 != length {
            return Err(RecoveryError::WrongLength {
                file: File::Segment(segment.sequence),
                found: offset + bytes.len() as u64,
                expected: segment.bytes,
            });
        }
        self.read_bytes += length;
        self.walk.feed(bytes)?;
        if offset + length == segment.bytes {
            self.walk.end();
        }
        Ok(())
    }

    /// Everything has been read: is it whole, and what must be made durable?
    fn conclude(&mut self, out: &mut Vec<Request>) -> Result<Ended, RecoveryError> {
        self.walk.judge()?;
        let first = self.segments[0].sequence;
        // Before the first batch is written, segment 1 is needed.
        let needed = self.walk.oldest.max(1);
        if first > needed {
            let is_there = |number: u64| self.set_aside.iter().any(|each| each.sequence == number);
            let missing = (needed..first).find(|number| !is_there(*number));
            return Err(RecoveryError::MissingSegment {
                file: File::Segment(missing.unwrap_or(needed)),
            });
        }
        let replay = std::mem::take(&mut self.walk.replay);
        let replayed = replay.finish().map_err(|what| damaged(first, 0, &what))?;
        for segment in first..needed {
            if replayed.live.of(segment) > 0 {
                return Err(damaged(
                    segment,
                    0,
                    "it was given up, but holds entries in use",
                ));
            }
        }
        let replayed = Box::new(replayed);
        let Some(segment) = self.walk.headed.last().map(|segment| segment.sequence) else {
            let mut writes = Vec::new();
            self.add_wipes(&mut writes);
            return self.repair(writes, replayed, out);
        };
        let range = match self.walk.last_batch {
            // The head was written together with the first batch.
            Some(batch) if batch.range.from == BLOCK_BYTES => Range {
                from: 0,
                ..batch.range
            },
            Some(batch) => batch.range,
            None => Range {
                from: 0,
                upto: BLOCK_BYTES,
            },
        };
        let file = File::Segment(segment);
        let length = range.upto - range.from;
        let read = Operation::Read {
            file,
            offset: range.from,
            length,
        };
        self.request("read", file, Lane::Background, read, out);
        self.stage = Stage::Confirming {
            segment,
            range,
            replayed,
        };
        Ok(None)
    }

    /// What is about to be written again must be what it was.
    fn confirm(&self, segment: u64, range: Range, bytes: &Bytes) -> Result<(), RecoveryError> {
        let seed = Seed::new(&self.identity);
        let number = self.walk.last_batch.map_or(0, |batch| batch.number);
        let whole = bytes.len() as u64 == range.upto - range.from;
        let mut offset = range.from;
        for block in bytes.chunks(BLOCK_BYTES as usize) {
            let sound = match offset {
                0 => matches!(SegmentHead::decode(block), Head::Valid(_)),
                _ => matches!(block::classify(seed, offset, block),
                    Block::Valid(header) if header.batch == number),
            };
            if !sound || !whole {
                return Err(damaged(
                    segment,
                    offset,
                    "it reads differently the second time",
                ));
            }
            offset += BLOCK_BYTES;
        }
        Ok(())
    }

    /// Adds what wipes the remains of a torn batch.
    fn add_wipes(&self, writes: &mut Vec<(File, u64, Vec<Bytes>)>) {
        let zeros = Bytes::from(vec![0; 64 << 10]);
        let mut wipe = |segment: u64, range: Range| {
            let mut missing = (range.upto - range.from) as usize;
            let mut data = Vec::new();
            while missing > 0 {
                let piece = missing.min(zeros.len());
                data.push(zeros.slice(..piece));
                missing -= piece;
            }
            writes.push((File::Segment(segment), range.from, data));
        };
        for tail in self.walk.tail.iter().chain(&self.walk.headless_tail) {
            for range in tail.to_wipe() {
                wipe(tail.segment, *range);
            }
        }
        if let Some(headless) = self.walk.headless.filter(|headless| headless.rotten) {
            wipe(
                headless.file.sequence,
                Range {
                    from: 0,
                    upto: BLOCK_BYTES,
                },
            );
        }
    }

    /// Writes and syncs, then hands over.
    fn repair(
        &mut self,
        writes: Vec<(File, u64, Vec<Bytes>)>,
        replayed: Box<Replayed>,
        out: &mut Vec<Request>,
    ) -> Result<Ended, RecoveryError> {
        if writes.is_empty() {
            return Ok(Some(self.hand_over(*replayed, out)));
        }
        let outstanding = writes.len();
        for (file, offset, data) in writes {
            let write = Operation::Write {
                file,
                offset,
                data,
                sync: true,
            };
            self.request("write", file, Lane::Journal, write, out);
        }
        self.stage = Stage::Repairing {
            outstanding,
            replayed,
        };
        Ok(None)
    }

    /// The journal of a fresh folder.
    fn create(&mut self, spare: u64, out: &mut Vec<Request>) -> Box<(Journal, Recovered)> {
        let mut segments = self.make_segments([].into(), false, spare + 1);
        segments.add_spare(spare);
        // Numbers grow, also across a log that was given up: a block of that is never taken for
        // one of this.
        let first = self.set_aside.last().map_or(1, |last| last.sequence + 1);
        segments.begin_with(first);
        self.walk.next_batch = match first {
            1 => 1,
            first => first << SEGMENT_BATCHES_BITS,
        };
        let replayed = Replayed::default();
        let journal = self.resume(segments, replayed.logs, replayed.live, out);
        Box::new((
            journal,
            Recovered {
                created: true,
                ..Recovered::default()
            },
        ))
    }

    /// The journal that goes on where the log ends.
    fn hand_over(
        &mut self,
        replayed: Replayed,
        out: &mut Vec<Request>,
    ) -> Box<(Journal, Recovered)> {
        let headed = self.walk.headed.iter();
        let in_use: VecDeque<Segment> = headed
            .map(|file| Segment {
                sequence: file.sequence,
                bytes: file.bytes,
            })
            .collect();
        let ready = self
            .walk
            .headless
            .is_some_and(|headless| headless.file.bytes == self.limits.segment_bytes);
        let next_spare = self.spares.last().map_or(1, |last| last + 1);
        let segments = self.make_segments(in_use, ready, next_spare);
        let tails = self.walk.tail.iter().chain(&self.walk.headless_tail);
        let torn_tail = tails
            .map(|tail| TornTail {
                segment: tail.segment,
                offset: tail.offset,
                bytes: tail.torn_bytes(),
            })
            .find(|torn| torn.bytes > 0);
        let recovered = Recovered {
            groups: replayed.groups,
            closed: replayed.closed,
            torn_tail,
            created: false,
        };
        let journal = self.resume(segments, replayed.logs, replayed.live, out);
        Box::new((journal, recovered))
    }

    fn make_segments(&self, in_use: VecDeque<Segment>, ready: bool, next_spare: u64) -> Segments {
        let Limits {
            segment_bytes,
            spare_segments,
            ..
        } = self.limits;
        Segments::new(in_use, ready, segment_bytes, spare_segments, next_spare)
    }

    fn resume(
        &mut self,
        segments: Segments,
        groups: BTreeMap<GroupId, GroupLog>,
        live: LiveCounts,
        out: &mut Vec<Request>,
    ) -> Journal {
        let mut discard: Vec<File> = self
            .spares
            .iter()
            .copied()
            .map(File::SpareSegment)
            .collect();
        if let Some(headless) = self.walk.headless
            && headless.file.bytes != self.limits.segment_bytes
        {
            discard.push(File::Segment(headless.file.sequence));
        }
        let resumption = Resumption {
            identity: self.identity,
            limits: self.limits,
            groups,
            live,
            segments,
            write_offset: self.walk.tail.as_ref().map_or(0, |tail| tail.offset),
            last_batch: self.walk.next_batch - 1,
            checksum: self.walk.checksum,
            oldest: self.walk.oldest,
            ids: std::mem::take(&mut self.ids),
            discard,
            set_aside: self
                .set_aside
                .iter()
                .map(|segment| File::Segment(segment.sequence))
                .collect(),
        };
        Journal::resume(resumption, out)
    }

    fn request(
        &mut self,
        action: &'static str,
        file: File,
        lane: Lane,
        operation: Operation,
        out: &mut Vec<Request>,
    ) {
        let request = self.ids.request(lane, operation);
        self.requests.insert(request.id, (action, file));
        out.push(request);
    }
}
