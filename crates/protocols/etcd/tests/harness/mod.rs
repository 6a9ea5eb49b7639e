//! A keyspace to talk to in tests: plans a request and does what the plan says, one entry per
//! command, as a node does.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::time::Duration;

use base::{Epoch, WallTime};
use bytes::Bytes;
use quorate_etcd::auth::Gates;
use quorate_etcd::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_etcd::proto::etcdserverpb::request_op::Request as Operation;
use quorate_etcd::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest,
    LeaseGrantResponse, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, TxnRequest, TxnResponse,
};
use quorate_etcd::{
    Error, Plan, RangeStream, ReadBudget, ReadOutcome, Request, RequestLimits, Response,
    execute_with, plan, read, renewed,
};
use state::{EntryStamp, EventBatch, LeaseId, Limits, Settings, State};

/// A state, its limits, and what the last entry brought about.
pub struct Keyspace {
    pub state: State,
    pub limits: RequestLimits,
    pub events: Vec<EventBatch>,
    pub gates: Gates,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self::with_quota(u64::MAX)
    }
}

impl Keyspace {
    pub fn with_quota(quota_bytes: u64) -> Self {
        let settings = Settings {
            quota_bytes,
            ..Settings::default()
        };
        let limits = Limits {
            settings,
            ..Limits::default()
        };
        let (state, limits) = (State::new(limits), RequestLimits::default());
        Self {
            state,
            limits,
            events: Vec::new(),
            gates: Gates::default(),
        }
    }

    pub fn ask(&mut self, request: Request) -> Result<Response, Error> {
        match plan(request, &self.limits)? {
            Plan::Renew(id) => Ok(self.renew(id)),
            Plan::Read(request) => {
                match read(self.state.reader(), &request, ReadBudget::UNLIMITED) {
                    ReadOutcome::Done(answer) => answer,
                    ReadOutcome::TooLarge => panic!("an unlimited budget was used up"),
                }
            }
            Plan::Command(record) => self.execute(&record),
        }
    }

    pub fn execute(&mut self, record: &[u8]) -> Result<Response, Error> {
        self.execute_awaited(record, true)
    }

    pub fn execute_awaited(&mut self, record: &[u8], awaited: bool) -> Result<Response, Error> {
        self.begin_entry(Duration::ZERO);
        let answer = execute_with(&mut self.gates, self.state.transaction(), record, awaited);
        self.events = self.state.end_entry();
        answer
    }

    fn begin_entry(&mut self, elapsed: Duration) {
        let slot = self.state.reader().applied().next();
        let (epoch, wall) = (Epoch(1), WallTime(slot.0));
        self.state.begin_entry(&EntryStamp {
            slot,
            epoch,
            wall,
            elapsed,
        });
    }

    /// What the node does with renewals.
    fn renew(&mut self, id: LeaseId) -> Response {
        self.begin_entry(Duration::ZERO);
        let mut transaction = self.state.transaction();
        let granted = transaction.renew_lease(id).map(|lease| lease.granted);
        transaction.commit();
        self.events = self.state.end_entry();
        renewed(self.state.reader(), id, granted)
    }

    /// The group's clock goes on.
    pub fn wait(&mut self, elapsed: Duration) {
        self.begin_entry(elapsed);
        self.events = self.state.end_entry();
    }

