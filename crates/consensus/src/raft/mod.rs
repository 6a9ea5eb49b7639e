//! The Raft engine.
//!
//! Diego Ongaro's thesis ("Consensus: Bridging Theory and Practice", 2014) is the base: elections
//! (chapter 3), joint membership changes (4.3), read rounds (6.4), pre-vote (9.6), leadership
//! transfer (3.10), writing to the leader's disk in parallel (10.2.1). What is added comes from
//! failures of others; `docs/internals/consensus.md` tells which.
//!
//! ```text
//!                     nothing heard            a quorum would            a quorum did
//!   ┌──────────┐  ───────────────▶ ┌────────────┐ ────────▶ ┌─────────┐ ────────▶ ┌──────┐
//!   │ Follower │                   │PreCandidate│           │Candidate│           │Leader│
//!   └──────────┘ ◀──────────────── └────────────┘ ◀──────── └─────────┘           └──────┘
//!        ▲    a leader, or no quorum               time out                          │
//!        └───────────────────────────────────────────────────────────────────────────┘
//!          a higher epoch; no quorum heard; own disk hangs; removed
//! ```
//!
//! One file per idea:
//! - `election.rs`: who leads; `pulling.rs`: with a log that was too old; `transfer.rs`: handing
//!   over;
//! - `replication.rs` with `progress.rs`: the leader's side of the log; `following.rs`: the
//!   follower's; `log.rs`: the log itself, `cache.rs`: what of it is in memory;
//! - `reads.rs`, `reconfiguration.rs`, `recovery.rs` (going on alone), `installation.rs`
//!   (snapshots);
//! - `pass.rs`: how a pass ends: one write, one message per peer, what is chosen.
//!
//! Inputs change the state; nearly everything that leaves the engine leaves it in
//! [`Engine::flush`], so that whatever arrived together shares its costs.

mod cache;
mod election;
mod following;
mod inspection;
mod installation;
mod log;
mod pass;
mod progress;
mod pulling;
mod reads;
mod reconfiguration;
mod recovery;
mod replication;
mod resting;
mod restored;
mod transfer;

use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{Epoch, Instant, NodeId, Random, Slot};

pub use inspection::Glance;
pub use restored::{Config, Restored, Tail};

use crate::delivery::Delivery;
use crate::engine::{
    self, CheckpointRef, Engine, Input, Liveness, Note, Output, Outputs, Role, Ticket, View, say,
};
use crate::entry::Payload;
use crate::handover::{HandingOver, Handover};
use crate::hard_state::HardState;
use crate::health::Health;
use crate::journaling::Journaling;
use crate::kind::EngineKind;
use crate::membership::Membership;
use crate::message::{Body, FollowerState, Message};
use crate::peers::Peers;
use crate::reading::Reading;
use crate::reads::{Forwards, ReadRounds};
use crate::rest::Rest;
use crate::snapshot::Receiver;
use crate::speaking::Speaking;
use election::Election;
use following::Following;
use log::Log;
use progress::{Peer, State};

/// Epochs grow by one per election, and nobody misses this many: a message further ahead is damaged
/// or hostile, and must not use up the numbers that elections need.
const EPOCH_LEAP_MAX: u64 = 1 << 40;

/// A replica of a group that agrees by Raft.
#[derive(Clone, Debug)]
pub struct Raft {
    config: Config,
    random: Random,
    epoch: Epoch,
    vote: Option<NodeId>,
    /// The log's tail is uncertain: the session in which a leader is to verify it.
    uncertain: Option<u64>,
    /// The promises above are not handed to the journal yet.
    hard_state_changed: bool,
    /// What the journal was last told is chosen.
    chosen_written: Slot,
    role: Role,
    leader: Option<NodeId>,
    log: Log,
    journaling: Journaling,
    chosen: Slot,
    delivery: Delivery,
    fetches: Fetches,
    election: Election,
    following: Following,
    /// Present exactly while this replica leads.
    leading: Option<Box<Leading>>,
    receiver: Option<Receiver>,
    checkpoint: Option<CheckpointRef>,
    forwards: Forwards,
    handover: Option<Handover>,
    health: Health,
    /// An operator gave up the others: who asked, and the slot of the membership without them.
    recovery: Option<(Ticket, Slot)>,
    outbox: Vec<Letter>,
    /// Something happened that the end of a pass has to look at.
    is_stirred: bool,
    told: Told,
}

