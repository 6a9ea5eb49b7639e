//! A hash of the keys of etcd's space at a revision, for comparing replicas at a revision rather
//! than at a slot.
//!
//! The digest of a state ([`crate::digest`]) covers what is held, and so how far compaction has
//! come and what was written since. This covers what a reader at the revision sees, so that it is
//! the same before and after a compaction, and whatever comes later.

use bytes::Bytes;

use crate::digest::{Digest, hash_version};
use crate::key_value::{KeyRange, Revision};
use crate::reader::Reader;
use crate::space::Space;

impl Reader {
    /// The sum of the hashes of the versions that are live at a revision. Takes time in proportion
    /// to the keys; at each it is asked whether it is wanted, and `None` if it is not any more.
    ///
    /// # Panics
    /// If the revision is compacted or in the future.
    #[must_use]
    pub fn keyspace_hash(&self, at: Revision, is_wanted: &dyn Fn() -> bool) -> Option<u128> {
        let mut digest = Digest::default();
        let everything = KeyRange::From {
            start: Bytes::new(),
        };
        for (key, version) in self.live(Space::ETCD, &everything, Some(at)) {
            if !is_wanted() {
                return None;
            }
            digest.add(hash_version(Space::ETCD, key, version));
        }
        Some(digest.0)
    }
}
