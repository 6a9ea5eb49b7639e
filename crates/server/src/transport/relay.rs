//! Calls of clients that one node carries on to another, through the peers' port.
//!
//! ```text
//!   relaying node   preamble "quorate>" |          | HTTP/2, as a client's
//!   other node                          | preamble | a worker serves it, as a client's
//! ```
//!
//! The peers' port, so that nothing more has to be opened in a firewall, and under the same
//! certificates: what a node says of its client is believed as all else that nodes say.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::OwnedSemaphorePermit;

use super::connection::Closed;
use super::frame::{self, PREAMBLE_BYTES};
use super::question::Asker;
use super::stream::PeerStream;
use super::{Shared, dial};
use crate::opening::{self, Opened};
use crate::serving::{ClientStream, PeerConnection, Socket};

/// A connection over which another node carries on its clients' calls.
pub(crate) struct Relayed {
    pub(crate) stream: Opened<Socket>,
    /// Its place among those.
    pub(crate) place: OwnedSemaphorePermit,
}

/// Gives a connection to those who serve clients; its preamble has been read.
pub(super) async fn accept(stream: PeerStream, shared: &Shared) -> Closed {
    let Ok(place) = Arc::clone(&shared.relay_places).try_acquire_owned() else {
        return Closed::Unanswered;
    };
    let Ok(opened) = opening::open(stream, shared.limits.preamble_timeout).await else {
        return Closed::NoFrame;
    };
    if !opened.is_http2() {
        return Closed::Bad(frame::FrameError::BadPreamble);
    }
    let stream = opened.try_map(|stream| match stream {
        PeerStream::Plain(stream) => ClientStream::Tcp(stream).leave(),
        PeerStream::Secured(stream) => Ok(Socket::Peer(PeerConnection(stream))),
    });
    match stream {
        Err(error) => Closed::from_error(&error),
        Ok(stream) => match shared.relays.send(Relayed { stream, place }).await {
            Ok(()) => Closed::Answered,
            Err(_) => Closed::Unanswered,
        },
    }
}

impl Asker {
    /// Connects to the node at `address`, `host:port`, to carry on calls.
    pub(crate) async fn open_relay(
        &self,
        address: &str,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
        let stream = dial::connect(address, self.limits.connect_timeout).await?;
        let mut stream = dial::secure(address, stream, &self.limits, self.tls.as_deref()).await?;
        stream.write_all(&frame::relaying()).await?;
        stream.flush().await?;
        let mut theirs = [0; PREAMBLE_BYTES];
        stream.read_exact(&mut theirs).await?;
        match frame::negotiate(&theirs) {
            Ok((frame::Sender::Peer, _)) => Ok(stream),
            _ => Err(io::Error::other("a peer that speaks another language")),
        }
    }
}
