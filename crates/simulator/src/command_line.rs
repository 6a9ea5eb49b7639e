//! The program `quorate-sim`: what it is told, and what it says.
//!
//! ```text
//! quorate-sim run [--seed N | --script FILE] [--trace] [--html FILE] [--history FILE] [--until T]
//! quorate-sim soak [--seeds A..B | --minutes M] [--jobs J] [--json]
//! quorate-sim mutants [--jobs J] [--only NAME] [--bound N]
//! quorate-sim shapes [--seeds A..B] [--jobs J]
//! quorate-sim check FILE
//! quorate-sim speed
//! ```
//!
//! Exit status: 0 clean, 1 something was violated or not caught, 2 it was told nonsense.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person, writes files, and times runs"
)]

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use consensus::EngineKind;

use crate::mutants;
use crate::run::{self, Options, keep_panics_quiet, run};
use crate::scenario::Scenario;
use crate::soak::{Length, Report, bar, soak};
use crate::{html, minimise, processor_time, shapes, swarm};

const FAILED: ExitCode = ExitCode::FAILURE;

/// Runs whole clusters in simulation, from one seed, and looks for what must never be.
#[derive(Parser)]
#[command(name = "quorate-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One run, from a seed or a fault script.
    Run {
        /// The seed.
        #[arg(long, default_value_t = 1, conflicts_with = "script")]
        seed: u64,
        /// A fault script, as a failing run prints it.
        #[arg(long, value_name = "FILE")]
        script: Option<PathBuf>,
        /// Print everything that happened.
        #[arg(long)]
        trace: bool,
        /// Draw it: nodes as lanes, messages as arrows, faults as bands.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Write what clients asked and were told, for the checker; what they asked of other
        /// keyspaces than the default one goes to files beside it.
        #[arg(long, value_name = "FILE")]
        history: Option<PathBuf>,
        /// End the first phase after so long: 90, 90s, 1.5m, 500ms.
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        until: Option<Duration>,
        /// Plant this bug first (see `mutants --list`).
        #[arg(long, value_name = "NAME")]
        mutant: Option<String>,
        /// Damage more disks than any protocol survives: nothing wrong may be said even then.
        #[arg(long)]
        beyond: bool,
        /// How the nodes agree, raft or paxos, instead of what the seed draws.
        #[arg(long, value_name = "ENGINE")]
        engine: Option<EngineKind>,
    },
    /// Many runs.
    Soak {
        /// These seeds, the last one excluded.
        #[arg(long, value_name = "A..B", value_parser = seeds, conflicts_with = "minutes")]
        seeds: Option<Range<u64>>,
        /// For so many minutes.
        #[arg(long, value_name = "M")]
        minutes: Option<f64>,
        /// The first seed of a soak by minutes.
        #[arg(long, value_name = "A", default_value_t = 0)]
        from: u64,
        /// Runs at the same time.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
        /// Damage more disks than any protocol survives: nothing wrong may be said even then.
        #[arg(long)]
        beyond: bool,
        /// How the nodes agree, raft or paxos; half of the seeds each, if not said.
        #[arg(long, value_name = "ENGINE")]
        engine: Option<EngineKind>,
        /// A witness in every seed of three hosts or five.
        #[arg(long, conflicts_with_all = ["beyond", "engine"])]
        witness: bool,
    },
    /// Plant bugs, one after another, and see that each is caught.
    Mutants {
        /// Runs at the same time.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Only this one.
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
        /// Only print their names.
        #[arg(long)]
        list: bool,
        /// Seeds that may be used for each.
        #[arg(long, default_value_t = mutants::BOUND)]
        bound: u64,
        /// Only in nodes that agree by this engine, raft or paxos.
        #[arg(long, value_name = "ENGINE")]
        engine: Option<EngineKind>,
    },
    /// Partial connectivity: a leader must commit soon, whenever some node reaches a quorum.
    Shapes {
        /// These seeds of each shape, the last one excluded.
        #[arg(long, value_name = "A..B", value_parser = seeds, default_value = "0..1000")]
        seeds: Range<u64>,
        /// Runs at the same time.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Only with this engine, raft or paxos.
        #[arg(long, value_name = "ENGINE")]
        engine: Option<EngineKind>,
    },
    /// Judge a history: of a simulated run (`run --history`) or of a live one.
    Check {
        /// Lines of JSON, as the checker's documentation says.
        file: PathBuf,
    },
    /// How fast simulated time passes: three nodes with 50 requests a second, and without any.
    Speed,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    keep_panics_quiet();
    match arguments.command {
        Command::Run {
            seed,
            script,
            trace,
            html,
            history,
            until,
            mutant,
            beyond,
            engine,
        } => {
            let mut scenario = match scenario(seed, script) {
                Ok(scenario) if beyond => swarm::beyond(scenario),
                Ok(scenario) => scenario,
                Err(text) => return refuse(&text),
            };
            if let Some(engine) = engine {
                scenario.agree_by(engine);
            }
            if let Some(name) = mutant {
                match mutants::find(&name) {
                    Some(mutant) => base::mutant::plant(Some(mutant)),
                    None => return refuse(&format!("there is no mutant called {name}")),
                }
            }
            let options = Options {
                keep_trace: trace || html.is_some(),
                until,
            };
            one(&scenario, options, trace, html, history)
        }
        Command::Soak {
            seeds,
            minutes,
            from,
            jobs,
            json,
            beyond,
            engine,
            witness,
        } => {
            let length = match (seeds, minutes) {
                (Some(seeds), _) => Length::Seeds(seeds),
                (None, Some(minutes)) => {
                    Length::Time(from, Duration::from_secs_f64(minutes * 60.0))
                }
                (None, None) => Length::Seeds(0..1000),
            };
            let draw = match witness {
                true => swarm::draw_witnessed,
                false => swarm::drawing(engine, beyond),
            };
            let report = soak(&length, draw, jobs, false, &bar(&length, json));
            say(&report, draw, json)
        }
        Command::Mutants {
            jobs,
            only,
            list,
            bound,
            engine,
        } => mutants::command(jobs, only.as_deref(), list, bound, engine),
        Command::Shapes {
            seeds,
            jobs,
            engine,
        } => shapes::command(seeds, jobs, engine),
        Command::Check { file } => check(&file),
        Command::Speed => speed(),
    }
}

