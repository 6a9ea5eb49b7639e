//! A hash of history as it can be read at a revision, for comparing replicas at a revision rather
//! than at a slot.
//!
//! The digest of a state ([`crate::digest`]) covers what is held, and so how far compaction has
//! come. This covers what is visible: of each key of etcd's space the versions above the floor,
//! deletions included, and the one that stood at the floor, if it was live.

use bytes::Bytes;

use crate::digest::{Digest, hash_version};
use crate::key_value::Revision;
use crate::keyspace::Version;
use crate::reader::Reader;
use crate::space::Space;

impl Reader {
    /// The sum of the hashes of all versions that can be read up to `upto`. Takes time in
    /// proportion to what is held. A state that was never compacted has its floor at 0.
    #[must_use]
    pub fn history_hash(&self, upto: Revision) -> u128 {
        let mut digest = Digest::default();
        self.visit_history(upto, |key, version| {
            digest.add(hash_version(Space::ETCD, key, version));
        });
        digest.0
    }

    /// Shows every version of etcd's space that can be read up to `upto`: in no particular order.
    pub(crate) fn visit_history(&self, upto: Revision, mut visit: impl FnMut(&Bytes, &Version)) {
        let history = self.rows.history(Space::ETCD);
        let floor = self.compacted().0;
        for (key, version) in history.latest.iterate() {
            // At or below the floor the newest version is the one that stands there.
            let visible = version.mod_revision > floor || version.is_live();
            if visible && version.mod_revision <= upto.0 {
                visit(key, version);
            }
        }
        let mut standing: Option<(&Bytes, &Version)> = None;
        for (name, version) in history.older.iterate() {
            if version.mod_revision > floor {
                if version.mod_revision <= upto.0 {
                    visit(&name.key, version);
                }
                continue;
            }
            if let Some((key, before)) = standing.replace((&name.key, version))
                && *key != name.key
            {
                self.visit_standing(key, before, &mut visit);
            }
        }
        if let Some((key, version)) = standing {
            self.visit_standing(key, version, &mut visit);
        }
    }

    /// Shows the newest replaced version of a key at or below the floor, unless a newer one that
    /// is not above the floor either has taken its place.
    fn visit_standing(
        &self,
        key: &Bytes,
        version: &Version,
        visit: &mut impl FnMut(&Bytes, &Version),
    ) {
        let latest = self.rows.history(Space::ETCD).latest(key);
        let stands = latest.is_some_and(|(_, latest)| latest.mod_revision > self.compacted().0);
        if stands && version.is_live() {
            visit(key, version);
        }
    }
}
