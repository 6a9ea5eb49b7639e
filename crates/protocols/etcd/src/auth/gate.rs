//! Who may read, write or administer what.
//!
//! ```text
//!   role a   [k1 ─── k5)            read          wanted   [k2 ─────── k7)   read
//!   role b          [k4 ────── k9)  read, write            ── covered by a and b together ──▶ yes
//! ```
//!
//! A range is allowed if the permissions of all of the user's roles cover it together, without a
//! gap. Nearly always one permission covers it alone, which is looked for first and costs no
//! memory.

use std::collections::BTreeSet;

use bytes::Bytes;
use state::{LeaseId, Reader, Space};

use super::gates::Gates;
use super::rows::{self, AuthRows, Kind, Permissions, ROOT, UserRow};
use super::{Requirement, Status};
use crate::budget::{ReadBudget, Stop};
use crate::command::{Command, DeleteRange, Operation, Put, Txn};
use crate::error::Error;
use crate::request::Request;
use crate::span::KeySpan;

/// What the name of a role begins with that lets its users into a keyspace; the keyspace's name
/// follows.
const KEYSPACE_ROLE: &[u8] = b"keyspace:";

/// Who asks, within a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallerRef<'a> {
    pub(crate) user: &'a str,
    pub(crate) revision: u64,
}

/// What a user may do, while authentication is on.
#[derive(Debug)]
pub(crate) enum Gate {
    /// Everything.
    Root,
    /// What these rows of roles say.
    Roles(Vec<Bytes>),
}

impl Gate {
    /// The gate for somebody; `None` if authentication is off and all stand open.
    ///
    /// # Errors
    /// etcd's, in its order: nobody has signed in; what was found out is old; there is no such
    /// user.
    pub(crate) fn open(
        rows: &impl AuthRows,
        caller: Option<CallerRef<'_>>,
    ) -> Result<Option<Gate>, Error> {
        match known(rows::status(rows), caller)? {
            Some(caller) => Gate::of(rows, caller.user).map(Some),
            None => Ok(None),
        }
    }

    /// The gate for a user.
    ///
    /// # Errors
    /// There is none of this name.
    pub(super) fn of(rows: &impl AuthRows, user: &str) -> Result<Gate, Error> {
        let user = UserRow::of(rows, user).ok_or(Error::PermissionDenied)?;
        if user.has_role(ROOT) {
            return Ok(Gate::Root);
        }
        let roles = user.roles().filter_map(|role| rows.row(Space::ROLES, role));
        Ok(Gate::Roles(roles.collect()))
    }

    /// Whether these keys may be read.
    pub(crate) fn may_read(&self, span: &KeySpan<'_>) -> Result<(), Error> {
        self.permit(span, Kind::Read)
    }

    /// Whether these keys may be written and deleted.
    pub(crate) fn may_write(&self, span: &KeySpan<'_>) -> Result<(), Error> {
        self.permit(span, Kind::Write)
    }

    fn permit(&self, span: &KeySpan<'_>, wanted: Kind) -> Result<(), Error> {
        match self {
            Gate::Root => Ok(()),
            Gate::Roles(roles) if covers(roles, span, wanted) => Ok(()),
            Gate::Roles(_) => Err(Error::PermissionDenied),
        }
    }

    /// Whether all keys of a lease may be written: whoever attaches a key to it, renews or ends it,
    /// has the others in his hand.
    pub(super) fn may_end(&self, base: &Reader, lease: i64) -> Result<(), Error> {
        if matches!(self, Gate::Root) || lease == 0 {
            return Ok(());
        }
        let mut keys = keys_of(base, LeaseId(lease));
        keys.try_for_each(|key| self.may_write(&KeySpan::Single(key)))
    }

    /// `ended` holds the leases that have been found to be the caller's to end; each is looked at
    /// once, however many puts of a transaction name it.
    fn check_put(
        &self,
        base: &Reader,
        put: &Put<'_>,
        ended: &mut BTreeSet<i64>,
    ) -> Result<(), Error> {
        let span = KeySpan::Single(put.key);
        self.may_write(&span)?;
        // A set that stays empty takes no memory: most puts name no lease.
        if put.lease != 0 && !ended.contains(&put.lease) {
            self.may_end(base, put.lease)?;
            ended.insert(put.lease);
        }
        if put.previous {
            self.may_read(&span)?;
        }
        Ok(())
    }

