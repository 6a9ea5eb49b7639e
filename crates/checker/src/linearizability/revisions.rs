//! Linearizability of etcd's keyspace, by its revisions.
//!
//! ```text
//! revision   2      3      4      5      6
//! writer    op 1   op 4    ?     op 7   op 9      ? : nobody acknowledged it
//! reads     op 2          op 5   op 6   op 8
//! ```
//!
//! Every answer carries the revision of the keyspace at its moment. So an acknowledged operation
//! has one place it can stand, and an order of all of them exists if (a) no two writes share a
//! revision, (b) revisions agree with real time ([`crate::order`]), and (c) executing the writes in
//! the order of revisions gives every answer. All three cost one pass.
//!
//! What remains are revisions that nobody acknowledged: *holes*. Each was made by an operation with
//! unknown result, by the end of a lease, or by one of the few calls whose answers do not name
//! their revision. Holes are filled depth first. What answers and watches show of a hole nearly
//! always leaves one choice. When a later answer does not fit, the search goes back to the last
//! hole that can have to do with the keys of that answer (conflict-directed backjumping), not to
//! the last hole.

use std::collections::{BTreeMap, BTreeSet};

use crate::evidence::Evidence;
use crate::expectations::Expectations;
use crate::explain;
use crate::history::{
    Key, KeyRange, KeyValue, LeaseId, Put, Range, Request, Response, Revision, Step, Txn,
};
use crate::oracle::Store;
use crate::order::Order;
use crate::report::Rule;
use crate::run::{Operation, Run, footprint, overlap, place_in_line};
use crate::same_answer::is_same;

/// Something that can have made a revision that nobody acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filler {
    /// The operation, by its place in the run.
    Operation(usize),
    /// The key of a lock call, or of a campaign, that was given up, taken back.
    GivenUp(usize),
    /// The end of a lease.
    Expiry(LeaseId),
}

/// Why an answer does not fit, and which keys it has to do with.
#[derive(Clone, Debug)]
pub(crate) struct Conflict {
    pub(crate) rule: Rule,
    pub(crate) text: String,
    pub(crate) lines: Vec<u64>,
    revision: Revision,
    touches: Touches,
}

#[derive(Clone, Debug)]
enum Touches {
    Keys(Vec<KeyRange>),
    All,
}

impl Touches {
    fn add(&mut self, other: Touches) {
        match (&mut *self, other) {
            (Touches::Keys(keys), Touches::Keys(others)) => {
                for other in others {
                    if !keys.contains(&other) {
                        keys.push(other);
                    }
                }
            }
            _ => *self = Touches::All,
        }
    }

    fn meets(&self, keys: &[KeyRange]) -> bool {
        match self {
            Touches::All => true,
            Touches::Keys(own) => meet(own, keys),
        }
    }
}

/// Whether two sets of keys have one in common.
fn meet(some: &[KeyRange], others: &[KeyRange]) -> bool {
    some.iter()
        .any(|one| others.iter().any(|other| overlap(one, other)))
}

/// A hole, and what may fill it.
struct Choice {
    revision: Revision,
    candidates: Vec<(Filler, Vec<KeyRange>)>,
    /// The next candidate to try; the one before it is in place.
    next: usize,
    touches: Touches,
}

/// An order that explains everything.
#[derive(Debug)]
pub(crate) struct Timeline {
    /// The keyspace at all revisions.
    pub(crate) store: Store,
    /// Who filled the holes.
    pub(crate) fillers: BTreeMap<Revision, Filler>,
    /// Holes that nothing but the end of a lease explains.
    pub(crate) ended_leases: BTreeSet<Revision>,
    /// Whether every hole was seen and had one explanation: then all of the store is certain.
    pub(crate) is_sure: bool,
    /// Revisions that acknowledged operations made.
    acknowledged: BTreeSet<Revision>,
}

/// What the search ends with.
#[derive(Debug)]
pub(crate) enum Solution {
    Found(Box<Timeline>),
    Impossible(Box<Conflict>),
    Undecided,
}

