//! Questions about each keyspace's group: how many replicas may still fail, who leads, who is
//! behind, whether replicas agree, and how evenly the work is spread.
//!
//! There may be thousands. So what is wrong with many is one finding, which names some of them: a
//! node that is away is not to be reported once for each keyspace that it holds.

use std::collections::{BTreeMap, BTreeSet};

use super::evidence::{Case, Group, Looked, Placed};
use super::{Finding, Severity, Thresholds};

/// How many keyspaces a finding names.
const NAMED: usize = 5;

/// Keyspaces that something is the matter with, and how that can be seen of each.
#[derive(Default)]
struct Concerned(BTreeMap<String, String>);

impl Concerned {
    fn add(&mut self, keyspace: &str, evidence: String) {
        self.0.insert(keyspace.to_owned(), evidence);
    }

    /// One finding for all of them.
    fn report(
        self,
        (severity, kind): (Severity, &'static str),
        (one, many): (&str, &str),
        remedy: &str,
        findings: &mut Vec<Finding>,
    ) {
        let count = self.0.len();
        let Some(first) = self.0.keys().next() else {
            return;
        };
        let (subject, what) = match count {
            1 => (first.clone(), format!("the keyspace {first} {one}")),
            _ => ("keyspaces".to_owned(), format!("{count} keyspaces {many}")),
        };
        let each = self.0.iter().take(NAMED);
        let mut evidence: Vec<String> =
            each.map(|(name, seen)| format!("{name}: {seen}")).collect();
        if count > NAMED {
            evidence.push(format!("and {} more", count - NAMED));
        }
        findings.push(Finding {
            severity,
            kind,
            subject,
            what,
            evidence: evidence.join("; "),
            remedy: remedy.to_owned(),
        });
    }
}

/// A keyspace, and what the members that answer say of their replicas of it.
struct Seen<'a> {
    placed: &'a Placed,
    replicas: Vec<(&'a str, &'a Group)>,
}

impl<'a> Seen<'a> {
    /// The replica that leads in the highest term.
    fn leader(&self) -> Option<&'a Group> {
        let leaders = self.replicas.iter().map(|(_, group)| *group);
        let leaders = leaders.filter(|group| group.role == "leader");
        leaders.max_by_key(|group| group.term)
    }
}

pub(super) fn examine(case: &Case, thresholds: &Thresholds, findings: &mut Vec<Finding>) {
    let newest = case.told().max_by_key(|(_, look)| {
        let status = look.evidence.status.as_ref();
        status.map(|status| status.applied)
    });
    let Some((_, newest)) = newest else {
        return;
    };
    let all: Vec<Seen<'_>> = newest
        .evidence
        .keyspaces
        .iter()
        .map(|placed| Seen {
            placed,
            replicas: replicas(case, placed.group),
        })
        .collect();
    quorums(case, &all, findings);
    leaders(&all, findings);
    lags(&all, thresholds, findings);
    doubts(&all, findings);
    digests(&all, findings);
    alarms(&all, findings);
    skew(case, &all, findings);
}

fn replicas(case: &Case, group: u64) -> Vec<(&str, &Group)> {
    let told = case.told().filter_map(|(looked, look)| {
        let mut groups = look.evidence.groups.iter();
        Some((looked.name(), groups.find(|each| each.group == group)?))
    });
    told.collect()
}

