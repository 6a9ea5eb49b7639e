//! Accepting clients and operators: one acceptor per address, every protocol behind it.
//!
//! ```text
//!   TCP or Unix socket ─ accept, no delay ─ HTTP/1.1 or HTTP/2 by its first bytes ─ axum router
//!     a place for each                        which must come soon
//!                                            gRPC, JSON, metrics and probes are routes of it
//! ```
//!
//! gRPC's own server would ignore the setting that matters most here: without `TCP_NODELAY` on
//! each accepted socket an answer waits 40 ms for the acknowledgement of the one before it. So
//! sockets are accepted here, and the libraries are given streams.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt as _;

use crate::configuration::Listen;
use crate::keyspace::Choice;
use crate::limits::ClientLimits;
use crate::metrics::Metrics;
use crate::node_loop::Phase;
use crate::opening::{self, Opened, Unopened};
use crate::serving::{Accepted, ClientStream, Workers};
use crate::tls::{Movable, Tls};

/// Where a request came from; every request carries it as an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// From this machine, over the loopback interface.
    Loopback,
    /// From another machine.
    Remote,
    /// From this machine, over a Unix socket, whose file says who may.
    UnixSocket,
    /// From the gateway of this server, on behalf of one of its clients.
    Gateway,
    /// From another node, on behalf of one of its clients.
    Peer,
    /// From this server itself, on behalf of one of its clients.
    Itself,
}

/// A bound socket.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        file: UnixFile,
        /// Its connections speak TLS, if this side does.
        is_secured: bool,
    },
}

/// Removes a socket's file at the end, if it is still the one that was made here.
pub(crate) struct UnixFile {
    path: PathBuf,
    /// The device and the number of the file on it.
    identity: (u64, u64),
}

impl UnixFile {
    /// Takes charge of the file of a socket that was just bound.
    fn of(path: &Path) -> io::Result<UnixFile> {
        let identity = identity_of(path)?;
        let path = path.to_owned();
        Ok(UnixFile { path, identity })
    }
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        // Somebody may have put another file in its place, which is not ours to remove.
        if identity_of(&self.path).is_ok_and(|identity| identity == self.identity) {
            // Whoever starts next replaces a socket that nobody listens on.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Listener {
    /// Binds; `None` for a listener that is off.
    pub(crate) async fn bind(listen: &Listen) -> io::Result<Option<Listener>> {
        match listen {
            Listen::None => Ok(None),
            Listen::Tcp(address) => Ok(Some(Listener::Tcp(TcpListener::bind(address).await?))),
            Listen::Unix(path) | Listen::SecuredUnix(path) => {
                remove_stale(path).await?;
                let listener = UnixListener::bind(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
                Ok(Some(Listener::Unix {
                    listener,
                    file: UnixFile::of(path)?,
                    is_secured: matches!(listen, Listen::SecuredUnix(_)),
                }))
            }
        }
    }

    /// Whether its connections are never encrypted.
    fn is_plain(&self) -> bool {
        let Listener::Unix { is_secured, .. } = self else {
            return false;
        };
        !is_secured
    }

    /// Where it really listens.
    pub(crate) fn address(&self) -> Listen {
        match self {
            Listener::Tcp(listener) => match listener.local_addr() {
                Ok(address) => Listen::Tcp(address.to_string()),
                Err(_) => Listen::None,
            },
            Listener::Unix {
                file, is_secured, ..
            } => match is_secured {
                true => Listen::SecuredUnix(file.path.clone()),
                false => Listen::Unix(file.path.clone()),
            },
        }
    }
}

/// Removes the file of a socket that nobody listens on, left behind by a process that was killed.
/// Connecting alone does not tell: it is refused by files of every other kind as well.
async fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let problem = "a file that is not a socket stands there, and is left alone";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
        }
        Ok(_) => {}
    }
    match tokio::net::UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

/// Who serves the connections of a listener.
#[derive(Clone)]
pub(crate) struct Service {
    /// Serves whatever comes; over HTTP/2 only if there are no workers.
    pub(crate) router: Router,
    /// Serve HTTP/2.
    pub(crate) workers: Option<Workers>,
}

/// What all listeners share.
#[derive(Clone)]
pub(crate) struct Acceptor {
    pub(crate) limits: ClientLimits,
    pub(crate) metrics: Metrics,
    /// A permit per connection; the two kinds of listeners do not share theirs.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Nobody is let in any more once the node is about to stop: clients that know other nodes go
    /// there at once.
    pub(crate) closes_early: bool,
    /// How connections are encrypted, if they are. Those of plain Unix sockets never are: they stay
    /// on this machine, and the socket's file says who may.
    pub(crate) tls: Option<Arc<Tls>>,
    /// What chooses a keyspace for those who name none.
    pub(crate) choice: Choice,
}

