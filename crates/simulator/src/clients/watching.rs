//! Clients that watch: streams that come and go, with watches that live on across them.
//!
//! ```text
//!   connect ─▶ create … ─▶ messages ─▶ lost, or closed ─▶ connect elsewhere, go on where it was
//!                │  cancel, ask for progress, stop reading for a while, one watch more
//! ```
//!
//! Everything a watch is told goes into the history, where the checker holds it against what really
//! happened. Here, at once: answers fit their questions, headers never go back within a stream, and
//! a watch begins no earlier than what its node had answered before it was asked for, also where
//! the keyspace has left that node and come back meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use base::{Instant, Random};
use bytes::Bytes;
use checker::history::{
    ClientId, EventKind, Filter, Key, WatchCreate, WatchEvent, WatchId, WatchMessage, WatchRevision,
};
use etcd::proto::etcdserverpb::watch_create_request::FilterType;
use etcd::proto::etcdserverpb::watch_request::RequestUnion;
use etcd::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use etcd::proto::mvccpb;
use node::hub::HubInput;
use prost::Message as _;

use super::recording::{key_value, revision};
use super::workers::stream_id;
use crate::invariants::Violation;
use crate::marks::Mark;
use crate::scenario::Scenario;
use crate::world::World;
use crate::world::event::{Watching, World as Happening};

/// Watching clients are recorded as of these.
const CLIENTS: u64 = 500;
/// Watches on one stream.
const MOST: usize = 3;
/// Ids that clients choose begin here; the server's begin at 0.
const CHOSEN: u64 = 1 << 20;

/// A watch, as its client sees it.
#[derive(Debug)]
struct Watch {
    id: u64,
    request: WatchCreateRequest,
    /// Its id on the stream, once it is there.
    wire: Option<i64>,
    /// The next revision that it needs; 0: whatever comes.
    next: i64,
    is_known: bool,
}

/// A client that watches.
#[derive(Debug, Default)]
pub(crate) struct WatchStream {
    /// In which keyspace.
    space: usize,
    /// How many keys there are.
    keys: u64,
    /// The host that it is connected to.
    host: Option<usize>,
    /// Counts its connections.
    turn: u64,
    watches: Vec<Watch>,
    /// Which watches it has asked for, in order, and what their node had answered by then.
    awaiting: VecDeque<(u64, i64)>,
    /// It reads nothing before this.
    stalled_until: Instant,
    last_arrival: Instant,
    /// The highest revision in a header of this connection.
    header: i64,
}

/// All clients that watch.
#[derive(Debug)]
pub(crate) struct Watchers {
    pub(crate) streams: Vec<WatchStream>,
    random: Random,
    watches: u64,
}

impl Watchers {
    pub(crate) fn new(scenario: &Scenario, random: Random) -> Watchers {
        let others = scenario.keyspaces.iter().map(|each| &each.workload);
        let workloads = std::iter::once(&scenario.workload).chain(others);
        let streams = workloads.enumerate().flat_map(|(space, workload)| {
            (0..workload.watches).map(move |_| WatchStream {
                space,
                keys: workload.keys,
                ..WatchStream::default()
            })
        });
        Watchers {
            streams: streams.collect(),
            random,
            watches: 0,
        }
    }

    /// Whether anybody watches in a keyspace.
    pub(crate) fn has(&self, space: usize) -> bool {
        self.streams.iter().any(|stream| stream.space == space)
    }

    /// How long a client waits before it does something else.
    pub(crate) fn pause(&mut self) -> Duration {
        Duration::from_micros(self.random.below(400_000) + 1_000)
    }

