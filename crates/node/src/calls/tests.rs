//! What waits, for how long, and what is sent when.

use super::*;

const ORDINARY: Admittance = Admittance::Ordinary;

fn calls() -> Calls {
    let limits = CallLimits {
        command_bytes: 1000,
        reserved_bytes: 100,
        window_bytes: 100,
        resend_after: Duration::from_nanos(1000),
    };
    Calls::new(limits, 0)
}

fn sent(calls: &mut Calls, now: u64) -> Vec<u64> {
    let taken = calls.take_unsent(Instant(now));
    taken.iter().map(|each| each.sequence).collect()
}

fn call(calls: &mut Calls, id: u64, at: u64) {
    calls.open(CallId(id), CallKind::Etcd, Instant(at));
    let waiter = Waiter::Call {
        call: CallId(id),
        until_compacted: false,
    };
    calls
        .add_command(
            1,
            Bytes::from(vec![id as u8]),
            waiter,
            Instant(at),
            ORDINARY,
        )
        .expect("there is room");
}

fn expired(id: u64, kind: CallKind, late: Late, has_left: Option<bool>) -> Expired {
    Expired {
        call: CallId(id),
        kind,
        late,
        has_left,
    }
}

#[test]
fn refused_commands_are_sent_again_in_order_and_executed_ones_are_not() {
    let mut calls = calls();
    (1..=3).for_each(|id| call(&mut calls, id, 100));
    assert_eq!(sent(&mut calls, 0), [1, 2, 3]);
    assert!(!calls.can_send(Instant(0)));
    calls.refused([3, 1], Some(Instant(10)));
    assert!(!calls.can_send(Instant(9)), "put off");
    assert!(
        calls.executed(1).is_some(),
        "it was proposed after all, by an earlier attempt"
    );
    assert!(calls.can_send(Instant(10)));
    assert_eq!(sent(&mut calls, 0), [3]);
    calls.resend_everything();
    assert_eq!(sent(&mut calls, 0), [2, 3]);
}

#[test]
fn a_call_is_answered_once_in_time_or_not() {
    let mut calls = calls();
    call(&mut calls, 1, 100);
    call(&mut calls, 2, 200);
    let late = expired(1, CallKind::Etcd, Late::Proposal, Some(false));
    assert_eq!(calls.expire(Instant(100)), [late]);
    assert_eq!(calls.executed(1), None, "its time was up");
    assert!(calls.executed(2).is_some());
    assert_eq!(calls.close(CallId(2)), Some(CallKind::Etcd));
    assert_eq!(calls.expire(Instant(300)), []);
}

#[test]
fn reads_wait_for_their_round_and_then_for_their_slot() {
    let mut calls = calls();
    calls.open(CallId(1), CallKind::Ready, Instant(100));
    calls.add_read(CallId(1), ReadKind::Ready);
    let ticket = calls.begin_round(Instant(0)).expect("a read waits");
    assert!(
        calls.begin_round(Instant(0)).is_none(),
        "nothing else waits"
    );
    assert!(calls.round_refused(ticket, Instant(0), Duration::from_nanos(5)));
    assert!(calls.begin_round(Instant(4)).is_none(), "put off");
    let ticket = calls.begin_round(Instant(5)).expect("the pause is over");
    calls.round_ready(ticket, Slot(7));
    assert!(calls.take_ready(Slot(6)).is_empty());
    assert_eq!(calls.take_ready(Slot(7)).len(), 1);
}

