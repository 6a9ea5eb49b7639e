//! Plans and places in words and pictures, for operators.
//!
//! ```text
//!                n1  n2  n3  n4  n5
//!   events       ●   ●       ●            ● holds it and goes on
//!   pods         ●   ✕   ●   ○            ✕ gives it up   ○ gets it
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base::{GroupId, NodeId};
use consensus::Membership;

use super::planning::{Picture, Proposal};
use super::table::Keyspace;
use crate::placement::explain::{Against, drawing, explain};
use crate::placement::plan::Scope;
use crate::placement::site::{Site, Standing};

/// How wide the bars are that show what a node holds.
const BAR_WIDTH: usize = 24;
/// So many keyspaces are drawn, those that move first; the rest is counted.
const ROWS_MAX: usize = 64;

/// What would move, and how it is before and after.
#[must_use]
pub fn plan_report(picture: &Picture, membership: &Membership) -> String {
    let proposal = picture.propose(membership, Scope::Everything);
    let mut text = format!(
        "table of epoch {}: {} keyspaces on {} nodes\n",
        proposal.seen.0,
        picture.keyspaces.len(),
        picture.sites.len()
    );
    let moving: Vec<&str> = picture
        .keyspaces
        .values()
        .filter(|keyspace| keyspace.moving.is_some())
        .map(|keyspace| keyspace.name.as_str())
        .collect();
    if !moving.is_empty() {
        let _ = writeln!(text, "on their way already: {}", moving.join(", "));
    }
    say_moves(&mut text, picture, &proposal);
    for (name, count) in &proposal.missing {
        let _ = writeln!(
            text,
            "{name} stays where it is: {count} more nodes would have to take replicas"
        );
    }
    for name in &proposal.stuck {
        let _ = writeln!(
            text,
            "{name} cannot move: too few of its replicas are alive to agree on it"
        );
    }
    let before = proposal.plan.before;
    let after = proposal.plan.after;
    let share = |thousandths: u64| format!("{}.{:02}", thousandths / 1000, thousandths / 10 % 100);
    let _ = writeln!(
        text,
        "fullest node, of its share: {} now, {} after\n\
         pairs of replicas in one zone, rack, host: {}, {}, {} now, {}, {}, {} after\n",
        share(before.fullest_thousandths),
        share(after.fullest_thousandths),
        before.conflicts.zone,
        before.conflicts.rack,
        before.conflicts.host,
        after.conflicts.zone,
        after.conflicts.rack,
        after.conflicts.host,
    );
    text.push_str(&drawing(&picture.sites, &picture.table, BAR_WIDTH));
    text.push('\n');
    text.push_str(&matrix(picture, &proposal));
    text.truncate(text.trim_end().len());
    text
}

fn say_moves(text: &mut String, picture: &Picture, proposal: &Proposal) {
    let moved: Vec<&str> = proposal.moves.iter().map(|(name, _)| &name[..]).collect();
    if moved.is_empty() {
        text.push_str("nothing has to move\n");
        return;
    }
    text.push_str("would move:\n");
    for each in &proposal.plan.moves {
        let Some(keyspace) = picture.keyspaces.get(&each.group) else {
            continue;
        };
        if !moved.contains(&&keyspace.name[..]) {
            continue;
        }
        let name = |node: Option<NodeId>| {
            node.map_or_else(|| "-".to_owned(), |node| name_of(picture, node))
        };
        let _ = writeln!(
            text,
            "  {}: {} -> {}, since {}",
            keyspace.name,
            name(each.from),
            name(each.to),
            each.reason
        );
    }
}

