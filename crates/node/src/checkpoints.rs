//! Checkpoint files: written here, read for a peer, received from one.
//!
//! ```text
//! writing:    snapshot ─▶ blocks ─▶ .partial ─▶ sync ─▶ rename to .checkpoint ─▶ Written
//! sending:    ReadPiece ─▶ read .checkpoint ─▶ verify ─▶ PieceRead
//! receiving:  StorePiece ─▶ write .incoming ─▶ PieceStored
//! installing: sync ─▶ read back and verify ─▶ rename to .checkpoint ─▶ Installed
//! ```
//!
//! Each file is called after its group and its slot, `GROUP-SLOT.checkpoint`.
//!
//! Blocks are drained at a paced rate while the node serves; one write is under way at a time. The
//! newest [`Limits::checkpoints_kept`](crate::Limits) files are kept, so that a damaged newest one
//! has a stand-in, and those that a peer is being sent; the journal keeps the entries since the
//! oldest kept.

use std::collections::{BTreeMap, BTreeSet};

use base::{ClusterId, GroupId, Instant, NodeId, Slot};
use bytes::{Bytes, BytesMut};
use consensus::Membership;
use consensus::engine::CheckpointRef;
use journal::disk::{Completion, DiskError, File, Lane, Operation, Request, RequestId};
use state::{CheckpointError, CheckpointHead, CheckpointReader, CheckpointWriter, Snapshot, State};

use crate::group::Place;
use crate::group::levels;
use crate::interface::{Discarded, Output};
use crate::limits::Limits;

mod beginning;
mod schedule;
mod sending;
mod writing;

pub use schedule::Gathered;
use schedule::Schedule;
pub use sending::PieceRead;
use sending::Sending;
use writing::{Chunk, Writing};

/// Ids of the node's own disk requests have this bit; the journal's do not.
pub const OWN_REQUESTS: u64 = 1 << 63;

/// The id of a request that is not the journal's: request `number` of one opening of a group.
#[must_use]
pub fn own_request(opening: u32, number: u32) -> RequestId {
    assert!(opening < 1 << 31, "a node does not open so many groups");
    RequestId(OWN_REQUESTS | u64::from(opening) << 32 | u64::from(number))
}

/// Which opening of a group a request belongs to; `None` if it is the journal's.
#[must_use]
pub fn opening_of(request: RequestId) -> Option<u32> {
    let is_own = request.0 & OWN_REQUESTS != 0;
    is_own.then_some(((request.0 & !OWN_REQUESTS) >> 32) as u32)
}

/// What a disk request was for.
#[derive(Debug)]
enum Purpose {
    Writing {
        slot: Slot,
        step: WritingStep,
    },
    Piece {
        to: NodeId,
        checkpoint: CheckpointRef,
        offset: u64,
        length: u64,
    },
    Stored {
        checkpoint: CheckpointRef,
        stored: u64,
    },
    Installing(InstallingStep),
    GivingUp,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WritingStep {
    Blocks,
    Sync,
    Rename,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InstallingStep {
    Sync,
    Read,
    Rename,
}

/// A received checkpoint that is being verified.
struct Installing {
    checkpoint: CheckpointRef,
    loading: Loading,
    /// What a witness has read of the membership that it is given in place of a checkpoint.
    beginning: BytesMut,
    loaded: Option<Box<(State, Membership)>>,
}

/// A checkpoint file on its way into memory.
pub struct Loading {
    reader: CheckpointReader,
    read: u64,
    level_max: u32,
}

/// The checkpoint files that recovery found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The newest good one, which the state was loaded from.
    pub loaded: Option<CheckpointRef>,
    /// Older ones, not looked into.
    pub older: Vec<Slot>,
    /// Newer ones that are damaged.
    pub damaged: Vec<Slot>,
}

/// What became of something.
pub enum Event {
    /// A checkpoint of this node's own state is on stable storage.
    Written(CheckpointRef),
    /// One could not be written; the log is kept.
    WriteFailed(Slot, String),
    /// Bytes for a peer.
    PieceRead(PieceRead),
    /// A received piece is written.
    PieceStored(CheckpointRef, u64),
    /// A received checkpoint is verified and on stable storage.
    Installed(CheckpointRef, Box<(State, Membership)>),
    /// A received checkpoint did not verify.
    Rejected(CheckpointRef, String),
    /// A received checkpoint is of a level that this node must not execute.
    TooNew(String),
    /// All files are gone, as was wanted.
    GivenUp,
}

/// Why a checkpoint cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is not what was written, or not of this cluster and group: another one may be.
    Damaged(String),
    /// It is whole, and this build must not execute what it holds; for the operator.
    Newer(String),
}

