//! Connections between the nodes of a cluster: framed TCP, nothing more.
//!
//! ```text
//!   node's thread ── Dial, HangUp ──▶ dialing task per wish ──┐
//!                 ── Vec<Bytes> ────▶ SendQueue ─▶ writer ────┤ one TCP connection:
//!        events ◀── Connected, Frames, Disconnected ◀─ reader ┘ preamble, then frames
//! ```
//!
//! Consensus traffic does not pay for HTTP/2: a frame is a length, a checksum and a body. Where
//! nothing waits, the node's thread writes frames itself; the writer has what the socket does not
//! take, and what comes after it. What has queued up goes out with one call of the operating
//! system; all complete frames that a read brought in reach the node as one batch and cost it one
//! wake-up. Nothing here decides anything: a connection that misbehaves is closed and counted, and
//! the node is told.
//!
//! Credit flows backwards: a connection whose frames the node has not looked at yet is not read
//! any further, so that the sender's queue fills, which its node notices.
//!
//! - [`frame`]: the bytes, as pure functions.
//! - [`queue`]: what waits to be sent over one connection.
//! - [`connection`]: one connection from its preamble to its end.
//! - [`stream`]: the kinds of connection, plain and TLS.
//! - [`relay`]: calls of clients that one node carries on to another.
//! - [`question`]: a question and its answer, for everything beside the frames of nodes.
//! - [`dial`]: dialing, and dialing again.

mod connection;
mod dial;
mod frame;
mod question;
mod queue;
mod relay;
mod stream;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use node::{ConnectionId, DialId};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::limits::TransportLimits;
use crate::metrics::Metrics;
use crate::tls::Tls;
pub(crate) use question::{Asked, Asker, Subject};
pub(crate) use queue::SendQueue;
pub(crate) use relay::Relayed;
use stream::PeerStream;

/// What the node's thread is told.
pub(crate) enum PeerEvent {
    /// A connection is up.
    Connected {
        connection: ConnectionId,
        dial: Option<DialId>,
        /// Where its frames go.
        queue: Arc<SendQueue>,
    },
    /// Frames arrived, in order, their checksums verified.
    Frames {
        connection: ConnectionId,
        bodies: Vec<Bytes>,
        /// To be dropped once the node has taken the frames in.
        credit: OwnedSemaphorePermit,
    },
    /// A connection is gone; nothing more is said of it.
    Disconnected {
        connection: ConnectionId,
        by_peer: bool,
    },
}

/// Takes events; called by tasks of the runtime.
pub(crate) type Events = Arc<dyn Fn(PeerEvent) + Send + Sync>;

/// What all connections share.
struct Shared {
    limits: TransportLimits,
    metrics: Metrics,
    events: Events,
    next_connection: AtomicU64,
    tls: Option<Arc<Tls>>,
    /// Who answers questions.
    questions: mpsc::Sender<Asked>,
    /// Who serves what other nodes carry on.
    relays: mpsc::Sender<Relayed>,
    relay_places: Arc<Semaphore>,
}

impl Shared {
    fn connection_id(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    fn count_closed(&self, reason: &'static str) {
        let closed = &self.metrics.peer_closed;
        closed.get_or_create(&[("reason", reason)]).inc();
        if !matches!(reason, "finished" | "stopped" | "by_peer" | "answered") {
            self.metrics.peer_failures.inc();
        }
    }
}

/// The connections of one node. Dropping it ends them all.
pub(crate) struct Transport {
    runtime: Handle,
    shared: Arc<Shared>,
    /// The dialing tasks; a task ends when its sender is dropped.
    dials: BTreeMap<DialId, oneshot::Sender<()>>,
    /// Likewise for the task that accepts.
    _accepting: Option<oneshot::Sender<()>>,
}

impl Transport {
    /// Begins to accept, if there is a listener. `runtime` runs the tasks; `questions` are
    /// answered elsewhere, and so are the calls that other nodes carry on.
    pub(crate) fn start(
        runtime: Handle,
        listener: Option<TcpListener>,
        limits: TransportLimits,
        metrics: Metrics,
        events: Events,
        tls: Option<Arc<Tls>>,
        (questions, relays): (mpsc::Sender<Asked>, mpsc::Sender<Relayed>),
    ) -> Transport {
        let next_connection = AtomicU64::new(1);
        let relay_places = Arc::new(Semaphore::new(limits.relay_connections));
        let shared = Arc::new(Shared {
            limits,
            metrics,
            events,
            next_connection,
            tls,
            questions,
            relays,
            relay_places,
        });
        let accepting = listener.map(|listener| {
            let (running, stop) = oneshot::channel();
            runtime.spawn(accept(listener, Arc::clone(&shared), stop));
            running
        });
        Transport {
            runtime,
            shared,
            dials: BTreeMap::new(),
            _accepting: accepting,
        }
    }

