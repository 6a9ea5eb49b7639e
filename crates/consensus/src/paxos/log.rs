//! The replica's view of its log.
//!
//! ```text
//!       start            memory begins          chosen                 last
//!         │                   │                   │                     │
//!  ───────┼───────────────────┼───────────────────┼──■──■─────■──■──■───┤
//!  gone   │ in the journal only, epochs known     │ accepted, with gaps │
//! ```
//!
//! Up to `chosen` there are no gaps, and nothing changes any more; of that part the newest entries
//! are kept in memory, within a budget, and the rest is fetched back from the journal. Behind it
//! stands what this replica accepted, each under its ballot: all of it in memory, because a
//! candidate may ask for it at any time. The membership in force is that of the chosen part.
//!
//! In memory the log is a row of *batches*: entries that follow each other and were accepted under
//! one ballot, in memory that is shared with whoever is handed them (`entries.rs`). A leader's
//! proposals gather in the *open* part and become a batch when the pass ends; an acceptor keeps the
//! batch that a message brought. Only where a batch is accepted over parts of others are those cut.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use base::{Epoch, NodeId, Slot};

use crate::entries::{self, Entries};
use crate::entry::{Entry, Payload};
use crate::membership::Membership;
use crate::memberships::{Held, Memberships};
use crate::message::Position;
use crate::raft::Restored;

/// An entry, and the ballot under which it was accepted last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell<'a> {
    pub(super) entry: &'a Entry,
    pub(super) ballot: Epoch,
}

/// Entries that follow each other, and the ballot under which all of them were accepted last.
#[derive(Clone, Debug)]
struct Batch {
    first: Slot,
    last: Slot,
    ballot: Epoch,
    entries: Entries,
}

impl Batch {
    fn new(ballot: Epoch, entries: Entries) -> Batch {
        let first = entries.first().expect("no batch is empty").slot;
        let last = entries.last().expect("no batch is empty").slot;
        assert!(
            last.0 - first.0 + 1 == entries.len() as u64,
            "the entries of a batch follow each other"
        );
        Batch {
            first,
            last,
            ballot,
            entries,
        }
    }

    /// Where in it the slots between two, both included, stand; nowhere if none does.
    fn range(&self, from: Slot, upto: Slot) -> Range<usize> {
        let (from, upto) = (from.max(self.first), upto.min(self.last));
        match from > upto {
            true => 0..0,
            false => (from.0 - self.first.0) as usize..(upto.0 + 1 - self.first.0) as usize,
        }
    }

    /// What of it stands between two slots, both included.
    fn between(&self, from: Slot, upto: Slot) -> Entries {
        self.entries.slice(self.range(from, upto))
    }

    /// The bytes of what of it stands between two slots, both included.
    fn bytes_between(&self, from: Slot, upto: Slot) -> u64 {
        if from <= self.first && upto >= self.last {
            return self.entries.bytes();
        }
        let range = self.range(from, upto);
        self.entries[range].iter().map(Entry::bytes).sum()
    }

    /// The part between two slots, if there is one. What is cut off is not kept in memory by a part
    /// that is less than half of it: only the part counts.
    fn part(&self, from: Slot, upto: Slot) -> Option<Batch> {
        let entries = self.between(from, upto).compact();
        (!entries.is_empty()).then(|| Batch::new(self.ballot, entries))
    }
}

/// What this pass proposes: behind all batches, and not shared yet.
#[derive(Clone, Debug, Default)]
struct Open {
    ballot: Epoch,
    entries: Vec<Entry>,
    bytes: u64,
}

/// What a log knows of everything that is chosen in it.
struct Known<'a> {
    runs: &'a mut VecDeque<(Slot, Epoch)>,
    memberships: &'a mut Memberships,
}

