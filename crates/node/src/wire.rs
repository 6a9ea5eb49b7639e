//! What nodes say to each other: the body of a peer frame.
//!
//! ```text
//! frame body:  kind u8 | fields
//! integers:    little-endian, of fixed size
//! text:        length u16, UTF-8            bytes: length u32, octets
//! membership:  bytes, as `consensus::Membership` encodes itself
//! ```
//!
//! The host adds length and checksum and has verified both before a body gets here; a body that
//! cannot be decoded therefore comes from a mistaken or hostile peer and costs it the connection.
//! The first frame each side sends is [`Frame::Hello`]. The table of kinds is in
//! `docs/internals/node.md`.

use base::{ClusterId, Incarnation, NodeId, Slot};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::Membership;
use consensus::message::Message;

mod members;
pub use members::MemberChange;

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
}

/// A command on its way to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedCommand {
    /// The origin's sequence number; node and incarnation are the sender's.
    pub sequence: u64,
    /// Which protocol it belongs to.
    pub protocol: u8,
    /// The command.
    pub command: Bytes,
}

/// Something an operator asked another node for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Add a member as learner; its id was drawn by the node that was asked.
    MemberAdd {
        /// The new member's id.
        id: NodeId,
        /// Its name.
        name: String,
        /// Its peer address.
        address: String,
    },
    /// Give a learner a vote.
    MemberPromote {
        /// Name or id.
        member: String,
    },
    /// Remove a member.
    MemberRemove {
        /// Name or id.
        member: String,
    },
    /// A member says its name and where it is reached now.
    MemberUpdate {
        /// The member's id.
        id: NodeId,
        /// Its name.
        name: String,
        /// Its peer address.
        address: String,
    },
    /// Hand over leadership.
    TransferLeadership {
        /// Name or id.
        to: Option<String>,
    },
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

