//! Which keys and values a run uses.

use super::latency::Nanoseconds;
use super::options::Bench;

/// How many digits a key's number has, so that all keys are of one length.
const DIGITS: usize = 13;

/// Keys `PREFIX0000000000000` and so on, and the value that all of them get.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    key: Vec<u8>,
    prefix_bytes: usize,
    count: u64,
    sequential: bool,
    random: fastrand::Rng,
    value: Vec<u8>,
}

impl Keys {
    /// What the options say. Runs with one `seed` use the same keys in the same order.
    pub(crate) fn new(options: &Bench, seed: u64) -> Keys {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut key = options.key_prefix.clone().into_bytes();
        let prefix_bytes = key.len();
        key.extend_from_slice(&[b'0'; DIGITS]);
        let value = (0..options.value_size).map(|_| random.alphanumeric() as u8);
        Keys {
            value: value.collect(),
            key,
            prefix_bytes,
            count: options.keys,
            sequential: options.sequential,
            random,
        }
    }

    /// Key number `chosen`.
    pub(crate) fn key(&mut self, chosen: u64) -> &[u8] {
        let mut rest = chosen;
        for digit in self.key[self.prefix_bytes..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        &self.key
    }

    /// What all keys begin with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.key[..self.prefix_bytes]
    }

    /// Writes a moment into the value, for whoever reads it.
    pub(crate) fn stamp(&mut self, moment: Nanoseconds) {
        if let Some(place) = self.value.first_chunk_mut() {
            *place = moment.to_le_bytes();
        }
    }

    /// The key of the run's operation number `number`, and the value.
    pub(crate) fn pick(&mut self, number: u64) -> (&[u8], &[u8]) {
        let chosen = if self.sequential {
            number % self.count
        } else {
            self.random.u64(0..self.count)
        };
        self.key(chosen);
        (&self.key, &self.value)
    }
}

/// The moment that was written into a value.
pub(crate) fn stamped(value: &[u8]) -> Option<Nanoseconds> {
    value.first_chunk().copied().map(Nanoseconds::from_le_bytes)
}
