//! What changes users and roles: records, and how they execute.
//!
//! ```text
//! change = what:u8  fields                       the kind-8 record's body (see command/codec.rs)
//!
//!  1 enable               token_key:bytes (32)
//!  2 disable
//!  3 add user             name:bytes  password:u8 (0 none, 1 hash:bytes follows)
//!  4 delete user          name:bytes
//!  5 change password      name:bytes  hash:bytes
//!  6 grant role           user:bytes  role:bytes
//!  7 revoke role          user:bytes  role:bytes
//!  8 add role             name:bytes
//!  9 delete role          name:bytes
//! 10 grant permission     role:bytes  kind:u8  key:bytes  range_end:bytes
//! 11 revoke permission    role:bytes  key:bytes  range_end:bytes
//! ```
//!
//! Every change that changes something moves the revision of users and roles by one, as in etcd;
//! turning authentication on does not.

use bytes::Bytes;
use state::{Space, Transaction};

use super::Status;
use super::request::{AuthContent, AuthRequest, AuthResponse};
use super::rows::{
    self, Kind, PermissionRef, Permissions, ROOT, ROW_BYTES_MAX, TOKEN_KEY_BYTES, User, UserRow,
    encode_role, text,
};
use crate::command::codec::{Damage, Reader, Writer};
use crate::error::Error;
use crate::request::header;
use crate::span::KeySpan;
use crate::view::View;

