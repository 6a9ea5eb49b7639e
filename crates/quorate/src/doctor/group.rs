//! Questions about the group as a whole: how many may still fail, who leads, who is behind, whether
//! replicas agree, and how full it is.

use std::collections::BTreeMap;
use std::fmt;

use super::evidence::{Case, Looked};
use super::{Finding, Severity, Thresholds};
use crate::admin::Status;
use crate::table::bytes;

const CLUSTER: &str = "cluster";

pub(super) fn examine(case: &Case, thresholds: &Thresholds, findings: &mut Vec<Finding>) {
    unreached(case, findings);
    quorum(case, findings);
    copies(case, findings);
    leader(case, findings);
    lag(case, thresholds, findings);
    digests(case, findings);
    room(case, thresholds, findings);
}

/// The members with a vote, counted.
pub(super) struct Votes {
    pub(super) all: usize,
    /// Those of members that answer.
    pub(super) alive: usize,
    /// How many elect a leader.
    elect: usize,
    /// How many commit a write.
    commit: usize,
}

impl Votes {
    /// How many must be there for everything.
    pub(super) fn needed(&self) -> usize {
        self.elect.max(self.commit)
    }
}

impl fmt::Display for Votes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Votes { all, alive, .. } = self;
        write!(formatter, "{alive} of {all} members with a vote answer; ")?;
        match self.elect == self.commit {
            true => write!(formatter, "a majority is {}", self.needed()),
            false => {
                let Votes { elect, commit, .. } = self;
                write!(formatter, "{elect} elect a leader, {commit} commit a write")
            }
        }
    }
}

/// Counts the members with a vote.
pub(super) fn votes(case: &Case) -> Votes {
    let voters = case.members.iter().filter(|looked| looked.member.voter);
    let alive = voters.clone().filter(|looked| looked.status().is_some());
    let (all, alive) = (voters.count(), alive.count());
    let mut statuses = case.members.iter().filter_map(|looked| looked.status());
    let sizes = statuses.find(|status| status.elect > 0 && status.commit > 0);
    let majority = all / 2 + 1;
    let (elect, commit) = sizes.map_or((majority, majority), |said| (said.elect, said.commit));
    Votes {
        all,
        alive,
        elect,
        commit,
    }
}

fn unreached(case: &Case, findings: &mut Vec<Finding>) {
    for looked in &case.members {
        let (what, evidence) = match &looked.looks {
            Err(problem) => ("does not answer", problem.clone()),
            Ok(_) if looked.status().is_none() => (
                "answers, and its node's thread does not",
                "its evidence has no status".to_owned(),
            ),
            Ok(_) => continue,
        };
        let subject = looked.name().to_owned();
        findings.push(Finding {
            severity: Severity::Warning,
            kind: "member",
            what: format!("{subject} {what}"),
            evidence,
            remedy: format!(
                "see whether its process runs and the peers' port {} can be reached; a member that \
                 is gone for good is replaced with `quorate member remove` and `member add`",
                looked.member.peer_address
            ),
            subject,
        });
    }
}

fn quorum(case: &Case, findings: &mut Vec<Finding>) {
    let votes = votes(case);
    let (voters, alive, needed) = (votes.all, votes.alive, votes.needed());
    let evidence = votes.to_string();
    let silent: Vec<&str> = case
        .members
        .iter()
        .filter(|looked| looked.member.voter && looked.status().is_none())
        .map(Looked::name)
        .collect();
    let mut found = |severity, what: &str, remedy: String| {
        findings.push(Finding {
            severity,
            kind: "quorum",
            subject: CLUSTER.to_owned(),
            what: what.to_owned(),
            evidence: evidence.clone(),
            remedy,
        });
    };
    if alive < needed {
        let remedy = format!(
            "bring back {}; do not remove members. Gone for good? `quorate group recover` says \
             what going on without them would lose",
            silent.join(", ")
        );
        let what = match alive < votes.commit {
            true => "there is no majority: nothing can be written",
            false => "too few are left to elect a leader: writes go on while this one leads",
        };
        found(Severity::Critical, what, remedy);
    } else if alive == needed && alive < voters {
        let remedy = format!(
            "bring back or replace {} before anything else",
            silent.join(", ")
        );
        found(
            Severity::Critical,
            "the next failure stops all writes",
            remedy,
        );
    } else if voters < 3 {
        let what = "no member may fail: fewer than three have a vote";
        let remedy = "add members (`quorate member add`, then `promote`) until three have a vote";
        found(Severity::Warning, what, remedy.to_owned());
    } else if voters.is_multiple_of(2) {
        let what = "an even number of votes survives no more failures than one less";
        found(Severity::Note, what, "add or remove one vote".to_owned());
    }
    for looked in &case.members {
        if !looked.member.voter {
            findings.push(Finding {
                severity: Severity::Note,
                kind: "quorum",
                subject: looked.name().to_owned(),
                what: format!("{} has no vote", looked.name()),
                evidence: "it is a learner".to_owned(),
                remedy: format!(
                    "unless it is an observer: once it has caught up, `quorate member promote {}`",
                    looked.name()
                ),
            });
        }
    }
}

