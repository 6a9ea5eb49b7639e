//! Draws a scenario from a seed: most kinds of faults off, the strength of the others by chance.

use base::Random;
use consensus::EngineKind;

use crate::disk::Crash;
use crate::scenario::{
    Fault, Keyspace, Machine, Micros, Network, Planned, Scenario, Shape, Small, Who, Witness,
    Workload,
};
use crate::streams::Streams;

const MILLISECOND: Micros = 1_000;
const SECOND: Micros = 1_000_000;

/// Draws the scenario of a seed.
#[must_use]
pub fn draw(seed: u64) -> Scenario {
    let streams = Streams::of(seed);
    let mut random = streams.named("scenario");
    let hosts = [3, 3, 3, 3, 5, 5, 1][random.below(7) as usize];
    let duration = (2 + random.below(3) * random.below(10)) * SECOND;
    let mut unsound: Vec<usize> = Vec::new();
    while unsound.len() < (hosts - 1) / 2 {
        let host = random.below(hosts as u64) as usize;
        if !unsound.contains(&host) {
            unsound.push(host);
        }
    }
    let quorums = quorums(hosts, &mut streams.named("quorums.plan"));
    if let Some((elect, commit)) = quorums {
        // A quorum of sound ones is left, and of those that committed.
        let may_fail = (hosts - elect.max(commit)).min(commit - 1);
        unsound.truncate(may_fail);
    }
    let witness = witness(hosts, &mut streams.named("witness.plan"));
    let quorums = quorums.filter(|_| witness.is_none());
    if witness.is_some() {
        // Whose disk may go bad depends on who has a copy.
        unsound.clear();
    }
    let mut scenario = Scenario {
        seed,
        hosts,
        engine: EngineKind::ALL[streams.named("engine").below(2) as usize],
        quorums,
        witness,
        duration,
        unsound,
        beyond: false,
        flags_differ: streams.named("flags.plan").below(3) == 0,
        gossip: true,
        network: network(&mut random),
        machine: machine(&mut random),
        workload: workload(&mut streams.named("workload.plan")),
        keyspaces: Vec::new(),
        tending: None,
        small: small(&mut streams.named("limits")),
        faults: Vec::new(),
    };
    scenario.machine.threads = pick(
        &mut streams.named("threads.plan"),
        &[0, 0, 0, 50, 1_000, 20_000],
    );
    let mut chaos = streams.named("chaos");
    scenario.faults = faults(&scenario, &mut chaos);
    if streams.named("levels.plan").below(4) == 0 {
        upgrade(&mut scenario);
    }
    if streams.named("keyspaces.plan").below(KEYSPACES_ONE_IN) == 0 {
        with_keyspaces(&mut scenario);
    }
    if streams.named("rot.plan").below(ROTTEN_LOG_ONE_IN) == 0 {
        rot_log(&mut scenario);
    }
    if streams.named("holes.plan").below(HOLES_ONE_IN) == 0 {
        leave_holes(&mut scenario);
    }
    read_in_time(&mut scenario);
    match streams.named("beyond.plan").below(BEYOND_ONE_IN) {
        0 => beyond(scenario),
        _ => scenario,
    }
}

/// A leader that keeps one entry in memory reads each message for a follower that was away from its
/// disk. Where that takes long, a message must carry several entries: else the follower never
/// catches up with what clients go on writing. In production it carries a mebibyte.
fn read_in_time(scenario: &mut Scenario) {
    let reads_take = scenario.machine.disk_delay + scenario.machine.disk_jitter;
    let small = &mut scenario.small;
    if reads_take > 10 * MILLISECOND && small.cache_bytes < 8 << 10 {
        small.append_bytes = small.append_bytes.max(8 << 10);
    }
}

/// How many elect and commit, if not majorities: one seed in four.
fn quorums(hosts: usize, random: &mut Random) -> Option<(usize, usize)> {
    let sizes: &[(usize, usize)] = match hosts {
        3 => &[(3, 1), (2, 3), (3, 2)],
        5 => &[(4, 2), (4, 2), (4, 2), (5, 1), (3, 4), (4, 3)],
        _ => return None,
    };
    let chosen = pick(random, sizes);
    (random.below(4) == 0).then_some(chosen)
}

