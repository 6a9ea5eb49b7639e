//! What a journal does when nothing goes wrong, and when the disk refuses.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use base::{Epoch, GroupId, Slot};
use quorate_journal::disk::{DiskError, File, Lane, Operation};
use quorate_journal::{Done, RecordKind};
use support::disk::SimulatedDisk;
use support::{World, entry, hard_state, record, small_limits};

#[test]
fn what_was_durable_is_recovered() {
    let mut world = World::fresh();
    assert!(world.recovered.created);
    world.write([
        hard_state(1, "vote 1"),
        entry(1, 1, 1, "a"),
        entry(2, 1, 5, "x"),
    ]);
    world.write([
        record(RecordKind::MembershipEntry, 1, 2, 1, "members"),
        entry(1, 3, 1, "c"),
        hard_state(1, "vote 2"),
    ]);
    world.write([entry(1, 3, 2, "c'"), entry(1, 4, 2, "d")]);
    let mut world = world.reopen();
    assert!(!world.recovered.created);
    assert_eq!(world.recovered.torn_tail, None);
    let group = &world.recovered.groups[&GroupId(1)];
    assert_eq!(group.hard_state.as_deref(), Some(&b"vote 2"[..]));
    assert_eq!(group.start, (Slot(0), Epoch(0)));
    assert_eq!(group.last, Slot(4));
    assert_eq!(group.epochs, [(Slot(1), Epoch(1)), (Slot(3), Epoch(2))]);
    assert_eq!(group.memberships, [(Slot(2), "members".into())]);
    let entries = world.entries(1, 1, 9);
    let bodies: Vec<&[u8]> = entries.iter().map(|entry| &entry.body[..]).collect();
    assert_eq!(bodies, [&b"a"[..], b"members", b"c'", b"d"]);
    assert_eq!(entries[1].kind, RecordKind::MembershipEntry);
    assert_eq!(world.entries(2, 1, 1)[0].epoch, Epoch(5));
    assert_eq!(world.entries(3, 1, 1), []);
}

#[test]
fn what_arrives_during_a_write_shares_the_next_one() {
    let mut world = World::fresh();
    world.settle();
    let first = world.begin([entry(1, 1, 1, "a")]);
    let _second = world.begin([entry(1, 2, 1, "b")]);
    let third = world.begin([entry(2, 1, 1, "c")]);
    assert!(world.step(Lane::Journal));
    assert_eq!(world.done, [Done::Durable { mark: first }]);
    assert!(world.step(Lane::Journal));
    assert_eq!(world.done[1..], [Done::Durable { mark: third }]);
    assert!(!world.step(Lane::Journal));
    assert_eq!(world.journal.metrics().batches, 2);
}

#[test]
fn entries_are_fetched_from_memory_and_disk_in_few_reads() {
    let mut world = World::fresh();
    for slot in 1..=20 {
        world.write([
            entry(1, slot, 1, vec![slot as u8; 60]),
            entry(2, slot, 1, "other"),
        ]);
    }
    let before = world.disk.reads;
    assert_eq!(world.entries(1, 3, 6).len(), 4);
    assert_eq!(
        world.disk.reads - before,
        2,
        "2 KiB in reads of at most 1 KiB"
    );
    // One in flight and one being built, with the rest on disk.
    world.begin([entry(1, 21, 1, "in flight")]);
    world.begin([entry(1, 22, 1, "open")]);
    let mut out = Vec::new();
    world.journal.fetch(
        5,
        GroupId(1),
        Slot(21),
        Slot(99),
        999,
        &mut out,
        &mut world.done,
    );
    assert!(out.is_empty());
    let Some(Done::Fetched { ticket: 5, entries }) = world.done.pop() else {
        panic!()
    };
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1].body, "open");
    assert_eq!(world.entries(1, 19, 22).len(), 4);
    // At least one entry, however small the bound.
    let Done::Fetched { entries, .. } = world.fetch(1, 5, 20, 1) else {
        panic!()
    };
    assert_eq!(entries.len(), 1);
    let Done::Fetched { entries, .. } = world.fetch(1, 5, 20, 200) else {
        panic!()
    };
    assert_eq!(entries.len(), 2);
}

