//! Phase 2, the acceptor's side: accepting entries, and saying truthfully what was accepted.
//!
//! Entries may come in any order and are accepted at once, gaps or not, within a window. What is
//! acknowledged in a ballot is only what was proposed in it: a slot counts as received when the
//! leader sent its entry, or said that it is chosen while this replica knows the chosen one. Old,
//! doubled and reordered messages change nothing.
//!
//! Two answers leave: one at once, if the leader asked for it (heartbeats, read rounds); and one
//! that says what is durable, which waits for the disk. All messages of a pass share them.

use base::mutant::{self, Mutant};
use base::{Epoch, Instant, NodeId, Slot};

use crate::engine::Outputs;
use crate::entries::Entries;
use crate::entry::{Entry, Payload};
use crate::message::{Body, PaxosBody};
use crate::paxos::Paxos;
use crate::slots::Slots;
use crate::speaking::Speaking;

/// What an acceptor knows in the current ballot.
#[derive(Clone, Debug, Default)]
pub(super) struct Following {
    /// The session that the leader named last.
    session: u64,
    /// What the leader said is chosen.
    pub(super) chosen: Slot,
    /// What the leader had proposed when it first spoke in the session of this replica's
    /// uncertainty.
    proposed_at_contact: Option<Slot>,
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
}

/// The fields of [`PaxosBody::Accept`].
pub(super) struct Accept {
    pub(super) session: u64,
    pub(super) round: u64,
    pub(super) chosen: Slot,
    pub(super) last: Slot,
    pub(super) entries: Entries,
}

impl Paxos {
    /// Nothing is received in a new ballot, and what was accepted in others counts for nothing
    /// unless it is chosen.
    pub(super) fn begin_ballot(&mut self) {
        let chosen = self.log.chosen();
        if !mutant::is_on(Mutant::ChooseAcrossBallots) {
            self.received = Slots::default();
            self.stored.cut(chosen.next());
            self.writes.cut(chosen.next());
        }
        self.following = Following::default();
    }

    /// The leader of this ballot sent entries or a heartbeat.
    pub(super) fn on_accept(
        &mut self,
        now: Instant,
        from: NodeId,
        accept: Accept,
        out: &mut Outputs,
    ) {
        if accept.session == 0 {
            return self.hear_abdication(now, from);
        }
        if self.loading.is_some() {
            return;
        }
        let epoch = self.epoch;
        let is_unsound = |entry: &Entry| {
            let is_late = entry.epoch > epoch || entry.slot > accept.last;
            is_late || entry.is_header() && self.holds_entries()
        };
        if accept.entries.iter().any(is_unsound) || accept.chosen > accept.last {
            return self.drop_message(from, "entries that no leader proposes", out);
        }
        let has_entries = !accept.entries.is_empty();
        if !self.is_installing() {
            self.confirm(accept.chosen);
            if let Err(reason) = self.take_entries(accept.entries) {
                return self.drop_message(from, reason, out);
            }
            if has_entries {
                self.confirm(accept.chosen);
            }
        }
        self.following.chosen = self.following.chosen.max(accept.chosen);
        if self.uncertain == Some(accept.session) {
            let proposed = &mut self.following.proposed_at_contact;
            proposed.get_or_insert(accept.last);
            // Perhaps all of it is durable already, and nothing more will be written.
            self.become_certain();
        }
        self.following.session = accept.session;
        let reply = self.pending_reply(from);
        reply.round = reply.round.max(accept.round);
        reply.acknowledge |= has_entries || accept.round != 0;
    }

    /// The leader says that everything up to `chosen` is: so are the entries that this replica
    /// accepted from it, and what it knows to be chosen is the same.
    fn confirm(&mut self, chosen: Slot) {
        let known = self.log.chosen().min(chosen);
        self.received.insert_up_to(known);
        let reached = chosen.min(self.received.upto());
        if reached > self.log.chosen() {
            self.choose(reached);
        }
    }

    /// What the leader of this ballot answers a reader is chosen too: the reader need not wait for
    /// the message that was to say so.
    pub(super) fn hear_chosen(&mut self, from: NodeId, slot: Option<Slot>) {
        let Some(slot) = slot.filter(|_| self.leader == Some(from)) else {
            return;
        };
        if self.leading.is_none() && self.loading.is_none() && !self.is_installing() {
            self.confirm(slot);
            self.following.chosen = self.following.chosen.max(slot);
        }
    }

