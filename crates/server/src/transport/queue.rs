//! What waits to be sent over one connection: filled by the node's thread a batch at a time,
//! emptied by the connection's writer all at once.

use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use super::frame::HEAD_BYTES;

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
    phase: Phase,
}

/// What the writer finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// There were frames; they are in the vector now.
    Frames,
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
    limit_bytes: usize,
}

impl SendQueue {
    pub(super) fn new(limit_bytes: usize) -> SendQueue {
        let contents = Contents {
            bodies: Vec::new(),
            bytes: 0,
            phase: Phase::Open,
        };
        SendQueue {
            contents: Mutex::new(contents),
            changed: Notify::new(),
            ending: Notify::new(),
            limit_bytes,
        }
    }

    /// Queues frames; `bodies` is empty afterwards. If they do not fit, they are dropped and the
    /// connection is closed: consensus repairs a gap only after a new connection anyway.
    pub(crate) fn push(&self, bodies: &mut Vec<Bytes>) {
        let added: usize = bodies.iter().map(|body| body.len() + HEAD_BYTES).sum();
        let mut contents = self.contents();
        if contents.phase == Phase::Open {
            if contents.bytes + added > self.limit_bytes {
                contents.phase = Phase::Overflowed;
                self.ending.notify_one();
            } else {
                contents.bytes += added;
                contents.bodies.append(bodies);
            }
        }
        drop(contents);
        bodies.clear();
        self.changed.notify_one();
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
                    return Taken::Frames;
                }
                if contents.phase == Phase::Finishing {
                    return Taken::Finished;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Says that so many bytes, heads included, have been written.
    pub(super) fn written(&self, bytes: usize) {
        let mut contents = self.contents();
        assert!(
            contents.bytes >= bytes,
            "no more is written than was queued"
        );
        contents.bytes -= bytes;
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
