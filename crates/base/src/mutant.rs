//! Planted bugs, so that a simulator can show that it would find them.
//!
//! ```text
//!   if mutant::is_on(Mutant::ForgetVote) { … }      without the feature `mutants`: always false,
//!                                                   and the compiler removes it
//! ```
//!
//! Each is one switch at the place where others had that bug, chosen at run time, so that
//! one build serves all. Only the simulator turns the feature on.

/// Declares the bugs with what each does, in words.
macro_rules! mutants {
    ($($name:ident, $text:literal, $words:literal;)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Mutant {
            $(#[doc = $words] $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$name,)*];

            /// Its name on a command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Mutant::$name => $text,)* }
            }

            /// What it does.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self { $(Mutant::$name => $words,)* }
            }
        }
    };
}

mutants! {
    AcknowledgeBeforeSync, "acknowledge-before-sync", "The journal writes without syncing.";
    VoteBeforeSync, "vote-before-sync", "A vote is told before it is durable.";
    ForgetVote, "forget-vote", "The vote is forgotten at a restart.";
    VoteTwice, "vote-twice", "A vote, or a promise, is given to everyone who asks.";
    CountVoteTwice, "count-vote-twice", "One granted vote counts as two.";
    IgnoreCandidateLog, "ignore-candidate-log", "A vote goes to a candidate with a worse log.";
    ChooseEarlierEpoch, "choose-earlier-epoch", "Entries of earlier epochs are chosen by counting.";
    ChooseWithoutQuorum, "choose-without-quorum", "One acknowledgement less makes a quorum.";
    AcknowledgeReceived, "acknowledge-received", "A follower acknowledges what it has received.";
    StaleVote, "stale-vote", "Votes given in earlier epochs count.";
    ReadWithoutRound, "read-without-round", "A leader serves reads without asking a quorum.";
    ListWithoutRound, "list-without-round", "Leases are listed without asking a quorum.";
    ReadOldRound, "read-old-round", "Acknowledgements of the round before count for this one.";
    ReadBeforeExecuted, "read-before-executed", "A read is served before its slot is executed.";
    SnapshotWithoutMembership, "snapshot-without-membership", "A snapshot keeps old members.";
    SnapshotKeepsSuffix, "snapshot-keeps-suffix", "A snapshot leaves a conflicting log in place.";
    CutOnRot, "cut-on-rot", "Damage at the end of the log is cut off like a torn write.";
    VoteInDoubt, "vote-in-doubt", "A replica that has lost its log votes at once.";
    ForgetEpochs, "forget-epochs", "Who has lost its promises begins at the first epoch.";
    SkipOnReplay, "skip-on-replay", "Entries are skipped when the log is replayed.";
    ExecuteTwice, "execute-twice", "A command that was executed before is executed again.";
    ForgetLogEarly, "forget-log-early", "A checkpoint lets go of a log that is not durable.";
    ClockOfReplica, "clock-of-replica", "Execution depends on which replica it is.";
    RefuseAndPropose, "refuse-and-propose", "A command times out, and is told to have failed.";
    WrongLeaseClock, "wrong-lease-clock", "A jump of a leader's clock counts in full for leases.";
    ExpireRenewed, "expire-renewed", "A lease ends though it was renewed since somebody saw it.";
    ExpireInTwo, "expire-in-two", "The keys of a lease go at two revisions.";
    ForgetRenewal, "forget-renewal", "Renewals are answered and change nothing.";
    LoseOnResume, "lose-on-resume", "A watch that is resumed misses its first revision.";
    ForgetAttachment, "forget-attachment", "A key does not go with its lease.";
    PublishLate, "publish-late", "Answers tell of revisions that were not published yet.";
    ProgressAhead, "progress-ahead", "Progress is told to watchers that lag.";
    DropPrevious, "drop-previous", "Events read from history lack their previous version.";
    OwnLevel, "own-level", "A replica executes at its build's level, not at its group's.";
    TellTwice, "tell-twice", "A watcher that has lagged is told of a revision again.";
    CountAcceptTwice, "count-accept-twice", "What one acceptor accepted counts for all others.";
    EmptyWhileLoading, "empty-while-loading", "A log that is still being read is taken for empty.";
    PreferLowerBallot, "prefer-lower-ballot", "Of two accepted values the older one is proposed.";
    ChooseAcrossBallots, "choose-across-ballots", "What was accepted in earlier ballots counts.";
    FillOverAccepted, "fill-over-accepted", "No-ops take the place of what only others accepted.";
    IgnoreStopSign, "ignore-stop-sign", "Entries follow a membership that is not chosen yet.";
    OpenWithoutPromises, "open-without-promises", "New members are not asked what they accepted.";
    TeachAccepted, "teach-accepted", "What was merely accepted is taught as chosen.";
    SnapshotDropsAccepted, "snapshot-drops-accepted", "A snapshot drops what stands behind it.";
    SleepWithLease, "sleep-with-lease", "A group falls asleep though it has leases.";
    SettleEarly, "settle-early", "A keyspace has moved before those who leave are removed.";
    NeverLeave, "never-leave", "Those who shall let go of a keyspace are never removed.";
    NumberAnew, "number-anew", "Who holds a keyspace again counts its commands from one.";
    AcknowledgeInDoubt, "acknowledge-in-doubt", "Who has lost its log acknowledges at once.";
    ForgetDoubt, "forget-doubt", "Who has lost its log looks whole after one more restart.";
    OpenLostAnew, "open-lost-anew", "A group whose promises are lost is opened as a new one.";
    GoOnAfterSyncError, "go-on-after-sync-error", "A write that has failed is taken for done.";
    AcceptBeforePromise, "accept-before-promise", "A vote counts before its promise is durable.";
    ReadBeforeOpen, "read-before-open", "A leader serves reads before it knows all that is chosen.";
    NeverRefute, "never-refute", "A member that hears that it is suspected does not deny it.";
    ForgetLeave, "forget-leave", "What was said of a member before it left brings it back.";
    TrustOldNews, "trust-old-news", "What a member said earlier replaces what it says now.";
    ForsakeTheDead, "forsake-the-dead", "Members that are taken for dead are never asked again.";
    BuryAtOnce, "bury-at-once", "A suspect has no time to deny it.";
}

#[cfg(feature = "mutants")]
mod planted {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Mutant;

    /// One more than the mutant's number; 0 for none. All threads of a simulator run the same one.
    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Plants a bug, instead of whichever was planted before.
    pub fn plant(mutant: Option<Mutant>) {
        PLANTED.store(
            mutant.map_or(0, |mutant| mutant as u8 + 1),
            Ordering::Relaxed,
        );
    }

    /// Whether this bug is planted.
    #[must_use]
    #[inline]
    pub fn is_on(mutant: Mutant) -> bool {
        PLANTED.load(Ordering::Relaxed) == mutant as u8 + 1
    }
}

#[cfg(feature = "mutants")]
pub use planted::{is_on, plant};

/// Whether this bug is planted: never, in this build.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline(always)]
pub const fn is_on(_mutant: Mutant) -> bool {
    false
}
