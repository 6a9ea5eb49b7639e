//! The table of keyspaces, as rows of the space `meta`.
//!
//! ```text
//! key 'e'          epoch u64 | last group u64 | keyspaces u64
//! key 'k' name     version u8 = 1, or 2 if it is observed | group u64 |
//!                  engine u8: 1 raft, 2 paxos | quorums | genesis: replicas |
//!                  replicas | former: count u16, node u64 each |
//!                  stays u8 | moving u8: 0 no, 1 filling, 2 leaving; if it moves:
//!                  begun: epoch u64 | target: replicas | leaving: replicas |
//!                  in version 2: observers: count u16, node u64 each
//! quorums          elect u8 | commit u8; both 0: majorities
//! replicas         count u8, each: node u64 | name: length u16, UTF-8 |
//!                  address: length u16, UTF-8
//! ```
//!
//! Integers are little-endian. The epoch counts the changes of the table. What is known of nodes
//! stands in rows of its own ([`super::nodes`]), and so do routes ([`super::routing`]).

use std::collections::BTreeSet;

use base::{GroupId, NodeId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::{EngineKind, QuorumRule, QuorumSizes};
use state::{Reader, Space, Transaction};

use crate::placement::plan::TableEpoch;

/// The keyspace of clients who name none. It lives in the first group.
pub const DEFAULT: &str = "default";

pub(super) const EPOCH_KEY: &[u8] = b"e";
const KEYSPACE_TAG: u8 = b'k';
const VERSION: u8 = 1;
/// With observers, which an earlier build does not know of.
const OBSERVED_VERSION: u8 = 2;
/// Keyspaces that a cluster has at most, beside [`DEFAULT`]. Every replica judges by it, so it is
/// part of what is replicated, and no setting of a node.
pub const KEYSPACES_MAX: u64 = 16_384;
/// What a list of replicas can name: two whole memberships, for those who leave a keyspace that is
/// sent elsewhere while it moves.
pub(super) const REPLICAS_MAX: usize = 32;
/// Nodes that a row remembers to have held its keyspace, at most. Only members of the cluster are
/// remembered, so a row runs full in very large clusters alone; it moves no more then.
pub(super) const FORMER_MAX: usize = 4096;
/// Nodes that observe a keyspace, at most: the leader sends its entries to each of them.
pub(super) const OBSERVERS_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 63;

/// A node that a keyspace was created on: what the others need to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Which node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub address: String,
}

/// One keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyspace {
    /// Its name.
    pub name: String,
    /// The group that it lives in.
    pub group: GroupId,
    /// How the group agrees.
    pub engine: EngineKind,
    /// How many replicas elect and commit.
    pub quorums: QuorumRule,
    /// Who held it first: the membership that the group's log starts from.
    pub genesis: Vec<Replica>,
    /// Who holds it.
    pub replicas: Vec<Replica>,
    /// Who held it once, or was to, and let go of it. What such a node had promised in the group is
    /// gone: if it gets the keyspace again, its replica begins in doubt.
    pub former: BTreeSet<NodeId>,
    /// Who holds it without a vote, to serve reads and watches.
    pub observers: BTreeSet<NodeId>,
    /// An operator has turned it back: it is not sent elsewhere again only to even things out.
    pub stays: bool,
    /// Its way to other nodes, if it is on one.
    pub moving: Option<Moving>,
}

/// A keyspace's way from some nodes to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moving {
    /// Which move it is: the epoch of the table that it made. A later one has a higher number, also
    /// one back to where the keyspace was.
    pub begun: TableEpoch,
    /// Who shall hold it.
    pub target: Vec<Replica>,
    /// Who shall not, and has it open or may have; until all is done.
    pub leaving: Vec<Replica>,
    /// All of the target vote by now: clients are served by them alone, and the others leave.
    pub is_leaving: bool,
}

