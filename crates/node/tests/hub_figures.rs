//! What a hub costs: memory per watcher (checked), and time per delivered event (by hand:
//! `cargo test --release -p quorate-node --test hub_figures -- --ignored --nocapture`).

#![allow(
    unsafe_code,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "an allocator that counts; and what is measured is time"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::{ClusterId, Epoch, Instant, NodeId};
use bytes::Bytes;
use etcd::proto::etcdserverpb::watch_request::RequestUnion;
use etcd::proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use quorate_node::hub::{Hub, HubInput, HubLimits, HubOutput, Member, Publication, StreamId};
use state::{Event, EventBatch, EventKind, KeyValue, Revision, Space};

static HELD: AtomicUsize = AtomicUsize::new(0);
/// The most that was held since this was last set.
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NOW: Instant = Instant(1);

fn publication(first: i64, count: i64, key: impl Fn(i64) -> Bytes) -> Publication {
    let batches: Arc<[EventBatch]> = (first..first + count)
        .map(|revision| EventBatch {
            revision: Revision(revision),
            events: vec![Event {
                space: Space::ETCD,
                kind: EventKind::Put,
                key_value: KeyValue {
                    key: key(revision),
                    value: Bytes::from(vec![b'v'; 256]),
                    create_revision: revision,
                    mod_revision: revision,
                    version: 1,
                    lease: 0,
                },
                previous: None,
            }],
        })
        .collect();
    Publication {
        member: Member {
            cluster: ClusterId(1 << 60),
            node: NodeId(1 << 61),
        },
        batches,
        revision: Revision(first + count - 1),
        compacted: Revision(0),
        term: Epoch(2),
        has_leader: true,
        reset: false,
        access: None,
    }
}

fn hub() -> Hub {
    let mut hub = Hub::new(HubLimits::default(), 1);
    let start = publication(1, 1, |_| Bytes::from_static(b"x"));
    hub.step(NOW, HubInput::Publication(start), &mut Vec::new());
    hub
}

fn open(hub: &mut Hub, stream: u64, out: &mut Vec<HubOutput>) {
    let stream = StreamId(stream);
    let require_leader = false;
    hub.step(
        NOW,
        HubInput::Opened {
            stream,
            require_leader,
        },
        out,
    );
    let bytes = 1 << 40;
    hub.step(NOW, HubInput::Credit { stream, bytes }, out);
}

fn create(hub: &mut Hub, stream: u64, key: &[u8], end: &[u8], out: &mut Vec<HubOutput>) {
    let create = WatchCreateRequest {
        key: Bytes::copy_from_slice(key),
        range_end: Bytes::copy_from_slice(end),
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    let stream = StreamId(stream);
    hub.step(NOW, HubInput::Request { stream, request }, out);
    out.clear();
}

/// 100,000 watchers on 1,000 streams: of one prefix, of a key each, and of a range each. Counted is
/// what they take when they are there, and the most that it was on the way, when something grows.
#[test]
fn watchers_take_a_few_hundred_bytes() {
    for (kind, most, most_on_the_way) in
        [("prefix", 150, 150), ("key", 170, 190), ("range", 260, 290)]
    {
        let mut out = Vec::with_capacity(100);
        let before = HELD.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let mut hub = hub();
        for stream in 0..1_000 {
            open(&mut hub, stream, &mut out);
            for watcher in 0..100 {
                let key = format!("/registry/pods/{stream:04}/{watcher:04}");
                let (key, end) = match kind {
                    "prefix" => ("/registry/pods/", "/registry/pods0".to_owned()),
                    "key" => (key.as_str(), String::new()),
                    _ => (key.as_str(), format!("{key}0")),
                };
                create(&mut hub, stream, key.as_bytes(), end.as_bytes(), &mut out);
            }
        }
        let bytes = (HELD.load(Ordering::Relaxed) - before) / 100_000;
        let peak = (PEAK.load(Ordering::Relaxed) - before) / 100_000;
        println!("{kind}: {bytes} bytes a watcher, {peak} on the way");
        assert!(bytes < most, "{kind}: {bytes} bytes a watcher");
        assert!(peak < most_on_the_way, "{kind}: {peak} bytes a watcher");
        drop(hub);
    }
}

#[test]
#[ignore = "measures time; by hand"]
fn time_per_delivered_event() {
    for (streams, watches, revisions) in [
        (1000, 1, 1),
        (1000, 1, 10),
        (100, 10, 1),
        (100, 10, 10),
        (1000, 100, 1),
    ] {
        let mut hub = hub();
        let mut out = Vec::new();
        for stream in 0..streams {
            open(&mut hub, stream, &mut out);
            for _ in 0..watches {
                create(&mut hub, stream, b"a", b"b", &mut out);
            }
        }
        let rounds = 2_000_000 / (streams * watches * revisions as u64).max(1);
        let publications: Vec<Publication> = (0..rounds as i64)
            .map(|round| {
                let first = 2 + round * revisions;
                publication(first, revisions, |_| Bytes::from_static(b"a/key"))
            })
            .collect();
        let started = std::time::Instant::now();
        for each in publications {
            hub.step(NOW, HubInput::Publication(each), &mut out);
            hub.flush(NOW, &mut out);
            out.clear();
        }
        let events = hub.metrics().events_delivered;
        let each = started.elapsed().as_nanos() as u64 / events;
        println!("{streams} streams x {watches} watches, {revisions} revisions a flush: {each} ns");
    }
    // One event in 100,000 keys and 1,000 ranges that do not match.
    let mut hub = hub();
    let mut out = Vec::new();
    for stream in 0..1_000 {
        open(&mut hub, stream, &mut out);
        create(
            &mut hub,
            stream,
            format!("r{stream:04}").as_bytes(),
            b"r~",
            &mut out,
        );
        for watcher in 0..100 {
            let key = format!("k{stream:04}/{watcher:04}");
            create(&mut hub, stream, key.as_bytes(), b"", &mut out);
        }
    }
    let publications: Vec<Publication> = (0..100_000)
        .map(|round| {
            let key = |revision: i64| format!("k{:04}/{:04}", revision % 1000, revision % 97);
            publication(2 + round, 1, |revision| key(revision).into())
        })
        .collect();
    let started = std::time::Instant::now();
    for each in publications {
        hub.step(NOW, HubInput::Publication(each), &mut out);
        hub.flush(NOW, &mut out);
        out.clear();
    }
    let each = started.elapsed().as_nanos() / 100_000;
    println!("101,000 watchers, of which one matches: {each} ns an event");
}
