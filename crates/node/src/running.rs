//! A node that belongs to a cluster: its groups, the journal they share, and who hears what.
//!
//! ```text
//!                 frames, calls, completions
//!                            │ by group
//!        ┌───────────┬───────┴───┬─────────────┐
//!     group 0     group 3     group 7   …   (asleep: nothing is due)
//!        └───────────┴───┬───────┴─────────────┘
//!      records, fetches  │   │ messages
//!                 ┌──────▼┐ ┌▼──────┐
//!                 │journal│ │ peers │      one batch and one sync, one frame per node
//!                 └───────┘ └───────┘
//! ```
//!
//! A pass costs what the groups cost that something has happened to, or for which something is due;
//! the others are not looked at. What is due stands in an agenda by time.
//!
//! **Marks.** The journal numbers its flushes, an engine its writes. All that the groups have
//! appended in a pass is one flush; which write of which group it made whole is remembered until
//! the journal says that it is on stable storage.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use base::mutant::{self, Mutant};
use base::{ClusterId, GroupId, Incarnation, Instant, NodeId, Random, Slot};
use consensus::Mark;
use journal::disk::{Completion, RequestId};
use journal::{Done, Journal};

use crate::calls::Join;
use crate::checkpoints::opening_of;
use crate::config::Config;
use crate::group::journaling::{ToJournal, journal_records};
use crate::group::trust::Known;
use crate::group::{Group, META, Moment, Place};
use crate::hub::{HistoryRequest, HubId};
use crate::interface::{Answer, CallId, ConnectionId, Identity, Output};
use crate::leases;
use crate::notes::{Metrics, Note};
use crate::peers::Peers;
use crate::recovery::{Recovered, RecoveredReplica};
use crate::wire::{Frame, GroupFrame, Packet};
use open_groups::{OpenGroups, Opened};
use promises::Promises;
use pulses::Pulses;
use scrubbing::Scrubber;

mod answering;
mod choosing;
mod following;
mod leading;
mod loading;
mod moving;
mod observing;
mod open_groups;
mod pinning;
mod promises;
pub(crate) mod pulses;
mod recovering;
pub mod scrubbing;
mod showing;
mod stopping;
mod tending;
mod waking;

pub use moving::MovingLimits;

