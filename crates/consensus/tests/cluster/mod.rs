//! A host for one engine: a simulated journal, checkpoint store and replica, without a network.
//!
//! It carries out what the engine asks for, but only when the test says so: writes become durable,
//! fetches and pieces are answered on demand. What leaves the engine is also kept as a list of
//! outputs, for the test to check or print.
// Each test uses its part, and fails by panicking.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod network;
pub(crate) mod shapes;

use std::collections::{BTreeMap, VecDeque};

use base::{Epoch, Instant, NodeId, Slot, checksum};
use bytes::{Bytes, BytesMut};
use quorate_consensus::{
    AnyEngine, CheckpointRef, Config, Engine, EngineKind, Entries, Entry, HardState, Input, Mark,
    Membership, Message, Output, Payload, Record, Restored, Tail,
};

/// What is on a node's stable storage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) start: (Slot, Epoch),
    pub(crate) entries: BTreeMap<Slot, Entry>,
    /// The ballots of entries that were accepted under a later one than their epoch.
    pub(crate) ballots: BTreeMap<Slot, Epoch>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) genesis: Membership,
    pub(crate) tail: Tail,
}

/// A stored checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) reference: CheckpointRef,
    pub(crate) membership: Membership,
    pub(crate) bytes: Bytes,
}

impl Disk {
    pub(crate) fn last(&self) -> Slot {
        self.entries
            .last_key_value()
            .map_or(self.start.0, |(slot, _)| *slot)
    }

    pub(crate) fn write(&mut self, record: &Record) {
        match record {
            Record::HardState(state) => {
                self.hard_state = *state;
                if state.uncertain {
                    // The engine remembers it from here on; until then the journal says it at
                    // every start.
                    self.tail = Tail::Certain;
                }
            }
            Record::Entries(entries) => {
                for entry in entries {
                    assert!(entry.slot <= self.last().next(), "the journal has no gap");
                    assert!(
                        entry.slot > self.start.0,
                        "the journal is not written before its start"
                    );
                    self.entries.split_off(&entry.slot);
                    self.entries.insert(entry.slot, entry.clone());
                }
            }
            Record::Accepted { ballot, entries } => {
                for entry in entries {
                    assert!(
                        entry.slot > self.start.0,
                        "the journal is not written before its start"
                    );
                    assert!(
                        *ballot >= entry.epoch,
                        "no entry is younger than its ballot"
                    );
                    self.entries.insert(entry.slot, entry.clone());
                    self.ballots.insert(entry.slot, *ballot);
                }
            }
            Record::LogStarts { slot, epoch } => {
                self.entries = self.entries.split_off(&slot.next());
                self.start = (*slot, *epoch);
            }
            Record::SnapshotInstalled { slot, epoch } => {
                self.entries.clear();
                self.start = (*slot, *epoch);
            }
        }
    }

    pub(crate) fn restored(&self) -> Restored {
        let mut epochs: Vec<(Slot, Epoch)> = Vec::new();
        let mut memberships = Vec::new();
        let (mut ballots, mut gaps) = (Vec::new(), Vec::new());
        let mut expected = self.start.0.next();
        for entry in self.entries.values() {
            if entry.slot > expected {
                gaps.push((expected, entry.slot.previous()));
            }
            expected = entry.slot.next();
            if let Some(ballot) = self.ballots.get(&entry.slot) {
                ballots.push((entry.slot, *ballot));
            }
            if epochs.last().is_none_or(|run| run.1 != entry.epoch) {
                epochs.push((entry.slot, entry.epoch));
            }
            if let Payload::Membership(membership) = &entry.payload {
                memberships.push((entry.slot, membership.as_ref().clone()));
            }
        }
        let checkpoint = self.checkpoint.as_ref();
        Restored {
            hard_state: HardState::decode(self.hard_state.encode()).unwrap(),
            membership: checkpoint
                .map_or(&self.genesis, |held| &held.membership)
                .clone(),
            checkpoint: checkpoint.map(|held| held.reference),
            log_start: self.start,
            epochs,
            ballots,
            gaps,
            last: self.last(),
            memberships,
            applied: checkpoint.map_or(Slot(0), |held| held.reference.slot),
            tail: self.tail,
        }
    }
}

