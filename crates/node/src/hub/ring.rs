//! The newest revisions' events, as the node published them: shared with the other hubs of the
//! node, kept up to a number of revisions and bytes, one batch per revision without a gap.

use std::collections::VecDeque;
use std::sync::Arc;

use state::{EventBatch, Revision};

use super::history::batch_bytes;
use super::limits::HubLimits;

/// What one publication brought.
#[derive(Debug)]
struct Segment {
    /// Its first revision.
    first: i64,
    batches: Arc<[EventBatch]>,
    bytes: usize,
}

/// The newest revisions.
#[derive(Debug)]
pub(super) struct Ring {
    segments: VecDeque<Segment>,
    last: i64,
    bytes: usize,
    revisions: usize,
}

impl Ring {
    /// A ring that goes on after `last`.
    pub(super) fn new(last: Revision) -> Ring {
        Ring {
            segments: VecDeque::new(),
            last: last.0,
            bytes: 0,
            revisions: 0,
        }
    }

    /// The oldest revision that is here; the next one there will be, if none is.
    pub(super) fn first(&self) -> i64 {
        self.segments
            .front()
            .map_or(self.last + 1, |segment| segment.first)
    }

    /// The newest revision that was here.
    pub(super) fn last(&self) -> i64 {
        self.last
    }

    /// Adds what follows.
    pub(super) fn push(&mut self, batches: Arc<[EventBatch]>) {
        if batches.is_empty() {
            return;
        }
        let first = self.last + 1;
        for batch in batches.iter() {
            assert!(
                batch.revision.0 == self.last + 1,
                "revision {} is published after revision {}",
                batch.revision,
                self.last
            );
            self.last += 1;
        }
        let bytes = batches.iter().map(batch_bytes).sum();
        self.bytes += bytes;
        self.revisions += batches.len();
        self.segments.push_back(Segment {
            first,
            batches,
            bytes,
        });
    }

    /// Lets go of the oldest, down to the limits.
    pub(super) fn trim(&mut self, limits: &HubLimits) {
        while self.bytes > limits.ring_bytes || self.revisions > limits.ring_revisions {
            let Some(oldest) = self.segments.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes;
            self.revisions -= oldest.batches.len();
        }
    }

    /// The batches from a revision on that is here, or the next one.
    pub(super) fn from(&self, revision: i64) -> impl Iterator<Item = &EventBatch> {
        assert!(
            revision >= self.first(),
            "revision {revision} has left the ring"
        );
        let newest = self.segments.len().saturating_sub(1);
        let start = match self.segments.back() {
            // What is asked for most often.
            Some(segment) if segment.first <= revision => newest,
            _ => self
                .segments
                .partition_point(|segment| segment.first <= revision)
                .saturating_sub(1),
        };
        let skipped = self
            .segments
            .get(start)
            .map_or(0, |segment| (revision - segment.first) as usize);
        self.segments
            .range(start..)
            .flat_map(|segment| segment.batches.iter())
            .skip(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(revisions: std::ops::RangeInclusive<i64>) -> Arc<[EventBatch]> {
        let batch = |revision| EventBatch {
            revision: Revision(revision),
            events: Vec::new(),
        };
        revisions.map(batch).collect()
    }

    fn from(ring: &Ring, revision: i64) -> Vec<i64> {
        ring.from(revision).map(|batch| batch.revision.0).collect()
    }

    #[test]
    fn begins_anywhere_and_forgets_whole_publications() {
        let mut ring = Ring::new(Revision(9));
        assert_eq!((ring.first(), ring.last()), (10, 9));
        assert_eq!(from(&ring, 10), []);
        ring.push(batches(10..=12));
        ring.push(batches(13..=13));
        ring.push([].into());
        ring.push(batches(14..=15));
        assert_eq!(from(&ring, 10), [10, 11, 12, 13, 14, 15]);
        assert_eq!(from(&ring, 12), [12, 13, 14, 15]);
        assert_eq!(from(&ring, 13), [13, 14, 15]);
        assert_eq!(from(&ring, 15), [15]);
        assert_eq!(from(&ring, 16), []);
        let limits = HubLimits {
            ring_revisions: 5,
            ..HubLimits::default()
        };
        ring.trim(&limits);
        assert_eq!((ring.first(), ring.last()), (13, 15));
        let limits = HubLimits {
            ring_bytes: 0,
            ..HubLimits::default()
        };
        ring.trim(&limits);
        assert_eq!((ring.first(), ring.last()), (16, 15));
    }

    #[test]
    #[should_panic(expected = "revision 12 is published after revision 10")]
    fn a_gap_is_noticed() {
        let mut ring = Ring::new(Revision(9));
        ring.push(batches(10..=10));
        ring.push(batches(12..=12));
    }
}