/// Who holds what: a line a keyspace, a column a node.
fn matrix(picture: &Picture, proposal: &Proposal) -> String {
    let moves: BTreeMap<&str, Vec<NodeId>> = proposal
        .moves
        .iter()
        .map(|(name, target)| (&name[..], target.iter().map(|each| each.node).collect()))
        .collect();
    let mut shown: Vec<&Keyspace> = picture.keyspaces.values().collect();
    shown.sort_by_key(|each| (!moves.contains_key(&each.name[..]), each.name.clone()));
    let left = shown.len().saturating_sub(ROWS_MAX);
    shown.truncate(ROWS_MAX);
    let width = |text: &str| text.chars().count();
    let first = shown
        .iter()
        .map(|each| width(&each.name))
        .max()
        .unwrap_or(0);
    let mut text = " ".repeat(first);
    for site in &picture.sites {
        let _ = write!(text, "  {}", site.name);
    }
    text.push('\n');
    for keyspace in shown {
        let _ = write!(text, "{:first$}", keyspace.name);
        let target = moves.get(&keyspace.name[..]);
        for site in &picture.sites {
            let holds = keyspace.replicas.iter().any(|each| each.node == site.node);
            let shall = target.map_or_else(
                || keyspace.target().iter().any(|each| each.node == site.node),
                |target| target.contains(&site.node),
            );
            let sign = match (holds, shall) {
                (true, true) => "●",
                (true, false) => "✕",
                (false, true) => "○",
                (false, false) => "·",
            };
            let _ = write!(text, "  {sign:<0$}", width(&site.name));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    if left > 0 {
        let _ = writeln!(text, "and {left} more that stay");
    }
    text.push_str("● holds it   ○ gets it   ✕ gives it up\n");
    text
}

/// Why a keyspace is where it is, or nothing if there is none of this name.
#[must_use]
pub fn explain_report(picture: &Picture, name: &str) -> Option<String> {
    let all = picture.keyspaces.values();
    let keyspace = all.clone().find(|keyspace| keyspace.name == name)?;
    let mut text = format!(
        "{name}: group {}, {} replicas, table of epoch {}\n\
         nodes in the order in which the hash draws them for this group:\n",
        keyspace.group,
        keyspace.target().len(),
        picture.table.epoch.0
    );
    for line in explain(&picture.sites, &picture.table, keyspace.group) {
        let site = picture.sites.iter().find(|site| site.node == line.node);
        let place = site.map(place_of).unwrap_or_default();
        let why = match &line.against {
            None if keyspace.replicas.iter().any(|each| each.node == line.node) => {
                "holds it, and keeps what it has".to_owned()
            }
            None => "is getting it".to_owned(),
            Some(Against::Standing(standing)) => format!("takes none: it is {standing}"),
            Some(Against::Shares { domain, with }) => {
                format!("would share the {domain} of {}", name_of(picture, *with))
            }
            Some(Against::Drawn) => "others are drawn before it, or had more room".to_owned(),
        };
        let _ = writeln!(
            text,
            "  {:>2}. {}{place}, {} replicas: {why}",
            line.rank,
            name_of(picture, line.node),
            line.load
        );
    }
    if let Some(moving) = &keyspace.moving {
        let names = |all: &[super::table::Replica]| {
            let names: Vec<&str> = all.iter().map(|each| &each.name[..]).collect();
            names.join(", ")
        };
        let _ = writeln!(
            text,
            "it is on its way to {}; {} {} it",
            names(&moving.target),
            names(&moving.leaving),
            match moving.is_leaving {
                true => "are letting go of",
                false => "will let go of",
            }
        );
    }
    text.truncate(text.trim_end().len());
    Some(text)
}

fn place_of(site: &Site) -> String {
    let domains = &site.domains;
    let named = [
        ("zone", &domains.zone),
        ("rack", &domains.rack),
        ("host", &domains.host),
    ];
    let said: Vec<String> = named
        .iter()
        .filter(|(_, name)| !name.is_empty())
        .map(|(kind, name)| format!("{kind} {name}"))
        .collect();
    let standing = match site.standing {
        Standing::Serving => String::new(),
        other => format!(", {other}"),
    };
    match said.is_empty() {
        true => standing,
        false => format!(" ({}){standing}", said.join(", ")),
    }
}

fn name_of(picture: &Picture, node: NodeId) -> String {
    let site = picture.sites.iter().find(|site| site.node == node);
    site.map_or_else(
        || format!("{node}, which has no vote"),
        |site| site.name.clone(),
    )
}

/// Which keyspaces could not be held with a node being emptied, and why not: too few others.
#[must_use]
pub fn cannot_be_emptied(picture: &Picture, node: NodeId) -> Vec<(GroupId, String)> {
    let others = picture.sites.iter().filter(|site| site.node != node);
    let serving = others
        .filter(|site| site.standing == Standing::Serving)
        .count();
    let held = picture.held_by(node);
    let all = picture.keyspaces.iter();
    all.filter(|(group, keyspace)| held.contains(group) && keyspace.target().len() > serving)
        .map(|(group, keyspace)| (*group, keyspace.name.clone()))
        .collect()
}
