//! A node that belongs to a cluster: its machines, and the one place that routes their outputs.
//!
//! A pass takes in everything that is ready ([`Running::frame`], [`Running::call`], …), and
//! [`Running::flush`] ends it: commands go to the leader (or, here, into entries), read rounds
//! begin, the engine writes once and sends once per peer, the journal writes one batch. Outputs of
//! the engine are carried out by [`Running::route`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{ClusterId, Epoch, GroupId, Instant, NodeId, Random, WallTime};
use bytes::Bytes;
use consensus::{
    AnyEngine, CheckpointRef, Engine as _, EngineKind, Entry, Liveness, Mark, Membership, Message,
    Ticket,
};
use journal::{Done, Journal, RecordKind};
use state::Origin;

use crate::batch::OriginatedCommand;
use crate::calls::{Calls, Waiter};
use crate::checkpoints::{Checkpoints, Event, OWN_REQUESTS};
use crate::config::Config;
use crate::interface::{Answer, CallId, ConnectionId, Halt, Identity, Output};
use crate::leases::Leases;
use crate::notes::{Metrics, Note};
use crate::operator::{Asker, Operators};
use crate::peers::Peers;
use crate::recovery::Recovered;
use crate::replica::{Executed, Replica};
use crate::system::{self, SystemCommand};
use crate::wire::{Facts, Frame, Operation};

mod answers;
mod authorization;
mod commands;
pub mod digests;
mod inspection;
mod joining;
mod leasing;
mod maintenance;
pub mod members;
mod publishing;
mod restore;
mod routing;
pub mod space;
pub mod trust;

use commands::{Queue, RunningTime};
use digests::Digests;
use members::Members;
use restore::restore;
use routing::fetched_entry;
use space::SpaceKeeper;

/// How often a node says again what the others do not know of it yet.
const PUBLISH_AGAIN: Duration = Duration::from_secs(1);

/// The one group of a cluster, so far.
pub const GROUP: GroupId = GroupId(0);

/// The two clocks that a pass is told.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The node's own monotonic clock.
    pub now: Instant,
    /// Wall time, for stamps.
    pub wall: WallTime,
}

/// What the engine was asked for a batch of commands, and has not answered yet.
struct Proposal {
    commands: Vec<OriginatedCommand>,
    elapsed: Duration,
}

/// A node that belongs to a cluster.
pub struct Running {
    pub(crate) config: Config,
    pub(crate) cluster: ClusterId,
    pub(crate) own: NodeId,
    origin: Origin,
    pub(crate) genesis: Membership,
    pub(crate) engine: AnyEngine,
    pub(crate) replica: Replica,
    journal: Journal,
    checkpoints: Checkpoints,
    pub(crate) calls: Calls,
    pub(crate) operators: Operators,
    pub(crate) random: Random,
    pub(crate) membership: Membership,
    pub(crate) leader: Option<NodeId>,
    pub(crate) epoch: Epoch,
    pub(crate) facts: BTreeMap<NodeId, Facts>,
    pub(crate) metrics: Metrics,
    queue: Queue,
    proposals: BTreeMap<Ticket, Proposal>,
    window_full: bool,
    /// Bytes proposed in this pass.
    proposed_in_pass: usize,
    last_pass: Instant,
    running_time: RunningTime,
    leases: Leases,
    /// Messages that wait for a mark.
    held: VecDeque<(Mark, NodeId, Message)>,
    durable: Mark,
    outputs: consensus::Outputs,
    /// Chosen, and not executed yet; the engine bounds it.
    unexecuted: VecDeque<Entry>,
    /// Bytes of entries executed in this pass.
    executed_in_pass: u64,
    /// Empty, kept for its memory: what the entries of a pass came to.
    executed: Vec<Executed>,
    compacting: Vec<(CallId, etcd::Response)>,
    next_compaction: Instant,
    next_facts: Instant,
    next_publish: Instant,
    published: bool,
    removed_at: Option<Instant>,
    /// A checkpoint that is on the disk while the log up to it may not be.
    unreported: Option<CheckpointRef>,
    pub(crate) ready_told: bool,
    /// What the hubs were told last; `None` before anything, and after a snapshot came.
    told_hubs: Option<publishing::Told>,
    members: Members,
    space: SpaceKeeper,
    digests: Digests,
}

