//! The node: from an empty or full data folder to a serving member, and to a clean stop.
//!
//! ```text
//! starting ─▶ forming or joining ─▶ recovering ─▶ running ─▶ stopping ─▶ halted
//!     └──────── already a member ──────▲
//! ```
//!
//! Each start writes the identity file first: it counts the incarnation, without which commands
//! of this start could be taken for those of an earlier one.

use base::{DiskId, Epoch, Incarnation, Instant, NodeId, Random, Slot, WallTime};
use bytes::Bytes;
use consensus::{QuorumSizes, Role};
use journal::disk::{Completion, File};

use crate::calls::Join;
use crate::checkpoints::opening_of;
use crate::config::{Config, Startup};
use crate::formation::{self, Formation};
use crate::group::Moment;
use crate::group::trust::Known;
use crate::interface::{
    Answer, Call, CallId, ConnectionId, Halt, Identity, Input, Output, Standing, Status,
};
use crate::notes::{Metrics, Note};
use crate::peers::Peers;
use crate::recovery::{Recovered, Recovery};
use crate::running::Running;
use crate::wire::{Frame, Hello, HelloStanding};

mod starting;

use starting::{check_folder, hello, member_of};

/// Where a node is in its life.
enum Phase {
    /// The identity file is being written for the first time in this incarnation.
    Starting,
    Forming(Box<Formation>),
    Recovering(Box<Recovery>),
    /// The identity file is to say that there is a journal, before anything is promised in it.
    Confirming {
        recovered: Box<Recovered>,
        /// What the journal will hear once it is at work.
        completions: Vec<Completion>,
    },
    Running(Box<Running>),
    /// Nothing is done any more.
    Halted,
}

/// One server, as a pure function of its inputs.
pub struct Node {
    config: Config,
    identity: Identity,
    /// What the identity file will say once the write under way is done.
    persisting: Option<Identity>,
    files: Vec<(File, u64)>,
    /// Tells this process from another one that runs on a copy of the data folder.
    process: u64,
    random: Random,
    peers: Peers,
    phase: Phase,
    /// When a stop that was asked for happens at the latest.
    stop_by: Option<Instant>,
    bad_frames: u64,
    startup_refusal: Option<String>,
    started: bool,
}

impl Node {
    /// A node that has not done anything yet; [`Node::flush`] begins.
    #[must_use]
    pub fn new(startup: Startup) -> Node {
        let Startup {
            config,
            identity,
            files,
            seed,
        } = startup;
        let mut random = Random::from_seed(seed);
        let process = random.next_u64();
        let startup_refusal = check_folder(identity.as_ref(), &config, &files);
        let identity = match identity {
            Some(found) => Identity {
                incarnation: Incarnation(found.incarnation.0 + 1),
                // Until it is a member, it is what it is told to be.
                is_witness: match found.standing {
                    Standing::Member { .. } => found.is_witness,
                    Standing::Alone | Standing::Forming { .. } => config.is_witness,
                },
                ..found
            },
            None => Identity {
                node: NodeId(random.next_u64().max(1)),
                disk: DiskId(random.next_u64().max(1)),
                name: config.name.clone(),
                incarnation: Incarnation(1),
                journal_created: false,
                epochs: Epoch(config.limits.epochs_ahead),
                is_doubtful: false,
                has_others: false,
                is_witness: config.is_witness,
                standing: Standing::Alone,
            },
        };
        let own = hello(&config, &identity, process);
        let peers = Peers::new(own, config.limits.packet_bytes);
        Node {
            config,
            identity,
            persisting: None,
            files,
            process,
            random,
            peers,
            phase: Phase::Starting,
            stop_by: None,
            bad_frames: 0,
            startup_refusal,
            started: false,
        }
    }

