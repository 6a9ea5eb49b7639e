//! Notices that nothing is missing up to a revision: on request, and from time to time.
//!
//! They are given out only while the watchers concerned are live, behind all that these were given,
//! on the same stream: so they never overtake an event.

use std::time::Duration;

use base::Instant;
use base::mutant::{self, Mutant};
use etcd::watch::{NO_WATCH_ID, WatchNews};

use super::Hub;
use super::interface::HubOutput;
use super::roster::{Position, StreamIndex};

impl Hub {
    /// Answers clients that have asked for the progress of streams all of whose watchers are live.
    pub(super) fn answer_progress(&mut self, out: &mut Vec<HubOutput>) {
        for index in std::mem::take(&mut self.roster.answerable) {
            let stream = self.roster.stream_mut(index);
            // Somebody may have fallen back; then it becomes answerable again.
            if (stream.not_live == 0 || mutant::is_on(Mutant::ProgressAhead))
                && std::mem::take(&mut stream.progress_asked)
                && !stream.watchers.is_empty()
            {
                self.answer(index, NO_WATCH_ID, WatchNews::Progress, out);
            }
        }
    }

    /// A stream whose watchers want to hear of progress has its first.
    pub(super) fn begin_ticking(&mut self, now: Instant, stream: StreamIndex) {
        self.roster.stream_mut(stream).last_tick = now;
        let at = now + self.progress_interval();
        self.roster.set_tick(stream, Some(at));
    }

    fn progress_interval(&mut self) -> Duration {
        let interval = self.limits.progress_interval;
        let tenth = u64::try_from(interval.as_nanos() / 10).unwrap_or(u64::MAX);
        interval + Duration::from_nanos(self.random.below(tenth.max(1)))
    }

    /// Tells watchers that have heard nothing for an interval how far they are.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<HubOutput>) {
        while let Some((at, index)) = self.roster.ticks.first().copied()
            && at <= now
        {
            let last_tick = self.roster.stream(index).last_tick;
            self.begin_ticking(now, index);
            let watchers = self.roster.stream(index).watchers.watchers().iter();
            let quiet: Vec<i64> = watchers
                .map(|watcher| self.roster.watcher(*watcher))
                .filter(|watcher| watcher.progress_notify)
                .filter(|watcher| matches!(watcher.position, Position::Live { .. }))
                .filter(|watcher| watcher.last_event <= last_tick)
                .filter(|watcher| self.groups.last_event(&watcher.group) <= last_tick)
                .map(|watcher| watcher.group.id)
                .collect();
            for id in quiet {
                // Who does not read hears of it next time.
                if self.roster.credit(index) > 0 {
                    self.answer(index, id, WatchNews::Progress, out);
                }
            }
        }
    }
}
