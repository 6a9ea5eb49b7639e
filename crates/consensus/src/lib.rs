//! Replicated logs as pure state machines.
//!
//! A group's replicas agree on one log. What a log engine may be asked and what it answers is the
//! [`Engine`] trait; [`raft`] is an engine. Nothing here does I/O or looks at a clock: an engine
//! is told what happened ([`Input`]) and says what is to be done ([`Output`]).
//!
//! - [`engine`]: the contract.
//! - [`entry`]: what stands in the log, and its encoding.
//! - [`membership`]: who votes, who learns, and how that changes safely.
//! - [`quorum`]: counting votes and acknowledgements.
//! - [`message`]: what replicas say to each other, and its encoding.
//! - [`hard_state`]: the promises that stand in the journal.
//! - [`limits`]: every bound, by name.
//! - [`decode`]: reading bytes that may be hostile.

pub mod decode;
mod delivery;
pub mod engine;
pub mod entry;
pub mod hard_state;
mod journaling;
pub mod limits;
pub mod membership;
pub mod message;
pub mod quorum;
pub mod raft;
mod reads;
mod snapshot;

pub use decode::DecodeError;
pub use engine::{
    CheckpointRef, Engine, Input, Liveness, Mark, Note, Output, Outputs, Record, Refusal, Role,
    Ticket, View,
};
pub use entry::{Entry, Payload, PayloadKind};
pub use hard_state::HardState;
pub use limits::Limits;
pub use membership::{Change, Member, Membership};
pub use message::Message;
pub use raft::{Config, Glance, Raft, Restored, Tail};