    /// Takes one input. Whatever can wait for the others that are ready is done by
    /// [`Node::flush`].
    pub fn step(&mut self, now: Instant, wall: WallTime, input: Input, out: &mut Vec<Output>) {
        let moment = Moment { now, wall };
        let before = out.len();
        match input {
            Input::Connected { connection, dial } => self.peers.connected(connection, dial, out),
            Input::Frame { connection, body } => self.frame(moment, connection, body, out),
            Input::Disconnected {
                connection,
                by_peer,
            } => {
                self.disconnected(moment, connection, by_peer, out);
            }
            Input::Call { id, call } => self.call(moment, id, call, out),
            Input::Forget { id } => {
                if let Phase::Running(running) = &mut self.phase {
                    running.forget(now, id);
                }
            }
            Input::Disk(completion) => self.disk(moment, completion, out),
            Input::IdentityPersisted => self.identity_persisted(moment, out),
            Input::JobDone { id, answer } => {
                if let Phase::Running(running) = &mut self.phase {
                    running.job_done(id, answer, out);
                }
            }
            Input::ReadHistory {
                group,
                hub,
                request,
            } => {
                if let Phase::Running(running) = &self.phase {
                    running.read_history(group, hub, *request, out);
                }
            }
            Input::Deadline => {}
            Input::Shutdown => self.shutdown(moment, out),
        }
        self.stop_at_halt(before, out);
    }

    /// Ends a pass over everything that was ready.
    pub fn flush(&mut self, now: Instant, wall: WallTime, out: &mut Vec<Output>) {
        let moment = Moment { now, wall };
        let before = out.len();
        if !std::mem::replace(&mut self.started, true) {
            self.start(out);
        }
        match &mut self.phase {
            Phase::Forming(formation) => {
                let progress = formation.step(now, &self.peers, out);
                self.formation_progress(progress, out);
            }
            Phase::Running(running) => {
                if self.stop_by.is_some() {
                    running.hand_over(moment, &mut self.peers, out);
                }
                running.flush(moment, &mut self.peers, out);
                self.remember_promises(out);
                self.stop_if_done(now, out);
            }
            Phase::Starting | Phase::Recovering(_) | Phase::Confirming { .. } | Phase::Halted => {}
        }
        self.stop_at_halt(before, out);
    }

