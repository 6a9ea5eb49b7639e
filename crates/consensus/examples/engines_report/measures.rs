//! The situations, and what is measured in each.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Instant, NodeId};
use quorate_consensus::quorum::{QuorumRule, QuorumSizes};
use quorate_consensus::{
    Change, EngineKind, Entry, Input, Limits, Liveness, Output, Payload, Ticket,
};

use crate::cluster::network::{ELECTION_TIMEOUT, MILLISECOND, Network, carries};
use crate::cluster::shapes::{
    CHAINED, CONSTRAINED, Direction, QUORUM_LOSS, Shape, settled_within, time_to_commit,
};

/// No message takes longer.
const LONGEST_ON_THE_WAY: Duration = Duration::from_micros(2_100);

/// One table of the report.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// What was done, and what the figures are.
    pub(crate) text: &'static str,
    /// What the figures of a row are, after its name.
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// Whether the figures can be drawn beside each other.
    pub(crate) is_drawn: bool,
}

/// One row: what it is about, and its figures.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) values: Vec<Value>,
}

/// A figure.
pub(crate) enum Value {
    Milliseconds(f64),
    PerSecond(f64),
    Text(String),
}

/// An engine and its settings.
#[derive(Clone, Copy)]
struct Choice {
    name: &'static str,
    kind: EngineKind,
    pull_bytes: u64,
}

const RAFT: Choice = Choice {
    name: "Raft",
    kind: EngineKind::Raft,
    pull_bytes: 0,
};
const PULLING: Choice = Choice {
    name: "Raft with pulling",
    kind: EngineKind::Raft,
    pull_bytes: 1 << 20,
};
const PAXOS: Choice = Choice {
    name: "Paxos",
    kind: EngineKind::Paxos,
    pull_bytes: 0,
};

const LOSSES: [f64; 3] = [0.0, 0.01, 0.05];
const SIZES: [u64; 2] = [3, 5];

impl Choice {
    fn settled(self, size: u64, seed: u64) -> (Network, NodeId) {
        let limits = Limits {
            pull_bytes: self.pull_bytes,
            ..Limits::default()
        };
        let (mut network, leader) = settled_within(self.kind, size, seed, limits);
        network.syncs_together = true;
        (network, leader)
    }
}

