//! A hash ring with virtual nodes (Karger and others 1997) and bounded loads (Mirrokni, Thorup,
//! Zadimoghaddam 2018): for balancing work over workers that know the same list, without a table.
//!
//! ```text
//!        b2   a1                       a key goes to the first point at or after its hash;
//!      ─●────●────●────●────●─         if that worker is full, to the next worker's
//!                 c7   a3   b9
//! ```
//!
//! A worker has points in proportion to its weight. The bound keeps every worker at or below
//! `(1 + extra)` times its fair share of what has been assigned, at the price of some keys that are
//! not where they would be alone.

use std::collections::BTreeMap;

use base::NodeId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::site::Weight;

/// Points of workers on a circle of 2^64.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// Sorted by place.
    points: Vec<(u64, NodeId)>,
    weights: BTreeMap<NodeId, Weight>,
}

impl Ring {
    /// A ring on which an ordinary worker has `points_each` points: 128 keep the fullest of a few
    /// workers within a tenth of the mean, more points come closer.
    #[must_use]
    pub fn new(workers: &[(NodeId, Weight)], points_each: u32) -> Ring {
        let mut points = Vec::new();
        for (node, weight) in workers {
            let count = u64::from(points_each) * u64::from(weight.get());
            for point in 0..count.div_ceil(u64::from(Weight::ORDINARY.get())) {
                points.push((xxh3_64_with_seed(&point.to_le_bytes(), node.0), *node));
            }
        }
        points.sort_unstable();
        Ring {
            points,
            weights: workers.iter().copied().collect(),
        }
    }

    /// Who serves `key`; nobody if there is nobody.
    #[must_use]
    pub fn owner(&self, key: &[u8]) -> Option<NodeId> {
        self.from(hash(key)).next()
    }

    /// The workers in the order in which they take over `key` when those before them are away.
    /// Each worker comes once.
    #[must_use]
    pub fn order(&self, key: &[u8]) -> Vec<NodeId> {
        let mut order = Vec::with_capacity(self.weights.len());
        for node in self.from(hash(key)) {
            if !order.contains(&node) {
                order.push(node);
                if order.len() == self.weights.len() {
                    break;
                }
            }
        }
        order
    }

    fn from(&self, place: u64) -> impl Iterator<Item = NodeId> {
        let start = self.points.partition_point(|(point, _)| *point < place);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|(_, node)| *node)
    }
}

/// Assigns keys on a ring so that nobody gets much more than a fair share.
#[derive(Clone, Debug)]
pub struct BoundedRing {
    ring: Ring,
    /// How much more than its fair share a worker may have, in thousandths.
    extra_thousandths: u64,
    loads: BTreeMap<NodeId, u64>,
    assigned: u64,
    total_weight: u64,
}

impl BoundedRing {
    /// Nothing is assigned yet. `extra_thousandths` of 250 is a common choice: nobody above 1.25
    /// times the mean.
    #[must_use]
    pub fn new(ring: Ring, extra_thousandths: u32) -> BoundedRing {
        let total_weight = ring
            .weights
            .values()
            .map(|weight| u64::from(weight.get()))
            .sum();
        BoundedRing {
            loads: ring.weights.keys().map(|node| (*node, 0)).collect(),
            ring,
            extra_thousandths: u64::from(extra_thousandths),
            assigned: 0,
            total_weight,
        }
    }

    /// Gives `key` to the first worker in its order that is not full, and counts it there.
    pub fn assign(&mut self, key: &[u8]) -> Option<NodeId> {
        let after = self.assigned + 1;
        let node = self
            .ring
            .from(hash(key))
            .find(|node| self.loads[node] < self.capacity(*node, after))?;
        self.assigned = after;
        *self.loads.get_mut(&node).expect("every worker has a load") += 1;
        Some(node)
    }

    /// Takes back one key that `node` had been given.
    ///
    /// # Panics
    /// If `node` has none: then somebody else's key is being counted.
    pub fn release(&mut self, node: NodeId) {
        let load = self.loads.get_mut(&node).expect("a worker of this ring");
        assert!(*load > 0, "a worker gives back no more than it has");
        *load -= 1;
        self.assigned -= 1;
    }

    /// How many keys each worker has.
    #[must_use]
    pub fn loads(&self) -> &BTreeMap<NodeId, u64> {
        &self.loads
    }

    /// What `node` may hold when `assigned` keys are out. At least its share rounded up, so that
    /// there is always room somewhere.
    fn capacity(&self, node: NodeId, assigned: u64) -> u64 {
        let weight = u128::from(self.ring.weights[&node].get());
        let share = u128::from(assigned) * weight * u128::from(1000 + self.extra_thousandths);
        let capacity = share.div_ceil(u128::from(self.total_weight) * 1000);
        u64::try_from(capacity).unwrap_or(u64::MAX)
    }
}

fn hash(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, 0)
}
