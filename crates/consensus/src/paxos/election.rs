//! Who campaigns.
//!
//! In Paxos any replica may lead: phase 1 gives it whatever its log lacks. So who leads is a
//! question of connections alone. A replica that hears no leader first asks all voters (*would you
//! promise?*); only answers from a quorum, there and back just now, let it campaign: whoever leads
//! is connected to a quorum. Whoever hears a leader refuses, and a leader that hears no quorum
//! gives up and says so; so a leader with a quorum is never deposed by those it does not reach, and
//! one without a quorum never stands in the way of others for longer than an election timeout:
//!
//! ```text
//!  quorum loss        constrained         chained
//!  B   C*  D          B       D           B* ─── A ─── C
//!   ╲  │  ╱            ╲     ╱            C asks A, which hears B: refused.
//!    ╲ │ ╱              ╲   ╱             C gets what is chosen from A.
//!      A                  A     C*
//!     ╱                  ╱      (cut off)     * leads
//!    E                  E
//!  C gives up,        A's log may be old:
//!  A campaigns        it campaigns all the same
//! ```
//!
//! Asking costs nobody anything, so a replica that was cut off comes back without disturbing
//! anyone. Occasions, repetition and the preference among those who ask at once are as in Raft's
//! `election.rs`, except that the log decides nothing: who is far behind is only asked to let a
//! better one try first.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{Epoch, Instant, NodeId, Slot};

use crate::engine::{Mark, Note, Output, Outputs, Role};
use crate::message::{Body, Message, Occasion, PaxosBody, Position};
use crate::patience;
use crate::paxos::{Letter, Paxos, ballot};

/// A replica's part in elections.
#[derive(Clone, Debug)]
pub(super) struct Election {
    /// When to act if nothing is heard.
    pub(super) deadline: Instant,
    /// When a candidate asks those once more who have not answered.
    pub(super) repeat_at: Instant,
    /// When the leader was last heard.
    contact: Option<Instant>,
    /// The connection to the leader was closed by the leader's side, and nothing came since.
    closed: bool,
    /// Names the current question.
    round: u64,
    /// The ballot that it asks about.
    asked: Epoch,
    /// Elections tried since a leader was last heard.
    attempts: u32,
    /// When this replica last put off its own attempt in favour of another's.
    yielded_at: Option<Instant>,
    /// When it last asked someone who is far behind to let it try first.
    preceded_at: Option<Instant>,
    pub(super) occasion: Occasion,
    granted: BTreeSet<NodeId>,
    refused: BTreeSet<NodeId>,
    /// The own promise counts once this is durable.
    pub(super) own_vote: Option<Mark>,
    /// The candidate that this replica has promised wants to be told from here on.
    told_from: Slot,
}

impl Election {
    /// Nothing has happened; act at `deadline` if that stays so.
    pub(super) fn new(deadline: Instant) -> Election {
        Election {
            deadline,
            repeat_at: deadline,
            contact: None,
            closed: false,
            round: 0,
            asked: Epoch(0),
            attempts: 0,
            yielded_at: None,
            preceded_at: None,
            occasion: Occasion::Silence,
            granted: BTreeSet::new(),
            refused: BTreeSet::new(),
            own_vote: None,
            told_from: Slot(0),
        }
    }

    /// It was not called for a while; the leader's node was `heard` last then.
    pub(super) fn woken(&mut self, now: Instant, heard: Option<Instant>, delay: Duration) {
        self.contact = self.contact.max(heard);
        self.deadline = (heard.unwrap_or(now) + delay).max(now);
    }

    /// This replica leads: whatever it tried before is over.
    pub(super) fn succeeded(&mut self) {
        self.attempts = 0;
        self.own_vote = None;
    }
}

impl Paxos {
    /// Whether this replica may promise anything, to itself or to others.
    pub(super) fn may_promise(&self) -> bool {
        let is_loaded = self.loading.is_none() || mutant::is_on(Mutant::EmptyWhileLoading);
        self.uncertain.is_none() && is_loaded
    }

    /// Whether this replica may campaign. A witness could hand nobody an entry.
    pub(super) fn is_electable(&self) -> bool {
        let membership = self.membership();
        let id = self.config.id;
        let may_lead = membership.is_voter(id) && !membership.is_witness(id);
        may_lead && self.may_promise() && !self.is_installing()
    }

    /// How long to wait for a leader.
    pub(super) fn election_delay(&mut self) -> Duration {
        patience::election_delay(&mut self.random, &self.config)
    }

    /// How long to wait between attempts.
    pub(super) fn attempt_delay(&mut self) -> Duration {
        patience::attempt_delay(&mut self.random, &self.config, self.election.attempts)
    }

