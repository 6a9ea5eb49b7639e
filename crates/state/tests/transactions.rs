//! Transactions, case by case: what they return, and that they leave nothing behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use base::{Epoch, Random, Slot, WallTime};
use bytes::Bytes;
use quorate_state::limits::OVERHEAD_BYTES;
use quorate_state::{
    EntryStamp, EventKind, KeyRange, KeyValue, LEVEL_MAX, Lease, LeaseId, Limits, Revision, Space,
    State, Tie,
};

mod support;

use support::{finish_compaction, next_stamp, read, run, small_limits, write};

const ETCD: Space = Space::ETCD;

fn new_state() -> State {
    State::new(small_limits())
}

fn put(state: &mut State, key: &str, value: &str) {
    run(state, |transaction| {
        transaction.put(ETCD, key.as_bytes(), value.as_bytes(), 0);
    });
}

fn get(state: &State, key: &str) -> KeyValue {
    state
        .reader()
        .get(ETCD, key.as_bytes(), None)
        .expect("the key is there")
}

fn everything() -> KeyRange {
    KeyRange::From {
        start: Bytes::new(),
    }
}

#[test]
fn a_new_state_stands_at_revision_1_and_the_first_write_makes_2() {
    let mut state = new_state();
    assert_eq!(state.reader().revision(), Revision(1));
    assert_eq!(
        (state.reader().compacted(), state.reader().held_bytes()),
        (Revision(0), 0)
    );
    assert!(!state.compaction_pending());
    let batches = run(&mut state, |transaction| {
        assert_eq!(transaction.revision(), Revision(1));
        transaction.grant_lease(LeaseId(5), Duration::from_secs(1));
        assert_eq!(
            transaction.revision(),
            Revision(1),
            "leases make no revision"
        );
        assert_eq!(transaction.put(ETCD, b"a", b"1", 5), None);
        assert_eq!(transaction.revision(), Revision(2));
    });
    assert_eq!(state.reader().revision(), Revision(2));
    let written = KeyValue {
        key: Bytes::from_static(b"a"),
        value: Bytes::from_static(b"1"),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        lease: 5,
    };
    assert_eq!(get(&state, "a"), written);
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].events[0].kind, EventKind::Put);
    assert_eq!(batches[0].events[0].key_value, written);
    assert_eq!(batches[0].events[0].previous, None);
}

#[test]
fn generations_count_as_in_etcd() {
    let mut state = new_state();
    put(&mut state, "a", "1");
    put(&mut state, "a", "1");
    let again = get(&state, "a");
    assert_eq!(
        (again.create_revision, again.mod_revision, again.version),
        (2, 3, 2)
    );
    run(&mut state, |transaction| {
        assert!(transaction.delete(ETCD, b"a").is_some());
    });
    put(&mut state, "a", "2");
    let reborn = get(&state, "a");
    assert_eq!(
        (reborn.create_revision, reborn.mod_revision, reborn.version),
        (5, 5, 1)
    );
    assert_eq!(state.reader().get(ETCD, b"a", Some(Revision(4))), None);
    assert_eq!(
        state.reader().get(ETCD, b"a", Some(Revision(3))),
        Some(again)
    );
}

#[test]
fn what_changes_nothing_makes_no_revision() {
    let mut state = new_state();
    put(&mut state, "a", "1");
    let batches = run(&mut state, |transaction| {
        assert_eq!(transaction.delete(ETCD, b"missing"), None);
        transaction.put(ETCD, b"short-lived", b"", 0);
        assert_eq!(transaction.revision(), Revision(3));
        transaction.delete(ETCD, b"short-lived");
        assert_eq!(transaction.revision(), Revision(2));
        transaction.set_row(Space::SYSTEM, b"row", b"value");
    });
    assert!(batches.is_empty());
    assert_eq!(state.reader().revision(), Revision(2));
    assert_eq!(
        state.reader().row(Space::SYSTEM, b"row"),
        Some(Bytes::from_static(b"value"))
    );
}

