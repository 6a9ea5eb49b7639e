//! The Multi-Paxos engine.
//!
//! Leslie Lamport's "The Part-Time Parliament" (1998) and "Paxos Made Simple" (2001) are the base;
//! elections by connectivity come from "Omni-Paxos" (Ng, Haridi, Carbone, EuroSys 2023), stop-signs
//! from there and from "Stoppable Paxos" (Lamport, Malkhi, Zhou, 2008), quorum sizes from "Flexible
//! Paxos" (Howard, Malkhi, Spiegelman, 2016).
//!
//! ```text
//!                     nothing heard            a quorum answers          a quorum promises
//!   ┌──────────┐  ───────────────▶ ┌────────────┐ ────────▶ ┌─────────┐ ────────▶ ┌──────┐
//!   │ Follower │                   │PreCandidate│           │Candidate│           │Leader│
//!   └──────────┘ ◀──────────────── └────────────┘ ◀──────── └─────────┘           └──────┘
//!        ▲    a leader, or no quorum               time out                          │
//!        └───────────────────────────────────────────────────────────────────────────┘
//!          a higher ballot; no quorum heard; own disk hangs; removed
//! ```
//!
//! # Why it is safe
//!
//! 1. *One proposer per ballot.* An acceptor promises an epoch to one node only, durably, and every
//!    two electing quorums share a voter. A leader proposes one value per slot and ballot, and a
//!    restarted one never proposes in a ballot of its past.
//! 2. *One value per slot.* A leader proposes at a slot only after a quorum promised its ballot and
//!    told what it had accepted there; it proposes the value accepted under the highest ballot, or
//!    a no-op if nobody accepted anything. Committing and electing quorums share a voter, whose
//!    promise was given after its vote (the leader hears of the value) or before (the vote is
//!    refused). So whatever is chosen below a ballot is what is proposed in it. An entry keeps the
//!    epoch of the leader that first proposed it, and the journal keeps the ballot beside it.
//! 3. *A vote is what the leader of the ballot proposed.* An acceptor acknowledges a slot only
//!    after it was told the entry, or that the slot is chosen, in this ballot; never because it
//!    happens to know a chosen value from elsewhere, which may be another one, of a later ballot.
//! 4. *A vote is durable.* Promises and accepts are written before they are answered, in one
//!    stream: an accept never outlives the promise of its ballot.
//! 5. *A doubt is no absence.* A replica whose journal may have lost something promises nothing and
//!    its acknowledgements do not count, until it holds everything that a leader had proposed when
//!    it began the session that this replica drew at its start.
//! 6. *One membership per slot.* A membership is a stop-sign: its leader proposes it once
//!    everything before it is chosen, and nothing behind it until it is chosen itself. So all slots
//!    up to it belong to the old membership and all behind it to the new one, each with quorums of
//!    its own; behind it a leader proposes only with promises of a quorum of the new one. An
//!    acceptor accepts a stop-sign only if it knows everything before it to be chosen: so every
//!    quorum that elects among the new voters holds someone who has it all
//!    ([`Membership::to_be_followed_by`]).
//!
//! # Files
//!
//! - `ballot.rs`: ballots as epochs; `log.rs`, `writes.rs`: the log, and what of it is durable;
//! - `election.rs`: who campaigns; `preparation.rs`: phase 1; `transfer.rs`: handing over;
//! - `proposing.rs` with `peer.rs`: the leader's side of phase 2; `accepting.rs`: the acceptor's;
//! - `learning.rs`: catching up from anybody; `installation.rs`: snapshots;
//! - `reads.rs`, `reconfiguration.rs`, `recovery.rs` (going on alone);
//! - `pass.rs`: how a pass ends: one write, one message per peer, what is chosen.

