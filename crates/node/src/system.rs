//! The node's own commands: what members say about themselves, and who may join.
//!
//! ```text
//! version u8 = 1 | kind u8 | fields          rows of Space::MEMBERS
//! kind 1 publish:  member u64 | level u32 | count u16 | texts     key: member u64 | 'p'
//! kind 2 claim:    member u64 | claimant u64                      key: member u64 | 'c'
//! kind 3 nothing:  lets the group's clock and its compaction go on
//! kind 4 wish:     member u64                                     key: member u64 | 'v'
//! kind 5 raise:    level u32
//! kind 6 no wish:  member u64                                     takes the row of a wish away
//! kind 7 follow:   move u64                                       key: 'm'; never a lower one
//! ```
//!
//! Integers are little-endian, in keys big-endian; a text is its length u16 and UTF-8.

use base::NodeId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use cluster::placement::plan::TableEpoch;
use consensus::Membership;
use state::{Reader, Space, Transaction};

/// The number of this protocol in an entry.
pub const PROTOCOL: u8 = 0;
const VERSION: u8 = 1;

/// A command of the node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemCommand {
    /// A member says where its clients reach it, and which level it knows.
    Publish {
        /// Which member.
        member: NodeId,
        /// The highest level of the state that it can execute.
        level: u32,
        /// Where clients reach it.
        client_urls: Vec<String>,
    },
    /// A folder claims the place of a member that an operator has added.
    Claim {
        /// The member's id.
        member: NodeId,
        /// The folder that claims it.
        claimant: NodeId,
    },
    /// Nothing: the entry's stamp is all that matters.
    Nothing,
    /// A member that is about to be added shall get its vote by itself, once it has caught up.
    WishVote {
        /// The member's id.
        member: NodeId,
    },
    /// A learner that an operator has added shall get its vote by itself, once it has caught up,
    /// and that makes an odd number of votes or another one comes along.
    GrowBy {
        /// Its name.
        name: String,
    },
    /// From the next entry on, commands do what they do at this level.
    RaiseLevel {
        /// Which.
        level: u32,
    },
    /// The group is on this move of its keyspace, and on none before it any more.
    FollowMove {
        /// The move's number: the epoch of the table that it made.
        begun: TableEpoch,
    },
    /// That member is not added after all.
    ForgetWish {
        /// The id that it would have had.
        member: NodeId,
    },
}

impl SystemCommand {
    /// The command's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32);
        out.put_u8(VERSION);
        match self {
            SystemCommand::Publish {
                member,
                level,
                client_urls,
            } => {
                out.put_u8(1);
                out.put_u64_le(member.0);
                put_published(&mut out, *level, client_urls);
            }
            SystemCommand::Claim { member, claimant } => {
                out.put_u8(2);
                out.put_u64_le(member.0);
                out.put_u64_le(claimant.0);
            }
            SystemCommand::Nothing => out.put_u8(3),
            SystemCommand::WishVote { member } => {
                out.put_u8(4);
                out.put_u64_le(member.0);
            }
            SystemCommand::RaiseLevel { level } => {
                out.put_u8(5);
                out.put_u32_le(*level);
            }
            SystemCommand::ForgetWish { member } => {
                out.put_u8(6);
                out.put_u64_le(member.0);
            }
            SystemCommand::GrowBy { name } => {
                out.put_u8(8);
                let length = u16::try_from(name.len()).expect("a name has 128 characters at most");
                out.put_u16_le(length);
                out.put_slice(name.as_bytes());
            }
            SystemCommand::FollowMove { begun } => {
                out.put_u8(7);
                out.put_u64_le(begun.0);
            }
        }
        out.freeze()
    }

    /// The command in `bytes`, or `None` if there is none.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<SystemCommand> {
        let input = &mut bytes;
        if input.try_get_u8().ok()? != VERSION {
            return None;
        }
        let command = match input.try_get_u8().ok()? {
            1 => {
                let member = NodeId(input.try_get_u64_le().ok()?);
                let (level, client_urls) = get_published(input)?;
                SystemCommand::Publish {
                    member,
                    level,
                    client_urls,
                }
            }
            2 => SystemCommand::Claim {
                member: NodeId(input.try_get_u64_le().ok()?),
                claimant: NodeId(input.try_get_u64_le().ok()?),
            },
            3 => SystemCommand::Nothing,
            4 => SystemCommand::WishVote {
                member: NodeId(input.try_get_u64_le().ok()?),
            },
            5 => SystemCommand::RaiseLevel {
                level: input.try_get_u32_le().ok()?,
            },
            6 => SystemCommand::ForgetWish {
                member: NodeId(input.try_get_u64_le().ok()?),
            },
            8 => {
                let length = usize::from(input.try_get_u16_le().ok()?);
                let name = std::mem::take(input);
                let name = (name.len() == length).then(|| name.to_vec())?;
                let name = String::from_utf8(name).ok()?;
                SystemCommand::GrowBy { name }
            }
            7 => SystemCommand::FollowMove {
                begun: TableEpoch(input.try_get_u64_le().ok()?),
            },
            _ => return None,
        };
        (!input.has_remaining()).then_some(command)
    }
}

