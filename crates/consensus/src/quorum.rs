//! Quorum arithmetic: the only place where votes and acknowledgements are counted.
//!
//! ```text
//!   5 voters, elect=4 commit=2            joint: 5 voters become 6
//!     elect   ■ ■ ■ ■ □                     outgoing 5: elect 4, commit 2   ┐ both, for
//!     commit  □ □ □ ■ ■  share a voter      voters   6: elect 4, commit 4   ┘ either purpose
//! ```
//!
//! Some voters *elect* a leader, and some *commit* an entry; unless an operator chose other sizes,
//! a majority does either. While a voter change is under way the outgoing voters have to agree as
//! well, by the sizes for their number, so that neither set can decide without the other (Raft
//! thesis, section 4.3). The sizes are part of the membership, and so of the log: nobody counts by
//! others.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use base::mutant::{self, Mutant};
use base::{NodeId, Slot};

use crate::membership::Membership;

/// How many of `voters` this holds for.
fn count(voters: &BTreeSet<NodeId>, holds: impl Fn(NodeId) -> bool) -> usize {
    voters.iter().filter(|id| holds(**id)).count()
}

/// The highest slot that so many of `voters` acknowledge.
fn slot_reached(
    voters: &BTreeSet<NodeId>,
    enough: usize,
    acknowledged: impl Fn(NodeId) -> Slot,
) -> Slot {
    const FEW: usize = 8;
    if voters.len() <= FEW {
        // Each is asked once, and put where it belongs: the highest first.
        let mut slots = [Slot(0); FEW];
        for (count, id) in voters.iter().enumerate() {
            let slot = acknowledged(*id);
            let mut at = count;
            while at > 0 && slots[at - 1] < slot {
                slots[at] = slots[at - 1];
                at -= 1;
            }
            slots[at] = slot;
        }
        let fewer = usize::from(mutant::is_on(Mutant::ChooseWithoutQuorum));
        let reached = slots[..voters.len()].get(enough.saturating_sub(fewer).max(1) - 1);
        return reached.copied().unwrap_or_default();
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
    /// How many of the voters elect, and how many commit.
    #[must_use]
    pub fn quorum_sizes(&self) -> QuorumSizes {
        self.quorums.of(self.voters.len())
    }

    /// Whether those that `holds` is true for elect. Of nobody there is no quorum.
    pub fn elects(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        self.is_enough(|sizes| sizes.elect, holds)
    }

    /// Whether those that `holds` is true for commit. They share a voter with whoever elects: what
    /// they have not heard of, nobody was elected for.
    pub fn commits(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        self.is_enough(|sizes| sizes.commit, holds)
    }

    /// How many of the voters that hold entries must hold one before it is chosen: as many as
    /// commit, or fewer if an operator chose so, or all that there are.
    ///
    /// While voters change, it is a matter of those that stay: who is voted out may be gone, and
    /// that an operator wants it gone is said by the change.
    #[must_use]
    pub fn copies(&self) -> usize {
        let commit = self.quorum_sizes().commit;
        let asked = self
            .quorums
            .copies()
            .map_or(commit, |chosen| chosen.min(commit));
        asked.min(self.holders().count()).max(1)
    }

    /// Whether those that `holds` is true for are enough copies: they survive the loss of all of
    /// them but one. Without witnesses, whoever commits is.
    pub fn keeps(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        self.witnesses.is_empty() || self.holders().filter(|id| holds(*id)).count() >= self.copies()
    }

    /// How many copies a leader waits for before it tells a witness, of those that make them: as
    /// many as commit, never fewer than there must be.
    pub(crate) fn copies_counted_on(&self, makes_one: impl Fn(NodeId) -> bool) -> usize {
        let counted = self.holders().filter(|id| makes_one(*id)).count();
        counted.min(self.quorum_sizes().commit).max(self.copies())
    }

    /// The highest slot of which there are copies enough.
    pub(crate) fn kept_slot(&self, acknowledged: impl Fn(NodeId) -> Slot) -> Slot {
        self.slot_kept_by(self.copies(), acknowledged)
    }

    /// The highest slot of which there are so many copies.
    pub(crate) fn slot_kept_by(
        &self,
        copies: usize,
        acknowledged: impl Fn(NodeId) -> Slot,
    ) -> Slot {
        let slots: Vec<Slot> = self.holders().map(acknowledged).collect();
        highest_reached(&slots, copies)
    }

    /// Whoever is elected has heard from enough to commit as well.
    #[must_use]
    pub fn electors_commit(&self) -> bool {
        let commit = |voters: &BTreeSet<NodeId>| {
            let sizes = self.quorums.of(voters.len());
            sizes.commit <= sizes.elect
        };
        commit(&self.voters) && (!self.is_joint() || commit(&self.outgoing))
    }

    fn is_enough(
        &self,
        size: impl Fn(QuorumSizes) -> usize,
        holds: impl Fn(NodeId) -> bool,
    ) -> bool {
        let is_enough = |voters: &BTreeSet<NodeId>| {
            let enough = size(self.quorums.of(voters.len()));
            count(voters, &holds) >= enough
        };
        let outgoing = !self.is_joint() || is_enough(&self.outgoing);
        !self.voters.is_empty() && is_enough(&self.voters) && outgoing
    }

    /// The highest slot that enough voters acknowledge to commit it, and enough of those that hold
    /// entries to keep it.
    pub fn commit_slot(&self, acknowledged: impl Fn(NodeId) -> Slot) -> Slot {
        let agreed = self.agreed_slot(&acknowledged);
        match self.witnesses.is_empty() {
            true => agreed,
            false => agreed.min(self.kept_slot(acknowledged)),
        }
    }

    /// The highest slot that enough voters acknowledge: nothing else can stand there any more.
    pub(crate) fn agreed_slot(&self, acknowledged: impl Fn(NodeId) -> Slot) -> Slot {
        let reached = |voters: &BTreeSet<NodeId>| {
            let enough = self.quorums.of(voters.len()).commit;
            slot_reached(voters, enough, &acknowledged)
        };
        let of_voters = reached(&self.voters);
        match self.is_joint() {
            true => of_voters.min(reached(&self.outgoing)),
            false => of_voters,
        }
    }

    /// Everyone with a vote, each once.
    pub fn all_voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.union(&self.outgoing).copied()
    }

    /// How many of these voters must hold the entry by which `next` follows, before it may do so in
    /// one step (a stop-sign): enough to commit, and so many that whoever is elected among `next`
    /// finds one of them, even if who leaves is gone at once. They know everything before it.
    ///
    /// # Errors
    /// If there are not so many, with the arithmetic.
    pub fn to_be_followed_by(&self, next: &Membership) -> Result<usize, String> {
        let present = self.voters.len();
        let both = self.voters.union(&next.voters).count();
        let elect = next.quorum_sizes().elect;
        let enough = (both + 1).saturating_sub(elect);
        let enough = enough.max(self.quorum_sizes().commit);
        if enough <= present {
            return Ok(enough);
        }
        Err(format!(
            "{elect} of the {} new voters that elect may miss all {present} present ones: {elect} \
             + {present} = {} is not more than the {both} voters of both",
            next.voters.len(),
            elect + present
        ))
    }
}

