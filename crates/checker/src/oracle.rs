//! etcd's keyspace in its smallest form: the sequential model that histories are held against.
//!
//! ```text
//! keys: key ─▶ [version at revision 2, deletion at 5, version at 9]     every version is kept
//! log:  [(2, key), (5, key), ...]                                       for undo and for events
//! ```
//!
//! One operation at a time, no time, no disk. It is written from etcd's documentation and shares
//! no code with the server. Every version is kept, so that a read can be judged at any revision and
//! a step can be taken back; a compaction only forbids, it forgets nothing here. Leases are labels
//! on versions: whether one is alive is a question of time, which [`crate::lease`] judges.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::history::{
    Compare, Comparison, Delete, DeleteResult, Failure, Initial, Key, KeyRange, KeyValue, LeaseId,
    Led, Proclaimed, Put, PutResult, Range, RangeResult, Request, Resigned, Response, Revision,
    Step, StepResult, Target, Txn, TxnResult, Value,
};
use crate::run::candidates;

/// What one revision did to a key; `None`: it deleted it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    revision: Revision,
    put: Option<KeyValue>,
}

/// A keyspace with all its history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Store {
    first: Revision,
    revision: Revision,
    keys: BTreeMap<Key, Vec<Version>>,
    /// Every change since `first`, in order.
    log: Vec<(Revision, Key)>,
}

impl Default for Store {
    fn default() -> Store {
        Store::new(&Initial::default())
    }
}

/// The revision before.
fn before(revision: Revision) -> Revision {
    Revision(revision.0.saturating_sub(1))
}

/// The revision after.
fn after(revision: Revision) -> Revision {
    Revision(revision.0.saturating_add(1))
}

impl Store {
    /// The keyspace that a history begins with.
    #[must_use]
    pub fn new(initial: &Initial) -> Store {
        let versions = |kv: &KeyValue| Version {
            revision: kv.mod_revision,
            put: Some(kv.clone()),
        };
        Store {
            first: initial.revision,
            revision: initial.revision,
            keys: initial
                .keys
                .iter()
                .map(|kv| (kv.key.clone(), vec![versions(kv)]))
                .collect(),
            log: Vec::new(),
        }
    }

    /// The revision of the last change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision that the history began with: what was before is not known.
    #[must_use]
    pub fn first(&self) -> Revision {
        self.first
    }

    /// A key as of a revision.
    #[must_use]
    pub fn get(&self, key: &Key, at: Revision) -> Option<&KeyValue> {
        visible(self.keys.get(key)?, at)
    }

    /// The live keys of a range as of a revision, in key order.
    pub fn range(&self, keys: &KeyRange, at: Revision) -> impl Iterator<Item = &KeyValue> {
        let end = if keys.is_single() {
            Bound::Included(&keys.key)
        } else if keys.is_open() {
            Bound::Unbounded
        } else {
            Bound::Excluded(&keys.range_end)
        };
        // An end before the start is an empty range to etcd, and a panic to the map.
        let empty = matches!(end, Bound::Excluded(end) if *end <= keys.key);
        let bounds = if empty {
            (Bound::Excluded(&keys.key), Bound::Included(&keys.key))
        } else {
            (Bound::Included(&keys.key), end)
        };
        self.keys
            .range::<Key, _>(bounds)
            .filter_map(move |(_, versions)| visible(versions, at))
    }

    /// What revision `at` did: each key with its new version, or `None` if it was deleted. In the
    /// order of the writes.
    pub fn changes(&self, at: Revision) -> impl Iterator<Item = (&Key, Option<&KeyValue>)> {
        let from = self.log.partition_point(|(revision, _)| *revision < at);
        self.log[from..]
            .iter()
            .take_while(move |(revision, _)| *revision == at)
            .map(move |(_, key)| (key, self.get(key, at)))
    }

    /// Executes a request on the keyspace at the latest revision. A write that changes something
    /// makes one revision. Requests about leases and locks change nothing here.
    ///
    /// # Errors
    /// Why etcd would refuse it; nothing has changed then.
    pub fn apply(&mut self, request: &Request) -> Result<Response, Failure> {
        let revision = self.revision;
        let answer = self.execute(request);
        match answer {
            Ok(_) => self.commit(),
            Err(_) => self.undo_to(revision),
        }
        answer
    }

    /// Writes keys and deletes keys at the next revision, whatever request did so.
    pub fn write(&mut self, puts: &[Put], deletes: &[Key]) {
        for put in puts {
            self.set(&put.key, put.value.clone(), put.lease);
        }
        for key in deletes {
            self.remove(key);
        }
        self.commit();
    }

    /// Takes back everything after `revision`.
    pub fn undo_to(&mut self, revision: Revision) {
        while let Some((at, key)) = self.log.last() {
            if *at <= revision {
                break;
            }
            if let Some(versions) = self.keys.get_mut(key) {
                while versions.last().is_some_and(|last| last.revision > revision) {
                    versions.pop();
                }
                if versions.is_empty() {
                    self.keys.remove(key);
                }
            }
            self.log.pop();
        }
        self.revision = self.revision.min(revision);
    }

