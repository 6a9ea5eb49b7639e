//! From records, in the order in which they were written, to what each group remembers.
//!
//! The oldest segments are gone, so a group's log may begin anywhere: where it starts is told by
//! a record that stands later in the stream (written before the segments were given up). Until
//! that is read, the first entry that is met is taken for the first, and a start with a gap behind
//! it is not the last word: what stood there is gone, because it was replaced or released later.
//! In the end the first entry must follow the start.

use std::collections::BTreeMap;

use base::{Epoch, GroupId, Slot};
use bytes::Bytes;

use super::RecoveredGroup;
use crate::RecordKind;
use crate::format::read_u64;
use crate::format::record::{BALLOT_BYTES, StoredKind, StoredRecord};
use crate::index::{GroupLog, HardState, Home, LiveCounts};

/// A gap longer than this is damage: an engine's window is far smaller.
const GAP_SLOTS_MAX: u64 = 1 << 20;

/// What one group remembers, as far as it has been read.
#[derive(Debug, Default)]
struct Group {
    log: GroupLog,
    /// Everything between the log's start and its end has been read, at this point of the stream.
    is_exact: bool,
    memberships: BTreeMap<Slot, Bytes>,
    /// Entries stand at their slots alone; unknown until one has been read.
    is_scattered: Option<bool>,
    ballots: BTreeMap<Slot, Epoch>,
}

/// What all groups remember, as far as it has been read.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    groups: BTreeMap<GroupId, Group>,
    closed: BTreeMap<GroupId, Bytes>,
    live: LiveCounts,
}

/// What replaying ends with.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) logs: BTreeMap<GroupId, GroupLog>,
    pub(crate) live: LiveCounts,
    pub(crate) groups: BTreeMap<GroupId, RecoveredGroup>,
    /// Groups that were closed, as far as the stream still says so, and what it says of them.
    pub(crate) closed: BTreeMap<GroupId, Bytes>,
}

impl Replay {
    /// Takes the next record, which stands at `offset` of a segment.
    ///
    /// # Errors
    /// If it contradicts the records before it, in words.
    pub(crate) fn apply(
        &mut self,
        record: StoredRecord,
        segment: u64,
        offset: u64,
    ) -> Result<(), String> {
        let group = self.groups.entry(record.group).or_default();
        let home = Home::Segment(segment);
        let start = (record.slot, record.epoch);
        match record.kind {
            StoredKind::Given(RecordKind::HardState) => {
                // A copy of its own, so that it does not keep its whole batch in memory.
                group.log.hard_state = Some(HardState {
                    slot: record.slot,
                    epoch: record.epoch,
                    body: Bytes::copy_from_slice(&record.body),
                    home,
                });
            }
            StoredKind::Given(RecordKind::GroupOpened) => {
                let body = Bytes::copy_from_slice(&record.body);
                group.log.description = Some((body, home));
            }
            StoredKind::Given(RecordKind::LogForgotten) => group.forget(&mut self.live),
            StoredKind::Given(RecordKind::GroupClosed) => {
                group.log.clear(Slot(1), &mut self.live);
                self.groups.remove(&record.group);
                let body = Bytes::copy_from_slice(&record.body);
                self.closed.insert(record.group, body);
            }
            StoredKind::Given(kind) if kind.is_in_order() => {
                return group.entry(record, (home, offset), &mut self.live);
            }
            StoredKind::Given(RecordKind::LogStarts) => {
                check_slot(record.group, record.slot)?;
                group.scatter(record.group, true)?;
                group.start_scattered(start, &mut self.live);
                group.log.anchor = Some((start, home));
            }
            StoredKind::Given(kind) if kind.is_accepted() => {
                return group.accepted(record, kind, (home, offset), &mut self.live);
            }
            StoredKind::Given(_) => {
                check_slot(record.group, record.slot)?;
                group.log.reset(start, &mut self.live);
                group.scatter(record.group, false)?;
                group.log.anchor = Some((start, home));
                group.is_exact = true;
                group.memberships.clear();
            }
            StoredKind::Start => {
                check_slot(record.group, record.slot)?;
                group.start_behind(record.group, start, &mut self.live)?;
                group.log.anchor = Some((start, home));
            }
        }
        Ok(())
    }

