//! One group on one of its nodes: engine, replica, checkpoints, what clients wait for, and the one
//! place that routes what they say to each other.
//!
//! A pass takes in everything that is ready ([`Group::frame`], [`Group::call`], …), and
//! [`Group::flush`] ends it: commands go to the leader (or, here, into entries), read rounds begin,
//! the engine writes and sends. Outputs of the engine are carried out by [`Group::route`].
//!
//! A group shares nothing with the others of its node. The journal and the connections are the
//! node's ([`crate::running`]): what a group wants of the journal it leaves in a list that is taken
//! when its pass has ended, so that the writes of all groups share one sync; what it says to other
//! nodes it gives to [`Peers`], which puts what all engines say into one frame per node.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base::{ClusterId, Epoch, GroupId, Incarnation, Instant, NodeId, Random, Slot, WallTime};
use bytes::Bytes;
use cluster::placement::plan::TableEpoch;
use consensus::{
    AnyEngine, CheckpointRef, Engine as _, EngineKind, Entry, Liveness, Mark, Membership, Message,
    Ticket,
};
use journal::RecordKind;
use state::{Origin, Revision};

use crate::batch::OriginatedCommand;
use crate::calls::{Calls, Waiter};
use crate::checkpoints::{Checkpoints, Event};
use crate::config::Config;
use crate::interface::{Answer, CallId, ConnectionId, Halt, Output};
use crate::leases::Leases;
use crate::notes::{Metrics, Note};
use crate::operator::{Asker, Operators};
use crate::peers::Peers;
use crate::recovery::{Loss, RecoveredReplica};
use crate::replica::{Executed, Replica};
use crate::system::{self, SystemCommand};
use crate::wire::{Facts, GroupFrame, Operation};

mod answers;
pub(crate) mod authorization;
mod commands;
pub mod digests;
mod inspection;
mod joining;
pub(crate) mod journaling;
mod keyspaces;
mod late;
mod leasing;
pub(crate) mod levels;
mod logkeeping;
mod maintenance;
pub mod members;
mod placing;
mod publishing;
mod readiness;
mod restore;
mod routing;
mod sleeping;
pub mod space;
pub mod trust;
mod witnessing;

use commands::{Queue, RunningTime};
use digests::Digests;
use journaling::{ToJournal, journal_records};
use levels::Levels;
use members::Members;
use readiness::Readiness;
use restore::restore;
use sleeping::Sleep;
use space::SpaceKeeper;
use witnessing::Witnessing;

/// How often a node says again what the others do not know of it yet.
const PUBLISH_AGAIN: Duration = Duration::from_secs(1);

/// The group that all nodes of a cluster belong to. It holds the members, the keyspaces and where
/// they are, and the keyspace that clients get who name none.
pub const META: GroupId = GroupId(0);

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

/// Whose group it is, and which.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// How often it has been started.
    pub incarnation: Incarnation,
    /// The group.
    pub group: GroupId,
    /// Tells this opening of a group from others in the same incarnation; its disk requests carry
    /// it.
    pub opening: u32,
    /// No command of this incarnation that the group may ever meet has a higher number.
    pub last_sequence: u64,
    /// The node votes and holds no data.
    pub is_witness: bool,
}

