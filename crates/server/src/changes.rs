//! Wakes those who wait for one key, or for any key of one folder, to change.
//!
//! ```text
//!   register ──▶ read ──▶ wait ──(an event of a later publication)──▶ read again …
//! ```
//!
//! Locks and elections wait for single keys, often thousands of them at once; each event costs
//! them a few lookups, and nothing while nobody waits. Who registers before it reads misses
//! nothing: a change that the read did not see is published after the read was answered. A waiter
//! may be woken for nothing, and therefore always reads again.
//!
//! Clients choose the keys, and the folders. So a key is not looked up in all the folders it lies
//! in, of which it may have a million, but in those lengths of which somebody waits for one; and
//! these are few, as long folders count by their first [`FOLDER_BYTES`] bytes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::GroupId;
use bytes::Bytes;
use node::group::META;
use node::hub::Publication;
use state::{Event, Space};
use tokio::sync::oneshot;

/// What somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Watched {
    /// This key is written or deleted.
    Key(Bytes),
    /// A key is written or deleted that begins with this, which ends in `/`.
    Folder(Bytes),
}

/// Folders that are longer are told apart by so many bytes alone: whoever waits for one of them is
/// woken for the others too. What looking up a hostile key costs grows with the square of this.
const FOLDER_BYTES: usize = 256;

impl Watched {
    /// What is looked up for it.
    fn shortened(self) -> Watched {
        match self {
            Watched::Folder(folder) if folder.len() > FOLDER_BYTES => {
                Watched::Folder(folder.slice(..FOLDER_BYTES))
            }
            short => short,
        }
    }
}

/// How many folders of each length are waited for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lengths(BTreeMap<usize, usize>);

impl Lengths {
    fn add(&mut self, watched: &Watched) {
        if let Watched::Folder(folder) = watched {
            *self.0.entry(folder.len()).or_default() += 1;
        }
    }

    fn remove(&mut self, watched: &Watched) {
        if let Watched::Folder(folder) = watched
            && let Some(count) = self.0.get_mut(&folder.len())
        {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&folder.len());
            }
        }
    }

    /// The folders that a key lies in, as far as somebody waits for one that is as long.
    fn folders_of(&self, key: &Bytes) -> Vec<Watched> {
        let ends = self.0.range(..=key.len()).map(|(length, _)| *length);
        let ends = ends.filter(|end| *end == FOLDER_BYTES || key[..*end].ends_with(b"/"));
        ends.map(|end| Watched::Folder(key.slice(..end))).collect()
    }
}

/// Who waits, by number, so that a waiter that gives up takes nobody else with it.
type Waiters = HashMap<u64, oneshot::Sender<()>>;

#[derive(Default)]
struct Inner {
    last: u64,
    count: usize,
    waiters: HashMap<(GroupId, Watched), Waiters>,
    /// Of the folders among them.
    lengths: Lengths,
}

/// Everybody who waits on this node; a clone shares them.
#[derive(Clone)]
pub(crate) struct Changes {
    /// Of which group the keys are that are waited for.
    group: GroupId,
    inner: Arc<Mutex<Inner>>,
    most: usize,
}

/// As many wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyWaiters;

impl Changes {
    /// At most `most` wait at a time.
    pub(crate) fn new(most: usize) -> Changes {
        Changes {
            group: META,
            inner: Arc::default(),
            most,
        }
    }

    /// The same for keys of another group.
    pub(crate) fn of(&self, group: GroupId) -> Changes {
        let mut changes = self.clone();
        changes.group = group;
        changes
    }

    /// Begins to wait: whatever is published from now on counts.
    pub(crate) fn register(&self, watched: Watched) -> Result<Waiter, TooManyWaiters> {
        let (wake, woken) = oneshot::channel();
        let mut inner = self.lock();
        if inner.count >= self.most {
            return Err(TooManyWaiters);
        }
        let watched = (self.group, watched.shortened());
        let number = inner.add(&watched, wake);
        drop(inner);
        Ok(Waiter {
            changes: self.clone(),
            watched,
            number,
            woken,
        })
    }

    /// Wakes whom a publication of a group concerns. Called on the node's thread.
    pub(crate) fn published(&self, group: GroupId, publication: &Publication) {
        let mut inner = self.lock();
        if inner.count == 0 {
            return;
        }
        if publication.reset {
            inner.wake_all(group);
            return;
        }
        let events = publication.batches.iter().flat_map(|batch| &batch.events);
        for event in events.filter(|event| event.space == Space::ETCD) {
            inner.wake(group, event);
        }
    }

