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

use state::Reader;

use super::access::Access;
use super::gate::{CallerRef, Gate, known};
use super::{Status, rows};
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
        if !self.access.is_of(reader) {
            *self = Gates::of(Access::of(reader));
        }
        let Some(caller) = known(self.status, caller)? else {
            return Ok(None);
        };
        let is_callers = |(user, _): &(Box<str>, Gate)| **user == *caller.user;
        let index = match self.users.iter().position(is_callers) {
            Some(index) => index,
            None => self.learn(caller.user)?,
        };
        Ok(Some(&self.users[index].1))
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
