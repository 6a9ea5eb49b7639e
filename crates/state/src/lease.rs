//! Leases: what is attached to one goes with it, unless somebody renews it in time.
//!
//! ```text
//!   space LEASES   id                   -> granted, deadline, ...    the truth, as plain rows
//!   keys           a live version names its lease                    the truth, in the keys' space
//!
//!   due            (no earlier than, id)                             derived: who may be due first
//!   places         id                   -> no earlier than           derived: where it is in due
//!   attached       (lease, space, key)                               derived: what goes with it
//!   tied           id                                                derived: which have a parent
//! ```
//!
//! **Time is the group's own clock** ([`crate::Reader::clock`]): only entries advance it, by the
//! running time of whoever leads. It stands still while nobody leads and never runs ahead of real
//! time, so that no lease ends early, on any replica, whatever was killed, paused or restored.
//!
//! **Attachments are not stored a second time**: the newest version of a key says which lease it is
//! attached to, so a put, an overwriting put and a delete attach and detach by what they are, and
//! nothing can disagree. All derived trees are rebuilt when a checkpoint is read.
//!
//! **A renewal leaves the index behind.** It happens every few seconds, on every replica, for every
//! lease; a deadline is of interest once, when it comes. So a lease's place among those due says no
//! more than that it is not over *before* that; [`State::settle_leases`] gives those whose place
//! has come the place of their deadline, once in the life of a deadline: whoever leads for all, and
//! others for a few at a time, so that not everything is left for when they come to lead. What
//! can be read of leases is the same with an index that was left behind and one that was not.
//!
//! **A tied lease** is the shadow of one in another group, its parent, so that keys of two groups
//! go with one lease. It has no end of its own, and nobody can renew it: whoever leads this group
//! ends it when its parent has ended. Ids are used again, so both say in which slot of the other
//! group's log the parent was granted.

use std::time::Duration;

use base::Slot;
use bytes::{Buf, Bytes};

use crate::digest::hash_row;
use crate::keyspace::{Row, Rows};
use crate::reader::Reader;
use crate::space::Space;
use crate::state::State;
use crate::tree::{Tree, TreeBuilder, TreeKey, Weigh};

/// Names a lease; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A lease as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// For how long it was granted, and is renewed each time.
    pub granted: Duration,
    /// When it is over, on the group's clock. It lasts until an entry says that it has ended. Of a
    /// tied lease this says nothing.
    pub deadline: Duration,
    /// The slot in which it was granted: another lease of this id has another one.
    pub since: Slot,
    /// It is tied to the lease of this id in another group, that was granted in this slot there.
    pub parent: Option<Slot>,
}

/// The length of a lease's row.
const ROW_LENGTH: usize = 40;
/// Where the slots are in it.
const SLOTS: usize = 24;
/// The deadline of a tied lease is never seen.
const NEVER: Duration = Duration::from_secs(9_000_000_000);

impl Lease {
    /// A lease that begins at `clock`.
    pub(crate) fn from(clock: Duration, id: LeaseId, granted: Duration, since: Slot) -> Lease {
        Lease {
            id,
            granted,
            deadline: clock.saturating_add(granted),
            since,
            parent: None,
        }
    }

    /// The shadow of a lease of another group, from `clock` on.
    pub(crate) fn tied(clock: Duration, tie: &Tie, since: Slot) -> Lease {
        Lease {
            deadline: clock.saturating_add(NEVER),
            parent: Some(tie.parent),
            ..Lease::from(clock, tie.id, tie.granted, since)
        }
    }

    /// The same, from `clock` on.
    pub(crate) fn renewed(self, clock: Duration) -> Lease {
        Lease {
            deadline: clock.saturating_add(self.granted),
            ..self
        }
    }

    /// The row's value. Layout (little-endian): granted as seconds u64 and nanoseconds u32, the
    /// deadline likewise; the slot in which it was granted u64; 0, or the parent's and one, u64.
    pub(crate) fn encode(&self) -> [u8; ROW_LENGTH] {
        let mut bytes = [0; ROW_LENGTH];
        let (times, slots) = bytes.split_at_mut(SLOTS);
        for (half, time) in times.chunks_mut(12).zip([self.granted, self.deadline]) {
            half[..8].copy_from_slice(&time.as_secs().to_le_bytes());
            half[8..].copy_from_slice(&time.subsec_nanos().to_le_bytes());
        }
        let parent = self
            .parent
            .map_or(0, |Slot(parent)| parent.saturating_add(1));
        slots[..8].copy_from_slice(&self.since.0.to_le_bytes());
        slots[8..].copy_from_slice(&parent.to_le_bytes());
        bytes
    }