impl Known<'_> {
    /// These follow what was chosen before.
    fn learn(&mut self, entries: &[Entry]) {
        let mut newest = self.runs.back().map(|run| run.1);
        for entry in entries {
            if newest != Some(entry.epoch) {
                newest = Some(entry.epoch);
                self.runs.push_back((entry.slot, entry.epoch));
            }
            if let Payload::Membership(membership) = &entry.payload {
                self.memberships.push(entry.slot, Arc::clone(membership));
            }
        }
    }
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub(super) struct Log {
    start: Position,
    chosen: Slot,
    /// From this slot to `chosen` everything is in memory.
    first: Slot,
    /// In the order of slots; no two hold the same.
    batches: VecDeque<Batch>,
    open: Open,
    bytes: u64,
    /// Of the chosen part: from this slot on, this epoch.
    runs: VecDeque<(Slot, Epoch)>,
    /// That of the snapshot, and those in the chosen part.
    memberships: Memberships,
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
        let base = Arc::new(restored.membership.clone());
        let mut memberships = Memberships::new((base_slot, Arc::clone(&base)));
        for (slot, membership) in &restored.memberships {
            if *slot > base_slot && *slot <= chosen {
                memberships.push(*slot, Arc::new(membership.clone()));
            }
        }
        let mut log = Log {
            start: Position { slot, epoch },
            chosen,
            first: chosen.next(),
            batches: VecDeque::new(),
            open: Open::default(),
            bytes: 0,
            runs: restored
                .epochs
                .iter()
                .copied()
                .take_while(|run| run.0 <= chosen)
                .collect(),
            memberships,
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
                log.begin_behind(position, base);
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
        match self.open.entries.last() {
            Some(entry) => entry.slot,
            None => self.last_batched(),
        }
    }

    fn last_batched(&self) -> Slot {
        let newest = self.batches.back();
        newest.map_or(self.first.previous(), |batch| batch.last)
    }

    /// The first slot in memory; behind `chosen` everything is.
    pub(super) fn cached_from(&self) -> Slot {
        self.first
    }

    /// The batch that holds `slot`.
    fn batch_of(&self, slot: Slot) -> Option<usize> {
        let newest = self.batches.len().checked_sub(1)?;
        let at = match self.batches[newest].first <= slot {
            true => newest,
            false => self.begun_by(slot).checked_sub(1)?,
        };
        (slot <= self.batches[at].last).then_some(at)
    }

    /// How many batches begin at `slot` or before.
    fn begun_by(&self, slot: Slot) -> usize {
        self.batches.partition_point(|batch| batch.first <= slot)
    }

    pub(super) fn get(&self, slot: Slot) -> Option<Cell<'_>> {
        if let Some(first) = self.open.entries.first().map(|entry| entry.slot)
            && slot >= first
        {
            let entry = self.open.entries.get((slot.0 - first.0) as usize)?;
            let ballot = self.open.ballot;
            return Some(Cell { entry, ballot });
        }
        let batch = &self.batches[self.batch_of(slot)?];
        let entry = &batch.entries[(slot.0 - batch.first.0) as usize];
        let ballot = batch.ballot;
        Some(Cell { entry, ballot })
    }

    /// What is in memory from `from` on. The open part must have been sealed.
    pub(super) fn cells(&self, from: Slot) -> impl Iterator<Item = Cell<'_>> {
        let batches = self.batches_from(from);
        let cells = batches.flat_map(|batch| {
            let ballot = batch.ballot;
            let entries = batch.entries.iter();
            entries.map(move |entry| Cell { entry, ballot })
        });
        cells.skip_while(move |cell| cell.entry.slot < from)
    }

    /// What is in memory between two slots, by ballot. The open part must have been sealed.
    pub(super) fn between(
        &self,
        from: Slot,
        upto: Slot,
    ) -> impl Iterator<Item = (Epoch, Entries)> + '_ {
        let batches = self.batches_from(from);
        let batches = batches.take_while(move |batch| batch.first <= upto);
        batches.map(move |batch| (batch.ballot, batch.between(from, upto)))
    }

    /// The newest batch with its ballot, if it holds these slots and no others.
    #[inline(always)]
    pub(super) fn newest_batch(&self, from: Slot, upto: Slot) -> Option<(Epoch, &Entries)> {
        let newest = self.batches.back();
        let newest = newest.filter(|batch| batch.first == from && batch.last == upto)?;
        Some((newest.ballot, &newest.entries))
    }

    /// All between these slots, if that is the newest batch, as it is nearly always. It is cloned
    /// where it stays (see `engine::say`). The open part must have been sealed.
    #[inline(always)]
    pub(super) fn newest_within(&self, from: Slot, upto: Slot, budget: u64) -> Option<&Entries> {
        let newest = self.batches.back()?;
        let is_all = newest.first == from && newest.last <= upto;
        (is_all && newest.entries.bytes() <= budget).then_some(&newest.entries)
    }

    /// The batches that end at `from` or behind.
    fn batches_from(&self, from: Slot) -> impl Iterator<Item = &Batch> {
        assert!(self.open.entries.is_empty(), "what is handed out is sealed");
        let at = match self.batches.back() {
            Some(newest) if newest.first > from => {
                self.batches.partition_point(|batch| batch.last < from)
            }
            // Nearly always it is the newest.
            Some(newest) => self.batches.len() - usize::from(newest.last >= from),
            None => 0,
        };
        self.batches.range(at..)
    }

    /// Entries from `from`, which must be in memory, to at most `upto` or the first gap, within
    /// `budget` bytes, but at least one if there is one. The open part must have been sealed.
    pub(super) fn take(&self, from: Slot, upto: Slot, budget: u64) -> Entries {
        assert!(from >= self.first, "what is not in memory is fetched");
        if let Some(newest) = self.newest_within(from, upto, budget) {
            return newest.clone();
        }
        let mut expected = from;
        let connected = self.batches_from(from).take_while(move |batch| {
            let follows = batch.first <= expected && batch.first <= upto;
            expected = batch.last.next();
            follows
        });
        entries::joined(connected.map(|batch| batch.between(from, upto)), budget)
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

    /// Puts what a leader proposes behind everything that it has proposed. It is handed out when
    /// the log is sealed; so many bytes are handed out in one piece.
    pub(super) fn propose(&mut self, entry: Entry, ballot: Epoch, batch_bytes: u64) {
        if entry.slot <= self.last_batched() {
            // It takes the place of what was accepted under an earlier ballot; what was found
            // before this ballot came all at once.
            return self.put(ballot, entry.into());
        }
        let bytes = entry.bytes();
        if self.open.bytes + bytes > batch_bytes || self.open.ballot != ballot {
            self.seal();
        }
        self.open.ballot = ballot;
        self.open.bytes += bytes;
        self.bytes += bytes;
        self.open.entries.push(entry);
    }

    /// Puts entries that follow each other, and that a leader proposes once more, in place of what
    /// was accepted under earlier ballots: in pieces of so many bytes, each at once, since every
    /// piece cuts what it stands over.
    pub(super) fn propose_again(&mut self, entries: Vec<Entry>, ballot: Epoch, batch_bytes: u64) {
        let mut piece = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            if bytes + entry.bytes() > batch_bytes && !piece.is_empty() {
                self.put(ballot, std::mem::take(&mut piece).into());
                bytes = 0;
            }
            bytes += entry.bytes();
            piece.push(entry);
        }
        if !piece.is_empty() {
            self.put(ballot, piece.into());
        }
    }

    /// What was proposed since is handed out from now on.
    pub(super) fn seal(&mut self) {
        if !self.open.entries.is_empty() {
            let bytes = std::mem::take(&mut self.open.bytes);
            let entries = Entries::take_all(&mut self.open.entries, bytes);
            let batch = Batch::new(self.open.ballot, entries);
            self.batches.push_back(batch);
        }
    }

    /// Puts entries that follow each other behind what is chosen, in place of what may stand
    /// there.
    pub(super) fn put(&mut self, ballot: Epoch, entries: Entries) {
        let batch = Batch::new(ballot, entries);
        assert!(batch.first > self.chosen, "what is chosen never changes");
        self.seal();
        let is_behind = self.last_batched() < batch.first;
        if !is_behind {
            self.take_out(batch.first, batch.last);
        }
        self.bytes += batch.entries.bytes();
        if is_behind {
            return self.batches.push_back(batch);
        }
        let at = self.begun_by(batch.first);
        self.batches.insert(at, batch);
    }

    /// Makes room between two slots.
    fn take_out(&mut self, first: Slot, last: Slot) {
        let from = self.batches.partition_point(|batch| batch.last < first);
        let end = self.begun_by(last);
        if from >= end {
            return;
        }
        let before = self.batches[from].part(Slot(0), first.previous());
        let behind = self.batches[end - 1].part(last.next(), Slot(u64::MAX));
        for batch in self.batches.drain(from..end) {
            self.bytes -= batch.entries.bytes();
        }
        for batch in behind.into_iter().chain(before) {
            self.bytes += batch.entries.bytes();
            self.batches.insert(from, batch);
        }
    }

    /// Everything up to `slot` is chosen. Returns the bytes of what is newly so.
    pub(super) fn choose(&mut self, slot: Slot) -> u64 {
        let mut next = self.chosen.next();
        self.chosen = slot;
        let mut known = Known {
            runs: &mut self.runs,
            memberships: &mut self.memberships,
        };
        // Nearly always it is all of the newest batch.
        let newest = self.batches.back();
        if let Some(newest) = newest.filter(|newest| newest.first == next && newest.last == slot) {
            known.learn(&newest.entries);
            return newest.entries.bytes();
        }
        let mut at = self.batches.partition_point(|batch| batch.last < next);
        let mut bytes = 0;
        while next <= slot {
            let batch = self.batches.get(at);
            let batch = batch.filter(|batch| batch.first <= next && next <= batch.last);
            let batch = batch.expect("what is chosen is in the log");
            bytes += batch.bytes_between(next, slot);
            known.learn(&batch.entries[batch.range(next, slot)]);
            next = batch.last.min(slot).next();
            at += 1;
        }
        bytes
    }

    /// A snapshot takes the place of everything up to its position. What was accepted behind it
    /// stays: it was promised to others.
    pub(super) fn begin_behind(&mut self, start: Position, membership: Arc<Membership>) {
        self.drop_until(start.slot);
        self.start = start;
        self.chosen = start.slot;
        self.runs.clear();
        self.memberships = Memberships::new((start.slot, membership));
        self.starts = Some(start);
    }

    /// Forgets everything that was accepted behind what is chosen: a planted bug.
    pub(super) fn drop_accepted(&mut self) {
        let chosen = self.chosen;
        for batch in std::mem::take(&mut self.batches) {
            self.bytes -= batch.entries.bytes();
            if let Some(kept) = batch.part(Slot(0), chosen) {
                self.bytes += kept.entries.bytes();
                self.batches.push_back(kept);
            }
        }
    }

    /// Lets go of everything up to `slot`.
    fn drop_until(&mut self, slot: Slot) {
        while self
            .batches
            .front()
            .is_some_and(|batch| batch.first <= slot)
        {
            let batch = self.drop_batch();
            if let Some(rest) = batch.part(slot.next(), Slot(u64::MAX)) {
                self.bytes += rest.entries.bytes();
                self.batches.push_front(rest);
            }
        }
        self.first = self.first.max(slot.next());
    }

    fn drop_batch(&mut self) -> Batch {
        let batch = self.batches.pop_front().expect("there is a first batch");
        self.bytes -= batch.entries.bytes();
        batch
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
        self.memberships.forget_until(slot);
        self.drop_until(slot);
    }

    /// Whether it holds more than this in memory.
    #[inline(always)]
    pub(super) fn exceeds(&self, budget: u64) -> bool {
        self.bytes > budget
    }

    /// Keeps the memory within `budget` by dropping the oldest batches, but none that reaches
    /// behind `needed`.
    pub(super) fn shrink(&mut self, budget: u64, needed: Slot) {
        let upto = needed.min(self.chosen);
        while self.bytes > budget && self.batches.front().is_some_and(|old| old.last <= upto) {
            self.first = self.drop_batch().last.next();
        }
    }

    /// Where the journal has to be told that the log starts, once.
    pub(super) fn take_start(&mut self) -> Option<Position> {
        self.starts.take()
    }

    pub(super) fn needs_start(&self) -> bool {
        self.starts.is_some()
    }

    /// The membership at the start of the log, and the slot from which it holds.
    pub(super) fn base(&self) -> &Held {
        self.memberships.base()
    }

    /// The membership in force, and the slot from which it holds.
    #[inline(always)]
    pub(super) fn membership(&self) -> &Held {
        self.memberships.in_force()
    }
}

