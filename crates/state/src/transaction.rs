//! One command's effects, buffered until they are committed.
//!
//! A transaction reads the state through its own writes. The state itself stays untouched until
//! [`Transaction::commit`]; dropping the transaction, also by a panic that unwinds through the
//! command, leaves nothing behind.
//!
//! All writes to spaces with history get one revision. A key has at most one version per
//! revision: if a transaction writes a key several times, the last write is what happened, at the
//! place of that last write. So `put, put` counts one version; `delete, put` of a key that was
//! there creates it anew; `put, delete` of a key that was not there is no change at all.

use std::time::Duration;

use base::Slot;
use bytes::Bytes;

use crate::buffered::{BufferedPairs, BySpace};
use crate::key_value::{EventBatch, KeyRange, KeyValue, Revision};
use crate::keyspace::{Change, Version, row_bytes};
use crate::lease::{self, Lease, LeaseId, Tie};
use crate::limits::ROW_BYTES_MAX;
use crate::reader::{Live, Reader, event};
use crate::space::{Owner, Space};
use crate::state::State;
use crate::tree::Weigh;

/// A key's state within a transaction.
#[derive(Clone, Debug)]
struct Pending {
    /// What stands there now: a live version, or a deletion.
    version: Version,
    /// The live version in the state before the transaction.
    before: Option<Version>,
}

impl Pending {
    /// Whether committing it changes anything.
    fn is_change(&self) -> bool {
        self.version.is_live() || self.before.is_some()
    }
}

impl Weigh for Pending {
    /// Counts the changes, so that it is known whether there are any.
    fn weight(&self) -> u64 {
        u64::from(self.is_change())
    }
}

/// A plain row's value within a transaction; `None` deletes it.
#[derive(Clone, Debug)]
struct PendingRow(Option<Bytes>);

impl Weigh for PendingRow {
    fn weight(&self) -> u64 {
        0
    }
}

