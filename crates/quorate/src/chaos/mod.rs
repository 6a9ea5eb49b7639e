//! `quorate demo --chaos`: a cluster that is hurt in the ways that machines have, one at a time,
//! heals by itself, and is judged at the end.
//!
//! ```text
//!   clients of every keyspace ──▶ nodes, processes as in earnest ◀── links ◀── kill, pause, cut
//!        │ what they were told        │ what they say of themselves           off, wipe, damage
//!        ▼                            ▼                                            ▲
//!   a history per keyspace        all is well? ──── yes ──▶ the next fault ────────┘
//!        │                            └ not within a minute: that is a failure
//!        ▼
//!   checker ──▶ verdict: linearizable, nothing acknowledged is lost
//! ```
//!
//! Nobody repairs anything here: a node is started again as a supervisor would, and nothing else is
//! done for it. The faults follow from the seed; what becomes of them does not, since processes and
//! disks have their own time.
//!
//! - [`faults`]: what is done. [`links`]: the network in between. [`sight`]: what the nodes say.
//! - [`picture`]: what a person sees.

mod faults;
mod links;
mod picture;
mod sight;

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use checker::Verdict;
use hyper::Method;
use serde_json::json;

use crate::admin;
use crate::command_line::Demo;
use crate::local::LocalCluster;
use crate::record::{Counted, Recording, Work};
use crate::table::{table, thousands};
use faults::{Fault, Kind, Plan};
use links::Links;
use picture::{Picture, View, clock};
use sight::{Keyspace, Sight};

/// How long all may take to be well again after a fault.
const HEALING: Duration = Duration::from_secs(60);
/// All is well once it was well that often in a row.
const LOOKS: u32 = 2;
/// Between two looks at the nodes.
const GLANCE: Duration = Duration::from_millis(250);
/// How long all stays well before the next fault.
const REST: Duration = Duration::from_secs(2);
/// How long a node runs with changed files before it is killed, if it has not found out.
const UNNOTICED: Duration = Duration::from_secs(3);
/// Clients of each keyspace.
const CLIENTS: u64 = 2;
/// Keys of each keyspace: few, so that clients meet.
const KEYS: u64 = 12;
/// Calls a second in all keyspaces together.
const RATE: u32 = 600;

/// Clients that go to another node soon: one that is paused shall not hold them up for long. What
/// they then do not know is a part of the history.
const PATIENCE: client::Options = client::Options {
    connect_timeout: Duration::from_millis(500),
    try_timeout: Duration::from_secs(2),
    deadline: Duration::from_secs(5),
    pause_min: Duration::from_millis(10),
    pause_max: Duration::from_millis(250),
    retry_writes: false,
    max_response_bytes: i32::MAX as usize,
};

/// A demonstration under way.
struct Chaos {
    cluster: LocalCluster,
    links: Links,
    addresses: Vec<(String, String)>,
    keyspaces: Vec<Keyspace>,
    recordings: Vec<(String, PathBuf, Recording)>,
    plan: Plan,
    picture: Picture,
    view: View,
    started: Instant,
    /// When calls were last counted, and how many.
    counted: (Instant, u64),
}

/// Runs the demonstration in a folder; the last thing to be printed.
///
/// # Errors
/// The cluster does not heal, or a promise to clients was broken.
pub(crate) async fn chaos(options: &Demo, folder: &Path) -> io::Result<String> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let mut chaos = Chaos::begin(options, seed, folder).await?;
    let outcome = chaos.strike_until_over().await;
    chaos.picture.end();
    let histories = chaos.finish().await?;
    outcome?;
    let faults = chaos.view.faults;
    let slowest = chaos.view.slowest_heal;
    // The nodes have done their part; the processor is the checker's.
    drop(chaos);
    let verdict = tokio::task::spawn_blocking(move || judge(&histories));
    let verdict = verdict.await.expect("the checker does not panic")?;
    Ok(format!(
        "{verdict}\n\n{faults} faults, each healed unattended, the slowest within {:.1} s. Every \
         keyspace is linearizable, and nothing that was acknowledged is lost. (seed {seed})",
        slowest.as_secs_f64()
    ))
}

