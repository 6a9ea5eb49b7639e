//! What clients ask and what they are told: the vocabulary of etcd's calls, in types of our own.
//!
//! These mirror the calls, not the code of the server: the checker must be able to disagree with
//! it. [`super`] lists all fields in one table.

use serde::{Deserialize, Serialize};

use super::octets::{Key, Value};
use super::{LeaseId, Revision};

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

macro_rules! shape {
    ($(#[$comment:meta])* $name:ident {
        $($(#[$field_comment:meta])* $field:ident: $kind:ty,)*
    }) => {
        $(#[$comment])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_comment])*
            #[serde(skip_serializing_if = "is_default")]
            pub $field: $kind,)*
        }
    };
}

shape! {
    /// A key with its value and its counters, as etcd shows it.
    #[derive(PartialOrd, Ord)]
    KeyValue {
        /// The key.
        key: Key,
        /// Its value; empty if only keys were asked for.
        value: Value,
        /// Revision at which this generation of the key began.
        create_revision: Revision,
        /// Revision of the last write.
        mod_revision: Revision,
        /// Writes since the creation, that one included.
        version: u64,
        /// The lease it hangs on; 0 for none.
        lease: LeaseId,
    }
}

shape! {
    /// Some keys: one, or all from `key` to before `range_end`.
    KeyRange {
        /// The first key.
        key: Key,
        /// Empty: `key` alone. `"\u0000"`: all from `key` on. Else the first key beyond.
        range_end: Key,
    }
}

impl KeyRange {
    /// Whether `key` is one of them.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        if self.range_end.is_empty() {
            return *key == self.key;
        }
        *key >= self.key && (self.is_open() || *key < self.range_end)
    }

    /// Whether it reaches to the last key there is.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.range_end.0.as_ref() == [0]
    }

    /// Whether it names one key.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.range_end.is_empty()
    }
}

impl From<&str> for KeyRange {
    fn from(key: &str) -> KeyRange {
        KeyRange {
            key: key.into(),
            range_end: Key::default(),
        }
    }
}

shape! {
    /// Reads keys, in key order.
    Range {
        /// The first key.
        key: Key,
        /// As in [`KeyRange`].
        range_end: Key,
        /// The revision to read at; 0 for the latest.
        revision: Revision,
        /// Whether a stale answer is welcome.
        serializable: bool,
        /// How many keys at most; 0 for all.
        limit: u64,
        /// Whether values are left out.
        keys_only: bool,
        /// Whether only the number of keys is wanted.
        count_only: bool,
    }
}

shape! {
    /// Answer to [`Range`].
    RangeResult {
        /// The keys, in key order.
        key_values: Vec<KeyValue>,
        /// How many there are, whatever the limit.
        count: u64,
        /// Whether the limit cut some off.
        more: bool,
    }
}

shape! {
    /// Writes one key.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
        /// The lease to hang it on; 0 for none.
        lease: LeaseId,
        /// Whether the previous version is wanted.
        prev_kv: bool,
        /// Whether the value stays as it is (the key must exist).
        ignore_value: bool,
        /// Whether the lease stays as it is (the key must exist).
        ignore_lease: bool,
    }
}

shape! {
    /// Answer to [`Put`].
    PutResult {
        /// The version before, if asked for and there was one.
        prev_kv: Option<KeyValue>,
    }
}

shape! {
    /// Deletes keys.
    Delete {
        /// The first key.
        key: Key,
        /// As in [`KeyRange`].
        range_end: Key,
        /// Whether the deleted versions are wanted.
        prev_kv: bool,
    }
}

shape! {
    /// Answer to [`Delete`].
    DeleteResult {
        /// How many keys were deleted.
        deleted: u64,
        /// The versions before, in key order, if asked for.
        prev_kvs: Vec<KeyValue>,
    }
}

/// What a [`Compare`] looks at, and the value to compare with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// The version; 0 for a key that is not there.
    Version(u64),
    /// The create revision; 0 for a key that is not there.
    CreateRevision(Revision),
    /// The revision of the last write; 0 for a key that is not there.
    ModRevision(Revision),
    /// The value; always false for a key that is not there.
    Value(Value),
    /// The lease; 0 for none.
    Lease(LeaseId),
}

