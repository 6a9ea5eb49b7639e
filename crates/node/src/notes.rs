//! What a node says about itself; `server` makes logs and metrics of it, the simulator a timeline.

use std::fmt;

use base::{ClusterId, Epoch, GroupId, NodeId, Slot};

use crate::group::META;
use crate::recovery::Loss;

/// How loud a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For those who look for it.
    Debug,
    /// The life of a healthy node.
    Info,
    /// Somebody should look at this.
    Warn,
    /// Something is broken.
    Error,
}

/// Something worth a log line, a metric, or a mark on a timeline.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    missing_docs,
    reason = "each variant's text in `Display` says what it is"
)]
pub enum Note {
    Recovering {
        checkpoint: Option<Slot>,
    },
    CheckpointDamaged {
        slot: Slot,
        damage: String,
    },
    TornTailCut {
        segment: u64,
        offset: u64,
        bytes: u64,
    },
    Recovered {
        applied: Slot,
        last: Slot,
    },
    WaitingForPeers {
        missing: Vec<String>,
    },
    WaitingToJoin {
        reason: String,
    },
    ClusterMismatch {
        peer: String,
        explanation: String,
    },
    ClusterFormed {
        cluster: ClusterId,
    },
    Joined {
        cluster: ClusterId,
        node: NodeId,
    },
    PeerConnected {
        name: String,
        node: NodeId,
    },
    PeerLost {
        name: String,
        node: NodeId,
    },
    PeerRefused {
        reason: String,
    },
    BadFrame {
        reason: String,
    },
    LeaderChanged {
        epoch: Epoch,
        leader: Option<String>,
    },
    Engine(consensus::Note),
    MembershipChanged {
        voters: usize,
        learners: usize,
    },
    CheckpointStarted {
        slot: Slot,
    },
    CheckpointWritten {
        slot: Slot,
        bytes: u64,
    },
    CheckpointFailed {
        slot: Slot,
        error: String,
    },
    SnapshotInstalled {
        slot: Slot,
    },
    SnapshotRejected {
        slot: Slot,
        reason: String,
    },
    CommandPanicked {
        slot: Slot,
        text: String,
    },
    BadEntry {
        slot: Slot,
    },
    Removed,
    StateWrong {
        slot: Slot,
    },
    StateDiffers {
        name: String,
        slot: Slot,
    },
    StateDivided {
        slot: Slot,
    },
    /// An entry in the journal is damaged.
    EntryDamaged {
        slot: Slot,
        description: String,
    },
    /// A segment of the journal that nobody writes to any more is damaged.
    SegmentDamaged {
        description: String,
    },
    /// A checkpoint has taken the place of a damaged part of the log.
    LogMended {
        slot: Slot,
    },
    /// The journal is damaged or gone, and begins anew.
    JournalLost {
        damage: String,
    },
    /// The replica starts without something that it had; a leader has to make up for it.
    Doubtful {
        loss: Loss,
    },
    /// A leader has made up for what the replica had lost.
    DoubtEnded,
    /// Nothing of what this node had lost is missing any more.
    Repaired,
    LevelRaised {
        level: u32,
    },
    Stopping,
    GroupOpened {
        name: String,
    },
    GroupClosed,
    /// Something about another group than the first.
    InGroup {
        group: GroupId,
        note: Box<Note>,
    },
}

impl Note {
    /// This note, said of a group; of the first group, it stays as it is.
    #[must_use]
    pub fn of(self, group: GroupId) -> Note {
        match group {
            META => self,
            group => Note::InGroup {
                group,
                note: Box::new(self),
            },
        }
    }

