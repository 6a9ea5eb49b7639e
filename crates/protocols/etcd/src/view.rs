//! What a range or a comparison needs of the state, so that they are written once: they run on a
//! state at rest (a read, or the time before a transaction) and on a transaction under way.

use bytes::Bytes;
use state::{KeyRange, KeyValue, Reader, Revision, Space, Transaction};

use crate::span::KeySpan;

/// The etcd keyspace, at rest or under way. `None` stands for the latest revision.
pub(crate) trait View {
    /// The latest revision.
    fn revision(&self) -> i64;
    /// One key.
    fn get(&self, key: &[u8], at: Option<Revision>) -> Option<KeyValue>;
    /// Keys in their order.
    fn range(&self, range: &KeyRange, at: Option<Revision>) -> impl Iterator<Item = KeyValue>;
    /// The same, with an item for each key that was looked at: `None` for one that was not there.
    fn looks(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
    ) -> impl Iterator<Item = Option<KeyValue>>;
    /// How many keys; cheap at the latest revision, as much work as reading them at an older one.
    fn count(&self, range: &KeyRange, at: Option<Revision>) -> u64;
}

impl View for Reader {
    fn revision(&self) -> i64 {
        self.revision().0
    }

    fn get(&self, key: &[u8], at: Option<Revision>) -> Option<KeyValue> {
        self.get(Space::ETCD, key, at)
    }

    fn range(&self, range: &KeyRange, at: Option<Revision>) -> impl Iterator<Item = KeyValue> {
        self.range(Space::ETCD, range, at)
    }

    fn looks(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
    ) -> impl Iterator<Item = Option<KeyValue>> {
        self.range_looks(Space::ETCD, range, at)
    }

    fn count(&self, range: &KeyRange, at: Option<Revision>) -> u64 {
        self.count(Space::ETCD, range, at)
    }
}

/// The latest revision is that of the transaction, own writes included; older ones are those of
/// the state before it.
impl View for Transaction<'_> {
    fn revision(&self) -> i64 {
        self.revision().0
    }

    fn get(&self, key: &[u8], at: Option<Revision>) -> Option<KeyValue> {
        match at {
            None => self.get(Space::ETCD, key),
            Some(_) => self.base().get(Space::ETCD, key, at),
        }
    }

    fn range(&self, range: &KeyRange, at: Option<Revision>) -> impl Iterator<Item = KeyValue> {
        let own = at.is_none().then(|| self.range(Space::ETCD, range));
        let older = at.map(|_| self.base().range(Space::ETCD, range, at));
        own.into_iter().flatten().chain(older.into_iter().flatten())
    }

    fn looks(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
    ) -> impl Iterator<Item = Option<KeyValue>> {
        let own = at.is_none().then(|| self.range(Space::ETCD, range));
        let older = at.map(|_| self.base().looks(range, at));
        let own = own.into_iter().flatten().map(Some);
        own.chain(older.into_iter().flatten())
    }

    fn count(&self, range: &KeyRange, at: Option<Revision>) -> u64 {
        match at {
            None => self.count(Space::ETCD, range),
            Some(_) => self.base().count(Space::ETCD, range, at),
        }
    }
}

/// The oldest revision that can be read. A keyspace that was never compacted counts as compacted
/// at -1, as in etcd, whose clients may therefore compact a new one at 0.
pub(crate) fn oldest_revision(base: &Reader) -> i64 {
    match base.compacted().0 {
        0 => -1,
        compacted => compacted,
    }
}

/// A span in the state's terms.
pub(crate) fn key_range(span: &KeySpan<'_>) -> KeyRange {
    let copy = Bytes::copy_from_slice;
    match span {
        KeySpan::Single(key) => KeyRange::Single(copy(key)),
        KeySpan::Span(start, end) => KeyRange::Span {
            start: copy(start),
            end: copy(end),
        },
        KeySpan::From(start) => KeyRange::From { start: copy(start) },
    }
}
