//! The table of keyspaces: commands survive their bytes, and execute as they should.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::Duration;

use base::{Epoch, GroupId, NodeId, Random, Slot, WallTime};
use bytes::Bytes;
use consensus::{EngineKind, Member, Membership, QuorumSizes};
use quorate_cluster::meta::{
    CREATED_MAX, DEFAULT, KEYSPACES_MAX, MetaCommand, Picture, Replica, Tending, all_keyspaces,
    check_name, epoch, execute, keyspace, keyspaces, last_group, routes, sites, standing, tending,
};
use quorate_cluster::placement::plan::{Scope, TableEpoch};
use quorate_cluster::placement::site::{Domains, Standing};
use state::{EntryStamp, Limits, Space, State};

fn replicas(nodes: &[u64]) -> Vec<Replica> {
    let replica = |node: &u64| Replica {
        node: NodeId(*node),
        name: format!("n{node}"),
        address: format!("host{node}:2380"),
    };
    nodes.iter().map(replica).collect()
}

fn create(name: &str, seen: u64, nodes: &[u64]) -> MetaCommand {
    MetaCommand::Create {
        seen: TableEpoch(seen),
        engine: EngineKind::Paxos,
        quorums: None,
        keyspaces: vec![(name.to_owned(), replicas(nodes))],
    }
}

fn remove(name: &str) -> MetaCommand {
    let name = name.to_owned();
    MetaCommand::Drop { name }
}

/// Three voters, and n4 without a vote.
fn three_voters() -> Membership {
    let member = |node| Member {
        name: format!("n{node}"),
        peer_address: format!("host{node}:2380"),
    };
    Membership {
        members: (1..=4).map(|node| (NodeId(node), member(node))).collect(),
        voters: (1..=3).map(NodeId).collect(),
        ..Membership::default()
    }
}

fn next(state: &State) -> EntryStamp {
    EntryStamp {
        slot: Slot(state.reader().applied().0 + 1),
        epoch: Epoch(1),
        wall: WallTime::default(),
        elapsed: Duration::ZERO,
    }
}

/// Executes one command in an entry of its own.
fn run(state: &mut State, command: &MetaCommand) -> Result<String, String> {
    state.begin_entry(&next(state));
    let result = execute(state.transaction(), &three_voters(), &command.encode());
    drop(state.end_entry());
    result
}

#[test]
fn keyspaces_come_and_go_and_numbers_are_never_used_twice() {
    let mut state = State::new(Limits::default());
    assert_eq!(epoch(state.reader()), TableEpoch(0));
    run(&mut state, &create("pods", 0, &[1, 2, 3])).unwrap();
    run(&mut state, &create("events", 1, &[2])).unwrap();
    let pods = keyspace(state.reader(), "pods").unwrap();
    assert_eq!(pods.group, GroupId(1));
    assert_eq!(pods.engine, EngineKind::Paxos);
    assert_eq!(pods.replicas, replicas(&[1, 2, 3]));
    run(&mut state, &remove("pods")).unwrap();
    assert_eq!(keyspace(state.reader(), "pods"), None);
    assert_eq!(epoch(state.reader()), TableEpoch(3));
    assert_eq!(last_group(state.reader()), GroupId(2));
    run(&mut state, &create("pods", 3, &[3])).unwrap();
    let listed = keyspaces(state.reader());
    let listed: Vec<_> = listed
        .iter()
        .map(|each| (&each.name[..], each.group))
        .collect();
    assert_eq!(listed, [("events", GroupId(2)), ("pods", GroupId(3))]);
}

#[test]
fn what_contradicts_the_table_changes_nothing() {
    let mut state = State::new(Limits::default());
    run(&mut state, &create("pods", 0, &[1, 2, 3])).unwrap();
    for (command, reason) in [
        (create("pods", 1, &[1]), "already"),
        (create(DEFAULT, 1, &[1]), "already"),
        (create("events", 0, &[1]), "has changed"),
        (create("events", 1, &[]), "1, 3, 5 or 7"),
        (create("events", 1, &[1, 2]), "1, 3, 5 or 7"),
        (create("events", 1, &[4]), "n4 is not a voter"),
        (create("events", 1, &[1, 2, 5]), "n5 is not a voter"),
        (create("events", 1, &[1, 1, 2]), "a node of its own"),
        (create("Events", 1, &[1]), "cannot be called"),
        (remove("events"), "no keyspace"),
        (remove(DEFAULT), "cannot be dropped"),
    ] {
        let told = run(&mut state, &command).unwrap_err();
        assert!(told.contains(reason), "{told}");
        assert_eq!(epoch(state.reader()), TableEpoch(1));
        assert_eq!(keyspaces(state.reader()).len(), 1);
    }
}

