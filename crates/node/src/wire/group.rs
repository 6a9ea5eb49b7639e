//! What the replicas of one group say to each other, beside what their engines say.
//!
//! ```text
//! kind u8 | group u64 | fields
//! ```
//!
//! The table of kinds is in `docs/internals/node.md`.

use base::{Epoch, GroupId, NodeId, Slot};
use bytes::{Buf, BufMut, Bytes};
use cluster::placement::plan::TableEpoch;

use super::members::{self, MemberChange};
use super::{NO_NODE, WireError, get_bytes, get_text, put_bytes, put_text};

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
        /// It is to hold no data.
        is_witness: bool,
    },
    /// A witness says that it runs. It executes nothing, and so cannot see whether that is known.
    Introduce {
        /// The witness's id.
        id: NodeId,
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

/// What a node tells its peers about itself once in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Bytes its state holds.
    pub data_bytes: u64,
    /// What it has executed.
    pub applied: Slot,
    /// Of the first group: the epoch of its table of keyspaces, by which it goes. It has opened
    /// what that has it hold, and closed what older ones had it close.
    pub table: TableEpoch,
    /// How many calls of its own clients it has under way in the group.
    pub calls: u32,
    /// Of the first group: what the node does for all groups that it leads, in commands, KiB and
    /// read rounds a second.
    pub load: u64,
}

/// A frame that concerns one group.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupFrame {
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
    /// The answer to [`GroupFrame::Operate`]: a sentence for people.
    Operated {
        /// Of which request.
        id: u64,
        /// Done, or why not.
        result: Result<String, String>,
    },
    /// What its peers cannot see.
    Facts(Facts),
    /// A client of etcd's asks for a change of the members.
    Change {
        /// Comes back with the answer.
        id: u64,
        /// Which.
        change: MemberChange,
    },
    /// The answer to [`GroupFrame::Change`].
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
    /// From the leader: nothing happens here; can the receiver sleep, its log ending there?
    Sleep {
        /// The leader's epoch.
        epoch: Epoch,
        /// The end of its log.
        slot: Slot,
    },
    /// The sender sleeps; the answer to [`GroupFrame::Sleep`].
    Asleep {
        /// As it was asked.
        epoch: Epoch,
        /// As it was asked.
        slot: Slot,
    },
    /// To the leader: the sender has woken, and counts on heartbeats.
    Wake,
}

impl GroupFrame {
    /// The body of the frame that says this of `group`.
    #[must_use]
    pub fn encode(&self, group: GroupId) -> Bytes {
        let mut out = Vec::with_capacity(self.encoded_bytes_hint());
        self.put(group, &mut out);
        out.into()
    }

    fn kind(&self) -> u8 {
        match self {
            GroupFrame::Forward(_) => 9,
            GroupFrame::Refused { .. } => 10,
            GroupFrame::Operate { .. } => 11,
            GroupFrame::Operated { .. } => 12,
            GroupFrame::Facts(_) => 13,
            GroupFrame::Change { .. } => 15,
            GroupFrame::Changed { .. } => 16,
            GroupFrame::Digest { .. } => 17,
            GroupFrame::Sleep { .. } => 25,
            GroupFrame::Asleep { .. } => 26,
            GroupFrame::Wake => 27,
        }
    }

    pub(super) fn put(&self, group: GroupId, out: &mut Vec<u8>) {
        out.put_u8(self.kind());
        out.put_u64_le(group.0);
        match self {
            GroupFrame::Forward(commands) => put_forward(out, commands),
            GroupFrame::Refused {
                sequences,
                leader,
                overloaded,
            } => {
                out.put_u64_le(leader.map_or(NO_NODE, |node| node.0));
                out.put_u8(u8::from(*overloaded));
                out.put_u32_le(sequences.len() as u32);
                sequences
                    .iter()
                    .for_each(|sequence| out.put_u64_le(*sequence));
            }
            GroupFrame::Operate { id, operation } => {
                out.put_u64_le(*id);
                put_operation(out, operation);
            }
            GroupFrame::Operated { id, result } => {
                out.put_u64_le(*id);
                let (done, text) = match result {
                    Ok(text) => (1, text),
                    Err(text) => (0, text),
                };
                out.put_u8(done);
                put_text(out, text);
            }
            GroupFrame::Facts(facts) => {
                out.put_u64_le(facts.data_bytes);
                out.put_u64_le(facts.applied.0);
                out.put_u64_le(facts.table.0);
                out.put_u32_le(facts.calls);
                out.put_u64_le(facts.load);
            }
            GroupFrame::Change { id, change } => {
                out.put_u64_le(*id);
                members::put_change(out, change);
            }
            GroupFrame::Changed { id, result } => {
                out.put_u64_le(*id);
                members::put_answer(out, result);
            }
            GroupFrame::Digest { slot, digest } => {
                out.put_u64_le(slot.0);
                out.put_u128_le(*digest);
            }
            GroupFrame::Sleep { epoch, slot } | GroupFrame::Asleep { epoch, slot } => {
                out.put_u64_le(epoch.0);
                out.put_u64_le(slot.0);
            }
            GroupFrame::Wake => {}
        }
    }

