//! Commands on their way into the log: from here to the leader, and on the leader into entries.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{Instant, NodeId};
use consensus::Refusal;
use state::Origin;

use super::{Group, Moment, Proposal};
use crate::batch::{self, COMMAND_OVERHEAD, OriginatedCommand};
use crate::calls::{Admittance, Waiter};
use crate::interface::{ConnectionId, Output};
use crate::peers::Peers;
use crate::system::{self, SystemCommand};
use crate::wire::{ForwardedCommand, GroupFrame};

/// Commands on the leader that are not in an entry yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    commands: VecDeque<OriginatedCommand>,
    bytes: usize,
}

impl Queue {
    /// What a command counts for, here and in an entry.
    fn size(command: &OriginatedCommand) -> usize {
        command.command.len() + COMMAND_OVERHEAD
    }

    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    fn push(&mut self, command: OriginatedCommand) {
        self.bytes += Queue::size(&command);
        self.commands.push_back(command);
    }

    /// Takes as many as fit into one entry: at least one, if there is one.
    fn take(&mut self, most: usize, most_bytes: usize) -> Vec<OriginatedCommand> {
        let mut bytes = 0;
        let fits = self
            .commands
            .iter()
            .take(most.max(1))
            .take_while(|command| {
                bytes += Queue::size(command);
                bytes <= most_bytes
            });
        let count = fits.count().max(1).min(self.commands.len());
        let taken: Vec<OriginatedCommand> = self.commands.drain(..count).collect();
        self.bytes -= taken.iter().map(Queue::size).sum::<usize>();
        taken
    }

    /// Puts what was taken last back to where it was.
    fn put_back(&mut self, commands: Vec<OriginatedCommand>) {
        self.bytes += commands.iter().map(Queue::size).sum::<usize>();
        commands
            .into_iter()
            .rev()
            .for_each(|command| self.commands.push_front(command));
    }

    pub(super) fn take_all(&mut self) -> Vec<OriginatedCommand> {
        self.bytes = 0;
        std::mem::take(&mut self.commands).into()
    }
}

/// How long this leader has been running since its last entry. A pause of the process counts at
/// most one election timeout a pass: by then another may lead, and its time counts.
#[derive(Debug)]
pub(super) struct RunningTime {
    gathered: Duration,
    last_pass: Instant,
    gap_max: Duration,
}

impl RunningTime {
    pub(super) fn new(now: Instant, gap_max: Duration) -> RunningTime {
        RunningTime {
            gathered: Duration::ZERO,
            last_pass: now,
            gap_max,
        }
    }

    /// Another pass begins.
    pub(super) fn pass(&mut self, now: Instant) {
        let passed = now.since(self.last_pass);
        self.gathered += match mutant::is_on(Mutant::WrongLeaseClock) {
            true => passed,
            false => passed.min(self.gap_max),
        };
        self.last_pass = now;
    }

    /// What the next entry could say: whole microseconds.
    pub(super) fn whole(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.gathered.as_micros()).unwrap_or(u64::MAX))
    }

    /// The time for the next entry.
    fn take(&mut self) -> Duration {
        let taken = self.whole();
        self.gathered -= taken;
        taken
    }

    fn put_back(&mut self, elapsed: Duration) {
        self.gathered += elapsed;
    }
}

impl Group {
    /// Commands that another node's clients sent.
    pub(super) fn forwarded(
        &mut self,
        connection: ConnectionId,
        from: NodeId,
        commands: Vec<ForwardedCommand>,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let Some(incarnation) = peers.who(connection).map(|hello| hello.incarnation) else {
            return;
        };
        let limits = &self.config.limits;
        let bytes: usize = commands
            .iter()
            .map(|each| each.command.len() + COMMAND_OVERHEAD)
            .sum();
        // One frame always fits, or what is too much for an empty queue would never be taken.
        let overloaded = self.leads()
            && !self.queue.is_empty()
            && (self.queue.commands.len() + commands.len() > limits.queued_commands
                || self.queue.bytes + bytes > limits.queued_bytes);
        if !self.leads() || overloaded {
            let sequences = commands.iter().map(|each| each.sequence).collect();
            let leader = self.leader;
            let refused = GroupFrame::Refused {
                sequences,
                leader,
                overloaded,
            };
            peers.send(from, refused.encode(self.id), out);
            return;
        }
        let origin = Origin {
            node: from,
            incarnation,
            sequence: 0,
        };
        self.enqueue(origin, commands);
    }

    fn enqueue(&mut self, origin: Origin, commands: Vec<ForwardedCommand>) {
        for ForwardedCommand {
            sequence,
            protocol,
            command,
        } in commands
        {
            let origin = Origin { sequence, ..origin };
            self.queue.push(OriginatedCommand {
                origin,
                protocol,
                command,
            });
        }
    }

    /// Takes in a command of the node itself. If there is no room for it, it is dropped: whoever
    /// wants it asks again.
    pub(super) fn add_system_command(
        &mut self,
        now: Instant,
        command: &SystemCommand,
        waiter: Waiter,
    ) {
        let deadline = now + self.config.timing.request_timeout;
        let added = self.calls.add_command(
            system::PROTOCOL,
            command.encode(),
            waiter,
            deadline,
            Admittance::Reserved,
        );
        self.metrics.calls_refused += u64::from(added.is_err());
    }

