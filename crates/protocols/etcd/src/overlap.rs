//! Whether a transaction would write one key twice, which etcd refuses.
//!
//! The rule, per list of operations: a key that is put may be put by no other operation of the
//! list, and may not lie in a range that another one deletes; a nested transaction counts with all
//! that either of its branches could do, and its branches may overlap with each other, since only
//! one of them is done. Ranges may be deleted twice.
//!
//! etcd means the same but misses two cases: a range without an end, and a nested transaction that
//! deletes what an earlier nested one puts. Both would give one key two changes at one revision,
//! which no event and no version could tell apart; they are refused here.
//!
//! Deleted ranges are kept merged and sorted, and the smaller of two sets moves into the larger,
//! so that a request made for it cannot make this slow.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Included, Unbounded};

use crate::error::Error;
use crate::proto::etcdserverpb::request_op::Request as Operation;
use crate::proto::etcdserverpb::{RequestOp, TxnRequest};
use crate::span::KeySpan;

/// Refuses a transaction that would write a key twice.
pub(crate) fn check(txn: &TxnRequest) -> Result<(), Error> {
    writes(&txn.success)?;
    writes(&txn.failure)?;
    Ok(())
}

/// What a list of operations could write.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Ranges<'a>,
}

impl<'a> Writes<'a> {
    /// Adds puts that must not meet what is there.
    fn add_puts(&mut self, mut puts: BTreeSet<&'a [u8]>) -> Result<(), Error> {
        if puts.iter().any(|key| self.deletes.contain(key)) {
            return Err(Error::DuplicateKey);
        }
        if puts.len() > self.puts.len() {
            std::mem::swap(&mut puts, &mut self.puts);
        }
        for key in puts {
            if !self.puts.insert(key) {
                return Err(Error::DuplicateKey);
            }
        }
        Ok(())
    }
}

fn writes(operations: &[RequestOp]) -> Result<Writes<'_>, Error> {
    let requests = || {
        operations
            .iter()
            .filter_map(|operation| operation.request.as_ref())
    };
    let mut all = Writes::default();
    for request in requests() {
        if let Operation::RequestDeleteRange(delete) = request {
            all.deletes
                .insert(KeySpan::new(&delete.key, &delete.range_end));
        }
    }
    for request in requests() {
        if let Operation::RequestTxn(txn) = request {
            let then = writes(&txn.success)?;
            let otherwise = writes(&txn.failure)?;
            if then.deletes.meet(&all.puts) || otherwise.deletes.meet(&all.puts) {
                return Err(Error::DuplicateKey);
            }
            all.add_puts(union(then.puts, otherwise.puts))?;
            all.deletes.extend(then.deletes);
            all.deletes.extend(otherwise.deletes);
        }
    }
    for request in requests() {
        if let Operation::RequestPut(put) = request
            && (all.deletes.contain(&put.key) || !all.puts.insert(&put.key))
        {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(all)
}

fn union<'a>(mut one: BTreeSet<&'a [u8]>, mut other: BTreeSet<&'a [u8]>) -> BTreeSet<&'a [u8]> {
    if one.len() < other.len() {
        std::mem::swap(&mut one, &mut other);
    }
    one.extend(other);
    one
}

/// Where a range ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End<'a> {
    /// Before this key.
    Before(&'a [u8]),
    /// After this key, which belongs to the range: a single key.
    After(&'a [u8]),
    /// Nowhere.
    Never,
}

impl End<'_> {
    fn is_beyond(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < *end,
            End::After(end) => key <= *end,
            End::Never => true,
        }
    }

    /// `Before` sorts below `After` of any key by derivation; positions must be compared by key.
    fn position(&self) -> (bool, &[u8], bool) {
        match self {
            End::Before(end) => (false, end, false),
            End::After(end) => (false, end, true),
            End::Never => (true, &[], false),
        }
    }
}

