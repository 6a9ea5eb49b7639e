//! Quorum arithmetic: the only place where votes and acknowledgements are counted.
//!
//! A *quorum* is a majority of the voters; while a voter change is under way it is a majority of
//! the new voters **and** a majority of the outgoing ones, so that neither set can decide without
//! the other (Raft thesis, section 4.3).

use std::collections::BTreeSet;

use base::mutant::{self, Mutant};
use base::{NodeId, Slot};

use crate::membership::Membership;

/// Whether those that `holds` is true for are a majority of `voters`. Of nobody there is none.
fn majority(voters: &BTreeSet<NodeId>, holds: impl Fn(NodeId) -> bool) -> bool {
    let count = voters.iter().filter(|id| holds(**id)).count();
    count > voters.len() / 2
}

/// The highest slot that a majority of `voters` acknowledges. Quadratic in the number of voters,
/// which is at most a handful, and free of allocation.
fn majority_slot(voters: &BTreeSet<NodeId>, acknowledged: impl Fn(NodeId) -> Slot) -> Slot {
    let fewer = usize::from(mutant::is_on(Mutant::ChooseWithoutQuorum));
    let reached = |slot: &Slot| {
        let count = voters
            .iter()
            .filter(|id| acknowledged(**id) >= *slot)
            .count();
        count + fewer > voters.len() / 2
    };
    voters
        .iter()
        .map(|id| acknowledged(*id))
        .filter(reached)
        .max()
        .unwrap_or_default()
}

impl Membership {
    /// Whether those that `holds` is true for are a quorum.
    pub fn is_quorum(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        majority(&self.voters, &holds) && (!self.is_joint() || majority(&self.outgoing, &holds))
    }

    /// The highest slot that a quorum acknowledges.
    pub fn quorum_slot(&self, acknowledged: impl Fn(NodeId) -> Slot) -> Slot {
        let of_voters = majority_slot(&self.voters, &acknowledged);
        if self.is_joint() {
            of_voters.min(majority_slot(&self.outgoing, &acknowledged))
        } else {
            of_voters
        }
    }

    /// Everyone with a vote, each once.
    pub fn all_voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.union(&self.outgoing).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn nobody_is_never_a_quorum() {
        let nobody = Membership::default();
        assert!(!nobody.is_quorum(|_| true));
        assert_eq!(nobody.quorum_slot(|_| Slot(9)), Slot(0));
    }

    #[test]
    fn half_is_not_a_majority() {
        let four = Membership {
            voters: set(&[1, 2, 3, 4]),
            ..Membership::default()
        };
        assert!(!four.is_quorum(|id| id.0 <= 2));
        assert!(four.is_quorum(|id| id.0 <= 3));
        assert_eq!(four.quorum_slot(|id| Slot(id.0 * 10)), Slot(20));
    }

    #[test]
    fn a_joint_membership_needs_both_majorities() {
        let joint = Membership {
            voters: set(&[3, 4, 5]),
            outgoing: set(&[1, 2, 3]),
            ..Membership::default()
        };
        assert!(
            !joint.is_quorum(|id| id.0 >= 3),
            "the outgoing voters were not asked"
        );
        assert!(
            !joint.is_quorum(|id| id.0 <= 3),
            "the new voters were not asked"
        );
        assert!(joint.is_quorum(|id| [2, 3, 4].contains(&id.0)));
        let acknowledged = |id: NodeId| Slot([0, 7, 7, 1, 9, 9][id.0 as usize]);
        assert_eq!(joint.quorum_slot(acknowledged), Slot(7));
    }
}
