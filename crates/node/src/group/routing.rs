//! Carries out what the engine says, and gives it what follows from that.

use std::sync::Arc;

use base::mutant::{self, Mutant};
use base::{Epoch, NodeId};
use consensus::{Engine as _, Mark, Membership, Message, Payload, Refusal, Ticket};

use super::commands::RunningTime;
use super::journaling::ToJournal;
use super::{Group, META, Moment};
use crate::calls::Waiter;
use crate::interface::{Answer, Output};
use crate::leases::LeaseOutcome;
use crate::notes::Note;
use crate::operator::Asker;
use crate::peers::Peers;
use crate::replica::{Executed, Outcome};

/// Room for so many outputs of the engine is kept from pass to pass.
const SPARE_OUTPUTS: usize = 16;

impl Group {
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
            let spare = std::mem::take(&mut self.spare_outputs);
            let mut outputs = std::mem::replace(&mut self.outputs, spare);
            for output in outputs.drain(..) {
                self.route_one(moment, output, peers, out);
            }
            // What a burst needed is not kept for ever.
            if outputs.capacity() <= SPARE_OUTPUTS {
                self.spare_outputs = outputs;
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
                _ => peers.say(self.id, to, message, out),
            },
            Engine::Write { mark, records } => {
                self.to_journal.push(ToJournal::Write { mark, records });
            }
            Engine::Fetch {
                from,
                upto,
                max_bytes,
            } => self.to_journal.push(ToJournal::Fetch {
                from,
                upto,
                max_bytes,
            }),
            Engine::Chosen { entries } => {
                self.window_full = false;
                self.unexecuted.extend(entries.iter().cloned());
                self.execute_chosen(moment, out);
            }
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
                self.membership_changed(Arc::unwrap_or_clone(membership), peers, out);
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
            if matches!(asker, Asker::Client(_) | Asker::ClientOf { .. }) {
                return self.change_refused(asker, reason, peers, out);
            }
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
        let helpers = self.members.helpers(self.engine.membership_in_force());
        let helpers = helpers.into_iter().flat_map(|each| &each.members);
        let addresses: Vec<String> = membership
            .members
            .iter()
            .chain(helpers)
            .filter(|(id, _)| **id != self.own)
            .map(|(_, member)| member.peer_address.clone())
            .collect();
        // All nodes of the cluster belong to its first group.
        if self.id == META {
            peers.dial_only(&addresses, out);
        }
        if membership != self.membership {
            let voters = membership.voters.len();
            let learners = membership.members.len() - voters;
            out.push(Output::Note(Note::MembershipChanged { voters, learners }));
        }
        self.membership = membership;
        self.membership_changed = true;
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
            self.doubt_digest(moment.now, None);
        } else {
            let queue = self.queue.take_all();
            self.return_commands(queue, None, peers, out);
        }
        if leader.is_some() {
            self.members.led(moment.now);
            self.metrics.leader_changes += 1;
            self.metrics.first_leader_changes += u64::from(self.id == META);
            self.calls.resend_everything();
            self.calls.leader_known();
            if self.readiness.led() && self.id == META {
                self.calls.ask_whether_current();
            }
        }
    }

    /// A member's name, or its id if it is not known.
    pub(crate) fn name_of(&self, node: NodeId) -> String {
        let member = self.membership.members.get(&node);
        member.map_or_else(|| node.to_string(), |member| member.name.clone())
    }

    /// Executes chosen entries, as many as this pass may, and answers what this node's clients wait
    /// for.
    pub(super) fn execute_chosen(&mut self, moment: Moment, out: &mut Vec<Output>) {
        let most = self.config.limits.execution_bytes;
        let has_room = !self.unexecuted.is_empty() && self.executed_in_pass < most;
        // Who has met a level that it does not know stops when its pass ends, and no sooner.
        if !has_room || !self.replica.knows_level() {
            return;
        }
        let (mut executed, mut notes) = (std::mem::take(&mut self.executed), Vec::new());
        while self.executed_in_pass < most
            && let Some(mut entry) = self.unexecuted.pop_front()
        {
            self.executed_in_pass += entry.bytes();
            let repeats = self.readiness.repeats();
            if repeats && mutant::is_on(Mutant::SkipOnReplay) && entry.slot.0 % 8 == 0 {
                entry.payload = Payload::Empty;
            }
            let changes_membership = matches!(entry.payload, Payload::Membership(_));
            let was_member = self.replica.membership().members.contains_key(&self.own);
            self.replica
                .execute(entry, &mut executed, &mut self.metrics, &mut notes);
            let digest = (self.replica.applied(), self.replica.digest());
            let remembered = self.config.limits.digests.remembered;
            self.digests.executed(digest.0, digest.1, remembered);
            self.remember_header();
            let is_member = self.replica.membership().members.contains_key(&self.own);
            // Who leaves a keyspace closes its group when the table says so.
            if changes_membership && was_member && !is_member && self.id == META {
                // The others must still learn that this was chosen; then there is nothing left.
                self.removed_at = Some(moment.now + self.config.timing.election_timeout * 2);
                notes.push(Note::Removed);
                self.answer_own_removal(out);
            }
            if !self.replica.knows_level() {
                // What stands behind this entry does what only newer builds know.
                break;
            }
        }
        out.extend(notes.into_iter().map(Output::Note));
        if !self.goes_on(out) {
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
            (Some(Waiter::Call { call, .. }), Outcome::Maintenance(result)) => match result {
                Ok(Some(response)) => self.answer_maintenance(call, Ok(response), out),
                Ok(None) => {}
                Err(error) => self.fail(call, error, out),
            },
            (Some(Waiter::Call { call, .. }), Outcome::Leases(Some(outcome))) => {
                let result = match outcome {
                    LeaseOutcome::Followed(true) => Ok(()),
                    LeaseOutcome::Followed(false) => Err(etcd::Error::LeaseOfOther),
                    LeaseOutcome::Renewed(_) | LeaseOutcome::Expired(_) => {
                        Err(etcd::Error::Timeout)
                    }
                };
                self.answer(call, Answer::ParentsFollowed(result), out);
            }
            (Some(Waiter::Call { call, .. }), Outcome::Unknown) => {
                self.fail(call, etcd::Error::Timeout, out);
            }
            (Some(Waiter::Call { call, .. }), Outcome::System(result)) => {
                let done = result.map(|()| "it gets its vote by itself".to_owned());
                self.answer(call, Answer::Operator(done), out);
            }
            (Some(Waiter::Call { call, .. }), Outcome::Meta(result)) => {
                self.answer(call, Answer::Operator(result), out);
            }
            (Some(Waiter::Wish { call, change }), Outcome::System(Ok(()))) => {
                self.members.wish_granted(call, change);
            }
            (Some(Waiter::Wish { call, .. }), _) => self.fail(call, etcd::Error::Timeout, out),
            (
                Some(Waiter::Call {
                    call,
                    until_compacted,
                }),
                outcome,
            ) => {
                let result = match outcome {
                    Outcome::Etcd(result) => result,
                    Outcome::System(_)
                    | Outcome::Leases(_)
                    | Outcome::Maintenance(_)
                    | Outcome::Meta(_)
                    | Outcome::Unknown => Err(etcd::Error::Timeout),
                };
                match result {
                    Ok(response) if until_compacted && self.replica.compaction_pending() => {
                        // However much there is to free, and however slowly, as in etcd.
                        self.calls.take_time(call);
                        self.compacting.push((call, response));
                    }
                    Ok(response) => self.answer_etcd(call, Ok(response), out),
                    Err(error) => self.fail(call, error, out),
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
