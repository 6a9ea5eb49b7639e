//! What replicas say to each other, and its encoding.
//!
//! Every message names the sender's epoch. Messages between a leader and one peer also name the
//! *session*: a number that the leader never uses twice in one epoch and that changes whenever it
//! starts to follow the peer's progress anew (after an election, after the peer was removed and
//! added again, after the peer said that it lost entries). An answer that names another session
//! is an answer to something else and never counts.
//!
//! Encoded: one byte of kind, eight of epoch, then the fields in the order in which they stand
//! here, little-endian. `docs/internals/consensus.md` has the table byte by byte.

use base::{Epoch, Slot};
use bytes::{BufMut, Bytes};

use crate::decode::{self, DecodeError};
use crate::engine::CheckpointRef;
use crate::entries::Entries;
use crate::entry::{ENTRY_HEAD_BYTES, Entry};
pub use crate::paxos::wire::{Accepted, PaxosBody};

/// A position of the log together with the epoch of the entry there. Two logs that hold the same
/// position are equal up to it (log matching, Raft thesis section 3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Where.
    pub slot: Slot,
    /// The epoch of the entry there; epoch 0 for slot 0.
    pub epoch: Epoch,
}

/// Why an election is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Nothing was heard of a leader for an election timeout.
    Silence,
    /// The leader's process closed its connection. Whoever lost it too need not wait longer.
    ConnectionClosed,
    /// The leader itself asked for it: nobody needs to protect it.
    Transfer,
}

/// A message between two replicas of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The sender's epoch; in a request or grant of a pre-vote, the epoch that an election would
    /// begin.
    pub epoch: Epoch,
    /// What it says.
    pub body: Body,
}

impl Message {
    /// Whether a follower asks its leader for a read round by this.
    #[must_use]
    pub fn asks_for_read(&self) -> bool {
        matches!(self.body, Body::ReadRound { .. })
    }
}

/// What a message says.
// Moved from hand to hand: what is in it lies at multiples of eight bytes, and is copied so.
#[derive(Clone, Debug, PartialEq)]
#[repr(u64)]
pub enum Body {
    /// Would you vote for me?
    PreVote {
        /// Named by the answer, so that answers to an earlier question do not count.
        round: u64,
        /// The end of the asker's log.
        last: Position,
        /// Why.
        occasion: Occasion,
    },
    /// Answers [`Body::PreVote`].
    PreVoteReply {
        /// Of the question.
        round: u64,
        /// Yes, as things stand.
        granted: bool,
        /// No, because the answerer's log is newer: where that ends.
        ahead: Option<Position>,
    },
    /// Vote for me.
    Vote {
        /// The end of the candidate's log.
        last: Position,
        /// Why.
        occasion: Occasion,
    },
    /// Answers [`Body::Vote`].
    VoteReply {
        /// The vote is given, durably.
        granted: bool,
    },
    /// These entries follow that position in my log. Without entries it is a heartbeat, or tells
    /// what is chosen.
    Append {
        /// Of this leader with this peer.
        session: u64,
        /// If not 0: answer at once and name this number. It grows with every heartbeat and read
        /// round.
        round: u64,
        /// What stands before the entries.
        previous: Position,
        /// Everything up to here is chosen.
        chosen: Slot,
        /// In order, from the slot after `previous`.
        entries: Entries,
    },
    /// Answers [`Body::Append`] and a finished snapshot.
    AppendReply {
        /// Of the message answered.
        session: u64,
        /// The highest round heard of, or 0 if none is answered.
        round: u64,
        /// Everything up to here is equal to the leader's log **and durable**.
        matched: Slot,
        /// Everything up to here is equal to the leader's log.
        received: Slot,
        /// How the follower stands.
        state: FollowerState,
    },
    /// Which of this checkpoint do you have?
    SnapshotOffer {
        /// Of this leader with this peer.
        session: u64,
        /// What the peer needs.
        checkpoint: CheckpointRef,
    },
    /// A piece of a checkpoint.
    SnapshotPiece {
        /// Of this leader with this peer.
        session: u64,
        /// Of which checkpoint.
        checkpoint: CheckpointRef,
        /// Where the piece belongs.
        offset: u64,
        /// CRC32C of `bytes`.
        checksum: u32,
        /// The piece.
        bytes: Bytes,
    },
    /// Answers both: how much is stored.
    SnapshotProgress {
        /// Of the message answered.
        session: u64,
        /// Of which checkpoint.
        checkpoint: CheckpointRef,
        /// The bytes stored: go on there.
        stored: u64,
    },
    /// A follower asks for a read round.
    ReadRound {
        /// Named by the answer. Drawn at random, so that an answer to an earlier incarnation does
        /// not fit.
        id: u64,
    },
    /// Answers [`Body::ReadRound`].
    ReadRoundReply {
        /// Of the question.
        id: u64,
        /// Execute up to here, then read; or none, if the asked replica does not lead.
        slot: Option<Slot>,
    },
    /// Campaign now: I am handing over to you.
    Transfer,
    /// What follows this position in your log? Asked by a candidate whose log is too old.
    Pull {
        /// The last position that the asker is sure of.
        after: Position,
    },
    /// Answers [`Body::Pull`]. It is no leader's word: nothing is acknowledged.
    Suffix {
        /// What stands before the entries; not newer than what was asked for.
        previous: Position,
        /// In order, from the slot after `previous`.
        entries: Entries,
    },
    /// What only Paxos replicas say to each other.
    Paxos(PaxosBody),
}

