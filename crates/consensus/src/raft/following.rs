//! A follower's side of the log: taking entries, and saying truthfully what it has.
//!
//! An append names the position before its entries. If this log holds that position both logs are
//! equal up to it, and the entries fit; what is there already is left alone, so that an old message
//! that comes late never cuts off what a newer one brought. Only an entry of another epoch at the
//! same slot is a conflict, and cuts.
//!
//! Two answers leave: one at once, if the leader asked for it (heartbeats, read rounds, probes) or
//! if nothing fits; and one that says what is durable, which waits for the disk. All appends of a
//! pass share them.

use base::mutant::{self, Mutant};
use base::{NodeId, Slot};

use crate::engine::{Note, Output, Outputs};
use crate::entries::Entries;
use crate::entry::Entry;
use crate::message::{Body, FollowerState, Position};
use crate::raft::Raft;
use crate::speaking::Speaking;

/// What a follower knows in the current epoch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Following {
    /// Everything up to here is equal to the leader's log.
    verified: Slot,
    /// The session that the leader named last.
    session: u64,
    /// What the leader knew to be chosen when it first spoke in the session of this replica's
    /// uncertainty.
    chosen_at_contact: Option<Slot>,
    reply: Option<PendingReply>,
}

/// What the answers of this pass have to say.
#[derive(Clone, Debug)]
struct PendingReply {
    to: NodeId,
    /// The highest round to name.
    round: u64,
    /// Entries arrived: say when they are durable.
    acknowledge: bool,
    /// A position that did not fit.
    rejected: Option<Position>,
}

