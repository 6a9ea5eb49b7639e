//! Groups wake a few at a time when nodes start, are lost or come back; a leadership that changes
//! wakes nobody else; and nodes that all stop do not hand their groups round.

use std::sync::Arc;
use std::time::Duration;

use base::GroupId;
use bytes::Bytes;
use consensus::EngineKind;
use etcd::MaintenanceRequest;
use etcd::proto::etcdserverpb::{MoveLeaderRequest, PutRequest};
use quorate_node::{Answer, Call, Config};

mod support;

use support::World;

/// Longer than all groups of a test need, one after the other.
const PATIENCE: Duration = Duration::from_secs(120);

/// A node on which few groups wake at a time, and that sends no leadership elsewhere by itself.
fn config(index: usize, together: usize) -> Config {
    let mut config = support::config(index, 3);
    config.limits.moving.tending_interval = Duration::from_secs(86_400);
    config.limits.woken_together = together;
    config
}

fn name(group: GroupId) -> String {
    format!("k{}", group.0)
}

/// Three nodes with keyspaces of both engines, all asleep.
fn asleep(seed: u64, count: usize, together: usize) -> (World, Vec<GroupId>) {
    let mut world = World::new(seed, (0..3).map(|each| config(each, together)).collect());
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    let groups: Vec<GroupId> = (1..=count as u64).map(GroupId).collect();
    for (engine, names) in [(EngineKind::Raft, &groups[..count / 2]), {
        (EngineKind::Paxos, &groups[count / 2..])
    }] {
        let call = Call::KeyspaceCreate {
            names: names.iter().map(|group| name(*group)).collect(),
            replicas: 3,
            engine,
            quorums: None,
        };
        match world.ask(0, call) {
            Answer::Operator(Ok(_)) => {}
            other => panic!("{other:?}\n{}", world.picture()),
        }
    }
    until_asleep(&mut world, &groups);
    (world, groups)
}

fn group(world: &World, host: usize, id: GroupId) -> Option<&quorate_node::group::Group> {
    world.node(host).running()?.group(id)
}

fn is_asleep(world: &World, host: usize, id: GroupId) -> bool {
    group(world, host, id).is_some_and(quorate_node::group::Group::fell_asleep)
}

fn until_asleep(world: &mut World, groups: &[GroupId]) {
    world.run_until(PATIENCE, "all have led, and sleep", |world| {
        (0..3).all(|host| groups.iter().all(|id| is_asleep(world, host, *id)))
    });
}

fn leader_of(world: &World, id: GroupId) -> usize {
    let leads = |host: &usize| group(world, *host, id).is_some_and(|group| group.leads());
    (0..3).find(leads).expect("it has a leader")
}

fn within(id: GroupId, call: Call) -> Call {
    Call::In {
        keyspace: Arc::from(name(id)),
        call: Box::new(call),
    }
}

fn must_put(world: &mut World, host: usize, id: GroupId) {
    let request = etcd::Request::Put(PutRequest {
        key: Bytes::from_static(b"a"),
        value: Bytes::from_static(b"1"),
        ..PutRequest::default()
    });
    let answer = world.ask(host, within(id, Call::Etcd(request)));
    assert!(matches!(answer, Answer::Etcd(Ok(_))), "{answer:?}");
}

fn woken(world: &World) -> u64 {
    let counted = |host| world.node(host).metrics().groups_woken;
    (0..3).map(counted).sum()
}

/// The most groups that were awake on a node at a time, until all sleep.
fn most_awake(world: &mut World, groups: &[GroupId]) -> usize {
    let mut most = 0;
    for _ in 0..PATIENCE.as_millis() / 5 {
        world.run(Duration::from_millis(5));
        most = most.max(awake(world, groups));
        let sleeps = |host| groups.iter().all(|id| is_asleep(world, host, *id));
        if (0..3).all(sleeps) {
            return most;
        }
    }
    panic!("not all sleep\n{}", world.picture());
}

#[test]
fn after_a_start_a_few_groups_elect_at_a_time_and_all_are_led_in_the_end() {
    // Two of each of the three nodes, and what is just falling asleep on another one.
    for (together, most) in [(2, 12), (1000, usize::MAX)] {
        let (mut world, groups) = asleep(1, 24, together);
        (0..3).for_each(|host| world.kill(host));
        (0..3).for_each(|host| world.start(host));
        let awake = most_awake(&mut world, &groups);
        assert!(awake <= most, "{awake} at a time");
        // Else the bound above says nothing.
        assert!(together == 2 || awake == groups.len(), "{awake}");
        for id in &groups {
            leader_of(&world, *id);
        }
    }
}

#[test]
fn a_group_that_is_asked_does_not_wait_for_its_turn() {
    let (mut world, groups) = asleep(2, 24, 1);
    (0..3).for_each(|host| world.kill(host));
    (0..3).for_each(|host| world.start(host));
    world.run_until(PATIENCE, "it knows its keyspaces", |world| {
        world.directory(1).is_some()
    });
    let began = world.now;
    for id in groups.iter().rev().take(4) {
        must_put(&mut world, 1, *id);
    }
    let took = world.now.since(began);
    assert!(took < Duration::from_secs(8), "{took:?}");
    let waits = |id: &&GroupId| !is_asleep(&world, 1, **id) && leads_nobody(&world, **id);
    assert!(groups.iter().filter(waits).count() > 4, "others still wait");
    until_asleep(&mut world, &groups);
}

fn leads_nobody(world: &World, id: GroupId) -> bool {
    (0..3).all(|host| group(world, host, id).is_some_and(|group| !group.leads()))
}