    fn due(&self) -> Due {
        Due {
            not_before: self.deadline,
            id: self.id,
        }
    }

    /// Reads a row of the state.
    pub(crate) fn of_row(key: &[u8], value: &[u8]) -> Lease {
        Lease::decode(key, value).expect("rows of leases are checked when they are written")
    }

    /// Reads a row; `None` if it is not that of a lease.
    pub(crate) fn decode(key: &[u8], mut value: &[u8]) -> Option<Lease> {
        let id = LeaseId((u64::from_be_bytes(key.try_into().ok()?) ^ SIGN) as i64);
        if id == LeaseId(0) || value.len() != ROW_LENGTH {
            return None;
        }
        let granted = get_time(&mut value)?;
        let deadline = get_time(&mut value)?;
        let since = Slot(value.try_get_u64_le().ok()?);
        let parent = value.try_get_u64_le().ok()?;
        Some(Lease {
            id,
            granted,
            deadline,
            since,
            parent: parent.checked_sub(1).map(Slot),
        })
    }
}

/// What is known of a lease of another group that keys of this one shall go with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tie {
    /// Its name, there and here.
    pub id: LeaseId,
    /// For how long it was granted.
    pub granted: Duration,
    /// The slot of the other group's log in which it was granted.
    pub parent: Slot,
}

fn get_time(value: &mut &[u8]) -> Option<Duration> {
    let seconds = value.try_get_u64_le().ok()?;
    let nanoseconds = value.try_get_u32_le().ok()?;
    (nanoseconds < 1_000_000_000).then(|| Duration::new(seconds, nanoseconds))
}

/// Ids may be negative; with the sign turned over, rows are in the order of ids.
const SIGN: u64 = 1 << 63;

/// The key of a lease's row.
pub(crate) fn row_key(id: LeaseId) -> [u8; 8] {
    (id.0 as u64 ^ SIGN).to_be_bytes()
}

/// A lease by when it is over at the earliest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    not_before: Duration,
    id: LeaseId,
}

/// A key that goes with a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attachment {
    lease: LeaseId,
    space: Space,
    key: Bytes,
}

impl TreeKey for Due {
    const HAS_TEXT: bool = false;
    type Words = [u64; 0];

    fn text(&self) -> &[u8] {
        &[]
    }
}

impl TreeKey for LeaseId {
    const HAS_TEXT: bool = false;
    type Words = [u64; 0];

    fn text(&self) -> &[u8] {
        &[]
    }
}

impl TreeKey for Attachment {
    const HAS_TEXT: bool = false;
    type Words = [u64; 0];

    fn text(&self) -> &[u8] {
        &[]
    }
}

/// The value of a tree that only its keys matter in; counts one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Present;

impl Weigh for Present {
    fn weight(&self) -> u64 {
        1
    }
}

/// Where a lease is in the index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    not_before: Duration,
}

impl Weigh for Place {
    fn weight(&self) -> u64 {
        1
    }
}

/// What is derived from the rows of leases and from the keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeaseIndex {
    /// Each lease once, no later than its deadline.
    due: Tree<Due, Present>,
    /// Where each is.
    places: Tree<LeaseId, Place>,
    attached: Tree<Attachment, Present>,
    /// Leases that have a parent.
    tied: Tree<LeaseId, Present>,
}

