//! When a node begins to take part in gossip, what it tells there, and its goodbye.
//!
//! ```text
//!   identity says "member of cluster C" ─▶ own address resolved ─▶ a member of the gossip of C
//!       every few seconds: whom to join through (from the log), load, keys
//!   told to stop ─▶ goodbye, so that nobody looks for it
//! ```
//!
//! A node that forms or joins does not gossip yet: it has no cluster whose packets it could tell
//! from those of others. Whom to join through is read from the log, and from the configuration
//! only until the log is known: members come and go, and files stay as they were. So is where this
//! node itself is reached, where its configuration does not say so.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cluster::gossip::Startup;
use cluster::gossip::config::Config;
use cluster::gossip::member::Facts;
use cluster::gossip::seal::Keys;
use cluster::placement::site::Domains;
use node::{Answer, Call, Identity, MemberStatus, Standing};
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::{Command, Handle, Means, View, keys, start};
use crate::calls::Calls;
use crate::http::QUORATE_VERSION;
use crate::limits::GossipLimits;
use crate::metrics::GossipMetrics;
use crate::node_loop::{Clock, Phase};
use crate::seed;
use crate::transport::{Asked, Asker};

/// What the configuration says.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Where others reach this node, `host:port`; empty: the log says it.
    pub(crate) peer_address: String,
    /// Where clients do, a URL; perhaps empty.
    pub(crate) client_address: String,
    /// Peers that the configuration names.
    pub(crate) peers: Vec<String>,
    /// Where it stands.
    pub(crate) zone: String,
    /// Likewise.
    pub(crate) rack: String,
    /// The file with the keys.
    pub(crate) key_file: Option<PathBuf>,
    /// What was in it at the start.
    pub(crate) keys: Keys,
}

/// A node's part in gossip.
pub(crate) struct Attendance {
    pub(crate) told: Told,
    pub(crate) packets: UdpSocket,
    pub(crate) identities: watch::Receiver<Option<Identity>>,
    pub(crate) phases: watch::Receiver<Phase>,
    pub(crate) calls: Calls,
    pub(crate) exchanges: mpsc::Receiver<Asked>,
    pub(crate) asker: Asker,
    pub(crate) clock: Clock,
    pub(crate) limits: GossipLimits,
    pub(crate) metrics: GossipMetrics,
    pub(crate) view: watch::Sender<View>,
}

impl Attendance {
    /// Takes part until the node is told to stop.
    pub(crate) async fn run(mut self) {
        let mut phases = self.phases.clone();
        let stopping = async move {
            let is_over = |phase: &Phase| matches!(phase, Phase::Stopping | Phase::Stopped);
            // An error: nobody is left who could say so.
            let _ = phases.wait_for(is_over).await;
        };
        tokio::pin!(stopping);
        let begun = tokio::select! {
            begun = self.begin() => begun,
            () = &mut stopping => return,
        };
        let Some((identity, address)) = begun else {
            return;
        };
        let (patience, settings) = (self.limits.leave_timeout, self.settings(address));
        let member = self.start(&identity, address);
        tokio::select! {
            () = settings.keep_told(&member) => {}
            () = &mut stopping => {}
        }
        // Whoever has not heard it by then finds out by itself.
        let _ = timeout(patience, member.leave()).await;
    }

    /// Waits until the node belongs to a cluster, and its own address can be resolved.
    async fn begin(&mut self) -> Option<(Identity, SocketAddr)> {
        let is_member = |identity: &Option<Identity>| {
            let standing = identity.as_ref().map(|identity| &identity.standing);
            matches!(standing, Some(Standing::Member { .. }))
        };
        let identity = self.identities.wait_for(is_member).await.ok()?.clone()?;
        if self.told.peer_address.is_empty() {
            self.look_up_own_place().await;
        }
        let mut failed = false;
        loop {
            match self.own_address().await {
                Ok(address) => return Some((identity, address)),
                Err(error) if !failed => {
                    failed = true;
                    let address = &self.told.peer_address;
                    tracing::warn!(
                        "gossip: this node does not take part yet, its own address {address} \
                         cannot be told to others: {error}"
                    );
                }
                Err(_) => {}
            }
            sleep(self.limits.look_interval).await;
        }
    }

