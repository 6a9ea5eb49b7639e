//! The fault atlas: what a disk may lose.
//!
//! A disk that lies about a sync, or loses a write, may lose a record for good only while a quorum
//! of *others* has it intact, and a vote, an epoch or a promise never: no protocol survives more
//! (Protocol-Aware Recovery, FAST'18, section 2). So before a power cut makes such a loss real, the
//! atlas reads the disk as it would be afterwards, with the production recovery, and compares it
//! with what the disk had promised. Damage that shows (a flipped bit, a sector that cannot be read)
//! needs no such question: the node notices it, counts for nothing until the others have made up
//! for it, and is as good as they are from then on.

use std::collections::BTreeMap;

use base::{GroupId, NodeId, Slot};
use consensus::{EngineKind, HardState};
use journal::disk::{Completion, File, Operation};
use journal::{Recovered, Recovery, RecoveryStep};
use node::Standing;
use node::group::META;

use super::World;
use super::host::Host;
use crate::disk::{Crash, Disk};
use crate::invariants::Invariants;
use crate::invariants::durability::{self, OnDisk};
use crate::marks::Mark;

/// How much of a disk each acknowledgement lets be read, to see that it is true.
const CREDIT_BYTES: u64 = 1 << 10;

/// What a journal remembers that others rely on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) hard_state: HardState,
    pub(crate) start: Slot,
    pub(crate) last: Slot,
    pub(crate) epochs: Vec<(Slot, base::Epoch)>,
    /// Of Paxos: ballots later than an entry's epoch, by slot.
    pub(crate) ballots: Vec<(Slot, base::Epoch)>,
    /// Of Paxos: first and last slot of each gap.
    pub(crate) gaps: Vec<(Slot, Slot)>,
    /// The newest checkpoint on the disk.
    pub(crate) checkpoint: Slot,
}

impl OnDisk for Memory {
    fn covered(&self) -> Slot {
        self.start.max(self.checkpoint)
    }

    fn accepted(&self, slot: Slot) -> Option<(base::Epoch, base::Epoch)> {
        let is_gap = self.gaps.iter().any(|gap| gap.0 <= slot && slot <= gap.1);
        if slot <= self.start || slot > self.last || is_gap {
            return None;
        }
        let epoch = epoch_at(self, slot)?;
        let at = self.ballots.binary_search_by_key(&slot, |held| held.0);
        let ballot = at.map_or(epoch, |at| self.ballots[at].1.max(epoch));
        Some((ballot, epoch))
    }
}

/// What a journal remembers, by group.
pub(crate) type Memories = BTreeMap<GroupId, Memory>;

/// Reads the journal of a disk as a starting node would; `None` if it would refuse.
pub(crate) fn read(host: &Host, disk: &Disk) -> Option<Memories> {
    let identity = disk.identity.as_ref()?;
    let Standing::Member { cluster, .. } = identity.standing else {
        return None;
    };
    let own = journal::Identity {
        cluster,
        node: identity.node,
        disk: identity.disk,
    };
    let files: Vec<(File, u64)> = disk
        .list()
        .into_iter()
        .filter(|(file, _)| matches!(file, File::Segment(_) | File::SpareSegment(_)))
        .collect();
    let recovered = recover(own, host.config.limits.journal, &files, disk.clone())?;
    let mut memories = BTreeMap::new();
    for (group, held) in recovered.groups {
        let hard_state = match held.hard_state {
            Some(body) => HardState::decode(body).ok()?,
            None => HardState::default(),
        };
        let memory = Memory {
            hard_state,
            start: held.start.0,
            last: held.last,
            epochs: held.epochs,
            ballots: held.ballots,
            gaps: held.gaps,
            checkpoint: Slot(0),
        };
        memories.insert(group, memory);
    }
    // What came as a checkpoint stands in no log; there may not be any record of its group.
    for (file, _) in disk.list() {
        if let File::Checkpoint(group, slot) = file {
            let memory = memories.entry(group).or_default();
            memory.checkpoint = memory.checkpoint.max(slot);
        }
    }
    memories.entry(META).or_default();
    Some(memories)
}