fn refuse(text: &str) -> ExitCode {
    eprintln!("quorate-sim: {text}");
    ExitCode::from(2)
}

/// A time, in seconds if no unit is named.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        other => return Err(format!("{other} is no unit of time; write ms, s, m or h")),
    };
    let wrong = || format!("{text} is no time; write it as 90s, 1.5m or 500ms");
    let number = digits.parse::<f64>().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text} is no range of seeds; write it as 0..1000");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
    let range = number(from)?..number(to)?;
    if range.is_empty() {
        return Err(format!("{text} holds no seed"));
    }
    Ok(range)
}

fn scenario(seed: u64, script: Option<PathBuf>) -> Result<Scenario, String> {
    let Some(path) = script else {
        return Ok(swarm::draw(seed));
    };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    Scenario::from_script(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn one(
    scenario: &Scenario,
    options: Options,
    trace: bool,
    page: Option<PathBuf>,
    history: Option<PathBuf>,
) -> ExitCode {
    let began = Instant::now();
    let outcome = run(scenario, options);
    let took = began.elapsed();
    if trace {
        print!("{}", outcome.trace.to_text());
    }
    let write = |path: &PathBuf, text: &[u8]| {
        std::fs::write(path, text)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    };
    if let Some(path) = page
        && let Err(text) = write(&path, html::page(scenario, &outcome.trace).as_bytes())
    {
        return refuse(&text);
    }
    if let Some(file) = history {
        for (name, history) in &outcome.histories {
            // Each keyspace has a history of its own.
            let path = match name.as_str() {
                "default" => file.clone(),
                name => PathBuf::from(format!("{}.{name}", file.display())),
            };
            if let Err(text) = write(&path, &history_of(history)) {
                return refuse(&text);
            }
        }
    }
    println!(
        "seed {}: {} hosts, {}, {:.1} s simulated, {} faults, {} checks, requests ok {} failed {} \
         unknown {}, hash {:016x}",
        scenario.seed,
        scenario.hosts,
        scenario.engine,
        outcome.simulated.as_secs_f64(),
        outcome.struck.values().sum::<u64>(),
        outcome.checks,
        outcome.requests[0],
        outcome.requests[1],
        outcome.requests[2],
        outcome.trace.hash()
    );
    eprintln!(
        "{:.0} times real time",
        outcome.simulated.as_secs_f64() / took.as_secs_f64()
    );
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("VIOLATED  {violation}");
            explain(scenario, violation.invariant);
            FAILED
        }
    }
}