/// One seed in so many of three or five hosts has a witness among them.
const WITNESS_ONE_IN: u64 = 6;

/// Whether the last host is a witness, and how many copies each entry has.
fn witness(hosts: usize, random: &mut Random) -> Option<Witness> {
    let copies = pick(random, &[None, Some(1), Some(1), Some(2)]);
    (hosts >= 3 && random.below(WITNESS_ONE_IN) == 0).then_some(Witness { copies })
}

/// The scenario of a seed with a witness, if it has three hosts or five.
#[must_use]
pub fn draw_witnessed(seed: u64) -> Scenario {
    let mut scenario = draw(seed);
    if scenario.witness.is_some() || scenario.hosts < 3 {
        return scenario;
    }
    let mut random = Streams::of(seed).named("witness.drawn");
    let copies = pick(&mut random, &[None, Some(1), Some(1), Some(2)]);
    scenario.witness = Some(Witness { copies });
    scenario.quorums = None;
    scenario.unsound.clear();
    let of_unsound = |fault: &Fault| {
        matches!(
            fault,
            Fault::Replace { .. }
                | Fault::Wipe { .. }
                | Fault::SyncLies { .. }
                | Fault::LostWrite { .. }
                | Fault::BitRot { .. }
                | Fault::UnreadableSector { .. }
                | Fault::Misdirected { .. }
                | Fault::Rejoin { .. }
        )
    };
    let is_beyond = scenario.beyond;
    let faults = &mut scenario.faults;
    faults.retain(|planned| is_beyond || !of_unsound(&planned.fault));
    fit_keyspaces(&mut scenario);
    scenario
}

/// A witness holds no keyspace.
fn fit_keyspaces(scenario: &mut Scenario) {
    let holders = scenario.holders();
    for keyspace in &mut scenario.keyspaces {
        while keyspace.replicas > holders {
            keyspace.replicas -= 2;
        }
    }
}

/// Draws the scenario of a seed, and lets its nodes agree by Raft.
#[must_use]
pub fn draw_raft(seed: u64) -> Scenario {
    draw_for(seed, EngineKind::Raft)
}

/// Draws the scenario of a seed, and lets its nodes agree by Paxos.
#[must_use]
pub fn draw_paxos(seed: u64) -> Scenario {
    draw_for(seed, EngineKind::Paxos)
}

fn draw_for(seed: u64, engine: EngineKind) -> Scenario {
    let mut scenario = draw(seed);
    scenario.agree_by(engine);
    scenario
}

/// What draws scenarios for an engine (for either, if none is named), perhaps with damage beyond
/// what can be survived.
#[must_use]
pub fn drawing(engine: Option<EngineKind>, is_beyond: bool) -> fn(u64) -> Scenario {
    match (engine, is_beyond) {
        (None, false) => draw,
        (Some(EngineKind::Raft), false) => draw_raft,
        (Some(EngineKind::Paxos), false) => draw_paxos,
        (None, true) => |seed| beyond(draw(seed)),
        (Some(EngineKind::Raft), true) => |seed| beyond(draw_raft(seed)),
        (Some(EngineKind::Paxos), true) => |seed| beyond(draw_paxos(seed)),
    }
}

/// One seed in so many has other keyspaces than the default one.
const KEYSPACES_ONE_IN: u64 = 3;

/// Adds keyspaces. Disks go bad only as far as a minority of the replicas of each allows.
fn with_keyspaces(scenario: &mut Scenario) {
    let mut random = Streams::of(scenario.seed).named("keyspaces");
    for _ in 0..random.below(3) + 1 {
        let engine = EngineKind::ALL[random.below(2) as usize];
        let replicas = match scenario.hosts {
            5 => pick(&mut random, &[1, 3, 3, 5, 5]),
            3 => pick(&mut random, &[1, 3, 3, 3, 3]),
            _ => 1,
        };
        let created = random.below(scenario.duration / 2) + 1;
        let dropped = match random.below(4) {
            0 => Some(created + random.below(scenario.duration)),
            _ => None,
        };
        let mut workload = workload(&mut random);
        workload.clients = workload.clients.div_ceil(2);
        scenario.keyspaces.push(Keyspace {
            engine,
            replicas,
            created,
            dropped,
            moves: Vec::new(),
            observations: Vec::new(),
            workload,
        });
        scenario.unsound.truncate((replicas - 1) / 2);
    }
    fit_keyspaces(scenario);
    with_moves(scenario);
    with_observers(scenario);
}

