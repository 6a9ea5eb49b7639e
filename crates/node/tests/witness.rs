//! A node that votes and holds no data, in a simulated world: forming, restarts, being away for
//! longer than the others keep their logs, being replaced, and what it refuses.

use std::time::Duration;

use bytes::Bytes;
use etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use quorate_node::{Answer, Call, Halt};

mod support;

use support::{World, config};

const WITNESS: usize = 2;
const SECOND: Duration = Duration::from_secs(1);

/// Three hosts that form a cluster, the last one a witness, and a fourth one.
fn world(seed: u64, copies: Option<usize>) -> World {
    let mut world = World::new(seed, (0..4).map(|each| config(each, 3)).collect());
    for host in 0..4 {
        let config = world.config_of(host);
        config.copies = copies.filter(|_| host == 0);
        config.is_witness = host >= WITNESS;
        // Few headers are kept, and short logs.
        config.limits.consensus.window_entries = 16;
        config.limits.consensus.piece_bytes = 64;
        config.limits.checkpoint_log_bytes = 16 << 10;
        config.limits.journal.segment_bytes = 64 << 10;
    }
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    world
}

fn put(world: &mut World, host: usize, number: usize) {
    let call = Call::Etcd(etcd::Request::Put(PutRequest {
        key: Bytes::from(format!("key{number}")),
        value: Bytes::from("v".repeat(1000)),
        ..Default::default()
    }));
    match world.ask(host, call) {
        Answer::Etcd(Ok(_)) => {}
        other => panic!("put {number} at {host}: {other:?}\n{}", world.picture()),
    }
}

fn count(world: &mut World, host: usize) -> i64 {
    let call = Call::Etcd(etcd::Request::Range(RangeRequest {
        key: Bytes::from_static(b"key"),
        range_end: Bytes::from_static(b"kez"),
        count_only: true,
        ..Default::default()
    }));
    match world.ask(host, call) {
        Answer::Etcd(Ok(etcd::Response::Range(response))) => response.count,
        other => panic!("count at {host}: {other:?}\n{}", world.picture()),
    }
}

fn done(world: &mut World, host: usize, call: Call) -> String {
    match world.ask(host, call) {
        Answer::Operator(Ok(text)) => text,
        other => panic!("{other:?}\n{}", world.picture()),
    }
}

fn is_level(world: &World) -> bool {
    let applied = |host: usize| world.node(host).status().applied;
    world.is_running(WITNESS) && applied(WITNESS) == applied(0) && applied(0) == applied(1)
}

#[test]
fn it_votes_and_holds_nothing() {
    let mut world = world(1, Some(1));
    for number in 0..300 {
        put(&mut world, number % 2, number);
    }
    world.run_until(SECOND * 5, "all have passed the same", is_level);
    let status = world.node(WITNESS).status();
    assert!(status.is_witness(), "{status:?}");
    assert_eq!((status.revision, status.held_bytes), (1, 0));
    assert_eq!(status.copies, 1);
    assert_ne!(world.leader(), Some(WITNESS));
    assert!(
        world.node(WITNESS).metrics().checkpoints_written > 0,
        "its log is let go of"
    );
    // It starts from what it kept, and elects whoever is left.
    world.kill(WITNESS);
    world.start(WITNESS);
    let leader = world.wait_for_leader();
    world.kill(leader);
    world.run_until(SECOND * 10, "the other one leads", |world| {
        world.leader() == Some(1 - leader)
    });
    put(&mut world, 1 - leader, 300);
    world.start(leader);
    world.run_until(SECOND * 10, "it is back", is_level);
    assert_eq!(count(&mut world, leader), 301);
}

