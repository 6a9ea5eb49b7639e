//! What a leader knows about one peer, and what is on its way to it.
//!
//! ```text
//!   acked (durable there)     on their way, in messages          next
//!  ──────────────────────┼──[11..14]──[15..15]──[16..19]──┼──────────────▶ proposed
//! ```
//!
//! Messages may be lost and overtake each other, so each is remembered until everything in it is
//! acknowledged. Two things tell of a loss:
//!
//! - *an answer*: the peer has something that was sent behind it, or answers a later heartbeat. A
//!   message that was merely overtaken is left a part of the time that an answer takes, and is then
//!   sent again, once per sign: what was sent behind the repetition must have arrived before it is
//!   sent a third time;
//! - *silence*: the first message on its way is not acknowledged for twice the time that answers
//!   take, or longer if that varies (`answer_time.rs`). Either it or the answer was lost, so the
//!   peer is asked what it has, and given a little of what it is not known to have. Each further
//!   question waits twice as long (TCP does the same, RFC 6298, and Karn's rule is kept: only what
//!   was sent once is measured). Once that is as long as a heartbeat interval there are no more
//!   questions, because heartbeats ask the same: who is dead costs a few messages.

use std::collections::VecDeque;
use std::time::Duration;

use base::{Instant, Slot};

use crate::contact::{Contact, Followed};
use crate::limits::Limits;
use crate::paxos::answer_time::AnswerTime;
use crate::slots::Slots;

/// A message on its way: a run of slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) first: Slot,
    pub(super) last: Slot,
    bytes: u64,
    sent_at: Instant,
    /// The last slot that had been sent when it was, or was sent again.
    behind: Slot,
    /// The last heartbeat before it, or in the same message.
    after_round: u64,
    /// How often it was sent again. If it was, an answer says nothing about how long one takes.
    repeats: u32,
    /// What was sent behind it arrived before it.
    is_overtaken: bool,
    /// It is to be sent again.
    is_lost: bool,
}

/// How long a leader waits before it takes a message for lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Silence shorter than this is no sign.
    pub(super) least: Duration,
    /// What takes this long is left to heartbeats.
    pub(super) most: Duration,
    /// How much is sent again with a question, in bytes.
    pub(super) repeat_bytes: u64,
}

/// What was overtaken is left this part of the time that an answer takes: most of what it may be
/// late is over when the answer that tells of it is here.
const OVERTAKEN_PART: u32 = 8;

/// What is known about one peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// What both engines keep of it.
    pub(super) contact: Contact,
    /// What it accepted under this ballot, durably.
    pub(super) acked: Slots,
    /// What it has received under this ballot.
    pub(super) received: Slots,
    /// It has answered in this session.
    pub(super) is_known: bool,
    /// The next slot to send.
    pub(super) next: Slot,
    /// The round of the last heartbeat.
    pub(super) heartbeat: u64,
    flights: VecDeque<Flight>,
    flight_bytes: u64,
    answer_time: AnswerTime,
    /// Something on its way is overtaken.
    has_overtaken: bool,
    /// When it was last asked because of its silence, and how often since an answer was measured.
    asked_at: Instant,
    questions: u32,
}

impl Followed for Peer {
    fn contact(&self) -> &Contact {
        &self.contact
    }

    fn contact_mut(&mut self) -> &mut Contact {
        &mut self.contact
    }

    fn durable(&self) -> Slot {
        self.acked.upto()
    }
}

impl Peer {
    /// A peer of which nothing is known; it may have everything before `next`.
    pub(super) fn new(
        session: u64,
        next: Slot,
        answer_time: Duration,
        is_witness: bool,
        now: Instant,
    ) -> Peer {
        Peer {
            contact: Contact::new(session, is_witness, now),
            acked: Slots::default(),
            received: Slots::default(),
            is_known: false,
            next,
            heartbeat: 0,
            flights: VecDeque::new(),
            flight_bytes: 0,
            answer_time: AnswerTime::guessed(answer_time),
            has_overtaken: false,
            asked_at: Instant(0),
            questions: 0,
        }
    }

    /// Whether everything that was sent is acknowledged.
    pub(super) fn has_nothing_under_way(&self) -> bool {
        self.flights.is_empty()
    }

    /// Nothing that it acknowledged before counts any more: it said that it lost something.
    pub(super) fn start_over(&mut self, session: u64, next: Slot) {
        self.contact.session = session;
        self.acked = Slots::default();
        self.received = Slots::default();
        self.is_known = false;
        self.contact.heartbeat_due = true;
        self.send_from(next);
    }

