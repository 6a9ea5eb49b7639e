//! etcd's Cluster service: members added, promoted, moved and removed as etcd's clients do it.

use std::time::Duration;

use bytes::Bytes;
use etcd::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    MoveLeaderRequest, PutRequest,
};
use etcd::{ClusterRequest, ClusterResponse, Error, MaintenanceRequest, MaintenanceResponse};
use quorate_node::{Answer, Call};

mod support;

use support::{World, config};

/// Longer than etcd waits before it believes that a member is well.
const SETTLED: Duration = Duration::from_secs(6);

fn change(world: &mut World, host: usize, request: ClusterRequest) -> Result<Vec<Member>, Error> {
    match world.ask(host, Call::EtcdCluster(request)) {
        Answer::EtcdCluster(result) => result.map(|response| match response {
            ClusterResponse::Add(response) => {
                let member = response.member.expect("the new member is named");
                assert!(
                    response.members.contains(&member),
                    "it is one of the members"
                );
                response.members
            }
            ClusterResponse::Remove(response) => response.members,
            ClusterResponse::Update(response) => response.members,
            ClusterResponse::Promote(response) => response.members,
        }),
        other => panic!("{other:?}"),
    }
}

fn add(world: &mut World, through: usize, host: usize, learner: bool) -> Result<u64, Error> {
    let url = format!("http://host{host}:2380");
    let request = ClusterRequest::Add(MemberAddRequest {
        peer_ur_ls: vec![url.clone()],
        is_learner: learner,
    });
    let members = change(world, through, request)?;
    let added = members.iter().find(|each| each.peer_ur_ls == [url.clone()]);
    let added = added.expect("the new member is listed");
    assert_eq!(added.name, "", "it has not started");
    assert_eq!(added.is_learner, learner);
    Ok(added.id)
}

fn remove(world: &mut World, through: usize, id: u64) -> Result<Vec<Member>, Error> {
    let request = ClusterRequest::Remove(MemberRemoveRequest { id });
    change(world, through, request)
}

fn promote(world: &mut World, through: usize, id: u64) -> Result<Vec<Member>, Error> {
    let request = ClusterRequest::Promote(MemberPromoteRequest { id });
    change(world, through, request)
}

fn update(world: &mut World, through: usize, id: u64, url: &str) -> Result<Vec<Member>, Error> {
    let peer_ur_ls = vec![url.to_owned()];
    let request = ClusterRequest::Update(MemberUpdateRequest { id, peer_ur_ls });
    change(world, through, request)
}

fn members(world: &mut World, host: usize) -> Vec<Member> {
    match world.ask(host, Call::EtcdMemberList { linearizable: true }) {
        Answer::EtcdMemberList(Ok(list)) => list.members,
        other => panic!("{other:?}"),
    }
}

fn must_put(world: &mut World, host: usize, key: &str) {
    let request = etcd::Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..Default::default()
    });
    match world.ask(host, Call::Etcd(request)) {
        Answer::Etcd(Ok(_)) => {}
        other => panic!("put through {host}: {other:?}\n{}", world.picture()),
    }
}

/// Three members at work and further hosts that are not started.
fn three_and(seed: u64, further: usize) -> World {
    let mut world = World::new(seed, (0..3 + further).map(|each| config(each, 3)).collect());
    (0..3).for_each(|host| world.start(host));
    let leader = world.wait_for_leader();
    must_put(&mut world, leader, "a");
    world.run(SETTLED);
    world
}

/// Starts a host as etcd's `--initial-cluster-state existing` does: it knows the others' addresses.
fn start_joining(world: &mut World, host: usize) {
    world.config_of(host).cluster.clear();
    world.config_of(host).join = (0..3).map(|each| format!("host{each}:2380")).collect();
    world.start(host);
}

fn serves(world: &World, host: usize) -> bool {
    world.is_running(host) && world.node(host).status().revision > 1
}

