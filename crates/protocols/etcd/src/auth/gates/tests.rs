//! What is known of users never differs from what the state says, whatever changes in between.

use std::time::Duration;

use base::{Epoch, Random, Slot, WallTime};
use state::{EntryStamp, Limits, Space, State, Transaction};

use super::super::rows::{self, Kind, PermissionRef, User};
use super::*;
use crate::span::KeySpan;

/// More than are known at a time.
const NAMES: u64 = 2 * USERS as u64;
const ROLES: u64 = 4;

fn change(state: &mut State, write: impl FnOnce(&mut Transaction<'_>)) {
    let slot = Slot(state.reader().applied().0 + 1);
    state.begin_entry(&EntryStamp {
        slot,
        epoch: Epoch(1),
        wall: WallTime(0),
        elapsed: Duration::ZERO,
    });
    let mut transaction = state.transaction();
    write(&mut transaction);
    transaction.commit();
    let _ = state.end_entry();
}

fn name(number: u64) -> String {
    format!("n{number}")
}

/// Writes some user, role or status, or something that is none of them.
fn change_something(state: &mut State, random: &mut Random) {
    let (which, what) = (name(random.below(NAMES)), random.below(ROLES));
    match random.below(8) {
        0 => change(state, |transaction| {
            let status = rows::status(transaction);
            rows::set_status(
                transaction,
                Status {
                    is_enabled: what != 0,
                    revision: status.revision + 1,
                },
            );
        }),
        1..=3 => change(state, |transaction| {
            let user = User {
                roles: (what > 0).then(|| name(what - 1)).into_iter().collect(),
                ..User::default()
            };
            transaction.set_row(Space::USERS, which.as_bytes(), &user.encode());
        }),
        4 => change(state, |transaction| {
            transaction.delete_row(Space::USERS, which.as_bytes());
        }),
        5 => change(state, |transaction| {
            let key = name(random.below(3));
            let role = rows::encode_role(&[PermissionRef {
                kind: Kind::Both,
                key: key.as_bytes(),
                range_end: b"",
            }]);
            transaction.set_row(Space::ROLES, name(what).as_bytes(), &role);
        }),
        _ => change(state, |transaction| {
            transaction.put(Space::ETCD, which.as_bytes(), b"", 0);
        }),
    }
}

#[test]
fn what_is_known_is_what_the_state_says() {
    let mut random = Random::from_seed(7);
    let mut state = State::new(Limits::default());
    let mut gates = Gates::default();
    let (mut allowed, mut refused) = (0, 0);
    for _ in 0..20_000 {
        if random.below(6) == 0 {
            change_something(&mut state, &mut random);
        }
        let (user, key) = (name(random.below(NAMES)), name(random.below(3)));
        let caller = CallerRef {
            user: &user,
            revision: rows::status(state.reader())
                .revision
                .saturating_sub(random.below(2)),
        };
        let caller = (random.below(9) > 0).then_some(caller);
        let may_write = |gate: Option<&Gate>| {
            gate.is_none_or(|gate| gate.may_write(&KeySpan::Single(key.as_bytes())).is_ok())
        };
        let known = gates.open(state.reader(), caller).map(may_write);
        let said = Gate::open(state.reader(), caller).map(|gate| may_write(gate.as_ref()));
        assert_eq!(known, said, "{caller:?}");
        assert!(gates.users.len() <= USERS);
        match said {
            Ok(true) => allowed += 1,
            _ => refused += 1,
        }
    }
    assert!(allowed > 1000 && refused > 1000, "{allowed} {refused}");
}
