//! What must hold after every step, whatever goes wrong. One file each, named after its source.
//!
//! - `elections`: one leader per epoch, with the votes of a quorum; a vote is given once, across
//!   restarts (Raft thesis, figure 3.2, *Election Safety*).
//! - `log_matching`: an entry of one slot and epoch has one content and one predecessor
//!   (*Log Matching*).
//! - `chosen`: one chosen entry per slot; recounted from raw acknowledgements
//!   (*State Machine Safety*; openraft#1802).
//! - `completeness`: a leader has every chosen entry, across snapshots, and never shortens its log
//!   (*Leader Completeness*, *Leader Append-Only*).
//! - `durability`: what a node acknowledged is there after a restart (yugabyte#32875), and on its
//!   disk at the moment it says so; a log is let go only where it is.
//! - `recovery`: checkpoint and log join, whatever a restart finds (etcd#13766).
//! - `agreement`: state digest and membership are equal at equal slots (openraft#1808).
//! - `levels`: a level is raised once all members know it, and executed by nobody who does not.
//! - `leases`: none ends early, none comes back, all end (etcd#15247).
//! - `revisions`: what clients were told fits one order of revisions; each command took effect at
//!   most once (etcd's API guarantees).
//! - `refusals`: a node refuses to run only for a reason that the run gave it.
//!
//! Both engines are held to all of them; what each is called in Paxos stands in its file.
//! `ballots` writes down what Paxos replicas tell each other, `paxos` reads their frames.
//!
//! They look from outside: at frames, answers, and at a node's engine and replica between two
//! passes. What did not change is not looked at again, so that the checks cost little.

pub mod agreement;
pub mod ballots;
pub mod chosen;
pub mod completeness;
pub mod durability;
pub mod elections;
pub mod leases;
pub mod levels;
pub mod log_matching;
mod paxos;
pub mod recovery;
pub mod refusals;
pub mod revisions;

use std::collections::BTreeSet;

use base::{Epoch, Instant, NodeId, Slot};
use bytes::Bytes;
use consensus::message::{Body, FollowerState, PaxosBody};
use consensus::{EngineKind, Glance, Message, Role, Slots};
use journal::disk::RequestId;
use node::Node;
use node::group::META;
use node::wire::Frame;

use crate::marks::Mark;

/// Something that must never be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// What was seen.
    pub text: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.invariant, self.text)
    }
}

/// Says that an invariant does not hold.
pub(crate) fn violated(invariant: &'static str, text: impl Into<String>) -> Result<(), Violation> {
    let text = text.into();
    Err(Violation { invariant, text })
}

/// What was last seen of a running node.
#[derive(Clone, Copy, Debug)]
struct Seen {
    node: NodeId,
    glance: Glance,
    applied: Slot,
}

/// What a disk has acknowledged for its node: true on the disk, and to be seen in the node once it
/// has been told that the request has ended.
#[derive(Clone, Copy, Debug)]
struct Owed {
    node: NodeId,
    epoch: Epoch,
    upto: Slot,
    request: RequestId,
    is_told: bool,
}

/// All invariants and what they remember.
#[derive(Debug, Default)]
pub struct Invariants {
    seen: Vec<Option<Seen>>,
    elections: elections::Elections,
    log: log_matching::LogMatching,
    chosen: chosen::Chosen,
    durability: durability::Durability,
    /// Digests and memberships.
    pub agreement: agreement::Agreement,
    levels: levels::Levels,
    ballots: ballots::Ballots,
    /// Leases, from inside.
    pub leases: leases::Leases,
    /// What clients saw.
    pub revisions: revisions::Revisions,
    /// How many checks were made.
    pub checks: u64,
    /// Rare situations that frames have shown.
    pub reached: Vec<Mark>,
    /// What is sent now leaves from a disk, after this request, before its node has heard of that.
    disk_speaks: Option<RequestId>,
    /// What has been acknowledged like that.
    owed: Vec<Owed>,
}

