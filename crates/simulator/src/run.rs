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

use base::{GroupId, Instant, NodeId};
use checker::history::{Header, History, Origin};
use consensus::{EngineKind, Membership};
use node::{Answer, Call, CallId};
use state::Reader;

use crate::invariants::{Violation, leases};
use crate::marks::{Mark, Marks};
use crate::scenario::Scenario;
use crate::trace::Trace;
use crate::world::World;
use crate::world::spaces::{self, Space};
use crate::{clients, gossip};

/// By when the core must serve after the faults have ended.
const SERVES_WITHIN: Duration = Duration::from_secs(40);
/// By when its replicas must have come to the same state.
const AGREES_WITHIN: Duration = Duration::from_secs(40);
/// By when no replica of the core may be in doubt any more, once all have come to the same state.
const CERTAIN_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take until every keyspace that moves has arrived.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
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
    /// What clients asked and were told, by keyspace; the default one first.
    pub histories: Vec<(String, History)>,
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
            Some(core) => live(&mut world, core),
            None => is_liveness_skipped = true,
        }
    }
    let histories = histories(&mut world);
    let mut is_undecided = false;
    for (name, history) in &histories {
        if world.violation.is_none() {
            is_undecided |= judge(&mut world, name, history);
        }
    }
    let mut checks = world.invariants.checks();
    if scenario.gossip && world.violation.is_none() {
        checks += play_gossip(&mut world);
    }
    Outcome {
        is_undecided,
        histories,
        engine: scenario.engine,
        violation: world.violation.take(),
        simulated: world.elapsed(),
        marks: world.marks.clone(),
        struck: std::mem::take(&mut world.struck),
        checks,
        requests: requests(&world),
        is_liveness_skipped,
        trace: world.trace,
    }
}

/// Plays gossip beside the cluster; how many checks that was.
fn play_gossip(world: &mut World) -> u64 {
    let played = gossip::play(world.scenario.seed, &mut world.trace);
    world.marks.add(&played.marks);
    world.struck.extend(played.struck);
    world.violation = played.violation;
    played.checks
}

/// The commit that this program was built from.
#[must_use]
pub fn commit() -> &'static str {
    option_env!("QUORATE_COMMIT").unwrap_or("unknown")
}

/// How requests ended, in all keyspaces.
fn requests(world: &World) -> [u64; 3] {
    let all = world.spaces.iter().map(|space| space.clients.ended);
    all.fold([0; 3], |sum, each| {
        std::array::from_fn(|way| sum[way] + each[way])
    })
}

/// What clients of each keyspace asked and were told.
fn histories(world: &mut World) -> Vec<(String, History)> {
    let bounds = clients::sessions::bounds(&world.scenario);
    let seed = world.scenario.seed;
    let of = |space: &mut Space| {
        let commit = commit().to_owned();
        let header = Header {
            bounds: bounds.clone(),
            ..Header::new(Origin::Simulator { seed, commit })
        };
        let events = std::mem::take(&mut space.clients.recording.events);
        (space.name.to_string(), History { header, events })
    };
    world.spaces.iter_mut().map(of).collect()
}

/// Lets the checker judge what clients of a keyspace saw; whether it could not decide.
fn judge(world: &mut World, name: &str, history: &History) -> bool {
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
                        "{} (lines {:?} of the history of {name})",
                        finding.text, finding.lines
                    ),
                });
            }
            return report.undecided.is_some();
        }
    }
    false
}

/// Every membership of the first group that some replica has in force, and what becomes of it when
/// its learners get the votes that were asked for them: a core must be a quorum of each.
fn memberships(world: &World) -> Vec<Membership> {
    let mut found: Vec<Membership> = Vec::new();
    for host in &world.hosts {
        let Some(running) = host.node.as_ref().and_then(node::Node::running) else {
            continue;
        };
        let (_, membership) = running.engine().membership_in_force();
        for membership in [membership.clone(), promoted(membership)] {
            if !found.contains(&membership) {
                found.push(membership);
            }
        }
    }
    found
}

/// What becomes of a membership when all its learners get votes.
fn promoted(membership: &Membership) -> Membership {
    let mut promoted = membership.clone();
    promoted.voters.extend(membership.members.keys());
    promoted
}

/// The memberships of the other keyspaces.
fn of_keyspaces(world: &World) -> Vec<Membership> {
    let groups = world.spaces[1..].iter().filter_map(|space| space.group);
    let members = groups.filter_map(|group| world.invariants.of(group)?.members());
    members.map(|members| members.membership.clone()).collect()
}

