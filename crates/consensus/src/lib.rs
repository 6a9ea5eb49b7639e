//! Replicated logs as pure state machines.
//!
//! A group's replicas agree on one log. What a log engine may be asked and what it answers is the
//! [`Engine`] trait; [`raft`] is an engine. Nothing here does I/O or looks at a clock: an engine
//! is told what happened ([`Input`]) and says what is to be done ([`Output`]).
//!
//! - [`engine`]: the contract.
//! - [`entry`]: what stands in the log, and its encoding.
//! - [`membership`]: who votes, who learns, and how that changes safely.

pub mod engine;
pub mod entry;
pub mod membership;
pub mod message;

pub use engine::{Engine, Input, Mark, Output, Outputs, Record, Refusal, Role, Ticket, View};
pub use entry::{Entry, Payload};
pub use membership::{Change, Member, Membership};
