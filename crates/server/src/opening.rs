//! The first bytes of a client's connection, which must come soon.
//!
//! ```text
//!   accepted ── 24 bytes, or fewer that tell ──▶ HTTP/1 or HTTP/2, with time-outs of their own
//!            ── nothing in time, or the end ───▶ closed and counted
//! ```
//!
//! Once the protocol is known, the library looks after slow heads (HTTP/1) and dead clients
//! (HTTP/2). Before that it waits for ever, so that whoever connects and says nothing, or begins
//! the preface of HTTP/2 and stops there, would keep a place that others wait for. So the bytes
//! that tell are read here, and read again by the library.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// How a connection of HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Why a connection ended before its protocol was known.
#[derive(Debug)]
pub(crate) enum Unopened {
    /// The client closed it.
    Ended,
    /// The client did not say in time what it speaks.
    Silent,
    /// The client does not speak TLS as it must.
    Insecure(io::Error),
    /// The operating system reported an error.
    Failed(io::Error),
}

/// A connection whose first bytes have come; they can be read again.
#[derive(Debug)]
pub(crate) struct Opened<S> {
    first: [u8; PREFACE.len()],
    read: usize,
    filled: usize,
    stream: S,
}

/// Waits for the bytes that tell which protocol a client speaks.
pub(crate) async fn open<S: AsyncRead + Unpin>(
    stream: S,
    patience: Duration,
) -> Result<Opened<S>, Unopened> {
    let mut opened = Opened::unread(stream);
    match timeout(patience, opened.fill()).await {
        Err(_) => Err(Unopened::Silent),
        Ok(Err(error)) => Err(Unopened::Failed(error)),
        Ok(Ok(false)) => Err(Unopened::Ended),
        Ok(Ok(true)) => Ok(opened),
    }
}

impl<S> Opened<S> {
    /// A connection of which nothing has been read.
    pub(crate) fn unread(stream: S) -> Opened<S> {
        Opened {
            first: [0; PREFACE.len()],
            read: 0,
            filled: 0,
            stream,
        }
    }

    /// What lies below.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Whether the client speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.first == PREFACE
    }

    /// The same with another form of the stream.
    pub(crate) fn try_map<T>(self, form: impl FnOnce(S) -> io::Result<T>) -> io::Result<Opened<T>> {
        Ok(Opened {
            first: self.first,
            read: self.read,
            filled: self.filled,
            stream: form(self.stream)?,
        })
    }
}

impl<S: AsyncRead + Unpin> Opened<S> {
    /// Reads until what was read tells; false at the end of the stream.
    async fn fill(&mut self) -> io::Result<bool> {
        while self.filled < PREFACE.len() && PREFACE.starts_with(&self.first[..self.filled]) {
            match self.stream.read(&mut self.first[self.filled..]).await? {
                0 => return Ok(false),
                count => self.filled += count,
            }
        }
        Ok(true)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < self.filled {
            let count = buffer.remaining().min(self.filled - self.read);
            buffer.put_slice(&self.first[self.read..self.read + count]);
            self.read += count;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opened<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
