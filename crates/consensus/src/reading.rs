//! Read rounds, whichever way the engine agrees: who waits, who is asked, who is answered.
//!
//! What a round proves, and when one may begin, is the engine's own and stands in its `reads.rs`:
//! [`Reading::readable`] and [`Reading::is_named`]. Everything around it is alike, and here. The
//! queues are in `reads.rs` beside this file.

use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{Instant, NodeId, Slot};

use crate::engine::{Output, Outputs, Refusal, Ticket};
use crate::message::Body;
use crate::reads::{Forwards, ReadRounds, Reader};
use crate::speaking::Speaking;

/// An engine that serves reads. What is required says where it stands; what is provided is done
/// with it.
pub(crate) trait Reading: Speaking {
    /// The rounds of a leader; none of others.
    fn rounds(&mut self) -> Option<&mut ReadRounds>;

    /// What was asked here and is the leader's to answer.
    fn forwards(&mut self) -> &mut Forwards;

    /// The same, to look at.
    fn asked(&self) -> &Forwards;

    /// What is chosen, if this replica leads and knows that nothing more was chosen before it led.
    fn readable(&self) -> Option<Slot>;

    /// Asks every peer to name a new number in this pass.
    fn begin_round(&mut self) -> u64;

    /// Whether a quorum named this number or a later one, so that nobody else led when the round
    /// began.
    fn is_named(&self, number: u64) -> bool;

    /// A number that nobody has used.
    fn draw(&mut self) -> u64;

    /// Someone here asks for a round.
    fn on_read(&mut self, now: Instant, ticket: Ticket, out: &mut Outputs) {
        let limit = self.config().limits.waiting_reads;
        if let Some(rounds) = self.rounds() {
            if rounds.len() >= limit {
                return self.refuse(ticket, Refusal::WindowFull, out);
            }
            rounds.ask(Reader::Local(ticket), now);
        } else if self.leader().is_none() {
            self.refuse(ticket, Refusal::NotLeader, out);
        } else if self.forwards().len() >= limit {
            self.refuse(ticket, Refusal::WindowFull, out);
        } else {
            self.forwards().ask(ticket, now);
        }
    }

    /// A follower asks for a round.
    fn on_read_round(&mut self, now: Instant, from: NodeId, id: u64) {
        let limit = self.config().limits.waiting_reads;
        match self.rounds() {
            Some(rounds) if rounds.len() < limit => rounds.ask(Reader::Remote(from, id), now),
            _ => self.post(from, Body::ReadRoundReply { id, slot: None }, false),
        }
    }

    /// Begins a round if somebody waits and none is under way.
    fn begin_read_round(&mut self, out: &mut Outputs) {
        if !self.rounds().is_some_and(|rounds| rounds.wants_round()) {
            return;
        }
        let Some(slot) = self.readable() else { return };
        let number = self.begin_round();
        if let Some(rounds) = self.rounds() {
            rounds.begin(number, slot);
        }
        self.finish_read_round(out);
    }

    /// Ends the round under way if a quorum named it.
    fn finish_read_round(&mut self, out: &mut Outputs) {
        let Some(number) = self.rounds().and_then(|rounds| rounds.current()) else {
            return;
        };
        let old = u64::from(mutant::is_on(Mutant::ReadOldRound));
        let is_proven = self.is_named(number.saturating_sub(old));
        if !is_proven && !mutant::is_on(Mutant::ReadWithoutRound) {
            return;
        }
        let Some(round) = self.rounds().and_then(ReadRounds::finish) else {
            return;
        };
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
    fn refuse_reader(&mut self, reader: Reader, reason: Refusal, out: &mut Outputs) {
        match reader {
            Reader::Local(ticket) => self.refuse(ticket, reason, out),
            Reader::Remote(peer, id) => {
                self.post(peer, Body::ReadRoundReply { id, slot: None }, false);
            }
        }
    }

    /// Sends what was asked to the leader, as one question. One under way goes to a new leader at
    /// once.
    fn forward_reads(&mut self, now: Instant, out: &mut Outputs) {
        let leader = self.leader();
        let has_moved = |to: NodeId| leader.is_some_and(|leader| leader != to);
        let asked = self.forwards().question();
        if asked.is_some_and(|asked| has_moved(asked.to)) {
            return self.repeat_question(now);
        }
        if !self.forwards().wants_question() {
            return;
        }
        let Some(leader) = leader else {
            for asker in self.forwards().drain() {
                self.refuse(asker.ticket, Refusal::NotLeader, out);
            }
            return;
        };
        let id = self.draw();
        self.forwards().begin(id, leader, now);
        self.post(leader, Body::ReadRound { id }, false);
    }

    /// Sends the question under way once more. The number stays: those who asked later are not in
    /// it, so that an answer to any repetition is good for all who are.
    fn repeat_question(&mut self, now: Instant) {
        let leader = self.leader();
        if let Some(asked) = self.forwards().question() {
            asked.sent_at = now;
            asked.to = leader.unwrap_or(asked.to);
            let (to, id) = (asked.to, asked.id);
            self.post(to, Body::ReadRound { id }, false);
        }
    }

    /// The answer to a forwarded question.
    fn on_read_round_reply(
        &mut self,
        from: NodeId,
        id: u64,
        slot: Option<Slot>,
        out: &mut Outputs,
    ) {
        let askers = self.forwards().answered(from, id).unwrap_or_default();
        for ticket in askers.into_iter().map(|asker| asker.ticket) {
            match slot {
                Some(slot) => out.push(Output::ReadReady { ticket, slot }),
                None => self.refuse(ticket, Refusal::NotLeader, out),
            }
        }
    }

    /// How long a read waits before it is refused.
    fn read_patience(&self) -> Duration {
        self.config().election_timeout * 2
    }

    /// When a forwarded question is to be repeated, or a waiting one refused.
    fn read_deadline(&self) -> Option<Instant> {
        let repeat = self.config().heartbeat_interval;
        let patience = self.read_patience();
        self.asked().deadline(repeat, patience)
    }

    /// Repeats or refuses what waits too long.
    fn on_read_deadline(&mut self, now: Instant, out: &mut Outputs) {
        let patience = self.read_patience();
        let oldest = Instant(
            now.0
                .saturating_sub(nanoseconds(patience))
                .saturating_add(1),
        );
        for asker in self.forwards().expire(oldest) {
            self.refuse(asker.ticket, Refusal::Abandoned, out);
        }
        let expired = self.rounds().map(|rounds| rounds.expire(oldest));
        for reader in expired.unwrap_or_default() {
            self.refuse_reader(reader, Refusal::Abandoned, out);
        }
        let repeat = self.config().heartbeat_interval;
        let asked = self.forwards().question();
        if asked.is_some_and(|asked| now.since(asked.sent_at) >= repeat) {
            self.repeat_question(now);
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
