//! Reading a state: the live one in place, or a snapshot.
//!
//! Both are a [`Reader`]: the trees and the scalars. A [`Snapshot`] is a clone of that, which
//! shares every node; it can be sent elsewhere and never changes.

use std::ops::Deref;
use std::time::Duration;

use base::{Epoch, Slot, WallTime};
use bytes::{Buf, Bytes};
use xxhash_rust::xxh3::xxh3_128;

use crate::digest::Digest;
use crate::key_value::{Event, EventBatch, EventKind, KeyRange, KeyValue, Revision};
use crate::keyspace::{Change, ChangedKey, Row, Rows, Version};
use crate::limits::Settings;
use crate::space::Space;
use crate::tree::{Pairs, Tree};

/// What a state holds beside its rows. Part of the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scalars {
    pub(crate) applied: Slot,
    pub(crate) epoch: Epoch,
    pub(crate) wall: WallTime,
    pub(crate) clock: Duration,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    /// Where compaction goes on; past the floor if nothing is left to do.
    pub(crate) compaction_next: Change,
    pub(crate) level: u32,
    pub(crate) settings: Settings,
}

/// The length of [`Scalars::encode`].
pub(crate) const SCALARS_LENGTH: usize = 96;

/// A group's clock has run for fewer seconds than this: so many that adding to it never overflows.
const CLOCK_SECONDS: u64 = 1 << 60;

impl Scalars {
    /// The scalars as they stand in a checkpoint and in the digest (see the format's document).
    pub(crate) fn encode(&self) -> [u8; SCALARS_LENGTH] {
        let mut bytes = [0; SCALARS_LENGTH];
        let mut used = 0;
        let mut push = |field: &[u8]| {
            bytes[used..used + field.len()].copy_from_slice(field);
            used += field.len();
        };
        push(&self.applied.0.to_le_bytes());
        push(&self.epoch.0.to_le_bytes());
        push(&self.wall.0.to_le_bytes());
        push(&self.clock.as_secs().to_le_bytes());
        push(&self.clock.subsec_nanos().to_le_bytes());
        push(&self.level.to_le_bytes());
        push(&self.revision.to_le_bytes());
        push(&self.compacted.to_le_bytes());
        push(&self.compaction_next.revision.to_le_bytes());
        push(&self.compaction_next.order.to_le_bytes());
        push(&self.settings.compaction_steps_per_entry.to_le_bytes());
        push(&self.settings.quota_bytes.to_le_bytes());
        push(&self.settings.origin_window.to_le_bytes());
        push(&self.settings.origin_ranges_max.to_le_bytes());
        push(&self.settings.lease_floor_seconds.to_le_bytes());
        assert!(used == SCALARS_LENGTH, "the scalars fill their record");
        bytes
    }

    /// Takes the scalars off the front of a checkpoint's head; `None` if they are too short or
    /// not those of any state.
    pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Scalars> {
        let applied = Slot(bytes.try_get_u64_le().ok()?);
        let epoch = Epoch(bytes.try_get_u64_le().ok()?);
        let wall = WallTime(bytes.try_get_u64_le().ok()?);
        let seconds = bytes.try_get_u64_le().ok()?;
        let nanoseconds = bytes.try_get_u32_le().ok()?;
        let level = bytes.try_get_u32_le().ok()?;
        let revision = bytes.try_get_i64_le().ok()?;
        let compacted = bytes.try_get_i64_le().ok()?;
        let next = bytes.try_get_i64_le().ok()?;
        let order = bytes.try_get_u32_le().ok()?;
        let settings = Settings {
            compaction_steps_per_entry: bytes.try_get_u32_le().ok()?,
            quota_bytes: bytes.try_get_u64_le().ok()?,
            origin_window: bytes.try_get_u64_le().ok()?,
            origin_ranges_max: bytes.try_get_u32_le().ok()?,
            lease_floor_seconds: bytes.try_get_u32_le().ok()?,
        };
        let is_possible = seconds < CLOCK_SECONDS
            && nanoseconds < 1_000_000_000
            && (1..=Revision::MAX.0).contains(&revision)
            && (0..=revision).contains(&compacted)
            && (0..=compacted + 1).contains(&next)
            && settings.compaction_steps_per_entry > 0
            && settings.origin_ranges_max > 0;
        // Not before that is known: a duration of seconds beyond all bounds is a panic.
        is_possible.then(|| Scalars {
            applied,
            epoch,
            wall,
            clock: Duration::new(seconds, nanoseconds),
            revision,
            compacted,
            compaction_next: Change {
                revision: next,
                order,
            },
            level,
            settings,
        })
    }