    /// Draws what is to be watched.
    fn draw(&mut self, keys: u64, newest: i64) -> Watch {
        let random = &mut self.random;
        let key = |random: &mut Random| Bytes::from(format!("k{:03}", random.below(keys)));
        let (key, range_end) = match random.below(6) {
            0 => (Bytes::from_static(b"k"), Bytes::from_static(b"l")),
            1 => (Bytes::from_static(b"lock"), Bytes::from_static(b"locl")),
            2 => {
                let (one, other) = (key(random), key(random));
                let (first, last) = (one.clone().min(other.clone()), one.max(other));
                (first, [&last[..], &[0]].concat().into())
            }
            3 => (Bytes::from_static(b"k"), Bytes::from_static(b"\0")),
            _ => (key(random), Bytes::new()),
        };
        let start = match random.below(8) {
            0..4 => 0,
            4 => newest + random.below(5) as i64,
            _ => (newest - random.below(40) as i64).max(1),
        };
        let filters = match random.below(6) {
            0 => vec![FilterType::Noput as i32],
            1 => vec![FilterType::Nodelete as i32],
            _ => Vec::new(),
        };
        self.watches += 1;
        let chosen = random.below(2) == 0;
        Watch {
            id: self.watches,
            request: WatchCreateRequest {
                key,
                range_end,
                start_revision: start,
                progress_notify: random.below(2) == 0,
                filters,
                prev_kv: random.below(2) == 0,
                watch_id: if chosen {
                    (CHOSEN + self.watches) as i64
                } else {
                    0
                },
                fragment: random.below(3) == 0,
            },
            wire: None,
            next: start,
            is_known: false,
        }
    }
}

impl Watch {
    fn recorded(&self, client: usize) -> EventKind {
        let filter = |each: &i32| match *each == FilterType::Noput as i32 {
            true => Filter::Put,
            false => Filter::Delete,
        };
        EventKind::WatchCreate(WatchCreate {
            watch: WatchId(self.id),
            client: ClientId(CLIENTS + client as u64),
            key: Key(self.request.key.clone()),
            range_end: Key(self.request.range_end.clone()),
            start_revision: revision(self.next),
            prev_kv: self.request.prev_kv,
            fragment: self.request.fragment,
            filters: self.request.filters.iter().map(filter).collect(),
        })
    }
}

fn event_of(event: &mvccpb::Event) -> Option<WatchEvent> {
    let kv = event.kv.as_ref()?;
    let prev_kv = event.prev_kv.as_ref().map(key_value);
    Some(match event.r#type {
        0 => WatchEvent::Put {
            kv: key_value(kv),
            prev_kv,
        },
        _ => WatchEvent::Delete {
            key: Key(kv.key.clone()),
            mod_revision: revision(kv.mod_revision),
            prev_kv,
        },
    })
}

impl World {
    /// A watching client does something.
    pub(crate) fn watcher_acts(&mut self, client: usize) {
        if !self.clients_ask {
            return;
        }
        let pause = self.watchers.pause();
        self.schedule(pause, Happening::Watcher(client));
        if self.watchers.streams[client].host.is_none() {
            return self.watcher_connects(client);
        }
        let now = self.now;
        match self.watchers.random.below(12) {
            0..3 => {
                let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
                self.watcher_asks(client, progress);
            }
            3 | 4 => self.watcher_leaves(client),
            5 => self.cancel_watch(client),
            6 | 7 => self.create_watch(client),
            8 => {
                let stall = Duration::from_micros(self.watchers.random.below(1_500_000));
                self.watchers.streams[client].stalled_until = now + stall;
            }
            _ => {}
        }
    }

