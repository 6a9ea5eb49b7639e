//! A keyspace, a hub, and clients that check everything a hub tells them.
//!
//! The keyspace is the real state; its own event batches are what is right. Each client decodes
//! what it gets and compares it, event by event, with what its watchers are due.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use base::{ClusterId, Epoch, Instant, NodeId, WallTime};
use bytes::Bytes;
use etcd::proto::etcdserverpb::watch_request::RequestUnion;
use etcd::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use etcd::proto::mvccpb;
use prost::Message as _;
use quorate_node::hub::{
    HistoryJob, HistoryRequest, Hub, HubId, HubInput, HubLimits, HubOutput, Member, Publication,
    StreamId,
};
use state::{EntryStamp, Event, EventBatch, EventKind, KeyValue, Revision, Space, State};

/// What a test does to a key.
#[derive(Clone, Debug)]
pub enum Write {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

/// A watcher as its client sees it.
#[derive(Debug)]
pub struct Seen {
    pub create: WatchCreateRequest,
    /// The first revision it is due.
    pub start: i64,
    /// How many of the events it is due it has got.
    pub got: usize,
    /// The last message ended within a revision.
    pub torn: bool,
    pub ended: bool,
}

/// A stream as its client sees it.
#[derive(Debug, Default)]
pub struct Client {
    pub credit: i64,
    /// What was asked to be created, and has no answer yet, in order.
    pub asked: Vec<WatchCreateRequest>,
    pub watchers: BTreeMap<i64, Seen>,
    pub revision: i64,
    pub progress: Vec<i64>,
    pub refusals: Vec<String>,
    pub ended: Option<etcd::Error>,
    pub messages: Vec<Bytes>,
}

/// Everything together.
pub struct World {
    pub now: Instant,
    pub state: State,
    pub hub: Hub,
    pub limits: HubLimits,
    /// All events there ever were.
    pub events: Vec<Event>,
    /// Batches that are not published.
    unpublished: Vec<EventBatch>,
    pub published: i64,
    pub has_leader: bool,
    pub clients: BTreeMap<u64, Client>,
    /// Reads that were asked for, on the state of then.
    pub reads: Vec<HistoryJob>,
    /// What has been asked of history, for tests that look at it.
    pub requests: Vec<HistoryRequest>,
    pub out: Vec<HubOutput>,
    last_stream: u64,
}

impl World {
    pub fn new(limits: HubLimits, seed: u64) -> World {
        let mut world = World {
            now: Instant(1_000),
            state: State::new(state::Limits::default()),
            hub: Hub::new(limits, seed),
            limits,
            events: Vec::new(),
            unpublished: Vec::new(),
            published: 0,
            has_leader: true,
            clients: BTreeMap::new(),
            reads: Vec::new(),
            requests: Vec::new(),
            out: Vec::new(),
            last_stream: 0,
        };
        world.publish(true);
        world
    }

    // --- the keyspace

    fn entry(&mut self, execute: impl FnOnce(&mut State)) {
        let stamp = EntryStamp {
            slot: self.state.reader().applied().next(),
            epoch: Epoch(1),
            wall: WallTime(0),
            elapsed: Duration::ZERO,
        };
        self.state.begin_entry(&stamp);
        execute(&mut self.state);
        let batches = self.state.end_entry();
        self.events
            .extend(batches.iter().flat_map(|batch| batch.events.clone()));
        self.unpublished.extend(batches);
    }

    /// One transaction, not published yet.
    pub fn write(&mut self, writes: &[Write]) {
        self.entry(|state| {
            let mut transaction = state.transaction();
            for write in writes {
                match write {
                    Write::Put(key, value) => {
                        transaction.put(Space::ETCD, key, value, 0);
                    }
                    Write::Delete(key) => {
                        transaction.delete(Space::ETCD, key);
                    }
                }
            }
            transaction.commit();
        });
    }

    pub fn put(&mut self, key: &str, value: &str) {
        self.write(&[Write::Put(key.into(), value.into())]);
    }

    pub fn compact(&mut self, to: i64) {
        self.entry(|state| {
            let mut transaction = state.transaction();
            transaction.compact(Revision(to));
            transaction.commit();
        });
    }

    pub fn revision(&self) -> i64 {
        self.state.reader().revision().0
    }

    pub fn compacted(&self) -> i64 {
        self.state.reader().compacted().0
    }

    // --- the hub

    pub fn step(&mut self, input: HubInput) {
        self.hub.step(self.now, input, &mut self.out);
        self.carry_out();
    }

    pub fn flush(&mut self) {
        self.hub.flush(self.now, &mut self.out);
        self.carry_out();
    }

    /// Tells the hub what was written; with `reset`, as if a snapshot had brought it.
    pub fn publish(&mut self, reset: bool) {
        let batches = std::mem::take(&mut self.unpublished);
        let reader = self.state.reader();
        let publication = Publication {
            member: Member {
                cluster: ClusterId(7),
                node: NodeId(9),
            },
            batches: if reset { [].into() } else { batches.into() },
            revision: reader.revision(),
            compacted: reader.compacted(),
            term: Epoch(3),
            has_leader: self.has_leader,
            reset,
            access: None,
        };
        self.published = publication.revision.0;
        self.step(HubInput::Publication(publication));
    }