fn many(seen: u64, names: &[String]) -> MetaCommand {
    let keyspace = |name: &String| (name.clone(), replicas(&[1, 2, 3]));
    MetaCommand::Create {
        seen: TableEpoch(seen),
        engine: EngineKind::Raft,
        quorums: None,
        keyspaces: names.iter().map(keyspace).collect(),
    }
}

#[test]
fn many_keyspaces_are_made_at_once_or_none() {
    let names = |count: usize| -> Vec<String> { (1..=count).map(|n| format!("k{n}")).collect() };
    let mut state = State::new(Limits::default());
    run(&mut state, &create("pods", 0, &[1])).unwrap();
    let mut wrong = names(3);
    wrong.push("pods".to_owned());
    for (names, reason) in [
        (wrong, "called pods already"),
        (vec!["k1".to_owned(), "k1".to_owned()], "called k1 already"),
        (vec!["k1".to_owned(), "K2".to_owned()], "cannot be called"),
        (names(CREATED_MAX + 1), "at a time"),
        (Vec::new(), "at a time"),
    ] {
        let told = run(&mut state, &many(1, &names)).unwrap_err();
        assert!(told.contains(reason), "{told}");
        assert_eq!(keyspaces(state.reader()).len(), 1);
        assert_eq!(epoch(state.reader()), TableEpoch(1));
    }
    let told = run(&mut state, &many(1, &names(CREATED_MAX))).unwrap();
    assert!(told.contains("in the groups 2 to 513: k1, k2"), "{told}");
    assert_eq!(epoch(state.reader()), TableEpoch(2), "one change");
    assert_eq!(last_group(state.reader()), GroupId(513));
    let groups: Vec<GroupId> = keyspaces(state.reader())
        .iter()
        .map(|each| each.group)
        .collect();
    let distinct: std::collections::BTreeSet<_> = groups.iter().collect();
    assert_eq!(distinct.len(), CREATED_MAX + 1);
}

fn route(prefix: &'static [u8], name: &str) -> MetaCommand {
    MetaCommand::Route {
        prefix: Bytes::from_static(prefix),
        name: name.to_owned(),
    }
}

fn unroute(prefix: &'static [u8]) -> MetaCommand {
    MetaCommand::Unroute {
        prefix: Bytes::from_static(prefix),
    }
}

/// Writes a key of the default keyspace, or deletes it.
fn write(state: &mut State, key: &[u8], is_there: bool) {
    state.begin_entry(&next(state));
    let mut transaction = state.transaction();
    match is_there {
        true => drop(transaction.put(Space::ETCD, key, b"", 0)),
        false => drop(transaction.delete(Space::ETCD, key)),
    }
    transaction.commit();
    drop(state.end_entry());
}

