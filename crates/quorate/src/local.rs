//! A cluster of real processes on this machine, which can be killed, paused and started again.
//!
//! ```text
//!   folder/n1/data    folder/n2/data    folder/n3/data     what each node keeps
//!   folder/n1/log     folder/n2/log     folder/n3/log      what each node said
//! ```
//!
//! The demonstration, the black-box tests and the fail-over measurement share it: whatever is
//! shown, tested or measured runs as users run it, as processes with files and sockets. All nodes
//! die with their owner: by [`Drop`] in the ordinary case, by the kernel (a node asks for it, see
//! `--end-with`) if the owner itself is killed.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};

use crate::admin;

/// How long a wait may last before it is called hung. Not a measure of speed: a slow machine must
/// not fail where a fast one passes.
pub const HANG: Duration = Duration::from_secs(60);

/// How often something that is waited for is looked at.
const GLANCE: Duration = Duration::from_millis(10);

/// Ports are taken from here, below those that the kernel gives to outgoing connections: a node's
/// port must still be free when the node comes back.
const PORTS: Range<u16> = 12_000..32_000;

/// Ports that a process takes at once.
const PORT_BLOCK: u16 = 50;

/// How many such blocks there are.
const PORT_BLOCKS: u16 = (PORTS.end - PORTS.start) / PORT_BLOCK;

/// One node: its addresses, and its process while it lives.
#[derive(Debug)]
pub struct LocalNode {
    /// Its name, `n1` and so on.
    pub name: String,
    /// Where its data and its log are.
    pub folder: PathBuf,
    /// Where its peers connect, `host:port`.
    pub peer: String,
    /// Where it listens for them: at the same place, unless something stands in between.
    pub listens: String,
    /// Where etcd's clients connect, `host:port`.
    pub etcd: String,
    /// Where operators connect, `host:port`.
    pub admin: String,
    /// It votes and holds no data.
    pub is_witness: bool,
    process: Option<Child>,
}

impl LocalNode {
    /// The file that holds what the node has said.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The folder that holds what the node keeps.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Everything the node has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The number of its process, if it has been started.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }
}

/// Some nodes that form one cluster.
#[derive(Debug)]
pub struct LocalCluster {
    binary: PathBuf,
    nodes: Vec<LocalNode>,
    /// Further flags of `serve`, for every node.
    flags: Vec<String>,
}

impl LocalCluster {
    /// Lays out a cluster below `folder` and starts nothing. `binary` is a `quorate`.
    ///
    /// # Errors
    /// A folder cannot be made.
    pub fn new(binary: &Path, folder: &Path, size: usize) -> io::Result<LocalCluster> {
        let ports = free_ports(3 * size);
        let address = |index: usize| format!("127.0.0.1:{}", ports[index]);
        let mut nodes = Vec::with_capacity(size);
        for index in 0..size {
            let name = format!("n{}", index + 1);
            let node = LocalNode {
                folder: folder.join(&name),
                name,
                peer: address(3 * index),
                listens: address(3 * index),
                etcd: address(3 * index + 1),
                admin: address(3 * index + 2),
                is_witness: false,
                process: None,
            };
            fs::create_dir_all(&node.folder)?;
            nodes.push(node);
        }
        Ok(LocalCluster {
            binary: binary.to_owned(),
            nodes,
            flags: Vec::new(),
        })
    }

    /// Gives every node further flags of `serve`, from its next start on.
    #[must_use]
    pub fn with_flags(mut self, flags: &[&str]) -> LocalCluster {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self
    }

    /// Makes a node a witness, from its first start on.
    #[must_use]
    pub fn with_witness(mut self, index: usize) -> LocalCluster {
        self.nodes[index].is_witness = true;
        self
    }

    /// Has every node listen for its peers elsewhere than where they connect: somebody is to carry
    /// the bytes in between.
    #[must_use]
    pub fn with_links(mut self) -> LocalCluster {
        let ports = free_ports(self.nodes.len());
        for (node, port) in self.nodes.iter_mut().zip(ports) {
            node.listens = format!("127.0.0.1:{port}");
        }
        self
    }

    /// All nodes, dead or alive.
    #[must_use]
    pub fn nodes(&self) -> &[LocalNode] {
        &self.nodes
    }

