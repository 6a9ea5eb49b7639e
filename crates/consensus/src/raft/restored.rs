//! What a replica is started with: its settings, and what its journal and its newest
//! checkpoint remember.

use std::time::Duration;

use base::{Epoch, NodeId, Slot};

use crate::engine::CheckpointRef;
use crate::hard_state::HardState;
use crate::limits::Limits;
use crate::membership::Membership;

/// The settings of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which member this replica is.
    pub id: NodeId,
    /// A follower that hears nothing for this long (drawn anew each time between once and twice
    /// this) asks for an election; a leader that hears from no quorum for this long steps down.
    pub election_timeout: Duration,
    /// How often a leader makes itself heard. Well below the election timeout.
    pub heartbeat_interval: Duration,
    /// How much the engine may hold, send and hand out.
    pub limits: Limits,
}

/// Whether the journal is sure that it holds everything that this replica ever acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// It is: what is missing was never reported durable.
    #[default]
    Certain,
    /// It is not: entries that were reported durable may be damaged or missing. The replica
    /// neither votes nor acknowledges until a leader has verified its log.
    Uncertain,
}

/// What stands on stable storage. The default is a replica that has never run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The last hard state in the journal.
    pub hard_state: HardState,
    /// The membership in the loaded checkpoint or, without one, the membership that the log
    /// starts from (empty for a replica that joins later and gets it from the others).
    pub membership: Membership,
    /// The loaded checkpoint.
    pub checkpoint: Option<CheckpointRef>,
    /// The log begins behind this slot, which had this epoch; `(0, 0)` at first.
    pub log_start: (Slot, Epoch),
    /// The epochs of the log's entries as runs: from this slot on, this epoch. The first begins
    /// at the slot after `log_start`, if the log holds anything.
    pub epochs: Vec<(Slot, Epoch)>,
    /// The ballots under which entries were accepted, as runs like `epochs`. Of use to Paxos only;
    /// an entry that no run covers was accepted under its own epoch.
    pub ballots: Vec<(Slot, Epoch)>,
    /// Slots between `log_start` and `last` that the journal does not hold, as first and last of
    /// each gap, ascending. Only Paxos leaves any.
    pub gaps: Vec<(Slot, Slot)>,
    /// The last slot that the journal holds; that of `log_start` if it holds none.
    pub last: Slot,
    /// The membership entries in the log, in order.
    pub memberships: Vec<(Slot, Membership)>,
    /// The replica has executed everything up to here: the slot of the loaded checkpoint.
    pub applied: Slot,
    /// Whether something may be missing behind `last`.
    pub tail: Tail,
}
