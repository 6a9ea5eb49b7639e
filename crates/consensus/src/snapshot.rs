//! Sending a checkpoint to a replica that needs more than the log still holds.
//!
//! ```text
//!  leader                                   follower
//!    │ SnapshotOffer {checkpoint} ─────────────▶ │ how much of it is stored already?
//!    │ ◀───────────── SnapshotProgress {stored}  │
//!    │ ReadPiece → SnapshotPiece {offset, crc} ▶ │ checksum, order → StorePiece
//!    │ ◀───────────── SnapshotProgress {stored}  │ (as each piece is stored)
//!    │                …                          │ all stored → InstallSnapshot
//!    │ ◀────────────────────────── AppendReply   │ in force
//! ```
//!
//! A few pieces are on their way at a time. The receiver takes pieces only in order; whatever is
//! lost or late shows as a lack of progress, upon which the sender offers again and goes on where
//! the receiver stands. A [`CheckpointRef`] names bytes, not a sender, so that another leader can
//! go on with the same checkpoint.

use std::time::Duration;

use base::{Instant, checksum};
use bytes::Bytes;

use crate::engine::CheckpointRef;
use crate::limits::Limits;

/// What a leader knows about a checkpoint on its way to one peer.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    checkpoint: CheckpointRef,
    /// What the peer has stored; unknown until it answers the offer.
    stored: Option<u64>,
    /// Pieces up to here were read or are being read.
    requested: u64,
    progress_at: Instant,
}

impl Sender {
    /// Begins with an offer.
    pub(crate) fn new(checkpoint: CheckpointRef, now: Instant) -> Sender {
        Sender {
            checkpoint,
            stored: None,
            requested: 0,
            progress_at: now,
        }
    }

    /// What is being sent.
    pub(crate) fn checkpoint(&self) -> CheckpointRef {
        self.checkpoint
    }

    /// Whether the peer has not answered the offer yet.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.stored.is_none()
    }

    /// The peer said how much it has. While nothing is known any answer is taken; later only
    /// progress is, so that reordered answers do not send the sender back.
    pub(crate) fn progress(&mut self, stored: u64, now: Instant) {
        let stored = stored.min(self.checkpoint.length);
        match self.stored {
            None => self.requested = stored,
            Some(known) if stored > known => self.requested = self.requested.max(stored),
            Some(_) => return,
        }
        self.stored = Some(stored);
        self.progress_at = now;
    }

    /// The next piece to read, as offset and length, if one may be on its way.
    pub(crate) fn next_piece(&mut self, limits: &Limits) -> Option<(u64, u64)> {
        let stored = self.stored?;
        let window = limits.piece_bytes * limits.pieces_in_flight;
        let left = self.checkpoint.length - self.requested;
        if left == 0 || self.requested - stored >= window {
            return None;
        }
        let offset = self.requested;
        let length = left.min(limits.piece_bytes);
        self.requested += length;
        Some((offset, length))
    }

    /// Whether to offer again: because an offer was not answered, or because nothing has moved,
    /// for so long.
    pub(crate) fn is_stalled(
        &mut self,
        unanswered: Duration,
        unmoved: Duration,
        now: Instant,
    ) -> bool {
        let patience = if self.stored.is_none() {
            unanswered
        } else {
            unmoved
        };
        if now.since(self.progress_at) < patience {
            return false;
        }
        self.stored = None;
        self.progress_at = now;
        true
    }
}

/// What became of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Store it.
    Store,
    /// It is a repetition, or belongs further behind, or to something else.
    Ignored,
    /// Its bytes are not what was sent.
    Damaged,
}

/// A checkpoint that is being received.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    checkpoint: CheckpointRef,
    received: u64,
    stored: u64,
    installing: bool,
}

impl Receiver {
    /// Begins with nothing.
    pub(crate) fn new(checkpoint: CheckpointRef) -> Receiver {
        Receiver {
            checkpoint,
            received: 0,
            stored: 0,
            installing: false,
        }
    }

    /// What is being received.
    pub(crate) fn checkpoint(&self) -> CheckpointRef {
        self.checkpoint
    }

    /// How much is stored.
    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    /// The replica is loading it.
    pub(crate) fn is_installing(&self) -> bool {
        self.installing
    }

    /// A piece arrived.
    pub(crate) fn piece(&mut self, offset: u64, expected: u32, bytes: &Bytes) -> Received {
        let length = bytes.len() as u64;
        if checksum::crc32c(bytes) != expected {
            return Received::Damaged;
        }
        let fits = length > 0 && length <= self.checkpoint.length - self.received;
        if offset != self.received || !fits || self.installing {
            return Received::Ignored;
        }
        self.received += length;
        Received::Store
    }

    /// Pieces up to `stored` are written.
    pub(crate) fn piece_stored(&mut self, stored: u64) {
        if stored <= self.received {
            self.stored = self.stored.max(stored);
        }
    }

    /// Whether all is stored and must be installed now; true once.
    pub(crate) fn install_if_complete(&mut self) -> bool {
        let complete = self.stored == self.checkpoint.length && !self.installing;
        self.installing |= complete;
        complete
    }
}
