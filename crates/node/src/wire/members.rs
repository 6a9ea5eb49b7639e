//! What etcd's clients ask of the members, on its way to the leader, and the leader's answer.
//!
//! ```text
//! change:  1 add      id u64   learner u8   address text
//!          2 remove   id u64
//!          3 update   id u64   address text
//!          4 promote  id u64
//! answer:  1 done | 0 refused, etcd's text of the error
//! ```
//!
//! An error goes by its text, which etcd never changes, so that nodes of different versions
//! understand each other. One that is not known is answered as "unhealthy cluster".

use base::NodeId;
use bytes::{Buf, BufMut, Bytes};

use super::{WireError, get_text, put_text};

/// A change of the members that a client of etcd's asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Add a member that has no name yet; it is known by its address.
    Add {
        /// Drawn by the node that was asked.
        id: NodeId,
        /// It is to stay a learner until it is promoted; otherwise it gets its vote by itself.
        learner: bool,
        /// Where it will be reached.
        address: String,
    },
    /// Remove a member.
    Remove(NodeId),
    /// A member is reached at another address now.
    Update {
        /// Which.
        id: NodeId,
        /// Where.
        address: String,
    },
    /// Give a learner a vote.
    Promote(NodeId),
}

pub(super) fn put_change(out: &mut Vec<u8>, change: &MemberChange) {
    match change {
        MemberChange::Add {
            id,
            learner,
            address,
        } => {
            out.put_u8(1);
            out.put_u64_le(id.0);
            out.put_u8(u8::from(*learner));
            put_text(out, address);
        }
        MemberChange::Remove(id) => {
            out.put_u8(2);
            out.put_u64_le(id.0);
        }
        MemberChange::Update { id, address } => {
            out.put_u8(3);
            out.put_u64_le(id.0);
            put_text(out, address);
        }
        MemberChange::Promote(id) => {
            out.put_u8(4);
            out.put_u64_le(id.0);
        }
    }
}

pub(super) fn get_change(input: &mut Bytes) -> Result<MemberChange, WireError> {
    let kind = input.try_get_u8()?;
    let id = NodeId(input.try_get_u64_le()?);
    Ok(match kind {
        1 => MemberChange::Add {
            id,
            learner: input.try_get_u8()? == 1,
            address: get_text(input)?,
        },
        2 => MemberChange::Remove(id),
        3 => MemberChange::Update {
            id,
            address: get_text(input)?,
        },
        4 => MemberChange::Promote(id),
        _ => return Err(WireError("no change of members has this kind")),
    })
}

pub(super) fn put_answer(out: &mut Vec<u8>, result: &Result<(), etcd::Error>) {
    match result {
        Ok(()) => out.put_u8(1),
        Err(error) => {
            out.put_u8(0);
            put_text(out, error.text());
        }
    }
}

pub(super) fn get_answer(input: &mut Bytes) -> Result<Result<(), etcd::Error>, WireError> {
    match input.try_get_u8()? {
        1 => Ok(Ok(())),
        0 => {
            let text = get_text(input)?;
            let known = etcd::Error::ALL.iter().find(|error| error.text() == text);
            Ok(Err(known.copied().unwrap_or(etcd::Error::Unhealthy)))
        }
        _ => Err(WireError(
            "no answer to a change of members has this number",
        )),
    }
}