impl Chaos {
    async fn begin(options: &Demo, seed: u64, folder: &Path) -> io::Result<Chaos> {
        let mut picture = Picture::new();
        let nodes = usize::from(options.nodes);
        picture.say(&format!(
            "Starting {nodes} nodes on this machine, in {} (seed {seed})",
            folder.display()
        ));
        let binary = std::env::current_exe()?;
        let cluster = LocalCluster::new(&binary, folder, nodes)?;
        // Gossip speaks past the links, and would not notice that one is cut.
        let mut cluster = cluster.with_links().with_flags(&["--gossip=false"]);
        let links = Links::start(&cluster).await?;
        for node in 0..nodes {
            cluster.start(node)?;
            links.know(&cluster);
        }
        for node in 0..nodes {
            cluster.ready(node).await?;
        }
        let addresses = sight::addresses(&cluster);
        let whole = Duration::from_secs_f64(options.minutes * 60.0);
        let mut chaos = Chaos {
            cluster,
            links,
            addresses,
            keyspaces: Vec::new(),
            recordings: Vec::new(),
            plan: Plan::new(seed, nodes),
            picture,
            view: View {
                seed,
                whole,
                now: "none yet".to_owned(),
                ..View::default()
            },
            started: Instant::now(),
            counted: (Instant::now(), 0),
        };
        chaos.create_keyspaces(options.keyspaces).await?;
        chaos.start_clients(folder).await?;
        chaos.started = Instant::now();
        Ok(chaos)
    }

    async fn create_keyspaces(&mut self, count: u16) -> io::Result<()> {
        self.picture.say(&format!(
            "Creating {count} keyspaces of three replicas, by Raft and by Multi-Paxos"
        ));
        for number in 1..=count {
            let engine = if number % 2 == 0 { "paxos" } else { "raft" };
            let body = json!({
                "names": [format!("ks-{number:02}")], "replicas": 3, "engine": engine,
            });
            let address = &self.cluster.nodes()[0].admin;
            let path = "/keyspaces/create";
            let created = admin::request(address, Method::POST, path, Some(&body)).await;
            created.map_err(io::Error::other)?;
        }
        // The first look may have been at a node that has not heard of the last one.
        while self.keyspaces.len() <= usize::from(count) {
            self.heal().await?;
            self.keyspaces.clone_from(&self.view.sight.keyspaces);
        }
        Ok(())
    }

    async fn start_clients(&mut self, folder: &Path) -> io::Result<()> {
        let histories = folder.join("histories");
        fs::create_dir_all(&histories)?;
        let names = self.keyspaces.iter().map(|each| each.name.clone());
        let names: Vec<String> = names.collect();
        for (number, name) in names.iter().enumerate() {
            let mut endpoints = self.cluster.endpoints();
            let nodes = endpoints.len();
            endpoints.rotate_left(number % nodes);
            let file = histories.join(format!("{name}.jsonl"));
            let work = Work {
                file: file.clone(),
                endpoints,
                keyspace: Some(name.clone()),
                patience: PATIENCE,
                clients: CLIENTS,
                watchers: 1,
                keys: KEYS,
                rate: (RATE / names.len() as u32).max(1),
                prefix: "chaos/".to_owned(),
            };
            let recording = Recording::start(work).await.map_err(io::Error::other)?;
            self.recordings.push((name.clone(), file, recording));
        }
        Ok(())
    }