    /// The index of revisions holds every version from here on, and none before: compaction has
    /// been past those, except that it leaves what happened at the floor.
    pub(crate) fn indexed_from(&self) -> Change {
        self.compaction_next.min(Change {
            revision: self.compacted,
            order: 0,
        })
    }
}

/// A state to read from: rows and scalars. Reads at an old revision need one that is neither
/// compacted nor in the future; the caller has checked that.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(crate) rows: Rows,
    pub(crate) scalars: Scalars,
    /// An entry is being executed, so that this is a state between two slots.
    pub(crate) executing: bool,
}

/// A state as it was at some moment: made in constant time, never changing, shared by its clones.
#[derive(Clone, Debug)]
pub struct Snapshot(pub(crate) Reader);

impl Deref for Snapshot {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.0
    }
}

impl Reader {
    /// The last slot that was executed.
    #[must_use]
    pub fn applied(&self) -> Slot {
        self.scalars.applied
    }

    /// The epoch of the entry in that slot.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.scalars.epoch
    }

    /// The latest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.scalars.revision)
    }

    /// The floor of history: the lowest revision that can be read; 0 if there was no compaction.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        Revision(self.scalars.compacted)
    }

    /// The level: what commands do. Above [`crate::Limits::level_max`], this replica must not go on
    /// executing the group's entries.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.scalars.level
    }

    /// The greatest wall time that an entry was stamped with.
    #[must_use]
    pub fn wall(&self) -> WallTime {
        self.scalars.wall
    }

    /// The group's own clock: the leaders' running time, as entries have told it.
    #[must_use]
    pub fn clock(&self) -> Duration {
        self.scalars.clock
    }

    /// The bounds that decide results.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.scalars.settings
    }

    /// The bytes held: keys and values of all versions that are not freed yet and of all plain
    /// rows, and [`crate::limits::OVERHEAD_BYTES`] for each. Falls as compaction frees, not at
    /// the moment the floor moves.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.rows.held_bytes
    }

    /// The bytes of the live keys and their values, nothing added.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.rows.live_bytes
    }

    /// How many bytes may be held.
    #[must_use]
    pub fn quota_bytes(&self) -> u64 {
        self.scalars.settings.quota_bytes
    }

    /// How many live keys etcd's space has.
    #[must_use]
    pub fn key_count(&self) -> u64 {
        self.rows.history(Space::ETCD).latest.weight()
    }

    /// Whether compaction has work left.
    #[must_use]
    pub fn compaction_pending(&self) -> bool {
        self.scalars.compaction_next.revision <= self.scalars.compacted
    }

    /// The digest of rows and scalars, kept up to date incrementally.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut digest = self.rows.digest;
        digest.add(xxh3_128(&self.scalars.encode()));
        digest
    }

    /// The digest, computed from every row. Equal to [`Reader::digest`] unless memory is damaged
    /// or the program is wrong. Takes time in proportion to what is held.
    #[must_use]
    pub fn recompute_digest(&self) -> Digest {
        let mut digest = self.rows.recompute_digest();
        digest.add(xxh3_128(&self.scalars.encode()));
        digest
    }

    /// A key of a space with history, at the latest revision or at an older one.
    ///
    /// # Panics
    /// If the space keeps no history, or the revision is compacted or in the future.
    #[must_use]
    pub fn get(&self, space: Space, key: &[u8], at: Option<Revision>) -> Option<KeyValue> {
        let history = self.rows.history(space);
        let (key, version) = match self.check_revision(at) {
            None => history.latest(key)?,
            Some(revision) => history.at(key, revision)?,
        };
        version.is_live().then(|| version.key_value(key))
    }

    /// The live keys of a range in their order, at the latest revision or at an older one.
    ///
    /// # Panics
    /// As [`Reader::get`].
    #[must_use]
    pub fn range(&self, space: Space, range: &KeyRange, at: Option<Revision>) -> RangeIterator<'_> {
        let live = self.live(space, range, at);
        RangeIterator(live)
    }

    /// As [`Reader::range`], but an item for each key that was looked at: `None` for one that was
    /// not there at that revision. At the latest revision there are none of these.
    ///
    /// # Panics
    /// As [`Reader::get`].
    pub fn range_looks(
        &self,
        space: Space,
        range: &KeyRange,
        at: Option<Revision>,
    ) -> impl Iterator<Item = Option<KeyValue>> {
        let mut live = self.live(space, range, at);
        std::iter::from_fn(move || {
            let found = live.look()?;
            Some(found.map(|(key, version)| version.key_value(key)))
        })
    }

    /// How many live keys the range has. At the latest revision this takes logarithmic time; at
    /// an older one it walks the range.
    ///
    /// # Panics
    /// As [`Reader::get`].
    #[must_use]
    pub fn count(&self, space: Space, range: &KeyRange, at: Option<Revision>) -> u64 {
        match self.check_revision(at) {
            None => self.rows.history(space).count(range),
            Some(_) => self.live(space, range, at).count() as u64,
        }
    }

    /// All changes after `after`, oldest first, one batch per revision: what a watch that falls
    /// behind has missed. A previous value that has been compacted is left out.
    ///
    /// # Panics
    /// If the revision after `after` is below the floor: some of its changes may be forgotten.
    #[must_use]
    pub fn changes(&self, after: Revision) -> Changes<'_> {
        assert!(
            after.0 >= self.scalars.compacted - 1,
            "the changes after revision {after} are compacted"
        );
        let start = Change {
            revision: after.0.saturating_add(1),
            order: 0,
        };
        let pairs = self.rows.index.iterate_from(&[], |change| *change < start);
        Changes {
            reader: self,
            pairs,
            next: None,
        }
    }

    /// As [`Reader::changes`], but of those keys alone that are `wanted`; the others cost a look
    /// at the index and no more. Each item is a revision, how many changes it made in all, and the
    /// events of those that are wanted.
    ///
    /// # Panics
    /// As [`Reader::changes`].
    pub fn changes_of(
        &self,
        after: Revision,
        wanted: impl Fn(Space, &[u8]) -> bool,
    ) -> impl Iterator<Item = (Revision, usize, Vec<Event>)> {
        let mut changes = self.changes(after).pairs.peekable();
        std::iter::from_fn(move || {
            let revision = changes.peek()?.0.revision;
            let (mut count, mut events) = (0, Vec::new());
            while let Some((change, changed)) =
                changes.next_if(|(change, _)| change.revision == revision)
            {
                count += 1;
                if wanted(changed.space, &changed.key) {
                    events.push(self.read_event(*change, changed));
                }
            }
            Some((Revision(revision), count, events))
        })
    }

    /// A row of a plain space.
    ///
    /// # Panics
    /// If the space keeps history.
    #[must_use]
    pub fn row(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        let (_, Row(value)) = self
            .rows
            .plain(space)
            .find(key, |other| other.as_ref().cmp(key))?;
        Some(value.clone())
    }

    /// All rows of a plain space, in the order of their keys.
    ///
    /// # Panics
    /// If the space keeps history.
    #[must_use]
    pub fn rows(&self, space: Space) -> RowIterator<'_> {
        RowIterator::new(self.rows.plain(space))
    }

    /// The pairs of a range that are live, without sharing them.
    pub(crate) fn live(&self, space: Space, range: &KeyRange, at: Option<Revision>) -> Live<'_> {
        let at = self.check_revision(at);
        let pairs = self
            .rows
            .history(space)
            .latest
            .iterate_from(range.start(), |key| range.is_after(key));
        Live {
            reader: self,
            space,
            range: range.clone(),
            at,
            pairs,
        }
    }

    /// The revision to read at, `None` if every newest version will do.
    fn check_revision(&self, at: Option<Revision>) -> Option<i64> {
        let Revision(revision) = at?;
        assert!(
            revision >= self.scalars.compacted && revision <= self.scalars.revision,
            "revision {revision} is compacted or in the future"
        );
        (revision < self.scalars.revision).then_some(revision)
    }
}

