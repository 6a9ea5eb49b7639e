//! What the table knows of nodes, and how the cluster looks after itself: rows beside those of
//! keyspaces.
//!
//! ```text
//! key 'n' node u64   version u8 = 1 | standing u8: 1 serving, 2 draining, 3 gone |
//!                    zone | rack | host: each length u16, UTF-8
//! key 't'            version u8 = 1 | replace after u64: seconds, 0 never | rebalance u8
//! ```
//!
//! A node without a row serves, and has not said where it stands. The row of a node that is removed
//! from the cluster means nothing any more: ids are never used twice, and plans are made of
//! members.

use std::time::Duration;

use base::NodeId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::Membership;
use state::{Reader, Space, Transaction};

use super::table::{count_change, get_text, put_text};
use crate::placement::site::{Domains, Site, Standing, Weight};

const NODE_TAG: u8 = b'n';
const TENDING_KEY: &[u8] = b"t";
const VERSION: u8 = 1;
/// A zone, rack or host has a name of so many bytes at most.
const DOMAIN_BYTES_MAX: usize = 128;
/// A node is not given up for dead before so long: shorter ones are restarts.
pub const REPLACE_AFTER_MIN: Duration = Duration::from_secs(1);

/// How the cluster looks after itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tending {
    /// How long a node must be dead before its replicas are made anew on others, in whole seconds;
    /// `None`: never.
    pub replace_after: Option<Duration>,
    /// Replicas move by themselves so that nodes hold their share, and apart from each other.
    pub rebalances: bool,
}

impl Tending {
    /// Nothing moves that nobody has asked for.
    pub const OFF: Tending = Tending {
        replace_after: None,
        rebalances: false,
    };
}

/// Longer than a restart of a machine takes: a replica that is made anew elsewhere costs a copy of
/// all it holds.
impl Default for Tending {
    fn default() -> Tending {
        Tending {
            replace_after: Some(Duration::from_secs(300)),
            rebalances: true,
        }
    }
}

pub(super) fn put_tending(out: &mut BytesMut, tending: &Tending) {
    out.put_u64_le(tending.replace_after.map_or(0, |after| after.as_secs()));
    out.put_u8(u8::from(tending.rebalances));
}

pub(super) fn get_tending(input: &mut &[u8]) -> Option<Tending> {
    let seconds = input.try_get_u64_le().ok()?;
    let rebalances = match input.try_get_u8().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some(Tending {
        replace_after: (seconds > 0).then(|| Duration::from_secs(seconds)),
        rebalances,
    })
}

pub(super) fn put_standing(out: &mut BytesMut, standing: Standing) {
    out.put_u8(match standing {
        Standing::Serving => 1,
        Standing::Draining => 2,
        Standing::Gone => 3,
    });
}

pub(super) fn get_standing(input: &mut &[u8]) -> Option<Standing> {
    match input.try_get_u8().ok()? {
        1 => Some(Standing::Serving),
        2 => Some(Standing::Draining),
        3 => Some(Standing::Gone),
        _ => None,
    }
}

pub(super) fn put_domains(out: &mut BytesMut, domains: &Domains) {
    let Domains { zone, rack, host } = domains;
    for text in [zone, rack, host] {
        put_text(out, text);
    }
}

pub(super) fn get_domains(input: &mut &[u8]) -> Option<Domains> {
    Some(Domains {
        zone: get_text(input)?,
        rack: get_text(input)?,
        host: get_text(input)?,
    })
}

/// What the table knows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    standing: Standing,
    domains: Domains,
}

impl Default for Known {
    fn default() -> Known {
        Known {
            standing: Standing::Serving,
            domains: Domains::default(),
        }
    }
}

impl Known {
    /// What a row says; what cannot be read says nothing.
    fn of_row(row: Option<Bytes>) -> Known {
        let read = |row: Bytes| {
            let mut row = &row[..];
            let input = &mut row;
            if input.try_get_u8().ok()? != VERSION {
                return None;
            }
            Some(Known {
                standing: get_standing(input)?,
                domains: get_domains(input)?,
            })
        };
        row.and_then(read).unwrap_or_default()
    }

    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        put_standing(&mut out, self.standing);
        put_domains(&mut out, &self.domains);
        out.freeze()
    }
}

fn node_key(node: NodeId) -> [u8; 9] {
    let mut key = [NODE_TAG; 9];
    key[1..].copy_from_slice(&node.0.to_be_bytes());
    key
}

