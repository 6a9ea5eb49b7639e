//! How long a replica waits before it asks to lead, whichever way the engine agrees.
//!
//! Deadlines are drawn at random so that seldom two ask at once. A follower draws a new one with
//! every message of its leader: what is done here is done as often as anything.

use std::time::Duration;

use base::Random;

use crate::raft::Config;

/// Any part of `whole`, and perhaps all of it.
pub(crate) fn random_part(random: &mut Random, whole: Duration) -> Duration {
    Duration::from_nanos(random.below(nanoseconds(whole).saturating_add(1)))
}

/// How long to wait for a leader: once to twice the election timeout.
pub(crate) fn election_delay(random: &mut Random, config: &Config) -> Duration {
    let timeout = nanoseconds(config.election_timeout);
    let part = random.below(timeout.saturating_add(1));
    Duration::from_nanos(timeout.saturating_add(part))
}

/// How long to wait between attempts: at first once to twice the heartbeat interval, then longer
/// each time, up to half or all of the election timeout. A new attempt makes the answers to the
/// last one worthless, so on a slow network they must be given more time.
pub(crate) fn attempt_delay(random: &mut Random, config: &Config, attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(2).min(16);
    let longer = config.heartbeat_interval * 2_u32.pow(doublings);
    let longest = (config.election_timeout / 2).max(config.heartbeat_interval);
    let delay = longer.min(longest);
    delay + random_part(random, delay)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