impl Invariants {
    /// For so many hosts.
    #[must_use]
    pub fn new(hosts: usize) -> Invariants {
        Invariants {
            seen: vec![None; hosts],
            ..Invariants::default()
        }
    }

    /// What is known to be chosen.
    #[must_use]
    pub fn chosen(&self) -> &chosen::Chosen {
        &self.chosen
    }

    /// The node on this host is gone; the next one there starts anew.
    pub fn stopped(&mut self, host: usize) {
        if let Some(seen) = self.seen[host].take() {
            self.owed.retain(|owed| owed.node != seen.node);
        }
    }

    /// Whether what is sent from now on leaves from a disk, and after which request.
    pub fn disk_speaks(&mut self, after: Option<RequestId>) {
        self.disk_speaks = after;
    }

    /// A node hears that a request has ended.
    pub fn told(&mut self, node: NodeId, request: RequestId) {
        let is_meant = |owed: &&mut Owed| owed.node == node && owed.request == request;
        let meant = self.owed.iter_mut().filter(is_meant);
        meant.for_each(|owed| owed.is_told = true);
    }

    /// Whether a node that has been told knows to be durable what its disk has acknowledged for it.
    fn settle(&mut self, own: NodeId, epoch: Epoch, durable: Slot) -> Result<(), Violation> {
        let is_due = |owed: &Owed| owed.node == own && owed.is_told;
        if !self.owed.iter().any(is_due) {
            return Ok(());
        }
        self.checks += 1;
        let broken = self
            .owed
            .iter()
            .find(|owed| is_due(owed) && durable < owed.upto && epoch == owed.epoch);
        if let Some(owed) = broken {
            return acknowledged_early(own, owed.upto, durable);
        }
        self.owed.retain(|owed| !is_due(owed));
        Ok(())
    }

