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

/// The highest slot that a majority of `voters` acknowledges.
fn majority_slot(voters: &BTreeSet<NodeId>, acknowledged: impl Fn(NodeId) -> Slot) -> Slot {
    slot_reached(voters, voters.len() / 2 + 1, acknowledged)
}

/// The highest slot that so many of `voters` acknowledge.
fn slot_reached(
    voters: &BTreeSet<NodeId>,
    enough: usize,
    acknowledged: impl Fn(NodeId) -> Slot,
) -> Slot {
    const FEW: usize = 8;
    if voters.len() <= FEW {
        // Each is asked once; who is asked looks it up.
        let mut slots = [Slot(0); FEW];
        for (slot, id) in slots.iter_mut().zip(voters) {
            *slot = acknowledged(*id);
        }
        return highest_reached(&slots[..voters.len()], enough);
    }
    let slots: Vec<Slot> = voters.iter().map(|id| acknowledged(*id)).collect();
    highest_reached(&slots, enough)
}

/// The highest slot that so many of these reach. Quadratic in their number, which is at most a
/// handful.
fn highest_reached(slots: &[Slot], enough: usize) -> Slot {
    let fewer = usize::from(mutant::is_on(Mutant::ChooseWithoutQuorum));
    let reached = |slot: &Slot| {
        let count = slots.iter().filter(|other| *other >= slot).count();
        count + fewer >= enough
    };
    let reached = slots.iter().copied().filter(reached);
    reached.max().unwrap_or_default()
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

/// How many voters elect, and how many commit.
///
/// Two things must hold, whatever the sizes. Every quorum that elects must share a voter with every
/// quorum that commits, or a new leader would not hear of what is chosen: `elect + commit > voters`
/// (Howard, Malkhi, Spiegelman: "Flexible Paxos", 2016; it lets fewer commit if more elect). And
/// every two quorums that elect must share a voter, who promises an epoch to one of them only:
/// `2 * elect > voters`.
///
/// All members of a group must be given the same rule. The default is a majority for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuorumRule {
    /// Sizes for groups of exactly so many voters; other groups go by majorities.
    sizes: Option<Sizes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    voters: usize,
    elect: usize,
    commit: usize,
}

impl QuorumRule {
    /// A rule for groups of `voters` voters, of which `elect` elect and `commit` commit. While the
    /// group has another number of voters, majorities do both.
    ///
    /// # Errors
    /// If two quorums could miss each other, with the arithmetic.
    pub fn sizes(voters: usize, elect: usize, commit: usize) -> Result<QuorumRule, String> {
        if elect == 0 || commit == 0 || elect > voters || commit > voters {
            return Err(format!(
                "quorums of {elect} to elect and {commit} to commit are not between 1 and the \
                 {voters} voters"
            ));
        }
        if elect + commit <= voters {
            return Err(format!(
                "{elect} voters that elect and {commit} that commit may miss each other: {elect} \
                 + {commit} = {} is not more than the {voters} voters",
                elect + commit
            ));
        }
        if 2 * elect <= voters {
            return Err(format!(
                "two times {elect} voters that elect may miss each other: 2 * {elect} = {} is not \
                 more than the {voters} voters",
                2 * elect
            ));
        }
        let sizes = Sizes {
            voters,
            elect,
            commit,
        };
        Ok(QuorumRule { sizes: Some(sizes) })
    }

    /// How many of `voters` voters elect, and how many commit.
    #[must_use]
    pub fn of(&self, voters: usize) -> (usize, usize) {
        let fitting = self.sizes.filter(|sizes| sizes.voters == voters);
        let (elect, commit) = match fitting {
            Some(sizes) => (sizes.elect, sizes.commit),
            None => (voters / 2 + 1, voters / 2 + 1),
        };
        assert!(
            elect + commit > voters && 2 * elect > voters,
            "quorums of {elect} and {commit} of {voters} voters miss each other"
        );
        (elect, commit)
    }

    /// Whether a leader elected among one of two memberships hears of everything that was committed
    /// among the other: one elected among `next` of what `present` committed, and one still elected
    /// among `present`, which has not heard of the change, of what `next` has committed behind it.
    ///
    /// # Errors
    /// If it may not, with the arithmetic.
    pub fn check_change(&self, present: &Membership, next: &Membership) -> Result<(), String> {
        let both = present.voters.union(&next.voters).count();
        let meet = |elected: &Membership, committed: &Membership, names: (&str, &str)| {
            let (elect, _) = self.of(elected.voters.len());
            let (_, commit) = self.of(committed.voters.len());
            if elect + commit > both {
                return Ok(());
            }
            Err(format!(
                "{elect} of the {} {} voters that elect may miss {commit} of the {} {} ones that \
                 commit: {elect} + {commit} = {} is not more than the {both} voters of both",
                elected.voters.len(),
                names.0,
                committed.voters.len(),
                names.1,
                elect + commit
            ))
        };
        meet(next, present, ("new", "present"))?;
        meet(present, next, ("present", "new"))
    }