/// How many voters elect, and how many commit; `elect=4,commit=2` as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumSizes {
    /// So many votes or promises make a leader.
    pub elect: usize,
    /// So many durable copies choose an entry.
    pub commit: usize,
}

impl QuorumSizes {
    /// Majorities of so many voters.
    #[must_use]
    pub fn majorities(voters: usize) -> QuorumSizes {
        let majority = voters / 2 + 1;
        QuorumSizes {
            elect: majority,
            commit: majority,
        }
    }

    /// Why these are no sizes for so many voters, with the arithmetic.
    fn flaw(self, voters: usize) -> Option<String> {
        let QuorumSizes { elect, commit } = self;
        if elect == 0 || commit == 0 || elect > voters || commit > voters {
            return Some(format!(
                "quorums of {elect} to elect and {commit} to commit are not between 1 and the \
                 {voters} voters"
            ));
        }
        if elect + commit <= voters {
            return Some(format!(
                "{elect} voters that elect and {commit} that commit may miss each other: {elect} \
                 + {commit} = {} is not more than the {voters} voters",
                elect + commit
            ));
        }
        if 2 * elect <= voters {
            return Some(format!(
                "two times {elect} voters that elect may miss each other: 2 * {elect} = {} is not \
                 more than the {voters} voters",
                2 * elect
            ));
        }
        None
    }
}

impl fmt::Display for QuorumSizes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "elect={},commit={}", self.elect, self.commit)
    }
}

impl FromStr for QuorumSizes {
    type Err = String;

