//! Which keyspace the keys of a request belong to, where some prefixes lead to keyspaces of their
//! own.
//!
//! ```text
//!   routes:  /registry/events/ ─▶ events
//!
//!   get /registry/events/a            ─▶ events
//!   get /registry/pods/a              ─▶ none: the keyspace that the client is in
//!   get /registry/ --prefix           ─▶ astray: the keys of two keyspaces
//!   put /registry/events/a --lease 7  ─▶ events, which has to follow the lease
//! ```
//!
//! No prefix begins another one, so that a key has one place, whatever the order in which prefixes
//! were given. A request is about one keyspace: there is no revision at which two of them could be
//! read or written together. What is about two is refused with their names, rather than answered
//! with half of what was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::command::codec;
use crate::command::{Command, DeleteRange, Operation, Put, Range, Txn};
use crate::error::Code;
use crate::proto::etcdserverpb::request_op::Request as OperationRequest;
use crate::proto::etcdserverpb::{TxnRequest, WatchCreateRequest};
use crate::request::Request;
use crate::span::KeySpan;

/// The keyspace of keys that no prefix claims, by its name.
const DEFAULT: &str = "default";

/// Prefixes of keys, and the keyspaces that they lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// By prefix; none begins another one.
    by_prefix: BTreeMap<Bytes, Arc<str>>,
}

/// Where a request's keys are: a keyspace's name, or `None` for the default one.
pub type Place<'a> = Option<&'a Arc<str>>;

/// Why a request belongs nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Astray {
    /// Its keys are in more than one keyspace, such as these.
    Between(Arc<str>, Arc<str>),
}

impl Astray {
    /// gRPC's code.
    #[must_use]
    pub fn code(&self) -> Code {
        Code::InvalidArgument
    }

    /// What the client is told.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Astray::Between(one, other) => format!(
                "quorate: the request is about keys of the keyspaces {one} and {other}; ask for \
                 those of each on their own"
            ),
        }
    }
}

