//! One seed, split into named streams of random numbers.
//!
//! Each part of the world draws from a stream of its own name (`network`, `disk.2`, `workload`,
//! `node.0.3`), so that one more draw in one place does not shift what every other place gets:
//! a fault that is switched off leaves the rest of the run as it was for as long as possible.

use base::Random;

/// Gives out streams.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    seed: u64,
}

impl Streams {
    /// All streams of one seed.
    #[must_use]
    pub fn of(seed: u64) -> Streams {
        Streams { seed }
    }

    /// The stream of this name; the same name gives the same stream.
    #[must_use]
    pub fn named(&self, name: &str) -> Random {
        // FNV-1a: fixed for ever, and good enough under the generator's own mixing.
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        Random::from_seed(self.seed ^ hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_separate_streams_and_repeat_them() {
        let streams = Streams::of(1);
        let first = streams.named("network").next_u64();
        assert_eq!(streams.named("network").next_u64(), first);
        assert_ne!(streams.named("workload").next_u64(), first);
        assert_ne!(Streams::of(2).named("network").next_u64(), first);
    }
}