#[test]
fn deleting_and_putting_in_one_transaction_creates_anew() {
    let mut state = new_state();
    put(&mut state, "a", "1");
    put(&mut state, "a", "2");
    let before = get(&state, "a");
    let batches = run(&mut state, |transaction| {
        transaction.delete(ETCD, b"a");
        transaction.put(ETCD, b"b", b"", 0);
        transaction.put(ETCD, b"a", b"3", 0);
        transaction.put(ETCD, b"a", b"4", 0);
    });
    let now = get(&state, "a");
    assert_eq!(
        (now.create_revision, now.mod_revision, now.version),
        (4, 4, 1)
    );
    let events = &batches[0].events;
    let keys: Vec<&[u8]> = events
        .iter()
        .map(|event| event.key_value.key.as_ref())
        .collect();
    assert_eq!(keys, [b"b", b"a"], "at the place of the last write");
    assert_eq!(events[1].previous, Some(before));
}

#[test]
fn several_transactions_of_an_entry_have_their_own_revisions() {
    let mut state = new_state();
    state.begin_entry(&next_stamp(&state));
    for (key, expected) in [(b"a", 2), (b"b", 3)] {
        let mut transaction = state.transaction();
        transaction.put(ETCD, key, b"", 0);
        assert_eq!(transaction.commit(), Revision(expected));
    }
    let transaction = state.transaction();
    assert_eq!(transaction.count(ETCD, &everything()), 2);
    assert_eq!(transaction.commit(), Revision(3));
    let revisions: Vec<i64> = state
        .end_entry()
        .iter()
        .map(|batch| batch.revision.0)
        .collect();
    assert_eq!(revisions, [2, 3]);
}

#[test]
fn the_base_does_not_see_own_writes() {
    let mut state = new_state();
    put(&mut state, "a", "1");
    run(&mut state, |transaction| {
        transaction.put(ETCD, b"a", b"2", 0);
        transaction.put(ETCD, b"b", b"2", 0);
        assert_eq!(transaction.base().get(ETCD, b"a", None).unwrap().value, "1");
        assert_eq!(transaction.base().count(ETCD, &everything(), None), 1);
        assert_eq!(transaction.get(ETCD, b"a").unwrap().value, "2");
        assert_eq!(transaction.count(ETCD, &everything()), 2);
    });
}

#[test]
fn a_panic_within_a_transaction_leaves_the_state_untouched() {
    let mut state = new_state();
    put(&mut state, "a", "1");
    state.begin_entry(&next_stamp(&state));
    let before = (state.digest(), state.reader().held_bytes());
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut transaction = state.transaction();
        transaction.put(ETCD, b"a", b"2", 0);
        transaction.delete(ETCD, b"a");
        transaction.put(ETCD, b"b", b"2", 0);
        transaction.set_row(Space::SYSTEM, b"row", b"value");
        transaction.compact(Revision(1));
        transaction.set_quota(1);
        // History is not compacted to a revision that does not exist.
        transaction.compact(Revision(99));
    }));
    assert!(result.is_err());
    assert_eq!((state.digest(), state.reader().held_bytes()), before);
    let mut transaction = state.transaction();
    transaction.put(ETCD, b"c", b"", 0);
    transaction.commit();
    assert_eq!(state.end_entry().len(), 1, "the entry goes on");
    assert_eq!(state.digest(), state.reader().recompute_digest());
}

