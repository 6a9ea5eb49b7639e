//! The replica's view of its log.
//!
//! ```text
//!        start              cache begins        written   last
//!          │                     │                 │        │
//!   ───────┼─────────────────────┼─────────────────┼────────┤
//!   gone   │ in the journal only │ here as well    │ not yet handed to the journal
//!          └ epochs of all of it as runs ───────────────────┘
//! ```
//!
//! Entries are kept in memory only at the end of the log, within a budget; what is older is
//! fetched back from the journal when somebody needs it. The *epochs* of all entries are always
//! known: consecutive entries of one epoch are one run, and a log has few runs, so that comparing
//! logs never waits for a disk. The memberships in the log are kept as well, which makes the
//! membership in force a function of nothing but snapshot and log.

use std::collections::VecDeque;
use std::sync::Arc;

use base::{Epoch, Slot};

use crate::entries::Entries;
use crate::entry::{Entry, Payload};
use crate::membership::Membership;
use crate::memberships::{Held, Memberships};
use crate::message::Position;
use crate::raft::Restored;
use crate::raft::cache::Cache;

/// See the head of this file.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    start: Position,
    last: Slot,
    /// From this slot on, this epoch; ascending. The first begins at or before the first entry.
    runs: VecDeque<(Slot, Epoch)>,
    /// The newest entries, without a gap, up to `last`.
    cache: Cache,
    written: Slot,
    durable: Slot,
    /// That of the snapshot, and those in the log.
    memberships: Memberships,
    /// The journal has to be told that the log starts anew.
    restarted: bool,
}

impl Log {
    /// The log that stands in the journal, or an empty one behind the checkpoint if the journal's
    /// log does not reach it.
    pub(crate) fn restore(restored: Restored) -> Log {
        let (slot, epoch) = restored.log_start;
        let base_slot = restored
            .checkpoint
            .map_or(slot, |checkpoint| checkpoint.slot);
        assert!(
            base_slot >= slot,
            "the checkpoint reaches the start of the log"
        );
        assert!(restored.last >= slot, "the log ends behind its start");
        assert!(
            restored
                .epochs
                .first()
                .map_or(restored.last == slot, |run| run.0 <= slot.next()),
            "the epochs of all entries are known"
        );
        let base = Arc::new(restored.membership);
        let mut memberships = Memberships::new((base_slot, Arc::clone(&base)));
        for (slot, membership) in restored.memberships {
            if slot > base_slot {
                memberships.push(slot, Arc::new(membership));
            }
        }
        let mut log = Log {
            start: Position { slot, epoch },
            last: restored.last,
            runs: restored.epochs.into(),
            cache: Cache::default(),
            written: restored.last,
            durable: restored.last,
            memberships,
            restarted: false,
        };
        if let Some(checkpoint) = restored.checkpoint {
            let position = Position {
                slot: checkpoint.slot,
                epoch: checkpoint.epoch,
            };
            if !log.holds(position) {
                log.restart(position, base);
            }
        }
        log
    }

    /// The log begins behind this position.
    pub(crate) fn start(&self) -> Position {
        self.start
    }

    /// The last slot.
    pub(crate) fn last(&self) -> Slot {
        self.last
    }

    /// The end of the log.
    pub(crate) fn end(&self) -> Position {
        let epoch = self.epoch_at(self.last).expect("the last epoch is known");
        Position {
            slot: self.last,
            epoch,
        }
    }

    /// Everything up to here is on stable storage.
    pub(crate) fn durable(&self) -> Slot {
        self.durable
    }

    /// Everything up to here was handed to the journal.
    pub(crate) fn written(&self) -> Slot {
        self.written
    }

    /// The journal made everything up to here durable; `upto` must have been written, and must
    /// not have been cut since.
    pub(crate) fn became_durable(&mut self, upto: Slot) {
        assert!(
            upto <= self.written,
            "only what was written becomes durable"
        );
        self.durable = self.durable.max(upto);
    }

    /// The epoch of the entry at `slot`; `None` if the log does not hold it. The start is known.
    #[inline]
    pub(crate) fn epoch_at(&self, slot: Slot) -> Option<Epoch> {
        if slot == self.start.slot {
            return Some(self.start.epoch);
        }
        if slot < self.start.slot || slot > self.last {
            return None;
        }
        if let Some(newest) = self.runs.back().filter(|run| run.0 <= slot) {
            return Some(newest.1);
        }
        let after = self.runs.partition_point(|run| run.0 <= slot);
        assert!(after > 0, "every entry belongs to a run");
        Some(self.runs[after - 1].1)
    }

