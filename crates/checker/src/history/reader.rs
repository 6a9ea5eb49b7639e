//! Reads a history and refuses what is not one, with the line and the reason.
//!
//! Beside the form of each line it holds the rules between lines: time never goes back, an
//! operation is invoked once and before it ends, its answer fits what was asked, a watch exists
//! before anything is said about it. So the judges may rely on them.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, Read};

use super::{
    Event, EventKind, FORMAT, Header, History, KeyValue, OperationId, Request, Response, Revision,
    Step, StepResult, Time, WatchId, WatchMessage, WatchRevision,
};
use crate::limits::Limits;

/// Why something is not a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The line, counted from 1 (the header).
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for Malformed {}

/// What the rules between lines need to know.
#[derive(Debug)]
struct Order<Q> {
    at: Time,
    /// Open operations with their requests (owned while lines are read, else borrowed); ended ones
    /// with `None`.
    operations: BTreeMap<OperationId, Option<Q>>,
    watches: BTreeMap<WatchId, ()>,
}

impl<Q> Default for Order<Q> {
    fn default() -> Order<Q> {
        Order {
            at: Time::default(),
            operations: BTreeMap::new(),
            watches: BTreeMap::new(),
        }
    }
}

/// Reads a history line by line.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    limits: Limits,
    line: u64,
    bytes: u64,
    events: usize,
    buffer: Vec<u8>,
    order: Order<Request>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// If there is none, or of another format.
    pub fn new(source: R, limits: Limits) -> Result<(Reader<R>, Header), Malformed> {
        let mut reader = Reader {
            source,
            limits,
            line: 0,
            bytes: 0,
            events: 0,
            buffer: Vec::new(),
            order: Order::default(),
        };
        if !reader.next_line()? {
            reader.line = 1;
            return Err(reader.malformed("the history is empty: there is no header"));
        }
        let header: Header = reader.parse("a header")?;
        if header.history != FORMAT {
            return Err(reader.malformed(format!(
                "format {} is not known (this program reads {FORMAT})",
                header.history
            )));
        }
        check_initial(&header).map_err(|reason| reader.malformed(reason))?;
        Ok((reader, header))
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// If the line is not an event, cannot follow the ones before it, or a limit is passed.
    pub fn next_event(&mut self) -> Result<Option<Event>, Malformed> {
        if !self.next_line()? {
            return Ok(None);
        }
        if self.events >= self.limits.events {
            return Err(self.malformed(format!("more than {} events", self.limits.events)));
        }
        self.events += 1;
        let event: Event = self.parse("an event")?;
        let fits = self.order.accept(&event, Request::clone);
        fits.map_err(|reason| self.malformed(reason))?;
        Ok(Some(event))
    }

    /// Reads all.
    ///
    /// # Errors
    /// As [`Reader::new`] and [`Reader::next_event`].
    pub fn read(source: R, limits: Limits) -> Result<History, Malformed> {
        let (mut reader, header) = Reader::new(source, limits)?;
        let mut events = Vec::new();
        while let Some(event) = reader.next_event()? {
            events.push(event);
        }
        Ok(History { header, events })
    }

    fn malformed(&self, reason: impl Into<String>) -> Malformed {
        Malformed {
            line: self.line,
            reason: reason.into(),
        }
    }

    /// Takes the next line into the buffer; false at the end.
    fn next_line(&mut self) -> Result<bool, Malformed> {
        self.buffer.clear();
        self.line += 1;
        let most = self.limits.line_bytes as u64 + 1;
        let taken = self
            .source
            .by_ref()
            .take(most)
            .read_until(b'\n', &mut self.buffer)
            .map_err(|error| self.malformed(format!("cannot be read: {error}")))?;
        if taken == 0 {
            return Ok(false);
        }
        self.bytes += taken as u64;
        let ended = self.buffer.last() == Some(&b'\n');
        if !ended && taken as u64 == most {
            return Err(self.malformed(format!("longer than {} bytes", self.limits.line_bytes)));
        }
        if self.bytes > self.limits.history_bytes {
            return Err(self.malformed(format!(
                "the history is longer than {} bytes",
                self.limits.history_bytes
            )));
        }
        if !ended {
            return Err(self.malformed("the line does not end: the file is cut off"));
        }
        Ok(true)
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T, Malformed> {
        serde_json::from_slice(&self.buffer).map_err(|error| {
            // The library counts lines inside the one line it was given: keep the column alone.
            let text = error.to_string();
            let reason = match text.rsplit_once(" at line ") {
                Some((reason, _)) => format!("{reason} (column {})", error.column()),
                None => text,
            };
            self.malformed(format!("not {what}: {reason}"))
        })
    }
}

impl History {
    /// Holds a history that was made in memory to the same rules as one that is read.
    ///
    /// # Errors
    /// The first line (counted as if it were written) that breaks a rule.
    pub fn validate(&self) -> Result<(), Malformed> {
        check_initial(&self.header).map_err(|reason| Malformed { line: 1, reason })?;
        let mut order: Order<&Request> = Order::default();
        for (index, event) in self.events.iter().enumerate() {
            order
                .accept(event, |request| request)
                .map_err(|reason| Malformed {
                    line: index as u64 + 2,
                    reason,
                })?;
        }
        Ok(())
    }
}

fn check_initial(header: &Header) -> Result<(), String> {
    let initial = &header.initial;
    if initial.revision < Revision(1) {
        return Err("the initial revision is at least 1".to_owned());
    }
    let mut before: Option<&KeyValue> = None;
    for kv in &initial.keys {
        if before.is_some_and(|before| before.key >= kv.key) {
            return Err(format!("the initial key {} is not in key order", kv.key));
        }
        let revisions = kv.create_revision <= kv.mod_revision
            && kv.mod_revision <= initial.revision
            && kv.create_revision > Revision(0)
            && kv.version > 0;
        if !revisions {
            return Err(format!(
                "the initial key {} has impossible counters",
                kv.key
            ));
        }
        before = Some(kv);
    }
    Ok(())
}

impl<Q: Borrow<Request>> Order<Q> {
    /// Takes the next line; `keep` makes of a request what is kept until its answer comes.
    fn accept<'h>(
        &mut self,
        event: &'h Event,
        keep: impl FnOnce(&'h Request) -> Q,
    ) -> Result<(), String> {
        if event.at < self.at {
            return Err(format!("time goes back from {} to {}", self.at, event.at));
        }
        self.at = event.at;
        match &event.event {
            EventKind::Invoke { id, request, .. } => self.invoke(*id, keep(request)),
            EventKind::Ok { id, response, .. } => {
                let request = self.end(*id)?;
                if fits(request.borrow(), response) {
                    Ok(())
                } else {
                    Err(format!("the answer does not fit what operation {id} asked"))
                }
            }
            EventKind::Fail { id, .. } | EventKind::Unknown { id, .. } => self.end(*id).map(|_| ()),
            EventKind::WatchCreate(create) => match self.watches.insert(create.watch, ()) {
                None => Ok(()),
                Some(()) => Err(format!("watch {} was created before", create.watch)),
            },
            EventKind::WatchCreated(WatchRevision { watch, .. })
            | EventKind::WatchProgress(WatchRevision { watch, .. })
            | EventKind::WatchMessage(WatchMessage { watch, .. })
            | EventKind::WatchCancelled { watch, .. }
            | EventKind::WatchLost { watch }
            | EventKind::WatchResume { watch, .. } => {
                if self.watches.contains_key(watch) {
                    Ok(())
                } else {
                    Err(format!("watch {watch} was never created"))
                }
            }
            EventKind::Calm {} | EventKind::LeaseExpired { .. } => Ok(()),
        }
    }

    fn invoke(&mut self, id: OperationId, request: Q) -> Result<(), String> {
        match self.operations.insert(id, Some(request)) {
            None => Ok(()),
            Some(_) => Err(format!("operation {id} was invoked before")),
        }
    }

    fn end(&mut self, id: OperationId) -> Result<Q, String> {
        match self.operations.get_mut(&id) {
            None => Err(format!("operation {id} was never invoked")),
            Some(open) => open
                .take()
                .ok_or_else(|| format!("operation {id} ended before")),
        }
    }
}

/// Whether the answer has the shape of the question, inside transactions too.
fn fits(request: &Request, response: &Response) -> bool {
    match (request, response) {
        (Request::Txn(txn), Response::Txn(result)) => steps_fit(txn, result),
        _ => request.fits(response),
    }
}

fn steps_fit(txn: &super::Txn, result: &super::TxnResult) -> bool {
    let steps = if result.succeeded {
        &txn.success
    } else {
        &txn.failure
    };
    steps.len() == result.responses.len()
        && steps
            .iter()
            .zip(&result.responses)
            .all(|(step, answer)| match (step, answer) {
                (Step::Range(_), StepResult::Range(_))
                | (Step::Put(_), StepResult::Put(_))
                | (Step::Delete(_), StepResult::Delete(_)) => true,
                (Step::Txn(txn), StepResult::Txn(result)) => steps_fit(txn, result),
                _ => false,
            })
}
