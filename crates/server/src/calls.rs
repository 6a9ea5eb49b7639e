//! From a connection's handler to the node and back: one message there, one answer back.
//!
//! Calls are bounded. A handler that finds too many under way waits for its turn, with its request
//! in memory; if its turn does not come in time it answers "too many requests". What a connection
//! may have waiting is bounded by its streams, and by the connections.
//! A reserve lets in what makes room or heals: deletes, compaction, renewals, membership, probes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::GroupId;
use etcd::auth::Caller;
use http::{HeaderMap, HeaderValue};
use node::{Answer, Call, CallId};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::timeout;

use crate::authority::{self, Authority, TokenCache};
use crate::inbox::Sender;
use crate::keyspace::{self, Keyspaces};
use crate::limits::ClientLimits;
use crate::metrics::Metrics;
use crate::node_loop::{Asked, Event};
use crate::serving;
use crate::tls::CommonName;

/// Why a call has no answer of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// Too many are under way.
    Busy,
    /// The node has stopped. What was asked for may have happened.
    Stopped,
    /// Whoever calls is not who he says, or not any more.
    Refused(etcd::Error),
}

/// What lets a call in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// One of `max-calls`.
    Ordinary,
    /// One of the reserve.
    Reserved,
    /// None of either: a streaming service bounds its calls itself.
    OfService,
}

struct Inner {
    events: Sender<Event>,
    next: AtomicU64,
    turns: Semaphore,
    reserve: Semaphore,
    limits: ClientLimits,
    metrics: Metrics,
    authority: Authority,
    keyspaces: Keyspaces,
}

/// Calls the node, on somebody's behalf or nobody's; cloning shares the bounds.
#[derive(Clone)]
pub(crate) struct Calls {
    inner: Arc<Inner>,
    identity: Identity,
}

/// Who calls, as far as he says. It is looked at with each call: a token that is good when a lock
/// is asked for may have expired when it is got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    token: Option<Arc<[u8]>>,
    common_name: Option<CommonName>,
    /// Which keyspace it is about, unless that is the default one.
    keyspace: Option<Arc<str>>,
    /// The keys have chosen it.
    is_by_prefix: bool,
}

impl Identity {
    pub(crate) fn new(headers: &HeaderMap, common_name: Option<&CommonName>) -> Identity {
        Identity {
            token: authority::token_of(headers).map(Arc::from),
            common_name: authority::common_name_of(headers, common_name).cloned(),
            keyspace: keyspace::named(headers),
            is_by_prefix: headers.contains_key(keyspace::BY_PREFIX),
        }
    }

    /// The keyspace that it names, unless that is the default one.
    pub(crate) fn keyspace(&self) -> Option<&Arc<str>> {
        self.keyspace.as_ref()
    }

    /// Whether the keys have chosen the keyspace, and not the client.
    pub(crate) fn is_by_prefix(&self) -> bool {
        self.is_by_prefix
    }

    /// Says the same in a call that this server makes for whoever it is, apart from the keyspace.
    pub(crate) fn say(&self, headers: &mut HeaderMap) {
        if let Some(token) = &self.token
            && let Ok(token) = HeaderValue::from_bytes(token)
        {
            headers.insert(authority::TOKEN, token);
        }
        if let Some(name) = &self.common_name {
            serving::say_common_name(headers, name);
        }
    }

    /// Whether it says anything.
    pub(crate) fn is_given(&self) -> bool {
        self.token.is_some() || self.common_name.is_some()
    }

    /// Who that is now, on a thread with a cache of its own.
    pub(crate) fn caller(
        &self,
        authority: &Authority,
        cache: &mut TokenCache,
    ) -> Result<Option<Arc<Caller>>, etcd::Error> {
        authority.caller(self.token.as_deref(), self.common_name.as_ref(), cache)
    }
}