    /// Has the log say where others reach this node. What a node has of its log when it starts may
    /// be of before it moved: it asks once it could serve a read of what is true now.
    async fn look_up_own_place(&mut self) {
        // An error: the node is gone, and this ends with it.
        let is_up = |phase: &Phase| *phase != Phase::Starting;
        let _ = self.phases.wait_for(is_up).await;
        let patience = self.limits.look_interval;
        loop {
            let current = timeout(patience, self.calls.call(Call::Ready)).await;
            if let Ok(Ok(Answer::Ready(Ok(())))) = current
                && let Some(places) = places_in_the_log(&self.calls, patience).await
                && !places.own.is_empty()
            {
                self.told.peer_address = places.own;
                self.told.peers = places.others;
                return;
            }
            sleep(self.limits.look_interval).await;
        }
    }

    /// Where others reach this node. A name may mean this machine alone (Debian's `/etc/hosts` says
    /// so of its own name): nobody elsewhere can send there.
    async fn own_address(&self) -> std::io::Result<SocketAddr> {
        let socket = self.packets.local_addr()?;
        let own = resolve(&self.told.peer_address, socket).await?;
        if own.ip().is_loopback() {
            for peer in &self.told.peers {
                let is_here = match peer == &self.told.peer_address {
                    true => true,
                    false => resolve(peer, socket).await?.ip().is_loopback(),
                };
                if !is_here {
                    return Err(std::io::Error::other(format!(
                        "it is {own}, which {peer} cannot reach; advertise an address that others \
                         can reach"
                    )));
                }
            }
        }
        Ok(own)
    }

    fn settings(&self, own: SocketAddr) -> Settings {
        Settings {
            told: self.told.clone(),
            own,
            socket: self.packets.local_addr().unwrap_or(own),
            calls: self.calls.clone(),
            limits: self.limits.clone(),
        }
    }

    fn start(self, identity: &Identity, address: SocketAddr) -> Handle {
        let Standing::Member { cluster, .. } = identity.standing else {
            unreachable!("waited for");
        };
        let startup = Startup {
            config: Config::local_network(),
            cluster,
            node: identity.node,
            name: identity.name.clone(),
            address,
            // More starts than that are not counted apart; nobody gets there.
            start: u32::try_from(identity.incarnation.0).unwrap_or(u32::MAX),
            process: seed::from_system(),
            facts: self.told.facts(0),
            keys: self.told.keys.clone(),
            seed: seed::from_system(),
        };
        let means = Means {
            packets: self.packets,
            exchanges: self.exchanges,
            asker: self.asker,
            clock: self.clock,
            limits: self.limits,
            metrics: self.metrics,
            view: self.view,
        };
        start(startup, means)
    }
}

impl Told {
    fn facts(&self, load_thousandths: u32) -> Facts {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().into_owned();
        // What cannot be told is not told: it is too long, or a terminal would obey it.
        let is_good =
            |text: &str| text.len() <= usize::from(u8::MAX) && !text.chars().any(char::is_control);
        let short = |text: &str| match is_good(text) {
            true => text.to_owned(),
            false => String::new(),
        };
        Facts {
            peer_address: short(&self.peer_address),
            client_address: short(&self.client_address),
            release: QUORATE_VERSION.to_owned(),
            load_thousandths,
            table_epoch: 0,
            domains: Domains {
                zone: short(&self.zone),
                rack: short(&self.rack),
                host: short(&host),
            },
        }
    }
}

/// What is looked at again and again.
struct Settings {
    told: Told,
    own: SocketAddr,
    /// Where this node's packets leave: of the family that others' addresses must have.
    socket: SocketAddr,
    calls: Calls,
    limits: GossipLimits,
}

