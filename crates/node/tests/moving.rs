//! Keyspaces that get from some nodes to others: when told to, when a node dies or comes back, and
//! when one is emptied.

use std::time::Duration;

use base::GroupId;
use consensus::EngineKind;
use journal::disk::File;
use quorate_node::{Answer, Call, Config, Placement};

mod support;

use support::World;
use support::keyspaces::{
    at_rest, create, get, hosts_of, must_get, must_put, nodes, operate, put, refused, sends, small,
    status, tend,
};

fn has_nothing_of(world: &mut World, host: usize, group: GroupId) {
    let running = world.node(host).running().expect("it runs");
    assert!(running.group(group).is_none(), "host {host} has it open");
    let files = world.disk_of(host).list();
    let left = files.iter().find(|(file, _)| match file {
        File::Checkpoint(id, _) | File::PartialCheckpoint(id, _) => *id == group,
        _ => false,
    });
    assert_eq!(left, None, "host {host}");
}

/// So much that the log of the group does not reach back to its beginning.
fn fill(world: &mut World, host: usize, keyspace: &str) {
    let value = "v".repeat(1000);
    for round in 0..60 {
        must_put(world, host, keyspace, &format!("k{}", round % 7), &value);
    }
}

#[test]
fn a_keyspace_moves_with_all_it_holds_and_who_leaves_keeps_nothing() {
    for (seed, engine) in [(1, EngineKind::Raft), (2, EngineKind::Paxos)] {
        let mut world = nodes(seed, 5);
        tend(&mut world, 0, 300, false);
        create(&mut world, "pods", 3, engine);
        world.run(Duration::from_secs(1));
        let before = status(&mut world, 0, "pods");
        let holders = hosts_of(&before);
        fill(&mut world, holders[0], "pods");
        must_put(&mut world, holders[0], "pods", "a", "before");
        // Each in turn, so that the leader is among them.
        let free: Vec<usize> = (0..5).filter(|host| !holders.contains(host)).collect();
        operate(&mut world, free[0], sends("pods", holders[0], free[0]));
        at_rest(&mut world, 0, "pods");
        operate(&mut world, free[0], sends("pods", holders[1], free[1]));
        at_rest(&mut world, 0, "pods");
        operate(&mut world, free[0], sends("pods", holders[2], holders[0]));
        let after = at_rest(&mut world, 0, "pods");
        let mut expected = [holders[0], free[0], free[1]];
        expected.sort_unstable();
        assert_eq!(after, expected);
        for host in after {
            let value = must_get(&mut world, host, "pods", "a");
            assert_eq!(value.as_deref(), Some("before"), "host {host}");
        }
        must_put(&mut world, free[1], "pods", "b", "after");
        for host in [holders[1], holders[2]] {
            has_nothing_of(&mut world, host, before.group);
            match world.ask(host, get("pods", "a")) {
                Answer::Etcd(Err(error)) => assert_eq!(error, etcd::Error::KeyspaceElsewhere),
                other => panic!("{other:?}"),
            }
        }
        // It all stands on the disks.
        (0..5).for_each(|host| world.kill(host));
        (0..5).for_each(|host| world.start(host));
        world.wait_for_leader();
        world.run(Duration::from_secs(2));
        let value = must_get(&mut world, free[0], "pods", "b");
        assert_eq!(value.as_deref(), Some("after"));
        has_nothing_of(&mut world, holders[1], before.group);
    }
}

#[test]
fn a_keyspace_with_one_replica_moves_as_well() {
    for (seed, engine) in [(3, EngineKind::Raft), (4, EngineKind::Paxos)] {
        let mut world = nodes(seed, 3);
        tend(&mut world, 0, 300, false);
        create(&mut world, "alone", 1, engine);
        world.run(Duration::from_secs(1));
        let before = status(&mut world, 0, "alone");
        let from = hosts_of(&before)[0];
        let to = (from + 1) % 3;
        must_put(&mut world, from, "alone", "a", "1");
        operate(&mut world, 0, sends("alone", from, to));
        assert_eq!(at_rest(&mut world, 0, "alone"), [to]);
        assert_eq!(must_get(&mut world, to, "alone", "a").as_deref(), Some("1"));
        has_nothing_of(&mut world, from, before.group);
        // And back, to a node that has forgotten what it promised.
        operate(&mut world, 0, sends("alone", to, from));
        assert_eq!(at_rest(&mut world, 0, "alone"), [from]);
        must_put(&mut world, from, "alone", "a", "2");
        has_nothing_of(&mut world, to, before.group);
    }
}

