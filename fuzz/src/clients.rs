//! What clients send: requests of every kind, planned, executed and read as a node does.

use std::sync::Arc;

use base::{ClusterId, Epoch, Instant, NodeId};
use bytes::{Buf as _, Bytes};
use etcd::auth::{AuthRequest, Caller};
use etcd::proto::authpb::Permission;
use etcd::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest, TxnRequest, WatchRequest,
};
use etcd::{Plan, RangeStream, ReadBudget, ReadOutcome, Request, RequestLimits, Response};
use node::hub::{Hub, HubInput, HubLimits, Member, Publication, StreamId};
use prost::Message as _;
use state::{EventBatch, Limits, State};

use crate::chosen;
use crate::machines::begin;

/// Does what a plan says; the changes.
fn ask(state: &mut State, caller: Option<Caller>, request: Request) -> Vec<EventBatch> {
    match etcd::plan_for(caller.map(Arc::new), request, &RequestLimits::default()) {
        Ok(Plan::Command(record)) => {
            begin(state);
            let _ = etcd::execute(state.transaction(), &record);
            state.end_entry()
        }
        Ok(Plan::Read(read)) => {
            let budget = ReadBudget::new(10, 1000);
            let _ = etcd::read(state.reader(), &read, budget);
            Vec::new()
        }
        Ok(Plan::Renew(_)) | Err(_) => Vec::new(),
    }
}

fn put(key: &'static [u8]) -> Request {
    Request::Put(PutRequest {
        key: Bytes::from_static(key),
        value: Bytes::from_static(b"value"),
        ..PutRequest::default()
    })
}

/// A small keyspace, so that requests find something.
pub(crate) fn keyspace() -> State {
    let mut state = State::new(Limits::default());
    let lease = LeaseGrantRequest { id: 7, ttl: 60 };
    ask(&mut state, None, Request::LeaseGrant(lease));
    for key in [b"a".as_slice(), b"b", b"b\0", b"c"] {
        ask(&mut state, None, put(key));
    }
    let add = |name: &str| AuthRequest::UserAdd {
        name: name.to_owned(),
        password_hash: Some(Bytes::from_static(b"hash")),
    };
    ask(&mut state, None, Request::Auth(add("u")));
    let role = AuthRequest::RoleAdd {
        name: "r".to_owned(),
    };
    ask(&mut state, None, Request::Auth(role));
    state
}

/// Requests as clients send them, by nobody in particular or by a user.
pub fn etcd_requests(bytes: &[u8]) {
    let (kind, rest) = chosen(bytes);
    let mut state = keyspace();
    let request = match kind % 9 {
        0 => RangeRequest::decode(rest).map(Request::Range),
        1 => PutRequest::decode(rest).map(Request::Put),
        2 => DeleteRangeRequest::decode(rest).map(Request::DeleteRange),
        3 => CompactionRequest::decode(rest).map(Request::Compact),
        4 => LeaseGrantRequest::decode(rest).map(Request::LeaseGrant),
        5 => LeaseRevokeRequest::decode(rest).map(Request::LeaseRevoke),
        6 => LeaseTimeToLiveRequest::decode(rest).map(Request::LeaseTimeToLive),
        7 => Permission::decode(rest).map(|permission| {
            Request::Auth(AuthRequest::RoleGrantPermission {
                role: "r".to_owned(),
                permission: Some(permission),
            })
        }),
        _ => return stream(&mut state, rest),
    };
    let caller = (kind >= 128).then(|| Caller {
        user: "u".to_owned(),
        revision: u64::from(kind % 4) + 1,
    });
    if let Ok(request) = request {
        ask(&mut state, caller, request);
    }
}

/// A range in pieces, to its end.
fn stream(state: &mut State, bytes: Bytes) {
    let Ok(request) = RangeRequest::decode(bytes) else {
        return;
    };
    let Ok(mut stream) = RangeStream::new(request) else {
        return;
    };
    while let Some(request) = stream.next_request() {
        let Ok(Plan::Read(read)) = etcd::plan(request, &RequestLimits::default()) else {
            return;
        };
        let budget = ReadBudget::new(2, 50);
        match etcd::read(state.reader(), &read, budget) {
            ReadOutcome::Done(Ok(Response::Range(answer))) => drop(stream.answered(answer)),
            _ => return,
        }
    }
}

/// Transactions, which nest and overlap.
pub fn etcd_transactions(bytes: &[u8]) {
    if let Ok(request) = TxnRequest::decode(bytes) {
        ask(&mut keyspace(), None, Request::Txn(request));
    }
}

/// Streams of watches: messages with their lengths before them, changes in between.
pub fn watches(bytes: &[u8]) {
    let (_, mut rest) = chosen(bytes);
    let mut hub = Hub::new(HubLimits::default(), 1);
    let mut state = keyspace();
    let mut out = Vec::new();
    let mut now = Instant(0);
    hub.step(now, publication(&state, Vec::new()), &mut out);
    let stream = StreamId(1);
    let require_leader = false;
    let opened = HubInput::Opened {
        stream,
        require_leader,
    };
    hub.step(now, opened, &mut out);
    while rest.has_remaining() {
        let length = usize::from(rest.get_u8()).min(rest.remaining());
        if let Ok(request) = WatchRequest::decode(rest.split_to(length)) {
            hub.step(now, HubInput::Request { stream, request }, &mut out);
        }
        let changes = ask(&mut state, None, put(b"b"));
        hub.step(now, publication(&state, changes), &mut out);
        let bytes = u64::from(length as u8) * 10;
        hub.step(now, HubInput::Credit { stream, bytes }, &mut out);
        hub.flush(now, &mut out);
        now = Instant(now.0 + 1_000_000_000);
        hub.step(now, HubInput::Deadline, &mut out);
        out.clear();
    }
    hub.step(now, HubInput::Closed { stream }, &mut out);
    hub.flush(now, &mut out);
}

fn publication(state: &State, changes: Vec<EventBatch>) -> HubInput {
    let reader = state.reader();
    HubInput::Publication(Publication {
        member: Member {
            cluster: ClusterId(1),
            node: NodeId(1),
        },
        batches: changes.into(),
        revision: reader.revision(),
        compacted: reader.compacted(),
        term: Epoch(1),
        has_leader: true,
        reset: false,
        access: None,
    })
}

/// Bytes of connections: frames of peers, messages of gRPC, tokens, streams of JSON.
#[cfg(feature = "server")]
pub fn connections(bytes: &[u8]) {
    let (kind, rest) = chosen(bytes);
    server::fuzzing::connection(kind, &rest);
}

/// Requests as JSON: the first byte chooses the call.
#[cfg(feature = "server")]
pub fn gateway(bytes: &[u8]) {
    let (call, rest) = chosen(bytes);
    server::fuzzing::gateway(call, &rest);
}
