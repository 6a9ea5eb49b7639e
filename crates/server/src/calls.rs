//! From a connection's handler to the node and back: one message there, one answer back.
//!
//! Calls are bounded. A handler that finds too many under way waits for its turn, with its request
//! in memory; if its turn does not come in time it answers "too many requests". What a connection
//! may have waiting is bounded by its streams, and by the connections.
//! A reserve lets in what makes room or heals: deletes, compaction, renewals, membership, probes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use node::{Answer, Call, CallId};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::timeout;

use crate::inbox::Sender;
use crate::limits::ClientLimits;
use crate::metrics::Metrics;
use crate::node_loop::{Asked, Event};

/// Why a call has no answer of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// Too many are under way.
    Busy,
    /// The node has stopped. What was asked for may have happened.
    Stopped,
}

/// What lets a call in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// One of `max-calls`.
    Ordinary,
    /// One of the reserve.
    Reserved,
}

struct Inner {
    events: Sender<Event>,
    next: AtomicU64,
    turns: Semaphore,
    reserve: Semaphore,
    limits: ClientLimits,
    metrics: Metrics,
}

/// Calls the node; cloning shares the bounds.
#[derive(Clone)]
pub(crate) struct Calls(Arc<Inner>);

impl Calls {
    pub(crate) fn new(
        events: Sender<Event>,
        max_calls: usize,
        limits: ClientLimits,
        metrics: Metrics,
    ) -> Calls {
        let turns = Semaphore::new(max_calls);
        let reserve = Semaphore::new(limits.reserved_calls);
        let next = AtomicU64::new(1);
        Calls(Arc::new(Inner {
            events,
            next,
            turns,
            reserve,
            limits,
            metrics,
        }))
    }

    /// Asks the node. If the returned future is dropped, the node is told to forget the call.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let _turn = self.turn(makes_room(&call)).await.inspect_err(|_| {
            self.0.metrics.calls_refused.inc();
        })?;
        let id = CallId(self.0.next.fetch_add(1, Ordering::Relaxed));
        let (reply, answer) = oneshot::channel();
        let event = Event::Call { id, call, reply };
        self.0.events.send(event).map_err(|_| CallError::Stopped)?;
        let mut waiting = Waiting {
            calls: &self.0,
            id,
            answered: false,
        };
        self.0.metrics.calls_under_way.inc();
        let answer = answer.await;
        waiting.answered = true;
        answer.map_err(|_| CallError::Stopped)
    }

    /// Lets a worker's call in, if it may be made at once. [`Calls::free`] takes the turn back.
    pub(crate) fn try_turn(&self, call: &Call) -> Option<Turn> {
        if let Ok(turn) = self.0.turns.try_acquire() {
            turn.forget();
            return Some(Turn::Ordinary);
        }
        if !makes_room(call) {
            return None;
        }
        let turn = self.0.reserve.try_acquire().ok()?;
        turn.forget();
        Some(Turn::Reserved)
    }

    /// Waits for a turn of a call that could not be made at once.
    pub(crate) async fn wait_for_turn(&self) -> Result<Turn, CallError> {
        let turn = self.wait().await.inspect_err(|_| {
            self.0.metrics.calls_refused.inc();
        })?;
        turn.forget();
        Ok(Turn::Ordinary)
    }

    /// Gives turns back; `turns` is empty afterwards.
    pub(crate) fn free(&self, turns: &mut Vec<Turn>) {
        let all = turns.len();
        turns.retain(|turn| *turn == Turn::Reserved);
        self.0.reserve.add_permits(turns.len());
        self.0.turns.add_permits(all - turns.len());
        turns.clear();
    }

    /// Tells the node what a worker's clients ask for, all at once.
    pub(crate) fn tell(&self, asked: Vec<Asked>) -> Result<(), CallError> {
        let event = Event::Asked(asked);
        self.0.events.send(event).map_err(|_| CallError::Stopped)
    }

    /// Tells the node that a thread which serves clients has failed.
    pub(crate) fn report_failure(&self) {
        // A node that has stopped needs no telling.
        let _ = self.0.events.send(Event::WorkerFailed);
    }

    /// What the node counts; `None` once it has stopped.
    pub(crate) async fn node_metrics(&self) -> Option<node::Metrics> {
        let (reply, answer) = oneshot::channel();
        self.0.events.send(Event::Metrics(reply)).ok()?;
        answer.await.ok()
    }

    async fn turn(&self, makes_room: bool) -> Result<SemaphorePermit<'_>, CallError> {
        if let Ok(turn) = self.0.turns.try_acquire() {
            return Ok(turn);
        }
        if makes_room && let Ok(turn) = self.0.reserve.try_acquire() {
            return Ok(turn);
        }
        self.wait().await
    }

    async fn wait(&self) -> Result<SemaphorePermit<'_>, CallError> {
        match timeout(self.0.limits.turn_timeout, self.0.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(CallError::Busy),
        }
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
        Call::EtcdMemberList { .. } => false,
        Call::EtcdStatus
        | Call::Status
        | Call::Ready
        | Call::MemberAdd { .. }
        | Call::MemberPromote { .. }
        | Call::MemberRemove { .. }
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
