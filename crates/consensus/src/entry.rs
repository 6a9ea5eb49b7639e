//! What stands in a group's log.

use std::sync::Arc;

use base::{Epoch, Slot};
use bytes::Bytes;

use crate::membership::Membership;

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry, which lets it choose what its predecessors left.
    Empty,
    /// A batch of commands, opaque to the engine. Shared, never copied.
    Commands(Bytes),
    /// The membership from this slot on.
    Membership(Arc<Membership>),
}

/// One position of the log with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub slot: Slot,
    /// The epoch in which a leader put it there.
    pub epoch: Epoch,
    /// What it says.
    pub payload: Payload,
}
