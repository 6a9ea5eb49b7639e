//! Handing chosen entries to the replica, in order, and never more at once than it may hold.
//!
//! The engine says how far the log is chosen, the replica how far it has executed. In between,
//! entries are handed out while their bytes stay within a limit, so that a slow replica leaves
//! its backlog in the journal instead of in memory.

use std::collections::VecDeque;

use base::Slot;

use crate::entries::Entries;

/// See the head of this file.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    delivered: Slot,
    /// Batches handed out and not executed: last slot and bytes.
    batches: VecDeque<(Slot, u64)>,
    batch_bytes: u64,
    limit_bytes: u64,
}

impl Delivery {
    /// Everything up to `applied` is executed.
    pub(crate) fn new(applied: Slot, limit_bytes: u64) -> Delivery {
        Delivery {
            delivered: applied,
            batches: VecDeque::new(),
            batch_bytes: 0,
            limit_bytes,
        }
    }

    /// The slot to hand out next.
    pub(crate) fn next(&self) -> Slot {
        self.delivered.next()
    }

    /// Everything up to here was handed out.
    pub(crate) fn delivered(&self) -> Slot {
        self.delivered
    }

    /// Whether more may be handed out.
    pub(crate) fn has_room(&self) -> bool {
        self.batch_bytes < self.limit_bytes
    }

    /// How many bytes may be handed out.
    pub(crate) fn room(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.batch_bytes)
    }

    /// These are handed out; they begin with [`Delivery::next`].
    pub(crate) fn hand_out(&mut self, entries: &Entries) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        assert!(
            first.slot == self.delivered.next(),
            "chosen entries are handed out in order"
        );
        self.delivered = last.slot;
        self.batches.push_back((last.slot, entries.bytes()));
        self.batch_bytes += entries.bytes();
    }

    /// The replica has executed everything up to `slot`.
    pub(crate) fn executed(&mut self, slot: Slot) {
        assert!(
            slot <= self.delivered,
            "only what was handed out is executed"
        );
        while self.batches.front().is_some_and(|batch| batch.0 <= slot) {
            let (_, bytes) = self.batches.pop_front().expect("the front is there");
            self.batch_bytes -= bytes;
        }
    }

    /// A snapshot took the place of everything up to `slot`.
    pub(crate) fn jump(&mut self, slot: Slot) {
        self.delivered = slot;
        self.batches.clear();
        self.batch_bytes = 0;
    }
}
