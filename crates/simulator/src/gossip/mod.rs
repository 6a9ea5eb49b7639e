//! Members of gossip beside the cluster of nodes: the production machine (`cluster::gossip`, SWIM
//! with Lifeguard) over a network of packets and streams of its own.
//!
//! ```text
//!  seed ──▶ plan ──▶ │ faults ─────────────────▶│ calm: all agree on who is there │ and go on to │
//! ```
//!
//! Nodes decide nothing by what gossip says, so the two worlds share the seed and nothing else:
//! time begins at zero again, and the streams of chance have names of their own. In the first phase
//! members die, come back, leave, stand still and are cut off from each other. Then nothing goes
//! wrong any more, and within a bound (`Plan::converges_within`) whoever runs must see all who run
//! alive, as they describe themselves now, and nobody else. What must hold all the time stands in
//! [`checks`].
//!
//! - `plan`: what goes wrong. [`checks`]: what must hold. `network`: how packets and streams get
//!   from one to another.

mod checks;
mod network;
mod plan;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::invariants::Violation;
use crate::marks::Marks;
use crate::trace::{Kind, Trace};

use checks::Fate;
use network::Network;
use plan::Plan;

/// How often it is looked whether all agree.
const LOOK: Duration = Duration::from_millis(500);
/// How long they are watched after that.
const STAYS: Duration = Duration::from_secs(3);
/// How long a member that was started takes to join, at most, where nothing goes wrong.
const JOINS_WITHIN: Duration = Duration::from_secs(10);

/// What came of a run.
#[derive(Debug)]
pub struct Played {
    /// What was violated; `None` for a clean run.
    pub violation: Option<Violation>,
    /// Rare situations that were reached.
    pub marks: Marks,
    /// Faults that struck, by family.
    pub struck: BTreeMap<&'static str, u64>,
    /// Invariants checked.
    pub checks: u64,
}

/// Plays what the seed draws, and tells it.
pub fn play(seed: u64, trace: &mut Trace) -> Played {
    let plan = Plan::draw(seed);
    trace.line(Duration::ZERO, Kind::Gossip(None), || {
        format!("{} members, {:?}", plan.members, plan.links)
    });
    let mut network = Network::new(plan, seed, trace);
    network.run_until(network.plan.duration);
    network.calm();
    let begin = network.elapsed();
    let until = begin + network.plan.converges_within();
    while network.violation.is_none() && !agree(&network) {
        if network.elapsed() >= until {
            network.fail("gossip converges", network.picture());
        }
        network.run_until(network.elapsed() + LOOK);
    }
    network.checks.is_settled = true;
    network.run_until(network.elapsed() + STAYS);
    goodbyes_were_heard(&mut network);
    Played {
        violation: network.violation,
        marks: network.checks.marks,
        struck: network.struck,
        checks: network.checks.count,
    }
}

/// Whether all who run see what is so of all.
fn agree(network: &Network<'_>) -> bool {
    let members = 0..network.plan.members;
    let runs = |member: &usize| network.checks.truths[*member].fate == Fate::Up;
    members.clone().filter(runs).all(|viewer| {
        let mut all = members.clone();
        all.all(|about| {
            let runs = network.checks.truths[about].fate == Fate::Up;
            network.checks.sees_truth(viewer, about)
                && (!runs || network.knows_facts(viewer, about))
        })
    })
}

/// Where nothing gets lost, whoever was there knows that somebody left, and did not die.
fn goodbyes_were_heard(network: &mut Network<'_>) {
    for viewer in 0..network.plan.members {
        for about in 0..network.plan.members {
            let runs = network.checks.truths[viewer].fate == Fate::Up;
            if runs && network.checks.missed_goodbye(viewer, about, JOINS_WITHIN) {
                let text = format!("n{} by n{}\n{}", about + 1, viewer + 1, network.picture());
                network.fail("who leaves is known to have left", text);
            }
        }
    }
}