    /// Ends the replay.
    ///
    /// # Errors
    /// If the beginning of a group's log is missing, in words.
    pub(crate) fn finish(self) -> Result<Replayed, String> {
        let (mut logs, mut groups) = (BTreeMap::new(), BTreeMap::new());
        for (id, group) in self.groups {
            let Group {
                mut log,
                memberships,
                ballots,
                ..
            } = group;
            let (start, first) = (log.start().0, log.first());
            if group.is_scattered == Some(true) {
                // What is missing is a gap; whoever knows that it was not, refuses.
                check_gap(id, start, first)?;
                log.extend_front(start.next());
            } else if first != start.next() {
                return Err(format!(
                    "the log of group {id} starts behind slot {start}, but its first entry has \
                     slot {first}"
                ));
            }
            let recovered = RecoveredGroup {
                hard_state: log.hard_state.as_ref().map(|held| held.body.clone()),
                description: log.description.as_ref().map(|(body, _)| body.clone()),
                start: log.start(),
                last: log.last(),
                epochs: log.epochs().collect(),
                memberships: memberships.into_iter().collect(),
                ballots: ballots.into_iter().collect(),
                gaps: log.gaps(),
            };
            groups.insert(id, recovered);
            logs.insert(id, log);
        }
        Ok(Replayed {
            logs,
            live: self.live,
            groups,
            closed: self.closed,
        })
    }
}

/// Slots are counted from 1 and never come near the end of their numbers.
fn check_slot(group: GroupId, slot: Slot) -> Result<(), String> {
    if slot.0 == 0 || slot.0 >= 1 << 62 {
        return Err(format!(
            "group {group} has a record with the impossible slot {slot}"
        ));
    }
    Ok(())
}

/// A log has no long gaps.
fn check_gap(group: GroupId, before: Slot, behind: Slot) -> Result<(), String> {
    if behind.0.saturating_sub(before.0) <= GAP_SLOTS_MAX {
        return Ok(());
    }
    Err(format!(
        "what stands between slot {before} and slot {behind} of group {group} is missing"
    ))
}

impl Group {
    fn entry(
        &mut self,
        record: StoredRecord,
        place: (Home, u64),
        live: &mut LiveCounts,
    ) -> Result<(), String> {
        let StoredRecord {
            group,
            kind,
            slot,
            epoch,
            ..
        } = record;
        check_slot(group, slot)?;
        self.scatter(group, false)?;
        let (first, last) = (self.log.first(), self.log.last());
        if !self.is_exact && (slot < first || self.log.is_empty()) {
            self.log.clear(slot, live);
        } else if slot < first || slot > last.next() {
            return Err(format!(
                "group {group} has an entry at slot {slot}, but its log begins with slot {first} \
                 and ends with slot {last}"
            ));
        }
        self.log
            .put(slot, epoch, place, record.encoded_bytes(), live);
        self.memberships.split_off(&slot);
        if kind == StoredKind::Given(RecordKind::MembershipEntry) {
            let body = Bytes::copy_from_slice(&record.body);
            self.memberships.insert(slot, body);
        }
        Ok(())
    }

    /// The log is empty and starts with slot 1; promises and description stay.
    fn forget(&mut self, live: &mut LiveCounts) {
        self.log.reset((Slot(0), Epoch(0)), live);
        self.log.anchor = None;
        self.memberships.clear();
        self.ballots.clear();
        (self.is_exact, self.is_scattered) = (true, None);
    }

    /// A log is written by one kind of engine, in one of the two ways.
    fn scatter(&mut self, group: GroupId, is_scattered: bool) -> Result<(), String> {
        if *self.is_scattered.get_or_insert(is_scattered) == is_scattered {
            return Ok(());
        }
        Err(format!(
            "group {group} has entries that replace what stands behind them, and entries that \
             stand alone: two engines wrote its log"
        ))
    }