/// Whether all who hold entries are there, where a witness votes as well: one of them may have the
/// only copy of what the witness knows of, and nobody leads without it.
fn has_all(membership: &Membership, serves: impl Fn(NodeId) -> bool) -> bool {
    membership.witnesses.is_empty() || membership.holders().all(serves)
}

/// Draws the hosts that must serve when faults are over.
fn core(world: &mut World) -> Option<Vec<usize>> {
    world.operators.stop();
    (0..world.hosts.len()).for_each(|host| world.mend(host));
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
    let is_quorum = |hosts: &[usize], membership: &Membership| {
        let chosen = hosts.iter().filter_map(|host| ids.get(host));
        let serves = |id| chosen.clone().any(|each| *each == id);
        membership.elects(serves) && membership.commits(serves) && has_all(membership, serves)
    };
    let serves = |hosts: &[usize]| {
        let mut all = memberships.iter();
        all.all(|membership| is_quorum(hosts, membership))
    };
    // A keyspace of which a quorum is sound is served as well.
    let mut others = of_keyspaces(world);
    others.retain(|membership| is_quorum(&sound, membership));
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
    // Whether everything that moved has arrived can only be asked where everybody is there. In the
    // other half of such runs some may be gone, whom a keyspace was leaving, or on its way to:
    // those who are left serve it, whether or not the newcomers get their votes.
    if world.scenario.moves() {
        if random.below(2) == 0 {
            return Some(core);
        }
        let given = others.iter().map(promoted).collect::<Vec<_>>();
        let given = given.into_iter().filter(|each| is_quorum(&core, each));
        others.extend(given);
    }
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
        let keeps_others = others.iter().all(|each| is_quorum(&fewer, each));
        if everyone_known && serves(&fewer) && keeps_others && random.below(3) > 0 {
            core = fewer;
        }
    }
    Some(core)
}

/// The second phase. Hosts that were damaged are started beside the core, and have to come back.
fn live(world: &mut World, mut core: Vec<usize>) {
    let mending = (0..world.hosts.len()).filter(|host| world.mends_itself(*host));
    core.extend(mending);
    core.sort_unstable();
    let core = core.as_slice();
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
    are_certain(world, core);
    are_whole(world, core);
    leases_end(world, core);
    core.iter().for_each(|host| world.mark_counted(*host));
}

/// Every replica that had lost something counts again, and so the cluster is as redundant as it
/// was.
fn are_certain(world: &mut World, core: &[usize]) {
    let is_in_doubt = |world: &World| {
        let nodes = core
            .iter()
            .filter_map(|host| world.hosts[*host].node.as_ref()?.running());
        let mut groups: BTreeMap<GroupId, (BTreeSet<NodeId>, bool)> = BTreeMap::new();
        for (id, group) in nodes.flat_map(node::running::Running::groups) {
            let (certain, has_doubt) = groups.entry(id).or_default();
            match group.is_in_doubt() {
                true => *has_doubt = true,
                false => _ = certain.insert(group.id()),
            }
        }
        groups.iter().any(|(id, (certain, has_doubt))| {
            let known = world.invariants.of(*id);
            let members = known.and_then(crate::invariants::Invariants::members);
            // A keyspace may have come to be while others than the core were its quorum. Who is in
            // doubt there waits for them.
            let can_help = members
                .is_none_or(|members| members.membership.elects(|voter| certain.contains(&voter)));
            *has_doubt && can_help
        })
    };
    let begin = world.now;
    while world.violation.is_none() && is_in_doubt(world) {
        if world.now > begin + CERTAIN_WITHIN {
            let text = format!(
                "of {core:?} some are in doubt after {CERTAIN_WITHIN:?}\n{}",
                world.picture()
            );
            world.fail(Violation {
                invariant: "redundancy is restored",
                text,
            });
        }
        world.run_until(world.now + LOOK);
    }
}

/// Every keyspace that was on its way has arrived, if all hosts are there: as many vote in each as
/// shall.
fn are_whole(world: &mut World, core: &[usize]) {
    if core.len() < world.hosts.len() {
        return;
    }
    let is_whole = |world: &World| (0..world.spaces.len()).all(|space| world.is_whole(space));
    let begin = world.now;
    while world.violation.is_none() && !is_whole(world) {
        if world.now > begin + WHOLE_WITHIN {
            let text = format!(
                "keyspaces are still moving {WHOLE_WITHIN:?} after the faults ended\n{}",
                world.picture()
            );
            world.fail(Violation {
                invariant: "redundancy is restored",
                text,
            });
        }
        world.run_until(world.now + LOOK);
    }
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
    let mut readers = Vec::new();
    for space in 0..world.spaces.len() {
        let group = world.spaces[space].group;
        for host in world.holders(space, core) {
            let node = world.hosts[host].node.as_ref();
            let running = node.and_then(node::Node::running);
            let held = running.zip(group).and_then(|(each, id)| each.group(id));
            readers.extend(held.map(|held| held.replica().reader()));
        }
    }
    readers
}