/// What one message to an observer carries, at least. A leader does not wait for observers: where
/// one entry is on its way to them at a time, over a slow network, they would never catch up with
/// one that has no followers.
const OBSERVED_APPEND_BYTES_MIN: u64 = 16 << 10;

/// One seed with keyspaces in so many has them observed, where there is somebody who could.
const OBSERVED_ONE_IN: u64 = 3;

/// Has keyspaces observed, and no disk lose anything: what an observer has is no copy that counts.
fn with_observers(scenario: &mut Scenario) {
    let mut random = Streams::of(scenario.seed).named("observations");
    if random.below(OBSERVED_ONE_IN) > 0 {
        return;
    }
    let holders = scenario.holders();
    for keyspace in &mut scenario.keyspaces {
        if keyspace.replicas >= holders {
            continue;
        }
        for _ in 0..random.below(4) + 1 {
            let rest = scenario.duration.saturating_sub(keyspace.created).max(1);
            keyspace
                .observations
                .push(keyspace.created + random.below(rest));
        }
        keyspace.observations.sort_unstable();
        scenario.unsound.clear();
        let append_bytes = &mut scenario.small.append_bytes;
        *append_bytes = OBSERVED_APPEND_BYTES_MIN.max(*append_bytes);
    }
}

/// One seed with keyspaces in so many has them moved, where there is room.
const MOVES_ONE_IN: u64 = 2;

/// One seed with keyspaces that move in about so many has them sent elsewhere by themselves, too.
const TENDING_ONE_IN: u64 = 2;

/// One seed with keyspaces that move in so many has them moved again and again: they come back to
/// nodes that let go of them only just now.
const RESTLESS_ONE_IN: u64 = 3;

/// Has keyspaces moved. Whose disk may lose something is then not known before, so none does.
fn with_moves(scenario: &mut Scenario) {
    let mut random = Streams::of(scenario.seed).named("moves");
    if random.below(MOVES_ONE_IN) > 0 {
        return;
    }
    // From a stream of its own, so that it changes nothing else about a seed.
    let mut tending = Streams::of(scenario.seed).named("tending");
    let mut restless = Streams::of(scenario.seed).named("restless");
    let is_restless = restless.below(RESTLESS_ONE_IN) == 0;
    for keyspace in &mut scenario.keyspaces {
        if keyspace.replicas == scenario.hosts - usize::from(scenario.witness.is_some()) {
            continue;
        }
        if scenario.tending.is_none() && tending.below(TENDING_ONE_IN) == 0 {
            scenario.tending = Some(pick(&mut tending, &[0, 1, 1, 2]));
        }
        for _ in 0..random.below(4) + 1 {
            let rest = scenario.duration.saturating_sub(keyspace.created).max(1);
            keyspace.moves.push(keyspace.created + random.below(rest));
            let more = if is_restless { restless.below(8) } else { 0 };
            let times = (0..more).map(|_| keyspace.created + restless.below(rest));
            keyspace.moves.extend(times);
        }
        keyspace.moves.sort_unstable();
        scenario.unsound.clear();
    }
}

/// One seed in so many goes beyond what the atlas permits.
const BEYOND_ONE_IN: u64 = 25;

/// The same scenario with damage that no protocol survives: shown by checksums, on any hosts.
#[must_use]
pub fn beyond(mut scenario: Scenario) -> Scenario {
    if scenario.beyond {
        return scenario;
    }
    scenario.beyond = true;
    let mut random = Streams::of(scenario.seed).named("beyond");
    for _ in 0..random.below(8) + 1 {
        let host = random.below(scenario.hosts as u64) as usize;
        let at = random.below(scenario.duration) + 1;
        let draw = random.next_u64();
        let fault = match random.below(5) {
            0 => Fault::Wipe { host },
            1 => Fault::UnreadableSector { host, draw },
            _ => Fault::BitRot { host, draw },
        };
        scenario.faults.push(Planned { at, fault });
        // Most damage shows when a node reads its disk: when it starts.
        if random.below(4) > 0 {
            let fault = Fault::Kill {
                who: Who::Host(host),
                crash: pick(&mut random, &[Crash::Power, Crash::Process]),
                after_outputs: 0,
                down: time(&mut random, SECOND),
            };
            let at = at + random.below(SECOND);
            scenario.faults.push(Planned { at, fault });
        }
    }
    scenario.faults.sort_by_key(|planned| planned.at);
    scenario
}