/// What a node tells its peers about itself once in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Bytes its state holds.
    pub data_bytes: u64,
    /// What it has executed.
    pub applied: Slot,
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
    /// Between the engines of the group.
    Engine(Message),
    /// Commands for the leader.
    Forward(Vec<ForwardedCommand>),
    /// These commands were certainly not proposed.
    Refused {
        /// Their sequence numbers.
        sequences: Vec<u64>,
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// The leader has no room just now.
        overloaded: bool,
    },
    /// An operator's request on its way to the leader.
    Operate {
        /// Comes back with the answer.
        id: u64,
        /// What is asked for.
        operation: Operation,
    },
    /// The answer to [`Frame::Operate`]: a sentence for people.
    Operated {
        /// Of which request.
        id: u64,
        /// Done, or why not.
        result: Result<String, String>,
    },
    /// What its peers cannot see.
    Facts(Facts),
    /// The receiver has been removed from the cluster, and may have missed that.
    Removed,
    /// A client of etcd's asks for a change of the members.
    Change {
        /// Comes back with the answer.
        id: u64,
        /// Which.
        change: MemberChange,
    },
    /// The answer to [`Frame::Change`].
    Changed {
        /// Of which request.
        id: u64,
        /// Done, or why not.
        result: Result<(), etcd::Error>,
    },
    /// The digest of the sender's state at a slot. From the leader: everybody is to say theirs.
    Digest {
        /// The slot.
        slot: Slot,
        /// The digest after the entry there was executed.
        digest: u128,
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
        let mut out = BytesMut::with_capacity(self.encoded_bytes_hint());
        match self {
            Frame::Hello(hello) => put_hello(&mut out, hello),
            Frame::Goodbye(reason) => {
                out.put_u8(2);
                put_text(&mut out, reason);
            }
            Frame::Form { cluster, genesis } => {
                out.put_u8(3);
                out.put_u64_le(cluster.0);
                put_membership(&mut out, genesis);
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
            Frame::Engine(message) => {
                out.put_u8(8);
                message.encode(&mut out);
            }
            Frame::Forward(commands) => put_forward(&mut out, commands),
            Frame::Refused {
                sequences,
                leader,
                overloaded,
            } => {
                out.put_u8(10);
                out.put_u64_le(leader.map_or(NO_NODE, |node| node.0));
                out.put_u8(u8::from(*overloaded));
                out.put_u32_le(sequences.len() as u32);
                sequences
                    .iter()
                    .for_each(|sequence| out.put_u64_le(*sequence));
            }
            Frame::Operate { id, operation } => {
                out.put_u8(11);
                out.put_u64_le(*id);
                put_operation(&mut out, operation);
            }
            Frame::Operated { id, result } => {
                out.put_u8(12);
                out.put_u64_le(*id);
                let (done, text) = match result {
                    Ok(text) => (1, text),
                    Err(text) => (0, text),
                };
                out.put_u8(done);
                put_text(&mut out, text);
            }
            Frame::Facts(facts) => {
                out.put_u8(13);
                out.put_u64_le(facts.data_bytes);
                out.put_u64_le(facts.applied.0);
            }
            Frame::Removed => out.put_u8(14),
            Frame::Change { id, change } => {
                out.put_u8(15);
                out.put_u64_le(*id);
                members::put_change(&mut out, change);
            }
            Frame::Changed { id, result } => {
                out.put_u8(16);
                out.put_u64_le(*id);
                members::put_answer(&mut out, result);
            }
            Frame::Digest { slot, digest } => {
                out.put_u8(17);
                out.put_u64_le(slot.0);
                out.put_u128_le(*digest);
            }
        }
        out.freeze()
    }

    /// About how many bytes [`Frame::encode`] makes.
    fn encoded_bytes_hint(&self) -> usize {
        const FIELDS: usize = 64;
        match self {
            Frame::Engine(message) => FIELDS + message.encoded_bytes_hint(),
            Frame::Forward(commands) => {
                FIELDS + commands.iter().map(forwarded_bytes).sum::<usize>()
            }
            Frame::Refused { sequences, .. } => FIELDS + 8 * sequences.len(),
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
            },
            4 => Frame::FormPromised(ClusterId(input.try_get_u64_le()?)),
            5 => Frame::Formed(ClusterId(input.try_get_u64_le()?)),
            6 => Frame::JoinRequest {
                name: get_text(input)?,
                claimant: NodeId(input.try_get_u64_le()?),
            },
            7 => Frame::JoinReply(get_join_reply(input)?),
            8 => {
                let message = Message::decode(body)
                    .map_err(|_| WireError("the engine message cannot be decoded"))?;
                return Ok(Frame::Engine(message));
            }
            9 => Frame::Forward(get_forward(input)?),
            10 => get_refused(input)?,
            11 => Frame::Operate {
                id: input.try_get_u64_le()?,
                operation: get_operation(input)?,
            },
            12 => {
                let id = input.try_get_u64_le()?;
                let done = input.try_get_u8()? == 1;
                let text = get_text(input)?;
                Frame::Operated {
                    id,
                    result: if done { Ok(text) } else { Err(text) },
                }
            }
            13 => Frame::Facts(Facts {
                data_bytes: input.try_get_u64_le()?,
                applied: Slot(input.try_get_u64_le()?),
            }),
            14 => Frame::Removed,
            15 => Frame::Change {
                id: input.try_get_u64_le()?,
                change: members::get_change(input)?,
            },
            16 => Frame::Changed {
                id: input.try_get_u64_le()?,
                result: members::get_answer(input)?,
            },
            17 => Frame::Digest {
                slot: Slot(input.try_get_u64_le()?),
                digest: input.try_get_u128_le()?,
            },
            _ => return Err(WireError("no frame has this kind")),
        };
        if input.has_remaining() {
            return Err(WireError("bytes follow the end of the frame"));
        }
        Ok(frame)
    }
}

fn put_hello(out: &mut BytesMut, hello: &Hello) {
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
    Ok(Hello {
        versions,
        node,
        incarnation,
        process,
        standing,
        name,
        address,
    })
}

fn put_join_reply(out: &mut BytesMut, reply: &JoinReply) {
    out.put_u8(7);
    match reply {
        JoinReply::Welcome(welcome) => {
            out.put_u8(1);
            out.put_u64_le(welcome.cluster.0);
            out.put_u64_le(welcome.node.0);
            put_membership(out, &welcome.genesis);
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
        })),
        2 => Ok(JoinReply::NotYet(get_text(input)?)),
        _ => Err(WireError("no answer to a node that joins has this number")),
    }
}

fn forwarded_bytes(command: &ForwardedCommand) -> usize {
    8 + 1 + 4 + command.command.len()
}

fn put_forward(out: &mut BytesMut, commands: &[ForwardedCommand]) {
    out.put_u8(9);
    out.put_u32_le(commands.len() as u32);
    for each in commands {
        out.put_u64_le(each.sequence);
        out.put_u8(each.protocol);
        put_bytes(out, &each.command);
    }
}

