//! etcd's errors: one enum that owns code and text.
//!
//! Clients tell etcd's errors apart by their *text* (the Go client by nothing else), so texts are
//! etcd's to the letter. A few errors reach the wire as `Unknown` in etcd, because its server maps
//! them wrongly; clients have learned to live with that code, so it is kept.

use std::fmt;

/// A gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum Code {
    /// The call was given up.
    Canceled = 1,
    /// An error that etcd does not classify.
    Unknown = 2,
    /// The request can never succeed.
    InvalidArgument = 3,
    /// The time was over before the answer was there.
    DeadlineExceeded = 4,
    /// What the request names does not exist.
    NotFound = 5,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A limit is reached.
    ResourceExhausted = 8,
    /// The state does not allow it now.
    FailedPrecondition = 9,
    /// A number is outside of what exists.
    OutOfRange = 11,
    /// Not done by this server.
    Unimplemented = 12,
    /// A bug.
    Internal = 13,
    /// Nobody can answer now; try again, or somewhere else.
    Unavailable = 14,
    /// Data is damaged.
    DataLoss = 15,
    /// Nobody knows who the caller is.
    Unauthenticated = 16,
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> i32 {
        self as i32
    }
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// Why a request failed, in etcd's terms.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Error {
            $($(#[$doc])* $name,)*
            /// A bug: ours, or a record from the log that nobody can have meant. Answered alike
            /// on every replica; says what was wrong.
            Internal(&'static str),
        }

        impl Error {
            /// Every error but [`Error::Internal`].
            pub const ALL: &[Error] = &[$(Error::$name,)*];

            /// The gRPC status code.
            pub fn code(&self) -> Code {
                match self {
                    $(Error::$name => Code::$code,)*
                    Error::Internal(_) => Code::Internal,
                }
            }

            /// The gRPC status message.
            pub fn text(&self) -> &'static str {
                match self {
                    $(Error::$name => $text,)*
                    Error::Internal(what) => what,
                }
            }
        }
    };
}

