//! Nodes that observe keyspaces: they hold them without a vote, serve their reads and watches, and
//! nobody misses them.

use std::sync::Arc;
use std::time::Duration;

use base::{Epoch, GroupId};
use bytes::Bytes;
use consensus::EngineKind;
use etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use quorate_node::{Answer, Call, Config, KeyspaceStatus, Placement};

mod support;

use support::{World, config};

const PODS: GroupId = GroupId(1);

fn within(request: etcd::Request) -> Call {
    Call::In {
        keyspace: Arc::from("pods"),
        call: Box::new(Call::Etcd(request)),
    }
}

fn put(key: &str, value: &str) -> Call {
    within(etcd::Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..PutRequest::default()
    }))
}

fn get(key: &str, serializable: bool) -> Call {
    within(etcd::Request::Range(RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        serializable,
        ..RangeRequest::default()
    }))
}

fn must_put(world: &mut World, host: usize, key: &str, value: &str) {
    let answer = world.ask(host, put(key, value));
    assert!(
        matches!(answer, Answer::Etcd(Ok(_))),
        "{answer:?}\n{}",
        world.picture()
    );
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

fn operate(world: &mut World, host: usize, call: Call) -> Result<String, String> {
    match world.ask(host, call) {
        Answer::Operator(result) => result,
        other => panic!("{other:?}"),
    }
}

/// Said through `host`.
fn observe_by(
    world: &mut World,
    host: usize,
    node: &str,
    observes: bool,
) -> Result<String, String> {
    let call = Call::Placement(Placement::Observe {
        name: "pods".to_owned(),
        node: node.to_owned(),
        observes,
    });
    operate(world, host, call)
}

fn observe(world: &mut World, node: &str, observes: bool) -> Result<String, String> {
    observe_by(world, 0, node, observes)
}

fn small(index: usize, count: usize) -> Config {
    let mut config = config(index, count);
    config.limits.checkpoint_log_bytes = 16 << 10;
    config.limits.journal.segment_bytes = 64 << 10;
    config.limits.log_segments = 2;
    config
}

/// Three voters of a cluster that hold `pods`, and a fourth member without a vote.
fn four(seed: u64, engine: EngineKind) -> World {
    let mut configs: Vec<Config> = (0..3).map(|each| small(each, 3)).collect();
    let mut joins = small(3, 4);
    joins.cluster = Vec::new();
    joins.join = vec!["host0:2380".to_owned()];
    configs.push(joins);
    let mut world = World::new(seed, configs);
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    let create = Call::KeyspaceCreate {
        names: vec!["pods".to_owned()],
        replicas: 3,
        engine,
        quorums: None,
    };
    operate(&mut world, 0, create).expect("it is created");
    let add = Call::MemberAdd {
        name: "n4".to_owned(),
        peer_address: "host3:2380".to_owned(),
        is_witness: false,
    };
    operate(&mut world, 0, add).expect("it is added");
    world.start(3);
    world.run_until(Duration::from_secs(20), "the fourth runs", |world| {
        world.directory(3).is_some()
    });
    world
}

fn is_here(world: &World, host: usize) -> bool {
    let directory = world.directory(host);
    directory.is_some_and(|all| all.keyspaces.get("pods").is_some_and(|pods| pods.is_here))
}

fn is_open(world: &World, host: usize) -> bool {
    let running = world.node(host).running();
    running.is_some_and(|running| running.group(PODS).is_some())
}

/// The epoch in which a node leads `pods`, if it does.
fn epoch_led(world: &World, host: usize) -> Option<Epoch> {
    let group = world.node(host).running()?.group(PODS)?;
    group.leads().then(|| group.status().term)
}

fn sleeps(world: &World, host: usize) -> bool {
    let running = world.node(host).running();
    let group = running.and_then(|running| running.group(PODS));
    group.is_some_and(quorate_node::group::Group::fell_asleep)
}

fn until_here(world: &mut World, host: usize) {
    world.run_until(Duration::from_secs(60), "the observer serves", |world| {
        is_here(world, host)
    });
}

/// Who belongs to the group of `pods`, with a vote and without, as its leader has it.
fn members(world: &World) -> (usize, usize) {
    let groups = (0..4).filter(|host| world.is_running(*host));
    let mut groups = groups.filter_map(|host| world.node(host).running()?.group(PODS));
    let leads = groups.find(|group| group.leads()).expect("it is led");
    let members = &leads.status().members;
    let voters = members.iter().filter(|member| member.voter).count();
    (voters, members.len() - voters)
}

fn status(world: &mut World) -> KeyspaceStatus {
    match world.ask(0, Call::Keyspaces) {
        Answer::Keyspaces(all) => {
            let mut all = all.into_iter();
            all.find(|each| each.name == "pods").expect("it is there")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_observer_has_all_and_is_never_needed() {
    for (seed, engine) in [(1, EngineKind::Raft), (2, EngineKind::Paxos)] {
        let mut world = four(seed, engine);
        // More than its log keeps, so that the observer is filled from a checkpoint.
        for number in 0..200 {
            let key = format!("k{}", number % 20);
            must_put(
                &mut world,
                0,
                &key,
                &format!("{number}-{}", "v".repeat(500)),
            );
        }
        assert!(!is_open(&world, 3));
        let refused = world.ask(3, get("k1", true));
        assert!(
            matches!(refused, Answer::Etcd(Err(etcd::Error::KeyspaceElsewhere))),
            "{refused:?}"
        );
        let said = observe(&mut world, "n4", true).expect("it may");
        assert!(said.contains("n4 observes pods"), "{said}");
        until_here(&mut world, 3);
        assert_eq!(members(&world), (3, 1));
        let seen = value(world.ask(3, get("k19", true)));
        assert!(
            seen.is_some_and(|seen| seen.starts_with("199-")),
            "all of it"
        );
        let shown = status(&mut world);
        assert_eq!(shown.replicas.len(), 3);
        assert_eq!(shown.observers, ["n4"]);

        let before = world.published_of(3, PODS);
        // Written through it or others, read by it at once, and published there.
        for number in 0..20 {
            must_put(&mut world, [0, 3][number % 2], "a", &number.to_string());
            let read = value(world.ask(3, get("a", false)));
            assert_eq!(read, Some(number.to_string()));
        }
        let published = world.published_of(3, PODS) - before;
        assert_eq!(published, 20, "watches there see everything");

        // It goes, and a voter with it.
        world.kill(3);
        world.kill(2);
        must_put(&mut world, 0, "a", "without");
        world.start(2);
        world.start(3);
        until_here(&mut world, 3);
        let read = value(world.ask(3, get("a", false)));
        assert_eq!(read.as_deref(), Some("without"), "seed {seed}");
    }
}

#[test]
fn who_is_not_filled_yet_answers_nobody() {
    let mut world = four(3, EngineKind::Raft);
    must_put(&mut world, 0, "a", "1");
    // What the group says does not reach it.
    world.deaf.insert((3, PODS));
    observe(&mut world, "n4", true).expect("it may");
    world.run(Duration::from_secs(5));
    assert!(is_open(&world, 3) && !is_here(&world, 3));
    let refused = world.ask(3, get("a", true));
    assert!(
        matches!(refused, Answer::Etcd(Err(etcd::Error::KeyspaceElsewhere))),
        "it would say that there is nothing: {refused:?}"
    );
    world.deaf.clear();
    until_here(&mut world, 3);
    assert_eq!(value(world.ask(3, get("a", true))).as_deref(), Some("1"));
}

#[test]
fn who_observes_no_longer_is_removed_and_may_come_back() {
    let mut world = four(4, EngineKind::Raft);
    must_put(&mut world, 0, "a", "1");
    for round in 0..3 {
        observe(&mut world, "n4", true).expect("it may");
        until_here(&mut world, 3);
        assert_eq!(value(world.ask(3, get("a", false))).as_deref(), Some("1"));
        observe(&mut world, "n4", false).expect("it may");
        world.run_until(Duration::from_secs(20), "it is gone", |world| {
            members(world) == (3, 0) && !is_open(world, 3)
        });
        assert!(!is_here(&world, 3), "round {round}");
        must_put(&mut world, 1, "a", "1");
    }
    let refused = observe(&mut world, "n4", false).expect_err("it does not");
    assert!(refused.contains("does not observe"), "{refused}");
    let refused = observe(&mut world, "n1", true).expect_err("it has a vote");
    assert!(refused.contains("n1 holds pods"), "{refused}");
    let refused = observe(&mut world, "n9", true).expect_err("nobody");
    assert!(refused.contains("n9"), "{refused}");
}

/// It executes again what was when it observed before, and serves nobody until that is past.
#[test]
fn who_observes_again_serves_nothing_old() {
    let mut world = four(9, EngineKind::Raft);
    must_put(&mut world, 0, "a", "1");
    observe(&mut world, "n4", true).expect("it may");
    until_here(&mut world, 3);
    observe(&mut world, "n4", false).expect("it may");
    world.run_until(Duration::from_secs(60), "it is closed", |world| {
        !is_open(world, 3)
    });
    for number in 0..40 {
        must_put(&mut world, 0, &format!("k{number}"), &"v".repeat(300));
    }
    let applied = |world: &World, host: usize| {
        let group = world.node(host).running()?.group(PODS)?;
        Some(group.replica().applied())
    };
    let before = applied(&world, 0).expect("it votes");
    observe(&mut world, "n4", true).expect("it may");
    until_here(&mut world, 3);
    let has = applied(&world, 3).expect("it is here");
    assert!(has >= before, "{has} of {before}");
}

#[test]
fn an_observer_that_is_removed_from_the_cluster_is_let_go_of() {
    let mut world = four(5, EngineKind::Paxos);
    observe(&mut world, "n4", true).expect("it may");
    until_here(&mut world, 3);
    world.kill(3);
    let remove = Call::MemberRemove {
        member: "n4".to_owned(),
    };
    operate(&mut world, 0, remove).expect("nothing needs it");
    world.run_until(Duration::from_secs(20), "it is gone", |world| {
        members(world) == (3, 0)
    });
    assert_eq!(status(&mut world).observers, [] as [&str; 0]);
}

#[test]
fn keyspaces_that_are_observed_sleep_and_wake_for_everybody() {
    let mut world = four(6, EngineKind::Raft);
    observe(&mut world, "n4", true).expect("it may");
    until_here(&mut world, 3);
    world.run_until(Duration::from_secs(20), "all sleep", |world| {
        (0..4).all(|host| sleeps(world, host))
    });
    must_put(&mut world, 3, "a", "1");
    assert_eq!(value(world.ask(3, get("a", true))).as_deref(), Some("1"));
    world.run_until(Duration::from_secs(20), "all sleep again", |world| {
        (0..4).all(|host| sleeps(world, host))
    });
}

/// Who lets go of what it observes and has it again before its leader has noticed is filled like
/// anybody new, though all sleep and its leader has it in its membership all the time. Nobody is
/// disturbed by that: the one who leads goes on.
#[test]
fn who_observes_again_before_it_was_missed_is_filled() {
    for (seed, engine) in [(11, EngineKind::Raft), (12, EngineKind::Paxos)] {
        let mut world = four(seed, engine);
        must_put(&mut world, 0, "a", "1");
        observe(&mut world, "n4", true).expect("it may");
        until_here(&mut world, 3);
        world.run_until(Duration::from_secs(20), "all sleep", |world| {
            (0..4).all(|host| sleeps(world, host))
        });
        let leads = (0..3).find(|host| epoch_led(&world, *host).is_some());
        let leads = leads.expect("somebody leads");
        let epoch = epoch_led(&world, leads);
        // Its leader sees the table once both have been done.
        world.pause(leads);
        let other = (0..3).find(|host| *host != leads).expect("three vote");
        for observes in [false, true] {
            observe_by(&mut world, other, "n4", observes).expect("it may");
        }
        world.run(Duration::from_millis(20));
        world.resume(leads);
        world.run(Duration::from_millis(20));
        until_here(&mut world, 3);
        assert_eq!(value(world.ask(3, get("a", true))).as_deref(), Some("1"));
        assert_eq!(epoch_led(&world, leads), epoch, "{engine:?}");
    }
}

#[test]
fn an_observed_keyspace_moves_and_its_observer_may_get_a_vote() {
    let mut configs: Vec<Config> = (0..4).map(|each| small(each, 4)).collect();
    configs.truncate(4);
    let mut world = World::new(7, configs);
    (0..4).for_each(|host| world.start(host));
    world.wait_for_leader();
    let create = Call::KeyspaceCreate {
        names: vec!["pods".to_owned()],
        replicas: 3,
        engine: EngineKind::Raft,
        quorums: None,
    };
    operate(&mut world, 0, create).expect("it is created");
    must_put_anywhere(&mut world, "a", "1");
    let holders = status(&mut world).replicas;
    let other = (0..4).find(|host| !holders.contains(&format!("n{}", host + 1)));
    let other = other.expect("three of four hold it");
    let name = format!("n{}", other + 1);
    observe(&mut world, &name, true).expect("it may");
    until_here(&mut world, other);
    let sends = Call::Placement(Placement::Move {
        name: "pods".to_owned(),
        from: Some(holders[0].clone()),
        to: vec![name.clone()],
    });
    operate(&mut world, 0, sends).expect("it may");
    for _ in 0..300 {
        world.run(Duration::from_millis(100));
        if status(&mut world).moving.is_none() {
            break;
        }
    }
    let now = status(&mut world);
    assert_eq!(now.moving, None);
    assert!(now.replicas.contains(&name), "{now:?}");
    assert_eq!(now.observers, [] as [&str; 0]);
    assert_eq!(members(&world), (3, 0));
    assert_eq!(
        value(world.ask(other, get("a", false))).as_deref(),
        Some("1")
    );
    // And who has left may observe it.
    let left = holders[0].clone();
    observe(&mut world, &left, true).expect("it may");
    let host: usize = left[1..].parse().expect("names count");
    until_here(&mut world, host - 1);
    assert_eq!(members(&world), (3, 1));
    assert_eq!(
        value(world.ask(host - 1, get("a", true))).as_deref(),
        Some("1")
    );
    // It stays while the keyspace goes elsewhere, and holds nothing up.
    let sends = Call::Placement(Placement::Move {
        name: "pods".to_owned(),
        from: None,
        to: vec![name.clone()],
    });
    operate(&mut world, 0, sends).expect("it may");
    for _ in 0..300 {
        world.run(Duration::from_millis(100));
        if status(&mut world).moving.is_none() {
            break;
        }
    }
    let now = status(&mut world);
    assert_eq!(now.moving, None);
    assert_eq!((now.replicas, now.observers), (vec![name], vec![left]));
}

/// Through whoever holds it.
fn must_put_anywhere(world: &mut World, key: &str, to: &str) {
    for attempt in 0..40 {
        let answer = world.ask(attempt % 4, put(key, to));
        if matches!(answer, Answer::Etcd(Ok(_))) {
            return;
        }
        world.run(Duration::from_millis(100));
    }
    panic!("nobody writes\n{}", world.picture());
}

/// A script has a node observe everything: it is filled with a few at a time, and the others sleep
/// meanwhile.
#[test]
fn a_node_that_observes_many_is_filled_with_a_few_at_a_time() {
    let mut world = four(10, EngineKind::Raft);
    let groups: Vec<GroupId> = (2..42).map(GroupId).collect();
    let call = Call::KeyspaceCreate {
        names: groups.iter().map(|id| format!("k{}", id.0)).collect(),
        replicas: 3,
        engine: EngineKind::Raft,
        quorums: None,
    };
    operate(&mut world, 0, call).expect("they are created");
    let led = |world: &World, id: GroupId| -> Option<usize> {
        let leads = |host: &usize| {
            let running = world.node(*host).running();
            running.is_some_and(|running| running.group(id).is_some_and(|each| each.leads()))
        };
        (0..3).find(leads)
    };
    world.run_until(Duration::from_secs(60), "all are led", |world| {
        groups.iter().all(|id| led(world, *id).is_some())
    });
    // None can be filled.
    world.deaf.extend(groups.iter().map(|id| (3, *id)));
    for id in &groups {
        let call = Call::Placement(Placement::Observe {
            name: format!("k{}", id.0),
            node: "n4".to_owned(),
            observes: true,
        });
        operate(&mut world, 0, call).expect("it may");
    }
    let begun = |world: &World, host: usize| {
        let has = |id: &&GroupId| {
            let running = world.node(host).running().expect("it runs");
            let group = running.group(**id).expect("it votes");
            led(world, **id) == Some(host) && group.status().members.len() == 4
        };
        groups.iter().filter(has).count()
    };
    world.run(Duration::from_secs(20));
    let at_a_time: Vec<usize> = (0..3).map(|host| begun(&world, host)).collect();
    assert!(at_a_time.iter().all(|begun| *begun <= 2), "{at_a_time:?}");
    assert!(at_a_time.contains(&2), "{at_a_time:?}");
    let asleep = groups.iter().filter(|id| {
        let running = world.node(0).running().expect("it runs");
        running.group(**id).is_some_and(|each| each.fell_asleep())
    });
    let asleep = asleep.count();
    assert!(asleep >= groups.len() - 6, "{asleep} sleep");

    world.deaf.clear();
    world.run_until(Duration::from_secs(60), "all are observed", |world| {
        let directory = world.directory(3).expect("it runs");
        let is_here = |id: &GroupId| directory.keyspaces[&format!("k{}", id.0)].is_here;
        groups.iter().all(is_here)
    });
}

/// Who is away is not added anywhere, keeps no keyspace awake, and is filled when it is back.
#[test]
fn an_observer_that_is_away_is_waited_for() {
    let mut world = four(11, EngineKind::Paxos);
    must_put(&mut world, 0, "a", "1");
    world.kill(3);
    observe(&mut world, "n4", true).expect("it may");
    world.run(Duration::from_secs(20));
    assert_eq!(members(&world), (3, 0));
    for host in 0..3 {
        let group = world.node(host).running().and_then(|node| node.group(PODS));
        assert!(group.is_some_and(|group| group.fell_asleep()), "{host}");
    }
    world.start(3);
    until_here(&mut world, 3);
    assert_eq!(members(&world), (3, 1));
    assert_eq!(value(world.ask(3, get("a", true))).as_deref(), Some("1"));
}

/// Its keyspace sleeps by the time that it knows the table to be current.
#[test]
fn an_observer_whose_table_comes_late_serves_what_sleeps() {
    let mut world = four(12, EngineKind::Raft);
    must_put(&mut world, 0, "a", "1");
    observe(&mut world, "n4", true).expect("it may");
    until_here(&mut world, 3);
    world.kill(3);
    world.deaf.insert((3, GroupId(0)));
    world.start(3);
    world.run_until(Duration::from_secs(20), "it sleeps", |world| {
        let group = world.node(3).running().and_then(|node| node.group(PODS));
        group.is_some_and(|group| group.fell_asleep())
    });
    world.run(Duration::from_secs(5));
    world.deaf.clear();
    until_here(&mut world, 3);
    assert_eq!(value(world.ask(3, get("a", true))).as_deref(), Some("1"));
}

/// Five nodes, one of which holds `pods` alone, with a key: who leads the first group, and who
/// that one is.
fn five(seed: u64, engine: EngineKind) -> (World, usize, usize) {
    let mut world = World::new(seed, (0..5).map(|each| small(each, 5)).collect());
    (0..5).for_each(|host| world.start(host));
    let meta = world.wait_for_leader();
    let create = Call::KeyspaceCreate {
        names: vec!["pods".to_owned()],
        replicas: 1,
        engine,
        quorums: None,
    };
    operate(&mut world, meta, create).expect("it is created");
    must_put_anywhere(&mut world, "a", "1");
    let first = status(&mut world).replicas[0].clone();
    let first = first[1..].parse::<usize>().expect("names count") - 1;
    (world, meta, first)
}

/// It was away while its keyspace moved to nodes that it knows nothing of. They sleep, and what it
/// says to those whom it knows wakes nobody: the table tells it who they are.
#[test]
fn an_observer_that_knows_none_of_those_who_lead_now_is_brought_up() {
    for (seed, engine) in [(13, EngineKind::Raft), (14, EngineKind::Paxos)] {
        let (mut world, _, first) = five(seed, engine);
        let (second, observer) = ((first + 1) % 5, (first + 2) % 5);
        let name = |host: usize| format!("n{}", host + 1);
        observe_by(&mut world, first, &name(observer), true).expect("it may");
        until_here(&mut world, observer);
        world.kill(observer);
        let sends = Call::Placement(Placement::Move {
            name: "pods".to_owned(),
            from: None,
            to: vec![name(second)],
        });
        operate(&mut world, first, sends).expect("it may");
        world.run_until(Duration::from_secs(60), "it has moved", |world| {
            !is_open(world, first) && is_open(world, second)
        });
        must_put(&mut world, second, "a", "2");
        world.run_until(Duration::from_secs(20), "it sleeps", |world| {
            let running = world.node(second).running();
            let group = running.and_then(|running| running.group(PODS));
            group.is_some_and(quorate_node::group::Group::fell_asleep)
        });
        world.start(observer);
        until_here(&mut world, observer);
        let read = value(world.ask(observer, get("a", true)));
        assert_eq!(read.as_deref(), Some("2"), "{engine:?}");
    }
}

/// Its leader does not notice that it let go of the keyspace and has it again, and is nobody that
/// the keyspace began with: what the new replica knows of it is where it began.
#[test]
fn who_observes_again_is_brought_up_by_whoever_leads_now() {
    for (seed, engine) in [(15, EngineKind::Raft), (16, EngineKind::Paxos)] {
        let (mut world, meta, first) = five(seed, engine);
        let others: Vec<usize> = (0..5)
            .filter(|host| *host != first && *host != meta)
            .collect();
        let (second, observer) = (others[0], others[1]);
        let name = |host: usize| format!("n{}", host + 1);
        let sends = Call::Placement(Placement::Move {
            name: "pods".to_owned(),
            from: None,
            to: vec![name(second)],
        });
        operate(&mut world, meta, sends).expect("it may");
        world.run_until(Duration::from_secs(60), "it has moved", |world| {
            !is_open(world, first) && is_open(world, second)
        });
        observe_by(&mut world, meta, &name(observer), true).expect("it may");
        until_here(&mut world, observer);
        must_put(&mut world, second, "a", "2");
        world.run_until(Duration::from_secs(20), "it sleeps", |world| {
            sleeps(world, second) && sleeps(world, observer)
        });
        world.pause(second);
        for observes in [false, true] {
            observe_by(&mut world, meta, &name(observer), observes).expect("it may");
        }
        world.run(Duration::from_millis(20));
        world.resume(second);
        world.run(Duration::from_millis(20));
        until_here(&mut world, observer);
        let read = value(world.ask(observer, get("a", true)));
        assert_eq!(read.as_deref(), Some("2"), "{engine:?}");
    }
}
