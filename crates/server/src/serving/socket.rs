//! A client's connection, in all the kinds that there are, and its way from the acceptor's thread
//! to a worker's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::tls::{CommonName, Secured};

/// A connection that belongs to no thread yet.
pub(crate) enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Secured(Secured),
    /// The gateway's, which knows no threads.
    Memory(DuplexStream),
}

/// A connection of this thread.
pub(crate) enum ClientStream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
    Secured(Secured),
    Memory(DuplexStream),
}

impl Socket {
    /// Gives it to this thread.
    pub(super) fn arrive(self) -> io::Result<ClientStream> {
        Ok(match self {
            Socket::Tcp(socket) => ClientStream::Tcp(tokio::net::TcpStream::from_std(socket)?),
            Socket::Unix(socket) => ClientStream::Unix(tokio::net::UnixStream::from_std(socket)?),
            Socket::Secured(stream) => ClientStream::Secured(stream.arrive()?),
            Socket::Memory(stream) => ClientStream::Memory(stream),
        })
    }
}

impl ClientStream {
    /// Takes it from this thread.
    pub(crate) fn leave(self) -> io::Result<Socket> {
        Ok(match self {
            ClientStream::Tcp(stream) => Socket::Tcp(stream.into_std()?),
            ClientStream::Unix(stream) => Socket::Unix(stream.into_std()?),
            ClientStream::Secured(stream) => Socket::Secured(stream.leave()?),
            ClientStream::Memory(stream) => Socket::Memory(stream),
        })
    }

    /// Who the client is, if it has shown a certificate.
    pub(crate) fn common_name(&self) -> Option<CommonName> {
        match self {
            ClientStream::Secured(stream) => stream.common_name(),
            ClientStream::Tcp(_) | ClientStream::Unix(_) | ClientStream::Memory(_) => None,
        }
    }
}

/// Does the same with whatever kind it is.
macro_rules! with_stream {
    ($self:expr, $stream:ident => $action:expr) => {
        match $self.get_mut() {
            ClientStream::Tcp($stream) => $action,
            ClientStream::Unix($stream) => $action,
            ClientStream::Secured($stream) => $action,
            ClientStream::Memory($stream) => $action,
        }
    };
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with_stream!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        with_stream!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with_stream!(self, stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