impl Routes {
    /// These prefixes, each with the name of its keyspace.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = (Bytes, Arc<str>)>) -> Routes {
        Routes {
            by_prefix: routes.into_iter().collect(),
        }
    }

    /// The keyspaces that prefixes lead to, each once.
    #[must_use]
    pub fn keyspaces(&self) -> BTreeSet<Arc<str>> {
        self.by_prefix.values().cloned().collect()
    }

    /// No prefix leads anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_prefix.is_empty()
    }

    /// Where a request belongs. What is not about keys belongs to the default keyspace.
    ///
    /// # Errors
    /// It belongs nowhere.
    pub fn of_request(&self, request: &Request) -> Result<Place<'_>, Astray> {
        let mut found = Found::new(self);
        match request {
            Request::Range(range) => found.span(KeySpan::new(&range.key, &range.range_end))?,
            Request::RangePiece(piece) => {
                let range = &piece.request;
                found.span(KeySpan::new(&range.key, &range.range_end))?;
            }
            Request::Put(put) => found.put(&put.into())?,
            Request::DeleteRange(delete) => found.span(DeleteRange::from(delete).span)?,
            Request::Txn(txn) => found.txn(&txn.into())?,
            Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases
            | Request::Auth(_) => {}
        }
        found.end()
    }

    /// Where a watch belongs.
    ///
    /// # Errors
    /// It belongs nowhere.
    pub fn of_watch(&self, create: &WatchCreateRequest) -> Result<Place<'_>, Astray> {
        self.of_range(&create.key, &create.range_end)
    }

    /// Where the keys of a range belong, which is given as etcd's clients give it.
    ///
    /// # Errors
    /// They belong to more than one keyspace.
    pub fn of_range(&self, key: &[u8], range_end: &[u8]) -> Result<Place<'_>, Astray> {
        let mut found = Found::new(self);
        found.span(KeySpan::new(key, range_end))?;
        found.end()
    }

    /// Whether a command record that [`crate::plan()`] has made is about the default keyspace
    /// alone. One that cannot be read is: it is refused when it is executed.
    #[must_use]
    pub fn leave_alone(&self, record: &[u8]) -> bool {
        let Ok(codec::Record { command, .. }) = codec::decode(record) else {
            return true;
        };
        let mut found = Found::new(self);
        let looked = match &command {
            Command::Put(put) => found.put(put),
            Command::DeleteRange(delete) => found.span(delete.span),
            Command::Txn(txn) => found.txn(txn),
            Command::Compact(_) | Command::Grant(_) | Command::Revoke(_) | Command::Auth(_) => {
                Ok(())
            }
        };
        looked.and_then(|()| found.end()) == Ok(None)
    }

    fn of_key(&self, key: &[u8]) -> Option<(&Bytes, &Arc<str>)> {
        // Since no prefix begins another one, the last one that is not behind the key is the only
        // one that can begin it.
        let up_to = (Bound::Unbounded, Bound::Included(key));
        let (prefix, keyspace) = self.by_prefix.range::<[u8], _>(up_to).next_back()?;
        key.starts_with(prefix).then_some((prefix, keyspace))
    }

    /// Where the keys of a span belong.
    fn of_span(&self, span: KeySpan<'_>) -> Result<Place<'_>, Astray> {
        let start = span.start();
        let first = self.of_key(start);
        // A span that holds no key is as harmless as its first key.
        if matches!(span, KeySpan::Single(_)) || span.is_empty() {
            return Ok(first.map(|(_, keyspace)| keyspace));
        }
        let reaches = |key: &[u8]| match span {
            KeySpan::Span(_, end) => key < end,
            KeySpan::From(_) | KeySpan::Single(_) => true,
        };
        let default = || Arc::from(DEFAULT);
        match first {
            Some((prefix, keyspace)) => {
                let mut prefix = prefix;
                // Prefixes of one keyspace may lie side by side.
                while let Some(next) = successor(prefix).filter(|next| reaches(next)) {
                    prefix = match self.of_key(&next) {
                        Some((prefix, other)) if other == keyspace => prefix,
                        other => {
                            let other = other.map_or_else(default, |(_, other)| Arc::clone(other));
                            return Err(Astray::Between(Arc::clone(keyspace), other));
                        }
                    };
                }
                Ok(Some(keyspace))
            }
            None => {
                let behind = (Bound::Excluded(start), Bound::Unbounded);
                let mut behind = self.by_prefix.range::<[u8], _>(behind);
                match behind.next().filter(|(prefix, _)| reaches(prefix)) {
                    None => Ok(None),
                    Some((_, other)) => Err(Astray::Between(default(), Arc::clone(other))),
                }
            }
        }
    }
}

/// The leases that a request may attach keys to, each once.
#[must_use]
pub fn leases(request: &Request) -> Vec<i64> {
    let mut found = Vec::new();
    match request {
        Request::Put(put) => found.push(put.lease),
        Request::Txn(txn) => leases_of_txn(txn, &mut found),
        _ => {}
    }
    found.retain(|lease| *lease != 0);
    found.sort_unstable();
    found.dedup();
    found
}

fn leases_of_txn(txn: &TxnRequest, found: &mut Vec<i64>) {
    for operation in txn.success.iter().chain(&txn.failure) {
        match &operation.request {
            Some(OperationRequest::RequestPut(put)) => found.push(put.lease),
            Some(OperationRequest::RequestTxn(nested)) => leases_of_txn(nested, found),
            _ => {}
        }
    }
}

/// The first key behind all keys that begin with `prefix`; `None` if there is none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

/// Where a request belongs, as far as it has been looked at.
struct Found<'a> {
    routes: &'a Routes,
    /// `None` before the first key.
    place: Option<Place<'a>>,
}

