//! One number for the keyspace at a revision: members that hold the same have the same.
//!
//! What is hashed is what can be read: of every key the versions above the floor of history, and
//! the one that stands at the floor. How far the floor's compaction has come does not show. The
//! number is not etcd's: that one is a checksum of etcd's file records.

use state::{Reader, Revision};

use crate::error::Error;
use crate::proto::etcdserverpb::{HashKvRequest, HashKvResponse, HashResponse};
use crate::request::header;

/// Hashes the keyspace at the revision asked for, or now. Takes time in proportion to what is held.
///
/// # Errors
/// If the revision is compacted or not there yet.
pub fn hash_keys(reader: &Reader, request: &HashKvRequest) -> Result<HashKvResponse, Error> {
    let latest = reader.revision();
    let revision = match request.revision {
        ..=0 => latest,
        revision if revision < reader.compacted().0 => return Err(Error::Compacted),
        revision if revision > latest.0 => return Err(Error::FutureRevision),
        revision => Revision(revision),
    };
    Ok(HashKvResponse {
        header: header(latest.0),
        hash: fold(reader.history_hash(revision)),
        // As in etcd, a store that was never compacted says so by -1.
        compact_revision: match reader.compacted().0 {
            0 => -1,
            compacted => compacted,
        },
        hash_revision: revision.0,
    })
}

/// Hashes everything that is replicated, at the entry executed last. Costs nothing.
#[must_use]
pub fn hash_all(reader: &Reader) -> HashResponse {
    HashResponse {
        header: header(reader.revision().0),
        hash: fold(reader.digest().0),
    }
}

/// The clients' number is shorter than ours.
fn fold(hash: u128) -> u32 {
    let words = [hash, hash >> 32, hash >> 64, hash >> 96];
    words.iter().fold(0, |folded, word| folded ^ (*word as u32))
}
