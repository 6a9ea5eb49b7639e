//! Leases, as etcd's clients know them.

mod harness;

use std::time::Duration;

use harness::{Keyspace, bytes, op, op_txn, put, then, txn};
use quorate_etcd::proto::etcdserverpb::request_op::Request as Operation;
use quorate_etcd::proto::etcdserverpb::{LeaseGrantRequest, PutRequest};
use quorate_etcd::{Code, Error, ReadBudget, ReadOutcome, Request};
use state::EventKind;

fn leased(key: &str, lease: i64) -> PutRequest {
    PutRequest {
        lease,
        ..put(key, "1")
    }
}

#[test]
fn grants_are_raised_to_the_floor_and_refused_above_the_ceiling() {
    let mut keyspace = Keyspace::default();
    let floor = i64::from(keyspace.state.reader().settings().lease_floor_seconds);
    for (id, ttl, granted) in [
        (1, 60, 60),
        (2, 0, floor),
        (3, -5, floor),
        (4, 1, floor),
        (-9, i64::MIN, floor),
        (i64::MIN, 9_000_000_000, 9_000_000_000),
    ] {
        let response = keyspace.grant(id, ttl).unwrap();
        assert_eq!((response.id, response.ttl), (id, granted));
        assert_eq!(response.header.unwrap().revision, 1, "no revision is made");
    }
    assert_eq!(keyspace.grant(5, 9_000_000_001), Err(Error::LeaseTooLong));
    assert_eq!(Error::LeaseTooLong.code(), Code::OutOfRange);
    assert_eq!(keyspace.grant(-9, 60), Err(Error::LeaseExists));
    assert_eq!(Error::LeaseExists.code(), Code::FailedPrecondition);
    // What the proposing node must not let through; it must be harmless all the same.
    assert_eq!(keyspace.grant(0, 60), Err(Error::LeaseNotFound));
}

#[test]
fn what_is_left_is_told_in_whole_seconds_from_the_groups_clock() {
    let mut keyspace = Keyspace::default();
    keyspace.grant(1, 10).unwrap();
    keyspace.put(leased("b", 1)).unwrap();
    keyspace.put(leased("a", 1)).unwrap();
    let told = keyspace.time_to_live(1, false);
    assert_eq!((told.ttl, told.granted_ttl), (10, 10));
    assert!(told.keys.is_empty(), "not asked for");
    keyspace.wait(Duration::from_millis(3_001));
    let told = keyspace.time_to_live(1, true);
    assert_eq!((told.ttl, told.granted_ttl), (6, 10));
    assert_eq!(told.keys, ["a", "b"]);
    assert_eq!(told.header.unwrap().revision, 3);
    keyspace.wait(Duration::from_secs(60));
    assert_eq!(
        keyspace.time_to_live(1, false).ttl,
        0,
        "it has not ended yet"
    );
    assert_eq!(keyspace.keep_alive(1), 10);
    assert_eq!(keyspace.time_to_live(1, false).ttl, 10);
    let unknown = keyspace.time_to_live(77, true);
    assert_eq!((unknown.ttl, unknown.granted_ttl), (-1, 0));
    assert_eq!(keyspace.keep_alive(77), 0);
}

