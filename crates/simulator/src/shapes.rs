//! Partial connectivity, in whole clusters: *a leader that commits within four election timeouts
//! whenever some node reaches a quorum*, and goes on committing.
//!
//! ```text
//!   quorum loss (5)          constrained election (5)        chained (3)
//!     B   C* D                 B   C* D                        B* ─ A ─ C
//!      \  |  /                  \     /
//!       ` A '                    ` A '                       B and C do not reach
//!         |                        |                         each other
//!         E                        E
//!   all reach A alone,       C is gone, all reach A
//!   also the leader C        alone, whose log is behind
//! ```
//!
//! The shapes are those of "Omni-Paxos" (Ng, Haridi, Carbone, EuroSys 2023, section 2); each also
//! with links that fail in one direction only. What counts is what a client sees: from the moment
//! at which the links fail every node is asked for writes, again and again, and the clock stops at
//! the first write that was asked for since and is acknowledged. The engines alone are asked the
//! same in `crates/consensus/tests/connectivity.rs`.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person, and spreads runs over threads"
)]

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::{Instant, Random};
use bytes::Bytes;
use consensus::EngineKind;
use etcd::proto::etcdserverpb::PutRequest;
use node::{Answer, Call, CallId, Timing};

use crate::scenario::Scenario;
use crate::streams::Streams;
use crate::swarm;
use crate::world::World;

/// Which links fail for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All reach one follower alone.
    QuorumLoss,
    /// The same, the leader is gone, and that follower lags behind.
    ConstrainedElection,
    /// Of three, the leader and a follower do not reach each other.
    Chained,
}

/// In which direction links fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    Both,
    /// One way each, drawn for each link.
    OneWay,
}

/// Every shape, with its name.
pub const SHAPES: &[(Shape, &str)] = &[
    (Shape::QuorumLoss, "quorum loss"),
    (Shape::ConstrainedElection, "constrained election"),
    (Shape::Chained, "chained"),
];

const DIRECTIONS: &[(Direction, &str)] = &[
    (Direction::Both, "both ways"),
    (Direction::OneWay, "one way"),
];

/// Within so many election timeouts a leader must commit.
const TIMEOUTS: u32 = 4;
/// How often it must do so again, an election timeout later each time.
const ROUNDS: u32 = 4;
/// After so many election timeouts nobody waits any longer.
const PATIENCE: u32 = 20;
/// How often each node is asked for a write.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// The fault that the links fail for.
const FAULT: usize = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);

/// What came of one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How long nothing was committed; none if it never was.
    pub first: Option<Duration>,
    /// It stopped committing later.
    pub stalls: bool,
    /// What else went wrong, in words.
    pub violation: Option<String>,
}

impl Outcome {
    /// Whether it is as demanded.
    #[must_use]
    pub fn is_fulfilled(&self) -> bool {
        let limit = Timing::default().election_timeout * TIMEOUTS;
        self.first.is_some_and(|first| first <= limit) && !self.stalls && self.violation.is_none()
    }
}

/// A cluster in a network without faults, as slow as the seed draws it.
fn scenario(seed: u64, hosts: usize, engine: EngineKind) -> Scenario {
    let mut random = Streams::of(seed).named("shape.network");
    let mut scenario = swarm::calm(seed, hosts, 0, 1_000, 600_000_000);
    scenario.engine = engine;
    scenario.network.delay = [50, 200, 1_000, 5_000][random.below(4) as usize];
    scenario.network.jitter = [50, 500, 5_000][random.below(3) as usize];
    scenario.machine.disk_delay = [50, 500, 2_000][random.below(3) as usize];
    scenario
}

/// Writes that the run asks for, and which of them are acknowledged.
#[derive(Default)]
struct Writes {
    asked: Vec<CallId>,
    count: u64,
}

impl Writes {
    fn ask(&mut self, world: &mut World, host: usize) {
        if world.hosts[host].node.is_none() {
            return;
        }
        self.count += 1;
        let request = etcd::Request::Put(PutRequest {
            key: Bytes::from_static(b"shape"),
            value: Bytes::from(self.count.to_string()),
            ..PutRequest::default()
        });
        self.asked.push(world.call(host, Call::Etcd(request)));
    }

