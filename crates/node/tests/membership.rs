//! Who may take part: folders that were lost, copied, removed or damaged, and nodes that join.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use etcd::proto::etcdserverpb::PutRequest;
use quorate_node::{Answer, Call, Halt, Standing};

mod support;

use base::{ClusterId, Incarnation, NodeId};
use consensus::{Member, Membership};
use quorate_node::group::META;
use quorate_node::wire::{Frame, GroupFrame, Hello, HelloStanding, Operation, VERSIONS};
use support::{World, config};

fn put(key: &str, value: &str) -> Call {
    Call::Etcd(etcd::Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    }))
}

fn must_put(world: &mut World, host: usize, key: &str, value: &str) {
    match world.ask(host, put(key, value)) {
        Answer::Etcd(Ok(_)) => {}
        other => panic!("put through {host}: {other:?}\n{}", world.picture()),
    }
}

fn refusal(world: &World, host: usize) -> String {
    match world.halted(host) {
        Some(Halt::Refused(reason)) => reason.clone(),
        other => panic!("expected a refusal, not {other:?}\n{}", world.picture()),
    }
}

#[test]
fn a_lost_journal_is_noticed_wherever_the_first_start_was_cut_short() {
    for steps in 0.. {
        let mut world = World::new(20, vec![config(0, 1)]);
        world.start(0);
        (0..steps).for_each(|_| {
            world.step();
        });
        let served = world.leader().is_some();
        world.kill(0);
        world.start(0);
        world.wait_for_leader();
        must_put(&mut world, 0, "a", "1");
        world.kill(0);
        let identity = world.disk_of(0).identity.clone();
        world.wipe(0);
        world.disk_of(0).identity = identity;
        world.start(0);
        world.run(Duration::from_secs(1));
        let reason = refusal(&world, 0);
        assert!(
            reason.contains("the journal of this node is gone"),
            "{reason}"
        );
        if served {
            assert!(steps > 3, "the start took only {steps} events");
            return;
        }
    }
}

#[test]
fn a_folder_that_has_promised_does_not_stand_alone() {
    let mut world = World::cluster(21, 3);
    world.run_until(Duration::from_secs(5), "a promise", |world| {
        let identity = world.identity_of(2);
        matches!(
            identity.map(|identity| &identity.standing),
            Some(Standing::Forming { .. })
        )
    });
    world.kill(2);
    world.config_of(2).cluster.clear();
    world.start(2);
    world.run(Duration::from_secs(1));
    let reason = refusal(&world, 2);
    assert!(reason.contains("--cluster"), "{reason}");
}

/// A question of the coordinator that came late, over another connection than its next one, took a
/// node back to a cluster that the coordinator had given up: it formed the newer one with that
/// node's promise, and the node refused to run ever after. Found by the simulator.
#[test]
fn a_late_question_does_not_break_the_promise_to_a_newer_one() {
    let mut world = World::cluster(32, 3);
    // Without the second node the first asks nothing by itself.
    world.kill(1);
    world.run(Duration::from_secs(1));
    let id = |host: usize| world.identity_of(host).expect("it has started").node;
    let member = |name: &str| Member {
        name: name.to_owned(),
        peer_address: String::new(),
    };
    let members: BTreeMap<NodeId, Member> = [
        (id(0), member("n1")),
        (NodeId(55), member("n2")),
        (id(2), member("n3")),
    ]
    .into();
    let genesis = Membership {
        voters: members.keys().copied().collect(),
        members,
        ..Membership::default()
    };
    let greeting = Frame::Hello(Hello {
        versions: VERSIONS,
        node: NodeId(77),
        incarnation: Incarnation(1),
        process: 1,
        standing: HelloStanding::Alone,
        name: "n1".to_owned(),
        address: "nowhere:1".to_owned(),
        is_witness: false,
    });
    for asked in [20, 10, 30] {
        let cluster = ClusterId(asked);
        let genesis = genesis.clone();
        let form = Frame::Form {
            cluster,
            genesis,
            engine: config(2, 3).engine.unwrap_or_default(),
        };
        world.whisper(2, vec![greeting.encode(), form.encode()]);
        world.run(Duration::from_millis(100));
        let promised = match &world.identity_of(2).expect("it has started").standing {
            Standing::Forming { cluster, .. } => cluster.0,
            other => panic!("{other:?}"),
        };
        assert_eq!(promised, asked.max(20));
    }
}

