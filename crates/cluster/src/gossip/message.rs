//! What members say to each other, as bytes. Decoding is total: hostile bytes are an error.
//!
//! ```text
//!   body     cluster u64 | sender u64 | kind u8 | fields | count u32 | claims
//!   claim    state u8 | node u64 | incarnation u64 | by u64 | if alive: profile
//!   profile  name | address | peer address | client address | release | zone | rack | host
//!            | load u32 | epoch u64
//!   text     length u8, UTF-8
//!   address  4 and 4 octets, or 6 and 16 octets; port u16
//! ```
//!
//! All integers are little-endian. The same claims ride on probes, on packets of news, and in
//! exchanges of all that is known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base::{ClusterId, NodeId, WallTime};
use bytes::{Buf, BufMut};

use super::member::{Facts, Incarnation};
use crate::placement::site::Domains;

/// Why bytes could not be understood.
pub(crate) type DecodeError = &'static str;

/// What stands before the claims, at most.
pub(crate) const HEAD_BYTES: usize = 8 + 8 + 1 + 4 + 8 + 4;

const TRUNCATED: DecodeError = "the packet ends too early";

/// What one member says of another, or of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is there, and this is what it says of itself.
    Alive(Box<Profile>),
    /// It does not answer `by`.
    Suspect {
        node: NodeId,
        incarnation: Incarnation,
        by: NodeId,
    },
    /// It did not deny a suspicion in time.
    Dead {
        node: NodeId,
        incarnation: Incarnation,
        by: NodeId,
    },
    /// It said goodbye.
    Left {
        node: NodeId,
        incarnation: Incarnation,
    },
}

/// A member in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) facts: Facts,
}

/// What a packet or an exchange is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Are you there? For `target` alone.
    Ping { sequence: u32, target: NodeId },
    /// Please ping `target` for me, where you know that it is.
    PingRequest { sequence: u32, target: NodeId },
    /// I am here, and this is the time by my wall clock; or whom you asked me to ping is.
    Ack { sequence: u32, wall: WallTime },
    /// Whom you asked me to ping does not answer me.
    Nack { sequence: u32 },
    /// Nothing but claims.
    News,
    /// All that the sender knows; the answer is the same of the other side.
    Sync,
}

/// One packet or exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) cluster: ClusterId,
    pub(crate) sender: NodeId,
    pub(crate) kind: Kind,
    pub(crate) claims: Vec<Claim>,
}

impl Claim {
    /// Whom it is about, and at which incarnation.
    pub(crate) fn about(&self) -> (NodeId, Incarnation) {
        match self {
            Claim::Alive(profile) => (profile.node, profile.incarnation),
            Claim::Suspect {
                node, incarnation, ..
            }
            | Claim::Dead {
                node, incarnation, ..
            }
            | Claim::Left { node, incarnation } => (*node, *incarnation),
        }
    }

    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        let mut head = |state: u8, node: NodeId, incarnation: Incarnation, by: NodeId| {
            into.put_u8(state);
            into.put_u64_le(node.0);
            into.put_u64_le(incarnation.0);
            into.put_u64_le(by.0);
        };
        match self {
            Claim::Alive(profile) => {
                head(0, profile.node, profile.incarnation, profile.node);
                put_text(&profile.name, into);
                put_address(profile.address, into);
                put_text(&profile.facts.peer_address, into);
                put_text(&profile.facts.client_address, into);
                put_text(&profile.facts.release, into);
                put_text(&profile.facts.domains.zone, into);
                put_text(&profile.facts.domains.rack, into);
                put_text(&profile.facts.domains.host, into);
                into.put_u32_le(profile.facts.load_thousandths);
                into.put_u64_le(profile.facts.table_epoch);
            }
            Claim::Suspect {
                node,
                incarnation,
                by,
            } => head(1, *node, *incarnation, *by),
            Claim::Dead {
                node,
                incarnation,
                by,
            } => head(2, *node, *incarnation, *by),
            Claim::Left { node, incarnation } => head(3, *node, *incarnation, *node),
        }
    }

    fn decode(bytes: &mut &[u8]) -> Result<Claim, DecodeError> {
        let state = bytes.try_get_u8().map_err(|_| TRUNCATED)?;
        let node = NodeId(number(bytes)?);
        let incarnation = Incarnation(number(bytes)?);
        let by = NodeId(number(bytes)?);
        match state {
            0 => {
                let name = text(bytes)?;
                let address = address(bytes)?;
                let facts = Facts {
                    peer_address: text(bytes)?,
                    client_address: text(bytes)?,
                    release: text(bytes)?,
                    domains: Domains {
                        zone: text(bytes)?,
                        rack: text(bytes)?,
                        host: text(bytes)?,
                    },
                    load_thousandths: bytes.try_get_u32_le().map_err(|_| TRUNCATED)?,
                    table_epoch: number(bytes)?,
                };
                Ok(Claim::Alive(Box::new(Profile {
                    node,
                    incarnation,
                    name,
                    address,
                    facts,
                })))
            }
            1 => Ok(Claim::Suspect {
                node,
                incarnation,
                by,
            }),
            2 => Ok(Claim::Dead {
                node,
                incarnation,
                by,
            }),
            3 => Ok(Claim::Left { node, incarnation }),
            _ => Err("a claim of an unknown kind"),
        }
    }
}

