//! Saved states that begin anew, and hashes of history.

use std::time::Duration;

use bytes::Bytes;
use quorate_state::{Fate, KeyRange, LeaseId, Revision, Space, State};

mod support;

use base::{Epoch, Incarnation, NodeId, Random};
use quorate_state::Origin;
use support::{finish_compaction, next_stamp, read, run, small_limits, write};

const EVERYTHING: KeyRange = KeyRange::From {
    start: bytes::Bytes::new(),
};

/// A state with history, leases, rows and origins, compacted half-way.
fn sample() -> State {
    let mut state = State::new(small_limits());
    run(&mut state, |transaction| {
        transaction.grant_lease(LeaseId(7), Duration::from_secs(60));
        transaction.set_row(Space::SYSTEM, b"kept", b"x");
        transaction.set_row(Space::SYSTEM, b"dropped", b"x");
        transaction.set_row(Space::SYSTEM, b"replaced", b"old");
        transaction.set_row(Space::MEMBERS, b"a member", b"x");
    });
    for number in 0..40u8 {
        run(&mut state, |transaction| {
            let key = [b'k', number % 8];
            if number % 5 == 4 {
                transaction.delete(Space::ETCD, &key);
            } else {
                let lease = if number % 8 == 3 { 7 } else { 0 };
                transaction.put(Space::ETCD, &key, &[number], lease);
            }
        });
    }
    state.begin_entry(&next_stamp(&state));
    state.admit(Origin {
        node: NodeId(5),
        incarnation: Incarnation(1),
        sequence: 9,
    });
    let _ = state.end_entry();
    run(&mut state, |transaction| transaction.compact(Revision(20)));
    state
}

#[test]
fn a_state_that_begins_anew_keeps_its_keys_and_nothing_of_its_cluster() {
    let mut state = sample();
    let before: Vec<_> = state
        .reader()
        .range(Space::ETCD, &EVERYTHING, None)
        .collect();
    let revision = state.reader().revision().0;
    state.begin_anew(1000, |space, key| match (space, key) {
        (Space::SYSTEM, b"dropped") => Fate::Dropped,
        (Space::SYSTEM, b"replaced") => Fate::Replaced(Bytes::from_static(b"new")),
        _ => Fate::Kept,
    });
    let check = |state: &State| {
        let reader = state.reader();
        assert_eq!(reader.digest(), reader.recompute_digest());
        assert_eq!(reader.revision(), Revision(revision + 1000));
        assert_eq!(reader.compacted(), reader.revision());
        assert_eq!(reader.epoch(), Epoch(0));
        let after = reader.range(Space::ETCD, &EVERYTHING, None);
        assert!(after.eq(before.clone()), "every key is as it was");
        assert_eq!(reader.rows(Space::MEMBERS).count(), 0);
        assert_eq!(reader.rows(Space::ORIGINS).count(), 0);
        assert!(reader.row(Space::SYSTEM, b"kept").is_some());
        assert!(reader.row(Space::SYSTEM, b"dropped").is_none());
        let replaced = reader.row(Space::SYSTEM, b"replaced");
        assert_eq!(replaced, Some(Bytes::from_static(b"new")));
        let lease = reader.lease(LeaseId(7)).expect("leases are kept");
        assert_eq!(lease.deadline, reader.clock() + Duration::from_secs(60));
        assert!(
            reader.lease_keys(LeaseId(7)).next().is_some(),
            "with their keys"
        );
    };
    check(&state);
    let bytes = write(state.snapshot(), small_limits());
    let mut again = read(&bytes, small_limits(), 1000).expect("it was just written");
    check(&again);
    // It goes on, and what is out of reach is freed.
    let held = again.reader().held_bytes();
    for state in [&mut state, &mut again] {
        run(state, |transaction| {
            transaction.put(Space::ETCD, b"new", b"x", 0);
        });
        finish_compaction(state);
        assert!(state.reader().held_bytes() < held);
        assert_eq!(state.reader().digest(), state.reader().recompute_digest());
        let new = state
            .reader()
            .get(Space::ETCD, b"new", None)
            .expect("it is there");
        assert_eq!(new.mod_revision, revision + 1001);
    }
    assert_eq!(state.digest(), again.digest());
}

#[test]
fn a_revision_hashes_the_same_before_and_after_compaction_and_later_writes() {
    let hash_at = |state: &State, revision| {
        let reader = state.reader();
        let hash = reader.keyspace_hash(Revision(revision), &|| true);
        hash.expect("it is wanted to the end")
    };
    let mut random = Random::from_seed(9);
    for round in 0..50u64 {
        let mut state = State::new(small_limits());
        let mut hashes = Vec::new();
        let change = |state: &mut State, random: &mut Random| {
            run(state, |transaction| {
                let key = [b'k', random.below(5) as u8];
                if random.below(3) == 0 {
                    transaction.delete(Space::ETCD, &key);
                } else {
                    transaction.put(Space::ETCD, &key, &[random.below(200) as u8], 0);
                }
            });
        };
        for _ in 0..30 {
            change(&mut state, &mut random);
        }
        let latest = state.reader().revision().0;
        let floor = 2 + (random.below(latest as u64 - 2)) as i64;
        for revision in floor..=latest {
            hashes.push(hash_at(&state, revision));
        }
        run(&mut state, |transaction| {
            transaction.compact(Revision(floor))
        });
        // The floor's compaction ends, further changes come: nothing of it shows.
        finish_compaction(&mut state);
        for _ in 0..10 {
            change(&mut state, &mut random);
        }
        for (revision, hash) in (floor..=latest).zip(&hashes) {
            let now = hash_at(&state, revision);
            assert_eq!(
                now, *hash,
                "round {round}, revision {revision}, floor {floor}"
            );
        }
        let shows = hashes.windows(2).all(|pair| pair[0] != pair[1]);
        assert!(shows, "every change shows");
    }
}