    /// About how many bytes [`GroupFrame::encode`] makes.
    pub(super) fn encoded_bytes_hint(&self) -> usize {
        const FIELDS: usize = 64;
        match self {
            GroupFrame::Forward(commands) => {
                FIELDS + commands.iter().map(forwarded_bytes).sum::<usize>()
            }
            GroupFrame::Refused { sequences, .. } => FIELDS + 8 * sequences.len(),
            _ => FIELDS,
        }
    }

    pub(super) fn get(kind: u8, input: &mut Bytes) -> Result<GroupFrame, WireError> {
        Ok(match kind {
            9 => GroupFrame::Forward(get_forward(input)?),
            10 => get_refused(input)?,
            11 => GroupFrame::Operate {
                id: input.try_get_u64_le()?,
                operation: get_operation(input)?,
            },
            12 => {
                let id = input.try_get_u64_le()?;
                let done = input.try_get_u8()? == 1;
                let text = get_text(input)?;
                GroupFrame::Operated {
                    id,
                    result: if done { Ok(text) } else { Err(text) },
                }
            }
            13 => GroupFrame::Facts(Facts {
                data_bytes: input.try_get_u64_le()?,
                applied: Slot(input.try_get_u64_le()?),
                table: TableEpoch(input.try_get_u64_le()?),
                calls: input.try_get_u32_le()?,
                load: input.try_get_u64_le()?,
            }),
            15 => GroupFrame::Change {
                id: input.try_get_u64_le()?,
                change: members::get_change(input)?,
            },
            16 => GroupFrame::Changed {
                id: input.try_get_u64_le()?,
                result: members::get_answer(input)?,
            },
            17 => GroupFrame::Digest {
                slot: Slot(input.try_get_u64_le()?),
                digest: input.try_get_u128_le()?,
            },
            25 => GroupFrame::Sleep {
                epoch: Epoch(input.try_get_u64_le()?),
                slot: Slot(input.try_get_u64_le()?),
            },
            26 => GroupFrame::Asleep {
                epoch: Epoch(input.try_get_u64_le()?),
                slot: Slot(input.try_get_u64_le()?),
            },
            27 => GroupFrame::Wake,
            _ => return Err(WireError("no frame has this kind")),
        })
    }
}

fn forwarded_bytes(command: &ForwardedCommand) -> usize {
    8 + 1 + 4 + command.command.len()
}

fn put_forward(out: &mut Vec<u8>, commands: &[ForwardedCommand]) {
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
    let mut commands = Vec::with_capacity(count.min(super::ROOM));
    for _ in 0..count {
        commands.push(ForwardedCommand {
            sequence: input.try_get_u64_le()?,
            protocol: input.try_get_u8()?,
            command: get_bytes(input)?,
        });
    }
    Ok(commands)
}

fn get_refused(input: &mut Bytes) -> Result<GroupFrame, WireError> {
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
    Ok(GroupFrame::Refused {
        sequences,
        leader,
        overloaded,
    })
}

fn put_operation(out: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::MemberAdd {
            id,
            name,
            address,
            is_witness,
        } => {
            out.put_u8(1);
            out.put_u64_le(id.0);
            put_text(out, name);
            put_text(out, address);
            out.put_u8(u8::from(*is_witness));
        }
        Operation::Introduce { id } => {
            out.put_u8(6);
            out.put_u64_le(id.0);
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
            is_witness: input.try_get_u8()? == 1,
        }),
        6 => Ok(Operation::Introduce {
            id: NodeId(input.try_get_u64_le()?),
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