#[test]
fn the_quota_counts_what_is_held_and_what_is_about_to_be() {
    let mut state = new_state();
    let row = |value: u64| 1 + value + OVERHEAD_BYTES;
    run(&mut state, |transaction| {
        transaction.set_quota(3 * row(100))
    });
    run(&mut state, |transaction| {
        assert!(transaction.room_for(3 * row(100)));
        assert!(!transaction.room_for(3 * row(100) + 1));
        transaction.put(ETCD, b"a", &[0; 100], 0);
        assert!(transaction.room_for(2 * row(100)));
        assert!(!transaction.room_for(2 * row(100) + 1));
        assert!(!transaction.room_for(u64::MAX));
    });
    assert_eq!(state.reader().held_bytes(), row(100));
    assert_eq!(state.reader().live_bytes(), 101);
    run(&mut state, |transaction| {
        transaction.put(ETCD, b"a", &[1; 100], 0);
    });
    assert_eq!(
        state.reader().held_bytes(),
        2 * row(100),
        "history is held as well"
    );
    run(&mut state, |transaction| {
        transaction.delete(ETCD, b"a");
    });
    assert_eq!(state.reader().held_bytes(), 2 * row(100) + row(0));
    assert_eq!(
        (state.reader().live_bytes(), state.reader().key_count()),
        (0, 0)
    );
    run(&mut state, |transaction| transaction.compact(Revision(4)));
    finish_compaction(&mut state);
    assert_eq!(
        state.reader().held_bytes(),
        row(0),
        "a deletion at the floor is kept"
    );
    put(&mut state, "b", "");
    run(&mut state, |transaction| transaction.compact(Revision(5)));
    finish_compaction(&mut state);
    assert_eq!(state.reader().held_bytes(), row(0));
    assert_eq!(state.reader().key_count(), 1);
}

#[test]
fn a_deletion_at_the_floor_can_still_be_watched() {
    let mut state = new_state();
    put(&mut state, "a", "1");
    run(&mut state, |transaction| {
        transaction.delete(ETCD, b"a");
    });
    run(&mut state, |transaction| transaction.compact(Revision(3)));
    finish_compaction(&mut state);
    let batches: Vec<_> = state.reader().changes(Revision(2)).collect();
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].events[0].kind, EventKind::Delete);
    assert_eq!(
        batches[0].events[0].previous, None,
        "what was before is compacted"
    );
    assert_eq!(state.reader().get(ETCD, b"a", Some(Revision(3))), None);
}

#[test]
fn compaction_is_done_in_bounded_steps() {
    let mut state = new_state();
    for _ in 0..20 {
        put(&mut state, "a", "1");
    }
    let before = state.reader().held_bytes();
    run(&mut state, |transaction| transaction.compact(Revision(21)));
    let mut entries = 1;
    let mut held = state.reader().held_bytes();
    assert!(
        held < before,
        "the first steps are done by the entry itself"
    );
    while state.compaction_pending() {
        run(&mut state, |_| {});
        assert!(held - state.reader().held_bytes() <= 3 * (2 + OVERHEAD_BYTES));
        held = state.reader().held_bytes();
        entries += 1;
    }
    assert_eq!(
        entries,
        20usize.div_ceil(3),
        "three changes are looked at per entry"
    );
    assert_eq!(held, 2 + OVERHEAD_BYTES);
}

#[test]
fn entries_without_commands_move_only_the_clocks() {
    let mut state = State::new(Limits::default());
    let stamp = |slot, wall, elapsed| EntryStamp {
        slot: Slot(slot),
        epoch: Epoch(slot),
        wall: WallTime(wall),
        elapsed,
    };
    state.skip_entry(&stamp(1, 500, Duration::from_millis(3)));
    state.skip_entry(&stamp(2, 400, Duration::from_millis(4)));
    let reader = state.reader();
    assert_eq!((reader.applied(), reader.epoch()), (Slot(2), Epoch(2)));
    assert_eq!(reader.wall(), WallTime(500), "wall time never goes back");
    assert_eq!(reader.clock(), Duration::from_millis(7));
    assert_eq!(reader.revision(), Revision(1));
    state.skip_entry(&stamp(3, 0, Duration::MAX));
    assert_eq!(state.reader().clock(), Duration::MAX, "the clock saturates");
}

#[test]
#[should_panic(expected = "does not follow")]
fn entries_come_in_order() {
    let mut state = new_state();
    let stamp = next_stamp(&state);
    state.skip_entry(&EntryStamp {
        slot: stamp.slot.next(),
        ..stamp
    });
}

#[test]
#[should_panic(expected = "compacted or in the future")]
fn a_compacted_revision_is_never_answered() {
    let mut state = new_state();
    put(&mut state, "a", "1");
    put(&mut state, "a", "2");
    run(&mut state, |transaction| transaction.compact(Revision(3)));
    let _ = state.reader().get(ETCD, b"a", Some(Revision(2)));
}

