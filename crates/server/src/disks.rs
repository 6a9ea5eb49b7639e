//! The disk threads: they carry out what the journal and the checkpoints ask for.
//!
//! ```text
//!   node's thread ──Vec<Errand>──▶ [journal lane]    ── pwrite, pwrite, fdatasync ────┐
//!                 ──Vec<Errand>──▶ [background lane] ── zeros, reads, renames ────────┤
//!        sink ◀──────────────────────── Completed ◀────────┬──────────────────────────┘
//!        peers ◀─ what waited for nothing but the sync ─────┘
//! ```
//!
//! A thread per lane, blocking calls, no asynchronous interface of the kernel: with one log per
//! disk there is one sync under way at a time anyway, and what waits behind it becomes the next
//! group. Everything that has queued up in the meantime for one file is written with as few calls
//! as possible and made durable by **one** sync. The background lane gives way: before each piece
//! of its work it waits a moment while the journal is busy, because both share the device's queue.
//!
//! What is true as soon as a request has succeeded (an acknowledgement to the leader, most of all)
//! comes along with it and leaves from the disk's thread: it would wait for the node's thread to
//! wake up otherwise.
//!
//! - [`direct`]: writes past the page cache.
//! - [`files`]: the open files, and each single operation.
//! - [`group`]: which requests share a sync.

mod direct;
mod files;
mod group;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use bytes::Bytes;
use journal::disk::{Completion, DiskError, Lane, Operation, Request, RequestId};

use crate::limits::DiskLimits;
use crate::metrics::Metrics;
use files::Files;

/// Takes the completions of a group; called by the disk threads.
pub(crate) type Sink = Arc<dyn Fn(Completed) + Send + Sync>;

/// The requests of a group have ended.
#[derive(Debug)]
pub(crate) struct Completed {
    /// How each ended, in their order.
    pub(crate) completions: Vec<Completion>,
    /// Not all of them have succeeded and had something to be done then, which has been done.
    pub(crate) is_urgent: bool,
}

/// A request, and what is to be done once it has succeeded.
pub(crate) struct Errand {
    pub(crate) request: Request,
    /// Runs on the disk's thread, before the completion is handed over. It must not wait.
    pub(crate) then: Option<Then>,
}

/// Something to be done on a disk's thread.
pub(crate) type Then = Box<dyn FnOnce() + Send>;

impl From<Request> for Errand {
    fn from(request: Request) -> Errand {
        Errand {
            request,
            then: None,
        }
    }
}

/// What waits in a lane.
enum Job {
    Errand(Errand),
    /// Something else to be done on this thread, in its turn.
    Run(Box<dyn FnOnce() + Send>),
}

/// The threads of one data folder.
pub(crate) struct Disks {
    journal: Sender<Vec<Job>>,
    background: Sender<Vec<Job>>,
    /// For each thread, what is disconnected when it ends.
    ended: Vec<Receiver<()>>,
}

/// A disk thread has ended although nobody asked it to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ThreadGone;

impl Disks {
    /// Starts the threads.
    pub(crate) fn start(
        folder: PathBuf,
        limits: &DiskLimits,
        metrics: &Metrics,
        sink: Sink,
    ) -> std::io::Result<Disks> {
        let files = Arc::new(Files::new(folder, limits.clone()));
        let journal_is_busy = Arc::new(AtomicBool::new(false));
        let mut threads_ended = Vec::new();
        let mut start = |lane: Lane, name: &str| {
            let (sender, receiver) = channel();
            let worker = Worker {
                lane,
                receiver,
                queue: VecDeque::new(),
                files: Arc::clone(&files),
                journal_is_busy: Arc::clone(&journal_is_busy),
                limits: limits.clone(),
                metrics: metrics.clone(),
                sink: Arc::clone(&sink),
            };
            let (running, ended) = channel();
            Builder::new().name(name.into()).spawn(move || {
                worker.run();
                drop(running);
            })?;
            threads_ended.push(ended);
            std::io::Result::Ok(sender)
        };
        let journal = start(Lane::Journal, "disk-journal")?;
        let background = start(Lane::Background, "disk-background")?;
        Ok(Disks {
            journal,
            background,
            ended: threads_ended,
        })
    }

    /// Hands over requests, in order; `errands` is empty afterwards.
    pub(crate) fn submit(&self, errands: &mut Vec<Errand>) -> Result<(), ThreadGone> {
        let mut journal = Vec::new();
        let mut background = Vec::new();
        for errand in errands.drain(..) {
            match errand.request.lane {
                Lane::Journal => journal.push(Job::Errand(errand)),
                Lane::Background => background.push(Job::Errand(errand)),
            }
        }
        for (jobs, sender) in [(journal, &self.journal), (background, &self.background)] {
            if !jobs.is_empty() {
                sender.send(jobs).map_err(|_| ThreadGone)?;
            }
        }
        Ok(())
    }

    /// Runs something on the journal's thread, after everything submitted to it before.
    pub(crate) fn run(&self, job: Box<dyn FnOnce() + Send>) -> Result<(), ThreadGone> {
        self.journal
            .send(vec![Job::Run(job)])
            .map_err(|_| ThreadGone)
    }

