//! The trees: keys with history, plain rows, and the index of revisions.
//!
//! ```text
//!   latest    key              -> newest version (or the mark that it is deleted)
//!   older     (key, revision)  -> each version that a newer one has replaced
//!   index     (revision, order within it) -> (space, key, which revision it replaced)
//! ```
//!
//! A key that was written once has one pair in `latest` and nothing else; reads at the latest
//! revision, ranges and counts never meet old versions; and a key with a hundred thousand old
//! versions costs a snapshot no more than any other, because no single object holds them all.
//!
//! **Compaction** moves a floor: reads below it are refused. What the floor has made unreachable is
//! freed later, step by step, by walking the index from its low end, so that the cost follows
//! what was written, not what is kept. One step looks at one indexed version `v` at or below the
//! floor: the version of that key before `v` is unreachable and goes; if `v` is a deletion below
//! the floor, it goes too. What happened *at* the floor stays in the index, and a deletion at the
//! floor stays readable, since a watch may start there; the next compaction looks at it again.
//! How far this has come (`next`) is part of the state, so all replicas free the same versions at
//! the same entry.

use bytes::Bytes;

use crate::digest::{Digest, hash_row, hash_version};
use crate::key_value::{KeyRange, KeyValue};
use crate::lease::{Lease, LeaseIndex};
use crate::limits::OVERHEAD_BYTES;
use crate::space::{SPACE_COUNT, Space};
use crate::tree::{Tree, TreeKey, Weigh, Words};

/// One version of a key. A deletion is a version with `version` 0 and nothing else in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) value: Bytes,
    pub(crate) mod_revision: i64,
    pub(crate) create_revision: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
    /// Its place among the changes of its revision, from 0.
    pub(crate) order: u32,
}

impl Version {
    /// The mark that a key was deleted.
    pub(crate) fn deletion(mod_revision: i64, order: u32) -> Version {
        Version {
            value: Bytes::new(),
            mod_revision,
            create_revision: 0,
            version: 0,
            lease: 0,
            order,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.version > 0
    }

    /// The key as a caller sees it.
    pub(crate) fn key_value(&self, key: &Bytes) -> KeyValue {
        KeyValue {
            key: key.clone(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        }
    }
}

impl Weigh for Version {
    /// Live keys count in ranges, deleted ones do not.
    fn weight(&self) -> u64 {
        u64::from(self.is_live())
    }
}

/// Names an old version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VersionKey {
    pub(crate) key: Bytes,
    pub(crate) revision: i64,
}

/// Names a change: the revision, and the place among that revision's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Change {
    pub(crate) revision: i64,
    pub(crate) order: u32,
}

/// Which key a change was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangedKey {
    pub(crate) space: Space,
    /// Said here as well, so that compaction need not look for the version.
    pub(crate) is_deletion: bool,
    /// The revision of the version that it replaced, which compaction frees; 0 if there was none.
    /// It may have been freed since.
    pub(crate) replaced: i64,
    pub(crate) key: Bytes,
}

impl ChangedKey {
    pub(crate) fn new(space: Space, key: &Bytes, version: &Version, replaced: i64) -> ChangedKey {
        ChangedKey {
            space,
            is_deletion: !version.is_live(),
            replaced,
            key: key.clone(),
        }
    }
}

impl Weigh for ChangedKey {
    fn weight(&self) -> u64 {
        1
    }
}

/// The value of a row in a plain space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row(pub(crate) Bytes);

impl Weigh for Row {
    fn weight(&self) -> u64 {
        1
    }
}

/// The trees of a space with history.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) latest: Tree<Bytes, Version>,
    pub(crate) older: Tree<VersionKey, Version>,
}

impl History {
    /// The newest version, be it a deletion, with the key as it is stored.
    pub(crate) fn latest(&self, key: &[u8]) -> Option<(&Bytes, &Version)> {
        self.latest.find(key, |other| other.as_ref().cmp(key))
    }

    /// The version that was the newest at `revision`, be it a deletion.
    pub(crate) fn at(&self, key: &[u8], revision: i64) -> Option<(&Bytes, &Version)> {
        let (stored, latest) = self.latest(key)?;
        if latest.mod_revision <= revision {
            return Some((stored, latest));
        }
        Some((stored, self.older_at(key, revision)?))
    }

    /// Among the replaced versions of a key, the newest that is not above `revision`.
    pub(crate) fn older_at(&self, key: &[u8], revision: i64) -> Option<&Version> {
        let not_after = |other: &VersionKey| {
            other
                .key
                .as_ref()
                .cmp(key)
                .then_with(|| other.revision.cmp(&revision))
                .is_le()
        };
        let (found, version) = self.older.last_before(key, not_after)?;
        (found.key == key).then_some(version)
    }

    /// The version written at exactly `revision`.
    pub(crate) fn exactly(&self, key: &[u8], revision: i64) -> Option<&Version> {
        let (_, version) = self.at(key, revision)?;
        (version.mod_revision == revision).then_some(version)
    }

