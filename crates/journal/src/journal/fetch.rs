//! Reading entries back: few reads, every byte verified.
//!
//! A fetch is planned at once: entries that are still in memory (in a batch that is being built
//! or written) are copied from there; the others are gathered into reads of neighbouring blocks.
//! Nothing that is not yet durable is ever read from the disk.

use std::collections::VecDeque;

use base::{GroupId, Slot};
use bytes::Bytes;

use super::{Done, FetchedEntry};
use crate::disk::{DiskError, File, Operation};
use crate::format::block::{self, BLOCK_BYTES, Block, Seed};
use crate::format::record::{self, StoredKind};
use crate::index::{GroupLog, Home, Location};
use crate::recovery::path;

/// Entries in memory: the blocks of a batch, and where the batch is at home.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InMemory<'a> {
    /// The home that the index gives for the batch's entries.
    pub(crate) home: Home,
    /// What is subtracted from offsets in the index.
    pub(crate) offset: u64,
    pub(crate) blocks: &'a [u8],
}

/// One entry of a fetch.
#[derive(Debug)]
struct Wanted {
    slot: Slot,
    location: Location,
    entry: Option<FetchedEntry>,
}

/// Neighbouring blocks of one segment that are read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadPlan {
    segment: u64,
    /// Byte range in the file, whole blocks.
    from: u64,
    upto: u64,
    /// Which of the fetch's entries are in it: a range of indexes.
    first: usize,
    end: usize,
}

impl ReadPlan {
    pub(crate) fn operation(&self) -> Operation {
        let file = File::Segment(self.segment);
        Operation::Read {
            file,
            offset: self.from,
            length: self.upto - self.from,
        }
    }
}

/// A fetch under way.
#[derive(Debug)]
pub(crate) struct Fetch {
    ticket: u64,
    group: GroupId,
    wanted: Vec<Wanted>,
    reads: Vec<ReadPlan>,
    /// Reads that have not ended.
    outstanding: usize,
    damage: Option<(Slot, String)>,
}

/// How reads are gathered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gathering {
    pub(crate) max_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) read_gap_bytes: u64,
}

