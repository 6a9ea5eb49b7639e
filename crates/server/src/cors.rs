//! Which web pages may send requests: what browsers ask before they let a page of another origin do
//! so (CORS), answered with etcd's headers.
//!
//! etcd lets every page in unless told otherwise. Here none is: a page that anybody wrote could
//! otherwise write to a cluster that the visitor's machine reaches.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

/// The origins that are let in.
type Origins = Arc<[String]>;

/// The router with the answers that browsers want; as it is, if no origin is let in.
pub(crate) fn allow(router: Router, origins: &[String]) -> Router {
    if origins.is_empty() {
        return router;
    }
    router.layer(from_fn_with_state(Origins::from(origins), answer))
}

async fn answer(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    let allowed = allowed(&origins, request.headers());
    let asks_first = request.method() == Method::OPTIONS;
    let mut response = match asks_first {
        true => StatusCode::OK.into_response(),
        false => next.run(request).await,
    };
    if let Some(origin) = allowed {
        let headers = response.headers_mut();
        let set = |text| HeaderValue::from_static(text);
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            set("POST, GET, OPTIONS, PUT, DELETE"),
        );
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            set("accept, content-type, authorization"),
        );
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}

/// What to say of the origin of a request; `None` if it is not let in.
pub(crate) fn allowed(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    if origins.iter().any(|origin| origin == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    let origin = headers.get(header::ORIGIN)?;
    let is_allowed = origins
        .iter()
        .any(|each| each.as_bytes() == origin.as_bytes());
    is_allowed.then(|| origin.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(origins: &[&str], origin: Option<&'static str>) -> Option<String> {
        let origins: Vec<String> = origins.iter().map(|each| (*each).to_owned()).collect();
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        let told = allowed(&origins, &headers)?;
        Some(told.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_those_are_let_in_who_are_named() {
        let one = &["https://a.example"][..];
        assert_eq!(
            told(one, Some("https://a.example")).as_deref(),
            Some("https://a.example")
        );
        assert_eq!(told(one, Some("https://b.example")), None);
        assert_eq!(told(one, Some("https://a.example.b.example")), None);
        assert_eq!(told(one, None), None);
        assert_eq!(told(&["*"], None).as_deref(), Some("*"));
    }
}
