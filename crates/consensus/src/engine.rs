//! The contract between a log engine and the node that hosts it.
//!
//! ```text
//!            Input                                Output
//!   peers ──▶ Peer                                Send ──▶ peers (perhaps after a durable mark)
//! clients ──▶ Propose, ReadRound                 Write ──▶ journal ──▶ Durable
//!  replica ─▶ Applied, CheckpointTaken  ┌──────┐ Fetch ──▶ journal ──▶ Fetched
//!  journal ─▶ Durable, Fetched, Fault ─▶│engine│▶ Chosen ─▶ replica
//! operator ─▶ Reconfigure, Transfer     └──────┘ ReadReady, Refuse, Done ──▶ whoever asked
//!    clock ─▶ Deadline                           snapshot outputs ──▶ replica
//! ```
//!
//! An engine is a pure function of its inputs and of the seed it was made with. It has no ticks:
//! it names the next moment at which it wants to be called ([`Engine::deadline`]). Messages may be
//! lost, duplicated, delayed and reordered. Outputs must be carried out in order within their
//! kind: all `Write`s in the order given, all `Chosen` in the order given.

use std::sync::Arc;

use base::{Epoch, Instant, NodeId, Slot};
use bytes::Bytes;
use smallvec::SmallVec;

use crate::entries::Entries;
use crate::entry::Entry;
use crate::hard_state::HardState;
use crate::membership::{Change, Membership};
use crate::message::Message;
use crate::rest::Rest;

/// So many epochs lie between the lost membership and what follows it: more than elections among
/// the lost ones, of which this replica has not heard, can have begun; and a small part of what the
/// identity file allows at a time.
pub(crate) const RECOVERY_LEAP: u64 = 1 << 16;

/// Chosen by whoever asks, returned with the answer. Unique per engine and incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Numbers the engine's writes; grows by each [`Output::Write`]. When the journal reports a mark
/// durable, every write up to and including it is on stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u64);

/// What an engine puts into the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Promises that must survive a restart.
    HardState(HardState),
    /// Entries. The first replaces an entry that the journal may hold at its slot, **and every
    /// entry after it**; then each the same.
    Entries(Entries),
    /// Entries that were accepted under a ballot. Each replaces what the journal may hold at its
    /// slot and **nothing else**; the slots before and between them may be empty.
    Accepted {
        /// The ballot; not older than the epoch of any of them.
        ballot: Epoch,
        /// What was accepted, in the order of slots.
        entries: Entries,
    },
    /// A snapshot was installed: the log starts behind this slot and keeps what stands behind it.
    LogStarts {
        /// The last slot that the snapshot covers.
        slot: Slot,
        /// The epoch of the entry at that slot.
        epoch: Epoch,
    },
    /// A snapshot was installed: the log starts behind this slot, whatever it held before.
    SnapshotInstalled {
        /// The last slot that the snapshot covers.
        slot: Slot,
        /// The epoch of the entry at that slot.
        epoch: Epoch,
    },
}

/// What one write holds: usually promises and entries, for which nothing is allocated.
pub type Records = SmallVec<[Record; 2]>;

