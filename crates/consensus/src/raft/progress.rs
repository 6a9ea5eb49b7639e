//! What a leader knows about one peer, and what it may send it.
//!
//! ```text
//!              answer: received up to the probe
//!   ┌───────┐ ─────────────────────────────────▶ ┌───────────┐
//!   │ Probe │                                    │ Replicate │
//!   └───────┘ ◀───────────────────────────────── └───────────┘
//!     │   ▲     rejected, or entries were lost          │
//!     │   │ the peer has what the log begins with       │
//!     │   └───────────┐                                 │
//!     │           ┌──────────┐                          │
//!     └─────────▶ │ Snapshot │ ◀────────────────────────┘
//!                 └──────────┘  the peer needs what the log no longer holds
//! ```
//!
//! In *Probe* one message is on its way at a time; in *Replicate* entries are sent as they come,
//! within a window of bytes and messages that the peer has not made durable; in *Snapshot* a
//! checkpoint is sent. What was lost shows by heartbeats: each names a position, and the answer
//! says how far the peer has come, so that nothing needs a timer of its own.

use std::collections::VecDeque;

use base::{Instant, Slot};

use crate::contact::{Contact, Followed};
use crate::limits::Limits;
use crate::snapshot::Sender;

/// How entries reach the peer.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Looking for the end of what both logs share; `paused` while a message is on its way.
    Probe {
        /// A message is on its way.
        paused: bool,
    },
    /// Sending as entries come.
    Replicate,
    /// Sending a checkpoint.
    Snapshot(Sender),
}

/// A message on its way, not yet durable at the peer.
#[derive(Clone, Copy, Debug)]
struct Inflight {
    last: Slot,
    bytes: u64,
}

/// What is known about one peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// What both engines keep of it.
    pub(crate) contact: Contact,
    /// How entries reach it.
    pub(crate) state: State,
    /// The next slot to send.
    pub(crate) next: Slot,
    /// Everything up to here is equal and durable there.
    pub(crate) matched: Slot,
    /// The last heartbeat: its round, and the last slot that had been sent.
    pub(crate) heartbeat: (u64, Slot),
    /// Waits for entries fetched from this slot on.
    pub(crate) fetching: Option<Slot>,
    inflight: VecDeque<Inflight>,
    inflight_bytes: u64,
}

impl Followed for Peer {
    fn contact(&self) -> &Contact {
        &self.contact
    }

    fn contact_mut(&mut self) -> &mut Contact {
        &mut self.contact
    }

    fn durable(&self) -> Slot {
        self.matched
    }
}

impl Peer {
    /// A peer of which nothing is known; `next` is a guess.
    pub(crate) fn new(session: u64, next: Slot, is_witness: bool, now: Instant) -> Peer {
        Peer {
            contact: Contact::new(session, is_witness, now),
            state: State::Probe { paused: false },
            next,
            matched: Slot(0),
            heartbeat: (0, Slot(0)),
            fetching: None,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
        }
    }

    /// Nothing that it acknowledged before counts any more: it said that it lost entries.
    pub(crate) fn start_over(&mut self, session: u64, next: Slot) {
        self.contact.session = session;
        self.matched = Slot(0);
        self.probe(next);
    }

    /// Looks for common ground before `next`.
    pub(crate) fn probe(&mut self, next: Slot) {
        assert!(next > self.matched, "what matches is not sent again");
        self.state = State::Probe { paused: false };
        self.next = next;
        self.fetching = None;
        self.inflight.clear();
        self.inflight_bytes = 0;
    }

    /// It holds everything up to `received`: from here on, entries are sent as they come.
    pub(crate) fn replicate(&mut self, received: Slot) {
        self.probe(received.max(self.matched).next());
        self.state = State::Replicate;
    }

    /// Sends a checkpoint from now on.
    pub(crate) fn send_snapshot(&mut self, sender: Sender) {
        self.probe(self.matched.next().max(self.next));
        self.state = State::Snapshot(sender);
    }

    /// Whether entries may be sent now.
    pub(crate) fn has_room(&self, limits: &Limits) -> bool {
        match self.state {
            State::Probe { paused } => !paused,
            State::Replicate => {
                self.inflight.len() < limits.inflight_messages
                    && self.inflight_bytes < limits.inflight_bytes
            }
            State::Snapshot(_) => false,
        }
    }

    /// Entries up to `last` were sent.
    pub(crate) fn sent(&mut self, last: Slot, bytes: u64) {
        match &mut self.state {
            State::Probe { paused } => *paused = true,
            State::Replicate => {
                assert!(last >= self.next, "only what is next is sent");
                self.next = last.next();
                self.inflight.push_back(Inflight { last, bytes });
                self.inflight_bytes += bytes;
            }
            State::Snapshot(_) => unreachable!("no entries are sent beside a snapshot"),
        }
    }

    /// Everything up to `matched` is durable there.
    pub(crate) fn acknowledged(&mut self, matched: Slot) {
        self.matched = self.matched.max(matched);
        self.release(self.matched);
        if self.next <= self.matched {
            self.next = self.matched.next();
            self.fetching = None;
        }
    }

    /// Nothing up to `slot` is on its way any more.
    pub(crate) fn release(&mut self, slot: Slot) {
        while self
            .inflight
            .front()
            .is_some_and(|message| message.last <= slot)
        {
            let message = self.inflight.pop_front().expect("the front is there");
            self.inflight_bytes -= message.bytes;
        }
    }
}
