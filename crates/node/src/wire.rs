//! What nodes say to each other: the body of a peer frame.
//!
//! ```text
//! frame body:  kind u8 | fields            of one group: kind u8 | group u64 | fields
//! integers:    little-endian, of fixed size
//! text:        length u16, UTF-8            bytes: length u32, octets
//! membership:  bytes, as `consensus::Membership` encodes itself
//! ```
//!
//! The host adds length and checksum and has verified both before a body gets here; a body that
//! cannot be decoded therefore comes from a mistaken or hostile peer and costs it the connection.
//! The first frame each side sends is [`Frame::Hello`]. The table of kinds is in
//! `docs/internals/node.md`.

use base::{ClusterId, GroupId, Incarnation, NodeId};
use bytes::{Buf, BufMut, Bytes};
use consensus::{EngineKind, Membership};

mod group;
mod members;
mod packet;
pub use group::{Facts, ForwardedCommand, GroupFrame, Operation};
pub use members::MemberChange;
pub use packet::{Messages, Packet};

/// So many elements of a list are made room for before the first has been read: what is announced
/// need not be there, and an element takes more memory than bytes in the frame.
const ROOM: usize = 64;

/// The oldest and the newest version of this protocol that this build speaks.
pub const VERSIONS: (u16, u16) = (1, 1);

/// How far the sender of a [`Hello`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloStanding {
    /// Its folder is empty.
    Alone,
    /// It has promised to be part of a cluster that may not exist yet.
    Forming(ClusterId),
    /// It is a member.
    Member(ClusterId),
}

/// The first frame in both directions: who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest and newest protocol version it speaks.
    pub versions: (u16, u16),
    /// Its id.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Drawn at random by each process: two of them with one id run on copies of one folder.
    pub process: u64,
    /// How far it has come.
    pub standing: HelloStanding,
    /// Its name.
    pub name: String,
    /// Where it wants to be reached.
    pub address: String,
    /// It votes and holds no data.
    pub is_witness: bool,
}

/// What a joining node is told when it is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The cluster.
    pub cluster: ClusterId,
    /// The id that the operator's `member add` gave the new member.
    pub node: NodeId,
    /// The membership that the log starts from.
    pub genesis: Membership,
    /// How the members agree.
    pub engine: EngineKind,
}

/// What a node that wants to join is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinReply {
    /// It is let in.
    Welcome(Welcome),
    /// It never will be, as it asks now; for its operator.
    Refused(String),
    /// Something is missing that may still come; for its operator.
    NotYet(String),
}

/// The body of a peer frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Who is there.
    Hello(Hello),
    /// The connection will be closed, and why; for the other side's log.
    Goodbye(String),
    /// Be part of this cluster, with this first membership.
    Form {
        /// Which cluster.
        cluster: ClusterId,
        /// Its first membership.
        genesis: Membership,
        /// How its members are to agree.
        engine: EngineKind,
    },
    /// The promise asked for by [`Frame::Form`] is on stable storage.
    FormPromised(ClusterId),
    /// Everyone has promised: the cluster exists.
    Formed(ClusterId),
    /// Let me in as the member that an operator has added under this name.
    JoinRequest {
        /// The name.
        name: String,
        /// Identifies the folder that asks, so that the first one wins and may ask again.
        claimant: NodeId,
    },
    /// The answer to [`Frame::JoinRequest`].
    JoinReply(JoinReply),
    /// Between the engines of groups; see [`Packet`].
    Engine(Messages),
    /// Between the replicas of a group, or from a node whose clients it serves.
    Group(GroupId, GroupFrame),
    /// The receiver has been removed from the cluster, and may have missed that.
    Removed,
    /// A sign of life, on behalf of all groups of the sender that sleep.
    Pulse {
        /// Of which start of the node.
        incarnation: Incarnation,
        /// Grows whenever a group that slept under this node is not led by it any more.
        surrendered: u64,
    },
}

/// Why a body could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireError(pub &'static str);

impl From<bytes::TryGetError> for WireError {
    fn from(_: bytes::TryGetError) -> WireError {
        WireError("the frame ends too early")
    }
}

const NO_NODE: u64 = 0;

