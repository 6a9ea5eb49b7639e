//! Read rounds in Paxos: when one may begin, and what it proves.
//!
//! A leader knows everything that may have been chosen before it once it has proposed what phase 1
//! found and that is chosen; no round begins before. A round is proven by a committing quorum that
//! named its number: none of them had promised a higher ballot by then, so no later leader had an
//! electing quorum, and nothing was chosen without this leader knowing.

use base::mutant::{self, Mutant};
use base::{Instant, NodeId, Slot};

use crate::engine::{Output, Outputs, Refusal, Ticket};
use crate::message::Body;
use crate::paxos::Paxos;
use crate::reads::Reader;

impl Paxos {
    /// Someone here asks for a round.
    pub(super) fn on_read(&mut self, now: Instant, ticket: Ticket, out: &mut Outputs) {
        let limit = self.config.limits.waiting_reads;
        if let Some(leading) = &mut self.leading {
            if leading.reads.len() >= limit {
                return self.refuse(ticket, Refusal::WindowFull, out);
            }
            leading.reads.ask(Reader::Local(ticket), now);
        } else if self.leader.is_none() {
            self.refuse(ticket, Refusal::NotLeader, out);
        } else if self.forwards.len() >= limit {
            self.refuse(ticket, Refusal::WindowFull, out);
        } else {
            self.forwards.ask(ticket, now);
        }
    }

    /// A follower asks for a round.
    pub(super) fn on_read_round(&mut self, now: Instant, from: NodeId, id: u64) {
        let limit = self.config.limits.waiting_reads;
        match &mut self.leading {
            Some(leading) if leading.reads.len() < limit => {
                leading.reads.ask(Reader::Remote(from, id), now);
            }
            _ => self.post(from, Body::ReadRoundReply { id, slot: None }, false),
        }
    }

    /// Begins a round if somebody waits and none is under way.
    pub(super) fn begin_read_round(&mut self, out: &mut Outputs) {
        let chosen = self.log.chosen();
        let Some(leading) = &mut self.leading else {
            return;
        };
        let is_ready = leading.first_open.is_some_and(|first| chosen >= first);
        if leading.reads.wants_round() && is_ready {
            let number = leading.begin_round();
            leading.reads.begin(number, chosen);
            self.finish_read_round(out);
        }
    }

    /// Ends the round under way if a quorum named it.
    pub(super) fn finish_read_round(&mut self, out: &mut Outputs) {
        let own = self.config.id;
        let Some(leading) = &self.leading else { return };
        let Some(number) = leading.reads.current() else {
            return;
        };
        let old = u64::from(mutant::is_on(Mutant::ReadOldRound));
        let named = |id: NodeId| {
            id == own
                || leading
                    .peers
                    .get(&id)
                    .is_some_and(|peer| peer.round + old >= number)
        };
        if !self.rule.commits(self.membership(), named) && !mutant::is_on(Mutant::ReadWithoutRound)
        {
            return;
        }
        let leading = self.leading.as_mut().expect("it leads");
        let round = leading.reads.finish().expect("a round is under way");
        for waiting in round.waiting {
            match waiting.reader {
                Reader::Local(ticket) => {
                    out.push(Output::ReadReady {
                        ticket,
                        slot: round.slot,
                    });
                }
                Reader::Remote(peer, id) => {
                    let slot = Some(round.slot);
                    self.post(peer, Body::ReadRoundReply { id, slot }, false);
                }
            }
        }
    }

    /// Tells a reader that nothing will come of it.
    pub(super) fn refuse_reader(&mut self, reader: Reader, reason: Refusal, out: &mut Outputs) {
        match reader {
            Reader::Local(ticket) => self.refuse(ticket, reason, out),
            Reader::Remote(peer, id) => {
                self.post(peer, Body::ReadRoundReply { id, slot: None }, false);
            }
        }
    }

    /// Sends what was asked to the leader, as one question. One under way goes to a new leader at
    /// once.
    pub(super) fn forward_reads(&mut self, now: Instant, out: &mut Outputs) {
        let moved = |to: NodeId| self.leader.is_some_and(|leader| leader != to);
        if self
            .forwards
            .question()
            .is_some_and(|asked| moved(asked.to))
        {
            return self.repeat_question(now);
        }
        if !self.forwards.wants_question() {
            return;
        }
        let Some(leader) = self.leader else {
            for asker in self.forwards.drain() {
                self.refuse(asker.ticket, Refusal::NotLeader, out);
            }
            return;
        };
        let id = self.random.next_u64();
        self.forwards.begin(id, leader, now);
        self.post(leader, Body::ReadRound { id }, false);
    }

    /// Sends the question under way once more. The number stays: those who asked later are not in
    /// it, so that an answer to any repetition is good for all who are.
    fn repeat_question(&mut self, now: Instant) {
        let leader = self.leader;
        if let Some(asked) = self.forwards.question() {
            asked.sent_at = now;
            asked.to = leader.unwrap_or(asked.to);
            let (to, id) = (asked.to, asked.id);
            self.post(to, Body::ReadRound { id }, false);
        }
    }

    /// The answer to a forwarded question.
    pub(super) fn on_read_round_reply(
        &mut self,
        from: NodeId,
        id: u64,
        slot: Option<Slot>,
        out: &mut Outputs,
    ) {
        let askers = self.forwards.answered(from, id).unwrap_or_default();
        for ticket in askers.into_iter().map(|asker| asker.ticket) {
            match slot {
                Some(slot) => out.push(Output::ReadReady { ticket, slot }),
                None => self.refuse(ticket, Refusal::NotLeader, out),
            }
        }
    }

    /// How long a read waits before it is refused.
    fn read_patience(&self) -> std::time::Duration {
        self.config.election_timeout * 2
    }

    /// When a forwarded question is to be repeated, or a waiting one refused.
    pub(super) fn read_deadline(&self) -> Option<Instant> {
        let repeat = self.config.heartbeat_interval;
        self.forwards.deadline(repeat, self.read_patience())
    }

    /// Repeats or refuses what waits too long.
    pub(super) fn on_read_deadline(&mut self, now: Instant, out: &mut Outputs) {
        let patience = self.read_patience();
        let oldest = Instant(
            now.0
                .saturating_sub(nanoseconds(patience))
                .saturating_add(1),
        );
        for asker in self.forwards.expire(oldest) {
            self.refuse(asker.ticket, Refusal::Abandoned, out);
        }
        let expired = self
            .leading
            .as_mut()
            .map(|leading| leading.reads.expire(oldest));
        for reader in expired.unwrap_or_default() {
            self.refuse_reader(reader, Refusal::Abandoned, out);
        }
        let repeat = self.config.heartbeat_interval;
        let asked = self.forwards.question();
        if asked.is_some_and(|asked| now.since(asked.sent_at) >= repeat) {
            self.repeat_question(now);
        }
    }
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
