//! Everything that is written can be read back, and bytes that nobody wrote never panic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{Epoch, NodeId, Slot};
use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use quorate_consensus::message::{Body, FollowerState, Occasion, Position};
use quorate_consensus::{
    CheckpointRef, DecodeError, EngineKind, Entry, HardState, Member, Membership, Message, Payload,
    PayloadKind, QuorumRule, QuorumSizes,
};

/// Slots and epochs below the bound of what is ever used.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..100u64, 0..(1u64 << 61)]
}

fn position() -> impl Strategy<Value = Position> {
    (number(), number()).prop_map(|(slot, epoch)| Position {
        slot: Slot(slot),
        epoch: Epoch(epoch),
    })
}

fn membership() -> impl Strategy<Value = Membership> {
    let member = (
        "[a-z]{0,9}",
        "[a-z:0-9]{0,20}",
        any::<bool>(),
        any::<bool>(),
    );
    let sizes = (1..7_usize, 1..7_usize, 1..7_usize);
    (btree_map(any::<u64>(), member, 0..6), sizes).prop_map(|(drawn, (of, elect, commit))| {
        let mut members = BTreeMap::new();
        let mut voters = BTreeSet::new();
        let mut outgoing = BTreeSet::new();
        let mut witnesses = BTreeSet::new();
        for (id, (name, peer_address, votes, leaves)) in drawn {
            members.insert(NodeId(id), Member { name, peer_address });
            if votes {
                voters.insert(NodeId(id));
            }
            if leaves {
                outgoing.insert(NodeId(id));
            }
            if id % 3 == 0 {
                witnesses.insert(NodeId(id));
            }
        }
        Membership {
            members,
            voters,
            outgoing,
            witnesses,
            quorums: match QuorumRule::new(of, QuorumSizes { elect, commit }) {
                Ok(rule) => rule,
                Err(_) => QuorumRule::default().with_copies(of).expect("some"),
            },
        }
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Empty),
        Just(Payload::Header),
        vec(any::<u8>(), 1..50).prop_map(|bytes| Payload::Commands(Bytes::from(bytes))),
        membership().prop_map(|membership| Payload::Membership(Arc::new(membership))),
    ]
}

fn append() -> impl Strategy<Value = Body> {
    let entries = vec((number(), payload()), 0..6);
    (any::<u64>(), any::<u64>(), position(), number(), entries).prop_map(
        |(session, round, previous, chosen, drawn)| {
            let slots = previous.slot.0 + 1..;
            let entry = |(slot, (epoch, payload))| Entry {
                slot: Slot(slot),
                epoch: Epoch(epoch),
                payload,
            };
            let entries = slots.zip(drawn).map(entry).collect();
            Body::Append {
                session,
                round,
                previous,
                chosen: Slot(chosen),
                entries,
            }
        },
    )
}

fn state() -> impl Strategy<Value = FollowerState> {
    prop_oneof![
        Just(FollowerState::Matching),
        (number(), position()).prop_map(|(previous, hint)| FollowerState::Rejecting {
            previous: Slot(previous),
            hint
        }),
        any::<u64>().prop_map(|session| FollowerState::Uncertain { session }),
    ]
}

fn checkpoint() -> impl Strategy<Value = CheckpointRef> {
    (position(), any::<u64>(), any::<u32>()).prop_map(|(position, length, checksum)| {
        CheckpointRef {
            slot: position.slot,
            epoch: position.epoch,
            length,
            checksum,
        }
    })
}

