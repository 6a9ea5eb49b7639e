//! The files of the journal: those in use, the one prepared next, and the spares.
//!
//! ```text
//!            CreateZeroed            Rename                first batch
//! (nothing) ─────────────▶ spare ─────────────▶ prepared ─────────────▶ in use (the current one)
//!                            ▲      (as Segment(n + 1), unused)            │ every entry released,
//!                            └─────────────────────────────────────────────┘ survivors rewritten
//!                                               Rename
//! ```
//!
//! All of this is done on the background lane while the current segment fills, so that a batch
//! finds its segment ready: zero-filled or recycled, so that writing changes no metadata.

use std::collections::VecDeque;

use crate::disk::{DiskError, File, Lane, Operation, Request, RequestId};

/// A segment in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    /// The length of its file.
    pub(crate) bytes: u64,
}

/// How far the next segment is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Not begun: the current segment is not yet known durable.
    Idle,
    /// A spare is being created.
    Creating { spare: u64 },
    /// A spare is being renamed.
    Renaming,
    /// It is there, under its own name.
    Ready,
    /// It could not be created. Tried again when it is really needed.
    Failed(DiskError),
}

/// What a request about a file was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilePurpose {
    /// Creating a spare for the next segment.
    Create { spare: u64 },
    /// Making a spare the next segment.
    Prepare,
    /// Making a released segment a spare.
    Recycle { spare: u64 },
    /// Deleting a file that is not needed.
    Discard,
}

/// The files of the journal.
#[derive(Debug)]
pub(crate) struct Segments {
    /// In use, oldest first; the last one is the current one.
    pub(crate) in_use: VecDeque<Segment>,
    pub(crate) next: Next,
    /// The length that segments are made with.
    segment_bytes: u64,
    /// Spares that can be used again, and how many more are on their way.
    spares: VecDeque<u64>,
    recycling: usize,
    spares_max: usize,
    /// Names the next spare.
    next_spare: u64,
    /// The number of the first segment.
    first: u64,
}

/// Requests about files, with what they are for; the journal gives them ids.
pub(crate) type FileRequests = Vec<(FilePurpose, Operation)>;

impl Segments {
    pub(crate) fn new(
        in_use: VecDeque<Segment>,
        next_is_ready: bool,
        segment_bytes: u64,
        spares_max: usize,
        next_spare: u64,
    ) -> Segments {
        Segments {
            in_use,
            next: if next_is_ready {
                Next::Ready
            } else {
                Next::Idle
            },
            segment_bytes,
            spares: VecDeque::new(),
            recycling: 0,
            spares_max,
            next_spare,
            first: 1,
        }
    }

    /// The first segment, while there is none, has this number: a damaged log stands before it.
    pub(crate) fn begin_with(&mut self, first: u64) {
        assert!(
            self.in_use.is_empty(),
            "a log begins with its first segment"
        );
        self.first = first;
    }

    /// Whether the next segment is the first one of a log that takes the place of another one.
    pub(crate) fn begins_anew(&self) -> bool {
        self.in_use.is_empty() && self.first > 1
    }

    pub(crate) fn current(&self) -> Option<Segment> {
        self.in_use.back().copied()
    }

    /// The number that the next segment has.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.current()
            .map_or(self.first, |current| current.sequence + 1)
    }

    pub(crate) fn spare_count(&self) -> usize {
        self.spares.len()
    }

    /// Whether a segment that is being recycled will be a spare soon, or one waits.
    pub(crate) fn spare_is_coming(&self) -> bool {
        self.recycling > 0 || !self.spares.is_empty()
    }

    /// A spare that recovery made and nobody uses yet.
    pub(crate) fn add_spare(&mut self, spare: u64) {
        self.spares.push_back(spare);
    }

    /// Starts preparing the next segment, if that is neither done nor under way.
    pub(crate) fn prepare(&mut self, requests: &mut FileRequests) {
        if !matches!(self.next, Next::Idle | Next::Failed(_)) {
            return;
        }
        if let Some(spare) = self.spares.pop_front() {
            self.rename_to_next(spare, requests);
            return;
        }
        let spare = self.new_spare();
        self.next = Next::Creating { spare };
        let file = File::SpareSegment(spare);
        let create = Operation::CreateZeroed {
            file,
            length: self.segment_bytes,
        };
        requests.push((FilePurpose::Create { spare }, create));
    }

    /// The prepared segment becomes the current one.
    pub(crate) fn advance(&mut self) -> Segment {
        assert!(
            self.next == Next::Ready,
            "a segment is prepared before it is used"
        );
        let segment = Segment {
            sequence: self.next_sequence(),
            bytes: self.segment_bytes,
        };
        self.in_use.push_back(segment);
        self.next = Next::Idle;
        segment
    }

    /// Gives the oldest segments up to `oldest` away: as spares, or for good if there are enough.
    pub(crate) fn give_up_before(&mut self, oldest: u64, requests: &mut FileRequests) -> u64 {
        let mut given_up = 0;
        while let Some(segment) = self.in_use.front().copied() {
            if segment.sequence >= oldest {
                break;
            }
            self.in_use.pop_front();
            given_up += 1;
            let file = File::Segment(segment.sequence);
            let enough = self.spares.len() + self.recycling >= self.spares_max;
            if enough || segment.bytes != self.segment_bytes {
                requests.push((FilePurpose::Discard, Operation::Delete { file }));
            } else {
                let spare = self.new_spare();
                self.recycling += 1;
                let rename = Operation::Rename {
                    from: file,
                    to: File::SpareSegment(spare),
                };
                requests.push((FilePurpose::Recycle { spare }, rename));
            }
        }
        given_up
    }

    /// A request about a file has succeeded.
    pub(crate) fn succeeded(&mut self, purpose: FilePurpose, requests: &mut FileRequests) {
        match purpose {
            FilePurpose::Create { spare } => {
                assert!(
                    self.next == Next::Creating { spare },
                    "one spare is created at a time"
                );
                self.rename_to_next(spare, requests);
            }
            FilePurpose::Prepare => {
                assert!(
                    self.next == Next::Renaming,
                    "one segment is prepared at a time"
                );
                self.next = Next::Ready;
            }
            FilePurpose::Recycle { spare } => {
                self.recycling -= 1;
                self.spares.push_back(spare);
                if matches!(self.next, Next::Failed(_)) {
                    self.prepare(requests);
                }
            }
            FilePurpose::Discard => {}
        }
    }

    /// Creating a spare has failed: what there is of it is deleted, so that it takes no space.
    pub(crate) fn creating_failed(
        &mut self,
        spare: u64,
        error: DiskError,
        requests: &mut FileRequests,
    ) {
        self.next = Next::Failed(error);
        let file = File::SpareSegment(spare);
        requests.push((FilePurpose::Discard, Operation::Delete { file }));
        if !self.spares.is_empty() {
            self.prepare(requests);
        }
    }

    fn rename_to_next(&mut self, spare: u64, requests: &mut FileRequests) {
        self.next = Next::Renaming;
        let to = File::Segment(self.next_sequence());
        let rename = Operation::Rename {
            from: File::SpareSegment(spare),
            to,
        };
        requests.push((FilePurpose::Prepare, rename));
    }

    fn new_spare(&mut self) -> u64 {
        let spare = self.next_spare;
        self.next_spare += 1;
        spare
    }
}

