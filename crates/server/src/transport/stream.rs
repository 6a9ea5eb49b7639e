//! The two kinds of connection to a peer. A plain one stays a socket that the node's thread writes
//! to itself; one with TLS is written by its task alone, since its bytes depend on all before them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::TlsStream;

/// A connection that is up.
pub(super) enum PeerStream {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

/// What is read from.
pub(super) enum ReadHalf {
    Plain(OwnedReadHalf),
    Secured(tokio::io::ReadHalf<Box<TlsStream<TcpStream>>>),
}

/// What is written to.
pub(super) enum WriteHalf {
    Plain(Arc<OwnedWriteHalf>),
    Secured(tokio::io::WriteHalf<Box<TlsStream<TcpStream>>>),
}

impl PeerStream {
    /// Where the other side is.
    pub(super) fn peer_address(&self) -> io::Result<SocketAddr> {
        match self {
            PeerStream::Plain(stream) => stream.peer_addr(),
            PeerStream::Secured(stream) => stream.get_ref().0.peer_addr(),
        }
    }

    pub(super) fn into_halves(self) -> (ReadHalf, WriteHalf) {
        match self {
            PeerStream::Plain(stream) => {
                let (reading, writing) = stream.into_split();
                (
                    ReadHalf::Plain(reading),
                    WriteHalf::Plain(Arc::new(writing)),
                )
            }
            PeerStream::Secured(stream) => {
                let (reading, writing) = tokio::io::split(stream);
                (ReadHalf::Secured(reading), WriteHalf::Secured(writing))
            }
        }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            PeerStream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            PeerStream::Secured(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            PeerStream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            PeerStream::Secured(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            PeerStream::Plain(stream) => Pin::new(stream).poll_flush(context),
            PeerStream::Secured(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            PeerStream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            PeerStream::Secured(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ReadHalf::Plain(half) => Pin::new(half).poll_read(context, buffer),
            ReadHalf::Secured(half) => Pin::new(half).poll_read(context, buffer),
        }
    }
}
