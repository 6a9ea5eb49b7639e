//! Users in a simulated world: what is permitted is the same on every node, at the place in the
//! log where it is executed, whichever nodes die.

use std::sync::Arc;
use std::time::Duration;

use base::{ClusterId, Epoch, Instant, NodeId};
use bytes::Bytes;
use consensus::EngineKind;
use etcd::auth::{Access, AuthRequest, Caller};
use etcd::proto::authpb::Permission;
use etcd::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
};
use quorate_node::hub::{Hub, HubInput, HubLimits, HubOutput, Member, Publication, StreamId};
use quorate_node::{Answer, Call};
use state::{LeaseId, Revision};

mod support;

use support::World;

fn auth(request: AuthRequest) -> Call {
    Call::Etcd(etcd::Request::Auth(request))
}

fn put(key: &str) -> Call {
    Call::Etcd(etcd::Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
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

/// As a token that was checked at `revision`.
fn by(user: &str, revision: u64, call: Call) -> Call {
    let (user, call) = (user.to_owned(), Box::new(call));
    let caller = Arc::new(Caller { user, revision });
    Call::As { caller, call }
}

fn error(answer: Answer) -> Option<etcd::Error> {
    match answer {
        Answer::Etcd(result) => result.err(),
        Answer::EtcdMemberList(result) => result.err(),
        Answer::EtcdStatus(result) => result.err(),
        other => panic!("{other:?}"),
    }
}

fn must(world: &mut World, host: usize, call: Call) {
    let refused = error(world.ask(host, call));
    assert_eq!(refused, None, "{}", world.picture());
}

fn user_add(name: &str) -> AuthRequest {
    AuthRequest::UserAdd {
        name: name.into(),
        password_hash: Some(Bytes::from_static(b"hash")),
    }
}

fn grant_role(user: &str, role: &str) -> AuthRequest {
    AuthRequest::UserGrantRole {
        user: user.into(),
        role: role.into(),
    }
}

/// Root, and `u`, who may read and write `u`; authentication is on. Ends at revision 7.
fn enable(world: &mut World, host: usize) -> u64 {
    let permission = Permission {
        perm_type: 2,
        key: Bytes::from_static(b"u"),
        range_end: Bytes::new(),
    };
    for request in [
        user_add("root"),
        grant_role("root", "root"),
        user_add("u"),
        AuthRequest::RoleAdd { name: "r".into() },
        AuthRequest::RoleGrantPermission {
            role: "r".into(),
            permission: Some(permission),
        },
        grant_role("u", "r"),
        AuthRequest::Enable { token_key: [1; 32] },
    ] {
        must(world, host, auth(request));
    }
    7
}

#[test]
fn another_keyspace_is_roots_alone_once_users_count() {
    let mut world = World::cluster(1, 3);
    let leader = world.wait_for_leader();
    let created = world.ask(
        leader,
        Call::KeyspaceCreate {
            names: vec!["other".into()],
            replicas: 3,
            engine: EngineKind::Raft,
            quorums: None,
        },
    );
    assert!(matches!(created, Answer::Operator(Ok(_))), "{created:?}");
    world.run(Duration::from_secs(2));
    let within = |call| Call::In {
        keyspace: Arc::from("other"),
        call: Box::new(call),
    };
    must(&mut world, leader, within(put("u")));
    let revision = enable(&mut world, leader);
    for (call, expected) in [
        (put("u"), etcd::Error::UserEmpty),
        (get("u", true), etcd::Error::UserEmpty),
        (by("u", revision, put("u")), etcd::Error::PermissionDenied),
    ] {
        let picture = format!("{call:?}");
        let refused = error(world.ask(leader, within(call)));
        assert_eq!(refused, Some(expected), "{picture}");
    }
    must(&mut world, leader, within(by("root", revision, put("u"))));
}

#[test]
fn every_node_judges_alike_and_goes_on_without_the_leader() {
    let mut world = World::cluster(1, 3);
    let leader = world.wait_for_leader();
    let revision = enable(&mut world, leader);
    for host in 0..3 {
        must(&mut world, host, by("u", revision, put("u")));
        must(&mut world, host, by("u", revision, get("u", false)));
        for (call, expected) in [
            (put("u"), etcd::Error::UserEmpty),
            (get("u", true), etcd::Error::UserEmpty),
            (by("u", revision, put("v")), etcd::Error::PermissionDenied),
            (
                by("u", revision, get("v", false)),
                etcd::Error::PermissionDenied,
            ),
            (by("x", revision, put("u")), etcd::Error::PermissionDenied),
            (
                by("u", revision - 1, put("u")),
                etcd::Error::AuthOldRevision,
            ),
            (
                by("u", revision - 1, get("u", false)),
                etcd::Error::AuthOldRevision,
            ),
            (Call::EtcdStatus, etcd::Error::UserEmpty),
            (
                Call::EtcdMemberList {
                    linearizable: false,
                },
                etcd::Error::UserEmpty,
            ),
        ] {
            let picture = format!("{call:?} at {host}");
            assert_eq!(error(world.ask(host, call)), Some(expected), "{picture}");
        }
        must(&mut world, host, by("u", revision, Call::EtcdStatus));
    }
    world.kill(leader);
    let next = world.wait_for_leader();
    must(&mut world, next, by("u", revision, put("u")));
    // What one node's clients change counts for all, from there on in the log.
    must(
        &mut world,
        next,
        by("root", revision, auth(user_add("other"))),
    );
    for host in (0..3).filter(|host| *host != leader) {
        let refused = error(world.ask(host, by("u", revision, put("u"))));
        assert_eq!(refused, Some(etcd::Error::AuthOldRevision));
        must(&mut world, host, by("u", revision + 1, put("u")));
    }
    world.start(leader);
    let caught_up = |world: &World| {
        let (own, other) = (world.node(leader).status(), world.node(next).status());
        (own.applied, own.digest) == (other.applied, other.digest)
    };
    world.run_until(Duration::from_secs(20), "all replicas are alike", caught_up);
    must(&mut world, leader, by("u", revision + 1, get("u", false)));
    let refused = error(world.ask(leader, by("u", revision + 1, put("v"))));
    assert_eq!(refused, Some(etcd::Error::PermissionDenied));
}

/// A node began again with its last checkpoint, or with nothing, and executed its log bit by bit;
/// the end of it only once somebody led. Until then it let everybody in, if authentication had
/// been turned on since.
#[test]
fn a_node_that_was_started_again_judges_nobody_by_users_of_long_ago() {
    let mut world = World::cluster(4, 3);
    let leader = world.wait_for_leader();
    must(&mut world, leader, put("u"));
    let revision = enable(&mut world, leader);
    world.run(Duration::from_secs(1));
    (0..3).for_each(|host| world.kill(host));
    let host = (leader + 1) % 3;
    world.start(host);
    world.run_until(Duration::from_secs(5), "it has begun", |world| {
        world.node(host).status().phase == "serving"
    });
    // Alone it cannot know whether the end of its log was chosen.
    let members = Call::EtcdMemberList {
        linearizable: false,
    };
    for call in [Call::EtcdStatus, by("root", revision, members)] {
        let refused = error(world.ask(host, call));
        assert_eq!(refused, Some(etcd::Error::NoLeader));
    }
    assert!(matches!(
        world.ask(host, Call::Snapshot),
        Answer::Snapshot(Err(etcd::Error::NoLeader))
    ));
    // What could be read once somebody leads waits for that.
    let early = world.call(host, get("u", true));
    world.run(Duration::from_secs(1));
    assert!(world.answer(early).is_none(), "nobody may read it");
    assert!(!world.is_ready(host));

    world.start(leader);
    world.run_until(Duration::from_secs(5), "both are ready", |world| {
        world.is_ready(host) && world.is_ready(leader)
    });
    world.run(Duration::from_secs(1));
    let early = world.answer(early).expect("somebody leads");
    assert_eq!(error(early), Some(etcd::Error::UserEmpty));
    let refused = error(world.ask(host, get("u", true)));
    assert_eq!(refused, Some(etcd::Error::UserEmpty));
    must(&mut world, host, by("u", revision, get("u", true)));
    must(&mut world, host, by("root", revision, Call::EtcdStatus));
}

/// A node was ready for clients as soon as it knew who leads, whatever it still had to learn.
#[test]
fn a_node_that_was_away_is_not_ready_before_it_knows_who_may_do_what() {
    let mut world = World::cluster(5, 3);
    let leader = world.wait_for_leader();
    must(&mut world, leader, put("u"));
    let host = (leader + 1) % 3;
    world.kill(host);
    let revision = enable(&mut world, leader);
    world.start(host);
    let patience = world.now + Duration::from_secs(5);
    while !world.is_ready(host) {
        assert!(world.step() && world.now < patience, "{}", world.picture());
    }
    for call in [get("u", true), Call::EtcdStatus] {
        let id = world.call(host, call);
        let answer = world.answer(id).expect("it is answered at once");
        assert_eq!(error(answer), Some(etcd::Error::UserEmpty));
    }
    must(&mut world, host, by("root", revision, Call::EtcdStatus));
}

/// A permission that is taken away between asking and executing is gone.
#[test]
fn what_is_permitted_is_decided_where_it_is_executed() {
    let mut world = World::cluster(2, 3);
    let leader = world.wait_for_leader();
    let revision = enable(&mut world, leader);
    let revoke = AuthRequest::UserRevokeRole {
        user: "u".into(),
        role: "r".into(),
    };
    // In one pass, so in one entry: first the change, then the put that was permitted before it.
    let calls = vec![
        by("u", revision, put("u")),
        by("root", revision, auth(revoke)),
        by("u", revision, put("u")),
        by("u", revision + 1, put("u")),
    ];
    let ids = world.call_together(leader, calls);
    world.run(Duration::from_secs(2));
    let answers = ids.into_iter().map(|id| {
        let answer = world.answer(id);
        error(answer.expect("it is answered"))
    });
    let expected = [
        None,
        None,
        Some(etcd::Error::AuthOldRevision),
        Some(etcd::Error::PermissionDenied),
    ];
    assert_eq!(answers.collect::<Vec<_>>(), expected);
}

fn renew(leases: &[i64]) -> Call {
    Call::RenewLeases {
        leases: leases.iter().copied().map(LeaseId).collect(),
        refused: Vec::new(),
    }
}

/// What a call that renews leases is told of each.
fn renewed(
    world: &mut World,
    host: usize,
    call: Call,
) -> Result<Vec<Result<i64, etcd::Error>>, etcd::Error> {
    match world.ask(host, call) {
        Answer::LeasesRenewed(result) => result.map(|renewed| renewed.seconds),
        other => panic!("{other:?}"),
    }
}

/// Whoever knew its id could keep a lease alive, and with it keys that he may not touch.
#[test]
fn a_lease_is_renewed_for_those_who_may_write_its_keys() {
    use etcd::Error::{AuthOldRevision, PermissionDenied, UserEmpty};
    let mut world = World::cluster(4, 3);
    let leader = world.wait_for_leader();
    for (id, key) in [(1, Some("u")), (2, Some("v")), (3, None)] {
        let grant = LeaseGrantRequest { id, ttl: 600 };
        let grant = Call::Etcd(etcd::Request::LeaseGrant(grant));
        must(&mut world, leader, grant);
        if let Some(key) = key {
            let put = PutRequest {
                key: Bytes::from_static(key.as_bytes()),
                lease: id,
                ..PutRequest::default()
            };
            must(&mut world, leader, Call::Etcd(etcd::Request::Put(put)));
        }
    }
    let revision = enable(&mut world, leader);
    world.run(Duration::from_secs(60));
    for host in 0..3 {
        let nobodys = renewed(&mut world, host, renew(&[1]));
        assert_eq!(nobodys, Err(UserEmpty));
        // What one of them is refused does the others no harm.
        let of_u = by("u", revision, renew(&[2, 1, 3, 2, 9]));
        let expected = [
            Err(PermissionDenied),
            Ok(600),
            Ok(600),
            Err(PermissionDenied),
            Ok(0),
        ];
        assert_eq!(renewed(&mut world, host, of_u), Ok(expected.to_vec()));
        let of_u = by("u", revision, renew(&[2]));
        assert_eq!(
            renewed(&mut world, host, of_u),
            Ok(vec![Err(PermissionDenied)])
        );
        let alone = LeaseKeepAliveRequest { id: 2 };
        let alone = Call::Etcd(etcd::Request::LeaseKeepAlive(alone));
        let refused = error(world.ask(host, by("u", revision, alone)));
        assert_eq!(refused, Some(PermissionDenied));
        // A reason that somebody else has found.
        let found = Call::RenewLeases {
            leases: vec![LeaseId(3), LeaseId(1)],
            refused: vec![(0, PermissionDenied)],
        };
        assert_eq!(
            renewed(&mut world, host, by("u", revision, found)),
            Ok(vec![Err(PermissionDenied), Ok(600)])
        );
    }
    let left = LeaseTimeToLiveRequest { id: 2, keys: false };
    let left = Call::Etcd(etcd::Request::LeaseTimeToLive(left));
    match world.ask(leader, by("u", revision, left)) {
        Answer::Etcd(Ok(etcd::Response::LeaseTimeToLive(told))) => {
            assert!(told.ttl < 560, "it was renewed: {}", told.ttl);
        }
        other => panic!("{other:?}"),
    }
    let of_root = by("root", revision, renew(&[1, 2, 3]));
    let everything = vec![Ok(600), Ok(600), Ok(600)];
    assert_eq!(renewed(&mut world, leader, of_root), Ok(everything));
    let revoke = AuthRequest::UserRevokeRole {
        user: "u".into(),
        role: "r".into(),
    };
    must(&mut world, leader, by("root", revision, auth(revoke)));
    world.run(Duration::from_secs(1));
    for host in 0..3 {
        for (known, error) in [
            (revision, AuthOldRevision),
            (revision + 1, PermissionDenied),
        ] {
            let of_u = by("u", known, renew(&[1, 3]));
            let expected = vec![Err(error), Ok(600)];
            assert_eq!(renewed(&mut world, host, of_u), Ok(expected));
        }
    }
}

/// Watches that nobody in particular has opened do not outlive the moment from which on one has to
/// sign in.
#[test]
fn turning_authentication_on_ends_the_streams_that_are_open() {
    let mut world = World::cluster(3, 1);
    let host = world.wait_for_leader();
    let mut hub = Hub::new(HubLimits::default(), 1);
    let mut out = Vec::new();
    let publication = |access: Option<Access>, reset| Publication {
        member: Member {
            cluster: ClusterId(1),
            node: NodeId(1),
        },
        batches: Arc::new([]),
        revision: Revision(1),
        compacted: Revision(0),
        term: Epoch(1),
        has_leader: true,
        reset,
        access: access.map(Arc::new),
    };
    let access = |world: &World| {
        let running = world.node(host).running().expect("it runs");
        Access::of(running.replica().reader())
    };
    let now = Instant(1);
    let first = publication(Some(access(&world)), true);
    hub.step(now, HubInput::Publication(first), &mut out);
    let open = |stream| HubInput::Opened {
        stream: StreamId(stream),
        require_leader: false,
    };
    hub.step(now, open(1), &mut out);
    hub.step(now, open(2), &mut out);
    must(&mut world, host, auth(user_add("root")));
    let told = publication(Some(access(&world)), false);
    hub.step(now, HubInput::Publication(told), &mut out);
    assert!(
        out.is_empty(),
        "a new user changes nothing for them: {out:?}"
    );
    must(&mut world, host, auth(grant_role("root", "root")));
    must(
        &mut world,
        host,
        auth(AuthRequest::Enable { token_key: [1; 32] }),
    );
    let told = publication(Some(access(&world)), false);
    hub.step(now, HubInput::Publication(told.clone()), &mut out);
    let ended = out.drain(..).map(|output| match output {
        HubOutput::End { stream, error } => (stream.0, error),
        other => panic!("{other:?}"),
    });
    let expected = [1, 2].map(|stream| (stream, etcd::Error::AuthTurnedOn));
    assert_eq!(ended.collect::<Vec<_>>(), expected);
    // Those that are opened now are checked, and go on.
    hub.step(now, open(3), &mut out);
    hub.step(now, HubInput::Publication(told), &mut out);
    assert!(out.is_empty(), "{out:?}");
}
