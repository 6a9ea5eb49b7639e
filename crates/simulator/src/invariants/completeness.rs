//! *Leader Completeness* and *Leader Append-Only* (Raft thesis, figure 3.2): whoever becomes leader
//! has every entry that was chosen in earlier epochs, in its log or below its start, where a
//! snapshot covers it; and while it leads, its log only grows.
//!
//! In Paxos a leader need not have what is chosen, it must propose it (*P2c*, "Paxos Made Simple",
//! 2.2: if a value is chosen under a ballot, every higher ballot proposes that value). That covers
//! holes that are filled with no-ops, values of lower ballots that are preferred, and answers of
//! phase 1 that are ignored. And nothing is proposed behind a stop-sign before that is chosen and a
//! quorum of those who count behind it has told what it accepted ("Stoppable Paxos", Lamport,
//! Malkhi, Zhou, 2008).

use base::{Epoch, NodeId, Slot};
use consensus::{AnyEngine, Entry, Glance, Payload, Role};

use super::ballots::Ballots;
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

/// Paxos: a leader that says that everything up to `told` is chosen proposes entries.
///
/// # Errors
/// If something else is chosen at one of them, or they stand behind a stop-sign too early.
pub fn proposes(
    (leader, ballot): (NodeId, Epoch),
    told: Slot,
    entries: &[Entry],
    chosen: &Chosen,
    ballots: &mut Ballots,
) -> Result<(), Violation> {
    for entry in entries {
        let slot = entry.slot;
        if let Some((chosen_in, epoch)) = chosen.chosen_in(slot).zip(chosen.epoch(slot))
            && ballot >= chosen_in
            && epoch != entry.epoch
        {
            return violated(
                "what is chosen is what higher ballots propose",
                format!(
                    "{leader} proposes {} at slot {slot} under ballot {ballot}; {epoch} was chosen \
                     there under ballot {chosen_in}",
                    entry.epoch
                ),
            );
        }
        let stop_sign = ballots.last_stop_sign(ballot);
        if slot > stop_sign && stop_sign > chosen.last() {
            return violated(
                "nothing is proposed behind a stop-sign that is not chosen",
                format!(
                    "{leader} proposes at slot {slot} under ballot {ballot}; a membership stands \
                     at slot {stop_sign}, and only {} is chosen",
                    chosen.last()
                ),
            );
        }
        if let Payload::Membership(_) = &entry.payload {
            ballots.stops(ballot, slot);
        }
    }
    // What is chosen is sent to whoever lacks it, and needs nobody's leave.
    let Some(last) = entries.last().filter(|last| last.slot > told) else {
        return Ok(());
    };
    match chosen.membership_at(last.slot) {
        Some((_, membership)) if !ballots.is_prepared(ballot, leader, membership) => violated(
            "whoever proposes has heard a quorum",
            format!(
                "{leader} proposes at slot {} under ballot {ballot}; told what they accepted: \
                 {:?}, in {membership:?}",
                last.slot,
                ballots.tellers(ballot)
            ),
        ),
        _ => Ok(()),
    }
}