    fn random_part(&mut self, whole: Duration) -> Duration {
        patience::random_part(&mut self.random, whole)
    }

    /// Whether a leader is to be protected against an election that `from` wants on this occasion.
    /// Who wants one leads no more in any epoch before.
    fn protects_leader(&self, now: Instant, from: NodeId, occasion: Occasion) -> bool {
        if occasion == Occasion::Transfer || self.leader == Some(from) {
            return false;
        }
        if self.leading.is_some() {
            return true;
        }
        let Some(contact) = self.election.contact.filter(|_| self.leader.is_some()) else {
            return false;
        };
        let silence = now.since(contact);
        let missed = self.config.heartbeat_interval * 3 / 2;
        if occasion == Occasion::ConnectionClosed && (self.election.closed || silence > missed) {
            return false;
        }
        silence < self.config.election_timeout
    }

    /// The leader of this ballot speaks. Returns whether it may be listened to: whoever was
    /// promised the ballot, and nobody else.
    pub(super) fn hear_leader(&mut self, now: Instant, from: NodeId, out: &mut Outputs) -> bool {
        if let Some(known) = self.vote.filter(|vote| *vote != from) {
            if self.leader.is_some() && self.membership().is_voter(from) {
                let (epoch, other) = (self.epoch, from);
                out.push(Output::Note(Note::TwoLeaders {
                    epoch,
                    known,
                    other,
                }));
            }
            return false;
        }
        if self.vote.is_none() {
            // Accepting in a ballot promises it.
            self.vote = Some(from);
            self.hard_state_changed = true;
        }
        assert!(self.leading.is_none(), "a leader listens to no other");
        self.role = Role::Follower;
        self.leader = Some(from);
        self.election.contact = Some(now);
        self.election.closed = false;
        self.election.attempts = 0;
        self.election.deadline = now + self.election_delay();
        true
    }

    /// Moves to a later ballot: whatever this replica was, it follows, and has promised nobody.
    pub(super) fn enter_epoch(
        &mut self,
        now: Instant,
        epoch: Epoch,
        reason: &'static str,
        out: &mut Outputs,
    ) {
        assert!(epoch > self.epoch, "ballots only grow");
        self.step_down(now, reason, out);
        self.epoch = epoch;
        self.vote = None;
        self.hard_state_changed = true;
        self.preparation = None;
        self.begin_ballot();
    }

    /// Leads or campaigns no more; the ballot stays.
    pub(super) fn step_down(&mut self, now: Instant, reason: &'static str, out: &mut Outputs) {
        if self.leading.is_some() {
            out.push(Output::Note(Note::SteppedDown {
                epoch: self.epoch,
                reason,
            }));
            self.abandon_leadership(out);
        }
        if self.role != Role::Follower || self.leader.is_some() {
            self.election.deadline = now + self.election_delay();
        }
        self.role = Role::Follower;
        self.leader = None;
        self.preparation = None;
        self.election.contact = None;
        self.election.closed = false;
        self.election.own_vote = None;
    }

    /// This replica led until it heard of a later ballot from who is unsure of its log: it has lost
    /// its promises as well, and begins behind all that it may have given. Nobody else is about to
    /// lead then, and this replica asks at once whether it may again.
    pub(super) fn lead_again(&mut self, now: Instant) {
        if self.is_electable() {
            self.election.deadline = now;
        }
    }

    /// When [`Paxos::on_election_deadline`] has something to do.
    pub(super) fn election_deadline(&self) -> Instant {
        match self.role {
            Role::Candidate => self.election.deadline.min(self.election.repeat_at),
            _ => self.election.deadline,
        }
    }

    /// Nothing was heard for too long.
    pub(super) fn on_election_deadline(&mut self, now: Instant, out: &mut Outputs) {
        if now < self.election.deadline {
            return self.repeat_prepare(now);
        }
        let closed = self.leader.is_some() && self.election.closed;
        let again =
            self.election.attempts > 0 && self.election.occasion == Occasion::ConnectionClosed;
        let occasion = if closed || again {
            Occasion::ConnectionClosed
        } else {
            Occasion::Silence
        };
        self.role = Role::Follower;
        self.leader = None;
        self.preparation = None;
        self.election.contact = None;
        self.election.own_vote = None;
        self.election.deadline = now + self.election_delay();
        if self.election.attempts > 0 {
            // Perhaps it is cut off from the leader only.
            self.ask_anybody(now);
        }
        self.election.attempts += 1;
        if self.is_electable() {
            self.poll(now, occasion, out);
        }
    }

