//! Compaction: what was forgotten is refused from then on, and nothing else is refused.
//!
//! - A linearizable read at a revision below one whose compaction was acknowledged before the read
//!   began must be refused.
//! - A refusal as compacted needs a compaction beyond that revision that had begun by then.
//! - A refusal as a future revision is wrong if that revision was seen before the request began.

use crate::history::{Failure, Request, Revision};
use crate::order::Order;
use crate::report::{Findings, Rule};
use crate::run::{End, Operation, Run};

/// When compactions began and were acknowledged: (line, greatest revision up to that line).
#[derive(Debug, Default)]
pub(crate) struct Compactions {
    initial: Revision,
    begun: Vec<(u64, Revision)>,
    acknowledged: Vec<(u64, Revision)>,
}

impl Compactions {
    pub(crate) fn new(run: &Run<'_>) -> Compactions {
        let mut compactions = Compactions {
            initial: run.header.initial.compacted,
            ..Compactions::default()
        };
        for operation in &run.operations {
            let Request::Compact(compact) = operation.request else {
                continue;
            };
            if matches!(operation.end, End::Fail { .. }) {
                continue;
            }
            let begun = (operation.invoked.line, compact.revision);
            compactions.begun.push(begun);
            if let Some((moment, ..)) = operation.answer() {
                let acknowledged = (moment.line, compact.revision);
                compactions.acknowledged.push(acknowledged);
            }
        }
        for list in [&mut compactions.begun, &mut compactions.acknowledged] {
            list.sort_unstable();
            let mut most = Revision(0);
            for entry in list {
                most = most.max(entry.1);
                entry.1 = most;
            }
        }
        compactions
    }

    /// The greatest revision that can have been compacted by a line.
    pub(crate) fn most_before(&self, line: u64) -> Revision {
        greatest(&self.begun, line).max(self.initial)
    }

    /// The revision that had certainly been compacted by a line.
    fn certain_before(&self, line: u64) -> Revision {
        greatest(&self.acknowledged, line).max(self.initial)
    }
}

fn greatest(list: &[(u64, Revision)], line: u64) -> Revision {
    let index = list.partition_point(|(at, _)| *at < line);
    index
        .checked_sub(1)
        .map_or(Revision(0), |index| list[index].1)
}

/// Judges reads of old revisions and refusals.
pub(crate) fn judge(
    run: &Run<'_>,
    order: &Order,
    compactions: &Compactions,
    findings: &mut Findings,
) {
    for operation in &run.operations {
        match operation.end {
            End::Ok { .. } => answered(operation, compactions, findings),
            End::Fail { moment, failure } => {
                let asked = match operation.request {
                    Request::Range(range) => range.revision,
                    Request::Compact(compact) => compact.revision,
                    _ => continue,
                };
                let possible = compactions.most_before(moment.line);
                // A range is refused below the compacted revision, a second compaction at it too.
                let is_range = matches!(operation.request, Request::Range(_));
                let known = asked < possible || (asked == possible && !is_range);
                let stale =
                    matches!(operation.request, Request::Range(range) if range.serializable);
                if *failure == Failure::Compacted && !known {
                    let text = format!(
                        "{} was refused as compacted, but nobody had asked to compact beyond \
                         revision {possible}",
                        operation.describe()
                    );
                    findings.add(Rule::Compaction, text, operation.lines());
                }
                let seen = order.seen_line(asked);
                if *failure == Failure::FutureRevision
                    && !stale
                    && asked <= order.last
                    && seen < operation.invoked.line
                {
                    let text = format!(
                        "{} was refused as a future revision, which had been seen before (line \
                         {seen})",
                        operation.describe()
                    );
                    findings.add(Rule::StaleRead, text, operation.lines());
                }
            }
            End::Unknown => {}
        }
    }
}

fn answered(operation: &Operation<'_>, compactions: &Compactions, findings: &mut Findings) {
    let Request::Range(range) = operation.request else {
        return;
    };
    let compacted = compactions.certain_before(operation.invoked.line);
    if range.revision > Revision(0) && range.revision < compacted && !range.serializable {
        let text = format!(
            "{} was answered, although {compacted} had been compacted before it began",
            operation.describe()
        );
        findings.add(Rule::Compaction, text, operation.lines());
    }
}