    /// Faults, one after the other, until the time is up.
    async fn strike_until_over(&mut self) -> io::Result<()> {
        while self.started.elapsed() < self.view.whole {
            let fault = self.plan.next();
            let name = self.cluster.nodes()[fault.node].name.clone();
            self.view.faults += 1;
            self.view.since_heal = None;
            self.view.now = format!("{} {name}", fault.kind.verb());
            self.view.struck = Some((name.clone(), fault.kind.state()));
            let done = self.strike(fault).await?;
            self.view.struck = None;
            self.view.now = format!("{}, healing", self.view.now);
            let took = self.heal().await.map_err(|error| {
                let said = self.cluster.nodes()[fault.node].said();
                let lines: Vec<&str> = said.lines().collect();
                let last = lines[lines.len().saturating_sub(12)..].join("\n  ");
                io::Error::other(format!(
                    "{error}\nafter {done}; {name} said last:\n  {last}"
                ))
            })?;
            self.view.slowest_heal = self.view.slowest_heal.max(took);
            self.picture.say(&format!(
                "{:>6}  {:<44} all well {:.1} s later",
                clock(self.started.elapsed()),
                done,
                took.as_secs_f64()
            ));
            self.pass(REST, true).await?;
        }
        Ok(())
    }

    /// Does one fault, and what a supervisor does then; what was done.
    async fn strike(&mut self, fault: Fault) -> io::Result<String> {
        let Fault { kind, node, time } = fault;
        let name = self.cluster.nodes()[node].name.clone();
        let data = self.cluster.nodes()[node].data();
        let seconds = time.as_secs_f64();
        let done = format!("{} {name}", kind.verb());
        match kind {
            Kind::Kill | Kind::Wipe | Kind::DamageStopped => {
                self.cluster.kill(node);
                let done = match kind {
                    Kind::Wipe => {
                        faults::wipe(&data)?;
                        done
                    }
                    Kind::DamageStopped => format!("{done} {}", self.plan.damage(&data)?),
                    _ => format!("{done} for {seconds:.1} s"),
                };
                self.pass(time, false).await?;
                self.start(node)?;
                Ok(done)
            }
            Kind::Pause => {
                self.cluster.pause(node);
                self.pass(time, false).await?;
                self.cluster.resume(node);
                Ok(format!("{done} for {seconds:.1} s"))
            }
            Kind::CutOff => {
                self.links.cut_off(node);
                self.pass(time, false).await?;
                self.links.heal();
                Ok(format!("{done} for {seconds:.1} s"))
            }
            Kind::DamageRunning => {
                let damaged = self.plan.damage(&data)?;
                self.pass(UNNOTICED, false).await?;
                // What it has not read yet it reads at its next start, before another is hurt.
                self.cluster.kill(node);
                self.start(node)?;
                Ok(format!("{done} {damaged}"))
            }
        }
    }

    fn start(&mut self, node: usize) -> io::Result<()> {
        self.cluster.start(node)?;
        self.links.know(&self.cluster);
        Ok(())
    }

    /// Waits until all is well; how long that took.
    async fn heal(&mut self) -> io::Result<Duration> {
        let began = Instant::now();
        let mut well = 0;
        while well < LOOKS {
            self.look().await?;
            match self.view.sight.complaint() {
                None => well += 1,
                Some(complaint) if began.elapsed() > HEALING => {
                    return Err(io::Error::other(format!(
                        "not healed within {} s: {complaint}",
                        HEALING.as_secs()
                    )));
                }
                Some(_) => well = 0,
            }
        }
        Ok(began.elapsed())
    }

    /// Lets time pass, and shows what happens.
    async fn pass(&mut self, time: Duration, is_well: bool) -> io::Result<()> {
        let began = Instant::now();
        while began.elapsed() < time {
            if is_well {
                self.view.since_heal = Some(began.elapsed());
            }
            self.look().await?;
        }
        Ok(())
    }