impl Unusable {
    fn of(error: CheckpointError, level_max: u32) -> Unusable {
        match error {
            CheckpointError::Damaged(damage) => Unusable::Damaged(damage.to_string()),
            CheckpointError::Newer { level, .. } if level > level_max => {
                Unusable::Newer(levels::unknown(level, level_max))
            }
            CheckpointError::Newer { .. } => Unusable::Newer(format!(
                "{error}, and this one cannot read it. Nothing has been changed. Start this node \
                 with the version that the others run"
            )),
        }
    }
}

/// The checkpoint files of this node.
pub struct Checkpoints {
    cluster: ClusterId,
    group: GroupId,
    /// It keeps where its log begins and who votes there, as checkpoints of a state without data.
    is_witness: bool,
    limits: Limits,
    /// By slot; what an older one holds is not known until it is needed.
    kept: BTreeMap<Slot, Option<CheckpointRef>>,
    /// Those that a piece was read of since the newest was completed: somebody is being sent them.
    sending: BTreeSet<Slot>,
    /// What is read for each peer is verified.
    verifying: BTreeMap<NodeId, Sending>,
    /// Damaged or given up ones, deleted once there is a newer good one.
    damaged: Vec<Slot>,
    schedule: Schedule,
    writing: Option<Writing>,
    /// How long the log behind the newest checkpoint was when it was last looked at.
    log_bytes: u64,
    installing: Option<Installing>,
    /// The checkpoint that is being received.
    incoming: Option<Slot>,
    /// Files that are being deleted because all of them are given up.
    giving_up: usize,
    purposes: BTreeMap<RequestId, Purpose>,
    /// Stands in the ids of this machine's requests.
    opening: u32,
    last_request: u32,
}

impl Checkpoints {
    /// The files that recovery found.
    #[must_use]
    pub fn new(place: &Place, limits: Limits, found: Found) -> Checkpoints {
        let newest = found
            .loaded
            .map(|reference| (reference.slot, Some(reference)));
        let older = found.older.into_iter().map(|slot| (slot, None));
        Checkpoints {
            cluster: place.cluster,
            group: place.group,
            is_witness: place.is_witness,
            limits,
            kept: older.chain(newest).collect(),
            sending: BTreeSet::new(),
            verifying: BTreeMap::new(),
            damaged: found.damaged,
            schedule: Schedule::default(),
            writing: None,
            log_bytes: 0,
            installing: None,
            incoming: None,
            giving_up: 0,
            purposes: BTreeMap::new(),
            opening: place.opening,
            last_request: 0,
        }
    }

    /// All files that there are, or may be.
    #[must_use]
    pub fn files(&self) -> Vec<File> {
        let whole = self.kept.keys().chain(&self.damaged);
        let whole = whole.map(|slot| File::Checkpoint(self.group, *slot));
        let writing = self.writing.as_ref();
        let partial = writing.map(|writing| File::PartialCheckpoint(self.group, writing.slot));
        // What is being written or received may be put in place before it is deleted.
        let renamed = writing.map(|writing| File::Checkpoint(self.group, writing.slot));
        let incoming = self.incoming.map(|slot| {
            [
                File::IncomingCheckpoint(self.group, slot),
                File::Checkpoint(self.group, slot),
            ]
        });
        let incoming = incoming.into_iter().flatten();
        whole
            .chain(partial)
            .chain(renamed)
            .chain(incoming)
            .collect()
    }

