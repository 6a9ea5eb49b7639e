//! What placement promises: even, spread, and little moved; and that its steps arrive.

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, NodeId, Random};
use quorate_cluster::placement::explain::{Against, drawing, explain};
use quorate_cluster::placement::mover::{self, Observed, Step, steps};
use quorate_cluster::placement::plan::{Plan, Reason, Table, Wanted, plan};
use quorate_cluster::placement::site::{Conflicts, Domains, Site, Standing, Weight};

fn site(id: u64) -> Site {
    Site {
        node: NodeId(id),
        name: format!("n{id}"),
        weight: Weight::ORDINARY,
        domains: Domains::default(),
        standing: Standing::Serving,
    }
}

fn in_zone(id: u64, zone: &str) -> Site {
    let domains = Domains {
        zone: zone.to_owned(),
        ..Domains::default()
    };
    Site {
        domains,
        ..site(id)
    }
}

fn wanted(groups: u64, replicas: usize) -> Wanted {
    (0..groups)
        .map(|group| (GroupId(group), replicas))
        .collect()
}

fn carried_out(plan: &Plan) -> Table {
    Table {
        epoch: plan.epoch,
        groups: plan.target.clone(),
    }
}

#[test]
fn a_tenth_node_gets_its_share_and_nothing_else_moves() {
    let nine: Vec<Site> = (1..=9).map(site).collect();
    let wanted = wanted(1024, 3);
    let first = plan(&nine, &wanted, &Table::default());
    assert!(first.after.fullest_thousandths <= 1010, "{:?}", first.after);
    assert!(first.missing.is_empty());

    let ten: Vec<Site> = (1..=10).map(site).collect();
    let grown = plan(&ten, &wanted, &carried_out(&first));
    // 1024 groups of 3 replicas on 10 nodes: 307.2 each.
    assert_eq!(grown.moves.len(), 307);
    assert!(grown.moves.iter().all(|step| step.to == Some(NodeId(10))));
    assert!(
        grown
            .moves
            .iter()
            .all(|step| step.reason == Reason::Balance)
    );
    assert!(grown.after.fullest_thousandths <= 1010);

    let again = plan(&ten, &wanted, &carried_out(&grown));
    assert_eq!(again.moves, vec![], "what is even stays");
}

#[test]
fn what_a_dead_node_held_goes_to_all_others_evenly() {
    let mut sites: Vec<Site> = (1..=9).map(site).collect();
    let wanted = wanted(1024, 3);
    let table = carried_out(&plan(&sites, &wanted, &Table::default()));
    sites[4].standing = Standing::Gone;
    let healed = plan(&sites, &wanted, &table);
    let held = table
        .groups
        .values()
        .flatten()
        .filter(|node| node.0 == 5)
        .count();
    let gone = healed
        .moves
        .iter()
        .filter(|step| step.reason == Reason::Gone);
    assert_eq!(gone.count(), held);
    // The last ones may find that every node with room holds the group already; then another moves.
    assert!(healed.moves.len() <= held * 102 / 100);
    assert!(
        healed.after.fullest_thousandths <= 1010,
        "{:?}",
        healed.after
    );
}

