//! Entries that come in any order.
//!
//! ```text
//! slots    start │ 8  9  10 11 12 13        an entry replaces what stands at its slot alone,
//! entries        │ ■  ■  ·  ■  ■  ·  ■      and may leave gaps before it
//! homes          │ seg 4 │- │ b 7 │-│b 7
//! ```
//!
//! A gap is kept as an entry without bytes that is at home nowhere, so that the ring stays a ring.
//! Gaps are few: they stand within the window of what is not chosen yet.

use std::collections::VecDeque;

use base::{Epoch, Slot};

use super::{GroupLog, Home, LiveCounts, Position, Run};

impl GroupLog {
    /// Puts an entry at `slot`, in place of what stands there and of nothing else.
    pub(crate) fn put_alone(
        &mut self,
        slot: Slot,
        epoch: Epoch,
        place: (Home, u64),
        bytes: u64,
        live: &mut LiveCounts,
    ) {
        assert!(slot >= self.first, "an entry stands behind the start");
        while self.last().next() < slot {
            self.push_gap(epoch);
        }
        if slot == self.last().next() {
            return self.put(slot, epoch, place, bytes, live);
        }
        let at = (slot.0 - self.first.0) as usize;
        let before = self.ends_before(at);
        let (old_bytes, (home, offset)) = (self.entries[at].ends_at - before, place);
        live.subtract(self.home_of(slot), 1);
        live.add(home, 1);
        for position in self.entries.range_mut(at..) {
            position.ends_at = position.ends_at + bytes - old_bytes;
        }
        self.entries[at].offset = u32::try_from(offset).expect("offsets fit into 32 bits");
        let runs: VecDeque<(Slot, Home)> =
            self.runs.iter().map(|run| (run.first, run.home)).collect();
        let runs = replaced(runs, slot, home, self.last());
        let run = |(first, home)| Run { first, home };
        self.runs = runs.into_iter().map(run).collect();
        let epochs = std::mem::take(&mut self.epochs);
        self.epochs = replaced(epochs, slot, epoch, self.last());
    }

    /// Moves the beginning back to `first`: what stands between it and the first entry is missing.
    pub(crate) fn extend_front(&mut self, first: Slot) {
        if self.is_empty() {
            self.first = first;
            return;
        }
        while self.first > first {
            self.first = self.first.previous();
            let (ends_at, offset) = (self.bytes_before, 0);
            self.entries.push_front(Position { ends_at, offset });
            match self.runs.front_mut() {
                Some(run) if run.home == Home::Nowhere => run.first = self.first,
                _ => self.runs.push_front(Run {
                    first: self.first,
                    home: Home::Nowhere,
                }),
            }
            self.epochs[0].0 = self.first;
        }
    }

    /// The log starts behind `start` and keeps what stands behind it, gaps and all.
    pub(crate) fn start_behind(&mut self, start: (Slot, Epoch), live: &mut LiveCounts) {
        let slot = start.0;
        if slot >= self.last() {
            return self.reset(start, live);
        }
        self.extend_front(self.first.min(slot.next()));
        if slot >= self.first {
            self.release_entries(slot, live);
        }
        self.start = start;
    }

    /// The slots between the first entry and the last that hold none, as first and last of each
    /// gap.
    pub(crate) fn gaps(&self) -> Vec<(Slot, Slot)> {
        let mut gaps = Vec::new();
        for (at, run) in self.runs.iter().enumerate() {
            if run.home == Home::Nowhere {
                let next = self.runs.get(at + 1).map(|next| next.first.previous());
                gaps.push((run.first, next.unwrap_or(self.last())));
            }
        }
        gaps
    }

