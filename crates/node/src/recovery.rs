//! From a data folder to what was known when the node stopped.
//!
//! ```text
//! newest checkpoint ─▶ verify and load ──damaged──▶ the one before it ──none left──▶ refuse
//!        │ good (or there never was one)
//!        ▼
//! journal: read every segment, cut a torn tail, refuse damage ─▶ join the two ─▶ Recovered
//! ```
//!
//! Execution goes on where the checkpoint ends: the engine hands the chosen entries behind it out
//! again. A crash may come between putting a received checkpoint in place and noting so in the
//! journal; then the log does not reach (or contradicts) the checkpoint, and begins anew behind it.

use std::collections::VecDeque;

use base::{ClusterId, Epoch, GroupId, Slot};
use consensus::Membership;
use consensus::engine::CheckpointRef;
use journal::disk::{Completion, DiskError, File, Lane, Operation, Request, RequestId};
use journal::{Journal, Recovered as RecoveredLog, RecoveredGroup, RecoveryStep};
use state::State;

use crate::checkpoints::{Found, Loading, OWN_REQUESTS};
use crate::interface::Output;
use crate::limits::Limits;
use crate::notes::Note;

/// What was recovered.
pub struct Recovered {
    /// The state at the newest good checkpoint, or an empty one.
    pub state: State,
    /// The membership at that point.
    pub membership: Membership,
    /// The checkpoint files.
    pub found: Found,
    /// The journal, ready to be written.
    pub journal: Journal,
    /// What it holds for the group.
    pub log: RecoveredGroup,
    /// There was no journal; this is the first start of a member, or its log is lost.
    pub journal_created: bool,
    /// Requests that the journal has given out and not heard of yet.
    pub outstanding: usize,
    /// The log does not connect to the checkpoint: it begins anew behind it, and the journal must
    /// be told so first.
    pub log_replaced: bool,
}

enum Step {
    Checkpoint {
        slot: Slot,
        loading: Box<Loading>,
        reads: Reads,
    },
    Journal(Box<journal::Recovery>),
    Done,
}

/// What a disk says to a read.
type ReadResult = Result<bytes::Bytes, DiskError>;

/// The reads of one checkpoint that are under way, in the order of the file. The disk reads ahead
/// while what it has read before is taken in; it may answer in any order.
struct Reads {
    under_way: VecDeque<(u64, Option<ReadResult>)>,
    /// Where the next read begins.
    next: u64,
    /// How long the file was when it was listed.
    length: u64,
}

/// Reads the data folder back.
pub struct Recovery {
    cluster: ClusterId,
    group: GroupId,
    limits: Limits,
    identity: journal::Identity,
    files: Vec<(File, u64)>,
    genesis: Membership,
    candidates: Vec<(Slot, u64)>,
    damages: Vec<String>,
    damaged: Vec<Slot>,
    loaded: Option<((State, Membership), CheckpointRef)>,
    step: Step,
    last_request: u64,
}

/// What a completion led to.
pub enum Progress {
    /// More is being read.
    Working,
    /// Everything is there.
    Done(Box<Recovered>),
    /// It cannot be used as it is; for the operator.
    Refused(String),
}

impl Recovery {
    /// Prepares to read `files`; nothing is read before [`Recovery::start`].
    #[must_use]
    pub fn new(
        identity: journal::Identity,
        group: GroupId,
        genesis: Membership,
        limits: Limits,
        files: Vec<(File, u64)>,
    ) -> Recovery {
        let mut candidates: Vec<(Slot, u64)> = files
            .iter()
            .filter_map(|(file, length)| match file {
                File::Checkpoint(slot) => Some((*slot, *length)),
                _ => None,
            })
            .collect();
        candidates.sort_unstable();
        Recovery {
            cluster: identity.cluster,
            group,
            limits,
            identity,
            files,
            genesis,
            candidates,
            damages: Vec::new(),
            damaged: Vec::new(),
            loaded: None,
            step: Step::Done,
            last_request: 0,
        }
    }

    /// Begins.
    pub fn start(&mut self, out: &mut Vec<Output>) -> Progress {
        let unfinished: Vec<File> = self
            .files
            .iter()
            .map(|(file, _)| *file)
            .filter(|file| {
                matches!(
                    file,
                    File::PartialCheckpoint(_) | File::IncomingCheckpoint(_)
                )
            })
            .collect();
        for file in unfinished {
            self.request(Operation::Delete { file }, out);
        }
        self.next_checkpoint(out)
    }

