//! An allocator that counts, and the processor time of the process.
//!
//! Both are read before and after a run: the difference, divided by the entries that were chosen,
//! is what a library costs. A reallocation counts as an allocation, because it may copy.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counted.
pub struct Counting;

impl Counting {
    fn count(bytes: usize) {
        // One thread: no other one can come between load and store, and a plain store is cheaper
        // than an atomic addition, which would be part of what is measured.
        ALLOCATIONS.store(ALLOCATIONS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        BYTES.store(
            BYTES.load(Ordering::Relaxed) + bytes as u64,
            Ordering::Relaxed,
        );
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::count(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Counting::count(size);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What was used up to a moment.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Processor time in nanoseconds, user and system.
    pub nanoseconds: u64,
    /// Allocations and reallocations.
    pub allocations: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Used {
    /// Up to now.
    pub fn now() -> Used {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let nanoseconds = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        Used {
            nanoseconds,
            allocations: ALLOCATIONS.load(Ordering::Relaxed),
            bytes: BYTES.load(Ordering::Relaxed),
        }
    }

    /// Since an earlier moment.
    pub fn since(self, earlier: Used) -> Used {
        Used {
            nanoseconds: self.nanoseconds - earlier.nanoseconds,
            allocations: self.allocations - earlier.allocations,
            bytes: self.bytes - earlier.bytes,
        }
    }
}
