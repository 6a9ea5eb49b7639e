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

/// A golden journal: its folder, how it is written, and the segments that it has.
struct Golden {
    folder: &'static str,
    write: fn() -> World,
    segments: &'static [u64],
}

/// The last segments of a log whose beginning was released.
const CONTIGUOUS: Golden = Golden {
    folder: "",
    write: golden_journal,
    segments: &[3, 4],
};

/// What Paxos writes: slots that stand alone, under ballots.
const ACCEPTED: Golden = Golden {
    folder: "accepted",
    write: accepted_journal,
    segments: &[1],
};

impl Golden {
    fn path(&self, sequence: u64) -> PathBuf {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
        let name = format!("{sequence:016}.segment");
        PathBuf::from(folder).join(self.folder).join(name)
    }

    /// A journal opened on the files.
    fn open(&self) -> World {
        let mut disk = SimulatedDisk::default();
        for sequence in self.segments {
            let golden = std::fs::read(self.path(*sequence)).unwrap();
            disk.tamper(File::Segment(*sequence), |bytes| *bytes = golden.clone());
        }
        World::open(disk, small_limits())
    }
}

/// Every kind of record that Raft writes, batches of one and several blocks, a segment that follows
/// another, and in it a hard state and a start that were written again.
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

/// The kinds of records that only Paxos writes: entries that stand at their slot alone, some under
/// a ballot later than their epoch, with a gap between them, and a start that keeps what is behind.
fn accepted_journal() -> World {
    let mut world = World::fresh();
    let later = |ballot: u64, body: &str| [&ballot.to_le_bytes()[..], body.as_bytes()].concat();
    world.write([
        hard_state(4, "the promise of group 4"),
        record(RecordKind::Accepted, 4, 1, 257, "first"),
        record(RecordKind::Accepted, 4, 2, 257, "second"),
    ]);
    world.write([record(RecordKind::Accepted, 4, 5, 257, "behind a gap")]);
    world.write([record(
        RecordKind::AcceptedLater,
        4,
        2,
        257,
        later(514, "second"),
    )]);
    world.write([record(RecordKind::AcceptedMembership, 4, 6, 514, "members")]);
    let members = later(771, "members");
    world.write([record(
        RecordKind::AcceptedMembershipLater,
        4,
        6,
        514,
        members,
    )]);
    world.write([record(RecordKind::LogStarts, 4, 1, 257, "")]);
    world
}

#[test]
fn the_same_bytes_are_written() {
    for golden in [CONTIGUOUS, ACCEPTED] {
        let world = (golden.write)();
        let segments = golden.segments;
        assert_eq!(world.journal.metrics().segments, segments.len() as u64);
        for sequence in segments {
            let kept = std::fs::read(golden.path(*sequence)).unwrap();
            let written = world.disk.bytes(File::Segment(*sequence));
            let mut pairs = kept.iter().zip(written);
            let differs = pairs.position(|(kept, written)| kept != written);
            assert_eq!(differs, None, "segment {sequence} differs at this byte");
            assert_eq!(kept.len(), written.len());
        }
    }
}

#[test]
fn what_was_accepted_is_read() {
    let mut world = ACCEPTED.open();
    let group = world.recovered.groups[&GroupId(4)].clone();
    assert_eq!(
        group.hard_state.as_deref(),
        Some(&b"the promise of group 4"[..])
    );
    assert_eq!((group.start, group.last), ((Slot(1), Epoch(257)), Slot(6)));
    assert_eq!(group.gaps, [(Slot(3), Slot(4))]);
    assert_eq!(group.epochs, [(Slot(2), Epoch(257)), (Slot(6), Epoch(514))]);
    assert_eq!(
        group.ballots,
        [(Slot(2), Epoch(514)), (Slot(6), Epoch(771))],
        "those later than their epoch"
    );
    assert_eq!(group.memberships, [(Slot(6), "members".into())]);
    // The body is handed out as it was given, the ballot in front.
    assert_eq!(world.entries(4, 2, 2)[0].body[8..], b"second"[..]);
    assert_eq!(world.entries(4, 5, 5)[0].body, "behind a gap");
}

#[test]
fn the_golden_files_are_read() {
    let mut world = CONTIGUOUS.open();
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
    for golden in [CONTIGUOUS, ACCEPTED] {
        let world = (golden.write)();
        for sequence in golden.segments {
            let path = golden.path(*sequence);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, world.disk.bytes(File::Segment(*sequence))).unwrap();
        }
    }
}