    /// An entry that stands at its slot alone.
    fn accepted(
        &mut self,
        record: StoredRecord,
        kind: RecordKind,
        place: (Home, u64),
        live: &mut LiveCounts,
    ) -> Result<(), String> {
        let bytes = record.encoded_bytes();
        let StoredRecord {
            group, slot, epoch, ..
        } = record;
        check_slot(group, slot)?;
        self.scatter(group, true)?;
        let mut body = record.body;
        self.ballots.remove(&slot);
        if kind.has_ballot() {
            if body.len() < BALLOT_BYTES {
                return Err(format!(
                    "group {group} has an entry at slot {slot} without ballot"
                ));
            }
            let ballot = read_u64(&body.split_to(BALLOT_BYTES), 0).unwrap_or(0);
            self.ballots.insert(slot, Epoch(ballot));
        }
        if slot <= self.log.start().0 {
            return Err(format!(
                "group {group} has an entry at slot {slot}, but its log starts behind slot {}",
                self.log.start().0
            ));
        }
        let is_far = check_gap(group, self.log.last(), slot).is_err();
        if self.log.is_empty() && (self.log.anchor.is_none() || is_far) {
            // The beginning may stand in segments that are gone: behind an old start, any number
            // of entries. A later start closes that gap.
            self.log.clear(slot, live);
        }
        let (first, last) = (self.log.first(), self.log.last());
        check_gap(group, slot, first)?;
        check_gap(group, last, slot)?;
        self.log.extend_front(self.log.first().min(slot));
        self.log.put_alone(slot, epoch, place, bytes, live);
        self.memberships.remove(&slot);
        if kind.is_membership() {
            self.memberships.insert(slot, Bytes::copy_from_slice(&body));
        }
        Ok(())
    }

    /// The log starts here, and keeps what is behind, gaps and all.
    fn start_scattered(&mut self, start: (Slot, Epoch), live: &mut LiveCounts) {
        if start.0.next() < self.log.first() && !self.log.is_empty() {
            // What stood between them is missing, or in segments that are gone, however much it
            // was. A later start closes that gap; the end judges what is left of it.
            self.log.set_start(start);
        } else {
            self.log.start_behind(start, live);
        }
        self.memberships = self.memberships.split_off(&start.0.next());
        self.ballots = self.ballots.split_off(&start.0.next());
    }

