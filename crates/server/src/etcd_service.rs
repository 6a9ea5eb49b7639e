//! etcd's gRPC services: decode, one message to the node, await the answer, encode.
//!
//! No rule of etcd's lives here; what a request means is known to the `etcd` crate alone, and who
//! answers it to the node. Calls of these services that are not served yet, and all other
//! services, are answered "unimplemented".

use etcd::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    MemberListRequest, MemberListResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    StatusRequest, StatusResponse, TxnRequest, TxnResponse,
};
use node::{Answer, Call};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use tonic_health::ServingStatus;

use crate::calls::{CallError, Calls};
use crate::limits::ClientLimits;
use crate::node_loop::Phase;

/// What `build.rs` made of the definitions.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

use generated::cluster_server::{Cluster, ClusterServer};
use generated::kv_server::{Kv, KvServer};
use generated::maintenance_server::{Maintenance, MaintenanceServer};

/// The services' full names, for health and reflection.
const SERVICE_NAMES: &[&str] = &[
    "etcdserverpb.KV",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
];

/// The routes of all services.
pub(crate) fn routes(calls: &Calls, limits: &ClientLimits) -> Routes {
    let service = EtcdService {
        calls: calls.clone(),
    };
    let longest = limits.receive_bytes;
    let unlimited = usize::MAX;
    let kv = KvServer::new(service.clone());
    let cluster = ClusterServer::new(service.clone());
    let maintenance = MaintenanceServer::new(service);
    Routes::new(
        kv.max_decoding_message_size(longest)
            .max_encoding_message_size(unlimited),
    )
    .add_service(cluster.max_decoding_message_size(longest))
    .add_service(maintenance.max_decoding_message_size(longest))
}

/// Adds gRPC's own health and reflection services. Health says what the node's phase is.
pub(crate) fn with_health_and_reflection(
    routes: Routes,
    mut phases: watch::Receiver<Phase>,
) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        loop {
            let serving = match *phases.borrow_and_update() {
                Phase::Ready => ServingStatus::Serving,
                Phase::Starting | Phase::Stopping | Phase::Stopped => ServingStatus::NotServing,
            };
            for name in SERVICE_NAMES.iter().chain(&[""]) {
                reporter.set_service_status(*name, serving).await;
            }
            if phases.changed().await.is_err() {
                return;
            }
        }
    });
    let describe = || {
        let described = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(etcd::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let names = SERVICE_NAMES.iter().chain(&["grpc.health.v1.Health"]);
        names.fold(described, |described, name| {
            described.with_service_name(*name)
        })
    };
    let sound = "the definitions are checked when they are compiled";
    routes
        .add_service(health)
        .add_service(describe().build_v1().expect(sound))
        .add_service(describe().build_v1alpha().expect(sound))
}

#[derive(Clone)]
struct EtcdService {
    calls: Calls,
}

impl EtcdService {
    async fn call(&self, call: Call) -> Result<Answer, Status> {
        self.calls.call(call).await.map_err(|error| match error {
            // Both as etcd words and codes them; its server maps the first one to `Unknown`.
            CallError::Busy => Status::new(Code::Unknown, "etcdserver: too many requests"),
            CallError::Stopped => Status::unavailable("etcdserver: server stopped"),
        })
    }

    async fn key_value(&self, request: etcd::Request) -> Result<etcd::Response, Status> {
        match self.call(Call::Etcd(request)).await? {
            Answer::Etcd(result) => result.map_err(|error| status(&error)),
            _ => Err(mismatch()),
        }
    }
}

/// etcd's error as a gRPC status.
fn status(error: &etcd::Error) -> Status {
    Status::new(Code::from_i32(error.code().number()), error.text())
}

/// The node has answered something else than was asked: a bug, and not the client's.
fn mismatch() -> Status {
    Status::internal("the answer does not belong to the request; please report this")
}

/// Writes the handlers of the key-value service, which differ in their types only.
macro_rules! key_value_calls {
    ($($name:ident: $variant:ident, $request:ty => $response:ty;)*) => {
        #[tonic::async_trait]
        impl Kv for EtcdService {
            $(async fn $name(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                let request = etcd::Request::$variant(request.into_inner());
                match self.key_value(request).await? {
                    etcd::Response::$variant(response) => Ok(Response::new(response)),
                    _ => Err(mismatch()),
                }
            })*
        }
    };
}

key_value_calls! {
    range: Range, RangeRequest => RangeResponse;
    put: Put, PutRequest => PutResponse;
    delete_range: DeleteRange, DeleteRangeRequest => DeleteRangeResponse;
    txn: Txn, TxnRequest => TxnResponse;
    compact: Compact, CompactionRequest => CompactionResponse;
}

#[tonic::async_trait]
impl Cluster for EtcdService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let linearizable = request.into_inner().linearizable;
        match self.call(Call::EtcdMemberList { linearizable }).await? {
            Answer::EtcdMemberList(result) => {
                result.map(Response::new).map_err(|error| status(&error))
            }
            _ => Err(mismatch()),
        }
    }
}

#[tonic::async_trait]
impl Maintenance for EtcdService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        match self.call(Call::EtcdStatus).await? {
            Answer::EtcdStatus(result) => result.map(Response::new).map_err(|error| status(&error)),
            _ => Err(mismatch()),
        }
    }
}
