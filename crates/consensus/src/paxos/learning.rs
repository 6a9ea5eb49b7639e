//! Catching up: what is chosen is chosen, whoever says so.
//!
//! ```text
//!  who is behind                                anybody
//!    │ CatchUp {after 41} ─────────────────────▶ │ reads its journal back if it must
//!    │ ◀──────────────── Learn {42..=97, chosen} │
//!    │ CatchUp {after 97} ─────────────────────▶ │ … or offers a snapshot, if its log begins later
//! ```
//!
//! The leader sends each peer what it proposes, and again what was lost. A peer that lacks more
//! than the leader still has in memory asks for it; so does a candidate that hears in phase 1 that
//! others know more to be chosen, and a replica that is cut off from the leader but not from
//! everybody. Who asks keeps asking: who answers remembers nothing but what it is reading just now.

use std::collections::BTreeMap;

use base::mutant::{self, Mutant};
use base::{Instant, NodeId, Slot};

use crate::engine::{Output, Outputs, Role};
use crate::entries::Entries;
use crate::entry::Entry;
use crate::message::{Body, PaxosBody};
use crate::paxos::Paxos;
use crate::snapshot::Sender;
use crate::speaking::Speaking;

/// A replica's catching up, and that of others from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Learning {
    question: Option<Question>,
    /// Since when the leader knows more to be chosen than this replica.
    behind_since: Option<Instant>,
    /// Who was asked last knew no more: nobody is asked before this.
    rests_until: Option<Instant>,
    /// Who is to be answered in this pass, or once the journal has read it.
    pub(super) askers: BTreeMap<NodeId, Asker>,
    /// Snapshots under way to others.
    pub(super) couriers: BTreeMap<NodeId, Courier>,
}

/// What this replica has asked.
#[derive(Clone, Debug)]
struct Question {
    id: u64,
    to: NodeId,
    /// When something last came of it.
    moved_at: Instant,
}

/// Someone who asked.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    id: u64,
    next: Slot,
    is_fetching: bool,
}

/// A snapshot on its way to someone.
#[derive(Clone, Debug)]
pub(super) struct Courier {
    pub(super) session: u64,
    pub(super) sender: Sender,
}

impl Learning {
    /// Nothing has to be caught up any more.
    pub(super) fn stop(&mut self) {
        self.question = None;
        self.behind_since = None;
    }

    /// Whether nobody is asked or answered.
    pub(super) fn is_quiet(&self) -> bool {
        self.question.is_none()
            && self.behind_since.is_none()
            && self.askers.is_empty()
            && self.couriers.is_empty()
    }

    /// More is chosen here than before.
    pub(super) fn moved(&mut self) {
        self.behind_since = None;
    }

    /// Whether an answer belongs to what was asked; if so, something came of it.
    pub(super) fn expects(&mut self, from: NodeId, id: u64, now: Instant) -> bool {
        let question = self.question.as_mut();
        let expected = question.filter(|asked| asked.id == id && asked.to == from);
        let expected = expected.map(|asked| asked.moved_at = now);
        expected.is_some()
    }

    /// Something came of what was asked.
    pub(super) fn touch(&mut self, now: Instant) {
        if let Some(question) = &mut self.question {
            question.moved_at = now;
        }
    }

    /// Whom this replica is learning from, and in which session.
    pub(super) fn source(&self) -> Option<(NodeId, u64)> {
        self.question.as_ref().map(|asked| (asked.to, asked.id))
    }
}

impl Paxos {
    /// Asks `to` for what is chosen, unless a question is under way.
    pub(super) fn learn_from(&mut self, now: Instant, to: NodeId) {
        let rests = self.learning.rests_until.is_some_and(|until| now < until);
        if self.learning.question.is_some() || self.leading.is_some() || rests {
            return;
        }
        let id = self.random.next_u64();
        self.learning.question = Some(Question {
            id,
            to,
            moved_at: now,
        });
        self.ask(to, id);
    }

    fn ask(&mut self, to: NodeId, id: u64) {
        let after = self.log.chosen();
        self.post(to, Body::Paxos(PaxosBody::CatchUp { id, after }), false);
    }

