//! A connection's bytes, written once per turn.
//!
//! ```text
//!   h2 ── frame, frame, … ──▶ [buffer] ── one write when the connection's task is done ──▶ socket
//!                                 └── earlier, if more is waiting than the buffer takes
//! ```
//!
//! The HTTP/2 library flushes whenever it has run out of frames for the moment, and whenever its
//! own small buffer is full; both would be a call of the operating system each. Only the task that
//! drives the connection knows when everything that is ready has been filled in, so flushing is
//! left to it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::metrics::Metrics;

/// The part of a full buffer's memory that a connection keeps while nothing waits.
const KEPT_PART: usize = 8;

struct Inner<S> {
    stream: S,
    buffer: Vec<u8>,
    /// So much of the buffer is written.
    written: usize,
    limit_bytes: usize,
    /// Something has been read since this was last asked.
    has_read: bool,
    /// Read and written in all.
    moved_bytes: u64,
    received_bytes: Counter,
    sent_bytes: Counter,
}

/// A stream whose writes wait for [`Outgoing::poll_drain`]. Clones share it.
pub(super) struct Outgoing<S>(Rc<RefCell<Inner<S>>>);

impl<S> Clone for Outgoing<S> {
    fn clone(&self) -> Outgoing<S> {
        Outgoing(Rc::clone(&self.0))
    }
}

impl<S: AsyncWrite + Unpin> Outgoing<S> {
    pub(super) fn new(stream: S, limit_bytes: usize, metrics: &Metrics) -> Outgoing<S> {
        Outgoing(Rc::new(RefCell::new(Inner {
            stream,
            buffer: Vec::new(),
            written: 0,
            limit_bytes,
            has_read: false,
            moved_bytes: 0,
            received_bytes: metrics.client_received_bytes.clone(),
            sent_bytes: metrics.client_sent_bytes.clone(),
        })))
    }

    /// Writes what waits.
    pub(super) fn poll_drain(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_drain(context)
    }

    /// Whether anything was read since the last time.
    pub(super) fn take_has_read(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().has_read)
    }
}

impl<S> Outgoing<S> {
    /// So many bytes were read and written since the beginning.
    pub(super) fn moved_bytes(&self) -> u64 {
        self.0.borrow().moved_bytes
    }

    /// Does something with the stream below.
    pub(super) fn with<R>(&self, action: impl FnOnce(&mut S) -> R) -> R {
        action(&mut self.0.borrow_mut().stream)
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let rest = &self.buffer[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => {
                    self.written += count;
                    self.moved_bytes += count as u64;
                    self.sent_bytes.inc_by(count as u64);
                }
            }
        }
        // What a kind of stream keeps to itself (TLS does) has to leave too.
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.buffer.clear();
        self.written = 0;
        // A burst is not a reason to keep its memory: there may be ten thousand connections.
        self.buffer.shrink_to(self.limit_bytes / KEPT_PART);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Outgoing<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut inner.stream).poll_read(context, buffer))?;
        let count = buffer.filled().len() - before;
        inner.has_read |= count > 0;
        inner.moved_bytes += count as u64;
        inner.received_bytes.inc_by(count as u64);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Outgoing<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.buffer.len() >= inner.limit_bytes {
            ready!(inner.poll_drain(context))?;
        }
        if inner.buffer.is_empty() && bytes.len() >= inner.limit_bytes {
            // Nothing is gained by copying what fills the buffer by itself.
            let count = ready!(Pin::new(&mut inner.stream).poll_write(context, bytes))?;
            inner.moved_bytes += count as u64;
            inner.sent_bytes.inc_by(count as u64);
            return Poll::Ready(Ok(count));
        }
        let count = bytes.len().min(inner.limit_bytes);
        inner.buffer.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    /// Does nothing: see above.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_drain(context))?;
        Pin::new(&mut inner.stream).poll_shutdown(context)
    }
}
