//! Reading a checkpoint for a peer, which shows whether it is still what was written.
//!
//! ```text
//!   pieces     │ 0 │ 1 │ 2 │ 3 │      each is read, and leaves if nothing is wrong so far
//!   verifier   ├───┼───┼───┤ damage ──▶ nothing more leaves; another checkpoint is written
//! ```
//!
//! A peer that was sent a damaged one rejects it when it has all of it, and can only ask for the
//! same again: it needs another one, and this node has the state in memory. What is not read from
//! the first byte on, because the peer has that from elsewhere, is not verified; if that is
//! damaged, the peer begins again, with the first byte.

use std::collections::BTreeMap;

use base::NodeId;
use bytes::Bytes;
use consensus::engine::CheckpointRef;
use journal::disk::{DiskError, File, Operation};
use state::CheckpointVerifier;

use super::{Checkpoints, Purpose, short};
use crate::interface::Output;

/// A piece that was to be read for a peer.
pub struct PieceRead {
    /// For whom.
    pub to: NodeId,
    /// Of which checkpoint.
    pub checkpoint: CheckpointRef,
    /// From where.
    pub offset: u64,
    /// The bytes; empty if that checkpoint is gone, or is not as it was written.
    pub bytes: Bytes,
    /// What is wrong with it.
    pub damage: Option<String>,
}

/// What a peer is sent, as far as it has been read from the first byte on.
pub(super) struct Sending {
    pub(super) checkpoint: CheckpointRef,
    verifier: CheckpointVerifier,
    verified: u64,
    /// Pieces that were read before those in front of them.
    early: BTreeMap<u64, Bytes>,
}

impl Sending {
    /// Takes a piece.
    fn take(&mut self, offset: u64, bytes: Bytes) -> Result<(), u64> {
        self.early.insert(offset, bytes);
        while let Some(next) = self.early.first_entry()
            && *next.key() <= self.verified
        {
            let (offset, bytes) = next.remove_entry();
            // Of what was asked for again, some or all has been seen.
            let seen = usize::try_from(self.verified - offset).unwrap_or(usize::MAX);
            let news = bytes.get(seen..).unwrap_or_default();
            self.verifier.feed(news)?;
            self.verified += news.len() as u64;
        }
        Ok(())
    }
}

impl Checkpoints {
    /// Reads a piece for a peer.
    pub fn read_piece(
        &mut self,
        to: NodeId,
        checkpoint: CheckpointRef,
        offset: u64,
        length: u64,
        out: &mut Vec<Output>,
    ) {
        self.sending.insert(checkpoint.slot);
        if offset == 0 {
            let sending = Sending {
                checkpoint,
                verifier: CheckpointVerifier::new(self.limits.state),
                verified: 0,
                early: BTreeMap::new(),
            };
            self.verifying.insert(to, sending);
        }
        let file = File::Checkpoint(self.group, checkpoint.slot);
        let purpose = Purpose::Piece {
            to,
            checkpoint,
            offset,
            length,
        };
        self.request(
            Operation::Read {
                file,
                offset,
                length,
            },
            purpose,
            out,
        );
    }

    /// A read for a peer has ended.
    pub(super) fn piece_read(
        &mut self,
        to: NodeId,
        checkpoint: CheckpointRef,
        (offset, length): (u64, u64),
        result: Result<Bytes, DiskError>,
    ) -> PieceRead {
        let is_kept = self.kept.get(&checkpoint.slot) == Some(&Some(checkpoint));
        let verdict = match result {
            _ if !is_kept => Ok(Bytes::new()),
            Err(error) => Err(format!("it cannot be read at byte {offset}: {error}")),
            Ok(bytes) if (bytes.len() as u64) < length => {
                let end = offset + bytes.len() as u64;
                Err(format!("it ends at byte {end}, before its footer"))
            }
            Ok(bytes) => {
                let verdict = self.verify(to, checkpoint, offset, bytes.clone());
                verdict.map(|()| bytes)
            }
        };
        let (bytes, damage) = match verdict {
            Ok(bytes) => (bytes, None),
            Err(damage) => (Bytes::new(), Some(damage)),
        };
        PieceRead {
            to,
            checkpoint,
            offset,
            bytes,
            damage,
        }
    }

    fn verify(
        &mut self,
        to: NodeId,
        checkpoint: CheckpointRef,
        offset: u64,
        bytes: Bytes,
    ) -> Result<(), String> {
        let sending = self.verifying.get_mut(&to);
        let Some(sending) = sending.filter(|sending| sending.checkpoint == checkpoint) else {
            return Ok(());
        };
        let taken = sending.take(offset, bytes);
        taken.map_err(|at| format!("it is not as it was written at byte {at}"))?;
        if sending.early.len() as u64 > self.limits.consensus.pieces_in_flight {
            // What is in front of them is not asked for: the peer has it from elsewhere.
            self.verifying.remove(&to);
            return Ok(());
        }
        if sending.verified < checkpoint.length {
            return Ok(());
        }
        let whole = self
            .verifying
            .remove(&to)
            .map(|each| each.verifier.finish());
        match whole {
            Some(Err(at)) => Err(format!("it ends at byte {at}, before its footer")),
            Some(Ok(checksum)) if short(checksum) != checkpoint.checksum => {
                Err("it is not the one that was written".to_owned())
            }
            _ => Ok(()),
        }
    }
}
