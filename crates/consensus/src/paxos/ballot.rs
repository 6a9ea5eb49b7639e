//! Ballots, and how one number holds one.
//!
//! ```text
//!  63  62 ........................... 8 7  6 5 .......... 0
//! │ 0 │             round              │ pr │    rank     │     Epoch
//! ```
//!
//! A ballot is (round, priority, node), ordered in this way. Above the engine it is an [`Epoch`],
//! opaque and ordered alike. The *rank* is the node's place among the voters that it knows, so that
//! two who campaign in the same round have different ballots and the higher one wins without a
//! third round. Two nodes that know different voters may have the same rank; an acceptor therefore
//! promises an epoch to one node only, and keeps beside the epoch whom it promised it to. So an
//! epoch has one leader, ranks or not: they only make it come sooner.

use base::{Epoch, NodeId};

use crate::membership::Membership;
use crate::message::Occasion;

const RANK_BITS: u32 = 6;
const PRIORITY_BITS: u32 = 2;
const ROUND_SHIFT: u32 = RANK_BITS + PRIORITY_BITS;
const RANK_MAX: u64 = (1 << RANK_BITS) - 1;

/// The lowest ballot of `node` above everything in the round of `seen`.
pub(super) fn above(
    seen: Epoch,
    node: NodeId,
    membership: &Membership,
    occasion: Occasion,
) -> Epoch {
    let round = (seen.0 >> ROUND_SHIFT) + 1;
    // Whom the leader asked to take over goes before those who merely ask at the same time.
    let priority = u64::from(occasion == Occasion::Transfer);
    let rank = membership.all_voters().take_while(|id| *id < node).count() as u64;
    let rank = (rank + 1).min(RANK_MAX);
    Epoch(round << ROUND_SHIFT | priority << RANK_BITS | rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballots_are_ordered_by_round_priority_and_node() {
        let membership = Membership {
            voters: (1..=5).map(NodeId).collect(),
            ..Membership::default()
        };
        let ballot = |seen, node, occasion| above(Epoch(seen), NodeId(node), &membership, occasion);
        let first = ballot(0, 1, Occasion::Silence);
        let second = ballot(0, 2, Occasion::Silence);
        let asked = ballot(0, 1, Occasion::Transfer);
        let later = ballot(asked.0, 1, Occasion::Silence);
        assert!(first < second && second < asked && asked < later);
        assert_eq!(later, ballot(first.0, 1, Occasion::Silence));
    }
}
