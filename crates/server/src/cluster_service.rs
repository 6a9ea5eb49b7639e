//! etcd's Cluster service: one message to the node, and its answer back.

use etcd::proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use etcd::{ClusterRequest, ClusterResponse};
use node::{Answer, Call};
use tonic::{Request, Response, Status};

use crate::calls::Calls;
use crate::etcd_service::generated::cluster_server::{Cluster, ClusterServer};
use crate::etcd_service::{ask, calls_of, mismatch, status};
use crate::limits::ClientLimits;

/// The service, ready to be routed to.
pub(crate) fn service(calls: &Calls, limits: &ClientLimits) -> ClusterServer<impl Cluster> {
    let service = ClusterService {
        calls: calls.clone(),
    };
    ClusterServer::new(service).max_decoding_message_size(limits.receive_bytes)
}

struct ClusterService {
    calls: Calls,
}

impl ClusterService {
    async fn change(calls: &Calls, request: ClusterRequest) -> Result<ClusterResponse, Status> {
        match ask(calls, Call::EtcdCluster(request)).await? {
            Answer::EtcdCluster(result) => result.map_err(|error| status(&error)),
            _ => Err(mismatch()),
        }
    }
}

macro_rules! changes {
    ($($method:ident: $variant:ident, $request:ty => $response:ty;)*) => {
        #[tonic::async_trait]
        impl Cluster for ClusterService {
            $(async fn $method(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                let calls = calls_of(&self.calls, &request);
                let request = ClusterRequest::$variant(request.into_inner());
                match ClusterService::change(&calls, request).await? {
                    ClusterResponse::$variant(response) => Ok(Response::new(response)),
                    _ => Err(mismatch()),
                }
            })*

            async fn member_list(
                &self,
                request: Request<MemberListRequest>,
            ) -> Result<Response<MemberListResponse>, Status> {
                let calls = calls_of(&self.calls, &request);
                let linearizable = request.into_inner().linearizable;
                match ask(&calls, Call::EtcdMemberList { linearizable }).await? {
                    Answer::EtcdMemberList(result) => {
                        result.map(Response::new).map_err(|error| status(&error))
                    }
                    _ => Err(mismatch()),
                }
            }
        }
    };
}

changes! {
    member_add: Add, MemberAddRequest => MemberAddResponse;
    member_remove: Remove, MemberRemoveRequest => MemberRemoveResponse;
    member_update: Update, MemberUpdateRequest => MemberUpdateResponse;
    member_promote: Promote, MemberPromoteRequest => MemberPromoteResponse;
}
