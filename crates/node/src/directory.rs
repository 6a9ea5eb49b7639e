//! Which keyspaces there are and who holds each, as a node tells whoever serves its clients.
//!
//! ```text
//!   table of keyspaces (in the first group's state) ─┐
//!   members (their addresses as they are now) ───────┼─▶ Directory ─▶ Output::Keyspaces
//!   groups that are open on this node ───────────────┤
//!   routes (prefixes of keys that lead to keyspaces) ┘
//! ```
//!
//! Nothing is told before this node's replica of the first group has been current once: until then
//! the table may be that of long ago, and a keyspace would be missing that exists. From then on it
//! is told whenever any of them has changed, in front of the answers of the same pass: whoever
//! was told that a keyspace exists finds it.

use std::collections::BTreeMap;

use base::{GroupId, NodeId};
use cluster::meta::Keyspace;
use consensus::Membership;
use etcd::Routes;

/// All keyspaces but the default one, which every node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// By name.
    pub keyspaces: BTreeMap<String, Residence>,
    /// This node holds no data: it has no keyspace, and not the default one either.
    pub is_witness: bool,
    /// Where the keys of clients are that name no keyspace.
    pub routes: Routes,
}

/// Where a keyspace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residence {
    /// Its group.
    pub group: GroupId,
    /// This node has it open and serves it, with a vote or as an observer: not while it is being
    /// filled, nor while it leaves.
    pub is_here: bool,
    /// The other nodes that hold it, in the order of their ids.
    pub holders: Vec<Holder>,
}

/// Another node that holds a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which node.
    pub node: NodeId,
    /// Where its peers reach it.
    pub address: String,
}

impl Directory {
    /// What `own` knows. Nodes that are members no more hold nothing.
    #[must_use]
    pub fn new(
        own: NodeId,
        (table, routes): (Vec<Keyspace>, Routes),
        members: &Membership,
        is_open: impl Fn(GroupId) -> bool,
    ) -> Directory {
        let holder = |node: NodeId| {
            let member = members.members.get(&node)?;
            let address = member.peer_address.clone();
            Some(Holder { node, address })
        };
        let residence = |keyspace: Keyspace| {
            let nodes = keyspace.serving().iter().map(|replica| replica.node);
            let serves = keyspace.serving().iter().any(|each| each.node == own)
                || keyspace.observers.contains(&own);
            let mut holders: Vec<Holder> = nodes
                .filter(|node| *node != own)
                .filter_map(holder)
                .collect();
            holders.sort_by_key(|holder| holder.node);
            let residence = Residence {
                group: keyspace.group,
                is_here: serves && is_open(keyspace.group),
                holders,
            };
            (keyspace.name, residence)
        };
        Directory {
            keyspaces: table.into_iter().map(residence).collect(),
            is_witness: false,
            routes,
        }
    }
}

#[cfg(test)]
mod tests {
    use cluster::meta::Replica;
    use consensus::{EngineKind, Member, QuorumRule};

    use super::*;

    #[test]
    fn holders_are_members_with_the_addresses_they_have_now() {
        let replica = |node: u64| Replica {
            node: NodeId(node),
            name: format!("n{node}"),
            address: format!("old{node}:1"),
        };
        let member = |node: u64| Member {
            name: format!("n{node}"),
            peer_address: format!("new{node}:1"),
        };
        let pods = Keyspace::new(
            "pods".to_owned(),
            GroupId(3),
            EngineKind::Raft,
            QuorumRule::default(),
            [3, 2, 1].map(replica).to_vec(),
        );
        let members = Membership {
            members: [1, 3, 4].map(|node| (NodeId(node), member(node))).into(),
            ..Membership::default()
        };
        let at = |own, is_here| {
            let directory = Directory::new(
                NodeId(own),
                (vec![pods.clone()], Routes::default()),
                &members,
                |_| is_here,
            );
            directory.keyspaces["pods"].clone()
        };
        let holder = |node: u64| Holder {
            node: NodeId(node),
            address: format!("new{node}:1"),
        };
        let group = GroupId(3);
        let (is_here, holders) = (true, vec![holder(3)]);
        assert_eq!(
            at(1, true),
            Residence {
                group,
                is_here,
                holders
            }
        );
        let (is_here, holders) = (false, vec![holder(1), holder(3)]);
        assert_eq!(
            at(4, false),
            Residence {
                group,
                is_here,
                holders
            }
        );
    }
}
