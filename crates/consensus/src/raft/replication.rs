//! A leader's side of the log: sending entries, counting acknowledgements, choosing.
//!
//! An entry is chosen when a quorum has it durable and it, or one behind it, is of the leader's
//! own epoch (Raft thesis, section 3.6.2). The leader's own disk is one voter like the others': it
//! counts when its write is durable, and the followers are not kept waiting for it.
//!
//! A leader that does not deserve to lead gives up by itself: when no quorum was heard for an
//! election timeout, and when no write of its own became durable for that long while a quorum of
//! the others made the same entries durable. A disk that is slow but gets on is no reason: the
//! successor would have the same load, and the entries are chosen without it meanwhile.

use base::mutant::{self, Mutant};
use base::{Instant, NodeId, Slot};

use crate::engine::{Note, Output, Outputs, Refusal, Role, say};
use crate::entries::Entries;
use crate::entry::{Entry, Payload};
use crate::handover::HandingOver;
use crate::message::{Body, FollowerState, Message, Position};
use crate::peers::Peers;
use crate::raft::progress::{Peer, State};
use crate::raft::{Leading, Raft};
use crate::reading::Reading;
use crate::reads::{ReadRounds, Reader};
use crate::speaking::Speaking;

/// A follower's answer; the fields of [`Body::AppendReply`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    pub(super) session: u64,
    pub(super) round: u64,
    pub(super) matched: Slot,
    pub(super) received: Slot,
    pub(super) state: FollowerState,
}

impl Leading {
    /// A session that was never used in this epoch.
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

impl Raft {
    /// A quorum voted for this replica.
    pub(super) fn become_leader(&mut self, now: Instant, out: &mut Outputs) {
        assert!(self.leading.is_none(), "nobody becomes leader twice");
        self.role = Role::Leader;
        self.receiver = None;
        self.leader = Some(self.config.id);
        self.health.begin_leading();
        let unchosen_bytes = self.log.cached_bytes(self.chosen.next(), self.log.last());
        let mut reads = ReadRounds::default();
        for asker in self.forwards.drain() {
            reads.ask(Reader::Local(asker.ticket), asker.since);
        }
        self.leading = Some(Box::new(Leading {
            unchosen_bytes,
            peers: Peers::new(),
            first: self.log.last().next(),
            session: 0,
            round: 1,
            heartbeat_at: now + self.config.heartbeat_interval,
            reads,
            change: None,
            since: now,
        }));
        out.push(Output::Note(Note::BecameLeader { epoch: self.epoch }));
        self.sync_peers(now);
        self.lead_entry(Payload::Empty);
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
        for reader in leading.reads.drain() {
            self.refuse_reader(reader, Refusal::NotLeader, out);
        }
    }

    /// Puts an entry behind the log.
    pub(super) fn lead_entry(&mut self, payload: Payload) -> Slot {
        let leading = self.leading.as_mut().expect("only a leader adds entries");
        let entry = Entry {
            slot: self.log.last().next(),
            epoch: self.epoch,
            payload,
        };
        let slot = entry.slot;
        leading.unchosen_bytes += entry.bytes();
        self.log.append(entry, self.config.limits.append_bytes);
        slot
    }

    /// Follows the progress of exactly the members, and for a while of those just removed, so
    /// that they learn it.
    pub(super) fn sync_peers(&mut self, now: Instant) {
        let Some(leading) = &mut self.leading else {
            return;
        };
        let membership = &self.log.membership().1;
        leading.peers.see_off(membership, now);
        for id in membership
            .members
            .keys()
            .filter(|id| **id != self.config.id)
        {
            if leading.peers.is_new(*id) {
                let session = leading.next_session();
                let is_witness = membership.is_witness(*id);
                let peer = Peer::new(session, self.log.last().next(), is_witness, now);
                leading.peers.insert(*id, peer);
            }
        }
    }

    /// Lets go of removed peers that know, or that do not answer.
    pub(super) fn dismiss_departed(&mut self, now: Instant) {
        let (slot, _) = *self.log.membership();
        let patience = self.config.election_timeout;
        let Some(leading) = &mut self.leading else {
            return;
        };
        leading
            .peers
            .dismiss(now, patience, slot, |peer| peer.matched);
    }

