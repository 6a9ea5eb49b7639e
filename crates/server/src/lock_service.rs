//! etcd's Lock and Election services: what they mean is in [`etcd::candidacy`], how they wait in
//! [`crate::lines`].

use bytes::Bytes;
use etcd::candidacy::{self, Candidates};
use etcd::proto::etcdserverpb::{DeleteRangeRequest, ResponseHeader};
use etcd::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use etcd::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tokio::sync::mpsc;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::etcd_service::mismatch;
use crate::lines::Lines;
use crate::serving::demands;

/// What `build.rs` made of the definitions.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub(crate) mod generated {
    /// Locks.
    pub mod lock {
        include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
    }
    /// Elections.
    pub mod election {
        include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
    }
}

use generated::election::election_server::Election;
use generated::lock::lock_server::Lock;

/// Serves both.
#[derive(Clone)]
pub(crate) struct LockService {
    lines: Lines,
}

impl LockService {
    pub(crate) fn new(lines: Lines) -> LockService {
        LockService { lines }
    }
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let lines = self.lines.of(&request)?;
        let LockRequest { name, lease } = request.into_inner();
        let mut place = lines.enter(&name, lease, Bytes::new()).await?;
        lines.reach_the_front(&mut place).await?;
        let own = lines.read(&place.candidate.own()).await?;
        place.keep();
        let held = candidacy::only(&own);
        if held.is_none_or(|held| held.create_revision != place.entered.revision) {
            return Err(Status::unknown("mutex: session is expired"));
        }
        Ok(Response::new(LockResponse {
            header: own.header,
            key: place.candidate.key().clone(),
        }))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let lines = self.lines.of(&request)?;
        let delete = DeleteRangeRequest {
            key: request.into_inner().key,
            ..DeleteRangeRequest::default()
        };
        let request = etcd::Request::DeleteRange(delete);
        let etcd::Response::DeleteRange(response) = lines.relayed(request).await? else {
            return Err(mismatch());
        };
        Ok(Response::new(UnlockResponse {
            header: response.header,
        }))
    }
}

/// What a candidate is told that does not lead (any more).
const NOT_LEADER: &str = "election: not leader";
/// How many changes of a leader wait for a client that does not read.
const OBSERVED_AHEAD: usize = 1;

#[tonic::async_trait]
impl Election for LockService {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let lines = self.lines.of(&request)?;
        let CampaignRequest { name, lease, value } = request.into_inner();
        let mut place = lines.enter(&name, lease, value.clone()).await?;
        // As in etcd, whoever leads already and asks again resigns if he goes away meanwhile, or
        // cannot announce what he wants to.
        let was_in_line = place.entered.earlier_value.is_some();
        place.leave_when_dropped();
        let leader = LeaderKey {
            name,
            key: place.candidate.key().clone(),
            rev: place.entered.revision,
            lease: place.candidate.lease(),
        };
        let differs = |earlier: &Bytes| *earlier != value;
        if place.entered.earlier_value.as_ref().is_some_and(differs) {
            announce(&lines, leader.clone(), value).await?;
        }
        let own = match lines.reach_the_front(&mut place).await {
            Ok(()) => lines.read(&place.candidate.own()).await,
            Err(status) => Err(status),
        };
        // Whoever was in line already stays there, whatever this call comes to: he may lead.
        if own.is_ok() || was_in_line {
            place.keep();
        }
        let own = own?;
        let held = candidacy::only(&own);
        if held.is_none_or(|held| held.create_revision != leader.rev) {
            return Err(Status::unknown(NOT_LEADER));
        }
        Ok(Response::new(CampaignResponse {
            header: Some(place.header),
            leader: Some(leader),
        }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let lines = self.lines.of(&request)?;
        let ProclaimRequest { leader, value } = request.into_inner();
        let mut leader = named(leader)?;
        if leader.lease == 0 {
            // The key would be there for ever. As in etcd, it ends with a lease of its own, which
            // nobody renews.
            leader.lease = lines.grant().await?;
        }
        let header = announce(&lines, leader, value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        let lines = self.lines.of(&request)?;
        let candidates = Candidates::new(&request.into_inner().name);
        let mut first = lines.read_once(candidates.first()).await?;
        let header = first.header.take();
        let kv = first.kvs.pop();
        let kv = kv.ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(LeaderResponse {
            header,
            kv: Some(kv),
        }))
    }

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<BoxStream<LeaderResponse>>, Status> {
        let lines = self.lines.of(&request)?;
        let insists = demands::needs_leader(request.metadata().as_ref());
        let candidates = Candidates::new(&request.into_inner().name);
        let (sender, receiver) = mpsc::channel(OBSERVED_AHEAD);
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = observe(&lines, &candidates, &sender) => {}
                status = lines.leaderless(), if insists => {
                    // There is room for it, or nobody to read it.
                    let _ = sender.send(Err(status)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        let lines = self.lines.of(&request)?;
        let leader = named(request.into_inner().leader)?;
        let response = lines
            .transact(candidacy::leave(leader.key, leader.rev))
            .await?;
        Ok(Response::new(ResignResponse {
            header: response.header,
        }))
    }
}

async fn announce(
    lines: &Lines,
    leader: LeaderKey,
    value: Bytes,
) -> Result<Option<ResponseHeader>, Status> {
    let LeaderKey {
        key, rev, lease, ..
    } = leader;
    let request = candidacy::announce(key, rev, lease, value);
    let response = lines.transact(request).await?;
    if response.succeeded {
        Ok(response.header)
    } else {
        Err(Status::unknown(NOT_LEADER))
    }
}

fn named(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))
}

/// Tells who leads, and every time that changes or announces something else. A client that reads
/// slowly misses what was in between, never what is last.
async fn observe(
    lines: &Lines,
    candidates: &Candidates,
    sender: &mpsc::Sender<Result<LeaderResponse, Status>>,
) {
    let mut seen: Option<(Bytes, i64)> = None;
    loop {
        let last = seen.as_ref().map(|(key, revision)| (key, *revision));
        let answer = match lines.next_leader(candidates, last).await {
            Ok(mut response) => {
                let kv = response.kvs.pop();
                seen = kv.as_ref().map(|kv| (kv.key.clone(), kv.mod_revision));
                Ok(LeaderResponse {
                    header: response.header.take(),
                    kv,
                })
            }
            Err(status) => Err(status),
        };
        let failed = answer.is_err();
        if sender.send(answer).await.is_err() || failed {
            return;
        }
    }
}
