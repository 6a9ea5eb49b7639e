//! Phase 2, the leader's side: proposing, counting acknowledgements, choosing.
//!
//! Each slot is chosen on its own, in whatever order acknowledgements come; a lost message delays
//! the slots in it and no others. What is chosen is handed out in order, so the leader keeps one
//! number: everything up to it is chosen. Behind it, every slot up to the last proposed one is
//! counted whenever an answer comes, in runs.
//!
//! The leader's own disk is one voter like the others'. A leader that does not deserve to lead
//! gives up by itself, as in Raft: when no quorum was heard for an election timeout, and when its
//! disk hangs while the others' work.

use std::collections::{BTreeMap, VecDeque};

use base::mutant::{self, Mutant};
use base::{Instant, NodeId, Slot};

use crate::engine::{Note, Output, Outputs, Refusal, Role, Ticket};
use crate::entries::Entries;
use crate::entry::{Entry, Payload};
use crate::message::{Body, Message, PaxosBody};
use crate::paxos::peer::Peer;
use crate::paxos::{Leading, Paxos};
use crate::reads::{ReadRounds, Reader};
use crate::slots::Slots;

/// An acceptor's answer; the fields of [`PaxosBody::AcceptReply`].
pub(super) struct Reply {
    pub(super) session: u64,
    pub(super) round: u64,
    pub(super) received: Slots,
    pub(super) durable: Slots,
    pub(super) uncertain: Option<u64>,
}

impl Leading {
    /// A session that was never used in this ballot.
    fn next_session(&mut self) -> u64 {
        self.session += 1;
        self.session
    }

    /// Asks every peer to answer in this pass.
    pub(super) fn begin_round(&mut self) -> u64 {
        self.round += 1;
        for peer in self.peers.values_mut() {
            peer.heartbeat_due = true;
        }
        self.round
    }
}

impl Paxos {
    /// A quorum promised this replica its ballot.
    pub(super) fn become_leader(&mut self, now: Instant, out: &mut Outputs) {
        assert!(self.leading.is_none(), "nobody becomes leader twice");
        assert!(
            self.vote == Some(self.config.id),
            "a leader promised itself its ballot"
        );
        self.role = Role::Leader;
        self.receiver = None;
        self.leader = Some(self.config.id);
        self.election.succeeded();
        self.learning.stop();
        let chosen = self.log.chosen();
        self.received.insert_up_to(chosen);
        let mut reads = ReadRounds::default();
        for asker in self.forwards.drain() {
            reads.ask(Reader::Local(asker.ticket), asker.since);
        }
        self.leading = Some(Box::new(Leading {
            peers: BTreeMap::new(),
            proposed: chosen,
            is_open: false,
            stop_sign: None,
            first_open: None,
            session: 0,
            round: 1,
            heartbeat_at: now + self.config.heartbeat_interval,
            reads,
            unchosen_bytes: 0,
            held: VecDeque::new(),
            awaiting: None,
            change: None,
            since: now,
        }));
        out.push(Output::Note(Note::BecameLeader { epoch: self.epoch }));
        self.sync_peers(now);
    }

    /// Everything that hung on leading ends.
    pub(super) fn abandon_leadership(&mut self, out: &mut Outputs) {
        let Some(mut leading) = self.leading.take() else {
            return;
        };
        self.leader = None;
        if let Some((ticket, _)) = leading.change {
            self.refuse(ticket, Refusal::Abandoned, out);
        }
        for (ticket, _) in leading.held.drain(..) {
            self.refuse(ticket, Refusal::NotLeader, out);
        }
        for reader in leading.reads.drain() {
            self.refuse_reader(reader, Refusal::NotLeader, out);
        }
    }

