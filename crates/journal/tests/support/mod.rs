//! What the journal's tests share: a disk that can be cut off at any point, and a driver.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod checked;
pub(crate) mod disk;
pub(crate) mod model;

use base::{ClusterId, DiskId, Epoch, GroupId, NodeId, Slot};
use bytes::Bytes;
use disk::SimulatedDisk;
use quorate_journal::disk::{Lane, Request};
use quorate_journal::{
    Done, FetchedEntry, Identity, Journal, Limits, Record, RecordKind, Recovered, Recovery,
    RecoveryError, RecoveryStep,
};

/// Segments of 4 KiB: a handful of batches each.
pub(crate) fn small_limits() -> Limits {
    Limits {
        segment_bytes: 4096,
        batch_bytes_max: 2048,
        read_bytes: 1024,
        read_gap_bytes: 512,
        spare_segments: 2,
    }
}

pub(crate) fn identity() -> Identity {
    Identity {
        cluster: ClusterId(0xC1),
        node: NodeId(0xA1),
        disk: DiskId(0xD1),
    }
}

pub(crate) fn entry(group: u64, slot: u64, epoch: u64, body: impl Into<Vec<u8>>) -> Record {
    record(RecordKind::Entry, group, slot, epoch, body)
}

pub(crate) fn hard_state(group: u64, body: impl Into<Vec<u8>>) -> Record {
    record(RecordKind::HardState, group, 0, 0, body)
}

pub(crate) fn record(
    kind: RecordKind,
    group: u64,
    slot: u64,
    epoch: u64,
    body: impl Into<Vec<u8>>,
) -> Record {
    let (group, slot, epoch) = (GroupId(group), Slot(slot), Epoch(epoch));
    Record {
        group,
        kind,
        slot,
        epoch,
        body: Bytes::from(body.into()),
    }
}

/// Recovers a journal; every request is carried out.
pub(crate) fn recover(
    disk: &mut SimulatedDisk,
    limits: Limits,
) -> Result<(Journal, Recovered), RecoveryError> {
    let recovery = Recovery::new(identity(), limits, &disk.files());
    carry_out(recovery, disk)
}

fn carry_out(
    mut recovery: Recovery,
    disk: &mut SimulatedDisk,
) -> Result<(Journal, Recovered), RecoveryError> {
    let mut out = Vec::new();
    recovery.start(&mut out);
    loop {
        disk.submit(&mut out);
        let completion = disk.execute_any().expect("a recovery waits for something");
        match recovery.complete(completion, &mut out) {
            RecoveryStep::Working {
                read_bytes,
                total_bytes,
            } => {
                assert!(read_bytes <= total_bytes);
            }
            RecoveryStep::Done(done) => {
                disk.submit(&mut out);
                return Ok(*done);
            }
            RecoveryStep::Refused(error) => return Err(error),
        }
    }
}

/// A journal on a simulated disk.
pub(crate) struct World {
    pub(crate) disk: SimulatedDisk,
    pub(crate) journal: Journal,
    pub(crate) recovered: Recovered,
    pub(crate) done: Vec<Done>,
    pub(crate) next_mark: u64,
}

impl World {
    /// A journal on what is on the disk.
    pub(crate) fn open(mut disk: SimulatedDisk, limits: Limits) -> World {
        let opened = recover(&mut disk, limits).unwrap();
        World::with(disk, opened)
    }

    /// A journal that begins anew behind what is on the disk.
    pub(crate) fn open_anew(mut disk: SimulatedDisk, limits: Limits) -> World {
        let recovery = Recovery::anew(identity(), limits, &disk.files());
        let opened = carry_out(recovery, &mut disk).unwrap();
        World::with(disk, opened)
    }

    fn with(disk: SimulatedDisk, (journal, recovered): (Journal, Recovered)) -> World {
        World {
            disk,
            journal,
            recovered,
            done: Vec::new(),
            next_mark: 1,
        }
    }

    pub(crate) fn fresh() -> World {
        World::open(SimulatedDisk::default(), small_limits())
    }

    /// Appends records and flushes them; nothing is carried out yet.
    pub(crate) fn begin(&mut self, records: impl IntoIterator<Item = Record>) -> u64 {
        for record in records {
            self.journal.append(record);
        }
        let mark = self.next_mark;
        self.next_mark += 1;
        let mut out = Vec::new();
        self.journal.flush(mark, &mut out);
        self.disk.submit(&mut out);
        mark
    }

    /// Appends records and makes them durable; everything that follows is carried out too.
    pub(crate) fn write(&mut self, records: impl IntoIterator<Item = Record>) {
        let mark = self.begin(records);
        self.settle();
        assert!(
            self.done.contains(&Done::Durable { mark }),
            "{:?}",
            self.done
        );
    }

    pub(crate) fn release(&mut self, group: u64, upto: u64) {
        let mut out = Vec::new();
        self.journal.release(GroupId(group), Slot(upto), &mut out);
        self.disk.submit(&mut out);
    }

    /// Carries out the next request of a lane, if there is one.
    pub(crate) fn step(&mut self, lane: Lane) -> bool {
        let Some(completion) = self.disk.execute(lane) else {
            return false;
        };
        let mut out: Vec<Request> = Vec::new();
        self.journal.complete(completion, &mut out, &mut self.done);
        self.disk.submit(&mut out);
        true
    }

    /// Carries out everything.
    pub(crate) fn settle(&mut self) {
        while self.step(Lane::Journal) || self.step(Lane::Background) {}
    }

    /// Fetches, and carries out everything.
    pub(crate) fn fetch(&mut self, group: u64, from: u64, upto: u64, max_bytes: u64) -> Done {
        let mut out = Vec::new();
        let ticket = 77;
        let (group, from, upto) = (GroupId(group), Slot(from), Slot(upto));
        self.journal.fetch(
            ticket,
            group,
            from,
            upto,
            max_bytes,
            &mut out,
            &mut self.done,
        );
        self.disk.submit(&mut out);
        self.settle();
        let answer = self.done.iter().position(|done| {
            matches!(
                done,
                Done::Fetched { ticket: 77, .. } | Done::Damage { ticket: 77, .. }
            )
        });
        self.done.remove(answer.expect("a fetch is answered"))
    }

    /// Fetches entries that must be there.
    pub(crate) fn entries(&mut self, group: u64, from: u64, upto: u64) -> Vec<FetchedEntry> {
        match self.fetch(group, from, upto, u64::MAX) {
            Done::Fetched { entries, .. } => entries,
            other => panic!("{other:?}"),
        }
    }

    /// Opens it again after everything was carried out.
    pub(crate) fn reopen(mut self) -> World {
        self.settle();
        let limits = small_limits();
        World::open(self.disk, limits)
    }
}
