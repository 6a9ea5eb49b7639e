//! Makes a failing scenario smaller: leaves faults away, in halves and then one by one, and turns
//! the network's own faults off, as long as the same invariant is still violated.

use crate::run::{Options, run};
use crate::scenario::Scenario;

/// How many runs are spent at most.
const RUNS_MAX: usize = 200;

/// A smaller scenario that violates the same invariant, and how many runs that took.
#[must_use]
pub fn minimise(scenario: &Scenario, invariant: &str) -> (Scenario, usize) {
    let mut runs = 0;
    let mut fails = |candidate: &Scenario| {
        runs += 1;
        runs <= RUNS_MAX
            && run(candidate, Options::default())
                .violation
                .is_some_and(|violation| violation.invariant == invariant)
    };
    let mut smallest = scenario.clone();
    // What gossip violates needs no fault of the cluster, and what a cluster does no gossip.
    let without = Scenario {
        gossip: false,
        ..smallest.clone()
    };
    if smallest.gossip && fails(&without) {
        smallest = without;
    }
    let mut piece = smallest.faults.len().max(1);
    while piece > 0 {
        let mut at = 0;
        while at < smallest.faults.len() {
            let mut candidate = smallest.clone();
            let end = (at + piece).min(candidate.faults.len());
            candidate.faults.drain(at..end);
            match fails(&candidate) {
                true => smallest = candidate,
                false => at += piece,
            }
        }
        piece /= 2;
    }
    for quiet in 0..6 {
        let mut candidate = smallest.clone();
        let network = &mut candidate.network;
        let share = match quiet {
            0 => &mut network.tail_share,
            1 => &mut network.break_share,
            2 => &mut network.duplicate_share,
            3 => &mut network.replay_share,
            4 => &mut network.reorder_share,
            _ => &mut network.loss_share,
        };
        if std::mem::replace(share, 0) > 0 && fails(&candidate) {
            smallest = candidate;
        }
    }
    (smallest, runs)
}