/// How a follower stands to what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowerState {
    /// All is well.
    Matching,
    /// What the leader sent does not fit.
    Rejecting {
        /// The position that the leader named and that this log does not hold.
        previous: Slot,
        /// Where to try next: the last position of this log that is not newer than what the
        /// leader named.
        hint: Position,
    },
    /// This replica may have lost entries that it had acknowledged. It takes entries, but nothing
    /// counts until it knows better.
    Uncertain {
        /// Begin this session. It was drawn when the replica started, so that an append in it was
        /// certainly sent since, and an acknowledgement from before does not count in it.
        session: u64,
    },
}

const KIND_PRE_VOTE: u8 = 1;
const KIND_PRE_VOTE_REPLY: u8 = 2;
const KIND_VOTE: u8 = 3;
const KIND_VOTE_REPLY: u8 = 4;
const KIND_APPEND: u8 = 5;
const KIND_APPEND_REPLY: u8 = 6;
const KIND_SNAPSHOT_OFFER: u8 = 7;
const KIND_SNAPSHOT_PIECE: u8 = 8;
const KIND_SNAPSHOT_PROGRESS: u8 = 9;
const KIND_READ_ROUND: u8 = 10;
const KIND_READ_ROUND_REPLY: u8 = 11;
const KIND_TRANSFER: u8 = 12;
// 13 to 18 are those of `paxos::wire`.
const KIND_PULL: u8 = 19;
const KIND_SUFFIX: u8 = 20;

const ANSWER_NO: u8 = 0;
const ANSWER_YES: u8 = 1;
/// A position follows.
const ANSWER_AHEAD: u8 = 2;

const STATE_MATCHING: u8 = 0;
const STATE_REJECTING: u8 = 1;
const STATE_UNCERTAIN: u8 = 2;

impl Message {
    /// Puts a message together.
    pub(crate) fn new(epoch: Epoch, body: Body) -> Message {
        Message { epoch, body }
    }

    /// Whether it says what was received, and nothing else: it makes nobody follow, promise or
    /// vote.
    #[must_use]
    pub fn is_acknowledgement(&self) -> bool {
        matches!(
            self.body,
            Body::AppendReply { .. }
                | Body::SnapshotProgress { .. }
                | Body::Paxos(PaxosBody::AcceptReply { .. })
        )
    }

    /// About how many bytes [`Message::encode`] appends, so that a buffer can be made for them.
    #[must_use]
    pub fn encoded_bytes_hint(&self) -> usize {
        const FIELDS: usize = 64;
        FIELDS
            + match &self.body {
                Body::Append { entries, .. } | Body::Suffix { entries, .. } => {
                    entries.bytes() as usize
                }
                Body::SnapshotPiece { bytes, .. } => bytes.len(),
                Body::Paxos(body) => body.encoded_bytes_hint(),
                _ => 0,
            }
    }

