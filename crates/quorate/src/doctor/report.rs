//! Findings for people and for programs.

use serde_json::json;

use super::evidence::Case;
use super::group::votes;
use super::{Finding, Severity};

/// For people: a line that sums up, then what was found, the worst first.
pub(super) fn text(case: &Case, findings: &[Finding]) -> String {
    let mut lines = vec![harmless(&summary(case))];
    for finding in findings {
        let severity = finding.severity.name().to_uppercase();
        lines.push(String::new());
        lines.push(format!("{severity:<8}  {}", harmless(&finding.what)));
        lines.push(format!("  seen by   {}", harmless(&finding.evidence)));
        lines.push(format!("  do        {}", harmless(&finding.remedy)));
    }
    lines.push(String::new());
    lines.push(verdict(findings));
    lines.join("\n")
}

/// Names, zones and errors come from other machines: no terminal obeys what is in them.
fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}

fn summary(case: &Case) -> String {
    let votes = votes(case);
    let answered = case
        .members
        .iter()
        .filter(|looked| looked.status().is_some());
    let leader = case.leader().map_or_else(
        || "nobody leads".to_owned(),
        |leader| format!("{} leads in term {}", leader.name, leader.term),
    );
    let margin = match votes.alive.checked_sub(votes.needed()) {
        None => "no majority".to_owned(),
        Some(margin) => format!("{margin} of {} votes may still fail", votes.all),
    };
    format!(
        "{} of {} members answer; {leader}; {margin}",
        answered.count(),
        case.members.len()
    )
}

fn verdict(findings: &[Finding]) -> String {
    let count = |severity| {
        let found = findings.iter();
        found.filter(|finding| finding.severity == severity).count()
    };
    let counts = [Severity::Critical, Severity::Warning, Severity::Note]
        .map(|severity| (count(severity), severity.name()));
    if counts.iter().all(|(count, _)| *count == 0) {
        return "nothing is wrong".to_owned();
    }
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    format!("found: {}", counts.join(", "))
}

/// For programs.
pub(super) fn json(case: &Case, findings: &[Finding]) -> String {
    let votes = votes(case);
    let members = case.members.iter().map(|looked| {
        json!({
            "name": looked.name(),
            "id": looked.member.id,
            "voter": looked.member.voter,
            "witness": looked.member.witness,
            "answers": looked.status().is_some(),
            "problem": looked.looks.as_ref().err(),
            "release": looked.newest().map(|look| look.evidence.release.clone()),
            "uptime_seconds": looked.newest().map(|look| look.evidence.uptime_seconds),
            "clock_ahead_milliseconds": looked.newest().map(|look| look.ahead_milliseconds),
        })
    });
    let found = findings.iter().map(|finding| {
        json!({
            "severity": finding.severity.name(),
            "kind": finding.kind,
            "subject": finding.subject,
            "what": finding.what,
            "evidence": finding.evidence,
            "remedy": finding.remedy,
        })
    });
    let worst = findings.iter().map(|finding| finding.severity).max();
    let whole = json!({
        "worst": worst.map(Severity::name),
        "leader": case.leader().map(|leader| leader.name.clone()),
        "voters": votes.all,
        "voters_that_answer": votes.alive,
        "majority": votes.needed(),
        "members": members.collect::<Vec<_>>(),
        "findings": found.collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&whole).expect("plain data is always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing() {
        let finding = Finding {
            severity: Severity::Note,
            kind: "zone",
            subject: "n1".to_owned(),
            what: "n1 is in \u{1b}[2Jzürich\u{9b}".to_owned(),
            evidence: String::new(),
            remedy: String::new(),
        };
        let shown = text(&Case::default(), &[finding]);
        assert!(
            shown.contains("n1 is in \\u{1b}[2Jzürich\\u{9b}\n"),
            "{shown}"
        );
    }
}