/// Where nobody leads, or a replica is slow, clients give up before the node does. What they had
/// asked for was kept until some other call's time was up, and that was never if all gave up.
#[test]
fn reads_that_their_clients_have_given_up_do_not_pile_up() {
    let mut calls = calls();
    let ask = |calls: &mut Calls, id| {
        calls.open(CallId(id), CallKind::Ready, Instant(1_000_000));
        calls.add_read(CallId(id), ReadKind::Ready);
    };
    // One is waited for all the time.
    ask(&mut calls, 0);
    for id in 1..=1000 {
        ask(&mut calls, id);
        let ticket = calls.begin_round(Instant(id)).expect("a read waits");
        calls.forget(Instant(id), CallId(id));
        assert!(calls.round_refused(ticket, Instant(id), Duration::ZERO));
        assert!(calls.unasked.len() <= 2 * GIVEN_UP_LEAST);
    }
    let ticket = calls.begin_round(Instant(1001)).expect("a read waits");
    calls.round_ready(ticket, Slot(7));
    for id in 1001..=2000 {
        ask(&mut calls, id);
        let ticket = calls.begin_round(Instant(id)).expect("a read waits");
        calls.round_ready(ticket, Slot(7));
        calls.forget(Instant(id), CallId(id));
        let kept: usize = calls.waiting.values().map(Vec::len).sum();
        assert!(kept <= 2 * GIVEN_UP_LEAST);
    }
    let ready = calls.take_ready(Slot(7));
    assert!(ready.iter().any(|read| read.call == Some(CallId(0))));
}

#[test]
fn a_window_bounds_what_is_on_its_way_and_execution_gives_room() {
    let mut calls = calls();
    (1..=6).for_each(|id| call(&mut calls, id, 100));
    // Each counts for one byte and its overhead of 29: the fourth crosses the window of 100.
    assert_eq!(sent(&mut calls, 0), [1, 2, 3, 4]);
    assert!(!calls.can_send(Instant(0)), "the window is full");
    calls.executed(1);
    assert!(calls.can_send(Instant(0)));
    assert_eq!(sent(&mut calls, 0), [5]);
    calls.refused([2, 3], None);
    assert_eq!(sent(&mut calls, 0), [2, 3]);
}

#[test]
fn what_does_not_fit_is_refused_and_what_never_left_can_be_forgotten() {
    let mut calls = calls();
    let waiter = |id| Waiter::Call {
        call: CallId(id),
        until_compacted: false,
    };
    calls.open(CallId(1), CallKind::Etcd, Instant(100));
    let large = Bytes::from(vec![0; 900]);
    assert_eq!(
        calls.add_command(1, large.clone(), waiter(1), Instant(100), ORDINARY),
        Ok(())
    );
    assert_eq!(
        calls.add_command(1, large.clone(), waiter(2), Instant(100), ORDINARY),
        Err(NoRoom)
    );
    calls.forget(Instant(0), CallId(1));
    assert_eq!(
        calls.add_command(1, large.clone(), waiter(2), Instant(100), ORDINARY),
        Ok(())
    );
    // Once it has left, only execution or time ends it.
    assert_eq!(sent(&mut calls, 0), [2]);
    calls.forget(Instant(0), CallId(2));
    assert_eq!(
        calls.add_command(1, large, waiter(3), Instant(100), ORDINARY),
        Err(NoRoom)
    );
    calls.expire(Instant(100));
    assert_eq!(calls.command_bytes, 0);
    assert_eq!(calls.sent_bytes, 0);
}

#[test]
fn what_makes_room_is_let_in_when_others_are_not_and_within_bounds() {
    let mut calls = calls();
    let mut add = |bytes: usize, admittance| {
        let (bytes, waiter) = (Bytes::from(vec![0; bytes]), Waiter::Nobody);
        calls.add_command(1, bytes, waiter, Instant(100), admittance)
    };
    assert_eq!(add(1000 - COMMAND_OVERHEAD, ORDINARY), Ok(()));
    assert_eq!(add(1, ORDINARY), Err(NoRoom));
    assert_eq!(add(100 - COMMAND_OVERHEAD, Admittance::Reserved), Ok(()));
    assert_eq!(add(1, Admittance::Reserved), Err(NoRoom));
}