impl Frame {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.encoded_bytes_hint());
        match self {
            Frame::Hello(hello) => put_hello(&mut out, hello),
            Frame::Goodbye(reason) => {
                out.put_u8(2);
                put_text(&mut out, reason);
            }
            Frame::Form {
                cluster,
                genesis,
                engine,
            } => {
                out.put_u8(3);
                out.put_u64_le(cluster.0);
                put_membership(&mut out, genesis);
                out.put_u8(engine.code());
            }
            Frame::FormPromised(cluster) => {
                out.put_u8(4);
                out.put_u64_le(cluster.0);
            }
            Frame::Formed(cluster) => {
                out.put_u8(5);
                out.put_u64_le(cluster.0);
            }
            Frame::JoinRequest { name, claimant } => {
                out.put_u8(6);
                put_text(&mut out, name);
                out.put_u64_le(claimant.0);
            }
            Frame::JoinReply(reply) => put_join_reply(&mut out, reply),
            Frame::Engine(messages) => packet::put(&mut out, messages),
            Frame::Group(group, frame) => frame.put(*group, &mut out),
            Frame::Removed => out.put_u8(14),
            Frame::Pulse {
                incarnation,
                surrendered,
            } => {
                out.put_u8(24);
                out.put_u64_le(incarnation.0);
                out.put_u64_le(*surrendered);
            }
        }
        out.into()
    }

    /// About how many bytes [`Frame::encode`] makes.
    fn encoded_bytes_hint(&self) -> usize {
        const FIELDS: usize = 64;
        match self {
            Frame::Engine(messages) => packet::encoded_bytes_hint(messages),
            Frame::Group(_, frame) => frame.encoded_bytes_hint(),
            _ => FIELDS,
        }
    }

    /// The frame that `body` holds. Commands and entries share `body`'s memory.
    ///
    /// # Errors
    /// If it is none; nothing of it may be used then.
    pub fn decode(mut body: Bytes) -> Result<Frame, WireError> {
        let input = &mut body;
        let frame = match input.try_get_u8()? {
            1 => Frame::Hello(get_hello(input)?),
            2 => Frame::Goodbye(get_text(input)?),
            3 => Frame::Form {
                cluster: ClusterId(input.try_get_u64_le()?),
                genesis: get_membership(input)?,
                engine: get_engine(input)?,
            },
            4 => Frame::FormPromised(ClusterId(input.try_get_u64_le()?)),
            5 => Frame::Formed(ClusterId(input.try_get_u64_le()?)),
            6 => Frame::JoinRequest {
                name: get_text(input)?,
                claimant: NodeId(input.try_get_u64_le()?),
            },
            7 => Frame::JoinReply(get_join_reply(input)?),
            8 => Frame::Engine(packet::get(input)?),
            14 => Frame::Removed,
            24 => Frame::Pulse {
                incarnation: Incarnation(input.try_get_u64_le()?),
                surrendered: input.try_get_u64_le()?,
            },
            kind => {
                let group = GroupId(input.try_get_u64_le()?);
                Frame::Group(group, GroupFrame::get(kind, input)?)
            }
        };
        if input.has_remaining() {
            return Err(WireError("bytes follow the end of the frame"));
        }
        Ok(frame)
    }
}

fn put_hello(out: &mut Vec<u8>, hello: &Hello) {
    out.put_u8(1);
    out.put_u16_le(hello.versions.0);
    out.put_u16_le(hello.versions.1);
    out.put_u64_le(hello.node.0);
    out.put_u64_le(hello.incarnation.0);
    out.put_u64_le(hello.process);
    let (standing, cluster) = match hello.standing {
        HelloStanding::Alone => (0, ClusterId(0)),
        HelloStanding::Forming(cluster) => (1, cluster),
        HelloStanding::Member(cluster) => (2, cluster),
    };
    out.put_u8(standing);
    out.put_u64_le(cluster.0);
    put_text(out, &hello.name);
    put_text(out, &hello.address);
    out.put_u8(u8::from(hello.is_witness));
}