    /// A follower answered.
    pub(super) fn on_append_reply(
        &mut self,
        now: Instant,
        from: NodeId,
        reply: Reply,
        out: &mut Outputs,
    ) {
        let last = self.log.last();
        let Some(leading) = &mut self.leading else {
            return;
        };
        let Some(peer) = leading.peers.get_mut(&from) else {
            return;
        };
        if reply.session != peer.contact.session {
            return;
        }
        if reply.matched > last || reply.received > last || reply.round > leading.round {
            return self.drop_message(from, "an acknowledgement of what was never sent", out);
        }
        peer.contact.heard(now, reply.round);
        match reply.state {
            FollowerState::Uncertain { session } => {
                self.on_uncertain(from, session, reply.received);
            }
            FollowerState::Rejecting { previous, hint } => {
                peer.acknowledged(reply.matched);
                self.on_rejected(from, previous, hint);
            }
            FollowerState::Matching => {
                peer.acknowledged(reply.matched);
                self.on_matching(from, reply);
            }
        }
        self.advance_chosen();
        self.note_copy(now, from);
        self.finish_read_round(out);
    }

    fn on_matching(&mut self, from: NodeId, reply: Reply) {
        let start = self.log.start().slot;
        let leading = self.leading.as_mut().expect("it leads");
        let peer = leading.peers.get_mut(&from).expect("the peer is known");
        match peer.state {
            State::Probe { .. } if reply.received >= peer.next.previous() => {
                peer.replicate(reply.received);
            }
            State::Replicate => {
                let (round, sent) = peer.heartbeat;
                let lost = reply.round == round && round != 0 && reply.received < sent;
                if lost && sent < peer.next {
                    peer.probe(reply.received.max(peer.matched).next());
                }
            }
            State::Snapshot(ref sender) if peer.matched >= start.min(sender.checkpoint().slot) => {
                peer.probe(peer.matched.next());
            }
            _ => {}
        }
    }

    fn on_rejected(&mut self, from: NodeId, previous: Slot, hint: Position) {
        let leading = self.leading.as_mut().expect("it leads");
        let peer = leading.peers.get_mut(&from).expect("the peer is known");
        let is_latest = peer.next.previous() == previous;
        let answers = match peer.state {
            State::Probe { .. } => is_latest,
            State::Replicate => previous < peer.next,
            State::Snapshot(_) => false,
        };
        if !answers || previous == Slot(0) || (previous <= peer.matched && !is_latest) {
            return;
        }
        // Below the start of this log there may be common ground, but nothing to send from: a
        // snapshot follows.
        let bound = hint.slot.min(previous.previous());
        let common = if bound < self.log.start().slot {
            bound
        } else {
            self.log.last_not_newer(bound, hint.epoch).slot
        };
        if previous <= peer.matched {
            // It had said that this was durable, and does not have it any more.
            let session = leading.next_session();
            let peer = leading.peers.get_mut(&from).expect("the peer is known");
            return peer.start_over(session, common.next());
        }
        peer.probe(common.max(peer.matched).next());
    }

    /// A follower that is unsure of its own log takes entries like any other, in a session of its
    /// own choice; they only do not count.
    fn on_uncertain(&mut self, from: NodeId, session: u64, received: Slot) {
        let start = self.log.start().slot;
        let leading = self.leading.as_mut().expect("it leads");
        let peer = leading.peers.get_mut(&from).expect("the peer is known");
        if peer.contact.session != session {
            peer.start_over(session, received.next());
            peer.contact.heartbeat_due = true;
            return;
        }
        if peer.matched > Slot(0) {
            // It is sure again, and this answer is a late one.
            return;
        }
        match peer.state {
            State::Probe { .. } if received >= peer.next.previous() => peer.replicate(received),
            State::Replicate => {
                peer.release(received);
                let (_, sent) = peer.heartbeat;
                if received < sent && sent < peer.next {
                    peer.probe(received.next());
                }
            }
            State::Snapshot(ref sender) if received >= start.min(sender.checkpoint().slot) => {
                peer.probe(received.next());
            }
            _ => {}
        }
    }