#[test]
fn a_command_without_an_answer_is_sent_again_and_nothing_is_due_without_a_leader() {
    let mut calls = calls();
    call(&mut calls, 1, 5000);
    assert_eq!(sent(&mut calls, 0), [1]);
    assert_eq!(calls.deadline(true), Some(Instant(1000)));
    assert_eq!(calls.deadline(false), Some(Instant(5000)));
    calls.expire(Instant(1000));
    assert_eq!(sent(&mut calls, 1000), [1]);
    calls.refused([1], Some(Instant(1020)));
    assert_eq!(calls.deadline(true), Some(Instant(1020)));
    assert_eq!(
        calls.deadline(false),
        Some(Instant(5000)),
        "there is nobody to send to"
    );
}

#[test]
fn calls_expire_each_at_its_own_time() {
    let mut calls = calls();
    calls.open(CallId(1), CallKind::Operator, Instant(200));
    calls.open(CallId(2), CallKind::Etcd, Instant(100));
    let late = |id, kind| expired(id, kind, Late::Read, None);
    assert_eq!(calls.expire(Instant(100)), [late(2, CallKind::Etcd)]);
    assert_eq!(calls.expire(Instant(200)), [late(1, CallKind::Operator)]);
}

#[test]
fn a_call_whose_time_is_up_says_whether_its_command_has_left() {
    let mut calls = calls();
    call(&mut calls, 1, 100);
    call(&mut calls, 2, 100);
    assert_eq!(sent(&mut calls, 0), [1, 2]);
    calls.refused([2], None);
    call(&mut calls, 3, 100);
    for id in [4, 5] {
        calls.open(CallId(id), CallKind::Renewals, Instant(100));
        calls.set_late(CallId(id), Late::ForLeader);
    }
    let renewals = [4, 5].map(|id| Renewals {
        call: CallId(id),
        leases: vec![LeaseId(id as i64)],
        refused: Vec::new(),
    });
    let (waiter, at) = (Waiter::Renewals(renewals.into()), Instant(100));
    assert_eq!(
        calls.add_command(2, Bytes::new(), waiter, at, ORDINARY),
        Ok(())
    );
    calls.forget(Instant(0), CallId(4));
    let of_call = |id, left| expired(id, CallKind::Etcd, Late::Proposal, Some(left));
    let of_renewal = expired(5, CallKind::Renewals, Late::ForLeader, Some(false));
    assert_eq!(
        calls.expire(Instant(100)),
        [
            of_call(1, true),
            // Nobody knows whether a command that was refused once had not been proposed before.
            of_call(2, true),
            of_call(3, false),
            of_renewal
        ],
    );
}

#[test]
fn a_renewal_that_is_told_it_was_not_sent_is_not_sent_later() {
    let mut calls = calls();
    let renew = |calls: &mut Calls, call: u64, at: u64| {
        let renewals = Renewals {
            call: CallId(call),
            leases: Vec::new(),
            refused: Vec::new(),
        };
        let waiter = Waiter::Renewals(vec![renewals]);
        let added = calls.add_command(1, Bytes::new(), waiter, Instant(at), ORDINARY);
        added.expect("there is room");
    };
    let has_left = |calls: &mut Calls, at: u64| {
        let expired = calls.expire(Instant(at));
        assert_eq!(expired.len(), 1);
        expired[0].has_left
    };
    // One whose time is up later stands before it.
    call(&mut calls, 9, 1000);
    assert_eq!(sent(&mut calls, 0), [1]);
    calls.open(CallId(1), CallKind::Etcd, Instant(100));
    renew(&mut calls, 1, 100);
    assert_eq!(has_left(&mut calls, 100), Some(false));
    assert!(sent(&mut calls, 100).is_empty());

    // What was sent, came to nothing that is known, and waits to be sent again.
    calls.open(CallId(2), CallKind::Etcd, Instant(200));
    renew(&mut calls, 2, 200);
    assert_eq!(sent(&mut calls, 150), [3]);
    assert!(calls.executed(3).is_some());
    renew(&mut calls, 2, 400);
    assert_eq!(has_left(&mut calls, 200), Some(true));
}
