//! Who leads.
//!
//! An election has two questions. *Would you vote for me?* (pre-vote, thesis section 9.6) costs
//! nobody anything: a replica that is merely cut off cannot push the epoch up, and comes back
//! without disturbing anyone. Only who would win asks *vote for me*, which begins a new epoch and
//! is answered once the vote is durable.
//!
//! Whoever heard a leader within the last election timeout refuses both questions: a leader that
//! reaches a quorum cannot be deposed by those it does not reach. Two occasions shorten this.
//! When the leader's process dies, its connections close at once on every replica; those that lost
//! theirs, or miss a heartbeat, need not wait. When the leader hands over, it said so itself.
//!
//! A lost request or answer must not cost an election: within a campaign, who has not answered is
//! asked once more per heartbeat interval. A vote that was given is given again.
//!
//! Deadlines are drawn at random so that seldom two ask at once. If they do, the one with the
//! better log, or the higher id, is preferred once; later attempts prefer nobody, because the
//! preferred one may be unable to hear its answers.

use std::collections::BTreeSet;
use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{Epoch, Instant, NodeId};

use crate::engine::{Mark, Note, Output, Outputs, Role};
use crate::message::{Body, Message, Occasion, Position};
use crate::patience;
use crate::raft::pulling::Ahead;
use crate::raft::{Letter, Raft};
use crate::speaking::Speaking;

/// A replica's part in elections.
#[derive(Clone, Debug)]
pub(crate) struct Election {
    /// When to act if nothing is heard.
    pub(crate) deadline: Instant,
    /// When a candidate asks those once more who have not answered.
    repeat_at: Instant,
    /// When the leader was last heard.
    pub(super) contact: Option<Instant>,
    /// The connection to the leader was closed by the leader's side, and nothing came since.
    closed: bool,
    /// A leader whose process has died, so that its vote is not waited for. Any word from it is
    /// proof of the contrary.
    gone: Option<NodeId>,
    /// Names the current pre-vote.
    round: u64,
    /// Elections tried since a leader was last heard.
    pub(super) attempts: u32,
    /// When this replica last put off its own attempt in favour of another's.
    yielded_at: Option<Instant>,
    occasion: Occasion,
    pub(super) granted: BTreeSet<NodeId>,
    pub(super) refused: BTreeSet<NodeId>,
    /// The own vote counts once this is durable.
    own_vote: Option<Mark>,
    /// The newest log that was named by who refused a pre-vote for its sake.
    pub(super) ahead: Option<Ahead>,
    /// What was asked of it, in this attempt.
    pub(super) pulled: Option<Position>,
}

impl Election {
    /// Nothing has happened; act at `deadline` if that stays so.
    pub(crate) fn new(deadline: Instant) -> Election {
        Election {
            deadline,
            repeat_at: deadline,
            contact: None,
            closed: false,
            gone: None,
            round: 0,
            attempts: 0,
            yielded_at: None,
            occasion: Occasion::Silence,
            granted: BTreeSet::new(),
            refused: BTreeSet::new(),
            own_vote: None,
            ahead: None,
            pulled: None,
        }
    }

    /// A peer has said something, or can be reached.
    #[inline]
    pub(super) fn heard(&mut self, from: NodeId) {
        if self.gone == Some(from) {
            self.gone = None;
        }
    }
}

impl Raft {
    /// Whether this replica may campaign and vote for itself. A witness could hand nobody an entry.
    pub(super) fn is_electable(&self) -> bool {
        self.membership().is_voter(self.config.id)
            && !self.is_witness()
            && self.uncertain.is_none()
            && !self.is_installing()
    }

    /// How long to wait for a leader.
    pub(super) fn election_delay(&mut self) -> Duration {
        patience::election_delay(&mut self.random, &self.config)
    }

