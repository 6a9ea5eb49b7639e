//! Ranges of keys, and which of them hold a key: an interval tree.
//!
//! A treap ordered by the ranges' first keys, in which every node knows how far the ranges below it
//! reach. Looking for the ranges that hold a key passes by every subtree that begins after the key
//! or ends before it, so the cost follows the ranges found and the depth of the tree, which random
//! priorities keep logarithmic whatever clients choose.

use base::Random;
use bytes::Bytes;
use state::KeyRange;

use super::chunks::Chunks;
use super::index::InterestIndex;

/// Names a node of the tree, as long as its range is there.
pub(super) type Place = u32;

/// No node.
const NONE: Place = Place::MAX;

#[derive(Debug)]
struct Node {
    start: Box<[u8]>,
    /// The first key behind the range; `None` if it has no end.
    end: Option<Box<[u8]>>,
    interest: InterestIndex,
    priority: u64,
    left: Place,
    right: Place,
    /// Whose range reaches farthest, of this node and those below it.
    farthest: Place,
}

/// Ranges, each with what it stands for.
#[derive(Debug)]
pub(super) struct Intervals {
    nodes: Chunks<Node>,
    unused: Vec<Place>,
    root: Place,
    random: Random,
}

/// Whether one end lies behind another.
fn reaches_farther(one: Option<&[u8]>, other: Option<&[u8]>) -> bool {
    match (one, other) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(one), Some(other)) => one > other,
    }
}

/// Where a range stands in the order: by its start, then by its end, no end last.
type Order<'a> = (&'a [u8], bool, Option<&'a [u8]>);

fn order<'a>(start: &'a [u8], end: Option<&'a [u8]>) -> Order<'a> {
    (start, end.is_none(), end)
}

impl Node {
    fn order(&self) -> Order<'_> {
        order(&self.start, self.end.as_deref())
    }
}

impl Intervals {
    pub(super) fn new(random: Random) -> Intervals {
        Intervals {
            nodes: Chunks::default(),
            unused: Vec::new(),
            root: NONE,
            random,
        }
    }

    /// What exactly this range stands for.
    pub(super) fn find(&self, start: &[u8], end: Option<&[u8]>) -> Option<InterestIndex> {
        let mut place = self.root;
        while let Some(node) = self.nodes.get(place as usize) {
            place = match order(start, end).cmp(&node.order()) {
                std::cmp::Ordering::Less => node.left,
                std::cmp::Ordering::Equal => return Some(node.interest),
                std::cmp::Ordering::Greater => node.right,
            };
        }
        None
    }

    /// The range of a node.
    pub(super) fn range(&self, place: Place) -> KeyRange {
        let node = &self.nodes[place as usize];
        let start = Bytes::copy_from_slice(&node.start);
        match &node.end {
            Some(end) => KeyRange::Span {
                start,
                end: Bytes::copy_from_slice(end),
            },
            None => KeyRange::From { start },
        }
    }

    /// Whether the range of a node holds a key.
    pub(super) fn holds(&self, place: Place, key: &[u8]) -> bool {
        let node = &self.nodes[place as usize];
        *node.start <= *key && node.end.as_ref().is_none_or(|end| *key < **end)
    }

    /// Adds a range that is not there.
    pub(super) fn insert(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        interest: InterestIndex,
    ) -> Place {
        let (left, right) = self.split(self.root, start, end);
        let priority = self.random.next_u64();
        let node = Node {
            start: start.into(),
            end: end.map(Box::from),
            interest,
            priority,
            left: NONE,
            right: NONE,
            farthest: NONE,
        };
        let place = match self.unused.pop() {
            Some(place) => {
                self.nodes[place as usize] = node;
                place
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as Place
            }
        };
        self.update(place);
        let left = self.merge(left, place);
        self.root = self.merge(left, right);
        place
    }

    /// Removes a range that is there.
    pub(super) fn remove(&mut self, place: Place) {
        let node = &self.nodes[place as usize];
        let (start, end) = (node.start.clone(), node.end.clone());
        let (left, rest) = self.split(self.root, &start, end.as_deref());
        let (found, right) = self.take_first(rest);
        assert!(found == place, "only ranges that are there are removed");
        // Nothing of it is kept until the place is used again.
        let node = &mut self.nodes[place as usize];
        (node.start, node.end) = (Box::default(), None);
        self.unused.push(found);
        self.root = self.merge(left, right);
    }

    /// Visits what stands for a range that holds the key.
    pub(super) fn holding(&self, key: &[u8], visit: &mut impl FnMut(InterestIndex)) {
        self.holding_below(self.root, key, visit);
    }

    fn holding_below(&self, place: Place, key: &[u8], visit: &mut impl FnMut(InterestIndex)) {
        let Some(node) = self.nodes.get(place as usize) else {
            return;
        };
        let ends_before =
            |end: &Option<Box<[u8]>>| end.as_ref().is_some_and(|end| end.as_ref() <= key);
        if ends_before(&self.nodes[node.farthest as usize].end) {
            return;
        }
        self.holding_below(node.left, key, visit);
        if node.start.as_ref() <= key {
            if !ends_before(&node.end) {
                visit(node.interest);
            }
            self.holding_below(node.right, key, visit);
        }
    }