/// A node that belongs to a cluster.
pub struct Running {
    config: Config,
    pub(crate) cluster: ClusterId,
    own: NodeId,
    /// It votes and holds no data: it has the first group, and executes nothing of it.
    is_witness: bool,
    incarnation: Incarnation,
    random: Random,
    groups: OpenGroups,
    /// Which group a disk request belongs to, by the opening that its id names.
    openings: BTreeMap<u32, GroupId>,
    last_opening: u32,
    /// The highest number of a command in the groups that were closed. A keyspace may come back:
    /// what this incarnation said in it before must never look like what it says then.
    last_sequence: u64,
    /// When which group wants to be looked at.
    agenda: BTreeSet<(Instant, GroupId)>,
    /// Groups that something has happened to since they were last looked at.
    awake: Vec<GroupId>,
    journal: Journal,
    /// Fetches under way: for which opening of which group, and from which slot on.
    fetches: BTreeMap<u64, (u32, GroupId, Slot)>,
    last_fetch: u64,
    last_flush: u64,
    /// Groups with a write that is not part of a flush yet.
    unflushed: Vec<GroupId>,
    /// Flushes that are not on stable storage, and the writes that they made whole; oldest first.
    flushed: VecDeque<(u64, GroupId, Mark)>,
    /// The journal's write that was under way at the end of the pass before.
    writing: Option<RequestId>,
    /// Empty, kept for their memory.
    work: Vec<ToJournal>,
    spare: Vec<GroupId>,
    /// What groups that are closed have counted.
    counted: Metrics,
    /// When to look next who holds the oldest part of the log.
    next_pinning: Instant,
    /// Groups that were closed, with what they had promised, if that is known. The table may still
    /// name them: right after a start it is older than what the journal says.
    closed: BTreeMap<GroupId, bytes::Bytes>,
    /// The groups of keyspaces by their names, and whether this node serves them.
    places: BTreeMap<String, (GroupId, bool)>,
    /// Keyspaces on their way to other nodes.
    under_way: moving::UnderWay,
    observing: observing::Observing,
    /// What this node sees of the others while it leads the first group.
    tended: tending::Tended,
    /// Who shall lead what.
    leading: leading::Leading,
    loading: loading::Loading,
    /// This node's table has been current since its groups were last compared with it.
    is_table_current: bool,
    /// The group that was asked last to let go of its part of the log.
    last_pinning: GroupId,
    /// Groups whose beginning is not on stable storage yet, and the flush that it is part of, once
    /// there is one.
    founding: Vec<(GroupId, Option<u64>)>,
    /// Groups whose end is not on stable storage yet.
    closing: Vec<following::Closing>,
    /// One of them is no more, so that it may be opened again.
    opens_late: bool,
    /// Numbers the node's own disk requests.
    last_request: u32,
    promises: Promises,
    scrubber: Scrubber,
    /// What was told last of the keyspaces may not hold any more.
    is_directory_old: bool,
    /// When the first group last had a leader, as far as this node knows.
    meta_led_at: Instant,
    pulses: Pulses,
    /// When this pass is.
    moment: Moment,
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
        recovered: Recovered,
        random: Random,
        now: Instant,
    ) -> Result<Running, String> {
        let mut running = Running {
            config,
            cluster,
            own: identity.node,
            is_witness: identity.is_witness,
            incarnation: identity.incarnation,
            random,
            groups: OpenGroups::default(),
            openings: BTreeMap::new(),
            last_opening: 0,
            last_sequence: 0,
            agenda: BTreeSet::new(),
            awake: Vec::new(),
            journal: recovered.journal,
            fetches: BTreeMap::new(),
            last_fetch: 0,
            last_flush: 0,
            unflushed: Vec::new(),
            flushed: VecDeque::new(),
            writing: None,
            work: Vec::new(),
            spare: Vec::new(),
            counted: Metrics::default(),
            next_pinning: now,
            closed: recovered.closed,
            places: BTreeMap::new(),
            under_way: moving::UnderWay::default(),
            observing: observing::Observing::default(),
            tended: tending::Tended::default(),
            leading: leading::Leading::default(),
            loading: loading::Loading::default(),
            is_table_current: false,
            last_pinning: META,
            founding: Vec::new(),
            closing: Vec::new(),
            opens_late: false,
            last_request: 0,
            promises: Promises::new(identity.epochs, recovered.is_doubtful),
            scrubber: Scrubber::new(now),
            is_directory_old: true,
            meta_led_at: now,
            pulses: Pulses::new(now),
            moment: Moment {
                now,
                wall: base::WallTime(0),
            },
        };
        running.counted.damage_found = recovered.damage_found;
        for (group, replica) in recovered.groups {
            running.start(group, replica, now)?;
        }
        Ok(running)
    }

    /// Starts a group with what is there of it.
    fn start(
        &mut self,
        id: GroupId,
        replica: RecoveredReplica,
        now: Instant,
    ) -> Result<(), String> {
        self.last_opening += 1;
        let opening = self.last_opening;
        let place = Place {
            cluster: self.cluster,
            node: self.own,
            incarnation: self.incarnation,
            group: id,
            opening,
            last_sequence: match mutant::is_on(Mutant::NumberAnew) {
                true => 0,
                false => self.last_sequence,
            },
            is_witness: self.is_witness,
        };
        let config = self.config.clone();
        let random = self.random.fork();
        let group = Group::new(config, place, replica, random, now);
        let group = group.map_err(|reason| match id {
            META => reason,
            id => format!("group {id}: {reason}"),
        })?;
        let opened = Opened {
            group,
            opening,
            due: None,
            is_awake: false,
            unflushed: None,
            durable: None,
            asleep_below: BTreeSet::new(),
            unled: None,
            load: loading::Load::new(now),
            given_in: None,
        };
        self.openings.insert(opening, id);
        if opened.group.is_asleep() {
            let members = opened.group.membership.members.keys();
            let turn = waking::turn(id, self.own, members.clone());
            let others = members.copied().filter(|node| *node != self.own);
            self.pulses.share(id, others);
            self.pulses.waking.push(id, turn, waking::Cause::Other);
        }
        let sleeps = opened.group.is_asleep();
        self.groups.insert(id, opened);
        if !sleeps {
            self.wake(id);
        }
        Ok(())
    }

    /// Gives a group something to do; it is looked at when the pass ends. Nothing happens if it is
    /// not on this node, or has given its state up.
    fn with<T>(
        &mut self,
        id: GroupId,
        out: &mut Vec<Output>,
        act: impl FnOnce(&mut Group, &mut Vec<Output>) -> T,
    ) -> Option<T> {
        self.rouse(id, None);
        let opened = self.groups.get_mut(&id)?;
        if opened.group.is_given_up() {
            return None;
        }
        if !std::mem::replace(&mut opened.is_awake, true) {
            self.awake.push(id);
        }
        let before = out.len();
        let result = act(&mut opened.group, out);
        name_group(id, &mut out[before..]);
        Some(result)
    }

    fn wake(&mut self, id: GroupId) {
        self.rouse(id, None);
        if let Some(opened) = self.groups.get_mut(&id)
            && !std::mem::replace(&mut opened.is_awake, true)
        {
            self.awake.push(id);
        }
    }

    fn meta(&self) -> &Group {
        &self.groups.meta().group
    }

    fn meta_mut(&mut self) -> &mut Group {
        self.wake(META);
        &mut self.groups.meta_mut().group
    }

    // --- what happens

    /// A frame from a member of this cluster, or from a stranger if it is from an engine.
    pub fn frame(
        &mut self,
        moment: Moment,
        connection: ConnectionId,
        from: NodeId,
        frame: Frame,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        self.moment = moment;
        match frame {
            Frame::Engine(messages) => {
                for (id, message) in messages {
                    if !self.is_founded(id) {
                        continue;
                    }
                    self.rouse(id, Some(from));
                    self.is_awake_below(id, from);
                    self.count_round(id, &message);
                    self.with(id, out, |group, out| {
                        group.engine_said(moment, from, message, peers, out);
                    });
                }
            }
            Frame::Group(id, frame) => {
                if self.is_about_sleep(id, from, &frame) {
                    return;
                }
                if id == META && matches!(frame, GroupFrame::Facts(_)) {
                    self.heard_of(from, moment.now);
                }
                self.with(id, out, |group, out| {
                    group.frame(moment, connection, from, frame, peers, out);
                });
            }
            Frame::Pulse {
                incarnation,
                surrendered,
            } => self.pulse(from, incarnation, surrendered),
            _ => peers.nonsense(connection, "a frame that members do not send", out),
        }
    }

    /// A node asks to be let into the cluster.
    pub fn join_request(&mut self, moment: Moment, join: Join) {
        self.moment = moment;
        self.meta_mut().join_request(moment, join);
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
        self.moment = moment;
        // What sleeps goes by the pulses of nodes.
        self.missed_connections(node, by_peer);
        for id in self.shared_with(node) {
            self.with(id, out, |group, out| {
                group.peer_lost(moment, node, by_peer, peers, out);
            });
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
        self.moment = moment;
        for id in self.shared_with(node) {
            self.with(id, out, |group, out| {
                group.doubt_digest(moment.now, Some(node));
                group.peer_found(moment, node, peers, out);
            });
        }
    }

    /// The groups that another node has something to do with, and that are awake.
    fn shared_with(&self, node: NodeId) -> Vec<GroupId> {
        let groups = self.groups.iter();
        groups
            .filter(|(id, opened)| {
                let group = &opened.group;
                let concerns = **id == META
                    || group.leader == Some(node)
                    || group.membership.members.contains_key(&node);
                concerns && !group.is_asleep()
            })
            .map(|(id, _)| *id)
            .collect()
    }

    /// A disk request has ended.
    pub fn disk(
        &mut self,
        moment: Moment,
        completion: Completion,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        self.moment = moment;
        let Some(opening) = opening_of(completion.id) else {
            let (mut requests, mut done) = (Vec::new(), Vec::new());
            self.journal.complete(completion, &mut requests, &mut done);
            out.extend(requests.into_iter().map(Output::Disk));
            return self.journal_done(moment, done, peers, out);
        };
        if self.checkpoint_scrubbed(moment.now, &completion, out) {
            return;
        }
        // Else of recovery, or of a group that has been closed: nobody waits for that.
        if let Some(id) = self.openings.get(&opening).copied() {
            let opened = self.groups.get_mut(&id);
            if let Some(opened) = opened.filter(|opened| opened.group.is_given_up()) {
                return opened.group.disk(moment, completion, peers, out);
            }
            self.with(id, out, |group, out| {
                group.disk(moment, completion, peers, out);
            });
        }
    }

    /// A client no longer waits.
    pub fn forget(&mut self, now: Instant, call: CallId) {
        if let Some(id) = self.group_of_call(call)
            && let Some(opened) = self.groups.get_mut(&id)
        {
            opened.group.calls.forget(now, call);
        }
    }

    /// A long read has ended.
    pub fn job_done(&mut self, call: CallId, answer: Answer, out: &mut Vec<Output>) {
        if let Some(id) = self.group_of_call(call) {
            self.with(id, out, |group, out| group.answer(call, answer, out));
        }
    }

    /// Which group a call is under way in. Most are in the first; none is in one that sleeps, so
    /// that only those are looked at for which something is due, or that are awake in this pass.
    fn group_of_call(&self, call: CallId) -> Option<GroupId> {
        let due = self.agenda.iter().map(|(_, id)| id);
        let mut groups = std::iter::once(&META).chain(&self.awake).chain(due);
        let is_there = |id: &&GroupId| {
            let opened = self.groups.get(id);
            opened.is_some_and(|opened| opened.group.calls.is_open(call))
        };
        groups.find(is_there).copied()
    }

    /// A hub needs history.
    pub fn read_history(
        &self,
        group: GroupId,
        hub: HubId,
        request: HistoryRequest,
        out: &mut Vec<Output>,
    ) {
        let opened = self.groups.get(&group);
        if let Some(opened) = opened.filter(|opened| !opened.group.is_given_up()) {
            opened.group.read_history(hub, request, out);
        }
    }

    // --- the end of a pass

    /// Ends a pass.
    pub fn flush(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        self.moment = moment;
        self.keep_pulse(moment, peers, out);
        while let Some((at, id)) = self.agenda.first().copied()
            && at <= moment.now
        {
            self.agenda.pop_first();
            if let Some(opened) = self.groups.get_mut(&id) {
                opened.due = None;
            }
            self.wake(id);
        }
        self.free_log(moment, peers, out);
        self.forget_damaged_journal(out);
        self.scrub(moment.now, out);
        self.tend(moment, peers, out);
        self.move_replicas(moment, peers, out);
        self.spread_leaders(moment, peers, out);
        // What the journal answers at once wakes a group again, and opening one wakes it.
        while !self.awake.is_empty() {
            let mut awake = std::mem::replace(&mut self.awake, std::mem::take(&mut self.spare));
            for id in awake.drain(..) {
                self.flush_group(id, moment, peers, out);
            }
            self.spare = awake;
            self.follow_table(moment.now, out);
        }
        self.tell_keyspaces(moment.now, out);
        self.sync(out);
        self.send_after_write(peers, out);
        peers.flush(out);
        self.say_rest(peers, out);
    }

    fn flush_group(
        &mut self,
        id: GroupId,
        moment: Moment,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let Some(opened) = self.groups.get_mut(&id) else {
            return;
        };
        opened.is_awake = false;
        if opened.group.is_given_up() {
            return;
        }
        let tied = opened.group.leases_to_look_after(moment.now);
        if !tied.is_empty() {
            let orphans = leases::orphans(self.meta().replica().reader(), &tied);
            let opened = self.groups.get_mut(&id).expect("it is open");
            opened.group.end_orphans(moment.now, orphans);
        }
        let Some(opened) = self.groups.get_mut(&id) else {
            return;
        };
        let before = out.len();
        opened.group.flush(moment, peers, out);
        let mut work = std::mem::take(&mut self.work);
        opened.group.take_journal_work(&mut work);
        let done = self.journal_work(id, &mut work, out);
        self.work = work;
        let Some(opened) = self.groups.get_mut(&id) else {
            return;
        };
        let behind = opened.group.newest_checkpoint();
        let log_bytes = self.journal.bytes_since(id, behind);
        opened.group.checkpoint(moment.now, log_bytes, out);
        name_group(id, &mut out[before..]);
        self.count_load(id, moment.now);
        self.consider_sleep(id, moment.now, peers);
        let Some(opened) = self.groups.get_mut(&id) else {
            return;
        };
        let due = opened.group.deadline();
        if due != opened.due {
            if let Some(at) = std::mem::replace(&mut opened.due, due) {
                self.agenda.remove(&(at, id));
            }
            self.agenda.extend(due.map(|at| (at, id)));
        }
        self.journal_done(moment, done, peers, out);
    }

    /// Does what a group wants of the journal.
    fn journal_work(
        &mut self,
        id: GroupId,
        work: &mut Vec<ToJournal>,
        out: &mut Vec<Output>,
    ) -> Vec<Done> {
        let mut done = Vec::new();
        if work.is_empty() {
            return done;
        }
        let mut requests = Vec::new();
        let opened = self.groups.get_mut(&id).expect("a group at work is open");
        let ahead = self.config.limits.epochs_ahead;
        let mut work = work.drain(..);
        while let Some(each) = work.next() {
            if self.promises.holds(id, &each, ahead) {
                let rest = std::iter::once(each).chain(work);
                opened.group.return_journal_work(rest);
                break;
            }
            match each {
                ToJournal::Keep(record) => self.journal.append(record),
                ToJournal::Write { mark, records } => {
                    for record in records {
                        journal_records(id, record, |record| self.journal.append(record));
                    }
                    if opened.unflushed.replace(mark).is_none() {
                        self.unflushed.push(id);
                    }
                }
                ToJournal::Fetch {
                    from,
                    upto,
                    max_bytes,
                } => {
                    self.last_fetch += 1;
                    let ticket = self.last_fetch;
                    self.fetches.insert(ticket, (opened.opening, id, from));
                    let range = (from, upto, max_bytes);
                    let journal = &mut self.journal;
                    journal.fetch(
                        ticket,
                        id,
                        range.0,
                        range.1,
                        range.2,
                        &mut requests,
                        &mut done,
                    );
                }
                ToJournal::Release(upto) => self.journal.release(id, upto, &mut requests),
            }
        }
        out.extend(requests.into_iter().map(Output::Disk));
        done
    }

    /// Everything that was appended in this pass becomes one flush. The journal writes at once if
    /// its disk is idle, else together with whatever comes until it is.
    fn sync(&mut self, out: &mut Vec<Output>) {
        if self.unflushed.is_empty() && !self.has_unflushed_groups() {
            return;
        }
        self.last_flush += 1;
        self.groups_flushed(self.last_flush);
        for id in self.unflushed.drain(..) {
            let opened = self.groups.get_mut(&id);
            if let Some(mark) = opened.and_then(|opened| opened.unflushed.take()) {
                self.flushed.push_back((self.last_flush, id, mark));
            }
        }
        let mut requests = Vec::new();
        self.journal.flush(self.last_flush, &mut requests);
        out.extend(requests.into_iter().map(Output::Disk));
    }

    /// Gives what waits for the write that this pass has asked for to whoever carries that out: it
    /// leaves from there, instead of waiting for this node's next pass.
    fn send_after_write(&mut self, peers: &Peers, out: &mut Vec<Output>) {
        let writing = self.journal.writing();
        let before = std::mem::replace(&mut self.writing, writing.map(|(request, _)| request));
        // One that was asked for earlier may have ended already.
        let Some((request, Some(flush))) = writing.filter(|(each, _)| before != Some(*each)) else {
            return;
        };
        let mut packets: BTreeMap<NodeId, Packet> = BTreeMap::new();
        let mut frames = Vec::new();
        // What a leader writes may wait as well; nobody is told by it alone.
        let mut can_wait = false;
        for (_, id, mark) in self.flushed.iter().take_while(|(each, ..)| *each <= flush) {
            let Some(opened) = self.groups.get_mut(id) else {
                continue;
            };
            can_wait |= opened.group.engine.waits_for_others();
            for (to, message) in opened.group.take_held(*mark) {
                let full = packets
                    .entry(to)
                    .or_default()
                    .add(*id, message, peers.packet_bytes());
                frames.extend(peers.route_to(to).zip(full));
            }
        }
        let rest = packets.iter_mut();
        frames.extend(rest.filter_map(|(to, packet)| peers.route_to(*to).zip(packet.take())));
        if can_wait || !frames.is_empty() {
            out.push(Output::FramesAfter { request, frames });
        }
    }

    /// Whether the end of a write that was given out with [`Output::FramesAfter`] can wait until
    /// something else happens.
    #[must_use]
    pub fn is_patient(&self) -> bool {
        let mut written = self.flushed.iter();
        !self.journal.has_waiting()
            && !self.waits_for_groups()
            && written.all(|(_, id, _)| {
                let opened = self.groups.get(id);
                opened.is_none_or(|opened| opened.group.is_patient())
            })
    }

    /// When something has to be done next if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        // Asked for after every pass: one comparison each.
        let mut next = self.agenda.first().map(|(at, _)| *at);
        let mut also = |at: Option<Instant>| {
            next = match (next, at) {
                (Some(next), Some(at)) => Some(next.min(at)),
                (next, at) => next.or(at),
            };
        };
        also(self.scrub_deadline());
        also(self.pulses.deadline(self.moment.now));
        also(self.tending_deadline());
        also(self.moving_deadline());
        also(self.leading_deadline());
        next
    }

    // --- the node as a whole

    /// What this node knows of the node that says it has this id and name.
    #[must_use]
    pub fn known(&self, node: NodeId, name: &str) -> Known {
        self.meta().known(node, name)
    }

    /// Whether this node has executed its own removal and is about to stop.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.meta().is_leaving()
    }

    /// This node has been told that it was removed: says so to those who asked for it.
    pub fn answer_own_removal(&mut self, out: &mut Vec<Output>) {
        self.meta_mut().answer_own_removal(out);
    }

    /// Answers everything that is under way with an error.
    pub fn fail_all(&mut self, error: etcd::Error, out: &mut Vec<Output>) {
        for opened in self.groups.values_mut() {
            for (id, kind) in opened.group.calls.close_all() {
                let answer = kind.failure(error);
                out.push(Output::Answer { id, answer });
            }
        }
    }
}

/// Notes of other groups than the first say whose they are.
fn name_group(id: GroupId, outputs: &mut [Output]) {
    if id == META {
        return;
    }
    for output in outputs {
        if let Output::Note(note) = output
            && !matches!(note, Note::InGroup { .. })
        {
            let told = std::mem::replace(note, Note::Stopping);
            *note = told.of(id);
        }
    }
}