impl Keyspace {
    /// A keyspace that begins on `replicas`.
    #[must_use]
    pub fn new(
        name: String,
        group: GroupId,
        engine: EngineKind,
        quorums: QuorumRule,
        replicas: Vec<Replica>,
    ) -> Keyspace {
        Keyspace {
            name,
            group,
            engine,
            quorums,
            genesis: replicas.clone(),
            replicas,
            former: BTreeSet::new(),
            observers: BTreeSet::new(),
            stays: false,
            moving: None,
        }
    }

    /// Who serves its clients.
    #[must_use]
    pub fn serving(&self) -> &[Replica] {
        match &self.moving {
            Some(moving) if moving.is_leaving => &moving.target,
            _ => &self.replicas,
        }
    }

    /// Who shall hold it in the end.
    #[must_use]
    pub fn target(&self) -> &[Replica] {
        self.moving
            .as_ref()
            .map_or(&self.replicas, |moving| &moving.target)
    }

    /// Whether a node has the group open: to serve it, to be filled, or until it has left.
    #[must_use]
    pub fn is_held_by(&self, node: NodeId) -> bool {
        let moving = self.moving.iter();
        let others = moving.flat_map(|moving| moving.target.iter().chain(&moving.leaving));
        let mut all = self.replicas.iter().chain(others);
        all.any(|each| each.node == node)
    }

    /// Whether a node has the group open for any reason: it holds it, or observes it.
    #[must_use]
    pub fn is_open_on(&self, node: NodeId) -> bool {
        self.is_held_by(node) || self.observers.contains(&node)
    }

    /// All nodes that have the group open, for any reason; some of them twice.
    pub fn open_on(&self) -> impl Iterator<Item = NodeId> {
        let moving = self.moving.iter();
        let others = moving.flat_map(|moving| moving.target.iter().chain(&moving.leaving));
        let held = self.replicas.iter().chain(others).map(|each| each.node);
        held.chain(self.observers.iter().copied())
    }

    /// The row, without the name, which is the key.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(match self.observers.is_empty() {
            true => VERSION,
            false => OBSERVED_VERSION,
        });
        out.put_u64_le(self.group.0);
        put_engine(&mut out, self.engine);
        put_quorums(&mut out, self.quorums.chosen().map(|(_, sizes)| sizes));
        put_replicas(&mut out, &self.genesis);
        put_replicas(&mut out, &self.replicas);
        put_nodes(&mut out, &self.former);
        out.put_u8(u8::from(self.stays));
        match &self.moving {
            None => out.put_u8(0),
            Some(moving) => {
                out.put_u8(if moving.is_leaving { 2 } else { 1 });
                out.put_u64_le(moving.begun.0);
                put_replicas(&mut out, &moving.target);
                put_replicas(&mut out, &moving.leaving);
            }
        }
        if !self.observers.is_empty() {
            put_nodes(&mut out, &self.observers);
        }
        out.freeze()
    }

    /// The keyspace that a row of the space is about, if it is about one and can be read.
    pub(super) fn of_row(key: &[u8], row: &[u8]) -> Option<Keyspace> {
        let name = key.strip_prefix(&[KEYSPACE_TAG])?;
        Keyspace::decode(std::str::from_utf8(name).ok()?, row)
    }

    pub(super) fn decode(name: &str, mut row: &[u8]) -> Option<Keyspace> {
        let input = &mut row;
        let is_observed = match input.try_get_u8().ok()? {
            VERSION => false,
            OBSERVED_VERSION => true,
            _ => return None,
        };
        let group = GroupId(input.try_get_u64_le().ok()?);
        let engine = get_engine(input)?;
        let sizes = get_quorums(input)?;
        let genesis = get_replicas(input)?;
        let rule = sizes.map(|sizes| QuorumRule::new(genesis.len(), sizes));
        let keyspace = Keyspace {
            name: name.to_owned(),
            group,
            engine,
            quorums: rule.transpose().ok()?.unwrap_or_default(),
            genesis,
            replicas: get_replicas(input)?,
            former: get_nodes(input)?,
            stays: get_flag(input)?,
            moving: get_moving(input)?,
            observers: match is_observed {
                true => get_nodes(input)?,
                false => BTreeSet::new(),
            },
        };
        (!input.has_remaining()).then_some(keyspace)
    }
}

