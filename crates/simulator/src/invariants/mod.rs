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
//! - `numbering`: a command's number is given once, also where a keyspace comes back to a node.
//! - `leases`: none ends early, none comes back, all end (etcd#15247).
//! - `revisions`: what clients were told fits one order of revisions; each command took effect at
//!   most once (etcd's API guarantees).
//! - `refusals`: a node refuses to run only for a reason that the run gave it.
//!
//! `groups` holds each group of the cluster to all of them by itself.
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
pub mod groups;
pub mod leases;
pub mod levels;
pub mod log_matching;
pub mod numbering;
mod paxos;
pub mod recovery;
pub mod refusals;
pub mod revisions;
pub mod witnessing;

use std::collections::BTreeSet;

use base::{Epoch, Instant, NodeId, Slot};
use consensus::message::{Body, FollowerState, PaxosBody};
use consensus::{AnyEngine, EngineKind, Glance, Membership, Message, Role, Slots};
use journal::disk::RequestId;
use node::group::Group;

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

/// Who belongs to a group, as somebody has it in force who knows most.
#[derive(Clone, Debug)]
pub struct Members {
    /// How they agree.
    pub engine: EngineKind,
    /// The slot that the membership stands at.
    since: Slot,
    /// Who they are.
    pub membership: Membership,
}

/// All invariants of one group and what they remember.
#[derive(Debug, Default)]
pub struct Invariants {
    seen: Vec<Option<Seen>>,
    members: Option<Members>,
    /// Nodes that ended in the middle of a pass: what they say last nobody could look at.
    ended: BTreeSet<NodeId>,
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

    /// How the members agree, and who they are; `None` before anybody ran.
    #[must_use]
    pub fn members(&self) -> Option<&Members> {
        self.members.as_ref()
    }

    /// A node has let go of this group, which goes on elsewhere: nobody counts on it there.
    ///
    /// # Errors
    /// If the newest membership that is known gives it a vote.
    pub fn counts_no_more(&self, node: NodeId) -> Result<(), Violation> {
        let members = self.members.as_ref();
        match members.is_some_and(|members| members.membership.voters.contains(&node)) {
            false => Ok(()),
            true => violated(
                "nobody lets go of a keyspace that counts on it",
                format!("{node} votes in {members:?}, and has deleted what it held"),
            ),
        }
    }

    /// Whether this group was running on a host when it was last looked at.
    #[must_use]
    pub fn is_seen(&self, host: usize) -> bool {
        self.seen[host].is_some()
    }

    /// Whether this group had executed everything up to here on a host when it was last looked at,
    /// and runs there ever since.
    fn has_seen(&self, host: usize, applied: Slot) -> bool {
        self.seen[host].is_some_and(|seen| seen.applied == applied)
    }

    /// The group has ended on this host in the pass that was just done: nothing more can be seen of
    /// it there. What it led may have been chosen in this pass, by its own log too, and it has told
    /// others so.
    pub fn halted(&mut self, host: usize) {
        let Some(Seen { node, glance, .. }) = self.seen[host] else {
            return;
        };
        if glance.role == Role::Leader {
            self.chosen.acknowledged(node, glance.epoch, glance.last);
            let proposed = Slots::up_to(glance.last);
            self.ballots.credit(node, glance.epoch, &proposed);
        }
        self.ended.insert(node);
        self.stopped(host);
    }

    /// The node on this host is gone; the next one there starts anew.
    pub fn stopped(&mut self, host: usize) {
        if let Some(seen) = self.seen[host].take() {
            self.owed.retain(|owed| owed.node != seen.node);
        }
    }