    /// What they hold is wrong: deletes them all, and whatever is on its way to be one. Nothing may
    /// be asked of this machine any more; it ends with [`Event::GivenUp`].
    pub fn give_up(&mut self, out: &mut Vec<Output>) {
        let mut files = self.files();
        // There may be none; what ends is a request in any case.
        files.push(File::PartialCheckpoint(self.group, Slot(0)));
        self.writing = None;
        self.installing = None;
        self.giving_up = files.len();
        for file in files {
            self.request(Operation::Delete { file }, Purpose::GivingUp, out);
        }
    }

    /// The newest checkpoint.
    #[must_use]
    pub fn newest(&self) -> Option<CheckpointRef> {
        self.kept.values().next_back().copied().flatten()
    }

    /// The slot that the journal must keep entries after.
    #[must_use]
    pub fn log_kept_after(&self) -> Slot {
        // What a witness can do without its newest, it can do with a leader.
        if let Some(newest) = self.newest().filter(|_| self.is_witness) {
            return newest.slot;
        }
        if self.kept.len() < self.limits.checkpoints_kept {
            return Slot(0);
        }
        self.kept.keys().next().copied().unwrap_or_default()
    }

    /// The slots of those that are kept.
    pub fn kept(&self) -> impl Iterator<Item = Slot> + '_ {
        self.kept.keys().copied()
    }

    /// A file has been read to see whether it is as it was written. One that is not is given up,
    /// and goes when there is another; returns what is wrong with it.
    pub fn scrubbed(&mut self, slot: Slot, verdict: Result<u64, String>) -> Option<String> {
        // Else it has been deleted meanwhile.
        let known = self.kept.get(&slot)?;
        let damage = match (verdict, known) {
            (Err(damage), _) => damage,
            (Ok(checksum), Some(reference)) if short(checksum) != reference.checksum => {
                "it is not the one that was written".to_owned()
            }
            (Ok(_), _) => return None,
        };
        self.kept.remove(&slot);
        self.damaged.push(slot);
        // What takes its place may be the same, byte for byte, but for what is wrong.
        self.verifying
            .retain(|_, sending| sending.checkpoint.slot != slot);
        Some(format!(
            "checkpoints/{:016x}-{:016x}.checkpoint: {damage}",
            self.group.0, slot.0
        ))
    }

    /// Whether a checkpoint is being written or installed.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.writing.is_some() || self.installing.is_some()
    }

    /// Whether so much log has gathered that a checkpoint is due.
    #[must_use]
    pub fn is_due(&mut self, now: Instant, gathered: Gathered) -> bool {
        let last = self.newest().map_or(0, |newest| newest.length);
        !self.is_busy() && self.schedule.is_due(now, gathered, last, &self.limits)
    }

    /// When [`Checkpoints::drain`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.writing.as_ref()?.deadline()
    }

    /// Begins to write `snapshot`. The log behind the newest checkpoint has so many bytes.
    pub fn start(
        &mut self,
        now: Instant,
        snapshot: Snapshot,
        membership: &Membership,
        log_bytes: u64,
    ) {
        assert!(!self.is_busy(), "one checkpoint at a time");
        self.log_bytes = log_bytes;
        self.write(now, snapshot, membership);
    }

    fn write(&mut self, now: Instant, snapshot: Snapshot, membership: &Membership) {
        let slot = snapshot.applied();
        let mut encoded = BytesMut::new();
        membership.encode(&mut encoded);
        let head = CheckpointHead {
            cluster: self.cluster,
            group: self.group,
            membership: encoded.freeze(),
        };
        let writer = CheckpointWriter::new(snapshot, head, self.limits.state);
        self.writing = Some(Writing::new(now, slot, writer, self.log_bytes));
    }

    /// Writes the next chunk if its time has come. The log behind the newest checkpoint has so many
    /// bytes.
    pub fn drain(&mut self, now: Instant, log_bytes: u64, out: &mut Vec<Output>) {
        self.log_bytes = log_bytes;
        let Some(writing) = self.writing.as_mut() else {
            return;
        };
        let slot = writing.slot;
        let Some(chunk) = writing.take_chunk(now, self.limits.checkpoint_chunk_bytes) else {
            return;
        };
        let Chunk {
            offset,
            length,
            data,
        } = chunk;
        let file = File::PartialCheckpoint(self.group, slot);
        let (operation, step) = if data.is_empty() {
            (Operation::Sync { file }, WritingStep::Sync)
        } else {
            (
                Operation::Write {
                    file,
                    offset,
                    data,
                    sync: crosses(offset, offset + length, self.limits.checkpoint_sync_bytes),
                },
                WritingStep::Blocks,
            )
        };
        self.request(operation, Purpose::Writing { slot, step }, out);
    }

    /// Stores a piece from a peer.
    pub fn store_piece(
        &mut self,
        checkpoint: CheckpointRef,
        offset: u64,
        bytes: Bytes,
        out: &mut Vec<Output>,
    ) {
        let file = File::IncomingCheckpoint(self.group, checkpoint.slot);
        if let Some(slot) = self.incoming.filter(|slot| *slot != checkpoint.slot) {
            let file = File::IncomingCheckpoint(self.group, slot);
            self.request(Operation::Delete { file }, Purpose::Nothing, out);
        }
        self.incoming = Some(checkpoint.slot);
        if offset == 0 {
            self.request(
                Operation::CreateZeroed { file, length: 0 },
                Purpose::Nothing,
                out,
            );
        }
        let stored = offset + bytes.len() as u64;
        let operation = Operation::Write {
            file,
            offset,
            data: vec![bytes],
            sync: crosses(offset, stored, self.limits.checkpoint_sync_bytes),
        };
        self.request(operation, Purpose::Stored { checkpoint, stored }, out);
    }

    /// Verifies a received checkpoint and puts it in place.
    pub fn install(&mut self, checkpoint: CheckpointRef, out: &mut Vec<Output>) {
        // What is being written here is older than what has just been received.
        if let Some(writing) = self.writing.take() {
            let file = File::PartialCheckpoint(self.group, writing.slot);
            self.request(Operation::Delete { file }, Purpose::Nothing, out);
        }
        let loading = Loading::new(&self.limits);
        self.installing = Some(Installing {
            checkpoint,
            loading,
            beginning: BytesMut::new(),
            loaded: None,
        });
        let file = File::IncomingCheckpoint(self.group, checkpoint.slot);
        self.request(
            Operation::Sync { file },
            Purpose::Installing(InstallingStep::Sync),
            out,
        );
    }

    fn request(&mut self, operation: Operation, purpose: Purpose, out: &mut Vec<Output>) {
        self.last_request = self.last_request.wrapping_add(1);
        let id = own_request(self.opening, self.last_request);
        self.purposes.insert(id, purpose);
        out.push(Output::Disk(Request {
            id,
            lane: Lane::Background,
            operation,
        }));
    }

    /// A disk request of this machine has ended.
    pub fn complete(
        &mut self,
        now: Instant,
        completion: Completion,
        out: &mut Vec<Output>,
    ) -> Option<Event> {
        let purpose = self.purposes.remove(&completion.id)?;
        match purpose {
            Purpose::Nothing => None,
            // A file that cannot be deleted is found wrong again.
            Purpose::GivingUp => {
                self.giving_up -= 1;
                (self.giving_up == 0).then_some(Event::GivenUp)
            }
            Purpose::Piece {
                to,
                checkpoint,
                offset,
                length,
            } => {
                let range = (offset, length);
                let piece = self.piece_read(to, checkpoint, range, completion.result);
                Some(Event::PieceRead(piece))
            }
            Purpose::Stored { checkpoint, stored } => match completion.result {
                Ok(_) => Some(Event::PieceStored(checkpoint, stored)),
                Err(error) => {
                    let file = File::IncomingCheckpoint(self.group, checkpoint.slot);
                    self.request(Operation::Delete { file }, Purpose::Nothing, out);
                    self.incoming = None;
                    Some(Event::Rejected(checkpoint, error.to_string()))
                }
            },
            Purpose::Writing { slot, step } => {
                if self
                    .writing
                    .as_ref()
                    .is_none_or(|writing| writing.slot != slot)
                {
                    // Given up, because a newer one came from a peer.
                    self.damaged
                        .extend((step == WritingStep::Rename).then_some(slot));
                    return None;
                }
                match completion.result {
                    Ok(_) => self.write_on(now, step, out),
                    Err(error) => self.give_up_writing(now, &error, out),
                }
            }
            Purpose::Installing(step) => match completion.result {
                Ok(bytes) => self.install_on(step, &bytes, out),
                Err(error) => self.reject(Unusable::Damaged(error.to_string()), out),
            },
        }
    }

    fn write_on(
        &mut self,
        now: Instant,
        step: WritingStep,
        out: &mut Vec<Output>,
    ) -> Option<Event> {
        let pace = self.limits.checkpoint_bytes_per_second;
        let writing = self.writing.as_mut()?;
        match step {
            WritingStep::Blocks => {
                writing.chunk_written(now, self.log_bytes, pace);
                None
            }
            WritingStep::Sync => {
                let from = File::PartialCheckpoint(self.group, writing.slot);
                let to = File::Checkpoint(self.group, writing.slot);
                let purpose = Purpose::Writing {
                    slot: writing.slot,
                    step: WritingStep::Rename,
                };
                self.request(Operation::Rename { from, to }, purpose, out);
                None
            }
            WritingStep::Rename => {
                let writing = self.writing.take()?;
                let summary = writing.summary().expect("all blocks have been drained");
                out.push(Output::Discard(Discarded(Box::new(writing))));
                let checkpoint = reference(&summary);
                self.keep(checkpoint, out);
                // A witness has written where its log begins.
                Some(match self.installing.take() {
                    Some(installing) => {
                        let loaded = installing
                            .loaded
                            .expect("it was read before it was written");
                        Event::Installed(installing.checkpoint, loaded)
                    }
                    None => Event::Written(checkpoint),
                })
            }
        }
    }

    fn give_up_writing(
        &mut self,
        now: Instant,
        error: &DiskError,
        out: &mut Vec<Output>,
    ) -> Option<Event> {
        self.schedule.failed(now, &self.limits);
        let slot = self.writing.take()?.slot;
        let file = File::PartialCheckpoint(self.group, slot);
        self.request(Operation::Delete { file }, Purpose::Nothing, out);
        Some(match self.installing.take() {
            Some(installing) => Event::Rejected(installing.checkpoint, error.to_string()),
            None => Event::WriteFailed(slot, error.to_string()),
        })
    }

    fn install_on(
        &mut self,
        step: InstallingStep,
        bytes: &Bytes,
        out: &mut Vec<Output>,
    ) -> Option<Event> {
        let chunk = self.limits.checkpoint_chunk_bytes;
        let installing = self.installing.as_mut()?;
        let checkpoint = installing.checkpoint;
        let file = File::IncomingCheckpoint(self.group, checkpoint.slot);
        match step {
            InstallingStep::Sync => {}
            InstallingStep::Read if self.is_witness => {
                if bytes.is_empty() {
                    let damage = "the file ends too early".to_owned();
                    return self.reject(Unusable::Damaged(damage), out);
                }
                installing.beginning.extend_from_slice(bytes);
            }
            InstallingStep::Read => {
                if let Err(unusable) = installing.loading.feed(bytes) {
                    return self.reject(unusable, out);
                }
            }
            InstallingStep::Rename => {
                let loaded = self.installing.take()?.loaded?;
                self.incoming = None;
                self.keep(checkpoint, out);
                return Some(Event::Installed(checkpoint, loaded));
            }
        }
        let read = installing.loading.read + installing.beginning.len() as u64;
        if read < checkpoint.length {
            let offset = read;
            let length = chunk.min(checkpoint.length - offset);
            let purpose = Purpose::Installing(InstallingStep::Read);
            self.request(
                Operation::Read {
                    file,
                    offset,
                    length,
                },
                purpose,
                out,
            );
            return None;
        }
        if self.is_witness {
            return self.begin_there(out);
        }
        let loading = std::mem::replace(&mut installing.loading, Loading::new(&self.limits));
        match loading.finish(self.cluster, self.group) {
            Ok((loaded, found)) if found == checkpoint => {
                installing.loaded = Some(Box::new(loaded));
                let to = File::Checkpoint(self.group, checkpoint.slot);
                let purpose = Purpose::Installing(InstallingStep::Rename);
                self.request(Operation::Rename { from: file, to }, purpose, out);
                None
            }
            Ok(_) => {
                let other = "it is not the checkpoint that was announced";
                self.reject(Unusable::Damaged(other.into()), out)
            }
            Err(unusable) => self.reject(unusable, out),
        }
    }

    /// A checkpoint is complete; the oldest are deleted, unless somebody is being sent them: on a
    /// slow network a checkpoint takes longer to arrive than the next ones to be written, and
    /// whoever had to begin anew with each of those would never have one. The log behind it is
    /// kept as well. A transfer that stands still from one checkpoint to the next is given up.
    fn keep(&mut self, checkpoint: CheckpointRef, out: &mut Vec<Output>) {
        self.schedule.completed();
        self.kept.insert(checkpoint.slot, Some(checkpoint));
        let kept = &self.kept;
        self.verifying
            .retain(|_, sending| kept.contains_key(&sending.checkpoint.slot));
        for slot in std::mem::take(&mut self.damaged) {
            if !self.kept.contains_key(&slot) {
                let file = File::Checkpoint(self.group, slot);
                self.request(Operation::Delete { file }, Purpose::Nothing, out);
            }
        }
        let sending = std::mem::take(&mut self.sending);
        let more = self
            .kept
            .len()
            .saturating_sub(self.limits.checkpoints_kept.max(1));
        let old = self.kept.keys().take(more).copied();
        for slot in old
            .filter(|slot| !sending.contains(slot))
            .collect::<Vec<_>>()
        {
            self.kept.remove(&slot);
            let file = File::Checkpoint(self.group, slot);
            self.request(Operation::Delete { file }, Purpose::Nothing, out);
        }
    }
}