/// A change, borrowed from a request or a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change<'a> {
    Enable {
        token_key: &'a [u8; TOKEN_KEY_BYTES],
    },
    Disable,
    UserAdd {
        name: &'a str,
        hash: Option<&'a [u8]>,
    },
    UserDelete(&'a str),
    Password {
        name: &'a str,
        hash: &'a [u8],
    },
    GrantRole {
        user: &'a str,
        role: &'a str,
    },
    RevokeRole {
        user: &'a str,
        role: &'a str,
    },
    RoleAdd(&'a str),
    RoleDelete(&'a str),
    Grant {
        role: &'a str,
        permission: PermissionRef<'a>,
    },
    Revoke {
        role: &'a str,
        key: &'a [u8],
        range_end: &'a [u8],
    },
}

/// What a request about users and roles comes to.
pub(crate) enum Planned<'a> {
    /// Propose this.
    Change(Change<'a>),
    /// Read; the request changes nothing.
    Read,
}

/// Checks a request, as far as that can be done without the state.
pub(crate) fn plan(request: &AuthRequest) -> Result<Planned<'_>, Error> {
    let change = match request {
        AuthRequest::Status
        | AuthRequest::Credentials { .. }
        | AuthRequest::UserGet { .. }
        | AuthRequest::UserList
        | AuthRequest::RoleGet { .. }
        | AuthRequest::RoleList => return Ok(Planned::Read),
        AuthRequest::Enable { token_key } => Change::Enable { token_key },
        AuthRequest::Disable => Change::Disable,
        AuthRequest::UserAdd { name, .. } if name.is_empty() => return Err(Error::UserEmpty),
        AuthRequest::UserAdd {
            name,
            password_hash,
        } => Change::UserAdd {
            name,
            hash: password_hash.as_deref(),
        },
        AuthRequest::UserDelete { name } => Change::UserDelete(name),
        AuthRequest::UserChangePassword {
            name,
            password_hash,
        } => Change::Password {
            name,
            hash: password_hash,
        },
        AuthRequest::UserGrantRole { user, role } => Change::GrantRole { user, role },
        AuthRequest::UserRevokeRole { user, role } => Change::RevokeRole { user, role },
        AuthRequest::RoleAdd { name } if name.is_empty() => return Err(Error::RoleEmpty),
        AuthRequest::RoleAdd { name } => Change::RoleAdd(name),
        AuthRequest::RoleDelete { role } => Change::RoleDelete(role),
        AuthRequest::RoleGrantPermission { role, permission } => {
            let given = permission.as_ref().ok_or(Error::PermissionNotGiven)?;
            let span = KeySpan::new(&given.key, &given.range_end);
            let kind = Kind::from_number(given.perm_type).filter(|_| !given.key.is_empty());
            let kind = kind.filter(|_| !span.is_empty());
            Change::Grant {
                role,
                permission: PermissionRef {
                    kind: kind.ok_or(Error::InvalidAuthManagement)?,
                    key: &given.key,
                    range_end: &given.range_end,
                },
            }
        }
        AuthRequest::RoleRevokePermission {
            role,
            key,
            range_end,
        } => Change::Revoke {
            role,
            key,
            range_end,
        },
    };
    Ok(Planned::Change(change))
}

impl<'a> Change<'a> {
    pub(crate) fn write(&self, out: &mut Writer) {
        match *self {
            Change::Enable { token_key } => {
                out.byte(1);
                out.bytes(token_key);
            }
            Change::Disable => out.byte(2),
            Change::UserAdd { name, hash } => {
                out.byte(3);
                out.bytes(name.as_bytes());
                out.byte(u8::from(hash.is_some()));
                if let Some(hash) = hash {
                    out.bytes(hash);
                }
            }
            Change::UserDelete(name) => write_names(out, 4, &[name]),
            Change::Password { name, hash } => {
                write_names(out, 5, &[name]);
                out.bytes(hash);
            }
            Change::GrantRole { user, role } => write_names(out, 6, &[user, role]),
            Change::RevokeRole { user, role } => write_names(out, 7, &[user, role]),
            Change::RoleAdd(name) => write_names(out, 8, &[name]),
            Change::RoleDelete(name) => write_names(out, 9, &[name]),
            Change::Grant { role, permission } => {
                write_names(out, 10, &[role]);
                out.byte(permission.kind.number());
                out.bytes(permission.key);
                out.bytes(permission.range_end);
            }
            Change::Revoke {
                role,
                key,
                range_end,
            } => {
                write_names(out, 11, &[role]);
                out.bytes(key);
                out.bytes(range_end);
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Change<'a>, Damage> {
        Ok(match reader.byte()? {
            1 => Change::Enable {
                token_key: reader.bytes()?.try_into().map_err(|_| Damage::Malformed)?,
            },
            2 => Change::Disable,
            3 => Change::UserAdd {
                name: reader.text()?,
                hash: match reader.byte()? {
                    0 => None,
                    1 => Some(reader.bytes()?),
                    _ => return Err(Damage::Malformed),
                },
            },
            4 => Change::UserDelete(reader.text()?),
            5 => Change::Password {
                name: reader.text()?,
                hash: reader.bytes()?,
            },
            6 => Change::GrantRole {
                user: reader.text()?,
                role: reader.text()?,
            },
            7 => Change::RevokeRole {
                user: reader.text()?,
                role: reader.text()?,
            },
            8 => Change::RoleAdd(reader.text()?),
            9 => Change::RoleDelete(reader.text()?),
            10 => Change::Grant {
                role: reader.text()?,
                permission: PermissionRef {
                    kind: Kind::from_number(i32::from(reader.byte()?)).ok_or(Damage::Malformed)?,
                    key: reader.bytes()?,
                    range_end: reader.bytes()?,
                },
            },
            11 => Change::Revoke {
                role: reader.text()?,
                key: reader.bytes()?,
                range_end: reader.bytes()?,
            },
            _ => return Err(Damage::Malformed),
        })
    }
}

fn write_names(out: &mut Writer, what: u8, names: &[&str]) {
    out.byte(what);
    names.iter().for_each(|name| out.bytes(name.as_bytes()));
}

/// Executes a change that the caller may make.
pub(crate) fn execute(
    transaction: &mut Transaction<'_>,
    change: &Change<'_>,
) -> Result<AuthResponse, Error> {
    let mut status = rows::status(transaction);
    if apply(transaction, &mut status, change)? {
        rows::set_status(transaction, status);
    }
    Ok(AuthResponse {
        header: header(View::revision(transaction)),
        content: AuthContent::Done,
    })
}

/// Says whether anything was changed; `status` is what it is then.
fn apply(
    transaction: &mut Transaction<'_>,
    status: &mut Status,
    change: &Change<'_>,
) -> Result<bool, Error> {
    let next = Status {
        revision: status.revision + 1,
        ..*status
    };
    match *change {
        Change::Enable { token_key } => {
            if status.is_enabled {
                return Ok(false);
            }
            let root = UserRow::of(transaction, ROOT).ok_or(Error::RootUserMissing)?;
            if !root.has_role(ROOT) {
                return Err(Error::RootRoleMissing);
            }
            rows::set_token_key(transaction, token_key);
            status.is_enabled = true;
            return Ok(true);
        }
        Change::Disable => {
            if !status.is_enabled {
                return Ok(false);
            }
            *status = Status {
                is_enabled: false,
                ..next
            };
            return Ok(true);
        }
        Change::UserAdd { name, hash } => add_user(transaction, name, hash, next.revision)?,
        Change::UserDelete(name) => {
            if status.is_enabled && name == ROOT {
                return Err(Error::InvalidAuthManagement);
            }
            UserRow::of(transaction, name).ok_or(Error::UserNotFound)?;
            transaction.delete_row(Space::USERS, name.as_bytes());
        }
        Change::Password { name, hash } => {
            let mut user = user(transaction, name)?;
            if !user.no_password {
                user.hash = hash.to_vec();
            }
            user.generation = next.revision;
            set_user(transaction, name, &user)?;
        }
        Change::GrantRole { user, role } => {
            if !grant_role(transaction, user, role)? {
                return Ok(false);
            }
        }
        Change::RevokeRole { user: name, role } => {
            if status.is_enabled && name == ROOT && role == ROOT {
                return Err(Error::InvalidAuthManagement);
            }
            let mut user = user(transaction, name)?;
            let place = user.roles.binary_search_by(|each| each.as_str().cmp(role));
            user.roles.remove(place.map_err(|_| Error::RoleNotGranted)?);
            set_user(transaction, name, &user)?;
        }
        Change::RoleAdd(name) => {
            if transaction.row(Space::ROLES, name.as_bytes()).is_some() {
                return Err(Error::RoleExists);
            }
            set_role(transaction, name, &[])?;
        }
        Change::RoleDelete(name) => {
            if status.is_enabled && name == ROOT {
                return Err(Error::InvalidAuthManagement);
            }
            delete_role(transaction, name)?;
        }
        Change::Grant { role, permission } => grant(transaction, role, permission)?,
        Change::Revoke {
            role,
            key,
            range_end,
        } => revoke(transaction, role, key, range_end)?,
    }
    *status = next;
    Ok(true)
}

fn add_user(
    transaction: &mut Transaction<'_>,
    name: &str,
    hash: Option<&[u8]>,
    generation: u64,
) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::UserEmpty);
    }
    if UserRow::of(transaction, name).is_some() {
        return Err(Error::UserExists);
    }
    let user = User {
        no_password: hash.is_none(),
        generation,
        hash: hash.map_or_else(Vec::new, <[u8]>::to_vec),
        roles: Vec::new(),
    };
    set_user(transaction, name, &user)
}

