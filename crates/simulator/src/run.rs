//! One run: safety while faults strike, then liveness when they are over.
//!
//! ```text
//! │ faults, clients ─────────────────▶│ calm: a random quorum of sound hosts is left ──▶│ end
//! │ invariants after every pass       │ it elects, serves, shows every acknowledged      │
//! │                                   │ write, and its replicas come to the same state   │
//! ```
//!
//! After TigerBeetle's simulator and openraft's: a protocol that is safe because it does nothing
//! would pass the first phase.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use base::{Instant, NodeId};
use checker::history::{Header, History, Origin};
use consensus::{EngineKind, Membership};
use node::{Answer, Call, CallId};
use state::Reader;

use crate::clients;
use crate::invariants::{Violation, leases};
use crate::marks::Marks;
use crate::scenario::Scenario;
use crate::trace::Trace;
use crate::world::World;

/// By when the core must serve after the faults have ended.
const SERVES_WITHIN: Duration = Duration::from_secs(40);
/// By when its replicas must have come to the same state.
const AGREES_WITHIN: Duration = Duration::from_secs(40);
/// How long after its time a lease may still be there, once the faults have ended.
const LEASES_END_WITHIN: Duration = Duration::from_secs(10);
/// How many steps the checker may try for one run.
const CHECKER_STEPS: u64 = 2_000_000;
/// How often the run looks whether that is so.
const LOOK: Duration = Duration::from_millis(100);

/// Reads of the run itself are recorded as of these clients.
const FINAL_CLIENTS: usize = 1_000;

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    static IN_NODE: Cell<bool> = const { Cell::new(false) };
}

/// Panics of nodes are caught and told as violations: their text is kept, not printed. Those of the
/// simulator itself are printed as ever.
pub fn keep_panics_quiet() {
    let ordinary = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |information| {
        if !IN_NODE.get() {
            return ordinary(information);
        }
        let text = information.to_string();
        LAST_PANIC.with(|last| *last.borrow_mut() = text);
    }));
}

/// Runs a part of a node; the text of its panic, if it panics.
pub(crate) fn in_node(part: impl FnOnce()) -> Result<(), String> {
    IN_NODE.set(true);
    let ended = catch_unwind(AssertUnwindSafe(part));
    IN_NODE.set(false);
    ended.map_err(|_| LAST_PANIC.with(|last| last.borrow().clone()))
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// What was violated; `None` for a clean run.
    pub violation: Option<Violation>,
    /// How much time passed in the simulation.
    pub simulated: Duration,
    /// What happened.
    pub trace: Trace,
    /// Rare situations that were reached.
    pub marks: Marks,
    /// Faults that struck, by family.
    pub struck: BTreeMap<&'static str, u64>,
    /// Invariants checked.
    pub checks: u64,
    /// Requests that ended ok, failed, unknown.
    pub requests: [u64; 3],
    /// There was no sound quorum to demand liveness of.
    pub is_liveness_skipped: bool,
    /// The checker ran out of its budget: neither ok nor not.
    pub is_undecided: bool,
    /// What clients asked and were told.
    pub history: History,
    /// How the nodes agreed.
    pub engine: EngineKind,
}

/// What to do with a scenario.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep the lines of the trace.
    pub keep_trace: bool,
    /// End the first phase here, if it is longer.
    pub until: Option<Duration>,
}

/// Runs a scenario.
#[must_use]
pub fn run(scenario: &Scenario, options: Options) -> Outcome {
    let mut world = World::new(scenario.clone(), options.keep_trace);
    let planned = Duration::from_micros(scenario.duration);
    let duration = options.until.map_or(planned, |until| until.min(planned));
    world.run_until(world.began + duration);
    let mut is_liveness_skipped = false;
    if world.violation.is_none() {
        match core(&mut world) {
            Some(core) => live(&mut world, &core),
            None => is_liveness_skipped = true,
        }
    }
    let history = History {
        header: Header {
            bounds: clients::sessions::bounds(scenario),
            ..Header::new(Origin::Simulator {
                seed: scenario.seed,
                commit: commit().to_owned(),
            })
        },
        events: std::mem::take(&mut world.clients.recording.events),
    };
    let is_undecided = world.violation.is_none() && judge(&mut world, &history);
    Outcome {
        is_undecided,
        history,
        engine: scenario.engine,
        violation: world.violation.take(),
        simulated: world.elapsed(),
        marks: world.marks.clone(),
        struck: std::mem::take(&mut world.struck),
        checks: world.invariants.checks + world.invariants.revisions.answers,
        requests: world.clients.ended,
        is_liveness_skipped,
        trace: world.trace,
    }
}

