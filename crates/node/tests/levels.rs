//! Rolling upgrades: a group's level rises once all its members know it, and not before; who does
//! not know it refuses, with a message that says what to do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::EngineKind;
use etcd::proto::etcdserverpb::PutRequest;
use journal::disk::File;
use quorate_node::{Answer, Call, Halt};
use state::LEVEL_MAX;

mod support;

use support::World;

const NEWER: u32 = LEVEL_MAX + 1;

fn put(world: &mut World, host: usize, value: &str) {
    let request = etcd::Request::Put(PutRequest {
        key: Bytes::from_static(b"a"),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    });
    match world.ask(host, Call::Etcd(request)) {
        Answer::Etcd(Ok(_)) => {}
        other => panic!("put through {host}: {other:?}\n{}", world.picture()),
    }
}

fn level(world: &World, host: usize) -> u32 {
    world.node(host).status().level
}

/// Starts a node again with a build that knows levels up to this one.
fn change_build(world: &mut World, host: usize, level_max: u32) {
    world.kill(host);
    world.config_of(host).limits.state.level_max = level_max;
    world.start(host);
}

fn upgraded(seed: u64) -> World {
    let mut world = World::cluster(seed, 3);
    world.wait_for_leader();
    for host in 0..3 {
        put(&mut world, host, "before");
        change_build(&mut world, host, NEWER);
        world.wait_for_leader();
    }
    world.run_until(
        Duration::from_secs(20),
        "all are at the new level",
        |world| (0..3).all(|host| world.is_running(host) && level(world, host) == NEWER),
    );
    world
}

fn refusal(world: &World, host: usize) -> String {
    match world.halted(host) {
        Some(Halt::Refused(reason)) => reason.clone(),
        other => panic!("expected a refusal, not {other:?}"),
    }
}

fn names_the_cure(reason: &str) {
    assert!(reason.contains(&format!("has level {NEWER}")), "{reason}");
    assert!(
        reason.contains(&format!("levels up to {LEVEL_MAX}")),
        "{reason}"
    );
    assert!(
        reason.contains("the version that the others run"),
        "{reason}"
    );
}

#[test]
fn the_level_rises_once_the_last_member_knows_it() {
    let mut world = World::cluster(5, 3);
    world.wait_for_leader();
    for host in 0..2 {
        change_build(&mut world, host, NEWER);
        world.wait_for_leader();
        put(&mut world, host, "one more");
    }
    world.run(Duration::from_secs(10));
    assert!((0..3).all(|host| level(&world, host) == LEVEL_MAX));
    change_build(&mut world, 2, NEWER);
    world.run_until(Duration::from_secs(20), "the level rises", |world| {
        (0..3).all(|host| world.is_running(host) && level(world, host) == NEWER)
    });
    put(&mut world, 0, "after");
}

#[test]
fn a_build_that_is_too_old_refuses_its_own_folder() {
    let mut world = upgraded(6);
    change_build(&mut world, 1, LEVEL_MAX);
    world.run(Duration::from_secs(2));
    names_the_cure(&refusal(&world, 1));
    // The version that the others run takes it from there.
    change_build(&mut world, 1, NEWER);
    world.run_until(Duration::from_secs(10), "it runs again", |world| {
        world.is_running(1) && level(world, 1) == NEWER
    });
    put(&mut world, 1, "again");
}

#[test]
fn a_build_that_is_too_old_refuses_a_checkpoint_from_a_peer() {
    let small = |world: &mut World, host: usize| {
        let limits = &mut world.config_of(host).limits;
        limits.checkpoint_log_bytes = 2 << 10;
        limits.checkpoints_kept = 1;
        limits.consensus.cache_bytes = 1 << 10;
    };
    let mut world = upgraded(7);
    for host in 0..3 {
        world.kill(host);
        small(&mut world, host);
        world.start(host);
    }
    world.wait_for_leader();
    world.kill(1);
    world.wipe(1);
    let value = "x".repeat(500);
    for _ in 0..60 {
        put(&mut world, 0, &value);
    }
    let removed = world.ask(
        0,
        Call::MemberRemove {
            member: "n2".into(),
        },
    );
    assert!(matches!(removed, Answer::Operator(Ok(_))), "{removed:?}");
    let added = world.ask(
        0,
        Call::MemberAdd {
            name: "n2".into(),
            peer_address: "host1:2380".into(),
            is_witness: false,
        },
    );
    assert!(matches!(added, Answer::Operator(Ok(_))), "{added:?}");
    let config = world.config_of(1);
    config.cluster.clear();
    config.join = vec!["host0:2380".into(), "host2:2380".into()];
    config.limits.state.level_max = LEVEL_MAX;
    world.start(1);
    world.run(Duration::from_secs(5));
    names_the_cure(&refusal(&world, 1));
}