impl Fetch {
    /// Plans a fetch. What is in memory is fetched at once.
    pub(crate) fn plan(
        ticket: u64,
        group: GroupId,
        (log, from, upto): (&GroupLog, Slot, Slot),
        gathering: Gathering,
        memory: &[InMemory<'_>],
    ) -> Fetch {
        let mut fetch = Fetch {
            ticket,
            group,
            wanted: Vec::new(),
            reads: Vec::new(),
            outstanding: 0,
            damage: None,
        };
        let (mut slot, mut bytes) = (from, 0);
        while slot <= upto.min(log.last()) {
            let Some(location) = log.locate(slot) else {
                break;
            };
            bytes += location.bytes;
            if bytes > gathering.max_bytes && !fetch.wanted.is_empty() {
                break;
            }
            fetch.want(slot, location, gathering, memory);
            slot = slot.next();
        }
        fetch.outstanding = fetch.reads.len();
        fetch
    }

    /// Adds an entry to the plan.
    fn want(
        &mut self,
        slot: Slot,
        location: Location,
        gathering: Gathering,
        memory: &[InMemory<'_>],
    ) {
        let index = self.wanted.len();
        let here = memory
            .iter()
            .find(|batch| batch.home == location.home && batch.offset <= location.offset);
        if let Some(batch) = here {
            let offset = location.offset - batch.offset;
            let entry = take(batch.blocks, offset, location, self.group, slot)
                .expect("memory holds what was put there");
            self.wanted.push(Wanted {
                slot,
                location,
                entry: Some(entry),
            });
            return;
        }
        self.wanted.push(Wanted {
            slot,
            location,
            entry: None,
        });
        let Home::Segment(segment) = location.home else {
            panic!("an entry is in memory until its batch is durable");
        };
        let from = location.offset / BLOCK_BYTES * BLOCK_BYTES;
        let end = block::end_of_payload(location.offset, location.bytes);
        let upto = end.next_multiple_of(BLOCK_BYTES);
        if let Some(last) = self.reads.last_mut() {
            let joins = last.segment == segment
                && last.end == index
                && from >= last.from
                && from <= last.upto + gathering.read_gap_bytes
                && upto - last.from <= gathering.read_bytes;
            if joins {
                last.upto = last.upto.max(upto);
                last.end = index + 1;
                return;
            }
        }
        self.reads.push(ReadPlan {
            segment,
            from,
            upto,
            first: index,
            end: index + 1,
        });
    }

    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    pub(crate) fn reads(&self) -> &[ReadPlan] {
        &self.reads
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.outstanding == 0
    }

    /// Takes the end of one of the reads.
    pub(crate) fn read_done(&mut self, seed: Seed, read: usize, result: Result<Bytes, DiskError>) {
        self.outstanding -= 1;
        let plan = &self.reads[read];
        let file = File::Segment(plan.segment);
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(error) => {
                let what = format!("{} cannot be read: {error}", path(file));
                let slot = self.wanted[plan.first].slot;
                self.damage.get_or_insert((slot, what));
                return;
            }
        };
        let mut verified = plan.from;
        for wanted in &mut self.wanted[plan.first..plan.end] {
            let Location {
                offset,
                bytes: length,
                ..
            } = wanted.location;
            let end = block::end_of_payload(offset, length);
            let from = verified.max(offset / BLOCK_BYTES * BLOCK_BYTES);
            let entry = verify(seed, plan.from, &bytes, (from, end)).and_then(|upto| {
                verified = upto;
                take(
                    &bytes,
                    offset - plan.from,
                    wanted.location,
                    self.group,
                    wanted.slot,
                )
                .map_err(|what| (offset, what))
            });
            match entry {
                Ok(entry) => wanted.entry = Some(entry),
                Err((at, what)) => {
                    let what = format!("{} is damaged at byte {at}: {what}", path(file));
                    self.damage.get_or_insert((wanted.slot, what));
                    return;
                }
            }
        }
    }

    /// The answer, once all reads have ended. Entries that were replaced meanwhile are left out,
    /// with everything behind them.
    pub(crate) fn finish(self, log: Option<&GroupLog>) -> Done {
        assert!(
            self.outstanding == 0,
            "a fetch ends when its reads have ended"
        );
        let ticket = self.ticket;
        if let Some((slot, description)) = self.damage {
            return Done::Damage {
                ticket,
                group: self.group,
                slot,
                description,
            };
        }
        let still_there = |wanted: &Wanted| {
            log.is_some_and(|log| {
                let released = wanted.slot <= log.start().0;
                let epoch = log.locate(wanted.slot).map(|location| location.epoch);
                released || epoch == Some(wanted.location.epoch)
            })
        };
        let entries = self
            .wanted
            .into_iter()
            .take_while(still_there)
            .map(|wanted| wanted.entry.expect("every entry was read"))
            .collect();
        Done::Fetched { ticket, entries }
    }
}

/// Verifies the blocks that the byte range touches; `bytes` starts at `start` of the segment.
/// Returns the end of the last block, or where the first bad one is.
fn verify(
    seed: Seed,
    start: u64,
    bytes: &[u8],
    (mut from, end): (u64, u64),
) -> Result<u64, (u64, String)> {
    while from < end {
        let at = (from - start) as usize;
        let block = bytes.get(at..at + BLOCK_BYTES as usize);
        let block = block.ok_or((from, "the file ends here".to_owned()))?;
        match block::classify(seed, from, block) {
            Block::Valid(_) => {}
            Block::Zero => return Err((from, "the block is zero".to_owned())),
            Block::Rotten => {
                return Err((from, "the checksum of the block is wrong".to_owned()));
            }
        }
        from += BLOCK_BYTES;
    }
    Ok(from)
}

/// Reads the entry whose record starts at `offset` of `blocks`, and makes sure that it is the one.
fn take(
    blocks: &[u8],
    offset: u64,
    location: Location,
    group: GroupId,
    slot: Slot,
) -> Result<FetchedEntry, String> {
    let bytes = block::copy_payload(blocks, offset, location.bytes)
        .ok_or_else(|| record::RecordFault::TooShort.to_string())?;
    let (record, _) = record::decode(&bytes.into()).map_err(|fault| fault.to_string())?;
    let is_it = record.group == group
        && record.slot == slot
        && record.epoch == location.epoch
        && record.encoded_bytes() == location.bytes;
    match record.kind {
        StoredKind::Given(kind) if is_it && kind.is_entry() => Ok(FetchedEntry {
            slot,
            epoch: record.epoch,
            kind,
            body: record.body,
        }),
        _ => Err(format!(
            "the entry of group {group} at slot {slot}, epoch {} should be here, but there is a \
             record of group {}, slot {}, epoch {}",
            location.epoch, record.group, record.slot, record.epoch
        )),
    }
}

/// Fetches under way, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    under_way: VecDeque<(u64, Fetch)>,
    next: u64,
}

impl Fetches {
    /// Keeps a fetch until its reads have ended; returns its number.
    pub(crate) fn add(&mut self, fetch: Fetch) -> u64 {
        self.next += 1;
        self.under_way.push_back((self.next, fetch));
        self.next
    }

    /// Takes the end of a read; returns the fetch if it was the last one.
    pub(crate) fn read_done(
        &mut self,
        seed: Seed,
        number: u64,
        read: usize,
        result: Result<Bytes, DiskError>,
    ) -> Option<Fetch> {
        let at = self.under_way.iter().position(|(of, _)| *of == number);
        let at = at.expect("a fetch is kept until its reads have ended");
        let (_, fetch) = &mut self.under_way[at];
        fetch.read_done(seed, read, result);
        if !fetch.is_complete() {
            return None;
        }
        self.under_way.remove(at).map(|(_, fetch)| fetch)
    }
}
