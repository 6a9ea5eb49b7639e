//! When a checkpoint is due.

use base::Instant;

use crate::limits::Limits;

/// By how many thousandths of the log that makes a checkpoint due replicas in neighbouring places
/// are apart: the golden section, by which any number of them fall far from each other.
const PLACES_APART: u64 = 618;

/// What a replica knows when it asks whether a checkpoint is due.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gathered {
    /// One is wanted, however little has gathered.
    pub is_wanted: bool,
    /// The log behind the newest checkpoint.
    pub log_bytes: u64,
    /// How many of the group's members come before this one.
    pub place: usize,
    /// History is being let go of.
    pub is_compacting: bool,
}

/// What the next checkpoint waits for.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// How long the log was when a compaction was last under way.
    held_back_at: u64,
    /// Checkpoints on end that could not be written, and when to try again.
    failures: u32,
    retry_at: Option<Instant>,
}

impl Schedule {
    /// Whether so much log has gathered that a checkpoint is due; `last` bytes has the newest one.
    ///
    /// The replicas of a group gather the same. So that they do not all write at the same time,
    /// each waits for more of it by a share of its own, the first for none.
    ///
    /// While history is being let go of, twice as much gathers: what goes need not be written, and
    /// what a checkpoint is taken of is copied before it is changed. Those that were held back do
    /// not all begin when that ends, either, but wait for no more than those twice.
    pub(super) fn is_due(
        &mut self,
        now: Instant,
        gathered: Gathered,
        last: u64,
        limits: &Limits,
    ) -> bool {
        let least = limits.checkpoint_log_bytes.max(last / 2);
        let more = least / 1000 * (gathered.place as u64 * PLACES_APART % 1000);
        let most = 2 * (least + more);
        let log_bytes = gathered.log_bytes;
        let has_gathered = if gathered.is_wanted {
            true
        } else if gathered.is_compacting {
            self.held_back_at = log_bytes;
            log_bytes > most
        } else {
            log_bytes > most.min(least.max(self.held_back_at) + more)
        };
        has_gathered && self.retry_at.is_none_or(|at| at <= now)
    }

    /// A checkpoint is complete, written here or received.
    pub(super) fn completed(&mut self) {
        *self = Schedule::default();
    }

    /// One could not be written.
    pub(super) fn failed(&mut self, now: Instant, limits: &Limits) {
        let (min, max) = (limits.checkpoint_retry_min, limits.checkpoint_retry_max);
        let pause = min.saturating_mul(1 << self.failures.min(16)).min(max);
        self.failures += 1;
        self.retry_at = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    /// The length of the log at which a checkpoint is due.
    fn due_at(schedule: &mut Schedule, place: usize, is_compacting: bool, from: u64) -> u64 {
        let limits = Limits {
            checkpoint_log_bytes: 100 * KIB,
            ..Limits::default()
        };
        let mut is_due_at = |log_bytes: &u64| {
            let gathered = Gathered {
                log_bytes: *log_bytes,
                place,
                is_compacting,
                ..Gathered::default()
            };
            schedule.is_due(Instant(0), gathered, 0, &limits)
        };
        let mut lengths = (from / KIB..).map(|length| length * KIB);
        lengths.find(|length| is_due_at(length)).expect("at last") / KIB
    }

    #[test]
    fn replicas_fall_far_from_each_other() {
        let mut at: Vec<u64> = (0..7)
            .map(|place| due_at(&mut Schedule::default(), place, false, 0))
            .collect();
        at.sort_unstable();
        assert_eq!(at[0], 101);
        assert!(at[6] < 200, "{at:?}");
        assert!(at.windows(2).all(|two| two[0] + 7 < two[1]), "{at:?}");
    }

    #[test]
    fn a_compaction_holds_them_back_and_lets_them_go_one_by_one() {
        assert_eq!(due_at(&mut Schedule::default(), 0, true, 0), 201);
        let after = |place| {
            let mut schedule = Schedule::default();
            let gathered = Gathered {
                log_bytes: 190 * KIB,
                place,
                is_compacting: true,
                ..Gathered::default()
            };
            let limits = Limits {
                checkpoint_log_bytes: 100 * KIB,
                ..Limits::default()
            };
            assert!(!schedule.is_due(Instant(0), gathered, 0, &limits));
            due_at(&mut schedule, place, false, 190 * KIB)
        };
        assert_eq!([after(0), after(2), after(1)], [191, 214, 252]);
    }

    #[test]
    fn one_that_is_wanted_waits_only_for_the_disk() {
        let gathered = Gathered {
            is_wanted: true,
            is_compacting: true,
            ..Gathered::default()
        };
        let limits = Limits::default();
        let mut schedule = Schedule::default();
        assert!(schedule.is_due(Instant(0), gathered, 0, &limits));
        schedule.failed(Instant(0), &limits);
        assert!(!schedule.is_due(Instant(0), gathered, 0, &limits));
        let later = Instant(0) + limits.checkpoint_retry_min;
        assert!(schedule.is_due(later, gathered, 0, &limits));
        schedule.failed(later, &limits);
        let soon = later + limits.checkpoint_retry_min;
        assert!(
            !schedule.is_due(soon, gathered, 0, &limits),
            "twice as long"
        );
        schedule.completed();
        assert!(schedule.is_due(soon, gathered, 0, &limits));
    }

    #[test]
    fn nobody_waits_for_what_gathered_behind_an_older_one() {
        let mut schedule = Schedule::default();
        assert_eq!(due_at(&mut schedule, 0, true, 190 * KIB), 201);
        schedule.completed();
        assert_eq!(due_at(&mut schedule, 0, false, 0), 101);
    }
}
