//! etcd's promises to watchers, judged stream by stream.
//!
//! | promise | here |
//! |---|---|
//! | ordered | revisions never go back within a stream |
//! | unique | no event comes twice |
//! | atomic | all events of a revision come in one message, unless fragments were asked for |
//! | reliable | between start and the last revision seen or promised, no event is missing |
//! | resumable | a stream that begins again at a revision gets everything from there |
//! | bookmarkable | after a message at revision R without events, no event of R or before comes |
//!
//! and: nothing from before the start, only keys and kinds that were asked for, events as they
//! really happened, previous versions as they really were (one may be missing only if it was
//! compacted), nothing after the end, and a cancellation for compaction only if there was one.
//!
//! A stream is what lies between a creation or resumption and the next end. What is delivered is
//! held against [`Certain`] changes and the [`Timeline`]. That an event is not delivered *yet*
//! breaks nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::certain::Certain;
use crate::compaction::Compactions;
use crate::history::{
    EventKind, Filter, Key, KeyRange, KeyValue, Revision, WatchCreate, WatchEvent, WatchId,
    WatchMessage,
};
use crate::linearizability::revisions::Timeline;
use crate::report::{Counts, Findings, Rule};
use crate::run::{Moment, Run, moments};

/// What a watch is held against.
pub(crate) struct Judge<'a> {
    pub(crate) certain: &'a Certain,
    /// The order found, if one was.
    pub(crate) timeline: Option<&'a Timeline>,
    pub(crate) compactions: &'a Compactions,
    pub(crate) first: Revision,
}

/// Where a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Cancelled,
    Lost,
}

struct Stream<'h> {
    create: &'h WatchCreate,
    keys: KeyRange,
    /// The first revision to be delivered, once it is known.
    from: Option<Revision>,
    /// The revision of the last event.
    last: Revision,
    /// The line of the last message with events.
    last_line: u64,
    /// Whether the last message said that the next continues it.
    unfinished: bool,
    /// All up to here was promised to be delivered.
    promised: Revision,
    delivered: BTreeSet<(Revision, &'h Key)>,
    state: State,
    began: u64,
}

/// Judges all watches of a run.
pub(crate) fn judge(
    run: &Run<'_>,
    judge: &Judge<'_>,
    counts: &mut Counts,
    findings: &mut Findings,
) {
    let mut streams: BTreeMap<WatchId, Stream<'_>> = BTreeMap::new();
    for (moment, event) in moments(run.history) {
        let id = match event {
            EventKind::WatchCreate(create) => {
                counts.watches += 1;
                streams.insert(create.watch, Stream::new(create, moment.line));
                continue;
            }
            EventKind::WatchCreated(at) | EventKind::WatchProgress(at) => at.watch,
            EventKind::WatchMessage(message) => message.watch,
            EventKind::WatchCancelled { watch, .. }
            | EventKind::WatchLost { watch }
            | EventKind::WatchResume { watch, .. } => *watch,
            _ => continue,
        };
        let stream = streams
            .get_mut(&id)
            .expect("the reader has seen it created");
        stream.event(judge, moment, event, counts, findings);
    }
    for stream in streams.values() {
        stream.finish(judge, findings);
    }
}