/// What only a leader keeps.
#[derive(Clone, Debug)]
struct Leading {
    peers: Peers<Peer>,
    /// The first entry of this leadership. Once it is chosen, everything before it is.
    first: Slot,
    /// The last session given to a peer.
    session: u64,
    /// The last heartbeat or read round.
    round: u64,
    heartbeat_at: Instant,
    reads: ReadRounds,
    /// Bytes of the entries that are not chosen yet.
    unchosen_bytes: u64,
    /// The membership change under way: who asked, and the slot of its first entry.
    change: Option<(Ticket, Slot)>,
    since: Instant,
}

/// Entries asked for from the journal.
#[derive(Clone, Debug, Default)]
struct Fetches {
    outstanding: Vec<Slot>,
    /// The replica waits for entries from this slot on.
    delivery: Option<Slot>,
    /// The journal had nothing: do not ask again before this.
    retry_at: Option<Instant>,
}

/// A message that leaves at the end of the pass.
#[derive(Clone, Debug)]
struct Letter {
    to: NodeId,
    message: Message,
    /// Not before everything that this pass writes is durable.
    when_durable: bool,
}

/// What the host was last told, so that it is told only what is new.
#[derive(Clone, Debug, Default)]
struct Told {
    leadership: Option<(Epoch, Option<NodeId>)>,
    membership: Option<std::sync::Arc<Membership>>,
}

impl Raft {
    /// A replica with what it remembers. `seed` must differ from incarnation to incarnation.
    ///
    /// # Panics
    /// If `restored` contradicts itself: the host has verified what it read from the disk.
    #[must_use]
    pub fn new(config: Config, restored: Restored, seed: u64, now: Instant) -> Raft {
        assert!(
            config.heartbeat_interval > Duration::ZERO,
            "heartbeats take time"
        );
        assert!(
            config.heartbeat_interval < config.election_timeout,
            "an election timeout is longer than a heartbeat interval"
        );
        let hard_state = restored.hard_state;
        let damaged = restored.tail == Tail::Uncertain;
        let applied = restored
            .checkpoint
            .map_or(Slot(0), |checkpoint| checkpoint.slot);
        assert!(
            restored.applied == applied,
            "a replica starts from its checkpoint"
        );
        let checkpoint = restored.checkpoint;
        let log = Log::restore(restored);
        let epoch = hard_state.epoch.max(log.end().epoch);
        let mut random = Random::from_seed(seed);
        // Leaders count their sessions from 1 on: with the highest bit set it is none of theirs.
        let doubt = random.next_u64() | 1 << 63;
        let mut raft = Raft {
            random,
            epoch,
            vote: hard_state
                .vote
                .filter(|_| epoch == hard_state.epoch && !mutant::is_on(Mutant::ForgetVote)),
            uncertain: (damaged || hard_state.uncertain).then_some(doubt),
            // The journal must remember that the tail is uncertain before it is repaired.
            hard_state_changed: damaged && !hard_state.uncertain,
            chosen_written: hard_state.chosen,
            role: Role::Follower,
            leader: None,
            journaling: Journaling::default(),
            chosen: hard_state.chosen.min(log.last()).max(applied),
            delivery: Delivery::new(applied, config.limits.delivery_bytes),
            fetches: Fetches::default(),
            election: Election::new(now),
            following: Following::default(),
            leading: None,
            receiver: None,
            checkpoint,
            forwards: Forwards::default(),
            handover: None,
            health: Health::default(),
            recovery: None,
            outbox: Vec::new(),
            is_stirred: true,
            told: Told::default(),
            log,
            config,
        };
        raft.election.deadline = now + raft.election_delay();
        if raft.is_electable() && raft.is_alone() {
            raft.election.deadline = now;
        }
        raft
    }

