//! Changes on their way to the new cluster, gathered into transactions.
//!
//! What one revision of the old cluster changed is written in one revision of the new one, as long
//! as that is possible (128 operations). Several revisions share a transaction if nobody can tell:
//! no key twice, and **new keys of one revision only**, since locks go by which key was created
//! first, and two that are created in one revision would both hold the lock.

use std::collections::BTreeSet;

use bytes::Bytes;
use client::etcd::proto::etcdserverpb::request_op::Request as Operation;
use client::etcd::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

use super::limits::Limits;

/// A write of the old cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put(Put),
    /// The key is gone.
    Delete(Bytes),
}

/// A key that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    /// 0: none.
    pub(super) lease: i64,
    /// It was not there before.
    pub(super) is_new: bool,
}

impl Change {
    pub(super) fn key(&self) -> &Bytes {
        match self {
            Change::Put(put) => &put.key,
            Change::Delete(key) => key,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Change::Put(put) => put.key.len() + put.value.len(),
            Change::Delete(key) => key.len(),
        }
    }

    fn is_new(&self) -> bool {
        matches!(self, Change::Put(put) if put.is_new)
    }

    fn operation(self) -> RequestOp {
        let request = match self {
            Change::Put(put) => Operation::RequestPut(PutRequest {
                key: put.key,
                value: put.value,
                lease: put.lease,
                ..PutRequest::default()
            }),
            Change::Delete(key) => Operation::RequestDeleteRange(DeleteRangeRequest {
                key,
                ..DeleteRangeRequest::default()
            }),
        };
        RequestOp {
            request: Some(request),
        }
    }
}

/// Changes that will share a transaction.
#[derive(Debug)]
pub(super) struct Gathering {
    limits: Limits,
    changes: Vec<Change>,
    keys: BTreeSet<Bytes>,
    bytes: usize,
    has_new: bool,
}

impl Gathering {
    pub(super) fn new(limits: Limits) -> Gathering {
        Gathering {
            limits,
            changes: Vec::new(),
            keys: BTreeSet::new(),
            bytes: 0,
            has_new: false,
        }
    }

    /// Takes in what one revision changed; the transactions that are to be done now, in order.
    pub(super) fn push(&mut self, revision: Vec<Change>) -> Vec<TxnRequest> {
        let mut due = Vec::new();
        if !self.takes(&revision) {
            due.extend(self.take());
        }
        for change in revision {
            // A revision that is too large for a transaction becomes several.
            if !self.has_room(1, change.bytes()) || self.keys.contains(change.key()) {
                due.extend(self.take());
            }
            self.has_new |= change.is_new();
            self.bytes += change.bytes();
            self.keys.insert(change.key().clone());
            self.changes.push(change);
        }
        due
    }

    /// What has gathered; `None` if nothing has.
    pub(super) fn take(&mut self) -> Option<TxnRequest> {
        if self.changes.is_empty() {
            return None;
        }
        self.keys.clear();
        self.bytes = 0;
        self.has_new = false;
        let changes = std::mem::take(&mut self.changes);
        Some(TxnRequest {
            success: changes.into_iter().map(Change::operation).collect(),
            ..TxnRequest::default()
        })
    }

    fn takes(&self, revision: &[Change]) -> bool {
        let bytes = revision.iter().map(Change::bytes).sum();
        self.has_room(revision.len(), bytes)
            && !(self.has_new && revision.iter().any(Change::is_new))
            && !revision
                .iter()
                .any(|change| self.keys.contains(change.key()))
    }

    fn has_room(&self, operations: usize, bytes: usize) -> bool {
        self.changes.is_empty()
            || (self.changes.len() + operations <= self.limits.operations
                && self.bytes + bytes <= self.limits.request_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::limits::LIMITS;

    /// `+a` is new, `a` is changed, `-a` is deleted.
    fn revision(text: &str) -> Vec<Change> {
        let change = |word: &str| match word.split_at(1) {
            ("-", key) => Change::Delete(Bytes::copy_from_slice(key.as_bytes())),
            (first, rest) => Change::Put(Put {
                key: if first == "+" { rest } else { word }.to_owned().into(),
                value: "value".into(),
                lease: 0,
                is_new: first == "+",
            }),
        };
        text.split_whitespace().map(change).collect()
    }

    fn shown(transaction: &TxnRequest) -> String {
        let operations = transaction.success.iter();
        let shown = operations.map(|operation| match operation.request.as_ref().unwrap() {
            Operation::RequestPut(put) => put.key.escape_ascii().to_string(),
            Operation::RequestDeleteRange(delete) => format!("-{}", delete.key.escape_ascii()),
            _ => unreachable!("only puts and deletes are made"),
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    fn transactions(operations: usize, revisions: &[&str]) -> Vec<String> {
        let limits = Limits {
            operations,
            ..LIMITS
        };
        let mut gathering = Gathering::new(limits);
        let mut all = Vec::new();
        for text in revisions {
            all.extend(gathering.push(revision(text)));
        }
        all.extend(gathering.take());
        all.iter().map(shown).collect()
    }

    #[test]
    fn changes_share_a_transaction() {
        assert_eq!(transactions(8, &["a", "-b", "+c", "d e"]), ["a -b c d e"]);
    }

    #[test]
    fn new_keys_of_two_revisions_do_not() {
        assert_eq!(transactions(8, &["+a +b", "c", "+d"]), ["a b c", "d"]);
    }

    #[test]
    fn a_key_stands_in_a_transaction_once() {
        assert_eq!(transactions(8, &["a", "b", "-a", "a"]), ["a b", "-a", "a"]);
        assert_eq!(transactions(8, &["a b a"]), ["a b", "a"]);
    }

    #[test]
    fn a_revision_stays_whole_if_it_can() {
        assert_eq!(transactions(3, &["a b", "c d", "e"]), ["a b", "c d e"]);
        assert_eq!(
            transactions(3, &["x", "a b c d", "e"]),
            ["x", "a b c", "d e"]
        );
    }
}
