//! Commands that change the table of keyspaces, and how they execute.
//!
//! ```text
//! version u8 = 1 | kind u8 | fields
//! kind 1 create:  epoch seen u64 | engine u8 | quorums | count u16, each: name | replicas
//! kind 2 drop:    name
//! kind 3 move:    epoch seen u64 | count u16, each: name | replicas
//! kind 4 cancel:  name
//! kind 5 leave:   group u64 | epoch that the move made u64
//! kind 6 settle:  group u64 | epoch that the move made u64
//! kind 7 site:    node u64 | zone | rack | host
//! kind 8 stand:   node u64 | standing it has u8 | standing it gets u8
//! kind 9 tend:    replace after u64 seconds, 0: never | rebalance u8
//! kind 10 route:  prefix: length u16, bytes | name
//! kind 11 unroute: prefix
//! kind 12 observe: name | node u64
//! kind 13 unobserve: name | node u64
//! ```
//!
//! *Create* makes all the keyspaces that it names, or none: ten thousand of them one by one would
//! be as many entries, each of which every node compares with what it holds.
//!
//! *Move* names where keyspaces shall be. The leader of each group fills the new replicas and gives
//! them votes; when all of them have theirs it says *leave*, the others give up serving and are
//! removed, and *settle* ends it. Each of the two names the move that it is about, so that one that
//! comes late does nothing. *Cancel* turns back, as long as nobody has left.
//!
//! Replicas, quorums and names as in [`super::table`], standings as in [`super::nodes`]. Integers
//! are little-endian.

use std::collections::BTreeSet;

use base::{GroupId, NodeId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::{EngineKind, Membership, QuorumRule, QuorumSizes};
use state::{Space, Transaction};

use super::nodes::{self, Tending, get_standing, get_tending, put_standing, put_tending};
use super::table::{
    Count, DEFAULT, EPOCH_KEY, KEYSPACES_MAX, Keyspace, Replica, check_name, get_engine,
    get_quorums, get_replicas, get_text, put_engine, put_quorums, put_replicas, put_text, row_key,
};
use super::{moving, routing, table};
use crate::placement::plan::TableEpoch;
use crate::placement::site::{Domains, Standing};

/// The number of this protocol in an entry.
pub const PROTOCOL: u8 = 5;
const VERSION: u8 = 1;
/// How many keyspaces one command makes, at most. Every replica judges by it.
pub const CREATED_MAX: usize = 512;

/// A change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaCommand {
    /// Keyspaces come into being, each in a group of its own.
    Create {
        /// The table on which the replicas were chosen.
        seen: TableEpoch,
        /// How their groups agree.
        engine: EngineKind,
        /// How many replicas elect and commit; `None`: majorities.
        quorums: Option<QuorumSizes>,
        /// Their names, and who holds each; all of them, or none.
        keyspaces: Vec<(String, Vec<Replica>)>,
    },
    /// A keyspace ends, with all that it holds.
    Drop {
        /// Its name.
        name: String,
    },
    /// Keyspaces shall be on other nodes.
    Move {
        /// The table on which those were chosen.
        seen: TableEpoch,
        /// Names, and who shall hold each; all of them, or none.
        moves: Vec<(String, Vec<Replica>)>,
    },
    /// A keyspace shall stay where it is.
    Cancel {
        /// Its name.
        name: String,
    },
    /// All of the target vote: the others may leave.
    Leave {
        /// In which group.
        group: GroupId,
        /// Which move: the epoch that it made.
        begun: TableEpoch,
    },
    /// The others have left.
    Settle {
        /// Which group.
        group: GroupId,
        /// Which move: the epoch that it made.
        begun: TableEpoch,
    },
    /// A node says where it stands.
    Site {
        /// Which node.
        node: NodeId,
        /// What it fails together with.
        domains: Domains,
    },
    /// What may be asked of a node changes.
    Stand {
        /// Which node.
        node: NodeId,
        /// What the one who says so took it for; if it is another one, nothing changes.
        was: Standing,
        /// What it shall be.
        standing: Standing,
    },
    /// How the cluster looks after itself.
    Tend(Tending),
    /// Keys with a prefix belong to a keyspace.
    Route {
        /// What they begin with.
        prefix: Bytes,
        /// The keyspace's name.
        name: String,
    },
    /// Keys with a prefix belong to the default keyspace again.
    Unroute {
        /// What they begin with.
        prefix: Bytes,
    },
    /// A node holds a keyspace without a vote, to serve reads and watches; or no longer.
    Observe {
        /// The keyspace's name.
        name: String,
        /// Which node.
        node: NodeId,
        /// Whether it shall.
        observes: bool,
    },
}

