//! Starts everything in order, and stops it in the opposite order.
//!
//! ```text
//!   start   folder (lock) ▶ sockets ▶ disk threads ▶ transport ▶ node ▶ acceptors
//!           a folder that does not exist yet is made after the sockets
//!   stop    node hands over leadership, answers what is under way, halts
//!           ▶ disk threads finish ▶ connections end ▶ folder is unlocked
//! ```
//!
//! Whatever can be wrong with the surroundings is found out before the node exists: a server that
//! cannot have its port has not touched its log.

use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use node::{Config, Halt, Node, Startup, Timing};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::authority::{Authority, Tokens};
use crate::changes::Changes;
use crate::configuration::{Configuration, ConfigurationError, Listen, Place};
use crate::disks::{Completed, Disks};
use crate::folder::{Folder, FolderError};
use crate::http::QUORATE_VERSION;
use crate::inbox::{Sender, inbox};
use crate::keyspace::Keyspaces;
use crate::limits::{AuthLimits, Limits};
use crate::metrics::Metrics;
use crate::node_loop::{Clock, Event, Machine, NodeLoop, Phase, World};
use crate::seed;
use crate::serving::{Deliveries, Mailboxes, Seat, Workers};
use crate::tls::{Side, Tls, TlsError};
use crate::transport::{Asker, PeerEvent, Transport};

mod clients;
mod signals;
mod sockets;
mod talk;

use clients::{Clients, Listeners};
use signals::{Told, notify};
use sockets::{Sockets, move_to};
use talk::Talk;

/// Threads for operators and for accepting; clients, peers and the node have threads of their own.
const HOST_THREADS: usize = 1;

/// The name of a node that nobody has named.
const DEFAULT_NAME: &str = "n1";

/// Why a server does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something is wrong with the configuration.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// Something is wrong with the data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A listener cannot have its address.
    #[error("cannot listen on {address}: {error}; choose another address with --{key}")]
    Listen {
        /// The key that says where.
        key: &'static str,
        /// Where.
        address: Listen,
        /// What the operating system says.
        error: io::Error,
    },
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operating system refuses something else that is needed.
    #[error("cannot {what}: {error}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// What the operating system says.
        error: io::Error,
    },
    /// The node cannot or must not go on. The data is untouched.
    #[error("{0}")]
    Refused(String),
    /// The node belongs to its cluster no more. The data is untouched.
    #[error("{}", node::group::trust::REMOVED)]
    Removed,
    /// What is wrong is made up for by starting the node again, best in a new process.
    #[error("{0}")]
    Again(String),
    /// A bug: the node's thread has failed.
    #[error("the node has failed inside; please report what it said above")]
    Failed,
}

impl Error {
    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |error| Error::System { what, error }
    }
}

/// Where a server can be reached; `None` for a listener that is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// For etcd's clients.
    pub etcd: Listen,
    /// For operators.
    pub admin: Listen,
    /// For peers.
    pub peer: Listen,
}

impl fmt::Display for Endpoints {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "etcd {}, admin {}, peers {}",
            self.etcd, self.admin, self.peer
        )
    }
}

/// Starts servers.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Starts a node and returns at once; [`Handle::wait_until_ready`] waits until it serves.
    /// Nothing is logged unless the embedding program has set up `tracing`.
    ///
    /// # Errors
    /// Something is wrong with the configuration, the data folder or an address. Nothing is left
    /// running then, and nothing has been changed but a folder that was empty.
    ///
    /// # Panics
    /// Called from asynchronous code: it blocks while it binds its addresses.
    pub fn start(configuration: Configuration) -> Result<Handle, Error> {
        start_hosting(configuration, Node::new)
    }
}

/// Starts everything around the machine that `make` makes.
fn start_hosting<M: Machine>(
    configuration: Configuration,
    make: impl FnOnce(Startup) -> M,
) -> Result<Handle, Error> {
    let limits = limits_of(&configuration);
    start_within(configuration, limits, make)
}

