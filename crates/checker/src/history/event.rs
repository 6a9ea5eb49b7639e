//! The lines of a history behind the header.

use serde::{Deserialize, Serialize};

use super::octets::Key;
use super::request::{KeyRange, KeyValue, Request, Response};
use super::{ClientId, LeaseId, OperationId, Revision, Time, WatchId};

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One line: when, and what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When it happened at the client; never before the line above.
    pub at: Time,
    /// What happened.
    pub event: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EventKind {
    /// A client asked.
    Invoke {
        /// The operation; new.
        id: OperationId,
        /// Who asked.
        client: ClientId,
        /// What.
        request: Request,
    },
    /// The operation took effect, once, since its invocation.
    Ok {
        /// Which.
        id: OperationId,
        /// The revision in the header of the answer.
        revision: Revision,
        /// What the client saw.
        response: Response,
    },
    /// The operation had no effect and never will.
    Fail {
        /// Which.
        id: OperationId,
        /// Why.
        failure: Failure,
    },
    /// Nobody knows whether it took or takes effect.
    Unknown {
        /// Which.
        id: OperationId,
        /// Why, for the reader.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// A client asked for a watch.
    WatchCreate(WatchCreate),
    /// The server made it.
    WatchCreated(WatchRevision),
    /// A message with events arrived.
    WatchMessage(WatchMessage),
    /// A message without events arrived: all events up to its revision were delivered.
    WatchProgress(WatchRevision),
    /// The server ended the watch.
    WatchCancelled {
        /// Which.
        watch: WatchId,
        /// The compacted revision, if that was the reason; else 0.
        #[serde(default, skip_serializing_if = "is_default")]
        compact_revision: Revision,
        /// What the server said, for the reader.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// The connection of the watch is gone, or the client closed it.
    WatchLost {
        /// Which.
        watch: WatchId,
    },
    /// The client asks for the rest of a watch that was lost or cancelled.
    WatchResume {
        /// Which.
        watch: WatchId,
        /// From where; normally one beyond the last revision seen.
        start_revision: Revision,
    },
    /// From now on the run injects no faults.
    Calm {},
    /// The cluster decided now that the lease is over (only an observer inside can know).
    LeaseExpired {
        /// Which.
        lease: LeaseId,
    },
}

/// Why an operation certainly failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Failure {
    /// The revision asked for was compacted.
    Compacted,
    /// The revision asked for is in the future.
    FutureRevision,
    /// There is no such lease.
    LeaseNotFound,
    /// There is such a lease already.
    LeaseExists,
    /// There is no such key (a put that keeps value or lease).
    KeyNotFound,
    /// Anything else that certainly had no effect: a refusal, an invalid request.
    Other(String),
}

/// Events that a watch does not want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// No puts.
    Put,
    /// No deletions.
    Delete,
}

/// What a client asked to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchCreate {
    /// The watch; new.
    pub watch: WatchId,
    /// Who asked.
    pub client: ClientId,
    /// The first key.
    pub key: Key,
    /// As in [`KeyRange`].
    #[serde(skip_serializing_if = "is_default")]
    pub range_end: Key,
    /// First revision wanted; 0: whatever happens after the creation.
    #[serde(skip_serializing_if = "is_default")]
    pub start_revision: Revision,
    /// Whether previous versions are wanted.
    #[serde(skip_serializing_if = "is_default")]
    pub prev_kv: bool,
    /// Whether the server may split a revision over several messages.
    #[serde(skip_serializing_if = "is_default")]
    pub fragment: bool,
    /// Events not wanted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
}

impl WatchCreate {
    /// The keys that are watched.
    #[must_use]
    pub fn keys(&self) -> KeyRange {
        KeyRange {
            key: self.key.clone(),
            range_end: self.range_end.clone(),
        }
    }
}

/// A watch and the revision of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchRevision {
    /// Which watch.
    pub watch: WatchId,
    /// The revision in the header of the message.
    pub revision: Revision,
}

/// One message of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchMessage {
    /// Which watch.
    pub watch: WatchId,
    /// The revision in the header of the message.
    pub revision: Revision,
    /// Whether the next message continues this one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fragment: bool,
    /// The events, in the order of the message.
    pub events: Vec<WatchEvent>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WatchEvent {
    /// A key was written.
    Put {
        /// The key as written.
        kv: KeyValue,
        /// The version before, if asked for and there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prev_kv: Option<KeyValue>,
    },
    /// A key was deleted.
    Delete {
        /// Which.
        key: Key,
        /// At which revision.
        mod_revision: Revision,
        /// The version before, if asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prev_kv: Option<KeyValue>,
    },
}

impl WatchEvent {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            WatchEvent::Put { kv, .. } => &kv.key,
            WatchEvent::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            WatchEvent::Put { kv, .. } => kv.mod_revision,
            WatchEvent::Delete { mod_revision, .. } => *mod_revision,
        }
    }

    /// The version before the change, as delivered.
    #[must_use]
    pub fn prev_kv(&self) -> Option<&KeyValue> {
        match self {
            WatchEvent::Put { prev_kv, .. } | WatchEvent::Delete { prev_kv, .. } => {
                prev_kv.as_ref()
            }
        }
    }
}
