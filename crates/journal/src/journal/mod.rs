//! The journal of a running node.
//!
//! ```text
//! append ──▶ queue: │ batch 9 │ batch 10 (open) │   flush, or the end of the batch before
//!                        │                          ▼
//!                        └──────────▶ in flight: at most one batch: one Write{sync}
//!                                                   ▼
//!                                     durable: Done::Durable, then the next batch
//! ```
//!
//! **One batch in flight.** While a batch is written, everything that arrives is gathered into the
//! next one, so the slower the disk, the larger the batches: group commit without any waiting.
//! A second batch in flight would hide the turn-around between two syncs, but then two batches
//! could be torn at once, in any combination, and recovery would have to judge the second without
//! knowing where the first ended. The format allows for it (`unsynced` in each block); the gain is
//! not worth the doubt.

mod fetch;
mod scrub;
mod segments;
mod write;

use std::collections::{BTreeMap, VecDeque};

use base::{Epoch, GroupId, Slot};
use bytes::Bytes;

use crate::disk::{Completion, DiskError, File, Lane, Operation, Request, RequestId};
use crate::format::batch::BatchBuilder;
use crate::format::block::Seed;
use crate::index::{GroupLog, HardState, Home, LiveCounts};
use crate::recovery::path;
use crate::{Identity, Limits, Record, RecordKind};

use fetch::{Fetch, Fetches, Gathering, InMemory};
use scrub::Scrub;
use segments::{FilePurpose, FileRequests};

/// A group whose entries are this part of the log or more keeps the log for itself. Small, because
/// what is alone in a batch fills a block of the disk.
const OWN_PART: u64 = 4;
pub(crate) use segments::{RequestIds, Segment, Segments};

/// What the journal has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Everything that was appended before the flush with this mark is on stable storage (and so
    /// is every smaller mark).
    Durable {
        /// The highest such mark.
        mark: u64,
    },
    /// The answer to a fetch.
    Fetched {
        /// Whose.
        ticket: u64,
        /// Verified entries from the slot asked for on, without a gap; empty if that slot is gone.
        entries: Vec<FetchedEntry>,
    },
    /// What was read back for a fetch is not what was written. Nothing of it is handed out.
    Damage {
        /// Whose fetch.
        ticket: u64,
        /// The group whose entry is damaged.
        group: GroupId,
        /// The entry that is damaged.
        slot: Slot,
        /// The file and the byte offset, and what is wrong there.
        description: String,
    },
    /// What [`Journal::scrub`] has come to.
    Scrubbed {
        /// How much was read.
        bytes: u64,
        /// A segment that is not as it was written: its number; the file, the byte offset and
        /// what is wrong there.
        finding: Option<(u64, String)>,
    },
    /// The journal cannot go on and the process must stop: what failed, and what to do. Nothing
    /// that is not yet reported durable may be counted on.
    Fatal(String),
}

/// An entry that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedEntry {
    /// Where it stands.
    pub slot: Slot,
    /// The epoch in which a leader put it there.
    pub epoch: Epoch,
    /// One that [is an entry](RecordKind::is_entry); the body is as it was given.
    pub kind: RecordKind,
    /// What it carries.
    pub body: Bytes,
}

/// Counters and sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Segments in use.
    pub segments: u64,
    /// Segments that wait to be used again.
    pub spare_segments: u64,
    /// Bytes of the log on disk, from the start of the oldest segment to the end of the last.
    pub bytes: u64,
    /// Bytes appended and not yet on stable storage.
    pub buffered_bytes: u64,
    /// Batches made durable since the start.
    pub batches: u64,
    /// Records appended since the start.
    pub records: u64,
    /// Syncs since the start.
    pub syncs: u64,
    /// Segments recycled or deleted since the start.
    pub segments_released: u64,
}

/// A batch that is being built, or waits to be written.
#[derive(Debug)]
struct OpenBatch {
    number: u64,
    builder: BatchBuilder,
    /// The groups that have records in it; one may stand here more than once.
    groups: Vec<GroupId>,
    /// The highest mark that is reached when it is durable.
    mark: Option<u64>,
    /// The oldest segment that the log needs once this batch is durable, if that changes.
    oldest: Option<u64>,
}

