//! The world: one thread, one agenda of events, and what each event does.
//!
//! ```text
//!  agenda ──earliest──▶ host: inbox ──pass──▶ Node::step…, flush ─outputs─▶ network, disk, clients
//!     ▲                                                │                          │
//!     └──────────────── new events ────────────────────┴──── invariants look ◀────┘
//! ```
//!
//! A pass takes everything that has arrived while the node was busy, as the server's node loop
//! does. Time inside a node is what its own clock shows ([`clock`]); the agenda is in true time.

pub(crate) mod atlas;
pub(crate) mod audit;
pub(crate) mod calling;
pub mod clock;
pub(crate) mod describe;
pub(crate) mod disks;
pub(crate) mod event;
pub(crate) mod faults;
pub(crate) mod host;
pub(crate) mod network;
pub(crate) mod observing;
pub(crate) mod operators;
pub(crate) mod spaces;
pub(crate) mod threads;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{GroupId, Instant, Random};
use node::group::META;
use node::group::trust::REMOVED;
use node::{Answer, CallId, Halt, Input, Node, Note, Output, Startup, rehearsal};

use crate::clients::sessions;
use crate::clients::watching::Watchers;
use crate::clients::workers::Worker;
use crate::disk::{Crash, Disk};
use crate::invariants::Violation;
use crate::invariants::durability;
use crate::invariants::groups::Groups;
use crate::invariants::refusals::{self, Injuries, Reasons};
use crate::invariants::revisions::Revisions;
use crate::marks::{Mark, Marks};
use crate::scenario::{Scenario, Who};
use crate::streams::Streams;
use crate::trace::{Kind, Trace};
use clock::Clock;
use event::{Agenda, What, World as Happening};
use host::Host;
use network::Network;
use operators::Operators;
use spaces::{Asker, DEFAULT, Space};
use threads::Threads;

/// A cluster, its clients, and all that may happen to them.
pub struct World {
    pub(crate) now: Instant,
    pub(crate) began: Instant,
    pub(crate) scenario: Scenario,
    streams: Streams,
    pub(crate) hosts: Vec<Host>,
    pub(crate) network: Network,
    /// Keyspaces, the default one first, each with its clients.
    pub(crate) spaces: Vec<Space>,
    pub(crate) watchers: Watchers,
    /// By host and keyspace.
    pub(crate) workers: Vec<Vec<Worker>>,
    pub(crate) operators: Operators,
    /// What must hold.
    pub invariants: Groups,
    /// What is known of revisions in keyspaces that are nowhere.
    nothing: Revisions,
    agenda: Agenda,
    calls: u64,
    /// What happened, for people.
    pub trace: Trace,
    /// Rare situations.
    pub marks: Marks,
    /// Faults that struck, by family.
    pub struck: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<Violation>,
    /// Faults are over.
    pub(crate) is_calm: bool,
    /// Calls of the run itself, under way in other keyspaces than the default one.
    pub(crate) asked_elsewhere: BTreeMap<CallId, usize>,
    /// Answers to calls that the run itself makes.
    pub(crate) own_answers: BTreeMap<CallId, Answer>,
    /// Clients go on asking.
    pub(crate) clients_ask: bool,
    outputs: Vec<Output>,
    chaos: Random,
}

