//! Inputs to begin with: one well-formed value of each kind, as our own encoders write it. A fuzzer
//! that had to find these by itself would spend its hour on that.

use std::time::Duration;

use base::{ClusterId, Epoch, GroupId, Incarnation, NodeId, Slot, WallTime};
use bytes::{Bytes, BytesMut};
use consensus::message::{Body, Occasion, Position};
use consensus::{EngineKind, Member, Membership, Message};
use etcd::auth::AuthRequest;
use etcd::proto::authpb::Permission;
use etcd::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use etcd::proto::etcdserverpb::request_op::Request as Operation;
use etcd::proto::etcdserverpb::watch_request::RequestUnion;
use etcd::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
};
use etcd::{Plan, Request, RequestLimits};
use journal::format::batch::BatchBuilder;
use journal::format::record::{StoredKind, StoredRecord};
use node::wire::{Frame, GroupFrame, Hello, HelloStanding};
use prost::Message as _;
use state::{CheckpointHead, CheckpointWriter, Limits};

/// The inputs of a target; none for a name that is none.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "peer_frames" => frames(),
        "engine_messages" => messages(),
        "commands" => commands(),
        "etcd_requests" => requests(),
        "etcd_transactions" => vec![transaction(2).encode_to_vec()],
        "watches" => vec![watches()],
        "connections" => connections(),
        "gateway" => vec![
            b"\x00{\"key\":\"YQ==\",\"range_end\":\"Yg==\",\"limit\":\"3\"}".to_vec(),
            b"\x03{\"compare\":[{\"key\":\"YQ==\",\"target\":\"MOD\",\"modRevision\":1}],\
              \"success\":[{\"requestPut\":{\"key\":\"YQ==\",\"value\":\"Yg==\"}}]}"
                .to_vec(),
            b"\x05{\"create_request\":{\"key\":\"YQ==\",\"filters\":[\"NOPUT\"]}}".to_vec(),
        ],
        "journal" => journal(),
        "checkpoints" => vec![checkpoint()],
        "gossip" => gossip(),
        _ => Vec::new(),
    }
}

/// `input` behind the byte that chooses what it is.
fn chosen(kind: u8, input: &[u8]) -> Vec<u8> {
    [&[kind], input].concat()
}

fn membership() -> Membership {
    let member = |name: &str| Member {
        name: name.to_owned(),
        peer_address: format!("{name}:2380"),
    };
    Membership {
        members: [(NodeId(1), member("n1")), (NodeId(2), member("n2"))].into(),
        voters: [NodeId(1)].into(),
        ..Membership::default()
    }
}

fn vote() -> Message {
    Message {
        epoch: Epoch(3),
        body: Body::Vote {
            last: Position::default(),
            occasion: Occasion::Silence,
        },
    }
}

fn frames() -> Vec<Vec<u8>> {
    let hello = Hello {
        versions: (1, 1),
        node: NodeId(1),
        incarnation: Incarnation(1),
        process: 1,
        standing: HelloStanding::Alone,
        name: "n1".to_owned(),
        address: "n1:2380".to_owned(),
        is_witness: false,
    };
    let frames = [
        Frame::Hello(hello),
        Frame::Goodbye("bye".to_owned()),
        Frame::Form {
            cluster: ClusterId(1),
            genesis: membership(),
            engine: EngineKind::Raft,
        },
        Frame::Engine(vec![(GroupId(0), vote())].into()),
        Frame::Group(
            GroupId(1),
            GroupFrame::Digest {
                slot: Slot(1),
                digest: 1,
            },
        ),
    ];
    frames.iter().map(|frame| frame.encode().to_vec()).collect()
}

fn messages() -> Vec<Vec<u8>> {
    let (mut message, mut members) = (BytesMut::new(), BytesMut::new());
    vote().encode(&mut message);
    membership().encode(&mut members);
    vec![chosen(0, &message), chosen(2, &members)]
}

fn operation(request: Operation) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn put() -> PutRequest {
    PutRequest {
        key: "a".into(),
        value: "1".into(),
        lease: 7,
        prev_kv: true,
        ..PutRequest::default()
    }
}

fn range() -> RangeRequest {
    RangeRequest {
        key: "a".into(),
        range_end: "z".into(),
        limit: 3,
        ..RangeRequest::default()
    }
}

fn delete() -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: "b".into(),
        range_end: "c".into(),
        prev_kv: true,
    }
}

/// One of each operation, nested so often.
fn transaction(depth: u32) -> TxnRequest {
    let mut success = vec![
        operation(Operation::RequestPut(put())),
        operation(Operation::RequestRange(range())),
    ];
    if depth > 0 {
        success.push(operation(Operation::RequestTxn(transaction(depth - 1))));
    }
    TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Mod.into(),
            key: "a".into(),
            range_end: Bytes::new(),
            target_union: Some(TargetUnion::ModRevision(1)),
        }],
        success,
        failure: vec![operation(Operation::RequestDeleteRange(delete()))],
    }
}

