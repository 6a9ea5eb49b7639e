//! Nodes that let go of a keyspace and get it again in the same process: nothing of before is taken
//! for something of after.

use std::time::Duration;

use consensus::EngineKind;
use quorate_node::Answer;

mod support;

use support::World;
use support::keyspaces::{
    at_rest, create, hosts_of, must_get, must_put, nodes, operate, put, sends, small, status, tend,
};

/// Four nodes, and a keyspace that stays on three of them: who these are, and who is free.
fn placed(seed: u64, engine: EngineKind) -> (World, Vec<usize>, usize) {
    let mut world = nodes(seed, 4);
    let leader = world.wait_for_leader();
    tend(&mut world, leader, 300, false);
    create(&mut world, "pods", 3, engine);
    world.run(Duration::from_secs(1));
    let holders = hosts_of(&status(&mut world, leader, "pods"));
    let mut free = (0..4).filter(|host| !holders.contains(host));
    let free = free.next().expect("of four");
    (world, holders, free)
}

/// Who holds a keyspace again, in the same process, is not taken for who it was: neither are its
/// commands repetitions of those from before, nor do the old ones answer who waits for new ones.
#[test]
fn who_holds_a_keyspace_again_is_answered_at_once_and_truly() {
    for (seed, engine) in [(18, EngineKind::Raft), (19, EngineKind::Paxos)] {
        let (mut world, holders, free) = placed(seed, engine);
        for own in holders {
            for number in 0..20 {
                must_put(&mut world, own, "pods", &format!("k{number}"), "before");
            }
            operate(&mut world, free, sends("pods", own, free));
            at_rest(&mut world, 0, "pods");
            operate(&mut world, free, sends("pods", free, own));
            // From the moment on at which its node sends it clients.
            let mut calls = Vec::new();
            for number in 0..40 {
                let key = format!("h{own}-{number}");
                calls.push((key.clone(), world.call(own, put("pods", &key, "after"))));
                world.run(Duration::from_millis(50));
            }
            at_rest(&mut world, 0, "pods");
            for number in 40..60 {
                let key = format!("h{own}-{number}");
                calls.push((key.clone(), world.call(own, put("pods", &key, "after"))));
            }
            world.run(Duration::from_secs(3));
            for (key, call) in calls {
                match world.answer(call) {
                    Some(Answer::Etcd(Ok(_))) => {
                        let value = must_get(&mut world, own, "pods", &key);
                        assert_eq!(value.as_deref(), Some("after"), "{key} of {engine:?}");
                    }
                    // Not before its clients are served here.
                    Some(Answer::Etcd(Err(error))) => {
                        assert_eq!(error, etcd::Error::KeyspaceElsewhere, "{key} of {engine:?}");
                    }
                    other => panic!("{key} of {engine:?}: {other:?}"),
                }
            }
        }
    }
}

/// Who holds a keyspace again remembers what it had promised: whoever leads goes on, and nobody has
/// to elect. So it does if it was started again meanwhile.
#[test]
fn who_holds_a_keyspace_again_deposes_nobody() {
    for (seed, engine) in [(24, EngineKind::Raft), (25, EngineKind::Paxos)] {
        for restarts in [false, true] {
            let (mut world, holders, free) = placed(seed, engine);
            let first = status(&mut world, holders[0], "pods");
            let own = holders
                .iter()
                .find(|host| first.leader != Some(format!("n{}", **host + 1)));
            let own = *own.expect("two follow");
            must_put(&mut world, holders[0], "pods", "k", "before");
            operate(&mut world, free, sends("pods", own, free));
            at_rest(&mut world, free, "pods");
            if restarts {
                world.kill(own);
                world.start(own);
                world.run(Duration::from_secs(2));
            }
            let epochs = |world: &World| {
                let groups =
                    (0..4).filter_map(|host| world.node(host).running()?.group(first.group));
                let led = groups.filter(|group| group.leads());
                led.map(|group| group.status().term).collect::<Vec<_>>()
            };
            let before = epochs(&world);
            assert_eq!(before.len(), 1, "{engine:?}");
            operate(&mut world, free, sends("pods", free, own));
            assert!(at_rest(&mut world, free, "pods").contains(&own));
            assert_eq!(
                epochs(&world),
                before,
                "{engine:?}, started again: {restarts}"
            );
            let value = must_get(&mut world, own, "pods", "k");
            assert_eq!(value.as_deref(), Some("before"));
        }
    }
}

