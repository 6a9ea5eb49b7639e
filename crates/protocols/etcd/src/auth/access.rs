//! What a node's threads keep of users and roles: enough to check tokens and watches without asking
//! the node.
//!
//! A node tells it anew whenever something of it has changed ([`crate::auth::status`] says so), and
//! always in front of the answers that follow. It shares the state's rows: telling costs nothing.

use bytes::Bytes;
use state::{Reader, SharedRows, Space};

use super::gate::{self, Gate};
use super::rows::{self, AuthRows, TOKEN_KEY_BYTES, UserRow};
use super::{Caller, Requirement, Status};
use crate::error::Error;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::span::KeySpan;

/// Users and roles as they were at some moment; cheap to clone, never changing.
#[derive(Clone, Debug, Default)]
pub struct Access {
    authentication: SharedRows,
    users: SharedRows,
    roles: SharedRows,
}

impl AuthRows for Access {
    fn row(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        match space {
            Space::AUTHENTICATION => self.authentication.get(key),
            Space::USERS => self.users.get(key),
            Space::ROLES => self.roles.get(key),
            _ => None,
        }
    }
}

impl Access {
    /// What a state says.
    #[must_use]
    pub fn of(reader: &Reader) -> Access {
        Access {
            authentication: reader.shared_rows(Space::AUTHENTICATION),
            users: reader.shared_rows(Space::USERS),
            roles: reader.shared_rows(Space::ROLES),
        }
    }

    /// Whether a state still says so: nothing of it was written to since.
    pub(super) fn is_of(&self, reader: &Reader) -> bool {
        self.authentication
            .are_those_of(reader, Space::AUTHENTICATION)
            && self.users.are_those_of(reader, Space::USERS)
            && self.roles.are_those_of(reader, Space::ROLES)
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> Status {
        rows::status(self)
    }

    /// What tokens are signed with, once authentication has been on.
    #[must_use]
    pub fn token_key(&self) -> Option<[u8; TOKEN_KEY_BYTES]> {
        rows::token_key(self)
    }

    /// Which password of a user is the present one; `None` if there is no such user.
    #[must_use]
    pub fn generation(&self, user: &str) -> Option<u64> {
        UserRow::of(self, user).map(|user| user.generation())
    }

    /// Whether somebody may watch what he asks for.
    ///
    /// # Errors
    /// etcd's: nobody has signed in, users and roles have changed, or reading is not permitted.
    pub fn check_watch(
        &self,
        caller: Option<&Caller>,
        request: &WatchCreateRequest,
    ) -> Result<(), Error> {
        let Some(gate) = Gate::open(self, caller.map(Caller::borrowed))? else {
            return Ok(());
        };
        // The smallest key there can be, as when the watch is opened.
        let key: &[u8] = match request.key.as_ref() {
            [] => &[0],
            key => key,
        };
        gate.may_read(&KeySpan::new(key, &request.range_end))
    }

    /// As [`crate::auth::check`], as far as this knows.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self, caller: Option<&Caller>, requirement: Requirement) -> Result<(), Error> {
        gate::check(self, caller.map(Caller::borrowed), requirement)
    }

    /// As [`crate::auth::check_keyspace`], as far as this knows.
    ///
    /// # Errors
    /// As there.
    pub fn check_keyspace(&self, caller: Option<&Caller>, keyspace: &str) -> Result<(), Error> {
        gate::check_keyspace(self, caller.map(Caller::borrowed), keyspace)
    }
}
