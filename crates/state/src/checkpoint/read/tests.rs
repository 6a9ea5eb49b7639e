//! Forged checkpoints: whoever can compute checksums can say anything. It must end in an error or
//! in a state that works, never in a panic. The sums of the footer, which would stop nearly all of
//! it, are left out here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use base::{Epoch, Incarnation, NodeId, Random, WallTime};

use super::super::CheckpointWriter;
use super::*;
use crate::key_value::Revision;
use crate::lease::LeaseId;
use crate::limits::Settings;
use crate::origin::Origin;
use crate::state::EntryStamp;
use crate::transaction::Transaction;

fn limits() -> Limits {
    let settings = Settings {
        compaction_steps_per_entry: 3,
        ..Settings::default()
    };
    Limits {
        settings,
        checkpoint_block_bytes: 150,
        ..Limits::default()
    }
}

fn run(state: &mut State, commands: impl FnOnce(&mut Transaction<'_>)) {
    let stamp = EntryStamp {
        slot: base::Slot(state.reader.scalars.applied.0.wrapping_add(1)),
        epoch: Epoch(1),
        wall: WallTime(1),
        elapsed: Duration::from_millis(1),
    };
    state.begin_entry(&stamp);
    let sequence = state.reader.scalars.applied.0;
    state.admit(Origin {
        node: NodeId(1),
        incarnation: Incarnation(2),
        sequence,
    });
    let mut transaction = state.transaction();
    commands(&mut transaction);
    transaction.commit();
    drop(state.end_entry());
}

/// The blocks of a checkpoint in the middle of a compaction.
fn sample() -> Vec<Vec<u8>> {
    let mut state = State::new(limits());
    for key in ["a", "b", "a", "c", "b", "e", "e"] {
        run(&mut state, |transaction| {
            if transaction.lease(LeaseId(7)).is_none() {
                transaction.grant_lease(LeaseId(7), Duration::from_secs(1));
            }
            transaction.put(Space::ETCD, key.as_bytes(), b"value", 7);
        });
    }
    run(&mut state, |transaction| {
        transaction.delete(Space::ETCD, b"c");
        transaction.put(Space::ETCD, b"d", b"6", 0);
        transaction.set_row(Space::SYSTEM, b"name", b"sample");
    });
    run(&mut state, |transaction| transaction.compact(Revision(8)));
    let head = CheckpointHead {
        cluster: ClusterId(1),
        group: GroupId(1),
        membership: Bytes::from_static(b"membership"),
    };
    let mut writer = CheckpointWriter::new(state.snapshot(), head, limits());
    std::iter::from_fn(|| writer.next_block())
        .map(|block| block.to_vec())
        .collect()
}

/// Makes changed blocks look intact, and the footer agree with them.
fn reseal(blocks: &mut [Vec<u8>]) {
    let count = blocks.len();
    let mut chained = 0;
    for (index, block) in blocks.iter_mut().enumerate() {
        let end = block.len() - BLOCK_TAIL_LENGTH;
        if index + 1 == count {
            block[end - 8..end].copy_from_slice(&u64::to_le_bytes(chained));
        }
        let checksum = base::checksum::crc32c(&block[..end]);
        block[end..].copy_from_slice(&checksum.to_le_bytes());
        chained = chain(chained, block);
    }
}

/// Reads forged blocks and, if they make a state, does with it what a state must survive. Says
/// whether they did.
fn survive(blocks: &[Vec<u8>]) -> bool {
    let mut reader = CheckpointReader::new(limits());
    if reader.feed(&blocks.concat()).is_err() {
        return false;
    }
    let Ok((mut state, _, _)) = reader.build() else {
        return false;
    };
    assert!(state.digest() == state.reader().recompute_digest());
    if state.reader().applied().0 == u64::MAX {
        return false;
    }
    let _ = state.reader().changes(state.reader().compacted()).count();
    run(&mut state, |transaction| {
        transaction.put(Space::ETCD, b"a", b"later", 0);
        transaction.put(Space::ETCD, b"c", b"later", 0);
        transaction.delete(Space::ETCD, b"b");
        let first = transaction.base().leases_by_deadline().next();
        if let Some(lease) = first {
            transaction.renew_lease(lease.id);
            transaction.put(Space::ETCD, b"d", b"later", lease.id.0);
            transaction.revoke_lease(lease.id);
        }
        let (floor, latest) = (
            transaction.base().compacted(),
            transaction.base().revision(),
        );
        if floor < latest {
            transaction.compact(latest);
        }
    });
    for _ in 0..5 {
        run(&mut state, |_| {});
    }
    true
}

#[test]
fn forged_content_never_panics() {
    let blocks = sample();
    assert!(survive(&blocks));
    let mut random = Random::from_seed(1);
    let mut survived = 0;
    for _ in 0..40_000 {
        let mut forged = blocks.clone();
        for _ in 0..=random.below(2) {
            let block = random.below(blocks.len() as u64) as usize;
            let content = blocks[block].len() - BLOCK_HEAD_LENGTH - BLOCK_TAIL_LENGTH;
            let index = BLOCK_HEAD_LENGTH + random.below(content as u64) as usize;
            let values = [0, 1, 0x7F, 0x80, 0xFF, random.next_u64() as u8];
            forged[block][index] = values[random.below(6) as usize];
        }
        reseal(&mut forged);
        let result = catch_unwind(AssertUnwindSafe(|| survive(&forged)));
        survived += u32::from(result.expect("forged content does not panic"));
    }
    assert!(survived > 1000, "the forgeries reach the state: {survived}");
}

#[test]
fn a_key_that_is_attached_to_no_lease_is_found() {
    let mut blocks = sample();
    // The leases are the last space.
    let leases = blocks.remove(blocks.len() - 2);
    assert_eq!(leases[BLOCK_HEAD_LENGTH], Space::LEASES.number());
    reseal(&mut blocks);
    let mut reader = CheckpointReader::new(limits());
    assert!(reader.feed(&blocks.concat()).is_ok());
    let Err(Fault::Damaged(what)) = reader.build() else {
        panic!("it was believed");
    };
    assert_eq!(what, "a key is attached to a lease that does not exist");
}
