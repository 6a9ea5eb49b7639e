//! Groups that come and go: what they were opened with survives, and a closed one leaves nothing.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use base::{Epoch, GroupId, Slot};
use quorate_journal::RecordKind;
use support::{World, entry, hard_state, record};

#[test]
fn what_a_group_was_opened_with_outlives_its_segment() {
    let mut world = World::fresh();
    world.write([
        record(RecordKind::GroupOpened, 1, 0, 0, "raft, three nodes"),
        entry(1, 1, 1, "a"),
    ]);
    for slot in 1..=60 {
        world.write([entry(2, slot, 1, vec![7; 300])]);
    }
    assert_eq!(
        world.journal.pinning(2),
        [GroupId(1)],
        "one entry of an idle group; the other keeps the log for itself"
    );
    world.release(2, 55);
    world.settle();
    assert_eq!(world.journal.pinning(2), [GroupId(1)]);
    assert_eq!(world.journal.pinning(100), []);
    world.release(1, 1);
    world.settle();
    assert_eq!(world.journal.pinning(2), []);
    assert!(world.journal.metrics().segments_released > 5);
    let world = world.reopen();
    let group = &world.recovered.groups[&GroupId(1)];
    assert_eq!(
        group.description.as_deref(),
        Some(&b"raft, three nodes"[..])
    );
    assert_eq!(group.start, (Slot(1), Epoch(1)));
    assert_eq!(world.recovered.groups[&GroupId(2)].description, None);
}

#[test]
fn a_closed_group_leaves_nothing_and_can_be_opened_anew() {
    let mut world = World::fresh();
    let opened = |what: &str| record(RecordKind::GroupOpened, 1, 0, 0, what);
    world.write([opened("first"), hard_state(1, "vote")]);
    for slot in 1..=40 {
        world.write([entry(1, slot, 3, vec![7; 300]), entry(2, slot, 1, "x")]);
    }
    // Some of it has not been written when the group ends.
    let last = world.begin([entry(1, 41, 3, "unwritten")]);
    world.write([record(RecordKind::GroupClosed, 1, 0, 0, "promised")]);
    assert!(last > 0);
    assert_eq!(world.entries(1, 1, 50), []);
    let mut world = world.reopen();
    assert_eq!(world.recovered.closed[&GroupId(1)], "promised");
    assert!(!world.recovered.groups.contains_key(&GroupId(1)));
    assert_eq!(world.recovered.groups[&GroupId(2)].last, Slot(40));
    world.write([opened("second"), entry(1, 1, 1, "anew")]);
    world.release(2, 40);
    world.settle();
    assert!(
        world.journal.metrics().segments < 4,
        "{:?}",
        world.journal.metrics()
    );
    let mut world = world.reopen();
    let group = &world.recovered.groups[&GroupId(1)];
    assert_eq!(group.description.as_deref(), Some(&b"second"[..]));
    assert_eq!(
        group.hard_state, None,
        "an old promise is not taken for a new one"
    );
    assert_eq!((group.start, group.last), ((Slot(0), Epoch(0)), Slot(1)));
    assert_eq!(&world.entries(1, 1, 1)[0].body[..], b"anew");
}
