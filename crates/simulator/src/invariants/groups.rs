//! Groups share nothing, so each is held to all invariants by itself.
//!
//! ```text
//!  pass of a node ──▶ group 0 ──▶ Invariants        frame ──▶ messages by group ──▶ Invariants
//!                     group 3 ──▶ Invariants                                        of each
//! ```
//!
//! The first group is always there; another one is known from when a node first runs it or speaks
//! for it. What a node had acknowledged in a group is gone, and rightly so, once it has closed it.

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, Instant, NodeId};
use bytes::Bytes;
use checker::history::Bounds;
use journal::disk::RequestId;
use node::group::META;
use node::running::Running;
use node::wire::{Frame, Messages};
use node::{Node, TableEpoch};

use super::durability::Promise;
use super::numbering::Numbering;
use super::{Invariants, Violation, violated};
use crate::marks::Mark;

/// The invariants of all groups.
#[derive(Debug)]
pub struct Groups {
    hosts: usize,
    began: Instant,
    bounds: Bounds,
    first: Invariants,
    others: BTreeMap<GroupId, Invariants>,
    disk_speaks: Option<RequestId>,
    /// Who has closed which group. What a disk says for it later is nothing that it must keep.
    closed: BTreeSet<(NodeId, GroupId)>,
    numbering: Numbering,
    /// Who may have what open, by the epoch of the table.
    tables: BTreeMap<TableEpoch, BTreeMap<GroupId, BTreeSet<NodeId>>>,
    /// The table that each host had when it was last looked at.
    tables_seen: Vec<Option<TableEpoch>>,
}

/// What engines say in a frame, and of which group.
#[derive(Debug, Default)]
pub struct Said(Messages);

impl Said {
    /// What a frame says; `None` if nobody can read it.
    #[must_use]
    pub fn in_frame(frame: &Bytes) -> Option<Said> {
        match Frame::decode(frame.clone()) {
            Ok(Frame::Engine(messages)) => Some(Said(messages)),
            Ok(_) => Some(Said::default()),
            Err(_) => None,
        }
    }

    /// What it promises that must be on its sender's disk.
    pub fn promises(&self, to: NodeId) -> impl Iterator<Item = (GroupId, Promise)> + '_ {
        let messages = self.0.iter();
        messages.filter_map(move |(group, said)| Some((*group, super::promise(to, said)?)))
    }
}

impl Groups {
    /// For so many hosts, in a run that began then and may bend clocks so far.
    #[must_use]
    pub fn new(hosts: usize, began: Instant, bounds: Bounds) -> Groups {
        let mut first = Invariants::new(hosts);
        first.leases.hold_to(began, bounds.clone());
        Groups {
            hosts,
            began,
            bounds,
            first,
            others: BTreeMap::new(),
            disk_speaks: None,
            closed: BTreeSet::new(),
            numbering: Numbering::default(),
            tables: BTreeMap::new(),
            tables_seen: vec![None; hosts],
        }
    }

    /// The cluster is gone, with nothing chosen: what forms next is another one.
    pub fn begin_anew(&mut self) {
        let mut first = Invariants::new(self.hosts);
        first.leases.hold_to(self.began, self.bounds.clone());
        first.disk_speaks(self.disk_speaks);
        first.checks = self.first.checks;
        self.first = first;
    }

    /// Those of the first group.
    #[must_use]
    pub fn first(&self) -> &Invariants {
        &self.first
    }

    /// Those of a group, if anything is known of it.
    #[must_use]
    pub fn of(&self, group: GroupId) -> Option<&Invariants> {
        match group {
            META => Some(&self.first),
            group => self.others.get(&group),
        }
    }

    /// Those of a group.
    pub fn of_mut(&mut self, group: GroupId) -> &mut Invariants {
        if group == META {
            return &mut self.first;
        }
        self.others.entry(group).or_insert_with(|| {
            let mut new = Invariants::new(self.hosts);
            new.leases.hold_to(self.began, self.bounds.clone());
            new.disk_speaks(self.disk_speaks);
            new
        })
    }

