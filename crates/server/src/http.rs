//! The HTTP side of both client ports: probes and metrics, and what a gRPC port answers to those
//! who speak plain HTTP.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use node::{Answer, Call};
use serde_json::json;
use tokio::time::timeout;

use crate::calls::Calls;
use crate::limits::ClientLimits;
use crate::metrics::Exposition;

/// The version of etcd whose behaviour is promised.
pub(crate) const ETCD_VERSION: &str = "3.7.1";
/// The version of the cluster that etcd reports with it.
const ETCD_CLUSTER_VERSION: &str = "3.7.0";
/// Of this product.
pub(crate) const QUORATE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What handlers need.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) calls: Calls,
    pub(crate) limits: ClientLimits,
    pub(crate) exposition: Exposition,
}

/// Everything on the port that etcd's clients use.
pub(crate) fn client_router(site: &Site, grpc: tonic::service::Routes) -> Router {
    let http = probes()
        .route("/health", get(health))
        .route("/version", get(etcd_version))
        .with_state(site.clone());
    let grpc = grpc.prepare().into_axum_router();
    let grpc = grpc
        .layer(axum::middleware::map_response(word_as_etcd))
        .layer(axum::middleware::from_fn(only_http2));
    http.merge(grpc.reset_fallback()).fallback(unknown_path)
}

/// Probes and metrics, which both ports have.
pub(crate) fn probes() -> Router<Site> {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
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

/// etcd's health: whether a linearizable read can be served now.
async fn health(State(site): State<Site>) -> Response {
    match readiness(&site).await {
        Ok(()) => axum::Json(json!({"health": "true", "reason": ""})).into_response(),
        Err(reason) => {
            let body = axum::Json(json!({"health": "false", "reason": reason}));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

/// Whether the process does anything at all: the node's thread answers.
async fn live(State(site): State<Site>) -> Response {
    let answer = timeout(site.limits.operator_timeout, site.calls.call(Call::Status)).await;
    match answer {
        Ok(Ok(_)) => "ok\n".into_response(),
        Ok(Err(_)) => (StatusCode::SERVICE_UNAVAILABLE, "the node has stopped\n").into_response(),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the node does not answer\n",
        )
            .into_response(),
    }
}

async fn ready(State(site): State<Site>) -> Response {
    match readiness(&site).await {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn readiness(site: &Site) -> Result<(), String> {
    match timeout(site.limits.operator_timeout, site.calls.call(Call::Ready)).await {
        Ok(Ok(Answer::Ready(answer))) => answer,
        Ok(Ok(_)) => Err("the node answered something else".into()),
        Ok(Err(_)) => Err("the node has stopped".into()),
        Err(_) => Err("the node does not answer".into()),
    }
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
