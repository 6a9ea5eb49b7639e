//! Clients that name no keyspace, whose keys choose one: through nodes that hold it and nodes that
//! do not.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::time::{Duration, Instant};

use client::etcd::proto::etcdserverpb::request_op::Request as OperationRequest;
use client::etcd::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
    WatchResponse,
};
use client::{Client, Error, Options, Watch};
use quorate::local::{HANG, LocalCluster};
use support::{quorate, serving};

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    }
}

fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..RangeRequest::default()
    }
}

fn watch(key: &str, end: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..WatchCreateRequest::default()
    }
}

fn said<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    format!("{:?}", result.unwrap_err())
}

async fn next(watch: &mut Watch) -> WatchResponse {
    let message = tokio::time::timeout(HANG, watch.message()).await;
    message.expect("a message comes").unwrap().unwrap()
}

/// One client per node, of that node alone.
fn clients(cluster: &LocalCluster) -> Vec<Client> {
    let nodes = cluster.nodes().iter();
    let client = |endpoint: &String| Client::new([endpoint], Options::default()).unwrap();
    nodes.map(|node| client(&node.etcd)).collect()
}

/// A cluster of five with the keyspace `events` on three of them, to which `/events/` leads.
async fn routed() -> (LocalCluster, tempfile::TempDir, Vec<Client>) {
    let (cluster, folder) = serving(5).await;
    let admin = cluster.nodes()[0].admin.clone();
    quorate(["keyspace", "create", "events", "jobs", "--admin", &admin]).succeeded();
    let clients = clients(&cluster);
    clients[0].put(put("/events/early", "1")).await.unwrap();
    let route = ["keyspace", "route", "/events/", "events", "--admin", &admin];
    quorate(route).refused(&["default holds 1 keys", "/events/"]);
    let early = DeleteRangeRequest {
        key: "/events/early".into(),
        ..DeleteRangeRequest::default()
    };
    clients[0].delete_range(early).await.unwrap();
    let told = quorate(route).succeeded();
    assert!(told.contains("/events/ are in events"), "{told}");
    quorate(route).refused(&["leads to events already"]);
    for (prefix, name, reason) in [
        ("/events/a/", "jobs", "no prefix may begin another"),
        ("/ev", "jobs", "no prefix may begin another"),
        ("/other/", "nothing", "no keyspace called nothing"),
        ("/other/", "default", "take the route away"),
        ("", "jobs", "1 to 1024 bytes"),
    ] {
        quorate(["keyspace", "route", prefix, name, "--admin", &admin]).refused(&[reason]);
    }
    let drop = ["keyspace", "drop", "events", "--admin", &admin];
    quorate(drop).refused(&["/events/ leads to events"]);
    for node in cluster.nodes() {
        let listed = ["keyspace", "routes", "--admin", &node.admin];
        let waiting = Instant::now();
        while quorate(listed).succeeded().trim() != "/events/ events" {
            assert!(
                waiting.elapsed() < HANG,
                "{} does not hear of it",
                node.name
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    (cluster, folder, clients)
}

#[tokio::test]
async fn keys_choose_the_keyspace_through_every_node() {
    let (cluster, _folder, clients) = routed().await;
    for (number, client) in clients.iter().enumerate() {
        let (event, pod) = (format!("/events/{number}"), format!("/pods/{number}"));
        client.put(put(&event, "e")).await.unwrap();
        client.put(put(&pod, "p")).await.unwrap();
        let txn = TxnRequest {
            success: vec![RequestOp {
                request: Some(OperationRequest::RequestPut(put(&event, "t"))),
            }],
            ..TxnRequest::default()
        };
        assert!(client.txn(txn).await.unwrap().succeeded);
    }
    let named = clients[0].in_keyspace("events").unwrap();
    for client in &clients {
        let events = client.range(range("/events/", "/events0")).await.unwrap();
        assert_eq!(events.kvs.len(), 5);
        assert!(events.kvs.iter().all(|pair| pair.value == "t"));
        let pods = client.range(range("/pods/", "/pods0")).await.unwrap();
        assert_eq!(pods.kvs.len(), 5);
        // Revisions are those of the keyspace: ten writes there, and seven here.
        let there = named.range(range("/events/", "/events0")).await.unwrap();
        assert_eq!(there.kvs, events.kvs);
        assert_eq!(there.header.unwrap().revision, 11);
        assert_eq!(pods.header.unwrap().revision, 8);
        let told = said(client.range(range("/", "0")).await);
        assert!(told.contains("the keyspaces default and events"), "{told}");
        let leased = PutRequest {
            lease: 7,
            ..put("/events/leased", "")
        };
        let told = said(client.put(leased).await);
        assert!(told.contains("requested lease not found"), "{told}");
    }
    let everything = named.range(range("\0", "\0")).await.unwrap();
    assert_eq!(
        everything.kvs.len(),
        5,
        "who names a keyspace sees all of it"
    );

    let admin = cluster.nodes()[1].admin.clone();
    quorate(["keyspace", "unroute", "/events/", "--admin", &admin]).succeeded();
    let waiting = Instant::now();
    while clients[1].range(range("/", "0")).await.is_err() {
        assert!(waiting.elapsed() < HANG, "the route is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let left = clients[1].range(range("/", "0")).await.unwrap();
    assert_eq!(left.kvs.len(), 5, "what is in the keyspace stays there");
    quorate(["keyspace", "drop", "events", "--admin", &admin]).succeeded();
}

#[tokio::test]
async fn a_stream_of_watches_is_where_its_first_one_belongs() {
    let (_cluster, _folder, clients) = routed().await;
    for (number, client) in clients.iter().enumerate() {
        let mut events = client.watch(watch("/events/", "/events0")).await.unwrap();
        let mut pods = client.watch(watch("/pods/", "/pods0")).await.unwrap();
        assert!(next(&mut events).await.created);
        assert!(next(&mut pods).await.created);
        let (event, pod) = (format!("/events/{number}"), format!("/pods/{number}"));
        let written = clients[0].put(put(&event, "e")).await.unwrap();
        let seen = next(&mut events).await;
        assert_eq!(seen.events[0].kv.as_ref().unwrap().key, event);
        assert_eq!(
            seen.header.unwrap().revision,
            written.header.unwrap().revision
        );
        clients[0].put(put(&pod, "p")).await.unwrap();
        let seen = next(&mut pods).await;
        assert_eq!(seen.events[0].kv.as_ref().unwrap().key, pod);
        let mut both = client.watch(watch("/", "0")).await.unwrap();
        let refused = next(&mut both).await;
        assert!(refused.created && refused.canceled, "{refused:?}");
        let reason = refused.cancel_reason;
        assert!(reason.contains("default and events"), "{reason}");
    }
}