fn get_hello(input: &mut Bytes) -> Result<Hello, WireError> {
    let versions = (input.try_get_u16_le()?, input.try_get_u16_le()?);
    let node = NodeId(input.try_get_u64_le()?);
    let incarnation = Incarnation(input.try_get_u64_le()?);
    let process = input.try_get_u64_le()?;
    let standing = input.try_get_u8()?;
    let cluster = ClusterId(input.try_get_u64_le()?);
    let standing = match standing {
        0 => HelloStanding::Alone,
        1 => HelloStanding::Forming(cluster),
        2 => HelloStanding::Member(cluster),
        _ => return Err(WireError("no standing has this number")),
    };
    let (name, address) = (get_text(input)?, get_text(input)?);
    let is_witness = input.try_get_u8()? == 1;
    Ok(Hello {
        versions,
        node,
        incarnation,
        process,
        standing,
        name,
        address,
        is_witness,
    })
}

fn put_join_reply(out: &mut Vec<u8>, reply: &JoinReply) {
    out.put_u8(7);
    match reply {
        JoinReply::Welcome(welcome) => {
            out.put_u8(1);
            out.put_u64_le(welcome.cluster.0);
            out.put_u64_le(welcome.node.0);
            put_membership(out, &welcome.genesis);
            out.put_u8(welcome.engine.code());
        }
        JoinReply::Refused(reason) => {
            out.put_u8(0);
            put_text(out, reason);
        }
        JoinReply::NotYet(reason) => {
            out.put_u8(2);
            put_text(out, reason);
        }
    }
}

fn get_join_reply(input: &mut Bytes) -> Result<JoinReply, WireError> {
    match input.try_get_u8()? {
        0 => Ok(JoinReply::Refused(get_text(input)?)),
        1 => Ok(JoinReply::Welcome(Welcome {
            cluster: ClusterId(input.try_get_u64_le()?),
            node: NodeId(input.try_get_u64_le()?),
            genesis: get_membership(input)?,
            engine: get_engine(input)?,
        })),
        2 => Ok(JoinReply::NotYet(get_text(input)?)),
        _ => Err(WireError("no answer to a node that joins has this number")),
    }
}

fn get_engine(input: &mut Bytes) -> Result<EngineKind, WireError> {
    EngineKind::from_code(input.try_get_u8()?).ok_or(WireError("no engine has this number"))
}
fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let mut body = Vec::new();
    membership.encode(&mut body);
    put_bytes(out, &body);
}

fn get_membership(input: &mut Bytes) -> Result<Membership, WireError> {
    let body = get_bytes(input)?;
    Membership::decode(body).map_err(|_| WireError("the membership cannot be decoded"))
}

/// Longer texts are cut: only reasons for people are ever that long.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut length = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    out.put_u16_le(length as u16);
    out.put_slice(&text.as_bytes()[..length]);
}

