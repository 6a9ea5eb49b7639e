//! What clients wait for.
//!
//! This node is the *origin* of the commands its clients send: it numbers them, sends them to the
//! leader (itself or another node), and answers from its own execution of the chosen entry, so a
//! leader change loses no result. A command stays here until it has been executed or its time is
//! up. Sending it again is always allowed: the state executes each sequence number at most once.
//!
//! ```text
//!             ┌────────── refused, or another leader ─────────┐
//!             ▼                                               │
//! command ▶ unsent ──▶ sent ──(executed here)──▶ answered     ├─▶ time is up: "timed out, unknown"
//!    read ▶ unasked ──▶ in a round ──▶ waiting for a slot ──▶ answered
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{Instant, NodeId, Slot};
use bytes::Bytes;
use consensus::Ticket;
use etcd::auth::Caller;
use state::LeaseId;

use crate::batch::COMMAND_OVERHEAD;
use crate::interface::{Answer, CallId, ConnectionId};
use crate::wire::{ForwardedCommand, MemberChange};

/// What kind of answer a call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// A key-value call of etcd.
    Etcd,
    /// Renewals of leases.
    Renewals,
    /// What is known of leases.
    ParentLeases,
    /// Telling a group about leases of the first one.
    FollowParents,
    /// Which leases keys go with.
    TiedLeases,
    /// etcd's list of members.
    EtcdMemberList,
    /// A change of etcd's members.
    EtcdCluster,
    /// A call of etcd's maintenance service.
    EtcdMaintenance,
    /// Readiness.
    Ready,
    /// An operator's request.
    Operator,
}

impl CallKind {
    /// The answer that says "the time is up, and nobody knows what came of it".
    #[must_use]
    pub fn failure(self, error: etcd::Error) -> Answer {
        match self {
            CallKind::Etcd => Answer::Etcd(Err(error)),
            CallKind::Renewals => Answer::LeasesRenewed(Err(error)),
            CallKind::ParentLeases => Answer::ParentLeases(Err(error)),
            CallKind::FollowParents => Answer::ParentsFollowed(Err(error)),
            CallKind::TiedLeases => Answer::TiedLeases(Err(error)),
            CallKind::EtcdMemberList => Answer::EtcdMemberList(Err(error)),
            CallKind::EtcdCluster => Answer::EtcdCluster(Err(error)),
            CallKind::EtcdMaintenance => Answer::EtcdMaintenance(Err(error)),
            CallKind::Ready => Answer::Ready(Err(error.text().to_string())),
            CallKind::Operator => Answer::Operator(Err(error.text().to_string())),
        }
    }
}

/// What a call is told whose time is up. etcd tells apart how it would have gone about it, and so
/// do its clients' retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It asks which slot is current: "request timed out".
    Read,
    /// It proposes something, which without a leader does not even begin.
    Proposal,
    /// It is handed to the leader, of which there may be none.
    ForLeader,
}

/// A call whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Which.
    pub call: CallId,
    /// What kind of answer it gets.
    pub kind: CallKind,
    /// What it is told.
    pub late: Late,
    /// Whether its command has been sent, if it has one.
    pub has_left: Option<bool>,
}

/// The leases that one call renews.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewals {
    /// Who is answered.
    pub call: CallId,
    /// Which, in the order in which they are answered.
    pub leases: Vec<LeaseId>,
    /// Those that the call named besides, by their places in it, and why they are not renewed.
    pub refused: Vec<(usize, etcd::Error)>,
}

/// Whether a command is let in where others are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admittance {
    /// As long as there is room.
    Ordinary,
    /// Into the reserve as well: it makes room, or keeps alive what would end otherwise.
    Reserved,
}

