//! A group keeps the engine it was created with.

use std::time::Duration;

use bytes::Bytes;
use consensus::EngineKind;
use etcd::proto::etcdserverpb::PutRequest;
use quorate_node::{Answer, Call, Halt};

mod support;

use support::{World, config};

fn put(world: &mut World, host: usize) {
    let request = etcd::Request::Put(PutRequest {
        key: Bytes::from_static(b"a"),
        value: Bytes::from_static(b"1"),
        ..Default::default()
    });
    match world.ask(host, Call::Etcd(request)) {
        Answer::Etcd(Ok(_)) => {}
        other => panic!("put through {host}: {other:?}\n{}", world.picture()),
    }
}

fn world(engine: EngineKind) -> World {
    let mut configs: Vec<_> = (0..3).map(|each| config(each, 3)).collect();
    for config in &mut configs {
        config.engine = Some(engine);
    }
    let mut world = World::new(77, configs);
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    world
}

#[test]
fn the_data_of_another_engine_is_refused() {
    let [raft, paxos] = [EngineKind::Raft, EngineKind::Paxos];
    for (created, other) in [(raft, paxos), (paxos, raft)] {
        let mut world = world(created);
        put(&mut world, 0);
        world.kill(1);
        world.config_of(1).engine = Some(other);
        world.start(1);
        world.run(Duration::from_secs(1));
        match world.halted(1) {
            Some(Halt::Refused(reason)) => {
                assert!(reason.contains(&format!("agrees by {created}")), "{reason}");
                assert!(reason.contains(&format!("--engine {created}")), "{reason}");
            }
            other => panic!("expected a refusal, not {other:?}"),
        }
    }
}

#[test]
fn a_node_that_is_not_told_keeps_its_engine() {
    let mut world = world(EngineKind::Paxos);
    put(&mut world, 1);
    for host in 0..3 {
        world.kill(host);
        world.config_of(host).engine = None;
    }
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    put(&mut world, 2);
}

fn kind_of(world: &World, host: usize) -> EngineKind {
    let running = world.node(host).running().expect("it runs");
    running.engine().kind()
}

fn refusal(world: &World, host: usize) -> String {
    match world.halted(host) {
        Some(Halt::Refused(reason)) => reason.clone(),
        other => panic!("expected a refusal, not {other:?}\n{}", world.picture()),
    }
}

/// Three members that agree by Paxos, and a fourth host that an operator has added.
fn three_and_one() -> World {
    let mut configs: Vec<_> = (0..4).map(|each| config(each, 3)).collect();
    for config in &mut configs[..3] {
        config.engine = Some(EngineKind::Paxos);
    }
    configs[3].cluster.clear();
    configs[3].join = (0..3).map(|each| format!("host{each}:2380")).collect();
    let mut world = World::new(78, configs);
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    put(&mut world, 0);
    let added = Call::MemberAdd {
        name: "n4".to_owned(),
        peer_address: "host3:2380".to_owned(),
    };
    assert!(matches!(world.ask(0, added), Answer::Operator(Ok(_))));
    world
}

#[test]
fn a_node_that_joins_takes_the_engine_of_the_members() {
    let mut world = three_and_one();
    world.config_of(3).engine = None;
    world.start(3);
    world.run_until(Duration::from_secs(10), "it has the data", |world| {
        world.is_running(3) && world.node(3).status().revision > 1
    });
    assert_eq!(kind_of(&world, 3), EngineKind::Paxos);
    let promoted = Call::MemberPromote {
        member: "n4".to_owned(),
    };
    assert!(matches!(world.ask(0, promoted), Answer::Operator(Ok(_))));
    // With one of the four away, its vote is needed as soon as another one goes.
    world.kill(0);
    world.wait_for_leader();
    put(&mut world, 3);
}

#[test]
fn a_node_that_is_told_another_engine_than_the_members_does_not_join() {
    let mut world = three_and_one();
    world.config_of(3).engine = Some(EngineKind::Raft);
    world.start(3);
    world.run_until(Duration::from_secs(10), "it refuses", |world| {
        world.halted(3).is_some()
    });
    let reason = refusal(&world, 3);
    assert!(reason.contains("agrees by paxos"), "{reason}");
    assert!(reason.contains("told to agree by raft"), "{reason}");
    assert!(reason.contains("--engine paxos"), "{reason}");
    // Nothing is lost by that: without the flag it gets in.
    world.config_of(3).engine = None;
    world.start(3);
    world.run_until(Duration::from_secs(10), "it has the data", |world| {
        world.is_running(3) && world.node(3).status().revision > 1
    });
}

#[test]
fn nodes_that_are_told_different_engines_form_no_cluster() {
    let mut configs: Vec<_> = (0..3).map(|each| config(each, 3)).collect();
    configs[0].engine = Some(EngineKind::Paxos);
    configs[1].engine = None;
    configs[2].engine = Some(EngineKind::Raft);
    let mut world = World::new(79, configs);
    (0..3).for_each(|host| world.start(host));
    world.run_until(Duration::from_secs(10), "the third refuses", |world| {
        world.halted(2).is_some()
    });
    let reason = refusal(&world, 2);
    assert!(
        reason.contains("the cluster of n1 agrees by paxos"),
        "{reason}"
    );
    assert!(reason.contains("told to agree by raft"), "{reason}");
    world.config_of(2).engine = None;
    world.start(2);
    world.wait_for_leader();
    put(&mut world, 2);
    for host in 0..3 {
        assert_eq!(kind_of(&world, host), EngineKind::Paxos);
    }
}