#[test]
fn the_level_only_rises() {
    let mut state = new_state();
    assert_eq!(state.reader().level(), 1);
    run(&mut state, |transaction| {
        transaction.raise_level(LEVEL_MAX + 1)
    });
    run(&mut state, |transaction| transaction.raise_level(1));
    assert_eq!(state.reader().level(), LEVEL_MAX + 1);
}

#[test]
fn a_level_counts_from_the_next_entry_on() {
    let mut state = new_state();
    state.begin_entry(&next_stamp(&state));
    let mut transaction = state.transaction();
    transaction.raise_level(LEVEL_MAX + 1);
    transaction.commit();
    assert_eq!(state.reader().level(), LEVEL_MAX);
    assert_eq!(state.transaction().base().level(), LEVEL_MAX);
    let _ = state.end_entry();
    assert_eq!(state.reader().level(), LEVEL_MAX + 1);
}

#[test]
fn reads_share_what_is_stored() {
    let mut state = new_state();
    let network_frame = Bytes::from(vec![7; 1000]);
    run(&mut state, |transaction| {
        transaction.put(ETCD, &network_frame[..10], &network_frame[10..20], 0);
    });
    let first = state
        .reader()
        .get(ETCD, &network_frame[..10], None)
        .unwrap();
    let second = state
        .reader()
        .get(ETCD, &network_frame[..10], None)
        .unwrap();
    assert_eq!(first.value.as_ptr(), second.value.as_ptr());
    assert_eq!(first.key.as_ptr(), second.key.as_ptr());
    let frame = network_frame.as_ptr_range();
    assert!(
        !frame.contains(&first.value.as_ptr()),
        "copied out of the frame"
    );
}

fn lease_keys(state: &State, id: i64) -> Vec<String> {
    let keys = state.reader().lease_keys(LeaseId(id));
    keys.map(|(_, key)| String::from_utf8_lossy(key).into_owned())
        .collect()
}

#[test]
fn a_revoked_lease_takes_its_keys_along_at_one_revision_in_key_order() {
    let mut state = new_state();
    run(&mut state, |transaction| {
        transaction.grant_lease(LeaseId(-7), Duration::from_secs(1));
        transaction.grant_lease(LeaseId(7), Duration::from_secs(1));
        for key in ["c", "a", "e", "b", "d", "f"] {
            transaction.put(ETCD, key.as_bytes(), b"1", 7);
        }
    });
    run(&mut state, |transaction| {
        transaction.put(ETCD, b"b", b"2", 0);
        transaction.put(ETCD, b"d", b"2", -7);
        transaction.delete(ETCD, b"f");
    });
    assert_eq!(lease_keys(&state, 7), ["a", "c", "e"]);
    assert_eq!(lease_keys(&state, -7), ["d"]);
    let before = state.reader().revision();
    let batches = run(&mut state, |transaction| {
        // What the same command has attached and detached counts.
        transaction.put(ETCD, b"aa", b"1", 7);
        transaction.put(ETCD, b"c", b"2", 0);
        assert_eq!(transaction.revoke_lease(LeaseId(7)), Some(3));
        assert_eq!(transaction.revoke_lease(LeaseId(7)), None);
        assert_eq!(transaction.lease(LeaseId(7)), None);
    });
    assert_eq!(state.reader().revision(), Revision(before.0 + 1));
    assert_eq!(batches.len(), 1);
    let events: Vec<(EventKind, &[u8])> = batches[0]
        .events
        .iter()
        .map(|event| (event.kind, event.key_value.key.as_ref()))
        .collect();
    let deleted = EventKind::Delete;
    assert_eq!(
        events,
        [
            (EventKind::Put, &b"c"[..]),
            (deleted, b"a"),
            (deleted, b"e")
        ],
        "a key that came and went within the command is no change"
    );
    assert_eq!(state.reader().lease(LeaseId(7)), None);
    assert!(state.reader().lease(LeaseId(-7)).is_some());
    assert_eq!(lease_keys(&state, 7), [""; 0]);
}