/// The commit that this program was built from.
#[must_use]
pub fn commit() -> &'static str {
    option_env!("QUORATE_COMMIT").unwrap_or("unknown")
}

/// Lets the checker judge what clients saw; whether it could not decide.
fn judge(world: &mut World, history: &History) -> bool {
    let mut options = checker::Options::default();
    options.limits.steps = CHECKER_STEPS;
    match checker::check_history(history, &options) {
        Err(malformed) => world.fail(Violation {
            invariant: "histories are well formed",
            text: malformed.to_string(),
        }),
        Ok(report) => {
            if let Some(finding) = report.findings.first() {
                world.fail(Violation {
                    invariant: finding.rule.name(),
                    text: format!(
                        "{} (lines {:?} of the history)",
                        finding.text, finding.lines
                    ),
                });
            }
            return report.undecided.is_some();
        }
    }
    false
}

/// Every membership that some replica has in force; a core must be a quorum of each.
fn memberships(world: &World) -> Vec<Membership> {
    let mut found: Vec<Membership> = Vec::new();
    for host in &world.hosts {
        let Some(running) = host.node.as_ref().and_then(node::Node::running) else {
            continue;
        };
        let (_, membership) = running.engine().membership_in_force();
        if !found.contains(membership) {
            found.push(membership.clone());
        }
    }
    found
}

/// Draws the hosts that must serve when faults are over.
fn core(world: &mut World) -> Option<Vec<usize>> {
    world.operators.stop();
    let sound: Vec<usize> = (0..world.hosts.len())
        .filter(|index| {
            let reasons = world.hosts[*index].reasons;
            // A removal that was asked for may still come about.
            reasons.is_sound() && !reasons.removed
        })
        .collect();
    // All that are sound run again before anything is asked of them: what they have in force
    // decides who is needed.
    let memberships = memberships(world);
    let ids: BTreeMap<usize, NodeId> = sound
        .iter()
        .filter_map(|index| Some((*index, world.hosts[*index].id()?)))
        .collect();
    let serves = |hosts: &[usize]| {
        let chosen: BTreeSet<NodeId> = hosts
            .iter()
            .filter_map(|host| ids.get(host))
            .copied()
            .collect();
        memberships
            .iter()
            .all(|membership| membership.is_quorum(|id| chosen.contains(&id)))
    };
    // A cluster that has not formed needs everybody, unless somebody who is left can tell the
    // others that it has.
    let has_formed = sound.iter().any(|host| {
        let node = world.hosts[*host].node.as_ref();
        node.is_some_and(|node| node.running().is_some())
    });
    if !has_formed || !serves(&sound) {
        return (sound.len() == world.hosts.len()).then_some(sound);
    }
    let mut random = world.core_random();
    let mut core = sound;
    for _ in 0..world.hosts.len() {
        let without = core[random.below(core.len() as u64) as usize];
        let fewer: Vec<usize> = core
            .iter()
            .copied()
            .filter(|host| *host != without)
            .collect();
        let everyone_known = world.hosts.iter().all(|host| {
            host.node
                .as_ref()
                .is_some_and(|node| node.running().is_some())
                || !host.reasons.is_sound()
                || host.reasons.removed
        });
        if everyone_known && serves(&fewer) && random.below(3) > 0 {
            core = fewer;
        }
    }
    Some(core)
}

/// The second phase.
fn live(world: &mut World, core: &[usize]) {
    let given_up: Vec<usize> = (0..world.hosts.len())
        .filter(|host| !core.contains(host))
        .collect();
    world.calm(&given_up);
    let begin = world.now;
    if !serve(world, core, begin + SERVES_WITHIN) {
        if world.violation.is_none() {
            let text = format!(
                "hosts {core:?} do not serve within {SERVES_WITHIN:?} after the faults ended\n{}",
                world.picture()
            );
            world.fail(Violation {
                invariant: "a sound quorum serves",
                text,
            });
        }
        return;
    }
    world.clients_ask = false;
    let begin = world.now;
    while world.violation.is_none() && !agrees(world, core) {
        if world.now > begin + AGREES_WITHIN {
            let text = format!(
                "the replicas of {core:?} do not come to the same state within \
                 {AGREES_WITHIN:?}\n{}",
                world.picture()
            );
            world.fail(Violation {
                invariant: "replicas converge",
                text,
            });
        }
        world.run_until(world.now + LOOK);
    }
    leases_end(world, core);
}