/// The same within other limits than the usual ones.
fn start_within<M: Machine>(
    configuration: Configuration,
    limits: Limits,
    make: impl FnOnce(Startup) -> M,
) -> Result<Handle, Error> {
    start_by(Clock::start(), configuration, limits, make)
}

/// The same by another clock.
fn start_by<M: Machine>(
    clock: Clock,
    configuration: Configuration,
    limits: Limits,
    make: impl FnOnce(Startup) -> M,
) -> Result<Handle, Error> {
    configuration.check()?;
    let open_files = raise_open_file_limit();
    // A folder that is there may be in use, which says more than an address that is.
    let path = &configuration.data_dir;
    let folder = path.exists().then(|| Folder::open(path)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("host")
        .worker_threads(HOST_THREADS)
        .max_blocking_threads(limits.node.jobs + limits.node.other_jobs)
        .enable_all()
        .build()
        .map_err(Error::system("start threads"))?;
    let security = Security::new(&configuration)?;
    let gossip_keys = talk::keys(&configuration)?;
    let mut sockets = runtime.block_on(Sockets::bind(&configuration, &limits.gossip))?;
    let packets = sockets.gossip.take();
    let endpoints = sockets.endpoints();
    // A new folder is made only now: a start that fails before leaves none behind.
    let folder = folder.map_or_else(|| Folder::open(path), Ok)?;
    let at = folder.path().display();
    tracing::info!(version = QUORATE_VERSION, folder = %at, "listening: {endpoints}");
    let startup = startup(&configuration, &folder, &sockets)?;
    let told = talk::told(&configuration, gossip_keys, &startup.config);
    let metrics = Metrics::default();
    let (events, receiver) = inbox();
    let (phase, phases) = watch::channel(Phase::Starting);
    let disks = start_disks(&folder, &limits, &metrics, &events)?;
    let node_runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::system("start the node's thread"))?;
    let (asked, questions) = mpsc::channel(limits.transport.questions);
    let (relays, relayed) = mpsc::channel(limits.transport.relay_connections);
    let asker = Asker {
        limits: limits.transport.clone(),
        tls: security.peers.clone(),
    };
    let talk = Talk::new(&configuration, &folder, told, packets, (questions, asker));
    let transport = Transport::start(
        node_runtime.handle().clone(),
        move_to(&node_runtime, sockets.peer)?,
        limits.transport.clone(),
        metrics.clone(),
        peer_events(&events),
        security.peers.clone(),
        (asked, relays),
    );
    security.keep_fresh(&runtime, limits.tls.refresh_interval);
    let changes = Changes::new(limits.clients.waiters);
    let authority = start_authority(&configuration, &limits, clock)?;
    let keyspaces = Keyspaces::default();
    let mailboxes = match sockets.etcd.is_empty() && sockets.keyspaces.is_empty() {
        false => Workers::mailboxes(limits.clients.workers),
        // Nobody would take out what is put in.
        true => Mailboxes::default(),
    };
    let world = World {
        clock,
        changes: changes.clone(),
        events: receiver,
        reports: events.clone(),
        disks,
        transport,
        identity: folder.identity_writer(),
        runtime: runtime.handle().clone(),
        limits: limits.node.clone(),
        metrics: metrics.clone(),
        phase,
        deliveries: Deliveries::new(mailboxes.clone()),
        authority: authority.clone(),
        keyspaces: keyspaces.clone(),
    };
    let node_loop = NodeLoop::new(make(startup), world);
    let clients = Clients {
        configuration: &configuration,
        changes,
        limits: &limits,
        metrics: &metrics,
        open_files,
        clock,
        mailboxes,
        authority,
        keyspaces,
        tls: security.clients,
    };
    let listeners = Listeners {
        etcd: sockets.etcd,
        keyspaces: sockets.keyspaces,
        relayed,
        admin: sockets.admin,
        probed: sockets.metrics,
    };
    let (acceptors, mut seats) = clients.start(&runtime, listeners, talk, &events, &phases);
    let own_seat = if limits.clients.workers == 0 {
        seats.pop()
    } else {
        None
    };
    let workers: io::Result<_> = seats.into_iter().map(Seat::start_thread).collect();
    let workers = workers.map_err(Error::system("start threads"))?;
    let thread = std::thread::Builder::new()
        .name("node".into())
        .spawn(move || {
            let halt = LocalSet::new().block_on(&node_runtime, async move {
                // A task beside those of the transport: as part of this one it would run only
                // after another look at the sockets.
                let node = tokio::spawn(node_loop.run());
                let serving = async {
                    if let Some(seat) = own_seat {
                        let served = tokio::task::spawn_local(seat.take()).await;
                        // A bug in there is one of this thread.
                        served.unwrap_or_else(|failed| resume_unwind(failed.into_panic()));
                    }
                };
                let halted = tokio::join!(node, serving).0;
                halted.unwrap_or_else(|failed| resume_unwind(failed.into_panic()))
            });
            // Looking up a peer's name may take long, and nobody needs it any more.
            node_runtime.shutdown_background();
            halt
        })
        .map_err(Error::system("start the node's thread"))?;
    runtime.spawn(announce(phases.clone(), endpoints.clone()));
    let running = Running {
        runtime,
        thread,
        acceptors,
        workers,
        _folder: folder,
    };
    Ok(Handle {
        endpoints,
        events,
        phases,
        running: Some(running),
    })
}