    /// Appends the message to a frame.
    pub fn encode(&self, buffer: &mut impl BufMut) {
        buffer.put_u8(self.kind());
        buffer.put_u64_le(self.epoch.0);
        match &self.body {
            Body::PreVote {
                round,
                last,
                occasion,
            } => {
                buffer.put_u64_le(*round);
                put_position(buffer, *last);
                buffer.put_u8(occasion.code());
            }
            Body::PreVoteReply {
                round,
                granted,
                ahead,
            } => {
                buffer.put_u64_le(*round);
                match ahead {
                    None => buffer.put_u8(if *granted { ANSWER_YES } else { ANSWER_NO }),
                    Some(end) => {
                        assert!(!granted, "who grants is not ahead");
                        buffer.put_u8(ANSWER_AHEAD);
                        put_position(buffer, *end);
                    }
                }
            }
            Body::Vote { last, occasion } => {
                put_position(buffer, *last);
                buffer.put_u8(occasion.code());
            }
            Body::VoteReply { granted } => buffer.put_u8(u8::from(*granted)),
            Body::Append {
                session,
                round,
                previous,
                chosen,
                entries,
            } => {
                let (slot, epoch) = (previous.slot.0, previous.epoch.0);
                put_numbers(buffer, [*session, *round, slot, epoch, chosen.0]);
                put_entries(buffer, entries);
            }
            Body::AppendReply {
                session,
                round,
                matched,
                received,
                state,
            } => {
                put_numbers(buffer, [*session, *round, matched.0, received.0]);
                put_state(buffer, *state);
            }
            Body::ReadRound { id } => buffer.put_u64_le(*id),
            Body::ReadRoundReply { id, slot } => {
                buffer.put_u64_le(*id);
                buffer.put_u8(u8::from(slot.is_some()));
                buffer.put_u64_le(slot.unwrap_or_default().0);
            }
            Body::Transfer => {}
            Body::Pull { after } => put_position(buffer, *after),
            Body::Suffix { previous, entries } => {
                put_position(buffer, *previous);
                put_entries(buffer, entries);
            }
            Body::Paxos(body) => body.encode(buffer),
            snapshot => put_snapshot(buffer, snapshot),
        }
    }

    /// Reads what [`Message::encode`] wrote. Entries and pieces share the memory of `bytes`.
    ///
    /// # Errors
    /// If the bytes are anything else.
    pub fn decode(mut bytes: Bytes) -> Result<Message, DecodeError> {
        let kind = decode::byte(&mut bytes)?;
        let epoch = decode::epoch(&mut bytes)?;
        let body = decode_body(kind, &mut bytes)?;
        decode::end(&bytes)?;
        Ok(Message { epoch, body })
    }

    fn kind(&self) -> u8 {
        match &self.body {
            Body::PreVote { .. } => KIND_PRE_VOTE,
            Body::PreVoteReply { .. } => KIND_PRE_VOTE_REPLY,
            Body::Vote { .. } => KIND_VOTE,
            Body::VoteReply { .. } => KIND_VOTE_REPLY,
            Body::Append { .. } => KIND_APPEND,
            Body::AppendReply { .. } => KIND_APPEND_REPLY,
            Body::SnapshotOffer { .. } => KIND_SNAPSHOT_OFFER,
            Body::SnapshotPiece { .. } => KIND_SNAPSHOT_PIECE,
            Body::SnapshotProgress { .. } => KIND_SNAPSHOT_PROGRESS,
            Body::ReadRound { .. } => KIND_READ_ROUND,
            Body::ReadRoundReply { .. } => KIND_READ_ROUND_REPLY,
            Body::Transfer => KIND_TRANSFER,
            Body::Pull { .. } => KIND_PULL,
            Body::Suffix { .. } => KIND_SUFFIX,
            Body::Paxos(body) => body.kind(),
        }
    }
}

impl Occasion {
    pub(crate) fn code(self) -> u8 {
        match self {
            Occasion::Silence => 0,
            Occasion::ConnectionClosed => 1,
            Occasion::Transfer => 2,
        }
    }
}

