//! The replica's view of its log.
//!
//! ```text
//!       start            cells begin           chosen                 last
//!         │                   │                   │                     │
//!  ───────┼───────────────────┼───────────────────┼──■──■─────■──■──■───┤
//!  gone   │ in the journal only, epochs known     │ accepted, with gaps │
//! ```
//!
//! Up to `chosen` there are no gaps, and nothing changes any more; of that part the newest entries
//! are kept in memory, within a budget, and the rest is fetched back from the journal. Behind it
//! stands what this replica accepted, each under its ballot: all of it in memory, because a
//! candidate may ask for it at any time. The membership in force is that of the chosen part.

use std::collections::VecDeque;
use std::sync::Arc;

use base::{Epoch, Slot};

use crate::entry::{Entry, Payload};
use crate::membership::Membership;
use crate::message::Position;
use crate::raft::Restored;

/// An entry, and the ballot under which it was accepted last.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) entry: Entry,
    pub(super) ballot: Epoch,
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub(super) struct Log {
    start: Position,
    chosen: Slot,
    /// The slot of the first cell.
    first: Slot,
    /// Without a gap up to `chosen`; the last one is always filled.
    cells: VecDeque<Option<Cell>>,
    bytes: u64,
    /// Of the chosen part: from this slot on, this epoch.
    runs: VecDeque<(Slot, Epoch)>,
    /// The membership of the snapshot, and the slot from which it holds.
    base: (Slot, Arc<Membership>),
    /// Those in the chosen part.
    memberships: VecDeque<(Slot, Arc<Membership>)>,
    /// The journal has to be told that the log starts later.
    starts: Option<Position>,
}

impl Log {
    /// The chosen part of what stands in the journal. The rest has to be read first.
    pub(super) fn restore(restored: &Restored, chosen: Slot) -> Log {
        let (slot, epoch) = restored.log_start;
        let checkpoint = restored.checkpoint;
        let base_slot = checkpoint.map_or(slot, |checkpoint| checkpoint.slot);
        assert!(
            base_slot >= slot,
            "the checkpoint reaches the start of the log"
        );
        assert!(
            restored.last >= slot && chosen >= slot,
            "the log ends behind its start"
        );
        let memberships = restored.memberships.iter();
        let mut log = Log {
            start: Position { slot, epoch },
            chosen,
            first: chosen.next(),
            cells: VecDeque::new(),
            bytes: 0,
            runs: restored
                .epochs
                .iter()
                .copied()
                .take_while(|run| run.0 <= chosen)
                .collect(),
            base: (base_slot, Arc::new(restored.membership.clone())),
            memberships: memberships
                .filter(|(slot, _)| *slot > base_slot && *slot <= chosen)
                .map(|(slot, membership)| (*slot, Arc::new(membership.clone())))
                .collect(),
            starts: None,
        };
        if let Some(checkpoint) = checkpoint {
            let position = Position {
                slot: checkpoint.slot,
                epoch: checkpoint.epoch,
            };
            if chosen < checkpoint.slot {
                // Perhaps a crash came between the checkpoint and the journal's record of it: what
                // the journal holds before it need not be what was chosen.
                let membership = Arc::clone(&log.base.1);
                log.begin_behind(position, membership);
            }
        }
        log
    }

    pub(super) fn start(&self) -> Position {
        self.start
    }

    pub(super) fn chosen(&self) -> Slot {
        self.chosen
    }

    /// The last slot that holds anything.
    pub(super) fn last(&self) -> Slot {
        Slot(self.first.0 + self.cells.len() as u64 - 1)
    }