#[test]
fn routes_are_given_where_nothing_would_be_hidden_and_none_begins_another() {
    let mut state = State::new(Limits::default());
    run(&mut state, &create("pods", 0, &[1, 2, 3])).unwrap();
    run(&mut state, &create("events", 1, &[1])).unwrap();
    write(&mut state, b"/e/1", true);
    write(&mut state, b"/f", true);
    let refused = |state: &mut State, command: MetaCommand, reason: &str| {
        let before = epoch(state.reader());
        let told = run(state, &command).unwrap_err();
        assert!(told.contains(reason), "{told}");
        assert_eq!(epoch(state.reader()), before);
    };
    refused(&mut state, route(b"/e/", "events"), "holds 1 keys");
    write(&mut state, b"/e/1", false);
    run(&mut state, &route(b"/e/", "events")).unwrap();
    run(&mut state, &route(b"\xff", "pods")).unwrap();
    for (command, reason) in [
        (route(b"/e/", "events"), "leads to events already"),
        (route(b"/e/x", "pods"), "leads to events already"),
        (route(b"/", "pods"), "leads to events already"),
        (route(b"\xff\xff", "events"), "\\xff leads to pods already"),
        (route(b"", "pods"), "1 to 1024 bytes"),
        (route(&[b'a'; 1025], "pods"), "not 1025"),
        (route(b"/x/", "nobody"), "no keyspace called nobody"),
        (route(b"/x/", DEFAULT), "take the route away"),
        (unroute(b"/x/"), "no route has the prefix"),
        (remove("events"), "the prefix /e/ leads to events"),
    ] {
        refused(&mut state, command, reason);
    }
    let listed = routes(state.reader());
    let listed: Vec<_> = listed
        .iter()
        .map(|route| (&route.prefix[..], &route.keyspace[..]))
        .collect();
    assert_eq!(listed, [(&b"/e/"[..], "events"), (&b"\xff"[..], "pods")]);
    assert_eq!(all_keyspaces(state.reader()).unwrap().len(), 2);
    run(&mut state, &unroute(b"/e/")).unwrap();
    run(&mut state, &remove("events")).unwrap();
    assert_eq!(routes(state.reader()).len(), 1);
}

fn sized(name: &str, seen: u64, elect: usize, commit: usize) -> MetaCommand {
    MetaCommand::Create {
        seen: TableEpoch(seen),
        engine: EngineKind::Raft,
        quorums: Some(QuorumSizes { elect, commit }),
        keyspaces: vec![(name.to_owned(), replicas(&[1, 2, 3]))],
    }
}

#[test]
fn sizes_of_quorums_stand_in_the_table_and_wrong_ones_do_not() {
    let mut state = State::new(Limits::default());
    for (elect, commit, reason) in [
        (2, 1, "2 + 1 = 3 is not more than the 3 voters"),
        (1, 3, "2 * 1 = 2 is not more than the 3 voters"),
        (4, 1, "not between 1 and the 3 voters"),
        (300, 1, "not between 1 and the 3 voters"),
        (0, 3, "not between 1 and the 3 voters"),
    ] {
        let told = run(&mut state, &sized("pods", 0, elect, commit)).unwrap_err();
        assert!(told.contains(reason), "{told}");
    }
    run(&mut state, &sized("pods", 0, 3, 1)).unwrap();
    run(&mut state, &sized("events", 1, 2, 2)).unwrap();
    let shown = |name| {
        let quorums = keyspace(state.reader(), name).unwrap().quorums;
        (quorums.of(3).to_string(), quorums.of(4).to_string())
    };
    let of = |three: &str| (three.to_owned(), "elect=3,commit=3".to_owned());
    assert_eq!(shown("pods"), of("elect=3,commit=1"));
    assert_eq!(shown("events"), of("elect=2,commit=2"));
}

#[test]
fn commands_survive_their_bytes_and_nothing_else_is_one() {
    let mut random = Random::from_seed(7);
    for command in [
        create("pods", 7, &[1, 2, 3]),
        create("a", 0, &[]),
        sized("b", 1, 3, 1),
        remove("events"),
        moved("pods", 3, &[1, 2, 3]),
        MetaCommand::Cancel {
            name: "pods".to_owned(),
        },
        MetaCommand::Leave {
            group: GroupId(3),
            begun: TableEpoch(4),
        },
        MetaCommand::Settle {
            group: GroupId(3),
            begun: TableEpoch(5),
        },
        MetaCommand::Site {
            node: NodeId(1),
            domains: zone("north"),
        },
        stand(1, Standing::Serving, Standing::Draining),
        route(b"/events/", "events"),
        unroute(b"/events/"),
        observe("pods", 4, true),
        observe("pods", 4, false),
        MetaCommand::Tend(Tending {
            replace_after: Some(Duration::from_secs(7)),
            rebalances: false,
        }),
    ] {
        let bytes = command.encode();
        assert_eq!(MetaCommand::decode(&bytes), Some(command));
        for length in 0..bytes.len() {
            assert_eq!(MetaCommand::decode(&bytes[..length]), None);
        }
        for _ in 0..2000 {
            let mut damaged = bytes.to_vec();
            let at = random.below(damaged.len() as u64) as usize;
            damaged[at] = random.next_u64() as u8;
            // Whatever it says now, it can be executed.
            let mut state = State::new(Limits::default());
            if let Some(command) = MetaCommand::decode(&damaged) {
                let _ = run(&mut state, &command);
            }
        }
    }
}

