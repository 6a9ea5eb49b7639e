//! Commands that change the table of keyspaces, and how they execute.
//!
//! ```text
//! version u8 = 1 | kind u8 | fields
//! kind 1 create:  epoch seen u64 | name | engine u8 | quorums | count u8 | replicas
//! kind 2 drop:    name
//! ```
//!
//! Replicas, quorums and names as in [`super::table`]. Integers are little-endian.

use std::collections::BTreeSet;

use base::GroupId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::{EngineKind, Membership, QuorumRule, QuorumSizes};
use state::{Space, Transaction};

use super::table::{
    Count, DEFAULT, EPOCH_KEY, KEYSPACES_MAX, Keyspace, Replica, check_name, get_engine,
    get_quorums, get_replicas, get_text, put_engine, put_quorums, put_replicas, put_text, row_key,
};
use crate::placement::plan::TableEpoch;

/// The number of this protocol in an entry.
pub const PROTOCOL: u8 = 5;
const VERSION: u8 = 1;

/// A change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaCommand {
    /// A keyspace comes into being, in a group of its own.
    Create {
        /// The table on which the replicas were chosen.
        seen: TableEpoch,
        /// Its name.
        name: String,
        /// How its group agrees.
        engine: EngineKind,
        /// How many replicas elect and commit; `None`: majorities.
        quorums: Option<QuorumSizes>,
        /// Who holds it.
        replicas: Vec<Replica>,
    },
    /// A keyspace ends, with all that it holds.
    Drop {
        /// Its name.
        name: String,
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
                name,
                engine,
                quorums,
                replicas,
            } => {
                out.put_u8(1);
                out.put_u64_le(seen.0);
                put_text(&mut out, name);
                put_engine(&mut out, *engine);
                put_quorums(&mut out, *quorums);
                put_replicas(&mut out, replicas);
            }
            MetaCommand::Drop { name } => {
                out.put_u8(2);
                put_text(&mut out, name);
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
                name: get_text(input)?,
                engine: get_engine(input)?,
                quorums: get_quorums(input)?,
                replicas: get_replicas(input)?,
            },
            2 => MetaCommand::Drop {
                name: get_text(input)?,
            },
            _ => return None,
        };
        (!input.has_remaining()).then_some(command)
    }
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
            name,
            engine,
            quorums,
            replicas,
        }) => {
            check_replicas(membership, &replicas)?;
            let rule = quorums.map(|sizes| QuorumRule::new(replicas.len(), sizes));
            let keyspace = Keyspace {
                name,
                group: GroupId(0),
                engine,
                quorums: rule.transpose()?.unwrap_or_default(),
                replicas,
            };
            create(transaction, seen, keyspace)
        }
        Some(MetaCommand::Drop { name }) => drop_keyspace(transaction, &name),
        None => Err("the command cannot be read; was it made by a newer version?".to_owned()),
    }
}

/// Replicas stand on voters of the cluster as it is now: a member without a vote may never have
/// started, and one that was removed meanwhile never will.
fn check_replicas(membership: &Membership, replicas: &[Replica]) -> Result<(), String> {
    let nodes: BTreeSet<_> = replicas.iter().map(|replica| replica.node).collect();
    if nodes.len() != replicas.len() || !matches!(nodes.len(), 1 | 3 | 5 | 7) {
        return Err("a keyspace has 1, 3, 5 or 7 replicas, each on a node of its own".to_owned());
    }
    match replicas.iter().find(|each| !membership.is_voter(each.node)) {
        Some(stranger) => Err(format!(
            "{} is not a voter of the cluster any more; ask again",
            stranger.name
        )),
        None => Ok(()),
    }
}

/// Gives a keyspace the next number of a group.
fn create(
    mut transaction: Transaction<'_>,
    seen: TableEpoch,
    mut keyspace: Keyspace,
) -> Result<String, String> {
    let name = keyspace.name.as_str();
    check_name(name)?;
    let key = row_key(name);
    if name == DEFAULT || transaction.row(Space::META, &key).is_some() {
        return Err(format!("there is a keyspace called {name} already"));
    }
    let count = Count::of_row(transaction.row(Space::META, EPOCH_KEY));
    if count.epoch != seen.0 {
        return Err("the table of keyspaces has changed meanwhile; ask again".to_owned());
    }
    if count.keyspaces >= KEYSPACES_MAX {
        return Err(format!(
            "there are {} keyspaces besides {DEFAULT}, and a cluster has at most {KEYSPACES_MAX}; \
             drop one first",
            count.keyspaces
        ));
    }
    let count = Count {
        epoch: count.epoch + 1,
        last_group: count.last_group + 1,
        keyspaces: count.keyspaces + 1,
    };
    let replicas = &keyspace.replicas;
    let names: Vec<&str> = replicas.iter().map(|each| each.name.as_str()).collect();
    let done = format!(
        "created the keyspace {name} in group {} on {}",
        count.last_group,
        names.join(", ")
    );
    keyspace.group = GroupId(count.last_group);
    transaction.set_row(Space::META, &key, &keyspace.encode());
    transaction.set_row(Space::META, EPOCH_KEY, &count.encode());
    transaction.commit();
    Ok(done)
}

fn drop_keyspace(mut transaction: Transaction<'_>, name: &str) -> Result<String, String> {
    if name == DEFAULT {
        return Err(format!("the keyspace {DEFAULT} cannot be dropped"));
    }
    let key = row_key(name);
    if transaction.row(Space::META, &key).is_none() {
        return Err(format!("there is no keyspace called {name}"));
    }
    let mut count = Count::of_row(transaction.row(Space::META, EPOCH_KEY));
    count.epoch += 1;
    count.keyspaces = count.keyspaces.saturating_sub(1);
    transaction.delete_row(Space::META, &key);
    transaction.set_row(Space::META, EPOCH_KEY, &count.encode());
    transaction.commit();
    Ok(format!("dropped the keyspace {name}"))
}