    /// The position at a slot that the log holds.
    pub(crate) fn position(&self, slot: Slot) -> Option<Position> {
        self.epoch_at(slot).map(|epoch| Position { slot, epoch })
    }

    /// Whether the log holds exactly this position (and therefore everything before it).
    pub(crate) fn holds(&self, position: Position) -> bool {
        self.epoch_at(position.slot) == Some(position.epoch)
    }

    /// The last position at or before `slot` whose epoch is not above `epoch`; the start of the
    /// log if there is none. Both sides of a conflict use it to skip whole epochs at once.
    pub(crate) fn last_not_newer(&self, slot: Slot, epoch: Epoch) -> Position {
        let slot = slot.min(self.last);
        if slot <= self.start.slot {
            return self.start;
        }
        if let Some(found) = self.epoch_at(slot).filter(|found| *found <= epoch) {
            return Position { slot, epoch: found };
        }
        let after = self
            .runs
            .partition_point(|run| run.0 <= slot && run.1 <= epoch);
        // The run after the ones that are old enough begins right behind the answer.
        match self.runs.get(after) {
            Some(run) if after > 0 && run.0 > self.start.slot.next() => {
                let slot = run.0.previous();
                Position {
                    slot,
                    epoch: self.runs[after - 1].1,
                }
            }
            _ => self.start,
        }
    }

    /// The first slot whose entry is in memory; the slot after the last if none is.
    pub(crate) fn cached_from(&self) -> Slot {
        Slot(self.last.0 + 1 - self.cache.len() as u64)
    }

    /// Entries from `from`, which must be in memory, to at most `upto`, within `budget` bytes, but
    /// at least one. The pass's own entries must have been sealed.
    pub(crate) fn take(&self, from: Slot, upto: Slot, budget: u64) -> Entries {
        let first = self.cached_from();
        assert!(from >= first, "entries before {first} are not in memory");
        self.cache.take(from, upto, budget)
    }

    /// All of these, if they are the newest piece, as they are nearly always.
    #[inline(always)]
    pub(crate) fn newest_within(&self, from: Slot, upto: Slot, budget: u64) -> Option<&Entries> {
        self.cache.newest_within(from, upto, budget)
    }

    /// The bytes of the entries from `from` to `upto`, as far as they are in memory.
    pub(crate) fn cached_bytes(&self, from: Slot, upto: Slot) -> u64 {
        self.cache.bytes_between(from, upto)
    }

    /// Appends one entry behind the last. It is handed out when the log is sealed; so many bytes
    /// are handed out in one piece.
    pub(crate) fn append(&mut self, entry: Entry, chunk_bytes: u64) {
        self.note(&entry);
        self.cache.push(entry, chunk_bytes);
    }

    /// Appends entries that came together.
    pub(crate) fn append_all(&mut self, entries: Entries) {
        for entry in &entries {
            self.note(entry);
        }
        self.cache.extend(entries);
    }

    /// What was appended since is handed out from now on.
    pub(crate) fn seal(&mut self) {
        self.cache.seal();
    }

