//! The messages of Paxos: what is written can be read back, bytes that nobody wrote never panic,
//! and messages that no honest replica sends never stop an engine.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Epoch, Instant, NodeId, Random, Slot};
use bytes::{Bytes, BytesMut};
use cluster::{Disk, Host};
use quorate_consensus::message::{Accepted, Body, Occasion, PaxosBody, Position};
use quorate_consensus::{
    CheckpointRef, Config, Engine, EngineKind, Entries, Entry, Input, Limits, Liveness, Member,
    Membership, Message, Payload, Role, Slots, Ticket,
};

fn members(count: u64) -> Membership {
    let member = |id: u64| Member {
        name: format!("n{id}"),
        peer_address: String::new(),
    };
    let members: BTreeMap<NodeId, Member> =
        (1..=count).map(|id| (NodeId(id), member(id))).collect();
    Membership {
        voters: members.keys().copied().collect(),
        members,
        ..Membership::default()
    }
}

/// Small numbers near what is going on, and now and then one far away.
fn number(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => (1 << 62) - 1 - random.below(3),
        1 => random.below(1 << 20),
        2 => 256 * random.below(20) + random.below(5),
        _ => random.below(40),
    }
}

fn slot(random: &mut Random) -> Slot {
    Slot(number(random))
}

fn epoch(random: &mut Random, near: Epoch) -> Epoch {
    match random.below(4) {
        0 => Epoch(number(random)),
        1 => Epoch((near.0 + random.below(600)).min((1 << 62) - 1)),
        2 => Epoch(near.0.saturating_sub(random.below(600))),
        _ => near,
    }
}

fn slots(random: &mut Random) -> Slots {
    let mut slots = Slots::up_to(slot(random));
    for _ in 0..random.below(4) {
        let first = slot(random);
        let last = (first.0 + random.below(3)).min((1 << 62) - 1);
        slots.insert(first, Slot(last));
    }
    slots
}

fn entries(random: &mut Random, near: Epoch) -> Vec<Entry> {
    let mut before = slot(random).0 / 2;
    let mut entries = Vec::new();
    for _ in 0..random.below(5) {
        before += 1 + random.below(3);
        let payload = match random.below(6) {
            0 => Payload::Empty,
            1 => {
                let count = random.below(5);
                Payload::Membership(members(count).into())
            }
            _ => Payload::Commands(Bytes::from_static(b"commands")),
        };
        entries.push(Entry {
            slot: Slot(before),
            epoch: epoch(random, near),
            payload,
        });
    }
    entries
}

fn body(random: &mut Random, near: Epoch) -> Body {
    let occasions = [
        Occasion::Silence,
        Occasion::ConnectionClosed,
        Occasion::Transfer,
    ];
    let occasion = occasions[random.below(3) as usize];
    let checkpoint = CheckpointRef {
        slot: slot(random),
        epoch: near,
        length: number(random),
        checksum: 7,
    };
    Body::Paxos(match random.below(11) {
        0 => PaxosBody::Prepare {
            first: slot(random),
            occasion,
        },
        1 | 2 => {
            let accepted = entries(random, near).into_iter();
            let accepted = accepted.map(|entry| Accepted {
                ballot: epoch(random, near),
                entry,
            });
            let accepted = accepted.collect();
            PaxosBody::Promise {
                granted: random.chance(0.9),
                first: slot(random),
                next: Slot(number(random) * random.below(2)),
                chosen: slot(random),
                accepted,
            }
        }
        3..=5 => PaxosBody::Accept {
            session: random.below(3),
            round: random.below(5),
            chosen: slot(random),
            last: slot(random),
            entries: entries(random, near).into(),
        },
        6 | 7 => PaxosBody::AcceptReply {
            session: random.below(3),
            round: random.below(9),
            received: slots(random),
            durable: slots(random),
            uncertain: random.chance(0.1).then_some(random.below(3)),
        },
        8 => PaxosBody::CatchUp {
            id: random.below(3),
            after: slot(random),
        },
        9 => PaxosBody::Learn {
            id: random.below(3),
            chosen: slot(random),
            entries: entries(random, near).into(),
        },
        _ => {
            return match random.below(8) {
                0 => Body::PreVote {
                    round: 1,
                    last: Position {
                        slot: slot(random),
                        epoch: near,
                    },
                    occasion,
                },
                1 => Body::PreVoteReply {
                    round: 1,
                    granted: random.chance(0.5),
                    ahead: None,
                },
                2 => Body::SnapshotOffer {
                    session: random.below(3),
                    checkpoint,
                },
                3 => Body::SnapshotPiece {
                    session: random.below(3),
                    checkpoint,
                    offset: number(random),
                    checksum: 0,
                    bytes: Bytes::new(),
                },
                4 => Body::SnapshotProgress {
                    session: random.below(3),
                    checkpoint,
                    stored: number(random),
                },
                5 => Body::ReadRound { id: 1 },
                6 => Body::ReadRoundReply {
                    id: 1,
                    slot: Some(slot(random)),
                },
                _ => Body::Transfer,
            };
        }
    })
}

fn encoded(message: &Message) -> Bytes {
    let mut buffer = BytesMut::new();
    message.encode(&mut buffer);
    buffer.freeze()
}

