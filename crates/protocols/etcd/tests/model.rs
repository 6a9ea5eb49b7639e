//! Random requests against the simplest keyspace that can be written: a map per revision. Whatever
//! it answers, planning, encoding, decoding and executing must answer, too.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod harness;

use std::collections::BTreeMap;

use harness::{Keyspace, bytes};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use quorate_etcd::proto::etcdserverpb::compare::TargetUnion;
use quorate_etcd::proto::etcdserverpb::range_request::SortTarget;
use quorate_etcd::proto::etcdserverpb::request_op::Request as Operation;
use quorate_etcd::proto::etcdserverpb::response_op::Response as Answer;
use quorate_etcd::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use quorate_etcd::proto::mvccpb::KeyValue;
use quorate_etcd::{Error, Plan, Request, Response, plan};

type Pairs = BTreeMap<Vec<u8>, KeyValue>;

/// Every revision's pairs, from revision 1 on.
struct Model {
    history: Vec<Pairs>,
    compacted: i64,
    /// What each lease was granted for; time stands still here.
    leases: BTreeMap<i64, i64>,
}

/// A transaction under way.
struct Write<'a> {
    model: &'a Model,
    pairs: Pairs,
    written: bool,
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

fn holds_key(key: &[u8], first: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        b"" => key == first,
        b"\0" => key >= first,
        end => key >= first && key < end,
    }
}

impl Model {
    fn latest(&self) -> &Pairs {
        self.history.last().unwrap()
    }

    fn revision(&self) -> i64 {
        self.history.len() as i64
    }

    fn at(&self, revision: i64) -> Result<&Pairs, Error> {
        match revision {
            revision if revision > self.revision() => Err(Error::FutureRevision),
            revision if revision <= 0 => Ok(self.latest()),
            revision if revision < self.compacted => Err(Error::Compacted),
            revision => Ok(&self.history[revision as usize - 1]),
        }
    }

    fn write(&self) -> Write<'_> {
        Write {
            model: self,
            pairs: self.latest().clone(),
            written: false,
        }
    }

    fn answer(&mut self, request: &Request) -> Result<Response, Error> {
        let mut write = self.write();
        let mut compacted = self.compacted;
        let mut leases = self.leases.clone();
        let answer = match request {
            Request::Range(request) => Response::Range(write.range(request)?),
            Request::Put(request) => {
                write.check_put(request)?;
                Response::Put(write.put(request))
            }
            Request::DeleteRange(request) => Response::DeleteRange(write.delete(request)),
            Request::Txn(request) => {
                write.check(request)?;
                let mut response = write.txn(request)?;
                response.header = header(write.revision());
                Response::Txn(response)
            }
            Request::Compact(CompactionRequest { revision, .. }) => {
                if *revision <= self.compacted && (self.compacted > 0 || *revision < 0) {
                    return Err(Error::Compacted);
                }
                if *revision > self.revision() {
                    return Err(Error::FutureRevision);
                }
                compacted = *revision;
                Response::Compact(CompactionResponse {
                    header: header(self.revision()),
                })
            }
            Request::LeaseGrant(request) => write.grant(request, &mut leases)?,
            Request::LeaseRevoke(request) => write.revoke(request.id, &mut leases)?,
            _ => self.answer_about_leases(request),
        };
        let Write { pairs, written, .. } = write;
        if written {
            self.history.push(pairs);
        }
        self.compacted = compacted;
        self.leases = leases;
        Ok(answer)
    }

    fn answer_about_leases(&self, request: &Request) -> Response {
        let header = header(self.revision());
        match request {
            Request::LeaseKeepAlive(LeaseKeepAliveRequest { id }) => {
                let (id, ttl) = (*id, self.leases.get(id).copied().unwrap_or(0));
                Response::LeaseKeepAlive(LeaseKeepAliveResponse { header, id, ttl })
            }
            Request::LeaseTimeToLive(LeaseTimeToLiveRequest { id, keys }) => {
                let granted = self.leases.get(id).copied();
                let pairs = self.latest().values();
                let attached = pairs.filter(|pair| *keys && granted.is_some() && pair.lease == *id);
                Response::LeaseTimeToLive(LeaseTimeToLiveResponse {
                    header,
                    id: *id,
                    ttl: granted.unwrap_or(-1),
                    granted_ttl: granted.unwrap_or(0),
                    keys: attached.map(|pair| pair.key.clone()).collect(),
                })
            }
            Request::LeaseLeases => {
                let mut ids: Vec<(i64, i64)> =
                    self.leases.iter().map(|(id, t)| (*t, *id)).collect();
                ids.sort_unstable();
                Response::LeaseLeases(LeaseLeasesResponse {
                    header,
                    leases: ids.into_iter().map(|(_, id)| LeaseStatus { id }).collect(),
                })
            }
            other => panic!("not about leases: {other:?}"),
        }
    }

    fn compare(&self, compare: &Compare) -> bool {
        let pairs = self.latest().values();
        let found: Vec<_> = pairs
            .filter(|pair| holds_key(&pair.key, &compare.key, &compare.range_end))
            .cloned()
            .collect();
        if found.is_empty() {
            return compare.target != 3 && compare_pair(compare, &KeyValue::default());
        }
        found.iter().all(|pair| compare_pair(compare, pair))
    }

    fn branch<'t>(&self, txn: &'t TxnRequest) -> (bool, &'t [RequestOp]) {
        let succeeded = txn.compare.iter().all(|compare| self.compare(compare));
        (
            succeeded,
            if succeeded {
                &txn.success
            } else {
                &txn.failure
            },
        )
    }
}

