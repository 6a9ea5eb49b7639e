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

use std::collections::HashMap;
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

impl Watched {
    /// All the folders that a key lies in.
    fn folders_of(key: &Bytes) -> impl Iterator<Item = Watched> {
        let slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.map(|(slash, _)| Watched::Folder(key.slice(..=slash)))
    }
}

/// Who waits, by number, so that a waiter that gives up takes nobody else with it.
type Waiters = HashMap<u64, oneshot::Sender<()>>;

#[derive(Default)]
struct Inner {
    last: u64,
    count: usize,
    waiters: HashMap<(GroupId, Watched), Waiters>,
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
        inner.count += 1;
        inner.last += 1;
        let number = inner.last;
        let watched = (self.group, watched);
        let waiters = inner.waiters.entry(watched.clone()).or_default();
        waiters.insert(number, wake);
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
    fn wake(&mut self, group: GroupId, event: &Event) {
        let key = &event.key_value.key;
        let itself = std::iter::once(Watched::Key(key.clone()));
        for watched in itself.chain(Watched::folders_of(key)) {
            if let Some(waiters) = self.waiters.remove(&(group, watched)) {
                self.count -= waiters.len();
                wake_each(waiters);
            }
        }
    }

    fn wake_all(&mut self, group: GroupId) {
        let all = self.waiters.extract_if(|(of, _), _| *of == group);
        for (_, waiters) in all {
            self.count -= waiters.len();
            wake_each(waiters);
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
        let mut inner = self.changes.lock();
        let Some(waiters) = inner.waiters.get_mut(&self.watched) else {
            return;
        };
        if waiters.remove(&self.number).is_some() {
            let nobody = waiters.is_empty();
            inner.count -= 1;
            if nobody {
                inner.waiters.remove(&self.watched);
            }
        }
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
        assert_eq!(changes.lock().count, 0);
        assert!(changes.lock().waiters.is_empty());
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
        assert!(changes.lock().waiters.is_empty());
        assert!(changes.register(watched).is_ok());
    }
}
