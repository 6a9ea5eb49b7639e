//! A group that has lost its quorum for good, and an operator who orders that it go on here.
//!
//! ```text
//!   what is here, who answers ──▶ operator: reads what may be lost, names all who are given up
//!                                              │
//!   nobody leads, no quorum answers, the log ends where the operator was told, exactly these are
//!   silent ──▶ the engine goes on alone; who answers stays without a vote; who is silent is out
//! ```
//!
//! Who is given up must never count again, or two halves would go on. In the first group that makes
//! them no members of the cluster: whoever meets one tells it so, takes no word of its leaders, and
//! it stops. Any other group is recovered only when they are no members already. What nobody can
//! prevent is that those who were given up come back together while nobody who knows is there.

use std::collections::BTreeSet;

use base::{Instant, NodeId};
use consensus::Membership;

use super::Running;
use crate::group::{META, Moment};
use crate::interface::{Answer, CallId, OtherReplica, Output, RecoveryOrder};
use crate::peers::Peers;

/// What a group goes on with.
struct Rest {
    group: base::GroupId,
    learners: Vec<NodeId>,
    success: String,
}

impl Running {
    /// Who else is in a group, and what this node hears of each.
    pub(super) fn others_in(
        &self,
        membership: &Membership,
        now: Instant,
        peers: &Peers,
    ) -> Vec<OtherReplica> {
        let reachable: BTreeSet<NodeId> = peers.reachable().collect();
        let others = membership.members.iter();
        let others = others.filter(|(id, _)| **id != self.own);
        let other = |(id, member): (&NodeId, &consensus::Member)| OtherReplica {
            id: *id,
            name: match member.name.is_empty() {
                true => id.to_string(),
                false => member.name.clone(),
            },
            is_voter: membership.is_voter(*id),
            is_witness: membership.is_witness(*id),
            is_reachable: reachable.contains(id),
            silent_for: self.silence_of(*id, now),
        };
        others.map(other).collect()
    }

    /// An operator orders that a group go on with the replica here.
    pub(super) fn recover_group(
        &mut self,
        moment: Moment,
        id: CallId,
        order: &RecoveryOrder,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        match self.what_is_left(order, moment.now, peers) {
            Ok(Rest {
                group,
                learners,
                success,
            }) => {
                self.with(group, out, |group, out| {
                    group.recover(moment, id, learners, success, peers, out);
                });
            }
            Err(reason) => {
                let answer = Answer::Operator(Err(reason));
                out.push(Output::Answer { id, answer });
            }
        }
    }

    /// What a group goes on with, if it may be recovered here, and as the operator was told.
    fn what_is_left(
        &self,
        order: &RecoveryOrder,
        now: Instant,
        peers: &Peers,
    ) -> Result<Rest, String> {
        let RecoveryOrder {
            keyspace,
            last,
            term,
            given_up,
        } = order;
        let keyspaces = self.meta().keyspaces();
        let named = keyspaces.iter().find(|each| each.name == *keyspace);
        let named = named.ok_or_else(|| format!("there is no keyspace called {keyspace}"))?;
        let opened = self.groups.get(&named.group);
        let group = opened
            .filter(|opened| !opened.group.is_given_up())
            .map(|opened| &opened.group)
            .ok_or_else(|| format!("this node holds no replica of {keyspace}"))?;
        if let Some(leader) = group.leader {
            let leader = group.name_of(leader);
            return Err(format!(
                "{leader} leads {keyspace}: there is nothing to recover"
            ));
        }
        let glance = group.engine.glance();
        let own_term = group.engine.epoch_of(glance.last).unwrap_or_default();
        if (glance.last, own_term) != (*last, *term) {
            return Err(format!(
                "the log here ends at entry {} of term {own_term}, and not at entry {last} of term \
                 {term} as you were told: look again what would be lost",
                glance.last
            ));
        }
        let membership = group.engine.membership();
        let others = self.others_in(membership, now, peers);
        let is_there = |id: NodeId| {
            let mut others = others.iter();
            id == self.own || others.any(|other| other.id == id && other.is_reachable)
        };
        if membership.elects(is_there) && membership.commits(is_there) {
            return Err(format!(
                "a quorum of {keyspace} answers: wait until it has a leader"
            ));
        }
        let silent: Vec<&OtherReplica> = others.iter().filter(|each| !each.is_reachable).collect();
        let names: BTreeSet<&str> = silent.iter().map(|each| each.name.as_str()).collect();
        let agreed: BTreeSet<&str> = given_up.iter().map(String::as_str).collect();
        if names != agreed {
            let list = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(",");
            return Err(format!(
                "{} would be given up, and you agreed to give up {}",
                list(&names),
                list(&agreed)
            ));
        }
        if named.group != META {
            self.are_out(keyspace, &silent)?;
        }
        let learners = others.iter().filter(|each| each.is_reachable);
        Ok(Rest {
            group: named.group,
            learners: learners.map(|each| each.id).collect(),
            success: format!(
                "{keyspace} goes on with the replica of {} alone; {} are given up, and must not be \
                 started with their old data",
                self.config.name,
                given_up.join(", ")
            ),
        })
    }

    /// Whether none of these can come back as a node of this cluster.
    fn are_out(&self, keyspace: &str, silent: &[&OtherReplica]) -> Result<(), String> {
        let chosen = self.meta().replica().membership();
        let still = silent
            .iter()
            .find(|each| chosen.members.contains_key(&each.id));
        match still {
            None => Ok(()),
            Some(still) => Err(format!(
                "{} is still a member of the cluster, and would go on with its old replica of \
                 {keyspace} if it came back: `quorate member remove {}` first",
                still.name, still.name
            )),
        }
    }
}