fn recover(
    own: journal::Identity,
    limits: journal::Limits,
    files: &[(File, u64)],
    mut disk: Disk,
) -> Option<Recovered> {
    let mut recovery = Recovery::new(own, limits, files);
    let mut requests = Vec::new();
    recovery.start(&mut requests);
    let mut waiting: std::collections::VecDeque<_> = requests.drain(..).collect();
    while let Some(request) = waiting.pop_front() {
        let result = disk.carry_out_now(&request.operation);
        let id = request.id;
        let step = recovery.complete(Completion { id, result }, &mut requests);
        waiting.extend(requests.drain(..));
        match step {
            RecoveryStep::Working { .. } => {}
            RecoveryStep::Refused(_) => return None,
            RecoveryStep::Done(done) => return Some(done.1),
        }
    }
    None
}

impl World {
    /// A node has died: its disk loses what it may lose.
    pub(crate) fn crash_disk(&mut self, index: usize, crash: Crash) {
        let host = &mut self.hosts[index];
        if crash == Crash::Process || !host.disk.has_lied() {
            host.disk.crash(crash, false, &mut host.disk_random);
            return;
        }
        let mut loses = host.disk.clone();
        let mut random = host.disk_random.clone();
        loses.crash(crash, true, &mut random);
        let mut keeps = host.disk.clone();
        keeps.crash(crash, false, &mut host.disk_random.clone());
        let may = self.may_lose(index, &keeps, &loses);
        let host = &mut self.hosts[index];
        host.disk_random = random;
        host.disk = if may { loses } else { keeps };
        self.marks.reach(if may {
            Mark::LieLost
        } else {
            Mark::AtlasForbade
        });
        if may {
            self.hosts[index].reasons.damaged = true;
            self.hosts[index].reasons.mended = false;
            if let Some(node) = self.hosts[index].id() {
                self.invariants.excuse(node);
            }
        }
    }

    /// Holds a promise against the disk of whoever gave it; whether that ends the run.
    pub(crate) fn hold_to_disk(
        &mut self,
        from: usize,
        own: NodeId,
        (group, promise): (GroupId, durability::Promise),
    ) -> bool {
        let host = &mut self.hosts[from];
        let end = match &promise {
            durability::Promise::Holds(_, matched) => Some(*matched),
            durability::Promise::Accepts(_, _, slots) => Some(slots.highest()),
            durability::Promise::Votes(..) => None,
        };
        if let Some(matched) = end {
            if (group, matched) == host.promised {
                return false;
            }
            host.promised = (group, matched);
            // Reading a disk is dear: each promise pays for a part of it.
            host.promise_credit += CREDIT_BYTES;
            if host.promise_credit < host.disk.length() {
                return false;
            }
            host.promise_credit = 0;
        }
        let host = &self.hosts[from];
        // What a disk lies about, its node cannot know.
        let has_closed = self.invariants.has_closed(own, group);
        if host.disk.has_lied() || !host.reasons.is_sound() || has_closed {
            return false;
        }
        let Some(mut memories) = read(host, &host.disk.worst()) else {
            return false;
        };
        let memory = memories.remove(&group).unwrap_or_default();
        let last = memory.last.max(memory.checkpoint);
        let invariants = self.invariants.of_mut(group);
        invariants.checks += 1;
        let accepts = match &promise {
            durability::Promise::Accepts(ballot, _, slots) => {
                invariants.accepts_on_disk(own, (*ballot, slots), &memory)
            }
            _ => Ok(()),
        };
        let promised = |()| durability::on_disk(own, promise, &memory.hard_state, last);
        match accepts.and_then(promised) {
            Ok(()) => false,
            Err(violation) => {
                self.fail(violation);
                true
            }
        }
    }

    /// A node starts: what it has accepted must stand on its disk.
    pub(crate) fn hold_to_start(&mut self, index: usize) {
        let host = &self.hosts[index];
        let is_paxos = self
            .scenario
            .engines()
            .any(|kind| kind == EngineKind::Paxos);
        if !is_paxos || !host.reasons.is_sound() {
            return;
        }
        let Some((memories, own)) = read(host, &host.disk).zip(host.id()) else {
            return;
        };
        let nothing = Memory::default();
        let looked = self.invariants.iter_mut().try_for_each(|(group, each)| {
            let memory = memories.get(&group).unwrap_or(&nothing);
            each.starts_from(own, memory)
        });
        if let Err(violation) = looked {
            self.fail(violation);
        }
    }

