//! Users, roles and the status as rows.
//!
//! ```text
//! AUTHENTICATION  "status"     enabled:u8  revision:u64              absent: off, revision 1
//!                 "token-key"  what tokens are signed with, 32 bytes
//! USERS           name         version:u8 (1)  flags:u8  generation:u64  hash:bytes
//!                              roles:count  roles x bytes            ascending
//!                              flags: 1 never signs in by password
//! ROLES           name         version:u8 (1)  permissions:count  permissions x permission
//! permission = kind:u8  key:bytes  range_end:bytes                   ascending by key, then end
//!              kind: 0 read, 1 write, 2 both, as numbered by etcd
//! bytes      = length:u32, then so many bytes; count = u32; integers little-endian
//! ```
//!
//! A check reads rows in place, without taking them apart into something of its own: most calls
//! ask about one key, and the rows are as fast to walk as any copy would be.

use bytes::{Buf, BufMut, Bytes};
use state::{Reader, Space, Transaction};

use super::Status;
use crate::span::KeySpan;

/// The length of what tokens are signed with.
pub const TOKEN_KEY_BYTES: usize = 32;

/// The user, and the role, who may do everything.
pub(super) const ROOT: &str = "root";

/// The longest row of a user or role. Part of level 1: it decides what is refused.
pub(super) const ROW_BYTES_MAX: usize = 1 << 20;

const STATUS: &[u8] = b"status";
const TOKEN_KEY: &[u8] = b"token-key";
const VERSION: u8 = 1;
const NO_PASSWORD: u8 = 1;

/// Where rows are read from: a state at rest, under way, or shared.
pub(crate) trait AuthRows {
    /// The row of this key.
    fn row(&self, space: Space, key: &[u8]) -> Option<Bytes>;
}

impl AuthRows for Reader {
    fn row(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.row(space, key)
    }
}

impl AuthRows for Transaction<'_> {
    fn row(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.row(space, key)
    }
}

/// The status; off, at revision 1, if nothing was ever changed.
pub(super) fn status(rows: &impl AuthRows) -> Status {
    let row = rows.row(Space::AUTHENTICATION, STATUS);
    let read = |row: Bytes| {
        let mut row = &row[..];
        Some(Status {
            is_enabled: row.try_get_u8().ok()? != 0,
            revision: row.try_get_u64_le().ok()?,
        })
    };
    row.and_then(read).unwrap_or(Status {
        is_enabled: false,
        revision: 1,
    })
}

pub(super) fn set_status(transaction: &mut Transaction<'_>, status: Status) {
    let mut row = [0; 9];
    row[0] = u8::from(status.is_enabled);
    row[1..].copy_from_slice(&status.revision.to_le_bytes());
    transaction.set_row(Space::AUTHENTICATION, STATUS, &row);
}

/// What tokens are signed with, once authentication has been on.
pub(super) fn token_key(rows: &impl AuthRows) -> Option<[u8; TOKEN_KEY_BYTES]> {
    let row = rows.row(Space::AUTHENTICATION, TOKEN_KEY)?;
    row[..].try_into().ok()
}

/// Whether this row is what tokens are signed with: a restored cluster has one of its own.
#[must_use]
pub fn is_token_key(space: Space, key: &[u8]) -> bool {
    (space, key) == (Space::AUTHENTICATION, TOKEN_KEY)
}

pub(super) fn set_token_key(transaction: &mut Transaction<'_>, key: &[u8; TOKEN_KEY_BYTES]) {
    transaction.set_row(Space::AUTHENTICATION, TOKEN_KEY, key);
}

/// A user's row, taken apart only as far as needed. Rows are written by this module alone; should
/// one not be readable after all, it grants nothing.
#[derive(Clone)]
pub(crate) struct UserRow {
    row: Bytes,
}

/// What a user's row says before the roles.
struct UserHead<'a> {
    no_password: bool,
    generation: u64,
    hash: &'a [u8],
    roles: Names<'a>,
}

impl UserRow {
    pub(super) fn of(rows: &impl AuthRows, name: &str) -> Option<UserRow> {
        let row = rows.row(Space::USERS, name.as_bytes())?;
        Some(UserRow { row })
    }

    fn head(&self) -> Option<UserHead<'_>> {
        let mut row = &self.row[..];
        if row.try_get_u8().ok()? != VERSION {
            return None;
        }
        let flags = row.try_get_u8().ok()?;
        Some(UserHead {
            no_password: flags & NO_PASSWORD != 0,
            generation: row.try_get_u64_le().ok()?,
            hash: get_bytes(&mut row)?,
            roles: Names {
                left: row.try_get_u32_le().ok()?,
                bytes: row,
            },
        })
    }

    /// The names of the user's roles, ascending.
    pub(super) fn roles(&self) -> Names<'_> {
        self.head().map_or(
            Names {
                left: 0,
                bytes: &[],
            },
            |head| head.roles,
        )
    }

    pub(super) fn has_role(&self, role: &str) -> bool {
        self.roles().any(|each| each == role.as_bytes())
    }

    /// Which password of the user this is.
    pub(super) fn generation(&self) -> u64 {
        self.head().map_or(0, |head| head.generation)
    }

    /// The whole user.
    pub(super) fn user(&self) -> User {
        let head = self.head();
        let roles = self.roles().map(text).collect();
        User {
            no_password: head.as_ref().is_some_and(|head| head.no_password),
            generation: head.as_ref().map_or(0, |head| head.generation),
            hash: head.map_or_else(Vec::new, |head| head.hash.to_vec()),
            roles,
        }
    }
}

