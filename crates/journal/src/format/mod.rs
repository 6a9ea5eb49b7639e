//! The bytes on disk, from the outside in. `docs/internals/journal.md` has the tables.
//!
//! ```text
//! segment   head block │ batch │ batch │ ... │ never written (zeros, or an earlier use)
//! batch     block 0 │ block 1 │ ...             each 512 bytes, checksummed by itself
//! payloads  batch header │ record │ record │ ... │ zeros to the end of the last block
//! ```
//!
//! All integers are little-endian. Decoding is total: any bytes give a value or an error.

pub mod batch;
pub mod block;
pub mod head;
pub mod record;

/// Reads a little-endian `u32`; `None` behind the end.
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    bytes.get(at..end)?.try_into().ok().map(u32::from_le_bytes)
}

/// Whether these are zeros alone: nearly all that is read of a segment which is not full.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Not one byte at a time.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| *word == [0; 16]) && rest.iter().all(|byte| *byte == 0)
}

/// Reads a little-endian `u64`; `None` behind the end.
pub(crate) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let end = at.checked_add(8)?;
    bytes.get(at..end)?.try_into().ok().map(u64::from_le_bytes)
}
