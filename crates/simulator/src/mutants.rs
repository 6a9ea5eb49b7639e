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
use consensus::EngineKind;
use indicatif::ProgressBar;

use crate::soak::{Length, soak};
use crate::swarm;

/// Seeds within which each must be caught.
pub const BOUND: u64 = 2_000;

/// Those that continuous integration plants.
pub const CANARIES: &[(Mutant, EngineKind)] = &[
    (Mutant::ReadBeforeExecuted, EngineKind::Raft),
    (Mutant::FillOverAccepted, EngineKind::Paxos),
];

/// What only Raft does, or only Paxos: elsewhere there is no place for the bug.
const OF_RAFT: &[Mutant] = &[Mutant::ChooseEarlierEpoch, Mutant::SnapshotKeepsSuffix];
const OF_PAXOS: &[Mutant] = &[
    Mutant::CountAcceptTwice,
    Mutant::EmptyWhileLoading,
    Mutant::PreferLowerBallot,
    Mutant::ChooseAcrossBallots,
    Mutant::FillOverAccepted,
    Mutant::IgnoreStopSign,
    Mutant::OpenWithoutPromises,
    Mutant::TeachAccepted,
    Mutant::SnapshotDropsAccepted,
    Mutant::AcceptBeforePromise,
];

/// Whether nodes that agree by this engine can have this bug.
#[must_use]
pub fn applies(mutant: Mutant, engine: EngineKind) -> bool {
    match engine {
        EngineKind::Raft => !OF_PAXOS.contains(&mutant),
        EngineKind::Paxos => !OF_RAFT.contains(&mutant),
    }
}

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

/// Runs seeds of an engine with this bug until it is caught or the bound is reached.
#[must_use]
pub fn hunt(mutant: Mutant, engine: EngineKind, bound: u64, jobs: usize) -> Option<Catch> {
    let began = Instant::now();
    plant(Some(mutant));
    let report = soak(
        &Length::Seeds(0..bound),
        swarm::drawing(Some(engine), false),
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
pub fn command(
    jobs: usize,
    only: Option<&str>,
    list: bool,
    bound: u64,
    engine: Option<EngineKind>,
) -> ExitCode {
    let in_engines = |mutants: &[Mutant]| -> Vec<(Mutant, EngineKind)> {
        let engines = EngineKind::ALL.iter().copied();
        let engines = engines.filter(|kind| engine.is_none_or(|only| only == *kind));
        let of_one = |kind| mutants.iter().map(move |mutant| (*mutant, kind));
        let all = engines.flat_map(of_one);
        all.filter(|(mutant, kind)| applies(*mutant, *kind))
            .collect()
    };
    let chosen: Vec<(Mutant, EngineKind)> = match only {
        None if list => Mutant::ALL
            .iter()
            .map(|each| (*each, EngineKind::Raft))
            .collect(),
        None => in_engines(Mutant::ALL),
        Some("canary") => CANARIES.to_vec(),
        Some(name) => match find(name) {
            Some(mutant) => in_engines(&[mutant]),
            None => {
                eprintln!("quorate-sim: there is no mutant called {name}; see mutants --list");
                return ExitCode::from(2);
            }
        },
    };
    let mut missed = 0;
    for (mutant, engine) in chosen {
        if list {
            println!("{:28} {}", mutant.name(), mutant.words());
            continue;
        }
        match hunt(mutant, engine, bound, jobs) {
            Some(Catch {
                runs,
                seed,
                invariant,
                took,
            }) => println!(
                "{:5} {:28} caught in {runs} runs by seed {seed} ({:.1} s): {invariant}",
                engine.name(),
                mutant.name(),
                took.as_secs_f64()
            ),
            None => {
                missed += 1;
                println!(
                    "{:5} {:28} NOT CAUGHT in {bound} runs",
                    engine.name(),
                    mutant.name()
                );
            }
        }
    }
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