fn compare_pair(compare: &Compare, pair: &KeyValue) -> bool {
    let ordering = match (compare.target, &compare.target_union) {
        (0, Some(TargetUnion::Version(given))) => pair.version.cmp(given),
        (1, Some(TargetUnion::CreateRevision(given))) => pair.create_revision.cmp(given),
        (2, Some(TargetUnion::ModRevision(given))) => pair.mod_revision.cmp(given),
        (3, Some(TargetUnion::Value(given))) => pair.value.cmp(given),
        other => panic!("not generated: {other:?}"),
    };
    match compare.result {
        0 => ordering.is_eq(),
        1 => ordering.is_gt(),
        2 => ordering.is_lt(),
        _ => ordering.is_ne(),
    }
}

impl Write<'_> {
    fn revision(&self) -> i64 {
        self.model.revision() + i64::from(self.written)
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let pairs = match request.revision {
            revision if revision <= 0 => &self.pairs,
            revision => self.model.at(revision)?,
        };
        let mut kvs: Vec<KeyValue> = pairs
            .values()
            .filter(|pair| holds_key(&pair.key, &request.key, &request.range_end))
            .cloned()
            .collect();
        let count = kvs.len() as i64;
        let limit = if request.limit > 0 {
            request.limit as usize
        } else {
            usize::MAX
        };
        let filtered = request.min_mod_revision != 0 || request.max_create_revision != 0;
        if request.sort_order == 0 && !filtered {
            kvs.truncate(limit.saturating_add(1));
        }
        kvs.retain(|pair| pair.mod_revision >= request.min_mod_revision);
        if request.max_create_revision != 0 {
            kvs.retain(|pair| pair.create_revision <= request.max_create_revision);
        }
        let descending = request.sort_order == 2;
        kvs.sort_by(|one, other| {
            let ordering = match request.sort_target {
                0 => one.key.cmp(&other.key),
                1 => one.version.cmp(&other.version),
                2 => one.create_revision.cmp(&other.create_revision),
                3 => one.mod_revision.cmp(&other.mod_revision),
                _ => one.value.cmp(&other.value),
            };
            if descending {
                ordering.reverse()
            } else {
                ordering
            }
        });
        if request.count_only {
            kvs.clear();
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            for pair in &mut kvs {
                pair.value.clear();
                // Only what etcd answers from its index is without it.
                if request.sort_target() != SortTarget::Value {
                    pair.lease = 0;
                }
            }
        }
        Ok(RangeResponse {
            header: header(self.revision()),
            kvs,
            more,
            count,
        })
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), Error> {
        if request.lease != 0 && !self.model.leases.contains_key(&request.lease) {
            return Err(Error::LeaseNotFound);
        }
        let exists = self.model.latest().contains_key(&request.key[..]);
        if (request.ignore_value || request.ignore_lease) && !exists {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        self.written = true;
        let revision = self.revision();
        let previous = self.pairs.get(&request.key[..]).cloned();
        let before = previous.clone().unwrap_or(KeyValue {
            create_revision: revision,
            ..KeyValue::default()
        });
        let value = if request.ignore_value {
            before.value
        } else {
            request.value.clone()
        };
        let pair = KeyValue {
            key: request.key.clone(),
            value,
            create_revision: before.create_revision,
            mod_revision: revision,
            version: before.version + 1,
            lease: if request.ignore_lease {
                before.lease
            } else {
                request.lease
            },
        };
        self.pairs.insert(request.key.to_vec(), pair);
        PutResponse {
            header: header(revision),
            prev_kv: previous.filter(|_| request.prev_kv),
        }
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let (key, range_end) = (&request.key, &request.range_end);
        let pairs = std::mem::take(&mut self.pairs);
        let (gone, kept): (Pairs, Pairs) = pairs
            .into_iter()
            .partition(|(other, _)| holds_key(other, key, range_end));
        self.pairs = kept;
        let gone: Vec<KeyValue> = gone.into_values().collect();
        self.written |= !gone.is_empty();
        let deleted = gone.len() as i64;
        let prev_kvs = if request.prev_kv { gone } else { vec![] };
        DeleteRangeResponse {
            header: header(self.revision()),
            deleted,
            prev_kvs,
        }
    }

    fn grant(
        &self,
        request: &LeaseGrantRequest,
        leases: &mut BTreeMap<i64, i64>,
    ) -> Result<Response, Error> {
        let LeaseGrantRequest { id, ttl } = *request;
        let ttl = ttl.max(2);
        if leases.insert(id, ttl).is_some() {
            return Err(Error::LeaseExists);
        }
        Ok(Response::LeaseGrant(LeaseGrantResponse {
            header: header(self.revision()),
            id,
            ttl,
            error: String::new(),
        }))
    }

    fn revoke(&mut self, id: i64, leases: &mut BTreeMap<i64, i64>) -> Result<Response, Error> {
        leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        let before = self.pairs.len();
        self.pairs.retain(|_, pair| pair.lease != id);
        self.written |= self.pairs.len() < before;
        Ok(Response::LeaseRevoke(LeaseRevokeResponse {
            header: header(self.revision()),
        }))
    }

    fn check(&self, txn: &TxnRequest) -> Result<(), Error> {
        for operation in self.model.branch(txn).1 {
            match operation.request.as_ref().unwrap() {
                Operation::RequestRange(range) if range.revision != 0 => {
                    self.model.at(range.revision)?;
                }
                Operation::RequestPut(put) => self.check_put(put)?,
                Operation::RequestTxn(nested) => self.check(nested)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, Error> {
        let (succeeded, operations) = self.model.branch(txn);
        let mut responses = vec![];
        for operation in operations {
            let response = match operation.request.as_ref().unwrap() {
                Operation::RequestRange(range) => Answer::ResponseRange(self.range(range)?),
                Operation::RequestPut(put) => Answer::ResponsePut(self.put(put)),
                Operation::RequestDeleteRange(delete) => {
                    Answer::ResponseDeleteRange(self.delete(delete))
                }
                Operation::RequestTxn(nested) => Answer::ResponseTxn(self.txn(nested)?),
            };
            responses.push(ResponseOp {
                response: Some(response),
            });
        }
        Ok(TxnResponse {
            header: Some(ResponseHeader::default()),
            succeeded,
            responses,
        })
    }
}

const KEYS: &[&str] = &["a", "aa", "b", "b\0", "c", "d"];
const ENDS: &[&str] = &["", "", "\0", "a", "b", "b\0", "c", "e"];

fn key() -> impl Strategy<Value = &'static str> {
    select(KEYS)
}

fn any_range() -> impl Strategy<Value = RangeRequest> {
    let span = (key(), select(ENDS));
    let numbers = (
        select(vec![0, 0, -1, 1, 2, 3]),
        select(vec![0, 0, 0, 1, 2, 3, 4, 6, 9]),
    );
    let sort = (0..3, 0..5);
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let filters = (select(vec![0, 0, 3, 5]), select(vec![0, 0, 2, 4]));
    (span, numbers, sort, flags, filters).prop_map(
        |((key, range_end), (limit, revision), (sort_order, sort_target), flags, filters)| {
            RangeRequest {
                key: bytes(key),
                range_end: bytes(range_end),
                limit,
                revision,
                sort_order,
                sort_target,
                keys_only: flags.0,
                count_only: flags.1,
                min_mod_revision: filters.0,
                max_create_revision: filters.1,
                ..RangeRequest::default()
            }
        },
    )
}

fn any_put() -> impl Strategy<Value = PutRequest> {
    let flags = (
        prop::bool::ANY,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    );
    (
        key(),
        0..4i32,
        flags,
        select(vec![0, 0, 0, 0, 0, 0, 1, -2, 3]),
    )
        .prop_map(|(key, value, flags, lease)| {
            let value = if flags.1 {
                String::new()
            } else {
                value.to_string()
            };
            PutRequest {
                key: bytes(key),
                value: bytes(&value),
                lease: if flags.2 { 0 } else { lease },
                prev_kv: flags.0,
                ignore_value: flags.1,
                ignore_lease: flags.2,
            }
        })
}

fn any_delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), select(ENDS), prop::bool::ANY).prop_map(|(key, range_end, prev_kv)| {
        DeleteRangeRequest {
            key: bytes(key),
            range_end: bytes(range_end),
            prev_kv,
        }
    })
}

