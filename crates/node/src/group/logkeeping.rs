//! When a group takes a checkpoint, and how much of its log is kept behind it.
//!
//! ```text
//!   much log, or the oldest of the node ─▶ checkpoint ─▶ durable ─▶ the log behind the one before
//!                                                                   it is let go of
//!   nothing can be executed ─────────────────────────────────────▶ the log behind the newest
//! ```
//!
//! One checkpoint more than needed has its log, so that a damaged newest one has a stand-in. A
//! group that stands still gives that up: all groups of a node share one log, which is kept as far
//! back as any of them needs it.

use base::mutant::{self, Mutant};
use base::{Epoch, Instant, Slot};
use consensus::{CheckpointRef, Engine as _};
use journal::RecordKind;

use super::journaling::ToJournal;
use super::{Group, META, Moment};
use crate::calls::Waiter;
use crate::checkpoints::{Gathered, PieceRead};
use crate::description::Description;
use crate::interface::Output;
use crate::notes::Note;
use crate::peers::Peers;
use crate::system::SystemCommand;

impl Group {
    /// Lets go of the log behind a finished checkpoint, once this disk holds the log that far:
    /// a replica may execute what the others have chosen before its own disk has it, but must not
    /// forget, nor count as kept, what was never durable here.
    pub(super) fn report_checkpoint(
        &mut self,
        moment: Moment,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let Some(checkpoint) = self.unreported else {
            return;
        };
        let early = mutant::is_on(Mutant::ForgetLogEarly);
        if self.engine.view().durable < checkpoint.slot && !early {
            return;
        }
        self.unreported = None;
        self.metrics.checkpoints_written += 1;
        let (slot, bytes) = (checkpoint.slot, checkpoint.length);
        out.push(Output::Note(Note::CheckpointWritten { slot, bytes }));
        let log_kept_after = self.checkpoints.log_kept_after();
        self.release_log(moment, checkpoint, log_kept_after, peers, out);
        self.mend_log(moment, peers, out);
    }

    /// The log at a slot that is executed is damaged: a checkpoint takes its place, the one that
    /// there is or the next.
    pub(crate) fn do_without_log(
        &mut self,
        moment: Moment,
        slot: Slot,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        self.damaged_until = self.damaged_until.max(Some(slot));
        self.is_pinning = true;
        self.mend_log(moment, peers, out);
    }

