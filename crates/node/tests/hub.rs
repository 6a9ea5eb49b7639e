//! What a hub promises, case by case.

use std::time::Duration;

use bytes::Bytes;
use etcd::Error;
use etcd::proto::etcdserverpb::WatchCreateRequest;
use quorate_node::hub::HubLimits;

mod watching;
use watching::{World, Write, watch};

const PLENTY: u64 = 1 << 30;

fn world(limits: HubLimits) -> World {
    World::new(limits, 1)
}

fn open(world: &mut World, create: WatchCreateRequest) -> u64 {
    let stream = world.open(false);
    world.credit(stream, PLENTY);
    world.create(stream, create);
    stream
}

fn got(world: &mut World, stream: u64, id: i64) -> usize {
    world.client(stream).watchers[&id].got
}

/// A thousand watchers of the same keys under the same id share one message.
#[test]
fn equal_messages_share_their_bytes() {
    let mut world = world(HubLimits::default());
    let streams: Vec<u64> = (0..1000)
        .map(|_| open(&mut world, watch("a", "b")))
        .collect();
    let other_id = open(&mut world, watch("zz", ""));
    world.create(other_id, watch("a", "b"));
    let before = world.hub.metrics().messages_encoded;
    for _ in 0..3 {
        world.put("a1", "value");
    }
    world.publish_and_flush();
    assert_eq!(world.hub.metrics().messages_encoded - before, 2);
    let mut messages = streams.iter().map(|stream| {
        let client = &world.clients[stream];
        assert_eq!(
            client.messages.len(),
            2,
            "created, and three revisions in one message"
        );
        client.messages[1].clone()
    });
    let first: Bytes = messages.next().unwrap();
    assert!(messages.all(|message| message.as_ptr() == first.as_ptr()));
    assert_eq!(world.client(other_id).watchers[&1].got, 3);
}

/// A client that does not read costs a cursor: nothing is encoded for it, nothing is kept.
#[test]
fn a_client_that_does_not_read_costs_a_cursor() {
    let mut world = world(HubLimits {
        ring_revisions: 10,
        ..HubLimits::default()
    });
    let stream = world.open(false);
    world.create(stream, watch("a", ""));
    for _ in 0..200 {
        world.put("a", "value");
        world.publish_and_flush();
    }
    assert_eq!(world.client(stream).messages.len(), 1, "it was created");
    assert_eq!(world.hub.deadline(), None, "nobody works for it");
    assert!(world.requests.is_empty());
    world.settle();
    world.check_complete();
    assert_eq!(got(&mut world, stream, 0), 200);
}

/// Watchers that are behind the ring share reads of history.
#[test]
fn one_read_of_history_serves_many() {
    let mut world = world(HubLimits {
        ring_revisions: 10,
        ..HubLimits::default()
    });
    for number in 0..1000 {
        world.put(&format!("a{}", number % 7), "value");
    }
    world.put("b", "value");
    world.publish_and_flush();
    for number in 0..100 {
        let mut create = watch(&format!("a{}", number % 7), "");
        create.start_revision = 2 + number % 3;
        open(&mut world, create);
    }
    world.settle();
    world.check_complete();
    assert_eq!(world.requests.len(), 1);
    assert!(
        !world.requests[0].wanted.holds(b"b"),
        "nobody has asked for it"
    );
    assert!(world.requests[0].wanted.holds(b"a3"));
}

/// Reads that cannot be made are tried less and less often, others in between, and the watch goes
/// on where it was once one succeeds.
#[test]
fn a_read_of_history_that_fails_is_not_repeated_at_once() {
    let mut world = world(HubLimits {
        ring_revisions: 5,
        history_steps: 10,
        ..HubLimits::default()
    });
    for _ in 0..100 {
        world.put("a", "value");
    }
    world.publish_and_flush();
    for start_revision in [2, 50] {
        let mut create = watch("a", "");
        create.start_revision = start_revision;
        open(&mut world, create);
    }
    world.flush();
    let mut pauses = Vec::new();
    let mut asked = Vec::new();
    for count in 1..=14 {
        assert_eq!(world.requests.len(), count, "one at a time");
        asked.push(world.requests[count - 1].from.0);
        world.run_read(0, true);
        world.flush();
        assert_eq!(world.requests.len(), count, "not at once");
        let pause = world.hub.deadline().expect("it is tried again") - world.now;
        pauses.push(pause.as_millis());
        world.wait(pause);
        world.flush();
    }
    assert_eq!(pauses[..4], [10, 20, 40, 80]);
    assert_eq!(pauses[13], 5_000, "no longer than that");
    assert_eq!(asked[..4], [2, 50, 2, 50], "others have their turn");
    world.settle();
    world.check_complete();
}

