//! An ordered map whose copy costs nothing: a B+tree of shared nodes, copied only when written.
//!
//! ```text
//!   Tree ──► Inner [ (first, weight, ●) (first, weight, ●) … ]      at most 32 children
//!                              │                   │
//!                              ▼                   ▼
//!                Leaf [ (key, value) … ]   Leaf [ (key, value) … ]   at most 32 pairs
//! ```
//!
//! Cloning a [`Tree`] shares its root. A write walks from the root to one leaf and takes each node
//! with [`Arc::make_mut`]: nodes that nobody else holds are changed in place, so a tree without
//! snapshots behaves like an ordinary B+tree; a node that a snapshot holds is copied the first
//! time it is touched, and the snapshot keeps what it had.
//!
//! - *Weights*: every child carries the sum of the weights of the pairs below it, so that the
//!   weight of a range (for us: the number of live keys) costs one walk per end of the range.
//! - *Questions are predicates*: instead of borrowed key types, a caller passes a function that is
//!   true for every key before the place it looks for. So a pair of a shared key and a number can
//!   be looked up by a borrowed slice and a number, without building a key. Beside it, the caller
//!   names the text it looks near, which a node can compare without touching its keys (`items`).
//! - *Deleting is lazy*: a node that has become small joins a neighbour if both fit into one node
//!   with room to spare, and an empty node goes. No two neighbours are both small, so the height
//!   stays logarithmic; all leaves stand at one depth, so dropping a tree recurses only as deep
//!   as the tree is high (about five levels for a million pairs).
//! - *Appending fills nodes*: a full node that grows at its end starts a new one and stays full,
//!   so an index that is only appended to (by revision) has no half-empty nodes.

mod build;
mod items;
mod iterate;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::fmt::Debug;
use std::sync::Arc;

pub(crate) use build::TreeBuilder;
pub(crate) use iterate::Pairs;

use items::{Items, Keyed};

/// A node holds at most this many pairs or children. Small enough that the move of half a leaf is
/// cheap, large enough that the nodes' own overhead is a few bytes per pair.
const NODE_LENGTH_MAX: usize = 32;

/// A node with fewer pairs or children than this looks for a neighbour to join.
const NODE_LENGTH_SMALL: usize = NODE_LENGTH_MAX / 4;

/// Neighbours join if together they are no longer than this, so that the next insert does not
/// split them again.
const NODE_LENGTH_JOINED: usize = NODE_LENGTH_MAX / 4 * 3;

/// Nodes grow by this many places at a time: doubling would leave a third of the places of a
/// large tree unused.
const NODE_GROWTH: usize = 8;

/// A word of each key of a node.
pub(crate) type Words = [u64; NODE_LENGTH_MAX];

/// What a value adds to the weight of a range.
pub(crate) trait Weigh {
    /// The weight of this value; it must not change while the value is in a tree.
    fn weight(&self) -> u64;
}

/// A key of a tree. Searching is cheaper for keys that are ordered by a text first.
pub(crate) trait TreeKey: Ord + Clone {
    /// Whether the keys have a text.
    const HAS_TEXT: bool;

    /// Room for a word of each key of a node: [`Words`] if the keys have a text, else none.
    type Words: AsRef<[u64]> + AsMut<[u64]> + Default + Clone + Debug;

    /// Keys with different texts are ordered by these.
    fn text(&self) -> &[u8];
}

impl<K: TreeKey, V> Keyed for (K, V) {
    type Key = K;

    fn key(&self) -> &K {
        &self.0
    }
}

impl<K: TreeKey, V> Keyed for Child<K, V> {
    type Key = K;

    fn key(&self) -> &K {
        &self.first
    }
}

/// An ordered map; a clone shares everything and costs one reference count.
#[derive(Clone, Debug)]
pub(crate) struct Tree<K: TreeKey, V> {
    root: Option<Arc<Node<K, V>>>,
    weight: u64,
}

#[derive(Clone, Debug)]
enum Node<K: TreeKey, V> {
    Leaf(Items<(K, V)>),
    Inner(Items<Child<K, V>>),
}

