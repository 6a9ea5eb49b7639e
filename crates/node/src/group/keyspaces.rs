//! Keyspaces created, dropped and listed: what the first group of a cluster does for operators.
//!
//! ```text
//!   create ─▶ plan, on the table as it is here ─▶ Create command (names the table's epoch)
//!                                                    │ executed
//!                 refused, if the table has changed ◀┴▶ done: nodes open the group
//! ```

use std::collections::BTreeMap;

use base::NodeId;
use cluster::meta::{self, Keyspace, MetaCommand, Moving, Picture, Replica};
use cluster::placement::plan::TableEpoch;
use consensus::{EngineKind, QuorumRule, QuorumSizes};

use super::{Group, META, Moment};
use crate::calls::{Admittance, CallKind, Waiter};
use crate::interface::{Answer, CallId, KeyspaceStatus, MovingStatus, Output};

/// The keyspaces that an operator wants.
pub(super) struct Wanted {
    pub(super) names: Vec<String>,
    pub(super) replicas: usize,
    pub(super) engine: EngineKind,
    pub(super) quorums: Option<QuorumSizes>,
}

impl Group {
    /// An operator wants keyspaces.
    pub(super) fn create_keyspace(
        &mut self,
        moment: Moment,
        id: CallId,
        wanted: Wanted,
        out: &mut Vec<Output>,
    ) {
        let Wanted {
            names,
            replicas,
            engine,
            quorums,
        } = wanted;
        let rule = quorums.map(|sizes| QuorumRule::new(replicas, sizes));
        let checked = names.iter().try_for_each(|name| meta::check_name(name));
        let planned = checked
            .and_then(|()| rule.transpose())
            .and_then(|_| self.choose_replicas(names.len(), replicas));
        match planned {
            Ok((seen, replicas)) => {
                let command = MetaCommand::Create {
                    seen,
                    engine,
                    quorums,
                    keyspaces: names.into_iter().zip(replicas).collect(),
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

    pub(super) fn change_table(
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

    /// Who shall hold so many more keyspaces of `count` replicas, and on which table that was
    /// decided.
    fn choose_replicas(
        &self,
        keyspaces: usize,
        count: usize,
    ) -> Result<(TableEpoch, Vec<Vec<Replica>>), String> {
        if keyspaces > meta::CREATED_MAX {
            return Err(format!(
                "{keyspaces} keyspaces are too many at a time; ask for {} and then for the others",
                meta::CREATED_MAX
            ));
        }
        if !matches!(count, 1 | 3 | 5 | 7) {
            return Err(format!(
                "a keyspace has 1, 3, 5 or 7 replicas, not {count}: an even number survives no \
                 more failures than the odd one below it"
            ));
        }
        let reader = self.replica.reader();
        let membership = self.replica.membership();
        let picture = Picture::new(reader, membership);
        let planned = picture.nodes_for_new(reader, keyspaces, count);
        if planned.iter().any(|nodes| nodes.len() < count) {
            return Err(format!(
                "the cluster has {} nodes with a vote that take replicas, too few for {count}; ask \
                 for fewer with --replicas, or add nodes and promote them",
                picture.serving()
            ));
        }
        let replica = |node: &NodeId| meta::replica_of(membership, *node);
        let replicas = planned
            .iter()
            .map(|nodes| nodes.iter().filter_map(replica).collect());
        Ok((picture.table.epoch, replicas.collect()))
    }

    /// The keyspaces, as this node's replica of the table has them.
    pub(crate) fn keyspaces(&self) -> Vec<KeyspaceStatus> {
        let membership = self.replica.membership();
        let named = |node: &NodeId| Some(membership.members.get(node)?.name.clone());
        let is_learner =
            |node: &&NodeId| !membership.is_voter(**node) && !membership.is_witness(**node);
        let members = membership.members.keys();
        let (learners, holders): (Vec<NodeId>, Vec<NodeId>) = members.partition(is_learner);
        let first = KeyspaceStatus {
            name: meta::DEFAULT.to_owned(),
            group: META,
            engine: self.engine.kind(),
            quorums: membership.quorum_sizes(),
            replicas: holders.iter().filter_map(named).collect(),
            observers: learners.iter().filter_map(named).collect(),
            leader: None,
            moving: None,
        };
        let status = |keyspace: Keyspace| KeyspaceStatus {
            name: keyspace.name,
            group: keyspace.group,
            engine: keyspace.engine,
            quorums: keyspace.quorums.of(keyspace.replicas.len()),
            moving: keyspace.moving.as_ref().map(moving_status),
            observers: keyspace.observers.iter().filter_map(named).collect(),
            replicas: names(&keyspace.replicas),
            leader: None,
        };
        let others = meta::keyspaces(self.replica.reader())
            .into_iter()
            .map(status);
        [first].into_iter().chain(others).collect()
    }

    /// Why a member cannot be removed: a keyspace would be left without a quorum of its replicas,
    /// which nothing restores.
    pub(crate) fn needs_member(&self, id: NodeId) -> Option<String> {
        let members = &self.membership.members;
        let left = |keyspace: &Keyspace| {
            let nodes = keyspace.serving().iter().map(|replica| replica.node);
            nodes
                .filter(|node| *node != id && members.contains_key(node))
                .count()
        };
        let needs = |keyspace: &Keyspace| {
            let serving = keyspace.serving();
            let is_there = serving.iter().any(|replica| replica.node == id);
            let sizes = keyspace.quorums.of(serving.len());
            is_there && left(keyspace) < sizes.elect.max(sizes.commit)
        };
        let table = meta::keyspaces(self.replica.reader());
        let keyspace = table.iter().find(|keyspace| needs(keyspace))?;
        Some(format!(
            "the keyspace {} would be left with {} of its {} replicas, fewer than a quorum \
             ({}), and be lost; move it away first (`quorate node drain`, or \
             `quorate keyspace move {}`)",
            keyspace.name,
            left(keyspace),
            keyspace.serving().len(),
            keyspace.quorums.of(keyspace.serving().len()),
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

fn names(replicas: &[Replica]) -> Vec<String> {
    replicas.iter().map(|each| each.name.clone()).collect()
}

fn moving_status(moving: &Moving) -> MovingStatus {
    MovingStatus {
        to: names(&moving.target),
        from: names(&moving.leaving),
        is_leaving: moving.is_leaving,
        filled: BTreeMap::new(),
    }
}
