//! What the clients do: each one call after the other, keys at random, so that they meet.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use checker::history::{
    ClientId, Compare, Comparison, Delete, DeleteResult, EventKind, Key, OperationId, Put,
    PutResult, Range, Request, Response, Revision, Step, StepResult, Target, Txn, TxnResult, Value,
};
use client::etcd::proto::etcdserverpb;
use client::etcd::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use client::etcd::proto::etcdserverpb::request_op::Request as Operation;
use client::etcd::proto::etcdserverpb::response_op::Response as Outcome;
use client::etcd::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use client::{Client, Error};

use super::Shared;
use super::translation::{below, failure, key_value, range_result, revision};

/// After a call that has failed, so that a cluster that is down is not asked without end.
const REST: Duration = Duration::from_millis(20);

/// One client.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Client,
    pub(super) number: u64,
    pub(super) prefix: String,
    /// How many keys there are.
    pub(super) keys: u64,
    /// Between the beginnings of two calls, at least.
    pub(super) pause: Duration,
}

/// What a call has led to: the revision of its answer, and the answer.
type Answer = Result<(Revision, Response), Error>;

impl Worker {
    /// Works until the recording is over.
    pub(super) async fn run(self) {
        // Another order at each run: the history says what it was.
        let mut random = fastrand::Rng::new();
        while !self.shared.is_over() {
            let next = tokio::time::Instant::now() + self.pause;
            let key = format!("{}{}", self.prefix, random.u64(0..self.keys)).into_bytes();
            let is_well = match random.u8(0..100) {
                0..40 => self.put(key).await,
                40..65 => self.get(key, false).await,
                65..70 => self.get(key, true).await,
                70..77 => self.list().await,
                77..82 => self.delete(key).await,
                _ => self.replace(key).await,
            };
            if !is_well {
                tokio::time::sleep(REST).await;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Records a call; whether it was answered.
    async fn call(&self, request: Request, call: impl Future<Output = Answer>) -> bool {
        recorded(&self.shared, ClientId(self.number), request, call).await
    }

    async fn put(&self, key: Vec<u8>) -> bool {
        let value = self.shared.value();
        let request = Request::Put(Put {
            key: Key::from(key.clone()),
            value: Value::from(value.as_str()),
            ..Put::default()
        });
        let put = PutRequest {
            key: key.into(),
            value: value.into(),
            ..PutRequest::default()
        };
        self.call(request, async {
            let answer = self.client.put(put).await?;
            let response = Response::Put(PutResult::default());
            Ok((revision(answer.header.as_ref()), response))
        })
        .await
    }

    async fn get(&self, key: Vec<u8>, serializable: bool) -> bool {
        self.range(key, Vec::new(), serializable).await
    }

    async fn list(&self) -> bool {
        let (key, range_end) = below(&self.prefix);
        self.range(key, range_end, false).await
    }

    async fn range(&self, key: Vec<u8>, range_end: Vec<u8>, serializable: bool) -> bool {
        let client = ClientId(self.number);
        range(
            &self.shared,
            &self.client,
            client,
            key,
            range_end,
            serializable,
        )
        .await
    }

    async fn delete(&self, key: Vec<u8>) -> bool {
        let request = Request::Delete(Delete {
            key: Key::from(key.clone()),
            prev_kv: true,
            ..Delete::default()
        });
        let delete = DeleteRangeRequest {
            key: key.into(),
            prev_kv: true,
            ..DeleteRangeRequest::default()
        };
        self.call(request, async {
            let answer = self.client.delete_range(delete).await?;
            let response = Response::Delete(DeleteResult {
                deleted: answer.deleted as u64,
                prev_kvs: answer.prev_kvs.iter().map(key_value).collect(),
            });
            Ok((revision(answer.header.as_ref()), response))
        })
        .await
    }

    /// Reads a key, then writes it if nobody has meanwhile.
    async fn replace(&self, key: Vec<u8>) -> bool {
        let read = RangeRequest {
            key: key.clone().into(),
            serializable: true,
            ..RangeRequest::default()
        };
        // Not a part of the history: whatever it says, the transaction finds out.
        let Ok(read) = self.client.range(read).await else {
            return false;
        };
        let seen = read.kvs.first().map_or(0, |pair| pair.mod_revision);
        let value = self.shared.value();
        let request = Request::Txn(Txn {
            compares: vec![Compare {
                key: Key::from(key.clone()),
                range_end: Key::default(),
                is: Comparison::Equal,
                target: Target::ModRevision(Revision(seen as u64)),
            }],
            success: vec![Step::Put(Put {
                key: Key::from(key.clone()),
                value: Value::from(value.as_str()),
                ..Put::default()
            })],
            failure: vec![Step::Range(Range {
                key: Key::from(key.clone()),
                ..Range::default()
            })],
        });
        let transaction = replacement(key, seen, value);
        self.call(request, async {
            let answer = self.client.txn(transaction).await?;
            let responses = answer.responses.iter();
            let response = Response::Txn(TxnResult {
                succeeded: answer.succeeded,
                responses: responses.filter_map(step_result).collect(),
            });
            Ok((revision(answer.header.as_ref()), response))
        })
        .await
    }
}

/// Writes the key if it was last changed at `seen`; else reads it.
fn replacement(key: Vec<u8>, seen: i64, value: String) -> TxnRequest {
    let operation = |request| RequestOp {
        request: Some(request),
    };
    TxnRequest {
        compare: vec![etcdserverpb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone().into(),
            target_union: Some(TargetUnion::ModRevision(seen)),
            ..etcdserverpb::Compare::default()
        }],
        success: vec![operation(Operation::RequestPut(PutRequest {
            key: key.clone().into(),
            value: value.into(),
            ..PutRequest::default()
        }))],
        failure: vec![operation(Operation::RequestRange(RangeRequest {
            key: key.into(),
            ..RangeRequest::default()
        }))],
    }
}

fn step_result(response: &etcdserverpb::ResponseOp) -> Option<StepResult> {
    match response.response.as_ref()? {
        Outcome::ResponsePut(_) => Some(StepResult::Put(PutResult::default())),
        Outcome::ResponseRange(range) => Some(StepResult::Range(range_result(range))),
        _ => None,
    }
}

/// Reads all that was written, again and again until it is answered, for a minute at most: a lost
/// write shows in what is missing here.
pub(super) async fn read_all(shared: &Shared, client: &Client, number: u64, prefix: &str) {
    const PATIENCE: Duration = Duration::from_secs(60);
    let started = Instant::now();
    let (key, range_end) = below(prefix);
    let number = ClientId(number);
    while started.elapsed() < PATIENCE {
        if range(
            shared,
            client,
            number,
            key.clone(),
            range_end.clone(),
            false,
        )
        .await
        {
            return;
        }
        tokio::time::sleep(REST).await;
    }
}

async fn range(
    shared: &Shared,
    client: &Client,
    number: ClientId,
    key: Vec<u8>,
    range_end: Vec<u8>,
    serializable: bool,
) -> bool {
    let request = Request::Range(Range {
        key: Key::from(key.clone()),
        range_end: Key::from(range_end.clone()),
        serializable,
        ..Range::default()
    });
    let asked = RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        serializable,
        ..RangeRequest::default()
    };
    let call = async {
        let answer = client.range(asked).await?;
        let response = Response::Range(range_result(&answer));
        Ok((revision(answer.header.as_ref()), response))
    };
    recorded(shared, number, request, call).await
}

/// Writes down that a call begins, makes it, and writes down how it has ended; whether with an
/// answer.
async fn recorded(
    shared: &Shared,
    client: ClientId,
    request: Request,
    call: impl Future<Output = Answer>,
) -> bool {
    let id: OperationId = shared.operation();
    let started = Instant::now();
    let is_read = matches!(request, Request::Range(_));
    shared.tell(EventKind::Invoke {
        id,
        client,
        request,
    });
    let outcome = call.await;
    let counts = &shared.counts;
    match outcome {
        Ok((revision, response)) => {
            let taken = started.elapsed().as_millis() as u64;
            counts
                .slowest_milliseconds
                .fetch_max(taken, Ordering::Relaxed);
            counts.answered.fetch_add(1, Ordering::Relaxed);
            shared.tell(EventKind::Ok {
                id,
                revision,
                response,
            });
            true
        }
        Err(Error::OutcomeUnknown(status)) if !is_read => {
            counts.unknown.fetch_add(1, Ordering::Relaxed);
            let reason = client::reason(&status);
            shared.tell(EventKind::Unknown { id, reason });
            false
        }
        Err(error) => {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            let failure = failure(&error);
            shared.tell(EventKind::Fail { id, failure });
            false
        }
    }
}