fn moved(name: &str, seen: u64, nodes: &[u64]) -> MetaCommand {
    MetaCommand::Move {
        seen: TableEpoch(seen),
        moves: vec![(name.to_owned(), replicas(nodes))],
    }
}

fn stand(node: u64, was: Standing, standing: Standing) -> MetaCommand {
    let node = NodeId(node);
    MetaCommand::Stand {
        node,
        was,
        standing,
    }
}

fn zone(name: &str) -> Domains {
    Domains {
        zone: name.to_owned(),
        ..Domains::default()
    }
}

fn step(state: &mut State, begun: u64, is_over: bool) -> Result<String, String> {
    let (group, begun) = (GroupId(1), TableEpoch(begun));
    let command = match is_over {
        false => MetaCommand::Leave { group, begun },
        true => MetaCommand::Settle { group, begun },
    };
    run(state, &command)
}

#[test]
fn a_keyspace_moves_by_filling_leaving_and_settling() {
    let mut state = State::new(Limits::default());
    run(&mut state, &create("pods", 0, &[1])).unwrap();
    let told = run(&mut state, &moved("pods", 0, &[2])).unwrap_err();
    assert!(told.contains("epoch 0"), "the culprit is named: {told}");
    run(&mut state, &moved("pods", 1, &[2])).unwrap();
    let pods = keyspace(state.reader(), "pods").unwrap();
    assert!(pods.is_held_by(NodeId(1)) && pods.is_held_by(NodeId(2)));
    assert_eq!(pods.serving(), replicas(&[1]));
    // What is about another move comes too late, and what skips a step too early.
    step(&mut state, 1, false).unwrap_err();
    step(&mut state, 2, true).unwrap_err();
    step(&mut state, 2, false).unwrap();
    step(&mut state, 2, false).unwrap_err();
    let pods = keyspace(state.reader(), "pods").unwrap();
    assert_eq!(pods.serving(), replicas(&[2]));
    assert!(pods.is_held_by(NodeId(1)), "until it has left");
    let cancel = MetaCommand::Cancel {
        name: "pods".to_owned(),
    };
    let told = run(&mut state, &cancel).unwrap_err();
    assert!(told.contains("leaving already"), "{told}");
    step(&mut state, 2, true).unwrap();
    let pods = keyspace(state.reader(), "pods").unwrap();
    assert!(!pods.is_held_by(NodeId(1)));
    assert_eq!(pods.replicas, replicas(&[2]));
    assert_eq!(pods.genesis, replicas(&[1]), "its log begins there");
    assert!(pods.former.contains(&NodeId(1)));
    assert_eq!(epoch(state.reader()), TableEpoch(4));
}

fn observe(name: &str, node: u64, observes: bool) -> MetaCommand {
    MetaCommand::Observe {
        name: name.to_owned(),
        node: NodeId(node),
        observes,
    }
}

#[test]
fn who_observes_a_keyspace_has_it_open_and_does_not_count() {
    let mut state = State::new(Limits::default());
    run(&mut state, &create("pods", 0, &[1])).unwrap();
    let before = state.reader().digest();
    for (command, reason) in [
        (observe("events", 4, true), "no keyspace"),
        (observe("pods", 5, true), "not a member"),
        (observe("pods", 1, true), "holds pods"),
        (observe("pods", 4, false), "does not observe"),
    ] {
        let refused = run(&mut state, &command).unwrap_err();
        assert!(refused.contains(reason), "{refused}");
    }
    assert_eq!(epoch(state.reader()), TableEpoch(1));
    // It need not have a vote in the cluster, and may.
    for node in [4, 2] {
        run(&mut state, &observe("pods", node, true)).unwrap();
    }
    let said = run(&mut state, &observe("pods", 4, true)).unwrap();
    assert!(said.contains("already"), "{said}");
    let pods = keyspace(state.reader(), "pods").unwrap();
    assert_eq!(pods.observers, [NodeId(2), NodeId(4)].into());
    assert!(pods.is_open_on(NodeId(4)) && !pods.is_held_by(NodeId(4)));
    assert!(pods.serving().iter().all(|each| each.node == NodeId(1)));
    assert_eq!(epoch(state.reader()), TableEpoch(3));
    // Who gets a vote observes no longer, and who is let go of is remembered.
    run(&mut state, &moved("pods", 3, &[2])).unwrap();
    run(&mut state, &observe("pods", 4, false)).unwrap();
    let pods = keyspace(state.reader(), "pods").unwrap();
    assert_eq!(pods.observers, [].into());
    assert_eq!(pods.former, [NodeId(4)].into());
    assert_ne!(state.reader().digest(), before);
}