#[test]
fn a_lease_ends_only_when_it_is_over_and_was_not_renewed_since() {
    let mut state = new_state();
    let id = LeaseId(1);
    // Each entry takes 10 ms of the group's clock.
    run(&mut state, |transaction| {
        transaction.grant_lease(id, Duration::from_millis(25));
        transaction.put(ETCD, b"a", b"1", 1);
    });
    let seen = state.reader().lease(id).expect("it was granted").deadline;
    assert_eq!(seen, Duration::from_millis(35));
    let expire = |state: &mut State, seen| {
        let mut result = None;
        run(state, |transaction| {
            result = transaction.expire_lease(id, seen)
        });
        result
    };
    assert_eq!(expire(&mut state, seen), None, "it is not over at 20 ms");
    assert_eq!(expire(&mut state, seen), None, "it is not over at 30 ms");
    run(&mut state, |transaction| {
        let renewed = transaction
            .renew_lease(id)
            .expect("it is over, but has not ended");
        assert_eq!(renewed.deadline, Duration::from_millis(65));
    });
    assert_eq!(expire(&mut state, seen), None, "renewed since");
    let seen = Duration::from_millis(65);
    assert_eq!(expire(&mut state, seen), None, "it is not over at 60 ms");
    assert_eq!(expire(&mut state, seen), Some(1), "it is over at 70 ms");
    assert_eq!(expire(&mut state, seen), None, "it has ended");
    assert_eq!(state.reader().key_count(), 0);
    assert_eq!(state.reader().lease_count(), 0);
}

/// However many are renewed together, and in whatever order they are named.
#[test]
fn leases_renewed_together_are_as_if_each_was_renewed() {
    let mut random = Random::from_seed(8);
    let (mut alone, mut together) = (new_state(), new_state());
    for state in [&mut alone, &mut together] {
        for id in (1..=500).map(LeaseId) {
            run(state, |transaction| {
                transaction.grant_lease(id, Duration::from_secs(60 + id.0 as u64 % 3));
                transaction.put(ETCD, &id.0.to_be_bytes(), b"v", id.0);
            });
        }
    }
    let mut seen = Vec::new();
    for round in 0..40 {
        let count = [0, 1, 2, 30, 700][round % 5];
        let ids: Vec<LeaseId> = (0..count)
            .map(|_| LeaseId(random.below(520) as i64 - 10))
            .collect();
        let before = (together.snapshot(), together.digest());
        let expected: Vec<Option<Duration>> = {
            let mut granted = Vec::new();
            run(&mut alone, |transaction| {
                let renewed = ids.iter().map(|id| transaction.renew_lease(*id));
                granted.extend(renewed.map(|lease| lease.map(|lease| lease.granted)));
            });
            granted
        };
        together.begin_entry(&next_stamp(&together));
        assert_eq!(together.renew_leases(&ids), expected);
        // Once more in the same entry changes nothing.
        assert_eq!(together.renew_leases(&ids), expected);
        assert!(together.end_entry().is_empty(), "no revision");
        assert_eq!(together.digest(), alone.digest());
        assert_eq!(before.0.digest(), before.1, "a snapshot stays what it was");
        let leases = |state: &State| -> Vec<_> { state.reader().leases_by_deadline().collect() };
        assert_eq!(leases(&together), leases(&alone));
        assert_eq!(together.reader().held_bytes(), alone.reader().held_bytes());
        seen.push(write(together.snapshot(), small_limits()));
        assert_eq!(seen.last(), Some(&write(alone.snapshot(), small_limits())));
    }
    seen.dedup();
    assert!(seen.len() > 30, "something was renewed");
    let read = read(seen.last().expect("40 rounds"), small_limits(), 1000).expect("it is sound");
    assert_eq!(read.digest(), together.digest(), "counted from nothing");
}

#[test]
#[should_panic(expected = "leases that do not exist")]
fn nothing_is_attached_to_a_lease_that_does_not_exist() {
    run(&mut new_state(), |transaction| {
        transaction.put(ETCD, b"a", b"1", 5);
    });
}

