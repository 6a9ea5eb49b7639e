//! From what recovery found to what the engine is started with.

use base::mutant::{self, Mutant};
use base::{Epoch, Slot};
use consensus::{EngineKind, HardState, Membership, Restored, Tail};

use super::levels;
use crate::recovery::{Loss, RecoveredReplica};

/// Which engine the group has, and what it is started with. `level_max` is the newest level that
/// this node executes.
pub(super) fn restore(
    recovered: &RecoveredReplica,
    level_max: u32,
) -> Result<(EngineKind, Restored), String> {
    let level = recovered.state.reader().level();
    if level > level_max {
        return Err(levels::unknown(level, level_max));
    }
    let log = &recovered.log;
    let unreadable = |what: &str| {
        format!(
            "{what} in the journal cannot be read although its checksum is right; it was \
                 probably written by a newer version of Quorate: start that version"
        )
    };
    let mut hard_state = match &log.hard_state {
        Some(body) => HardState::decode(body.clone()).map_err(|_| unreadable("the hard state"))?,
        None => HardState::default(),
    };
    let kind = recovered.engine;
    if log.hard_state.is_some() && hard_state.engine != kind {
        return Err(format!(
            "the journal holds the promises of a replica that agrees by {}, but the identity file \
             says that its cluster agrees by {kind}: one of them comes from another folder. \
             Nothing has been changed. Restore the whole data folder from a copy, or replace this \
             node: remove it with `quorate member remove`, empty its data folder, add it again \
             with `quorate member add` and start it with --join",
            hard_state.engine
        ));
    }
    let checkpoint = recovered.found.loaded;
    let end = checkpoint.map_or((Slot(0), Epoch(0)), |each| (each.slot, each.epoch));
    match recovered.loss {
        // Whatever was promised, it was in earlier epochs.
        Some(Loss::Log { epochs }) => {
            hard_state = HardState {
                epoch: match mutant::is_on(Mutant::ForgetEpochs) {
                    true => Epoch(0),
                    false => epochs,
                },
                engine: kind,
                ..HardState::default()
            };
        }
        Some(Loss::State) => hard_state.chosen = end.0,
        None => {}
    }
    let mut restored = Restored {
        hard_state,
        membership: recovered.membership.clone(),
        checkpoint,
        log_start: end,
        last: end.0,
        applied: end.0,
        tail: match recovered.loss {
            Some(_) if !mutant::is_on(Mutant::VoteInDoubt) => Tail::Uncertain,
            _ => Tail::Certain,
        },
        ..Restored::default()
    };
    if !recovered.log_replaced || kind == EngineKind::Paxos {
        restored.log_start = log.start;
        restored.epochs = log.epochs.clone();
        restored.last = log.last;
        restored.ballots = ballot_runs(&log.ballots);
        restored.gaps.clone_from(&log.gaps);
        for (slot, body) in log.memberships.iter().filter(|(slot, _)| *slot > end.0) {
            let membership =
                Membership::decode(body.clone()).map_err(|_| unreadable("a membership"))?;
            restored.memberships.push((*slot, membership));
        }
    }
    let whole = log.gaps.first().map_or(log.last, |gap| gap.0.previous());
    let known = hard_state.chosen;
    if kind == EngineKind::Paxos && known > whole && known > end.0 {
        return Err(format!(
            "everything up to slot {known} was chosen, but the log ends or has a gap behind slot \
             {whole}: something is lost here. Nothing has been changed. Replace this node: remove \
             it with `quorate member remove`, empty its data folder, add it again with `quorate \
             member add` and start it with --join"
        ));
    }
    Ok((kind, restored))
}

/// Ballots of single slots as runs; in the others, entries have their own epoch as ballot.
fn ballot_runs(ballots: &[(Slot, Epoch)]) -> Vec<(Slot, Epoch)> {
    let mut runs: Vec<(Slot, Epoch)> = Vec::new();
    let mut expected = Slot(0);
    for (slot, ballot) in ballots {
        if *slot != expected && expected > Slot(0) {
            runs.push((expected, Epoch(0)));
        }
        runs.push((*slot, *ballot));
        expected = slot.next();
    }
    if expected > Slot(0) {
        runs.push((expected, Epoch(0)));
    }
    runs
}
