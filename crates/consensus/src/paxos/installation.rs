//! Snapshots in Paxos: who offers one, and what it does to the log.
//!
//! A snapshot is offered to whoever asks for what is chosen (`learning.rs`) when the log begins
//! later than that; any replica that has a checkpoint can offer it. It covers chosen slots only, so
//! it takes their place, and **what was accepted behind it stays**: those are votes.

use std::sync::Arc;

use base::mutant::{self, Mutant};
use base::{Instant, NodeId, Slot, checksum};
use bytes::Bytes;

use crate::beginning;
use crate::engine::{CheckpointRef, Note, Output, Outputs};
use crate::membership::Membership;
use crate::message::{Body, Message, Position};
use crate::paxos::Paxos;
use crate::paxos::learning::Courier;
use crate::snapshot::{Received, Receiver, Sender};
use crate::speaking::Speaking;

/// A piece that arrived; fields of [`Body::SnapshotPiece`].
pub(super) struct Piece {
    pub(super) checkpoint: CheckpointRef,
    pub(super) offset: u64,
    pub(super) checksum: u32,
    pub(super) bytes: Bytes,
}

impl Paxos {
    /// The replica is loading a checkpoint: the log must not move under it.
    pub(super) fn is_installing(&self) -> bool {
        self.receiver.as_ref().is_some_and(Receiver::is_installing)
    }

    /// The replica has a checkpoint, and the journal a later start.
    pub(super) fn on_checkpoint_taken(&mut self, checkpoint: CheckpointRef, log_kept_after: Slot) {
        assert!(
            log_kept_after <= checkpoint.slot && checkpoint.slot <= self.delivery.delivered(),
            "a checkpoint covers what was chosen, and the log reaches it"
        );
        let held = self.checkpoint;
        if held.is_none_or(|held| held.slot <= checkpoint.slot) {
            self.checkpoint = Some(checkpoint);
            self.log
                .forget_until(log_kept_after.min(self.stored.upto()));
        }
    }

    /// Offers the checkpoint to someone who knows nothing behind `after`. If one is on its way to
    /// it already, it goes on where the asker says that it stands.
    pub(super) fn offer_snapshot(&mut self, now: Instant, to: NodeId, id: u64, after: Slot) {
        let checkpoint = match self.membership().is_witness(to) {
            true => Some(self.beginning().0),
            false => self.checkpoint,
        };
        let Some(checkpoint) = checkpoint.filter(|held| held.slot > after) else {
            return;
        };
        let couriers = &mut self.learning.couriers;
        if couriers.len() >= self.config.limits.members && !couriers.contains_key(&to) {
            return;
        }
        let courier = Courier {
            session: id,
            sender: Sender::new(checkpoint, now),
        };
        couriers.insert(to, courier);
        self.post(
            to,
            Body::SnapshotOffer {
                session: id,
                checkpoint,
            },
            false,
        );
    }

    /// Someone said how much of a checkpoint it has.
    pub(super) fn on_snapshot_progress(
        &mut self,
        now: Instant,
        from: NodeId,
        session: u64,
        checkpoint: CheckpointRef,
        stored: u64,
        out: &mut Outputs,
    ) {
        let limits = self.config.limits;
        let courier = self.learning.couriers.get_mut(&from);
        let Some(courier) = courier.filter(|courier| {
            courier.session == session && courier.sender.checkpoint() == checkpoint
        }) else {
            return;
        };
        if courier.sender.is_unanswered() {
            out.push(Output::Note(Note::SendingSnapshot {
                to: from,
                slot: checkpoint.slot,
            }));
        }
        courier.sender.progress(stored, now);
        if self.log.membership().1.is_witness(from) {
            return self.send_beginning(from, checkpoint, stored, out);
        }
        while let Some((offset, length)) = courier.sender.next_piece(&limits) {
            out.push(Output::ReadPiece {
                to: from,
                checkpoint,
                offset,
                length,
            });
        }
        if stored >= checkpoint.length {
            self.learning.couriers.remove(&from);
        }
    }

    /// What a witness is given in place of a checkpoint.
    fn beginning(&self) -> (CheckpointRef, Bytes) {
        let (since, membership) = self.log.base();
        let slot = self.log.start().slot.max(*since);
        let epoch = self.log.epoch_at(slot).expect("the base is in the log");
        beginning::of(Position { slot, epoch }, membership)
    }

    /// Sends what a witness does not have yet of where the log begins.
    fn send_beginning(
        &mut self,
        to: NodeId,
        checkpoint: CheckpointRef,
        stored: u64,
        out: &mut Outputs,
    ) {
        let (beginning, bytes) = self.beginning();
        if checkpoint != beginning || stored >= checkpoint.length {
            // It has all of it; or the log begins later now, and it asks again.
            self.learning.couriers.remove(&to);
            return;
        }
        let length = self.limits().piece_bytes;
        let bytes = beginning::piece(&bytes, stored, length);
        self.on_piece_read(to, checkpoint, stored, bytes, out);
    }

