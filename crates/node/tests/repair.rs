//! Damage on one disk of three: the node comes back by itself, and counts again.

use std::collections::BTreeSet;
use std::time::Duration;

use base::{GroupId, Random, Slot};
use bytes::Bytes;
use consensus::{EngineKind, Membership};
use etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use journal::disk::File;
use quorate_node::running::scrubbing::ScrubLimits;
use quorate_node::{Answer, Call, Halt, Placement};
use state::{CheckpointReader, CheckpointWriter, EntryStamp, Space};

mod support;

use support::{World, config};

/// Longer than any election and repair here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn put(world: &mut World, host: usize, key: &str) {
    let request = etcd::Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::from(vec![b'v'; 300]),
        ..Default::default()
    });
    match world.ask(host, Call::Etcd(request)) {
        Answer::Etcd(Ok(_)) => {}
        other => panic!(
            "put of {key} through {host}: {other:?}\n{}",
            world.picture()
        ),
    }
}

fn has(world: &mut World, host: usize, key: &str) -> bool {
    let request = etcd::Request::Range(RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..Default::default()
    });
    match world.ask(host, Call::Etcd(request)) {
        Answer::Etcd(Ok(etcd::Response::Range(response))) => !response.kvs.is_empty(),
        other => panic!(
            "get of {key} through {host}: {other:?}\n{}",
            world.picture()
        ),
    }
}

/// Three nodes with small files, or one.
fn world(seed: u64, count: usize, engine: EngineKind) -> World {
    let mut configs: Vec<_> = (0..count).map(|each| config(each, count)).collect();
    for config in &mut configs {
        config.engine = Some(engine);
        config.limits.checkpoint_log_bytes = 16 << 10;
        config.limits.journal.segment_bytes = 32 << 10;
        config.limits.journal.batch_bytes_max = 8 << 10;
    }
    let mut world = World::new(seed, configs);
    (0..count).for_each(|host| world.start(host));
    world.wait_for_leader();
    world
}

fn files(world: &mut World, host: usize, wanted: fn(&File) -> bool) -> Vec<(File, u64)> {
    let mut files = world.disk_of(host).list();
    files.retain(|(file, _)| wanted(file));
    files
}

fn is_segment(file: &File) -> bool {
    matches!(file, File::Segment(_))
}

/// Its journal is damaged where all of it depends on that.
fn lose_journal(world: &mut World, host: usize) {
    for (file, _) in files(world, host, is_segment) {
        world.disk_of(host).flip(file, 700);
    }
}

fn is_checkpoint(file: &File) -> bool {
    matches!(file, File::Checkpoint(..))
}

/// Nothing on this host is in doubt, and its log has followed the leader's.
fn is_whole(world: &World, host: usize) -> bool {
    let running = world.is_running(host).then(|| world.node(host).running());
    running.flatten().is_some_and(|running| {
        running.groups().all(|(_, group)| !group.is_in_doubt())
            && running.replica().applied() > Slot(0)
    })
}

/// The damaged host comes back, and makes a majority with each of the others alone.
fn comes_back(world: &mut World, host: usize, keys: usize) {
    world.run_until(PATIENCE, "it is whole again", |world| is_whole(world, host));
    for other in 0..3 {
        if other == host {
            continue;
        }
        world.kill(other);
        put(world, host, &format!("without {other}"));
        for key in 0..keys {
            assert!(has(world, host, &format!("key{key}")), "key{key}");
        }
        world.start(other);
        // It has to hold what was written without it before the next one is stopped.
        world.run(Duration::from_secs(5));
        put(world, other, &format!("with {other}"));
    }
}

#[test]
fn any_damage_of_a_stopped_node_is_repaired() {
    for engine in EngineKind::ALL.iter().copied() {
        for seed in 0..24 {
            let mut world = world(seed, 3, engine);
            let mut random = Random::from_seed(seed);
            let keys = 20 + random.below(200) as usize;
            for key in 0..keys {
                put(&mut world, key % 3, &format!("key{key}"));
            }
            let host = random.below(3) as usize;
            world.kill(host);
            for _ in 0..=random.below(3) {
                let all = files(&mut world, host, |file| {
                    is_segment(file) || is_checkpoint(file)
                });
                let (file, length) = all[random.below(all.len() as u64) as usize];
                let at = random.below(length) as usize;
                world.disk_of(host).flip(file, at);
            }
            put(&mut world, (host + 1) % 3, "meanwhile");
            world.start(host);
            comes_back(&mut world, host, keys);
        }
    }
}