impl Timeline {
    /// Whether this version was written by an acknowledged operation, or before the history.
    pub(crate) fn acknowledges(&self, version: Option<&KeyValue>) -> bool {
        version.is_none_or(|kv| {
            kv.mod_revision <= self.store.first() || self.acknowledged.contains(&kv.mod_revision)
        })
    }
}

struct Search<'r, 'h> {
    run: &'r Run<'h>,
    order: &'r Order,
    evidence: &'r Evidence<'h>,
    expectations: Expectations<'h>,
    store: Store,
    fillers: Vec<Filler>,
    /// What each of them may read or write.
    footprints: Vec<Vec<KeyRange>>,
    /// Hashes of their requests: equal ones are found without comparing values with each other.
    hashes: Vec<u64>,
    used: BTreeSet<usize>,
    choices: Vec<Choice>,
    /// By hole, and by the state that it was reached in: what could not be explained from there.
    failed: BTreeMap<Revision, BTreeMap<u64, Touches>>,
    deepest: Option<Conflict>,
    /// Whether some read asks for an old revision.
    reads_back: bool,
    steps: &'r mut u64,
}

/// Searches for an order. `order` must have passed its own checks.
pub(crate) fn solve<'h>(
    run: &Run<'h>,
    order: &Order,
    evidence: &Evidence<'h>,
    steps: &mut u64,
) -> Solution {
    let mut fillers = Vec::new();
    for (index, operation) in run.operations.iter().enumerate() {
        let unnamed = matches!(
            operation.request,
            Request::LeaseRevoke(_) | Request::Unlock(_)
        ) && operation.answer().is_some();
        if operation.may_write() && (operation.is_unknown() || unnamed) {
            fillers.push(Filler::Operation(index));
            if matches!(operation.request, Request::Lock(_) | Request::Campaign(_)) {
                fillers.push(Filler::GivenUp(index));
            }
        }
    }
    let reads_back = run
        .operations
        .iter()
        .any(|operation| match operation.request {
            Request::Range(range) => range.revision != Revision(0),
            Request::Txn(txn) => reads_back(txn),
            _ => false,
        });
    let footprints = fillers.iter().map(|filler| keys_of(run, *filler)).collect();
    let hashes = fillers.iter().map(|filler| hash_of(run, *filler)).collect();
    Search {
        run,
        order,
        evidence,
        expectations: Expectations::new(run, order, evidence),
        store: Store::new(&run.header.initial),
        fillers,
        footprints,
        hashes,
        used: BTreeSet::new(),
        choices: Vec::new(),
        failed: BTreeMap::new(),
        deepest: None,
        reads_back,
        steps,
    }
    .solve()
}

impl Search<'_, '_> {
    fn solve(mut self) -> Solution {
        let mut at = self.order.first;
        let mut result = self.reads(at);
        loop {
            if *self.steps == 0 {
                return Solution::Undecided;
            }
            match result {
                Ok(()) if at == self.order.last => return self.found(),
                Ok(()) => {
                    at = Revision(at.0 + 1);
                    result = self.advance(at);
                }
                Err(conflict) => {
                    let touches = conflict.touches.clone();
                    let deeper = self.deepest.as_ref();
                    if deeper.is_none_or(|deepest| deepest.revision < conflict.revision) {
                        self.deepest = Some(*conflict);
                    }
                    let Some(revision) = self.go_back(touches) else {
                        let deepest = self.deepest.expect("a conflict was kept just now");
                        return Solution::Impossible(Box::new(deepest));
                    };
                    at = revision;
                    result = self.reads(at);
                }
            }
        }
    }

    fn found(self) -> Solution {
        let mut fillers = BTreeMap::new();
        let mut ended_leases = BTreeSet::new();
        let mut is_sure = true;
        for choice in &self.choices {
            let filler = choice.candidates[choice.next - 1].0;
            fillers.insert(choice.revision, filler);
            let seen = !self.evidence.at(choice.revision).is_empty();
            is_sure &= seen && choice.candidates.len() == 1;
            if let Filler::Expiry(lease) = filler
                && seen
                && !self.may_delete(choice.revision, lease)
            {
                ended_leases.insert(choice.revision);
            }
        }
        let mut acknowledged = BTreeSet::new();
        let mut revision = self.order.first;
        while revision < self.order.last {
            revision = Revision(revision.0 + 1);
            if self.order.writer(revision).is_some() {
                acknowledged.insert(revision);
            }
        }
        Solution::Found(Box::new(Timeline {
            store: self.store,
            fillers,
            ended_leases,
            is_sure,
            acknowledged,
        }))
    }