    /// The slots of the checkpoints that are kept.
    pub(crate) fn kept_checkpoints(&self) -> impl Iterator<Item = Slot> + '_ {
        self.checkpoints.kept()
    }

    /// A checkpoint has been read, which shows whether it is as it was written: its checksum, or
    /// what is wrong. The state in memory takes the place of one that is not.
    pub(crate) fn checkpoint_scrubbed(
        &mut self,
        slot: Slot,
        verdict: Result<u64, String>,
        out: &mut Vec<Output>,
    ) {
        if let Some(damage) = self.checkpoints.scrubbed(slot, verdict) {
            self.metrics.damage_found += 1;
            self.is_pinning = true;
            out.push(Output::Note(Note::CheckpointDamaged { slot, damage }));
        }
    }

    /// A piece has been read for a peer, or the checkpoint is found damaged.
    pub(super) fn piece_read(
        &mut self,
        piece: PieceRead,
        out: &mut Vec<Output>,
    ) -> consensus::Input {
        let PieceRead {
            to,
            checkpoint,
            offset,
            bytes,
            damage,
        } = piece;
        if let Some(damage) = damage {
            self.checkpoint_scrubbed(checkpoint.slot, Err(damage), out);
        }
        consensus::Input::PieceRead {
            to,
            checkpoint,
            offset,
            bytes,
        }
    }

    /// Lets go of a damaged part of the log if the newest checkpoint covers it.
    fn mend_log(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        let (Some(slot), Some(newest)) = (self.damaged_until, self.checkpoints.newest()) else {
            return;
        };
        if newest.slot < slot || self.engine.view().durable < newest.slot {
            return;
        }
        self.damaged_until = None;
        self.is_pinning = false;
        out.push(Output::Note(Note::LogMended { slot: newest.slot }));
        self.release_log(moment, newest, newest.slot, peers, out);
    }

    /// The log of all groups cannot be let go of because of this one: it takes a checkpoint. The
    /// log is kept behind the checkpoint before the newest, so that a damaged newest one has a
    /// stand-in. A group in which nothing has happened since the newest gives that up at once: its
    /// other replicas have the same. Else it would need an entry and one more checkpoint each time
    /// that others have filled the log, and ten thousand idle groups would do nothing else. One
    /// without other replicas gets that entry; if it has not come when this is asked again, nothing
    /// can be executed, and its log is let go of as well.
    pub(crate) fn let_go_of_log(
        &mut self,
        moment: Moment,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        // A witness keeps few enough headers as it is.
        if self.is_taking_checkpoint() || self.is_witness() {
            return;
        }
        let newest = self.newest_checkpoint();
        if self.replica.applied() > newest {
            self.stood_still_at = None;
            self.is_pinning = true;
        } else if self.stood_still_at.replace(newest) != Some(newest) && self.has_no_copies() {
            self.is_pinning = true;
            self.add_system_command(moment.now, &SystemCommand::Nothing, Waiter::Nobody);
        } else if let Some(checkpoint) = self.checkpoints.newest()
            && self.engine.view().durable >= checkpoint.slot
        {
            self.is_pinning = false;
            self.release_log(moment, checkpoint, checkpoint.slot, peers, out);
        }
    }

    /// Whether a damaged checkpoint could not be made good by another replica.
    fn has_no_copies(&self) -> bool {
        self.membership.voters.len() < 2 || self.id == META
    }

    /// Whether a checkpoint is being written or received, or waits for the log to be durable.
    pub(crate) fn is_taking_checkpoint(&self) -> bool {
        self.unreported.is_some() || self.checkpoints.is_busy()
    }

    /// Lets go of the log up to a slot that a checkpoint covers.
    fn release_log(
        &mut self,
        moment: Moment,
        checkpoint: CheckpointRef,
        log_kept_after: Slot,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        self.describe_members();
        self.to_journal.push(ToJournal::Release(log_kept_after));
        let input = consensus::Input::CheckpointTaken {
            checkpoint,
            log_kept_after,
        };
        self.drive(moment, input, peers, out);
    }

    /// Who belongs to the group stands in the log that is let go of, or in front of it. If
    /// checkpoints are lost as well, this tells whether others have what is missing.
    fn describe_members(&mut self) {
        let members = self.replica.membership();
        if self.latest.1 == *members {
            return;
        }
        self.latest = (self.replica.applied(), members.clone());
        let description = Description {
            engine: self.engine.kind(),
            genesis: self.genesis.clone(),
            latest: self.latest.clone(),
            // The hard state says so by now.
            promised: None,
        };
        self.to_journal.push(ToJournal::Keep(journal::Record {
            group: self.id,
            kind: RecordKind::GroupOpened,
            slot: Slot(0),
            epoch: Epoch(0),
            body: description.encode(),
        }));
    }

    /// The slot that the newest checkpoint covers.
    pub(crate) fn newest_checkpoint(&self) -> Slot {
        self.checkpoints
            .newest()
            .map_or(Slot(0), |newest| newest.slot)
    }

    /// Begins a checkpoint if it is due, `log_bytes` of the log being behind the newest; goes on
    /// with the one that is being written.
    pub(crate) fn checkpoint(&mut self, now: Instant, log_bytes: u64, out: &mut Vec<Output>) {
        if self.is_witness() {
            return self.forget_headers(now, out);
        }
        // The first says no in nearly every pass, and is the cheapest.
        if (log_bytes > self.config.limits.checkpoint_log_bytes || self.is_pinning)
            && self.unreported.is_none()
            && self.replica.applied() > self.newest_checkpoint()
            && self.is_checkpoint_due(now, log_bytes)
        {
            self.is_pinning = false;
            let snapshot = self.replica.snapshot();
            let slot = snapshot.applied();
            out.push(Output::Note(Note::CheckpointStarted { slot }));
            let membership = self.replica.membership();
            self.checkpoints.start(now, snapshot, membership, log_bytes);
        }
        self.checkpoints.drain(now, log_bytes, out);
    }

    fn is_checkpoint_due(&mut self, now: Instant, log_bytes: u64) -> bool {
        let members = &self.replica.membership().members;
        let gathered = Gathered {
            is_wanted: self.is_pinning,
            log_bytes,
            place: members.range(..self.own).count(),
            is_compacting: self.replica.compaction_pending(),
        };
        self.checkpoints.is_due(now, gathered)
    }
}