fn any_compare() -> impl Strategy<Value = Compare> {
    (key(), select(ENDS), 0..4, 0..4, 0..5i64).prop_map(
        |(key, range_end, result, target, given)| {
            let union = match target {
                0 => TargetUnion::Version(given),
                1 => TargetUnion::CreateRevision(given),
                2 => TargetUnion::ModRevision(given),
                _ => TargetUnion::Value(bytes(&given.to_string())),
            };
            Compare {
                result,
                target,
                key: bytes(key),
                range_end: bytes(range_end),
                target_union: Some(union),
            }
        },
    )
}

fn any_txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = Just(TxnRequest::default());
    leaf.prop_recursive(3, 24, 4, |nested| {
        let operation = prop_oneof![
            3 => any_range().prop_map(Operation::RequestRange),
            4 => any_put().prop_map(Operation::RequestPut),
            2 => any_delete().prop_map(Operation::RequestDeleteRange),
            2 => nested.prop_map(Operation::RequestTxn),
        ];
        let operation = operation.prop_map(|request| RequestOp {
            request: Some(request),
        });
        let operations = || prop::collection::vec(operation.clone(), 0..4);
        let compares = prop::collection::vec(any_compare(), 0..2);
        let (success, failure) = (operations(), operations());
        (compares, success, failure).prop_map(|(compare, success, failure)| TxnRequest {
            compare,
            success,
            failure,
        })
    })
}

