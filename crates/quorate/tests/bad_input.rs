//! What a node says when it is called in a wrong way or finds something wrong: a message that
//! names what is wrong and what to do, an exit status that is not 0, and data left as it is.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use client::etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use client::{Client, Options};
use quorate::load::Books;
use quorate::local::{HANG, LocalCluster};
use support::{QUORATE, ended, more_writes, quorate, serving, writers};

/// `quorate serve` in a folder, with listeners that disturb nobody, and further flags.
fn serve(folder: &Path, flags: &[&str]) -> support::Ended {
    let mut command = Command::new(QUORATE);
    command
        .current_dir(folder)
        .args(["serve", "--listen-etcd", "none", "--listen-admin", "none"]);
    ended(command.args(flags))
}

/// The files below a folder. A node may be at work in it: what vanishes meanwhile is left out.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The files below a folder whose name ends so.
fn files_named(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = files(folder);
    found.retain(|path| name_of(path).ends_with(end));
    found
}

/// What the files below a folder hold; the lock aside, which names its last holder.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = files(folder);
    found.retain(|path| name_of(path) != "lock");
    found
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn name_of(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

#[test]
fn an_unknown_command_or_flag_is_named() {
    quorate(["serv"]).refused(&["serv", "serve"]);
    quorate(["serve", "--nmae", "n1"]).refused(&["--nmae", "--name"]);
    quorate(["serve", "--name"]).refused(&["--name"]);
    quorate(["demo", "--nodes", "2"]).refused(&["--nodes", "3..=7"]);
}

#[test]
fn a_bad_value_names_its_flag_and_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    serve(folder.path(), &["--listen-peer", "nonsense"]).refused(&["listen-peer", "nonsense"]);
    serve(folder.path(), &["--name", "n 1"]).refused(&["name", "n 1"]);
    serve(folder.path(), &["--election-timeout", "soon"]).refused(&["election-timeout", "soon"]);
    serve(folder.path(), &["--cluster", "n1"]).refused(&["cluster", "NAME=HOST:PORT"]);
    serve(folder.path(), &["--log-level", "loud"]).refused(&["log-level", "loud"]);
    assert!(contents(folder.path()).is_empty(), "nothing was written");
}

#[test]
fn a_bad_file_names_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quorate.toml");
    fs::write(&file, "name = \"n1\"\nlisten-ectd = \"127.0.0.1:0\"\n").unwrap();
    let config = ["--config", file.to_str().unwrap()];
    serve(folder.path(), &config).refused(&["quorate.toml", "line 2", "listen-etcd"]);
    fs::write(&file, "name = ").unwrap();
    serve(folder.path(), &config).refused(&["quorate.toml", "line 1"]);
    serve(folder.path(), &["--config", "missing.toml"]).refused(&["missing.toml"]);
}

#[test]
fn an_unknown_variable_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(QUORATE);
    command
        .current_dir(folder.path())
        .arg("serve")
        .env("QUORATE_DATADIR", "d");
    ended(&mut command).refused(&["QUORATE_DATADIR", "data-dir"]);
}

#[test]
fn a_port_in_use_names_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(QUORATE);
    command
        .current_dir(folder.path())
        .args(["serve", "--listen-admin", "none"]);
    ended(command.args(["--listen-etcd", &address])).refused(&[&address, "listen-etcd"]);
}

#[test]
fn an_operator_is_told_that_nobody_is_there() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    quorate(["status", "--admin", &free]).refused(&[&free, "--listen-admin"]);
    quorate(["status", "--admin", "unix:/no/such/socket"]).refused(&["unix:/no/such/socket"]);
}

#[tokio::test]
async fn a_second_process_on_a_folder_is_refused() {
    let (cluster, folder) = serving(1).await;
    let data = cluster.nodes()[0].data();
    let flags = ["--data-dir", data.to_str().unwrap(), "--name", "n1"];
    serve(folder.path(), &flags).refused(&[data.to_str().unwrap()]);
}

