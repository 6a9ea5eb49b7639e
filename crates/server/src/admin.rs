//! The operators' port: what a node sees, and what may be asked of it.
//!
//! Everybody who reaches the port may read. Changes are accepted from this machine only, over the
//! loopback interface or a Unix socket, until operators can prove who they are; and never from a
//! web page, which a browser on this machine would otherwise let speak as if it were an operator.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /status` | | what the node sees, JSON |
//! | `GET /evidence`, `/evidence/MEMBER` | | all that it, or another member, tells, JSON |
//! | `GET /version`, `/metrics`, `/livez`, `/readyz` | | |
//! | `POST /members/add` | `{"name": …, "peer_address": …, "witness": …}` | a sentence |
//! | `POST /members/promote`, `/members/remove` | `{"member": …}` | a sentence |
//! | `GET /keyspaces` | | all of them, JSON |
//! | `GET /groups` | | what the node sees of each group that it holds, JSON |
//! | `GET /routes` | | prefixes of keys and their keyspaces, a line each |
//! | `POST /routes/add` | `{"prefix": …, "name": …}` | a sentence |
//! | `POST /routes/remove` | `{"prefix": …}` | a sentence |
//! | `POST /keyspaces/create` | `{"names": […], "replicas": …, "engine": …}` | a sentence |
//! | `POST /groups/recover` | `keyspace`, `last`, `last_term`, `accept_loss` | a sentence |
//! | `POST /keyspaces/drop`, `/keyspaces/stay` | `{"name": …}` | a sentence |
//! | `POST /keyspaces/move` | `{"name": …, "from": NODE or null, "to": [NODE, …]}` | a sentence |
//! | `POST /keyspaces/observe`, `/keyspaces/unobserve` | `{"name": …, "node": …}` | a sentence |
//! | `GET /placement/plan`, `/placement/explain/KEYSPACE` | | a text |
//! | `POST /placement/apply` | `{}` or `{"epoch": …}` | a sentence |
//! | `POST /placement/set` | `{"replace_after_seconds": …, "rebalance": …}` | a sentence |
//! | `POST /nodes/drain`, `/nodes/undrain` | `{"node": …}` | a sentence |
//! | `POST /leader/transfer` | `{}` or `{"to": …}` | a sentence |

mod placing;

