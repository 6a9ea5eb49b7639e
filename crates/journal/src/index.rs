//! Where each entry of a group stands on disk, and what must outlive the segment it stands in.
//!
//! ```text
//! slots    start │ first ................................ last
//! entries        │ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■   a ring: 16 bytes per entry
//! runs           │ segment 4     │ segment 5     │ batch 90 a few per group
//! epochs         │ epoch 7           │ epoch 9              a few per group
//! ```
//!
//! What neighbours share (segment, epoch) is kept once per run. Entries that are not yet
//! submitted are at home in their batch; submitting moves them to its segment.

mod scattered;

use std::collections::{BTreeMap, VecDeque};

use base::{Epoch, Slot};
use bytes::Bytes;

/// Where a record is at home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// In a batch that is still being built; offsets count from the start of the batch.
    Batch(u64),
    /// In a segment; offsets count from the start of the file.
    Segment(u64),
    /// Nowhere: nothing stands at the slot.
    Nowhere,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) home: Home,
    /// Of the record's first byte.
    pub(crate) offset: u64,
    /// The record's length without block headers.
    pub(crate) bytes: u64,
    pub(crate) epoch: Epoch,
}

/// One entry in the ring.
#[derive(Clone, Copy, Debug)]
struct Position {
    /// The bytes of the group's log up to and including this entry, from an arbitrary origin:
    /// differences give the length of an entry and of any range.
    ends_at: u64,
    offset: u32,
}

/// Entries from `first` to the next run's first that share a home.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: Slot,
    home: Home,
}

/// How many entries each segment holds that are neither released nor replaced.
#[derive(Debug, Default)]
pub(crate) struct LiveCounts(BTreeMap<u64, u64>);

impl LiveCounts {
    pub(crate) fn of(&self, segment: u64) -> u64 {
        self.0.get(&segment).copied().unwrap_or(0)
    }

    pub(crate) fn forget(&mut self, segment: u64) {
        let live = self.0.remove(&segment).unwrap_or(0);
        assert!(live == 0, "only a segment without live entries is given up");
    }

    fn add(&mut self, home: Home, entries: u64) {
        if let Home::Segment(segment) = home {
            *self.0.entry(segment).or_default() += entries;
        }
    }

    fn subtract(&mut self, home: Home, entries: u64) {
        if let Home::Segment(segment) = home {
            let live = self
                .0
                .get_mut(&segment)
                .expect("a segment with entries is counted");
            *live = live.checked_sub(entries).expect("an entry dies once");
        }
    }
}

/// A hard state, and where it stands. Its slot and epoch are kept as they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HardState {
    pub(crate) slot: Slot,
    pub(crate) epoch: Epoch,
    pub(crate) body: Bytes,
    pub(crate) home: Home,
}

/// The log of one group.
#[derive(Debug)]
pub(crate) struct GroupLog {
    /// The log begins behind this slot.
    start: (Slot, Epoch),
    /// The entries in the order of their slots, the first one's slot being `first`.
    entries: VecDeque<Position>,
    first: Slot,
    /// `ends_at` of what was before the first entry.
    bytes_before: u64,
    runs: VecDeque<Run>,
    epochs: VecDeque<(Slot, Epoch)>,
    /// The newest hard state.
    pub(crate) hard_state: Option<HardState>,
    /// What the group was opened with, and where that stands.
    pub(crate) description: Option<(Bytes, Home)>,
    /// The newest record that says where the log starts, and where it stands. Until there is
    /// one, the log starts at slot 1.
    pub(crate) anchor: Option<((Slot, Epoch), Home)>,
}

impl Default for GroupLog {
    fn default() -> GroupLog {
        GroupLog {
            start: (Slot(0), Epoch(0)),
            entries: VecDeque::new(),
            first: Slot(1),
            bytes_before: 0,
            runs: VecDeque::new(),
            epochs: VecDeque::new(),
            hard_state: None,
            description: None,
            anchor: None,
        }
    }
}

