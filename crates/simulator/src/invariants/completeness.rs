//! *Leader Completeness* and *Leader Append-Only* (Raft thesis, figure 3.2): whoever becomes leader
//! has every entry that was chosen in earlier epochs, in its log or below its start, where a
//! snapshot covers it; and while it leads, its log only grows.

use base::{NodeId, Slot};
use consensus::{AnyEngine, Glance, Role};

use super::chosen::Chosen;
use super::{Violation, violated};

/// How many of the last chosen slots are compared; log matching covers what is before.
const COMPARED: u64 = 256;

/// A node has become leader.
///
/// # Errors
/// If it lacks something that is chosen.
pub fn leads(own: NodeId, raft: &AnyEngine, chosen: &Chosen) -> Result<(), Violation> {
    let glance = raft.glance();
    let last = chosen.last_in(glance.epoch);
    if glance.last < last {
        return violated(
            "leader completeness",
            format!(
                "{own} leads epoch {} with slots up to {}, but {last} is chosen",
                glance.epoch, glance.last
            ),
        );
    }
    let from = glance.start.next().0.max(last.0.saturating_sub(COMPARED));
    for slot in (from..=last.0).map(Slot) {
        let (has, wants) = (raft.epoch_of(slot), chosen.epoch(slot));
        if has != wants {
            return violated(
                "leader completeness",
                format!(
                    "{own} leads epoch {} with {has:?} at slot {slot}; {wants:?} is chosen",
                    glance.epoch
                ),
            );
        }
    }
    Ok(())
}

/// What a pass did to a leader's log.
///
/// # Errors
/// If it became shorter.
pub fn append_only(own: NodeId, before: &Glance, after: &Glance) -> Result<(), Violation> {
    let leads = before.role == Role::Leader && after.role == Role::Leader;
    if leads && before.epoch == after.epoch && after.last < before.last {
        return violated(
            "leader append-only",
            format!(
                "{own} leads epoch {} and cuts its log from {} to {}",
                after.epoch, before.last, after.last
            ),
        );
    }
    if after.chosen < before.chosen || after.epoch < before.epoch {
        return violated(
            "numbers only grow",
            format!("{own} goes back from {before:?} to {after:?}"),
        );
    }
    Ok(())
}