impl LeaseIndex {
    /// A lease begins, is changed, or ends.
    pub(crate) fn change(&mut self, before: Option<Lease>, after: Option<Lease>) {
        let tied = |lease: Option<Lease>| lease.filter(|each| each.parent.is_some());
        match (tied(before), tied(after)) {
            (None, Some(after)) => {
                self.tied.insert(after.id, Present);
            }
            (Some(before), None) => {
                self.tied.remove_found(&[], |other| other.cmp(&before.id));
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        match (before, after) {
            // It keeps its place: see the head of this file.
            (Some(before), Some(after)) if after.deadline >= before.deadline => {}
            (before, after) => {
                if let Some(before) = before {
                    self.remove(before.id);
                }
                if let Some(after) = after {
                    self.insert(after.due());
                }
            }
        }
    }

    fn insert(&mut self, due: Due) {
        let Due { not_before, id } = due;
        self.due.insert(due, Present);
        self.places.insert(id, Place { not_before });
    }

    fn remove(&mut self, id: LeaseId) {
        let place = self.places.remove_found(&[], |other| other.cmp(&id));
        let (_, Place { not_before }) = place.expect("every lease has a place");
        let due = Due { not_before, id };
        let removed = self.due.remove_found(&[], |other| other.cmp(&due));
        assert!(removed.is_some(), "every lease is where its place says");
    }

    /// The newest version of a key names another lease than the one before (0: none).
    pub(crate) fn attach(&mut self, space: Space, key: &Bytes, before: i64, after: i64) {
        if before == after {
            return;
        }
        if before != 0 {
            let place = |other: &Attachment| {
                let of_lease = other.lease.cmp(&LeaseId(before));
                of_lease.then_with(|| (other.space, &other.key).cmp(&(space, key)))
            };
            self.attached.remove(&[], place);
        }
        if after != 0 {
            let attachment = Attachment {
                lease: LeaseId(after),
                space,
                key: key.clone(),
            };
            self.attached.insert(attachment, Present);
        }
    }
}

/// Gathers what a checkpoint brings, and builds the index of it.
#[derive(Debug, Default)]
pub(crate) struct LeaseIndexBuilder {
    due: Vec<Due>,
    attached: Vec<Attachment>,
    tied: Vec<LeaseId>,
}

impl LeaseIndexBuilder {
    pub(crate) fn lease(&mut self, lease: &Lease) {
        self.due.push(lease.due());
        if lease.parent.is_some() {
            self.tied.push(lease.id);
        }
    }

    pub(crate) fn newest_version(&mut self, space: Space, key: &Bytes, lease: i64) {
        if lease != 0 {
            self.attached.push(Attachment {
                lease: LeaseId(lease),
                space,
                key: key.clone(),
            });
        }
    }

    /// The index; `None` if a key is attached to a lease that does not exist.
    pub(crate) fn finish(mut self) -> Option<LeaseIndex> {
        let mut ids: Vec<LeaseId> = self.due.iter().map(|due| due.id).collect();
        ids.sort_unstable();
        let exists = |each: &Attachment| ids.binary_search(&each.lease).is_ok();
        if !self.attached.iter().all(exists) {
            return None;
        }
        self.due.sort_unstable();
        self.attached.sort_unstable();
        self.tied.sort_unstable();
        let mut tied = TreeBuilder::default();
        self.tied.into_iter().for_each(|id| tied.push(id, Present));
        let (mut due, mut attached) = (TreeBuilder::default(), TreeBuilder::default());
        let mut places: Vec<(LeaseId, Duration)> = Vec::with_capacity(self.due.len());
        for each in self.due {
            places.push((each.id, each.not_before));
            due.push(each, Present);
        }
        places.sort_unstable();
        let mut by_id = TreeBuilder::default();
        for (id, not_before) in places {
            by_id.push(id, Place { not_before });
        }
        let attachments = self.attached.into_iter();
        attachments.for_each(|each| attached.push(each, Present));
        Some(LeaseIndex {
            due: due.finish(),
            places: by_id.finish(),
            attached: attached.finish(),
            tied: tied.finish(),
        })
    }
}

impl State {
    /// Lets leases begin anew, from now on: as [`crate::Transaction::renew_lease`] for each, in a
    /// transaction of their own that is committed. For how long each is granted, in the order of
    /// `ids`; `None` if it does not exist.
    ///
    /// Renewals come in thousands, and what a general transaction does for each (a row and a pair
    /// in an ordered map of its own) costs more than the renewal. Here each row is found and
    /// changed with one walk, in the order of ids, so that neighbours are found in memory that has
    /// just been touched.
    ///
    /// # Panics
    /// If no entry is being executed.
    pub fn renew_leases(&mut self, ids: &[LeaseId]) -> Vec<Option<Duration>> {
        assert!(self.reader.executing, "leases are renewed within an entry");
        let clock = self.reader.scalars.clock;
        let mut order: Vec<(LeaseId, usize)> = ids.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let mut granted = vec![None; ids.len()];
        for (id, index) in order {
            granted[index] = self.reader.rows.renew_row(id, clock);
        }
        granted
    }

    /// Gives leases whose place among those due has come by `clock`, and that were renewed since,
    /// the place of their deadline: of so many of the first ones in the index. This changes nothing
    /// of what can be read, but how soon it is known that none of them is due. Returns whether
    /// those were all whose place has come; if not, one that is over may stand behind them.
    pub fn settle_leases(&mut self, clock: Duration, most: usize) -> bool {
        let rows = &mut self.reader.rows;
        if rows.lease_index.due.is_empty() {
            return most > 0;
        }
        let come = rows.lease_index.due.iterate().map(|(due, _)| *due);
        let come = come.take_while(|due| due.not_before <= clock).take(most);
        let mut looked_at = 0;
        let left_behind = come.filter_map(|due| {
            looked_at += 1;
            let lease = rows.lease(due.id).expect("the index has rows");
            (lease.deadline > due.not_before).then_some(lease)
        });
        let left_behind: Vec<Lease> = left_behind.collect();
        for lease in left_behind {
            rows.lease_index.remove(lease.id);
            rows.lease_index.insert(lease.due());
        }
        looked_at < most
    }
}

/// Changes a row's value, in place where no snapshot shares it.
fn overwrite(value: &mut Bytes, new: &[u8]) {
    *value = match std::mem::take(value).try_into_mut() {
        Ok(mut own) if own.len() == new.len() => {
            own.copy_from_slice(new);
            own.freeze()
        }
        _ => Bytes::copy_from_slice(new),
    };
}

impl Rows {
    /// Lets the row of a lease begin anew; for how long it is granted.
    fn renew_row(&mut self, id: LeaseId, clock: Duration) -> Option<Duration> {
        let (space, key) = (Space::LEASES, row_key(id));
        let place = |other: &Bytes| other.as_ref().cmp(&key);
        let renewed = self.plain_mut(space).update(&key, place, |Row(value)| {
            let before = Lease::of_row(&key, value);
            if before.parent.is_some() {
                return (before, before);
            }
            let after = before.renewed(clock);
            assert!(
                before.deadline <= after.deadline,
                "the group's clock never goes back, so no place comes too late"
            );
            if before.deadline != after.deadline {
                overwrite(value, &after.encode());
            }
            (before, after)
        });
        let (before, after) = renewed?;
        if before.deadline != after.deadline {
            let hash = |lease: &Lease| hash_row(space, &key, &lease.encode());
            self.digest.subtract(hash(&before));
            self.digest.add(hash(&after));
        }
        after.parent.is_none().then_some(after.granted)
    }

    /// A lease, if it exists.
    pub(crate) fn lease(&self, id: LeaseId) -> Option<Lease> {
        let key = row_key(id);
        let find = |other: &Bytes| other.as_ref().cmp(&key);
        let (_, Row(value)) = self.plain(Space::LEASES).find(&key, find)?;
        Some(Lease::of_row(&key, value))
    }

    /// The keys attached to a lease: by space, then in their order.
    pub(crate) fn lease_keys(&self, id: LeaseId) -> impl Iterator<Item = (Space, &Bytes)> {
        let attached = &self.lease_index.attached;
        let pairs = attached.iterate_from(&[], move |each| each.lease < id);
        pairs
            .map(|(each, _)| each)
            .take_while(move |each| each.lease == id)
            .map(|each| (each.space, &each.key))
    }
}

impl Reader {
    /// A lease, if it exists.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.rows.lease(id)
    }

    /// How many leases there are.
    #[must_use]
    pub fn lease_count(&self) -> u64 {
        self.rows.lease_index.due.weight()
    }

    /// Leases that are tied to those of another group, in the order of ids, behind `after`.
    pub fn tied_leases(&self, after: Option<LeaseId>) -> impl Iterator<Item = Lease> + '_ {
        let tied = &self.rows.lease_index.tied;
        let behind = tied.iterate_from(&[], move |id| Some(*id) <= after);
        behind.map(|(id, _)| self.lease(*id).expect("the index has rows"))
    }

