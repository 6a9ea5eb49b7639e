//! Carries out what the engine says, and gives it what follows from that.

use base::mutant::{self, Mutant};
use base::{Epoch, NodeId};
use bytes::Bytes;
use consensus::{
    Engine as _, Entry, Mark, Membership, Message, Payload, PayloadKind, Record, Refusal, Ticket,
};
use journal::RecordKind;

use super::commands::RunningTime;
use super::{GROUP, Moment, Running};
use crate::calls::Waiter;
use crate::interface::{Halt, Output};
use crate::notes::Note;
use crate::peers::Peers;
use crate::replica::{Executed, Outcome};
use crate::wire::Frame;

impl Running {
    /// Gives the engine one input and carries out what it says.
    pub(crate) fn drive(
        &mut self,
        moment: Moment,
        input: consensus::Input,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        self.engine.step(moment.now, input, &mut self.outputs);
        self.route(moment, peers, out);
    }

    /// Carries out everything that the engine has said, and what follows from it.
    pub(super) fn route(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        while !self.outputs.is_empty() {
            let outputs = std::mem::take(&mut self.outputs);
            for output in outputs {
                self.route_one(moment, output, peers, out);
            }
        }
    }

    pub(super) fn route_one(
        &mut self,
        moment: Moment,
        output: consensus::Output,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        use consensus::Output as Engine;
        match output {
            Engine::Send { to, message, after } => match after {
                Some(mark) if mark > self.durable => self.hold(mark, to, message),
                _ => {
                    peers.send(to, Frame::Engine(message).encode(), out);
                }
            },
            Engine::Write { mark, records } => {
                records
                    .into_iter()
                    .for_each(|record| self.journal.append(journal_record(record)));
                self.flush_journal(mark, out);
            }
            Engine::Fetch {
                from,
                upto,
                max_bytes,
            } => {
                let (mut requests, mut done) = (Vec::new(), Vec::new());
                self.journal.fetch(
                    from.0,
                    GROUP,
                    from,
                    upto,
                    max_bytes,
                    &mut requests,
                    &mut done,
                );
                out.extend(requests.into_iter().map(Output::Disk));
                self.journal_done(moment, done, peers, out);
            }
            Engine::Chosen { entries } => self.execute(moment, entries, out),
            Engine::Proposed { ticket, .. } => {
                if let Some(proposal) = self.proposals.remove(&ticket) {
                    self.metrics.entries_proposed += 1;
                    self.metrics.commands_proposed += proposal.commands.len() as u64;
                }
            }
            Engine::ReadReady { ticket, slot } => self.calls.round_ready(ticket, slot),
            Engine::Done { ticket } => {
                if let Some((asker, success)) = self.operators.engine_answered(ticket) {
                    self.operated(asker, Ok(success), peers, out);
                }
            }
            Engine::Refuse { ticket, reason, .. } => {
                self.refused(moment, ticket, &reason, peers, out);
            }
            Engine::MembershipChanged { membership } => {
                self.membership_changed(membership, peers, out);
            }
            Engine::Epoch { epoch, leader } => self.epoch(moment, epoch, leader, peers, out),
            Engine::ReadPiece {
                to,
                checkpoint,
                offset,
                length,
            } => {
                self.checkpoints
                    .read_piece(to, checkpoint, offset, length, out);
            }
            Engine::StorePiece {
                checkpoint,
                offset,
                bytes,
            } => {
                self.checkpoints.store_piece(checkpoint, offset, bytes, out);
            }
            Engine::InstallSnapshot { checkpoint } => self.checkpoints.install(checkpoint, out),
            Engine::Note(note) => out.push(Output::Note(Note::Engine(note))),
        }
    }

    /// Keeps a message until its mark is durable, in the order of the marks.
    pub(super) fn hold(&mut self, mark: Mark, to: NodeId, message: Message) {
        let behind = self.held.iter().rposition(|(held, _, _)| *held <= mark);
        self.held
            .insert(behind.map_or(0, |index| index + 1), (mark, to, message));
    }

    pub(super) fn refused(
        &mut self,
        moment: Moment,
        ticket: Ticket,
        reason: &Refusal,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        if let Some(proposal) = self.proposals.remove(&ticket) {
            self.proposal_refused(moment, proposal, reason, peers, out);
        } else if let Some((asker, _)) = self.operators.engine_answered(ticket) {
            self.operated(asker, Err(crate::operator::explain(reason)), peers, out);
        } else {
            self.calls
                .round_refused(ticket, moment.now, self.config.limits.resend_delay);
        }
    }

    pub(super) fn membership_changed(
        &mut self,
        membership: Membership,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let addresses: Vec<String> = membership
            .members
            .iter()
            .filter(|(id, _)| **id != self.own)
            .map(|(_, member)| member.peer_address.clone())
            .collect();
        peers.dial_only(&addresses, out);
        if membership != self.membership {
            let voters = membership.voters.len();
            let learners = membership.members.len() - voters;
            out.push(Output::Note(Note::MembershipChanged { voters, learners }));
        }
        self.membership = membership;
    }

