//! The remote client: etcd's calls, typed, over several endpoints, with failover, TLS and users.
//!
//! ```text
//!            ┌─ answered ──────────────────────────────────────────► Ok, or Error::Refused
//!  call ─► endpoint ─ certainly not done ─► next endpoint, after a round a pause ─► deadline:
//!            │                                                          Error::Unreachable
//!            └─ perhaps done ─┬─ a read, or `retry_writes` ─► next endpoint, the same way
//!                             └─ a write ─────────────────────────► Error::OutcomeUnknown
//! ```
//!
//! The one thing a client must not do is to send a write again that may have been done: with a
//! counter, a lock or a queue behind it, doing it twice is a fault that nobody can find later. So
//! after a lost connection or a time-out a write is reported as [`Error::OutcomeUnknown`]; the
//! caller alone knows whether to read first or to set [`Options::retry_writes`].
//!
//! One endpoint is used until it fails; all clones of a [`Client`] share that choice and one
//! connection per endpoint. A client that knows a user signs in before its first call, and again
//! whenever the server says that its token is not good any more.
//!
//! ```no_run
//! use client::{Client, Options};
//! use etcd::proto::etcdserverpb::PutRequest;
//! # mod client { pub use quorate_client::*; }
//! # async fn example() -> Result<(), client::Error> {
//! let client = Client::new(["127.0.0.1:2379", "127.0.0.1:2479"], Options::default())?;
//! client.put(PutRequest { key: "greeting".into(), value: "hello".into(), ..Default::default() })
//!     .await?;
//! # Ok(())
//! # }
//! ```

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a client lives in the real world: sockets, clocks, other threads"
)]

mod endpoint;
mod error;
mod failover;
mod leases;
mod security;
mod users;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use etcd::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    MemberListRequest, MemberListResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse, TxnRequest, TxnResponse,
};
use tonic::Status;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;

pub use error::{Error, reason};
pub use etcd;
use failover::{Endpoints, Kind};
pub use security::{Security, Tls, is_about_the_token};
use stubs::cluster_client::ClusterClient;
use stubs::kv_client::KvClient;
use stubs::maintenance_client::MaintenanceClient;
pub use watch::Watch;

mod stubs {
    #![allow(
        clippy::all,
        missing_docs,
        unreachable_pub,
        dead_code,
        reason = "generated"
    )]
    include!(concat!(env!("OUT_DIR"), "/client/etcdserverpb.rs"));
}

/// The metadata that names a keyspace.
const KEYSPACE: &str = "quorate-keyspace";

/// How patient a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long connecting to an endpoint may take.
    pub connect_timeout: Duration,
    /// How long one endpoint may take to answer one try. Above the 7 s within which a server
    /// answers even if it finds no leader, unless a quick change of endpoints is worth more than
    /// knowing what became of a write.
    pub try_timeout: Duration,
    /// How long a call may take with all its tries.
    pub deadline: Duration,
    /// The pause after all endpoints have failed once; it doubles each time, up to
    /// [`Options::pause_max`].
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// Send writes again even if they may have been done. Right only if doing each of them twice
    /// is as good as once.
    pub retry_writes: bool,
    /// The largest answer accepted, in bytes.
    pub max_response_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            try_timeout: Duration::from_secs(8),
            deadline: Duration::from_secs(20),
            pause_min: Duration::from_millis(10),
            pause_max: Duration::from_millis(250),
            retry_writes: false,
            max_response_bytes: i32::MAX as usize,
        }
    }
}

/// A client of a cluster. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    endpoints: Arc<Endpoints>,
    /// Whose keys are meant; `None`: those of the keyspace `default`, or of the listener.
    keyspace: Option<AsciiMetadataValue>,
}

/// One call: which stub, which method, read or write.
macro_rules! call {
    ($self:ident, $kind:expr, $stub:ident, $method:ident, $request:ident) => {{
        let limit = $self.endpoints.options().max_response_bytes;
        let send = move |channel: Channel, request| async move {
            $stub::new(channel)
                .max_decoding_message_size(limit)
                .$method(request)
                .await
        };
        $self.signed($kind, $request, send).await
    }};
}
use call;

impl Client {
    /// A client of the cluster that these endpoints belong to: `host:port`, `http://host:port`, or
    /// `unix:/path`. Connects when it has something to ask.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::BadEndpoint`] if there is none, or one that cannot be understood.
    pub fn new<E: AsRef<str>>(
        endpoints: impl IntoIterator<Item = E>,
        options: Options,
    ) -> Result<Client, Error> {
        Client::secured(endpoints, options, Security::default())
    }