fn name_of(membership: &Membership, node: NodeId) -> Result<&str, String> {
    let member = membership.members.get(&node);
    let member = member.ok_or("this node is not a member of the cluster any more")?;
    Ok(&member.name)
}

/// A node says where it stands.
pub(super) fn describe(
    mut transaction: Transaction<'_>,
    membership: &Membership,
    node: NodeId,
    domains: Domains,
) -> Result<String, String> {
    name_of(membership, node)?;
    let Domains { zone, rack, host } = &domains;
    if [zone, rack, host]
        .iter()
        .any(|text| text.len() > DOMAIN_BYTES_MAX)
    {
        return Err(format!(
            "a zone, rack or host has a name of at most {DOMAIN_BYTES_MAX} bytes"
        ));
    }
    let mut known = Known::of_row(transaction.row(Space::META, &node_key(node)));
    if known.domains == domains {
        return Ok(String::new());
    }
    known.domains = domains;
    // No change of the table: every node says so when it first starts, and what was planned without
    // knowing it is no worse than before.
    transaction.set_row(Space::META, &node_key(node), &known.encode());
    transaction.commit();
    Ok(String::new())
}

/// What may be asked of a node changes, if it is what it was.
pub(super) fn stand(
    mut transaction: Transaction<'_>,
    membership: &Membership,
    node: NodeId,
    (was, standing): (Standing, Standing),
) -> Result<String, String> {
    let name = name_of(membership, node)?;
    let mut known = Known::of_row(transaction.row(Space::META, &node_key(node)));
    if known.standing == standing {
        return Ok(format!("{name} is {standing} already"));
    }
    if known.standing != was {
        return Err(format!(
            "{name} is {} by now, no longer {was}; ask again",
            known.standing
        ));
    }
    known.standing = standing;
    transaction.set_row(Space::META, &node_key(node), &known.encode());
    count_change(&mut transaction);
    transaction.commit();
    Ok(format!("{name} is {standing}"))
}

/// How the cluster looks after itself changes.
pub(super) fn tend(mut transaction: Transaction<'_>, tending: Tending) -> Result<String, String> {
    let Tending {
        replace_after,
        rebalances,
    } = tending;
    if replace_after.is_some_and(|after| after < REPLACE_AFTER_MIN) {
        return Err(format!(
            "a node is not replaced before it has been dead for {REPLACE_AFTER_MIN:?}"
        ));
    }
    let mut row = BytesMut::new();
    row.put_u8(VERSION);
    put_tending(&mut row, &tending);
    transaction.set_row(Space::META, TENDING_KEY, &row);
    count_change(&mut transaction);
    transaction.commit();
    let replace = replace_after.map_or_else(
        || "dead nodes are not replaced".to_owned(),
        |after| format!("a node that is dead for {} s is replaced", after.as_secs()),
    );
    let balance = match rebalances {
        true => "replicas move to even out what nodes hold",
        false => "replicas do not move to even out what nodes hold",
    };
    Ok(format!("{replace}; {balance}"))
}

/// How operators have said that the cluster looks after itself, if they have.
#[must_use]
pub fn tending(reader: &Reader) -> Option<Tending> {
    let read = |row: Bytes| {
        let mut row = &row[..];
        let is_known = row.try_get_u8().ok()? == VERSION;
        is_known.then(|| get_tending(&mut row)).flatten()
    };
    let row = reader.row(Space::META, TENDING_KEY);
    row.and_then(read)
}

/// What may be asked of a node.
#[must_use]
pub fn standing(reader: &Reader, node: NodeId) -> Standing {
    Known::of_row(reader.row(Space::META, &node_key(node))).standing
}

/// What a node has said about where it stands.
#[must_use]
pub fn domains(reader: &Reader, node: NodeId) -> Domains {
    Known::of_row(reader.row(Space::META, &node_key(node))).domains
}

/// The nodes that replicas can be on: those with a vote in the cluster that hold data, in the order
/// of their names.
#[must_use]
pub fn sites(reader: &Reader, membership: &Membership) -> Vec<Site> {
    let members = &membership.members;
    let mut voters: Vec<_> = members
        .iter()
        .filter(|(id, _)| membership.is_voter(**id) && !membership.is_witness(**id))
        .collect();
    voters.sort_by_key(|(id, member)| (member.name.as_str(), **id));
    voters
        .into_iter()
        .map(|(node, member)| {
            let known = Known::of_row(reader.row(Space::META, &node_key(*node)));
            Site {
                node: *node,
                name: member.name.clone(),
                weight: Weight::ORDINARY,
                domains: known.domains,
                standing: known.standing,
            }
        })
        .collect()
}