impl Restored {
    /// Everything up to here is known to be chosen, as far as this replica needs to know. A witness
    /// has to tell of all headers that it has, chosen or not, and has none in memory but those that
    /// it reads as accepted ones.
    pub(super) fn known(&self, id: NodeId) -> Slot {
        let names = |each: &Membership| each.is_witness(id);
        let mut memberships = self.memberships.iter().map(|(_, each)| each);
        match names(&self.membership) || memberships.any(names) {
            true => self.log_start.0,
            false => self.hard_state.chosen.min(self.contiguous()),
        }
    }

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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(slot: u64, epoch: u64, length: usize) -> Entry {
        Entry {
            slot: Slot(slot),
            epoch: Epoch(epoch),
            payload: Payload::commands(Bytes::from(vec![7; length])),
        }
    }

    fn log() -> Log {
        Log {
            start: Position::default(),
            chosen: Slot(0),
            first: Slot(1),
            batches: VecDeque::new(),
            open: Open::default(),
            bytes: 0,
            runs: VecDeque::new(),
            memberships: Memberships::new((Slot(0), Arc::new(Membership::default()))),
            starts: None,
        }
    }

    /// What the log keeps in memory, by entries.
    fn held(log: &Log) -> usize {
        log.batches.iter().map(|batch| batch.entries.held()).sum()
    }