    /// Sends this node's commands to the leader, wherever it is.
    pub(super) fn send_commands(&mut self, now: Instant, peers: &Peers, out: &mut Vec<Output>) {
        let Some(leader) = self.leader.filter(|_| self.calls.can_send(now)) else {
            return;
        };
        let mut commands = self.calls.take_unsent(now);
        if leader == self.own {
            return self.enqueue(self.origin, commands);
        }
        let limits = &self.config.limits;
        while !commands.is_empty() {
            let count = fitting(&commands, limits.entry_commands, limits.entry_bytes);
            let rest = commands.split_off(count);
            let sent = commands.len() as u64;
            let first = commands[0].sequence;
            let body = GroupFrame::Forward(commands).encode(self.id);
            if !peers.send(leader, body, out) {
                // Nothing of this can have arrived, and nothing behind it was sent.
                self.calls.not_sent(first, now + limits.resend_delay);
                return;
            }
            self.metrics.commands_forwarded += sent;
            commands = rest;
        }
    }

    /// Whether there is something to propose, and room for it.
    pub(super) fn can_propose(&self) -> bool {
        self.leads() && !self.window_full && !self.queue.is_empty()
    }

    /// On the leader: puts what is queued into entries.
    pub(super) fn propose(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        while self.can_propose() && self.proposed_in_pass < self.config.limits.pass_bytes {
            let limits = &self.config.limits;
            let commands = self.queue.take(limits.entry_commands, limits.entry_bytes);
            let elapsed = self.running_time.take();
            self.leases.next_clock_entry = moment.now + self.config.limits.leases.clock_interval;
            let body = batch::encode(moment.wall, elapsed, &commands);
            self.proposed_in_pass += body.len();
            let ticket = self.calls.next_ticket();
            self.proposals
                .insert(ticket, Proposal { commands, elapsed });
            let input = consensus::Input::Propose {
                ticket,
                commands: body,
            };
            self.drive(moment, input, peers, out);
        }
    }

    /// A proposal was certainly not made.
    pub(super) fn proposal_refused(
        &mut self,
        moment: Moment,
        proposal: Proposal,
        reason: &Refusal,
        peers: &Peers,
        out: &mut Vec<Output>,
    ) {
        if *reason == Refusal::WindowFull && self.leads() {
            self.window_full = true;
            self.running_time.put_back(proposal.elapsed);
            self.queue.put_back(proposal.commands);
            return;
        }
        let pause = moment.now + self.config.limits.resend_delay;
        self.return_commands(proposal.commands, Some(pause), peers, out);
    }

    /// Gives commands that will not be proposed here back to their origins.
    pub(super) fn return_commands(
        &mut self,
        commands: Vec<OriginatedCommand>,
        resend_at: Option<Instant>,
        peers: &Peers,
        out: &mut Vec<Output>,
    ) {
        let mut by_origin: BTreeMap<NodeId, Vec<u64>> = BTreeMap::new();
        for command in commands {
            by_origin
                .entry(command.origin.node)
                .or_default()
                .push(command.origin.sequence);
        }
        for (origin, sequences) in by_origin {
            if origin == self.own {
                self.calls.refused(sequences, resend_at);
            } else {
                let refused = GroupFrame::Refused {
                    sequences,
                    leader: self.leader,
                    overloaded: false,
                };
                peers.send(origin, refused.encode(self.id), out);
            }
        }
    }
}

/// How many commands fit into one frame: at least one.
fn fitting(commands: &[ForwardedCommand], most: usize, most_bytes: usize) -> usize {
    let mut bytes = 0;
    let fits = commands.iter().take(most.max(1)).take_while(|each| {
        bytes += each.command.len() + COMMAND_OVERHEAD;
        bytes <= most_bytes
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspended_leader_counts_one_gap_and_no_time_is_lost_between_entries() {
        let timeout = Duration::from_millis(500);
        let mut time = RunningTime::new(Instant(0), timeout);
        time.pass(Instant(100_000_500));
        assert_eq!(time.take(), Duration::from_millis(100));
        time.pass(Instant(100_000_500) + Duration::from_secs(3600));
        let taken = time.take();
        assert_eq!(taken, timeout, "an hour of sleep is not running time");
        time.put_back(taken);
        time.pass(Instant(100_001_000) + Duration::from_secs(3600));
        // The 500 ns of the first pass were kept, and make a whole microsecond with these.
        assert_eq!(time.take(), timeout + Duration::from_micros(1));
    }

    #[test]
    fn a_queue_gives_back_what_was_put_back_in_order() {
        let command = |sequence| OriginatedCommand {
            origin: Origin {
                node: NodeId(1),
                incarnation: base::Incarnation(1),
                sequence,
            },
            protocol: 0,
            command: bytes::Bytes::from_static(b"12345"),
        };
        let mut queue = Queue::default();
        (1..=3).for_each(|sequence| queue.push(command(sequence)));
        let taken = queue.take(10, 2 * (5 + COMMAND_OVERHEAD));
        assert_eq!(taken.len(), 2);
        queue.put_back(taken);
        assert_eq!(queue.bytes, 3 * (5 + COMMAND_OVERHEAD));
        assert_eq!(
            queue.take(10, 1).len(),
            1,
            "one larger than an entry still fits alone"
        );
        let rest: Vec<u64> = queue
            .take_all()
            .iter()
            .map(|each| each.origin.sequence)
            .collect();
        assert_eq!(rest, [2, 3]);
    }
}