    /// When to call [`Node::step`] with [`Input::Deadline`] if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Forming(formation) => formation.deadline(),
            Phase::Running(running) => running.deadline(),
            Phase::Starting | Phase::Recovering(_) | Phase::Confirming { .. } | Phase::Halted => {
                None
            }
        };
        match (phase, self.stop_by) {
            (Some(phase), Some(stop_by)) => Some(phase.min(stop_by)),
            (phase, stop_by) => phase.or(stop_by),
        }
    }

    /// Whether the end of a request that [`Output::FramesAfter`] named can wait until something
    /// else happens, since nothing would follow from it: whoever waits for it has been told, or
    /// waits for others as well.
    #[must_use]
    pub fn is_patient(&self) -> bool {
        match &self.phase {
            Phase::Running(running) => self.stop_by.is_none() && running.is_patient(),
            _ => false,
        }
    }

    /// What this node counts.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let metrics = match &self.phase {
            Phase::Running(running) => running.metrics(),
            _ => Metrics::default(),
        };
        Metrics {
            bad_frames: self.bad_frames,
            ..metrics
        }
    }

    /// What this node sees of itself and its group.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = match &self.phase {
            Phase::Running(running) => running.status(),
            _ => self.status_before_running(),
        };
        if self.stop_by.is_some() {
            status.phase = "stopping";
        }
        status
    }

    /// The machines of a node that belongs to a cluster, for those who check them.
    #[must_use]
    pub fn running(&self) -> Option<&Running> {
        match &self.phase {
            Phase::Running(running) => Some(running),
            _ => None,
        }
    }

    fn status_before_running(&self) -> Status {
        let phase = match (&self.phase, self.config.join.is_empty()) {
            (Phase::Forming(_), true) => "forming",
            (Phase::Forming(_), false) => "joining",
            (Phase::Halted, _) => "stopping",
            _ => "recovering",
        };
        Status {
            name: self.config.name.clone(),
            id: self.identity.node,
            cluster: member_of(&self.identity).map(|(cluster, _)| cluster),
            role: Role::Learner,
            phase,
            leader: None,
            term: Epoch(0),
            chosen: Slot(0),
            applied: Slot(0),
            revision: 0,
            compacted: 0,
            level: 0,
            digest: 0,
            held_bytes: 0,
            live_bytes: 0,
            quota_bytes: 0,
            alarms: Vec::new(),
            quorums: QuorumSizes::majorities(0),
            copies: 0,
            members: Vec::new(),
        }
    }

    // --- what happens

    fn disk(&mut self, moment: Moment, completion: Completion, out: &mut Vec<Output>) {
        match &mut self.phase {
            Phase::Recovering(recovery) => {
                let progress = recovery.complete(completion, out);
                self.recovery_progress(moment.now, progress, out);
            }
            Phase::Running(running) => running.disk(moment, completion, &mut self.peers, out),
            Phase::Confirming { completions, .. } => {
                // Unfinished files of checkpoints may still be going away: nobody waits for that.
                if opening_of(completion.id).is_some() {
                    return;
                }
                if let Err(error) = &completion.result {
                    let reason = format!(
                        "the journal cannot be created: {error}. See that the data folder can be \
                         written and has room, then start this node again"
                    );
                    out.push(Output::Halt(Halt::Refused(reason)));
                    return;
                }
                completions.push(completion);
                self.confirm(out);
            }
            Phase::Starting | Phase::Forming(_) | Phase::Halted => {}
        }
    }

    fn disconnected(
        &mut self,
        moment: Moment,
        connection: ConnectionId,
        by_peer: bool,
        out: &mut Vec<Output>,
    ) {
        let Some(lost) = self.peers.disconnected(connection) else {
            return;
        };
        out.push(Output::Note(Note::PeerLost {
            name: lost.name,
            node: lost.node,
        }));
        if let Phase::Running(running) = &mut self.phase {
            running.peer_lost(moment, lost.node, by_peer, &mut self.peers, out);
        }
    }

    fn frame(
        &mut self,
        moment: Moment,
        connection: ConnectionId,
        body: Bytes,
        out: &mut Vec<Output>,
    ) {
        let frame = match Frame::decode(body) {
            // This node has closed it: what was still on its way is nobody's mistake.
            _ if !self.peers.is_open(connection) => return,
            Ok(frame) => frame,
            Err(error) => {
                self.bad_frames += 1;
                return self.peers.nonsense(connection, error.0, out);
            }
        };
        match frame {
            Frame::Hello(hello) => self.greeted(moment, connection, hello, out),
            Frame::Goodbye(reason) => {
                let who = self
                    .peers
                    .who(connection)
                    .map_or("a peer", |hello| &hello.name);
                let reason = format!("{who} does not talk to this node: {reason}");
                out.push(Output::Note(Note::PeerRefused { reason }));
            }
            frame => self.dispatch(moment, connection, frame, out),
        }
    }

    fn greeted(
        &mut self,
        moment: Moment,
        connection: ConnectionId,
        hello: Hello,
        out: &mut Vec<Output>,
    ) {
        let (node, name) = (hello.node, hello.name.clone());
        let fellow = match &self.phase {
            Phase::Running(running) if hello.standing == HelloStanding::Member(running.cluster) => {
                Some(running.known(node, &name))
            }
            _ => None,
        };
        // Before it could take the place of the real one's connections.
        if let Some(known @ Known::Misnamed(_)) = &fellow {
            judge(&mut self.peers, connection, known.clone(), true, out);
            return;
        }
        match self.peers.hello(connection, hello, out) {
            Err(reason) => out.push(Output::Note(Note::PeerRefused { reason })),
            Ok(first) => {
                if first {
                    out.push(Output::Note(Note::PeerConnected { name, node }));
                }
                if let Phase::Running(running) = &mut self.phase
                    && fellow.is_some()
                {
                    if fellow == Some(Known::Removed) {
                        // At once: before it could win the votes of others who do not know either.
                        judge(&mut self.peers, connection, Known::Removed, false, out);
                    }
                    running.peer_found(moment, node, &mut self.peers, out);
                }
            }
        }
    }

    fn dispatch(
        &mut self,
        moment: Moment,
        connection: ConnectionId,
        frame: Frame,
        out: &mut Vec<Output>,
    ) {
        let Some(hello) = self.peers.who(connection) else {
            self.bad_frames += 1;
            let reason = "it did not say who it is first";
            return self.peers.nonsense(connection, reason, out);
        };
        let from = hello.node;
        match &mut self.phase {
            Phase::Forming(formation) => {
                let name = hello.name.clone();
                let progress = match frame {
                    Frame::Form {
                        cluster,
                        genesis,
                        engine,
                    } => {
                        let asked = Standing::Forming {
                            cluster,
                            genesis,
                            engine,
                        };
                        formation.form(connection, asked, &name, &self.peers, out)
                    }
                    Frame::FormPromised(cluster) => {
                        formation.promised(cluster, from);
                        formation.step(moment.now, &self.peers, out)
                    }
                    Frame::Formed(cluster) => formation.formed(cluster, from),
                    Frame::JoinReply(reply) => formation.join_reply(moment.now, reply, out),
                    // Members speak of things that a node on its way does not know yet.
                    _ => formation::Progress::Waiting,
                };
                self.formation_progress(progress, out);
            }
            Phase::Running(running) => match frame {
                Frame::JoinRequest { name, claimant } => {
                    let join = Join {
                        connection,
                        name,
                        address: hello.address.clone(),
                        is_witness: hello.is_witness,
                        claimant,
                        deadline: moment.now + self.config.timing.request_timeout,
                    };
                    running.join_request(moment, join);
                }
                Frame::Form { .. } | Frame::FormPromised(_) | Frame::Formed(_) => {}
                Frame::JoinReply(_) => {}
                frame => {
                    if hello.standing != HelloStanding::Member(running.cluster) {
                        return;
                    }
                    let known = running.known(from, &hello.name);
                    if frame == Frame::Removed {
                        if known == Known::Member && !running.is_leaving() {
                            running.answer_own_removal(out);
                            out.push(Output::Note(Note::Removed));
                            out.push(Output::Halt(Halt::Removed));
                        }
                        return;
                    }
                    let of_engine = matches!(frame, Frame::Engine(_));
                    let frame = match known {
                        Known::Removed => acknowledgements(frame),
                        _ => frame,
                    };
                    if judge(&mut self.peers, connection, known, of_engine, out) {
                        running.frame(moment, connection, from, frame, &mut self.peers, out);
                    }
                }
            },
            Phase::Starting | Phase::Recovering(_) | Phase::Confirming { .. } | Phase::Halted => {}
        }
    }

    fn call(&mut self, moment: Moment, id: CallId, call: Call, out: &mut Vec<Output>) {
        if matches!(call, Call::Status) {
            let answer = Answer::Status(Box::new(self.status()));
            out.push(Output::Answer { id, answer });
            return;
        }
        let stopping = self.stop_by.is_some();
        match &mut self.phase {
            Phase::Running(running) if !stopping => {
                running.call(moment, id, call, &mut self.peers, out);
            }
            _ => {
                let error = if stopping {
                    etcd::Error::Stopped
                } else {
                    etcd::Error::NoLeader
                };
                out.push(Output::Answer {
                    id,
                    answer: refuse(&call, error, self.status().phase),
                });
            }
        }
    }

    // --- stopping

    fn shutdown(&mut self, moment: Moment, out: &mut Vec<Output>) {
        if self.stop_by.is_some() {
            return;
        }
        self.stop_by = Some(moment.now + self.config.timing.shutdown_patience);
        match &mut self.phase {
            Phase::Running(running) => {
                out.push(Output::Note(Note::Stopping));
                running.hand_over(moment, &mut self.peers, out);
            }
            _ => out.push(Output::Halt(Halt::Stopped)),
        }
    }

    /// A stopping node halts once it does not lead and owes no answer, or when patience ends.
    fn stop_if_done(&mut self, now: Instant, out: &mut Vec<Output>) {
        let (Some(stop_by), Phase::Running(running)) = (self.stop_by, &mut self.phase) else {
            return;
        };
        if running.is_done() || now >= stop_by {
            running.fail_all(etcd::Error::Stopped, out);
            out.push(Output::Halt(Halt::Stopped));
        }
    }

    /// Nothing happens after a halt. `before`: how many outputs are of earlier steps.
    fn stop_at_halt(&mut self, before: usize, out: &mut Vec<Output>) {
        let is_halt = |output: &Output| matches!(output, Output::Halt(_));
        if let Some(at) = out[before..].iter().position(is_halt) {
            out.truncate(before + at + 1);
            self.phase = Phase::Halted;
            self.stop_by = None;
        }
    }
}