/// A subtree within its parent.
#[derive(Clone, Debug)]
struct Child<K: TreeKey, V> {
    /// Not greater than any key in the subtree, and greater than every key to the left of it.
    first: K,
    /// The sum of the weights of all pairs in the subtree.
    weight: u64,
    node: Arc<Node<K, V>>,
}

/// What inserting into a subtree did.
struct Inserted<K: TreeKey, V> {
    /// The value that stood there before.
    old: Option<V>,
    /// The right part of the subtree, if it had to be split.
    split: Option<Child<K, V>>,
}

impl<K: TreeKey, V> Default for Tree<K, V> {
    fn default() -> Tree<K, V> {
        Tree {
            root: None,
            weight: 0,
        }
    }
}

impl<K: TreeKey, V> Tree<K, V> {
    /// The sum of all weights.
    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }

    /// Whether there is no pair.
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Whether both share everything, and so hold the same. Trees that do not may be equal too.
    pub(crate) fn is_shared_with(&self, other: &Tree<K, V>) -> bool {
        match (&self.root, &other.root) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl<K: TreeKey, V> Tree<K, V> {
    /// The pair at which `place` (the order of a key relative to what is looked for) is `Equal`;
    /// its key has the text `near`.
    pub(crate) fn find(&self, near: &[u8], place: impl Fn(&K) -> Ordering) -> Option<(&K, &V)> {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Inner(children) => node = &children[child_at(children, near, &place)].node,
                Node::Leaf(pairs) => {
                    let (key, value) = &pairs[pair_at(pairs, near, &place)?];
                    return Some((key, value));
                }
            }
        }
    }

    /// The last pair whose key is `before`. Keys whose text is less than `near` are, those whose
    /// text is greater are not, and the predicate decides between those that equal it.
    pub(crate) fn last_before(&self, near: &[u8], before: impl Fn(&K) -> bool) -> Option<(&K, &V)> {
        let mut node = self.root.as_deref()?;
        // `first` is only a lower bound: the keys of the child it leads to may all be at or past
        // the place. Then the answer is the greatest pair to the left of the way down.
        let mut left = None;
        loop {
            match node {
                Node::Inner(children) => {
                    let index = children.partition(near, &before);
                    node = &children[index.saturating_sub(1)].node;
                    if index >= 2 {
                        left = Some(&*children[index - 2].node);
                    }
                }
                Node::Leaf(pairs) => {
                    return match pairs.partition(near, &before).checked_sub(1) {
                        Some(last) => Some((&pairs[last].0, &pairs[last].1)),
                        None => left.map(greatest_pair),
                    };
                }
            }
        }
    }

    /// The sum of the weights of the pairs whose keys are `before`, as in
    /// [`Tree::last_before`].
    pub(crate) fn weight_before(&self, near: &[u8], before: impl Fn(&K) -> bool) -> u64
    where
        V: Weigh,
    {
        let mut total = 0;
        let Some(mut node) = self.root.as_deref() else {
            return 0;
        };
        loop {
            match node {
                Node::Inner(children) => {
                    let index = children.partition(near, &before);
                    let Some(last) = index.checked_sub(1) else {
                        return total;
                    };
                    total += children[..last]
                        .iter()
                        .map(|child| child.weight)
                        .sum::<u64>();
                    node = &children[last].node;
                }
                Node::Leaf(pairs) => {
                    return total + weigh_pairs(&pairs[..pairs.partition(near, &before)]);
                }
            }
        }
    }
}

