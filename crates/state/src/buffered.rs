//! What a transaction has written to one space: a short sorted list, or a tree.
//!
//! Nearly every transaction writes one key or a few, for which a list is one allocation and no
//! search to speak of. One that writes many (a range of keys deleted at once) moves them into a
//! tree, so that the cost of a write never grows with their number.

use std::cmp::Ordering;
use std::ops::{Index, IndexMut};
use std::slice;

use bytes::Bytes;

use crate::space::Space;
use crate::tree::{Pairs, Tree, Weigh};

/// A list is never longer than this: moving its pairs is cheaper than a tree's nodes up to here.
const LIST_LENGTH_MAX: usize = 16;

/// An ordered map from keys to what is to be written there.
#[derive(Debug)]
pub(crate) struct Buffered<V> {
    /// In the order of the keys; empty once there is a tree.
    list: Vec<(Bytes, V)>,
    /// Empty as long as the list is enough.
    tree: Tree<Bytes, V>,
}

/// The pairs in key order, from some place on.
#[derive(Clone, Debug)]
pub(crate) struct BufferedPairs<'a, V> {
    list: slice::Iter<'a, (Bytes, V)>,
    tree: Pairs<'a, Bytes, V>,
}

impl<V> Default for Buffered<V> {
    fn default() -> Buffered<V> {
        Buffered {
            list: Vec::new(),
            tree: Tree::default(),
        }
    }
}

impl<V: Weigh + Clone> Buffered<V> {
    /// The pair at which `place` is `Equal`; its key is `near`. As [`Tree::find`].
    pub(crate) fn find(
        &self,
        near: &[u8],
        place: impl Fn(&Bytes) -> Ordering,
    ) -> Option<(&Bytes, &V)> {
        match self.list.binary_search_by(|(key, _)| place(key)) {
            Ok(index) => self.list.get(index).map(|(key, value)| (key, value)),
            Err(_) => self.tree.find(near, place),
        }
    }

    /// Puts a pair in place of the one with this key, if there is one.
    pub(crate) fn insert(&mut self, key: Bytes, value: V) {
        if self.tree.is_empty() {
            match self.list.binary_search_by(|(other, _)| other.cmp(&key)) {
                Ok(index) => self.list[index].1 = value,
                Err(_) if self.list.len() == LIST_LENGTH_MAX => {
                    for (key, value) in self.list.drain(..) {
                        self.tree.insert(key, value);
                    }
                    self.tree.insert(key, value);
                }
                Err(index) => {
                    if self.list.capacity() == 0 {
                        // Most often it stays alone.
                        self.list.reserve_exact(1);
                    }
                    self.list.insert(index, (key, value));
                }
            }
        } else {
            self.tree.insert(key, value);
        }
    }

    /// The sum of all weights.
    pub(crate) fn weight(&self) -> u64 {
        let list: u64 = self.list.iter().map(|(_, value)| value.weight()).sum();
        list + self.tree.weight()
    }

    /// Whether nothing is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.tree.is_empty()
    }

    /// All pairs in key order.
    pub(crate) fn iterate(&self) -> BufferedPairs<'_, V> {
        BufferedPairs {
            list: self.list.iter(),
            tree: self.tree.iterate(),
        }
    }

    /// The pairs in key order, beginning with the first whose key is not `before`. As
    /// [`Tree::iterate_from`].
    pub(crate) fn iterate_from(
        &self,
        near: &[u8],
        before: impl Fn(&Bytes) -> bool,
    ) -> BufferedPairs<'_, V> {
        let first = self.list.partition_point(|(key, _)| before(key));
        BufferedPairs {
            list: self.list[first..].iter(),
            tree: self.tree.iterate_from(near, before),
        }
    }

    /// All pairs in key order.
    pub(crate) fn into_pairs(self) -> Vec<(Bytes, V)> {
        if self.tree.is_empty() {
            self.list
        } else {
            self.tree.into_pairs()
        }
    }
}

impl<'a, V> Iterator for BufferedPairs<'a, V> {
    type Item = (&'a Bytes, &'a V);

    fn next(&mut self) -> Option<(&'a Bytes, &'a V)> {
        match self.list.next() {
            Some((key, value)) => Some((key, value)),
            None => self.tree.next(),
        }
    }
}

/// What a transaction has written, by space. Nearly every transaction writes to one space, if to
/// any: an empty list for each of the others would be made and dropped for nothing.
#[derive(Debug)]
pub(crate) struct BySpace<V> {
    first: Option<(Space, Buffered<V>)>,
    others: Vec<(Space, Buffered<V>)>,
    /// What stands in a space that nothing was written to.
    nothing: Buffered<V>,
}

impl<V> Default for BySpace<V> {
    fn default() -> BySpace<V> {
        BySpace {
            first: None,
            others: Vec::new(),
            nothing: Buffered::default(),
        }
    }
}

impl<V> BySpace<V> {
    /// What was written to each space, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Buffered<V>> {
        self.first
            .iter()
            .chain(&self.others)
            .map(|(_, writes)| writes)
    }
}

impl<V> Index<Space> for BySpace<V> {
    type Output = Buffered<V>;

    fn index(&self, space: Space) -> &Buffered<V> {
        let mut written = self.first.iter().chain(&self.others);
        let found = written.find(|(own, _)| *own == space);
        found.map_or(&self.nothing, |(_, writes)| writes)
    }
}

impl<V> IndexMut<Space> for BySpace<V> {
    fn index_mut(&mut self, space: Space) -> &mut Buffered<V> {
        let (first, writes) = self
            .first
            .get_or_insert_with(|| (space, Buffered::default()));
        if *first == space {
            return writes;
        }
        let place = self.others.iter().position(|(own, _)| *own == space);
        let place = place.unwrap_or_else(|| {
            self.others.push((space, Buffered::default()));
            self.others.len() - 1
        });
        &mut self.others[place].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for u64 {
        fn weight(&self) -> u64 {
            *self
        }
    }

    fn key(number: u64) -> Bytes {
        Bytes::from(format!("{number:02}"))
    }

    /// The same at every length, around the one at which the list becomes a tree.
    #[test]
    fn a_list_and_a_tree_are_the_same_map() {
        let mut buffered = Buffered::default();
        for count in 1..=40u64 {
            // 7 and 41 have no common factor: the order is mixed, and no number comes twice.
            buffered.insert(key(count * 7 % 41), 0);
            buffered.insert(key(count * 7 % 41), count);
            let mut wanted: Vec<(Bytes, u64)> =
                (1..=count).map(|each| (key(each * 7 % 41), each)).collect();
            wanted.sort();
            let pairs = |from| -> Vec<(Bytes, u64)> {
                let found = buffered.iterate_from(&key(from), |other| *other < key(from));
                found.map(|(key, value)| (key.clone(), *value)).collect()
            };
            assert_eq!(pairs(0), wanted);
            let later: Vec<(Bytes, u64)> = wanted
                .iter()
                .filter(|each| each.0 >= key(20))
                .cloned()
                .collect();
            assert_eq!(pairs(20), later);
            assert_eq!(buffered.iterate().count() as u64, count);
            assert_eq!(buffered.weight(), count * (count + 1) / 2);
            for (key, value) in &wanted {
                assert_eq!(
                    buffered.find(key, |other| other.cmp(key)),
                    Some((key, value))
                );
            }
            let absent = key(99);
            assert_eq!(buffered.find(&absent, |other| other.cmp(&absent)), None);
        }
        assert_eq!(buffered.into_pairs().len(), 40);
    }
}