/// Who waits for a command of this origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// A client.
    Call {
        /// Its call.
        call: CallId,
        /// It asked for a compaction and wants to hear when the space is free.
        until_compacted: bool,
    },
    /// A node that wants to join.
    Joiner {
        /// Where to answer.
        connection: ConnectionId,
        /// Whose place it claims.
        member: NodeId,
    },
    /// Calls that have renewed leases, all with one command.
    Renewals(Vec<Renewals>),
    /// A client that adds a member, which is done next.
    Wish {
        /// Its call.
        call: CallId,
        /// What is done next.
        change: MemberChange,
    },
    /// This node, which leads and ends leases.
    Expiry,
    /// This node itself; nobody is told.
    Nobody,
}

/// A command that has not been executed here yet.
#[derive(Clone, Debug)]
struct Command {
    protocol: u8,
    bytes: Bytes,
    waiter: Waiter,
    deadline: Instant,
    /// When it was sent, unless it has to be sent (again).
    sent_at: Option<Instant>,
    /// It was sent at least once: nobody can say that it will not execute.
    left: bool,
}

impl Command {
    /// What it counts for.
    fn size(&self) -> usize {
        self.bytes.len() + COMMAND_OVERHEAD
    }
}

/// There is no room for another command; this one is certainly not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// What a read is for.
#[derive(Debug)]
pub enum ReadKind {
    /// A read of etcd's keys.
    Etcd(etcd::Read),
    /// What is known of leases, and whether whoever asks may attach keys to them.
    ParentLeases(Option<Arc<Caller>>, Vec<LeaseId>),
    /// Which leases keys go with.
    TiedLeases(Vec<LeaseId>),
    /// etcd's list of members.
    EtcdMemberList,
    /// The members after a change.
    EtcdCluster,
    /// What a request of etcd's maintenance service reads.
    EtcdMaintenance(etcd::MaintenanceRequest),
    /// Only whether a round succeeds.
    Ready,
    /// Whether a node that wants to join has been added: only a current membership tells.
    Join(Join),
    /// The node itself: once this is answered, its replica has been current.
    Current,
}

/// A node that asks to be let in. No call of a client stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Where to answer.
    pub connection: ConnectionId,
    /// The name that an operator has added.
    pub name: String,
    /// Where it will be reached: a member may have been added without a name.
    pub address: String,
    /// It is to hold no data.
    pub is_witness: bool,
    /// Identifies the folder that asks.
    pub claimant: NodeId,
    /// When it has asked again, and this request counts no more.
    pub deadline: Instant,
}

/// A read that waits for its round or its slot.
#[derive(Debug)]
pub struct PendingRead {
    /// Who asked; nobody who waits for a call, if it is [`ReadKind::Join`] or
    /// [`ReadKind::Current`].
    pub call: Option<CallId>,
    /// What for.
    pub kind: ReadKind,
}

/// A call that has not been answered yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    kind: CallKind,
    deadline: Instant,
    late: Late,
    /// The command that it waits for, if it waits for one.
    sequence: Option<u64>,
    /// It has waited for another command before, which may have been executed.
    has_waited: bool,
}

/// Everything that clients of this node wait for.
#[derive(Debug)]
pub struct Calls {
    limits: CallLimits,
    open: BTreeMap<CallId, Open>,
    /// Open calls by deadline.
    expiry: BTreeSet<(Instant, CallId)>,
    last_sequence: u64,
    commands: BTreeMap<u64, Command>,
    command_bytes: usize,
    /// Bytes of commands that were sent and neither executed nor refused since.
    sent_bytes: usize,
    unsent: BTreeSet<u64>,
    resend_at: Option<Instant>,
    /// When to look for commands that were sent long ago.
    look_for_stale_at: Instant,
    unasked: Vec<PendingRead>,
    ask_again_at: Option<Instant>,
    rounds: BTreeMap<Ticket, Vec<PendingRead>>,
    waiting: BTreeMap<Slot, Vec<PendingRead>>,
    /// Calls that were given up since it was last looked which reads nobody waits for.
    given_up: usize,
    /// When there are so many it is looked again.
    given_up_most: usize,
    last_ticket: u64,
}

/// It costs nothing to keep so many reads that nobody waits for.
const GIVEN_UP_LEAST: usize = 64;

