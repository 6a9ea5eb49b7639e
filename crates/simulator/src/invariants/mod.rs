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
//! - `leases`: none ends early, none comes back, all end (etcd#15247).
//! - `revisions`: what clients were told fits one order of revisions; each command took effect at
//!   most once (etcd's API guarantees).
//! - `refusals`: a node refuses to run only for a reason that the run gave it.
//!
//! They look from outside: at frames, answers, and at a node's engine and replica between two
//! passes. What did not change is not looked at again, so that the checks cost little.

pub mod agreement;
pub mod chosen;
pub mod completeness;
pub mod durability;
pub mod elections;
pub mod leases;
pub mod log_matching;
pub mod recovery;
pub mod refusals;
pub mod revisions;

use base::{Epoch, Instant, NodeId, Slot};
use bytes::Bytes;
use consensus::message::{Body, FollowerState};
use consensus::{Glance, Message, Role};
use node::Node;

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

/// All invariants and what they remember.
#[derive(Debug, Default)]
pub struct Invariants {
    seen: Vec<Option<Seen>>,
    elections: elections::Elections,
    log: log_matching::LogMatching,
    chosen: chosen::Chosen,
    durability: durability::Durability,
    agreement: agreement::Agreement,
    /// Leases, from inside.
    pub leases: leases::Leases,
    /// What clients saw.
    pub revisions: revisions::Revisions,
    /// How many checks were made.
    pub checks: u64,
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
        self.seen[host] = None;
    }

    /// What this node had on its disk may be gone, with the atlas' leave.
    pub fn excuse(&mut self, node: NodeId) {
        self.durability.excuse(node);
    }

    /// Looks at a node after a pass.
    ///
    /// # Errors
    /// What does not hold.
    pub fn after_pass(&mut self, now: Instant, host: usize, node: &Node) -> Result<(), Violation> {
        let Some(running) = node.running() else {
            // It has halted in this pass: nothing more can be seen of it.
            self.seen[host] = None;
            return Ok(());
        };
        let raft = running.engine();
        let glance = raft.glance();
        let applied = running.replica().applied();
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
            recovery::recovered(own, raft, running.replica(), &self.chosen)?;
            self.durability.restarted(own, raft, &self.chosen)?;
            self.elections.restarted(own, &glance)?;
        }
        if glance.role == Role::Leader {
            let is_new = self
                .elections
                .leads(own, glance.epoch, raft.membership_in_force().1)?;
            if is_new {
                completeness::leads(own, raft, &self.chosen)?;
            }
        }
        if let Some(before) = before {
            completeness::append_only(own, &before.glance, &glance)?;
        }
        let from = before.map_or(Slot(0), |before| before.glance.chosen);
        self.chosen.advanced(own, raft, from)?;
        if before.is_none_or(|before| before.applied != applied) {
            self.agreement.executed(own, running.replica())?;
            agreement::in_force(own, raft, running.replica())?;
            self.leases.executed(now, own, running.replica().reader())?;
        }
        Ok(())
    }

    /// Looks at a frame that a node sends.
    ///
    /// # Errors
    /// What does not hold.
    pub fn sent(&mut self, from: NodeId, to: NodeId, frame: &Bytes) -> Result<(), Violation> {
        const ENGINE: u8 = 8;
        if frame.first() != Some(&ENGINE) {
            return Ok(());
        }
        let Ok(message) = Message::decode(frame.slice(1..)) else {
            return violated("wire", format!("{from} sends what cannot be decoded"));
        };
        let Message { epoch, body } = message;
        match body {
            Body::Vote { .. } => {
                self.checks += 1;
                self.elections.votes(from, epoch, from)
            }
            Body::VoteReply { granted: true } => {
                self.checks += 1;
                self.elections.votes(from, epoch, to)
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
            _ => Ok(()),
        }
    }

    /// What a frame promises that must be on its sender's disk.
    pub fn promise(&mut self, to: NodeId, frame: &Bytes) -> Option<durability::Promise> {
        const ENGINE: u8 = 8;
        if frame.first() != Some(&ENGINE) {
            return None;
        }
        let Message { epoch, body } = Message::decode(frame.slice(1..)).ok()?;
        match body {
            Body::VoteReply { granted: true } => Some(durability::Promise::Votes(epoch, to)),
            Body::AppendReply { matched, .. } if matched > Slot(0) => {
                Some(durability::Promise::Holds(epoch, matched))
            }
            _ => None,
        }
    }

    fn acknowledged(&mut self, from: NodeId, epoch: Epoch, matched: Slot) -> Result<(), Violation> {
        if self.chosen.acknowledged(from, epoch, matched) {
            self.checks += 1;
            self.durability.acknowledged(from, epoch, matched);
            if let Some(seen) = self.seen.iter().flatten().find(|seen| seen.node == from)
                && seen.glance.durable < matched
                && seen.glance.epoch == epoch
            {
                return violated(
                    "nothing is acknowledged before it is durable",
                    format!(
                        "{from} acknowledges slot {matched}, but only {} is durable there",
                        seen.glance.durable
                    ),
                );
            }
        }
        Ok(())
    }
}