/// A member that the leader does not wait for.
fn not_counted_on(case: &Case) -> Option<&str> {
    let mut members = case.leader()?.members.iter();
    let late = members.find(|member| member.counted_on == Some(false))?;
    Some(&late.name)
}

/// Where there are witnesses, votes are one thing and copies of the data another.
fn copies(case: &Case, findings: &mut Vec<Finding>) {
    if !case.members.iter().any(|looked| looked.member.witness) {
        return;
    }
    let holders = case.members.iter().filter(|looked| {
        let member = &looked.member;
        member.voter && !member.witness
    });
    let silent = holders.clone().filter(|each| each.status().is_none());
    let silent: Vec<&str> = silent.map(Looked::name).collect();
    let all = holders.count();
    let alive = all - silent.len();
    let mut said = case.members.iter().filter_map(Looked::status);
    let needed = said.find(|status| status.copies > 0);
    let needed = needed.map_or(1, |status| status.copies);
    let (severity, what, remedy) = if alive < needed {
        let remedy = format!(
            "bring back {0}; if its disk is lost for good, `quorate member remove` it, and writes \
             go on with the others",
            silent.join(", ")
        );
        let what = "too few copies of the data are left: nothing can be written";
        (Severity::Critical, what, remedy)
    } else if alive == 1 && all > 1 {
        let remedy = format!(
            "bring back or replace {} before anything else: what is acknowledged now is on one \
             disk",
            silent.join(", ")
        );
        let what = "one copy of the data is left: the cluster serves without redundancy";
        (Severity::Critical, what, remedy)
    } else if let Some(late) = not_counted_on(case) {
        let remedy = format!(
            "look at the disk and the network of {late}: until it has caught up, what is \
             acknowledged has one copy less"
        );
        let what = "a member that answers is so far behind that no write waits for its copy";
        (Severity::Warning, what, remedy)
    } else if all == 1 {
        let remedy = "add a member that holds data (`quorate member add`, then `promote`)";
        let what = "only one member holds data: a witness keeps no copy of it";
        (Severity::Warning, what, remedy.to_owned())
    } else {
        return;
    };
    findings.push(Finding {
        severity,
        kind: "copies",
        subject: CLUSTER.to_owned(),
        what: what.to_owned(),
        evidence: format!(
            "{alive} of {all} members that hold data answer; a write needs {needed} of them"
        ),
        remedy,
    });
}

fn leader(case: &Case, findings: &mut Vec<Finding>) {
    let statuses: Vec<&Status> = case.members.iter().filter_map(Looked::status).collect();
    let mut said: BTreeMap<(u64, &str), Vec<&str>> = BTreeMap::new();
    for status in &statuses {
        let leader = status.leader.as_deref().unwrap_or("nobody");
        said.entry((status.term, leader))
            .or_default()
            .push(&status.name);
    }
    let evidence = said
        .iter()
        .map(|((term, leader), by)| format!("{} in term {term} (say {})", leader, by.join(", ")));
    let evidence = evidence.collect::<Vec<String>>().join("; ");
    let mut found = |severity, what: &str, remedy: &str| {
        findings.push(Finding {
            severity,
            kind: "leader",
            subject: CLUSTER.to_owned(),
            what: what.to_owned(),
            evidence: evidence.clone(),
            remedy: remedy.to_owned(),
        });
    };
    if !statuses.is_empty() && statuses.iter().all(|status| status.leader.is_none()) {
        let remedy = "see that a majority runs and that its members reach each other";
        found(Severity::Critical, "nobody leads", remedy);
    } else if said.len() > 1 {
        let remedy = "if it stays so: some members do not hear the leader; look at the network \
                      between them";
        found(
            Severity::Warning,
            "members disagree about who leads",
            remedy,
        );
    }
    let mut terms = case.members.iter().filter_map(|looked| {
        let (first, later) = looked.looks.as_ref().ok()?;
        let term = |look: &super::evidence::Look| Some(look.evidence.status.as_ref()?.term);
        Some((looked.name(), term(first)?, term(later.as_ref()?)?))
    });
    if let Some((name, before, after)) = terms.find(|(_, one, two)| two > one) {
        findings.push(Finding {
            severity: Severity::Warning,
            kind: "leader",
            subject: CLUSTER.to_owned(),
            what: "leadership changed while this looked on".to_owned(),
            evidence: format!("{name} went from term {before} to {after}"),
            remedy: "if that happens again and again: slow disks, slow members and too short an \
                     election-timeout are named here as findings of their own"
                .to_owned(),
        });
    }
}