/// The records that a crash may separate: each entry of its own.
pub(crate) fn one_by_one(record: Record) -> Vec<Record> {
    match record {
        Record::Entries(entries) => {
            let entries = entries.iter().cloned().map(Entries::from);
            entries.map(Record::Entries).collect()
        }
        Record::Accepted { ballot, entries } => {
            let entries = entries.iter().cloned().map(Entries::from);
            let accepted = |entries| Record::Accepted { ballot, entries };
            entries.map(accepted).collect()
        }
        record => vec![record],
    }
}

/// What was executed, as a chained checksum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) applied: Slot,
    pub(crate) digest: u32,
    pub(crate) membership: Membership,
}

impl Replica {
    pub(crate) fn execute(&mut self, entry: &Entry) {
        assert_eq!(entry.slot, self.applied.next(), "executed in order");
        let (_, body) = entry.payload.to_body();
        self.digest = checksum::crc32c_append(self.digest, &entry.epoch.0.to_le_bytes());
        self.digest = checksum::crc32c_append(self.digest, &body);
        if let Payload::Membership(membership) = &entry.payload {
            self.membership = membership.as_ref().clone();
        }
        self.applied = entry.slot;
    }

    pub(crate) fn checkpoint(&self, epoch: Epoch, filler: usize) -> Checkpoint {
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&self.digest.to_le_bytes());
        bytes.extend_from_slice(&vec![7; filler]);
        self.membership.encode(&mut bytes);
        let bytes = bytes.freeze();
        let reference = CheckpointRef {
            slot: self.applied,
            epoch,
            length: bytes.len() as u64,
            checksum: checksum::crc32c(&bytes),
        };
        Checkpoint {
            reference,
            membership: self.membership.clone(),
            bytes,
        }
    }
}

/// Something that the engine asked for and that takes time.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    Fetch {
        from: Slot,
        upto: Slot,
        max_bytes: u64,
    },
    ReadPiece {
        to: NodeId,
        checkpoint: CheckpointRef,
        offset: u64,
        length: u64,
    },
    StorePiece {
        checkpoint: CheckpointRef,
        offset: u64,
        bytes: Bytes,
    },
    Install {
        checkpoint: CheckpointRef,
    },
}

/// One engine with everything around it but the network.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) config: Config,
    pub(crate) engine: AnyEngine,
    pub(crate) disk: Disk,
    pub(crate) writes: VecDeque<(Mark, Vec<Record>)>,
    pub(crate) durable: Mark,
    pub(crate) gated: Vec<(Mark, NodeId, Message)>,
    pub(crate) outgoing: Vec<(NodeId, Message)>,
    pub(crate) tasks: VecDeque<Task>,
    pub(crate) incoming: BytesMut,
    pub(crate) replica: Replica,
    /// The replica executes what it is given.
    pub(crate) executes: bool,
    /// Everything that the engine said, for the test to take.
    pub(crate) said: Vec<Output>,
    /// Bytes that a checkpoint is padded with.
    pub(crate) filler: usize,
}

impl Host {
    pub(crate) fn start(
        kind: EngineKind,
        config: Config,
        disk: Disk,
        seed: u64,
        now: Instant,
    ) -> Host {
        let replica = match &disk.checkpoint {
            None => Replica {
                membership: disk.genesis.clone(),
                ..Replica::default()
            },
            Some(held) => Host::load(held.reference.slot, &held.bytes, &held.membership),
        };
        let engine = AnyEngine::new(kind, config.clone(), disk.restored(), seed, now);
        Host {
            config,
            engine,
            disk,
            writes: VecDeque::new(),
            durable: Mark(0),
            gated: Vec::new(),
            outgoing: Vec::new(),
            tasks: VecDeque::new(),
            incoming: BytesMut::new(),
            replica,
            executes: true,
            said: Vec::new(),
            filler: 0,
        }
    }

    fn load(slot: Slot, bytes: &Bytes, membership: &Membership) -> Replica {
        let digest = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        Replica {
            applied: slot,
            digest,
            membership: membership.clone(),
        }
    }

