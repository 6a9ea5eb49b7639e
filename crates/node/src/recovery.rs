//! From a data folder to what was known when the node stopped.
//!
//! ```text
//! for each group with checkpoint files:
//!   newest checkpoint ─▶ verify and load ──damaged──▶ the one before it ──none left──▶ no state
//!        │ good (or there never was one)
//!        ▼
//! journal: read every segment, cut a torn tail ─▶ join the two ─▶ Recovered
//!        │ damaged, or gone                           │ what lies between them is missing
//!        ▼                                            ▼
//!   begin it anew: the promises are lost         the log is dropped: the promises are kept
//! ```
//!
//! In both cases of loss the replica starts in doubt (`docs/decisions/0019-repair.md`), unless it
//! is the only one of its group: then nothing is changed, and the operator is told what is lost.
//!
//! Execution goes on where the checkpoint ends: the engine hands the chosen entries behind it out
//! again. A crash may come between putting a received checkpoint in place and noting so in the
//! journal; then the log does not reach (or contradicts) the checkpoint, and begins anew behind it.
//!
//! Which groups there are, the journal says: it holds the [`Description`] of each that was opened
//! and not closed since, so that no group needs another one to come back. Checkpoints of groups
//! that it does not know are what was left when a group was closed; they are deleted.

use std::collections::{BTreeMap, VecDeque};

use base::{ClusterId, Epoch, GroupId, NodeId, Slot};
use bytes::Bytes;
use consensus::engine::CheckpointRef;
use consensus::{EngineKind, HardState, Membership};
use journal::disk::{Completion, DiskError, File, Lane, Operation, Request};
use journal::{Journal, Recovered as RecoveredLog, RecoveredGroup, RecoveryError, RecoveryStep};
use state::State;

use crate::checkpoints::{Found, Loading, Unusable, opening_of, own_request};
use crate::description::Description;
use crate::group::META;
use crate::interface::Output;
use crate::limits::Limits;
use crate::notes::Note;

/// What was recovered.
pub struct Recovered {
    /// The journal, ready to be written.
    pub journal: Journal,
    /// There was no journal; this is the first start of a member, or its log is lost.
    pub journal_created: bool,
    /// Requests that the journal has given out and not heard of yet.
    pub outstanding: usize,
    /// What is there of each group; [`META`] is always there.
    pub groups: BTreeMap<GroupId, RecoveredReplica>,
    /// Groups that were closed here, with what they had promised (nothing if a build closed them
    /// that did not write it down).
    pub closed: BTreeMap<GroupId, Bytes>,
    /// What this node had promised in groups that are not among these may be lost.
    pub is_doubtful: bool,
    /// How often something was found not to be as it was written.
    pub damage_found: u64,
}

/// What the identity file says of the node's past.
#[derive(Clone, Copy, Debug)]
pub struct Past {
    /// There was a journal.
    pub journal_created: bool,
    /// Nothing was promised in this epoch, nor in a later one.
    pub epochs: Epoch,
    /// The journal was lost once, and what it held is not made up for in all groups.
    pub is_doubtful: bool,
    /// Others have had votes in the first group since it began with this node alone.
    pub has_others: bool,
}

/// What of a group is lost on this disk. The replica neither votes nor acknowledges until a leader
/// has brought it past everything that it may have acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The log with all promises in it. None of them was in this epoch or a later one.
    Log {
        /// The first epoch in which nothing was promised.
        epochs: Epoch,
    },
    /// The state that the log goes on from. The promises are there.
    State,
}

