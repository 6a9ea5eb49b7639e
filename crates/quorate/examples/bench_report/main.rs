//! Measures etcd and Quorate side by side and writes the report: `cargo xtask bench-report`.
//!
//! ```text
//!   for each round:
//!     for each group of workloads:
//!       etcd, then quorate (the other way round in every second round):
//!         nodes on an empty folder ──> quorate bench ──> figures
//!   medians and spreads ──> table.md, report.html, results.json
//! ```
//!
//! Both run as users run them: processes with default settings, each write synced to disk before
//! it is acknowledged, driven by one and the same client. They never run at the same time.

#![allow(clippy::print_stdout, reason = "prints what it does and has measured")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program"
)]

mod page;
mod runs;
mod servers;
mod summary;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;

use crate::runs::{GROUPS, Measurement, Settings, Workload, run_group};
use crate::servers::{Binaries, System};

/// How do etcd and Quorate compare on this machine?
#[derive(Debug, Parser)]
struct Options {
    /// The etcd to compare with
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// The quorate to measure and to drive with [default: the one built with this program]
    #[arg(long)]
    quorate: Option<PathBuf>,
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How long each load lasts, in seconds
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    nodes: u16,
    /// Only workloads whose name begins so: put, get-256, sget, watch, leases, keys
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    only: Vec<String>,
    /// How many keys the workload `keys` fills a node with
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Where the report is written
    #[arg(long, default_value = "target/bench-report")]
    output: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let options = Options::parse();
    let groups = chosen(&options.only)?;
    let settings = Settings {
        binaries: Binaries {
            etcd: options.etcd.clone(),
            quorate: match &options.quorate {
                Some(quorate) => quorate.clone(),
                None => built_beside()?,
            },
        },
        nodes: usize::from(options.nodes),
        seconds: options.seconds,
        keys: options.keys,
    };
    let facts = facts(&settings, &options)?;
    for fact in &facts {
        println!("{fact}");
    }
    fs::create_dir_all(&options.output)?;
    let mut measured = Vec::new();
    for round in 0..usize::from(options.rounds) {
        println!("round {} of {}", round + 1, options.rounds);
        for group in &groups {
            let mut systems = System::ALL;
            if round % 2 == 1 {
                systems.reverse();
            }
            for system in systems {
                let found = run_group(&settings, system, round, group).await?;
                found.iter().for_each(say);
                measured.extend(found);
            }
        }
        // After every round, so that a run which is interrupted leaves what it has.
        write_report(&options.output, &measured, &facts)?;
    }
    println!("\n{}", summary::markdown(&measured));
    println!(
        "Written to {}",
        options.output.join("report.html").display()
    );
    Ok(())
}

/// The workloads whose names begin with one of these; all, if there are none.
fn chosen(only: &[String]) -> io::Result<Vec<Vec<Workload>>> {
    let matches = |workload: &Workload, wanted: &str| workload.name().starts_with(wanted);
    for wanted in only {
        if !GROUPS
            .concat()
            .iter()
            .any(|workload| matches(workload, wanted))
        {
            let names: Vec<String> = GROUPS.concat().into_iter().map(Workload::name).collect();
            let names = names.join(", ");
            let problem = format!("there is no workload {wanted:?}; there are {names}");
            return Err(io::Error::other(problem));
        }
    }
    let is_chosen = |workload: &Workload| {
        only.is_empty() || only.iter().any(|wanted| matches(workload, wanted))
    };
    let groups = GROUPS
        .iter()
        .map(|group| group.iter().copied().filter(is_chosen).collect());
    Ok(groups
        .filter(|group: &Vec<Workload>| !group.is_empty())
        .collect())
}

/// An example lies in `examples/` beside the binary that was built with it.
fn built_beside() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).map(Path::to_owned);
    Ok(folder.unwrap_or_default().join("quorate"))
}

/// What a reader must know to judge the figures.
fn facts(settings: &Settings, options: &Options) -> io::Result<Vec<String>> {
    let version = |system| {
        let path = settings.binaries.of(system).display();
        let version = settings.binaries.version(system);
        version.map_err(|error| io::Error::other(format!("{path} cannot be run: {error}")))
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let about = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = about
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = Command::new("date")
        .args(["-u", "+%F %H:%M UTC"])
        .output()?;
    Ok(vec![
        format!("{}; {}", version(System::Etcd)?, version(System::Quorate)?),
        format!("{processors} processors ({model}), Linux {}", kernel.trim()),
        format!("begun {}", String::from_utf8_lossy(&date.stdout).trim()),
        format!(
            "{} nodes, client on the same machine; {} rounds of {} s, 256-byte values, 10,000 keys",
            settings.nodes, options.rounds, options.seconds
        ),
    ])
}

/// One line for a run that has just ended.
fn say(one: &Measurement) {
    let figures: Vec<String> = one
        .figures
        .iter()
        .map(|(name, value)| format!("{name} {}", summary::number(*value)))
        .collect();
    let outcome = match &one.problem {
        Some(problem) => problem.clone(),
        None => figures.join(", "),
    };
    println!("  {:<12} {:<8} {outcome}", one.workload, one.system.name());
}

fn write_report(folder: &Path, measured: &[Measurement], facts: &[String]) -> io::Result<()> {
    let tables = summary::markdown(measured);
    let mut text = String::new();
    for fact in facts {
        text.push_str(&format!("- {fact}\n"));
    }
    fs::write(folder.join("table.md"), format!("{text}\n{tables}"))?;
    let page = page::page(measured, facts, &tables);
    fs::write(folder.join("report.html"), page)?;
    let results = serde_json::to_string_pretty(measured).map_err(io::Error::other)?;
    fs::write(folder.join("results.json"), results)
}
