//! Runs all judges over a history and puts the report together.

use std::io::BufRead;

use crate::certain::Certain;
use crate::compaction::{self, Compactions};
use crate::evidence::{Evidence, Strength};
use crate::history::{History, Malformed, Reader};
use crate::lease::Leases;
use crate::limits::Limits;
use crate::linearizability::revisions::{Solution, Timeline, solve};
use crate::lock;
use crate::order::Order;
use crate::report::{Counts, Findings, Report};
use crate::run::Run;
use crate::watch;

/// How to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How much may be read, held and tried.
    pub limits: Limits,
}

/// Reads a history and judges it.
///
/// # Errors
/// If it is not a history: the line and the reason.
pub fn check(source: impl BufRead, options: &Options) -> Result<Report, Malformed> {
    let history = Reader::read(source, options.limits)?;
    Ok(judge(&history, options))
}

/// Judges a history in memory.
///
/// # Errors
/// If its lines, were they written, would not be a history.
pub fn check_history(history: &History, options: &Options) -> Result<Report, Malformed> {
    history.validate()?;
    Ok(judge(history, options))
}

fn judge(history: &History, options: &Options) -> Report {
    let mut findings = Findings::new(options.limits.findings);
    let mut counts = Counts::default();
    let mut undecided = None;
    let run = Run::new(history);
    run.count(&mut counts);
    let order = Order::new(&run, &mut findings);
    counts.revisions = order.last.0 - order.first.0;
    counts.holes = order.holes();
    let mut steps = options.limits.steps;
    let searched = if order.consistent {
        search(&run, &order, &mut steps, &mut findings, &mut undecided)
    } else {
        Searched {
            timeline: None,
            evidence: Evidence::gather(&run, Strength::Operations),
            left_out: None,
        }
    };
    counts.steps = options.limits.steps - steps;
    let timeline = searched.timeline.as_ref();
    let compactions = Compactions::new(&run);
    compaction::judge(&run, &order, &compactions, &mut findings);
    let certain = Certain::new(&run, &order, timeline, &searched.evidence);
    let watches = watch::Judge {
        certain: &certain,
        timeline,
        compactions: &compactions,
        first: order.first,
    };
    watch::judge(&run, &watches, &mut counts, &mut findings);
    let leases = Leases::new(&run, &order, timeline);
    leases.judge(&run, &mut counts, &mut findings);
    lock::judge(&run, &leases, &mut counts, &mut findings);
    // The watches contradict the operations, and no rule above has said how.
    if findings.kept.is_empty() {
        match searched.left_out {
            Some(Solution::Impossible(conflict)) => {
                findings.add(conflict.rule, conflict.text, conflict.lines);
            }
            Some(_) => undecided = Some(gave_up(&order)),
            None => {}
        }
    }
    Report {
        origin: history.header.origin.clone(),
        last_revision: order.last,
        findings: findings.kept,
        more_findings: findings.more,
        undecided,
        counts,
    }
}

/// What the search for an order came to.
struct Searched<'h> {
    timeline: Option<Timeline>,
    /// What it was found from, or what none could be found from.
    evidence: Evidence<'h>,
    /// Why there is no order that explains the watches too, though there is one without them.
    left_out: Option<Solution>,
}

/// Searches with all that watches say; if that explains nothing, with less.
fn search<'h>(
    run: &Run<'h>,
    order: &Order,
    steps: &mut u64,
    findings: &mut Findings,
    undecided: &mut Option<String>,
) -> Searched<'h> {
    let mut left_out = None;
    for strength in [Strength::All, Strength::Bare, Strength::Operations] {
        let evidence = Evidence::gather(run, strength);
        // Of two failures the one that knew less says more surely what is wrong.
        match solve(run, order, &evidence, steps) {
            Solution::Found(timeline) => {
                return Searched {
                    timeline: Some(*timeline),
                    evidence,
                    left_out,
                };
            }
            Solution::Impossible(conflict) if strength == Strength::Operations => {
                findings.add(conflict.rule, conflict.text, conflict.lines);
            }
            Solution::Undecided if strength == Strength::Operations => {
                *undecided = Some(gave_up(order));
            }
            solution => left_out = Some(solution),
        }
    }
    Searched {
        timeline: None,
        evidence: Evidence::gather(run, Strength::Operations),
        left_out: None,
    }
}

fn gave_up(order: &Order) -> String {
    format!(
        "the search for an order was given up: {} revisions were not acknowledged, and the ways to \
         explain them are too many for the steps allowed",
        order.holes()
    )
}
