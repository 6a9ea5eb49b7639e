//! Packets closed against strangers: XChaCha20-Poly1305 under a shared key, with keys that can be
//! exchanged while the cluster runs.
//!
//! ```text
//!   open:    0x01 | checksum u32 (CRC32C of the body) | body
//!   sealed:  0x02 | key id u32 | nonce 24 | ciphertext of the body | tag 16
//!   key id   the first four bytes of XXH3 of the key: tells which key, says nothing about it
//!   nonce    node u64 | process u64 (random at each start) | packet counter u64
//! ```
//!
//! A nonce is never used twice, since its first parts are unique to a process and the counter only
//! grows; 24 bytes make room for that without any secret randomness. To change keys: give all
//! members the new one as an additional key, then as the first, then take the old one away.

use std::fmt;

use base::NodeId;
use base::checksum::crc32c;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use xxhash_rust::xxh3::xxh3_64;

const OPEN: u8 = 1;
const SEALED: u8 = 2;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// What sealing adds to a body.
pub(crate) const OVERHEAD_BYTES: usize = 1 + 4 + NONCE_BYTES + 16;

/// A shared secret of 32 bytes. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// The key of these bytes, which must come from a good source of randomness.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Key {
        Key(bytes)
    }

    /// Names the key without giving it away.
    #[must_use]
    pub fn id(&self) -> u32 {
        (xxh3_64(&self.0) >> 32) as u32
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({:08x})", self.id())
    }
}

/// The keys of a member: the first seals, all of them open. Without a key packets are only
/// protected against damage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(pub Vec<Key>);

/// Why a packet was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Too short, of an unknown form, or damaged on the way.
    Damaged,
    /// It is sealed with a key that this member does not have, or changed on the way.
    WrongKey {
        /// The id of the sender's key.
        id: u32,
    },
    /// It is not sealed, and this member only takes sealed packets.
    NotSealed,
}

impl fmt::Display for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::Damaged => write!(formatter, "it is damaged, or no gossip of ours"),
            Closed::WrongKey { id } => write!(
                formatter,
                "it is sealed with a key that this node does not have (key id {id:08x})"
            ),
            Closed::NotSealed => {
                write!(
                    formatter,
                    "it is not sealed, and this node has a gossip key"
                )
            }
        }
    }
}

/// Seals and opens.
pub(crate) struct Sealer {
    ciphers: Vec<(u32, XChaCha20Poly1305)>,
    nonce: [u8; NONCE_BYTES],
    counter: u64,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Sealer({} keys)", self.ciphers.len())
    }
}

impl Sealer {
    pub(crate) fn new(keys: &Keys, node: NodeId, process: u64) -> Sealer {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..8].copy_from_slice(&node.0.to_le_bytes());
        nonce[8..16].copy_from_slice(&process.to_le_bytes());
        let mut sealer = Sealer {
            ciphers: Vec::new(),
            nonce,
            counter: 0,
        };
        sealer.set(keys);
        sealer
    }

    /// Takes other keys. The counter goes on: a key may come back.
    pub(crate) fn set(&mut self, keys: &Keys) {
        let keys = keys.0.iter();
        self.ciphers = keys
            .map(|key| (key.id(), XChaCha20Poly1305::new(&key.0.into())))
            .collect();
    }

    pub(crate) fn seal(&mut self, body: &[u8]) -> Vec<u8> {
        let Some((id, cipher)) = self.ciphers.first() else {
            let mut packet = Vec::with_capacity(5 + body.len());
            packet.push(OPEN);
            packet.extend_from_slice(&crc32c(body).to_le_bytes());
            packet.extend_from_slice(body);
            return packet;
        };
        self.counter += 1;
        self.nonce[16..].copy_from_slice(&self.counter.to_le_bytes());
        let mut packet = Vec::with_capacity(OVERHEAD_BYTES + body.len());
        packet.push(SEALED);
        packet.extend_from_slice(&id.to_le_bytes());
        packet.extend_from_slice(&self.nonce);
        let payload = Payload {
            msg: body,
            aad: &packet[..5],
        };
        let sealed = cipher.encrypt(XNonce::from_slice(&self.nonce), payload);
        packet.extend(sealed.expect("a packet is shorter than 2^36 bytes"));
        packet
    }

    pub(crate) fn open(&self, packet: &[u8]) -> Result<Vec<u8>, Closed> {
        let (kind, rest) = packet.split_first().ok_or(Closed::Damaged)?;
        let (word, rest) = rest.split_first_chunk::<4>().ok_or(Closed::Damaged)?;
        let word = u32::from_le_bytes(*word);
        match *kind {
            OPEN if crc32c(rest) != word => Err(Closed::Damaged),
            OPEN if !self.ciphers.is_empty() => Err(Closed::NotSealed),
            OPEN => Ok(rest.to_vec()),
            SEALED => {
                let split = rest.split_first_chunk::<NONCE_BYTES>();
                let (nonce, sealed) = split.ok_or(Closed::Damaged)?;
                let mut named = self.ciphers.iter().filter(|(id, _)| *id == word);
                let wrong = Closed::WrongKey { id: word };
                let (_, cipher) = named.next().ok_or(wrong)?;
                let payload = Payload {
                    msg: sealed,
                    aad: &packet[..5],
                };
                cipher
                    .decrypt(XNonce::from_slice(nonce), payload)
                    .map_err(|_| wrong)
            }
            _ => Err(Closed::Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(keys: &[u8]) -> Sealer {
        let keys = keys.iter().map(|byte| Key::new([*byte; 32])).collect();
        Sealer::new(&Keys(keys), NodeId(1), 2)
    }

    #[test]
    fn what_is_sealed_opens_only_with_the_key() {
        let packet = sealer(&[1]).seal(b"hello");
        assert_eq!(sealer(&[1]).open(&packet).unwrap(), b"hello");
        assert_eq!(sealer(&[2, 1]).open(&packet).unwrap(), b"hello");
        assert!(matches!(
            sealer(&[2]).open(&packet),
            Err(Closed::WrongKey { .. })
        ));
        assert!(matches!(
            sealer(&[]).open(&packet),
            Err(Closed::WrongKey { .. })
        ));
        let bare = sealer(&[]).seal(b"hello");
        assert_eq!(sealer(&[]).open(&bare).unwrap(), b"hello");
        assert_eq!(sealer(&[1]).open(&bare), Err(Closed::NotSealed));
    }

    #[test]
    fn no_two_packets_share_a_nonce_and_none_repeats_itself() {
        let mut one = sealer(&[1]);
        assert_ne!(one.seal(b"hello"), one.seal(b"hello"));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for keys in [&[1u8][..], &[]] {
            let mut packet = sealer(keys).seal(b"hello");
            for bit in 0..packet.len() * 8 {
                packet[bit / 8] ^= 1 << (bit % 8);
                assert!(sealer(keys).open(&packet).is_err(), "bit {bit}");
                packet[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn short_packets_are_refused() {
        let packet = sealer(&[1]).seal(b"hello");
        for length in 0..packet.len() {
            assert!(sealer(&[1]).open(&packet[..length]).is_err());
        }
    }
}
