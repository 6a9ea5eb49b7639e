//! `quorate doctor` and gossip, from outside: clusters that are healthy, half dead, damaged,
//! expired, and members that cannot be trusted. Each is named, and the cluster stays up.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::fs;
use std::path::Path;
use std::time::Instant;

use quorate::local::{HANG, LocalCluster};
use serde_json::Value;
use support::{QUORATE, laid_out, more_writes, quorate, serving, writers};

/// What the doctor finds when it asks one node: its exit status, and its findings as JSON.
fn examined(admin: &str) -> (i32, Value) {
    let ended = quorate(["doctor", "--json", "--window", "300", "--admin", admin]);
    let printed = String::from_utf8(ended.0.stdout.clone()).unwrap();
    let status = ended.0.status.code().unwrap();
    let found = serde_json::from_str(&printed);
    (status, found.unwrap_or_else(|_| panic!("{ended:?}")))
}

/// The findings of one kind about one member.
fn about<'a>(found: &'a Value, kind: &str, subject: &str) -> Vec<&'a Value> {
    let all = found["findings"].as_array().unwrap().iter();
    all.filter(|finding| finding["kind"] == kind && finding["subject"] == subject)
        .collect()
}

/// Asks until something is so; only a hang reaches the limit.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < HANG, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn status(cluster: &LocalCluster, index: usize) -> Value {
    let admin = &cluster.nodes()[index].admin;
    let printed = quorate(["status", "--json", "--admin", admin]).succeeded();
    serde_json::from_str(&printed).unwrap()
}

/// How gossip at a node sees a member.
fn seen(cluster: &LocalCluster, by: usize, name: &str) -> Option<String> {
    let status = status(cluster, by);
    let members = status["gossip"]["members"].as_array()?.iter();
    let mut named = members.filter(|member| member["name"] == name);
    Some(named.next()?["state"].as_str()?.to_owned())
}

async fn all_gossip(cluster: &LocalCluster) {
    let size = cluster.nodes().len();
    until("everybody is heard of", || {
        (0..size).all(|by| {
            (1..=size)
                .all(|name| seen(cluster, by, &format!("n{name}")).as_deref() == Some("alive"))
        })
    })
    .await;
}

#[tokio::test]
async fn a_healthy_cluster_gets_no_warning_and_a_dead_member_is_seen_through_the_others() {
    let (mut cluster, _folder) = serving(3).await;
    all_gossip(&cluster).await;
    let admin = cluster.nodes()[0].admin.clone();
    let (_, found) = examined(&admin);
    assert_eq!(found["voters_that_answer"], 3, "{found}");
    for kind in [
        "quorum", "member", "clock", "version", "gossip", "replicas", "lag",
    ] {
        let all = found["findings"].as_array().unwrap().iter();
        assert_eq!(
            all.filter(|finding| finding["kind"] == kind).count(),
            0,
            "{found}"
        );
    }
    cluster.kill(2);
    let (status, found) = examined(&admin);
    assert_eq!(status, 4, "{found}");
    assert_eq!(about(&found, "member", "n3").len(), 1, "{found}");
    let quorum = about(&found, "quorum", "cluster");
    assert!(
        quorum[0]["remedy"].as_str().unwrap().contains("n3"),
        "{found}"
    );
    until("gossip finds it dead", || {
        seen(&cluster, 0, "n3").as_deref() == Some("dead")
    })
    .await;
    let shown = quorate(["status", "--admin", &admin]).succeeded();
    assert!(
        shown.contains("GOSSIP") && shown.contains("dead"),
        "{shown}"
    );
    // It comes back, and is welcome; whoever goes in order has left, and is not dead.
    cluster.start(2).unwrap();
    cluster.ready(2).await.unwrap();
    until("it is back", || {
        seen(&cluster, 0, "n3").as_deref() == Some("alive")
    })
    .await;
    cluster.terminate(2).unwrap();
    until("it has left", || {
        seen(&cluster, 0, "n3").as_deref() == Some("left")
    })
    .await;
}

#[tokio::test]
async fn a_paused_member_is_named_and_the_doctor_does_not_hang() {
    let (cluster, _folder) = serving(3).await;
    cluster.pause(1);
    let (status, found) = examined(&cluster.nodes()[0].admin);
    assert_eq!(status, 4, "{found}");
    assert_eq!(about(&found, "member", "n2").len(), 1, "{found}");
    cluster.resume(1);
}

#[tokio::test]
async fn orphaned_files_are_named() {
    let (cluster, _folder) = serving(1).await;
    let data = cluster.nodes()[0].data();
    fs::write(data.join("journal/old.copy"), b"left here").unwrap();
    let (_, found) = examined(&cluster.nodes()[0].admin);
    let orphans = about(&found, "orphans", "n1");
    let evidence = orphans[0]["evidence"].as_str().unwrap();
    assert!(evidence.contains("journal/old.copy"), "{found}");
    assert_eq!(
        about(&found, "quorum", "cluster").len(),
        1,
        "one vote alone: {found}"
    );
}