    /// Someone wants commands in the log.
    pub(super) fn on_propose(&mut self, ticket: Ticket, payload: Payload, out: &mut Outputs) {
        let limits = self.config.limits;
        let Some(leading) = &mut self.leading else {
            return self.refuse(ticket, Refusal::NotLeader, out);
        };
        if self.handover.is_some() {
            return self.refuse(ticket, Refusal::Transferring, out);
        }
        let unchosen = leading.proposed.0 - self.log.chosen().0 + leading.held.len() as u64;
        if leading.unchosen_bytes >= limits.window_bytes || unchosen >= limits.window_entries {
            return self.refuse(ticket, Refusal::WindowFull, out);
        }
        if !leading.is_open {
            let slot = Slot(0);
            let epoch = self.epoch;
            let entry = Entry {
                slot,
                epoch,
                payload,
            };
            leading.unchosen_bytes += entry.bytes();
            leading.held.push_back((ticket, entry.payload));
            return;
        }
        let slot = self.propose_new(payload);
        out.push(Output::Proposed {
            ticket,
            slot,
            epoch: self.epoch,
        });
    }

    /// Proposes something new at the next slot.
    pub(super) fn propose_new(&mut self, payload: Payload) -> Slot {
        let leading = self.leading.as_ref().expect("only a leader proposes");
        let entry = Entry {
            slot: leading.proposed.next(),
            epoch: self.epoch,
            payload,
        };
        let slot = entry.slot;
        self.propose_entry(entry);
        slot
    }

    /// Proposes an entry in this ballot, and accepts it here.
    pub(super) fn propose_entry(&mut self, entry: Entry) {
        let leading = self.leading.as_mut().expect("only a leader proposes");
        assert!(
            entry.slot == leading.proposed.next(),
            "slots are proposed in order"
        );
        leading.proposed = entry.slot;
        leading.unchosen_bytes += entry.bytes();
        self.accept(entry, self.epoch);
    }

    /// What was held back while the leader was not open.
    pub(super) fn release_held(&mut self, out: &mut Outputs) {
        let leading = self.leading.as_mut().expect("only a leader proposes");
        for (ticket, payload) in std::mem::take(&mut leading.held) {
            let slot = self.propose_new(payload);
            let leading = self.leading.as_mut().expect("it leads");
            let bytes = self.log.get(slot).map_or(0, |cell| cell.entry.bytes());
            leading.unchosen_bytes -= bytes;
            out.push(Output::Proposed {
                ticket,
                slot,
                epoch: self.epoch,
            });
        }
    }

    /// Follows the progress of exactly the members, and for a while of those just removed, so
    /// that they learn it.
    pub(super) fn sync_peers(&mut self, now: Instant) {
        let Some(leading) = &mut self.leading else {
            return;
        };
        let membership = &self.log.membership().1;
        for (id, peer) in &mut leading.peers {
            if !membership.members.contains_key(id) {
                peer.departing_since.get_or_insert(now);
            }
        }
        let first_guess = self.config.heartbeat_interval / 8;
        for id in membership.members.keys() {
            let present = leading.peers.get(id);
            let is_new = present.is_none_or(|peer| peer.departing_since.is_some());
            if *id != self.config.id && is_new {
                let session = leading.next_session();
                let next = self.log.chosen().next();
                leading
                    .peers
                    .insert(*id, Peer::new(session, next, first_guess));
            }
        }
    }

    /// Lets go of removed peers that know, or that do not answer.
    fn dismiss_departed(&mut self, now: Instant) {
        let (slot, _) = *self.log.membership();
        let patience = self.config.election_timeout;
        let Some(leading) = &mut self.leading else {
            return;
        };
        leading.peers.retain(|_, peer| match peer.departing_since {
            None => true,
            Some(since) => {
                let knows = peer.received.upto() >= slot && peer.chosen_told >= slot;
                !knows && now.since(since) < patience
            }
        });
    }

    /// An acceptor answered.
    pub(super) fn on_accept_reply(
        &mut self,
        now: Instant,
        from: NodeId,
        reply: Reply,
        out: &mut Outputs,
    ) {
        let Some(leading) = &mut self.leading else {
            return;
        };
        let Some(peer) = leading.peers.get_mut(&from) else {
            return;
        };
        if reply.session != peer.session && !mutant::is_on(Mutant::StaleVote) {
            return;
        }
        let highest = reply.received.highest().max(reply.durable.highest());
        if highest > leading.proposed || reply.round > leading.round {
            return self.drop_message(from, "an acknowledgement of what was never sent", out);
        }
        peer.last_heard = Some(now);
        peer.round = peer.round.max(reply.round);
        if let Some(session) = reply.uncertain.filter(|session| *session != peer.session) {
            // Nothing from before counts; what it says in this session does.
            peer.start_over(session, reply.received.upto().next());
            return;
        }
        self.take_answer(now, from, &reply);
        self.advance_chosen();
        self.finish_read_round(out);
    }