/// A cluster of this size in which nothing goes wrong.
#[must_use]
pub fn calm(seed: u64, hosts: usize, clients: usize, pause: Micros, duration: Micros) -> Scenario {
    Scenario {
        seed,
        hosts,
        engine: EngineKind::Raft,
        quorums: None,
        witness: None,
        duration,
        unsound: Vec::new(),
        beyond: false,
        flags_differ: false,
        gossip: false,
        network: Network {
            delay: 100,
            jitter: 100,
            tail_share: 0,
            tail: 0,
            break_share: 0,
            duplicate_share: 0,
            replay_share: 0,
            reorder_share: 0,
            loss_share: 0,
            timeout: 5 * SECOND,
        },
        machine: Machine {
            disk_delay: 200,
            disk_jitter: 200,
            pass: 10,
            handing_over: 0,
            threads: 0,
        },
        workload: Workload {
            clients,
            pause,
            keys: 32,
            value_bytes: 64,
            shares: [40, 30, 5, 15, 5, 5, 0, 0, 0],
            elections: 0,
            watches: 0,
            patience: 10 * SECOND,
        },
        keyspaces: Vec::new(),
        tending: None,
        small: Small {
            segment_bytes: 256 << 10,
            checkpoint_log_bytes: 256 << 10,
            cache_bytes: 256 << 10,
            append_bytes: 64 << 10,
            inflight_messages: 64,
            window_entries: 1024,
            piece_bytes: 16 << 10,
            entry_commands: 256,
            ring_revisions: 1024,
        },
        faults: Vec::new(),
    }
}

/// A share per million: usually none, else up to `most`.
fn share(random: &mut Random, most: u64) -> u64 {
    match random.below(4) {
        0 => random.below(most) + 1,
        _ => 0,
    }
}

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.below(from.len() as u64) as usize]
}

fn network(random: &mut Random) -> Network {
    Network {
        delay: pick(random, &[50, 100, 500, 2_000, 20_000]),
        jitter: pick(random, &[50, 100, 1_000, 10_000]),
        tail_share: share(random, 50_000),
        tail: random.below(500 * MILLISECOND) + MILLISECOND,
        break_share: share(random, 5_000),
        duplicate_share: share(random, 100_000),
        replay_share: share(random, 50_000),
        reorder_share: share(random, 200_000),
        loss_share: share(random, 100_000),
        timeout: random.below(5 * SECOND) + 500 * MILLISECOND,
    }
}

fn machine(random: &mut Random) -> Machine {
    Machine {
        disk_delay: pick(random, &[50, 200, 1_000, 8_000]),
        disk_jitter: pick(random, &[50, 500, 5_000, 20_000]),
        pass: pick(random, &[5, 10, 50, 500]),
        handing_over: pick(random, &[0, 0, 50, 500, 20_000]),
        threads: 0,
    }
}

fn workload(random: &mut Random) -> Workload {
    let mut shares = [0; 9];
    for (share, most) in shares.iter_mut().zip([60, 40, 15, 40, 15, 15, 3]) {
        *share = random.below(most + 1);
    }
    for (share, most) in shares[7..].iter_mut().zip([40, 15]) {
        *share = random.below(3) / 2 * random.below(most + 1);
    }
    shares[0] += 5;
    shares[1] += 5;
    Workload {
        clients: random.below(8) as usize + 1,
        pause: pick(random, &[1, 5, 20, 100]) * MILLISECOND,
        keys: pick(random, &[1, 4, 16, 100]),
        value_bytes: pick(random, &[16, 64, 64, 1_000]),
        shares,
        watches: pick(random, &[0, 0, 1, 2, 4]),
        patience: pick(random, &[200 * MILLISECOND, SECOND, 8 * SECOND]),
        elections: random.below(3) / 2 * random.below(16),
    }
}

