//! What clients are told where nobody leads: etcd's errors, which differ by what the call would
//! have needed.

use std::time::Duration;

use bytes::Bytes;
use etcd::auth::AuthRequest;
use etcd::proto::etcdserverpb::{
    AlarmRequest, LeaseTimeToLiveRequest, MemberAddRequest, MemberPromoteRequest,
    MemberRemoveRequest, MemberUpdateRequest, PutRequest, RangeRequest,
};
use etcd::{ClusterRequest, Error, MaintenanceRequest, Request};
use quorate_node::{Answer, Call};
use state::LeaseId;

mod support;

use support::World;

/// Longer than etcd waits before it believes that a member is well.
const SETTLED: Duration = Duration::from_secs(6);
/// Longer than any call waits.
const PATIENCE: Duration = Duration::from_secs(8);

fn put(key: &'static str) -> Call {
    Call::Etcd(Request::Put(PutRequest {
        key: Bytes::from_static(key.as_bytes()),
        ..PutRequest::default()
    }))
}

fn range(serializable: bool) -> Call {
    Call::Etcd(Request::Range(RangeRequest {
        key: Bytes::from_static(b"a"),
        serializable,
        ..RangeRequest::default()
    }))
}

fn renew(lease: i64) -> Call {
    Call::RenewLeases {
        leases: vec![LeaseId(lease)],
        refused: Vec::new(),
    }
}

/// The error of an answer, whatever kind it is.
fn error(answer: Option<Answer>) -> Option<Error> {
    match answer.expect("every call is answered in its time") {
        Answer::Etcd(result) => result.err(),
        Answer::LeasesRenewed(result) => result.err(),
        Answer::EtcdMemberList(result) => result.err(),
        Answer::EtcdCluster(result) => result.err(),
        Answer::EtcdMaintenance(result) => result.err(),
        other => panic!("{other:?}"),
    }
}

/// A cluster of three of which one is left, who followed; who that is.
fn minority(seed: u64) -> (World, usize) {
    let mut world = World::cluster(seed, 3);
    let leader = world.wait_for_leader();
    assert_eq!(error(Some(world.ask(leader, put("a")))), None);
    world.run(SETTLED);
    let left = (leader + 1) % 3;
    for host in 0..3 {
        if host != left {
            world.kill(host);
        }
    }
    world.run_until(PATIENCE, "the leader is missed", |world| {
        world.node(left).status().leader.is_none()
    });
    (world, left)
}

#[test]
fn a_call_is_told_what_it_has_waited_for_in_vain() {
    let (mut world, left) = minority(60);
    let auth = |request| Call::Etcd(Request::Auth(request));
    let time_to_live = LeaseTimeToLiveRequest { id: 7, keys: false };
    let user = || "ann".to_owned();
    let calls = [
        (range(true), None),
        (range(false), Some(Error::Timeout)),
        (put("b"), Some(Error::DeadlineExceeded)),
        (
            Call::Etcd(Request::LeaseTimeToLive(time_to_live)),
            Some(Error::NoLeader),
        ),
        (renew(7), Some(Error::NoLeader)),
        (auth(AuthRequest::UserList), Some(Error::DeadlineExceeded)),
        (
            auth(AuthRequest::UserDelete { name: user() }),
            Some(Error::DeadlineExceeded),
        ),
        (
            auth(AuthRequest::Credentials { user: user() }),
            Some(Error::Timeout),
        ),
        (
            Call::EtcdMaintenance(MaintenanceRequest::Alarm(AlarmRequest::default())),
            Some(Error::DeadlineExceeded),
        ),
        (
            Call::EtcdMemberList { linearizable: true },
            Some(Error::Timeout),
        ),
        (
            Call::EtcdMemberList {
                linearizable: false,
            },
            None,
        ),
    ];
    let (calls, expected): (Vec<Call>, Vec<Option<Error>>) = calls.into_iter().unzip();
    let described: Vec<String> = calls.iter().map(|call| format!("{call:?}")).collect();
    let ids = world.call_together(left, calls);
    world.run(PATIENCE);
    for ((id, expected), call) in ids.into_iter().zip(expected).zip(described) {
        assert_eq!(error(world.answer(id)), expected, "{call}");
    }
}

