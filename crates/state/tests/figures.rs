//! How fast and how lean: a million keys of 256-byte values. Run by hand:
//! `cargo test --release -p quorate-state --test figures -- --ignored --nocapture`
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measures real time"
)]
#![allow(clippy::print_stderr, reason = "prints what it measured")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use base::Random;
use bytes::Bytes;
use quorate_state::{KeyRange, LeaseId, Limits, Revision, Space, State, Transaction};

mod support;

use support::{next_stamp, read, run, write};

const KEYS: u64 = 1_000_000;

/// Puts in one entry, as they come in a batch.
const BATCH: u64 = 64;

fn key(number: u64) -> String {
    // Spread over the key space: consecutive numbers are far apart.
    let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("/registry/pods/namespace-{:03}/{spread:016x}", spread % 500)
}

/// Resident memory in MiB, where the system tells.
fn resident() -> u64 {
    let statistics = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statistics
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096 / (1 << 20)
}

/// Processor time of this process: other work on the machine does not count.
fn busy() -> Duration {
    let statistics = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = statistics.split(' ').skip(13).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn measure<T>(what: &str, count: u64, work: impl FnOnce() -> T) -> T {
    let (start, start_busy) = (Instant::now(), busy());
    let result = work();
    let (elapsed, busy) = (start.elapsed(), busy() - start_busy);
    let each = busy.as_nanos() as u64 / count;
    eprintln!(
        "{what:<44} {each:>7} ns each, {elapsed:>9.2?}, {:>5} MiB",
        resident()
    );
    result
}

fn put_all(state: &mut State, keys: &[String], value: &[u8]) {
    for batch in keys.chunks(BATCH as usize) {
        state.begin_entry(&next_stamp(state));
        for key in batch {
            let mut transaction = state.transaction();
            transaction.put(Space::ETCD, key.as_bytes(), value, 0);
            transaction.commit();
        }
        drop(state.end_entry());
    }
}

#[test]
#[ignore = "takes a while and prints figures instead of judging them"]
fn a_million_keys() {
    figures(KEYS);
}

#[test]
#[ignore = "prints figures instead of judging them"]
fn as_many_keys_as_the_processor_caches() {
    figures(KEYS / 100);
}

#[test]
#[ignore = "prints figures instead of judging them"]
fn leases() {
    const LEASES: i64 = 10_000;
    let entry = |state: &mut State, commands: &mut dyn FnMut(&mut Transaction<'_>)| {
        state.begin_entry(&next_stamp(state));
        let mut transaction = state.transaction();
        commands(&mut transaction);
        transaction.commit();
        drop(state.end_entry());
    };
    // Spread, as ids that are drawn at random are.
    let id = |number: i64| LeaseId((number + 1).wrapping_mul(0x1E37_79B9_7F4A_7C15));
    let mut state = State::new(Limits::default());
    eprintln!("before: {} MiB", resident());
    let grant = |state: &mut State, numbers: std::ops::Range<i64>| {
        for number in numbers {
            entry(state, &mut |transaction| {
                transaction.grant_lease(id(number), Duration::from_secs(60));
            });
        }
    };
    measure("grant", LEASES as u64, || grant(&mut state, 0..LEASES));
    measure("put a key with a lease", LEASES as u64, || {
        for number in 0..LEASES {
            entry(&mut state, &mut |transaction| {
                let key = key(number as u64);
                transaction.put(Space::ETCD, key.as_bytes(), &[7; 256], id(number).0);
            });
        }
    });
    measure("renew, each by a transaction", 10 * LEASES as u64, || {
        for number in 0..10 * LEASES / 1000 {
            entry(&mut state, &mut |transaction| {
                for each in 0..1000 {
                    transaction.renew_lease(id((number * 1000 + each) % LEASES));
                }
            });
        }
    });
    for together in [100, 500] {
        let name = format!("renew, {together} together");
        measure(&name, 100 * LEASES as u64, || {
            for number in 0..100 * LEASES / together {
                let ids = (0..together).map(|each| id((number * together + each) % LEASES));
                let ids: Vec<LeaseId> = ids.collect();
                state.begin_entry(&next_stamp(&state));
                state.renew_leases(&ids);
                drop(state.end_entry());
            }
        });
    }
    measure("end, with a key", LEASES as u64, || {
        for number in 0..LEASES {
            entry(&mut state, &mut |transaction| {
                transaction.revoke_lease(id(number));
            });
        }
    });
    assert_eq!(state.reader().lease_count(), 0);
    let (more, before) = (1_000_000, resident());
    measure("grant a million", more as u64, || {
        grant(&mut state, 0..more)
    });
    let each = ((resident() - before) << 20) / more as u64;
    eprintln!("a lease without keys takes {each} bytes");
}

fn figures(count: u64) {
    let mut state = State::new(Limits::default());
    let mut random = Random::from_seed(5);
    let keys: Vec<String> = (0..count).map(key).collect();
    let some: Vec<&str> = (0..count)
        .map(|_| keys[random.below(count) as usize].as_str())
        .collect();
    eprintln!("before: {} MiB", resident());
    measure("put new keys", count, || {
        put_all(&mut state, &keys, &[7; 256])
    });
    measure("get", count, || {
        for key in &some {
            black_box(state.reader().get(Space::ETCD, key.as_bytes(), None));
        }
    });
    let map: std::collections::BTreeMap<Bytes, [u64; 9]> = keys
        .iter()
        .map(|key| (Bytes::copy_from_slice(key.as_bytes()), [0; 9]))
        .collect();
    measure("get std", count, || {
        for key in &some {
            black_box(map.get(key.as_bytes()));
        }
    });
    drop(map);
    let everything = KeyRange::From {
        start: Bytes::new(),
    };
    let found = measure("range", count, || {
        state.reader().range(Space::ETCD, &everything, None).count()
    });
    assert_eq!(found as u64, count);
    measure("count of half", 1000, || {
        for key in &some[..1000] {
            let range = KeyRange::From {
                start: Bytes::copy_from_slice(key.as_bytes()),
            };
            black_box(state.reader().count(Space::ETCD, &range, None));
        }
    });
    let snapshot = state.snapshot();
    let held: Vec<String> = (0..count / 10).map(|number| key(number * 7)).collect();
    measure("overwrite while a snapshot is held", count / 10, || {
        put_all(&mut state, &held, &[8; 256]);
    });
    measure("drop the snapshot", 1, || drop(snapshot));
    measure("overwrite all", count, || {
        put_all(&mut state, &keys, &[9; 256])
    });
    let latest = state.reader().revision();
    let middle = Revision(latest.0 - count as i64 / 2);
    measure("range at an old revision", count, || {
        state
            .reader()
            .range(Space::ETCD, &everything, Some(middle))
            .count()
    });
    run(&mut state, |transaction| transaction.compact(latest));
    measure("compact", 2 * count, || {
        while state.compaction_pending() {
            run(&mut state, |_| {});
        }
    });
    checkpoint(&state, count);
}

fn checkpoint(state: &State, count: u64) {
    let bytes = measure("write a checkpoint", count, || {
        write(state.snapshot(), Limits::default())
    });
    eprintln!("checkpoint: {} MiB", bytes.len() >> 20);
    let restored = measure("read a checkpoint", count, || {
        read(&bytes, Limits::default(), 1 << 20).expect("it was just written")
    });
    assert_eq!(restored.digest(), state.digest());
    measure("drop a state", count, || drop(restored));
    measure("recompute the digest", count, || {
        state.reader().recompute_digest()
    });
}