errors! {
    // ----- requests
    /// A request without a key.
    KeyEmpty = InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on a key that does not exist, or an operation of a
    /// transaction that asks for nothing.
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    /// `ignore_value` together with a value.
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    /// A transaction with too many operations.
    TooManyOperations = InvalidArgument, "etcdserver: too many operations in txn request";
    /// A transaction that looks at the same keys again and again; the text is ours.
    TxnTooLarge = ResourceExhausted,
        "quorate: the transaction looks at too many keys; nothing of it was done";
    /// A transaction that would write a key twice.
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// A client's version that is not text.
    InvalidClientVersion = InvalidArgument, "etcdserver: invalid client api version";
    /// A sort order or target that does not exist.
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    /// A stream of a range in another order than that of the keys.
    StreamSorted = Unimplemented, "RangeStream does not support custom sort orders";
    /// A stream of a range that leaves keys out by revision.
    StreamFiltered = Unimplemented, "RangeStream does not support revision filters";
    /// The request is larger than the limit.
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    /// The revision asked for is no longer there.
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// The revision asked for is not there yet.
    FutureRevision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The quota is used up.
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";

    // ----- leases
    /// A lease that does not exist.
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    /// A lease that exists already.
    LeaseExists = FailedPrecondition, "etcdserver: lease already exists";
    /// A lease that would live too long.
    LeaseTooLong = OutOfRange, "etcdserver: too large lease TTL";
    /// The member asked does not keep the leases.
    LeaseNotPrimary = Unknown, "not a primary lessor";

    // ----- watches
    /// The watch was ended.
    WatchCanceled = Canceled, "etcdserver: watch canceled";
    /// One stream of watches too many.
    TooManyWatchStreams = ResourceExhausted,
        "etcdserver: too many requests: this node has as many watch streams as are allowed";
    /// A client asks on and on without reading the answers.
    WatchNotRead = ResourceExhausted,
        "etcdserver: too many requests: the answers on this watch stream are not read";

    // ----- members
    /// A member that does not exist.
    MemberNotFound = NotFound, "etcdserver: member not found";
    /// A member's id that exists already.
    MemberExists = FailedPrecondition, "etcdserver: member ID already exist";
    /// A member's address that exists already.
    PeerUrlExists = FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// A change that would leave too few members running.
    NotEnoughStartedMembers = Unknown,
        "etcdserver: re-configuration failed due to not enough started members";
    /// Member addresses that make no sense.
    InvalidMemberUrls = InvalidArgument, "etcdserver: given member URLs are invalid";
    /// Promotion of a member that has a vote.
    NotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    /// Promotion of a learner that lags behind.
    LearnerNotReady = FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader";
    /// One learner too many.
    TooManyLearners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// A request meant for another cluster.
    ClusterIdMismatch = FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// A learner was asked for what it cannot do.
    NotSupportedForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// Leadership was to go to a member that cannot have it.
    BadLeaderTransferee = FailedPrecondition, "etcdserver: bad leader transferee";
    /// The cluster is too unwell for a change.
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";
    /// Clients of etcd's know nothing of keyspaces; the text is ours.
    KeyspaceNotFound = NotFound, "quorate: there is no keyspace of this name";
    /// Likewise.
    KeyspaceElsewhere = Unavailable, "quorate: the keyspace is on other nodes";
    /// Likewise.
    KeyspaceUnreachable = Unavailable, "quorate: no node that holds the keyspace answers";
    /// Likewise.
    KeyspaceLost = Unavailable, "quorate: the node that was asked is gone; the outcome is unknown";
    /// Likewise: a key goes with a lease of the default keyspace, and its own has another.
    LeaseOfOther = FailedPrecondition,
        "quorate: the keyspace of the key has another lease of this id; grant one with another id";
    /// Likewise: a prefix has been given to another keyspace since the request was sent on its way.
    KeysMoved = Unavailable,
        "quorate: the keys belong to another keyspace since a moment ago; ask again";
    /// Likewise.
    Witness = Unavailable,
        "quorate: this node is a witness and holds no data: ask a member that does";
    /// Likewise: what the node's disk has lost may be much, and nobody has made up for it yet.
    InDoubt = Unavailable,
        "quorate: this node is getting back what its disk has lost: ask another one, or ask again";
    /// Likewise.
    MemberIsNeeded = FailedPrecondition, "quorate: a keyspace would lose its majority with it";
    /// Replicas differ.
    Corrupt = DataLoss, "etcdserver: corrupt cluster";

    // ----- users and roles
    /// Authentication was to be turned on without a root user.
    RootUserMissing = FailedPrecondition, "etcdserver: root user does not exist";
    /// Authentication was to be turned on with a root user that is not root.
    RootRoleMissing = FailedPrecondition, "etcdserver: root user does not have root role";
    /// A user that exists already.
    UserExists = FailedPrecondition, "etcdserver: user name already exists";
    /// A user without a name.
    UserEmpty = InvalidArgument, "etcdserver: user name is empty";
    /// A user that does not exist.
    UserNotFound = FailedPrecondition, "etcdserver: user name not found";
    /// A role that exists already.
    RoleExists = FailedPrecondition, "etcdserver: role name already exists";
    /// A role that does not exist.
    RoleNotFound = FailedPrecondition, "etcdserver: role name not found";
    /// A role without a name.
    RoleEmpty = InvalidArgument, "etcdserver: role name is empty";
    /// A wrong name or password.
    AuthenticationFailed = InvalidArgument,
        "etcdserver: authentication failed, invalid user ID or password";
    /// A permission that says nothing.
    PermissionNotGiven = InvalidArgument, "etcdserver: permission not given";
    /// The caller may not do this.
    PermissionDenied = PermissionDenied, "etcdserver: permission denied";
    /// A role that the user does not have.
    RoleNotGranted = FailedPrecondition, "etcdserver: role is not granted to the user";
    /// A permission that the role does not have.
    PermissionNotGranted = FailedPrecondition,
        "etcdserver: permission is not granted to the role";
    /// A call that needs authentication to be on.
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    /// A token that is not valid, or no longer.
    InvalidAuthToken = Unauthenticated, "etcdserver: invalid auth token";
    /// A change of users that would lock everybody out.
    InvalidAuthManagement = InvalidArgument, "etcdserver: invalid auth management";
    /// Users have to sign in from now on; what was opened before has to be opened again.
    AuthTurnedOn = Unavailable, "etcdserver: authentication was turned on";
    /// Users or roles have changed since the token was given out.
    AuthOldRevision = InvalidArgument, "etcdserver: revision of auth store is old";

    // ----- the cluster's condition
    /// There is no leader.
    NoLeader = Unavailable, "etcdserver: no leader";
    /// The member asked does not lead.
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    /// Another leader took over; what was asked may or may not have happened.
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    /// The cluster is too old for this call.
    NotCapable = FailedPrecondition, "etcdserver: not capable";
    /// The member asked is stopping.
    Stopped = Unavailable, "etcdserver: server stopped";
    /// No answer in time; what was asked may or may not have happened.
    Timeout = Unavailable, "etcdserver: request timed out";
    /// No answer in time, as the leader was lost meanwhile.
    TimeoutLeaderFailure = Unavailable,
        "etcdserver: request timed out, possibly due to previous leader failure";
    /// No answer in time, as connections were lost meanwhile.
    TimeoutConnectionLost = Unavailable,
        "etcdserver: request timed out, possibly due to connection lost";
    /// No answer in time, as execution lags behind.
    TimeoutWaitingForApplied = Unavailable,
        "etcdserver: request timed out, waiting for the applied index took too long";
    /// The new leader did not take over in time.
    TimeoutLeaderTransfer = Unknown,
        "etcdserver: request timed out, leader transfer took too long";
    /// Too much is under way; nothing was done.
    TooManyRequests = Unknown, "etcdserver: too many requests";
    /// The caller gave up.
    RequestCanceled = Canceled, "etcdserver: request canceled";
    /// The time was over before anything was begun. Said by gRPC in etcd, and so without its name.
    DeadlineExceeded = DeadlineExceeded, "context deadline exceeded";

    // ----- downgrades
    /// The cluster's version is not known yet.
    ClusterVersionUnavailable = FailedPrecondition,
        "etcdserver: cluster version not found during downgrade";
    /// A version that cannot be read.
    WrongDowngradeFormat = InvalidArgument,
        "etcdserver: wrong downgrade target version format";
    /// A version that cannot be gone back to.
    InvalidDowngradeTarget = InvalidArgument, "etcdserver: invalid downgrade target version";
    /// A downgrade is under way already.
    DowngradeInProgress = FailedPrecondition,
        "etcdserver: cluster has a downgrade job in progress";
    /// An action that does not exist.
    UnknownMethod = Unknown, "etcdserver: unknown method";
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_unique_and_prefixed() {
        let mut texts: Vec<_> = Error::ALL.iter().map(Error::text).collect();
        texts.sort_unstable();
        let count = texts.len();
        texts.dedup();
        assert_eq!(texts.len(), count, "two errors with one text");
        for error in Error::ALL {
            let exempt = [
                Error::LeaseNotPrimary,
                Error::DeadlineExceeded,
                Error::StreamSorted,
                Error::StreamFiltered,
            ]
            .contains(error);
            // What etcd does not know says so.
            let is_prefixed = ["etcdserver: ", "quorate: "]
                .iter()
                .any(|prefix| error.text().starts_with(prefix));
            assert!(exempt || is_prefixed, "{error:?}");
        }
    }

    #[test]
    fn codes_are_those_of_grpc() {
        let expected = [
            (Error::WatchCanceled, 1),
            (Error::TooManyRequests, 2),
            (Error::NotEnoughStartedMembers, 2),
            (Error::KeyEmpty, 3),
            (Error::DeadlineExceeded, 4),
            (Error::LeaseNotFound, 5),
            (Error::PermissionDenied, 7),
            (Error::NoSpace, 8),
            (Error::NotLeader, 9),
            (Error::Compacted, 11),
            (Error::Internal("x"), 13),
            (Error::Timeout, 14),
            (Error::Corrupt, 15),
            (Error::InvalidAuthToken, 16),
        ];
        for (error, number) in expected {
            assert_eq!(error.code().number(), number, "{error:?}");
        }
    }
}
