//! What only Paxos replicas say to each other, and its encoding.
//!
//! The epoch of such a message is the sender's ballot (see `ballot.rs`), except in a refused
//! promise, which names the asker's, and in [`PaxosBody::CatchUp`] and [`PaxosBody::Learn`], where
//! it means nothing: what is chosen is chosen, whoever says so.

use base::{Epoch, Slot};
use bytes::{BufMut, Bytes};

use crate::decode::{self, DecodeError};
use crate::entries::Entries;
use crate::entry::{ENTRY_HEAD_BYTES, Entry};
use crate::message::{self, Occasion};
use crate::slots::Slots;

/// An entry, and the ballot under which an acceptor accepted it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The ballot.
    pub ballot: Epoch,
    /// The entry.
    pub entry: Entry,
}

/// What a message says.
// As `Body`.
#[derive(Clone, Debug, PartialEq)]
#[repr(u64)]
pub enum PaxosBody {
    /// Phase 1: promise this ballot, and tell what you accepted, from this slot on.
    Prepare {
        /// Where to begin. The first question begins behind what the asker knows to be chosen;
        /// later ones where the last answer ended.
        first: Slot,
        /// Why.
        occasion: Occasion,
    },
    /// Answers [`PaxosBody::Prepare`].
    Promise {
        /// The promise is given, durably.
        granted: bool,
        /// Of the question.
        first: Slot,
        /// Where to ask on; slot 0 if this was all.
        next: Slot,
        /// Everything up to here is chosen, as the acceptor knows. It reports only what is behind.
        chosen: Slot,
        /// What it accepted, in the order of slots. A slot that is not named between `first` and
        /// `next` was never accepted.
        accepted: Vec<Accepted>,
    },
    /// Phase 2: accept these. Without entries it is a heartbeat, or tells what is chosen.
    Accept {
        /// Of this leader with this peer.
        session: u64,
        /// If not 0: answer at once and name this number.
        round: u64,
        /// Everything up to here is chosen.
        chosen: Slot,
        /// The last slot that the leader has proposed.
        last: Slot,
        /// Each names its slot; there may be gaps between them.
        entries: Entries,
    },
    /// Answers [`PaxosBody::Accept`].
    AcceptReply {
        /// Of the message answered.
        session: u64,
        /// The highest round heard of, or 0 if none is answered.
        round: u64,
        /// Accepted under this ballot, or known to be chosen.
        received: Slots,
        /// The same, **and durable**.
        durable: Slots,
        /// The sender may have lost entries that it had acknowledged: nothing of the above counts.
        /// Begin this session.
        uncertain: Option<u64>,
    },
    /// Tell me what is chosen behind this slot. Anybody may be asked.
    CatchUp {
        /// Named by the answer.
        id: u64,
        /// The asker knows everything up to here.
        after: Slot,
    },
    /// Answers [`PaxosBody::CatchUp`].
    Learn {
        /// Of the question.
        id: u64,
        /// Everything up to here is chosen, as the answerer knows.
        chosen: Slot,
        /// Chosen entries that follow each other.
        entries: Entries,
    },
}

const KIND_PREPARE: u8 = 13;
const KIND_PROMISE: u8 = 14;
const KIND_ACCEPT: u8 = 15;
const KIND_ACCEPT_REPLY: u8 = 16;
const KIND_CATCH_UP: u8 = 17;
const KIND_LEARN: u8 = 18;

/// What an entry takes with its slot in front.
const SLOTTED_HEAD_BYTES: usize = 8 + ENTRY_HEAD_BYTES;
/// And with its ballot in front of that.
const ACCEPTED_HEAD_BYTES: usize = 8 + SLOTTED_HEAD_BYTES;

