//! Many groups on the nodes of one cluster: keyspaces of their own, over one journal per node.

use std::sync::Arc;
use std::time::Duration;

use base::{GroupId, Slot};
use bytes::Bytes;
use consensus::{EngineKind, QuorumSizes};
use etcd::auth::AuthRequest;
use etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use journal::disk::File;
use quorate_node::{Answer, Call, Config, KeyspaceStatus};

mod support;

use support::{World, config};

const NAMES: [&str; 4] = ["pods", "events", "locks", "leases"];

fn put(key: &str, value: &str) -> Call {
    Call::Etcd(etcd::Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    }))
}

fn get(key: &str) -> Call {
    Call::Etcd(etcd::Request::Range(RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..Default::default()
    }))
}

fn within(keyspace: &str, call: Call) -> Call {
    Call::In {
        keyspace: Arc::from(keyspace),
        call: Box::new(call),
    }
}

fn create(world: &mut World, name: &str, replicas: usize, engine: EngineKind) {
    let call = Call::KeyspaceCreate {
        names: vec![name.to_owned()],
        replicas,
        engine,
        quorums: None,
    };
    match world.ask(0, call) {
        Answer::Operator(Ok(_)) => {}
        other => panic!("creating {name}: {other:?}\n{}", world.picture()),
    }
}

fn keyspaces(world: &mut World, host: usize) -> Vec<KeyspaceStatus> {
    match world.ask(host, Call::Keyspaces) {
        Answer::Keyspaces(keyspaces) => keyspaces,
        other => panic!("{other:?}"),
    }
}

/// The hosts that hold a keyspace, and its group.
fn place(world: &mut World, name: &str) -> (Vec<usize>, GroupId) {
    let all = keyspaces(world, 0);
    let found = all.into_iter().find(|each| each.name == name);
    let found = found.expect("it is in the table");
    let host = |name: &String| name[1..].parse::<usize>().expect("names count") - 1;
    (found.replicas.iter().map(host).collect(), found.group)
}

/// Writes through a host until it succeeds: while a group elects, its calls may time out.
fn must_put(world: &mut World, host: usize, keyspace: &str, key: &str, value: &str) -> i64 {
    for _ in 0..5 {
        let call = within(keyspace, put(key, value));
        if let Answer::Etcd(Ok(etcd::Response::Put(response))) = world.ask(host, call) {
            return response.header.expect("it has one").revision;
        }
    }
    panic!("put into {keyspace} through {host}\n{}", world.picture());
}

fn must_get(world: &mut World, host: usize, keyspace: &str, key: &str) -> Option<String> {
    match world.ask(host, within(keyspace, get(key))) {
        Answer::Etcd(Ok(etcd::Response::Range(range))) => range
            .kvs
            .first()
            .map(|each| String::from_utf8_lossy(&each.value).into_owned()),
        other => panic!("get from {keyspace} through {host}: {other:?}"),
    }
}

/// Small segments and checkpoints, so that the log moves on; nothing moves by itself to other
/// nodes.
fn small(index: usize, count: usize) -> Config {
    let mut config = config(index, count);
    config.limits.checkpoint_log_bytes = 16 << 10;
    config.limits.journal.segment_bytes = 64 << 10;
    config.limits.log_segments = 2;
    config.limits.moving.tending_interval = Duration::from_secs(86_400);
    config
}

/// Five nodes with four keyspaces, of either engine in turn, on three nodes each.
fn five_nodes(seed: u64) -> World {
    let mut world = World::new(seed, (0..5).map(|each| small(each, 5)).collect());
    (0..5).for_each(|host| world.start(host));
    world.wait_for_leader();
    for (index, name) in NAMES.into_iter().enumerate() {
        create(&mut world, name, 3, EngineKind::ALL[index % 2]);
    }
    world.run(Duration::from_secs(1));
    world
}