fn requests() -> Vec<Vec<u8>> {
    let permission = Permission {
        perm_type: 2,
        key: "a".into(),
        range_end: "b".into(),
    };
    vec![
        chosen(0, &range().encode_to_vec()),
        chosen(1, &put().encode_to_vec()),
        chosen(2, &delete().encode_to_vec()),
        chosen(
            3,
            &CompactionRequest {
                revision: 2,
                physical: true,
            }
            .encode_to_vec(),
        ),
        chosen(4, &LeaseGrantRequest { id: 9, ttl: 30 }.encode_to_vec()),
        chosen(7, &permission.encode_to_vec()),
        chosen(8, &range().encode_to_vec()),
    ]
}

fn commands() -> Vec<Vec<u8>> {
    let record = |request| match etcd::plan(request, &RequestLimits::default()) {
        Ok(Plan::Command(record)) => chosen(0, &record),
        other => panic!("{other:?} is no change"),
    };
    let mut records = vec![
        record(Request::Put(put())),
        record(Request::DeleteRange(delete())),
        record(Request::Txn(transaction(0))),
        record(Request::LeaseGrant(LeaseGrantRequest { id: 9, ttl: 30 })),
        record(Request::Auth(AuthRequest::RoleAdd {
            name: "s".to_owned(),
        })),
    ];
    let renewals = node::leases::LeaseCommand::Renew(vec![state::LeaseId(7)]);
    records.push(chosen(2, &renewals.encode()));
    let batch = node::batch::encode(WallTime(1), Duration::from_millis(1), &[]);
    records.push(chosen(5, &batch));
    records
}

fn watches() -> Vec<u8> {
    let create = RequestUnion::CreateRequest(WatchCreateRequest {
        key: "a".into(),
        range_end: "z".into(),
        start_revision: 2,
        prev_kv: true,
        fragment: true,
        ..WatchCreateRequest::default()
    });
    let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
    let mut input = vec![0];
    for request in [create, progress] {
        let request = WatchRequest {
            request_union: Some(request),
        };
        let bytes = request.encode_to_vec();
        input.push(bytes.len() as u8);
        input.extend_from_slice(&bytes);
    }
    input
}

fn connections() -> Vec<Vec<u8>> {
    let body = put().encode_to_vec();
    let mut message = vec![0];
    message.extend_from_slice(&(body.len() as u32).to_be_bytes());
    message.extend_from_slice(&body);
    let goodbye = Frame::Goodbye("bye".to_owned()).encode();
    let mut frame = (goodbye.len() as u32).to_le_bytes().to_vec();
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&goodbye);
    // Pieces of 64 bytes.
    let kind = |kind: u8| 63 * 4 + kind;
    vec![
        chosen(kind(0), &frame),
        chosen(kind(1), &message),
        chosen(kind(1), b"10S"),
        chosen(kind(2), b"{\"a\":\"}\"} {\"b\":[{}]}"),
        chosen(
            kind(3),
            b"eyJhbGciOiJIUzI1NiJ9.eyJ1IjoidSIsImciOjEsInQiOjF9.AAAA",
        ),
    ]
}

fn journal() -> Vec<Vec<u8>> {
    let record = StoredRecord {
        group: GroupId(1),
        kind: StoredKind::from_number(2).expect("2 is an entry"),
        slot: Slot(1),
        epoch: Epoch(1),
        body: Bytes::from_static(b"body"),
    };
    let mut builder = BatchBuilder::new(Vec::new());
    builder.push(&record);
    let payload: Vec<u8> = journal::format::block::payload_pieces(builder.blocks(), 0)
        .flatten()
        .copied()
        .collect();
    vec![
        chosen(0, &payload),
        chosen(1, &[0; 64]),
        chosen(2, &[0; 512]),
    ]
}

fn checkpoint() -> Vec<u8> {
    let state = crate::clients::keyspace();
    let mut members = BytesMut::new();
    membership().encode(&mut members);
    let head = CheckpointHead {
        cluster: ClusterId(1),
        group: GroupId(0),
        membership: members.freeze(),
    };
    let mut writer = CheckpointWriter::new(state.snapshot(), head, Limits::default());
    let mut bytes = vec![255];
    while let Some(block) = writer.next_block() {
        bytes.extend_from_slice(&block);
    }
    bytes
}

/// What members send each other while one joins another.
fn gossip() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for output in crate::machines::joining() {
        match output {
            cluster::gossip::Output::Packet { bytes, .. } => found.push(chosen(0, &bytes)),
            cluster::gossip::Output::Exchange { bytes, .. } => found.push(chosen(1, &bytes)),
            _ => {}
        }
    }
    found
}
