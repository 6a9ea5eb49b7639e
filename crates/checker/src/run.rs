//! The operations of a history, each with its beginning and its end, and what they say of
//! revisions.
//!
//! Order in real time is the order of lines: a line number stands for a moment here, and operation
//! A came before B if A's last line is before B's first.

use std::collections::BTreeMap;

use crate::history::{
    ClientId, Event, EventKind, Failure, Header, History, Key, KeyRange, LeaseId, OperationId,
    Proclaimed, Put, Request, Resigned, Response, Revision, Step, StepResult, Time, Txn, TxnResult,
    Value,
};
use crate::report::Counts;

/// A moment of the history: a line and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) line: u64,
    pub(crate) at: Time,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End<'h> {
    Ok {
        moment: Moment,
        revision: Revision,
        response: &'h Response,
    },
    Fail {
        moment: Moment,
        failure: &'h Failure,
    },
    Unknown,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation<'h> {
    pub(crate) id: OperationId,
    pub(crate) client: ClientId,
    pub(crate) request: &'h Request,
    pub(crate) invoked: Moment,
    pub(crate) end: End<'h>,
}

/// What an acknowledged operation says of the revision in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It made this revision.
    Wrote,
    /// It read the keyspace at this revision, which was the latest at some moment of the operation.
    Read,
    /// It read the keyspace at this revision, which had come about by its end.
    StaleRead,
    /// This revision had come about by its end.
    Saw,
}

/// All operations, in the order of their invocation.
#[derive(Debug)]
pub(crate) struct Run<'h> {
    pub(crate) header: &'h Header,
    pub(crate) history: &'h History,
    pub(crate) operations: Vec<Operation<'h>>,
    /// The moment of the first `calm`, if there is one.
    pub(crate) calm: Option<Moment>,
}

impl<'h> Run<'h> {
    pub(crate) fn new(history: &'h History) -> Run<'h> {
        // What grows step by step touches twice the memory that it needs.
        let is_invocation = |event: &&Event| matches!(event.event, EventKind::Invoke { .. });
        let count = history.events.iter().filter(is_invocation).count();
        let mut operations: Vec<Operation<'h>> = Vec::with_capacity(count);
        let mut by_id: BTreeMap<OperationId, usize> = BTreeMap::new();
        let mut calm = None;
        for (moment, event) in moments(history) {
            match event {
                EventKind::Invoke {
                    id,
                    client,
                    request,
                } => {
                    by_id.insert(*id, operations.len());
                    operations.push(Operation {
                        id: *id,
                        client: *client,
                        request,
                        invoked: moment,
                        end: End::Unknown,
                    });
                }
                EventKind::Ok {
                    id,
                    revision,
                    response,
                } => {
                    operations[by_id[id]].end = End::Ok {
                        moment,
                        revision: *revision,
                        response,
                    };
                }
                EventKind::Fail { id, failure } => {
                    operations[by_id[id]].end = End::Fail { moment, failure };
                }
                EventKind::Calm {} => {
                    calm.get_or_insert(moment);
                }
                _ => {}
            }
        }
        Run {
            header: &history.header,
            history,
            operations,
            calm,
        }
    }

    pub(crate) fn count(&self, counts: &mut Counts) {
        counts.operations = self.operations.len() as u64;
        for operation in &self.operations {
            match operation.end {
                End::Ok { .. } => counts.acknowledged += 1,
                End::Unknown => counts.unknown += 1,
                End::Fail { .. } => {}
            }
        }
    }
}

/// The events of a history with their moments.
pub(crate) fn moments(history: &History) -> impl Iterator<Item = (Moment, &EventKind)> {
    history.events.iter().enumerate().map(|(index, event)| {
        let line = index as u64 + 2;
        (Moment { line, at: event.at }, &event.event)
    })
}

impl<'h> Operation<'h> {
    /// The answer: when, at which revision, what.
    pub(crate) fn answer(&self) -> Option<(Moment, Revision, &'h Response)> {
        match self.end {
            End::Ok {
                moment,
                revision,
                response,
            } => Some((moment, revision, response)),
            _ => None,
        }
    }

    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.end, End::Unknown)
    }

    /// The lines of the operation.
    pub(crate) fn lines(&self) -> Vec<u64> {
        match self.end {
            End::Ok { moment, .. } | End::Fail { moment, .. } => {
                vec![self.invoked.line, moment.line]
            }
            End::Unknown => vec![self.invoked.line],
        }
    }

    /// What its answer says of revisions; `None` without one.
    pub(crate) fn standing(&self) -> Option<Standing> {
        let (_, _, response) = self.answer()?;
        Some(match (self.request, response) {
            (Request::Range(range), _) if range.serializable => Standing::StaleRead,
            (Request::Range(_), _) => Standing::Read,
            (Request::Put(_), _) => Standing::Wrote,
            (Request::Delete(_), Response::Delete(result)) if result.deleted > 0 => Standing::Wrote,
            (Request::Delete(_), _) => Standing::Read,
            (Request::Txn(_), Response::Txn(result)) if wrote(result) => Standing::Wrote,
            (Request::Txn(txn), _) if is_serializable(txn) => Standing::StaleRead,
            (Request::Txn(_), _) => Standing::Read,
            (_, Response::Proclaim(Proclaimed { leads: true }))
            | (_, Response::Resign(Resigned { left: true })) => Standing::Wrote,
            (Request::Proclaim(_) | Request::Resign(_) | Request::Leader(_), _) => Standing::Read,
            _ => Standing::Saw,
        })
    }

    /// Whether it may change the keyspace at all.
    pub(crate) fn may_write(&self) -> bool {
        match self.request {
            Request::Put(_)
            | Request::Delete(_)
            | Request::LeaseRevoke(_)
            | Request::Lock(_)
            | Request::Unlock(_)
            | Request::Campaign(_)
            | Request::Proclaim(_)
            | Request::Resign(_) => true,
            Request::Txn(txn) => txn_may_write(txn),
            _ => false,
        }
    }

    /// The operation in words.
    pub(crate) fn describe(&self) -> String {
        format!(
            "operation {} (client {}, {})",
            self.id,
            self.client,
            describe(self.request)
        )
    }
}