impl<'h> Stream<'h> {
    fn new(create: &'h WatchCreate, line: u64) -> Stream<'h> {
        Stream {
            create,
            keys: create.keys(),
            from: Some(create.start_revision).filter(|start| *start > Revision(0)),
            last: Revision(0),
            last_line: line,
            unfinished: false,
            promised: Revision(0),
            delivered: BTreeSet::new(),
            state: State::Open,
            began: line,
        }
    }

    fn event(
        &mut self,
        judge: &Judge<'_>,
        moment: Moment,
        event: &'h EventKind,
        counts: &mut Counts,
        findings: &mut Findings,
    ) {
        match event {
            EventKind::WatchResume { start_revision, .. } => {
                self.finish(judge, findings);
                let mut stream = Stream::new(self.create, moment.line);
                stream.from = Some(*start_revision).filter(|start| *start > Revision(0));
                *self = stream;
                return;
            }
            EventKind::WatchLost { .. } => {
                self.state = State::Lost;
                return;
            }
            _ => {}
        }
        if self.state == State::Cancelled {
            let text = format!(
                "watch {} was cancelled, and yet another message came (line {})",
                self.create.watch, moment.line
            );
            findings.add(Rule::WatchCancel, text, vec![self.began, moment.line]);
            return;
        }
        match event {
            EventKind::WatchCreated(at) => {
                self.from.get_or_insert(Revision(at.revision.0 + 1));
            }
            EventKind::WatchProgress(at) => self.promise(at.revision, moment, findings),
            EventKind::WatchMessage(message) => {
                counts.watch_events += message.events.len() as u64;
                self.message(judge, moment, message, findings);
            }
            EventKind::WatchCancelled {
                compact_revision, ..
            } => {
                self.state = State::Cancelled;
                self.cancelled(judge, moment, *compact_revision, findings);
            }
            _ => {}
        }
    }

    fn add(&self, rule: Rule, text: &str, moment: Moment, findings: &mut Findings) {
        let text = format!("watch {}: {text}", self.create.watch);
        findings.add(rule, text, vec![self.began, moment.line]);
    }

    fn promise(&mut self, revision: Revision, moment: Moment, findings: &mut Findings) {
        if revision < self.last {
            let text = format!(
                "a message without events stands at revision {revision}, after an event of \
                 revision {}",
                self.last
            );
            self.add(Rule::WatchProgress, &text, moment, findings);
        }
        self.promised = self.promised.max(revision);
    }

    fn cancelled(
        &self,
        judge: &Judge<'_>,
        moment: Moment,
        compacted: Revision,
        findings: &mut Findings,
    ) {
        if compacted == Revision(0) {
            return;
        }
        if judge.compactions.most_before(moment.line) < compacted {
            let text = format!(
                "cancelled because revision {compacted} was compacted, which nobody had asked for"
            );
            self.add(Rule::WatchCancel, &text, moment, findings);
        }
        let next = Revision(self.last.max(self.promised).0 + 1).max(self.from.unwrap_or_default());
        if next >= compacted {
            let text = format!(
                "cancelled because of a compaction to {compacted}, but the next event it needed \
                 is at {next} or beyond"
            );
            self.add(Rule::WatchCancel, &text, moment, findings);
        }
    }

    fn message(
        &mut self,
        judge: &Judge<'_>,
        moment: Moment,
        message: &'h WatchMessage,
        findings: &mut Findings,
    ) {
        let before = self.last;
        let continued = self.unfinished;
        for event in &message.events {
            let revision = event.revision();
            let key = event.key();
            self.belongs(event, moment, findings);
            if !self.delivered.insert((revision, key)) {
                let text = format!("the event of {key} at revision {revision} came twice");
                self.add(Rule::WatchDuplicate, &text, moment, findings);
                continue;
            }
            if revision < self.last {
                let text = format!(
                    "an event of revision {revision} ({key}) came after one of revision {}",
                    self.last
                );
                self.add(Rule::WatchOrder, &text, moment, findings);
            } else if revision == before && !continued {
                let text = format!(
                    "revision {revision} came in two messages (lines {} and {}), which were not \
                     marked as fragments",
                    self.last_line, moment.line
                );
                self.add(Rule::WatchSplit, &text, moment, findings);
            }
            if revision <= self.promised {
                let text = format!(
                    "an event of revision {revision} ({key}) came after all up to {} was promised \
                     to be delivered",
                    self.promised
                );
                self.add(Rule::WatchProgress, &text, moment, findings);
            }
            if revision > message.revision {
                let text = format!(
                    "a message at revision {} holds an event of revision {revision}",
                    message.revision
                );
                self.add(Rule::WatchProgress, &text, moment, findings);
            }
            self.last = self.last.max(revision);
            self.is_true(judge, event, moment, findings);
        }
        if message.fragment && !self.create.fragment {
            self.add(
                Rule::WatchSplit,
                "a fragment came without having been asked for",
                moment,
                findings,
            );
        }
        self.unfinished = message.fragment;
        self.last_line = moment.line;
    }

    /// Whether the event is one that was asked for.
    fn belongs(&self, event: &WatchEvent, moment: Moment, findings: &mut Findings) {
        let (key, revision) = (event.key(), event.revision());
        if !self.keys.contains(key) {
            let text = format!("an event of {key}, which is not watched");
            self.add(Rule::WatchFilter, &text, moment, findings);
        }
        if self.is_filtered(matches!(event, WatchEvent::Put { .. })) {
            let text = format!("an event of {key} at revision {revision} that was filtered out");
            self.add(Rule::WatchFilter, &text, moment, findings);
        }
        if self.from.is_some_and(|from| revision < from) {
            let text = format!(
                "an event of revision {revision} ({key}), but the watch begins at {}",
                self.from.unwrap_or_default()
            );
            self.add(Rule::WatchStart, &text, moment, findings);
        }
        if event.prev_kv().is_some() && !self.create.prev_kv {
            let text = format!(
                "the event of {key} at {revision} shows a previous version, which was not asked for"
            );
            self.add(Rule::WatchPrevious, &text, moment, findings);
        }
    }

    fn is_filtered(&self, put: bool) -> bool {
        let kind = if put { Filter::Put } else { Filter::Delete };
        self.create.filters.contains(&kind)
    }

    /// Whether the event happened, and so.
    fn is_true(
        &self,
        judge: &Judge<'_>,
        event: &WatchEvent,
        moment: Moment,
        findings: &mut Findings,
    ) {
        let (key, revision) = (event.key(), event.revision());
        let Some(timeline) = judge.timeline.filter(|_| revision > judge.first) else {
            return;
        };
        let store = &timeline.store;
        let real = store.get(key, revision);
        let changed = store.changes(revision).any(|(changed, _)| changed == key);
        let shown = match event {
            WatchEvent::Put { kv, .. } => Some(kv),
            WatchEvent::Delete { .. } => None,
        };
        if !changed || shown != real {
            let text = format!(
                "it delivered that revision {revision} {}; {}",
                in_words(key, shown),
                if changed {
                    format!("it {}", in_words(key, real))
                } else {
                    "it did not touch that key".to_owned()
                }
            );
            self.add(Rule::WatchWrongEvent, &text, moment, findings);
            return;
        }
        let previous = store.previous(key, revision);
        // A previous version that is not there any more cannot be shown: etcd leaves it out.
        let may_lack = judge.compactions.most_before(moment.line) >= revision
            || !(timeline.is_sure || timeline.acknowledges(previous));
        let wrong = match (event.prev_kv(), previous) {
            (Some(shown), real) => Some(shown) != real,
            (None, Some(_)) => self.create.prev_kv && !may_lack,
            (None, None) => false,
        };
        if wrong {
            let text = format!(
                "as the version of {key} before revision {revision} it delivered {}; it was {}",
                version(event.prev_kv()),
                version(previous)
            );
            self.add(Rule::WatchPrevious, &text, moment, findings);
        }
    }

    /// At the end of a stream: whether it left something out.
    fn finish(&self, judge: &Judge<'_>, findings: &mut Findings) {
        let Some(from) = self.from else {
            return;
        };
        let whole = if self.unfinished {
            Revision(self.last.0.saturating_sub(1))
        } else {
            self.last
        };
        let upto = whole.max(self.promised);
        if from > upto {
            return;
        }
        for (revision, changes) in judge.certain.changes.range(from..=upto) {
            for (key, put) in changes {
                let wanted = self.keys.contains(key) && !self.is_filtered(*put);
                if !wanted || self.delivered.contains(&(*revision, key)) {
                    continue;
                }
                let others = self.delivered.iter().any(|(other, _)| other == revision);
                let torn = if others {
                    ", while other events of that revision came"
                } else {
                    ""
                };
                let text = format!(
                    "watch {} over {} from {from} never delivered that revision {revision} {} {key}\
                     {torn}; it has delivered or promised all up to {upto} (line {})",
                    self.create.watch,
                    self.keys.key,
                    if *put { "put" } else { "deleted" },
                    self.last_line,
                );
                findings.add(Rule::WatchMissing, text, vec![self.began, self.last_line]);
            }
        }
    }
}

fn in_words(key: &Key, put: Option<&KeyValue>) -> String {
    match put {
        None => format!("deleted {key}"),
        Some(kv) => format!("put {key}: {}", version(Some(kv))),
    }
}

fn version(kv: Option<&KeyValue>) -> String {
    kv.map_or_else(
        || "none".to_owned(),
        |kv| {
            format!(
                "{} (written at {}, created at {}, version {}, lease {})",
                kv.value, kv.mod_revision, kv.create_revision, kv.version, kv.lease
            )
        },
    )
}
