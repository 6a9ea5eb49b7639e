//! The open files of a data folder, and each single operation on them.
//!
//! One table for both lanes: a spare segment that the background lane prepares becomes a segment
//! that the journal lane writes, and a handle kept under the old name would then write into the
//! wrong file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use journal::disk::{self, DiskError, Operation};
use rustix::io::Errno;

use super::direct::{Direct, Zeros};
use crate::folder::{path_of, sync_folder};
use crate::limits::DiskLimits;

/// The most pieces that one call of the operating system takes (`IOV_MAX`).
const PIECES_PER_CALL: usize = 1024;

/// A file that is open.
struct Open {
    file: File,
    /// For writes past the page cache, once there has been one; `None` if there cannot be any.
    direct: OnceLock<Option<File>>,
    /// Created here, and its name is not durable yet.
    is_new: AtomicBool,
    /// Written and not synced since: the handle stays, because only a handle that was open when
    /// writing back failed is sure to be told so by its sync.
    is_unsynced: AtomicBool,
}

impl Open {
    /// Whether the handle may be closed: reopened, the file would be the same.
    fn may_be_closed(&self) -> bool {
        !self.is_new.load(Ordering::Relaxed) && !self.is_unsynced.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Table {
    open: BTreeMap<disk::File, (Arc<Open>, u64)>,
    /// Counts the uses, to find what has not been used for longest.
    uses: u64,
    /// Files of which a write or a sync has failed: nobody knows what the disk holds of them, and
    /// a later sync that "succeeds" would be a lie (the kernel drops the pages that it could not
    /// write). They stand here until they are made anew.
    failed: BTreeSet<disk::File>,
}

/// The files of one data folder.
pub(super) struct Files {
    folder: PathBuf,
    limits: DiskLimits,
    table: Mutex<Table>,
    direct: Direct,
    /// The same for checkpoints, so that the journal waits for none of their writes.
    bulk: Direct,
    zeros: Zeros,
}

impl Files {
    pub(super) fn new(folder: PathBuf, limits: DiskLimits) -> Files {
        Files {
            folder,
            direct: Direct::new(limits.direct_bytes),
            bulk: Direct::new(limits.bulk_bytes),
            zeros: Zeros::new(limits.zero_chunk_bytes),
            limits,
            table: Mutex::default(),
        }
    }

    /// Writes pieces that follow each other, from `offset` on.
    pub(super) fn write<'a>(
        &self,
        file: disk::File,
        offset: u64,
        pieces: impl Iterator<Item = &'a Bytes>,
    ) -> Result<(), DiskError> {
        self.check(file)?;
        let write = || -> Result<(), DiskError> {
            let open = self.open(file, true)?;
            open.is_unsynced.store(true, Ordering::Relaxed);
            let pieces = pieces.filter(|piece| !piece.is_empty());
            let mut slices: Vec<IoSlice<'_>> = pieces.map(|piece| IoSlice::new(piece)).collect();
            let written = match self.write_directly(file, &open, offset, &slices) {
                Ok(false) => write_all(&open.file, offset, &mut slices),
                other => other.map(|_| ()),
            };
            written.map_err(|error| disk_error(&error))
        };
        write().inspect_err(|_| {
            self.table().failed.insert(file);
        })
    }

    /// Writes past the page cache; false if that is not the way for this write.
    fn write_directly(
        &self,
        file: disk::File,
        open: &Open,
        offset: u64,
        slices: &[IoSlice<'_>],
    ) -> io::Result<bool> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        let way = match file {
            disk::File::Segment(_) => &self.direct,
            disk::File::PartialCheckpoint(..) | disk::File::IncomingCheckpoint(..) => &self.bulk,
            _ => return Ok(false),
        };
        if !way.suits(offset, length) {
            return Ok(false);
        }
        let path = || self.folder.join(path_of(file));
        match open.direct.get_or_init(|| way.open(&path())) {
            Some(direct) => way.write(direct, offset, slices),
            None => Ok(false),
        }
    }

    /// Fails if a write or a sync of the file has failed before.
    pub(super) fn check(&self, file: disk::File) -> Result<(), DiskError> {
        if self.table().failed.contains(&file) {
            let text = "an earlier write or sync of this file failed";
            return Err(DiskError::Other(text.into()));
        }
        Ok(())
    }

    /// Makes everything written to the file durable, and its name if it is new.
    pub(super) fn sync(&self, file: disk::File) -> Result<(), DiskError> {
        self.check(file)?;
        let open = self.open(file, false)?;
        // Before the sync: what is written during it may not be covered.
        open.is_unsynced.store(false, Ordering::Relaxed);
        let result = open.file.sync_data().and_then(|()| {
            if open.is_new.swap(false, Ordering::Relaxed) {
                self.sync_folder_of(file)
            } else {
                Ok(())
            }
        });
        result.map_err(|error| {
            self.table().failed.insert(file);
            disk_error(&error)
        })
    }

    /// Creates a file of zeros that are really there, calling `pause` between the pieces.
    ///
    /// They go past the page cache where that is possible: what piles up there is written back in
    /// one go, and the syncs of the journal wait for it.
    pub(super) fn create_zeroed(
        &self,
        file: disk::File,
        length: u64,
        pause: impl Fn(),
    ) -> Result<(), DiskError> {
        self.forget(file);
        let path = self.folder.join(path_of(file));
        let fill = || -> io::Result<()> {
            let handle = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            let directly = self.direct.open(&path);
            let zeros = self.zeros.get();
            let mut written = 0;
            let mut cached = 0;
            while written < length {
                pause();
                let piece = (length - written).min(zeros.len() as u64);
                let zeros = &zeros[..piece as usize];
                let past = match &directly {
                    Some(file) => self.direct.write_aligned(file, written, zeros)?,
                    None => false,
                };
                if !past {
                    handle.write_all_at(zeros, written)?;
                    cached += piece;
                }
                written += piece;
                if cached >= self.limits.zero_sync_bytes {
                    handle.sync_data()?;
                    cached = 0;
                }
            }
            handle.sync_all()?;
            self.sync_folder_of(file)
        };
        fill().map_err(|error| {
            // Half a file is of no use, and its space may be what is missing.
            let _ = std::fs::remove_file(&path);
            disk_error(&error)
        })
    }

    /// Carries out one of the operations that stand alone.
    pub(super) fn carry_out(&self, operation: Operation) -> Result<Bytes, DiskError> {
        match operation {
            Operation::Read {
                file,
                offset,
                length,
            } => self.read(file, offset, length),
            Operation::Rename { from, to } => self.rename(from, to).map(|()| Bytes::new()),
            Operation::Delete { file } => self.delete(file).map(|()| Bytes::new()),
            Operation::Write { .. } | Operation::Sync { .. } | Operation::CreateZeroed { .. } => {
                unreachable!("writes, syncs and creations are carried out by their own functions")
            }
        }
    }

    fn read(&self, file: disk::File, offset: u64, length: u64) -> Result<Bytes, DiskError> {
        let open = self.open(file, false)?;
        let read = || -> io::Result<Bytes> {
            // The file's length bounds the allocation, whatever was asked for.
            let held = open
                .file
                .metadata()?
                .len()
                .saturating_sub(offset)
                .min(length);
            let mut buffer = vec![0; usize::try_from(held).map_err(io::Error::other)?];
            let mut filled = 0;
            while filled < buffer.len() {
                match open
                    .file
                    .read_at(&mut buffer[filled..], offset + filled as u64)
                {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            buffer.truncate(filled);
            Ok(Bytes::from(buffer))
        };
        read().map_err(|error| disk_error(&error))
    }

    fn rename(&self, from: disk::File, to: disk::File) -> Result<(), DiskError> {
        let rename = || -> io::Result<()> {
            let mut table = self.table();
            std::fs::rename(
                self.folder.join(path_of(from)),
                self.folder.join(path_of(to)),
            )?;
            table.open.remove(&to);
            table.failed.remove(&to);
            if table.failed.remove(&from) {
                table.failed.insert(to);
            }
            if let Some((open, used)) = table.open.remove(&from) {
                // The folder is synced below, which covers the new name.
                open.is_new.store(false, Ordering::Relaxed);
                table.open.insert(to, (open, used));
            }
            drop(table);
            self.sync_folder_of(to)
        };
        rename().map_err(|error| disk_error(&error))
    }

    fn delete(&self, file: disk::File) -> Result<(), DiskError> {
        self.forget(file);
        let delete = || match std::fs::remove_file(self.folder.join(path_of(file))) {
            Ok(()) => self.sync_folder_of(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        delete().map_err(|error| disk_error(&error))
    }

    /// The handle of a file; `create` makes an empty one if there is none.
    fn open(&self, file: disk::File, create: bool) -> Result<Arc<Open>, DiskError> {
        let mut table = self.table();
        table.uses += 1;
        let now = table.uses;
        if let Some((open, used)) = table.open.get_mut(&file) {
            *used = now;
            return Ok(Arc::clone(open));
        }
        let path = self.folder.join(path_of(file));
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let (handle, is_new) = match options.open(&path) {
            Ok(handle) => (handle, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                let handle = options.create_new(true).open(&path);
                (handle.map_err(|error| disk_error(&error))?, true)
            }
            Err(error) => return Err(disk_error(&error)),
        };
        let open = Arc::new(Open {
            file: handle,
            direct: OnceLock::new(),
            is_new: AtomicBool::new(is_new),
            is_unsynced: AtomicBool::new(false),
        });
        if table.open.len() >= self.limits.open_files {
            // A new file stays until its name is durable, one that was written until it is synced.
            let idle = table
                .open
                .iter()
                .filter(|(_, (open, _))| open.may_be_closed());
            if let Some(idlest) = idle
                .min_by_key(|(_, (_, used))| *used)
                .map(|(file, _)| *file)
            {
                table.open.remove(&idlest);
            }
        }
        table.open.insert(file, (Arc::clone(&open), now));
        Ok(open)
    }

    fn forget(&self, file: disk::File) {
        let mut table = self.table();
        table.open.remove(&file);
        table.failed.remove(&file);
    }

    #[cfg(test)]
    pub(super) fn is_open(&self, file: disk::File) -> bool {
        self.table().open.contains_key(&file)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table
            .lock()
            .expect("no disk thread panics while it holds the table")
    }

    fn sync_folder_of(&self, file: disk::File) -> io::Result<()> {
        let path = self.folder.join(path_of(file));
        sync_folder(
            path.parent()
                .expect("every file stands in a folder of the data folder"),
        )
    }
}

/// Writes all slices, however few bytes each call of the operating system takes.
fn write_all(file: &File, mut offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    let mut rest = slices;
    while !rest.is_empty() {
        let batch = rest.len().min(PIECES_PER_CALL);
        match rustix::io::pwritev(file, &rest[..batch], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn disk_error(error: &io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => return DiskError::Full,
        io::ErrorKind::NotFound => return DiskError::NotFound,
        _ => {}
    }
    match Errno::from_io_error(error) {
        None | Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG | Errno::ILSEQ | Errno::NODATA) => {
            DiskError::Other(error.to_string())
        }
        // Only what speaks of the medium is taken for damage, since damage is repaired.
        Some(_) => DiskError::Inaccessible(error.to_string()),
    }
}