impl PaxosBody {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            PaxosBody::Prepare { .. } => KIND_PREPARE,
            PaxosBody::Promise { .. } => KIND_PROMISE,
            PaxosBody::Accept { .. } => KIND_ACCEPT,
            PaxosBody::AcceptReply { .. } => KIND_ACCEPT_REPLY,
            PaxosBody::CatchUp { .. } => KIND_CATCH_UP,
            PaxosBody::Learn { .. } => KIND_LEARN,
        }
    }

    pub(crate) fn encoded_bytes_hint(&self) -> usize {
        match self {
            PaxosBody::Accept { entries, .. } | PaxosBody::Learn { entries, .. } => {
                8 * entries.len() + entries.bytes() as usize
            }
            PaxosBody::Promise { accepted, .. } => {
                let bytes = |each: &Accepted| 16 + each.entry.bytes() as usize;
                accepted.iter().map(bytes).sum()
            }
            _ => 0,
        }
    }

    /// Appends the fields, behind kind and epoch.
    pub(crate) fn encode(&self, buffer: &mut impl BufMut) {
        match self {
            PaxosBody::Prepare { first, occasion } => {
                buffer.put_u64_le(first.0);
                buffer.put_u8(occasion.code());
            }
            PaxosBody::Promise {
                granted,
                first,
                next,
                chosen,
                accepted,
            } => {
                buffer.put_u8(u8::from(*granted));
                for slot in [first, next, chosen] {
                    buffer.put_u64_le(slot.0);
                }
                put_count(buffer, accepted.len());
                for each in accepted {
                    buffer.put_u64_le(each.ballot.0);
                    put_slotted(buffer, &each.entry);
                }
            }
            PaxosBody::Accept {
                session,
                round,
                chosen,
                last,
                entries,
            } => {
                for number in [*session, *round, chosen.0, last.0] {
                    buffer.put_u64_le(number);
                }
                put_entries(buffer, entries);
            }
            PaxosBody::AcceptReply {
                session,
                round,
                received,
                durable,
                uncertain,
            } => {
                buffer.put_u64_le(*session);
                buffer.put_u64_le(*round);
                received.encode(buffer);
                durable.encode(buffer);
                buffer.put_u8(u8::from(uncertain.is_some()));
                if let Some(session) = uncertain {
                    buffer.put_u64_le(*session);
                }
            }
            PaxosBody::CatchUp { id, after } => {
                buffer.put_u64_le(*id);
                buffer.put_u64_le(after.0);
            }
            PaxosBody::Learn {
                id,
                chosen,
                entries,
            } => {
                buffer.put_u64_le(*id);
                buffer.put_u64_le(chosen.0);
                put_entries(buffer, entries);
            }
        }
    }

    /// Reads the fields behind kind and epoch.
    pub(crate) fn decode(kind: u8, bytes: &mut Bytes) -> Result<PaxosBody, DecodeError> {
        Ok(match kind {
            KIND_PREPARE => PaxosBody::Prepare {
                first: decode::slot(bytes)?,
                occasion: message::occasion(bytes)?,
            },
            KIND_PROMISE => decode_promise(bytes)?,
            KIND_ACCEPT => PaxosBody::Accept {
                session: decode::number_u64(bytes)?,
                round: decode::number_u64(bytes)?,
                chosen: decode::slot(bytes)?,
                last: decode::slot(bytes)?,
                entries: take_entries(bytes)?,
            },
            KIND_ACCEPT_REPLY => PaxosBody::AcceptReply {
                session: decode::number_u64(bytes)?,
                round: decode::number_u64(bytes)?,
                received: Slots::decode(bytes)?,
                durable: Slots::decode(bytes)?,
                uncertain: match decode::flag(bytes)? {
                    true => Some(decode::number_u64(bytes)?),
                    false => None,
                },
            },
            KIND_CATCH_UP => PaxosBody::CatchUp {
                id: decode::number_u64(bytes)?,
                after: decode::slot(bytes)?,
            },
            KIND_LEARN => PaxosBody::Learn {
                id: decode::number_u64(bytes)?,
                chosen: decode::slot(bytes)?,
                entries: take_entries(bytes)?,
            },
            unknown => return Err(DecodeError::UnknownKind(unknown)),
        })
    }
}

fn put_count(buffer: &mut impl BufMut, count: usize) {
    buffer.put_u32_le(u32::try_from(count).expect("a message is bounded"));
}

fn put_slotted(buffer: &mut impl BufMut, entry: &Entry) {
    buffer.put_u64_le(entry.slot.0);
    entry.encode(buffer);
}

fn put_entries(buffer: &mut impl BufMut, entries: &[Entry]) {
    put_count(buffer, entries.len());
    for entry in entries {
        put_slotted(buffer, entry);
    }
}

/// Reads how many follow, each of which takes at least `least` bytes.
fn take_count(bytes: &mut Bytes, least: usize) -> Result<usize, DecodeError> {
    let count = decode::number_u32(bytes)? as usize;
    match count > bytes.len() / least {
        true => Err(DecodeError::Truncated),
        false => Ok(count),
    }
}

/// Reads an entry that must stand behind `before`.
fn take_slotted(bytes: &mut Bytes, before: Slot) -> Result<Entry, DecodeError> {
    let slot = decode::slot(bytes)?;
    if slot <= before {
        return Err(DecodeError::Invalid("order of slots"));
    }
    Entry::decode(slot, bytes)
}

fn take_entries(bytes: &mut Bytes) -> Result<Entries, DecodeError> {
    let count = take_count(bytes, SLOTTED_HEAD_BYTES)?;
    let mut entries = decode::list(count);
    let mut before = Slot(0);
    for _ in 0..count {
        let entry = take_slotted(bytes, before)?;
        before = entry.slot;
        entries.push(entry);
    }
    Ok(entries.into())
}

fn decode_promise(bytes: &mut Bytes) -> Result<PaxosBody, DecodeError> {
    let granted = decode::flag(bytes)?;
    let (first, next) = (decode::slot(bytes)?, decode::slot(bytes)?);
    let chosen = decode::slot(bytes)?;
    let count = take_count(bytes, ACCEPTED_HEAD_BYTES)?;
    let mut accepted = decode::list(count);
    let mut before = Slot(0);
    for _ in 0..count {
        let ballot = decode::epoch(bytes)?;
        let entry = take_slotted(bytes, before)?;
        before = entry.slot;
        accepted.push(Accepted { ballot, entry });
    }
    Ok(PaxosBody::Promise {
        granted,
        first,
        next,
        chosen,
        accepted,
    })
}
