//! What a node must know of a group before it can open it; stands in the journal from then on.
//!
//! ```text
//! version u8 = 1 | engine u8: 1 raft, 2 paxos | length u32, genesis, as `consensus` encodes it |
//! slot u64 | latest, likewise
//! ```
//!
//! The first group needs none to be opened: the identity file has the membership that its log
//! starts from. Of the others that stands in the first group's table of groups; a copy in the
//! journal lets each come back while the first group cannot.
//!
//! Who belongs to a group now stands in its checkpoints and its log. If all checkpoints are lost,
//! and the log that is left begins behind the last change, the record tells whether anybody else
//! has a replica: it is written anew whenever a part of the log is let go of and the members have
//! changed.

use base::Slot;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::{EngineKind, Membership};

const VERSION: u8 = 1;

/// What a node must know of a group before it can open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// How the group agrees.
    pub engine: EngineKind,
    /// The membership that its log starts from.
    pub genesis: Membership,
    /// A membership that was chosen later, and in force at this slot.
    pub latest: (Slot, Membership),
}

impl Description {
    /// A group that begins.
    #[must_use]
    pub fn new(engine: EngineKind, genesis: Membership) -> Description {
        Description {
            engine,
            latest: (Slot(0), genesis.clone()),
            genesis,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut genesis = BytesMut::new();
        self.genesis.encode(&mut genesis);
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u8(self.engine.code());
        let length = u32::try_from(genesis.len()).expect("memberships are bounded");
        out.put_u32_le(length);
        out.put_slice(&genesis);
        out.put_u64_le(self.latest.0.0);
        self.latest.1.encode(&mut out);
        out.freeze()
    }

    /// The description in `bytes`, or `None` if there is none.
    #[must_use]
    pub fn decode(mut bytes: Bytes) -> Option<Description> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let engine = EngineKind::from_code(bytes.try_get_u8().ok()?)?;
        let length = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
        if length > bytes.len() {
            return None;
        }
        let genesis = Membership::decode(bytes.split_to(length)).ok()?;
        let slot = Slot(bytes.try_get_u64_le().ok()?);
        let latest = Membership::decode(bytes).ok()?;
        Some(Description {
            engine,
            genesis,
            latest: (slot, latest),
        })
    }
}

#[cfg(test)]
mod tests {
    use base::NodeId;
    use consensus::Member;

    use super::*;

    #[test]
    fn a_description_survives_its_bytes_and_no_part_of_one_does() {
        let member = |number: u64| Member {
            name: format!("n{number}"),
            peer_address: format!("n{number}:2380"),
        };
        let membership = |voters: u64| Membership {
            members: (1..=voters)
                .map(|number| (NodeId(number), member(number)))
                .collect(),
            voters: (1..=voters).map(NodeId).collect(),
            ..Membership::default()
        };
        let description = Description {
            latest: (Slot(7), membership(3)),
            ..Description::new(EngineKind::Paxos, membership(1))
        };
        let bytes = description.encode();
        for length in 0..bytes.len() {
            assert_eq!(Description::decode(bytes.slice(..length)), None);
        }
        assert_eq!(Description::decode(bytes), Some(description));
    }
}
