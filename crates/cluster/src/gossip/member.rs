//! What is known of one member.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use base::{Instant, NodeId};

use crate::placement::site::Domains;

/// Orders what is said about one member: a later one wins. Only the member itself raises it, to
/// deny that it is dead. It begins with the number of the member's starts, so that a member that
/// was started again wins over all that was said of it before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The first of a start.
    #[must_use]
    pub fn of_start(start: u32) -> Incarnation {
        Incarnation(u64::from(start) << 32)
    }

    pub(crate) fn next(self) -> Incarnation {
        Incarnation(self.0.saturating_add(1))
    }
}

/// Whether a member is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It answers, or nobody has found otherwise.
    Alive,
    /// Somebody got no answer from it. It has a while to deny it.
    Suspect,
    /// It did not deny it.
    Dead,
    /// It has said goodbye.
    Left,
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            State::Alive => "alive",
            State::Suspect => "suspect",
            State::Dead => "dead",
            State::Left => "left",
        })
    }
}

/// What a member says of itself besides being alive. Hints: whoever decides anything asks the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Where other nodes reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
    /// The version of its program.
    pub release: String,
    /// How busy it is, in thousandths of what it can do.
    pub load_thousandths: u32,
    /// The newest placement table that it has seen.
    pub table_epoch: u64,
    /// Where it stands: what fails together with it.
    pub domains: Domains,
}

/// One member, as another one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// What people call it; no two members that are alive share it.
    pub name: String,
    /// Where it takes packets and exchanges.
    pub address: SocketAddr,
    /// How new this is.
    pub incarnation: Incarnation,
    /// Whether it is there.
    pub state: State,
    /// What it says of itself.
    pub facts: Facts,
    /// Since when it is in its state, by the clock of whoever keeps this.
    pub since: Instant,
    /// What the answers to probes of whoever keeps this have shown, if there were any.
    pub measured: Option<Measured>,
}

/// What an answer to a probe shows besides that somebody is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// How long a packet takes there and back; the mean of the last few, newer ones count more.
    pub round_trip: Duration,
    /// By how much its wall clock is ahead of this member's, in milliseconds; less than nothing:
    /// behind. Wrong by half a round trip at most.
    pub clock_ahead_milliseconds: i64,
    /// Whether that is more than clocks may be apart.
    pub is_apart: bool,
}
