//! What operators may ask about where keyspaces are.

use std::time::Duration;

use axum::extract::{Json, Path, State};
use axum::response::Response;
use node::{Call, MovingStatus, Placement};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{OneKeyspace, operate};
use crate::http::Site;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Moved {
    name: String,
    from: Option<String>,
    to: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Applied {
    epoch: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tended {
    replace_after_seconds: Option<u64>,
    rebalance: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OneNode {
    node: String,
}

async fn ask(site: &Site, placement: Placement) -> Response {
    operate(site, Call::Placement(placement)).await
}

pub(super) async fn move_keyspace(State(site): State<Site>, Json(body): Json<Moved>) -> Response {
    let Moved { name, from, to } = body;
    ask(&site, Placement::Move { name, from, to }).await
}

pub(super) async fn stay(State(site): State<Site>, Json(body): Json<OneKeyspace>) -> Response {
    ask(&site, Placement::Cancel { name: body.name }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Observed {
    name: String,
    node: String,
}

pub(super) async fn observe(State(site): State<Site>, Json(body): Json<Observed>) -> Response {
    let Observed { name, node } = body;
    let observes = true;
    ask(
        &site,
        Placement::Observe {
            name,
            node,
            observes,
        },
    )
    .await
}

pub(super) async fn unobserve(State(site): State<Site>, Json(body): Json<Observed>) -> Response {
    let Observed { name, node } = body;
    let observes = false;
    ask(
        &site,
        Placement::Observe {
            name,
            node,
            observes,
        },
    )
    .await
}

pub(super) async fn plan(State(site): State<Site>) -> Response {
    ask(&site, Placement::Plan).await
}

pub(super) async fn explain(State(site): State<Site>, Path(name): Path<String>) -> Response {
    ask(&site, Placement::Explain { name }).await
}

pub(super) async fn apply(State(site): State<Site>, Json(body): Json<Applied>) -> Response {
    ask(&site, Placement::Apply { epoch: body.epoch }).await
}

pub(super) async fn set(State(site): State<Site>, Json(body): Json<Tended>) -> Response {
    let placement = Placement::Tend {
        replace_after: body.replace_after_seconds.map(Duration::from_secs),
        rebalances: body.rebalance,
    };
    ask(&site, placement).await
}

pub(super) async fn drain(State(site): State<Site>, Json(body): Json<OneNode>) -> Response {
    let node = body.node;
    let is_draining = true;
    ask(&site, Placement::Drain { node, is_draining }).await
}

pub(super) async fn undrain(State(site): State<Site>, Json(body): Json<OneNode>) -> Response {
    let node = body.node;
    let is_draining = false;
    ask(&site, Placement::Drain { node, is_draining }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Routed {
    prefix: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnePrefix {
    prefix: String,
}

pub(super) async fn route(State(site): State<Site>, Json(body): Json<Routed>) -> Response {
    let Routed { prefix, name } = body;
    let prefix = prefix.into();
    ask(&site, Placement::Route { prefix, name }).await
}

pub(super) async fn unroute(State(site): State<Site>, Json(body): Json<OnePrefix>) -> Response {
    let prefix = body.prefix.into();
    ask(&site, Placement::Unroute { prefix }).await
}

pub(super) async fn routes(State(site): State<Site>) -> Response {
    ask(&site, Placement::Routes).await
}

/// A keyspace's way to other nodes, as JSON.
pub(super) fn moving(moving: MovingStatus) -> Value {
    json!({
        "to": moving.to,
        "from": moving.from,
        "state": if moving.is_leaving { "leaving" } else { "filling" },
        "filled": moving.filled,
    })
}