/// How a [`Compare`] compares: key's side, this, given side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// The key's side is greater.
    Greater,
    /// The key's side is less.
    Less,
}

/// One condition of a transaction; over a range it must hold for every key in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// The first key.
    pub key: Key,
    /// As in [`KeyRange`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub range_end: Key,
    /// How to compare.
    pub is: Comparison,
    /// What with what.
    pub target: Target,
}

shape! {
    /// A transaction: if all compares hold, the steps of `success`, else those of `failure`.
    Txn {
        /// The conditions.
        compares: Vec<Compare>,
        /// Steps if all hold.
        success: Vec<Step>,
        /// Steps if one does not.
        failure: Vec<Step>,
    }
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Read. Its `serializable` means nothing here.
    Range(Range),
    /// Write.
    Put(Put),
    /// Delete.
    Delete(Delete),
    /// A transaction inside.
    Txn(Txn),
}

shape! {
    /// Answer to [`Txn`].
    TxnResult {
        /// Whether all compares held.
        succeeded: bool,
        /// One answer per executed step.
        responses: Vec<StepResult>,
    }
}

/// Answer to a [`Step`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StepResult {
    /// To a read.
    Range(RangeResult),
    /// To a write.
    Put(PutResult),
    /// To a delete.
    Delete(DeleteResult),
    /// To a transaction inside.
    Txn(TxnResult),
}

shape! {
    /// Forgets what was overwritten before a revision.
    Compact {
        /// Reads below it are refused from then on.
        revision: Revision,
    }
}

shape! {
    /// Makes a lease.
    LeaseGrant {
        /// The number asked for; 0 lets the server choose.
        lease: LeaseId,
        /// Time to live asked for, in seconds.
        ttl: i64,
    }
}

shape! {
    /// Answer to [`LeaseGrant`].
    LeaseGranted {
        /// The number of the lease.
        lease: LeaseId,
        /// Time to live granted, in seconds.
        ttl: i64,
    }
}

shape! {
    /// Ends a lease, and with it its keys.
    LeaseRevoke {
        /// Which.
        lease: LeaseId,
    }
}

shape! {
    /// Names a lease: to keep it alive.
    LeaseName {
        /// Which.
        lease: LeaseId,
    }
}

shape! {
    /// Answer to a keep-alive.
    LeaseKeptAlive {
        /// Seconds that it lives from now on; 0: there is no such lease.
        ttl: i64,
    }
}

shape! {
    /// Asks how long a lease still lives.
    LeaseTimeToLive {
        /// Which.
        lease: LeaseId,
        /// Whether the keys that hang on it are wanted.
        keys: bool,
    }
}

shape! {
    /// Answer to [`LeaseTimeToLive`].
    LeaseTimeToLiveResult {
        /// Seconds left; -1: there is no such lease.
        ttl: i64,
        /// Time to live granted, in seconds.
        granted_ttl: i64,
        /// Keys that hang on it, if asked for.
        keys: Vec<Key>,
    }
}

shape! {
    /// Waits for a lock of etcd's Lock service: holds the key `name/<lease in hex>`.
    Lock {
        /// Name of the lock.
        name: Key,
        /// The lease that holds it.
        lease: LeaseId,
    }
}

shape! {
    /// Answer to [`Lock`].
    Locked {
        /// The key that is held.
        key: Key,
        /// The create revision of that key: whoever holds the lock later has a greater one.
        fence: Revision,
    }
}

shape! {
    /// Gives a lock back.
    Unlock {
        /// The key that is held.
        key: Key,
    }
}

shape! {
    /// Waits for the leadership of etcd's Election service: holds the key
    /// `name/<lease in hex>`. Answered as a lock is.
    Campaign {
        /// Name of the election.
        name: Key,
        /// The lease that leads.
        lease: LeaseId,
        /// What the candidate says of itself.
        value: Value,
    }
}

shape! {
    /// A leader says something else of itself.
    Proclaim {
        /// The key that leads.
        key: Key,
        /// The create revision of that key.
        fence: Revision,
        /// The lease that leads.
        lease: LeaseId,
        /// What it says.
        value: Value,
    }
}

shape! {
    /// Answer to [`Proclaim`].
    Proclaimed {
        /// Whether the key was still there; else nothing was written.
        leads: bool,
    }
}

