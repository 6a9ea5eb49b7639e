//! What a check found out, for people and for programs.
//!
//! The verdict is `Ok` only if every rule was judged to its end. A search that ran out of steps
//! makes the verdict `Undecided`, whatever else held.

use std::fmt;

use crate::history::{Origin, Revision};

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every rule holds.
    Ok,
    /// At least one promise was broken.
    Violation,
    /// Nothing wrong was found, but the search for an order ran out of steps.
    Undecided,
}

/// The promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A linearizable operation did not see what was there before it began.
    StaleRead,
    /// Something was seen before it was written.
    FutureRead,
    /// Revisions contradict the order of real time.
    RevisionOrder,
    /// Two acknowledged writes share one revision.
    RevisionTwice,
    /// A revision, or what it did, that no operation can explain.
    Unexplained,
    /// An answer differs from what the operations up to its revision give.
    WrongAnswer,
    /// A read of a compacted revision was answered, or one that was not compacted was refused.
    Compaction,
    /// Events of a watch went backwards.
    WatchOrder,
    /// A watch delivered an event twice.
    WatchDuplicate,
    /// A watch split one revision over two messages.
    WatchSplit,
    /// A watch left out an event.
    WatchMissing,
    /// A watch delivered an event that did not happen, or not so.
    WatchWrongEvent,
    /// A previous version is wrong, missing, or was not asked for.
    WatchPrevious,
    /// An event outside of the keys watched, or of a kind filtered out.
    WatchFilter,
    /// An event from before the start of the watch.
    WatchStart,
    /// A revision promised by a watch message was not kept, or was wrong.
    WatchProgress,
    /// A watch was cancelled for no reason, or went on after its end.
    WatchCancel,
    /// A lease ended before its time.
    LeaseEarly,
    /// A lease outlived its time.
    LeaseLate,
    /// Keys and their lease did not vanish together.
    LeaseKeys,
    /// An answer about a lease is impossible.
    LeaseAnswer,
    /// Two clients held one lock.
    LockHolders,
    /// Fencing revisions contradict the order of holders.
    LockFence,
    /// Two clients led one election.
    ElectionLeaders,
    /// Fencing revisions contradict the order of leaders.
    ElectionFence,
}

impl Rule {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rule::StaleRead => "linearizability: stale read",
            Rule::FutureRead => "linearizability: future read",
            Rule::RevisionOrder => "linearizability: revision order",
            Rule::RevisionTwice => "linearizability: one revision, two writes",
            Rule::Unexplained => "linearizability: unexplained revision",
            Rule::WrongAnswer => "linearizability: wrong answer",
            Rule::Compaction => "compaction",
            Rule::WatchOrder => "watch: ordered",
            Rule::WatchDuplicate => "watch: unique",
            Rule::WatchSplit => "watch: atomic",
            Rule::WatchMissing => "watch: reliable",
            Rule::WatchWrongEvent => "watch: true events",
            Rule::WatchPrevious => "watch: previous versions",
            Rule::WatchFilter => "watch: filters",
            Rule::WatchStart => "watch: start revision",
            Rule::WatchProgress => "watch: bookmarks",
            Rule::WatchCancel => "watch: cancellation",
            Rule::LeaseEarly => "lease: never early",
            Rule::LeaseLate => "lease: never late",
            Rule::LeaseKeys => "lease: keys vanish with it",
            Rule::LeaseAnswer => "lease: answers",
            Rule::LockHolders => "lock: one holder",
            Rule::LockFence => "lock: fencing",
            Rule::ElectionLeaders => "election: one leader",
            Rule::ElectionFence => "election: fencing",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One broken promise, with the smallest set of lines that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which promise.
    pub rule: Rule,
    /// What happened, in words that name operations, keys and revisions.
    pub text: String,
    /// Lines of the history (1 is the header) that together show it.
    pub lines: Vec<u64>,
}