/// Starts node 0 alone and returns what it says when it refuses.
fn refusal(cluster: &mut LocalCluster) -> String {
    cluster.start(0).unwrap();
    let status = cluster.ended(0).unwrap();
    assert!(matches!(status.code(), Some(1 | 2)), "{status}");
    let said = cluster.nodes()[0].said();
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[tokio::test]
async fn the_folder_of_another_node_is_refused() {
    let (mut cluster, folder) = serving(3).await;
    for node in 0..3 {
        cluster.terminate(node).unwrap();
    }
    let own = cluster.nodes()[0].data();
    fs::rename(&own, folder.path().join("elsewhere")).unwrap();
    fs::rename(cluster.nodes()[1].data(), &own).unwrap();
    let before = contents(&own);
    let said = refusal(&mut cluster);
    assert!(
        said.contains(own.to_str().unwrap()) && said.contains("n2"),
        "{said}"
    );
    assert!(contents(&own) == before, "the data is untouched");
}

/// A node that was written to and killed, what was acknowledged, and where its log is.
async fn written_to() -> (LocalCluster, tempfile::TempDir, Books, PathBuf) {
    let (mut cluster, folder) = serving(1).await;
    let load = writers(&cluster);
    more_writes(&load, 500).await;
    cluster.kill(0);
    let books = load.finish().await;
    let segments = files_named(&cluster.nodes()[0].data(), "0001.segment");
    let segment = segments
        .into_iter()
        .next()
        .expect("there is a first segment");
    (cluster, folder, books, segment)
}

/// What a power cut leaves of the last batch: some of its blocks. (Here the batch had been written
/// and its writes acknowledged, so these few are missed: no more than the writers had under way.)
#[tokio::test]
async fn a_torn_tail_is_cut_and_the_node_starts() {
    let (mut cluster, _folder, books, segment) = written_to().await;
    let mut bytes = fs::read(&segment).unwrap();
    let written = |block: &[u8]| block.iter().any(|byte| *byte != 0);
    let last = 512
        * bytes
            .chunks(512)
            .rposition(written)
            .expect("something was written");
    bytes[last..last + 512].fill(0);
    fs::write(&segment, bytes).unwrap();
    cluster.start(0).unwrap();
    cluster.ready(0).await.unwrap();
    let missing = books.missing_on(&cluster.endpoints()[0]).await.unwrap();
    assert!(
        missing <= support::WRITERS as u64,
        "{missing} writes are missing"
    );
}

#[tokio::test]
async fn damage_in_the_journal_is_reported_and_left_alone() {
    let (mut cluster, _folder, _, segment) = written_to().await;
    let mut bytes = fs::read(&segment).unwrap();
    // In the third block: past the head, and far before the end of 500 writes.
    for byte in &mut bytes[1100..1200] {
        *byte ^= 0xff;
    }
    fs::write(&segment, &bytes).unwrap();
    let said = refusal(&mut cluster);
    assert!(said.contains(name_of(&segment)), "{said}");
    assert!(
        fs::read(&segment).unwrap() == bytes,
        "the data is untouched"
    );
}

#[tokio::test]
async fn a_segment_shorter_than_its_size_is_reported() {
    let (mut cluster, _folder, _, segment) = written_to().await;
    let length = fs::metadata(&segment).unwrap().len();
    fs::File::options()
        .write(true)
        .open(&segment)
        .unwrap()
        .set_len(length / 2)
        .unwrap();
    let said = refusal(&mut cluster);
    assert!(said.contains(name_of(&segment)), "{said}");
}

/// A checkpoint is due after 64 MiB of log.
/// The log reaches back to the beginning as long as there is but one checkpoint.
#[tokio::test]
async fn a_damaged_checkpoint_is_reported_and_the_log_stands_in_for_it() {
    let (mut cluster, _folder) = serving(1).await;
    let client = Client::new(cluster.endpoints(), Options::default()).unwrap();
    let data = cluster.nodes()[0].data();
    let began = Instant::now();
    let value = vec![7; 1 << 20];
    while files_named(&data, ".checkpoint").is_empty() {
        assert!(began.elapsed() < HANG, "no checkpoint is written");
        let put = PutRequest {
            key: "large".into(),
            value: value.clone().into(),
            ..Default::default()
        };
        client.put(put).await.unwrap();
    }
    cluster.kill(0);
    let checkpoint = files_named(&data, ".checkpoint").remove(0);
    let mut bytes = fs::read(&checkpoint).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&checkpoint, &bytes).unwrap();
    cluster.start(0).unwrap();
    cluster.ready(0).await.unwrap();
    let said = cluster.nodes()[0].said();
    assert!(said.contains("is damaged"), "{said}");
    let range = RangeRequest {
        key: "large".into(),
        ..Default::default()
    };
    let found = client.range(range).await.unwrap();
    assert!(found.kvs[0].value == value, "nothing is lost");
}

/// A node that lost its disk would vote a second time in a term it has voted in.
#[tokio::test]
async fn a_wiped_node_is_refused_its_old_vote() {
    let (mut cluster, _folder) = serving(3).await;
    let load = writers(&cluster);
    more_writes(&load, 100).await;
    cluster.kill(0);
    fs::remove_dir_all(cluster.nodes()[0].data()).unwrap();
    let said = refusal(&mut cluster);
    assert!(
        said.contains("member remove") && said.contains("member add"),
        "{said}"
    );
    more_writes(&load, 100).await;
    load.finish().await;
}

/// Bytes that mean nothing, on every port: the connection is closed and the node is unharmed.
#[tokio::test]
async fn nonsense_on_a_port_harms_nobody() {
    use std::io::{Read, Write};
    let (cluster, _folder) = serving(3).await;
    let load = writers(&cluster);
    for node in cluster.nodes() {
        for address in [&node.peer, &node.etcd, &node.admin] {
            for nonsense in [&[0xff_u8; 4096][..], b"GET / HTTP/9.9\r\n\r\n", &[0; 64]] {
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                stream
                    .set_read_timeout(Some(std::time::Duration::from_millis(200)))
                    .unwrap();
                let _ = stream.write_all(nonsense);
                let _ = stream.read(&mut [0; 1024]);
            }
        }
    }
    more_writes(&load, 200).await;
    support::nothing_is_lost(&cluster, load).await;
}