/// The buffered effects of one command, and reads that see them.
#[derive(Debug)]
pub struct Transaction<'a> {
    state: &'a mut State,
    writes: BySpace<Pending>,
    rows: BySpace<PendingRow>,
    /// Counts the writes; gives each its place.
    order: u32,
    /// Bytes that the writes will hold.
    bytes: u64,
    compact_to: Option<i64>,
    quota_bytes: Option<u64>,
    level: Option<u32>,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(state: &'a mut State) -> Transaction<'a> {
        Transaction {
            state,
            writes: BySpace::default(),
            rows: BySpace::default(),
            order: 0,
            bytes: 0,
            compact_to: None,
            quota_bytes: None,
            level: None,
        }
    }

    /// The state before this transaction.
    #[must_use]
    pub fn base(&self) -> &Reader {
        &self.state.reader
    }

    /// The revision that this transaction stands at: the one its writes get if it has any effect
    /// on a space with history so far, the latest one otherwise.
    #[must_use]
    pub fn revision(&self) -> Revision {
        let Revision(latest) = self.base().revision();
        Revision(if self.is_change() { latest + 1 } else { latest })
    }

    /// A key, own writes included.
    ///
    /// # Panics
    /// If the space keeps no history.
    #[must_use]
    pub fn get(&self, space: Space, key: &[u8]) -> Option<KeyValue> {
        self.state.interruption.at_read();
        let (key, version) = self.current(space, key)?;
        Some(version.key_value(key))
    }

    /// The live keys of a range in their order, own writes included.
    ///
    /// # Panics
    /// If the space keeps no history.
    #[must_use]
    pub fn range(&self, space: Space, range: &KeyRange) -> TransactionRange<'_> {
        self.state.interruption.at_read();
        let mut base = self.base().live(space, range, None);
        let writes = self.writes[space].iterate_from(range.start(), |key| range.is_after(key));
        let mut own = OwnWrites {
            range: range.clone(),
            pairs: writes,
        };
        TransactionRange {
            next_base: base.next(),
            next_own: own.next(),
            base,
            own,
        }
    }

    /// How many live keys the range has, own writes included. Takes time in proportion to the own
    /// writes in the range, not to the range.
    ///
    /// # Panics
    /// If the space keeps no history.
    #[must_use]
    pub fn count(&self, space: Space, range: &KeyRange) -> u64 {
        self.state.interruption.at_read();
        let mut count = self.base().count(space, range, None);
        let pairs = self.writes[space].iterate_from(range.start(), |key| range.is_after(key));
        for (_, pending) in (OwnWrites {
            range: range.clone(),
            pairs,
        }) {
            count -= u64::from(pending.before.is_some());
            count += u64::from(pending.version.is_live());
        }
        count
    }

    /// A row of a plain space, own writes included.
    ///
    /// # Panics
    /// If the space keeps history.
    #[must_use]
    pub fn row(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.state.interruption.at_read();
        match self.rows[space].find(key, |other| other.as_ref().cmp(key)) {
            Some((_, PendingRow(value))) => value.clone(),
            None => self.base().row(space, key),
        }
    }

    /// All rows of a plain space in the order of their keys, own writes included.
    ///
    /// # Panics
    /// If the space keeps history.
    pub fn rows(&self, space: Space) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
        self.state.interruption.at_read();
        let own = &self.rows[space];
        let unchanged = self
            .base()
            .rows(space)
            .filter(|(key, _)| own.find(key, |other| other.cmp(key)).is_none());
        let written = own
            .iterate()
            .filter_map(|(key, PendingRow(value))| Some((key.clone(), value.clone()?)));
        merge_rows(unchanged, written)
    }

    /// Writes a key and returns what was there. It is attached to `lease` (0: to none), and no
    /// longer to the one that it was attached to.
    ///
    /// # Panics
    /// If the space keeps no history, the lease does not exist, or key and value are longer than
    /// [`crate::limits::ROW_BYTES_MAX`].
    pub fn put(&mut self, space: Space, key: &[u8], value: &[u8], lease: i64) -> Option<KeyValue> {
        self.state.interruption.at_read();
        check_length(key, value);
        assert!(
            lease == 0 || self.lease(LeaseId(lease)).is_some(),
            "protocols refuse leases that do not exist"
        );
        let (stored, current, before) = self.look_up(space, key);
        let previous = current.as_ref().map(|version| version.key_value(&stored));
        let revision = self.state.reader.scalars.revision + 1;
        let mut version = Version {
            value: Bytes::copy_from_slice(value),
            mod_revision: revision,
            create_revision: revision,
            version: 1,
            lease,
            order: self.next_order(),
        };
        if let Some(current) = current {
            let is_own = current.mod_revision == revision;
            version.create_revision = current.create_revision;
            version.version = current.version + i64::from(!is_own);
        }
        self.bytes += row_bytes(key, value);
        self.writes[space].insert(stored, Pending { version, before });
        previous
    }

    /// Deletes a key and returns what was there; `None` if it was not there, which has no effect.
    ///
    /// # Panics
    /// If the space keeps no history.
    pub fn delete(&mut self, space: Space, key: &[u8]) -> Option<KeyValue> {
        self.state.interruption.at_read();
        let (stored, current, before) = self.look_up(space, key);
        let previous = current?.key_value(&stored);
        let revision = self.state.reader.scalars.revision + 1;
        let version = Version::deletion(revision, self.next_order());
        self.bytes += row_bytes(key, &[]);
        self.writes[space].insert(stored, Pending { version, before });
        Some(previous)
    }

    /// Writes a row of a plain space.
    ///
    /// # Panics
    /// If the space keeps history, if it is one that only this crate writes, or if key and value
    /// are longer than [`crate::limits::ROW_BYTES_MAX`].
    pub fn set_row(&mut self, space: Space, key: &[u8], value: &[u8]) {
        assert!(
            !space.keeps_history(),
            "a space with history has no plain rows"
        );
        assert!(
            space.owner() != Owner::State,
            "origins are recorded by admitting their commands, leases by granting them"
        );
        check_length(key, value);
        self.bytes += row_bytes(key, value);
        let value = PendingRow(Some(Bytes::copy_from_slice(value)));
        self.rows[space].insert(Bytes::copy_from_slice(key), value);
    }

    /// Deletes a row of a plain space, if it is there. The row of an origin may be deleted once
    /// the node is gone for good.
    ///
    /// # Panics
    /// If the space keeps history, or is that of the leases.
    pub fn delete_row(&mut self, space: Space, key: &[u8]) {
        assert!(
            !space.keeps_history() && space != Space::LEASES,
            "keys are deleted with a revision, leases are revoked"
        );
        self.rows[space].insert(Bytes::copy_from_slice(key), PendingRow(None));
    }

    /// A lease, if it exists; own changes included.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.state.interruption.at_read();
        let key = lease::row_key(id);
        let own = &self.rows[Space::LEASES];
        match own.find(&key, |other| other.as_ref().cmp(&key)) {
            Some((_, PendingRow(None))) => None,
            Some((_, PendingRow(Some(value)))) => Lease::decode(&key, value),
            None => self.base().lease(id),
        }
    }

    /// Grants a lease from now on.
    ///
    /// # Panics
    /// If the id is 0 or taken; the caller has checked that.
    pub fn grant_lease(&mut self, id: LeaseId, granted: Duration) -> Lease {
        assert!(id != LeaseId(0), "0 is no lease");
        assert!(self.lease(id).is_none(), "lease {} exists", id.0);
        let base = self.base();
        self.write_lease(Lease::from(base.clock(), id, granted, base.applied()))
    }

    /// Lets a lease begin anew, from now on. `None` if it does not exist, or is tied.
    pub fn renew_lease(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.lease(id).filter(|lease| lease.parent.is_none())?;
        Some(self.write_lease(lease.renewed(self.base().clock())))
    }

    /// Ties this group to a lease of another one: keys here can be attached to it. What was tied to
    /// an earlier lease of the same id ends. `None` if this group has a lease of its own with this
    /// id.
    ///
    /// # Panics
    /// If the id is 0; the caller has checked that.
    pub fn tie_lease(&mut self, tie: &Tie) -> Option<Lease> {
        assert!(tie.id != LeaseId(0), "0 is no lease");
        if let Some(lease) = self.lease(tie.id) {
            // Told late, or twice.
            if lease.parent? >= tie.parent {
                return Some(lease);
            }
            self.revoke_lease(tie.id);
        }
        let base = self.base();
        let lease = Lease::tied(base.clock(), tie, base.applied());
        Some(self.write_lease(lease))
    }

    /// The other group had no lease of this id when it had executed `seen`: what was tied to one
    /// that was granted by then ends, as [`Transaction::revoke_lease`] does. `None` if there is no
    /// such lease here.
    pub fn untie_lease(&mut self, id: LeaseId, seen: Slot) -> Option<u64> {
        let parent = self.lease(id)?.parent?;
        (parent <= seen).then(|| self.revoke_lease(id)).flatten()
    }

    fn write_lease(&mut self, lease: Lease) -> Lease {
        let (key, value) = (lease::row_key(lease.id), lease.encode());
        self.bytes += row_bytes(&key, &value);
        let value = PendingRow(Some(Bytes::copy_from_slice(&value)));
        self.rows[Space::LEASES].insert(Bytes::copy_from_slice(&key), value);
        lease
    }

    /// Ends a lease and deletes what is attached to it, in the order of spaces and keys. Says how
    /// many keys that were; `None` if it does not exist.
    pub fn revoke_lease(&mut self, id: LeaseId) -> Option<u64> {
        self.lease(id)?;
        let keys = self.lease_keys(id);
        for (space, key) in &keys {
            self.delete(*space, key);
        }
        let key = Bytes::copy_from_slice(&lease::row_key(id));
        self.rows[Space::LEASES].insert(key, PendingRow(None));
        Some(keys.len() as u64)
    }

    /// Ends a lease as [`Transaction::revoke_lease`] does, but only if it is over, and was not
    /// renewed since somebody saw this deadline. `None` if it goes on, or does not exist.
    pub fn expire_lease(&mut self, id: LeaseId, seen: Duration) -> Option<u64> {
        let Lease { deadline, .. } = self.lease(id)?;
        if deadline != seen || deadline > self.base().clock() {
            return None;
        }
        self.revoke_lease(id)
    }

    /// The keys attached to a lease, own writes included: by space, then in their order.
    fn lease_keys(&self, id: LeaseId) -> Vec<(Space, Bytes)> {
        let base = self.base().lease_keys(id);
        let mut keys: Vec<(Space, Bytes)> = base.map(|(space, key)| (space, key.clone())).collect();
        if self.order == 0 {
            return keys;
        }
        for space in Space::all() {
            let own = self.writes[space].iterate();
            keys.extend(own.map(|(key, _)| (space, key.clone())));
        }
        let is_attached = |(space, key): &(Space, Bytes)| {
            let current = self.current(*space, key);
            current.is_some_and(|(_, version)| version.lease == id.0)
        };
        keys.retain(is_attached);
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Moves the floor of history. What becomes unreachable is freed at the ends of this and
    /// later entries.
    ///
    /// # Panics
    /// Unless `compacted < to <= base revision`; the caller has checked that.
    pub fn compact(&mut self, to: Revision) {
        let base = self.base();
        assert!(
            base.compacted() < to && to <= base.revision(),
            "history is compacted to a revision that exists and is not compacted"
        );
        self.compact_to = Some(to.0);
    }

    /// Sets how many bytes may be held.
    pub fn set_quota(&mut self, bytes: u64) {
        self.quota_bytes = Some(bytes);
    }

    /// Raises the level, from the next entry on; a lower one has no effect. Within this entry all
    /// commands still run at the old one, so that a replica that does not know the new level can
    /// stop between two entries, and has executed nothing wrongly.
    pub fn raise_level(&mut self, level: u32) {
        self.level = Some(level);
    }

    /// Whether the quota leaves room for so many more bytes, on top of what is held and what this
    /// transaction has written. A key takes its length, its value's and
    /// [`crate::limits::OVERHEAD_BYTES`].
    #[must_use]
    pub fn room_for(&self, bytes: u64) -> bool {
        let held = self.base().held_bytes().saturating_add(self.bytes);
        held.saturating_add(bytes) <= self.base().quota_bytes()
    }

    /// Makes the effects real, and returns the revision the state is at then.
    pub fn commit(mut self) -> Revision {
        self.state.interruption.over();
        self.commit_rows();
        if self.is_change() {
            self.commit_versions();
        }
        self.state.raised = self.state.raised.max(self.level);
        let scalars = &mut self.state.reader.scalars;
        if let Some(to) = self.compact_to {
            // What was at the old floor had to stay; it is looked at once more.
            let old_floor = Change {
                revision: scalars.compacted,
                order: 0,
            };
            scalars.compaction_next = scalars.compaction_next.min(old_floor);
            scalars.compacted = to;
        }
        if let Some(bytes) = self.quota_bytes {
            scalars.settings.quota_bytes = bytes;
        }
        Revision(scalars.revision)
    }

    fn commit_rows(&mut self) {
        for space in Space::all() {
            if self.rows[space].is_empty() {
                continue;
            }
            let rows = std::mem::take(&mut self.rows[space]);
            for (key, PendingRow(value)) in rows.into_pairs() {
                if space == Space::ORIGINS {
                    self.state.forget_window(&key);
                }
                self.state.reader.rows.set_row(space, key, value);
            }
        }
    }

    fn commit_versions(&mut self) {
        let mut changes = Vec::with_capacity(1);
        for space in Space::all() {
            if self.writes[space].is_empty() {
                continue;
            }
            let writes = std::mem::take(&mut self.writes[space]);
            for (key, pending) in writes.into_pairs() {
                if pending.is_change() {
                    changes.push((space, key, pending));
                }
            }
        }
        changes.sort_unstable_by_key(|(_, _, pending)| pending.version.order);
        let reader = &mut self.state.reader;
        let mut events = Vec::with_capacity(changes.len());
        for (order, (space, key, pending)) in changes.into_iter().enumerate() {
            let Pending {
                mut version,
                before,
            } = pending;
            version.order = order as u32;
            events.push(event(space, &key, &version, before.as_ref()));
            reader.rows.push_version(space, key, version);
        }
        reader.scalars.revision += 1;
        let revision = Revision(reader.scalars.revision);
        self.state.batches.push(EventBatch { revision, events });
    }

    /// Whether anything in a space with history changes.
    fn is_change(&self) -> bool {
        self.writes.iter().any(|writes| writes.weight() > 0)
    }

    /// The live version of a key, own writes included.
    fn current(&self, space: Space, key: &[u8]) -> Option<(&Bytes, &Version)> {
        let own = self.writes[space].find(key, |other| other.as_ref().cmp(key));
        let found = match own {
            Some((key, pending)) => Some((key, &pending.version)),
            None => self.base().rows.history(space).latest(key),
        };
        found.filter(|(_, version)| version.is_live())
    }

    /// The key as it is stored (or a new copy), its live version with own writes included, and
    /// its live version before this transaction.
    fn look_up(&self, space: Space, key: &[u8]) -> (Bytes, Option<Version>, Option<Version>) {
        let live = |version: &Version| version.is_live().then(|| version.clone());
        let own = self.writes[space].find(key, |other| other.as_ref().cmp(key));
        if let Some((stored, pending)) = own {
            return (
                stored.clone(),
                live(&pending.version),
                pending.before.clone(),
            );
        }
        match self.base().rows.history(space).latest(key) {
            Some((stored, version)) => (stored.clone(), live(version), live(version)),
            None => (Bytes::copy_from_slice(key), None, None),
        }
    }

    fn next_order(&mut self) -> u32 {
        let order = self.order;
        self.order = order
            .checked_add(1)
            .expect("an entry bounds how much it can write");
        order
    }
}

