//! How a pass ends.
//!
//! Everything that arrived since the last [`flush`](crate::Engine::flush) shares one write to the
//! journal and one message per peer. The order matters in two places: the host learns of a new
//! membership before anything is sent to its members, and the write is given before messages that
//! wait for it.

use std::sync::Arc;

use base::{Instant, NodeId, Slot};

use crate::engine::{Mark, Output, Outputs, Record, Records, Role, say};
use crate::entries::Entries;
use crate::entry::Entry;
use crate::handover::HandingOver;
use crate::hard_state::HardState;
use crate::message::{Body, Message};
use crate::paxos::{Loading, Paxos};
use crate::raft::Restored;
use crate::reading::Reading;

impl Paxos {
    /// Lets everything out that was held back.
    pub(super) fn end_pass(&mut self, now: Instant, out: &mut Outputs) {
        self.load_more(out);
        self.lead_alone(now, out);
        if self
            .leading
            .as_ref()
            .is_some_and(|leading| !leading.is_open)
        {
            // Acknowledgements and writes are counted as they come. Here it is counted again while
            // promises and memberships decide as well.
            self.advance_chosen();
        }
        self.drive_membership(now, out);
        self.advance_preparation(now, out);
        self.begin_read_round(out);
        self.forward_reads(now, out);
        self.hand_over();
        self.tell(out);
        self.log.seal();
        self.write(now, out);
        self.seek_what_is_missing(now);
        self.answer_leader(out);
        self.answer_askers(out);
        self.serve_peers(now, out);
        self.retire(now, out);
        self.send_outbox(out);
        self.deliver(out);
        let budget = self.config.limits.cache_bytes;
        // A witness has to tell of all its headers. They are few bytes, and its host bounds them.
        if self.log.exceeds(budget) && !self.is_witness() {
            let needed = self.stored.upto().min(self.delivery.delivered());
            self.log.shrink(budget, needed);
        }
    }

    /// A replica that is a quorum by itself need not wait for anything.
    fn lead_alone(&mut self, now: Instant, out: &mut Outputs) {
        let is_led = self.role != Role::Follower || self.leader.is_some();
        if is_led || self.membership().voters.len() > 1 {
            return;
        }
        if self.is_alone() && self.is_electable() {
            self.campaign(now, crate::message::Occasion::Silence, out);
        }
    }

    /// Tells the host what changed of leadership and membership.
    fn tell(&mut self, out: &mut Outputs) {
        if self.recovery.is_some() {
            self.finish_recovery(out);
        }
        let leadership = (self.epoch, self.leader);
        if self.told.leadership != Some(leadership) {
            self.told.leadership = Some(leadership);
            out.push(Output::Epoch {
                epoch: self.epoch,
                leader: self.leader,
            });
            self.handover_succeeded(out);
        }
        let membership = &self.log.membership().1;
        let is_same = |told| Arc::ptr_eq(told, membership);
        if !self.told.membership.as_ref().is_some_and(is_same) {
            self.told.membership = Some(Arc::clone(membership));
            out.push(Output::MembershipChanged {
                membership: Arc::clone(membership),
            });
        }
    }

    /// Gives the journal what it does not have. Promises come first; what they say is chosen was
    /// written before, so that a write that is torn in the middle says nothing untrue.
    fn write(&mut self, now: Instant, out: &mut Outputs) {
        let changed = self.hard_state_changed || self.log.needs_start();
        // That a membership is chosen must not be forgotten: those who left by it may be gone for
        // good, and a restart that goes by the one before would wait for them for ever.
        let owes_membership = self.log.membership().0 > self.chosen_written;
        if !changed && !owes_membership && self.unwritten.is_empty() {
            return;
        }
        let mut hard_state = self.hard_state();
        hard_state.chosen = match self.unwritten.is_empty() && !self.log.needs_start() {
            true => self.log.chosen(),
            false => self.chosen_given,
        };
        let says_more = hard_state.chosen > self.chosen_written;
        let promises = (self.hard_state_changed || says_more).then_some(hard_state);
        if promises.is_some() {
            self.chosen_written = hard_state.chosen;
        }
        if self.write_newest(now, promises, says_more, out) {
            return;
        }
        let mut records: Records = promises.map(Record::HardState).into_iter().collect();
        if let Some(start) = self.log.take_start() {
            records.push(Record::LogStarts {
                slot: start.slot,
                epoch: start.epoch,
            });
        }
        let mut mark = self.begin_write(now, says_more);
        let first = mark;
        let (epoch, chosen) = (self.epoch, self.log.chosen());
        let mut bytes = 0;
        for (from, upto) in self.unwritten.drain(..) {
            // A snapshot may have taken the place of some.
            for (ballot, entries) in self.log.between(from, upto) {
                if bytes >= self.config.limits.write_bytes {
                    // A long write is given in parts, so that its progress can be seen.
                    let records = std::mem::take(&mut records);
                    say(out, || Output::Write { mark, records });
                    mark = self.writes.begin(now);
                    bytes = 0;
                }
                bytes += entries.bytes();
                if let Some((first, last)) = entries.first().zip(entries.last()) {
                    let counts = if ballot == epoch {
                        last.slot
                    } else {
                        last.slot.min(chosen)
                    };
                    self.writes.add(first.slot, counts);
                }
                records.push(Record::Accepted { ballot, entries });
            }
        }
        self.chosen_given = chosen;
        say(out, || Output::Write { mark, records });
        // The promises stand at the beginning.
        self.vote_written(first);
    }