    /// Chooses what a quorum has durable. The result is counted a second time, from nothing but
    /// the acknowledgements, before anyone is told.
    pub(super) fn advance_chosen(&mut self) {
        let Some(leading) = &self.leading else { return };
        let own = (self.config.id, self.log.durable());
        if self.chosen == self.log.last() {
            return;
        }
        // Nearly half of what comes is the first sign of new entries: too few to count.
        let ahead = |slot: Slot| usize::from(slot > self.chosen);
        let others = leading.peers.values().map(|peer| ahead(peer.matched));
        if self.is_too_few(ahead(own.1) + others.sum::<usize>()) {
            return;
        }
        let durable = |id: NodeId| match leading.peers.get(&id) {
            _ if id == own.0 => own.1,
            Some(peer) => peer.matched,
            None => Slot(0),
        };
        let slot = self.membership().commit_slot(durable);
        let earlier = slot < leading.first && !mutant::is_on(Mutant::ChooseEarlierEpoch);
        if slot <= self.chosen || earlier {
            return;
        }
        let holds = |id: NodeId| durable(id) >= slot;
        assert!(
            self.membership().commits(holds) && self.membership().keeps(holds),
            "slot {slot} is chosen without a quorum"
        );
        assert!(
            self.log.epoch_at(slot) == Some(self.epoch),
            "slot {slot} is chosen by counting, but is not of epoch {}",
            self.epoch
        );
        self.choose(slot);
    }

    /// Whether this replica leads, and nothing would follow if all that it has written were durable
    /// now: too few others have anything that is not chosen yet. A witness is told only of what has
    /// its copies, so it may wait for this one.
    #[must_use]
    pub fn waits_for_others(&self) -> bool {
        let Some(leading) = &self.leading else {
            return false;
        };
        let others = leading.peers.values();
        let ahead = others.filter(|peer| peer.matched > self.chosen).count();
        self.membership().witnesses.is_empty() && self.is_too_few(1 + ahead)
    }

    /// Whether so many members cannot choose anything, whoever they are.
    fn is_too_few(&self, members: usize) -> bool {
        let fewer = usize::from(mutant::is_on(Mutant::ChooseWithoutQuorum));
        members + fewer < self.membership().quorum_sizes().commit
    }

    /// A leader's regular work: does it still lead, who has to be heard from?
    pub(super) fn on_leader_deadline(&mut self, now: Instant, out: &mut Outputs) {
        let Some(leading) = &self.leading else { return };
        if now < leading.heartbeat_at {
            return;
        }
        if let Some(reason) = self.unfitness(now) {
            if let Some(successor) = self.best_successor() {
                self.post(successor, Body::Transfer, false);
            }
            return self.step_down(now, reason, out);
        }
        let interval = self.config.heartbeat_interval;
        let late = now.since(leading.heartbeat_at);
        let lags = self.log.durable() < self.chosen;
        self.watch_health(now, late, lags, out);
        self.look_for_copies(now);
        let leading = self.leading.as_mut().expect("it leads");
        leading.begin_round();
        leading.heartbeat_at = now + interval;
        self.repeat_handover();
        self.dismiss_departed(now);
        self.offer_stalled_snapshots(now);
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
        let (waiting_since, upto) = self.journaling.waiting()?;
        let durable = |id: NodeId| {
            let peer = leading.peers.get(&id).filter(|_| id != own);
            // A witness is told only of what has its copies, perhaps not without this disk.
            peer.is_some_and(|peer| peer.matched >= upto || peer.contact.is_witness && heard(id))
        };
        let hangs = now.since(waiting_since) >= timeout && self.membership().commits(durable);
        hangs.then_some("its disk hangs while the others' work")
    }

    /// Gives every peer what it may have in this pass.
    pub(super) fn serve_peers(&mut self, now: Instant, out: &mut Outputs) {
        let Some(mut leading) = self.leading.take() else {
            return;
        };
        let round = leading.round;
        let upto = self.kept(&leading);
        for (id, peer) in &mut leading.peers {
            self.serve_peer(now, *id, peer, (round, upto), out);
        }
        self.leading = Some(leading);
    }