/// Tells the supervisor that started this process (systemd, `Type=notify`), if it wants to know,
/// that the start is over. Until it has heard so, it takes any end for a failure.
pub fn tell_supervisor() {
    let socket = std::env::var_os("NOTIFY_SOCKET");
    if let Some(Err(error)) = socket.map(|socket| notify(&socket)) {
        tracing::warn!(%error, "the supervisor cannot be told that the node is ready");
    }
}

/// What a server consists of while it runs.
#[derive(Debug)]
struct Running {
    runtime: Runtime,
    thread: JoinHandle<Halt>,
    acceptors: JoinSet<()>,
    workers: Vec<JoinHandle<()>>,
    // Last, so that the folder is unlocked when nobody uses it any more.
    _folder: Folder,
}

/// A server that runs. Dropping it stops it, as [`Handle::shutdown`] and [`Handle::wait`] do.
#[derive(Debug)]
pub struct Handle {
    endpoints: Endpoints,
    events: Sender<Event>,
    phases: watch::Receiver<Phase>,
    running: Option<Running>,
}

impl Handle {
    /// Where the server can be reached, with the ports that the system chose.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Waits until clients are served; false if the server stopped before.
    #[must_use]
    pub fn wait_until_ready(&self) -> bool {
        let Some(running) = &self.running else {
            return false;
        };
        let mut phases = self.phases.clone();
        let settled = async move {
            let settled = phases.wait_for(|phase| *phase != Phase::Starting).await;
            settled.is_ok_and(|phase| *phase == Phase::Ready)
        };
        running.runtime.block_on(settled)
    }

    /// Begins to stop: leadership is handed over and what is under way is answered. Does not
    /// wait.
    pub fn shutdown(&self) {
        // A node that has stopped by itself needs no telling.
        let _ = self.events.send(Event::Shutdown);
    }

    /// Waits until the server has stopped. Blocks; not to be called from asynchronous code.
    ///
    /// # Errors
    /// The node refused to go on, or failed.
    pub fn wait(mut self) -> Result<(), Error> {
        self.running.take().map_or(Ok(()), Running::wait)
    }

    /// Tells the supervisor that started this process once clients are served, if it wants to know.
    pub(crate) fn tell_supervisor(&self) {
        let Some(running) = &self.running else {
            return;
        };
        let mut phases = self.phases.clone();
        running.runtime.spawn(async move {
            let settled = phases.wait_for(|phase| *phase != Phase::Starting).await;
            if settled.is_ok_and(|phase| *phase == Phase::Ready) {
                tell_supervisor();
            }
        });
    }