#[test]
fn a_change_of_members_is_judged_by_whoever_is_asked_or_waits_for_a_leader() {
    let (mut world, left) = minority(61);
    let ids: Vec<u64> = world
        .node(left)
        .status()
        .members
        .iter()
        .map(|each| each.id.0)
        .collect();
    let own = world.node(left).status().id.0;
    let other = ids
        .into_iter()
        .find(|id| *id != own)
        .expect("there are three");
    let add = |is_learner| {
        ClusterRequest::Add(MemberAddRequest {
            peer_ur_ls: vec!["http://host7:2380".to_owned()],
            is_learner,
        })
    };
    let remove = |id| ClusterRequest::Remove(MemberRemoveRequest { id });
    let update = ClusterRequest::Update(MemberUpdateRequest {
        id: own,
        peer_ur_ls: vec!["http://host8:2380".to_owned()],
    });
    let promote = ClusterRequest::Promote(MemberPromoteRequest { id: 77 });
    let at_once = [add(true), add(false), remove(own)];
    let later = [
        (remove(other), Error::DeadlineExceeded),
        (update, Error::DeadlineExceeded),
        (promote, Error::NoLeader),
    ];
    for request in at_once {
        let before = world.now;
        let answer = world.ask(left, Call::EtcdCluster(request.clone()));
        assert_eq!(error(Some(answer)), Some(Error::Unhealthy), "{request:?}");
        assert!(world.now - before < Duration::from_secs(1), "{request:?}");
    }
    for (request, expected) in later {
        let answer = world.ask(left, Call::EtcdCluster(request.clone()));
        assert_eq!(error(Some(answer)), Some(expected), "{request:?}");
    }
}

/// What has left its node may be done one day: it is never told "no leader".
#[test]
fn a_renewal_that_was_sent_may_have_been_made() {
    let mut world = World::cluster(62, 3);
    let leader = world.wait_for_leader();
    assert_eq!(error(Some(world.ask(leader, put("a")))), None);
    world.run(SETTLED);
    // The leader can tell nobody.
    world.kill((leader + 1) % 3);
    world.kill((leader + 2) % 3);
    let calls = vec![put("b"), renew(7)];
    let ids = world.call_together(leader, calls);
    world.run(PATIENCE);
    assert_eq!(world.node(leader).status().leader, None);
    for id in ids {
        assert_eq!(error(world.answer(id)), Some(Error::Timeout));
    }
}

#[test]
fn a_write_that_the_next_leader_has_lost_as_well_is_told_so() {
    let mut world = World::cluster(63, 3);
    let leader = world.wait_for_leader();
    assert_eq!(error(Some(world.ask(leader, put("a")))), None);
    world.run(SETTLED);
    world.kill(leader);
    let asked = (leader + 1) % 3;
    let id = world.call(asked, put("b"));
    let dead = format!("n{}", leader + 1);
    let knows_another = |world: &World| {
        let known = world.node(asked).status().leader;
        known.is_some_and(|known| known != dead)
    };
    // Step by step: in a millisecond it would have been chosen.
    while !knows_another(&world) {
        assert!(world.step(), "something is always due");
    }
    world.kill((leader + 2) % 3);
    world.run(PATIENCE);
    assert_eq!(error(world.answer(id)), Some(Error::TimeoutLeaderFailure));
}

#[test]
fn four_voters_of_which_one_is_down_take_a_fifth() {
    let mut world = World::cluster(64, 4);
    let leader = world.wait_for_leader();
    assert_eq!(error(Some(world.ask(leader, put("a")))), None);
    world.run(SETTLED);
    world.kill((leader + 1) % 4);
    world.run(SETTLED);
    let add = || {
        Call::EtcdCluster(ClusterRequest::Add(MemberAddRequest {
            peer_ur_ls: vec!["http://host7:2380".to_owned()],
            is_learner: false,
        }))
    };
    // Three are at work, and would be the majority of five.
    assert_eq!(error(Some(world.ask(leader, add()))), None);
}
