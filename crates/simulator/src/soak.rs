//! Many runs: seeds one after another, on as many threads as jobs, for some seeds or minutes.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "runs are spread over threads and timed; each run itself is single and timeless"
)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use consensus::EngineKind;
use indicatif::{ProgressBar, ProgressStyle};

use crate::invariants::Violation;
use crate::marks::{self, Mark, Marks};
use crate::processor_time;
use crate::run::{Options, Outcome, run};
use crate::scenario::Scenario;

/// From how many runs on every mark must have been reached.
pub const MARKS_FROM_RUNS: u64 = 2_000;

/// What a soak came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Runs made.
    pub runs: u64,
    /// Those of each engine.
    pub runs_of: BTreeMap<EngineKind, u64>,
    /// Time that passed in them.
    pub simulated: Duration,
    /// Processor time that they took, all jobs together.
    pub processor: Duration,
    /// Invariants checked.
    pub checks: u64,
    /// Requests that ended ok, failed, unknown.
    pub requests: [u64; 3],
    /// Runs whose second phase had no sound quorum to demand anything of.
    pub liveness_skipped: u64,
    /// Seeds whose history the checker could not decide within its budget: no failures, but shown.
    pub undecided: Vec<u64>,
    /// Faults that struck, by family.
    pub struck: BTreeMap<&'static str, u64>,
    /// Rare situations.
    pub marks: Marks,
    /// Seeds that failed, and how.
    pub failures: Vec<(u64, Violation)>,
}

impl Report {
    /// Takes a run in.
    pub fn add(&mut self, seed: u64, outcome: Outcome, took: Duration) {
        self.runs += 1;
        *self.runs_of.entry(outcome.engine).or_default() += 1;
        self.simulated += outcome.simulated;
        self.processor += took;
        self.checks += outcome.checks;
        for (sum, each) in self.requests.iter_mut().zip(outcome.requests) {
            *sum += each;
        }
        self.liveness_skipped += u64::from(outcome.is_liveness_skipped);
        if outcome.is_undecided {
            self.undecided.push(seed);
        }
        for (family, count) in outcome.struck {
            *self.struck.entry(family).or_default() += count;
        }
        self.marks.add(&outcome.marks);
        if let Some(violation) = outcome.violation {
            self.failures.push((seed, violation));
        }
    }

    /// Marks that a soak of this length should have reached and did not.
    #[must_use]
    pub fn missed(&self) -> Vec<&'static str> {
        let runs_for = |mark: &Mark| match mark.engine() {
            None => self.runs,
            Some(engine) => self.runs_of.get(&engine).copied().unwrap_or_default(),
        };
        let missed = marks::ALL
            .iter()
            .filter(|(mark, _)| runs_for(mark) >= MARKS_FROM_RUNS && self.marks.count(*mark) == 0);
        missed.map(|(_, words)| *words).collect()
    }

    /// Simulated time to processor time: how many times faster than real time one core is.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.simulated.as_secs_f64() / self.processor.as_secs_f64().max(1e-9)
    }

    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let marks: BTreeMap<&str, u64> = self.marks.iter().collect();
        let failures: Vec<serde_json::Value> = self
            .failures
            .iter()
            .map(|(seed, violation)| {
                serde_json::json!({
                    "seed": seed, "invariant": violation.invariant, "text": violation.text
                })
            })
            .collect();
        serde_json::json!({
            "commit": crate::run::commit(),
            "runs": self.runs,
            "simulated_seconds": self.simulated.as_secs_f64(),
            "processor_seconds": self.processor.as_secs_f64(),
            "ratio": self.ratio(),
            "checks": self.checks,
            "requests": self.requests,
            "liveness_skipped": self.liveness_skipped,
            "undecided": self.undecided,
            "faults": self.struck,
            "marks": marks,
            "marks_missed": self.missed(),
            "failures": failures,
        })
    }
}

/// How long a soak goes on.
#[derive(Clone, Debug)]
pub enum Length {
    /// These seeds.
    Seeds(Range<u64>),
    /// Seeds from this one on, for so long.
    Time(u64, Duration),
}

/// Soaks over the scenarios that `draw` makes of seeds. Stops early at the first failure if
/// `stop_at_failure`.
///
/// # Panics
/// If a run itself panics: a bug of the simulator.
#[must_use]
pub fn soak(
    length: &Length,
    draw: fn(u64) -> Scenario,
    jobs: usize,
    stop_at_failure: bool,
    progress: &ProgressBar,
) -> Report {
    let began = Instant::now();
    let (first, end, time) = match length {
        Length::Seeds(seeds) => (seeds.start, seeds.end, None),
        Length::Time(first, time) => (*first, u64::MAX, Some(*time)),
    };
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || time.is_some_and(|time| began.elapsed() >= time) {
                        break;
                    }
                    let begins = processor_time::of_this_thread();
                    let outcome = run(&draw(seed), Options::default());
                    let took = processor_time::of_this_thread().saturating_sub(begins);
                    let fails = outcome.violation.is_some();
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    report.add(seed, outcome, took);
                    show(progress, &report, began.elapsed(), time);
                    if fails && stop_at_failure {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    progress.finish_and_clear();
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.failures.sort_by_key(|(seed, _)| *seed);
    report.undecided.sort_unstable();
    report
}

fn show(progress: &ProgressBar, report: &Report, elapsed: Duration, time: Option<Duration>) {
    match time {
        Some(_) => progress.set_position(elapsed.as_secs()),
        None => progress.set_position(report.runs),
    }
    let faults: u64 = report.struck.values().sum();
    progress.set_message(format!(
        "{} runs, {:.0}x real time, {faults} faults, {} checks, {} failures",
        report.runs,
        report.ratio(),
        report.checks,
        report.failures.len()
    ));
}

/// A bar for a soak of this length.
#[must_use]
pub fn bar(length: &Length, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let total = match length {
        Length::Seeds(seeds) => seeds.end.saturating_sub(seeds.start),
        Length::Time(_, time) => time.as_secs(),
    };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}");
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
