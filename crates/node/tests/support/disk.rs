//! A disk of the simulated world: files, and what of them is synced.

use std::collections::BTreeMap;

use bytes::Bytes;
use journal::disk::{DiskError, File, Operation};
use quorate_node::Identity;

/// A file with what would survive a crash.
#[derive(Clone, Debug, Default)]
struct Contents {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// What has been written since the last sync: start and end.
    unsynced: Vec<(usize, usize)>,
}

impl Contents {
    fn write(&mut self, at: usize, piece: &[u8]) {
        let end = at + piece.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[at..end].copy_from_slice(piece);
        self.unsynced.push((at, end));
    }

    fn sync(&mut self) {
        self.synced.resize(self.now.len(), 0);
        for (start, end) in self.unsynced.drain(..) {
            self.synced[start..end].copy_from_slice(&self.now[start..end]);
        }
    }

    pub(super) fn crash(&mut self) {
        self.now.resize(self.synced.len(), 0);
        for (start, end) in self.unsynced.drain(..) {
            let end = end.min(self.synced.len());
            let start = start.min(end);
            self.now[start..end].copy_from_slice(&self.synced[start..end]);
        }
    }
}

/// A disk: files, and what of them is synced.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<File, Contents>,
    /// Nothing on the journal's lane ends while this is set.
    pub is_stuck: bool,
    /// The identity file is not written while this is set.
    pub keeps_identity: bool,
    /// No checkpoint can be written.
    pub refuses_checkpoints: bool,
    pub identity: Option<Identity>,
}

impl Disk {
    pub(super) fn carry_out(&mut self, operation: Operation) -> Result<Bytes, DiskError> {
        if let Operation::Write { file, .. } = &operation
            && matches!(file, File::PartialCheckpoint(..))
            && self.refuses_checkpoints
        {
            return Err(DiskError::Full);
        }
        match operation {
            Operation::CreateZeroed { file, length } => {
                let zeroes = vec![0; length as usize];
                let contents = Contents {
                    now: zeroes.clone(),
                    synced: zeroes,
                    unsynced: Vec::new(),
                };
                self.files.insert(file, contents);
            }
            Operation::Write {
                file,
                offset,
                data,
                sync,
            } => {
                let contents = self.files.entry(file).or_default();
                let mut at = offset as usize;
                for piece in data {
                    contents.write(at, &piece);
                    at += piece.len();
                }
                if sync {
                    contents.sync();
                }
            }
            Operation::Read {
                file,
                offset,
                length,
            } => {
                let contents = self.files.get(&file).ok_or(DiskError::NotFound)?;
                let start = (offset as usize).min(contents.now.len());
                let end = start
                    .saturating_add(length as usize)
                    .min(contents.now.len());
                return Ok(Bytes::copy_from_slice(&contents.now[start..end]));
            }
            Operation::Sync { file } => {
                let contents = self.files.get_mut(&file).ok_or(DiskError::NotFound)?;
                contents.sync();
            }
            Operation::Rename { from, to } => {
                let contents = self.files.remove(&from).ok_or(DiskError::NotFound)?;
                self.files.insert(to, contents);
            }
            Operation::Delete { file } => {
                self.files.remove(&file);
            }
        }
        Ok(Bytes::new())
    }

    pub(super) fn crash(&mut self) {
        for contents in self.files.values_mut() {
            contents.crash();
        }
    }

    /// The files with their lengths.
    pub fn list(&self) -> Vec<(File, u64)> {
        self.files
            .iter()
            .map(|(file, each)| (*file, each.now.len() as u64))
            .collect()
    }

    /// Takes over a file of another disk.
    pub fn copy_from(&mut self, other: &Disk, file: File) {
        self.files.insert(file, other.files[&file].clone());
    }

    /// Deletes a file.
    pub fn remove(&mut self, file: File) {
        self.files.remove(&file);
    }

    /// All of a file.
    pub fn read(&self, file: File) -> Bytes {
        Bytes::copy_from_slice(&self.files[&file].now)
    }

    /// Puts other contents into a file, for good.
    pub fn replace(&mut self, file: File, contents: Vec<u8>) {
        let contents = Contents {
            now: contents.clone(),
            synced: contents,
            unsynced: Vec::new(),
        };
        self.files.insert(file, contents);
    }

    /// Flips a bit of a file, for good.
    pub fn flip(&mut self, file: File, offset: usize) {
        let contents = self.files.get_mut(&file).expect("the file is there");
        contents.now[offset] ^= 1;
        contents.synced[offset] ^= 1;
    }
}