    /// Where there are witnesses: what they may be told of, which is what has its copies. A header
    /// keeps everybody from leading who lacks the entry, so whoever has lost one disk less than
    /// there are copies must still find it; and sooner it would not help to choose it.
    fn kept(&self, leading: &Leading) -> Option<Slot> {
        let membership = self.membership();
        let durable = |id: NodeId| match leading.peers.get(&id) {
            _ if id == self.config.id => self.log.durable(),
            Some(peer) => peer.matched,
            None => Slot(0),
        };
        if membership.witnesses.is_empty() {
            return None;
        }
        let copies = membership.copies_counted_on(|id| self.counts_on(leading, id));
        Some(membership.slot_kept_by(copies, durable).max(self.chosen))
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
        let chosen = self.chosen;
        if let Some(leading) = &mut self.leading {
            leading.peers.note_copy(now, from, chosen);
        }
    }

    /// Looks who keeps up.
    fn look_for_copies(&mut self, now: Instant) {
        let times = (self.config.heartbeat_interval, self.config.election_timeout);
        let durable = self.log.durable();
        if self.membership().witnesses.is_empty() {
            return;
        }
        let leading = self.leading.as_mut().expect("only a leader looks");
        let since = leading.since;
        leading.peers.look_for_copies(now, since, durable, times);
    }

    fn serve_peer(
        &mut self,
        now: Instant,
        id: NodeId,
        peer: &mut Peer,
        (round, upto): (u64, Option<Slot>),
        out: &mut Outputs,
    ) {
        if peer.next <= self.log.start().slot && !matches!(peer.state, State::Snapshot(_)) {
            self.begin_snapshot(now, id, peer, out);
        }
        self.request_pieces(id, peer, out);
        let end = upto
            .filter(|_| peer.contact.is_witness)
            .unwrap_or(self.log.last());
        while peer.has_room(self.limits()) && peer.next <= end {
            if peer.next < self.log.cached_from() {
                self.fetch_for(peer, out);
                break;
            }
            let budget = self.limits().append_bytes;
            match self.log.newest_within(peer.next, end, budget) {
                Some(newest) => self.send_entries(id, peer, newest, round, out),
                None => {
                    let entries = self.log.take(peer.next, end, budget);
                    self.send_entries(id, peer, &entries, round, out);
                }
            }
        }
        let news = matches!(peer.state, State::Replicate) && peer.contact.chosen_told < self.chosen;
        if peer.contact.heartbeat_due || news {
            self.send_append(id, peer, &Entries::default(), round, out);
        }
    }

    /// Asks the journal for what the peer needs next.
    fn fetch_for(&mut self, peer: &mut Peer, out: &mut Outputs) {
        if peer.fetching.is_none() && peer.next > self.log.start().slot {
            let upto = self.log.cached_from().previous();
            if self.request_fetch(peer.next, upto, out) {
                peer.fetching = Some(peer.next);
            }
        }
    }

    /// Sends entries that begin with what the peer needs next.
    pub(super) fn send_entries(
        &self,
        to: NodeId,
        peer: &mut Peer,
        entries: &Entries,
        round: u64,
        out: &mut Outputs,
    ) {
        let last = entries.last().expect("there is something to send").slot;
        let bytes = match peer.contact.is_witness {
            true => {
                let headers = entries.headers();
                self.send_append(to, peer, &headers, round, out);
                headers.bytes()
            }
            false => {
                self.send_append(to, peer, entries, round, out);
                entries.bytes()
            }
        };
        peer.sent(last, bytes);
    }

    fn send_append(
        &self,
        to: NodeId,
        peer: &mut Peer,
        entries: &Entries,
        round: u64,
        out: &mut Outputs,
    ) {
        // A peer that gets a snapshot hears heartbeats that fit any log.
        let previous = match peer.state {
            State::Snapshot(_) => Position::default(),
            _ => self.log.position(peer.next.previous()).unwrap_or_default(),
        };
        let probes = matches!(peer.state, State::Probe { .. }) && !entries.is_empty();
        let round = if peer.contact.heartbeat_due || probes {
            round
        } else {
            0
        };
        if round != 0 {
            peer.heartbeat = (round, Slot(previous.slot.0 + entries.len() as u64));
            peer.contact.heartbeat_due = false;
        }
        peer.contact.chosen_told = self.chosen;
        say(out, || Output::Send {
            to,
            message: Message {
                epoch: self.epoch,
                body: Body::Append {
                    session: peer.contact.session,
                    round,
                    previous,
                    chosen: self.chosen,
                    entries: entries.clone(),
                },
            },
            after: None,
        });
    }
}