fn small(random: &mut Random) -> Small {
    Small {
        segment_bytes: pick(random, &[32, 64, 128, 256]) << 10,
        checkpoint_log_bytes: pick(random, &[4, 16, 64, 256]) << 10,
        cache_bytes: pick(random, &[1, 8, 64, 1024]) << 10,
        append_bytes: pick(random, &[1, 8, 64]) << 10,
        inflight_messages: pick(random, &[1, 2, 8, 64]),
        window_entries: pick(random, &[2, 16, 128, 1024]),
        piece_bytes: pick(random, &[512, 4096, 65_536]),
        entry_commands: pick(random, &[1, 4, 64]),
        ring_revisions: pick(random, &[1, 4, 32, 1024]),
    }
}

fn who(random: &mut Random, hosts: usize) -> Who {
    match random.below(6) {
        0 | 1 => Who::Leader,
        2 => Who::Follower(random.below(hosts as u64) as usize),
        _ => Who::Host(random.below(hosts as u64) as usize),
    }
}

fn shape(random: &mut Random, hosts: usize) -> Shape {
    match random.below(10) {
        0 => Shape::QuorumLoss,
        1 => Shape::ConstrainedElection,
        2 => Shape::Chained,
        3 => Shape::Mute(who(random, hosts)),
        4 => Shape::Deaf(who(random, hosts)),
        5 => Shape::Link(who(random, hosts), who(random, hosts)),
        6 => Shape::OneWay(who(random, hosts), who(random, hosts)),
        7 => Shape::Split(random.next_u64()),
        _ => Shape::Isolated(who(random, hosts)),
    }
}

/// A time of any order of magnitude up to `most`.
fn time(random: &mut Random, most: Micros) -> Micros {
    let most = pick(random, &[most, most / 4, most / 20]).max(1);
    random.below(most) + 1
}

/// Kinds of faults that are drawn, one function each.
type Draw = fn(&Scenario, &mut Random) -> Fault;

/// One of the hosts whose disks may go bad.
fn unsound(scenario: &Scenario, random: &mut Random) -> usize {
    match scenario.unsound.as_slice() {
        [] => usize::MAX,
        hosts => hosts[random.below(hosts.len() as u64) as usize],
    }
}

const KINDS: &[Draw] = &[
    |scenario, random| Fault::Kill {
        who: who(random, scenario.hosts),
        crash: pick(random, &[Crash::Power, Crash::Process]),
        after_outputs: random.below(30) as u32,
        down: time(random, 5 * SECOND),
    },
    |_, random| Fault::Kill {
        who: Who::Everyone,
        crash: pick(random, &[Crash::Power, Crash::Power, Crash::Process]),
        after_outputs: random.below(10) as u32,
        down: time(random, SECOND),
    },
    |scenario, random| Fault::Kill {
        who: who(random, scenario.hosts),
        crash: Crash::Power,
        after_outputs: random.below(5) as u32,
        down: time(random, 200 * MILLISECOND),
    },
    |scenario, random| Fault::Stop {
        who: who(random, scenario.hosts),
        down: time(random, 3 * SECOND),
    },
    |scenario, random| Fault::Replace {
        host: unsound(scenario, random),
    },
    |scenario, random| Fault::Wipe {
        host: unsound(scenario, random),
    },
    |scenario, random| Fault::Pause {
        who: who(random, scenario.hosts),
        time: pick(random, &[1, 1, 1, 60]) * time(random, 3 * SECOND),
    },
    |scenario, random| Fault::SlowProcessor {
        who: who(random, scenario.hosts),
        times: pick(random, &[10, 100, 1000]),
        time: time(random, 5 * SECOND),
    },
    |scenario, random| Fault::Partition {
        shape: shape(random, scenario.hosts),
        time: time(random, 8 * SECOND),
    },
    |scenario, random| Fault::Partition {
        shape: shape(random, scenario.hosts),
        time: time(random, 2 * SECOND),
    },
    |scenario, random| Fault::BreakConnections {
        who: who(random, scenario.hosts),
    },
    |scenario, random| Fault::ClockJump {
        who: who(random, scenario.hosts),
        by: time(random, 60 * SECOND),
    },
    |scenario, random| Fault::ClockFreeze {
        who: who(random, scenario.hosts),
        time: time(random, 5 * SECOND),
    },
    |scenario, random| Fault::ClockDrift {
        who: who(random, scenario.hosts),
        parts: random.below(400_000) as i64 - 200_000,
    },
    |scenario, random| Fault::WallJump {
        who: who(random, scenario.hosts),
        by_ms: random.below(7_200_000) as i64 - 3_600_000,
    },
    |scenario, random| Fault::DiskStall {
        who: who(random, scenario.hosts),
        time: time(random, 5 * SECOND),
    },
    |scenario, random| Fault::DiskSlow {
        who: who(random, scenario.hosts),
        times: pick(random, &[10, 100, 1000]),
        time: time(random, 5 * SECOND),
    },
    |scenario, random| Fault::DiskFull {
        who: who(random, scenario.hosts),
        time: time(random, 3 * SECOND),
    },
    |scenario, random| Fault::SyncError {
        who: who(random, scenario.hosts),
    },
    |scenario, random| Fault::SyncLies {
        host: unsound(scenario, random),
        time: time(random, 3 * SECOND),
    },
    |scenario, random| Fault::LostWrite {
        host: unsound(scenario, random),
    },
    |scenario, random| Fault::BitRot {
        host: unsound(scenario, random),
        draw: random.next_u64(),
    },
    |scenario, random| Fault::UnreadableSector {
        host: unsound(scenario, random),
        draw: random.next_u64(),
    },
    |scenario, random| Fault::Misdirected {
        host: unsound(scenario, random),
        draw: random.next_u64(),
    },
    |scenario, random| Fault::Transfer {
        to: (random.below(2) == 0).then(|| random.below(scenario.hosts as u64) as usize),
    },
    |scenario, random| Fault::Rejoin {
        host: unsound(scenario, random),
    },
    |scenario, random| Fault::JournalStall {
        who: who(random, scenario.hosts),
        time: time(random, 5 * SECOND),
    },
    |_, random| Fault::FrozenLeader {
        time: time(random, 10 * SECOND),
    },
];