#[test]
fn a_move_that_cannot_go_on_is_cancelled() {
    let mut world = nodes(5, 5);
    tend(&mut world, 0, 300, false);
    create(&mut world, "pods", 3, EngineKind::Raft);
    world.run(Duration::from_secs(1));
    let holders = hosts_of(&status(&mut world, 0, "pods"));
    let to = (0..5)
        .find(|host| !holders.contains(host))
        .expect("of five");
    world.kill(to);
    world.wait_for_leader();
    let through = holders[1];
    operate(&mut world, through, sends("pods", holders[0], to));
    world.run(Duration::from_secs(3));
    let moving = status(&mut world, through, "pods").moving;
    let moving = moving.expect("it waits for its new node");
    assert_eq!(moving.to.len(), 3);
    assert!(!moving.is_leaving);
    must_put(&mut world, holders[0], "pods", "a", "1");
    let name = "pods".to_owned();
    let cancel = || Placement::Cancel { name: name.clone() };
    operate(&mut world, through, Call::Placement(cancel()));
    assert_eq!(at_rest(&mut world, through, "pods"), holders);
    assert!(refused(&mut world, through, cancel()).contains("is not moving"));
    // The node that was to hold it learns that it shall not.
    world.start(to);
    world.run(Duration::from_secs(2));
    let group = status(&mut world, through, "pods").group;
    has_nothing_of(&mut world, to, group);
}

/// A node that is told late of the table does not close a replica that has got a vote again.
#[test]
fn nobody_closes_what_has_come_back_before_it_heard_that_it_had_gone() {
    for (seed, engine) in [(13, EngineKind::Raft), (14, EngineKind::Paxos)] {
        let mut configs: Vec<Config> = (0..5).map(|each| small(each, 5)).collect();
        // Each entry is executed in a pass of its own.
        configs
            .iter_mut()
            .for_each(|config| config.limits.execution_bytes = 1);
        let mut world = World::new(seed, configs);
        world.restless_max = 1000;
        (0..5).for_each(|host| world.start(host));
        let leader = world.wait_for_leader();
        tend(&mut world, 0, 300, false);
        create(&mut world, "pods", 3, engine);
        world.run(Duration::from_secs(1));
        let before = status(&mut world, leader, "pods");
        let holders = hosts_of(&before);
        let late = *holders.iter().find(|host| **host != leader).expect("three");
        let free = (0..5)
            .find(|host| !holders.contains(host))
            .expect("of five");
        must_put(&mut world, late, "pods", "a", "1");
        operate(&mut world, leader, sends("pods", late, free));
        for _ in 0..100 {
            let moving = status(&mut world, leader, "pods").moving;
            if moving.expect("it moves").is_leaving {
                break;
            }
            world.run(Duration::from_millis(100));
        }
        world.run(Duration::from_millis(500));
        world.deaf.insert((late, quorate_node::group::META));
        assert!(!at_rest(&mut world, leader, "pods").contains(&late));
        operate(&mut world, leader, sends("pods", free, late));
        world.run(Duration::from_secs(5));
        world.deaf.clear();
        let holds = |world: &World| {
            let running = world.node(late).running();
            running.is_some_and(|running| running.group(before.group).is_some())
        };
        let own = world.identity_of(late).expect("it has started").node;
        let votes = |world: &World| {
            (0..5).filter(|host| *host != late).any(|host| {
                let running = world.node(host).running();
                let group = running.and_then(|each| each.group(before.group));
                group.is_some_and(|group| {
                    let (_, membership) = group.engine().membership_in_force();
                    group.leads() && membership.is_voter(own)
                })
            })
        };
        assert!(holds(&world), "it has not heard that it shall not");
        let mut has_voted = false;
        for _ in 0..10_000 {
            world.step();
            has_voted |= votes(&world);
            assert!(!has_voted || holds(&world), "it counts, and has closed");
        }
        assert!(at_rest(&mut world, leader, "pods").contains(&late));
        assert_eq!(
            must_get(&mut world, late, "pods", "a").as_deref(),
            Some("1")
        );
    }
}

