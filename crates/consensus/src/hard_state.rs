//! What a replica has promised, as it stands in the journal.
//!
//! ```text
//! offset  size  field
//!      0     1  version: 1
//!      1     1  flags: bit 0 = a vote follows from offset 18; bit 1 = the log's tail is uncertain;
//!               bit 2 = the promises are those of Paxos
//!      2     8  epoch
//!     10     8  chosen
//!     18     8  vote (0 if bit 0 is clear)
//! ```

use base::mutant::{self, Mutant};
use base::{Epoch, NodeId, Slot};
use bytes::{BufMut, Bytes};

use crate::decode::{self, DecodeError};
use crate::kind::EngineKind;

const VERSION: u8 = 1;
const FLAG_VOTED: u8 = 1;
const FLAG_UNCERTAIN: u8 = 2;
const FLAG_PAXOS: u8 = 4;

/// Promises that must survive a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The highest epoch seen.
    pub epoch: Epoch,
    /// Whom this replica voted for in that epoch.
    pub vote: Option<NodeId>,
    /// Everything up to here is known to be chosen. A hint that makes restarts faster; it may
    /// lag.
    pub chosen: Slot,
    /// The log's tail is uncertain (damaged once, and not yet verified by a leader). It must
    /// survive restarts: a log that is half repaired looks whole to the journal.
    pub uncertain: bool,
    /// Which engine promised this: no other may go on with it.
    pub engine: EngineKind,
}

impl HardState {
    /// The number of bytes of an encoded hard state.
    pub const ENCODED_BYTES: usize = 26;

    /// The bytes of the journal record.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buffer = Vec::with_capacity(HardState::ENCODED_BYTES);
        let mut flags = 0;
        if self.vote.is_some() {
            flags |= FLAG_VOTED;
        }
        if self.uncertain && !mutant::is_on(Mutant::ForgetDoubt) {
            flags |= FLAG_UNCERTAIN;
        }
        if self.engine == EngineKind::Paxos {
            flags |= FLAG_PAXOS;
        }
        buffer.put_u8(VERSION);
        buffer.put_u8(flags);
        buffer.put_u64_le(self.epoch.0);
        buffer.put_u64_le(self.chosen.0);
        buffer.put_u64_le(self.vote.map_or(0, |vote| vote.0));
        buffer.into()
    }

    /// Reads what [`HardState::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are anything else.
    pub fn decode(mut bytes: Bytes) -> Result<HardState, DecodeError> {
        let version = decode::byte(&mut bytes)?;
        if version != VERSION {
            return Err(DecodeError::UnknownKind(version));
        }
        let flags = decode::byte(&mut bytes)?;
        if flags & !(FLAG_VOTED | FLAG_UNCERTAIN | FLAG_PAXOS) != 0 {
            return Err(DecodeError::Invalid("hard state flags"));
        }
        let epoch = decode::epoch(&mut bytes)?;
        let chosen = decode::slot(&mut bytes)?;
        let vote = decode::node(&mut bytes)?;
        decode::end(&bytes)?;
        if flags & FLAG_VOTED == 0 && vote != NodeId(0) {
            return Err(DecodeError::Invalid("vote"));
        }
        Ok(HardState {
            epoch,
            vote: (flags & FLAG_VOTED != 0).then_some(vote),
            chosen,
            uncertain: flags & FLAG_UNCERTAIN != 0,
            engine: match flags & FLAG_PAXOS {
                0 => EngineKind::Raft,
                _ => EngineKind::Paxos,
            },
        })
    }
}