fn body() -> impl Strategy<Value = Body> {
    let occasion = || {
        prop_oneof![
            Just(Occasion::Silence),
            Just(Occasion::ConnectionClosed),
            Just(Occasion::Transfer)
        ]
    };
    let reply = (any::<u64>(), any::<u64>(), number(), number(), state());
    let piece = (
        any::<u64>(),
        checkpoint(),
        any::<u64>(),
        any::<u32>(),
        vec(any::<u8>(), 0..40),
    );
    prop_oneof![
        (any::<u64>(), position(), occasion()).prop_map(|(round, last, occasion)| Body::PreVote {
            round,
            last,
            occasion
        }),
        (any::<u64>(), any::<bool>()).prop_map(|(round, granted)| Body::PreVoteReply {
            round,
            granted,
            ahead: None,
        }),
        (position(), occasion()).prop_map(|(last, occasion)| Body::Vote { last, occasion }),
        any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
        append(),
        reply.prop_map(
            |(session, round, matched, received, state)| Body::AppendReply {
                session,
                round,
                matched: Slot(matched),
                received: Slot(received),
                state
            }
        ),
        (any::<u64>(), checkpoint()).prop_map(|(session, checkpoint)| Body::SnapshotOffer {
            session,
            checkpoint
        }),
        piece.prop_map(
            |(session, checkpoint, offset, checksum, bytes)| Body::SnapshotPiece {
                session,
                checkpoint,
                offset,
                checksum,
                bytes: Bytes::from(bytes)
            }
        ),
        (any::<u64>(), checkpoint(), any::<u64>()).prop_map(|(session, checkpoint, stored)| {
            Body::SnapshotProgress {
                session,
                checkpoint,
                stored,
            }
        }),
        any::<u64>().prop_map(|id| Body::ReadRound { id }),
        (any::<u64>(), proptest::option::of(number())).prop_map(|(id, slot)| {
            Body::ReadRoundReply {
                id,
                slot: slot.map(Slot),
            }
        }),
        Just(Body::Transfer),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    (number(), body()).prop_map(|(epoch, body)| Message {
        epoch: Epoch(epoch),
        body,
    })
}

fn encoded(message: &Message) -> Bytes {
    let mut buffer = BytesMut::new();
    message.encode(&mut buffer);
    buffer.freeze()
}

proptest! {
    #[test]
    fn messages_come_back(message in message()) {
        prop_assert_eq!(Message::decode(encoded(&message)), Ok(message));
    }

    #[test]
    fn a_message_cut_short_is_refused(message in message(), cut in any::<prop::sample::Index>()) {
        let whole = encoded(&message);
        let cut = cut.index(whole.len());
        prop_assert!(Message::decode(whole.slice(..cut)).is_err());
    }

    #[test]
    fn a_message_with_something_behind_it_is_refused(message in message()) {
        let mut longer = encoded(&message).to_vec();
        longer.push(0);
        prop_assert!(Message::decode(Bytes::from(longer)).is_err());
    }

    #[test]
    fn a_changed_byte_never_panics(
        message in message(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut bytes = encoded(&message).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(other) = Message::decode(Bytes::from(bytes.clone())) {
            // One value has one encoding.
            prop_assert_eq!(&encoded(&other)[..], &bytes[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = Message::decode(bytes.clone());
        let _ = HardState::decode(bytes.clone());
        let _ = Membership::decode(bytes.clone());
        let _ = Payload::from_body(PayloadKind::Membership, bytes);
    }

    #[test]
    fn payloads_come_back_from_the_journal(payload in payload()) {
        let (kind, body) = payload.to_body();
        prop_assert_eq!(Payload::from_body(kind, body), Ok(payload));
    }

    #[test]
    fn hard_states_come_back(
        epoch in number(),
        vote in proptest::option::of(any::<u64>()),
        chosen in number(),
        uncertain in any::<bool>(),
        paxos in any::<bool>(),
    ) {
        let state = HardState {
            epoch: Epoch(epoch),
            vote: vote.map(NodeId),
            chosen: Slot(chosen),
            uncertain,
            engine: if paxos { EngineKind::Paxos } else { EngineKind::Raft },
        };
        let bytes = state.encode();
        prop_assert_eq!(bytes.len(), HardState::ENCODED_BYTES);
        prop_assert_eq!(HardState::decode(bytes), Ok(state));
    }
}

#[test]
fn commands_share_the_memory_they_came_in() {
    let commands = Bytes::from_static(b"put");
    let previous = Position::default();
    let entry = Entry {
        slot: Slot(1),
        epoch: Epoch(1),
        payload: Payload::Commands(commands),
    };
    let body = Body::Append {
        session: 1,
        round: 0,
        previous,
        chosen: Slot(0),
        entries: vec![entry].into(),
    };
    let frame = encoded(&Message {
        epoch: Epoch(1),
        body,
    });
    let decoded = Message::decode(frame.clone()).expect("it was just encoded");
    let Body::Append { entries, .. } = decoded.body else {
        panic!("an append")
    };
    let Payload::Commands(commands) = &entries[0].payload else {
        panic!("commands")
    };
    let range = frame.as_ptr_range();
    assert!(
        range.contains(&commands.as_ptr()),
        "the commands were copied"
    );
}

#[test]
fn a_count_of_entries_that_cannot_be_there_allocates_nothing() {
    let message = Message {
        epoch: Epoch(1),
        body: Body::Append {
            session: 1,
            round: 1,
            previous: Position::default(),
            chosen: Slot(0),
            entries: Vec::new().into(),
        },
    };
    let mut bytes = encoded(&message).to_vec();
    let count = bytes.len() - 4;
    bytes[count..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        Message::decode(Bytes::from(bytes)),
        Err(DecodeError::Truncated)
    );
}

/// The layout that `docs/internals/consensus.md` describes, byte by byte.
#[test]
fn the_documented_append_is_what_is_written() {
    let entry = Entry {
        slot: Slot(8),
        epoch: Epoch(3),
        payload: Payload::Commands(Bytes::from_static(b"hi")),
    };
    let message = Message {
        epoch: Epoch(4),
        body: Body::Append {
            session: 2,
            round: 5,
            previous: Position {
                slot: Slot(7),
                epoch: Epoch(3),
            },
            chosen: Slot(6),
            entries: vec![entry].into(),
        },
    };
    let mut expected = vec![5];
    for number in [4u64, 2, 5, 7, 3, 6] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend(1u32.to_le_bytes());
    expected.extend(3u64.to_le_bytes());
    expected.push(1);
    expected.extend(2u32.to_le_bytes());
    expected.extend(b"hi");
    assert_eq!(&encoded(&message)[..], &expected[..]);
}