fn put_published(out: &mut BytesMut, level: u32, client_urls: &[String]) {
    out.put_u32_le(level);
    out.put_u16_le(client_urls.len() as u16);
    for url in client_urls {
        out.put_u16_le(url.len() as u16);
        out.put_slice(url.as_bytes());
    }
}

fn get_published(input: &mut &[u8]) -> Option<(u32, Vec<String>)> {
    let level = input.try_get_u32_le().ok()?;
    let count = input.try_get_u16_le().ok()?;
    let mut urls = Vec::new();
    for _ in 0..count {
        let length = usize::from(input.try_get_u16_le().ok()?);
        let (url, rest) = input.split_at_checked(length)?;
        urls.push(String::from_utf8(url.to_vec()).ok()?);
        *input = rest;
    }
    Some((level, urls))
}

const MOVE_KEY: &[u8] = b"m";

fn row_key(member: NodeId, tag: u8) -> [u8; 9] {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&member.0.to_be_bytes());
    key[8] = tag;
    key
}

/// Executes a command of the node itself; `membership` is the one at this slot.
///
/// # Errors
/// With a sentence for people, if it was refused; alike on every replica.
pub fn execute(
    mut transaction: Transaction<'_>,
    membership: &Membership,
    command: &[u8],
) -> Result<(), String> {
    match SystemCommand::decode(command) {
        Some(SystemCommand::Publish {
            member,
            level,
            client_urls,
        }) => {
            let mut row = BytesMut::new();
            put_published(&mut row, level, &client_urls);
            transaction.set_row(Space::MEMBERS, &row_key(member, b'p'), &row);
        }
        Some(SystemCommand::Claim { member, claimant }) => {
            let key = row_key(member, b'c');
            let holder = transaction.row(Space::MEMBERS, &key);
            if holder.is_some_and(|holder| holder[..] != claimant.0.to_be_bytes()) {
                return Err(
                    "the place of this member has already been taken by another data \
                            folder; remove the member and add it again"
                        .to_owned(),
                );
            }
            // Whoever has published has run, and what it promised since is only in its folder.
            if transaction
                .row(Space::MEMBERS, &row_key(member, b'p'))
                .is_some()
            {
                return Err(
                    "this member has already run on a data folder, so what it promised would be \
                     lost with another one or an older copy; remove the member, add it again and \
                     start it on an empty folder"
                        .to_owned(),
                );
            }
            transaction.set_row(Space::MEMBERS, &key, &claimant.0.to_be_bytes());
        }
        Some(SystemCommand::WishVote { member }) => {
            transaction.set_row(Space::MEMBERS, &row_key(member, b'v'), &[]);
        }
        Some(SystemCommand::GrowBy { name }) => {
            let mut members = membership.members.iter();
            let named = members.find(|(id, member)| {
                member.name == name && !membership.is_voter(**id) && !membership.is_witness(**id)
            });
            let (id, _) = named.ok_or_else(|| format!("no learner is called {name}"))?;
            transaction.set_row(Space::MEMBERS, &row_key(*id, b'v'), &[GROWS]);
        }
        Some(SystemCommand::RaiseLevel { level }) => {
            // Whoever was added since the leader looked has not said yet what it knows.
            if level_of_all(transaction.base(), membership) < Some(level) {
                return Err(format!("not all members know level {level}"));
            }
            transaction.raise_level(level);
        }
        Some(SystemCommand::ForgetWish { member }) => {
            transaction.delete_row(Space::MEMBERS, &row_key(member, b'v'));
        }
        Some(SystemCommand::FollowMove { begun }) => {
            let row = transaction.row(Space::MEMBERS, MOVE_KEY);
            if read_move(row) < Some(begun) {
                transaction.set_row(Space::MEMBERS, MOVE_KEY, &begun.0.to_le_bytes());
            }
        }
        Some(SystemCommand::Nothing) => {}
        None => return Err("the command cannot be read".to_owned()),
    }
    transaction.commit();
    Ok(())
}

