//! Live watchers that get the very same bytes: those of one interest, in one form, under one id.

use std::collections::BTreeMap;

use base::Instant;

use super::index::InterestIndex;
use super::roster::{StreamIndex, WatcherIndex};

/// In which form a watcher wants its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Form {
    pub(super) previous: bool,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) fragment: bool,
}

/// What a group's watchers have in common. Forms of one interest stand together, and the ids of
/// one form: their messages differ in the heads alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupKey {
    pub(super) interest: InterestIndex,
    pub(super) form: Form,
    /// The id of the watch on its stream.
    pub(super) id: i64,
}

/// A live watcher: all that delivering needs to know of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LiveWatcher {
    pub(super) stream: StreamIndex,
    pub(super) watcher: WatcherIndex,
}

/// A group's live watchers.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) live: Vec<LiveWatcher>,
    /// When they last got an event.
    pub(super) last_event: Instant,
}

/// All groups that have live watchers.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<GroupKey, Group>);

impl Groups {
    /// Adds a live watcher; its place in the group.
    pub(super) fn add(&mut self, key: GroupKey, watcher: LiveWatcher) -> u32 {
        let live = &mut self.0.entry(key).or_default().live;
        if live.is_empty() {
            // Many groups stay alone.
            live.reserve_exact(1);
        }
        live.push(watcher);
        (live.len() - 1) as u32
    }

    /// Removes the watcher at a place; who has come to its place, if anybody.
    pub(super) fn remove(&mut self, key: GroupKey, place: u32) -> Option<WatcherIndex> {
        let group = self.0.get_mut(&key).expect("a live watcher has a group");
        group.live.swap_remove(place as usize);
        let moved = group.live.get(place as usize).map(|moved| moved.watcher);
        if group.live.is_empty() {
            self.0.remove(&key);
        }
        moved
    }

    /// When a group last got an event.
    pub(super) fn last_event(&self, key: &GroupKey) -> Instant {
        self.0
            .get(key)
            .map_or(Instant::default(), |group| group.last_event)
    }

    /// The groups of an interest, in order.
    pub(super) fn of(
        &mut self,
        interest: InterestIndex,
    ) -> impl Iterator<Item = (&GroupKey, &mut Group)> {
        let [off, on] = [false, true].map(|set| Form {
            previous: set,
            no_put: set,
            no_delete: set,
            fragment: set,
        });
        let key = |form, id| GroupKey { interest, form, id };
        self.0.range_mut(key(off, i64::MIN)..=key(on, i64::MAX))
    }

    /// Forgets groups that have become empty.
    pub(super) fn forget(&mut self, keys: &[GroupKey]) {
        for key in keys {
            let group = self
                .0
                .remove(key)
                .expect("a group that became empty is there");
            assert!(group.live.is_empty(), "only empty groups are forgotten");
        }
    }

    /// Takes everybody out.
    pub(super) fn take_all(&mut self) -> Vec<LiveWatcher> {
        let groups = std::mem::take(&mut self.0);
        groups.into_values().flat_map(|group| group.live).collect()
    }
}