    fn take_answer(&mut self, now: Instant, from: NodeId, reply: &Reply) {
        let longest = self.config.heartbeat_interval;
        let cached_from = self.log.cached_from();
        let leading = self.leading.as_mut().expect("it leads");
        let peer = leading.peers.get_mut(&from).expect("the peer is known");
        peer.answered(&reply.received, &reply.durable, now);
        let (round, sent) = peer.heartbeat;
        let answers = reply.round == round && round != 0;
        let heartbeat = if answers { sent } else { Slot(0) };
        peer.find_lost(&reply.received, heartbeat, longest, now);
        // What it misses and was never sent in this session: before what was guessed at first.
        let missing = peer.received.upto().next();
        let skipped = missing < peer.next && !peer.is_under_way(missing);
        if skipped && (answers || !peer.is_known) && missing >= cached_from {
            peer.send_from(missing);
        }
        peer.is_known = true;
    }

    /// Chooses what a quorum has durable. The result is counted a second time, from nothing but
    /// the acknowledgements, before anyone is told.
    pub(super) fn advance_chosen(&mut self) {
        loop {
            let Some(leading) = &self.leading else { return };
            let chosen = self.log.chosen();
            if chosen == leading.proposed {
                return;
            }
            let next = chosen.next();
            let reach = |id: NodeId| match leading.peers.get(&id) {
                _ if id == self.config.id => {
                    self.received.run_end(next).min(self.stored.run_end(next))
                }
                Some(peer) => peer.acked.run_end(next),
                None => Slot(0),
            };
            let slot = self.rule.commit_slot(self.membership(), reach);
            let slot = slot.min(leading.proposed);
            if slot <= chosen {
                return;
            }
            let holds = |id: NodeId| reach(id) >= slot;
            assert!(
                self.rule.commits(self.membership(), holds)
                    || mutant::is_on(Mutant::ChooseWithoutQuorum),
                "slot {slot} is chosen without a quorum"
            );
            self.choose(slot);
        }
    }

    /// A leader's regular work: does it still lead, who has to be heard from?
    pub(super) fn on_leader_deadline(&mut self, now: Instant, out: &mut Outputs) {
        let Some(leading) = &self.leading else { return };
        if now < leading.heartbeat_at {
            return;
        }
        if let Some(reason) = self.unfitness(now) {
            return self.abdicate(now, reason, out);
        }
        let interval = self.config.heartbeat_interval;
        let leading = self.leading.as_mut().expect("it leads");
        leading.begin_round();
        leading.heartbeat_at = now + interval;
        self.repeat_handover();
        self.dismiss_departed(now);
        self.ask_for_promises(now, false);
    }

    /// Gives leadership up, and says so: the best successor is asked to take over, everybody else
    /// need not wait.
    pub(super) fn abdicate(&mut self, now: Instant, reason: &'static str, out: &mut Outputs) {
        let leading = self.leading.as_ref().expect("only a leader abdicates");
        let peers: Vec<NodeId> = leading.peers.keys().copied().collect();
        if let Some(successor) = self.best_successor() {
            self.post(successor, Body::Transfer, false);
        }
        for peer in peers {
            let body = PaxosBody::Accept {
                session: 0,
                round: 0,
                chosen: Slot(0),
                last: Slot(0),
                entries: Entries::default(),
            };
            self.post(peer, Body::Paxos(body), false);
        }
        self.step_down(now, reason, out);
    }

