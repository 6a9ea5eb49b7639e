//! What a node starts from makes sense: checkpoint and log join without a gap, epochs in the log
//! never fall, nothing is executed that nobody has chosen (etcd#13766 and #14382: what a restart
//! took for the state was from another moment than what it took for the log).
//!
//! ```text
//!   checkpoint ───────▶│ applied
//!        log   │ start ……… last │        start ≤ applied ≤ what is chosen somewhere
//! ```
//!
//! Looked at when a node is first seen running; from then on the other invariants follow it.

use base::{NodeId, Slot};
use consensus::AnyEngine;
use node::replica::Replica;

use super::chosen::Chosen;
use super::{Violation, violated};

/// A node has recovered.
///
/// # Errors
/// What does not fit.
pub fn recovered(
    own: NodeId,
    engine: &AnyEngine,
    replica: &Replica,
    chosen: &Chosen,
) -> Result<(), Violation> {
    let glance = engine.glance();
    let wrong = |text: String| violated("a recovery makes sense", text);
    let applied = replica.applied();
    if glance.start > applied {
        return wrong(format!(
            "{own} starts with a log behind {} and a state of slot {applied}: what is between is \
             missing",
            glance.start
        ));
    }
    if glance.last < glance.start || glance.durable > glance.last {
        return wrong(format!(
            "{own} starts with a log that cannot be: {glance:?}"
        ));
    }
    if applied > chosen.last() && chosen.last() > Slot(0) {
        return wrong(format!(
            "{own} starts with a state of slot {applied}; only {} is chosen",
            chosen.last()
        ));
    }
    if let AnyEngine::Paxos(_) = engine {
        // Slots are accepted in any order, each under a ballot of its own.
        return Ok(());
    }
    let mut before = None;
    for slot in (glance.start.next().0..=glance.last.0).map(Slot) {
        let epoch = engine.epoch_of(slot);
        if epoch.is_none() || epoch < before || epoch > Some(glance.epoch) {
            return wrong(format!(
                "{own} starts with epoch {epoch:?} at slot {slot} behind {before:?}, itself in \
                 epoch {}",
                glance.epoch
            ));
        }
        before = epoch;
    }
    Ok(())
}