#[test]
fn a_read_knows_how_far_the_clock_has_gone_on_since_the_last_entry() {
    let mut keyspace = Keyspace::default();
    keyspace.grant(1, 10).unwrap();
    let request = quorate_etcd::proto::etcdserverpb::LeaseTimeToLiveRequest { id: 1, keys: false };
    let plan = quorate_etcd::plan(Request::LeaseTimeToLive(request), &keyspace.limits);
    let Ok(quorate_etcd::Plan::Read(mut read)) = plan else {
        panic!("it is a read");
    };
    assert!(!read.serializable());
    let mut left = |clock| {
        read.set_clock(Duration::from_millis(clock));
        match quorate_etcd::read(keyspace.state.reader(), &read, ReadBudget::UNLIMITED) {
            ReadOutcome::Done(Ok(quorate_etcd::Response::LeaseTimeToLive(told))) => told.ttl,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([0, 1, 2_500, 60_000].map(&mut left), [10, 9, 7, 0]);
}

#[test]
fn revoking_deletes_at_one_revision_and_in_key_order() {
    let mut keyspace = Keyspace::default();
    keyspace.grant(1, 60).unwrap();
    for key in ["c", "a", "b"] {
        keyspace.put(leased(key, 1)).unwrap();
    }
    keyspace.put(put("b", "detached")).unwrap();
    assert_eq!(keyspace.revoke(2), Err(Error::LeaseNotFound));
    assert_eq!(Error::LeaseNotFound.code(), Code::NotFound);
    let revision = keyspace.revoke(1).unwrap().header.unwrap().revision;
    assert_eq!((revision, keyspace.revision()), (6, 6));
    let batches: Vec<_> = keyspace
        .events
        .iter()
        .flat_map(|batch| &batch.events)
        .collect();
    assert!(batches.iter().all(|event| event.kind == EventKind::Delete));
    let keys: Vec<_> = batches.iter().map(|event| &event.key_value.key).collect();
    assert_eq!(keys, [&bytes("a"), &bytes("c")]);
    assert_eq!(keyspace.all(), ["b=detached"]);
    assert_eq!(keyspace.revoke(1), Err(Error::LeaseNotFound));
    keyspace.grant(1, 60).unwrap();
    keyspace.revoke(1).unwrap();
    assert_eq!(keyspace.revision(), 6, "without keys there is no revision");
}

#[test]
fn puts_of_the_branch_taken_need_their_leases_and_others_do_not() {
    let mut keyspace = Keyspace::default();
    keyspace.grant(1, 60).unwrap();
    let op = |lease| op(Operation::RequestPut(leased("k", lease)));
    for taken in [then(vec![op(9)]), then(vec![op_txn(then(vec![op(9)]))])] {
        assert_eq!(keyspace.txn(taken), Err(Error::LeaseNotFound));
    }
    keyspace.txn(txn(vec![], vec![op(1)], vec![op(9)])).unwrap();
    let nested = txn(vec![], vec![op(1)], vec![op(9)]);
    keyspace.txn(then(vec![op_txn(nested)])).unwrap();
    assert_eq!(keyspace.time_to_live(1, true).keys, ["k"]);
}

#[test]
fn leases_are_listed_by_when_they_are_over() {
    let mut keyspace = Keyspace::default();
    for (id, ttl) in [(1, 30), (2, 10), (3, 20), (-4, 10)] {
        keyspace.grant(id, ttl).unwrap();
    }
    assert_eq!(keyspace.leases(), [-4, 2, 3, 1]);
    keyspace.wait(Duration::from_secs(15));
    assert_eq!(keyspace.keep_alive(2), 10);
    assert_eq!(keyspace.leases(), [-4, 3, 2, 1]);
}

#[test]
fn a_full_keyspace_grants_nothing_but_renews_and_revokes() {
    let mut keyspace = Keyspace::with_quota(1_200);
    let granted = (1..100).take_while(|id| keyspace.grant(*id, 60).is_ok());
    let granted = granted.count() as i64;
    assert!((2..10).contains(&granted), "{granted}");
    assert_eq!(keyspace.grant(100, 60), Err(Error::NoSpace));
    assert_eq!(keyspace.keep_alive(1), 60);
    keyspace.revoke(1).unwrap();
    keyspace.grant(100, 60).unwrap();
}

#[test]
fn long_lists_run_elsewhere() {
    let mut keyspace = Keyspace::default();
    keyspace.grant(1, 60).unwrap();
    for number in 0..20 {
        keyspace.grant(1000 + number, 60).unwrap();
        keyspace.put(leased(&format!("k{number}"), 1)).unwrap();
    }
    let budget = ReadBudget::new(10, 1 << 20);
    let to_live = quorate_etcd::proto::etcdserverpb::LeaseTimeToLiveRequest { id: 1, keys: true };
    for request in [Request::LeaseLeases, Request::LeaseTimeToLive(to_live)] {
        let Ok(quorate_etcd::Plan::Read(read)) = quorate_etcd::plan(request, &keyspace.limits)
        else {
            panic!("it is a read");
        };
        let outcome = quorate_etcd::read(keyspace.state.reader(), &read, budget.clone());
        assert_eq!(outcome, ReadOutcome::TooLarge);
    }
}

#[test]
fn granting_is_a_command_even_of_what_the_client_chose_badly() {
    let keyspace = Keyspace::default();
    let request = LeaseGrantRequest { id: -1, ttl: -1 };
    let plan = quorate_etcd::plan(Request::LeaseGrant(request), &keyspace.limits);
    assert!(matches!(plan, Ok(quorate_etcd::Plan::Command(_))));
}
