//! *Sometimes* marks: rare situations that a soak must have reached, or it has tested little.
//!
//! After FoundationDB's `TEST` macro and Antithesis' "sometimes assertions": an invariant that was
//! never in danger proves nothing. A long soak that never reached a mark fails.

use consensus::EngineKind;

/// A rare situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Mark {
    /// A leader lost its leadership to another while it ran.
    LeaderDeposed,
    /// An election was tried a second time.
    ElectionRepeated,
    /// A follower's log was cut because it conflicted.
    LogCut,
    /// A checkpoint was installed from a peer.
    SnapshotInstalled,
    /// A checkpoint was written.
    CheckpointWritten,
    /// A torn tail was cut at recovery.
    TornTailCut,
    /// A node refused to go on because its disk is damaged.
    DamageRefused,
    /// A damaged journal was begun anew.
    JournalBegunAnew,
    /// A replica started without something that it had.
    StartedInDoubt,
    /// A leader made up for what a replica had lost.
    DoubtEnded,
    /// A checkpoint took the place of a damaged part of a log.
    LogMended,
    /// A damaged newest checkpoint was replaced by the one before it.
    CheckpointDamaged,
    /// A node stopped because a sync failed.
    SyncErrorStopped,
    /// A lying sync lost something at a power cut.
    LieLost,
    /// The atlas forbade a loss.
    AtlasForbade,
    /// A command was executed once though it was proposed twice.
    CommandRepeated,
    /// A client's result stayed unknown.
    ResultUnknown,
    /// The membership was joint.
    MembershipJoint,
    /// A member was replaced by one with an empty disk.
    MemberReplaced,
    /// A node with an empty disk was kept out.
    EmptyDiskKeptOut,
    /// All nodes were down at once.
    AllDown,
    /// Leadership was handed over.
    LeadershipTransferred,
    /// A leader gave up because its disk hung.
    DiskHung,
    /// A compare-and-swap failed.
    CompareFailed,
    /// History was compacted.
    Compacted,
    /// A frame was delivered over a later connection.
    FrameReplayed,
    /// A read showed the past, or a part.
    ReadBack,
    /// A lease ended because its time was over.
    LeaseExpired,
    /// A client found its lease gone.
    LeaseGone,
    /// A lease was renewed after its time, before it had ended.
    RenewedLate,
    /// A client waited for a lock that another held.
    LockWaited,
    /// A client got a lock.
    LockHeld,
    /// A client was elected.
    Elected,
    /// A leader said something.
    Proclaimed,
    /// A leader said something after its time.
    ProclaimedLate,
    /// Somebody asked who leads, and was told.
    LeaderAsked,
    /// A list of leases was not empty.
    LeasesListed,
    /// Watches went on over another connection.
    WatchResumed,
    /// A watch needed what was compacted.
    WatchCompacted,
    /// A watcher fell behind.
    WatchLagged,
    /// A hub read history.
    HistoryRead,
    /// A revision came in pieces.
    WatchFragmented,
    /// A watch heard of progress.
    WatchProgressed,
    /// A hub ended a stream.
    WatchStreamEnded,
    /// An execution was interrupted at a read and run again.
    ExecutionInterrupted,
    /// Builds that know different levels executed the same entry.
    LevelsMixed,
    /// The level was raised.
    LevelRaised,
    /// A build that did not know its group's level refused to go on.
    LevelRefused,
    /// Paxos: an acceptor had a gap in what it accepted.
    AcceptedWithGap,
    /// Paxos: what an acceptor told with its promise came in pieces.
    ToldInPieces,
    /// Paxos: a leader proposed what was accepted under a lower ballot.
    ProposedAgain,
    /// Paxos: a leader proposed a no-op.
    HoleFilled,
    /// Paxos: somebody was taught what is chosen.
    Taught,
    /// Paxos: a snapshot was taken in below what its acceptor had accepted.
    SnapshotUnderAccepted,
    /// A node heard of a write's end only with what happened next.
    HeardLater,
    /// A keyspace was created.
    KeyspaceCreated,
    /// A keyspace was dropped.
    KeyspaceDropped,
    /// A host let go of a keyspace that goes on elsewhere.
    KeyspaceMovedAway,
    /// A host got a keyspace that it had let go of.
    KeyspaceCameBack,
    /// A host without a vote in a keyspace served it in the end.
    KeyspaceObserved,
    /// A group other than the first got a checkpoint from a peer.
    GroupSnapshot,
    /// A group fell asleep.
    GroupSlept,
    /// A witness passed an entry.
    HeaderPassed,
    /// A group was woken.
    GroupWoken,
    /// Gossip: a member denied that it is gone.
    GossipDenied,
    /// Gossip: who was taken for dead came back.
    GossipReturned,
    /// Gossip: somebody who was there was taken for dead.
    GossipWrongDeath,
    /// Gossip: a goodbye was heard.
    GossipLeft,
    /// Gossip: a member noticed that it had stood still.
    GossipSlept,
    /// Gossip: a ping was answered over a stream.
    GossipByStream,
    /// Gossip: a packet was refused.
    GossipRefused,
    /// Gossip: clocks that are apart were noticed.
    GossipClockApart,
}

