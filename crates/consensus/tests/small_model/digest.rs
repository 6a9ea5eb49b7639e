//! Tells things apart by what they print, but for moments in time and the state of random
//! generators: those differ between runs that are otherwise the same.

use std::fmt::Write;

/// Hashes what is written to it, but for what says when.
#[derive(Default)]
pub(super) struct Digest {
    pub(super) hash: u64,
    text: String,
}

impl Digest {
    pub(super) fn of(what: &dyn std::fmt::Debug) -> u64 {
        let mut digest = Digest::default();
        digest.add(what);
        digest.hash
    }

    pub(super) fn add(&mut self, what: &dyn std::fmt::Debug) {
        self.text.clear();
        write!(self.text, "{what:?}").unwrap();
        let text = std::mem::take(&mut self.text);
        let mut rest = text.as_str();
        // Moments and random states differ between runs that are otherwise the same.
        while let Some(at) = ["Instant(", "Random {", "Mark("]
            .iter()
            .filter_map(|word| rest.find(word))
            .min()
        {
            self.bytes(&rest.as_bytes()[..at]);
            let end = rest[at..].find([')', '}']).unwrap_or(rest.len() - at);
            rest = &rest[at + end..];
        }
        self.bytes(rest.as_bytes());
        self.text = text;
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    pub(super) fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash ^= self.hash >> 29;
    }
}