impl Calls {
    pub(crate) fn new(
        events: Sender<Event>,
        max_calls: usize,
        limits: ClientLimits,
        metrics: Metrics,
        authority: Authority,
        keyspaces: Keyspaces,
    ) -> Calls {
        let turns = Semaphore::new(max_calls);
        let reserve = Semaphore::new(limits.reserved_calls);
        let next = AtomicU64::new(1);
        let inner = Inner {
            events,
            next,
            turns,
            reserve,
            limits,
            metrics,
            authority,
            keyspaces,
        };
        Calls {
            inner: Arc::new(inner),
            identity: Identity::default(),
        }
    }

    /// The same, on somebody's behalf.
    pub(crate) fn on_behalf_of(&self, identity: Identity) -> Calls {
        Calls {
            inner: Arc::clone(&self.inner),
            identity,
        }
    }

    /// The same in this keyspace, on nobody's behalf.
    pub(crate) fn of_nobody(&self) -> Calls {
        let keyspace = self.identity.keyspace.clone();
        self.on_behalf_of(Identity {
            keyspace,
            ..Identity::default()
        })
    }

    /// On whose behalf they are.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Who knows who calls.
    pub(crate) fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    /// Which keyspaces there are.
    pub(crate) fn keyspaces(&self) -> &Keyspaces {
        &self.inner.keyspaces
    }

    /// The same, in a keyspace that the keys of a request have chosen.
    pub(crate) fn within(&self, keyspace: Arc<str>) -> Calls {
        let mut calls = self.clone();
        calls.identity.keyspace = Some(keyspace);
        calls
    }

    /// The same, in the default keyspace.
    pub(crate) fn in_default(&self) -> Calls {
        let mut calls = self.clone();
        calls.identity.keyspace = None;
        calls
    }

    /// Whether the keys have chosen the keyspace, on the node that the client has asked.
    pub(crate) fn are_by_prefix(&self) -> bool {
        self.identity.keyspace.is_some() && self.identity.is_by_prefix
    }

    /// Whether the keys of a request may choose its keyspace.
    pub(crate) fn may_be_routed(&self) -> bool {
        self.identity.keyspace.is_none() && self.inner.keyspaces.has_routes()
    }

    /// The group of the keyspace that this is about.
    ///
    /// # Errors
    /// There is no such keyspace, or not here.
    pub(crate) fn group(&self) -> Result<GroupId, etcd::Error> {
        let keyspace = self.identity.keyspace.as_deref();
        self.inner.keyspaces.group(keyspace)
    }

    /// Who calls; `None` if nobody has signed in, or nobody has to.
    pub(crate) fn caller(&self) -> Result<Option<Arc<Caller>>, etcd::Error> {
        let Identity {
            token, common_name, ..
        } = &self.identity;
        let authority = &self.inner.authority;
        authority.caller_shared(token.as_deref(), common_name.as_ref())
    }

