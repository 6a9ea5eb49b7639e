//! Clusters of etcd and of Quorate on this machine, started, stopped and looked at alike.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::etcd::proto::etcdserverpb::RangeRequest;
use client::{Client, Options};
use quorate::local::{HANG, free_ports};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tempfile::TempDir;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    Etcd,
    Quorate,
}

impl System {
    pub(crate) const ALL: [System; 2] = [System::Etcd, System::Quorate];

    pub(crate) fn name(self) -> &'static str {
        match self {
            System::Etcd => "etcd",
            System::Quorate => "quorate",
        }
    }
}

/// The programs.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    pub(crate) etcd: PathBuf,
    pub(crate) quorate: PathBuf,
}

impl Binaries {
    pub(crate) fn of(&self, system: System) -> &Path {
        match system {
            System::Etcd => &self.etcd,
            System::Quorate => &self.quorate,
        }
    }

    /// The first line of what a program says of its version.
    pub(crate) fn version(&self, system: System) -> io::Result<String> {
        let output = Command::new(self.of(system)).arg("--version").output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(said.lines().next().unwrap_or("unknown").trim().to_owned())
    }
}

/// Nodes of one system in a folder of their own. They die with this.
#[derive(Debug)]
pub(crate) struct Servers {
    binary: PathBuf,
    nodes: Vec<Node>,
    folder: TempDir,
}

#[derive(Debug)]
struct Node {
    name: String,
    endpoint: String,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Servers {
    /// Starts nodes with default settings on an empty folder and waits until all serve.
    pub(crate) async fn start(
        binaries: &Binaries,
        system: System,
        count: usize,
    ) -> io::Result<Servers> {
        let folder = tempfile::Builder::new()
            .prefix("quorate-bench-report-")
            .tempdir()?;
        let nodes = match system {
            System::Etcd => etcd_nodes(folder.path(), count),
            System::Quorate => quorate_nodes(folder.path(), count),
        };
        let mut servers = Servers {
            binary: binaries.of(system).to_owned(),
            nodes,
            folder,
        };
        servers.start_all().await?;
        Ok(servers)
    }

    /// Starts all nodes; how long it took until every one answered a linearizable read.
    pub(crate) async fn start_all(&mut self) -> io::Result<Duration> {
        let began = Instant::now();
        for node in &mut self.nodes {
            let log = self.folder.path().join(format!("{}.log", node.name));
            let log = File::options().create(true).append(true).open(log)?;
            let process = Command::new(&self.binary)
                .args(&node.arguments)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()?;
            node.process = Some(process);
        }
        for node in 0..self.nodes.len() {
            self.wait_until_served(node).await?;
        }
        Ok(began.elapsed())
    }

    async fn wait_until_served(&mut self, number: usize) -> io::Result<()> {
        let node = &mut self.nodes[number];
        let options = Options {
            try_timeout: Duration::from_secs(2),
            deadline: HANG,
            pause_min: Duration::from_millis(5),
            pause_max: Duration::from_millis(10),
            ..Options::default()
        };
        let client = Client::new([&node.endpoint], options).map_err(io::Error::other)?;
        let read = RangeRequest {
            key: "bench".into(),
            ..RangeRequest::default()
        };
        let answer = client.range(read).await;
        answer.map_err(|error| {
            self.folder.disable_cleanup(true); // its log says why
            let folder = self.folder.path().display();
            let name = &self.nodes[number].name;
            io::Error::other(format!("{name} does not serve ({error}); see {folder}"))
        })?;
        Ok(())
    }

    /// SIGTERM to all, and waits for their end.
    pub(crate) fn stop_all(&mut self) -> io::Result<()> {
        for node in &self.nodes {
            if let Some(process) = &node.process {
                // The process is a child that was not waited for: its id cannot mean another.
                let _ = kill_process(Pid::from_child(process), Signal::TERM);
            }
        }
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                process.wait()?;
            }
        }
        Ok(())
    }

    /// `host:port` of each node, for clients.
    pub(crate) fn endpoints(&self) -> String {
        let endpoints = self.nodes.iter().map(|node| node.endpoint.as_str());
        endpoints.collect::<Vec<_>>().join(",")
    }

    /// The process ids of the nodes.
    pub(crate) fn processes(&self) -> String {
        let processes = self.nodes.iter().filter_map(|node| node.process.as_ref());
        let ids = processes.map(|process| process.id().to_string());
        ids.collect::<Vec<_>>().join(",")
    }

    /// The memory that all nodes have in use, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let processes = self.nodes.iter().filter_map(|node| node.process.as_ref());
        let kilobytes = processes.filter_map(|process| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        });
        kilobytes.sum::<u64>() << 10
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                // An error means that it has ended already, which is what is wanted.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

/// Two addresses for each node: for clients and for peers.
fn addresses(count: usize) -> Vec<(String, String)> {
    let ports = free_ports(2 * count);
    let address = |port: u16| format!("127.0.0.1:{port}");
    let pairs = ports.chunks(2);
    pairs
        .map(|pair| (address(pair[0]), address(pair[1])))
        .collect()
}

fn etcd_nodes(folder: &Path, count: usize) -> Vec<Node> {
    let addresses = addresses(count);
    let members: Vec<String> = addresses
        .iter()
        .enumerate()
        .map(|(number, (_, peer))| format!("n{number}=http://{peer}"))
        .collect();
    let members = members.join(",");
    let node = |(number, (endpoint, peer)): (usize, (String, String))| {
        let name = format!("n{number}");
        let data = folder.join(&name).display().to_string();
        let client = format!("http://{endpoint}");
        let peer = format!("http://{peer}");
        let arguments = [
            ["--name", &name],
            ["--data-dir", &data],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &members],
        ];
        Node {
            arguments: arguments.concat().into_iter().map(str::to_owned).collect(),
            name,
            endpoint,
            process: None,
        }
    };
    addresses.into_iter().enumerate().map(node).collect()
}

fn quorate_nodes(folder: &Path, count: usize) -> Vec<Node> {
    let addresses = addresses(count);
    let members: Vec<String> = addresses
        .iter()
        .enumerate()
        .map(|(number, (_, peer))| format!("n{number}={peer}"))
        .collect();
    let members = members.join(",");
    let own = std::process::id().to_string();
    let node = |(number, (endpoint, peer)): (usize, (String, String))| {
        let name = format!("n{number}");
        let data = folder.join(&name).display().to_string();
        let arguments = [
            ["--name", &name],
            ["--data-dir", &data],
            ["--listen-etcd", &endpoint],
            ["--listen-peer", &peer],
            ["--listen-admin", "none"],
            ["--cluster", &members],
            ["--end-with", &own],
        ];
        let serve = std::iter::once("serve".to_owned());
        let flags = arguments.concat().into_iter().map(str::to_owned);
        Node {
            arguments: serve.chain(flags).collect(),
            name,
            endpoint,
            process: None,
        }
    };
    addresses.into_iter().enumerate().map(node).collect()
}
