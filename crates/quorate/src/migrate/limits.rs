//! What bounds a migration.

use std::time::Duration;

/// The bounds; values, so that tests can shrink them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Operations in one transaction: what every etcd takes unless told otherwise.
    pub(super) operations: usize,
    /// Bytes of keys and values in one transaction, unless one pair alone is longer; well below the
    /// 1.5 MiB that a request may have.
    pub(super) request_bytes: usize,
    /// A page of a range is made smaller beyond this many bytes.
    pub(super) page_bytes: usize,
    /// Keys in a page at most.
    pub(super) page_keys: i64,
    /// Bytes of changes that have been received and not written yet. Beyond it the old cluster is
    /// not read from, and keeps them itself.
    pub(super) waiting_bytes: u32,
    /// So often reading begins anew because the old cluster has compacted what was being read.
    pub(super) readings: u32,
    /// How often it is looked which leases there are.
    pub(super) lease_interval: Duration,
    /// How long it may take until a change that was made is seen.
    pub(super) silence: Duration,
    /// Differences that are shown.
    pub(super) shown: usize,
}

pub(super) const LIMITS: Limits = Limits {
    operations: 128,
    request_bytes: 1 << 20,
    page_bytes: 8 << 20,
    page_keys: 10_000,
    waiting_bytes: 256 << 20,
    readings: 5,
    lease_interval: Duration::from_secs(5),
    silence: Duration::from_secs(60),
    shown: 5,
};