    /// How long to wait between attempts.
    fn attempt_delay(&mut self) -> Duration {
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

    /// Whether a log that ends there holds everything that may have been chosen with the help of
    /// this one.
    fn is_complete(&self, candidate: Position) -> bool {
        let own = self.log.end();
        (candidate.epoch, candidate.slot) >= (own.epoch, own.slot)
            || mutant::is_on(Mutant::IgnoreCandidateLog)
    }

    /// The leader of this epoch speaks. Returns whether it may be listened to.
    ///
    /// A second leader in the same epoch would mean that elections are not safe. But one message
    /// proves only that somebody says so: it is dropped and told loudly, and stops nobody.
    pub(super) fn hear_leader(&mut self, now: Instant, from: NodeId, out: &mut Outputs) -> bool {
        if let Some(known) = self.leader.filter(|leader| *leader != from) {
            if self.membership().is_voter(from) {
                let (epoch, other) = (self.epoch, from);
                out.push(Output::Note(Note::TwoLeaders {
                    epoch,
                    known,
                    other,
                }));
            } else {
                self.drop_message(from, "a second leader that is no voter", out);
            }
            return false;
        }
        // `leader` names a leading replica itself, so that nothing above lets this pass.
        assert!(self.leading.is_none(), "a leader listens to no other");
        self.role = Role::Follower;
        self.leader = Some(from);
        self.election.contact = Some(now);
        self.election.closed = false;
        self.election.attempts = 0;
        self.election.deadline = now + self.election_delay();
        true
    }

    /// Moves to a later epoch: whatever this replica was, it follows, and has not voted.
    pub(super) fn enter_epoch(
        &mut self,
        now: Instant,
        epoch: Epoch,
        reason: &'static str,
        out: &mut Outputs,
    ) {
        assert!(epoch > self.epoch, "epochs only grow");
        self.step_down(now, reason, out);
        self.epoch = epoch;
        self.vote = None;
        self.hard_state_changed = true;
        self.following = super::Following::default();
    }

    /// Leads or campaigns no more; the epoch stays.
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
        self.election.contact = None;
        self.election.closed = false;
        self.election.own_vote = None;
    }

    /// This replica led until it heard of a later epoch from who is unsure of its log: it has lost
    /// its promises as well, and begins behind all that it may have given. Nobody else is about to
    /// lead then, and this replica asks at once whether it may again.
    pub(super) fn lead_again(&mut self, now: Instant) {
        if self.is_electable() {
            self.election.deadline = now;
        }
    }

    /// When [`Raft::on_election_deadline`] has something to do.
    pub(super) fn election_deadline(&self) -> Instant {
        let Election {
            deadline,
            repeat_at,
            ..
        } = self.election;
        match self.role {
            Role::Candidate => deadline.min(repeat_at),
            _ => deadline,
        }
    }