    /// Asks who would promise.
    pub(super) fn poll(&mut self, now: Instant, occasion: Occasion, out: &mut Outputs) {
        self.role = Role::PreCandidate;
        self.election.round = self.random.next_u64();
        self.election.occasion = occasion;
        self.election.granted = BTreeSet::from([self.config.id]);
        self.election.refused.clear();
        self.election.deadline = now + self.attempt_delay();
        if self.is_alone() {
            return self.campaign(now, occasion, out);
        }
        let epoch = ballot::above(self.epoch, self.config.id, self.membership(), occasion);
        self.election.asked = epoch;
        out.push(Output::Note(Note::Campaigning {
            epoch,
            pre_vote: true,
        }));
        let last = Position {
            slot: self.log.chosen(),
            epoch: self.epoch,
        };
        let body = Body::PreVote {
            round: self.election.round,
            last,
            occasion,
        };
        let message = Message::new(epoch, body);
        let membership = Arc::clone(&self.log.membership().1);
        for to in membership.all_voters().filter(|id| *id != self.config.id) {
            self.outbox.push(Letter {
                to,
                message: message.clone(),
                when_durable: false,
            });
        }
    }

    /// Begins a new ballot and asks for promises.
    pub(super) fn campaign(&mut self, now: Instant, occasion: Occasion, out: &mut Outputs) {
        assert!(self.is_electable(), "only who may lead campaigns");
        let epoch = ballot::above(self.epoch, self.config.id, self.membership(), occasion);
        self.enter_epoch(now, epoch, "it campaigns anew", out);
        self.role = Role::Candidate;
        self.vote = Some(self.config.id);
        self.election.occasion = occasion;
        self.election.granted.clear();
        self.election.refused.clear();
        self.election.deadline = now + self.election_delay();
        out.push(Output::Note(Note::Campaigning {
            epoch: self.epoch,
            pre_vote: false,
        }));
        self.prepare(now);
    }

    /// The write that holds this replica's promise to itself has been given.
    pub(super) fn vote_written(&mut self, mark: Mark) {
        if self.role == Role::Candidate && self.election.own_vote.is_none() {
            self.election.own_vote = Some(mark);
        }
    }

    /// Someone asks whether this replica would promise `epoch` to it. It knows that everything up
    /// to `chosen` is.
    pub(super) fn on_poll(
        &mut self,
        now: Instant,
        from: NodeId,
        epoch: Epoch,
        (round, chosen, occasion): (u64, Slot, Occasion),
    ) {
        let protected = self.protects_leader(now, from, occasion);
        // Who was removed does not know yet; who was added may know more than this replica.
        let belongs = self.membership().is_voter(from) || chosen > self.log.chosen();
        // Both ask at once, for the first time: who knows more, or the higher id, goes first.
        let mine_first = self.role == Role::PreCandidate
            && self.election.attempts <= 1
            && (self.log.chosen(), self.config.id) > (chosen, from);
        let may = epoch > self.epoch && !protected && belongs && self.may_promise();
        let granted = may && !mine_first && !self.precedes(now, chosen);
        if granted {
            self.make_way(now);
        }
        let epoch = if granted { epoch } else { self.epoch };
        let message = Message::new(
            epoch,
            Body::PreVoteReply {
                round,
                granted,
                ahead: None,
            },
        );
        self.outbox.push(Letter {
            to: from,
            message,
            when_durable: false,
        });
    }

    /// Whether this replica should try before someone who is so far behind that it would first
    /// have to be brought up: once, because it may reach fewer.
    fn precedes(&mut self, now: Instant, chosen: Slot) -> bool {
        let far = chosen.0 + self.limits().window_entries < self.log.chosen().0;
        let often = self.config.election_timeout * 4;
        let preceded = self.election.preceded_at;
        let recently = preceded.is_some_and(|preceded_at| now.since(preceded_at) < often);
        if !far || recently || !self.is_electable() {
            return false;
        }
        self.election.preceded_at = Some(now);
        if self.role == Role::Follower {
            let soon = now + self.random_part(self.config.heartbeat_interval / 2);
            self.election.deadline = self.election.deadline.min(soon);
        }
        true
    }

    /// Lets another's attempt go first, but not again and again.
    fn make_way(&mut self, now: Instant) {
        let often = self.config.election_timeout * 2;
        let yielded = self.election.yielded_at;
        if yielded.is_some_and(|yielded_at| now.since(yielded_at) < often) {
            return;
        }
        if matches!(self.role, Role::Follower | Role::PreCandidate) {
            self.role = Role::Follower;
            self.election.yielded_at = Some(now);
            let later = now + self.attempt_delay();
            self.election.deadline = self.election.deadline.max(later);
        }
    }

