//! What one request may ask for. Checked before a request is proposed, never while it is
//! executed: a limit that could differ between replicas must not decide a result.

/// Limits on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes of one command record, and thereby, but for a few bytes of framing, of the keys and
    /// values in one writing request.
    pub max_request_bytes: usize,
    /// Operations in each list of a transaction. A nested transaction may use what the longest
    /// list of the one around it leaves over.
    pub max_txn_operations: usize,
}

impl Default for RequestLimits {
    /// etcd's own: 1.5 MiB and 128 operations.
    fn default() -> Self {
        Self {
            max_request_bytes: 3 * 512 * 1024,
            max_txn_operations: 128,
        }
    }
}

/// How deep transactions may nest: part of the command format, the same everywhere, because
/// decoding a record must use a bounded stack. With etcd's operation limit it cannot be reached.
pub(crate) const MAX_TXN_DEPTH: usize = 128;