    /// Whether those that `holds` is true for elect.
    pub fn elects(&self, membership: &Membership, holds: impl Fn(NodeId) -> bool) -> bool {
        let (elect, _) = self.of(membership.voters.len());
        let count = membership.voters.iter().filter(|id| holds(**id)).count();
        let outgoing = !membership.is_joint() || majority(&membership.outgoing, &holds);
        !membership.voters.is_empty() && count >= elect && outgoing
    }

    /// Whether those that `holds` is true for commit.
    pub fn commits(&self, membership: &Membership, holds: impl Fn(NodeId) -> bool) -> bool {
        let (_, commit) = self.of(membership.voters.len());
        let count = membership.voters.iter().filter(|id| holds(**id)).count();
        let outgoing = !membership.is_joint() || majority(&membership.outgoing, &holds);
        !membership.voters.is_empty() && count >= commit && outgoing
    }

    /// The highest slot that enough voters acknowledge to commit it.
    pub fn commit_slot(
        &self,
        membership: &Membership,
        acknowledged: impl Fn(NodeId) -> Slot,
    ) -> Slot {
        let (_, commit) = self.of(membership.voters.len());
        let slot = slot_reached(&membership.voters, commit, &acknowledged);
        match membership.is_joint() {
            true => slot.min(majority_slot(&membership.outgoing, &acknowledged)),
            false => slot,
        }
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
    fn sizes_that_may_miss_each_other_are_refused_with_the_arithmetic() {
        let refused = |voters, elect, commit| QuorumRule::sizes(voters, elect, commit).unwrap_err();
        assert!(refused(5, 3, 2).contains("3 + 2 = 5 is not more than the 5 voters"));
        assert!(refused(5, 2, 4).contains("2 * 2 = 4 is not more than the 5 voters"));
        assert!(refused(3, 4, 1).contains("not between 1 and the 3 voters"));
        assert!(refused(3, 3, 0).contains("not between 1 and the 3 voters"));
        let rule = QuorumRule::sizes(6, 4, 3).expect("4 + 3 > 6");
        assert_eq!(rule.of(6), (4, 3));
        assert_eq!(rule.of(5), (3, 3), "other groups go by majorities");
    }

    #[test]
    fn every_pair_of_quorums_that_a_rule_allows_meets() {
        for voters in 1..=7u64 {
            let members = Membership {
                voters: (1..=voters).map(NodeId).collect(),
                ..Membership::default()
            };
            for (elect, commit) in (1..=7).flat_map(|elect| (1..=7).map(move |n| (elect, n))) {
                let Ok(rule) = QuorumRule::sizes(voters as usize, elect, commit) else {
                    continue;
                };
                let subsets = 0u64..1 << voters;
                let has = |set: u64| move |id: NodeId| set >> (id.0 - 1) & 1 == 1;
                let elects = |set: &u64| rule.elects(&members, has(*set));
                let commits = |set: &u64| rule.commits(&members, has(*set));
                for a in subsets.clone().filter(elects) {
                    for b in subsets.clone().filter(|set| elects(set) || commits(set)) {
                        assert!(a & b != 0, "{voters} voters: {a:b} and {b:b}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_change_that_could_hide_what_is_chosen_is_refused() {
        let group = |ids: &[u64]| Membership {
            voters: set(ids),
            ..Membership::default()
        };
        let majorities = QuorumRule::default();
        for size in 1..=8u64 {
            let small: Vec<u64> = (1..=size).collect();
            let large: Vec<u64> = (1..=size + 1).collect();
            let (small, large) = (group(&small), group(&large));
            majorities.check_change(&small, &large).expect("one more");
            majorities.check_change(&large, &small).expect("one less");
        }
        let rule = QuorumRule::sizes(5, 4, 2).expect("4 + 2 > 5");
        let error = rule.check_change(&group(&[1, 2, 3, 4, 5]), &group(&[1, 2, 3, 4]));
        let error = error.unwrap_err();
        assert!(
            error.contains("3 + 2 = 5 is not more than the 5 voters of both"),
            "{error}"
        );
        // One elected among four, who has not heard of the fifth, may miss what two of five commit.
        let error = rule.check_change(&group(&[1, 2, 3, 4]), &group(&[1, 2, 3, 4, 5]));
        assert!(error.unwrap_err().contains("3 of the 4 present"));
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