#[test]
fn a_learner_added_by_its_address_brings_its_name_and_is_promoted_when_it_is_ready() {
    let mut world = three_and(40, 2);
    let id = add(&mut world, 0, 3, true).expect("everybody is well");
    assert_eq!(
        promote(&mut world, 1, id),
        Err(Error::LearnerNotReady),
        "it has not started"
    );
    let twice = add(&mut world, 2, 4, true);
    assert_eq!(twice, Err(Error::TooManyLearners));
    assert_eq!(add(&mut world, 2, 3, true), Err(Error::PeerUrlExists));
    start_joining(&mut world, 3);
    world.run_until(Duration::from_secs(10), "it joins", |world| {
        serves(world, 3)
    });
    world.run(Duration::from_secs(2));
    let found = members(&mut world, 3);
    let own = found
        .iter()
        .find(|member| member.id == id)
        .expect("it is a member");
    assert_eq!((own.name.as_str(), own.is_learner), ("n4", true));
    let after = promote(&mut world, 1, id).expect("it is ready");
    assert!(after.iter().all(|member| !member.is_learner), "{after:?}");
    assert_eq!(promote(&mut world, 1, id), Err(Error::NotLearner));
    // It is known by its name after a restart, too.
    world.kill(3);
    world.start(3);
    world.run_until(Duration::from_secs(10), "it is back", |world| {
        serves(world, 3)
    });
}

#[test]
fn a_member_added_as_a_voter_gets_its_vote_by_itself_but_not_before_it_has_the_data() {
    let mut world = three_and(41, 1);
    let id = add(&mut world, 1, 3, false).expect("everybody is well");
    let status = world.node(0).status();
    let own = status.members.iter().find(|member| member.id.0 == id);
    assert!(!own.expect("it is a member").voter, "no vote without data");
    assert_eq!(
        promote(&mut world, 1, id),
        Err(Error::NotLearner),
        "as in etcd"
    );
    start_joining(&mut world, 3);
    world.run_until(Duration::from_secs(10), "it votes", |world| {
        let status = world.node(0).status();
        status
            .members
            .iter()
            .any(|member| member.id.0 == id && member.voter)
    });
    must_put(&mut world, 3, "b");
}

#[test]
fn what_speaks_against_a_change_is_said_in_etcds_words() {
    let mut world = World::new(42, (0..4).map(|each| config(each, 3)).collect());
    (0..3).for_each(|host| world.start(host));
    let leader = world.wait_for_leader();
    must_put(&mut world, leader, "a");
    assert_eq!(
        add(&mut world, 0, 3, true),
        Err(Error::Unhealthy),
        "nobody has been up for long"
    );
    world.run(SETTLED);
    let ids: Vec<u64> = (0..3).map(|host| world.node(host).status().id.0).collect();
    for host in 0..3 {
        assert_eq!(remove(&mut world, host, 77), Err(Error::MemberNotFound));
        assert_eq!(promote(&mut world, host, 77), Err(Error::MemberNotFound));
        assert_eq!(promote(&mut world, host, ids[0]), Err(Error::NotLearner));
        let there = update(&mut world, host, ids[0], "http://host1:2380");
        assert_eq!(there, Err(Error::PeerUrlExists));
        let nowhere = update(&mut world, host, 77, "http://host9:2380");
        assert_eq!(nowhere, Err(Error::MemberNotFound));
        let nothing = update(&mut world, host, ids[0], "host9:2380");
        assert_eq!(nothing, Err(Error::InvalidMemberUrls));
    }
    let down = (leader + 1) % 3;
    world.kill(down);
    world.run(Duration::from_secs(1));
    let asked = (leader + 2) % 3;
    assert_eq!(add(&mut world, asked, 3, false), Err(Error::Unhealthy));
    let healthy = ids[asked];
    assert_eq!(
        remove(&mut world, leader, healthy),
        Err(Error::Unhealthy),
        "two would be left of \
         which one is down"
    );
    let left = remove(&mut world, asked, ids[down]).expect("what is down takes nothing with it");
    assert_eq!(left.len(), 2);
    add(&mut world, asked, 3, false).expect("the others are well");
}

