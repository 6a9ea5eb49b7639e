//! Users, roles and permissions: etcd's authentication, as part of the replicated state.
//!
//! ```text
//!   password ──(server: bcrypt, elsewhere)──▶ hash ──▶ Change ──▶ the log ──▶ rows of three spaces
//!   token    ──(server: checks, caches)─────▶ Caller ─┬─ in the record of a command ──▶ Gate
//!                                                     ├─ beside a read ───────────────▶ Gate
//!                                                     └─ beside a watch ──▶ Access ───▶ Gate
//! ```
//!
//! Users, roles, the switch and the revision of all that are rows, so checkpoints, digests and
//! restores cover them, and etcd's ranges, watches and hashes do not see them. What may be done is
//! decided where it is done: for a command by every replica, from the state just before it; for a
//! read by the state that answers; for a watch by the newest state that its node has told of.
//!
//! A command carries who asks and at which revision of users and roles that was found out. If that
//! revision has moved since, the command is refused ([`Error::AuthOldRevision`]) rather than judged
//! by rules that its caller was not known under; clients sign in again and repeat it.
//!
//! - [`request`]: what can be asked, and the answers. `change`: records of what is changed, and how
//!   they execute. `read`: answers.
//! - `rows`: users and roles as bytes. `gate`: who may read, write or administer what.
//! - [`gates`]: gates that were opened a moment ago, for the commands that follow.
//! - [`access`]: what a node's threads keep of all this, to check tokens and watches.
//!
//! Passwords and tokens never come here: hashing is slow on purpose and must not hold up a replica,
//! and what a token is differs from node to node.

pub mod access;
pub(crate) mod change;
pub(crate) mod gate;
pub(crate) mod gates;
pub(crate) mod read;
pub mod request;
mod rows;

use state::Reader;

use crate::error::Error;
use gate::CallerRef;

pub use access::Access;
pub use gates::Gates;
pub use request::{AuthContent, AuthRequest, AuthResponse, Credentials};
pub use rows::{TOKEN_KEY_BYTES, is_token_key};

/// Who asks, as far as a token or a certificate has shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The user's name, never empty.
    pub user: String,
    /// The revision of users and roles at which this was found out, never 0.
    pub revision: u64,
}

impl Caller {
    pub(crate) fn borrowed(&self) -> CallerRef<'_> {
        CallerRef {
            user: &self.user,
            revision: self.revision,
        }
    }
}

/// Whether users have to sign in, and how often users and roles have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Only users who have signed in are served.
    pub is_enabled: bool,
    /// Grows with every change of users, roles and permissions; 1 at first.
    pub revision: u64,
}

/// The status in a state.
#[must_use]
pub fn status(reader: &Reader) -> Status {
    rows::status(reader)
}

/// What a call needs that is about the node or the cluster, not about keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing, or it is checked where it is executed.
    Nothing,
    /// Somebody who has signed in.
    User,
    /// Somebody with the role root.
    Root,
}

/// Checks what a call needs; while authentication is off, nothing is needed.
///
/// # Errors
/// etcd's: nobody has signed in, the user does not exist any more, or may not do this.
pub fn check(
    reader: &Reader,
    caller: Option<&Caller>,
    requirement: Requirement,
) -> Result<(), Error> {
    gate::check(reader, caller.map(Caller::borrowed), requirement)
}

/// Checks that somebody may use a keyspace other than the default one, by the users and roles of
/// the cluster: root, and whoever has the role `keyspace:NAME`, may do everything in it that etcd
/// does not keep for root. While authentication is off, everybody may.
///
/// # Errors
/// etcd's: nobody has signed in, users and roles have changed since, or he may not.
pub fn check_keyspace(
    reader: &Reader,
    caller: Option<&Caller>,
    keyspace: &str,
) -> Result<(), Error> {
    gate::check_keyspace(reader, caller.map(Caller::borrowed), keyspace)
}
