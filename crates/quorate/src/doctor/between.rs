//! Questions about members beside each other: clocks, versions, settings, distance, and what gossip
//! says beside what the log says.

use std::collections::BTreeMap;

use super::evidence::{Case, Looked};
use super::{Finding, Severity, Thresholds};
use crate::admin::Seen;

pub(super) fn examine(case: &Case, thresholds: &Thresholds, findings: &mut Vec<Finding>) {
    clocks(case, thresholds, findings);
    versions(case, findings);
    settings(case, findings);
    distances(case, thresholds, findings);
    gossip(case, findings);
    domains(case, findings);
}

/// Who differs from the middle is wrong, where there is a middle.
fn clocks(case: &Case, thresholds: &Thresholds, findings: &mut Vec<Finding>) {
    let mut all: Vec<i64> = case
        .told()
        .map(|(_, look)| look.ahead_milliseconds)
        .collect();
    all.sort_unstable();
    let Some(middle) = all.get((all.len().max(1) - 1) / 2).copied() else {
        return;
    };
    for (looked, look) in case.told() {
        let off = look.ahead_milliseconds.saturating_sub(middle);
        let uncertain = i64::try_from(look.taken.as_millis() / 2).unwrap_or(0);
        let apart = std::time::Duration::from_millis(
            off.saturating_abs()
                .saturating_sub(uncertain)
                .max(0)
                .unsigned_abs(),
        );
        if apart <= thresholds.clock_warning {
            continue;
        }
        let severity = match apart > thresholds.clock_critical {
            true => Severity::Critical,
            false => Severity::Warning,
        };
        let way = if off < 0 { "behind" } else { "ahead" };
        let subject = looked.name().to_owned();
        let seconds = off.unsigned_abs() as f64 / 1000.0;
        findings.push(Finding {
            severity,
            kind: "clock",
            what: format!("the clock of {subject} is {seconds:.1} s {way} of most members'"),
            evidence: format!(
                "measured over {:.1} ms; this machine's clock differs from it by {:.1} s",
                look.taken.as_secs_f64() * 1000.0,
                look.ahead_milliseconds as f64 / 1000.0
            ),
            remedy: "let a time service (chrony, ntpd) set it; no lease or lock depends on it, \
                     certificates, tokens and log lines do"
                .to_owned(),
            subject,
        });
    }
}

/// Who says what, if not all say the same.
fn differing<'a>(case: &'a Case, said: impl Fn(&'a Looked) -> Option<String>) -> Option<String> {
    let mut by_value: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for looked in &case.members {
        if let Some(value) = said(looked) {
            by_value.entry(value).or_default().push(looked.name());
        }
    }
    let each = by_value
        .iter()
        .map(|(value, who)| format!("{}: {value}", who.join(", ")));
    (by_value.len() > 1).then(|| each.collect::<Vec<_>>().join("; "))
}

fn versions(case: &Case, findings: &mut Vec<Finding>) {
    let release = |looked: &Looked| Some(looked.newest()?.evidence.release.clone());
    if let Some(evidence) = differing(case, release) {
        findings.push(Finding {
            severity: Severity::Warning,
            kind: "version",
            subject: "cluster".to_owned(),
            what: "members run different versions".to_owned(),
            evidence,
            remedy: "finish the upgrade: new abilities begin when all members have them".to_owned(),
        });
    }
}

fn settings(case: &Case, findings: &mut Vec<Finding>) {
    let same = [
        (
            "election-timeout-ms",
            "members ask for votes after different times",
        ),
        (
            "heartbeat-interval-ms",
            "members show that they lead at different intervals",
        ),
        (
            "peer-tls",
            "members encrypt connections between them differently",
        ),
        (
            "client-tls",
            "members encrypt connections of clients differently",
        ),
        ("gossip", "members gossip differently"),
    ];
    for (key, what) in same {
        let value = |looked: &Looked| looked.newest()?.evidence.settings.get(key).cloned();
        if let Some(evidence) = differing(case, value) {
            findings.push(Finding {
                severity: Severity::Warning,
                kind: "settings",
                subject: "cluster".to_owned(),
                what: what.to_owned(),
                evidence: format!("{key}: {evidence}"),
                remedy: "give all members the same".to_owned(),
            });
        }
    }
}

