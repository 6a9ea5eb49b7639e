//! The tree against the standard library's map, with snapshots held across writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Random;
use proptest::prelude::*;

use super::{
    Child, NODE_LENGTH_MAX, NODE_LENGTH_SMALL, Node, Tree, TreeBuilder, TreeKey, Weigh, Words,
};

/// A value whose weight can be told apart from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heavy(u64);

impl Weigh for Heavy {
    fn weight(&self) -> u64 {
        self.0 % 5
    }
}

/// A key whose text says only part of its order, like that of an old version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    text: Vec<u8>,
    number: u32,
}

impl TreeKey for Name {
    const HAS_TEXT: bool = true;
    type Words = Words;

    fn text(&self) -> &[u8] {
        &self.text
    }
}

/// Names in the order of their numbers, of every kind that can mislead a summary: texts that tie,
/// that share prefixes short and long, that end where another goes on with zeros.
fn name(number: u32) -> Name {
    let mut text = vec![(number / 150).min(200) as u8];
    match number / 150 {
        0 => text.extend(format!("{:03}", number / 3).bytes()),
        1 => text.extend(vec![0; (number % 150) as usize]),
        2 => text.extend(format!("{}{:03}", "x".repeat(100), number / 2).bytes()),
        3 => {}
        _ => text.extend(number.to_be_bytes()),
    }
    Name { text, number }
}

type Model = BTreeMap<Name, Heavy>;

type Names = Tree<Name, Heavy>;

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, u64),
    Remove(u32),
    /// Remove everything in a stretch of keys, as compaction does to the index.
    Clear(u32, u32),
    /// Append after all keys.
    Append(u8),
    Snapshot,
    Forget(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..900u32, any::<u64>()).prop_map(|(key, value)| Step::Insert(key, value)),
        5 => (0..900u32).prop_map(Step::Remove),
        1 => (0..900u32, 1..200u32).prop_map(|(key, length)| Step::Clear(key, length)),
        1 => (1..120u8).prop_map(Step::Append),
        1 => Just(Step::Snapshot),
        1 => any::<u8>().prop_map(Step::Forget),
    ]
}

fn insert(tree: &mut Names, model: &mut Model, key: u32, value: u64) {
    assert_eq!(
        tree.insert(name(key), Heavy(value)),
        model.insert(name(key), Heavy(value))
    );
}

fn remove(tree: &mut Names, model: &mut Model, key: u32) {
    let key = name(key);
    let removed = tree.remove(&key.text, |other| other.cmp(&key));
    assert_eq!(removed.map(|(_, value)| value), model.remove(&key));
}

/// Every invariant of the structure, and the content.
fn check(tree: &Names, model: &Model) {
    let pairs: Vec<(Name, Heavy)> = tree
        .iterate()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let expected: Vec<(Name, Heavy)> = model
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    assert_eq!(pairs, expected);
    let Some(root) = &tree.root else {
        assert_eq!(tree.weight(), 0);
        return;
    };
    if let Node::Inner(children) = root.as_ref() {
        assert!(children.len() > 1, "a root with one child is that child");
    }
    let (weight, _) = check_node(root, None, None);
    assert_eq!(weight, tree.weight());
}

/// Checks a subtree whose keys are in `from..to`; returns its weight and height.
fn check_node(
    node: &Arc<Node<Name, Heavy>>,
    from: Option<&Name>,
    to: Option<&Name>,
) -> (u64, usize) {
    let fits = |key: &Name| from.is_none_or(|from| from <= key) && to.is_none_or(|to| key < to);
    match node.as_ref() {
        Node::Leaf(pairs) => {
            assert!((1..=NODE_LENGTH_MAX).contains(&pairs.len()));
            assert!(pairs.is_summarized());
            assert!(pairs.iter().all(|(key, _)| fits(key)));
            (pairs.iter().map(|(_, value)| value.weight()).sum(), 0)
        }
        Node::Inner(children) => {
            assert!((1..=NODE_LENGTH_MAX).contains(&children.len()));
            assert!(children.is_summarized());
            let mut heights = Vec::new();
            for (index, child) in children.iter().enumerate() {
                let end = children.get(index + 1).map(|next| &next.first).or(to);
                let (weight, height) = check_node(&child.node, Some(&child.first), end);
                assert_eq!(weight, child.weight);
                heights.push(height);
            }
            assert!(
                heights.iter().all(|height| *height == heights[0]),
                "all leaves at one depth"
            );
            (
                children.iter().map(|child| child.weight).sum(),
                heights[0] + 1,
            )
        }
    }
}

/// All kinds of questions at some keys.
fn ask(tree: &Names, model: &Model, key: u32) {
    let key = &name(key);
    let found = tree.find(&key.text, |other| other.cmp(key));
    assert_eq!(found.map(|(_, value)| value), model.get(key));
    let before = tree.last_before(&key.text, |other| other < key);
    assert_eq!(before, model.range::<Name, _>(..key).next_back());
    let weight: u64 = model
        .range::<Name, _>(..key)
        .map(|(_, value)| value.weight())
        .sum();
    assert_eq!(tree.weight_before(&key.text, |other| other < key), weight);
    let next: Vec<_> = tree
        .iterate_from(&key.text, |other| other < key)
        .take(70)
        .collect();
    assert_eq!(
        next,
        model.range::<Name, _>(key..).take(70).collect::<Vec<_>>()
    );
    let mut pairs = tree.iterate_from(&key.text, |other| other < key);
    let weighing: Vec<_> = std::iter::from_fn(|| pairs.next_weighing()).collect();
    let expected = model.range::<Name, _>(key..);
    let expected = expected.filter(|(_, value)| value.weight() > 0);
    assert_eq!(weighing, expected.collect::<Vec<_>>());
}

