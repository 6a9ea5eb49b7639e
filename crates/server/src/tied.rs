//! Leases of the default keyspace that keys of other keyspaces go with, where a prefix of the keys
//! has chosen those.
//!
//! ```text
//!   put /registry/events/a --lease 7
//!     default, a read round: is 7 there, and since when? ─▶ events: follow it ─▶ events: put
//!   revoke 7           ─▶ default ─▶ each keyspace that a prefix leads to: it is over
//!   what is left of 7  ─▶ default, and the keys of each
//! ```
//!
//! A client has granted one lease, renews one, and knows nothing of keyspaces. So the lease is
//! what the first group says of it, and the others follow: see `node::leases`. That a lease which
//! is over takes their keys along needs nobody here; whoever revokes one waits for it, as in etcd.
//!
//! Keyspaces on other nodes are asked over this server's own connection in memory, whose calls are
//! carried on as everybody's are.

use std::time::Duration;

use bytes::Bytes;
use etcd::proto::etcdserverpb::{
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use futures_util::future::try_join_all;
use http::{HeaderMap, HeaderValue, header};
use node::{Answer, Call, Parent};
use prost::Message;
use state::LeaseId;
use tokio::time::timeout;

use crate::calls::{CallError, Calls};
use crate::gateway::Gateway;
use crate::keyspace::{BY_PREFIX, Found, KEYSPACE};
use crate::serving::Status;

const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";

/// Asks the node.
async fn ask(calls: &Calls, call: Call) -> Result<Answer, Status> {
    calls.call(call).await.map_err(|error| match error {
        CallError::Busy => Status::busy(),
        CallError::Stopped => Status::stopped(),
        CallError::Refused(error) => Status::from(&error),
    })
}

/// What a keyspace knows of leases, as those of its own.
async fn known(calls: &Calls, leases: Vec<LeaseId>) -> Result<Vec<Parent>, Status> {
    match ask(calls, Call::ParentLeases(leases)).await? {
        Answer::ParentLeases(result) => result.map_err(|error| Status::from(&error)),
        _ => Err(Status::mismatch()),
    }
}

/// Has a keyspace follow leases of the default one, as they stand now: what is written next there
/// can be attached to those that live, and nothing is left of what is over. `calls` are those of
/// the keyspace, which is on this node.
///
/// # Errors
/// What the client is told.
pub(crate) async fn follow(calls: &Calls, leases: &[i64]) -> Result<(), Status> {
    let leases = leases.iter().copied().map(LeaseId).collect();
    let parents = known(&calls.in_default(), leases).await?;
    match ask(calls, Call::FollowParents(parents)).await? {
        Answer::ParentsFollowed(result) => result.map_err(|error| Status::from(&error)),
        _ => Err(Status::mismatch()),
    }
}

/// The keys of a keyspace that go with a lease of the default one. `calls` are those of the
/// keyspace, which is on this node.
///
/// # Errors
/// What the client is told.
pub(crate) async fn time_to_live(
    calls: &Calls,
    request: LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, Status> {
    let own = known(calls, vec![LeaseId(request.id)]).await?;
    let id = request.id;
    match ask(calls, Call::Etcd(etcd::Request::LeaseTimeToLive(request))).await? {
        Answer::Etcd(Ok(etcd::Response::LeaseTimeToLive(mut response))) => {
            // The keyspace may have one of its own that is called alike.
            if own.iter().any(|each| matches!(each, Parent::Lives(_))) {
                (response.ttl, response.granted_ttl) = (-1, 0);
                response.keys.clear();
            }
            assert_eq!(
                response.id, id,
                "the answer is about the lease that was asked for"
            );
            Ok(response)
        }
        Answer::Etcd(Err(error)) => Err(Status::from(&error)),
        _ => Err(Status::mismatch()),
    }
}

/// Asks all keyspaces that prefixes lead to.
#[derive(Clone)]
pub(crate) struct Followers {
    gateway: Gateway,
    patience: Duration,
}

impl Followers {
    /// `patience` is how long those are waited for that do not answer.
    pub(crate) fn new(gateway: Gateway, patience: Duration) -> Followers {
        Followers { gateway, patience }
    }

    /// A lease has been revoked: once this returns, no keyspace has keys that went with it.
    ///
    /// # Errors
    /// One of them does not answer. It follows when it can.
    pub(crate) async fn revoked(
        &self,
        calls: &Calls,
        metadata: &HeaderMap,
        id: i64,
    ) -> Result<(), Status> {
        let each = |keyspace: std::sync::Arc<str>| async move {
            if let Found::Here(_) = found(calls, &keyspace)? {
                return follow(&calls.within(keyspace), &[id]).await;
            }
            let request = LeaseRevokeRequest { id };
            let answer = self.elsewhere(&keyspace, REVOKE, metadata, &request);
            answer.await.map(|_: LeaseRevokeResponse| ())
        };
        let all = try_join_all(calls.keyspaces().routed().into_iter().map(each));
        self.within_patience(all).await.map(drop)
    }

    /// The keys that go with a lease, in all keyspaces that prefixes lead to.
    ///
    /// # Errors
    /// One of them does not answer, or the client may not read there.
    pub(crate) async fn keys(
        &self,
        calls: &Calls,
        metadata: &HeaderMap,
        id: i64,
    ) -> Result<Vec<Bytes>, Status> {
        let each = |keyspace: std::sync::Arc<str>| async move {
            let request = LeaseTimeToLiveRequest { id, keys: true };
            let response = match found(calls, &keyspace)? {
                Found::Here(_) => time_to_live(&calls.within(keyspace), request).await,
                Found::Elsewhere(_) => {
                    let answer = self.elsewhere(&keyspace, TIME_TO_LIVE, metadata, &request);
                    answer.await
                }
            };
            response.map(|response: LeaseTimeToLiveResponse| response.keys)
        };
        let all = try_join_all(calls.keyspaces().routed().into_iter().map(each));
        Ok(self.within_patience(all).await?.concat())
    }

    async fn within_patience<T>(
        &self,
        all: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let result = timeout(self.patience, all).await;
        result.unwrap_or_else(|_| Err(Status::from(&etcd::Error::KeyspaceUnreachable)))
    }

    /// Has a call served by a node that holds the keyspace.
    async fn elsewhere<T: Message + Default>(
        &self,
        keyspace: &str,
        path: &str,
        metadata: &HeaderMap,
        request: &impl Message,
    ) -> Result<T, Status> {
        let mut headers = HeaderMap::new();
        for name in [header::AUTHORIZATION, crate::authority::TOKEN] {
            if let Some(value) = metadata.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        if let Ok(keyspace) = HeaderValue::from_str(keyspace) {
            headers.insert(KEYSPACE, keyspace);
        }
        headers.insert(BY_PREFIX, HeaderValue::from_static("1"));
        let message = request.encode_to_vec().into();
        let answer = self.gateway.call(path, headers, message).await?;
        T::decode(answer).map_err(|_| Status::mismatch())
    }
}

fn found(calls: &Calls, keyspace: &str) -> Result<Found, Status> {
    let found = calls.keyspaces().find(Some(keyspace));
    found.map_err(|error| Status::from(&error))
}