    fn request(&mut self, operation: Operation, out: &mut Vec<Output>) {
        self.last_request += 1;
        let id = RequestId(OWN_REQUESTS | self.last_request);
        out.push(Output::Disk(Request {
            id,
            lane: Lane::Background,
            operation,
        }));
    }

    fn next_checkpoint(&mut self, out: &mut Vec<Output>) -> Progress {
        if let Some((slot, length)) = self.candidates.pop() {
            let mut reads = Reads {
                under_way: VecDeque::new(),
                next: 0,
                length,
            };
            self.read_ahead(slot, &mut reads, out);
            self.step = Step::Checkpoint {
                slot,
                loading: Box::new(Loading::new(&self.limits)),
                reads,
            };
            return Progress::Working;
        }
        if self.loaded.is_none() && !self.damages.is_empty() {
            return Progress::Refused(format!(
                "no checkpoint in this data folder is intact:\n  {}\nNothing has been changed. \
                 Restore the files from a copy, or replace this node: remove it with `quorate \
                 member remove`, empty its data folder, add it again with `quorate member add` \
                 and start it with --join",
                self.damages.join("\n  ")
            ));
        }
        self.start_journal(out)
    }

    /// Asks for what comes next, up to the end of the file; at least one read is under way then.
    fn read_ahead(&mut self, slot: Slot, reads: &mut Reads, out: &mut Vec<Output>) {
        let length = self.limits.checkpoint_chunk_bytes;
        while reads.under_way.is_empty()
            || (reads.under_way.len() < self.limits.recovery_reads && reads.next < reads.length)
        {
            let operation = Operation::Read {
                file: File::Checkpoint(slot),
                offset: reads.next,
                length,
            };
            self.request(operation, out);
            reads.under_way.push_back((self.last_request, None));
            reads.next += length;
        }
    }

    fn start_journal(&mut self, out: &mut Vec<Output>) -> Progress {
        let checkpoint = self.loaded.as_ref().map(|(_, reference)| reference.slot);
        out.push(Output::Note(Note::Recovering { checkpoint }));
        let files: Vec<(File, u64)> = self
            .files
            .iter()
            .filter(|(file, _)| matches!(file, File::Segment(_) | File::SpareSegment(_)))
            .copied()
            .collect();
        let mut recovery = journal::Recovery::new(self.identity, self.limits.journal, &files);
        let mut requests = Vec::new();
        recovery.start(&mut requests);
        out.extend(requests.into_iter().map(Output::Disk));
        self.step = Step::Journal(Box::new(recovery));
        Progress::Working
    }

    /// A disk request has ended.
    pub fn complete(&mut self, completion: Completion, out: &mut Vec<Output>) -> Progress {
        match &mut self.step {
            Step::Journal(recovery) if completion.id.0 & OWN_REQUESTS == 0 => {
                let mut requests = Vec::new();
                let step = recovery.complete(completion, &mut requests);
                let outstanding = requests.len();
                out.extend(requests.into_iter().map(Output::Disk));
                self.journal_step(step, outstanding, out)
            }
            Step::Checkpoint { reads, .. } => {
                let request = completion.id.0 & !OWN_REQUESTS;
                let read = reads.under_way.iter_mut().find(|(id, _)| *id == request);
                // Else the deletion of an unfinished file, or of a checkpoint that was given up.
                if let Some((_, result)) = read {
                    *result = Some(completion.result);
                }
                self.checkpoint_chunks(out)
            }
            // Likewise.
            _ => Progress::Working,
        }
    }

    /// Takes in what has been read, as far as nothing before it is missing.
    fn checkpoint_chunks(&mut self, out: &mut Vec<Output>) -> Progress {
        let mut progress = Progress::Working;
        while let (Progress::Working, Step::Checkpoint { reads, .. }) = (&progress, &mut self.step)
            && let Some((_, Some(_))) = reads.under_way.front()
            && let Some((_, Some(result))) = reads.under_way.pop_front()
        {
            progress = self.checkpoint_chunk(result, out);
        }
        progress
    }

    fn checkpoint_chunk(&mut self, result: ReadResult, out: &mut Vec<Output>) -> Progress {
        let Step::Checkpoint {
            slot,
            mut loading,
            mut reads,
        } = std::mem::replace(&mut self.step, Step::Done)
        else {
            return Progress::Working;
        };
        let chunk = self.limits.checkpoint_chunk_bytes;
        let verdict = match result {
            Err(error) => Err(error.to_string()),
            Ok(bytes) if !bytes.is_empty() || loading.read() == 0 => {
                let last = (bytes.len() as u64) < chunk;
                loading.feed(&bytes).map(|()| last)
            }
            Ok(_) => Ok(true),
        };
        match verdict {
            Ok(false) => {
                self.read_ahead(slot, &mut reads, out);
                self.step = Step::Checkpoint {
                    slot,
                    loading,
                    reads,
                };
                Progress::Working
            }
            Ok(true) => match loading.finish(self.cluster, self.group) {
                Ok(loaded) => {
                    self.loaded = Some(loaded);
                    self.start_journal(out)
                }
                Err(damage) => self.damaged(slot, damage, out),
            },
            Err(damage) => self.damaged(slot, damage, out),
        }
    }

