//! A state that was saved, made the first one of a new cluster.
//!
//! What clients may still believe must not become wrong unnoticed:
//!
//! - The revision jumps ahead, further than the old cluster can have come since the state was
//!   saved, so that no revision ever names two things; and all history is compacted, so that a
//!   watch from before is told to begin anew instead of missing what was lost.
//! - Leases get their full time: their holders need it to find the new cluster.
//! - Nobody's commands of before can come again: windows of origins are dropped. So is what was
//!   known of the members, who are others now.

use base::{Epoch, Slot};
use bytes::Bytes;

use crate::key_value::Revision;
use crate::keyspace::Change;
use crate::lease::Lease;
use crate::reader::Reader;
use crate::space::Space;
use crate::state::State;

/// What becomes of a row of a plain space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Kept,
    /// It belonged to the old cluster alone.
    Dropped,
    /// The new cluster has another one in its place.
    Replaced(Bytes),
}

impl State {
    /// Begins anew: the revision is raised by `raise_by`, everything before is compacted, and rows
    /// of plain spaces that belong to the old cluster are dropped; `fate` says which besides the
    /// state's own.
    ///
    /// # Panics
    /// Within an entry, or if the revision would be beyond what revisions can be.
    pub fn begin_anew(&mut self, raise_by: u64, fate: impl Fn(Space, &[u8]) -> Fate) {
        let Reader {
            rows,
            scalars,
            executing,
        } = &mut self.reader;
        assert!(!*executing, "a state begins anew between entries");
        for space in Space::all().filter(|space| !space.keeps_history()) {
            let is_dropped = matches!(space, Space::ORIGINS | Space::MEMBERS | Space::META);
            let changed = |(key, _): (&Bytes, _)| match fate(space, key) {
                _ if is_dropped => Some((key.clone(), None)),
                Fate::Kept => None,
                Fate::Dropped => Some((key.clone(), None)),
                Fate::Replaced(row) => Some((key.clone(), Some(row))),
            };
            let changes: Vec<_> = rows.plain(space).iterate().filter_map(changed).collect();
            for (key, row) in changes {
                rows.set_row(space, key, row);
            }
        }
        let leases: Vec<(Bytes, Lease)> = rows
            .plain(Space::LEASES)
            .iterate()
            .map(|(key, row)| (key.clone(), Lease::of_row(key, &row.0)))
            .collect();
        for (key, lease) in leases {
            // Its parent is left behind, and so are the slots.
            let renewed = Lease::from(scalars.clock, lease.id, lease.granted, Slot(0));
            let row = Bytes::copy_from_slice(&renewed.encode());
            rows.set_row(Space::LEASES, key, Some(row));
        }
        let old_floor = Change {
            revision: scalars.compacted,
            order: 0,
        };
        scalars.compaction_next = scalars.compaction_next.min(old_floor);
        scalars.revision = i64::try_from(raise_by)
            .ok()
            .and_then(|raise_by| scalars.revision.checked_add(raise_by))
            .filter(|revision| *revision <= Revision::MAX.0)
            .expect("the caller raises the revision to one that can be");
        scalars.compacted = scalars.revision;
        // The log begins behind this, with the first leader's epoch.
        scalars.epoch = Epoch(0);
    }
}
