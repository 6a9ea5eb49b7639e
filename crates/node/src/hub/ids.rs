//! The watches of a stream by their ids.
//!
//! Two vectors in the order of the ids: nearly always these come in order, one behind the other,
//! and a tree is half empty then. A client that chooses its ids in another order moves a few
//! hundred kilobytes at worst, for a hundred thousand watches.

use super::roster::WatcherIndex;

/// Watchers by their ids.
#[derive(Debug, Default)]
pub(super) struct Ids {
    ids: Vec<i64>,
    /// In the same order.
    watchers: Vec<WatcherIndex>,
}

impl Ids {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn get(&self, id: i64) -> Option<WatcherIndex> {
        let place = self.place(id).ok()?;
        Some(self.watchers[place])
    }

    pub(super) fn contains(&self, id: i64) -> bool {
        self.place(id).is_ok()
    }

    /// Adds a watcher whose id is free.
    pub(super) fn insert(&mut self, id: i64, watcher: WatcherIndex) {
        let place = self
            .place(id)
            .expect_err("a stream's watches have ids of their own");
        self.ids.insert(place, id);
        self.watchers.insert(place, watcher);
    }

    /// Removes a watcher that is there.
    pub(super) fn remove(&mut self, id: i64) {
        let place = self.place(id).expect("a stream's watcher is removed once");
        self.ids.remove(place);
        self.watchers.remove(place);
    }

    /// All watchers, in the order of their ids.
    pub(super) fn watchers(&self) -> &[WatcherIndex] {
        &self.watchers
    }

    fn place(&self, id: i64) -> Result<usize, usize> {
        match self.ids.last() {
            Some(last) if *last >= id => self.ids.binary_search(&id),
            _ => Err(self.ids.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base::Random;

    use super::*;

    #[test]
    fn finds_what_a_map_finds() {
        let mut random = Random::from_seed(1);
        let (mut ids, mut model) = (Ids::default(), BTreeMap::new());
        for step in 0..2_000 {
            let id = random.below(200) as i64 - 100;
            assert_eq!(ids.get(id), model.get(&id).copied());
            assert_eq!(ids.contains(id), model.contains_key(&id));
            match model.remove(&id) {
                Some(_) => ids.remove(id),
                None => {
                    ids.insert(id, WatcherIndex(step));
                    model.insert(id, WatcherIndex(step));
                }
            }
            let expected: Vec<WatcherIndex> = model.values().copied().collect();
            assert_eq!(ids.watchers(), expected);
            assert_eq!((ids.len(), ids.is_empty()), (model.len(), model.is_empty()));
        }
    }
}