/// They were one number: a node that stopped, and led four keyspaces, set off an alert that is
/// about leaders which change four times.
#[test]
fn leaders_of_the_first_group_are_counted_apart() {
    let mut world = five_nodes(19);
    let counted = |world: &World, host: usize| {
        let metrics = world.node(host).metrics();
        (metrics.leader_changes, metrics.first_leader_changes)
    };
    let mut held = [0; 5];
    for name in NAMES {
        let (hosts, _) = place(&mut world, name);
        hosts.iter().for_each(|host| held[*host] += 1);
    }
    let limit = Duration::from_secs(20);
    world.run_until(limit, "all have seen their leaders", |world| {
        held.iter().enumerate().all(|(host, held)| {
            let (all, first) = counted(world, host);
            first >= 1 && all >= first + held
        })
    });
    let before = counted(&world, 0);
    create(&mut world, "more", 5, EngineKind::Raft);
    world.run_until(limit, "one more is seen", |world| {
        counted(world, 0).0 > before.0
    });
    let after = counted(&world, 0);
    assert_eq!(after.1, before.1, "it is another group's leader");
}

#[test]
fn each_keyspace_has_revisions_of_its_own_and_does_not_see_the_others() {
    let mut world = five_nodes(1);
    for (index, name) in NAMES.into_iter().enumerate() {
        let (hosts, _) = place(&mut world, name);
        assert_eq!(hosts.len(), 3);
        for (count, host) in hosts.iter().enumerate() {
            let revision = must_put(&mut world, *host, name, "a", &format!("{index}.{count}"));
            assert_eq!(revision, 2 + count as i64, "revisions count per keyspace");
        }
    }
    for (index, name) in NAMES.into_iter().enumerate() {
        for host in place(&mut world, name).0 {
            let value = must_get(&mut world, host, name, "a");
            assert_eq!(value, Some(format!("{index}.2")));
        }
    }
    assert_eq!(must_get(&mut world, 0, "default", "a"), None);
    // Fifteen places for twelve replicas: nobody holds more than three.
    let mut held = [0; 5];
    for name in NAMES {
        place(&mut world, name)
            .0
            .iter()
            .for_each(|host| held[*host] += 1);
    }
    assert!(held.iter().all(|count| (2..=3).contains(count)), "{held:?}");
}