/// Nobody renews any lease any more: on every replica of the core each is gone, with its keys, soon
/// after its time.
fn leases_end(world: &mut World, core: &[usize]) {
    let begin = world.now;
    let Some(last) = leases::last(&running_of(world, core)) else {
        return;
    };
    let until = begin + last + LEASES_END_WITHIN;
    while world.violation.is_none() && leases::last(&running_of(world, core)).is_some() {
        if world.now > until {
            let text = format!(
                "{last:?} were left of the last one {:?} ago\n{}",
                world.now.since(begin),
                world.picture()
            );
            world.fail(Violation {
                invariant: "every lease ends",
                text,
            });
        }
        world.run_until(world.now + LOOK);
    }
}

fn running_of<'a>(world: &'a World, core: &[usize]) -> Vec<&'a Reader> {
    let nodes = core
        .iter()
        .filter_map(|host| world.hosts[*host].node.as_ref());
    let running = nodes.filter_map(node::Node::running);
    running.map(|running| running.replica().reader()).collect()
}

/// Asks each host of the core for all keys until each has answered; each answer is checked against
/// everything that was acknowledged.
fn serve(world: &mut World, core: &[usize], until: Instant) -> bool {
    // With the life of the process that was asked: what is asked of one that dies has no answer.
    let mut waiting: BTreeMap<usize, Option<(CallId, i64, u64, u64)>> =
        core.iter().map(|host| (*host, None)).collect();
    while world.now < until && world.violation.is_none() {
        for (host, asked) in &mut waiting {
            if asked.is_none() && world.hosts[*host].node.is_some() {
                let floor = world.invariants.revisions.newest();
                let request = clients::everything(false);
                let client = FINAL_CLIENTS + *host;
                let operation = world.clients.recording.invoked(world.now, client, &request);
                let call = world.call(*host, Call::Etcd(request));
                *asked = Some((call, floor, operation, world.hosts[*host].life));
            }
        }
        world.run_until(world.now + LOOK);
        let asked: Vec<(usize, (CallId, i64, u64, u64))> = waiting
            .iter()
            .filter_map(|(host, asked)| asked.map(|asked| (*host, asked)))
            .collect();
        for (host, (id, floor, operation, life)) in asked {
            match world.own_answers.remove(&id) {
                Some(Answer::Etcd(Ok(mut response))) => {
                    waiting.remove(&host);
                    let revision = response.header_mut().revision;
                    let recording = &mut world.clients.recording;
                    recording.ok(world.now, operation, revision, &response);
                    if let Err(violation) = shows_everything(world, floor, response) {
                        world.fail(violation);
                    }
                }
                Some(_) => {
                    waiting.insert(host, None);
                }
                None if world.hosts[host].life != life => {
                    waiting.insert(host, None);
                }
                None => {}
            }
        }
        if waiting.is_empty() {
            return true;
        }
    }
    false
}

/// A read of all keys shows every acknowledged write, or what came after it.
fn shows_everything(
    world: &mut World,
    floor: i64,
    mut response: etcd::Response,
) -> Result<(), Violation> {
    let revision = response.header_mut().revision;
    let revisions = &mut world.invariants.revisions;
    revisions.answered(floor, revision, false)?;
    let etcd::Response::Range(range) = response else {
        return crate::invariants::violated("answers fit their questions", "a range was asked for");
    };
    for shown in &range.kvs {
        revisions.saw(shown, revision)?;
    }
    Ok(())
}

/// Whether all of the core that run have executed the same.
fn agrees(world: &World, core: &[usize]) -> bool {
    let mut applied = BTreeSet::new();
    for host in core {
        let running = world.hosts[*host]
            .node
            .as_ref()
            .and_then(node::Node::running);
        let Some(running) = running else {
            return false;
        };
        applied.insert(running.replica().applied());
    }
    applied.len() == 1
}