#[test]
fn it_is_told_where_the_log_begins() {
    let mut world = world(2, None);
    put(&mut world, 0, 0);
    world.kill(WITNESS);
    for number in 1..400 {
        put(&mut world, number % 2, number);
    }
    world.run(SECOND);
    world.start(WITNESS);
    world.run_until(SECOND * 10, "it has all headers", is_level);
    let installed = |world: &World| {
        let mut notes = world.notes.iter();
        notes.any(|(host, note)| {
            *host == WITNESS && format!("{note:?}").contains("SnapshotInstalled")
        })
    };
    assert!(installed(&world), "the others had let go of the log");
    for host in [WITNESS, 0] {
        world.kill(host);
        world.start(host);
        world.run_until(SECOND * 10, "it is back", is_level);
    }
    put(&mut world, 1, 400);
    assert_eq!(count(&mut world, 0), 401);
}

#[test]
fn it_is_replaced_by_one_of_its_kind() {
    let mut world = world(3, Some(1));
    put(&mut world, 0, 0);
    world.run(SECOND * 2);
    world.kill(WITNESS);
    world.wipe(WITNESS);
    let member = "n3".to_owned();
    done(&mut world, 0, Call::MemberRemove { member });
    for number in 1..200 {
        put(&mut world, number % 2, number);
    }
    let add = |name: &str, is_witness| Call::MemberAdd {
        name: name.to_owned(),
        peer_address: "host3:2380".to_owned(),
        is_witness,
    };
    let name = "n4".to_owned();
    // As a witness it does not become what holds data.
    done(&mut world, 0, add(&name, false));
    let join = vec!["host0:2380".to_owned(), "host1:2380".to_owned()];
    world.config_of(3).cluster = Vec::new();
    world.config_of(3).join = join;
    world.start(3);
    world.run_until(SECOND * 10, "it is refused", |world| {
        world.halted(3).is_some()
    });
    match world.halted(3) {
        Some(Halt::Refused(reason)) => assert!(reason.contains("never becomes"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let member = name.clone();
    done(&mut world, 0, Call::MemberRemove { member });
    done(&mut world, 0, add(&name, true));
    world.wipe(3);
    world.start(3);
    world.run_until(SECOND * 10, "it has joined", |world| {
        world.is_running(3) && world.node(3).status().applied == world.node(0).status().applied
    });
    done(&mut world, 0, Call::MemberPromote { member: name });
    world.run(SECOND * 2);
    let leader = world.wait_for_leader();
    world.kill(leader);
    put(&mut world, 1 - leader, 200);
    // And again, from its own folder.
    world.kill(3);
    world.start(3);
    put(&mut world, 1 - leader, 201);
    world.start(leader);
    world.run(SECOND * 3);
    assert_eq!(count(&mut world, leader), 202);
}

#[test]
fn clients_are_refused() {
    let mut world = world(4, Some(1));
    world.run(SECOND);
    let get = Call::Etcd(etcd::Request::Range(RangeRequest {
        key: Bytes::from_static(b"a"),
        serializable: true,
        ..Default::default()
    }));
    match world.ask(WITNESS, get) {
        Answer::Etcd(Err(error)) => assert_eq!(error, etcd::Error::Witness),
        other => panic!("{other:?}"),
    }
    match world.ask(WITNESS, Call::EtcdMemberList { linearizable: true }) {
        Answer::EtcdMemberList(Err(error)) => assert_eq!(error, etcd::Error::Witness),
        other => panic!("{other:?}"),
    }
    match world.ask(WITNESS, Call::Keyspaces) {
        Answer::Operator(Err(reason)) => assert!(reason.contains("a witness"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(world.directory(WITNESS).is_some_and(|told| told.is_witness));
    assert!(matches!(
        world.ask(WITNESS, Call::Ready),
        Answer::Ready(Ok(()))
    ));
    // Nothing is placed there, and it never leads.
    let create = Call::KeyspaceCreate {
        names: vec!["pods".to_owned()],
        replicas: 3,
        engine: consensus::EngineKind::Raft,
        quorums: None,
    };
    let Answer::Operator(Err(reason)) = world.ask(0, create) else {
        panic!("two hold data");
    };
    assert!(!reason.is_empty());
    let to = Some("n3".to_owned());
    match world.ask(0, Call::TransferLeadership { to }) {
        Answer::Operator(Err(reason)) => assert!(reason.contains("never leads"), "{reason}"),
        other => panic!("{other:?}"),
    }
}
