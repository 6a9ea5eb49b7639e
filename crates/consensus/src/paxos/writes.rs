//! Which writes the journal has not made durable yet, and what stands in each.
//!
//! As in Raft (`journaling.rs`), but a write holds runs of slots instead of a prefix. What is under
//! way for slots that were accepted anew meanwhile, under another ballot, is cut off: it makes
//! nothing durable that still counts.

use std::collections::VecDeque;

use base::{Instant, Slot};

use crate::engine::Mark;
use crate::slots::Slots;

/// A run of slots in a write; of a write without entries, an empty one.
#[derive(Clone, Copy, Debug)]
struct Run {
    mark: Mark,
    first: Slot,
    last: Slot,
}

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub(super) struct Writes {
    last: Mark,
    durable: Mark,
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
        self.last
    }

    /// The write that was begun last holds this slot.
    pub(super) fn add(&mut self, slot: Slot) {
        let mark = self.last;
        match self.under_way.back_mut() {
            Some(run) if run.mark == mark && run.last.next() == slot => run.last = slot,
            _ => self.under_way.push_back(Run {
                mark,
                first: slot,
                last: slot,
            }),
        }
    }

    /// Nothing under way makes `from` or anything behind it durable.
    pub(super) fn cut(&mut self, from: Slot) {
        self.under_way.retain_mut(|run| {
            run.last = run.last.min(Slot(from.0 - 1));
            run.first <= run.last
        });
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
        while self.under_way.front().is_some_and(|run| run.mark <= mark) {
            let run = self.under_way.pop_front().expect("the front is there");
            stored.insert(run.first, run.last);
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
        self.under_way
            .front()
            .map(|run| (self.waiting_since, run.last))
    }
}