/// Appends numbers with one look at the room there is.
fn put_numbers<const COUNT: usize>(buffer: &mut impl BufMut, numbers: [u64; COUNT]) {
    buffer.put_slice(numbers.map(u64::to_le_bytes).as_flattened());
}

fn put_position(buffer: &mut impl BufMut, position: Position) {
    put_numbers(buffer, [position.slot.0, position.epoch.0]);
}

fn put_entries(buffer: &mut impl BufMut, entries: &Entries) {
    buffer.put_u32_le(u32::try_from(entries.len()).expect("a message is bounded"));
    for entry in entries {
        entry.encode(buffer);
    }
}

fn put_state(buffer: &mut impl BufMut, state: FollowerState) {
    match state {
        FollowerState::Matching => buffer.put_u8(STATE_MATCHING),
        FollowerState::Rejecting { previous, hint } => {
            buffer.put_u8(STATE_REJECTING);
            buffer.put_u64_le(previous.0);
            put_position(buffer, hint);
        }
        FollowerState::Uncertain { session } => {
            buffer.put_u8(STATE_UNCERTAIN);
            buffer.put_u64_le(session);
        }
    }
}

fn put_checkpoint(buffer: &mut impl BufMut, checkpoint: CheckpointRef) {
    buffer.put_u64_le(checkpoint.slot.0);
    buffer.put_u64_le(checkpoint.epoch.0);
    buffer.put_u64_le(checkpoint.length);
    buffer.put_u32_le(checkpoint.checksum);
}

fn put_snapshot(buffer: &mut impl BufMut, body: &Body) {
    match body {
        Body::SnapshotOffer {
            session,
            checkpoint,
        } => {
            buffer.put_u64_le(*session);
            put_checkpoint(buffer, *checkpoint);
        }
        Body::SnapshotPiece {
            session,
            checkpoint,
            offset,
            checksum,
            bytes,
        } => {
            buffer.put_u64_le(*session);
            put_checkpoint(buffer, *checkpoint);
            buffer.put_u64_le(*offset);
            buffer.put_u32_le(*checksum);
            buffer.put_u32_le(u32::try_from(bytes.len()).expect("a piece is bounded"));
            buffer.put_slice(bytes);
        }
        Body::SnapshotProgress {
            session,
            checkpoint,
            stored,
        } => {
            buffer.put_u64_le(*session);
            put_checkpoint(buffer, *checkpoint);
            buffer.put_u64_le(*stored);
        }
        other => unreachable!("{other:?} has nothing to do with snapshots"),
    }
}

