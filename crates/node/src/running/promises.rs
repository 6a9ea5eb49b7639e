//! How far the promises of this node may go is written down outside its journal.
//!
//! ```text
//!   identity file:  epochs = 1048576             every vote and promise of this node, in whichever
//!                                                group, is of an earlier epoch
//!   a write of a later one ──▶ held back ──▶ identity file rewritten ──▶ given to the journal
//! ```
//!
//! A journal that is lost takes votes with it. A replica that comes back without them goes on in
//! the first epoch in which it cannot have promised anything. The bound stands far ahead of where
//! the groups are and is moved long before it is reached, so that nothing ever waits for it but the
//! first write after a loss.

use base::{Epoch, GroupId};

use super::Running;
use crate::group::META;
use crate::group::journaling::ToJournal;
use crate::interface::{Identity, Output};
use crate::notes::Note;

/// What the identity file says of this node's promises, and what it should say.
pub(super) struct Promises {
    /// Nothing was promised in this epoch, nor in a later one.
    pub(super) epochs: Epoch,
    /// What `epochs` is to become.
    wanted: Epoch,
    /// What was promised in groups that the journal does not know may be lost.
    pub(super) is_doubtful: bool,
    /// Groups whose writes wait for `epochs` to grow.
    waiting: Vec<GroupId>,
}

impl Promises {
    pub(super) fn new(epochs: Epoch, is_doubtful: bool) -> Promises {
        Promises {
            epochs,
            wanted: epochs,
            is_doubtful,
            waiting: Vec::new(),
        }
    }

    /// Whether a write of a group has to wait; asks for what it waits for, `ahead` of it.
    pub(super) fn holds(&mut self, id: GroupId, work: &ToJournal, ahead: u64) -> bool {
        let ToJournal::Write { records, .. } = work else {
            return false;
        };
        let epochs = records.iter().filter_map(|record| match record {
            consensus::Record::HardState(promised) => Some(promised.epoch),
            _ => None,
        });
        let Some(last) = epochs.max() else {
            return false;
        };
        if last.0.saturating_add(ahead / 2) >= self.epochs.0 {
            let wanted = Epoch(last.0.saturating_add(ahead));
            self.wanted = self.wanted.max(wanted);
        }
        let holds = last >= self.epochs;
        if holds && !self.waiting.contains(&id) {
            self.waiting.push(id);
        }
        holds
    }
}

impl Running {
    /// What the identity file is to say of this node's promises, if that is not what it says: the
    /// first epoch in which nothing is promised, and whether promises may be lost.
    #[must_use]
    pub fn promises_to_remember(&self) -> Option<(Epoch, bool)> {
        let promises = &self.promises;
        let is_doubtful = promises.is_doubtful && !self.knows_all_groups();
        let differs = promises.wanted > promises.epochs || is_doubtful != promises.is_doubtful;
        differs.then_some((promises.wanted, is_doubtful))
    }

    /// Whether promises may be lost of which the journal knows nothing.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.promises.is_doubtful
    }

    /// Whether others have votes in the first group. While nothing is known of it, they have.
    #[must_use]
    pub fn has_others(&self) -> bool {
        let meta = self.meta();
        let (_, in_force) = meta.engine().membership_in_force();
        let mut voters = in_force.all_voters();
        let mut before = meta.replica().membership().all_voters();
        let is_other = |voter| voter != self.own;
        // Who has nobody else does not start in doubt; what it has left of the log may be older.
        meta.is_in_doubt() || voters.any(is_other) || before.any(is_other)
    }

    /// The identity file says so now.
    pub fn promises_remembered(&mut self, identity: &Identity) {
        let promises = &mut self.promises;
        promises.epochs = identity.epochs;
        promises.is_doubtful = identity.is_doubtful;
        for id in std::mem::take(&mut promises.waiting) {
            self.wake(id);
        }
    }

    /// Whether the journal knows all groups that this node may have promised anything in: the table
    /// of keyspaces is as new as the loss, and all that it names are opened and written down.
    fn knows_all_groups(&self) -> bool {
        let meta = self.meta();
        let is_written = |id: &GroupId| {
            let opened = self.groups.get(id);
            opened.is_some_and(|opened| opened.group.has_durable_writes())
        };
        self.is_table_current && !meta.is_in_doubt() && self.groups.keys().all(is_written)
    }

    /// Lets go of a damaged journal once no group can need it.
    pub(super) fn forget_damaged_journal(&mut self, out: &mut Vec<Output>) {
        if self.promises.is_doubtful || !self.journal.has_set_aside() {
            return;
        }
        if self
            .groups
            .values()
            .any(|opened| opened.group.is_in_doubt())
        {
            return;
        }
        let mut requests = Vec::new();
        self.journal.forget_set_aside(&mut requests);
        out.extend(requests.into_iter().map(Output::Disk));
        if !self.journal.has_set_aside() {
            out.push(Output::Note(Note::Repaired.of(META)));
        }
    }
}