#[test]
fn renewals_leave_the_index_behind_and_nobody_sees_it() {
    let mut random = Random::from_seed(11);
    let mut state = new_state();
    let (mut followed, mut ended) = (0, 0);
    for round in 0..2_000 {
        let id = LeaseId(1 + random.below(60) as i64);
        let known = state.reader().lease(id);
        let time = Duration::from_millis(10 * (1 + random.below(40)));
        run(&mut state, |transaction| match known {
            None => {
                transaction.grant_lease(id, time);
            }
            // It begins anew as another one, which may end before the old one would have.
            Some(_) if random.below(20) == 0 => {
                transaction.revoke_lease(id);
                transaction.grant_lease(id, time);
            }
            Some(_) if random.below(20) == 0 => {
                transaction.revoke_lease(id);
            }
            Some(_) => {
                transaction.renew_lease(id);
            }
        });
        state.begin_entry(&next_stamp(&state));
        state.renew_leases(&[1, 2, 3, 4].map(LeaseId));
        assert!(state.end_entry().is_empty(), "no revision");
        let clock = state.reader().clock();
        let by_deadline: Vec<Lease> = state.reader().leases_by_deadline().collect();
        assert!(by_deadline.is_sorted_by_key(|lease| (lease.deadline, lease.id)));
        assert_eq!(state.reader().lease_count(), by_deadline.len() as u64);
        let first = by_deadline.first().map(|lease| lease.deadline);
        assert!(state.reader().no_lease_due_before() <= first);
        let over = |state: &State| -> Vec<LeaseId> {
            let mut over: Vec<_> = state.reader().leases_due(clock, usize::MAX).collect();
            over.sort_by_key(|(id, deadline)| (*deadline, *id));
            over.into_iter().map(|(id, _)| id).collect()
        };
        let expected = by_deadline.iter().filter(|lease| lease.deadline <= clock);
        let expected: Vec<LeaseId> = expected.map(|lease| lease.id).collect();
        assert_eq!(over(&state), expected);
        let (digest, before) = (state.digest(), state.reader().no_lease_due_before());
        state.settle_leases(clock, [1, 3, usize::MAX][round % 3]);
        followed += u32::from(state.reader().no_lease_due_before() != before);
        assert_eq!(state.digest(), digest);
        assert_eq!(over(&state), expected);
        if round % 3 == 2 && expected.is_empty() && first.is_some() {
            assert!(
                state.reader().no_lease_due_before() > Some(clock),
                "all have moved"
            );
        }
        for lease in by_deadline.iter().take(expected.len()).step_by(2) {
            run(&mut state, |transaction| {
                let keys = transaction.expire_lease(lease.id, lease.deadline);
                ended += u32::from(keys.is_some());
            });
        }
    }
    assert!(followed > 100 && ended > 100, "{followed} {ended}");
}

#[test]
fn what_was_never_settled_is_looked_at_once_however_much_it_is() {
    let mut state = new_state();
    let count = 1_000;
    let ids: Vec<LeaseId> = (1..=count).map(LeaseId).collect();
    run(&mut state, |transaction| {
        for id in &ids {
            transaction.grant_lease(*id, Duration::from_secs(2));
        }
        // Its place is behind those of all others, and only it is going to be over.
        transaction.grant_lease(LeaseId(count + 1), Duration::from_millis(2_001));
    });
    let second = Duration::from_secs(1);
    for _ in 0..3 {
        let stamp = next_stamp(&state);
        state.begin_entry(&EntryStamp {
            elapsed: second,
            ..stamp
        });
        state.renew_leases(&ids);
        assert!(state.end_entry().is_empty(), "no revision");
    }
    let clock = state.reader().clock();
    let over = |state: &State, most| state.reader().leases_due(clock, most).count();
    assert_eq!(over(&state, count as usize), 0, "it looks at so many");
    assert_eq!(over(&state, count as usize + 1), 1);
    // A few in each pass, and none of them twice.
    let mut passes = 1;
    while !state.settle_leases(clock, 64) {
        passes += 1;
        assert!(passes <= count / 64 + 1, "each is settled once");
    }
    assert_eq!(passes, count / 64 + 1);
    assert_eq!(over(&state, 1), 1, "what is over is at the front");
    assert!(state.settle_leases(clock, 2), "only that one is left");
    assert!(
        !state.settle_leases(clock, 1),
        "nobody has looked behind it"
    );
}

