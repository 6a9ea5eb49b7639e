//! Messages that no honest replica sends: whatever they say, an engine drops them or lives with
//! them. A voter that claims a leadership which another holds is told of loudly, and dropped.

mod cluster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{Epoch, Instant, NodeId, Random, Slot};
use bytes::Bytes;
use cluster::{Disk, Host};
use quorate_consensus::message::{Body, FollowerState, Occasion, Position};
use quorate_consensus::{
    CheckpointRef, Config, Entry, Input, Limits, Liveness, Member, Membership, Message, Note,
    Output, Payload, Ticket,
};

const STRANGER: NodeId = NodeId(9);

/// Mostly small numbers, which nearly make sense; sometimes huge ones.
fn number(random: &mut Random) -> u64 {
    match random.below(10) {
        0 => random.next_u64() >> 2,
        1 => (1 << 62) - 1,
        _ => random.below(12),
    }
}

fn position(random: &mut Random) -> Position {
    Position {
        slot: Slot(number(random)),
        epoch: Epoch(number(random)),
    }
}

fn checkpoint(random: &mut Random) -> CheckpointRef {
    let Position { slot, epoch } = position(random);
    CheckpointRef {
        slot,
        epoch,
        length: random.below(100),
        checksum: 0,
    }
}

fn entries(random: &mut Random, previous: Position) -> Vec<Entry> {
    let mut entries = Vec::new();
    for offset in 1..=random.below(4) {
        let broken = random.chance(0.2);
        let slot = if broken {
            number(random)
        } else {
            previous.slot.0.saturating_add(offset)
        };
        let epoch = if broken {
            Epoch(number(random))
        } else {
            previous.epoch
        };
        let payload = match random.below(3) {
            0 => Payload::Empty,
            1 => Payload::Commands(Bytes::from_static(b"evil")),
            _ => Payload::Membership(Arc::new(Membership::default())),
        };
        entries.push(Entry {
            slot: Slot(slot),
            epoch,
            payload,
        });
    }
    entries
}

/// What only a leader says; comes from a stranger, or from a voter.
fn of_a_leader(random: &mut Random) -> Body {
    let session = random.below(4);
    match random.below(4) {
        0 | 1 => {
            let previous = position(random);
            let entries = entries(random, previous);
            let (round, chosen) = (random.below(4), Slot(number(random)));
            Body::Append {
                session,
                round,
                previous,
                chosen,
                entries: entries.into(),
            }
        }
        2 => Body::SnapshotOffer {
            session,
            checkpoint: checkpoint(random),
        },
        _ => {
            let bytes = Bytes::from(vec![0; random.below(40) as usize]);
            let checksum = base::checksum::crc32c(&bytes);
            let (checkpoint, offset) = (checkpoint(random), number(random));
            Body::SnapshotPiece {
                session,
                checkpoint,
                offset,
                checksum,
                bytes,
            }
        }
    }
}

/// What anyone says; comes from a member as well.
fn of_anyone(random: &mut Random) -> Body {
    let (session, granted) = (random.below(4), random.chance(0.5));
    let occasion = [
        Occasion::Silence,
        Occasion::ConnectionClosed,
        Occasion::Transfer,
    ];
    let occasion = occasion[random.below(3) as usize];
    match random.below(9) {
        0 => Body::PreVote {
            round: 0,
            last: position(random),
            occasion,
        },
        1 => Body::PreVoteReply {
            round: 0,
            granted,
            ahead: None,
        },
        2 => Body::Vote {
            last: position(random),
            occasion,
        },
        3 => Body::VoteReply { granted },
        4 | 5 => {
            let state = match random.below(3) {
                0 => FollowerState::Matching,
                1 => FollowerState::Uncertain {
                    session: number(random),
                },
                _ => {
                    let previous = Slot(number(random));
                    FollowerState::Rejecting {
                        previous,
                        hint: position(random),
                    }
                }
            };
            let round = random.below(4);
            let (matched, received) = (Slot(number(random)), Slot(number(random)));
            Body::AppendReply {
                session,
                round,
                matched,
                received,
                state,
            }
        }
        6 => {
            let (checkpoint, stored) = (checkpoint(random), number(random));
            Body::SnapshotProgress {
                session,
                checkpoint,
                stored,
            }
        }
        7 => Body::ReadRound { id: number(random) },
        _ => Body::Transfer,
    }
}

fn host(random: &mut Random, voters: u64) -> Host {
    let member = |id: u64| Member {
        name: format!("n{id}"),
        peer_address: String::new(),
    };
    let members: BTreeMap<NodeId, Member> = (1..=3).map(|id| (NodeId(id), member(id))).collect();
    let voters = (1..=voters).map(NodeId).collect();
    let genesis = Membership {
        members,
        voters,
        ..Membership::default()
    };
    let config = Config {
        id: NodeId(1),
        election_timeout: Duration::from_millis(500),
        heartbeat_interval: Duration::from_millis(100),
        limits: Limits {
            cache_bytes: 50,
            write_bytes: 200,
            append_bytes: 60,
            ..Limits::default()
        },
    };
    let disk = Disk {
        genesis,
        ..Disk::default()
    };
    Host::start(
        quorate_consensus::EngineKind::Raft,
        config,
        disk,
        random.next_u64(),
        Instant(0),
    )
}

#[test]
fn hostile_messages_never_stop_a_replica() {
    let mut two_leaders = 0;
    for seed in 0..400 {
        let mut random = Random::from_seed(seed);
        // With one voter it leads at once, and hears what followers might say.
        let voters = if seed % 2 == 0 { 3 } else { 1 };
        let mut host = host(&mut random, voters);
        let mut now = Instant(0);
        for ticket in 0..300 {
            now = now + Duration::from_millis(random.below(40));
            let input = match random.below(12) {
                0 => Input::Deadline,
                1 => Input::ReadRound {
                    ticket: Ticket(ticket),
                },
                2 | 3 => {
                    let commands = Bytes::from_static(b"good");
                    Input::Propose {
                        ticket: Ticket(ticket),
                        commands,
                    }
                }
                4 => Input::Hint {
                    peer: STRANGER,
                    liveness: Liveness::ConnectionClosed,
                },
                5..8 => {
                    let epoch = Epoch(random.below(12));
                    let body = of_a_leader(&mut random);
                    let from = [NodeId(2), NodeId(3), STRANGER][random.below(3) as usize];
                    Input::Peer {
                        from,
                        message: Message { epoch, body },
                    }
                }
                _ => {
                    let from = [NodeId(1), NodeId(2), STRANGER][random.below(3) as usize];
                    let epoch = Epoch(if random.chance(0.9) {
                        1
                    } else {
                        number(&mut random)
                    });
                    let body = of_anyone(&mut random);
                    Input::Peer {
                        from,
                        message: Message { epoch, body },
                    }
                }
            };
            host.step(now, input);
            if random.chance(0.7) {
                host.flush(now);
                let is_loud = |said: &Output| matches!(said, Output::Note(Note::TwoLeaders { .. }));
                two_leaders += host.said.drain(..).filter(is_loud).count();
                host.outgoing.clear();
                host.complete_write(now);
            }
            // Checkpoints of strangers do not verify; that is the host's business.
            host.tasks.clear();
        }
    }
    assert!(two_leaders > 0, "voters claimed what others held");
}
