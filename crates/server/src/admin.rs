//! The operators' port: what a node sees, and what may be asked of it.
//!
//! Everybody who reaches the port may read. Changes are accepted from this machine only, over the
//! loopback interface or a Unix socket, until operators can prove who they are; and never from a
//! web page, which a browser on this machine would otherwise let speak as if it were an operator.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /status` | | what the node sees, JSON |
//! | `GET /version`, `/metrics`, `/livez`, `/readyz` | | |
//! | `POST /members/add` | `{"name": …, "peer_address": …}` | a sentence |
//! | `POST /members/promote`, `/members/remove` | `{"member": …}` | a sentence |
//! | `POST /leader/transfer` | `{}` or `{"to": …}` | a sentence |

use axum::extract::{Json, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use consensus::Role;
use node::{Answer, Call, Status};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use crate::calls::CallError;
use crate::http::{ETCD_VERSION, QUORATE_VERSION, Site, probes};
use crate::listeners::Source;

/// Everything on the operators' port.
pub(crate) fn router(site: &Site) -> Router {
    let changes = Router::new()
        .route("/members/add", post(add))
        .route("/members/promote", post(promote))
        .route("/members/remove", post(remove))
        .route("/leader/transfer", post(transfer))
        .layer(middleware::from_fn_with_state(site.clone(), whole_body))
        .layer(middleware::from_fn(only_operators));
    probes()
        .route("/status", get(status))
        .route("/version", get(version))
        .merge(changes)
        .with_state(site.clone())
}

/// Lets changes through from this machine only, and not from web pages.
async fn only_operators(
    Extension(source): Extension<Source>,
    request: Request,
    next: Next,
) -> Response {
    if source == Source::Remote {
        let reason = "changes are accepted from the node's own machine only: run this there, or \
                      give the node a Unix socket with --listen-admin unix:/path\n";
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    if request.headers().contains_key(header::ORIGIN) {
        let reason = "changes are not accepted from web pages\n";
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    next.run(request).await
}

/// Waits for the body, but neither for ever nor for a long one.
async fn whole_body(State(site): State<Site>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, site.limits.operator_body_bytes);
    match timeout(site.limits.body_timeout, body).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, body.into())).await,
        Ok(Err(_)) => {
            let most = site.limits.operator_body_bytes;
            let reason = format!("the body is broken, or longer than {most} bytes\n");
            (StatusCode::PAYLOAD_TOO_LARGE, reason).into_response()
        }
        Err(_) => {
            let reason = "the body did not arrive in time\n";
            (StatusCode::REQUEST_TIMEOUT, reason).into_response()
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    name: String,
    peer_address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneMember {
    member: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Transfer {
    #[serde(default)]
    to: Option<String>,
}

async fn add(State(site): State<Site>, Json(body): Json<Add>) -> Response {
    let Add { name, peer_address } = body;
    operate(&site, Call::MemberAdd { name, peer_address }).await
}

async fn promote(State(site): State<Site>, Json(body): Json<OneMember>) -> Response {
    operate(
        &site,
        Call::MemberPromote {
            member: body.member,
        },
    )
    .await
}

async fn remove(State(site): State<Site>, Json(body): Json<OneMember>) -> Response {
    operate(
        &site,
        Call::MemberRemove {
            member: body.member,
        },
    )
    .await
}

async fn transfer(State(site): State<Site>, Json(body): Json<Transfer>) -> Response {
    operate(&site, Call::TransferLeadership { to: body.to }).await
}

async fn operate(site: &Site, call: Call) -> Response {
    match ask(site, call).await {
        Ok(Answer::Operator(Ok(done))) => format!("{done}\n").into_response(),
        Ok(Answer::Operator(Err(reason))) => {
            (StatusCode::CONFLICT, format!("{reason}\n")).into_response()
        }
        Ok(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "not the answer asked for\n",
        )
            .into_response(),
        Err(response) => response,
    }
}

/// Asks the node, within the time an operator waits.
async fn ask(site: &Site, call: Call) -> Result<Answer, Response> {
    let unavailable = |text: &'static str| (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    match timeout(site.limits.operator_timeout, site.calls.call(call)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(CallError::Busy)) => Err(unavailable("too many calls are under way\n")),
        Ok(Err(CallError::Stopped)) => Err(unavailable("the node has stopped\n")),
        Ok(Err(CallError::Refused(error))) => Err(unavailable(error.text())),
        Err(_) => Err(unavailable(
            "no answer in time; whether it happened is unknown\n",
        )),
    }
}

async fn version() -> Response {
    Json(json!({"quorate": QUORATE_VERSION, "etcd": ETCD_VERSION})).into_response()
}

async fn status(State(site): State<Site>) -> Response {
    match ask(&site, Call::Status).await {
        Ok(Answer::Status(status)) => Json(StatusBody::from(*status)).into_response(),
        Ok(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "not the answer asked for\n",
        )
            .into_response(),
        Err(response) => response,
    }
}

/// [`Status`] as JSON: ids in hexadecimal, the digest too, everything else as it is.
#[derive(Serialize)]
struct StatusBody {
    name: String,
    id: String,
    cluster: Option<String>,
    role: &'static str,
    phase: &'static str,
    leader: Option<String>,
    term: u64,
    chosen: u64,
    applied: u64,
    revision: i64,
    compacted: i64,
    level: u32,
    digest: String,
    held_bytes: u64,
    live_bytes: u64,
    quota_bytes: u64,
    members: Vec<MemberBody>,
}

#[derive(Serialize)]
struct MemberBody {
    id: String,
    name: String,
    peer_address: String,
    client_urls: Vec<String>,
    voter: bool,
    lag: Option<u64>,
    data_bytes: Option<u64>,
}

impl From<Status> for StatusBody {
    fn from(status: Status) -> StatusBody {
        let members = status.members.into_iter().map(|member| MemberBody {
            id: member.id.to_string(),
            name: member.name,
            peer_address: member.peer_address,
            client_urls: member.client_urls,
            voter: member.voter,
            lag: member.lag,
            data_bytes: member.data_bytes,
        });
        StatusBody {
            name: status.name,
            id: status.id.to_string(),
            cluster: status.cluster.map(|cluster| cluster.to_string()),
            role: role_name(status.role),
            phase: status.phase,
            leader: status.leader,
            term: status.term.0,
            chosen: status.chosen.0,
            applied: status.applied.0,
            revision: status.revision,
            compacted: status.compacted,
            level: status.level,
            digest: format!("{:032x}", status.digest),
            held_bytes: status.held_bytes,
            live_bytes: status.live_bytes,
            quota_bytes: status.quota_bytes,
            members: members.collect(),
        }
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate | Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Learner => "learner",
    }
}