#[test]
fn replicas_stand_in_different_zones_while_there_are_enough() {
    let zones = ["a", "b", "c"];
    let mut sites: Vec<Site> = (1..=9)
        .map(|id| in_zone(id, zones[id as usize % 3]))
        .collect();
    let wanted = wanted(300, 3);
    let table = carried_out(&plan(&sites, &wanted, &Table::default()));
    let zone_of = |sites: &[Site], node: NodeId| {
        sites
            .iter()
            .find(|site| site.node == node)
            .unwrap()
            .domains
            .zone
            .clone()
    };
    for holders in table.groups.values() {
        let zones: BTreeSet<String> = holders.iter().map(|node| zone_of(&sites, *node)).collect();
        assert_eq!(zones.len(), 3, "{holders:?}");
    }
    // A whole zone is lost: the groups live on in the two others, two replicas in one of them.
    for site in sites.iter_mut().filter(|site| site.domains.zone == "a") {
        site.standing = Standing::Gone;
    }
    let two = plan(&sites, &wanted, &table);
    assert!(two.missing.is_empty());
    let gone = two.moves.iter().filter(|step| step.reason == Reason::Gone);
    assert_eq!(gone.count(), 300);
    assert!(two.moves.len() <= 306, "{}", two.moves.len());
    assert_eq!(two.after.conflicts.zone, 300);
    // It comes back empty: the replicas spread again, each group moves one.
    for site in &mut sites {
        site.standing = Standing::Serving;
    }
    let back = plan(&sites, &wanted, &carried_out(&two));
    assert_eq!(back.after.conflicts, Conflicts::default());
    let spread = back
        .moves
        .iter()
        .filter(|step| step.reason == Reason::Spread);
    assert_eq!(spread.count(), 300);
}

#[test]
fn racks_and_hosts_separate_where_zones_do_not() {
    let mut sites = Vec::new();
    for id in 1..=8 {
        let domains = Domains {
            zone: "a".to_owned(),
            rack: format!("r{}", id % 4),
            host: format!("h{}", id % 2),
        };
        sites.push(Site {
            domains,
            ..site(id)
        });
    }
    let made = plan(&sites, &wanted(64, 3), &Table::default());
    assert_eq!(made.after.conflicts.rack, 0);
    assert_eq!(made.after.conflicts.zone, 64 * 3);
}

#[test]
fn weight_decides_how_much_a_node_takes_but_no_group_twice() {
    let mut sites: Vec<Site> = (1..=4).map(site).collect();
    sites[0].weight = Weight::new(10_000).unwrap();
    sites[1].weight = Weight::new(200).unwrap();
    let made = plan(&sites, &wanted(100, 3), &Table::default());
    let load = |id: u64| {
        made.target
            .values()
            .flatten()
            .filter(|node| node.0 == id)
            .count()
    };
    assert_eq!(load(1), 100, "every group once");
    assert_eq!(
        load(2),
        100,
        "twice as heavy as the others, and capped as well"
    );
    assert_eq!(load(3) + load(4), 100);
    assert!(load(3).abs_diff(load(4)) <= 1);
}

#[test]
fn what_is_missing_is_said() {
    let sites: Vec<Site> = (1..=2).map(site).collect();
    let made = plan(&sites, &wanted(2, 3), &Table::default());
    assert_eq!(made.missing, [(GroupId(0), 1), (GroupId(1), 1)].into());
    assert_eq!(made.target[&GroupId(0)].len(), 2);
    assert_eq!(
        plan(&[], &wanted(1, 3), &Table::default()).missing,
        [(GroupId(0), 3)].into()
    );
}

#[test]
fn groups_grow_shrink_come_and_go() {
    let sites: Vec<Site> = (1..=5).map(site).collect();
    let table = carried_out(&plan(&sites, &wanted(10, 3), &Table::default()));
    let mut other = wanted(11, 3);
    other.insert(GroupId(0), 5);
    other.insert(GroupId(1), 1);
    other.remove(&GroupId(2));
    let made = plan(&sites, &other, &table);
    let of = |group: u64, reason: Reason| {
        let matching = |step: &&quorate_cluster::placement::plan::Move| {
            step.group == GroupId(group) && step.reason == reason
        };
        made.moves.iter().filter(matching).count()
    };
    assert_eq!(of(0, Reason::Grow), 2);
    assert_eq!(of(1, Reason::Shrink), 2);
    assert_eq!(of(2, Reason::Shrink), 3, "nobody wants it any more");
    assert_eq!(of(10, Reason::New), 3);
}