#[test]
fn a_read_of_history_that_meets_compaction_ends_the_watch() {
    let mut world = world(HubLimits {
        ring_revisions: 5,
        ..HubLimits::default()
    });
    for _ in 0..50 {
        world.put("a", "value");
    }
    world.publish_and_flush();
    let mut create = watch("a", "");
    create.start_revision = 5;
    let stream = open(&mut world, create);
    world.flush();
    assert_eq!(world.reads.len(), 1);
    // The node has compacted, and the hub has not heard of it.
    world.compact(30);
    let request = world.requests.pop().unwrap();
    let snapshot = world.state.snapshot();
    world.reads[0] =
        quorate_node::hub::HistoryJob::new(quorate_node::hub::HubId(0), snapshot, request);
    world.run_read(0, false);
    assert!(world.client(stream).watchers[&0].ended);
}

#[test]
fn ids_are_the_clients_or_the_next_that_is_free() {
    let mut world = world(HubLimits::default());
    let stream = open(&mut world, watch("a", ""));
    let with_id = |id| WatchCreateRequest {
        watch_id: id,
        ..watch("a", "")
    };
    world.create(stream, with_id(1));
    world.create(stream, with_id(-7));
    world.create(stream, watch("a", ""));
    world.create(stream, with_id(2));
    world.create(stream, watch("b", "a"));
    let mut negative = watch("b", "a");
    negative.start_revision = -1;
    world.create(stream, negative);
    let client = world.client(stream);
    let ids: Vec<i64> = client.watchers.keys().copied().collect();
    assert_eq!(ids, [-7, 0, 1, 2]);
    assert_eq!(
        client.refusals,
        [
            "mvcc: duplicate watch ID provided on the WatchStream",
            "mvcc: watcher range is empty",
            "etcdserver: mvcc: required revision has been compacted",
        ]
    );
    let before = world.client(stream).messages.len();
    world.cancel(stream, 99);
    assert_eq!(
        world.client(stream).messages.len(),
        before,
        "passed over in silence"
    );
    world.cancel(stream, 1);
    assert!(world.client(stream).watchers[&1].ended);
    // A cancelled id is free again, for who asks for it.
    world.create(stream, with_id(1));
    assert!(!world.client(stream).watchers[&1].ended);
}

#[test]
fn a_start_below_the_floor_is_created_then_compacted() {
    let mut world = world(HubLimits::default());
    for _ in 0..9 {
        world.put("a", "value");
    }
    world.compact(6);
    world.publish_and_flush();
    for (start, ends) in [(5, true), (6, false)] {
        let mut create = watch("a", "");
        create.start_revision = start;
        let stream = open(&mut world, create);
        world.flush();
        assert_eq!(
            world.client(stream).watchers[&0].ended,
            ends,
            "from {start}"
        );
    }
    world.settle();
    world.check_complete();
}

#[test]
fn limits_are_refusals_with_a_reason() {
    let mut world = world(HubLimits {
        streams: 3,
        stream_watchers: 2,
        watchers: 4,
        ..HubLimits::default()
    });
    for _ in 0..2 {
        let stream = open(&mut world, watch("a", ""));
        world.create(stream, watch("a", ""));
        world.create(stream, watch("a", ""));
        let refusals = world.client(stream).refusals.clone();
        assert_eq!(refusals.len(), 1);
        assert!(refusals[0].contains("this stream has as many watches"));
    }
    let stream = open(&mut world, watch("a", ""));
    let refusals = world.client(stream).refusals.clone();
    assert!(refusals[0].contains("this node has as many watches"));
    let refused = world.open(false);
    assert_eq!(
        world.client(refused).ended,
        Some(Error::TooManyWatchStreams)
    );
    // What is given up is free again.
    world.close(1);
    let stream = open(&mut world, watch("zz", ""));
    assert_eq!(world.client(stream).watchers.len(), 1);
    assert_eq!(world.hub.metrics().refused, 4);
}

#[test]
fn a_client_that_asks_on_without_reading_is_ended() {
    let mut world = world(HubLimits {
        stream_debt_bytes: 10_000,
        ..HubLimits::default()
    });
    let stream = world.open(false);
    for _ in 0..10_000 {
        world.create(stream, watch("a", ""));
        if world.client(stream).ended.is_some() {
            break;
        }
    }
    assert_eq!(world.client(stream).ended, Some(Error::WatchNotRead));
    let bytes: usize = world.client(stream).messages.iter().map(Bytes::len).sum();
    assert!(bytes < 10_100, "{bytes} bytes are kept for it");
    assert_eq!(world.hub.metrics().watchers, 0);
}

#[test]
fn without_a_leader_those_who_insist_on_one_are_ended() {
    let mut world = world(HubLimits::default());
    let patience = HubLimits::default().leaderless_patience;
    let insists = world.open(true);
    let does_not = world.open(false);
    world.has_leader = false;
    world.publish_and_flush();
    let late = world.open(true);
    assert_eq!(world.client(late).ended, Some(Error::NoLeader), "at once");
    world.wait(patience / 2);
    assert_eq!(world.client(insists).ended, None);
    // A leader that comes back in time changes nothing.
    world.has_leader = true;
    world.publish_and_flush();
    world.wait(patience);
    world.has_leader = false;
    world.publish_and_flush();
    world.wait(patience / 2);
    assert_eq!(world.client(insists).ended, None);
    assert!(
        world
            .hub
            .deadline()
            .is_some_and(|at| at <= world.now + patience / 2)
    );
    world.wait(patience / 2);
    assert_eq!(world.client(insists).ended, Some(Error::NoLeader));
    assert_eq!(world.client(does_not).ended, None);
}