impl Running {
    /// A node with what recovery found.
    ///
    /// # Errors
    /// If the promises in the journal cannot be read; for the operator.
    pub fn new(
        config: Config,
        identity: &Identity,
        cluster: ClusterId,
        genesis: Membership,
        recovered: Recovered,
        mut random: Random,
        now: Instant,
    ) -> Result<Running, String> {
        let (kind, restored) = restore(&recovered, config.engine)?;
        let Recovered {
            state,
            membership,
            found,
            mut journal,
            log_replaced,
            ..
        } = recovered;
        // Paxos tells the journal itself: what it accepted behind the checkpoint stays.
        if log_replaced && kind == EngineKind::Raft {
            // Becomes durable with the engine's first write, before anything of it counts.
            journal.append(journal::Record {
                group: GROUP,
                kind: RecordKind::SnapshotInstalled,
                slot: restored.log_start.0,
                epoch: restored.log_start.1,
                body: Bytes::new(),
            });
        }
        let engine_config = consensus::Config {
            id: identity.node,
            election_timeout: config.timing.election_timeout,
            heartbeat_interval: config.timing.heartbeat_interval,
            limits: config.limits.consensus,
        };
        let origin = Origin {
            node: identity.node,
            incarnation: identity.incarnation,
            sequence: 0,
        };
        let leases = Leases::new(state.reader().clock(), now);
        let checkpoints = Checkpoints::new(cluster, GROUP, config.limits.clone(), found);
        Ok(Running {
            cluster,
            own: identity.node,
            origin,
            genesis,
            engine: AnyEngine::new(kind, engine_config, restored, random.next_u64(), now),
            replica: Replica::new((origin.node, origin.incarnation), state, membership.clone()),
            journal,
            checkpoints,
            calls: Calls::new(config.limits.calls),
            operators: Operators::default(),
            random,
            membership,
            leader: None,
            epoch: Epoch(0),
            facts: BTreeMap::new(),
            metrics: Metrics::default(),
            queue: Queue::default(),
            proposals: BTreeMap::new(),
            window_full: false,
            proposed_in_pass: 0,
            last_pass: now,
            running_time: RunningTime::new(now, config.timing.election_timeout),
            leases,
            held: VecDeque::new(),
            durable: Mark(0),
            outputs: Vec::new(),
            unexecuted: VecDeque::new(),
            executed_in_pass: 0,
            executed: Vec::new(),
            compacting: Vec::new(),
            next_compaction: now,
            next_facts: now,
            next_publish: now,
            published: false,
            removed_at: None,
            unreported: None,
            ready_told: false,
            told_hubs: None,
            members: Members::default(),
            space: SpaceKeeper::new(now, &config.limits.space),
            digests: Digests::default(),
            config,
        })
    }

