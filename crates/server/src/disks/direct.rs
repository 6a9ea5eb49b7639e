//! Writes past the page cache (`O_DIRECT`): the blocks of the journal go to the device at once, and
//! so do large pieces of checkpoints.
//!
//! ```text
//!   pieces ── copied ──▶ aligned buffer ── pwrite ──▶ device        sync: the device's cache only
//! ```
//!
//! A write through the page cache costs a page to find and to dirty, and its sync a walk over the
//! file's dirty pages before the device is asked for anything; with one small batch per sync that
//! is more than the write itself. The copy is the one that the page cache would have made. What
//! is large fills that cache with what nobody reads, and the journal's syncs wait for all of it
//! to be written back. Whoever cannot write like this (a file system, or a device with longer
//! blocks) says so at the first attempt, and everything goes through the page cache from then on.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What offsets, lengths and addresses are multiples of; the journal's blocks are as long.
const BLOCK_BYTES: usize = 512;

/// Addresses are multiples of this, which suits every device.
const ALIGNMENT: usize = 4096;

/// See the head of this file.
pub(super) struct Direct {
    /// Longer than the longest write, so that an aligned part of it is long enough.
    buffer: Mutex<Vec<u8>>,
    longest: usize,
    works: AtomicBool,
}

impl Direct {
    /// For writes of up to `longest` bytes.
    pub(super) fn new(longest: usize) -> Direct {
        Direct {
            buffer: Mutex::default(),
            longest,
            works: AtomicBool::new(cfg!(target_os = "linux")),
        }
    }

    /// Whether such a write can be tried.
    pub(super) fn suits(&self, offset: u64, length: usize) -> bool {
        length <= self.longest
            && offset.is_multiple_of(BLOCK_BYTES as u64)
            && length.is_multiple_of(BLOCK_BYTES)
            && self.works.load(Ordering::Relaxed)
    }

    /// Another handle on a file that is there; `None` if there is no such handle.
    pub(super) fn open(&self, path: &Path) -> Option<File> {
        let mut options = OpenOptions::new();
        options.write(true);
        #[cfg(target_os = "linux")]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            let flag = rustix::fs::OFlags::DIRECT.bits();
            options.custom_flags(flag.cast_signed());
        }
        let opened = options.open(path).ok();
        if opened.is_none() {
            self.works.store(false, Ordering::Relaxed);
        }
        opened
    }

    /// Writes the slices one after another; false if they must go another way.
    pub(super) fn write(
        &self,
        file: &File,
        offset: u64,
        slices: &[IoSlice<'_>],
    ) -> io::Result<bool> {
        let mut buffer = self.buffer.lock().expect("nobody panics holding it");
        buffer.resize(self.longest + ALIGNMENT, 0);
        let start = buffer.as_ptr().align_offset(ALIGNMENT);
        let mut end = start;
        for slice in slices {
            buffer[end..end + slice.len()].copy_from_slice(slice);
            end += slice.len();
        }
        self.write_aligned(file, offset, &buffer[start..end])
    }

    /// Writes bytes that begin at an address that suits; false if they must go another way.
    pub(super) fn write_aligned(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let suits = offset.is_multiple_of(BLOCK_BYTES as u64)
            && bytes.len().is_multiple_of(BLOCK_BYTES)
            && self.works.load(Ordering::Relaxed);
        if !suits {
            return Ok(false);
        }
        match file.write_all_at(bytes, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.works.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Zeros that begin at an address that suits every device.
pub(super) struct Zeros {
    bytes: Vec<u8>,
    start: usize,
}

impl Zeros {
    /// So many of them.
    pub(super) fn new(count: usize) -> Zeros {
        let bytes = vec![0; count + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Zeros { bytes, start }
    }

    /// All of them.
    pub(super) fn get(&self) -> &[u8] {
        &self.bytes[self.start..][..self.bytes.len() - ALIGNMENT]
    }
}
