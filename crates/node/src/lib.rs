//! One server as state machines that share nothing.
//!
//! [`Node`] is a pure function: [`Node::step`] takes the time and one [`Input`], [`Node::flush`]
//! ends a pass over everything that was ready, and both append [`Output`]s. `server` maps those to
//! sockets, disks and clocks, the simulator to its event heap; the node is the same under both.
//!
//! ```text
//!   client calls ─▶ calls ──commands──▶ proposals ──entries──▶ engine ──records──▶ journal ─▶ disk
//!                     ▲                   ▲   │                │    ▲                 │
//!                     │ results           │   └──forward──▶ peers   └────durable──────┘
//!                     └──── replica ◀─────┼──────chosen entries┘
//!                            │            └── refused: send again
//!                            └─ checkpoints ─▶ disk
//! ```
//!
//! - [`interface`]: what can happen to a node and what it may ask for.
//! - [`config`], [`limits`]: what an operator chooses, and what bounds everything.
//! - [`node`]: the life of a node. [`running`]: its groups, and the journal that they share.
//! - [`group`]: one group, a machine of machines. [`description`]: what it is opened with.
//! - [`recovery`]: from a data folder to a running node. [`formation`]: how a cluster forms once.
//! - [`replica`]: executes chosen entries against the state. [`batch`]: what an entry says.
//! - [`calls`]: what clients wait for. [`checkpoints`]: checkpoint files, made, sent and received.
//! - [`peers`], [`wire`]: connections to other nodes, and what is said over them.
//! - [`hub`]: a machine of its own, one per worker: serves watches from what the node publishes.
//! - [`leases`]: renewals in bulk, expiry, and a clock that goes on.
//! - [`system`]: the commands that are the node's own. [`operator`]: what operators ask for.
//! - [`notes`]: what a node says about itself.

pub mod batch;
pub mod calls;
pub mod checkpoints;
pub mod config;
pub mod description;
pub mod directory;
pub mod formation;
pub mod group;
pub mod hub;
pub mod interface;
pub mod leases;
pub mod limits;
pub mod node;
pub mod notes;
pub mod operator;
pub mod peers;
pub mod recovery;
#[cfg(feature = "mutants")]
pub mod rehearsal;
pub mod replica;
pub mod running;
pub mod system;
pub mod wire;

pub use cluster::meta::Tending;
pub use cluster::placement::plan::TableEpoch;
pub use cluster::placement::site::Domains;
pub use config::{Config, Startup, Timing};
pub use directory::{Directory, Holder, Residence};
pub use hub::HubLimits;
pub use interface::{
    Answer, Call, CallId, ConnectionId, DialId, Discarded, GroupStatus, Halt, Identity, Input, Job,
    KeyspaceStatus, MemberStatus, MovingStatus, OtherReplica, Output, Placement, RecoveryOrder,
    RenewedLeases, SnapshotSource, Standing, Status,
};
pub use leases::Parent;
pub use limits::Limits;
pub use node::Node;
pub use notes::{Level, Metrics, Note};
pub use running::MovingLimits;

/// The version of etcd whose behaviour this node shows to etcd's clients.
pub const ETCD_VERSION: &str = "3.7.1";
/// The version of etcd's storage format that goes with [`ETCD_VERSION`].
pub const ETCD_STORAGE_VERSION: &str = "3.7.0";