    /// How many live keys of the range there are at the latest revision.
    pub(crate) fn count(&self, range: &KeyRange) -> u64 {
        match range {
            KeyRange::Single(key) => self.latest(key).map_or(0, |(_, version)| version.weight()),
            KeyRange::Span { end, .. } => {
                let end = self.latest.weight_before(end, |key| range.reaches(key));
                end.saturating_sub(self.weight_before_range(range))
            }
            KeyRange::From { .. } => self.latest.weight() - self.weight_before_range(range),
        }
    }

    fn weight_before_range(&self, range: &KeyRange) -> u64 {
        self.latest
            .weight_before(range.start(), |key| range.is_after(key))
    }
}

/// All rows of all spaces, and what is counted over them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    histories: [History; SPACE_COUNT],
    plain: [Tree<Bytes, Row>; SPACE_COUNT],
    pub(crate) index: Tree<Change, ChangedKey>,
    pub(crate) lease_index: LeaseIndex,
    /// The sum of the hashes of all versions and rows.
    pub(crate) digest: Digest,
    pub(crate) held_bytes: u64,
    pub(crate) live_bytes: u64,
}

impl Rows {
    /// # Panics
    /// If the space keeps no history.
    pub(crate) fn history(&self, space: Space) -> &History {
        assert!(
            space.keeps_history(),
            "the space {space:?} keeps no history"
        );
        &self.histories[space.index()]
    }

    /// # Panics
    /// If the space keeps history.
    pub(crate) fn plain(&self, space: Space) -> &Tree<Bytes, Row> {
        assert!(!space.keeps_history(), "the space {space:?} keeps history");
        &self.plain[space.index()]
    }

    /// For exchanging rows by others of the same length; digest and index are the caller's.
    pub(crate) fn plain_mut(&mut self, space: Space) -> &mut Tree<Bytes, Row> {
        assert!(!space.keeps_history(), "the space {space:?} keeps history");
        &mut self.plain[space.index()]
    }

    /// Puts in trees that were built elsewhere.
    pub(crate) fn install_history(&mut self, space: Space, history: History) {
        self.histories[space.index()] = history;
    }

    /// Puts in a tree that was built elsewhere.
    pub(crate) fn install_plain(&mut self, space: Space, tree: Tree<Bytes, Row>) {
        self.plain[space.index()] = tree;
    }

    /// Makes `version` the newest of its key and indexes it; the one before becomes an old one.
    pub(crate) fn push_version(&mut self, space: Space, key: Bytes, version: Version) {
        let history = &mut self.histories[space.index()];
        self.digest.add(hash_version(space, &key, &version));
        self.held_bytes += version_bytes(&key, &version);
        self.live_bytes += live_bytes(&key, &version);
        let change = Change {
            revision: version.mod_revision,
            order: version.order,
        };
        let mut changed = ChangedKey::new(space, &key, &version, 0);
        let lease = version.lease;
        let replaced = history.latest.insert(key.clone(), version);
        changed.replaced = replaced.as_ref().map_or(0, |before| before.mod_revision);
        self.index.insert(change, changed);
        let lease_before = replaced.as_ref().map_or(0, |replaced| replaced.lease);
        self.lease_index.attach(space, &key, lease_before, lease);
        if let Some(replaced) = replaced {
            self.live_bytes -= live_bytes(&key, &replaced);
            let name = VersionKey {
                key,
                revision: replaced.mod_revision,
            };
            history.older.insert(name, replaced);
        }
    }

    /// Writes a row of a plain space; `None` deletes it.
    pub(crate) fn set_row(&mut self, space: Space, key: Bytes, value: Option<Bytes>) {
        let tree = &mut self.plain[space.index()];
        let is_lease = space == Space::LEASES;
        let lease_now = value
            .as_deref()
            .filter(|_| is_lease)
            .map(|value| Lease::of_row(&key, value));
        let old = match value {
            Some(value) => {
                self.digest.add(hash_row(space, &key, &value));
                self.held_bytes += row_bytes(&key, &value);
                tree.insert(key.clone(), Row(value))
            }
            None => tree
                .remove(&key, |other| other.cmp(&key))
                .map(|(_, old)| old),
        };
        if is_lease {
            let before = old.as_ref().map(|Row(old)| Lease::of_row(&key, old));
            self.lease_index.change(before, lease_now);
        }
        if let Some(Row(old)) = old {
            self.digest.subtract(hash_row(space, &key, &old));
            self.held_bytes -= row_bytes(&key, &old);
        }
    }

    /// Counts a version that a checkpoint brought.
    pub(crate) fn count_version(&mut self, space: Space, key: &[u8], version: &Version) {
        self.digest.add(hash_version(space, key, version));
        self.held_bytes += version_bytes(key, version);
    }

    /// Counts the newest version of a key that a checkpoint brought.
    pub(crate) fn count_latest(&mut self, key: &[u8], version: &Version) {
        self.live_bytes += live_bytes(key, version);
    }

