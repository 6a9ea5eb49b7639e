//! The places of one node, and a summary of their keys that makes searching them cheap.
//!
//! Keys are allocations of their own, spread over memory, and a binary search that looks at five of
//! them waits five times for memory. So a node keeps, beside its items, the prefix that all its
//! keys share and the eight bytes that follow it in each key, as numbers in one small array:
//!
//! ```text
//!   prefix "/registry/pods/"    words [ "alpha/we" | "default/" | "default/" | "kube-sys" ]
//!   items                             [     ●      |     ●      |     ●      |     ●      ]
//! ```
//!
//! A search compares numbers and asks the keys themselves only where the numbers tie.

use std::ops::Deref;

use super::{NODE_GROWTH, NODE_LENGTH_MAX, TreeKey};

/// A longer shared prefix is cut off here; then the words tie and the keys decide.
const PREFIX_LENGTH_MAX: usize = 64;

/// Something that stands in a node under a key.
pub(super) trait Keyed {
    type Key: TreeKey;

    fn key(&self) -> &Self::Key;
}

/// The items of a node in the order of their keys.
#[derive(Clone, Debug)]
pub(super) struct Items<T: Keyed> {
    list: Vec<T>,
    /// All keys begin with this.
    prefix: Box<[u8]>,
    /// What follows the prefix in each key, as many as there are items; of no use if the kind of
    /// key has no text. They stand in the node itself: a list of its own would be one more place
    /// in memory to wait for.
    words: <T::Key as TreeKey>::Words,
}

impl<T: Keyed> Deref for Items<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.list
    }
}

impl<T: Keyed> Items<T> {
    pub(super) fn new(list: Vec<T>) -> Items<T> {
        let mut items = Items {
            list,
            prefix: Box::default(),
            words: Default::default(),
        };
        items.summarize();
        items
    }

    /// For changes that leave the keys as they are.
    pub(super) fn list_mut(&mut self) -> &mut [T] {
        &mut self.list
    }

    pub(super) fn into_list(self) -> Vec<T> {
        self.list
    }

    /// How many items' keys are `before`. Keys whose text is less than `near` are, those whose
    /// text is greater are not, and the predicate decides between those that equal it.
    pub(super) fn partition(&self, near: &[u8], before: impl Fn(&T::Key) -> bool) -> usize {
        let (from, to) = self.undecided(near);
        from + self.list[from..to].partition_point(|item| before(item.key()))
    }

    /// The items whose relation to `near` the summary does not tell: all in front of them have
    /// lesser keys, all behind them greater ones.
    fn undecided(&self, near: &[u8]) -> (usize, usize) {
        let length = self.list.len();
        if !T::Key::HAS_TEXT {
            return (0, length);
        }
        let (start, rest) = near.split_at(self.prefix.len().min(near.len()));
        if *start != *self.prefix {
            let all_before = *start > *self.prefix;
            return if all_before { (length, length) } else { (0, 0) };
        }
        let word = word(rest);
        let words = &self.words.as_ref()[..length];
        let from = words.partition_point(|other| *other < word);
        let ties = words[from..]
            .iter()
            .take_while(|other| **other == word)
            .count();
        (from, from + ties)
    }

    /// Inserts an item; if there is no room, returns the items that belong into a new right
    /// neighbour.
    pub(super) fn insert_or_split(&mut self, index: usize, item: T) -> Option<Items<T>> {
        if self.list.len() < NODE_LENGTH_MAX {
            self.insert(index, item);
            return None;
        }
        if index == self.list.len() {
            return Some(Items::new(vec![item]));
        }
        let middle = NODE_LENGTH_MAX / 2;
        let mut list = Vec::with_capacity(middle + NODE_GROWTH);
        list.extend(self.list.drain(middle..));
        self.list.shrink_to(middle + NODE_GROWTH);
        let mut right = Items {
            list,
            prefix: self.prefix.clone(),
            words: Default::default(),
        };
        if T::Key::HAS_TEXT {
            let words = &self.words.as_ref()[middle..];
            right.words.as_mut()[..words.len()].copy_from_slice(words);
        }
        if index <= middle {
            self.insert(index, item);
        } else {
            right.insert(index - middle, item);
        }
        self.refit();
        right.refit();
        Some(right)
    }

    fn insert(&mut self, index: usize, item: T) {
        grow(&mut self.list);
        self.list.insert(index, item);
        if !T::Key::HAS_TEXT {
            return;
        }
        match self.list[index].key().text().strip_prefix(&*self.prefix) {
            Some(rest) => {
                let word = word(rest);
                let words = &mut self.words.as_mut()[index..self.list.len()];
                words.copy_within(..words.len() - 1, 1);
                words[0] = word;
            }
            None => self.summarize(),
        }
    }

    pub(super) fn remove(&mut self, index: usize) -> T {
        if T::Key::HAS_TEXT {
            let words = &mut self.words.as_mut()[index..self.list.len()];
            words.copy_within(1.., 0);
        }
        self.list.remove(index)
    }

    /// Appends the items of the right neighbour.
    pub(super) fn join(&mut self, right: Items<T>) {
        self.list.extend(right.list);
        self.summarize();
    }

    /// To be called when the key of an item was exchanged.
    pub(super) fn rekey(&mut self, index: usize) {
        if !T::Key::HAS_TEXT {
            return;
        }
        match self.list[index].key().text().strip_prefix(&*self.prefix) {
            Some(rest) => self.words.as_mut()[index] = word(rest),
            None => self.summarize(),
        }
    }

    /// After a split: uses that the prefix may have become longer.
    fn refit(&mut self) {
        if T::Key::HAS_TEXT && self.shared().len() != self.prefix.len() {
            self.summarize();
        }
    }

    /// Makes prefix and words anew.
    fn summarize(&mut self) {
        if !T::Key::HAS_TEXT || self.list.is_empty() {
            return;
        }
        self.prefix = Box::from(self.shared());
        let skip = self.prefix.len();
        for (place, item) in self.words.as_mut().iter_mut().zip(&self.list) {
            *place = word(&item.key().text()[skip..]);
        }
    }

    /// Whether prefix and words are those of the keys.
    #[cfg(test)]
    pub(super) fn is_summarized(&self) -> bool {
        let rest = |item: &T| item.key().text().strip_prefix(&*self.prefix).map(word);
        self.list
            .iter()
            .map(rest)
            .eq(self.words.as_ref()[..self.list.len()]
                .iter()
                .copied()
                .map(Some))
    }

    /// The prefix that all keys share, which is what the first and the last one share.
    fn shared(&self) -> &[u8] {
        let (Some(first), Some(last)) = (self.list.first(), self.list.last()) else {
            return &[];
        };
        let (first, last) = (first.key().text(), last.key().text());
        let pairs = first.iter().zip(last).take(PREFIX_LENGTH_MAX);
        &first[..pairs.take_while(|(left, right)| left == right).count()]
    }
}

/// The first eight bytes as a number that orders as they do. A text that ends earlier ties with
/// one that goes on with zeros.
fn word(text: &[u8]) -> u64 {
    match text.first_chunk() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes[..text.len()].copy_from_slice(text);
            u64::from_be_bytes(bytes)
        }
    }
}

fn grow<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(NODE_GROWTH);
    }
}
