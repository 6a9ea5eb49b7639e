//! What nodes tell each other, and what stands on their disks.

use std::net::SocketAddr;
use std::time::Duration;

use base::{ClusterId, Epoch, Instant, NodeId, WallTime};
use bytes::{Bytes, BytesMut};
use cluster::gossip::config::Config;
use cluster::gossip::member::Facts;
use cluster::gossip::seal::Keys;
use cluster::gossip::{Gossip, Input, Output, Startup, StreamId};
use state::{CheckpointReader, EntryStamp, Limits, State};

use crate::chosen;

/// A frame from another node, behind its checksum.
pub fn peer_frames(bytes: &[u8]) {
    let Ok(frame) = node::wire::Frame::decode(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let again = node::wire::Frame::decode(frame.encode());
    assert_eq!(again.as_ref(), Ok(&frame), "a frame survives its encoding");
}

/// What the engines say to each other and write into their logs.
pub fn engine_messages(bytes: &[u8]) {
    let (kind, rest) = chosen(bytes);
    match kind % 3 {
        0 => {
            if let Ok(message) = consensus::Message::decode(rest) {
                let mut encoded = BytesMut::new();
                message.encode(&mut encoded);
                let again = consensus::Message::decode(encoded.freeze());
                assert_eq!(again, Ok(message), "a message survives its encoding");
            }
        }
        1 => drop(consensus::HardState::decode(rest)),
        _ => {
            if let Ok(membership) = consensus::Membership::decode(rest) {
                let _ = membership.after_joint();
            }
        }
    }
}

/// Begins the next entry.
pub(crate) fn begin(state: &mut State) {
    let slot = state.reader().applied().next();
    state.begin_entry(&EntryStamp {
        slot,
        epoch: Epoch(1),
        wall: WallTime(slot.0),
        elapsed: Duration::ZERO,
    });
}

/// Records of the log, executed: whatever stands there, a replica goes on.
pub fn commands(bytes: &[u8]) {
    let (kind, rest) = chosen(bytes);
    let mut state = crate::clients::keyspace();
    let membership = consensus::Membership::default();
    begin(&mut state);
    match kind % 6 {
        0 => drop(etcd::execute(state.transaction(), &rest)),
        1 => drop(etcd::maintenance::command::execute(
            state.transaction(),
            &rest,
        )),
        2 => drop(node::leases::execute(&mut state, &rest)),
        3 => drop(node::system::execute(
            state.transaction(),
            &membership,
            &rest,
        )),
        4 => drop(cluster::meta::execute(
            state.transaction(),
            &membership,
            &rest,
        )),
        _ => {
            let batch = node::batch::decode(&rest);
            let _ = batch.map(|batch| batch.commands().count());
        }
    }
    let _ = state.end_entry();
    let digest = state.digest();
    assert_eq!(
        digest,
        state.reader().recompute_digest(),
        "the digest is kept"
    );
}

/// Blocks, batches and records of the log on disk.
pub fn journal(bytes: &[u8]) {
    let (kind, rest) = chosen(bytes);
    match kind % 3 {
        0 => drop(journal::format::batch::decode(&rest, 1, 0)),
        1 => drop(journal::format::record::decode(&rest)),
        _ => {
            let mut block = rest.to_vec();
            block.resize(journal::format::block::BLOCK_BYTES as usize, 0);
            let _ = journal::format::head::SegmentHead::decode(&block);
        }
    }
}

/// A checkpoint, in pieces, and what it restores.
pub fn checkpoints(bytes: &[u8]) {
    let (size, rest) = chosen(bytes);
    let mut reader = CheckpointReader::new(Limits::default());
    for piece in rest.chunks(usize::from(size) + 1) {
        if reader.feed(piece).is_err() {
            return;
        }
    }
    if let Ok((mut state, ..)) = reader.finish() {
        // It is lived on.
        begin(&mut state);
        let _ = state.end_entry();
    }
}

/// A member of a cluster that is alone so far.
fn member(node: u64) -> Gossip {
    let startup = Startup {
        config: Config::local_network(),
        cluster: ClusterId(1),
        node: NodeId(node),
        name: format!("n{node}"),
        address: address(node as u16),
        start: 1,
        process: node,
        facts: Facts::default(),
        keys: Keys::default(),
        seed: node,
    };
    Gossip::new(startup, Instant(0))
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Packets and streams of gossip, from a stranger.
pub fn gossip(bytes: &[u8]) {
    let (kind, rest) = chosen(bytes);
    let mut gossip = member(1);
    let from = address(2);
    let mut out = Vec::new();
    let input = match kind % 2 {
        0 => Input::Packet { from, bytes: rest },
        _ => Input::ExchangeAsked {
            stream: StreamId(1),
            from,
            bytes: rest,
        },
    };
    gossip.step(Instant(1), WallTime(1), input, &mut out);
    let later = Instant(1_000_000_000);
    gossip.step(later, WallTime(1_000_000_000), Input::Deadline, &mut out);
}

/// What a member sends that joins another, and the other's first packets.
pub(crate) fn joining() -> Vec<Output> {
    let (mut one, mut other) = (member(1), member(2));
    let (mut sent, mut answered) = (Vec::new(), Vec::new());
    let wall = WallTime(1);
    other.step(Instant(1), wall, Input::Join(vec![address(1)]), &mut sent);
    for output in &sent {
        if let Output::Exchange { bytes, .. } = output {
            let input = Input::ExchangeAsked {
                stream: StreamId(1),
                from: address(2),
                bytes: Bytes::copy_from_slice(bytes),
            };
            one.step(Instant(2), wall, input, &mut answered);
        }
    }
    for second in 1..5 {
        let now = Instant(second * 1_000_000_000);
        one.step(now, wall, Input::Deadline, &mut answered);
    }
    sent.extend(answered);
    sent
}
