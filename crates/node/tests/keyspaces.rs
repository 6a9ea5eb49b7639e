//! What a node tells of keyspaces, and whom it lets into them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::EngineKind;
use etcd::auth::{AuthRequest, Caller};
use etcd::proto::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest};
use quorate_node::{Answer, Call};
use state::LeaseId;

mod support;

use support::{World, config};

/// A cluster of so many nodes, with the keyspace `pods` on three of them.
fn cluster(seed: u64, count: usize) -> World {
    let mut world = World::new(seed, (0..count).map(|each| config(each, count)).collect());
    (0..count).for_each(|host| world.start(host));
    world.wait_for_leader();
    let call = Call::KeyspaceCreate {
        names: vec!["pods".to_owned()],
        replicas: 3,
        engine: EngineKind::Raft,
        quorums: None,
    };
    let answer = world.ask(0, call);
    assert!(matches!(answer, Answer::Operator(Ok(_))), "{answer:?}");
    // The node that was asked has told before it answered.
    let told = world.directory(0).expect("it is current");
    assert!(told.keyspaces.contains_key("pods"));
    world.run(Duration::from_secs(2));
    world
}

/// The hosts that say that they hold `pods`.
fn holders(world: &World, count: usize) -> Vec<usize> {
    let is_here = |host: &usize| {
        let directory = world.directory(*host).expect("it is current");
        directory.keyspaces["pods"].is_here
    };
    (0..count).filter(is_here).collect()
}

