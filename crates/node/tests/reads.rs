//! Reads that take long: they run elsewhere, for as long as their clients wait.

use std::time::Duration;

use bytes::Bytes;
use etcd::proto::etcdserverpb::{HashKvRequest, PutRequest, RangeRequest};
use etcd::{MaintenanceRequest, Request};
use quorate_node::{Answer, Call};

mod support;

use support::World;

/// More than any call waits for others.
const LONG: Duration = Duration::from_secs(20);

/// Once it was under way, such a read was told after seven seconds that nobody had confirmed it,
/// although all went well: etcd's clients then ask again, and again.
#[test]
fn a_long_read_takes_as_long_as_it_takes() {
    let mut world = World::cluster(70, 3);
    let leader = world.wait_for_leader();
    for key in ["a", "b"] {
        let put = Request::Put(PutRequest {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from(vec![b'x'; 700 << 10]),
            ..PutRequest::default()
        });
        let answer = world.ask(leader, Call::Etcd(put));
        assert!(matches!(answer, Answer::Etcd(Ok(_))), "{answer:?}");
    }
    world.jobs_take = LONG;
    let range = |serializable| {
        Call::Etcd(Request::Range(RangeRequest {
            key: Bytes::from_static(b"a"),
            range_end: Bytes::from_static(b"c"),
            serializable,
            ..RangeRequest::default()
        }))
    };
    let hash = MaintenanceRequest::HashKv(HashKvRequest::default());
    let calls = vec![range(false), range(true), Call::EtcdMaintenance(hash)];
    let ids = world.call_together(leader, calls);
    world.run(LONG + Duration::from_secs(1));
    for id in ids {
        match world.answer(id).expect("it has ended") {
            Answer::Etcd(Ok(etcd::Response::Range(found))) => assert_eq!(found.kvs.len(), 2),
            Answer::EtcdMaintenance(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