/// Started again as etcd is, with flags that say nothing of addresses or something else than the
/// log: each node once wrote what they said into the log, which cut all of them off from each other
/// for good, or undid what `member update` had done.
#[test]
fn nodes_that_start_again_leave_their_addresses_as_they_are_in_the_log() {
    let mut world = three_and(48, 0);
    let urls = |world: &mut World, host: usize| -> Vec<(String, String)> {
        let members = members(world, host).into_iter();
        let mut urls: Vec<_> = members
            .map(|mut member| (member.name, member.peer_ur_ls.remove(0)))
            .collect();
        urls.sort_unstable();
        urls
    };
    let mut expected = urls(&mut world, 0);
    let moved = world.node(2).status().id.0;
    update(&mut world, 1, moved, "http://elsewhere:2380").expect("nobody is there");
    expected[2].1 = "http://elsewhere:2380".to_owned();
    world.listen_at(2, "elsewhere:2380");
    for host in [2, 0, 1] {
        world.kill(host);
        if host < 2 {
            world.listen_at(host, &format!("host{host}:2380"));
        }
        let config = world.config_of(host);
        config.peer_address = None;
        config.place_is_logged = true;
        config.cluster.clear();
        world.start(host);
        world.wait_for_leader();
        must_put(&mut world, host, "b");
        // Longer than a node takes to say where it is.
        world.run(Duration::from_secs(5));
        assert_eq!(urls(&mut world, host), expected);
    }
    // It can be joined as before.
    let add = Call::MemberAdd {
        name: "n4".to_owned(),
        peer_address: "host3:2380".to_owned(),
        is_witness: false,
    };
    let added = world.ask(0, add);
    assert!(matches!(added, Answer::Operator(Ok(_))), "{added:?}");
}

/// A node that had just formed a cluster once still told the others where it was by its flags, for
/// a second, and undid what was said of it in between.
#[test]
fn a_member_is_moved_as_soon_as_it_serves() {
    for moved in 0..3 {
        let mut world = World::cluster(51, 3);
        let all_serve = |world: &World| (0..3).all(|host| world.is_ready(host));
        world.run_until(Duration::from_secs(10), "all serve", all_serve);
        let id = world.node(moved).status().id.0;
        let url = "http://elsewhere:2380";
        let members = update(&mut world, 0, id, url).expect("nobody is there");
        let own = |members: &[Member]| {
            let own = members.iter().find(|member| member.id == id);
            own.expect("it is a member").peer_ur_ls.clone()
        };
        assert_eq!(own(&members), [url]);
        world.run(Duration::from_secs(5));
        let other = (moved + 1) % 3;
        assert_eq!(own(&self::members(&mut world, other)), [url]);
    }
}

/// A node that had formed a cluster alone, without peers, took its address from its flags for good.
#[test]
fn an_address_that_came_into_the_log_later_holds_as_well() {
    let mut world = World::new(52, vec![config(0, 1)]);
    world.config_of(0).place_is_logged = true;
    let addresses = [(None, ""), (Some("host0:2380"), "host0:2380")];
    for (told, expected) in addresses
        .into_iter()
        .chain([(Some("localhost:2380"), "host0:2380"), (None, "host0:2380")])
    {
        world.config_of(0).peer_address = told.map(str::to_owned);
        world.start(0);
        world.wait_for_leader();
        must_put(&mut world, 0, "a");
        world.run(Duration::from_secs(5));
        assert_eq!(world.node(0).status().members[0].peer_address, expected);
        world.kill(0);
    }
}

