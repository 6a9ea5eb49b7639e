//! Questions about each member on its own: disk, files, certificates, counters that should be zero,
//! settings that endanger a promise.

use std::time::Duration;

use super::counted::{Histogram, value};
use super::evidence::{Case, Certificate, Evidence, Look, Looked, now_milliseconds};
use super::{Finding, Severity, Thresholds};
use crate::table::bytes;

/// How long a sync of the log takes.
const SYNC: &str = "etcd_disk_wal_fsync_duration_seconds";

pub(super) fn examine(case: &Case, thresholds: &Thresholds, findings: &mut Vec<Finding>) {
    for (looked, look) in case.told() {
        let mut about = About {
            subject: looked.name(),
            evidence: &look.evidence,
            thresholds,
            findings,
        };
        about.sync(looked);
        about.disk();
        about.files();
        about.certificates();
        about.counters();
        about.answer(look);
        about.hints();
    }
}

/// One member, and where findings about it go.
struct About<'a> {
    subject: &'a str,
    evidence: &'a Evidence,
    thresholds: &'a Thresholds,
    findings: &'a mut Vec<Finding>,
}

impl About<'_> {
    fn found(
        &mut self,
        severity: Severity,
        kind: &'static str,
        what: String,
        evidence: String,
        remedy: &str,
    ) {
        self.findings.push(Finding {
            severity,
            kind,
            subject: self.subject.to_owned(),
            what,
            evidence,
            remedy: remedy.to_owned(),
        });
    }

    /// What happens now, or, where nothing happens, what happened since the start.
    fn sync(&mut self, looked: &Looked) {
        let since_start = Histogram::read(&self.evidence.metrics, SYNC);
        let recent = match &looked.looks {
            Ok((first, Some(_))) => {
                since_start.since(&Histogram::read(&first.evidence.metrics, SYNC))
            }
            _ => Histogram::default(),
        };
        let fewest = self.thresholds.fewest_syncs;
        let (syncs, when) = match (recent.count() >= fewest, since_start.count() >= fewest) {
            (true, _) => (recent, "while this looked on"),
            (false, true) => (since_start, "since the start"),
            (false, false) => return,
        };
        let Some(seconds) = syncs.quantile(0.99) else {
            return;
        };
        if seconds <= self.thresholds.sync_warning.as_secs_f64() {
            return;
        }
        let election = self.evidence.settings.get("election-timeout-ms");
        let election = election.and_then(|text| text.parse::<f64>().ok());
        let severity = match election {
            Some(milliseconds) if seconds * 1000.0 > milliseconds => Severity::Critical,
            _ => Severity::Warning,
        };
        let below = match seconds.is_finite() {
            true => format!("{:.0} ms", seconds * 1000.0),
            false => "any bound that is measured".to_owned(),
        };
        let what = format!("the disk of {} is slow to sync", self.subject);
        let evidence = format!(
            "99 of 100 syncs of the log take up to {below} ({:.0} syncs {when}); each write waits \
             for a majority of them",
            syncs.count()
        );
        let remedy = "give the log a disk of its own, one that is made for syncs (power-loss \
                      protected flash), and see who else uses this one";
        self.found(severity, "disk", what, evidence, remedy);
    }

    fn disk(&mut self) {
        let disk = &self.evidence.disk;
        let folder = disk.folder.clone();
        if let Some(problem) = &disk.problem {
            let what = format!("the disk of {} cannot be looked at", self.subject);
            let evidence = format!("{folder}: {problem}");
            let remedy = "look at that machine's disk and its log: a disk that hangs holds up \
                          whatever is written";
            self.found(Severity::Critical, "disk", what, evidence, remedy);
        }
        match disk.filesystem.as_str() {
            kind @ ("tmpfs" | "ramfs") => {
                let what = format!("{} keeps its data in memory", self.subject);
                let evidence = format!("{folder} is on {kind}");
                let remedy = "what is acknowledged is lost with the power: move data-dir to a disk";
                self.found(Severity::Critical, "disk", what, evidence, remedy);
            }
            kind @ ("nfs" | "smb" | "fuse") => {
                let what = format!("{} keeps its data on a disk that is far away", self.subject);
                let evidence = format!("{folder} is on {kind}");
                let remedy = "whether a sync there means stable storage is for the other side to \
                              say: move data-dir to a disk of this machine";
                self.found(Severity::Warning, "disk", what, evidence, remedy);
            }
            _ => {}
        }
        let (Some(free), Some(total)) = (disk.free_bytes, disk.total_bytes) else {
            return;
        };
        let hundredths = free.saturating_mul(100) / total.max(1);
        if free >= self.thresholds.free_enough_bytes
            || hundredths >= self.thresholds.free_warning_hundredths
        {
            return;
        }
        let severity = match hundredths < self.thresholds.free_critical_hundredths {
            true => Severity::Critical,
            false => Severity::Warning,
        };
        let what = format!("the disk of {} is nearly full", self.subject);
        let (free, total) = (bytes(free), bytes(total));
        let evidence = format!("{free} of {total} are free ({hundredths} %) at {folder}");
        let remedy = "make room: a node that cannot write its log stops";
        self.found(severity, "disk", what, evidence, remedy);
    }

    /// Data that nobody uses.
    fn files(&mut self) {
        for (kind, what) in [
            ("unknown", "files that no node reads"),
            ("partial", "a checkpoint that was not finished"),
            (
                "incoming",
                "a checkpoint of another member that was not finished",
            ),
        ] {
            let Some(files) = self.evidence.files.get(kind) else {
                continue;
            };
            let old = Duration::from_secs(files.oldest_seconds) >= self.thresholds.leftover;
            if kind != "unknown" && !old {
                continue;
            }
            let what = format!("the folder of {} holds {what}", self.subject);
            let evidence = format!(
                "{} of {}, {}: {}",
                files.count,
                self.evidence.disk.folder,
                bytes(files.bytes),
                files.names.join(", ")
            );
            let remedy = "if nobody knows what they are for, move them elsewhere; nothing reads \
                          them";
            self.found(Severity::Note, "orphans", what, evidence, remedy);
        }
    }

    fn certificates(&mut self) {
        for certificate in &self.evidence.certificates {
            let now = now_milliseconds() / 1000;
            if let Some((severity, what)) = self.judge(certificate, now) {
                let what = format!("{} of {} {what}", certificate.key, self.subject);
                let Certificate { file, subject, .. } = certificate;
                let evidence = match &certificate.problem {
                    Some(problem) => format!("{file}: {problem}"),
                    None => format!(
                        "{file} ({subject}), valid from {} to {}",
                        date(certificate.not_before),
                        date(certificate.not_after)
                    ),
                };
                let remedy = "make a new one (`quorate cert`) and put it in the file's place; the \
                              node reads it by itself";
                self.found(severity, "certificate", what, evidence, remedy);
            }
        }
    }

    fn judge(&self, certificate: &Certificate, now: i64) -> Option<(Severity, String)> {
        if certificate.problem.is_some() {
            return Some((Severity::Warning, "cannot be read any more".to_owned()));
        }
        let left = certificate.not_after.saturating_sub(now);
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        const DAY: i64 = 24 * 3600;
        if certificate.not_before > now {
            return Some((Severity::Critical, "is not valid yet".to_owned()));
        }
        if left < 0 {
            return Some((Severity::Critical, "has expired".to_owned()));
        }
        let severity = match left {
            left if left < seconds(self.thresholds.certificate_critical) => Severity::Critical,
            left if left < seconds(self.thresholds.certificate_warning) => Severity::Warning,
            _ => return None,
        };
        Some((severity, format!("expires in {} days", left / DAY)))
    }

    /// What is counted and should not be.
    fn counters(&mut self) {
        let metrics = &self.evidence.metrics;
        let counted = |name: &str| value(metrics, &format!("{name}_total"));
        let all = [
            (
                counted("quorate_commands_panicked"),
                Severity::Critical,
                "bug",
                "commands failed inside",
                "the state is unharmed; report what the log says, with the command",
            ),
            (
                counted("quorate_disk_failures"),
                Severity::Critical,
                "disk",
                "disk requests failed",
                "look at the system's log: the disk is failing or full",
            ),
            (
                counted("quorate_checkpoints_failed"),
                Severity::Warning,
                "disk",
                "checkpoints could not be written",
                "make room; until one is written the log grows",
            ),
            (
                counted("quorate_damage_found"),
                Severity::Warning,
                "damage",
                "the disk did not hold what was written",
                "it is repaired, or being repaired, from the other members; the log names the \
                 files. If it happens again, replace the disk",
            ),
            (
                value(metrics, "quorate_groups_in_doubt"),
                Severity::Warning,
                "damage",
                "replicas wait for what they have lost",
                "see that a majority of the other members runs and that this one reaches them: \
                 until a leader has made up for the loss, these replicas give no vote",
            ),
            (
                counted("quorate_bad_frames"),
                Severity::Warning,
                "peers",
                "peers sent what made no sense",
                "look for the culprit in the log; another version, or a network that damages",
            ),
        ];
        for (count, severity, kind, what, remedy) in all {
            if count > 0.0 {
                let what = format!("{what} at {}", self.subject);
                let evidence = match what.starts_with("replicas wait") {
                    true => format!("{count:.0} now"),
                    false => format!("{count:.0} since the start"),
                };
                self.found(severity, kind, what, evidence, remedy);
            }
        }
        let (open, most) = (
            value(metrics, "process_open_fds"),
            value(metrics, "process_max_fds"),
        );
        if most > 0.0 && open > most * 0.8 {
            let what = format!("{} may soon open no more files", self.subject);
            let evidence = format!("{open:.0} of {most:.0} are open");
            let remedy = "raise the limit of open files, or lower max-connections";
            self.found(Severity::Warning, "process", what, evidence, remedy);
        }
    }

    fn answer(&mut self, look: &Look) {
        if look.taken > self.thresholds.slow_answer {
            let what = format!("{} answers slowly", self.subject);
            let evidence = format!("its evidence took {:.1} s", look.taken.as_secs_f64());
            let remedy = "look at its processor, its disk and its network";
            self.found(Severity::Warning, "slow", what, evidence, remedy);
        }
    }

    fn hints(&mut self) {
        for hint in &self.evidence.hints {
            let what = format!(
                "a setting of {} is allowed and perhaps not meant",
                self.subject
            );
            let remedy = "see the operators' page on configuration";
            self.found(Severity::Note, "settings", what, hint.clone(), remedy);
        }
        let told = |key: &str| self.evidence.settings.get(key).map_or("", String::as_str);
        let open = |key: &str| {
            let address = told(key);
            let local = ["127.", "localhost", "[::1]", "unix:", "none"];
            !address.is_empty() && !local.iter().any(|start| address.starts_with(start))
        };
        for (tls, listen, who, severity) in [
            ("peer-tls", "listen-peer", "peers", Severity::Warning),
            ("client-tls", "listen-etcd", "clients", Severity::Note),
        ] {
            if told(tls) == "plain" && open(listen) {
                let what = format!("{} speaks with {who} in plain text", self.subject);
                let evidence = format!("{listen} is {}, and {tls} is plain", told(listen));
                let remedy = "`quorate cert` makes certificates; whoever reaches the port can read \
                              and write everything";
                self.found(severity, "settings", what, evidence, remedy);
            }
        }
    }
}

/// A day, by the calendar in use since 1582: `2026-11-21` (after H. Hinnant, chrono-compatible
/// low-level date algorithms).
fn date(seconds: i64) -> String {
    let days = seconds.div_euclid(24 * 3600) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    // March is the first month: the day that comes and goes is the last one of the year.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_795_219_200), "2026-11-21");
        assert_eq!(date(-1), "1969-12-31");
    }
}