/// Numbers requests. The journal's ids have the top bit clear; the others belong to the node.
#[derive(Debug, Default)]
pub(crate) struct RequestIds {
    last: u64,
}

impl RequestIds {
    pub(crate) fn next(&mut self) -> RequestId {
        self.last += 1;
        assert!(self.last < 1 << 63, "request ids never run out");
        RequestId(self.last)
    }

    /// A request with a new id.
    pub(crate) fn request(&mut self, lane: Lane, operation: Operation) -> Request {
        Request {
            id: self.next(),
            lane,
            operation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments() -> Segments {
        let in_use = (1..=4)
            .map(|sequence| Segment {
                sequence,
                bytes: 4096,
            })
            .collect();
        Segments::new(in_use, false, 4096, 2, 10)
    }

    #[test]
    fn a_spare_is_created_renamed_and_used() {
        let (mut segments, mut requests) = (segments(), Vec::new());
        segments.prepare(&mut requests);
        segments.prepare(&mut requests);
        let create = Operation::CreateZeroed {
            file: File::SpareSegment(10),
            length: 4096,
        };
        assert_eq!(requests, [(FilePurpose::Create { spare: 10 }, create)]);
        requests.clear();
        segments.succeeded(FilePurpose::Create { spare: 10 }, &mut requests);
        let rename = Operation::Rename {
            from: File::SpareSegment(10),
            to: File::Segment(5),
        };
        assert_eq!(requests, [(FilePurpose::Prepare, rename)]);
        segments.succeeded(FilePurpose::Prepare, &mut requests);
        assert_eq!(
            segments.advance(),
            Segment {
                sequence: 5,
                bytes: 4096
            }
        );
        assert_eq!(segments.next, Next::Idle);
    }

    #[test]
    fn only_as_many_spares_are_kept_as_allowed() {
        let (mut segments, mut requests) = (segments(), Vec::new());
        assert_eq!(segments.give_up_before(4, &mut requests), 3);
        let rename = |from, to| Operation::Rename {
            from,
            to: File::SpareSegment(to),
        };
        assert_eq!(
            requests,
            [
                (
                    FilePurpose::Recycle { spare: 10 },
                    rename(File::Segment(1), 10)
                ),
                (
                    FilePurpose::Recycle { spare: 11 },
                    rename(File::Segment(2), 11)
                ),
                (
                    FilePurpose::Discard,
                    Operation::Delete {
                        file: File::Segment(3)
                    }
                ),
            ]
        );
        assert_eq!(segments.spare_count(), 0);
        segments.succeeded(FilePurpose::Recycle { spare: 10 }, &mut requests);
        assert_eq!(segments.spare_count(), 1);
    }

    #[test]
    fn a_recycled_segment_helps_when_none_could_be_created() {
        let (mut segments, mut requests) = (segments(), Vec::new());
        segments.prepare(&mut requests);
        segments.creating_failed(10, DiskError::Full, &mut requests);
        assert_eq!(segments.next, Next::Failed(DiskError::Full));
        segments.give_up_before(2, &mut requests);
        requests.clear();
        segments.succeeded(FilePurpose::Recycle { spare: 11 }, &mut requests);
        let rename = Operation::Rename {
            from: File::SpareSegment(11),
            to: File::Segment(5),
        };
        assert_eq!(requests, [(FilePurpose::Prepare, rename)]);
    }
}
