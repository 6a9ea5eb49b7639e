//! Whole clusters from one seed: the real node under simulated network, disks, clocks and clients.
//!
//! ```text
//!   seed ──▶ swarm ──▶ scenario ──▶ world ──────▶ outcome: clean, or what was violated
//!                                   │  one thread, one agenda of events in the order of time
//!                       ┌───────────┼──────────────┬──────────────┐
//!                     hosts       network        clients        invariants
//!                  Node + disk   connections     typed etcd     look at every pass
//!                  + clock       cut, slow       requests       of every node
//! ```
//!
//! The node is the production code, unchanged: `server` would drive it by the same inputs and
//! outputs. Nothing here waits, so hours pass in seconds, and a seed repeats a run exactly.
//!
//! - [`scenario`]: what one run does, as data; [`swarm`]: draws it from a seed.
//! - [`world`]: the event loop, hosts, network, clocks, faults. [`disk`]: disks by the sector.
//! - [`gossip`]: members of gossip over a network of their own.
//! - [`clients`]: what clients ask, and the history of what they were told.
//! - [`invariants`]: what must hold after every step, one file each.
//! - [`mod@run`]: one run in two phases. [`minimise`]: fewer faults that still fail.
//! - [`trace`], [`html`]: what happened, for people. [`marks`]: rare situations that were reached.
//! - [`shapes`]: partial connectivity, and how soon a leader commits under it.
//! - [`soak`], [`mutants`], [`command_line`]: many runs; planted bugs; the program `quorate-sim`.

// First: the others say what they say by its macros.
#[macro_use]
mod output;

pub mod clients;
pub mod command_line;
pub mod disk;
pub mod gossip;
pub mod html;
pub mod invariants;
pub mod marks;
pub mod minimise;
pub mod mutants;
pub mod processor_time;
pub mod run;
pub mod scenario;
pub mod shapes;
pub mod soak;
pub mod streams;
pub mod swarm;
pub mod trace;
pub mod world;

pub use run::{Outcome, run};
pub use scenario::Scenario;
