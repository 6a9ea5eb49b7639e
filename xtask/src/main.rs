//! The project's own commands, one per intent.
//!
//! ```text
//! cargo xtask check       everything that must hold before a change lands; changes nothing
//! cargo xtask fix         mends what a tool can mend: formatting, and lints with a known cure
//! cargo xtask failover    measures how long writes pause when a leader dies (by hand)
//! cargo xtask bench-report   measures etcd and Quorate side by side (by hand)
//! cargo xtask engines-report   compares Raft and Paxos in simulated time (by hand)
//! cargo xtask fuzz        runs the fuzz targets, a while each (by hand; needs a nightly compiler)
//! cargo xtask profile-guided   release builds that have learnt from running (by hand)
//! ```
//!
//! A step is a command line that a person could type as well; it is printed before it runs, so
//! that a failed step can be repeated alone. The program uses the standard library only: it is
//! the first thing a newcomer compiles.

#![allow(clippy::print_stdout, clippy::print_stderr)] // it talks to a person at a terminal
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // starts processes, and times them

use std::env;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const HELP: &str = "\
The project's own commands.

Usage: cargo xtask <COMMAND>

Commands:
  check      Formatting, lints, the rules on dependencies and files, documentation, the code of
             the fuzz targets, all tests
  fix        Format the sources and apply the lints' own suggestions
  failover   Kill (or stop) the leader of a local cluster again and again, and report for how
             long writes paused. Options: --runs N (10), --signal kill|stop (kill), --nodes N (3)
  bench-report   Measure etcd and Quorate side by side, and write a page with plots and a table
             of medians. Options: --etcd PATH (etcd), --rounds N (5), --seconds N (4), --nodes N
             (3), --only put,get-256,sget,watch,leases,keys, --output FOLDER; see docs/benchmarks.md
  engines-report   Compare Raft and Paxos in simulated time, and write a page with plots and tables
             to target/engines-report. Options: --seeds N (100), --output FOLDER
  fuzz       Run the fuzz targets, one after the other; needs a nightly compiler. Options:
             --minutes N (1, each), names of targets (all); see docs/testing.md
  profile-guided   Release builds that have learnt from watching themselves work, the fastest there
             are, in target/profile-guided; needs llvm-profdata of the compiler's version. Options:
             quorate, quorate-sim (both); see docs/internals/performance.md
  help       Print this

`check` is what continuous integration runs first; it changes no file.";

/// Private items are documented as well, so a link to one leads somewhere.
const DOCUMENTATION: &str = "-D warnings -A rustdoc::private_intra_doc_links";

/// One command line, and what it is for.
struct Step {
    name: &'static str,
    program: &'static str,
    arguments: Vec<String>,
    /// Variables set for this step alone.
    environment: &'static [(&'static str, &'static str)],
}

impl Step {
    fn cargo(name: &'static str, arguments: &str) -> Step {
        Step {
            name,
            program: env!("CARGO"),
            arguments: arguments.split_whitespace().map(str::to_owned).collect(),
            environment: &[],
        }
    }

    fn script(name: &'static str, program: &'static str, arguments: Vec<String>) -> Step {
        Step {
            name,
            program,
            arguments,
            environment: &[],
        }
    }

    fn with_environment(mut self, environment: &'static [(&'static str, &'static str)]) -> Step {
        self.environment = environment;
        self
    }

    /// The command line as a person would type it.
    fn shown(&self) -> String {
        let mut words: Vec<String> = self
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        let is_cargo = self.program == env!("CARGO");
        words.push(if is_cargo { "cargo" } else { self.program }.to_owned());
        words.extend(self.arguments.iter().cloned());
        words.join(" ")
    }

