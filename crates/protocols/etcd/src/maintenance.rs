//! etcd's Maintenance service: alarms, hashes, downgrades, who leads.
//!
//! ```text
//!  MaintenanceRequest ─┬─ changes something ─ record ─ the log ─ execute() ──► response | error
//!                      ├─ reads the state ──────────────────────────────────► response | error
//!                      └─ concerns the node alone (leadership): the node knows
//! ```
//!
//! - [`alarm`]: what the group is in distress about, and what it refuses meanwhile.
//! - [`command`]: the records of what changes.
//! - [`hash`]: one number for the keyspace at a revision, the same on every member.
//! - [`downgrade`]: what etcd would say about going back a version.
//!
//! What is set here decides what later commands do, so it is state, in [`state::Space::SYSTEM`].

pub mod alarm;
pub mod command;
pub mod downgrade;
pub mod hash;

use state::Space;

use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentResponse, DowngradeRequest, DowngradeResponse,
    HashKvRequest, HashKvResponse, HashResponse, MoveLeaderRequest, MoveLeaderResponse,
    ResponseHeader,
};

/// Whether a row is about a cluster's members rather than its data: one that is not restored.
#[must_use]
pub fn is_of_cluster(space: Space, key: &[u8]) -> bool {
    space == Space::SYSTEM && [alarm::ROW, downgrade::ROW].contains(&key)
}

/// What a client may ask about the store and its node.
#[derive(Clone, Debug, PartialEq)]
pub enum MaintenanceRequest {
    /// Read, raise or clear alarms.
    Alarm(AlarmRequest),
    /// Give free space back. It is given back all the time.
    Defragment,
    /// Hash everything that is replicated.
    Hash,
    /// Hash the keyspace at a revision.
    HashKv(HashKvRequest),
    /// Hand leadership over.
    MoveLeader(MoveLeaderRequest),
    /// Prepare to go back a version.
    Downgrade(DowngradeRequest),
}

/// The answer to a [`MaintenanceRequest`], of the same variant.
#[derive(Clone, Debug, PartialEq)]
pub enum MaintenanceResponse {
    /// The alarms that the request was about.
    Alarm(AlarmResponse),
    /// Nothing was to be done.
    Defragment(DefragmentResponse),
    /// The hash.
    Hash(HashResponse),
    /// The hash.
    HashKv(HashKvResponse),
    /// Another member leads.
    MoveLeader(MoveLeaderResponse),
    /// What was asked for holds.
    Downgrade(DowngradeResponse),
}

impl MaintenanceResponse {
    /// The header, to be filled in by who answers; `None` where etcd answers without one.
    pub fn header_mut(&mut self) -> Option<&mut ResponseHeader> {
        let header = match self {
            MaintenanceResponse::Alarm(response) => &mut response.header,
            MaintenanceResponse::Hash(response) => &mut response.header,
            MaintenanceResponse::HashKv(response) => &mut response.header,
            MaintenanceResponse::Downgrade(response) => &mut response.header,
            MaintenanceResponse::Defragment(_) | MaintenanceResponse::MoveLeader(_) => return None,
        };
        Some(header.get_or_insert_default())
    }
}