impl<'a> Found<'a> {
    fn new(routes: &'a Routes) -> Found<'a> {
        Found {
            routes,
            place: None,
        }
    }

    fn span(&mut self, span: KeySpan<'_>) -> Result<(), Astray> {
        let place = self.routes.of_span(span)?;
        let before = *self.place.get_or_insert(place);
        if before == place {
            return Ok(());
        }
        let name = |place: Place<'_>| place.map_or_else(|| Arc::from(DEFAULT), Arc::clone);
        Err(Astray::Between(name(before), name(place)))
    }

    fn put(&mut self, put: &Put<'_>) -> Result<(), Astray> {
        self.span(KeySpan::Single(put.key))
    }

    fn txn(&mut self, txn: &Txn<'_>) -> Result<(), Astray> {
        for compare in &txn.compares {
            self.span(compare.span)?;
        }
        for operation in txn.success.iter().chain(&txn.failure) {
            match operation {
                Operation::Range(Range { span, .. }) => self.span(*span)?,
                Operation::Put(put) => self.put(put)?,
                Operation::DeleteRange(delete) => self.span(delete.span)?,
                Operation::Txn(nested) => self.txn(nested)?,
            }
        }
        Ok(())
    }

    fn end(self) -> Result<Place<'a>, Astray> {
        Ok(self.place.flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp,
    };
    use crate::{Plan, RequestLimits, plan};

    fn routes() -> Routes {
        let route = |prefix: &'static [u8], name: &str| (Bytes::from_static(prefix), name.into());
        Routes::new([
            route(b"/events/", "events"),
            route(b"/jobs/", "jobs"),
            route(b"/jobs0", "jobs"),
            route(b"\xff\xff", "end"),
        ])
    }

    fn of(key: &[u8], end: &[u8]) -> Result<Option<String>, String> {
        let routes = routes();
        let place = routes.of_range(key, end);
        place
            .map(|place| place.map(ToString::to_string))
            .map_err(|Astray::Between(one, other)| format!("{one} {other}"))
    }

    fn at(name: &str) -> Result<Option<String>, String> {
        Ok(Some(name.to_owned()))
    }

    #[test]
    fn a_key_belongs_to_the_prefix_that_begins_it() {
        assert_eq!(of(b"/events/a", b""), at("events"));
        assert_eq!(of(b"/events/", b""), at("events"));
        assert_eq!(of(b"/events", b""), Ok(None));
        assert_eq!(of(b"/jobs/x", b""), at("jobs"));
        assert_eq!(of(b"/k", b""), Ok(None));
        assert_eq!(of(b"\xff\xff\x01", b""), at("end"));
        assert_eq!(of(b"\xff", b""), Ok(None));
        assert_eq!(of(b"", b""), Ok(None));
    }

    #[test]
    fn a_range_belongs_where_all_of_it_is() {
        assert_eq!(of(b"/events/", b"/events0"), at("events"));
        assert_eq!(of(b"/events/a", b"/events/b"), at("events"));
        assert_eq!(of(b"\xff\xff", b"\0"), at("end"));
        assert_eq!(of(b"/a", b"/events/"), Ok(None));
        assert_eq!(of(b"/events0", b"/jobs/"), Ok(None));
        assert_eq!(of(b"/z", b"/y"), Ok(None), "it holds no key");
        assert_eq!(of(b"/events/b", b"/events/a"), at("events"));
        let between = |one: &str, other: &str| Err(format!("{one} {other}"));
        assert_eq!(of(b"/", b"0"), between("default", "events"));
        assert_eq!(of(b"\0", b"\0"), between("default", "events"));
        assert_eq!(of(b"/events/", b"/events1"), between("events", "default"));
        assert_eq!(of(b"/events/", b"\0"), between("events", "default"));
        assert_eq!(of(b"/a", b"/events/a"), between("default", "events"));
        assert_eq!(of(b"/jobs/", b"/jobs1"), at("jobs"), "side by side");
        assert_eq!(of(b"/jobs/", b"/jobs2"), between("jobs", "default"));
        assert_eq!(of(b"/zz", b"\0"), between("default", "end"));
    }

    fn operation(request: OperationRequest) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    fn put(key: &'static [u8], lease: i64) -> PutRequest {
        PutRequest {
            key: Bytes::from_static(key),
            lease,
            ..PutRequest::default()
        }
    }

    #[test]
    fn a_transaction_belongs_where_all_its_keys_are() {
        let routes = routes();
        let compare = |key: &'static [u8]| Compare {
            key: Bytes::from_static(key),
            ..Compare::default()
        };
        let txn = |compared: &'static [u8], inner: &'static [u8]| {
            let nested = TxnRequest {
                failure: vec![operation(OperationRequest::RequestPut(put(inner, 0)))],
                ..TxnRequest::default()
            };
            Request::Txn(TxnRequest {
                compare: vec![compare(compared)],
                success: vec![operation(OperationRequest::RequestTxn(nested))],
                failure: Vec::new(),
            })
        };
        let place = |request: &Request| {
            let place = routes.of_request(request)?;
            Ok::<_, Astray>(place.map(ToString::to_string))
        };
        let events = Some("events".to_owned());
        assert_eq!(place(&txn(b"/events/a", b"/events/b")), Ok(events));
        assert_eq!(place(&txn(b"/a", b"/b")), Ok(None));
        let between = Astray::Between("default".into(), "events".into());
        assert_eq!(place(&txn(b"/a", b"/events/b")), Err(between));
        assert_eq!(place(&Request::Txn(TxnRequest::default())), Ok(None));
        let leased = Request::Put(put(b"/events/a", 7));
        assert_eq!(place(&leased), Ok(Some("events".to_owned())));
        assert_eq!(place(&Request::Put(put(b"/a", 7))), Ok(None));
    }

