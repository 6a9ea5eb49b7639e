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