/// Whatever the nodes, groups and history: no group twice on a node, no replica on a node that
/// does not serve, nothing missing that could be there, and a second plan moves nothing.
#[test]
fn plans_hold_for_whatever_happens() {
    for seed in 0..200 {
        let mut random = Random::from_seed(seed);
        let count = random.below(12) + 1;
        let mut sites: Vec<Site> = (1..=count).map(|id| random_site(id, &mut random)).collect();
        let groups: Wanted = (0..random.below(60) + 1)
            .map(|group| (GroupId(group), 1 + 2 * random.below(3) as usize))
            .collect();
        let mut table = Table::default();
        for _ in 0..6 {
            let made = plan(&sites, &groups, &table);
            check(&sites, &groups, &made);
            table = carried_out(&made);
            let again = plan(&sites, &groups, &table);
            assert_eq!(
                again.moves,
                vec![],
                "seed {seed}: a plan that is carried out is at rest"
            );
            let changed = random.below(count) as usize;
            sites[changed] = random_site(sites[changed].node.0, &mut random);
        }
    }
}

fn random_site(id: u64, random: &mut Random) -> Site {
    let standing = match random.below(6) {
        0 => Standing::Gone,
        1 => Standing::Draining,
        _ => Standing::Serving,
    };
    Site {
        weight: Weight::new(50 + random.below(200) as u32).expect("within bounds"),
        domains: Domains {
            zone: format!("z{}", random.below(3)),
            rack: format!("r{}", random.below(2)),
            host: String::new(),
        },
        standing,
        ..site(id)
    }
}

fn check(sites: &[Site], groups: &Wanted, made: &Plan) {
    let serving: BTreeSet<NodeId> = sites
        .iter()
        .filter(|site| site.standing == Standing::Serving)
        .map(|site| site.node)
        .collect();
    for (group, holders) in &made.target {
        let distinct: BTreeSet<NodeId> = holders.iter().copied().collect();
        assert_eq!(distinct.len(), holders.len(), "no node twice");
        assert!(distinct.is_subset(&serving), "only serving nodes");
        let missing = made.missing.get(group).copied().unwrap_or(0);
        assert_eq!(holders.len(), groups[group].min(serving.len()));
        assert_eq!(holders.len() + missing, groups[group]);
    }
}

/// The mover against a cluster that does what it is told, slowly, and loses leaders meanwhile.
#[test]
fn the_mover_arrives_and_no_group_is_ever_smaller_than_it_was() {
    for seed in 0..100 {
        let mut random = Random::from_seed(seed);
        let mut sites: Vec<Site> = (1..=6).map(site).collect();
        let wanted = wanted(20, 3);
        let first = plan(&sites, &wanted, &Table::default());
        let mut observed: BTreeMap<GroupId, Observed> = first
            .target
            .iter()
            .map(|(group, nodes)| {
                let voters: BTreeSet<NodeId> = nodes.iter().copied().collect();
                let leader = voters.first().copied();
                (
                    *group,
                    Observed {
                        voters,
                        leader,
                        ..Observed::default()
                    },
                )
            })
            .collect();
        sites.push(site(7));
        sites[random.below(6) as usize].standing = Standing::Draining;
        let target = plan(&sites, &wanted, &carried_out(&first)).target;
        let limits = mover::Limits::default();
        let mut rounds = 0;
        loop {
            let moving = observed
                .values()
                .filter(|group| !group.learners.is_empty())
                .count();
            assert!(moving <= limits.groups_in_motion);
            let now = steps(&target, &observed, &limits);
            let waits = observed
                .values()
                .any(|group| group.leader.is_none() || !group.learners.is_empty());
            if now.is_empty() && !waits {
                break;
            }
            for (group, step) in now {
                take(observed.get_mut(&group).unwrap(), step);
            }
            for group in observed.values_mut() {
                assert!(group.voters.len() >= 3, "never fewer replicas than before");
                disturb(group, &mut random);
            }
            rounds += 1;
            assert!(rounds < 2000, "seed {seed}: the mover does not arrive");
        }
        for (group, nodes) in &target {
            let shall: BTreeSet<NodeId> = nodes.iter().copied().collect();
            assert_eq!(observed[group].voters, shall);
        }
    }
}

