//! Which writes the journal has not made durable yet, and what stands in each.
//!
//! As in Raft (`journaling.rs`), but a write holds runs of slots instead of a prefix. What is under
//! way for slots that were accepted anew meanwhile, under another ballot, is cut off: it makes
//! nothing durable that still counts.

use std::collections::VecDeque;
use std::time::Duration;

use base::{Instant, Slot};

use crate::engine::Mark;
use crate::slots::Slots;

/// A run of slots in a write; of a write without entries, an empty one.
#[derive(Clone, Copy, Debug)]
struct Run {
    mark: Mark,
    first: Slot,
    last: Slot,
    begun: Instant,
}

impl Run {
    fn is_empty(&self) -> bool {
        self.first > self.last
    }
}

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub(super) struct Writes {
    last: Mark,
    durable: Mark,
    /// The runs of every write that is not durable, at least one for each.
    under_way: VecDeque<Run>,
    waiting_since: Instant,
}

impl Writes {
    /// Begins a write.
    pub(super) fn begin(&mut self, now: Instant) -> Mark {
        self.last = Mark(self.last.0 + 1);
        if self.durable.0 + 1 == self.last.0 {
            self.waiting_since = now;
        }
        self.under_way.push_back(Run {
            mark: self.last,
            first: Slot(1),
            last: Slot(0),
            begun: now,
        });
        self.last
    }

    /// The write that was begun last holds these slots.
    pub(super) fn add(&mut self, first: Slot, last: Slot) {
        let newest = self.under_way.back_mut();
        let newest = newest.expect("a write was begun, and is not durable");
        if first > last {
            return;
        }
        if newest.is_empty() {
            (newest.first, newest.last) = (first, last);
        } else if newest.last.next() == first {
            newest.last = last;
        } else {
            let run = Run {
                first,
                last,
                ..*newest
            };
            self.under_way.push_back(run);
        }
    }

    /// Nothing under way makes `from` or anything behind it durable.
    pub(super) fn cut(&mut self, from: Slot) {
        for run in &mut self.under_way {
            run.last = run.last.min(from.previous());
        }
    }

    /// How long the oldest write under way takes, if the journal has completed up to `mark`.
    pub(super) fn took(&self, mark: Mark, now: Instant) -> Option<Duration> {
        let oldest = self.under_way.front().filter(|run| run.mark <= mark)?;
        Some(now.since(oldest.begun))
    }

    /// All writes up to `mark` are durable: adds what stood in them to `stored`.
    pub(super) fn complete(&mut self, mark: Mark, now: Instant, stored: &mut Slots) {
        assert!(
            mark <= self.last,
            "only writes that were given become durable"
        );
        if mark > self.durable {
            self.durable = mark;
            self.waiting_since = now;
        }
        while let Some(run) = self.under_way.front().filter(|run| run.mark <= mark) {
            stored.insert(run.first, run.last);
            self.under_way.pop_front();
        }
    }

    /// The mark to wait for if everything that was given so far must be durable; `None` if it is.
    pub(super) fn pending(&self) -> Option<Mark> {
        (self.last > self.durable).then_some(self.last)
    }

    pub(super) fn is_durable(&self, mark: Mark) -> bool {
        mark <= self.durable
    }

    /// Since when nothing became durable although something is under way, and the last slot of
    /// the oldest write with entries.
    pub(super) fn waiting(&self) -> Option<(Instant, Slot)> {
        let mut with_slots = self.under_way.iter().filter(|run| !run.is_empty());
        let oldest = with_slots.next();
        oldest.map(|run| (self.waiting_since, run.last))
    }
}
