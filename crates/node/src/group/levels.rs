//! The group's level: which rules its commands follow, and when that changes.
//!
//! ```text
//!  every member, at its start:  Publish(level that its build knows) ──▶ the replicated state
//!  leader, once a second:       all members know a newer one?  ──▶ RaiseLevel, an entry
//!  every replica:               old rules up to and with that entry, new ones behind it
//! ```
//!
//! What a command does may only depend on the state and the entry, never on the build that executes
//! it. So whatever changes what a command does gets a new level and keeps the old path, and a
//! cluster whose nodes are replaced one by one goes on by the old rules until the last of them
//! knows the new ones. Whoever does not know the group's level stops, before it executes anything
//! by rules that it does not know.

use std::time::Duration;

use base::Instant;

use super::Group;
use crate::calls::Waiter;
use crate::interface::{Halt, Output};
use crate::notes::Note;
use crate::system::{self, SystemCommand};

/// How often a leader looks whether the level can be raised.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The group's level, as far as this node has come with it.
#[derive(Debug)]
pub(super) struct Levels {
    /// The one that was seen last.
    seen: u32,
    next_look: Instant,
}

impl Levels {
    pub(super) fn new(level: u32, now: Instant) -> Levels {
        Levels {
            seen: level,
            next_look: now,
        }
    }
}

impl Group {
    /// On the leader: raises the level once every member has said that it knows a newer one.
    pub(super) fn raise_level(&mut self, now: Instant) {
        if !self.leads() || self.levels.next_look > now {
            return;
        }
        self.levels.next_look = now + LOOK_AGAIN;
        let reader = self.replica.reader();
        let known = system::level_of_all(reader, &self.membership);
        if let Some(level) = known.filter(|known| *known > reader.level()) {
            self.add_system_command(now, &SystemCommand::RaiseLevel { level }, Waiter::Nobody);
        }
    }

    /// Something was executed, or a checkpoint installed: whether this node may go on.
    pub(super) fn goes_on(&mut self, out: &mut Vec<Output>) -> bool {
        let level = self.replica.reader().level();
        if !self.replica.knows_level() {
            let reason = unknown(level, self.replica.level_max());
            out.push(Output::Halt(Halt::Refused(reason)));
            return false;
        }
        if std::mem::replace(&mut self.levels.seen, level) != level {
            out.push(Output::Note(Note::LevelRaised { level }));
        }
        true
    }
}

/// What an operator is told whose build is too old for its group.
pub(crate) fn unknown(level: u32, most: u32) -> String {
    format!(
        "the group's state has level {level}, and this version of Quorate knows levels up to \
         {most}: what the group does now it cannot do. Nothing has been changed. Start this node \
         with the version that the others run"
    )
}
