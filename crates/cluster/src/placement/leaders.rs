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
