//! Keyspaces in which nothing happens sleep; whatever happens wakes them, and nothing is lost or
//! old by it.

use std::sync::Arc;
use std::time::Duration;

use base::GroupId;
use bytes::Bytes;
use consensus::EngineKind;
use etcd::proto::etcdserverpb::{LeaseGrantRequest, PutRequest, RangeRequest};
use journal::disk::File;
use quorate_node::{Answer, Call, Config};
use state::LeaseId;

mod support;

use support::World;

/// Longer than a group takes to fall asleep.
const LONG: Duration = Duration::from_secs(6);

fn put(key: &str, value: &str, lease: i64) -> Call {
    Call::Etcd(etcd::Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease,
        ..Default::default()
    }))
}

fn get(key: &str, serializable: bool) -> Call {
    Call::Etcd(etcd::Request::Range(RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        serializable,
        ..Default::default()
    }))
}

fn within(group: GroupId, call: Call) -> Call {
    Call::In {
        keyspace: Arc::from(name(group)),
        call: Box::new(call),
    }
}

fn name(group: GroupId) -> String {
    format!("k{}", group.0)
}

/// A node that sends no keyspace and no leadership elsewhere by itself, which would wake it.
fn config(index: usize, nodes: usize) -> Config {
    let mut config = support::config(index, nodes);
    config.limits.moving.tending_interval = Duration::from_secs(86_400);
    config
}

/// Three nodes and keyspaces of both engines, asleep.
fn sleepers(seed: u64, count: usize) -> (World, Vec<GroupId>) {
    asleep_with(seed, count, (0..3).map(|each| config(each, 3)).collect())
}

fn asleep_with(seed: u64, count: usize, configs: Vec<Config>) -> (World, Vec<GroupId>) {
    let mut world = World::new(seed, configs);
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    let groups: Vec<GroupId> = (1..=count as u64).map(GroupId).collect();
    for group in &groups {
        let call = Call::KeyspaceCreate {
            names: vec![name(*group)],
            replicas: 3,
            engine: EngineKind::ALL[group.0 as usize % 2],
            quorums: None,
        };
        match world.ask(0, call) {
            Answer::Operator(Ok(_)) => {}
            other => panic!("{other:?}\n{}", world.picture()),
        }
    }
    until_asleep(&mut world, &[0, 1, 2], &groups);
    (world, groups)
}

fn is_asleep(world: &World, host: usize, group: GroupId) -> bool {
    let running = world.node(host).running();
    let group = running.and_then(|running| running.group(group));
    group.is_some_and(quorate_node::group::Group::is_asleep)
}

fn until_asleep(world: &mut World, hosts: &[usize], groups: &[GroupId]) {
    world.run_until(Duration::from_secs(20), "all sleep", |world| {
        hosts
            .iter()
            .all(|host| groups.iter().all(|group| is_asleep(world, *host, *group)))
    });
}

fn woken(world: &World) -> u64 {
    (0..3)
        .filter(|host| world.is_running(*host))
        .map(|host| world.node(host).metrics().groups_woken)
        .sum()
}

fn leader_of(world: &World, group: GroupId) -> usize {
    let leads = |host: &usize| {
        let running = world.node(*host).running();
        let group = running.and_then(|running| running.group(group));
        group.is_some_and(quorate_node::group::Group::leads)
    };
    (0..3).find(leads).expect("it has a leader")
}

fn must_put(world: &mut World, host: usize, group: GroupId, key: &str, value: &str) {
    for _ in 0..5 {
        let call = within(group, put(key, value, 0));
        if let Answer::Etcd(Ok(_)) = world.ask(host, call) {
            return;
        }
        // One that was just started may not know yet which keyspaces there are.
        world.run(Duration::from_millis(100));
    }
    panic!("put through {host}\n{}", world.picture());
}

