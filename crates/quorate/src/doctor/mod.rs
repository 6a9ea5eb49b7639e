//! `quorate doctor`: looks at a live cluster as an expert would, and says what is wrong, how it can
//! be seen, and what to do.
//!
//! ```text
//!   gather    every member's evidence, twice, through whichever nodes can be asked   (HTTP)
//!   examine   evidence ─▶ findings: pure, a file per kind of question
//!   report    findings ─▶ text or JSON, and an exit status by the worst of them
//! ```
//!
//! Nodes tell facts and judge nothing; all judgement is here, where it can be newer than the nodes.
//! It changes nothing, and asks nothing that would slow down a node that suffers already.

mod between;
mod counted;
mod evidence;
mod group;
mod keyspaces;
mod report;
mod single;

use std::process::ExitCode;
use std::time::Duration;

use crate::admin::AdminError;
use crate::command_line::Doctor;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Worth knowing.
    Note,
    /// A promise still holds, and less protects it than was meant.
    Warning,
    /// A promise is broken, or the next failure breaks it.
    Critical,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// Which question it answers, for programs: `quorum`, `clock`, …
    pub(crate) kind: &'static str,
    /// Whom it is about: a member's name, or `cluster`.
    pub(crate) subject: String,
    /// What is wrong, a sentence.
    pub(crate) what: String,
    /// How that can be seen.
    pub(crate) evidence: String,
    /// What to do.
    pub(crate) remedy: String,
}

/// From where on something is worth saying.
#[derive(Clone, Debug)]
pub(crate) struct Thresholds {
    /// Wall clocks further apart than this.
    pub(crate) clock_warning: Duration,
    /// Likewise, badly.
    pub(crate) clock_critical: Duration,
    /// Certificates that end within this time.
    pub(crate) certificate_warning: Duration,
    /// Likewise, badly.
    pub(crate) certificate_critical: Duration,
    /// The time that 99 of 100 syncs of the log stay below.
    pub(crate) sync_warning: Duration,
    /// Fewer syncs tell nothing.
    pub(crate) fewest_syncs: f64,
    /// Slots that a replica is behind.
    pub(crate) lag_slots: u64,
    /// Of the quota, in hundredths.
    pub(crate) quota_hundredths: u64,
    /// Of the disk that is free, in hundredths.
    pub(crate) free_warning_hundredths: u64,
    /// Likewise, badly.
    pub(crate) free_critical_hundredths: u64,
    /// Free bytes that are always enough.
    pub(crate) free_enough_bytes: u64,
    /// Files left over that are older than this.
    pub(crate) leftover: Duration,
    /// A member that is so many times farther away than others.
    pub(crate) far_factor: u32,
    /// Nobody who is nearer than this is far away.
    pub(crate) near: Duration,
    /// An answer that takes longer than this comes from a member that is slow.
    pub(crate) slow_answer: Duration,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        let days = |count: u64| Duration::from_secs(count * 24 * 3600);
        Thresholds {
            clock_warning: Duration::from_secs(1),
            clock_critical: Duration::from_secs(60),
            certificate_warning: days(30),
            certificate_critical: days(3),
            sync_warning: Duration::from_millis(100),
            fewest_syncs: 20.0,
            lag_slots: 1000,
            quota_hundredths: 80,
            free_warning_hundredths: 10,
            free_critical_hundredths: 2,
            free_enough_bytes: 64 << 30,
            leftover: Duration::from_secs(3600),
            far_factor: 10,
            near: Duration::from_millis(5),
            slow_answer: Duration::from_secs(1),
        }
    }
}

/// Looks, and says what was found; the exit status tells the worst of it.
///
/// # Errors
/// No node can be asked at all.
pub(crate) async fn doctor(options: &Doctor) -> Result<(String, ExitCode), AdminError> {
    let window = Duration::from_millis(options.window_milliseconds);
    let case = evidence::gather(&options.admins, window).await?;
    let findings = examine(&case, &Thresholds::default());
    let text = match options.json {
        true => report::json(&case, &findings),
        false => report::text(&case, &findings),
    };
    Ok((text, exit_code(&findings)))
}

/// Everything that is wrong, the worst first.
fn examine(case: &evidence::Case, thresholds: &Thresholds) -> Vec<Finding> {
    let mut findings = Vec::new();
    group::examine(case, thresholds, &mut findings);
    keyspaces::examine(case, thresholds, &mut findings);
    between::examine(case, thresholds, &mut findings);
    single::examine(case, thresholds, &mut findings);
    findings.sort_by(|one, other| {
        let worst_first = other.severity.cmp(&one.severity);
        worst_first.then_with(|| (one.kind, &one.subject).cmp(&(other.kind, &other.subject)))
    });
    findings
}

/// 0: nothing worse than notes; 3: warnings; 4: something critical. 1 and 2 mean what they do
/// for every command: it could not be done, it was called in a wrong way.
fn exit_code(findings: &[Finding]) -> ExitCode {
    match findings.iter().map(|finding| finding.severity).max() {
        None | Some(Severity::Note) => ExitCode::SUCCESS,
        Some(Severity::Warning) => ExitCode::from(3),
        Some(Severity::Critical) => ExitCode::from(4),
    }
}

#[cfg(test)]
mod tests;
