//! What a node must know of a group before it can open it; stands in the journal from then on.
//!
//! ```text
//! version u8 = 1 | engine u8: 1 raft, 2 paxos | membership, as `consensus` encodes it
//! ```
//!
//! The first group needs none: the identity file has the membership that its log starts from. Of
//! the others that stands in the first group's table of groups; a copy in the journal lets each
//! come back while the first group cannot.

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
}

impl Description {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u8(self.engine.code());
        self.genesis.encode(&mut out);
        out.freeze()
    }

    /// The description in `bytes`, or `None` if there is none.
    #[must_use]
    pub fn decode(mut bytes: Bytes) -> Option<Description> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let engine = EngineKind::from_code(bytes.try_get_u8().ok()?)?;
        let genesis = Membership::decode(bytes).ok()?;
        Some(Description { engine, genesis })
    }
}
