//! Medians with their spread, and the table of them.

use std::fmt::Write;

use crate::runs::Measurement;
use crate::servers::System;

/// Median, least and greatest of several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    /// `None` if there are no values.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let upper = *values.get(values.len() / 2)?;
        let lower = values[(values.len() - 1) / 2];
        Some(Spread {
            median: f64::midpoint(lower, upper),
            least: *values.first()?,
            greatest: *values.last()?,
        })
    }

    /// `12,345 (12,000-13,000)`
    pub(crate) fn shown(&self) -> String {
        let (median, least) = (number(self.median), number(self.least));
        let greatest = number(self.greatest);
        if least == greatest {
            return median;
        }
        format!("{median} ({least}-{greatest})")
    }
}

/// A figure of a workload on a system, over all rounds.
pub(crate) fn spread(
    measured: &[Measurement],
    workload: &str,
    system: System,
    figure: &str,
) -> Option<Spread> {
    let rounds = measured
        .iter()
        .filter(|one| one.workload == workload && one.system == system);
    let values = rounds.filter_map(|one| {
        let (_, value) = one.figures.iter().find(|(name, _)| *name == figure)?;
        Some(*value)
    });
    Spread::of(values.collect())
}

/// The names of the workloads that were measured, in their order.
pub(crate) fn workloads<'a>(measured: &'a [Measurement], family: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for one in measured.iter().filter(|one| one.family == family) {
        if !names.contains(&one.workload.as_str()) {
            names.push(&one.workload);
        }
    }
    names
}

/// Three digits, thousands apart: `12,345`, `1,234`, `56.7`, `0.89`.
pub(crate) fn number(value: f64) -> String {
    if value < 9.995 {
        return format!("{value:.2}");
    }
    if value < 99.95 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut shown = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A family of workloads and the figures that a reader wants of it.
struct Table {
    family: &'static str,
    title: &'static str,
    figures: &'static [(&'static str, &'static str)],
}

const LOADS: &[(&str, &str)] = &[
    ("per_second", "per second"),
    ("p50_ms", "p50 ms"),
    ("p99_ms", "p99 ms"),
    ("server_us", "server us each"),
    ("client_us", "client us each"),
    ("resident_mb", "MB, all nodes"),
];

const TABLES: &[Table] = &[
    Table {
        family: "put",
        title: "Puts",
        figures: LOADS,
    },
    Table {
        family: "get",
        title: "Linearizable gets",
        figures: LOADS,
    },
    Table {
        family: "sget",
        title: "Serializable gets",
        figures: LOADS,
    },
    Table {
        family: "watch",
        title: "Events to 1,000 watchers (streams x watchers on each), 4 writers in a closed loop",
        figures: LOADS,
    },
    Table {
        family: "stalled",
        title: "Puts of 64 clients, with watchers of their keys that do not read",
        figures: &[
            ("per_second", "puts per second"),
            ("p50_ms", "p50 ms"),
            ("p99_ms", "p99 ms"),
            ("server_put_us", "server us a put"),
            ("resident_mb", "MB, all nodes"),
        ],
    },
    Table {
        family: "watchers",
        title: "Watchers that wait, on 1,000 streams over 100 connections",
        figures: &[("resident_mb", "MB, all nodes")],
    },
    Table {
        family: "leases",
        title: "10,000 leases, each kept alive every second",
        figures: &[
            ("per_second", "keep-alives per second"),
            ("p50_ms", "p50 ms"),
            ("p99_ms", "p99 ms"),
            ("server_us", "server us each"),
            ("server_cores", "server cores"),
        ],
    },
    Table {
        family: "keys",
        title: "Many keys in one node",
        figures: &[
            ("per_second", "filled per second"),
            ("filled_mb", "MB when filled"),
            ("restarted_mb", "MB after a restart"),
            ("restart_s", "restart s"),
        ],
    },
];

/// All tables as Markdown, and what went wrong.
pub(crate) fn markdown(measured: &[Measurement]) -> String {
    let mut text = String::new();
    for table in TABLES {
        let names = workloads(measured, table.family);
        if !names.is_empty() {
            // Writing to a text does not fail.
            let _ = write!(
                text,
                "### {}\n\n{}\n",
                table.title,
                rows(measured, table, &names)
            );
        }
    }
    let problems = problems(measured);
    if !problems.is_empty() {
        let _ = write!(text, "### What went wrong\n\n{problems}");
    }
    text
}

fn rows(measured: &[Measurement], table: &Table, names: &[&str]) -> String {
    let mut text = "| workload | system |".to_owned();
    let mut rule = "|---|---|".to_owned();
    for (_, title) in table.figures {
        let _ = write!(text, " {title} |");
        rule.push_str("---:|");
    }
    let _ = write!(text, "\n{rule}\n");
    for name in names {
        for system in System::ALL {
            let _ = write!(text, "| {name} | {} |", system.name());
            for (figure, _) in table.figures {
                let spread = spread(measured, name, system, figure);
                let shown = spread.map_or_else(|| "-".to_owned(), |spread| spread.shown());
                let _ = write!(text, " {shown} |");
            }
            text.push('\n');
        }
    }
    text
}

/// One line for every run that had no figures, or errors among them.
fn problems(measured: &[Measurement]) -> String {
    let mut text = String::new();
    for one in measured {
        let problem = match &one.problem {
            Some(problem) => problem.clone(),
            None if one.errors > 0 => format!("{} operations failed", one.errors),
            None => continue,
        };
        let system = one.system.name();
        let (workload, round) = (&one.workload, one.round + 1);
        let _ = writeln!(text, "- {workload} on {system}, round {round}: {problem}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(system: System, per_second: f64) -> Measurement {
        Measurement {
            workload: "put-1".to_owned(),
            family: "put",
            system,
            round: 0,
            figures: vec![("per_second", per_second)],
            errors: 0,
            problem: None,
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let median = |values: &[f64]| Spread::of(values.to_vec()).map(|spread| spread.median);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0]), Some(5.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let numbers = [0.894, 9.999, 56.74, 99.97, 1_234.4, 1_234_567.0];
        assert_eq!(
            numbers.map(number),
            ["0.89", "10.0", "56.7", "100", "1,234", "1,234,567"]
        );
    }

    #[test]
    fn a_table_holds_medians_and_says_what_is_missing() {
        let mut measured = vec![
            measurement(System::Etcd, 10.0),
            measurement(System::Etcd, 30.0),
        ];
        let mut failed = measurement(System::Quorate, 0.0);
        failed.figures.clear();
        failed.problem = Some("it fell over".to_owned());
        measured.push(failed);
        let text = markdown(&measured);
        assert!(
            text.contains("| put-1 | etcd | 20.0 (10.0-30.0) | - |"),
            "{text}"
        );
        assert!(text.contains("| put-1 | quorate | - |"), "{text}");
        assert!(
            text.contains("put-1 on quorate, round 1: it fell over"),
            "{text}"
        );
    }
}
