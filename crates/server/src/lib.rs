//! The runtime as a library: the only crate with sockets, files, real clocks, threads and async.
//!
//! It hosts one [`node::Node`], a pure function of its inputs, and maps what happens in the world
//! to inputs and outputs to the world:
//!
//! ```text
//!   etcd's clients             a thread per core                the node's thread
//!   ─ gRPC, HTTP ─▶ listeners ─▶ serving ─ calls of a turn ──────────▶ ┌───────────┐
//!   ◀──────────────────────────────────────── answers of a pass ────── │ node_loop │
//!   operators ─ HTTP ─▶ listeners ─▶ http, admin ─ calls ────────────▶ │  + Node   │
//!   peers ─ frames ──────────────────────────────────────────────────▶ │           │
//!         ◀──────────────────────── batches per connection ─────────── │ transport │
//!                     disks (a thread per lane) ◀─ requests ───────── │           │
//!                                               ── completions ─────▶ └───────────┘
//! ```
//!
//! Whoever serves a cluster from the command line calls [`run`]; whoever embeds a node calls
//! [`Server::start`].
//!
//! - [`configuration`]: what a server is told; [`limits`]: what bounds the runtime.
//! - [`folder`]: the data folder, its lock and its identity file. `disks`: the disk threads.
//! - `transport`: connections to peers. `listeners`, `opening`: connections of clients
//!   and operators.
//! - `serving`: etcd's hot calls. `etcd_service`, `lease_service`, `http`, `admin`: everything
//!   else that is spoken. `calls`, `inbox`: from them to the node.
//! - `gateway`: etcd's calls as JSON. `tied`: leases that keys of other keyspaces go with.
//! - `gossip`: who is alive, as a hint. `evidence`, `status`: what a node tells of itself.
//! - [`tls`]: encryption, and who is at the other end.
//! - `lock_service`, `lines`, `changes`: locks and elections, and the waiting for them.
//! - `node_loop`: the node's thread. `jobs`: long reads, beside it. [`host`]: starts and stops all
//!   of it.
//! - `priority`: threads whose work has time.
//! - `logging`, `metrics`: what people and machines see of it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this crate is where clocks, files, sockets, threads and locks live"
)]

mod admin;
mod auth_service;
mod authority;
mod calls;
mod changes;
mod cluster_service;
pub mod configuration;
mod cors;
mod disks;
mod etcd_service;
mod evidence;
pub mod folder;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gateway;
mod gossip;
mod health;
pub mod host;
mod http;
mod inbox;
mod jobs;
mod keyspace;
mod lease_service;
pub mod limits;
mod lines;
mod listeners;
mod lock_service;
mod logging;
mod maintenance_service;
mod metrics;
mod node_loop;
mod opening;
mod priority;
mod seed;
mod serving;
pub mod snapshot;
mod status;
mod tied;
pub mod tls;
mod transport;

pub use configuration::Configuration;
pub use host::{Endpoints, Error, Handle, Server};

/// Serves until the process is told to stop (by SIGTERM or SIGINT; a second one ends it at once),
/// logging to standard error.
///
/// # Errors
/// The server could not be started, or the node refused to go on; the text says what is wrong,
/// where, and what to do.
pub fn run(configuration: Configuration) -> Result<(), Error> {
    run_with_warnings(configuration, &[]).map(drop)
}

/// The same, with something to be said first. The signal that it was told to stop by, if it was.
///
/// # Errors
/// As [`run`].
pub fn run_with_warnings(
    configuration: Configuration,
    warnings: &[String],
) -> Result<Option<i32>, Error> {
    logging::start(configuration.log_level, configuration.log_format);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    for hint in configuration.hints() {
        tracing::warn!("{hint}");
    }
    let handle = Server::start(configuration)?;
    let told = handle.stop_on_signals()?;
    handle.tell_supervisor();
    handle.wait()?;
    Ok(told.get().copied())
}
