//! Waiting in line: how locks are taken and elections are won on behalf of clients.
//!
//! The line itself is keys ([`etcd::candidacy`]); here is the waiting. A client that goes away
//! while it waits leaves the line at once, as does one that is told that it has not won; a node
//! that dies leaves it to the lease.

use std::time::Duration;

use base::GroupId;
use bytes::Bytes;
use etcd::candidacy::{self, Candidate, Candidates, Entered};
use etcd::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, RangeRequest, RangeResponse, ResponseHeader,
    TxnRequest, TxnResponse,
};
use node::group::META;
use tonic::{Code, Request, Status};

use crate::calls::Calls;
use crate::changes::{Changes, Watched};
use crate::etcd_service::{STOPPED, calls_of, key_value, mismatch, status};

/// How long the leases live that are made for callers who bring none, as etcd's.
const SESSION_SECONDS: i64 = 60;
/// How often such a lease is renewed while its caller waits.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(20);
/// How long to wait before a read is tried again that nobody could answer.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How often in a row there must be no leader, for those who do not want to wait without one.
const LEADERLESS_LOOKS: u32 = 3;

/// Waits in lines.
#[derive(Clone)]
pub(crate) struct Lines {
    calls: Calls,
    changes: Changes,
    /// Whose keys these are.
    group: GroupId,
    /// How long there may be no leader for those who insist on one.
    patience: Duration,
}

/// A place in a line, for as long as its caller does not know what has come of it. Where it
/// [leaves](Place::leave_when_dropped), dropping it gives it up: the caller has gone, or is told
/// that it has not won.
pub(crate) struct Place {
    pub(crate) candidate: Candidate,
    pub(crate) entered: Entered,
    /// Of the answer that gave the place.
    pub(crate) header: ResponseHeader,
    /// The lease was made for the caller.
    own_lease: bool,
    lines: Lines,
    leaves: bool,
}

impl Place {
    /// Gives the place up when it is dropped. So it is from the start with one that was taken just
    /// now, and with one that has somebody ahead. One that was found at the front is different: an
    /// earlier call may hold the lock by it, which nobody loses by asking for it once more.
    pub(crate) fn leave_when_dropped(&mut self) {
        self.leaves = true;
    }

    /// The caller is about to be told what has come of it.
    pub(crate) fn keep(&mut self) {
        self.leaves = false;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.leaves {
            self.lines.leave(self);
        }
    }
}

impl Lines {
    pub(crate) fn new(calls: Calls, changes: Changes, patience: Duration) -> Lines {
        Lines {
            calls,
            changes,
            group: META,
            patience,
        }
    }

    /// The same, on behalf of whoever a request is from.
    pub(crate) fn of<T>(&self, request: &Request<T>) -> Result<Lines, Status> {
        let calls = calls_of(&self.calls, request);
        let group = calls.group().map_err(|error| status(&error))?;
        Ok(Lines {
            calls,
            changes: self.changes.of(group),
            group,
            patience: self.patience,
        })
    }

    /// Waits until the default keyspace has had no leader for a while, as etcd counts it: looked at
    /// now and then, three times in a row.
    pub(crate) async fn leaderless(&self) -> Status {
        if self.group != META {
            // It may sleep, and has its leader when somebody asks for something.
            return std::future::pending().await;
        }
        let mut missed = 0;
        while missed < LEADERLESS_LOOKS {
            tokio::time::sleep(self.patience / LEADERLESS_LOOKS).await;
            missed = match self.calls.keyspaces().is_led() {
                true => 0,
                false => missed + 1,
            };
        }
        status(&etcd::Error::NoLeader)
    }