/// What was recovered of one group.
pub struct RecoveredReplica {
    /// How the group agrees.
    pub engine: EngineKind,
    /// The membership that its log starts from.
    pub genesis: Membership,
    /// What the journal says of its members, beside the log.
    pub latest: (Slot, Membership),
    /// Who belongs to it now, and from which slot on, as far as is known here: whom it looks for if
    /// something is lost.
    pub helpers: Option<(Slot, Membership)>,
    /// The state at the newest good checkpoint, or an empty one.
    pub state: State,
    /// The membership at that point, and never a later one: execution goes by it.
    pub membership: Membership,
    /// The checkpoint files.
    pub found: Found,
    /// What the journal holds for the group.
    pub log: RecoveredGroup,
    /// The log does not connect to the checkpoint: it begins anew behind it, and the journal must
    /// be told so first.
    pub log_replaced: bool,
    /// What is lost, if something is; there is no log then.
    pub loss: Option<Loss>,
}

impl RecoveredReplica {
    /// A group that has just been opened: a new one, or one that was here before.
    #[must_use]
    pub fn fresh(description: Description, limits: &Limits) -> RecoveredReplica {
        let promised = description.promised;
        RecoveredReplica {
            engine: description.engine,
            state: State::new(limits.state),
            membership: description.genesis.clone(),
            genesis: description.genesis,
            latest: description.latest,
            helpers: None,
            found: Found::default(),
            log: RecoveredGroup {
                hard_state: promised.map(|promised| promised.encode()),
                ..RecoveredGroup::default()
            },
            log_replaced: false,
            loss: promised.map(|_| Loss::State),
        }
    }
}

/// What is known of a group's checkpoints.
#[derive(Default)]
struct Checkpoints {
    /// Not looked into yet, oldest first.
    candidates: Vec<(Slot, u64)>,
    damages: Vec<String>,
    damaged: Vec<Slot>,
    /// Why this build must not touch them; counts if the journal knows the group.
    newer: Option<String>,
    loaded: Option<((State, Membership), CheckpointRef)>,
}

/// Requests of recovery are of no opened group.
const RECOVERING: u32 = 0;