#[test]
fn an_entry_that_is_replaced_while_it_is_read_is_not_handed_out() {
    let mut world = World::fresh();
    world.write([
        entry(1, 1, 1, "a"),
        entry(1, 2, 1, "b"),
        entry(1, 3, 1, "c"),
    ]);
    let mut out = Vec::new();
    world.journal.fetch(
        5,
        GroupId(1),
        Slot(1),
        Slot(3),
        999,
        &mut out,
        &mut world.done,
    );
    world.disk.submit(&mut out);
    world.done.clear();
    world.begin([entry(1, 2, 2, "b'")]);
    while world.step(Lane::Background) {}
    let [Done::Fetched { entries, .. }] = &world.done[..] else {
        panic!("{:?}", world.done)
    };
    assert_eq!(entries.len(), 1);
}

#[test]
fn damage_is_reported_when_an_entry_is_read_back() {
    let mut world = World::fresh();
    world.write([entry(1, 1, 1, "first"), entry(1, 2, 1, "second")]);
    world.disk.tamper(File::Segment(1), |bytes| bytes[600] ^= 1);
    let Done::Damage {
        group,
        slot,
        description,
        ..
    } = world.fetch(1, 1, 2, 999)
    else {
        panic!()
    };
    assert_eq!((group, slot), (GroupId(1), Slot(1)));
    assert_eq!(
        description,
        "journal/0000000000000001.segment is damaged at byte 512: the checksum of the block is \
         wrong"
    );
}

#[test]
fn released_segments_are_recycled_and_what_must_survive_does() {
    let mut world = World::fresh();
    world.write([
        hard_state(1, "vote"),
        hard_state(2, "other vote"),
        entry(2, 1, 3, "kept"),
    ]);
    world.write([record(RecordKind::SnapshotInstalled, 3, 70, 7, "")]);
    for slot in 1..=60 {
        world.write([entry(1, slot, 1 + slot / 20, vec![7; 300])]);
    }
    let before = world.journal.metrics();
    world.release(1, 50);
    world.settle();
    assert_eq!(
        world.journal.metrics().segments,
        before.segments,
        "group 2 needs segment 1"
    );
    world.release(2, 1);
    world.settle();
    let after = world.journal.metrics();
    assert!(after.segments < 4, "{after:?}");
    assert_eq!(after.spare_segments, 2);
    assert_eq!(after.segments_released, before.segments - after.segments);
    let mut world = world.reopen();
    let groups = world.recovered.groups.clone();
    assert_eq!(
        groups[&GroupId(1)].hard_state.as_deref(),
        Some(&b"vote"[..])
    );
    assert_eq!(groups[&GroupId(1)].start, (Slot(50), Epoch(3)));
    assert_eq!(
        groups[&GroupId(2)].hard_state.as_deref(),
        Some(&b"other vote"[..])
    );
    assert_eq!(groups[&GroupId(2)].start, (Slot(1), Epoch(3)));
    assert_eq!(groups[&GroupId(3)].start, (Slot(70), Epoch(7)));
    assert_eq!(world.entries(1, 51, 60).len(), 10);
    assert_eq!(world.entries(1, 50, 60), []);
    // Recycled segments are used again; nothing stale is taken for new.
    for round in 0..40 {
        world.write([entry(1, 61 + round, 5, vec![8; 300])]);
        world.release(1, 55 + round);
        world.settle();
        if round % 7 == 0 {
            world = world.reopen();
        }
    }
    assert_eq!(world.entries(1, 96, 100).len(), 5);
}

#[test]
fn bytes_since_counts_what_a_restart_would_replay() {
    let mut world = World::fresh();
    world.write((1..=4).map(|slot| entry(1, slot, 1, vec![0; 10 * slot as usize])));
    let since = |world: &World, slot| world.journal.bytes_since(GroupId(1), Slot(slot));
    assert_eq!(since(&world, 0), 4 * 36 + 100);
    assert_eq!(since(&world, 3), 36 + 40);
    assert_eq!(since(&world, 4), 0);
    let world = world.reopen();
    assert_eq!(since(&world, 3), 36 + 40);
    assert_eq!(world.journal.bytes_since(GroupId(9), Slot(0)), 0);
}

#[test]
fn a_failed_write_is_fatal_and_nothing_happens_after_it() {
    let mut world = World::fresh();
    world.write([entry(1, 1, 1, "a")]);
    world.disk.write_error = Some(DiskError::Other("input/output error".into()));
    world.done.clear();
    world.begin([entry(1, 2, 1, "b")]);
    world.begin([entry(1, 3, 1, "c")]);
    world.settle();
    assert_eq!(
        world.done,
        [Done::Fatal(
            "journal/0000000000000001.segment could not be written and synced at byte 1024: \
             input/output error. After that nobody knows what the disk holds, so the process \
             stops. Check the disk, then start again: recovery finds out."
                .into()
        )]
    );
    world.begin([entry(1, 4, 1, "d")]);
    assert_eq!(world.disk.waiting(Lane::Journal), None);
}

