//! What can be asked about users and roles, and the answers.
//!
//! These are not etcd's messages: passwords have become hashes by the time a request comes here,
//! and what a new token key is made of has been drawn, because executing must not do either.

use bytes::Bytes;

use super::rows::TOKEN_KEY_BYTES;
use crate::proto::authpb::Permission;
use crate::proto::etcdserverpb::ResponseHeader;

/// A request about users and roles.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthRequest {
    /// Whether authentication is on. Anybody may know.
    Status,
    /// Turn authentication on.
    Enable {
        /// What tokens are signed with from now on: random bytes, chosen by whoever proposes this.
        token_key: [u8; TOKEN_KEY_BYTES],
    },
    /// Turn authentication off.
    Disable,
    /// What is needed to check a password. For the node itself, never for a client.
    Credentials {
        /// Whose.
        user: String,
    },
    /// Add a user.
    UserAdd {
        /// The name.
        name: String,
        /// The hash of the password; `None` for a user who never signs in by password.
        password_hash: Option<Bytes>,
    },
    /// Tell a user's roles.
    UserGet {
        /// Which user.
        name: String,
    },
    /// Name all users.
    UserList,
    /// Remove a user.
    UserDelete {
        /// Which user.
        name: String,
    },
    /// Change a user's password.
    UserChangePassword {
        /// Which user.
        name: String,
        /// The hash of the new password.
        password_hash: Bytes,
    },
    /// Give a user a role.
    UserGrantRole {
        /// Which user.
        user: String,
        /// Which role.
        role: String,
    },
    /// Take a role from a user.
    UserRevokeRole {
        /// Which user.
        user: String,
        /// Which role.
        role: String,
    },
    /// Add a role.
    RoleAdd {
        /// Its name.
        name: String,
    },
    /// Tell a role's permissions.
    RoleGet {
        /// Which role.
        role: String,
    },
    /// Name all roles.
    RoleList,
    /// Remove a role, and take it from all users.
    RoleDelete {
        /// Which role.
        role: String,
    },
    /// Give a role a permission.
    RoleGrantPermission {
        /// Which role.
        role: String,
        /// Which permission; `None` is refused, in etcd's words.
        permission: Option<Permission>,
    },
    /// Take a permission from a role.
    RoleRevokePermission {
        /// Which role.
        role: String,
        /// The first key of the permission.
        key: Bytes,
        /// Where its range ends.
        range_end: Bytes,
    },
}

/// The answer to an [`AuthRequest`].
#[derive(Clone, Debug, PartialEq)]
pub struct AuthResponse {
    /// The header.
    pub header: Option<ResponseHeader>,
    /// What was asked for.
    pub content: AuthContent,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthContent {
    /// It is done.
    Done,
    /// To [`AuthRequest::Status`].
    Status(super::Status),
    /// Users or roles, in the order of their names.
    Names(Vec<String>),
    /// A role's permissions, in the order of their keys.
    Permissions(Vec<Permission>),
    /// To [`AuthRequest::Credentials`].
    Credentials(Credentials),
}

/// What is needed to check a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// What the password must hash to; `None` for a user who does not exist or never signs in by
    /// password, which nobody is told apart.
    pub password_hash: Option<Bytes>,
    /// The revision of users and roles that this is from.
    pub revision: u64,
    /// Which password of the user this is: another one has a greater number.
    pub generation: u64,
}

impl std::fmt::Debug for Credentials {
    /// Hashes stay out of logs.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("revision", &self.revision)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