    fn start_behind(
        &mut self,
        group: GroupId,
        start: (Slot, Epoch),
        live: &mut LiveCounts,
    ) -> Result<(), String> {
        let (slot, epoch) = start;
        if self.is_scattered == Some(true) {
            if slot < self.log.start().0 {
                return Err(format!(
                    "group {group} has released everything up to slot {slot}, but its log starts \
                     behind slot {}",
                    self.log.start().0
                ));
            }
            self.start_scattered(start, live);
            return Ok(());
        }
        let (old, first, last) = (self.log.start(), self.log.first(), self.log.last());
        if !self.is_exact && self.log.is_empty() {
            // Entries behind it may have stood in segments that are gone.
            self.log.reset(start, live);
            return Ok(());
        }
        if !self.is_exact && slot.next() < first {
            // So they did. An entry that replaces them, or a later start, closes the gap.
            self.log.set_start(start);
            return Ok(());
        }
        if slot < old.0 || slot.next() < first || slot > last {
            return Err(format!(
                "group {group} has released everything up to slot {slot}, but its log begins \
                 with slot {first} and ends with slot {last}"
            ));
        }
        if slot.next() == first {
            self.log.set_start(start);
        } else {
            self.log.release(slot, live);
        }
        if self.log.start() != start {
            return Err(format!(
                "group {group} has released everything up to slot {slot} of epoch {epoch}, but \
                 the entry there is of epoch {}",
                self.log.start().1
            ));
        }
        self.is_exact = true;
        self.memberships = self.memberships.split_off(&slot.next());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;

    fn stored(kind: StoredKind, slot: u64, epoch: u64) -> StoredRecord {
        let (group, body) = (GroupId(1), Bytes::from_static(b"body"));
        StoredRecord {
            group,
            kind,
            slot: Slot(slot),
            epoch: Epoch(epoch),
            body,
        }
    }

    const ENTRY: StoredKind = StoredKind::Given(RecordKind::Entry);
    const SNAPSHOT: StoredKind = StoredKind::Given(RecordKind::SnapshotInstalled);
    const START: StoredKind = StoredKind::Start;

    fn replay(records: &[(StoredKind, u64, u64)]) -> Result<RecoveredGroup, String> {
        let mut replay = Replay::default();
        for (at, (kind, slot, epoch)) in records.iter().enumerate() {
            replay.apply(stored(*kind, *slot, *epoch), 1, at as u64)?;
        }
        Ok(replay
            .finish()?
            .groups
            .remove(&GroupId(1))
            .unwrap_or_default())
    }

    #[test]
    fn a_log_whose_beginning_is_gone_needs_its_start() {
        let (start, last) = (Slot(4), Slot(6));
        let group = replay(&[(ENTRY, 5, 1), (ENTRY, 6, 1), (START, 4, 1)]).unwrap();
        assert_eq!((group.start, group.last), ((start, Epoch(1)), last));
        // A start further down, the entry behind which was released later.
        let group = replay(&[(START, 2, 1), (ENTRY, 5, 1), (ENTRY, 6, 1), (START, 4, 1)]).unwrap();
        assert_eq!((group.start, group.last), ((start, Epoch(1)), last));
        // The gap is closed by an entry that replaces what was lost.
        let group = replay(&[(ENTRY, 7, 1), (START, 4, 1), (ENTRY, 5, 2), (ENTRY, 6, 2)]).unwrap();
        assert_eq!((group.start, group.last), ((start, Epoch(1)), last));
        // Everything was released.
        let group = replay(&[(START, 4, 1)]).unwrap();
        assert_eq!((group.start, group.last), ((start, Epoch(1)), start));
        let error = replay(&[(ENTRY, 5, 1)]).unwrap_err();
        assert!(
            error.contains("starts behind slot 0, but its first entry has slot 5"),
            "{error}"
        );
        replay(&[(ENTRY, 5, 1), (START, 3, 1)]).unwrap_err();
    }

    #[test]
    fn a_scattered_log_may_have_lost_any_number_of_entries_before_its_last_start() {
        const ACCEPTED: StoredKind = StoredKind::Given(RecordKind::Accepted);
        let far = 5 + 2 * GAP_SLOTS_MAX;
        let entries = [
            (ACCEPTED, far, 1),
            (ACCEPTED, far + 1, 1),
            (ACCEPTED, far + 4, 1),
        ];
        let (old, new) = ((START, 4, 1), (START, far, 1));
        let with = |old_at: usize| {
            let mut records = entries.to_vec();
            records.insert(old_at, old);
            records.push(new);
            replay(&records).unwrap()
        };
        // The old start stands before the entries, between them, or behind them.
        for old_at in 0..=entries.len() {
            let group = with(old_at);
            assert_eq!(
                (group.start, group.last),
                ((Slot(far), Epoch(1)), Slot(far + 4))
            );
            assert_eq!(group.gaps, [(Slot(far + 2), Slot(far + 3))]);
        }
        // Without the new one they are missing.
        for old_at in 0..=entries.len() {
            let mut records = entries.to_vec();
            records.insert(old_at, old);
            let error = replay(&records).unwrap_err();
            assert!(error.contains("is missing"), "{error}");
        }
        // An entry behind entries has no such excuse.
        replay(&[(ACCEPTED, 5, 1), (ACCEPTED, far, 1), new]).unwrap_err();
    }

    #[test]
    fn records_that_contradict_each_other_are_refused() {
        for records in [
            &[(ENTRY, 1, 1), (ENTRY, 3, 1)][..],
            &[(SNAPSHOT, 5, 1), (ENTRY, 5, 1)],
            &[(SNAPSHOT, 5, 1), (START, 3, 1)],
            &[(ENTRY, 1, 1), (START, 2, 1)],
            &[(ENTRY, 1, 1), (ENTRY, 2, 2), (START, 2, 1)],
            &[(ENTRY, 0, 1)],
            &[(SNAPSHOT, u64::MAX, 1)],
        ] {
            replay(records).unwrap_err();
        }
    }

    #[test]
    fn no_sequence_of_records_panics() {
        let mut random = Random::from_seed(1);
        let mut sound = 0;
        for _ in 0..20_000 {
            let records: Vec<(StoredKind, u64, u64)> = (0..random.below(9))
                .map(|_| {
                    let number = 1 + random.below(12) as u8;
                    let kind = StoredKind::from_number(number).expect("it is a kind");
                    let slot = [random.below(6), u64::MAX - random.below(3)];
                    let far = usize::from(random.chance(0.02));
                    (kind, slot[far], random.below(2))
                })
                .collect();
            sound += u32::from(replay(&records).is_ok());
        }
        assert!(sound > 1000, "{sound}");
    }
}