/// Who leaves a keyspace is removed only once it has heard so, and answered what it was asked.
#[test]
fn no_call_is_lost_at_a_node_that_hears_late_that_it_leaves() {
    for (seed, engine) in [(16, EngineKind::Raft), (17, EngineKind::Paxos)] {
        let mut world = nodes(seed, 5);
        let leader = world.wait_for_leader();
        create(&mut world, "pods", 3, engine);
        world.run(Duration::from_secs(1));
        let holders = hosts_of(&status(&mut world, leader, "pods"));
        let leads = status(&mut world, holders[0], "pods").leader;
        let leads = leads.expect("somebody leads");
        let mut others = holders.iter().filter(|host| **host != leader);
        let late = others.find(|host| format!("n{}", *host + 1) != leads);
        let late = *late.expect("three hold it");
        let free = (0..5)
            .find(|host| !holders.contains(host))
            .expect("of five");
        operate(&mut world, leader, sends("pods", late, free));
        world.deaf.insert((late, quorate_node::group::META));
        let mut calls = Vec::new();
        for number in 0..60 {
            calls.push(world.call(late, put("pods", &format!("k{number}"), "v")));
            world.run(Duration::from_millis(100));
        }
        let moving = status(&mut world, leader, "pods").moving;
        assert!(moving.expect("it waits").is_leaving);
        world.deaf.clear();
        let after = at_rest(&mut world, leader, "pods");
        assert!(!after.contains(&late), "{after:?}");
        for (number, call) in calls.into_iter().enumerate() {
            let answer = world.answer(call);
            assert!(
                matches!(answer, Some(Answer::Etcd(Ok(_)))),
                "call {number}: {answer:?}"
            );
        }
    }
}

/// Where an operator has turned a keyspace back, it stays.
#[test]
fn what_an_operator_turns_back_is_not_sent_again_to_even_things_out() {
    let mut world = nodes(15, 4);
    tend(&mut world, 0, 300, false);
    for name in ["a", "b", "c", "d"] {
        create(&mut world, name, 1, EngineKind::Raft);
    }
    world.run(Duration::from_secs(1));
    // All on one node, as nobody would place them.
    for name in ["a", "b", "c", "d"] {
        let call = Call::Placement(Placement::Move {
            name: name.to_owned(),
            from: None,
            to: vec!["n1".to_owned()],
        });
        world.ask(0, call);
        at_rest(&mut world, 0, name);
    }
    tend(&mut world, 0, 300, true);
    let mut cancelled = 0;
    for _ in 0..100 {
        world.run(Duration::from_millis(20));
        for name in ["a", "b", "c", "d"] {
            let moving = status(&mut world, 0, name).moving;
            if moving.is_some_and(|moving| !moving.is_leaving && moving.to != ["n1"]) {
                let name = name.to_owned();
                let call = Call::Placement(Placement::Cancel { name });
                cancelled += usize::from(matches!(world.ask(0, call), Answer::Operator(Ok(_))));
            }
        }
    }
    assert!(cancelled > 0, "something was sent elsewhere");
    world.run(Duration::from_secs(10));
    let mut on_first = 0;
    for name in ["a", "b", "c", "d"] {
        on_first += usize::from(at_rest(&mut world, 0, name) == [0]);
    }
    assert!(
        on_first >= cancelled.max(2),
        "{on_first} of {cancelled} stay"
    );
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let mut world = nodes(6, 4);
    tend(&mut world, 0, 300, false);
    create(&mut world, "pods", 3, EngineKind::Raft);
    let holders = hosts_of(&status(&mut world, 0, "pods"));
    let free = (0..4)
        .find(|host| !holders.contains(host))
        .expect("of four");
    let name = |host: usize| format!("n{}", host + 1);
    let moved = |from: Option<usize>, to: Vec<String>| Placement::Move {
        name: "pods".to_owned(),
        from: from.map(name),
        to,
    };
    for (placement, reason) in [
        (moved(None, vec!["n9".to_owned()]), "no member is called n9"),
        (moved(None, vec![name(0), name(1)]), "1, 3, 5 or 7"),
        (moved(Some(free), vec![name(free)]), "holds no replica"),
        (
            moved(Some(holders[0]), vec![name(holders[1])]),
            "a node of its own",
        ),
        (
            moved(None, holders.iter().copied().map(name).collect()),
            "is there already",
        ),
        (Placement::Apply { epoch: Some(77) }, "epoch 77"),
        (
            Placement::Explain {
                name: "nothing".to_owned(),
            },
            "no keyspace",
        ),
        (
            Placement::Drain {
                node: "n1".to_owned(),
                is_draining: false,
            },
            "not being emptied",
        ),
    ] {
        let text = format!("{placement:?}");
        let told = refused(&mut world, 1, placement);
        assert!(told.contains(reason), "{text}: {told}");
    }
}

