//! When clients are served after a start, and by which state they are judged.
//!
//! ```text
//!   a checkpoint, however old ─▶ the log behind it, bit by bit ─▶ what was known before the start
//!                                                                        │ a read round
//!                                                                        ▼
//!                                                                 current: ready for clients
//! ```
//!
//! Users and roles stand in the state of the first group, and so does whether they count at all.
//! The state that a node starts from may be from before authentication was turned on, or a user
//! was removed: to judge by it would let in whoever has been shut out. So, as in etcd, a node is
//! ready for clients when it has executed everything that was chosen when it came back.
//!
//! Whoever asks before that, and whose request needs nothing but this node, is not judged by less
//! than the node has known already. All that it had executed stands in the log that is found at
//! the start (but for what the disk did not hold yet when the power went). How much of that was
//! chosen may only a leader know; of its end always. The last entries may also have given way to
//! others. Then only a read round tells.

use base::Slot;
use consensus::Glance;

use super::{Group, META};
use crate::interface::Output;

/// How far a replica has come since it was started.
#[derive(Debug)]
pub(super) struct Readiness {
    /// The end of the log at the start; `None` if something of it was lost.
    found: Option<Slot>,
    /// Somebody has led since.
    was_led: bool,
    /// It has been told that clients can be served.
    is_told: bool,
}

impl Readiness {
    /// A replica that begins like this.
    pub(super) fn new(beginning: Glance) -> Readiness {
        Readiness {
            found: (!beginning.is_uncertain).then_some(beginning.last),
            was_led: false,
            is_told: false,
        }
    }

    /// Somebody leads. Whether that is the first time.
    pub(super) fn led(&mut self) -> bool {
        !std::mem::replace(&mut self.was_led, true)
    }

    /// Whether an entry that is executed now may have been executed before the start.
    pub(super) fn repeats(&self) -> bool {
        !self.was_led
    }
}

impl Group {
    /// Whether callers may be judged by the state: it is no less than what was known before this
    /// node was started. Other groups have no users.
    pub(super) fn is_restored(&self) -> bool {
        let found = self.readiness.found;
        self.id != META
            || self.was_current
            || found.is_some_and(|found| self.replica.applied() >= found)
    }

    /// Whether it has executed what was chosen when it came back. A witness executes nothing, and
    /// judges nobody.
    pub(super) fn is_current(&self) -> bool {
        self.was_current || (self.is_witness() && self.readiness.was_led)
    }

    /// Says once that clients can be served, now that this replica is current.
    pub(super) fn tell_ready(&mut self, out: &mut Vec<Output>) {
        if self.id == META && !std::mem::replace(&mut self.readiness.is_told, true) {
            out.push(Output::Ready);
        }
    }
}