    /// Whether an operation can have done what was seen at a revision, which the end of a lease
    /// explains as well; whether that operation was used elsewhere does not count.
    fn may_delete(&self, at: Revision, lease: LeaseId) -> bool {
        let seen = self.evidence.at(at);
        self.fillers.iter().any(|filler| {
            let covers = match filler {
                Filler::Operation(index) => match self.run.operations[*index].request {
                    Request::LeaseRevoke(revoke) => revoke.lease == lease,
                    request => {
                        let keys = footprint(request);
                        seen.iter()
                            .all(|fact| keys.iter().any(|own| own.contains(fact.key)))
                    }
                },
                Filler::GivenUp(index) => {
                    let place = place_in_line(self.run.operations[*index].request);
                    place.is_some_and(|put| put.lease == lease)
                }
                Filler::Expiry(_) => false,
            };
            covers && self.in_time(*filler, at)
        })
    }

    /// Executes one more revision.
    fn advance(&mut self, at: Revision) -> Result<(), Box<Conflict>> {
        match self.order.writer(at) {
            Some(writer) => self.acknowledged(at, writer)?,
            None => self.hole(at)?,
        }
        self.reads(at)
    }

    fn acknowledged(&mut self, at: Revision, writer: usize) -> Result<(), Box<Conflict>> {
        let operation = &self.run.operations[writer];
        self.spend(1);
        let (_, _, response) = operation.answer().expect("writers are acknowledged");
        if let (Some(place), Some(held)) = (place_in_line(operation.request), response.held()) {
            let key = held.key.clone();
            self.enter(Put { key, ..place });
        } else {
            match self.store.apply(operation.request) {
                Ok(expected) if is_same(operation.request, &expected, response) => {}
                Ok(expected) => return Err(self.wrong_answer(operation, at, &expected)),
                Err(failure) => {
                    let text = format!(
                        "{} was acknowledged at revision {at}, where it must fail: {failure:?}",
                        operation.describe()
                    );
                    let touches = Touches::Keys(footprint(operation.request));
                    return Err(conflict(
                        Rule::WrongAnswer,
                        text,
                        operation.lines(),
                        at,
                        touches,
                    ));
                }
            }
        }
        self.facts(at, Some(operation))
    }

    /// Holds what was seen of a revision against what it did.
    fn facts(&self, at: Revision, writer: Option<&Operation<'_>>) -> Result<(), Box<Conflict>> {
        for fact in self.evidence.at(at) {
            if !fact.holds(&self.store, at) {
                let made = writer.map_or_else(
                    || "an operation that was not acknowledged".to_owned(),
                    Operation::describe,
                );
                let text = format!(
                    "line {} shows that revision {at} {}, but it is {made}",
                    fact.line,
                    fact.describe()
                );
                let mut lines = writer.map(Operation::lines).unwrap_or_default();
                lines.push(fact.line);
                let touches = Touches::Keys(vec![single(fact.key)]);
                return Err(conflict(Rule::Unexplained, text, lines, at, touches));
            }
        }
        Ok(())
    }

    /// Judges all answers that were given at a revision by operations that changed nothing.
    fn reads(&mut self, at: Revision) -> Result<(), Box<Conflict>> {
        let run = self.run;
        for &reader in self.order.readers(at) {
            let operation = &run.operations[reader];
            self.spend(1);
            let (_, _, response) = operation.answer().expect("readers are acknowledged");
            let expected = match operation.request {
                Request::Range(range) => match self.range(operation, range, at)? {
                    Some(expected) => expected,
                    None => continue,
                },
                request => {
                    let answer = self.store.apply(request);
                    self.store.undo_to(at);
                    match answer {
                        Ok(expected) => expected,
                        Err(_) => continue,
                    }
                }
            };
            if !is_same(operation.request, &expected, response) {
                return Err(self.wrong_answer(operation, at, &expected));
            }
        }
        Ok(())
    }

