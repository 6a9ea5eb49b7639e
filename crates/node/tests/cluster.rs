//! Whole clusters in a simulated world: forming, writing, losing nodes, joining, recovering.

use std::time::Duration;

use bytes::Bytes;
use etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use quorate_node::{Answer, Call, Halt};

mod support;

use support::{World, config};

fn put(key: &str, value: &str) -> Call {
    Call::Etcd(etcd::Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
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

fn must_put(world: &mut World, host: usize, key: &str, value: &str) {
    match world.ask(host, put(key, value)) {
        Answer::Etcd(Ok(_)) => {}
        other => panic!(
            "put of {key} through {host}: {other:?}\n{}",
            world.picture()
        ),
    }
}

fn must_get(world: &mut World, host: usize, key: &str, serializable: bool) -> Option<String> {
    match world.ask(host, get(key, serializable)) {
        Answer::Etcd(Ok(etcd::Response::Range(response))) => response
            .kvs
            .first()
            .map(|pair| String::from_utf8(pair.value.to_vec()).expect("values are text here")),
        other => panic!(
            "get of {key} through {host}: {other:?}\n{}",
            world.picture()
        ),
    }
}

fn refusal(world: &World, host: usize) -> String {
    match world.halted(host) {
        Some(Halt::Refused(reason)) => reason.clone(),
        other => panic!("expected a refusal, not {other:?}\n{}", world.picture()),
    }
}

#[test]
fn one_node_serves_and_remembers_after_a_kill() {
    let mut world = World::cluster(1, 1);
    world.wait_for_leader();
    must_put(&mut world, 0, "a", "1");
    assert_eq!(must_get(&mut world, 0, "a", false).as_deref(), Some("1"));
    world.kill(0);
    world.start(0);
    world.wait_for_leader();
    assert_eq!(must_get(&mut world, 0, "a", false).as_deref(), Some("1"));
}

#[test]
fn three_nodes_form_and_every_node_takes_writes_and_reads() {
    let mut world = World::cluster(2, 3);
    world.wait_for_leader();
    for host in 0..3 {
        must_put(&mut world, host, &format!("key{host}"), "x");
    }
    for host in 0..3 {
        for other in 0..3 {
            let value = must_get(&mut world, host, &format!("key{other}"), false);
            assert_eq!(value.as_deref(), Some("x"));
        }
    }
    world.run(Duration::from_millis(300));
    let digests: Vec<u128> = (0..3)
        .map(|host| world.node(host).status().digest)
        .collect();
    assert!(
        digests.windows(2).all(|pair| pair[0] == pair[1]),
        "{digests:?}"
    );
}

#[test]
fn nothing_is_lost_when_leaders_are_killed_again_and_again() {
    for seed in 0..6 {
        let mut world = World::cluster(100 + seed, 3);
        let mut written = 0;
        for _ in 0..5 {
            let leader = world.wait_for_leader();
            for _ in 0..20 {
                let key = format!("key{written}");
                must_put(&mut world, written % 3, &key, &key);
                written += 1;
            }
            world.kill(leader);
            let other = (leader + 1) % 3;
            // A write sent into the gap is answered once there is a new leader.
            let key = format!("key{written}");
            must_put(&mut world, other, &key, &key);
            written += 1;
            world.start(leader);
        }
        world.wait_for_leader();
        world.run(Duration::from_secs(1));
        for host in 0..3 {
            for key in (0..written).map(|number| format!("key{number}")) {
                assert_eq!(must_get(&mut world, host, &key, true).as_ref(), Some(&key));
            }
        }
    }
}

#[test]
fn writes_go_on_while_the_leader_is_paused_and_it_catches_up() {
    let mut world = World::cluster(7, 3);
    let leader = world.wait_for_leader();
    must_put(&mut world, leader, "a", "1");
    world.pause(leader);
    let other = (leader + 1) % 3;
    let before = world.now;
    must_put(&mut world, other, "a", "2");
    let gap = world.now - before;
    assert!(gap < Duration::from_secs(2), "writes paused for {gap:?}");
    world.resume(leader);
    world.run(Duration::from_secs(1));
    assert_eq!(
        must_get(&mut world, leader, "a", false).as_deref(),
        Some("2")
    );
}

#[test]
fn a_killed_leader_is_replaced_within_half_a_second() {
    let mut gaps = Vec::new();
    for seed in 0..10 {
        let mut world = World::cluster(200 + seed, 3);
        let leader = world.wait_for_leader();
        must_put(&mut world, leader, "a", "1");
        world.run(Duration::from_millis(137 * seed));
        world.kill(leader);
        let before = world.now;
        must_put(&mut world, (leader + 1) % 3, "a", "2");
        gaps.push(world.now - before);
    }
    gaps.sort();
    // Simulated time: this does not depend on the machine's speed.
    assert!(gaps[5] < Duration::from_millis(500), "{gaps:?}");
    assert!(gaps[9] < Duration::from_secs(1), "{gaps:?}");
}

#[test]
fn an_isolated_leader_serves_no_linearizable_read() {
    let mut world = World::cluster(8, 3);
    let leader = world.wait_for_leader();
    must_put(&mut world, leader, "a", "old");
    world.isolate(leader, true);
    let other = (leader + 1) % 3;
    must_put(&mut world, other, "a", "new");
    assert_eq!(
        must_get(&mut world, leader, "a", true).as_deref(),
        Some("old"),
        "it may be stale"
    );
    match world.ask(leader, get("a", false)) {
        Answer::Etcd(Err(_)) => {}
        other => panic!("an isolated node answered a linearizable read: {other:?}"),
    }
    world.isolate(leader, false);
    world.run(Duration::from_secs(2));
    assert_eq!(
        must_get(&mut world, leader, "a", false).as_deref(),
        Some("new")
    );
}

#[test]
fn a_wiped_node_is_refused_and_can_be_replaced() {
    let mut world = World::cluster(9, 3);
    world.wait_for_leader();
    must_put(&mut world, 0, "a", "1");
    world.kill(2);
    world.wipe(2);
    world.start(2);
    world.run(Duration::from_secs(1));
    let reason = refusal(&world, 2);
    assert!(reason.contains("quorate member remove n3"), "{reason}");

    // Asking to join under the old name does not help either: the old vote is still counted.
    let address = config(0, 3).peer_address.expect("it has one");
    world.config_of(2).cluster.clear();
    world.config_of(2).join = vec![address];
    world.start(2);
    world.run(Duration::from_secs(1));
    let reason = refusal(&world, 2);
    assert!(reason.contains("member remove n3"), "{reason}");

    let leader = world.wait_for_leader();
    let remove = Call::MemberRemove {
        member: "n3".into(),
    };
    assert!(matches!(
        world.ask(1 - leader.min(1), remove),
        Answer::Operator(Ok(_))
    ));
    let peer_address = config(2, 3).peer_address.expect("it has one");
    let add = Call::MemberAdd {
        name: "n3".into(),
        peer_address,
        is_witness: false,
    };
    assert!(matches!(world.ask(0, add), Answer::Operator(Ok(_))));
    world.start(2);
    world.run_until(Duration::from_secs(10), "the new n3 catches up", |world| {
        world.is_running(2) && world.node(2).status().revision == 2
    });
    let promote = Call::MemberPromote {
        member: "n3".into(),
    };
    match world.ask(0, promote) {
        Answer::Operator(Ok(_)) => {}
        other => panic!("{other:?}\n{}", world.picture()),
    }
    // Now the cluster survives the loss of one of the others.
    let leader = world.wait_for_leader();
    world.kill(leader);
    let other = (0..2).find(|host| *host != leader).expect("one is left");
    must_put(&mut world, other, "a", "2");
    world.run(Duration::from_millis(500));
    assert_eq!(must_get(&mut world, 2, "a", true).as_deref(), Some("2"));
}

#[test]
fn checkpoints_are_written_and_loaded_and_sent_to_a_learner() {
    let mut world = World::new(10, (0..4).map(|each| config(each, 3)).collect());
    for host in 0..4 {
        let limits = &mut world.config_of(host).limits;
        limits.checkpoint_log_bytes = 16 << 10;
        limits.journal.segment_bytes = 64 << 10;
    }
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    for number in 0..200 {
        must_put(
            &mut world,
            number % 3,
            &format!("key{number}"),
            &"v".repeat(1000),
        );
    }
    world.run(Duration::from_secs(1));
    for host in 0..3 {
        assert!(
            world.node(host).metrics().checkpoints_written > 1,
            "{}",
            world.picture()
        );
    }
    let leader = world.wait_for_leader();
    world.kill(leader);
    world.start(leader);
    world.wait_for_leader();
    assert!(must_get(&mut world, leader, "key0", false).is_some());

    let address = config(0, 3).peer_address.expect("it has one");
    world.config_of(3).cluster.clear();
    world.config_of(3).join = vec![address];
    let peer_address = config(3, 4).peer_address.expect("it has one");
    let add = Call::MemberAdd {
        name: "n4".into(),
        peer_address,
        is_witness: false,
    };
    assert!(matches!(world.ask(1, add), Answer::Operator(Ok(_))));
    world.start(3);
    world.run_until(Duration::from_secs(20), "the learner catches up", |world| {
        world.is_running(3) && world.node(3).status().revision == 201
    });
    assert!(must_get(&mut world, 3, "key199", true).is_some());
    let digest = |world: &World, host: usize| world.node(host).status().digest;
    world.run(Duration::from_secs(1));
    assert_eq!(digest(&world, 3), digest(&world, 0));
    // The learner's own restart finds what it received.
    world.kill(3);
    world.start(3);
    world.run(Duration::from_secs(2));
    assert_eq!(digest(&world, 3), digest(&world, 0), "{}", world.picture());
}

#[test]
fn a_stopping_leader_hands_over_and_halts_in_order() {
    let mut world = World::cluster(11, 3);
    let leader = world.wait_for_leader();
    must_put(&mut world, leader, "a", "1");
    let call = world.call(leader, put("a", "2"));
    world.shutdown(leader);
    world.run_until(Duration::from_secs(2), "the stop", |world| {
        world.halted(leader).is_some()
    });
    assert_eq!(world.halted(leader), Some(&Halt::Stopped));
    assert!(
        matches!(world.answer(call), Some(Answer::Etcd(Ok(_)))),
        "it was under way"
    );
    let before = world.now;
    must_put(&mut world, (leader + 1) % 3, "a", "3");
    assert!(
        world.now - before < Duration::from_millis(300),
        "nobody had to time out"
    );
}

#[test]
fn all_nodes_lose_power_at_once_and_come_back() {
    for seed in 0..5 {
        let mut world = World::cluster(300 + seed, 3);
        world.wait_for_leader();
        for number in 0..30 {
            must_put(&mut world, number % 3, &format!("key{number}"), "v");
        }
        (0..10).for_each(|number| {
            world.call(number % 3, put(&format!("late{number}"), "v"));
        });
        world.run(Duration::from_micros(400));
        (0..3).for_each(|host| world.kill(host));
        (0..3).for_each(|host| world.start(host));
        world.wait_for_leader();
        for number in 0..30 {
            assert!(must_get(&mut world, 0, &format!("key{number}"), false).is_some());
        }
    }
}

fn checkpoints(world: &mut World, host: usize) -> Vec<(journal::disk::File, u64)> {
    let mut files = world.disk_of(host).list();
    files.retain(|(file, _)| matches!(file, journal::disk::File::Checkpoint(..)));
    files
}

#[test]
fn a_damaged_checkpoint_falls_back_on_the_older_one_and_a_node_alone_needs_one() {
    let mut world = World::new(12, vec![config(0, 1)]);
    let limits = &mut world.config_of(0).limits;
    limits.checkpoint_log_bytes = 8 << 10;
    limits.journal.segment_bytes = 16 << 10;
    world.start(0);
    world.wait_for_leader();
    for number in 0..100 {
        must_put(&mut world, 0, &format!("key{number}"), &"v".repeat(500));
    }
    world.run(Duration::from_secs(1));
    world.kill(0);
    let kept = checkpoints(&mut world, 0);
    assert_eq!(kept.len(), 2, "two are kept");
    let (newest, length) = kept[1];
    world.disk_of(0).flip(newest, length as usize / 2);
    world.start(0);
    world.wait_for_leader();
    assert!(must_get(&mut world, 0, "key99", false).is_some());
    // By now it has written a new one in place of the damaged one.
    world.run(Duration::from_secs(1));
    world.kill(0);
    for (file, length) in checkpoints(&mut world, 0) {
        world.disk_of(0).flip(file, length as usize / 3);
    }
    world.start(0);
    world.run(Duration::from_secs(1));
    let reason = refusal(&world, 0);
    assert!(reason.contains("what is missing is lost here"), "{reason}");
    assert!(reason.contains(".checkpoint: "), "{reason}");
}

/// Reads of a checkpoint are under way several at a time, and this disk answers them in any order;
/// those of a damaged one are still under way when the older one is begun.
#[test]
fn a_checkpoint_is_read_in_small_pieces_whatever_order_they_come_in() {
    for (seed, reads) in [(31, 1), (32, 4), (33, 64)] {
        let mut world = World::new(seed, vec![config(0, 1)]);
        let limits = &mut world.config_of(0).limits;
        limits.checkpoint_log_bytes = 8 << 10;
        limits.checkpoint_chunk_bytes = 512;
        limits.recovery_reads = reads;
        limits.journal.segment_bytes = 64 << 10;
        world.start(0);
        world.wait_for_leader();
        for number in 0..100 {
            must_put(&mut world, 0, &format!("key{number}"), &"v".repeat(500));
        }
        world.run(Duration::from_secs(1));
        for damage in [false, true] {
            world.kill(0);
            let (newest, length) = checkpoints(&mut world, 0).pop().expect("there are two");
            assert!(length > 16 << 10, "it takes many reads: {length}");
            if damage {
                world.disk_of(0).flip(newest, length as usize / 2);
            }
            world.start(0);
            world.wait_for_leader();
            let value = must_get(&mut world, 0, "key99", false);
            assert_eq!(value.map(|value| value.len()), Some(500));
            assert_eq!(world.node(0).status().revision, 101);
        }
    }
}

#[test]
fn the_lost_journal_of_a_node_alone_is_refused() {
    let mut world = World::cluster(13, 1);
    world.wait_for_leader();
    must_put(&mut world, 0, "a", "1");
    world.kill(0);
    let identity = world.disk_of(0).identity.clone();
    world.wipe(0);
    world.disk_of(0).identity = identity;
    world.start(0);
    world.run(Duration::from_secs(1));
    assert!(refusal(&world, 0).contains("the journal of this node is gone"));
}

#[test]
fn a_node_alone_grows_into_a_cluster() {
    let mut world = World::new(14, vec![config(0, 1), config(1, 2)]);
    world.config_of(0).peer_address = None;
    world.start(0);
    world.wait_for_leader();
    must_put(&mut world, 0, "a", "1");
    let peer_address = config(1, 2).peer_address.expect("it has one");
    let add = || Call::MemberAdd {
        name: "n2".into(),
        peer_address: peer_address.clone(),
        is_witness: false,
    };
    match world.ask(0, add()) {
        Answer::Operator(Err(reason)) => assert!(reason.contains("--listen-peer"), "{reason}"),
        other => panic!("{other:?}"),
    }
    // Started again with a peer address, it tells the membership and takes members.
    world.kill(0);
    world.config_of(0).peer_address = config(0, 2).peer_address;
    world.start(0);
    world.wait_for_leader();
    world.run(Duration::from_secs(2));
    assert_eq!(world.node(0).status().members[0].peer_address, "host0:2380");
    assert!(matches!(world.ask(0, add()), Answer::Operator(Ok(_))));
    // Its vote would be needed, and could not be had.
    let promote = Call::MemberPromote {
        member: "n2".into(),
    };
    match world.ask(0, promote) {
        Answer::Operator(Err(reason)) => assert!(reason.contains("has not joined"), "{reason}"),
        other => panic!("{other:?}"),
    }
    must_put(&mut world, 0, "a", "1");
    world.config_of(1).cluster.clear();
    world.config_of(1).join = vec!["host0:2380".into()];
    world.start(1);
    world.run_until(Duration::from_secs(10), "n2 catches up", |world| {
        world.is_running(1) && world.node(1).status().revision == 3
    });
    let promote = Call::MemberPromote {
        member: "n2".into(),
    };
    assert!(
        matches!(world.ask(1, promote), Answer::Operator(Ok(_))),
        "{}",
        world.picture()
    );
    must_put(&mut world, 1, "a", "2");
    assert_eq!(must_get(&mut world, 0, "a", false).as_deref(), Some("2"));
}

#[test]
fn a_write_without_a_quorum_times_out_and_nobody_spins() {
    let mut world = World::cluster(15, 3);
    let leader = world.wait_for_leader();
    must_put(&mut world, leader, "a", "1");
    let follower = (leader + 1) % 3;
    let third = (leader + 2) % 3;
    world.kill(third);
    world.kill(leader);
    // The follower has lost its connection, but does not know yet that nobody leads.
    world.run(Duration::from_millis(1));
    let before = world.now;
    match world.ask(follower, put("a", "2")) {
        Answer::Etcd(Err(error)) => assert_eq!(error, etcd::Error::Timeout),
        other => panic!("{other:?}"),
    }
    assert!(world.now - before >= Duration::from_secs(7));
    world.run(Duration::from_secs(5));
    world.start(leader);
    world.start(third);
    world.wait_for_leader();
    must_put(&mut world, follower, "a", "3");
}

#[test]
fn a_full_disk_stops_checkpoints_but_not_the_node_and_they_are_not_tried_all_the_time() {
    let mut world = World::new(16, vec![config(0, 1)]);
    world.config_of(0).limits.checkpoint_log_bytes = 8 << 10;
    world.start(0);
    world.wait_for_leader();
    world.disk_of(0).refuses_checkpoints = true;
    for number in 0..100 {
        must_put(&mut world, 0, &format!("key{number}"), &"v".repeat(500));
    }
    world.run(Duration::from_secs(10));
    let failed = world.node(0).metrics().checkpoints_failed;
    assert!(
        (2..=6).contains(&failed),
        "tried {failed} times in ten seconds"
    );
    world.disk_of(0).refuses_checkpoints = false;
    world.run(Duration::from_secs(20));
    assert_eq!(world.node(0).metrics().checkpoints_written, 1);
}

#[test]
fn large_writes_through_a_follower_are_bounded_on_their_way_and_all_arrive() {
    let mut world = World::cluster(17, 3);
    let leader = world.wait_for_leader();
    let follower = (leader + 1) % 3;
    let value = "v".repeat(200 << 10);
    let calls: Vec<_> = (0..300)
        .map(|number| world.call(follower, put(&format!("key{number}"), &value)))
        .collect();
    world.run(Duration::from_secs(6));
    for call in calls {
        match world.answer(call) {
            Some(Answer::Etcd(Ok(_))) => {}
            other => panic!("{other:?}\n{}", world.picture()),
        }
    }
    assert!(
        world.largest_burst < 24 << 20,
        "{} bytes at once",
        world.largest_burst
    );
}

/// Each put adds one to the key's version, so the version counts executions.
#[test]
fn every_command_executes_at_most_once_under_kills_and_tiny_limits() {
    for seed in 0..8 {
        let mut world = World::new(400 + seed, (0..3).map(|each| config(each, 3)).collect());
        for host in 0..3 {
            let limits = &mut world.config_of(host).limits;
            limits.entry_commands = 2;
            limits.queued_commands = 4;
            limits.consensus.window_entries = 2;
            limits.calls.window_bytes = 200;
            limits.calls.resend_after = Duration::from_millis(30);
            limits.checkpoint_log_bytes = 16 << 10;
        }
        (0..3).for_each(|host| world.start(host));
        world.wait_for_leader();
        let mut calls = Vec::new();
        for round in 0..12 {
            for host in (0..3).filter(|host| *host != round % 3 || round % 2 == 0) {
                if world.is_running(host) {
                    calls.extend((0..10).map(|_| world.call(host, put("counter", "x"))));
                }
            }
            world.run(Duration::from_millis(7));
            if round % 3 == 1 {
                let leader = world.wait_for_leader();
                world.kill(leader);
                world.run(Duration::from_millis(60));
                world.start(leader);
            }
        }
        world.wait_for_leader();
        world.run(Duration::from_secs(10));
        let issued = calls.len() as i64;
        let is_done = |answer: Option<Answer>| matches!(answer, Some(Answer::Etcd(Ok(_))));
        let done = calls
            .into_iter()
            .filter(|call| is_done(world.answer(*call)))
            .count() as i64;
        assert!(
            done > issued / 3,
            "{done} of {issued}: too few to mean anything"
        );
        let version = match world.ask(0, get("counter", false)) {
            Answer::Etcd(Ok(etcd::Response::Range(response))) => response.kvs[0].version,
            other => panic!("{other:?}"),
        };
        assert!(
            (done..=issued).contains(&version),
            "seed {seed}: {done} acknowledged, {version} executed, {issued} asked for"
        );
    }
}

#[test]
fn a_stopping_leader_asks_another_if_its_first_choice_has_died() {
    for seed in 0..4 {
        let mut world = World::cluster(500 + seed, 3);
        let leader = world.wait_for_leader();
        must_put(&mut world, leader, "a", "1");
        let dead = (leader + 1 + seed as usize % 2) % 3;
        world.isolate(dead, true);
        world.shutdown(leader);
        let before = world.now;
        world.run_until(Duration::from_secs(4), "the stop", |world| {
            world.halted(leader).is_some()
        });
        let waited = world.now - before;
        assert!(
            waited < Duration::from_secs(2),
            "it waited {waited:?}: nobody took over"
        );
        assert_eq!(world.halted(leader), Some(&Halt::Stopped));
    }
}

#[test]
fn a_follower_with_a_stuck_disk_forgets_nothing_that_its_log_does_not_hold_yet() {
    let mut world = World::new(18, (0..3).map(|each| config(each, 3)).collect());
    for host in 0..3 {
        world.config_of(host).limits.checkpoint_log_bytes = 8 << 10;
    }
    (0..3).for_each(|host| world.start(host));
    let leader = world.wait_for_leader();
    let follower = (leader + 1) % 3;
    for number in 0..30 {
        must_put(
            &mut world,
            leader,
            &format!("key{number}"),
            &"v".repeat(500),
        );
    }
    world.run(Duration::from_secs(1));
    let written = world.node(follower).metrics().checkpoints_written;
    world.disk_of(follower).is_stuck = true;
    for number in 30..130 {
        must_put(
            &mut world,
            leader,
            &format!("key{number}"),
            &"v".repeat(500),
        );
    }
    // It executes what the others have chosen, although nothing of it is durable here.
    world.run(Duration::from_secs(1));
    assert!(must_get(&mut world, follower, "key129", true).is_some());
    assert_eq!(world.node(follower).metrics().checkpoints_written, written);
    world.kill(follower);
    world.disk_of(follower).is_stuck = false;
    world.start(follower);
    world.run(Duration::from_secs(2));
    let digest = |world: &World, host: usize| world.node(host).status().digest;
    assert_eq!(digest(&world, follower), digest(&world, leader));
}

#[test]
fn an_acknowledgement_leaves_with_the_write_and_waits_for_no_pass_of_its_node() {
    let mut world = World::cluster(23, 3);
    let leader = world.wait_for_leader();
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    must_put(&mut world, leader, "key", "before");
    world.run(Duration::from_secs(1));
    world.kill(other);
    let asked = world.call(leader, put("key", "value"));
    while !world.is_acknowledging(follower) {
        assert!(world.answer(asked).is_none(), "nobody else has it");
        assert!(world.step());
    }
    world.pause(follower);
    let asked_at = world.now;
    let answer = loop {
        if let Some(answer) = world.answer(asked) {
            break answer;
        }
        assert!(world.step());
    };
    assert!(matches!(answer, Answer::Etcd(Ok(_))), "{answer:?}");
    assert!(world.now.since(asked_at) < Duration::from_millis(50));
    world.resume(follower);
    world.run(Duration::from_secs(1));
    let value = must_get(&mut world, follower, "key", false);
    assert_eq!(value.as_deref(), Some("value"));
}

/// Votes come by themselves, and an even number of them is passed through, not stopped at.
#[test]
fn a_cluster_grows_by_itself_from_one_to_three_to_five() {
    let mut configs: Vec<_> = (0..5).map(|each| config(each, 5)).collect();
    configs.iter_mut().for_each(|config| config.cluster.clear());
    for config in &mut configs[1..] {
        config.join = vec!["host0:2380".into()];
    }
    let mut world = World::new(31, configs);
    world.start(0);
    world.wait_for_leader();
    let voters = |world: &World| {
        let members = world.node(0).status().members;
        members.iter().filter(|member| member.voter).count()
    };
    let joins = |world: &mut World, host: usize| {
        let name = format!("n{}", host + 1);
        let add = Call::MemberAdd {
            name: name.clone(),
            peer_address: format!("host{host}:2380"),
            is_witness: false,
        };
        assert!(matches!(world.ask(0, add), Answer::Operator(Ok(_))));
        let grow = Call::MemberGrow { name };
        assert!(matches!(world.ask(0, grow), Answer::Operator(Ok(_))));
        // Nothing waits for one that has not joined.
        must_put(world, 0, "a", "1");
        world.start(host);
        world.run(Duration::from_secs(10));
    };
    for (host, expected) in [(1, 1), (2, 3), (3, 3), (4, 5)] {
        joins(&mut world, host);
        assert_eq!(voters(&world), expected, "after n{}", host + 1);
    }
    world.kill(1);
    world.kill(2);
    world.run(Duration::from_secs(60));
    world.wait_for_leader();
    must_put(&mut world, 0, "a", "2");
    assert_eq!(voters(&world), 5, "no vote is taken away by itself");
    let unknown = Call::MemberGrow {
        name: "n9".to_owned(),
    };
    assert!(matches!(world.ask(0, unknown), Answer::Operator(Err(_))));
}