    fn watcher_connects(&mut self, client: usize) {
        let host = self.watchers.random.below(self.hosts.len() as u64) as usize;
        if !self.is_serving(host, self.watchers.streams[client].space) {
            return;
        }
        let credit = [200, 2_000, 64 << 10][self.watchers.random.below(3) as usize];
        let require_leader = self.watchers.random.below(4) == 0;
        let stream = &mut self.watchers.streams[client];
        stream.host = Some(host);
        stream.turn += 1;
        stream.awaiting.clear();
        stream.last_arrival = self.now;
        stream.header = 0;
        let id = stream_id(client, stream.turn);
        let opened = HubInput::Opened {
            stream: id,
            require_leader,
        };
        self.tell_hub(client, opened);
        self.tell_hub(
            client,
            HubInput::Credit {
                stream: id,
                bytes: credit,
            },
        );
        if self.watchers.streams[client].watches.is_empty() {
            self.create_watch(client);
            return;
        }
        self.marks.reach(Mark::WatchResumed);
        for place in 0..self.watchers.streams[client].watches.len() {
            self.ask_for_watch(client, place);
        }
    }

    /// What a client sends arrives in order: nothing is between it and the host but time.
    fn tell_hub(&mut self, client: usize, input: HubInput) {
        if let Some(host) = self.watchers.streams[client].host {
            let trip = Duration::from_micros(50);
            let space = self.watchers.streams[client].space;
            self.on_worker((host, space), trip, Watching::Input(Box::new(input)));
        }
    }

    fn watcher_asks(&mut self, client: usize, request: RequestUnion) {
        let stream = stream_id(client, self.watchers.streams[client].turn);
        let request = WatchRequest {
            request_union: Some(request),
        };
        self.tell_hub(client, HubInput::Request { stream, request });
    }

    fn create_watch(&mut self, client: usize) {
        if self.watchers.streams[client].watches.len() >= MOST {
            return;
        }
        let WatchStream { space, keys, .. } = self.watchers.streams[client];
        let newest = self.revisions_of(space).newest();
        let watch = self.watchers.draw(keys, newest);
        let stream = &mut self.watchers.streams[client];
        stream.watches.push(watch);
        let place = stream.watches.len() - 1;
        self.ask_for_watch(client, place);
    }

    /// Asks for a watch, or for the rest of it.
    fn ask_for_watch(&mut self, client: usize, place: usize) {
        let stream = &mut self.watchers.streams[client];
        let Some(host) = stream.host else { return };
        let watch = &mut stream.watches[place];
        watch.wire = None;
        let request = WatchCreateRequest {
            start_revision: watch.next,
            ..watch.request.clone()
        };
        let event = match std::mem::replace(&mut watch.is_known, true) {
            false => watch.recorded(client),
            true => EventKind::WatchResume {
                watch: WatchId(watch.id),
                start_revision: revision(watch.next),
            },
        };
        let floor = self.workers[host][stream.space].answered;
        stream.awaiting.push_back((watch.id, floor));
        self.recorded(client, event);
        self.watcher_asks(client, RequestUnion::CreateRequest(request));
    }

    fn cancel_watch(&mut self, client: usize) {
        let stream = &mut self.watchers.streams[client];
        let place = stream.watches.iter().position(|each| each.wire.is_some());
        let Some(place) = place else { return };
        let watch = stream.watches.remove(place);
        let lost = EventKind::WatchLost {
            watch: WatchId(watch.id),
        };
        self.recorded(client, lost);
        let watch_id = watch.wire.expect("it was chosen because it has one");
        let cancel = RequestUnion::CancelRequest(WatchCancelRequest { watch_id });
        self.watcher_asks(client, cancel);
    }

    /// A client closes its stream, and goes on elsewhere later.
    fn watcher_leaves(&mut self, client: usize) {
        let stream = stream_id(client, self.watchers.streams[client].turn);
        self.tell_hub(client, HubInput::Closed { stream });
        self.stream_lost(client);
    }

    fn stream_lost(&mut self, client: usize) {
        let stream = &mut self.watchers.streams[client];
        stream.host = None;
        for watch in &mut stream.watches {
            watch.wire = None;
            let lost = EventKind::WatchLost {
                watch: WatchId(watch.id),
            };
            let recording = &mut self.spaces[stream.space].clients.recording;
            recording.watch(self.now, lost);
        }
    }