    /// A group is no longer on this node: whoever waits asks again, and hears so.
    pub(crate) fn gone(&self, group: GroupId) {
        self.lock().wake_all(group);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here is left half done by a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Adds a waiter, and gives its number.
    fn add(&mut self, watched: &(GroupId, Watched), wake: oneshot::Sender<()>) -> u64 {
        self.count += 1;
        self.last += 1;
        let waiters = match self.waiters.entry(watched.clone()) {
            Entry::Occupied(others) => others.into_mut(),
            Entry::Vacant(place) => {
                self.lengths.add(&watched.1);
                place.insert(Waiters::new())
            }
        };
        waiters.insert(self.last, wake);
        self.last
    }

    fn wake(&mut self, group: GroupId, event: &Event) {
        let key = &event.key_value.key;
        let itself = std::iter::once(Watched::Key(key.clone()));
        for watched in itself.chain(self.lengths.folders_of(key)) {
            let watched = (group, watched);
            if let Some(waiters) = self.waiters.remove(&watched) {
                self.lengths.remove(&watched.1);
                self.count -= waiters.len();
                wake_each(waiters);
            }
        }
    }

    fn wake_all(&mut self, group: GroupId) {
        let all = self.waiters.extract_if(|(of, _), _| *of == group);
        for ((_, watched), waiters) in all {
            self.lengths.remove(&watched);
            self.count -= waiters.len();
            wake_each(waiters);
        }
    }

    /// A waiter gives up, unless it has been woken.
    fn remove(&mut self, watched: &(GroupId, Watched), number: u64) {
        let Some(waiters) = self.waiters.get_mut(watched) else {
            return;
        };
        if waiters.remove(&number).is_some() {
            self.count -= 1;
            if waiters.is_empty() {
                self.waiters.remove(watched);
                self.lengths.remove(&watched.1);
            }
        }
    }
}

fn wake_each(waiters: Waiters) {
    for wake in waiters.into_values() {
        // Who has given up in this moment needs no waking.
        let _ = wake.send(());
    }
}

/// A place among those who wait; given up by dropping it.
pub(crate) struct Waiter {
    changes: Changes,
    watched: (GroupId, Watched),
    number: u64,
    woken: oneshot::Receiver<()>,
}

impl Waiter {
    /// Returns once there may have been a change since [`Changes::register`].
    pub(crate) async fn changed(mut self) {
        // The sender lives until it wakes.
        let _ = (&mut self.woken).await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.changes.lock().remove(&self.watched, self.number);
    }
}

#[cfg(test)]
mod tests {
    use base::{ClusterId, Epoch, NodeId};
    use node::hub::Member;
    use state::{EventBatch, EventKind, KeyValue, Revision};

    use super::*;

