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

/// The service, ready to be routed to.
pub(crate) fn service(calls: &Calls, limits: &ClientLimits) -> LeaseServer<LeaseService> {
    let service = LeaseService {
        calls: calls.clone(),
    };
    LeaseServer::new(service)
        .max_decoding_message_size(limits.receive_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// The handlers.
#[derive(Clone)]
pub(crate) struct LeaseService {
    calls: Calls,
}

/// Asks the node and takes out the answer's one variant.
macro_rules! ask {
    ($calls:expr, $request:expr, $variant:ident) => {
        match key_value($calls, $request).await? {
            etcd::Response::$variant(response) => Ok(Response::new(response)),
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
        let request = etcd::Request::LeaseRevoke(request.into_inner());
        ask!(&calls, request, LeaseRevoke)
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let calls = calls_of(&self.calls, &request);
        let request = etcd::Request::LeaseTimeToLive(request.into_inner());
        ask!(&calls, request, LeaseTimeToLive)
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
