//! `quorate record`: clients at work on a running cluster, and all that they were told, as a
//! history that `quorate-sim check` judges.
//!
//! ```text
//!   clients ──▶ reads, writes, transactions ──▶ the cluster ◀── whatever is done to it meanwhile
//!      │  asked, answered                          │
//!      ▼                                           ▼ events
//!   history, a line each, in the order of real time ◀── watchers
//! ```
//!
//! Whoever restarts, kills or cuts off nodes meanwhile learns two things: how many calls ended in
//! an error, which is printed, and whether every answer was right, which the checker finds out.
//!
//! - [`operations`]: what clients do. [`translation`]: etcd's messages as lines of a history.
//!   [`watching`]: watchers, over all their connections.

mod operations;
mod translation;
mod watching;

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use checker::history::{
    Event, EventKind, Header, Initial, OperationId, Origin, Revision, Time, Writer,
};
use clap::Args;
use client::etcd::proto::etcdserverpb::RangeRequest;
use client::{Client, Options};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::bench::options::duration;

const EXAMPLES: &str = "\
Records what eight clients are told for half a minute, and has it judged. While it runs, do to the
cluster what it should bear: restart nodes, kill them, change members.
  quorate record history.jsonl --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 --duration 30s
  quorate-sim check history.jsonl

SIGINT or SIGTERM ends it early. Nobody else may write to the cluster meanwhile: a change that no
recorded client has made looks like a fault. The keys stay below --prefix.";

/// How the recording runs.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Record {
    /// The file to write
    file: PathBuf,
    /// The nodes; clients are spread over them
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        env = "QUORATE_ENDPOINTS",
        default_value = "127.0.0.1:2379"
    )]
    endpoints: Vec<String>,
    /// How long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// How many clients
    #[arg(long, value_name = "N", default_value_t = 8,
        value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,
    /// How many of them watch as well
    #[arg(long, value_name = "N", default_value_t = 2)]
    watchers: u64,
    /// How many keys there are
    #[arg(long, value_name = "N", default_value_t = 12,
        value_parser = clap::value_parser!(u64).range(1..=100_000))]
    keys: u64,
    /// How many calls a second at most, of all clients together
    #[arg(long, value_name = "PER SECOND", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// What all keys begin with
    #[arg(long, value_name = "TEXT", default_value = "record/")]
    prefix: String,
    /// Print one JSON object, for programs
    #[arg(long)]
    json: bool,
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The cluster does not answer, or the endpoints are none.
    #[error("the cluster cannot be asked: {0}")]
    Client(#[from] client::Error),
    /// The file.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// Signals cannot be taken.
    #[error("{0}")]
    System(io::Error),
}

/// What has come of it.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    events: AtomicU64,
    /// Connections of watchers that were lost.
    lost: AtomicU64,
    /// The longest that a call took which was answered.
    slowest_milliseconds: AtomicU64,
}

/// What all clients share.
#[derive(Debug)]
struct Shared {
    started: Instant,
    /// The history; what is told of it goes out in the order in which it is locked.
    history: Mutex<History>,
    counts: Counts,
    next_operation: AtomicU64,
    next_value: AtomicU64,
    is_over: AtomicBool,
}

/// The file, and what has become of it.
#[derive(Debug)]
struct History {
    writer: Writer<BufWriter<File>>,
    problem: Option<io::Error>,
}

impl Shared {
    /// Writes a line. A file that cannot be written ends the recording.
    fn tell(&self, event: EventKind) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Time(self.started.elapsed().as_nanos() as u64);
        if let Err(error) = history.writer.event(&Event { at, event }) {
            history.problem.get_or_insert(error);
            self.is_over.store(true, Ordering::Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn operation(&self) -> OperationId {
        OperationId(self.next_operation.fetch_add(1, Ordering::Relaxed))
    }

    /// A value that nothing else has written.
    fn value(&self) -> String {
        self.next_value.fetch_add(1, Ordering::Relaxed).to_string()
    }
}

/// What is recorded.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// The file to write.
    pub(crate) file: PathBuf,
    /// The nodes; each client begins with another one.
    pub(crate) endpoints: Vec<String>,
    /// Where the keys are; `None`: in `default`.
    pub(crate) keyspace: Option<String>,
    /// How patient the clients are.
    pub(crate) patience: Options,
    pub(crate) clients: u64,
    pub(crate) watchers: u64,
    /// How many keys there are.
    pub(crate) keys: u64,
    /// Calls a second at most, of all clients together.
    pub(crate) rate: u32,
    /// What all keys begin with.
    pub(crate) prefix: String,
}

/// What calls have led to so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) events: u64,
    /// Connections of watchers that were lost.
    pub(crate) lost: u64,
    pub(crate) slowest_milliseconds: u64,
}

/// Clients at work. They go on until [`Recording::finish`].
#[derive(Debug)]
pub(crate) struct Recording {
    work: Work,
    first: Client,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
}

impl Drop for Recording {
    fn drop(&mut self) {
        for task in self.clients.iter().chain(&self.watchers) {
            task.abort();
        }
    }
}

