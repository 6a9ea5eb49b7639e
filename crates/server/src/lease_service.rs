//! etcd's lease service: as [`crate::etcd_service`], and one stream.
//!
//! ```text
//!   keep-alives in ─▶ at most N calls under way, renewed together ─▶ answers out, in order
//! ```
//!
//! A stream's messages are read only while answers leave: a client that sends without reading
//! fills its own windows, and costs what N calls cost. There is no task and no queue per stream.
//! The node puts renewals that come at the same time into one command, whatever streams they come
//! from, so a stream that has many under way waits once for all of them.

use etcd::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use futures_util::StreamExt as _;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::calls::Calls;
use crate::etcd_service::generated::lease_server::{Lease, LeaseServer};
use crate::etcd_service::{calls_of, key_value, mismatch};
use crate::limits::ClientLimits;

/// The service, ready to be routed to.
pub(crate) fn service(calls: &Calls, limits: &ClientLimits) -> LeaseServer<LeaseService> {
    let service = LeaseService {
        calls: calls.clone(),
        renewals_per_stream: limits.renewals_per_stream,
    };
    LeaseServer::new(service)
        .max_decoding_message_size(limits.receive_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// The handlers.
#[derive(Clone)]
pub(crate) struct LeaseService {
    calls: Calls,
    renewals_per_stream: usize,
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

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<BoxStream<LeaseKeepAliveResponse>>, Status> {
        let calls = self.calls.clone();
        let answers = request
            .into_inner()
            .map(move |message| {
                let calls = calls.clone();
                async move {
                    let request = etcd::Request::LeaseKeepAlive(message?);
                    match key_value(&calls, request).await? {
                        etcd::Response::LeaseKeepAlive(response) => Ok(response),
                        _ => Err(mismatch()),
                    }
                }
            })
            .buffered(self.renewals_per_stream.max(1));
        Ok(Response::new(Box::pin(answers)))
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