    /// The first slot in memory; behind `chosen` everything is.
    pub(super) fn cached_from(&self) -> Slot {
        self.first
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Cell> {
        let at = slot.0.checked_sub(self.first.0)?;
        self.cells.get(usize::try_from(at).ok()?)?.as_ref()
    }

    /// The cells in memory from `from` on that hold something.
    pub(super) fn cells(&self, from: Slot) -> impl Iterator<Item = &Cell> {
        let skipped = from.0.saturating_sub(self.first.0);
        let at = usize::try_from(skipped).map_or(self.cells.len(), |at| at.min(self.cells.len()));
        self.cells.range(at..).flatten()
    }

    /// The entries in memory from `from` on, up to the first gap.
    pub(super) fn entries(&self, from: Slot) -> impl Iterator<Item = &Entry> {
        assert!(from >= self.first, "what is not in memory is fetched");
        let at = (from.0 - self.first.0) as usize;
        let cells = self.cells.range(at.min(self.cells.len())..);
        cells.map_while(|cell| cell.as_ref().map(|cell| &cell.entry))
    }

    /// The epoch of the entry at `slot`, if it is known.
    pub(super) fn epoch_at(&self, slot: Slot) -> Option<Epoch> {
        if slot == self.start.slot {
            return Some(self.start.epoch);
        }
        if slot < self.start.slot {
            return None;
        }
        if slot > self.chosen {
            return self.get(slot).map(|cell| cell.entry.epoch);
        }
        let after = self.runs.partition_point(|run| run.0 <= slot);
        assert!(after > 0, "every chosen entry belongs to a run");
        Some(self.runs[after - 1].1)
    }

    /// Puts an entry behind what is chosen, in place of what may stand there.
    pub(super) fn put(&mut self, entry: Entry, ballot: Epoch) {
        assert!(entry.slot > self.chosen, "what is chosen never changes");
        let at = (entry.slot.0 - self.first.0) as usize;
        self.bytes += entry.bytes();
        if at == self.cells.len() {
            self.cells.push_back(Some(Cell { entry, ballot }));
            return;
        }
        if at > self.cells.len() {
            self.cells.resize_with(at + 1, || None);
        }
        if let Some(replaced) = self.cells[at].replace(Cell { entry, ballot }) {
            self.bytes -= replaced.entry.bytes();
        }
    }

    /// Everything up to `slot` is chosen. Returns the bytes of what is newly so.
    pub(super) fn choose(&mut self, slot: Slot) -> u64 {
        let from = (self.chosen.next().0 - self.first.0) as usize;
        let end = (slot.0 + 1 - self.first.0) as usize;
        let mut bytes = 0;
        for cell in self.cells.range(from..end) {
            let Cell { entry, .. } = cell.as_ref().expect("what is chosen is in the log");
            bytes += entry.bytes();
            if self.runs.back().is_none_or(|run| run.1 != entry.epoch) {
                self.runs.push_back((entry.slot, entry.epoch));
            }
            if let Payload::Membership(membership) = &entry.payload {
                self.memberships
                    .push_back((entry.slot, Arc::clone(membership)));
            }
        }
        self.chosen = slot;
        bytes
    }

    /// A snapshot takes the place of everything up to its position. What was accepted behind it
    /// stays: it was promised to others.
    pub(super) fn begin_behind(&mut self, start: Position, membership: Arc<Membership>) {
        self.drop_cells(start.slot);
        self.first = self.first.max(start.slot.next());
        self.start = start;
        self.chosen = start.slot;
        self.runs.clear();
        self.base = (start.slot, membership);
        self.memberships.clear();
        self.starts = Some(start);
    }

    fn drop_cells(&mut self, upto: Slot) {
        while self.first <= upto {
            let Some(cell) = self.cells.pop_front() else {
                return;
            };
            self.bytes -= cell.map_or(0, |cell| cell.entry.bytes());
            self.first = self.first.next();
        }
    }

    /// The journal may forget everything up to `slot`, which is chosen.
    pub(super) fn forget_until(&mut self, slot: Slot) {
        if slot <= self.start.slot {
            return;
        }
        assert!(slot <= self.chosen, "what is not chosen is not forgotten");
        let epoch = self.epoch_at(slot).expect("chosen epochs are known");
        self.start = Position { slot, epoch };
        while self.runs.get(1).is_some_and(|run| run.0 <= slot.next()) {
            self.runs.pop_front();
        }
        while self.memberships.front().is_some_and(|held| held.0 <= slot) {
            self.base = self.memberships.pop_front().expect("the front is there");
        }
        self.drop_cells(slot);
    }

    /// Keeps the memory within `budget` by dropping the oldest entries, but none behind `needed`.
    pub(super) fn shrink(&mut self, budget: u64, needed: Slot) {
        let upto = needed.min(self.chosen);
        while self.bytes > budget && self.first <= upto && !self.cells.is_empty() {
            let first = self.first;
            self.drop_cells(first);
        }
    }

    /// Where the journal has to be told that the log starts, once.
    pub(super) fn take_start(&mut self) -> Option<Position> {
        self.starts.take()
    }

    pub(super) fn needs_start(&self) -> bool {
        self.starts.is_some()
    }

    /// The membership in force, and the slot from which it holds.
    pub(super) fn membership(&self) -> &(Slot, Arc<Membership>) {
        self.memberships.back().unwrap_or(&self.base)
    }
}

impl Restored {
    /// The last slot before the first gap.
    pub(super) fn contiguous(&self) -> Slot {
        let gap = self.gaps.first();
        gap.map_or(self.last, |gap| gap.0.previous())
    }

    /// The ballot under which the entry at `slot`, of this epoch, was accepted.
    pub(super) fn ballot_at(&self, slot: Slot, epoch: Epoch) -> Epoch {
        let after = self.ballots.partition_point(|run| run.0 <= slot);
        let ballot = after.checked_sub(1).map(|at| self.ballots[at].1);
        ballot.map_or(epoch, |ballot| ballot.max(epoch))
    }
}