    pub fn grant(&mut self, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Error> {
        match self.ask(Request::LeaseGrant(LeaseGrantRequest { id, ttl }))? {
            Response::LeaseGrant(response) => Ok(response),
            other => panic!("not a grant's answer: {other:?}"),
        }
    }

    pub fn revoke(&mut self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        match self.ask(Request::LeaseRevoke(LeaseRevokeRequest { id }))? {
            Response::LeaseRevoke(response) => Ok(response),
            other => panic!("not a revoke's answer: {other:?}"),
        }
    }

    /// The seconds that the answer names.
    pub fn keep_alive(&mut self, id: i64) -> i64 {
        let request = Request::LeaseKeepAlive(LeaseKeepAliveRequest { id });
        match self.ask(request).expect("keep-alives do not fail") {
            Response::LeaseKeepAlive(response) if response.id == id => response.ttl,
            other => panic!("not a keep-alive's answer: {other:?}"),
        }
    }

    pub fn time_to_live(&mut self, id: i64, keys: bool) -> LeaseTimeToLiveResponse {
        let request = Request::LeaseTimeToLive(LeaseTimeToLiveRequest { id, keys });
        match self.ask(request).expect("it does not fail") {
            Response::LeaseTimeToLive(response) if response.id == id => response,
            other => panic!("not a time-to-live's answer: {other:?}"),
        }
    }

    pub fn leases(&mut self) -> Vec<i64> {
        match self.ask(Request::LeaseLeases).expect("it does not fail") {
            Response::LeaseLeases(list) => list.leases.iter().map(|each| each.id).collect(),
            other => panic!("not a list of leases: {other:?}"),
        }
    }

    /// The messages of a stream; each piece is read within `budget`, and `between` happens before
    /// each but the first.
    pub fn stream(
        &mut self,
        request: RangeRequest,
        budget: ReadBudget,
        mut between: impl FnMut(&mut Keyspace),
    ) -> Result<Vec<RangeResponse>, Error> {
        let mut stream = RangeStream::new(request)?;
        let mut messages = Vec::new();
        while let Some(request) = stream.next_request() {
            if !messages.is_empty() {
                between(self);
            }
            let Plan::Read(piece) = plan(request, &self.limits)? else {
                panic!("a stream reads");
            };
            let mut outcome = read(self.state.reader(), &piece, budget.clone());
            if outcome == ReadOutcome::TooLarge {
                outcome = read(self.state.reader(), &piece, ReadBudget::UNLIMITED);
            }
            let answer = match outcome {
                ReadOutcome::Done(Ok(Response::Range(answer))) => answer,
                ReadOutcome::Done(Err(error)) => return Err(error),
                other => panic!("not a piece: {other:?}"),
            };
            if let Some(message) = stream.answered(answer) {
                messages.push(message.range_response.expect("a message holds a piece"));
            }
        }
        Ok(messages)
    }

    pub fn revision(&self) -> i64 {
        self.state.reader().revision().0
    }

    pub fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, Error> {
        match self.ask(Request::Range(request))? {
            Response::Range(response) => Ok(response),
            other => panic!("not a range's answer: {other:?}"),
        }
    }

    pub fn put(&mut self, request: PutRequest) -> Result<PutResponse, Error> {
        match self.ask(Request::Put(request))? {
            Response::Put(response) => Ok(response),
            other => panic!("not a put's answer: {other:?}"),
        }
    }

    pub fn delete(&mut self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        match self.ask(Request::DeleteRange(request))? {
            Response::DeleteRange(response) => Ok(response),
            other => panic!("not a delete's answer: {other:?}"),
        }
    }

    pub fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, Error> {
        match self.ask(Request::Txn(request))? {
            Response::Txn(response) => Ok(response),
            other => panic!("not a transaction's answer: {other:?}"),
        }
    }

    /// Compacts and tells the header's revision.
    pub fn compact(&mut self, revision: i64) -> Result<i64, Error> {
        let request = CompactionRequest {
            revision,
            physical: false,
        };
        Ok(self.ask(Request::Compact(request))?.header_mut().revision)
    }

    /// Puts `key = value` pairs, one revision each.
    pub fn fill(&mut self, pairs: &[(&str, &str)]) {
        for (key, value) in pairs {
            self.put(put(key, value)).expect("a plain put");
        }
    }

    /// `key=value` of each pair in a range, in the order given.
    pub fn list(&mut self, request: RangeRequest) -> Vec<String> {
        let response = self.range(request).expect("a valid range");
        pairs(&response)
    }

    /// Everything there is.
    pub fn all(&mut self) -> Vec<String> {
        self.list(span("\0", "\0"))
    }
}

pub fn pairs(response: &RangeResponse) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    response
        .kvs
        .iter()
        .map(|pair| format!("{}={}", text(&pair.key), text(&pair.value)))
        .collect()
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..PutRequest::default()
    }
}

pub fn single(key: &str) -> RangeRequest {
    span(key, "")
}

pub fn span(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        ..RangeRequest::default()
    }
}

pub fn delete(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        prev_kv: false,
    }
}

pub fn op(request: Operation) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

pub fn op_put(key: &str, value: &str) -> RequestOp {
    op(Operation::RequestPut(put(key, value)))
}

pub fn op_range(request: RangeRequest) -> RequestOp {
    op(Operation::RequestRange(request))
}

pub fn op_delete(key: &str, range_end: &str) -> RequestOp {
    op(Operation::RequestDeleteRange(delete(key, range_end)))
}

pub fn op_txn(request: TxnRequest) -> RequestOp {
    op(Operation::RequestTxn(request))
}

/// A transaction without conditions.
pub fn then(success: Vec<RequestOp>) -> TxnRequest {
    txn(vec![], success, vec![])
}

pub fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare,
        success,
        failure,
    }
}

pub fn compare(
    key: &str,
    target: CompareTarget,
    result: CompareResult,
    union: TargetUnion,
) -> Compare {
    Compare {
        result: result.into(),
        target: target.into(),
        key: bytes(key),
        range_end: Bytes::new(),
        target_union: Some(union),
    }
}

pub fn compare_version(key: &str, result: CompareResult, version: i64) -> Compare {
    compare(
        key,
        CompareTarget::Version,
        result,
        TargetUnion::Version(version),
    )
}

pub fn compare_value(key: &str, result: CompareResult, value: &str) -> Compare {
    compare(
        key,
        CompareTarget::Value,
        result,
        TargetUnion::Value(bytes(value)),
    )
}