/// The batch that is being written.
#[derive(Debug)]
struct InFlight {
    request: RequestId,
    number: u64,
    segment: u64,
    offset: u64,
    blocks: Bytes,
    mark: Option<u64>,
    oldest: Option<u64>,
}

/// What a request was for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// Writing the batch in flight.
    Batch,
    /// Something about whole files.
    File(FilePurpose, File),
    /// Read number `read` of a fetch.
    Fetch { number: u64, read: usize },
    /// Looking whether a segment is as it was written.
    Scrub { segment: u64, is_last: bool },
}

/// What recovery hands over.
#[derive(Debug)]
pub(crate) struct Resumption {
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
    pub(crate) live: LiveCounts,
    pub(crate) segments: Segments,
    /// Where the next batch goes in the current segment.
    pub(crate) write_offset: u64,
    /// The number of the last batch, and its checksum.
    pub(crate) last_batch: u64,
    pub(crate) checksum: u32,
    /// The oldest segment that the last batch says the log needs.
    pub(crate) oldest: u64,
    pub(crate) ids: RequestIds,
    /// Files that nobody needs.
    pub(crate) discard: Vec<File>,
    /// Segments of a log before this one.
    pub(crate) set_aside: Vec<File>,
}

/// The log of one disk, for all groups.
#[derive(Debug)]
pub struct Journal {
    identity: Identity,
    seed: Seed,
    limits: Limits,
    groups: BTreeMap<GroupId, GroupLog>,
    live: LiveCounts,
    segments: Segments,
    /// Where the next batch goes in the current segment.
    write_offset: u64,
    /// The checksum of the last batch that was submitted: the chain.
    checksum: u32,
    /// The last durable batch.
    durable: u64,
    /// The oldest segment that the log needs, as the last submitted batch says.
    oldest: u64,
    /// Batches that are not yet submitted, oldest first; the last one is open.
    queue: VecDeque<OpenBatch>,
    /// The number of the next batch that is opened.
    next_number: u64,
    /// Batches up to this number are to be written as soon as possible.
    flushed_through: u64,
    in_flight: Option<InFlight>,
    /// A batch waits for the next segment.
    stalled: bool,
    /// A batch that gives segments up is on its way.
    giving_up: bool,
    /// A buffer to build the next batch in.
    spare_buffer: Vec<u8>,
    requests: BTreeMap<RequestId, Purpose>,
    ids: RequestIds,
    fetches: Fetches,
    /// Segments of a damaged log before this one, kept until nobody can need them.
    set_aside: Vec<File>,
    scrub: Scrub,
    /// After a failure nothing is submitted or reported any more.
    halted: bool,
    metrics: Metrics,
}

impl Journal {
    /// A journal that goes on where recovery ended.
    pub(crate) fn resume(resumption: Resumption, out: &mut Vec<Request>) -> Journal {
        let mut journal = Journal {
            identity: resumption.identity,
            seed: Seed::new(&resumption.identity),
            limits: resumption.limits,
            groups: resumption.groups,
            live: resumption.live,
            segments: resumption.segments,
            write_offset: resumption.write_offset,
            checksum: resumption.checksum,
            durable: resumption.last_batch,
            oldest: resumption.oldest,
            queue: VecDeque::new(),
            next_number: resumption.last_batch + 1,
            flushed_through: resumption.last_batch,
            in_flight: None,
            stalled: false,
            giving_up: false,
            spare_buffer: Vec::new(),
            requests: BTreeMap::new(),
            ids: resumption.ids,
            fetches: Fetches::default(),
            set_aside: resumption.set_aside,
            scrub: Scrub::default(),
            halted: false,
            metrics: Metrics::default(),
        };
        let mut requests = FileRequests::new();
        for file in resumption.discard {
            requests.push((FilePurpose::Discard, Operation::Delete { file }));
        }
        for segment in &journal.segments.in_use {
            if segment.sequence < journal.oldest {
                journal.live.forget(segment.sequence);
            }
        }
        journal
            .segments
            .give_up_before(journal.oldest, &mut requests);
        journal.segments.prepare(&mut requests);
        journal.submit_file_requests(requests, out);
        journal
    }

