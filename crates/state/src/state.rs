//! The state of one replica, and how entries change it.
//!
//! ```text
//!   begin_entry(stamp)
//!     admit(origin) ─ Fresh ─► transaction() … commit()     any number of times
//!   end_entry() ─► event batches           (writes the origins' rows, does a bit of compaction)
//! ```
//!
//! All replicas of a group run the same entries through this and hold the same state after each,
//! which their digests show. Nothing here depends on anything but the state and the entry: not
//! on snapshots that happen to be held, not on how a tree came to its shape.

use std::time::Duration;

use base::{Epoch, NodeId, Slot, WallTime};
use bytes::Bytes;

use crate::digest::Digest;
use crate::interruption::Interruption;
use crate::key_value::EventBatch;
use crate::keyspace::{Change, Rows};
use crate::limits::Limits;
use crate::origin::{Admission, Origin, Window, row_key};
use crate::reader::{Reader, Scalars, Snapshot};
use crate::space::Space;
use crate::transaction::Transaction;

/// What the leader stamped on an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryStamp {
    /// Where the entry stands.
    pub slot: Slot,
    /// The epoch in which it was put there.
    pub epoch: Epoch,
    /// Wall time; the state keeps the greatest seen.
    pub wall: WallTime,
    /// The leader's running time since its previous entry, zero for its first; moves the group's
    /// clock.
    pub elapsed: Duration,
}

/// The replicated state of a group, as one replica holds it.
#[derive(Debug)]
pub struct State {
    pub(crate) reader: Reader,
    /// The windows that this entry has changed; written as rows at its end.
    windows: Vec<(NodeId, Window)>,
    /// The events of this entry.
    pub(crate) batches: Vec<EventBatch>,
    pub(crate) interruption: Interruption,
    /// The level from the next entry on, if this one raises it.
    pub(crate) raised: Option<u32>,
}

impl State {
    /// A state in which nothing has happened: slot 0, revision 1.
    #[must_use]
    pub fn new(limits: Limits) -> State {
        let scalars = Scalars {
            applied: Slot(0),
            epoch: Epoch(0),
            wall: WallTime(0),
            clock: Duration::ZERO,
            revision: 1,
            compacted: 0,
            compaction_next: Change {
                revision: 1,
                order: 0,
            },
            level: 1,
            settings: limits.settings,
        };
        State::from_parts(Rows::default(), scalars)
    }

    /// A state that has passed everything up to `slot`, an entry of `epoch`, and holds none of it:
    /// all that a witness has of its group.
    #[must_use]
    pub fn passed(limits: Limits, slot: Slot, epoch: Epoch) -> State {
        let mut state = State::new(limits);
        let scalars = &mut state.reader.scalars;
        (scalars.applied, scalars.epoch) = (slot, epoch);
        state
    }

    pub(crate) fn from_parts(rows: Rows, scalars: Scalars) -> State {
        let settings = scalars.settings;
        assert!(
            settings.origin_ranges_max > 0,
            "an origin needs at least one run"
        );
        assert!(
            settings.compaction_steps_per_entry > 0,
            "compaction needs at least one step"
        );
        let reader = Reader {
            rows,
            scalars,
            executing: false,
        };
        State {
            reader,
            windows: Vec::new(),
            batches: Vec::new(),
            interruption: Default::default(),
            raised: None,
        }
    }

    /// Begins to execute the entry after the last one.
    ///
    /// # Panics
    /// If the entry's slot is not the next one, or the entry before was not ended.
    pub fn begin_entry(&mut self, stamp: &EntryStamp) {
        assert!(!self.reader.executing, "the entry before was ended");
        let scalars = &mut self.reader.scalars;
        assert!(
            stamp.slot == scalars.applied.next(),
            "slot {} does not follow slot {}",
            stamp.slot,
            scalars.applied
        );
        scalars.applied = stamp.slot;
        scalars.epoch = stamp.epoch;
        scalars.wall = scalars.wall.max(stamp.wall);
        scalars.clock = scalars.clock.saturating_add(stamp.elapsed);
        self.reader.executing = true;
    }

    /// Judges a command by its origin, and records it as executed if it is fresh. The record
    /// stays even if the command's transaction is dropped.
    ///
    /// # Panics
    /// If no entry is being executed.
    pub fn admit(&mut self, origin: Origin) -> Admission {
        assert!(
            self.reader.executing,
            "commands are admitted within an entry"
        );
        let settings = self.reader.scalars.settings;
        if let Some((_, window)) = self
            .windows
            .iter_mut()
            .find(|(node, _)| *node == origin.node)
        {
            return window.admit(origin, &settings);
        }
        let row = self.reader.row(Space::ORIGINS, &row_key(origin.node));
        let mut window = row.map_or_else(
            || Window::new(origin.incarnation),
            |row| Window::decode(&row).expect("rows of origins are checked when they are written"),
        );
        let admission = window.admit(origin, &settings);
        if admission == Admission::Fresh {
            self.windows.push((origin.node, window));
        }
        admission
    }

    /// Begins a transaction. Its effects are invisible until it is committed.
    ///
    /// # Panics
    /// If no entry is being executed.
    pub fn transaction(&mut self) -> Transaction<'_> {
        assert!(self.reader.executing, "transactions run within an entry");
        Transaction::new(self)
    }

    /// Ends the entry: writes what was recorded of origins, does a bounded piece of compaction,
    /// and returns the events of the entry, one batch per revision, in order.
    ///
    /// # Panics
    /// If no entry is being executed.
    #[must_use = "the events go to the watches; drop them knowingly"]
    pub fn end_entry(&mut self) -> Vec<EventBatch> {
        assert!(self.reader.executing, "an entry was begun");
        let Reader {
            rows,
            scalars,
            executing,
        } = &mut self.reader;
        for (node, window) in self.windows.drain(..) {
            let key = Bytes::copy_from_slice(&row_key(node));
            rows.set_row(Space::ORIGINS, key, Some(Bytes::from(window.encode())));
        }
        let floor = scalars.compacted;
        if scalars.compaction_next.revision <= floor {
            let changes = self.batches.iter().map(|batch| batch.events.len()).sum();
            let steps = scalars.settings.compaction_steps(changes);
            scalars.compaction_next = rows.compact(floor, scalars.compaction_next, steps);
        }
        if let Some(level) = self.raised.take() {
            scalars.level = scalars.level.max(level);
        }
        *executing = false;
        std::mem::take(&mut self.batches)
    }

    /// Passes an entry that holds no commands: only the slot and the clocks move.
    ///
    /// # Panics
    /// As [`State::begin_entry`].
    pub fn skip_entry(&mut self, stamp: &EntryStamp) {
        self.begin_entry(stamp);
        self.reader.executing = false;
    }

    /// Whether compaction has work left, which only the ends of further entries can do.
    #[must_use]
    pub fn compaction_pending(&self) -> bool {
        self.reader.compaction_pending()
    }

    /// The live state, in place.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The state as it is now, for keeping; takes constant time.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.reader.clone())
    }

    /// The digest of the state; replicas compare theirs at the same slot.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.reader.digest()
    }

    /// Forgets the windows of origins whose rows were deleted by this entry.
    pub(crate) fn forget_window(&mut self, key: &[u8]) {
        self.windows.retain(|(node, _)| row_key(*node) != key);
    }
}
