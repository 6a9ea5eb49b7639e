//! `quorate bench`: puts a load on servers that speak etcd's protocol, and says how they bear it.
//!
//! ```text
//!   options ──> thread: Links (sockets, epoll) <──> Load: Unary | Watch | Leases ──> Books ─┐
//!               thread: ...                                                                 │
//!               progress, on a terminal                         meters, tables <── Report <─┘
//! ```
//!
//! A driver shares the machine with the servers that it measures, or at least its own work with
//! their latency. So it is lean: no runtime, no task or allocation per request, one read and one
//! write for all that is ready on a connection. It says what it used itself, so that a reader can
//! judge whether it was in the way.

mod books;
mod endpoints;
mod http2;
mod keys;
mod latency;
mod lease;
mod limits;
mod links;
mod messages;
mod meter;
pub(crate) mod options;
mod report;
mod signing;
mod socket;
mod unary;
mod watch;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use self::books::Books;
use self::endpoints::Endpoint;
use self::lease::Leases;
use self::limits::Limits;
use self::links::{Links, Load};
use self::meter::Sample;
use self::options::{Bench, Workload};
use self::report::Report;
use self::unary::Unary;
use self::watch::Watch;
use crate::table::thousands;

/// How often the progress bar moves.
const FRAME: Duration = Duration::from_millis(100);

/// What threads tell while they run.
#[derive(Debug, Default)]
struct Progress {
    operations: AtomicU64,
    errors: AtomicU64,
    is_over: AtomicBool,
}

/// Runs the load; what is to be printed.
///
/// # Errors
/// The options make no sense, an endpoint cannot be reached, or nothing succeeded.
pub(crate) fn bench(options: &Bench) -> Result<String, String> {
    let mut endpoints = options.checked()?;
    let token = signing::sign_in(options)?;
    for endpoint in &mut endpoints {
        endpoint.token.clone_from(&token);
    }
    let progress = Arc::new(Progress::default());
    let began = Instant::now();
    let bar = show(options, &progress);
    let outcome = drive(options, &endpoints, began, &progress);
    progress.is_over.store(true, Ordering::Relaxed);
    bar.join().expect("the progress bar does not panic");
    let (books, window) = outcome?;
    let report = Report::new(options, &books, window);
    let text = if options.json {
        report.json()
    } else {
        report.text()
    };
    match (&books.aborted, books.operations) {
        (Some(reason), _) => Err(format!("{reason}; until then:\n{text}")),
        (None, 0) if report.errors > 0 => {
            let first = report.errors_by_text.keys().next();
            let first = first.map_or("no reason given", String::as_str);
            Err(format!("nothing succeeded ({first}):\n{text}"))
        }
        _ => Ok(text),
    }
}

/// Runs all threads to their end: what they found, and the meters when measuring began and ended.
fn drive(
    options: &Bench,
    endpoints: &[Endpoint],
    began: Instant,
    progress: &Arc<Progress>,
) -> Result<(Books, Window), String> {
    let limits = Limits::default();
    let shares = options.threads;
    let connections = match options.workload {
        Workload::Watch => {
            options.connection_count() + options.stalled + watch::writer_links(options)
        }
        _ => options.connection_count(),
    };
    // All are connected before the first request is sent.
    let mut all = Vec::with_capacity(shares);
    let mut first = 0;
    for share in 0..shares {
        let count = connections / shares + usize::from(share < connections % shares);
        all.push(Links::connect(endpoints, first, count, limits, began)?);
        first += count;
    }
    let threads = all.into_iter().enumerate().map(|(share, mut links)| {
        let options = options.clone();
        let progress = Arc::clone(progress);
        std::thread::spawn(move || carry(&options, limits, share, &mut links, &progress))
    });
    let mut books = Books::default();
    let mut window = None;
    for thread in threads.collect::<Vec<_>>() {
        let (share, measured) = thread.join().expect("a load does not panic");
        books.add(&share);
        // Threads measure at the same time; the first speaks for all.
        window = window.or(measured);
    }
    Ok((books, window))
}