fn put_into(world: &mut World, host: usize, keyspace: &str, value: &str) {
    let request = etcd::Request::Put(PutRequest {
        key: Bytes::from_static(b"a"),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    });
    let call = Call::In {
        keyspace: Arc::from(keyspace),
        call: Box::new(Call::Etcd(request)),
    };
    let answer = world.ask(host, call);
    assert!(matches!(answer, Answer::Etcd(Ok(_))), "{answer:?}");
}

/// Of a group that was closed, files may be left that only another build can read: nobody needs to.
#[test]
fn a_checkpoint_of_a_group_that_was_closed_refuses_no_start() {
    let mut world = World::cluster(8, 3);
    world.wait_for_leader();
    let call = Call::KeyspaceCreate {
        names: vec!["alone".into()],
        replicas: 1,
        engine: EngineKind::Raft,
        quorums: None,
    };
    let made = world.ask(0, call);
    assert!(matches!(made, Answer::Operator(Ok(_))), "{made:?}");
    let Answer::Keyspaces(all) = world.ask(0, Call::Keyspaces) else {
        panic!("keyspaces are listed");
    };
    let alone = all.iter().find(|each| each.name == "alone");
    let (group, name) = alone
        .map(|each| (each.group, &each.replicas[0]))
        .expect("it is there");
    let host = name[1..].parse::<usize>().expect("names count") - 1;
    world.config_of(host).limits.checkpoint_log_bytes = 2 << 10;
    change_build(&mut world, host, NEWER);
    world.run_until(Duration::from_secs(20), "its level rises", |world| {
        let running = world.is_running(host).then(|| world.node(host).running());
        let group = running.flatten().and_then(|running| running.group(group));
        group.is_some_and(|group| group.status().level == NEWER)
    });
    world.wait_for_leader();
    world.run(Duration::from_secs(2));
    (0..30).for_each(|_| put_into(&mut world, host, "alone", &"x".repeat(500)));
    world.run(Duration::from_secs(2));
    assert_eq!(level(&world, host), LEVEL_MAX, "of the first group");
    let before = world.disk_of(host).clone();
    let is_left = |file: &File| matches!(file, File::Checkpoint(id, _) if *id == group);
    let files = before.list().into_iter().map(|(file, _)| file);
    let left: Vec<File> = files.filter(is_left).collect();
    assert!(!left.is_empty(), "it has taken checkpoints");
    // As long as the group is there, it counts.
    change_build(&mut world, host, LEVEL_MAX);
    world.run(Duration::from_secs(2));
    names_the_cure(&refusal(&world, host));
    change_build(&mut world, host, NEWER);
    world.wait_for_leader();
    world.run(Duration::from_secs(2));
    let name = "alone".to_owned();
    let dropped = world.ask(host, Call::KeyspaceDrop { name });
    assert!(matches!(dropped, Answer::Operator(Ok(_))), "{dropped:?}");
    world.run(Duration::from_secs(2));
    world.kill(host);
    for file in left {
        world.disk_of(host).copy_from(&before, file);
    }
    world.config_of(host).limits.state.level_max = LEVEL_MAX;
    world.start(host);
    world.run(Duration::from_secs(2));
    assert!(world.is_running(host), "{}", world.picture());
    let files = world.disk_of(host).list();
    assert!(
        files.iter().all(|(file, _)| !is_left(file)),
        "they are gone"
    );
}
