//! Processor time and memory: this program's, and that of servers on the same machine.

use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What had been used at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// By this process.
    pub(crate) own: Duration,
    /// By all servers together.
    pub(crate) servers: Duration,
}

/// Reads the meters of this process and of the servers with these process ids.
pub(crate) fn sample(servers: &[u32]) -> Sample {
    let own = clock_gettime(ClockId::ProcessCPUTime);
    let ticks: u64 = servers.iter().filter_map(|id| processor_ticks(*id)).sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Sample {
        at: Instant::now(),
        own: Duration::new(own.tv_sec.unsigned_abs(), own.tv_nsec as u32),
        servers: Duration::from_secs_f64(ticks as f64 / per_second as f64),
    }
}

/// The memory that a process has in use, in bytes; `None` if there is no such process.
pub(crate) fn resident_bytes(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}

fn processor_ticks(process: u32) -> Option<u64> {
    processor_ticks_in(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// `utime` and `stime`, fields 14 and 15 of `/proc/PID/stat`. The second field is the program's
/// name in parentheses and may hold anything, so fields are counted from where it ends.
fn processor_ticks_in(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_skipped() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 300 45 0 0 20 0 1 0 99";
        assert_eq!(processor_ticks_in(stat), Some(345));
        assert_eq!(processor_ticks_in("7 (a) S 1"), None);
        assert_eq!(processor_ticks_in(""), None);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(resident_bytes(std::process::id()).is_some_and(|bytes| bytes > 100_000));
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