    /// The same, for a cluster that wants TLS, a certificate or a user. With TLS an endpoint may
    /// begin with `https://`, or be `unixs:/path`.
    ///
    /// # Errors
    /// As [`Client::new`]; also if the certificates cannot be used.
    pub fn secured<E: AsRef<str>>(
        endpoints: impl IntoIterator<Item = E>,
        options: Options,
        security: Security,
    ) -> Result<Client, Error> {
        let endpoints = Arc::new(Endpoints::new(endpoints, options, security)?);
        Ok(Client {
            endpoints,
            keyspace: None,
        })
    }

    /// The same client, over the same connections, whose calls are about a keyspace.
    ///
    /// # Errors
    /// [`Error::BadKeyspace`] if that cannot be a name.
    pub fn in_keyspace(&self, name: &str) -> Result<Client, Error> {
        let value = name.parse::<AsciiMetadataValue>();
        let value = value.map_err(|_| Error::BadKeyspace(name.to_owned()))?;
        Ok(Client {
            endpoints: Arc::clone(&self.endpoints),
            keyspace: Some(value),
        })
    }

    /// Sends a request with the user's token, if there is one, and once more with a new token if
    /// that one was refused: nothing was done then.
    async fn signed<Message, Response, Answer>(
        &self,
        kind: Kind,
        message: Message,
        send: impl Fn(Channel, tonic::Request<Message>) -> Answer,
    ) -> Result<Response, Error>
    where
        Message: Clone,
        Answer: Future<Output = Result<tonic::Response<Response>, Status>>,
    {
        let endpoints = &*self.endpoints;
        let send = |channel, message| {
            let mut request = endpoints.with_token(message);
            if let Some(name) = &self.keyspace {
                request.metadata_mut().insert(KEYSPACE, name.clone());
            }
            send(channel, request)
        };
        if !endpoints.has_user() {
            return endpoints.call(kind, message, send).await;
        }
        if !endpoints.is_signed_in() {
            self.sign_in().await?;
        }
        let outcome = endpoints.call(kind, message.clone(), &send).await;
        match outcome {
            Err(Error::Refused(status)) if is_about_the_token(status.message()) => {
                self.sign_in().await?;
                endpoints.call(kind, message, &send).await
            }
            outcome => outcome,
        }
    }

    /// Reads keys.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unreachable`].
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        call!(self, Kind::Read, KvClient, range, request)
    }

    /// Writes a key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, Error> {
        call!(self, Kind::Write, KvClient, put, request)
    }

    /// Deletes keys.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_range(
        &self,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Error> {
        call!(self, Kind::Write, KvClient, delete_range, request)
    }

    /// Compares, then does one of two lists of operations. Counts as a write unless it holds
    /// nothing but ranges.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        call!(self, failover::kind_of(&request), KvClient, txn, request)
    }

    /// Forgets history.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse, Error> {
        call!(self, Kind::Write, KvClient, compact, request)
    }

    /// How the member behind some endpoint is doing. To ask a certain one, make a client of its
    /// endpoint alone.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unreachable`].
    pub async fn status(&self) -> Result<StatusResponse, Error> {
        let request = StatusRequest {};
        call!(self, Kind::Read, MaintenanceClient, status, request)
    }

    /// The whole state of a keyspace, at the member behind some endpoint, as a file in pieces; that
    /// of `default` without a name. Never tried again: an error in the middle is one of the stream.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unreachable`] or [`Error::BadKeyspace`].
    pub async fn snapshot(
        &self,
        keyspace: Option<&str>,
    ) -> Result<tonic::Streaming<SnapshotResponse>, Error> {
        let name = keyspace.map(|name| {
            let value = name.parse::<AsciiMetadataValue>();
            value.map_err(|_| Error::BadKeyspace(name.to_owned()))
        });
        let name = name.transpose()?;
        let limit = self.endpoints.options().max_response_bytes;
        let send = move |channel: Channel, mut request: tonic::Request<SnapshotRequest>| {
            if let Some(name) = &name {
                request.metadata_mut().insert(KEYSPACE, name.clone());
            }
            async move {
                let client = MaintenanceClient::new(channel);
                let mut client = client.max_decoding_message_size(limit);
                client.snapshot(request).await
            }
        };
        self.signed(Kind::Read, SnapshotRequest {}, send).await
    }

    /// Every member. A `linearizable` answer is confirmed by the leader; otherwise it is what the
    /// member asked knows.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unreachable`].
    pub async fn member_list(&self, linearizable: bool) -> Result<MemberListResponse, Error> {
        let request = MemberListRequest { linearizable };
        call!(self, Kind::Read, ClusterClient, member_list, request)
    }
}