/// Live pairs of a range; yields the stored key and version.
#[derive(Clone, Debug)]
pub(crate) struct Live<'a> {
    reader: &'a Reader,
    space: Space,
    range: KeyRange,
    at: Option<i64>,
    pairs: Pairs<'a, Bytes, Version>,
}

impl<'a> Live<'a> {
    /// Looks at the next key; inner `None` if it is not live.
    fn look(&mut self) -> Option<Option<(&'a Bytes, &'a Version)>> {
        let (key, latest) = match self.at {
            // Keys that are deleted cost nothing, be there millions.
            None => self.pairs.next_weighing()?,
            Some(_) => self.pairs.next()?,
        };
        if !self.range.reaches(key) {
            // Nothing behind this key belongs to the range, and it stays so if asked again.
            self.range = KeyRange::Span {
                start: Bytes::new(),
                end: Bytes::new(),
            };
            return None;
        }
        let version = match self.at {
            Some(revision) if latest.mod_revision > revision => {
                self.reader.rows.history(self.space).older_at(key, revision)
            }
            _ => Some(latest),
        };
        let live = version.filter(|version| version.is_live());
        Some(live.map(|version| (key, version)))
    }
}

impl<'a> Iterator for Live<'a> {
    type Item = (&'a Bytes, &'a Version);