    /// Whether the difference between two disks may be lost.
    fn may_lose(&self, index: usize, keeps: &Disk, loses: &Disk) -> bool {
        let host = &self.hosts[index];
        let Some(promised) = read(host, keeps) else {
            // It is damaged already, and refuses.
            return true;
        };
        let Some(mut left) = read(host, loses) else {
            // It notices: that is a node that is down.
            return true;
        };
        promised.iter().all(|(group, promised)| {
            let left = left.remove(group).unwrap_or_default();
            self.may_lose_of(*group, index, promised, &left)
        })
    }

    /// The same, for what they hold of one group.
    fn may_lose_of(&self, group: GroupId, index: usize, promised: &Memory, left: &Memory) -> bool {
        let votes = |memory: &Memory| (memory.hard_state.epoch, memory.hard_state.vote);
        if votes(promised) != votes(left) {
            return false;
        }
        let members = self.invariants.of(group).and_then(Invariants::members);
        let engine = members.map_or(self.scenario.engine, |members| members.engine);
        if engine == EngineKind::Paxos {
            return self.may_lose_accepted(group, index, promised, left);
        }
        left.last >= promised.last || self.others_hold(group, index, promised)
    }

    /// What hosts other than this one have of a group, whatever happens to them.
    fn others_have(&self, group: GroupId, index: usize) -> impl Iterator<Item = Memory> + '_ {
        let others = self.hosts.iter().enumerate().filter(move |(other, host)| {
            *other != index && host.reasons.is_sound() && !host.reasons.removed
        });
        others.filter_map(move |(_, host)| read(host, &host.disk.worst())?.remove(&group))
    }

    /// Paxos: each slot counts for itself. What is lost, or stands under a lower ballot, a quorum
    /// of the others must have accepted, under the same ballot or a higher one.
    fn may_lose_accepted(
        &self,
        group: GroupId,
        index: usize,
        promised: &Memory,
        left: &Memory,
    ) -> bool {
        let slots = (left.covered().next().0..=promised.last.0).map(Slot);
        let lost: Vec<(Slot, (base::Epoch, base::Epoch))> = slots
            .filter_map(|slot| Some((slot, promised.accepted(slot)?)))
            .filter(|(slot, held)| left.accepted(*slot) != Some(*held))
            .collect();
        if lost.is_empty() {
            return true;
        }
        let others: Vec<Memory> = self.others_have(group, index).collect();
        lost.iter().all(|(slot, (ballot, epoch))| {
            let holds = |other: &&Memory| {
                let held = other.accepted(*slot);
                held.is_some_and(|held| held.0 >= *ballot && held.1 == *epoch)
            };
            others.iter().filter(holds).count() >= self.majority_of(group)
        })
    }

    /// Whether a quorum of the others has all of this on their disks, whatever happens to them.
    fn others_hold(&self, group: GroupId, index: usize, promised: &Memory) -> bool {
        let (last, epoch) = (promised.last, epoch_at(promised, promised.last));
        let holds = |memory: &Memory| memory.last >= last && epoch_at(memory, last) == epoch;
        let holders = self.others_have(group, index).filter(holds).count();
        holders >= self.majority_of(group)
    }
}

fn epoch_at(memory: &Memory, slot: Slot) -> Option<base::Epoch> {
    let runs = memory.epochs.iter().rev();
    let mut runs = runs.filter(|(from, _)| *from <= slot);
    runs.next().map(|(_, epoch)| *epoch)
}

impl Disk {
    /// Carries out an operation at once, on a copy that somebody looks at: what is read is shared
    /// with it.
    fn carry_out_now(
        &mut self,
        operation: &Operation,
    ) -> Result<bytes::Bytes, journal::disk::DiskError> {
        match self.read_shared(operation) {
            Some(bytes) => Ok(bytes),
            None => self.carry_out(base::Instant(u64::MAX), operation),
        }
    }
}
