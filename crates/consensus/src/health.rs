//! Noticing that one is the slow one, and handing over before the users notice.
//!
//! A disk that hangs costs its leader the leadership at once (`replication.rs`, `unfitness`). A
//! disk that has become slow does not: what is chosen is chosen by the others, and a fixed
//! threshold would call a group on slow disks sick for ever. So a leader compares itself with its
//! own history:
//!
//! ```text
//!   time from Write to Durable:   usual  = mean over about 256 writes
//!                                 recent = mean over about 4
//!   a bad heartbeat:   recent > 8 x usual, and recent > a tenth of the heartbeat interval, and
//!                      what was chosen is not durable here: a quorum of the others is faster
//!          or          called later than its deadline by more than a heartbeat interval:
//!                      its processor or clock does not keep up
//!   so many bad heartbeats in a row as an election timeout has: it hands over
//! ```
//!
//! Only what a leader writes counts: a host may tell a follower late, for want of urgency, that its
//! writes are durable, and a history of that would make a slow disk look usual. A leader may be
//! told late as well, but only while too few others have what it has: what counts then is the time
//! after which something could be chosen. So a disk is slow if it takes eight times as long as
//! clients usually wait, where the others are farther away than it is.
//!
//! While the disk is slow the usual time grows towards the recent one, slowly: who is slow for ever
//! is healthy again by its own standard. At most one abdication per [`PAUSE`] keeps two nodes that
//! are both slow from handing the group to and fro.

use std::time::Duration;

use base::Instant;

/// How much slower than usual is slow.
const SLOW_FACTOR: u64 = 8;

/// Writes that must have been seen before anything is concluded.
const WRITES_KNOWN: u64 = 64;

/// Election timeouts between two abdications of one replica.
pub(crate) const PAUSE: u32 = 60;

/// The recent behaviour of one's own disk and clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// Means of the time from Write to Durable, in nanoseconds.
    usual: u64,
    recent: u64,
    writes: u64,
    bad_heartbeats: u32,
    /// Nothing has become durable since this replica leads.
    is_new: bool,
    abdicated_at: Option<Instant>,
}

/// Moves a mean towards a sample by one part in `parts`.
#[inline(always)]
fn approach(mean: u64, sample: u64, parts: u64) -> u64 {
    mean - mean / parts + sample / parts
}

impl Health {
    /// A write became durable after so long; whether this replica leads.
    pub(crate) fn wrote(&mut self, took: Duration, leads: bool) {
        // The first in a leadership may have been begun before it.
        if !leads || std::mem::take(&mut self.is_new) {
            return;
        }
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX / 2);
        if self.writes == 0 {
            (self.usual, self.recent) = (took, took);
        }
        self.writes += 1;
        self.usual = match self.writes {
            // The first writes are all the history there is.
            few @ ..256 => approach(self.usual, took, few),
            // A constant is divided by without a division: this is done with every write.
            _ => approach(self.usual, took, 256),
        };
        self.recent = approach(self.recent, took, 4);
    }

    /// Whether the disk is slow by its own history, and by any standard.
    fn disk_is_slow(&self, heartbeat_interval: Duration) -> bool {
        let noticeable = u64::try_from(heartbeat_interval.as_nanos() / 10).unwrap_or(u64::MAX);
        self.writes >= WRITES_KNOWN
            && self.recent > self.usual.saturating_mul(SLOW_FACTOR)
            && self.recent > noticeable
    }

    /// A heartbeat is due. `lags`: a quorum of the others has durable what this replica has not.
    /// Returns whether to hand over.
    pub(crate) fn heartbeat(
        &mut self,
        now: Instant,
        late: Duration,
        lags: bool,
        heartbeat_interval: Duration,
        election_timeout: Duration,
    ) -> bool {
        let is_bad = (lags && self.disk_is_slow(heartbeat_interval)) || late > heartbeat_interval;
        if !is_bad {
            self.bad_heartbeats = 0;
            return false;
        }
        self.bad_heartbeats += 1;
        let enough = heartbeat_interval * self.bad_heartbeats >= election_timeout;
        let rested = self
            .abdicated_at
            .is_none_or(|before| now.since(before) >= election_timeout * PAUSE);
        enough && rested
    }

    /// What was bad before belongs to another leadership.
    pub(crate) fn begin_leading(&mut self) {
        self.bad_heartbeats = 0;
        self.is_new = true;
    }

    /// Leadership is being handed over, which is not done again soon.
    pub(crate) fn abdicated(&mut self, now: Instant) {
        self.abdicated_at = Some(now);
        self.bad_heartbeats = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_follower_is_told_late_does_not_make_a_slow_disk_look_usual() {
        let (interval, timeout) = (Duration::from_millis(100), Duration::from_millis(1000));
        let millis = Duration::from_millis;
        let mut health = Health::default();
        // A leader of an earlier time, then a follower that is told with the next heartbeat.
        health.begin_leading();
        (0..200).for_each(|_| health.wrote(millis(2), true));
        (0..1000).for_each(|_| health.wrote(millis(60), false));
        health.begin_leading();
        health.wrote(millis(5000), true);
        assert!(!health.disk_is_slow(interval), "begun before it led");
        (0..100).for_each(|_| health.wrote(millis(2), true));
        assert!(!health.disk_is_slow(interval));
        (0..10).for_each(|_| health.wrote(millis(80), true));
        assert!(health.disk_is_slow(interval));
        let mut heartbeats = 0;
        let hands_over = |heartbeat: u32| {
            let now = Instant(0) + interval * heartbeat;
            heartbeats = heartbeat;
            health.heartbeat(now, Duration::ZERO, true, interval, timeout)
        };
        assert!((1..=10).any(hands_over));
        assert_eq!(heartbeats, 10);
    }
}