/// Ranges of keys, merged where they overlap: first key to end.
#[derive(Default)]
struct Ranges<'a>(BTreeMap<&'a [u8], End<'a>>);

impl<'a> Ranges<'a> {
    fn contain(&self, key: &[u8]) -> bool {
        let before = self
            .0
            .range::<[u8], _>((Unbounded, Included(key)))
            .next_back();
        before.is_some_and(|(_, end)| end.is_beyond(key))
    }

    fn meet(&self, keys: &BTreeSet<&[u8]>) -> bool {
        self.0.iter().any(|(start, end)| {
            let first = keys.range::<[u8], _>((Included(*start), Unbounded)).next();
            first.is_some_and(|key| end.is_beyond(key))
        })
    }

    fn insert(&mut self, span: KeySpan<'a>) {
        match span {
            KeySpan::Single(key) => self.insert_range(key, End::After(key)),
            KeySpan::Span(start, end) if start < end => self.insert_range(start, End::Before(end)),
            KeySpan::Span(..) => {}
            KeySpan::From(start) => self.insert_range(start, End::Never),
        }
    }

    fn insert_range(&mut self, mut start: &'a [u8], mut end: End<'a>) {
        if let Some((&first, &last)) = self
            .0
            .range::<[u8], _>((Unbounded, Included(start)))
            .next_back()
            && last.is_beyond(start)
        {
            start = first;
            end = later(end, last);
        }
        // What begins inside is swallowed; each range is swallowed once.
        while let Some((&first, &last)) =
            self.0.range::<[u8], _>((Included(start), Unbounded)).next()
            && end.is_beyond(first)
        {
            self.0.remove(first);
            end = later(end, last);
        }
        self.0.insert(start, end);
    }

    fn extend(&mut self, mut other: Ranges<'a>) {
        if other.0.len() > self.0.len() {
            std::mem::swap(self, &mut other);
        }
        for (start, end) in other.0 {
            self.insert_range(start, end);
        }
    }
}

fn later<'a>(one: End<'a>, other: End<'a>) -> End<'a> {
    if one.position() >= other.position() {
        one
    } else {
        other
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;
    use proptest::test_runner::RngSeed;

    use super::*;

    const KEYS: &[&[u8]] = &[b"a", b"a\0", b"b", b"bb", b"c", b"d"];

    fn spans() -> impl Strategy<Value = Vec<KeySpan<'static>>> {
        let ends: &[&[u8]] = &[b"", b"\0", b"a\0", b"b", b"bb", b"c", b"e"];
        let span = (select(KEYS), select(ends)).prop_map(|(key, end)| KeySpan::new(key, end));
        prop::collection::vec(span, 0..6)
    }

    fn holds(spans: &[KeySpan<'_>], key: &[u8]) -> bool {
        spans.iter().any(|span| match span {
            KeySpan::Single(only) => key == *only,
            KeySpan::Span(start, end) => key >= *start && key < *end,
            KeySpan::From(start) => key >= *start,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: RngSeed::Fixed(2379), failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn merged_ranges_hold_what_went_in(one in spans(), other in spans()) {
            let ranges = |spans: &[KeySpan<'static>]| {
                let mut ranges = Ranges::default();
                spans.iter().for_each(|span| ranges.insert(*span));
                ranges
            };
            let mut merged = ranges(&one);
            merged.extend(ranges(&other));
            let all = [one, other].concat();
            for key in KEYS {
                prop_assert_eq!(merged.contain(key), holds(&all, key), "{:?} {:?}", key, all);
                let alone = BTreeSet::from([*key]);
                prop_assert_eq!(merged.meet(&alone), holds(&all, key), "{:?} {:?}", key, all);
            }
            let ends: Vec<_> = merged.0.iter().collect();
            for pair in ends.windows(2) {
                prop_assert!(!pair[0].1.is_beyond(pair[1].0), "not merged: {:?}", ends);
            }
        }
    }
}
