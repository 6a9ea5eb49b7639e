//! What a key's counters, seen later, demand of revisions that nobody saw.
//!
//! A read that shows version 5 of a key, with three writes of it known, says that one more write is
//! among the holes before, and no second. So the search fills a hole first with what is demanded
//! soonest, and not at all with what a later answer forbids. Without this it would guess, and find
//! out thousands of revisions later.

use std::collections::BTreeMap;

use crate::evidence::Evidence;
use crate::history::{Key, Request, Response, Revision, Step, StepResult, Txn, TxnResult};
use crate::oracle::Store;
use crate::order::Order;
use crate::run::Run;

/// A key as somebody saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sight {
    Absent,
    Present { create: Revision, version: u64 },
}

#[derive(Debug, Default)]
struct Known {
    /// At which revision the key was seen how.
    sights: Vec<(Revision, Sight)>,
    /// Revisions known to put the key.
    puts: Vec<Revision>,
    /// Revisions known to delete it.
    deletes: Vec<Revision>,
}

/// What is known of every key.
#[derive(Debug)]
pub(crate) struct Expectations<'h> {
    keys: BTreeMap<&'h Key, Known>,
}

/// Urgency of what nothing demands.
const FREE: u64 = u64::MAX;

impl<'h> Expectations<'h> {
    pub(crate) fn new(run: &Run<'h>, order: &Order, evidence: &Evidence<'h>) -> Self {
        let mut keys: BTreeMap<&'h Key, Known> = BTreeMap::new();
        for (&revision, facts) in &evidence.facts {
            let acknowledged = order.writer(revision).is_some();
            for fact in facts {
                let known = keys.entry(fact.key).or_default();
                match fact.put {
                    Some(kv) => {
                        let (create, version) = (kv.create_revision, kv.version);
                        known
                            .sights
                            .push((revision, Sight::Present { create, version }));
                        if !acknowledged {
                            known.puts.push(revision);
                        }
                    }
                    None if !acknowledged => known.deletes.push(revision),
                    None => {}
                }
            }
        }
        for &(key, revision) in &evidence.absent {
            let known = keys.entry(key).or_default();
            known.sights.push((revision, Sight::Absent));
        }
        let mut note = |key: &'h Key, revision: Revision, put: bool| {
            let known = keys.entry(key).or_default();
            if put {
                known.puts.push(revision);
            } else {
                known.deletes.push(revision);
            }
        };
        let mut revision = order.first;
        while revision < order.last {
            revision = Revision(revision.0 + 1);
            if let Some(writer) = order.writer(revision) {
                let operation = &run.operations[writer];
                let (_, _, response) = operation.answer().expect("writers are acknowledged");
                writes(operation.request, response, &mut |key, put| {
                    note(key, revision, put);
                });
            }
        }
        for known in keys.values_mut() {
            known.sights.sort_unstable();
            known.sights.dedup();
            known.puts.sort_unstable();
            known.puts.dedup();
            known.deletes.sort_unstable();
            known.deletes.dedup();
        }
        Expectations { keys }
    }

    /// How urgent an unseen put of the key at this revision is; `None`: later sights forbid it.
    pub(crate) fn put(&self, store: &Store, key: &Key, at: Revision) -> Option<u64> {
        let Some((known, seen_at, sight)) = self.next(key, at) else {
            return Some(FREE);
        };
        let Sight::Present { create, version } = sight else {
            return Some(FREE);
        };
        if create > at {
            return Some(FREE);
        }
        let now = store
            .previous(key, at)
            .filter(|kv| kv.create_revision == create);
        // Either this put creates the generation that was seen, or it is one more of its versions.
        let have = match now {
            Some(kv) => kv.version,
            None if create == at => 0,
            None => return None,
        };
        let to_come = count(&known.puts, at, seen_at);
        match version.checked_sub(have + to_come) {
            None | Some(0) => None,
            Some(_) => Some(seen_at.0),
        }
    }

    /// How urgent an unseen deletion of the key at this revision is; `None`: later sights forbid
    /// it.
    pub(crate) fn delete(&self, store: &Store, key: &Key, at: Revision) -> Option<u64> {
        store.previous(key, at)?;
        let Some((known, seen_at, sight)) = self.next(key, at) else {
            return Some(FREE);
        };
        match sight {
            Sight::Present { create, .. } if create < at => None,
            Sight::Present { create, .. } => {
                let others = count(&known.deletes, at, create);
                Some(if others == 0 { create.0 } else { FREE })
            }
            Sight::Absent => {
                let others = count(&known.deletes, at, seen_at) + count(&known.puts, at, seen_at);
                Some(if others == 0 { seen_at.0 } else { FREE })
            }
        }
    }

    fn next(&self, key: &Key, at: Revision) -> Option<(&Known, Revision, Sight)> {
        let known = self.keys.get(key)?;
        let index = known.sights.partition_point(|(seen, _)| *seen < at);
        let &(seen_at, sight) = known.sights.get(index)?;
        Some((known, seen_at, sight))
    }
}

/// How many of the sorted revisions lie behind `from` and up to `to`.
fn count(revisions: &[Revision], from: Revision, to: Revision) -> u64 {
    let begin = revisions.partition_point(|revision| *revision <= from);
    let end = revisions.partition_point(|revision| *revision <= to);
    end.saturating_sub(begin) as u64
}

/// The keys that an acknowledged operation certainly put (true) or deleted (false).
pub(crate) fn writes<'h>(
    request: &'h Request,
    response: &'h Response,
    note: &mut impl FnMut(&'h Key, bool),
) {
    match (request, response) {
        (Request::Put(put), Response::Put(_)) => note(&put.key, true),
        (Request::Delete(delete), Response::Delete(result)) => {
            deleted(&delete.key, &delete.range_end, result, note);
        }
        (Request::Txn(txn), Response::Txn(result)) => txn_writes(txn, result, note),
        (_, Response::Lock(held) | Response::Campaign(held)) => note(&held.key, true),
        (Request::Proclaim(proclaim), _) => note(&proclaim.key, true),
        (Request::Resign(resign), _) => note(&resign.key, false),
        _ => {}
    }
}

fn deleted<'h>(
    key: &'h Key,
    range_end: &Key,
    result: &'h crate::history::DeleteResult,
    note: &mut impl FnMut(&'h Key, bool),
) {
    if range_end.is_empty() {
        if result.deleted > 0 {
            note(key, false);
        }
        return;
    }
    for kv in &result.prev_kvs {
        note(&kv.key, false);
    }
}

fn txn_writes<'h>(txn: &'h Txn, result: &'h TxnResult, note: &mut impl FnMut(&'h Key, bool)) {
    let steps = if result.succeeded {
        &txn.success
    } else {
        &txn.failure
    };
    for (step, response) in steps.iter().zip(&result.responses) {
        match (step, response) {
            (Step::Put(put), StepResult::Put(_)) => note(&put.key, true),
            (Step::Delete(delete), StepResult::Delete(result)) => {
                deleted(&delete.key, &delete.range_end, result, note);
            }
            (Step::Txn(txn), StepResult::Txn(result)) => txn_writes(txn, result, note),
            _ => {}
        }
    }
}