    /// Asks the node. If the returned future is dropped, the node is told to forget the call.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let call = as_caller(self.caller().map_err(CallError::Refused)?, call);
        let call = keyspace::within(self.identity.keyspace.clone(), call);
        let _turn = self.turn(makes_room(&call)).await.inspect_err(|_| {
            self.inner.metrics.calls_refused.inc();
        })?;
        let id = CallId(self.inner.next.fetch_add(1, Ordering::Relaxed));
        let (reply, answer) = oneshot::channel();
        let event = Event::Call { id, call, reply };
        self.inner
            .events
            .send(event)
            .map_err(|_| CallError::Stopped)?;
        let mut waiting = Waiting {
            calls: &self.inner,
            id,
            answered: false,
        };
        self.inner.metrics.calls_under_way.inc();
        let answer = answer.await;
        waiting.answered = true;
        answer.map_err(|_| CallError::Stopped)
    }

    /// Lets a worker's call in, if it may be made at once. [`Calls::free`] takes the turn back.
    pub(crate) fn try_turn(&self, call: &Call) -> Option<Turn> {
        if let Ok(turn) = self.inner.turns.try_acquire() {
            turn.forget();
            return Some(Turn::Ordinary);
        }
        if !makes_room(call) {
            return None;
        }
        let turn = self.inner.reserve.try_acquire().ok()?;
        turn.forget();
        Some(Turn::Reserved)
    }

    /// Waits for a turn of a call that could not be made at once.
    pub(crate) async fn wait_for_turn(&self) -> Result<Turn, CallError> {
        let turn = self.wait().await.inspect_err(|_| {
            self.inner.metrics.calls_refused.inc();
        })?;
        turn.forget();
        Ok(Turn::Ordinary)
    }

    /// Gives turns back; `turns` is empty afterwards.
    pub(crate) fn free(&self, turns: &mut Vec<Turn>) {
        let count = |kind| turns.iter().filter(|turn| **turn == kind).count();
        self.inner.reserve.add_permits(count(Turn::Reserved));
        self.inner.turns.add_permits(count(Turn::Ordinary));
        turns.clear();
    }

    /// Tells the node what a worker's clients ask for, all at once.
    pub(crate) fn tell(&self, asked: Vec<Asked>) -> Result<(), CallError> {
        let event = Event::Asked(asked);
        self.inner
            .events
            .send(event)
            .map_err(|_| CallError::Stopped)
    }

    /// Tells the node that a thread which serves clients has failed.
    pub(crate) fn report_failure(&self) {
        // A node that has stopped needs no telling.
        let _ = self.inner.events.send(Event::WorkerFailed);
    }

    /// What the node counts; `None` once it has stopped.
    pub(crate) async fn node_metrics(&self) -> Option<node::Metrics> {
        let (reply, answer) = oneshot::channel();
        self.inner.events.send(Event::Metrics(reply)).ok()?;
        answer.await.ok()
    }

    async fn turn(&self, makes_room: bool) -> Result<SemaphorePermit<'_>, CallError> {
        if let Ok(turn) = self.inner.turns.try_acquire() {
            return Ok(turn);
        }
        if makes_room && let Ok(turn) = self.inner.reserve.try_acquire() {
            return Ok(turn);
        }
        self.wait().await
    }

    async fn wait(&self) -> Result<SemaphorePermit<'_>, CallError> {
        match timeout(self.inner.limits.turn_timeout, self.inner.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(CallError::Busy),
        }
    }
}

/// A call on behalf of whoever has signed in.
pub(crate) fn as_caller(caller: Option<Arc<Caller>>, call: Call) -> Call {
    match caller {
        Some(caller) => Call::As {
            caller,
            call: Box::new(call),
        },
        None => call,
    }
}

/// Whether a call is let in beyond the ordinary bound.
fn makes_room(call: &Call) -> bool {
    match call {
        Call::Etcd(request) => {
            matches!(
                request,
                etcd::Request::DeleteRange(_)
                    | etcd::Request::Compact(_)
                    | etcd::Request::LeaseRevoke(_)
                    | etcd::Request::LeaseKeepAlive(_)
            )
        }
        Call::As { call, .. } | Call::In { call, .. } => makes_room(call),
        Call::EtcdMemberList { .. } => false,
        // What bounds them is where they are gathered.
        Call::RenewLeases { .. } => true,
        // Asked before leases are renewed or revoked.
        Call::TiedLeases { .. } => true,
        Call::ParentLeases(_) => false,
        Call::FollowParents(parents) => {
            let mut parents = parents.iter();
            parents.all(|parent| matches!(parent, node::Parent::Over { .. }))
        }
        Call::EtcdStatus
        | Call::EtcdCluster(_)
        | Call::EtcdMaintenance(_)
        | Call::Snapshot
        | Call::Status
        | Call::Ready
        | Call::MemberAdd { .. }
        | Call::MemberPromote { .. }
        | Call::MemberGrow { .. }
        | Call::MemberRemove { .. }
        | Call::KeyspaceCreate { .. }
        | Call::KeyspaceDrop { .. }
        | Call::Keyspaces
        | Call::Groups
        | Call::GroupRecover(_)
        | Call::Placement(_)
        | Call::TransferLeadership { .. } => true,
    }
}

/// Tells the node when nobody waits for an answer any more.
struct Waiting<'a> {
    calls: &'a Inner,
    id: CallId,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.calls.metrics.calls_under_way.dec();
        if !self.answered {
            // If the node has stopped, it has forgotten everything.
            let _ = self.calls.events.send(Event::Forget(self.id));
        }
    }
}
