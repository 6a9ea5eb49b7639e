//! Plans made on the table as it stands: where a new keyspace goes, what moves, and why.
//!
//! ```text
//!   members with a vote, what is known of them ─▶ sites ─┐
//!   rows of keyspaces ─▶ who shall hold what ────────────┼─▶ plan ─▶ Proposal (epoch, moves)
//!                                                         │            └─▶ Move, in the log
//!   what is asked for: everything, or what must be ──────┘
//! ```
//!
//! A keyspace that moves counts as held by its target. What is leaving already is not sent
//! elsewhere, and what cannot move (most of its replicas are dead) is left alone: a plan that
//! nobody can carry out would only be in the way of its nodes coming back.

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, NodeId};
use consensus::Membership;
use state::Reader;

use super::nodes::sites;
use super::table::{Keyspace, Replica, epoch, keyspaces, last_group};
use crate::placement::plan::{Plan, Reason, Scope, Table, TableEpoch, Wanted, plan, plan_within};
use crate::placement::site::{Site, Standing};

/// The table as placement sees it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Who could hold something.
    pub sites: Vec<Site>,
    /// Who holds what, or shall once it has moved.
    pub table: Table,
    /// How many replicas each group shall have.
    pub wanted: Wanted,
    /// The keyspaces by their groups.
    pub keyspaces: BTreeMap<GroupId, Keyspace>,
}

/// What to move.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The table that it was made on.
    pub seen: TableEpoch,
    /// Where keyspaces shall be, the most urgent first.
    pub moves: Vec<(String, Vec<Replica>)>,
    /// Why each of them moves.
    pub reasons: BTreeMap<String, Reason>,
    /// Keyspaces that cannot move: too few of their replicas are alive.
    pub stuck: Vec<String>,
    /// Keyspaces for which there are too few nodes, by how many replicas.
    pub missing: BTreeMap<String, usize>,
    /// What was planned, for people.
    pub plan: Plan,
}

impl Picture {
    /// The table as a state has it.
    #[must_use]
    pub fn new(reader: &Reader, membership: &Membership) -> Picture {
        let keyspaces = keyspaces(reader).into_iter();
        let keyspaces: BTreeMap<GroupId, Keyspace> =
            keyspaces.map(|each| (each.group, each)).collect();
        let holders = |keyspace: &Keyspace| {
            let target = keyspace.target().iter();
            target.map(|replica| replica.node).collect::<Vec<_>>()
        };
        let groups = keyspaces.iter();
        let groups: BTreeMap<GroupId, Vec<NodeId>> = groups
            .map(|(group, each)| (*group, holders(each)))
            .collect();
        Picture {
            sites: sites(reader, membership),
            wanted: groups
                .iter()
                .map(|(group, nodes)| (*group, nodes.len()))
                .collect(),
            table: Table {
                epoch: epoch(reader),
                groups,
            },
            keyspaces,
        }
    }

    /// The nodes for so many more keyspaces, of so many replicas each.
    #[must_use]
    pub fn nodes_for_new(
        &self,
        reader: &Reader,
        keyspaces: usize,
        replicas: usize,
    ) -> Vec<Vec<NodeId>> {
        let first = last_group(reader).0 + 1;
        let new = || (first..).take(keyspaces).map(GroupId);
        let mut wanted = self.wanted.clone();
        wanted.extend(new().map(|group| (group, replicas)));
        let mut plan = plan(&self.sites, &wanted, &self.table);
        new()
            .map(|group| plan.target.remove(&group).unwrap_or_default())
            .collect()
    }

    /// What should move.
    #[must_use]
    pub fn propose(&self, membership: &Membership, scope: Scope) -> Proposal {
        let plan = plan_within(&self.sites, &self.wanted, &self.table, scope);
        let mut moved: BTreeMap<GroupId, Reason> = BTreeMap::new();
        for each in &plan.moves {
            let reason = moved.entry(each.group).or_insert(each.reason);
            *reason = (*reason).min(each.reason);
        }
        let (mut stuck, mut missing) = (Vec::new(), BTreeMap::new());
        let mut moves = Vec::new();
        for (group, keyspace) in &self.keyspaces {
            let Some(reason) = moved.get(group) else {
                continue;
            };
            if let Some(count) = plan.missing.get(group) {
                missing.insert(keyspace.name.clone(), *count);
                continue;
            }
            if !self.can_change(keyspace) {
                stuck.push(keyspace.name.clone());
                continue;
            }
            let may_be_sent = keyspace
                .moving
                .as_ref()
                .is_none_or(|moving| !moving.is_leaving && reason.is_necessary());
            let target = plan.target.get(group).into_iter().flatten();
            let target: Option<Vec<Replica>> =
                target.map(|node| replica_of(membership, *node)).collect();
            if let Some(target) = target.filter(|_| may_be_sent) {
                moves.push((*reason, keyspace.name.clone(), target));
            }
        }
        moves.sort_by_key(|(reason, _, _)| *reason);
        let reasons = moves.iter();
        let reasons = reasons.map(|(reason, name, _)| (name.clone(), *reason));
        Proposal {
            seen: self.table.epoch,
            reasons: reasons.collect(),
            moves: moves
                .into_iter()
                .map(|(_, name, target)| (name, target))
                .collect(),
            stuck,
            missing,
            plan,
        }
    }

    /// Whether enough of those who vote in a keyspace are alive to change who does.
    fn can_change(&self, keyspace: &Keyspace) -> bool {
        let is_alive = |replica: &&Replica| {
            let site = self.sites.iter().find(|site| site.node == replica.node);
            site.is_some_and(|site| site.standing != Standing::Gone)
        };
        let sizes = keyspace.quorums.of(keyspace.replicas.len());
        let alive = keyspace.replicas.iter().filter(is_alive).count();
        alive >= sizes.elect.max(sizes.commit)
    }

    /// How many nodes take replicas.
    #[must_use]
    pub fn serving(&self) -> usize {
        let sites = self.sites.iter();
        sites
            .filter(|site| site.standing == Standing::Serving)
            .count()
    }

    /// The keyspaces that a node has open, or shall.
    #[must_use]
    pub fn held_by(&self, node: NodeId) -> BTreeSet<GroupId> {
        let all = self.keyspaces.iter();
        let held = all.filter(|(_, keyspace)| keyspace.is_held_by(node));
        held.map(|(group, _)| *group).collect()
    }
}

/// A member as the table names it.
#[must_use]
pub fn replica_of(membership: &Membership, node: NodeId) -> Option<Replica> {
    let member = membership.members.get(&node)?;
    Some(Replica {
        node,
        name: member.name.clone(),
        address: member.peer_address.clone(),
    })
}