#[test]
fn turning_back_and_going_elsewhere_are_moves_and_nobody_is_forgotten() {
    let mut state = State::new(Limits::default());
    run(&mut state, &create("pods", 0, &[1])).unwrap();
    run(&mut state, &moved("pods", 1, &[2])).unwrap();
    run(&mut state, &moved("pods", 2, &[2])).unwrap_err();
    run(&mut state, &moved("pods", 2, &[3])).unwrap();
    let leaving = |state: &State| {
        let moving = keyspace(state.reader(), "pods").unwrap().moving.unwrap();
        let nodes = moving.leaving.iter().map(|each| each.node.0);
        nodes.collect::<Vec<_>>()
    };
    assert_eq!(leaving(&state), [1, 2]);
    let cancel = MetaCommand::Cancel {
        name: "pods".to_owned(),
    };
    run(&mut state, &cancel).unwrap();
    assert_eq!(leaving(&state), [3, 2]);
    step(&mut state, 4, false).unwrap();
    step(&mut state, 4, true).unwrap();
    let pods = keyspace(state.reader(), "pods").unwrap();
    assert_eq!(pods.former, [NodeId(2), NodeId(3)].into());
    assert_eq!(pods.replicas, replicas(&[1]));
    assert!(pods.stays, "an operator wants it there");
}

#[test]
fn what_was_said_of_an_earlier_move_to_the_same_nodes_changes_nothing() {
    let mut state = State::new(Limits::default());
    run(&mut state, &create("pods", 0, &[1])).unwrap();
    let mut begun = Vec::new();
    for nodes in [&[2], &[1], &[2]] {
        let seen = epoch(state.reader()).0;
        run(&mut state, &moved("pods", seen, nodes)).unwrap();
        begun.push(seen + 1);
        step(&mut state, seen + 1, false).unwrap();
        if begun.len() < 3 {
            step(&mut state, seen + 1, true).unwrap();
        }
    }
    // The first move's word comes again: node 1, which has just got a vote again, would close.
    step(&mut state, begun[0], true).unwrap_err();
    assert!(
        keyspace(state.reader(), "pods")
            .unwrap()
            .is_held_by(NodeId(1))
    );
    step(&mut state, begun[2], true).unwrap();
}

#[test]
fn a_keyspace_is_moved_to_voters_alone_and_all_or_nothing() {
    let mut state = State::new(Limits::default());
    run(&mut state, &create("pods", 0, &[1])).unwrap();
    for (nodes, reason) in [
        (&[4][..], "n4 is not a voter"),
        (&[1, 2], "1, 3, 5 or 7"),
        (&[1], "is there already"),
    ] {
        let told = run(&mut state, &moved("pods", 1, nodes)).unwrap_err();
        assert!(told.contains(reason), "{told}");
    }
    let both = MetaCommand::Move {
        seen: TableEpoch(1),
        moves: vec![
            ("pods".to_owned(), replicas(&[2])),
            ("nothing".to_owned(), replicas(&[2])),
        ],
    };
    run(&mut state, &both).unwrap_err();
    assert_eq!(keyspace(state.reader(), "pods").unwrap().moving, None);
    assert_eq!(epoch(state.reader()), TableEpoch(1));
}

