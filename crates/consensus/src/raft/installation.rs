//! Snapshots in Raft: when a peer gets one, and what it does to the log.
//!
//! A checkpoint covers only chosen slots, so a follower that holds the checkpoint's last position
//! already needs nothing of it. One that does not hold it has, behind that slot, nothing that
//! belongs to the log, and loses it; position means slot **and** epoch. The membership comes from
//! the checkpoint, never from what stood in the log before.

use std::sync::Arc;

use base::mutant::{self, Mutant};
use base::{Instant, NodeId, Slot, checksum};
use bytes::Bytes;

use crate::beginning;
use crate::engine::{CheckpointRef, Note, Output, Outputs};
use crate::membership::Membership;
use crate::message::{Body, Message, Position};
use crate::raft::Raft;
use crate::raft::progress::{Peer, State};
use crate::snapshot::{Received, Receiver, Sender};
use crate::speaking::Speaking;

/// A piece that arrived; fields of [`Body::SnapshotPiece`].
pub(super) struct Piece {
    pub(super) checkpoint: CheckpointRef,
    pub(super) offset: u64,
    pub(super) checksum: u32,
    pub(super) bytes: Bytes,
}

impl Raft {
    /// The replica is loading a checkpoint: the log must not move under it.
    pub(super) fn is_installing(&self) -> bool {
        self.receiver.as_ref().is_some_and(Receiver::is_installing)
    }

    /// The replica has a checkpoint, and the journal a later start.
    pub(super) fn on_checkpoint_taken(&mut self, checkpoint: CheckpointRef, log_kept_after: Slot) {
        assert!(
            checkpoint.slot <= self.delivery.delivered(),
            "a checkpoint covers what was chosen"
        );
        assert!(
            log_kept_after <= checkpoint.slot,
            "the log reaches the checkpoint"
        );
        if self
            .checkpoint
            .is_none_or(|held| held.slot <= checkpoint.slot)
        {
            self.checkpoint = Some(checkpoint);
            self.log
                .forget_until(log_kept_after.min(self.log.durable()));
        }
    }

    /// Begins to send the checkpoint to a peer that needs more than the log holds.
    pub(super) fn begin_snapshot(
        &self,
        now: Instant,
        to: NodeId,
        peer: &mut Peer,
        out: &mut Outputs,
    ) {
        let checkpoint = match peer.contact.is_witness {
            true => Some(self.beginning().0),
            false => self.checkpoint,
        };
        let Some(checkpoint) = checkpoint.filter(|held| held.slot >= peer.next) else {
            return;
        };
        peer.send_snapshot(Sender::new(checkpoint, now));
        out.push(Output::Note(Note::SendingSnapshot {
            to,
            slot: checkpoint.slot,
        }));
        self.offer(to, peer.contact.session, checkpoint, out);
    }

    fn offer(&self, to: NodeId, session: u64, checkpoint: CheckpointRef, out: &mut Outputs) {
        let message = Message::new(
            self.epoch,
            Body::SnapshotOffer {
                session,
                checkpoint,
            },
        );
        out.push(Output::Send {
            to,
            message,
            after: None,
        });
    }

    /// What a witness is given in place of a checkpoint.
    fn beginning(&self) -> (CheckpointRef, Bytes) {
        let (since, membership) = self.log.base();
        let slot = self.log.start().slot.max(*since);
        let position = self.log.position(slot).expect("the base is in the log");
        beginning::of(position, membership)
    }

    fn send_piece(
        &self,
        to: NodeId,
        session: u64,
        checkpoint: CheckpointRef,
        (offset, bytes): (u64, Bytes),
        out: &mut Outputs,
    ) {
        let body = Body::SnapshotPiece {
            session,
            checkpoint,
            offset,
            checksum: checksum::crc32c(&bytes),
            bytes,
        };
        out.push(Output::Send {
            to,
            message: Message::new(self.epoch, body),
            after: None,
        });
    }

    /// Reads as many pieces as may be on their way.
    pub(super) fn request_pieces(&self, to: NodeId, peer: &mut Peer, out: &mut Outputs) {
        let limits = *self.limits();
        let next_piece = |peer: &mut Peer| match &mut peer.state {
            State::Snapshot(sender) => {
                let checkpoint = sender.checkpoint();
                sender.next_piece(&limits).map(|piece| (checkpoint, piece))
            }
            _ => None,
        };
        while let Some((checkpoint, (offset, length))) = next_piece(peer) {
            if !peer.contact.is_witness {
                out.push(Output::ReadPiece {
                    to,
                    checkpoint,
                    offset,
                    length,
                });
                continue;
            }
            let (beginning, bytes) = self.beginning();
            if checkpoint != beginning {
                // The log begins later now: so does what is sent.
                return peer.probe(peer.matched.next());
            }
            let piece = (offset, beginning::piece(&bytes, offset, length));
            self.send_piece(to, peer.contact.session, checkpoint, piece, out);
        }
    }

