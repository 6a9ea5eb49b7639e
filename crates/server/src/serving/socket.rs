//! A client's connection, in all the kinds that there are, and its way from the acceptor's thread
//! to a worker's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Empty, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::visited::Visited;
use crate::tls::{CommonName, Secured};

/// A connection that belongs to no thread yet.
pub(crate) enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Secured(Secured),
    /// The gateway's, which knows no threads.
    Memory(DuplexStream),
    /// Another node's, encrypted; it stays with the runtime that has accepted it.
    Peer(PeerConnection),
}

/// Another node's encrypted connection.
pub(crate) struct PeerConnection(pub(crate) Box<TlsStream<TcpStream>>);

impl AsyncRead for PeerConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}

/// A connection of this thread.
pub(crate) enum ClientStream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
    Secured(Secured),
    Memory(DuplexStream),
    Peer(PeerConnection),
    /// Not watched for a while: see there.
    Visited(Visited),
    /// It could not be watched again.
    Gone(Empty),
}

impl Socket {
    /// Gives it to this thread.
    pub(super) fn arrive(self) -> io::Result<ClientStream> {
        Ok(match self {
            Socket::Tcp(socket) => ClientStream::Tcp(tokio::net::TcpStream::from_std(socket)?),
            Socket::Unix(socket) => ClientStream::Unix(tokio::net::UnixStream::from_std(socket)?),
            Socket::Secured(stream) => ClientStream::Secured(stream.arrive()?),
            Socket::Memory(stream) => ClientStream::Memory(stream),
            Socket::Peer(stream) => ClientStream::Peer(stream),
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
            ClientStream::Peer(stream) => Socket::Peer(stream),
            ClientStream::Visited(stream) => Socket::Tcp(stream.into_inner()),
            ClientStream::Gone(_) => return Err(io::ErrorKind::NotConnected.into()),
        })
    }

    /// Who the client is, if it has shown a certificate.
    pub(crate) fn common_name(&self) -> Option<CommonName> {
        match self {
            ClientStream::Secured(stream) => stream.common_name(),
            _ => None,
        }
    }

    /// The name of the server that the client has asked for, if it did so by TLS.
    pub(crate) fn server_name(&self) -> Option<&str> {
        match self {
            ClientStream::Secured(stream) => stream.server_name(),
            _ => None,
        }
    }

    /// Whether the socket is of the kind that can be visited.
    pub(super) fn can_be_visited(&self) -> bool {
        matches!(self, ClientStream::Tcp(_) | ClientStream::Visited(_))
    }

    /// Watches the socket no longer, if it is of the kind that can be visited.
    pub(super) fn begin_visits(&mut self) -> io::Result<()> {
        if !matches!(self, ClientStream::Tcp(_)) {
            return Ok(());
        }
        let nothing = ClientStream::Gone(tokio::io::empty());
        *self = match std::mem::replace(self, nothing) {
            ClientStream::Tcp(stream) => ClientStream::Visited(Visited::new(stream.into_std()?)),
            other => other,
        };
        Ok(())
    }

    /// Lets a socket that is not watched be read.
    pub(super) fn visit(&mut self) {
        if let ClientStream::Visited(stream) = self {
            stream.visit();
        }
    }

    /// Watches the socket again, if it is not watched.
    pub(super) fn end_visits(&mut self) -> io::Result<()> {
        if !matches!(self, ClientStream::Visited(_)) {
            return Ok(());
        }
        let nothing = ClientStream::Gone(tokio::io::empty());
        *self = match std::mem::replace(self, nothing) {
            ClientStream::Visited(stream) => {
                ClientStream::Tcp(tokio::net::TcpStream::from_std(stream.into_inner())?)
            }
            other => other,
        };
        Ok(())
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
            ClientStream::Peer($stream) => $action,
            ClientStream::Visited($stream) => $action,
            ClientStream::Gone($stream) => $action,
        }
    };
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this, ClientStream::Visited(stream) if stream.is_flooded()) {
            this.end_visits()?;
        }
        with_stream!(Pin::new(this), stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let ClientStream::Visited(stream) = this {
            match stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => this.end_visits()?,
                other => return Poll::Ready(other),
            }
        }
        with_stream!(Pin::new(this), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let ClientStream::Visited(_) = &*self {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(context, first.map_or(&[], |slice| slice));
        }
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
