//! Replicated logs as pure state machines.
//!
//! A group's replicas agree on one log. What a log engine may be asked and what it answers is the
//! [`Engine`] trait; [`raft`] and [`paxos`] are engines, and [`AnyEngine`] is either. Nothing here
//! does I/O or looks at a clock: an engine is told what happened ([`Input`]) and says what is to
//! be done ([`Output`]).
//!
//! - [`engine`]: the contract.
//! - [`kind`]: which engine a group has, and a host's handle on either.
//! - [`entry`]: what stands in the log, and its encoding; [`entries`]: several, shared.
//! - [`membership`]: who votes, who learns, and how that changes safely.
//! - [`quorum`]: counting votes and acknowledgements.
//! - [`message`]: what replicas say to each other, and its encoding.
//! - [`hard_state`]: the promises that stand in the journal.
//! - [`limits`]: every bound, by name.
//! - [`decode`]: reading bytes that may be hostile.

mod beginning;
mod contact;
mod copying;
pub mod decode;
mod delivery;
pub mod engine;
pub mod entries;
pub mod entry;
mod handover;
pub mod hard_state;
mod health;
mod journaling;
pub mod kind;
pub mod limits;
pub mod membership;
mod memberships;
pub mod message;
mod patience;
pub mod paxos;
mod peers;
pub mod quorum;
pub mod raft;
mod reading;
mod reads;
pub mod rest;
pub mod slots;
mod snapshot;
mod speaking;

pub use decode::DecodeError;
pub use engine::{
    CheckpointRef, Engine, Input, Liveness, Mark, Note, Output, Outputs, Record, Records, Refusal,
    Role, Ticket, View,
};
pub use entries::Entries;
pub use entry::{Entry, Payload, PayloadKind};
pub use hard_state::HardState;
pub use kind::{AnyEngine, EngineKind};
pub use limits::Limits;
pub use membership::{Change, Member, Membership};
pub use message::Message;
pub use paxos::Paxos;
pub use quorum::{QuorumRule, QuorumSizes};
pub use raft::{Config, Glance, Raft, Restored, Tail};
pub use rest::Rest;
pub use slots::Slots;