fn check_length(key: &[u8], value: &[u8]) {
    assert!(
        key.len().saturating_add(value.len()) <= ROW_BYTES_MAX,
        "protocols refuse keys and values that are too long"
    );
}

/// The own writes of a range, deletions included.
#[derive(Debug)]
struct OwnWrites<'a> {
    range: KeyRange,
    pairs: BufferedPairs<'a, Pending>,
}

impl<'a> Iterator for OwnWrites<'a> {
    type Item = (&'a Bytes, &'a Pending);

    fn next(&mut self) -> Option<(&'a Bytes, &'a Pending)> {
        self.pairs.next().filter(|(key, _)| self.range.reaches(key))
    }
}

/// The live keys of a range as a transaction sees them, in order.
#[derive(Debug)]
pub struct TransactionRange<'a> {
    base: Live<'a>,
    own: OwnWrites<'a>,
    next_base: Option<(&'a Bytes, &'a Version)>,
    next_own: Option<(&'a Bytes, &'a Pending)>,
}

impl Iterator for TransactionRange<'_> {
    type Item = KeyValue;

    fn next(&mut self) -> Option<KeyValue> {
        loop {
            let own_is_next = match (&self.next_base, &self.next_own) {
                (None, None) => return None,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((base, _)), Some((own, _))) => own <= base,
            };
            if !own_is_next {
                let (key, version) = self.next_base.take()?;
                self.next_base = self.base.next();
                return Some(version.key_value(key));
            }
            let (key, pending) = self.next_own.take()?;
            self.next_own = self.own.next();
            if self.next_base.is_some_and(|(base, _)| base == key) {
                self.next_base = self.base.next();
            }
            if pending.version.is_live() {
                return Some(pending.version.key_value(key));
            }
        }
    }
}

/// Merges two sequences of rows, both in the order of their keys and without a common key.
fn merge_rows(
    left: impl Iterator<Item = (Bytes, Bytes)>,
    right: impl Iterator<Item = (Bytes, Bytes)>,
) -> impl Iterator<Item = (Bytes, Bytes)> {
    let mut left = left.peekable();
    let mut right = right.peekable();
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some((left_key, _)), Some((right_key, _))) if right_key < left_key => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    })
}