impl<K: TreeKey, V: Weigh + Clone> Tree<K, V> {
    /// Puts a pair in place. If the key is there already, its value is exchanged and returned,
    /// and the key object that was there stays.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let weight = value.weight();
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(Items::new(vec![(key, value)]))));
            self.weight = weight;
            return None;
        };
        let inserted = root.insert(key, value);
        self.weight += weight;
        self.weight -= inserted.old.as_ref().map_or(0, Weigh::weight);
        if let Some(right) = inserted.split {
            let left = Arc::clone(root);
            let first = least_key(&left).clone();
            let weight = self.weight - right.weight;
            let children = vec![
                Child {
                    first,
                    weight,
                    node: left,
                },
                right,
            ];
            *root = Arc::new(Node::Inner(Items::new(children)));
        }
        inserted.old
    }

    /// Changes the value at which `place` is `Equal`, which keeps its weight; its key has the text
    /// `near`. `None` if it is not there.
    pub(crate) fn update<R>(
        &mut self,
        near: &[u8],
        place: impl Fn(&K) -> Ordering,
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R> {
        let mut node = self.root.as_mut()?;
        loop {
            match Arc::make_mut(node) {
                Node::Inner(children) => {
                    let index = child_at(children, near, &place);
                    node = &mut children.list_mut()[index].node;
                }
                Node::Leaf(pairs) => {
                    let index = pair_at(pairs, near, &place)?;
                    let value = &mut pairs.list_mut()[index].1;
                    let weight = value.weight();
                    let result = change(value);
                    assert!(value.weight() == weight, "sums of weights stay true");
                    return Some(result);
                }
            }
        }
    }

    /// Takes out the pair at which `place` is `Equal`; its key has the text `near`.
    pub(crate) fn remove(&mut self, near: &[u8], place: impl Fn(&K) -> Ordering) -> Option<(K, V)> {
        // Looked up first, so that nothing is copied for a key that is not there.
        self.find(near, &place)?;
        self.remove_found(near, place)
    }

    /// As [`Tree::remove`], for a pair that is nearly always there.
    pub(crate) fn remove_found(
        &mut self,
        near: &[u8],
        place: impl Fn(&K) -> Ordering,
    ) -> Option<(K, V)> {
        let root = self.root.as_mut()?;
        let removed = root.remove(near, &place)?;
        self.weight -= removed.1.weight();
        // An inner root with one child is that child; an empty leaf is no tree.
        loop {
            match root.as_ref() {
                Node::Inner(children) if children.len() == 1 => {
                    let only = Arc::clone(&children[0].node);
                    *root = only;
                }
                Node::Leaf(pairs) if pairs.is_empty() => {
                    self.root = None;
                    break;
                }
                _ => break,
            }
        }
        Some(removed)
    }
}

/// Writing into a shared node, which copies it if anybody else holds it.
trait WriteNode<K: TreeKey, V> {
    fn insert(&mut self, key: K, value: V) -> Inserted<K, V>;
    fn remove(&mut self, near: &[u8], place: &impl Fn(&K) -> Ordering) -> Option<(K, V)>;
}

impl<K: TreeKey, V: Weigh + Clone> WriteNode<K, V> for Arc<Node<K, V>> {
    fn insert(&mut self, key: K, value: V) -> Inserted<K, V> {
        match Arc::make_mut(self) {
            Node::Leaf(pairs) => insert_into_leaf(pairs, key, value),
            Node::Inner(children) => insert_into_inner(children, key, value),
        }
    }

    fn remove(&mut self, near: &[u8], place: &impl Fn(&K) -> Ordering) -> Option<(K, V)> {
        match Arc::make_mut(self) {
            Node::Leaf(pairs) => {
                let index = pair_at(pairs, near, place)?;
                Some(pairs.remove(index))
            }
            Node::Inner(children) => {
                let index = child_at(children, near, place);
                let child = &mut children.list_mut()[index];
                let removed = child.node.remove(near, place)?;
                child.weight -= removed.1.weight();
                shrink(children, index);
                Some(removed)
            }
        }
    }
}

fn insert_into_leaf<K: TreeKey, V: Weigh>(
    pairs: &mut Items<(K, V)>,
    key: K,
    value: V,
) -> Inserted<K, V> {
    let index = pairs.partition(key.text(), |other| *other < key);
    if pairs.get(index).is_some_and(|(other, _)| *other == key) {
        let old = std::mem::replace(&mut pairs.list_mut()[index].1, value);
        return Inserted {
            old: Some(old),
            split: None,
        };
    }
    let split = pairs.insert_or_split(index, (key, value)).map(|right| {
        let first = right[0].0.clone();
        let weight = weigh_pairs(&right);
        Child {
            first,
            weight,
            node: Arc::new(Node::Leaf(right)),
        }
    });
    Inserted { old: None, split }
}

