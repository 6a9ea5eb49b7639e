//! Our engines: any [`Engine`], with a journal in memory.
//!
//! Per entry: the leader appends it to its own log; when the pass ends, all entries of the pass
//! become one shared piece of memory. Journal, followers and replica get handles on that piece, not
//! copies of each entry. What is done per entry and replica is to look at its epoch and length.
//! A write is durable as soon as it is given, and said to be so; answers that wait for it leave
//! with it. What is executed is reported every 64 KiB. The engine keeps the newest 64 KiB of
//! entries itself, the journal all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Epoch, Instant, NodeId, Slot};
use bytes::Bytes;
use consensus::message::Body;
use consensus::{
    Config, Engine, Entries, Entry, Input, Limits, Member, Membership, Message, Output, Outputs,
    Paxos, Payload, Raft, Record, Restored, Ticket,
};

use crate::group::{ELECTION_TICKS, HEARTBEAT_TICKS, Microseconds, REPLICAS, Replica, TICK};

/// One replica.
pub struct Ours<E: Engine> {
    engine: E,
    id: u64,
    now: Instant,
    outputs: Outputs,
    /// What is to be read back from the journal.
    fetches: Vec<(Slot, Slot)>,
    journal: Vec<Entries>,
    /// What Paxos accepted, in the order in which it was written; later ones count.
    accepted: Vec<Entries>,
    executed: u64,
    /// Bytes executed since the engine was last told how far.
    unreported_bytes: u64,
    leads: bool,
}

/// What is left of a message that was sent.
const NOTHING: Message = Message {
    epoch: Epoch(0),
    body: Body::Transfer,
};

/// Room for so many writes is there before the first, as in a journal, whose segments are made
/// before they are needed.
const JOURNAL_WRITES: usize = 32 << 10;

/// A journal without a write.
fn journal() -> Vec<Entries> {
    let mut journal = vec![Entries::default(); JOURNAL_WRITES];
    journal.clear();
    journal
}

/// An engine hands out so much that is not executed; to be told now and then is enough for it.
const REPORT_BYTES: u64 = 64 << 10;

/// The settings of replica `id`, and what it begins with.
fn beginning(id: u64) -> (Config, Restored) {
    let config = Config {
        id: NodeId(id),
        election_timeout: Duration::from_micros(ELECTION_TICKS * TICK),
        heartbeat_interval: Duration::from_micros(HEARTBEAT_TICKS * TICK),
        limits: Limits {
            cache_bytes: 64 << 10,
            ..Limits::default()
        },
    };
    let member = |id: u64| Member {
        name: format!("n{id}"),
        peer_address: String::new(),
    };
    let members = (1..=REPLICAS).map(|id| (NodeId(id), member(id)));
    let membership = Membership {
        members: members.collect(),
        voters: (1..=REPLICAS).map(NodeId).collect(),
        ..Membership::default()
    };
    let restored = Restored {
        membership,
        ..Restored::default()
    };
    (config, restored)
}

/// Three replicas that agree by Raft.
pub fn raft() -> Vec<Ours<Raft>> {
    let replica = |id| {
        let (config, restored) = beginning(id);
        Ours::new(id, Raft::new(config, restored, id, Instant(0)))
    };
    (1..=REPLICAS).map(replica).collect()
}

/// Three replicas that agree by Multi-Paxos.
pub fn paxos() -> Vec<Ours<Paxos>> {
    let replica = |id| {
        let (config, restored) = beginning(id);
        Ours::new(id, Paxos::new(config, restored, id, Instant(0)))
    };
    (1..=REPLICAS).map(replica).collect()
}

impl<E: Engine> Ours<E> {
    fn new(id: u64, engine: E) -> Ours<E> {
        Ours {
            engine,
            id,
            now: Instant(0),
            outputs: Outputs::new(),
            fetches: Vec::new(),
            journal: journal(),
            accepted: journal(),
            executed: 0,
            unreported_bytes: 0,
            leads: false,
        }
    }