/// How much was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations, whatever their end.
    pub operations: u64,
    /// Those that were acknowledged.
    pub acknowledged: u64,
    /// Those with unknown result.
    pub unknown: u64,
    /// Revisions seen.
    pub revisions: u64,
    /// Revisions that no acknowledged operation made.
    pub holes: u64,
    /// Steps that the search for an order took.
    pub steps: u64,
    /// Watches.
    pub watches: u64,
    /// Events that watches delivered.
    pub watch_events: u64,
    /// Leases.
    pub leases: u64,
    /// Times that a lock was held.
    pub locks: u64,
    /// Times that somebody was elected.
    pub elections: u64,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where the history comes from.
    pub origin: Origin,
    /// The last revision seen.
    pub last_revision: Revision,
    /// What was broken; the first findings only, see `more_findings`.
    pub findings: Vec<Finding>,
    /// Findings beyond the limit.
    pub more_findings: u64,
    /// Why something could not be decided, if so.
    pub undecided: Option<String>,
    /// How much was judged.
    pub counts: Counts,
}

impl Report {
    /// The verdict over all.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.findings.is_empty() {
            Verdict::Violation
        } else if self.undecided.is_some() {
            Verdict::Undecided
        } else {
            Verdict::Ok
        }
    }

    /// Whether some finding is of this rule.
    #[must_use]
    pub fn breaks(&self, rule: Rule) -> bool {
        self.findings.iter().any(|finding| finding.rule == rule)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Simulator { seed, commit } => {
                writeln!(
                    formatter,
                    "history: simulated, seed {seed}, commit {commit}"
                )?;
            }
            Origin::Live { cluster, commit } => {
                writeln!(formatter, "history: live run of {cluster}, commit {commit}")?;
            }
        }
        let counts = &self.counts;
        writeln!(
            formatter,
            "judged:  {} operations ({} acknowledged, {} unknown), {} revisions up to {} ({} of \
             them not acknowledged), {} watches with {} events, {} leases, {} locks held, {} \
             campaigns won",
            counts.operations,
            counts.acknowledged,
            counts.unknown,
            counts.revisions,
            self.last_revision,
            counts.holes,
            counts.watches,
            counts.watch_events,
            counts.leases,
            counts.locks,
            counts.elections,
        )?;
        match self.verdict() {
            Verdict::Ok => writeln!(formatter, "verdict: ok")?,
            Verdict::Violation => {
                let all = self.findings.len() as u64 + self.more_findings;
                writeln!(formatter, "verdict: VIOLATION ({all} found)")?;
            }
            Verdict::Undecided => writeln!(formatter, "verdict: UNDECIDED")?,
        }
        for finding in &self.findings {
            writeln!(formatter, "\n{}", finding.rule)?;
            for line in finding.text.lines() {
                writeln!(formatter, "  {line}")?;
            }
            if !finding.lines.is_empty() {
                let lines: Vec<String> = finding.lines.iter().map(u64::to_string).collect();
                writeln!(formatter, "  lines: {}", lines.join(", "))?;
            }
        }
        if self.more_findings > 0 {
            writeln!(formatter, "\nand {} more findings", self.more_findings)?;
        }
        if let Some(reason) = &self.undecided {
            writeln!(formatter, "\nundecided: {reason}")?;
        }
        Ok(())
    }
}

/// Collects findings while the judges run.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) kept: Vec<Finding>,
    pub(crate) more: u64,
    most: usize,
}

impl Findings {
    pub(crate) fn new(most: usize) -> Findings {
        Findings {
            kept: Vec::new(),
            more: 0,
            // A report without its first finding would call a violation ok.
            most: most.max(1),
        }
    }

    pub(crate) fn add(&mut self, rule: Rule, text: String, lines: Vec<u64>) {
        if self.kept.len() < self.most {
            self.kept.push(Finding { rule, text, lines });
        } else {
            self.more += 1;
        }
    }
}