/// One group on one of its nodes.
pub struct Group {
    pub(crate) id: GroupId,
    pub(crate) config: Config,
    pub(crate) cluster: ClusterId,
    pub(crate) own: NodeId,
    origin: Origin,
    pub(crate) genesis: Membership,
    latest: (Slot, Membership),
    pub(crate) engine: AnyEngine,
    pub(crate) replica: Replica,
    /// It has lost something that it may have acknowledged, and no leader has made up for that.
    is_in_doubt: bool,
    /// What the journal is to do when this pass has ended.
    to_journal: Vec<ToJournal>,
    checkpoints: Checkpoints,
    pub(crate) calls: Calls,
    pub(crate) operators: Operators,
    pub(crate) random: Random,
    pub(crate) membership: Membership,
    /// The membership has changed since somebody looked.
    membership_changed: bool,
    pub(crate) leader: Option<NodeId>,
    pub(crate) epoch: Epoch,
    pub(crate) facts: BTreeMap<NodeId, Facts>,
    /// Of the first group: the table by which this node has opened and closed its groups.
    pub(crate) followed: TableEpoch,
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
    /// Empty, kept for its memory.
    spare_outputs: consensus::Outputs,
    /// Chosen, and not executed yet; the engine bounds it.
    unexecuted: VecDeque<Entry>,
    /// Bytes of entries executed in this pass.
    executed_in_pass: u64,
    /// Empty, kept for its memory: what the entries of a pass came to.
    executed: Vec<Executed>,
    compacting: Vec<(CallId, etcd::Response)>,
    next_compaction: Instant,
    /// The revision when it was last asked whether it is to go on by itself.
    compaction_seen: Revision,
    next_facts: Instant,
    next_publish: Instant,
    published: bool,
    /// The membership has shown this node where it was started to be. What is said of it from here
    /// on holds.
    is_placed: bool,
    removed_at: Option<Instant>,
    /// This group holds the oldest part of the log of all: a checkpoint is to be taken.
    is_pinning: bool,
    /// The log is damaged at this slot, and perhaps before it; all of it is executed.
    damaged_until: Option<Slot>,
    /// Nothing was executed behind this checkpoint when the log was last to be let go of.
    stood_still_at: Option<Slot>,
    /// A checkpoint that is on the disk while the log up to it may not be.
    unreported: Option<CheckpointRef>,
    readiness: Readiness,
    /// The replica has executed everything that was chosen before some moment of this incarnation.
    /// Only asked for in [`META`]: until then, its table and its users may be those of long ago.
    pub(crate) was_current: bool,
    /// What the hubs were told last; `None` before anything, and after a snapshot came.
    told_hubs: Option<publishing::Told>,
    /// What was executed, the epoch, and whether somebody led, when it was last seen whether the
    /// hubs are to be told something.
    seen_for_hubs: (Slot, Epoch, bool),
    members: Members,
    space: SpaceKeeper,
    digests: Digests,
    levels: Levels,
    sleep: Sleep,
    /// What a witness keeps; `None` where there is data.
    witnessing: Option<Witnessing>,
}