impl Settings {
    /// Tells the member what it is to join through, to say and to close packets with, for ever.
    async fn keep_told(&self, member: &Handle) {
        let mut load = Load::new();
        let mut said = 0;
        let mut keys = KeysInUse::new(&self.told);
        let mut seeds = self.seeds(&self.told.peers).await;
        let mut are_told = member.tell(Command::Join(seeds.clone()));
        loop {
            sleep(self.limits.look_interval).await;
            let places = places_in_the_log(&self.calls, self.limits.look_interval).await;
            if let Some(Places { others, .. }) = places {
                let now = self.seeds(&others).await;
                if now != seeds || !are_told {
                    seeds.clone_from(&now);
                    are_told = member.tell(Command::Join(now));
                }
            }
            // In coarse steps: whatever is told is told to everybody.
            let step = self.limits.load_step_thousandths;
            let load = load.thousandths() / step * step;
            if load != said && member.tell(Command::Facts(self.told.facts(load))) {
                said = load;
            }
            keys.look(member).await;
        }
    }

    async fn seeds(&self, peers: &[String]) -> Vec<(SocketAddr, String)> {
        let mut seeds = Vec::new();
        for peer in peers {
            if let Ok(address) = resolve(peer, self.socket).await
                && address != self.own
            {
                seeds.push((address, peer.clone()));
            }
        }
        seeds
    }
}

/// Where the members are reached, as the log names them.
struct Places {
    /// This node; empty if it is not among them.
    own: String,
    others: Vec<String>,
}

async fn places_in_the_log(calls: &Calls, patience: Duration) -> Option<Places> {
    let asked = timeout(patience, calls.call(Call::Status)).await;
    let Ok(Ok(Answer::Status(status))) = asked else {
        return None;
    };
    let is_own = |member: &MemberStatus| member.id == status.id;
    let (own, others): (Vec<_>, Vec<_>) = status.members.into_iter().partition(is_own);
    let mut addresses = own.into_iter().map(|member| member.peer_address);
    Some(Places {
        own: addresses.next().unwrap_or_default(),
        others: others.into_iter().map(|other| other.peer_address).collect(),
    })
}

/// What the file with the keys said when it was last read and passed on. Keys are compared, not the
/// file's times: whatever changed since the process read them first is seen.
struct KeysInUse {
    file: Option<PathBuf>,
    keys: Keys,
    /// What was wrong at the last look.
    problem: Option<String>,
    /// The look that is under way: a disk that hangs holds up one thread, and nobody who serves.
    reading: Option<JoinHandle<Result<Keys, String>>>,
}

impl KeysInUse {
    fn new(told: &Told) -> KeysInUse {
        KeysInUse {
            file: told.key_file.clone(),
            keys: told.keys.clone(),
            problem: None,
            reading: None,
        }
    }

    /// Passes on what has changed, as the look before this one found it, and looks again.
    async fn look(&mut self, member: &Handle) {
        let Some(path) = self.file.clone() else {
            return;
        };
        if self
            .reading
            .as_ref()
            .is_some_and(|reading| !reading.is_finished())
        {
            return;
        }
        let read = self.reading.take();
        self.reading = Some(spawn_blocking(move || keys::read(&path)));
        let Some(read) = read else {
            return;
        };
        // A look that panicked would be a bug, and has found nothing.
        if let Ok(found) = read.await {
            self.pass_on(found, member);
        }
    }

    fn pass_on(&mut self, found: Result<Keys, String>, member: &Handle) {
        match found {
            Ok(keys) => {
                self.problem = None;
                if keys != self.keys && member.tell(Command::Keys(keys.clone())) {
                    let count = keys.0.len();
                    tracing::info!("gossip: keys have changed, {count} are known now");
                    self.keys = keys;
                }
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!("gossip: {problem}; the keys that were stay in use");
                }
                self.problem = Some(problem);
            }
        }
    }
}

