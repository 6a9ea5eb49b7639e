//! Revisions against real time: what every answer says of when a revision came about.
//!
//! ```text
//! op A  |-- ok 7 --|                       7 had come about by A's end
//! op B                |-- ok 9 --|         so B, begun later, stands at 7 or beyond
//! ```
//!
//! Whoever saw a revision proves that it existed by then. So a linearizable operation stands at or
//! beyond every revision that anyone saw before it began, and a write strictly beyond. Together
//! with one write per revision this is all that real time demands of acknowledged operations.

use std::collections::BTreeMap;

use crate::history::{EventKind, Request, Revision};
use crate::report::{Findings, Rule};
use crate::run::{Operation, Run, Standing, moments};

/// Everything about when revisions came about.
#[derive(Debug)]
pub(crate) struct Order {
    /// The revision that the history begins with.
    pub(crate) first: Revision,
    /// The last revision that anybody saw.
    pub(crate) last: Revision,
    /// Acknowledged writers, from the revision after `first`.
    writers: Vec<Option<usize>>,
    /// Operations that read at a revision and changed nothing, from `first`.
    readers: Vec<Vec<usize>>,
    /// The first line by which the revision, or one after it, was seen; from `first`.
    seen: Vec<u64>,
    /// (line of invocation, least revision that any linearizable operation invoked there or later
    /// stands at), in the order of lines.
    least: Vec<(u64, Revision)>,
    /// Whether nothing contradicts: only then a search makes sense.
    pub(crate) consistent: bool,
}

impl Order {
    pub(crate) fn new(run: &Run<'_>, findings: &mut Findings) -> Order {
        let first = run.header.initial.revision;
        let mut sightings = sightings(run);
        let most = most_revisions(run);
        let mut consistent = true;
        sightings.retain(|&(line, revision)| {
            let possible = revision.0.saturating_sub(first.0) <= most;
            if !possible && consistent {
                let text = format!(
                    "line {line} shows revision {revision}, but the history begins at {first} and \
                     has at most {most} operations and leases that can have made a revision"
                );
                findings.add(Rule::Unexplained, text, vec![line]);
                consistent = false;
            }
            possible
        });
        let last = sightings
            .iter()
            .map(|(_, revision)| *revision)
            .max()
            .map_or(first, |last| last.max(first));
        let span = usize::try_from(last.0 - first.0).expect("bounded by the operations");
        let mut order = Order {
            first,
            last,
            writers: vec![None; span],
            readers: vec![Vec::new(); span + 1],
            seen: vec![u64::MAX; span + 1],
            least: Vec::new(),
            consistent,
        };
        order.note_seen(&sightings);
        order.place(run, findings);
        order.judge_real_time(run, &sightings, findings);
        order
    }

    /// The acknowledged operation that made a revision.
    pub(crate) fn writer(&self, revision: Revision) -> Option<usize> {
        let index = revision.0.checked_sub(self.first.0 + 1)?;
        *self.writers.get(usize::try_from(index).ok()?)?
    }

    /// The acknowledged operations that read at a revision.
    pub(crate) fn readers(&self, revision: Revision) -> &[usize] {
        self.index(revision)
            .and_then(|index| self.readers.get(index))
            .map_or(&[], Vec::as_slice)
    }

    /// The first line by which a revision had come about.
    pub(crate) fn seen_line(&self, revision: Revision) -> u64 {
        self.index(revision)
            .and_then(|index| self.seen.get(index))
            .copied()
            .unwrap_or(u64::MAX)
    }

    pub(crate) fn seen(&self, revision: Revision) -> Vec<u64> {
        Some(self.seen_line(revision))
            .filter(|line| *line != u64::MAX)
            .into_iter()
            .collect()
    }

    /// The least revision that a linearizable operation begun after a line stands at.
    pub(crate) fn least_after(&self, line: u64) -> Revision {
        let index = self.least.partition_point(|(invoked, _)| *invoked <= line);
        self.least
            .get(index)
            .map_or(Revision(u64::MAX), |(_, least)| *least)
    }

    /// Revisions that no acknowledged operation made.
    pub(crate) fn holes(&self) -> u64 {
        self.writers
            .iter()
            .filter(|writer| writer.is_none())
            .count() as u64
    }

    fn index(&self, revision: Revision) -> Option<usize> {
        usize::try_from(revision.0.checked_sub(self.first.0)?).ok()
    }

    fn note_seen(&mut self, sightings: &[(u64, Revision)]) {
        for &(line, revision) in sightings {
            if let Some(index) = self.index(revision) {
                self.seen[index] = self.seen[index].min(line);
            }
        }
        for index in (1..self.seen.len()).rev() {
            self.seen[index - 1] = self.seen[index - 1].min(self.seen[index]);
        }
    }

    /// Gives every acknowledged operation its place.
    fn place(&mut self, run: &Run<'_>, findings: &mut Findings) {
        let mut least: Vec<(u64, Revision)> = Vec::with_capacity(run.operations.len());
        for (index, operation) in run.operations.iter().enumerate() {
            let Some((_, revision, response)) = operation.answer() else {
                continue;
            };
            match operation.standing().expect("it was answered") {
                Standing::Wrote => {
                    least.push((operation.invoked.line, revision));
                    self.add_writer(run, index, revision, findings);
                }
                Standing::Read => {
                    least.push((operation.invoked.line, revision));
                    self.add_reader(index, revision);
                }
                Standing::StaleRead => self.add_reader(index, revision),
                Standing::Saw => {
                    if let Some(held) = response.held() {
                        self.add_lock(run, index, held.fence);
                    }
                }
            }
        }
        let mut lowest = Revision(u64::MAX);
        for entry in least.iter_mut().rev() {
            lowest = lowest.min(entry.1);
            entry.1 = lowest;
        }
        self.least = least;
    }