/// What counts of the words of a node that was removed: that it has received something. It may not
/// know yet, and be a leader to others who do not; such a one leads nobody here.
fn acknowledgements(frame: Frame) -> Frame {
    match frame {
        Frame::Engine(mut messages) => {
            messages.retain(|(_, message)| message.is_acknowledgement());
            Frame::Engine(messages)
        }
        frame => frame,
    }
}

/// Whether what a member of this cluster says counts (see [`crate::group::trust`]), `of_engine`
/// or otherwise; whoever has no business here is told so.
fn judge(
    peers: &mut Peers,
    connection: ConnectionId,
    known: Known,
    of_engine: bool,
    out: &mut Vec<Output>,
) -> bool {
    match known {
        Known::Member => true,
        Known::Stranger => of_engine,
        Known::Removed => {
            // Told whenever it tells its facts, not for each message of its engine.
            if !of_engine {
                let body = Frame::Removed.encode();
                out.push(Output::Frame { connection, body });
            }
            of_engine
        }
        Known::Misnamed(name) => {
            let reason = format!(
                "the member with your node id is called {name}; a data folder has been copied, or \
                 its identity file was changed"
            );
            peers.refuse(connection, &reason, out);
            out.push(Output::Note(Note::PeerRefused { reason }));
            false
        }
    }
}