    /// Accepts what is new of these, in runs that share the message's memory.
    fn take_entries(&mut self, entries: Entries) -> Result<(), &'static str> {
        let chosen = self.log.chosen();
        let horizon = self.horizon();
        let is_stop_sign = |entry: &Entry| matches!(entry.payload, Payload::Membership(_));
        let mut at = 0;
        while let Some(entry) = entries.get(at) {
            let slot = entry.slot;
            let held = || self.log.epoch_at(slot);
            if slot <= chosen {
                // Known, and perhaps from a later leader than this one: then it says nothing. What
                // a checkpoint covers cannot be compared any more. A vote for it is one that this
                // ballot may have: if something else was chosen there, by a later ballot, then
                // those who promised that keep this one from ever choosing.
                let is_covered = slot < self.log.start().slot;
                if is_covered || held() == Some(entry.epoch) {
                    self.received.insert(slot, slot);
                }
                at += 1;
            } else if self.received.contains(slot) {
                if held() != Some(entry.epoch) {
                    return Err("it contradicts what the same leader sent before");
                }
                at += 1;
            } else if slot > horizon || (is_stop_sign(entry) && slot.previous() != chosen) {
                // It comes again.
                at += 1;
            } else {
                let end = self.received.gap_end(slot).min(horizon);
                let mut expected = slot;
                let follows = |entry: &&Entry| {
                    let follows = entry.slot == expected && entry.slot <= end;
                    expected = expected.next();
                    follows && (entry.slot == slot || !is_stop_sign(entry))
                };
                let count = entries[at..].iter().take_while(follows).count();
                if count == entries.len() {
                    // Nearly always it is all of them.
                    self.accept(entries, self.epoch);
                    return Ok(());
                }
                self.accept(entries.slice(at..at + count), self.epoch);
                at += count;
            }
        }
        Ok(())
    }

    /// Accepts entries that follow each other under this ballot.
    fn accept(&mut self, entries: Entries, ballot: Epoch) {
        let ends = entries.first().zip(entries.last());
        let (first, last) = ends.expect("there is something to accept");
        self.accepted(first.slot, last.slot);
        self.log.put(ballot, entries);
    }

    /// These slots were accepted in this ballot, and the journal does not have them yet.
    pub(super) fn accepted(&mut self, first: Slot, last: Slot) {
        self.received.insert(first, last);
        self.must_write(first, last);
    }

    /// The journal does not have what stands at these slots.
    pub(super) fn must_write(&mut self, first: Slot, last: Slot) {
        match self.unwritten.last_mut() {
            Some(run) if run.1.next() == first => run.1 = last,
            _ => self.unwritten.push((first, last)),
        }
    }

    /// Everything up to `slot` is chosen, and in this log.
    pub(super) fn choose(&mut self, slot: Slot) {
        let before = self.log.membership().0;
        let bytes = self.log.choose(slot);
        self.learning.moved();
        if let Some(leading) = &mut self.leading {
            leading.unchosen_bytes -= bytes;
        }
        if self.log.membership().0 != before {
            self.membership_chosen();
        }
    }

    /// What of this ballot is durable here.
    pub(super) fn durable_votes(&self) -> Slots {
        self.received.intersection(&self.stored)
    }

    /// Whether the promise of this ballot is on stable storage.
    fn is_promise_durable(&self) -> bool {
        !self.hard_state_changed && self.writes.is_durable(self.promise_written)
    }

    /// A replica that was unsure of its journal is sure again once it holds, durably, everything
    /// that a leader had proposed when it began the session that this replica asked for. Whatever
    /// was chosen with the help of a lost vote is among it: chosen under lower ballots, the leader
    /// heard of it in phase 1, from acceptors that were sure, and proposed it again; chosen under
    /// this one, it was proposed before that session, in which no older acknowledgement counts.
    pub(super) fn become_certain(&mut self) {
        if self.uncertain.is_none() {
            return;
        }
        let Some(proposed) = self.following.proposed_at_contact else {
            return;
        };
        if self.durable_votes().upto() < proposed {
            return;
        }
        self.uncertain = None;
        self.hard_state_changed = true;
        if let Some(leader) = self.leader {
            self.pending_reply(leader).acknowledge = true;
        }
    }

    /// The answer of this pass, to which the caller adds what it has to say.
    fn pending_reply(&mut self, to: NodeId) -> &mut PendingReply {
        self.following.reply.get_or_insert(PendingReply {
            to,
            round: 0,
            acknowledge: false,
        })
    }

    /// Tells the leader what changed here without its doing.
    pub(super) fn acknowledge(&mut self) {
        if let Some(leader) = self.leader.filter(|_| self.leading.is_none()) {
            let known = self.log.chosen().min(self.following.chosen);
            self.received.insert_up_to(known);
            self.pending_reply(leader).acknowledge = true;
        }
    }

    /// Tells a leader of the past which ballot it is.
    pub(super) fn tell_epoch(&mut self, to: NodeId) {
        let body = PaxosBody::AcceptReply {
            session: 0,
            round: 0,
            received: Slots::default(),
            durable: Slots::default(),
            uncertain: self.uncertain,
        };
        self.post(to, Body::Paxos(body), false);
    }

    /// Posts the answers of this pass; called after the pass's write was given.
    pub(super) fn answer_leader(&mut self, out: &mut Outputs) {
        let Some(reply) = self.following.reply.take() else {
            return;
        };
        if self.leader != Some(reply.to) || self.leading.is_some() {
            return;
        }
        let session = self.following.session;
        let received = self.received.sendable();
        let certain = mutant::is_on(Mutant::AcknowledgeInDoubt);
        let uncertain = self.uncertain.filter(|_| !certain);
        let answer = |round, received, durable| {
            Body::Paxos(PaxosBody::AcceptReply {
                session,
                round,
                received,
                durable,
                uncertain,
            })
        };
        if uncertain.is_some() {
            let answer = answer(reply.round, received, Slots::default());
            return self.send(reply.to, answer, false, out);
        }
        let durable = match mutant::is_on(Mutant::AcknowledgeReceived) {
            true => received.clone(),
            // A vote counts from when the promise of its ballot is durable.
            false if !self.is_promise_durable() && !mutant::is_on(Mutant::AcceptBeforePromise) => {
                Slots::default()
            }
            false => self.durable_votes().sendable(),
        };
        let later = reply.acknowledge && durable != received;
        // Something on its way was overtaken or lost: the leader cannot tell it too early.
        let has_gap = reply.acknowledge && received.highest() > received.upto();
        if reply.round != 0 || has_gap || (reply.acknowledge && !later) {
            let answer = answer(reply.round, received.clone(), durable);
            self.send(reply.to, answer, false, out);
        }
        if later {
            // What is received is written by the end of this pass.
            let answer = answer(0, received.clone(), received);
            self.send(reply.to, answer, true, out);
        }
    }
}