    /// Looks at everything once, and shows it.
    async fn look(&mut self) -> io::Result<()> {
        let next = tokio::time::Instant::now() + GLANCE;
        let sight = Sight::of(&self.addresses, &self.keyspaces).await;
        if let Some(contradiction) = sight.contradiction() {
            return Err(io::Error::other(contradiction));
        }
        if self.recordings.is_empty() {
            self.keyspaces.clear();
        } else {
            self.keyspaces.clone_from(&sight.keyspaces);
        }
        self.view.sight = sight;
        for node in 0..self.cluster.nodes().len() {
            if let Some(status) = self.cluster.has_ended(node)? {
                let ended = &self.cluster.nodes()[node];
                let said = ended.said();
                let last = said.lines().next_back().unwrap_or_default();
                let problem = format!("{} ended by itself ({status}): {last}", ended.name);
                return Err(io::Error::other(problem));
            }
        }
        self.count()?;
        self.picture.draw(&self.view);
        tokio::time::sleep_until(next).await;
        Ok(())
    }

    fn count(&mut self) -> io::Result<()> {
        let mut sum = Counted::default();
        for (name, _, recording) in &self.recordings {
            if recording.is_over() {
                let problem = format!("the history of {name} cannot be written");
                return Err(io::Error::other(problem));
            }
            let counted = recording.counted();
            sum.answered += counted.answered;
            sum.refused += counted.refused;
            sum.unknown += counted.unknown;
        }
        let (at, before) = self.counted;
        let passed = at.elapsed();
        if passed >= Duration::from_secs(1) {
            let more = (sum.answered - before) as f64;
            self.view.per_second = (more / passed.as_secs_f64()) as u64;
            self.counted = (Instant::now(), sum.answered);
        }
        self.view.elapsed = self.started.elapsed();
        self.view.answered = sum.answered;
        self.view.refused = sum.refused;
        self.view.unknown = sum.unknown;
        Ok(())
    }

    /// Ends the clients; the histories by keyspace.
    async fn finish(&mut self) -> io::Result<Vec<(String, PathBuf)>> {
        let view = &self.view;
        self.picture.say(&format!(
            "{} calls answered, {} refused, {} of unknown outcome; ending the clients",
            thousands(view.answered),
            thousands(view.refused),
            thousands(view.unknown)
        ));
        let recordings = std::mem::take(&mut self.recordings);
        let ending: Vec<_> = recordings
            .into_iter()
            .map(|(name, file, recording)| (name, file, tokio::spawn(recording.finish())))
            .collect();
        let mut histories = Vec::new();
        for (name, file, task) in ending {
            let ended = task.await.expect("clients do not panic");
            ended.map_err(io::Error::other)?;
            histories.push((name, file));
        }
        Ok(histories)
    }
}

/// What the checker says of each keyspace.
fn judge(histories: &[(String, PathBuf)]) -> io::Result<String> {
    let mut rows = Vec::new();
    let mut broken = Vec::new();
    for (name, path) in histories {
        let file = BufReader::new(File::open(path)?);
        let report = checker::check(file, &checker::Options::default());
        let report =
            report.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        let verdict = match report.verdict() {
            Verdict::Ok => "linearizable",
            Verdict::Violation => "BROKEN",
            Verdict::Undecided => "undecided",
        };
        if report.verdict() != Verdict::Ok {
            broken.push(format!(
                "{name} is {verdict}: quorate-sim check {}\n{report}",
                path.display()
            ));
        }
        let counts = report.counts;
        rows.push(vec![
            name.clone(),
            thousands(counts.acknowledged),
            thousands(counts.unknown),
            thousands(counts.revisions),
            thousands(counts.watch_events),
            verdict.to_owned(),
        ]);
    }
    let heading = [
        "KEYSPACE",
        "ANSWERED",
        "UNKNOWN",
        "REVISIONS",
        "EVENTS",
        "VERDICT",
    ];
    let told = table(&heading, &rows);
    match broken.is_empty() {
        true => Ok(told),
        false => Err(io::Error::other(format!("{told}\n\n{}", broken.join("\n")))),
    }
}