    /// Why this replica should not lead any longer.
    fn unfitness(&self, now: Instant) -> Option<&'static str> {
        let leading = self.leading.as_ref().expect("only a leader is asked");
        let timeout = self.config.election_timeout;
        let own = self.config.id;
        let heard = |id: NodeId| {
            let heard_at = leading.peers.get(&id).and_then(|peer| peer.last_heard);
            id == own || now.since(heard_at.unwrap_or(leading.since)) < timeout
        };
        if !self.rule.commits(self.membership(), heard) {
            return Some("no quorum was heard for an election timeout");
        }
        let (waiting_since, upto) = self.writes.waiting()?;
        let durable = |id: NodeId| {
            let peer = leading.peers.get(&id);
            id != own && peer.is_some_and(|peer| peer.acked.contains(upto))
        };
        let hangs =
            now.since(waiting_since) >= timeout && self.rule.commits(self.membership(), durable);
        hangs.then_some("its disk hangs while the others' work")
    }

    /// Gives every peer what it may have in this pass.
    pub(super) fn serve_peers(&mut self, now: Instant, out: &mut Outputs) {
        let Some(mut leading) = self.leading.take() else {
            return;
        };
        let (round, proposed) = (leading.round, leading.proposed);
        for (id, peer) in &mut leading.peers {
            self.serve_peer(now, *id, peer, (round, proposed), out);
        }
        self.leading = Some(leading);
    }

    fn serve_peer(
        &self,
        now: Instant,
        id: NodeId,
        peer: &mut Peer,
        (round, proposed): (u64, Slot),
        out: &mut Outputs,
    ) {
        let cached_from = self.log.cached_from();
        if peer.has_lost() {
            let mut again = Vec::new();
            peer.repeat_lost(now, |first, last| {
                // What is not in memory any more is chosen: the peer asks for it.
                let here = first >= cached_from;
                again.extend(here.then_some((first, last)));
                here
            });
            for (first, last) in again {
                let count = (last.0 - first.0 + 1) as usize;
                let entries = self.log.entries(first).take(count).cloned().collect();
                self.send_accept(id, peer, entries, round, proposed, out);
            }
        }
        peer.next = peer.next.max(cached_from);
        // A peer that is far behind catches up first: it would not take what is so far ahead.
        let reach = peer.received.upto().0 + self.limits().window_entries;
        let end = match peer.is_known {
            true => proposed.min(Slot(reach)),
            false => proposed,
        };
        while peer.next <= end && peer.has_room(self.limits()) {
            let entries = self.take_within(peer.next, end, self.limits().append_bytes);
            let (first, last) = (peer.next, entries.last().map_or(end, |entry| entry.slot));
            let bytes = entries.bytes();
            self.send_accept(id, peer, entries, round, proposed, out);
            peer.sent(first, last, bytes, now);
        }
        if peer.heartbeat_due || peer.chosen_told < self.log.chosen() {
            self.send_accept(id, peer, Entries::default(), round, proposed, out);
        }
    }

    /// The first entry from `from` on, and as many more as stay within `budget` bytes, up to `end`.
    pub(super) fn take_within(&self, from: Slot, end: Slot, budget: u64) -> Entries {
        let mut bytes = 0;
        let mut taken = Vec::new();
        for entry in self.log.entries(from) {
            bytes += entry.bytes();
            if entry.slot > end || (bytes > budget && !taken.is_empty()) {
                break;
            }
            taken.push(entry.clone());
        }
        taken.into()
    }

    fn send_accept(
        &self,
        to: NodeId,
        peer: &mut Peer,
        entries: Entries,
        round: u64,
        proposed: Slot,
        out: &mut Outputs,
    ) {
        let round = if peer.heartbeat_due { round } else { 0 };
        if round != 0 {
            let last = entries.last().map_or(Slot(0), |entry| entry.slot);
            peer.heartbeat = (round, last.max(peer.next.previous()));
            peer.heartbeat_due = false;
        }
        let chosen = self.log.chosen();
        peer.chosen_told = chosen;
        let body = PaxosBody::Accept {
            session: peer.session,
            round,
            chosen,
            last: proposed,
            entries,
        };
        let message = Message::new(self.epoch, Body::Paxos(body));
        out.push(Output::Send {
            to,
            message,
            after: None,
        });
    }
}