    fn damaged(&mut self, slot: Slot, damage: String, out: &mut Vec<Output>) -> Progress {
        self.damages
            .push(format!("checkpoints/{:016x}.checkpoint: {damage}", slot.0));
        self.damaged.push(slot);
        out.push(Output::Note(Note::CheckpointDamaged { slot, damage }));
        self.next_checkpoint(out)
    }

    fn journal_step(
        &mut self,
        step: RecoveryStep,
        outstanding: usize,
        out: &mut Vec<Output>,
    ) -> Progress {
        match step {
            RecoveryStep::Working { .. } => Progress::Working,
            RecoveryStep::Refused(error) => Progress::Refused(error.to_string()),
            RecoveryStep::Done(done) => {
                let (journal, recovered) = *done;
                self.join(journal, recovered, outstanding, out)
            }
        }
    }

    /// Joins checkpoint and log.
    fn join(
        &mut self,
        journal: Journal,
        recovered: RecoveredLog,
        outstanding: usize,
        out: &mut Vec<Output>,
    ) -> Progress {
        self.step = Step::Done;
        if let Some(torn) = &recovered.torn_tail {
            out.push(Output::Note(Note::TornTailCut {
                segment: torn.segment,
                offset: torn.offset,
                bytes: torn.bytes,
            }));
        }
        let log = recovered
            .groups
            .get(&self.group)
            .cloned()
            .unwrap_or_default();
        if let Some(lost) = self.damaged.iter().find(|slot| **slot > log.last) {
            return Progress::Refused(format!(
                "the checkpoint at slot {lost} is damaged, and the log ends before it, at slot \
                 {}: what this node had acknowledged up to there is lost here ({}). Nothing has \
                 been changed. Restore the file from a copy, or replace this node: remove it with \
                 `quorate member remove`, empty its data folder, add it again with `quorate \
                 member add` and start it with --join",
                log.last,
                self.damages.join("; ")
            ));
        }
        let found = Found {
            loaded: self.loaded.as_ref().map(|(_, reference)| *reference),
            older: self.candidates.iter().map(|(slot, _)| *slot).collect(),
            damaged: std::mem::take(&mut self.damaged),
            last_request: self.last_request,
        };
        let (state, membership, end) = match self.loaded.take() {
            Some(((state, membership), reference)) => {
                (state, membership, (reference.slot, reference.epoch))
            }
            None => {
                let state = State::new(self.limits.state);
                (state, self.genesis.clone(), (Slot(0), Epoch(0)))
            }
        };
        if log.start.0 > end.0 {
            return Progress::Refused(format!(
                "the log begins behind slot {}, but the newest intact checkpoint ends at slot {}: \
                 what is between is lost here{}. Nothing has been changed. Replace this node: \
                 remove it with `quorate member remove`, empty its data folder, add it again with \
                 `quorate member add` and start it with --join",
                log.start.0,
                end.0,
                match self.damages.is_empty() {
                    true => String::new(),
                    false => format!(" ({})", self.damages.join("; ")),
                }
            ));
        }
        let connects = log.last >= end.0 && epoch_at(&log, end.0) == Some(end.1);
        let log_replaced = !connects && end.0 > Slot(0);
        out.push(Output::Note(Note::Recovered {
            applied: end.0,
            last: if log_replaced { end.0 } else { log.last },
        }));
        Progress::Done(Box::new(Recovered {
            state,
            membership,
            found,
            journal,
            log,
            journal_created: recovered.created,
            outstanding,
            log_replaced,
        }))
    }
}

/// The epoch of the entry at `slot`, as far as the log knows it.
fn epoch_at(log: &RecoveredGroup, slot: Slot) -> Option<Epoch> {
    if slot == log.start.0 {
        return Some(log.start.1);
    }
    if slot < log.start.0 || slot > log.last {
        return None;
    }
    log.epochs
        .iter()
        .rev()
        .find(|(from, _)| *from <= slot)
        .map(|(_, epoch)| *epoch)
}