    /// How loud it is.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Note::InGroup { note, .. } => note.level(),
            Note::Engine(note) => match note {
                consensus::Note::TwoLeaders { .. } => Level::Error,
                consensus::Note::SteppedDown { .. } | consensus::Note::Abdicating { .. } => {
                    Level::Warn
                }
                consensus::Note::LogCut { .. } | consensus::Note::SendingSnapshot { .. } => {
                    Level::Info
                }
                _ => Level::Debug,
            },
            Note::Recovering { .. }
            | Note::Recovered { .. }
            | Note::ClusterFormed { .. }
            | Note::Joined { .. }
            | Note::PeerConnected { .. }
            | Note::LeaderChanged { .. }
            | Note::MembershipChanged { .. }
            | Note::CheckpointStarted { .. }
            | Note::CheckpointWritten { .. }
            | Note::SnapshotInstalled { .. }
            | Note::LevelRaised { .. }
            | Note::DoubtEnded
            | Note::LogMended { .. }
            | Note::Repaired
            | Note::GroupOpened { .. }
            | Note::GroupClosed
            | Note::Stopping => Level::Info,
            Note::TornTailCut { .. }
            | Note::WaitingForPeers { .. }
            | Note::WaitingToJoin { .. }
            | Note::PeerLost { .. }
            | Note::PeerRefused { .. }
            | Note::BadFrame { .. }
            | Note::CheckpointFailed { .. }
            | Note::SnapshotRejected { .. }
            | Note::Removed => Level::Warn,
            Note::CheckpointDamaged { .. }
            | Note::EntryDamaged { .. }
            | Note::SegmentDamaged { .. }
            | Note::JournalLost { .. }
            | Note::Doubtful { .. }
            | Note::ClusterMismatch { .. }
            | Note::CommandPanicked { .. }
            | Note::StateWrong { .. }
            | Note::StateDiffers { .. }
            | Note::StateDivided { .. }
            | Note::BadEntry { .. } => Level::Error,
        }
    }

    /// A short, stable name for counters and timelines.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Note::Recovering { .. } => "recovering",
            Note::CheckpointDamaged { .. } => "checkpoint_damaged",
            Note::TornTailCut { .. } => "torn_tail_cut",
            Note::Recovered { .. } => "recovered",
            Note::WaitingForPeers { .. } => "waiting_for_peers",
            Note::WaitingToJoin { .. } => "waiting_to_join",
            Note::ClusterMismatch { .. } => "cluster_mismatch",
            Note::ClusterFormed { .. } => "cluster_formed",
            Note::Joined { .. } => "joined",
            Note::PeerConnected { .. } => "peer_connected",
            Note::PeerLost { .. } => "peer_lost",
            Note::PeerRefused { .. } => "peer_refused",
            Note::BadFrame { .. } => "bad_frame",
            Note::LeaderChanged { .. } => "leader_changed",
            Note::Engine(_) => "engine",
            Note::MembershipChanged { .. } => "membership_changed",
            Note::CheckpointStarted { .. } => "checkpoint_started",
            Note::CheckpointWritten { .. } => "checkpoint_written",
            Note::CheckpointFailed { .. } => "checkpoint_failed",
            Note::SnapshotInstalled { .. } => "snapshot_installed",
            Note::SnapshotRejected { .. } => "snapshot_rejected",
            Note::CommandPanicked { .. } => "command_panicked",
            Note::BadEntry { .. } => "bad_entry",
            Note::Removed => "removed",
            Note::StateWrong { .. } => "state_wrong",
            Note::StateDiffers { .. } => "state_differs",
            Note::StateDivided { .. } => "state_divided",
            Note::EntryDamaged { .. } => "entry_damaged",
            Note::SegmentDamaged { .. } => "segment_damaged",
            Note::LogMended { .. } => "log_mended",
            Note::JournalLost { .. } => "journal_lost",
            Note::Doubtful { .. } => "doubtful",
            Note::DoubtEnded => "doubt_ended",
            Note::Repaired => "repaired",
            Note::LevelRaised { .. } => "level_raised",
            Note::GroupOpened { .. } => "group_opened",
            Note::GroupClosed => "group_closed",
            Note::Stopping => "stopping",
            Note::InGroup { note, .. } => note.name(),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Recovering {
                checkpoint: Some(slot),
            } => {
                write!(out, "recovering from the checkpoint at slot {slot}")
            }
            Note::Recovering { checkpoint: None } => write!(out, "recovering from the log alone"),
            Note::CheckpointDamaged { slot, damage } => {
                write!(
                    out,
                    "the checkpoint at slot {slot} is damaged: {damage}; trying an older one"
                )
            }
            Note::TornTailCut {
                segment,
                offset,
                bytes,
            } => {
                write!(
                    out,
                    "cut off a batch that a crash left half written: {bytes} bytes at offset \
                     {offset} of segment {segment:016x}; nothing of it had been acknowledged"
                )
            }
            Note::Recovered { applied, last } => {
                write!(
                    out,
                    "recovered up to slot {applied}; the log ends at slot {last}"
                )
            }
            Note::WaitingForPeers { missing } => {
                write!(
                    out,
                    "the cluster forms once all its nodes answer; waiting for {}",
                    missing.join(", ")
                )
            }
            Note::WaitingToJoin { reason } => write!(out, "asking again to join: {reason}"),
            Note::ClusterMismatch { peer, explanation } => write!(out, "{peer}: {explanation}"),
            Note::ClusterFormed { cluster } => write!(out, "cluster {cluster} has formed"),
            Note::Joined { cluster, node } => {
                write!(out, "joined cluster {cluster} as member {node}")
            }
            Note::PeerConnected { name, node } => write!(out, "connected to {name} ({node})"),
            Note::PeerLost { name, node } => write!(out, "lost the connection to {name} ({node})"),
            Note::PeerRefused { reason } => write!(out, "refused a peer: {reason}"),
            Note::BadFrame { reason } => write!(out, "closed a peer connection: {reason}"),
            Note::LeaderChanged {
                epoch,
                leader: Some(name),
            } => {
                write!(out, "{name} leads term {epoch}")
            }
            Note::LeaderChanged {
                epoch,
                leader: None,
            } => {
                write!(out, "nobody is known to lead term {epoch}")
            }
            Note::Engine(note) => write!(out, "{note:?}"),
            Note::MembershipChanged { voters, learners } => {
                write!(out, "the group has {voters} voters and {learners} learners")
            }
            Note::CheckpointStarted { slot } => write!(out, "writing a checkpoint at slot {slot}"),
            Note::CheckpointWritten { slot, bytes } => {
                write!(out, "wrote a checkpoint at slot {slot} of {bytes} bytes")
            }
            Note::CheckpointFailed { slot, error } => {
                write!(
                    out,
                    "could not write the checkpoint at slot {slot}: {error}; the log is kept"
                )
            }
            Note::SnapshotInstalled { slot } => {
                write!(
                    out,
                    "installed a checkpoint received from a peer, at slot {slot}"
                )
            }
            Note::SnapshotRejected { slot, reason } => {
                write!(
                    out,
                    "rejected the checkpoint received for slot {slot}: {reason}"
                )
            }
            Note::CommandPanicked { slot, text } => {
                write!(
                    out,
                    "a command at slot {slot} failed inside; please report this: {text}"
                )
            }
            Note::BadEntry { slot } => {
                write!(
                    out,
                    "the entry at slot {slot} cannot be read and is skipped on every replica"
                )
            }
            Note::Removed => write!(out, "this node has been removed from the cluster"),
            Note::StateWrong { slot } => write!(
                out,
                "the state of this node differs from that of the majority at slot {slot}"
            ),
            Note::StateDiffers { name, slot } => write!(
                out,
                "the state of {name} differs from that of the majority at slot {slot}; it is to \
                 learn it from the others"
            ),
            Note::StateDivided { slot } => write!(
                out,
                "the replicas differ at slot {slot}, and no majority agrees: nothing is changed \
                 any more until the CORRUPT alarm is ended"
            ),
            Note::EntryDamaged { slot, description } => write!(
                out,
                "the entry at slot {slot} is damaged on this disk: {description}"
            ),
            Note::SegmentDamaged { description } => write!(
                out,
                "{description}; checkpoints are taken until nothing of it is needed"
            ),
            Note::LogMended { slot } => write!(
                out,
                "the checkpoint at slot {slot} has taken the place of the damaged part of the log"
            ),
            Note::JournalLost { damage } => write!(
                out,
                "the journal cannot be used: {damage}. It begins anew, and what it held is learnt \
                 from the other nodes; the damaged segments are kept until that is done"
            ),
            Note::Doubtful { loss } => {
                let what = match loss {
                    Loss::Log { .. } => "its log and its promises",
                    Loss::State => "a part of its state",
                };
                write!(
                    out,
                    "this replica has lost {what}: it neither votes nor acknowledges until a \
                     leader has made up for it"
                )
            }
            Note::DoubtEnded => write!(
                out,
                "a leader has made up for all that this replica had lost: it counts again"
            ),
            Note::Repaired => write!(out, "all damage on this disk is repaired"),
            Note::GroupOpened { name } => write!(out, "opened for the keyspace {name}"),
            Note::GroupClosed => write!(out, "closed: its keyspace has been dropped or moved away"),
            Note::InGroup { group, note } => write!(out, "group {group}: {note}"),
            Note::LevelRaised { level } => write!(
                out,
                "all members know level {level}: from now on the group goes by its rules"
            ),
            Note::Stopping => write!(
                out,
                "stopping: handing over and finishing what is under way"
            ),
        }
    }
}

