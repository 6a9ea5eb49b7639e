//! etcd's v3 key-value and lease API, translated: typed requests to reads and command records,
//! execution of both against the state, typed responses and etcd's exact errors.
//!
//! ```text
//!  Request ──plan()──┬─ Read ─────────── read() on the state or on a snapshot ──► Response | Error
//!                    └─ command record ─ the log ─ execute() on every replica ──► Response | Error
//! ```
//!
//! - [`proto`]: the messages of etcd's API; `proto/` holds their definitions.
//! - [`Request`], [`Response`]: what a client may ask of the keyspace, and the answer.
//! - [`plan()`]: everything about a request that can be checked without the state is checked here,
//!   once, before it costs anything.
//! - `command`: our own records of what is to be executed. A client's bytes never enter the log:
//!   what a replica executes must not depend on how a library parses somebody else's format.
//! - [`execute()`]: runs a record inside a state transaction, the same on every replica.
//! - [`read()`]: answers a read within a budget, so that a large range never holds up the replica.
//! - [`auth`]: users, roles and what they may do.
//! - [`candidacy`]: locks and elections, as requests to the keyspace.
//! - [`ClusterRequest`]: changes of the members, which the node carries out.
//! - [`maintenance`]: alarms, hashes and the like; records of their own in the log.
//! - [`watch`]: what a watch asks for, and the messages that it gets.
//! - [`Routes`]: prefixes of keys that belong to keyspaces of their own.
//! - [`Error`]: etcd's errors, code and text.
//!
//! This crate knows neither consensus nor sockets: the node fills in who answered (cluster,
//! member, term), `server` does gRPC.

pub mod auth;
mod budget;
pub mod candidacy;
mod cluster;
mod command;
mod error;
mod execute;
mod lease;
mod limits;
pub mod maintenance;
mod overlap;
mod plan;
mod quota;
mod range;
mod range_stream;
mod read;
mod request;
mod routes;
mod span;
mod txn;
mod view;
pub mod watch;

pub use budget::{ReadBudget, Wanted};
pub use cluster::{ClusterRequest, ClusterResponse, peer_address};
pub use error::{Code, Error};
pub use execute::{execute, execute_with};
pub use lease::{renewed, seconds_renewed};
pub use limits::RequestLimits;
pub use maintenance::{MaintenanceRequest, MaintenanceResponse};
pub use plan::{Plan, Read, plan, plan_for};
pub use range_stream::{RangePiece, RangeStream};
pub use read::{ReadOutcome, read};
pub use request::{Request, Response};
pub use routes::{Astray, Place, Routes, leases as leases_of};

/// The messages of etcd's API, generated from `proto/`, where they are documented.
///
/// `bytes` fields are [`bytes::Bytes`], so that keys and values travel from the state to the wire
/// without a copy.
pub mod proto {
    #![allow(
        missing_docs,
        reason = "generated; documented where the definitions say something"
    )]

    /// Users' and roles' part of the API that its requests refer to.
    pub mod authpb {
        include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
    }
    /// Requests and responses.
    pub mod etcdserverpb {
        include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
    }
    /// Key-value pairs and events.
    pub mod mvccpb {
        include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
    }
    /// Elections.
    pub mod v3electionpb {
        include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
    }
    /// Locks.
    pub mod v3lockpb {
        include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
    }
}

/// The definitions of [`proto`] as an encoded `google.protobuf.FileDescriptorSet`, imports
/// included, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
