//! Read rounds: finding a slot up to which a replica must execute before it may answer a
//! linearizable read (Raft thesis, section 6.4).
//!
//! ```text
//!   asked in this pass ──▶ collecting ──▶ current round ──▶ a quorum named it ──▶ ready
//!                             ▲  (begins when no round is current, with a fresh number)
//!                             └── asked while a round is current
//! ```
//!
//! A round is numbered by the leader, begins after everything that waits for it was asked, and is
//! never joined later, so that an acknowledgement of an older round or of the same round's
//! repetition can never vouch for a younger read. A follower does the same one step further out:
//! it forwards what was asked as one question under a random number, repeats it until it is
//! answered or given up, and collects meanwhile for the next.

use std::collections::BTreeSet;
use std::time::Duration;

use base::{Instant, NodeId, Slot};

use crate::engine::Ticket;

/// Who waits for a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Someone here.
    Local(Ticket),
    /// Another replica, with its own number.
    Remote(NodeId, u64),
}

/// A reader, and when it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) reader: Reader,
    pub(crate) since: Instant,
}

/// The round that is being acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// Its number.
    pub(crate) number: u64,
    /// What was chosen when it began.
    pub(crate) slot: Slot,
    /// Who waits for it.
    pub(crate) waiting: Vec<Waiting>,
}

/// A leader's read rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadRounds {
    collecting: Vec<Waiting>,
    current: Option<Round>,
    /// The other replicas' questions among those who wait, to know a repetition by.
    questions: BTreeSet<(NodeId, u64)>,
}

impl ReadRounds {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.collecting.len() + self.current.as_ref().map_or(0, |round| round.waiting.len())
    }

    /// Lets a reader wait for the next round. A repeated question of another replica is the same
    /// reader.
    pub(crate) fn ask(&mut self, reader: Reader, since: Instant) {
        let is_new = match reader {
            Reader::Local(_) => true,
            Reader::Remote(peer, id) => self.questions.insert((peer, id)),
        };
        if is_new {
            self.collecting.push(Waiting { reader, since });
        }
    }

    /// Whether a round should begin.
    pub(crate) fn wants_round(&self) -> bool {
        self.current.is_none() && !self.collecting.is_empty()
    }

    /// Begins a round for everyone who waits.
    pub(crate) fn begin(&mut self, number: u64, slot: Slot) {
        assert!(self.current.is_none(), "one round at a time");
        let waiting = std::mem::take(&mut self.collecting);
        self.current = Some(Round {
            number,
            slot,
            waiting,
        });
    }

    /// The number of the current round.
    pub(crate) fn current(&self) -> Option<u64> {
        self.current.as_ref().map(|round| round.number)
    }

    /// Ends the current round.
    pub(crate) fn finish(&mut self) -> Option<Round> {
        let round = self.current.take()?;
        for waiting in &round.waiting {
            self.forget(waiting.reader);
        }
        Some(round)
    }

    fn forget(&mut self, reader: Reader) {
        if let Reader::Remote(peer, id) = reader {
            self.questions.remove(&(peer, id));
        }
    }

    /// Takes out everyone who has waited since before `moment`.
    pub(crate) fn expire(&mut self, moment: Instant) -> Vec<Reader> {
        let mut expired = Vec::new();
        let mut keep = |waiting: &Waiting| {
            let stays = waiting.since >= moment;
            if !stays {
                expired.push(waiting.reader);
            }
            stays
        };
        self.collecting.retain(&mut keep);
        if let Some(round) = &mut self.current {
            round.waiting.retain(&mut keep);
        }
        for reader in &expired {
            self.forget(*reader);
        }
        expired
    }

    /// Takes out everyone.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Reader> {
        self.questions.clear();
        let current = self
            .current
            .take()
            .map(|round| round.waiting)
            .unwrap_or_default();
        current
            .into_iter()
            .chain(std::mem::take(&mut self.collecting))
            .map(|waiting| waiting.reader)
    }
}

/// Someone here who asked while another leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// Who.
    pub(crate) ticket: Ticket,
    /// When.
    pub(crate) since: Instant,
}

/// The question that the leader has not answered yet.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// Names it.
    pub(crate) id: u64,
    /// Whom it was last sent to.
    pub(crate) to: NodeId,
    /// When it was last sent.
    pub(crate) sent_at: Instant,
    /// Who waits for the answer; the oldest first.
    askers: Vec<Asker>,
}

/// A follower's forwarded reads: one question at a time, as a leader has one round at a time.
/// Whoever asks meanwhile shares the next, so that the leader has little to do however many ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forwards {
    /// Who shares the next question; the oldest first.
    collecting: Vec<Asker>,
    question: Option<Question>,
}

impl Forwards {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        let asked = self.question.as_ref().map_or(0, |asked| asked.askers.len());
        self.collecting.len() + asked
    }

    /// Lets a reader wait for the next question.
    pub(crate) fn ask(&mut self, ticket: Ticket, since: Instant) {
        self.collecting.push(Asker { ticket, since });
    }

    /// Whether a question should be sent.
    pub(crate) fn wants_question(&self) -> bool {
        self.question.is_none() && !self.collecting.is_empty()
    }

    /// Begins a question for everyone who waits.
    pub(crate) fn begin(&mut self, id: u64, to: NodeId, sent_at: Instant) {
        assert!(self.question.is_none(), "one question at a time");
        let askers = std::mem::take(&mut self.collecting);
        self.question = Some(Question {
            id,
            to,
            sent_at,
            askers,
        });
    }

    /// The question under way.
    pub(crate) fn question(&mut self) -> Option<&mut Question> {
        self.question.as_mut()
    }

    /// Ends the question if this is the answer to it, from whom it was last sent to.
    pub(crate) fn answered(&mut self, from: NodeId, id: u64) -> Option<Vec<Asker>> {
        let is_answered = |asked: &mut Question| asked.id == id && asked.to == from;
        self.question.take_if(is_answered).map(|asked| asked.askers)
    }

    /// Takes out everyone who has waited since before `moment`. A question for which nobody waits
    /// any more is forgotten.
    pub(crate) fn expire(&mut self, moment: Instant) -> Vec<Asker> {
        let mut expired = Vec::new();
        let asked = self.question.as_mut().map(|asked| &mut asked.askers);
        for askers in asked.into_iter().chain([&mut self.collecting]) {
            let count = askers.partition_point(|asker| asker.since < moment);
            expired.extend(askers.drain(..count));
        }
        self.question.take_if(|asked| asked.askers.is_empty());
        expired
    }

    /// Takes out everyone.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Asker> + use<> {
        let asked = self.question.take().map(|asked| asked.askers);
        let collecting = std::mem::take(&mut self.collecting);
        asked.unwrap_or_default().into_iter().chain(collecting)
    }

    /// When to act if no answer comes: to `repeat` the question so long after it was sent, or to
    /// refuse someone who has waited out the `patience`.
    pub(crate) fn deadline(&self, repeat: Duration, patience: Duration) -> Option<Instant> {
        let asked = self.question.as_ref();
        let eldest = asked.and_then(|asked| asked.askers.first());
        let eldest = eldest.or(self.collecting.first());
        let refused_at = eldest.map(|asker| asker.since + patience);
        let repeated_at = asked.map(|asked| asked.sent_at + repeat);
        refused_at.into_iter().chain(repeated_at).min()
    }
}