    /// Carries out what the engine said, and tells it what came of it. Returns whether it has to
    /// be asked again: something was written or read.
    fn carry_out(&mut self, out: &mut Vec<(u64, Message)>) -> bool {
        let (mut written, mut applied) = (None, None);
        // Taken from where it lies: what only passes by is not moved.
        for output in &mut self.outputs {
            match output {
                // The write that it may wait for came before, and is durable.
                Output::Send { to, message, .. } => {
                    let message = std::mem::replace(message, NOTHING);
                    out.extend(std::iter::once_with(|| (to.0, message)));
                }
                Output::Write { mark, records } => {
                    written = Some(*mark);
                    for record in records {
                        match record {
                            Record::Entries(entries) => {
                                keep(&mut self.journal, std::mem::take(entries));
                            }
                            Record::Accepted { entries, .. } => {
                                self.accepted.push(std::mem::take(entries));
                            }
                            _ => {}
                        }
                    }
                }
                Output::Chosen { entries } => {
                    applied = entries.last().map(|entry| entry.slot);
                    self.unreported_bytes += entries.bytes();
                    let is_command = |entry: &&Entry| matches!(entry.payload, Payload::Commands(_));
                    self.executed += entries.iter().filter(is_command).count() as u64;
                }
                Output::Fetch { from, upto, .. } => self.fetches.push((*from, *upto)),
                Output::Epoch { leader, .. } => self.leads = *leader == Some(NodeId(self.id)),
                _ => {}
            }
        }
        self.outputs.clear();
        let again = written.is_some() || !self.fetches.is_empty();
        if let Some(mark) = written {
            let input = Input::Durable { mark };
            self.engine.step(self.now, input, &mut self.outputs);
        }
        if let Some(slot) = applied.filter(|_| self.unreported_bytes >= REPORT_BYTES) {
            self.unreported_bytes = 0;
            let input = Input::Applied { slot };
            self.engine.step(self.now, input, &mut self.outputs);
        }
        if !self.fetches.is_empty() {
            self.fetch();
        }
        again
    }

    /// Reads entries back from the journal.
    fn fetch(&mut self) {
        for (from, upto) in std::mem::take(&mut self.fetches) {
            let written = self.journal.iter().chain(&self.accepted);
            let entries = written.flat_map(|entries| entries.iter());
            let wanted = |entry: &&Entry| entry.slot >= from && entry.slot <= upto;
            let wanted = entries.filter(wanted).cloned();
            let by_slot = wanted.map(|entry| (entry.slot, entry));
            let by_slot: BTreeMap<Slot, Entry> = by_slot.collect();
            let entries = by_slot.into_values().collect();
            let input = Input::Fetched { from, entries };
            self.engine.step(self.now, input, &mut self.outputs);
        }
    }
}

/// Stores entries, instead of whatever stood there and behind.
fn keep(journal: &mut Vec<Entries>, entries: Entries) {
    let first = entries[0].slot;
    let is_replaced = |held: &mut Entries| held[held.len() - 1].slot >= first;
    while let Some(held) = journal.pop_if(is_replaced) {
        let before = held.partition_point(|entry| entry.slot < first);
        if before > 0 {
            journal.push(held.slice(0..before));
            break;
        }
    }
    journal.push(entries);
}

impl<E: Engine> Replica for Ours<E> {
    type Message = Message;

    fn propose(&mut self, commands: Bytes) {
        let ticket = Ticket(0);
        let input = Input::Propose { ticket, commands };
        self.engine.step(self.now, input, &mut self.outputs);
    }

    fn receive(&mut self, from: u64, message: Message) {
        let from = NodeId(from);
        let input = Input::Peer { from, message };
        self.engine.step(self.now, input, &mut self.outputs);
    }

    fn turn(&mut self, now: Microseconds, out: &mut Vec<(u64, Message)>) {
        self.now = Instant(now * 1_000);
        loop {
            self.engine.flush(self.now, &mut self.outputs);
            if self.outputs.is_empty() || !self.carry_out(out) {
                return;
            }
        }
    }

    fn tick(&mut self, now: Microseconds) {
        self.now = Instant(now * 1_000);
        if self
            .engine
            .deadline()
            .is_some_and(|deadline| deadline <= self.now)
        {
            self.engine
                .step(self.now, Input::Deadline, &mut self.outputs);
        }
    }

    fn executed(&self) -> u64 {
        self.executed
    }

    fn leads(&self) -> bool {
        self.leads
    }

    fn stand(&mut self) {
        let deadline = self.engine.deadline().expect("it waits for a leader");
        self.engine
            .step(deadline, Input::Deadline, &mut self.outputs);
    }
}