    pub fn publish_and_flush(&mut self) {
        self.publish(false);
        self.flush();
    }

    pub fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.step(HubInput::Deadline);
        self.flush();
    }

    /// Runs a read that was asked for.
    pub fn run_read(&mut self, index: usize, fails: bool) {
        let job = self.reads.remove(index);
        let number = job.number();
        let result = if fails {
            HistoryJob::failed(number)
        } else {
            job.run()
        };
        self.step(HubInput::History(result));
    }

    /// Gives everybody room and lets everything come to rest.
    pub fn settle(&mut self) {
        self.publish(false);
        let open: Vec<u64> = self.open_streams();
        open.iter().for_each(|id| self.credit(*id, 1 << 40));
        self.flush();
        for _ in 0..100_000 {
            if !self.reads.is_empty() {
                self.run_read(0, false);
            } else if let Some(at) = self.hub.deadline()
                && at <= self.now + self.limits.history_pause
            {
                self.now = self.now.max(at);
            } else {
                return;
            }
            self.flush();
        }
        panic!("it does not come to rest");
    }

    /// Everybody has got everything.
    pub fn check_complete(&self) {
        assert_eq!(self.hub.metrics().watchers_lagging, 0, "nobody lags");
        for (stream, client) in &self.clients {
            for (id, seen) in &client.watchers {
                if !seen.ended && client.ended.is_none() {
                    let due = self.due(seen, self.published).len();
                    assert_eq!(
                        seen.got, due,
                        "stream {stream} watch {id} has all its events"
                    );
                }
            }
        }
    }

    // --- clients

    pub fn open(&mut self, require_leader: bool) -> u64 {
        self.last_stream += 1;
        let id = self.last_stream;
        self.clients.insert(id, Client::default());
        self.step(HubInput::Opened {
            stream: StreamId(id),
            require_leader,
        });
        id
    }

    pub fn open_streams(&self) -> Vec<u64> {
        let open = self.clients.iter();
        open.filter(|(_, client)| client.ended.is_none())
            .map(|(id, _)| *id)
            .collect()
    }

    pub fn close(&mut self, id: u64) {
        self.clients.remove(&id);
        self.step(HubInput::Closed {
            stream: StreamId(id),
        });
    }

    pub fn credit(&mut self, id: u64, bytes: u64) {
        self.client(id).credit += bytes as i64;
        self.step(HubInput::Credit {
            stream: StreamId(id),
            bytes,
        });
    }

    pub fn client(&mut self, id: u64) -> &mut Client {
        self.clients.get_mut(&id).expect("the client is there")
    }

    fn request(&mut self, id: u64, request: RequestUnion) {
        self.step(HubInput::Request {
            stream: StreamId(id),
            request: WatchRequest {
                request_union: Some(request),
            },
        });
    }

    pub fn create(&mut self, id: u64, create: WatchCreateRequest) {
        self.client(id).asked.push(create.clone());
        self.request(id, RequestUnion::CreateRequest(create));
    }

    pub fn cancel(&mut self, id: u64, watch_id: i64) {
        self.request(
            id,
            RequestUnion::CancelRequest(WatchCancelRequest { watch_id }),
        );
    }

