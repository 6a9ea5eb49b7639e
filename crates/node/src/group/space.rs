//! What a leader does so that space does not run out: the quota as its operator wants it, alarms
//! that end, history that is let go of by time or by number of revisions.
//!
//! ```text
//!   settings that differ from the group's ──▶ Settings command
//!   NOSPACE, and there is room again ───────▶ Room command       (execution looks once more)
//!   history older than it is kept ──────────▶ Compact command, as a client would send it
//! ```
//!
//! Every node notes which revision there was when, so that a new leader need not begin anew; only
//! the leader acts, and only by commands.

use std::collections::VecDeque;
use std::time::Duration;

use base::Instant;
use etcd::maintenance::alarm;
use etcd::maintenance::command::{self, MaintenanceCommand, SpaceSettings};

use super::Group;
use crate::calls::{Admittance, Waiter};
use crate::interface::Output;
use crate::system::SystemCommand;

/// How much history is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retention {
    /// All, until a client compacts it.
    #[default]
    All,
    /// What was written in the last so long.
    Time(Duration),
    /// So many revisions.
    Revisions(i64),
}

/// What an operator wants of the space.
#[derive(Clone, Copy, Debug)]
pub struct SpaceLimits {
    /// How many bytes may be held; `None`: what the group has agreed on.
    pub quota_bytes: Option<u64>,
    /// Whether a NOSPACE alarm ends by itself once there is room; `None`: as the group has agreed.
    pub alarm_ends_by_itself: Option<bool>,
    /// How much history is kept.
    pub retention: Retention,
    /// The longest time between two compactions by time.
    pub compact_every_max: Duration,
    /// The time between two compactions by revisions.
    pub compact_revisions_every: Duration,
    /// How many moments are noted in the time between two compactions.
    pub moments_per_compaction: u32,
    /// The time between two looks at alarms and settings.
    pub look_interval: Duration,
}

impl Default for SpaceLimits {
    fn default() -> SpaceLimits {
        SpaceLimits {
            quota_bytes: None,
            alarm_ends_by_itself: None,
            retention: Retention::All,
            compact_every_max: Duration::from_secs(3600),
            compact_revisions_every: Duration::from_secs(300),
            moments_per_compaction: 10,
            look_interval: Duration::from_secs(1),
        }
    }
}

/// Which revision there was when, and what is due.
#[derive(Debug)]
pub(super) struct SpaceKeeper {
    /// Oldest first.
    moments: VecDeque<(Instant, i64)>,
    next_moment: Instant,
    next_compaction: Instant,
    next_look: Instant,
}

impl SpaceKeeper {
    pub(super) fn new(now: Instant, limits: &SpaceLimits) -> SpaceKeeper {
        let first = match limits.retention {
            Retention::Time(_) => now,
            Retention::All | Retention::Revisions(_) => now + limits.compact_revisions_every,
        };
        SpaceKeeper {
            moments: VecDeque::new(),
            next_moment: now,
            next_compaction: first,
            next_look: now,
        }
    }

    /// When there is something to do.
    pub(super) fn deadline(&self, limits: &SpaceLimits) -> Instant {
        match limits.retention {
            Retention::All => self.next_look,
            Retention::Time(_) => self.next_look.min(self.next_moment),
            Retention::Revisions(_) => self.next_look.min(self.next_compaction),
        }
    }

    /// The same for a group that sleeps, and has history.
    pub(super) fn nap_deadline(&self, limits: &SpaceLimits) -> Option<Instant> {
        match limits.retention {
            Retention::All => None,
            Retention::Time(_) => Some(self.next_moment),
            Retention::Revisions(_) => Some(self.next_compaction),
        }
    }

    /// The revision up to which history is to be let go of now, if any.
    fn due(&mut self, now: Instant, latest: i64, limits: &SpaceLimits) -> Option<i64> {
        match limits.retention {
            Retention::All => None,
            Retention::Revisions(kept) => {
                if self.next_compaction > now {
                    return None;
                }
                self.next_compaction = now + limits.compact_revisions_every;
                Some(latest.saturating_sub(kept)).filter(|revision| *revision > 0)
            }
            Retention::Time(kept) => self.due_by_time(now, latest, kept, limits),
        }
    }

    fn due_by_time(
        &mut self,
        now: Instant,
        latest: i64,
        kept: Duration,
        limits: &SpaceLimits,
    ) -> Option<i64> {
        let every = kept.min(limits.compact_every_max);
        if self.next_moment <= now {
            self.next_moment = now + every / limits.moments_per_compaction.max(1);
            self.moments.push_back((now, latest));
        }
        if self.next_compaction > now {
            return None;
        }
        let mut old_enough = None;
        while let Some((at, revision)) = self.moments.front().copied()
            && at + kept <= now
        {
            old_enough = Some(revision);
            self.moments.pop_front();
        }
        if old_enough.is_some() {
            self.next_compaction = now + every;
        }
        old_enough
    }
}

