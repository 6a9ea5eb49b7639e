//! The stage of the transcripts: hosts, and a network that does what the script says.

mod paxos;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{Instant, NodeId};
use bytes::Bytes;
use quorate_consensus::message::{Body, FollowerState, Position};
use quorate_consensus::{
    Change, Config, Engine, EngineKind, Entry, Input, Limits, Liveness, Member, Membership,
    Message, Note, Output, Payload, Record, Tail, Ticket,
};

use crate::cluster::{Disk, Host, Task};

const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);

struct Packet {
    from: NodeId,
    to: NodeId,
    message: Message,
}

/// Everything on the stage.
#[derive(Default)]
pub(crate) struct Story {
    kind: EngineKind,
    now: Instant,
    hosts: BTreeMap<NodeId, Host>,
    down: BTreeMap<NodeId, Disk>,
    packets: Vec<Packet>,
    kept: BTreeMap<String, Packet>,
    cut: BTreeSet<(NodeId, NodeId)>,
    hanging: BTreeSet<NodeId>,
    /// Where a snapshot that is whole takes long to install.
    installing: BTreeSet<NodeId>,
    /// Only what matters is told while time passes.
    quiet: bool,
    starts: u64,
    tickets: u64,
    lines: Vec<String>,
}

fn node(word: &str) -> NodeId {
    NodeId(word.parse().expect("a node's number"))
}

fn link(word: &str) -> (NodeId, NodeId) {
    let (from, to) = word.split_once("->").expect("a link like 1->2");
    (node(from), node(to))
}

fn duration(word: &str) -> Duration {
    Duration::from_millis(word.trim_end_matches("ms").parse().expect("milliseconds"))
}

