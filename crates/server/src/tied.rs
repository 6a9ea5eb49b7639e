//! Leases of the default keyspace that keys of other keyspaces go with, where a prefix of the keys
//! has chosen those.
//!
//! ```text
//!   put /registry/events/a --lease 7
//!     default, a read round: is 7 there, and since when? ─▶ events: follow it ─▶ events: put
//!   revoke 7           ─▶ default ─▶ each keyspace that a prefix leads to: it is over
//!   what is left of 7  ─▶ default, and the keys of each
//!   renew 7            ─▶ default alone
//! ```
//!
//! A client has granted one lease, renews one, and knows nothing of keyspaces. So the lease is
//! what the first group says of it, and the others follow: see `node::leases`. That a lease which
//! is over takes their keys along needs nobody here; whoever revokes one waits for it, as in etcd.
//!
//! **While users have to sign in**, a lease is nobody's who may not use a keyspace that keys of it
//! are in. Where its keys are, the first group does not know. So whoever may not use some of these
//! keyspaces waits until the server has found out, on its own behalf, that they have none: before a
//! lease is revoked for as long as that takes, before it is renewed only for a moment, since a
//! keyspace that cannot be reached must not end leases of another one.
//!
//! Keyspaces on other nodes are asked over this server's own connection in memory, whose calls are
//! carried on as everybody's are.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use etcd::auth::{Caller, Requirement};
use etcd::proto::etcdserverpb::{
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use futures_util::StreamExt as _;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream;
use http::{HeaderMap, HeaderValue};
use node::{Answer, Call, Parent};
use prost::Message;
use state::LeaseId;
use tokio::time::{Instant, timeout};

use crate::calls::{CallError, Calls, Identity, as_caller};
use crate::gateway::OwnCalls;
use crate::keyspace::{BY_PREFIX, Found, KEYSPACE};
use crate::limits::RelayLimits;
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

/// What the default keyspace knows of leases that somebody wants to attach keys to.
async fn known(
    calls: &Calls,
    caller: Option<Arc<Caller>>,
    leases: Vec<LeaseId>,
) -> Result<Vec<Parent>, Status> {
    let call = as_caller(caller, Call::ParentLeases(leases));
    match ask(&calls.in_default(), call).await? {
        Answer::ParentLeases(result) => result.map_err(|error| Status::from(&error)),
        _ => Err(Status::mismatch()),
    }
}

/// Which of these leases of the default keyspace keys of another one go with. `calls` are those of
/// that, which is on this node; whoever they are for is not looked at.
async fn tied(
    calls: &Calls,
    leases: Vec<LeaseId>,
    linearizable: bool,
) -> Result<Vec<LeaseId>, Status> {
    let call = Call::TiedLeases {
        leases,
        linearizable,
    };
    match ask(&calls.of_nobody(), call).await? {
        Answer::TiedLeases(result) => result.map_err(|error| Status::from(&error)),
        _ => Err(Status::mismatch()),
    }
}

/// The keyspaces that prefixes lead to and that somebody may not use, and why. While nobody has to
/// sign in there are none; nor for who has not, since he is refused everything.
pub(crate) fn closed(calls: &Calls, caller: Option<&Caller>) -> Vec<(Arc<str>, etcd::Error)> {
    let authority = calls.authority();
    let Some(caller) = caller.filter(|_| authority.is_enabled()) else {
        return Vec::new();
    };
    let access = authority.access();
    // As in etcd, it does not matter how old it is that somebody was found to be root.
    if access.check(Some(caller), Requirement::Root).is_ok() {
        return Vec::new();
    }
    let routed = calls.keyspaces().routed().into_iter();
    let closed = routed.filter_map(|keyspace| {
        let error = access.check_keyspace(Some(caller), &keyspace).err()?;
        Some((keyspace, error))
    });
    closed.collect()
}

/// Has a keyspace follow leases of the default one, as they stand now: what is written next there
/// can be attached to those that live, and nothing is left of what is over. `calls` are those of
/// the keyspace, which is on this node; `caller` is the user who wants to attach something.
///
/// # Errors
/// What the client is told.
pub(crate) async fn follow(
    calls: &Calls,
    caller: Option<Arc<Caller>>,
    leases: &[i64],
) -> Result<(), Status> {
    let calls = calls.of_nobody();
    let leases = leases.iter().copied().map(LeaseId).collect();
    let parents = known(&calls, caller, leases).await?;
    match ask(&calls, Call::FollowParents(parents)).await? {
        Answer::ParentsFollowed(result) => result.map_err(|error| Status::from(&error)),
        _ => Err(Status::mismatch()),
    }
}

/// The keys of a keyspace that go with a lease of the default one; where there are none, nobody is
/// refused. `calls` are those of the keyspace, which is on this node.
///
/// # Errors
/// What the client is told.
pub(crate) async fn time_to_live(
    calls: &Calls,
    request: LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, Status> {
    let id = request.id;
    // The keyspace may have one of its own that is called alike.
    if tied(calls, vec![LeaseId(id)], true).await?.is_empty() {
        return Ok(LeaseTimeToLiveResponse {
            id,
            ttl: -1,
            ..LeaseTimeToLiveResponse::default()
        });
    }
    match ask(calls, Call::Etcd(etcd::Request::LeaseTimeToLive(request))).await? {
        Answer::Etcd(Ok(etcd::Response::LeaseTimeToLive(response))) => {
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
    own_calls: OwnCalls,
    patience: Duration,
    look_patience: Duration,
    looks: usize,
    /// Keyspaces that did not answer in time are not asked again before this, in vain.
    silent: Arc<Mutex<HashMap<Arc<str>, Instant>>>,
    avoided: Duration,
}

impl Followers {
    /// `patience` is how long those are waited for that do not answer.
    pub(crate) fn new(own_calls: OwnCalls, patience: Duration, limits: &RelayLimits) -> Followers {
        Followers {
            own_calls,
            patience,
            look_patience: limits.look_patience,
            looks: limits.looks.max(1),
            silent: Arc::default(),
            avoided: limits.avoided,
        }
    }

    /// Whether whoever calls may revoke a lease, as far as keys of other keyspaces go with it.
    ///
    /// # Errors
    /// He may not; or one that he may not use does not answer, and perhaps has keys of it.
    pub(crate) async fn may_revoke(&self, calls: &Calls, id: i64) -> Result<(), Status> {
        let caller = calls.caller().map_err(|error| Status::from(&error))?;
        let each = |(keyspace, error): (Arc<str>, etcd::Error)| async move {
            match self.has_keys(calls, &keyspace, id).await? {
                true => Err(Status::from(&error)),
                false => Ok(()),
            }
        };
        let closed = closed(calls, caller.as_deref());
        let all = try_join_all(closed.into_iter().map(each));
        self.within_patience(all).await.map(drop)
    }

    /// Which of these leases are not somebody's to renew, by their places, and why: keys go with
    /// them in keyspaces that are `closed` to him. Where that is not found out in time, it is no
    /// reason, and not tried again for a while: others wait behind who renews.
    pub(crate) async fn refused_renewals(
        &self,
        calls: &Calls,
        closed: &[(Arc<str>, etcd::Error)],
        leases: &[LeaseId],
    ) -> Vec<(usize, etcd::Error)> {
        let looks = closed.iter().map(|(keyspace, error)| async move {
            let found = RefCell::new(HashSet::new());
            if !self.is_silent(keyspace) {
                let look = self.look(calls, keyspace, leases, &found);
                // What was found until then counts.
                if timeout(self.look_patience, look).await.is_err() {
                    let until = Instant::now() + self.avoided;
                    self.silent().insert(Arc::clone(keyspace), until);
                }
            }
            (found.into_inner(), *error)
        });
        let found = join_all(looks).await;
        let refusal = |lease: &LeaseId| {
            let mut found = found.iter();
            found.find_map(|(tied, error)| tied.contains(lease).then_some(*error))
        };
        let leases = leases.iter().enumerate();
        let refused = leases.filter_map(|(place, lease)| Some((place, refusal(lease)?)));
        refused.collect()
    }

    fn is_silent(&self, keyspace: &str) -> bool {
        let silent = self.silent();
        silent
            .get(keyspace)
            .is_some_and(|until| Instant::now() < *until)
    }

    fn silent(&self) -> MutexGuard<'_, HashMap<Arc<str>, Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out which of these leases keys of a keyspace go with.
    async fn look(
        &self,
        calls: &Calls,
        keyspace: &Arc<str>,
        leases: &[LeaseId],
        found_keys: &RefCell<HashSet<LeaseId>>,
    ) {
        // Who renews is told of leases, not of what cannot be found out about them.
        if let Ok(Found::Here(_)) = found(calls, keyspace) {
            let here = calls.within(Arc::clone(keyspace));
            let tied = tied(&here, leases.to_vec(), false).await;
            return found_keys.borrow_mut().extend(tied.unwrap_or_default());
        }
        let looks = leases.iter().map(|lease| async move {
            let has_keys = self.has_keys(calls, keyspace, lease.0).await;
            has_keys.unwrap_or_default().then_some(*lease)
        });
        let mut looks = stream::iter(looks).buffer_unordered(self.looks);
        while let Some(found) = looks.next().await {
            found_keys.borrow_mut().extend(found);
        }
    }

    /// Whether keys of a keyspace go with a lease.
    async fn has_keys(&self, calls: &Calls, keyspace: &Arc<str>, id: i64) -> Result<bool, Status> {
        if let Found::Here(_) = found(calls, keyspace)? {
            let here = calls.within(Arc::clone(keyspace));
            let tied = tied(&here, vec![LeaseId(id)], true).await?;
            return Ok(!tied.is_empty());
        }
        // On nobody's behalf, who is refused only where there are keys.
        let request = LeaseTimeToLiveRequest { id, keys: false };
        let nobody = Identity::default();
        let answer = self.elsewhere(keyspace, TIME_TO_LIVE, &nobody, &request);
        match answer.await {
            Ok(LeaseTimeToLiveResponse { ttl, .. }) => Ok(ttl >= 0),
            Err(status) if status == Status::from(&etcd::Error::UserEmpty) => Ok(true),
            Err(status) => Err(status),
        }
    }

    /// A lease has been revoked: once this returns, no keyspace has keys that went with it.
    ///
    /// # Errors
    /// One of them does not answer. It follows when it can.
    pub(crate) async fn revoked(&self, calls: &Calls, id: i64) -> Result<(), Status> {
        let each = |keyspace: Arc<str>| async move {
            if let Found::Here(_) = found(calls, &keyspace)? {
                return follow(&calls.within(keyspace), None, &[id]).await;
            }
            let request = LeaseRevokeRequest { id };
            let nobody = Identity::default();
            let answer = self.elsewhere(&keyspace, REVOKE, &nobody, &request);
            answer.await.map(|_: LeaseRevokeResponse| ())
        };
        let all = try_join_all(calls.keyspaces().routed().into_iter().map(each));
        self.within_patience(all).await.map(drop)
    }

    /// The keys that go with a lease, in all keyspaces that prefixes lead to.
    ///
    /// # Errors
    /// One of them does not answer, or the client may not read there.
    pub(crate) async fn keys(&self, calls: &Calls, id: i64) -> Result<Vec<Bytes>, Status> {
        let each = |keyspace: Arc<str>| async move {
            let request = LeaseTimeToLiveRequest { id, keys: true };
            let response = match found(calls, &keyspace)? {
                Found::Here(_) => time_to_live(&calls.within(keyspace), request).await,
                Found::Elsewhere(_) => {
                    let caller = calls.identity();
                    let answer = self.elsewhere(&keyspace, TIME_TO_LIVE, caller, &request);
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
        caller: &Identity,
        request: &impl Message,
    ) -> Result<T, Status> {
        let mut headers = HeaderMap::new();
        caller.say(&mut headers);
        if let Ok(keyspace) = HeaderValue::from_str(keyspace) {
            headers.insert(KEYSPACE, keyspace);
        }
        headers.insert(BY_PREFIX, HeaderValue::from_static("1"));
        let message = request.encode_to_vec().into();
        let answer = self.own_calls.call(path, headers, message).await?;
        T::decode(answer).map_err(|_| Status::mismatch())
    }
}

fn found(calls: &Calls, keyspace: &str) -> Result<Found, Status> {
    let found = calls.keyspaces().find(Some(keyspace));
    found.map_err(|error| Status::from(&error))
}
