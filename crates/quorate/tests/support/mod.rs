//! What the black-box tests share: clusters in folders of their own, and runs of the binary.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(unreachable_pub, reason = "what a test binary shares with itself")]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use quorate::load::{Books, Load};
use quorate::local::{HANG, LocalCluster};
use tempfile::TempDir;

/// The binary under test.
pub const QUORATE: &str = env!("CARGO_BIN_EXE_quorate");

/// Clients that write at once.
pub const WRITERS: usize = 8;

/// A cluster that serves. Keep the folder as long as the cluster.
pub async fn serving(size: usize) -> (LocalCluster, TempDir) {
    let (mut cluster, folder) = laid_out(size);
    cluster.start_all().await.unwrap();
    (cluster, folder)
}

/// A folder for what a test writes. It stays after the test where `KEEP_FOLDERS` is set.
pub fn folder() -> TempDir {
    let keeps = std::env::var_os("KEEP_FOLDERS").is_some();
    let mut folder = tempfile::tempdir().unwrap();
    folder.disable_cleanup(keeps);
    folder
}

/// A cluster that was not started.
pub fn laid_out(size: usize) -> (LocalCluster, TempDir) {
    let folder = folder();
    (
        LocalCluster::new(Path::new(QUORATE), folder.path(), size).unwrap(),
        folder,
    )
}

/// Clients that write to all nodes.
pub fn writers(cluster: &LocalCluster) -> Load {
    Load::start(&cluster.endpoints(), WRITERS, "writer").unwrap()
}

/// Waits until `more` further writes were acknowledged: progress, at whatever speed.
pub async fn more_writes(load: &Load, more: u64) {
    let goal = load.counts().acknowledged + more;
    let waiting = Instant::now();
    while load.counts().acknowledged < goal {
        assert!(
            waiting.elapsed() < HANG,
            "writes have stopped: {:?}",
            load.counts()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ends the writers and looks for every acknowledged write on every node.
pub async fn nothing_is_lost(cluster: &LocalCluster, load: Load) -> Books {
    let books = load.finish().await;
    assert_eq!(
        books.counts.unanswered, 0,
        "every request is answered: {:?}",
        books.counts
    );
    // A witness holds nothing, and says so.
    for node in cluster.nodes().iter().filter(|node| !node.is_witness) {
        let missing = books.missing_on(&node.etcd).await.unwrap();
        assert_eq!(
            missing,
            0,
            "{} lost acknowledged writes; it said:\n{}",
            node.name,
            node.said()
        );
    }
    books
}

/// Runs the binary to its end.
pub fn quorate<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Ended {
    ended(Command::new(QUORATE).args(arguments))
}

/// Runs a command to its end.
pub fn ended(command: &mut Command) -> Ended {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // A run that hangs would hang the test: a watchdog kills it, and its status says so.
    let id = rustix::process::Pid::from_child(&child);
    let (done, watchdog) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        if watchdog.recv_timeout(HANG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().expect("the run ends");
    drop(done);
    Ended(output)
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ended(pub Output);

impl Ended {
    /// It went well; what it printed.
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert!(self.0.status.success(), "{self:?}");
        String::from_utf8(self.0.stdout).unwrap()
    }

    /// It refused by itself (no panic, no signal), and its message holds all of these.
    #[track_caller]
    pub fn refused(self, message: &[&str]) {
        let said = String::from_utf8_lossy(&self.0.stderr).into_owned()
            + &String::from_utf8_lossy(&self.0.stdout);
        assert!(
            matches!(self.0.status.code(), Some(1 | 2)),
            "{:?}: {said}",
            self.0.status
        );
        for part in message {
            assert!(said.contains(part), "expected {part:?} in:\n{said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}