fn get_forward(input: &mut Bytes) -> Result<Vec<ForwardedCommand>, WireError> {
    let count = input.try_get_u32_le()? as usize;
    if count > input.remaining() / 13 {
        return Err(WireError(
            "more commands are announced than the frame can hold",
        ));
    }
    let mut commands = Vec::with_capacity(count);
    for _ in 0..count {
        commands.push(ForwardedCommand {
            sequence: input.try_get_u64_le()?,
            protocol: input.try_get_u8()?,
            command: get_bytes(input)?,
        });
    }
    Ok(commands)
}

fn get_refused(input: &mut Bytes) -> Result<Frame, WireError> {
    let leader = input.try_get_u64_le()?;
    let overloaded = input.try_get_u8()? == 1;
    let count = input.try_get_u32_le()? as usize;
    if count > input.remaining() / 8 {
        return Err(WireError(
            "more numbers are announced than the frame can hold",
        ));
    }
    let mut sequences = Vec::with_capacity(count);
    for _ in 0..count {
        sequences.push(input.try_get_u64_le()?);
    }
    let leader = (leader != NO_NODE).then_some(NodeId(leader));
    Ok(Frame::Refused {
        sequences,
        leader,
        overloaded,
    })
}

fn put_operation(out: &mut BytesMut, operation: &Operation) {
    match operation {
        Operation::MemberAdd { id, name, address } => {
            out.put_u8(1);
            out.put_u64_le(id.0);
            put_text(out, name);
            put_text(out, address);
        }
        Operation::MemberPromote { member } => {
            out.put_u8(2);
            put_text(out, member);
        }
        Operation::MemberRemove { member } => {
            out.put_u8(3);
            put_text(out, member);
        }
        Operation::MemberUpdate { id, name, address } => {
            out.put_u8(5);
            out.put_u64_le(id.0);
            put_text(out, name);
            put_text(out, address);
        }
        Operation::TransferLeadership { to } => {
            out.put_u8(4);
            put_text(out, to.as_deref().unwrap_or(""));
        }
    }
}

fn get_operation(input: &mut Bytes) -> Result<Operation, WireError> {
    match input.try_get_u8()? {
        1 => Ok(Operation::MemberAdd {
            id: NodeId(input.try_get_u64_le()?),
            name: get_text(input)?,
            address: get_text(input)?,
        }),
        2 => Ok(Operation::MemberPromote {
            member: get_text(input)?,
        }),
        3 => Ok(Operation::MemberRemove {
            member: get_text(input)?,
        }),
        4 => {
            let to = get_text(input)?;
            Ok(Operation::TransferLeadership {
                to: (!to.is_empty()).then_some(to),
            })
        }
        5 => Ok(Operation::MemberUpdate {
            id: NodeId(input.try_get_u64_le()?),
            name: get_text(input)?,
            address: get_text(input)?,
        }),
        _ => Err(WireError("no operation has this number")),
    }
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let mut body = BytesMut::new();
    membership.encode(&mut body);
    put_bytes(out, &body);
}

fn get_membership(input: &mut Bytes) -> Result<Membership, WireError> {
    let body = get_bytes(input)?;
    Membership::decode(body).map_err(|_| WireError("the membership cannot be decoded"))
}

/// Longer texts are cut: only reasons for people are ever that long.
fn put_text(out: &mut BytesMut, text: &str) {
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

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
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
    use super::*;

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
        };
        let operations = [
            Operation::MemberAdd {
                id: NodeId(4),
                name: "n4".into(),
                address: "h:1".into(),
            },
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
            Frame::Forward(vec![command.clone(), command]),
            Frame::Refused {
                sequences: vec![1, 2],
                leader: Some(NodeId(3)),
                overloaded: false,
            },
            Frame::Refused {
                sequences: vec![],
                leader: None,
                overloaded: true,
            },
            Frame::Operated {
                id: 1,
                result: Ok("done".into()),
            },
            Frame::Operated {
                id: 1,
                result: Err("no".into()),
            },
            Frame::Facts(Facts {
                data_bytes: 1,
                applied: Slot(2),
            }),
        ];
        frames.extend(operations.map(|operation| Frame::Operate { id: 1, operation }));
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
        frames.extend(changes.map(|change| Frame::Change { id: 1, change }));
        let results = [Ok(()), Err(etcd::Error::MemberNotFound)];
        frames.extend(results.map(|result| Frame::Changed { id: 1, result }));
        let (slot, digest) = (Slot(5), 1 << 100);
        frames.push(Frame::Digest { slot, digest });
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
            let mut longer = BytesMut::from(&body[..]);
            longer.put_u8(0);
            assert!(
                Frame::decode(longer.freeze()).is_err(),
                "{frame:?} with a byte more"
            );
        }
    }
}