    fn is_acknowledged(&mut self, world: &mut World) -> bool {
        let mut acknowledged = false;
        self.asked.retain(|id| match world.own_answers.remove(id) {
            Some(answer) => {
                acknowledged |= matches!(answer, Answer::Etcd(Ok(_)));
                false
            }
            None => true,
        });
        acknowledged
    }
}

/// Asks every node for writes until one is acknowledged that was asked for since.
fn time_to_commit(world: &mut World, patience: Duration) -> Option<Duration> {
    let began = world.now;
    let mut writes = Writes::default();
    let mut ask_at = began;
    while world.now.since(began) < patience && world.violation.is_none() {
        if world.now >= ask_at {
            (0..world.hosts.len()).for_each(|host| writes.ask(world, host));
            ask_at = world.now + ASK_EVERY;
        }
        world.run_until(world.now + Duration::from_millis(1));
        if writes.is_acknowledged(world) {
            return Some(world.now.since(began));
        }
    }
    None
}

/// The links between hosts that `fail` says, as pairs of sender and receiver.
fn failing(
    count: usize,
    direction: Direction,
    random: &mut Random,
    fail: impl Fn(usize, usize) -> bool,
) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for a in 0..count {
        for b in (a + 1..count).filter(|b| fail(a, *b)) {
            match (direction, random.below(2)) {
                (Direction::Both, _) => pairs.extend([(a, b), (b, a)]),
                (Direction::OneWay, 0) => pairs.push((a, b)),
                (Direction::OneWay, _) => pairs.push((b, a)),
            }
        }
    }
    pairs
}

fn other_than(count: usize, not: usize, random: &mut Random) -> usize {
    let other = random.below(count as u64 - 1) as usize;
    if other < not { other } else { other + 1 }
}

/// Lets the links of a shape fail.
fn strike(
    world: &mut World,
    shape: Shape,
    direction: Direction,
    leader: usize,
    random: &mut Random,
) {
    let count = world.hosts.len();
    let hub = other_than(count, leader, random);
    let misses_hub = |a: usize, b: usize| a != hub && b != hub;
    let pairs = match shape {
        Shape::QuorumLoss => failing(count, direction, random, misses_hub),
        Shape::Chained => failing(count, direction, random, |a, b| {
            misses_hub(a, b) && (a == leader || b == leader)
        }),
        Shape::ConstrainedElection => {
            // Entries are chosen that the hub does not get.
            world.cut_links(FAULT, vec![(leader, hub)]);
            let mut writes = Writes::default();
            for _ in 0..=random.below(20) {
                writes.ask(world, leader);
            }
            world.run_until(world.now + Duration::from_millis(50));
            // The old leader is gone.
            let gone = (0..count).filter(|host| *host != leader);
            let gone = gone.flat_map(|host| [(host, leader), (leader, host)]);
            let mut pairs: Vec<(usize, usize)> = gone.collect();
            let others = |a, b| misses_hub(a, b) && a != leader && b != leader;
            pairs.extend(failing(count, direction, random, others));
            pairs
        }
    };
    world.cut_links(FAULT + 1, pairs);
}

/// Runs a shape.
#[must_use]
pub fn run(seed: u64, engine: EngineKind, shape: Shape, direction: Direction) -> Outcome {
    let hosts = if shape == Shape::Chained { 3 } else { 5 };
    let timeout = Timing::default().election_timeout;
    let mut random = Streams::of(seed).named("shape");
    let mut world = World::new(scenario(seed, hosts, engine), false);
    let failed = |world: &World, text: &str| Outcome {
        first: None,
        stalls: false,
        violation: Some(match &world.violation {
            Some(violation) => violation.to_string(),
            None => text.to_owned(),
        }),
    };
    if time_to_commit(&mut world, SECOND * 20).is_none() {
        return failed(&world, "no cluster has formed");
    }
    world.run_until(world.now + timeout + Duration::from_micros(random.below(500_000)));
    let Some(leader) = world.leader() else {
        return failed(&world, "nobody leads a whole network");
    };
    strike(&mut world, shape, direction, leader, &mut random);
    let first = time_to_commit(&mut world, timeout * PATIENCE);
    let mut stalls = false;
    for _ in 0..ROUNDS {
        world.run_until(world.now + timeout);
        stalls |= first.is_some() && time_to_commit(&mut world, timeout * TIMEOUTS).is_none();
    }
    world.heal_everything();
    let until = world.now + SECOND * 20;
    let _ = time_to_commit(&mut world, SECOND * 10);
    let converged = converges(&mut world, until);
    if world.violation.is_some() || !converged {
        return failed(
            &world,
            "the replicas do not come to the same state afterwards",
        );
    }
    Outcome {
        first,
        stalls,
        violation: None,
    }
}