    /// Asks some voter, drawn at random.
    pub(super) fn ask_anybody(&mut self, now: Instant) {
        let own = self.config.id;
        let others: Vec<NodeId> = self.membership().all_voters().collect();
        let can_teach = |id: &NodeId| *id != own && !self.membership().is_witness(*id);
        let others: Vec<NodeId> = others.into_iter().filter(can_teach).collect();
        if others.is_empty() || self.is_installing() {
            return;
        }
        let drawn = self.random.below(others.len() as u64) as usize;
        self.learn_from(now, others[drawn]);
    }

    /// A follower that stays behind its leader asks it.
    pub(super) fn seek_what_is_missing(&mut self, now: Instant) {
        let told = self.following.chosen;
        let is_behind = told > self.log.chosen() && !self.is_installing();
        let leader = self.leader.filter(|_| self.leading.is_none());
        let Some(leader) = leader.filter(|_| is_behind) else {
            self.learning.behind_since = None;
            return;
        };
        let far = told.0 - self.log.chosen().0 > self.limits().window_entries;
        let since = *self.learning.behind_since.get_or_insert(now);
        if far || now.since(since) >= self.config.heartbeat_interval {
            self.learn_from(now, leader);
        }
    }

    /// When a question is to be repeated, or the patience with the leader ends.
    pub(super) fn learning_deadline(&self) -> Option<Instant> {
        let learning = &self.learning;
        let asked = learning.question.as_ref();
        let repeat = asked.map(|asked| asked.moved_at + self.config.election_timeout / 2);
        let behind = learning.behind_since.filter(|_| asked.is_none());
        let behind = behind.map(|since| since + self.config.heartbeat_interval);
        // Whoever may not ask before then has nothing to do before then.
        let behind = behind.map(|at| learning.rests_until.map_or(at, |until| at.max(until)));
        repeat.into_iter().chain(behind).min()
    }

    /// Nothing came of a question for too long: asks the leader, or somebody else.
    pub(super) fn on_learning_deadline(&mut self, now: Instant) {
        let patience = self.config.election_timeout / 2;
        let stale = |asked: &mut Question| now.since(asked.moved_at) >= patience;
        if self.learning.question.take_if(stale).is_none() {
            return;
        }
        if self.is_installing() {
            return;
        }
        let receives = self.receiver.is_some();
        match self.leader.filter(|_| self.leading.is_none()) {
            Some(leader) if receives || self.following.chosen > self.log.chosen() => {
                self.learn_from(now, leader);
            }
            None if self.role != Role::Candidate => self.ask_anybody(now),
            _ => {}
        }
    }

    /// Someone asks what is chosen.
    pub(super) fn on_catch_up(&mut self, now: Instant, from: NodeId, id: u64, after: Slot) {
        if self.is_witness() {
            return;
        }
        let limit = self.limits().members;
        let learning = &mut self.learning;
        if after < self.log.start().slot {
            return self.offer_snapshot(now, from, id, after);
        }
        if learning.askers.len() < limit || learning.askers.contains_key(&from) {
            learning.couriers.remove(&from);
            let next = after.next();
            let is_fetching = false;
            let asker = Asker {
                id,
                next,
                is_fetching,
            };
            learning.askers.insert(from, asker);
        }
    }

    /// Answers who asked, as far as memory goes; the rest is fetched.
    pub(super) fn answer_askers(&mut self, out: &mut Outputs) {
        if self.learning.askers.is_empty() {
            return;
        }
        let mut askers = std::mem::take(&mut self.learning.askers);
        let (chosen, cached_from) = (self.log.chosen(), self.log.cached_from());
        askers.retain(|to, asker| {
            if asker.next < cached_from && asker.next <= chosen {
                if asker.next <= self.log.start().slot {
                    // Forgotten meanwhile; it asks again.
                    return false;
                }
                let upto = chosen.min(Slot(cached_from.0 - 1));
                if !asker.is_fetching {
                    asker.is_fetching = self.request_fetch(asker.next, upto, out);
                }
                return asker.is_fetching;
            }
            let end = match mutant::is_on(Mutant::TeachAccepted) {
                true => self.log.last(),
                false => chosen,
            };
            let entries = match asker.next <= chosen {
                true => self.log.take(asker.next, end, self.limits().append_bytes),
                false => Entries::default(),
            };
            self.teach(*to, asker.id, entries);
            false
        });
        self.learning.askers = askers;
    }

