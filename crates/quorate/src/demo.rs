//! A cluster on this machine that loses its leader while clients write, and loses nothing else.
//!
//! ```text
//!   start ──> write ───────────────────────────────────────> stop ──> read every node ──> stay
//!                     kill -9 the leader      start it again
//!             0 s     2 s                     4 s            6 s
//! ```
//!
//! It is the first thing a newcomer runs, so it is honest: real processes, the binary that is
//! used in earnest, default settings, the public protocol, and a check that can fail.

use std::io;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::chaos::chaos;
use crate::command_line::Demo;
use crate::load::{Books, Load};
use crate::local::LocalCluster;
use crate::table::thousands;

/// Clients that write at once.
const WRITERS: usize = 32;
/// How long is written before the kill, while the leader is dead, and after its return.
const PHASE: Duration = Duration::from_secs(2);
/// How often the progress bar moves.
const FRAME: Duration = Duration::from_millis(50);

/// Runs the demonstration; the last thing to be printed.
///
/// # Errors
/// A node cannot be started, or a write that was acknowledged is lost.
#[allow(
    clippy::print_stdout,
    reason = "it tells a person what happens, while it happens"
)]
pub(crate) async fn demo(options: &Demo) -> io::Result<String> {
    let mut folder = tempfile::Builder::new().prefix("quorate-demo-").tempdir()?;
    // Dropping what is shown ends the nodes, wherever it has come to.
    let outcome = tokio::select! {
        outcome = async {
            match options.chaos {
                true => chaos(options, folder.path()).await,
                false => show(options, folder.path()).await,
            }
        } => outcome,
        _ = tokio::signal::ctrl_c() => Ok("\nStopped; the nodes and their folder are gone.".into()),
    };
    outcome.map_err(|error| {
        // What the nodes said is what explains it.
        folder.disable_cleanup(true);
        io::Error::other(format!(
            "{error}\nThe nodes' logs: {}/n*/log",
            folder.path().display()
        ))
    })
}

#[allow(
    clippy::print_stdout,
    reason = "it tells a person what happens, while it happens"
)]
async fn show(options: &Demo, folder: &std::path::Path) -> io::Result<String> {
    println!(
        "Starting {} nodes on this machine, in {}",
        options.nodes,
        folder.display()
    );
    let binary = std::env::current_exe()?;
    let mut cluster = LocalCluster::new(&binary, folder, usize::from(options.nodes))?;
    cluster.start_all().await?;
    let leader = cluster.leader().await?;
    println!(
        "They have formed a cluster; {} leads.\n",
        cluster.nodes()[leader].name
    );

    let books = write_through_a_failure(&mut cluster, leader).await?;
    verify(&cluster, &books).await?;
    if options.once {
        return Ok("Nothing was lost.".to_owned());
    }

    println!(
        "Nothing was lost. The cluster is yours until Ctrl-C:\n\n{}",
        invitation(&cluster)
    );
    std::future::pending().await // the caller waits for Ctrl-C
}

/// Writes without a break while the leader is killed and comes back.
async fn write_through_a_failure(cluster: &mut LocalCluster, leader: usize) -> io::Result<Books> {
    let name = cluster.nodes()[leader].name.clone();
    let bar = ProgressBar::new(3 * PHASE.as_millis() as u64).with_style(
        ProgressStyle::with_template("{bar:40} {msg}").expect("the template is well formed"),
    );
    let load = Load::start(&cluster.endpoints(), WRITERS, "demo").map_err(io::Error::other)?;
    let started = Instant::now();

    pass(&bar, &load, started + PHASE, "all nodes are up").await;
    load.forget_pauses();
    cluster.kill(leader);
    say(
        &bar,
        &format!("kill -9 {name}, the leader, at {} writes", written(&load)),
    );
    pass(&bar, &load, started + 2 * PHASE, &format!("{name} is dead")).await;
    let successor = cluster.leader().await?;
    let pause = load.longest_pause();
    let successor_name = cluster.nodes()[successor].name.clone();
    say(
        &bar,
        &format!(
            "{successor_name} leads now; writes paused for {} ms",
            pause.as_millis()
        ),
    );

    cluster.start(leader)?;
    pass(
        &bar,
        &load,
        started + 3 * PHASE,
        &format!("{name} was started again"),
    )
    .await;
    let books = load.finish().await;
    cluster.ready(leader).await?;
    say(&bar, &format!("{name} is back and catches up"));
    bar.finish_and_clear();
    Ok(books)
}

/// Moves the bar until a moment has come.
async fn pass(bar: &ProgressBar, load: &Load, until: Instant, state: &str) {
    let length = bar.length().unwrap_or_default();
    let phase_start = bar.position();
    let began = Instant::now();
    while Instant::now() < until {
        let position = phase_start + began.elapsed().as_millis() as u64;
        bar.set_position(position.min(length));
        bar.set_message(format!("{} writes acknowledged; {state}", written(load)));
        tokio::time::sleep(FRAME).await;
    }
}

/// A line above the bar; where the output is no terminal (a log), a line.
#[allow(
    clippy::print_stdout,
    reason = "it tells a person what happens, while it happens"
)]
fn say(bar: &ProgressBar, line: &str) {
    bar.suspend(|| println!("  {line}"));
}

fn written(load: &Load) -> String {
    thousands(load.counts().acknowledged)
}

/// Looks for every acknowledged write on every node, the one that was dead included.
#[allow(
    clippy::print_stdout,
    reason = "it tells a person what happens, while it happens"
)]
async fn verify(cluster: &LocalCluster, books: &Books) -> io::Result<()> {
    let counts = books.counts;
    println!(
        "\n{} writes were acknowledged; {} met the failure and ended in an error, {} in silence.",
        thousands(counts.acknowledged),
        thousands(counts.failed),
        thousands(counts.unanswered)
    );
    let mut lost = 0;
    for node in cluster.nodes() {
        let missing = books
            .missing_on(&node.etcd)
            .await
            .map_err(io::Error::other)?;
        let found = counts.acknowledged - missing;
        let verdict = if missing == 0 {
            "all there"
        } else {
            "LOST WRITES"
        };
        println!(
            "  {}: {} of {} found: {verdict}",
            node.name,
            thousands(found),
            thousands(counts.acknowledged)
        );
        lost += missing;
    }
    if lost > 0 {
        return Err(io::Error::other(format!(
            "{lost} acknowledged writes are missing"
        )));
    }
    Ok(())
}

/// What to type into another terminal.
fn invitation(cluster: &LocalCluster) -> String {
    let endpoints = cluster.endpoints().join(",");
    let admin = &cluster.nodes()[0].admin;
    format!(
        "  export ETCDCTL_API=3 ETCDCTL_ENDPOINTS={endpoints}\n\
         \x20 etcdctl put greeting hello\n\
         \x20 etcdctl get greeting\n\
         \x20 etcdctl get load/ --prefix --limit 5\n\
         \x20 etcdctl endpoint status --write-out table\n\
         \x20 quorate status --admin {admin}\n"
    )
}
