//! Named bounds of everything a node holds or does. Values, so that the simulator can shrink them.

use std::time::Duration;

use crate::calls::CallLimits;
use crate::group::digests::DigestLimits;
use crate::group::members::MemberLimits;
use crate::group::space::SpaceLimits;
use crate::leases::LeaseLimits;
use crate::running::MovingLimits;
use crate::running::scrubbing::ScrubLimits;

/// What bounds a node.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The engine's own limits.
    pub consensus: consensus::Limits,
    /// The journal's own limits.
    pub journal: journal::Limits,
    /// The state's own limits.
    pub state: state::Limits,
    /// What etcd clients may ask for at once.
    pub etcd: etcd::RequestLimits,
    /// Commands that are put into one entry at most.
    pub entry_commands: usize,
    /// Bytes that are put into one entry at most (one larger command still fits alone).
    pub entry_bytes: usize,
    /// Bytes of commands that a leader proposes in one pass; the next pass follows at once, but
    /// first lets the engine see messages and deadlines, so that heartbeats are never late.
    pub pass_bytes: usize,
    /// Bytes of chosen entries that the replica executes in one pass, or one entry if that is
    /// longer; the rest follows in the next passes, at once, but first the engine sees messages
    /// and deadlines, so that many entries delay no heartbeat, vote or acknowledgement. (One entry
    /// is not divided: a command that deletes a million keys takes its second or two.)
    pub execution_bytes: u64,
    /// Commands waiting on the leader for room in the engine's window; more are refused, and
    /// their origin sends them again after [`Limits::resend_delay`].
    pub queued_commands: usize,
    /// Bytes of commands waiting on the leader for room in the engine's window; likewise.
    pub queued_bytes: usize,
    /// What bounds the calls of this node's clients.
    pub calls: CallLimits,
    /// What bounds the work on leases.
    pub leases: LeaseLimits,
    /// How long an origin waits before it sends again what was refused for lack of room, or
    /// because nobody is known to lead.
    pub resend_delay: Duration,
    /// Rows and bytes that a read may touch inside the executing pass; a larger read runs
    /// elsewhere, on a snapshot.
    pub small_read: etcd::ReadBudget,
    /// A checkpoint starts when the log since the last one exceeds this many bytes and half the
    /// last checkpoint; later on some replicas, and while history is let go of
    /// (`checkpoints/schedule.rs`): at four times as much at the latest.
    pub checkpoint_log_bytes: u64,
    /// While the log has more segments than this, groups that hold its oldest part take
    /// checkpoints, however little they have written: one that is idle would keep the whole log of
    /// the others. One that has filled a good part of it goes by its own rule alone.
    pub log_segments: usize,
    /// Groups that take a checkpoint for that reason at once; the others have their turn later.
    pub pinning_checkpoints: usize,
    /// The time between two looks at who holds the oldest part of the log.
    pub pinning_interval: Duration,
    /// Bytes of a checkpoint that are written or read at once.
    pub checkpoint_chunk_bytes: u64,
    /// The identity file says so many epochs ahead how far this node's promises may go.
    pub epochs_ahead: u64,
    /// Reads of a checkpoint that are under way at once when a node starts, so that the disk reads
    /// while what it has read is taken in.
    pub recovery_reads: usize,
    /// Bytes per second at which a checkpoint is written while the node serves; more if the log
    /// grows fast meanwhile.
    pub checkpoint_bytes_per_second: u64,
    /// A checkpoint that is being written or received is synced each time this many bytes were
    /// added, so that the log's syncs never wait behind hundreds of megabytes.
    pub checkpoint_sync_bytes: u64,
    /// How long to wait after a checkpoint could not be written; doubles with each failure.
    pub checkpoint_retry_min: Duration,
    /// The longest such wait.
    pub checkpoint_retry_max: Duration,
    /// How fast the disk is read to find damage.
    pub scrub: ScrubLimits,
    /// Complete checkpoints that are kept.
    pub checkpoints_kept: usize,
    /// While compaction work is left, little is written, and nothing waits to be, the leader
    /// proposes an empty entry this often, so that the work goes on.
    pub compaction_interval: Duration,
    /// So many revisions between two looks are little.
    pub compaction_quiet_revisions: i64,
    /// How often a node tells its peers what they cannot see.
    pub facts_interval: Duration,
    /// How long an operator's request may take before it is given up.
    pub operator_patience: Duration,
    /// How long a node that knows of no leader of the first group goes on to let users into other
    /// keyspaces by the users and roles that it knows.
    pub users_patience: Duration,
    /// A peer frame is at most this long.
    pub frame_bytes: usize,
    /// A frame with what engines say is ended when it has about so many bytes.
    pub packet_bytes: usize,
    /// What bounds keyspaces that move to other nodes.
    pub moving: MovingLimits,
    /// What bounds changes of members.
    pub members: MemberLimits,
    /// The quota, alarms and the history that is kept.
    pub space: SpaceLimits,
    /// What bounds the comparison of replicas.
    pub digests: DigestLimits,
    /// A keyspace in which nothing has happened for so long falls asleep; never, if there is none.
    pub sleep_after: Option<Duration>,
    /// The same for one that woke only because a node was started, lost or found.
    pub sleep_again_after: Duration,
    /// Groups that wake in one pass when a node is started, lost or found; the others follow in
    /// the next passes, so that ten thousand elections delay nobody's heartbeats.
    pub woken_at_once: usize,
    /// Of those, so many are awake at a time: the next one wakes when one has fallen asleep again.
    pub woken_together: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            consensus: consensus::Limits::default(),
            journal: journal::Limits::default(),
            state: state::Limits::default(),
            etcd: etcd::RequestLimits::default(),
            entry_commands: 4096,
            entry_bytes: 1 << 20,
            pass_bytes: 4 << 20,
            execution_bytes: 4 << 20,
            queued_commands: 16_384,
            queued_bytes: 64 << 20,
            calls: CallLimits {
                command_bytes: 256 << 20,
                reserved_bytes: 8 << 20,
                window_bytes: 8 << 20,
                resend_after: Duration::from_secs(3),
            },
            leases: LeaseLimits {
                clock_interval: Duration::from_millis(500),
                renewal_pause: Duration::from_millis(10),
                renewal_gathering: Duration::from_millis(50),
                renewals_gathered: 1024,
                renewal_delay_divisor: 16,
                renewals_per_command: 8192,
                settled_per_pass: 1000,
                settled_while_following: 100,
                expiries_per_command: 1000,
                expired_keys_per_command: 10_000,
                expiry_pause_min: Duration::from_millis(100),
                expiry_pause_max: Duration::from_secs(60),
                expiries_put_off: 1000,
                parents_interval: Duration::from_millis(200),
                parents_per_look: 4096,
            },
            resend_delay: Duration::from_millis(20),
            small_read: etcd::ReadBudget::new(1_000, 1 << 20),
            checkpoint_log_bytes: 64 << 20,
            log_segments: 16,
            pinning_checkpoints: 8,
            pinning_interval: Duration::from_secs(1),
            checkpoint_chunk_bytes: 1 << 20,
            epochs_ahead: 1 << 20,
            recovery_reads: 4,
            checkpoint_bytes_per_second: 32 << 20,
            checkpoint_sync_bytes: 8 << 20,
            checkpoint_retry_min: Duration::from_secs(1),
            checkpoint_retry_max: Duration::from_secs(60),
            scrub: ScrubLimits::default(),
            checkpoints_kept: 2,
            compaction_interval: Duration::from_millis(10),
            compaction_quiet_revisions: 30,
            facts_interval: Duration::from_secs(1),
            operator_patience: Duration::from_secs(10),
            users_patience: Duration::from_secs(60),
            frame_bytes: 16 << 20,
            packet_bytes: 1 << 20,
            moving: MovingLimits::default(),
            members: MemberLimits::default(),
            space: SpaceLimits::default(),
            digests: DigestLimits::default(),
            sleep_after: Some(Duration::from_secs(3)),
            sleep_again_after: Duration::from_millis(300),
            woken_at_once: 128,
            woken_together: 512,
        }
    }
}
