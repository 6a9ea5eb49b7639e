//! One connection, from its preamble to its end.

use std::future::pending;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use node::{ConnectionId, DialId};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::frame::{self, FrameError, HEAD_BYTES, PREAMBLE_BYTES};
use super::question;
use super::queue::{self, SendQueue, Taken};
use super::relay;
use super::stream::{PeerStream, ReadHalf, WriteHalf};
use super::{PeerEvent, Shared};
use crate::limits::TransportLimits;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// The peer closed it between frames.
    ByPeer,
    /// The peer closed it within a frame.
    Truncated,
    /// The peer's side reset it.
    Reset,
    /// The other side did not say in time what it is.
    NoPreamble,
    /// The other side said what it is, and then nothing.
    NoFrame,
    /// The other side had not sent a frame yet when its place was wanted by somebody else.
    GaveWay,
    /// The other side sent something that a peer does not send.
    Bad(FrameError),
    /// More was queued than may wait.
    QueueFull,
    /// The node wanted it closed.
    Finished,
    /// The other side had a question, which has been answered.
    Answered,
    /// The other side had a question, and nobody answers it.
    Unanswered,
    /// Nobody wants it any more.
    Stopped,
    /// The network gave no sign of life.
    TimedOut,
    /// The operating system reported something else.
    Failed,
}

impl Closed {
    /// For the metrics and the log.
    pub(super) fn label(self) -> &'static str {
        match self {
            Closed::ByPeer => "by_peer",
            Closed::Truncated => "truncated",
            Closed::Reset => "reset",
            Closed::NoPreamble => "no_preamble",
            Closed::NoFrame => "no_frame",
            Closed::GaveWay => "gave_way",
            Closed::Bad(FrameError::BadPreamble) => "bad_preamble",
            Closed::Bad(FrameError::NoCommonVersion) => "no_common_version",
            Closed::Bad(FrameError::Oversized) => "oversized",
            Closed::Bad(FrameError::BadChecksum) => "bad_checksum",
            Closed::QueueFull => "queue_full",
            Closed::Finished => "finished",
            Closed::Answered => "answered",
            Closed::Unanswered => "unanswered",
            Closed::Stopped => "stopped",
            Closed::TimedOut => "timed_out",
            Closed::Failed => "failed",
        }
    }

    /// Whether the peer's process ended it: most likely that process died.
    fn is_by_peer(self) -> bool {
        matches!(self, Closed::ByPeer | Closed::Truncated | Closed::Reset)
    }

    pub(super) fn from_error(error: &io::Error) -> Closed {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Closed::Reset,
            io::ErrorKind::UnexpectedEof => Closed::ByPeer,
            io::ErrorKind::TimedOut => Closed::TimedOut,
            _ => Closed::Failed,
        }
    }
}

/// Waits until a connection is to end: nobody wants it any more (the sender is dropped), or
/// somebody else wants its place (something is sent).
async fn stopped(stop: &mut oneshot::Receiver<()>) -> Closed {
    match stop.await {
        Ok(()) => Closed::GaveWay,
        Err(_) => Closed::Stopped,
    }
}

/// Waits in vain if a frame arrives in time.
async fn silence(has_spoken: &AtomicBool, limits: &TransportLimits) {
    sleep(limits.first_frame_timeout).await;
    if has_spoken.load(Ordering::Relaxed) {
        pending::<()>().await;
    }
}

