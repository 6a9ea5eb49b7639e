//! What operators and clients do with keyspaces.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::EngineKind;
use etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use quorate_node::{Answer, Call, Config, KeyspaceStatus, Placement};

use super::{World, config};

/// A call in a keyspace.
pub fn within(keyspace: &str, call: etcd::Request) -> Call {
    Call::In {
        keyspace: Arc::from(keyspace),
        call: Box::new(Call::Etcd(call)),
    }
}

/// Sets a key.
pub fn put(keyspace: &str, key: &str, value: &str) -> Call {
    let request = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    };
    within(keyspace, etcd::Request::Put(request))
}

/// Reads a key.
pub fn get(keyspace: &str, key: &str) -> Call {
    let request = RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..Default::default()
    };
    within(keyspace, etcd::Request::Range(request))
}

/// Small segments and checkpoints, so that replicas are filled from checkpoints too.
pub fn small(index: usize, count: usize) -> Config {
    let mut config = config(index, count);
    config.limits.checkpoint_log_bytes = 16 << 10;
    config.limits.journal.segment_bytes = 64 << 10;
    config.limits.log_segments = 2;
    config
}

/// As many nodes, with a leader.
pub fn nodes(seed: u64, count: usize) -> World {
    let mut world = World::new(seed, (0..count).map(|each| small(each, count)).collect());
    (0..count).for_each(|host| world.start(host));
    world.wait_for_leader();
    world
}

/// What an operator asks for, and gets.
pub fn operate(world: &mut World, host: usize, call: Call) -> String {
    let text = format!("{call:?}");
    match world.ask(host, call) {
        Answer::Operator(Ok(done)) => done,
        other => panic!("{text}: {other:?}\n{}", world.picture()),
    }
}

/// What an operator is refused, and why.
pub fn refused(world: &mut World, host: usize, placement: Placement) -> String {
    match world.ask(host, Call::Placement(placement)) {
        Answer::Operator(Err(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

/// Makes a keyspace.
pub fn create(world: &mut World, name: &str, replicas: usize, engine: EngineKind) {
    let call = Call::KeyspaceCreate {
        names: vec![name.to_owned()],
        replicas,
        engine,
        quorums: None,
    };
    operate(world, 0, call);
}

/// A replica goes from one node to another.
pub fn sends(name: &str, from: usize, to: usize) -> Call {
    Call::Placement(Placement::Move {
        name: name.to_owned(),
        from: Some(format!("n{}", from + 1)),
        to: vec![format!("n{}", to + 1)],
    })
}

/// How long nodes may be away, and whether loads are evened out.
pub fn tend(world: &mut World, through: usize, seconds: u64, rebalances: bool) {
    let call = Call::Placement(Placement::Tend {
        replace_after: Some(Duration::from_secs(seconds)),
        rebalances: Some(rebalances),
    });
    operate(world, through, call);
}

/// What is said of a keyspace.
pub fn status(world: &mut World, through: usize, name: &str) -> KeyspaceStatus {
    match world.ask(through, Call::Keyspaces) {
        Answer::Keyspaces(all) => {
            let mut all = all.into_iter();
            all.find(|each| each.name == name).expect("it is there")
        }
        other => panic!("{other:?}"),
    }
}

/// Who holds it.
pub fn hosts_of(status: &KeyspaceStatus) -> Vec<usize> {
    let host = |name: &String| name[1..].parse::<usize>().expect("names count") - 1;
    let mut hosts: Vec<usize> = status.replicas.iter().map(host).collect();
    hosts.sort_unstable();
    hosts
}

/// Waits until a keyspace moves no more; who holds it.
pub fn at_rest(world: &mut World, through: usize, name: &str) -> Vec<usize> {
    for _ in 0..300 {
        let status = status(world, through, name);
        if status.moving.is_none() {
            world.run(Duration::from_millis(300));
            return hosts_of(&status);
        }
        world.run(Duration::from_millis(100));
    }
    let status = status(world, through, name);
    panic!("{status:?} moves for ever\n{}", world.picture());
}

/// Sets a key, which must succeed.
pub fn must_put(world: &mut World, host: usize, keyspace: &str, key: &str, value: &str) {
    for _ in 0..5 {
        let answer = world.ask(host, put(keyspace, key, value));
        if let Answer::Etcd(Ok(_)) = answer {
            return;
        }
    }
    panic!("put into {keyspace} through {host}\n{}", world.picture());
}

/// Reads a key, which must succeed.
pub fn must_get(world: &mut World, host: usize, keyspace: &str, key: &str) -> Option<String> {
    for _ in 0..3 {
        if let Answer::Etcd(Ok(etcd::Response::Range(range))) = world.ask(host, get(keyspace, key))
        {
            let first = range.kvs.first();
            return first.map(|each| String::from_utf8_lossy(&each.value).into_owned());
        }
    }
    panic!("get from {keyspace} through {host}\n{}", world.picture());
}
