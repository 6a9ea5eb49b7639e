//! Leaders spread over the nodes by load, with the fewest changes of leadership.
//!
//! A leader does more than a follower: it takes the proposals and sends them on. So leaderships are
//! placed by what each group asks of its leader, apart from where its replicas are. A leadership
//! moves only from a node above its share to one that is far enough below it for the move to help
//! both; what is even enough stays.

use std::collections::BTreeMap;

use base::{GroupId, NodeId};

use super::rendezvous::cost;
use super::site::{Site, Standing, Weight};

/// A node that leads so much more than its share, in percent, leads too many.
const UNEVEN_PERCENT: usize = 105;

/// One group, as the balancer of leaders sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Led {
    /// Who leads it now, if somebody does.
    pub leader: Option<NodeId>,
    /// Who could: voters that have the whole log.
    pub candidates: Vec<NodeId>,
    /// What leading it costs, in any unit that is the same for all groups; at least 1 counts.
    pub load: u64,
}

/// A leadership that should move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Of which group.
    pub group: GroupId,
    /// Who leads now.
    pub from: NodeId,
    /// Who should.
    pub to: NodeId,
}

/// At most `limit` transfers that even out what leaders do, the most helpful first. Leaders on
/// nodes that are being emptied go first of all. Groups without a leader are left alone: an
/// election is under way there.
#[must_use]
pub fn balance(sites: &[Site], groups: &BTreeMap<GroupId, Led>, limit: usize) -> Vec<Transfer> {
    let weights: BTreeMap<NodeId, u64> = sites
        .iter()
        .filter(|site| site.standing == Standing::Serving)
        .map(|site| (site.node, u64::from(site.weight.get())))
        .collect();
    let mut leaders: BTreeMap<GroupId, NodeId> = groups
        .iter()
        .filter_map(|(group, led)| led.leader.map(|leader| (*group, leader)))
        .collect();
    let mut loads: BTreeMap<NodeId, u64> = BTreeMap::new();
    for (group, leader) in &leaders {
        *loads.entry(*leader).or_default() += groups[group].load.max(1);
    }
    let mut transfers = Vec::new();
    while transfers.len() < limit
        && let Some(transfer) = best(&weights, groups, &leaders, &loads)
    {
        let load = groups[&transfer.group].load.max(1);
        *loads.entry(transfer.from).or_default() -= load;
        *loads.entry(transfer.to).or_default() += load;
        leaders.insert(transfer.group, transfer.to);
        transfers.push(transfer);
    }
    transfers
}

/// Who shall lead each group, from who could: each group in turn goes to the node that leads the
/// fewest by then, and among those to the one that the hash draws. The same input gives the same
/// answer on every node; a group that comes later changes nothing for those before it. Groups of
/// which no candidate serves are left out.
#[must_use]
pub fn preferred(
    sites: &[Site],
    candidates: &BTreeMap<GroupId, Vec<NodeId>>,
) -> BTreeMap<GroupId, NodeId> {
    let serving: BTreeMap<NodeId, &Site> = sites
        .iter()
        .filter(|site| site.standing == Standing::Serving)
        .map(|site| (site.node, site))
        .collect();
    let mut led: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut preferred = BTreeMap::new();
    for (group, nodes) in candidates {
        let sites = nodes.iter().filter_map(|node| serving.get(node));
        let best = sites.min_by_key(|site| {
            // Counted against what a node takes: a heavy one leads more.
            let count = led.get(&site.node).copied().unwrap_or(0);
            let load = count.saturating_mul(u64::from(Weight::MAX.get()));
            let load = load / u64::from(site.weight.get());
            (load, cost(group.0, site.node, site.weight))
        });
        if let Some(site) = best {
            *led.entry(site.node).or_default() += 1;
            preferred.insert(*group, site.node);
        }
    }
    preferred
}

