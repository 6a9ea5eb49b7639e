//! Our engines: any [`Engine`], with a journal in memory.
//!
//! Per entry: the leader appends it to its own log; when the pass ends, all entries of the pass
//! become one shared piece of memory. Journal, followers and replica get handles on that piece, not
//! copies of each entry. What is done per entry and replica is to look at its epoch and length.
//! A write is durable as soon as it is given, and said to be so; answers that wait for it leave
//! with it. The engine keeps the newest MiB of entries itself, the journal all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Instant, NodeId, Slot};
use bytes::Bytes;
use consensus::{
    Config, Engine, Entries, Entry, Input, Limits, Mark, Member, Membership, Message, Output,
    Outputs, Paxos, Payload, Raft, Record, Restored, Ticket,
};

use crate::group::{ELECTION_TICKS, HEARTBEAT_TICKS, Microseconds, REPLICAS, Replica, TICK};

/// One replica.
pub struct Ours<E: Engine> {
    engine: E,
    id: u64,
    now: Instant,
    outputs: Outputs,
    journal: Vec<Entries>,
    /// What Paxos accepted, in the order in which it was written; later ones count.
    accepted: Vec<Entries>,
    executed: u64,
    leads: bool,
}

/// The settings of replica `id`, and what it begins with.
fn beginning(id: u64) -> (Config, Restored) {
    let config = Config {
        id: NodeId(id),
        election_timeout: Duration::from_micros(ELECTION_TICKS * TICK),
        heartbeat_interval: Duration::from_micros(HEARTBEAT_TICKS * TICK),
        limits: Limits {
            cache_bytes: 1 << 20,
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
            journal: Vec::new(),
            accepted: Vec::new(),
            executed: 0,
            leads: false,
        }
    }

    /// Stores entries, instead of whatever stood there and behind.
    fn keep(journal: &mut Vec<Entries>, entries: Entries) {
        let first = entries[0].slot;
        while let Some(held) = journal.pop() {
            let before = held.partition_point(|entry| entry.slot < first);
            if before > 0 {
                journal.push(held.slice(0..before));
                break;
            }
        }
        journal.push(entries);
    }

    /// Carries out what the engine said. Returns what the engine must be told of it.
    fn carry_out(&mut self, out: &mut Vec<(u64, Message)>) -> Done {
        let mut done = Done::default();
        for output in self.outputs.drain(..) {
            match output {
                // The write that it may wait for came before, and is durable.
                Output::Send { to, message, .. } => out.push((to.0, message)),
                Output::Write { mark, records } => {
                    done.written = Some(mark);
                    for record in records {
                        match record {
                            Record::Entries(entries) => Self::keep(&mut self.journal, entries),
                            Record::Accepted { entries, .. } => self.accepted.push(entries),
                            _ => {}
                        }
                    }
                }
                Output::Chosen { entries } => {
                    done.applied = entries.last().map(|entry| entry.slot);
                    let commands = entries
                        .iter()
                        .filter(|entry| matches!(entry.payload, Payload::Commands(_)));
                    self.executed += commands.count() as u64;
                }
                Output::Fetch { from, upto, .. } => {
                    let written = self.journal.iter().chain(&self.accepted);
                    let entries = written.flat_map(|entries| entries.iter());
                    let wanted = |entry: &&Entry| entry.slot >= from && entry.slot <= upto;
                    let wanted = entries.filter(wanted).cloned();
                    let by_slot = wanted.map(|entry| (entry.slot, entry));
                    let by_slot: BTreeMap<Slot, Entry> = by_slot.collect();
                    let entries = by_slot.into_values().collect();
                    done.fetched = Some(Input::Fetched { from, entries });
                }
                Output::Epoch { leader, .. } => self.leads = leader == Some(NodeId(self.id)),
                _ => {}
            }
        }
        done
    }
}

/// What was carried out.
#[derive(Default)]
struct Done {
    written: Option<Mark>,
    applied: Option<Slot>,
    fetched: Option<Input>,
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
            let done = self.carry_out(out);
            let again = done.written.is_some() || done.fetched.is_some();
            if let Some(mark) = done.written {
                let input = Input::Durable { mark };
                self.engine.step(self.now, input, &mut self.outputs);
            }
            if let Some(slot) = done.applied {
                let input = Input::Applied { slot };
                self.engine.step(self.now, input, &mut self.outputs);
            }
            if let Some(input) = done.fetched {
                self.engine.step(self.now, input, &mut self.outputs);
            }
            if !again {
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