    /// Takes a place in the line, or finds the one that the lease has.
    pub(crate) async fn enter(
        &self,
        name: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<Place, Status> {
        let own_lease = lease == 0;
        let lease = if own_lease {
            self.grant().await?
        } else {
            lease
        };
        let candidate = Candidates::new(name).candidate(lease);
        // A caller that goes before this is answered may leave a place behind. Giving that up later
        // could take it from the same caller, who has asked again meanwhile and found it.
        let mut response = self.transact(candidate.enter(value)).await?;
        let entered = Candidate::entered(&response).ok_or_else(mismatch)?;
        Ok(Place {
            leaves: entered.earlier_value.is_none(),
            candidate,
            entered,
            header: response.header.take().unwrap_or_default(),
            own_lease,
            lines: self.clone(),
        })
    }

    /// Waits until nobody is ahead.
    pub(crate) async fn reach_the_front(&self, place: &mut Place) -> Result<(), Status> {
        if !place.own_lease {
            return self.wait(place).await;
        }
        let lease = place.candidate.lease();
        tokio::select! {
            result = self.wait(place) => result,
            never = self.keep_alive(lease) => match never {},
        }
    }

    async fn wait(&self, place: &mut Place) -> Result<(), Status> {
        let ahead = place.candidate.ahead(place.entered.revision);
        loop {
            let response = self.read(&ahead).await?;
            let Some(next) = candidacy::only(&response) else {
                return Ok(());
            };
            place.leave_when_dropped();
            let waiter = self.waiter(Watched::Key(next.key.clone()))?;
            // It may have gone between the read and the registration.
            let again = self.read(&ahead).await?;
            if candidacy::only(&again).is_some_and(|still| still.key == next.key) {
                waiter.changed().await;
            }
        }
    }

    fn waiter(&self, watched: Watched) -> Result<crate::changes::Waiter, Status> {
        self.changes.register(watched).map_err(|_| {
            Status::resource_exhausted(
                "etcdserver: too many requests: as many wait on this node as are allowed",
            )
        })
    }

    /// The first in line when it is, or becomes, another than the one seen last.
    pub(crate) async fn next_leader(
        &self,
        all: &Candidates,
        seen: Option<(&Bytes, i64)>,
    ) -> Result<RangeResponse, Status> {
        let (folder, _) = all.range();
        loop {
            let waiter = self.waiter(Watched::Folder(folder.clone()))?;
            let response = self.read(&all.first()).await?;
            let found = candidacy::only(&response);
            if let Some(found) = found
                && seen != Some((&found.key, found.mod_revision))
            {
                return Ok(response);
            }
            waiter.changed().await;
        }
    }

    /// A linearizable read; tried again for as long as nobody can answer it.
    pub(crate) async fn read(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        loop {
            match self.ask(etcd::Request::Range(request.clone())).await {
                Ok(etcd::Response::Range(response)) => return Ok(response),
                Ok(_) => return Err(mismatch()),
                Err(status) if may_pass(&status) => tokio::time::sleep(RETRY_PAUSE).await,
                Err(status) => return Err(relayed(status)),
            }
        }
    }

    /// A linearizable read for somebody who does not wait for anything else.
    pub(crate) async fn read_once(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        match self.relayed(etcd::Request::Range(request)).await? {
            etcd::Response::Range(response) => Ok(response),
            _ => Err(mismatch()),
        }
    }

    pub(crate) async fn transact(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        match self.relayed(etcd::Request::Txn(request)).await? {
            etcd::Response::Txn(response) => Ok(response),
            _ => Err(mismatch()),
        }
    }

    async fn ask(&self, request: etcd::Request) -> Result<etcd::Response, Status> {
        key_value(&self.calls, request).await
    }

    /// Asks, and answers as the services do.
    pub(crate) async fn relayed(&self, request: etcd::Request) -> Result<etcd::Response, Status> {
        self.ask(request).await.map_err(relayed)
    }

    /// Makes a lease for a caller who brings none.
    pub(crate) async fn grant(&self) -> Result<i64, Status> {
        let request = LeaseGrantRequest {
            ttl: SESSION_SECONDS,
            id: 0,
        };
        match self.relayed(etcd::Request::LeaseGrant(request)).await? {
            etcd::Response::LeaseGrant(response) => Ok(response.id),
            _ => Err(mismatch()),
        }
    }

    async fn keep_alive(&self, id: i64) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(RENEWAL_INTERVAL).await;
            let request = etcd::Request::LeaseKeepAlive(LeaseKeepAliveRequest { id });
            // If it cannot be renewed, the key goes, and the waiting finds that out.
            let _ = self.ask(request).await;
        }
    }

    /// Leaves the line without anybody waiting for it.
    fn leave(&self, place: &Place) {
        // While the server stops, nothing can be started any more; the lease ends it then.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let lines = self.clone();
        let request = candidacy::leave(place.candidate.key().clone(), place.entered.revision);
        runtime.spawn(async move {
            // What cannot be deleted now ends with its lease.
            let _ = lines.transact(request).await;
        });
    }
}

/// Whether what nobody could answer may be answered soon, by this node.
fn may_pass(status: &Status) -> bool {
    let lasting = [STOPPED, etcd::Error::KeyspaceElsewhere.text()];
    status.code() == Code::Unavailable && !lasting.contains(&status.message())
}

/// An error as etcd's Lock and Election services pass it on: they are clients of its other
/// services, and its client's errors keep their text and lose their code. Only `Unavailable` is
/// kept, which tells clients that they may try again.
fn relayed(status: Status) -> Status {
    if status.code() == Code::Unavailable || !status.message().starts_with("etcdserver: ") {
        return status;
    }
    Status::new(Code::Unknown, status.message())
}
