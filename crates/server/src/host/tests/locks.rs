//! Locks and elections, and how their callers give up, around a machine that can be made to refuse.

use std::sync::{Mutex, MutexGuard};

use etcd::Error;
use etcd::proto::etcdserverpb::compare::TargetUnion;
use etcd::proto::etcdserverpb::range_request::SortOrder;
use etcd::proto::etcdserverpb::request_op::Request as Operation;
use etcd::proto::etcdserverpb::response_op::Response as Done;
use etcd::proto::etcdserverpb::{LeaseGrantResponse, RequestOp, ResponseOp};
use etcd::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use etcd::proto::v3lockpb::{LockRequest, LockResponse};

use super::*;

const LOCK: &str = "/v3lockpb.Lock/Lock";
const CAMPAIGN: &str = "/v3electionpb.Election/Campaign";
const PROCLAIM: &str = "/v3electionpb.Election/Proclaim";
const RESIGN: &str = "/v3electionpb.Election/Resign";
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
    granted: u64,
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
            etcd::Request::LeaseGrant(_) => {
                self.granted += 1;
                etcd::Response::LeaseGrant(LeaseGrantResponse {
                    id: GRANTED,
                    ttl: 60,
                    ..LeaseGrantResponse::default()
                })
            }
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

    fn holds(&self, key: &'static str) -> bool {
        self.line().keys.contains_key(key.as_bytes())
    }

    fn until(&self, what: &str, so: impl Fn(&Line) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !so(&self.line()) {
            assert!(std::time::Instant::now() < deadline, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
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

fn lock(lease: i64) -> LockRequest {
    LockRequest {
        name: "l".into(),
        lease,
    }
}

fn campaign(lease: i64, value: &'static str) -> CampaignRequest {
    CampaignRequest {
        name: "e".into(),
        lease,
        value: value.into(),
    }
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

/// Whether it is a candidate's look at its own key, the last thing before it is told that it has
/// won.
fn is_own_read(request: &etcd::Request) -> bool {
    matches!(request, etcd::Request::Range(range) if range.range_end.is_empty())
}

/// Whether it gives a key that is there another value.
fn is_announcement(request: &etcd::Request) -> bool {
    let etcd::Request::Txn(transaction) = request else {
        return false;
    };
    let does = transaction.success[0].request.as_ref();
    transaction.failure.is_empty() && matches!(does, Some(Operation::RequestPut(_)))
}

/// Its place was thought safe as soon as nobody was ahead; but if the majority was lost then,
/// nobody had told it that it had won.
#[test]
fn who_gives_up_at_the_front_leaves_the_line() {
    let (bench, line) = start();
    line.refuse(is_own_read, Error::Timeout);
    let call = unary::<_, LockResponse>(bench.channel(), LOCK, lock(1));
    let call = bench.client.spawn(call);
    line.until("it looks at its key", |line| line.refused > 0);
    assert!(line.holds("l/1"));
    call.abort();
    line.until("it has left", |line| line.keys.is_empty());
}

#[test]
fn who_is_told_that_it_has_not_won_has_left_the_line() {
    let (bench, line) = start();
    line.refuse(is_own_read, Error::PermissionDenied);
    let error = bench.grpc::<_, LockResponse>(LOCK, lock(1)).unwrap_err();
    assert_eq!(error.message(), "etcdserver: permission denied");
    line.until("it has left", |line| line.keys.is_empty());
    let error = bench.grpc::<_, CampaignResponse>(CAMPAIGN, campaign(1, "v"));
    assert_eq!(error.unwrap_err().code(), Code::Unknown);
    line.until("it has left", |line| line.keys.is_empty());
}

/// As in etcd, where a leader that cannot announce another value resigns.
#[test]
fn a_candidate_that_cannot_announce_its_value_leaves_the_line() {
    let (bench, line) = start();
    let first: CampaignResponse = bench.grpc(CAMPAIGN, campaign(1, "one")).unwrap();
    assert_eq!(first.leader.unwrap().lease, 1);
    line.refuse(is_announcement, Error::Timeout);
    let error = bench.grpc::<_, CampaignResponse>(CAMPAIGN, campaign(1, "two"));
    assert_eq!(error.unwrap_err().code(), Code::Unavailable);
    line.until("it has left", |line| line.keys.is_empty());
}

#[test]
fn nobody_loses_a_lock_by_asking_for_it_again() {
    let (bench, line) = start();
    let held: LockResponse = bench.grpc(LOCK, lock(1)).unwrap();
    assert_eq!(held.key, "l/1");
    line.refuse(is_own_read, Error::PermissionDenied);
    bench
        .grpc::<_, LockResponse>(LOCK, lock(1))
        .expect_err("it is refused");
    // Whatever that has set off is over when the same has come of what was asked later.
    let waiting = unary::<_, LockResponse>(bench.channel(), LOCK, lock(2));
    let waiting = bench.client.spawn(waiting);
    line.until("another waits", |line| line.keys.len() == 2);
    waiting.abort();
    line.until("it has left", |line| line.keys.len() == 1);
    assert!(line.holds("l/1"));
}

/// `grpc-timeout` was passed on by the gateway and looked at by nobody: a call waited for ever.
#[test]
fn who_waits_in_line_is_told_when_the_time_it_gave_is_over() {
    let (bench, line) = start();
    let _: LockResponse = bench.grpc(LOCK, lock(1)).unwrap();
    let ask = |path: &str, body: &str| {
        let port = &bench.handle.endpoints().etcd;
        bench.http(port, &post(path, "grpc-timeout: 2S\r\n", body))
    };
    let late = ask("/v3/lock/lock", r#"{"name":"bA==","lease":"2"}"#);
    assert!(late.starts_with("HTTP/1.1 504"), "{late}");
    assert!(late.contains("context deadline exceeded"), "{late}");
    line.until("it has left", |line| line.keys.len() == 1);
    assert!(line.holds("l/1"));
    // A stream ends then too.
    let late = ask("/v3/election/observe", r#"{"name":"ZQ=="}"#);
    assert!(late.starts_with("HTTP/1.1 504"), "{late}");
    assert!(late.contains(r#""grpc_code":4"#), "{late}");
    let metrics = bench.http(&bench.handle.endpoints().admin, &get("/metrics"));
    let parts = ["handled_total", r#""Lock""#, r#""DeadlineExceeded""#, "} 1"];
    let is_counted = |line: &str| parts.iter().all(|part| line.contains(part));
    assert!(metrics.lines().any(is_counted), "{metrics}");
    // Who is served in time notices nothing.
    let port = &bench.handle.endpoints().etcd;
    let body = r#"{"name":"ZQ==","lease":"2"}"#;
    let patient = post("/v3/election/campaign", "grpc-timeout: 1H\r\n", body);
    let in_time = bench.http(port, &patient);
    assert!(in_time.starts_with("HTTP/1.1 200"), "{in_time}");
}

/// The key lost its lease, and stood in everybody's way once its leader had died.
#[test]
fn what_a_leader_proclaims_without_a_lease_ends_all_the_same() {
    let (bench, line) = start();
    let won: CampaignResponse = bench.grpc(CAMPAIGN, campaign(1, "one")).unwrap();
    let leader = won.leader.unwrap();
    let lease = || line.line().keys["e/1".as_bytes()].lease;
    for (named, found) in [(1, 1), (0, GRANTED)] {
        let proclaim = ProclaimRequest {
            leader: Some(LeaderKey {
                lease: named,
                ..leader.clone()
            }),
            value: "two".into(),
        };
        let _: ProclaimResponse = bench.grpc(PROCLAIM, proclaim).unwrap();
        assert_eq!(lease(), found);
    }
    let resign = ResignRequest {
        leader: Some(LeaderKey { lease: 0, ..leader }),
    };
    let _: ResignResponse = bench.grpc(RESIGN, resign).unwrap();
    assert!(line.line().keys.is_empty());
    assert_eq!(line.line().granted, 1, "who resigns needs none");
}