impl MetaCommand {
    /// The command's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(VERSION);
        match self {
            MetaCommand::Create {
                seen,
                engine,
                quorums,
                keyspaces,
            } => {
                out.put_u8(1);
                out.put_u64_le(seen.0);
                put_engine(&mut out, *engine);
                put_quorums(&mut out, *quorums);
                put_named(&mut out, keyspaces);
            }
            MetaCommand::Drop { name } => {
                out.put_u8(2);
                put_text(&mut out, name);
            }
            MetaCommand::Move { seen, moves } => {
                out.put_u8(3);
                out.put_u64_le(seen.0);
                put_named(&mut out, moves);
            }
            MetaCommand::Cancel { name } => {
                out.put_u8(4);
                put_text(&mut out, name);
            }
            MetaCommand::Leave { group, begun } => put_step(&mut out, 5, *group, *begun),
            MetaCommand::Settle { group, begun } => put_step(&mut out, 6, *group, *begun),
            MetaCommand::Site { node, domains } => {
                out.put_u8(7);
                out.put_u64_le(node.0);
                nodes::put_domains(&mut out, domains);
            }
            MetaCommand::Stand {
                node,
                was,
                standing,
            } => {
                out.put_u8(8);
                out.put_u64_le(node.0);
                put_standing(&mut out, *was);
                put_standing(&mut out, *standing);
            }
            MetaCommand::Tend(tending) => {
                out.put_u8(9);
                put_tending(&mut out, tending);
            }
            MetaCommand::Route { prefix, name } => {
                out.put_u8(10);
                put_prefix(&mut out, prefix);
                put_text(&mut out, name);
            }
            MetaCommand::Unroute { prefix } => {
                out.put_u8(11);
                put_prefix(&mut out, prefix);
            }
            MetaCommand::Observe {
                name,
                node,
                observes,
            } => {
                out.put_u8(if *observes { 12 } else { 13 });
                put_text(&mut out, name);
                out.put_u64_le(node.0);
            }
        }
        out.freeze()
    }

    /// The command in `bytes`, or `None` if there is none.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<MetaCommand> {
        let input = &mut bytes;
        if input.try_get_u8().ok()? != VERSION {
            return None;
        }
        let command = match input.try_get_u8().ok()? {
            1 => MetaCommand::Create {
                seen: TableEpoch(input.try_get_u64_le().ok()?),
                engine: get_engine(input)?,
                quorums: get_quorums(input)?,
                keyspaces: get_named(input)?,
            },
            2 => MetaCommand::Drop {
                name: get_text(input)?,
            },
            3 => MetaCommand::Move {
                seen: TableEpoch(input.try_get_u64_le().ok()?),
                moves: get_named(input)?,
            },
            4 => MetaCommand::Cancel {
                name: get_text(input)?,
            },
            5 => MetaCommand::Leave {
                group: GroupId(input.try_get_u64_le().ok()?),
                begun: TableEpoch(input.try_get_u64_le().ok()?),
            },
            6 => MetaCommand::Settle {
                group: GroupId(input.try_get_u64_le().ok()?),
                begun: TableEpoch(input.try_get_u64_le().ok()?),
            },
            7 => MetaCommand::Site {
                node: NodeId(input.try_get_u64_le().ok()?),
                domains: nodes::get_domains(input)?,
            },
            8 => MetaCommand::Stand {
                node: NodeId(input.try_get_u64_le().ok()?),
                was: get_standing(input)?,
                standing: get_standing(input)?,
            },
            9 => MetaCommand::Tend(get_tending(input)?),
            10 => MetaCommand::Route {
                prefix: get_prefix(input)?,
                name: get_text(input)?,
            },
            11 => MetaCommand::Unroute {
                prefix: get_prefix(input)?,
            },
            kind @ (12 | 13) => MetaCommand::Observe {
                name: get_text(input)?,
                node: NodeId(input.try_get_u64_le().ok()?),
                observes: kind == 12,
            },
            _ => return None,
        };
        (!input.has_remaining()).then_some(command)
    }
}

