//! etcd's gRPC services: decode, one message to the node, await the answer, encode.
//!
//! No rule of etcd's lives here; what a request means is known to the `etcd` crate alone, and who
//! answers it to the node. Calls of these services that are not served yet, and all other
//! services, are answered "unimplemented".

use etcd::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, RangeRequest, RangeStreamResponse,
};
use node::{Answer, Call};
use tokio::sync::watch;
use tonic::codegen::BoxStream;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use tonic_health::ServingStatus;

use crate::calls::{CallError, Calls, Identity};
use crate::changes::Changes;
use crate::limits::ClientLimits;
use crate::lines::Lines;
use crate::lock_service::LockService;
use crate::lock_service::generated::election::election_server::ElectionServer;
use crate::lock_service::generated::lock::lock_server::LockServer;
use crate::node_loop::Phase;
use crate::tied::Followers;
use crate::tls::CommonName;

/// What `build.rs` made of the definitions.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub(crate) mod generated {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

use generated::kv_server::{Kv, KvServer};

/// The services' full names, for health and reflection.
const SERVICE_NAMES: &[&str] = &[
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
];

/// The routes of all services.
pub(crate) fn routes(
    calls: &Calls,
    changes: &Changes,
    followers: Followers,
    limits: &ClientLimits,
) -> Routes {
    let service = EtcdService {
        calls: calls.clone(),
    };
    let lines = Lines::new(
        calls.clone(),
        changes.clone(),
        limits.hub.leaderless_patience,
    );
    let locks = LockService::new(lines);
    let longest = limits.receive_bytes;
    let unlimited = usize::MAX;
    let kv = KvServer::new(service);
    Routes::new(
        kv.max_decoding_message_size(longest)
            .max_encoding_message_size(unlimited),
    )
    .add_service(crate::lease_service::service(calls, followers, limits))
    .add_service(crate::cluster_service::service(calls, limits))
    .add_service(crate::maintenance_service::service(calls, limits))
    .add_service(crate::auth_service::service(calls, limits))
    .add_service(LockServer::new(locks.clone()).max_decoding_message_size(longest))
    .add_service(ElectionServer::new(locks).max_decoding_message_size(longest))
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

/// What a call is told that comes when the node has stopped.
pub(crate) const STOPPED: &str = "etcdserver: server stopped";

#[derive(Clone)]
struct EtcdService {
    calls: Calls,
}

/// Asks the node.
pub(crate) async fn ask(calls: &Calls, call: Call) -> Result<Answer, Status> {
    calls.call(call).await.map_err(|error| match error {
        // Both as etcd words and codes them; its server maps the first one to `Unknown`.
        CallError::Busy => Status::new(Code::Unknown, "etcdserver: too many requests"),
        CallError::Stopped => Status::unavailable(STOPPED),
        CallError::Refused(error) => status(&error),
    })
}

/// Asks the node about keys or leases.
pub(crate) async fn key_value(
    calls: &Calls,
    request: etcd::Request,
) -> Result<etcd::Response, Status> {
    let routed = match calls.may_be_routed() {
        true => place(calls, &request)?,
        false => None,
    };
    match ask(routed.as_ref().unwrap_or(calls), Call::Etcd(request)).await? {
        Answer::Etcd(result) => result.map_err(|error| status(&error)),
        _ => Err(mismatch()),
    }
}

/// Where the keys of a request that names no keyspace lead it: reads go where they are. What waits
/// in line does so by several requests and leases, which all have to name the keyspace.
fn place(calls: &Calls, request: &etcd::Request) -> Result<Option<Calls>, Status> {
    let refused = |code: etcd::Code, text| Status::new(Code::from_i32(code.number()), text);
    match calls.keyspaces().route(request) {
        Ok(None) => Ok(None),
        Ok(Some(keyspace)) => match request {
            etcd::Request::Range(_) | etcd::Request::RangePiece(_) => {
                Ok(Some(calls.within(keyspace)))
            }
            _ => {
                let text = format!(
                    "quorate: the keys are in the keyspace {keyspace}; name it (quorate-keyspace: \
                     {keyspace})"
                );
                Err(refused(etcd::Code::InvalidArgument, text))
            }
        },
        Err(astray) => Err(refused(astray.code(), astray.text())),
    }
}

/// The same calls, on behalf of whoever a request is from.
pub(crate) fn calls_of<T>(calls: &Calls, request: &Request<T>) -> Calls {
    let common_name = request.extensions().get::<CommonName>();
    let headers = request.metadata().as_ref();
    calls.on_behalf_of(Identity::new(headers, common_name))
}

/// etcd's error as a gRPC status.
pub(crate) fn status(error: &etcd::Error) -> Status {
    Status::new(Code::from_i32(error.code().number()), error.text())
}

/// The node has answered something else than was asked: a bug, and not the client's.
pub(crate) fn mismatch() -> Status {
    Status::internal("the answer does not belong to the request; please report this")
}

/// What workers do not serve themselves of the key-value service. The other calls never come here:
/// see [`crate::serving`].
#[tonic::async_trait]
impl Kv for EtcdService {
    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let calls = calls_of(&self.calls, &request);
        let request = etcd::Request::Compact(request.into_inner());
        match key_value(&calls, request).await? {
            etcd::Response::Compact(response) => Ok(Response::new(response)),
            _ => Err(mismatch()),
        }
    }

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<BoxStream<RangeStreamResponse>>, Status> {
        range_stream(calls_of(&self.calls, &request), request.into_inner())
    }
}

/// Reads one piece after the other, each only when the one before it has left.
fn range_stream(
    calls: Calls,
    request: RangeRequest,
) -> Result<Response<BoxStream<RangeStreamResponse>>, Status> {
    let stream = etcd::RangeStream::new(request).map_err(|error| status(&error))?;
    let messages = futures_util::stream::try_unfold(stream, move |mut stream| {
        let calls = calls.clone();
        async move {
            while let Some(request) = stream.next_request() {
                let etcd::Response::Range(piece) = key_value(&calls, request).await? else {
                    return Err(mismatch());
                };
                if let Some(message) = stream.answered(piece) {
                    return Ok(Some((message, stream)));
                }
            }
            Ok(None)
        }
    });
    Ok(Response::new(Box::pin(messages)))
}