impl Recording {
    /// Begins.
    ///
    /// # Errors
    /// The cluster cannot be asked, or the file not be written.
    pub(crate) async fn start(work: Work) -> Result<Recording, Error> {
        let first = client(&work, 0)?;
        let shared = Arc::new(begin(&work, &first).await?);
        let mut watchers = Vec::new();
        for number in 0..work.watchers {
            let client = client(&work, number)?;
            let prefix = work.prefix.clone();
            let task = watching::watch(Arc::clone(&shared), client, number, prefix);
            watchers.push(tokio::spawn(task));
        }
        let mut clients = Vec::new();
        for number in 0..work.clients {
            let worker = operations::Worker {
                shared: Arc::clone(&shared),
                client: client(&work, number)?,
                number,
                prefix: work.prefix.clone(),
                keys: work.keys,
                pause: Duration::from_secs(1) * work.clients as u32 / work.rate,
            };
            clients.push(tokio::spawn(worker.run()));
        }
        Ok(Recording {
            work,
            first,
            shared,
            clients,
            watchers,
        })
    }

    /// Whether it has ended early, because the file cannot be written.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.is_over()
    }

    /// What has come of it so far.
    pub(crate) fn counted(&self) -> Counted {
        let counts = &self.shared.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counted {
            answered: read(&counts.answered),
            refused: read(&counts.refused),
            unknown: read(&counts.unknown),
            events: read(&counts.events),
            lost: read(&counts.lost),
            slowest_milliseconds: read(&counts.slowest_milliseconds),
        }
    }

    /// Ends the clients, and reads once more what must be there.
    ///
    /// # Errors
    /// The file could not be written.
    pub(crate) async fn finish(mut self) -> Result<Counted, Error> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            client.await.expect("a client does not panic");
        }
        // What was acknowledged must be there.
        let Work {
            clients, prefix, ..
        } = &self.work;
        operations::read_all(&self.shared, &self.first, *clients, prefix).await;
        for watcher in std::mem::take(&mut self.watchers) {
            watcher.abort();
            // It has been ended, or has ended before.
            let _ = watcher.await;
        }
        let history = self.shared.history.lock();
        let mut history = history.unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = history.problem.take() {
            return Err(failed(&self.work.file)(error));
        }
        let flushed = history.writer.flush();
        drop(history);
        flushed.map_err(failed(&self.work.file))?;
        Ok(self.counted())
    }
}

/// What `quorate record` prints.
pub(crate) async fn record(options: &Record) -> Result<String, Error> {
    let work = Work {
        file: options.file.clone(),
        endpoints: options.endpoints.clone(),
        keyspace: None,
        patience: Options::default(),
        clients: options.clients,
        watchers: options.watchers,
        keys: options.keys,
        rate: options.rate,
        prefix: options.prefix.clone(),
    };
    let recording = Recording::start(work).await?;
    until_over(options, &recording).await?;
    let counted = recording.finish().await?;
    Ok(report(options, counted))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |error| Error::File { path, error }
}

/// Each client begins with another node, so that all nodes have clients.
fn client(work: &Work, number: u64) -> Result<Client, client::Error> {
    let mut endpoints = work.endpoints.clone();
    let nodes = endpoints.len();
    endpoints.rotate_left(number as usize % nodes);
    let client = Client::new(&endpoints, work.patience)?;
    match &work.keyspace {
        Some(name) => client.in_keyspace(name),
        None => Ok(client),
    }
}

/// Begins the history: with the keyspace as it is, of which the clients see only what is theirs.
async fn begin(work: &Work, client: &Client) -> Result<Shared, Error> {
    let (key, range_end) = translation::below(&work.prefix);
    let request = RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        ..RangeRequest::default()
    };
    let found = client.range(request).await?;
    let cluster = found.header.map_or(0, |header| header.cluster_id);
    let version = client.status().await?.version;
    let mut header = Header::new(Origin::Live {
        cluster: format!("{cluster:x}"),
        commit: version,
    });
    header.initial = Initial {
        revision: Revision(found.header.map_or(1, |header| header.revision as u64)),
        keys: found.kvs.iter().map(translation::key_value).collect(),
        ..Initial::default()
    };
    let file = File::create(&work.file).map_err(failed(&work.file))?;
    let writer = Writer::new(BufWriter::new(file), &header).map_err(failed(&work.file))?;
    Ok(Shared {
        started: Instant::now(),
        history: Mutex::new(History {
            writer,
            problem: None,
        }),
        counts: Counts::default(),
        next_operation: AtomicU64::new(1),
        next_value: AtomicU64::new(1),
        is_over: AtomicBool::new(false),
    })
}

/// Until the time is up, somebody has had enough, or the file cannot be written.
async fn until_over(options: &Record, recording: &Recording) -> Result<(), Error> {
    const GLANCE: Duration = Duration::from_millis(20);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::System)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::System)?;
    let time_is_up = async {
        while recording.shared.started.elapsed() < options.duration && !recording.is_over() {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::select! {
        () = time_is_up => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn report(options: &Record, counted: Counted) -> String {
    let Counted {
        answered,
        refused,
        unknown,
        events,
        lost,
        slowest_milliseconds: slowest,
    } = counted;
    if options.json {
        let facts = json!({
            "answered": answered,
            "refused": refused,
            "unknown": unknown,
            "events": events,
            "watch_connections_lost": lost,
            "slowest_milliseconds": slowest,
        });
        return facts.to_string();
    }
    format!(
        "{answered} calls were answered, {refused} refused, of {unknown} the outcome is unknown; \
         the slowest answer took {slowest} ms\n{events} events were seen; {lost} connections of \
         watchers were lost\nto have it judged: quorate-sim check {}",
        options.file.display()
    )
}
