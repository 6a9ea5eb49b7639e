//! The gateway over websockets, for those who cannot read an answer while they still ask: browsers,
//! and libraries made for them.
//!
//! ```text
//!   message ──▶ ┌───────────────────────────┐ ──▶ body of a request ──▶ ┌─────────┐
//!               │ this, for each connection │                           │ gateway │
//!   message ◀── └───────────────────────────┘ ◀── a line of its answer ◀└─────────┘
//! ```
//!
//! Any path of the gateway, as in etcd: each message of the client is an object of the body, each
//! line of the answer a message. A call with one question takes the first message for it. The call
//! ends with the connection, and the connection with the call.

use axum::body::Body;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;

use super::{Gateway, paths};
use crate::listeners::KeptPlace;

/// Messages that wait for the call to take them.
const WAITING_MESSAGES: usize = 1;

/// What a browser says instead of a header with a token: it can set this one, and no other.
const BEARER: &str = "Bearer";

/// Whether a request wants to become a websocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).map(HeaderValue::as_bytes);
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(b"websocket"))
}

/// Answers a request that wants to become a websocket, and serves that.
pub(super) async fn serve(gateway: Gateway, request: Request) -> Response {
    let (mut head, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut head, &()).await {
        Ok(upgrade) => upgrade,
        Err(refused) => return refused.into_response(),
    };
    let longest = gateway.0.limits.gateway_text_bytes;
    let place = head.extensions.remove::<KeptPlace>();
    let upgrade = upgrade
        .protocols([BEARER])
        .max_message_size(longest)
        .max_frame_size(longest);
    upgrade.on_upgrade(async move |socket| {
        exchange(gateway, head, socket).await;
        drop(place);
    })
}

/// Serves a websocket to its end, which either side makes.
async fn exchange(gateway: Gateway, head: Parts, socket: WebSocket) {
    let takes_many = paths::find(head.uri.path())
        .and_then(|called| gateway.method(&called))
        .is_some_and(|method| method.is_client_streaming());
    let (answers, questions) = socket.split();
    let (messages, body) = mpsc::channel(WAITING_MESSAGES);
    let body = futures_util::stream::unfold(body, async |mut body| {
        let piece: Bytes = body.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), body))
    });
    let request = request(&head, Body::from_stream(body));
    tokio::select! {
        () = ask(questions, messages, takes_many) => {}
        () = answer(gateway, request, answers) => {}
    }
}

/// The request that a client would send who has no need of a websocket.
fn request(head: &Parts, body: Body) -> Request {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = head.headers.clone();
    if let Some(token) = token(&head.headers) {
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, token);
    }
    request
}

/// The token of `Sec-WebSocket-Protocol: Bearer, TOKEN`.
fn token(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocols = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let token = protocols.strip_prefix(BEARER)?.trim_start();
    HeaderValue::from_str(token.strip_prefix(',')?.trim()).ok()
}

/// Takes in what the client sends, until it has closed the connection.
async fn ask(
    mut questions: SplitStream<WebSocket>,
    messages: mpsc::Sender<Bytes>,
    takes_many: bool,
) {
    let mut messages = Some(messages);
    while let Some(Ok(message)) = questions.next().await {
        let text = match message {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            // Answered by the library.
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        if let Some(open) = &messages {
            // A call that has ended takes no more; its answer says why.
            let _ = open.send(text).await;
        }
        if !takes_many {
            messages = None;
        }
    }
}

/// Sends what the call answers, a line a message, and closes.
async fn answer(gateway: Gateway, request: Request, mut answers: SplitSink<WebSocket, Message>) {
    let mut lines = gateway
        .serve_plainly(request)
        .await
        .into_body()
        .into_data_stream();
    // Every piece of the gateway's is one line, or the whole answer.
    while let Some(Ok(line)) = lines.next().await {
        let line = line
            .strip_suffix(b"\n")
            .map_or(line.clone(), |text| line.slice_ref(text));
        let text = Utf8Bytes::try_from(line).expect("JSON that was written here is text");
        if answers.send(Message::Text(text)).await.is_err() {
            return;
        }
    }
    // Whoever has gone needs no end.
    let _ = answers.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_where_browsers_can_put_one() {
        let told = |protocols: &'static str| {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_static(protocols);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
            token(&headers).map(|token| token.to_str().unwrap().to_owned())
        };
        assert_eq!(told("Bearer, abc.1").as_deref(), Some("abc.1"));
        assert_eq!(told("Bearer,abc.1").as_deref(), Some("abc.1"));
        for other in ["Bearer", "abc.1", "chat, Bearer"] {
            assert_eq!(told(other), None, "{other}");
        }
    }
}