/// Host `host` is called `name` and asks to join through `through`.
fn joiner(world: &mut World, host: usize, through: &[usize]) {
    world.config_of(host).cluster.clear();
    world.config_of(host).join = through
        .iter()
        .map(|each| format!("host{each}:2380"))
        .collect();
}

fn add(world: &mut World, through: usize, host: usize) {
    let name = world.config_of(host).name.clone();
    let peer_address = format!("host{host}:2380");
    let asked = || Call::MemberAdd {
        name: name.clone(),
        peer_address: peer_address.clone(),
        is_witness: false,
    };
    loop {
        match world.ask(through, asked()) {
            Answer::Operator(Ok(_)) => return,
            // A leader that was just elected changes nothing before it has chosen an entry.
            Answer::Operator(Err(reason)) if reason.contains("ask again when") => {
                world.run(Duration::from_millis(5));
            }
            other => panic!("{other:?}\n{}", world.picture()),
        }
    }
}

/// Three members and a fourth host that is not started.
fn three_and_one(seed: u64) -> World {
    let mut world = World::new(seed, (0..4).map(|each| config(each, 3)).collect());
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    must_put(&mut world, 0, "a", "1");
    world
}

fn serves(world: &World, host: usize) -> bool {
    world.is_running(host) && world.node(host).status().revision > 1
}

#[test]
fn a_node_joins_through_a_member_that_lags_behind() {
    let mut world = three_and_one(22);
    let leader = world.wait_for_leader();
    let lagging = (leader + 1) % 3;
    let other = (leader + 2) % 3;
    for pair in [
        (leader, lagging),
        (lagging, leader),
        (other, lagging),
        (lagging, other),
    ] {
        world.cut.insert(pair);
    }
    add(&mut world, leader, 3);
    joiner(&mut world, 3, &[lagging]);
    world.start(3);
    world.run(Duration::from_secs(2));
    assert!(world.is_running(3), "{}", world.picture());
    world.cut.clear();
    let joined = |world: &World| serves(world, 3);
    world.run_until(Duration::from_secs(10), "n4 joins", joined);
}

#[test]
fn a_node_joins_though_one_of_those_it_asks_is_cut_off() {
    for cut_off in 0..3 {
        let mut world = three_and_one(23);
        for pair in (0..3).flat_map(|each| [(each, cut_off), (cut_off, each)]) {
            world.cut.insert(pair);
        }
        let asked = (cut_off + 1) % 3;
        world.run_until(Duration::from_secs(5), "a leader of the others", |world| {
            let leader = world.node(asked).status().leader;
            leader.is_some_and(|leader| leader != format!("n{}", cut_off + 1))
        });
        add(&mut world, asked, 3);
        // The others fail to reach it for a while, and the one that is cut off comes first.
        world.run(Duration::from_millis(20));
        joiner(&mut world, 3, &[cut_off, asked, (cut_off + 2) % 3]);
        world.start(3);
        let joined = |world: &World| serves(world, 3);
        world.run_until(Duration::from_secs(5), "n4 joins", joined);
    }
}

#[test]
fn a_node_that_nobody_has_added_yet_says_so_and_waits() {
    let mut world = three_and_one(24);
    joiner(&mut world, 3, &[0, 1, 2]);
    world.start(3);
    world.run(Duration::from_secs(12));
    let texts = world.notes.iter().map(|(_, note)| note.to_string());
    let told = texts.filter(|text| text.contains("quorate member add n4"));
    assert_eq!(told.count(), 3, "{}", world.picture());
    add(&mut world, 0, 3);
    let joined = |world: &World| serves(world, 3);
    world.run_until(Duration::from_secs(10), "n4 joins", joined);
}