impl Group {
    /// Keeps compaction going while little is written, and tells those who wait for its end.
    pub(super) fn compact_on(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.replica.compaction_pending() {
            if self.compacting.is_empty() {
                return;
            }
            let now = self.replica.reader().revision().0;
            for (call, mut response) in std::mem::take(&mut self.compacting) {
                // As etcd: the revision when the work is done.
                if let etcd::Response::Compact(answer) = &mut response
                    && let Some(header) = &mut answer.header
                {
                    header.revision = now;
                }
                self.answer_etcd(call, Ok(response), out);
            }
            return;
        }
        if !self.leads() || self.next_compaction > now {
            return;
        }
        let limits = &self.config.limits;
        self.next_compaction = now + limits.compaction_interval;
        let revision = self.replica.reader().revision();
        let seen = std::mem::replace(&mut self.compaction_seen, revision);
        // What is written keeps it going by itself, and would wait for the large piece of work that
        // an empty entry brings.
        if revision.0 - seen.0 <= limits.compaction_quiet_revisions
            && self.proposals.is_empty()
            && self.queue.is_empty()
        {
            self.add_system_command(now, &SystemCommand::Nothing, Waiter::Nobody);
        }
    }

    /// Does what is due.
    pub(super) fn keep_space(&mut self, now: Instant) {
        let limits = self.config.limits.space;
        let latest = self.replica.reader().revision().0;
        if let Some(revision) = self.space.due(now, latest, &limits)
            && self.leads()
        {
            self.compact_history(now, revision);
        }
        if self.space.next_look > now {
            return;
        }
        self.space.next_look = now + limits.look_interval;
        if !self.leads() {
            return;
        }
        let reader = self.replica.reader();
        let agreed = SpaceSettings::of(reader);
        let wanted = SpaceSettings {
            quota_bytes: limits.quota_bytes.unwrap_or(agreed.quota_bytes),
            alarm_ends_by_itself: limits
                .alarm_ends_by_itself
                .unwrap_or(agreed.alarm_ends_by_itself),
        };
        let room = agreed.alarm_ends_by_itself
            && alarm::raised(reader).no_space
            && alarm::has_room_again(reader);
        if wanted != agreed {
            self.add_space_command(now, MaintenanceCommand::Settings(wanted));
        } else if room {
            self.add_space_command(now, MaintenanceCommand::Room);
        }
    }

    fn add_space_command(&mut self, now: Instant, command: MaintenanceCommand) {
        let deadline = now + self.config.timing.request_timeout;
        let record = command.encode();
        let added = self.calls.add_command(
            command::PROTOCOL,
            record,
            Waiter::Nobody,
            deadline,
            Admittance::Reserved,
        );
        self.metrics.calls_refused += u64::from(added.is_err());
    }

    fn compact_history(&mut self, now: Instant, revision: i64) {
        let reader = self.replica.reader();
        // While replicas differ nothing is changed, and history may tell how they came to.
        if revision <= reader.compacted().0 || alarm::raised(reader).corrupt {
            return;
        }
        self.add_space_command(now, MaintenanceCommand::Compact { revision });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(0) + Duration::from_secs(seconds)
    }

    fn limits(retention: Retention) -> SpaceLimits {
        SpaceLimits {
            retention,
            ..SpaceLimits::default()
        }
    }

    #[test]
    fn history_is_kept_for_a_time_and_then_let_go_of() {
        let limits = limits(Retention::Time(Duration::from_secs(600)));
        let mut keeper = SpaceKeeper::new(at(0), &limits);
        let mut compactions = Vec::new();
        // A revision a second.
        for second in 0..1900 {
            if let Some(revision) = keeper.due(at(second), second as i64, &limits) {
                compactions.push((second, revision));
            }
        }
        assert_eq!(compactions, [(600, 0), (1200, 600), (1800, 1200)]);
        assert!(keeper.moments.len() <= 11, "only what is needed is noted");
    }

    #[test]
    fn so_many_revisions_are_kept() {
        let limits = limits(Retention::Revisions(100));
        let mut keeper = SpaceKeeper::new(at(0), &limits);
        assert_eq!(keeper.due(at(299), 500, &limits), None);
        assert_eq!(keeper.due(at(300), 500, &limits), Some(400));
        assert_eq!(keeper.due(at(301), 600, &limits), None);
        assert_eq!(
            keeper.due(at(600), 50, &limits),
            None,
            "there are not so many"
        );
    }
}
