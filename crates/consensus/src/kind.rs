//! Which engine a group has, and a host's handle on either.
//!
//! A group is created with one engine and keeps it. [`AnyEngine`] is what a host holds: it does
//! nothing of its own.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base::{Epoch, Instant, NodeId, Slot};

use crate::engine::{Engine, Input, Outputs, View};
use crate::hard_state::HardState;
use crate::membership::Membership;
use crate::paxos::Paxos;
use crate::raft::{Config, Glance, Raft, Restored};
use crate::rest::Rest;

/// How a group agrees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EngineKind {
    /// [`crate::raft`].
    #[default]
    Raft,
    /// [`crate::paxos`].
    Paxos,
}

impl EngineKind {
    /// All of them.
    pub const ALL: &[EngineKind] = &[EngineKind::Raft, EngineKind::Paxos];

    /// Its name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Raft => "raft",
            EngineKind::Paxos => "paxos",
        }
    }

    /// Its number in messages and files.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            EngineKind::Raft => 1,
            EngineKind::Paxos => 2,
        }
    }

    /// The engine of this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<EngineKind> {
        let mut all = EngineKind::ALL.iter().copied();
        all.find(|kind| kind.code() == code)
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(name: &str) -> Result<EngineKind, String> {
        let found = EngineKind::ALL.iter().find(|kind| kind.name() == name);
        found
            .copied()
            .ok_or_else(|| format!("there is no engine {name:?}; the engines are raft and paxos"))
    }
}

/// Either engine. Both are large, so they live on the heap.
#[derive(Clone, Debug)]
pub enum AnyEngine {
    /// A replica that agrees by Raft.
    Raft(Box<Raft>),
    /// A replica that agrees by Multi-Paxos.
    Paxos(Box<Paxos>),
}

/// Calls the same method of whichever engine it is.
macro_rules! either {
    ($any:expr, $engine:ident => $call:expr) => {
        match $any {
            AnyEngine::Raft($engine) => $call,
            AnyEngine::Paxos($engine) => $call,
        }
    };
}

impl AnyEngine {
    /// A replica with what it remembers. `seed` must differ from incarnation to incarnation.
    ///
    /// # Panics
    /// If `restored` contradicts itself: the host has verified what it read from the disk.
    #[must_use]
    pub fn new(
        kind: EngineKind,
        config: Config,
        restored: Restored,
        seed: u64,
        now: Instant,
    ) -> AnyEngine {
        match kind {
            EngineKind::Raft => AnyEngine::Raft(Box::new(Raft::new(config, restored, seed, now))),
            EngineKind::Paxos => {
                AnyEngine::Paxos(Box::new(Paxos::new(config, restored, seed, now)))
            }
        }
    }

    /// Which it is.
    #[must_use]
    pub fn kind(&self) -> EngineKind {
        match self {
            AnyEngine::Raft(_) => EngineKind::Raft,
            AnyEngine::Paxos(_) => EngineKind::Paxos,
        }
    }

    /// The membership in force.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        either!(self, engine => engine.membership())
    }

    /// The membership in force, and the slot of the entry that it stands in.
    #[must_use]
    pub fn membership_in_force(&self) -> (Slot, &Membership) {
        either!(self, engine => engine.membership_in_force())
    }

    /// The membership in force, shared: while somebody holds it, it does not change.
    #[must_use]
    pub fn membership_shared(&self) -> &Arc<Membership> {
        either!(self, engine => engine.membership_shared())
    }

    /// Whether this replica leads, and nothing would follow if all that it has written were durable
    /// now, because that is not enough to choose anything. A Paxos leader never says so.
    #[must_use]
    pub fn waits_for_others(&self) -> bool {
        match self {
            AnyEngine::Raft(raft) => raft.waits_for_others(),
            AnyEngine::Paxos(_) => false,
        }
    }

    /// The promises as they stand, whether durable or not.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        either!(self, engine => engine.hard_state())
    }

    /// The replica at a glance.
    #[must_use]
    pub fn glance(&self) -> Glance {
        either!(self, engine => engine.glance())
    }

    /// The epoch of the log's entry at `slot`, if the log holds one there.
    #[must_use]
    pub fn epoch_of(&self, slot: Slot) -> Option<Epoch> {
        either!(self, engine => engine.epoch_of(slot))
    }
}

impl Engine for AnyEngine {
    #[inline]
    fn step(&mut self, now: Instant, input: Input, out: &mut Outputs) {
        either!(self, engine => engine.step(now, input, out));
    }

    #[inline]
    fn flush(&mut self, now: Instant, out: &mut Outputs) {
        either!(self, engine => engine.flush(now, out));
    }

    fn deadline(&self) -> Option<Instant> {
        either!(self, engine => engine.deadline())
    }

    fn rest(&self, absent: &dyn Fn(NodeId) -> bool) -> Option<Rest> {
        either!(self, engine => engine.rest(absent))
    }

    fn keeps_membership(&self) -> bool {
        either!(self, engine => engine.keeps_membership())
    }

    fn view(&self) -> View {
        either!(self, engine => engine.view())
    }
}
