//! The format as files. `tests/golden/*.segment` were written by version 1 of the format; this
//! build must write the same bytes, and read them, for ever. Only a new format version may change
//! them, and then the old files stay, to be read.
//!
//! `cargo test -p quorate-journal --test golden -- --ignored` writes them anew.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::path::PathBuf;

use base::{Epoch, GroupId, Slot};
use quorate_journal::RecordKind;
use quorate_journal::disk::File;
use support::disk::SimulatedDisk;
use support::{World, entry, hard_state, record, small_limits};

/// The segments of the golden journal: the last ones of a log whose beginning was released.
const SEGMENTS: [u64; 2] = [3, 4];

fn path(sequence: u64) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    PathBuf::from(folder).join(format!("{sequence:016}.segment"))
}

/// Every kind of record, batches of one and several blocks, a segment that follows another, and
/// in it a hard state and a start that were written again.
fn golden_journal() -> World {
    let mut world = World::fresh();
    world.write([hard_state(1, "the promise of group 1")]);
    for slot in 1..=3 {
        world.write([entry(1, slot, 1, vec![b'a'; 1000])]);
    }
    world.write([
        entry(1, 4, 2, vec![b'b'; 2000]),
        entry(2, 1, 1, "first of group 2"),
    ]);
    world.write([record(RecordKind::MembershipEntry, 1, 5, 2, "membership")]);
    world.write([record(RecordKind::SnapshotInstalled, 3, 40, 4, "")]);
    world.write([entry(3, 41, 5, ""), hard_state(3, "the promise of group 3")]);
    world.release(1, 3);
    world.settle();
    world.write([entry(1, 6, 3, vec![b'c'; 500])]);
    world
}

#[test]
fn the_same_bytes_are_written() {
    let world = golden_journal();
    assert_eq!(world.journal.metrics().segments, SEGMENTS.len() as u64);
    for sequence in SEGMENTS {
        let golden = std::fs::read(path(sequence)).unwrap();
        let written = world.disk.bytes(File::Segment(sequence));
        let differs = golden
            .iter()
            .zip(written)
            .position(|(golden, written)| golden != written);
        assert_eq!(differs, None, "segment {sequence} differs at this byte");
        assert_eq!(golden.len(), written.len());
    }
}

#[test]
fn the_golden_files_are_read() {
    let mut disk = SimulatedDisk::default();
    for sequence in SEGMENTS {
        let golden = std::fs::read(path(sequence)).unwrap();
        disk.tamper(File::Segment(sequence), |bytes| *bytes = golden.clone());
    }
    let mut world = World::open(disk, small_limits());
    let groups = world.recovered.groups.clone();
    let group = &groups[&GroupId(1)];
    assert_eq!(
        group.hard_state.as_deref(),
        Some(&b"the promise of group 1"[..])
    );
    assert_eq!((group.start, group.last), ((Slot(3), Epoch(1)), Slot(6)));
    assert_eq!(group.epochs, [(Slot(4), Epoch(2)), (Slot(6), Epoch(3))]);
    assert_eq!(group.memberships, [(Slot(5), "membership".into())]);
    assert_eq!(groups[&GroupId(2)].last, Slot(1));
    assert_eq!(groups[&GroupId(3)].start, (Slot(40), Epoch(4)));
    assert_eq!(groups[&GroupId(3)].last, Slot(41));
    let entries = world.entries(1, 4, 6);
    assert_eq!(entries[0].body, vec![b'b'; 2000]);
    assert_eq!(entries[2].body, vec![b'c'; 500]);
    assert_eq!(world.entries(2, 1, 1)[0].body, "first of group 2");
}

#[test]
#[ignore = "writes the golden files anew"]
fn write_the_golden_files() {
    let world = golden_journal();
    for sequence in SEGMENTS {
        std::fs::create_dir_all(path(sequence).parent().unwrap()).unwrap();
        std::fs::write(path(sequence), world.disk.bytes(File::Segment(sequence))).unwrap();
    }
}
