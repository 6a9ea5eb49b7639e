//! The load driver against a real node: what it counts must be there, and what it cannot do it
//! must say.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use client::etcd::proto::etcdserverpb::RangeRequest;
use client::{Client, Options};
use quorate::local::LocalCluster;
use serde_json::Value;
use support::{QUORATE, quorate, serving};

/// `quorate bench` on a cluster, with further words; its JSON.
fn bench(cluster: &LocalCluster, line: &str) -> Value {
    let endpoints = cluster.endpoints().join(",");
    let words = line.split_whitespace();
    let rest = ["--json", "--endpoints", &endpoints];
    let said = quorate(std::iter::once("bench").chain(words).chain(rest)).succeeded();
    serde_json::from_str(&said).unwrap()
}

/// How many keys begin with the load's prefix.
async fn keys_on(cluster: &LocalCluster) -> i64 {
    let client = Client::new(cluster.endpoints(), Options::default()).unwrap();
    let range = RangeRequest {
        key: "bench/".into(),
        range_end: "bench0".into(),
        count_only: true,
        ..RangeRequest::default()
    };
    client.range(range).await.unwrap().count
}

#[tokio::test]
async fn every_load_runs_without_errors_and_says_what_it_did() {
    let (cluster, _folder) = serving(1).await;
    let put = bench(
        &cluster,
        "put --sequential --keys 500 --total 500 --clients 20",
    );
    assert_eq!(put["errors"], 0, "{put}");
    assert_eq!(put["series"][0]["name"], "put");
    assert_eq!(put["series"][0]["count"], 500);
    assert!(put["series"][0]["per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(keys_on(&cluster).await, 500, "what it counts was written");

    for line in [
        "get --keys 500 --total 1000 --clients 20 --connections 3",
        "get --keys 500 --total 1000 --clients 4 --threads 2 --serializable",
        "txn --keys 500 --total 300 --clients 20",
        "put --keys 500 --total 30 --value-size 200000 --clients 8 --connections 2",
        "get --keys 500 --total 500 --clients 8 --connections 2",
    ] {
        let report = bench(&cluster, line);
        assert_eq!(report["errors"], 0, "{line}: {report}");
        assert_eq!(
            report["counts"],
            serde_json::json!({}),
            "{line}: all was found"
        );
        assert_eq!(report["lost_connections"], serde_json::json!({}));
        let total = line
            .split_whitespace()
            .skip_while(|word| *word != "--total")
            .nth(1);
        assert_eq!(
            report["series"][0]["count"].to_string(),
            total.unwrap(),
            "{line}"
        );
    }

    let mixed = bench(
        &cluster,
        "mixed --keys 500 --total 1000 --clients 20 --reads 70",
    );
    assert_eq!(mixed["errors"], 0, "{mixed}");
    let count = |series: usize| mixed["series"][series]["count"].as_u64().unwrap();
    assert_eq!(count(0) + count(1), 1000);
    assert!((600..800).contains(&count(1)), "{mixed}");
    assert_eq!(keys_on(&cluster).await, 500, "it stays within its keys");
}

#[tokio::test]
async fn watches_get_every_event_and_leases_are_kept() {
    let (cluster, _folder) = serving(1).await;
    let watch = bench(
        &cluster,
        "watch --watchers 30 --streams 6 --connections 3 --clients 4 --total 50",
    );
    assert_eq!(watch["errors"], 0, "{watch}");
    let count = |report: &Value, name: &str| {
        let series = report["series"].as_array().unwrap();
        let named = series.iter().find(|series| series["name"] == name);
        named.unwrap()["count"].as_u64().unwrap()
    };
    assert_eq!(count(&watch, "put"), 50, "{watch}");
    assert_eq!(count(&watch, "event"), 50 * 30, "{watch}");

    let line = "lease --leases 40 --streams 4 --interval 300ms --duration 1s --ttl 5";
    let lease = bench(&cluster, line);
    assert_eq!(lease["errors"], 0, "{lease}");
    assert_eq!(count(&lease, "grant"), 40, "{lease}");
    assert!(count(&lease, "keep-alive") >= 40, "{lease}");
}

#[tokio::test]
async fn a_schedule_is_kept() {
    let (cluster, _folder) = serving(1).await;
    let report = bench(&cluster, "put --rate 50 --total 101 --clients 50");
    assert_eq!(report["errors"], 0, "{report}");
    assert_eq!(report["series"][0]["count"], 101);
    // The last of 101 is due 100 intervals after the first, however fast the node answers.
    let seconds = report["series"][0]["seconds"].as_f64().unwrap();
    assert!(seconds >= 100.0 / 50.0, "{report}");
}

#[tokio::test]
async fn keys_that_are_not_there_are_counted() {
    let (cluster, _folder) = serving(1).await;
    let report = bench(&cluster, "get --total 50 --clients 5");
    assert_eq!(report["counts"]["reads that found no key"], 50, "{report}");
}

/// A node dies under the load and comes back: the run goes on to its end and says what happened.
#[tokio::test]
async fn a_node_that_dies_is_reported_and_the_run_goes_on() {
    let (mut cluster, _folder) = serving(3).await;
    let endpoints = cluster.endpoints().join(",");
    let mut load = Command::new(QUORATE)
        .args([
            "bench",
            "put",
            "--clients",
            "30",
            "--json",
            "--duration",
            "3s",
        ])
        .args(["--endpoints", &endpoints])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    while keys_on(&cluster).await < 100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.kill(2);
    let before = cluster.endpoints()[2].clone();
    cluster.start(2).unwrap();
    let mut said = String::new();
    load.stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(load.wait().unwrap().success(), "{said}");
    let report: Value = serde_json::from_str(&said).unwrap();
    assert!(report["errors"].as_u64().unwrap() > 0, "{report}");
    assert!(
        report["lost_connections"][&before]["count"]
            .as_u64()
            .unwrap()
            >= 10,
        "{report}"
    );
    assert!(
        report["series"][0]["count"].as_u64().unwrap() > 100,
        "{report}"
    );
}

#[test]
fn what_it_cannot_do_it_says() {
    quorate(["bench"]).refused(&["WORKLOAD"]);
    quorate(["bench", "putt"]).refused(&["putt", "put"]);
    quorate(["bench", "put", "--clients", "0"]).refused(&["--clients", "at least 1"]);
    quorate(["bench", "put", "--endpoints", "here"]).refused(&["here", "HOST:PORT"]);
    quorate(["bench", "put", "--endpoints", "https://a:1"]).refused(&["https://a:1"]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    // It listens and says nothing.
    quorate(["bench", "put", "--endpoints", &address]).refused(&[&address, "says nothing"]);
    drop(free);
    quorate(["bench", "put", "--endpoints", &address]).refused(&[&address, "cannot connect"]);
}

/// A server of HTTP/1 is told apart from one of gRPC.
#[test]
fn a_server_of_something_else_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        use std::io::Write;
        for mut socket in listener.incoming().flatten() {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    quorate(["bench", "get", "--endpoints", &address]).refused(&[&address]);
}
