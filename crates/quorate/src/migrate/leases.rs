//! The leases of the old cluster, under the same numbers in the new one.
//!
//! There they are kept alive by us for as long as they live in the old cluster, whose clients know
//! nothing of the new one yet; each has its full time when its client comes over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use client::Client;
use client::etcd::Error as Refusal;
use client::etcd::proto::etcdserverpb::LeaseGrantRequest;
use tokio::task::JoinHandle;

use super::{Error, pages};

/// How often it is looked which leases are due.
const ROUND: Duration = Duration::from_secs(1);

/// A lease of the new cluster.
#[derive(Clone, Copy, Debug)]
struct Kept {
    interval: Duration,
    due: Instant,
}

type Known = BTreeMap<i64, Kept>;

/// The leases of both sides.
#[derive(Debug)]
pub(super) struct Leases {
    source: Client,
    target: Client,
    known: Arc<Mutex<Known>>,
    /// Those that the old cluster has ended, and its revision when that was found.
    doomed: Vec<(i64, i64)>,
    keeper: JoinHandle<()>,
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leases {
    /// None yet.
    pub(super) fn new(source: Client, target: Client) -> Leases {
        let known = Arc::new(Mutex::new(Known::new()));
        Leases {
            keeper: tokio::spawn(keep(target.clone(), Arc::clone(&known))),
            source,
            target,
            known,
            doomed: Vec::new(),
        }
    }

    /// How many there are in the new cluster.
    pub(super) fn count(&self) -> usize {
        lock(&self.known).len()
    }

    /// Has a lease in the new cluster, as long as it lives in the old one; false if it does not.
    pub(super) async fn ensure(&mut self, id: i64) -> Result<bool, Error> {
        if lock(&self.known).contains_key(&id) {
            return Ok(true);
        }
        let asked = self.source.lease_time_to_live(id).await;
        let answer = asked.map_err(|error| Error::source("asked about a lease", error))?;
        if answer.ttl < 0 {
            return Ok(false);
        }
        let ttl = answer.granted_ttl;
        let granted = self.target.lease_grant(LeaseGrantRequest { id, ttl }).await;
        match granted {
            Err(error) if !error.is(Refusal::LeaseExists) => {
                return Err(Error::target("given a lease", error));
            }
            _ => {}
        }
        let interval = Duration::from_secs(ttl.max(0) as u64) / 3;
        let kept = Kept {
            interval,
            due: Instant::now(),
        };
        lock(&self.known).insert(id, kept);
        Ok(true)
    }

    /// The new cluster knows none of these any more.
    pub(super) fn forget(&mut self, ids: &BTreeSet<i64>) {
        lock(&self.known).retain(|id, _| !ids.contains(id));
    }

    /// Takes over leases that are new, and finds those that have ended.
    pub(super) async fn look(&mut self) -> Result<(), Error> {
        let listed = self.source.leases().await;
        let listed = listed.map_err(|error| Error::source("asked for its leases", error))?;
        let living: BTreeSet<i64> = listed.leases.iter().map(|lease| lease.id).collect();
        let known: Vec<i64> = lock(&self.known).keys().copied().collect();
        for id in &living {
            self.ensure(*id).await?;
        }
        let known = known.into_iter().filter(|id| !living.contains(id));
        let gone: Vec<i64> = known
            .filter(|id| self.doomed.iter().all(|(doomed, _)| doomed != id))
            .collect();
        for id in gone {
            // The list is that of one member, who may lag.
            if self.has_ended(id).await? {
                let revision = pages::revision(&self.source).await;
                let revision = revision.map_err(|error| Error::source("read", error))?;
                self.doomed.push((id, revision));
            }
        }
        Ok(())
    }

    /// Whether the old cluster has ended a lease. Its leader is asked.
    async fn has_ended(&self, id: i64) -> Result<bool, Error> {
        let asked = self.source.lease_time_to_live(id).await;
        let answer = asked.map_err(|error| Error::source("asked about a lease", error))?;
        Ok(answer.ttl < 0)
    }

    /// Ends those that have ended in the old cluster, once what went with them has been written:
    /// everything up to `written`.
    pub(super) async fn reap(&mut self, written: i64) -> Result<(), Error> {
        let doomed = std::mem::take(&mut self.doomed);
        for (id, revision) in doomed {
            if revision > written {
                self.doomed.push((id, revision));
                continue;
            }
            // It may have been granted again since, under the same number: keys of now hang on it.
            if !self.has_ended(id).await? {
                continue;
            }
            lock(&self.known).remove(&id);
            match self.target.lease_revoke(id).await {
                Err(error) if !error.is(Refusal::LeaseNotFound) => {
                    return Err(Error::target("told that a lease has ended", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives all their full time, once more.
    pub(super) async fn renew_all(&self) -> Result<(), Error> {
        let ids: Vec<i64> = lock(&self.known).keys().copied().collect();
        let renewed = self.target.keep_alive(ids).await;
        renewed.map_err(|error| Error::target("asked to renew leases", error))?;
        Ok(())
    }
}

/// Keeps them alive. What fails is tried again in the next round; a lease that ends nevertheless is
/// noticed where a key is to hang on it, and when both sides are compared.
async fn keep(target: Client, known: Arc<Mutex<Known>>) {
    loop {
        tokio::time::sleep(ROUND).await;
        let now = Instant::now();
        let due: Vec<i64> = lock(&known)
            .iter_mut()
            .filter(|(_, kept)| kept.due <= now)
            .map(|(id, kept)| {
                kept.due = now + kept.interval;
                *id
            })
            .collect();
        if !due.is_empty() && target.keep_alive(due.clone()).await.is_err() {
            for kept in lock(&known).iter_mut().filter(|(id, _)| due.contains(id)) {
                kept.1.due = now;
            }
        }
    }
}