    /// Offers again where an offer was not answered, or nothing has moved for an election timeout.
    pub(super) fn offer_stalled_snapshots(&mut self, now: Instant) {
        let unanswered = self.config.heartbeat_interval;
        let unmoved = self.config.election_timeout;
        let Some(leading) = &mut self.leading else {
            return;
        };
        let mut stalled = Vec::new();
        for (id, peer) in &mut leading.peers {
            if let State::Snapshot(sender) = &mut peer.state
                && sender.is_stalled(unanswered, unmoved, now)
            {
                stalled.push((*id, peer.contact.session, sender.checkpoint()));
            }
        }
        for (to, session, checkpoint) in stalled {
            self.post(
                to,
                Body::SnapshotOffer {
                    session,
                    checkpoint,
                },
                false,
            );
        }
    }

    /// A piece was read.
    pub(super) fn on_piece_read(
        &mut self,
        now: Instant,
        to: NodeId,
        checkpoint: CheckpointRef,
        offset: u64,
        bytes: Bytes,
        out: &mut Outputs,
    ) {
        let Some(mut leading) = self.leading.take() else {
            return;
        };
        if let Some(peer) = leading.peers.get_mut(&to)
            && matches!(&peer.state, State::Snapshot(sender) if sender.checkpoint() == checkpoint)
        {
            if !bytes.is_empty() {
                self.send_piece(to, peer.contact.session, checkpoint, (offset, bytes), out);
            } else if self.checkpoint != Some(checkpoint) {
                // That checkpoint is gone; a newer one takes its place.
                peer.probe(peer.matched.next());
                self.begin_snapshot(now, to, peer, out);
            }
            // Else there is none in its place yet. It is offered again, as nothing moves.
        }
        self.leading = Some(leading);
    }

    /// A peer said how much of a checkpoint it has.
    pub(super) fn on_snapshot_progress(
        &mut self,
        now: Instant,
        from: NodeId,
        session: u64,
        checkpoint: CheckpointRef,
        stored: u64,
    ) {
        let peer = self
            .leading
            .as_mut()
            .and_then(|leading| leading.peers.get_mut(&from));
        let Some(peer) = peer.filter(|peer| peer.contact.session == session) else {
            return;
        };
        peer.contact.last_heard = Some(now);
        if let State::Snapshot(sender) = &mut peer.state
            && sender.checkpoint() == checkpoint
        {
            sender.progress(stored, now);
        }
    }

    /// The leader offers a checkpoint.
    pub(super) fn on_snapshot_offer(
        &mut self,
        from: NodeId,
        session: u64,
        checkpoint: CheckpointRef,
        out: &mut Outputs,
    ) {
        if self.is_installing() {
            return;
        }
        if self.has_covered(checkpoint) {
            self.receiver = None;
            return self.acknowledge(from, session);
        }
        let held = self.receiver.as_ref().map(Receiver::checkpoint);
        if held != Some(checkpoint) {
            self.receiver = Some(Receiver::new(checkpoint));
        }
        self.report_progress(from, session, out);
    }

    /// Whether this log holds everything that the checkpoint covers. If so, that is known to be
    /// chosen, and equal to every leader's log.
    fn has_covered(&mut self, checkpoint: CheckpointRef) -> bool {
        let position = Position {
            slot: checkpoint.slot,
            epoch: checkpoint.epoch,
        };
        if checkpoint.slot <= self.chosen {
            self.verify(self.chosen);
            return true;
        }
        if self.log.holds(position) {
            self.verify(position.slot);
            self.choose(position.slot);
            return true;
        }
        false
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
        self.note_session(session);
        let Some(receiver) = &mut self.receiver else {
            return;
        };
        if receiver.checkpoint() != checkpoint {
            return;
        }
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
        if self.has_covered(checkpoint) {
            // The log grew past it while it was being received.
            self.receiver = None;
            return;
        }
        // Without a leader it waits for the next offer: a candidate's log must not move.
        if let Some(leader) = self.leader.filter(|_| self.leading.is_none()) {
            let session = self.session();
            self.report_progress(leader, session, out);
        }
    }

    /// A checkpoint is in force.
    pub(super) fn on_snapshot_installed(
        &mut self,
        checkpoint: CheckpointRef,
        membership: Membership,
    ) {
        self.receiver = None;
        self.checkpoint = Some(checkpoint);
        self.delivery.jump(checkpoint.slot);
        let position = Position {
            slot: checkpoint.slot,
            epoch: checkpoint.epoch,
        };
        let membership = match mutant::is_on(Mutant::SnapshotWithoutMembership) {
            true => self.membership().clone(),
            false => membership,
        };
        if !self.log.holds(position) && !mutant::is_on(Mutant::SnapshotKeepsSuffix) {
            // Nothing of the old log goes on behind this position.
            self.journaling.cut(position.slot.next());
            self.log.restart(position, Arc::new(membership));
            self.fetches.outstanding.clear();
        }
        self.fetches.delivery = None;
        self.chosen = self.chosen.max(checkpoint.slot);
        self.verify(checkpoint.slot);
        if let Some(leader) = self.leader.filter(|_| self.leading.is_none()) {
            let session = self.session();
            self.acknowledge(leader, session);
        }
    }

    /// A checkpoint did not verify: it begins anew with the next offer.
    pub(super) fn on_snapshot_rejected(&mut self, checkpoint: CheckpointRef) {
        if self
            .receiver
            .as_ref()
            .is_some_and(|receiver| receiver.checkpoint() == checkpoint)
        {
            self.receiver = None;
        }
    }
}
