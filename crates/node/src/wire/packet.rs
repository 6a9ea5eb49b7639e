//! What engines say to each other in one frame: the messages of all groups to one peer.
//!
//! ```text
//! kind u8 = 8 | count u32 | of each message:  group u64 | length u32 | message
//! ```
//!
//! Two nodes share as many groups as they both hold replicas of. A frame, a checksum, a system call
//! and a wake-up for each of them would cost more than what they say, so everything that a pass has
//! for one peer travels together; a frame that is about to be longer than a named limit is ended.

use base::GroupId;
use bytes::{Buf, BufMut, Bytes};
use consensus::message::Message;
use smallvec::SmallVec;

use super::{ROOM, WireError};

const KIND: u8 = 8;
const FRAME_HEAD_BYTES: usize = 5;
/// What stands before each message.
const HEAD_BYTES: usize = 12;

/// What engines say, each of which group. Nearly always it is one message.
pub type Messages = SmallVec<[(GroupId, Message); 1]>;

/// Messages that wait for the end of a pass, by the node that they go to.
#[derive(Debug, Default)]
pub struct Packet {
    messages: Messages,
    /// About how long the frame will be.
    bytes: usize,
}

impl Packet {
    /// Adds a message. Gives a frame's body back if the message has made it long enough.
    pub fn add(&mut self, group: GroupId, message: Message, most_bytes: usize) -> Option<Bytes> {
        self.bytes += HEAD_BYTES + message.encoded_bytes_hint();
        self.messages.push((group, message));
        (self.bytes >= most_bytes).then(|| self.take()).flatten()
    }

    /// The body of the frame that says everything that was added since the last; nothing if
    /// nothing was.
    pub fn take(&mut self) -> Option<Bytes> {
        if self.messages.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(FRAME_HEAD_BYTES + self.bytes);
        put(&mut out, &self.messages);
        self.messages.clear();
        self.bytes = 0;
        Some(out.into())
    }
}

pub(super) fn put(out: &mut Vec<u8>, messages: &[(GroupId, Message)]) {
    out.put_u8(KIND);
    out.put_u32_le(messages.len() as u32);
    for (group, message) in messages {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&group.0.to_le_bytes());
        let length_at = out.len() + 8;
        out.put_slice(&head);
        message.encode(out);
        let length = (out.len() - length_at - 4) as u32;
        out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

pub(super) fn encoded_bytes_hint(messages: &[(GroupId, Message)]) -> usize {
    let message = |(_, message): &(GroupId, Message)| HEAD_BYTES + message.encoded_bytes_hint();
    FRAME_HEAD_BYTES + messages.iter().map(message).sum::<usize>()
}

pub(super) fn get(input: &mut Bytes) -> Result<Messages, WireError> {
    let mut messages = Messages::new();
    get_messages(input, &mut messages)?;
    Ok(messages)
}

fn get_messages(input: &mut Bytes, messages: &mut Messages) -> Result<(), WireError> {
    let count = input.try_get_u32_le()? as usize;
    if count > input.remaining() / HEAD_BYTES {
        return Err(WireError(
            "more engine messages are announced than the frame can hold",
        ));
    }
    messages.reserve_exact(count.min(ROOM));
    for _ in 0..count {
        let group = GroupId(input.try_get_u64_le()?);
        let length = input.try_get_u32_le()? as usize;
        if length > input.remaining() {
            return Err(WireError("an engine message reaches beyond the frame"));
        }
        let message = Message::decode(input.split_to(length))
            .map_err(|_| WireError("the engine message cannot be decoded"))?;
        messages.push((group, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base::Epoch;
    use consensus::message::Body;

    use super::*;

    #[test]
    fn what_is_announced_and_cannot_be_decoded_takes_no_memory() {
        let message = Message {
            epoch: Epoch(7),
            body: Body::VoteReply { granted: true },
        };
        let mut out = Vec::new();
        put(&mut out, &[(GroupId(1), message)]);
        let mut good = Bytes::from(out);
        good.advance(FRAME_HEAD_BYTES);
        // As many as the frame can hold, of which only the first is one.
        let count = 100_000;
        let announced = (count as u32).to_le_bytes();
        let input = [&announced[..], &good, &vec![0; count * HEAD_BYTES]].concat();
        let mut messages = Messages::new();
        assert!(get_messages(&mut input.into(), &mut messages).is_err());
        assert_eq!(messages.len(), 1);
        assert!(messages.capacity() <= 2 * ROOM, "{}", messages.capacity());
    }
}
