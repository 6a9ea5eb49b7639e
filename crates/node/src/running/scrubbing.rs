//! Everything on the disk is read again and again, slowly, so that damage is found while others
//! still have what it destroyed.
//!
//! ```text
//!   rest ──▶ full segments of the journal ──▶ checkpoints, group by group ──▶ rest …
//!                 │ damage                         │ damage
//!                 ▼                                ▼
//!     checkpoints take the place of       another checkpoint of the state in memory
//!     everything up to that segment       takes its place
//! ```
//!
//! One read is under way at a time, on the background lane, and the next one begins when the rate
//! allows. What memory still has needs no peer.

use std::time::Duration;

use base::{GroupId, Instant, Slot};
use journal::disk::{Completion, File, Lane, Operation, Request, RequestId};
use state::CheckpointVerifier;

use super::Running;
use super::following::OF_NODE;
use crate::checkpoints::own_request;
use crate::group::META;
use crate::interface::Output;
use crate::notes::Note;

/// What bounds the reading.
#[derive(Clone, Copy, Debug)]
pub struct ScrubLimits {
    /// Bytes read per second; 0 for none.
    pub bytes_per_second: u64,
    /// So much is read at once.
    pub chunk_bytes: u64,
    /// How long to rest between two rounds.
    pub rest: Duration,
}

impl Default for ScrubLimits {
    fn default() -> ScrubLimits {
        ScrubLimits {
            bytes_per_second: 1 << 20,
            chunk_bytes: 256 << 10,
            rest: Duration::from_secs(600),
        }
    }
}

/// What is read next.
#[derive(Debug)]
enum At {
    Journal,
    Checkpoint {
        group: GroupId,
        slot: Slot,
        offset: u64,
        verifier: Box<CheckpointVerifier>,
    },
}

/// How far a round has come.
#[derive(Debug)]
pub(super) struct Scrubber {
    at: At,
    /// When the next read may begin.
    next: Instant,
    /// When the one under way began.
    began: Option<Instant>,
    /// It is of a checkpoint.
    request: Option<RequestId>,
    /// Something in this segment, or before it, is damaged: nothing shall need them.
    damaged_through: Option<u64>,
}

impl Scrubber {
    pub(super) fn new(now: Instant) -> Scrubber {
        Scrubber {
            at: At::Journal,
            next: now,
            began: None,
            request: None,
            damaged_through: None,
        }
    }

    /// The read under way has ended.
    fn ended(&mut self, bytes: u64, limits: &ScrubLimits) {
        if let Some(began) = self.began.take() {
            let nanoseconds = u128::from(bytes) * 1_000_000_000;
            let nanoseconds = nanoseconds / u128::from(limits.bytes_per_second.max(1));
            let takes = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
            self.next = began + Duration::from_nanos(takes);
        }
        self.request = None;
    }
}

impl Running {
    /// When the next read may begin.
    pub(super) fn scrub_deadline(&self) -> Option<Instant> {
        let is_on = self.config.limits.scrub.bytes_per_second > 0;
        (is_on && self.scrubber.began.is_none()).then_some(self.scrubber.next)
    }

    /// Begins the next read if it is time.
    pub(super) fn scrub(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.scrub_deadline().is_none_or(|next| next > now) {
            return;
        }
        let chunk = self.config.limits.scrub.chunk_bytes;
        match &self.scrubber.at {
            At::Journal => {
                let mut requests = Vec::new();
                let is_reading = self.journal.scrub(chunk, &mut requests);
                out.extend(requests.into_iter().map(Output::Disk));
                if is_reading {
                    self.scrubber.began = Some(now);
                } else {
                    self.next_checkpoint(None, now);
                }
            }
            At::Checkpoint {
                group,
                slot,
                offset,
                ..
            } => {
                let operation = Operation::Read {
                    file: File::Checkpoint(*group, *slot),
                    offset: *offset,
                    length: chunk,
                };
                self.last_request = self.last_request.wrapping_add(1);
                let id = own_request(OF_NODE, self.last_request);
                let lane = Lane::Background;
                out.push(Output::Disk(Request {
                    id,
                    lane,
                    operation,
                }));
                self.scrubber.began = Some(now);
                self.scrubber.request = Some(id);
            }
        }
    }