    /// The answer that a range must give; `None` if the history does not reach back to it.
    fn range(
        &self,
        operation: &Operation<'_>,
        range: &Range,
        header: Revision,
    ) -> Result<Option<Response>, Box<Conflict>> {
        let latest = range.revision == Revision(0);
        let at = if latest { header } else { range.revision };
        if at > header {
            let text = format!(
                "{} was answered by a keyspace at revision {header}, before that",
                operation.describe()
            );
            let touches = Touches::Keys(Vec::new());
            return Err(conflict(
                Rule::FutureRead,
                text,
                operation.lines(),
                header,
                touches,
            ));
        }
        if at < self.store.first() {
            return Ok(None);
        }
        Ok(Some(Response::Range(self.store.read(range, at))))
    }

    fn wrong_answer(
        &self,
        operation: &Operation<'_>,
        at: Revision,
        expected: &Response,
    ) -> Box<Conflict> {
        let (_, _, seen) = operation.answer().expect("the operation is acknowledged");
        let owner = |revision: Revision| self.owner(revision);
        let explained = explain::difference(operation, at, expected, seen, &owner);
        let touches = explained.keys.map_or_else(
            || footprint(operation.request),
            |keys| keys.iter().map(single).collect(),
        );
        let mut lines = operation.lines();
        lines.extend(explained.lines);
        conflict(
            explained.rule,
            explained.text,
            lines,
            at,
            Touches::Keys(touches),
        )
    }

    /// Who made a revision, in words, with the lines.
    fn owner(&self, revision: Revision) -> (String, Vec<u64>) {
        if revision <= self.order.first {
            return ("before the history began".to_owned(), Vec::new());
        }
        let filler = || {
            let choice = self
                .choices
                .iter()
                .find(|choice| choice.revision == revision)?;
            Some(choice.candidates[choice.next - 1].0)
        };
        let operation = match (self.order.writer(revision), filler()) {
            (Some(writer), _) => writer,
            (None, Some(Filler::Operation(index) | Filler::GivenUp(index))) => index,
            (None, Some(Filler::Expiry(lease))) => {
                return (format!("by the end of lease {lease}"), Vec::new());
            }
            (None, None) => return ("by nobody known".to_owned(), Vec::new()),
        };
        let operation = &self.run.operations[operation];
        (format!("by {}", operation.describe()), operation.lines())
    }

    fn spend(&mut self, steps: u64) {
        *self.steps = self.steps.saturating_sub(steps);
    }

    /// Fills a hole with its first candidate.
    fn hole(&mut self, at: Revision) -> Result<(), Box<Conflict>> {
        // A state is told from others by hashing it: dear, and needless where nothing failed yet.
        if let Some(failed) = self.failed.get(&at)
            && let Some(touches) = failed.get(&self.state_hash())
        {
            let text = format!("revision {at} was tried before in this state");
            let touches = touches.clone();
            return Err(conflict(
                Rule::Unexplained,
                text,
                Vec::new(),
                Revision(0),
                touches,
            ));
        }
        let candidates = self.candidates(at);
        if candidates.is_empty() {
            return Err(self.nobody(at));
        }
        let keys = self.evidence.at(at).iter().map(|fact| single(fact.key));
        let touches = if self.evidence.at(at).is_empty() {
            Touches::All
        } else {
            let mut keys: Vec<KeyRange> = keys.collect();
            for touched in &self.footprints {
                if meet(&keys, touched) {
                    for key in touched {
                        if !keys.contains(key) {
                            keys.push(key.clone());
                        }
                    }
                }
            }
            Touches::Keys(keys)
        };
        self.choices.push(Choice {
            revision: at,
            candidates,
            next: 0,
            touches,
        });
        self.place_next();
        Ok(())
    }

    /// Puts the next candidate of the last choice in place.
    fn place_next(&mut self) {
        let choice = self.choices.last_mut().expect("there is a choice");
        let filler = choice.candidates[choice.next].0;
        choice.next += 1;
        if let Some(index) = self.fillers.iter().position(|other| *other == filler) {
            self.used.insert(index);
        }
        self.fill(filler);
        self.spend(1);
    }