#[test]
fn a_dead_node_is_replaced_and_cleaned_when_it_returns() {
    for (seed, engine) in [(7, EngineKind::Raft), (8, EngineKind::Paxos)] {
        let mut world = nodes(seed, 5);
        tend(&mut world, 0, 5, true);
        for name in ["pods", "events", "jobs"] {
            create(&mut world, name, 3, engine);
        }
        world.run(Duration::from_secs(1));
        let victim = hosts_of(&status(&mut world, 0, "pods"))[0];
        let through = (victim + 1) % 5;
        let group = status(&mut world, through, "pods").group;
        let holders = hosts_of(&status(&mut world, through, "pods"));
        let other = *holders
            .iter()
            .find(|host| **host != victim)
            .expect("two are left");
        must_put(&mut world, other, "pods", "a", "1");
        world.kill(victim);
        world.wait_for_leader();
        world.run(Duration::from_secs(4));
        let still = hosts_of(&status(&mut world, through, "pods"));
        assert_eq!(still, holders, "it may come back");
        world.run(Duration::from_secs(6));
        for name in ["pods", "events", "jobs"] {
            let now = at_rest(&mut world, through, name);
            assert!(!now.contains(&victim), "{name} is on {now:?}");
            assert_eq!(now.len(), 3);
        }
        let new = at_rest(&mut world, through, "pods");
        for host in new {
            assert_eq!(
                must_get(&mut world, host, "pods", "a").as_deref(),
                Some("1")
            );
        }
        // Nothing is left of it there, unless it has got it again as its share.
        tend(&mut world, through, 5, false);
        world.start(victim);
        world.run(Duration::from_secs(3));
        has_nothing_of(&mut world, victim, group);
        // Once it counts again, it takes its share.
        tend(&mut world, through, 5, true);
        world.run(Duration::from_secs(20));
        let mut held = [0; 5];
        for name in ["pods", "events", "jobs"] {
            for host in at_rest(&mut world, through, name) {
                held[host] += 1;
                must_put(&mut world, host, name, "b", "2");
            }
        }
        assert!(held.iter().all(|count| (1..=2).contains(count)), "{held:?}");
    }
}

#[test]
fn a_node_is_emptied_and_takes_its_share_again() {
    let mut world = nodes(9, 4);
    tend(&mut world, 0, 300, true);
    for name in ["a", "b", "c", "d"] {
        create(&mut world, name, 3, EngineKind::Raft);
    }
    world.run(Duration::from_secs(1));
    let drain = |is_draining| {
        Call::Placement(Placement::Drain {
            node: "n2".to_owned(),
            is_draining,
        })
    };
    operate(&mut world, 0, drain(true));
    world.run(Duration::from_secs(15));
    for name in ["a", "b", "c", "d"] {
        let now = at_rest(&mut world, 0, name);
        assert_eq!(now, [0, 2, 3], "{name}");
        must_put(&mut world, 2, name, "key", "value");
    }
    assert_ne!(world.wait_for_leader(), 1, "it leads nothing");
    // Of the three that are left none can be spared.
    let other = Placement::Drain {
        node: "n3".to_owned(),
        is_draining: true,
    };
    assert!(refused(&mut world, 0, other).contains("cannot be emptied"));
    operate(&mut world, 0, drain(false));
    world.run(Duration::from_secs(20));
    let mut held = 0;
    for name in ["a", "b", "c", "d"] {
        held += usize::from(at_rest(&mut world, 0, name).contains(&1));
    }
    assert_eq!(held, 3, "twelve replicas on four nodes");
}

#[test]
fn a_node_that_gets_its_vote_takes_its_share() {
    let mut configs: Vec<Config> = (0..3).map(|each| small(each, 3)).collect();
    let mut joins = small(3, 4);
    joins.cluster = Vec::new();
    joins.join = vec!["host0:2380".to_owned()];
    configs.push(joins);
    let mut world = World::new(12, configs);
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    tend(&mut world, 0, 300, true);
    for name in ["a", "b", "c", "d"] {
        create(&mut world, name, 3, EngineKind::Raft);
    }
    let add = Call::MemberAdd {
        name: "n4".to_owned(),
        peer_address: "host3:2380".to_owned(),
        is_witness: false,
    };
    operate(&mut world, 0, add);
    world.start(3);
    world.run(Duration::from_secs(15));
    assert!(
        !at_rest(&mut world, 0, "a").contains(&3),
        "a learner holds nothing"
    );
    let promote = Call::MemberPromote {
        member: "n4".to_owned(),
    };
    operate(&mut world, 0, promote);
    world.run(Duration::from_secs(20));
    let mut held = 0;
    for name in ["a", "b", "c", "d"] {
        let hosts = at_rest(&mut world, 0, name);
        held += usize::from(hosts.contains(&3));
        must_put(&mut world, hosts[2], name, "key", "value");
    }
    assert_eq!(held, 3, "twelve replicas on four nodes");
}