mod accepting;
mod answer_time;
mod ballot;
mod election;
mod inspection;
mod installation;
mod learning;
mod log;
mod pass;
mod peer;
mod preparation;
mod proposing;
mod reads;
mod reconfiguration;
mod recovery;
mod resting;
mod transfer;
pub mod wire;
mod writes;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{Epoch, Instant, NodeId, Random, Slot};

use crate::delivery::Delivery;
use crate::engine::{
    CheckpointRef, Engine, Input, Liveness, Mark, Note, Output, Outputs, Role, Ticket, View,
};
use crate::entry::Payload;
use crate::handover::{HandingOver, Handover};
use crate::hard_state::HardState;
use crate::health::Health;
use crate::kind::EngineKind;
use crate::membership::Membership;
use crate::message::{Body, Message, PaxosBody};
use crate::peers::Peers;
use crate::raft::{Config, Restored, Tail};
use crate::reading::Reading;
use crate::reads::{Forwards, ReadRounds};
use crate::rest::Rest;
use crate::slots::Slots;
use crate::snapshot::Receiver;
use crate::speaking::Speaking;
use accepting::Following;
use election::Election;
use learning::Learning;
use log::Log;
use peer::Peer;
use preparation::Preparation;
use writes::Writes;

/// Rounds grow by a few per election, and nobody misses this many: a message further ahead is
/// damaged or hostile, and must not use up the numbers that elections need.
const EPOCH_LEAP_MAX: u64 = 1 << 48;

/// A replica of a group that agrees by Multi-Paxos.
#[derive(Clone, Debug)]
pub struct Paxos {
    config: Config,
    random: Random,
    /// The ballot that was promised last.
    epoch: Epoch,
    /// To whom; nobody if this replica only heard of it.
    vote: Option<NodeId>,
    /// The journal may have lost something: the session in which a leader is to make it up.
    uncertain: Option<u64>,
    /// The promises above are not handed to the journal yet.
    hard_state_changed: bool,
    /// The write that holds them.
    promise_written: Mark,
    /// What the journal was last told is chosen.
    chosen_written: Slot,
    /// The write that says so.
    known_written: Mark,
    /// Everything up to here was handed to the journal, as it was chosen.
    chosen_given: Slot,
    role: Role,
    leader: Option<NodeId>,
    log: Log,
    /// What was accepted under this ballot, or is confirmed in it to be chosen.
    received: Slots,
    /// What is durable: as it was chosen, or as it was accepted under this ballot.
    stored: Slots,
    /// Runs of slots that are not handed to the journal yet.
    unwritten: Vec<(Slot, Slot)>,
    writes: Writes,
    delivery: Delivery,
    fetches: Fetches,
    /// Accepted entries that are still being read from the journal; until then this replica
    /// cannot tell what it accepted.
    loading: Option<Loading>,
    election: Election,
    following: Following,
    /// Present from the beginning of a campaign until its ballot is over.
    preparation: Option<Box<Preparation>>,
    /// Present exactly while this replica leads.
    leading: Option<Box<Leading>>,
    learning: Learning,
    receiver: Option<Receiver>,
    checkpoint: Option<CheckpointRef>,
    forwards: Forwards,
    handover: Option<Handover>,
    health: Health,
    /// An operator gave up the others.
    recovery: Option<recovery::Recovery>,
    outbox: Vec<Letter>,
    /// Something happened that the end of a pass has to look at.
    is_stirred: bool,
    told: Told,
}

