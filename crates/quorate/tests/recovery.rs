//! A cluster of real processes that loses two of three nodes for good, is told to go on with the
//! third, and sees the other two come back.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::time::{Duration, Instant};

use quorate::admin;
use quorate::load::Load;
use quorate::local::{HANG, LocalCluster};
use support::{Ended, laid_out, more_writes, quorate, writers};

const SOME: u64 = 100;

/// `quorate group recover` at the first node.
fn recover(cluster: &LocalCluster, keyspace: &str, more: &[&str]) -> Ended {
    let admin = cluster.nodes()[0].admin.clone();
    let words = ["group", "recover", keyspace, "--admin", &admin];
    quorate(words.iter().chain(more).copied())
}

fn said(ended: &Ended) -> String {
    let Ended(output) = ended;
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Waits until the first node has executed what the others have.
async fn all_have_the_same(cluster: &LocalCluster) {
    let waiting = Instant::now();
    loop {
        let mut applied = Vec::new();
        for node in cluster.nodes() {
            applied.push(admin::status(&node.admin).await.unwrap().applied);
        }
        if applied.iter().all(|each| *each == applied[0]) {
            return;
        }
        assert!(waiting.elapsed() < HANG, "{applied:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the report says that the quorum is lost.
async fn lost(cluster: &LocalCluster, keyspace: &str) -> String {
    let waiting = Instant::now();
    loop {
        let ended = recover(cluster, keyspace, &[]);
        if ended.0.status.code() == Some(4) {
            return said(&ended);
        }
        assert!(waiting.elapsed() < HANG, "{ended:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn goes_on_and_who_comes_back_is_refused(engine: &str) {
    let (cluster, _folder) = laid_out(3);
    let mut cluster = cluster.with_flags(&["--engine", engine]);
    cluster.start_all().await.unwrap();
    let admin = cluster.nodes()[0].admin.clone();
    let create = ["keyspace", "create", "pods", "--engine", engine, "--admin"];
    quorate(create.iter().copied().chain([admin.as_str()])).succeeded();
    let load = writers(&cluster);
    more_writes(&load, SOME).await;
    // Nothing is lost that could be: it would have to be a quorum's.
    let ended = recover(&cluster, "default", &["--force", "--accept-loss", "n2,n3"]);
    ended.refused(&["nothing is to be recovered"]);
    let books = load.finish().await;
    all_have_the_same(&cluster).await;
    cluster.kill(1);
    cluster.kill(2);

    let report = lost(&cluster, "default").await;
    for part in [
        "1 of 3 voters answer n1",
        "from none to any number",
        "--force --accept-loss n2,n3",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
    recover(&cluster, "default", &["--force"]).refused(&["agree to it"]);
    let ended = recover(&cluster, "default", &["--force", "--accept-loss", "n3"]);
    ended.refused(&["--accept-loss n2,n3"]);
    // A keyspace comes after those who are given up are no members of the cluster any more.
    lost(&cluster, "pods").await;
    let agreed = ["--force", "--accept-loss", "n2,n3"];
    recover(&cluster, "pods", &agreed).refused(&["still a member of the cluster"]);
    recover(&cluster, "default", &agreed).succeeded();
    recover(&cluster, "pods", &agreed).succeeded();

    let alone = [cluster.nodes()[0].etcd.clone()];
    let load = Load::start(&alone, 4, "survivor").unwrap();
    more_writes(&load, SOME).await;
    assert_eq!(books.missing_on(&alone[0]).await.unwrap(), 0);

    // Both together: they are a quorum of what they know.
    cluster.start(1).unwrap();
    cluster.start(2).unwrap();
    for node in [1, 2] {
        let status = cluster.ended(node).unwrap();
        let said = cluster.nodes()[node].said();
        assert!(
            !status.success() && said.contains("removed from the cluster"),
            "{said}"
        );
    }
    more_writes(&load, SOME).await;
    cluster.kill(0);
    cluster.start(0).unwrap();
    cluster.ready(0).await.unwrap();
    more_writes(&load, SOME).await;
    let after = load.finish().await;
    assert_eq!(after.missing_on(&alone[0]).await.unwrap(), 0);
    recover(&cluster, "default", &[]).succeeded();
    recover(&cluster, "pods", &[]).succeeded();
}

#[tokio::test]
async fn a_raft_group_goes_on_alone_and_who_comes_back_is_refused() {
    goes_on_and_who_comes_back_is_refused("raft").await;
}

#[tokio::test]
async fn a_paxos_group_goes_on_alone_and_who_comes_back_is_refused() {
    goes_on_and_who_comes_back_is_refused("paxos").await;
}