enum Step {
    Checkpoint {
        group: GroupId,
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
    under_way: VecDeque<(u32, Option<ReadResult>)>,
    /// Where the next read begins.
    next: u64,
    /// How long the file was when it was listed.
    length: u64,
}

/// Reads the data folder back.
pub struct Recovery {
    cluster: ClusterId,
    limits: Limits,
    identity: journal::Identity,
    files: Vec<(File, u64)>,
    first: Description,
    past: Past,
    checkpoints: BTreeMap<GroupId, Checkpoints>,
    /// Groups whose checkpoints have not been looked into.
    unread: Vec<GroupId>,
    step: Step,
    last_request: u32,
    damage_found: u64,
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
    /// Prepares to read `files`; nothing is read before [`Recovery::start`]. `first` is
    /// what the identity file says of [`META`].
    #[must_use]
    pub fn new(
        identity: journal::Identity,
        first: Description,
        past: Past,
        limits: Limits,
        files: Vec<(File, u64)>,
    ) -> Recovery {
        let mut checkpoints: BTreeMap<GroupId, Checkpoints> = BTreeMap::new();
        checkpoints.entry(META).or_default();
        for (file, length) in &files {
            if let File::Checkpoint(group, slot) = file {
                let of_group = checkpoints.entry(*group).or_default();
                of_group.candidates.push((*slot, *length));
            }
        }
        for of_group in checkpoints.values_mut() {
            of_group.candidates.sort_unstable();
        }
        Recovery {
            cluster: identity.cluster,
            limits,
            identity,
            files,
            first,
            past,
            unread: checkpoints.keys().copied().collect(),
            checkpoints,
            step: Step::Done,
            last_request: 0,
            damage_found: 0,
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
                    File::PartialCheckpoint(..) | File::IncomingCheckpoint(..)
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
        out.push(Output::Disk(Request {
            id: own_request(RECOVERING, self.last_request),
            lane: Lane::Background,
            operation,
        }));
    }

    /// Reads the newest checkpoint that has not been looked into, of one group after another.
    fn next_checkpoint(&mut self, out: &mut Vec<Output>) -> Progress {
        while let Some(group) = self.unread.last().copied() {
            let of_group = self.checkpoints.entry(group).or_default();
            if of_group.loaded.is_none()
                && let Some((slot, length)) = of_group.candidates.pop()
            {
                let mut reads = Reads {
                    under_way: VecDeque::new(),
                    next: 0,
                    length,
                };
                self.read_ahead((group, slot), &mut reads, out);
                self.step = Step::Checkpoint {
                    group,
                    slot,
                    loading: Box::new(Loading::new(&self.limits)),
                    reads,
                };
                return Progress::Working;
            }
            self.unread.pop();
        }
        self.start_journal(out)
    }

    /// Whether a group has no other voter here than this node, as far as checkpoints tell: nobody
    /// could make up for what is lost.
    fn is_alone_in(&self, group: GroupId) -> bool {
        if self.has_others_in(group) {
            return false;
        }
        let loaded = self
            .checkpoints
            .get(&group)
            .and_then(|of| of.loaded.as_ref());
        let membership = match loaded {
            Some(((_, membership), _)) => membership,
            None if group == META => &self.first.genesis,
            None => return false,
        };
        is_only_voter(membership, self.identity.node)
    }

    /// The same, of any group that has checkpoints here, and of the first.
    fn is_alone_in_any(&self) -> bool {
        let mut groups = self.checkpoints.keys().copied();
        self.is_alone_in(META) || groups.any(|group| self.is_alone_in(group))
    }

    /// Whether the identity file says that others have had votes in a group, whatever is left here
    /// of its log and its checkpoints.
    fn has_others_in(&self, group: GroupId) -> bool {
        group == META && self.past.has_others
    }

    /// Asks for what comes next, up to the end of the file; at least one read is under way then.
    fn read_ahead(
        &mut self,
        (group, slot): (GroupId, Slot),
        reads: &mut Reads,
        out: &mut Vec<Output>,
    ) {
        let length = self.limits.checkpoint_chunk_bytes;
        while reads.under_way.is_empty()
            || (reads.under_way.len() < self.limits.recovery_reads && reads.next < reads.length)
        {
            let operation = Operation::Read {
                file: File::Checkpoint(group, slot),
                offset: reads.next,
                length,
            };
            self.request(operation, out);
            reads.under_way.push_back((self.last_request, None));
            reads.next += length;
        }
    }

    /// The files of the journal.
    fn journal_files(&self) -> Vec<(File, u64)> {
        let is_of_journal = |file: &File| matches!(file, File::Segment(_) | File::SpareSegment(_));
        let files = self.files.iter().copied();
        files.filter(|(file, _)| is_of_journal(file)).collect()
    }

    fn start_journal(&mut self, out: &mut Vec<Output>) -> Progress {
        let meta = self.checkpoints.get(&META);
        let loaded = meta.and_then(|of_group| of_group.loaded.as_ref());
        let checkpoint = loaded.map(|(_, reference)| reference.slot);
        out.push(Output::Note(Note::Recovering { checkpoint }));
        let files = self.journal_files();
        let recovery = journal::Recovery::new(self.identity, self.limits.journal, &files);
        self.read_journal(recovery, out)
    }

    fn read_journal(&mut self, mut recovery: journal::Recovery, out: &mut Vec<Output>) -> Progress {
        let mut requests = Vec::new();
        recovery.start(&mut requests);
        out.extend(requests.into_iter().map(Output::Disk));
        self.step = Step::Journal(Box::new(recovery));
        Progress::Working
    }

    /// A disk request has ended.
    pub fn complete(&mut self, completion: Completion, out: &mut Vec<Output>) -> Progress {
        match &mut self.step {
            Step::Journal(recovery) if opening_of(completion.id).is_none() => {
                let mut requests = Vec::new();
                let step = recovery.complete(completion, &mut requests);
                let outstanding = requests.len();
                out.extend(requests.into_iter().map(Output::Disk));
                self.journal_step(step, outstanding, out)
            }
            Step::Checkpoint { reads, .. } => {
                let read = reads
                    .under_way
                    .iter_mut()
                    .find(|(number, _)| own_request(RECOVERING, *number) == completion.id);
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
            group,
            slot,
            mut loading,
            mut reads,
        } = std::mem::replace(&mut self.step, Step::Done)
        else {
            return Progress::Working;
        };
        let chunk = self.limits.checkpoint_chunk_bytes;
        let verdict = match result {
            Err(DiskError::Inaccessible(error)) => {
                let file = checkpoint_path(group, slot);
                return Progress::Refused(format!(
                    "cannot read {file}: {error}. Nothing was changed. Check who owns the files of \
                     the data folder, their permissions and the limits of this process, then start \
                     again"
                ));
            }
            Err(error) => Err(Unusable::Damaged(error.to_string())),
            Ok(bytes) if !bytes.is_empty() || loading.read() == 0 => {
                let last = (bytes.len() as u64) < chunk;
                loading.feed(&bytes).map(|()| last)
            }
            Ok(_) => Ok(true),
        };
        match verdict {
            Ok(false) => {
                self.read_ahead((group, slot), &mut reads, out);
                self.step = Step::Checkpoint {
                    group,
                    slot,
                    loading,
                    reads,
                };
                Progress::Working
            }
            Ok(true) => match loading.finish(self.cluster, group) {
                Ok(loaded) => {
                    self.checkpoints.entry(group).or_default().loaded = Some(loaded);
                    self.next_checkpoint(out)
                }
                Err(unusable) => self.unusable(group, slot, unusable, out),
            },
            Err(unusable) => self.unusable(group, slot, unusable, out),
        }
    }

    /// A damaged checkpoint has others before it; one that only newer builds understand says that
    /// this build must not touch anything here, unless it is what was left of a group that was
    /// closed: that the journal tells.
    fn unusable(
        &mut self,
        group: GroupId,
        slot: Slot,
        unusable: Unusable,
        out: &mut Vec<Output>,
    ) -> Progress {
        match unusable {
            Unusable::Damaged(damage) => self.damaged(group, slot, damage, out),
            Unusable::Newer(reason) if group == META => Progress::Refused(reason),
            Unusable::Newer(reason) => {
                let of_group = self.checkpoints.entry(group).or_default();
                of_group.newer = Some(reason);
                of_group.candidates.clear();
                self.next_checkpoint(out)
            }
        }
    }

    fn damaged(
        &mut self,
        group: GroupId,
        slot: Slot,
        damage: String,
        out: &mut Vec<Output>,
    ) -> Progress {
        let of_group = self.checkpoints.entry(group).or_default();
        of_group
            .damages
            .push(format!("{}: {damage}", checkpoint_path(group, slot)));
        of_group.damaged.push(slot);
        self.damage_found += 1;
        out.push(Output::Note(
            Note::CheckpointDamaged { slot, damage }.of(group),
        ));
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
            RecoveryStep::Refused(error) => self.journal_refused(&error, out),
            RecoveryStep::Done(done) => {
                let (journal, recovered) = *done;
                self.join(journal, recovered, outstanding, out)
            }
        }
    }

    /// The journal is not as it was. If others have what it held, it begins anew; the damaged one
    /// is kept until every group has been made whole by them.
    fn journal_refused(&mut self, error: &RecoveryError, out: &mut Vec<Output>) -> Progress {
        if !error.is_damage() || self.is_alone_in_any() {
            return Progress::Refused(error.to_string());
        }
        self.damage_found += 1;
        out.push(Output::Note(Note::JournalLost {
            damage: error.finding(),
        }));
        let files = self.journal_files();
        let recovery = journal::Recovery::anew(self.identity, self.limits.journal, &files);
        self.read_journal(recovery, out)
    }

    /// Joins checkpoints and logs.
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
        let is_lost = recovered.created && self.past.journal_created;
        if is_lost && self.is_alone_in_any() {
            return Progress::Refused(JOURNAL_GONE.to_owned());
        }
        let mut logs = recovered.groups;
        logs.entry(META).or_default();
        let mut groups = BTreeMap::new();
        for (group, log) in logs {
            let description = match &log.description {
                Some(body) => match Description::decode(body.clone()) {
                    Some(description) => Some(description),
                    None => return Progress::Refused(unreadable(group)),
                },
                None => None,
            };
            let description = match description {
                Some(description) => description,
                None if group == META => self.first.clone(),
                None => return Progress::Refused(unreadable(group)),
            };
            let log = (log, recovered.created);
            match self.join_group(group, log, description, out) {
                Ok(replica) => groups.insert(group, replica),
                Err(reason) => return Progress::Refused(reason),
            };
        }
        // A journal that is gone says nothing about what was closed, and the one that was begun
        // in its place nothing about groups that have not been opened again yet.
        if !recovered.created && !self.past.is_doubtful {
            self.delete_orphans(out);
        }
        Progress::Done(Box::new(Recovered {
            journal,
            journal_created: recovered.created,
            outstanding,
            groups,
            closed: recovered.closed,
            is_doubtful: is_lost || self.past.is_doubtful,
            damage_found: self.damage_found,
        }))
    }