#[test]
fn leaders_are_spread() {
    let mut world = nodes(10, 3);
    tend(&mut world, 0, 300, true);
    for each in 0..6 {
        create(
            &mut world,
            &format!("space-{each}"),
            3,
            EngineKind::ALL[each % 2],
        );
    }
    world.run(Duration::from_secs(40));
    let mut led = [0; 3];
    for each in 0..6 {
        let status = status(&mut world, 0, &format!("space-{each}"));
        let leader = status.leader.expect("somebody leads");
        led[leader[1..].parse::<usize>().expect("names count") - 1] += 1;
    }
    assert_eq!(led, [2, 2, 2]);
}

#[test]
fn plans_say_what_would_move_and_why() {
    let mut world = World::new(11, (0..4).map(|each| zoned(each, 4)).collect());
    (0..4).for_each(|host| world.start(host));
    world.wait_for_leader();
    tend(&mut world, 0, 300, false);
    world.run(Duration::from_secs(3));
    create(&mut world, "pods", 3, EngineKind::Raft);
    let plan = |world: &mut World| operate(world, 1, Call::Placement(Placement::Plan));
    let text = plan(&mut world);
    assert!(text.contains("nothing has to move"), "{text}");
    // Two in each of two zones: three replicas need both.
    let holders = hosts_of(&status(&mut world, 0, "pods"));
    assert!(holders.iter().any(|host| host % 2 == 0), "{holders:?}");
    assert!(holders.iter().any(|host| host % 2 == 1), "{holders:?}");
    create(&mut world, "alone", 1, EngineKind::Raft);
    world.run(Duration::from_secs(1));
    let explain = Placement::Explain {
        name: "pods".to_owned(),
    };
    let text = operate(&mut world, 2, Call::Placement(explain));
    assert!(text.contains("zone even"), "{text}");
    assert!(text.contains("holds it"), "{text}");
}

/// A node in one of two zones.
fn zoned(index: usize, count: usize) -> Config {
    let mut config = small(index, count);
    config.domains.zone = ["even", "odd"][index % 2].to_owned();
    config
}

/// As a server starts without any setting.
fn by_default(seed: u64, count: usize) -> World {
    let mut configs: Vec<_> = (0..count).map(|each| small(each, count)).collect();
    for config in &mut configs {
        config.tending = quorate_node::Tending::default();
    }
    let mut world = World::new(seed, configs);
    (0..count).for_each(|host| world.start(host));
    world.wait_for_leader();
    world
}

/// Everything is on by default, and where there is nothing to do, nothing is done: on one node, on
/// three that hold all of it, and while nodes are restarted.
#[test]
fn by_default_nothing_moves_without_need() {
    let mut alone = by_default(20, 1);
    create(&mut alone, "a", 1, EngineKind::Raft);
    alone.run(Duration::from_secs(400));
    assert_eq!(at_rest(&mut alone, 0, "a"), [0]);
    must_put(&mut alone, 0, "a", "k", "1");

    let mut three = by_default(21, 3);
    create(&mut three, "a", 3, EngineKind::Raft);
    three.kill(2);
    three.run(Duration::from_secs(400));
    assert_eq!(
        at_rest(&mut three, 0, "a"),
        [0, 1, 2],
        "nobody could take over"
    );
    must_put(&mut three, 0, "a", "k", "1");
    three.start(2);
    three.run(Duration::from_secs(20));
    assert_eq!(at_rest(&mut three, 2, "a"), [0, 1, 2]);
    assert_eq!(must_get(&mut three, 2, "a", "k").as_deref(), Some("1"));

    let mut five = by_default(22, 5);
    for name in ["a", "b", "c", "d", "e"] {
        create(&mut five, name, 3, EngineKind::Raft);
    }
    let places = |world: &mut World| -> Vec<Vec<usize>> {
        let names = ["a", "b", "c", "d", "e"].into_iter();
        let place = |name| at_rest(&mut *world, 0, name);
        names.map(place).collect()
    };
    five.run(Duration::from_secs(20));
    let before = places(&mut five);
    for host in 0..5 {
        five.kill(host);
        five.run(Duration::from_secs(60));
        five.start(host);
        five.run(Duration::from_secs(20));
    }
    assert_eq!(places(&mut five), before, "restarts move nothing");
    // And one that does not come back is replaced.
    let lost = before[0][0];
    let through = (lost + 1) % 5;
    five.kill(lost);
    five.run(Duration::from_secs(290));
    let here = at_rest(&mut five, through, "a");
    assert_eq!(here, before[0], "five minutes are not over");
    five.run(Duration::from_secs(60));
    let now = at_rest(&mut five, through, "a");
    assert!(!now.contains(&lost) && now.len() == 3, "{now:?}");
}