/// What members have measured of each other.
fn distances(case: &Case, thresholds: &Thresholds, findings: &mut Vec<Finding>) {
    let mut to: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for looked in &case.members {
        for seen in seen_by(looked) {
            if let Some(microseconds) = seen.round_trip_microseconds {
                to.entry(seen.name.as_str()).or_default().push(microseconds);
            }
        }
    }
    let mut middles: Vec<(u64, &str)> = to
        .iter_mut()
        .map(|(name, all)| {
            all.sort_unstable();
            (all[(all.len() - 1) / 2], *name)
        })
        .collect();
    middles.sort_unstable();
    let Some((usual, _)) = middles.get((middles.len().max(1) - 1) / 2).copied() else {
        return;
    };
    let near = u64::try_from(thresholds.near.as_micros()).unwrap_or(u64::MAX);
    for (middle, name) in middles {
        let far = usual.saturating_mul(thresholds.far_factor.into());
        if middle <= near || middle <= far {
            continue;
        }
        findings.push(Finding {
            severity: Severity::Warning,
            kind: "slow",
            subject: name.to_owned(),
            what: format!("{name} answers the others slowly"),
            evidence: format!(
                "its probes take {:.1} ms there and back, those of others {:.1} ms",
                middle as f64 / 1000.0,
                usual as f64 / 1000.0
            ),
            remedy: "look at its processor and its network".to_owned(),
        });
    }
    election(
        case,
        to.values().flatten().copied().max().unwrap_or(0),
        findings,
    );
}

/// An election timeout that the network nearly reaches makes leaders change for nothing.
fn election(case: &Case, farthest_microseconds: u64, findings: &mut Vec<Finding>) {
    let shortest = case.told().filter_map(|(looked, look)| {
        let text = look.evidence.settings.get("election-timeout-ms")?;
        Some((text.parse::<u64>().ok()?, looked.name()))
    });
    let Some((milliseconds, name)) = shortest.min() else {
        return;
    };
    const ROUND_TRIPS: u64 = 10;
    if farthest_microseconds.saturating_mul(ROUND_TRIPS) <= milliseconds.saturating_mul(1000) {
        return;
    }
    findings.push(Finding {
        severity: Severity::Warning,
        kind: "settings",
        subject: "cluster".to_owned(),
        what: "the election timeout is short for this network".to_owned(),
        evidence: format!(
            "{name} waits {milliseconds} ms; the longest way between two members takes {:.1} ms \
             there and back",
            farthest_microseconds as f64 / 1000.0
        ),
        remedy: "raise election-timeout on all members to at least ten times that".to_owned(),
    });
}

/// What gossip at this member says of the others, and itself.
fn seen_by(looked: &Looked) -> impl Iterator<Item = &Seen> {
    let gossip = looked.status().and_then(|status| status.gossip.as_ref());
    gossip.into_iter().flat_map(|gossip| &gossip.members)
}

/// Who answers and takes part in gossip.
fn gossiping(case: &Case) -> impl Iterator<Item = &Looked> {
    case.members
        .iter()
        .filter(|looked| seen_by(looked).next().is_some())
}