/// Runs a connection to its end, which `stop` brings about too. `has_spoken` is set by its first
/// frame, which must come soon.
pub(super) async fn run(
    mut stream: PeerStream,
    dial: Option<DialId>,
    has_spoken: &AtomicBool,
    shared: &Shared,
    stop: &mut oneshot::Receiver<()>,
) -> Closed {
    let greeting = greet(&mut stream, &shared.limits);
    let greeted = tokio::select! {
        greeted = greeting => greeted,
        closed = stopped(stop) => Err(closed),
    };
    match greeted {
        Err(closed) => {
            shared.count_closed(closed.label());
            closed
        }
        Ok(frame::Sender::Asker) => {
            // Whom this node has dialed has nothing to ask.
            let closed = match dial {
                Some(_) => Closed::Bad(FrameError::BadPreamble),
                None => tokio::select! {
                    closed = question::answer(stream, shared) => closed,
                    closed = stopped(stop) => closed,
                },
            };
            shared.count_closed(closed.label());
            closed
        }
        Ok(frame::Sender::Relay) => {
            let closed = match dial {
                Some(_) => Closed::Bad(FrameError::BadPreamble),
                None => tokio::select! {
                    closed = relay::accept(stream, shared) => closed,
                    closed = stopped(stop) => closed,
                },
            };
            shared.count_closed(closed.label());
            closed
        }
        Ok(frame::Sender::Peer) => {
            let connection = shared.connection_id();
            let (reading, writing) = stream.into_halves();
            // The node's thread writes to plain sockets itself.
            let socket = match &writing {
                WriteHalf::Plain(socket) => Arc::downgrade(socket),
                WriteHalf::Secured(_) => Weak::new(),
            };
            let metrics = shared.metrics.clone();
            let queue = Arc::new(SendQueue::new(socket, &shared.limits, metrics));
            shared.metrics.peer_connections.inc();
            let queue_of_node = Arc::clone(&queue);
            (shared.events)(PeerEvent::Connected {
                connection,
                dial,
                queue: queue_of_node,
            });
            let halves = (reading, writing);
            let closed = exchange(halves, connection, &queue, has_spoken, shared, stop).await;
            // Counted first: whoever hears of the end finds it counted.
            shared.count_closed(closed.label());
            let by_peer = closed.is_by_peer();
            shared.metrics.peer_connections.dec();
            (shared.events)(PeerEvent::Disconnected {
                connection,
                by_peer,
            });
            closed
        }
    }
}

/// Exchanges preambles.
async fn greet(stream: &mut PeerStream, limits: &TransportLimits) -> Result<frame::Sender, Closed> {
    let exchange = async {
        stream.write_all(&frame::preamble()).await?;
        stream.flush().await?;
        let mut theirs = [0; PREAMBLE_BYTES];
        stream.read_exact(&mut theirs).await?;
        Ok(theirs)
    };
    match timeout(limits.preamble_timeout, exchange).await {
        Err(_) => Err(Closed::NoPreamble),
        Ok(Err(error)) => Err(Closed::from_error(&error)),
        Ok(Ok(theirs)) => {
            let negotiated = frame::negotiate(&theirs);
            negotiated.map(|(sender, _)| sender).map_err(Closed::Bad)
        }
    }
}

/// How a socket to a peer is to behave.
pub(super) fn set_up(stream: &TcpStream, limits: &TransportLimits) -> io::Result<()> {
    // A frame must not wait for the acknowledgement of the one before it.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let interval = limits.keepalive_idle / 3;
    let keepalive = TcpKeepalive::new()
        .with_time(limits.keepalive_idle)
        .with_interval(interval);
    socket.set_tcp_keepalive(&keepalive)?;
    // After a partition, the kernel's own repetitions may be many seconds apart by the time the
    // network is back; a new connection is faster.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(limits.unacknowledged_timeout))?;
    Ok(())
}

/// Moves frames both ways until one side ends it.
async fn exchange(
    (mut read_half, mut write_half): (ReadHalf, WriteHalf),
    connection: ConnectionId,
    queue: &SendQueue,
    has_spoken: &AtomicBool,
    shared: &Shared,
    stop: &mut oneshot::Receiver<()>,
) -> Closed {
    let reading = read(&mut read_half, connection, has_spoken, shared);
    let writing = write(&mut write_half, queue, shared);
    tokio::pin!(writing);
    tokio::select! {
        closed = reading => closed,
        closed = &mut writing => closed,
        drain = queue.ending() => {
            if !drain {
                return Closed::QueueFull;
            }
            timeout(shared.limits.drain_timeout, writing).await.unwrap_or(Closed::TimedOut)
        }
        () = silence(has_spoken, &shared.limits) => Closed::NoFrame,
        closed = stopped(stop) => closed,
    }
}