    fn push_gap(&mut self, epoch: Epoch) {
        let slot = self.last().next();
        let (ends_at, offset) = (self.ends_at(), 0);
        self.entries.push_back(Position { ends_at, offset });
        if self.runs.back().is_none_or(|run| run.home != Home::Nowhere) {
            self.runs.push_back(Run {
                first: slot,
                home: Home::Nowhere,
            });
        }
        if self.epochs.is_empty() {
            self.epochs.push_back((slot, epoch));
        }
    }

    fn ends_before(&self, at: usize) -> u64 {
        at.checked_sub(1)
            .map_or(self.bytes_before, |at| self.entries[at].ends_at)
    }

    fn home_of(&self, slot: Slot) -> Home {
        let after = self.runs.partition_point(|run| run.first <= slot);
        self.runs[after - 1].home
    }
}

/// Runs with another value at one slot; `last` is the last slot of all.
fn replaced<T: Copy + PartialEq>(
    runs: VecDeque<(Slot, T)>,
    slot: Slot,
    value: T,
    last: Slot,
) -> VecDeque<(Slot, T)> {
    let mut next: VecDeque<(Slot, T)> = VecDeque::with_capacity(runs.len() + 2);
    let mut push = |first: Slot, value: T| {
        if next.back().is_none_or(|run| run.1 != value) {
            next.push_back((first, value));
        }
    };
    for (at, (first, old)) in runs.iter().enumerate() {
        let end = runs.get(at + 1).map_or(last, |next| next.0.previous());
        if slot < *first || slot > end {
            push(*first, *old);
            continue;
        }
        if *first < slot {
            push(*first, *old);
        }
        push(slot, value);
        if slot < end {
            push(slot.next(), *old);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base::Random;

    use super::*;

    #[test]
    fn a_log_in_any_order_is_a_map() {
        for seed in 0..300 {
            let mut random = Random::from_seed(seed);
            let (mut log, mut live) = (GroupLog::default(), LiveCounts::default());
            let mut model: BTreeMap<u64, (Home, u64, u64, u64)> = BTreeMap::new();
            let mut start = 0;
            let mut batch = 1;
            for _ in 0..60 {
                if random.chance(0.1) {
                    // The batch is submitted.
                    let segment = 1 + batch / 3;
                    log.place(batch, segment, 4096, &mut live);
                    for (home, offset, ..) in model.values_mut() {
                        if *home == Home::Batch(batch) {
                            (*home, *offset) = (Home::Segment(segment), *offset + 4096);
                        }
                    }
                    batch += 1;
                } else if random.chance(0.1) {
                    start += random.below(4);
                    log.start_behind((Slot(start), Epoch(9)), &mut live);
                    model.retain(|slot, _| *slot > start);
                } else {
                    let slot = start + 1 + random.below(12);
                    let (offset, bytes) = (random.below(1000), 1 + random.below(50));
                    let epoch = random.below(3);
                    let place = (Home::Batch(batch), offset);
                    log.put_alone(Slot(slot), Epoch(epoch), place, bytes, &mut live);
                    model.insert(slot, (Home::Batch(batch), offset, bytes, epoch));
                }
                for slot in start + 1..start + 20 {
                    let found = log.locate(Slot(slot));
                    let found = found.map(|at| (at.home, at.offset, at.bytes, at.epoch.0));
                    assert_eq!(found, model.get(&slot).copied(), "seed {seed}, slot {slot}");
                }
                let last = model.keys().next_back().copied().unwrap_or(start);
                assert_eq!(log.last(), Slot(last), "seed {seed}");
                let gaps = log.gaps();
                let gaps = gaps.iter().flat_map(|(from, upto)| from.0..=upto.0);
                let missing = (start + 1..=last).filter(|slot| !model.contains_key(slot));
                assert!(gaps.eq(missing), "seed {seed}");
                for segment in 1..=20 {
                    let here = |held: &&(Home, u64, u64, u64)| held.0 == Home::Segment(segment);
                    let count = model.values().filter(here).count() as u64;
                    assert_eq!(live.of(segment), count, "seed {seed}");
                }
            }
        }
    }
}
