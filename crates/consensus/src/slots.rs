//! A set of slots: everything up to one slot, and a few runs behind it.
//!
//! ```text
//!   1 ........ upto   gap   ├─ island ─┤  gap  ├─ island ─┤
//! ```
//!
//! What a replica has accepted, what of it is durable, and what a peer acknowledged are such sets:
//! nearly always without islands, because nothing was lost, and then a set is one number.

use base::Slot;
use bytes::{BufMut, Bytes};

use crate::decode::{self, DecodeError};

/// See the head of this file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    upto: Slot,
    /// None while there are none: a set is copied with every answer, and has none nearly always.
    islands: Option<Box<Islands>>,
}

/// First and last slot of each run: ascending, and neither touching each other nor what is before
/// the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Islands(Vec<(Slot, Slot)>);

/// How many islands are sent to a peer at most; the rest is told once the first are filled.
const ISLANDS_SENT: usize = 64;

impl Slots {
    /// Everything up to `upto`.
    #[must_use]
    pub fn up_to(upto: Slot) -> Slots {
        Slots {
            upto,
            islands: None,
        }
    }

    #[inline]
    fn islands(&self) -> &[(Slot, Slot)] {
        match &self.islands {
            Some(islands) => &islands.0,
            None => &[],
        }
    }

    fn change_islands(&mut self, change: impl FnOnce(&mut Vec<(Slot, Slot)>)) {
        let mut islands = self.islands.take().unwrap_or_default();
        change(&mut islands.0);
        self.islands = (!islands.0.is_empty()).then_some(islands);
    }

    /// Everything up to here is in the set, and the next slot is not.
    #[must_use]
    pub fn upto(&self) -> Slot {
        self.upto
    }

    /// The highest slot of the set.
    #[must_use]
    pub fn highest(&self) -> Slot {
        self.islands().last().map_or(self.upto, |island| island.1)
    }

    /// Whether the slot is in the set.
    #[must_use]
    #[inline]
    pub fn contains(&self, slot: Slot) -> bool {
        slot <= self.upto || self.run_end(slot) >= slot
    }

    /// The last slot of the run that `slot` is in; the slot before it if it is in none.
    #[must_use]
    #[inline]
    pub fn run_end(&self, slot: Slot) -> Slot {
        if slot <= self.upto {
            return self.upto;
        }
        let islands = self.islands();
        let after = islands.partition_point(|island| island.0 <= slot);
        match after.checked_sub(1).map(|at| islands[at]) {
            Some((_, last)) if last >= slot => last,
            _ => slot.previous(),
        }
    }

    /// The last slot before the next one of the set; the highest that there is if none follows.
    /// `slot` is not in the set.
    #[must_use]
    pub fn gap_end(&self, slot: Slot) -> Slot {
        let after = self.islands().partition_point(|island| island.0 <= slot);
        let next = self.islands().get(after);
        next.map_or(Slot(u64::MAX), |island| island.0.previous())
    }

