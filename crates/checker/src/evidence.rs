//! What answers and watches show of single revisions: *revision 17 put key a = 1*.
//!
//! Revisions that nobody acknowledged are explained with it. It has three strengths, because a
//! watch that lies must not make the operations look wrong: if no order explains everything, the
//! search is repeated with less of what the watches said, and what was left out is what is wrong.

use std::collections::BTreeMap;

use crate::history::{
    EventKind, Key, KeyValue, LeaseId, Request, Response, Revision, Step, StepResult, Txn,
    TxnResult, WatchEvent,
};
use crate::oracle::Store;
use crate::run::{Run, moments};

/// How much is believed of what watches delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strength {
    /// Nothing.
    Operations,
    /// Which key had which value and lease at which revision.
    Bare,
    /// Counters and previous versions too.
    All,
}

/// One thing seen of one key at one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fact<'h> {
    pub(crate) key: &'h Key,
    /// The version that was put; `None`: it was deleted.
    pub(crate) put: Option<&'h KeyValue>,
    /// The version before, if shown.
    previous: Option<&'h KeyValue>,
    /// Whether the value was left out.
    keys_only: bool,
    /// Whether counters count.
    with_counters: bool,
    /// The line that shows it.
    pub(crate) line: u64,
}

/// All that was seen, by revision; and who was seen absent when.
#[derive(Debug, Default)]
pub(crate) struct Evidence<'h> {
    pub(crate) facts: BTreeMap<Revision, Vec<Fact<'h>>>,
    /// Keys that a read found absent, with the revision.
    pub(crate) absent: Vec<(&'h Key, Revision)>,
}

impl<'h> Evidence<'h> {
    pub(crate) fn gather(run: &Run<'h>, strength: Strength) -> Evidence<'h> {
        let mut evidence = Evidence::default();
        for operation in &run.operations {
            if let Some((moment, revision, response)) = operation.answer() {
                evidence.response(operation.request, response, moment.line);
                evidence.absence(operation.request, response, revision);
            }
        }
        if strength > Strength::Operations {
            for (moment, event) in moments(run.history) {
                if let EventKind::WatchMessage(message) = event {
                    for event in &message.events {
                        evidence.watch(event, moment.line, strength == Strength::All);
                    }
                }
            }
        }
        evidence
    }

    pub(crate) fn at(&self, revision: Revision) -> &[Fact<'h>] {
        self.facts.get(&revision).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, revision: Revision, fact: Fact<'h>) {
        let facts = self.facts.entry(revision).or_default();
        let known = facts.iter().any(|other| {
            let line = fact.line;
            Fact { line, ..*other } == fact
        });
        if !known {
            facts.push(fact);
        }
    }

    fn seen(&mut self, kv: &'h KeyValue, keys_only: bool, line: u64) {
        let fact = Fact {
            key: &kv.key,
            put: Some(kv),
            previous: None,
            keys_only,
            with_counters: true,
            line,
        };
        self.add(kv.mod_revision, fact);
    }

    fn response(&mut self, request: &'h Request, response: &'h Response, line: u64) {
        match (request, response) {
            (Request::Range(range), Response::Range(result)) => {
                for kv in &result.key_values {
                    self.seen(kv, range.keys_only, line);
                }
            }
            (_, Response::Put(result)) => {
                if let Some(kv) = &result.prev_kv {
                    self.seen(kv, false, line);
                }
            }
            (_, Response::Delete(result)) => {
                for kv in &result.prev_kvs {
                    self.seen(kv, false, line);
                }
            }
            (Request::Txn(txn), Response::Txn(result)) => self.txn(txn, result, line),
            (_, Response::Leader(led)) => {
                if let Some(kv) = &led.leader {
                    self.seen(kv, false, line);
                }
            }
            _ => {}
        }
    }

    fn txn(&mut self, txn: &'h Txn, result: &'h TxnResult, line: u64) {
        let steps = if result.succeeded {
            &txn.success
        } else {
            &txn.failure
        };
        for (step, response) in steps.iter().zip(&result.responses) {
            match (step, response) {
                (Step::Range(range), StepResult::Range(result)) => {
                    for kv in &result.key_values {
                        self.seen(kv, range.keys_only, line);
                    }
                }
                (_, StepResult::Put(result)) => {
                    if let Some(kv) = &result.prev_kv {
                        self.seen(kv, false, line);
                    }
                }
                (_, StepResult::Delete(result)) => {
                    for kv in &result.prev_kvs {
                        self.seen(kv, false, line);
                    }
                }
                (Step::Txn(txn), StepResult::Txn(result)) => self.txn(txn, result, line),
                _ => {}
            }
        }
    }

    fn absence(&mut self, request: &'h Request, response: &'h Response, revision: Revision) {
        if let (Request::Range(range), Response::Range(result)) = (request, response)
            && range.range_end.is_empty()
            && result.count == 0
        {
            let at = if range.revision == Revision(0) {
                revision
            } else {
                range.revision
            };
            self.absent.push((&range.key, at));
        }
    }

    fn watch(&mut self, event: &'h WatchEvent, line: u64, all: bool) {
        let put = match event {
            WatchEvent::Put { kv, .. } => Some(kv),
            WatchEvent::Delete { .. } => None,
        };
        let fact = Fact {
            key: event.key(),
            put,
            previous: event.prev_kv().filter(|_| all),
            keys_only: false,
            with_counters: all,
            line,
        };
        self.add(event.revision(), fact);
        if let Some(previous) = event.prev_kv().filter(|_| all) {
            self.seen(previous, false, line);
        }
    }
}

impl Fact<'_> {
    /// Whether a keyspace did that at that revision.
    pub(crate) fn holds(&self, store: &Store, revision: Revision) -> bool {
        let now = store.get(self.key, revision);
        let before = store.previous(self.key, revision);
        let same = match (self.put, now) {
            (None, None) => before.is_some(),
            (Some(seen), Some(real)) => {
                real.mod_revision == revision
                    && (seen.lease == real.lease || self.keys_only && seen.lease == LeaseId(0))
                    && (self.keys_only || seen.value == real.value)
                    && (!self.with_counters
                        || (seen.create_revision == real.create_revision
                            && seen.version == real.version))
            }
            _ => false,
        };
        same && self
            .previous
            .is_none_or(|previous| before == Some(previous))
    }

    /// The fact in words.
    pub(crate) fn describe(&self) -> String {
        let keys = match self.put {
            None => format!("deletes {}", self.key),
            Some(kv) => format!(
                "puts {} = {} (created at {}, version {}, lease {})",
                kv.key, kv.value, kv.create_revision, kv.version, kv.lease
            ),
        };
        match self.previous {
            Some(previous) => format!(
                "{keys} over version {} of revision {} = {}",
                previous.version, previous.mod_revision, previous.value
            ),
            None => keys,
        }
    }
}