    /// Keeps what is always known of an entry.
    fn note(&mut self, entry: &Entry) {
        assert!(entry.slot == self.last.next(), "a log has no gaps");
        let newest = self.runs.back().map_or(self.start.epoch, |run| run.1);
        assert!(entry.epoch >= newest, "epochs never go back along a log");
        if self.runs.is_empty() || entry.epoch != newest {
            self.runs.push_back((entry.slot, entry.epoch));
        }
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.push(entry.slot, Arc::clone(membership));
        }
        self.last = entry.slot;
    }

    /// Cuts off `from` and everything behind it.
    pub(crate) fn cut(&mut self, from: Slot) {
        assert!(
            from > self.start.slot,
            "a log is never cut before its start"
        );
        self.cache.cut(from);
        while self.runs.back().is_some_and(|run| run.0 >= from) {
            self.runs.pop_back();
        }
        self.memberships.cut(from);
        self.last = self.last.min(from.previous());
        self.written = self.written.min(self.last);
        self.durable = self.durable.min(self.last);
    }

    /// Forgets everything: the log is empty and begins behind a snapshot.
    pub(crate) fn restart(&mut self, start: Position, membership: Arc<Membership>) {
        self.start = start;
        self.last = start.slot;
        self.runs.clear();
        self.cache.clear();
        self.written = start.slot;
        // The snapshot itself is on stable storage; a restart puts the log behind it again even
        // if the journal's record of it is lost.
        self.durable = start.slot;
        self.memberships = Memberships::new((start.slot, membership));
        self.restarted = true;
    }

    /// The journal may forget everything up to `slot`.
    pub(crate) fn forget_until(&mut self, slot: Slot) {
        let Some(start) = self.position(slot).filter(|_| slot > self.start.slot) else {
            return;
        };
        assert!(slot <= self.durable, "what is not durable is not forgotten");
        self.start = start;
        while self.runs.get(1).is_some_and(|run| run.0 <= slot.next()) {
            self.runs.pop_front();
        }
        self.memberships.forget_until(slot);
        self.cache.forget_until(slot);
    }

    /// Keeps the memory within `budget` by dropping the oldest entries, but nothing behind
    /// `needed`: what is not chosen or not handed out yet.
    pub(crate) fn shrink_cache(&mut self, budget: u64, needed: Slot) {
        self.cache.shrink(budget, needed.min(self.durable));
    }

    /// Whether the journal has to be told anything.
    pub(crate) fn needs_writing(&self) -> bool {
        self.restarted || self.written < self.last
    }

    /// Hands out what the journal does not have yet: whether the log starts anew, and the new
    /// entries, which must have been sealed.
    pub(crate) fn take_unwritten(
        &mut self,
    ) -> (Option<Position>, impl Iterator<Item = Entries> + '_) {
        let from = self.written.next();
        let restarted = self.restarted.then_some(self.start);
        self.restarted = false;
        self.written = self.last;
        (restarted, self.cache.chunks_from(from))
    }

    /// The same, if it is one piece and nothing else, as it is nearly always.
    #[inline(always)]
    pub(crate) fn take_newest_unwritten(&mut self) -> Option<&Entries> {
        let from = self.written.next();
        let newest = self.cache.newest_from(from).filter(|_| !self.restarted)?;
        self.written = self.last;
        Some(newest)
    }

    /// The membership at the start of the log, and the slot from which it holds.
    pub(crate) fn base(&self) -> &Held {
        self.memberships.base()
    }

    /// The membership in force, and the slot from which it holds.
    #[inline(always)]
    pub(crate) fn membership(&self) -> &Held {
        self.memberships.in_force()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(epochs: &[u64]) -> Log {
        let mut log = Log::restore(Restored::default());
        for epoch in epochs {
            let entry = Entry {
                slot: log.last().next(),
                epoch: Epoch(*epoch),
                payload: Payload::Empty,
            };
            log.append(entry, 20);
        }
        log.seal();
        log
    }

    #[test]
    fn finds_the_last_position_that_is_not_newer() {
        let log = log(&[1, 1, 3, 3, 5]);
        let find = |slot, epoch| log.last_not_newer(Slot(slot), Epoch(epoch)).slot.0;
        assert_eq!(find(9, 9), 5);
        assert_eq!(find(5, 4), 4);
        assert_eq!(find(3, 3), 3);
        assert_eq!(find(4, 2), 2);
        assert_eq!(find(5, 0), 0);
    }

    #[test]
    fn what_was_cut_is_not_durable_any_more() {
        let mut log = log(&[1, 1, 1]);
        assert_eq!(
            log.take_unwritten()
                .1
                .map(|chunk| chunk.len())
                .sum::<usize>(),
            3
        );
        log.became_durable(Slot(3));
        log.cut(Slot(2));
        assert_eq!(
            (log.last(), log.durable(), log.needs_writing()),
            (Slot(1), Slot(1), false)
        );
    }

    #[test]
    fn the_cache_keeps_what_is_not_durable() {
        let mut log = log(&[1, 1, 1, 1]);
        assert_eq!(
            log.take_unwritten()
                .1
                .map(|chunk| chunk.len())
                .sum::<usize>(),
            4
        );
        log.became_durable(Slot(2));
        log.shrink_cache(0, Slot(4));
        assert_eq!(log.cached_from(), Slot(3));
        assert_eq!(log.epoch_at(Slot(1)), Some(Epoch(1)), "epochs stay known");
    }

    #[test]
    fn forgetting_the_beginning_keeps_the_epoch_of_the_start() {
        let mut log = log(&[1, 2, 2, 4]);
        assert_eq!(
            log.take_unwritten()
                .1
                .map(|chunk| chunk.len())
                .sum::<usize>(),
            4
        );
        log.became_durable(Slot(4));
        log.forget_until(Slot(2));
        assert_eq!(
            log.start(),
            Position {
                slot: Slot(2),
                epoch: Epoch(2)
            }
        );
        assert_eq!(log.epoch_at(Slot(1)), None);
        assert_eq!(log.epoch_at(Slot(3)), Some(Epoch(2)));
        assert_eq!(log.last_not_newer(Slot(4), Epoch(3)).slot, Slot(3));
        assert_eq!(log.last_not_newer(Slot(4), Epoch(1)).slot, Slot(2));
    }
}