    /// The process on a host is gone, and with it all streams.
    pub(super) fn streams_lost(&mut self, host: usize) {
        for client in 0..self.watchers.streams.len() {
            if self.watchers.streams[client].host == Some(host) {
                self.stream_lost(client);
            }
        }
    }

    /// A keyspace is gone from a host, and with it all streams that are about it.
    pub(super) fn streams_in_lost(&mut self, host: usize, space: usize) {
        for client in 0..self.watchers.streams.len() {
            let stream = &self.watchers.streams[client];
            if stream.host == Some(host) && stream.space == space {
                self.stream_lost(client);
            }
        }
    }

    /// The hub has ended a stream.
    pub(super) fn watcher_ended(&mut self, client: usize, turn: u64) {
        let stream = &self.watchers.streams[client];
        if stream.turn == turn && stream.host.is_some() {
            self.marks.reach(Mark::WatchStreamEnded);
            self.stream_lost(client);
        }
    }

    /// When the next message for a client arrives: after all before it.
    pub(super) fn arrival(&mut self, client: usize) -> Instant {
        let trip = Duration::from_micros(50 + self.watchers.random.below(2_000));
        let stream = &mut self.watchers.streams[client];
        stream.last_arrival = stream.last_arrival.max(self.now + trip);
        stream.last_arrival
    }

    /// A message arrives at a client.
    pub(super) fn watcher_hears(&mut self, client: usize, turn: u64, bytes: Bytes) {
        let now = self.now;
        let stream = &self.watchers.streams[client];
        let Some(host) = stream.host.filter(|_| stream.turn == turn) else {
            return;
        };
        let credit = HubInput::Credit {
            stream: stream_id(client, turn),
            bytes: bytes.len() as u64,
        };
        let reads_at = stream.stalled_until.max(now) + Duration::from_micros(50);
        let reads_after = reads_at.since(now);
        let place = (host, stream.space);
        self.on_worker(place, reads_after, Watching::Input(Box::new(credit)));
        let Ok(response) = WatchResponse::decode(bytes) else {
            return self.wrong("watch messages can be read", client, "not a watch response");
        };
        self.trace
            .line(now.since(self.began), crate::trace::Kind::Run, || {
                format!("watcher {client} hears n{}: {response:?}", host + 1)
            });
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        let stream = &mut self.watchers.streams[client];
        if header != 0 && header < stream.header {
            let text = format!("revision {header} after {}", stream.header);
            return self.wrong("headers of a stream never go back", client, &text);
        }
        stream.header = stream.header.max(header);
        if response.created {
            self.watch_created(client, header, &response);
        } else if response.canceled {
            self.watch_cancelled(client, &response);
        } else if response.events.is_empty() {
            self.watch_progress(client, header, response.watch_id);
        } else {
            self.watch_message(client, header, &response);
        }
    }

    fn recorded(&mut self, client: usize, event: EventKind) {
        let space = self.watchers.streams[client].space;
        let recording = &mut self.spaces[space].clients.recording;
        recording.watch(self.now, event);
    }

    fn wrong(&mut self, invariant: &'static str, client: usize, text: &str) {
        self.fail(Violation {
            invariant,
            text: format!("watching client {client}: {text}"),
        });
    }

    fn watch_created(&mut self, client: usize, header: i64, response: &WatchResponse) {
        let stream = &mut self.watchers.streams[client];
        let Some((id, floor)) = stream.awaiting.pop_front() else {
            return self.wrong(
                "answers fit their questions",
                client,
                "no watch was asked for",
            );
        };
        let place = stream.watches.iter().position(|each| each.id == id);
        let place = place.expect("a watch that was not answered is not cancelled");
        if response.canceled {
            stream.watches.remove(place);
            let cancelled = EventKind::WatchCancelled {
                watch: WatchId(id),
                compact_revision: revision(response.compact_revision),
                reason: response.cancel_reason.clone(),
            };
            return self.recorded(client, cancelled);
        }
        let watch = &mut stream.watches[place];
        watch.wire = Some(response.watch_id);
        if watch.next == 0 {
            watch.next = header + 1;
        }
        if header < floor {
            let text = format!(
                "a watch began at revision {header} on a node that had answered with {floor} \
                 before it was asked for"
            );
            return self.wrong("publications come before answers", client, &text);
        }
        let created = EventKind::WatchCreated(WatchRevision {
            watch: WatchId(id),
            revision: revision(header),
        });
        self.recorded(client, created);
    }