impl Group {
    /// A group with what recovery found, or with nothing yet.
    ///
    /// # Errors
    /// If the promises in the journal cannot be read; for the operator.
    pub fn new(
        config: Config,
        place: Place,
        recovered: RecoveredReplica,
        mut random: Random,
        now: Instant,
    ) -> Result<Group, String> {
        let level_max = config.limits.state.level_max;
        let (kind, restored) = restore(&recovered, level_max)?;
        let RecoveredReplica {
            genesis,
            latest,
            helpers,
            state,
            membership,
            found,
            log_replaced,
            loss,
            ..
        } = recovered;
        let mut to_journal = Vec::new();
        if loss.is_some() {
            // With the record that opens the group, if this is its first: what comes back without
            // its promises must not look new after a crash.
            let doubtful = consensus::HardState {
                uncertain: true,
                ..restored.hard_state
            };
            let keep = |record| to_journal.push(ToJournal::Keep(record));
            journal_records(place.group, consensus::Record::HardState(doubtful), keep);
        }
        if loss == Some(Loss::State) {
            // In this order: a log without its beginning must not look like a whole one.
            to_journal.push(ToJournal::Keep(journal::Record {
                group: place.group,
                kind: RecordKind::LogForgotten,
                slot: Slot(0),
                epoch: Epoch(0),
                body: Bytes::new(),
            }));
        }
        // Paxos tells the journal itself: what it accepted behind the checkpoint stays.
        if log_replaced && kind == EngineKind::Raft {
            // Becomes durable with the engine's first write, before anything of it counts.
            to_journal.push(ToJournal::Keep(journal::Record {
                group: place.group,
                kind: RecordKind::SnapshotInstalled,
                slot: restored.log_start.0,
                epoch: restored.log_start.1,
                body: Bytes::new(),
            }));
        }
        // What has to be written at once is not put off.
        let sleep = match place.group != META && to_journal.is_empty() {
            true => Sleep::before_the_beginning(now),
            false => Sleep::new(now),
        };
        let engine_config = consensus::Config {
            id: place.node,
            election_timeout: config.timing.election_timeout,
            heartbeat_interval: config.timing.heartbeat_interval,
            limits: config.limits.consensus,
        };
        let origin = Origin {
            node: place.node,
            incarnation: place.incarnation,
            sequence: 0,
        };
        let leases = Leases::new(state.reader().clock(), now);
        let levels = Levels::new(state.reader().level(), now);
        let own = (origin.node, origin.incarnation);
        let replica = Replica::new(own, state, membership.clone(), level_max);
        let checkpoints = Checkpoints::new(&place, config.limits.clone(), found);
        let engine = AnyEngine::new(kind, engine_config, restored, random.next_u64(), now);
        Ok(Group {
            id: place.group,
            cluster: place.cluster,
            own: place.node,
            origin,
            genesis,
            latest,
            is_in_doubt: engine.glance().is_uncertain,
            readiness: Readiness::new(engine.glance()),
            engine,
            replica,
            to_journal,
            checkpoints,
            calls: Calls::new(config.limits.calls, place.last_sequence),
            operators: Operators::default(),
            random,
            membership,
            membership_changed: true,
            leader: None,
            epoch: Epoch(0),
            facts: BTreeMap::new(),
            followed: TableEpoch::default(),
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
            spare_outputs: Vec::new(),
            unexecuted: VecDeque::new(),
            executed_in_pass: 0,
            executed: Vec::new(),
            compacting: Vec::new(),
            next_compaction: now,
            compaction_seen: Revision(0),
            next_facts: now,
            next_publish: now,
            published: false,
            is_placed: false,
            removed_at: None,
            is_pinning: false,
            damaged_until: None,
            stood_still_at: None,
            unreported: None,
            was_current: false,
            told_hubs: None,
            seen_for_hubs: (Slot(0), Epoch(0), false),
            members: Members::new(helpers),
            space: SpaceKeeper::new(now, &config.limits.space),
            digests: Digests::default(),
            levels,
            sleep,
            witnessing: place.is_witness.then(Witnessing::default),
            config,
        })
    }