    /// Stops when the process gets SIGTERM or SIGINT; a second one, a
    /// second later or more, ends the process at once.
    ///
    /// What is returned holds the number of the first signal, once one has come.
    pub(crate) fn stop_on_signals(&self) -> Result<Arc<OnceLock<i32>>, Error> {
        let told = Arc::new(OnceLock::new());
        let Some(running) = &self.running else {
            return Ok(told);
        };
        let _context = running.runtime.enter();
        let mut terminate =
            signal(SignalKind::terminate()).map_err(Error::system("take signals"))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(Error::system("take signals"))?;
        let events = self.events.clone();
        let number = Arc::clone(&told);
        running.runtime.spawn(async move {
            let mut first = None;
            loop {
                let kind = tokio::select! {
                    _ = terminate.recv() => SignalKind::terminate(),
                    _ = interrupt.recv() => SignalKind::interrupt(),
                };
                match Told::at(&mut first, std::time::Instant::now()) {
                    Told::First => drop(number.set(kind.as_raw_value())),
                    Told::Echo => continue,
                    Told::Again => {
                        tracing::warn!("told to stop a second time: stopping at once");
                        std::process::exit(1);
                    }
                }
                tracing::info!("told to stop");
                let _ = events.send(Event::Shutdown);
            }
        });
        Ok(told)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.shutdown();
            // Nobody is there to be told how it went; it has been logged.
            let _ = running.wait();
        }
    }
}

/// How long tasks may take to end after their connections have.
const LAST_TASKS: Duration = Duration::from_secs(1);

impl Running {
    fn wait(self) -> Result<(), Error> {
        let Running {
            runtime,
            thread,
            acceptors,
            workers,
            _folder,
        } = self;
        let halt = thread.join();
        // In a thread of its own, so that a handle may be dropped in asynchronous code too.
        let end = move || {
            runtime.block_on(acceptors.join_all());
            // They end once nobody hands them sockets any more.
            let failed = workers.into_iter().filter_map(|worker| worker.join().err());
            let failed = failed.count();
            runtime.shutdown_timeout(LAST_TASKS);
            assert!(failed == 0, "no worker's thread fails inside");
        };
        if std::thread::spawn(end).join().is_err() {
            return Err(Error::Failed);
        }
        match halt {
            Ok(Halt::Stopped) => {
                tracing::info!("stopped");
                Ok(())
            }
            Ok(Halt::Refused(reason)) => Err(Error::Refused(reason)),
            Ok(Halt::Removed) => Err(Error::Removed),
            Ok(Halt::Again(reason)) => Err(Error::Again(reason)),
            Err(_) => Err(Error::Failed),
        }
    }
}

fn limits_of(configuration: &Configuration) -> Limits {
    let mut limits = Limits::default();
    limits.transport.frame_bytes = node::Limits::default().frame_bytes;
    limits.node.disk_timeout = configuration.shutdown_timeout;
    // A node alone has nobody to hand over to; otherwise the node's own patience comes first.
    limits.clients.operator_timeout = limits
        .clients
        .operator_timeout
        .max(configuration.request_timeout);
    limits
}

/// What the node is started with.
fn startup(
    configuration: &Configuration,
    folder: &Folder,
    sockets: &Sockets,
) -> Result<Startup, Error> {
    let identity = folder.identity()?;
    let named = identity.as_ref().map(|identity| identity.name.clone());
    let name = configuration
        .name
        .clone()
        .or(named)
        .unwrap_or_else(|| DEFAULT_NAME.to_owned());
    let peer_address = configuration.advertised_peer(sockets.peer_address());
    let client_urls =
        configuration.advertised_etcd(sockets.etcd_address(), peer_address.as_deref());
    let config = Config {
        name,
        peer_address,
        place_is_logged: configuration.place != Place::Configured,
        client_urls,
        peers_are_encrypted: configuration.peer_tls.is_on(),
        cluster: configuration.cluster.clone(),
        join: configuration.join.clone(),
        engine: configuration.engine,
        quorums: configuration.quorums,
        copies: configuration.copies,
        is_witness: configuration.witness,
        domains: configuration.domains(),
        tending: match configuration.heals_by_itself {
            true => node::Tending::default(),
            false => node::Tending::OFF,
        },
        timing: Timing {
            election_timeout: configuration.election_timeout,
            heartbeat_interval: configuration.heartbeat_interval,
            request_timeout: configuration.request_timeout,
            shutdown_patience: configuration.shutdown_timeout,
        },
        limits: node_limits(configuration),
    };
    Ok(Startup {
        config,
        identity,
        files: folder.files()?,
        seed: seed::from_system(),
    })
}

