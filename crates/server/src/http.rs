//! The HTTP side of both client ports: probes and metrics, and what a gRPC port answers to those
//! who speak plain HTTP.

use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use node::{Answer, Call};
use serde_json::json;
use tokio::time::timeout;

use crate::calls::Calls;
use crate::evidence::Witness;
use crate::gateway::{self, Gateway};
use crate::health;
use crate::limits::ClientLimits;
use crate::metrics::{CountedCall, Exposition, Metrics};
use crate::transport::Asker;

mod deadline;

/// The version of etcd whose behaviour is promised.
pub(crate) const ETCD_VERSION: &str = "3.7.1";
/// The version of the cluster that etcd reports with it.
pub(crate) const ETCD_CLUSTER_VERSION: &str = "3.7.0";
/// Of this product.
pub(crate) const QUORATE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What handlers need.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) calls: Calls,
    pub(crate) limits: ClientLimits,
    pub(crate) exposition: Exposition,
    pub(crate) metrics: Metrics,
    /// The way to whatever gRPC serves.
    pub(crate) gateway: Gateway,
    /// What this node tells of itself.
    pub(crate) witness: Witness,
    /// The way to what others tell.
    pub(crate) asker: Asker,
}

/// Everything on the port that etcd's clients use.
pub(crate) fn client_router(site: &Site, grpc: tonic::service::Routes) -> Router {
    let gateway = site.gateway.clone();
    let json = move |request| gateway.clone().serve(request);
    let http = probes()
        .merge(health::health_route())
        .route("/version", get(etcd_version))
        .with_state(site.clone())
        .route(gateway::ROUTE, any(json));
    let grpc = grpc.prepare().into_axum_router();
    let grpc = grpc
        .layer(axum::middleware::from_fn(deadline::keep))
        .layer(axum::middleware::map_response(word_as_etcd))
        .layer(axum::middleware::from_fn_with_state(
            site.metrics.clone(),
            count,
        ))
        .layer(axum::middleware::from_fn(only_http2));
    http.merge(grpc.reset_fallback()).fallback(unknown_path)
}

/// Probes and metrics alone.
pub(crate) fn probe_router(site: &Site) -> Router {
    probes()
        .merge(health::health_route())
        .with_state(site.clone())
}

/// Probes and metrics, which both ports have.
pub(crate) fn probes() -> Router<Site> {
    health::probes().route("/metrics", get(metrics))
}

/// A path that nobody serves: for gRPC a service that is not implemented, otherwise not found.
async fn unknown_path(headers: HeaderMap) -> Response {
    let content = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if content.is_some_and(|content| content.starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("unknown service").into_http::<axum::body::Body>();
    }
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

/// gRPC needs HTTP/2. Over HTTP/1 the library would try, and wait for ever for a body that does
/// not come: only HTTP/2 finds out by probes that nobody is there.
async fn only_http2(request: Request, next: Next) -> Response {
    if request.version() < Version::HTTP_2 {
        let reason = "gRPC needs HTTP/2\n";
        return (StatusCode::HTTP_VERSION_NOT_SUPPORTED, reason).into_response();
    }
    next.run(request).await
}

/// Counts a call that the router serves.
async fn count(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let mut call = CountedCall::begin(metrics.rpc.of(request.uri().path()));
    let response = next.run(request).await;
    if let Some(code) = code_of(response.headers()) {
        call.end(code);
        return response;
    }
    response.map(|body| axum::body::Body::new(Counted { body, call }))
}

/// A body whose last headers say how the call has ended.
struct Counted {
    body: axum::body::Body,
    call: CountedCall,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(code) = code_of(trailers)
        {
            self.call.end(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn code_of(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Replaces the words in which the library refuses a message that is too long by etcd's, with
/// etcd's code: clients tell errors apart by their text.
async fn word_as_etcd(mut response: Response) -> Response {
    const OUT_OF_RANGE: &[u8] = b"11";
    let headers = response.headers_mut();
    let code = headers.get("grpc-status").map(HeaderValue::as_bytes);
    if code != Some(OUT_OF_RANGE) {
        return response;
    }
    let message = headers
        .get("grpc-message")
        .and_then(|message| message.to_str().ok());
    if let Some(text) = message.and_then(too_long_as_etcd)
        && let Ok(text) = HeaderValue::from_str(&text)
    {
        headers.insert("grpc-status", HeaderValue::from_static("8"));
        headers.insert("grpc-message", text);
    }
    response
}

/// `message` is percent-encoded: `Error,%20decoded%20message%20length%20too%20large:%20found%20…`
fn too_long_as_etcd(message: &str) -> Option<String> {
    let message = message.replace("%20", " ");
    let rest = message.strip_prefix("Error, decoded message length too large: found ")?;
    let (found, rest) = rest.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    let text = format!("grpc: received message larger than max ({found} vs. {limit})");
    Some(text.replace(' ', "%20"))
}

async fn etcd_version() -> Response {
    let version = json!({
        "etcdserver": ETCD_VERSION,
        "etcdcluster": ETCD_CLUSTER_VERSION,
        "storage": ETCD_CLUSTER_VERSION,
    });
    axum::Json(version).into_response()
}

async fn metrics(State(site): State<Site>) -> Response {
    let mut text = String::new();
    // A node that is stuck is when the rest is needed most.
    let patience = site.limits.metrics_timeout;
    let (counted, status) = tokio::join!(
        timeout(patience, site.calls.node_metrics()),
        timeout(patience, site.calls.call(Call::Status)),
    );
    let counted = counted.ok().flatten();
    let status = match status {
        Ok(Ok(Answer::Status(status))) => Some(*status),
        _ => None,
    };
    if site
        .exposition
        .write(counted.as_ref(), status.as_ref(), &mut text)
        .is_err()
    {
        let _ = writeln!(text, "# the rest cannot be written");
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_too_long_is_refused_in_etcds_words() {
        let ours = "Error,%20decoded%20message%20length%20too%20large:%20found%203000000%20bytes,\
                    %20the%20limit%20is:%202097152%20bytes";
        let expected =
            "grpc:%20received%20message%20larger%20than%20max%20(3000000%20vs.%202097152)";
        assert_eq!(too_long_as_etcd(ours).as_deref(), Some(expected));
        assert_eq!(
            too_long_as_etcd("mvcc:%20required%20revision%20has%20been%20compacted"),
            None
        );
    }
}
