//! etcd's lease service: as [`crate::etcd_service`]. Its stream of keep-alives is served by the
//! workers, see [`crate::serving`].

use etcd::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use tonic::{Request, Response, Status};

use crate::calls::Calls;
use crate::etcd_service::generated::lease_server::{Lease, LeaseServer};
use crate::etcd_service::{calls_of, key_value, mismatch};
use crate::limits::ClientLimits;
use crate::tied::{self, Followers};

/// The service, ready to be routed to.
pub(crate) fn service(
    calls: &Calls,
    followers: Followers,
    limits: &ClientLimits,
) -> LeaseServer<LeaseService> {
    let service = LeaseService {
        calls: calls.clone(),
        followers,
    };
    LeaseServer::new(service)
        .max_decoding_message_size(limits.receive_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// The handlers.
#[derive(Clone)]
pub(crate) struct LeaseService {
    calls: Calls,
    /// Keyspaces whose keys go with leases of the default one.
    followers: Followers,
}

/// Asks the node and takes out the answer's one variant.
macro_rules! ask {
    ($calls:expr, $request:expr, $variant:ident) => {
        match key_value($calls, $request).await? {
            etcd::Response::$variant(response) => Ok::<_, Status>(Response::new(response)),
            _ => Err(mismatch()),
        }
    };
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let calls = calls_of(&self.calls, &request);
        let request = etcd::Request::LeaseGrant(request.into_inner());
        ask!(&calls, request, LeaseGrant)
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let calls = calls_of(&self.calls, &request);
        let request = request.into_inner();
        let id = request.id;
        if calls.are_by_prefix() {
            let followed = tied::follow(&calls, None, &[id]).await;
            followed.map_err(Status::from)?;
            return Ok(Response::new(LeaseRevokeResponse::default()));
        }
        if calls.may_be_routed() {
            let may = self.followers.may_revoke(&calls, id).await;
            may.map_err(Status::from)?;
        }
        let revoked = ask!(&calls, etcd::Request::LeaseRevoke(request), LeaseRevoke)?;
        if calls.may_be_routed() {
            let followed = self.followers.revoked(&calls, id).await;
            followed.map_err(Status::from)?;
        }
        Ok(revoked)
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let calls = calls_of(&self.calls, &request);
        let request = request.into_inner();
        if calls.are_by_prefix() {
            let told = tied::time_to_live(&calls, request).await;
            return told.map(Response::new).map_err(Status::from);
        }
        let (id, with_keys) = (request.id, request.keys);
        let request = etcd::Request::LeaseTimeToLive(request);
        let mut told: Response<LeaseTimeToLiveResponse> = ask!(&calls, request, LeaseTimeToLive)?;
        if with_keys && told.get_ref().ttl >= 0 && calls.may_be_routed() {
            let keys = self.followers.keys(&calls, id).await;
            let told = told.get_mut();
            told.keys.extend(keys.map_err(Status::from)?);
            told.keys.sort_unstable();
        }
        Ok(told)
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        ask!(
            &calls_of(&self.calls, &request),
            etcd::Request::LeaseLeases,
            LeaseLeases
        )
    }
}
