//! Long reads, which run beside the node's thread: on threads of a pool, so many at a time.
//!
//! ```text
//!   node ── job ──▶ waiting, first come first served ──▶ running ── answer ──▶ node
//!                      │ its call is over: let go of        │ its call is over: told so,
//!                      ▼                                    ▼ and ends at the next key
//! ```
//!
//! A job is there for a call of a client and holds a snapshot of the state. When the client gives
//! up, or is answered otherwise, nobody wants it any more. So there are never more jobs than calls,
//! whose number is bounded where they are let in; only the threads may be at work on a few others
//! for a moment.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use node::{Answer, CallId, Job};
use tokio::runtime::Handle;

use crate::inbox::Sender;
use crate::node_loop::Event;

/// The long reads of one node.
pub(crate) struct Jobs {
    runtime: Handle,
    reports: Sender<Event>,
    /// So many run at a time.
    most: usize,
    /// So many do, wanted or not.
    running: usize,
    /// In the order in which they came.
    waiting: BTreeMap<u64, (CallId, Job)>,
    last: u64,
    /// Those that are wanted.
    wanted: HashMap<CallId, Place>,
}

/// Where a job is.
enum Place {
    Waiting(u64),
    /// Whether it is wanted, for the thread that runs it.
    Running(Arc<AtomicBool>),
}

impl Jobs {
    pub(crate) fn new(runtime: Handle, reports: Sender<Event>, most: usize) -> Jobs {
        Jobs {
            runtime,
            reports,
            most,
            running: 0,
            waiting: BTreeMap::new(),
            last: 0,
            wanted: HashMap::new(),
        }
    }

    /// Takes a job in; it reports with [`Event::JobDone`].
    pub(crate) fn begin(&mut self, id: CallId, job: Job) {
        if self.running < self.most {
            return self.start(id, job);
        }
        self.last += 1;
        self.waiting.insert(self.last, (id, job));
        self.wanted.insert(id, Place::Waiting(self.last));
    }

    /// A call is over, for whatever reason.
    pub(crate) fn call_over(&mut self, id: CallId) {
        // Asked for every call, and nearly always there are no jobs.
        if self.wanted.is_empty() {
            return;
        }
        match self.wanted.remove(&id) {
            None => {}
            Some(Place::Running(is_wanted)) => is_wanted.store(false, Ordering::Relaxed),
            Some(Place::Waiting(number)) => {
                // What only its snapshot still holds may take long to let go of.
                let job = self.waiting.remove(&number);
                self.runtime.spawn_blocking(move || drop(job));
            }
        }
    }

    /// A job has reported, whether it was wanted to its end or not.
    pub(crate) fn ended(&mut self, id: CallId) {
        self.wanted.remove(&id);
        self.running -= 1;
        if let Some((_, (id, job))) = self.waiting.pop_first() {
            self.start(id, job);
        }
    }

    /// Nothing is wanted any more: the node has stopped.
    pub(crate) fn end(&mut self) {
        self.waiting.clear();
        for (_, place) in self.wanted.drain() {
            if let Place::Running(is_wanted) = place {
                is_wanted.store(false, Ordering::Relaxed);
            }
        }
    }

    fn start(&mut self, id: CallId, job: Job) {
        self.running += 1;
        let is_wanted = Arc::new(AtomicBool::new(true));
        let place = Place::Running(Arc::clone(&is_wanted));
        self.wanted.insert(id, place);
        let reports = self.reports.clone();
        self.runtime.spawn_blocking(move || {
            let wanted = Arc::new(move || is_wanted.load(Ordering::Relaxed));
            let run = AssertUnwindSafe(|| job.run(wanted));
            let answer = catch_unwind(run).unwrap_or_else(|_| {
                let error = etcd::Error::Internal("a read failed inside; please report this");
                Answer::Etcd(Err(error))
            });
            // A node that has stopped needs no answer.
            let _ = reports.send(Event::JobDone { id, answer });
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::{Duration, Instant};

    use tokio::runtime::Runtime;

    use super::*;
    use crate::inbox::{Receiver, inbox};

    /// A job that takes until nobody wants it; counts those that have begun.
    fn endless(begun: &Arc<AtomicUsize>) -> Job {
        let begun = Arc::clone(begun);
        Job::new(move |wanted| {
            begun.fetch_add(1, Ordering::Relaxed);
            while wanted() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Answer::Etcd(Err(etcd::Error::RequestCanceled))
        })
    }

    fn wait_until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next job that has reported.
    fn reported(receiver: &Receiver<Event>) -> CallId {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut events = Vec::new();
            receiver.take(&mut events);
            match events.pop() {
                Some(Event::JobDone { id, .. }) => return id,
                Some(_) => panic!("jobs report nothing else"),
                None => assert!(Instant::now() < deadline, "no job has reported"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Every read ran to its end, after all that had come before, however long its client had been
    /// gone: whoever asked again and again with a short deadline kept all threads busy, and held
    /// ever more snapshots.
    #[test]
    fn a_job_lasts_no_longer_than_its_call() {
        let runtime = Runtime::new().expect("threads can be started");
        let (reports, receiver) = inbox();
        let mut jobs = Jobs::new(runtime.handle().clone(), reports, 1);
        let begun = Arc::new(AtomicUsize::new(0));
        (1..=3).for_each(|id| jobs.begin(CallId(id), endless(&begun)));
        let has_begun = |count| begun.load(Ordering::Relaxed) == count;
        wait_until("the first job has begun", || has_begun(1));

        // One that waits is let go of, and never begins.
        jobs.call_over(CallId(2));
        wait_until("its job is gone", || Arc::strong_count(&begun) == 3);
        // One that runs ends, and makes room for the next.
        jobs.call_over(CallId(1));
        assert_eq!(reported(&receiver), CallId(1));
        jobs.ended(CallId(1));
        wait_until("the third job has begun", || has_begun(2));

        jobs.begin(CallId(4), endless(&begun));
        jobs.end();
        assert_eq!(reported(&receiver), CallId(3));
        jobs.ended(CallId(3));
        wait_until("all jobs are gone", || Arc::strong_count(&begun) == 1);
        assert!(has_begun(2), "what waited has never begun");
    }
}