    /// Whether any lease is tied to one of another group.
    #[must_use]
    pub fn has_tied_leases(&self) -> bool {
        self.rows.lease_index.tied.weight() > 0
    }

    /// All leases, in the order of ids.
    pub fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        let rows = self.rows.plain(Space::LEASES).iterate();
        rows.map(|(key, Row(value))| Lease::of_row(key, value))
    }

    /// All leases, the one that is due first at the front; equal deadlines in the order of ids.
    /// Gathers and sorts all of them ([`Reader::lease_count`]) before it gives the first.
    pub fn leases_by_deadline(&self) -> impl Iterator<Item = Lease> + '_ {
        let mut leases: Vec<Lease> = self.leases().collect();
        leases.sort_unstable_by_key(|lease| (lease.deadline, lease.id));
        leases.into_iter()
    }

    /// Before this, on the group's clock, no lease is over; `None` if there is none. It is the
    /// first deadline, or earlier where [`State::settle_leases`] has not followed renewals yet.
    #[must_use]
    pub fn no_lease_due_before(&self) -> Option<Duration> {
        // Asked for in every pass, and few groups have leases.
        if self.rows.lease_index.due.is_empty() {
            return None;
        }
        let (due, _) = self.rows.lease_index.due.iterate().next()?;
        Some(due.not_before)
    }

    /// The leases that are over at `clock`, with their deadlines; the longest over first, as far
    /// as [`State::settle_leases`] has gone. Looks at so many of the first ones in the index: those
    /// that were settled and are over are at its front.
    pub fn leases_due(
        &self,
        clock: Duration,
        most: usize,
    ) -> impl Iterator<Item = (LeaseId, Duration)> + '_ {
        let due = self.rows.lease_index.due.iterate();
        due.take_while(move |(due, _)| due.not_before <= clock)
            .take(most)
            .map(|(due, _)| self.lease(due.id).expect("the index has rows"))
            .filter(move |lease| lease.deadline <= clock)
            .map(|lease| (lease.id, lease.deadline))
    }

    /// The keys attached to a lease: by space, then in their order. Empty if it does not exist.
    pub fn lease_keys(&self, id: LeaseId) -> impl Iterator<Item = (Space, &Bytes)> {
        self.rows.lease_keys(id)
    }

    /// How many keys are attached to a lease; takes logarithmic time.
    #[must_use]
    pub fn lease_key_count(&self, id: LeaseId) -> u64 {
        let attached = &self.rows.lease_index.attached;
        let upto = attached.weight_before(&[], |each| each.lease <= id);
        upto - attached.weight_before(&[], |each| each.lease < id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_are_in_the_order_of_ids_and_no_part_of_one_is_one() {
        let ids = [i64::MIN, -2, -1, 1, 2, i64::MAX].map(LeaseId);
        assert!(ids.is_sorted_by_key(|id| row_key(*id)));
        for id in ids {
            let (clock, granted) = (Duration::new(7, 8), Duration::from_secs(9_000_000_000));
            let lease = Lease::from(clock, id, granted, Slot(9));
            let parent = Slot(id.0.unsigned_abs() - 1);
            let tied = Lease::tied(
                clock,
                &Tie {
                    id,
                    granted,
                    parent,
                },
                Slot(9),
            );
            assert_eq!(Lease::decode(&row_key(id), &tied.encode()), Some(tied));
            let (key, value) = (row_key(id), lease.encode());
            assert_eq!(Lease::decode(&key, &value), Some(lease));
            for length in 0..ROW_LENGTH {
                assert_eq!(Lease::decode(&key, &value[..length]), None);
            }
            assert_eq!(Lease::decode(&key[..7], &value), None);
        }
        let lease = Lease::from(Duration::ZERO, LeaseId(0), Duration::ZERO, Slot(0));
        let (key, value) = (row_key(LeaseId(0)), lease.encode());
        assert_eq!(Lease::decode(&key, &value), None, "0 names no lease");
    }
}
