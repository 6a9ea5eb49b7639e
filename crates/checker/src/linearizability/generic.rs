//! Linearizability of any sequential model: Wing and Gong's search with Lowe's memory.
//!
//! ```text
//! head ─▶ call 1 ─▶ call 2 ─▶ return 1 ─▶ call 3 ─▶ return 2 ─▶ return 3
//!
//! take the first call that the model accepts; lift it and its return out; begin again at the head.
//! On a return that is still in the list: the last choice was wrong, put it back, go on behind it.
//! ```
//!
//! A set of calls taken and the state they lead to is tried once only (Lowe). A call with unknown
//! result has no return: it may be taken at any time or never. Calls that share no key are judged
//! apart (P-compositionality): their orders do not depend on each other.

use std::collections::{BTreeMap, BTreeSet};

/// A sequential object.
pub trait Model {
    /// What it holds.
    type State: Clone + Ord;
    /// What it can be asked.
    type Operation;
    /// What it answers.
    type Result;

    /// The state at the beginning.
    fn init(&self) -> Self::State;

    /// The state after the operation, if it can have given this result in this state. A result that
    /// nobody knows is `None`: any will do.
    fn step(
        &self,
        state: &Self::State,
        operation: &Self::Operation,
        result: Option<&Self::Result>,
    ) -> Option<Self::State>;
}

/// One operation of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<O, R> {
    /// What was asked.
    pub operation: O,
    /// What was answered; `None`: unknown, it may take effect at any time from its beginning, or
    /// never.
    pub result: Option<R>,
    /// When it began. All times of a history differ.
    pub invoked: u64,
    /// When it was answered; means nothing for an unknown result.
    pub ended: u64,
}

/// What the search found. Calls are named by their place in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Such an order exists: this one.
    Linearizable(Vec<usize>),
    /// None exists.
    Impossible {
        /// The longest order that was found.
        order: Vec<usize>,
        /// The calls that were open then, none of which leads on.
        stuck: Vec<usize>,
    },
    /// The steps were used up.
    Undecided,
}

const HEAD: usize = 0;

/// The calls and returns in the order of time, as a list from which entries are lifted.
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Per entry: the call, and whether this is its return. Entry 0 is the head.
    entries: Vec<(usize, bool)>,
    /// Per call: its entry, and that of its return.
    places: Vec<(usize, Option<usize>)>,
}

impl List {
    fn new<O, R>(calls: &[Call<O, R>], part: &[usize]) -> List {
        let mut times: Vec<(u64, bool, usize)> = Vec::with_capacity(part.len() * 2);
        for (index, &call) in part.iter().enumerate() {
            times.push((calls[call].invoked, false, index));
            if calls[call].result.is_some() {
                times.push((calls[call].ended, true, index));
            }
        }
        // A return at the time of a call comes behind it: they overlap.
        times.sort_unstable();
        let count = times.len() + 1;
        let mut list = List {
            next: (1..=count).map(|next| next % count).collect(),
            previous: (0..count).map(|at| (at + count - 1) % count).collect(),
            entries: vec![(usize::MAX, false)],
            places: vec![(HEAD, None); part.len()],
        };
        for (place, &(_, is_return, index)) in times.iter().enumerate() {
            list.entries.push((index, is_return));
            if is_return {
                list.places[index].1 = Some(place + 1);
            } else {
                list.places[index].0 = place + 1;
            }
        }
        list
    }

