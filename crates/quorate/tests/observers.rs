//! A node without a vote that stays so: it serves reads, watches and everything else, weakens
//! nothing by dying, and holds no keyspace but the default one.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::etcd::proto::etcdserverpb::{
    LeaseGrantRequest, PutRequest, RangeRequest, WatchCreateRequest,
};
use client::{Client, Options};
use quorate::local::{HANG, LocalCluster, free_ports};
use support::{QUORATE, quorate, serving};

/// A node beside those of a cluster; ends with this.
struct Observer {
    process: Child,
    etcd: String,
}

impl Drop for Observer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Observer {
    /// Adds a member to the cluster, and starts it.
    fn start(cluster: &LocalCluster, folder: &std::path::Path) -> Observer {
        let ports = free_ports(3);
        let [peer, etcd, admin] = [0, 1, 2].map(|index| format!("127.0.0.1:{}", ports[index]));
        let first = &cluster.nodes()[0];
        let add = ["member", "add", "n9", &peer, "--observer", "--admin"];
        quorate(add.into_iter().chain([&first.admin[..]])).succeeded();
        let process = Command::new(QUORATE)
            .args(["serve", "--name", "n9", "--data-dir"])
            .arg(folder.join("n9"))
            .args(["--listen-peer", &peer, "--listen-etcd", &etcd])
            .args(["--listen-admin", &admin, "--join", &first.peer])
            .args(["--end-with", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Observer { process, etcd }
    }

    fn client(&self) -> Client {
        Client::new([&self.etcd], Options::default()).unwrap()
    }
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    }
}

async fn value(client: &Client, key: &str, serializable: bool) -> Option<String> {
    let request = RangeRequest {
        key: key.to_owned().into(),
        serializable,
        ..RangeRequest::default()
    };
    let found = client.range(request).await.unwrap();
    let pair = found.kvs.into_iter().next()?;
    Some(String::from_utf8(pair.value.to_vec()).unwrap())
}

/// Waits until the observer serves.
async fn served(observer: &Client) {
    let waiting = Instant::now();
    loop {
        let status = tokio::time::timeout(Duration::from_secs(2), observer.status()).await;
        if let Ok(Ok(status)) = status
            && status.leader != 0
        {
            assert!(status.is_learner);
            return;
        }
        assert!(waiting.elapsed() < HANG, "the observer does not serve");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_member_without_a_vote_serves_everything_and_is_never_needed() {
    let (mut cluster, folder) = serving(3).await;
    let observer = Observer::start(&cluster, folder.path());
    let there = observer.client();
    served(&there).await;
    let here = Client::new(cluster.endpoints(), Options::default()).unwrap();

    let watch = WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        ..WatchCreateRequest::default()
    };
    let mut watch = there.watch(watch).await.unwrap();
    assert!(watch.message().await.unwrap().unwrap().created);
    for number in 0..50 {
        let (key, text) = (format!("k{}", number % 5), number.to_string());
        // Written there or here in turn; a linearizable read there sees it at once.
        let writer = if number % 2 == 0 { &here } else { &there };
        writer.put(put(&key, &text)).await.unwrap();
        assert_eq!(value(&there, &key, false).await, Some(text.clone()));
        // What it has served it has executed.
        assert_eq!(value(&there, &key, true).await, Some(text.clone()));
        let told = tokio::time::timeout(HANG, watch.message()).await;
        let told = told.unwrap().unwrap().unwrap();
        assert_eq!(told.events[0].kv.as_ref().unwrap().value, text);
    }
    let lease = there.lease_grant(LeaseGrantRequest {
        ttl: 60,
        ..LeaseGrantRequest::default()
    });
    let lease = lease.await.unwrap().id;
    let renewed = there.keep_alive(vec![lease]).await.unwrap();
    assert_eq!(renewed[0].ttl, 60);

    // Keyspaces stay on those who vote, and are served through it all the same.
    let admin = cluster.nodes()[0].admin.clone();
    quorate(["keyspace", "create", "pods", "--admin", &admin]).succeeded();
    let listed = quorate(["keyspace", "describe", "pods", "--admin", &admin]).succeeded();
    assert!(!listed.contains("n9"), "{listed}");
    let pods = there.in_keyspace("pods").unwrap();
    let waiting = Instant::now();
    while pods.put(put("p", "1")).await.is_err() {
        assert!(waiting.elapsed() < HANG, "the keyspace is not served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(value(&pods, "p", false).await.as_deref(), Some("1"));
    assert_eq!(value(&there, "p", false).await, None);

    // One voter of three dies: two of three are enough, and the fourth does not count.
    let leader = cluster.leader().await.unwrap();
    cluster.kill(leader);
    let waiting = Instant::now();
    while there.put(put("after", "1")).await.is_err() {
        assert!(waiting.elapsed() < HANG, "nobody leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(value(&there, "after", false).await.as_deref(), Some("1"));
    assert!(there.status().await.unwrap().is_learner, "it stays one");
    cluster.start(leader).unwrap();
    cluster.ready(leader).await.unwrap();

    // It dies, and so does a voter: whoever has a vote goes on.
    drop(observer);
    let other = (cluster.leader().await.unwrap() + 1) % 3;
    cluster.kill(other);
    let others: Vec<String> = [0, 1, 2]
        .into_iter()
        .filter(|index| *index != other)
        .map(|index| cluster.nodes()[index].etcd.clone())
        .collect();
    let here = Client::new(others, Options::default()).unwrap();
    here.put(put("k", "end")).await.unwrap();
    assert_eq!(value(&here, "k", false).await.as_deref(), Some("end"));
}