/// What a name means for a socket: an address of its family, and one that other machines reach, if
/// there is any.
async fn resolve(address: &str, socket: SocketAddr) -> std::io::Result<SocketAddr> {
    let found: Vec<SocketAddr> = lookup_host(address).await?.collect();
    choose(&found, socket).ok_or_else(|| {
        let family = if socket.is_ipv4() { "IPv4" } else { "IPv6" };
        std::io::Error::other(format!("the name has no {family} address"))
    })
}

fn choose(found: &[SocketAddr], socket: SocketAddr) -> Option<SocketAddr> {
    let fit = || found.iter().filter(|one| one.is_ipv4() == socket.is_ipv4());
    let reached = fit().find(|one| !one.ip().is_loopback());
    reached.or_else(|| fit().next()).copied()
}

/// How busy this process is: its share of all processors, between two looks.
struct Load {
    since: std::time::Instant,
    used: rustix::time::Timespec,
    processors: f64,
}

impl Load {
    fn new() -> Load {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Load {
            since: std::time::Instant::now(),
            used: used(),
            processors: processors as f64,
        }
    }

    fn thousandths(&mut self) -> u32 {
        let (now, used) = (std::time::Instant::now(), used());
        let seconds = now.duration_since(self.since).as_secs_f64() * self.processors;
        let busy = (used.tv_sec - self.used.tv_sec) as f64
            + (used.tv_nsec - self.used.tv_nsec) as f64 / 1e9;
        (self.since, self.used) = (now, used);
        (busy / seconds.max(1e-9) * 1000.0).clamp(0.0, 1000.0) as u32
    }
}

fn used() -> rustix::time::Timespec {
    rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::error::TryRecvError;

    use super::*;

    #[test]
    fn an_address_is_of_the_sockets_family_and_reached_by_others_if_any_is() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let found = addresses(&["[::1]:1", "127.0.1.1:1", "[2001:db8::1]:1", "10.0.0.1:1"]);
        let (four, six) = ("0.0.0.0:1".parse().unwrap(), "[::]:1".parse().unwrap());
        assert_eq!(choose(&found, four), Some(found[3]));
        assert_eq!(choose(&found, six), Some(found[2]));
        assert_eq!(choose(&found[..2], four), Some(found[1]), "nothing better");
        assert_eq!(choose(&found[..1], four), None);
    }

    #[test]
    fn keys_that_change_before_the_first_look_or_while_the_member_is_busy_are_told() {
        let path = std::env::temp_dir().join(format!("quorate-keys-{}", std::process::id()));
        let write = |digit: &str| std::fs::write(&path, digit.repeat(64)).unwrap();
        write("1");
        let mut in_use = KeysInUse {
            file: Some(path.clone()),
            keys: keys::read(&path).unwrap(),
            problem: None,
            reading: None,
        };
        let (commands, mut heard) = mpsc::channel(1);
        let member = Handle { commands };
        in_use.pass_on(keys::read(&path), &member);
        assert!(matches!(heard.try_recv(), Err(TryRecvError::Empty)));
        write("2");
        assert!(member.tell(Command::Join(Vec::new())), "it is busy now");
        in_use.pass_on(keys::read(&path), &member);
        assert!(matches!(heard.try_recv(), Ok(Command::Join(_))));
        in_use.pass_on(keys::read(&path), &member);
        let two = keys::read(&path).unwrap();
        assert!(matches!(heard.try_recv(), Ok(Command::Keys(keys)) if keys == two));
        std::fs::remove_file(&path).unwrap();
        in_use.pass_on(keys::read(&path), &member);
        in_use.pass_on(keys::read(&path), &member);
        assert!(matches!(heard.try_recv(), Err(TryRecvError::Empty)));
        assert_eq!(in_use.keys, two, "those that were stay");
    }
}