fn lag(case: &Case, thresholds: &Thresholds, findings: &mut Vec<Finding>) {
    let Some(leader) = case.leader() else {
        return;
    };
    for looked in &case.members {
        let Some(status) = looked.status() else {
            continue;
        };
        let by_leader = leader
            .members
            .iter()
            .find(|each| each.id == looked.member.id);
        let behind = by_leader.and_then(|member| member.lag).unwrap_or(0);
        let executing = status.chosen.saturating_sub(status.applied);
        let most = behind.max(executing);
        if most <= thresholds.lag_slots {
            continue;
        }
        let subject = looked.name().to_owned();
        findings.push(Finding {
            severity: Severity::Warning,
            kind: "lag",
            what: format!("{subject} is behind"),
            evidence: format!(
                "its log lacks {behind} entries of the leader's, and {executing} that it has are \
                 not executed yet"
            ),
            remedy: "look at its disk, its processor and its network; it catches up by itself if \
                     these are as fast as the others'"
                .to_owned(),
            subject,
        });
    }
}

/// Replicas that have executed the same entries hold the same, or one of them is wrong.
fn digests(case: &Case, findings: &mut Vec<Finding>) {
    let mut by_slot: BTreeMap<(u64, u32), BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for looked in &case.members {
        for look in looked
            .looks
            .iter()
            .flat_map(|(one, two)| [Some(one), two.as_ref()])
        {
            let Some(status) = look.and_then(|look| look.evidence.status.as_ref()) else {
                continue;
            };
            if status.digest.is_empty() || looked.member.witness {
                continue;
            }
            let at = by_slot.entry((status.applied, status.level)).or_default();
            let who = at.entry(status.digest.as_str()).or_default();
            if !who.contains(&looked.name()) {
                who.push(looked.name());
            }
        }
    }
    for ((slot, _), digests) in by_slot {
        if digests.len() < 2 {
            continue;
        }
        let most = digests.values().map(Vec::len).max().unwrap_or(0);
        let wrong: Vec<&str> = digests
            .values()
            .filter(|who| who.len() < most)
            .flatten()
            .copied()
            .collect();
        let subject = if wrong.is_empty() {
            CLUSTER.to_owned()
        } else {
            wrong.join(", ")
        };
        let each = digests
            .iter()
            .map(|(digest, who)| format!("{}: {digest}", who.join(", ")));
        findings.push(Finding {
            severity: Severity::Critical,
            kind: "replicas",
            subject,
            what: "replicas that should hold the same do not".to_owned(),
            evidence: format!(
                "digests at slot {slot}: {}",
                each.collect::<Vec<_>>().join("; ")
            ),
            remedy: "take the one that differs from the majority out of service, replace it by a \
                     new member with an empty folder, and report this"
                .to_owned(),
        });
        return;
    }
}

fn room(case: &Case, thresholds: &Thresholds, findings: &mut Vec<Finding>) {
    let holders = case.members.iter().filter(|looked| !looked.member.witness);
    let statuses = holders.filter_map(Looked::status);
    let Some(newest) = case
        .leader()
        .or_else(|| statuses.max_by_key(|status| status.applied))
    else {
        return;
    };
    for alarm in &newest.alarms {
        let remedy = match alarm.as_str() {
            "NOSPACE" => {
                "make room (compact, delete), or raise the quota; the alarm ends by itself, or \
                 with `etcdctl alarm disarm`"
            }
            _ => "find the damaged replica among the findings here and replace it",
        };
        findings.push(Finding {
            severity: Severity::Critical,
            kind: "alarm",
            subject: CLUSTER.to_owned(),
            what: format!("the alarm {alarm} is raised"),
            evidence: format!("{} says so", newest.name),
            remedy: remedy.to_owned(),
        });
    }
    let (held, quota) = (newest.held_bytes, newest.quota_bytes.max(1));
    let hundredths = held.saturating_mul(100) / quota;
    if newest.alarms.is_empty() && hundredths >= thresholds.quota_hundredths {
        findings.push(Finding {
            severity: Severity::Warning,
            kind: "quota",
            subject: CLUSTER.to_owned(),
            what: "the quota is nearly used up".to_owned(),
            evidence: format!(
                "{} of {} ({hundredths} %), of which {} live",
                bytes(held),
                bytes(quota),
                bytes(newest.live_bytes)
            ),
            remedy: "compact history (`history`), delete what is not needed, or raise `quota`"
                .to_owned(),
        });
    }
}