fn insert_into_inner<K: TreeKey, V: Weigh + Clone>(
    children: &mut Items<Child<K, V>>,
    key: K,
    value: V,
) -> Inserted<K, V> {
    let index = children.partition(key.text(), |first| *first <= key);
    if index == 0 {
        // Only the leftmost path can be told a smaller key; `first` stays a lower bound.
        children.list_mut()[0].first = key.clone();
        children.rekey(0);
    }
    let index = index.saturating_sub(1);
    let child = &mut children.list_mut()[index];
    let weight = value.weight();
    let Inserted { old, split } = child.node.insert(key, value);
    child.weight += weight;
    child.weight -= old.as_ref().map_or(0, Weigh::weight);
    let Some(right) = split else {
        return Inserted { old, split: None };
    };
    child.weight -= right.weight;
    let split = children.insert_or_split(index + 1, right).map(|right| {
        let first = right[0].first.clone();
        let weight = right.iter().map(|child| child.weight).sum();
        Child {
            first,
            weight,
            node: Arc::new(Node::Inner(right)),
        }
    });
    Inserted { old, split }
}

/// After a removal below `children[index]`: drops the child if it is empty, joins it with a
/// neighbour if both are small.
fn shrink<K: TreeKey, V: Clone>(children: &mut Items<Child<K, V>>, index: usize) {
    let length = children[index].node.length();
    if length == 0 {
        children.remove(index);
        return;
    }
    if length >= NODE_LENGTH_SMALL {
        return;
    }
    let joins = |neighbour: &Child<K, V>| neighbour.node.length() + length <= NODE_LENGTH_JOINED;
    let left = if index > 0 && joins(&children[index - 1]) {
        index - 1
    } else if index + 1 < children.len() && joins(&children[index + 1]) {
        index
    } else {
        return;
    };
    let right = children.remove(left + 1);
    let child = &mut children.list_mut()[left];
    child.weight += right.weight;
    match (
        Arc::make_mut(&mut child.node),
        Arc::unwrap_or_clone(right.node),
    ) {
        (Node::Leaf(pairs), Node::Leaf(more)) => pairs.join(more),
        (Node::Inner(children), Node::Inner(more)) => children.join(more),
        _ => unreachable!("all leaves stand at one depth"),
    }
}

impl<K: TreeKey, V> Node<K, V> {
    fn length(&self) -> usize {
        match self {
            Node::Leaf(pairs) => pairs.len(),
            Node::Inner(children) => children.len(),
        }
    }
}

/// The child in which the key at `place` is, or would be.
fn child_at<K: TreeKey, V>(
    children: &Items<Child<K, V>>,
    near: &[u8],
    place: &impl Fn(&K) -> Ordering,
) -> usize {
    children
        .partition(near, |first| place(first).is_le())
        .saturating_sub(1)
}

/// The pair whose key is at `place`.
fn pair_at<K: TreeKey, V>(
    pairs: &Items<(K, V)>,
    near: &[u8],
    place: &impl Fn(&K) -> Ordering,
) -> Option<usize> {
    let index = pairs.partition(near, |key| place(key).is_lt());
    pairs
        .get(index)
        .filter(|(key, _)| place(key).is_eq())
        .map(|_| index)
}

fn weigh_pairs<K, V: Weigh>(pairs: &[(K, V)]) -> u64 {
    pairs.iter().map(|(_, value)| value.weight()).sum()
}

fn least_key<K: TreeKey, V>(mut node: &Node<K, V>) -> &K {
    loop {
        match node {
            Node::Leaf(pairs) => return &pairs[0].0,
            Node::Inner(children) => node = &children[0].node,
        }
    }
}

fn greatest_pair<K: TreeKey, V>(mut node: &Node<K, V>) -> (&K, &V) {
    const NOT_EMPTY: &str = "only an empty tree has an empty node";
    loop {
        match node {
            Node::Leaf(pairs) => {
                let (key, value) = pairs.last().expect(NOT_EMPTY);
                return (key, value);
            }
            Node::Inner(children) => node = &children.last().expect(NOT_EMPTY).node,
        }
    }
}
