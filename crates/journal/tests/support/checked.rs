//! A journal beside a model of it: every step is done to both, every answer is compared.

use std::collections::BTreeMap;

use base::{Epoch, GroupId, Random, Slot};
use bytes::Bytes;
use quorate_journal::disk::Lane;
use quorate_journal::{
    Done, FetchedEntry, Journal, Record, RecordKind, Recovered, Recovery, RecoveryStep,
};

use super::disk::{Crash, SimulatedDisk};
use super::model::{ModelGroup, agrees, groups_after};
use super::{World, identity, small_limits};

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A record is appended; the numbers choose which.
    Append { group: u8, choice: u8, length: u16 },
    /// What was appended is flushed.
    Flush,
    /// The disk carries out some requests.
    Work { journal: u8, background: u8 },
    /// Entries are released, this far from the last one.
    Release { group: u8, behind: u8 },
    /// Entries are read back.
    Fetch { group: u8, skip: u8, max_bytes: u16 },
    /// The power goes, or the process dies; perhaps again while recovering.
    Crash { seed: u64, again: u8 },
}

/// A journal, and what is known about it.
pub(crate) struct Checked {
    pub(crate) world: World,
    /// All records that were appended, in order.
    pub(crate) records: Vec<Record>,
    /// How many of them each mark covers, and how many are durable.
    marks: BTreeMap<u64, usize>,
    pub(crate) durable: usize,
    released: BTreeMap<GroupId, Slot>,
    next_body: u64,
}

impl Checked {
    pub(crate) fn new() -> Checked {
        Checked {
            world: World::fresh(),
            records: Vec::new(),
            marks: BTreeMap::new(),
            durable: 0,
            released: BTreeMap::new(),
            next_body: 0,
        }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        match *step {
            Step::Append {
                group,
                choice,
                length,
            } => self.append(group, choice, length),
            Step::Flush => {
                let mark = self.world.begin([]);
                self.marks.insert(mark, self.records.len());
            }
            Step::Work {
                journal,
                background,
            } => {
                for (lane, count) in [(Lane::Journal, journal), (Lane::Background, background)] {
                    for _ in 0..count {
                        self.world.step(lane);
                    }
                }
                self.take_done();
            }
            Step::Release { group, behind } => {
                let id = GroupId(u64::from(group));
                let last = self.group(id).last();
                let upto = Slot(last.0.saturating_sub(u64::from(behind)));
                self.world.release(id.0, upto.0);
                let released = self.released.entry(id).or_default();
                *released = upto.max(*released);
            }
            Step::Fetch {
                group,
                skip,
                max_bytes,
            } => self.fetch(group, skip, max_bytes),
            Step::Crash { seed, again } => self.crash(seed, again),
        }
    }

    /// Makes everything durable.
    pub(crate) fn settle(&mut self) {
        self.step(&Step::Flush);
        self.world.settle();
        self.take_done();
        assert_eq!(self.durable, self.records.len());
    }

    fn group(&self, id: GroupId) -> ModelGroup {
        groups_after(&self.records, self.records.len())
            .remove(&id)
            .unwrap_or_default()
    }

    fn append(&mut self, group: u8, choice: u8, length: u16) {
        let id = GroupId(u64::from(group));
        let model = self.group(id);
        let start = model
            .base
            .0
            .max(self.released.get(&id).copied().unwrap_or_default());
        let last = model.last();
        let epoch = model
            .entries
            .values()
            .next_back()
            .map_or(model.base.1, |entry| entry.epoch);
        let near = Slot(start.0 + 1 + u64::from(choice / 16));
        // Slot and epoch name an entry.
        let anew = Epoch(1000 + self.next_body);
        let alone = group.is_multiple_of(2);
        let (kind, slot, epoch) = match choice % 16 {
            // Every other group keeps entries that stand alone.
            0..=6 if alone => (RecordKind::Accepted, last.next(), epoch),
            7 if alone => (RecordKind::Accepted, near, anew),
            8 if alone => (RecordKind::AcceptedHeader, near, anew),
            9 if alone => (RecordKind::AcceptedMembership, near, anew),
            10 if alone => (RecordKind::AcceptedMembershipLater, near, anew),
            11 if alone => (RecordKind::AcceptedLater, last.next().next(), anew),
            14 if alone => (RecordKind::AcceptedHeaderLater, near, anew),
            15 if alone => (RecordKind::LogStarts, near, anew),
            0..=7 => (RecordKind::Entry, last.next(), epoch),
            8 => (RecordKind::Header, last.next(), epoch),
            9 => (RecordKind::MembershipEntry, last.next(), epoch.next()),
            10..=11 => {
                let back = u64::from(choice / 16) % (last.0 - start.0 + 1);
                (RecordKind::Entry, Slot(last.0 + 1 - back), epoch.next())
            }
            12..=14 => (RecordKind::HardState, Slot(0), epoch),
            _ => (
                RecordKind::SnapshotInstalled,
                Slot(last.0 + 3),
                epoch.next(),
            ),
        };
        // Bodies differ, so that no record can be taken for another.
        self.next_body += 1;
        let mut body = self.next_body.to_le_bytes().to_vec();
        body.resize(8 + usize::from(length), choice);
        if matches!(kind, RecordKind::SnapshotInstalled | RecordKind::LogStarts) {
            body.clear();
        }
        if kind == RecordKind::HardState {
            body.truncate(40);
        }
        let record = Record {
            group: id,
            kind,
            slot,
            epoch,
            body: Bytes::from(body),
        };
        self.records.push(record.clone());
        self.world.journal.append(record);
    }

