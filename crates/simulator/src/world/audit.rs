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

/// How far the auditor has come.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// The last revision that is recorded; 0 before the watch is created.
    last: i64,
}

impl World {
    /// A node has told its hubs what it has executed.
    pub(crate) fn audit(&mut self, host: usize, publication: &Publication) {
        if publication.revision.0 <= self.audit.last {
            return;
        }
        if self.audit.last == 0 {
            self.audit.last = EMPTY;
            self.record(EventKind::WatchCreate(whole_keyspace()));
        }
        let first = publication.batches.first().map(|batch| batch.revision.0);
        if first.is_some_and(|first| first <= self.audit.last + 1) {
            publication
                .batches
                .iter()
                .for_each(|batch| self.audit_one(batch));
            return;
        }
        // Whoever executed what lies between died before it could tell. History has it.
        let node = self.hosts[host].node.as_ref();
        let Some(running) = node.and_then(node::Node::running) else {
            return;
        };
        let reader = running.replica().reader();
        let floor = reader.compacted().0 - 1;
        let from = self.audit.last.max(floor);
        let missed: Vec<EventBatch> = reader.changes(state::Revision(from)).collect();
        if from > self.audit.last {
            let watch = WatchId(AUDITOR);
            self.record(EventKind::WatchLost { watch });
            let start_revision = revision(from + 1);
            self.record(EventKind::WatchResume {
                watch,
                start_revision,
            });
            self.audit.last = from;
        }
        missed.iter().for_each(|batch| self.audit_one(batch));
    }

    fn audit_one(&mut self, batch: &EventBatch) {
        if batch.revision.0 <= self.audit.last {
            return;
        }
        self.audit.last = batch.revision.0;
        let executed = self.invariants.revisions.executed(&batch.events);
        if let Err(violation) = executed {
            self.fail(violation);
        }
        // Nearly always one: room for no more is kept, for as long as the run goes on.
        let mut events: Vec<WatchEvent> = Vec::with_capacity(batch.events.len());
        let of_clients = batch.events.iter();
        let of_clients = of_clients.filter(|event| event.space == Space::ETCD);
        events.extend(of_clients.map(watch_event));
        self.record(EventKind::WatchMessage(WatchMessage {
            watch: WatchId(AUDITOR),
            revision: revision(batch.revision.0),
            fragment: false,
            events,
        }));
    }

    fn record(&mut self, event: EventKind) {
        let at = checker::history::Time(self.now.0);
        let events = &mut self.clients.recording.events;
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
