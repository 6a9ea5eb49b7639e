//! The fault atlas: what a disk may lose.
//!
//! A disk that lies about a sync, or loses a write, may lose a record for good only while a quorum
//! of *others* has it intact, and a vote, an epoch or a promise never: no protocol survives more
//! (Protocol-Aware Recovery, FAST'18, section 2). So before a power cut makes such a loss real, the
//! atlas reads the disk as it would be afterwards, with the production recovery, and compares it
//! with what the disk had promised. Damage that shows (a flipped bit, a sector that cannot be read)
//! needs no such question: the node must refuse, and counts as down.

use base::{NodeId, Slot};
use consensus::{EngineKind, HardState};
use journal::disk::{Completion, File, Operation};
use journal::{Recovered, Recovery, RecoveryStep};
use node::Standing;
use node::group::META;

use super::World;
use super::host::Host;
use crate::disk::{Crash, Disk};
use crate::invariants::durability::{self, OnDisk};
use crate::marks::Mark;

/// How much of a disk each acknowledgement lets be read, to see that it is true.
const CREDIT_BYTES: u64 = 1 << 10;

/// What a journal remembers that others rely on.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Reads the journal of a disk as a starting node would; `None` if it would refuse.
pub(crate) fn read(host: &Host, disk: &Disk) -> Option<Memory> {
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
    let group = recovered.groups.get(&META).cloned().unwrap_or_default();
    let hard_state = match group.hard_state {
        Some(body) => HardState::decode(body).ok()?,
        None => HardState::default(),
    };
    // What came as a checkpoint stands in no log.
    let checkpoints = disk.list().into_iter().map(|(file, _)| match file {
        File::Checkpoint(META, slot) => slot,
        _ => Slot(0),
    });
    Some(Memory {
        hard_state,
        start: group.start.0,
        last: group.last,
        epochs: group.epochs,
        ballots: group.ballots,
        gaps: group.gaps,
        checkpoint: checkpoints.max().unwrap_or_default(),
    })
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
            if let Some(node) = self.hosts[index].id() {
                self.invariants.excuse(node);
            }
        }
    }

    /// Holds what a node promises against its disk; whether that ends the run.
    pub(crate) fn observe_promise(
        &mut self,
        from: usize,
        ids: Option<(NodeId, NodeId)>,
        body: &bytes::Bytes,
    ) -> bool {
        let Some((own, to)) = ids else {
            return false;
        };
        let promises = self.invariants.promises(to, body);
        let mut promises = promises.into_iter();
        promises.any(|promise| self.hold_to_disk(from, own, promise))
    }

    /// Holds a promise against the disk of whoever gave it; whether that ends the run.
    pub(crate) fn hold_to_disk(
        &mut self,
        from: usize,
        own: NodeId,
        promise: durability::Promise,
    ) -> bool {
        let host = &mut self.hosts[from];
        let end = match &promise {
            durability::Promise::Holds(_, matched) => Some(*matched),
            durability::Promise::Accepts(_, _, slots) => Some(slots.highest()),
            durability::Promise::Votes(..) => None,
        };
        if let Some(matched) = end {
            if matched == host.promised {
                return false;
            }
            host.promised = matched;
            // Reading a disk is dear: each promise pays for a part of it.
            host.promise_credit += CREDIT_BYTES;
            if host.promise_credit < host.disk.length() {
                return false;
            }
            host.promise_credit = 0;
        }
        let host = &self.hosts[from];
        // What a disk lies about, its node cannot know.
        if host.disk.has_lied() || !host.reasons.is_sound() {
            return false;
        }
        let Some(memory) = read(host, &host.disk.worst()) else {
            return false;
        };
        let last = memory.last.max(memory.checkpoint);
        self.invariants.checks += 1;
        let accepts = match &promise {
            durability::Promise::Accepts(ballot, _, slots) => {
                self.invariants
                    .accepts_on_disk(own, (*ballot, slots), &memory)
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
        if self.scenario.engine != EngineKind::Paxos || !host.reasons.is_sound() {
            return;
        }
        let memory = read(host, &host.disk);
        if let Some((memory, own)) = memory.zip(host.id())
            && let Err(violation) = self.invariants.starts_from(own, &memory)
        {
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
        let Some(left) = read(host, loses) else {
            // It notices: that is a node that is down.
            return true;
        };
        let votes = |memory: &Memory| (memory.hard_state.epoch, memory.hard_state.vote);
        if votes(&promised) != votes(&left) {
            return false;
        }
        if self.scenario.engine == EngineKind::Paxos {
            return self.may_lose_accepted(index, &promised, &left);
        }
        left.last >= promised.last || self.others_hold(index, &promised)
    }

    /// Paxos: each slot counts for itself. What is lost, or stands under a lower ballot, a quorum
    /// of the others must have accepted, under the same ballot or a higher one.
    fn may_lose_accepted(&self, index: usize, promised: &Memory, left: &Memory) -> bool {
        let slots = (left.covered().next().0..=promised.last.0).map(Slot);
        let lost: Vec<(Slot, (base::Epoch, base::Epoch))> = slots
            .filter_map(|slot| Some((slot, promised.accepted(slot)?)))
            .filter(|(slot, held)| left.accepted(*slot) != Some(*held))
            .collect();
        if lost.is_empty() {
            return true;
        }
        let others = self.hosts.iter().enumerate().filter(|(other, host)| {
            *other != index && host.reasons.is_sound() && !host.reasons.removed
        });
        let others: Vec<Memory> = others
            .filter_map(|(_, host)| read(host, &host.disk.worst()))
            .collect();
        lost.iter().all(|(slot, (ballot, epoch))| {
            let holds = |other: &&Memory| {
                let held = other.accepted(*slot);
                held.is_some_and(|held| held.0 >= *ballot && held.1 == *epoch)
            };
            others.iter().filter(holds).count() > self.hosts.len() / 2
        })
    }

    /// Whether a quorum of the others has all of this on their disks, whatever happens to them.
    fn others_hold(&self, index: usize, promised: &Memory) -> bool {
        let last = (
            promised.last,
            promised.epochs.last().map(|(_, epoch)| *epoch),
        );
        let holders: Vec<NodeId> = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(other, host)| {
                *other != index && host.reasons.is_sound() && !host.reasons.removed
            })
            .filter_map(|(_, host)| {
                let memory = read(host, &host.disk.worst())?;
                let held = memory.last >= last.0 && epoch_at(&memory, last.0) == last.1;
                held.then(|| host.id()).flatten()
            })
            .collect();
        let everyone = self.hosts.len();
        holders.len() > everyone / 2
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