#[test]
fn keyspaces_that_do_not_exist_or_are_elsewhere_are_said_so() {
    let mut world = five_nodes(2);
    match world.ask(1, within("nothing", get("a"))) {
        Answer::Etcd(Err(error)) => assert_eq!(error, etcd::Error::KeyspaceNotFound),
        other => panic!("{other:?}"),
    }
    let (hosts, _) = place(&mut world, "pods");
    let elsewhere = (0..5).find(|host| !hosts.contains(host)).expect("of five");
    match world.ask(elsewhere, within("pods", get("a"))) {
        Answer::Etcd(Err(error)) => assert_eq!(error, etcd::Error::KeyspaceElsewhere),
        other => panic!("{other:?}"),
    }
    for (name, replicas, reason) in [
        ("pods", 3, "already"),
        ("default", 3, "already"),
        ("Pods", 3, "cannot be called"),
        ("more", 7, "too few"),
        ("even", 2, "1, 3, 5 or 7"),
    ] {
        let call = Call::KeyspaceCreate {
            names: vec![name.to_owned()],
            replicas,
            engine: EngineKind::Raft,
            quorums: None,
        };
        match world.ask(3, call) {
            Answer::Operator(Err(told)) => assert!(told.contains(reason), "{told}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_keyspace_counts_by_the_sizes_it_was_made_with() {
    let mut world = five_nodes(9);
    let sized = |name: &str, elect, commit| Call::KeyspaceCreate {
        names: vec![name.to_owned()],
        replicas: 5,
        engine: EngineKind::Paxos,
        quorums: Some(QuorumSizes { elect, commit }),
    };
    match world.ask(1, sized("sized", 3, 2)) {
        Answer::Operator(Err(told)) => {
            assert!(
                told.contains("3 + 2 = 5 is not more than the 5 voters"),
                "{told}"
            );
        }
        other => panic!("{other:?}"),
    }
    match world.ask(1, sized("sized", 4, 2)) {
        Answer::Operator(Ok(_)) => {}
        other => panic!("{other:?}"),
    }
    let all = keyspaces(&mut world, 2);
    let shown = |name: &str| {
        let found = all.iter().find(|each| each.name == name);
        found.map(|each| each.quorums.to_string())
    };
    assert_eq!(shown("sized").as_deref(), Some("elect=4,commit=2"));
    assert_eq!(shown("default").as_deref(), Some("elect=3,commit=3"));
    must_put(&mut world, 0, "sized", "a", "1");
    // The sizes come back from the journal: three of five elect for the cluster, and not for this.
    (0..5).for_each(|host| world.kill(host));
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    match world.ask(1, within("sized", put("a", "2"))) {
        Answer::Etcd(Err(_)) => {}
        other => panic!("nobody may lead: {other:?}"),
    }
    world.start(3);
    world.run(Duration::from_secs(2));
    must_put(&mut world, 3, "sized", "a", "3");
}

#[test]
fn the_death_of_a_node_takes_no_keyspace_along() {
    for seed in 0..3 {
        let mut world = five_nodes(10 + seed);
        for name in NAMES {
            let host = place(&mut world, name).0[0];
            must_put(&mut world, host, name, "a", "before");
        }
        let victim = 1 + seed as usize;
        world.kill(victim);
        for name in NAMES {
            let hosts = place(&mut world, name).0;
            let alive = hosts.iter().find(|host| **host != victim);
            let alive = *alive.expect("two are left");
            let before = world.now;
            must_put(&mut world, alive, name, "b", "after");
            let gap = world.now - before;
            assert!(gap < Duration::from_secs(2), "{name} paused for {gap:?}");
            assert_eq!(
                must_get(&mut world, alive, name, "a").as_deref(),
                Some("before")
            );
        }
        world.start(victim);
        world.run(Duration::from_secs(2));
        for name in NAMES {
            if place(&mut world, name).0.contains(&victim) {
                let value = must_get(&mut world, victim, name, "b");
                assert_eq!(value.as_deref(), Some("after"));
            }
        }
    }
}

#[test]
fn every_group_comes_back_from_checkpoints_and_the_shared_log() {
    let mut world = five_nodes(20);
    let value = "v".repeat(1000);
    for round in 0..60 {
        for name in NAMES {
            let host = place(&mut world, name).0[round % 3];
            must_put(&mut world, host, name, &format!("k{}", round % 7), &value);
        }
        if round == 30 {
            must_put(&mut world, 0, "default", "a", "1");
        }
    }
    for name in NAMES {
        let host = place(&mut world, name).0[0];
        must_put(&mut world, host, name, "last", name);
    }
    for name in NAMES {
        let (hosts, group) = place(&mut world, name);
        for host in hosts {
            let files = world.disk_of(host).list();
            let of_group = |file: &File| matches!(file, File::Checkpoint(id, _) if *id == group);
            assert!(
                files.iter().any(|(file, _)| of_group(file)),
                "{name} has a checkpoint on host {host}"
            );
        }
    }
    // Nobody who is idle keeps the log of the others: what the checkpoints cover was let go of.
    world.run(Duration::from_secs(5));
    for host in 0..5 {
        let files = world.disk_of(host).list();
        let segments = files
            .iter()
            .filter(|(file, _)| matches!(file, File::Segment(_)));
        let first = segments.clone().next().map(|(file, _)| *file);
        assert_ne!(first, Some(File::Segment(1)), "host {host}");
        assert!(segments.count() <= 4, "host {host}");
    }
    (0..5).for_each(|host| world.kill(host));
    (0..5).for_each(|host| world.start(host));
    world.wait_for_leader();
    world.run(Duration::from_secs(2));
    for name in NAMES {
        for host in place(&mut world, name).0 {
            let value = must_get(&mut world, host, name, "last");
            assert_eq!(value.as_deref(), Some(name));
        }
    }
    assert_eq!(
        must_get(&mut world, 4, "default", "a").as_deref(),
        Some("1")
    );
}

#[test]
fn no_member_is_removed_that_a_keyspace_needs_for_its_majority() {
    let mut world = five_nodes(34);
    create(&mut world, "alone", 1, EngineKind::Raft);
    let (hosts, _) = place(&mut world, "alone");
    let member = format!("n{}", hosts[0] + 1);
    match world.ask(0, Call::MemberRemove { member }) {
        Answer::Operator(Err(reason)) => {
            assert!(reason.contains("the keyspace alone"), "{reason}");
            assert!(reason.contains("0 of its 1 replicas"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let name = "alone".to_owned();
    match world.ask(0, Call::KeyspaceDrop { name }) {
        Answer::Operator(Ok(_)) => {}
        other => panic!("{other:?}"),
    }
    // Others have two more replicas each: one may go, and then none of the two that are left.
    let (hosts, _) = place(&mut world, "pods");
    let through = (0..5).find(|host| !hosts.contains(host)).expect("of five");
    let mut refused = None;
    for host in hosts {
        let member = format!("n{}", host + 1);
        match world.ask(through, Call::MemberRemove { member }) {
            Answer::Operator(Ok(_)) => world.run(Duration::from_secs(3)),
            Answer::Operator(Err(reason)) => {
                refused = Some(reason);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let refused = refused.expect("a keyspace would be lost");
    assert!(refused.contains("1 of its 3 replicas"), "{refused}");
}

#[test]
fn a_dropped_keyspace_leaves_nothing_and_its_name_can_be_used_again() {
    let mut world = five_nodes(30);
    let value = "v".repeat(1000);
    let (hosts, group) = place(&mut world, "pods");
    for round in 0..40 {
        must_put(&mut world, hosts[0], "pods", &format!("k{round}"), &value);
    }
    // So much that the first group takes a checkpoint, with the table as it is now.
    for round in 0..40 {
        must_put(&mut world, 0, "default", &format!("k{round}"), &value);
    }
    world.run(Duration::from_secs(1));
    // One that is away learns of it later.
    let away = hosts[1];
    world.kill(away);
    world.wait_for_leader();
    let through = (0..5).find(|host| *host != away).expect("of five");
    let name = "pods".to_owned();
    match world.ask(through, Call::KeyspaceDrop { name }) {
        Answer::Operator(Ok(_)) => {}
        other => panic!("{other:?}"),
    }
    world.run(Duration::from_secs(1));
    world.start(away);
    world.run(Duration::from_secs(2));
    for host in 0..5 {
        let files = world.disk_of(host).list();
        let left = files.iter().find(|(file, _)| match file {
            File::Checkpoint(id, _) | File::PartialCheckpoint(id, _) => *id == group,
            _ => false,
        });
        assert_eq!(left, None, "host {host}");
        let running = world.node(host).running().expect("it runs");
        assert!(running.group(group).is_none());
    }
    match world.ask(0, within("pods", get("k1"))) {
        Answer::Etcd(Err(error)) => assert_eq!(error, etcd::Error::KeyspaceNotFound),
        other => panic!("{other:?}"),
    }
    create(&mut world, "pods", 3, EngineKind::Raft);
    world.run(Duration::from_secs(1));
    let (hosts, again) = place(&mut world, "pods");
    assert!(again > group, "numbers of groups are not used again");
    assert_eq!(must_put(&mut world, hosts[2], "pods", "a", "1"), 2);
    (0..5).for_each(|host| world.kill(host));
    // Nobody executes the drop again without a majority. The group must not rise meanwhile: what it
    // had promised is gone.
    (0..2).for_each(|host| world.start(host));
    world.run(Duration::from_secs(1));
    for host in 0..2 {
        let running = world.node(host).running().expect("it runs");
        assert!(running.group(group).is_none(), "host {host}");
    }
    (2..5).for_each(|host| world.start(host));
    world.wait_for_leader();
    world.run(Duration::from_secs(2));
    assert_eq!(
        must_get(&mut world, hosts[0], "pods", "a").as_deref(),
        Some("1")
    );
    assert_eq!(must_get(&mut world, hosts[0], "pods", "k1"), None);
}

#[test]
fn a_node_that_was_away_for_long_gets_the_states_of_all_its_groups() {
    let mut world = five_nodes(40);
    let victim = place(&mut world, "locks").0[0];
    world.kill(victim);
    let value = "v".repeat(1000);
    for round in 0..80 {
        for name in NAMES {
            let hosts = place_from(&mut world, name, victim);
            must_put(&mut world, hosts, name, &format!("k{}", round % 5), &value);
        }
    }
    for name in NAMES {
        let host = place_from(&mut world, name, victim);
        must_put(&mut world, host, name, "last", name);
    }
    world.start(victim);
    world.run(Duration::from_secs(5));
    for name in NAMES {
        if place(&mut world, name).0.contains(&victim) {
            let value = must_get(&mut world, victim, name, "last");
            assert_eq!(value.as_deref(), Some(name));
        }
    }
}

/// A host that holds a keyspace and is not the one that is away.
fn place_from(world: &mut World, name: &str, away: usize) -> usize {
    let through = (0..5).find(|host| *host != away).expect("of five");
    let all = keyspaces(world, through);
    let found = all.into_iter().find(|each| each.name == name);
    let found = found.expect("it is in the table");
    let host = |name: &String| name[1..].parse::<usize>().expect("names count") - 1;
    let mut hosts = found.replicas.iter().map(host);
    hosts.find(|host| *host != away).expect("two are left")
}

fn refusal(world: &mut World, host: usize, call: Call) -> Option<etcd::Error> {
    match world.ask(host, call) {
        Answer::Etcd(result) => result.err(),
        other => panic!("{other:?}"),
    }
}

/// A node whose first group knows only what its log says may not have heard of a keyspace, nor of
/// users. The keyspace on it alone has a leader without anybody else.
#[test]
fn a_node_that_was_just_started_says_nothing_of_keyspaces_before_it_is_current() {
    let mut world = World::new(50, (0..3).map(|each| small(each, 3)).collect());
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    create(&mut world, "alone", 1, EngineKind::Raft);
    world.run(Duration::from_secs(1));
    let victim = place(&mut world, "alone").0[0];
    must_put(&mut world, victim, "alone", "a", "1");
    world.kill(victim);
    world.wait_for_leader();
    let other = (victim + 1) % 3;
    for request in [
        AuthRequest::UserAdd {
            name: "root".into(),
            password_hash: Some(Bytes::from_static(b"hash")),
        },
        AuthRequest::UserGrantRole {
            user: "root".into(),
            role: "root".into(),
        },
        AuthRequest::Enable { token_key: [1; 32] },
    ] {
        let call = Call::Etcd(etcd::Request::Auth(request));
        assert_eq!(refusal(&mut world, other, call), None);
    }
    world.isolate(victim, true);
    world.start(victim);
    for _ in 0..3 {
        world.run(Duration::from_secs(1));
        for keyspace in ["alone", "nothing"] {
            let refused = refusal(&mut world, victim, within(keyspace, get("a")));
            assert_eq!(refused, Some(etcd::Error::NoLeader), "{keyspace}");
        }
    }
    world.isolate(victim, false);
    world.run(Duration::from_secs(5));
    for keyspace in ["alone", "nothing"] {
        let refused = refusal(&mut world, victim, within(keyspace, get("a")));
        assert_eq!(refused, Some(etcd::Error::UserEmpty), "{keyspace}");
    }
}

/// Segments that hold no log which is needed: the one in which it begins, the one that is written,
/// and those that are ready to be written next.
const BESIDE_THE_LOG: u64 = 4;

fn segments(world: &mut World, host: usize) -> usize {
    let files = world.disk_of(host).list();
    let segments = files
        .iter()
        .filter(|(file, _)| matches!(file, File::Segment(_)));
    segments.count()
}

#[test]
fn a_group_without_a_majority_does_not_keep_the_log_of_the_others() {
    for seed in 0..3 {
        let mut world = five_nodes(60 + seed);
        let value = "v".repeat(1000);
        for round in 0..30 {
            for name in NAMES {
                let host = place(&mut world, name).0[0];
                must_put(&mut world, host, name, &format!("k{}", round % 5), &value);
            }
        }
        let (hosts, group) = place(&mut world, "pods");
        let survivor = hosts[2];
        world.kill(hosts[0]);
        world.kill(hosts[1]);
        world.run(Duration::from_secs(5));
        for round in 0..400 {
            let key = format!("k{}", round % 5);
            must_put(&mut world, survivor, "default", &key, &value);
        }
        world.run(Duration::from_secs(10));
        let running = world.node(survivor).running().expect("it runs");
        let alone = running.group(group).expect("it is open");
        let (start, applied) = (alone.engine().glance().start, alone.replica().applied());
        assert_eq!(
            start, applied,
            "it keeps nothing of the log, with seed {seed}"
        );
        // What is left is that of the first group, behind the last checkpoint but one: as many
        // entries as have come while two were written. Each is a put, in blocks of its own.
        let glance = running
            .group(GroupId(0))
            .expect("it is open")
            .engine()
            .glance();
        let files = world.disk_of(survivor).list();
        let covers = files.iter().filter_map(|(file, _)| match file {
            File::Checkpoint(GroupId(0), slot) => Some(*slot),
            _ => None,
        });
        let mut covers: Vec<Slot> = covers.collect();
        covers.sort_unstable();
        let but_one = covers[covers.len() - 2];
        assert_eq!(glance.start, but_one, "with seed {seed}");
        let bytes = (glance.last.0 - but_one.0) * (value.len() as u64 + 1000);
        let most = bytes.div_ceil(64 << 10) + BESIDE_THE_LOG;
        let kept = segments(&mut world, survivor) as u64;
        assert!(
            kept <= most,
            "{kept} segments with seed {seed}, at most {most}"
        );
        // What it has is still there, and goes on once the others are back.
        world.kill(survivor);
        hosts.iter().for_each(|host| world.start(*host));
        world.wait_for_leader();
        world.run(Duration::from_secs(5));
        for host in hosts {
            let read = must_get(&mut world, host, "pods", "k4");
            assert_eq!(read.as_deref(), Some(&value[..]));
        }
        must_put(&mut world, survivor, "pods", "after", "1");
    }
}

/// A leader with an empty queue takes what comes at once, however little its queue may hold:
/// whoever sent it would send it again for ever.
#[test]
fn what_comes_in_one_frame_is_taken() {
    let small = |index| {
        let mut config = config(index, 3);
        config.limits.queued_commands = 2;
        config
    };
    let mut world = World::new(40, (0..3).map(small).collect());
    (0..3).for_each(|host| world.start(host));
    let leader = world.wait_for_leader();
    let follower = (leader + 1) % 3;
    let calls = (0..8).map(|number| put(&format!("k{number}"), "v"));
    let ids = world.call_together(follower, calls.collect());
    world.run(Duration::from_secs(2));
    for id in ids {
        let answer = world.answer(id);
        assert!(matches!(answer, Some(Answer::Etcd(Ok(_)))), "{answer:?}");
    }
}