/// Fills the segments that are there; the next one cannot be created.
#[test]
fn a_full_disk_is_fatal_only_when_the_room_is_needed() {
    let mut world = World::fresh();
    world.settle();
    world.disk.create_error = Some(DiskError::Full);
    // Segment 1 is in use from the first batch on, and no other can be prepared.
    for slot in 1..=3 {
        world.write([entry(1, slot, 1, vec![1; 900])]);
    }
    assert_eq!(world.journal.metrics().segments, 1);
    let refused = world.begin([entry(1, 4, 1, vec![1; 900])]);
    world.settle();
    let Some(Done::Fatal(message)) = world.done.pop() else {
        panic!("{:?}", world.done)
    };
    assert_eq!(
        message,
        "the log needs another segment, but journal/0000000000000003.spare cannot be created: no \
         space left on the device. Free some space on the disk of the data folder, or enlarge \
         it, then start again. Nothing acknowledged is lost."
    );
    assert!(!world.done.contains(&Done::Durable { mark: refused }));
    world.disk.create_error = None;
    let mut world = world.reopen();
    assert_eq!(world.recovered.groups[&GroupId(1)].last, Slot(3));
    world.write([entry(1, 4, 1, vec![1; 900])]);
}

#[test]
fn a_disk_that_has_room_again_in_time_is_no_failure() {
    let mut world = World::fresh();
    world.settle();
    world.disk.create_error = Some(DiskError::Full);
    for slot in 1..=3 {
        world.write([entry(1, slot, 1, vec![1; 900])]);
    }
    world.disk.create_error = None;
    for slot in 4..=9 {
        world.write([entry(1, slot, 1, vec![1; 900])]);
    }
    assert_eq!(world.entries(1, 1, 9).len(), 9);
}

#[test]
fn a_batch_waits_for_its_segment_without_losing_anything() {
    let mut world = World::fresh();
    world.settle();
    // The background lane hangs.
    for slot in 1..=9 {
        world.begin([entry(1, slot, 1, vec![1; 900])]);
    }
    while world.step(Lane::Journal) {}
    assert_eq!(world.done, [1, 3].map(|mark| Done::Durable { mark }));
    assert_eq!(world.journal.metrics().buffered_bytes, 6 * 1024);
    world.settle();
    assert_eq!(world.done.last(), Some(&Done::Durable { mark: 9 }));
    assert_eq!(world.entries(1, 1, 9).len(), 9);
}

#[test]
fn the_next_segment_is_prepared_before_it_is_needed() {
    let mut world = World::fresh();
    world.write([entry(1, 1, 1, "a")]);
    let files: Vec<File> = world
        .disk
        .files()
        .into_iter()
        .map(|(file, _)| file)
        .collect();
    assert_eq!(files, [File::Segment(1), File::Segment(2)]);
}

#[test]
fn unused_spares_of_an_earlier_run_are_deleted() {
    let mut disk = SimulatedDisk::default();
    disk.tamper(File::SpareSegment(4), |bytes| *bytes = vec![0xEE; 100]);
    let mut world = World::open(disk, small_limits());
    world.write([entry(1, 1, 1, "a")]);
    let files: Vec<File> = world
        .disk
        .files()
        .into_iter()
        .map(|(file, _)| file)
        .collect();
    assert_eq!(files, [File::Segment(1), File::Segment(2)]);
}

#[test]
fn a_flush_of_nothing_is_answered_too() {
    let mut world = World::fresh();
    world.write([]);
    world.write([entry(1, 1, 1, "a")]);
    world.write([]);
    assert_eq!(world.reopen().recovered.groups[&GroupId(1)].last, Slot(1));
}

#[test]
#[should_panic(expected = "an entry follows, or replaces, one in its log")]
fn a_hole_in_a_log_is_a_bug() {
    let mut world = World::fresh();
    world.write([entry(1, 2, 1, "b")]);
}

#[test]
fn every_write_is_one_request_on_the_lane_of_the_journal() {
    let mut world = World::fresh();
    world.settle();
    world.begin([entry(1, 1, 1, "a"), hard_state(1, "h")]);
    let request = world.disk.waiting(Lane::Journal).unwrap();
    let Operation::Write {
        file,
        offset,
        data,
        sync,
    } = &request.operation
    else {
        panic!()
    };
    assert_eq!((*file, *offset, *sync), (File::Segment(1), 0, true));
    assert_eq!(data.concat().len(), 1024);
}
