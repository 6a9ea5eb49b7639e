//! etcd's Maintenance service: one message to the node, and its answer back; and a stream for the
//! snapshot, which is made on a thread of its own while the client takes it.

use std::time::{Duration, Instant};

use etcd::proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest,
    DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest,
    MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use etcd::{MaintenanceRequest, MaintenanceResponse};
use node::{Answer, Call, SnapshotSource};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::calls::Calls;
use crate::etcd_service::generated::maintenance_server::{Maintenance, MaintenanceServer};
use crate::etcd_service::{ask, calls_of, mismatch, status};
use crate::limits::ClientLimits;
use crate::priority;
use crate::snapshot::Pieces;

/// Pieces that are made before the client has taken the one before them.
const PIECES_AHEAD: usize = 2;

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
    stream_of(|| Pieces::new(source), limits.snapshot_time)
}

/// What `begin` makes, on a thread of its own. How it ended is told apart from the pieces: whether
/// there is room for one more or not, and a thread that says nothing has not come to the end.
fn stream_of<P: Iterator<Item = SnapshotResponse>>(
    begin: impl FnOnce() -> P + Send + 'static,
    most: Duration,
) -> BoxStream<SnapshotResponse> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let (end, ended) = oneshot::channel();
    let runtime = Handle::current();
    let make = move || {
        // Whoever takes a snapshot has time; those who write meanwhile have not.
        priority::give_way_to_all();
        let until = Instant::now() + most;
        for piece in begin() {
            let left = until.saturating_duration_since(Instant::now());
            // The clock of a timeout is the runtime's: only within it can one be made.
            let sent = runtime.block_on(async { timeout(left, sender.send(piece)).await });
            match sent {
                Ok(Ok(())) => {}
                // The client has gone.
                Ok(Err(_)) => return,
                Err(_) => {
                    let text = "the snapshot was taken too slowly and has been given up";
                    let _ = end.send(Err(Status::deadline_exceeded(text)));
                    return;
                }
            }
        }
        // Before the sender goes, so that it is there when the pieces are over.
        let _ = end.send(Ok(()));
    };
    // A thread of its own: one that others are to use could not be given back its priority.
    let thread = std::thread::Builder::new().name("snapshot".to_owned());
    if let Err(error) = thread.spawn(make) {
        let text = format!("quorate: there is no thread for a snapshot: {error}");
        let error = Status::resource_exhausted(text);
        return Box::pin(futures_util::stream::once(async { Err(error) }));
    }
    Box::pin(futures_util::stream::unfold(
        Some((receiver, ended)),
        async |open| {
            let (mut receiver, ended) = open?;
            if let Some(piece) = receiver.recv().await {
                return Some((Ok(piece), Some((receiver, ended))));
            }
            let broken = || Err(Status::internal("quorate: the snapshot could not be made"));
            let error = ended.await.unwrap_or_else(|_| broken()).err()?;
            Some((Err(error), None))
        },
    ))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tonic::Code;

    use super::*;

    /// Longer than a thread that gives way to all others takes for a few pieces.
    const PATIENCE: Duration = Duration::from_secs(3_600);

    fn pieces(count: u64) -> impl Iterator<Item = SnapshotResponse> {
        (0..count).map(|remaining_bytes| SnapshotResponse {
            remaining_bytes,
            ..SnapshotResponse::default()
        })
    }

    /// How many pieces come, and which error behind them.
    async fn taken(mut stream: BoxStream<SnapshotResponse>) -> (usize, Option<Code>) {
        let mut count = 0;
        while let Some(next) = stream.next().await {
            match next {
                Ok(_) => count += 1,
                Err(error) => {
                    assert!(stream.next().await.is_none(), "an error is the end");
                    return (count, Some(error.code()));
                }
            }
        }
        (count, None)
    }

    #[tokio::test]
    async fn a_snapshot_that_was_made_ends_without_an_error() {
        assert_eq!(taken(stream_of(|| pieces(9), PATIENCE)).await, (9, None));
    }

    /// Whoever saves it must not take what there is for all of it.
    #[tokio::test]
    async fn a_snapshot_whose_making_fails_ends_with_an_error() {
        let fails = || pieces(4).inspect(|piece| assert!(piece.remaining_bytes < 3, "planted"));
        let seen = taken(stream_of(fails, PATIENCE)).await;
        assert_eq!(seen, (3, Some(Code::Internal)));
    }

    /// Nor if it was given up because nobody took it, when there is no room for one word more.
    #[tokio::test]
    async fn a_snapshot_that_is_taken_too_slowly_ends_with_an_error() {
        let (told, has_ended) = oneshot::channel();
        // Dropped with the iterator, when the thread has given up.
        let holds = move |_: &SnapshotResponse| assert!(!oneshot::Sender::is_closed(&told));
        let begin = move || pieces(u64::MAX).inspect(holds);
        let stream = stream_of(begin, Duration::from_millis(1));
        let said: Result<(), _> = has_ended.await;
        assert!(said.is_err(), "nobody says anything");
        let seen = taken(stream).await;
        assert_eq!(seen, (PIECES_AHEAD, Some(Code::DeadlineExceeded)));
    }
}