fn take(group: &mut Observed, step: Step) {
    match step {
        Step::AddLearner(node) => {
            assert!(group.learners.insert(node, false).is_none());
        }
        Step::Promote(node) => {
            assert_eq!(
                group.learners.remove(&node),
                Some(true),
                "only who has caught up"
            );
            group.voters.insert(node);
        }
        Step::HandOver => {
            let others = group
                .voters
                .iter()
                .find(|node| Some(**node) != group.leader);
            group.leader = Some(*others.expect("somebody else votes"));
        }
        Step::Remove(node) => {
            assert_ne!(group.leader, Some(node), "a leader is not removed");
            assert!(group.voters.remove(&node) || group.learners.remove(&node).is_some());
        }
    }
}

fn disturb(group: &mut Observed, random: &mut Random) {
    for caught_up in group.learners.values_mut() {
        *caught_up |= random.chance(0.3);
    }
    if random.chance(0.05) {
        group.leader = None;
    } else if group.leader.is_none() {
        let nth = random.below(group.voters.len() as u64) as usize;
        group.leader = group.voters.iter().nth(nth).copied();
    }
}

#[test]
fn cancelling_removes_the_learners_and_nothing_else() {
    let observed = Observed {
        voters: [NodeId(1), NodeId(2), NodeId(3)].into(),
        learners: [(NodeId(4), true)].into(),
        leader: Some(NodeId(1)),
        ..Observed::default()
    };
    let target = [(GroupId(1), vec![NodeId(1), NodeId(2), NodeId(3)])].into();
    let observed = [(GroupId(1), observed)].into();
    let limits = mover::Limits::default();
    assert_eq!(
        steps(&target, &observed, &limits),
        vec![(GroupId(1), Step::Remove(NodeId(4)))]
    );
}

#[test]
fn nobody_is_filled_that_does_not_know_of_it_and_others_do_not_wait() {
    let voters: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
    let mut observed = Observed {
        voters: voters.clone(),
        leader: Some(NodeId(1)),
        unready: [NodeId(4)].into(),
        ..Observed::default()
    };
    let shall = [1, 4, 5].map(NodeId).into();
    assert_eq!(
        mover::next_step(&shall, &observed),
        Some(Step::AddLearner(NodeId(5)))
    );
    observed.voters.insert(NodeId(5));
    // Nor does anybody leave for it.
    assert_eq!(mover::next_step(&shall, &observed), None);
    observed.unready.clear();
    assert_eq!(
        mover::next_step(&shall, &observed),
        Some(Step::AddLearner(NodeId(4)))
    );
}

/// However many keyspaces wait for a node to observe them, they hold up none that moves.
#[test]
fn keyspaces_that_wait_for_observers_hold_up_no_other() {
    let voters: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
    let group = |learners: &[(u64, bool)], observers: &[u64]| Observed {
        voters: voters.clone(),
        learners: learners
            .iter()
            .map(|(id, has)| (NodeId(*id), *has))
            .collect(),
        leader: Some(NodeId(1)),
        observers: observers.iter().copied().map(NodeId).collect(),
        ..Observed::default()
    };
    let mut observed: BTreeMap<GroupId, Observed> =
        (1..=20).map(|id| (GroupId(id), group(&[], &[9]))).collect();
    let mut target: BTreeMap<GroupId, Vec<NodeId>> = (1..=20)
        .map(|id| (GroupId(id), voters.iter().copied().collect()))
        .collect();
    observed.insert(GroupId(21), group(&[], &[]));
    target.insert(GroupId(21), [1, 2, 4].map(NodeId).into());
    let limits = mover::Limits::default();
    let add = |group, node| (GroupId(group), Step::AddLearner(NodeId(node)));
    let now = steps(&target, &observed, &limits);
    assert_eq!(now, [add(21, 4), add(1, 9), add(2, 9)]);
    // Two are being filled: no other is before they are.
    observed.insert(GroupId(1), group(&[(9, false)], &[9]));
    observed.insert(GroupId(2), group(&[(9, false)], &[9]));
    assert_eq!(steps(&target, &observed, &limits), [add(21, 4)]);
    observed.insert(GroupId(2), group(&[(9, true)], &[9]));
    let now = steps(&target, &observed, &limits);
    assert_eq!(now, [add(21, 4), add(3, 9)]);
    // A move to the node goes first.
    target.insert(GroupId(21), [1, 2, 9].map(NodeId).into());
    assert_eq!(steps(&target, &observed, &limits), [add(21, 9)]);
    // Who is away waits, and so does nobody else.
    target.insert(GroupId(21), [1, 2, 4].map(NodeId).into());
    for group in observed.values_mut() {
        group.unready.insert(NodeId(9));
    }
    assert_eq!(steps(&target, &observed, &limits), [add(21, 4)]);
}

