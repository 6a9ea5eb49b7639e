//! *Election Safety* (Raft thesis, figure 3.2): at most one leader per epoch, because each voter
//! votes once per epoch; and whoever leads has the votes of a quorum, in that epoch. Votes are
//! taken from the frames that carry them, so that what counts is what others were told; a vote must
//! still be known after a restart.

use std::collections::{BTreeMap, BTreeSet};

use base::{Epoch, NodeId};
use consensus::{Glance, Membership};

use super::{Violation, violated};

/// Who led and who voted.
#[derive(Debug, Default)]
pub struct Elections {
    leaders: BTreeMap<Epoch, NodeId>,
    votes: BTreeMap<NodeId, (Epoch, NodeId)>,
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
        if !membership.is_quorum(|voter| given.contains(&voter)) {
            violated(
                "a leader has the votes of a quorum",
                format!("{node} leads epoch {epoch} with the votes of {given:?} in {membership:?}"),
            )?;
        }
        Ok(true)
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
        if let Some((last, before)) = self.votes.get(&voter) {
            if *last > epoch {
                return violated(
                    "votes are kept",
                    format!("{voter} votes in epoch {epoch} after it voted in {last}"),
                );
            }
            if *last == epoch && *before != candidate {
                return violated(
                    "votes are kept",
                    format!("{voter} votes for {before} and for {candidate} in epoch {epoch}"),
                );
            }
        }
        self.votes.insert(voter, (epoch, candidate));
        let given = self.given.entry((epoch, candidate)).or_default();
        given.insert(voter);
        Ok(())
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