    /// Keeps a connection to `address`, instead of the one that `dial` stood for.
    pub(crate) fn dial(&mut self, dial: DialId, address: String) {
        let (running, stop) = oneshot::channel();
        // The old sender is dropped here, which ends the old task and its connection.
        self.dials.insert(dial, running);
        self.runtime
            .spawn(dial::keep(dial, address, Arc::clone(&self.shared), stop));
    }

    /// Stops dialing and closes the connection.
    pub(crate) fn hang_up(&mut self, dial: DialId) {
        self.dials.remove(&dial);
    }
}

/// A connection that was accepted.
struct Guest {
    /// The connection ends when this is dropped, and gives way when something is sent.
    stop: oneshot::Sender<()>,
    /// Whether a frame has come: strangers do not know how.
    has_spoken: Arc<AtomicBool>,
}

/// Accepts peers, at most so many at a time, until `stop`.
async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stop: oneshot::Receiver<()>) {
    // Connections end with the task that accepted them. The oldest stands first.
    let mut guests: Vec<Guest> = Vec::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => return,
        };
        match accepted {
            Ok((stream, address)) => {
                if !make_place(&mut guests, shared.limits.accepted_connections) {
                    shared.count_closed("no_place");
                    tracing::debug!(%address, "too many peers are connected");
                    continue;
                }
                let (running, stop) = oneshot::channel();
                let has_spoken = Arc::new(AtomicBool::new(false));
                guests.push(Guest {
                    stop: running,
                    has_spoken: Arc::clone(&has_spoken),
                });
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    serve(stream, address, &has_spoken, &shared, stop).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer's connection");
                tokio::select! {
                    () = tokio::time::sleep(shared.limits.connect_timeout) => {}
                    _ = &mut stop => return,
                }
            }
        }
    }
}

/// Makes sure that another connection has a place, if need be that of the oldest one that has not
/// sent a frame yet; false if all have.
fn make_place(guests: &mut Vec<Guest>, most: usize) -> bool {
    guests.retain(|guest| !guest.stop.is_closed());
    if guests.len() < most {
        return true;
    }
    let silent = |guest: &Guest| !guest.has_spoken.load(Ordering::Relaxed);
    let Some(oldest) = guests.iter().position(silent) else {
        return false;
    };
    // It may have ended by itself just now.
    let _ = guests.remove(oldest).stop.send(());
    true
}

async fn serve(
    stream: tokio::net::TcpStream,
    address: SocketAddr,
    has_spoken: &AtomicBool,
    shared: &Shared,
    mut stop: oneshot::Receiver<()>,
) {
    let secured = tokio::select! {
        secured = accept_secured(stream, shared) => secured,
        _ = &mut stop => return,
    };
    let stream = match secured {
        Ok(stream) => stream,
        Err(error) => {
            shared.count_closed("insecure");
            tracing::debug!(%address, %error, "a peer's connection is refused");
            return;
        }
    };
    let closed = connection::run(stream, None, has_spoken, shared, &mut stop).await;
    tracing::debug!(%address, reason = closed.label(), "a peer's connection ended");
}

/// Speaks TLS with whoever has connected, if that is spoken here.
async fn accept_secured(stream: TcpStream, shared: &Shared) -> io::Result<PeerStream> {
    connection::set_up(&stream, &shared.limits)?;
    let Some(tls) = &shared.tls else {
        return Ok(PeerStream::Plain(stream));
    };
    let secured = timeout(shared.limits.preamble_timeout, tls.accept_peer(stream)).await;
    let secured = secured.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(PeerStream::Secured(Box::new(secured)))
}

/// Frames of a peer, in pieces; see [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz<'a>(pieces: impl Iterator<Item = &'a [u8]>) {
    const LONGEST: usize = 1 << 16;
    let mut buffer = bytes::BytesMut::new();
    for piece in pieces {
        if let Ok(preamble) = piece.try_into() {
            let _ = frame::negotiate(preamble);
        }
        buffer.extend_from_slice(piece);
        loop {
            match frame::take(&mut buffer, LONGEST, LONGEST / 2) {
                Ok(Some(body)) => drop(node::wire::Frame::decode(body)),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        let _ = frame::missing(&buffer);
    }
}

#[cfg(test)]
mod tests;