#[test]
fn a_node_that_has_lost_its_journal_or_its_checkpoints_comes_back() {
    for engine in EngineKind::ALL.iter().copied() {
        for lost in [is_segment as fn(&File) -> bool, is_checkpoint] {
            let mut world = world(7, 3, engine);
            for key in 0..150 {
                put(&mut world, key % 3, &format!("key{key}"));
            }
            world.kill(1);
            let gone = files(&mut world, 1, lost);
            assert!(!gone.is_empty());
            for (file, _) in gone {
                world.disk_of(1).remove(file);
            }
            world.start(1);
            world.run_until(PATIENCE, "it runs", |world| world.is_running(1));
            comes_back(&mut world, 1, 150);
        }
    }
}

/// Whatever it voted in is over: a node without its promises goes on behind all of them.
#[test]
fn lost_promises_are_never_given_again() {
    for engine in EngineKind::ALL.iter().copied() {
        let mut world = world(3, 3, engine);
        put(&mut world, 0, "key0");
        let bound = world.identity_of(1).expect("it has one").epochs;
        world.kill(1);
        lose_journal(&mut world, 1);
        world.start(1);
        comes_back(&mut world, 1, 1);
        let running = world.node(1).running().expect("it runs");
        assert!(running.engine().glance().epoch >= bound);
        let identity = world.identity_of(1).expect("it has one");
        assert!(
            identity.epochs > running.engine().glance().epoch,
            "{identity:?}"
        );
        assert!(!identity.is_doubtful, "the first group is all there is");
    }
}

/// Whoever led goes on behind all that may have been promised, without an election timeout.
#[test]
fn who_lost_its_promises_keeps_nobody_waiting() {
    for engine in EngineKind::ALL.iter().copied() {
        let mut world = world(6, 3, engine);
        put(&mut world, 0, "key0");
        let leads = world.leader().expect("somebody leads");
        let lost = (leads + 1) % 3;
        world.kill(lost);
        lose_journal(&mut world, lost);
        world.start(lost);
        let mut without = 0;
        for _ in 0..2_000 {
            world.run(Duration::from_millis(1));
            without += u32::from(world.leader().is_none());
        }
        assert_eq!(world.leader(), Some(leads), "{engine}");
        assert!(without < 50, "{engine}: {without} ms without a leader");
    }
}

/// A vote waits until the identity file says that there may be one: should the journal be lost
/// right after it, the next one must not be of the same epoch.
#[test]
fn nothing_is_promised_beyond_what_the_identity_file_says() {
    for engine in EngineKind::ALL.iter().copied() {
        let mut configs: Vec<_> = (0..3).map(|each| config(each, 3)).collect();
        for config in &mut configs {
            config.engine = Some(engine);
            // Four elections: in Multi-Paxos the lower byte of a ballot says whose it is.
            config.limits.epochs_ahead = match engine {
                EngineKind::Raft => 4,
                EngineKind::Paxos => 4 << 8,
            };
        }
        let mut world = World::new(4, configs);
        (0..3).for_each(|host| world.start(host));
        world.wait_for_leader();
        world.kill(2);
        put(&mut world, 0, "key0");
        world.disk_of(0).keeps_identity = true;
        let bound = world.identity_of(0).expect("it has one").epochs;
        let is_beyond = |world: &World| {
            let running = world.node(0).running().expect("it runs");
            running.engine().glance().epoch >= bound
        };
        // Nobody is elected without a vote of the first host, which is asked for again and again.
        for _ in 0..8 {
            world.kill(1);
            world.run(Duration::from_secs(3));
            world.start(1);
            world.run(Duration::from_secs(3));
            let has_leader = world.leader().is_some();
            assert!(!has_leader || !is_beyond(&world), "{engine}: it has voted");
        }
        assert!(is_beyond(&world), "{engine}: it was asked");
        world.disk_of(0).keeps_identity = false;
        world.wait_for_leader();
        put(&mut world, 0, "key1");
        assert!(world.identity_of(0).expect("it has one").epochs > bound);
    }
}

