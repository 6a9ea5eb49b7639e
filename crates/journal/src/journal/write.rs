//! The write path: batches, one after another, and what must be in them before old segments go.

use bytes::Bytes;

use base::mutant::{self, Mutant};
use base::{Epoch, GroupId, Slot};

use super::segments::{FileRequests, Next};
use super::{Done, InFlight, Journal, OpenBatch, Purpose};
use crate::disk::{DiskError, File, Lane, Operation, Request};
use crate::format::batch::{BatchBuilder, Sealing};
use crate::format::block::BLOCK_BYTES;
use crate::format::head::SegmentHead;
use crate::format::record::{RecordKind, StoredKind, StoredRecord};
use crate::index::{GroupLog, HardState, Home};
use crate::recovery::path;

impl Journal {
    /// Copies a record into the open batch; returns that batch's number, and where in it the
    /// record starts.
    pub(super) fn push(&mut self, record: StoredRecord) -> (u64, u64) {
        let bytes = record.encoded_bytes();
        let max = self.limits.batch_payload_max();
        let fits = self.queue.back().is_some_and(|batch| {
            let builder = &batch.builder;
            builder.records() == 0 || builder.payload_bytes() + bytes <= max
        });
        if !fits {
            self.open_batch();
        }
        let batch = self.queue.back_mut().expect("a batch is open");
        if batch.groups.last() != Some(&record.group) {
            batch.groups.push(record.group);
        }
        (batch.number, batch.builder.push(&record))
    }

    /// Opens a batch at the end of the queue.
    pub(super) fn open_batch(&mut self) -> &mut OpenBatch {
        let number = self.next_number;
        self.next_number += 1;
        self.queue.push_back(OpenBatch {
            number,
            builder: BatchBuilder::new(std::mem::take(&mut self.spare_buffer)),
            groups: Vec::new(),
            mark: None,
            oldest: None,
        });
        self.queue.back_mut().expect("a batch is open")
    }

    /// Submits the next batch, if one is to be written and nothing stands in the way.
    pub(super) fn submit(&mut self, out: &mut Vec<Request>) {
        let Some(batch) = self.queue.front() else {
            return;
        };
        if self.halted || self.in_flight.is_some() || batch.number > self.flushed_through {
            return;
        }
        let bytes = batch.builder.disk_bytes();
        let current = self.segments.current();
        let fits = current.is_some_and(|segment| self.write_offset + bytes <= segment.bytes);
        if !fits && self.segments.next != Next::Ready {
            // It was begun long ago, unless it failed: then this is the second and last attempt.
            self.stalled = true;
            let mut requests = FileRequests::new();
            self.segments.prepare(&mut requests);
            self.submit_file_requests(requests, out);
            return;
        }
        self.stalled = false;
        let batch = self.queue.pop_front().expect("the queue is not empty");
        self.write(batch, !fits, out);
    }

    /// Seals a batch and writes it, at the start of the next segment if it is to `advance`.
    fn write(&mut self, mut batch: OpenBatch, advance: bool, out: &mut Vec<Request>) {
        let mut data = Vec::with_capacity(2);
        if advance {
            data.push(self.advance(batch.number));
        }
        let segment = self
            .segments
            .current()
            .expect("a segment is in use")
            .sequence;
        let offset = self.write_offset;
        batch.groups.sort_unstable();
        batch.groups.dedup();
        for group in &batch.groups {
            // Else it was closed since.
            if let Some(log) = self.groups.get_mut(group) {
                log.place(batch.number, segment, offset, &mut self.live);
            }
        }
        if self.oldest == 0 {
            self.oldest = segment;
        }
        self.oldest = batch.oldest.unwrap_or(self.oldest);
        let (blocks, checksum) = batch.builder.seal(&Sealing {
            seed: self.seed,
            offset,
            number: batch.number,
            previous_checksum: self.checksum,
            synced_through: self.durable,
            oldest_segment: self.oldest,
        });
        self.checksum = checksum;
        self.write_offset += blocks.len() as u64;
        let blocks = Bytes::from(blocks);
        data.push(blocks.clone());
        let start = if advance { 0 } else { offset };
        let file = File::Segment(segment);
        let write = Operation::Write {
            file,
            offset: start,
            data,
            sync: !mutant::is_on(Mutant::AcknowledgeBeforeSync),
        };
        let request = self.request(Lane::Journal, write, Purpose::Batch, out);
        self.in_flight = Some(InFlight {
            request,
            number: batch.number,
            segment,
            offset,
            blocks,
            mark: batch.mark,
            oldest: batch.oldest,
        });
    }

    /// Makes the prepared segment the current one; returns its head.
    fn advance(&mut self, first_batch: u64) -> Bytes {
        let begins_anew = self.segments.begins_anew();
        let segment = self.segments.advance();
        self.write_offset = BLOCK_BYTES;
        let head = SegmentHead {
            identity: self.identity,
            sequence: segment.sequence,
            first_batch,
            segment_bytes: segment.bytes,
            previous_checksum: self.checksum,
            begins_anew,
        };
        head.encode().into()
    }