    /// Takes what the journal has reported.
    pub(crate) fn take_done(&mut self) {
        for done in self.world.done.drain(..) {
            match done {
                Done::Durable { mark } => {
                    let covered = self.marks[&mark];
                    assert!(covered >= self.durable, "marks become durable in order");
                    self.durable = covered;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn fetch(&mut self, group: u8, skip: u8, max_bytes: u16) {
        let id = GroupId(u64::from(group));
        self.take_done();
        let model = self.group(id);
        let start = model
            .base
            .0
            .max(self.released.get(&id).copied().unwrap_or_default());
        let from = Slot(start.0 + 1 + u64::from(skip));
        let answer = self
            .world
            .fetch(id.0, from.0, u64::MAX, u64::from(max_bytes));
        let Done::Fetched { entries, .. } = answer else {
            panic!("{answer:?}")
        };
        let wanted: Vec<FetchedEntry> = model
            .entries
            .range(from..)
            .zip(from.0..)
            // Up to the first gap.
            .take_while(|((slot, _), expected)| slot.0 == *expected)
            .map(|((_, entry), _)| entry.clone())
            .collect();
        assert_eq!(entries[..], wanted[..entries.len()]);
        assert_eq!(entries.is_empty(), wanted.is_empty());
        self.take_done();
    }

    fn crash(&mut self, seed: u64, again: u8) {
        let mut random = Random::from_seed(seed);
        let mut disk = self.world.disk.clone();
        disk.crash(choose(&mut random), &mut random);
        for _ in 0..again {
            interrupt_recovery(&mut disk, &mut random);
        }
        self.world = World::open(disk, small_limits());
        self.adopt();
    }

    /// What was recovered must be what was there after some record, no earlier than the last
    /// one that was reported durable. From there it goes on.
    pub(crate) fn adopt(&mut self) {
        let Recovered { groups, .. } = &self.world.recovered;
        let survived = (self.durable..=self.records.len())
            .find(|count| agrees(&self.records, *count, &self.released, &self.world.recovered));
        let survived = survived.unwrap_or_else(|| {
            let wanted = groups_after(&self.records, self.durable);
            panic!(
                "durable: {wanted:?}\nreleased: {:?}\nfound: {groups:?}",
                self.released
            );
        });
        self.records.truncate(survived);
        self.durable = survived;
        self.marks.clear();
        self.released = groups
            .iter()
            .map(|(id, group)| (*id, group.start.0))
            .collect();
        for id in self
            .world
            .recovered
            .groups
            .keys()
            .copied()
            .collect::<Vec<_>>()
        {
            let model = self.group(id);
            let start = self.released[&id];
            let entries = self.world.entries(id.0, start.0 + 1, u64::MAX);
            let wanted: Vec<FetchedEntry> = model
                .entries
                .range(start.next()..)
                .zip(start.next().0..)
                // Up to the first gap.
                .take_while(|((slot, _), expected)| slot.0 == *expected)
                .map(|((_, entry), _)| entry.clone())
                .collect();
            assert_eq!(entries, wanted);
        }
    }
}

fn choose(random: &mut Random) -> Crash {
    if random.chance(0.7) {
        Crash::Power
    } else {
        Crash::Process
    }
}

/// Begins to recover, and is interrupted after some requests, or as the journal begins to work.
fn interrupt_recovery(disk: &mut SimulatedDisk, random: &mut Random) {
    let mut recovery = Recovery::new(identity(), small_limits(), &disk.files());
    let mut out = Vec::new();
    let mut journal: Option<Box<(Journal, Recovered)>> = None;
    recovery.start(&mut out);
    disk.submit(&mut out);
    while !random.chance(0.05) {
        let lane = if random.chance(0.5) {
            Lane::Journal
        } else {
            Lane::Background
        };
        let Some(completion) = disk.execute(lane) else {
            continue;
        };
        if let Some(journal) = &mut journal {
            let mut done = Vec::new();
            journal.0.complete(completion, &mut out, &mut done);
        } else {
            match recovery.complete(completion, &mut out) {
                RecoveryStep::Working { .. } => {}
                RecoveryStep::Done(done) => journal = Some(done),
                RecoveryStep::Refused(error) => panic!("{error}"),
            }
        }
        disk.submit(&mut out);
    }
    disk.crash(choose(random), random);
}
