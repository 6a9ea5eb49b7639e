//! The history of one run: what its clients asked, what they were told, and when.
//!
//! ```text
//! {"history":1,"origin":{"simulator":{"seed":7,"commit":"b5ce32a"}},"bounds":{...}}
//! {"at":100,"event":{"invoke":{"id":1,"client":2,"request":{"put":{"key":"a","value":"1"}}}}}
//! {"at":950,"event":{"ok":{"id":1,"revision":2,"response":{"put":{}}}}}
//! ```
//!
//! JSON, one object a line, UTF-8. The first line is the [`Header`], every other line one
//! [`Event`], in the order of real time: `at` is nanoseconds since the run began and never goes
//! back; of two events with the same `at` the one on the earlier line came first. A field that
//! has its default (zero, false, empty, absent) may be left out; a field that is not listed here is
//! refused. Simulators and recorders of live runs write the same lines.
//!
//! # Bytes
//! Keys and values are bytes. In a string each character is one byte, U+0000 to U+00FF, so that
//! text stays readable (`"a/b"`) and any byte can be said (`"\u00ff"`). Other characters are
//! refused.
//!
//! # Header
//! | field | meaning |
//! |---|---|
//! | `history` | version of the format: 1 |
//! | `origin` | `{"simulator":{"seed","commit"}}` or `{"live":{"cluster","commit"}}` |
//! | `initial` | the keyspace before the first event: `revision` (1), `compacted` (0), `keys` |
//! | `bounds` | [`Bounds`]: what clocks and leases are held to, all in ns or parts per million |
//!
//! # Operations
//! `invoke` names the operation (`id`, unique), the client and the request. At most one event ends
//! it:
//! - `ok`: it took effect, once, between its two lines. Carries the header's `revision` and all
//!   that the client saw.
//! - `fail`: it certainly had no effect and never will. Carries the reason.
//! - `unknown`: a timeout, a lost connection. It may take effect at any later time, or never.
//!
//! An operation that no event ends is unknown. A client that retries records a new operation,
//! unless its first try certainly failed.
//!
//! | request | fields | response |
//! |---|---|---|
//! | `range` | `key`, `range_end`, `revision`, `limit`, ... | `key_values`, `count`, `more` |
//! | `put` | `key`, `value`, `lease`, `prev_kv`, ... | `prev_kv` |
//! | `delete` | `key`, `range_end`, `prev_kv` | `deleted`, `prev_kvs` |
//! | `txn` | `compares`, `success`, `failure` (lists of steps) | `succeeded`, `responses` |
//! | `compact` | `revision` | (empty) |
//! | `lease_grant` | `lease`, `ttl` seconds | `lease`, `ttl` granted |
//! | `lease_revoke` | `lease` | (empty) |
//! | `lease_keep_alive` | `lease` | `ttl`: seconds, 0 = no such lease |
//! | `lease_time_to_live` | `lease`, `keys` | `ttl` (-1 = none), `granted_ttl`, `keys` |
//! | `lock` | `name`, `lease` | `key`, `fence`: create revision of that key |
//! | `unlock` | `key` | (empty) |
//! | `campaign` | `name`, `lease`, `value` | `key`, `fence`: create revision of that key |
//! | `proclaim` | `key`, `fence`, `lease`, `value` | `leads`: whether it was written |
//! | `resign` | `key`, `fence` | `left`: whether the key was deleted |
//! | `leader` | `name` | `leader`: its key, absent if nobody leads |
//! | `lease_list` | (none) | `leases` |
//!
//! Ranges also have `serializable`, `keys_only`, `count_only`; revision 0 is the latest. Puts also
//! have `ignore_value`, `ignore_lease`. Pairs of a `keys_only` range lack their value, and may lack
//! their lease (as from etcd 3.7 on). `prev_kv` and `keys` in a request say that they are asked
//! for.
//! `range_end` is as in etcd: empty means the one key, `"\u0000"` every key from `key` on.
//!
//! # Watches
//! A watch has an id that is unique in the run and lives across reconnections.
//! `watch_create` is what the client asked for; `watch_created` the server's word (at `revision`).
//! Then `watch_message` (one message, its `events`), `watch_progress` (a message without events:
//! all up to `revision` was delivered), `watch_cancelled` (by the server; `compact_revision` if it
//! said so), `watch_lost` (the connection went away or the client closed it) and `watch_resume`
//! (the client asks again, from `start_revision`). See the types for the fields.
//!
//! # Facts
//! `calm`: from here on the run injects no faults. `lease_expired`: an observer inside (simulators
//! only) saw the cluster decide, now, that a lease is over.

