//! From who holds what now to who shall hold it: as even as capacity says, as spread as the
//! failure domains allow, and as little moved as both permit.
//!
//! ```text
//!   keep what may stay ─▶ spread: away from shared domains ─▶ fill what is missing ─▶ even out
//!                                                              (rendezvous, within capacity)
//! ```
//!
//! A pure hash is even only for very many groups: with a thousand groups on nine nodes the fullest
//! is 7 % above the mean. So hashing proposes, and a bound on each node's share decides; the same
//! number of replicas moves when a node comes or goes, and the fullest stays within one replica of
//! its share.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base::{GroupId, NodeId};

use super::rendezvous::{Cost, cost};
use super::site::{Conflicts, Domains, Site, Standing};

/// Counts the changes of the table. A plan is made on one, and refused on any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableEpoch(pub u64);

/// Who holds what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Which version of it.
    pub epoch: TableEpoch,
    /// The nodes that hold each group, in no order that means anything.
    pub groups: BTreeMap<GroupId, Vec<NodeId>>,
}

/// How many replicas each group shall have.
pub type Wanted = BTreeMap<GroupId, usize>;

/// Why a replica moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The group is new.
    New,
    /// The group has fewer replicas than it shall have.
    Grow,
    /// The group has more replicas than it shall have.
    Shrink,
    /// Its node is gone.
    Gone,
    /// Its node is being emptied.
    Draining,
    /// Two of the group's replicas would fail together.
    Spread,
    /// Its node holds more than its share, another one less.
    Balance,
}

impl Reason {
    /// Whether the node cannot keep what it holds; else moving only betters something.
    #[must_use]
    pub fn is_necessary(self) -> bool {
        matches!(self, Reason::Gone | Reason::Draining)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Reason::New => "the group is new",
            Reason::Grow => "the group has too few replicas",
            Reason::Shrink => "the group has too many replicas",
            Reason::Gone => "the node is gone",
            Reason::Draining => "the node is being emptied",
            Reason::Spread => "two replicas would fail together",
            Reason::Balance => "the node holds more than its share",
        })
    }
}

/// What a plan is to see to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All that could be better.
    #[default]
    Everything,
    /// What cannot stay where it is, and what is missing: nothing moves to be spread or evened out.
    Necessary,
}

/// One replica that comes, goes, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Of which group.
    pub group: GroupId,
    /// Who gives it up.
    pub from: Option<NodeId>,
    /// Who takes it.
    pub to: Option<NodeId>,
    /// Why.
    pub reason: Reason,
}

/// How even a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The highest load of a serving node over its share, in thousandths; 1000 is exactly even.
    pub fullest_thousandths: u64,
    /// Pairs of replicas of one group that share a domain, over all groups; where there are fewer
    /// domains than replicas, some must.
    pub conflicts: Conflicts,
}

/// What to move, and what comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The table that it was made on.
    pub epoch: TableEpoch,
    /// Who shall hold what.
    pub target: BTreeMap<GroupId, Vec<NodeId>>,
    /// The difference, in order of groups.
    pub moves: Vec<Move>,
    /// Groups for which there are too few serving nodes: how many replicas are missing.
    pub missing: BTreeMap<GroupId, usize>,
    /// How it is.
    pub before: Balance,
    /// How it will be.
    pub after: Balance,
}

/// Shares are kept with 16 bits behind the point.
const ONE: i64 = 1 << 16;

/// Plans the way from `table` to what `wanted` asks for, on `sites`. Groups that nobody wants any
/// more lose all replicas; nodes that `sites` does not name count as gone.
#[must_use]
pub fn plan(sites: &[Site], wanted: &Wanted, table: &Table) -> Plan {
    plan_within(sites, wanted, table, Scope::Everything)
}

/// As [`plan`], seeing to no more than `scope`.
#[must_use]
pub fn plan_within(sites: &[Site], wanted: &Wanted, table: &Table, scope: Scope) -> Plan {
    let mut planner = Planner::new(sites, wanted, table);
    let before = planner.balance();
    planner.drop_what_cannot_stay();
    if scope == Scope::Everything {
        planner.spread();
    }
    let missing = planner.fill();
    if scope == Scope::Everything {
        planner.even_out();
    }
    let after = planner.balance();
    let target = planner.target();
    Plan {
        epoch: table.epoch,
        moves: moves(sites, table, &target),
        target,
        missing,
        before,
        after,
    }
}

/// The parts of a node's place as numbers, so that comparing is cheap.
#[derive(Clone, Copy)]
struct Place {
    zone: u32,
    rack: u32,
    host: u32,
}

