//! What recovery refuses, in which words; and that it changes nothing when it does.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use base::{ClusterId, DiskId, NodeId};
use quorate_journal::disk::{Completion, DiskError, File};
use quorate_journal::{Identity, Recovery, RecoveryError, RecoveryStep};
use support::disk::SimulatedDisk;
use support::{World, entry, identity, recover, small_limits};

/// Four segments, and a fifth that is prepared.
fn disk() -> SimulatedDisk {
    disk_with(14)
}

/// Three entries, each a batch of two blocks, fill a segment.
fn disk_with(entries: u64) -> SimulatedDisk {
    let mut world = World::fresh();
    for slot in 1..=entries {
        world.write([entry(1, slot, 1, vec![1; 700])]);
    }
    world.settle();
    assert_eq!(world.journal.metrics().segments, 5);
    world.disk
}

fn refusal(disk: &SimulatedDisk) -> String {
    let mut tried = disk.clone();
    let error = recover(&mut tried, small_limits()).map(|_| ()).unwrap_err();
    assert_eq!(
        tried.content, disk.content,
        "nothing is changed by refusing"
    );
    error.to_string()
}

/// Makes the checksum of a head right again.
fn seal_head(bytes: &mut [u8]) {
    let checksum = base::checksum::crc32c(&bytes[..12]);
    let checksum = base::checksum::crc32c_append(checksum, &bytes[16..512]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn a_segment_of_another_cluster_node_or_disk() {
    for (at, text) in [
        (
            16,
            "cluster 00000000000000c2, node 00000000000000a1, disk 00000000000000d1",
        ),
        (
            24,
            "cluster 00000000000000c1, node 00000000000000a2, disk 00000000000000d1",
        ),
        (
            32,
            "cluster 00000000000000c1, node 00000000000000a1, disk 00000000000000d2",
        ),
    ] {
        let mut disk = disk();
        disk.tamper(File::Segment(2), |bytes| {
            bytes[at] += 1;
            seal_head(bytes);
        });
        assert_eq!(
            refusal(&disk),
            format!(
                "journal/0000000000000002.segment belongs to {text}, but this data folder is \
                 that of cluster 00000000000000c1, node 00000000000000a1, disk \
                 00000000000000d1. A file or folder has been copied or exchanged: put back the \
                 journal folder that belongs here, or start this node with an empty data folder \
                 and let it join as a new member."
            )
        );
    }
}

#[test]
fn the_whole_journal_of_another_node() {
    let mut disk = disk();
    let other = Identity {
        cluster: ClusterId(0xC1),
        node: NodeId(0xA9),
        disk: DiskId(0xD1),
    };
    let mut recovery = Recovery::new(other, small_limits(), &disk.files());
    let mut out = Vec::new();
    recovery.start(&mut out);
    disk.submit(&mut out);
    let mut step = recovery.complete(disk.execute_any().unwrap(), &mut out);
    // The heads are looked at first, and judged with the rest.
    while matches!(step, RecoveryStep::Working { .. }) {
        disk.submit(&mut out);
        step = recovery.complete(disk.execute_any().unwrap(), &mut out);
    }
    let RecoveryStep::Refused(RecoveryError::ForeignIdentity {
        file,
        found,
        expected,
    }) = step
    else {
        panic!("{step:?}");
    };
    assert_eq!(
        (file, found, expected),
        (File::Segment(1), identity(), other)
    );
}

#[test]
fn a_newer_format() {
    let mut disk = disk();
    disk.tamper(File::Segment(3), |bytes| {
        bytes[8] = 7;
        seal_head(bytes);
    });
    assert_eq!(
        refusal(&disk),
        "journal/0000000000000003.segment has format version 7, but this program reads versions \
         up to 1. Start the newer version of the program that wrote it."
    );
}

#[test]
fn a_file_of_the_wrong_length() {
    let text = |found| {
        format!(
            "journal/0000000000000002.segment is {found} bytes long, but was made with 4096. \
             Something other than this program has changed it, or copied it incompletely; \
             nothing was changed. Put back the whole file, or remove this node from the cluster \
             and let it join anew with an empty data folder."
        )
    };
    for length in [0, 100, 512, 1024, 3584, 4095, 4097, 4608] {
        let mut disk = disk();
        disk.tamper(File::Segment(2), |bytes| bytes.resize(length, 0));
        assert_eq!(refusal(&disk), text(length));
    }
}

/// The listing says one thing, reading another.
#[test]
fn a_file_that_ends_early() {
    let disk = disk();
    let mut files = disk.files();
    files[0].1 = 8192;
    let mut recovery = Recovery::new(identity(), small_limits(), &files);
    let (mut disk, mut out) = (disk, Vec::new());
    recovery.start(&mut out);
    loop {
        disk.submit(&mut out);
        match recovery.complete(disk.execute_any().unwrap(), &mut out) {
            RecoveryStep::Working { .. } => {}
            RecoveryStep::Refused(RecoveryError::WrongLength {
                file,
                found,
                expected,
            }) => {
                assert_eq!(file, File::Segment(1));
                assert_eq!((found, expected), (8192, 4096));
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_missing_segment() {
    let text = |sequence| {
        format!(
            "journal/000000000000000{sequence}.segment is missing, but the log needs it. \
             Nothing was changed. Put the file back, or remove this node from the cluster and let \
             it join anew with an empty data folder."
        )
    };
    for sequence in 1..=5 {
        let mut disk = disk();
        disk.content.remove(&File::Segment(sequence));
        assert_eq!(refusal(&disk), text(sequence));
    }
    // All but the one that is prepared.
    let mut disk = disk();
    disk.content.retain(|file, _| *file == File::Segment(6));
    assert_eq!(refusal(&disk), text(5));
}

#[test]
fn a_segment_under_the_name_of_another() {
    let mut disk = disk();
    let third = disk.content[&File::Segment(3)].clone();
    disk.content.insert(File::Segment(2), third);
    let error = refusal(&disk);
    assert!(
        error.starts_with(
            "journal/0000000000000002.segment is damaged at byte 0: its head says that it is \
             segment 3."
        ),
        "{error}"
    );
}

#[test]
fn damage_below_what_was_durable() {
    let mut disk = disk();
    disk.tamper(File::Segment(2), |bytes| bytes[1700] ^= 4);
    assert_eq!(
        refusal(&disk),
        "journal/0000000000000002.segment is damaged at byte 1536: a batch is missing. What \
         stood there may have been acknowledged, so it is not cut off, and nothing was changed. \
         Check the disk; \
         then restore the journal folder from a copy taken while this node was stopped, or \
         remove this node from the cluster and let it join anew with an empty data folder."
    );
}

#[test]
fn rot_in_the_last_batch() {
    let mut disk = disk();
    disk.tamper(File::Segment(5), |bytes| bytes[2200] ^= 4);
    let error = refusal(&disk);
    assert!(
        error.starts_with(
            "journal/0000000000000005.segment is damaged at byte 2048: a block of the last batch \
             is not as it was written."
        ),
        "{error}"
    );
}

/// The head and the only batch behind it were one write, which may have been complete.
#[test]
fn rot_in_the_head_before_the_last_batch() {
    let mut disk = disk_with(13);
    // As if the power had gone before the next segment was prepared, which proves it complete.
    disk.content.remove(&File::Segment(6));
    disk.tamper(File::Segment(5), |bytes| bytes[20] ^= 4);
    let error = refusal(&disk);
    assert!(
        error.starts_with(
            "journal/0000000000000005.segment is damaged at byte 0: its head is not as it was \
             written."
        ),
        "{error}"
    );
}

/// A segment that is prepared and not used holds nothing that could be lost.
#[test]
fn rot_in_a_segment_that_is_not_used_is_no_reason_to_refuse() {
    for at in [20, 2000] {
        let mut disk = disk();
        disk.tamper(File::Segment(6), |bytes| bytes[at] ^= 4);
        let (_, recovered) = recover(&mut disk, small_limits()).unwrap();
        assert_eq!(recovered.torn_tail, None);
        assert!(
            disk.bytes(File::Segment(6)).iter().all(|byte| *byte == 0),
            "it is wiped"
        );
    }
}

#[test]
fn a_disk_that_fails() {
    let disk = disk();
    let answer = |files: &[(File, u64)], error: DiskError| {
        let mut recovery = Recovery::new(identity(), small_limits(), files);
        let mut out = Vec::new();
        recovery.start(&mut out);
        loop {
            let id = out.remove(0).id;
            let result = Err(error.clone());
            match recovery.complete(Completion { id, result }, &mut out) {
                RecoveryStep::Refused(error) => break error.to_string(),
                // A head that cannot be read is judged with the rest.
                RecoveryStep::Working { .. } => {}
                RecoveryStep::Done(_) => panic!("nothing could be read"),
            }
        }
    };
    assert_eq!(
        answer(&disk.files(), DiskError::Other("input/output error".into())),
        "cannot read journal/0000000000000001.segment: input/output error. Check the disk and \
         the permissions of the data folder, then start again."
    );
    assert_eq!(
        answer(&[], DiskError::Full),
        "cannot create journal/0000000000000001.spare: no space left on the device. Free some \
         space (the journal needs room for two segments), then start again."
    );
}
