//! Which commands have been executed: a bounded window per origin.
//!
//! A node that does not know whether its command was proposed may propose it again; what keeps it
//! from being executed twice is this window, which is part of the replicated state. Per node it
//! remembers the incarnation and the executed sequences as runs:
//!
//! ```text
//!      stale      │  1       window (at most 65,536 wide)          highest
//!   ──────────────┤  [====]      [=========]   [=]      [==========]
//!              forgotten      each run [first, last] was executed
//! ```
//!
//! A sequence in a run is a duplicate; one at or below `forgotten` is stale: it may have been
//! executed, nobody knows any more; any other is fresh. Both bounds, width and number of runs,
//! only ever move `forgotten` up, so a command is executed at most once, whatever is forgotten.

use base::{Incarnation, NodeId};
use bytes::Buf;

use crate::limits::Settings;

/// Where a command comes from, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The node that took the command from its client.
    pub node: NodeId,
    /// Which start of that node.
    pub incarnation: Incarnation,
    /// Counts that incarnation's commands, from 1.
    pub sequence: u64,
}

/// Whether a command may be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It was not executed before, and is recorded now.
    Fresh,
    /// It was executed before.
    Duplicate,
    /// It comes from an older incarnation than one that was seen, or is so old that it cannot be
    /// told any more whether it was executed.
    Stale,
}

/// What is remembered of one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    incarnation: Incarnation,
    /// Sequences up to this one are stale.
    forgotten: u64,
    /// Executed sequences above that: first and last of each run, ascending, never adjacent.
    runs: Vec<(u64, u64)>,
}

/// The fixed part of an encoded window.
const HEAD_LENGTH: usize = 20;

/// The encoded length of one run.
const RUN_LENGTH: usize = 16;

impl Window {
    /// A window in which nothing was executed.
    pub(crate) fn new(incarnation: Incarnation) -> Window {
        Window {
            incarnation,
            forgotten: 0,
            runs: Vec::new(),
        }
    }

    /// Judges a command, and records it if it is fresh.
    pub(crate) fn admit(&mut self, origin: Origin, settings: &Settings) -> Admission {
        if origin.incarnation < self.incarnation {
            return Admission::Stale;
        }
        if origin.incarnation > self.incarnation {
            *self = Window::new(origin.incarnation);
        }
        let sequence = origin.sequence;
        if sequence <= self.forgotten {
            return Admission::Stale;
        }
        // The runs that end before the sequence.
        let index = self.runs.partition_point(|(_, last)| *last < sequence);
        if self
            .runs
            .get(index)
            .is_some_and(|(first, _)| *first <= sequence)
        {
            return Admission::Duplicate;
        }
        self.record(index, sequence);
        self.forget(settings);
        Admission::Fresh
    }

    /// Whether the bounds hold, as they do after every admission.
    pub(crate) fn fits(&self, settings: &Settings) -> bool {
        let mut bounded = self.clone();
        bounded.forget(settings);
        bounded == *self
    }

    /// Adds a sequence between the runs `index - 1` and `index`.
    fn record(&mut self, index: usize, sequence: u64) {
        let extends = index > 0 && self.runs[index - 1].1 + 1 == sequence;
        let joins = self
            .runs
            .get(index)
            .is_some_and(|(first, _)| sequence + 1 == *first);
        match (extends, joins) {
            (true, true) => {
                let (_, last) = self.runs.remove(index);
                self.runs[index - 1].1 = last;
            }
            (true, false) => self.runs[index - 1].1 = sequence,
            (false, true) => self.runs[index].0 = sequence,
            (false, false) => self.runs.insert(index, (sequence, sequence)),
        }
    }

    /// Moves the lower edge up until both bounds hold.
    fn forget(&mut self, settings: &Settings) {
        let highest = self.runs.last().map_or(self.forgotten, |(_, last)| *last);
        self.forgotten = self
            .forgotten
            .max(highest.saturating_sub(settings.origin_window));
        let excess = self
            .runs
            .len()
            .saturating_sub(settings.origin_ranges_max as usize);
        if excess > 0 {
            self.forgotten = self.forgotten.max(self.runs[excess - 1].1);
        }
        let gone = self
            .runs
            .partition_point(|(_, last)| *last <= self.forgotten);
        self.runs.drain(..gone);
        if let Some((first, _)) = self.runs.first_mut() {
            *first = (*first).max(self.forgotten + 1);
        }
    }

    /// The row's value. Layout (little-endian): incarnation u64, forgotten u64, number of runs
    /// u32, then first u64 and last u64 of each run.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_LENGTH + RUN_LENGTH * self.runs.len());
        bytes.extend_from_slice(&self.incarnation.0.to_le_bytes());
        bytes.extend_from_slice(&self.forgotten.to_le_bytes());
        bytes.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        for (first, last) in &self.runs {
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&last.to_le_bytes());
        }
        bytes
    }

    /// Reads a row's value; `None` if it is not what [`Window::encode`] makes.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Window> {
        let incarnation = Incarnation(bytes.try_get_u64_le().ok()?);
        let forgotten = bytes.try_get_u64_le().ok()?;
        let count = bytes.try_get_u32_le().ok()? as usize;
        if bytes.len() != count.checked_mul(RUN_LENGTH)? {
            return None;
        }
        let mut runs = Vec::with_capacity(count);
        // One past the end of the run before; a run must leave a gap to it.
        let mut floor = forgotten;
        for _ in 0..count {
            let first = bytes.try_get_u64_le().ok()?;
            let last = bytes.try_get_u64_le().ok()?;
            if first <= floor || last < first {
                return None;
            }
            floor = last.saturating_add(1);
            runs.push((first, last));
        }
        Some(Window {
            incarnation,
            forgotten,
            runs,
        })
    }
}

/// The key of an origin's row: its id, so that rows are in the order of ids.
pub(crate) fn row_key(node: NodeId) -> [u8; 8] {
    node.0.to_be_bytes()
}