    fn nobody(&self, at: Revision) -> Box<Conflict> {
        let facts = self.evidence.at(at);
        let (seen, lines) = match facts.first() {
            Some(fact) => (
                format!(" Line {} shows that it {}.", fact.line, fact.describe()),
                vec![fact.line],
            ),
            None => (String::new(), self.order.seen(at)),
        };
        let text = format!(
            "nobody can have made revision {at}: no acknowledged operation has it, and no \
             operation with unknown result and no lease fits.{seen}"
        );
        conflict(Rule::Unexplained, text, lines, at, Touches::All)
    }

    /// Takes choices back until one can have to do with the conflict and has another candidate.
    fn go_back(&mut self, mut touches: Touches) -> Option<Revision> {
        while let Some(choice) = self.choices.last_mut() {
            let revision = choice.revision;
            let filler = choice.candidates[choice.next - 1].0;
            let relevant = choice
                .candidates
                .iter()
                .any(|(_, keys)| touches.meets(keys));
            if relevant {
                choice.touches.add(touches.clone());
            }
            let again = relevant && choice.next < choice.candidates.len();
            if let Some(index) = self.fillers.iter().position(|other| *other == filler) {
                self.used.remove(&index);
            }
            self.store.undo_to(Revision(revision.0 - 1));
            self.spend(1);
            if again {
                self.place_next();
                return Some(revision);
            }
            let choice = self.choices.pop().expect("there was a choice");
            if relevant {
                touches = choice.touches;
                // With the choice taken back, the state is the one that the hole was reached in.
                let state = self.state_hash();
                let failed = self.failed.entry(revision).or_default();
                failed.insert(state, touches.clone());
            }
        }
        None
    }

    /// What may fill a hole, the most promising first.
    fn candidates(&mut self, at: Revision) -> Vec<(Filler, Vec<KeyRange>)> {
        let seen = self.evidence.at(at);
        let mut tried: Vec<(u64, &Request)> = Vec::new();
        let mut found: Vec<(u64, Filler, Vec<KeyRange>)> = Vec::new();
        let mut possible: Vec<(Filler, u64, Vec<KeyRange>)> = Vec::new();
        for (index, filler) in self.fillers.iter().enumerate() {
            let keys = &self.footprints[index];
            let may_touch = |key: &Key| keys.is_empty() || keys.iter().any(|own| own.contains(key));
            if !self.used.contains(&index)
                && seen.iter().all(|fact| may_touch(fact.key))
                && self.in_time(*filler, at)
            {
                possible.push((*filler, self.hashes[index], keys.clone()));
            }
        }
        let leases = self.store.leases_in_use().into_iter();
        possible.extend(leases.map(|lease| (Filler::Expiry(lease), 0, Vec::new())));
        for (filler, hash, mut keys) in possible {
            if let Filler::Operation(index) = filler {
                let operation = &self.run.operations[index];
                // Two of the same are one choice: whoever may stand here may stand later.
                if operation.is_unknown() && tried.contains(&(hash, operation.request)) {
                    continue;
                }
                tried.push((hash, operation.request));
            }
            self.fill(filler);
            self.spend(1);
            let fits = self.store.revision() == at
                && self
                    .evidence
                    .at(at)
                    .iter()
                    .all(|fact| fact.holds(&self.store, at));
            let priority = if seen.is_empty() {
                self.priority(at)
            } else {
                Some(0)
            };
            if let Some(priority) = priority.filter(|_| fits) {
                for (key, _) in self.store.changes(at) {
                    keys.push(single(key));
                }
                found.push((priority, filler, keys));
            }
            self.store.undo_to(Revision(at.0 - 1));
        }
        found.sort_by_key(|(priority, ..)| *priority);
        found
            .into_iter()
            .map(|(_, filler, keys)| (filler, keys))
            .collect()
    }