/// Counters of one node, since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Entries proposed here while leading.
    pub entries_proposed: u64,
    /// Commands put into them.
    pub commands_proposed: u64,
    /// Commands sent to another node that leads.
    pub commands_forwarded: u64,
    /// Commands executed (on this replica, whoever proposed them).
    pub commands_executed: u64,
    /// Their bytes.
    pub bytes_executed: u64,
    /// Leases renewed for clients of this node.
    pub leases_renewed: u64,
    /// Leases that this node ended as a leader.
    pub leases_expired: u64,
    /// Commands skipped because they had been executed before.
    pub commands_repeated: u64,
    /// Commands that panicked inside and were undone.
    pub commands_panicked: u64,
    /// Read rounds asked for.
    pub read_rounds: u64,
    /// Reads answered.
    pub reads: u64,
    /// Reads that ran elsewhere, on a snapshot.
    pub reads_offloaded: u64,
    /// Calls answered "timed out".
    pub calls_timed_out: u64,
    /// Calls refused because too many bytes wait already.
    pub calls_refused: u64,
    /// Leaders seen, of whatever group.
    pub leader_changes: u64,
    /// Those of the first group.
    pub first_leader_changes: u64,
    /// Checkpoints written.
    pub checkpoints_written: u64,
    /// Checkpoints that could not be written.
    pub checkpoints_failed: u64,
    /// Times that something on this disk was found not to be as it was written.
    pub damage_found: u64,
    /// Replicas on this node that have lost something and wait for a leader to make up for it.
    pub groups_in_doubt: u64,
    /// Groups that sleep now.
    pub groups_asleep: u64,
    /// How often a group fell asleep.
    pub groups_slept: u64,
    /// How often a group was woken.
    pub groups_woken: u64,
    /// Replicas for which a leader has done so.
    pub doubts_ended: u64,
    /// Bytes read only to see whether they are as they were written.
    pub scrubbed_bytes: u64,
    /// How often everything on the disk was read for that.
    pub scrub_rounds: u64,
    /// Peer frames that made no sense.
    pub bad_frames: u64,
    /// What the journal counts.
    pub journal: journal::Metrics,
}