fn decode_body(kind: u8, bytes: &mut Bytes) -> Result<Body, DecodeError> {
    match kind {
        KIND_PRE_VOTE => Ok(Body::PreVote {
            round: decode::number_u64(bytes)?,
            last: position(bytes)?,
            occasion: occasion(bytes)?,
        }),
        KIND_PRE_VOTE_REPLY => {
            let round = decode::number_u64(bytes)?;
            let answer = decode::byte(bytes)?;
            if answer > ANSWER_AHEAD {
                return Err(DecodeError::Invalid("answer"));
            }
            let is_ahead = answer == ANSWER_AHEAD;
            Ok(Body::PreVoteReply {
                round,
                granted: answer == ANSWER_YES,
                ahead: is_ahead.then(|| position(bytes)).transpose()?,
            })
        }
        KIND_VOTE => Ok(Body::Vote {
            last: position(bytes)?,
            occasion: occasion(bytes)?,
        }),
        KIND_VOTE_REPLY => Ok(Body::VoteReply {
            granted: decode::flag(bytes)?,
        }),
        KIND_APPEND => decode_append(bytes),
        KIND_APPEND_REPLY => {
            let [session, round, matched, received] = decode::numbers(bytes)?;
            Ok(Body::AppendReply {
                session,
                round,
                matched: decode::as_slot(matched)?,
                received: decode::as_slot(received)?,
                state: follower_state(bytes)?,
            })
        }
        KIND_SNAPSHOT_OFFER => Ok(Body::SnapshotOffer {
            session: decode::number_u64(bytes)?,
            checkpoint: checkpoint(bytes)?,
        }),
        KIND_SNAPSHOT_PIECE => Ok(Body::SnapshotPiece {
            session: decode::number_u64(bytes)?,
            checkpoint: checkpoint(bytes)?,
            offset: decode::number_u64(bytes)?,
            checksum: decode::number_u32(bytes)?,
            bytes: decode::slice(bytes)?,
        }),
        KIND_SNAPSHOT_PROGRESS => Ok(Body::SnapshotProgress {
            session: decode::number_u64(bytes)?,
            checkpoint: checkpoint(bytes)?,
            stored: decode::number_u64(bytes)?,
        }),
        KIND_READ_ROUND => Ok(Body::ReadRound {
            id: decode::number_u64(bytes)?,
        }),
        KIND_READ_ROUND_REPLY => {
            let id = decode::number_u64(bytes)?;
            let answered = decode::flag(bytes)?;
            let slot = decode::slot(bytes)?;
            if !answered && slot != Slot(0) {
                return Err(DecodeError::Invalid("read slot"));
            }
            Ok(Body::ReadRoundReply {
                id,
                slot: answered.then_some(slot),
            })
        }
        KIND_TRANSFER => Ok(Body::Transfer),
        KIND_PULL => Ok(Body::Pull {
            after: position(bytes)?,
        }),
        KIND_SUFFIX => {
            let previous = position(bytes)?;
            let entries = entries_after(previous, bytes)?;
            Ok(Body::Suffix { previous, entries })
        }
        other => Ok(Body::Paxos(PaxosBody::decode(other, bytes)?)),
    }
}

fn decode_append(bytes: &mut Bytes) -> Result<Body, DecodeError> {
    let [session, round, slot, epoch, chosen] = decode::numbers(bytes)?;
    let previous = Position {
        slot: decode::as_slot(slot)?,
        epoch: decode::as_epoch(epoch)?,
    };
    let chosen = decode::as_slot(chosen)?;
    let entries = entries_after(previous, bytes)?;
    Ok(Body::Append {
        session,
        round,
        previous,
        chosen,
        entries,
    })
}

fn entries_after(previous: Position, bytes: &mut Bytes) -> Result<Entries, DecodeError> {
    let count = decode::number_u32(bytes)? as usize;
    if count > bytes.len() / ENTRY_HEAD_BYTES {
        return Err(DecodeError::Truncated);
    }
    let mut entries = decode::list(count);
    let mut slot = previous.slot;
    for _ in 0..count {
        slot = slot.next();
        entries.push(Entry::decode(slot, bytes)?);
    }
    Ok(entries.into())
}

fn position(bytes: &mut Bytes) -> Result<Position, DecodeError> {
    Ok(Position {
        slot: decode::slot(bytes)?,
        epoch: decode::epoch(bytes)?,
    })
}

pub(crate) fn occasion(bytes: &mut Bytes) -> Result<Occasion, DecodeError> {
    match decode::byte(bytes)? {
        0 => Ok(Occasion::Silence),
        1 => Ok(Occasion::ConnectionClosed),
        2 => Ok(Occasion::Transfer),
        _ => Err(DecodeError::Invalid("occasion")),
    }
}

fn follower_state(bytes: &mut Bytes) -> Result<FollowerState, DecodeError> {
    match decode::byte(bytes)? {
        STATE_MATCHING => Ok(FollowerState::Matching),
        STATE_REJECTING => Ok(FollowerState::Rejecting {
            previous: decode::slot(bytes)?,
            hint: position(bytes)?,
        }),
        STATE_UNCERTAIN => Ok(FollowerState::Uncertain {
            session: decode::number_u64(bytes)?,
        }),
        _ => Err(DecodeError::Invalid("follower state")),
    }
}

fn checkpoint(bytes: &mut Bytes) -> Result<CheckpointRef, DecodeError> {
    Ok(CheckpointRef {
        slot: decode::slot(bytes)?,
        epoch: decode::epoch(bytes)?,
        length: decode::number_u64(bytes)?,
        checksum: decode::number_u32(bytes)?,
    })
}