    /// How urgent what a filler just did at a revision is (less is more urgent), by what is seen of
    /// its keys later; `None` if that forbids it.
    fn priority(&self, at: Revision) -> Option<u64> {
        let mut urgent = u64::MAX;
        for (key, put) in self.store.changes(at) {
            let urgency = if put.is_some() {
                self.expectations.put(&self.store, key, at)?
            } else {
                self.expectations.delete(&self.store, key, at)?
            };
            urgent = urgent.min(urgency);
        }
        Some(urgent)
    }

    /// Whether real time lets the filler have made that revision.
    fn in_time(&self, filler: Filler, at: Revision) -> bool {
        match filler {
            Filler::Operation(index) | Filler::GivenUp(index) => {
                let operation = &self.run.operations[index];
                let begun = self.order.seen_line(at) > operation.invoked.line;
                let over = operation
                    .answer()
                    .is_some_and(|(moment, ..)| self.order.least_after(moment.line) < at);
                begun && !over
            }
            Filler::Expiry(_) => true,
        }
    }

    fn fill(&mut self, filler: Filler) {
        match filler {
            Filler::Operation(index) => match self.run.operations[index].request {
                Request::LeaseRevoke(revoke) => self.end_lease(revoke.lease),
                request @ (Request::Lock(_) | Request::Campaign(_)) => {
                    place_in_line(request)
                        .into_iter()
                        .for_each(|place| self.enter(place));
                }
                Request::Unlock(unlock) => self.store.write(&[], std::slice::from_ref(&unlock.key)),
                request => {
                    // A request that fails here changes nothing, and is no candidate then.
                    let _ = self.store.apply(request);
                }
            },
            Filler::GivenUp(index) => {
                if let Some(place) = place_in_line(self.run.operations[index].request) {
                    self.store.write(&[], &[place.key]);
                }
            }
            Filler::Expiry(lease) => self.end_lease(lease),
        }
    }

    fn end_lease(&mut self, lease: LeaseId) {
        let revision = self.store.revision();
        let keys: Vec<Key> = self.store.attached(lease, revision).cloned().collect();
        self.store.write(&[], &keys);
    }

    /// Somebody gets in line, unless it stands there already.
    fn enter(&mut self, place: Put) {
        if self.store.get(&place.key, self.store.revision()).is_none() {
            self.store.write(&[place], &[]);
        }
    }

    /// What the rest of the search depends on: the fillers left, and the keys that fillers touched.
    /// The other keys are the same whatever was chosen.
    fn state_hash(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.used.hash(&mut hasher);
        let mut touched: BTreeSet<&Key> = BTreeSet::new();
        for choice in &self.choices {
            touched.extend(self.store.changes(choice.revision).map(|(key, _)| key));
        }
        for key in touched {
            key.hash(&mut hasher);
            if self.reads_back {
                self.store.versions(key).for_each(|kv| kv.hash(&mut hasher));
            } else {
                self.store.get(key, self.store.revision()).hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

/// What a filler may read or write; nothing for a lease, of which that is not known.
fn keys_of(run: &Run<'_>, filler: Filler) -> Vec<KeyRange> {
    match filler {
        Filler::Operation(index) | Filler::GivenUp(index) => {
            footprint(run.operations[index].request)
        }
        Filler::Expiry(_) => Vec::new(),
    }
}

fn hash_of(run: &Run<'_>, filler: Filler) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    if let Filler::Operation(index) | Filler::GivenUp(index) = filler {
        run.operations[index].request.hash(&mut hasher);
    }
    hasher.finish()
}

/// Whether a transaction asks for an old revision.
fn reads_back(txn: &Txn) -> bool {
    let mut steps = txn.success.iter().chain(&txn.failure);
    steps.any(|step| match step {
        Step::Range(range) => range.revision != Revision(0),
        Step::Put(_) | Step::Delete(_) => false,
        Step::Txn(txn) => reads_back(txn),
    })
}

fn single(key: &Key) -> KeyRange {
    KeyRange {
        key: key.clone(),
        range_end: Key::default(),
    }
}

fn conflict(
    rule: Rule,
    text: String,
    lines: Vec<u64>,
    revision: Revision,
    touches: Touches,
) -> Box<Conflict> {
    Box::new(Conflict {
        rule,
        text,
        lines,
        revision,
        touches,
    })
}
