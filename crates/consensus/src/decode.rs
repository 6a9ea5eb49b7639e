//! Reading bytes that may be hostile.
//!
//! Every encoding of this crate is little-endian with sized numbers. Decoding is total: whatever
//! the bytes are, the answer is a value or a [`DecodeError`], never a panic, and nothing is
//! allocated before it is known that the bytes for it are there. The helpers here are the only
//! places where lengths are checked.

use std::fmt;

use base::{Epoch, NodeId, Slot};
use bytes::{Buf, Bytes};

/// Why bytes could not be understood. Always *corruption* or a hostile peer, never a bug of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end before the value does.
    Truncated,
    /// Bytes are left over after the value.
    TrailingBytes,
    /// A kind that this version does not know.
    UnknownKind(u8),
    /// A value that no encoder writes, and which one.
    Invalid(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated => write!(formatter, "the bytes end too early"),
            DecodeError::TrailingBytes => write!(formatter, "bytes are left over at the end"),
            DecodeError::UnknownKind(kind) => write!(formatter, "unknown kind {kind}"),
            DecodeError::Invalid(what) => write!(formatter, "invalid {what}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Slots and epochs at or above this are taken for damage: no group lives long enough to count
/// there, and arithmetic just above a valid number can never overflow.
pub(crate) const NUMBER_BOUND: u64 = 1 << 62;

/// Reads one byte.
pub(crate) fn byte(bytes: &mut Bytes) -> Result<u8, DecodeError> {
    bytes.try_get_u8().map_err(|_| DecodeError::Truncated)
}

/// Reads a 16-bit number.
pub(crate) fn number_u16(bytes: &mut Bytes) -> Result<u16, DecodeError> {
    bytes.try_get_u16_le().map_err(|_| DecodeError::Truncated)
}

/// Reads a 32-bit number.
pub(crate) fn number_u32(bytes: &mut Bytes) -> Result<u32, DecodeError> {
    bytes.try_get_u32_le().map_err(|_| DecodeError::Truncated)
}

/// Reads a 64-bit number.
pub(crate) fn number_u64(bytes: &mut Bytes) -> Result<u64, DecodeError> {
    bytes.try_get_u64_le().map_err(|_| DecodeError::Truncated)
}

/// Reads several 64-bit numbers, with one look at what is left.
pub(crate) fn numbers<const COUNT: usize>(bytes: &mut Bytes) -> Result<[u64; COUNT], DecodeError> {
    let mut read = [[0; 8]; COUNT];
    let copied = bytes.try_copy_to_slice(read.as_flattened_mut());
    copied.map_err(|_| DecodeError::Truncated)?;
    Ok(read.map(u64::from_le_bytes))
}

/// A number as a slot, if it is in the range that is ever used.
pub(crate) fn as_slot(number: u64) -> Result<Slot, DecodeError> {
    match number {
        number if number < NUMBER_BOUND => Ok(Slot(number)),
        _ => Err(DecodeError::Invalid("slot")),
    }
}

/// A number as an epoch, if it is in the range that is ever used.
pub(crate) fn as_epoch(number: u64) -> Result<Epoch, DecodeError> {
    match number {
        number if number < NUMBER_BOUND => Ok(Epoch(number)),
        _ => Err(DecodeError::Invalid("epoch")),
    }
}

/// Reads a slot and checks that it is in the range that is ever used.
pub(crate) fn slot(bytes: &mut Bytes) -> Result<Slot, DecodeError> {
    as_slot(number_u64(bytes)?)
}

/// Reads an epoch and checks that it is in the range that is ever used.
pub(crate) fn epoch(bytes: &mut Bytes) -> Result<Epoch, DecodeError> {
    as_epoch(number_u64(bytes)?)
}

/// Reads a node's id.
pub(crate) fn node(bytes: &mut Bytes) -> Result<NodeId, DecodeError> {
    number_u64(bytes).map(NodeId)
}

/// Reads a truth value; anything but 0 and 1 is refused, so that every value has one encoding.
pub(crate) fn flag(bytes: &mut Bytes) -> Result<bool, DecodeError> {
    match byte(bytes)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid("flag")),
    }
}

/// Splits off a slice with a 32-bit length in front. It shares the memory of `bytes`.
pub(crate) fn slice(bytes: &mut Bytes) -> Result<Bytes, DecodeError> {
    let length = number_u32(bytes)? as usize;
    if length > bytes.remaining() {
        return Err(DecodeError::Truncated);
    }
    Ok(bytes.split_to(length))
}

/// Reads a text with a 16-bit length in front.
pub(crate) fn text(bytes: &mut Bytes) -> Result<String, DecodeError> {
    let length = bytes.try_get_u16_le().map_err(|_| DecodeError::Truncated)? as usize;
    if length > bytes.remaining() {
        return Err(DecodeError::Truncated);
    }
    let raw = bytes.split_to(length);
    match std::str::from_utf8(&raw) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(DecodeError::Invalid("text")),
    }
}

/// So many elements of a list are made room for before the first has been read.
const ROOM: usize = 64;

/// An empty list for so many. What is announced may be as many as there are bytes for, and yet not
/// there, and an element takes more memory than bytes; so the list grows as elements are read.
pub(crate) fn list<T>(count: usize) -> Vec<T> {
    Vec::with_capacity(count.min(ROOM))
}

/// Makes sure that everything has been read.
pub(crate) fn end(bytes: &Bytes) -> Result<(), DecodeError> {
    if bytes.has_remaining() {
        Err(DecodeError::TrailingBytes)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_is_made_for_what_is_only_announced() {
        let short: Vec<[u64; 32]> = list(3);
        assert!(short.is_empty() && short.capacity() >= 3);
        let long: Vec<[u64; 32]> = list(usize::MAX);
        assert!(long.is_empty() && long.capacity() < 2 * ROOM);
    }
}
