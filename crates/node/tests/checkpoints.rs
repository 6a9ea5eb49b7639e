//! When a replica writes a checkpoint, and how fast.

use std::time::Duration;

use bytes::Bytes;
use etcd::proto::etcdserverpb::{CompactionRequest, PutRequest};
use quorate_node::{Answer, Call};

mod support;

use support::{World, config};

fn must_ask(world: &mut World, host: usize, request: etcd::Request) {
    let answer = world.ask(host, Call::Etcd(request));
    assert!(matches!(answer, Answer::Etcd(Ok(_))), "{answer:?}");
}

fn must_put(world: &mut World, host: usize, key: &str, value_bytes: usize) {
    let request = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: "v".repeat(value_bytes).into(),
        ..Default::default()
    };
    must_ask(world, host, etcd::Request::Put(request));
}

fn written(world: &World, host: usize) -> u64 {
    world.node(host).metrics().checkpoints_written
}

/// Puts until there are so many checkpoints; how many it took.
fn puts_until(world: &mut World, host: usize, checkpoints: u64, value_bytes: usize) -> usize {
    let mut puts = 0;
    while written(world, host) < checkpoints {
        must_put(world, host, &format!("key{}", puts % 10), value_bytes);
        puts += 1;
        assert!(puts < 2000, "no checkpoint is written");
    }
    puts
}

/// All gather the same log; if all wrote at once, nobody were left who is as fast as ever.
#[test]
fn replicas_do_not_all_write_at_the_same_time() {
    let mut world = World::new(30, (0..3).map(|each| config(each, 3)).collect());
    for host in 0..3 {
        world.config_of(host).limits.checkpoint_log_bytes = 64 << 10;
        world.start(host);
    }
    world.wait_for_leader();
    let mut first = [0; 3];
    for put in 1..300 {
        must_put(&mut world, 0, &format!("key{}", put % 10), 1000);
        for (host, first) in first.iter_mut().enumerate() {
            if *first == 0 && written(&world, host) > 0 {
                *first = put;
            }
        }
    }
    first.sort_unstable();
    let [one, another, last] = first;
    assert!(one > 40, "each gathers as much as it is to: {first:?}");
    assert!(one + 5 < another && another + 5 < last, "{first:?}");
    assert!(last < 2 * one, "nobody's log is twice as long: {first:?}");
}

/// What is being let go of need not be written, and is not held on to.
#[test]
fn a_checkpoint_waits_for_a_compaction_until_the_log_is_twice_as_long() {
    let puts_with = |is_compacting: bool| {
        let mut world = World::new(31, vec![config(0, 1)]);
        let limits = &mut world.config_of(0).limits;
        limits.checkpoint_log_bytes = 128 << 10;
        limits.state.settings.compaction_steps_per_entry = 10;
        limits.compaction_interval = Duration::from_secs(1000);
        world.start(0);
        world.wait_for_leader();
        for _ in 0..600 {
            must_put(&mut world, 0, "key", 10);
        }
        if is_compacting {
            let compaction = CompactionRequest {
                revision: 601,
                physical: false,
            };
            must_ask(&mut world, 0, etcd::Request::Compact(compaction));
        }
        let before = world.node(0).status().held_bytes;
        let puts = puts_until(&mut world, 0, 1, 1000);
        let freed = world.node(0).status().held_bytes < before + 1000 * puts as u64;
        assert_eq!(freed, is_compacting, "it goes on meanwhile");
        puts
    };
    let (without, with) = (puts_with(false), puts_with(true));
    assert!(
        without + 100 < with,
        "{without} puts, {with} while compacting"
    );
    assert!(with < 200, "{with} puts, of which 256 KiB of log come");
}

/// A log that is too long from the start on is no reason to hurry: it does not grow.
#[test]
fn a_checkpoint_that_is_due_when_the_node_starts_is_paced() {
    let mut world = World::new(32, vec![config(0, 1)]);
    world.start(0);
    world.wait_for_leader();
    for number in 0..100 {
        must_put(&mut world, 0, &format!("key{number}"), 1000);
    }
    world.kill(0);
    let limits = &mut world.config_of(0).limits;
    limits.checkpoint_log_bytes = 16 << 10;
    limits.checkpoint_chunk_bytes = 4 << 10;
    limits.state.checkpoint_block_bytes = 4 << 10;
    limits.checkpoint_bytes_per_second = 64 << 10;
    world.start(0);
    world.wait_for_leader();
    let started = world.now;
    world.run_until(Duration::from_secs(20), "it is written", |world| {
        world.is_running(0) && written(world, 0) == 1
    });
    let took = world.now - started;
    assert!(took > Duration::from_secs(1), "{took:?} for 100 kB");
}