    /// What etcd's clients connect to, node by node.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.etcd.clone()).collect()
    }

    /// The value of `--cluster`, the same for all nodes.
    #[must_use]
    pub fn members(&self) -> String {
        let entries = self
            .nodes
            .iter()
            .map(|node| format!("{}={}", node.name, node.peer));
        entries.collect::<Vec<String>>().join(",")
    }

    /// Starts a node (again) and does not wait. What it says is added to its log.
    ///
    /// The kernel ends the node when the thread that called this ends; call it from one that
    /// lives as long as the cluster.
    ///
    /// # Errors
    /// The binary cannot be run, or the log not be written.
    pub fn start(&mut self, index: usize) -> io::Result<()> {
        let members = self.members();
        let node = &mut self.nodes[index];
        assert!(
            node.process.is_none(),
            "{} is started once at a time",
            node.name
        );
        let log = File::options().create(true).append(true).open(node.log())?;
        let process = Command::new(&self.binary)
            .arg("serve")
            .args(["--name", &node.name])
            .arg("--data-dir")
            .arg(node.data())
            .args(["--listen-peer", &node.listens, "--listen-etcd", &node.etcd])
            .args(["--listen-admin", &node.admin, "--cluster", &members])
            .args(["--end-with", &std::process::id().to_string()])
            .args(&self.flags)
            .args(node.is_witness.then_some("--witness"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        node.process = Some(process);
        Ok(())
    }

    /// Starts all nodes and waits until each serves.
    ///
    /// # Errors
    /// A node cannot be started, ends by itself, or hangs.
    pub async fn start_all(&mut self) -> io::Result<()> {
        for index in 0..self.nodes.len() {
            self.start(index)?;
        }
        for index in 0..self.nodes.len() {
            self.ready(index).await?;
        }
        Ok(())
    }

    /// Waits until a node serves.
    ///
    /// # Errors
    /// It has ended by itself, or hangs.
    pub async fn ready(&mut self, index: usize) -> io::Result<()> {
        let waiting = Instant::now();
        let probe = match self.nodes[index].is_witness {
            true => "/readyz?exclude=non_learner",
            false => "/readyz",
        };
        loop {
            let node = &mut self.nodes[index];
            let Some(process) = &mut node.process else {
                return Err(io::Error::other(format!("{} is not running", node.name)));
            };
            if let Some(status) = process.try_wait()? {
                node.process = None;
                let said = last_lines(&node.said(), 10);
                let problem = format!("{} ended by itself ({status}):\n{said}", node.name);
                return Err(io::Error::other(problem));
            }
            if admin::succeeds(&node.admin, probe).await {
                return Ok(());
            }
            if waiting.elapsed() > HANG {
                return Err(self.hangs(index).await);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// That a node does not come to serve: what it says is missing, and what all have logged last.
    async fn hangs(&self, index: usize) -> io::Error {
        let node = &self.nodes[index];
        let asked = admin::request(&node.admin, Method::GET, "/readyz?verbose", None).await;
        let missing = asked.unwrap_or_else(|error| error.to_string());
        let mut problem = format!("{} does not serve after {HANG:?}:\n{missing}", node.name);
        for node in &self.nodes {
            let said = last_lines(&node.said(), 10);
            problem.push_str(&format!("\n{} has logged:\n{said}", node.name));
        }
        io::Error::new(io::ErrorKind::TimedOut, problem)
    }

    /// Whether a node that was started has ended by itself; how.
    ///
    /// # Errors
    /// The system cannot be asked.
    pub fn has_ended(&mut self, index: usize) -> io::Result<Option<ExitStatus>> {
        let node = &mut self.nodes[index];
        let Some(process) = &mut node.process else {
            return Ok(None);
        };
        let status = process.try_wait()?;
        if status.is_some() {
            node.process = None;
        }
        Ok(status)
    }

    /// Which node leads (in the highest term, if a deposed leader has not noticed yet), waiting
    /// for one if there is none.
    ///
    /// # Errors
    /// No node leads for [`HANG`].
    pub async fn leader(&self) -> io::Result<usize> {
        let waiting = Instant::now();
        while waiting.elapsed() < HANG {
            let mut leading = None;
            for (index, node) in self.nodes.iter().enumerate() {
                if node.process.is_none() {
                    continue;
                }
                // A paused node accepts connections (the kernel does) and answers nothing.
                let glance = admin::status(&node.admin);
                let seen = tokio::time::timeout(Duration::from_secs(1), glance).await;
                if let Ok(Ok(status)) = seen
                    && status.role == "leader"
                    && leading.is_none_or(|(term, _)| term < status.term)
                {
                    leading = Some((status.term, index));
                }
            }
            if let Some((_, index)) = leading {
                return Ok(index);
            }
            tokio::time::sleep(GLANCE).await;
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no node leads after {HANG:?}"),
        ))
    }

    /// Waits until the leader counts on every copy again, where there is a witness.
    ///
    /// # Errors
    /// It does not for [`HANG`].
    pub async fn caught_up(&self) -> io::Result<()> {
        let waiting = Instant::now();
        while waiting.elapsed() < HANG {
            let leader = self.leader().await?;
            let seen = admin::status(&self.nodes[leader].admin).await;
            let all_count = |status: &admin::Status| {
                let mut members = status.members.iter();
                status.role == "leader" && members.all(|member| member.counted_on != Some(false))
            };
            if seen.as_ref().is_ok_and(all_count) {
                return Ok(());
            }
            tokio::time::sleep(GLANCE).await;
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("a copy is missing after {HANG:?}"),
        ))
    }

    /// SIGKILL: no handler runs, nothing is flushed, no good-bye is said.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.nodes[index].process.take() {
            // An error means that it has ended already, which is what is wanted.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// SIGSTOP: the process keeps its connections and answers nothing.
    pub fn pause(&self, index: usize) {
        self.signal(index, Signal::STOP);
    }

    /// SIGCONT: a paused process goes on, unaware of the time that has passed.
    pub fn resume(&self, index: usize) {
        self.signal(index, Signal::CONT);
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It does not end within [`HANG`].
    pub fn terminate(&mut self, index: usize) -> io::Result<ExitStatus> {
        self.signal(index, Signal::TERM);
        self.ended(index)
    }

    /// Waits for a node to end.
    ///
    /// # Errors
    /// It does not end within [`HANG`].
    pub fn ended(&mut self, index: usize) -> io::Result<ExitStatus> {
        let node = &mut self.nodes[index];
        let process = node
            .process
            .as_mut()
            .expect("only a started node is waited for");
        let waiting = Instant::now();
        while waiting.elapsed() < HANG {
            if let Some(status) = process.try_wait()? {
                node.process = None;
                return Ok(status);
            }
            std::thread::sleep(GLANCE);
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{} does not end", node.name),
        ))
    }

    fn signal(&self, index: usize, signal: Signal) {
        if let Some(process) = &self.nodes[index].process {
            // The process is a child that was not waited for: its id cannot mean another.
            let _ = kill_process(Pid::from_child(process), signal);
        }
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for index in 0..self.nodes.len() {
            self.kill(index);
        }
    }
}

/// What this process hands out from.
static OWN_PORTS: Mutex<OwnPorts> = Mutex::new(OwnPorts {
    guards: Vec::new(),
    left: 0..0,
});

/// Ports that no other process hands out: whoever holds the first one of a block owns the others,
/// and the kernel ends that with the process. That a port is free when it is looked at says little
/// of the moment in which a node wants it, or wants it back.
struct OwnPorts {
    /// The first port of each block, held as long as the process lives.
    guards: Vec<TcpListener>,
    /// What is left of the last block.
    left: Range<u16>,
}

/// Ports on loopback that nobody listens on, and that are handed out once: not to others on this
/// machine either, if they ask here too.
#[must_use]
pub fn free_ports(count: usize) -> Vec<u16> {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut own = OWN_PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ports = Vec::with_capacity(count);
    while ports.len() < count {
        match own.left.next() {
            Some(port) => ports.extend(Some(port).filter(is_free)),
            None => own.take_block(),
        }
    }
    ports
}

impl OwnPorts {
    /// Takes a block that nobody has, if the one that is looked at is such.
    fn take_block(&mut self) {
        let first = PORTS.start + PORT_BLOCK * fastrand::u16(..PORT_BLOCKS);
        if let Ok(guard) = TcpListener::bind(("127.0.0.1", first)) {
            self.guards.push(guard);
            self.left = first + 1..first + PORT_BLOCK;
        }
    }
}

/// The end of a text, where a program that gave up says why.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use super::free_ports;

    #[test]
    fn clusters_that_start_at_once_share_no_port() {
        let asked: Vec<_> = (0..8).map(|_| thread::spawn(|| free_ports(30))).collect();
        let given = asked.into_iter().flat_map(|asked| asked.join().unwrap());
        let different: BTreeSet<u16> = given.collect();
        assert_eq!(different.len(), 8 * 30);
    }
}