fn faults(scenario: &Scenario, random: &mut Random) -> Vec<Planned> {
    let mut faults = Vec::new();
    for kind in KINDS {
        // Drawn whether or not it is used, so that kinds do not shift each other.
        let mut own = random.fork();
        let wanted = own.below(5) == 0;
        let count = own.below(6) + 1;
        if !wanted {
            continue;
        }
        for _ in 0..count {
            let at = own.below(scenario.duration) + 1;
            let fault = kind(scenario, &mut own);
            faults.push(Planned { at, fault });
        }
    }
    faults.sort_by_key(|planned| planned.at);
    faults
}

/// One seed in so many damages a log that somebody is about to need.
const ROTTEN_LOG_ONE_IN: u64 = 24;

/// A leader's log goes bad while a follower is away that will need it: what is executed stands in
/// the state as well, so that a checkpoint must take the log's place. Faults that come by chance
/// hardly ever hit what is going to be read: it has to be out of memory, not yet let go of, and
/// asked for before the next start reads all of it.
pub fn rot_log(scenario: &mut Scenario) {
    let mut random = Streams::of(scenario.seed).named("rot");
    let Some(host) = scenario.unsound.first().copied() else {
        return;
    };
    let away = Who::Host((host + 1) % scenario.hosts);
    scenario.small.cache_bytes = 1 << 10;
    scenario.small.checkpoint_log_bytes = pick(&mut random, &[64, 256, 1024]) << 10;
    // What is on its way when the follower goes arrives when it is back, and needs no reading.
    scenario.small.inflight_messages = scenario.small.inflight_messages.min(4);
    let workload = &mut scenario.workload;
    workload.clients = workload.clients.max(6);
    workload.pause = workload.pause.min(5 * MILLISECOND);
    // Else all of them soon wait for the one that is away.
    workload.patience = workload.patience.min(200 * MILLISECOND);
    workload.shares[0] += workload.shares.iter().sum::<u64>();
    let (begins, lasts) = (SECOND + random.below(SECOND), 2 * SECOND);
    scenario.duration = scenario.duration.max(begins + 2 * lasts);
    let mut plan = |at, fault| scenario.faults.push(Planned { at, fault });
    plan(begins, Fault::Transfer { to: Some(host) });
    let shape = Shape::Isolated(away);
    let time = lasts;
    plan(begins + lasts / 4, Fault::Partition { shape, time });
    for _ in 0..random.below(12) + 4 {
        let at = begins + lasts / 2 + random.below(lasts / 2);
        let draw = random.next_u64();
        plan(at, Fault::BitRot { host, draw });
    }
    scenario.faults.sort_by_key(|planned| planned.at);
}

