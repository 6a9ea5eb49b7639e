//! What a journal should remember: the list of all records, and what follows from a prefix of it.

use std::collections::BTreeMap;

use base::{Epoch, GroupId, Slot};
use bytes::Bytes;
use quorate_journal::{FetchedEntry, Record, RecordKind, Recovered, RecoveredGroup};

/// One group after some records. Releasing drops nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelGroup {
    pub(crate) hard_state: Option<Bytes>,
    /// Behind the last installed snapshot.
    pub(crate) base: (Slot, Epoch),
    pub(crate) entries: BTreeMap<Slot, FetchedEntry>,
}

impl ModelGroup {
    pub(crate) fn last(&self) -> Slot {
        self.entries
            .keys()
            .next_back()
            .copied()
            .unwrap_or(self.base.0)
    }

    fn apply(&mut self, record: &Record) {
        let Record {
            kind,
            slot,
            epoch,
            body,
            ..
        } = record.clone();
        match kind {
            RecordKind::HardState => self.hard_state = Some(body),
            RecordKind::SnapshotInstalled => {
                self.base = (slot, epoch);
                self.entries.clear();
            }
            RecordKind::LogStarts => {
                self.base = (slot, epoch);
                self.entries = self.entries.split_off(&slot.next());
            }
            _ => {
                if !kind.is_accepted() {
                    self.entries.split_off(&slot);
                }
                self.entries.insert(
                    slot,
                    FetchedEntry {
                        slot,
                        epoch,
                        kind,
                        body,
                    },
                );
            }
        }
    }
}

/// The groups after the first `count` records.
pub(crate) fn groups_after(records: &[Record], count: usize) -> BTreeMap<GroupId, ModelGroup> {
    let mut groups: BTreeMap<GroupId, ModelGroup> = BTreeMap::new();
    for record in &records[..count] {
        groups.entry(record.group).or_default().apply(record);
    }
    groups
}

/// Whether this was recovered of a group, when everything up to `released` may be gone.
fn group_agrees(model: &ModelGroup, found: &RecoveredGroup, released: Slot) -> bool {
    let (start, epoch) = found.start;
    let start_is_right = start == model.base.0 && epoch == model.base.1
        || start > model.base.0
            && start <= released
            && model
                .entries
                .get(&start)
                .is_some_and(|entry| entry.epoch == epoch);
    let live: Vec<&FetchedEntry> = model
        .entries
        .iter()
        .filter(|(slot, _)| **slot > start)
        .map(|(_, entry)| entry)
        .collect();
    let epoch_of = |slot: Slot| {
        let after = found.epochs.partition_point(|run| run.0 <= slot);
        after.checked_sub(1).map(|at| found.epochs[at].1)
    };
    let epochs_are_right = live
        .iter()
        .all(|entry| epoch_of(entry.slot) == Some(entry.epoch));
    let body_of = |entry: &FetchedEntry| match entry.kind.has_ballot() {
        true => entry.body.slice(8..),
        false => entry.body.clone(),
    };
    let ballots: Vec<(Slot, Epoch)> = live
        .iter()
        .filter(|entry| entry.kind.has_ballot())
        .map(|entry| {
            let ballot = entry.body[..8].try_into().expect("8 bytes");
            (entry.slot, Epoch(u64::from_le_bytes(ballot)))
        })
        .collect();
    let present: Vec<Slot> = live.iter().map(|entry| entry.slot).collect();
    let mut gaps: Vec<(Slot, Slot)> = Vec::new();
    let mut expected = start.next();
    for slot in present {
        if slot > expected {
            gaps.push((expected, slot.previous()));
        }
        expected = slot.next();
    }
    let memberships: Vec<(Slot, Bytes)> = live
        .iter()
        .filter(|entry| entry.kind.is_membership())
        .map(|entry| (entry.slot, body_of(entry)))
        .collect();
    start_is_right
        && found.hard_state == model.hard_state
        && found.last == model.last().max(start)
        && epochs_are_right
        && found.memberships == memberships
        && found.ballots == ballots
        && found.gaps == gaps
}

/// Whether this was recovered after the first `count` records.
pub(crate) fn agrees(
    records: &[Record],
    count: usize,
    released: &BTreeMap<GroupId, Slot>,
    recovered: &Recovered,
) -> bool {
    let model = groups_after(records, count);
    let ids = model.keys().chain(recovered.groups.keys());
    ids.into_iter().all(|id| {
        let released = released.get(id).copied().unwrap_or_default();
        let found = recovered.groups.get(id).cloned().unwrap_or_default();
        group_agrees(
            &model.get(id).cloned().unwrap_or_default(),
            &found,
            released,
        )
    })
}