    fn add_reader(&mut self, index: usize, revision: Revision) {
        if let Some(at) = self.index(revision)
            && at < self.readers.len()
        {
            self.readers[at].push(index);
        }
    }

    fn add_writer(
        &mut self,
        run: &Run<'_>,
        index: usize,
        revision: Revision,
        findings: &mut Findings,
    ) {
        let operation = &run.operations[index];
        let place = revision
            .0
            .checked_sub(self.first.0 + 1)
            .and_then(|at| usize::try_from(at).ok())
            .filter(|at| *at < self.writers.len());
        let Some(place) = place else {
            if revision <= self.first {
                let text = format!(
                    "{} was acknowledged at revision {revision}, but the history begins at {}",
                    operation.describe(),
                    self.first
                );
                findings.add(Rule::RevisionOrder, text, operation.lines());
            }
            self.consistent = false;
            return;
        };
        let Some(other) = self.writers[place] else {
            self.writers[place] = Some(index);
            return;
        };
        let other = &run.operations[other];
        let text = format!(
            "{} and {} were both acknowledged at revision {revision}",
            other.describe(),
            operation.describe()
        );
        let mut lines = other.lines();
        lines.extend(operation.lines());
        findings.add(Rule::RevisionTwice, text, lines);
        self.consistent = false;
    }

    /// The key of a lock, or of a leader, was put at its fence, by this call or, if the lease held
    /// the lock already, by one before.
    fn add_lock(&mut self, run: &Run<'_>, index: usize, fence: Revision) {
        let seen_before = self.seen_line(fence) < run.operations[index].invoked.line;
        let place = fence
            .0
            .checked_sub(self.first.0 + 1)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(place) = place
            && place < self.writers.len()
            && self.writers[place].is_none()
            && !seen_before
        {
            self.writers[place] = Some(index);
        }
    }

    /// Sweeps over the lines with the greatest revision seen so far.
    fn judge_real_time(
        &mut self,
        run: &Run<'_>,
        sightings: &[(u64, Revision)],
        findings: &mut Findings,
    ) {
        let mut sightings = sightings.iter().peekable();
        let mut floor: (u64, Revision) = (1, self.first);
        for operation in &run.operations {
            while let Some((line, revision)) =
                sightings.next_if(|(line, _)| *line < operation.invoked.line)
            {
                if *revision > floor.1 {
                    floor = (*line, *revision);
                }
            }
            let Some((_, revision, _)) = operation.answer() else {
                continue;
            };
            let (rule, bad) = match operation.standing().expect("it was answered") {
                Standing::Wrote => (Rule::RevisionOrder, revision <= floor.1),
                Standing::Read => (Rule::StaleRead, revision < floor.1),
                Standing::StaleRead | Standing::Saw => continue,
            };
            if bad && floor.0 > 1 {
                self.consistent = false;
                self.report(run, operation, revision, rule, floor, findings);
            }
        }
    }

    fn report(
        &self,
        run: &Run<'_>,
        operation: &Operation<'_>,
        revision: Revision,
        rule: Rule,
        (line, seen): (u64, Revision),
        findings: &mut Findings,
    ) {
        let witness = run.operations.iter().find(|other| {
            other
                .answer()
                .is_some_and(|(moment, ..)| moment.line == line)
        });
        let future = rule == Rule::RevisionOrder
            && witness.is_none_or(|witness| witness.standing() != Some(Standing::Wrote));
        let rule = if future { Rule::FutureRead } else { rule };
        let witness_text = witness.map_or_else(
            || format!("a message of a watch (line {line})"),
            Operation::describe,
        );
        let text = format!(
            "{} began (line {}) after {witness_text} had shown revision {seen} (line {line}), \
             but was answered at revision {revision}",
            operation.describe(),
            operation.invoked.line,
        );
        let mut lines = witness.map_or_else(|| vec![line], Operation::lines);
        lines.extend(operation.lines());
        findings.add(rule, text, lines);
    }
}

/// Every line that shows that a revision has come about, in the order of lines.
fn sightings(run: &Run<'_>) -> Vec<(u64, Revision)> {
    let mut sightings = Vec::with_capacity(run.history.events.len());
    for (moment, event) in moments(run.history) {
        let line = moment.line;
        match event {
            EventKind::Ok {
                revision, response, ..
            } => {
                sightings.push((line, *revision));
                if let Some(held) = response.held() {
                    sightings.push((line, held.fence));
                }
            }
            EventKind::WatchCreated(at) | EventKind::WatchProgress(at) => {
                sightings.push((line, at.revision));
            }
            EventKind::WatchMessage(message) => {
                sightings.push((line, message.revision));
                let last = message
                    .events
                    .iter()
                    .map(crate::history::WatchEvent::revision);
                sightings.extend(last.max().map(|revision| (line, revision)));
            }
            _ => {}
        }
    }
    sightings
}

/// How many revisions the history can have made at most.
fn most_revisions(run: &Run<'_>) -> u64 {
    let mut most = 0;
    let mut leases: BTreeMap<_, ()> = BTreeMap::new();
    for kv in &run.header.initial.keys {
        leases.insert(kv.lease, ());
    }
    for operation in &run.operations {
        let failed = matches!(operation.end, crate::run::End::Fail { .. });
        if failed {
            continue;
        }
        most += match operation.request {
            // A lock call that is given up takes its key back.
            Request::Lock(_) | Request::Campaign(_) => 2,
            Request::LeaseGrant(_) => 1,
            _ => u64::from(operation.may_write()),
        };
    }
    most + leases.len() as u64
}