    /// Writes what is not written, if that is one batch and nothing else, as it is nearly always.
    fn write_newest(
        &mut self,
        now: Instant,
        promises: Option<HardState>,
        says_more: bool,
        out: &mut Outputs,
    ) -> bool {
        let [(from, upto)] = self.unwritten[..] else {
            return false;
        };
        if self.log.needs_start() || self.log.newest_batch(from, upto).is_none() {
            return false;
        }
        let mark = self.begin_write(now, says_more);
        let (epoch, chosen) = (self.epoch, self.log.chosen());
        let newest = self.log.newest_batch(from, upto);
        let (ballot, entries) = newest.expect("it was there");
        let counts = match ballot == epoch {
            true => upto,
            false => upto.min(chosen),
        };
        self.unwritten.clear();
        self.writes.add(from, counts);
        self.chosen_given = chosen;
        say(out, || Output::Write {
            mark,
            records: Record::few(promises, || Record::Accepted {
                ballot,
                entries: entries.clone(),
            }),
        });
        self.vote_written(mark);
        true
    }

    /// Begins a write, at the beginning of which stand the promises, if they have changed, and what
    /// is chosen, if it says more of that.
    fn begin_write(&mut self, now: Instant, says_more: bool) -> Mark {
        let mark = self.writes.begin(now);
        if says_more {
            self.known_written = mark;
        }
        if std::mem::take(&mut self.hard_state_changed) {
            self.promise_written = mark;
        }
        mark
    }

    /// Sends a message of this ballot, at once or when everything that was written is durable.
    pub(super) fn send(&self, to: NodeId, body: Body, when_durable: bool, out: &mut Outputs) {
        let after = self.writes.pending().filter(|_| when_durable);
        let epoch = self.epoch;
        say(out, || Output::Send {
            to,
            message: Message { epoch, body },
            after,
        });
    }

    fn send_outbox(&mut self, out: &mut Outputs) {
        if self.outbox.is_empty() {
            return;
        }
        let pending = self.writes.pending();
        for letter in self.outbox.drain(..) {
            let after = pending.filter(|_| letter.when_durable);
            out.push(Output::Send {
                to: letter.to,
                message: letter.message,
                after,
            });
        }
    }

    /// The journal made everything up to `mark` durable.
    pub(super) fn on_durable(&mut self, now: Instant, mark: Mark) {
        let before = (self.log.chosen(), self.uncertain);
        if let Some(took) = self.writes.took(mark, now) {
            self.health.wrote(took, self.role == Role::Leader);
        }
        self.writes.complete(mark, now, &mut self.stored);
        self.become_certain();
        if self.recovery.is_some() {
            self.choose_recovered();
        }
        self.advance_chosen();
        // Nearly always nothing follows: what waits for the write, the host sends by itself. But
        // who stands for election, or leads without being open, may have waited for its own
        // promise.
        let is_open = self.leading.as_ref().is_none_or(|leading| leading.is_open);
        let waits = self.role == Role::Candidate || !is_open;
        // And witnesses are told only of what is durable.
        let waits = waits || self.leading.is_some() && !self.membership().witnesses.is_empty();
        self.is_stirred |= waits || before != (self.log.chosen(), self.uncertain);
    }