/// A keyspace that is over had promises here, which the lost journal said were let go of. Executing
/// the table's history again from its beginning must not make a replica of it that knows nothing
/// of them.
#[test]
fn what_was_over_when_the_journal_was_lost_does_not_rise_again() {
    for engine in EngineKind::ALL.iter().copied() {
        let mut configs: Vec<_> = (0..3).map(|each| config(each, 3)).collect();
        for config in &mut configs {
            config.engine = Some(engine);
        }
        let mut world = World::new(5, configs);
        (0..3).for_each(|host| world.start(host));
        world.wait_for_leader();
        let name = "pods".to_owned();
        let create = Call::KeyspaceCreate {
            names: vec![name.clone()],
            replicas: 3,
            engine,
            quorums: None,
        };
        for call in [create, Call::KeyspaceDrop { name }] {
            let answer = world.ask(0, call);
            assert!(matches!(answer, Answer::Operator(Ok(_))), "{answer:?}");
            world.run(Duration::from_secs(2));
        }
        world.kill(1);
        lose_journal(&mut world, 1);
        world.start(1);
        put(&mut world, 0, "key0");
        world.run_until(PATIENCE, "it is whole again", |world| {
            is_whole(world, 1) && !world.identity_of(1).expect("it has one").is_doubtful
        });
        world.kill(1);
        // Now the table changes in small steps, as it did at first.
        world.config_of(1).limits.execution_bytes = 1;
        world.start(1);
        let applied = |world: &World, host: usize| {
            let running = world.is_running(host).then(|| world.node(host).running());
            running.flatten().map(|each| each.replica().applied())
        };
        while applied(&world, 1) < applied(&world, 0) {
            assert!(world.step(), "{engine}: it catches up");
            let running = world.is_running(1).then(|| world.node(1).running());
            let groups = running.flatten().map_or(0, |each| each.groups().count());
            assert!(groups <= 1, "{engine}: what was over has risen");
        }
    }
}

#[test]
fn damage_is_found_and_mended_while_the_node_runs() {
    for wanted in [is_segment as fn(&File) -> bool, is_checkpoint] {
        let mut world = world(5, 3, EngineKind::Raft);
        world.kill(1);
        world.config_of(1).limits.scrub = ScrubLimits {
            bytes_per_second: 1 << 20,
            chunk_bytes: 4 << 10,
            rest: Duration::from_millis(100),
        };
        world.start(1);
        for key in 0..150 {
            put(&mut world, key % 3, &format!("key{key}"));
        }
        world.run(Duration::from_secs(2));
        assert_eq!(world.node(1).metrics().damage_found, 0);
        assert!(world.node(1).metrics().scrub_rounds > 0);
        let (file, _) = files(&mut world, 1, wanted)[0];
        world.disk_of(1).flip(file, 1500);
        world.run_until(PATIENCE, "it is found", |world| {
            world.node(1).metrics().damage_found == 1
        });
        // What takes its place has to be written.
        for key in 150..300 {
            put(&mut world, key % 3, &format!("key{key}"));
        }
        world.run(Duration::from_secs(5));
        assert_eq!(world.node(1).metrics().damage_found, 1);
        world.kill(1);
        world.start(1);
        world.run_until(PATIENCE, "it is whole", |world| is_whole(world, 1));
        let metrics = world.node(1).metrics();
        assert_eq!((metrics.damage_found, metrics.doubts_ended), (0, 0));
        comes_back(&mut world, 1, 300);
    }
}

/// Gives every checkpoint of a stopped node another state, under checksums that are right: one in
/// which the next entry has done something else.
fn forge(world: &mut World, host: usize) {
    forge_of(world, host, is_checkpoint);
}

/// The same with some of them.
fn forge_of(world: &mut World, host: usize, wanted: fn(&File) -> bool) {
    for (file, _) in files(world, host, wanted) {
        let mut reader = CheckpointReader::new(state::Limits::default());
        reader
            .feed(&world.disk_of(host).read(file))
            .expect("it is intact");
        let (mut state, head, _) = reader.finish().expect("it is whole");
        let group = head.group;
        let stamp = EntryStamp {
            slot: state.reader().applied().next(),
            epoch: state.reader().epoch(),
            wall: state.reader().wall(),
            elapsed: Duration::ZERO,
        };
        state.begin_entry(&stamp);
        let mut transaction = state.transaction();
        transaction.set_row(Space::SYSTEM, b"wrong", b"very");
        transaction.commit();
        assert!(state.end_entry().is_empty(), "no client sees anything");
        let limits = state::Limits::default();
        let mut writer = CheckpointWriter::new(state.snapshot(), head, limits);
        let mut forged = Vec::new();
        while let Some(block) = writer.next_block() {
            forged.extend_from_slice(&block);
        }
        world.disk_of(host).remove(file);
        let file = File::Checkpoint(group, stamp.slot);
        world.disk_of(host).replace(file, forged);
    }
}