/// Each was refused the address of the other, and none of them heard of it.
#[test]
fn members_may_exchange_their_addresses() {
    let mut world = three_and(53, 0);
    (0..3).for_each(|host| world.kill(host));
    for (host, other) in [(0, 1), (1, 0)] {
        let address = format!("host{other}:2380");
        world.listen_at(host, &address);
        world.config_of(host).peer_address = Some(address);
        world.config_of(host).cluster.clear();
    }
    (0..3).for_each(|host| world.start(host));
    // Before both are heard, the one has to lead that both of them reach.
    world.run(SETTLED);
    let names = ["n1", "n2", "n3"];
    let leader = world.node(2).status().leader.expect("it reaches both");
    let leader = names.iter().position(|name| *name == leader).unwrap();
    if leader != 2 {
        let to = Some("n3".to_owned());
        let led = world.ask(leader, Call::TransferLeadership { to });
        assert!(matches!(led, Answer::Operator(Ok(_))), "{led:?}");
    }
    let all_serve = |world: &World| (0..3).all(|host| world.is_ready(host));
    world.run_until(Duration::from_secs(30), "all serve", all_serve);
    world.run(SETTLED);
    for host in 0..3 {
        must_put(&mut world, host, "b");
        let mut urls = members(&mut world, host);
        urls.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let urls = urls
            .into_iter()
            .map(|mut member| member.peer_ur_ls.remove(0));
        let expected = [
            "http://host1:2380",
            "http://host0:2380",
            "http://host2:2380",
        ];
        assert_eq!(urls.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn the_last_member_stays_and_every_member_can_remove_itself() {
    let mut world = three_and(43, 0);
    for left in [2, 1] {
        let leader = world.wait_for_leader();
        let id = world.node(leader).status().id.0;
        let members = remove(&mut world, leader, id).expect("enough are left");
        assert_eq!(members.len(), left);
        world.run_until(Duration::from_secs(10), "it is gone", |world| {
            !world.is_running(leader)
        });
        world.wait_for_leader();
        world.run(SETTLED);
    }
    let last = world.wait_for_leader();
    let id = world.node(last).status().id.0;
    assert_eq!(
        remove(&mut world, last, id),
        Err(Error::NotEnoughStartedMembers)
    );
}

#[test]
fn the_leader_alone_moves_leadership_and_only_to_a_voter() {
    let mut world = three_and(44, 0);
    let leader = world.wait_for_leader();
    let other = (leader + 1) % 3;
    let ids: Vec<u64> = (0..3).map(|host| world.node(host).status().id.0).collect();
    let ask = |world: &mut World, host: usize, target_id: u64| {
        let request = MaintenanceRequest::MoveLeader(MoveLeaderRequest { target_id });
        match world.ask(host, Call::EtcdMaintenance(request)) {
            Answer::EtcdMaintenance(result) => result,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&mut world, other, ids[other]), Err(Error::NotLeader));
    assert_eq!(ask(&mut world, leader, 77), Err(Error::BadLeaderTransferee));
    let moved = MaintenanceResponse::MoveLeader(Default::default());
    assert_eq!(ask(&mut world, leader, ids[leader]), Ok(moved.clone()));
    assert_eq!(ask(&mut world, leader, ids[other]), Ok(moved));
    world.run(Duration::from_secs(1));
    assert_eq!(world.leader(), Some(other));
}

#[test]
fn a_voter_that_is_not_added_leaves_no_wish_for_a_vote_behind() {
    let mut world = three_and(47, 1);
    let wishes = |world: &World, host: usize| {
        let running = world.node(host).running().expect("it runs");
        let rows = running.replica().reader().rows(state::Space::MEMBERS);
        rows.filter(|(key, _)| key.ends_with(b"v")).count()
    };
    // The address of a member.
    for through in 0..3 {
        assert_eq!(
            add(&mut world, through, 1, false),
            Err(Error::PeerUrlExists)
        );
    }
    world.run(Duration::from_secs(1));
    (0..3).for_each(|host| assert_eq!(wishes(&world, host), 0));
    // One that is added keeps its own until it has its vote.
    add(&mut world, 0, 3, false).expect("everybody is well");
    (0..3).for_each(|host| assert_eq!(wishes(&world, host), 1));
}
