//! What waits to be sent over one connection: filled by the node's thread a batch at a time,
//! emptied by the connection's writer all at once.
//!
//! Where nothing waits, the node's thread writes to the socket itself: the frames leave before the
//! pass goes on, without a task in between. What the socket does not take is the writer's.

use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, Weak};

use bytes::Bytes;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use super::frame::{self, HEAD_BYTES};
use crate::limits::TransportLimits;
use crate::metrics::Metrics;

/// How a queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// What is queued is still sent, then the connection is closed.
    Finishing,
    /// Nothing more is sent.
    Overflowed,
}

struct Contents {
    bodies: Vec<Bytes>,
    /// Bytes that are queued or being written.
    bytes: usize,
    /// So many bytes of what is queued have been written already.
    begun: usize,
    phase: Phase,
}

/// What the writer finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// There were frames; they are in the vector now.
    Frames {
        /// So many bytes of the first of them, heads included, have been written already.
        begun: usize,
    },
    /// Everything is sent and the connection is to be closed.
    Finished,
    /// More was queued than may wait.
    Overflowed,
}

/// The queue of one connection.
pub(crate) struct SendQueue {
    contents: Mutex<Contents>,
    /// Wakes the writer.
    changed: Notify,
    /// Wakes whoever guards the connection, whatever the writer is held up by.
    ending: Notify,
    /// The socket, as long as the connection lasts.
    socket: Weak<OwnedWriteHalf>,
    metrics: Metrics,
    limit_bytes: usize,
    /// So many frames go into one call of the operating system.
    frames_per_write: usize,
}

impl SendQueue {
    pub(super) fn new(
        socket: Weak<OwnedWriteHalf>,
        limits: &TransportLimits,
        metrics: Metrics,
    ) -> SendQueue {
        let contents = Contents {
            bodies: Vec::new(),
            bytes: 0,
            begun: 0,
            phase: Phase::Open,
        };
        SendQueue {
            contents: Mutex::new(contents),
            changed: Notify::new(),
            ending: Notify::new(),
            socket,
            metrics,
            limit_bytes: limits.send_queue_bytes,
            frames_per_write: limits.frames_per_write,
        }
    }

    /// Sends frames, or queues what cannot be sent at once; `bodies` is empty afterwards. If they
    /// do not fit, they are dropped and the connection is closed: consensus repairs a gap only
    /// after a new connection anyway.
    pub(crate) fn push(&self, bodies: &mut Vec<Bytes>) {
        let added: usize = bodies.iter().map(|body| body.len() + HEAD_BYTES).sum();
        let mut contents = self.contents();
        if contents.phase == Phase::Open {
            if contents.bytes + added > self.limit_bytes {
                contents.phase = Phase::Overflowed;
                self.ending.notify_one();
            } else {
                // What waits, or is being written, goes first.
                let begun = match contents.bytes {
                    0 => self.write_at_once(bodies),
                    _ => 0,
                };
                if begun == added {
                    self.count_sent(bodies.len(), added);
                    bodies.clear();
                    return;
                }
                contents.begun += begun;
                contents.bytes += added;
                contents.bodies.append(bodies);
            }
        }
        drop(contents);
        bodies.clear();
        self.changed.notify_one();
    }

    /// Writes what the socket takes at once; the number of bytes.
    fn write_at_once(&self, bodies: &[Bytes]) -> usize {
        let Some(socket) = self.socket.upgrade() else {
            return 0;
        };
        // What the writer is told to have begun lies within its first batch.
        if bodies.len() > self.frames_per_write {
            return 0;
        }
        // The writer meets the same error, and ends the connection.
        write(&socket, bodies, 0).unwrap_or(0)
    }

    /// Whether everything has been written.
    pub(crate) fn is_empty(&self) -> bool {
        self.contents().bytes == 0
    }

    /// Sends what is queued, then closes the connection.
    pub(crate) fn finish(&self) {
        let mut contents = self.contents();
        if contents.phase == Phase::Open {
            contents.phase = Phase::Finishing;
        }
        drop(contents);
        self.changed.notify_one();
        self.ending.notify_one();
    }

    /// Waits until there is something to do. The frames are put into `bodies`, which is empty.
    pub(super) async fn take(&self, bodies: &mut Vec<Bytes>) -> Taken {
        loop {
            {
                let mut contents = self.contents();
                if contents.phase == Phase::Overflowed {
                    return Taken::Overflowed;
                }
                if !contents.bodies.is_empty() {
                    std::mem::swap(&mut contents.bodies, bodies);
                    let begun = std::mem::take(&mut contents.begun);
                    return Taken::Frames { begun };
                }
                if contents.phase == Phase::Finishing {
                    return Taken::Finished;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Says that so many frames have been written, of so many bytes with their heads.
    pub(super) fn written(&self, frames: usize, bytes: usize) {
        self.count_sent(frames, bytes);
        let mut contents = self.contents();
        assert!(
            contents.bytes >= bytes,
            "no more is written than was queued"
        );
        contents.bytes -= bytes;
    }

    fn count_sent(&self, frames: usize, bytes: usize) {
        self.metrics.peer_sent_bytes.inc_by(bytes as u64);
        self.metrics.peer_sent_frames.inc_by(frames as u64);
    }

    /// Waits until this side wants the connection to end; true if what is queued is still to be
    /// sent.
    pub(super) async fn ending(&self) -> bool {
        loop {
            match self.contents().phase {
                Phase::Open => {}
                Phase::Finishing => return true,
                Phase::Overflowed => return false,
            }
            self.ending.notified().await;
        }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents
            .lock()
            .expect("nobody panics while holding the queue")
    }
}

/// Writes frames of which `begun` bytes are written, with one call of the operating system; the
/// number of bytes that are written then.
pub(super) fn write(socket: &OwnedWriteHalf, bodies: &[Bytes], begun: usize) -> io::Result<usize> {
    let heads: Vec<[u8; HEAD_BYTES]> = bodies.iter().map(|body| frame::head(body)).collect();
    let pairs = heads.iter().zip(bodies);
    let mut slices: Vec<IoSlice<'_>> = pairs
        .flat_map(|(head, body)| [IoSlice::new(head), IoSlice::new(body)])
        .collect();
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, begun);
    match socket.try_write_vectored(rest)? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        count => Ok(begun + count),
    }
}