#[test]
fn progress_is_told_to_who_is_quiet_and_has_asked() {
    let limits = HubLimits::default();
    let interval = limits.progress_interval;
    let longest = interval + interval / 10;
    let mut world = world(limits);
    let wants = |key| WatchCreateRequest {
        progress_notify: true,
        ..watch(key, "")
    };
    let stream = open(&mut world, wants("quiet"));
    world.create(stream, wants("busy"));
    world.create(stream, watch("quiet", ""));
    world.wait(interval - Duration::from_secs(1));
    assert_eq!(world.client(stream).progress, []);
    world.put("busy", "value");
    world.publish_and_flush();
    world.wait(longest - interval + Duration::from_secs(1));
    assert_eq!(world.client(stream).progress, [0]);
    world.wait(longest);
    assert_eq!(world.client(stream).progress, [0, 0, 1]);
    // Nobody wants it any more: nothing is due.
    world.cancel(stream, 0);
    world.cancel(stream, 1);
    assert_eq!(world.hub.deadline(), None);
}

#[test]
fn progress_on_request_waits_until_all_watchers_have_everything() {
    let mut world = world(HubLimits::default());
    let stream = world.open(false);
    world.ask_progress(stream);
    world.flush();
    assert_eq!(world.client(stream).messages.len(), 0, "nobody watches");
    world.create(stream, watch("a", ""));
    world.put("a", "value");
    world.publish_and_flush();
    world.ask_progress(stream);
    world.ask_progress(stream);
    world.flush();
    assert_eq!(
        world.client(stream).progress,
        [],
        "an event waits for credit"
    );
    world.credit(stream, PLENTY);
    world.flush();
    assert_eq!(
        world.client(stream).progress,
        [-1],
        "once, behind the event"
    );
    let mut future = watch("a", "");
    future.start_revision = world.revision() + 1;
    world.create(stream, future);
    world.ask_progress(stream);
    world.flush();
    assert_eq!(
        world.client(stream).progress,
        [-1],
        "one begins in the future"
    );
    world.put("b", "value");
    world.publish_and_flush();
    world.ask_progress(stream);
    world.flush();
    assert_eq!(world.client(stream).progress, [-1, -1]);
}

#[test]
fn a_snapshot_that_jumps_over_revisions_loses_nothing() {
    let mut world = world(HubLimits::default());
    let stream = open(&mut world, watch("a", ""));
    world.put("a", "1");
    world.publish_and_flush();
    for _ in 0..10 {
        world.put("a", "2");
    }
    world.publish(true);
    world.put("a", "3");
    world.publish(false);
    world.settle();
    world.check_complete();
    assert_eq!(got(&mut world, stream, 0), 12);
}

/// Fragments: only where they are allowed, and all but the last piece say so.
#[test]
fn a_large_revision_is_split_where_that_is_allowed() {
    let mut world = world(HubLimits {
        fragment_bytes: 1_000,
        message_bytes: 500,
        ..HubLimits::default()
    });
    let whole = open(&mut world, watch("a", "b"));
    let pieces = open(
        &mut world,
        WatchCreateRequest {
            fragment: true,
            ..watch("a", "b")
        },
    );
    let writes: Vec<Write> = (0..20)
        .map(|number| Write::Put(vec![b'a', number], vec![b'v'; 200]))
        .collect();
    world.write(&writes);
    world.publish_and_flush();
    assert_eq!(world.client(whole).messages.len(), 2);
    assert_eq!(world.client(pieces).messages.len(), 6);
    world.check_complete();
}

#[test]
fn a_revision_that_no_client_can_take_ends_the_watch() {
    let mut world = world(HubLimits {
        message_bytes_max: 2_000,
        ..HubLimits::default()
    });
    let narrow = open(&mut world, watch("a\u{1}", ""));
    let wide = open(&mut world, watch("a", "b"));
    let writes: Vec<Write> = (0..20)
        .map(|number| Write::Put(vec![b'a', number], vec![b'v'; 200]))
        .collect();
    world.write(&writes);
    world.publish_and_flush();
    assert!(world.client(wide).watchers[&0].ended);
    assert!(world.client(wide).refusals[0].contains("too large for one message"));
    assert_eq!(got(&mut world, narrow, 0), 1);
}

/// What was read for a range that nobody watches any more is not given to the next range.
#[test]
fn what_was_read_for_a_closed_watch_is_given_to_no_other() {
    let mut world = world(HubLimits::default());
    world.put("a", "for those who watch a");
    world.put("b", "for those who watch b");
    world.publish_and_flush();
    for key in ["a", "b", "a", "b"] {
        let mut create = watch(key, "");
        create.start_revision = 2;
        let stream = open(&mut world, create);
        world.flush();
        world.check_complete();
        assert_eq!(got(&mut world, stream, 0), 1, "of {key}");
        world.close(stream);
    }
}