fn history_of(history: &checker::history::History) -> Vec<u8> {
    let writer = checker::history::Writer::new(Vec::new(), &history.header);
    let mut writer = writer.expect("memory takes everything");
    for event in &history.events {
        writer.event(event).expect("memory takes everything");
    }
    writer.finish().expect("memory takes everything")
}

fn check(path: &PathBuf) -> ExitCode {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) => return refuse(&format!("{} cannot be read: {error}", path.display())),
    };
    let options = checker::Options::default();
    match checker::check(std::io::BufReader::new(file), &options) {
        Err(malformed) => refuse(&format!("{}: {malformed}", path.display())),
        Ok(report) => {
            print!("{report}");
            match report.verdict() {
                checker::Verdict::Ok => ExitCode::SUCCESS,
                _ => FAILED,
            }
        }
    }
}

/// What somebody needs to look into a failure.
fn explain(scenario: &Scenario, invariant: &str) {
    let (smallest, runs) = minimise::minimise(scenario, invariant);
    println!("seed      {}", scenario.seed);
    println!("commit    {}", run::commit());
    println!(
        "script    {} of {} faults are needed (found in {runs} runs); save these lines and run \
         `quorate-sim run --script FILE --trace`:",
        smallest.faults.len(),
        scenario.faults.len()
    );
    print!("{}", smallest.to_script());
}

fn say(report: &Report, draw: fn(u64) -> Scenario, json: bool) -> ExitCode {
    let missed = report.missed();
    if json {
        println!("{:#}", report.to_json());
    } else {
        println!(
            "{} runs: {:.0} s simulated in {:.0} s of processor time, {:.0} times real time on a \
             core; {} invariants checked; \
             requests ok {}, failed {}, unknown {}; {} without second phase, {} undecided",
            report.runs,
            report.simulated.as_secs_f64(),
            report.processor.as_secs_f64(),
            report.ratio(),
            report.checks,
            report.requests[0],
            report.requests[1],
            report.requests[2],
            report.liveness_skipped,
            report.undecided.len()
        );
        if !report.undecided.is_empty() {
            println!("undecided by the checker: seeds {:?}", report.undecided);
        }
        println!("faults:");
        for (family, count) in &report.struck {
            println!("  {count:>9}  {family}");
        }
        println!("sometimes:");
        for (words, count) in report.marks.iter() {
            println!("  {count:>9}  {words}");
        }
        for (seed, violation) in &report.failures {
            println!("FAILED  seed {seed}: {violation}");
        }
        for words in &missed {
            println!("NEVER REACHED  {words}");
        }
    }
    if let Some((seed, violation)) = report.failures.first() {
        if !json {
            explain(&draw(*seed), violation.invariant);
        }
        return FAILED;
    }
    if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        FAILED
    }
}

fn speed() -> ExitCode {
    for (what, clients, simulated) in [("50 requests a second", 5, 300_u64), ("quiet", 0, 3_000)] {
        let scenario = swarm::calm(1, 3, clients, 100_000, simulated * 1_000_000);
        // The first run in a process is the first to touch its memory, which a soak does once.
        drop(run(&scenario, Options::default()));
        let began = processor_time::of_this_thread();
        let outcome = run(&scenario, Options::default());
        let took = processor_time::of_this_thread().saturating_sub(began);
        if let Some(violation) = outcome.violation {
            println!("VIOLATED  {violation}");
            return FAILED;
        }
        println!(
            "three nodes, {what}: {:.0} times real time on one core ({} requests in {:.0} \
             simulated seconds)",
            outcome.simulated.as_secs_f64() / took.as_secs_f64(),
            outcome.requests[0],
            outcome.simulated.as_secs_f64()
        );
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_seeds_are_read_or_refused_with_the_reason() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "s", "-1s", "1e400", "2 weeks", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(duration("2d").unwrap_err().contains("no unit"));
        assert_eq!(seeds("3..7"), Ok(3..7));
        for wrong in ["3", "7..3", "3..3", "a..b", "..4"] {
            assert!(seeds(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }
}
