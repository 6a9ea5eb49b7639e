//! What a node must know of a group before it can open it; stands in the journal from then on.
//!
//! ```text
//! version u8 = 1 | engine u8: 1 raft, 2 paxos | length u32, genesis, as `consensus` encodes it |
//! slot u64 | latest, likewise
//!
//! version u8 = 2 | length u8, promised, as `consensus` encodes it | engine u8 and so on, as above
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
//!
//! Who opens a group again that it had closed remembers what it had promised there, and is in doubt
//! of the rest. That stands in the very record that opens the group: were it in one of its own, a
//! crash between the two would leave a replica that looks new.

use base::Slot;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::{EngineKind, HardState, Membership};

const VERSION: u8 = 1;
/// With what was promised before.
const PROMISED_VERSION: u8 = 2;

/// What a node must know of a group before it can open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// How the group agrees.
    pub engine: EngineKind,
    /// The membership that its log starts from.
    pub genesis: Membership,
    /// A membership that was chosen later, and in force at this slot.
    pub latest: (Slot, Membership),
    /// What this replica had promised when it was here before, if it was.
    pub promised: Option<HardState>,
}

impl Description {
    /// A group that begins.
    #[must_use]
    pub fn new(engine: EngineKind, genesis: Membership) -> Description {
        Description {
            engine,
            latest: (Slot(0), genesis.clone()),
            genesis,
            promised: None,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut genesis = BytesMut::new();
        self.genesis.encode(&mut genesis);
        let mut out = BytesMut::new();
        match &self.promised {
            None => out.put_u8(VERSION),
            Some(promised) => {
                let promised = promised.encode();
                out.put_u8(PROMISED_VERSION);
                out.put_u8(u8::try_from(promised.len()).expect("a few fields"));
                out.put_slice(&promised);
            }
        }
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
        let promised = match bytes.try_get_u8().ok()? {
            VERSION => None,
            PROMISED_VERSION => {
                let length = usize::from(bytes.try_get_u8().ok()?);
                if length > bytes.len() {
                    return None;
                }
                Some(HardState::decode(bytes.split_to(length)).ok()?)
            }
            _ => return None,
        };
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
            promised,
        })
    }
}

#[cfg(test)]
mod tests {
    use base::{Epoch, NodeId};
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
        let promised = HardState {
            epoch: Epoch(9),
            vote: Some(NodeId(2)),
            ..HardState::default()
        };
        for promised in [None, Some(promised)] {
            let description = Description {
                latest: (Slot(7), membership(3)),
                promised,
                ..Description::new(EngineKind::Paxos, membership(1))
            };
            let bytes = description.encode();
            for length in 0..bytes.len() {
                assert_eq!(Description::decode(bytes.slice(..length)), None);
            }
            assert_eq!(Description::decode(bytes), Some(description));
        }
    }
}
