//! Which writes the journal has not made durable yet.
//!
//! Every write has a mark; the journal reports marks. For each write under way it is remembered up
//! to which slot the log stood in the journal with it, so that a mark can be turned into a slot.
//! When the log is cut, older writes under way count only up to the cut: what they make durable
//! behind it is not the log any more.
//!
//! It is also remembered since when the disk owes something: since a write last became durable, or
//! since the first write after a rest. The age of a single write would say little: behind a burst
//! of large ones, a write waits long for a disk that works as fast as it can.

use std::collections::VecDeque;
use std::time::Duration;

use base::{Instant, Slot};

use crate::engine::Mark;

/// One write under way.
#[derive(Clone, Copy, Debug)]
struct Write {
    mark: Mark,
    upto: Slot,
    begun: Instant,
}

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journaling {
    last: Mark,
    durable: Mark,
    under_way: VecDeque<Write>,
    /// When a write last became durable, or was given while none was under way.
    waiting_since: Instant,
}

impl Journaling {
    /// Begins a write after which the journal holds the log up to `upto`.
    pub(crate) fn begin(&mut self, upto: Slot, now: Instant) -> Mark {
        self.last = Mark(self.last.0 + 1);
        if self.under_way.is_empty() {
            self.waiting_since = now;
        }
        self.under_way.push_back(Write {
            mark: self.last,
            upto,
            begun: now,
        });
        self.last
    }

    /// The log was cut: nothing under way makes `from` or anything behind it durable.
    pub(crate) fn cut(&mut self, from: Slot) {
        for write in &mut self.under_way {
            write.upto = write.upto.min(from.previous());
        }
    }

    /// All writes up to `mark` are durable. Returns up to which slot the log is, if that is news.
    pub(crate) fn complete(&mut self, mark: Mark, now: Instant) -> Option<Slot> {
        assert!(
            mark <= self.last,
            "only writes that were given become durable"
        );
        if mark > self.durable {
            self.durable = mark;
            self.waiting_since = now;
        }
        let mut upto = None;
        while self
            .under_way
            .front()
            .is_some_and(|write| write.mark <= mark)
        {
            upto = upto.max(self.under_way.pop_front().map(|write| write.upto));
        }
        upto
    }

    /// How long the oldest write under way takes, if the journal has completed up to `mark`.
    pub(crate) fn took(&self, mark: Mark, now: Instant) -> Option<Duration> {
        let write = self.under_way.front().filter(|write| write.mark <= mark)?;
        Some(now.since(write.begun))
    }

    /// The mark to wait for if everything that was given so far must be durable; `None` if it is.
    pub(crate) fn pending(&self) -> Option<Mark> {
        (self.last > self.durable).then_some(self.last)
    }

    /// Whether everything up to `mark` is durable.
    pub(crate) fn is_durable(&self, mark: Mark) -> bool {
        mark <= self.durable
    }

    /// Since when nothing became durable although something is under way, and up to which slot
    /// the oldest write under way goes.
    pub(crate) fn waiting(&self) -> Option<(Instant, Slot)> {
        self.under_way
            .front()
            .map(|write| (self.waiting_since, write.upto))
    }
}
