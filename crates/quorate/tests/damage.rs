//! Clusters of real processes, one of which finds its files changed: it comes back by itself, and
//! nothing that was acknowledged is lost.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes, and changes files behind their backs"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client::etcd::proto::etcdserverpb::PutRequest;
use client::{Client, Options};
use quorate::local::{HANG, LocalCluster};
use state::{CheckpointReader, CheckpointWriter, EntryStamp, Space};
use support::{more_writes, nothing_is_lost, serving, writers};

/// Writes that show that a cluster works.
const SOME: u64 = 200;

/// The files of a folder with this ending, in order.
fn files(folder: &Path, part: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join(part)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == ending));
    files.sort();
    files
}

/// Changes every byte at this offset of each block of 512 that holds anything, one in `every`.
fn damage(path: &Path, every: usize) -> usize {
    let bytes = fs::read(path).unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let used = bytes.chunks(512).enumerate();
    let used = used.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
    let mut changed = 0;
    for (block, bytes) in used.step_by(every) {
        let at = 100.min(bytes.len() - 1);
        let offset = (block * 512 + at) as u64;
        file.write_all_at(&[bytes[at] ^ 0x10], offset).unwrap();
        changed += 1;
    }
    file.sync_all().unwrap();
    changed
}

/// Waits until a node has said this, since it said something else so many bytes ago.
async fn says(cluster: &LocalCluster, node: usize, before: usize, words: &str) {
    let waiting = Instant::now();
    loop {
        let said = cluster.nodes()[node].said();
        if said[before.min(said.len())..].contains(words) {
            return;
        }
        assert!(
            waiting.elapsed() < HANG,
            "it does not say {words:?}:\n{said}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_damaged_journal_is_repaired_under_load() {
    let (mut cluster, _folder) = serving(3).await;
    let load = writers(&cluster);
    // The files are changed while the node is stopped, and while it runs: then it finds out when it
    // is started again.
    for is_stopped in [true, false] {
        more_writes(&load, SOME).await;
        let victim = (cluster.leader().await.unwrap() + 1) % 3;
        let data = cluster.nodes()[victim].data();
        if is_stopped {
            cluster.kill(victim);
        }
        let segments = files(&data, "journal", "segment");
        assert!(damage(&segments[0], 7) > 5, "there is something to damage");
        cluster.kill(victim);
        more_writes(&load, SOME).await;
        let before = cluster.nodes()[victim].said().len();
        cluster.start(victim).unwrap();
        says(&cluster, victim, before, "It begins anew").await;
        says(&cluster, victim, before, "it counts again").await;
        cluster.ready(victim).await.unwrap();
        // It counts: with it alone the others make a majority.
        let other = (0..3).find(|other| *other != victim).unwrap();
        cluster.kill(other);
        more_writes(&load, SOME).await;
        cluster.start(other).unwrap();
        cluster.ready(other).await.unwrap();
    }
    nothing_is_lost(&cluster, load).await;
}

#[tokio::test]
async fn every_file_of_a_node_may_be_damaged_or_gone() {
    let (mut cluster, _folder) = serving(3).await;
    let load = writers(&cluster);
    for round in 0..3 {
        more_writes(&load, SOME).await;
        let victim = cluster.leader().await.unwrap();
        cluster.kill(victim);
        let data = cluster.nodes()[victim].data();
        match round {
            0 => {
                for segment in files(&data, "journal", "segment") {
                    fs::remove_file(segment).unwrap();
                }
            }
            1 => {
                for segment in files(&data, "journal", "segment") {
                    damage(&segment, 1);
                }
            }
            _ => {
                damage(&data.join("identity.toml"), 1);
            }
        }
        more_writes(&load, SOME).await;
        let before = cluster.nodes()[victim].said().len();
        cluster.start(victim).unwrap();
        if round < 2 {
            says(&cluster, victim, before, "it counts again").await;
        }
        cluster.ready(victim).await.unwrap();
        more_writes(&load, SOME).await;
    }
    nothing_is_lost(&cluster, load).await;
}

/// What a node says of its groups, if it answers.
async fn groups(cluster: &LocalCluster, node: usize) -> Option<String> {
    let address = &cluster.nodes()[node].admin;
    let asked = quorate::admin::request(address, hyper::Method::GET, "/groups", None);
    asked.await.ok()
}

/// Waits until a node serves and nothing on it is in doubt.
async fn whole(cluster: &mut LocalCluster, node: usize) {
    let waiting = Instant::now();
    cluster.ready(node).await.unwrap();
    while !groups(cluster, node).await.is_some_and(|groups| {
        groups.contains("\"in_doubt\":false") && !groups.contains("\"in_doubt\":true")
    }) {
        assert!(waiting.elapsed() < HANG, "{}", cluster.nodes()[node].said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Changes the byte in the middle of some blocks, whatever stands there, and of unused ones too.
fn damage_anywhere(path: &Path) {
    let Ok(bytes) = fs::read(path) else {
        return; // The node has just deleted it.
    };
    let Ok(file) = OpenOptions::new().write(true).open(path) else {
        return;
    };
    let step = (bytes.len() / 40).max(1);
    for at in (step / 2..bytes.len()).step_by(step) {
        file.write_all_at(&[bytes[at] ^ 0x04], at as u64).unwrap();
    }
    file.sync_all().unwrap();
}

/// Every file of one node in turn, while it runs and while it is stopped. Nobody does anything for
/// it but start a process that was killed.
#[tokio::test]
async fn any_file_of_a_node_may_be_damaged_running_or_stopped() {
    let (mut cluster, _folder) = serving(3).await;
    let load = writers(&cluster);
    more_writes(&load, 10 * SOME).await;
    for is_running in [true, false] {
        let victim = cluster.leader().await.unwrap();
        let data = cluster.nodes()[victim].data();
        let mut all = vec![data.join("identity.toml")];
        all.extend(files(&data, "journal", "segment"));
        all.extend(files(&data, "checkpoints", "checkpoint"));
        for path in all {
            if !is_running {
                cluster.kill(victim);
            }
            damage_anywhere(&path);
            more_writes(&load, SOME).await;
            if is_running {
                // It goes on, whether it has noticed or not, and finds all of it at its next start.
                cluster.ready(victim).await.unwrap();
                cluster.kill(victim);
            }
            cluster.start(victim).unwrap();
            whole(&mut cluster, victim).await;
            more_writes(&load, SOME).await;
        }
    }
    nothing_is_lost(&cluster, load).await;
}

/// Gives a node's newest checkpoint another state under checksums that are right: one in which the
/// next entry has done something else.
fn forge(data: &Path) {
    let path = files(data, "checkpoints", "checkpoint").pop().unwrap();
    let mut reader = CheckpointReader::new(state::Limits::default());
    reader.feed(&fs::read(&path).unwrap()).unwrap();
    let (mut state, head, _) = reader.finish().unwrap();
    let stamp = EntryStamp {
        slot: state.reader().applied().next(),
        epoch: state.reader().epoch(),
        wall: state.reader().wall(),
        elapsed: Duration::ZERO,
    };
    state.begin_entry(&stamp);
    let mut transaction = state.transaction();
    transaction.set_row(Space::SYSTEM, b"wrong", b"very");
    transaction.commit();
    assert!(state.end_entry().is_empty(), "no client sees anything");
    let name = format!("{:016x}-{:016x}.checkpoint", head.group.0, stamp.slot.0);
    let mut writer = CheckpointWriter::new(state.snapshot(), head, state::Limits::default());
    let mut forged = Vec::new();
    while let Some(block) = writer.next_block() {
        forged.extend_from_slice(&block);
    }
    fs::write(data.join("checkpoints").join(name), forged).unwrap();
    fs::remove_file(path).unwrap();
}

/// The node finds out that its state is wrong, gives it up, becomes a new process by itself, and
/// has a sound one again.
#[tokio::test]
async fn a_node_with_a_wrong_state_starts_itself_again_and_is_repaired() {
    let (mut cluster, _folder) = serving(3).await;
    let load = writers(&cluster);
    // So much that each node takes a checkpoint, whosever turn it is.
    let client = Client::new(cluster.endpoints(), Options::default()).unwrap();
    for number in 0..110 {
        let pair = PutRequest {
            key: format!("large/{}", number % 4).into(),
            value: vec![b'v'; 1 << 20].into(),
            ..PutRequest::default()
        };
        client.put(pair).await.unwrap();
    }
    let victim = (cluster.leader().await.unwrap() + 1) % 3;
    let data = cluster.nodes()[victim].data();
    let waiting = Instant::now();
    while files(&data, "checkpoints", "checkpoint").is_empty() {
        assert!(waiting.elapsed() < HANG, "no checkpoint is taken");
        more_writes(&load, SOME).await;
    }
    cluster.kill(victim);
    forge(&data);
    let before = cluster.nodes()[victim].said().len();
    cluster.start(victim).unwrap();
    says(
        &cluster,
        victim,
        before,
        "differs from that of the majority",
    )
    .await;
    says(&cluster, victim, before, "starting again").await;
    // It makes its state anew from its log, if that is whole, or has it from the others.
    let said = cluster.nodes()[victim].said();
    let again = said.rfind("starting again").expect("it has just said so");
    says(&cluster, victim, again, "ready to serve client requests").await;
    whole(&mut cluster, victim).await;
    more_writes(&load, SOME).await;
    // It counts: with it alone the others make a majority.
    cluster.kill((victim + 1) % 3);
    more_writes(&load, SOME).await;
    cluster.start((victim + 1) % 3).unwrap();
    cluster.ready((victim + 1) % 3).await.unwrap();
    nothing_is_lost(&cluster, load).await;
}