/// A state that is wrong although every checksum is right is given up, and had from the others,
/// whoever leads: nobody has to do anything but start the process again.
#[test]
fn a_wrong_state_is_replaced() {
    for engine in EngineKind::ALL.iter().copied() {
        for seed in 0..6 {
            let mut world = world(seed, 3, engine);
            for key in 0..150 {
                put(&mut world, key % 3, &format!("key{key}"));
            }
            let host = match seed % 2 {
                0 => world.wait_for_leader(),
                _ => (world.wait_for_leader() + 1) % 3,
            };
            world.kill(host);
            forge(&mut world, host);
            world.start(host);
            world.run_until(PATIENCE, "it runs", |world| world.is_running(host));
            put(&mut world, (host + 1) % 3, "something to compare");
            world.run_until(PATIENCE, "it gives up", |world| !world.is_running(host));
            match world.halted(host) {
                Some(Halt::Again(reason)) => {
                    assert!(
                        reason.contains("differs from that of the majority"),
                        "{reason}"
                    );
                }
                other => panic!("expected to start again, not {other:?}"),
            }
            let left = files(&mut world, host, is_checkpoint);
            assert!(left.is_empty(), "{left:?}");
            world.start(host);
            comes_back(&mut world, host, 150);
            world.run(Duration::from_secs(3));
            let digest = |host: usize| world.node(host).status().digest;
            assert_eq!(digest(host), digest((host + 1) % 3), "{}", world.picture());
        }
    }
}

/// Nothing needs to be written for that: a node that was away is compared when it is back.
#[test]
fn a_wrong_state_is_found_though_nothing_happens() {
    for engine in EngineKind::ALL.iter().copied() {
        let mut world = world(3, 3, engine);
        for key in 0..150 {
            put(&mut world, key % 3, &format!("key{key}"));
        }
        let host = (world.wait_for_leader() + 1) % 3;
        world.run(Duration::from_secs(5));
        world.kill(host);
        forge(&mut world, host);
        world.start(host);
        world.run_until(PATIENCE, "it gives up", |world| !world.is_running(host));
        assert!(matches!(world.halted(host), Some(Halt::Again(_))));
        world.start(host);
        comes_back(&mut world, host, 150);
    }
}

/// Nor is its keyspace awake: it sleeps again as soon as the node has been brought up.
#[test]
fn a_wrong_state_is_found_though_its_keyspace_sleeps() {
    let pods = GroupId(1);
    for (engine, leads) in EngineKind::ALL.iter().flat_map(|engine| {
        let engine = *engine;
        [(engine, false), (engine, true)]
    }) {
        let mut world = world(4, 3, engine);
        let call = Call::KeyspaceCreate {
            names: vec!["pods".to_owned()],
            replicas: 3,
            engine,
            quorums: None,
        };
        assert!(matches!(world.ask(0, call), Answer::Operator(Ok(_))));
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
            let answer = world.ask(key % 3, call);
            assert!(matches!(answer, Answer::Etcd(Ok(_))), "{answer:?}");
        }
        let group = |world: &World, host: usize| -> Option<(bool, bool, u128)> {
            let running = world.is_running(host).then(|| world.node(host).running());
            let group = running.flatten()?.group(pods)?;
            let digest = group.replica().digest();
            Some((group.fell_asleep(), group.leads(), digest))
        };
        let sleeps = |world: &World, host| group(world, host).is_some_and(|(sleeps, ..)| sleeps);
        let all_sleep = |world: &World| (0..3).all(|host| sleeps(world, host));
        world.run_until(PATIENCE, "all sleep", all_sleep);
        let leader = (0..3).find(|host| group(&world, *host).is_some_and(|(_, leads, _)| leads));
        let host = (leader.expect("it is led") + usize::from(!leads)) % 3;
        world.kill(host);
        world.run(Duration::from_secs(10));
        forge_of(&mut world, host, |file| {
            matches!(file, File::Checkpoint(GroupId(1), _))
        });
        world.start(host);
        world.run_until(PATIENCE, "it gives up", |world| !world.is_running(host));
        assert!(matches!(world.halted(host), Some(Halt::Again(_))));
        world.start(host);
        world.run_until(PATIENCE, "all sleep again", all_sleep);
        let digests = (0..3).map(|host| group(&world, host).map(|(.., digest)| digest));
        let digests: BTreeSet<Option<u128>> = digests.collect();
        assert_eq!(digests.len(), 1, "{engine:?}");
    }
}