    #[test]
    fn what_a_request_attaches_keys_to_is_found_wherever_it_stands() {
        let puts = |leases: &[i64]| {
            let put = |lease: &i64| operation(OperationRequest::RequestPut(put(b"/a", *lease)));
            leases.iter().map(put).collect::<Vec<_>>()
        };
        let nested = TxnRequest {
            failure: puts(&[3, 1]),
            ..TxnRequest::default()
        };
        let mut success = puts(&[2, 0]);
        success.push(operation(OperationRequest::RequestTxn(nested)));
        let txn = TxnRequest {
            success,
            failure: puts(&[-4]),
            ..TxnRequest::default()
        };
        assert_eq!(leases(&Request::Txn(txn)), [-4, 1, 2, 3]);
        assert_eq!(leases(&Request::Put(put(b"/a", 7))), [7]);
        assert_eq!(leases(&Request::Put(put(b"/a", 0))), []);
        assert_eq!(leases(&Request::LeaseLeases), []);
    }

    #[test]
    fn what_is_in_the_log_is_judged_alike() {
        let routes = routes();
        let is_left_alone = |request| {
            let planned = plan(request, &RequestLimits::default());
            let Ok(Plan::Command(record)) = planned else {
                panic!("it is a command: {planned:?}");
            };
            routes.leave_alone(&record)
        };
        assert!(is_left_alone(Request::Put(put(b"/a", 0))));
        assert!(!is_left_alone(Request::Put(put(b"/events/a", 0))));
        assert!(!is_left_alone(Request::Put(put(b"/events/a", 7))));
        let delete = |key: &'static [u8], end: &'static [u8]| {
            Request::DeleteRange(DeleteRangeRequest {
                key: Bytes::from_static(key),
                range_end: Bytes::from_static(end),
                ..DeleteRangeRequest::default()
            })
        };
        assert!(is_left_alone(delete(b"/a", b"/b")));
        assert!(!is_left_alone(delete(b"/", b"0")));
        let range = RangeRequest {
            key: Bytes::from_static(b"/jobs/1"),
            ..RangeRequest::default()
        };
        let txn = Request::Txn(TxnRequest {
            success: vec![
                operation(OperationRequest::RequestRange(range)),
                operation(OperationRequest::RequestPut(put(b"/a", 0))),
            ],
            ..TxnRequest::default()
        });
        assert!(!is_left_alone(txn));
        assert!(routes.leave_alone(b"not a record"));
    }

    #[test]
    fn what_is_refused_names_the_keyspaces() {
        let between = Astray::Between("default".into(), "events".into()).text();
        assert!(between.contains("default and events"), "{between}");
    }
}
