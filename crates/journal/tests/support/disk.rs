//! A disk in memory that can lose its power between any two requests, and in the middle of one.
//!
//! Each file has what programs see and what is on stable storage. A synced write changes both, but
//! the second only where it wrote: as after a failed sync of some systems, what an earlier process
//! left in the cache is not made durable by a later sync. That is the worst that may be assumed.

use std::collections::{BTreeMap, VecDeque};

use base::Random;
use bytes::Bytes;
use quorate_journal::disk::{Completion, DiskError, File, Lane, Operation, Request};

const SECTOR: usize = 512;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    visible: Vec<u8>,
    stable: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct SimulatedDisk {
    pub(crate) content: BTreeMap<File, Content>,
    journal_lane: VecDeque<Request>,
    background_lane: VecDeque<Request>,
    /// Creating a file fails with this.
    pub(crate) create_error: Option<DiskError>,
    /// Writing fails with this.
    pub(crate) write_error: Option<DiskError>,
    /// This process may not read this file.
    pub(crate) locked: Option<File>,
    /// Requests carried out so far.
    pub(crate) executed: u64,
    pub(crate) reads: u64,
}

/// How the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// What is not on stable storage is gone.
    Power,
    /// The process died: what it wrote is still seen, but may never reach stable storage.
    Process,
}

impl SimulatedDisk {
    pub(crate) fn files(&self) -> Vec<(File, u64)> {
        self.content
            .iter()
            .map(|(file, content)| (*file, content.visible.len() as u64))
            .collect()
    }

    pub(crate) fn bytes(&self, file: File) -> &[u8] {
        &self.content[&file].visible
    }

    /// Changes a file behind the journal's back.
    pub(crate) fn tamper(&mut self, file: File, change: impl Fn(&mut Vec<u8>)) {
        let content = self.content.entry(file).or_default();
        change(&mut content.visible);
        change(&mut content.stable);
    }

    pub(crate) fn submit(&mut self, requests: &mut Vec<Request>) {
        for request in requests.drain(..) {
            assert_eq!(request.id.0 >> 63, 0, "the top bit belongs to the node");
            self.lane(request.lane).push_back(request);
        }
    }

    pub(crate) fn waiting(&self, lane: Lane) -> Option<&Request> {
        match lane {
            Lane::Journal => self.journal_lane.front(),
            Lane::Background => self.background_lane.front(),
        }
    }

    /// Carries out the next request of a lane.
    pub(crate) fn execute(&mut self, lane: Lane) -> Option<Completion> {
        let request = self.lane(lane).pop_front()?;
        self.executed += 1;
        let result = self.apply(&request.operation);
        Some(Completion {
            id: request.id,
            result,
        })
    }

    pub(crate) fn execute_any(&mut self) -> Option<Completion> {
        self.execute(Lane::Journal)
            .or_else(|| self.execute(Lane::Background))
    }

    /// The power goes while requests are under way. In each lane, some were carried out, the next
    /// one in part, the others not at all.
    pub(crate) fn crash(&mut self, crash: Crash, random: &mut Random) {
        for lane in [Lane::Journal, Lane::Background] {
            let whole = random.below(self.lane(lane).len() as u64 + 1);
            for _ in 0..whole {
                let request = self.lane(lane).pop_front().unwrap();
                let _ = self.apply(&request.operation);
            }
            if let Some(request) = self.lane(lane).pop_front() {
                let share = [0.0, 0.2, 0.5, 0.8, 1.0][random.below(5) as usize];
                self.apply_in_part(&request.operation, crash, |_| random.chance(share));
            }
            self.lane(lane).clear();
        }
        self.restart(crash);
    }

    /// The power goes: of the write that the journal's lane is at, exactly these sectors reached
    /// the disk, and nothing else.
    pub(crate) fn crash_with_sectors(&mut self, sectors: impl Fn(usize) -> bool) {
        let request = self.journal_lane.pop_front().expect("a write is under way");
        let mut sector = 0;
        self.apply_in_part(&request.operation, Crash::Power, |_| {
            sector += 1;
            sectors(sector - 1)
        });
        self.restart(Crash::Power);
    }