    pub(super) fn epoch(
        &mut self,
        moment: Moment,
        epoch: Epoch,
        leader: Option<NodeId>,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let changed = self.leader != leader || (leader.is_some() && self.epoch != epoch);
        self.epoch = epoch;
        self.leader = leader;
        if !changed {
            return;
        }
        let name = leader.map(|leader| self.name_of(leader));
        out.push(Output::Note(Note::LeaderChanged {
            epoch,
            leader: name,
        }));
        self.window_full = false;
        self.leases.leader_changed();
        if self.leads() {
            self.running_time = RunningTime::new(moment.now, self.config.timing.election_timeout);
        } else {
            let queue = self.queue.take_all();
            self.return_commands(queue, None, peers, out);
        }
        if leader.is_some() {
            self.metrics.leader_changes += 1;
            self.calls.resend_everything();
            self.calls.leader_known();
            if !std::mem::replace(&mut self.ready_told, true) {
                out.push(Output::Ready);
            }
        }
    }

    /// A member's name, or its id if it is not known.
    pub(crate) fn name_of(&self, node: NodeId) -> String {
        let member = self.membership.members.get(&node);
        member.map_or_else(|| node.to_string(), |member| member.name.clone())
    }

    /// Executes chosen entries and answers what this node's clients wait for.
    pub(super) fn execute(&mut self, moment: Moment, entries: Vec<Entry>, out: &mut Vec<Output>) {
        let (mut executed, mut notes) = (std::mem::take(&mut self.executed), Vec::new());
        self.window_full = false;
        for mut entry in entries {
            if !self.ready_told && mutant::is_on(Mutant::SkipOnReplay) && entry.slot.0 % 8 == 0 {
                entry.payload = Payload::Empty;
            }
            let changes_membership = matches!(entry.payload, Payload::Membership(_));
            let was_member = self.replica.membership().members.contains_key(&self.own);
            self.replica
                .execute(entry, &mut executed, &mut self.metrics, &mut notes);
            let is_member = self.replica.membership().members.contains_key(&self.own);
            if changes_membership && was_member && !is_member {
                // The others must still learn that this was chosen; then there is nothing left.
                self.removed_at = Some(moment.now + self.config.timing.election_timeout * 2);
                notes.push(Note::Removed);
            }
        }
        out.extend(notes.into_iter().map(Output::Note));
        let level = self.replica.reader().level();
        if level > state::LEVEL_MAX {
            out.push(Output::Halt(Halt::Refused(format!(
                "the group's state has been raised to level {level}, this version of Quorate knows \
                 levels up to {}; start this node with the version that the others run",
                state::LEVEL_MAX
            ))));
            return;
        }
        // Before the answers: see the type.
        self.publish_changes(out);
        for each in executed.drain(..) {
            self.answer_executed(each, out);
        }
        self.executed = executed;
        let clock = self.replica.reader().clock();
        self.leases.saw_clock(clock, moment.now);
        let slot = self.replica.applied();
        self.engine.step(
            moment.now,
            consensus::Input::Applied { slot },
            &mut self.outputs,
        );
    }

    pub(super) fn answer_executed(&mut self, executed: Executed, out: &mut Vec<Output>) {
        let Executed { sequence, outcome } = executed;
        match (self.calls.executed(sequence), outcome) {
            (
                Some(Waiter::Call {
                    call,
                    until_compacted,
                }),
                outcome,
            ) => {
                let result = match outcome {
                    Outcome::Etcd(result) => result,
                    Outcome::System(_) | Outcome::Leases(_) | Outcome::Unknown => {
                        Err(etcd::Error::Timeout)
                    }
                };
                match result {
                    Ok(response) if until_compacted && self.replica.compaction_pending() => {
                        self.compacting.push((call, response));
                    }
                    result => self.answer_etcd(call, result, out),
                }
            }
            (Some(Waiter::Joiner { connection, member }), Outcome::System(result)) => {
                self.answer_claim(connection, member, result, out);
            }
            (Some(Waiter::Renewals(renewals)), outcome) => self.renewed(renewals, outcome, out),
            (Some(Waiter::Expiry), outcome) => self.expired(&outcome),
            (Some(Waiter::Joiner { .. } | Waiter::Nobody) | None, _) => {}
        }
    }
}

/// How the journal keeps what an engine writes.
fn journal_record(record: Record) -> journal::Record {
    let (kind, slot, epoch, body) = match record {
        Record::HardState(hard_state) => (
            RecordKind::HardState,
            hard_state.chosen,
            hard_state.epoch,
            hard_state.encode(),
        ),
        Record::Entry(entry) => {
            let (kind, body) = entry.payload.to_body();
            let kind = match kind {
                PayloadKind::Commands => RecordKind::Entry,
                PayloadKind::Membership => RecordKind::MembershipEntry,
            };
            (kind, entry.slot, entry.epoch, body)
        }
        Record::SnapshotInstalled { slot, epoch } => {
            (RecordKind::SnapshotInstalled, slot, epoch, Bytes::new())
        }
    };
    journal::Record {
        group: GROUP,
        kind,
        slot,
        epoch,
        body,
    }
}

/// The engine's view of an entry that the journal read back and verified.
pub(super) fn fetched_entry(fetched: journal::FetchedEntry) -> Option<Entry> {
    let kind = match fetched.kind {
        RecordKind::Entry => PayloadKind::Commands,
        RecordKind::MembershipEntry => PayloadKind::Membership,
        RecordKind::HardState | RecordKind::SnapshotInstalled => return None,
    };
    let payload = Payload::from_body(kind, fetched.body).ok()?;
    Some(Entry {
        slot: fetched.slot,
        epoch: fetched.epoch,
        payload,
    })
}
