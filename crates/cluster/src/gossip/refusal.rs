//! Why a packet or an exchange was refused.

use std::fmt;

use base::{ClusterId, NodeId};

use super::seal::Closed;

/// Why a packet or an exchange was refused; [`fmt::Display`] says it to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It could not be opened.
    Closed(Closed),
    /// It was opened, and makes no sense.
    Malformed(&'static str),
    /// It comes from a member of another cluster.
    OtherCluster {
        /// The sender's.
        theirs: ClusterId,
        /// This member's.
        ours: ClusterId,
    },
    /// It is for somebody else: somebody says that `target` is where this member is.
    ForAnother {
        /// Whom it is for.
        target: NodeId,
        /// This member.
        this: NodeId,
    },
    /// Too many probes on behalf of others are under way.
    TooManyRelays,
    /// It belongs into a packet and came over a stream, or the other way round.
    OutOfPlace,
    /// There is no room for another member.
    TooManyMembers(usize),
}

impl Refusal {
    /// What kind of refusal it is, whatever the sender wrote into the packet: there are few.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::Closed(Closed::Damaged) => "damaged",
            Refusal::Closed(Closed::WrongKey { .. }) => "wrong-key",
            Refusal::Closed(Closed::NotSealed) => "not-sealed",
            Refusal::Malformed(_) => "malformed",
            Refusal::OtherCluster { .. } => "other-cluster",
            Refusal::ForAnother { .. } => "for-another",
            Refusal::TooManyRelays => "too-many-relays",
            Refusal::OutOfPlace => "out-of-place",
            Refusal::TooManyMembers(_) => "too-many-members",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Closed(closed) => write!(formatter, "{closed}"),
            Refusal::Malformed(problem) => formatter.write_str(problem),
            Refusal::OtherCluster { theirs, ours } => write!(
                formatter,
                "it comes from a node of cluster {theirs}, this node belongs to {ours}"
            ),
            Refusal::ForAnother { target, this } => write!(
                formatter,
                "it is for node {target}, this is {this}; somebody says that node {target} is here"
            ),
            Refusal::TooManyRelays => {
                formatter.write_str("too many probes for others are under way")
            }
            Refusal::OutOfPlace => formatter.write_str(
                "an exchange belongs on a stream and all else into packets, for the right node",
            ),
            Refusal::TooManyMembers(count) => {
                write!(formatter, "there are {count} members already")
            }
        }
    }
}