#[test]
fn messages_come_back_and_no_bytes_panic() {
    let mut random = Random::from_seed(1);
    for _ in 0..20_000 {
        let near = Epoch(number(&mut random));
        let message = Message {
            epoch: near,
            body: body(&mut random, near),
        };
        let bytes = encoded(&message);
        assert_eq!(Message::decode(bytes.clone()), Ok(message));
        let cut = random.below(bytes.len() as u64) as usize;
        assert!(Message::decode(bytes.slice(..cut)).is_err());
        let mut changed = bytes.to_vec();
        let at = random.below(changed.len() as u64) as usize;
        changed[at] = random.below(256) as u8;
        if let Ok(other) = Message::decode(Bytes::from(changed.clone())) {
            assert_eq!(encoded(&other)[..], changed[..], "one value, one encoding");
        }
        changed.push(0);
        assert!(Message::decode(Bytes::from(changed)).is_err());
    }
}

#[test]
fn a_count_that_cannot_be_there_allocates_nothing() {
    let message = |body| Message {
        epoch: Epoch(1),
        body: Body::Paxos(body),
    };
    for body in [
        PaxosBody::Learn {
            id: 1,
            chosen: Slot(0),
            entries: Entries::default(),
        },
        PaxosBody::Promise {
            granted: true,
            first: Slot(1),
            next: Slot(0),
            chosen: Slot(0),
            accepted: Vec::new(),
        },
    ] {
        let mut bytes = encoded(&message(body)).to_vec();
        let count = bytes.len() - 4;
        bytes[count..].copy_from_slice(&u32::MAX.to_le_bytes());
        Message::decode(Bytes::from(bytes)).unwrap_err();
    }
}

fn host(random: &mut Random, voters: u64) -> Host {
    let config = Config {
        id: NodeId(1),
        election_timeout: Duration::from_millis(500),
        heartbeat_interval: Duration::from_millis(100),
        limits: Limits {
            window_entries: 20,
            append_bytes: 100,
            cache_bytes: 100,
            ..Limits::default()
        },
    };
    let disk = Disk {
        genesis: members(voters),
        ..Disk::default()
    };
    let seed = random.next_u64();
    Host::start(EngineKind::Paxos, config, disk, seed, Instant(0))
}

/// A message that helps this replica become a leader, so that leaders are tried as well.
fn helpful(host: &Host, random: &mut Random) -> Option<(NodeId, Message)> {
    let (to, sent) = host.outgoing.last()?;
    let body = match &sent.body {
        Body::PreVote { round, .. } => Body::PreVoteReply {
            round: *round,
            granted: true,
            ahead: None,
        },
        Body::Paxos(PaxosBody::Prepare { first, .. }) => Body::Paxos(PaxosBody::Promise {
            granted: true,
            first: *first,
            next: Slot(0),
            chosen: Slot(0),
            accepted: Vec::new(),
        }),
        Body::Paxos(PaxosBody::Accept {
            session,
            round,
            last,
            ..
        }) => Body::Paxos(PaxosBody::AcceptReply {
            session: *session,
            round: *round,
            received: Slots::up_to(*last),
            durable: Slots::up_to(Slot(random.below(last.0 + 1))),
            uncertain: None,
        }),
        _ => return None,
    };
    let epoch = sent.epoch;
    Some((*to, Message { epoch, body }))
}

#[test]
fn no_message_stops_an_engine() {
    let mut led = 0;
    for seed in 0..600 {
        let mut random = Random::from_seed(seed);
        let voters = [1, 3, 3, 5][random.below(4) as usize];
        let mut host = host(&mut random, voters);
        host.executes = random.chance(0.9);
        let mut now = Instant(0);
        for _ in 0..250 {
            now = now + Duration::from_millis(random.below(60));
            let near = host.engine.hard_state().epoch;
            let help = helpful(&host, &mut random).filter(|_| random.chance(0.6));
            let (from, message) = help.unwrap_or_else(|| {
                let message = Message {
                    epoch: epoch(&mut random, near),
                    body: body(&mut random, near),
                };
                (NodeId(1 + random.below(6)), message)
            });
            match random.below(8) {
                0 => {
                    let commands = Bytes::from_static(b"x");
                    let ticket = Ticket(random.next_u64());
                    host.step(now, Input::Propose { ticket, commands });
                }
                1 => host.complete_write(now),
                2 => {
                    let ticket = Ticket(random.next_u64());
                    host.step(now, Input::ReadRound { ticket });
                }
                3 => {
                    let peer = NodeId(random.below(6));
                    let liveness = Liveness::ConnectionClosed;
                    host.step(now, Input::Hint { peer, liveness });
                }
                _ => host.step(now, Input::Peer { from, message }),
            }
            if host.engine.deadline().is_some_and(|at| at <= now) {
                host.step(now, Input::Deadline);
            }
            if random.chance(0.7) {
                host.flush(now);
            }
            if host.outgoing.len() > 50 {
                host.outgoing.clear();
            }
            led += u64::from(host.engine.view().role == Role::Leader);
        }
    }
    assert!(led > 2000, "leaders are tried too: {led}");
}