/// What only a leader keeps.
#[derive(Clone, Debug)]
struct Leading {
    peers: Peers<Peer>,
    /// The slot of the membership whose members they are.
    synced: Option<Slot>,
    /// The last slot that was proposed in this ballot; everything up to it was, or is chosen.
    proposed: Slot,
    /// Proposals are taken: promises of a quorum of the membership in force are there, what
    /// they told is proposed, and no stop-sign stands at the end.
    is_open: bool,
    /// The last slot that was proposed holds a membership, and is not chosen yet.
    stop_sign: Option<Slot>,
    /// The end of what others may have chosen before: once that is chosen, reads are served.
    first_open: Option<Slot>,
    /// The last session given to a peer.
    session: u64,
    /// The last heartbeat or read round.
    round: u64,
    heartbeat_at: Instant,
    reads: ReadRounds,
    /// Bytes of what is proposed and not chosen, and of what is held back.
    unchosen_bytes: u64,
    /// Proposals that came while it is not open.
    held: VecDeque<(Ticket, Payload)>,
    /// A stop-sign waits until everything before it is chosen.
    awaiting: Option<Arc<Membership>>,
    /// The membership change under way: who asked, and its slot once it is proposed.
    change: Option<(Ticket, Option<Slot>)>,
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

/// Accepted entries that are read from the journal after a start.
#[derive(Clone, Debug)]
struct Loading {
    restored: Restored,
    /// The runs left to read, first and last slot; the next one last.
    runs: Vec<(Slot, Slot)>,
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
    membership: Option<Arc<Membership>>,
}

impl Paxos {
    /// A replica with what it remembers. `seed` must differ from incarnation to incarnation.
    ///
    /// # Panics
    /// If `restored` contradicts itself: the host has verified what it read from the disk.
    #[must_use]
    pub fn new(config: Config, restored: Restored, seed: u64, now: Instant) -> Paxos {
        assert!(
            Duration::ZERO < config.heartbeat_interval
                && config.heartbeat_interval < config.election_timeout,
            "heartbeats take time, and an election timeout is longer"
        );
        assert!(
            config.limits.repeat_after > Duration::ZERO,
            "nobody is asked again at once"
        );
        let hard_state = restored.hard_state;
        let damaged = restored.tail == Tail::Uncertain;
        let checkpoint = restored.checkpoint;
        let applied = checkpoint.map_or(Slot(0), |checkpoint| checkpoint.slot);
        assert!(
            restored.applied == applied,
            "a replica starts from its checkpoint"
        );
        let known = restored.known(config.id);
        let log = Log::restore(&restored, known.max(restored.log_start.0));
        let chosen = log.chosen();
        let mut random = Random::from_seed(seed);
        // Leaders count their sessions from 1 on: with the highest bit set it is none of theirs.
        let doubt = random.next_u64() | 1 << 63;
        let mut paxos = Paxos {
            random,
            epoch: hard_state.epoch,
            vote: hard_state
                .vote
                .filter(|_| !mutant::is_on(Mutant::ForgetVote)),
            uncertain: (damaged || hard_state.uncertain).then_some(doubt),
            // The journal must remember that something is missing before it is made up.
            hard_state_changed: damaged && !hard_state.uncertain,
            promise_written: Mark(0),
            chosen_written: hard_state.chosen,
            known_written: Mark(0),
            chosen_given: chosen,
            role: Role::Follower,
            leader: None,
            received: Slots::default(),
            stored: Slots::up_to(chosen),
            unwritten: Vec::new(),
            writes: Writes::default(),
            delivery: Delivery::new(applied, config.limits.delivery_bytes),
            fetches: Fetches::default(),
            loading: None,
            election: Election::new(now),
            following: Following::default(),
            preparation: None,
            leading: None,
            learning: Learning::default(),
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
        paxos.load_accepted(restored);
        paxos.election.deadline = now + paxos.election_delay();
        if paxos.is_alone() {
            paxos.election.deadline = now;
        }
        paxos
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
            chosen: self.log.chosen(),
            uncertain: self.uncertain.is_some(),
            engine: EngineKind::Paxos,
        }
    }

    /// Whether this replica keeps headers instead of entries.
    fn is_witness(&self) -> bool {
        self.membership().is_witness(self.config.id)
    }

    /// Whether this replica is known to hold entries. One that joins does not know yet what it is;
    /// who leads it does.
    fn holds_entries(&self) -> bool {
        let membership = self.membership();
        membership.members.contains_key(&self.config.id) && !self.is_witness()
    }