    /// Hands chosen entries to the replica.
    fn deliver(&mut self, out: &mut Outputs) {
        let chosen = self.log.chosen();
        while self.delivery.delivered() < chosen
            && self.delivery.has_room()
            && !self.is_installing()
        {
            let next = self.delivery.next();
            if next < self.log.cached_from() {
                let upto = chosen.min(Slot(self.log.cached_from().0 - 1));
                if self.fetches.delivery.is_none() && self.request_fetch(next, upto, out) {
                    self.fetches.delivery = Some(next);
                }
                return;
            }
            let room = self.delivery.room();
            if let Some(newest) = self.log.newest_within(next, chosen, room) {
                self.delivery.hand_out(newest);
                say(out, || Output::Chosen {
                    entries: newest.clone(),
                });
                return;
            }
            let entries = self.log.take(next, chosen, room);
            self.delivery.hand_out(&entries);
            out.push(Output::Chosen { entries });
        }
    }

    /// The journal read entries back.
    pub(super) fn on_fetched(
        &mut self,
        now: Instant,
        from: Slot,
        entries: Vec<Entry>,
        out: &mut Outputs,
    ) {
        self.fetches
            .outstanding
            .retain(|outstanding| *outstanding != from);
        if self.loading.is_some() && from > self.log.chosen() {
            return self.loaded(now, from, entries);
        }
        // The log may have moved on meanwhile: only what is chosen counts.
        let chosen = self.log.chosen();
        let mut expected = from;
        let is_current = |entry: &&Entry| {
            let known = self.log.epoch_at(entry.slot);
            let current = entry.slot == expected
                && entry.slot <= chosen
                && known.is_none_or(|known| known == entry.epoch);
            expected = entry.slot.next();
            current
        };
        let current = entries.iter().take_while(is_current).count();
        let entries = Entries::from(entries).slice(0..current);
        if self.fetches.delivery == Some(from) {
            self.fetches.delivery = None;
            if from == self.delivery.next() && !self.is_installing() && !entries.is_empty() {
                let count = entries.count_within(self.delivery.room());
                let entries = entries.slice(0..count);
                self.delivery.hand_out(&entries);
                out.push(Output::Chosen { entries });
            }
        }
        if entries.is_empty() {
            self.fetches.retry_at = Some(now + self.config.heartbeat_interval);
        }
        self.teach_fetched(from, &entries);
    }

    /// Prepares to read what was accepted, and is not known to be chosen, from the journal.
    pub(super) fn load_accepted(&mut self, restored: Restored) {
        let mut first = self.log.chosen().next();
        let mut runs = Vec::new();
        for (gap, end) in &restored.gaps {
            if *gap > first {
                runs.push((first, gap.previous()));
            }
            first = first.max(end.next());
        }
        if first <= restored.last {
            runs.push((first, restored.last));
        }
        runs.reverse();
        if !runs.is_empty() {
            self.loading = Some(Loading { restored, runs });
        }
    }

    fn load_more(&mut self, out: &mut Outputs) {
        let next = self
            .loading
            .as_ref()
            .and_then(|loading| loading.runs.last());
        if let Some((from, upto)) = next.copied() {
            self.request_fetch(from, upto, out);
        }
    }

    /// The journal read accepted entries back.
    fn loaded(&mut self, now: Instant, from: Slot, entries: Vec<Entry>) {
        let Some(loading) = &mut self.loading else {
            return;
        };
        let Some((first, last)) = loading.runs.last_mut().filter(|run| run.0 == from) else {
            return;
        };
        if entries.is_empty() {
            self.fetches.retry_at = Some(now + self.config.heartbeat_interval);
        }
        let entries = Entries::from(entries);
        let fits = |entry: &&Entry| {
            let fits = entry.slot == *first && entry.slot <= *last;
            *first = if fits { first.next() } else { *first };
            fits
        };
        let mut rest = entries.slice(0..entries.iter().take_while(fits).count());
        let ballot_of = |entry: &Entry| loading.restored.ballot_at(entry.slot, entry.epoch);
        while let Some(ballot) = rest.first().map(ballot_of) {
            let same = rest.iter().take_while(|entry| ballot_of(entry) == ballot);
            let (accepted, left) = rest.split(same.count());
            if ballot == self.epoch {
                let (first, last) = (accepted[0].slot, accepted[accepted.len() - 1].slot);
                self.stored.insert(first, last);
            }
            self.log.put(ballot, accepted);
            rest = left;
        }
        if first > last {
            loading.runs.pop();
        }
        if loading.runs.is_empty() {
            self.loading = None;
        }
    }
}