    /// A node has acknowledged everything up to a slot in an epoch; `durable` is what it knows to
    /// be durable, if that can be seen. If its disk has spoken for it, the node need not know yet.
    fn vouch(
        &mut self,
        (node, epoch, upto): (NodeId, Epoch, Slot),
        durable: Option<Slot>,
    ) -> Result<(), Violation> {
        match (self.disk_speaks, durable) {
            (Some(request), _) => self.owed.push(Owed {
                node,
                epoch,
                upto,
                request,
                is_told: false,
            }),
            (None, Some(durable)) if durable < upto => {
                return acknowledged_early(node, upto, durable);
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// What this node had on its disk may be gone, with the atlas' leave.
    pub fn excuse(&mut self, node: NodeId) {
        self.durability.excuse(node);
        self.ballots.excuse(node);
    }

    /// A leader's own acceptance that was needed for what it chose last, to be held against its
    /// disk.
    pub fn take_own_vote(&mut self) -> Option<durability::Promise> {
        let (own, ballot, slot) = self.chosen.own_vote.take()?;
        let accepted = Slots::up_to(slot);
        Some(durability::Promise::Accepts(ballot, own, accepted))
    }

    /// An acceptor says what it has accepted under a ballot: that must stand on its disk.
    ///
    /// # Errors
    /// What is missing.
    pub fn accepts_on_disk(
        &self,
        node: NodeId,
        accepted: (Epoch, &Slots),
        disk: &impl durability::OnDisk,
    ) -> Result<(), Violation> {
        durability::accepts_on_disk(node, accepted, disk, &self.chosen)
    }

    /// What a node has accepted must stand on the disk from which it starts.
    ///
    /// # Errors
    /// What is missing.
    pub fn starts_from(
        &mut self,
        node: NodeId,
        disk: &impl durability::OnDisk,
    ) -> Result<(), Violation> {
        for (ballot, slots) in self.ballots.owed(node) {
            self.checks += 1;
            durability::accepts_on_disk(node, (ballot, slots), disk, &self.chosen)?;
        }
        Ok(())
    }

    /// Looks at a node after a pass.
    ///
    /// # Errors
    /// What does not hold.
    pub fn after_pass(&mut self, now: Instant, host: usize, node: &Node) -> Result<(), Violation> {
        let Some(running) = node.running() else {
            // It has halted in this pass: nothing more can be seen of it. What it led may have been
            // chosen in this pass, by its own log too, and it has told others so.
            if let Some(Seen { node, glance, .. }) = self.seen[host]
                && glance.role == Role::Leader
            {
                self.chosen.acknowledged(node, glance.epoch, glance.last);
            }
            self.stopped(host);
            return Ok(());
        };
        self.elections.passed(running.id());
        let raft = running.engine();
        let glance = raft.glance();
        let applied = running.replica().applied();
        // A Paxos acceptor may write once more what it knows to be chosen.
        let durable = match raft.kind() {
            EngineKind::Raft => glance.durable,
            EngineKind::Paxos => glance.durable.max(glance.chosen),
        };
        self.settle(running.id(), glance.epoch, durable)?;
        let before = self.seen[host];
        if let Some(seen) = before
            && seen.glance == glance
            && seen.applied == applied
        {
            return Ok(());
        }
        let own = running.id();
        let seen = Seen {
            node: own,
            glance,
            applied,
        };
        self.seen[host] = Some(seen);
        self.checks += 1;
        if before.is_none() {
            self.levels.runs(own, running.replica().level_max());
            recovery::recovered(own, raft, running.replica(), &self.chosen)?;
            self.durability.restarted(own, raft, &self.chosen)?;
            self.elections.restarted(own, &glance)?;
        }
        if glance.role == Role::Leader {
            let (epoch, membership) = (glance.epoch, raft.membership_in_force().1);
            let is_paxos = raft.kind() == EngineKind::Paxos;
            let ballots = &self.ballots;
            let is_elected = |given: &BTreeSet<NodeId>| match is_paxos {
                true => ballots.is_prepared(epoch, own, membership),
                false => membership.is_quorum(|voter| given.contains(&voter)),
            };
            let is_new = self.elections.leads(own, epoch, is_elected, membership)?;
            if is_new && !is_paxos {
                completeness::leads(own, raft, &self.chosen)?;
            }
        }
        if let Some(before) = before {
            completeness::append_only(own, &before.glance, &glance)?;
        }
        let from = before.map_or(Slot(0), |before| before.glance.chosen);
        let was = before.map_or(glance.epoch, |before| before.glance.epoch);
        let raw = (was, &self.ballots, &self.elections);
        self.chosen.advanced(own, raft, from, raw)?;
        if before.is_none_or(|before| before.applied != applied) {
            self.agreement.executed(own, running.replica())?;
            agreement::in_force(own, raft, running.replica())?;
            self.levels.executed(own, running.replica())?;
            self.leases.executed(now, own, running.replica().reader())?;
        }
        Ok(())
    }

    /// Looks at a frame that a node sends.
    ///
    /// # Errors
    /// What does not hold.
    pub fn sent(&mut self, from: NodeId, to: NodeId, frame: &Bytes) -> Result<(), Violation> {
        let Ok(frame) = Frame::decode(frame.clone()) else {
            return violated("wire", format!("{from} sends what cannot be decoded"));
        };
        for message in of_engine(frame) {
            self.said(from, to, message)?;
        }
        Ok(())
    }

    fn said(&mut self, from: NodeId, to: NodeId, message: Message) -> Result<(), Violation> {
        let Message { epoch, body } = message;
        match body {
            Body::Vote { .. } => {
                self.checks += 1;
                self.elections.votes(from, epoch, from)
            }
            Body::VoteReply { granted: true } => {
                self.checks += 1;
                self.votes(from, epoch, to)
            }
            Body::Append {
                previous, entries, ..
            } if !entries.is_empty() => {
                self.checks += 1;
                self.log.sent(from, previous.epoch, &entries)
            }
            Body::AppendReply {
                matched,
                state: FollowerState::Matching | FollowerState::Rejecting { .. },
                ..
            } => self.acknowledged(from, epoch, matched),
            Body::Paxos(body) => self.sent_by_paxos(from, to, epoch, body),
            _ => Ok(()),
        }
    }

    /// A node votes; if its disk tells so, that was judged before ([`Invariants::gives_away`]).
    fn votes(&mut self, from: NodeId, epoch: Epoch, to: NodeId) -> Result<(), Violation> {
        match self.disk_speaks {
            None => self.elections.votes(from, epoch, to),
            Some(_) => {
                self.elections.told(from, epoch, to);
                Ok(())
            }
        }
    }

    /// Looks at a frame that a node gives to its disk, to be sent once a write has ended.
    ///
    /// # Errors
    /// If it votes in there as it may not any more.
    pub fn gives_away(&mut self, from: NodeId, to: NodeId, frame: &Bytes) -> Result<(), Violation> {
        let messages = Frame::decode(frame.clone()).map_or_else(|_| Vec::new(), of_engine);
        for Message { epoch, body } in messages {
            let is_vote = match body {
                Body::VoteReply { granted } => granted,
                Body::Paxos(PaxosBody::Promise { granted, .. }) => granted,
                Body::Paxos(PaxosBody::AcceptReply {
                    durable, uncertain, ..
                }) => uncertain.is_none() && durable != Slots::default(),
                _ => false,
            };
            if is_vote {
                self.checks += 1;
                self.elections.may_vote(from, epoch, to)?;
            }
        }
        Ok(())
    }

    /// What a frame promises that must be on its sender's disk.
    pub fn promises(&mut self, to: NodeId, frame: &Bytes) -> Vec<durability::Promise> {
        let messages = Frame::decode(frame.clone()).map_or_else(|_| Vec::new(), of_engine);
        let promises = messages.into_iter().filter_map(|each| promise(to, each));
        promises.collect()
    }

    fn acknowledged(&mut self, from: NodeId, epoch: Epoch, matched: Slot) -> Result<(), Violation> {
        if self.chosen.acknowledged(from, epoch, matched) {
            self.checks += 1;
            self.durability.acknowledged(from, epoch, matched);
            let seen = self.seen.iter().flatten().find(|seen| seen.node == from);
            let glance = seen.map(|seen| seen.glance);
            let durable = glance.filter(|glance| glance.epoch == epoch);
            let durable = durable.map(|glance| glance.durable);
            return self.vouch((from, epoch, matched), durable);
        }
        Ok(())
    }
}

/// What the engines of the first group say in a frame.
fn of_engine(frame: Frame) -> Vec<Message> {
    let Frame::Engine(messages) = frame else {
        return Vec::new();
    };
    let of_first = messages.into_iter().filter(|(group, _)| *group == META);
    of_first.map(|(_, message)| message).collect()
}

/// What a message promises that must be on its sender's disk.
fn promise(to: NodeId, message: Message) -> Option<durability::Promise> {
    let Message { epoch, body } = message;
    match body {
        Body::VoteReply { granted: true } => Some(durability::Promise::Votes(epoch, to)),
        Body::AppendReply { matched, .. } if matched > Slot(0) => {
            Some(durability::Promise::Holds(epoch, matched))
        }
        Body::Paxos(PaxosBody::Promise { granted: true, .. }) => {
            Some(durability::Promise::Votes(epoch, to))
        }
        Body::Paxos(PaxosBody::AcceptReply {
            durable,
            uncertain: None,
            ..
        }) if durable != Slots::default() => Some(durability::Promise::Accepts(epoch, to, durable)),
        _ => None,
    }
}

fn acknowledged_early(from: NodeId, matched: Slot, durable: Slot) -> Result<(), Violation> {
    violated(
        "nothing is acknowledged before it is durable",
        format!("{from} acknowledges slot {matched}, but only {durable} is durable there"),
    )
}
