//! Where the watch of a single key is found: a hash table that holds no keys.
//!
//! ```text
//!   hash of a key ──▶ place ─▶ place ─▶ … as long as they are taken: (hash, interest)
//!                                          is it this key? the interest knows its own
//! ```
//!
//! A million watchers watch a million keys, so what an entry takes counts: a map by keys would hold
//! each key once more, 33 bytes beside the key itself, and half its places are free. An entry here
//! is eight bytes. Its hash tells nearly all strangers without a look at their keys, and lets the
//! table grow without one.

use super::index::InterestIndex;

/// The fewest places of a table that has any.
const PLACES_MIN: usize = 16;

/// Marks a free place. No interest has this number: its watchers would not fit into memory.
const FREE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u32,
    interest: u32,
}

/// Interests by the hash of what they are in.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// A power of two of them, or none. Never all taken, so that every search ends.
    places: Vec<Place>,
    taken: usize,
}

impl Table {
    /// The interest with this hash that `is_it` knows, if there is one.
    pub(super) fn find(
        &self,
        hash: u32,
        is_it: impl Fn(InterestIndex) -> bool,
    ) -> Option<InterestIndex> {
        if self.places.is_empty() {
            return None;
        }
        let mut at = self.first(hash);
        loop {
            let place = self.places[at];
            if place.interest == FREE {
                return None;
            }
            let interest = InterestIndex(place.interest);
            if place.hash == hash && is_it(interest) {
                return Some(interest);
            }
            at = self.next(at);
        }
    }

    /// Adds an interest that is not there.
    pub(super) fn insert(&mut self, hash: u32, interest: InterestIndex) {
        assert!(interest.0 != FREE, "there are fewer interests than numbers");
        // At most three of four places are taken: longer runs would be walked through otherwise.
        if (self.taken + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        let interest = interest.0;
        self.put(Place { hash, interest });
        self.taken += 1;
    }

    /// Removes an interest that is there.
    pub(super) fn remove(&mut self, hash: u32, interest: InterestIndex) {
        let mut gap = self.first(hash);
        while self.places[gap].interest != interest.0 {
            assert!(
                self.places[gap].interest != FREE,
                "only interests that are there are removed"
            );
            gap = self.next(gap);
        }
        self.taken -= 1;
        // Whoever stands behind the gap, and would be looked for at or before it, moves into it.
        let mut at = gap;
        loop {
            at = self.next(at);
            let place = self.places[at];
            if place.interest == FREE {
                break;
            }
            let mask = self.places.len() - 1;
            let wanted = self.first(place.hash);
            let (from_wanted, from_gap) = (at.wrapping_sub(wanted), at.wrapping_sub(gap));
            if from_wanted & mask >= from_gap & mask {
                self.places[gap] = place;
                gap = at;
            }
        }
        self.places[gap].interest = FREE;
    }

    fn grow(&mut self) {
        let count = (self.places.len() * 2).max(PLACES_MIN);
        let free = Place {
            hash: 0,
            interest: FREE,
        };
        let before = std::mem::replace(&mut self.places, vec![free; count]);
        let taken = before.into_iter().filter(|place| place.interest != FREE);
        taken.for_each(|place| self.put(place));
    }

    fn put(&mut self, place: Place) {
        let mut at = self.first(place.hash);
        while self.places[at].interest != FREE {
            at = self.next(at);
        }
        self.places[at] = place;
    }

    /// Where the search for a hash begins.
    fn first(&self, hash: u32) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base::Random;

    use super::*;

    /// Random entries come and go, under hashes of which many meet; each search is compared with
    /// a plain map's.
    #[test]
    fn finds_what_a_map_finds() {
        for (seed, hashes) in [(1, 8), (2, 64), (3, u64::from(u32::MAX))] {
            let mut random = Random::from_seed(seed);
            let mut table = Table::default();
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            for step in 0..20_000u32 {
                let grows = model.len() < 100 + (step / 100) as usize;
                if grows && random.chance(0.6) {
                    let hash = random.below(hashes) as u32;
                    table.insert(hash, InterestIndex(step));
                    model.insert(step, hash);
                } else if let Some((&interest, &hash)) = model
                    .range(random.below(u64::from(step) + 1) as u32..)
                    .next()
                {
                    table.remove(hash, InterestIndex(interest));
                    model.remove(&interest);
                    let gone = table.find(hash, |found| found.0 == interest);
                    assert_eq!(gone, None, "at step {step}");
                }
                let interest = random.below(u64::from(step) + 1) as u32;
                if let Some((&interest, &hash)) = model.range(interest..).next() {
                    let found = table.find(hash, |found| found.0 == interest);
                    assert_eq!(found, Some(InterestIndex(interest)), "at step {step}");
                }
            }
            for (interest, hash) in &model {
                let found = table.find(*hash, |found| found.0 == *interest);
                assert_eq!(found, Some(InterestIndex(*interest)));
            }
            assert_eq!(table.taken, model.len());
        }
    }

    #[test]
    fn a_table_without_entries_takes_nothing_and_finds_nothing() {
        let table = Table::default();
        assert_eq!(table.find(7, |_| true), None);
        assert_eq!(table.places.capacity(), 0);
    }
}
