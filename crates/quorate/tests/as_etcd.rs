//! Nodes by etcd's flags, as processes: what a restart does with flags that only a new cluster
//! needs.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;
use quorate::admin;
use quorate::local::{HANG, free_ports};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use support::{QUORATE, quorate};

/// One node, and its process while it lives.
struct Node {
    name: String,
    folder: PathBuf,
    peer: String,
    etcd: String,
    admin: String,
    /// Where its supervisor listens.
    notify: Option<PathBuf>,
    process: Option<Child>,
}

impl Node {
    /// Starts it with these flags besides those that every start has.
    fn start(&mut self, flags: &[&str]) {
        assert!(self.process.is_none(), "{} runs", self.name);
        let log = self.folder.join("log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let process = Command::new(QUORATE)
            .args(["etcd", "--name", &self.name, "--data-dir"])
            .arg(self.folder.join("data"))
            .args(["--listen-peer-urls", &format!("http://{}", self.peer)])
            .args(["--listen-client-urls", &format!("http://{}", self.etcd)])
            .args(["--advertise-client-urls", &format!("http://{}", self.etcd)])
            .args(flags)
            .env("QUORATE_LISTEN_ADMIN", &self.admin)
            .envs(self.notify.iter().map(|socket| ("NOTIFY_SOCKET", socket)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.process = Some(process.unwrap());
    }

    async fn ready(&self) {
        let waiting = Instant::now();
        while !admin::succeeds(&self.admin, "/readyz").await {
            let said = std::fs::read_to_string(self.folder.join("log")).unwrap();
            assert!(waiting.elapsed() < HANG, "{}:\n{said}", self.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until it ends by itself.
    async fn ended(&mut self) -> ExitStatus {
        let waiting = Instant::now();
        loop {
            if let Some(status) = self.process.as_mut().unwrap().try_wait().unwrap() {
                self.process = None;
                return status;
            }
            assert!(waiting.elapsed() < HANG, "{} does not end", self.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn terminate(&mut self) {
        let mut process = self.process.take().unwrap();
        kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
        process.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Three nodes that have formed a cluster, and the flags that have made them do so.
struct Cluster {
    nodes: Vec<Node>,
    forming: Vec<[String; 4]>,
}

impl Cluster {
    async fn formed(folder: &Path) -> Cluster {
        let ports = free_ports(9);
        let address = |index: usize| format!("127.0.0.1:{}", ports[index]);
        let node = |index: usize| Node {
            name: format!("n{}", index + 1),
            folder: folder.join(format!("n{}", index + 1)),
            peer: address(3 * index),
            etcd: address(3 * index + 1),
            admin: address(3 * index + 2),
            notify: None,
            process: None,
        };
        let nodes: Vec<Node> = (0..3).map(node).collect();
        let list = nodes
            .iter()
            .map(|node| format!("{}=http://{}", node.name, node.peer));
        let list = list.collect::<Vec<_>>().join(",");
        let flags = |node: &Node| {
            [
                "--initial-cluster".to_owned(),
                list.clone(),
                "--initial-advertise-peer-urls".to_owned(),
                format!("http://{}", node.peer),
            ]
        };
        let forming = nodes.iter().map(flags).collect();
        let mut cluster = Cluster { nodes, forming };
        for index in 0..3 {
            std::fs::create_dir(&cluster.nodes[index].folder).unwrap();
            cluster.start_as_before(index);
        }
        cluster.ready().await;
        cluster
    }

    fn start_as_before(&mut self, index: usize) {
        let flags: Vec<&str> = self.forming[index].iter().map(String::as_str).collect();
        self.nodes[index].start(&flags);
    }

    async fn ready(&self) {
        for node in &self.nodes {
            node.ready().await;
        }
    }

    /// Where the members are reached, as every node sees it.
    async fn addresses(&self) -> BTreeMap<String, String> {
        let mut seen = Vec::new();
        for node in &self.nodes {
            let status = admin::status(&node.admin).await.unwrap();
            let members = status.members.into_iter();
            let members = members.map(|member| (member.name, member.peer_address));
            seen.push(members.collect::<BTreeMap<_, _>>());
        }
        assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
        seen.swap_remove(0)
    }
}

/// Each node once took `localhost:2380` for its address then, and wrote it into the log: the others
/// hung up, and after three restarts no node had a link to any other.
#[tokio::test]
async fn a_rolling_restart_needs_none_of_the_flags_that_form_a_cluster() {
    let folder = support::folder();
    let mut cluster = Cluster::formed(folder.path()).await;
    let addresses = cluster.addresses().await;
    for index in 0..3 {
        cluster.nodes[index].terminate();
        cluster.nodes[index].start(&[]);
        cluster.ready().await;
    }
    assert_eq!(cluster.addresses().await, addresses);
    cluster.nodes.iter_mut().for_each(Node::terminate);
    cluster.nodes.iter_mut().for_each(|node| node.start(&[]));
    cluster.ready().await;
    assert_eq!(cluster.addresses().await, addresses);
}

/// The flags with which a node was first started once undid `member update` at its next start.
#[tokio::test]
async fn a_member_that_was_moved_stays_there_whatever_its_flags_say() {
    let folder = support::folder();
    let mut cluster = Cluster::formed(folder.path()).await;
    let mut addresses = cluster.addresses().await;
    let status = admin::status(&cluster.nodes[2].admin).await.unwrap();
    let id = u64::from_str_radix(&status.id, 16).unwrap().to_string();
    let moved = format!("127.0.0.1:{}", free_ports(1)[0]);
    let update = |url: String| json!({"ID": id, "peerURLs": [url]});
    let (asked, path) = (&cluster.nodes[0].etcd, "/v3/cluster/member/update");
    let taken = update(format!("http://{}", cluster.nodes[1].peer));
    let refused = admin::request(asked, Method::POST, path, Some(&taken)).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("Peer URLs already exists"), "{refused}");
    let free = update(format!("http://{moved}"));
    let updated = admin::request(asked, Method::POST, path, Some(&free)).await;
    updated.unwrap();
    addresses.insert("n3".to_owned(), moved.clone());
    cluster.nodes[2].peer = moved;
    // It starts twice: the first time it could have been busy undoing it.
    for _ in 0..2 {
        for index in 0..3 {
            cluster.nodes[index].terminate();
            cluster.start_as_before(index);
            cluster.ready().await;
        }
        assert_eq!(cluster.addresses().await, addresses);
    }
}

/// It once ended with status 1, and systemd's `Restart=on-failure` started it again and again.
#[tokio::test]
async fn a_node_that_was_removed_ends_without_a_failure_and_at_every_start() {
    let folder = support::folder();
    let mut cluster = Cluster::formed(folder.path()).await;
    let asked = cluster.nodes[0].admin.clone();
    quorate(["member", "remove", "n3", "--admin", &asked]).succeeded();
    let removed = &mut cluster.nodes[2];
    assert_eq!(removed.ended().await.code(), Some(0));
    // A supervisor that waits for a word takes an end without one for a failure.
    let socket = folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&socket).unwrap();
    supervisor.set_nonblocking(true).unwrap();
    removed.notify = Some(socket);
    removed.start(&[]);
    assert_eq!(removed.ended().await.code(), Some(0));
    let mut heard = [0; 16];
    let length = supervisor.recv(&mut heard).unwrap();
    assert_eq!(&heard[..length], b"READY=1");
    // By our own command it stays a refusal.
    let data = removed.folder.join("data");
    let (peer, etcd, admin) = (&*removed.peer, &*removed.etcd, &*removed.admin);
    let serve = [
        "serve",
        "--name",
        "n3",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let listeners = [
        "--listen-peer",
        peer,
        "--listen-etcd",
        etcd,
        "--listen-admin",
        admin,
    ];
    quorate(serve.iter().chain(&listeners)).refused(&["has been removed"]);
}
