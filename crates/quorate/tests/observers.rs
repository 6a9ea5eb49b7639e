//! A node without a vote that stays so: it serves reads, watches and everything else, and weakens
//! nothing by dying. Of keyspaces it holds the default one, and those that it is told to observe.

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
    admin: String,
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
        Observer {
            process,
            etcd,
            admin,
        }
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

/// Waits until the observer is listed for a keyspace, and serves it by itself: until it has all of
/// it, others answer through it, and the answer says who did.
async fn holds(observer: &Observer, there: &Client, key: &str, text: &str) {
    let status = observer.client().status().await.unwrap();
    let own = status.header.unwrap().member_id;
    let waiting = Instant::now();
    loop {
        let listed = quorate(["keyspace", "list", "--admin", &observer.admin]).succeeded();
        let is_listed = listed
            .lines()
            .any(|line| line.starts_with("pods") && line.contains("+n9"));
        let request = RangeRequest {
            key: key.to_owned().into(),
            serializable: true,
            ..RangeRequest::default()
        };
        let found = there.range(request).await.unwrap();
        let is_own = found.header.is_some_and(|header| header.member_id == own);
        let shown = found.kvs.first().is_some_and(|pair| pair.value == text);
        if is_listed && is_own && shown {
            return;
        }
        assert!(waiting.elapsed() < HANG, "it does not observe: {listed}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_keyspace_is_observed_and_its_reads_and_watches_need_no_voter_of_its() {
    let (mut cluster, folder) = serving(3).await;
    let observer = Observer::start(&cluster, folder.path());
    served(&observer.client()).await;
    let admin = cluster.nodes()[0].admin.clone();
    quorate(["keyspace", "create", "pods", "--admin", &admin]).succeeded();
    let options = || Options::default();
    let here = Client::new(cluster.endpoints(), options()).unwrap();
    let here = here.in_keyspace("pods").unwrap();
    let waiting = Instant::now();
    while here.put(put("k0", "first")).await.is_err() {
        assert!(waiting.elapsed() < HANG, "the keyspace is not served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let said = quorate(["keyspace", "observe", "pods", "n9", "--admin", &admin]).succeeded();
    assert!(said.contains("n9 observes pods"), "{said}");
    let there = observer.client().in_keyspace("pods").unwrap();
    holds(&observer, &there, "k0", "first").await;
    let described = quorate(["keyspace", "describe", "pods", "--admin", &admin]).succeeded();
    assert!(described.contains("observers n9"), "{described}");

    let watch = WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        ..WatchCreateRequest::default()
    };
    let mut watch = there.watch(watch).await.unwrap();
    assert!(watch.message().await.unwrap().unwrap().created);
    for number in 0..30 {
        let (key, text) = (format!("k{}", number % 5), number.to_string());
        let writer = if number % 2 == 0 { &here } else { &there };
        writer.put(put(&key, &text)).await.unwrap();
        assert_eq!(value(&there, &key, false).await, Some(text.clone()));
        assert_eq!(value(&there, &key, true).await, Some(text.clone()));
        let told = tokio::time::timeout(HANG, watch.message()).await;
        let told = told.unwrap().unwrap().unwrap();
        assert_eq!(told.events[0].kv.as_ref().unwrap().value, text);
    }

    // With every voter gone it still has what was written: nobody else answers this.
    for index in 0..3 {
        cluster.kill(index);
    }
    assert_eq!(value(&there, "k4", true).await.as_deref(), Some("29"));
    for index in 0..3 {
        cluster.start(index).unwrap();
    }
    for index in 0..3 {
        cluster.ready(index).await.unwrap();
    }

    // And with it gone nobody misses it, nor one voter with it.
    drop(observer);
    let waiting = Instant::now();
    while here.put(put("k", "end")).await.is_err() {
        assert!(waiting.elapsed() < HANG, "nobody leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.kill(2);
    let waiting = Instant::now();
    while here.put(put("k", "end")).await.is_err() {
        assert!(waiting.elapsed() < HANG, "nobody leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(value(&here, "k", false).await.as_deref(), Some("end"));
    quorate(["keyspace", "unobserve", "pods", "n9", "--admin", &admin]).succeeded();
    let listed = quorate(["keyspace", "list", "--admin", &admin]).succeeded();
    let pods = listed.lines().find(|line| line.starts_with("pods"));
    assert!(pods.is_some_and(|line| !line.contains("n9")), "{listed}");
}