/// What `own` should lead no longer, of groups that have nothing to do: those of which others are
/// preferred, if it leads more than its share, which is what is preferred of it; the most helpful
/// first. A leadership that moves costs its group an election, so that whoever leads its share
/// keeps what it has, whichever that is. `led`: who leads, as far as is known to `own`; `is_there`:
/// who can be reached.
///
/// Each transfer brings one group to the node that is preferred, so that all of them end.
#[must_use]
pub fn surplus(
    own: NodeId,
    preferred: &BTreeMap<GroupId, NodeId>,
    led: &BTreeMap<GroupId, NodeId>,
    is_there: impl Fn(NodeId) -> bool,
) -> Vec<(GroupId, NodeId)> {
    let count = |all: &BTreeMap<GroupId, NodeId>| {
        let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
        for node in all.values() {
            *counts.entry(*node).or_default() += 1;
        }
        counts
    };
    let of = |counts: &BTreeMap<NodeId, usize>, node| counts.get(&node).copied().unwrap_or(0);
    let (shares, leads) = (count(preferred), count(led));
    let share = of(&shares, own);
    if of(&leads, own) <= share * UNEVEN_PERCENT / 100 {
        return Vec::new();
    }
    // Who has its share as well passes on another one, if anybody who is there has less. Else it
    // must lead clearly less: the shares of those who are away have to be led by somebody.
    let has_enough = |to: NodeId| of(&leads, to) >= of(&shares, to);
    let somebody_has_less = shares
        .keys()
        .any(|node| is_there(*node) && !has_enough(*node));
    let is_level = |to: NodeId| of(&leads, to) + 2 > of(&leads, own);
    let mine = led.iter().filter(|(_, leader)| **leader == own);
    let others = mine.filter_map(|(group, _)| {
        let to = *preferred.get(group).filter(|to| **to != own)?;
        (somebody_has_less || !is_level(to)).then_some((*group, to))
    });
    let mut others: Vec<(GroupId, NodeId)> = others.collect();
    others.sort_by_key(|(_, to)| has_enough(*to));
    others
}

/// What a node knows when it looks whether it should lead less: its own groups, and what all
/// others say that they do.
#[derive(Clone, Debug, Default)]
pub struct Burden {
    /// What each node does as a leader of all that it leads, in the unit of [`Led::load`]. A node
    /// that is not in here gets nothing.
    pub nodes: BTreeMap<NodeId, u64>,
    /// The groups that this node leads and that are at work, who could lead them instead, and what
    /// they ask of their leader.
    pub groups: BTreeMap<GroupId, Led>,
    /// A node that does no more than this is left alone, however little the others do.
    pub least: u64,
}

/// The leadership that `own` should give away now, if there is one: each node looks at its own, and
/// only the busiest gives. Nothing is planned ahead, since figures change with every move.
///
/// - The busiest must do a quarter more than the mean, and more than `least`; of several that are
///   alike, the first by its id.
/// - A group goes to the candidate that does the least, if that one, with the group and half as
///   much again, does no more than this node does now. So a group that would only be the same
///   burden elsewhere stays, and what stands beside it goes; and what has gone does not come back
///   before loads have changed by more than the group's own.
/// - Of those that may go, the heaviest goes: the fewest clients notice.
#[must_use]
pub fn relieve(own: NodeId, sites: &[Site], burden: &Burden) -> Option<Transfer> {
    let serving = sites.iter();
    let serving = serving.filter(|site| site.standing == Standing::Serving);
    let weights: BTreeMap<NodeId, u128> = serving
        .map(|site| (site.node, u128::from(site.weight.get())))
        .collect();
    // What a node does, against what it takes: a heavy one bears more.
    let against = |load: u64, node: &NodeId| {
        let weight = weights.get(node).copied()?;
        Some(u128::from(load) * u128::from(Weight::MAX.get()) / weight)
    };
    let all: BTreeMap<NodeId, u128> = burden
        .nodes
        .iter()
        .filter_map(|(node, load)| Some((*node, against(*load, node)?)))
        .collect();
    let here = *all.get(&own)?;
    let is_busiest = all
        .iter()
        .all(|(node, load)| *node == own || *load < here || (*load == here && *node > own));
    let count = all.len() as u128;
    let is_much = here * count * 4 > all.values().sum::<u128>() * 5;
    if !is_busiest || !is_much || burden.nodes[&own] <= burden.least {
        return None;
    }
    let mut best: Option<(u64, Transfer)> = None;
    for (group, led) in &burden.groups {
        let others = led.candidates.iter().filter(|node| **node != own);
        let known = others.filter_map(|node| Some((*all.get(node)?, *node)));
        let Some((there, to)) = known.min() else {
            continue;
        };
        let more = led.load.saturating_add(led.load / 2);
        let helps = against(more, &to).is_some_and(|more| there + more <= here);
        let is_heaviest = best.is_none_or(|(most, _)| led.load > most);
        if led.load > 0 && helps && is_heaviest {
            let transfer = Transfer {
                group: *group,
                from: own,
                to,
            };
            best = Some((led.load, transfer));
        }
    }
    best.map(|(_, transfer)| transfer)
}

