//! Random histories and random watchers against a hub whose every limit is met all the time: what
//! clients get is compared with what they are due, event by event.

use std::time::Duration;

use base::Random;
use bytes::Bytes;
use etcd::proto::etcdserverpb::WatchCreateRequest;
use quorate_node::hub::HubLimits;

mod watching;
use watching::{World, Write, watch};

/// Small numbers, different in each run, so that every bound is reached.
fn tiny(random: &mut Random) -> HubLimits {
    let mut one_of = |numbers: &[usize]| numbers[random.below(numbers.len() as u64) as usize];
    HubLimits {
        streams: 6,
        stream_watchers: 5,
        watchers: 20,
        ring_revisions: one_of(&[0, 1, 3, 20, 1000]),
        ring_bytes: one_of(&[300, 2_000, 1 << 20]),
        message_bytes: one_of(&[1, 100, 400, 1 << 20]),
        message_bytes_max: 1 << 20,
        fragment_bytes: one_of(&[1, 120, 300, 1 << 20]),
        stream_debt_bytes: 2_000,
        debt_bytes: 1 << 20,
        lagging_steps: one_of(&[1, 5, 100, 10_000]),
        shared_bytes: one_of(&[0, 500, 1 << 20]),
        history_steps: one_of(&[1, 2, 7, 50, 1000]),
        history_bytes: one_of(&[1, 1_000, 1 << 20]),
        history_watchers: one_of(&[1, 2, 100]),
        history_pause: Duration::from_millis(one_of(&[0, 5]) as u64),
        history_pause_max: Duration::from_millis(5),
        progress_interval: Duration::from_millis(40),
        leaderless_patience: Duration::from_millis(1500),
    }
}

fn key(random: &mut Random) -> Vec<u8> {
    let length = 1 + random.below(2) as usize;
    (0..length).map(|_| b'a' + random.below(3) as u8).collect()
}

fn random_write(random: &mut Random) -> Write {
    if random.chance(0.7) {
        let length = random.below(80) as usize;
        Write::Put(key(random), vec![b'v'; length])
    } else {
        Write::Delete(key(random))
    }
}

fn random_create(world: &World, random: &mut Random) -> WatchCreateRequest {
    if random.chance(0.5) {
        // Watchers of several streams that are all alike get the very same messages.
        return WatchCreateRequest {
            watch_id: 1 + random.below(2) as i64,
            ..watch("a", "c")
        };
    }
    let range_end = match random.below(4) {
        0 => Vec::new(),
        1 => vec![0],
        _ => key(random),
    };
    let revision = world.revision();
    let start_revision = match random.below(6) {
        0 | 1 => 0,
        2 => revision + random.below(5) as i64,
        3 => world.compacted() + random.below(3) as i64 - 1,
        4 => 1 + random.below(revision as u64) as i64,
        _ => (revision - random.below(6) as i64).max(1),
    };
    let filters = match random.below(6) {
        0 => vec![0],
        1 => vec![1],
        2 => vec![0, 1],
        _ => Vec::new(),
    };
    WatchCreateRequest {
        key: Bytes::from(key(random)),
        range_end: range_end.into(),
        start_revision,
        progress_notify: random.chance(0.5),
        filters,
        prev_kv: random.chance(0.5),
        watch_id: match random.below(3) {
            // Not -1, which stands for the whole stream: etcd allows it, and confuses its clients.
            0 => [-3, -2, 1, 2, 3, 4][random.below(6) as usize],
            _ => 0,
        },
        fragment: random.chance(0.4),
    }
}

fn act(world: &mut World, random: &mut Random) {
    let open = world.open_streams();
    let stream = (!open.is_empty()).then(|| open[random.below(open.len() as u64) as usize]);
    match (random.below(100), stream) {
        (0..30, _) => {
            let count = 1 + random.below(4) * random.below(2);
            let writes: Vec<Write> = (0..count).map(|_| random_write(random)).collect();
            world.write(&writes);
        }
        (30..33, _) => {
            let (floor, revision) = (world.compacted(), world.revision());
            if floor < revision {
                world.compact(floor + 1 + random.below((revision - floor) as u64) as i64);
            }
        }
        (33..34, _) => world.publish(true),
        (34..46, _) => world.publish(false),
        (46..60, _) => world.flush(),
        (60..63, _) => {
            world.open(false);
        }
        (63..64, Some(stream)) => world.close(stream),
        (64..71, Some(stream)) => {
            let create = random_create(world, random);
            world.create(stream, create);
        }
        (71..74, Some(stream)) => world.cancel(stream, random.below(8) as i64 - 3),
        (74..78, Some(stream)) => world.ask_progress(stream),
        (78..90, Some(stream)) => {
            let bytes = [1, 50, 500, 5_000][random.below(4) as usize];
            world.credit(stream, bytes);
        }
        (90..96, _) if !world.reads.is_empty() => world.run_read(0, random.chance(0.1)),
        (96..100, _) => world.wait(Duration::from_millis(random.below(30))),
        _ => {}
    }
}

fn run(seed: u64) -> World {
    let mut random = Random::from_seed(seed);
    let limits = tiny(&mut random);
    let mut world = World::new(limits, random.next_u64());
    for _ in 0..2_000 {
        act(&mut world, &mut random);
    }
    // A client that goes on with a new watch where an old one has come to misses nothing: the new
    // one is checked like any other.
    world.settle();
    world.check_complete();
    world
}

#[test]
fn watchers_get_what_they_are_due() {
    let (mut events, mut reads, mut progress, mut compacted, mut ended) = (0, 0, 0, 0, 0);
    for seed in 0..150 {
        let world = run(seed);
        let metrics = world.hub.metrics();
        events += metrics.events_delivered;
        reads += metrics.history_reads;
        compacted += metrics.watchers_compacted;
        let clients = world.clients.values();
        progress += clients
            .clone()
            .map(|each| each.progress.len())
            .sum::<usize>();
        ended += clients.filter(|each| each.ended.is_some()).count();
    }
    // The test is worth nothing if these things do not happen.
    assert!(events > 50_000, "{events} events");
    assert!(reads > 5_000, "{reads} reads of history");
    assert!(progress > 500, "{progress} notices of progress");
    assert!(compacted > 200, "{compacted} watchers compacted");
    assert!(ended > 10, "{ended} streams ended");
}
