//! Locks and elections, and how their callers give up, around a machine that can be made to refuse.

use std::sync::{Mutex, MutexGuard};

use etcd::Error;
use etcd::proto::etcdserverpb::compare::TargetUnion;
use etcd::proto::etcdserverpb::range_request::SortOrder;
use etcd::proto::etcdserverpb::request_op::Request as Operation;
use etcd::proto::etcdserverpb::response_op::Response as Done;
use etcd::proto::etcdserverpb::{LeaseGrantResponse, RequestOp, ResponseOp};
use etcd::proto::v3electionpb::{LeaderRequest, LeaderResponse};

use super::*;

const LEADER: &str = "/v3electionpb.Election/Leader";

/// The only lease that is granted.
const GRANTED: i64 = 99;
/// Only something that hangs reaches this.
const PATIENCE: Duration = Duration::from_secs(20);

type Which = fn(&etcd::Request) -> bool;

/// Keys, as far as lines are made of them.
#[derive(Default)]
struct Line {
    keys: BTreeMap<Bytes, KeyValue>,
    revision: i64,
    /// What is refused, and how.
    refuses: Option<(Which, Error)>,
    refused: u64,
}

impl Line {
    fn answer(&mut self, request: etcd::Request) -> Result<etcd::Response, Error> {
        if let Some((which, error)) = self.refuses
            && which(&request)
        {
            self.refused += 1;
            return Err(error);
        }
        Ok(match request {
            etcd::Request::Range(range) => etcd::Response::Range(self.range(&range)),
            etcd::Request::Txn(transaction) => etcd::Response::Txn(self.transact(transaction)),
            etcd::Request::LeaseGrant(_) => etcd::Response::LeaseGrant(LeaseGrantResponse {
                id: GRANTED,
                ttl: 60,
                ..LeaseGrantResponse::default()
            }),
            other => panic!("nobody in a line asks {other:?}"),
        })
    }

    fn range(&self, range: &RangeRequest) -> RangeResponse {
        let is_meant = |key: &KeyValue| {
            let is_within = match range.range_end.is_empty() {
                true => key.key == range.key,
                false => (&range.key..&range.range_end).contains(&&key.key),
            };
            let most = range.max_create_revision;
            is_within && (most == 0 || key.create_revision <= most)
        };
        let meant = self.keys.values().filter(|key| is_meant(key));
        let mut kvs: Vec<KeyValue> = meant.cloned().collect();
        kvs.sort_by_key(|key| key.create_revision);
        if range.sort_order() == SortOrder::Descend {
            kvs.reverse();
        }
        kvs.truncate(1);
        RangeResponse {
            kvs,
            ..RangeResponse::default()
        }
    }

    fn transact(&mut self, transaction: TxnRequest) -> TxnResponse {
        let compare = &transaction.compare[0];
        let found = self.keys.get(&compare.key);
        let created = found.map_or(0, |key| key.create_revision);
        let succeeded = compare.target_union == Some(TargetUnion::CreateRevision(created));
        let operations = match succeeded {
            true => transaction.success,
            false => transaction.failure,
        };
        let done = operations
            .into_iter()
            .map(|operation| self.operate(operation));
        let responses = done.collect();
        TxnResponse {
            header: Some(ResponseHeader {
                revision: self.revision,
                ..ResponseHeader::default()
            }),
            succeeded,
            responses,
        }
    }

    fn operate(&mut self, operation: RequestOp) -> ResponseOp {
        let done = match operation.request.unwrap() {
            Operation::RequestPut(put) => {
                self.revision += 1;
                let key = self.keys.entry(put.key.clone()).or_insert(KeyValue {
                    key: put.key,
                    create_revision: self.revision,
                    ..KeyValue::default()
                });
                (key.value, key.lease) = (put.value, put.lease);
                Done::ResponsePut(PutResponse::default())
            }
            Operation::RequestDeleteRange(delete) => {
                self.revision += 1;
                self.keys.remove(&delete.key);
                Done::ResponseDeleteRange(DeleteRangeResponse::default())
            }
            Operation::RequestRange(range) => Done::ResponseRange(self.range(&range)),
            other => panic!("nobody in a line asks {other:?}"),
        };
        ResponseOp {
            response: Some(done),
        }
    }
}

/// The same, with the test looking on.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Line>>);

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap()
    }

    fn refuse(&self, which: Which, error: Error) {
        self.line().refuses = Some((which, error));
    }
}

struct Hosted {
    shared: Shared,
    said_ready: bool,
}

impl Machine for Hosted {
    fn step(&mut self, _: Instant, _: WallTime, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Call { id, call } => {
                let answer = match call {
                    Call::Etcd(request) => Answer::Etcd(self.shared.line().answer(request)),
                    // What metrics ask for.
                    _ => Answer::Operator(Ok(String::new())),
                };
                out.push(Output::Answer { id, answer });
            }
            Input::Forget { .. } => {}
            Input::Shutdown => out.push(Output::Halt(Halt::Stopped)),
            other => panic!("nothing brings about {other:?}"),
        }
    }

    fn flush(&mut self, _: Instant, _: WallTime, out: &mut Vec<Output>) {
        if !std::mem::replace(&mut self.said_ready, true) {
            out.push(Output::Ready);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn metrics(&self) -> node::Metrics {
        node::Metrics::default()
    }
}

fn start() -> (Bench, Shared) {
    let shared = Shared::default();
    // As an empty keyspace has it.
    shared.line().revision = 1;
    let hosted = Hosted {
        shared: shared.clone(),
        said_ready: false,
    };
    let bench = Bench::around(|_| hosted, Limits::default(), |_| {});
    (bench, shared)
}

/// Whether it asks for candidates, whoever they are.
fn is_read(request: &etcd::Request) -> bool {
    matches!(request, etcd::Request::Range(_))
}

#[test]
fn who_asks_who_leads_is_told_that_nobody_can_answer() {
    let (bench, line) = start();
    line.refuse(is_read, Error::Timeout);
    let leader =
        unary::<_, LeaderResponse>(bench.channel(), LEADER, LeaderRequest { name: "e".into() });
    let answer = bench.client.block_on(async {
        let answer = tokio::time::timeout(PATIENCE, leader).await;
        answer.expect("it asks again and again")
    });
    let error = answer.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.message(), "etcdserver: request timed out");
    assert_eq!(line.line().refused, 1);
}
