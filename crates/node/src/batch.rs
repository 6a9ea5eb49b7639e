//! What an entry of the group's log says: a stamp and a batch of commands with their origins.
//!
//! ```text
//! version u8 = 1 | wall ms u64 | elapsed us u64 | command count u32 | commands
//! command: origin node u64 | incarnation u64 | sequence u64 | protocol u8 | length u32 | octets
//! ```
//!
//! All integers are little-endian. The leader stamps an entry once, when it proposes it: the wall
//! time for people, and how long it has been running since its previous entry, by which the
//! group's own clock advances. An entry that cannot be decoded is skipped alike on every replica.

use std::time::Duration;

use base::{Incarnation, NodeId, WallTime};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use state::Origin;

/// Bytes that each command adds to an entry beside itself.
pub const COMMAND_OVERHEAD: usize = 8 + 8 + 8 + 1 + 4;
const HEAD: usize = 1 + 8 + 8 + 4;
const VERSION: u8 = 1;

/// One command and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginatedCommand {
    /// Who asked for it; makes it execute at most once.
    pub origin: Origin,
    /// Which protocol executes it.
    pub protocol: u8,
    /// The command, opaque here.
    pub command: Bytes,
}

/// The content of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The leader's wall time.
    pub wall: WallTime,
    /// The leader's running time since its previous entry; microseconds on the wire.
    pub elapsed: Duration,
    /// What to execute, in order.
    pub commands: Vec<OriginatedCommand>,
}

/// The bytes of an entry that holds `commands`.
#[must_use]
pub fn encode(wall: WallTime, elapsed: Duration, commands: &[OriginatedCommand]) -> Bytes {
    let length: usize = commands
        .iter()
        .map(|each| each.command.len() + COMMAND_OVERHEAD)
        .sum();
    let mut out = BytesMut::with_capacity(HEAD + length);
    out.put_u8(VERSION);
    out.put_u64_le(wall.0);
    out.put_u64_le(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
    out.put_u32_le(commands.len() as u32);
    for each in commands {
        out.put_u64_le(each.origin.node.0);
        out.put_u64_le(each.origin.incarnation.0);
        out.put_u64_le(each.origin.sequence);
        out.put_u8(each.protocol);
        out.put_u32_le(each.command.len() as u32);
        out.put_slice(&each.command);
    }
    out.freeze()
}

/// The batch in `body`, or `None` if there is none: then the whole entry is skipped.
#[must_use]
pub fn decode(body: Bytes) -> Option<Batch> {
    let mut input = body;
    if input.try_get_u8().ok()? != VERSION {
        return None;
    }
    let wall = WallTime(input.try_get_u64_le().ok()?);
    let elapsed = Duration::from_micros(input.try_get_u64_le().ok()?);
    let count = input.try_get_u32_le().ok()? as usize;
    if count > input.remaining() / COMMAND_OVERHEAD {
        return None;
    }
    let mut commands = Vec::with_capacity(count);
    for _ in 0..count {
        let origin = Origin {
            node: NodeId(input.try_get_u64_le().ok()?),
            incarnation: Incarnation(input.try_get_u64_le().ok()?),
            sequence: input.try_get_u64_le().ok()?,
        };
        let protocol = input.try_get_u8().ok()?;
        let length = input.try_get_u32_le().ok()? as usize;
        if length > input.remaining() {
            return None;
        }
        commands.push(OriginatedCommand {
            origin,
            protocol,
            command: input.split_to(length),
        });
    }
    (!input.has_remaining()).then_some(Batch {
        wall,
        elapsed,
        commands,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_survives_and_no_part_of_it_does() {
        let origin = Origin {
            node: NodeId(1),
            incarnation: Incarnation(2),
            sequence: 3,
        };
        let command = |text: &'static str| OriginatedCommand {
            origin,
            protocol: 2,
            command: Bytes::from_static(text.as_bytes()),
        };
        let commands = vec![command("one"), command(""), command("three")];
        let body = encode(WallTime(5), Duration::from_micros(6), &commands);
        let batch = Batch {
            wall: WallTime(5),
            elapsed: Duration::from_micros(6),
            commands,
        };
        assert_eq!(decode(body.clone()), Some(batch));
        for length in 0..body.len() {
            assert_eq!(decode(body.slice(..length)), None, "cut to {length}");
        }
    }
}
