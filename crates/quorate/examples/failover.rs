//! Measures for how long writes pause when a leader is lost. By hand: `cargo xtask failover`.
//!
//! Each run starts a cluster of processes with default settings and steady writers at all nodes,
//! lets it work, kills (or pauses) the leader, and takes the longest time without an acknowledged
//! write. Median and worst of all runs are what the README states.

#![allow(clippy::print_stdout, reason = "prints what it has measured")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program"
)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use quorate::load::Load;
use quorate::local::LocalCluster;

/// How long a cluster works before it loses its leader, and how long it is watched afterwards.
const STEADY: Duration = Duration::from_millis(1_500);
const WATCHED: Duration = Duration::from_secs(4);
/// Clients that write at once.
const WRITERS: usize = 16;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Loss {
    /// SIGKILL: the process is gone, and the kernel closes its connections.
    Kill,
    /// SIGSTOP: the process keeps its connections and says nothing more.
    Stop,
}

/// How long do writes pause when the leader is lost?
#[derive(Debug, Parser)]
struct Options {
    #[arg(long, default_value_t = 10)]
    runs: usize,
    #[arg(long, value_enum, default_value = "kill")]
    signal: Loss,
    #[arg(long, default_value_t = 3)]
    nodes: usize,
}

/// One run: the pause, and how the writes ended.
async fn run(binary: &std::path::Path, options: &Options) -> std::io::Result<Duration> {
    let folder = tempfile::Builder::new()
        .prefix("quorate-failover-")
        .tempdir()?;
    let mut cluster = LocalCluster::new(binary, folder.path(), options.nodes)?;
    cluster.start_all().await?;
    let load =
        Load::start(&cluster.endpoints(), WRITERS, "failover").map_err(std::io::Error::other)?;
    tokio::time::sleep(STEADY).await;
    let leader = cluster.leader().await?;
    load.forget_pauses();
    let before = load.counts().acknowledged;
    match options.signal {
        Loss::Kill => cluster.kill(leader),
        Loss::Stop => cluster.pause(leader),
    }
    tokio::time::sleep(WATCHED).await;
    let pause = load.longest_pause();
    let after = load.counts();
    println!(
        "  {:>6.0} ms   {:>8} writes after the loss, {} ended in an error",
        pause.as_secs_f64() * 1e3,
        after.acknowledged - before,
        after.failed
    );
    cluster.resume(leader);
    Ok(pause)
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let options = Options::parse();
    // An example lies in `examples/` beside the binary that was built with it.
    let own = std::env::current_exe()?;
    let folder = own
        .parent()
        .and_then(std::path::Path::parent)
        .map(PathBuf::from);
    let binary = folder.unwrap_or_default().join("quorate");
    println!(
        "{:?} of the leader of {} nodes, {} runs",
        options.signal, options.nodes, options.runs
    );
    let mut pauses = Vec::new();
    for _ in 0..options.runs {
        pauses.push(run(&binary, &options).await?);
    }
    pauses.sort();
    if let (Some(median), Some(worst)) = (pauses.get(pauses.len() / 2), pauses.last()) {
        println!(
            "median {} ms, worst {} ms",
            median.as_millis(),
            worst.as_millis()
        );
    }
    Ok(())
}
