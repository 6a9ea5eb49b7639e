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
}

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub(super) struct Writes {
    last: Mark,
    durable: Mark,
    under_way: VecDeque<Run>,
    /// When each write that is not durable was begun.
    begun: VecDeque<(Mark, Instant)>,
    waiting_since: Instant,
}

impl Writes {
    /// Begins a write.
    pub(super) fn begin(&mut self, now: Instant) -> Mark {
        self.last = Mark(self.last.0 + 1);
        if self.durable.0 + 1 == self.last.0 {
            self.waiting_since = now;
        }
        self.begun.push_back((self.last, now));
        self.last
    }

    /// The write that was begun last holds these slots.
    pub(super) fn add(&mut self, first: Slot, last: Slot) {
        let mark = self.last;
        match self.under_way.back_mut() {
            _ if first > last => {}
            Some(run) if run.mark == mark && run.last.next() == first => run.last = last,
            _ => self.under_way.push_back(Run { mark, first, last }),
        }
    }

    /// Nothing under way makes `from` or anything behind it durable.
    pub(super) fn cut(&mut self, from: Slot) {
        self.under_way.retain_mut(|run| {
            run.last = run.last.min(Slot(from.0 - 1));
            run.first <= run.last
        });
    }

    /// How long the oldest write under way takes, if the journal has completed up to `mark`.
    pub(super) fn took(&self, mark: Mark, now: Instant) -> Option<Duration> {
        let oldest = self.begun.front().filter(|begun| begun.0 <= mark)?;
        Some(now.since(oldest.1))
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
        while self.begun.front().is_some_and(|begun| begun.0 <= mark) {
            self.begun.pop_front();
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
