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

use std::collections::VecDeque;

use base::mutant::{self, Mutant};
use base::{Instant, NodeId, Slot};

use crate::engine::{Note, Output, Outputs, Refusal, Role, Ticket, say};
use crate::entries::Entries;
use crate::entry::{Entry, Payload};
use crate::handover::HandingOver;
use crate::membership::Membership;
use crate::message::{Body, Message, PaxosBody};
use crate::paxos::peer::{Patience, Peer};
use crate::paxos::{Leading, Paxos};
use crate::peers::Peers;
use crate::reading::Reading;
use crate::reads::{ReadRounds, Reader};
use crate::slots::Slots;
use crate::speaking::Speaking;

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
        self.peers.ask_all();
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
        self.health.begin_leading();
        self.learning.stop();
        let chosen = self.log.chosen();
        self.received.insert_up_to(chosen);
        let mut reads = ReadRounds::default();
        for asker in self.forwards.drain() {
            reads.ask(Reader::Local(asker.ticket), asker.since);
        }
        self.leading = Some(Box::new(Leading {
            peers: Peers::new(),
            synced: None,
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
        self.log.seal();
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
        let epoch = self.epoch;
        say(out, || Output::Proposed {
            ticket,
            slot,
            epoch,
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
        self.accepted(entry.slot, entry.slot);
        let limit = self.config.limits.append_bytes;
        self.log.propose(entry, self.epoch, limit);
    }

    /// What was held back while the leader was not open.
    pub(super) fn release_held(&mut self, out: &mut Outputs) {
        let leading = self.leading.as_mut().expect("only a leader proposes");
        for (ticket, payload) in std::mem::take(&mut leading.held) {
            // It counted while it was held, and counts again when it is proposed.
            let before = self.unchosen_bytes();
            let slot = self.propose_new(payload);
            let bytes = self.unchosen_bytes() - before;
            let leading = self.leading.as_mut().expect("it leads");
            leading.unchosen_bytes -= bytes;
            out.push(Output::Proposed {
                ticket,
                slot,
                epoch: self.epoch,
            });
        }
    }

    fn unchosen_bytes(&self) -> u64 {
        self.leading
            .as_ref()
            .map_or(0, |leading| leading.unchosen_bytes)
    }

    /// Follows the progress of exactly the members, and for a while of those just removed, so
    /// that they learn it.
    pub(super) fn sync_peers(&mut self, now: Instant) {
        let Some(leading) = &mut self.leading else {
            return;
        };
        let (since, membership) = self.log.membership();
        if leading.synced.replace(*since) == Some(*since) {
            return;
        }
        leading.peers.see_off(membership, now);
        let first_guess = self.config.heartbeat_interval / 8;
        for id in membership.members.keys() {
            if *id != self.config.id && leading.peers.is_new(*id) {
                let session = leading.next_session();
                let next = self.log.chosen().next();
                let is_witness = membership.is_witness(*id);
                let peer = Peer::new(session, next, first_guess, is_witness, now);
                leading.peers.insert(*id, peer);
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
        leading
            .peers
            .dismiss(now, patience, slot, |peer| peer.received.upto());
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
        if reply.session != peer.contact.session {
            return;
        }
        let highest = reply.received.highest().max(reply.durable.highest());
        if highest > leading.proposed || reply.round > leading.round {
            return self.drop_message(from, "an acknowledgement of what was never sent", out);
        }
        peer.contact.heard(now, reply.round);
        if let Some(session) = reply
            .uncertain
            .filter(|session| *session != peer.contact.session)
        {
            // Nothing from before counts; what it says in this session does.
            peer.start_over(session, reply.received.upto().next());
            return;
        }
        self.take_answer(now, from, &reply);
        self.advance_chosen();
        self.note_copy(now, from);
        self.finish_read_round(out);
    }

    fn take_answer(&mut self, now: Instant, from: NodeId, reply: &Reply) {
        let patience = self.patience();
        let cached_from = self.log.cached_from();
        let leading = self.leading.as_mut().expect("it leads");
        let peer = leading.peers.get_mut(&from).expect("the peer is known");
        let is_newest = reply.round == peer.heartbeat && reply.round != 0;
        peer.answered(&reply.received, &reply.durable, is_newest, now);
        if reply.uncertain.is_some() {
            // It must hold everything that is proposed before it acknowledges anything; where
            // nothing is chosen without it, that is more than may be on its way at once.
            peer.release(&reply.received);
        }
        peer.find_overtaken(&reply.received, reply.round);
        let silent = peer.find_lost(patience, now);
        // What it misses and was never sent in this session: before what was guessed at first.
        let missing = peer.received.upto().next();
        let skipped = missing < peer.next && !peer.is_under_way(missing);
        if skipped && (is_newest || !peer.is_known) && missing >= cached_from {
            peer.send_from(missing);
        }
        peer.is_known = true;
        if silent {
            self.ask_peers(&[from]);
        }
    }

    /// How long this leader waits for answers.
    fn patience(&self) -> Patience {
        Patience {
            least: self.config.limits.repeat_after,
            most: self.config.heartbeat_interval,
            repeat_bytes: self.config.limits.repeat_bytes,
        }
    }

    /// When to look for lost messages.
    pub(super) fn repeat_deadline(&self) -> Option<Instant> {
        let leading = self.leading.as_ref()?;
        let patience = self.patience();
        let deadlines = leading
            .peers
            .values()
            .filter_map(|peer| peer.deadline(patience));
        deadlines.min()
    }

    /// Looks for lost messages, and asks those who have been silent for too long.
    fn find_lost(&mut self, now: Instant) {
        let patience = self.patience();
        let leading = self.leading.as_mut().expect("only a leader sends these");
        let mut silent = Vec::new();
        for (id, peer) in &mut leading.peers {
            if peer.find_lost(patience, now) {
                silent.push(*id);
            }
        }
        if !silent.is_empty() {
            self.ask_peers(&silent);
        }
    }

    /// Asks these what they have, under a number of its own: what their answers do not name, and
    /// was sent before, is lost.
    fn ask_peers(&mut self, peers: &[NodeId]) {
        let leading = self.leading.as_mut().expect("only a leader asks");
        leading.round += 1;
        for id in peers {
            let peer = leading.peers.get_mut(id).expect("the peer is known");
            peer.contact.heartbeat_due = true;
        }
    }

    /// Chooses what a quorum has durable.
    #[inline]
    pub(super) fn advance_chosen(&mut self) {
        let Some(leading) = &self.leading else { return };
        let proposed = leading.proposed;
        while self.log.chosen() < proposed && self.choose_more() {}
    }

    /// Chooses the next slots that a quorum has durable, and says whether there were any. The
    /// result is counted a second time, from nothing but the acknowledgements, before anyone is
    /// told.
    fn choose_more(&mut self) -> bool {
        let leading = self.leading.as_ref().expect("only a leader counts");
        let chosen = self.log.chosen();
        let next = chosen.next();
        let own = self.received.contains(next) && self.stored.contains(next);
        let others = leading.peers.values();
        let others = others.filter(|peer| peer.acked.contains(next)).count();
        if self.is_too_few(usize::from(own) + others) {
            return false;
        }
        let reach = |id: NodeId| match leading.peers.get(&id) {
            Some(peer) => peer.acked.run_end(next),
            _ if id == self.config.id => self.received.run_end(next).min(self.stored.run_end(next)),
            None => Slot(0),
        };
        let twice = mutant::is_on(Mutant::CountAcceptTwice);
        let furthest = |id: NodeId| match twice && id != self.config.id {
            true => leading
                .peers
                .keys()
                .map(|peer| reach(*peer))
                .max()
                .unwrap_or_default(),
            false => reach(id),
        };
        let slot = self.commit_slot(furthest).min(leading.proposed);
        if slot <= chosen {
            return false;
        }
        let holds = |id: NodeId| reach(id) >= slot;
        if !self.may_follow(slot, holds) {
            return false;
        }
        assert!(
            self.membership().commits(holds) && self.is_kept(holds)
                || mutant::is_on(Mutant::ChooseWithoutQuorum)
                || twice,
            "slot {slot} is chosen without a quorum"
        );
        self.choose(slot);
        true
    }

    /// Whether so many members cannot choose anything, whoever they are. Nearly half of what comes
    /// is the first sign of new entries, and need not be counted.
    fn is_too_few(&self, members: usize) -> bool {
        let fewer = usize::from(mutant::is_on(Mutant::ChooseWithoutQuorum));
        let is_counted_twice = mutant::is_on(Mutant::CountAcceptTwice);
        !is_counted_twice && members + fewer < self.membership().quorum_sizes().commit
    }

    /// The highest slot that enough have accepted to commit it, and to keep it.
    fn commit_slot(&self, reach: impl Fn(NodeId) -> Slot) -> Slot {
        let membership = self.membership();
        match self.next_membership_to_be() {
            Some(next) if !membership.witnesses.is_empty() => {
                let kept = membership.kept_slot(&reach).max(next.kept_slot(&reach));
                membership.agreed_slot(reach).min(kept)
            }
            _ => membership.commit_slot(reach),
        }
    }

    /// Whether enough hold copies. While the membership changes, those that stay may do so: who is
    /// voted out may be gone, and that an operator wants it gone is said by the change.
    fn is_kept(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        let to_be = || self.next_membership_to_be();
        self.membership().keeps(&holds) || to_be().is_some_and(|next| next.keeps(&holds))
    }

    /// Whether enough hold a slot for what follows it: of a stop-sign perhaps more than commit
    /// anything else, and as many copies as there are to be among those that stay.
    fn may_follow(&self, slot: Slot, holds: impl Fn(NodeId) -> bool) -> bool {
        let leading = self.leading.as_ref().expect("only a leader counts");
        if leading.stop_sign != Some(slot) {
            return true;
        }
        self.next_membership_to_be().is_none_or(|next| {
            let voters = &self.membership().voters;
            let enough = self.membership().to_be_followed_by(&next);
            // Whoever proposed it has made sure that there are so many.
            let enough = enough.unwrap_or(voters.len());
            let count = voters.iter().filter(|id| holds(**id)).count();
            count >= enough && next.keeps(&holds)
        })
    }

    /// A leader's regular work: does it still lead, who has to be heard from?
    pub(super) fn on_leader_deadline(&mut self, now: Instant, out: &mut Outputs) {
        self.find_lost(now);
        let Some(leading) = &self.leading else { return };
        if now < leading.heartbeat_at {
            return;
        }
        if let Some(reason) = self.unfitness(now) {
            return self.abdicate(now, reason, out);
        }
        let late = now.since(leading.heartbeat_at);
        let lags = self.stored.upto() < self.log.chosen();
        self.watch_health(now, late, lags, out);
        let interval = self.config.heartbeat_interval;
        self.look_for_copies(now);
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
            let heard_at = leading.peers.heard_at(id);
            id == own || now.since(heard_at.unwrap_or(leading.since)) < timeout
        };
        if !self.membership().commits(heard) {
            return Some("no quorum was heard for an election timeout");
        }
        let (waiting_since, upto) = self.writes.waiting()?;
        let durable = |id: NodeId| {
            let peer = leading.peers.get(&id).filter(|_| id != own);
            // A witness is told only of what has its copies, perhaps not without this disk.
            peer.is_some_and(|peer| {
                peer.acked.contains(upto) || peer.contact.is_witness && heard(id)
            })
        };
        let hangs = now.since(waiting_since) >= timeout && self.membership().commits(durable);
        hangs.then_some("its disk hangs while the others' work")
    }

    /// Gives every peer what it may have in this pass.
    pub(super) fn serve_peers(&mut self, now: Instant, out: &mut Outputs) {
        let Some(mut leading) = self.leading.take() else {
            return;
        };
        let (round, proposed) = (leading.round, leading.proposed);
        let upto = self.kept(&leading);
        for (id, peer) in &mut leading.peers {
            self.serve_peer(now, *id, peer, (round, proposed, upto), out);
        }
        self.leading = Some(leading);
    }

    /// Where there are witnesses: what they may be told of, which is what has its copies. Nobody
    /// leads past a header whose entry nobody tells, so whoever has lost one disk less than there
    /// are copies must still find it; and sooner it would not help to choose it.
    fn kept(&self, leading: &Leading) -> Option<Slot> {
        let membership = self.membership();
        if membership.witnesses.is_empty() {
            return None;
        }
        let chosen = self.log.chosen();
        let next = chosen.next();
        let reach = |id: NodeId| match leading.peers.get(&id) {
            _ if id == self.config.id => self.received.run_end(next).min(self.stored.run_end(next)),
            Some(peer) => peer.acked.run_end(next),
            None => Slot(0),
        };
        let kept = |membership: &Membership| {
            let copies = membership.copies_counted_on(|id| self.counts_on(leading, id));
            membership.slot_kept_by(copies, reach)
        };
        let to_be = Self::membership_to_be(leading, &self.log);
        let to_be = to_be.map_or(Slot(0), |to_be| kept(&to_be));
        Some(kept(membership).max(to_be).max(chosen))
    }

    /// Whether a copy there is waited for.
    pub(super) fn counts_on(&self, leading: &Leading, id: NodeId) -> bool {
        id == self.config.id || leading.peers.count_on(id)
    }

    /// Somebody has said what is durable there.
    fn note_copy(&mut self, now: Instant, from: NodeId) {
        if self.membership().witnesses.is_empty() {
            return;
        }
        let chosen = self.log.chosen();
        if let Some(leading) = &mut self.leading {
            leading.peers.note_copy(now, from, chosen);
        }
    }

    /// Looks who keeps up.
    fn look_for_copies(&mut self, now: Instant) {
        let times = (self.config.heartbeat_interval, self.config.election_timeout);
        let durable = self.stored.upto();
        if self.membership().witnesses.is_empty() {
            return;
        }
        let leading = self.leading.as_mut().expect("only a leader looks");
        let since = leading.since;
        leading.peers.look_for_copies(now, since, durable, times);
    }

    fn serve_peer(
        &self,
        now: Instant,
        id: NodeId,
        peer: &mut Peer,
        (round, proposed, upto): (u64, Slot, Option<Slot>),
        out: &mut Outputs,
    ) {
        let cached_from = self.log.cached_from();
        if peer.has_lost() {
            let latest = if peer.contact.heartbeat_due {
                round
            } else {
                peer.heartbeat
            };
            // What is not in memory any more is chosen: the peer asks for it.
            let limit = self.limits().append_bytes;
            let again = peer.repeat_lost(now, latest, cached_from, limit);
            for entries in self.in_few_messages(&again) {
                self.send_accept(id, peer, &entries, round, proposed, out);
            }
        }
        peer.next = peer.next.max(cached_from);
        // A peer that is far behind catches up first: it would not take what is so far ahead.
        let reach = peer.received.upto().0 + self.limits().window_entries;
        let end = match peer.is_known {
            true => proposed.min(Slot(reach)),
            false => proposed,
        };
        let end = upto
            .filter(|_| peer.contact.is_witness)
            .map_or(end, |upto| end.min(upto));
        while peer.next <= end && peer.has_room(self.limits()) {
            let budget = self.limits().append_bytes;
            let taken;
            let entries = match self.log.newest_within(peer.next, end, budget) {
                Some(newest) => newest,
                None => {
                    taken = self.log.take(peer.next, end, budget);
                    &taken
                }
            };
            let (first, last) = (peer.next, entries.last().map_or(end, |entry| entry.slot));
            self.send_accept(id, peer, entries, round, proposed, out);
            peer.sent(first, last, entries.bytes(), now);
        }
        if peer.contact.heartbeat_due || peer.contact.chosen_told < self.log.chosen() {
            self.send_accept(id, peer, &Entries::default(), round, proposed, out);
        }
    }

    /// The entries of these runs. Small ones go together, with what lies between them: one message
    /// arrives at one time.
    fn in_few_messages(&self, runs: &[(Slot, Slot)]) -> Vec<Entries> {
        let mut messages: Vec<Entries> = Vec::new();
        let end = runs.last().map_or(Slot(0), |run| run.1);
        let mut rest = runs;
        while let Some((first, last)) = rest.first().copied() {
            let near = self.log.take(first, end, self.limits().repeat_bytes);
            let reach = near.last().map_or(Slot(0), |entry| entry.slot);
            let covered = rest.iter().take_while(|run| run.1 <= reach).count();
            let message = match covered.checked_sub(1).map(|at| rest[at].1) {
                Some(upto) => near.slice(0..(upto.0 - first.0 + 1) as usize),
                None => self.log.take(first, last, u64::MAX),
            };
            messages.push(message);
            rest = &rest[covered.max(1)..];
        }
        messages
    }

    fn send_accept(
        &self,
        to: NodeId,
        peer: &mut Peer,
        entries: &Entries,
        round: u64,
        proposed: Slot,
        out: &mut Outputs,
    ) {
        let round = if peer.contact.heartbeat_due { round } else { 0 };
        if round != 0 {
            peer.heartbeat = round;
            peer.contact.heartbeat_due = false;
        }
        let chosen = self.log.chosen();
        peer.contact.chosen_told = chosen;
        let headers;
        let entries = match peer.contact.is_witness {
            true => {
                headers = entries.headers();
                &headers
            }
            false => entries,
        };
        say(out, || Output::Send {
            to,
            message: Message {
                epoch: self.epoch,
                body: Body::Paxos(PaxosBody::Accept {
                    session: peer.contact.session,
                    round,
                    chosen,
                    last: proposed,
                    entries: entries.clone(),
                }),
            },
            after: None,
        });
    }
}
