//! The groups of a node share one log; those that keep its oldest part take checkpoints.
//!
//! A few at a time, in turn: a thousand idle groups would otherwise write as many files at once,
//! and one that cannot take a checkpoint would keep the others from it.

use base::GroupId;

use super::Running;
use crate::group::Moment;
use crate::interface::Output;
use crate::peers::Peers;

impl Running {
    /// Has those groups take checkpoints that keep the log from being let go of: a few at a time,
    /// in turn.
    pub(super) fn free_log(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        if self.next_pinning > moment.now {
            return;
        }
        let mut pinning = match self.damaged_through(out) {
            Some(segment) => self.journal.pinning_through(segment),
            None => self.journal.pinning(self.config.limits.log_segments),
        };
        let is_taking = |id: &GroupId| {
            let opened = self.groups.get(id);
            opened.is_some_and(|opened| opened.group.is_taking_checkpoint())
        };
        let before = pinning.len();
        pinning.retain(|id| !is_taking(id));
        let under_way = before - pinning.len();
        let room = self.config.limits.pinning_checkpoints;
        // While more wait for their turn, it comes as soon as those under way have ended.
        let pause = match pinning.len() > room {
            true => self.config.limits.pinning_interval / 10,
            false => self.config.limits.pinning_interval,
        };
        self.next_pinning = moment.now + pause;
        let next = pinning.partition_point(|id| *id <= self.last_pinning);
        pinning.rotate_left(next);
        for id in pinning.into_iter().take(room.saturating_sub(under_way)) {
            self.last_pinning = id;
            self.with(id, out, |group, out| {
                group.let_go_of_log(moment, peers, out)
            });
        }
    }
}