/// A question that the run itself has asked about a keyspace.
#[derive(Clone, Copy)]
struct Asked {
    call: CallId,
    /// The newest revision when it was asked.
    floor: i64,
    /// In the history.
    operation: u64,
    /// Of the process that was asked: what is asked of one that dies has no answer.
    life: u64,
}

/// Asks each host of the core for all keys of each keyspace that it holds, until each has answered;
/// each answer is checked against everything that was acknowledged.
fn serve(world: &mut World, core: &[usize], until: Instant) -> bool {
    let mut waiting: BTreeMap<(usize, usize), Option<Asked>> = BTreeMap::new();
    for space in 0..world.spaces.len() {
        let holders = world.holders(space, core);
        waiting.extend(holders.into_iter().map(|host| ((space, host), None)));
    }
    while world.now < until && world.violation.is_none() {
        for ((space, host), asked) in &mut waiting {
            if asked.is_none() && world.hosts[*host].node.is_some() {
                *asked = Some(ask_for_everything(world, *space, *host));
            }
        }
        world.run_until(world.now + LOOK);
        let asked: Vec<((usize, usize), Asked)> = waiting
            .iter()
            .filter_map(|(place, asked)| asked.map(|asked| (*place, asked)))
            .collect();
        for ((space, host), asked) in asked {
            match world.own_answers.remove(&asked.call) {
                Some(Answer::Etcd(Ok(response))) => {
                    waiting.remove(&(space, host));
                    if space != spaces::DEFAULT && !world.votes(space, host) {
                        world.marks.reach(Mark::KeyspaceObserved);
                    }
                    if let Err(violation) = shows_everything(world, space, asked, response) {
                        world.fail(violation);
                    }
                }
                Some(_) => {
                    waiting.insert((space, host), None);
                }
                None if world.hosts[host].life != asked.life => {
                    waiting.insert((space, host), None);
                }
                None => {}
            }
        }
        // Who has left meanwhile has nothing to answer.
        let left: Vec<(usize, usize)> = waiting.keys().copied().collect();
        for (space, host) in left {
            if !world.holders(space, core).contains(&host) {
                waiting.remove(&(space, host));
            }
        }
        if waiting.is_empty() {
            return true;
        }
    }
    false
}

fn ask_for_everything(world: &mut World, space: usize, host: usize) -> Asked {
    let group = world.spaces[space].group;
    let invariants = group.and_then(|group| world.invariants.of(group));
    let floor = invariants.map_or(0, |each| each.revisions.newest());
    let request = clients::everything(false);
    let now = world.now;
    let recording = &mut world.spaces[space].clients.recording;
    let operation = recording.invoked(now, FINAL_CLIENTS + host, &request);
    Asked {
        call: world.call_in(space, host, Call::Etcd(request)),
        floor,
        operation,
        life: world.hosts[host].life,
    }
}

/// A read of all keys shows every acknowledged write, or what came after it.
fn shows_everything(
    world: &mut World,
    space: usize,
    asked: Asked,
    mut response: etcd::Response,
) -> Result<(), Violation> {
    let revision = response.header_mut().revision;
    let now = world.now;
    let space = &mut world.spaces[space];
    let recording = &mut space.clients.recording;
    recording.ok(now, asked.operation, revision, &response);
    let Some(group) = space.group else {
        return Ok(());
    };
    let revisions = &mut world.invariants.of_mut(group).revisions;
    revisions.answered(asked.floor, revision, false)?;
    let etcd::Response::Range(range) = response else {
        return crate::invariants::violated("answers fit their questions", "a range was asked for");
    };
    for shown in &range.kvs {
        revisions.saw(shown, revision)?;
    }
    Ok(())
}

/// Whether all of the core that hold a keyspace have executed the same, for each.
fn agrees(world: &World, core: &[usize]) -> bool {
    let mut spaces = 0..world.spaces.len();
    spaces.all(|space| {
        let group = world.spaces[space].group;
        let mut applied = BTreeSet::new();
        for host in world.holders(space, core) {
            let node = world.hosts[host].node.as_ref();
            let running = node.and_then(node::Node::running);
            let Some(held) = running.zip(group).and_then(|(each, id)| each.group(id)) else {
                return false;
            };
            applied.insert(held.replica().applied());
        }
        applied.len() <= 1
    })
}
