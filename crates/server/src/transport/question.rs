//! A question and its answer over a connection of their own, through the peers' port: what gossip
//! exchanges, and what a node tells of itself.
//!
//! ```text
//!   asker    preamble "quorate?" |          | subject u8 | length u32 | bytes
//!   node                         | preamble |                         | length u32 | bytes, end
//! ```
//!
//! One port serves all that nodes say to each other, under the same certificates: nothing more is
//! to be opened in a firewall. Whoever asks is bounded in number (as one of the accepted
//! connections), in size and in time; a question that nobody answers ends without an answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::connection::Closed;
use super::frame::{self, PREAMBLE_BYTES};
use super::stream::PeerStream;
use super::{Shared, dial};
use crate::limits::TransportLimits;
use crate::tls::Tls;

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// An exchange of gossip.
    Gossip,
    /// What the node tells of itself to whoever looks for faults.
    Evidence,
}

impl Subject {
    fn byte(self) -> u8 {
        match self {
            Subject::Gossip => 1,
            Subject::Evidence => 2,
        }
    }

    fn of_byte(byte: u8) -> io::Result<Subject> {
        match byte {
            1 => Ok(Subject::Gossip),
            2 => Ok(Subject::Evidence),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }
}

/// A question that has come.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) subject: Subject,
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Bytes,
    /// Dropped: the asker gets no answer.
    pub(crate) answer: oneshot::Sender<Vec<u8>>,
}

/// Has the question on a connection answered; its preamble has been read.
pub(super) async fn answer(stream: PeerStream, shared: &Shared) -> Closed {
    let patience = shared.limits.question_timeout;
    match timeout(patience, answer_within(stream, shared)).await {
        Err(_) => Closed::TimedOut,
        Ok(Err(error)) => Closed::from_error(&error),
        Ok(Ok(true)) => Closed::Answered,
        Ok(Ok(false)) => Closed::Unanswered,
    }
}

async fn answer_within(mut stream: PeerStream, shared: &Shared) -> io::Result<bool> {
    let from = stream.peer_address()?;
    let subject = Subject::of_byte(stream.read_u8().await?)?;
    let bytes = read(&mut stream, shared.limits.question_bytes).await?;
    let (sender, receiver) = oneshot::channel();
    let asked = Asked {
        subject,
        from,
        bytes,
        answer: sender,
    };
    if shared.questions.send(asked).await.is_err() {
        return Ok(false);
    }
    let Ok(answer) = receiver.await else {
        return Ok(false);
    };
    write(&mut stream, &answer).await?;
    stream.shutdown().await?;
    Ok(true)
}

/// Asks other nodes.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) limits: TransportLimits,
    pub(crate) tls: Option<Arc<Tls>>,
}

impl Asker {
    /// Asks the node at `address`; `name`, `host:port`, is what its certificate is for.
    pub(crate) async fn ask(
        &self,
        address: &str,
        name: &str,
        subject: Subject,
        bytes: &[u8],
        patience: Duration,
    ) -> io::Result<Bytes> {
        let asking = self.ask_within(address, name, subject, bytes);
        let too_late = |_| io::Error::from(io::ErrorKind::TimedOut);
        timeout(patience, asking).await.map_err(too_late)?
    }

    async fn ask_within(
        &self,
        address: &str,
        name: &str,
        subject: Subject,
        bytes: &[u8],
    ) -> io::Result<Bytes> {
        let stream = dial::connect(address, self.limits.connect_timeout).await?;
        let mut stream = dial::secure(name, stream, &self.limits, self.tls.as_deref()).await?;
        stream.write_all(&frame::asking()).await?;
        stream.flush().await?;
        // What is asked may be much: nobody gets it who does not speak as a node does.
        let mut theirs = [0; PREAMBLE_BYTES];
        stream.read_exact(&mut theirs).await?;
        if !matches!(frame::negotiate(&theirs), Ok((frame::Sender::Peer, _))) {
            return Err(io::Error::other("a peer that speaks another language"));
        }
        stream.write_u8(subject.byte()).await?;
        write(&mut stream, bytes).await?;
        read(&mut stream, self.limits.question_bytes).await
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Memory is taken as bytes come, not as somebody announces them.
async fn read(stream: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Bytes> {
    let length = stream.read_u32_le().await? as usize;
    if length > most {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    match bytes.len() == length {
        true => Ok(Bytes::from(bytes)),
        false => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}