    pub(crate) fn step(&mut self, now: Instant, input: Input) {
        let mut outputs = Vec::new();
        self.engine.step(now, input, &mut outputs);
        self.carry_out(now, outputs);
    }

    pub(crate) fn flush(&mut self, now: Instant) {
        let mut outputs = Vec::new();
        self.engine.flush(now, &mut outputs);
        self.carry_out(now, outputs);
    }

    fn carry_out(&mut self, now: Instant, outputs: Vec<Output>) {
        let mut executed = false;
        for output in outputs {
            self.said.push(output.clone());
            match output {
                Output::Send { to, message, after } => {
                    let mut buffer = BytesMut::new();
                    message.encode(&mut buffer);
                    assert_eq!(Message::decode(buffer.freeze()), Ok(message.clone()));
                    match after.filter(|mark| *mark > self.durable) {
                        Some(mark) => self.gated.push((mark, to, message)),
                        None => self.outgoing.push((to, message)),
                    }
                }
                Output::Write { mark, records } => {
                    let records = records.into_iter().flat_map(one_by_one).collect();
                    self.writes.push_back((mark, records));
                }
                Output::Fetch {
                    from,
                    upto,
                    max_bytes,
                } => {
                    self.tasks.push_back(Task::Fetch {
                        from,
                        upto,
                        max_bytes,
                    });
                }
                Output::Chosen { entries } => {
                    for entry in &entries {
                        self.replica.execute(entry);
                    }
                    executed = true;
                }
                Output::ReadPiece {
                    to,
                    checkpoint,
                    offset,
                    length,
                } => {
                    self.tasks.push_back(Task::ReadPiece {
                        to,
                        checkpoint,
                        offset,
                        length,
                    });
                }
                Output::StorePiece {
                    checkpoint,
                    offset,
                    bytes,
                } => {
                    self.tasks.push_back(Task::StorePiece {
                        checkpoint,
                        offset,
                        bytes,
                    });
                }
                Output::InstallSnapshot { checkpoint } => {
                    self.tasks.push_back(Task::Install { checkpoint });
                }
                _ => {}
            }
        }
        if executed && self.executes {
            let slot = self.replica.applied;
            self.step(now, Input::Applied { slot });
        }
    }

    /// The oldest write becomes durable.
    pub(crate) fn complete_write(&mut self, now: Instant) {
        let Some((mark, records)) = self.writes.pop_front() else {
            return;
        };
        for record in &records {
            self.disk.write(record);
        }
        self.durable = mark;
        let gated = std::mem::take(&mut self.gated);
        for (after, to, message) in gated {
            if after <= mark {
                self.outgoing.push((to, message));
            } else {
                self.gated.push((after, to, message));
            }
        }
        self.step(now, Input::Durable { mark });
    }

    /// The oldest task is done. Returns what it was.
    pub(crate) fn complete_task(&mut self, now: Instant) -> Option<Task> {
        let task = self.tasks.pop_front()?;
        match task.clone() {
            Task::Fetch {
                from,
                upto,
                max_bytes,
            } => self.fetch(now, from, upto, max_bytes),
            Task::ReadPiece {
                to,
                checkpoint,
                offset,
                length,
            } => {
                let held = self.disk.checkpoint.as_ref();
                let bytes = held
                    .filter(|held| held.reference == checkpoint)
                    .map(|held| {
                        held.bytes
                            .slice(offset as usize..(offset + length) as usize)
                    });
                let bytes = bytes.unwrap_or_default();
                self.step(
                    now,
                    Input::PieceRead {
                        to,
                        checkpoint,
                        offset,
                        bytes,
                    },
                );
            }
            Task::StorePiece {
                checkpoint,
                offset,
                bytes,
            } => {
                self.incoming.truncate(offset as usize);
                assert_eq!(self.incoming.len() as u64, offset, "pieces come in order");
                self.incoming.extend_from_slice(&bytes);
                let stored = self.incoming.len() as u64;
                self.step(now, Input::PieceStored { checkpoint, stored });
            }
            Task::Install { checkpoint } => self.install(now, checkpoint),
        }
        Some(task)
    }

