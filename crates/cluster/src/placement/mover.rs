//! From a table to a target, one safe step of one group at a time.
//!
//! ```text
//!   holds {a, b, c}, shall hold {a, b, d}:
//!     add d as learner ─▶ wait: d has caught up ─▶ promote d ─▶ (c leads? hand over) ─▶ remove c
//! ```
//!
//! The mover remembers nothing: it looks at what each group's membership is now and at what it
//! shall be, and names the next step. So it goes on wherever it, or its predecessor on another
//! node, was interrupted; and to cancel is to make the present membership the target. Additions
//! come before removals: a group never has fewer replicas than it had. Who only observes a group is
//! a learner that stays one; it is added when all else is done.

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, NodeId};

/// How much may be under way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Groups whose membership differs from their target and that are being changed.
    pub groups_in_motion: usize,
    /// Learners that one node is being filled with, since a disk and a network are shared.
    pub learners_per_node: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            groups_in_motion: 8,
            learners_per_node: 2,
        }
    }
}

/// What a group's membership is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Those who vote.
    pub voters: BTreeSet<NodeId>,
    /// Those who receive the log without a vote, and whether they have caught up.
    pub learners: BTreeMap<NodeId, bool>,
    /// Who leads, if somebody does.
    pub leader: Option<NodeId>,
    /// A change of membership is under way: nothing else may begin.
    pub is_changing: bool,
    /// Those who cannot be filled yet: they have not said that they know of the move, or are away.
    pub unready: BTreeSet<NodeId>,
    /// Those who shall receive the log and never a vote.
    pub observers: BTreeSet<NodeId>,
}

/// What to ask of a group's leader next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it the log, without a vote.
    AddLearner(NodeId),
    /// Give it a vote: it has caught up.
    Promote(NodeId),
    /// Another replica shall lead, whichever is the fittest: the leader is to be removed.
    HandOver,
    /// It is no longer a member.
    Remove(NodeId),
}

/// The steps that may be taken now. Groups already in motion go first, so that each is finished
/// before another begins. A group without a leader, or in the middle of a change, is left alone.
#[must_use]
pub fn steps(
    target: &BTreeMap<GroupId, Vec<NodeId>>,
    observed: &BTreeMap<GroupId, Observed>,
    limits: &Limits,
) -> Vec<(GroupId, Step)> {
    let mut filling: BTreeMap<NodeId, usize> = BTreeMap::new();
    for group in observed.values() {
        let is_filled =
            |node: &NodeId, caught_up: bool| caught_up && group.observers.contains(node);
        let learners = group.learners.iter();
        for (learner, _) in learners.filter(|(node, caught_up)| !is_filled(node, **caught_up)) {
            *filling.entry(*learner).or_default() += 1;
        }
    }
    let differing: Vec<(&GroupId, BTreeSet<NodeId>, &Observed)> = target
        .iter()
        .filter_map(|(group, nodes)| {
            let observed = observed.get(group)?;
            let shall: BTreeSet<NodeId> = nodes.iter().copied().collect();
            let is_there =
                observed.voters == shall && observed.learners.keys().eq(&observed.observers);
            (!is_there && !shall.is_empty()).then_some((group, shall, observed))
        })
        .collect();
    let begun = |shall: &BTreeSet<NodeId>, observed: &Observed| {
        let mut learners = observed.learners.keys();
        let is_filled = learners.any(|node| !observed.observers.contains(node));
        // Who waits only for observers has not begun: there may be thousands.
        let is_there = *shall == observed.voters;
        observed.is_changing || is_filled || (shall.is_subset(&observed.voters) && !is_there)
    };
    let (moving, waiting): (Vec<_>, Vec<_>) = differing
        .into_iter()
        .partition(|(_, shall, observed)| begun(shall, observed));
    // Those that only wait for observers come last, and take nobody's place among the others.
    let (waiting, observed_only): (Vec<_>, Vec<_>) = waiting
        .into_iter()
        .partition(|(_, shall, observed)| *shall != observed.voters);
    let mut free = limits.groups_in_motion.saturating_sub(moving.len());
    let begin = moving.len()..moving.len() + waiting.len();
    let mut steps = Vec::new();
    let all = moving.iter().chain(&waiting).chain(&observed_only);
    for (index, (group, shall, observed)) in all.enumerate() {
        let begins = begin.contains(&index);
        if begins && free == 0 {
            continue;
        }
        let Some(step) = next_step(shall, observed) else {
            continue;
        };
        if let Step::AddLearner(node) = step {
            let filled = filling.entry(node).or_default();
            if *filled >= limits.learners_per_node {
                continue;
            }
            *filled += 1;
        }
        free -= usize::from(begins);
        steps.push((**group, step));
    }
    steps
}

/// The next step of one group, if there is one to take now. A group without a leader, or in the
/// middle of a change, is left alone.
#[must_use]
pub fn next_step(shall: &BTreeSet<NodeId>, observed: &Observed) -> Option<Step> {
    let leader = observed.leader?;
    if observed.is_changing {
        return None;
    }
    let mut learners = observed.learners.iter();
    // A learner that is not wanted any more was somebody's plan that has been cancelled.
    let is_wanted = |node: &NodeId| shall.contains(node) || observed.observers.contains(node);
    if let Some((stray, _)) = learners.clone().find(|(node, _)| !is_wanted(node)) {
        return Some(Step::Remove(*stray));
    }
    // One that observed the group before may not know yet that it shall have a vote.
    let may_vote = |node: &NodeId| shall.contains(node) && !observed.unready.contains(node);
    let ready = |(node, caught_up): &(&NodeId, &bool)| **caught_up && may_vote(node);
    if let Some((ready, _)) = learners.clone().find(ready) {
        return Some(Step::Promote(*ready));
    }
    if learners.any(|(node, _)| shall.contains(node)) {
        return None;
    }
    let mut new = shall.difference(&observed.voters).peekable();
    if new.peek().is_some() {
        let ready = new.find(|node| !observed.unready.contains(node));
        return ready.map(|node| Step::AddLearner(*node));
    }
    let leaving = |node: &&NodeId| !shall.contains(node);
    match observed
        .voters
        .iter()
        .filter(leaving)
        .find(|node| **node != leader)
    {
        Some(other) => Some(Step::Remove(*other)),
        None if shall.contains(&leader) => {
            let has = |node: &&NodeId| observed.learners.contains_key(node);
            let can = |node: &&NodeId| !has(node) && !observed.unready.contains(node);
            let missing = observed.observers.iter().find(can);
            missing.map(|node| Step::AddLearner(*node))
        }
        None => {
            // All others that vote shall stay: any of them will do.
            let has_heir = observed.voters.iter().any(|node| shall.contains(node));
            has_heir.then_some(Step::HandOver)
        }
    }
}