/// A user, to be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) no_password: bool,
    /// The revision of users and roles at which the password was set.
    pub(super) generation: u64,
    pub(super) hash: Vec<u8>,
    /// Ascending.
    pub(super) roles: Vec<String>,
}

impl User {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(128);
        row.put_u8(VERSION);
        row.put_u8(if self.no_password { NO_PASSWORD } else { 0 });
        row.put_u64_le(self.generation);
        put_bytes(&mut row, &self.hash);
        row.put_u32_le(self.roles.len() as u32);
        for role in &self.roles {
            put_bytes(&mut row, role.as_bytes());
        }
        row
    }
}

/// Names out of a row.
pub(super) struct Names<'a> {
    left: u32,
    bytes: &'a [u8],
}

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        get_bytes(&mut self.bytes)
    }
}

/// What may be done with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Both,
}

impl Kind {
    /// `None` for what etcd does not know.
    pub(crate) fn from_number(number: i32) -> Option<Kind> {
        match number {
            0 => Some(Kind::Read),
            1 => Some(Kind::Write),
            2 => Some(Kind::Both),
            _ => None,
        }
    }

    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// Whether it allows what is wanted, which is one of the two.
    pub(super) fn allows(self, wanted: Kind) -> bool {
        self == wanted || self == Kind::Both
    }
}

/// A permission within a row, or within a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PermissionRef<'a> {
    pub(crate) kind: Kind,
    pub(crate) key: &'a [u8],
    pub(crate) range_end: &'a [u8],
}

impl<'a> PermissionRef<'a> {
    /// The keys that it is about.
    pub(super) fn span(&self) -> KeySpan<'a> {
        KeySpan::new(self.key, self.range_end)
    }
}

/// The permissions in a role's row, in order.
pub(super) struct Permissions<'a> {
    left: u32,
    bytes: &'a [u8],
}

impl<'a> Permissions<'a> {
    pub(super) fn of(row: &'a [u8]) -> Permissions<'a> {
        let mut bytes = row;
        let is_known = bytes.try_get_u8() == Ok(VERSION);
        let left = bytes.try_get_u32_le().unwrap_or(0);
        Permissions {
            left: if is_known { left } else { 0 },
            bytes,
        }
    }
}

impl<'a> Iterator for Permissions<'a> {
    type Item = PermissionRef<'a>;

    fn next(&mut self) -> Option<PermissionRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(PermissionRef {
            kind: Kind::from_number(i32::from(self.bytes.try_get_u8().ok()?))?,
            key: get_bytes(&mut self.bytes)?,
            range_end: get_bytes(&mut self.bytes)?,
        })
    }
}

/// The row of a role with these permissions.
pub(super) fn encode_role(permissions: &[PermissionRef<'_>]) -> Vec<u8> {
    let mut row = Vec::with_capacity(64);
    row.put_u8(VERSION);
    row.put_u32_le(permissions.len() as u32);
    for permission in permissions {
        row.put_u8(permission.kind.number());
        put_bytes(&mut row, permission.key);
        put_bytes(&mut row, permission.range_end);
    }
    row
}

fn put_bytes(row: &mut Vec<u8>, bytes: &[u8]) {
    row.put_u32_le(bytes.len() as u32);
    row.put_slice(bytes);
}

fn get_bytes<'a>(row: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = row.try_get_u32_le().ok()? as usize;
    let (bytes, rest) = row.split_at_checked(length)?;
    *row = rest;
    Some(bytes)
}

/// A name as text, which it was when it came.
pub(super) fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_roles_survive_and_damaged_rows_grant_nothing() {
        let user = User {
            no_password: false,
            generation: 7,
            hash: b"$2b$10$x".to_vec(),
            roles: vec!["a".into(), "root".into()],
        };
        let row = UserRow {
            row: user.encode().into(),
        };
        assert_eq!(row.user(), user);
        assert!(row.has_role("root") && row.has_role("a") && !row.has_role("ro"));
        let whole = user.encode();
        for length in 0..whole.len() {
            let cut = UserRow {
                row: Bytes::copy_from_slice(&whole[..length]),
            };
            assert!(!cut.has_role("root"), "cut to {length} bytes");
        }

        let permissions = [
            PermissionRef {
                kind: Kind::Read,
                key: b"a",
                range_end: b"",
            },
            PermissionRef {
                kind: Kind::Both,
                key: b"b",
                range_end: b"c",
            },
        ];
        let row = encode_role(&permissions);
        assert!(Permissions::of(&row).eq(permissions));
        for length in 0..row.len() {
            assert!(Permissions::of(&row[..length]).count() < 2);
        }
    }
}
