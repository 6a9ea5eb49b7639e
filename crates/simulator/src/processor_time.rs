//! Processor time of the calling thread: what a run costs, however busy the machine is otherwise.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it measures runs; nothing inside a run sees it"
)]

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The processor time that this thread has used so far.
#[must_use]
pub fn of_this_thread() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(used.tv_nsec.unsigned_abs())
}