impl Story {
    /// Carries out one command and returns what there is to tell.
    pub(crate) fn command(&mut self, command: &str) -> Vec<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["engine", name] => self.kind = name.parse().expect("an engine"),
            ["nodes", ref ids @ ..] => self.nodes(ids),
            ["join", id] => self.start(node(id), Disk::default()),
            ["campaign", id] => self.campaign(node(id)),
            ["deliver"] => self.deliver(None),
            ["deliver", on] => self.deliver(Some(link(on))),
            ["disk", id, "hangs"] => drop(self.hanging.insert(node(id))),
            ["disk", id, "works"] => {
                self.hanging.remove(&node(id));
                if self.hosts.contains_key(&node(id)) {
                    self.settle(node(id));
                }
            }
            ["installing", id, "hangs"] => drop(self.installing.insert(node(id))),
            ["installing", id, "works"] => {
                self.installing.remove(&node(id));
                self.settle(node(id));
            }
            ["durable", id] => self.durable(node(id), usize::MAX),
            ["durable", id, count] => self.durable(node(id), count.parse().expect("a number")),
            ["advance", time] => self.advance(duration(time)),
            ["sleep", time] => self.now = self.now + duration(time),
            ["propose", id, ref texts @ ..] => self.propose(node(id), texts),
            ["read", id] => self.ask(node(id), |ticket| Input::ReadRound { ticket }),
            ["transfer", id] => self.ask(node(id), |ticket| Input::Transfer { ticket, to: None }),
            ["transfer", id, to] => {
                let to = Some(node(to));
                self.ask(node(id), |ticket| Input::Transfer { ticket, to });
            }
            ["change", id, what, whom] => self.change(node(id), what, node(whom)),
            ["checkpoint", id] => self.checkpoint(node(id), 0),
            ["checkpoint", id, kept] => self.checkpoint(node(id), kept.parse().expect("a number")),
            ["crash", id] => {
                let host = self.hosts.remove(&node(id)).expect("it is up");
                self.down.insert(node(id), host.crash(0));
            }
            ["restart", id] => self.restart(node(id), 0),
            ["restart", id, "damaged", lost] => {
                self.restart(node(id), lost.parse().expect("a number"));
            }
            ["closed", id, peer] => self.hint(node(id), node(peer), Liveness::ConnectionClosed),
            ["reachable", id, peer] => self.hint(node(id), node(peer), Liveness::Reachable),
            ["status"] => self.status(),
            ["log", id] => self.log(node(id)),
            _ => self.links(&words),
        }
        if self.lines.is_empty() {
            self.lines.push("ok".to_owned());
        }
        let mut told: Vec<(String, usize)> = Vec::new();
        for line in self.lines.drain(..) {
            match told.last_mut() {
                Some((last, times)) if *last == line => *times += 1,
                _ => told.push((line, 1)),
            }
        }
        let repeated = |(line, times)| match times {
            1 => line,
            times => format!("{line} ({times} times)"),
        };
        told.into_iter().map(repeated).collect()
    }

    /// Commands about the network.
    fn links(&mut self, words: &[&str]) {
        match words[..] {
            ["drop", on] => {
                let (from, to) = link(on);
                self.packets
                    .retain(|packet| (packet.from, packet.to) != (from, to));
            }
            ["keep", on, name] => {
                let (from, to) = link(on);
                let mut packets = self.packets.iter();
                let index = packets.position(|packet| (packet.from, packet.to) == (from, to));
                let packet = self.packets.remove(index.expect("a message is on its way"));
                self.lines
                    .push(format!("kept {}", describe_packet(&packet)));
                self.kept.insert(name.to_owned(), packet);
            }
            ["replay", name] => {
                let packet = self
                    .kept
                    .remove(name)
                    .expect("a message of that name was kept");
                self.arrive(packet);
            }
            ["forge", name, on] => {
                let packet = self.kept.get_mut(name);
                let packet = packet.expect("a message of that name was kept");
                (packet.from, packet.to) = link(on);
            }
            ["cut", a, b] => self.cut.extend([(node(a), node(b)), (node(b), node(a))]),
            ["mend"] => self.cut.clear(),
            _ => panic!("unknown command: {words:?}"),
        }
    }

    fn nodes(&mut self, ids: &[&str]) {
        let member = |id: &&str| {
            (
                node(id),
                Member {
                    name: format!("n{id}"),
                    ..nobody()
                },
            )
        };
        let members: BTreeMap<NodeId, Member> = ids.iter().map(member).collect();
        let voters: BTreeSet<NodeId> = members.keys().copied().collect();
        let genesis = Membership {
            members,
            voters: voters.clone(),
            ..Membership::default()
        };
        self.quiet = true;
        for id in voters {
            self.start(
                id,
                Disk {
                    genesis: genesis.clone(),
                    ..Disk::default()
                },
            );
        }
        self.quiet = false;
        self.lines
            .retain(|line| !line.ends_with("nobody leads") && !line.contains("voters"));
    }

    fn start(&mut self, id: NodeId, disk: Disk) {
        let limits = Limits {
            piece_bytes: 64,
            pieces_in_flight: 2,
            promotion_lag_slots: 2,
            window_entries: 8,
            ..Limits::default()
        };
        let config = Config {
            id,
            election_timeout: ELECTION_TIMEOUT,
            heartbeat_interval: HEARTBEAT_INTERVAL,
            limits,
        };
        self.starts += 1;
        let mut host = Host::start(self.kind, config, disk, self.starts, self.now);
        host.filler = 128;
        self.hosts.insert(id, host);
        self.settle(id);
    }

    fn restart(&mut self, id: NodeId, lost: usize) {
        let mut disk = self.down.remove(&id).expect("it is down");
        for _ in 0..lost {
            disk.entries.pop_last();
            disk.tail = Tail::Uncertain;
        }
        self.start(id, disk);
    }

    fn campaign(&mut self, id: NodeId) {
        let deadline = self.hosts[&id]
            .engine
            .deadline()
            .expect("it has a deadline");
        self.now = self.now.max(deadline);
        self.give(id, Input::Deadline);
    }

    fn give(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        self.hosts.get_mut(&id).expect("it is up").step(now, input);
        self.settle(id);
    }

    /// Ends the pass, and lets everything happen that needs nobody else.
    fn settle(&mut self, id: NodeId) {
        let now = self.now;
        loop {
            let hangs = self.hanging.contains(&id);
            let host = self.hosts.get_mut(&id).expect("it is up");
            host.flush(now);
            let said = std::mem::take(&mut host.said);
            let outgoing = std::mem::take(&mut host.outgoing);
            let works = match host.tasks.front() {
                Some(Task::Install { .. }) => !self.installing.contains(&id),
                next => next.is_some(),
            };
            let is_idle = (host.writes.is_empty() || hangs) && !works;
            if works {
                host.complete_task(now);
            } else if !hangs {
                host.complete_write(now);
            }
            for output in said {
                self.tell(id, &output);
            }
            for (to, message) in outgoing {
                if !self.cut.contains(&(id, to)) {
                    self.packets.push(Packet {
                        from: id,
                        to,
                        message,
                    });
                }
            }
            if is_idle {
                return;
            }
        }
    }

    fn durable(&mut self, id: NodeId, count: usize) {
        let now = self.now;
        let host = self.hosts.get_mut(&id).expect("it is up");
        for _ in 0..count.min(host.writes.len()) {
            host.complete_write(now);
        }
        self.settle(id);
    }

    fn arrive(&mut self, packet: Packet) {
        if !self.quiet {
            self.lines.push(describe_packet(&packet));
        }
        if self.hosts.contains_key(&packet.to) && !self.cut.contains(&(packet.from, packet.to)) {
            self.give(
                packet.to,
                Input::Peer {
                    from: packet.from,
                    message: packet.message,
                },
            );
        }
    }

    fn deliver(&mut self, on: Option<(NodeId, NodeId)>) {
        for _ in 0..500 {
            let fits = |packet: &Packet| on.is_none_or(|on| on == (packet.from, packet.to));
            let Some(index) = self.packets.iter().position(fits) else {
                return;
            };
            let packet = self.packets.remove(index);
            self.arrive(packet);
        }
        panic!("messages without end");
    }

    fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        self.quiet = true;
        loop {
            self.deliver(None);
            let deadlines = self
                .hosts
                .iter()
                .filter_map(|(id, host)| host.engine.deadline().map(|deadline| (deadline, *id)));
            let Some((at, id)) = deadlines.min().filter(|(at, _)| *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            self.give(id, Input::Deadline);
        }
        self.now = until;
        self.quiet = false;
    }

    fn ask(&mut self, id: NodeId, input: impl Fn(Ticket) -> Input) {
        self.tickets += 1;
        let input = input(Ticket(self.tickets));
        self.give(id, input);
    }

    /// Several proposals arrive in one pass.
    fn propose(&mut self, id: NodeId, texts: &[&str]) {
        for text in texts {
            self.tickets += 1;
            let commands = Bytes::from(text.trim_matches('"').to_owned());
            let input = Input::Propose {
                ticket: Ticket(self.tickets),
                commands,
            };
            let now = self.now;
            self.hosts.get_mut(&id).expect("it is up").step(now, input);
        }
        self.settle(id);
    }

    fn change(&mut self, id: NodeId, what: &str, whom: NodeId) {
        let member = Member {
            name: format!("n{}", whom.0),
            ..nobody()
        };
        let change = match what {
            "add" => Change::AddLearner { id: whom, member },
            "promote" => Change::Promote(whom),
            "remove" => Change::Remove(whom),
            _ => panic!("unknown change: {what}"),
        };
        self.ask(id, |ticket| Input::Reconfigure {
            ticket,
            change: change.clone(),
        });
    }

    fn checkpoint(&mut self, id: NodeId, kept: u64) {
        let now = self.now;
        let host = self.hosts.get_mut(&id).expect("it is up");
        assert!(
            host.take_checkpoint(now, kept),
            "there is something to checkpoint"
        );
        let line = format!("{}: log starts behind {}", id.0, host.disk.start.0);
        self.settle(id);
        self.lines.push(line);
    }

    fn hint(&mut self, id: NodeId, peer: NodeId, liveness: Liveness) {
        self.give(id, Input::Hint { peer, liveness });
    }

    fn status(&mut self) {
        for (id, host) in &self.hosts {
            let view = host.engine.view();
            let leader = view
                .leader
                .map_or("nobody".to_owned(), |leader| leader.0.to_string());
            let unsure = if host.engine.hard_state().uncertain {
                ", uncertain"
            } else {
                ""
            };
            self.lines.push(format!(
                "{}: {:?} in epoch {}, follows {leader}; last {} durable {} chosen {} executed \
                 {}; {}{unsure}",
                id.0,
                view.role,
                view.epoch,
                view.last,
                view.durable,
                view.chosen,
                host.replica.applied,
                describe_membership(&view.membership),
            ));
            for peer in &view.progress {
                let snapshot = if peer.receiving_snapshot {
                    ", gets a snapshot"
                } else {
                    ""
                };
                self.lines
                    .push(format!("   {} has {}{snapshot}", peer.id.0, peer.matched));
            }
        }
    }

    fn log(&mut self, id: NodeId) {
        let disk = &self.hosts[&id].disk;
        self.lines
            .push(format!("behind {}/{}", disk.start.0, disk.start.1));
        self.lines.extend(disk.entries.values().map(describe_entry));
    }

    fn tell(&mut self, id: NodeId, output: &Output) {
        if let Some(line) = describe_output(output, self.quiet) {
            self.lines.push(format!("{}: {line}", id.0));
        }
    }
}