fn get_text(input: &mut Bytes) -> Result<String, WireError> {
    let length = usize::from(input.try_get_u16_le()?);
    if length > input.remaining() {
        return Err(WireError("a text reaches beyond the frame"));
    }
    let text = input.split_to(length);
    String::from_utf8(text.to_vec()).map_err(|_| WireError("a text is not UTF-8"))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn get_bytes(input: &mut Bytes) -> Result<Bytes, WireError> {
    let length = input.try_get_u32_le()? as usize;
    if length > input.remaining() {
        return Err(WireError("a field reaches beyond the frame"));
    }
    Ok(input.split_to(length))
}

#[cfg(test)]
mod tests {
    use base::{Epoch, Slot};
    use cluster::placement::plan::TableEpoch;
    use consensus::message::{Body, Message};

    use super::*;

    /// What so many groups have to say.
    fn engine(groups: u64) -> Messages {
        let message = || Message {
            epoch: Epoch(7),
            body: Body::VoteReply { granted: true },
        };
        (0..groups)
            .map(|group| (GroupId(group), message()))
            .collect()
    }

    fn every_frame() -> Vec<Frame> {
        let hello = |standing| {
            Frame::Hello(Hello {
                versions: VERSIONS,
                node: NodeId(7),
                incarnation: Incarnation(3),
                process: 4,
                standing,
                name: "n1".into(),
                address: "localhost:2380".into(),
                is_witness: standing == HelloStanding::Alone,
            })
        };
        let command = ForwardedCommand {
            sequence: 9,
            protocol: 2,
            command: Bytes::from_static(b"xyz"),
        };
        let welcome = Welcome {
            cluster: ClusterId(1),
            node: NodeId(2),
            genesis: Membership::default(),
            engine: EngineKind::Paxos,
        };
        let operations = [
            Operation::MemberAdd {
                id: NodeId(4),
                name: "n4".into(),
                address: "h:1".into(),
                is_witness: true,
            },
            Operation::Introduce { id: NodeId(4) },
            Operation::MemberPromote {
                member: "n4".into(),
            },
            Operation::MemberRemove {
                member: "n4".into(),
            },
            Operation::MemberUpdate {
                id: NodeId(4),
                name: "n4".into(),
                address: "h:2".into(),
            },
            Operation::TransferLeadership { to: None },
            Operation::TransferLeadership {
                to: Some("n2".into()),
            },
        ];
        let mut frames = vec![
            hello(HelloStanding::Alone),
            hello(HelloStanding::Forming(ClusterId(5))),
            hello(HelloStanding::Member(ClusterId(5))),
            Frame::Goodbye("because".into()),
            Frame::Removed,
            Frame::Form {
                cluster: ClusterId(5),
                genesis: Membership::default(),
                engine: EngineKind::Raft,
            },
            Frame::FormPromised(ClusterId(5)),
            Frame::Formed(ClusterId(5)),
            Frame::JoinRequest {
                name: "n4".into(),
                claimant: NodeId(8),
            },
            Frame::JoinReply(JoinReply::Welcome(welcome)),
            Frame::JoinReply(JoinReply::Refused("no".into())),
            Frame::JoinReply(JoinReply::NotYet("later".into())),
        ];
        let of_a_group = [
            GroupFrame::Forward(vec![command.clone(), command]),
            GroupFrame::Refused {
                sequences: vec![1, 2],
                leader: Some(NodeId(3)),
                overloaded: false,
            },
            GroupFrame::Refused {
                sequences: vec![],
                leader: None,
                overloaded: true,
            },
            GroupFrame::Operated {
                id: 1,
                result: Ok("done".into()),
            },
            GroupFrame::Operated {
                id: 1,
                result: Err("no".into()),
            },
            GroupFrame::Facts(Facts {
                data_bytes: 1,
                applied: Slot(2),
                table: TableEpoch(3),
                calls: 4,
                load: 5,
            }),
        ];
        let mut said: Vec<GroupFrame> = of_a_group.into();
        said.extend(operations.map(|operation| GroupFrame::Operate { id: 1, operation }));
        let changes = [
            MemberChange::Add {
                id: NodeId(4),
                learner: true,
                address: "h:1".into(),
            },
            MemberChange::Remove(NodeId(4)),
            MemberChange::Update {
                id: NodeId(4),
                address: "h:2".into(),
            },
            MemberChange::Promote(NodeId(4)),
        ];
        said.extend(changes.map(|change| GroupFrame::Change { id: 1, change }));
        let results = [Ok(()), Err(etcd::Error::MemberNotFound)];
        said.extend(results.map(|result| GroupFrame::Changed { id: 1, result }));
        let (slot, digest) = (Slot(5), 1 << 100);
        said.push(GroupFrame::Digest { slot, digest });
        let epoch = Epoch(7);
        said.push(GroupFrame::Sleep { epoch, slot });
        said.push(GroupFrame::Asleep { epoch, slot });
        said.push(GroupFrame::Wake);
        frames.push(Frame::Pulse {
            incarnation: Incarnation(2),
            surrendered: 3,
        });
        frames.extend(said.into_iter().map(|each| Frame::Group(GroupId(3), each)));
        frames.extend([Frame::Engine(engine(1)), Frame::Engine(engine(3))]);
        frames
    }

    #[test]
    fn every_frame_survives_the_wire() {
        for frame in every_frame() {
            assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn no_shortened_or_extended_frame_is_accepted() {
        for frame in every_frame() {
            let body = frame.encode();
            for length in 0..body.len() {
                assert!(
                    Frame::decode(body.slice(..length)).is_err(),
                    "{frame:?} cut to {length}"
                );
            }
            let mut longer = body.to_vec();
            longer.put_u8(0);
            assert!(
                Frame::decode(longer.into()).is_err(),
                "{frame:?} with a byte more"
            );
        }
    }
}