    /// Takes the end of the write of the batch in flight.
    pub(super) fn batch_written(
        &mut self,
        result: Result<Bytes, DiskError>,
        out: &mut Vec<Request>,
        done: &mut Vec<Done>,
    ) {
        let batch = self.in_flight.take().expect("a batch is in flight");
        if let Err(error) = result
            && !mutant::is_on(Mutant::GoOnAfterSyncError)
        {
            let message = format!(
                "{} could not be written and synced at byte {}: {error}. After that nobody knows \
                 what the disk holds, so the process stops. Check the disk, then start again: \
                 recovery finds out.",
                path(File::Segment(batch.segment)),
                batch.offset
            );
            self.halt(message, done);
            return;
        }
        assert!(
            batch.number == self.durable + 1,
            "batches become durable in order"
        );
        self.durable = batch.number;
        self.metrics.batches += 1;
        self.metrics.syncs += 1;
        done.extend(batch.mark.map(|mark| Done::Durable { mark }));
        let mut requests = FileRequests::new();
        if let Some(oldest) = batch.oldest {
            self.giving_up = false;
            for segment in &self.segments.in_use {
                if segment.sequence < oldest {
                    self.live.forget(segment.sequence);
                }
            }
            let given_up = self.segments.give_up_before(oldest, &mut requests);
            self.metrics.segments_released += given_up;
        }
        // Only now, so that no more than one segment ever waits without a head.
        if self.segments.next == Next::Idle {
            self.segments.prepare(&mut requests);
        }
        self.submit_file_requests(requests, out);
        self.keep_buffer(batch.blocks);
        self.give_up_segments(out);
        self.submit(out);
    }

    /// Keeps a buffer for the next batch, unless it is much larger than batches usually are.
    fn keep_buffer(&mut self, blocks: Bytes) {
        if let Ok(buffer) = blocks.try_into_mut()
            && buffer.capacity() as u64 <= self.limits.batch_bytes_max
        {
            self.spare_buffer = buffer.into();
        }
    }

    /// Gives up the oldest segments that hold no live entry. What else must be remembered of them
    /// is written again first; the batch with the last of it says that the log no longer needs
    /// them, and once it is durable, they go.
    pub(super) fn give_up_segments(&mut self, out: &mut Vec<Request>) {
        let Some(current) = self.segments.current() else {
            return;
        };
        if self.giving_up || self.halted {
            return;
        }
        let needed = self.segments.in_use.iter().find(|segment| {
            segment.sequence == current.sequence || self.live.of(segment.sequence) > 0
        });
        let oldest = needed.expect("the current segment is needed").sequence;
        if self.segments.in_use[0].sequence == oldest {
            return;
        }
        self.giving_up = true;
        let survivors: Vec<StoredRecord> = self
            .groups
            .iter()
            .flat_map(|(group, log)| survivors(*group, log, oldest))
            .collect();
        for record in survivors {
            self.write_again(record);
        }
        if self.queue.is_empty() {
            self.open_batch();
        }
        self.queue.back_mut().expect("a batch is open").oldest = Some(oldest);
        self.flushed_through = self.next_number - 1;
        self.submit(out);
    }

    /// Appends a record of which an older copy is about to go.
    fn write_again(&mut self, record: StoredRecord) {
        let StoredRecord {
            group,
            kind,
            slot,
            epoch,
            body,
        } = record.clone();
        let (number, _) = self.push(record);
        let home = Home::Batch(number);
        let log = self
            .groups
            .get_mut(&group)
            .expect("a group with survivors is known");
        match kind {
            StoredKind::Given(RecordKind::HardState) => {
                log.hard_state = Some(HardState {
                    slot,
                    epoch,
                    body,
                    home,
                });
            }
            StoredKind::Given(RecordKind::GroupOpened) => log.description = Some((body, home)),
            StoredKind::Start => log.anchor = Some(((slot, epoch), home)),
            StoredKind::Given(_) => panic!("entries are not written again"),
        }
    }
}

/// What must be written again of a group before the segments before `oldest` go.
fn survivors(group: GroupId, log: &GroupLog, oldest: u64) -> Vec<StoredRecord> {
    let goes = |home: Home| matches!(home, Home::Segment(segment) if segment < oldest);
    let mut records = Vec::new();
    if let Some((body, home)) = log.description.clone()
        && goes(home)
    {
        records.push(StoredRecord {
            group,
            kind: StoredKind::Given(RecordKind::GroupOpened),
            slot: Slot(0),
            epoch: Epoch(0),
            body,
        });
    }
    if let Some(hard_state) = log.hard_state.clone()
        && goes(hard_state.home)
    {
        let HardState {
            slot, epoch, body, ..
        } = hard_state;
        let kind = StoredKind::Given(RecordKind::HardState);
        records.push(StoredRecord {
            group,
            kind,
            slot,
            epoch,
            body,
        });
    }
    let (slot, epoch) = log.start();
    let told = log
        .anchor
        .is_some_and(|(start, home)| start == (slot, epoch) && !goes(home));
    if slot.0 > 0 && !told {
        let kind = StoredKind::Start;
        records.push(StoredRecord {
            group,
            kind,
            slot,
            epoch,
            body: Bytes::new(),
        });
    }
    records
}