    #[test]
    fn what_is_proposed_again_makes_few_batches_and_keeps_nothing_twice() {
        let mut log = log();
        let accepted: Vec<Entry> = (1..=1000).map(|slot| entry(slot, 1, 100)).collect();
        log.put(Epoch(1), accepted.clone().into());
        let bytes = log.bytes;
        log.propose_again(accepted[..700].to_vec(), Epoch(2), bytes / 5);
        assert!(log.batches.len() <= 6, "{}", log.batches.len());
        assert_eq!(log.bytes, bytes);
        assert!(held(&log) <= 2 * 1000, "a half may keep a whole");
        for slot in 1..=1000 {
            let cell = log.get(Slot(slot)).expect("nothing is lost");
            assert_eq!(*cell.entry, accepted[slot as usize - 1]);
            assert_eq!(cell.ballot, Epoch(if slot <= 700 { 2 } else { 1 }));
        }
        // Across an end of what there is, and then what is new.
        let again: Vec<Entry> = (701..=1010).map(|slot| entry(slot, 2, 100)).collect();
        log.propose_again(again, Epoch(2), bytes);
        log.propose(entry(1011, 2, 100), Epoch(2), bytes);
        log.seal();
        assert_eq!(log.last(), Slot(1011));
        assert_eq!(held(&log), 1011);
        assert_eq!(log.cells(Slot(1)).count(), 1011);
    }

    #[test]
    fn a_small_part_of_a_batch_keeps_no_large_whole() {
        let mut log = log();
        let accepted: Vec<Entry> = (1..=1000).map(|slot| entry(slot, 1, 100)).collect();
        log.put(Epoch(1), accepted.into());
        let over: Vec<Entry> = (2..=999).map(|slot| entry(slot, 2, 0)).collect();
        log.put(Epoch(2), over.into());
        assert_eq!(log.cells(Slot(1)).count(), 1000);
        assert_eq!(held(&log), 1000, "one each of the old, and the new");
        let counted: u64 = log.cells(Slot(1)).map(|cell| cell.entry.bytes()).sum();
        assert_eq!(log.bytes, counted);
    }
}
