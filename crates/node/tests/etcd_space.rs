//! Alarms, quota, automatic compaction, and replicas that differ.

use std::time::Duration;

use bytes::Bytes;
use etcd::proto::etcdserverpb::alarm_request::AlarmAction;
use etcd::proto::etcdserverpb::downgrade_request::DowngradeAction;
use etcd::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DeleteRangeRequest, DowngradeRequest, HashKvRequest,
    PutRequest,
};
use etcd::{Error, MaintenanceRequest, MaintenanceResponse};
use quorate_node::group::space::Retention;
use quorate_node::{Answer, Call, Halt};

mod support;

use support::{World, config};

fn put(world: &mut World, host: usize, key: &str, bytes: usize) -> Result<(), Error> {
    let request = etcd::Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::from(vec![7; bytes]),
        ..Default::default()
    });
    keys(world, host, request)
}

fn delete_all(world: &mut World, host: usize) -> Result<(), Error> {
    let request = etcd::Request::DeleteRange(DeleteRangeRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        ..Default::default()
    });
    keys(world, host, request)
}

fn keys(world: &mut World, host: usize, request: etcd::Request) -> Result<(), Error> {
    match world.ask(host, Call::Etcd(request)) {
        Answer::Etcd(result) => result.map(|_| ()),
        other => panic!("{other:?}"),
    }
}

fn maintain(
    world: &mut World,
    host: usize,
    request: MaintenanceRequest,
) -> Result<MaintenanceResponse, Error> {
    match world.ask(host, Call::EtcdMaintenance(request)) {
        Answer::EtcdMaintenance(result) => result,
        other => panic!("{other:?}"),
    }
}

fn alarm(
    world: &mut World,
    host: usize,
    action: AlarmAction,
    which: AlarmMember,
) -> Vec<AlarmMember> {
    let request = MaintenanceRequest::Alarm(AlarmRequest {
        action: action as i32,
        member_id: which.member_id,
        alarm: which.alarm,
    });
    match maintain(world, host, request) {
        Ok(MaintenanceResponse::Alarm(response)) => response.alarms,
        other => panic!("{other:?}"),
    }
}

fn alarms(world: &mut World, host: usize) -> Vec<AlarmMember> {
    alarm(world, host, AlarmAction::Get, AlarmMember::default())
}

fn status(world: &mut World, host: usize) -> etcd::proto::etcdserverpb::StatusResponse {
    match world.ask(host, Call::EtcdStatus) {
        Answer::EtcdStatus(Ok(status)) => status,
        other => panic!("{other:?}"),
    }
}

/// Three nodes whose operator wants this quota.
fn cluster(seed: u64, quota: u64, ends_by_itself: bool) -> World {
    let configs = (0..3).map(|each| {
        let mut config = config(each, 3);
        config.limits.space.quota_bytes = Some(quota);
        config.limits.space.alarm_ends_by_itself = Some(ends_by_itself);
        config
    });
    let mut world = World::new(seed, configs.collect());
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    world.run(Duration::from_secs(3));
    world
}