/// What an operator has decided of the node's bounds.
fn node_limits(configuration: &Configuration) -> node::Limits {
    let mut limits = node::Limits::default();
    limits.space.quota_bytes = configuration.quota_bytes;
    limits.space.alarm_ends_by_itself = configuration.alarm_ends_by_itself;
    limits.space.retention = configuration.history;
    limits.scrub.bytes_per_second = configuration.scrub_bytes_per_second;
    limits.members.strict = configuration.strict_members;
    limits.members.learners = configuration.max_learners;
    limits
}

fn start_disks(
    folder: &Folder,
    limits: &Limits,
    metrics: &Metrics,
    events: &Sender<Event>,
) -> Result<Disks, Error> {
    let events = events.clone();
    // A disk that hangs may write when it comes back: nobody else may have the folder till then.
    let hold = folder.hold();
    let sink = Arc::new(move |completed: Completed| {
        let _held = &hold;
        let event = Event::Disk(completed.completions);
        // The node's thread waits for the disk threads before it ends.
        let _ = match completed.is_urgent {
            true => events.send(event),
            false => events.send_patiently(event),
        };
    });
    let path = folder.path().to_owned();
    Disks::start(path, &limits.disk, metrics, sink).map_err(Error::system("start disk threads"))
}

fn peer_events(events: &Sender<Event>) -> crate::transport::Events {
    let events = events.clone();
    Arc::new(move |event: PeerEvent| {
        // Connections of a node that has stopped end with it.
        let _ = events.send(Event::Peer(event));
    })
}

/// Who knows who calls, with the keys for that.
fn start_authority(
    configuration: &Configuration,
    limits: &Limits,
    clock: Clock,
) -> Result<Authority, Error> {
    let read = |path: &std::path::Path| std::fs::read(path);
    let tokens = Tokens::open(&configuration.auth_token, read).map_err(|error| {
        Error::Configuration(ConfigurationError {
            key: "auth-token".into(),
            origin: crate::configuration::Origin::default(),
            problem: error.to_string(),
        })
    })?;
    let limits = AuthLimits {
        token_ttl: configuration.auth_token_ttl,
        ..limits.clients.auth.clone()
    };
    let cost = configuration.bcrypt_cost;
    Ok(Authority::new(tokens, cost, &limits, clock))
}

/// How connections are encrypted.
struct Security {
    clients: Option<Arc<Tls>>,
    peers: Option<Arc<Tls>>,
}

impl Security {
    fn new(configuration: &Configuration) -> Result<Security, Error> {
        let hosts = configuration.own_hosts();
        let side = |side, settings| Tls::new(side, settings, &configuration.tls_rules, &hosts);
        Ok(Security {
            clients: side(Side::Clients, &configuration.client_tls)?,
            peers: side(Side::Peers, &configuration.peer_tls)?,
        })
    }

    /// Has changed files read again.
    fn keep_fresh(&self, runtime: &Runtime, interval: Duration) {
        for tls in [&self.clients, &self.peers].into_iter().flatten() {
            runtime.spawn(Arc::clone(tls).keep_fresh(interval));
        }
    }
}

/// Says the one line that scripts and people wait for.
async fn announce(mut phases: watch::Receiver<Phase>, endpoints: Endpoints) {
    let settled = phases.wait_for(|phase| *phase != Phase::Starting).await;
    if settled.is_ok_and(|phase| *phase == Phase::Ready) {
        tracing::info!("ready to serve client requests on {}", endpoints.etcd);
    }
}

/// Every connection needs an open file, and the usual limit of 1024 is a relic. The system's own
/// upper bound is asked for; where that is refused, the limit stays what it was. What holds then;
/// `None` if nothing bounds it.
fn raise_open_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests;