impl World {
    /// The world of a scenario, before anything has happened.
    #[must_use]
    pub fn new(scenario: Scenario, keep_trace: bool) -> World {
        let streams = Streams::of(scenario.seed);
        let began = Instant(1_000_000_000);
        let hosts: Vec<Host> = (0..scenario.hosts)
            .map(|index| {
                let mut random = streams.named(&format!("clock.{index}"));
                let local = Instant(began.0 + random.below(1 << 50));
                Host {
                    config: host::config(index, &scenario),
                    disk: Disk::default(),
                    node: None,
                    life: 1,
                    clock: Clock::new(began, local),
                    dials: BTreeMap::new(),
                    paused_until: Instant(0),
                    inbox: Vec::new(),
                    departing: BTreeMap::new(),
                    busy_until: Instant(0),
                    is_free_due: false,
                    woken_at: None,
                    slow: (1, Instant(0)),
                    doom: None,
                    reasons: Reasons {
                        alone: scenario.hosts == 1,
                        ..Reasons::default()
                    },
                    hurt_in: 0,
                    injuries: Injuries::default(),
                    halted: None,
                    is_given_up: false,
                    starts: 0,
                    refusals: 0,
                    campaigned: base::Epoch(0),
                    disk_random: streams.named(&format!("disk.{index}")),
                    threads: Threads::new(streams.named(&format!("threads.{index}"))),
                    promised: (META, base::Slot(0)),
                    promise_credit: 0,
                }
            })
            .collect();
        let count = hosts.len();
        let mut world = World {
            now: began,
            began,
            streams,
            network: Network::new(scenario.network.clone(), streams.named("network"), count),
            spaces: spaces::of(&scenario, streams),
            watchers: Watchers::new(&scenario, streams.named("watchers")),
            workers: (0..count)
                .map(|host| Worker::of_host(host, &scenario, streams))
                .collect(),
            operators: Operators::default(),
            invariants: Groups::new(count, began, sessions::bounds(&scenario)),
            hosts,
            nothing: Revisions::default(),
            agenda: Agenda::default(),
            calls: 0,
            trace: Trace::new(keep_trace),
            marks: Marks::default(),
            struck: BTreeMap::new(),
            violation: None,
            is_calm: false,
            asked_elsewhere: BTreeMap::new(),
            own_answers: BTreeMap::new(),
            clients_ask: true,
            outputs: Vec::new(),
            chaos: streams.named("strikes"),
            scenario,
        };
        for (index, planned) in world.scenario.faults.clone().iter().enumerate() {
            world.schedule(Duration::from_micros(planned.at), Happening::Fault(index));
        }
        for client in 0..world.spaces[DEFAULT].clients.clients.len() {
            let space = DEFAULT;
            world.next_question(Asker { space, client });
        }
        for client in 0..world.watchers.streams.len() {
            let pause = world.watchers.pause();
            world.schedule(pause, Happening::Watcher(client));
        }
        world.plan_keyspaces();
        (0..count).for_each(|host| world.start(host));
        world
    }