    fn watch_cancelled(&mut self, client: usize, response: &WatchResponse) {
        let stream = &mut self.watchers.streams[client];
        let of_wire = |each: &Watch| each.wire == Some(response.watch_id);
        // One that the client has cancelled itself is not there any more.
        let Some(place) = stream.watches.iter().position(of_wire) else {
            return;
        };
        let cancelled = EventKind::WatchCancelled {
            watch: WatchId(stream.watches[place].id),
            compact_revision: revision(response.compact_revision),
            reason: response.cancel_reason.clone(),
        };
        let recording = &mut self.spaces[stream.space].clients.recording;
        recording.watch(self.now, cancelled);
        if response.compact_revision == 0 {
            stream.watches.remove(place);
            return;
        }
        self.marks.reach(Mark::WatchCompacted);
        stream.watches[place].next = response.compact_revision;
        self.ask_for_watch(client, place);
    }

    fn watch_progress(&mut self, client: usize, header: i64, wire: i64) {
        let stream = &mut self.watchers.streams[client];
        let everyone = wire == etcd::watch::NO_WATCH_ID;
        for watch in &mut stream.watches {
            if watch.wire.is_some_and(|own| everyone || own == wire) {
                self.marks.reach(Mark::WatchProgressed);
                watch.next = watch.next.max(header + 1);
                let progress = EventKind::WatchProgress(WatchRevision {
                    watch: WatchId(watch.id),
                    revision: revision(header),
                });
                let recording = &mut self.spaces[stream.space].clients.recording;
                recording.watch(self.now, progress);
            }
        }
    }

    fn watch_message(&mut self, client: usize, header: i64, response: &WatchResponse) {
        let stream = &mut self.watchers.streams[client];
        let of_wire = |each: &&mut Watch| each.wire == Some(response.watch_id);
        let Some(watch) = stream.watches.iter_mut().find(of_wire) else {
            return;
        };
        let events: Option<Vec<WatchEvent>> = response.events.iter().map(event_of).collect();
        let Some(events) = events else {
            return self.wrong(
                "watch messages can be read",
                client,
                "an event without a key",
            );
        };
        let last = events.iter().map(|event| event.revision().0 as i64).max();
        // A revision of which pieces are missing is needed once more.
        let next = last.unwrap_or(0) + i64::from(!response.fragment);
        watch.next = watch.next.max(next);
        if response.fragment {
            self.marks.reach(Mark::WatchFragmented);
        }
        let message = EventKind::WatchMessage(WatchMessage {
            watch: WatchId(watch.id),
            revision: revision(header),
            fragment: response.fragment,
            events,
        });
        self.recorded(client, message);
        for event in &response.events {
            if let Err(violation) = self.saw_event(client, event) {
                return self.fail(violation);
            }
        }
    }

    /// What watches tell fits what others were told.
    fn saw_event(&mut self, client: usize, event: &mvccpb::Event) -> Result<(), Violation> {
        let Some(kv) = event.kv.as_ref().filter(|kv| kv.key.starts_with(b"k")) else {
            return Ok(());
        };
        let space = self.watchers.streams[client].space;
        let revisions = self.revisions_of(space);
        match event.r#type {
            0 => revisions.saw(kv, kv.mod_revision),
            _ => revisions.changed(&kv.key, kv.mod_revision),
        }
    }
}