/// All sections; failures are tried with so many seeds each.
pub(crate) fn all(seeds: u64) -> Vec<Section> {
    vec![
        failover(seeds),
        latency(),
        throughput(),
        partitions(seeds),
        reconfiguration(seeds),
        quorums(),
    ]
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The values at these parts of a hundred.
fn percentiles(mut times: Vec<f64>, parts: &[f64]) -> Vec<f64> {
    times.sort_by(f64::total_cmp);
    let at = |part: &f64| ((times.len() - 1) as f64 * part / 100.0).round() as usize;
    parts.iter().map(|part| times[at(part)]).collect()
}

fn case(size: u64, loss: f64) -> String {
    format!("{size} replicas, {} % lost", loss * 100.0)
}

fn columns(choices: &[Choice], figures: &[&str]) -> Vec<String> {
    let each = choices.iter().flat_map(|choice| {
        figures
            .iter()
            .map(move |figure| format!("{}, {figure}", choice.name))
    });
    each.collect()
}

/// The leader dies; how long until something is chosen again?
fn failover(seeds: u64) -> Section {
    let choices = [RAFT, PAXOS];
    let mut rows = Vec::new();
    for closes in [true, false] {
        for (size, loss) in SIZES
            .into_iter()
            .flat_map(|size| LOSSES.map(|loss| (size, loss)))
        {
            let how = if closes {
                "process dies"
            } else {
                "host goes silent"
            };
            let mut values = Vec::new();
            for choice in choices {
                let times = (0..seeds).map(|seed| {
                    let (mut network, leader) = choice.settled(size, seed);
                    network.loss = loss;
                    network.run(MILLISECOND * 300);
                    let leader = network.leader().unwrap_or(leader);
                    network.crash(leader);
                    let died_at = network.now;
                    if closes {
                        // What it had sent arrives before its connections are seen to close.
                        network.run(LONGEST_ON_THE_WAY);
                    }
                    for id in network.ids().into_iter().filter(|_| closes) {
                        let liveness = Liveness::ConnectionClosed;
                        let peer = leader;
                        network.give(id, Input::Hint { peer, liveness });
                    }
                    let patience = ELECTION_TIMEOUT * 20;
                    let taken = time_to_commit(&mut network, patience);
                    milliseconds(taken.map_or(patience, |_| network.now.since(died_at)))
                });
                let figures = percentiles(times.collect(), &[50.0, 99.0]);
                values.extend(figures.into_iter().map(Value::Milliseconds));
            }
            let name = format!("{how}, {}", case(size, loss));
            rows.push(Row { name, values });
        }
    }
    Section {
        title: "Failover",
        text: "From the death of the leader until something is chosen again. When a process dies, \
               the others see its connections close; when a host goes silent, only the election \
               timeout of 500 ms tells.",
        columns: columns(&choices, &["half within", "99 of 100 within"]),
        rows,
        is_drawn: true,
    }
}

/// The proposal that an entry carries.
fn ticket_of(entry: &Entry) -> Option<Ticket> {
    match &entry.payload {
        Payload::Commands(commands) => {
            let bytes = commands[..].try_into().ok()?;
            Some(Ticket(u64::from_le_bytes(bytes)))
        }
        _ => None,
    }
}

/// When each proposal was first executed by anybody.
fn executed(network: &Network) -> BTreeMap<Ticket, Instant> {
    let mut executed = BTreeMap::new();
    for (at, _, output) in &network.said {
        if let Output::Chosen { entries } = output {
            for ticket in entries.iter().filter_map(ticket_of) {
                executed.entry(ticket).or_insert(*at);
            }
        }
    }
    executed
}

/// Proposes one by one for so many milliseconds; returns when each was proposed and executed.
fn under_load(network: &mut Network, count: u32) -> Vec<(Instant, Instant)> {
    let mut proposed = Vec::new();
    for _ in 0..count {
        if let Some(leader) = network.leader() {
            let at = network.now;
            proposed.push((network.propose(leader), at));
        }
        network.run(MILLISECOND);
    }
    network.run(ELECTION_TIMEOUT * 4);
    let executed = executed(network);
    let both = proposed
        .iter()
        .filter_map(|(ticket, at)| Some((*at, *executed.get(ticket)?)));
    both.collect()
}

/// A steady stream of single proposals: how long does each take?
fn latency() -> Section {
    let choices = [RAFT, PAXOS];
    let mut rows = Vec::new();
    for (size, loss) in SIZES
        .into_iter()
        .flat_map(|size| LOSSES.map(|loss| (size, loss)))
    {
        let mut values = Vec::new();
        for choice in choices {
            let mut times = Vec::new();
            for seed in 0..4 {
                let (mut network, _) = choice.settled(size, seed);
                network.loss = loss;
                let taken = under_load(&mut network, 3_000);
                times.extend(taken.iter().map(|(from, to)| milliseconds(to.since(*from))));
            }
            let figures = percentiles(times, &[50.0, 99.0, 99.9]);
            values.extend(figures.into_iter().map(Value::Milliseconds));
        }
        let name = case(size, loss);
        rows.push(Row { name, values });
    }
    Section {
        title: "Latency under loss and reordering",
        text: "One proposal a millisecond, until it is executed by anybody. Raft's \
               followers refuse what does not fit, so that a loss shows at once; Paxos' \
               acceptors name the gap, and what is never answered is asked for after twice the \
               usual time of an answer.",
        columns: columns(&choices, &["p50", "p99", "p99.9"]),
        rows,
        is_drawn: true,
    }
}

/// Batches of 64, each proposed when the one before is executed.
fn throughput() -> Section {
    const BATCH: u32 = 64;
    let choices = [RAFT, PAXOS];
    let mut rows = Vec::new();
    for (size, loss) in SIZES
        .into_iter()
        .flat_map(|size| LOSSES.map(|loss| (size, loss)))
    {
        let mut values = Vec::new();
        for choice in choices {
            let (mut network, _) = choice.settled(size, 1);
            network.loss = loss;
            let began = network.now;
            let mut executed = 0;
            while network.now.since(began) < Duration::from_secs(5) {
                let Some(leader) = network.leader() else {
                    network.run(MILLISECOND * 10);
                    continue;
                };
                let tickets: Vec<Ticket> = (0..BATCH).map(|_| network.propose(leader)).collect();
                let last = tickets[tickets.len() - 1];
                let is_last = |network: &Network| {
                    let newest = network.chosen.last_key_value();
                    newest.is_some_and(|(_, entry)| carries(entry, last))
                };
                if network.run_until(ELECTION_TIMEOUT, is_last) {
                    executed += BATCH;
                }
            }
            let seconds = network.now.since(began).as_secs_f64();
            values.push(Value::PerSecond(f64::from(executed) / seconds));
        }
        let name = case(size, loss);
        rows.push(Row { name, values });
    }
    Section {
        title: "Throughput under loss and reordering",
        text: "Entries per simulated second, in batches of 64, each proposed when the one \
               before is executed: it shows how often the network and the disk hold a batch up, \
               not what processors can do.",
        columns: columns(&choices, &["entries a second"]),
        rows,
        is_drawn: true,
    }
}

/// Networks that are neither whole nor split.
fn partitions(seeds: u64) -> Section {
    let choices = [RAFT, PULLING, PAXOS];
    let shapes: [&Shape; 3] = [&QUORUM_LOSS, &CONSTRAINED, &CHAINED];
    let mut rows = Vec::new();
    for shape in shapes {
        for direction in [Direction::Both, Direction::Any] {
            let mut values = Vec::new();
            for choice in choices {
                let mut times = Vec::new();
                for seed in 0..seeds {
                    let (mut network, leader) = choice.settled(shape.size, seed);
                    (shape.enter)(&mut network, leader, direction);
                    let taken = time_to_commit(&mut network, ELECTION_TIMEOUT * 4);
                    times.extend(taken.map(milliseconds));
                }
                let within = 100.0 * times.len() as f64 / seeds as f64;
                values.push(Value::Text(format!("{within:.0} %")));
                values.push(match times.is_empty() {
                    true => Value::Text("never".to_owned()),
                    false => Value::Milliseconds(percentiles(times, &[50.0])[0]),
                });
            }
            let ways = match direction {
                Direction::Both => "both ways",
                _ => "one way or both",
            };
            let name = format!("{}, links cut {ways}", shape.name);
            rows.push(Row { name, values });
        }
    }
    Section {
        title: "Partly connected networks",
        text: "How often somebody commits within four election timeouts, and half of those within \
               how long. Quorum loss: all reach one node alone, which is not the leader. \
               Constrained: the same, the leader is gone, and that node's log is behind. Chained: \
               of three, the leader and one other do not reach each other. Pulling lets a Raft \
               candidate fetch the end of the log from whoever refuses it; it is off by default.",
        columns: columns(&choices, &["committed", "half within"]),
        rows,
        is_drawn: false,
    }
}

/// A voter is removed while proposals stream in.
fn reconfiguration(seeds: u64) -> Section {
    let choices = [RAFT, PAXOS];
    let mut rows = Vec::new();
    for loss in LOSSES {
        let mut values = Vec::new();
        for choice in choices {
            let (mut done, mut pauses) = (Vec::new(), Vec::new());
            for seed in 0..seeds.min(30) {
                let (mut network, leader) = choice.settled(5, seed);
                network.loss = loss;
                under_load(&mut network, 50);
                let leader = network.leader().unwrap_or(leader);
                let removed = network.ids().into_iter().find(|id| *id != leader).unwrap();
                let ticket = network.ticket();
                let change = Change::Remove(removed);
                let asked_at = network.now;
                network.give(leader, Input::Reconfigure { ticket, change });
                let taken = under_load(&mut network, 200);
                let mut moments: Vec<Instant> = taken.iter().map(|(_, to)| *to).collect();
                moments.sort_unstable();
                let gaps = moments.windows(2).map(|pair| pair[1].since(pair[0]));
                pauses.extend(gaps.max().map(milliseconds));
                let finished = network.said.iter().find_map(|(at, _, output)| {
                    (*output == Output::Done { ticket }).then_some(*at)
                });
                done.extend(finished.map(|at| milliseconds(at.since(asked_at))));
            }
            let figures = [
                percentiles(done, &[50.0])[0],
                percentiles(pauses, &[50.0])[0],
            ];
            values.extend(figures.map(Value::Milliseconds));
        }
        let name = case(5, loss);
        rows.push(Row { name, values });
    }
    Section {
        title: "Changing the membership",
        text: "One of five voters is removed while one proposal a millisecond comes in: until the \
               change is complete, and the longest pause between executed entries meanwhile. Raft \
               changes jointly and goes on proposing; Paxos closes the log of the old members with \
               a stop-sign and holds proposals back for about one round trip.",
        columns: columns(
            &choices,
            &["complete, half within", "longest pause, half within"],
        ),
        rows,
        is_drawn: true,
    }
}

/// Which sizes of quorums there are.
fn quorums() -> Section {
    let mut rows = Vec::new();
    for voters in [3, 4, 5, 6, 7] {
        for commit in 1..=voters {
            let smallest = (1..=voters).find(|elect| {
                let elect = *elect;
                QuorumRule::new(voters, QuorumSizes { elect, commit }).is_ok()
            });
            let Some(elect) = smallest.filter(|_| commit <= voters / 2 + 1) else {
                continue;
            };
            let who = match commit > voters / 2 {
                true => "majorities".to_owned(),
                false => format!("--quorums elect={elect},commit={commit}"),
            };
            let figures = [
                format!("{elect}"),
                format!("{}", voters - commit),
                format!("{}", voters - elect),
                who,
            ];
            let name = format!("{voters} voters, {commit} commit");
            let values = figures.map(Value::Text).into();
            rows.push(Row { name, values });
        }
    }
    let columns = [
        "then must elect",
        "may be down while a leader commits",
        "may be down when a leader is needed",
        "asked for by",
    ];
    Section {
        title: "Quorum sizes",
        text: "Every quorum that elects must meet every quorum that commits, and every other one \
               that elects. Fewer to commit is faster, and more are needed to elect.",
        columns: columns.map(str::to_owned).into(),
        rows,
        is_drawn: false,
    }
}