fn put_nodes(out: &mut BytesMut, nodes: &BTreeSet<NodeId>) {
    let count = u16::try_from(nodes.len()).expect("lists of nodes are bounded");
    out.put_u16_le(count);
    nodes.iter().for_each(|node| out.put_u64_le(node.0));
}

fn get_nodes(input: &mut &[u8]) -> Option<BTreeSet<NodeId>> {
    let count = input.try_get_u16_le().ok()?;
    (0..count)
        .map(|_| input.try_get_u64_le().ok().map(NodeId))
        .collect()
}

fn get_flag(input: &mut &[u8]) -> Option<bool> {
    match input.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Whether it moves, and how.
fn get_moving(input: &mut &[u8]) -> Option<Option<Moving>> {
    let is_leaving = match input.try_get_u8().ok()? {
        0 => return Some(None),
        1 => false,
        2 => true,
        _ => return None,
    };
    Some(Some(Moving {
        begun: TableEpoch(input.try_get_u64_le().ok()?),
        target: get_replicas(input)?,
        leaving: get_replicas(input)?,
        is_leaving,
    }))
}

pub(super) fn put_engine(out: &mut BytesMut, engine: EngineKind) {
    out.put_u8(engine.code());
}

pub(super) fn get_engine(input: &mut &[u8]) -> Option<EngineKind> {
    EngineKind::from_code(input.try_get_u8().ok()?)
}

pub(super) fn put_quorums(out: &mut BytesMut, sizes: Option<QuorumSizes>) {
    let (elect, commit) = sizes.map_or((0, 0), |sizes| (sizes.elect, sizes.commit));
    for number in [elect, commit] {
        // What does not fit is more than any keyspace has replicas, and refused as that.
        out.put_u8(u8::try_from(number).unwrap_or(u8::MAX));
    }
}

pub(super) fn get_quorums(input: &mut &[u8]) -> Option<Option<QuorumSizes>> {
    let elect = usize::from(input.try_get_u8().ok()?);
    let commit = usize::from(input.try_get_u8().ok()?);
    Some(((elect, commit) != (0, 0)).then_some(QuorumSizes { elect, commit }))
}

pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    let length = u16::try_from(text.len()).expect("names and addresses are short");
    out.put_u16_le(length);
    out.put_slice(text.as_bytes());
}

pub(super) fn get_text(input: &mut &[u8]) -> Option<String> {
    let length = usize::from(input.try_get_u16_le().ok()?);
    let (text, rest) = input.split_at_checked(length)?;
    *input = rest;
    String::from_utf8(text.to_vec()).ok()
}

pub(super) fn put_replicas(out: &mut BytesMut, replicas: &[Replica]) {
    let count = u8::try_from(replicas.len()).expect("a group has a handful of replicas");
    out.put_u8(count);
    for replica in replicas {
        out.put_u64_le(replica.node.0);
        put_text(out, &replica.name);
        put_text(out, &replica.address);
    }
}

pub(super) fn get_replicas(input: &mut &[u8]) -> Option<Vec<Replica>> {
    let count = usize::from(input.try_get_u8().ok()?);
    if count > REPLICAS_MAX {
        return None;
    }
    let mut replicas = Vec::with_capacity(count);
    for _ in 0..count {
        replicas.push(Replica {
            node: NodeId(input.try_get_u64_le().ok()?),
            name: get_text(input)?,
            address: get_text(input)?,
        });
    }
    Some(replicas)
}

pub(super) fn row_key(name: &str) -> Vec<u8> {
    [&[KEYSPACE_TAG], name.as_bytes()].concat()
}

/// The row under [`EPOCH_KEY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) epoch: u64,
    pub(super) last_group: u64,
    /// How many rows there are.
    pub(super) keyspaces: u64,
}

