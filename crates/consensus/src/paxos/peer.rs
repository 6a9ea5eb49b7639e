//! What a leader knows about one peer, and what is on its way to it.
//!
//! ```text
//!   acked (durable there)     on their way, in messages          next
//!  ──────────────────────┼──[11..14]──[15..15]──[16..19]──┼──────────────▶ proposed
//! ```
//!
//! Messages may be lost and overtake each other, so each is remembered until everything in it is
//! acknowledged. One is sent again when the peer has what was sent behind it, or answered a later
//! heartbeat, and it has been under way for longer than an answer takes: a message that was merely
//! overtaken is left its time.

use std::collections::VecDeque;
use std::time::Duration;

use base::{Instant, Slot};

use crate::limits::Limits;
use crate::slots::Slots;

/// A message on its way: a run of slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) first: Slot,
    pub(super) last: Slot,
    bytes: u64,
    sent_at: Instant,
    /// It was sent more than once, so that an answer says nothing about how long one takes.
    repeated: bool,
    /// It is to be sent again.
    pub(super) is_lost: bool,
}

/// What is known about one peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// The replication session; answers that name another do not count.
    pub(super) session: u64,
    /// What it accepted under this ballot, durably.
    pub(super) acked: Slots,
    /// What it has received under this ballot.
    pub(super) received: Slots,
    /// It has answered in this session.
    pub(super) is_known: bool,
    /// The next slot to send.
    pub(super) next: Slot,
    /// When an answer in this ballot last arrived.
    pub(super) last_heard: Option<Instant>,
    /// The highest round that it named.
    pub(super) round: u64,
    /// The last heartbeat: its round, and the last slot that had been sent.
    pub(super) heartbeat: (u64, Slot),
    /// A heartbeat is to be sent in this pass.
    pub(super) heartbeat_due: bool,
    /// What it was last told is chosen.
    pub(super) chosen_told: Slot,
    /// It was removed, and is only told so: since when.
    pub(super) departing_since: Option<Instant>,
    flights: VecDeque<Flight>,
    flight_bytes: u64,
    /// How long an answer takes, smoothed.
    answer_time: Duration,
}

impl Peer {
    /// A peer of which nothing is known; it may have everything before `next`.
    pub(super) fn new(session: u64, next: Slot, answer_time: Duration) -> Peer {
        Peer {
            session,
            acked: Slots::default(),
            received: Slots::default(),
            is_known: false,
            next,
            last_heard: None,
            round: 0,
            heartbeat: (0, Slot(0)),
            heartbeat_due: true,
            chosen_told: Slot(0),
            departing_since: None,
            flights: VecDeque::new(),
            flight_bytes: 0,
            answer_time,
        }
    }

    /// Nothing that it acknowledged before counts any more: it said that it lost something.
    pub(super) fn start_over(&mut self, session: u64, next: Slot) {
        self.session = session;
        self.acked = Slots::default();
        self.received = Slots::default();
        self.is_known = false;
        self.heartbeat_due = true;
        self.send_from(next);
    }

    /// Forgets what is on its way and sends everything from `next` on.
    pub(super) fn send_from(&mut self, next: Slot) {
        self.next = next;
        self.flights.clear();
        self.flight_bytes = 0;
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
            repeated: false,
            is_lost: false,
        });
    }

    /// It answered: what it has, and what of that is durable. Returns whether that tells anything.
    pub(super) fn answered(&mut self, received: &Slots, durable: &Slots, now: Instant) {
        self.received.merge(received);
        self.acked.merge(durable);
        while let Some(flight) = self.flights.front() {
            if self.acked.run_end(flight.first) < flight.last {
                break;
            }
            if !flight.repeated {
                let taken = now.since(flight.sent_at);
                self.answer_time = (self.answer_time * 7 + taken) / 8;
            }
            self.flight_bytes -= flight.bytes;
            self.flights.pop_front();
        }
        if self.next <= self.received.upto() {
            self.next = self.received.upto().next();
        }
    }

    /// Marks what must have been lost: it was sent long enough ago, and either before something
    /// that arrived, or before the heartbeat that is answered (up to `heartbeat`).
    pub(super) fn find_lost(
        &mut self,
        received: &Slots,
        heartbeat: Slot,
        longest: Duration,
        now: Instant,
    ) {
        let highest = received.highest();
        if self.flights.is_empty() || received.upto() >= highest.max(heartbeat) {
            return;
        }
        let patience = (self.answer_time * 2).min(longest);
        for flight in &mut self.flights {
            if flight.first > highest && flight.last > heartbeat {
                break;
            }
            if received.run_end(flight.first) < flight.last && now.since(flight.sent_at) >= patience
            {
                flight.is_lost = true;
            }
        }
    }

    /// Whether the slot is in a message on its way.
    pub(super) fn is_under_way(&self, slot: Slot) -> bool {
        let mut flights = self.flights.iter();
        flights.any(|flight| flight.first <= slot && slot <= flight.last)
    }

    /// Takes the messages that are to be sent again, as runs of slots, for `repeat`; those for
    /// which it returns false are forgotten.
    pub(super) fn repeat_lost(&mut self, now: Instant, mut repeat: impl FnMut(Slot, Slot) -> bool) {
        let mut forgotten = 0;
        self.flights.retain_mut(|flight| {
            if !flight.is_lost {
                return true;
            }
            flight.is_lost = false;
            flight.repeated = true;
            flight.sent_at = now;
            let stays = repeat(flight.first, flight.last);
            forgotten += if stays { 0 } else { flight.bytes };
            stays
        });
        self.flight_bytes -= forgotten;
    }

    /// Whether anything is to be sent again.
    pub(super) fn has_lost(&self) -> bool {
        self.flights.iter().any(|flight| flight.is_lost)
    }
}
