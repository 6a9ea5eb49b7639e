//! Calls that are not hot: handed to the router, whose services know the rest.
//!
//! ```text
//!   h2's stream ── body ──▶ axum, tonic ── body, trailers ──▶ h2's stream, as its window allows
//! ```

use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::{Buf as _, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;
use tower::ServiceExt as _;

use super::grpc::{LargeAnswer, Payload};
use super::worker::Worker;
use crate::gateway;

/// A request's body, as the router reads it.
struct Incoming {
    body: RecvStream,
    /// Until then all of it must have come, unless it has.
    patience: Option<Pin<Box<Sleep>>>,
}

/// Why a request's body has ended before its end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Lost(#[from] h2::Error),
    #[error("quorate: the request took too long to arrive")]
    TooSlow,
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Incoming { body, patience } = &mut *self;
        let data = body.poll_data(context);
        if data.is_pending()
            && let Some(patience) = patience
            && patience.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Some(Err(Broken::TooSlow)));
        }
        match std::task::ready!(data) {
            Some(Ok(bytes)) => {
                // Failing means that the stream is gone, which the next poll will say.
                let _ = body.flow_control().release_capacity(bytes.len());
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => match std::task::ready!(body.poll_trailers(context)) {
                Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(None) => Poll::Ready(None),
                Err(error) => Poll::Ready(Some(Err(error.into()))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Has a call served by the router, in a task of its own.
pub(super) fn begin(
    worker: &Rc<Worker>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Payload>,
) {
    let router = worker.setting.router.clone();
    let patience = worker.setting.limits.message_timeout;
    let is_patient = gateway::serves(request.uri().path());
    let request = request.map(|body| {
        let is_limited = !is_patient && !body.is_end_stream();
        let patience = is_limited.then(|| Box::pin(tokio::time::sleep(patience)));
        Body::new(Incoming { body, patience })
    });
    tokio::task::spawn_local(async move {
        let answered = tokio::select! {
            response = router.oneshot(request) => response,
            // The client has given up; dropping the handler tells whoever it asked.
            _ = std::future::poll_fn(|context| respond.poll_reset(context)) => return,
        };
        let Ok(response) = answered;
        send(response, respond).await;
    });
}

/// Sends an answer at the speed at which the client takes it.
async fn send(response: Response<Body>, mut respond: SendResponse<Payload>) {
    let (mut head, mut body) = response.into_parts();
    head.version = Version::HTTP_2;
    // What concerns a single hop has no place in HTTP/2 (RFC 9113, section 8.2.2).
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        head.headers.remove(name);
    }
    let ends = body.is_end_stream();
    let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), ends) else {
        return;
    };
    if ends {
        return;
    }
    loop {
        let next = std::future::poll_fn(|context| {
            if stream.poll_reset(context).is_ready() {
                return Poll::Ready(None);
            }
            Pin::new(&mut body).poll_frame(context).map(Some)
        });
        let frame = match next.await {
            // The client has given up.
            None => return,
            Some(None) => {
                let end = Payload::plain(Bytes::new());
                let _ = stream.send_data(end, true);
                return;
            }
            Some(Some(Ok(frame))) => frame,
            Some(Some(Err(error))) => {
                tracing::debug!(%error, "an answer could not be completed");
                stream.send_reset(Reason::INTERNAL_ERROR);
                return;
            }
        };
        match frame.into_data() {
            Ok(bytes) => {
                if send_piece(&mut stream, bytes).await.is_err() {
                    return;
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    let _ = stream.send_trailers(trailers);
                    return;
                }
            }
        }
    }
}

/// Sends a large answer at the speed at which the client takes it, and encodes it only once the
/// client takes something.
pub(super) async fn send_large(
    head: Response<()>,
    mut respond: SendResponse<Payload>,
    answer: LargeAnswer,
    trailers: HeaderMap,
) {
    let Ok(mut stream) = respond.send_response(head, false) else {
        return;
    };
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        let capacity = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        if !matches!(capacity, Some(Ok(_))) {
            return;
        }
    }
    let Ok(payload) = tokio::task::spawn_blocking(answer).await else {
        return stream.send_reset(Reason::INTERNAL_ERROR);
    };
    for part in payload.into_parts() {
        if send_piece(&mut stream, part).await.is_err() {
            return;
        }
    }
    // A client that has gone needs no end.
    let _ = stream.send_trailers(trailers);
}

/// The client has gone.
pub(super) struct Gone;

/// Sends bytes at the speed at which the client takes them.
pub(super) async fn send_piece(stream: &mut SendStream<Payload>, bytes: Bytes) -> Result<(), Gone> {
    let mut rest = bytes;
    while rest.has_remaining() {
        stream.reserve_capacity(rest.len());
        if stream.capacity() == 0 {
            let capacity = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
            if !matches!(capacity, Some(Ok(_))) {
                return Err(Gone);
            }
        }
        let piece = rest.split_to(stream.capacity().min(rest.len()));
        if !piece.is_empty() && stream.send_data(Payload::plain(piece), false).is_err() {
            return Err(Gone);
        }
    }
    Ok(())
}