shape! {
    /// A leader, or a candidate, steps back.
    Resign {
        /// Its key.
        key: Key,
        /// The create revision of that key.
        fence: Revision,
    }
}

shape! {
    /// Answer to [`Resign`].
    Resigned {
        /// Whether the key was still there; else nothing was deleted.
        left: bool,
    }
}

shape! {
    /// Asks who leads.
    Leader {
        /// Name of the election.
        name: Key,
    }
}

shape! {
    /// Answer to [`Leader`].
    Led {
        /// The key of the leader; absent if nobody leads.
        leader: Option<KeyValue>,
    }
}

shape! {
    /// Asks for all leases.
    LeaseList {}
}

shape! {
    /// Answer to [`LeaseList`].
    LeasesListed {
        /// All leases that there are, in any order.
        leases: Vec<LeaseId>,
    }
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Reads keys.
    Range(Range),
    /// Writes a key.
    Put(Put),
    /// Deletes keys.
    Delete(Delete),
    /// A transaction.
    Txn(Txn),
    /// Forgets old revisions.
    Compact(Compact),
    /// Makes a lease.
    LeaseGrant(LeaseGrant),
    /// Ends a lease.
    LeaseRevoke(LeaseRevoke),
    /// Renews a lease.
    LeaseKeepAlive(LeaseName),
    /// Asks how long a lease still lives.
    LeaseTimeToLive(LeaseTimeToLive),
    /// Waits for a lock.
    Lock(Lock),
    /// Gives a lock back.
    Unlock(Unlock),
    /// Waits for a leadership.
    Campaign(Campaign),
    /// Says something else as leader.
    Proclaim(Proclaim),
    /// Steps back.
    Resign(Resign),
    /// Asks who leads.
    Leader(Leader),
    /// Asks for all leases.
    LeaseList(LeaseList),
}

shape! {
    /// An answer that says nothing beyond its header.
    Done {}
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// To a read.
    Range(RangeResult),
    /// To a write.
    Put(PutResult),
    /// To a delete.
    Delete(DeleteResult),
    /// To a transaction.
    Txn(TxnResult),
    /// To a compaction.
    Compact(Done),
    /// To a grant.
    LeaseGrant(LeaseGranted),
    /// To a revocation.
    LeaseRevoke(Done),
    /// To a renewal.
    LeaseKeepAlive(LeaseKeptAlive),
    /// To a question about a lease.
    LeaseTimeToLive(LeaseTimeToLiveResult),
    /// To a lock.
    Lock(Locked),
    /// To an unlock.
    Unlock(Done),
    /// To a campaign.
    Campaign(Locked),
    /// To a proclamation.
    Proclaim(Proclaimed),
    /// To a resignation.
    Resign(Resigned),
    /// To a question who leads.
    Leader(Led),
    /// To a question for all leases.
    LeaseList(LeasesListed),
}

impl Response {
    /// What was got, and its fence: a lock, or a leadership.
    #[must_use]
    pub fn held(&self) -> Option<&Locked> {
        match self {
            Response::Lock(held) | Response::Campaign(held) => Some(held),
            _ => None,
        }
    }
}

impl Request {
    /// Whether `response` is an answer to such a request.
    #[must_use]
    pub fn fits(&self, response: &Response) -> bool {
        matches!(
            (self, response),
            (Request::Range(_), Response::Range(_))
                | (Request::Put(_), Response::Put(_))
                | (Request::Delete(_), Response::Delete(_))
                | (Request::Txn(_), Response::Txn(_))
                | (Request::Compact(_), Response::Compact(_))
                | (Request::LeaseGrant(_), Response::LeaseGrant(_))
                | (Request::LeaseRevoke(_), Response::LeaseRevoke(_))
                | (Request::LeaseKeepAlive(_), Response::LeaseKeepAlive(_))
                | (Request::LeaseTimeToLive(_), Response::LeaseTimeToLive(_))
                | (Request::Lock(_), Response::Lock(_))
                | (Request::Unlock(_), Response::Unlock(_))
                | (Request::Campaign(_), Response::Campaign(_))
                | (Request::Proclaim(_), Response::Proclaim(_))
                | (Request::Resign(_), Response::Resign(_))
                | (Request::Leader(_), Response::Leader(_))
                | (Request::LeaseList(_), Response::LeaseList(_))
        )
    }
}