    /// A node has the group again that it had closed: what its disk said for the earlier replica is
    /// nothing that this one has to know.
    pub fn opens_anew(&mut self, node: NodeId) {
        self.owed.retain(|owed| owed.node != node);
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

    /// Looks at the group on a node after a pass.
    ///
    /// # Errors
    /// What does not hold.
    pub fn after_pass(
        &mut self,
        now: Instant,
        host: usize,
        running: &Group,
    ) -> Result<(), Violation> {
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
        self.learn_members(raft);
        if before.is_none() {
            self.ended.remove(&own);
            self.levels.runs(own, running.replica().level_max());
            recovery::recovered(own, raft, running.replica(), &self.chosen)?;
            self.durability.restarted(own, raft, &self.chosen)?;
            self.elections.restarted(own, &glance)?;
        }
        if glance.role == Role::Leader {
            witnessing::may_lead(running)?;
            let (epoch, membership) = (glance.epoch, raft.membership_in_force().1);
            let is_paxos = raft.kind() == EngineKind::Paxos;
            let ballots = &self.ballots;
            let is_elected = |given: &BTreeSet<NodeId>| match is_paxos {
                true => ballots.is_prepared(epoch, own, membership),
                false => membership.elects(|voter| given.contains(&voter)),
            };
            let is_new = self.elections.leads(own, epoch, is_elected, membership)?;
            if is_new && !is_paxos {
                completeness::leads(own, raft, &self.chosen)?;
            }
        }
        if let Some(before) = before {
            completeness::append_only(own, &before.glance, &glance)?;
            self.snapshot_keeps_votes(own, raft, &before.glance)?;
        }
        let from = before.map_or(Slot(0), |before| before.glance.chosen);
        let was = before.map_or(glance.epoch, |before| before.glance.epoch);
        let raw = (was, &self.ballots, &self.elections);
        self.chosen.advanced(own, raft, from, raw)?;
        if before.is_none_or(|before| before.applied != applied) {
            self.agreement.in_force(own, raft, running.replica())?;
            if running.is_witness() {
                self.reached.push(Mark::HeaderPassed);
                return witnessing::holds_nothing(running);
            }
            self.agreement.executed(own, running.replica())?;
            self.levels.executed(own, running.replica())?;
            self.leases.executed(now, own, running.replica().reader())?;
        }
        Ok(())
    }

    fn learn_members(&mut self, engine: &AnyEngine) {
        let (since, membership) = engine.membership_in_force();
        if self
            .members
            .as_ref()
            .is_none_or(|known| known.since < since)
        {
            self.members = Some(Members {
                engine: engine.kind(),
                since,
                membership: membership.clone(),
            });
        }
    }

    /// Paxos: a snapshot that took the place of a log has left what was accepted behind it.
    fn snapshot_keeps_votes(
        &mut self,
        own: NodeId,
        engine: &AnyEngine,
        before: &Glance,
    ) -> Result<(), Violation> {
        // A log that begins behind what was known to be chosen came with a snapshot.
        if engine.kind() != EngineKind::Paxos || engine.glance().start <= before.chosen {
            return Ok(());
        }
        self.checks += 1;
        if durability::keeps_accepted(own, engine, &self.ballots)? {
            self.reached.push(Mark::SnapshotUnderAccepted);
        }
        Ok(())
    }

    fn said(&mut self, from: NodeId, to: NodeId, message: &Message) -> Result<(), Violation> {
        let Message { epoch, body } = message;
        match body {
            Body::Vote { .. } => {
                self.checks += 1;
                self.elections.votes(from, *epoch, from)
            }
            Body::VoteReply { granted: true } => {
                self.checks += 1;
                self.votes(from, *epoch, to)
            }
            Body::Append {
                previous, entries, ..
            } if !entries.is_empty() => {
                self.checks += 1;
                self.log.sent(from, previous.epoch, entries)
            }
            Body::AppendReply {
                matched,
                state: FollowerState::Matching | FollowerState::Rejecting { .. },
                ..
            } => self.acknowledged(from, *epoch, *matched),
            Body::Paxos(body) => self.sent_by_paxos(from, to, *epoch, body),
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

    /// Looks at what a node gives to its disk, to be said once a write has ended.
    ///
    /// # Errors
    /// If it votes in there as it may not any more.
    fn gives_away(&mut self, from: NodeId, to: NodeId, message: &Message) -> Result<(), Violation> {
        let is_vote = match &message.body {
            Body::VoteReply { granted } => *granted,
            Body::Paxos(PaxosBody::Promise { granted, .. }) => *granted,
            Body::Paxos(PaxosBody::AcceptReply {
                durable, uncertain, ..
            }) => uncertain.is_none() && *durable != Slots::default(),
            _ => false,
        };
        if is_vote {
            self.checks += 1;
            self.elections.may_vote(from, message.epoch, to)?;
        }
        Ok(())
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

/// What a message promises that must be on its sender's disk.
fn promise(to: NodeId, message: &Message) -> Option<durability::Promise> {
    let epoch = message.epoch;
    match &message.body {
        Body::VoteReply { granted: true } => Some(durability::Promise::Votes(epoch, to)),
        Body::AppendReply { matched, .. } if *matched > Slot(0) => {
            Some(durability::Promise::Holds(epoch, *matched))
        }
        Body::Paxos(PaxosBody::Promise { granted: true, .. }) => {
            Some(durability::Promise::Votes(epoch, to))
        }
        Body::Paxos(PaxosBody::AcceptReply {
            durable,
            uncertain: None,
            ..
        }) if *durable != Slots::default() => {
            Some(durability::Promise::Accepts(epoch, to, durable.clone()))
        }
        _ => None,
    }
}

fn acknowledged_early(from: NodeId, matched: Slot, durable: Slot) -> Result<(), Violation> {
    violated(
        "nothing is acknowledged before it is durable",
        format!("{from} acknowledges slot {matched}, but only {durable} is durable there"),
    )
}