#[test]
fn a_node_alone_refuses_and_changes_nothing() {
    let mut world = world(9, 1, EngineKind::Raft);
    for key in 0..20 {
        put(&mut world, 0, &format!("key{key}"));
    }
    world.kill(0);
    let (file, _) = files(&mut world, 0, is_segment)[0];
    world.disk_of(0).flip(file, 700);
    let before = world.disk_of(0).list();
    for _ in 0..2 {
        world.start(0);
        world.run(Duration::from_secs(1));
        match world.halted(0) {
            Some(Halt::Refused(reason)) => {
                assert!(reason.contains("is damaged at byte"), "{reason}")
            }
            other => panic!("expected a refusal, not {other:?}"),
        }
        assert_eq!(world.disk_of(0).list(), before);
    }
    world.disk_of(0).flip(file, 700);
    world.start(0);
    world.wait_for_leader();
    assert!(has(&mut world, 0, "key19"));
}

/// A cluster of three that began with one node.
fn grown(seed: u64, engine: EngineKind) -> World {
    let configs = (0..3).map(|index| {
        let mut config = config(index, if index == 0 { 1 } else { 3 });
        config.engine = Some(engine);
        config.limits.checkpoint_log_bytes = 16 << 10;
        config.limits.journal.segment_bytes = 32 << 10;
        config.limits.journal.batch_bytes_max = 8 << 10;
        if index > 0 {
            config.cluster = Vec::new();
            config.join = vec!["host0:2380".to_owned()];
        }
        config
    });
    let mut world = World::new(seed, configs.collect());
    world.start(0);
    world.wait_for_leader();
    for host in 1..3 {
        let name = format!("n{}", host + 1);
        let add = Call::MemberAdd {
            name: name.clone(),
            peer_address: format!("host{host}:2380"),
            is_witness: false,
        };
        assert!(matches!(world.ask(0, add), Answer::Operator(Ok(_))));
        world.start(host);
        world.run_until(PATIENCE, "it has joined", |world| {
            world.is_running(host)
                && world.node(host).running().is_some_and(|running| {
                    running.replica().applied() >= world.node(0).status().applied
                })
        });
        // What it has is known a moment later; it may have got its vote by itself by then.
        world.run(Duration::from_secs(1));
        let answer = world.ask(0, Call::MemberPromote { member: name });
        assert!(matches!(answer, Answer::Operator(Ok(_))), "{answer:?}");
        world.run(Duration::from_secs(1));
    }
    world
}

/// That others have a replica by now stands in no checkpoint any more, and in no log.
#[test]
fn who_began_alone_and_has_grown_is_repaired_by_the_others() {
    for engine in EngineKind::ALL.iter().copied() {
        let mut world = grown(11, engine);
        for key in 0..300 {
            put(&mut world, key % 3, &format!("key{key}"));
        }
        world.kill(0);
        for (file, _) in files(&mut world, 0, is_checkpoint) {
            world.disk_of(0).remove(file);
        }
        world.start(0);
        comes_back(&mut world, 0, 300);
    }
}

