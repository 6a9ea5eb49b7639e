//! Many clients that write at once and keep books: what was acknowledged, and when.
//!
//! ```text
//!   writer 0 ──> n1, else n2, else n3       load/demo/00/000000, load/demo/00/000001, ...
//!   writer 1 ──> n2, else n3, else n1       load/demo/01/000000, ...
//!       └── on yes: note the write, and the moment
//! ```
//!
//! A writer owns its keys, uses each once, and goes to the next node when one fails, as any client
//! with a list of endpoints does. A write whose outcome is not known is not sent again: it is
//! simply not in the books. So every write in the books must be found, whatever happened.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use client::etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use client::{Client, Error, Options};
use tokio::task::JoinHandle;
use tonic::Code;

/// The first part of every key that is written here.
pub const PREFIX: &str = "load/";

/// How long a writer rests after a failure, so that a dead cluster is not asked a million times.
const REST: Duration = Duration::from_millis(5);

/// How many keys one read returns while verifying.
const PAGE: i64 = 5_000;

/// Writers at work. Ends with [`Load::finish`].
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Vec<u32>>>,
}

/// What all writers report to.
#[derive(Debug)]
struct Shared {
    name: String,
    stopped: AtomicBool,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    unanswered: AtomicU64,
    pause: Mutex<Pause>,
}

impl Shared {
    fn counts(&self) -> Counts {
        Counts {
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            unanswered: self.unanswered.load(Ordering::Relaxed),
        }
    }

    fn pause(&self) -> MutexGuard<'_, Pause> {
        self.pause
            .lock()
            .expect("no writer panics while it holds this")
    }
}

/// The longest time without an acknowledged write.
#[derive(Debug)]
struct Pause {
    last: Instant,
    longest: Duration,
}

impl Pause {
    fn acknowledged(&mut self, now: Instant) {
        self.longest = self.longest.max(now.saturating_duration_since(self.last));
        self.last = self.last.max(now);
    }
}

/// How many writes there were, and how they ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged.
    pub acknowledged: u64,
    /// Answered with an error: these may have happened or not.
    pub failed: u64,
    /// Not answered at all, within a time that is beyond every limit of the nodes.
    pub unanswered: u64,
}

/// What was acknowledged.
#[derive(Debug)]
pub struct Books {
    name: String,
    /// Numbers, writer by writer.
    acknowledged: Vec<Vec<u32>>,
    /// How the writes ended.
    pub counts: Counts,
}

impl Load {
    /// Sets `writers` clients to work on the nodes at `endpoints` (`host:port`). Their keys lie
    /// below [`PREFIX`] and `name`, which no two loads on one cluster may share.
    ///
    /// # Errors
    /// An endpoint is no address.
    pub fn start(endpoints: &[String], writers: usize, name: &str) -> Result<Load, Error> {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            stopped: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            pause: Mutex::new(Pause {
                last: Instant::now(),
                longest: Duration::ZERO,
            }),
        });
        let mut tasks = Vec::with_capacity(writers);
        for writer in 0..writers {
            // Each begins with another node, so that all nodes have clients.
            let mut endpoints = endpoints.to_vec();
            let nodes = endpoints.len();
            endpoints.rotate_left(writer % nodes);
            let client = Client::new(&endpoints, Options::default())?;
            tasks.push(tokio::spawn(write(writer, client, Arc::clone(&shared))));
        }
        Ok(Load {
            shared,
            writers: tasks,
        })
    }

    /// How the writes have ended so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// From now on the longest pause is measured anew.
    pub fn forget_pauses(&self) {
        *self.shared.pause() = Pause {
            last: Instant::now(),
            longest: Duration::ZERO,
        };
    }

    /// The longest time without an acknowledged write, the one that lasts now included.
    #[must_use]
    pub fn longest_pause(&self) -> Duration {
        let pause = self.shared.pause();
        pause.longest.max(pause.last.elapsed())
    }

    /// Lets every writer end its write, and returns the books.
    ///
    /// # Panics
    /// If a writer panicked, which is a bug of it.
    pub async fn finish(self) -> Books {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::with_capacity(self.writers.len());
        for writer in self.writers {
            acknowledged.push(writer.await.expect("a writer does not panic"));
        }
        Books {
            name: self.shared.name.clone(),
            acknowledged,
            counts: self.shared.counts(),
        }
    }
}

impl Books {
    /// Reads everything on one node, without asking the others, and counts the acknowledged
    /// writes that are not there as they were written.
    ///
    /// # Errors
    /// The node refuses a read or does not answer.
    pub async fn missing_on(&self, endpoint: &str) -> Result<u64, Error> {
        let found = read_all(endpoint, &format!("{PREFIX}{}/", self.name)).await?;
        let mut missing = 0;
        for (writer, numbers) in self.acknowledged.iter().enumerate() {
            for number in numbers {
                let expected = value(writer, *number);
                if found.get(key(&self.name, writer, *number).as_bytes()) != Some(&expected) {
                    missing += 1;
                }
            }
        }
        Ok(missing)
    }
}

fn key(name: &str, writer: usize, number: u32) -> String {
    format!("{PREFIX}{name}/{writer:02}/{number:06}")
}

/// Says which write it is, so that a value under a wrong key is found as well.
fn value(writer: usize, number: u32) -> Vec<u8> {
    format!("write {number} of writer {writer}").into_bytes()
}

/// Writes until it is told to stop; the numbers that were acknowledged.
async fn write(writer: usize, client: Client, shared: Arc<Shared>) -> Vec<u32> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if shared.stopped.load(Ordering::Relaxed) {
            break;
        }
        let put = PutRequest {
            key: key(&shared.name, writer, number).into(),
            value: value(writer, number).into(),
            ..PutRequest::default()
        };
        match client.put(put).await {
            Ok(_) => {
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                shared.pause().acknowledged(Instant::now());
                acknowledged.push(number);
            }
            Err(error) => {
                let silent = matches!(&error, Error::OutcomeUnknown(status)
                    if status.code() == Code::DeadlineExceeded);
                let count = if silent {
                    &shared.unanswered
                } else {
                    &shared.failed
                };
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(REST).await;
            }
        }
    }
    acknowledged
}

/// All keys below a prefix, as one node has them.
async fn read_all(endpoint: &str, prefix: &str) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
    let client = Client::new([endpoint], Options::default())?;
    // A linearizable read waits until this node has executed all that was acknowledged so far;
    // what follows are serializable reads, which show what is on this node and nowhere else.
    let barrier = RangeRequest {
        key: prefix.to_owned().into(),
        ..RangeRequest::default()
    };
    client.range(barrier).await?;
    let mut found = BTreeMap::new();
    let mut start = prefix.as_bytes().to_vec();
    let mut end = start.clone();
    *end.last_mut().expect("a prefix is not empty") += 1;
    loop {
        let page = RangeRequest {
            key: start.clone().into(),
            range_end: end.clone().into(),
            limit: PAGE,
            serializable: true,
            ..RangeRequest::default()
        };
        let page = client.range(page).await?;
        if let Some(last) = page.kvs.last() {
            start = last.key.to_vec();
            start.push(0);
        }
        let pairs = page.kvs.into_iter();
        found.extend(pairs.map(|pair| (pair.key.to_vec(), pair.value.to_vec())));
        if !page.more {
            return Ok(found);
        }
    }
}
