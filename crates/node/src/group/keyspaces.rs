//! Keyspaces created, dropped and listed: what the first group of a cluster does for operators.
//!
//! ```text
//!   create ─▶ plan, on the table as it is here ─▶ Create command (names the table's epoch)
//!                                                    │ executed
//!                 refused, if the table has changed ◀┴▶ done: nodes open the group
//! ```

use std::collections::BTreeMap;

use base::{GroupId, NodeId};
use cluster::meta::{self, Keyspace, MetaCommand, Replica};
use cluster::placement::plan::{Table, TableEpoch, plan};
use cluster::placement::site::{Domains, Site, Standing, Weight};
use consensus::{EngineKind, QuorumRule, QuorumSizes};

use super::{Group, META, Moment};
use crate::calls::{Admittance, CallKind, Waiter};
use crate::interface::{Answer, CallId, KeyspaceStatus, Output};

/// The keyspace that an operator wants.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) replicas: usize,
    pub(super) engine: EngineKind,
    pub(super) quorums: Option<QuorumSizes>,
}

impl Group {
    /// An operator wants a keyspace.
    pub(super) fn create_keyspace(
        &mut self,
        moment: Moment,
        id: CallId,
        wanted: Wanted,
        out: &mut Vec<Output>,
    ) {
        let Wanted {
            name,
            replicas,
            engine,
            quorums,
        } = wanted;
        let rule = quorums.map(|sizes| QuorumRule::new(replicas, sizes));
        let planned = meta::check_name(&name)
            .and_then(|()| rule.transpose())
            .and_then(|_| self.choose_replicas(replicas));
        match planned {
            Ok((seen, replicas)) => {
                let command = MetaCommand::Create {
                    seen,
                    name,
                    engine,
                    quorums,
                    replicas,
                };
                self.change_table(moment, id, &command, out);
            }
            Err(reason) => {
                let answer = Answer::Operator(Err(reason));
                out.push(Output::Answer { id, answer });
            }
        }
    }

    /// An operator wants a keyspace to be no more.
    pub(super) fn drop_keyspace(
        &mut self,
        moment: Moment,
        id: CallId,
        name: String,
        out: &mut Vec<Output>,
    ) {
        match meta::check_name(&name) {
            Ok(()) => self.change_table(moment, id, &MetaCommand::Drop { name }, out),
            Err(reason) => {
                let answer = Answer::Operator(Err(reason));
                out.push(Output::Answer { id, answer });
            }
        }
    }

    fn change_table(
        &mut self,
        moment: Moment,
        id: CallId,
        command: &MetaCommand,
        out: &mut Vec<Output>,
    ) {
        self.open(moment, id, CallKind::Operator);
        let waiter = Waiter::Call {
            call: id,
            until_compacted: false,
        };
        let deadline = moment.now + self.config.timing.request_timeout;
        let record = command.encode();
        let reserved = Admittance::Reserved;
        let added = self
            .calls
            .add_command(meta::PROTOCOL, record, waiter, deadline, reserved);
        if added.is_err() {
            self.metrics.calls_refused += 1;
            let text = "this node has no room for more requests; ask again";
            self.answer(id, Answer::Operator(Err(text.to_owned())), out);
        }
    }