    /// Forgets what is on its way and sends everything from `next` on.
    pub(super) fn send_from(&mut self, next: Slot) {
        self.next = next;
        self.flights.clear();
        self.flight_bytes = 0;
        self.has_overtaken = false;
    }

    /// Whether another message may be on its way.
    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        self.flights.len() < limits.inflight_messages && self.flight_bytes < limits.inflight_bytes
    }

    /// The slots `first..=last` were sent.
    pub(super) fn sent(&mut self, first: Slot, last: Slot, bytes: u64, now: Instant) {
        self.next = last.next();
        self.flight_bytes += bytes;
        self.flights.push_back(Flight {
            first,
            last,
            bytes,
            sent_at: now,
            behind: last,
            after_round: self.heartbeat,
            repeats: 0,
            is_overtaken: false,
            is_lost: false,
        });
    }

    /// It answered: what it has, and what of that is durable. An answer to the last heartbeat says
    /// all that it has: what else it had received it has lost, with its process.
    pub(super) fn answered(
        &mut self,
        received: &Slots,
        durable: &Slots,
        is_newest: bool,
        now: Instant,
    ) {
        self.acked.merge(durable);
        match is_newest {
            true => {
                self.received.clone_from(received);
                self.received.merge(&self.acked);
            }
            false => self.received.merge(received),
        }
        while let Some(flight) = self.flights.front() {
            if self.acked.run_end(flight.first) < flight.last {
                break;
            }
            let flight = self.flights.pop_front().expect("the front is there");
            self.arrived(&flight, now);
        }
        if self.acked.highest() > self.acked.upto() {
            let mut flights = std::mem::take(&mut self.flights);
            flights.retain(|flight| {
                let is_acked = self.acked.run_end(flight.first) >= flight.last;
                if is_acked {
                    self.arrived(flight, now);
                }
                !is_acked
            });
            self.flights = flights;
        }
        if self.next <= self.received.upto() {
            self.next = self.received.upto().next();
        }
    }

    /// What it has received is on its way no more, though it acknowledges nothing.
    pub(super) fn release(&mut self, received: &Slots) {
        let flight_bytes = &mut self.flight_bytes;
        self.flights.retain(|flight| {
            let is_under_way = received.run_end(flight.first) < flight.last;
            if !is_under_way {
                *flight_bytes -= flight.bytes;
            }
            is_under_way
        });
    }

    /// A message is acknowledged.
    fn arrived(&mut self, flight: &Flight, now: Instant) {
        self.flight_bytes -= flight.bytes;
        if flight.repeats > 0 {
            return;
        }
        self.answer_time.measured(now.since(flight.sent_at));
        self.questions = 0;
    }

    /// Finds what was overtaken: by something that is in `received`, which is what this answer
    /// names, or by the heartbeat of the round that it answers. What the peer said before does not
    /// count against that: it may have died since, with what it had not written.
    pub(super) fn find_overtaken(&mut self, received: &Slots, round: u64) {
        let highest = received.highest();
        if highest == received.upto() && round == 0 && !self.has_overtaken {
            return;
        }
        for flight in &mut self.flights {
            let has = |slots: &Slots| slots.run_end(flight.first) >= flight.last;
            if has(received) {
                flight.is_overtaken = false;
            } else if round > flight.after_round
                || (highest > flight.behind && !has(&self.received))
            {
                flight.is_overtaken = true;
                self.has_overtaken = true;
            }
        }
    }

    /// How long answers take, at the shortest that counts.
    fn usual(&self, patience: Patience) -> Duration {
        self.answer_time.usual().max(patience.least)
    }

    /// When what was overtaken is to be sent again. Who does not take it, for whatever reason, is
    /// not flooded with it: each time it waits longer.
    fn repeat_at(flight: &Flight, usual: Duration, patience: Patience) -> Instant {
        let wait = match flight.repeats {
            0 => usual / OVERTAKEN_PART,
            more => usual.saturating_mul(1 << more.min(16)),
        };
        flight.sent_at + wait.min(patience.most)
    }

    /// When the silence about the first message on its way is to be broken.
    fn question_at(&self, patience: Patience) -> Option<Instant> {
        let flight = self.flights.front().filter(|flight| !flight.is_lost)?;
        let usual = self.answer_time.silence().max(patience.least);
        let wait = usual.saturating_mul(1 << self.questions.min(16));
        (wait < patience.most).then(|| flight.sent_at.max(self.asked_at) + wait)
    }

    /// When to look for losses.
    pub(super) fn deadline(&self, patience: Patience) -> Option<Instant> {
        let question_at = self.question_at(patience);
        if !self.has_overtaken {
            return question_at;
        }
        let usual = self.usual(patience);
        let overtaken = self.flights.iter().filter(|flight| flight.is_overtaken);
        let repeat_at = overtaken.map(|flight| Peer::repeat_at(flight, usual, patience));
        let repeat_at = repeat_at.min();
        question_at.into_iter().chain(repeat_at).min()
    }

    /// Marks what was overtaken and had time enough. What was sent behind it and is not known to
    /// have arrived goes with it, once and within bounds: where one message is late others are, and
    /// all of them in one arrive together.
    fn repeat_overtaken(&mut self, patience: Patience, now: Instant) {
        let usual = self.usual(patience);
        self.has_overtaken = false;
        let mut company = None;
        for flight in &mut self.flights {
            if flight.is_overtaken && now >= Peer::repeat_at(flight, usual, patience) {
                flight.is_overtaken = false;
                flight.is_lost = true;
                company.get_or_insert(0);
            }
            self.has_overtaken |= flight.is_overtaken;
            let is_there = self.received.run_end(flight.first) >= flight.last;
            if let Some(bytes) = company.as_mut().filter(|_| !flight.is_lost && !is_there) {
                *bytes += flight.bytes;
                flight.is_lost = flight.repeats == 0 && *bytes <= patience.repeat_bytes;
            }
        }
    }

    /// Marks what has to be sent again. Returns whether the peer is to be asked what it has.
    pub(super) fn find_lost(&mut self, patience: Patience, now: Instant) -> bool {
        if self.has_overtaken {
            self.repeat_overtaken(patience, now);
        }
        let question_at = self.question_at(patience);
        if question_at.is_none_or(|question_at| now < question_at) {
            return false;
        }
        self.asked_at = now;
        self.questions += 1;
        let mut bytes = 0;
        for flight in &mut self.flights {
            bytes += flight.bytes;
            if bytes > patience.repeat_bytes {
                break;
            }
            flight.is_lost |= self.received.run_end(flight.first) < flight.last;
        }
        true
    }

    /// Whether the slot is in a message on its way.
    pub(super) fn is_under_way(&self, slot: Slot) -> bool {
        let mut flights = self.flights.iter();
        flights.any(|flight| flight.first <= slot && slot <= flight.last)
    }

    /// Takes what is to be sent again, as runs of slots of at most `limit` bytes or one message.
    /// What begins before `from` is forgotten instead. They leave after the heartbeat of `round`,
    /// or with it.
    pub(super) fn repeat_lost(
        &mut self,
        now: Instant,
        round: u64,
        from: Slot,
        limit: u64,
    ) -> Vec<(Slot, Slot)> {
        let mut runs: Vec<(Slot, Slot)> = Vec::new();
        let (mut forgotten, mut bytes) = (0, 0);
        let behind = self.next.previous();
        self.flights.retain_mut(|flight| {
            if !flight.is_lost {
                return true;
            }
            if flight.first < from {
                forgotten += flight.bytes;
                return false;
            }
            flight.is_lost = false;
            flight.is_overtaken = false;
            flight.repeats += 1;
            flight.sent_at = now;
            flight.behind = flight.last.max(behind);
            flight.after_round = round;
            match runs.last_mut() {
                Some(run) if run.1.next() == flight.first && bytes + flight.bytes <= limit => {
                    run.1 = flight.last;
                    bytes += flight.bytes;
                }
                _ => {
                    runs.push((flight.first, flight.last));
                    bytes = flight.bytes;
                }
            }
            true
        });
        self.flight_bytes -= forgotten;
        runs
    }

    /// Whether anything is to be sent again.
    pub(super) fn has_lost(&self) -> bool {
        self.flights.iter().any(|flight| flight.is_lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up_to(slot: u64) -> Slots {
        let mut slots = Slots::default();
        slots.insert(Slot(1), Slot(slot));
        slots
    }

    /// It lacks something before what it was sent, and dies with what it has received and not
    /// written.
    #[test]
    fn what_was_received_and_lost_is_sent_once_more() {
        let (now, usual) = (Instant(0), Duration::from_millis(1));
        let mut peer = Peer::new(1, Slot(11), usual, false, now);
        peer.heartbeat = 1;
        peer.sent(Slot(11), Slot(20), 10, now);
        let mut received = up_to(5);
        received.insert(Slot(11), Slot(20));
        peer.answered(&received, &up_to(5), true, now);
        peer.send_from(Slot(6));
        // It is back.
        peer.heartbeat = 2;
        peer.answered(&up_to(5), &up_to(5), true, now);
        peer.send_from(Slot(6));
        peer.sent(Slot(6), Slot(10), 5, now);
        peer.answered(&up_to(10), &up_to(10), false, now);
        assert_eq!(peer.next, Slot(11));
    }
}
