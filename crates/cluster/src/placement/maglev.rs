//! Maglev tables (Eisenbud and others, NSDI 2016): an almost even table of workers, for balancers
//! that look up millions of keys a second.
//!
//! ```text
//!   each worker has its own order of all entries (offset, then steps of skip)
//!   in turns, each takes the first entry of its order that is still free, until all are taken
//! ```
//!
//! A lookup is one hash and one read. The price is that a change of the list also moves some keys
//! between workers that stay (about a tenth more than the least possible).

use base::NodeId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::site::Weight;

/// Who serves which part of all hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maglev {
    /// Indices into `workers`.
    entries: Vec<u32>,
    workers: Vec<NodeId>,
}

/// Why there is no such table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is nobody to serve.
    NoWorkers,
    /// The size is not a prime number: some entries would be out of some worker's reach.
    NotPrime,
    /// The table has fewer entries than workers.
    TooSmall,
}

impl Maglev {
    /// The size that the paper recommends for small sets of workers.
    pub const ORDINARY_SIZE: u32 = 65_537;

    /// Fills a table of `size` entries, a prime number of at least 100 times the workers if it is
    /// to be even. The order of `workers` does not matter.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn new(workers: &[(NodeId, Weight)], size: u32) -> Result<Maglev, Refused> {
        if workers.is_empty() {
            return Err(Refused::NoWorkers);
        }
        if !is_prime(size) {
            return Err(Refused::NotPrime);
        }
        if (size as usize) < workers.len() {
            return Err(Refused::TooSmall);
        }
        let mut sorted = workers.to_vec();
        sorted.sort_unstable();
        let mut entries = vec![u32::MAX; size as usize];
        fill(&mut entries, &sorted);
        Ok(Maglev {
            entries,
            workers: sorted.into_iter().map(|(node, _)| node).collect(),
        })
    }

    /// Who serves `key`.
    #[must_use]
    pub fn owner(&self, key: &[u8]) -> NodeId {
        let hash = u128::from(xxh3_64_with_seed(key, 0));
        let entry = (hash * self.entries.len() as u128) >> 64;
        self.workers[self.entries[entry as usize] as usize]
    }

    /// How many entries each worker has, in the order of their ids.
    #[must_use]
    pub fn shares(&self) -> Vec<(NodeId, u32)> {
        let mut shares: Vec<_> = self.workers.iter().map(|node| (*node, 0)).collect();
        for entry in &self.entries {
            shares[*entry as usize].1 += 1;
        }
        shares
    }

    /// How many entries have another owner in `other`, which has the same size.
    #[must_use]
    pub fn moved(&self, other: &Maglev) -> usize {
        let owners = |table: &Maglev, entry: &u32| table.workers[*entry as usize];
        let pairs = self.entries.iter().zip(&other.entries);
        pairs
            .filter(|(one, two)| owners(self, one) != owners(other, two))
            .count()
    }
}

/// Workers take free entries in turns; one of twice the weight has twice the turns.
fn fill(entries: &mut [u32], workers: &[(NodeId, Weight)]) {
    let size = entries.len() as u64;
    let heaviest = workers.iter().map(|(_, weight)| weight.get()).max();
    let heaviest = u64::from(heaviest.expect("there are workers"));
    // Where each worker is in its order, and how much of a turn it has saved up.
    let mut orders: Vec<(u64, u64, u64)> = workers
        .iter()
        .map(|(node, _)| {
            let offset = xxh3_64_with_seed(b"offset", node.0) % size;
            let skip = xxh3_64_with_seed(b"skip", node.0) % (size - 1).max(1) + 1;
            (offset, skip, 0)
        })
        .collect();
    let mut free = entries.len();
    loop {
        for (index, (_, weight)) in workers.iter().enumerate() {
            let (place, skip, saved) = &mut orders[index];
            *saved += u64::from(weight.get());
            if *saved < heaviest {
                continue;
            }
            *saved -= heaviest;
            while entries[*place as usize] != u32::MAX {
                *place = (*place + *skip) % size;
            }
            entries[*place as usize] = u32::try_from(index).expect("fewer workers than entries");
            free -= 1;
            if free == 0 {
                return;
            }
        }
    }
}

fn is_prime(number: u32) -> bool {
    let divides = |divisor: u32| number.is_multiple_of(divisor);
    let upto = number.isqrt();
    number >= 2 && !(2..=upto).any(divides)
}
