//! The newest entries of a log, in memory.
//!
//! ```text
//!   chunks: what earlier passes added, each chunk shared with whoever was handed it
//!   ┌─────────┬───┬──────────────┐ ┌─────────
//!   │ 7 8 9   │10 │ 11 12 13 14  │ │ 15 16 …    open: what this pass adds, not shared yet
//!   └─────────┴───┴──────────────┘ └─────────
//! ```
//!
//! A leader's proposals gather in the open part and become a chunk when the pass ends; a follower
//! keeps the chunk that a message brought. What is handed out is a part of one chunk and costs
//! nothing per entry. Only who is behind by several chunks gets copied together what they hold.

use std::collections::VecDeque;

use base::Slot;

use crate::entries::{self, Entries};
use crate::entry::Entry;

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    /// None is empty.
    chunks: VecDeque<Entries>,
    open: Vec<Entry>,
    open_bytes: u64,
    /// Entries in all.
    len: usize,
    /// Their bytes.
    bytes: u64,
}

/// The slot of the first entry of a chunk.
#[inline(always)]
fn first_of(chunk: &Entries) -> Slot {
    chunk.first().expect("no chunk is empty").slot
}

/// The slot of the last entry of a chunk.
#[inline(always)]
fn last_of(chunk: &Entries) -> Slot {
    chunk.last().expect("no chunk is empty").slot
}

impl Cache {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The last entry.
    fn back(&self) -> Option<&Entry> {
        let last = || self.chunks.back().and_then(|chunk| chunk.last());
        self.open.last().or_else(last)
    }

    /// Adds an entry behind the last. The open part becomes a chunk when it would exceed
    /// `chunk_bytes`.
    pub(crate) fn push(&mut self, entry: Entry, chunk_bytes: u64) {
        let bytes = entry.bytes();
        if self.open_bytes + bytes > chunk_bytes {
            self.seal();
        }
        self.open_bytes += bytes;
        self.bytes += bytes;
        self.len += 1;
        self.open.push(entry);
    }

    /// Adds shared entries behind the last.
    pub(crate) fn extend(&mut self, entries: Entries) {
        self.seal();
        if entries.is_empty() {
            return;
        }
        self.bytes += entries.bytes();
        self.len += entries.len();
        self.chunks.push_back(entries);
    }

    /// Makes the open part a chunk.
    pub(crate) fn seal(&mut self) {
        if !self.open.is_empty() {
            let bytes = std::mem::take(&mut self.open_bytes);
            let chunk = Entries::take_all(&mut self.open, bytes);
            self.chunks.push_back(chunk);
        }
    }

    /// Lets go of everything up to `slot`. A chunk that goes on behind it stays in memory.
    pub(crate) fn forget_until(&mut self, slot: Slot) {
        self.seal();
        while let Some(chunk) = self.chunks.front_mut() {
            if last_of(chunk) <= slot {
                self.drop_chunk();
                continue;
            }
            while chunk.first().is_some_and(|entry| entry.slot <= slot) {
                self.bytes -= chunk.drop_first();
                self.len -= 1;
            }
            return;
        }
    }

    /// Lets go of the oldest chunks that end at or before `upto` while more than `budget` bytes are
    /// held.
    pub(crate) fn shrink(&mut self, budget: u64, upto: Slot) {
        let old = |chunk: &Entries| last_of(chunk) <= upto;
        while self.bytes > budget && self.chunks.front().is_some_and(old) {
            self.drop_chunk();
        }
    }

    fn drop_chunk(&mut self) {
        let chunk = self.chunks.pop_front().expect("there is a first chunk");
        self.bytes -= chunk.bytes();
        self.len -= chunk.len();
    }

    /// Cuts off `from` and everything behind it.
    pub(crate) fn cut(&mut self, from: Slot) {
        self.seal();
        while self.back().is_some_and(|entry| entry.slot >= from) {
            let chunk = self.chunks.back_mut().expect("the last entry is in it");
            self.bytes -= chunk.drop_last();
            self.len -= 1;
            if chunk.is_empty() {
                self.chunks.pop_back();
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Cache::default();
    }

    /// The chunk that holds `slot`, which must not be in the open part.
    fn chunk_of(&self, slot: Slot) -> usize {
        let last = self.chunks.len() - 1;
        if first_of(&self.chunks[last]) <= slot {
            return last;
        }
        self.chunks.partition_point(|chunk| first_of(chunk) <= slot) - 1
    }

    /// The newest chunk, if it begins there. The open part must have been sealed. What is handed
    /// out is nearly always all of it, and it is cloned where it stays (see `engine::say`).
    #[inline(always)]
    pub(crate) fn newest_from(&self, from: Slot) -> Option<&Entries> {
        assert!(self.open.is_empty(), "what is handed out is sealed");
        let newest = self.chunks.back();
        newest.filter(|chunk| first_of(chunk) == from)
    }

    /// The same, if all of it may be handed out.
    #[inline(always)]
    pub(crate) fn newest_within(&self, from: Slot, upto: Slot, budget: u64) -> Option<&Entries> {
        let newest = self.newest_from(from);
        newest.filter(|chunk| chunk.bytes() <= budget && last_of(chunk) <= upto)
    }

    /// The chunks from `from` on, the first without what stands before. The open part must have
    /// been sealed, and `from` must be here or behind the last.
    pub(crate) fn chunks_from(&self, from: Slot) -> impl Iterator<Item = Entries> + '_ {
        assert!(self.open.is_empty(), "what is handed out is sealed");
        let is_behind = self.back().is_none_or(|entry| entry.slot < from);
        let index = if is_behind {
            self.chunks.len()
        } else {
            self.chunk_of(from)
        };
        self.chunks.range(index..).map(move |chunk| {
            let skipped = from.0.saturating_sub(first_of(chunk).0) as usize;
            chunk.slice(skipped..chunk.len())
        })
    }

    /// Entries from `from` to at most `upto`, within `budget` bytes, but at least one.
    pub(crate) fn take(&self, from: Slot, upto: Slot, budget: u64) -> Entries {
        let chunks = self
            .chunks_from(from)
            .take_while(|chunk| first_of(chunk) <= upto);
        let within = chunks.map(|chunk| {
            let behind = last_of(&chunk).0.saturating_sub(upto.0) as usize;
            chunk.slice(0..chunk.len() - behind)
        });
        entries::joined(within, budget)
    }

    /// The bytes of the entries from `from` to `upto`.
    pub(crate) fn bytes_between(&self, from: Slot, upto: Slot) -> u64 {
        // Nearly always it is all of the newest chunk.
        if let Some(newest) = self.chunks.back()
            && first_of(newest) == from
            && last_of(newest) == upto
        {
            return newest.bytes();
        }
        let mut bytes = 0;
        let index = if self.chunks.is_empty() || first_of(&self.chunks[0]) > from {
            0
        } else {
            self.chunk_of(from)
        };
        for chunk in self.chunks.range(index..) {
            let last = last_of(chunk);
            if first_of(chunk) > upto {
                return bytes;
            }
            if first_of(chunk) >= from && last <= upto {
                bytes += chunk.bytes();
                continue;
            }
            let within = |entry: &&Entry| entry.slot >= from && entry.slot <= upto;
            bytes += chunk.iter().filter(within).map(Entry::bytes).sum::<u64>();
        }
        let within = |entry: &&Entry| entry.slot >= from && entry.slot <= upto;
        bytes
            + self
                .open
                .iter()
                .filter(within)
                .map(Entry::bytes)
                .sum::<u64>()
    }
}