/// A listener that is about to close waits so long for whoever has connected already.
const LAST_LOOK: Duration = Duration::from_millis(2);
/// After a failure to accept (most often: too many open files) nothing is accepted this long.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

impl Acceptor {
    /// Accepts on `listener` until the node has stopped, or is about to, then lets connections end.
    pub(crate) async fn serve(mut self, listener: Listener, service: Service) {
        if listener.is_plain() {
            self.tls = None;
        }
        let graceful = GracefulShutdown::new();
        let builder = builder(&self.limits);
        let closes_early = self.closes_early;
        let is_over = |phase: &Phase| match phase {
            Phase::Stopping => closes_early,
            phase => *phase == Phase::Stopped,
        };
        loop {
            let places = Arc::clone(&self.places);
            let next = async {
                let place = places
                    .acquire_owned()
                    .await
                    .expect("places is never closed");
                (place, accept(&listener).await)
            };
            let stopped = self.phase.wait_for(is_over);
            let (place, accepted) = tokio::select! {
                next = next => next,
                _ = stopped => break,
            };
            match accepted {
                Ok((stream, source)) => {
                    self.spawn(stream, source, place, &builder, &service, &graceful);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
        if closes_early {
            self.take_last(&listener, &builder, &service, &graceful)
                .await;
        }
        drop(listener);
        // Those that have not ended by then end with the process.
        let _ = tokio::time::timeout(self.limits.drain_timeout, graceful.shutdown()).await;
    }

    /// Takes those who have connected by now: they may have asked for something already, and would
    /// never know what came of it if their connections were reset with the listener.
    async fn take_last(
        &self,
        listener: &Listener,
        builder: &Builder<TokioExecutor>,
        service: &Service,
        graceful: &GracefulShutdown,
    ) {
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned()
            && let Ok(Ok((stream, source))) =
                tokio::time::timeout(LAST_LOOK, accept(listener)).await
        {
            self.spawn(stream, source, place, builder, service, graceful);
        }
    }

    /// Serves one connection to its end, in a task of its own, unless it is a worker's.
    fn spawn(
        &self,
        stream: ClientStream,
        source: Source,
        place: OwnedSemaphorePermit,
        builder: &Builder<TokioExecutor>,
        service: &Service,
        graceful: &GracefulShutdown,
    ) {
        let router = service.router.clone();
        let workers = service.workers.clone();
        let builder = builder.clone();
        let watcher = graceful.watcher();
        let held = Held::new(place, &self.metrics);
        let mut phase = self.phase.clone();
        let patience = self.limits.header_timeout;
        let starting_timeout = self.limits.starting_timeout;
        let tls = self.tls.clone();
        let choice = self.choice.clone();
        let names_clients = tls.as_ref().is_some_and(|tls| tls.names_clients());
        tokio::spawn(async move {
            let opened = tokio::select! {
                opened = secure_and_open(stream, tls, patience) => opened,
                _ = phase.wait_for(|phase| *phase == Phase::Stopped) => Err(Unopened::Ended),
            };
            let stream = match opened {
                Err(unopened) => return held.end(Closed::from_unopened(&unopened)),
                Ok(stream) => stream,
            };
            let common_name = stream.get_ref().common_name().filter(|_| names_clients);
            let choice = choice.with_server_name(stream.get_ref().server_name());
            if let Some(workers) = workers
                && stream.is_http2()
            {
                // As in etcd: a client that knows other nodes takes this one for one only when it
                // hears the first word of HTTP/2. Probes over HTTP/1 are answered at once.
                let begun = phase.wait_for(|phase| *phase != Phase::Starting);
                if tokio::time::timeout(starting_timeout, begun).await.is_err() {
                    return held.end(Closed::from_unopened(&Unopened::Ended));
                }
                return match stream.try_map(ClientStream::leave) {
                    Err(error) => held.end(Closed::from_unopened(&Unopened::Failed(error))),
                    Ok(stream) => workers.hand_over(Accepted {
                        stream,
                        source,
                        common_name,
                        choice,
                        held,
                    }),
                };
            }
            let place = held.place();
            let service =
                hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
                    let uri = request.uri().clone();
                    choice.apply(&uri, request.headers_mut());
                    let extensions = request.extensions_mut();
                    extensions.insert(source);
                    if let Some(place) = &place {
                        extensions.insert(place.clone());
                    }
                    if let Some(name) = &common_name {
                        extensions.insert(name.clone());
                    }
                    router.clone().oneshot(request)
                });
            let connection = builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .into_owned();
            held.end(match watcher.watch(connection).await {
                Ok(()) => Closed::Ended,
                Err(error) => {
                    tracing::debug!(error, "a client's connection failed");
                    Closed::from_error(error.as_ref())
                }
            });
        });
    }
}

/// A connection's place among the others, which is free once the last of these is dropped. Every
/// request over HTTP/1 carries it as an extension.
#[derive(Clone)]
pub(crate) struct KeptPlace(#[expect(dead_code, reason = "held")] Arc<OwnedSemaphorePermit>);

/// A connection's place among the others, and among what is counted.
pub(crate) struct Held {
    /// The gateway's own connection has none, and is not counted.
    listed: Option<(KeptPlace, Metrics)>,
    /// Another node's connection has a place among those of nodes.
    _place: Option<OwnedSemaphorePermit>,
    closed: Closed,
}

impl Held {
    fn new(place: OwnedSemaphorePermit, metrics: &Metrics) -> Held {
        metrics.client_connections.inc();
        Held {
            listed: Some((KeptPlace(Arc::new(place)), metrics.clone())),
            _place: None,
            closed: Closed::Ended,
        }
    }

    /// Of a connection that the server has to itself.
    pub(crate) fn by_the_server() -> Held {
        Held {
            listed: None,
            _place: None,
            closed: Closed::Ended,
        }
    }

    /// Of another node's connection.
    pub(crate) fn by_a_node(place: OwnedSemaphorePermit) -> Held {
        Held {
            listed: None,
            _place: Some(place),
            closed: Closed::Ended,
        }
    }

    /// Its place, for who goes on with the connection as something else than HTTP.
    fn place(&self) -> Option<KeptPlace> {
        self.listed.as_ref().map(|(place, _)| place.clone())
    }

    /// The connection has ended, and why.
    pub(crate) fn end(mut self, closed: Closed) {
        self.closed = closed;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((_, metrics)) = &self.listed {
            metrics.client_connections.dec();
            let reason = [("reason", self.closed.label())];
            metrics.client_closed.get_or_create(&reason).inc();
        }
    }
}

/// Speaks TLS, if that is to be spoken, and waits for the first bytes; each within so long.
async fn secure_and_open(
    stream: ClientStream,
    tls: Option<Arc<Tls>>,
    patience: Duration,
) -> Result<Opened<ClientStream>, Unopened> {
    let movable = match (stream, &tls) {
        (ClientStream::Tcp(stream), Some(_)) => Movable::from(stream),
        (ClientStream::Unix(stream), Some(_)) => Movable::from(stream),
        (stream, _) => return opening::open(stream, patience).await,
    };
    let tls = tls.expect("only then is there something to be secured");
    let stream = match tokio::time::timeout(patience, tls.accept_client(movable)).await {
        Err(_) => return Err(Unopened::Silent),
        Ok(Err(error)) => return Err(Unopened::Insecure(error)),
        Ok(Ok(stream)) => ClientStream::Secured(stream),
    };
    opening::open(stream, patience).await
}

/// Why a client's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// One side ended it between requests.
    Ended,
    /// The client did not say in time what it speaks.
    Silent,
    /// The client took too long with a head, or did not answer a probe.
    TimedOut,
    /// The client sent something that is not HTTP.
    NotHttp,
    /// The client ended it within a request.
    Truncated,
    /// The client does not speak TLS as it must, or has no good certificate.
    Insecure,
    /// Anything else.
    Failed,
}

impl Closed {
    /// For the metrics.
    fn label(self) -> &'static str {
        match self {
            Closed::Ended => "ended",
            Closed::Silent => "silent",
            Closed::TimedOut => "timed_out",
            Closed::NotHttp => "not_http",
            Closed::Truncated => "truncated",
            Closed::Insecure => "insecure",
            Closed::Failed => "failed",
        }
    }

