//! Many nodes as one cluster: who is alive, and who holds what.
//!
//! ```text
//!   gossip       SWIM with Lifeguard: liveness, addresses, load; hints, never decisions
//!      │ hints
//!      ▼
//!   placement    who should hold what: plans, and the steps from here to there
//!                (rendezvous hashing, hash ring, Maglev tables: also for clients of ours)
//! ```
//!
//! ```text
//!   meta         the table: which keyspaces there are, who holds each; commands of the first group
//! ```
//!
//! All are pure: gossip is told of time and packets and says what to send; placement is functions
//! from tables to plans; meta executes in the state. Decisions become true only when a group's log
//! says so.

pub mod gossip;
pub mod meta;
pub mod placement;