    /// How long the run has taken so far.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now.since(self.began)
    }

    pub(crate) fn schedule(&mut self, delay: Duration, what: Happening) {
        self.schedule_at(self.now + delay, what);
    }

    fn schedule_at(&mut self, at: Instant, what: Happening) {
        self.agenda.push(at, what);
    }

    pub(crate) fn on_host(&mut self, delay: Duration, host: usize, what: What) {
        self.on_host_at(self.now + delay, host, what);
    }

    pub(crate) fn on_host_at(&mut self, at: Instant, host: usize, what: What) {
        let life = self.hosts[host].life;
        self.schedule_at(at, Happening::Host { host, life, what });
    }

    pub(crate) fn fail(&mut self, violation: Violation) {
        let at = self.elapsed();
        self.trace
            .line(at, Kind::Run, || format!("VIOLATED: {violation}"));
        self.violation.get_or_insert(violation);
    }

    /// Lets things happen until a moment, or until something is violated.
    pub(crate) fn run_until(&mut self, until: Instant) {
        while self.violation.is_none()
            && let Some((at, what)) = self.agenda.pop(until)
        {
            self.now = self.now.max(at);
            self.happen(what);
        }
        if self.violation.is_none() {
            self.now = self.now.max(until);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Host { host, life, what } => {
                if life == self.hosts[host].life {
                    self.happen_on(host, what);
                }
            }
            Happening::Start(host) => self.start(host),
            Happening::Resume(host) => {
                if !self.hosts[host].is_paused(self.now) {
                    self.pass(host);
                }
            }
            Happening::Fault(index) => self.strike(index),
            Happening::Heal(fault) => self.heal(fault),
            Happening::Client(asker) => self.client_asks(asker),
            Happening::Patience(asker) => self.look_at_patience(asker),
            Happening::Watcher(client) => self.watcher_acts(client),
            Happening::Replay(index) => self.replay(index),
            Happening::Operators => self.operate(),
            Happening::Keyspace(space) => self.tend_keyspace(space),
        }
    }

    fn happen_on(&mut self, host: usize, what: What) {
        match what {
            What::Input(input) => self.deliver(host, *input),
            What::Connected { connection, dial } => self.connected(connection, dial),
            What::Frame { connection, body } => {
                if self.is_heard(connection, host) {
                    self.deliver(host, Input::Frame { connection, body });
                }
            }
            What::Closed {
                connection,
                by_peer,
            } => self.closed(connection, by_peer),
            What::TimedOut(connection) => self.timed_out(connection),
            What::Wake => self.wake(host),
            What::Free => {
                self.hosts[host].is_free_due = false;
                if !self.hosts[host].is_paused(self.now) {
                    self.pass(host);
                }
            }
            What::DiskRequest(request) => self.disk_begins(host, *request),
            What::DiskEnd {
                completion,
                may_wait,
            } => self.disk_tells(host, *completion, may_wait),
            What::Disk(lane, turn) => self.disk_ends(host, lane, turn),
            What::Persisted(identity) => {
                self.hosts[host].disk.identity = Some(*identity);
                self.deliver(host, Input::IdentityPersisted);
            }
            What::Dial(dial) => self.dial(host, dial),
            What::Watching(space, what) => self.watching(host, space, what),
            What::Answer(id, answer) => self.answered(host, id, *answer),
            What::Call { id, call } => {
                let call = *call;
                self.deliver(host, Input::Call { id, call });
            }
        }
    }

    // --- nodes

    /// Starts the node of a host, if none runs there.
    pub(crate) fn start(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if host.node.is_some() || host.is_given_up {
            return;
        }
        host.starts += 1;
        if self.scenario.flags_differ {
            let name = format!("flags.{index}.{}", host.starts);
            host::change_flags(&mut host.config, &mut self.streams.named(&name));
        }
        let mut seeds = self.streams.named(&format!("node.{index}.{}", host.starts));
        let startup = Startup {
            config: host.config.clone(),
            identity: host.disk.identity.clone(),
            files: host.disk.list(),
            seed: seeds.next_u64(),
        };
        host.node = Some(Node::new(startup));
        host.life += 1;
        host.halted = None;
        host.woken_at = None;
        host.doom = None;
        host.busy_until = Instant(0);
        host.is_free_due = false;
        host.reasons.failed = false;
        host.reasons.outdated = host.config.limits.state.level_max < rehearsal::LEVEL;
        let at = self.elapsed();
        self.trace
            .line(at, Kind::Node(index), || "starts".to_owned());
        self.start_workers(index);
        self.hold_to_start(index);
        self.pass(index);
    }

    /// Marks what a node has counted.
    pub(crate) fn mark_counted(&mut self, index: usize) {
        let Some(node) = &self.hosts[index].node else {
            return;
        };
        let counted = node.metrics();
        let marks = [
            (Mark::CommandRepeated, counted.commands_repeated),
            (Mark::GroupSlept, counted.groups_slept),
            (Mark::GroupWoken, counted.groups_woken),
        ];
        for (mark, count) in marks {
            if count > 0 {
                self.marks.reach(mark);
            }
        }
    }

    /// The node of a host is gone.
    pub(crate) fn end_node(&mut self, index: usize, in_silence: bool) {
        self.mark_counted(index);
        let node = self.hosts[index].node.as_ref();
        if node
            .and_then(Node::running)
            .is_some_and(|running| running.replica().interruptions() > 0)
        {
            self.marks.reach(Mark::ExecutionInterrupted);
        }
        self.lose_connections(index, in_silence);
        let host = &mut self.hosts[index];
        host.node = None;
        host.life += 1;
        host.dials.clear();
        host.inbox.clear();
        host.departing.clear();
        host.doom = None;
        host.paused_until = Instant(0);
        self.invariants.stopped(index);
        self.calls_lost(index);
        self.end_workers(index);
        if self.hosts.iter().all(|host| host.node.is_none()) {
            self.marks.reach(Mark::AllDown);
        }
    }

    /// A node dies.
    pub(crate) fn kill(&mut self, index: usize, crash: Crash) {
        if self.hosts[index].node.is_none() {
            return;
        }
        let at = self.elapsed();
        self.trace
            .line(at, Kind::Node(index), || format!("dies ({crash:?})"));
        self.end_node(index, crash == Crash::Power);
        self.crash_disk(index, crash);
    }

    /// Something has arrived at a node; it looks at that as soon as it can.
    pub(crate) fn deliver(&mut self, index: usize, input: Input) {
        let now = self.now;
        if !self.put_in_inbox(index, input) {
            return;
        }
        let host = &mut self.hosts[index];
        if host.busy_until <= now {
            self.pass(index);
        } else if !std::mem::replace(&mut host.is_free_due, true) {
            let at = host.busy_until;
            self.on_host_at(at, index, What::Free);
        }
    }

    /// Lays something before a node; whether somebody runs there who could look at it.
    pub(super) fn put_in_inbox(&mut self, index: usize, input: Input) -> bool {
        let host = &mut self.hosts[index];
        if host.node.is_none() {
            return false;
        }
        if let (Input::Disk(completion), Some(node)) = (&input, host.id()) {
            self.invariants.told(node, completion.id);
        }
        host.inbox.push(input);
        !host.is_paused(self.now)
    }

    fn wake(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        if host.woken_at != Some(now) {
            return;
        }
        host.woken_at = None;
        let Some(node) = &host.node else { return };
        if host.is_paused(now) {
            return;
        }
        match node.deadline() {
            Some(deadline) if deadline <= host.clock.local(now) => {
                self.deliver(index, Input::Deadline);
            }
            _ => self.set_alarm(index),
        }
    }

    /// Sees to it that the node is woken when it wants to be.
    pub(crate) fn set_alarm(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(deadline) = host.node.as_ref().and_then(Node::deadline) else {
            return;
        };
        let at = host.clock.when(now, deadline).max(Instant(now.0 + 1_000));
        // A later deadline needs no event of its own: the earlier one looks again.
        if host.woken_at.is_none_or(|woken| at < woken || woken < now) {
            host.woken_at = Some(at);
            self.on_host_at(at, index, What::Wake);
        }
    }

    /// One pass of a node over what has arrived.
    pub(crate) fn pass(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(node) = host.node.as_mut() else {
            return;
        };
        let (local, wall) = (host.clock.local(now), host.clock.wall(now));
        let mut out = std::mem::take(&mut self.outputs);
        let inputs = host.inbox.drain(..);
        let taken = crate::run::in_node(|| {
            for input in inputs {
                node.step(local, wall, input, &mut out);
            }
            node.flush(local, wall, &mut out);
        });
        host.inbox.clear();
        if let Err(text) = taken {
            self.fail(Violation {
                invariant: "a node never panics",
                text: format!("n{}: {text}", index + 1),
            });
            return;
        }
        let mut takes = Duration::from_micros(self.scenario.machine.pass);
        if now < host.slow.1 {
            takes *= host.slow.0;
        }
        host.busy_until = now + takes;
        self.trace
            .mix(now.0 ^ (index as u64) << 56 ^ (out.len() as u64) << 48);
        let looked = self.invariants.after_pass(now, index, node);
        if let Err(violation) = looked {
            self.fail(violation);
        }
        self.take_findings(index);
        for output in out.drain(..) {
            if self.hosts[index].node.is_none() {
                break;
            }
            self.carry_out(index, output);
            self.doom(index);
        }
        self.outputs = out;
        self.set_alarm(index);
    }

    /// Takes what the invariants have found in a pass of this host.
    fn take_findings(&mut self, index: usize) {
        let mut own_votes = Vec::new();
        for (group, found) in self.invariants.iter_mut() {
            if std::mem::take(&mut found.agreement.is_mixed) {
                self.marks.reach(Mark::LevelsMixed);
            }
            own_votes.extend(found.take_own_vote().map(|vote| (group, vote)));
            for lease in found.leases.expired.drain(..) {
                self.marks.reach(Mark::LeaseExpired);
                let mut spaces = self.spaces.iter_mut();
                if let Some(space) = spaces.find(|space| space.group == Some(group)) {
                    space.clients.recording.lease_expired(self.now, lease.0);
                }
            }
        }
        if let Some(own) = self.hosts[index].id() {
            for vote in own_votes {
                self.hold_to_disk(index, own, vote);
            }
        }
    }

    /// A death that was waiting for so many outputs.
    fn doom(&mut self, index: usize) {
        let Some(doom) = &mut self.hosts[index].doom else {
            return;
        };
        if doom.after_outputs > 0 {
            doom.after_outputs -= 1;
            return;
        }
        let doom = *doom;
        self.kill(index, doom.crash);
        self.schedule(Duration::from_micros(doom.down), Happening::Start(index));
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        match output {
            Output::Dial { dial, address } => {
                self.hosts[index].dials.insert(dial, address);
                self.on_host(Duration::from_micros(100), index, What::Dial(dial));
            }
            Output::HangUp { dial } => self.hang_up(index, dial),
            Output::Frame { connection, body } => self.send(connection, body),
            Output::Disconnect { connection } => self.disconnect(connection),
            Output::Answer { id, answer } => self.hand_over_answer(index, id, answer),
            Output::Disk(request) => self.hand_to_disk(index, request),
            Output::FramesAfter { request, frames } => {
                let looked_at = frames.into_iter().map(|(connection, body)| {
                    let to = self.hearer(connection);
                    let said = to.and_then(|to| self.observe_departing(index, to, &body));
                    (connection, body, said)
                });
                let frames = looked_at.collect();
                self.hosts[index].departing.insert(request, frames);
            }
            Output::PersistIdentity(identity) => {
                let takes = Duration::from_micros(self.scenario.machine.disk_delay * 2);
                self.on_host(takes, index, What::Persisted(Box::new(identity)));
            }
            Output::Offload { id, job } => {
                let answer = job.run(Arc::new(|| true));
                let takes = Duration::from_micros(100 + self.chaos.below(3_000));
                self.on_host(
                    takes,
                    index,
                    What::Input(Box::new(Input::JobDone { id, answer })),
                );
            }
            Output::Discard(discarded) => drop(discarded),
            Output::Note(Note::InGroup { group, note }) => self.noted(index, group, &note),
            Output::Note(note) => self.noted(index, META, &note),
            Output::Publish { group, publication } => {
                if let Some(space) = self.space_in(group) {
                    self.audit(index, (space, group), &publication);
                    self.published(index, space, publication);
                }
            }
            Output::ReadHistory { job, .. } => self.history_read(index, *job),
            Output::Unpublish { group, .. } => {
                if let Some(space) = self.space_in(group) {
                    self.end_worker(index, space);
                }
            }
            Output::Keyspaces(directory) => self.keyspaces_told(index, &directory),
            Output::Ready => {}
            Output::Halt(halt) => self.halted(index, halt),
        }
    }

    fn halted(&mut self, index: usize, halt: Halt) {
        let at = self.elapsed();
        self.trace
            .line(at, Kind::Node(index), || format!("halts: {halt:?}"));
        let holds_alone = self.holds_alone(index);
        self.end_node(index, false);
        self.crash_disk(index, Crash::Process);
        let host = &mut self.hosts[index];
        let refusal = match &halt {
            Halt::Refused(reason) => Some(reason.as_str()),
            Halt::Removed => Some(REMOVED),
            Halt::Stopped | Halt::Again(_) => None,
        };
        if let Some(reason) = refusal {
            host.refusals += 1;
            host.injuries.hurt(host.disk.injured());
            let name = &host.config.name;
            let mut reasons = host.reasons;
            reasons.alone |= holds_alone;
            let looked = refusals::refused(name, reason, reasons, &host.injuries);
            if host.reasons.damaged {
                self.marks.reach(Mark::DamageRefused);
            } else if host.reasons.failed {
                self.marks.reach(Mark::SyncErrorStopped);
            }
            if host.reasons.wiped {
                self.marks.reach(Mark::EmptyDiskKeptOut);
            }
            if refusals::is_about_the_level(reason) {
                // The operator does what the message says.
                self.marks.reach(Mark::LevelRefused);
                host.config.limits.state.level_max = rehearsal::LEVEL;
            }
            // A supervisor starts it again, less and less often.
            let pause = Duration::from_millis(200) * host.refusals.min(50);
            if let Err(violation) = looked {
                self.fail(violation);
            }
            self.schedule(pause, Happening::Start(index));
        }
        if let Halt::Again(reason) = &halt {
            let host = &mut self.hosts[index];
            host.injuries.hurt(host.disk.injured());
            let name = &host.config.name;
            let looked = refusals::refused(name, reason, host.reasons, &host.injuries);
            if let Err(violation) = looked {
                self.fail(violation);
            }
            self.schedule(Duration::from_millis(50), Happening::Start(index));
        }
        if self.is_calm {
            // A stop that was asked for before came late: it is started again.
            self.schedule(Duration::from_millis(100), Happening::Start(index));
        }
        self.hosts[index].halted = Some(halt);
    }

    fn noted(&mut self, index: usize, group: GroupId, note: &Note) {
        let at = self.elapsed();
        self.trace.line(at, Kind::Node(index), || match group {
            META => note.to_string(),
            group => format!("group {group}: {note}"),
        });
        match note {
            Note::GroupOpened { name } => self.space_lives_in(name, group),
            Note::GroupClosed => {
                if let Some(own) = self.hosts[index].id() {
                    self.invariants.closes(own, group);
                }
            }
            Note::SnapshotInstalled { .. } if group != META => {
                self.marks.reach(Mark::GroupSnapshot);
            }
            Note::SnapshotInstalled { .. } => self.marks.reach(Mark::SnapshotInstalled),
            Note::CheckpointWritten { slot, .. } => {
                self.marks.reach(Mark::CheckpointWritten);
                let node = self.hosts[index].node.as_ref();
                let running = node.and_then(Node::running);
                let looked = durability::lets_go(running.and_then(|each| each.group(group)), *slot);
                looked.unwrap_or_else(|violation| self.fail(violation));
            }
            Note::TornTailCut { .. } => self.marks.reach(Mark::TornTailCut),
            Note::JournalLost { .. } => self.marks.reach(Mark::JournalBegunAnew),
            Note::Doubtful { .. } => {
                self.marks.reach(Mark::StartedInDoubt);
                if let Some(node) = self.hosts[index].id() {
                    self.invariants.excuse(node);
                }
            }
            Note::DoubtEnded => {
                self.marks.reach(Mark::DoubtEnded);
                self.mend(index);
            }
            Note::LogMended { .. } => self.marks.reach(Mark::LogMended),
            Note::CheckpointDamaged { .. } => self.marks.reach(Mark::CheckpointDamaged),
            Note::Engine(consensus::Note::LogCut { .. }) => self.marks.reach(Mark::LogCut),
            Note::Engine(consensus::Note::SteppedDown { reason, .. }) => {
                self.marks.reach(Mark::LeaderDeposed);
                if reason.contains("disk hangs") {
                    self.marks.reach(Mark::DiskHung);
                }
            }
            Note::Engine(consensus::Note::Campaigning { epoch, pre_vote }) if !pre_vote => {
                let before = std::mem::replace(&mut self.hosts[index].campaigned, *epoch);
                if before.next() == *epoch {
                    self.marks.reach(Mark::ElectionRepeated);
                }
            }
            Note::MembershipChanged { .. } => {
                let node = self.hosts[index].node.as_ref();
                let running = node.and_then(Node::running);
                if running.is_some_and(|each| each.engine().membership_in_force().1.is_joint()) {
                    self.marks.reach(Mark::MembershipJoint);
                }
            }
            Note::LevelRaised { .. } => self.marks.reach(Mark::LevelRaised),
            Note::Engine(consensus::Note::TwoLeaders { epoch, .. }) => self.fail(Violation {
                invariant: "election safety",
                text: format!("n{} hears a second leader of epoch {epoch}", index + 1),
            }),
            Note::CommandPanicked { slot, text } => self.fail(Violation {
                invariant: "no command panics",
                text: format!("n{} at slot {slot}: {text}", index + 1),
            }),
            Note::BadEntry { slot } => self.fail(Violation {
                invariant: "every entry can be read",
                text: format!("n{} at slot {slot}", index + 1),
            }),
            Note::BadFrame { reason } => self.fail(Violation {
                invariant: "nodes understand each other",
                text: format!("n{}: {reason}", index + 1),
            }),
            _ => {}
        }
    }

    // --- looking around

    /// The stream that draws who must serve in the end.
    pub(crate) fn core_random(&self) -> Random {
        self.streams.named("core")
    }

    /// What every node says of itself, for failures.
    pub(crate) fn picture(&self) -> String {
        let one = |(index, host): (usize, &Host)| match &host.node {
            Some(node) => {
                let status = node.status();
                format!(
                    "n{} {:?} {} epoch {} leader {:?} chosen {} applied {}\n",
                    index + 1,
                    status.role,
                    status.phase,
                    status.term,
                    status.leader,
                    status.chosen,
                    status.applied
                )
            }
            None => format!("n{} does not run: {:?}\n", index + 1, host.halted),
        };
        self.hosts.iter().enumerate().map(one).collect()
    }

    /// The host whose node leads the newest epoch.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let led = |(index, host): (usize, &Host)| {
            let glance = host.node.as_ref()?.running()?.engine().glance();
            (glance.role == consensus::Role::Leader).then_some((glance.epoch, index))
        };
        let newest = self.hosts.iter().enumerate().filter_map(led).max();
        newest.map(|(_, index)| index)
    }

    /// The hosts that somebody means.
    pub(crate) fn whom(&self, who: Who) -> Vec<usize> {
        let count = self.hosts.len();
        match who {
            Who::Host(host) => (host < count).then_some(host).into_iter().collect(),
            Who::Leader => self.leader().into_iter().collect(),
            Who::Follower(nth) => {
                let leader = self.leader();
                let others: Vec<usize> = (0..count).filter(|host| Some(*host) != leader).collect();
                match others.is_empty() {
                    true => Vec::new(),
                    false => vec![others[nth % others.len()]],
                }
            }
            Who::Everyone => (0..count).collect(),
        }
    }
}