    fn from_unopened(unopened: &Unopened) -> Closed {
        match unopened {
            Unopened::Ended => Closed::Ended,
            Unopened::Silent => Closed::Silent,
            Unopened::Failed(error) => {
                tracing::debug!(%error, "a client's connection failed at once");
                Closed::Failed
            }
            Unopened::Insecure(error) => {
                tracing::debug!(%error, "a client does not speak TLS as it must");
                Closed::Insecure
            }
        }
    }

    fn from_error(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Closed {
        match error.downcast_ref::<hyper::Error>() {
            Some(error) if error.is_timeout() => Closed::TimedOut,
            Some(error) if error.is_parse() => Closed::NotHttp,
            Some(error) if error.is_incomplete_message() => Closed::Truncated,
            _ => Closed::Failed,
        }
    }
}

async fn accept(listener: &Listener) -> io::Result<(ClientStream, Source)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // Finds clients that vanished without a word, on connections that are idle.
            let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            let local = address.ip().to_canonical().is_loopback();
            let source = if local {
                Source::Loopback
            } else {
                Source::Remote
            };
            Ok((ClientStream::Tcp(stream), source))
        }
        Listener::Unix { listener, .. } => {
            let (stream, _) = listener.accept().await?;
            Ok((ClientStream::Unix(stream), Source::UnixSocket))
        }
    }
}

fn builder(limits: &ClientLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_concurrent_streams(limits.streams_per_connection)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}
