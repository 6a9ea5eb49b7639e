//! How a pass ends.
//!
//! Everything that arrived since the last [`flush`](crate::Engine::flush) shares one write to the
//! journal and one message per peer. The order matters in two places: the host learns of a new
//! membership before anything is sent to its members, and the write is given before messages that
//! wait for it.

use base::{Instant, NodeId, Slot};

use crate::engine::{Mark, Output, Outputs, Record, Records, Role, say};
use crate::entries::Entries;
use crate::entry::Entry;
use crate::handover::HandingOver;
use crate::message::{Body, Message};
use crate::raft::Raft;
use crate::reading::Reading;

impl Raft {
    /// Lets everything out that was held back.
    pub(super) fn end_pass(&mut self, now: Instant, out: &mut Outputs) {
        self.lead_alone(now, out);
        self.drive_membership(now, out);
        self.begin_read_round(out);
        self.forward_reads(now, out);
        self.hand_over();
        self.tell(out);
        self.log.seal();
        self.write(now, out);
        self.answer_leader(out);
        self.send_outbox(out);
        self.serve_peers(now, out);
        self.deliver(out);
        self.log
            .shrink_cache(self.config.limits.cache_bytes, self.chosen);
    }

    /// A replica that is a quorum by itself need not wait for anything. If somebody leads it, that
    /// one is ending the change that removes itself, and hands over then: who campaigned before
    /// would keep it from ever knowing.
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
        let is_same = |told| std::sync::Arc::ptr_eq(told, membership);
        if !self.told.membership.as_ref().is_some_and(is_same) {
            self.told.membership = Some(std::sync::Arc::clone(membership));
            out.push(Output::MembershipChanged {
                membership: std::sync::Arc::clone(membership),
            });
        }
    }

    /// Gives the journal what it does not have. Promises come first; what they say is chosen was
    /// written before, so that a write that is torn in the middle says nothing untrue.
    fn write(&mut self, now: Instant, out: &mut Outputs) {
        if !self.hard_state_changed && !self.log.needs_writing() {
            return;
        }
        let upto = self.log.last();
        let mut hard_state = self.hard_state();
        hard_state.chosen = self.chosen.min(self.log.written());
        let says_more = self.hard_state_changed || hard_state.chosen > self.chosen_written;
        if says_more {
            self.chosen_written = hard_state.chosen;
            self.hard_state_changed = false;
        }
        if let Some(newest) = self.log.take_newest_unwritten() {
            let mark = self.journaling.begin(upto, now);
            let promises = says_more.then_some(hard_state);
            say(out, || Output::Write {
                mark,
                records: Record::few(promises, || Record::Entries(newest.clone())),
            });
            return self.vote_written(mark);
        }
        let mut records = Records::new();
        if says_more {
            records.push(Record::HardState(hard_state));
        }
        let (restarted, entries) = self.log.take_unwritten();
        if let Some(start) = restarted {
            records.push(Record::SnapshotInstalled {
                slot: start.slot,
                epoch: start.epoch,
            });
        }
        // A long write is given in parts, so that its progress can be seen.
        let (mut bytes, mut first) = (0, None);
        for chunk in entries {
            bytes += chunk.bytes();
            let slot = chunk.last().expect("no chunk is empty").slot;
            records.push(Record::Entries(chunk));
            if bytes >= self.config.limits.write_bytes && slot < upto {
                let mark = self.journaling.begin(slot, now);
                first.get_or_insert(mark);
                let records = std::mem::take(&mut records);
                say(out, || Output::Write { mark, records });
                bytes = 0;
            }
        }
        let mark = self.journaling.begin(upto, now);
        say(out, || Output::Write { mark, records });
        // The promises stand at the beginning.
        self.vote_written(first.unwrap_or(mark));
    }

    /// Sends a message of this epoch, at once or when everything that was written is durable.
    pub(super) fn send(&self, to: NodeId, body: Body, when_durable: bool, out: &mut Outputs) {
        let after = self.journaling.pending().filter(|_| when_durable);
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
        let pending = self.journaling.pending();
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
    pub(super) fn on_durable(&mut self, now: Instant, mark: Mark, out: &mut Outputs) {
        let before = (self.chosen, self.role, self.uncertain);
        if let Some(took) = self.journaling.took(mark, now) {
            self.health.wrote(took, self.role == Role::Leader);
        }
        if let Some(upto) = self.journaling.complete(mark, now) {
            self.log.became_durable(upto);
        }
        self.count_own_vote(now, out);
        self.become_certain();
        self.advance_chosen();
        // Nearly always nothing follows: what waits for the write, the host sends by itself.
        // But witnesses are told only of what is durable.
        let owes = self.leading.is_some() && !self.membership().witnesses.is_empty();
        self.is_stirred |= owes || before != (self.chosen, self.role, self.uncertain);
    }

    /// Hands chosen entries to the replica.
    fn deliver(&mut self, out: &mut Outputs) {
        while self.delivery.delivered() < self.chosen
            && self.delivery.has_room()
            && !self.is_installing()
        {
            let next = self.delivery.next();
            if next < self.log.cached_from() {
                let upto = self.chosen.min(self.log.cached_from().previous());
                if self.fetches.delivery.is_none() && self.request_fetch(next, upto, out) {
                    self.fetches.delivery = Some(next);
                }
                return;
            }
            let room = self.delivery.room();
            if let Some(newest) = self.log.newest_within(next, self.chosen, room) {
                self.delivery.hand_out(newest);
                say(out, || Output::Chosen {
                    entries: newest.clone(),
                });
                return;
            }
            let entries = self.log.take(next, self.chosen, room);
            self.delivery.hand_out(&entries);
            out.push(Output::Chosen { entries });
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
        // The log may have been cut or forgotten meanwhile: only what is in it still counts.
        let mut expected = from;
        let is_current = |entry: &&Entry| {
            let current =
                entry.slot == expected && self.log.epoch_at(entry.slot) == Some(entry.epoch);
            expected = entry.slot.next();
            current
        };
        let current = entries.iter().take_while(is_current).count();
        let entries: Entries = entries.into_iter().take(current).collect();
        if self.fetches.delivery == Some(from) {
            self.fetches.delivery = None;
            if from == self.delivery.next() && !self.is_installing() && !entries.is_empty() {
                let chosen = (self.chosen.0 + 1).saturating_sub(from.0) as usize;
                let within = entries.count_within(self.delivery.room());
                let entries = entries.slice(0..within.min(chosen));
                if !entries.is_empty() {
                    self.delivery.hand_out(&entries);
                    out.push(Output::Chosen { entries });
                }
            }
        }
        if entries.is_empty() {
            self.fetches.retry_at = Some(now + self.config.heartbeat_interval);
        }
        self.send_fetched(now, from, &entries, out);
    }

    fn send_fetched(&mut self, now: Instant, from: Slot, entries: &Entries, out: &mut Outputs) {
        let Some(mut leading) = self.leading.take() else {
            return;
        };
        let round = leading.round;
        for (id, peer) in &mut leading.peers {
            if peer.fetching != Some(from) {
                continue;
            }
            peer.fetching = None;
            if entries.is_empty() {
                self.begin_snapshot(now, *id, peer, out);
            } else if peer.next == from && peer.has_room(self.limits()) {
                let limit = self.config.limits.append_bytes;
                let entries = entries.slice(0..entries.count_within(limit));
                self.send_entries(*id, peer, &entries, round, out);
            }
        }
        self.leading = Some(leading);
    }
}
