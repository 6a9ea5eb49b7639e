//! Whose frames count.
//!
//! | the sender is | engine messages | everything else |
//! |---|---|---|
//! | a member under its name, or the leader | yes | yes |
//! | a member under another name | refused | refused |
//! | a member that was removed | acknowledgements | told that it was removed |
//! | unknown here | yes | dropped |
//!
//! A node that has just joined, or lags behind, knows less of the membership than those who speak
//! to it; the engine judges what it is told by epochs and slots, not by its membership. Names and
//! ids are what the sender says: the peer network is trusted to carry only this cluster's nodes.

use base::NodeId;
use consensus::Membership;
use state::Reader;

use super::Group;
use crate::system;

/// What a node is told that no longer belongs to its cluster.
pub const REMOVED: &str =
    "this node has been removed from the cluster; its data folder is no longer needed";

/// What this node knows of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It takes part.
    Member,
    /// The member with its id has this name instead of the one it says.
    Misnamed(String),
    /// It was a member and is none any more.
    Removed,
    /// Nothing.
    Stranger,
}

impl Group {
    /// What this node knows of the node that says it has this id and name.
    #[must_use]
    pub fn known(&self, node: NodeId, name: &str) -> Known {
        let chosen = self.replica.membership();
        let either = [&self.membership, chosen];
        let member = either.iter().find_map(|each| each.members.get(&node));
        match member {
            // One that was added without a name brings it along.
            Some(member) if member.name == name || member.name.is_empty() => Known::Member,
            Some(member) => Known::Misnamed(member.name.clone()),
            None if self.leader == Some(node) => Known::Member,
            None if was_removed(self.replica.reader(), chosen, &self.genesis, node) => {
                Known::Removed
            }
            None => Known::Stranger,
        }
    }

    /// Whether this node itself has executed its own removal and is about to stop.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.removed_at.is_some()
    }
}

/// Whether `node` was a member at some slot that `reader` has executed, and is none at the last.
/// Members leave rows behind when they join or first run; ids are never used twice.
#[must_use]
pub fn was_removed(
    reader: &Reader,
    chosen: &Membership,
    genesis: &Membership,
    node: NodeId,
) -> bool {
    let was_member = genesis.members.contains_key(&node) || system::has_joined(reader, node);
    was_member && !chosen.members.contains_key(&node)
}
