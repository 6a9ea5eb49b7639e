//! Answers about users and roles, and who may have them.

use state::{Reader, Space};

use super::Requirement;
use super::gate::{self, CallerRef};
use super::request::{AuthContent, AuthRequest, AuthResponse, Credentials};
use super::rows::{self, Permissions, ROOT, UserRow, text};
use crate::budget::{ReadBudget, Stop};
use crate::error::Error;
use crate::proto::authpb::Permission;
use crate::request::header;
use crate::view::View;
use bytes::Bytes;

/// Everybody may ask for himself and for his own roles; only root for the others.
pub(super) fn check(
    reader: &Reader,
    caller: Option<CallerRef<'_>>,
    request: &AuthRequest,
) -> Result<(), Error> {
    let root = || gate::check(reader, caller, Requirement::Root);
    let caller = || caller.map_or("", |caller| caller.user);
    match request {
        AuthRequest::Status | AuthRequest::Credentials { .. } => Ok(()),
        AuthRequest::UserGet { name } if !name.is_empty() && caller() == name => Ok(()),
        AuthRequest::RoleGet { role } => {
            let own = || UserRow::of(reader, caller()).is_some_and(|user| user.has_role(role));
            root().or_else(|error| if own() { Ok(()) } else { Err(error) })
        }
        _ => root(),
    }
}

/// Answers a request that changes nothing.
pub(crate) fn read(
    reader: &Reader,
    request: &AuthRequest,
    budget: &mut ReadBudget,
) -> Result<AuthResponse, Stop> {
    let content = match request {
        AuthRequest::Status => AuthContent::Status(rows::status(reader)),
        AuthRequest::Credentials { user } => AuthContent::Credentials(credentials(reader, user)?),
        AuthRequest::UserGet { name } => {
            let user = UserRow::of(reader, name).ok_or(Error::UserNotFound)?;
            AuthContent::Names(user.roles().map(text).collect())
        }
        AuthRequest::UserList => names(reader, Space::USERS, budget)?,
        AuthRequest::RoleList => names(reader, Space::ROLES, budget)?,
        AuthRequest::RoleGet { role } => AuthContent::Permissions(permissions(reader, role)?),
        // Only `plan` makes reads, and it makes none of these.
        _ => {
            return Err(Error::Internal("quorate: a change was taken for a read").into());
        }
    };
    Ok(AuthResponse {
        header: header(View::revision(reader)),
        content,
    })
}

fn credentials(reader: &Reader, user: &str) -> Result<Credentials, Error> {
    let status = rows::status(reader);
    if !status.is_enabled {
        return Err(Error::AuthNotEnabled);
    }
    let user = UserRow::of(reader, user).map(|row| row.user());
    Ok(Credentials {
        revision: status.revision,
        generation: user.as_ref().map_or(0, |user| user.generation),
        password_hash: user
            .filter(|user| !user.no_password)
            .map(|user| user.hash.into()),
    })
}

fn names(reader: &Reader, space: Space, budget: &mut ReadBudget) -> Result<AuthContent, Stop> {
    let mut names = Vec::new();
    for (name, _) in reader.rows(space) {
        budget.charge(name.len())?;
        names.push(text(&name));
    }
    Ok(AuthContent::Names(names))
}

fn permissions(reader: &Reader, role: &str) -> Result<Vec<Permission>, Error> {
    let row = reader.row(Space::ROLES, role.as_bytes());
    let row = row.ok_or(Error::RoleNotFound)?;
    let permission = |kind: u8, key, range_end| Permission {
        perm_type: i32::from(kind),
        key,
        range_end,
    };
    if role == ROOT {
        let both = rows::Kind::Both.number();
        return Ok(vec![permission(
            both,
            Bytes::new(),
            Bytes::from_static(&[0]),
        )]);
    }
    let copy = Bytes::copy_from_slice;
    let permissions = Permissions::of(&row);
    let permissions = permissions
        .map(|each| permission(each.kind.number(), copy(each.key), copy(each.range_end)));
    Ok(permissions.collect())
}
