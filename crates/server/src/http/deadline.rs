//! The time that a client gives a call (`grpc-timeout`), for the calls that the router serves.
//!
//! Most clients give a call up by themselves when that time is over. Those of the JSON gateway
//! cannot: they say how long a call may take, and leave the rest to the server. Whoever serves the
//! call hears of it as if the client had gone: what it has under way is dropped.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::serving::{Status, time_allowed};

/// Serves a call for as long as its client allows.
pub(super) async fn keep(request: Request, next: Next) -> Response {
    let Some(allowed) = time_allowed(request.headers()) else {
        return next.run(request).await;
    };
    let deadline = Instant::now() + allowed;
    match timeout_at(deadline, next.run(request)).await {
        Ok(response) => response.map(|body| {
            Body::new(Limited {
                body: Some(body),
                alarm: Box::pin(sleep_until(deadline)),
            })
        }),
        Err(_) => tonic::Status::from(Status::too_late()).into_http(),
    }
}

/// An answer that ends in time: of a stream, perhaps before all of it has been said.
struct Limited {
    /// `None` once the time is over.
    body: Option<Body>,
    alarm: Pin<Box<Sleep>>,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        ready!(self.alarm.as_mut().poll(context));
        self.body = None;
        let end = Frame::trailers(Status::too_late().headers());
        Poll::Ready(Some(Ok(end)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }
}