    /// Whether this node leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leader == Some(self.own)
    }

    /// What this node counts.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics {
            journal: self.journal.metrics(),
            ..self.metrics.clone()
        }
    }

    /// The next moment at which something has to be done.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let compaction =
            (self.leads() && self.replica.compaction_pending()).then_some(self.next_compaction);
        [
            self.engine.deadline(),
            self.calls.deadline(self.leader.is_some()),
            self.operators.deadline(),
            self.checkpoints.deadline(),
            compaction,
            self.lease_deadline(),
            self.leader
                .filter(|_| !self.published)
                .map(|_| self.next_publish),
            self.removed_at,
            Some(self.next_facts),
            self.members.deadline(self.last_pass),
            self.has_wishes().then(|| self.members.next_try()),
            Some(self.space.deadline(&self.config.limits.space)),
            self.digests_deadline(),
            // What did not fit into the last pass goes on at once.
            (self.can_propose() || !self.unexecuted.is_empty()).then_some(self.last_pass),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // --- what happens

    /// A frame from a member of this cluster.
    pub fn frame(
        &mut self,
        moment: Moment,
        connection: ConnectionId,
        from: NodeId,
        frame: Frame,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        match frame {
            Frame::Engine(message) => {
                self.drive(moment, consensus::Input::Peer { from, message }, peers, out);
            }
            Frame::Forward(commands) => self.forwarded(connection, from, commands, peers, out),
            Frame::Refused { sequences, .. } => {
                let pause = moment.now + self.config.limits.resend_delay;
                self.calls.refused(sequences, Some(pause));
            }
            Frame::Operate { id, operation } => {
                let asker = Asker::Node { node: from, id };
                self.operate(moment, asker, operation, peers, out);
            }
            Frame::Operated { id, result } => {
                if let Some(call) = self.operators.leader_answered(id) {
                    self.answer(call, Answer::Operator(result), out);
                }
            }
            Frame::Facts(facts) => {
                self.facts.insert(from, facts);
            }
            Frame::Change { id, change } => {
                let asker = Asker::ClientOf { node: from, id };
                self.change_for(moment, asker, change, peers, out);
            }
            Frame::Changed { id, result } => {
                if let Some(call) = self.operators.leader_answered(id) {
                    self.told_of_change(call, result, out);
                }
            }
            Frame::Digest { slot, digest } => {
                self.digest_said(moment.now, from, slot, digest, peers, out);
            }
            _ => peers.nonsense(connection, "a frame that members do not send", out),
        }
    }

    /// A peer's last connection is gone.
    pub fn peer_lost(
        &mut self,
        moment: Moment,
        node: NodeId,
        by_peer: bool,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        self.members.lost(node);
        if by_peer {
            let liveness = Liveness::ConnectionClosed;
            self.drive(
                moment,
                consensus::Input::Hint {
                    peer: node,
                    liveness,
                },
                peers,
                out,
            );
        }
    }

    /// A peer can be reached (again).
    pub fn peer_found(
        &mut self,
        moment: Moment,
        node: NodeId,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        self.members.found(node, moment.now);
        let liveness = Liveness::Reachable;
        self.drive(
            moment,
            consensus::Input::Hint {
                peer: node,
                liveness,
            },
            peers,
            out,
        );
        if self.leader == Some(node) {
            self.calls.resend_everything();
        }
    }

    /// A disk request has ended.
    pub fn disk(
        &mut self,
        moment: Moment,
        completion: journal::disk::Completion,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        if completion.id.0 & OWN_REQUESTS == 0 {
            let (mut requests, mut done) = (Vec::new(), Vec::new());
            self.journal.complete(completion, &mut requests, &mut done);
            out.extend(requests.into_iter().map(Output::Disk));
            self.journal_done(moment, done, peers, out);
        } else if let Some(event) = self.checkpoints.complete(moment.now, completion, out) {
            self.checkpoint_event(moment, event, peers, out);
        }
    }

    fn journal_done(
        &mut self,
        moment: Moment,
        done: Vec<Done>,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        for each in done {
            match each {
                Done::Durable { mark } => self.durable(moment, Mark(mark), peers, out),
                Done::Fetched { ticket, entries } => {
                    let from = base::Slot(ticket);
                    let entries = entries.into_iter().map_while(fetched_entry).collect();
                    self.drive(
                        moment,
                        consensus::Input::Fetched { from, entries },
                        peers,
                        out,
                    );
                }
                Done::Damage {
                    slot, description, ..
                } => {
                    out.push(Output::Halt(Halt::Refused(format!(
                        "the entry at slot {slot} is damaged on this disk: {description}. Nothing \
                         has been changed. Restore the file from a copy, or replace this node: \
                         remove it with `quorate member remove`, empty its data folder, add it \
                         again with `quorate member add` and start it with --join"
                    ))));
                }
                Done::Fatal(reason) => out.push(Output::Halt(Halt::Refused(reason))),
            }
        }
    }

    fn durable(&mut self, moment: Moment, mark: Mark, peers: &mut Peers, out: &mut Vec<Output>) {
        assert!(mark >= self.durable, "the durable mark never goes back");
        self.durable = mark;
        self.drive(moment, consensus::Input::Durable { mark }, peers, out);
        while let Some((after, _, _)) = self.held.front()
            && *after <= mark
        {
            let (_, to, message) = self.held.pop_front().expect("the front is there");
            peers.send(to, Frame::Engine(message).encode(), out);
        }
    }

    fn checkpoint_event(
        &mut self,
        moment: Moment,
        event: Event,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        use consensus::Input;
        let input = match event {
            Event::Written(checkpoint) => {
                self.unreported = Some(checkpoint);
                return;
            }
            Event::WriteFailed(slot, error) => {
                self.metrics.checkpoints_failed += 1;
                out.push(Output::Note(Note::CheckpointFailed { slot, error }));
                return;
            }
            Event::PieceRead {
                to,
                checkpoint,
                offset,
                bytes,
            } => Input::PieceRead {
                to,
                checkpoint,
                offset,
                bytes,
            },
            Event::PieceStored(checkpoint, stored) => Input::PieceStored { checkpoint, stored },
            Event::Installed(checkpoint, loaded) => {
                let (state, membership) = *loaded;
                self.unreported = None;
                self.unexecuted.retain(|entry| entry.slot > checkpoint.slot);
                self.replica.install(state, membership.clone());
                self.told_hubs = None;
                self.digests.forget();
                let clock = self.replica.reader().clock();
                self.leases.saw_clock(clock, moment.now);
                out.push(Output::Note(Note::SnapshotInstalled {
                    slot: checkpoint.slot,
                }));
                // What was sent and has executed inside the snapshot comes back as a repetition.
                self.calls.resend_everything();
                Input::SnapshotInstalled {
                    checkpoint,
                    membership,
                }
            }
            Event::Rejected(checkpoint, reason) => {
                let slot = checkpoint.slot;
                out.push(Output::Note(Note::SnapshotRejected { slot, reason }));
                Input::SnapshotRejected { checkpoint }
            }
        };
        self.drive(moment, input, peers, out);
    }

    /// Lets go of the log behind a finished checkpoint, once this disk holds the log that far:
    /// a replica may execute what the others have chosen before its own disk has it, but must not
    /// forget, nor count as kept, what was never durable here.
    fn report_checkpoint(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        let Some(checkpoint) = self.unreported else {
            return;
        };
        let early = mutant::is_on(Mutant::ForgetLogEarly);
        if self.engine.view().durable < checkpoint.slot && !early {
            return;
        }
        self.unreported = None;
        self.metrics.checkpoints_written += 1;
        let (slot, bytes) = (checkpoint.slot, checkpoint.length);
        out.push(Output::Note(Note::CheckpointWritten { slot, bytes }));
        let log_kept_after = self.checkpoints.log_kept_after();
        let mut requests = Vec::new();
        self.journal.release(GROUP, log_kept_after, &mut requests);
        out.extend(requests.into_iter().map(Output::Disk));
        let input = consensus::Input::CheckpointTaken {
            checkpoint,
            log_kept_after,
        };
        self.drive(moment, input, peers, out);
    }

    // --- the end of a pass

    /// Ends a pass.
    pub fn flush(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        let now = moment.now;
        self.running_time.pass(now);
        self.last_pass = now;
        self.proposed_in_pass = 0;
        self.execute_chosen(moment, out);
        self.on_time(moment, peers, out);
        self.lease_pass(now, out);
        loop {
            self.send_commands(now, peers, out);
            self.propose(moment, peers, out);
            if let Some(ticket) = self.calls.begin_round(now) {
                self.metrics.read_rounds += 1;
                self.drive(moment, consensus::Input::ReadRound { ticket }, peers, out);
            }
            self.engine.flush(now, &mut self.outputs);
            if self.outputs.is_empty() && !self.has_more_to_do(now) {
                break;
            }
            self.route(moment, peers, out);
        }
        self.publish_changes(out);
        self.answer_reads(out);
        self.checkpoint(now, out);
        self.executed_in_pass = 0;
    }

    /// Whether what came out of the engine has made something possible that can be done at once.
    fn has_more_to_do(&self, now: Instant) -> bool {
        let sends = self.leader.is_some() && self.calls.can_send(now);
        let has_room = self.proposed_in_pass < self.config.limits.pass_bytes;
        sends || (has_room && self.can_propose())
    }

    /// Everything appended so far belongs to the write `mark`. The journal writes at once if its
    /// disk is idle, else together with whatever comes until it is.
    fn flush_journal(&mut self, mark: Mark, out: &mut Vec<Output>) {
        let mut requests = Vec::new();
        self.journal.flush(mark.0, &mut requests);
        out.extend(requests.into_iter().map(Output::Disk));
    }

    fn checkpoint(&mut self, now: Instant, out: &mut Vec<Output>) {
        let newest = self
            .checkpoints
            .newest()
            .map_or(base::Slot(0), |newest| newest.slot);
        if self.unreported.is_none()
            && self.replica.applied() > newest
            && self
                .checkpoints
                .is_due(now, self.journal.bytes_since(GROUP, newest))
        {
            let snapshot = self.replica.snapshot();
            let slot = snapshot.applied();
            out.push(Output::Note(Note::CheckpointStarted { slot }));
            self.checkpoints
                .start(now, snapshot, self.replica.membership());
        }
        self.checkpoints.drain(now, out);
    }

    /// What is due by the clock alone.
    fn on_time(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        let now = moment.now;
        if self.engine.deadline().is_some_and(|at| at <= now) {
            self.drive(moment, consensus::Input::Deadline, peers, out);
        }
        for call in self.operators.expire(now) {
            self.leader_silent(call, out);
        }
        for (call, kind) in self.calls.expire(now) {
            self.metrics.calls_timed_out += 1;
            // What it asked for may have been proposed: whether it happens is not known.
            let error = match mutant::is_on(Mutant::RefuseAndPropose) {
                true => etcd::Error::NoLeader,
                false => etcd::Error::Timeout,
            };
            let answer = kind.failure(error);
            out.push(Output::Answer { id: call, answer });
        }
        if self.removed_at.is_some_and(|at| at <= now) {
            out.push(Output::Halt(Halt::Refused(trust::REMOVED.to_owned())));
        }
        self.report_checkpoint(moment, peers, out);
        if self.next_facts <= now {
            self.next_facts = now + self.config.limits.facts_interval;
            self.tell_facts(peers, out);
        }
        self.publish(moment, peers, out);
        self.change_members(moment, peers, out);
        self.keep_space(now);
        self.compare_digests(now, peers, out);
        self.compact_on(now, out);
    }

    fn tell_facts(&mut self, peers: &Peers, out: &mut Vec<Output>) {
        let reader = self.replica.reader();
        let facts = Facts {
            data_bytes: reader.held_bytes(),
            applied: reader.applied(),
        };
        self.facts.insert(self.own, facts);
        let members = &self.membership.members;
        self.facts.retain(|node, _| members.contains_key(node));
        let body = Frame::Facts(facts).encode();
        let nodes: Vec<NodeId> = peers.reachable().collect();
        for node in nodes {
            peers.send(node, body.clone(), out);
        }
    }

    /// Says in the replicated state where this node's clients and peers reach it, once there is a
    /// leader.
    fn publish(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        let now = moment.now;
        if self.published || self.leader.is_none() || self.next_publish > now {
            return;
        }
        let own = (state::LEVEL_MAX, self.config.client_urls.clone());
        self.next_publish = now + PUBLISH_AGAIN;
        let moved = self.moved_to();
        if let Some((name, address)) = moved.clone() {
            self.update_place(moment, name, address, peers, out);
        }
        if system::published(self.replica.reader(), self.own) == Some(own.clone()) {
            self.published = moved.is_none();
            return;
        }
        let (level, client_urls) = own;
        let command = SystemCommand::Publish {
            member: self.own,
            level,
            client_urls,
        };
        self.add_system_command(now, &command, Waiter::Nobody);
    }

    /// The name and the peer address, if the other members do not know them yet.
    fn moved_to(&self) -> Option<(String, String)> {
        let known = self.membership.members.get(&self.own)?;
        let address = self.config.peer_address.as_ref();
        let address = address.unwrap_or(&known.peer_address);
        let is_news = known.name.is_empty() || *address != known.peer_address;
        is_news.then(|| (self.config.name.clone(), address.clone()))
    }

    fn update_place(
        &mut self,
        moment: Moment,
        name: String,
        address: String,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let operation = Operation::MemberUpdate {
            id: self.own,
            name,
            address,
        };
        match self.leader {
            Some(leader) if leader == self.own => {
                self.operate(moment, Asker::Itself, operation, peers, out);
            }
            Some(leader) => {
                // Nobody waits for the answer: the membership will show it.
                peers.send(leader, Frame::Operate { id: 0, operation }.encode(), out);
            }
            None => {}
        }
    }

    /// Keeps compaction going while nothing is written, and tells those who wait for its end.
    fn compact_on(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.replica.compaction_pending() {
            for (call, response) in std::mem::take(&mut self.compacting) {
                self.answer_etcd(call, Ok(response), out);
            }
        } else if self.leads() && self.next_compaction <= now {
            self.next_compaction = now + self.config.limits.compaction_interval;
            if self.proposals.is_empty() && self.queue.is_empty() {
                self.add_system_command(now, &SystemCommand::Nothing, Waiter::Nobody);
            }
        }
    }
}