    fn restart(&mut self, crash: Crash) {
        self.journal_lane.clear();
        self.background_lane.clear();
        if crash == Crash::Power {
            for content in self.content.values_mut() {
                content.visible = content.stable.clone();
            }
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<Request> {
        match lane {
            Lane::Journal => &mut self.journal_lane,
            Lane::Background => &mut self.background_lane,
        }
    }

    fn apply(&mut self, operation: &Operation) -> Result<Bytes, DiskError> {
        match operation {
            Operation::CreateZeroed { file, length } => {
                if let Some(error) = &self.create_error {
                    return Err(error.clone());
                }
                let zeros = vec![0; *length as usize];
                let content = Content {
                    visible: zeros.clone(),
                    stable: zeros,
                };
                self.content.insert(*file, content);
            }
            Operation::Write {
                file,
                offset,
                data,
                sync,
            } => {
                assert!(*sync, "the journal syncs what it writes");
                if let Some(error) = &self.write_error {
                    return Err(error.clone());
                }
                let content = self
                    .content
                    .get_mut(file)
                    .expect("segments are created first");
                let data = data.concat();
                let range = *offset as usize..*offset as usize + data.len();
                assert!(range.end <= content.visible.len(), "segments never grow");
                content.visible[range.clone()].copy_from_slice(&data);
                content.stable[range].copy_from_slice(&data);
            }
            Operation::Read {
                file,
                offset,
                length,
            } => {
                self.reads += 1;
                if self.locked == Some(*file) {
                    return Err(DiskError::Inaccessible("permission denied".to_owned()));
                }
                let content = self.content.get(file).ok_or(DiskError::NotFound)?;
                let end = (*offset + *length).min(content.visible.len() as u64) as usize;
                let bytes = content.visible.get(*offset as usize..end).unwrap_or(&[]);
                return Ok(Bytes::copy_from_slice(bytes));
            }
            Operation::Sync { .. } => {}
            Operation::Rename { from, to } => {
                let content = self.content.remove(from).ok_or(DiskError::NotFound)?;
                self.content.insert(*to, content);
            }
            Operation::Delete { file } => {
                self.content.remove(file);
            }
        }
        Ok(Bytes::new())
    }

    /// Carries out a part of an operation; `chance` decides about each sector.
    fn apply_in_part(
        &mut self,
        operation: &Operation,
        crash: Crash,
        mut chance: impl FnMut(usize) -> bool,
    ) {
        match operation {
            Operation::Write {
                file, offset, data, ..
            } => {
                let content = self
                    .content
                    .get_mut(file)
                    .expect("segments are created first");
                let data = data.concat();
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    let from = *offset as usize + index * SECTOR;
                    let range = from..from + sector.len();
                    let stable = chance(index);
                    if stable {
                        content.stable[range.clone()].copy_from_slice(sector);
                    }
                    if stable || crash == Crash::Process && chance(index) {
                        content.visible[range].copy_from_slice(sector);
                    }
                }
            }
            Operation::CreateZeroed { file, length } => {
                if chance(0) {
                    let sectors = *length as usize / SECTOR;
                    let kept = (0..sectors).filter(|index| chance(*index)).count();
                    // What an unfinished file holds is anyone's guess.
                    let garbage = vec![0xEE; kept * SECTOR];
                    let content = Content {
                        visible: garbage.clone(),
                        stable: garbage,
                    };
                    self.content.insert(*file, content);
                }
            }
            Operation::Rename { .. } | Operation::Delete { .. } => {
                if chance(0) {
                    let _ = self.apply(operation);
                }
            }
            Operation::Read { .. } | Operation::Sync { .. } => {}
        }
    }
}