fn fill(world: &mut World, host: usize) {
    for number in 0..1000 {
        match put(world, host, &format!("k{number}"), 10_000) {
            Ok(()) => {}
            Err(Error::NoSpace) => return,
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("it is never full");
}

#[test]
fn a_full_store_says_so_and_takes_writes_again_when_a_client_ends_the_alarm() {
    let mut world = cluster(50, 200_000, false);
    fill(&mut world, 0);
    let raised = alarms(&mut world, 1);
    assert_eq!(raised.len(), 1, "{raised:?}");
    assert_eq!(raised[0].alarm, AlarmType::Nospace as i32);
    assert_eq!(raised[0].member_id, world.node(0).status().id.0);
    let errors = status(&mut world, 2).errors;
    assert!(errors[0].contains("alarm:NOSPACE"), "{errors:?}");
    // What takes no space goes on; and when there is room, the alarm is still there.
    delete_all(&mut world, 1).expect("deleting makes room");
    let request = etcd::Request::Compact(etcd::proto::etcdserverpb::CompactionRequest {
        revision: world.node(1).status().revision,
        physical: true,
    });
    keys(&mut world, 1, request).expect("compacting makes room");
    world.run(Duration::from_secs(3));
    assert_eq!(put(&mut world, 0, "small", 1), Err(Error::NoSpace));
    assert_eq!(alarms(&mut world, 0), raised);
    let ended = alarm(&mut world, 2, AlarmAction::Deactivate, raised[0]);
    assert_eq!(ended, raised);
    let again = alarm(&mut world, 2, AlarmAction::Deactivate, raised[0]);
    assert!(again.is_empty(), "it is no mistake to end what has ended");
    assert_eq!(put(&mut world, 0, "small", 1), Ok(()));
}

#[test]
fn an_alarm_ends_by_itself_once_there_is_room_again() {
    let mut world = cluster(51, 200_000, true);
    fill(&mut world, 0);
    assert_eq!(
        put(&mut world, 1, "small", 1),
        Err(Error::NoSpace),
        "there is an alarm"
    );
    delete_all(&mut world, 1).expect("deleting makes room");
    let revision = world.node(1).status().revision;
    let physical = true;
    let request = etcd::proto::etcdserverpb::CompactionRequest { revision, physical };
    keys(&mut world, 1, etcd::Request::Compact(request)).expect("compacting makes room");
    world.run(Duration::from_secs(3));
    assert!(alarms(&mut world, 0).is_empty());
    assert_eq!(put(&mut world, 2, "small", 1), Ok(()));
    let status = status(&mut world, 2);
    assert_eq!(status.db_size_quota, 200_000);
    assert!(status.db_size_in_use < status.db_size);
}

/// A large write may find no room while much is free. Clients look for the alarm then, and must
/// find it.
#[test]
fn an_alarm_stays_until_something_was_freed_or_the_quota_is_another_one() {
    let mut world = cluster(57, 200_000, true);
    put(&mut world, 0, "some", 10_000).expect("there is room");
    assert_eq!(put(&mut world, 0, "large", 250_000), Err(Error::NoSpace));
    world.run(Duration::from_secs(5));
    assert_eq!(alarms(&mut world, 0).len(), 1, "nothing was freed");
    assert_eq!(put(&mut world, 1, "small", 1), Err(Error::NoSpace));
    delete_all(&mut world, 1).expect("deleting makes room");
    let revision = world.node(1).status().revision;
    let physical = true;
    let request = etcd::proto::etcdserverpb::CompactionRequest { revision, physical };
    keys(&mut world, 1, etcd::Request::Compact(request)).expect("compacting makes room");
    world.run(Duration::from_secs(3));
    assert!(alarms(&mut world, 0).is_empty());
    assert_eq!(put(&mut world, 2, "small", 1), Ok(()));
}

#[test]
fn a_corrupt_alarm_refuses_every_change_and_no_read() {
    let mut world = cluster(52, 1 << 30, true);
    put(&mut world, 0, "a", 1).expect("all is well");
    let member_id = world.node(1).status().id.0;
    let corrupt = AlarmMember {
        member_id,
        alarm: AlarmType::Corrupt as i32,
    };
    assert_eq!(
        alarm(&mut world, 0, AlarmAction::Activate, corrupt),
        [corrupt]
    );
    assert_eq!(put(&mut world, 0, "a", 1), Err(Error::Corrupt));
    assert_eq!(delete_all(&mut world, 2), Err(Error::Corrupt));
    let read = etcd::Request::Range(etcd::proto::etcdserverpb::RangeRequest {
        key: Bytes::from_static(b"a"),
        ..Default::default()
    });
    keys(&mut world, 1, read).expect("reads are served");
    assert_eq!(
        alarm(&mut world, 0, AlarmAction::Deactivate, corrupt),
        [corrupt]
    );
    put(&mut world, 0, "a", 1).expect("all is well again");
}

#[test]
fn members_have_the_same_hash_at_the_same_revision_whatever_was_written_since() {
    let mut world = cluster(53, 1 << 30, true);
    for number in 0..20 {
        put(&mut world, 0, &format!("k{}", number % 5), 10).expect("there is room");
    }
    let at = world.node(0).status().revision - 3;
    let hash = |world: &mut World, host, revision| {
        let request = MaintenanceRequest::HashKv(HashKvRequest { revision });
        match maintain(world, host, request) {
            Ok(MaintenanceResponse::HashKv(response)) => Ok(response),
            Err(error) => Err(error),
            other => panic!("{other:?}"),
        }
    };
    let first = hash(&mut world, 0, at).expect("it is there");
    assert_eq!((first.hash_revision, first.compact_revision), (at, -1));
    delete_all(&mut world, 1).expect("deleting is allowed");
    for host in 1..3 {
        let other = hash(&mut world, host, at).expect("it is there");
        assert_eq!((other.hash, other.hash_revision), (first.hash, at));
    }
    let latest = hash(&mut world, 0, 0).expect("there is a latest");
    assert_ne!(latest.hash, first.hash);
    let compact = etcd::Request::Compact(etcd::proto::etcdserverpb::CompactionRequest {
        revision: at,
        physical: false,
    });
    keys(&mut world, 0, compact).expect("it can be compacted");
    let floor = hash(&mut world, 0, at).expect("the floor can be read");
    assert_eq!(floor.compact_revision, at);
    assert_eq!(
        floor.hash, first.hash,
        "compaction takes nothing that it covers"
    );
    world.run(Duration::from_secs(2));
    assert_eq!(
        hash(&mut world, 2, at).expect("it is there").hash,
        floor.hash
    );
    assert_eq!(hash(&mut world, 0, at - 1), Err(Error::Compacted));
    assert_eq!(hash(&mut world, 0, at + 100), Err(Error::FutureRevision));
}

#[test]
fn a_downgrade_is_one_step_back_and_can_be_given_up() {
    let mut world = cluster(54, 1 << 30, true);
    let mut ask_number = |action: i32, version: &str| {
        let request = MaintenanceRequest::Downgrade(DowngradeRequest {
            action,
            version: version.to_owned(),
        });
        match maintain(&mut world, 1, request) {
            Ok(MaintenanceResponse::Downgrade(response)) => Ok(response.version),
            Err(error) => Err(error),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask_number(9, "3.6.0"), Err(Error::UnknownMethod));
    let mut ask = |action: DowngradeAction, version: &str| ask_number(action as i32, version);
    assert_eq!(
        ask(DowngradeAction::Validate, "x"),
        Err(Error::WrongDowngradeFormat)
    );
    for version in ["3.5.0", "3.7.0", "4.6.0"] {
        let wrong = Err(Error::InvalidDowngradeTarget);
        assert_eq!(ask(DowngradeAction::Validate, version), wrong);
    }
    assert_eq!(ask(DowngradeAction::Validate, "3.6.0"), Ok("3.7".into()));
    // As etcd 3.7 answers: to give up what is not under way is no error, and the version is what
    // the cluster has, not what is wished.
    assert_eq!(ask(DowngradeAction::Cancel, ""), Ok("3.7".into()));
    assert_eq!(ask(DowngradeAction::Enable, "3.6.0"), Ok("3.7".into()));
    assert_eq!(
        ask(DowngradeAction::Enable, "3.6.0"),
        Err(Error::DowngradeInProgress)
    );
    assert_eq!(ask(DowngradeAction::Cancel, ""), Ok("3.7".into()));
    assert!(
        !status(&mut world, 0)
            .downgrade_info
            .expect("it is said")
            .enabled
    );
}

#[test]
fn history_is_compacted_by_the_number_of_revisions() {
    let configs = (0..3).map(|each| {
        let mut config = config(each, 3);
        config.limits.space.retention = Retention::Revisions(10);
        config.limits.space.compact_revisions_every = Duration::from_secs(30);
        config
    });
    let mut world = World::new(55, configs.collect());
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    for number in 0..50 {
        put(&mut world, number % 3, "a", 10).expect("there is room");
    }
    world.run(Duration::from_secs(35));
    for host in 0..3 {
        assert_eq!(world.node(host).status().compacted, 41);
    }
}

/// History was let go of by the group's own wish while every change of a client's was refused.
#[test]
fn history_is_kept_while_replicas_differ() {
    for retention in [
        Retention::Revisions(10),
        Retention::Time(Duration::from_secs(30)),
    ] {
        let configs = (0..3).map(|each| {
            let mut config = config(each, 3);
            config.limits.space.retention = retention;
            config.limits.space.compact_revisions_every = Duration::from_secs(30);
            config
        });
        let mut world = World::new(61, configs.collect());
        (0..3).for_each(|host| world.start(host));
        world.wait_for_leader();
        for number in 0..50 {
            put(&mut world, number % 3, "a", 10).expect("there is room");
        }
        let corrupt = AlarmMember {
            member_id: world.node(1).status().id.0,
            alarm: AlarmType::Corrupt as i32,
        };
        alarm(&mut world, 0, AlarmAction::Activate, corrupt);
        world.run(Duration::from_secs(100));
        for host in 0..3 {
            let compacted = world.node(host).status().compacted;
            assert_eq!(compacted, 0, "{retention:?}");
        }
        alarm(&mut world, 0, AlarmAction::Deactivate, corrupt);
        world.run(Duration::from_secs(100));
        for host in 0..3 {
            let compacted = world.node(host).status().compacted;
            assert!(compacted >= 41, "{retention:?}: {compacted}");
        }
    }
}

/// A replica that began with another number in its state: whatever it executes, it differs.
fn with_a_wrong_one(seed: u64, nodes: usize) -> World {
    let mut world = World::new(seed, (0..nodes).map(|each| config(each, nodes)).collect());
    world.config_of(1).limits.state.settings.origin_window -= 1;
    (0..nodes).for_each(|host| world.start(host));
    world.wait_for_leader();
    world
}

#[test]
fn a_replica_that_differs_from_the_majority_takes_itself_out() {
    let mut told = 0;
    for seed in 56..60 {
        let mut world = with_a_wrong_one(seed, 3);
        world.run(Duration::from_secs(3));
        match world.halted(1) {
            Some(Halt::Again(reason)) => {
                assert!(
                    reason.contains("differs from that of the majority"),
                    "{reason}"
                );
            }
            other => panic!("{other:?}\n{}", world.picture()),
        }
        assert!(world.is_running(0) && world.is_running(2));
        world.wait_for_leader();
        put(&mut world, 0, "a", 1).expect("the others go on");
        // It has the right state again, with or without checkpoints of the wrong one.
        world.config_of(1).limits.state.settings.origin_window += 1;
        world.start(1);
        world.run(Duration::from_secs(5));
        put(&mut world, 0, "b", 1).expect("all go on");
        world.run(Duration::from_secs(3));
        assert!(world.is_running(1), "{}", world.picture());
        assert_eq!(world.node(1).status().digest, world.node(0).status().digest);
        let notes = world.notes.iter().map(|(_, note)| note.to_string());
        told += notes
            .filter(|note| note.contains("the state of n2 differs"))
            .count();
    }
    // What it said last may have been lost with its connections.
    assert!(told > 0, "the others notice as well");
}

#[test]
fn without_a_majority_nothing_is_changed_any_more() {
    let mut world = with_a_wrong_one(60, 2);
    world.run(Duration::from_secs(3));
    assert!(
        world.is_running(0) && world.is_running(1),
        "{}",
        world.picture()
    );
    assert_eq!(put(&mut world, 0, "a", 1), Err(Error::Corrupt));
    assert!(
        alarms(&mut world, 1)
            .iter()
            .all(|each| each.alarm == AlarmType::Corrupt as i32)
    );
}