    pub fn ask_progress(&mut self, id: u64) {
        self.request(id, RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    fn carry_out(&mut self) {
        for output in std::mem::take(&mut self.out) {
            match output {
                HubOutput::Message { stream, bytes } => {
                    let client = self.clients.remove(&stream.0);
                    let mut client = client.expect("nothing is sent to a stream that is gone");
                    self.read(&mut client, bytes);
                    self.clients.insert(stream.0, client);
                }
                HubOutput::End { stream, error } => self.client(stream.0).ended = Some(error),
                HubOutput::ReadHistory(request) => {
                    assert!(self.reads.is_empty(), "one read at a time");
                    self.requests.push((*request).clone());
                    let snapshot = self.state.snapshot();
                    self.reads
                        .push(HistoryJob::new(HubId(0), snapshot, *request));
                }
            }
        }
    }

    /// The events that a watcher is due up to a revision.
    fn due(&self, seen: &Seen, upto: i64) -> Vec<&Event> {
        let create = &seen.create;
        let matches = |event: &&Event| {
            let (key, end) = (&event.key_value.key, &create.range_end);
            let in_range = match end.as_ref() {
                [] => *key == create.key,
                [0] => *key >= create.key,
                end => *key >= create.key && key.as_ref() < end,
            };
            let kind = match event.kind {
                EventKind::Put => 0,
                EventKind::Delete => 1,
            };
            let revision = event.key_value.mod_revision;
            in_range
                && !create.filters.contains(&kind)
                && revision >= seen.start
                && revision <= upto
        };
        self.events.iter().filter(matches).collect()
    }

    /// Checks a message against all that is promised.
    fn read(&self, client: &mut Client, bytes: Bytes) {
        assert!(client.ended.is_none(), "nothing comes after the end");
        client.messages.push(bytes.clone());
        let had_credit = client.credit > 0;
        client.credit -= bytes.len() as i64;
        let response = WatchResponse::decode(bytes).expect("a message can be decoded");
        let header = response.header.as_ref().expect("a message has a header");
        assert_eq!((header.cluster_id, header.member_id), (7, 9));
        if response.compact_revision == 0 {
            assert!(
                header.revision >= client.revision,
                "the header never goes back"
            );
            assert!(header.revision <= self.published, "nobody tells the future");
            client.revision = header.revision;
        }
        if response.created {
            return Self::read_created(client, &response);
        }
        if !response.events.is_empty() {
            return self.read_events(client, &response, had_credit);
        }
        if response.canceled {
            let seen = client.watchers.get_mut(&response.watch_id);
            let seen = seen.expect("what is canceled was created");
            assert!(!seen.ended, "a watch ends once");
            assert!(!seen.torn, "a watch does not end within a revision");
            seen.ended = true;
            if response.compact_revision != 0 {
                assert_eq!(header.revision, 0);
                assert!(response.compact_revision <= self.compacted());
                let due = self.due(seen, i64::MAX);
                let last = seen
                    .got
                    .checked_sub(1)
                    .map_or(0, |at| due[at].key_value.mod_revision);
                assert!(last < response.compact_revision, "it could have gone on");
                assert!(seen.start < response.compact_revision);
            } else if !response.cancel_reason.is_empty() {
                client.refusals.push(response.cancel_reason);
            }
            return;
        }
        self.read_progress(client, &response);
    }

    fn read_created(client: &mut Client, response: &WatchResponse) {
        let create = client.asked.remove(0);
        if response.canceled {
            assert_eq!(response.watch_id, -1);
            client.refusals.push(response.cancel_reason.clone());
            return;
        }
        let id = response.watch_id;
        assert!(
            create.watch_id == 0 || create.watch_id == id,
            "the id is the client's"
        );
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        let start = match create.start_revision {
            0 => revision + 1,
            start => start,
        };
        let seen = Seen {
            create,
            start,
            got: 0,
            torn: false,
            ended: false,
        };
        let before = client.watchers.insert(id, seen);
        assert!(
            before.is_none_or(|before| before.ended),
            "an id is used once at a time"
        );
    }

    fn read_events(&self, client: &mut Client, response: &WatchResponse, had_credit: bool) {
        let seen = client.watchers.get_mut(&response.watch_id);
        let seen = seen.expect("events come after the watch is created");
        assert!(!seen.ended, "no event comes after the end");
        assert!(had_credit || seen.torn, "events wait for credit");
        let due = self.due(seen, i64::MAX);
        let upto = seen.got + response.events.len();
        assert!(upto <= due.len(), "more events than there are");
        for (got, due) in response.events.iter().zip(&due[seen.got..]) {
            let previous = due.previous.clone().filter(|_| seen.create.prev_kv);
            assert_eq!(
                got.kv,
                Some(pair(&due.key_value)),
                "the next event, and no other"
            );
            assert_eq!(got.r#type, i32::from(due.kind == EventKind::Delete));
            // What is compacted is left out; never told wrongly.
            if got.prev_kv.is_some() || due.key_value.mod_revision > self.compacted() {
                assert_eq!(got.prev_kv, previous.as_ref().map(pair));
            }
        }
        let last = due[upto - 1].key_value.mod_revision;
        assert!(
            response
                .header
                .as_ref()
                .is_some_and(|header| header.revision >= last)
        );
        let is_split = due
            .get(upto)
            .is_some_and(|next| next.key_value.mod_revision == last);
        assert_eq!(
            is_split, response.fragment,
            "a revision is whole, or said to be split"
        );
        assert!(seen.create.fragment || !is_split);
        seen.got = upto;
        seen.torn = is_split;
    }

    fn read_progress(&self, client: &mut Client, response: &WatchResponse) {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        let mut concerned = 0;
        for (id, seen) in client.watchers.iter().filter(|(_, seen)| !seen.ended) {
            if response.watch_id != -1 && response.watch_id != *id {
                continue;
            }
            concerned += 1;
            assert_eq!(
                seen.got,
                self.due(seen, revision).len(),
                "progress overtakes no event"
            );
            assert!(
                seen.create.start_revision <= revision,
                "not before it begins"
            );
            if response.watch_id == *id {
                assert!(seen.create.progress_notify, "it has asked to be told");
            }
        }
        assert!(concerned > 0, "progress of somebody");
        client.progress.push(response.watch_id);
    }
}

fn pair(found: &KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: found.key.clone(),
        create_revision: found.create_revision,
        mod_revision: found.mod_revision,
        version: found.version,
        value: found.value.clone(),
        lease: found.lease,
    }
}

/// A watch of a range.
pub fn watch(key: &str, range_end: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(range_end.as_bytes()),
        ..WatchCreateRequest::default()
    }
}