/// Writes everything before the claims.
pub(crate) fn encode_head(
    cluster: ClusterId,
    sender: NodeId,
    kind: Kind,
    count: u32,
    into: &mut Vec<u8>,
) {
    into.put_u64_le(cluster.0);
    into.put_u64_le(sender.0);
    match kind {
        Kind::Ping { sequence, target } => {
            into.put_u8(0);
            into.put_u32_le(sequence);
            into.put_u64_le(target.0);
        }
        Kind::PingRequest { sequence, target } => {
            into.put_u8(1);
            into.put_u32_le(sequence);
            into.put_u64_le(target.0);
        }
        Kind::Ack { sequence, wall } => {
            into.put_u8(2);
            into.put_u32_le(sequence);
            into.put_u64_le(wall.0);
        }
        Kind::Nack { sequence } => {
            into.put_u8(3);
            into.put_u32_le(sequence);
        }
        Kind::News => into.put_u8(4),
        Kind::Sync => into.put_u8(5),
    }
    into.put_u32_le(count);
}

impl Message {
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Message, DecodeError> {
        let bytes = &mut bytes;
        let cluster = ClusterId(number(bytes)?);
        let sender = NodeId(number(bytes)?);
        let kind = bytes.try_get_u8().map_err(|_| TRUNCATED)?;
        let mut sequence = || bytes.try_get_u32_le().map_err(|_| TRUNCATED);
        let kind = match kind {
            0 => Kind::Ping {
                sequence: sequence()?,
                target: NodeId(number(bytes)?),
            },
            1 => Kind::PingRequest {
                sequence: sequence()?,
                target: NodeId(number(bytes)?),
            },
            2 => Kind::Ack {
                sequence: sequence()?,
                wall: WallTime(number(bytes)?),
            },
            3 => Kind::Nack {
                sequence: sequence()?,
            },
            4 => Kind::News,
            5 => Kind::Sync,
            _ => return Err("a packet of an unknown kind"),
        };
        let count = bytes.try_get_u32_le().map_err(|_| TRUNCATED)?;
        // Grown as claims are read: the count alone makes nobody take memory.
        let mut claims = Vec::new();
        for _ in 0..count {
            claims.push(Claim::decode(bytes)?);
        }
        match bytes.is_empty() {
            true => Ok(Message {
                cluster,
                sender,
                kind,
                claims,
            }),
            false => Err("bytes are left over at the end"),
        }
    }
}

fn put_text(text: &str, into: &mut Vec<u8>) {
    let length = u8::try_from(text.len()).expect("texts are checked where they come in");
    into.put_u8(length);
    into.extend_from_slice(text.as_bytes());
}