impl Metrics {
    /// Adds what a group has counted to what its node has.
    pub fn add(&mut self, group: &Metrics) {
        let Metrics {
            entries_proposed,
            commands_proposed,
            commands_forwarded,
            commands_executed,
            bytes_executed,
            leases_renewed,
            leases_expired,
            commands_repeated,
            commands_panicked,
            read_rounds,
            reads,
            reads_offloaded,
            calls_timed_out,
            calls_refused,
            leader_changes,
            first_leader_changes,
            checkpoints_written,
            checkpoints_failed,
            damage_found,
            groups_in_doubt,
            groups_asleep,
            groups_slept,
            groups_woken,
            doubts_ended,
            scrubbed_bytes,
            scrub_rounds,
            bad_frames,
            // One for all groups.
            journal: _,
        } = group;
        self.entries_proposed += entries_proposed;
        self.commands_proposed += commands_proposed;
        self.commands_forwarded += commands_forwarded;
        self.commands_executed += commands_executed;
        self.bytes_executed += bytes_executed;
        self.leases_renewed += leases_renewed;
        self.leases_expired += leases_expired;
        self.commands_repeated += commands_repeated;
        self.commands_panicked += commands_panicked;
        self.read_rounds += read_rounds;
        self.reads += reads;
        self.reads_offloaded += reads_offloaded;
        self.calls_timed_out += calls_timed_out;
        self.calls_refused += calls_refused;
        self.leader_changes += leader_changes;
        self.first_leader_changes += first_leader_changes;
        self.checkpoints_written += checkpoints_written;
        self.checkpoints_failed += checkpoints_failed;
        self.damage_found += damage_found;
        self.groups_in_doubt += groups_in_doubt;
        self.groups_asleep += groups_asleep;
        self.groups_slept += groups_slept;
        self.groups_woken += groups_woken;
        self.doubts_ended += doubts_ended;
        self.scrubbed_bytes += scrubbed_bytes;
        self.scrub_rounds += scrub_rounds;
        self.bad_frames += bad_frames;
    }
}
