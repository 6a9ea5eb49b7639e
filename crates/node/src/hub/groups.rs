//! Live watchers that get the very same bytes: those of one interest, in one form, under one id.
//!
//! ```text
//!   interest ──▶ nobody │ one watcher, alone │ several ──▶ groups, by form and id
//! ```
//!
//! Of a million watchers nearly all are alone with their keys. Such a one takes four bytes here:
//! which group it would be is known to the watcher itself.

use std::collections::BTreeMap;

use base::Instant;

use super::chunks::Chunks;
use super::index::InterestIndex;
use super::roster::{Roster, StreamIndex, WatcherIndex};

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

/// Who is live in an interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Live(u32);

impl Live {
    // No watchers have these numbers: they would not fit into memory.
    const NOBODY: Live = Live(u32::MAX);
    const SEVERAL: Live = Live(u32::MAX - 1);

    fn alone(watcher: WatcherIndex) -> Live {
        assert!(
            watcher.0 < Live::SEVERAL.0,
            "there are fewer watchers than numbers"
        );
        Live(watcher.0)
    }
}

/// All live watchers.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By interest.
    live: Chunks<Live>,
    /// The groups of the interests that have, or had, several.
    several: BTreeMap<GroupKey, Group>,
}

impl Groups {
    /// Adds a live watcher; its place in its group.
    pub(super) fn add(&mut self, key: GroupKey, watcher: LiveWatcher, roster: &Roster) -> u32 {
        while self.live.len() <= key.interest.0 as usize {
            self.live.push(Live::NOBODY);
        }
        match self.live[key.interest.0 as usize] {
            Live::NOBODY => {
                self.live[key.interest.0 as usize] = Live::alone(watcher.watcher);
                return 0;
            }
            Live::SEVERAL => {}
            Live(alone) => {
                let first = WatcherIndex(alone);
                let known = roster.watcher(first);
                let first = LiveWatcher {
                    stream: known.stream,
                    watcher: first,
                };
                // It keeps its place, which is the first.
                self.join(known.group, first);
                self.live[key.interest.0 as usize] = Live::SEVERAL;
            }
        }
        self.join(key, watcher)
    }

    fn join(&mut self, key: GroupKey, watcher: LiveWatcher) -> u32 {
        let live = &mut self.several.entry(key).or_default().live;
        if live.is_empty() {
            // Many groups stay small.
            live.reserve_exact(1);
        }
        live.push(watcher);
        (live.len() - 1) as u32
    }

    /// Removes the watcher at a place; who has come to its place, if anybody.
    pub(super) fn remove(&mut self, key: GroupKey, place: u32) -> Option<WatcherIndex> {
        if self.live[key.interest.0 as usize] != Live::SEVERAL {
            self.forget_alone(key.interest);
            return None;
        }
        let group = self.several.get_mut(&key);
        let group = group.expect("a live watcher has a group");
        group.live.swap_remove(place as usize);
        let moved = group.live.get(place as usize).map(|moved| moved.watcher);
        if group.live.is_empty() {
            self.forget(&[key]);
        }
        moved
    }

    /// The only live watcher of an interest, if there is one alone.
    pub(super) fn alone(&self, interest: InterestIndex) -> Option<WatcherIndex> {
        if interest.0 as usize >= self.live.len() {
            return None;
        }
        match self.live[interest.0 as usize] {
            Live::NOBODY | Live::SEVERAL => None,
            Live(watcher) => Some(WatcherIndex(watcher)),
        }
    }

    /// The one that was alone is live no more.
    pub(super) fn forget_alone(&mut self, interest: InterestIndex) {
        let before = std::mem::replace(&mut self.live[interest.0 as usize], Live::NOBODY);
        assert!(
            before != Live::NOBODY && before != Live::SEVERAL,
            "a live watcher is in a group, or alone"
        );
    }

    /// When a group last got an event. A watcher that is alone knows that itself.
    pub(super) fn last_event(&self, key: &GroupKey) -> Instant {
        let group = self.several.get(key);
        group.map_or(Instant::default(), |group| group.last_event)
    }

    /// The groups of an interest that has several, in order.
    pub(super) fn of(
        &mut self,
        interest: InterestIndex,
    ) -> impl Iterator<Item = (&GroupKey, &mut Group)> {
        self.several.range_mut(bounds(interest))
    }

    /// Forgets groups that have become empty.
    pub(super) fn forget(&mut self, keys: &[GroupKey]) {
        for key in keys {
            let group = self.several.remove(key);
            let group = group.expect("a group that became empty is there");
            assert!(group.live.is_empty(), "only empty groups are forgotten");
            let mut others = self.several.range(bounds(key.interest));
            if others.next().is_none() {
                self.live[key.interest.0 as usize] = Live::NOBODY;
            }
        }
    }

    /// Takes everybody out.
    pub(super) fn take_all(&mut self) -> Vec<WatcherIndex> {
        let Groups { live, several } = std::mem::take(self);
        let alone = live.iter().filter_map(|live| match *live {
            Live::NOBODY | Live::SEVERAL => None,
            Live(watcher) => Some(WatcherIndex(watcher)),
        });
        let in_groups = several.values().flat_map(|group| &group.live);
        alone.chain(in_groups.map(|live| live.watcher)).collect()
    }
}

/// All keys of groups of an interest.
fn bounds(interest: InterestIndex) -> std::ops::RangeInclusive<GroupKey> {
    let [off, on] = [false, true].map(|set| Form {
        previous: set,
        no_put: set,
        no_delete: set,
        fragment: set,
    });
    let key = |form, id| GroupKey { interest, form, id };
    key(off, i64::MIN)..=key(on, i64::MAX)
}