#[test]
fn a_place_is_given_once_and_not_to_an_older_copy_of_its_folder() {
    let mut world = three_and_one(25);
    joiner(&mut world, 3, &[0, 1, 2]);
    world.start(3);
    world.run_until(Duration::from_secs(1), "an identity", |world| {
        world.identity_of(3).is_some()
    });
    let before = world.identity_of(3).cloned();
    add(&mut world, 0, 3);
    let joined = |world: &World| serves(world, 3);
    world.run_until(Duration::from_secs(10), "n4 joins", joined);
    world.run(Duration::from_secs(1));
    world.kill(3);
    world.wipe(3);
    world.disk_of(3).identity = before;
    world.start(3);
    world.run(Duration::from_secs(2));
    let reason = refusal(&world, 3);
    assert!(reason.contains("has already run"), "{reason}");
    world.wipe(3);
    world.start(3);
    world.run(Duration::from_secs(2));
    let reason = refusal(&world, 3);
    assert!(reason.contains("already been taken"), "{reason}");
}

fn remove(world: &mut World, through: usize, name: &str) {
    let member = name.to_owned();
    match world.ask(through, Call::MemberRemove { member }) {
        Answer::Operator(Ok(_)) => {}
        other => panic!("{other:?}\n{}", world.picture()),
    }
}

#[test]
fn a_node_that_missed_its_removal_learns_of_it() {
    for late_joiner in [false, true] {
        let mut world = three_and_one(26);
        let gone = if late_joiner { 3 } else { 2 };
        if late_joiner {
            add(&mut world, 0, 3);
            joiner(&mut world, 3, &[0, 1, 2]);
            world.start(3);
            let joined = |world: &World| serves(world, 3);
            world.run_until(Duration::from_secs(10), "n4 joins", joined);
            world.run(Duration::from_secs(1));
        }
        let name = format!("n{}", gone + 1);
        world.isolate(gone, true);
        world.run_until(Duration::from_secs(10), "a leader", |world| {
            let leader = world.node(0).status().leader;
            leader.is_some_and(|leader| leader != name)
        });
        remove(&mut world, 0, &name);
        // The members remember it across a restart.
        (0..2).for_each(|host| world.kill(host));
        (0..2).for_each(|host| world.start(host));
        world.run(Duration::from_secs(3));
        assert!(world.is_running(gone), "{}", world.picture());
        world.isolate(gone, false);
        world.run(Duration::from_secs(5));
        assert_eq!(world.halted(gone), Some(&Halt::Removed));
        must_put(&mut world, 0, "a", "2");
    }
}

#[test]
fn a_checkpoint_without_this_node_stops_it_at_the_start() {
    let mut world = World::new(27, (0..3).map(|each| config(each, 3)).collect());
    world.config_of(0).limits.checkpoint_log_bytes = 1 << 10;
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    world.kill(2);
    world.wait_for_leader();
    // A leader changes the membership once its first entry is chosen.
    world.run(Duration::from_millis(100));
    remove(&mut world, 0, "n3");
    for number in 0..50 {
        must_put(&mut world, 0, &format!("key{number}"), &"v".repeat(200));
    }
    world.run(Duration::from_secs(1));
    world.isolate(2, true);
    let other = world.disk_of(0).clone();
    let (checkpoint, _) = *other
        .list()
        .iter()
        .rfind(|(file, _)| is_checkpoint(*file))
        .expect("one");
    world.disk_of(2).copy_from(&other, checkpoint);
    world.start(2);
    world.run(Duration::from_secs(1));
    assert_eq!(world.halted(2), Some(&Halt::Removed));
}

fn is_checkpoint(file: journal::disk::File) -> bool {
    matches!(file, journal::disk::File::Checkpoint(..))
}

#[test]
fn a_copy_of_a_running_node_is_refused_and_a_restarted_node_is_not() {
    let mut world = three_and_one(28);
    world.kill(2);
    let disk = world.disk_of(2).clone();
    let mut copied = config(2, 3);
    copied.peer_address = Some("host3:2380".into());
    *world.config_of(3) = copied;
    *world.disk_of(3) = disk;
    world.start(2);
    world.run(Duration::from_secs(1));
    world.notes.clear();
    world.start(3);
    world.run(Duration::from_secs(3));
    let refused = world
        .notes
        .iter()
        .any(|(host, note)| *host < 2 && note.to_string().contains("data folder has been copied"));
    assert!(refused, "{}", world.picture());
    // The original goes on.
    must_put(&mut world, 2, "a", "2");
}