fn value(answer: Answer) -> Option<String> {
    match answer {
        Answer::Etcd(Ok(etcd::Response::Range(range))) => {
            let found = range.kvs.first();
            found.map(|each| String::from_utf8_lossy(&each.value).into_owned())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn idle_keyspaces_sleep_until_something_happens() {
    let (mut world, groups) = sleepers(1, 4);
    let before = woken(&world);
    world.run(Duration::from_secs(60));
    assert_eq!(woken(&world), before, "nothing wakes them");
    assert!(!is_asleep(&world, 0, GroupId(0)), "the first never sleeps");
    for group in &groups {
        let host = (leader_of(&world, *group) + 1) % 3;
        let call = within(*group, put("a", "1", 0));
        let id = world.call(host, call);
        world.run(Duration::from_millis(50));
        match world.answer(id) {
            Some(Answer::Etcd(Ok(_))) => {}
            other => panic!("not woken at once: {other:?}\n{}", world.picture()),
        }
        for host in 0..3 {
            let read = within(*group, get("a", false));
            assert_eq!(value(world.ask(host, read)), Some("1".to_owned()));
        }
    }
    until_asleep(&mut world, &[0, 1, 2], &groups);
}

#[test]
fn whoever_is_asked_for_a_read_wakes_the_leader_and_asks_a_quorum() {
    let (mut world, groups) = sleepers(2, 2);
    for group in groups {
        let leader = leader_of(&world, group);
        must_put(&mut world, leader, group, "a", "1");
        for host in 0..3 {
            until_asleep(&mut world, &[0, 1, 2], &[group]);
            let id = world.call(host, within(group, get("a", false)));
            world.run(Duration::from_millis(50));
            let answer = world.answer(id).expect("at once");
            assert_eq!(value(answer), Some("1".to_owned()));
        }
    }
}

#[test]
fn when_the_leader_of_sleeping_groups_dies_others_lead_and_sleep_without_it() {
    let (mut world, groups) = sleepers(3, 8);
    let dead = leader_of(&world, groups[0]);
    world.kill(dead);
    let left: Vec<usize> = (0..3).filter(|host| *host != dead).collect();
    world.run(Duration::from_secs(3));
    for group in &groups {
        let leaders = left.iter().filter(|host| {
            let running = world.node(**host).running().expect("it runs");
            running.group(*group).is_some_and(|group| group.leads())
        });
        assert_eq!(leaders.count(), 1, "{group:?}\n{}", world.picture());
    }
    until_asleep(&mut world, &left, &groups);
    for group in &groups {
        must_put(&mut world, left[0], *group, "b", "2");
    }
    until_asleep(&mut world, &left, &groups);
    world.start(dead);
    world.run(LONG);
    for group in &groups {
        let read = within(*group, get("b", true));
        let answer = world.ask(dead, read);
        assert_eq!(value(answer), Some("2".to_owned()), "it has caught up");
    }
    until_asleep(&mut world, &[0, 1, 2], &groups);
}

#[test]
fn a_leader_that_slept_through_an_election_answers_nothing_old() {
    let (mut world, groups) = sleepers(4, 4);
    for group in groups {
        let leader = leader_of(&world, group);
        must_put(&mut world, leader, group, "a", "old");
        until_asleep(&mut world, &[0, 1, 2], &[group]);
        world.isolate(leader, true);
        world.run(Duration::from_secs(3));
        must_put(&mut world, (leader + 1) % 3, group, "a", "new");
        let id = world.call(leader, within(group, get("a", false)));
        world.run(Duration::from_secs(3));
        if let Some(Answer::Etcd(Ok(answer))) = world.answer(id) {
            panic!("the old leader answers: {answer:?}");
        }
        world.isolate(leader, false);
        world.run(Duration::from_secs(10));
        let read = within(group, get("a", false));
        assert_eq!(value(world.ask(leader, read)), Some("new".to_owned()));
    }
}

#[test]
fn a_keyspace_with_a_lease_stays_awake_and_ends_it_in_time() {
    let (mut world, groups) = sleepers(5, 2);
    for group in groups {
        let grant = etcd::Request::LeaseGrant(LeaseGrantRequest { ttl: 10, id: 7 });
        match world.ask(0, within(group, Call::Etcd(grant))) {
            Answer::Etcd(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
        world.ask(0, within(group, put("l", "1", 7)));
        world.run(Duration::from_secs(8));
        assert!((0..3).all(|host| !is_asleep(&world, host, group)));
        let read = within(group, get("l", true));
        assert_eq!(value(world.ask(0, read)), Some("1".to_owned()), "not early");
        world.run(Duration::from_secs(4));
        let read = within(group, get("l", true));
        assert_eq!(value(world.ask(0, read)), None, "not late");
        until_asleep(&mut world, &[0, 1, 2], &[group]);
    }
}

#[test]
fn a_follower_that_was_cut_off_is_brought_up_when_it_is_heard_again() {
    let (mut world, groups) = sleepers(6, 4);
    let host = (leader_of(&world, groups[0]) + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|each| *each != host).collect();
    world.isolate(host, true);
    world.run(LONG);
    for group in &groups {
        must_put(&mut world, others[0], *group, "c", "3");
    }
    until_asleep(&mut world, &others, &groups);
    world.isolate(host, false);
    world.run(Duration::from_secs(10));
    for group in &groups {
        let read = within(*group, get("c", true));
        assert_eq!(value(world.ask(host, read)), Some("3".to_owned()));
    }
    until_asleep(&mut world, &[0, 1, 2], &groups);
}

/// The checkpoints of some groups on a host.
fn checkpoints(world: &mut World, host: usize, groups: &[GroupId]) -> Vec<File> {
    let files = world.disk_of(host).list().into_iter().map(|(file, _)| file);
    let of_group = |file: &File| matches!(file, File::Checkpoint(id, _) if groups.contains(id));
    files.filter(of_group).collect()
}

#[test]
fn while_others_fill_the_log_a_sleeping_group_writes_one_checkpoint_and_no_more() {
    let small = |index| {
        let mut config = config(index, 3);
        config.limits.checkpoint_log_bytes = 16 << 10;
        config.limits.journal.segment_bytes = 64 << 10;
        config.limits.log_segments = 2;
        config
    };
    let (mut world, groups) = asleep_with(7, 6, (0..3).map(small).collect());
    let (mut before, mut oldest) = (Vec::new(), vec![[1; 3]]);
    for round in 0..4 {
        for key in 0..300 {
            let key = format!("k{}", key % 7);
            world.ask(0, put(&key, &"v".repeat(1000), 0));
        }
        world.run(Duration::from_secs(10));
        let now: Vec<Vec<File>> = (0..3)
            .map(|host| checkpoints(&mut world, host, &groups))
            .collect();
        let mut first_segments = [0; 3];
        for (host, files) in now.iter().enumerate() {
            assert_eq!(files.len(), groups.len(), "one each, host {host}");
            // The busy keyspace keeps as much as its last two checkpoints took, which is more than
            // a round writes, and on some replicas more than on others: it moves on within two.
            let files = world.disk_of(host).list().into_iter();
            let segments = files.filter_map(|(file, _)| match file {
                File::Segment(number) => Some(number),
                _ => None,
            });
            let first = segments.min().expect("there is a log");
            let two_before = oldest.iter().rev().nth(1).map(|oldest| oldest[host]);
            assert!(
                two_before.is_none_or(|before| first > before),
                "round {round}, host {host}: {first}"
            );
            first_segments[host] = first;
        }
        oldest.push(first_segments);
        assert!(round == 0 || now == before, "an idle group writes no more");
        before = now;
    }
    (0..3).for_each(|host| world.kill(host));
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    for group in &groups {
        must_put(&mut world, 1, *group, "a", "1");
    }
    until_asleep(&mut world, &[0, 1, 2], &groups);
}

#[test]
fn who_lacks_something_keeps_the_others_awake_until_it_has_it() {
    let (mut world, groups) = sleepers(8, 2);
    for group in groups {
        let leader = leader_of(&world, group);
        let slow = (leader + 1) % 3;
        world.disk_of(slow).is_stuck = true;
        must_put(&mut world, leader, group, "d", "4");
        world.run(LONG);
        for host in 0..3 {
            assert!(!is_asleep(&world, host, group), "host {host}");
        }
        world.disk_of(slow).is_stuck = false;
        until_asleep(&mut world, &[0, 1, 2], &[group]);
        let read = within(group, get("d", true));
        assert_eq!(value(world.ask(slow, read)), Some("4".to_owned()));
    }
}

/// A group sleeps once all who are there have said what their state is, and its leader has heard
/// it. Somebody else leads now, who has not.
#[test]
fn a_new_leader_asks_for_the_states_that_only_the_last_one_knew() {
    let (mut world, groups) = sleepers(12, 12);
    let led = groups.iter().copied();
    let led: Vec<GroupId> = led.filter(|id| leader_of(&world, *id) == 0).collect();
    let engines = |each: &GroupId| each.0 % 2;
    assert!(led.iter().any(|id| engines(id) == 0) && led.iter().any(|id| engines(id) == 1));
    world.part((1, 2), true);
    for group in &led {
        must_put(&mut world, 0, *group, "a", "1");
    }
    until_asleep(&mut world, &[0, 1, 2], &led);
    world.part((1, 2), false);
    world.run(LONG);
    world.kill(0);
    world.run(LONG);
    for group in led {
        for host in [1, 2] {
            assert!(is_asleep(&world, host, group), "{group:?} on {host}");
        }
    }
}

/// A server asks whenever a user renews leases of the default keyspace.
#[test]
fn what_a_node_knows_of_leases_is_told_without_waking_anybody() {
    let (mut world, groups) = sleepers(12, 2);
    let before = woken(&world);
    for group in &groups {
        for host in 0..3 {
            let call = Call::TiedLeases {
                leases: vec![LeaseId(7)],
                linearizable: false,
            };
            match world.ask(host, within(*group, call)) {
                Answer::TiedLeases(Ok(tied)) => assert!(tied.is_empty()),
                other => panic!("{other:?}"),
            }
            assert!(is_asleep(&world, host, *group));
        }
    }
    assert_eq!(woken(&world), before);
}
