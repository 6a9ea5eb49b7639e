//! What certainly happened: the changes that every watch over their keys must deliver.
//!
//! A revision that the search had to guess proves nothing against a watch; what an acknowledged
//! operation says it did, or what somebody saw, does.

use std::collections::BTreeMap;

use crate::evidence::Evidence;
use crate::expectations::writes;
use crate::history::{Key, Revision};
use crate::linearizability::revisions::Timeline;
use crate::order::Order;
use crate::run::Run;

/// Changes by revision, in the order of keys: key, and whether it was put (else deleted).
#[derive(Debug, Default)]
pub(crate) struct Certain {
    pub(crate) changes: BTreeMap<Revision, Vec<(Key, bool)>>,
}

impl Certain {
    pub(crate) fn new(
        run: &Run<'_>,
        order: &Order,
        timeline: Option<&Timeline>,
        evidence: &Evidence<'_>,
    ) -> Certain {
        let mut certain = Certain::default();
        let mut revision = order.first;
        while revision < order.last {
            revision = Revision(revision.0 + 1);
            let mut changes: Vec<(Key, bool)> = Vec::with_capacity(1);
            if let Some(timeline) = timeline.filter(|timeline| timeline.is_sure) {
                for (key, put) in timeline.store.changes(revision) {
                    changes.push((key.clone(), put.is_some()));
                }
                certain.add(revision, changes);
                continue;
            }
            match order.writer(revision) {
                Some(writer) => {
                    let operation = &run.operations[writer];
                    let (_, _, response) = operation.answer().expect("writers are acknowledged");
                    writes(operation.request, response, &mut |key, put| {
                        changes.push((key.clone(), put));
                    });
                }
                None => {
                    for fact in evidence.at(revision) {
                        changes.push((fact.key.clone(), fact.put.is_some()));
                    }
                }
            }
            certain.add(revision, changes);
        }
        certain
    }

    /// Of several changes of one key the last counts.
    fn add(&mut self, revision: Revision, mut changes: Vec<(Key, bool)>) {
        if changes.len() > 1 {
            changes.reverse();
            changes.sort_by(|one, other| one.0.cmp(&other.0));
            changes.dedup_by(|later, kept| later.0 == kept.0);
        }
        self.changes.insert(revision, changes);
    }
}