    fn limits(&self) -> &crate::limits::Limits {
        &self.config.limits
    }

    /// A quorum by itself, for both purposes.
    fn is_alone(&self) -> bool {
        let own = |id| id == self.config.id;
        self.membership().elects(own) && self.membership().commits(own)
    }

    /// Behind this slot nothing is accepted: no honest leader is so far ahead.
    fn horizon(&self) -> Slot {
        Slot(self.log.chosen().0 + 2 * self.limits().window_entries.max(1))
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
        // Nearly everything that arrives, taken apart where it lies.
        let body = match body {
            Body::Paxos(PaxosBody::Accept {
                session,
                round,
                chosen,
                last,
                entries,
            }) if epoch == self.epoch => {
                if self.hear_leader(now, from, out) {
                    let accept = accepting::Accept {
                        session,
                        round,
                        chosen,
                        last,
                        entries,
                    };
                    self.on_accept(now, from, accept, out);
                }
                return;
            }
            Body::Paxos(PaxosBody::AcceptReply {
                session,
                round,
                received,
                durable,
                uncertain,
            }) if epoch == self.epoch => {
                let reply = proposing::Reply {
                    session,
                    round,
                    received,
                    durable,
                    uncertain,
                };
                return self.on_accept_reply(now, from, reply, out);
            }
            body => body,
        };
        match body {
            Body::PreVote {
                round,
                last,
                occasion,
            } => self.on_poll(now, from, epoch, (round, last.slot, occasion)),
            Body::PreVoteReply { round, granted, .. } => {
                self.on_poll_reply(now, from, epoch, round, granted, out);
            }
            Body::Paxos(PaxosBody::Prepare { first, occasion }) => {
                self.on_prepare(now, from, epoch, first, occasion, out);
            }
            Body::Paxos(PaxosBody::CatchUp { id, after }) => {
                self.on_catch_up(now, from, id, after);
            }
            Body::Paxos(PaxosBody::Learn {
                id,
                chosen,
                entries,
            }) => self.on_learn(now, from, id, chosen, entries, out),
            Body::SnapshotOffer {
                session,
                checkpoint,
            } => self.on_snapshot_offer(now, from, session, checkpoint, out),
            Body::SnapshotPiece {
                session,
                checkpoint,
                offset,
                checksum,
                bytes,
            } => {
                let piece = installation::Piece {
                    checkpoint,
                    offset,
                    checksum,
                    bytes,
                };
                self.on_snapshot_piece(now, from, session, piece, out);
            }
            Body::SnapshotProgress {
                session,
                checkpoint,
                stored,
            } => self.on_snapshot_progress(now, from, session, checkpoint, stored, out),
            Body::Vote { .. }
            | Body::VoteReply { .. }
            | Body::Append { .. }
            | Body::AppendReply { .. } => {
                self.drop_message(from, "a message of the other engine", out);
            }
            body @ Body::Paxos(PaxosBody::Promise { .. })
                if epoch < self.epoch && mutant::is_on(Mutant::StaleVote) =>
            {
                self.on_current(now, from, body, out);
            }
            body if epoch < self.epoch => self.on_outdated(from, &body),
            body => {
                if epoch > self.epoch {
                    let leads = self.leading.is_some();
                    self.enter_epoch(now, epoch, "a higher ballot was seen", out);
                    if leads && is_unsure(&body) {
                        self.lead_again(now);
                    }
                }
                self.on_current(now, from, body, out);
            }
        }
    }