/// In one seed of so many of Multi-Paxos, leaders die over slots that nobody else has heard of.
const HOLES_ONE_IN: u64 = 24;

/// Leaders of Multi-Paxos die while much is lost on its way: of slots that follow each other the
/// later one has been accepted by those who are left, the earlier one by nobody. The next leader
/// must fill it with a no-op. By chance that happens in one run of thousands.
pub fn leave_holes(scenario: &mut Scenario) {
    if scenario.engine != EngineKind::Paxos {
        return;
    }
    let mut random = Streams::of(scenario.seed).named("holes");
    scenario.network.loss_share = scenario.network.loss_share.max(250_000);
    // Many messages, each with few entries.
    scenario.small.append_bytes = 1024;
    scenario.small.entry_commands = 1;
    scenario.small.window_entries = scenario.small.window_entries.max(64);
    scenario.small.inflight_messages = scenario.small.inflight_messages.max(64);
    let workload = &mut scenario.workload;
    workload.clients = workload.clients.max(8);
    workload.pause = workload.pause.min(5 * MILLISECOND);
    workload.shares[0] += workload.shares.iter().sum::<u64>();
    for _ in 0..12 {
        let fault = Fault::Kill {
            who: Who::Leader,
            crash: Crash::Process,
            after_outputs: random.below(30) as u32,
            down: SECOND + random.below(SECOND),
        };
        let at = SECOND + random.below(scenario.duration.max(2 * SECOND));
        scenario.faults.push(Planned { at, fault });
    }
    scenario.faults.sort_by_key(|planned| planned.at);
}

/// Long enough for a level to be raised, and for what comes after that.
const LEVEL_RAISED_WITHIN: Micros = 8 * SECOND;

/// Nodes get a newer build one by one. In some runs one never does, or goes back to the old one:
/// before the level was raised it may, afterwards it must refuse.
fn upgrade(scenario: &mut Scenario) {
    let mut random = Streams::of(scenario.seed).named("levels");
    let down = time(&mut random, SECOND);
    let everyone = random.below(3) > 0;
    let soon = scenario.duration / (random.below(4) + 1);
    for host in 0..scenario.hosts {
        let at = random.below(soon) + 1;
        if everyone || random.below(3) > 0 {
            let fault = Fault::Upgrade { host, down };
            scenario.faults.push(Planned { at, fault });
        }
    }
    if random.below(2) == 0 {
        scenario.duration = scenario.duration.max(LEVEL_RAISED_WITHIN);
        let host = random.below(scenario.hosts as u64) as usize;
        let at = scenario.duration - random.below(scenario.duration / 2);
        let fault = Fault::Downgrade { host, down };
        scenario.faults.push(Planned { at, fault });
    }
    scenario.faults.sort_by_key(|planned| planned.at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_survives_and_a_bad_line_is_named() {
        for seed in 0..200 {
            let scenario = draw(seed);
            let script = scenario.to_script();
            assert_eq!(Scenario::from_script(&script), Ok(scenario));
        }
        let mut script = draw(1).to_script();
        script += "{\"at\":1,\"fault\":{\"explode\":{}}}\n";
        let line = script.lines().count();
        let error = Scenario::from_script(&script).unwrap_err();
        assert_eq!(error.line, line);
        assert!(error.reason.contains("explode"), "{error}");
        assert_eq!(Scenario::from_script("").unwrap_err().line, 1);
        let mut wrong = draw(1);
        wrong.small.window_entries = 0;
        let error = Scenario::from_script(&wrong.to_script()).unwrap_err();
        assert!(error.line == 1 && error.reason.contains("zero"), "{error}");
    }

    #[test]
    fn disks_go_bad_only_within_a_minority() {
        for seed in 0..500 {
            let scenario = draw(seed);
            assert!(scenario.unsound.len() <= (scenario.hosts - 1) / 2);
        }
    }
}