/// One group while it is being planned. Replicas are indices of sites.
struct Draft {
    group: GroupId,
    wanted: usize,
    replicas: Vec<usize>,
}

struct Planner<'a> {
    sites: &'a [Site],
    places: Vec<Place>,
    /// What each site should hold, as a number with 16 bits behind the point.
    shares: Vec<i64>,
    loads: Vec<i64>,
    drafts: Vec<Draft>,
    /// Which drafts have a replica on each site.
    held: Vec<BTreeSet<usize>>,
}

impl<'a> Planner<'a> {
    fn new(sites: &'a [Site], wanted: &Wanted, table: &Table) -> Planner<'a> {
        let index: BTreeMap<NodeId, usize> = sites
            .iter()
            .enumerate()
            .map(|(index, site)| (site.node, index))
            .collect();
        let mut planner = Planner {
            sites,
            places: places(sites),
            shares: shares(sites, wanted),
            loads: vec![0; sites.len()],
            drafts: Vec::with_capacity(wanted.len()),
            held: vec![BTreeSet::new(); sites.len()],
        };
        for (group, wanted) in wanted {
            let holders = table.groups.get(group).map_or(&[][..], Vec::as_slice);
            let draft = planner.drafts.len();
            planner.drafts.push(Draft {
                group: *group,
                wanted: *wanted,
                replicas: Vec::new(),
            });
            for holder in holders {
                if let Some(site) = index.get(holder)
                    && !planner.drafts[draft].replicas.contains(site)
                {
                    planner.add(draft, *site);
                }
            }
        }
        planner
    }

    fn add(&mut self, draft: usize, site: usize) {
        self.drafts[draft].replicas.push(site);
        self.loads[site] += ONE;
        self.held[site].insert(draft);
    }

    fn remove(&mut self, draft: usize, site: usize) {
        self.drafts[draft].replicas.retain(|other| *other != site);
        self.loads[site] -= ONE;
        self.held[site].remove(&draft);
    }

    /// How far above its share a site is.
    fn surplus(&self, site: usize) -> i64 {
        self.loads[site] - self.shares[site]
    }

    fn cost(&self, draft: usize, site: usize) -> Cost {
        let (group, site) = (self.drafts[draft].group, &self.sites[site]);
        cost(group.0, site.node, site.weight)
    }

    fn serves(&self, site: usize) -> bool {
        self.sites[site].standing == Standing::Serving
    }

    /// What `site` would share with the replicas of `draft`, but for `without`.
    fn conflicts_of(&self, draft: usize, site: usize, without: Option<usize>) -> Conflicts {
        let others = self.drafts[draft].replicas.iter();
        others
            .filter(|other| Some(**other) != without && **other != site)
            .map(|other| self.places[*other].conflicts(self.places[site]))
            .fold(Conflicts::default(), Conflicts::plus)
    }

    /// Replicas on nodes that are gone or are being emptied, and those that nobody wants.
    fn drop_what_cannot_stay(&mut self) {
        for draft in 0..self.drafts.len() {
            for site in self.drafts[draft].replicas.clone() {
                if !self.serves(site) {
                    self.remove(draft, site);
                }
            }
            while self.drafts[draft].replicas.len() > self.drafts[draft].wanted {
                let worst = self.drafts[draft]
                    .replicas
                    .iter()
                    .copied()
                    .max_by_key(|site| {
                        (
                            self.conflicts_of(draft, *site, None),
                            self.surplus(*site),
                            self.cost(draft, *site),
                        )
                    });
                self.remove(draft, worst.expect("there is more than is wanted"));
            }
        }
    }

    /// Moves replicas that share a domain with another to where they share less.
    fn spread(&mut self) {
        for draft in 0..self.drafts.len() {
            // Each round lowers the conflicts, of which there are finitely many.
            while let Some((from, to)) = self.best_spread(draft) {
                self.remove(draft, from);
                self.add(draft, to);
            }
        }
    }

    fn best_spread(&self, draft: usize) -> Option<(usize, usize)> {
        let mut best = None;
        for from in self.drafts[draft].replicas.iter().copied() {
            let now = self.conflicts_of(draft, from, None);
            if now == Conflicts::default() {
                continue;
            }
            let Some((conflicts, _, _, to)) = self.best_site(draft, Some(from)) else {
                continue;
            };
            // How much each choice mends decides, then who has the most to give.
            let key = (conflicts, -self.surplus(from));
            if conflicts < now && best.is_none_or(|(least, _, _)| key < least) {
                best = Some((key, from, to));
            }
        }
        best.map(|(_, from, to)| (from, to))
    }

    /// Where one more replica of `draft` is best: apart from the others, within capacity, and
    /// drawn by the hash.
    fn best_site(
        &self,
        draft: usize,
        instead_of: Option<usize>,
    ) -> Option<(Conflicts, bool, Cost, usize)> {
        (0..self.sites.len())
            .filter(|site| self.serves(*site) && !self.held[*site].contains(&draft))
            .map(|site| {
                let conflicts = self.conflicts_of(draft, site, instead_of);
                // One more replica may round its share up, and no further.
                let is_full = self.surplus(site) >= 0;
                (conflicts, is_full, site)
            })
            .map(|(conflicts, is_full, site)| (conflicts, is_full, self.cost(draft, site), site))
            .min()
    }

    fn fill(&mut self) -> BTreeMap<GroupId, usize> {
        let mut missing = BTreeMap::new();
        for draft in 0..self.drafts.len() {
            while self.drafts[draft].replicas.len() < self.drafts[draft].wanted {
                let Some((_, _, _, site)) = self.best_site(draft, None) else {
                    let Draft {
                        group,
                        wanted,
                        replicas,
                    } = &self.drafts[draft];
                    missing.insert(*group, wanted - replicas.len());
                    break;
                };
                self.add(draft, site);
            }
        }
        missing
    }

    /// Moves single replicas from who has more than its share to who has less. Each move brings two
    /// nodes closer to their shares, so this ends.
    fn even_out(&mut self) {
        let mut stuck = BTreeSet::new();
        let mut serving: Vec<usize> = (0..self.sites.len())
            .filter(|site| self.serves(*site))
            .collect();
        loop {
            serving.sort_by_key(|site| (self.surplus(*site), *site));
            let Some((from, to)) = self.next_pair(&serving, &stuck) else {
                return;
            };
            match self.best_to_move(from, to) {
                Some(draft) => {
                    self.remove(draft, from);
                    self.add(draft, to);
                    // What these two hold has changed, so other pairs may work again.
                    stuck.retain(|(one, two)| *one != from && *two != to);
                }
                None => {
                    stuck.insert((from, to));
                }
            }
        }
    }

    /// The fullest and the emptiest between which a move helps. `serving` is sorted by surplus.
    fn next_pair(
        &self,
        serving: &[usize],
        stuck: &BTreeSet<(usize, usize)>,
    ) -> Option<(usize, usize)> {
        for from in serving.iter().rev() {
            for to in serving {
                if self.surplus(*from) - self.surplus(*to) <= ONE {
                    break;
                }
                if !stuck.contains(&(*from, *to)) {
                    return Some((*from, *to));
                }
            }
        }
        None
    }

    /// The group of `from` that the hash would most like to see on `to`, among those whose replicas
    /// stay as far apart as they are.
    fn best_to_move(&self, from: usize, to: usize) -> Option<usize> {
        let candidates = self.held[from].iter().copied();
        candidates
            .filter(|draft| !self.held[to].contains(draft))
            .filter(|draft| {
                let now = self.conflicts_of(*draft, from, None);
                self.conflicts_of(*draft, to, Some(from)) <= now
            })
            .min_by_key(|draft| (self.cost(*draft, to), *draft))
    }

    fn balance(&self) -> Balance {
        let fullest = (0..self.sites.len())
            .filter(|site| self.serves(*site) && self.shares[*site] > 0)
            .map(|site| self.loads[site].saturating_mul(1000) / self.shares[site])
            .max();
        let conflicts = (0..self.drafts.len())
            .flat_map(|draft| {
                let replicas = &self.drafts[draft].replicas;
                (0..replicas.len()).flat_map(move |one| (0..one).map(move |two| (draft, one, two)))
            })
            .map(|(draft, one, two)| {
                let replicas = &self.drafts[draft].replicas;
                self.places[replicas[one]].conflicts(self.places[replicas[two]])
            })
            .fold(Conflicts::default(), Conflicts::plus);
        Balance {
            fullest_thousandths: fullest.map_or(0, |most| most.unsigned_abs()),
            conflicts,
        }
    }

    fn target(&self) -> BTreeMap<GroupId, Vec<NodeId>> {
        let nodes = |draft: &Draft| {
            let mut nodes: Vec<NodeId> = draft
                .replicas
                .iter()
                .map(|site| self.sites[*site].node)
                .collect();
            nodes.sort_unstable();
            nodes
        };
        let drafts = self.drafts.iter();
        drafts.map(|draft| (draft.group, nodes(draft))).collect()
    }
}

impl Place {
    fn conflicts(self, other: Place) -> Conflicts {
        Conflicts {
            zone: u32::from(self.zone == other.zone),
            rack: u32::from(self.rack == other.rack),
            host: u32::from(self.host == other.host),
        }
    }
}

/// Numbers the domains: a rack by its zone and name, a host by its rack and name.
fn places(sites: &[Site]) -> Vec<Place> {
    let mut zones: BTreeMap<&str, u32> = BTreeMap::new();
    let mut racks: BTreeMap<(u32, &str), u32> = BTreeMap::new();
    let mut hosts: BTreeMap<(u32, &str), u32> = BTreeMap::new();
    let next = |length: usize| u32::try_from(length).expect("fewer sites than four billion");
    sites
        .iter()
        .map(|site| {
            let Domains { zone, rack, host } = &site.domains;
            let new = next(zones.len());
            let zone = *zones.entry(zone).or_insert(new);
            let new = next(racks.len());
            let rack = *racks.entry((zone, rack)).or_insert(new);
            let new = next(hosts.len());
            let host = *hosts.entry((rack, host)).or_insert(new);
            Place { zone, rack, host }
        })
        .collect()
}

/// What each site should hold: in proportion to its weight, but no group twice. What a heavy site
/// cannot take is shared by the others.
fn shares(sites: &[Site], wanted: &Wanted) -> Vec<i64> {
    let groups = i64::try_from(wanted.len()).expect("groups are counted") * ONE;
    let mut open: Vec<usize> = (0..sites.len())
        .filter(|site| sites[*site].standing == Standing::Serving)
        .collect();
    let serving = open.len();
    let mut rest: i64 = wanted
        .values()
        .map(|replicas| i64::try_from(*replicas.min(&serving)).expect("few replicas") * ONE)
        .sum();
    let mut shares = vec![0; sites.len()];
    loop {
        let weight: i128 = open
            .iter()
            .map(|site| i128::from(sites[*site].weight.get()))
            .sum();
        if weight == 0 {
            return shares;
        }
        let fair = |site: &usize| {
            let share = i128::from(rest) * i128::from(sites[*site].weight.get()) / weight;
            i64::try_from(share).expect("a part of the whole")
        };
        let (full, fitting): (Vec<usize>, Vec<usize>) =
            open.iter().copied().partition(|site| fair(site) > groups);
        if full.is_empty() {
            for site in &open {
                shares[*site] = fair(site);
            }
            return shares;
        }
        for site in &full {
            shares[*site] = groups;
            rest -= groups;
        }
        open = fitting;
    }
}

/// The difference between a table and a target, each pair with its reason.
fn moves(sites: &[Site], table: &Table, target: &BTreeMap<GroupId, Vec<NodeId>>) -> Vec<Move> {
    let by_node: BTreeMap<NodeId, &Site> = sites.iter().map(|site| (site.node, site)).collect();
    let nothing = Vec::new();
    let groups: BTreeSet<&GroupId> = table.groups.keys().chain(target.keys()).collect();
    let mut moves = Vec::new();
    for group in groups {
        let before = table.groups.get(group);
        let after = target.get(group).unwrap_or(&nothing);
        let holders = before.unwrap_or(&nothing);
        let leaving: Vec<NodeId> = holders
            .iter()
            .copied()
            .filter(|node| !after.contains(node))
            .collect();
        let coming: Vec<NodeId> = after
            .iter()
            .copied()
            .filter(|node| !holders.contains(node))
            .collect();
        for index in 0..leaving.len().max(coming.len()) {
            let (from, to) = (leaving.get(index).copied(), coming.get(index).copied());
            let standing = from.map(|node| {
                by_node
                    .get(&node)
                    .map_or(Standing::Gone, |site| site.standing)
            });
            let reason = match (standing, to) {
                (None, _) if before.is_none() => Reason::New,
                (None, _) => Reason::Grow,
                (Some(Standing::Gone), _) => Reason::Gone,
                (Some(Standing::Draining), _) => Reason::Draining,
                (Some(Standing::Serving), None) => Reason::Shrink,
                (Some(Standing::Serving), Some(_)) => {
                    let conflicts = |nodes: &[NodeId]| {
                        let domains: Vec<&Domains> = nodes
                            .iter()
                            .filter_map(|node| by_node.get(node).map(|site| &site.domains))
                            .collect();
                        Conflicts::within(&domains)
                    };
                    match conflicts(after) < conflicts(holders) {
                        true => Reason::Spread,
                        false => Reason::Balance,
                    }
                }
            };
            moves.push(Move {
                group: *group,
                from,
                to,
                reason,
            });
        }
    }
    moves
}