    /// Answers a read as of a revision. The revision in the request was resolved by the caller.
    #[must_use]
    pub fn read(&self, range: &Range, at: Revision) -> RangeResult {
        let keys = KeyRange {
            key: range.key.clone(),
            range_end: range.range_end.clone(),
        };
        let mut result = RangeResult::default();
        for kv in self.range(&keys, at) {
            result.count += 1;
            if range.count_only {
                continue;
            }
            if range.limit > 0 && result.key_values.len() as u64 >= range.limit {
                result.more = true;
                continue;
            }
            let mut kv = kv.clone();
            if range.keys_only {
                kv.value = Value::default();
            }
            result.key_values.push(kv);
        }
        result
    }

    /// Live keys that hang on a lease, as of a revision.
    pub fn attached(&self, lease: LeaseId, at: Revision) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter_map(move |(key, versions)| {
            (visible(versions, at)?.lease == lease).then_some(key)
        })
    }

    /// Leases that live keys hang on, at the latest revision, each once.
    #[must_use]
    pub fn leases_in_use(&self) -> Vec<LeaseId> {
        let mut leases: Vec<LeaseId> = self
            .keys
            .values()
            .filter_map(|versions| visible(versions, self.revision))
            .map(|kv| kv.lease)
            .filter(|lease| *lease != LeaseId(0))
            .collect();
        leases.sort_unstable();
        leases.dedup();
        leases
    }

    /// The revision at which pending writes happen; they are seen by reads from it on.
    fn pending(&self) -> Revision {
        after(self.revision)
    }

    fn commit(&mut self) {
        if self.log.last().is_some_and(|(at, _)| *at > self.revision) {
            self.revision = after(self.revision);
        }
    }

    fn execute(&mut self, request: &Request) -> Result<Response, Failure> {
        Ok(match request {
            Request::Range(range) => Response::Range(self.range_step(range)?),
            Request::Put(put) => Response::Put(self.put(put)?),
            Request::Delete(delete) => Response::Delete(self.delete(delete)),
            Request::Txn(txn) => {
                let mut path = Vec::new();
                self.decide(txn, &mut path);
                Response::Txn(self.txn(txn, &mut path.into_iter())?)
            }
            Request::Compact(_) => Response::Compact(Default::default()),
            Request::LeaseGrant(grant) => Response::LeaseGrant(crate::history::LeaseGranted {
                lease: grant.lease,
                ttl: grant.ttl,
            }),
            Request::LeaseRevoke(_) => Response::LeaseRevoke(Default::default()),
            Request::LeaseKeepAlive(_) => Response::LeaseKeepAlive(Default::default()),
            Request::LeaseTimeToLive(_) => Response::LeaseTimeToLive(Default::default()),
            Request::Lock(_) => Response::Lock(Default::default()),
            Request::Unlock(_) => Response::Unlock(Default::default()),
            Request::Campaign(_) => Response::Campaign(Default::default()),
            Request::Proclaim(proclaim) => {
                let leads = self.is_created_at(&proclaim.key, proclaim.fence);
                if leads {
                    self.set(&proclaim.key, proclaim.value.clone(), proclaim.lease);
                }
                Response::Proclaim(Proclaimed { leads })
            }
            Request::Resign(resign) => {
                let left = self.is_created_at(&resign.key, resign.fence);
                if left {
                    self.remove(&resign.key);
                }
                Response::Resign(Resigned { left })
            }
            Request::Leader(leader) => {
                let candidates = candidates(&leader.name);
                let all = self.range(&candidates, self.pending());
                let leader = all.min_by_key(|kv| kv.create_revision).cloned();
                Response::Leader(Led { leader })
            }
            Request::LeaseList(_) => Response::LeaseList(Default::default()),
        })
    }

    /// Whether this is still the key that was created at a revision.
    fn is_created_at(&self, key: &Key, fence: Revision) -> bool {
        let found = self.get(key, self.pending());
        found.is_some_and(|kv| kv.create_revision == fence)
    }

    fn range_step(&self, range: &Range) -> Result<RangeResult, Failure> {
        if range.revision > self.revision {
            return Err(Failure::FutureRevision);
        }
        let at = if range.revision == Revision(0) {
            self.pending()
        } else {
            range.revision
        };
        Ok(self.read(range, at))
    }

    fn put(&mut self, put: &Put) -> Result<PutResult, Failure> {
        let previous = self.get(&put.key, self.pending()).cloned();
        let (mut value, mut lease) = (put.value.clone(), put.lease);
        if put.ignore_value || put.ignore_lease {
            let previous = previous.as_ref().ok_or(Failure::KeyNotFound)?;
            if put.ignore_value {
                value = previous.value.clone();
            }
            if put.ignore_lease {
                lease = previous.lease;
            }
        }
        self.set(&put.key, value, lease);
        Ok(PutResult {
            prev_kv: previous.filter(|_| put.prev_kv),
        })
    }

    fn delete(&mut self, delete: &Delete) -> DeleteResult {
        let keys = KeyRange {
            key: delete.key.clone(),
            range_end: delete.range_end.clone(),
        };
        let found: Vec<KeyValue> = self.range(&keys, self.pending()).cloned().collect();
        for kv in &found {
            self.remove(&kv.key);
        }
        DeleteResult {
            deleted: found.len() as u64,
            prev_kvs: if delete.prev_kv { found } else { Vec::new() },
        }
    }

    /// Which branch each transaction takes, inner ones included, outermost first. All compares
    /// look at the state before the first step, as etcd's do.
    fn decide(&self, txn: &Txn, path: &mut Vec<bool>) {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        let steps = if succeeded {
            &txn.success
        } else {
            &txn.failure
        };
        for step in steps {
            if let Step::Txn(inner) = step {
                self.decide(inner, path);
            }
        }
    }

    fn txn(
        &mut self,
        txn: &Txn,
        path: &mut impl Iterator<Item = bool>,
    ) -> Result<TxnResult, Failure> {
        let succeeded = path.next().expect("every executed transaction was decided");
        let steps = if succeeded {
            &txn.success
        } else {
            &txn.failure
        };
        let mut responses = Vec::with_capacity(steps.len());
        for step in steps {
            responses.push(match step {
                Step::Range(range) => StepResult::Range(self.range_step(range)?),
                Step::Put(put) => StepResult::Put(self.put(put)?),
                Step::Delete(delete) => StepResult::Delete(self.delete(delete)),
                Step::Txn(inner) => StepResult::Txn(self.txn(inner, path)?),
            });
        }
        Ok(TxnResult {
            succeeded,
            responses,
        })
    }

    /// Whether a condition holds. Over a range, for every key in it; a range or key without
    /// anything in it counts as one key with all counters zero, and fails on its value.
    fn holds(&self, compare: &Compare) -> bool {
        let keys = KeyRange {
            key: compare.key.clone(),
            range_end: compare.range_end.clone(),
        };
        let absent = KeyValue::default();
        let mut any = false;
        for kv in self.range(&keys, self.revision) {
            any = true;
            if !compared(compare, kv) {
                return false;
            }
        }
        any || (!matches!(compare.target, Target::Value(_)) && compared(compare, &absent))
    }

    fn set(&mut self, key: &Key, value: Value, lease: LeaseId) {
        let revision = self.pending();
        let previous = self.get(key, revision);
        let kv = KeyValue {
            key: key.clone(),
            value,
            create_revision: previous.map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: previous.map_or(0, |kv| kv.version) + 1,
            lease,
        };
        self.push(key, Some(kv));
    }

    fn remove(&mut self, key: &Key) {
        if self.get(key, self.pending()).is_some() {
            self.push(key, None);
        }
    }

    fn push(&mut self, key: &Key, put: Option<KeyValue>) {
        let revision = self.pending();
        let versions = self.keys.entry(key.clone()).or_default();
        let again = versions
            .last()
            .is_some_and(|last| last.revision == revision);
        if again {
            // A key has one version per revision; etcd refuses requests that write it twice.
            versions.pop();
        } else {
            self.log.push((revision, key.clone()));
        }
        versions.push(Version { revision, put });
    }

    /// All versions of a key, oldest first; `None` for a deletion.
    pub fn versions(&self, key: &Key) -> impl Iterator<Item = Option<&KeyValue>> {
        self.keys
            .get(key)
            .into_iter()
            .flatten()
            .map(|version| version.put.as_ref())
    }

    /// The key's last version before a revision.
    #[must_use]
    pub fn previous(&self, key: &Key, revision: Revision) -> Option<&KeyValue> {
        self.get(key, before(revision))
    }
}

fn visible(versions: &[Version], at: Revision) -> Option<&KeyValue> {
    let beyond = if versions.last()?.revision <= at {
        versions.len()
    } else {
        versions.partition_point(|version| version.revision <= at)
    };
    versions[..beyond].last()?.put.as_ref()
}

fn compared(compare: &Compare, kv: &KeyValue) -> bool {
    use std::cmp::Ordering;
    let ordering = match &compare.target {
        Target::Version(version) => kv.version.cmp(version),
        Target::CreateRevision(revision) => kv.create_revision.cmp(revision),
        Target::ModRevision(revision) => kv.mod_revision.cmp(revision),
        Target::Value(value) => kv.value.cmp(value),
        Target::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.is {
        Comparison::Equal => ordering == Ordering::Equal,
        Comparison::NotEqual => ordering != Ordering::Equal,
        Comparison::Greater => ordering == Ordering::Greater,
        Comparison::Less => ordering == Ordering::Less,
    }
}
