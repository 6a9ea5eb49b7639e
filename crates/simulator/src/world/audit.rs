//! The auditor: a watch over all keys that never misses anything, for the checker alone.
//!
//! ```text
//!  Node ──publishes revision 7──▶ auditor ──first to know──▶ history: "watch: 7 put a = 1"
//! ```
//!
//! An operation whose result nobody knows may have made any revision that nobody acknowledged. With
//! hundreds of such operations the checker would have to try their orders one by one. What nodes
//! publish to their hubs says what each revision did, and by when: that leaves one explanation of
//! nearly every revision, and it is one more thing that must fit the answers that clients got.

use base::GroupId;
use checker::history::{
    ClientId, EventKind, Key, KeyValue, LeaseId, Revision, Value, WatchCreate, WatchEvent, WatchId,
    WatchMessage,
};
use node::hub::Publication;
use state::{Event, EventBatch, Space};

use super::World;

/// The auditor among the clients, and its watch among the watches.
const AUDITOR: u64 = 2_000;
/// The revision that an empty keyspace stands at.
const EMPTY: i64 = 1;

/// How far the auditor of a keyspace has come.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// The last revision that is recorded; 0 before the watch is created.
    last: i64,
}

impl World {
    /// A node has told its hubs what it has executed.
    pub(crate) fn audit(
        &mut self,
        host: usize,
        (space, group): (usize, GroupId),
        publication: &Publication,
    ) {
        let audit = &mut self.spaces[space].audit;
        if publication.revision.0 <= audit.last {
            return;
        }
        if audit.last == 0 {
            audit.last = EMPTY;
            self.record(space, EventKind::WatchCreate(whole_keyspace()));
        }
        let last = self.spaces[space].audit.last;
        let first = publication.batches.first().map(|batch| batch.revision.0);
        if first.is_some_and(|first| first <= last + 1) {
            publication
                .batches
                .iter()
                .for_each(|batch| self.audit_one(space, group, batch));
            return;
        }
        // Whoever executed what lies between died before it could tell. History has it.
        let node = self.hosts[host].node.as_ref();
        let running = node.and_then(node::Node::running);
        let Some(held) = running.and_then(|running| running.group(group)) else {
            return;
        };
        let reader = held.replica().reader();
        let floor = reader.compacted().0 - 1;
        let from = last.max(floor);
        let missed: Vec<EventBatch> = reader.changes(state::Revision(from)).collect();
        if from > last {
            let watch = WatchId(AUDITOR);
            self.record(space, EventKind::WatchLost { watch });
            let start_revision = revision(from + 1);
            let resumed = EventKind::WatchResume {
                watch,
                start_revision,
            };
            self.record(space, resumed);
            self.spaces[space].audit.last = from;
        }
        missed
            .iter()
            .for_each(|batch| self.audit_one(space, group, batch));
    }

    fn audit_one(&mut self, space: usize, group: GroupId, batch: &EventBatch) {
        let audit = &mut self.spaces[space].audit;
        if batch.revision.0 <= audit.last {
            return;
        }
        audit.last = batch.revision.0;
        let revisions = &mut self.invariants.of_mut(group).revisions;
        let executed = revisions.executed(&batch.events);
        if let Err(violation) = executed {
            self.fail(violation);
        }
        // Nearly always one: room for no more is kept, for as long as the run goes on.
        let mut events: Vec<WatchEvent> = Vec::with_capacity(batch.events.len());
        let of_clients = batch.events.iter();
        let of_clients = of_clients.filter(|event| event.space == Space::ETCD);
        events.extend(of_clients.map(watch_event));
        let told = EventKind::WatchMessage(WatchMessage {
            watch: WatchId(AUDITOR),
            revision: revision(batch.revision.0),
            fragment: false,
            events,
        });
        self.record(space, told);
    }

    fn record(&mut self, space: usize, event: EventKind) {
        let at = checker::history::Time(self.now.0);
        let events = &mut self.spaces[space].clients.recording.events;
        events.push(checker::history::Event { at, event });
    }
}

fn whole_keyspace() -> WatchCreate {
    WatchCreate {
        watch: WatchId(AUDITOR),
        client: ClientId(AUDITOR),
        key: Key::from(vec![0]),
        range_end: Key::from(vec![0]),
        start_revision: revision(EMPTY + 1),
        prev_kv: true,
        fragment: false,
        filters: Vec::new(),
    }
}

fn watch_event(event: &Event) -> WatchEvent {
    let prev_kv = event.previous.as_ref().map(key_value);
    match event.kind {
        state::EventKind::Put => WatchEvent::Put {
            kv: key_value(&event.key_value),
            prev_kv,
        },
        state::EventKind::Delete => WatchEvent::Delete {
            key: Key(event.key_value.key.clone()),
            mod_revision: revision(event.key_value.mod_revision),
            prev_kv,
        },
    }
}

fn key_value(shown: &state::KeyValue) -> KeyValue {
    KeyValue {
        key: Key(shown.key.clone()),
        value: Value(shown.value.clone()),
        create_revision: revision(shown.create_revision),
        mod_revision: revision(shown.mod_revision),
        version: shown.version.unsigned_abs(),
        lease: LeaseId(shown.lease),
    }
}

fn revision(number: i64) -> Revision {
    Revision(number.max(0).unsigned_abs())
}