#[test]
fn a_damaged_checkpoint_that_the_log_does_not_reach_is_refused() {
    let mut world = World::new(29, vec![config(0, 1)]);
    let limits = &mut world.config_of(0).limits;
    limits.checkpoint_log_bytes = 8 << 10;
    limits.journal.segment_bytes = 64 << 10;
    world.start(0);
    world.wait_for_leader();
    let write = |world: &mut World| {
        for number in 0..100 {
            must_put(world, 0, &format!("key{number}"), &"v".repeat(500));
        }
        world.run(Duration::from_secs(1));
    };
    write(&mut world);
    world.kill(0);
    let earlier = world.disk_of(0).clone();
    world.start(0);
    world.wait_for_leader();
    write(&mut world);
    world.kill(0);
    let later = std::mem::replace(world.disk_of(0), earlier);
    let mut checkpoints = later.list();
    checkpoints.retain(|(file, _)| is_checkpoint(*file));
    let (newest, length) = checkpoints[checkpoints.len() - 1];
    world.disk_of(0).copy_from(&later, newest);
    world.disk_of(0).flip(newest, length as usize / 2);
    world.start(0);
    world.run(Duration::from_secs(1));
    let reason = refusal(&world, 0);
    assert!(reason.contains("what is missing is lost here"), "{reason}");
    assert!(reason.contains("nobody else has a replica"), "{reason}");
}

#[test]
fn members_that_are_only_proposed_are_not_shown() {
    let mut world = three_and_one(30);
    let leader = world.wait_for_leader();
    world.isolate(leader, true);
    let add = Call::MemberAdd {
        name: "n4".into(),
        peer_address: "host3:2380".into(),
        is_witness: false,
    };
    world.call(leader, add);
    world.run(Duration::from_millis(100));
    assert_eq!(world.node(leader).status().members.len(), 3);
    let call = Call::EtcdMemberList {
        linearizable: false,
    };
    match world.ask(leader, call) {
        Answer::EtcdMemberList(Ok(list)) => assert_eq!(list.members.len(), 3),
        other => panic!("{other:?}"),
    }
}

/// A member of the world's cluster says hello, whoever it is.
fn hello(world: &World, node: NodeId, name: &str) -> bytes::Bytes {
    let cluster = world.node(0).status().cluster.expect("it has formed");
    let hello = Hello {
        versions: VERSIONS,
        node,
        incarnation: Incarnation(99),
        process: 1,
        standing: HelloStanding::Member(cluster),
        name: name.to_owned(),
        address: "nowhere:1".to_owned(),
        is_witness: false,
    };
    Frame::Hello(hello).encode()
}

fn removal(name: &str) -> bytes::Bytes {
    let member = name.to_owned();
    let operation = Operation::MemberRemove { member };
    GroupFrame::Operate { id: 1, operation }.encode(META)
}

#[test]
fn what_strangers_say_does_not_count_and_what_members_say_does() {
    let mut world = three_and_one(31);
    let leader = world.wait_for_leader();
    let other = world.node((leader + 1) % 3).status();
    let stays = format!("n{}", (leader + 2) % 3 + 1);
    let stranger = hello(&world, NodeId(5), "n9");
    let removed = Frame::Removed.encode();
    world.whisper(leader, vec![stranger, removal(&stays), removed]);
    world.run(Duration::from_secs(1));
    assert_eq!(world.node(leader).status().members.len(), 3);

    world.notes.clear();
    let bad_frames = world.node(leader).metrics().bad_frames;
    let misnamed = hello(&world, other.id, "n9");
    world.whisper(leader, vec![misnamed, removal(&stays)]);
    world.run(Duration::from_secs(1));
    assert_eq!(world.node(leader).status().members.len(), 3);
    let mut notes = world.notes.iter().map(|(_, note)| note.to_string());
    assert!(
        notes.any(|note| note.contains(&format!("is called {}", other.name))),
        "{}",
        world.picture()
    );
    // What follows on a connection that this node has closed is nobody's mistake.
    assert_eq!(world.node(leader).metrics().bad_frames, bad_frames);

    let member = hello(&world, other.id, &other.name);
    world.whisper(leader, vec![member, removal(&other.name)]);
    world.run(Duration::from_secs(1));
    assert_eq!(world.node(leader).status().members.len(), 2);
}