fn nobody() -> Member {
    Member {
        name: String::new(),
        peer_address: String::new(),
    }
}

fn describe_membership(membership: &Membership) -> String {
    let list = |ids: &mut dyn Iterator<Item = &NodeId>| {
        ids.map(|id| id.0.to_string()).collect::<Vec<_>>().join(" ")
    };
    let mut text = format!("voters {}", list(&mut membership.voters.iter()));
    if membership.is_joint() {
        text += &format!(", outgoing {}", list(&mut membership.outgoing.iter()));
    }
    let is_learner = |id: &&NodeId| !membership.is_voter(**id);
    if membership.members.keys().any(|id| is_learner(&id)) {
        text += &format!(
            ", learners {}",
            list(&mut membership.members.keys().filter(is_learner))
        );
    }
    text
}

fn describe_entry(entry: &Entry) -> String {
    let content = match &entry.payload {
        Payload::Empty => "-".to_owned(),
        Payload::Header => "#".to_owned(),
        Payload::Commands(commands) => String::from_utf8_lossy(commands).into_owned(),
        Payload::Membership(membership) => format!("[{}]", describe_membership(membership)),
    };
    format!("{}/{} {content}", entry.slot, entry.epoch)
}

fn describe_entries(entries: &[Entry]) -> String {
    entries
        .iter()
        .map(describe_entry)
        .collect::<Vec<_>>()
        .join(", ")
}

