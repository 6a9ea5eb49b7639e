//! How long one peer takes to answer, and which silence tells of a loss.
//!
//! Means as TCP's (RFC 6298, section 2): of the time that answers take, and of how far they are off
//! it. A disk that is shared, or a processor that is, answers most of the time at once and now and
//! then ten times later; who took twice the mean for a loss would send again, at every such
//! moment, what has long arrived. Kept in nanoseconds, as plain numbers, because it is done with
//! every answer.

use std::time::Duration;

/// See the head of this file.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerTime {
    mean_nanoseconds: u64,
    deviation_nanoseconds: u64,
    is_measured: bool,
}

impl AnswerTime {
    /// Nothing was measured yet.
    pub(super) fn guessed(guess: Duration) -> AnswerTime {
        AnswerTime {
            mean_nanoseconds: nanoseconds(guess),
            deviation_nanoseconds: 0,
            is_measured: false,
        }
    }

    /// An answer took so long.
    pub(super) fn measured(&mut self, taken: Duration) {
        let taken = nanoseconds(taken);
        if !std::mem::replace(&mut self.is_measured, true) {
            self.mean_nanoseconds = taken;
            return;
        }
        let off = self.mean_nanoseconds.abs_diff(taken);
        let (mean, deviation) = (self.mean_nanoseconds, self.deviation_nanoseconds);
        self.deviation_nanoseconds = deviation - deviation / 4 + off / 4;
        self.mean_nanoseconds = mean - mean / 8 + taken / 8;
    }

    /// How long answers take.
    pub(super) fn usual(&self) -> Duration {
        Duration::from_nanos(self.mean_nanoseconds)
    }

    /// Silence that is longer is no accident: twice as long as usual, and more than answers vary.
    pub(super) fn silence(&self) -> Duration {
        let twice = self.mean_nanoseconds.saturating_mul(2);
        let varied = self.deviation_nanoseconds.saturating_mul(4);
        let varied = varied.saturating_add(self.mean_nanoseconds);
        Duration::from_nanos(twice.max(varied))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these answers would have been taken for lost.
    fn taken_for_lost(answers: impl IntoIterator<Item = u64>) -> usize {
        let mut time = AnswerTime::guessed(Duration::from_millis(10));
        let is_late = |millis: u64| {
            let taken = Duration::from_millis(millis);
            let is_late = taken > time.silence();
            time.measured(taken);
            is_late
        };
        answers
            .into_iter()
            .map(is_late)
            .filter(|late| *late)
            .count()
    }

    #[test]
    fn answers_that_take_alike_make_twice_as_long_a_sign() {
        assert_eq!(taken_for_lost([4; 100]), 0);
        assert_eq!(taken_for_lost([4, 4, 4, 4, 4, 4, 4, 4, 9]), 1);
        assert_eq!(taken_for_lost([4, 4, 4, 4, 4, 4, 4, 4, 7]), 0);
    }

    #[test]
    fn a_disk_that_is_late_now_and_then_is_not_taken_for_a_loss_each_time() {
        let often = (0..100).map(|answer| if answer % 4 == 3 { 20 } else { 5 });
        let late = taken_for_lost(often);
        assert!(late <= 3, "{late} of 25 late ones");
    }

    #[test]
    fn no_time_is_too_long() {
        let mut time = AnswerTime::guessed(Duration::MAX);
        time.measured(Duration::MAX);
        time.measured(Duration::MAX);
        time.measured(Duration::ZERO);
        assert!(time.silence() > time.usual());
    }
}