    /// Who shall hold one more keyspace, and on which table that was decided.
    fn choose_replicas(&self, count: usize) -> Result<(TableEpoch, Vec<Replica>), String> {
        if !matches!(count, 1 | 3 | 5 | 7) {
            return Err(format!(
                "a keyspace has 1, 3, 5 or 7 replicas, not {count}: an even number survives no \
                 more failures than the odd one below it"
            ));
        }
        let reader = self.replica.reader();
        let membership = self.replica.membership();
        let members = &membership.members;
        let voters = members.iter().filter(|(id, _)| membership.is_voter(**id));
        let sites: Vec<Site> = voters
            .map(|(node, member)| Site {
                node: *node,
                name: member.name.clone(),
                weight: Weight::ORDINARY,
                domains: Domains::default(),
                standing: Standing::Serving,
            })
            .collect();
        let mut table = Table {
            epoch: meta::epoch(reader),
            groups: BTreeMap::new(),
        };
        for keyspace in meta::keyspaces(reader) {
            let nodes = keyspace.replicas.iter().map(|replica| replica.node);
            table.groups.insert(keyspace.group, nodes.collect());
        }
        let new = GroupId(meta::last_group(reader).0 + 1);
        let mut wanted: BTreeMap<GroupId, usize> = table
            .groups
            .iter()
            .map(|(group, nodes)| (*group, nodes.len()))
            .collect();
        wanted.insert(new, count);
        let plan = plan(&sites, &wanted, &table);
        let nodes = plan.target.get(&new).cloned().unwrap_or_default();
        if nodes.len() < count {
            return Err(format!(
                "the cluster has {} nodes with a vote, too few for {count} replicas; ask for fewer \
                 with --replicas, or add nodes and promote them",
                sites.len()
            ));
        }
        let replica = |node| {
            let member = members.get(&node)?;
            Some(Replica {
                node,
                name: member.name.clone(),
                address: member.peer_address.clone(),
            })
        };
        Ok((table.epoch, nodes.into_iter().filter_map(replica).collect()))
    }

    /// The keyspaces, as this node's replica of the table has them.
    pub(super) fn keyspaces(&self) -> Vec<KeyspaceStatus> {
        let members = self.replica.membership().members.values();
        let first = KeyspaceStatus {
            name: meta::DEFAULT.to_owned(),
            group: META,
            engine: self.engine.kind(),
            quorums: self.replica.membership().quorum_sizes(),
            replicas: members.map(|member| member.name.clone()).collect(),
        };
        let status = |keyspace: Keyspace| KeyspaceStatus {
            name: keyspace.name,
            group: keyspace.group,
            engine: keyspace.engine,
            quorums: keyspace.quorums.of(keyspace.replicas.len()),
            replicas: keyspace
                .replicas
                .into_iter()
                .map(|each| each.name)
                .collect(),
        };
        let others = meta::keyspaces(self.replica.reader())
            .into_iter()
            .map(status);
        [first].into_iter().chain(others).collect()
    }

    /// Why a member cannot be removed: a keyspace would be left without a quorum of its replicas,
    /// which nothing restores. Replicas are not moved yet.
    pub(crate) fn needs_member(&self, id: NodeId) -> Option<String> {
        let members = &self.membership.members;
        let left = |keyspace: &Keyspace| {
            let nodes = keyspace.replicas.iter().map(|replica| replica.node);
            nodes
                .filter(|node| *node != id && members.contains_key(node))
                .count()
        };
        let needs = |keyspace: &Keyspace| {
            let is_there = keyspace.replicas.iter().any(|replica| replica.node == id);
            let sizes = keyspace.quorums.of(keyspace.replicas.len());
            is_there && left(keyspace) < sizes.elect.max(sizes.commit)
        };
        let table = meta::keyspaces(self.replica.reader());
        let keyspace = table.iter().find(|keyspace| needs(keyspace))?;
        Some(format!(
            "the keyspace {} would be left with {} of its {} replicas, fewer than a quorum \
             ({}), and be lost; copy what you need and drop it first (`quorate keyspace drop {}`)",
            keyspace.name,
            left(keyspace),
            keyspace.replicas.len(),
            keyspace.quorums.of(keyspace.replicas.len()),
            keyspace.name
        ))
    }

    /// Whether the membership has changed since this was last asked.
    pub(crate) fn take_membership_change(&mut self) -> bool {
        std::mem::take(&mut self.membership_changed)
    }

    /// Whether the table of keyspaces may have changed since this was last asked.
    pub(crate) fn take_table_change(&mut self) -> bool {
        self.replica.take_table_change()
    }
}