impl Raft {
    /// The leader of this epoch sent entries or a heartbeat.
    #[allow(clippy::too_many_arguments)] // The fields of one message.
    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        session: u64,
        round: u64,
        previous: Position,
        chosen: Slot,
        entries: Entries,
        out: &mut Outputs,
    ) {
        if let Some(reason) = self.flaw(previous, &entries) {
            return self.drop_message(from, reason, out);
        }
        let is_kept = previous.slot >= self.log.start().slot;
        if previous.slot <= self.chosen && is_kept && !self.log.holds(previous) {
            return self.drop_message(from, "it contradicts a chosen entry", out);
        }
        if self.uncertain == Some(session) {
            self.following.chosen_at_contact.get_or_insert(chosen);
        }
        let has_entries = !entries.is_empty();
        let fits = previous.slot <= self.chosen || self.log.holds(previous);
        if fits && !self.is_installing() {
            let upto = Slot(previous.slot.0 + entries.len() as u64);
            if let Err(reason) = self.take_entries(entries, out) {
                return self.drop_message(from, reason, out);
            }
            self.verify(upto.max(self.chosen));
            self.choose(chosen.min(self.following.verified));
        }
        let reply = self.pending_reply(from, session);
        reply.round = reply.round.max(round);
        if fits {
            reply.acknowledge |= has_entries || round != 0;
        } else {
            reply.rejected = Some(previous);
        }
    }

    /// What makes an append unbelievable, whatever this replica's log holds.
    pub(super) fn flaw(&self, previous: Position, entries: &[Entry]) -> Option<&'static str> {
        if previous.epoch > self.epoch {
            return Some("a position of a later epoch");
        }
        let mut before = previous;
        for entry in entries {
            if entry.slot.0.checked_sub(1) != Some(before.slot.0) {
                return Some("entries with a gap");
            }
            if entry.is_header() && self.holds_entries() {
                return Some("a header in place of an entry");
            }
            if entry.epoch < before.epoch || entry.epoch > self.epoch {
                return Some("entries whose epochs are out of order");
            }
            before = Position {
                slot: entry.slot,
                epoch: entry.epoch,
            };
        }
        None
    }

    /// Whether this replica is known to hold entries. One that joins does not know yet what it is;
    /// who leads it does.
    fn holds_entries(&self) -> bool {
        let membership = self.membership();
        membership.members.contains_key(&self.config.id) && !self.is_witness()
    }

    /// Appends what the log does not hold yet.
    pub(super) fn take_entries(
        &mut self,
        entries: Entries,
        out: &mut Outputs,
    ) -> Result<(), &'static str> {
        let start = self.log.start().slot;
        let last = self.log.last();
        let is_known = |entry: &&Entry| {
            entry.slot <= last
                && (entry.slot < start || self.log.epoch_at(entry.slot) == Some(entry.epoch))
        };
        let known = entries.iter().take_while(is_known).count();
        let Some(first) = entries.get(known) else {
            return Ok(());
        };
        let from = first.slot;
        if from <= self.chosen {
            return Err("it contradicts a chosen entry");
        }
        if from <= self.following.verified {
            return Err("it contradicts what the same leader sent before");
        }
        if from <= last {
            self.journaling.cut(from);
            self.log.cut(from);
            out.push(Output::Note(Note::LogCut { from }));
        }
        let news = match known {
            0 => entries,
            _ => entries.slice(known..entries.len()),
        };
        self.log.append_all(news);
        Ok(())
    }

    /// This log is known to be equal to the leader's up to `slot`.
    pub(super) fn verify(&mut self, slot: Slot) {
        assert!(
            slot <= self.log.last(),
            "only what is in the log is verified"
        );
        self.following.verified = self.following.verified.max(slot);
        self.become_certain();
    }

    /// Everything up to `slot` is chosen, and in this log.
    pub(super) fn choose(&mut self, slot: Slot) {
        assert!(slot <= self.log.last(), "what is chosen is in the log");
        if slot <= self.chosen {
            return;
        }
        if let Some(leading) = &mut self.leading {
            let newly = self.log.cached_bytes(self.chosen.next(), slot);
            leading.unchosen_bytes -= newly;
        }
        self.chosen = slot;
    }

    /// A replica that was unsure of its log is sure again once a leader has replaced whatever was
    /// lost, and that is durable. Where may entries stand that count on what was lost?
    ///
    /// - Those chosen under earlier leaders stand in this leader's log before its first own entry:
    ///   it won its votes from logs that were whole. So this log must equal the leader's up to an
    ///   entry of the leader's epoch.
    /// - Those that this leader chose with an acknowledgement from before the loss: it knew them to
    ///   be chosen when it began the session that this replica asked for, and lets no older
    ///   acknowledgement count since. A message that was merely late would not prove that.
    pub(super) fn become_certain(&mut self) {
        let verified = self.following.verified;
        let Some(chosen) = self
            .following
            .chosen_at_contact
            .filter(|_| self.uncertain.is_some())
        else {
            return;
        };
        let of_leader = self.log.epoch_at(verified) == Some(self.epoch);
        if of_leader && verified >= chosen && self.log.durable() >= verified {
            self.uncertain = None;
            self.hard_state_changed = true;
            if let Some(leader) = self.leader {
                let session = self.following.session;
                self.pending_reply(leader, session).acknowledge = true;
            }
        }
    }

    /// The answer of this pass, to which the caller adds what it has to say.
    fn pending_reply(&mut self, to: NodeId, session: u64) -> &mut PendingReply {
        self.note_session(session);
        self.following.reply.get_or_insert(PendingReply {
            to,
            round: 0,
            acknowledge: false,
            rejected: None,
        })
    }

    /// Says what this replica has, because a snapshot turned out to be unnecessary or complete.
    pub(super) fn acknowledge(&mut self, to: NodeId, session: u64) {
        self.pending_reply(to, session).acknowledge = true;
    }

    /// The leader named a session.
    pub(super) fn note_session(&mut self, session: u64) {
        // A late message may name an old session; the answer is lost then, and the next heartbeat
        // gets another.
        self.following.session = session;
    }

    /// The leader's last session.
    pub(super) fn session(&self) -> u64 {
        self.following.session
    }

    /// Tells a leader of the past which epoch it is.
    pub(super) fn tell_epoch(&mut self, to: NodeId) {
        let (matched, received) = (Slot(0), Slot(0));
        let unsure = |session| FollowerState::Uncertain { session };
        let state = self.uncertain.map_or(FollowerState::Matching, unsure);
        let body = Body::AppendReply {
            session: 0,
            round: 0,
            matched,
            received,
            state,
        };
        self.post(to, body, false);
    }

    /// Posts the answers of this pass; called after the pass's write was given.
    pub(super) fn answer_leader(&mut self, out: &mut Outputs) {
        let Some(reply) = self.following.reply.take() else {
            return;
        };
        let received = self.following.verified;
        let session = self.following.session;
        let matched = match mutant::is_on(Mutant::AcknowledgeReceived) {
            true => received,
            false => received.min(self.log.durable()),
        };
        let rejected = reply.rejected.filter(|previous| previous.slot > received);
        let answer = |round, matched, state| Body::AppendReply {
            session,
            round,
            matched,
            received,
            state,
        };
        let certain = mutant::is_on(Mutant::AcknowledgeInDoubt);
        if let Some(session) = self.uncertain.filter(|_| !certain) {
            let unsure = FollowerState::Uncertain { session };
            let state = rejected.map_or(unsure, |previous| self.reject(previous));
            return self.send(reply.to, answer(reply.round, Slot(0), state), false, out);
        }
        let later = reply.acknowledge && matched < received;
        let now = reply.acknowledge && !later;
        if reply.round != 0 || rejected.is_some() || now {
            let state = rejected.map_or(FollowerState::Matching, |previous| self.reject(previous));
            self.send(reply.to, answer(reply.round, matched, state), false, out);
        }
        if later {
            let answer = answer(0, received, FollowerState::Matching);
            self.send(reply.to, answer, true, out);
        }
    }

    /// Where to look for common ground: not behind the own chosen entries, which every leader has.
    fn reject(&self, previous: Position) -> FollowerState {
        let hint = self.log.last_not_newer(previous.slot, previous.epoch);
        let chosen = self
            .log
            .position(self.chosen)
            .expect("what is chosen is in the log");
        let hint = if hint.slot < chosen.slot {
            chosen
        } else {
            hint
        };
        FollowerState::Rejecting {
            previous: previous.slot,
            hint,
        }
    }
}