fn describe_record(record: &Record) -> String {
    match record {
        Record::HardState(state) => {
            let vote = state
                .vote
                .map_or("nobody".to_owned(), |vote| vote.0.to_string());
            let unsure = if state.uncertain { " uncertain" } else { "" };
            format!(
                "(epoch {} vote {vote} chosen {}{unsure})",
                state.epoch, state.chosen
            )
        }
        Record::Entries(entries) => describe_entries(entries),
        Record::SnapshotInstalled { slot, epoch } => format!("snapshot at {slot}/{epoch}"),
        Record::LogStarts { slot, epoch } => format!("starts behind {slot}/{epoch}"),
        Record::Accepted { ballot, entries } if entries.iter().all(|e| e.epoch == *ballot) => {
            describe_entries(entries)
        }
        Record::Accepted { ballot, entries } => {
            format!("{} under {ballot}", describe_entries(entries))
        }
    }
}

fn describe_output(output: &Output, quiet: bool) -> Option<String> {
    let leads = |leader: &Option<NodeId>| leader.map_or("nobody".into(), |id| id.0.to_string());
    Some(match output {
        Output::Send {
            to,
            message,
            after: Some(mark),
        } if !quiet => {
            format!("after write {} to {}: {}", mark.0, to.0, describe(message))
        }
        Output::Send { .. } => return None,
        Output::Write { mark, records } if !quiet => {
            let records: Vec<String> = records.iter().map(describe_record).collect();
            format!("writes {}: {}", mark.0, records.join(", "))
        }
        Output::Write { .. } => return None,
        Output::Chosen { entries } => format!("executes {}", describe_entries(entries)),
        Output::Proposed {
            ticket,
            slot,
            epoch,
        } => {
            format!("proposal {} stands at {slot}/{epoch}", ticket.0)
        }
        Output::ReadReady { ticket, slot } => format!("read {} is ready at {slot}", ticket.0),
        Output::Done { ticket } => format!("request {} is done", ticket.0),
        Output::Refuse {
            ticket,
            reason,
            leader,
        } => {
            format!(
                "request {} is refused: {reason:?}, ask {}",
                ticket.0,
                leads(leader)
            )
        }
        Output::MembershipChanged { membership } => describe_membership(membership),
        Output::Epoch { epoch, leader } => format!("epoch {epoch}, {} leads", leads(leader)),
        Output::Fetch { from, upto, .. } => format!("fetches {from}..={upto}"),
        Output::ReadPiece {
            to, offset, length, ..
        } => {
            format!("reads {length} bytes at {offset} for {}", to.0)
        }
        Output::StorePiece { offset, bytes, .. } => {
            format!("stores {} bytes at {offset}", bytes.len())
        }
        Output::InstallSnapshot { checkpoint } => format!("installs up to {}", checkpoint.slot),
        Output::Note(note) => describe_note(note),
    })
}

