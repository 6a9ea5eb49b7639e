//! The gates of those who have asked lately, so that a command of theirs costs no look at any row.
//!
//! ```text
//!   state ── rows of users and roles still at the same address? ──▶ yes: the gate that is known
//!                                                          └──────▶ no: forget all, open anew
//! ```
//!
//! Opening a gate means four looks into trees and some memory, for each command, on every replica:
//! a fortieth of what a put costs. What was opened holds until something of users and roles is
//! written, which is seen by comparing addresses with the state at hand: these rows are shared, so
//! as long as they are kept no other rows can stand at their address. So what is found here never
//! differs from what the state says, and does not have to be told of anything.

use std::collections::BTreeMap;

use state::{LeaseId, Reader};

use super::access::Access;
use super::gate::{CallerRef, Gate, keys_of, known};
use super::{Caller, Status, rows};
use crate::error::Error;

/// As many users as are known at a time. Looking through so many names is cheaper than opening.
const USERS: usize = 16;

/// Gates of some users; empty at first. One for each replica.
#[derive(Debug)]
pub struct Gates {
    access: Access,
    status: Status,
    users: Vec<(Box<str>, Gate)>,
    /// Which of them has to go next.
    oldest: usize,
}

impl Default for Gates {
    fn default() -> Gates {
        Gates::of(Access::default())
    }
}

impl Gates {
    fn of(access: Access) -> Gates {
        Gates {
            status: rows::status(&access),
            access,
            users: Vec::new(),
            oldest: 0,
        }
    }

    /// As [`Gate::open`].
    ///
    /// # Errors
    /// As there.
    pub(super) fn open(
        &mut self,
        reader: &Reader,
        caller: Option<CallerRef<'_>>,
    ) -> Result<Option<&Gate>, Error> {
        self.follow(reader);
        match known(self.status, caller)? {
            Some(caller) => self.gate_of(caller.user).map(Some),
            None => Ok(None),
        }
    }

    /// Which of these leases somebody may not renew, by their places, and why: as in etcd, he must
    /// be allowed to write all of their keys. While authentication is off, this costs a look at
    /// whether it still is.
    ///
    /// # Errors
    /// Nobody has signed in.
    pub fn refused_renewals(
        &mut self,
        reader: &Reader,
        caller: Option<&Caller>,
        leases: &[LeaseId],
    ) -> Result<Vec<(usize, Error)>, Error> {
        self.follow(reader);
        if !self.status.is_enabled {
            return Ok(Vec::new());
        }
        let caller = caller.ok_or(Error::UserEmpty)?;
        let is_old = caller.revision < self.status.revision;
        // As in etcd, the revision matters to none who is root, and to no lease without keys.
        let gate = match self.gate_of(&caller.user) {
            Ok(Gate::Root) => return Ok(Vec::new()),
            _ if is_old => Err(Error::AuthOldRevision),
            gate => gate,
        };
        let refusal = |lease: LeaseId| match gate {
            Ok(gate) => gate.may_end(reader, lease.0).err(),
            Err(error) => keys_of(reader, lease).next().map(|_| error),
        };
        // A lease may have very many keys, and be renewed by very many messages at once.
        let mut known = BTreeMap::new();
        let leases = leases.iter().enumerate();
        let refused = leases.filter_map(|(place, lease)| {
            let refused = *known.entry(*lease).or_insert_with(|| refusal(*lease));
            Some((place, refused?))
        });
        Ok(refused.collect())
    }

    /// Whether somebody may attach keys to these leases, as far as their other keys go.
    ///
    /// # Errors
    /// As [`Gate::open`]; or he may not write one of those.
    pub fn check_leases(
        &mut self,
        reader: &Reader,
        caller: &Caller,
        leases: &[LeaseId],
    ) -> Result<(), Error> {
        match self.open(reader, Some(caller.borrowed()))? {
            Some(gate) => leases
                .iter()
                .try_for_each(|lease| gate.may_end(reader, lease.0)),
            None => Ok(()),
        }
    }

    /// Forgets what a state no longer says.
    fn follow(&mut self, reader: &Reader) {
        if !self.access.is_of(reader) {
            *self = Gates::of(Access::of(reader));
        }
    }

    fn gate_of(&mut self, user: &str) -> Result<&Gate, Error> {
        let is_his = |(name, _): &(Box<str>, Gate)| **name == *user;
        let index = match self.users.iter().position(is_his) {
            Some(index) => index,
            None => self.learn(user)?,
        };
        Ok(&self.users[index].1)
    }

    /// Opens a user's gate, and says where it stands.
    fn learn(&mut self, user: &str) -> Result<usize, Error> {
        let opened = (user.into(), Gate::of(&self.access, user)?);
        if self.users.len() < USERS {
            self.users.push(opened);
            return Ok(self.users.len() - 1);
        }
        let index = self.oldest;
        self.oldest = (index + 1) % USERS;
        self.users[index] = opened;
        Ok(index)
    }
}

#[cfg(test)]
mod tests;