    /// The gaps below the highest slot, as first and last slot.
    pub fn gaps(&self) -> impl Iterator<Item = (Slot, Slot)> + '_ {
        let islands = self.islands().iter();
        let before = std::iter::once(self.upto).chain(islands.clone().map(|island| island.1));
        before
            .zip(islands)
            .map(|(before, island)| (before.next(), island.0.previous()))
    }

    /// Adds the slots `first..=last`.
    #[inline]
    pub fn insert(&mut self, first: Slot, last: Slot) {
        if first > last || last <= self.upto {
            return;
        }
        if first <= self.upto.next() {
            return self.insert_up_to(last);
        }
        let islands = self.islands();
        let from = islands.partition_point(|island| island.1.next() < first);
        let end = islands.partition_point(|island| island.0 <= last.next());
        let merged = islands[from..end]
            .iter()
            .fold((first, last), |(first, last), island| {
                (first.min(island.0), last.max(island.1))
            });
        self.change_islands(|islands| {
            islands.splice(from..end, [merged]);
        });
    }

    /// Adds everything up to `upto`.
    #[inline]
    pub fn insert_up_to(&mut self, upto: Slot) {
        self.upto = self.upto.max(upto);
        if self.islands.is_some() {
            self.join_islands();
        }
    }

    /// Takes the islands that are reached from the beginning into it.
    fn join_islands(&mut self) {
        let mut reached = 0;
        let mut upto = self.upto;
        for (first, last) in self.islands() {
            if *first > upto.next() {
                break;
            }
            upto = upto.max(*last);
            reached += 1;
        }
        self.upto = upto;
        self.change_islands(|islands| {
            islands.drain(..reached);
        });
    }

    /// Takes out `from` and everything behind it.
    pub fn cut(&mut self, from: Slot) {
        assert!(from > Slot(0), "slots are counted from 1");
        self.upto = self.upto.min(from.previous());
        if self.islands.is_none() {
            return;
        }
        self.change_islands(|islands| {
            islands.retain_mut(|island| {
                island.1 = island.1.min(from.previous());
                island.0 <= island.1
            });
        });
    }

    /// What is in both sets.
    #[must_use]
    #[inline]
    pub fn intersection(&self, other: &Slots) -> Slots {
        let both = Slots::up_to(self.upto.min(other.upto));
        if self.islands.is_none() && other.islands.is_none() {
            return both;
        }
        self.intersection_behind(other, both)
    }

    /// What is in both sets, with what is in both behind where one of them has its first gap.
    fn intersection_behind(&self, other: &Slots, mut both: Slots) -> Slots {
        let mut slot = both.upto.next();
        let end = self.highest().min(other.highest());
        while slot <= end {
            let last = self.run_end(slot).min(other.run_end(slot));
            both.insert(slot, last);
            slot = last.max(slot).next();
        }
        both
    }

    /// Adds another set.
    #[inline]
    pub fn merge(&mut self, other: &Slots) {
        self.insert_up_to(other.upto);
        for (first, last) in other.islands() {
            self.insert(*first, *last);
        }
    }

    /// Appends the set to a message; a very torn one loses its last islands.
    pub(crate) fn encode(&self, buffer: &mut impl BufMut) {
        let sent = &self.islands()[..self.islands().len().min(ISLANDS_SENT)];
        buffer.put_u64_le(self.upto.0);
        buffer.put_u8(u8::try_from(sent.len()).expect("few islands are sent"));
        for (first, last) in sent {
            buffer.put_u64_le(first.0);
            buffer.put_u64_le(last.0);
        }
    }

    /// The set as it is sent: see [`Slots::encode`].
    #[inline]
    pub(crate) fn sendable(&self) -> Slots {
        let mut sent = self.clone();
        if let Some(islands) = &mut sent.islands {
            islands.0.truncate(ISLANDS_SENT);
        }
        sent
    }

    /// Reads what [`Slots::encode`] wrote.
    pub(crate) fn decode(bytes: &mut Bytes) -> Result<Slots, DecodeError> {
        let mut slots = Slots::up_to(decode::slot(bytes)?);
        let count = usize::from(decode::byte(bytes)?);
        if count > ISLANDS_SENT {
            return Err(DecodeError::Invalid("number of islands"));
        }
        for _ in 0..count {
            let (first, last) = (decode::slot(bytes)?, decode::slot(bytes)?);
            if first <= slots.highest().next() || last < first {
                return Err(DecodeError::Invalid("islands"));
            }
            slots.change_islands(|islands| islands.push((first, last)));
        }
        Ok(slots)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use base::Random;

    use super::*;

    #[test]
    fn a_set_of_slots_is_a_set() {
        for seed in 0..300 {
            let mut random = Random::from_seed(seed);
            let upto = random.below(5);
            let mut slots = Slots::up_to(Slot(upto));
            let mut model: BTreeSet<u64> = (1..=upto).collect();
            for _ in 0..12 {
                let first = 1 + random.below(40);
                let last = first + random.below(5);
                slots.insert(Slot(first), Slot(last));
                model.extend(first..=last);
            }
            for slot in 1..60 {
                assert_eq!(slots.contains(Slot(slot)), model.contains(&slot), "{slot}");
                let end = (slot..).find(|slot| !model.contains(slot)).unwrap_or(0) - 1;
                assert_eq!(slots.run_end(Slot(slot)), Slot(end), "run of {slot}");
            }
            let gaps: Vec<u64> = slots.gaps().flat_map(|gap| gap.0.0..=gap.1.0).collect();
            let highest = slots.highest().0;
            let missing: Vec<u64> = (1..=highest).filter(|slot| !model.contains(slot)).collect();
            assert_eq!(gaps, missing);
            let mut buffer = Vec::new();
            slots.encode(&mut buffer);
            assert_eq!(Slots::decode(&mut buffer.into()), Ok(slots));
        }
    }
}