#[test]
fn observers_are_added_when_all_else_is_done_and_never_get_a_vote() {
    let step = |shall: &[u64], observed: &Observed| {
        mover::next_step(&shall.iter().copied().map(NodeId).collect(), observed)
    };
    let mut observed = Observed {
        voters: [1, 2, 3].map(NodeId).into(),
        leader: Some(NodeId(1)),
        observers: [5, 6].map(NodeId).into(),
        ..Observed::default()
    };
    let add = |node| Some(Step::AddLearner(NodeId(node)));
    assert_eq!(
        step(&[1, 2, 4], &observed),
        add(4),
        "who shall vote goes first"
    );
    assert_eq!(step(&[1, 2, 3], &observed), add(5));
    observed.learners.insert(NodeId(5), true);
    assert_eq!(step(&[1, 2, 3], &observed), add(6));
    observed.learners.insert(NodeId(6), false);
    assert_eq!(step(&[1, 2, 3], &observed), None, "nobody waits for them");
    let target = [(GroupId(1), [1, 2, 3].map(NodeId).to_vec())].into();
    let limits = mover::Limits::default();
    let all = [(GroupId(1), observed.clone())].into();
    assert_eq!(steps(&target, &all, &limits), []);
    // They are in nobody's way when the keyspace moves.
    assert_eq!(step(&[1, 2, 4], &observed), add(4));
    // One of them gets a vote only once it knows that it shall.
    observed.observers.remove(&NodeId(5));
    observed.unready.insert(NodeId(5));
    assert_eq!(step(&[1, 2, 5], &observed), None);
    observed.unready.clear();
    assert_eq!(step(&[1, 2, 5], &observed), Some(Step::Promote(NodeId(5))));
    // Who observes no longer goes.
    assert_eq!(step(&[1, 2, 3], &observed), Some(Step::Remove(NodeId(5))));
}

#[test]
fn people_can_see_why() {
    let mut sites = vec![
        in_zone(1, "a"),
        in_zone(2, "a"),
        in_zone(3, "b"),
        in_zone(4, "c"),
    ];
    sites[3].standing = Standing::Draining;
    let table = Table {
        groups: [(GroupId(7), vec![NodeId(1), NodeId(3)])].into(),
        ..Table::default()
    };
    let lines = explain(&sites, &table, GroupId(7));
    let of = |id: u64| lines.iter().find(|line| line.node == NodeId(id)).unwrap();
    assert!(of(1).holds && of(3).holds);
    let shares = Against::Shares {
        domain: "zone",
        with: NodeId(1),
    };
    assert_eq!(of(2).against, Some(shares));
    assert_eq!(of(4).against, Some(Against::Standing(Standing::Draining)));
    let ranks: BTreeSet<usize> = lines.iter().map(|line| line.rank).collect();
    assert_eq!(ranks, (1..=4).collect());
    let drawn = drawing(&sites, &table, 10);
    assert_eq!(
        drawn,
        "n1  ██████████  1\n\
         n2              0\n\
         n3  ██████████  1\n\
         n4              0  (draining)\n"
    );
}
