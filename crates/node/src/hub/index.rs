//! Which watched ranges hold a key. Its cost follows the ranges that match, not the watchers.
//!
//! Watchers of the same keys share one *interest*. Interests in a single key are found by
//! [hash](super::table), the others by an [interval tree](super::intervals).

use std::hash::{BuildHasher, Hasher};

use base::Random;
use bytes::Bytes;
use state::KeyRange;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::chunks::Chunks;
use super::history::span;
use super::intervals::{Intervals, Place};
use super::table::Table;

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

/// What is watched. There may be a million: so each key is held once, in an allocation of its own
/// size.
#[derive(Debug)]
enum Watched {
    Single(Box<[u8]>),
    /// The tree holds the range.
    Range(Place),
}

#[derive(Debug)]
struct Interest {
    watched: Watched,
    /// Without any, the place is free.
    watchers: u32,
}

/// All ranges that somebody watches.
#[derive(Debug)]
pub(super) struct Index {
    interests: Chunks<Interest>,
    unused: Vec<InterestIndex>,
    single: Table,
    /// Clients choose the keys, and must not be able to make all of them meet.
    seed: u64,
    intervals: Intervals,
}

impl Index {
    pub(super) fn new(random: &mut Random) -> Index {
        Index {
            interests: Chunks::default(),
            unused: Vec::new(),
            single: Table::default(),
            seed: random.next_u64(),
            intervals: Intervals::new(random.fork()),
        }
    }

    /// Counts another watcher of a range.
    pub(super) fn add(&mut self, range: KeyRange) -> InterestIndex {
        match range {
            KeyRange::Single(key) => self.add_single(&key),
            range => self.add_range(&range),
        }
    }

    fn add_single(&mut self, key: &[u8]) -> InterestIndex {
        let hash = self.hash(key);
        if let Some(index) = self.find_single(hash, key) {
            return self.add_watcher(index);
        }
        let index = self.add_interest(Watched::Single(key.into()));
        self.single.insert(hash, index);
        index
    }

    fn add_range(&mut self, range: &KeyRange) -> InterestIndex {
        let (start, end) = span(range);
        let end = end.as_deref();
        if let Some(index) = self.intervals.find(&start, end) {
            return self.add_watcher(index);
        }
        // Each has to be told where the other stands.
        let index = self.add_interest(Watched::Single(Box::default()));
        let place = self.intervals.insert(&start, end, index);
        self.interests[index.0 as usize].watched = Watched::Range(place);
        index
    }

    fn add_watcher(&mut self, index: InterestIndex) -> InterestIndex {
        self.interests[index.0 as usize].watchers += 1;
        index
    }

    fn add_interest(&mut self, watched: Watched) -> InterestIndex {
        let interest = Interest {
            watched,
            watchers: 1,
        };
        match self.unused.pop() {
            Some(index) => {
                self.interests[index.0 as usize] = interest;
                index
            }
            None => {
                self.interests.push(interest);
                InterestIndex((self.interests.len() - 1) as u32)
            }
        }
    }

    /// A watcher of a range is gone. Returns whether it was the last: then the index may be given
    /// to another range.
    pub(super) fn remove(&mut self, index: InterestIndex) -> bool {
        let interest = &mut self.interests[index.0 as usize];
        assert!(interest.watchers > 0, "{WATCHED}");
        interest.watchers -= 1;
        if interest.watchers > 0 {
            return false;
        }
        // Nothing of it is kept until the place is used again.
        let nothing = Watched::Single(Box::default());
        match std::mem::replace(&mut interest.watched, nothing) {
            Watched::Single(key) => {
                let hash = self.hash(&key);
                self.single.remove(hash, index);
            }
            Watched::Range(place) => self.intervals.remove(place),
        }
        self.unused.push(index);
        true
    }

    /// Which keys these are.
    pub(super) fn range(&self, index: InterestIndex) -> KeyRange {
        match self.watched(index) {
            Watched::Single(key) => KeyRange::Single(Bytes::copy_from_slice(key)),
            Watched::Range(place) => self.intervals.range(*place),
        }
    }

    /// Whether a key is one of them.
    pub(super) fn holds(&self, index: InterestIndex, key: &[u8]) -> bool {
        match self.watched(index) {
            Watched::Single(only) => **only == *key,
            Watched::Range(place) => self.intervals.holds(*place, key),
        }
    }

    /// Visits the ranges that hold a key.
    pub(super) fn holding(&self, key: &[u8], mut visit: impl FnMut(InterestIndex)) {
        if let Some(index) = self.find_single(self.hash(key), key) {
            visit(index);
        }
        self.intervals.holding(key, &mut visit);
    }

    fn find_single(&self, hash: u32, key: &[u8]) -> Option<InterestIndex> {
        self.single.find(hash, |index| self.holds(index, key))
    }

    fn hash(&self, key: &[u8]) -> u32 {
        xxh3_64_with_seed(key, self.seed) as u32
    }

    fn watched(&self, index: InterestIndex) -> &Watched {
        let interest = &self.interests[index.0 as usize];
        assert!(interest.watchers > 0, "{WATCHED}");
        &interest.watched
    }
}

const WATCHED: &str = "an interest is there while it is watched";
