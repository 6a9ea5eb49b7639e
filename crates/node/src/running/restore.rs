//! From what recovery found to what the engine is started with.

use base::{Epoch, Slot};
use consensus::{HardState, Membership, Restored, Tail};

use crate::recovery::Recovered;

/// What the engine is started with.
pub(super) fn restore(recovered: &Recovered) -> Result<Restored, String> {
    let level = recovered.state.reader().level();
    if level > state::LEVEL_MAX {
        return Err(format!(
            "the state in this data folder has level {level}, this version of Quorate knows levels \
             up to {}; start this node with the version that the others run",
            state::LEVEL_MAX
        ));
    }
    let log = &recovered.log;
    let unreadable = |what: &str| {
        format!(
            "{what} in the journal cannot be read although its checksum is right; it was \
                 probably written by a newer version of Quorate: start that version"
        )
    };
    let hard_state = match &log.hard_state {
        Some(body) => HardState::decode(body.clone()).map_err(|_| unreadable("the hard state"))?,
        None => HardState::default(),
    };
    let checkpoint = recovered.found.loaded;
    let end = checkpoint.map_or((Slot(0), Epoch(0)), |each| (each.slot, each.epoch));
    let mut restored = Restored {
        hard_state,
        membership: recovered.membership.clone(),
        checkpoint,
        log_start: end,
        last: end.0,
        applied: end.0,
        tail: Tail::Certain,
        ..Restored::default()
    };
    if !recovered.log_replaced {
        restored.log_start = log.start;
        restored.epochs = log.epochs.clone();
        restored.last = log.last;
        for (slot, body) in log.memberships.iter().filter(|(slot, _)| *slot > end.0) {
            let membership =
                Membership::decode(body.clone()).map_err(|_| unreadable("a membership"))?;
            restored.memberships.push((*slot, membership));
        }
    }
    Ok(restored)
}