    fn publication(keys: &[&'static str], reset: bool) -> Publication {
        let events = keys.iter().map(|key| Event {
            space: Space::ETCD,
            kind: EventKind::Delete,
            key_value: KeyValue {
                key: Bytes::from_static(key.as_bytes()),
                ..KeyValue::default()
            },
            previous: None,
        });
        let batch = EventBatch {
            revision: Revision(2),
            events: events.collect(),
        };
        Publication {
            member: Member {
                cluster: ClusterId(1),
                node: NodeId(1),
            },
            batches: Arc::new([batch]),
            revision: Revision(2),
            compacted: Revision(0),
            term: Epoch(1),
            has_leader: true,
            reset,
            access: None,
        }
    }

    fn woken(waiter: &mut Waiter) -> bool {
        waiter.woken.try_recv().is_ok()
    }

    fn is_empty(changes: &Changes) -> bool {
        let inner = changes.lock();
        inner.count == 0 && inner.waiters.is_empty() && inner.lengths == Lengths::default()
    }

    #[test]
    fn a_change_wakes_those_it_concerns_and_no_one_else() {
        let changes = Changes::new(10);
        let key = |key: &'static str| Watched::Key(Bytes::from_static(key.as_bytes()));
        let folder = Watched::Folder(Bytes::from_static(b"a/"));
        let mut first = changes.register(key("a/1")).unwrap();
        let mut second = changes.register(key("a/1")).unwrap();
        let mut other = changes.register(key("a/2")).unwrap();
        let mut any = changes.register(folder.clone()).unwrap();
        let mut deeper = changes.register(folder).unwrap();
        drop(second);
        second = changes.register(key("a/1")).unwrap();
        changes.published(META, &publication(&["b/1", "a/1"], false));
        assert!(woken(&mut first) && woken(&mut second) && woken(&mut any));
        assert!(woken(&mut deeper) && !woken(&mut other));
        let mut elsewhere = changes.of(GroupId(3)).register(key("c/d/e")).unwrap();
        let mut above = changes
            .register(Watched::Folder(Bytes::from_static(b"c/")))
            .unwrap();
        changes.published(META, &publication(&["c/d/e"], false));
        assert!(woken(&mut above), "a key deep within a folder lies in it");
        changes.published(META, &publication(&[], true));
        assert!(
            !woken(&mut elsewhere),
            "a key of another group has its name"
        );
        changes.published(GroupId(3), &publication(&["c/d/e"], false));
        assert!(woken(&mut elsewhere));
        let mut elsewhere = changes.of(GroupId(3)).register(key("c/d/e")).unwrap();
        changes.gone(GroupId(3));
        assert!(woken(&mut elsewhere), "what is gone is not waited for");
        assert!(woken(&mut other), "what a snapshot jumped over is unknown");
        assert!(is_empty(&changes));
    }

    /// Each event was looked up in every folder that its key lies in: for a key of 1.5 MB of
    /// slashes that is 1.1 TB to be hashed, on the node's thread, as soon as anybody waited.
    #[test]
    fn a_key_is_looked_up_in_no_more_folders_than_are_waited_for() {
        let changes = Changes::new(1000);
        let slashes: &'static str = "/".repeat(1_500_000).leak();
        let key = Bytes::from_static(slashes.as_bytes());
        let folder = |length| changes.register(Watched::Folder(key.slice(..length)));
        let other = Watched::Folder(Bytes::from_static(b"a/"));
        let mut other = changes.register(other).unwrap();
        let mut single = changes
            .register(Watched::Key(Bytes::from_static(b"a")))
            .unwrap();
        assert_eq!(changes.lock().lengths.folders_of(&key).len(), 1);
        let mut all: Vec<Waiter> = (1..=900).map(|length| folder(length).unwrap()).collect();
        assert_eq!(
            changes.lock().lengths.folders_of(&key).len(),
            FOLDER_BYTES,
            "however many different ones there are"
        );
        changes.published(META, &publication(&[slashes], false));
        assert!(all.iter_mut().all(woken));
        assert!(!woken(&mut other) && !woken(&mut single));
        assert_eq!(changes.lock().lengths.0, BTreeMap::from([(2, 1)]));
        drop((other, single));
        assert!(is_empty(&changes));
    }

    #[test]
    fn folders_that_are_long_are_told_apart_by_how_they_begin() {
        let changes = Changes::new(10);
        let long = "a".repeat(FOLDER_BYTES);
        let folder = |name: String| changes.register(Watched::Folder(name.into())).unwrap();
        let mut first = folder(format!("{long}1/"));
        let mut second = folder(format!("{long}2/"));
        let mut short = folder(format!("{}/", &long[1..]));
        let key: &'static str = format!("{long}1/k").leak();
        changes.published(META, &publication(&[&key[..FOLDER_BYTES - 1], key], false));
        assert!(woken(&mut first));
        assert!(woken(&mut second), "for nothing, which does no harm");
        assert!(!woken(&mut short), "one as long as that is told apart");
        changes.published(META, &publication(&["a", key], false));
        let key: &'static str = format!("{}/k", &long[1..]).leak();
        changes.published(META, &publication(&[key], false));
        assert!(woken(&mut short));
        assert!(is_empty(&changes));
    }

    #[test]
    fn who_gives_up_makes_room_for_another() {
        let changes = Changes::new(1);
        let watched = Watched::Key(Bytes::from_static(b"k"));
        let waiter = changes.register(watched.clone()).unwrap();
        assert_eq!(
            changes.register(watched.clone()).err(),
            Some(TooManyWaiters)
        );
        drop(waiter);
        assert!(is_empty(&changes));
        let folder = Watched::Folder(Bytes::from_static(b"k/"));
        drop(changes.register(folder).unwrap());
        assert!(is_empty(&changes));
        assert!(changes.register(watched).is_ok());
    }
}
