//! What can happen to a hub, and what it may ask to be done.

use bytes::Bytes;
use etcd::proto::etcdserverpb::WatchRequest;
use etcd::watch::WatchRefusal;

use super::history::{HistoryRequest, HistoryResult};
use super::publication::Publication;

/// Names a stream of watches. Chosen by the host, never used twice on one hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Names a hub of a node. Chosen by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HubId(pub u32);

/// Something that happened.
#[derive(Debug)]
pub enum HubInput {
    /// The node has executed something, or sees its group otherwise than before.
    Publication(Publication),
    /// A client has opened a stream. It has no credit yet.
    Opened {
        /// Its name from now on.
        stream: StreamId,
        /// The client wants the stream ended when nobody leads (etcd's `hasleader`).
        require_leader: bool,
    },
    /// A client asks for something.
    Request {
        /// On which stream.
        stream: StreamId,
        /// What it asks for.
        request: WatchRequest,
    },
    /// A client asks for a watch that it may not have; what it may is known to the host.
    Refuse {
        /// On which stream.
        stream: StreamId,
        /// Why not.
        refusal: WatchRefusal,
    },
    /// Users have to sign in, or need not, as another keyspace's publication says that holds them.
    Guarded(bool),
    /// The keyspace is no longer on this node: all streams end so.
    Gone(etcd::Error),
    /// A stream is gone; nothing is sent to it any more.
    Closed {
        /// Which.
        stream: StreamId,
    },
    /// A stream's connection can take more.
    Credit {
        /// Which stream.
        stream: StreamId,
        /// How many bytes more.
        bytes: u64,
    },
    /// A read of history ([`HubOutput::ReadHistory`]) has ended.
    History(HistoryResult),
    /// The moment named by [`super::Hub::deadline`] has come.
    Deadline,
}

/// Something to be done.
#[derive(Debug)]
pub enum HubOutput {
    /// Send an encoded `WatchResponse`. Those of one stream are sent in the order in which they
    /// are given out; its credit is less by their length.
    Message {
        /// On which stream.
        stream: StreamId,
        /// The message, without gRPC's prefix. Equal messages share their bytes.
        bytes: Bytes,
    },
    /// End a stream, once what was given out for it is sent. The hub has forgotten it.
    End {
        /// Which.
        stream: StreamId,
        /// With which status.
        error: etcd::Error,
    },
    /// Give this to the node ([`crate::Input::ReadHistory`]); the result comes back as
    /// [`HubInput::History`].
    ReadHistory(Box<HistoryRequest>),
}

/// What a hub counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubMetrics {
    /// Streams that are open.
    pub streams: u64,
    /// Watchers there are.
    pub watchers: u64,
    /// Of these, the ones that wait for history or for room on their connection.
    pub watchers_lagging: u64,
    /// Events given out, each time to one watcher.
    pub events_delivered: u64,
    /// Messages given out.
    pub messages: u64,
    /// Messages that were encoded; the others share their bytes.
    pub messages_encoded: u64,
    /// Reads of history.
    pub history_reads: u64,
    /// Watchers ended because what they wanted is compacted.
    pub watchers_compacted: u64,
    /// Streams and watchers refused or ended because of a limit.
    pub refused: u64,
}
