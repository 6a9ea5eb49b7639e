//! Reads of history: what watchers need that has left the ring.
//!
//! ```text
//!   hub ──HistoryRequest──▶ node ──HistoryJob (a snapshot)──▶ any thread ──HistoryResult──▶ hub
//! ```
//!
//! One read serves many watchers: it walks the changes of all revisions from some revision on and
//! keeps those that any of the given ranges holds, up to a bound of changes and bytes. The job
//! holds its snapshot for that long only; between two reads the hub holds a revision and no handle.

use bytes::Bytes;
use state::{EventBatch, KeyRange, Reader, Revision, Snapshot, Space};

use super::interface::HubId;

/// What a hub needs to know of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRequest {
    /// Which of the hub's reads this is.
    pub number: u64,
    /// The first revision wanted.
    pub from: Revision,
    /// The last revision wanted: the ring has what follows.
    pub upto: Revision,
    /// The keys wanted.
    pub wanted: Wanted,
    /// How many changes may be looked at.
    pub steps: usize,
    /// Bytes of events after which the read ends.
    pub bytes: usize,
}

/// What a read of history has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryResult {
    /// Which of the hub's reads this was.
    pub number: u64,
    /// What came of it.
    pub outcome: HistoryOutcome,
}

/// What came of a read of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryOutcome {
    /// The changes of the keys wanted.
    Read {
        /// Those revisions that changed such keys, with these changes alone.
        batches: Vec<EventBatch>,
        /// Everything from the first revision wanted up to here has been looked at.
        through: Revision,
    },
    /// Some of what was wanted is compacted.
    Compacted {
        /// The oldest revision that can be read.
        compacted: Revision,
    },
    /// The read could not be made.
    Failed,
}

/// A read of history, ready to run on any thread.
#[derive(Clone, Debug)]
pub struct HistoryJob {
    hub: HubId,
    snapshot: Snapshot,
    request: HistoryRequest,
}

impl HistoryJob {
    /// A read of this state.
    #[must_use]
    pub fn new(hub: HubId, snapshot: Snapshot, request: HistoryRequest) -> HistoryJob {
        HistoryJob {
            hub,
            snapshot,
            request,
        }
    }

    /// Whom the result goes to.
    #[must_use]
    pub fn hub(&self) -> HubId {
        self.hub
    }

    /// Reads, and lets go of the snapshot.
    #[must_use]
    pub fn run(self) -> HistoryResult {
        HistoryResult {
            number: self.request.number,
            outcome: read(&self.snapshot, &self.request),
        }
    }

    /// The result of a read that failed inside.
    #[must_use]
    pub fn failed(number: u64) -> HistoryResult {
        HistoryResult {
            number,
            outcome: HistoryOutcome::Failed,
        }
    }

    /// Which of the hub's reads this is.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.request.number
    }
}

fn read(reader: &Reader, request: &HistoryRequest) -> HistoryOutcome {
    let compacted = reader.compacted();
    if request.from < compacted {
        return HistoryOutcome::Compacted { compacted };
    }
    let upto = request.upto.min(reader.revision());
    let (mut batches, mut bytes, mut steps) = (Vec::new(), 0, 0);
    let mut through = Revision(request.from.0 - 1);
    let wanted = |space: Space, key: &[u8]| space == Space::ETCD && request.wanted.holds(key);
    for (revision, looked_at, events) in reader.changes_of(through, wanted) {
        if revision > upto {
            break;
        }
        through = revision;
        steps += looked_at;
        if !events.is_empty() {
            let batch = EventBatch { revision, events };
            bytes += batch_bytes(&batch);
            batches.push(batch);
        }
        if steps >= request.steps || bytes >= request.bytes {
            return HistoryOutcome::Read { batches, through };
        }
    }
    // Nothing was left to look at: no revision up to the last one wanted has been missed.
    let through = through.max(upto);
    HistoryOutcome::Read { batches, through }
}

/// What a batch counts in the bounds of rings and reads.
#[must_use]
pub fn batch_bytes(batch: &EventBatch) -> usize {
    /// For the batch and for each event: what they take beside keys and values.
    const OVERHEAD: usize = 256;
    let event_bytes = batch.events.iter().map(|event| {
        let previous = event.previous.as_ref();
        let previous = previous.map_or(0, |previous| previous.value.len());
        OVERHEAD + event.key_value.key.len() + event.key_value.value.len() + previous
    });
    OVERHEAD + event_bytes.sum::<usize>()
}

/// A set of keys: ordered spans that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// First key, and the first key that is not wanted any more; `None` is no end.
    spans: Vec<(Bytes, Option<Bytes>)>,
}

impl Wanted {
    /// The keys that any of the ranges holds.
    #[must_use]
    pub fn any_of<'a>(ranges: impl IntoIterator<Item = &'a KeyRange>) -> Wanted {
        let mut spans: Vec<_> = ranges.into_iter().map(span).collect();
        spans.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let mut merged: Vec<(Bytes, Option<Bytes>)> = Vec::new();
        for (start, end) in spans {
            match merged.last_mut() {
                Some((_, None)) => break,
                Some((_, Some(last))) if start <= *last => match end {
                    Some(end) if end > *last => *last = end,
                    Some(_) => {}
                    None => merged.last_mut().expect("there is a last one").1 = None,
                },
                _ => merged.push((start, end)),
            }
        }
        Wanted { spans: merged }
    }

    /// Whether the key is among them.
    #[must_use]
    pub fn holds(&self, key: &[u8]) -> bool {
        let behind = self.spans.partition_point(|(start, _)| start <= key);
        let Some((_, end)) = behind.checked_sub(1).map(|index| &self.spans[index]) else {
            return false;
        };
        end.as_ref().is_none_or(|end| key < end.as_ref())
    }
}

/// A range as its first key and the first key behind it.
pub(super) fn span(range: &KeyRange) -> (Bytes, Option<Bytes>) {
    match range {
        KeyRange::Single(key) => {
            // The next key in byte order.
            let mut behind = Vec::with_capacity(key.len() + 1);
            behind.extend_from_slice(key);
            behind.push(0);
            (key.clone(), Some(behind.into()))
        }
        KeyRange::Span { start, end } => (start.clone(), Some(end.clone())),
        KeyRange::From { start } => (start.clone(), None),
    }
}