/// The answer of a node that does not serve (yet, or any more).
pub(crate) fn refuse(call: &Call, error: etcd::Error, phase: &str) -> Answer {
    match call {
        Call::As { call, .. } | Call::In { call, .. } => refuse(call, error, phase),
        Call::Etcd(_) => Answer::Etcd(Err(error)),
        Call::RenewLeases { .. } => Answer::LeasesRenewed(Err(error)),
        Call::ParentLeases(_) => Answer::ParentLeases(Err(error)),
        Call::FollowParents(_) => Answer::ParentsFollowed(Err(error)),
        Call::TiedLeases { .. } => Answer::TiedLeases(Err(error)),
        Call::EtcdMemberList { .. } => Answer::EtcdMemberList(Err(error)),
        Call::EtcdStatus => Answer::EtcdStatus(Err(error)),
        Call::EtcdCluster(_) => Answer::EtcdCluster(Err(error)),
        Call::EtcdMaintenance(_) => Answer::EtcdMaintenance(Err(error)),
        Call::Snapshot => Answer::Snapshot(Err(error)),
        Call::Ready => Answer::Ready(Err(format!("the node is {phase}"))),
        Call::Status
        | Call::MemberAdd { .. }
        | Call::MemberPromote { .. }
        | Call::MemberGrow { .. }
        | Call::MemberRemove { .. }
        | Call::KeyspaceCreate { .. }
        | Call::KeyspaceDrop { .. }
        | Call::Keyspaces
        | Call::Groups
        | Call::GroupRecover(_)
        | Call::Placement(_)
        | Call::TransferLeadership { .. } => Answer::Operator(Err(format!(
            "this node is {phase}; ask another one, or ask again"
        ))),
    }
}