    /// Buffers a record.
    ///
    /// # Panics
    /// If an entry does not follow, or replace, one that is in its group's log, or the body is
    /// longer than [`Limits::body_bytes_max`]: both are bugs of the caller.
    pub fn append(&mut self, record: Record) {
        assert!(
            record.body.len() as u64 <= self.limits.body_bytes_max(),
            "a record fits into a batch: the engine bounds its entries"
        );
        let Record {
            group,
            kind,
            slot,
            epoch,
            ..
        } = record;
        let body = record.body.clone();
        let bytes = crate::format::record::HEADER_BYTES + body.len() as u64;
        let (number, offset) = self.push(record.into());
        let home = Home::Batch(number);
        let log = self.groups.entry(group).or_default();
        match kind {
            RecordKind::HardState => {
                log.hard_state = Some(HardState {
                    slot,
                    epoch,
                    body,
                    home,
                });
            }
            RecordKind::Entry | RecordKind::MembershipEntry | RecordKind::Header => {
                log.put(slot, epoch, (home, offset), bytes, &mut self.live);
            }
            RecordKind::Accepted
            | RecordKind::AcceptedMembership
            | RecordKind::AcceptedLater
            | RecordKind::AcceptedMembershipLater
            | RecordKind::AcceptedHeader
            | RecordKind::AcceptedHeaderLater => {
                log.put_alone(slot, epoch, (home, offset), bytes, &mut self.live);
            }
            RecordKind::LogStarts => {
                assert!(slot.0 > 0, "a snapshot covers at least one slot");
                log.start_behind((slot, epoch), &mut self.live);
                log.anchor = Some(((slot, epoch), home));
            }
            RecordKind::GroupOpened => log.description = Some((body, home)),
            RecordKind::GroupClosed => {
                log.clear(Slot(1), &mut self.live);
                self.groups.remove(&group);
            }
            RecordKind::LogForgotten => {
                log.reset((Slot(0), Epoch(0)), &mut self.live);
                log.anchor = None;
            }
            RecordKind::SnapshotInstalled => {
                assert!(slot.0 > 0, "a snapshot covers at least one slot");
                log.reset((slot, epoch), &mut self.live);
                log.anchor = Some(((slot, epoch), home));
            }
        }
        self.metrics.records += 1;
    }

    /// What was appended so far is write `mark` (marks grow): it is submitted at once if no batch
    /// is in flight, else with the next one. Reported by [`Done::Durable`].
    pub fn flush(&mut self, mark: u64, out: &mut Vec<Request>) {
        match (self.queue.back_mut(), &mut self.in_flight) {
            (Some(batch), _) => batch.mark = batch.mark.max(Some(mark)),
            // Everything that was appended is on its way already.
            (None, Some(batch)) => batch.mark = batch.mark.max(Some(mark)),
            // Everything is durable: an empty batch says so in its turn.
            (None, None) => self.open_batch().mark = Some(mark),
        }
        self.flushed_through = self.next_number - 1;
        self.submit(out);
    }

    /// The request that is writing a batch, and the highest mark that is durable once it has
    /// succeeded, if any: whatever waits for that mark, or a smaller one, need not wait for
    /// anything else.
    #[must_use]
    pub fn writing(&self) -> Option<(RequestId, Option<u64>)> {
        let batch = self.in_flight.as_ref()?;
        Some((batch.request, batch.mark))
    }

    /// Whether another batch waits behind the one that is being written.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes the end of a request that this journal (or its recovery) made.
    ///
    /// # Panics
    /// If the request is not one of this journal's that is under way.
    pub fn complete(
        &mut self,
        completion: Completion,
        out: &mut Vec<Request>,
        done: &mut Vec<Done>,
    ) {
        let purpose = self.requests.remove(&completion.id);
        let purpose = purpose.expect("a completion belongs to a request of this journal");
        if self.halted {
            return;
        }
        match purpose {
            Purpose::Batch => self.batch_written(completion.result, out, done),
            Purpose::File(purpose, file) => {
                self.file_done(purpose, file, completion.result, out, done);
            }
            Purpose::Fetch { number, read } => {
                let fetch = self
                    .fetches
                    .read_done(self.seed, number, read, completion.result);
                done.extend(fetch.map(|fetch| self.finish(fetch)));
            }
            Purpose::Scrub { segment, is_last } => {
                self.scrubbed(segment, is_last, completion.result, done);
            }
        }
    }