impl GroupLog {
    pub(crate) fn start(&self) -> (Slot, Epoch) {
        self.start
    }

    /// The slot of the first entry, or the one it would have. It follows the start, except while
    /// a log is replayed whose start has not been read yet.
    pub(crate) fn first(&self) -> Slot {
        self.first
    }

    /// The last entry's slot, or the one before the first.
    pub(crate) fn last(&self) -> Slot {
        Slot(self.first.0 + self.entries.len() as u64 - 1)
    }

    /// The oldest segment that holds an entry of this log.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let segments = self.runs.iter().filter_map(|run| match run.home {
            Home::Segment(segment) => Some(segment),
            Home::Batch(_) | Home::Nowhere => None,
        });
        segments.min()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn epochs(&self) -> impl Iterator<Item = (Slot, Epoch)> {
        self.epochs.iter().copied()
    }

    /// Puts an entry at `slot`, in place of what stands there and behind it.
    pub(crate) fn put(
        &mut self,
        slot: Slot,
        epoch: Epoch,
        place: (Home, u64),
        bytes: u64,
        live: &mut LiveCounts,
    ) {
        assert!(
            self.first <= slot && slot <= self.last().next(),
            "an entry follows, or replaces, one in its log"
        );
        self.cut_from(slot, live);
        let (home, offset) = place;
        let offset = u32::try_from(offset).expect("offsets in a segment fit into 32 bits");
        self.entries.push_back(Position {
            ends_at: self.ends_at() + bytes,
            offset,
        });
        if self.runs.back().is_none_or(|run| run.home != home) {
            self.runs.push_back(Run { first: slot, home });
        }
        if self.epochs.back().is_none_or(|(_, last)| *last != epoch) {
            self.epochs.push_back((slot, epoch));
        }
        live.add(home, 1);
    }

    /// Drops the entries from `slot` on.
    fn cut_from(&mut self, slot: Slot, live: &mut LiveCounts) {
        if slot > self.last() {
            return;
        }
        self.bury(slot, self.last(), live);
        self.entries.truncate((slot.0 - self.first.0) as usize);
        while self.runs.back().is_some_and(|run| run.first >= slot) {
            self.runs.pop_back();
        }
        while self.epochs.back().is_some_and(|(first, _)| *first >= slot) {
            self.epochs.pop_back();
        }
    }

    /// Forgets everything; the log starts behind `start` and is empty.
    pub(crate) fn reset(&mut self, start: (Slot, Epoch), live: &mut LiveCounts) {
        self.clear(start.0.next(), live);
        self.start = start;
    }

    /// Drops all entries; the next one will have the slot `first`.
    pub(crate) fn clear(&mut self, first: Slot, live: &mut LiveCounts) {
        if !self.is_empty() {
            self.bury(self.first, self.last(), live);
        }
        self.bytes_before = self.ends_at();
        self.entries.clear();
        self.runs.clear();
        self.epochs.clear();
        self.first = first;
    }

    /// Drops the entries up to `upto` (no more than there are); the log starts behind them.
    pub(crate) fn release(&mut self, upto: Slot, live: &mut LiveCounts) {
        let upto = upto.min(self.last());
        let Some(Location { epoch, .. }) = self.locate(upto) else {
            return;
        };
        self.release_entries(upto, live);
        self.start = (upto, epoch);
    }

    fn release_entries(&mut self, upto: Slot, live: &mut LiveCounts) {
        let gone = (upto.0 + 1 - self.first.0) as usize;
        self.bury(self.first, upto, live);
        self.bytes_before = self.entries[gone - 1].ends_at;
        self.entries.drain(..gone);
        self.first = upto.next();
        let behind = self.first;
        while self.runs.get(1).is_some_and(|run| run.first <= behind) {
            self.runs.pop_front();
        }
        while self
            .epochs
            .get(1)
            .is_some_and(|(first, _)| *first <= behind)
        {
            self.epochs.pop_front();
        }
        if self.is_empty() {
            self.runs.clear();
            self.epochs.clear();
        } else {
            self.runs[0].first = behind;
            self.epochs[0].0 = behind;
        }
    }

    /// The log starts behind `start`; no entry is dropped. For replaying only.
    pub(crate) fn set_start(&mut self, start: (Slot, Epoch)) {
        assert!(start.0 < self.first, "no entry stands before the start");
        self.start = start;
    }

    /// Batch `number` stands at `offset` of a segment: so do the records that were at home in it.
    pub(crate) fn place(&mut self, number: u64, segment: u64, offset: u64, live: &mut LiveCounts) {
        let (from, to) = (Home::Batch(number), Home::Segment(segment));
        if let Some(hard_state) = self.hard_state.as_mut()
            && hard_state.home == from
        {
            hard_state.home = to;
        }
        if let Some((_, home)) = self.description.as_mut().filter(|(_, home)| *home == from) {
            *home = to;
        }
        if let Some((_, home)) = self.anchor.as_mut().filter(|(_, home)| *home == from) {
            *home = to;
        }
        // The newest runs stand at the end; of entries that come in order, only one is in a batch.
        let mut at = self.runs.len();
        while at > 0 {
            at -= 1;
            if self.runs[at].home == from {
                self.place_run(at, (segment, offset), live);
            }
        }
        let mut before = None;
        self.runs
            .retain(|run| before.replace(run.home) != Some(run.home));
    }

    /// The run at `at` stands in a segment now.
    fn place_run(&mut self, at: usize, (segment, offset): (u64, u64), live: &mut LiveCounts) {
        let to = Home::Segment(segment);
        let first = (self.runs[at].first.0 - self.first.0) as usize;
        let end = self.runs.get(at + 1).map_or(self.entries.len(), |next| {
            (next.first.0 - self.first.0) as usize
        });
        let shift = u32::try_from(offset).expect("offsets in a segment fit into 32 bits");
        for position in self.entries.range_mut(first..end) {
            position.offset += shift;
        }
        live.add(to, (end - first) as u64);
        self.runs[at].home = to;
    }

    /// Where the entry at `slot` stands, if the log has it.
    pub(crate) fn locate(&self, slot: Slot) -> Option<Location> {
        let at = usize::try_from(slot.0.checked_sub(self.first.0)?).ok()?;
        let position = self.entries.get(at)?;
        let before = at
            .checked_sub(1)
            .map_or(self.bytes_before, |at| self.entries[at].ends_at);
        if position.ends_at == before {
            return None;
        }
        let run = self.runs.partition_point(|run| run.first <= slot) - 1;
        let epoch = self.epochs.partition_point(|(first, _)| *first <= slot) - 1;
        Some(Location {
            home: self.runs[run].home,
            offset: u64::from(position.offset),
            bytes: position.ends_at - before,
            epoch: self.epochs[epoch].1,
        })
    }

    /// The bytes of the entries behind `slot`.
    pub(crate) fn bytes_since(&self, slot: Slot) -> u64 {
        let before = match slot.0.checked_sub(self.first.0) {
            None => self.bytes_before,
            Some(at) => usize::try_from(at)
                .ok()
                .and_then(|at| self.entries.get(at))
                .map_or(self.ends_at(), |position| position.ends_at),
        };
        self.ends_at() - before
    }

    fn ends_at(&self) -> u64 {
        self.entries
            .back()
            .map_or(self.bytes_before, |position| position.ends_at)
    }

    /// Counts the entries `from..=upto` as dead where they stand.
    fn bury(&self, from: Slot, upto: Slot, live: &mut LiveCounts) {
        for (at, run) in self.runs.iter().enumerate() {
            let end = self
                .runs
                .get(at + 1)
                .map_or(self.last().next(), |next| next.first);
            let first = run.first.max(from);
            let end = end.min(upto.next());
            if first < end {
                live.subtract(run.home, end.0 - first.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> (GroupLog, LiveCounts) {
        let (mut log, mut live) = (GroupLog::default(), LiveCounts::default());
        for slot in 1..=9 {
            let home = Home::Segment(1 + slot / 4);
            let epoch = Epoch(1 + slot / 5);
            log.put(Slot(slot), epoch, (home, slot * 100), 10 * slot, &mut live);
        }
        (log, live)
    }

    fn counts(live: &LiveCounts) -> [u64; 3] {
        [live.of(1), live.of(2), live.of(3)]
    }

    #[test]
    fn entries_are_found_where_they_were_put() {
        let (log, live) = filled();
        assert_eq!(counts(&live), [3, 4, 2]);
        let location = Location {
            home: Home::Segment(2),
            offset: 500,
            bytes: 50,
            epoch: Epoch(2),
        };
        assert_eq!(log.locate(Slot(5)), Some(location));
        assert_eq!(log.locate(Slot(0)), None);
        assert_eq!(log.locate(Slot(10)), None);
        assert_eq!(log.bytes_since(Slot(0)), 450);
        assert_eq!(log.bytes_since(Slot(8)), 90);
        assert_eq!(log.bytes_since(Slot(9)), 0);
        assert_eq!(log.bytes_since(Slot(99)), 0);
    }

    #[test]
    fn an_entry_replaces_what_stands_behind_it() {
        let (mut log, mut live) = filled();
        log.put(Slot(4), Epoch(3), (Home::Segment(3), 1000), 7, &mut live);
        assert_eq!(log.last(), Slot(4));
        assert_eq!(counts(&live), [3, 0, 1]);
        assert_eq!(
            log.epochs().collect::<Vec<_>>(),
            [(Slot(1), Epoch(1)), (Slot(4), Epoch(3))]
        );
        assert_eq!(log.bytes_since(Slot(3)), 7);
    }

    #[test]
    fn releasing_moves_the_start_and_kills_entries() {
        let (mut log, mut live) = filled();
        log.release(Slot(5), &mut live);
        assert_eq!(log.start(), (Slot(5), Epoch(2)));
        assert_eq!(counts(&live), [0, 2, 2]);
        assert_eq!(log.locate(Slot(5)), None);
        assert_eq!(log.locate(Slot(6)).unwrap().bytes, 60);
        assert_eq!(log.bytes_since(Slot(0)), 300);
        log.release(Slot(3), &mut live);
        assert_eq!(log.start(), (Slot(5), Epoch(2)));
        log.release(Slot(99), &mut live);
        assert_eq!(log.start(), (Slot(9), Epoch(2)));
        assert_eq!(counts(&live), [0, 0, 0]);
        assert_eq!(log.last(), Slot(9));
        log.put(Slot(10), Epoch(2), (Home::Segment(3), 0), 1, &mut live);
        assert_eq!(counts(&live), [0, 0, 1]);
        log.reset((Slot(50), Epoch(4)), &mut live);
        assert_eq!((counts(&live), log.last()), ([0, 0, 0], Slot(50)));
    }

    #[test]
    fn placing_a_batch_moves_what_is_left_of_it() {
        let (mut log, mut live) = filled();
        for slot in 10..=12 {
            log.put(Slot(slot), Epoch(2), (Home::Batch(5), slot), 1, &mut live);
        }
        log.put(Slot(12), Epoch(4), (Home::Batch(6), 12), 1, &mut live);
        log.release(Slot(10), &mut live);
        log.place(5, 3, 4096, &mut live);
        assert_eq!(counts(&live), [0, 0, 1]);
        let location = Location {
            home: Home::Segment(3),
            offset: 4107,
            bytes: 1,
            epoch: Epoch(2),
        };
        assert_eq!(log.locate(Slot(11)), Some(location));
        assert_eq!(log.locate(Slot(12)).unwrap().home, Home::Batch(6));
        log.place(6, 3, 8192, &mut live);
        assert_eq!(log.locate(Slot(12)).unwrap().offset, 8204);
        assert_eq!(counts(&live), [0, 0, 2]);
        assert_eq!(log.runs.len(), 1);
    }
}