    /// An answer to [`Paxos::poll`]; only a refusal speaks of the answerer's own ballot.
    pub(super) fn on_poll_reply(
        &mut self,
        now: Instant,
        from: NodeId,
        epoch: Epoch,
        round: u64,
        granted: bool,
        out: &mut Outputs,
    ) {
        // It may have lost its vote, or begun to take in a snapshot, since it asked.
        let is_asking = self.role == Role::PreCandidate && round == self.election.round;
        if !is_asking || !self.is_electable() {
            return;
        }
        if !granted {
            if epoch >= self.election.asked {
                // It promised a ballot at least as high as the one asked for: ask above it.
                self.enter_epoch(now, epoch, "a higher ballot was seen", out);
                self.election.deadline = now + self.attempt_delay();
                return;
            }
            return self.count_refusal(now, from);
        }
        self.election.granted.insert(from);
        let granted = |id: NodeId| self.election.granted.contains(&id);
        if self.membership().elects(granted) && self.membership().commits(granted) {
            self.campaign(now, self.election.occasion, out);
        }
    }

    /// If so many refused that no quorum is left, there is no use in waiting.
    pub(super) fn count_refusal(&mut self, now: Instant, from: NodeId) {
        self.election.refused.insert(from);
        let left = |id: NodeId| !self.election.refused.contains(&id);
        if !self.membership().elects(left) {
            self.role = Role::Follower;
            self.preparation = None;
            self.election.own_vote = None;
            self.election.deadline = now + self.attempt_delay();
        }
    }

    /// Someone asks for a promise, or for more of what was told with one.
    pub(super) fn on_prepare(
        &mut self,
        now: Instant,
        from: NodeId,
        epoch: Epoch,
        first: Slot,
        occasion: Occasion,
        out: &mut Outputs,
    ) {
        let promised = epoch == self.epoch && self.vote == Some(from);
        if epoch < self.epoch && mutant::is_on(Mutant::VoteTwice) {
            let promised = std::mem::replace(&mut self.epoch, epoch);
            self.tell_accepted(from, first);
            self.epoch = promised;
            return;
        }
        if epoch < self.epoch || (!promised && self.protects_leader(now, from, occasion)) {
            // A refusal in the asker's own ballot commits this replica to nothing.
            return self.refuse_promise(from, first, epoch.max(self.epoch));
        }
        if epoch > self.epoch {
            self.enter_epoch(now, epoch, "another campaigns", out);
        }
        let free = self.vote.is_none() || self.vote == Some(from);
        if !free || !self.may_promise() {
            return self.refuse_promise(from, first, self.epoch);
        }
        if self.vote.is_none() {
            self.vote = Some(from);
            self.hard_state_changed = true;
            self.election.deadline = now + self.election_delay();
            self.election.told_from = first;
        } else if first > self.election.told_from {
            // The candidate has heard the piece before. To campaign meanwhile would undo all of it,
            // and the same would happen to the next one; the log bounds how often this is so.
            let delay = self.election_delay();
            self.election.deadline = self.election.deadline.max(now + delay);
            self.election.told_from = first;
        }
        self.tell_accepted(from, first);
    }

    /// The leader's process closed its connection.
    pub(super) fn on_connection_closed(&mut self, now: Instant, peer: NodeId) {
        if self.leader == Some(peer) && self.role == Role::Follower && self.is_electable() {
            self.election.closed = true;
            let soon = now + self.random_part(self.config.heartbeat_interval / 2);
            self.election.deadline = self.election.deadline.min(soon);
        }
    }

    /// A connection to a peer is up again.
    pub(super) fn on_reachable(&mut self, now: Instant, peer: NodeId) {
        if self.leader == Some(peer) && self.election.closed {
            self.election.closed = false;
            self.election.deadline = now + self.election_delay();
        }
    }

    /// The leader says that it leads no more: nobody protects it.
    pub(super) fn hear_abdication(&mut self, now: Instant, from: NodeId) {
        if self.leader != Some(from) || self.leading.is_some() {
            return;
        }
        self.leader = None;
        self.election.contact = None;
        if self.is_electable() {
            let soon = now + self.random_part(self.config.heartbeat_interval / 2);
            self.election.deadline = self.election.deadline.min(soon);
        }
    }

    fn refuse_promise(&mut self, to: NodeId, first: Slot, epoch: Epoch) {
        let body = PaxosBody::Promise {
            granted: false,
            first,
            next: Slot(0),
            chosen: Slot(0),
            accepted: Vec::new(),
        };
        let message = Message::new(epoch, Body::Paxos(body));
        self.outbox.push(Letter {
            to,
            message,
            when_durable: false,
        });
    }
}