fn lease_id() -> impl Strategy<Value = i64> {
    select(vec![1, -2, 3])
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => any_put().prop_map(Request::Put),
        2 => any_delete().prop_map(Request::DeleteRange),
        4 => any_range().prop_map(Request::Range),
        8 => any_txn().prop_map(Request::Txn),
        1 => (-1..12i64).prop_map(|revision| {
            Request::Compact(CompactionRequest { revision, physical: false })
        }),
        3 => (lease_id(), -1..9i64).prop_map(|(id, ttl)| {
            Request::LeaseGrant(LeaseGrantRequest { id, ttl })
        }),
        1 => lease_id().prop_map(|id| Request::LeaseRevoke(LeaseRevokeRequest { id })),
        1 => lease_id().prop_map(|id| Request::LeaseKeepAlive(LeaseKeepAliveRequest { id })),
        1 => (lease_id(), prop::bool::ANY).prop_map(|(id, keys)| {
            Request::LeaseTimeToLive(LeaseTimeToLiveRequest { id, keys })
        }),
        1 => Just(Request::LeaseLeases),
    ]
}

/// The same cases in each run.
fn repeatable(cases: u32) -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(2379);
    ProptestConfig {
        cases,
        rng_seed,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(repeatable(400))]

    #[test]
    fn answers_are_those_of_the_model(
        requests in prop::collection::vec(any_request(), 1..60)
    ) {
        let mut keyspace = Keyspace::default();
        let history = vec![Pairs::new()];
        let mut model = Model { history, compacted: 0, leases: BTreeMap::new() };
        // Requests that are refused before they reach the state are not the model's business.
        let reaches_the_state = |request: &Request| plan(request.clone(), &Default::default());
        for request in requests.into_iter().filter(|request| reaches_the_state(request).is_ok()) {
            let expected = model.answer(&request);
            let answered = keyspace.ask(request.clone());
            prop_assert_eq!(&answered, &expected, "{:?}", request);
            prop_assert_eq!(keyspace.revision(), model.revision());
        }
    }

    #[test]
    fn executing_anything_is_total(record in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut keyspace = Keyspace::default();
        let _ = keyspace.execute(&record);
        // The same bytes behind a valid head get further.
        let _ = keyspace.execute(&[&[1, 3], &record[..]].concat());
    }

    #[test]
    fn damaged_records_are_executed_or_refused(
        request in any_txn(), at in any::<prop::sample::Index>(), to in any::<u8>()
    ) {
        if let Ok(Plan::Command(record)) = plan(Request::Txn(request), &Default::default()) {
            let mut record = record.to_vec();
            let at = at.index(record.len());
            record[at] = to;
            let mut keyspace = Keyspace::default();
            let _ = keyspace.execute(&record);
            let _ = keyspace.execute(&record[..at]);
        }
    }
}

#[test]
fn unknown_records_are_an_internal_error() {
    let mut keyspace = Keyspace::default();
    for record in [
        &[][..],
        &[0],
        &[2, 1, 0, 1, b'a', 0],
        &[1],
        &[1, 9],
        &[1, 4, 2, 0],
    ] {
        let answer = keyspace.execute(record);
        assert!(
            matches!(answer, Err(Error::Internal(_))),
            "{record:?}: {answer:?}"
        );
    }
    assert_eq!(keyspace.revision(), 1);
}