impl Count {
    pub(super) fn of_row(row: Option<Bytes>) -> Count {
        let read = |mut row: Bytes| {
            Some(Count {
                epoch: row.try_get_u64_le().ok()?,
                last_group: row.try_get_u64_le().ok()?,
                keyspaces: row.try_get_u64_le().ok()?,
            })
        };
        row.and_then(read).unwrap_or_default()
    }

    pub(super) fn encode(self) -> [u8; 24] {
        let mut row = [0; 24];
        row[..8].copy_from_slice(&self.epoch.to_le_bytes());
        row[8..16].copy_from_slice(&self.last_group.to_le_bytes());
        row[16..].copy_from_slice(&self.keyspaces.to_le_bytes());
        row
    }
}

/// Refuses what was decided on another version of the table.
pub(super) fn check_epoch(
    transaction: &Transaction<'_>,
    seen: TableEpoch,
) -> Result<Count, String> {
    let count = Count::of_row(transaction.row(Space::META, EPOCH_KEY));
    match count.epoch == seen.0 {
        true => Ok(count),
        false => Err(format!(
            "this was planned on the table of epoch {}, and the table has changed meanwhile (epoch \
             {}); ask again",
            seen.0, count.epoch
        )),
    }
}

/// Counts one change of the table.
pub(super) fn count_change(transaction: &mut Transaction<'_>) {
    let mut count = Count::of_row(transaction.row(Space::META, EPOCH_KEY));
    count.epoch += 1;
    transaction.set_row(Space::META, EPOCH_KEY, &count.encode());
}

/// Which version of the table a state holds.
#[must_use]
pub fn epoch(reader: &Reader) -> TableEpoch {
    TableEpoch(Count::of_row(reader.row(Space::META, EPOCH_KEY)).epoch)
}

/// The highest number that a group has been given. A group with a higher one has been created
/// later than this state knows; one with a lower one that is not in the table has been dropped.
#[must_use]
pub fn last_group(reader: &Reader) -> GroupId {
    GroupId(Count::of_row(reader.row(Space::META, EPOCH_KEY)).last_group)
}

/// The keyspace of this name, other than [`DEFAULT`].
#[must_use]
pub fn keyspace(reader: &Reader, name: &str) -> Option<Keyspace> {
    Keyspace::decode(name, &reader.row(Space::META, &row_key(name))?)
}

/// All keyspaces but [`DEFAULT`], by name. Rows that this build cannot read are left out.
#[must_use]
pub fn keyspaces(reader: &Reader) -> Vec<Keyspace> {
    read_keyspaces(reader).filter_map(Result::ok).collect()
}

/// All keyspaces but [`DEFAULT`], for whoever lets go of what is not among them.
///
/// # Errors
/// If a row cannot be read: with its key, for people.
pub fn all_keyspaces(reader: &Reader) -> Result<Vec<Keyspace>, String> {
    read_keyspaces(reader).collect()
}

fn read_keyspaces(reader: &Reader) -> impl Iterator<Item = Result<Keyspace, String>> {
    let rows = reader.rows(Space::META);
    rows.filter_map(|(key, row)| {
        let name = key.strip_prefix(&[KEYSPACE_TAG])?;
        let found = std::str::from_utf8(name).ok();
        let found = found.and_then(|name| Keyspace::decode(name, &row));
        Some(found.ok_or_else(|| format!("{:?}", String::from_utf8_lossy(name))))
    })
}

/// Whether a keyspace may have this name: it stands in headers, host names and file names.
///
/// # Errors
/// With a sentence for people.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_bounded = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = name.as_bytes();
    let is_fine = bytes.iter().copied().all(allowed)
        && is_bounded(bytes.first())
        && is_bounded(bytes.last())
        && bytes.len() <= NAME_BYTES_MAX;
    if is_fine {
        return Ok(());
    }
    Err(format!(
        "a keyspace cannot be called {name:?}: a name has 1 to {NAME_BYTES_MAX} characters of a-z, \
         0-9 and -, and neither begins nor ends with -"
    ))
}
