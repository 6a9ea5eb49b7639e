//! What a replica can sleep on: nothing is under way, and nothing is missing.
//!
//! ```text
//!   leader    ── asleep on (epoch, slot)? ──▶ followers      every one of them says the same place
//!   followers ── asleep on (epoch, slot)  ──▶ leader         of its log: nobody needs a timer
//! ```
//!
//! A host that keeps many groups does not call the engines of those in which nothing happens: no
//! heartbeats, no election timeouts. Something else tells it that the leader's node is alive. An
//! engine knows nothing of that; it says whether it could be left alone ([`crate::Engine::rest`]),
//! and is told when it was ([`crate::Input::Woken`]), so that time in which it was not called is
//! not taken for silence.
//!
//! Sleeping makes nobody trust anybody for longer. No decision of an engine rests on time alone: a
//! leader proves that it leads by a round of a quorum, for each read and each entry.

use base::{Epoch, NodeId, Slot};

/// Where a replica stands while nothing is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Who leads.
    pub leader: NodeId,
    /// In which epoch.
    pub epoch: Epoch,
    /// The last slot: chosen, durable here, and handed out to be executed.
    pub slot: Slot,
}