    fn check_delete(&self, delete: &DeleteRange<'_>) -> Result<(), Error> {
        self.may_write(&delete.span)?;
        if delete.previous {
            self.may_read(&delete.span)?;
        }
        Ok(())
    }

    /// Both branches count, whichever is taken: what is refused must not tell how the comparisons
    /// came out.
    fn check_txn(
        &self,
        base: &Reader,
        txn: &Txn<'_>,
        ended: &mut BTreeSet<i64>,
    ) -> Result<(), Error> {
        if matches!(self, Gate::Root) {
            return Ok(());
        }
        for compare in &txn.compares {
            self.may_read(&compare.span)?;
        }
        for operation in txn.success.iter().chain(&txn.failure) {
            match operation {
                Operation::Range(range) => self.may_read(&range.span)?,
                Operation::Put(put) => self.check_put(base, put, ended)?,
                Operation::DeleteRange(delete) => self.check_delete(delete)?,
                Operation::Txn(nested) => self.check_txn(base, nested, ended)?,
            }
        }
        Ok(())
    }

    /// Whether all keys of a lease may be read, as far as the budget goes.
    fn may_see(
        &self,
        reader: &Reader,
        lease: LeaseId,
        budget: &mut ReadBudget,
    ) -> Result<(), Stop> {
        if matches!(self, Gate::Root) {
            return Ok(());
        }
        for key in keys_of(reader, lease) {
            budget.charge(key.len())?;
            self.may_read(&KeySpan::Single(key))?;
        }
        Ok(())
    }
}

/// Who asks, if that matters: `None` if authentication is off and all stand open.
///
/// # Errors
/// Nobody has signed in; what was found out is old.
pub(super) fn known(
    status: Status,
    caller: Option<CallerRef<'_>>,
) -> Result<Option<CallerRef<'_>>, Error> {
    if !status.is_enabled {
        return Ok(None);
    }
    let caller = caller.ok_or(Error::UserEmpty)?;
    if caller.revision < status.revision {
        return Err(Error::AuthOldRevision);
    }
    Ok(Some(caller))
}

pub(super) fn keys_of(reader: &Reader, lease: LeaseId) -> impl Iterator<Item = &Bytes> {
    let keys = reader.lease_keys(lease);
    keys.filter(|(space, _)| *space == Space::ETCD)
        .map(|(_, key)| key)
}

/// Checks a command against the state before it.
pub(crate) fn check_command(
    gates: &mut Gates,
    base: &Reader,
    caller: Option<CallerRef<'_>>,
    command: &Command<'_>,
) -> Result<(), Error> {
    if matches!(command, Command::Auth(_) | Command::Compact(_)) {
        return check(base, caller, Requirement::Root);
    }
    let Some(gate) = gates.open(base, caller)? else {
        return Ok(());
    };
    match command {
        Command::Put(put) => gate.check_put(base, put, &mut BTreeSet::new()),
        Command::DeleteRange(delete) => gate.check_delete(delete),
        Command::Txn(txn) => gate.check_txn(base, txn, &mut BTreeSet::new()),
        Command::Revoke(lease) => gate.may_end(base, *lease),
        // Whoever has signed in may have leases.
        Command::Grant(_) | Command::Auth(_) | Command::Compact(_) => Ok(()),
    }
}

/// Checks a read against the state that answers it.
pub(crate) fn check_read(
    reader: &Reader,
    caller: Option<CallerRef<'_>>,
    request: &Request,
    budget: &mut ReadBudget,
) -> Result<(), Stop> {
    if let Request::Auth(request) = request {
        return Ok(super::read::check(reader, caller, request)?);
    }
    let Some(gate) = Gate::open(reader, caller)? else {
        return Ok(());
    };
    match request {
        Request::Range(range) => gate.may_read(&KeySpan::new(&range.key, &range.range_end))?,
        Request::RangePiece(piece) => {
            let range = &piece.request;
            gate.may_read(&KeySpan::new(&range.key, &range.range_end))?;
        }
        Request::Txn(txn) => gate.check_txn(reader, &txn.into(), &mut BTreeSet::new())?,
        // How long a lease lives tells nothing of its keys.
        Request::LeaseTimeToLive(request) if request.keys => {
            gate.may_see(reader, LeaseId(request.id), budget)?;
        }
        Request::LeaseLeases => {
            for lease in reader.leases() {
                budget.charge(size_of::<LeaseId>())?;
                gate.may_see(reader, lease.id, budget)?;
            }
        }
        // Only `plan` makes reads, and it makes none of the others.
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_)
        | Request::Auth(_) => {}
    }
    Ok(())
}