    /// The membership in force.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.log.membership().1
    }

    /// The promises as they stand, whether durable or not.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        HardState {
            epoch: self.epoch,
            vote: self.vote,
            chosen: self.chosen,
            uncertain: self.uncertain.is_some(),
            engine: EngineKind::Raft,
        }
    }

    /// A quorum by itself, for both purposes.
    fn is_alone(&self) -> bool {
        let own = |id| id == self.config.id;
        self.membership().elects(own) && self.membership().commits(own)
    }

    /// Whether this replica keeps headers instead of entries.
    fn is_witness(&self) -> bool {
        self.membership().is_witness(self.config.id)
    }

    fn limits(&self) -> &crate::limits::Limits {
        &self.config.limits
    }

    fn drop_message(&self, from: NodeId, reason: &'static str, out: &mut Outputs) {
        out.push(Output::Note(Note::MessageDropped { from, reason }));
    }

    fn on_message(&mut self, now: Instant, from: NodeId, message: Message, out: &mut Outputs) {
        let Message { epoch, body } = message;
        if epoch.0.saturating_sub(self.epoch.0) > EPOCH_LEAP_MAX {
            return self.drop_message(from, "an epoch far in the future", out);
        }
        if from == self.config.id {
            return self.drop_message(from, "a message from this replica itself", out);
        }
        self.election.heard(from);
        // Nearly everything that arrives, taken apart where it lies.
        let body = match body {
            Body::Append {
                session,
                round,
                previous,
                chosen,
                entries,
            } if epoch == self.epoch => {
                if self.hear_leader(now, from, out) {
                    self.on_append(from, session, round, previous, chosen, entries, out);
                }
                return;
            }
            Body::AppendReply {
                session,
                round,
                matched,
                received,
                state,
            } if epoch == self.epoch => {
                let reply = replication::Reply {
                    session,
                    round,
                    matched,
                    received,
                    state,
                };
                return self.on_append_reply(now, from, reply, out);
            }
            body => body,
        };
        match body {
            Body::PreVote {
                round,
                last,
                occasion,
            } => {
                self.on_pre_vote(now, from, epoch, round, last, occasion);
            }
            Body::PreVoteReply {
                round,
                granted,
                ahead,
            } => {
                self.on_pre_vote_reply(now, from, epoch, round, (granted, ahead), out);
            }
            Body::Pull { after } => self.on_pull(from, after),
            Body::Suffix { previous, entries } => {
                self.on_suffix(now, from, epoch, previous, entries, out);
            }
            Body::Vote { last, occasion } => self.on_vote(now, from, epoch, last, occasion, out),
            Body::Paxos(_) => self.drop_message(from, "a message of the other engine", out),
            Body::VoteReply { .. } if epoch < self.epoch && mutant::is_on(Mutant::StaleVote) => {
                self.on_current(now, from, body, out);
            }
            body if epoch < self.epoch => self.on_outdated(from, &body),
            body => {
                if epoch > self.epoch {
                    let leads = self.leading.is_some();
                    self.enter_epoch(now, epoch, "a higher epoch was seen", out);
                    if leads && is_unsure(&body) {
                        self.lead_again(now);
                    }
                }
                self.on_current(now, from, body, out);
            }
        }
    }

    /// A message of this replica's epoch that is not about an election to come.
    fn on_current(&mut self, now: Instant, from: NodeId, body: Body, out: &mut Outputs) {
        match body {
            Body::VoteReply { granted } => self.on_vote_reply(now, from, granted, out),
            Body::Append {
                session,
                round,
                previous,
                chosen,
                entries,
            } => {
                if self.hear_leader(now, from, out) {
                    self.on_append(from, session, round, previous, chosen, entries, out);
                }
            }
            Body::AppendReply {
                session,
                round,
                matched,
                received,
                state,
            } => {
                let reply = replication::Reply {
                    session,
                    round,
                    matched,
                    received,
                    state,
                };
                self.on_append_reply(now, from, reply, out);
            }
            Body::SnapshotOffer {
                session,
                checkpoint,
            } => {
                if self.hear_leader(now, from, out) {
                    self.on_snapshot_offer(from, session, checkpoint, out);
                }
            }
            Body::SnapshotPiece {
                session,
                checkpoint,
                offset,
                checksum,
                bytes,
            } => {
                if self.hear_leader(now, from, out) {
                    let piece = installation::Piece {
                        checkpoint,
                        offset,
                        checksum,
                        bytes,
                    };
                    self.on_snapshot_piece(from, session, piece, out);
                }
            }
            Body::SnapshotProgress {
                session,
                checkpoint,
                stored,
            } => {
                self.on_snapshot_progress(now, from, session, checkpoint, stored);
            }
            Body::ReadRound { id } => self.on_read_round(now, from, id),
            Body::ReadRoundReply { id, slot } => self.on_read_round_reply(from, id, slot, out),
            Body::Transfer => self.on_transfer_message(now, from, out),
            Body::PreVote { .. }
            | Body::PreVoteReply { .. }
            | Body::Vote { .. }
            | Body::Pull { .. }
            | Body::Suffix { .. }
            | Body::Paxos(_) => {
                unreachable!("these were handled before")
            }
        }
    }

    /// A message of an epoch that is over. A leader or reader is told so; answers are ignored.
    fn on_outdated(&mut self, from: NodeId, body: &Body) {
        match body {
            Body::Append { .. } | Body::SnapshotOffer { .. } | Body::SnapshotPiece { .. } => {
                self.tell_epoch(from);
            }
            Body::ReadRound { id } => {
                self.post(
                    from,
                    Body::ReadRoundReply {
                        id: *id,
                        slot: None,
                    },
                    false,
                );
            }
            _ => {}
        }
    }

    fn on_hint(&mut self, now: Instant, peer: NodeId, liveness: Liveness) {
        match liveness {
            Liveness::ConnectionClosed => self.on_connection_closed(now, peer),
            Liveness::Reachable => self.on_reachable(now, peer),
        }
        if let Some(leading) = &mut self.leading {
            leading.peers.hint(peer, liveness);
        }
    }

    fn on_propose(&mut self, ticket: Ticket, payload: Payload, out: &mut Outputs) {
        let limits = self.config.limits;
        let Some(leading) = &self.leading else {
            return self.refuse(ticket, engine::Refusal::NotLeader, out);
        };
        if self.handover.is_some() {
            return self.refuse(ticket, engine::Refusal::Transferring, out);
        }
        let unchosen = self.log.last().0 - self.chosen.0;
        if leading.unchosen_bytes >= limits.window_bytes || unchosen >= limits.window_entries {
            return self.refuse(ticket, engine::Refusal::WindowFull, out);
        }
        let slot = self.lead_entry(payload);
        let epoch = self.epoch;
        say(out, || Output::Proposed {
            ticket,
            slot,
            epoch,
        });
    }

    fn on_deadline(&mut self, now: Instant, out: &mut Outputs) {
        self.on_handover_deadline(now, out);
        self.on_read_deadline(now, out);
        if self.leading.is_some() {
            self.on_leader_deadline(now, out);
        } else {
            self.on_election_deadline(now, out);
        }
        if self
            .fetches
            .retry_at
            .is_some_and(|retry_at| retry_at <= now)
        {
            self.fetches.retry_at = None;
        }
    }
}

