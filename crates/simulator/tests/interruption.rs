//! An execution that is interrupted at a read leaves nothing behind, and comes to the same when it
//! is run again: at whichever of its reads, and whatever it had written before.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use base::{Epoch, Slot, WallTime};
use state::{EntryStamp, Interrupted, KeyRange, Limits, Space, State};

/// Writes, reads its own writes, and writes what it has read. How often it reads does not depend on
/// where it is interrupted.
fn command(state: &mut State) {
    let mut transaction = state.transaction();
    let before = transaction.get(Space::ETCD, b"a");
    transaction.put(Space::ETCD, b"a", b"1", 0);
    let count = transaction.count(Space::ETCD, &KeyRange::From { start: "".into() });
    transaction.put(Space::ETCD, b"count", count.to_string().as_bytes(), 0);
    transaction.delete(Space::ETCD, b"b");
    if before.is_none() {
        transaction.put(Space::ETCD, b"b", b"2", 0);
    }
    transaction.commit();
}

fn begin(state: &mut State, slot: u64) {
    state.begin_entry(&EntryStamp {
        slot: Slot(slot),
        epoch: Epoch(1),
        wall: WallTime(slot),
        elapsed: Duration::ZERO,
    });
}

#[test]
fn an_interrupted_execution_leaves_nothing_and_comes_to_the_same() {
    let mut expected = State::new(Limits::default());
    for slot in 1..=2 {
        begin(&mut expected, slot);
        command(&mut expected);
        let _ = expected.end_entry();
    }
    let mut interrupted = 0;
    for reads in 0..10 {
        let mut state = State::new(Limits::default());
        for slot in 1..=2 {
            begin(&mut state, slot);
            let before = state.digest();
            state.interrupt_after(reads);
            let ended = catch_unwind(AssertUnwindSafe(|| command(&mut state)));
            if let Err(panic) = ended {
                assert!(panic.is::<Interrupted>());
                assert_eq!(state.digest(), before, "after {reads} reads");
                interrupted += 1;
                command(&mut state);
            }
            let _ = state.end_entry();
        }
        assert_eq!(state.digest(), expected.digest(), "after {reads} reads");
    }
    assert!((10..20).contains(&interrupted), "{interrupted}");
}