    /// Counts a row that a checkpoint brought.
    pub(crate) fn count_row(&mut self, space: Space, key: &[u8], value: &[u8]) {
        self.digest.add(hash_row(space, key, value));
        self.held_bytes += row_bytes(key, value);
    }

    /// Does at most `steps` steps of freeing what lies below `floor`, beginning at `next`; says
    /// where to go on. The work is done when that is past the floor.
    pub(crate) fn compact(&mut self, floor: i64, mut next: Change, steps: u32) -> Change {
        let done = Change {
            revision: floor + 1,
            order: 0,
        };
        for _ in 0..steps {
            let mut todo = self.index.iterate_from(&[], |change| *change < next);
            let Some((&change, changed)) = todo.next().filter(|(change, _)| **change < done) else {
                return done;
            };
            if change.revision == floor {
                let changed = changed.clone();
                self.free_replaced(change, &changed);
            } else {
                let place = |other: &Change| other.cmp(&change);
                let (_, changed) = self
                    .index
                    .remove_found(&[], place)
                    .expect("the change was found");
                self.free_around(change, &changed);
            }
            next = Change {
                revision: change.revision,
                order: change.order + 1,
            };
        }
        match self.index.iterate_from(&[], |change| *change < next).next() {
            Some((change, _)) if *change < done => next,
            _ => done,
        }
    }

    /// One step of compaction, below the floor: frees what `change` has made unreachable.
    fn free_around(&mut self, change: Change, changed: &ChangedKey) {
        self.free_replaced(change, changed);
        if !changed.is_deletion {
            return;
        }
        let ChangedKey { space, key, .. } = changed;
        let history = &mut self.histories[space.index()];
        let latest = history.latest(key);
        if latest.is_some_and(|(_, latest)| latest.mod_revision == change.revision) {
            let removed = history.latest.remove_found(key, |other| other.cmp(key));
            let (_, version) = removed.expect("the deletion was found");
            self.uncount_version(*space, key, &version);
        } else {
            let is_freed = self.free_older(*space, key, change.revision);
            assert!(is_freed, "a deletion is freed once");
        }
    }

    /// Frees the version that `change` has replaced. There is no other before it: each change in
    /// between has been looked at before.
    fn free_replaced(&mut self, change: Change, changed: &ChangedKey) {
        let ChangedKey { space, key, .. } = changed;
        // A deletion has been freed by itself.
        if changed.replaced != 0 {
            self.free_older(*space, key, changed.replaced);
        }
        debug_assert_eq!(
            self.histories[space.index()].older_at(key, change.revision - 1),
            None,
            "one version before each change"
        );
    }

    /// Frees a replaced version; whether it was there.
    fn free_older(&mut self, space: Space, key: &Bytes, revision: i64) -> bool {
        let history = &mut self.histories[space.index()];
        let place = |other: &VersionKey| {
            other
                .key
                .cmp(key)
                .then_with(|| other.revision.cmp(&revision))
        };
        let Some((_, version)) = history.older.remove_found(key, place) else {
            return false;
        };
        self.uncount_version(space, key, &version);
        true
    }

    fn uncount_version(&mut self, space: Space, key: &[u8], version: &Version) {
        self.digest.subtract(hash_version(space, key, version));
        self.held_bytes -= version_bytes(key, version);
    }

    /// The digest from scratch.
    pub(crate) fn recompute_digest(&self) -> Digest {
        let mut digest = Digest::default();
        for space in Space::all() {
            let history = &self.histories[space.index()];
            for (key, version) in history.latest.iterate() {
                digest.add(hash_version(space, key, version));
            }
            for (name, version) in history.older.iterate() {
                digest.add(hash_version(space, &name.key, version));
            }
            for (key, Row(value)) in self.plain[space.index()].iterate() {
                digest.add(hash_row(space, key, value));
            }
        }
        digest
    }
}

/// What a version counts in the bytes held.
pub(crate) fn version_bytes(key: &[u8], version: &Version) -> u64 {
    row_bytes(key, &version.value)
}

/// What a row counts in the bytes held.
pub(crate) fn row_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + OVERHEAD_BYTES
}

/// What a newest version counts in the live bytes.
fn live_bytes(key: &[u8], version: &Version) -> u64 {
    if version.is_live() {
        (key.len() + version.value.len()) as u64
    } else {
        0
    }
}

impl TreeKey for Bytes {
    const HAS_TEXT: bool = true;
    type Words = Words;

    fn text(&self) -> &[u8] {
        self
    }
}

impl TreeKey for VersionKey {
    const HAS_TEXT: bool = true;
    type Words = Words;

    fn text(&self) -> &[u8] {
        &self.key
    }
}

impl TreeKey for Change {
    const HAS_TEXT: bool = false;
    type Words = [u64; 0];

    fn text(&self) -> &[u8] {
        &[]
    }
}
