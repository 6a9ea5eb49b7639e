//! Which watched ranges hold a key. Its cost follows the ranges that match, not the watchers.
//!
//! Watchers of the same keys share one *interest*. Interests in a single key are found by hash,
//! the others by an [interval tree](super::intervals).

use std::hash::{BuildHasher, Hasher};

use base::Random;
use bytes::Bytes;
use state::KeyRange;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::history::span;
use super::intervals::Intervals;

/// Names a range of keys that somebody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct InterestIndex(pub(super) u32);

/// A hash map whose order nobody looks at, with a seed of the hub's: clients choose the keys, and
/// must not be able to make all of them meet.
#[expect(
    clippy::disallowed_types,
    reason = "with a hasher of ours, and never walked through"
)]
pub(super) type HashMap<Key, Value> = std::collections::HashMap<Key, Value, Seed>;

/// Begins hashes.
#[derive(Clone, Debug)]
pub(super) struct Seed(pub(super) u64);

impl BuildHasher for Seed {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher(self.0)
    }
}

/// A hash under way.
#[derive(Debug)]
pub(super) struct SeededHasher(u64);

impl Hasher for SeededHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u64(&mut self, number: u64) {
        // A step of SplitMix64.
        let mut mixed = self.0 ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        self.0 = mixed ^ (mixed >> 27);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
struct Interest {
    range: KeyRange,
    watchers: u32,
}

/// All ranges that somebody watches.
#[derive(Debug)]
pub(super) struct Index {
    interests: Vec<Option<Interest>>,
    unused: Vec<InterestIndex>,
    single: HashMap<Bytes, InterestIndex>,
    intervals: Intervals,
}

impl Index {
    pub(super) fn new(random: &mut Random) -> Index {
        Index {
            interests: Vec::new(),
            unused: Vec::new(),
            single: HashMap::with_hasher(Seed(random.next_u64())),
            intervals: Intervals::new(random.fork()),
        }
    }

    /// Counts another watcher of a range.
    pub(super) fn add(&mut self, range: KeyRange) -> InterestIndex {
        let bounds = match &range {
            KeyRange::Single(_) => None,
            range => Some(span(range)),
        };
        let known = match (&range, &bounds) {
            (KeyRange::Single(key), _) => self.single.get(key).copied(),
            (_, Some((start, end))) => self.intervals.find(start, end),
            (_, None) => None,
        };
        if let Some(index) = known {
            self.interest_mut(index).watchers += 1;
            return index;
        }
        let interest = Some(Interest {
            range: range.clone(),
            watchers: 1,
        });
        let index = match self.unused.pop() {
            Some(index) => {
                self.interests[index.0 as usize] = interest;
                index
            }
            None => {
                self.interests.push(interest);
                InterestIndex((self.interests.len() - 1) as u32)
            }
        };
        match (range, bounds) {
            (KeyRange::Single(key), _) => {
                self.single.insert(key, index);
            }
            (_, Some((start, end))) => self.intervals.insert(start, end, index),
            (_, None) => {}
        }
        index
    }

    /// A watcher of a range is gone. Returns whether it was the last: then the index may be given
    /// to another range.
    pub(super) fn remove(&mut self, index: InterestIndex) -> bool {
        let interest = self.interest_mut(index);
        interest.watchers -= 1;
        if interest.watchers > 0 {
            return false;
        }
        let interest = self.interests[index.0 as usize].take();
        let range = interest
            .expect("an interest is there while it is watched")
            .range;
        self.unused.push(index);
        match &range {
            KeyRange::Single(key) => {
                self.single.remove(key);
            }
            range => {
                let (start, end) = span(range);
                self.intervals.remove(&start, &end);
            }
        }
        true
    }

    /// Which keys these are.
    pub(super) fn range(&self, index: InterestIndex) -> &KeyRange {
        let interest = self.interests[index.0 as usize].as_ref();
        &interest
            .expect("an interest is there while it is watched")
            .range
    }

    /// Visits the ranges that hold a key.
    pub(super) fn holding(&self, key: &[u8], mut visit: impl FnMut(InterestIndex)) {
        if let Some(index) = self.single.get(key) {
            visit(*index);
        }
        self.intervals.holding(key, &mut visit);
    }

    fn interest_mut(&mut self, index: InterestIndex) -> &mut Interest {
        let interest = self.interests[index.0 as usize].as_mut();
        interest.expect("an interest is there while it is watched")
    }
}