fn describe_note(note: &Note) -> String {
    match note {
        Note::BecameLeader { epoch } => format!("* leads epoch {epoch}"),
        Note::SteppedDown { epoch, reason } => format!("* stops leading epoch {epoch}: {reason}"),
        Note::Campaigning {
            epoch,
            pre_vote: true,
        } => format!("* would lead epoch {epoch}?"),
        Note::Campaigning {
            epoch,
            pre_vote: false,
        } => format!("* campaigns in epoch {epoch}"),
        Note::LogCut { from } => format!("* cuts its log from {from}"),
        Note::MessageDropped { from, reason } => {
            format!("* drops a message of {}: {reason}", from.0)
        }
        Note::TwoLeaders {
            epoch,
            known,
            other,
        } => format!(
            "* TWO LEADERS in epoch {epoch}: {} and {}",
            known.0, other.0
        ),
        Note::Abdicating { successor } => {
            format!("* is slower than it was: hands over to {}", successor.0)
        }
        Note::SendingSnapshot { to, slot } => format!("* sends a snapshot at {slot} to {}", to.0),
    }
}

fn describe_packet(packet: &Packet) -> String {
    format!(
        "{}->{} {}",
        packet.from.0,
        packet.to.0,
        describe(&packet.message)
    )
}

fn at(position: &Position) -> String {
    format!("{}/{}", position.slot, position.epoch)
}

fn describe(message: &Message) -> String {
    let body = match &message.body {
        Body::PreVote { last, occasion, .. } => format!("pre-vote? log {}, {occasion:?}", at(last)),
        Body::PreVoteReply {
            ahead: Some(end), ..
        } => format!("pre-vote no, mine ends at {}", at(end)),
        Body::PreVoteReply { granted, .. } => format!("pre-vote {}", yes_or_no(*granted)),
        Body::Pull { after } => format!("what follows {}?", at(after)),
        Body::Suffix { previous, entries } => {
            format!("after {} [{}]", at(previous), describe_entries(entries))
        }
        Body::Vote { last, occasion } => format!("vote? log {}, {occasion:?}", at(last)),
        Body::VoteReply { granted } => format!("vote {}", yes_or_no(*granted)),
        Body::Append {
            session,
            round,
            previous,
            chosen,
            entries,
        } => {
            let entries = describe_entries(entries);
            let session = describe_session(*session);
            format!(
                "append s{session} r{round} after {} [{entries}] chosen {chosen}",
                at(previous)
            )
        }
        Body::AppendReply {
            session,
            round,
            matched,
            received,
            state,
        } => {
            let state = match state {
                FollowerState::Matching => String::new(),
                FollowerState::Rejecting { previous, hint } => {
                    format!(" rejects {previous}, try {}", at(hint))
                }
                FollowerState::Uncertain { .. } => " uncertain".to_owned(),
            };
            let session = describe_session(*session);
            format!("has s{session} r{round} durable {matched} received {received}{state}")
        }
        Body::SnapshotOffer { checkpoint, .. } => {
            format!(
                "offers {} bytes up to {}",
                checkpoint.length, checkpoint.slot
            )
        }
        Body::SnapshotPiece { offset, bytes, .. } => {
            format!("piece of {} bytes at {offset}", bytes.len())
        }
        Body::SnapshotProgress { stored, .. } => format!("stored {stored}"),
        Body::ReadRound { .. } => "read round?".to_owned(),
        Body::ReadRoundReply {
            slot: Some(slot), ..
        } => format!("read at {slot}"),
        Body::ReadRoundReply { slot: None, .. } => "read refused".to_owned(),
        Body::Transfer => "campaign now".to_owned(),
        Body::Paxos(body) => paxos::describe(body),
    };
    format!("e{} {body}", message.epoch)
}

fn yes_or_no(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}

/// Leaders count sessions; an uncertain replica draws one.
fn describe_session(session: u64) -> String {
    if session >> 63 == 1 {
        "?".to_owned()
    } else {
        session.to_string()
    }
}
