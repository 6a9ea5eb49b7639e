//! The bytes of a peer connection.
//!
//! ```text
//!   preamble, once per direction (16 bytes):
//!     0  8  magic "quorate\n"
//!     8  2  lowest version of frames understood, little-endian
//!    10  2  highest version
//!    12  4  CRC32C of bytes 0..12
//!   frame:
//!     0  4  length of the body, little-endian
//!     4  4  CRC32C of the body
//!     8  …  body
//! ```
//!
//! Whoever has only a question (`question.rs`) sends the same preamble with the magic `quorate?`; a
//! node that carries on its clients' calls (`relay.rs`), `quorate>`.
//!
//! Both sides send their preamble at once and use the highest version that both understand. The
//! magic ends in a line feed, so that a text client that strays here is told apart at once, and a
//! transport that translates line ends too.

use bytes::{Buf as _, Bytes, BytesMut};

/// The first bytes of every peer connection.
const MAGIC: &[u8; 8] = b"quorate\n";
/// The first bytes of whoever has only a question.
const ASKING: &[u8; 8] = b"quorate?";
/// The first bytes of a node that carries on its clients' calls.
const RELAYING: &[u8; 8] = b"quorate>";
/// The versions that this build understands.
const VERSIONS: (u16, u16) = (1, 1);
/// The length of the preamble.
pub(super) const PREAMBLE_BYTES: usize = 16;
/// The length of what stands before a body.
pub(super) const HEAD_BYTES: usize = 8;

/// What is wrong with received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameError {
    /// The other side is no peer of ours.
    BadPreamble,
    /// There is no version that both sides understand.
    NoCommonVersion,
    /// A frame is longer than frames may be.
    Oversized,
    /// A body is not what was sent.
    BadChecksum,
}

/// This side's preamble.
pub(super) fn preamble() -> [u8; PREAMBLE_BYTES] {
    preamble_of(MAGIC, VERSIONS)
}

/// The preamble of a side that has only a question.
pub(super) fn asking() -> [u8; PREAMBLE_BYTES] {
    preamble_of(ASKING, VERSIONS)
}

/// The preamble of a node that carries on its clients' calls.
pub(super) fn relaying() -> [u8; PREAMBLE_BYTES] {
    preamble_of(RELAYING, VERSIONS)
}

fn preamble_of(magic: &[u8; 8], (lowest, highest): (u16, u16)) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..8].copy_from_slice(magic);
    bytes[8..10].copy_from_slice(&lowest.to_le_bytes());
    bytes[10..12].copy_from_slice(&highest.to_le_bytes());
    let checksum = base::checksum::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// What the sender of a preamble is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// A node that will send frames.
    Peer,
    /// Somebody with a question.
    Asker,
    /// A node that carries on its clients' calls.
    Relay,
}

/// The version to speak with whoever sent `bytes`, and what that is.
pub(super) fn negotiate(bytes: &[u8; PREAMBLE_BYTES]) -> Result<(Sender, u16), FrameError> {
    let mut rest = &bytes[8..];
    let (lowest, highest) = (rest.get_u16_le(), rest.get_u16_le());
    let sender = match &bytes[..8] {
        magic if magic == MAGIC => Sender::Peer,
        magic if magic == ASKING => Sender::Asker,
        magic if magic == RELAYING => Sender::Relay,
        _ => return Err(FrameError::BadPreamble),
    };
    if rest.get_u32_le() != base::checksum::crc32c(&bytes[..12]) {
        return Err(FrameError::BadPreamble);
    }
    let common = highest.min(VERSIONS.1);
    if lowest > highest || common < lowest.max(VERSIONS.0) {
        return Err(FrameError::NoCommonVersion);
    }
    Ok((sender, common))
}

/// What stands before a body of a frame.
pub(super) fn head(body: &[u8]) -> [u8; HEAD_BYTES] {
    let length = u32::try_from(body.len()).expect("a frame is far shorter than 4 GiB");
    let mut bytes = [0; HEAD_BYTES];
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..].copy_from_slice(&base::checksum::crc32c(body).to_le_bytes());
    bytes
}