    /// Deletes what is left of the checkpoints of groups that were closed.
    fn delete_orphans(&mut self, out: &mut Vec<Output>) {
        let orphans = std::mem::take(&mut self.checkpoints);
        let files: Vec<File> = self
            .files
            .iter()
            .map(|(file, _)| *file)
            .filter(
                |file| matches!(file, File::Checkpoint(group, _) if orphans.contains_key(group)),
            )
            .collect();
        for file in files {
            self.request(Operation::Delete { file }, out);
        }
    }

    /// Joins checkpoint and log of one group.
    fn join_group(
        &mut self,
        group: GroupId,
        (mut log, is_created): (RecoveredGroup, bool),
        description: Description,
        out: &mut Vec<Output>,
    ) -> Result<RecoveredReplica, String> {
        let (genesis, latest) = (description.genesis, description.latest);
        // It was opened again, and died before it had written anything.
        let promised = description.promised.filter(|_| log.hard_state.is_none());
        if let Some(promised) = promised {
            log.hard_state = Some(promised.encode());
        }
        let is_lost = self.past.is_doubtful || self.past.journal_created && is_created;
        let checkpoints = self.checkpoints.remove(&group).unwrap_or_default();
        if let Some(reason) = checkpoints.newer {
            return Err(reason);
        }
        let damages = checkpoints.damages.join("; ");
        let found = Found {
            loaded: checkpoints.loaded.as_ref().map(|(_, reference)| *reference),
            older: checkpoints
                .candidates
                .iter()
                .map(|(slot, _)| *slot)
                .collect(),
            damaged: checkpoints.damaged,
        };
        let (state, membership, end) = match checkpoints.loaded {
            Some(((state, membership), reference)) => {
                (state, membership, (reference.slot, reference.epoch))
            }
            None => {
                let state = State::new(self.limits.state);
                (state, genesis.clone(), (Slot(0), Epoch(0)))
            }
        };
        let loss = if is_lost && log.hard_state.is_none() {
            let epochs = self.past.epochs;
            Some(Loss::Log { epochs })
        } else if promised.is_some()
            || log.start.0 > end.0
            || found.damaged.iter().any(|slot| *slot > log.last)
        {
            Some(Loss::State)
        } else {
            None
        };
        let mut helpers = None;
        if let Some(loss) = loss {
            // Who is let in again is brought up by those who do so.
            if promised.is_none() {
                let known = [(end.0, membership.clone()), latest.clone()];
                helpers = Some(self.who_helps(group, &log, known, &damages)?);
            }
            out.push(Output::Note(Note::Doubtful { loss }.of(group)));
            log = RecoveredGroup {
                hard_state: log.hard_state,
                description: log.description,
                ..RecoveredGroup::default()
            };
        }
        let connects = log.last >= end.0 && epoch_at(&log, end.0) == Some(end.1);
        let log_replaced = !connects && end.0 > Slot(0);
        let note = Note::Recovered {
            applied: end.0,
            last: if log_replaced { end.0 } else { log.last },
        };
        out.push(Output::Note(note.of(group)));
        Ok(RecoveredReplica {
            engine: description.engine,
            genesis,
            latest,
            helpers,
            state,
            membership,
            found,
            log,
            log_replaced,
            loss,
        })
    }
}

impl Recovery {
    /// Something of a group is lost here: who belongs to it now, as far as is known. `known`: the
    /// membership where the state ends, and what the journal says beside the log.
    fn who_helps(
        &self,
        group: GroupId,
        log: &RecoveredGroup,
        known: [(Slot, Membership); 2],
        damages: &str,
    ) -> Result<(Slot, Membership), String> {
        let own = self.identity.node;
        let end = known[0].0;
        let known = newest_memberships(group, log, known)?;
        let is_alone = known.iter().any(|(_, each)| is_only_voter(each, own));
        if is_alone && !self.has_others_in(group) {
            return Err(nobody_helps(group, log, end, damages));
        }
        let [_, chosen] = known;
        Ok(chosen)
    }
}

/// The newest membership that is known of a group, and the newest that was chosen: `known` are two
/// that were, with the slots that they held at; others may stand in the log.
fn newest_memberships(
    group: GroupId,
    log: &RecoveredGroup,
    known: [(Slot, Membership); 2],
) -> Result<[(Slot, Membership); 2], String> {
    let [one, other] = known;
    let mut chosen = match one.0 >= other.0 {
        true => one,
        false => other,
    };
    let hard_state = log.hard_state.clone().map(HardState::decode).transpose();
    let hard_state = hard_state.map_err(|_| unreadable(group))?;
    let upto = hard_state.map_or(Slot(0), |each| each.chosen);
    let (mut newest, after) = (chosen.clone(), chosen.0);
    for (slot, body) in log.memberships.iter().filter(|(slot, _)| *slot > after) {
        let membership = Membership::decode(body.clone()).map_err(|_| unreadable(group))?;
        newest = (*slot, membership);
        if *slot <= upto {
            chosen = newest.clone();
        }
    }
    Ok([newest, chosen])
}

/// Whether nobody else has a vote in this membership.
fn is_only_voter(membership: &Membership, node: NodeId) -> bool {
    let mut voters = membership.all_voters();
    voters.next() == Some(node) && voters.next().is_none()
}

/// What is lost here is lost for good.
fn nobody_helps(group: GroupId, log: &RecoveredGroup, end: Slot, damages: &str) -> String {
    let damages = match damages.is_empty() {
        true => String::new(),
        false => format!(" ({damages})"),
    };
    format!(
        "the newest intact checkpoint of group {group} ends at slot {end}, and the log holds \
         slots {} to {}: what is missing is lost here{damages}, and nobody else has a replica of \
         this group. Nothing has been changed. Restore the data folder from a copy",
        log.start.0.next(),
        log.last
    )
}

/// The path of a checkpoint below the data folder, for messages.
fn checkpoint_path(group: GroupId, slot: Slot) -> String {
    format!("checkpoints/{:016x}-{:016x}.checkpoint", group.0, slot.0)
}

/// A journal that is not there any more, and nobody else to learn from.
const JOURNAL_GONE: &str = "the journal of this node is gone: its identity file says that there \
    was one, and nobody else has a replica of what it held. Restore the journal folder in this \
    data folder from where it went, or from a copy";

fn unreadable(group: GroupId) -> String {
    format!(
        "what the journal says of group {group} cannot be read although its checksum is right; it \
         was probably written by a newer version of Quorate: start that version"
    )
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