mod event;
mod octets;
mod reader;
mod request;
mod writer;

use serde::{Deserialize, Serialize};

pub use event::{
    Event, EventKind, Failure, Filter, WatchCreate, WatchEvent, WatchMessage, WatchRevision,
};
pub use octets::{Key, Value};
pub use reader::{Malformed, Reader};
pub use request::{
    Campaign, Compact, Compare, Comparison, Delete, DeleteResult, Done, KeyRange, KeyValue, Leader,
    LeaseGrant, LeaseGranted, LeaseKeptAlive, LeaseList, LeaseName, LeaseRevoke, LeaseTimeToLive,
    LeaseTimeToLiveResult, LeasesListed, Led, Lock, Locked, Proclaim, Proclaimed, Put, PutResult,
    Range, RangeResult, Request, Resign, Resigned, Response, Step, StepResult, Target, Txn,
    TxnResult, Unlock,
};
pub use writer::Writer;

/// The version of the format that this crate writes, and the only one it reads.
pub const FORMAT: u32 = 1;

/// Nanoseconds since the run began.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Time(pub u64);

/// A revision of the keyspace, as etcd counts: an empty keyspace is at 1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Revision(pub u64);

/// The number of a lease; 0 means none.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LeaseId(pub i64);

/// One client of the run; it may have several operations open.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ClientId(pub u64);

/// One operation, unique in the run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct OperationId(pub u64);

/// One watch, unique in the run; it lives across reconnections.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WatchId(pub u64);

/// Where a history comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Origin {
    /// A simulated run, which its seed repeats.
    Simulator {
        /// The seed of the run.
        seed: u64,
        /// The commit of the code that ran.
        commit: String,
    },
    /// A recorded run of real processes.
    Live {
        /// Whatever names the cluster for a reader.
        cluster: String,
        /// The commit or version of the server.
        commit: String,
    },
}

/// The keyspace before the first event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initial {
    /// Its revision; 1 when empty.
    pub revision: Revision,
    /// The highest revision that was compacted; 0 for none.
    #[serde(default)]
    pub compacted: Revision,
    /// All its keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyValue>,
}

impl Default for Initial {
    fn default() -> Initial {
        Initial {
            revision: Revision(1),
            compacted: Revision(0),
            keys: Vec::new(),
        }
    }
}

/// What clocks and leases of this run are held to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// How much faster than true time the cluster's clock may run, in parts per million.
    pub clock_drift_ppm: u32,
    /// How early, beside the drift, a lease may expire: clock jumps that the run allows. ns.
    pub lease_early_ns: u64,
    /// How late a lease may expire at most, counted from its deadline or from `calm`, whichever is
    /// later. ns. 0: lateness is not judged.
    pub lease_late_ns: u64,
    /// By when an operation with unknown result has taken effect if ever, counted from its
    /// invocation or from `calm`, whichever is later. ns. It is used for the lateness of leases
    /// alone; 0: a lease with an unknown renewal is not judged late.
    pub unknown_ns: u64,
}

/// The first line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the format: [`FORMAT`].
    pub history: u32,
    /// Where the history comes from.
    pub origin: Origin,
    /// The keyspace before the first event.
    #[serde(default)]
    pub initial: Initial,
    /// What clocks and leases are held to.
    #[serde(default)]
    pub bounds: Bounds,
}

impl Header {
    /// A header with an empty keyspace and the strictest bounds.
    #[must_use]
    pub fn new(origin: Origin) -> Header {
        Header {
            history: FORMAT,
            origin,
            initial: Initial::default(),
            bounds: Bounds::default(),
        }
    }
}

/// A whole run in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The first line.
    pub header: Header,
    /// Everything that happened, in the order of real time.
    pub events: Vec<Event>,
}

macro_rules! shown_as_number {
    ($($name:ident)*) => {
        $(impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(formatter)
            }
        })*
    };
}

shown_as_number!(Revision LeaseId ClientId OperationId WatchId);

impl std::fmt::Display for Time {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, rest) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        write!(formatter, "{seconds}.{rest:09} s")
    }
}