    /// Lets the threads finish what they were given, then ends them. A disk that hangs is not
    /// waited for any longer than `patience`; its threads then end with the process.
    pub(crate) fn stop(self, patience: Duration) {
        drop((self.journal, self.background));
        let deadline = Instant::now() + patience;
        for ended in self.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            // Nothing is ever sent: the sender is dropped when the thread ends, even by a panic,
            // which has been reported where it happened.
            if ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("the disk does not answer; stopping without it");
                return;
            }
        }
    }
}

/// One lane's thread.
struct Worker {
    lane: Lane,
    receiver: Receiver<Vec<Job>>,
    queue: VecDeque<Job>,
    files: Arc<Files>,
    journal_is_busy: Arc<AtomicBool>,
    limits: DiskLimits,
    metrics: Metrics,
    sink: Sink,
}

impl Worker {
    fn run(mut self) {
        while self.fill() {
            match self.queue.pop_front().expect("fill found a job") {
                Job::Run(job) => job(),
                Job::Errand(errand) => {
                    let completed = self.carry_out(errand);
                    (self.sink)(completed);
                }
            }
        }
    }

    /// Makes sure that a job waits, and takes in whatever else has arrived: the longer a sync
    /// took, the more the next one serves. False when no more jobs will come.
    fn fill(&mut self) -> bool {
        if self.queue.is_empty() {
            self.set_busy(false);
            match self.receiver.recv() {
                Ok(jobs) => self.queue.extend(jobs),
                Err(_) => return false,
            }
            self.set_busy(true);
        }
        while let Ok(jobs) = self.receiver.try_recv() {
            self.queue.extend(jobs);
        }
        true
    }

    fn set_busy(&self, busy: bool) {
        if self.lane == Lane::Journal {
            self.journal_is_busy.store(busy, Ordering::Relaxed);
        }
    }

    /// Carries out one request, or a group that begins with it.
    fn carry_out(&mut self, first: Errand) -> Completed {
        if self.lane == Lane::Background {
            give_way(&self.journal_is_busy, self.limits.give_way);
        }
        let completed = match first.request.operation {
            Operation::Write { .. } | Operation::Sync { .. } => self.carry_out_group(first),
            Operation::CreateZeroed { file, length } => {
                let pause = || match self.lane {
                    Lane::Journal => {}
                    Lane::Background => give_way(&self.journal_is_busy, self.limits.give_way),
                };
                let result = self.files.create_zeroed(file, length, pause);
                if result.is_ok() {
                    self.count_written(length);
                }
                let result = result.map(|()| Bytes::new());
                Completed::one(first.request.id, result, first.then)
            }
            operation => {
                let result = self.files.carry_out(operation);
                Completed::one(first.request.id, result, first.then)
            }
        };
        let failures = completed
            .completions
            .iter()
            .filter(|completion| completion.result.is_err())
            .count();
        if failures > 0 {
            self.metrics
                .disk_failures
                .get_or_create(&self.label())
                .inc_by(failures as u64);
        }
        completed
    }

    fn carry_out_group(&mut self, first: Errand) -> Completed {
        let group = self.take_group(first);
        let started = Instant::now();
        self.count_written(group.bytes() as u64);
        let synced = group.wants_sync();
        let length = group.len();
        let completed = group.carry_out(&self.files);
        if synced && self.lane == Lane::Journal {
            self.metrics
                .journal_sync_seconds
                .observe(started.elapsed().as_secs_f64());
            self.metrics.journal_group.observe(length as f64);
        }
        completed
    }

    /// Takes the requests that follow `first` and can share its sync.
    fn take_group(&mut self, first: Errand) -> group::Group {
        let mut group = group::Group::new(first);
        while group.bytes() < self.limits.group_bytes {
            match self.queue.pop_front() {
                Some(Job::Errand(errand)) => {
                    if let Err(stranger) = group.push(errand) {
                        self.queue.push_front(Job::Errand(stranger));
                        break;
                    }
                }
                Some(other) => {
                    self.queue.push_front(other);
                    break;
                }
                None => break,
            }
        }
        group
    }

    fn count_written(&self, bytes: u64) {
        self.metrics
            .disk_written_bytes
            .get_or_create(&self.label())
            .inc_by(bytes);
    }

    fn label(&self) -> crate::metrics::Label {
        match self.lane {
            Lane::Journal => [("lane", "journal")],
            Lane::Background => [("lane", "background")],
        }
    }
}

impl Completed {
    /// One request has ended; what was to be done then is done, if it has succeeded.
    fn one(id: RequestId, result: Result<Bytes, DiskError>, then: Option<Then>) -> Completed {
        let then = then.filter(|_| result.is_ok());
        let is_urgent = then.is_none();
        if let Some(then) = then {
            then();
        }
        Completed {
            completions: vec![Completion { id, result }],
            is_urgent,
        }
    }
}

/// Waits while the journal is busy, but not for ever.
fn give_way(journal_is_busy: &AtomicBool, longest: Duration) {
    const STEP: Duration = Duration::from_micros(200);
    let started = Instant::now();
    while journal_is_busy.load(Ordering::Relaxed) && started.elapsed() < longest {
        std::thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests;