#[tokio::test]
async fn a_certificate_near_its_end_is_named() {
    let (cluster, folder) = laid_out(1);
    let certificates = folder.path().join("certificates");
    let directory = certificates.to_str().unwrap();
    quorate(["cert", "authority", "--dir", directory]).succeeded();
    let host = "localhost,127.0.0.1";
    let days = ["--days", "2", "--dir", directory];
    quorate([&["cert", "node", "n1", "--host", host][..], &days].concat()).succeeded();
    let file = |name: &str| certificates.join(name).to_str().unwrap().to_owned();
    let (cert, key) = (file("n1.pem"), file("n1-key.pem"));
    let flags = ["--cert-file", &cert, "--key-file", &key];
    let mut cluster = cluster.with_flags(&flags);
    cluster.start_all().await.unwrap();
    let (status, found) = examined(&cluster.nodes()[0].admin);
    assert_eq!(status, 4, "{found}");
    let named = about(&found, "certificate", "n1");
    assert!(
        named[0]["evidence"].as_str().unwrap().contains("n1.pem"),
        "{found}"
    );
}

#[test]
fn nobody_to_ask_is_said() {
    quorate(["doctor", "--admin", "127.0.0.1:1"]).refused(&["127.0.0.1:1"]);
}

fn key_file(folder: &Path, name: &str, keys: &[&str]) -> String {
    let path = folder.join(name);
    let keys: Vec<String> = keys.iter().map(|pair| pair.repeat(32)).collect();
    fs::write(&path, keys.join("\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// One node has another key than the others: gossip does not find it, its group does not care, and
/// everybody says whose key is wrong. With the right key it is back without a restart.
#[tokio::test]
async fn a_wrong_gossip_key_is_named_and_harms_nobody() {
    let (cluster, folder) = laid_out(3);
    let file = key_file(folder.path(), "gossip.keys", &["ab"]);
    let mut cluster = cluster.with_flags(&["--gossip-key-file", &file]);
    cluster.start_all().await.unwrap();
    all_gossip(&cluster).await;
    cluster.terminate(2).unwrap();
    let other = key_file(folder.path(), "other.keys", &["cd"]);
    let mut cluster = cluster.with_flags(&["--gossip-key-file", &other]);
    cluster.start(2).unwrap();
    cluster.ready(2).await.unwrap();
    let load = writers(&cluster);
    more_writes(&load, 50).await;
    load.finish().await;
    until("the wrong key is named by address", || {
        let said = cluster.nodes()[0].said();
        let refused = said
            .lines()
            .find(|line| line.contains("a key that this node does not have"));
        refused.is_some_and(|line| line.contains("127.0.0.1:"))
    })
    .await;
    assert_eq!(seen(&cluster, 0, "n3").as_deref(), Some("left"));
    // The other one as well: keys are exchanged while nodes run.
    key_file(folder.path(), "other.keys", &["ab", "cd"]);
    until("it is back", || {
        seen(&cluster, 0, "n3").as_deref() == Some("alive")
    })
    .await;
}

/// Two clusters on one machine, one of which has addresses of the other among its members: neither
/// takes the other's nodes for its own.
#[tokio::test]
async fn a_node_of_another_cluster_is_named() {
    let (mut cluster, folder) = serving(3).await;
    let stranger = folder.path().join("stranger");
    // Its own cluster first, then it is told to look for the others.
    let peer = format!("127.0.0.1:{}", quorate::local::free_ports(1)[0]);
    let listen = [
        "--listen-etcd",
        "none",
        "--listen-admin",
        "none",
        "--listen-peer",
        &peer,
    ];
    let data = stranger.to_str().unwrap().to_owned();
    let own = std::process::id().to_string();
    let log = fs::File::create(folder.path().join("stranger.log")).unwrap();
    let mut process = std::process::Command::new(QUORATE)
        .args([
            "serve",
            "--name",
            "n9",
            "--data-dir",
            &data,
            "--end-with",
            &own,
        ])
        .args(listen)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    until("it has formed", || stranger.join("identity.toml").exists()).await;
    process.kill().unwrap();
    process.wait().unwrap();
    let log = fs::File::create(folder.path().join("stranger.log")).unwrap();
    let join = cluster.nodes()[0].peer.clone();
    let mut process = std::process::Command::new(QUORATE)
        .args([
            "serve",
            "--name",
            "n9",
            "--data-dir",
            &data,
            "--join",
            &join,
        ])
        .args(listen)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    until("it is named", || {
        let said = cluster.nodes()[0].said();
        said.lines()
            .any(|line| line.contains("gossip") && line.contains("cluster"))
    })
    .await;
    assert_eq!(seen(&cluster, 0, "n9"), None);
    let load = writers(&cluster);
    more_writes(&load, 50).await;
    load.finish().await;
    process.kill().unwrap();
    process.wait().unwrap();
    cluster.kill(0);
}