    /// Those before the range, and the others.
    fn split(&mut self, place: Place, start: &[u8], end: Option<&[u8]>) -> (Place, Place) {
        if place == NONE {
            return (NONE, NONE);
        }
        let node = &self.nodes[place as usize];
        if node.order() < order(start, end) {
            let (left, right) = self.split(node.right, start, end);
            self.nodes[place as usize].right = left;
            self.update(place);
            (place, right)
        } else {
            let (left, right) = self.split(node.left, start, end);
            self.nodes[place as usize].left = right;
            self.update(place);
            (left, place)
        }
    }

    /// One tree of two, of which the first stands wholly before the second.
    fn merge(&mut self, left: Place, right: Place) -> Place {
        if left == NONE {
            return right;
        }
        if right == NONE {
            return left;
        }
        if self.nodes[left as usize].priority >= self.nodes[right as usize].priority {
            let below = self.nodes[left as usize].right;
            self.nodes[left as usize].right = self.merge(below, right);
            self.update(left);
            left
        } else {
            let below = self.nodes[right as usize].left;
            self.nodes[right as usize].left = self.merge(left, below);
            self.update(right);
            right
        }
    }

    /// Takes the first node off a tree that has one; the node, and the rest.
    fn take_first(&mut self, place: Place) -> (Place, Place) {
        let (left, right) = {
            let node = &self.nodes[place as usize];
            (node.left, node.right)
        };
        if left == NONE {
            return (place, right);
        }
        let (first, rest) = self.take_first(left);
        self.nodes[place as usize].left = rest;
        self.update(place);
        (first, place)
    }

    fn update(&mut self, place: Place) {
        let node = &self.nodes[place as usize];
        let mut farthest = place;
        for below in [node.left, node.right] {
            if let Some(below) = self.nodes.get(below as usize) {
                let reach = &self.nodes[below.farthest as usize].end;
                let so_far = &self.nodes[farthest as usize].end;
                if reaches_farther(reach.as_deref(), so_far.as_deref()) {
                    farthest = below.farthest;
                }
            }
        }
        self.nodes[place as usize].farthest = farthest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random ranges come and go; after each change, what holds a key is compared with looking
    /// at all of them.
    #[test]
    fn finds_what_looking_at_all_finds() {
        let mut random = Random::from_seed(3);
        let mut tree = Intervals::new(random.fork());
        type Known = (Bytes, Option<Bytes>, InterestIndex, Place);
        let mut all: Vec<Known> = Vec::new();
        let key = |random: &mut Random| {
            let length = random.below(4) as usize;
            let key: Vec<u8> = (0..length).map(|_| random.below(4) as u8).collect();
            Bytes::from(key)
        };
        for step in 0..5_000 {
            if all.len() < 40 && random.chance(0.55) {
                let start = key(&mut random);
                let end = random.chance(0.9).then(|| key(&mut random));
                let known = all.iter().find(|each| (&each.0, &each.1) == (&start, &end));
                let found = tree.find(&start, end.as_deref());
                assert_eq!(found, known.map(|each| each.2));
                if known.is_none() {
                    let place = tree.insert(&start, end.as_deref(), InterestIndex(step));
                    all.push((start, end, InterestIndex(step), place));
                }
            } else if !all.is_empty() {
                let index = random.below(all.len() as u64) as usize;
                let (start, end, _, place) = all.swap_remove(index);
                let range = match end.clone() {
                    Some(end) => KeyRange::Span {
                        start: start.clone(),
                        end,
                    },
                    None => KeyRange::From {
                        start: start.clone(),
                    },
                };
                assert_eq!(tree.range(place), range);
                tree.remove(place);
                assert_eq!(tree.find(&start, end.as_deref()), None);
            }
            let key = key(&mut random);
            let mut found = Vec::new();
            tree.holding(&key, &mut |interest| found.push(interest));
            let holds = |each: &&Known| {
                let holds = each.0 <= key && each.1.as_ref().is_none_or(|end| key < *end);
                assert_eq!(tree.holds(each.3, &key), holds);
                holds
            };
            let mut expected: Vec<_> = all.iter().filter(holds).map(|each| each.2).collect();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "at step {step}");
        }
    }

    /// Ranges that are added in order must not make a list of the tree.
    #[test]
    fn sorted_ranges_make_a_shallow_tree() {
        fn depth(tree: &Intervals, place: Place) -> usize {
            let node = tree.nodes.get(place as usize);
            node.map_or(0, |node| {
                1 + depth(tree, node.left).max(depth(tree, node.right))
            })
        }
        let mut tree = Intervals::new(Random::from_seed(1));
        for number in 0..50_000u32 {
            let (start, end) = (number.to_be_bytes(), (number + 1).to_be_bytes());
            tree.insert(&start, Some(&end), InterestIndex(number));
        }
        assert!(depth(&tree, tree.root) < 64);
    }
}
