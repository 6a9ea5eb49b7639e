//! What stands in a group's log, and its encodings.
//!
//! A payload has one encoding, its *body*, with its [`PayloadKind`] beside it. The journal keeps
//! kind, slot, epoch and body of each entry; a message keeps them too, but without the slot, which
//! follows from the entry's position:
//!
//! ```text
//! offset  size  field (entry in a message)
//!      0     8  epoch
//!      8     1  kind: 1 = commands or empty, 2 = membership, 3 = header
//!      9     4  length of the body
//!     13     -  body
//! ```
//!
//! A body of kind 1 is the batch of commands itself; an empty body is [`Payload::Empty`]. A header
//! has no body: it stands in the log of a witness where others have kind 1. Decoding
//! shares the memory of the bytes it reads, so commands are copied neither from the wire to the
//! log nor from the log to the replica.

use std::sync::Arc;

use base::{Epoch, Slot};
use bytes::{BufMut, Bytes};

use crate::decode::{self, DecodeError};
use crate::membership::Membership;

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry, which lets it choose what its predecessors left.
    Empty,
    /// A batch of commands, opaque to the engine. Shared, never copied. Never of zero length:
    /// that is [`Payload::Empty`].
    Commands(Bytes),
    /// The membership from this slot on.
    Membership(Arc<Membership>),
    /// Something that is not a membership, and that only others hold: all that a witness keeps.
    Header,
}

/// Which kind of body a payload has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PayloadKind {
    /// Commands, or nothing if the body is empty.
    Commands,
    /// An encoded [`Membership`].
    Membership,
    /// Nothing: the entry itself is not here.
    Header,
}

/// One position of the log with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub slot: Slot,
    /// The epoch in which a leader put it there.
    pub epoch: Epoch,
    /// What it says.
    pub payload: Payload,
}

/// The bytes that an entry takes in a message besides its body.
pub(crate) const ENTRY_HEAD_BYTES: usize = 13;

const KIND_COMMANDS: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;
const KIND_HEADER: u8 = 3;

impl Payload {
    /// The payload for a batch of commands.
    #[must_use]
    pub fn commands(commands: Bytes) -> Payload {
        if commands.is_empty() {
            Payload::Empty
        } else {
            Payload::Commands(commands)
        }
    }

    /// Kind and body, as the journal keeps them. Commands are shared, not copied.
    #[must_use]
    pub fn to_body(&self) -> (PayloadKind, Bytes) {
        match self {
            Payload::Empty => (PayloadKind::Commands, Bytes::new()),
            Payload::Commands(commands) => (PayloadKind::Commands, commands.clone()),
            Payload::Membership(membership) => {
                let mut buffer = Vec::with_capacity(membership.encoded_bytes());
                membership.encode(&mut buffer);
                (PayloadKind::Membership, buffer.into())
            }
            Payload::Header => (PayloadKind::Header, Bytes::new()),
        }
    }

    /// Reads what [`Payload::to_body`] gave. Commands share the memory of `body`.
    ///
    /// # Errors
    /// If the body of a membership is not one, or a header has a body.
    pub fn from_body(kind: PayloadKind, body: Bytes) -> Result<Payload, DecodeError> {
        match kind {
            PayloadKind::Commands => Ok(Payload::commands(body)),
            PayloadKind::Membership => Ok(Payload::Membership(Arc::new(Membership::decode(body)?))),
            PayloadKind::Header if body.is_empty() => Ok(Payload::Header),
            PayloadKind::Header => Err(DecodeError::Invalid("header")),
        }
    }
}

impl Entry {
    /// What the entry counts for in every limit that is given in bytes: its commands, and a flat
    /// charge for what surrounds them, so that a flood of empty entries is bounded as well.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let body = match &self.payload {
            Payload::Empty | Payload::Header => 0,
            Payload::Commands(commands) => commands.len(),
            Payload::Membership(membership) => membership.encoded_bytes(),
        };
        (body + ENTRY_HEAD_BYTES) as u64
    }

    /// What a witness is given of it: a membership in full, because it has to know who votes, and
    /// of anything else where it stands and whose it is.
    #[must_use]
    pub fn header(&self) -> Entry {
        Entry {
            payload: match &self.payload {
                Payload::Membership(membership) => Payload::Membership(Arc::clone(membership)),
                _ => Payload::Header,
            },
            ..*self
        }
    }

    /// Whether the entry itself is not here.
    #[must_use]
    pub fn is_header(&self) -> bool {
        matches!(self.payload, Payload::Header)
    }

    /// Appends the entry, without its slot, to a message.
    pub(crate) fn encode(&self, buffer: &mut impl BufMut) {
        buffer.put_u64_le(self.epoch.0);
        match &self.payload {
            Payload::Empty => {
                buffer.put_u8(KIND_COMMANDS);
                buffer.put_u32_le(0);
            }
            Payload::Commands(commands) => {
                let length = u32::try_from(commands.len()).expect("a batch is far below 4 GiB");
                buffer.put_u8(KIND_COMMANDS);
                buffer.put_u32_le(length);
                buffer.put_slice(commands);
            }
            Payload::Membership(membership) => {
                let length = membership.encoded_bytes();
                buffer.put_u8(KIND_MEMBERSHIP);
                buffer.put_u32_le(u32::try_from(length).expect("a membership is small"));
                membership.encode(buffer);
            }
            Payload::Header => {
                buffer.put_u8(KIND_HEADER);
                buffer.put_u32_le(0);
            }
        }
    }

    /// Reads the entry that stands at `slot` from a message.
    pub(crate) fn decode(slot: Slot, bytes: &mut Bytes) -> Result<Entry, DecodeError> {
        let epoch = decode::epoch(bytes)?;
        let kind = match decode::byte(bytes)? {
            KIND_COMMANDS => PayloadKind::Commands,
            KIND_MEMBERSHIP => PayloadKind::Membership,
            KIND_HEADER => PayloadKind::Header,
            unknown => return Err(DecodeError::UnknownKind(unknown)),
        };
        let body = decode::slice(bytes)?;
        Ok(Entry {
            slot,
            epoch,
            payload: Payload::from_body(kind, body)?,
        })
    }
}
