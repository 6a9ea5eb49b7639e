//! Winning although one's own log is too old: a candidate first fetches what it lacks.
//!
//! ```text
//!   A ── would you vote for me? ──▶ B, D, E     A alone reaches a quorum, and its log is too old
//!   A ◀── no: my log ends at 9/3 ──             nobody who could win reaches one
//!   A ── what follows 6/3? ──▶ B
//!   A ◀── 7/3 8/3 9/3 ──
//!   A ── would you vote for me? ──▶ B, D, E     now they do
//! ```
//!
//! Without this, plain Raft has no leader for as long as such a network lasts (Omni-Paxos,
//! EuroSys 2023, section 2). It is tried only from the second attempt on, by a candidate that heard
//! from a quorum, so that ordinary elections, where another simply wins, do not copy logs around.
//!
//! Why it is safe. A log whose end is newer (epoch, then slot) than another's holds everything
//! that was or ever will be chosen of what stands in the other:
//!
//! - Every log up to its end is a prefix of the log of the leader of its last epoch (log matching);
//!   taking entries from another log behind a position that both hold keeps that true.
//! - If the last epochs are equal, both are prefixes of one log, and the longer holds the shorter.
//! - If the other's last epoch is older, then what this replica acknowledged in it and a quorum
//!   made chosen stood in the log of every later leader (leader completeness), and so in front of
//!   the newer log's last epoch. What no quorum had acknowledged when that later leader was elected
//!   can never be chosen any more, although an old leader may still count this replica for it.
//!
//! Pulling acknowledges nothing, votes for nobody, and never takes back what a leader of the
//! current epoch was told (`Following::verified`). `tests/small_model.rs` walks through all runs of
//! a small group with it.

use base::{Epoch, Instant, NodeId};

use crate::engine::{Outputs, Role};
use crate::entries::Entries;
use crate::message::{Body, Message, Position};
use crate::raft::{Letter, Raft};
use crate::speaking::Speaking;

/// A log that is newer than this replica's, and what was asked of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    /// Whose.
    holder: NodeId,
    /// Where it ends.
    end: Position,
}

/// Whether a log that ends at `one` is newer than one that ends at `other`.
fn is_newer(one: Position, other: Position) -> bool {
    (one.epoch, one.slot) > (other.epoch, other.slot)
}

impl Raft {
    /// Someone refused a pre-vote because its own log is newer.
    pub(super) fn note_ahead(&mut self, holder: NodeId, end: Position) {
        let newest = self.election.ahead.map(|ahead| ahead.end);
        if is_newer(end, self.log.end()) && newest.is_none_or(|newest| is_newer(end, newest)) {
            self.election.ahead = Some(Ahead { holder, end });
        }
    }

    /// Asks for what is missing, if that is what keeps this replica from winning.
    pub(super) fn pull_if_constrained(&mut self) {
        let enabled = self.config.limits.pull_bytes > 0;
        if !enabled || self.role != Role::PreCandidate || self.election.attempts < 2 {
            return;
        }
        let answered =
            |id: NodeId| self.election.granted.contains(&id) || self.election.refused.contains(&id);
        if self.election.pulled.is_some() || !self.membership().elects(answered) {
            return;
        }
        if self.election.ahead.is_some() {
            self.pull(self.log.end());
        }
    }

    fn pull(&mut self, after: Position) {
        let Some(ahead) = self.election.ahead else {
            return;
        };
        self.election.pulled = Some(after);
        self.post(ahead.holder, Body::Pull { after }, false);
    }

    /// Someone asks for what follows a position. Only what is in memory is given; a leader sends
    /// its log by itself.
    pub(super) fn on_pull(&mut self, from: NodeId, after: Position) {
        let is_off = self.config.limits.pull_bytes == 0 || self.is_witness();
        if is_off || self.leading.is_some() || !self.membership().members.contains_key(&from) {
            return;
        }
        // What it proposed while it led, earlier in this pass, may still be open.
        self.log.seal();
        let previous = self.log.last_not_newer(after.slot, after.epoch);
        let next = previous.slot.next();
        if next > self.log.last() || next < self.log.cached_from() {
            return;
        }
        let budget = self
            .config
            .limits
            .pull_bytes
            .min(self.config.limits.append_bytes);
        let entries = self.log.take(next, self.log.last(), budget.max(1));
        self.post(from, Body::Suffix { previous, entries }, false);
    }

    /// What was asked for arrived.
    pub(super) fn on_suffix(
        &mut self,
        now: Instant,
        from: NodeId,
        epoch: Epoch,
        previous: Position,
        entries: Entries,
        out: &mut Outputs,
    ) {
        let waits = |ahead: &Ahead| ahead.holder == from && self.election.pulled.is_some();
        let is_free = self.leader.is_none()
            && matches!(self.role, Role::Follower | Role::PreCandidate)
            && self.is_electable();
        let Some(ahead) = self.election.ahead.filter(|ahead| waits(ahead) && is_free) else {
            return;
        };
        if epoch > self.epoch {
            self.enter_epoch(now, epoch, "a higher epoch was seen", out);
        }
        if let Some(reason) = self.flaw(previous, &entries) {
            return self.drop_message(from, reason, out);
        }
        let Some(last) = entries.last() else {
            return;
        };
        let end = Position {
            slot: last.slot,
            epoch: last.epoch,
        };
        if !self.log.holds(previous) {
            return self.pull_before(previous);
        }
        // A part of a newer log that does not reach beyond this one proves nothing yet; but cutting
        // is safe only with a newer end, so the part must show one itself.
        if !is_newer(end, self.log.end()) {
            return;
        }
        if let Err(reason) = self.take_entries(entries, out) {
            return self.drop_message(from, reason, out);
        }
        self.election.pulled = None;
        if is_newer(ahead.end, end) {
            self.pull(end);
        } else {
            self.election.ahead = None;
            self.election.deadline = now;
        }
    }

    /// The other log has nothing of `previous`: looks for common ground before it, as long as that
    /// leads back.
    fn pull_before(&mut self, previous: Position) {
        let earlier = self.log.last_not_newer(previous.slot, previous.epoch);
        let goes_back =
            |pulled: Position| (earlier.slot, earlier.epoch) < (pulled.slot, pulled.epoch);
        if self.election.pulled.is_some_and(goes_back) {
            self.pull(earlier);
        }
    }

    /// The end of this log, for a candidate that is refused for its own, and would take it.
    pub(super) fn ahead_of(&self, candidate: Position) -> Option<Position> {
        let may_give = self.uncertain.is_none() && !self.is_witness();
        Some(self.log.end()).filter(|end| is_newer(*end, candidate) && may_give)
    }

    /// Answers a pre-vote.
    pub(super) fn answer_pre_vote(
        &mut self,
        to: NodeId,
        epoch: Epoch,
        round: u64,
        granted: bool,
        ahead: Option<Position>,
    ) {
        let body = Body::PreVoteReply {
            round,
            granted,
            ahead,
        };
        self.outbox.push(Letter {
            to,
            message: Message::new(epoch, body),
            when_durable: false,
        });
    }
}