/// Takes the next complete frame off the front of `buffer`; `None` if there is none yet.
///
/// A body of at most `copied` bytes is copied: were it a part of the buffer, a short entry that
/// the node keeps for long would keep the whole buffer. A long body takes its part of the buffer
/// along.
pub(super) fn take(
    buffer: &mut BytesMut,
    longest: usize,
    copied: usize,
) -> Result<Option<Bytes>, FrameError> {
    let Some(length) = body_length(buffer) else {
        return Ok(None);
    };
    if length > longest {
        return Err(FrameError::Oversized);
    }
    if buffer.len() < HEAD_BYTES + length {
        return Ok(None);
    }
    let expected = (&buffer[4..]).get_u32_le();
    if base::checksum::crc32c(&buffer[HEAD_BYTES..HEAD_BYTES + length]) != expected {
        return Err(FrameError::BadChecksum);
    }
    buffer.advance(HEAD_BYTES);
    if length <= copied {
        let body = Bytes::copy_from_slice(&buffer[..length]);
        buffer.advance(length);
        return Ok(Some(body));
    }
    Ok(Some(buffer.split_to(length).freeze()))
}

/// How many more bytes the frame at the front of `buffer` needs, if its head has arrived.
pub(super) fn missing(buffer: &BytesMut) -> usize {
    body_length(buffer).map_or(0, |length| {
        (HEAD_BYTES + length).saturating_sub(buffer.len())
    })
}

fn body_length(buffer: &BytesMut) -> Option<usize> {
    let mut head = buffer.get(..HEAD_BYTES)?;
    Some(head.get_u32_le() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = 1000;

    fn stream(bodies: &[&[u8]]) -> Vec<u8> {
        bodies
            .iter()
            .flat_map(|body| [&head(body)[..], body].concat())
            .collect()
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_the_bytes_arrive() {
        let bodies: [&[u8]; 4] = [b"one", b"", &[7; 500], b"last"];
        let bytes = stream(&bodies);
        for step in [1, 2, 3, 7, 100, bytes.len()] {
            let mut buffer = BytesMut::new();
            let mut taken = Vec::new();
            for piece in bytes.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(body) = take(&mut buffer, LONGEST, 100).unwrap() {
                    taken.push(body);
                }
            }
            assert_eq!(taken, bodies, "in steps of {step}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed_or_leaves_the_frame_incomplete() {
        let good = stream(&[b"the body of a frame"]);
        for bit in 0..good.len() * 8 {
            let mut bad = BytesMut::from(&good[..]);
            bad[bit / 8] ^= 1 << (bit % 8);
            match take(&mut bad, LONGEST, 100) {
                Ok(None) | Err(FrameError::BadChecksum | FrameError::Oversized) => {}
                other => panic!("bit {bit}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_body_arrives() {
        let mut buffer = BytesMut::from(&head(&[0; LONGEST + 1])[..]);
        assert_eq!(take(&mut buffer, LONGEST, 100), Err(FrameError::Oversized));
        let mut buffer = BytesMut::from(&[0xff; HEAD_BYTES][..]);
        assert_eq!(take(&mut buffer, LONGEST, 100), Err(FrameError::Oversized));
    }

    #[test]
    fn short_bodies_do_not_keep_the_buffer_and_long_ones_are_not_copied() {
        let mut buffer = BytesMut::from(&stream(&[b"short", &[1; 200]])[..]);
        let before = buffer.as_ptr() as usize..buffer.as_ptr() as usize + buffer.len();
        let short = take(&mut buffer, LONGEST, 100).unwrap().unwrap();
        assert!(!before.contains(&(short.as_ptr() as usize)));
        let long = take(&mut buffer, LONGEST, 100).unwrap().unwrap();
        assert!(before.contains(&(long.as_ptr() as usize)));
    }

    #[test]
    fn preambles_find_the_highest_common_version() {
        let of = |versions| negotiate(&preamble_of(MAGIC, versions));
        assert_eq!(negotiate(&preamble()), Ok((Sender::Peer, VERSIONS.1)));
        assert_eq!(negotiate(&asking()), Ok((Sender::Asker, VERSIONS.1)));
        assert_eq!(of((1, 9)), Ok((Sender::Peer, 1)));
        for versions in [(2, 9), (0, 0), (9, 1)] {
            assert_eq!(of(versions), Err(FrameError::NoCommonVersion));
        }
    }

    #[test]
    fn any_flipped_bit_of_a_preamble_is_noticed() {
        for good in [preamble(), asking()] {
            for bit in 0..PREAMBLE_BYTES * 8 {
                let mut bad = good;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(negotiate(&bad), Err(FrameError::BadPreamble), "bit {bit}");
            }
        }
        assert_eq!(
            negotiate(b"GET / HTTP/1.1\r\n"),
            Err(FrameError::BadPreamble)
        );
    }
}