/// What bounds the calls of one node.
#[derive(Clone, Copy, Debug)]
pub struct CallLimits {
    /// Bytes of commands that wait to be executed here; more are refused.
    pub command_bytes: usize,
    /// So many bytes more of commands that make room: renewals, deletes, compaction.
    pub reserved_bytes: usize,
    /// Bytes of commands that are on their way to the leader and not executed yet.
    pub window_bytes: usize,
    /// A command that was sent this long ago is sent again: a frame may have been lost without
    /// the connection that this node looks at being closed.
    pub resend_after: Duration,
}

/// The earlier of two moments, as far as there are any. Deadlines are asked for in every pass,
/// where nearly always there are none: iterators cost more than that.
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Calls {
    /// Nobody waits for anything. The first command gets the number after `last_sequence`.
    #[must_use]
    pub fn new(limits: CallLimits, last_sequence: u64) -> Calls {
        Calls {
            limits,
            open: BTreeMap::new(),
            expiry: BTreeSet::new(),
            last_sequence,
            commands: BTreeMap::new(),
            command_bytes: 0,
            sent_bytes: 0,
            unsent: BTreeSet::new(),
            resend_at: None,
            look_for_stale_at: Instant(0),
            unasked: Vec::new(),
            ask_again_at: None,
            rounds: BTreeMap::new(),
            waiting: BTreeMap::new(),
            given_up: 0,
            given_up_most: GIVEN_UP_LEAST,
            last_ticket: 0,
        }
    }

    /// A client asks for something; it is answered by `deadline`.
    pub fn open(&mut self, call: CallId, kind: CallKind, deadline: Instant) {
        let open = Open {
            kind,
            deadline,
            late: Late::Read,
            sequence: None,
            has_waited: false,
        };
        let before = self.open.insert(call, open);
        assert!(before.is_none(), "a call id is never used twice");
        self.expiry.insert((deadline, call));
    }

    /// What a call is told if its time is up: unless this says so, that of a read, or of a
    /// proposal if it has a command.
    pub fn set_late(&mut self, call: CallId, late: Late) {
        if let Some(open) = self.open.get_mut(&call) {
            open.late = late;
        }
    }

    /// A call is no longer answered by its time: what it asked for is done, and it waits for what
    /// comes of that, as long as its client does.
    pub fn take_time(&mut self, call: CallId) {
        if let Some(open) = self.open.get(&call) {
            self.expiry.remove(&(open.deadline, call));
        }
    }

    /// The number of the newest command.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Ends a call; `None` if the client no longer waits.
    pub fn close(&mut self, call: CallId) -> Option<CallKind> {
        let open = self.open.remove(&call)?;
        self.expiry.remove(&(open.deadline, call));
        Some(open.kind)
    }

    /// The client no longer waits. A command that never left this node is dropped, and so are reads
    /// once there are many of them: where nobody leads they would pile up as fast as they come.
    pub fn forget(&mut self, now: Instant, call: CallId) {
        let sequence = self.open.get(&call).and_then(|open| open.sequence);
        self.given_up += usize::from(self.close(call).is_some());
        if self.given_up >= self.given_up_most {
            self.forget_closed_reads(now);
        }
        // Others may wait for the same renewals; and a wish for a vote is taken back otherwise.
        let is_its_own =
            |command: &Command| !command.left && matches!(command.waiter, Waiter::Call { .. });
        if let Some(sequence) = sequence
            && self.commands.get(&sequence).is_some_and(is_its_own)
        {
            self.remove_command(sequence);
        }
    }

    /// Whether somebody still waits for this call.
    #[must_use]
    pub fn is_open(&self, call: CallId) -> bool {
        self.open.contains_key(&call)
    }

    /// The number of calls under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.open.len()
    }

    /// Ends every call, for a node that stops.
    pub fn close_all(&mut self) -> Vec<(CallId, CallKind)> {
        self.expiry.clear();
        let open = std::mem::take(&mut self.open);
        open.into_iter()
            .map(|(call, open)| (call, open.kind))
            .collect()
    }

    /// The first moment at which something has to be done. Commands can only be sent while a
    /// leader is known.
    #[must_use]
    pub fn deadline(&self, leader_known: bool) -> Option<Instant> {
        let expiry = self.expiry.first().map(|(deadline, _)| *deadline);
        let command = self
            .commands
            .first_key_value()
            .map(|(_, command)| command.deadline);
        let resend = self
            .resend_at
            .filter(|_| leader_known && !self.unsent.is_empty());
        let stale = (leader_known && self.sent_bytes > 0).then_some(self.look_for_stale_at);
        let ask = self.ask_again_at.filter(|_| !self.unasked.is_empty());
        let others = [command, resend, stale, ask];
        others.into_iter().fold(expiry, earlier)
    }

    /// When the first of these calls is no longer waited for.
    pub fn first_deadline(&self, calls: &[CallId]) -> Option<Instant> {
        let open = calls.iter().filter_map(|call| self.open.get(call));
        open.map(|open| open.deadline).min()
    }

    /// Calls whose time is up; their commands may still execute.
    pub fn expire(&mut self, now: Instant) -> Vec<Expired> {
        let mut expired = Vec::new();
        while let Some((deadline, call)) = self.expiry.first().copied()
            && deadline <= now
        {
            let open = self.open.remove(&call).expect("what expires is open");
            self.expiry.pop_first();
            let has_left = open.sequence.map(|sequence| {
                let command = self.commands.get(&sequence);
                open.has_waited || command.is_none_or(|command| command.left)
            });
            // What is told so certainly is not to be sent a moment later.
            if let Some(sequence) = open.sequence.filter(|_| has_left == Some(false))
                && self.commands[&sequence].deadline <= now
            {
                self.remove_command(sequence);
            }
            expired.push(Expired {
                call,
                kind: open.kind,
                late: open.late,
                has_left,
            });
        }
        // Sequences grow with time, and with them the deadlines.
        while let Some((sequence, command)) = self.commands.first_key_value()
            && command.deadline <= now
        {
            let sequence = *sequence;
            self.remove_command(sequence);
        }
        if !expired.is_empty() {
            self.forget_closed_reads(now);
        }
        self.find_stale(now);
        expired
    }

    /// Drops reads that nobody waits for, so that a long time without a leader, or with a slow
    /// replica, cannot pile them up. They hold whole requests.
    fn forget_closed_reads(&mut self, now: Instant) {
        let open = &self.open;
        let is_open = |read: &PendingRead| match (&read.kind, read.call) {
            (ReadKind::Join(join), _) => join.deadline > now,
            (ReadKind::Current, _) => true,
            (_, call) => call.is_some_and(|call| open.contains_key(&call)),
        };
        self.unasked.retain(is_open);
        self.rounds
            .values_mut()
            .for_each(|reads| reads.retain(is_open));
        self.waiting.retain(|_, reads| {
            reads.retain(is_open);
            !reads.is_empty()
        });
        // Looked through again when as many have been given up as are left now: so each costs a
        // constant, and no more is kept in vain than somebody waits for.
        let in_rounds = self.rounds.values().chain(self.waiting.values());
        let left = self.unasked.len() + in_rounds.map(Vec::len).sum::<usize>();
        (self.given_up, self.given_up_most) = (0, left.max(GIVEN_UP_LEAST));
    }

    // --- commands

    /// Takes a command in; it is sent with the next pass.
    ///
    /// # Errors
    /// If there is no room for it; it is certainly not done then.
    pub fn add_command(
        &mut self,
        protocol: u8,
        bytes: Bytes,
        waiter: Waiter,
        deadline: Instant,
        admittance: Admittance,
    ) -> Result<(), NoRoom> {
        let total = self.command_bytes + bytes.len() + COMMAND_OVERHEAD;
        let most = match admittance {
            Admittance::Ordinary => self.limits.command_bytes,
            Admittance::Reserved => self.limits.command_bytes + self.limits.reserved_bytes,
        };
        if total > most && !self.commands.is_empty() {
            return Err(NoRoom);
        }
        self.command_bytes = total;
        self.last_sequence += 1;
        match &waiter {
            Waiter::Call { call, .. } => {
                self.set_late(*call, Late::Proposal);
                self.waits_for(*call, self.last_sequence);
            }
            Waiter::Wish { call, .. } => self.waits_for(*call, self.last_sequence),
            Waiter::Renewals(renewals) => {
                for each in renewals {
                    self.waits_for(each.call, self.last_sequence);
                }
            }
            Waiter::Joiner { .. } | Waiter::Expiry | Waiter::Nobody => {}
        }
        let command = Command {
            protocol,
            bytes,
            waiter,
            deadline,
            sent_at: None,
            left: false,
        };
        self.commands.insert(self.last_sequence, command);
        self.unsent.insert(self.last_sequence);
        Ok(())
    }

    fn waits_for(&mut self, call: CallId, sequence: u64) {
        if let Some(open) = self.open.get_mut(&call) {
            open.has_waited |= open.sequence.is_some();
            open.sequence = Some(sequence);
        }
    }

    fn remove_command(&mut self, sequence: u64) -> Option<Waiter> {
        let command = self.commands.remove(&sequence)?;
        self.command_bytes -= command.size();
        if command.sent_at.is_some() {
            self.sent_bytes -= command.size();
        }
        self.unsent.remove(&sequence);
        Some(command.waiter)
    }

    /// Whether commands can be sent now.
    #[must_use]
    pub fn can_send(&self, now: Instant) -> bool {
        !self.unsent.is_empty()
            && self.resend_at.is_none_or(|at| at <= now)
            && self.sent_bytes < self.limits.window_bytes
    }

    /// The commands to send now, in order: as many as the window has room for, at least one.
    pub fn take_unsent(&mut self, now: Instant) -> Vec<ForwardedCommand> {
        self.resend_at = None;
        if self.sent_bytes == 0 {
            self.look_for_stale_at = now + self.limits.resend_after;
        }
        let mut taken = Vec::new();
        while self.sent_bytes < self.limits.window_bytes
            && let Some(sequence) = self.unsent.pop_first()
        {
            let command = self
                .commands
                .get_mut(&sequence)
                .expect("unsent commands are kept");
            command.sent_at = Some(now);
            command.left = true;
            self.sent_bytes += command.size();
            taken.push(ForwardedCommand {
                sequence,
                protocol: command.protocol,
                command: command.bytes.clone(),
            });
        }
        taken
    }

    /// These were certainly not proposed: send them again, now or after a pause.
    pub fn refused(
        &mut self,
        sequences: impl IntoIterator<Item = u64>,
        resend_at: Option<Instant>,
    ) {
        for sequence in sequences {
            self.take_back(sequence);
        }
        self.resend_at = match (self.resend_at, resend_at) {
            (Some(earlier), Some(later)) => Some(earlier.min(later)),
            (_, resend_at) => resend_at,
        };
    }

    /// What was taken last could not be sent, from this sequence number on.
    pub fn not_sent(&mut self, first: u64, resend_at: Instant) {
        let sequences: Vec<u64> = self
            .commands
            .range(first..)
            .map(|(each, _)| *each)
            .collect();
        self.refused(sequences, Some(resend_at));
    }

    /// A command that was sent is to be sent again.
    fn take_back(&mut self, sequence: u64) {
        if let Some(command) = self.commands.get_mut(&sequence)
            && command.sent_at.take().is_some()
        {
            self.sent_bytes -= command.size();
            self.unsent.insert(sequence);
        }
    }

    /// What was sent may be lost (another leader, a broken connection): send everything again.
    pub fn resend_everything(&mut self) {
        let sent: Vec<u64> = self.commands.keys().copied().collect();
        sent.into_iter()
            .for_each(|sequence| self.take_back(sequence));
        self.resend_at = None;
    }

    /// Commands that were sent long ago are sent again.
    fn find_stale(&mut self, now: Instant) {
        if self.sent_bytes == 0 || now < self.look_for_stale_at {
            return;
        }
        self.look_for_stale_at = now + self.limits.resend_after;
        let age = self.limits.resend_after;
        let stale: Vec<u64> = self
            .commands
            .iter()
            .filter(|(_, command)| command.sent_at.is_some_and(|at| at + age <= now))
            .map(|(sequence, _)| *sequence)
            .collect();
        stale
            .into_iter()
            .for_each(|sequence| self.take_back(sequence));
    }

    /// A command of this origin was executed (or skipped as a repetition): who waits for it?
    pub fn executed(&mut self, sequence: u64) -> Option<Waiter> {
        self.remove_command(sequence)
    }

    // --- reads

    /// Takes a linearizable read in; its round begins with the next pass.
    pub fn add_read(&mut self, call: CallId, kind: ReadKind) {
        let call = Some(call);
        self.unasked.push(PendingRead { call, kind });
    }

    /// Asks when this node's replica is current; its round begins with the next pass.
    pub fn ask_whether_current(&mut self) {
        let kind = ReadKind::Current;
        self.unasked.push(PendingRead { call: None, kind });
    }

    /// Takes in that a node wants to join; of what it asked before only the newest counts.
    pub fn add_join(&mut self, now: Instant, join: Join) {
        self.forget_closed_reads(now);
        self.unasked.retain(|read| match &read.kind {
            ReadKind::Join(other) => other.claimant != join.claimant,
            _ => true,
        });
        let kind = ReadKind::Join(join);
        self.unasked.push(PendingRead { call: None, kind });
    }

    /// Whether a claim to this member's place is under way.
    #[must_use]
    pub fn is_claimed(&self, member: NodeId) -> bool {
        self.commands.values().any(|command| match command.waiter {
            Waiter::Joiner {
                member: claimed, ..
            } => claimed == member,
            _ => false,
        })
    }

    /// A ticket for a new round with every read that waits for one.
    pub fn begin_round(&mut self, now: Instant) -> Option<Ticket> {
        if self.unasked.is_empty() || self.ask_again_at.is_some_and(|at| at > now) {
            return None;
        }
        self.ask_again_at = None;
        let ticket = self.next_ticket();
        self.rounds
            .insert(ticket, std::mem::take(&mut self.unasked));
        Some(ticket)
    }

    /// A ticket that was never used before.
    pub fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    /// A round is complete: its reads wait until `slot` is executed.
    pub fn round_ready(&mut self, ticket: Ticket, slot: Slot) {
        if let Some(reads) = self.rounds.remove(&ticket) {
            self.waiting.entry(slot).or_default().extend(reads);
        }
    }

    /// A round failed: its reads begin another one, after a pause. Tells whether it was a round.
    pub fn round_refused(&mut self, ticket: Ticket, now: Instant, pause: Duration) -> bool {
        let Some(reads) = self.rounds.remove(&ticket) else {
            return false;
        };
        self.unasked.extend(reads);
        self.ask_again_at = Some(now + pause);
        true
    }

    /// A leader is known: do not wait any longer with what was put off.
    pub fn leader_known(&mut self) {
        self.ask_again_at = None;
    }

    /// Reads that may be answered now that everything up to `applied` is executed.
    pub fn take_ready(&mut self, applied: Slot) -> Vec<PendingRead> {
        let mut ready = Vec::new();
        // Asked in every pass, and nearly always there are none.
        if self.waiting.is_empty() {
            return ready;
        }
        while let Some(first) = self.waiting.first_entry()
            && (*first.key() <= applied || mutant::is_on(Mutant::ReadBeforeExecuted))
        {
            ready.extend(first.remove());
        }
        ready
    }
}

#[cfg(test)]
mod tests;
