//! The network between the nodes of a demonstration, which can cut one of them off.
//!
//! ```text
//!   n1 ──▶ front of n3 ── pump ──▶ n3        all that peers say to n3, whoever dials
//!            │ who dials? the process that owns the other end of the connection
//!            └ n1 or n3 is cut off: the pump holds what it has, and takes no more
//! ```
//!
//! Every node tells the others an address of this process, which carries the bytes on. So an
//! ordinary user can cut a node off, and does not need a namespace or a firewall for it. A link
//! that is cut keeps its connections and carries nothing: like a cable that was pulled, and unlike
//! a process that died, it says nothing to either side.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::local::LocalCluster;

/// So much is carried at once.
const CARRIED_BYTES: usize = 64 << 10;

/// The links to all nodes. Dropping it closes them.
#[derive(Debug)]
pub(super) struct Links {
    /// The node that is cut off.
    cut: watch::Sender<Option<usize>>,
    processes: Arc<Mutex<Vec<Option<u32>>>>,
    accepting: Vec<JoinHandle<()>>,
}

impl Drop for Links {
    fn drop(&mut self) {
        for task in &self.accepting {
            task.abort();
        }
    }
}

impl Links {
    /// Begins to carry; the nodes need not be there yet.
    ///
    /// # Errors
    /// An address is taken.
    pub(super) async fn start(cluster: &LocalCluster) -> io::Result<Links> {
        let (cut, state) = watch::channel(None);
        let processes = Arc::new(Mutex::new(Vec::new()));
        let mut accepting = Vec::new();
        for (index, node) in cluster.nodes().iter().enumerate() {
            let front = TcpListener::bind(&node.peer).await?;
            let link = Front {
                index,
                port: front.local_addr()?.port(),
                behind: node.listens.clone(),
                state: state.clone(),
                processes: Arc::clone(&processes),
            };
            accepting.push(tokio::spawn(link.accept(front)));
        }
        Ok(Links {
            cut,
            processes,
            accepting,
        })
    }

    /// Which process each node is now.
    pub(super) fn know(&self, cluster: &LocalCluster) {
        let now = cluster.nodes().iter().map(|node| node.process()).collect();
        let known = self.processes.lock();
        *known.unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// From now on nothing passes from or to this node.
    pub(super) fn cut_off(&self, node: usize) {
        self.cut.send_replace(Some(node));
    }

    /// Everything passes again, what was held first.
    pub(super) fn heal(&self) {
        self.cut.send_replace(None);
    }
}

/// The address that the others are told of one node.
#[derive(Clone)]
struct Front {
    index: usize,
    port: u16,
    behind: String,
    state: watch::Receiver<Option<usize>>,
    processes: Arc<Mutex<Vec<Option<u32>>>>,
}

impl Front {
    async fn accept(self, front: TcpListener) {
        loop {
            let Ok((dialer, from)) = front.accept().await else {
                // Too many open files: some will be closed.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let known = self.processes.lock();
            let known = known.unwrap_or_else(PoisonError::into_inner).clone();
            let from = owner(from.port(), self.port, &known);
            tokio::spawn(self.clone().carry(dialer, from));
        }
    }

    /// Carries one connection to its end.
    async fn carry(self, dialer: TcpStream, from: Option<usize>) {
        let ends = [from, Some(self.index)];
        let mut link = Link {
            ends,
            state: self.state.clone(),
        };
        link.open().await;
        let Ok(node) = TcpStream::connect(&self.behind).await else {
            return;
        };
        // What waits for more bytes here would be slowness that no network has.
        let _ = (dialer.set_nodelay(true), node.set_nodelay(true));
        let (from_dialer, to_dialer) = dialer.into_split();
        let (from_node, to_node) = node.into_split();
        let back = link.clone();
        // An end that is gone ends the other: a process that died is seen to be dead.
        tokio::select! {
            () = link.pump(from_dialer, to_node) => {}
            () = back.pump(from_node, to_dialer) => {}
        }
    }
}

/// One connection between two nodes.
#[derive(Clone)]
struct Link {
    ends: [Option<usize>; 2],
    state: watch::Receiver<Option<usize>>,
}

impl Link {
    /// Waits until neither end is cut off.
    async fn open(&mut self) {
        let ends = self.ends;
        let is_open = |cut: &Option<usize>| cut.is_none() || !ends.contains(cut);
        // An error: the demonstration is over, and this task with it.
        let _ = self.state.wait_for(is_open).await;
    }

    async fn pump(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut bytes = vec![0; CARRIED_BYTES];
        loop {
            self.open().await;
            let read = from.read(&mut bytes).await;
            self.open().await;
            match read {
                Ok(count) if count > 0 => {
                    if to.write_all(&bytes[..count]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }
}

/// Which of these processes dialed from this port to that one, as Linux tells.
fn owner(from: u16, to: u16, processes: &[Option<u32>]) -> Option<usize> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().find_map(|line| inode(line, from, to))?;
    let socket = format!("socket:[{inode}]");
    let owns = |process: &u32| {
        let open = fs::read_dir(format!("/proc/{process}/fd"));
        open.into_iter().flatten().flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket.as_str())
        })
    };
    processes
        .iter()
        .position(|process| process.as_ref().is_some_and(owns))
}

/// The number of the socket with these ports on loopback, if the line is about it.
fn inode(line: &str, from: u16, to: u16) -> Option<&str> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (words.next()?, words.next()?);
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    (port(local) == Some(from) && port(remote) == Some(to))
        .then(|| words.nth(6))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_socket_is_found() {
        let line = "   1: 0100007F:BFE6 0100007F:3039 01 00000000:00000000 02:000005A5 00000000 \
                    1000        0 1234567 2 0000000000000000 20 4 30 10 -1";
        assert_eq!(inode(line, 0xbfe6, 12345), Some("1234567"));
        assert_eq!(inode(line, 12345, 0xbfe6), None);
        assert_eq!(inode("  sl  local_address rem_address", 1, 2), None);
    }

    #[tokio::test]
    async fn the_process_that_dials_is_told_from_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (dialed, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
        let from = accepted.unwrap().1.port();
        let own = Some(std::process::id());
        assert_eq!(owner(from, at.port(), &[None, own]), Some(1));
        assert_eq!(owner(from, at.port(), &[None, None]), None);
        drop(dialed);
    }
}