/// Checks what is not about keys. As in etcd, an administrator's revision does not matter: the
/// rows of this moment alone decide.
pub(crate) fn check(
    rows: &impl AuthRows,
    caller: Option<CallerRef<'_>>,
    requirement: Requirement,
) -> Result<(), Error> {
    if requirement == Requirement::Nothing || !rows::status(rows).is_enabled {
        return Ok(());
    }
    let caller = caller.ok_or(Error::UserEmpty)?;
    let user = UserRow::of(rows, caller.user).ok_or(Error::UserNotFound)?;
    if requirement == Requirement::Root && !user.has_role(ROOT) {
        return Err(Error::PermissionDenied);
    }
    Ok(())
}

/// Checks that somebody may use a keyspace other than the default one: as a whole, since its keys
/// are not what the permissions of roles are about. Root may, and who has the role of its name.
pub(crate) fn check_keyspace(
    rows: &impl AuthRows,
    caller: Option<CallerRef<'_>>,
    keyspace: &str,
) -> Result<(), Error> {
    let Some(caller) = known(rows::status(rows), caller)? else {
        return Ok(());
    };
    let user = UserRow::of(rows, caller.user).ok_or(Error::PermissionDenied)?;
    let is_role = |role: &[u8]| role.strip_prefix(KEYSPACE_ROLE) == Some(keyspace.as_bytes());
    if user.has_role(ROOT) || user.roles().any(is_role) {
        return Ok(());
    }
    Err(Error::PermissionDenied)
}

/// Whether the permissions of these roles cover a span.
fn covers(roles: &[Bytes], span: &KeySpan<'_>, wanted: Kind) -> bool {
    let allowed = || {
        let permissions = roles.iter().flat_map(|row| Permissions::of(row));
        permissions
            .filter(|permission| permission.kind.allows(wanted))
            .map(|permission| permission.span())
    };
    // A range that holds no key is as harmless as its first key.
    let span = match span {
        KeySpan::Span(start, end) if start >= end => KeySpan::Single(start),
        span => *span,
    };
    if allowed().any(|each| contains(&each, &span)) {
        return true;
    }
    !matches!(span, KeySpan::Single(_)) && covers_together(allowed(), &span)
}

/// Whether all keys of `inner` lie in `outer`.
fn contains(outer: &KeySpan<'_>, inner: &KeySpan<'_>) -> bool {
    match (outer, inner) {
        (KeySpan::Single(outer), KeySpan::Single(inner)) => outer == inner,
        (KeySpan::Single(_), _) => false,
        (KeySpan::From(start), inner) => *start <= inner.start(),
        (KeySpan::Span(start, end), KeySpan::Single(key)) => start <= key && key < end,
        (KeySpan::Span(start, end), KeySpan::Span(from, to)) => start <= from && to <= end,
        (KeySpan::Span(..), KeySpan::From(_)) => false,
    }
}

/// Whether the spans leave no gap in `wanted`: walks them by their beginnings, and remembers up to
/// where everything is covered.
fn covers_together<'a>(spans: impl Iterator<Item = KeySpan<'a>>, wanted: &KeySpan<'_>) -> bool {
    let mut spans: Vec<KeySpan<'_>> = spans.filter(|span| !span.is_empty()).collect();
    spans.sort_unstable_by_key(KeySpan::start);
    let mut reached = wanted.start().to_vec();
    for span in spans {
        if span.start() > reached.as_slice() {
            break;
        }
        match span {
            KeySpan::From(_) => return true,
            KeySpan::Span(_, end) if end > reached.as_slice() => reached = end.to_vec(),
            KeySpan::Single(key) if key >= reached.as_slice() => {
                // The first key behind it.
                reached = [key, &[0]].concat();
            }
            KeySpan::Span(..) | KeySpan::Single(_) => {}
        }
    }
    matches!(wanted, KeySpan::Span(_, end) if *end <= reached.as_slice())
}

#[cfg(test)]
mod tests;