    /// Reads entries `from..=upto` back: at least one if it is there, and no more than
    /// `max_bytes` otherwise. Entries need not be durable yet. Answered by [`Done::Fetched`] or
    /// [`Done::Damage`], at once if everything is in memory.
    #[expect(
        clippy::too_many_arguments,
        reason = "a range, its bound, and where answers go"
    )]
    pub fn fetch(
        &mut self,
        ticket: u64,
        group: GroupId,
        from: Slot,
        upto: Slot,
        max_bytes: u64,
        out: &mut Vec<Request>,
        done: &mut Vec<Done>,
    ) {
        if self.halted {
            return;
        }
        let Some(log) = self.groups.get(&group) else {
            done.push(Done::Fetched {
                ticket,
                entries: Vec::new(),
            });
            return;
        };
        let gathering = Gathering {
            max_bytes,
            read_bytes: self.limits.read_bytes,
            read_gap_bytes: self.limits.read_gap_bytes,
        };
        let fetch = Fetch::plan(ticket, group, (log, from, upto), gathering, &self.memory());
        if fetch.is_complete() {
            let answer = self.finish(fetch);
            done.push(answer);
            return;
        }
        let reads: Vec<Operation> = fetch
            .reads()
            .iter()
            .map(fetch::ReadPlan::operation)
            .collect();
        let number = self.fetches.add(fetch);
        for (read, operation) in reads.into_iter().enumerate() {
            let purpose = Purpose::Fetch { number, read };
            self.request(Lane::Background, operation, purpose, out);
        }
    }

    /// Entries up to `upto` are no longer needed. Segments that hold nothing else are recycled.
    pub fn release(&mut self, group: GroupId, upto: Slot, out: &mut Vec<Request>) {
        if let Some(log) = self.groups.get_mut(&group) {
            log.release(upto, &mut self.live);
        }
        self.give_up_segments(out);
    }

    /// The groups whose oldest entries keep more than `segments` segments in use, most of which
    /// others have filled. They have to take a checkpoint, or the log of the others can never be
    /// let go of. A group whose own entries make up a good part of the log keeps it for itself.
    #[must_use]
    pub fn pinning(&self, segments: usize) -> Vec<GroupId> {
        let in_use = &self.segments.in_use;
        let Some(over) = in_use.len().checked_sub(segments).filter(|over| *over > 0) else {
            return Vec::new();
        };
        let kept = in_use[over.min(in_use.len() - 1)].sequence;
        let bytes: u64 = in_use.iter().map(|segment| segment.bytes).sum();
        let pins = |log: &GroupLog| {
            let is_oldest = log.oldest().is_some_and(|oldest| oldest < kept);
            is_oldest && bytes / OWN_PART > log.bytes_since(Slot(0))
        };
        let groups = self.groups.iter().filter(|(_, log)| pins(log));
        groups.map(|(group, _)| *group).collect()
    }

    /// Whether segments of a damaged log before this one are kept.
    #[must_use]
    pub fn has_set_aside(&self) -> bool {
        !self.set_aside.is_empty()
    }

    /// Nobody can need the damaged log before this one any more. Only possible once something of
    /// this one is on stable storage: until then, the next start would begin with the old one.
    pub fn forget_set_aside(&mut self, out: &mut Vec<Request>) {
        if self.metrics.batches == 0 {
            return;
        }
        let files = std::mem::take(&mut self.set_aside).into_iter();
        let requests = files.map(|file| (FilePurpose::Discard, Operation::Delete { file }));
        self.submit_file_requests(requests.collect(), out);
        self.give_up_segments(out);
    }

    /// The groups whose entries keep this segment, or one before it, in use.
    #[must_use]
    pub fn pinning_through(&self, segment: u64) -> Vec<GroupId> {
        let pins = |log: &GroupLog| log.oldest().is_some_and(|oldest| oldest <= segment);
        let groups = self.groups.iter().filter(|(_, log)| pins(log));
        groups.map(|(group, _)| *group).collect()
    }

    /// The oldest segment in use.
    #[must_use]
    pub fn oldest_segment(&self) -> Option<u64> {
        self.segments.in_use.front().map(|segment| segment.sequence)
    }

    /// The bytes of a group's log behind a slot: decides when a checkpoint is due.
    #[must_use]
    pub fn bytes_since(&self, group: GroupId, slot: Slot) -> u64 {
        self.groups
            .get(&group)
            .map_or(0, |log| log.bytes_since(slot))
    }

    /// Counters and sizes.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let in_use = &self.segments.in_use;
        let full = in_use
            .iter()
            .rev()
            .skip(1)
            .map(|segment| segment.bytes)
            .sum::<u64>();
        let waiting = self
            .queue
            .iter()
            .map(|batch| batch.builder.disk_bytes())
            .sum::<u64>();
        let writing = self
            .in_flight
            .as_ref()
            .map_or(0, |batch| batch.blocks.len() as u64);
        Metrics {
            segments: in_use.len() as u64,
            spare_segments: self.segments.spare_count() as u64,
            bytes: full + self.write_offset,
            buffered_bytes: waiting + writing,
            ..self.metrics
        }
    }

    /// What has not reached the disk yet.
    fn memory(&self) -> Vec<InMemory<'_>> {
        let in_flight = self.in_flight.iter().map(|batch| InMemory {
            home: Home::Segment(batch.segment),
            offset: batch.offset,
            blocks: &batch.blocks,
        });
        let queue = self.queue.iter().map(|batch| InMemory {
            home: Home::Batch(batch.number),
            offset: 0,
            blocks: batch.builder.blocks(),
        });
        in_flight.chain(queue).collect()
    }

    fn finish(&self, fetch: Fetch) -> Done {
        let log = self.groups.get(&fetch.group());
        fetch.finish(log)
    }

    /// Takes the end of something that was done with a whole file.
    fn file_done(
        &mut self,
        purpose: FilePurpose,
        file: File,
        result: Result<Bytes, DiskError>,
        out: &mut Vec<Request>,
        done: &mut Vec<Done>,
    ) {
        let mut requests = FileRequests::new();
        match (result, purpose) {
            (Ok(_), _) => self.segments.succeeded(purpose, &mut requests),
            (Err(error), FilePurpose::Create { .. })
                if self.stalled && !self.segments.spare_is_coming() =>
            {
                self.halt(no_segment(file, &error), done);
            }
            (Err(error), FilePurpose::Create { spare }) => {
                self.segments.creating_failed(spare, error, &mut requests);
            }
            (Err(error), _) => {
                let action = match purpose {
                    FilePurpose::Discard => "deleted",
                    _ => "renamed",
                };
                let message = format!(
                    "{} cannot be {action}: {error}. Check the disk and the permissions of the \
                     data folder, then start again.",
                    path(file)
                );
                self.halt(message, done);
            }
        }
        self.submit_file_requests(requests, out);
        self.submit(out);
    }

    /// Nothing is submitted or reported any more.
    fn halt(&mut self, message: String, done: &mut Vec<Done>) {
        self.halted = true;
        done.push(Done::Fatal(message));
    }

    fn submit_file_requests(&mut self, requests: FileRequests, out: &mut Vec<Request>) {
        if self.halted {
            return;
        }
        for (purpose, operation) in requests {
            let file = match &operation {
                Operation::CreateZeroed { file, .. } | Operation::Delete { file } => *file,
                Operation::Rename { from, .. } => *from,
                other => panic!("whole files are created, renamed and deleted, not {other:?}"),
            };
            self.request(
                Lane::Background,
                operation,
                Purpose::File(purpose, file),
                out,
            );
        }
    }

    fn request(
        &mut self,
        lane: Lane,
        operation: Operation,
        purpose: Purpose,
        out: &mut Vec<Request>,
    ) -> RequestId {
        let request = self.ids.request(lane, operation);
        let id = request.id;
        self.requests.insert(id, purpose);
        out.push(request);
        id
    }
}

/// Why the journal cannot go on without a new segment.
fn no_segment(file: File, error: &DiskError) -> String {
    let cure = match error {
        DiskError::Full => "Free some space on the disk of the data folder, or enlarge it",
        _ => "Check the disk and the permissions of the data folder",
    };
    format!(
        "the log needs another segment, but {} cannot be created: {error}. {cure}, then start \
         again. Nothing acknowledged is lost.",
        path(file)
    )
}