fn error_of(answer: Answer) -> Option<etcd::Error> {
    match answer {
        Answer::Etcd(result) => result.err(),
        Answer::LeasesRenewed(result) => result.err(),
        Answer::EtcdStatus(result) => result.err(),
        Answer::Snapshot(result) => result.err(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_tells_where_keyspaces_are_once_it_knows() {
    let mut world = cluster(1, 5);
    let holding = holders(&world, 5);
    assert_eq!(holding.len(), 3);
    for host in 0..5 {
        let pods = &world.directory(host).unwrap().keyspaces["pods"];
        let others = 3 - usize::from(holding.contains(&host));
        assert_eq!(pods.holders.len(), others, "itself is not among them");
    }
    // One that was restarted and hears nothing of the others says nothing.
    world.kill(holding[0]);
    world.isolate(holding[0], true);
    world.start(holding[0]);
    world.run(Duration::from_secs(2));
    assert_eq!(world.directory(holding[0]), None);
    world.isolate(holding[0], false);
    world.run(Duration::from_secs(5));
    assert_eq!(holders(&world, 5), holding);
    let drop = Call::KeyspaceDrop {
        name: "pods".to_owned(),
    };
    let asked = (0..5).find(|host| !holding.contains(host)).unwrap();
    world.ask(asked, drop);
    assert!(world.directory(asked).unwrap().keyspaces.is_empty());
    world.run(Duration::from_secs(2));
    assert!((0..5).all(|host| world.directory(host).unwrap().keyspaces.is_empty()));
}

fn get() -> Call {
    Call::Etcd(etcd::Request::Range(RangeRequest {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    }))
}

fn put() -> Call {
    Call::Etcd(etcd::Request::Put(PutRequest {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    }))
}

fn renew(lease: i64) -> Call {
    Call::RenewLeases {
        leases: vec![LeaseId(lease)],
        refused: Vec::new(),
    }
}

/// What `pods` answers to a user, or to nobody.
fn asked_by(
    world: &mut World,
    host: usize,
    caller: Option<(&str, u64)>,
    call: Call,
) -> Option<etcd::Error> {
    let call = match caller {
        Some((user, revision)) => Call::As {
            caller: Arc::new(Caller {
                user: user.to_owned(),
                revision,
            }),
            call: Box::new(call),
        },
        None => call,
    };
    let call = Call::In {
        keyspace: Arc::from("pods"),
        call: Box::new(call),
    };
    error_of(world.ask(host, call))
}

/// Two users, of whom one has the role of `pods` and the other that of another keyspace; the
/// revision of users and roles.
fn with_users(world: &mut World, host: usize) -> u64 {
    let mut requests = Vec::new();
    for role in ["root", "keyspace:pods", "keyspace:pod"] {
        let name = role.to_owned();
        requests.push(AuthRequest::RoleAdd { name });
    }
    let roles = [
        ("root", "root"),
        ("alice", "keyspace:pods"),
        ("bob", "keyspace:pod"),
    ];
    for (user, role) in roles {
        requests.push(AuthRequest::UserAdd {
            name: user.to_owned(),
            password_hash: Some(Bytes::from_static(b"hash")),
        });
        requests.push(AuthRequest::UserGrantRole {
            user: user.to_owned(),
            role: role.to_owned(),
        });
    }
    requests.push(AuthRequest::Enable { token_key: [1; 32] });
    for request in requests {
        let answer = world.ask(host, Call::Etcd(etcd::Request::Auth(request)));
        assert_eq!(error_of(answer), None);
    }
    world.run(Duration::from_secs(1));
    let node = world.node(host).running().expect("it is a member");
    etcd::auth::status(node.replica().reader()).revision
}

#[test]
fn a_keyspace_is_open_to_root_and_to_whoever_has_the_role_of_its_name() {
    use etcd::Error::{AuthOldRevision, PermissionDenied, UserEmpty};
    let mut world = cluster(2, 3);
    assert_eq!(asked_by(&mut world, 0, None, put()), None);
    let revision = with_users(&mut world, 0);
    for host in 0..3 {
        let mut by = |user: Option<&str>, revision, call| {
            asked_by(&mut world, host, user.map(|user| (user, revision)), call)
        };
        assert_eq!(by(None, 0, get()), Some(UserEmpty));
        assert_eq!(by(Some("root"), revision, put()), None);
        assert_eq!(by(Some("alice"), revision, put()), None);
        assert_eq!(by(Some("alice"), revision, get()), None);
        assert_eq!(
            by(Some("alice"), revision - 1, get()),
            Some(AuthOldRevision)
        );
        assert_eq!(by(Some("bob"), revision, get()), Some(PermissionDenied));
        assert_eq!(by(Some("carol"), revision, get()), Some(PermissionDenied));
        // What etcd keeps for root.
        assert_eq!(
            by(Some("alice"), revision, Call::Snapshot),
            Some(PermissionDenied)
        );
        assert_eq!(by(Some("alice"), revision, Call::EtcdStatus), None);
        // Whoever has leases renewed is looked at each time: his stream may be older than what he
        // may do.
        assert_eq!(by(Some("alice"), revision, renew(7)), None);
        assert_eq!(by(None, 0, renew(7)), Some(UserEmpty));
        assert_eq!(by(Some("bob"), revision, renew(7)), Some(PermissionDenied));
    }
}

#[test]
fn a_node_that_is_cut_off_from_the_users_stops_judging_by_old_ones() {
    let mut configs: Vec<_> = (0..5).map(|each| config(each, 5)).collect();
    for config in &mut configs {
        config.limits.users_patience = Duration::from_secs(20);
    }
    let mut world = World::new(3, configs);
    (0..5).for_each(|host| world.start(host));
    world.wait_for_leader();
    let call = Call::KeyspaceCreate {
        names: vec!["pods".to_owned()],
        replicas: 3,
        engine: EngineKind::Raft,
        quorums: None,
    };
    world.ask(0, call);
    world.run(Duration::from_secs(2));
    let holding = holders(&world, 5);
    let revision = with_users(&mut world, holding[0]);
    // Two holders of the keyspace live, which are no majority of the cluster.
    (0..5)
        .filter(|host| !holding[..2].contains(host))
        .for_each(|host| world.kill(host));
    world.run(Duration::from_secs(5));
    let alice = Some(("alice", revision));
    let host = holding[0];
    assert_eq!(
        asked_by(&mut world, host, alice, put()),
        None,
        "for a while"
    );
    world.run(Duration::from_secs(20));
    let refused = asked_by(&mut world, host, alice, put());
    assert_eq!(refused, Some(etcd::Error::NoLeader));
    let renewed = asked_by(&mut world, host, alice, renew(7));
    assert_eq!(renewed, None, "no keys go because another group is down");
    (0..5)
        .filter(|host| !holding[..2].contains(host))
        .for_each(|host| world.start(host));
    world.run(Duration::from_secs(5));
    assert_eq!(asked_by(&mut world, host, alice, put()), None);
}

/// Asks a host about the default keyspace, or about `pods`.
fn within(world: &mut World, host: usize, keyspace: Option<&str>, call: Call) -> Answer {
    let call = match keyspace {
        Some(keyspace) => Call::In {
            keyspace: Arc::from(keyspace),
            call: Box::new(call),
        },
        None => call,
    };
    world.ask(host, call)
}

fn grant(world: &mut World, host: usize, keyspace: Option<&str>, id: i64, ttl: i64) {
    let request = etcd::Request::LeaseGrant(LeaseGrantRequest { id, ttl });
    let answer = within(world, host, keyspace, Call::Etcd(request));
    assert!(matches!(answer, Answer::Etcd(Ok(_))), "{answer:?}");
}

fn revoke(world: &mut World, host: usize, id: i64) {
    let request = etcd::Request::LeaseRevoke(LeaseRevokeRequest { id });
    let answer = within(world, host, None, Call::Etcd(request));
    assert!(matches!(answer, Answer::Etcd(Ok(_))), "{answer:?}");
}

/// What a server does before it has `pods` attach keys to a lease of the default keyspace.
fn follow(world: &mut World, host: usize, id: i64) -> Result<(), etcd::Error> {
    let asked = within(world, host, None, Call::ParentLeases(vec![LeaseId(id)]));
    let Answer::ParentLeases(Ok(parents)) = asked else {
        panic!("{asked:?}");
    };
    let told = Call::FollowParents(parents);
    match within(world, host, Some("pods"), told) {
        Answer::ParentsFollowed(result) => result,
        other => panic!("{other:?}"),
    }
}

fn put_leased(world: &mut World, host: usize, key: &str, lease: i64) -> Option<etcd::Error> {
    let put = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        lease,
        ..PutRequest::default()
    };
    let call = Call::Etcd(etcd::Request::Put(put));
    error_of(within(world, host, Some("pods"), call))
}

fn pods_has(world: &mut World, host: usize, key: &str) -> bool {
    let range = RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..RangeRequest::default()
    };
    let call = Call::Etcd(etcd::Request::Range(range));
    match within(world, host, Some("pods"), call) {
        Answer::Etcd(Ok(etcd::Response::Range(response))) => !response.kvs.is_empty(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn keys_of_a_keyspace_go_with_a_lease_of_the_default_one() {
    let mut world = cluster(4, 3);
    assert_eq!(
        put_leased(&mut world, 0, "k", 7),
        Some(etcd::Error::LeaseNotFound)
    );
    grant(&mut world, 0, None, 7, 3);
    for host in 0..3 {
        assert_eq!(follow(&mut world, host, 7), Ok(()));
        assert_eq!(put_leased(&mut world, host, &format!("k{host}"), 7), None);
    }
    // Kept alive where it was granted, it lasts; a leader that dies changes nothing of that.
    for host in [0, 1, 2, 0, 1, 2] {
        let kept = within(&mut world, host, None, renew(7));
        assert!(matches!(kept, Answer::LeasesRenewed(Ok(_))), "{kept:?}");
        world.run(Duration::from_secs(2));
    }
    let renewed = within(&mut world, 0, Some("pods"), renew(7));
    match renewed {
        Answer::LeasesRenewed(Ok(renewed)) => assert_eq!(renewed.seconds, [Ok(0)], "not there"),
        other => panic!("{other:?}"),
    }
    assert!((0..3).all(|host| pods_has(&mut world, host, &format!("k{host}"))));
    world.run(Duration::from_secs(5));
    assert!((0..3).all(|host| !pods_has(&mut world, host, &format!("k{host}"))));
    assert_eq!(
        put_leased(&mut world, 1, "k", 7),
        Some(etcd::Error::LeaseNotFound)
    );
    // One that is revoked, and granted again: what went with the first goes, what came later stays.
    grant(&mut world, 0, None, 7, 600);
    assert_eq!(follow(&mut world, 1, 7), Ok(()));
    assert_eq!(put_leased(&mut world, 1, "first", 7), None);
    revoke(&mut world, 2, 7);
    grant(&mut world, 2, None, 7, 600);
    assert_eq!(follow(&mut world, 1, 7), Ok(()));
    assert!(!pods_has(&mut world, 1, "first"));
    assert_eq!(put_leased(&mut world, 1, "second", 7), None);
    world.run(Duration::from_secs(5));
    assert!(pods_has(&mut world, 0, "second"));
    revoke(&mut world, 2, 7);
    assert_eq!(
        follow(&mut world, 0, 7),
        Ok(()),
        "it is over, and that is done"
    );
    assert!(!pods_has(&mut world, 0, "second"));
    // The keyspace's own leases are nobody else's.
    grant(&mut world, 0, Some("pods"), 9, 600);
    grant(&mut world, 0, None, 9, 600);
    assert_eq!(follow(&mut world, 0, 9), Err(etcd::Error::LeaseOfOther));
    assert_eq!(put_leased(&mut world, 0, "own", 9), None);
    revoke(&mut world, 0, 9);
    world.run(Duration::from_secs(2));
    assert!(pods_has(&mut world, 0, "own"));
}

/// A server asks which of these leases of the default keyspace keys of `pods` go with.
fn tied(world: &mut World, host: usize, leases: &[i64], linearizable: bool) -> Vec<i64> {
    let leases = leases.iter().copied().map(LeaseId).collect();
    let call = Call::TiedLeases {
        leases,
        linearizable,
    };
    match within(world, host, Some("pods"), call) {
        Answer::TiedLeases(Ok(tied)) => tied.into_iter().map(|lease| lease.0).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_finds_out_which_leases_keys_go_with_whoever_it_serves() {
    let mut world = cluster(6, 3);
    for id in [7, 8, 9] {
        grant(&mut world, 0, None, id, 600);
    }
    // Called alike, and a lease of its own.
    grant(&mut world, 0, Some("pods"), 9, 600);
    assert_eq!(put_leased(&mut world, 0, "own", 9), None);
    assert_eq!(follow(&mut world, 0, 7), Ok(()));
    assert_eq!(follow(&mut world, 0, 8), Ok(()));
    assert_eq!(put_leased(&mut world, 0, "k", 7), None);
    for users in [false, true] {
        if users {
            with_users(&mut world, 0);
        }
        world.run(Duration::from_secs(1));
        for host in 0..3 {
            for linearizable in [false, true] {
                let tied = tied(&mut world, host, &[9, 7, 8, 7, 5], linearizable);
                assert_eq!(tied, [7, 7]);
            }
        }
    }
}

/// Whoever may use a keyspace could attach keys of it to everybody's leases, and who had granted
/// one could not end it any more.
#[test]
fn keys_are_attached_to_leases_by_those_who_may_write_their_other_keys() {
    let mut world = cluster(7, 3);
    for (id, key) in [(7, "k"), (8, "")] {
        grant(&mut world, 0, None, id, 600);
        if !key.is_empty() {
            let put = PutRequest {
                key: Bytes::from_static(key.as_bytes()),
                lease: id,
                ..PutRequest::default()
            };
            let put = Call::Etcd(etcd::Request::Put(put));
            assert_eq!(error_of(within(&mut world, 0, None, put)), None);
        }
    }
    let revision = with_users(&mut world, 0);
    for host in 0..3 {
        for (user, lease, expected) in [
            ("alice", 7, Some(etcd::Error::PermissionDenied)),
            ("alice", 8, None),
            ("root", 7, None),
        ] {
            let call = Call::As {
                caller: Arc::new(Caller {
                    user: user.to_owned(),
                    revision,
                }),
                call: Box::new(Call::ParentLeases(vec![LeaseId(lease)])),
            };
            match world.ask(host, call) {
                Answer::ParentLeases(told) => assert_eq!(told.err(), expected, "{user} {lease}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// What knows less of the first group ends nothing, and nothing stays once it knows.
#[test]
fn nothing_ends_early_and_nothing_stays_whoever_is_cut_off() {
    let mut world = cluster(5, 5);
    let holding = holders(&world, 5);
    grant(&mut world, 0, None, 7, 600);
    assert_eq!(follow(&mut world, holding[0], 7), Ok(()));
    assert_eq!(put_leased(&mut world, holding[0], "k", 7), None);
    // Two of three holders live: `pods` serves, and the first group has no majority.
    let away: Vec<usize> = (0..5).filter(|host| !holding[..2].contains(host)).collect();
    away.iter().for_each(|host| world.kill(*host));
    world.run(Duration::from_secs(20));
    assert!(pods_has(&mut world, holding[0], "k"));
    away.iter().for_each(|host| world.start(*host));
    world.run(Duration::from_secs(10));
    // Now `pods` has none, and its lease ends.
    holding[..2].iter().for_each(|host| world.kill(*host));
    revoke(&mut world, away[0], 7);
    world.run(Duration::from_secs(5));
    holding[..2].iter().for_each(|host| world.start(*host));
    world.run(Duration::from_secs(10));
    assert!(!pods_has(&mut world, holding[0], "k"));
}