/// Every mark with the words for it.
pub const ALL: &[(Mark, &str)] = &[
    (Mark::LeaderDeposed, "a leader was deposed"),
    (Mark::ElectionRepeated, "an election was tried again"),
    (Mark::LogCut, "a conflicting log was cut"),
    (Mark::SnapshotInstalled, "a checkpoint came from a peer"),
    (Mark::CheckpointWritten, "a checkpoint was written"),
    (Mark::TornTailCut, "a torn tail was cut"),
    (Mark::DamageRefused, "a damaged disk was refused"),
    (Mark::JournalBegunAnew, "a damaged journal was begun anew"),
    (Mark::StartedInDoubt, "a replica started in doubt"),
    (Mark::DoubtEnded, "a replica's doubt ended"),
    (Mark::LogMended, "a checkpoint replaced a damaged log"),
    (
        Mark::CheckpointDamaged,
        "a damaged checkpoint was passed over",
    ),
    (Mark::SyncErrorStopped, "a failed sync stopped a node"),
    (Mark::LieLost, "a lying sync lost something"),
    (Mark::AtlasForbade, "the atlas forbade a loss"),
    (
        Mark::CommandRepeated,
        "a command was proposed twice and executed once",
    ),
    (Mark::ResultUnknown, "a result stayed unknown"),
    (Mark::MembershipJoint, "a membership was joint"),
    (Mark::MemberReplaced, "a member was replaced"),
    (Mark::EmptyDiskKeptOut, "an empty disk was kept out"),
    (Mark::AllDown, "all nodes were down"),
    (Mark::LeadershipTransferred, "leadership was handed over"),
    (Mark::DiskHung, "a leader with a hanging disk gave up"),
    (Mark::CompareFailed, "a compare-and-swap failed"),
    (Mark::Compacted, "history was compacted"),
    (Mark::FrameReplayed, "an old message came again"),
    (Mark::ReadBack, "a read showed the past, or a part"),
    (Mark::LeaseExpired, "a lease ended in time"),
    (Mark::LeaseGone, "a client found its lease gone"),
    (Mark::RenewedLate, "a lease was renewed late, and lived"),
    (Mark::LockWaited, "a client waited for a lock"),
    (Mark::LockHeld, "a client got a lock"),
    (Mark::Elected, "a client was elected"),
    (Mark::Proclaimed, "a leader said something"),
    (Mark::ProclaimedLate, "a leader spoke after its time"),
    (Mark::LeaderAsked, "who leads was asked and said"),
    (Mark::LeasesListed, "leases were listed"),
    (Mark::WatchResumed, "a watch was resumed"),
    (Mark::WatchCompacted, "a watch needed compacted history"),
    (Mark::WatchLagged, "a watcher fell behind"),
    (Mark::HistoryRead, "a hub read history"),
    (Mark::WatchFragmented, "a revision came in fragments"),
    (Mark::WatchProgressed, "a watch heard of progress"),
    (Mark::WatchStreamEnded, "a hub ended a stream"),
    (
        Mark::ExecutionInterrupted,
        "an execution was interrupted and run again",
    ),
    (Mark::LevelsMixed, "builds of two levels executed an entry"),
    (Mark::LevelRaised, "the level was raised"),
    (Mark::LevelRefused, "a build too old for its group refused"),
    (Mark::AcceptedWithGap, "slots were accepted with a gap"),
    (Mark::ToldInPieces, "a promise came in pieces"),
    (
        Mark::ProposedAgain,
        "a value of a lower ballot was proposed again",
    ),
    (Mark::HoleFilled, "a no-op was proposed"),
    (Mark::Taught, "chosen entries were taught"),
    (
        Mark::SnapshotUnderAccepted,
        "a checkpoint came below what was accepted",
    ),
    (Mark::HeardLater, "a write's end was heard of later"),
    (Mark::KeyspaceCreated, "a keyspace was created"),
    (Mark::KeyspaceDropped, "a keyspace was dropped"),
    (
        Mark::KeyspaceMovedAway,
        "a host let go of a keyspace that goes on elsewhere",
    ),
    (
        Mark::KeyspaceCameBack,
        "a host got a keyspace again that it had let go of",
    ),
    (Mark::KeyspaceObserved, "an observer served a keyspace"),
    (
        Mark::GroupSnapshot,
        "a keyspace's checkpoint came from a peer",
    ),
    (Mark::GroupSlept, "an idle keyspace fell asleep"),
    (Mark::HeaderPassed, "a witness passed an entry"),
    (Mark::GroupWoken, "a sleeping keyspace was woken"),
    (Mark::GossipDenied, "gossip: a suspicion was denied"),
    (
        Mark::GossipReturned,
        "gossip: who was taken for dead came back",
    ),
    (
        Mark::GossipWrongDeath,
        "gossip: somebody cut off or standing still was taken for dead",
    ),
    (Mark::GossipLeft, "gossip: a goodbye was heard"),
    (Mark::GossipSlept, "gossip: a member noticed that it slept"),
    (
        Mark::GossipByStream,
        "gossip: a ping was answered over a stream",
    ),
    (Mark::GossipRefused, "gossip: a stranger was refused"),
    (Mark::GossipClockApart, "gossip: clocks apart were noticed"),
];

impl Mark {
    /// Where it can be reached: everywhere, or only with this engine.
    #[must_use]
    pub fn engine(self) -> Option<EngineKind> {
        match self {
            Mark::LogCut | Mark::MembershipJoint => Some(EngineKind::Raft),
            Mark::AcceptedWithGap
            | Mark::ToldInPieces
            | Mark::ProposedAgain
            | Mark::HoleFilled
            | Mark::Taught
            | Mark::SnapshotUnderAccepted => Some(EngineKind::Paxos),
            _ => None,
        }
    }
}

/// How often each mark was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks([u64; ALL.len()]);

impl Default for Marks {
    fn default() -> Marks {
        Marks([0; ALL.len()])
    }
}

impl Marks {
    /// The situation was reached.
    pub fn reach(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    /// How often it was reached.
    #[must_use]
    pub fn count(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Marks) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own += other;
        }
    }

    /// The marks with their counts, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        ALL.iter().map(|(mark, words)| (*words, self.count(*mark)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_stands_at_its_place() {
        for (index, (mark, _)) in ALL.iter().enumerate() {
            assert_eq!(*mark as usize, index);
        }
    }
}