/// The transfer that brings the nodes closest to their shares, if one does: the one that lowers the
/// sum of `load² / weight` the most. That sum is least when every node leads its share.
fn best(
    weights: &BTreeMap<NodeId, u64>,
    groups: &BTreeMap<GroupId, Led>,
    leaders: &BTreeMap<GroupId, NodeId>,
    loads: &BTreeMap<NodeId, u64>,
) -> Option<Transfer> {
    let load_of = |node: &NodeId| i128::from(loads.get(node).copied().unwrap_or(0));
    // In millionths, so that dividing by a weight keeps its digits.
    let over = |sum: i128, weight: u64| sum * 1_000_000 / i128::from(weight);
    let mut best: Option<(i128, Transfer)> = None;
    for (group, from) in leaders {
        let led = &groups[group];
        let load = i128::from(led.load.max(1));
        // Whatever stays on a node that is being emptied is too much.
        let relief = weights.get(from).map_or(i128::MAX / 2, |weight| {
            over(load * (2 * load_of(from) - load), *weight)
        });
        for to in led.candidates.iter().filter(|to| *to != from) {
            let Some(weight) = weights.get(to) else {
                continue;
            };
            let gain = relief - over(load * (2 * load_of(to) + load), *weight);
            if gain > 0 && best.is_none_or(|(most, _)| gain > most) {
                let transfer = Transfer {
                    group: *group,
                    from: *from,
                    to: *to,
                };
                best = Some((gain, transfer));
            }
        }
    }
    best.map(|(_, transfer)| transfer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::site::Domains;

    fn site(id: u64, standing: Standing) -> Site {
        Site {
            node: NodeId(id),
            name: format!("n{id}"),
            weight: Weight::ORDINARY,
            domains: Domains::default(),
            standing,
        }
    }

    fn led(leader: u64, load: u64) -> Led {
        Led {
            leader: Some(NodeId(leader)),
            candidates: vec![NodeId(1), NodeId(2), NodeId(3)],
            load,
        }
    }

    #[test]
    fn leaders_spread_and_then_rest() {
        let sites: Vec<Site> = (1..=3).map(|id| site(id, Standing::Serving)).collect();
        let mut groups: BTreeMap<GroupId, Led> =
            (0..9).map(|group| (GroupId(group), led(1, 10))).collect();
        let transfers = balance(&sites, &groups, 100);
        assert_eq!(transfers.len(), 6, "{transfers:?}");
        for transfer in transfers {
            groups.get_mut(&transfer.group).unwrap().leader = Some(transfer.to);
        }
        assert_eq!(balance(&sites, &groups, 100), vec![]);
    }

    #[test]
    fn preferred_leaders_are_even_and_the_same_for_those_that_were_there_before() {
        let mut sites: Vec<Site> = (1..=5).map(|id| site(id, Standing::Serving)).collect();
        let all: Vec<NodeId> = (1..=5).map(NodeId).collect();
        let of = |count: u64| {
            (0..count)
                .map(|group| (GroupId(group), all.clone()))
                .collect()
        };
        let made = preferred(&sites, &of(20));
        for node in &all {
            let led = made.values().filter(|leader| *leader == node).count();
            assert_eq!(led, 4, "{made:?}");
        }
        let more = preferred(&sites, &of(21));
        assert!(made.iter().all(|(group, leader)| more[group] == *leader));
        sites[2].standing = Standing::Draining;
        let without = preferred(&sites, &of(20));
        assert!(without.values().all(|leader| *leader != NodeId(3)));
        assert_eq!(without.len(), 20);
    }

    #[test]
    fn who_leads_its_share_keeps_what_it_has() {
        let sites: Vec<Site> = (1..=3).map(|id| site(id, Standing::Serving)).collect();
        let nodes: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let candidates = (0..60).map(|group| (GroupId(group), nodes.clone()));
        let preferred = preferred(&sites, &candidates.collect());
        // How many each leads, and how many leaderships have to move: 20 is the share of each, and
        // 21 are not too many.
        let table: [([u64; 3], usize); 6] = [
            ([20, 20, 20], 0),
            ([21, 19, 20], 0),
            ([21, 21, 18], 0),
            ([22, 19, 19], 1),
            ([30, 30, 0], 18),
            ([60, 0, 0], 39),
        ];
        for (counts, least) in table {
            let all = (1..=3).flat_map(|id| {
                let count = usize::try_from(counts[usize::try_from(id - 1).unwrap()]).unwrap();
                std::iter::repeat_n(NodeId(id), count)
            });
            // Not as the plan would have it.
            let mut led: BTreeMap<GroupId, NodeId> = (0..60).map(GroupId).zip(all).collect();
            let mut moved = 0;
            loop {
                let of = |own: &NodeId| surplus(*own, &preferred, &led, |_| true).first().copied();
                let Some((group, to)) = nodes.iter().find_map(of) else {
                    break;
                };
                assert_eq!(preferred[&group], to);
                assert_ne!(led.insert(group, to), Some(to));
                moved += 1;
            }
            for node in &nodes {
                let leads = led.values().filter(|leader| *leader == node).count();
                assert!(leads <= 21, "{counts:?}: {leads}");
            }
            assert_eq!(moved, least, "{counts:?}");
        }
    }

    #[test]
    fn nobody_swaps_while_somebody_is_away() {
        let sites: Vec<Site> = (1..=3).map(|id| site(id, Standing::Serving)).collect();
        let nodes: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let candidates = (0..60).map(|group| (GroupId(group), nodes.clone()));
        let preferred = preferred(&sites, &candidates.collect());
        let halves = (0..60).map(|group| (GroupId(group), NodeId(1 + group % 2)));
        let led: BTreeMap<GroupId, NodeId> = halves.collect();
        for own in [NodeId(1), NodeId(2)] {
            let given = surplus(own, &preferred, &led, |node| node != NodeId(3));
            assert!(given.iter().all(|(_, to)| *to == NodeId(3)), "{given:?}");
        }
    }

    /// Nodes that look in turn at what all do, until nobody gives anything away. Returns who leads
    /// what, and how many leaderships have moved.
    fn settled(mut leaders: BTreeMap<u64, (u64, u64)>, nodes: u64) -> (BTreeMap<u64, u64>, usize) {
        let sites: Vec<Site> = (1..=nodes).map(|id| site(id, Standing::Serving)).collect();
        let candidates: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        for moved in 0..1000 {
            let mut burdens = (1..=nodes).map(|own| {
                let mut burden = Burden {
                    nodes: candidates.iter().map(|node| (*node, 0)).collect(),
                    ..Burden::default()
                };
                for (group, (leader, load)) in &leaders {
                    *burden.nodes.get_mut(&NodeId(*leader)).unwrap() += load;
                    let led = Led {
                        leader: Some(NodeId(own)),
                        candidates: candidates.clone(),
                        load: *load,
                    };
                    if *leader == own {
                        burden.groups.insert(GroupId(*group), led);
                    }
                }
                relieve(NodeId(own), &sites, &burden)
            });
            let Some(transfer) = burdens.find_map(|transfer| transfer) else {
                let leaders = leaders
                    .into_iter()
                    .map(|(group, (leader, _))| (group, leader));
                return (leaders.collect(), moved);
            };
            leaders.get_mut(&transfer.group.0).unwrap().0 = transfer.to.0;
        }
        panic!("it does not end: {leaders:?}");
    }

    #[test]
    fn the_busiest_gives_away_what_helps_and_then_all_rest() {
        // What each group asks, all led by the first of three nodes, and what the nodes do then.
        let table: [(&[u64], [u64; 3]); 6] = [
            (&[100, 100, 100], [100, 100, 100]),
            (&[100, 100, 100, 100, 100, 100], [200, 200, 200]),
            // One that cannot be split stays, and what stands beside it goes.
            (&[1000, 10, 10, 10, 10], [1000, 20, 20]),
            (&[1000], [1000, 0, 0]),
            (&[1000, 900], [900, 1000, 0]),
            (&[5, 40, 30, 20, 10, 60], [65, 60, 40]),
        ];
        for (loads, then) in table {
            let groups = (0..).zip(loads);
            let begin: BTreeMap<u64, (u64, u64)> =
                groups.map(|(group, load)| (group, (1, *load))).collect();
            let (leaders, moved) = settled(begin, 3);
            let does = |node: u64| -> u64 {
                let led = leaders.iter().filter(|(_, leader)| **leader == node);
                led.map(|(group, _)| loads[usize::try_from(*group).unwrap()])
                    .sum()
            };
            assert_eq!([1, 2, 3].map(does), then, "{loads:?}: {leaders:?}");
            assert!(moved <= loads.len(), "{loads:?} took {moved}");
        }
    }

    #[test]
    fn whatever_the_loads_it_ends_and_no_leadership_goes_round() {
        let mut random = base::Random::from_seed(7);
        for _ in 0..200 {
            let nodes = 2 + random.below(5);
            let groups: BTreeMap<u64, (u64, u64)> = (0..1 + random.below(40))
                .map(|group| {
                    let load = 1 << random.below(12);
                    (group, (1 + random.below(nodes), load + random.below(load)))
                })
                .collect();
            let count = groups.len();
            let (_, moved) = settled(groups, nodes);
            assert!(moved <= 2 * count, "{moved} moves of {count} groups");
        }
    }

    #[test]
    fn what_is_little_or_has_nowhere_to_go_stays() {
        let mut sites: Vec<Site> = (1..=3).map(|id| site(id, Standing::Serving)).collect();
        let mut burden = Burden {
            nodes: [(1, 300), (2, 0), (3, 0)]
                .map(|(id, load)| (NodeId(id), load))
                .into(),
            groups: (0..3).map(|group| (GroupId(group), led(1, 100))).collect(),
            least: 0,
        };
        let transfer = |group, to| {
            Some(Transfer {
                group: GroupId(group),
                from: NodeId(1),
                to: NodeId(to),
            })
        };
        assert_eq!(relieve(NodeId(1), &sites, &burden), transfer(0, 2));
        assert_eq!(
            relieve(NodeId(2), &sites, &burden),
            None,
            "it is not the busiest"
        );
        burden.least = 300;
        assert_eq!(relieve(NodeId(1), &sites, &burden), None);
        burden.least = 0;
        sites[1].standing = Standing::Draining;
        assert_eq!(relieve(NodeId(1), &sites, &burden), transfer(0, 3));
        // Who has said nothing gets nothing.
        burden.nodes.remove(&NodeId(3));
        assert_eq!(relieve(NodeId(1), &sites, &burden), None);
        // Who takes ten times as much is not busy with three times as much.
        sites[1].standing = Standing::Serving;
        sites[0].weight = Weight::new(1000).unwrap();
        burden.nodes = [(1, 300), (2, 100)]
            .map(|(id, load)| (NodeId(id), load))
            .into();
        assert_eq!(relieve(NodeId(1), &sites, &burden), None);
        burden.nodes.insert(NodeId(1), 3000);
        assert_eq!(relieve(NodeId(1), &sites, &burden), transfer(0, 2));
    }

    #[test]
    fn a_busy_group_counts_for_many_quiet_ones() {
        let sites: Vec<Site> = (1..=2).map(|id| site(id, Standing::Serving)).collect();
        let mut groups: BTreeMap<GroupId, Led> =
            (0..10).map(|group| (GroupId(group), led(1, 1))).collect();
        groups.insert(GroupId(10), led(1, 10));
        let transfers = balance(&sites, &groups, 100);
        assert_eq!(transfers.len(), 1);
        assert_eq!(transfers[0].group, GroupId(10));
    }

    #[test]
    fn a_node_that_is_being_emptied_leads_nothing_in_the_end() {
        let mut sites: Vec<Site> = (1..=3).map(|id| site(id, Standing::Serving)).collect();
        sites[0].standing = Standing::Draining;
        let groups: BTreeMap<GroupId, Led> =
            (0..5).map(|group| (GroupId(group), led(1, 1))).collect();
        let transfers = balance(&sites, &groups, 100);
        assert_eq!(transfers.len(), 5);
        assert!(transfers.iter().all(|transfer| transfer.to != NodeId(1)));
        assert_eq!(balance(&sites, &groups, 2).len(), 2);
    }
}