    /// Nothing was heard for too long.
    pub(super) fn on_election_deadline(&mut self, now: Instant, out: &mut Outputs) {
        if now < self.election.deadline {
            return self.repeat_votes(now);
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
        let before = self.leader.take();
        if closed {
            self.election.gone = before;
        }
        self.election.contact = None;
        self.election.deadline = now + self.election_delay();
        if self.is_electable() {
            self.ask_pre_votes(now, occasion, out);
        }
    }

    pub(super) fn ask_pre_votes(&mut self, now: Instant, occasion: Occasion, out: &mut Outputs) {
        let epoch = self.epoch.next();
        self.role = Role::PreCandidate;
        self.election.round = self.random.next_u64();
        self.election.attempts += 1;
        self.election.occasion = occasion;
        self.election.granted = BTreeSet::from([self.config.id]);
        self.election.refused.clear();
        (self.election.ahead, self.election.pulled) = (None, None);
        self.election.deadline = now + self.attempt_delay();
        if self.is_alone() {
            return self.campaign(now, occasion, out);
        }
        out.push(Output::Note(Note::Campaigning {
            epoch,
            pre_vote: true,
        }));
        let body = Body::PreVote {
            round: self.election.round,
            last: self.log.end(),
            occasion,
        };
        self.ask_voters(&Message::new(epoch, body), false);
    }

    /// Begins a new epoch and asks for votes in it.
    pub(super) fn campaign(&mut self, now: Instant, occasion: Occasion, out: &mut Outputs) {
        assert!(self.is_electable(), "only who may lead campaigns");
        self.enter_epoch(now, self.epoch.next(), "it campaigns anew", out);
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
        self.ask_for_votes(now, true);
    }

    fn ask_for_votes(&mut self, now: Instant, when_durable: bool) {
        self.election.repeat_at = now + self.config.heartbeat_interval;
        let body = Body::Vote {
            last: self.log.end(),
            occasion: self.election.occasion,
        };
        self.ask_voters(&Message::new(self.epoch, body), when_durable);
    }

    /// A candidate asks those once more who have not answered: question or answer may be lost.
    fn repeat_votes(&mut self, now: Instant) {
        if self.role != Role::Candidate || now < self.election.repeat_at {
            return;
        }
        let durable = |mark: Mark| self.journaling.is_durable(mark);
        if self.election.own_vote.is_some_and(durable) {
            return self.ask_for_votes(now, false);
        }
        // The first question still waits for the own vote to be durable.
        self.election.repeat_at = now + self.config.heartbeat_interval;
    }

    /// Asks all voters that have not answered yet.
    fn ask_voters(&mut self, message: &Message, when_durable: bool) {
        let membership = std::sync::Arc::clone(&self.log.membership().1);
        for to in membership.all_voters().filter(|id| *id != self.config.id) {
            if self.election.granted.contains(&to) || self.election.refused.contains(&to) {
                continue;
            }
            self.outbox.push(Letter {
                to,
                message: message.clone(),
                when_durable,
            });
        }
    }

    /// The write that holds this replica's vote for itself has been given.
    pub(super) fn vote_written(&mut self, mark: Mark) {
        if self.role == Role::Candidate && self.election.own_vote.is_none() {
            self.election.own_vote = Some(mark);
        }
    }

    /// Counts the own vote once it is durable.
    pub(super) fn count_own_vote(&mut self, now: Instant, out: &mut Outputs) {
        let durable = |mark: Mark| self.journaling.is_durable(mark);
        if self.role == Role::Candidate && self.election.own_vote.is_some_and(durable) {
            self.election.granted.insert(self.config.id);
            self.lead_if_elected(now, out);
        }
    }

    /// Someone asks whether this replica would vote for it in `epoch`.
    pub(super) fn on_pre_vote(
        &mut self,
        now: Instant,
        from: NodeId,
        epoch: Epoch,
        round: u64,
        last: Position,
        occasion: Occasion,
    ) {
        let protected = self.protects_leader(now, from, occasion);
        let complete = self.is_complete(last);
        // Both ask at once, for the first time: the better log or higher id goes first.
        let own = self.log.end();
        let mine_first = self.role == Role::PreCandidate
            && self.election.attempts <= 1
            && (own.epoch, own.slot, self.config.id) > (last.epoch, last.slot, from);
        let granted =
            epoch > self.epoch && complete && !protected && !mine_first && self.uncertain.is_none();
        if granted {
            self.make_way(now);
        } else if !protected && !complete && self.role == Role::Follower && self.is_electable() {
            // The asker cannot win with this replica's vote; this replica might.
            let soon = now + self.random_part(self.config.heartbeat_interval / 2);
            self.election.deadline = self.election.deadline.min(soon);
        }
        let epoch = if granted { epoch } else { self.epoch };
        let ahead = self.ahead_of(last).filter(|_| !granted && !protected);
        self.answer_pre_vote(from, epoch, round, granted, ahead);
    }

    /// Lets another's attempt go first, but not again and again.
    fn make_way(&mut self, now: Instant) {
        let often = self.config.election_timeout * 2;
        if self
            .election
            .yielded_at
            .is_some_and(|yielded_at| now.since(yielded_at) < often)
        {
            return;
        }
        if matches!(self.role, Role::Follower | Role::PreCandidate) {
            self.role = Role::Follower;
            self.election.yielded_at = Some(now);
            let later = now + self.attempt_delay();
            self.election.deadline = self.election.deadline.max(later);
        }
    }

    /// An answer to a pre-vote; only a refusal speaks of the answerer's own epoch.
    pub(super) fn on_pre_vote_reply(
        &mut self,
        now: Instant,
        from: NodeId,
        epoch: Epoch,
        round: u64,
        (granted, ahead): (bool, Option<Position>),
        out: &mut Outputs,
    ) {
        if !granted && epoch > self.epoch {
            return self.enter_epoch(now, epoch, "a higher epoch was seen", out);
        }
        if self.role != Role::PreCandidate || round != self.election.round {
            return;
        }
        if let Some(end) = ahead {
            self.note_ahead(from, end);
        }
        if !granted {
            self.election.refused.insert(from);
            self.pull_if_constrained();
            return self.count_refusal(now, from);
        }
        self.election.granted.insert(from);
        // Who could be elected and then choose nothing would only be in the way.
        let granted = |id: NodeId| self.election.granted.contains(&id);
        if self.membership().elects(granted) && self.membership().commits(granted) {
            return self.campaign(now, self.election.occasion, out);
        }
        self.pull_if_constrained();
    }

    /// If so many refused that no quorum is left, there is no use in waiting: neither for them nor
    /// for a leader that has died, without whom two that campaign at once may share the votes.
    fn count_refusal(&mut self, now: Instant, from: NodeId) {
        self.election.refused.insert(from);
        let Election {
            granted,
            refused,
            gone,
            ..
        } = &self.election;
        let may_grant = |id: NodeId| !refused.contains(&id) && *gone != Some(id);
        if !self
            .membership()
            .elects(|id| granted.contains(&id) || may_grant(id))
        {
            self.role = Role::Follower;
            self.election.own_vote = None;
            self.election.deadline = now + self.attempt_delay();
        }
    }

    /// Someone asks for this replica's vote in `epoch`.
    pub(super) fn on_vote(
        &mut self,
        now: Instant,
        from: NodeId,
        epoch: Epoch,
        last: Position,
        occasion: Occasion,
        out: &mut Outputs,
    ) {
        if epoch < self.epoch || self.protects_leader(now, from, occasion) {
            // A refusal in the asker's own epoch counts there, and commits this replica to nothing.
            let epoch = epoch.max(self.epoch);
            let message = Message::new(epoch, Body::VoteReply { granted: false });
            return self.outbox.push(Letter {
                to: from,
                message,
                when_durable: false,
            });
        }
        if epoch > self.epoch {
            self.enter_epoch(now, epoch, "another campaigns", out);
        }
        let free = self.vote.is_none() && self.leader.is_none()
            || self.vote == Some(from)
            || mutant::is_on(Mutant::VoteTwice);
        let granted = free && self.is_complete(last) && self.uncertain.is_none();
        if granted && self.vote.is_none() {
            self.vote = Some(from);
            self.hard_state_changed = true;
            self.election.deadline = now + self.election_delay();
        }
        let when_durable = granted && !mutant::is_on(Mutant::VoteBeforeSync);
        self.post(from, Body::VoteReply { granted }, when_durable);
    }

    /// An answer in this epoch.
    pub(super) fn on_vote_reply(
        &mut self,
        now: Instant,
        from: NodeId,
        granted: bool,
        out: &mut Outputs,
    ) {
        if self.role != Role::Candidate {
            return;
        }
        if granted {
            self.election.granted.insert(from);
            self.lead_if_elected(now, out);
        } else {
            self.count_refusal(now, from);
        }
    }

    fn lead_if_elected(&mut self, now: Instant, out: &mut Outputs) {
        let granted = &self.election.granted;
        let elected = self.membership().elects(|id| granted.contains(&id))
            || mutant::is_on(Mutant::CountVoteTwice)
                && granted.len() * 2 > self.membership().voters.len() / 2;
        if !elected {
            return;
        }
        assert!(
            self.vote == Some(self.config.id),
            "a leader voted for itself"
        );
        assert!(
            self.leader.is_none(),
            "epoch {} has a leader already",
            self.epoch
        );
        self.election.own_vote = None;
        self.election.attempts = 0;
        self.become_leader(now, out);
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
        self.election.heard(peer);
        if self.leader == Some(peer) && self.election.closed {
            self.election.closed = false;
            self.election.deadline = now + self.election_delay();
        }
    }
}