/// Nor is the log of the only replica dropped because its keyspace began on another node.
#[test]
fn the_only_replica_refuses_wherever_its_group_began() {
    for engine in EngineKind::ALL.iter().copied() {
        let mut world = grown(12, engine);
        for key in 0..100 {
            put(&mut world, key % 3, &format!("key{key}"));
        }
        // The first group is left to one that did not begin it.
        for member in ["n1", "n3"] {
            let member = member.to_owned();
            let removed = (0..50).any(|_| {
                world.run(Duration::from_millis(200));
                let answer = world.ask(
                    1,
                    Call::MemberRemove {
                        member: member.clone(),
                    },
                );
                matches!(&answer, Answer::Operator(Ok(_)))
                    || matches!(&answer, Answer::Operator(Err(text)) if text.contains("no member"))
            });
            assert!(removed, "{}", world.picture());
        }
        for key in 100..300 {
            put(&mut world, 1, &format!("key{key}"));
        }
        world.kill(1);
        for (file, _) in files(&mut world, 1, is_checkpoint) {
            world.disk_of(1).remove(file);
        }
        let before = world.disk_of(1).list();
        world.start(1);
        world.run(Duration::from_secs(1));
        match world.halted(1) {
            Some(Halt::Refused(reason)) => {
                assert!(reason.contains("nobody else has a replica"), "{reason}");
            }
            other => panic!("expected a refusal, not {other:?}"),
        }
        assert_eq!(world.disk_of(1).list(), before);
    }
}

/// A cluster that began with one node, and has grown before that one had any checkpoint: what the
/// identity file says of its beginning is not all there is to know.
#[test]
fn a_node_that_began_alone_is_repaired_by_those_who_came_later() {
    for engine in EngineKind::ALL.iter().copied() {
        for is_gone in [false, true] {
            let mut configs: Vec<_> = (0..3).map(|each| config(each, 3)).collect();
            for config in &mut configs {
                config.engine = Some(engine);
                config.cluster.clear();
            }
            configs[1].join = vec!["host0:2380".into()];
            configs[2].join = vec!["host0:2380".into()];
            let mut world = World::new(5, configs);
            world.start(0);
            world.wait_for_leader();
            for key in 0..20 {
                put(&mut world, 0, &format!("key{key}"));
            }
            for other in 1..3 {
                let member = format!("n{}", other + 1);
                let added = Call::MemberAdd {
                    name: member.clone(),
                    peer_address: format!("host{other}:2380"),
                    is_witness: false,
                };
                assert!(matches!(world.ask(0, added), Answer::Operator(Ok(_))));
                world.start(other);
                world.run(Duration::from_secs(3));
                let promoted = world.ask(0, Call::MemberPromote { member });
                assert!(matches!(promoted, Answer::Operator(Ok(_))), "{promoted:?}");
            }
            world.run(Duration::from_secs(2));
            assert!(
                files(&mut world, 0, is_checkpoint).is_empty(),
                "it has none"
            );
            assert!(world.identity_of(0).expect("it has one").has_others);
            world.kill(0);
            for (file, length) in files(&mut world, 0, is_segment) {
                match is_gone {
                    true => world.disk_of(0).remove(file),
                    false => world.disk_of(0).flip(file, length.min(700) as usize),
                }
            }
            put(&mut world, 1, "meanwhile");
            world.start(0);
            world.run_until(PATIENCE, "it is whole again", |world| {
                let identity = world.identity_of(0).expect("it has one");
                assert!(identity.has_others, "{engine}: though its log begins anew");
                is_whole(world, 0)
            });
            comes_back(&mut world, 0, 20);
        }
    }
}

