//! The commands as a user types them.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quorate::admin;
use quorate::load::Load;
use quorate::local::HANG;
use support::{QUORATE, more_writes, nothing_is_lost, quorate, serving, writers};

#[test]
fn help_teaches_by_examples() {
    for command in [
        &["--help"][..],
        &["serve", "--help"],
        &["member", "--help"],
        &["demo", "--help"],
    ] {
        let help = quorate(command).succeeded();
        assert!(help.contains("Examples:"), "{command:?}:\n{help}");
    }
    assert!(quorate(["--version"]).succeeded().starts_with("quorate 0."));
}

/// `quorate … | head` ends as any program does there: quietly.
#[test]
fn a_reader_who_has_gone_ends_the_program_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let certificates = ["cert", "authority", "--dir", folder];
    for command in [&["etcd", "--version"][..], &certificates[..]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut program = Command::new(QUORATE);
        let ended = program.args(command).stdout(writer).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{command:?}");
        assert_eq!(ended.status.code(), Some(141), "{command:?}");
    }
}

/// The first thing a newcomer runs.
#[test]
fn the_demonstration_passes() {
    let said = quorate(["demo", "--once"]).succeeded();
    for part in [
        "kill -9",
        "writes paused for",
        "n1: ",
        "n2: ",
        "n3: ",
        "Nothing was lost.",
    ] {
        assert!(said.contains(part), "expected {part:?} in:\n{said}");
    }
}

#[tokio::test]
async fn status_and_member_list_show_the_cluster() {
    let (cluster, _folder) = serving(3).await;
    let leader = cluster.leader().await.unwrap();
    let names: Vec<&str> = cluster
        .nodes()
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    for node in cluster.nodes() {
        let text = quorate(["status", "--admin", &node.admin]).succeeded();
        assert!(
            text.contains(&format!("leader    {}", names[leader])),
            "{text}"
        );
        let json = quorate(["status", "--json", "--admin", &node.admin]).succeeded();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["name"], node.name);
        assert_eq!(json["leader"], names[leader]);
        for number in ["term", "chosen", "applied", "revision"] {
            assert!(json[number].is_number(), "{number} of {json}");
        }
        assert_eq!(json["members"].as_array().unwrap().len(), 3);
    }
    let list = quorate(["member", "list", "--admin", &cluster.nodes()[leader].admin]).succeeded();
    for name in names {
        assert!(list.contains(name), "{list}");
    }
}

/// A child that is killed when the test ends, however it ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A lost node is replaced: removed, added anew under its name, promoted; and everything that was
/// written before and meanwhile is on it.
#[tokio::test]
async fn a_member_is_removed_added_and_promoted() {
    let (mut cluster, folder) = serving(3).await;
    let load = writers(&cluster);
    more_writes(&load, 200).await;
    let leader = cluster.leader().await.unwrap();
    let lost = (leader + 1) % 3;
    cluster.kill(lost);
    let admin = cluster.nodes()[leader].admin.clone();
    let name = cluster.nodes()[lost].name.clone();
    let peer = cluster.nodes()[lost].peer.clone();
    quorate(["member", "remove", &name, "--admin", &admin]).succeeded();
    quorate(["member", "add", &name, &peer, "--admin", &admin]).succeeded();

    let etcd = cluster.nodes()[lost].etcd.clone();
    let join = cluster.nodes()[leader].peer.clone();
    let log = std::fs::File::create(folder.path().join("joined.log")).unwrap();
    let joined = Command::new(QUORATE)
        .args([
            "serve",
            "--name",
            &name,
            "--listen-peer",
            &peer,
            "--listen-etcd",
            &etcd,
        ])
        .args([
            "--listen-admin",
            &cluster.nodes()[lost].admin,
            "--join",
            &join,
        ])
        .arg("--data-dir")
        .arg(folder.path().join("joined"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let _joined = Killed(joined);

    // It gets its vote by itself once it has caught up.
    let waiting = Instant::now();
    let status = loop {
        let status = admin::status(&admin).await.unwrap();
        if status.members.iter().all(|member| member.voter) {
            break status;
        }
        assert!(waiting.elapsed() < HANG, "the learner is never promoted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // Saying it again does no harm.
    quorate(["member", "promote", &name, "--admin", &admin]).succeeded();
    assert_eq!(status.members.len(), 3);
    assert!(
        status.members.iter().all(|member| member.voter),
        "{status:?}"
    );
    more_writes(&load, 200).await;
    nothing_is_lost(&cluster, load).await;
}

/// One node as a newcomer starts it: no flag at all. The variables only move its ports and its
/// folder away from those of others.
#[tokio::test]
async fn one_node_without_flags_survives_kill_9() {
    let (cluster, folder) = support::laid_out(1);
    let node = &cluster.nodes()[0];
    let start = || {
        Killed(
            Command::new(QUORATE)
                .arg("serve")
                .current_dir(folder.path())
                .env("QUORATE_LISTEN_ETCD", &node.etcd)
                .env("QUORATE_LISTEN_ADMIN", &node.admin)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    };
    let ready = async || {
        let waiting = Instant::now();
        while !admin::succeeds(&node.admin, "/readyz").await {
            assert!(waiting.elapsed() < HANG, "the node does not serve");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let first = start();
    ready().await;
    let load = Load::start(&cluster.endpoints(), 4, "writer").unwrap();
    more_writes(&load, 300).await;
    drop(first);
    let _second = start();
    ready().await;
    more_writes(&load, 300).await;
    nothing_is_lost(&cluster, load).await;
    assert!(folder.path().join("quorate-data").is_dir());
}
