//! Building a tree from pairs that are already in order: each node is made once, full.

use std::sync::Arc;

use super::items::Items;
use super::{Child, NODE_LENGTH_MAX, Node, Tree, TreeKey, Weigh, weigh_pairs};

/// Collects pairs in strictly ascending order of their keys.
#[derive(Debug)]
pub(crate) struct TreeBuilder<K: TreeKey, V> {
    leaf: Vec<(K, V)>,
    /// The nodes that have no parent yet, the lowest level first.
    levels: Vec<Vec<Child<K, V>>>,
    weight: u64,
}

impl<K: TreeKey, V> Default for TreeBuilder<K, V> {
    fn default() -> TreeBuilder<K, V> {
        TreeBuilder {
            leaf: Vec::new(),
            levels: Vec::new(),
            weight: 0,
        }
    }
}

impl<K: TreeKey, V: Weigh> TreeBuilder<K, V> {
    /// Appends a pair.
    ///
    /// # Panics
    /// If the key is not greater than that of the pair before: whoever reads pairs from outside
    /// checks that first.
    pub(crate) fn push(&mut self, key: K, value: V) {
        if let Some((last, _)) = self.leaf.last() {
            assert!(*last < key, "a tree is built from pairs in ascending order");
        }
        if self.leaf.len() == NODE_LENGTH_MAX {
            self.finish_leaf();
        }
        self.weight += value.weight();
        if self.leaf.capacity() == 0 {
            self.leaf.reserve_exact(NODE_LENGTH_MAX);
        }
        self.leaf.push((key, value));
    }

    /// The tree of all pairs.
    pub(crate) fn finish(mut self) -> Tree<K, V> {
        if self.leaf.is_empty() {
            return Tree::default();
        }
        self.leaf.shrink_to_fit();
        self.finish_leaf();
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.levels.len();
            if is_top && self.levels[level].len() == 1 {
                let root = self.levels[level].pop().map(|child| child.node);
                return Tree {
                    root,
                    weight: self.weight,
                };
            }
            if !self.levels[level].is_empty() {
                self.finish_inner(level);
            }
            level += 1;
        }
    }

    fn finish_leaf(&mut self) {
        let pairs = std::mem::take(&mut self.leaf);
        let first = pairs[0].0.clone();
        let weight = weigh_pairs(&pairs);
        self.push_child(
            0,
            Child {
                first,
                weight,
                node: Arc::new(Node::Leaf(Items::new(pairs))),
            },
        );
    }

    fn finish_inner(&mut self, level: usize) {
        let children = std::mem::take(&mut self.levels[level]);
        let first = children[0].first.clone();
        let weight = children.iter().map(|child| child.weight).sum();
        self.push_child(
            level + 1,
            Child {
                first,
                weight,
                node: Arc::new(Node::Inner(Items::new(children))),
            },
        );
    }

    fn push_child(&mut self, level: usize, child: Child<K, V>) {
        if level == self.levels.len() {
            self.levels.push(Vec::new());
        }
        if self.levels[level].len() == NODE_LENGTH_MAX {
            self.finish_inner(level);
        }
        self.levels[level].push(child);
    }
}
