//! Plants one bug after another and sees that each is caught.
//!
//! A simulator that finds nothing may be blind. Each mutant is a bug that others have had
//! (`base::mutant`); it must be caught within a bounded number of seeds, and the number says how
//! sharp the simulator is for bugs of that kind.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person, and times runs"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use base::mutant::{Mutant, plant};
use indicatif::ProgressBar;

use crate::soak::{Length, soak};
use crate::swarm;

/// Seeds within which each must be caught.
pub const BOUND: u64 = 2_000;

/// The one that continuous integration plants.
pub const CANARY: Mutant = Mutant::ReadBeforeExecuted;

/// The mutant of this name.
#[must_use]
pub fn find(name: &str) -> Option<Mutant> {
    Mutant::ALL
        .iter()
        .copied()
        .find(|mutant| mutant.name() == name)
}

/// How a mutant was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catch {
    /// Runs that it took, the one that caught it included.
    pub runs: u64,
    /// The first seed that caught it.
    pub seed: u64,
    /// By which invariant.
    pub invariant: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// Runs seeds with this bug until it is caught or the bound is reached.
#[must_use]
pub fn hunt(mutant: Mutant, bound: u64, jobs: usize) -> Option<Catch> {
    let began = Instant::now();
    plant(Some(mutant));
    let report = soak(
        &Length::Seeds(0..bound),
        swarm::draw,
        jobs,
        true,
        &ProgressBar::hidden(),
    );
    plant(None);
    let (seed, violation) = report.failures.first()?;
    Some(Catch {
        runs: report.runs,
        seed: *seed,
        invariant: violation.invariant,
        took: began.elapsed(),
    })
}

/// The command `mutants`.
#[must_use]
pub fn command(jobs: usize, only: Option<&str>, list: bool, bound: u64) -> ExitCode {
    let chosen: Vec<Mutant> = match only {
        None => Mutant::ALL.to_vec(),
        Some("canary") => vec![CANARY],
        Some(name) => match find(name) {
            Some(mutant) => vec![mutant],
            None => {
                eprintln!("quorate-sim: there is no mutant called {name}; see mutants --list");
                return ExitCode::from(2);
            }
        },
    };
    let mut missed = 0;
    for mutant in chosen {
        if list {
            println!("{:28} {}", mutant.name(), mutant.words());
            continue;
        }
        match hunt(mutant, bound, jobs) {
            Some(Catch {
                runs,
                seed,
                invariant,
                took,
            }) => println!(
                "{:28} caught in {runs} runs by seed {seed} ({:.1} s): {invariant}",
                mutant.name(),
                took.as_secs_f64()
            ),
            None => {
                missed += 1;
                println!("{:28} NOT CAUGHT in {bound} runs", mutant.name());
            }
        }
    }
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