fn run(steps: Vec<Step>) {
    let (mut tree, mut model) = (Tree::default(), Model::new());
    let mut held: Vec<(Names, Model)> = Vec::new();
    for step in steps {
        match step {
            Step::Insert(key, value) => {
                insert(&mut tree, &mut model, key, value);
                ask(&tree, &model, key);
            }
            Step::Remove(key) => {
                remove(&mut tree, &mut model, key);
                ask(&tree, &model, key);
                ask(&tree, &model, key / 2);
            }
            Step::Clear(key, length) => {
                (key..key + length).for_each(|key| remove(&mut tree, &mut model, key));
            }
            Step::Append(count) => {
                let last = model.keys().next_back().map_or(0, |key| key.number);
                for key in last + 1..=last + u32::from(count) {
                    insert(&mut tree, &mut model, key, u64::from(key));
                }
            }
            Step::Snapshot => held.push((tree.clone(), model.clone())),
            Step::Forget(index) if !held.is_empty() => {
                held.swap_remove(usize::from(index) % held.len());
            }
            Step::Forget(_) => {}
        }
    }
    check(&tree, &model);
    for (tree, model) in &held {
        check(tree, model);
    }
    let pairs: Vec<(Name, Heavy)> = model
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut builder = TreeBuilder::default();
    pairs
        .iter()
        .for_each(|(key, value)| builder.push(key.clone(), value.clone()));
    let built = builder.finish();
    check(&built, &model);
    assert_eq!(built.into_pairs(), pairs);
    assert_eq!(tree.into_pairs(), pairs);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_standard_map_and_snapshots_never_change(
        steps in proptest::collection::vec(step(), 1..400),
    ) {
        run(steps);
    }
}

#[test]
fn any_number_of_pairs_can_be_built_and_taken_apart() {
    let mut random = Random::from_seed(11);
    for count in (0..200).chain([1000, 1023, 1024, 1025, 1056, 32_768, 32_800]) {
        let mut builder = TreeBuilder::default();
        let mut model = Model::new();
        for key in 0..count {
            builder.push(name(key * 3), Heavy(u64::from(key)));
            model.insert(name(key * 3), Heavy(u64::from(key)));
        }
        let mut tree = builder.finish();
        check(&tree, &model);
        for _ in 0..50 {
            let key = random.below(u64::from(count) * 3 + 3) as u32;
            if random.chance(0.5) {
                insert(&mut tree, &mut model, key, random.next_u64());
            } else {
                remove(&mut tree, &mut model, key);
            }
            ask(&tree, &model, key);
        }
        check(&tree, &model);
    }
}

#[test]
fn stays_low_and_dense_whatever_is_deleted() {
    let mut random = Random::from_seed(3);
    let (mut tree, mut model) = (Tree::default(), Model::new());
    for round in 0..6 {
        for _ in 0..20_000 {
            insert(&mut tree, &mut model, random.below(1 << 30) as u32, 1);
        }
        let keys: Vec<u32> = model.keys().map(|key| key.number).collect();
        for key in keys {
            if random.below(20) != 0 {
                remove(&mut tree, &mut model, key);
            }
        }
        check(&tree, &model);
        let root = tree.root.as_ref().expect("some keys are left");
        let (_, height) = check_node(root, None, None);
        assert!(
            height <= 4,
            "height {height} in round {round} for {} keys",
            model.len()
        );
        check_neighbours(root);
    }
}

/// No two neighbours under one parent are both small.
fn check_neighbours(node: &Node<Name, Heavy>) {
    let Node::Inner(children) = node else { return };
    let is_small = |child: &Child<Name, Heavy>| child.node.length() < NODE_LENGTH_SMALL;
    assert!(
        !children
            .windows(2)
            .any(|pair| is_small(&pair[0]) && is_small(&pair[1]))
    );
    children
        .iter()
        .for_each(|child| check_neighbours(&child.node));
}

#[test]
fn appending_fills_the_nodes() {
    let (mut tree, mut model) = (Tree::default(), Model::new());
    for key in 0..32 * 32 * 4 {
        insert(&mut tree, &mut model, key, 1);
    }
    let leaves = count_leaves(tree.root.as_ref().expect("there are keys"));
    assert_eq!(leaves, 32 * 4);
}

fn count_leaves(node: &Node<Name, Heavy>) -> usize {
    match node {
        Node::Leaf(_) => 1,
        Node::Inner(children) => children.iter().map(|child| count_leaves(&child.node)).sum(),
    }
}

#[test]
fn nothing_is_copied_while_nobody_else_holds_the_tree() {
    let (mut tree, mut model) = (Tree::default(), Model::new());
    for key in 0..5000 {
        insert(&mut tree, &mut model, key, 1);
    }
    let address = |tree: &Names, key: u32| {
        let key = name(key);
        let (_, value) = tree
            .find(&key.text, |other| other.cmp(&key))
            .expect("the key is there");
        std::ptr::from_ref(value).addr()
    };
    let before = address(&tree, 2500);
    tree.insert(name(2500), Heavy(7));
    assert_eq!(address(&tree, 2500), before, "exchanged in place");
    let snapshot = tree.clone();
    tree.insert(name(2500), Heavy(8));
    assert_eq!(
        address(&snapshot, 2500),
        before,
        "the snapshot keeps its node"
    );
    assert_ne!(address(&tree, 2500), before);
    assert_eq!(
        address(&tree, 10),
        address(&snapshot, 10),
        "all other leaves stay shared"
    );
}