fn text(bytes: &mut &[u8]) -> Result<String, DecodeError> {
    let length = usize::from(bytes.try_get_u8().map_err(|_| TRUNCATED)?);
    let (text, rest) = bytes.split_at_checked(length).ok_or(TRUNCATED)?;
    *bytes = rest;
    let text = std::str::from_utf8(text).map_err(|_| "a text is not UTF-8")?;
    Ok(text.to_owned())
}

fn put_address(address: SocketAddr, into: &mut Vec<u8>) {
    match address.ip() {
        IpAddr::V4(ip) => {
            into.put_u8(4);
            into.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            into.put_u8(6);
            into.extend_from_slice(&ip.octets());
        }
    }
    into.put_u16_le(address.port());
}

fn address(bytes: &mut &[u8]) -> Result<SocketAddr, DecodeError> {
    let ip = match bytes.try_get_u8().map_err(|_| TRUNCATED)? {
        4 => IpAddr::V4(Ipv4Addr::from_bits(
            bytes.try_get_u32().map_err(|_| TRUNCATED)?,
        )),
        6 => IpAddr::V6(Ipv6Addr::from_bits(
            bytes.try_get_u128().map_err(|_| TRUNCATED)?,
        )),
        _ => return Err("an address of an unknown kind"),
    };
    let port = bytes.try_get_u16_le().map_err(|_| TRUNCATED)?;
    Ok(SocketAddr::new(ip, port))
}

fn number(bytes: &mut &[u8]) -> Result<u64, DecodeError> {
    bytes.try_get_u64_le().map_err(|_| TRUNCATED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let profile = Profile {
            node: NodeId(9),
            incarnation: Incarnation::of_start(3),
            name: "nine".to_owned(),
            address: "[2001:db8::1]:2382".parse().unwrap(),
            facts: Facts {
                peer_address: "nine:2380".to_owned(),
                load_thousandths: 7,
                table_epoch: 8,
                ..Facts::default()
            },
        };
        let (node, incarnation, by) = (NodeId(1), Incarnation(2), NodeId(3));
        let claims = vec![
            Claim::Alive(Box::new(profile)),
            Claim::Suspect {
                node,
                incarnation,
                by,
            },
            Claim::Dead {
                node,
                incarnation,
                by,
            },
            Claim::Left { node, incarnation },
        ];
        let kinds = [
            Kind::Ping {
                sequence: 1,
                target: node,
            },
            Kind::PingRequest {
                sequence: 2,
                target: node,
            },
            Kind::Ack {
                sequence: 3,
                wall: WallTime(4),
            },
            Kind::Nack { sequence: 4 },
            Kind::News,
            Kind::Sync,
        ];
        kinds
            .into_iter()
            .map(|kind| Message {
                cluster: ClusterId(5),
                sender: NodeId(6),
                kind,
                claims: claims.clone(),
            })
            .collect()
    }

    fn encoded(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        let count = message.claims.len() as u32;
        encode_head(
            message.cluster,
            message.sender,
            message.kind,
            count,
            &mut bytes,
        );
        message
            .claims
            .iter()
            .for_each(|claim| claim.encode(&mut bytes));
        bytes
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for message in messages() {
            let bytes = encoded(&Message {
                claims: Vec::new(),
                ..message.clone()
            });
            assert!(bytes.len() <= HEAD_BYTES);
            assert_eq!(Message::decode(&encoded(&message)), Ok(message));
        }
    }

    #[test]
    fn nothing_shorter_or_longer_is_a_message() {
        for message in messages() {
            let mut bytes = encoded(&message);
            for length in 0..bytes.len() {
                assert!(Message::decode(&bytes[..length]).is_err());
            }
            bytes.push(0);
            assert!(Message::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_huge_count_takes_no_memory() {
        let mut bytes = Vec::new();
        encode_head(ClusterId(1), NodeId(1), Kind::News, u32::MAX, &mut bytes);
        assert_eq!(Message::decode(&bytes), Err(TRUNCATED));
    }
}