fn wrote(result: &TxnResult) -> bool {
    result.responses.iter().any(|response| match response {
        StepResult::Range(_) => false,
        StepResult::Put(_) => true,
        StepResult::Delete(result) => result.deleted > 0,
        StepResult::Txn(result) => wrote(result),
    })
}

fn steps(txn: &Txn) -> impl Iterator<Item = &Step> {
    txn.success.iter().chain(&txn.failure)
}

/// etcd answers a transaction from the member's own state if it has nothing but such reads.
fn is_serializable(txn: &Txn) -> bool {
    steps(txn).all(|step| matches!(step, Step::Range(range) if range.serializable))
}

fn txn_may_write(txn: &Txn) -> bool {
    steps(txn).any(|step| match step {
        Step::Range(_) => false,
        Step::Put(_) | Step::Delete(_) => true,
        Step::Txn(txn) => txn_may_write(txn),
    })
}

/// The key that etcd's lock service, or its election service, holds for a lease.
fn lock_key(name: &Key, lease: LeaseId) -> Key {
    let mut key = name.0.to_vec();
    key.extend_from_slice(format!("/{:x}", lease.0).as_bytes());
    Key::from(key)
}

/// What a call that waits in line puts there: a key of its own.
pub(crate) fn place_in_line(request: &Request) -> Option<Put> {
    let (name, lease, value) = match request {
        Request::Lock(lock) => (&lock.name, lock.lease, Value::default()),
        Request::Campaign(campaign) => (&campaign.name, campaign.lease, campaign.value.clone()),
        _ => return None,
    };
    Some(Put {
        key: lock_key(name, lease),
        value,
        lease,
        ..Put::default()
    })
}

/// The keys of all candidates of an election.
pub(crate) fn candidates(name: &Key) -> KeyRange {
    let with = |end: &[u8]| Key::from([name.0.as_ref(), end].concat());
    KeyRange {
        key: with(b"/"),
        // The byte after '/'.
        range_end: with(b"0"),
    }
}