/// Two of three have been replaced, and the third one has lost its state and moved. Its replica
/// begins with the members of that time, by which the log is executed, although it looks for those
/// who have come since.
#[test]
fn a_replica_in_doubt_has_the_members_of_its_slot_and_looks_for_the_newest() {
    for engine in EngineKind::ALL.iter().copied() {
        let configs = (0..5).map(|index| {
            let mut config = config(index, 3);
            config.engine = Some(engine);
            config.limits.checkpoint_log_bytes = 16 << 10;
            config.limits.journal.segment_bytes = 32 << 10;
            config.limits.journal.batch_bytes_max = 8 << 10;
            if index > 2 {
                config.cluster = Vec::new();
                config.join = vec!["host0:2380".to_owned()];
            }
            config
        });
        let mut world = World::new(17, configs.collect());
        (0..3).for_each(|host| world.start(host));
        world.wait_for_leader();
        put(&mut world, 0, "first");
        let members = |world: &World| {
            let running = world.node(0).running().expect("it runs");
            let (since, in_force) = running.engine().membership_in_force();
            let executed = (running.replica().applied(), running.replica().membership());
            let voters = |membership: &Membership| membership.voters.clone();
            ((since, voters(in_force)), (executed.0, voters(executed.1)))
        };
        let (_, (_, first)) = members(&world);
        for host in 3..5 {
            let (name, left) = (format!("n{}", host + 1), host - 2);
            let add = Call::MemberAdd {
                name: name.clone(),
                peer_address: format!("host{host}:2380"),
                is_witness: false,
            };
            assert!(matches!(world.ask(0, add), Answer::Operator(Ok(_))));
            world.start(host);
            let member = name;
            let has_vote = (0..50).any(|_| {
                world.run(Duration::from_millis(200));
                let member = member.clone();
                let answer = world.ask(0, Call::MemberPromote { member });
                matches!(&answer, Answer::Operator(Ok(_)))
            });
            assert!(has_vote, "{engine}: {}", world.picture());
            let member = format!("n{}", left + 1);
            let removed = world.ask(0, Call::MemberRemove { member });
            assert!(matches!(removed, Answer::Operator(Ok(_))), "{removed:?}");
            world.run_until(PATIENCE, "it has gone", |world| !world.is_running(left));
        }
        for key in 0..300 {
            put(&mut world, 0, &format!("key{key}"));
        }
        let ((_, now), _) = members(&world);
        assert!(now.len() == 3 && now != first, "{now:?}");
        world.kill(0);
        for (file, _) in files(&mut world, 0, is_checkpoint) {
            world.disk_of(0).remove(file);
        }
        // Nobody finds it: it has to find the others.
        world.config_of(0).peer_address = Some("host9:2380".to_owned());
        world.start(0);
        world.run_until(PATIENCE, "it runs", |world| {
            let node = world.is_running(0).then(|| world.node(0));
            node.is_some_and(|node| node.running().is_some())
        });
        let began = ((Slot(0), first.clone()), (Slot(0), first));
        assert_eq!(members(&world), began, "{engine}");
        world.run_until(PATIENCE, "it is whole again", |world| is_whole(world, 0));
        let ((_, in_force), (_, executed)) = members(&world);
        assert_eq!((&in_force, &executed), (&now, &now), "{engine}");
        world.kill(3);
        put(&mut world, 0, "without n4");
    }
}

/// Its keyspace moved while it was away, from all whom it knows, and those who hold it now sleep.
/// It may not ask for votes, so that they have to hear that it is back.
#[test]
fn a_replica_in_doubt_that_knows_none_of_the_others_is_brought_up() {
    let pods = GroupId(1);
    for engine in EngineKind::ALL.iter().copied() {
        let mut world = world(6, 5, engine);
        let create = Call::KeyspaceCreate {
            names: vec!["pods".to_owned()],
            replicas: 3,
            engine,
            quorums: None,
        };
        assert!(matches!(world.ask(0, create), Answer::Operator(Ok(_))));
        world.run(Duration::from_secs(5));
        let group = |world: &World, host: usize| -> Option<(bool, bool, Slot)> {
            let running = world.is_running(host).then(|| world.node(host).running());
            let group = running.flatten()?.group(pods)?;
            let applied = group.replica().applied();
            Some((group.fell_asleep(), group.is_in_doubt(), applied))
        };
        let has = |world: &World, host| group(world, host).is_some();
        let (holders, others): (Vec<usize>, Vec<usize>) =
            (0..5).partition(|host| has(&world, *host));
        let away = holders[0];
        world.kill(away);
        lose_journal(&mut world, away);
        let asked = others[0];
        let to = [away, others[0], others[1]].map(|host| format!("n{}", host + 1));
        let call = Call::Placement(Placement::Move {
            name: "pods".to_owned(),
            from: None,
            to: to.to_vec(),
        });
        let answer = world.ask(asked, call);
        assert!(matches!(answer, Answer::Operator(Ok(_))), "{answer:?}");
        world.run_until(PATIENCE, "it has moved, and sleeps", |world| {
            let sleeps = |host: &usize| group(world, *host).is_some_and(|(sleeps, ..)| sleeps);
            others.iter().all(sleeps) && holders.iter().all(|host| !has(world, *host))
        });
        world.start(away);
        world.run_until(PATIENCE, "it has what the others have", |world| {
            let (there, here) = (group(world, asked), group(world, away));
            here.is_some_and(|(_, in_doubt, applied)| {
                !in_doubt && there.is_some_and(|(.., other)| applied == other)
            })
        });
    }
}