impl Record {
    /// What a write usually holds.
    #[inline(always)]
    pub(crate) fn few(promises: Option<HardState>, entries: impl FnOnce() -> Record) -> Records {
        match promises {
            Some(promises) => Records::from_buf([Record::HardState(promises), entries()]),
            None => Records::from_iter([entries()]),
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message from another replica.
    Peer {
        /// Who sent it; the transport has made sure of that.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Put commands into the log. Answered by [`Output::Proposed`] or [`Output::Refuse`].
    Propose {
        /// Comes back with the answer.
        ticket: Ticket,
        /// A batch of commands.
        commands: Bytes,
    },
    /// Ask for a slot such that whoever has executed up to it may answer a linearizable read that
    /// began before this call. Any replica may ask; it is answered by [`Output::ReadReady`] or
    /// [`Output::Refuse`].
    ReadRound {
        /// Comes back with the answer.
        ticket: Ticket,
    },
    /// All writes up to this mark are on stable storage.
    Durable {
        /// The mark of the last durable write.
        mark: Mark,
    },
    /// The entries asked for by [`Output::Fetch`], in order, possibly fewer than asked (never
    /// none, unless they are no longer there).
    Fetched {
        /// The first slot that was asked for.
        from: Slot,
        /// What the journal read and verified.
        entries: Vec<Entry>,
    },
    /// The replica has executed everything up to this slot.
    Applied {
        /// The last executed slot.
        slot: Slot,
    },
    /// A checkpoint up to this slot is on stable storage; the log before it is no longer needed
    /// for a restart. The engine may forget it, and sends this checkpoint to replicas that need
    /// more than the log still holds.
    CheckpointTaken {
        /// What can be sent.
        checkpoint: CheckpointRef,
        /// The journal keeps entries from the slot after this one (the previous checkpoint's
        /// slot, so that a damaged newest checkpoint can be replaced by the one before it).
        log_kept_after: Slot,
    },
    /// Change the membership. Answered by [`Output::Done`] once the change is complete (for
    /// voters: the joint phase is over), or by [`Output::Refuse`].
    Reconfigure {
        /// Comes back with the answer.
        ticket: Ticket,
        /// What to change.
        change: Change,
    },
    /// A quorum is lost for good, and an operator orders that this replica go on as the only voter.
    /// Everything in its log becomes chosen; entries that only the lost ones had are lost. The host
    /// makes sure that nobody counts again who is not named here. Answered by [`Output::Done`] once
    /// a restart would go by it, or by [`Output::Refuse`].
    Recover {
        /// Comes back with the answer.
        ticket: Ticket,
        /// Other members that are still there: they stay, without a vote.
        learners: Vec<NodeId>,
    },
    /// Hand leadership to `to`, or to the most caught-up voter. Answered by [`Output::Done`] when
    /// another replica is known to lead, or by [`Output::Refuse`] (also after one election
    /// timeout without success; this replica then goes on leading).
    Transfer {
        /// Comes back with the answer.
        ticket: Ticket,
        /// Who shall lead.
        to: Option<NodeId>,
    },
    /// The bytes asked for by [`Output::ReadPiece`].
    PieceRead {
        /// Who they are for.
        to: NodeId,
        /// Of which checkpoint.
        checkpoint: CheckpointRef,
        /// Where they start in it.
        offset: u64,
        /// The bytes; empty if the checkpoint is gone, or is found damaged, which makes the engine
        /// start over with a newer one once there is one.
        bytes: Bytes,
    },
    /// A piece handed out by [`Output::StorePiece`] has been written.
    PieceStored {
        /// Of which checkpoint.
        checkpoint: CheckpointRef,
        /// The number of bytes stored so far.
        stored: u64,
    },
    /// The checkpoint handed out by [`Output::InstallSnapshot`] is in force: verified, durable and
    /// loaded.
    SnapshotInstalled {
        /// What was installed.
        checkpoint: CheckpointRef,
        /// The membership that stands in it.
        membership: Membership,
    },
    /// The checkpoint handed out by [`Output::InstallSnapshot`] did not verify; it is deleted.
    SnapshotRejected {
        /// What was rejected.
        checkpoint: CheckpointRef,
    },
    /// The transport learned something about a peer: a hint, never a decision.
    Hint {
        /// Whom it concerns.
        peer: NodeId,
        /// What was learned.
        liveness: Liveness,
    },
    /// The moment named by [`Engine::deadline`] has come.
    Deadline,
    /// This engine rested ([`Engine::rest`]) and was not called for a while, nor were those of the
    /// others. Given before whatever ends that. All that was to happen by time alone counts from
    /// here on.
    Woken {
        /// When the leader's node last gave a sign of life, if this replica follows; what it says
        /// for its groups by that, it says for this one.
        heard: Option<Instant>,
    },
    /// The others are asked whether they rest too, and a heartbeat would disturb them: a leader's
    /// next one is put off until then, at most by half an election timeout, in which nobody
    /// misses it. All else that it has to say is said as ever.
    Hush {
        /// When the next heartbeat may leave.
        until: Instant,
    },
}

/// What the transport may learn about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// A connection has been made.
    Reachable,
    /// The peer's process closed its connection: most likely it died. If it led, an election may
    /// start at once instead of after the timeout.
    ConnectionClosed,
}

/// Names one checkpoint, on whichever node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointRef {
    /// The last slot it covers.
    pub slot: Slot,
    /// The epoch of the entry at that slot.
    pub epoch: Epoch,
    /// Its length in bytes.
    pub length: u64,
    /// The checksum of its footer, which covers the checksums of all blocks: two checkpoints with
    /// the same reference are byte for byte the same file.
    pub checksum: u32,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a message.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
        /// Not before this mark is durable. Messages of one engine to one peer may overtake each
        /// other.
        after: Option<Mark>,
    },
    /// Append records to the journal, in order, then make them durable and report
    /// [`Input::Durable`].
    Write {
        /// Names this write.
        mark: Mark,
        /// What to write.
        records: Records,
    },
    /// Read entries `from..=upto` back from the journal (at most `max_bytes`, but at least one),
    /// and report [`Input::Fetched`].
    Fetch {
        /// The first slot.
        from: Slot,
        /// The last slot.
        upto: Slot,
        /// How much to return at once.
        max_bytes: u64,
    },
    /// These entries are chosen: execute them in order. They follow each other, and the ones
    /// handed out before, without a gap.
    Chosen {
        /// What to execute.
        entries: Entries,
    },
    /// The proposal stands in the leader's log at this slot. It is not chosen yet, and may still
    /// be lost if the leadership is.
    Proposed {
        /// Whose.
        ticket: Ticket,
        /// Where.
        slot: Slot,
        /// In which epoch.
        epoch: Epoch,
    },
    /// The read round is complete: once everything up to `slot` is executed, the reads that
    /// waited for it may be answered.
    ReadReady {
        /// Whose.
        ticket: Ticket,
        /// What must be executed first.
        slot: Slot,
    },
    /// A reconfiguration or transfer is complete.
    Done {
        /// Whose.
        ticket: Ticket,
    },
    /// **Certainly not done**, and it will not be. For proposals: certainly not in any log.
    Refuse {
        /// Whose.
        ticket: Ticket,
        /// Why.
        reason: Refusal,
        /// Who leads, as far as known.
        leader: Option<NodeId>,
    },
    /// The membership in force has changed (also told once at the start, by a snapshot, and when
    /// an entry that changed it is cut off again).
    MembershipChanged {
        /// The membership now in force.
        membership: Arc<Membership>,
    },
    /// A new leadership, or the loss of one.
    Epoch {
        /// The epoch.
        epoch: Epoch,
        /// Who leads it, if known.
        leader: Option<NodeId>,
    },
    /// Read `length` bytes at `offset` of a checkpoint, and report [`Input::PieceRead`].
    ReadPiece {
        /// For whom.
        to: NodeId,
        /// Of which checkpoint.
        checkpoint: CheckpointRef,
        /// From where.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Write a piece of a checkpoint that is being received, and report [`Input::PieceStored`].
    /// Offset 0 starts it anew.
    StorePiece {
        /// Of which checkpoint.
        checkpoint: CheckpointRef,
        /// Where it belongs.
        offset: u64,
        /// The bytes; their checksum has been verified.
        bytes: Bytes,
    },
    /// All pieces are stored: verify, make durable, load, and report
    /// [`Input::SnapshotInstalled`] or [`Input::SnapshotRejected`].
    InstallSnapshot {
        /// What to install.
        checkpoint: CheckpointRef,
    },
    /// Something worth a log line, a metric or a mark on a timeline.
    Note(Note),
}

/// Collects outputs; reused from step to step so that it does not allocate.
pub type Outputs = Vec<Output>;

/// Adds an output where it stays. An output is large: put together elsewhere, field by field, and
/// then copied, as `push` does, each would make the processor wait until the fields are there to be
/// copied. With single entries that was a quarter of all that it did.
#[inline(always)]
pub(crate) fn say(out: &mut Outputs, output: impl FnOnce() -> Output) {
    out.extend(std::iter::once_with(output));
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This replica does not lead; ask the leader named, if one is.
    NotLeader,
    /// The leader is handing over; ask again.
    Transferring,
    /// The engine's window of entries not yet chosen is full; ask again later.
    WindowFull,
    /// A membership change is already under way, or the leader is so new that it has not yet
    /// chosen an entry of its own epoch; ask again later.
    ChangeInProgress,
    /// The change makes no sense, and why.
    InvalidChange(String),
    /// The learner is too far behind to be given a vote.
    NotCaughtUp {
        /// How many slots it is behind.
        behind: u64,
    },
    /// Nothing but the removal of a voter can be chosen: too few of those that hold entries answer.
    /// A change that was begun now would stand in the way of that removal.
    LacksCopies {
        /// How many answer.
        have: usize,
        /// How many copies each entry must have.
        needed: usize,
    },
    /// The change or transfer was given up: leadership was lost, or the target did not take over.
    Abandoned,
}

/// What part a replica plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether an election could be won.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Receives the log without a vote.
    Learner,
}