fn converges(world: &mut World, until: Instant) -> bool {
    while world.now < until && world.violation.is_none() {
        world.run_until(world.now + Duration::from_millis(100));
        let applied = world.hosts.iter().map(|host| {
            let running = host.node.as_ref().and_then(node::Node::running)?;
            Some(running.replica().applied())
        });
        let applied: Vec<_> = applied.collect();
        if applied[0].is_some() && applied.iter().all(|each| *each == applied[0]) {
            return true;
        }
    }
    false
}

/// What is demanded of an engine. Plain Raft has no leader while the only node that reaches a
/// quorum has an older log than those it reaches.
#[must_use]
pub fn is_demanded(engine: EngineKind, shape: Shape) -> bool {
    engine == EngineKind::Paxos || shape != Shape::ConstrainedElection
}

/// The command `shapes`.
#[must_use]
pub fn command(seeds: Range<u64>, jobs: usize, engine: Option<EngineKind>) -> ExitCode {
    let mut fails = false;
    println!("a write is acknowledged again, after the links have failed:");
    let engines = EngineKind::ALL.iter().copied();
    for engine in engines.filter(|kind| engine.is_none_or(|only| only == *kind)) {
        for (shape, shape_name) in SHAPES {
            for (direction, direction_name) in DIRECTIONS {
                let name = format!("{:5} {shape_name}, {direction_name}", engine.name());
                let outcomes = many(seeds.clone(), jobs, engine, *shape, *direction);
                let late = say(&name, &outcomes);
                fails |= late && is_demanded(engine, *shape);
                let violated = outcomes.iter().any(|(_, each)| each.violation.is_some());
                fails |= violated;
            }
        }
    }
    if fails {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn many(
    seeds: Range<u64>,
    jobs: usize,
    engine: EngineKind,
    shape: Shape,
    direction: Direction,
) -> Vec<(u64, Outcome)> {
    let next = AtomicU64::new(seeds.start);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = run(seed, engine, shape, direction);
                    let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    outcomes.push((seed, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(seed, _)| *seed);
    outcomes
}

/// Prints what came of a shape; whether some seed was not as demanded.
fn say(name: &str, outcomes: &[(u64, Outcome)]) -> bool {
    let mut times: Vec<Duration> = outcomes.iter().filter_map(|(_, each)| each.first).collect();
    times.sort_unstable();
    let percent = |percent: usize| match times.as_slice() {
        [] => "never".to_owned(),
        times => {
            let at = (times.len() - 1) * percent / 100;
            format!("{} ms", times[at].as_millis())
        }
    };
    let late: Vec<u64> = outcomes
        .iter()
        .filter(|(_, each)| !each.is_fulfilled())
        .map(|(seed, _)| *seed)
        .collect();
    let never = outcomes.len() - times.len();
    println!(
        "{name:40} {} of {} within {TIMEOUTS} election timeouts; half within {}, 99 of 100 within \
         {}, slowest {}; {never} not within {PATIENCE}",
        outcomes.len() - late.len(),
        outcomes.len(),
        percent(50),
        percent(99),
        percent(100),
    );
    if !late.is_empty() {
        println!("    not so: seeds {:?}", &late[..late.len().min(20)]);
    }
    for (seed, outcome) in outcomes {
        if let Some(violation) = &outcome.violation {
            println!("    VIOLATED  seed {seed}: {violation}");
        }
    }
    !late.is_empty()
}
