//! Entries that follow each other, shared: whoever they are handed to gets one counter more, not a
//! copy of each.
//!
//! ```text
//!   leader's log ──┬──▶ journal        one allocation, made when a pass ends; every arrow is a
//!                  ├──▶ append to 2    handle on it, however many entries there are
//!                  ├──▶ append to 3
//!                  └──▶ replica        a follower keeps what a message brought, the same way
//! ```
//!
//! Cloning each entry for each of these would cost more than all the rest of agreeing on it: with
//! large batches, counting the references of payloads up and down was two thirds of the time.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::entry::Entry;

/// See the head of this file.
#[derive(Clone, Default)]
pub struct Entries {
    /// None of them need no memory.
    shared: Option<Arc<[Entry]>>,
    part: Part,
    bytes: u64,
}

/// Which of what is shared: two places, half as wide as lengths are, in one number. Every message
/// and record holds one, and is copied right after it was put together: what was written in halves
/// could not be read as a whole before both have reached the memory.
#[derive(Clone, Copy, Default)]
struct Part(u64);

impl Part {
    #[inline(always)]
    fn new(from: u32, upto: u32) -> Part {
        Part(u64::from(upto) << 32 | u64::from(from))
    }

    #[inline(always)]
    fn from(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    fn upto(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A number of entries, or a place among them.
#[inline]
fn place(of: usize) -> u32 {
    u32::try_from(of).expect("what is handed out at once is bounded")
}

impl Entries {
    /// What all of them count for together; see [`Entry::bytes`].
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Some of them, in the same memory.
    ///
    /// # Panics
    /// If the range is not within.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Entries {
        if range == (0..self.len()) {
            return self.clone();
        }
        let bytes = self[range.clone()].iter().map(Entry::bytes).sum();
        Entries {
            shared: self.shared.clone().filter(|_| !range.is_empty()),
            part: Part::new(
                self.part.from() + place(range.start),
                self.part.from() + place(range.end),
            ),
            bytes,
        }
    }

    /// The same, in memory of their own if the memory that they share holds more than twice of what
    /// they count for: who keeps a small part keeps no large whole.
    pub(crate) fn compact(self) -> Entries {
        let held: u64 = self
            .shared
            .iter()
            .flat_map(|all| all.iter())
            .map(Entry::bytes)
            .sum();
        match held > self.bytes.saturating_mul(2) {
            true => self.iter().cloned().collect(),
            false => self,
        }
    }

    /// What a witness is given of these.
    #[must_use]
    pub(crate) fn headers(&self) -> Entries {
        self.iter().map(Entry::header).collect()
    }

    /// How many entries are in the memory that these share.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.shared.as_ref().map_or(0, |all| all.len())
    }

    /// The first `count`, and the rest.
    #[must_use]
    pub(crate) fn split(&self, count: usize) -> (Entries, Entries) {
        (self.slice(0..count), self.slice(count..self.len()))
    }

    /// How many of the first stay within `budget` bytes together; at least one, if there is one.
    #[must_use]
    pub fn count_within(&self, budget: u64) -> usize {
        if self.bytes <= budget {
            return self.len();
        }
        let mut bytes = 0;
        let within = self.iter().take_while(|entry| {
            bytes += entry.bytes();
            bytes <= budget
        });
        within.count().max(1).min(self.len())
    }

    /// Makes all of these shared, which count for `bytes` together, and leaves none.
    pub(crate) fn take_all(entries: &mut Vec<Entry>, bytes: u64) -> Entries {
        if entries.is_empty() {
            return Entries::default();
        }
        let shared: Arc<[Entry]> = entries.drain(..).collect();
        Entries {
            part: Part::new(0, place(shared.len())),
            bytes,
            shared: Some(shared),
        }
    }

    /// Lets go of the first; returns its bytes.
    pub(crate) fn drop_first(&mut self) -> u64 {
        let bytes = self.first().expect("there is a first").bytes();
        self.part = Part::new(self.part.from() + 1, self.part.upto());
        self.bytes -= bytes;
        bytes
    }

    /// Lets go of the last; returns its bytes.
    pub(crate) fn drop_last(&mut self) -> u64 {
        let bytes = self.last().expect("there is a last").bytes();
        self.part = Part::new(self.part.from(), self.part.upto() - 1);
        self.bytes -= bytes;
        bytes
    }
}

/// What of these chunks, which follow each other, stays within `budget` bytes, but at least one
/// entry if there is one. Nearly always that is in the first chunk, and shared; only what spans
/// several is copied together.
pub(crate) fn joined(mut chunks: impl Iterator<Item = Entries>, budget: u64) -> Entries {
    let Some(first) = chunks.next() else {
        return Entries::default();
    };
    let count = first.count_within(budget);
    let taken = first.slice(0..count);
    if count < first.len() {
        return taken;
    }
    let mut bytes = taken.bytes();
    let fits = |chunk: &Entries| bytes + chunk[0].bytes() <= budget;
    let Some(next) = chunks.next().filter(fits) else {
        return taken;
    };
    let rest = std::iter::once(next).chain(chunks);
    let rest = rest.flat_map(|chunk| {
        let count = chunk.len();
        (0..count).map(move |index| chunk[index].clone())
    });
    let within = rest.take_while(|entry| {
        bytes += entry.bytes();
        bytes <= budget
    });
    taken.iter().cloned().chain(within).collect()
}

impl Deref for Entries {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        match &self.shared {
            Some(shared) => &shared[self.part.from() as usize..self.part.upto() as usize],
            None => &[],
        }
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Entries {
        let shared: Arc<[Entry]> = entries.into_iter().collect();
        Entries {
            part: Part::new(0, place(shared.len())),
            bytes: shared.iter().map(Entry::bytes).sum(),
            shared: (!shared.is_empty()).then_some(shared),
        }
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Entries {
        // What heartbeats carry takes no memory.
        if entries.is_empty() {
            return Entries::default();
        }
        entries.into_iter().collect()
    }
}

impl From<Entry> for Entries {
    fn from(entry: Entry) -> Entries {
        std::iter::once(entry).collect()
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Entries) -> bool {
        **self == **other
    }
}

impl Eq for Entries {}

impl fmt::Debug for Entries {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}