use axum::extract::{Json, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use base::{Epoch, Slot};
use node::{Answer, Call, GroupStatus, OtherReplica, RecoveryOrder};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use crate::calls::CallError;
use crate::http::{ETCD_VERSION, QUORATE_VERSION, Site, probes};
use crate::listeners::Source;
use crate::status::{StatusBody, role_name};
use crate::transport::Subject;

/// Everything on the operators' port.
pub(crate) fn router(site: &Site) -> Router {
    let changes = Router::new()
        .route("/members/add", post(add))
        .route("/members/promote", post(promote))
        .route("/members/remove", post(remove))
        .route("/leader/transfer", post(transfer))
        .route("/groups/recover", post(recover))
        .route("/keyspaces/create", post(create_keyspace))
        .route("/keyspaces/drop", post(drop_keyspace))
        .route("/keyspaces/move", post(placing::move_keyspace))
        .route("/keyspaces/stay", post(placing::stay))
        .route("/keyspaces/observe", post(placing::observe))
        .route("/keyspaces/unobserve", post(placing::unobserve))
        .route("/routes/add", post(placing::route))
        .route("/routes/remove", post(placing::unroute))
        .route("/placement/apply", post(placing::apply))
        .route("/placement/set", post(placing::set))
        .route("/nodes/drain", post(placing::drain))
        .route("/nodes/undrain", post(placing::undrain))
        .layer(middleware::from_fn_with_state(site.clone(), whole_body))
        .layer(middleware::from_fn(only_operators));
    probes()
        .route("/status", get(status))
        .route("/evidence", get(evidence))
        .route("/evidence/{member}", get(evidence_of))
        .route("/version", get(version))
        .route("/keyspaces", get(keyspaces))
        .route("/groups", get(groups))
        .route("/routes", get(placing::routes))
        .route("/placement/plan", get(placing::plan))
        .route("/placement/explain/{keyspace}", get(placing::explain))
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
    #[serde(default)]
    witness: bool,
    /// It gets its vote by itself, once it has caught up.
    #[serde(default)]
    grows: bool,
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
    let call = Call::MemberAdd {
        name: body.name.clone(),
        peer_address: body.peer_address,
        is_witness: body.witness,
    };
    let added = operate(&site, call).await;
    if !added.status().is_success() || !body.grows {
        return added;
    }
    let name = body.name;
    match ask(&site, Call::MemberGrow { name: name.clone() }).await {
        Ok(Answer::Operator(Ok(_))) => added,
        _ => {
            let text = format!(
                "{name} has been added as a learner, and nobody knows whether it will get its vote \
                 by itself: start it, and `quorate member promote {name}` gives it one\n"
            );
            (StatusCode::CONFLICT, text).into_response()
        }
    }
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKeyspaces {
    names: Vec<String>,
    replicas: usize,
    engine: String,
    quorums: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneKeyspace {
    name: String,
}

async fn create_keyspace(State(site): State<Site>, Json(body): Json<NewKeyspaces>) -> Response {
    let NewKeyspaces {
        names,
        replicas,
        engine,
        quorums,
    } = body;
    let quorums = quorums.as_deref().map(str::parse).transpose();
    match engine.parse().and_then(|engine| Ok((engine, quorums?))) {
        Ok((engine, quorums)) => {
            let call = Call::KeyspaceCreate {
                names,
                replicas,
                engine,
                quorums,
            };
            operate(&site, call).await
        }
        Err(reason) => (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response(),
    }
}

async fn drop_keyspace(State(site): State<Site>, Json(body): Json<OneKeyspace>) -> Response {
    operate(&site, Call::KeyspaceDrop { name: body.name }).await
}

async fn keyspaces(State(site): State<Site>) -> Response {
    match ask(&site, Call::Keyspaces).await {
        Ok(Answer::Keyspaces(keyspaces)) => {
            let described = keyspaces.into_iter().map(|each| {
                json!({
                    "name": each.name,
                    "group": each.group.0,
                    "engine": each.engine.name(),
                    "quorums": each.quorums.to_string(),
                    "replicas": each.replicas,
                    "observers": each.observers,
                    "leader": each.leader,
                    "moving": each.moving.map(placing::moving),
                })
            });
            Json(described.collect::<Vec<_>>()).into_response()
        }
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

async fn groups(State(site): State<Site>) -> Response {
    match ask(&site, Call::Groups).await {
        Ok(Answer::Groups(groups)) => {
            let described = groups.into_iter().map(|each| {
                let others = each.others.iter().map(other).collect::<Vec<_>>();
                let mut described = group(&each);
                described["others"] = others.into();
                described
            });
            Json(described.collect::<Vec<_>>()).into_response()
        }
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

/// A group as a node sees it, as JSON.
pub(crate) fn group(each: &GroupStatus) -> serde_json::Value {
    let status = &each.status;
    let members = status.members.iter();
    let lag = members.clone().filter_map(|member| member.lag).max();
    json!({
        "group": each.group.0,
        "in_doubt": each.is_in_doubt,
        "engine": each.engine.name(),
        "last": each.last.0,
        "last_term": each.last_term.0,
        "elect": each.quorums.elect,
        "commit": each.quorums.commit,
        "voter": each.is_voter,
        "witness": each.is_witness,
        "role": role_name(status.role),
        "leader": status.leader,
        "term": status.term.0,
        "chosen": status.chosen.0,
        "applied": status.applied.0,
        "revision": status.revision,
        "digest": format!("{:032x}", status.digest),
        "alarms": status.alarms,
        "voters": members.filter(|member| member.voter).count(),
        "farthest_behind": lag,
        "load": each.load,
    })
}

/// Another replica of a group, as JSON.
fn other(other: &OtherReplica) -> serde_json::Value {
    json!({
        "id": other.id.to_string(),
        "name": other.name,
        "voter": other.is_voter,
        "witness": other.is_witness,
        "reachable": other.is_reachable,
        "silent_seconds": other.silent_for.map(|silence| silence.as_secs()),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recover {
    keyspace: String,
    last: u64,
    last_term: u64,
    accept_loss: Vec<String>,
}

async fn recover(State(site): State<Site>, Json(body): Json<Recover>) -> Response {
    let order = RecoveryOrder {
        keyspace: body.keyspace,
        last: Slot(body.last),
        term: Epoch(body.last_term),
        given_up: body.accept_loss,
    };
    operate(&site, Call::GroupRecover(order)).await
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
        Ok(Answer::Status(status)) => {
            let view = site.witness.view.borrow();
            Json(StatusBody::new(*status, &view, site.witness.clock)).into_response()
        }
        Ok(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "not the answer asked for\n",
        )
            .into_response(),
        Err(response) => response,
    }
}

async fn evidence(State(site): State<Site>) -> Response {
    as_json(site.witness.tell().await)
}

/// Asks another member on the operator's behalf.
async fn evidence_of(State(site): State<Site>, Path(member): Path<String>) -> Response {
    let status = match ask(&site, Call::Status).await {
        Ok(Answer::Status(status)) => status,
        Ok(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(response) => return response,
    };
    let is_meant = |name: &str, id: base::NodeId| name == member || id.to_string() == member;
    if is_meant(&status.name, status.id) {
        return evidence(State(site)).await;
    }
    let mut members = status.members.into_iter();
    let Some(found) = members.find(|each| is_meant(&each.name, each.id)) else {
        let reason = format!("no member is called {member} or has that id\n");
        return (StatusCode::NOT_FOUND, reason).into_response();
    };
    let at = &found.peer_address;
    let patience = site.limits.evidence_timeout;
    let asked = site.asker.ask(at, at, Subject::Evidence, &[], patience);
    match asked.await {
        Ok(answer) => as_json(answer.to_vec()),
        Err(error) => {
            let reason = format!(
                "{} at {at} does not answer this node: {error}\n",
                found.name
            );
            (StatusCode::BAD_GATEWAY, reason).into_response()
        }
    }
}

fn as_json(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