    /// A message of this replica's ballot.
    fn on_current(&mut self, now: Instant, from: NodeId, body: Body, out: &mut Outputs) {
        match body {
            Body::Paxos(PaxosBody::Promise {
                granted,
                first,
                next,
                chosen,
                accepted,
            }) => {
                let promise = preparation::Promise {
                    granted,
                    first,
                    next,
                    chosen,
                    accepted,
                };
                self.on_promise(now, from, promise, out);
            }
            Body::Paxos(PaxosBody::Accept {
                session,
                round,
                chosen,
                last,
                entries,
            }) => {
                if self.hear_leader(now, from, out) {
                    let accept = accepting::Accept {
                        session,
                        round,
                        chosen,
                        last,
                        entries,
                    };
                    self.on_accept(now, from, accept, out);
                }
            }
            Body::Paxos(PaxosBody::AcceptReply {
                session,
                round,
                received,
                durable,
                uncertain,
            }) => {
                let reply = proposing::Reply {
                    session,
                    round,
                    received,
                    durable,
                    uncertain,
                };
                self.on_accept_reply(now, from, reply, out);
            }
            Body::ReadRound { id } => self.on_read_round(now, from, id),
            Body::ReadRoundReply { id, slot } => {
                self.hear_chosen(from, slot);
                self.on_read_round_reply(from, id, slot, out);
            }
            Body::Transfer => self.on_transfer_message(now, from, out),
            _ => unreachable!("everything else was handled before"),
        }
    }

    /// A message of a ballot that is over. A leader or reader is told so; answers are ignored.
    fn on_outdated(&mut self, from: NodeId, body: &Body) {
        match body {
            Body::Paxos(PaxosBody::Accept { .. }) => self.tell_epoch(from),
            Body::ReadRound { id } => {
                let (id, slot) = (*id, None);
                self.post(from, Body::ReadRoundReply { id, slot }, false);
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

    fn on_deadline(&mut self, now: Instant, out: &mut Outputs) {
        self.on_handover_deadline(now, out);
        self.on_read_deadline(now, out);
        self.on_learning_deadline(now);
        if self.leading.is_some() {
            self.on_leader_deadline(now, out);
        } else {
            self.on_election_deadline(now, out);
        }
        let retry_at = self.fetches.retry_at;
        if retry_at.is_some_and(|retry_at| retry_at <= now) {
            self.fetches.retry_at = None;
        }
    }
}

/// Whether an acceptor says that it is unsure of its log.
fn is_unsure(body: &Body) -> bool {
    let Body::Paxos(PaxosBody::AcceptReply { uncertain, .. }) = body else {
        return false;
    };
    uncertain.is_some()
}

impl Engine for Paxos {
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
            Input::Durable { mark } => self.on_durable(now, mark),
            Input::Fetched { from, entries } => self.on_fetched(now, from, entries, out),
            Input::Applied { slot } => {
                self.delivery.executed(slot);
                self.is_stirred |= self.delivery.delivered() < self.log.chosen();
            }
            Input::CheckpointTaken {
                checkpoint,
                log_kept_after,
            } => self.on_checkpoint_taken(checkpoint, log_kept_after),
            Input::Reconfigure { ticket, change } => {
                self.on_reconfigure(ticket, &change, out);
            }
            Input::Recover { ticket, learners } => self.on_recover(now, ticket, &learners, out),
            Input::Transfer { ticket, to } => self.on_transfer(now, ticket, to, out),
            Input::PieceRead {
                to,
                checkpoint,
                offset,
                bytes,
            } => self.on_piece_read(to, checkpoint, offset, bytes, out),
            Input::PieceStored { checkpoint, stored } => {
                self.on_piece_stored(now, checkpoint, stored, out);
            }
            Input::SnapshotInstalled {
                checkpoint,
                membership,
            } => self.on_snapshot_installed(now, checkpoint, membership),
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
        [
            Some(timer),
            handover,
            self.fetches.retry_at,
            self.read_deadline(),
            self.learning_deadline(),
            self.repeat_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn rest(&self, absent: &dyn Fn(NodeId) -> bool) -> Option<Rest> {
        self.resting_place(absent)
    }

    fn keeps_membership(&self) -> bool {
        self.log.membership().0 <= self.chosen_written && self.writes.is_durable(self.known_written)
    }

    fn view(&self) -> View {
        self.look()
    }
}