    fn from_str(text: &str) -> Result<QuorumSizes, String> {
        let expected = || format!("expected elect=NUMBER,commit=NUMBER and not {text:?}");
        let (mut elect, mut commit) = (None, None);
        for part in text.split(',') {
            let (name, number) = part.split_once('=').ok_or_else(expected)?;
            let number = number.trim().parse::<u16>().map_err(|_| expected())?;
            let said = match name.trim() {
                "elect" => elect.replace(usize::from(number)),
                "commit" => commit.replace(usize::from(number)),
                _ => return Err(expected()),
            };
            if said.is_some() {
                return Err(expected());
            }
        }
        let (elect, commit) = elect.zip(commit).ok_or_else(expected)?;
        Ok(QuorumSizes { elect, commit })
    }
}

/// How many voters elect and how many commit, by the number of voters.
///
/// Two things must hold, whatever the sizes. Every quorum that elects must share a voter with every
/// quorum that commits, or a new leader would not hear of what is chosen: `elect + commit > voters`
/// (Howard, Malkhi, Spiegelman: "Flexible Paxos", 2016; it lets fewer commit if more elect). And
/// every two quorums that elect must share a voter, who gives its vote or its promise for an epoch
/// to one of them only: `2 * elect > voters`.
///
/// Sizes are chosen for one number of voters; with any other, majorities do both. So a voter can be
/// replaced (one more for a while, or one less), and no sum is taken that was meant for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuorumRule {
    /// The number of voters, and the sizes for it.
    chosen: Option<(usize, QuorumSizes)>,
    /// How many copies an entry has before it is chosen; as many as commit if nobody chose.
    copies: Option<NonZeroUsize>,
}

impl QuorumRule {
    /// A rule for groups of `voters` voters.
    ///
    /// # Errors
    /// If two quorums could miss each other, with the arithmetic.
    pub fn new(voters: usize, sizes: QuorumSizes) -> Result<QuorumRule, String> {
        match sizes.flaw(voters) {
            Some(flaw) => Err(flaw),
            None if sizes == QuorumSizes::majorities(voters) => Ok(QuorumRule::default()),
            None => Ok(QuorumRule {
                chosen: Some((voters, sizes)),
                copies: None,
            }),
        }
    }

    /// The same with so many copies instead of as many as commit. Only where witnesses vote is that
    /// a difference: what is acknowledged survives the loss of one disk less than there are copies.
    ///
    /// # Errors
    /// If there is to be none.
    pub fn with_copies(self, copies: usize) -> Result<QuorumRule, String> {
        let copies = NonZeroUsize::new(copies);
        match copies {
            Some(_) => Ok(QuorumRule { copies, ..self }),
            None => Err("0 copies keep nothing".to_owned()),
        }
    }

    /// How many copies were chosen, if somebody chose.
    #[must_use]
    pub fn copies(&self) -> Option<usize> {
        self.copies.map(NonZeroUsize::get)
    }

    /// The number of voters that sizes were chosen for, and the sizes; `None` if majorities do
    /// everything.
    #[must_use]
    pub fn chosen(&self) -> Option<(usize, QuorumSizes)> {
        self.chosen
    }

