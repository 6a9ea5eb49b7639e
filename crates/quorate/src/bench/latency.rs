//! How long things took: a histogram that keeps three digits of every value, and what it says.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer times count as this: an hour, in nanoseconds.
const LONGEST: u64 = 3_600_000_000_000;

/// Moments since the run's beginning, and durations, in nanoseconds.
pub(crate) type Nanoseconds = u64;

/// Many durations.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(1, LONGEST, 3);
        Latencies(histogram.expect("the bounds are ones that a histogram can have"))
    }

    pub(crate) fn record(&mut self, duration: Nanoseconds) {
        self.0.saturating_record(duration);
    }

    /// Adds those of another.
    pub(crate) fn add(&mut self, other: &Latencies) {
        let added = self.0.add(&other.0);
        added.expect("all histograms have the same bounds");
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn summary(&self) -> Summary {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        Summary {
            count: self.0.len(),
            mean_us: self.0.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.0.max() as f64 / 1e3,
        }
    }
}

/// What a histogram says, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

/// A duration for people: `870 us`, `12.3 ms`, `4.56 s`.
pub(crate) fn shown(microseconds: f64) -> String {
    match microseconds {
        below if below < 100.0 => format!("{below:.1} us"),
        below if below < 1e3 => format!("{below:.0} us"),
        below if below < 1e4 => format!("{:.2} ms", below / 1e3),
        below if below < 1e6 => format!("{:.1} ms", below / 1e3),
        rest => format!("{:.2} s", rest / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_thousandth() {
        let mut latencies = Latencies::new();
        for duration in 1..=10_000 {
            latencies.record(duration * 1_000);
        }
        let summary = latencies.summary();
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() <= 0.001;
        assert_eq!(summary.count, 10_000);
        assert!(near(summary.p50_us, 5_000.0), "{summary:?}");
        assert!(near(summary.p90_us, 9_000.0), "{summary:?}");
        assert!(near(summary.p99_us, 9_900.0), "{summary:?}");
        assert!(near(summary.p999_us, 9_990.0), "{summary:?}");
        assert!(near(summary.max_us, 10_000.0), "{summary:?}");
    }

    #[test]
    fn the_shortest_and_the_longest_are_kept() {
        let mut latencies = Latencies::new();
        latencies.record(0);
        latencies.record(u64::MAX);
        let mut other = Latencies::new();
        other.record(1_000);
        latencies.add(&other);
        let summary = latencies.summary();
        assert_eq!((summary.count, summary.p50_us), (3, 1.0));
        assert!(summary.max_us > 3.59e9, "{summary:?}");
    }

    #[test]
    fn durations_are_readable() {
        let durations = [8.04, 870.0, 1_234.0, 12_345.0, 4_560_000.0];
        assert_eq!(
            durations.map(shown),
            ["8.0 us", "870 us", "1.23 ms", "12.3 ms", "4.56 s"]
        );
    }
}