    /// Whether this node leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leader == Some(self.own)
    }

    /// What this group counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The next moment at which something has to be done.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_asleep() {
            let nap = self.nap_deadline();
            return self.checkpoints.deadline().into_iter().chain(nap).min();
        }
        // Asked for in every pass: one comparison each.
        let mut next = self
            .next_facts
            .min(self.space.deadline(&self.config.limits.space));
        let mut also = |at: Option<Instant>| next = at.map_or(next, |at| at.min(next));
        also(self.engine.deadline());
        also(self.calls.deadline(self.leader.is_some()));
        also(self.operators.deadline());
        also(self.checkpoints.deadline());
        also((self.leads() && self.replica.compaction_pending()).then_some(self.next_compaction));
        also(self.lease_deadline());
        also((self.leader.is_some() && !self.published).then_some(self.next_publish));
        also(self.removed_at.filter(|_| self.id == META));
        also(self.members.deadline(self.last_pass));
        also(self.has_wishes().then(|| self.members.next_try()));
        also(self.digests_deadline());
        // What did not fit into the last pass goes on at once.
        also((self.can_propose() || !self.unexecuted.is_empty()).then_some(self.last_pass));
        Some(next)
    }

    // --- what happens

    /// The engine of another replica says something.
    pub fn engine_said(
        &mut self,
        moment: Moment,
        from: NodeId,
        message: Message,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        self.drive(moment, consensus::Input::Peer { from, message }, peers, out);
    }

    /// A frame about this group from a member of this cluster.
    pub fn frame(
        &mut self,
        moment: Moment,
        connection: ConnectionId,
        from: NodeId,
        frame: GroupFrame,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        match frame {
            GroupFrame::Forward(commands) => self.forwarded(connection, from, commands, peers, out),
            GroupFrame::Refused { sequences, .. } => {
                let pause = moment.now + self.config.limits.resend_delay;
                self.calls.refused(sequences, Some(pause));
            }
            GroupFrame::Operate { id, operation } => {
                let asker = Asker::Node { node: from, id };
                self.operate(moment, asker, operation, peers, out);
            }
            GroupFrame::Operated { id, result } => {
                if id == witnessing::INTRODUCTION {
                    self.published |= result.is_ok() && self.is_witness();
                } else if let Some(call) = self.operators.leader_answered(id) {
                    self.answer(call, Answer::Operator(result), out);
                }
            }
            GroupFrame::Facts(facts) => {
                self.facts.insert(from, facts);
            }
            GroupFrame::Change { id, change } => {
                let asker = Asker::ClientOf { node: from, id };
                self.change_for(moment, asker, change, peers, out);
            }
            GroupFrame::Changed { id, result } => {
                if let Some(call) = self.operators.leader_answered(id) {
                    self.told_of_change(call, result, out);
                }
            }
            GroupFrame::Digest { slot, digest } => {
                self.digest_said(moment.now, from, slot, digest, peers, out);
            }
            // What they are about was done before and behind this: see `sleeping`.
            GroupFrame::Sleep { .. } | GroupFrame::Asleep { .. } | GroupFrame::Wake => {}
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

    /// A disk request of this group's checkpoints has ended.
    pub fn disk(
        &mut self,
        moment: Moment,
        completion: journal::disk::Completion,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        if let Some(event) = self.checkpoints.complete(moment.now, completion, out) {
            self.checkpoint_event(moment, event, peers, out);
        }
    }

    /// What the journal is to do, in this order; asked for when a pass has ended.
    pub(crate) fn take_journal_work(&mut self, work: &mut Vec<ToJournal>) {
        work.append(&mut self.to_journal);
    }

    /// What the journal could not do yet: it is asked for again, before everything else.
    pub(crate) fn return_journal_work(&mut self, work: impl Iterator<Item = ToJournal>) {
        let later = std::mem::take(&mut self.to_journal);
        self.to_journal = work.chain(later).collect();
    }

    /// The number of the newest command of this node's clients here.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.calls.last_sequence()
    }

    /// Whether it has lost something that it may have acknowledged, and no leader has made up for
    /// that.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    /// Whether anything that its engine wrote is on stable storage.
    pub(crate) fn has_durable_writes(&self) -> bool {
        self.durable > Mark(0)
    }

    /// Notices that a leader has made up for what was lost.
    fn look_for_certainty(&mut self, out: &mut Vec<Output>) {
        if self.is_in_doubt && !self.engine.glance().is_uncertain {
            self.is_in_doubt = false;
            self.metrics.doubts_ended += 1;
            out.push(Output::Note(Note::DoubtEnded));
        }
    }

    /// Entries that were asked for have been read back.
    pub(crate) fn fetched(
        &mut self,
        moment: Moment,
        from: Slot,
        entries: Vec<Entry>,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let input = consensus::Input::Fetched { from, entries };
        self.drive(moment, input, peers, out);
    }

    /// Everything up to this write is on stable storage.
    pub(crate) fn durable(
        &mut self,
        moment: Moment,
        mark: Mark,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        assert!(mark >= self.durable, "the durable mark never goes back");
        self.durable = mark;
        self.drive(moment, consensus::Input::Durable { mark }, peers, out);
        while let Some((after, _, _)) = self.held.front()
            && *after <= mark
        {
            let (_, to, message) = self.held.pop_front().expect("the front is there");
            peers.say(self.id, to, message, out);
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
                // Whoever it was written for still needs it.
                self.is_pinning = true;
                out.push(Output::Note(Note::CheckpointFailed { slot, error }));
                return;
            }
            Event::PieceRead(piece) => self.piece_read(piece, out),
            Event::PieceStored(checkpoint, stored) => Input::PieceStored { checkpoint, stored },
            Event::Installed(checkpoint, loaded) => {
                let (state, membership) = *loaded;
                self.unreported = None;
                self.unexecuted.retain(|entry| entry.slot > checkpoint.slot);
                self.replica.install(state, membership.clone());
                assert!(
                    self.goes_on(out),
                    "its level was looked at when it was read"
                );
                self.told_hubs = None;
                self.witnessing = self.witnessing.take().map(|_| Witnessing::default());
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
            Event::TooNew(reason) => {
                out.push(Output::Halt(Halt::Refused(reason)));
                return;
            }
            Event::GivenUp => return self.start_again(out),
            Event::Rejected(checkpoint, reason) => {
                let slot = checkpoint.slot;
                out.push(Output::Note(Note::SnapshotRejected { slot, reason }));
                Input::SnapshotRejected { checkpoint }
            }
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
        if self.is_given_up() {
            return;
        }
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
        if self.is_current() {
            self.is_placed = self.is_placed || self.moved_to().is_none();
            self.tell_ready(out);
        }
        self.look_for_certainty(out);
        self.executed_in_pass = 0;
    }

    /// Whether what came out of the engine has made something possible that can be done at once.
    fn has_more_to_do(&self, now: Instant) -> bool {
        let sends = self.leader.is_some() && self.calls.can_send(now);
        let has_room = self.proposed_in_pass < self.config.limits.pass_bytes;
        sends || (has_room && self.can_propose())
    }

    /// All files of this group's checkpoints.
    pub(crate) fn checkpoint_files(&self) -> Vec<journal::disk::File> {
        self.checkpoints.files()
    }

    /// What is due by the clock alone.
    fn on_time(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        let now = moment.now;
        if self.engine.deadline().is_some_and(|at| at <= now) {
            self.drive(moment, consensus::Input::Deadline, peers, out);
        }
        let silent = self.operators.expire(now);
        if !silent.is_empty() {
            silent
                .into_iter()
                .for_each(|call| self.leader_silent(call, out));
        }
        self.expire_calls(moment, out);
        // Out of another group, a node simply closes it: see `crate::running`.
        if self.id == META && self.removed_at.is_some_and(|at| at <= now) {
            out.push(Output::Halt(Halt::Removed));
        }
        self.report_checkpoint(moment, peers, out);
        if self.next_facts <= now {
            self.next_facts = now + self.config.limits.facts_interval;
            self.tell_facts(peers, out);
        }
        self.publish(moment, peers, out);
        self.raise_level(now);
        self.change_members(moment, peers, out);
        self.keep_space(now);
        self.compare_digests(now, peers, out);
        self.compact_on(now, out);
    }

    fn tell_facts(&mut self, peers: &Peers, out: &mut Vec<Output>) {
        let facts = self.own_facts();
        self.facts.insert(self.own, facts);
        let members = &self.membership.members;
        self.facts.retain(|node, _| members.contains_key(node));
        let body = GroupFrame::Facts(facts).encode(self.id);
        // Also to those who are members no more, of the group that all nodes belong to: the answer
        // to that is how they learn of it.
        let nodes: Vec<NodeId> = match self.id == META {
            true => peers.reachable().collect(),
            false => self.membership.members.keys().copied().collect(),
        };
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
        let level = self.replica.level_max();
        let own = (level, self.config.client_urls.clone());
        self.next_publish = now + PUBLISH_AGAIN;
        let moved = self.moved_to().filter(|_| !self.is_placed);
        if let Some((name, address)) = moved.clone() {
            self.update_place(moment, name, address, peers, out);
        }
        if self.is_witness() {
            return self.introduce_itself(peers, out);
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
        let is_logged = self.config.place_is_logged && !known.peer_address.is_empty();
        let address = self.config.peer_address.as_ref().filter(|_| !is_logged);
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
                let body = GroupFrame::Operate { id: 0, operation }.encode(self.id);
                peers.send(leader, body, out);
            }
            None => {}
        }
    }
}
