//! Whether the node is well, asked and answered as etcd does it.
//!
//! | path | question |
//! |---|---|
//! | `/health` | no alarm is raised, and a linearizable read can be served now |
//! | `/livez` | the process does something at all |
//! | `/readyz` | clients may be sent here |
//!
//! `/health` takes `serializable=true` (the node itself, not the cluster) and `exclude=ALARM`. The
//! others consist of checks, each with a path of its own below, and take `verbose`,
//! `exclude=CHECK` and `allowlist=CHECK`.

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use consensus::Role;
use node::{Answer, Call, Status};
use serde_json::json;
use tokio::time::timeout;

use crate::http::Site;

/// `/health`, which only the port of etcd's clients has.
pub(crate) fn health_route() -> Router<Site> {
    Router::new().route("/health", get(health))
}

/// The probes of both ports.
pub(crate) fn probes() -> Router<Site> {
    Router::new()
        .route("/livez", get(live))
        .route("/livez/{check}", get(live_one))
        .route("/readyz", get(ready))
        .route("/readyz/{check}", get(ready_one))
}

/// One thing that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The replica is not known to be damaged.
    DataCorruption,
    /// The node's own state can be read.
    SerializableRead,
    /// The cluster's can.
    LinearizableRead,
    /// It has a vote: others cannot do without it.
    NonLearner,
}

const LIVE: &[Check] = &[Check::SerializableRead];
const READY: &[Check] = &[
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run(self, site: &Site) -> Result<(), String> {
        match self {
            Check::DataCorruption => {
                let alarms = status(site).await?.alarms;
                if alarms.iter().any(|alarm| alarm == CORRUPT) {
                    return Err("alarm activated: CORRUPT".to_owned());
                }
                Ok(())
            }
            Check::SerializableRead => status(site).await.map(drop),
            Check::LinearizableRead => linearizable_read(site).await,
            Check::NonLearner => {
                let status = status(site).await?;
                if status.role == Role::Learner {
                    return Err("not supported for learner".to_owned());
                }
                // It has a vote, and clients may not be sent there either.
                if status.is_witness() {
                    return Err(etcd::Error::Witness.text().to_owned());
                }
                Ok(())
            }
        }
    }
}

const CORRUPT: &str = "CORRUPT";

/// Asks the node's thread what it sees; an error if it does not answer.
async fn status(site: &Site) -> Result<Status, String> {
    match timeout(site.limits.operator_timeout, site.calls.call(Call::Status)).await {
        Ok(Ok(Answer::Status(status))) => Ok(*status),
        Ok(Ok(_)) => Err("the node answered something else".into()),
        Ok(Err(_)) => Err("the node has stopped".into()),
        Err(_) => Err("the node does not answer".into()),
    }
}

async fn linearizable_read(site: &Site) -> Result<(), String> {
    match timeout(site.limits.operator_timeout, site.calls.call(Call::Ready)).await {
        Ok(Ok(Answer::Ready(answer))) => answer,
        Ok(Ok(_)) => Err("the node answered something else".into()),
        Ok(Err(_)) => Err("the node has stopped".into()),
        Err(_) => Err("the node does not answer".into()),
    }
}

/// The values of a parameter, in order. Names of checks and alarms have nothing to decode.
fn values<'a>(query: &'a str, name: &str) -> Vec<&'a str> {
    let pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value)
        .collect()
}

async fn health(State(site): State<Site>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let answered = is_healthy(&site, &query).await;
    let counted = &site.metrics.health_checks;
    match answered {
        Ok(()) => {
            counted.successes.inc();
            axum::Json(json!({"health": "true", "reason": ""})).into_response()
        }
        Err(reason) => {
            counted.failures.inc();
            let body = format!("{}\n", json!({"health": "false", "reason": reason}));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn is_healthy(site: &Site, query: &str) -> Result<(), String> {
    let excluded = values(query, "exclude");
    let read = |error| format!("RANGE ERROR:{error}");
    let status = status(site).await.map_err(read)?;
    let mut alarms = status.alarms.iter();
    if let Some(alarm) = alarms.find(|alarm| !excluded.contains(&alarm.as_str())) {
        return Err(format!("ALARM {alarm}"));
    }
    if values(query, "serializable").first() == Some(&"true") {
        return Ok(());
    }
    if status.leader.is_none() {
        return Err("RAFT NO LEADER".to_owned());
    }
    linearizable_read(site).await.map_err(read)
}

async fn live(State(site): State<Site>, RawQuery(query): RawQuery) -> Response {
    run_all(&site, LIVE, &query.unwrap_or_default()).await
}

async fn ready(State(site): State<Site>, RawQuery(query): RawQuery) -> Response {
    run_all(&site, READY, &query.unwrap_or_default()).await
}

async fn live_one(
    State(site): State<Site>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    run_one(&site, LIVE, &name, &query.unwrap_or_default()).await
}

async fn ready_one(
    State(site): State<Site>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    run_one(&site, READY, &name, &query.unwrap_or_default()).await
}

async fn run_one(site: &Site, checks: &[Check], name: &str, query: &str) -> Response {
    match checks.iter().find(|check| check.name() == name) {
        Some(check) => run(site, &[*check], query).await,
        None => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}

async fn run_all(site: &Site, checks: &[Check], query: &str) -> Response {
    match chosen(checks, query) {
        Ok(chosen) => run(site, &chosen, query).await,
        Err(problem) => (StatusCode::BAD_REQUEST, problem).into_response(),
    }
}

/// The checks that a query asks for.
fn chosen(checks: &[Check], query: &str) -> Result<Vec<Check>, String> {
    let (allowed, excluded) = (values(query, "allowlist"), values(query, "exclude"));
    if !allowed.is_empty() && !excluded.is_empty() {
        return Err("expected either allowlist or exclude, not both\n".to_owned());
    }
    let mut chosen = checks.to_vec();
    chosen.retain(|check| {
        let name = &check.name();
        (allowed.is_empty() || allowed.contains(name)) && !excluded.contains(name)
    });
    Ok(chosen)
}

/// Runs checks; says what each has come to if one fails, or if that is asked for.
async fn run(site: &Site, checks: &[Check], query: &str) -> Response {
    let mut lines = String::new();
    let mut is_well = true;
    for check in checks {
        let name = check.name();
        match check.run(site).await {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(reason) => {
                is_well = false;
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
            }
        }
    }
    let sniffing = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    if !is_well {
        return (StatusCode::SERVICE_UNAVAILABLE, sniffing, lines).into_response();
    }
    if values(query, "verbose").is_empty() {
        lines.clear();
    }
    lines.push_str("ok\n");
    (sniffing, lines).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_chooses_checks() {
        let names = |query: &str| {
            let chosen = chosen(READY, query)?;
            let names: Vec<&str> = chosen.iter().map(|check| check.name()).collect();
            Ok::<_, String>(names.join(" "))
        };
        let all = "data_corruption serializable_read linearizable_read non_learner";
        assert_eq!(names("verbose").unwrap(), all);
        assert_eq!(names("exclude=nothing").unwrap(), all);
        assert_eq!(
            names("exclude=data_corruption&verbose&exclude=linearizable_read").unwrap(),
            "serializable_read non_learner"
        );
        assert_eq!(names("allowlist=non_learner").unwrap(), "non_learner");
        assert!(names("allowlist=non_learner&exclude=non_learner").is_err());
    }
}