fn quorums(case: &Case, all: &[Seen<'_>], findings: &mut Vec<Finding>) {
    let answers: BTreeSet<&str> = case
        .members
        .iter()
        .filter(|looked| looked.status().is_some())
        .map(Looked::name)
        .collect();
    let (mut lost, mut last) = (Concerned::default(), Concerned::default());
    for seen in all {
        // Whoever holds it says how many it takes; where nobody does, a majority.
        let voters = seen.placed.replicas.len();
        let sizes = seen
            .replicas
            .iter()
            .map(|(_, group)| (group.elect, group.commit));
        let (elect, commit) = sizes.max().unwrap_or((voters / 2 + 1, voters / 2 + 1));
        let needed = elect.max(commit);
        let silent: Vec<&str> = seen
            .placed
            .replicas
            .iter()
            .map(String::as_str)
            .filter(|name| !answers.contains(name))
            .collect();
        let alive = voters - silent.len();
        let evidence = format!(
            "{alive} of {voters} replicas answer, {needed} are needed; not {}",
            silent.join(", ")
        );
        if alive < needed {
            lost.add(&seen.placed.name, evidence);
        } else if alive == needed && !silent.is_empty() {
            last.add(&seen.placed.name, evidence);
        }
    }
    lost.report(
        (Severity::Critical, "quorum"),
        (
            "has no majority: it cannot be written",
            "have no majority: they cannot be written",
        ),
        "bring back its nodes; gone for good? `quorate group recover` says what going on without \
         them would lose",
        findings,
    );
    last.report(
        (Severity::Critical, "quorum"),
        ("survives no further failure", "survive no further failure"),
        "bring back the nodes, or have their replicas made anew on others (`quorate placement \
         plan` says what would move)",
        findings,
    );
}

fn leaders(all: &[Seen<'_>], findings: &mut Vec<Finding>) {
    let mut without = Concerned::default();
    for seen in all {
        let knows = |(_, group): &(&str, &Group)| group.leader.is_some();
        if !seen.replicas.is_empty() && !seen.replicas.iter().any(knows) {
            let say: Vec<&str> = seen.replicas.iter().map(|(name, _)| *name).collect();
            without.add(&seen.placed.name, format!("so say {}", say.join(", ")));
        }
    }
    without.report(
        (Severity::Critical, "leader"),
        ("is led by nobody", "are led by nobody"),
        "see that most of the nodes that hold it run, and reach each other",
        findings,
    );
}

fn lags(all: &[Seen<'_>], thresholds: &Thresholds, findings: &mut Vec<Finding>) {
    let mut behind = Concerned::default();
    for seen in all {
        let by_leader = seen.leader().and_then(|leader| leader.farthest_behind);
        let executing = seen
            .replicas
            .iter()
            .map(|(name, group)| (group.chosen.saturating_sub(group.applied), *name))
            .max();
        let lacks = by_leader.unwrap_or(0);
        if lacks > thresholds.lag_slots {
            let evidence = format!("a replica lacks {lacks} entries of the leader's");
            behind.add(&seen.placed.name, evidence);
        } else if let Some((count, name)) =
            executing.filter(|(count, _)| *count > thresholds.lag_slots)
        {
            behind.add(
                &seen.placed.name,
                format!("{name} has {count} entries that are not executed yet"),
            );
        }
    }
    behind.report(
        (Severity::Warning, "lag"),
        (
            "has a replica that is behind",
            "have replicas that are behind",
        ),
        "look at the disk, the processor and the network of the node; it catches up by itself if \
         these are as fast as the others'",
        findings,
    );
}

fn doubts(all: &[Seen<'_>], findings: &mut Vec<Finding>) {
    let mut doubted = Concerned::default();
    for seen in all {
        let doubting = seen.replicas.iter().filter(|(_, group)| group.in_doubt);
        let doubting: Vec<&str> = doubting.map(|(name, _)| *name).collect();
        if !doubting.is_empty() {
            doubted.add(&seen.placed.name, format!("on {}", doubting.join(", ")));
        }
    }
    doubted.report(
        (Severity::Warning, "repair"),
        (
            "has a replica that lost something and does not count until it is whole",
            "have replicas that lost something and do not count until they are whole",
        ),
        "wait: its leader makes it whole; if it stays so, see that the keyspace has one",
        findings,
    );
}

/// Replicas that have executed the same entries hold the same, or one of them is wrong.
fn digests(all: &[Seen<'_>], findings: &mut Vec<Finding>) {
    let mut differing = Concerned::default();
    for seen in all {
        let mut by_slot: BTreeMap<u64, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
        for (name, group) in &seen.replicas {
            if !group.in_doubt && !group.witness && !group.digest.is_empty() {
                let at = by_slot.entry(group.applied).or_default();
                at.entry(&group.digest).or_default().push(name);
            }
        }
        if let Some((slot, digests)) = by_slot.into_iter().find(|(_, all)| all.len() > 1) {
            let each = digests.iter();
            let each = each.map(|(digest, who)| format!("{digest} on {}", who.join(", ")));
            let each: Vec<String> = each.collect();
            let evidence = format!("at slot {slot}: {}", each.join(", "));
            differing.add(&seen.placed.name, evidence);
        }
    }
    differing.report(
        (Severity::Critical, "replicas"),
        (
            "has replicas that should hold the same and do not",
            "have replicas that should hold the same and do not",
        ),
        "replicas that differ from a majority repair themselves; if it stays so, report this",
        findings,
    );
}

fn alarms(all: &[Seen<'_>], findings: &mut Vec<Finding>) {
    let mut raised = Concerned::default();
    for seen in all {
        let newest = seen.replicas.iter().max_by_key(|(_, group)| group.applied);
        if let Some((_, group)) = newest
            && !group.alarms.is_empty()
        {
            raised.add(&seen.placed.name, group.alarms.join(", "));
        }
    }
    raised.report(
        (Severity::Critical, "alarm"),
        ("has raised an alarm", "have raised alarms"),
        "NOSPACE: make room in the keyspace, or raise its quota; CORRUPT: its replicas differ, and \
         no majority says which are right",
        findings,
    );
}

/// Who holds and leads much more than others, or does much more for what it leads.
fn skew(case: &Case, all: &[Seen<'_>], findings: &mut Vec<Finding>) {
    let nodes: Vec<&str> = case
        .members
        .iter()
        .filter(|looked| looked.status().is_some() && !looked.member.witness)
        .map(Looked::name)
        .collect();
    let sum = |of: &dyn Fn(&Seen<'_>, &str) -> u64| -> Vec<(u64, &str)> {
        let each = nodes.iter();
        let each = each.map(|node| (all.iter().map(|seen| of(seen, node)).sum(), *node));
        each.collect()
    };
    let led_by = |seen: &Seen<'_>, node: &str| {
        let mut replicas = seen.replicas.iter();
        let leads = |(name, group): &&(&str, &Group)| *name == node && group.role == "leader";
        replicas.find(leads).map(|(_, group)| group.load)
    };
    let holds = sum(&|seen, node| u64::from(seen.placed.replicas.iter().any(|name| name == node)));
    let leads = sum(&|seen, node| u64::from(led_by(seen, node).is_some()));
    let does = sum(&|seen, node| led_by(seen, node).unwrap_or(0));
    // Half as many again as its share, and more than chance and a move under way make.
    for (what, counts, least, remedy) in [
        (
            "holds more keyspaces than its share",
            holds,
            3,
            "`quorate placement plan` says what would move, and `quorate placement set --rebalance \
             on` has it moved",
        ),
        (
            "leads more keyspaces than its share",
            leads,
            3,
            "leaderships even out by themselves within minutes, unless `quorate placement set \
             --rebalance off` has been said; those that have something to do go by that",
        ),
        (
            "does more for the keyspaces that it leads than its share",
            does,
            300,
            "leaderships go to where less is done within minutes, unless `quorate placement set \
             --rebalance off` has been said; one keyspace that is as busy as that by itself stays \
             where it is: make two of it",
        ),
    ] {
        let total: u64 = counts.iter().map(|(count, _)| count).sum();
        let Some((most, node)) = counts.iter().max() else {
            continue;
        };
        let all = nodes.len() as u64;
        let is_skewed = 2 * most * all > 3 * total && most * all > total + least * all;
        if !is_skewed {
            continue;
        }
        let each = counts.iter().map(|(count, node)| format!("{node} {count}"));
        findings.push(Finding {
            severity: Severity::Note,
            kind: "skew",
            subject: (*node).to_owned(),
            what: format!("{node} {what}"),
            evidence: each.collect::<Vec<String>>().join(", "),
            remedy: remedy.to_owned(),
        });
    }
}
