//! What an operator chooses for one node, and what it is started with.

use std::time::Duration;

use consensus::EngineKind;
use journal::disk::File;

use crate::interface::Identity;
use crate::limits::Limits;

/// What an operator chooses for one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, unique in the cluster.
    pub name: String,
    /// Where the other nodes reach this one (`host:port`); `None` for a node without peers.
    pub peer_address: Option<String>,
    /// Where clients reach this one, as URLs; told to clients that ask for the members.
    pub client_urls: Vec<String>,
    /// Nodes talk to each other over TLS: their addresses are told to clients as `https` then.
    pub peers_are_encrypted: bool,
    /// Names and peer addresses of all nodes that form the cluster, this one included. Empty for
    /// a node that stands alone or joins.
    pub cluster: Vec<(String, String)>,
    /// Peer addresses of a running cluster to join. Empty unless this node joins one.
    pub join: Vec<String>,
    /// How a cluster agrees that this node forms; `None` is Raft. A node that joins takes the
    /// engine of the members, and one that starts again that of its data folder: it refuses to run
    /// if it is told another one here.
    pub engine: Option<EngineKind>,
    /// How long things may take.
    pub timing: Timing,
    /// What bounds everything.
    pub limits: Limits,
}

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Timing {
    /// A follower that hears nothing from a leader for between one and two of these asks for an
    /// election.
    pub election_timeout: Duration,
    /// How often a leader without anything to say says so.
    pub heartbeat_interval: Duration,
    /// A call without an answer for this long is answered "timed out, result unknown".
    pub request_timeout: Duration,
    /// How long a stopping node waits for its leadership to be taken over and for calls under way.
    pub shutdown_patience: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            election_timeout: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(100),
            request_timeout: Duration::from_secs(7),
            shutdown_patience: Duration::from_secs(3),
        }
    }
}

/// All that a node is started with.
#[derive(Clone, Debug)]
pub struct Startup {
    /// What the operator chose.
    pub config: Config,
    /// What the identity file says, if there is one.
    pub identity: Option<Identity>,
    /// The files of the data folder with their lengths in bytes.
    pub files: Vec<(File, u64)>,
    /// Drawn by the host from a source nobody can guess (or from the simulator's seed): ids and
    /// election delays come from it.
    pub seed: u64,
}