#[test]
fn a_leadership_that_moves_wakes_no_other_group() {
    let (mut world, groups) = asleep(3, 12, 1000);
    let host = leader_of(&world, groups[0]);
    let led = groups.iter().filter(|id| leader_of(&world, **id) == host);
    assert!(led.count() > 2, "others sleep under the same node");
    let before = woken(&world);
    let to = (host + 1) % 3;
    let target_id = world.identity_of(to).expect("it has one").node.0;
    let request = MaintenanceRequest::MoveLeader(MoveLeaderRequest { target_id });
    let answer = world.ask(host, within(groups[0], Call::EtcdMaintenance(request)));
    assert!(
        matches!(answer, Answer::EtcdMaintenance(Ok(_))),
        "{answer:?}"
    );
    world.run(Duration::from_secs(10));
    assert_eq!(leader_of(&world, groups[0]), to);
    assert_eq!(woken(&world) - before, 3, "one group, on three nodes");
}

#[test]
fn nodes_that_all_stop_do_not_hand_their_groups_round() {
    let (mut world, groups) = asleep(4, 8, 1000);
    for id in &groups {
        must_put(&mut world, 0, *id);
    }
    let epochs = |world: &World| -> Vec<u64> {
        let epoch = |id: &GroupId| {
            let seen = (0..3).filter_map(|host| group(world, host, *id));
            seen.map(|group| group.status().term.0).max().unwrap_or(0)
        };
        groups.iter().map(epoch).collect()
    };
    let before = epochs(&world);
    (0..3).for_each(|host| world.shutdown(host));
    let mut last = before.clone();
    for _ in 0..1000 {
        world.run(Duration::from_millis(5));
        if (0..3).any(|host| !world.is_running(host)) {
            break;
        }
        last = epochs(&world);
    }
    for (before, after) in before.into_iter().zip(last) {
        // Given away, given back, and kept.
        assert!(after <= before + 3, "{before} {after}");
    }
}

/// How many groups are awake on each node.
fn awake(world: &World, groups: &[GroupId]) -> usize {
    let is_awake = |host: usize, id: &GroupId| {
        let group = group(world, host, *id);
        group.is_some_and(|group| !group.is_asleep())
    };
    let awake = |host| groups.iter().filter(|id| is_awake(host, id)).count();
    (0..3).map(awake).max().unwrap_or(0)
}

#[test]
fn on_a_slow_machine_a_node_that_is_back_wakes_a_few_at_a_time_and_all_come_to_rest() {
    let (mut world, groups) = asleep(5, 96, 8);
    let lost = leader_of(&world, groups[0]);
    world.kill(lost);
    world.run(Duration::from_secs(30));
    // All groups together need more than the machine has.
    (0..3).for_each(|host| world.slow_down(host, Duration::from_millis(1)));
    world.restless_max = u32::MAX;
    world.start(lost);
    let before = woken(&world);
    let mut most = 0;
    world.run(Duration::from_secs(1));
    while awake(&world, &groups) > 0 {
        most = most.max(awake(&world, &groups));
        world.run(Duration::from_millis(5));
        let woken = woken(&world) - before;
        assert!(woken <= 3 * groups.len() as u64, "{woken} have been woken");
    }
    // As many as may be under way on each of the three nodes.
    assert!(most <= 24, "{most} at a time");
    assert!(most > 8, "{most}: else the bound says nothing");
    let sleeps = |id: &GroupId| (0..3).all(|host| is_asleep(&world, host, *id));
    assert!(groups.iter().all(sleeps), "all have begun");
}

#[test]
fn a_node_that_dies_wakes_only_what_it_has_led() {
    let (mut world, groups) = asleep(6, 24, 1000);
    let dead = leader_of(&world, groups[0]);
    let led = groups.iter().filter(|id| leader_of(&world, **id) == dead);
    let led = led.count();
    assert!(led < groups.len(), "others lead as well");
    let left: Vec<usize> = (0..3).filter(|host| *host != dead).collect();
    let woken = |world: &World| -> u64 {
        let counted = |host: &usize| world.node(*host).metrics().groups_woken;
        left.iter().map(counted).sum()
    };
    let before = woken(&world);
    world.kill(dead);
    world.run(Duration::from_secs(10));
    assert_eq!(woken(&world) - before, 2 * led as u64);
    let is_led = |id: &GroupId| {
        let leads = |host: &usize| group(&world, *host, *id).is_some_and(|group| group.leads());
        left.iter().filter(|host| leads(host)).count() == 1
    };
    assert!(groups.iter().all(is_led));
}

#[test]
fn who_is_silent_for_a_moment_wakes_few_groups() {
    let (mut world, groups) = asleep(7, 48, 2);
    let silent = leader_of(&world, groups[0]);
    let led = groups.iter().filter(|id| leader_of(&world, **id) == silent);
    assert!(led.count() > 12, "each node leads some");
    let before = woken(&world);
    world.isolate(silent, true);
    world.run(Duration::from_millis(700));
    world.isolate(silent, false);
    world.run(Duration::from_secs(30));
    let woken = woken(&world) - before;
    assert!(woken > 0, "it was noticed");
    // Each node has begun with two, and each of them woke on all nodes.
    assert!(woken <= 18, "{woken} have been woken");
    until_asleep(&mut world, &groups);
}

#[test]
fn a_keyspace_that_is_dropped_wakes_no_other() {
    let (mut world, groups) = asleep(8, 12, 1000);
    let before = woken(&world);
    let answer = world.ask(
        0,
        Call::KeyspaceDrop {
            name: name(groups[0]),
        },
    );
    assert!(matches!(answer, Answer::Operator(Ok(_))), "{answer:?}");
    world.run(Duration::from_secs(10));
    assert!(group(&world, 1, groups[0]).is_none(), "it is gone");
    assert_eq!(woken(&world), before);
}