    fn unlink(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn relink(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = entry;
        self.previous[next] = entry;
    }

    fn lift(&mut self, index: usize) {
        let (call, answer) = self.places[index];
        self.unlink(call);
        if let Some(answer) = answer {
            self.unlink(answer);
        }
    }

    /// Undoes the latest [`List::lift`] that is not undone yet.
    fn unlift(&mut self, index: usize) {
        let (call, answer) = self.places[index];
        if let Some(answer) = answer {
            self.relink(answer);
        }
        self.relink(call);
    }

    /// Calls that stand before the first return: any of them may be next.
    fn open(&self) -> Vec<usize> {
        let mut open = Vec::new();
        let mut entry = self.next[HEAD];
        while entry != HEAD && !self.entries[entry].1 {
            open.push(self.entries[entry].0);
            entry = self.next[entry];
        }
        open
    }
}

/// Judges a whole history as one part. `steps` bounds how often the model may be asked, and is what
/// is left of it afterwards.
pub fn judge<M: Model>(
    model: &M,
    calls: &[Call<M::Operation, M::Result>],
    steps: &mut u64,
) -> Outcome {
    let all: Vec<usize> = (0..calls.len()).collect();
    search(model, calls, &all, steps)
}

fn search<M: Model>(
    model: &M,
    calls: &[Call<M::Operation, M::Result>],
    part: &[usize],
    steps: &mut u64,
) -> Outcome {
    let is_answered = |index: usize| usize::from(calls[part[index]].result.is_some());
    let mut list = List::new(calls, part);
    let mut answered: usize = (0..part.len()).map(is_answered).sum();
    let mut taken = vec![0u64; part.len().div_ceil(64)];
    let mut seen: BTreeSet<(Vec<u64>, M::State)> = BTreeSet::new();
    let mut chosen: Vec<(usize, M::State)> = Vec::new();
    let mut longest: (Vec<usize>, Vec<usize>) = (Vec::new(), list.open());
    let mut state = model.init();
    let mut entry = list.next[HEAD];
    // While an answered call is in the list, its return ends the walk before the head comes again.
    while answered > 0 {
        let (index, is_return) = list.entries[entry];
        if is_return {
            if chosen.len() > longest.0.len() {
                let order = chosen.iter().map(|(index, _)| *index).collect();
                longest = (order, list.open());
            }
            let Some((last, before)) = chosen.pop() else {
                let named = |indices: &[usize]| indices.iter().map(|&at| part[at]).collect();
                return Outcome::Impossible {
                    order: named(&longest.0),
                    stuck: named(&longest.1),
                };
            };
            state = before;
            taken[last / 64] &= !(1 << (last % 64));
            list.unlift(last);
            answered += is_answered(last);
            entry = list.next[list.places[last].0];
            continue;
        }
        if *steps == 0 {
            return Outcome::Undecided;
        }
        *steps -= 1;
        let call = &calls[part[index]];
        taken[index / 64] |= 1 << (index % 64);
        let next = model
            .step(&state, &call.operation, call.result.as_ref())
            .filter(|next| seen.insert((taken.clone(), next.clone())));
        let Some(next) = next else {
            taken[index / 64] &= !(1 << (index % 64));
            entry = list.next[entry];
            continue;
        };
        chosen.push((index, std::mem::replace(&mut state, next)));
        list.lift(index);
        answered -= is_answered(index);
        entry = list.next[HEAD];
    }
    Outcome::Linearizable(chosen.iter().map(|(index, _)| part[*index]).collect())
}

/// Judges a history in parts: calls that share a key, directly or through others, are one part.
/// `keys` names the keys of an operation; one without keys is a part of its own.
///
/// The first part that is not linearizable is reported; an undecided one only if none is. The order
/// of a linearizable history is one part after the other.
pub fn judge_parts<M: Model, K: Ord>(
    model: &M,
    calls: &[Call<M::Operation, M::Result>],
    keys: impl Fn(&M::Operation) -> Vec<K>,
    steps: &mut u64,
) -> Outcome {
    let mut order = Vec::with_capacity(calls.len());
    let mut undecided = false;
    for part in parts(calls, keys) {
        match search(model, calls, &part, steps) {
            Outcome::Linearizable(part) => order.extend(part),
            Outcome::Undecided => undecided = true,
            impossible @ Outcome::Impossible { .. } => return impossible,
        }
    }
    if undecided {
        Outcome::Undecided
    } else {
        Outcome::Linearizable(order)
    }
}

fn root(parents: &mut [usize], mut at: usize) -> usize {
    while parents[at] != at {
        parents[at] = parents[parents[at]];
        at = parents[at];
    }
    at
}

/// Union of calls by shared keys.
fn parts<O, R, K: Ord>(calls: &[Call<O, R>], keys: impl Fn(&O) -> Vec<K>) -> Vec<Vec<usize>> {
    let mut parents: Vec<usize> = (0..calls.len()).collect();
    let mut owners: BTreeMap<K, usize> = BTreeMap::new();
    for (index, call) in calls.iter().enumerate() {
        for key in keys(&call.operation) {
            let owner = *owners.entry(key).or_insert(index);
            let (one, other) = (root(&mut parents, owner), root(&mut parents, index));
            parents[other.max(one)] = one.min(other);
        }
    }
    let mut parts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for index in 0..calls.len() {
        let part = root(&mut parents, index);
        parts.entry(part).or_default().push(index);
    }
    parts.into_values().collect()
}