/// What a member has published: the level it knows and where clients reach it.
#[must_use]
pub fn published(reader: &Reader, member: NodeId) -> Option<(u32, Vec<String>)> {
    let row = reader.row(Space::MEMBERS, &row_key(member, b'p'))?;
    get_published(&mut &row[..])
}

/// The highest level that every member has said it knows; `None` if one has said nothing yet.
#[must_use]
pub fn level_of_all(reader: &Reader, membership: &Membership) -> Option<u32> {
    let known = |member: &NodeId| published(reader, *member).map(|(level, _)| level);
    let levels: Option<Vec<u32>> = membership.members.keys().map(known).collect();
    levels?.into_iter().min()
}

/// The newest move of its keyspace that the group has heard of, in its own log.
#[must_use]
pub fn followed_move(reader: &Reader) -> Option<TableEpoch> {
    read_move(reader.row(Space::MEMBERS, MOVE_KEY))
}

fn read_move(row: Option<Bytes>) -> Option<TableEpoch> {
    row?.try_get_u64_le().ok().map(TableEpoch)
}

/// In the row of a member that [`SystemCommand::GrowBy`] names.
const GROWS: u8 = 1;

/// Whether this member shall get its vote by itself, as soon as it can. To clients it has one.
#[must_use]
pub fn wishes_vote(reader: &Reader, member: NodeId) -> bool {
    let row = reader.row(Space::MEMBERS, &row_key(member, b'v'));
    row.is_some_and(|row| row.is_empty())
}

/// Whether this member shall get its vote by itself, where that is of use.
#[must_use]
pub fn grows_by(reader: &Reader, member: NodeId) -> bool {
    let row = reader.row(Space::MEMBERS, &row_key(member, b'v'));
    row.is_some_and(|row| row[..] == [GROWS])
}

/// Whether a folder has ever taken this member's place, or the member has run.
#[must_use]
pub fn has_joined(reader: &Reader, member: NodeId) -> bool {
    let row = |tag| reader.row(Space::MEMBERS, &row_key(member, tag));
    row(b'p').is_some() || row(b'c').is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_survives_and_no_part_of_one_does() {
        let commands = [
            SystemCommand::Publish {
                member: NodeId(1),
                level: 2,
                client_urls: vec!["http://a:1".into(), "http://b:2".into()],
            },
            SystemCommand::Claim {
                member: NodeId(1),
                claimant: NodeId(9),
            },
            SystemCommand::Nothing,
            SystemCommand::WishVote { member: NodeId(1) },
            SystemCommand::RaiseLevel { level: 3 },
            SystemCommand::ForgetWish { member: NodeId(1) },
            SystemCommand::GrowBy { name: "n1".into() },
            SystemCommand::FollowMove {
                begun: TableEpoch(9),
            },
        ];
        for command in commands {
            let bytes = command.encode();
            assert_eq!(SystemCommand::decode(&bytes), Some(command));
            for length in 0..bytes.len() {
                assert_eq!(SystemCommand::decode(&bytes[..length]), None);
            }
        }
    }
}
