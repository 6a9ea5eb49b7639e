//! Damage on a node that has replicas of keyspaces: what is left of them stays until others have
//! made up for what is lost.

use std::time::Duration;

use base::GroupId;
use bytes::Bytes;
use consensus::EngineKind;
use etcd::proto::etcdserverpb::PutRequest;
use journal::disk::File;
use quorate_node::{Answer, Call, Halt};

mod support;

use support::{World, config};

const PODS: GroupId = GroupId(1);

/// Three nodes with a keyspace of so many replicas, of which there are checkpoints.
fn world(engine: EngineKind, replicas: usize) -> World {
    let mut configs: Vec<_> = (0..3).map(|each| config(each, 3)).collect();
    for config in &mut configs {
        config.engine = Some(engine);
        config.limits.checkpoint_log_bytes = 16 << 10;
        config.limits.journal.segment_bytes = 32 << 10;
        config.limits.journal.batch_bytes_max = 8 << 10;
    }
    let mut world = World::new(3, configs);
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    let create = Call::KeyspaceCreate {
        names: vec!["pods".to_owned()],
        replicas,
        engine,
        quorums: None,
    };
    let answer = world.ask(0, create);
    assert!(matches!(answer, Answer::Operator(Ok(_))), "{answer:?}");
    world.run(Duration::from_secs(2));
    let host = holder(&world).expect("somebody holds it");
    for key in 0..150 {
        let request = etcd::Request::Put(PutRequest {
            key: Bytes::from(format!("key{key}")),
            value: Bytes::from(vec![b'v'; 300]),
            ..Default::default()
        });
        let call = Call::In {
            keyspace: "pods".into(),
            call: Box::new(Call::Etcd(request)),
        };
        let answer = world.ask(host, call);
        assert!(matches!(answer, Answer::Etcd(Ok(_))), "{answer:?}");
    }
    world.run(Duration::from_secs(5));
    world
}

fn holder(world: &World) -> Option<usize> {
    (0..3).find(|host| {
        let running = world.node(*host).running();
        running.is_some_and(|running| running.group(PODS).is_some())
    })
}

fn checkpoints(world: &mut World, host: usize) -> Vec<File> {
    let files = world.disk_of(host).list().into_iter();
    files
        .map(|(file, _)| file)
        .filter(|file| matches!(file, File::Checkpoint(PODS, _)))
        .collect()
}

fn segments(world: &mut World, host: usize) -> Vec<File> {
    let files = world.disk_of(host).list().into_iter();
    files
        .map(|(file, _)| file)
        .filter(|file| matches!(file, File::Segment(_)))
        .collect()
}

/// All three have lost their journals and are started twice, before any of them hears of another:
/// what they have of the keyspace is all there is.
#[test]
fn checkpoints_of_a_keyspace_outlive_every_start_of_a_node_in_doubt() {
    for engine in EngineKind::ALL.iter().copied() {
        let mut world = world(engine, 3);
        (0..3).for_each(|host| world.kill(host));
        for host in 0..3 {
            let before = checkpoints(&mut world, host);
            assert!(!before.is_empty(), "{engine}: there is one");
            for file in segments(&mut world, host) {
                world.disk_of(host).flip(file, 700);
            }
            for _ in 0..3 {
                world.start(host);
                world.run(Duration::from_secs(2));
                world.kill(host);
            }
            assert_eq!(checkpoints(&mut world, host), before, "{engine}");
        }
    }
}

/// Nobody else has what the journal held, though others have the first group's.
#[test]
fn the_only_replica_of_a_keyspace_keeps_a_node_from_beginning_anew() {
    for engine in EngineKind::ALL.iter().copied() {
        for is_gone in [true, false] {
            let mut world = world(engine, 1);
            let host = holder(&world).expect("somebody holds it");
            assert!(!checkpoints(&mut world, host).is_empty(), "{engine}");
            world.kill(host);
            for file in segments(&mut world, host) {
                match is_gone {
                    true => world.disk_of(host).remove(file),
                    false => world.disk_of(host).flip(file, 700),
                }
            }
            let before = (checkpoints(&mut world, host), segments(&mut world, host));
            for _ in 0..2 {
                world.start(host);
                world.run(Duration::from_secs(1));
                match world.halted(host) {
                    Some(Halt::Refused(_)) => {}
                    other => panic!("{engine}: expected a refusal, not {other:?}"),
                }
                let now = (checkpoints(&mut world, host), segments(&mut world, host));
                assert_eq!(now, before, "{engine} {is_gone}");
            }
        }
    }
}