    /// All of them, with their groups.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (GroupId, &mut Invariants)> {
        let others = self.others.iter_mut().map(|(group, each)| (*group, each));
        std::iter::once((META, &mut self.first)).chain(others)
    }

    /// How many checks were made.
    #[must_use]
    pub fn checks(&self) -> u64 {
        let all = std::iter::once(&self.first).chain(self.others.values());
        all.map(|each| each.checks + each.revisions.answers).sum()
    }

    /// The node on this host is gone; the next one there starts anew.
    pub fn stopped(&mut self, host: usize) {
        self.numbering.stopped(host);
        self.iter_mut().for_each(|(_, each)| each.stopped(host));
    }

    /// Whether what is sent from now on leaves from a disk, and after which request.
    pub fn disk_speaks(&mut self, after: Option<RequestId>) {
        self.disk_speaks = after;
        self.iter_mut()
            .for_each(|(_, each)| each.disk_speaks(after));
    }

    /// A node hears that a request has ended.
    pub fn told(&mut self, node: NodeId, request: RequestId) {
        self.iter_mut()
            .for_each(|(_, each)| each.told(node, request));
    }

    /// What this node had on its disk may be gone, with the atlas' leave.
    pub fn excuse(&mut self, node: NodeId) {
        self.iter_mut().for_each(|(_, each)| each.excuse(node));
    }

    /// Rare situations that somebody has reached since this was last asked.
    pub fn take_reached(&mut self, mut reach: impl FnMut(Mark)) {
        for (_, each) in self.iter_mut().filter(|(_, each)| !each.reached.is_empty()) {
            each.reached.drain(..).for_each(&mut reach);
        }
    }

    /// A node closes a group. It may end in the same pass, so that nobody looks at it afterwards.
    pub fn closes(&mut self, node: NodeId, group: GroupId) {
        self.of_mut(group).excuse(node);
        self.closed.insert((node, group));
    }

    /// Looks at all groups of a node after a pass.
    ///
    /// # Errors
    /// What does not hold.
    pub fn after_pass(&mut self, now: Instant, host: usize, node: &Node) -> Result<(), Violation> {
        let Some(running) = node.running() else {
            self.iter_mut().for_each(|(_, each)| each.halted(host));
            return Ok(());
        };
        self.look_at_table(host, running)?;
        for (id, group) in running.groups() {
            if self.closed.remove(&(running.id(), id)) {
                self.first.reached.push(Mark::KeyspaceCameBack);
                self.of_mut(id).opens_anew(running.id());
            }
            self.of_mut(id).after_pass(now, host, group)?;
            // The first group is never closed while its node runs.
            if id != META {
                self.numbering.numbered(host, id, group.last_sequence())?;
            }
        }
        for (id, each) in &mut self.others {
            if each.is_seen(host) && running.group(*id).is_none() {
                each.halted(host);
                if running.table().1.contains_key(id) {
                    self.first.reached.push(Mark::KeyspaceMovedAway);
                    each.counts_no_more(running.id())?;
                }
            }
        }
        Ok(())
    }

    /// One table for each epoch: nodes that have it agree on who holds what.
    fn look_at_table(&mut self, host: usize, running: &Running) -> Result<(), Violation> {
        // The table is part of the state, which only what is executed changes.
        let meta = running.group(META);
        if meta.is_some_and(|meta| self.first.has_seen(host, meta.replica().applied())) {
            return Ok(());
        }
        let epoch = running.table_epoch();
        if self.tables_seen[host] == Some(epoch) {
            return Ok(());
        }
        self.tables_seen[host] = Some(epoch);
        let (_, holders) = running.table();
        match self.tables.get(&epoch) {
            Some(before) if *before != holders => violated(
                "one owner set per keyspace and epoch",
                format!(
                    "the table of epoch {} has {before:?} on one node and {holders:?} on {}",
                    epoch.0,
                    running.id()
                ),
            ),
            Some(_) => Ok(()),
            None => {
                self.tables.insert(epoch, holders);
                Ok(())
            }
        }
    }

    /// Who may have which group open, by the newest table that anybody has.
    #[must_use]
    pub fn newest_table(&self) -> Option<&BTreeMap<GroupId, BTreeSet<NodeId>>> {
        self.tables.values().next_back()
    }

    /// Looks at what a node sends.
    ///
    /// # Errors
    /// What does not hold.
    pub fn sent(&mut self, from: NodeId, to: NodeId, said: &Said) -> Result<(), Violation> {
        for (group, message) in &said.0 {
            let is_closed = self.has_closed(from, *group);
            let invariants = self.of_mut(*group);
            invariants.said(from, to, message)?;
            if is_closed {
                invariants.excuse(from);
            }
        }
        Ok(())
    }

    /// Whether a node has closed a group: it need not have kept anything of it.
    #[must_use]
    pub fn has_closed(&self, node: NodeId, group: GroupId) -> bool {
        self.closed.contains(&(node, group))
    }

    /// Looks at what a node gives to its disk, to be sent once a write has ended.
    ///
    /// # Errors
    /// If it votes in there as it may not any more.
    pub fn gives_away(&mut self, from: NodeId, to: NodeId, said: &Said) -> Result<(), Violation> {
        for (group, message) in &said.0 {
            self.of_mut(*group).gives_away(from, to, message)?;
        }
        Ok(())
    }
}

/// A node sends what nobody can read.
///
/// # Errors
/// Always.
pub fn unreadable(from: NodeId) -> Result<(), Violation> {
    violated("wire", format!("{from} sends what cannot be decoded"))
}