/// A state in which the lease 7 of slot 90 of another group is followed, with a key.
fn tied_state() -> State {
    let mut state = new_state();
    run(&mut state, |transaction| {
        let lease = transaction.tie_lease(&tie(90)).expect("the id is free");
        assert_eq!(
            (lease.parent, lease.granted),
            (Some(Slot(90)), tie(90).granted)
        );
        transaction.put(ETCD, b"a", b"1", 7);
    });
    assert!(state.reader().has_tied_leases());
    state
}

fn tie(parent: u64) -> Tie {
    Tie {
        id: LeaseId(7),
        granted: Duration::from_secs(2),
        parent: Slot(parent),
    }
}

#[test]
fn a_tied_lease_ends_with_the_one_that_it_is_tied_to_and_not_otherwise() {
    let mut state = tied_state();
    // Its own time does not end it, and nobody renews it.
    let deadline = state
        .reader()
        .lease(LeaseId(7))
        .expect("it is there")
        .deadline;
    run(&mut state, |transaction| {
        assert_eq!(transaction.renew_lease(LeaseId(7)), None);
        assert_eq!(transaction.expire_lease(LeaseId(7), deadline), None);
        assert_eq!(
            transaction.untie_lease(LeaseId(7), Slot(89)),
            None,
            "known too early"
        );
    });
    state.begin_entry(&next_stamp(&state));
    assert_eq!(state.renew_leases(&[LeaseId(7), LeaseId(8)]), [None, None]);
    assert!(state.end_entry().is_empty());
    assert_eq!(state.reader().lease_keys(LeaseId(7)).count(), 1);
    // Told late, or twice: it stays what it is.
    run(&mut state, |transaction| {
        assert!(transaction.tie_lease(&tie(80)).is_some());
        assert!(transaction.tie_lease(&tie(90)).is_some());
    });
    let lease = state.reader().lease(LeaseId(7)).expect("it is there");
    assert_eq!(lease.parent, Some(Slot(90)));
    run(&mut state, |transaction| {
        assert_eq!(transaction.untie_lease(LeaseId(7), Slot(90)), Some(1));
    });
    assert!(!state.reader().has_tied_leases());
    assert!(state.reader().get(ETCD, b"a", None).is_none());
}

#[test]
fn what_was_tied_to_an_earlier_lease_of_the_same_id_ends_with_that() {
    let mut state = tied_state();
    run(&mut state, |transaction| {
        assert!(transaction.tie_lease(&tie(95)).is_some());
    });
    assert!(state.reader().get(ETCD, b"a", None).is_none());
    run(&mut state, |transaction| {
        transaction.put(ETCD, b"b", b"1", 7);
        assert_eq!(transaction.untie_lease(LeaseId(7), Slot(94)), None);
    });
    assert!(state.reader().get(ETCD, b"b", None).is_some());
    let tied = |after| state.reader().tied_leases(after).count();
    assert_eq!(
        (tied(None), tied(Some(LeaseId(6))), tied(Some(LeaseId(7)))),
        (1, 1, 0)
    );
}

#[test]
fn a_lease_of_the_groups_own_is_never_taken_for_another_ones() {
    let mut state = new_state();
    run(&mut state, |transaction| {
        transaction.grant_lease(LeaseId(7), Duration::from_secs(5));
        transaction.put(ETCD, b"own", b"1", 7);
    });
    run(&mut state, |transaction| {
        assert_eq!(transaction.tie_lease(&tie(90)), None);
        assert_eq!(transaction.untie_lease(LeaseId(7), Slot(99)), None);
    });
    assert!(!state.reader().has_tied_leases());
    assert!(state.reader().get(ETCD, b"own", None).is_some());
}
