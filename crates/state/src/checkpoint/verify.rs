//! Looking at a checkpoint without building a state from it: is it still what was written?

use bytes::Buf;

use super::format::{BLOCK_HEAD_LENGTH, BLOCK_TAIL_LENGTH, KIND_FOOTER, chain, content_length_max};
use crate::limits::Limits;

/// Verifies the bytes of a checkpoint, fed in pieces of any length. It keeps no more of them than
/// one block.
#[derive(Debug)]
pub struct CheckpointVerifier {
    length_max: usize,
    /// Bytes that do not make a whole block yet.
    buffer: Vec<u8>,
    /// Where the buffer begins in the checkpoint.
    offset: u64,
    checksum: u64,
    has_footer: bool,
}

impl CheckpointVerifier {
    /// A verifier that has seen nothing.
    #[must_use]
    pub fn new(limits: Limits) -> CheckpointVerifier {
        CheckpointVerifier {
            length_max: content_length_max(limits.checkpoint_block_bytes)
                .max(limits.checkpoint_membership_bytes_max),
            buffer: Vec::new(),
            offset: 0,
            checksum: 0,
            has_footer: false,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The offset of a block that is not as it was written.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), u64> {
        self.buffer.extend_from_slice(bytes);
        let mut used = 0;
        while let Some(length) = self.block(used)? {
            used += length;
        }
        self.buffer.drain(..used);
        self.offset += used as u64;
        Ok(())
    }

    /// The checksum of all of it, once everything has been fed.
    ///
    /// # Errors
    /// The offset at which the rest is missing.
    pub fn finish(self) -> Result<u64, u64> {
        match self.has_footer && self.buffer.is_empty() {
            true => Ok(self.checksum),
            false => Err(self.offset),
        }
    }

    /// The length of the block that begins there, if all of it is there.
    fn block(&mut self, start: usize) -> Result<Option<usize>, u64> {
        let at = self.offset + start as u64;
        let unread = &self.buffer[start..];
        let mut head = unread;
        let (Ok(kind), Ok(length)) = (head.try_get_u32_le(), head.try_get_u32_le()) else {
            return Ok(None);
        };
        let length = length as usize;
        if self.has_footer || length > self.length_max {
            return Err(at);
        }
        let end = BLOCK_HEAD_LENGTH + length;
        let Some(mut tail) = unread.get(end..end + BLOCK_TAIL_LENGTH) else {
            return Ok(None);
        };
        if tail.get_u32_le() != base::checksum::crc32c(&unread[..end]) {
            return Err(at);
        }
        let whole = end + BLOCK_TAIL_LENGTH;
        self.checksum = chain(self.checksum, &unread[..whole]);
        self.has_footer = kind == KIND_FOOTER;
        Ok(Some(whole))
    }
}