    fn teach(&mut self, to: NodeId, id: u64, entries: Entries) {
        let entries = match self.membership().is_witness(to) {
            true => entries.headers(),
            false => entries,
        };
        let body = PaxosBody::Learn {
            id,
            chosen: self.log.chosen(),
            entries,
        };
        let message = crate::message::Message::new(self.epoch, Body::Paxos(body));
        self.outbox.push(crate::paxos::Letter {
            to,
            message,
            when_durable: false,
        });
    }

    /// The journal read chosen entries back, which someone may wait for.
    pub(super) fn teach_fetched(&mut self, from: Slot, entries: &Entries) {
        let waits = |(id, asker): (&NodeId, &Asker)| {
            (asker.is_fetching && asker.next == from).then_some((*id, asker.id))
        };
        let waiting: Vec<(NodeId, u64)> = self.learning.askers.iter().filter_map(waits).collect();
        for (to, id) in waiting {
            self.learning.askers.remove(&to);
            if !entries.is_empty() {
                self.teach(to, id, entries.clone());
            }
        }
    }

    /// An answer: chosen entries.
    pub(super) fn on_learn(
        &mut self,
        now: Instant,
        from: NodeId,
        id: u64,
        chosen: Slot,
        entries: Entries,
        out: &mut Outputs,
    ) {
        if !self.learning.expects(from, id, now) {
            return;
        }
        self.learning.question = None;
        if self.leading.is_some() || self.loading.is_some() || self.is_installing() {
            return;
        }
        let contradicts = |entry: &Entry| {
            let known = self.log.epoch_at(entry.slot);
            entry.slot <= self.log.chosen() && known.is_some_and(|known| known != entry.epoch)
        };
        let entries = match self.is_witness() {
            true => entries.headers(),
            false => entries,
        };
        let lacks = |entry: &Entry| entry.is_header() && self.holds_entries();
        if entries.iter().any(lacks) {
            return self.drop_message(from, "a header in place of an entry", out);
        }
        if entries.iter().any(contradicts) {
            return self.drop_message(from, "it contradicts a chosen entry", out);
        }
        let before = self.log.chosen();
        let known = entries.iter().take_while(|entry| entry.slot <= before);
        let mut news = entries.slice(known.count()..entries.len());
        let mut expected = before;
        let follows = |entry: &&Entry| {
            expected = expected.next();
            entry.slot == expected
        };
        news = news.slice(0..news.iter().take_while(follows).count());
        self.learn(&news);
        self.acknowledge();
        if chosen <= before && self.log.chosen() == before {
            // It has died since it told of more: to ask on at once would have no end.
            self.learning.rests_until = Some(now + self.config.heartbeat_interval);
            self.doubt_teller(from, chosen);
        }
        if self.log.chosen() > before && self.log.chosen() < chosen {
            self.learn_from(now, from);
        }
    }

    /// These entries follow what is chosen, and are chosen, whatever stood at their slots.
    fn learn(&mut self, entries: &Entries) {
        let mut at = 0;
        while let Some(entry) = entries.get(at) {
            let slot = entry.slot;
            let held = |slot| self.log.get(slot).map(|cell| cell.entry.epoch);
            if held(slot) == Some(entry.epoch) {
                // It keeps its ballot: this replica may have acknowledged it.
                if !self.stored.contains(slot) {
                    self.must_write(slot, slot);
                }
                at += 1;
                continue;
            }
            let alike = |each: &&Entry| each.epoch == entry.epoch && held(each.slot).is_none();
            let more = entries[at + 1..].iter().take_while(alike).count();
            if held(slot).is_some() {
                // What was accepted here, perhaps from a leader that does not know yet, is void.
                self.received.cut(slot);
                self.stored.cut(slot);
                self.writes.cut(slot);
            }
            let news = entries.slice(at..at + 1 + more);
            self.must_write(slot, news[more].slot);
            self.log.put(entry.epoch, news);
            at += 1 + more;
        }
        if let Some(last) = entries.last() {
            self.choose(last.slot);
        }
    }

    /// Asks the journal for entries, unless the same are on their way. Returns whether they will
    /// come.
    pub(super) fn request_fetch(&mut self, from: Slot, upto: Slot, out: &mut Outputs) -> bool {
        if self.fetches.retry_at.is_some() {
            return false;
        }
        if !self.fetches.outstanding.contains(&from) {
            self.fetches.outstanding.push(from);
            let max_bytes = self.config.limits.fetch_bytes;
            out.push(Output::Fetch {
                from,
                upto,
                max_bytes,
            });
        }
        true
    }
}