    fn next(&mut self) -> Option<(&'a Bytes, &'a Version)> {
        loop {
            if let Some(found) = self.look()? {
                return Some(found);
            }
        }
    }
}

/// The live keys of a range, in order.
#[derive(Clone, Debug)]
pub struct RangeIterator<'a>(Live<'a>);

impl Iterator for RangeIterator<'_> {
    type Item = KeyValue;

    fn next(&mut self) -> Option<KeyValue> {
        self.0.next().map(|(key, version)| version.key_value(key))
    }
}

/// The rows of a plain space, in order: key and value.
#[derive(Clone, Debug)]
pub struct RowIterator<'a>(Pairs<'a, Bytes, Row>);

impl<'a> RowIterator<'a> {
    pub(crate) fn new(rows: &'a Tree<Bytes, Row>) -> RowIterator<'a> {
        RowIterator(rows.iterate())
    }
}

impl Iterator for RowIterator<'_> {
    type Item = (Bytes, Bytes);

    fn next(&mut self) -> Option<(Bytes, Bytes)> {
        self.0
            .next()
            .map(|(key, Row(value))| (key.clone(), value.clone()))
    }
}

/// The changes after some revision, one batch per revision.
#[derive(Clone, Debug)]
pub struct Changes<'a> {
    reader: &'a Reader,
    pairs: Pairs<'a, Change, ChangedKey>,
    /// The first change of the next batch, once it has been taken from `pairs`.
    next: Option<(Change, &'a ChangedKey)>,
}

impl Reader {
    /// The event of a change that is still indexed.
    fn read_event(&self, change: Change, changed: &ChangedKey) -> Event {
        let history = self.rows.history(changed.space);
        let version = history
            .exactly(&changed.key, change.revision)
            .expect("a change at or above the floor has its version");
        let before = change.revision - 1;
        let previous = (before >= self.scalars.compacted)
            .then(|| history.older_at(&changed.key, before))
            .flatten();
        event(changed.space, &changed.key, version, previous)
    }
}

impl Iterator for Changes<'_> {
    type Item = EventBatch;

    fn next(&mut self) -> Option<EventBatch> {
        let (first, changed) = self
            .next
            .take()
            .or_else(|| self.pairs.next().map(|(change, key)| (*change, key)))?;
        let mut events = vec![self.reader.read_event(first, changed)];
        for (change, changed) in self.pairs.by_ref() {
            if change.revision != first.revision {
                self.next = Some((*change, changed));
                break;
            }
            events.push(self.reader.read_event(*change, changed));
        }
        Some(EventBatch {
            revision: Revision(first.revision),
            events,
        })
    }
}

/// The event of a version that was just written, or is read back.
pub(crate) fn event(
    space: Space,
    key: &Bytes,
    version: &Version,
    previous: Option<&Version>,
) -> Event {
    let kind = if version.is_live() {
        EventKind::Put
    } else {
        EventKind::Delete
    };
    let previous = previous.filter(|version| version.is_live());
    Event {
        space,
        kind,
        key_value: version.key_value(key),
        previous: previous.map(|version| version.key_value(key)),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Limits, State};

    use super::*;

    /// Found by fuzzing: more nanoseconds than a second has were carried over to the greatest
    /// number of seconds there is, and that was a panic.
    #[test]
    fn a_clock_that_no_group_can_have_is_refused() {
        const CLOCK: usize = 24;
        let state = State::new(Limits::default());
        let mut bytes = state.reader().scalars.encode();
        assert!(Scalars::decode(&mut &bytes[..]).is_some());
        bytes[CLOCK..CLOCK + 12].fill(u8::MAX);
        assert!(Scalars::decode(&mut &bytes[..]).is_none());
    }
}
