//! Two nodes that hold data and a witness, as real processes: whichever is killed while clients
//! write, the others go on, and nothing that was acknowledged is lost.
//!
//! No test here measures time. What must happen is waited for, with a limit far beyond anything
//! that a slow machine needs; what must not be lost is looked for on every node that holds data.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use quorate::load::Load;
use quorate::local::LocalCluster;
use support::{WRITERS, laid_out, more_writes, nothing_is_lost, quorate};
use tempfile::TempDir;

/// Writes that show that a cluster works.
const SOME: u64 = 200;

/// The last of three nodes.
const WITNESS: usize = 2;

async fn two_and_a_witness(flags: &[&str]) -> (LocalCluster, TempDir) {
    let (cluster, folder) = laid_out(3);
    let mut cluster = cluster.with_witness(WITNESS).with_flags(flags);
    cluster.start_all().await.unwrap();
    (cluster, folder)
}

/// Clients that write to those who hold data.
fn writers(cluster: &LocalCluster) -> Load {
    let endpoints = &cluster.endpoints()[..WITNESS];
    Load::start(endpoints, WRITERS, "writer").unwrap()
}

fn status(cluster: &LocalCluster, node: usize) -> String {
    quorate(["status", "--admin", &cluster.nodes()[node].admin]).succeeded()
}

/// Each dies in turn; then all of them at once.
async fn any_of_them_may_be_killed(engine: &str) {
    let flags = ["--copies", "1", "--engine", engine];
    let (mut cluster, _folder) = two_and_a_witness(&flags).await;
    let load = writers(&cluster);
    more_writes(&load, SOME).await;
    for _ in 0..3 {
        let leader = cluster.leader().await.unwrap();
        assert_ne!(leader, WITNESS);
        // The leader first, then the other one, then the witness.
        for node in [leader, 1 - leader, WITNESS] {
            cluster.kill(node);
            more_writes(&load, SOME).await;
            cluster.start(node).unwrap();
            cluster.ready(node).await.unwrap();
            more_writes(&load, SOME).await;
            // What it missed it has before the next one goes: with one copy, what only one has
            // waits for that one.
            cluster.caught_up().await.unwrap();
        }
    }
    for node in 0..3 {
        cluster.kill(node);
    }
    cluster.start_all().await.unwrap();
    more_writes(&load, SOME).await;
    nothing_is_lost(&cluster, load).await;
}

#[tokio::test]
async fn any_of_them_may_be_killed_with_raft() {
    any_of_them_may_be_killed("raft").await;
}

#[tokio::test]
async fn any_of_them_may_be_killed_with_paxos() {
    any_of_them_may_be_killed("paxos").await;
}

/// Without being told otherwise, nothing is acknowledged that has one copy.
#[tokio::test]
async fn without_a_second_copy_writes_wait() {
    let (mut cluster, _folder) = two_and_a_witness(&[]).await;
    let load = writers(&cluster);
    more_writes(&load, SOME).await;
    let dead = 1 - cluster.leader().await.unwrap();
    cluster.kill(dead);
    // What was on its way when it died may still have had its copy.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let before = load.counts().acknowledged;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(load.counts().acknowledged, before, "there is one copy");
    cluster.start(dead).unwrap();
    cluster.ready(dead).await.unwrap();
    more_writes(&load, SOME).await;
    nothing_is_lost(&cluster, load).await;
}

/// What operators and clients see of it.
#[tokio::test]
async fn a_witness_says_that_it_is_one() {
    let (mut cluster, _folder) = two_and_a_witness(&["--copies", "1"]).await;
    let load = writers(&cluster);
    more_writes(&load, SOME).await;
    let members = status(&cluster, 0);
    assert!(members.contains("witness"), "{members}");
    let own = status(&cluster, WITNESS);
    assert!(own.contains("it votes and holds no data"), "{own}");
    let admin = cluster.nodes()[WITNESS].admin.clone();
    quorate(["keyspace", "list", "--admin", &admin]).refused(&["a witness"]);
    // A client is told who can answer it.
    let endpoint = &cluster.nodes()[WITNESS].etcd;
    let client =
        client::Client::new(std::slice::from_ref(endpoint), client::Options::default()).unwrap();
    let request = client::etcd::proto::etcdserverpb::RangeRequest {
        key: b"a".to_vec().into(),
        ..Default::default()
    };
    let error = client.range(request).await.unwrap_err().to_string();
    assert!(error.contains("is a witness and holds no data"), "{error}");
    // Doctor counts copies, not only votes.
    let dead = 1 - cluster.leader().await.unwrap();
    cluster.kill(dead);
    let alive = cluster.nodes()[1 - dead].admin.clone();
    let found = quorate(["doctor", "--admin", &alive]);
    let said = String::from_utf8_lossy(&found.0.stdout).into_owned();
    assert!(said.contains("without redundancy"), "{said}");
    cluster.start(dead).unwrap();
    cluster.ready(dead).await.unwrap();
    // Who holds data never becomes a witness.
    let status = cluster.terminate(0).unwrap();
    assert!(status.success(), "{status}");
    let members = cluster.members();
    let data = cluster.nodes()[0].data();
    let changed = [
        "serve",
        "--name",
        "n1",
        "--cluster",
        &members,
        "--witness",
        "--data-dir",
    ];
    let changed = changed.map(std::ffi::OsString::from);
    quorate(changed.into_iter().chain([data.into_os_string()]))
        .refused(&["never becomes a witness"]);
    cluster.start(0).unwrap();
    cluster.ready(0).await.unwrap();
    nothing_is_lost(&cluster, load).await;
}