/// Whether the user did not have the role before.
fn grant_role(transaction: &mut Transaction<'_>, name: &str, role: &str) -> Result<bool, Error> {
    let mut user = user(transaction, name)?;
    // Root's role need not exist: what it may do is known.
    if role != ROOT && transaction.row(Space::ROLES, role.as_bytes()).is_none() {
        return Err(Error::RoleNotFound);
    }
    match user.roles.binary_search_by(|each| each.as_str().cmp(role)) {
        Ok(_) => Ok(false),
        Err(place) => {
            user.roles.insert(place, role.to_owned());
            set_user(transaction, name, &user)?;
            Ok(true)
        }
    }
}

fn delete_role(transaction: &mut Transaction<'_>, role: &str) -> Result<(), Error> {
    if transaction.row(Space::ROLES, role.as_bytes()).is_none() {
        return Err(Error::RoleNotFound);
    }
    transaction.delete_row(Space::ROLES, role.as_bytes());
    let names: Vec<Bytes> = transaction
        .rows(Space::USERS)
        .map(|(name, _)| name)
        .collect();
    for name in names {
        let name = text(&name);
        let Some(row) = UserRow::of(transaction, &name).filter(|row| row.has_role(role)) else {
            continue;
        };
        let mut user = row.user();
        user.roles.retain(|each| each != role);
        set_user(transaction, &name, &user)?;
    }
    Ok(())
}

/// The same range again only changes the kind.
fn grant(
    transaction: &mut Transaction<'_>,
    role: &str,
    permission: PermissionRef<'_>,
) -> Result<(), Error> {
    let row = transaction.row(Space::ROLES, role.as_bytes());
    let row = row.ok_or(Error::RoleNotFound)?;
    let mut permissions: Vec<PermissionRef<'_>> = Permissions::of(&row).collect();
    let place = permissions.binary_search_by_key(&(permission.key, permission.range_end), |each| {
        (each.key, each.range_end)
    });
    match place {
        Ok(place) => permissions[place].kind = permission.kind,
        Err(place) => permissions.insert(place, permission),
    }
    set_role(transaction, role, &permissions)
}

fn revoke(
    transaction: &mut Transaction<'_>,
    role: &str,
    key: &[u8],
    range_end: &[u8],
) -> Result<(), Error> {
    let row = transaction.row(Space::ROLES, role.as_bytes());
    let row = row.ok_or(Error::RoleNotFound)?;
    let mut permissions: Vec<PermissionRef<'_>> = Permissions::of(&row).collect();
    let before = permissions.len();
    permissions.retain(|each| (each.key, each.range_end) != (key, range_end));
    if permissions.len() == before {
        return Err(Error::PermissionNotGranted);
    }
    set_role(transaction, role, &permissions)
}

fn user(transaction: &Transaction<'_>, name: &str) -> Result<User, Error> {
    let row = UserRow::of(transaction, name).ok_or(Error::UserNotFound)?;
    Ok(row.user())
}

fn set_user(transaction: &mut Transaction<'_>, name: &str, user: &User) -> Result<(), Error> {
    set_row(transaction, Space::USERS, name, &user.encode())
}

fn set_role(
    transaction: &mut Transaction<'_>,
    name: &str,
    permissions: &[PermissionRef<'_>],
) -> Result<(), Error> {
    set_row(transaction, Space::ROLES, name, &encode_role(permissions))
}

/// Rows are bounded: every call of a user walks them.
fn set_row(
    transaction: &mut Transaction<'_>,
    space: Space,
    name: &str,
    row: &[u8],
) -> Result<(), Error> {
    if name.len() + row.len() > ROW_BYTES_MAX {
        return Err(Error::RequestTooLarge);
    }
    transaction.set_row(space, name.as_bytes(), row);
    Ok(())
}