    fn fetch(&mut self, now: Instant, from: Slot, upto: Slot, max_bytes: u64) {
        let mut bytes = 0;
        let mut entries = Vec::new();
        for (_, entry) in self.disk.entries.range(from..=upto) {
            bytes += entry.bytes();
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        self.step(now, Input::Fetched { from, entries });
    }

    fn install(&mut self, now: Instant, checkpoint: CheckpointRef) {
        let bytes = self.incoming.split().freeze();
        if checksum::crc32c(&bytes) != checkpoint.checksum {
            return self.step(now, Input::SnapshotRejected { checkpoint });
        }
        // A witness is sent a membership and nothing else.
        let membership = Membership::decode(bytes.clone())
            .or_else(|_| Membership::decode(bytes.slice(4 + self.filler..)))
            .unwrap();
        self.replica = Host::load(checkpoint.slot, &bytes, &membership);
        self.disk.checkpoint = Some(Checkpoint {
            reference: checkpoint,
            membership: membership.clone(),
            bytes,
        });
        self.step(
            now,
            Input::SnapshotInstalled {
                checkpoint,
                membership,
            },
        );
    }

    pub(crate) fn is_witness(&self) -> bool {
        let (_, membership) = self.engine.membership_in_force();
        membership.is_witness(self.config.id) || self.disk.genesis.is_witness(self.config.id)
    }

    /// A witness has no state: all that it lets go of is where its log begins, and who votes there.
    fn forget_headers(&mut self, now: Instant) -> bool {
        let kept = self.config.limits.headers_kept();
        let slot = Slot(self.replica.applied.0.saturating_sub(kept));
        let Some(entry) = self.disk.entries.get(&slot) else {
            return false;
        };
        if self.engine.view().durable < slot || !self.tasks.is_empty() {
            return false;
        }
        let memberships = self.disk.entries.range(..=slot).rev();
        let mut memberships = memberships.filter_map(|(_, entry)| match &entry.payload {
            Payload::Membership(membership) => Some(membership.as_ref()),
            _ => None,
        });
        let held = self.disk.checkpoint.as_ref().map(|held| &held.membership);
        let membership = memberships.next().or(held);
        let membership = membership.unwrap_or(&self.disk.genesis).clone();
        let replica = Replica {
            applied: slot,
            membership,
            ..Replica::default()
        };
        let held = replica.checkpoint(entry.epoch, self.filler);
        let checkpoint = held.reference;
        self.disk.start = (slot, entry.epoch);
        self.disk.entries = self.disk.entries.split_off(&slot.next());
        self.disk.checkpoint = Some(held);
        let log_kept_after = slot;
        self.step(
            now,
            Input::CheckpointTaken {
                checkpoint,
                log_kept_after,
            },
        );
        true
    }

    /// Takes a checkpoint of what is executed, and lets the journal forget what is `kept` slots
    /// before it. Only what is durable in the journal is checkpointed.
    pub(crate) fn take_checkpoint(&mut self, now: Instant, kept: u64) -> bool {
        if self.is_witness() {
            return self.forget_headers(now);
        }
        let slot = self.replica.applied;
        if self.engine.view().durable < slot {
            return false;
        }
        let Some(entry) = self
            .disk
            .entries
            .get(&slot)
            .filter(|_| self.tasks.is_empty())
        else {
            return false;
        };
        let held = self.replica.checkpoint(entry.epoch, self.filler);
        let checkpoint = held.reference;
        let after = Slot(slot.0.saturating_sub(kept)).max(self.disk.start.0);
        if let Some(entry) = self.disk.entries.get(&after) {
            self.disk.start = (after, entry.epoch);
            self.disk.entries = self.disk.entries.split_off(&after.next());
        }
        self.disk.checkpoint = Some(held);
        self.step(
            now,
            Input::CheckpointTaken {
                checkpoint,
                log_kept_after: after,
            },
        );
        true
    }

    /// The process dies: of the writes under way, `survives` records reach the disk.
    pub(crate) fn crash(mut self, survives: usize) -> Disk {
        let records = self.writes.iter().flat_map(|(_, records)| records);
        for record in records.take(survives) {
            self.disk.write(record);
        }
        self.disk
    }
}
