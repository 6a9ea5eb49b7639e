//! What the tests of the state share: small limits, stamps, and one-line transactions.
#![allow(dead_code, reason = "each test uses a part of this")]

use std::time::Duration;

use base::{ClusterId, Epoch, GroupId, Slot, WallTime};
use bytes::Bytes;
use quorate_state::{
    CheckpointError, CheckpointHead, CheckpointReader, CheckpointWriter, EntryStamp, EventBatch,
    LEVEL_MAX, Limits, Settings, Snapshot, State, Transaction,
};

/// Limits so small that every bound is met within a few steps.
pub(crate) fn small_limits() -> Limits {
    Limits {
        settings: Settings {
            quota_bytes: 1 << 20,
            compaction_steps_per_entry: 3,
            origin_window: 20,
            origin_ranges_max: 4,
            lease_floor_seconds: 2,
        },
        checkpoint_block_bytes: 150,
        checkpoint_membership_bytes_max: 64,
        level_max: LEVEL_MAX,
    }
}

/// The stamp of the entry after the last one.
pub(crate) fn next_stamp(state: &State) -> EntryStamp {
    EntryStamp {
        slot: state.reader().applied().next(),
        epoch: Epoch(3),
        wall: WallTime(1_700_000_000_000 + state.reader().applied().0),
        elapsed: Duration::from_millis(10),
    }
}

/// Runs one committed transaction as an entry of its own.
pub(crate) fn run(
    state: &mut State,
    commands: impl FnOnce(&mut Transaction<'_>),
) -> Vec<EventBatch> {
    state.begin_entry(&next_stamp(state));
    let mut transaction = state.transaction();
    commands(&mut transaction);
    transaction.commit();
    state.end_entry()
}

/// Passes empty entries until compaction has nothing left to do.
pub(crate) fn finish_compaction(state: &mut State) {
    while state.compaction_pending() {
        run(state, |_| {});
    }
}

pub(crate) fn head() -> CheckpointHead {
    CheckpointHead {
        cluster: ClusterId(0xC1),
        group: GroupId(7),
        membership: Bytes::from_static(b"three voters"),
    }
}

/// All bytes of a checkpoint.
pub(crate) fn write(snapshot: Snapshot, limits: Limits) -> Vec<u8> {
    let mut writer = CheckpointWriter::new(snapshot, head(), limits);
    let mut bytes = Vec::new();
    assert!(writer.summary().is_none());
    while let Some(block) = writer.next_block() {
        bytes.extend_from_slice(&block);
    }
    let summary = writer.summary().expect("the footer was written");
    assert_eq!(summary.length, bytes.len() as u64);
    bytes
}

/// Reads a checkpoint that is fed in pieces of `piece` bytes.
pub(crate) fn read(bytes: &[u8], limits: Limits, piece: usize) -> Result<State, CheckpointError> {
    let mut reader = CheckpointReader::new(limits);
    for bytes in bytes.chunks(piece) {
        reader.feed(bytes)?;
    }
    let (state, found, summary) = reader.finish()?;
    assert_eq!(found, head());
    assert_eq!(summary.length, bytes.len() as u64);
    assert_eq!(summary.slot, Slot(state.reader().applied().0));
    Ok(state)
}
