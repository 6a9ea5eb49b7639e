//! What a command adds to the state, as far as the quota is concerned.
//!
//! etcd's estimate: each put counts its key, its value and a fixed sum for what a version costs
//! besides; of a transaction the dearer branch counts, taken or not. Whatever puts nothing is free:
//! deleting, compacting and the end of leases must work when there is no room.

use crate::command::{Command, Operation, Put, Txn};

/// What a version costs besides key and value, in bytes.
const VERSION_OVERHEAD: u64 = 256;

/// What a lease costs, in bytes: a row and its places.
const LEASE_OVERHEAD: u64 = 256;

/// The cost of a command in bytes.
pub(crate) fn cost(command: &Command<'_>) -> u64 {
    match command {
        Command::Put(put) => cost_of_put(put),
        Command::Txn(txn) => cost_of_txn(txn),
        Command::Grant(_) => LEASE_OVERHEAD,
        Command::DeleteRange(_) | Command::Compact(_) | Command::Revoke(_) | Command::Auth(_) => 0,
    }
}

fn cost_of_put(put: &Put<'_>) -> u64 {
    VERSION_OVERHEAD + put.key.len() as u64 + put.value.len() as u64
}

fn cost_of_txn(txn: &Txn<'_>) -> u64 {
    let cost = |operations: &[Operation<'_>]| -> u64 {
        let costs = operations.iter().map(|operation| match operation {
            Operation::Put(put) => cost_of_put(put),
            Operation::Txn(nested) => cost_of_txn(nested),
            Operation::Range(_) | Operation::DeleteRange(_) => 0,
        });
        costs.sum()
    };
    cost(&txn.success).max(cost(&txn.failure))
}
