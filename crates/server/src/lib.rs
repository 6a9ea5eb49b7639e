//! The runtime as a library: the only crate with sockets, files, real clocks, threads and async.
//!
//! It hosts one [`node::Node`], a pure function of its inputs, and maps what happens in the world
//! to inputs and outputs to the world:
//!
//! ```text
//!   clients, operators          threads of tokio                the node's thread
//!   ─ gRPC, HTTP ─▶ listeners ─▶ etcd_service, http, admin ─ calls ─▶ ┌───────────┐
//!   ◀──────────────────────────────────────────────────── answers ─── │ node_loop │
//!   peers ─ frames ─▶ transport ──────────────────── frames ────────▶ │  + Node   │
//!         ◀────────── transport ◀─── batches per connection ───────── │           │
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
//! - `etcd_service`, `http`, `admin`: what is spoken over those. `calls`: from them to the node.
//! - `node_loop`: the node's thread. [`host`]: starts and stops all of it.
//! - `logging`, `metrics`: what people and machines see of it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this crate is where clocks, files, sockets, threads and locks live"
)]

mod admin;
mod calls;
pub mod configuration;
mod disks;
mod etcd_service;
pub mod folder;
pub mod host;
mod http;
pub mod limits;
mod listeners;
mod logging;
mod metrics;
mod node_loop;
mod opening;
mod seed;
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
    logging::start(configuration.log_level, configuration.log_format);
    for hint in configuration.hints() {
        tracing::warn!("{hint}");
    }
    let handle = Server::start(configuration)?;
    handle.stop_on_signals()?;
    handle.wait()
}