/// Whether writing from `start` to `end` crosses a multiple of `step`.
fn crosses(start: u64, end: u64, step: u64) -> bool {
    start / step.max(1) != end / step.max(1)
}

/// The engine's name for a checkpoint.
fn reference(summary: &state::CheckpointSummary) -> CheckpointRef {
    CheckpointRef {
        slot: summary.slot,
        epoch: summary.epoch,
        length: summary.length,
        checksum: short(summary.checksum),
    }
}

/// The engine's name for a checkpoint is shorter; the file itself is checked with all of it.
fn short(checksum: u64) -> u32 {
    (checksum ^ (checksum >> 32)) as u32
}

impl Loading {
    /// Nothing read yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Loading {
        Loading {
            reader: CheckpointReader::new(limits.state),
            read: 0,
            level_max: limits.state.level_max,
        }
    }

    /// How many bytes have been read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read
    }

    /// The next bytes of the file.
    ///
    /// # Errors
    /// If they are damaged: where and how. If they are of a newer level or format.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Unusable> {
        if bytes.is_empty() {
            return Err(Unusable::Damaged(format!(
                "the file ends at byte {}, before its footer",
                self.read
            )));
        }
        self.read += bytes.len() as u64;
        let fed = self.reader.feed(bytes);
        fed.map_err(|error| Unusable::of(error, self.level_max))
    }

    /// The whole file has been read.
    ///
    /// # Errors
    /// If it is damaged, or is not of this cluster and group, or of a newer level or format.
    pub fn finish(
        self,
        cluster: ClusterId,
        group: GroupId,
    ) -> Result<((State, Membership), CheckpointRef), Unusable> {
        let finished = self.reader.finish();
        let (state, head, summary) =
            finished.map_err(|error| Unusable::of(error, self.level_max))?;
        if head.cluster != cluster || head.group != group {
            return Err(Unusable::Damaged(format!(
                "it belongs to group {} of cluster {}, not to group {group} of cluster {cluster}",
                head.group, head.cluster
            )));
        }
        let unreadable = "its membership cannot be decoded";
        let membership = Membership::decode(head.membership)
            .map_err(|_| Unusable::Damaged(unreadable.to_owned()))?;
        Ok(((state, membership), reference(&summary)))
    }
}
