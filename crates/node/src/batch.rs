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
use bytes::{Buf, BufMut, Bytes};
use state::Origin;

/// Bytes that each command adds to an entry beside itself.
pub const COMMAND_OVERHEAD: usize = 8 + 8 + 8 + 1 + 4;
const HEAD: usize = 1 + 8 + 8 + 4;
const VERSION: u8 = 1;

/// One command and where it came from. On its way into an entry it holds its bytes; one that is
/// read from an entry borrows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginatedCommand<Octets = Bytes> {
    /// Who asked for it; makes it execute at most once.
    pub origin: Origin,
    /// Which protocol executes it.
    pub protocol: u8,
    /// The command, opaque here.
    pub command: Octets,
}

/// The content of an entry, where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The leader's wall time.
    pub wall: WallTime,
    /// The leader's running time since its previous entry; microseconds on the wire.
    pub elapsed: Duration,
    /// The bytes of whole commands and nothing else.
    commands: &'a [u8],
}

impl<'a> Batch<'a> {
    /// What to execute, in order.
    pub fn commands(&self) -> impl Iterator<Item = OriginatedCommand<&'a [u8]>> + use<'a> {
        let mut rest = self.commands;
        std::iter::from_fn(move || take_command(&mut rest))
    }
}

/// Reads the command that `input` begins with; `None` if it does not begin with a whole one.
fn take_command<'a>(input: &mut &'a [u8]) -> Option<OriginatedCommand<&'a [u8]>> {
    let origin = Origin {
        node: NodeId(input.try_get_u64_le().ok()?),
        incarnation: Incarnation(input.try_get_u64_le().ok()?),
        sequence: input.try_get_u64_le().ok()?,
    };
    let protocol = input.try_get_u8().ok()?;
    let length = input.try_get_u32_le().ok()? as usize;
    let (command, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(OriginatedCommand {
        origin,
        protocol,
        command,
    })
}

/// The bytes of an entry that holds `commands`.
#[must_use]
pub fn encode(wall: WallTime, elapsed: Duration, commands: &[OriginatedCommand]) -> Bytes {
    let length: usize = commands
        .iter()
        .map(|each| each.command.len() + COMMAND_OVERHEAD)
        .sum();
    let mut out = Vec::with_capacity(HEAD + length);
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
    out.into()
}

/// The batch in `body`, or `None` if there is none: then the whole entry is skipped.
#[must_use]
pub fn decode(body: &[u8]) -> Option<Batch<'_>> {
    let mut input = body;
    if input.try_get_u8().ok()? != VERSION {
        return None;
    }
    let wall = WallTime(input.try_get_u64_le().ok()?);
    let elapsed = Duration::from_micros(input.try_get_u64_le().ok()?);
    let count = input.try_get_u32_le().ok()?;
    let commands = input;
    for _ in 0..count {
        take_command(&mut input)?;
    }
    input.is_empty().then_some(Batch {
        wall,
        elapsed,
        commands,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn borrowed(command: &OriginatedCommand) -> OriginatedCommand<&[u8]> {
        OriginatedCommand {
            origin: command.origin,
            protocol: command.protocol,
            command: &command.command,
        }
    }

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
        let batch = decode(&body).expect("it is whole");
        assert_eq!(batch.wall, WallTime(5));
        assert_eq!(batch.elapsed, Duration::from_micros(6));
        let read: Vec<_> = batch.commands().collect();
        assert_eq!(read, commands.iter().map(borrowed).collect::<Vec<_>>());
        for length in 0..body.len() {
            assert_eq!(decode(&body[..length]), None, "cut to {length}");
        }
    }
}
