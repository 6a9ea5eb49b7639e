//! One number for the whole state: the sum of the hashes of its rows.
//!
//! Each version of a key, each row of a plain space and the scalars are hashed by themselves
//! (xxh3, 128 bits) and the hashes are added modulo 2^128. A sum does not depend on the order, so
//! it is kept up to date by adding what is written and subtracting what is freed, and replicas
//! that hold the same content have the same digest, however they came by it. This finds
//! divergence by fault; it is no defence against someone who forges rows.

use std::fmt;

use xxhash_rust::xxh3::xxh3_128;

use crate::keyspace::Version;
use crate::space::Space;

/// The digest of a state; equal states have equal digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl Digest {
    /// Adds a row's hash.
    pub(crate) fn add(&mut self, hash: u128) {
        self.0 = self.0.wrapping_add(hash);
    }

    /// Takes a row's hash out again.
    pub(crate) fn subtract(&mut self, hash: u128) {
        self.0 = self.0.wrapping_sub(hash);
    }
}

/// Fields of fixed length, packed for hashing without an allocation.
struct Packed<const LENGTH: usize> {
    bytes: [u8; LENGTH],
    used: usize,
}

impl<const LENGTH: usize> Packed<LENGTH> {
    fn new() -> Packed<LENGTH> {
        Packed {
            bytes: [0; LENGTH],
            used: 0,
        }
    }

    fn push(mut self, field: &[u8]) -> Packed<LENGTH> {
        let end = self.used + field.len();
        self.bytes[self.used..end].copy_from_slice(field);
        self.used = end;
        self
    }

    fn hash(self) -> u128 {
        assert!(self.used == LENGTH, "the fields fill the packed row");
        xxh3_128(&self.bytes)
    }
}

/// The hash of one version of a key. Layout (little-endian): space u8, kind 1 u8, hash of key
/// u128, hash of value u128, mod_revision, create_revision, version, lease i64, order u32.
pub(crate) fn hash_version(space: Space, key: &[u8], version: &Version) -> u128 {
    Packed::<70>::new()
        .push(&[space.number(), 1])
        .push(&xxh3_128(key).to_le_bytes())
        .push(&xxh3_128(&version.value).to_le_bytes())
        .push(&version.mod_revision.to_le_bytes())
        .push(&version.create_revision.to_le_bytes())
        .push(&version.version.to_le_bytes())
        .push(&version.lease.to_le_bytes())
        .push(&version.order.to_le_bytes())
        .hash()
}

/// The hash of a row of a plain space. Layout: space u8, kind 2 u8, hash of key u128, hash of
/// value u128.
pub(crate) fn hash_row(space: Space, key: &[u8], value: &[u8]) -> u128 {
    Packed::<34>::new()
        .push(&[space.number(), 2])
        .push(&xxh3_128(key).to_le_bytes())
        .push(&xxh3_128(value).to_le_bytes())
        .hash()
}
