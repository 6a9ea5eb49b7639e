//! Walking a tree in key order, from any place.

use std::slice;
use std::sync::Arc;

use super::{Child, Node, Tree, TreeKey, Weigh};

/// The pairs of a tree in key order, from some place on.
#[derive(Clone, Debug)]
pub(crate) struct Pairs<'a, K: TreeKey, V> {
    /// What is left of the inner nodes on the way to the current leaf, the root first.
    above: Vec<slice::Iter<'a, Child<K, V>>>,
    leaf: slice::Iter<'a, (K, V)>,
}

impl<K: TreeKey, V> Tree<K, V> {
    /// All pairs in key order.
    pub(crate) fn iterate(&self) -> Pairs<'_, K, V> {
        self.iterate_from(&[], |_| false)
    }

    /// The pairs in key order, beginning with the first whose key is not `before`, as in
    /// [`Tree::last_before`].
    pub(crate) fn iterate_from(&self, near: &[u8], before: impl Fn(&K) -> bool) -> Pairs<'_, K, V> {
        let mut pairs = Pairs {
            above: Vec::new(),
            leaf: [].iter(),
        };
        let Some(mut node) = self.root.as_deref() else {
            return pairs;
        };
        loop {
            match node {
                Node::Inner(children) => {
                    let index = children.partition(near, &before).saturating_sub(1);
                    pairs.above.push(children[index + 1..].iter());
                    node = &children[index].node;
                }
                Node::Leaf(found) => {
                    pairs.leaf = found[found.partition(near, &before)..].iter();
                    return pairs;
                }
            }
        }
    }
}

impl<K: TreeKey, V: Clone> Tree<K, V> {
    /// All pairs in key order; nothing is copied if nobody else holds the tree.
    pub(crate) fn into_pairs(self) -> Vec<(K, V)> {
        let Some(root) = self.root else {
            return Vec::new();
        };
        let mut pairs = Vec::new();
        take_pairs(root, &mut pairs);
        pairs
    }
}

impl<'a, K: TreeKey, V> Pairs<'a, K, V> {
    /// Goes to the next leaf, through children that are `wanted` only; false at the end of the
    /// tree.
    fn next_leaf(&mut self, wanted: impl Fn(&Child<K, V>) -> bool) -> bool {
        while let Some(level) = self.above.last_mut() {
            match level.find(|child| wanted(child)).map(|child| &*child.node) {
                None => drop(self.above.pop()),
                Some(Node::Inner(children)) => self.above.push(children.iter()),
                Some(Node::Leaf(pairs)) => {
                    self.leaf = pairs.iter();
                    return true;
                }
            }
        }
        false
    }

    /// The next pair that weighs something. Subtrees that weigh nothing are passed by, however
    /// large they are.
    pub(crate) fn next_weighing(&mut self) -> Option<(&'a K, &'a V)>
    where
        V: Weigh,
    {
        loop {
            if let Some((key, value)) = self.leaf.find(|(_, value)| value.weight() > 0) {
                return Some((key, value));
            }
            if !self.next_leaf(|child| child.weight > 0) {
                return None;
            }
        }
    }
}

impl<'a, K: TreeKey, V> Iterator for Pairs<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<(&'a K, &'a V)> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            if !self.next_leaf(|_| true) {
                return None;
            }
        }
    }
}

fn take_pairs<K: TreeKey, V: Clone>(node: Arc<Node<K, V>>, pairs: &mut Vec<(K, V)>) {
    match Arc::unwrap_or_clone(node) {
        Node::Leaf(more) if pairs.is_empty() => *pairs = more.into_list(),
        Node::Leaf(more) => pairs.extend(more.into_list()),
        Node::Inner(children) => {
            for child in children.into_list() {
                take_pairs(child.node, pairs);
            }
        }
    }
}
