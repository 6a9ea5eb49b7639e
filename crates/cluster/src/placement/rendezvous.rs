//! Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after Schindelhauer and
//! Schomaker 2005): every node draws a number for every object, the lowest numbers win.
//!
//! ```text
//!   cost(object, node) = -log2(hash(object, node) / 2^64) / weight        lowest k hold the object
//! ```
//!
//! A node's draws do not depend on the other nodes. So when one leaves, only its objects move, and
//! when one comes, it takes from each of the others what it wins: the least movement there can be.
//! The draw is exponential with rate `weight`, hence a node wins in proportion to its weight.
//!
//! The logarithm is computed bit by bit on integers: the same on every machine, which no library
//! of floating point promises.

use base::NodeId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::site::Weight;

/// What a node would pay to hold an object. Totally ordered; ties are broken by the node's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    amount: u64,
    node: NodeId,
}

/// Bits behind the binary point of a logarithm.
const FRACTION_BITS: u32 = 32;
/// Keeps digits while dividing by a weight.
const WEIGHT_SHIFT: u32 = 24;

/// The cost of holding `object` on `node`.
#[must_use]
pub fn cost(object: u64, node: NodeId, weight: Weight) -> Cost {
    let hash = xxh3_64_with_seed(&object.to_le_bytes(), node.0);
    let below_one = (64 << FRACTION_BITS) - log2(hash.max(1));
    Cost {
        amount: (below_one << WEIGHT_SHIFT) / u64::from(weight.get()),
        node,
    }
}

/// The `count` nodes that hold `object`, best first; fewer if there are fewer.
#[must_use]
pub fn winners(object: u64, nodes: &[(NodeId, Weight)], count: usize) -> Vec<NodeId> {
    let mut costs: Vec<Cost> = nodes
        .iter()
        .map(|(node, weight)| cost(object, *node, *weight))
        .collect();
    let count = count.min(costs.len());
    if count > 0 && count < costs.len() {
        costs.select_nth_unstable(count - 1);
    }
    costs.truncate(count);
    costs.sort_unstable();
    costs.into_iter().map(|cost| cost.node).collect()
}

/// The logarithm to base 2 of `value >= 1`, with 32 bits behind the point, rounded down.
fn log2(value: u64) -> u64 {
    let whole = value.ilog2();
    // In 1.0..2.0, with 63 bits behind the point. Squaring doubles the logarithm, and whether the
    // square is 2 or more is its next bit.
    let mut mantissa = value << (63 - whole);
    let mut fraction = 0u64;
    for _ in 0..FRACTION_BITS {
        let square = u128::from(mantissa) * u128::from(mantissa);
        fraction <<= 1;
        if square >> 127 == 1 {
            fraction |= 1;
            mantissa = (square >> 64) as u64;
        } else {
            mantissa = (square >> 63) as u64;
        }
    }
    (u64::from(whole) << FRACTION_BITS) | fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_that_of_mathematics() {
        assert_eq!(log2(1), 0);
        assert_eq!(log2(2), 1 << 32);
        assert_eq!(log2(1 << 63), 63 << 32);
        for value in [3u64, 5, 10, 1000, 123_456_789, u64::MAX / 3, u64::MAX] {
            let expected = (value as f64).log2();
            let found = log2(value) as f64 / f64::from(2u32).powi(32);
            assert!((expected - found).abs() < 1e-9, "{value}: {found}");
        }
    }

    #[test]
    fn a_node_wins_in_proportion_to_its_weight() {
        let weight = |weight| Weight::new(weight).unwrap();
        let nodes = [
            (NodeId(1), weight(100)),
            (NodeId(2), weight(200)),
            (NodeId(3), weight(300)),
        ];
        let mut won = [0u32; 4];
        for object in 0..60_000 {
            won[winners(object, &nodes, 1)[0].0 as usize] += 1;
        }
        for (node, expected) in [(1, 10_000f64), (2, 20_000.0), (3, 30_000.0)] {
            let off = (f64::from(won[node]) - expected).abs() / expected;
            assert!(off < 0.03, "node {node} won {}", won[node]);
        }
    }

    #[test]
    fn only_what_the_leaving_node_held_moves() {
        let all: Vec<_> = (1..=9).map(|id| (NodeId(id), Weight::ORDINARY)).collect();
        for object in 0..2000 {
            let before = winners(object, &all, 3);
            let after = winners(object, &all[..8], 3);
            let stayed: Vec<_> = before.iter().filter(|node| node.0 != 9).collect();
            assert!(stayed.iter().all(|node| after.contains(node)));
        }
    }

    #[test]
    fn the_draw_is_the_same_on_every_machine() {
        // Changing this number moves the data of every cluster that grows or heals.
        let drawn = cost(42, NodeId(7), Weight::ORDINARY);
        assert_eq!(drawn.amount, GOLDEN);
    }

    const GOLDEN: u64 = 383_082_615_726_407;
}