#[test]
fn what_is_known_of_nodes_stands_beside_the_table() {
    let mut state = State::new(Limits::default());
    assert_eq!(standing(state.reader(), NodeId(1)), Standing::Serving);
    assert_eq!(tending(state.reader()), None);
    let site = MetaCommand::Site {
        node: NodeId(1),
        domains: zone("north"),
    };
    run(&mut state, &site).unwrap();
    run(&mut state, &stand(1, Standing::Serving, Standing::Draining)).unwrap();
    // Decided on what it was before.
    let told = run(&mut state, &stand(1, Standing::Serving, Standing::Gone)).unwrap_err();
    assert!(told.contains("n1 is draining"), "{told}");
    run(&mut state, &stand(9, Standing::Serving, Standing::Gone)).unwrap_err();
    let sites = sites(state.reader(), &three_voters());
    assert_eq!(sites.len(), 3, "n4 has no vote");
    assert_eq!(sites[0].standing, Standing::Draining);
    assert_eq!(sites[0].domains, zone("north"));
    assert_eq!(sites[1].standing, Standing::Serving);
    let never = Tending {
        replace_after: None,
        rebalances: false,
    };
    run(&mut state, &MetaCommand::Tend(never)).unwrap();
    assert_eq!(tending(state.reader()), Some(never));
}

#[test]
fn a_plan_replaces_who_is_gone_and_leaves_alone_what_cannot_agree() {
    let mut state = State::new(Limits::default());
    run(&mut state, &create("pods", 0, &[1])).unwrap();
    run(&mut state, &create("jobs", 1, &[2])).unwrap();
    let planned = |state: &State| {
        let picture = Picture::new(state.reader(), &three_voters());
        picture.propose(&three_voters(), Scope::Necessary)
    };
    assert!(planned(&state).moves.is_empty());
    run(&mut state, &stand(1, Standing::Serving, Standing::Draining)).unwrap();
    let proposal = planned(&state);
    assert_eq!(proposal.moves.len(), 1);
    assert_eq!(proposal.moves[0].0, "pods");
    // Its only replica is dead: nobody could be filled from it.
    run(&mut state, &stand(1, Standing::Draining, Standing::Gone)).unwrap();
    let proposal = planned(&state);
    assert!(proposal.moves.is_empty());
    assert_eq!(proposal.stuck, ["pods"]);
}

#[test]
fn names_can_stand_in_headers_and_host_names() {
    for name in ["a", "pods", "kube-events-2", &"x".repeat(63)] {
        check_name(name).unwrap();
    }
    for name in [
        "",
        "-a",
        "a-",
        "A",
        "a.b",
        "a b",
        "\u{e4}",
        "a\n",
        &"x".repeat(64),
    ] {
        check_name(name).unwrap_err();
    }
}

#[test]
fn there_are_only_so_many_keyspaces_until_one_is_dropped() {
    let mut state = State::new(Limits::default());
    for each in 0..KEYSPACES_MAX {
        run(&mut state, &create(&format!("k{each}"), each, &[1])).unwrap();
    }
    let one_more = |state: &mut State| {
        let seen = epoch(state.reader()).0;
        run(state, &create("one-more", seen, &[1]))
    };
    let refused = one_more(&mut state).unwrap_err();
    assert!(refused.contains(&KEYSPACES_MAX.to_string()), "{refused}");
    assert_eq!(keyspaces(state.reader()).len() as u64, KEYSPACES_MAX);
    run(&mut state, &remove("nothing")).unwrap_err();
    one_more(&mut state).unwrap_err();
    run(&mut state, &remove("k7")).unwrap();
    one_more(&mut state).unwrap();
    one_more(&mut state).unwrap_err();
}

#[test]
fn a_row_that_cannot_be_read_is_not_taken_for_a_keyspace_that_is_gone() {
    let mut state = State::new(Limits::default());
    run(&mut state, &create("pods", 0, &[1, 2, 3])).unwrap();
    assert_eq!(all_keyspaces(state.reader()).unwrap().len(), 1);
    let stamp = next(&state);
    state.begin_entry(&stamp);
    let mut transaction = state.transaction();
    transaction.set_row(Space::META, b"kevents", b"of a later build");
    transaction.commit();
    drop(state.end_entry());
    let error = all_keyspaces(state.reader()).unwrap_err();
    assert!(error.contains("events"), "{error}");
    assert_eq!(keyspaces(state.reader()).len(), 1, "the others are known");
}