fn gossip(case: &Case, findings: &mut Vec<Finding>) {
    for looked in &case.members {
        let gossip = looked.status().and_then(|status| status.gossip.as_ref());
        if let Some(gossip) = gossip
            && gossip.unhealthiness > 1
        {
            let subject = looked.name().to_owned();
            findings.push(Finding {
                severity: Severity::Warning,
                kind: "slow",
                what: format!("{subject} doubts itself: it, or its network, is slow"),
                evidence: format!(
                    "its gossip counts {} signs of that (0 is healthy, 7 the worst)",
                    gossip.unhealthiness
                ),
                remedy: "look at its processor and its network, UDP in particular".to_owned(),
                subject,
            });
        }
    }
    let mut strangers: BTreeMap<&str, (&Seen, Vec<&str>)> = BTreeMap::new();
    let mut gone: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for looked in &case.members {
        for seen in seen_by(looked) {
            let member = case.members.iter().find(|each| each.member.id == seen.id);
            let is_present = matches!(seen.state.as_str(), "alive" | "suspect");
            match member {
                None if is_present => {
                    let entry = strangers.entry(&seen.id).or_insert((seen, Vec::new()));
                    entry.1.push(looked.name());
                }
                // A suspicion is refuted within moments: it is no finding yet.
                Some(member) if member.status().is_some() && !is_present => {
                    let said = format!("{} says {}", looked.name(), seen.state);
                    gone.entry(member.name()).or_default().push(said);
                }
                None | Some(_) => {}
            }
        }
    }
    // Another key from the first start on: they never heard of each other.
    for looked in gossiping(case) {
        for member in gossiping(case) {
            if seen_by(looked).all(|seen| seen.id != member.member.id) {
                let said = format!("{} does not know it", looked.name());
                gone.entry(member.name()).or_default().push(said);
            }
        }
    }
    for (id, (seen, by)) in strangers {
        findings.push(Finding {
            severity: Severity::Warning,
            kind: "gossip",
            subject: seen.name.clone(),
            what: format!("{} takes part in gossip and is no member", seen.name),
            evidence: format!("node {id} at {}, seen by {}", seen.address, by.join(", ")),
            remedy: "a node that was removed still runs: stop it, and put its folder away"
                .to_owned(),
        });
    }
    for (name, said) in gone {
        findings.push(Finding {
            severity: Severity::Warning,
            kind: "gossip",
            subject: name.to_owned(),
            what: format!("{name} answers, and gossip does not find it"),
            evidence: said.join("; "),
            remedy: "let UDP packets through on the peers' port, and give all members the same \
                     gossip-key-file"
                .to_owned(),
        });
    }
}

/// Votes that fail together.
fn domains(case: &Case, findings: &mut Vec<Finding>) {
    let Some(seen) = case
        .members
        .iter()
        .find(|looked| seen_by(looked).next().is_some())
    else {
        return;
    };
    let is_local = |looked: &Looked| {
        let host = looked.member.peer_address.rsplit_once(':');
        host.is_some_and(|(host, _)| matches!(host, "127.0.0.1" | "localhost" | "[::1]"))
    };
    // A trial on one machine knows what it is.
    if case.members.iter().all(is_local) {
        return;
    }
    let votes: Vec<&Looked> = case
        .members
        .iter()
        .filter(|looked| looked.member.voter)
        .collect();
    for (what, domain) in [
        (
            "zone",
            (|seen: &Seen| seen.zone.clone()) as fn(&Seen) -> String,
        ),
        ("machine", |seen: &Seen| seen.host.clone()),
    ] {
        let mut together: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for looked in &votes {
            let found = seen_by(seen).find(|each| each.id == looked.member.id);
            let domain = found.map(domain).filter(|domain| !domain.is_empty());
            if let Some(domain) = domain {
                together.entry(domain).or_default().push(looked.name());
            }
        }
        for (domain, who) in together {
            if votes.len() < 3 || who.len() < votes.len() / 2 + 1 {
                continue;
            }
            findings.push(Finding {
                severity: Severity::Warning,
                kind: "domains",
                subject: "cluster".to_owned(),
                what: format!("a majority of the votes stands in one {what}"),
                evidence: format!("{} in {domain}", who.join(", ")),
                remedy: format!("spread the members: one {what} that fails stops all writes"),
            });
        }
    }
}