/// Whether a follower says that it is unsure of its log.
fn is_unsure(body: &Body) -> bool {
    let unsure = |state: &FollowerState| matches!(state, FollowerState::Uncertain { .. });
    matches!(body, Body::AppendReply { state, .. } if unsure(state))
}

impl Engine for Raft {
    fn step(&mut self, now: Instant, input: Input, out: &mut Outputs) {
        self.is_stirred |= !matches!(
            input,
            Input::Durable { .. } | Input::Applied { .. } | Input::Hush { .. }
        );
        match input {
            Input::Peer { from, message } => self.on_message(now, from, message, out),
            Input::Propose { ticket, commands } => {
                self.on_propose(ticket, Payload::commands(commands), out);
            }
            Input::ReadRound { ticket } => self.on_read(now, ticket, out),
            Input::Durable { mark } => self.on_durable(now, mark, out),
            Input::Fetched { from, entries } => self.on_fetched(now, from, entries, out),
            Input::Applied { slot } => {
                self.delivery.executed(slot);
                self.is_stirred |= self.delivery.delivered() < self.chosen;
            }
            Input::CheckpointTaken {
                checkpoint,
                log_kept_after,
            } => {
                self.on_checkpoint_taken(checkpoint, log_kept_after);
            }
            Input::Reconfigure { ticket, change } => {
                self.on_reconfigure(now, ticket, &change, out);
            }
            Input::Recover { ticket, learners } => self.on_recover(now, ticket, &learners, out),
            Input::Transfer { ticket, to } => self.on_transfer(now, ticket, to, out),
            Input::PieceRead {
                to,
                checkpoint,
                offset,
                bytes,
            } => {
                self.on_piece_read(now, to, checkpoint, offset, bytes, out);
            }
            Input::PieceStored { checkpoint, stored } => {
                self.on_piece_stored(checkpoint, stored, out);
            }
            Input::SnapshotInstalled {
                checkpoint,
                membership,
            } => {
                self.on_snapshot_installed(checkpoint, membership);
            }
            Input::SnapshotRejected { checkpoint } => self.on_snapshot_rejected(checkpoint),
            Input::Hint { peer, liveness } => self.on_hint(now, peer, liveness),
            Input::Deadline => self.on_deadline(now, out),
            Input::Woken { heard } => self.on_woken(now, heard),
            Input::Hush { until } => self.on_hush(until),
        }
    }

