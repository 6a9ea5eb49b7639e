//! *Election Safety* (Raft thesis, figure 3.2): at most one leader per epoch, because each voter
//! votes once per epoch; and whoever leads has the votes of a quorum, in that epoch. Votes are
//! taken from the frames that carry them, so that what counts is what others were told; a vote must
//! still be known after a restart.
//!
//! In Paxos a vote is a promise (*P1a*, "Paxos Made Simple", 2.2: an acceptor accepts under a
//! ballot only if it has not promised a higher one): it is given to one candidate per ballot, by a
//! promise that is granted or by accepting, and nothing is promised or accepted under a lower
//! ballot later. Whoever leads has heard a quorum: each has promised, and told **everything** that
//! it had accepted.

use std::collections::{BTreeMap, BTreeSet};

use base::{Epoch, NodeId};
use consensus::{Glance, Membership};

use super::{Violation, violated};

/// Who led and who voted.
#[derive(Debug, Default)]
pub struct Elections {
    leaders: BTreeMap<Epoch, NodeId>,
    /// The last vote that each told.
    votes: BTreeMap<NodeId, (Epoch, NodeId)>,
    /// The epoch of the last one that each had told before its last pass.
    before_pass: BTreeMap<NodeId, Epoch>,
    /// Who has told one since its last pass.
    has_told: Vec<NodeId>,
    /// For whom each voted in an epoch.
    cast: BTreeMap<(NodeId, Epoch), NodeId>,
    /// All votes, by epoch and candidate.
    given: BTreeMap<(Epoch, NodeId), BTreeSet<NodeId>>,
}

impl Elections {
    /// A node leads; whether that is new.
    ///
    /// # Errors
    /// If another one led that epoch, or too few have voted for this one.
    pub fn leads(
        &mut self,
        node: NodeId,
        epoch: Epoch,
        is_elected: impl FnOnce(&BTreeSet<NodeId>) -> bool,
        membership: &Membership,
    ) -> Result<bool, Violation> {
        let known = self.leaders.get(&epoch).copied();
        if known == Some(node) {
            return Ok(false);
        }
        if let Some(other) = known {
            violated(
                "election safety",
                format!("{node} and {other} both lead epoch {epoch}"),
            )?;
        }
        self.leaders.insert(epoch, node);
        let given = self.given.entry((epoch, node)).or_default();
        given.insert(node);
        if !is_elected(given) {
            violated(
                "a leader has the votes of a quorum",
                format!("{node} leads epoch {epoch} with the votes of {given:?} in {membership:?}"),
            )?;
        }
        Ok(true)
    }

    /// Who leads or led this epoch.
    #[must_use]
    pub fn leader(&self, epoch: Epoch) -> Option<NodeId> {
        self.leaders.get(&epoch).copied()
    }

    /// Whether a node may vote for `candidate`, after what it told in earlier passes. What leaves
    /// in one pass leaves at once: whom it reaches first means nothing.
    ///
    /// # Errors
    /// If it had voted otherwise.
    pub fn may_vote(
        &self,
        voter: NodeId,
        epoch: Epoch,
        candidate: NodeId,
    ) -> Result<(), Violation> {
        if let Some(last) = self.before_pass.get(&voter).filter(|last| **last > epoch) {
            return violated(
                "votes are kept",
                format!("{voter} votes in epoch {epoch} after it voted in {last}"),
            );
        }
        let cast = self.cast.get(&(voter, epoch));
        match cast.filter(|before| **before != candidate) {
            None => Ok(()),
            Some(before) => violated(
                "votes are kept",
                format!("{voter} votes for {before} and for {candidate} in epoch {epoch}"),
            ),
        }
    }

    /// A node has done a pass: what it tells from now on comes after what it told before.
    pub fn passed(&mut self, voter: NodeId) {
        if !self.has_told.contains(&voter) {
            return;
        }
        self.has_told.retain(|each| *each != voter);
        if let Some((epoch, _)) = self.votes.get(&voter) {
            self.before_pass.insert(voter, *epoch);
        }
    }

    /// A node told someone that it votes for `candidate`.
    ///
    /// # Errors
    /// If it had voted otherwise.
    pub fn votes(
        &mut self,
        voter: NodeId,
        epoch: Epoch,
        candidate: NodeId,
    ) -> Result<(), Violation> {
        self.may_vote(voter, epoch, candidate)?;
        self.told(voter, epoch, candidate);
        Ok(())
    }

    /// The disk of a node told someone for it that it votes for `candidate`. Whether it might was
    /// asked when it voted, and not when the disk was done: since then it may have gone on to later
    /// epochs, which takes nothing from what it did in this one.
    pub fn told(&mut self, voter: NodeId, epoch: Epoch, candidate: NodeId) {
        let last = self.votes.get(&voter);
        if last.is_none_or(|(last, _)| *last <= epoch) {
            self.votes.insert(voter, (epoch, candidate));
            self.has_told.push(voter);
        }
        self.cast.insert((voter, epoch), candidate);
        let given = self.given.entry((epoch, candidate)).or_default();
        given.insert(voter);
    }

    /// A node runs again.
    ///
    /// # Errors
    /// If it forgot its last vote.
    pub fn restarted(&self, node: NodeId, glance: &Glance) -> Result<(), Violation> {
        let Some((epoch, candidate)) = self.votes.get(&node) else {
            return Ok(());
        };
        let forgot = glance.epoch == *epoch && glance.vote != Some(*candidate);
        if glance.epoch < *epoch || forgot {
            return violated(
                "votes are kept",
                format!(
                    "{node} voted for {candidate} in epoch {epoch}, and after its restart knows \
                     epoch {} and vote {:?}",
                    glance.epoch, glance.vote
                ),
            );
        }
        Ok(())
    }
}