    fn run(&self) -> bool {
        println!("--- {}: {}", self.name, self.shown());
        let status = Command::new(self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().copied())
            .status();
        match status {
            Ok(status) => status.success(),
            Err(error) => {
                eprintln!("cannot start {}: {error}", self.program);
                false
            }
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let command = arguments.next();
    let rest: Vec<String> = arguments.collect();
    match command.as_deref() {
        Some("check") if rest.is_empty() => run(&check_steps()),
        Some("fix") if rest.is_empty() => run(&fix_steps()),
        Some("failover") => run(&measuring_steps("failover", &rest)),
        Some("bench-report") => run(&measuring_steps("bench_report", &rest)),
        Some("engines-report") => run(&engines_report_steps(&rest)),
        Some("fuzz") => match fuzz_steps(&rest) {
            Some(steps) => run(&steps),
            None => {
                eprintln!("cargo xtask fuzz [--minutes N] [TARGET...]");
                ExitCode::from(2)
            }
        },
        Some("profile-guided") => {
            let script = "xtask/profile-guided";
            run(&[Step::script("profile-guided builds", script, rest)])
        }
        Some("help" | "--help" | "-h") | None => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!(
                "cargo xtask does not know `{}`\n\n{HELP}",
                [other, &rest.join(" ")].join(" ")
            );
            ExitCode::from(2)
        }
    }
}

/// The cheapest steps first, so that a slip shows within seconds.
fn check_steps() -> Vec<Step> {
    vec![
        Step::cargo("format", "fmt --all --check"),
        Step::cargo(
            "rules on dependencies and files",
            "test --quiet --package xtask",
        ),
        Step::cargo(
            "lints",
            "clippy --workspace --all-targets --quiet -- -D warnings",
        ),
        Step::cargo(
            "documentation",
            "doc --workspace --no-deps --document-private-items --quiet",
        )
        .with_environment(&[("RUSTDOCFLAGS", DOCUMENTATION)]),
        // Not the targets themselves: they want a nightly compiler.
        Step::cargo(
            "what is fuzzed",
            "check --quiet --manifest-path fuzz/Cargo.toml --lib --no-default-features \
             --target-dir target/fuzz",
        )
        .with_environment(&[("RUSTFLAGS", "-D warnings")]),
        Step::cargo("tests", "test --workspace --exclude xtask"),
    ]
}

fn fix_steps() -> Vec<Step> {
    vec![
        Step::cargo(
            "lints",
            "clippy --workspace --all-targets --fix --allow-dirty --allow-staged --quiet",
        ),
        Step::cargo("format", "fmt --all"),
    ]
}

/// Measured with the release build: the figures are for the users, who run that.
fn measuring_steps(example: &str, options: &[String]) -> Vec<Step> {
    let line = format!("run --release --quiet --package quorate --example {example} --");
    let mut measure = Step::cargo("measure", &line);
    measure.arguments.extend(options.iter().cloned());
    vec![
        Step::cargo("build", "build --release --package quorate"),
        measure,
    ]
}

/// In simulated time, so that only its own duration depends on the machine. With the profile of the
/// tests: what they have built is not built again, and what is left takes seconds.
fn engines_report_steps(options: &[String]) -> Vec<Step> {
    let line = "run --quiet --package quorate-consensus --example engines_report --";
    let mut compare = Step::cargo("compare", line);
    compare.arguments.extend(options.iter().cloned());
    vec![compare]
}

/// The targets and their script stand in a workspace of their own, `fuzz/`. `None` if the options
/// make no sense.
fn fuzz_steps(options: &[String]) -> Option<Vec<Step>> {
    let mut options = options.iter();
    let mut minutes = 1u64;
    let mut targets = Vec::new();
    while let Some(option) = options.next() {
        match option.as_str() {
            "--minutes" => minutes = options.next()?.parse().ok()?,
            target if target.starts_with('-') => return None,
            target => targets.push(target.to_owned()),
        }
    }
    let mut arguments = vec![(minutes * 60).to_string()];
    arguments.extend(targets);
    Some(vec![Step::script("fuzz", "fuzz/run", arguments)])
}

/// Runs the steps in order, stops at the first that fails, and says how long each took.
fn run(steps: &[Step]) -> ExitCode {
    let mut taken: Vec<(&str, Duration)> = Vec::with_capacity(steps.len());
    for step in steps {
        let started = Instant::now();
        let passed = step.run();
        taken.push((step.name, started.elapsed()));
        if !passed {
            eprintln!(
                "FAILED: {}; to repeat it alone: {}",
                step.name,
                step.shown()
            );
            return ExitCode::FAILURE;
        }
    }
    println!();
    for (name, duration) in taken {
        println!("{:>8.1} s  {name}", duration.as_secs_f64());
    }
    println!("all {} steps passed", steps.len());
    ExitCode::SUCCESS
}