    /// A piece was read.
    pub(super) fn on_piece_read(
        &mut self,
        to: NodeId,
        checkpoint: CheckpointRef,
        offset: u64,
        bytes: Bytes,
        out: &mut Outputs,
    ) {
        let courier = self.learning.couriers.get(&to);
        let Some(courier) = courier.filter(|held| held.sender.checkpoint() == checkpoint) else {
            return;
        };
        if bytes.is_empty() {
            // That checkpoint is gone; whoever needs a newer one asks again.
            self.learning.couriers.remove(&to);
            return;
        }
        let body = Body::SnapshotPiece {
            session: courier.session,
            checkpoint,
            offset,
            checksum: checksum::crc32c(&bytes),
            bytes,
        };
        let message = Message::new(self.epoch, body);
        out.push(Output::Send {
            to,
            message,
            after: None,
        });
    }

    /// Whoever was asked offers a checkpoint.
    pub(super) fn on_snapshot_offer(
        &mut self,
        now: Instant,
        from: NodeId,
        session: u64,
        checkpoint: CheckpointRef,
        out: &mut Outputs,
    ) {
        let is_busy = self.is_installing() || self.loading.is_some();
        if is_busy || !self.learning.expects(from, session, now) {
            return;
        }
        if checkpoint.slot <= self.log.chosen() || self.leading.is_some() {
            self.receiver = None;
            return self.learning.stop();
        }
        let held = self.receiver.as_ref().map(Receiver::checkpoint);
        if held != Some(checkpoint) {
            self.receiver = Some(Receiver::new(checkpoint));
        }
        self.report_progress(from, session, out);
    }

    /// Says how much is stored, and installs when that is all.
    fn report_progress(&mut self, to: NodeId, session: u64, out: &mut Outputs) {
        let Some(receiver) = &mut self.receiver else {
            return;
        };
        let checkpoint = receiver.checkpoint();
        let stored = receiver.stored();
        if receiver.install_if_complete() {
            out.push(Output::InstallSnapshot { checkpoint });
        }
        self.post(
            to,
            Body::SnapshotProgress {
                session,
                checkpoint,
                stored,
            },
            false,
        );
    }

    /// A piece arrived.
    pub(super) fn on_snapshot_piece(
        &mut self,
        now: Instant,
        from: NodeId,
        session: u64,
        piece: Piece,
        out: &mut Outputs,
    ) {
        let Piece {
            checkpoint,
            offset,
            checksum,
            bytes,
        } = piece;
        if !self.learning.expects(from, session, now) {
            return;
        }
        let receiver = self.receiver.as_mut();
        let Some(receiver) = receiver.filter(|held| held.checkpoint() == checkpoint) else {
            return;
        };
        match receiver.piece(offset, checksum, &bytes) {
            Received::Store => out.push(Output::StorePiece {
                checkpoint,
                offset,
                bytes,
            }),
            Received::Ignored => {}
            Received::Damaged => self.drop_message(from, "a piece with a wrong checksum", out),
        }
    }

    /// A piece was written.
    pub(super) fn on_piece_stored(
        &mut self,
        now: Instant,
        checkpoint: CheckpointRef,
        stored: u64,
        out: &mut Outputs,
    ) {
        let Some(receiver) = &mut self.receiver else {
            return;
        };
        if receiver.checkpoint() != checkpoint || receiver.is_installing() {
            return;
        }
        receiver.piece_stored(stored);
        if checkpoint.slot <= self.log.chosen() {
            // The log grew past it while it was being received.
            self.receiver = None;
            return;
        }
        self.learning.touch(now);
        // Without a source it waits for the next offer.
        if let Some((source, session)) = self.learning.source() {
            self.report_progress(source, session, out);
        }
    }

    /// A checkpoint is in force.
    pub(super) fn on_snapshot_installed(
        &mut self,
        now: Instant,
        checkpoint: CheckpointRef,
        membership: Membership,
    ) {
        self.receiver = None;
        self.learning.stop();
        self.checkpoint = Some(checkpoint);
        self.delivery.jump(checkpoint.slot);
        self.fetches.delivery = None;
        let start = Position {
            slot: checkpoint.slot,
            epoch: checkpoint.epoch,
        };
        if checkpoint.slot > self.log.chosen() {
            let membership = match mutant::is_on(Mutant::SnapshotWithoutMembership) {
                true => self.membership().clone(),
                false => membership,
            };
            self.log.begin_behind(start, Arc::new(membership));
            if mutant::is_on(Mutant::SnapshotDropsAccepted) {
                self.log.drop_accepted();
                self.begin_ballot();
            }
            self.stored.insert_up_to(checkpoint.slot);
            self.chosen_given = self.chosen_given.max(checkpoint.slot);
            self.fetches.outstanding.clear();
            self.learning.askers.clear();
        }
        self.acknowledge();
        self.seek_what_is_missing(now);
    }

    /// A checkpoint did not verify: it begins anew with the next offer.
    pub(super) fn on_snapshot_rejected(&mut self, checkpoint: CheckpointRef) {
        let held = self.receiver.as_ref().map(Receiver::checkpoint);
        if held == Some(checkpoint) {
            self.receiver = None;
        }
    }
}
