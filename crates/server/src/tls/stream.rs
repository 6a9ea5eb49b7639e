//! A client's encrypted connection, which begins on the acceptor's thread and goes on on a
//! worker's.
//!
//! A socket belongs to the thread that waits for it, and what the library knows of the connection
//! belongs to the socket. So the socket is taken out of one runtime and put into another in place.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::CommonName;

/// A socket that may be on its way from one thread to another.
#[derive(Debug)]
pub(crate) enum Movable {
    /// It belongs to the runtime of a thread.
    Here(TcpStream),
    /// Likewise, a Unix socket.
    HereUnix(UnixStream),
    /// It belongs to none.
    OnTheWay(std::net::TcpStream),
    /// Likewise, a Unix socket.
    OnTheWayUnix(std::os::unix::net::UnixStream),
    /// It could not be moved.
    Lost,
}

impl From<TcpStream> for Movable {
    fn from(stream: TcpStream) -> Movable {
        Movable::Here(stream)
    }
}

impl From<UnixStream> for Movable {
    fn from(stream: UnixStream) -> Movable {
        Movable::HereUnix(stream)
    }
}

impl Movable {
    fn leave(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Movable::Lost) {
            Movable::Here(stream) => Movable::OnTheWay(stream.into_std()?),
            Movable::HereUnix(stream) => Movable::OnTheWayUnix(stream.into_std()?),
            other => other,
        };
        Ok(())
    }

    fn arrive(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Movable::Lost) {
            Movable::OnTheWay(stream) => Movable::Here(TcpStream::from_std(stream)?),
            Movable::OnTheWayUnix(stream) => Movable::HereUnix(UnixStream::from_std(stream)?),
            other => other,
        };
        Ok(())
    }
}

/// Does the same with either kind of socket, where it belongs to this thread.
macro_rules! here {
    ($movable:expr, $stream:ident => $action:expr) => {
        match $movable.get_mut() {
            Movable::Here(stream) => {
                let $stream = Pin::new(stream);
                $action
            }
            Movable::HereUnix(stream) => {
                let $stream = Pin::new(stream);
                $action
            }
            Movable::OnTheWay(_) | Movable::OnTheWayUnix(_) | Movable::Lost => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
        }
    };
}

impl AsyncRead for Movable {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        here!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Movable {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        here!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Nearly always it is one record, for which there is a cheaper call.
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        if let (Some(slice), None) = (filled.next(), filled.next()) {
            return self.poll_write(context, slice);
        }
        here!(self, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        here!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        here!(self, stream => stream.poll_shutdown(context))
    }
}

/// An encrypted connection of a client.
#[derive(Debug)]
pub(crate) struct Secured(Box<TlsStream<Movable>>);

impl Secured {
    pub(super) fn new(stream: TlsStream<Movable>) -> Secured {
        Secured(Box::new(stream))
    }

    /// Who the client is, if it has shown a certificate.
    pub(crate) fn common_name(&self) -> Option<CommonName> {
        CommonName::of(self.0.get_ref().1.peer_certificates())
    }

    /// The name of the server that the client has asked for.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.0.get_ref().1.server_name()
    }

    /// Takes the socket out of this thread's runtime.
    pub(crate) fn leave(mut self) -> io::Result<Secured> {
        self.0.get_mut().0.leave()?;
        Ok(self)
    }

    /// Puts the socket into this thread's runtime.
    pub(crate) fn arrive(mut self) -> io::Result<Secured> {
        self.0.get_mut().0.arrive()?;
        Ok(self)
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}
