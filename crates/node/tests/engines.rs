//! A group keeps the engine it was created with, and the sizes of its quorums.

use std::time::Duration;

use bytes::Bytes;
use consensus::{EngineKind, QuorumSizes};
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
        is_witness: false,
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

const THREE_AND_ONE: QuorumSizes = QuorumSizes {
    elect: 3,
    commit: 1,
};
const TWO_AND_THREE: QuorumSizes = QuorumSizes {
    elect: 2,
    commit: 3,
};

#[test]
fn who_forms_a_cluster_decides_how_many_elect_and_commit() {
    let mut configs: Vec<_> = (0..3).map(|each| config(each, 3)).collect();
    configs[0].quorums = Some(THREE_AND_ONE);
    configs[2].quorums = Some(TWO_AND_THREE);
    let mut world = World::new(80, configs);
    (0..3).for_each(|host| world.start(host));
    world.run_until(Duration::from_secs(10), "the third refuses", |world| {
        world.halted(2).is_some()
    });
    let reason = refusal(&world, 2);
    let formed = "the cluster of n1 was formed with quorums of elect=3,commit=1";
    assert!(reason.contains(formed), "{reason}");
    assert!(reason.contains("told elect=2,commit=3"), "{reason}");
    world.config_of(2).quorums = None;
    world.start(2);
    world.wait_for_leader();
    put(&mut world, 2);
    for host in 0..3 {
        assert_eq!(world.node(host).status().quorums, THREE_AND_ONE);
    }
    // One commits: the leader alone goes on.
    let leads =
        |world: &World, host: usize| world.node(host).status().role == consensus::Role::Leader;
    let leader = (0..3).find(|host| leads(&world, *host)).expect("one leads");
    (0..3)
        .filter(|host| *host != leader)
        .for_each(|host| world.kill(host));
    put(&mut world, leader);
    // The folder knows, and refuses whoever says otherwise.
    let other = (leader + 1) % 3;
    world.config_of(other).quorums = Some(TWO_AND_THREE);
    world.start(other);
    world.run_until(Duration::from_secs(1), "it refuses", |world| {
        world.halted(other).is_some()
    });
    let reason = refusal(&world, other);
    assert!(reason.contains("--quorums elect=3,commit=1"), "{reason}");
    for (host, told) in [(other, Some(THREE_AND_ONE)), ((leader + 2) % 3, None)] {
        world.config_of(host).quorums = told;
        world.start(host);
    }
    world.wait_for_leader();
    put(&mut world, other);
}

#[test]
fn quorums_that_may_miss_each_other_form_no_cluster() {
    let mut configs: Vec<_> = (0..3).map(|each| config(each, 3)).collect();
    configs[0].quorums = Some(QuorumSizes {
        elect: 2,
        commit: 1,
    });
    let mut world = World::new(81, configs);
    (0..3).for_each(|host| world.start(host));
    world.run_until(Duration::from_secs(10), "the first refuses", |world| {
        world.halted(0).is_some()
    });
    let reason = refusal(&world, 0);
    assert!(
        reason.contains("2 + 1 = 3 is not more than the 3 voters"),
        "{reason}"
    );
}