    fn flush(&mut self, now: Instant, out: &mut Outputs) {
        if std::mem::take(&mut self.is_stirred) {
            self.end_pass(now, out);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let timer = match &self.leading {
            Some(leading) => leading.heartbeat_at,
            None => self.election_deadline(),
        };
        let handover = self.handover.as_ref().map(|handover| handover.deadline);
        let others = [handover, self.fetches.retry_at, self.read_deadline()];
        let earlier = |next: Instant, at: Option<Instant>| at.map_or(next, |at| at.min(next));
        Some(others.into_iter().fold(timer, earlier))
    }

    fn rest(&self, absent: &dyn Fn(NodeId) -> bool) -> Option<Rest> {
        self.resting_place(absent)
    }

    fn keeps_membership(&self) -> bool {
        self.log.membership().0 <= self.log.durable()
    }

    fn view(&self) -> View {
        let role = match self.role {
            Role::Follower if !self.membership().is_voter(self.config.id) => Role::Learner,
            role => role,
        };
        let peers = self.leading.iter().flat_map(|leading| &leading.peers);
        let progress = peers.map(|(id, peer)| engine::Progress {
            id: *id,
            matched: peer.matched,
            last_heard: peer.contact.last_heard,
            is_counted_on: peer.contact.copying.is_counted_on(),
            receiving_snapshot: matches!(peer.state, State::Snapshot(_)),
        });
        View {
            role,
            epoch: self.epoch,
            leader: self.leader,
            chosen: self.chosen,
            last: self.log.last(),
            durable: self.log.durable(),
            membership: self.membership().clone(),
            progress: progress.collect(),
        }
    }
}