/// All keys that the request reads, compares or writes.
pub(crate) fn footprint(request: &Request) -> Vec<KeyRange> {
    let mut keys = Vec::new();
    match request {
        Request::Range(range) => keys.push(key_range(&range.key, &range.range_end)),
        Request::Put(put) => keys.push(key_range(&put.key, &Key::default())),
        Request::Delete(delete) => keys.push(key_range(&delete.key, &delete.range_end)),
        Request::Txn(txn) => txn_footprint(txn, &mut keys),
        Request::Lock(_) | Request::Campaign(_) => {
            let place = place_in_line(request);
            keys.extend(place.map(|put| key_range(&put.key, &Key::default())));
        }
        Request::Unlock(unlock) => keys.push(key_range(&unlock.key, &Key::default())),
        Request::Proclaim(proclaim) => keys.push(key_range(&proclaim.key, &Key::default())),
        Request::Resign(resign) => keys.push(key_range(&resign.key, &Key::default())),
        Request::Leader(leader) => keys.push(candidates(&leader.name)),
        _ => {}
    }
    keys
}

fn txn_footprint(txn: &Txn, keys: &mut Vec<KeyRange>) {
    for compare in &txn.compares {
        keys.push(key_range(&compare.key, &compare.range_end));
    }
    for step in steps(txn) {
        match step {
            Step::Range(range) => keys.push(key_range(&range.key, &range.range_end)),
            Step::Put(put) => keys.push(key_range(&put.key, &Key::default())),
            Step::Delete(delete) => keys.push(key_range(&delete.key, &delete.range_end)),
            Step::Txn(txn) => txn_footprint(txn, keys),
        }
    }
}

fn key_range(key: &Key, range_end: &Key) -> KeyRange {
    KeyRange {
        key: key.clone(),
        range_end: range_end.clone(),
    }
}

/// Whether two ranges have a key in common.
pub(crate) fn overlap(one: &KeyRange, other: &KeyRange) -> bool {
    let begins_inside = |inner: &KeyRange, outer: &KeyRange| outer.contains(&inner.key);
    begins_inside(one, other) || begins_inside(other, one)
}

fn keys_shown(key: &Key, range_end: &Key) -> String {
    if range_end.is_empty() {
        key.to_string()
    } else if key_range(key, range_end).is_open() {
        format!("{key} and beyond")
    } else {
        format!("{key} to {range_end}")
    }
}

/// A request in words.
pub(crate) fn describe(request: &Request) -> String {
    match request {
        Request::Range(range) => {
            let keys = keys_shown(&range.key, &range.range_end);
            let at = if range.revision == Revision(0) {
                String::new()
            } else {
                format!(" at revision {}", range.revision)
            };
            let kind = if range.serializable {
                ", serializable"
            } else {
                ""
            };
            format!("get {keys}{at}{kind}")
        }
        Request::Put(put) if put.lease == LeaseId(0) => format!("put {} = {}", put.key, put.value),
        Request::Put(put) => format!("put {} = {} with lease {}", put.key, put.value, put.lease),
        Request::Delete(delete) => {
            format!("delete {}", keys_shown(&delete.key, &delete.range_end))
        }
        Request::Txn(txn) => {
            let mut keys = Vec::new();
            txn_footprint(txn, &mut keys);
            keys.sort_unstable_by(|one, other| one.key.cmp(&other.key));
            keys.dedup();
            let keys: Vec<String> = keys
                .iter()
                .map(|keys| keys_shown(&keys.key, &keys.range_end))
                .collect();
            format!("transaction over {}", keys.join(", "))
        }
        Request::Compact(compact) => format!("compact to {}", compact.revision),
        Request::LeaseGrant(grant) => format!("grant lease {} for {} s", grant.lease, grant.ttl),
        Request::LeaseRevoke(revoke) => format!("revoke lease {}", revoke.lease),
        Request::LeaseKeepAlive(name) => format!("keep lease {} alive", name.lease),
        Request::LeaseTimeToLive(question) => format!("ask about lease {}", question.lease),
        Request::Lock(lock) => format!("lock {} with lease {}", lock.name, lock.lease),
        Request::Unlock(unlock) => format!("unlock {}", unlock.key),
        Request::Campaign(campaign) => {
            format!(
                "campaign in {} with lease {}",
                campaign.name, campaign.lease
            )
        }
        Request::Proclaim(proclaim) => format!("proclaim {} = {}", proclaim.key, proclaim.value),
        Request::Resign(resign) => format!("resign {}", resign.key),
        Request::Leader(leader) => format!("ask who leads {}", leader.name),
        Request::LeaseList(_) => "list leases".to_owned(),
    }
}
