//! Compaction that whoever asks for it waits for.

use std::time::Duration;

use bytes::Bytes;
use etcd::proto::etcdserverpb::{CompactionRequest, PutRequest};
use quorate_node::{Answer, Call};

mod support;

use support::{World, config};

fn put(key: &str, value: &str) -> Call {
    Call::Etcd(etcd::Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    }))
}

fn must_put(world: &mut World, host: usize, key: &str, value: &str) {
    match world.ask(host, put(key, value)) {
        Answer::Etcd(Ok(_)) => {}
        other => panic!(
            "put of {key} through {host}: {other:?}\n{}",
            world.picture()
        ),
    }
}

#[test]
fn a_physical_compaction_is_answered_when_the_space_is_free_and_goes_on_without_writes() {
    let mut world = World::new(19, vec![config(0, 1)]);
    let settings = &mut world.config_of(0).limits.state.settings;
    settings.compaction_steps_per_entry = 10;
    world.start(0);
    world.wait_for_leader();
    for number in 0..300 {
        must_put(&mut world, 0, "key", &format!("{number}"));
    }
    let before = world.node(0).status().held_bytes;
    let compact = |physical| {
        Call::Etcd(etcd::Request::Compact(CompactionRequest {
            revision: 301,
            physical,
        }))
    };
    let started = world.now;
    assert!(matches!(
        world.ask(0, compact(true)),
        Answer::Etcd(Ok(etcd::Response::Compact(_)))
    ));
    let after = world.node(0).status().held_bytes;
    assert!(
        after < before / 10,
        "{before} bytes before, {after} when told that they are free"
    );
    assert!(
        world.now - started > Duration::from_millis(100),
        "it took several entries"
    );
    assert_eq!(world.node(0).status().revision, 301);
}

/// As etcd does: its time is bounded until the compaction is agreed on, and what comes then is not.
#[test]
fn a_physical_compaction_may_take_longer_than_a_request() {
    let mut world = World::new(20, vec![config(0, 1)]);
    let limits = &mut world.config_of(0).limits;
    limits.state.settings.compaction_steps_per_entry = 10;
    limits.compaction_interval = Duration::from_secs(1);
    world.start(0);
    world.wait_for_leader();
    for number in 0..300 {
        must_put(&mut world, 0, "key", &format!("{number}"));
    }
    let compact = Call::Etcd(etcd::Request::Compact(CompactionRequest {
        revision: 301,
        physical: true,
    }));
    let asked = world.call(0, compact);
    world.run(Duration::from_secs(15));
    assert!(world.answer(asked).is_none(), "half of it is done");
    world.run(Duration::from_secs(30));
    let answer = world.answer(asked);
    let is_done = matches!(answer, Some(Answer::Etcd(Ok(etcd::Response::Compact(_)))));
    assert!(is_done, "{answer:?}");
}

/// A thousand steps at once are a stall of some milliseconds for whoever writes then.
#[test]
fn compaction_goes_on_by_what_is_written_and_by_itself_once_that_is_little() {
    let mut world = World::new(21, vec![config(0, 1)]);
    world.start(0);
    world.wait_for_leader();
    let put_together = |world: &mut World| {
        let puts = (0..100).map(|_| put("key", "value")).collect();
        let calls = world.call_together(0, puts);
        world.run(Duration::from_millis(9));
        for call in calls {
            assert!(matches!(world.answer(call), Some(Answer::Etcd(Ok(_)))));
        }
    };
    let held = |world: &World| world.node(0).status().held_bytes;
    let empty = held(&world);
    put_together(&mut world);
    let of_one = (held(&world) - empty) / 100;
    (0..50).for_each(|_| put_together(&mut world));
    let compact = Call::Etcd(etcd::Request::Compact(CompactionRequest {
        revision: world.node(0).status().revision,
        physical: false,
    }));
    assert!(matches!(world.ask(0, compact), Answer::Etcd(Ok(_))));
    let before = held(&world);
    (0..10).for_each(|_| put_together(&mut world));
    // Each put adds one version; that the balance falls shows that more are freed.
    let freed = (before - held(&world)) / of_one;
    assert!((200..1500).contains(&freed), "{freed} more than came");
    world.run(Duration::from_secs(1));
    assert!(held(&world) < before / 4, "nothing of before is left");
}