fn put_step(out: &mut BytesMut, kind: u8, group: GroupId, begun: TableEpoch) {
    out.put_u8(kind);
    out.put_u64_le(group.0);
    out.put_u64_le(begun.0);
}

fn put_named(out: &mut BytesMut, keyspaces: &[(String, Vec<Replica>)]) {
    let count = u16::try_from(keyspaces.len()).expect("keyspaces are bounded");
    out.put_u16_le(count);
    for (name, replicas) in keyspaces {
        put_text(out, name);
        put_replicas(out, replicas);
    }
}

fn put_prefix(out: &mut BytesMut, prefix: &[u8]) {
    let length = u16::try_from(prefix.len()).expect("who makes the command has looked at it");
    out.put_u16_le(length);
    out.put_slice(prefix);
}

fn get_prefix(input: &mut &[u8]) -> Option<Bytes> {
    let length = usize::from(input.try_get_u16_le().ok()?);
    let (prefix, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(Bytes::copy_from_slice(prefix))
}

fn get_named(input: &mut &[u8]) -> Option<Vec<(String, Vec<Replica>)>> {
    let count = input.try_get_u16_le().ok()?;
    (0..count)
        .map(|_| Some((get_text(input)?, get_replicas(input)?)))
        .collect()
}

/// Whether a command changes which prefixes lead where.
#[must_use]
pub fn is_about_routes(command: &[u8]) -> bool {
    matches!(
        MetaCommand::decode(command),
        Some(MetaCommand::Route { .. } | MetaCommand::Unroute { .. })
    )
}

/// Executes a command; tells what was done. `membership` is the cluster's, at this slot.
///
/// # Errors
/// With a sentence for people, if it was refused; alike on every replica.
pub fn execute(
    transaction: Transaction<'_>,
    membership: &Membership,
    command: &[u8],
) -> Result<String, String> {
    match MetaCommand::decode(command) {
        Some(MetaCommand::Create {
            seen,
            engine,
            quorums,
            keyspaces,
        }) => {
            let mut wanted = Vec::with_capacity(keyspaces.len());
            for (name, replicas) in keyspaces {
                check_replicas(membership, &replicas)?;
                let rule = quorums.map(|sizes| QuorumRule::new(replicas.len(), sizes));
                let rule = rule.transpose()?.unwrap_or_default();
                wanted.push(Keyspace::new(name, GroupId(0), engine, rule, replicas));
            }
            create(transaction, seen, wanted)
        }
        Some(MetaCommand::Drop { name }) => drop_keyspace(transaction, &name),
        Some(MetaCommand::Move { seen, moves }) => {
            moving::begin(transaction, membership, seen, moves)
        }
        Some(MetaCommand::Cancel { name }) => moving::cancel(transaction, &name),
        Some(MetaCommand::Leave { group, begun }) => moving::leave(transaction, group, begun),
        Some(MetaCommand::Settle { group, begun }) => {
            moving::settle(transaction, membership, group, begun)
        }
        Some(MetaCommand::Site { node, domains }) => {
            nodes::describe(transaction, membership, node, domains)
        }
        Some(MetaCommand::Stand {
            node,
            was,
            standing,
        }) => nodes::stand(transaction, membership, node, (was, standing)),
        Some(MetaCommand::Tend(tending)) => nodes::tend(transaction, tending),
        Some(MetaCommand::Route { prefix, name }) => routing::route(transaction, &prefix, &name),
        Some(MetaCommand::Unroute { prefix }) => routing::unroute(transaction, &prefix),
        Some(MetaCommand::Observe {
            name,
            node,
            observes,
        }) => moving::observe(transaction, membership, &name, node, observes),
        None => Err("the command cannot be read; was it made by a newer version?".to_owned()),
    }
}

/// Replicas stand on voters of the cluster as it is now: a member without a vote may never have
/// started, and one that was removed meanwhile never will.
pub(super) fn check_replicas(membership: &Membership, replicas: &[Replica]) -> Result<(), String> {
    let nodes: BTreeSet<_> = replicas.iter().map(|replica| replica.node).collect();
    if nodes.len() != replicas.len() || !matches!(nodes.len(), 1 | 3 | 5 | 7) {
        return Err("a keyspace has 1, 3, 5 or 7 replicas, each on a node of its own".to_owned());
    }
    if let Some(witness) = replicas
        .iter()
        .find(|each| membership.is_witness(each.node))
    {
        return Err(format!(
            "{} is a witness: it votes and holds no keyspace",
            witness.name
        ));
    }
    match replicas.iter().find(|each| !membership.is_voter(each.node)) {
        Some(stranger) => Err(format!(
            "{} is not a voter of the cluster any more; ask again",
            stranger.name
        )),
        None => Ok(()),
    }
}

/// Gives each keyspace the next number of a group.
fn create(
    mut transaction: Transaction<'_>,
    seen: TableEpoch,
    mut keyspaces: Vec<Keyspace>,
) -> Result<String, String> {
    if keyspaces.is_empty() || keyspaces.len() > CREATED_MAX {
        return Err(format!(
            "1 to {CREATED_MAX} keyspaces are made at a time, not {}",
            keyspaces.len()
        ));
    }
    let mut names = BTreeSet::new();
    for Keyspace { name, .. } in &keyspaces {
        check_name(name)?;
        let is_there = transaction.row(Space::META, &row_key(name)).is_some();
        if name == DEFAULT || is_there || !names.insert(name.as_str()) {
            return Err(format!("there is a keyspace called {name} already"));
        }
    }
    let before = table::check_epoch(&transaction, seen)?;
    let added = keyspaces.len() as u64;
    if before.keyspaces + added > KEYSPACES_MAX {
        return Err(format!(
            "there are {} keyspaces besides {DEFAULT}, and a cluster has at most {KEYSPACES_MAX}; \
             drop one first",
            before.keyspaces
        ));
    }
    let count = Count {
        epoch: before.epoch + 1,
        last_group: before.last_group + added,
        keyspaces: before.keyspaces + added,
    };
    for (group, keyspace) in (before.last_group + 1..).zip(&mut keyspaces) {
        keyspace.group = GroupId(group);
        transaction.set_row(Space::META, &row_key(&keyspace.name), &keyspace.encode());
    }
    transaction.set_row(Space::META, EPOCH_KEY, &count.encode());
    transaction.commit();
    Ok(created(&keyspaces))
}

/// How many keyspaces are named that were created with one command.
const CREATED_NAMED: usize = 8;

fn created(keyspaces: &[Keyspace]) -> String {
    match keyspaces {
        [one] => {
            let names: Vec<&str> = one.replicas.iter().map(|each| &each.name[..]).collect();
            format!(
                "created the keyspace {} in group {} on {}",
                one.name,
                one.group.0,
                names.join(", ")
            )
        }
        [first, .., last] => {
            let named = keyspaces.iter().take(CREATED_NAMED);
            let mut names: Vec<&str> = named.map(|each| &each.name[..]).collect();
            let more = format!("{} more", keyspaces.len() - names.len());
            if keyspaces.len() > names.len() {
                names.push(&more);
            }
            let end = names.pop().expect("there are two at least");
            format!(
                "created {} keyspaces in the groups {} to {}: {} and {end}",
                keyspaces.len(),
                first.group.0,
                last.group.0,
                names.join(", ")
            )
        }
        [] => "created nothing".to_owned(),
    }
}

fn drop_keyspace(mut transaction: Transaction<'_>, name: &str) -> Result<String, String> {
    if name == DEFAULT {
        return Err(format!("the keyspace {DEFAULT} cannot be dropped"));
    }
    let key = row_key(name);
    if transaction.row(Space::META, &key).is_none() {
        return Err(format!("there is no keyspace called {name}"));
    }
    if let Some(reason) = routing::needs(&transaction, name) {
        return Err(reason);
    }
    let mut count = Count::of_row(transaction.row(Space::META, EPOCH_KEY));
    count.epoch += 1;
    count.keyspaces = count.keyspaces.saturating_sub(1);
    transaction.delete_row(Space::META, &key);
    transaction.set_row(Space::META, EPOCH_KEY, &count.encode());
    transaction.commit();
    Ok(format!("dropped the keyspace {name}"))
}
