//! One number for the keyspace at a revision: members that hold the same have the same.
//!
//! What is hashed is what can be read at that revision: its live keys, with values, counters and
//! leases. Neither compaction nor what was written since shows. The number is not etcd's: that one
//! is a checksum of etcd's file records, old versions included; ours are compared by digests all
//! the time.

use state::{Reader, Revision};

use crate::budget::Wanted;
use crate::error::Error;
use crate::proto::etcdserverpb::{HashKvRequest, HashKvResponse, HashResponse};
use crate::request::header;

/// Hashes the keyspace at the revision asked for, or now. Takes time in proportion to what is held,
/// as long as it is wanted.
///
/// # Errors
/// If the revision is compacted or not there yet, or nobody waits for the hash any more.
pub fn hash_keys(
    reader: &Reader,
    request: &HashKvRequest,
    wanted: &Wanted,
) -> Result<HashKvResponse, Error> {
    let latest = reader.revision();
    let revision = match request.revision {
        ..=0 => latest,
        revision if revision < reader.compacted().0 => return Err(Error::Compacted),
        revision if revision > latest.0 => return Err(Error::FutureRevision),
        revision => Revision(revision),
    };
    let hash = reader.keyspace_hash(revision, &**wanted);
    Ok(HashKvResponse {
        header: header(latest.0),
        hash: fold(hash.ok_or(Error::RequestCanceled)?),
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
