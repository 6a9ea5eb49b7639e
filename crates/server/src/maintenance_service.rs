//! etcd's Maintenance service: one message to the node, and its answer back; and a stream for the
//! snapshot, which is made on a thread of its own while the client takes it.

use std::time::Instant;

use etcd::proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest,
    DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest,
    MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use etcd::{MaintenanceRequest, MaintenanceResponse};
use node::{Answer, Call, SnapshotSource};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::calls::Calls;
use crate::etcd_service::generated::maintenance_server::{Maintenance, MaintenanceServer};
use crate::etcd_service::{ask, calls_of, mismatch, status};
use crate::limits::ClientLimits;
use crate::snapshot::Pieces;

/// Pieces that are made before the client has taken the one before them.
const PIECES_AHEAD: usize = 2;

/// Of a thread, as the operating system counts: it runs when no other wants to.
const LEAST_PRIORITY: i32 = 19;

/// The service, ready to be routed to.
pub(crate) fn service(calls: &Calls, limits: &ClientLimits) -> MaintenanceServer<impl Maintenance> {
    let service = MaintenanceService {
        calls: calls.clone(),
        limits: limits.clone(),
    };
    MaintenanceServer::new(service).max_decoding_message_size(limits.receive_bytes)
}

struct MaintenanceService {
    calls: Calls,
    limits: ClientLimits,
}

impl MaintenanceService {
    async fn ask(
        calls: &Calls,
        request: MaintenanceRequest,
    ) -> Result<MaintenanceResponse, Status> {
        match ask(calls, Call::EtcdMaintenance(request)).await? {
            Answer::EtcdMaintenance(result) => result.map_err(|error| status(&error)),
            _ => Err(mismatch()),
        }
    }
}

macro_rules! maintenance_calls {
    ($(
        $method:ident: $variant:ident, $pattern:pat => $make:expr, $request:ty => $response:ty;
    )*) => {
        #[tonic::async_trait]
        impl Maintenance for MaintenanceService {
            $(async fn $method(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                let calls = calls_of(&self.calls, &request);
                let $pattern = request.into_inner();
                match MaintenanceService::ask(&calls, $make).await? {
                    MaintenanceResponse::$variant(response) => Ok(Response::new(response)),
                    _ => Err(mismatch()),
                }
            })*

            async fn status(
                &self,
                request: Request<StatusRequest>,
            ) -> Result<Response<StatusResponse>, Status> {
                match ask(&calls_of(&self.calls, &request), Call::EtcdStatus).await? {
                    Answer::EtcdStatus(result) => {
                        result.map(Response::new).map_err(|error| status(&error))
                    }
                    _ => Err(mismatch()),
                }
            }

            async fn snapshot(
                &self,
                request: Request<SnapshotRequest>,
            ) -> Result<Response<BoxStream<SnapshotResponse>>, Status> {
                match ask(&calls_of(&self.calls, &request), Call::Snapshot).await? {
                    Answer::Snapshot(Ok(source)) => {
                        Ok(Response::new(stream(*source, &self.limits)))
                    }
                    Answer::Snapshot(Err(error)) => Err(status(&error)),
                    _ => Err(mismatch()),
                }
            }
        }
    };
}

maintenance_calls! {
    alarm: Alarm, request => MaintenanceRequest::Alarm(request), AlarmRequest => AlarmResponse;
    defragment: Defragment, DefragmentRequest {} => MaintenanceRequest::Defragment,
        DefragmentRequest => DefragmentResponse;
    hash: Hash, HashRequest {} => MaintenanceRequest::Hash, HashRequest => HashResponse;
    hash_kv: HashKv, request => MaintenanceRequest::HashKv(request),
        HashKvRequest => HashKvResponse;
    move_leader: MoveLeader, request => MaintenanceRequest::MoveLeader(request),
        MoveLeaderRequest => MoveLeaderResponse;
    downgrade: Downgrade, request => MaintenanceRequest::Downgrade(request),
        DowngradeRequest => DowngradeResponse;
}

/// A snapshot, as fast as its client takes it. What it is made from is held no longer than
/// [`ClientLimits::snapshot_time`]: whatever is written meanwhile takes memory twice.
fn stream(source: SnapshotSource, limits: &ClientLimits) -> BoxStream<SnapshotResponse> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let (runtime, most) = (Handle::current(), limits.snapshot_time);
    let failed = sender.clone();
    let make = move || {
        // Whoever takes a snapshot has time; those who write meanwhile have not. Where this is not
        // allowed, it goes on as it is.
        let _ = rustix::process::setpriority_process(None, LEAST_PRIORITY);
        let until = Instant::now() + most;
        for piece in Pieces::new(source) {
            let left = until.saturating_duration_since(Instant::now());
            // The clock of a timeout is the runtime's: only within it can one be made.
            let sent = runtime.block_on(async { timeout(left, sender.send(Ok(piece))).await });
            match sent {
                Ok(Ok(())) => {}
                // The client has gone.
                Ok(Err(_)) => return,
                Err(_) => {
                    let text = "the snapshot was taken too slowly and has been given up";
                    let error = Status::deadline_exceeded(text);
                    // There is room for it, or nobody to read it.
                    let _ = sender.try_send(Err(error));
                    return;
                }
            }
        }
    };
    // A thread of its own: one that others are to use could not be given back its priority.
    let thread = std::thread::Builder::new().name("snapshot".to_owned());
    if let Err(error) = thread.spawn(make) {
        let text = format!("quorate: there is no thread for a snapshot: {error}");
        let _ = failed.try_send(Err(Status::resource_exhausted(text)));
    }
    Box::pin(futures_util::stream::unfold(
        receiver,
        async |mut receiver| {
            let piece = receiver.recv().await?;
            Some((piece, receiver))
        },
    ))
}