/// Carries one thread's share of the load.
fn carry(
    options: &Bench,
    limits: Limits,
    share: usize,
    links: &mut Links,
    progress: &Progress,
) -> (Books, Window) {
    match options.workload {
        Workload::Watch => {
            let load = Watch::new(options, limits, links);
            run(
                options,
                links,
                load,
                progress,
                Watch::progress,
                Watch::finish,
            )
        }
        Workload::Lease => {
            let load = Leases::new(options, limits, links);
            run(
                options,
                links,
                load,
                progress,
                Leases::progress,
                Leases::finish,
            )
        }
        Workload::Put | Workload::Get | Workload::Txn | Workload::Mixed => {
            let now = links.now();
            let load = Unary::new(options, limits, share, options.threads, links, 0, now);
            run(
                options,
                links,
                load,
                progress,
                Unary::progress,
                Unary::finish,
            )
        }
    }
}

/// What the meters showed when measuring began and ended; `None` if it never began.
type Window = Option<(Sample, Sample)>;

/// Runs one thread's load to its end.
fn run<L: Load>(
    options: &Bench,
    links: &mut Links,
    mut load: L,
    progress: &Progress,
    counts: fn(&L) -> (u64, u64),
    finish: fn(L, &Links) -> Books,
) -> (Books, Window) {
    let mut told = (0, 0);
    let (mut first, mut last) = (None, None);
    links.run(&mut load, |load| {
        tell(progress, &mut told, counts(load));
        let place = match (load.is_measuring(), first.is_some()) {
            (true, false) => &mut first,
            (false, true) => &mut last,
            _ => return,
        };
        place.get_or_insert_with(|| meter::sample(&options.processes));
    });
    // Now: what connections and watches hold is gone with them.
    let memory = options.processes.iter().copied();
    let memory = memory.filter_map(meter::resident_bytes).collect();
    let mut books = finish(load, links);
    books.server_resident_bytes = memory;
    (books, first.zip(last))
}

/// Adds what has happened since it was last told.
fn tell(progress: &Progress, told: &mut (u64, u64), now: (u64, u64)) {
    let (operations, errors) = (now.0 - told.0, now.1 - told.1);
    if operations > 0 {
        progress.operations.fetch_add(operations, Ordering::Relaxed);
    }
    if errors > 0 {
        progress.errors.fetch_add(errors, Ordering::Relaxed);
    }
    *told = now;
}

/// Shows how far the run is, if there is someone to see it.
fn show(options: &Bench, progress: &Arc<Progress>) -> std::thread::JoinHandle<()> {
    let length = match (options.total, options.duration) {
        (Some(total), _) => total,
        (None, Some(duration)) => (options.warm_up + duration).as_millis() as u64,
        (None, None) => options.default_total(),
    };
    let by_time = options.total.is_none() && options.duration.is_some();
    let progress = Arc::clone(progress);
    std::thread::spawn(move || {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new(length).with_style(
            ProgressStyle::with_template("{bar:40} {msg}").expect("the template is well formed"),
        );
        let began = Instant::now();
        let mut before = 0;
        while !progress.is_over.load(Ordering::Relaxed) {
            std::thread::sleep(FRAME);
            let operations = progress.operations.load(Ordering::Relaxed);
            let errors = progress.errors.load(Ordering::Relaxed);
            let done = if by_time {
                began.elapsed().as_millis() as u64
            } else {
                operations
            };
            bar.set_position(done.min(length));
            let rate = (operations - before) as f64 / FRAME.as_secs_f64();
            bar.set_message(format!(
                "{} done, {} a second, {} errors",
                thousands(operations),
                thousands(rate as u64),
                thousands(errors)
            ));
            before = operations;
        }
        bar.finish_and_clear();
    })
}
