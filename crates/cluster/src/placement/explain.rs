//! Why a group is where it is, and who holds what, for people.
//!
//! ```text
//!   group 7, 3 replicas
//!     node   zone  draws  standing   holds  share
//!   * n4     a         1  serving      307  307.2
//!   * n1     b         2  serving      307  307.2
//!     n9     b         3  serving      308  307.2   shares its zone with n1
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;

use base::{GroupId, NodeId};

use super::plan::Table;
use super::rendezvous::cost;
use super::site::{Conflicts, Site, Standing};

/// One node's part in the choice for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which node.
    pub node: NodeId,
    /// Whether it holds the group.
    pub holds: bool,
    /// Its place in the draw: 1 is the first choice of the hash.
    pub rank: usize,
    /// How many groups it holds.
    pub load: usize,
    /// Why it does not hold the group, if it does not.
    pub against: Option<Against>,
}

/// What speaks against a node for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Against {
    /// It does not take replicas.
    Standing(Standing),
    /// It would share a zone, rack or host with a holder.
    Shares {
        /// What it shares: "zone", "rack" or "host".
        domain: &'static str,
        /// With whom.
        with: NodeId,
    },
    /// Others come first by the draw, or have room where this one does not.
    Drawn,
}

/// The nodes in the order in which the hash draws them for `group`, each with what speaks for or
/// against it.
#[must_use]
pub fn explain(sites: &[Site], table: &Table, group: GroupId) -> Vec<Line> {
    let nothing = Vec::new();
    let holders = table.groups.get(&group).unwrap_or(&nothing);
    let mut loads: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in table.groups.values().flatten() {
        *loads.entry(*node).or_default() += 1;
    }
    let mut drawn: Vec<&Site> = sites.iter().collect();
    drawn.sort_by_key(|site| cost(group.0, site.node, site.weight));
    let lines = drawn.into_iter().enumerate();
    lines
        .map(|(index, site)| {
            let holds = holders.contains(&site.node);
            Line {
                node: site.node,
                holds,
                rank: index + 1,
                load: loads.get(&site.node).copied().unwrap_or(0),
                against: (!holds).then(|| against(sites, holders, site)),
            }
        })
        .collect()
}

fn against(sites: &[Site], holders: &[NodeId], site: &Site) -> Against {
    if site.standing != Standing::Serving {
        return Against::Standing(site.standing);
    }
    let of_holders = sites.iter().filter(|other| holders.contains(&other.node));
    // A domain in which everybody is separates nobody.
    let narrowest = of_holders
        .filter_map(|other| {
            let shared = Conflicts::between(&site.domains, &other.domains);
            let named = |name: &str| !name.is_empty();
            let domain = if shared.host > 0 && named(&site.domains.host) {
                "host"
            } else if shared.rack > 0 && named(&site.domains.rack) {
                "rack"
            } else if shared.zone > 0 && named(&site.domains.zone) {
                "zone"
            } else {
                return None;
            };
            Some((domain, other.node))
        })
        .min_by_key(|(domain, _)| match *domain {
            "host" => 0,
            "rack" => 1,
            _ => 2,
        });
    narrowest.map_or(Against::Drawn, |(domain, with)| Against::Shares {
        domain,
        with,
    })
}

/// Who holds what, a line a node, at most `width` groups wide; a busier node has a longer bar.
#[must_use]
pub fn drawing(sites: &[Site], table: &Table, width: usize) -> String {
    let mut held: BTreeMap<NodeId, usize> = sites.iter().map(|site| (site.node, 0)).collect();
    for node in table.groups.values().flatten() {
        *held.entry(*node).or_default() += 1;
    }
    let names: BTreeMap<NodeId, &Site> = sites.iter().map(|site| (site.node, site)).collect();
    let most = held.values().copied().max().unwrap_or(0).max(1);
    let name_of = |node: &NodeId| names.get(node).map_or("?", |site| site.name.as_str());
    let longest = held.keys().map(|node| name_of(node).chars().count()).max();
    let mut text = String::new();
    let strangers = held.keys().filter(|node| !names.contains_key(node));
    let order = sites.iter().map(|site| &site.node).chain(strangers);
    for (node, load) in order.map(|node| (node, &held[node])) {
        let bar = "█".repeat((load * width).div_ceil(most));
        let standing = match names.get(node).map(|site| site.standing) {
            Some(Standing::Serving) => String::new(),
            Some(other) => format!("  ({other})"),
            None => "  (not in the list of nodes)".to_owned(),
        };
        let name = name_of(node);
        let _ = writeln!(
            text,
            "{name:<longest$}  {bar:<width$}  {load}{standing}",
            longest = longest.unwrap_or(0),
        );
    }
    text
}