async fn read(
    half: &mut ReadHalf,
    connection: ConnectionId,
    has_spoken: &AtomicBool,
    shared: &Shared,
) -> Closed {
    let limits = &shared.limits;
    let credit = Arc::new(Semaphore::new(limits.receive_queue_bytes));
    let mut buffer = BytesMut::with_capacity(limits.read_buffer_bytes);
    loop {
        make_room(&mut buffer, limits.read_buffer_bytes);
        match half.read_buf(&mut buffer).await {
            Ok(0) if buffer.is_empty() => return Closed::ByPeer,
            Ok(0) => return Closed::Truncated,
            Ok(count) => shared.metrics.peer_received_bytes.inc_by(count as u64),
            Err(error) => return Closed::from_error(&error),
        };
        let mut bodies = Vec::new();
        let mut bytes = 0;
        let end = loop {
            match frame::take(&mut buffer, limits.frame_bytes, limits.copied_body_bytes) {
                Ok(Some(body)) => {
                    bytes += body.len() + HEAD_BYTES;
                    bodies.push(body);
                }
                Ok(None) => break None,
                Err(error) => break Some(Closed::Bad(error)),
            }
        };
        if !bodies.is_empty() {
            has_spoken.store(true, Ordering::Relaxed);
            shared
                .metrics
                .peer_received_frames
                .inc_by(bodies.len() as u64);
            // A batch may be longer than all credit there is; it then waits for all of it.
            let wanted = u32::try_from(bytes.min(limits.receive_queue_bytes)).unwrap_or(u32::MAX);
            let credit = Arc::clone(&credit).acquire_many_owned(wanted).await;
            let credit = credit.expect("credit is never closed");
            (shared.events)(PeerEvent::Frames {
                connection,
                bodies,
                credit,
            });
        }
        if let Some(closed) = end {
            return closed;
        }
    }
}

/// Makes sure that a read can bring in a useful amount. Room for a long frame grows with what has
/// really arrived, so that a head that promises much costs nothing.
fn make_room(buffer: &mut BytesMut, usual: usize) {
    let useful = usual / 4;
    if buffer.capacity() - buffer.len() < useful {
        buffer.reserve(frame::missing(buffer).min(buffer.len()).max(usual));
    }
}

async fn write(half: &mut WriteHalf, queue: &SendQueue, shared: &Shared) -> Closed {
    let mut bodies = Vec::new();
    loop {
        let mut begun = match queue.take(&mut bodies).await {
            // The socket says so to the peer when it is dropped.
            Taken::Finished => return Closed::Finished,
            Taken::Overflowed => return Closed::QueueFull,
            Taken::Frames { begun } => begun,
        };
        for batch in bodies.chunks(shared.limits.frames_per_write) {
            let begun = std::mem::take(&mut begun);
            let written = match half {
                WriteHalf::Plain(socket) => write_batch(socket, batch, begun).await,
                WriteHalf::Secured(stream) => write_secured(stream, batch).await,
            };
            match written {
                Ok(bytes) => queue.written(batch.len(), bytes),
                Err(error) => return Closed::from_error(&error),
            }
        }
        bodies.clear();
    }
}

/// Writes frames of which `begun` bytes are written, with as few calls as the socket allows; the
/// number of all their bytes.
async fn write_batch(
    socket: &OwnedWriteHalf,
    bodies: &[Bytes],
    mut begun: usize,
) -> io::Result<usize> {
    let total = bodies.iter().map(|body| body.len() + HEAD_BYTES).sum();
    while begun < total {
        match queue::write(socket, bodies, begun) {
            Ok(written) => begun = written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// The same over TLS, whose records are filled by as many frames as there are.
async fn write_secured(
    stream: &mut (impl AsyncWrite + Unpin),
    bodies: &[Bytes],
) -> io::Result<usize> {
    let heads: Vec<[u8; HEAD_BYTES]> = bodies.iter().map(|body| frame::head(body)).collect();
    let pairs = heads.iter().zip(bodies);
    let mut slices: Vec<IoSlice<'_>> = pairs
        .flat_map(|(head, body)| [IoSlice::new(head), IoSlice::new(body)])
        .collect();
    let mut rest = &mut slices[..];
    let mut total = 0;
    while !rest.is_empty() {
        match stream.write_vectored(rest).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => {
                total += count;
                IoSlice::advance_slices(&mut rest, count);
            }
        }
    }
    stream.flush().await?;
    Ok(total)
}