    /// How many of `voters` voters elect, and how many commit.
    #[must_use]
    pub fn of(&self, voters: usize) -> QuorumSizes {
        let sizes = match self.chosen {
            Some((of, sizes)) if of == voters => sizes,
            _ => QuorumSizes::majorities(voters),
        };
        let QuorumSizes { elect, commit } = sizes;
        assert!(
            elect + commit > voters && 2 * elect > voters,
            "quorums of {sizes} of {voters} voters miss each other"
        );
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn group(voters: &[u64]) -> Membership {
        Membership {
            voters: set(voters),
            ..Membership::default()
        }
    }

    fn sizes(elect: usize, commit: usize) -> QuorumSizes {
        QuorumSizes { elect, commit }
    }

    /// Every rule for so many voters.
    fn rules(voters: usize) -> Vec<QuorumRule> {
        let all = (1..=voters).flat_map(|elect| (1..=voters).map(move |commit| (elect, commit)));
        all.filter_map(|(elect, commit)| QuorumRule::new(voters, sizes(elect, commit)).ok())
            .collect()
    }

    /// Tells who is in a set of nodes 1, 2, ..., one bit each.
    fn within(set: u64) -> impl Fn(NodeId) -> bool {
        move |id| set >> (id.0 - 1) & 1 == 1
    }

    #[test]
    fn nobody_is_never_a_quorum() {
        let nobody = Membership::default();
        assert!(!nobody.elects(|_| true) && !nobody.commits(|_| true));
        assert_eq!(nobody.commit_slot(|_| Slot(9)), Slot(0));
    }

    #[test]
    fn half_is_not_a_majority() {
        let four = group(&[1, 2, 3, 4]);
        assert!(!four.elects(|id| id.0 <= 2) && !four.commits(|id| id.0 <= 2));
        assert!(four.elects(|id| id.0 <= 3) && four.commits(|id| id.0 <= 3));
        assert_eq!(four.commit_slot(|id| Slot(id.0 * 10)), Slot(20));
    }

    #[test]
    fn sizes_that_may_miss_each_other_are_refused_with_the_arithmetic() {
        let refused =
            |voters, elect, commit| QuorumRule::new(voters, sizes(elect, commit)).unwrap_err();
        assert!(refused(5, 3, 2).contains("3 + 2 = 5 is not more than the 5 voters"));
        assert!(refused(5, 2, 4).contains("2 * 2 = 4 is not more than the 5 voters"));
        assert!(refused(3, 4, 1).contains("not between 1 and the 3 voters"));
        assert!(refused(3, 3, 0).contains("not between 1 and the 3 voters"));
        let rule = QuorumRule::new(6, sizes(4, 3)).expect("4 + 3 > 6");
        assert_eq!(rule.of(6), sizes(4, 3));
        assert_eq!(rule.of(5), sizes(3, 3), "other groups go by majorities");
        let majorities = QuorumRule::new(5, sizes(3, 3));
        assert_eq!(majorities, Ok(QuorumRule::default()), "nothing was chosen");
    }

    fn witnessed(voters: &[u64], witness: u64, copies: usize) -> Membership {
        Membership {
            witnesses: set(&[witness]),
            quorums: QuorumRule::default().with_copies(copies).expect("some"),
            ..group(voters)
        }
    }

    #[test]
    fn a_witness_commits_and_keeps_nothing() {
        let usual = Membership {
            witnesses: set(&[3]),
            ..group(&[1, 2, 3])
        };
        assert_eq!(usual.copies(), 2, "as many as commit");
        assert!(usual.commits(within(0b101)) && !usual.keeps(within(0b101)));
        assert!(usual.keeps(within(0b011)));
        let acknowledged = |slots: [u64; 3]| move |id: NodeId| Slot(slots[id.0 as usize - 1]);
        assert_eq!(usual.commit_slot(acknowledged([9, 4, 9])), Slot(4));
        let one = witnessed(&[1, 2, 3], 3, 1);
        assert_eq!(one.commit_slot(acknowledged([9, 4, 9])), Slot(9));
        assert_eq!(
            one.commit_slot(acknowledged([9, 4, 0])),
            Slot(4),
            "not agreed"
        );
        assert_eq!(one.commit_slot(acknowledged([0, 0, 9])), Slot(0));
        let sites = witnessed(&[1, 2, 3, 4, 5], 5, 2);
        let slots = [9, 8, 0, 0, 9];
        assert_eq!(
            sites.commit_slot(|id| Slot(slots[id.0 as usize - 1])),
            Slot(8)
        );
    }

    #[test]
    fn copies_are_at_most_those_that_hold_entries_and_commit() {
        assert_eq!(witnessed(&[1, 2, 3], 3, 7).copies(), 2);
        assert_eq!(witnessed(&[1, 3], 3, 2).copies(), 1);
        assert!(witnessed(&[1, 2, 3], 3, 2).check_copies().is_ok());
        let flaw = witnessed(&[1, 3], 3, 2).check_copies().unwrap_err();
        assert!(flaw.contains("2 - 1 = 1 hold entries"), "{flaw}");
        let nobody = witnessed(&[3], 3, 1);
        assert!(!nobody.keeps(|_| true), "a witness alone keeps nothing");
        assert_eq!(nobody.commit_slot(|_| Slot(9)), Slot(0));
        assert!(QuorumRule::default().with_copies(0).is_err());
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        assert_eq!("elect=4,commit=2".parse(), Ok(sizes(4, 2)));
        assert_eq!("commit = 2, elect = 4".parse(), Ok(sizes(4, 2)));
        assert_eq!(sizes(4, 2).to_string(), "elect=4,commit=2");
        for text in [
            "",
            "4,2",
            "elect=4",
            "elect=4,commit=",
            "elect=4,commit=-1",
            "elect=4,elect=2",
            "elect=4,commit=2,commit=3",
            "elect=4,commit=99999",
        ] {
            let error = text.parse::<QuorumSizes>().unwrap_err();
            assert!(
                error.contains("expected elect=NUMBER,commit=NUMBER"),
                "{error}"
            );
        }
    }

    #[test]
    fn every_pair_of_quorums_that_a_rule_allows_meets() {
        for voters in 1..=7usize {
            for rule in rules(voters) {
                let members = Membership {
                    voters: (1..=voters as u64).map(NodeId).collect(),
                    quorums: rule,
                    ..Membership::default()
                };
                let subsets = 0u64..1 << voters;
                let elects = |set: &u64| members.elects(within(*set));
                let commits = |set: &u64| members.commits(within(*set));
                for a in subsets.clone().filter(elects) {
                    for b in subsets.clone().filter(|set| elects(set) || commits(set)) {
                        assert!(a & b != 0, "{rule:?}: {a:b} and {b:b}");
                    }
                }
            }
        }
    }

    /// What `present` and `next` go through when one voter comes or goes, for every rule of either
    /// number of voters.
    fn changes(voters: usize) -> Vec<(Membership, Membership)> {
        let rules = rules(voters).into_iter().chain(rules(voters + 1));
        let mut changes = Vec::new();
        for quorums in rules {
            let of = |count: usize| Membership {
                voters: (1..=count as u64).map(NodeId).collect(),
                quorums,
                ..Membership::default()
            };
            changes.push((of(voters), of(voters + 1)));
            changes.push((of(voters + 1), of(voters)));
        }
        changes
    }

    #[test]
    fn a_joint_membership_meets_the_one_before_and_the_one_behind() {
        for (present, next) in (1..=6).flat_map(changes) {
            let joint = Membership {
                outgoing: present.voters.clone(),
                ..next.clone()
            };
            let all = present.voters.len().max(next.voters.len());
            let subsets = || 0u64..1 << all;
            for other in [&present, &joint, &next] {
                for a in subsets().filter(|set| joint.elects(within(*set))) {
                    for b in subsets() {
                        let meets = a & b != 0;
                        assert!(meets || !other.elects(within(b)), "{joint:?} {other:?}");
                        assert!(meets || !other.commits(within(b)), "{joint:?} {other:?}");
                    }
                }
                for a in subsets().filter(|set| other.elects(within(*set))) {
                    for b in subsets().filter(|set| joint.commits(within(*set))) {
                        assert!(a & b != 0, "{joint:?} {other:?}: {a:b} and {b:b}");
                    }
                }
            }
        }
    }

    #[test]
    fn whoever_is_elected_behind_a_stop_sign_meets_those_who_hold_it() {
        for (present, next) in (1..=6).flat_map(changes) {
            let enough = present
                .to_be_followed_by(&next)
                .expect("one voter more or less");
            let all = present.voters.len().max(next.voters.len());
            let holders = |set: &u64| count(&present.voters, within(*set)) >= enough;
            for a in (0u64..1 << all).filter(holders) {
                assert!(present.commits(within(a)), "it is chosen as well");
                for b in (0u64..1 << all).filter(|set| next.elects(within(*set))) {
                    assert!(a & b != 0, "{present:?} {next:?}: {a:b} and {b:b}");
                }
                for b in (0u64..1 << all).filter(|set| present.elects(within(*set))) {
                    assert!(a & b != 0, "{present:?}: {a:b} and {b:b}");
                }
            }
        }
    }

    #[test]
    fn a_change_in_one_step_that_could_hide_what_is_chosen_is_refused() {
        let rule = QuorumRule::new(5, sizes(4, 2)).expect("4 + 2 > 5");
        let five = Membership {
            quorums: rule,
            ..group(&[1, 2, 3, 4, 5])
        };
        let four = Membership {
            quorums: rule,
            ..group(&[1, 2, 3, 4])
        };
        assert_eq!(five.to_be_followed_by(&four), Ok(3), "two might both miss");
        assert_eq!(four.to_be_followed_by(&five), Ok(3));
        let others = group(&[6, 7, 8]);
        let error = five.to_be_followed_by(&others).unwrap_err();
        assert!(
            error.contains("2 + 5 = 7 is not more than the 8 voters of both"),
            "{error}"
        );
    }

    #[test]
    fn a_joint_membership_needs_both_majorities() {
        let joint = Membership {
            voters: set(&[3, 4, 5]),
            outgoing: set(&[1, 2, 3]),
            ..Membership::default()
        };
        assert!(
            !joint.elects(|id| id.0 >= 3),
            "the outgoing voters were not asked"
        );
        assert!(
            !joint.commits(|id| id.0 <= 3),
            "the new voters were not asked"
        );
        assert!(joint.elects(|id| [2, 3, 4].contains(&id.0)));
        let acknowledged = |id: NodeId| Slot([0, 7, 7, 1, 9, 9][id.0 as usize]);
        assert_eq!(joint.commit_slot(acknowledged), Slot(7));
    }
}
