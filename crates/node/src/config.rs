//! What an operator chooses for one node, and what it is started with.

use std::time::Duration;

use cluster::meta::Tending;
use cluster::placement::site::Domains;
use consensus::{EngineKind, Membership, QuorumRule, QuorumSizes};
use journal::disk::File;

use crate::interface::Identity;
use crate::limits::Limits;

/// What an operator chooses for one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, unique in the cluster.
    pub name: String,
    /// Where the other nodes reach this one (`host:port`); `None` for a node without peers, or
    /// where only the log says it.
    pub peer_address: Option<String>,
    /// Once the log says where the other nodes reach this one, that holds, and not `peer_address`.
    pub place_is_logged: bool,
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
    /// How many of the nodes of a new cluster elect and commit; `None` is majorities. As with
    /// `engine`, a node that is told other sizes than its cluster was formed with refuses to run.
    pub quorums: Option<QuorumSizes>,
    /// How many data replicas of a new cluster must have an entry before it is acknowledged; `None`
    /// is as many as commit. Only where there are witnesses can it be fewer.
    pub copies: Option<usize>,
    /// This node votes and holds no data, from its first start on.
    pub is_witness: bool,
    /// What this node fails together with; replicas of a keyspace are kept apart by it.
    pub domains: Domains,
    /// How the cluster looks after itself as long as no operator has said so (`placement set`);
    /// counts while this node leads the first group.
    pub tending: Tending,
    /// How long things may take.
    pub timing: Timing,
    /// What bounds everything.
    pub limits: Limits,
}

/// A cluster was formed with other sizes of quorums, or other copies, than a node is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OtherQuorums {
    Sizes {
        formed: QuorumSizes,
        asked: QuorumSizes,
        flaw: Option<String>,
    },
    Copies {
        formed: Option<usize>,
        asked: usize,
    },
}

impl OtherQuorums {
    /// A sentence for the operator about `what` was formed.
    pub(crate) fn explain(&self, what: &str) -> String {
        let (formed, asked, flaw) = match self {
            OtherQuorums::Sizes {
                formed,
                asked,
                flaw,
            } => (formed, asked, flaw),
            OtherQuorums::Copies { formed, asked } => {
                let formed = formed.map_or("as many as commit".to_owned(), |n| n.to_string());
                return format!(
                    "{what} was formed with {formed} copies of each entry, and this node is told \
                     {asked}. The number is chosen when a cluster forms: start this node without \
                     --copies"
                );
            }
        };
        if let Some(flaw) = flaw {
            return format!("--quorums {asked} cannot be: {flaw}");
        }
        format!(
            "{what} was formed with quorums of {formed}, and this node is told {asked}. The sizes \
             are chosen when a cluster forms: start this node with --quorums {formed}, or without \
             --quorums"
        )
    }
}

impl Config {
    /// The rule for a new cluster of so many voters. What cannot be was refused at the start
    /// ([`Config::counts_otherwise`]); majorities stand in for it.
    pub(crate) fn quorum_rule(&self, voters: usize) -> QuorumRule {
        let asked = self.quorums.map(|sizes| QuorumRule::new(voters, sizes));
        let rule = asked.and_then(Result::ok).unwrap_or_default();
        let copies = self.copies.map(|copies| rule.with_copies(copies));
        copies.and_then(Result::ok).unwrap_or(rule)
    }

    /// Whether this node is told to count otherwise than a cluster that starts from `genesis`.
    pub(crate) fn counts_otherwise(&self, genesis: &Membership) -> Option<OtherQuorums> {
        let formed = genesis.quorums.copies();
        let copies = self.copies.filter(|asked| formed != Some(*asked));
        let copies = copies.map(|asked| OtherQuorums::Copies { formed, asked });
        let Some(asked) = self.quorums else {
            return copies;
        };
        let flaw = match QuorumRule::new(genesis.voters.len(), asked) {
            Ok(_) if asked == genesis.quorum_sizes() => return copies,
            Ok(_) => None,
            Err(flaw) => Some(flaw),
        };
        Some(OtherQuorums::Sizes {
            formed: genesis.quorum_sizes(),
            asked,
            flaw,
        })
    }
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