/// What a leader knows about one member's progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which member.
    pub id: NodeId,
    /// Everything up to here is durable there.
    pub matched: Slot,
    /// How long ago it was last heard of; `None` if never in this epoch.
    pub last_heard: Option<Instant>,
    /// Where there are witnesses: a copy there is waited for.
    pub is_counted_on: bool,
    /// A snapshot is being sent to it.
    pub receiving_snapshot: bool,
}

/// What can be seen of an engine: for status, metrics and placement.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The part this replica plays.
    pub role: Role,
    /// The current epoch.
    pub epoch: Epoch,
    /// Who leads, as far as known.
    pub leader: Option<NodeId>,
    /// Everything up to here is chosen, as far as known.
    pub chosen: Slot,
    /// The last slot in the log.
    pub last: Slot,
    /// The last slot that is durable here.
    pub durable: Slot,
    /// The membership in force.
    pub membership: Membership,
    /// On the leader, how far each other member is; empty elsewhere.
    pub progress: Vec<Progress>,
}

/// What an engine says about itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// This replica became leader.
    BecameLeader {
        /// Of which epoch.
        epoch: Epoch,
    },
    /// This replica stopped leading, and why.
    SteppedDown {
        /// The epoch it led.
        epoch: Epoch,
        /// Why.
        reason: &'static str,
    },
    /// This replica asks for votes.
    Campaigning {
        /// In which epoch.
        epoch: Epoch,
        /// Only asks whether it would win.
        pre_vote: bool,
    },
    /// A follower's log conflicted with the leader's and was cut.
    LogCut {
        /// The first slot that was cut off.
        from: Slot,
    },
    /// A message made no sense and was dropped, and why.
    MessageDropped {
        /// Who sent it.
        from: NodeId,
        /// What was wrong with it.
        reason: &'static str,
    },
    /// **Elections are not safe any more, or a voter is mistaken or hostile**: a second voter
    /// claims to lead the epoch. Its message was dropped; an operator must look.
    TwoLeaders {
        /// The epoch that both claim.
        epoch: Epoch,
        /// The leader that this replica follows, or is.
        known: NodeId,
        /// Who claims to lead as well.
        other: NodeId,
    },
    /// This leader is slower than it used to be, and than a quorum of the others: it hands over.
    Abdicating {
        /// To whom.
        successor: NodeId,
    },
    /// A snapshot is being sent to a member that needs more than the log holds.
    SendingSnapshot {
        /// To whom.
        to: NodeId,
        /// Up to which slot.
        slot: Slot,
    },
}

/// A log engine: a pure step function.
pub trait Engine {
    /// Takes one input and appends what is to be done to `out`. Cheap inputs may be given one
    /// after another before [`Engine::flush`].
    fn step(&mut self, now: Instant, input: Input, out: &mut Outputs);

    /// Ends a pass: emits what was held back so that everything that arrived in the pass shares
    /// one write, one message per peer, and one read round.
    fn flush(&mut self, now: Instant, out: &mut Outputs);

    /// When to call with [`Input::Deadline`] if nothing else happens before.
    fn deadline(&self) -> Option<Instant>;

    /// Where this replica stands, if nothing is under way and nothing is missing here, nor, on
    /// the leader, anywhere but at members that are `absent`; the others are a quorum. It can be
    /// left alone then, together with those others, until something happens: then it is told
    /// [`Input::Woken`] first.
    fn rest(&self, absent: &dyn Fn(NodeId) -> bool) -> Option<Rest>;

    /// Whether a restart would go by the membership in force: stable storage here says all that
    /// makes it so. Who left by it may be gone for good then.
    fn keeps_membership(&self) -> bool;

    /// What can be seen from outside.
    fn view(&self) -> View;
}
