//! Every byte of a small journal is changed, one at a time: either recovery refuses, or what it
//! recovers is exactly what was there.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::collections::BTreeMap;

use base::GroupId;
use quorate_journal::disk::File;
use quorate_journal::{FetchedEntry, RecordKind, RecoveredGroup, RecoveryError};
use support::disk::SimulatedDisk;
use support::{World, entry, hard_state, record, recover, small_limits};

/// Everything that can be read from a journal.
type Contents = (BTreeMap<GroupId, RecoveredGroup>, Vec<FetchedEntry>);

fn contents(disk: &SimulatedDisk) -> Result<Contents, RecoveryError> {
    let mut disk = disk.clone();
    let (journal, recovered) = recover(&mut disk, small_limits())?;
    let groups = recovered.groups.clone();
    let mut world = World {
        disk,
        journal,
        recovered,
        done: Vec::new(),
        next_mark: 1,
    };
    let mut entries = Vec::new();
    for (id, group) in &groups {
        entries.extend(world.entries(id.0, group.start.0.0 + 1, u64::MAX));
    }
    Ok((groups, entries))
}

/// A journal of some segments, of which the first is recycled, with the next one prepared.
fn journal() -> World {
    let mut world = World::fresh();
    for slot in 1..=24 {
        world.write([
            entry(1, slot, 1, vec![slot as u8; 100 + 60 * (slot as usize % 4)]),
            hard_state(1, [slot as u8; 10]),
        ]);
    }
    world.write([record(RecordKind::SnapshotInstalled, 2, 5, 1, "")]);
    world.write([record(RecordKind::MembershipEntry, 2, 6, 1, "members")]);
    world.release(1, 14);
    world.settle();
    for slot in 25..=32 {
        world.write([entry(1, slot, 2, vec![slot as u8; 1000])]);
    }
    world
}

/// The bytes of each segment that batches stand in.
fn used(world: &World) -> BTreeMap<File, usize> {
    let segments: Vec<File> = world.disk.files().iter().map(|(file, _)| *file).collect();
    let metrics = world.journal.metrics();
    let headed: Vec<File> = segments
        .into_iter()
        .filter(|file| matches!(file, File::Segment(_)))
        .take(metrics.segments as usize)
        .collect();
    let in_last = (metrics.bytes % 4096) as usize;
    let last = *headed.last().unwrap();
    headed
        .into_iter()
        .map(|file| (file, if file == last { in_last } else { 4096 }))
        .collect()
}

/// Where the last batch stands that is followed by another one in its segment: a segment that is
/// not the last may end with blocks that no batch has used.
fn is_unused(world: &World, file: File, at: usize) -> bool {
    let end = used(world).get(&file).copied().unwrap_or(0);
    if at >= end {
        return true;
    }
    let bytes = world.disk.bytes(file);
    let first_batch = u64::from_le_bytes(bytes[48..56].try_into().unwrap());
    let block = &bytes[at / 512 * 512..][..512];
    let number = u64::from_le_bytes(block[16..24].try_into().unwrap());
    at >= 512 && number < first_batch
}

#[test]
fn every_changed_byte_is_refused_or_harmless() {
    let world = journal();
    assert!(world.journal.metrics().segments_released >= 2);
    let whole = contents(&world.disk).unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for (file, bytes) in world.disk.files() {
        for at in 0..bytes as usize {
            for change in [0x01, 0xFF] {
                let mut disk = world.disk.clone();
                disk.tamper(file, |bytes| bytes[at] ^= change);
                match contents(&disk) {
                    Ok(found) => {
                        assert_eq!(found, whole, "{file:?} byte {at}");
                        assert!(
                            is_unused(&world, file, at),
                            "{file:?} byte {at} is not noticed"
                        );
                        harmless += 1;
                    }
                    Err(RecoveryError::Damaged {
                        file: named,
                        offset,
                        ..
                    }) => {
                        assert_eq!(named, file);
                        assert!(offset <= at as u64, "{file:?} byte {at}: {offset}");
                        refused += 1;
                    }
                    Err(other) => panic!("{file:?} byte {at}: {other}"),
                }
            }
        }
    }
    assert!(refused > 2 * 9000, "{refused}");
    assert!(harmless > 2 * 4000, "{harmless}");
}

/// Writes that never reached the disk, or old contents that came back: noticed everywhere but in
/// the last batch, where they cannot be told from a power cut.
#[test]
fn every_lost_block_before_the_last_batch_is_refused() {
    let world = journal();
    let last_batch = 1024 + 512;
    for (file, end) in used(&world) {
        let last = used(&world).keys().next_back() == Some(&file);
        let end = if last { end - last_batch } else { end };
        for at in (0..end)
            .step_by(512)
            .filter(|at| !is_unused(&world, file, *at))
        {
            let mut disk = world.disk.clone();
            disk.tamper(file, |bytes| bytes[at..at + 512].fill(0));
            let error = contents(&disk).unwrap_err();
            assert!(
                matches!(error, RecoveryError::Damaged { .. }),
                "{file:?} {at}: {error}"
            );
        }
    }
}

/// A block that was written elsewhere, or comes from another place: never taken for the right one.
#[test]
fn every_misplaced_block_is_refused() {
    let world = journal();
    let files: Vec<File> = used(&world).into_keys().collect();
    for file in &files {
        for at in (512..4096)
            .step_by(512)
            .filter(|at| !is_unused(&world, *file, *at))
        {
            for (other, from) in files.iter().zip([512, at, 1024, at]) {
                if (other, from) == (file, at) {
                    continue;
                }
                let block = world.disk.bytes(*other)[from..from + 512].to_vec();
                let mut disk = world.disk.clone();
                disk.tamper(*file, |bytes| bytes[at..at + 512].copy_from_slice(&block));
                match contents(&disk) {
                    Err(RecoveryError::Damaged { .. }) => {}
                    Ok(_) if used(&world).get(file).unwrap() - at <= 1536 => {
                        // An older valid block in the last batch: as if it had been torn.
                        assert_eq!(file, files.last().unwrap());
                    }
                    other => panic!("{file:?} byte {at} from {from}: {other:?}"),
                }
            }
        }
    }
}

/// Rot beside a torn batch: what was durable before it is never touched.
#[test]
fn every_changed_byte_beside_a_torn_batch_leaves_what_was_durable() {
    for mask in [0b001u32, 0b010, 0b101, 0b110] {
        let mut world = journal();
        let before = contents(&world.disk).unwrap();
        let segment = world.journal.metrics().bytes / 4096;
        world.begin([entry(1, 33, 3, vec![9; 3 * 488 - 76])]);
        world
            .disk
            .crash_with_sectors(|sector| mask >> sector & 1 == 1);
        assert_eq!(
            contents(&world.disk).unwrap(),
            before,
            "{mask:b} in {segment}"
        );
        for (file, bytes) in world.disk.files() {
            for at in (0..bytes as usize).step_by(7) {
                let mut disk = world.disk.clone();
                disk.tamper(file, |bytes| bytes[at] ^= 0x10);
                match contents(&disk) {
                    Ok(found) => assert_eq!(found, before, "{mask:b} {file:?} byte {at}"),
                    Err(RecoveryError::Damaged { .. }) => {}
                    Err(other) => panic!("{file:?} byte {at}: {other}"),
                }
            }
        }
    }
}