    /// Goes on with the checkpoint behind this one; if there is none, the round is over.
    fn next_checkpoint(&mut self, behind: Option<(GroupId, Slot)>, now: Instant) {
        let groups = self.groups.from(behind.map_or(META, |(group, _)| group));
        let mut all = groups.flat_map(|(id, opened)| {
            let slots = opened.group.kept_checkpoints();
            slots.map(|slot| (*id, slot))
        });
        let next = all.find(|each| behind.is_none_or(|behind| *each > behind));
        let scrubber = &mut self.scrubber;
        match next {
            Some((group, slot)) => {
                scrubber.at = At::Checkpoint {
                    group,
                    slot,
                    offset: 0,
                    verifier: Box::new(CheckpointVerifier::new(self.config.limits.state)),
                };
            }
            None => {
                scrubber.at = At::Journal;
                scrubber.next = now + self.config.limits.scrub.rest;
                self.counted.scrub_rounds += 1;
            }
        }
    }

    /// A part of the journal has been read.
    pub(super) fn journal_scrubbed(
        &mut self,
        bytes: u64,
        finding: Option<(u64, String)>,
        out: &mut Vec<Output>,
    ) {
        self.scrubber.ended(bytes, &self.config.limits.scrub);
        self.counted.scrubbed_bytes += bytes;
        if let Some((segment, description)) = finding {
            let known = self.scrubber.damaged_through;
            self.scrubber.damaged_through = known.max(Some(segment));
            if known < Some(segment) {
                self.counted.damage_found += 1;
                out.push(Output::Note(Note::SegmentDamaged { description }));
            }
        }
    }

    /// The segment up to which nothing shall be needed any more, as long as something is.
    pub(super) fn damaged_through(&mut self, out: &mut Vec<Output>) -> Option<u64> {
        let segment = self.scrubber.damaged_through?;
        if self.journal.oldest_segment() <= Some(segment) {
            return Some(segment);
        }
        self.scrubber.damaged_through = None;
        out.push(Output::Note(Note::Repaired));
        None
    }

    /// A part of a checkpoint has been read. Whether it was the scrubber that asked.
    pub(super) fn checkpoint_scrubbed(
        &mut self,
        now: Instant,
        completion: &Completion,
        out: &mut Vec<Output>,
    ) -> bool {
        if self.scrubber.request != Some(completion.id) {
            return false;
        }
        let limits = self.config.limits.scrub;
        let bytes = completion.result.as_ref().map_or(&[][..], |bytes| bytes);
        let length = bytes.len() as u64;
        self.scrubber.ended(length, &limits);
        self.counted.scrubbed_bytes += length;
        let at = std::mem::replace(&mut self.scrubber.at, At::Journal);
        let At::Checkpoint {
            group,
            slot,
            offset,
            mut verifier,
        } = at
        else {
            return true;
        };
        let fed = match &completion.result {
            Err(error) => Err(format!("it cannot be read at byte {offset}: {error}")),
            Ok(bytes) => verifier
                .feed(bytes)
                .map_err(|at| format!("it is not as it was written at byte {at}")),
        };
        let verdict = match fed {
            Ok(()) if length == limits.chunk_bytes => {
                let offset = offset + length;
                self.scrubber.at = At::Checkpoint {
                    group,
                    slot,
                    offset,
                    verifier,
                };
                return true;
            }
            Ok(()) => verifier
                .finish()
                .map_err(|at| format!("it ends at byte {at}, before its footer")),
            Err(damage) => Err(damage),
        };
        self.with(group, out, |group, out| {
            group.checkpoint_scrubbed(slot, verdict, out);
        });
        self.next_checkpoint(Some((group, slot)), now);
        true
    }
}