/// What is written for a keyspace that a node lets go of becomes durable when the node has it
/// again: that says nothing of what is written then.
#[test]
fn late_writes_of_before_are_not_taken_for_those_of_after() {
    for (seed, engine) in [(20, EngineKind::Raft), (21, EngineKind::Paxos)] {
        let (mut world, holders, free) = placed(seed, engine);
        let leader = world.wait_for_leader();
        let leads = status(&mut world, holders[0], "pods")
            .leader
            .expect("somebody leads");
        let follows = |host: &&usize| **host != leader && format!("n{}", **host + 1) != leads;
        let own = *holders.iter().find(follows).expect("three hold it");
        let other = *holders
            .iter()
            .find(|host| **host != own)
            .expect("three hold it");
        world.disk_of(own).is_stuck = true;
        for number in 0..20 {
            must_put(&mut world, other, "pods", &format!("k{number}"), "before");
        }
        operate(&mut world, leader, sends("pods", own, free));
        assert!(!at_rest(&mut world, leader, "pods").contains(&own));
        operate(&mut world, leader, sends("pods", free, own));
        world.run(Duration::from_secs(2));
        world.disk_of(own).is_stuck = false;
        assert!(at_rest(&mut world, leader, "pods").contains(&own));
        must_put(&mut world, own, "pods", "k", "after");
        let value = must_get(&mut world, own, "pods", "k19");
        assert_eq!(value.as_deref(), Some("before"));
    }
}

/// A power failure leaves nothing of a group whose opening is on no disk, whatever files it has
/// received: until then it takes none, and acknowledges nothing.
#[test]
fn no_checkpoint_is_taken_before_the_opening_is_on_the_disk() {
    for (seed, engine) in [(22, EngineKind::Raft), (23, EngineKind::Paxos)] {
        let (mut world, holders, free) = placed(seed, engine);
        let leader = world.wait_for_leader();
        let group = status(&mut world, leader, "pods").group;
        // The log does not reach back to its beginning then.
        let value = "v".repeat(1000);
        for round in 0..60 {
            must_put(
                &mut world,
                holders[0],
                "pods",
                &format!("k{}", round % 7),
                &value,
            );
        }
        world.disk_of(free).is_stuck = true;
        let from = holders.into_iter().find(|host| *host != leader);
        let from = from.expect("three hold it");
        operate(&mut world, leader, sends("pods", from, free));
        world.run(Duration::from_secs(3));
        let running = world.node(free).running().expect("it runs");
        let opened = running.group(group).expect("it is open");
        assert_eq!(opened.replica().applied(), base::Slot(0), "{engine:?}");
        world.disk_of(free).is_stuck = false;
        assert!(at_rest(&mut world, leader, "pods").contains(&free));
    }
}

/// It dies at any moment after it was told to hold the keyspace again, and knows afterwards that it
/// has been here before: what it had promised, and that it lacks what it had acknowledged. Each
/// record of its journal is written by itself, so that one may be there without the next.
#[test]
fn who_dies_while_it_opens_a_keyspace_again_is_no_new_replica() {
    for (seed, engine) in [(26, EngineKind::Raft), (27, EngineKind::Paxos)] {
        let mut deaths = 0;
        for steps in 0.. {
            let mut world = World::new(seed, (0..4).map(|each| small(each, 4)).collect());
            for host in 0..4 {
                world.config_of(host).limits.journal.batch_bytes_max = 1;
                world.start(host);
            }
            let leader = world.wait_for_leader();
            tend(&mut world, leader, 300, false);
            create(&mut world, "pods", 3, engine);
            world.run(Duration::from_secs(1));
            let first = status(&mut world, leader, "pods");
            let holders = hosts_of(&first);
            let is_own = |host: &&usize| {
                **host != leader && first.leader != Some(format!("n{}", **host + 1))
            };
            let own = *holders.iter().find(is_own).expect("three hold it");
            let free = (0..4).find(|host| !holders.contains(host));
            let free = free.expect("of four");
            must_put(&mut world, own, "pods", "k", "before");
            operate(&mut world, leader, sends("pods", own, free));
            at_rest(&mut world, leader, "pods");
            let group = |world: &World| {
                let running = world.node(own).running();
                let group = running.and_then(|running| running.group(first.group));
                group.map(|group| (group.is_in_doubt(), group.status().term))
            };
            assert_eq!(group(&world), None);
            world.call(leader, sends("pods", free, own));
            (0..steps).for_each(|_| assert!(world.step()));
            if group(&world).is_some_and(|(is_in_doubt, _)| !is_in_doubt) {
                break;
            }
            world.isolate(own, true);
            world.kill(own);
            world.start(own);
            world.run(Duration::from_millis(200));
            if let Some((is_in_doubt, epoch)) = group(&world) {
                deaths += 1;
                assert!(is_in_doubt, "{engine:?}, after {steps} steps");
                assert!(epoch > base::Epoch(0), "{engine:?}, after {steps} steps");
            }
        }
        assert!(deaths > 0, "{engine:?}");
    }
}
