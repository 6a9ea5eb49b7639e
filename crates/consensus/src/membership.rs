//! Who belongs to a group, and in which part.
//!
//! A [`Membership`] is part of the log: each change is an entry, and the membership in force is a
//! pure function of snapshot and log. Changing voters goes through a *joint* membership (Raft
//! thesis, section 4.3): while [`Membership::outgoing`] is not empty, elections and commits need a
//! majority of the new voters **and** a majority of the outgoing ones.

use std::collections::{BTreeMap, BTreeSet};

use base::NodeId;

/// What the group knows of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name its operator gave it; unique in the cluster.
    pub name: String,
    /// Where its peers reach it: `host:port`.
    pub peer_address: String,
}

/// The members of a group, and which of them vote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Every member, voter or learner.
    pub members: BTreeMap<NodeId, Member>,
    /// Those whose majority elects and commits. A subset of `members`.
    pub voters: BTreeSet<NodeId>,
    /// The voters that are being replaced, while a change is under way; empty otherwise. A subset
    /// of `members`.
    pub outgoing: BTreeSet<NodeId>,
}

/// One step that an operator or the placement asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a member that receives the log but has no vote.
    AddLearner {
        /// The new member's id; never used before in this group.
        id: NodeId,
        /// Its name and address.
        member: Member,
    },
    /// Give a learner a vote. Refused until it has nearly caught up.
    Promote(NodeId),
    /// Remove a member, voter or learner.
    Remove(NodeId),
    /// Change a member's name or address.
    Update {
        /// Whose.
        id: NodeId,
        /// The new name and address.
        member: Member,
    },
}
