//! What is held against all that happens in a random cluster.

use base::{Epoch, NodeId, Slot};

use super::*;

impl World {
    pub(super) fn check_sent(&self, id: NodeId, message: &Message) {
        self.tell(id, message);
        let host = &self.hosts[&id];
        match &message.body {
            Body::AppendReply { matched, .. }
                if message.epoch == host.engine.hard_state().epoch =>
            {
                let held = host
                    .disk
                    .checkpoint
                    .as_ref()
                    .map_or(Slot(0), |held| held.reference.slot);
                assert!(
                    *matched <= host.disk.last().max(held),
                    "{id} acknowledged {matched} before it was durable"
                );
            }
            Body::Paxos(PaxosBody::AcceptReply { durable, .. }) => {
                self.check_durable(id, message.epoch, durable);
            }
            Body::Paxos(PaxosBody::Prepare { .. } | PaxosBody::Promise { granted: true, .. }) => {
                assert!(
                    host.disk.hard_state.epoch >= message.epoch,
                    "a promise is durable first"
                );
            }
            Body::VoteReply { granted: true } => {
                assert!(
                    host.disk.hard_state.epoch >= message.epoch,
                    "a vote is durable first"
                );
            }
            Body::Vote { .. } => {
                assert!(
                    host.disk.hard_state.epoch >= message.epoch,
                    "an epoch is durable first"
                );
            }
            _ => {}
        }
    }

    /// What is acknowledged in a ballot was accepted in it, or is chosen, and is on the disk.
    pub(super) fn check_durable(&self, id: NodeId, ballot: Epoch, durable: &Slots) {
        let disk = &self.hosts[&id].disk;
        assert!(disk.hard_state.epoch >= ballot || durable.highest() == Slot(0));
        let held = disk.checkpoint.as_ref().map(|held| held.reference.slot);
        let covered = held.unwrap_or_default().max(disk.start.0);
        for slot in (covered.next().0..=durable.highest().0).map(Slot) {
            if !durable.contains(slot) {
                continue;
            }
            let entry = disk.entries.get(&slot);
            let of_ballot = entry.is_some() && disk.ballots.get(&slot) == Some(&ballot);
            let chosen = self.oracle.chosen.get(&slot).map(Entry::header);
            let is_chosen = entry.is_some() && chosen == entry.map(Entry::header);
            let passed = disk.hard_state.epoch > ballot;
            assert!(
                of_ballot || is_chosen || passed,
                "{id} acknowledged {slot} in {ballot}, but has {entry:?}"
            );
        }
    }

    pub(super) fn check(&mut self, id: NodeId, output: &Output) {
        if !matches!(output, Output::Send { .. }) {
            self.tell(id, output);
        }
        match output {
            Output::Note(Note::BecameLeader { epoch }) => {
                let other = self.oracle.leaders.insert(*epoch, id);
                assert!(
                    other.is_none_or(|other| other == id),
                    "election safety in {epoch}"
                );
                self.check_complete(id);
            }
            Output::Note(Note::LogCut { .. }) => {
                assert!(
                    self.hosts[&id].engine.view().role != Role::Leader,
                    "leaders only append"
                );
            }
            Output::Note(Note::MessageDropped { from, reason }) => {
                panic!("{id} dropped an honest message of {from}: {reason}");
            }
            Output::Note(note @ Note::TwoLeaders { .. }) => panic!("{id} says {note:?}"),
            Output::Write { records, .. } => self.check_written(id, records),
            Output::Chosen { entries } => {
                for entry in entries {
                    let known = self.oracle.chosen.entry(entry.slot);
                    check_same(known.or_insert(entry.clone()), entry);
                }
            }
            Output::ReadReady { ticket, slot } => {
                let (asked, _) = self.oracle.reads.remove(ticket).expect("answered once");
                assert!(*slot >= asked, "a read at {slot} missed {asked}");
                self.oracle.reads_answered += 1;
            }
            Output::Refuse { ticket, .. } => {
                self.oracle.reads.remove(ticket);
            }
            _ => {}
        }
    }

    /// Leader completeness: whatever was executed anywhere stands in a new leader's log.
    pub(super) fn check_complete(&self, id: NodeId) {
        let host = &self.hosts[&id];
        let mut log = host.disk.clone();
        for record in host.writes.iter().flat_map(|(_, records)| records) {
            log.write(record);
        }
        let held = log.checkpoint.as_ref().map(|held| held.reference.slot);
        let covered = held.unwrap_or_default();
        let from = covered.max(log.start.0).next();
        let mut range = self.oracle.chosen.range(from..);
        let known = host.engine.view().chosen;
        let is_stop_sign = |(slot, entry): &(&Slot, &Entry)| {
            **slot > known && matches!(entry.payload, Payload::Membership(_))
        };
        // A stop-sign, and what is behind it, Paxos proposes once everything before is chosen.
        let stop = range.find(is_stop_sign).map(|(slot, _)| *slot);
        let stop = stop.filter(|_| self.kind == EngineKind::Paxos);
        let end = stop.unwrap_or(Slot(u64::MAX)).max(from);
        for (slot, entry) in self.oracle.chosen.range(from..end) {
            let held = log.entries.get(slot).filter(|held| !held.is_header());
            let held = held.map(|held| match entry.is_header() {
                true => held.header(),
                false => held.clone(),
            });
            assert_eq!(
                held.as_ref(),
                Some(entry),
                "leader {id} lacks chosen {slot}"
            );
        }
    }

    /// Log matching: one slot and epoch means one entry, and one entry before it.
    pub(super) fn check_written(&mut self, id: NodeId, records: &[Record]) {
        let host = &self.hosts[&id];
        let mut log = host.disk.clone();
        let mut entries = Vec::new();
        let before = host.writes.len() - 1;
        for (_, records) in host.writes.iter().take(before) {
            records.iter().for_each(|record| log.write(record));
        }
        for record in records {
            for record in one_by_one(record.clone()) {
                if let Record::Entries(written) = &record {
                    let previous = written[0].slot.previous();
                    let epoch = if previous == log.start.0 {
                        log.start.1
                    } else {
                        log.entries[&previous].epoch
                    };
                    entries.push((written[0].clone(), epoch));
                }
                if let Record::Accepted {
                    entries: written, ..
                } = &record
                {
                    // Slot and epoch name an entry, but not what stands before it.
                    entries.push((written[0].clone(), Epoch(0)));
                }
                log.write(&record);
            }
        }
        for (entry, before) in entries {
            let key = (entry.slot, entry.epoch, entry.is_header());
            let value = (entry.payload, before);
            let known = self
                .oracle
                .written
                .entry(key)
                .or_insert_with(|| value.clone());
            assert_eq!(*known, value, "log matching at {key:?}");
        }
    }
}
