//! What a witness is given where others get a checkpoint: where the log begins, and who belongs to
//! the group there.
//!
//! A witness has no state, so a checkpoint would tell it nothing; but it must know from which
//! position on it has all headers, and who votes. So whoever would send it a checkpoint names the
//! start of its own log, everything before which is chosen, and sends the membership there as if it
//! were a checkpoint: the same offers, pieces and answers (`snapshot.rs`) carry it. The bytes are
//! those of [`Membership::encode`], and the reference's checksum is theirs.
//!
//! (Of a log with a checkpoint the membership is known from the checkpoint on, which may be a
//! little later than the start: then that is the position.)

use base::checksum;
use bytes::{Bytes, BytesMut};

use crate::engine::CheckpointRef;
use crate::membership::Membership;
use crate::message::Position;

/// The beginning at this position, and the bytes that it names.
pub(crate) fn of(start: Position, membership: &Membership) -> (CheckpointRef, Bytes) {
    let mut bytes = BytesMut::with_capacity(membership.encoded_bytes());
    membership.encode(&mut bytes);
    let bytes = bytes.freeze();
    let reference = CheckpointRef {
        slot: start.slot,
        epoch: start.epoch,
        length: bytes.len() as u64,
        checksum: checksum::crc32c(&bytes),
    };
    (reference, bytes)
}

/// A piece of it.
pub(crate) fn piece(bytes: &Bytes, offset: u64, length: u64) -> Bytes {
    let from = usize::try_from(offset).map_or(bytes.len(), |from| from.min(bytes.len()));
    let length = usize::try_from(length).unwrap_or(bytes.len());
    bytes.slice(from..bytes.len().min(from.saturating_add(length)))
}
