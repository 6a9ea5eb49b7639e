//! Transactions in their corners: conditions, branches, nesting, overlaps, what inner answers say.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod harness;

use harness::{
    Keyspace, bytes, compare, compare_value, compare_version, delete, op, op_delete, op_put,
    op_range, op_txn, put, single, span, then, txn,
};
use prost::Message;
use quorate_etcd::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_etcd::proto::etcdserverpb::request_op::Request as Operation;
use quorate_etcd::proto::etcdserverpb::response_op::Response as Answer;
use quorate_etcd::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use quorate_etcd::{Error, Plan, Request, RequestLimits, Response, plan};

use CompareResult::{Equal, Greater, Less, NotEqual};

/// a=1 (revisions 2, 3: version 2), b=2 (revision 4).
fn letters() -> Keyspace {
    let mut keyspace = Keyspace::default();
    keyspace.fill(&[("a", "0"), ("a", "1"), ("b", "2")]);
    keyspace
}

fn succeeds(keyspace: &mut Keyspace, compare: Vec<Compare>) -> bool {
    keyspace
        .txn(txn(compare, vec![], vec![]))
        .unwrap()
        .succeeded
}

#[test]
fn conditions_on_one_key() {
    let mut keyspace = letters();
    // target, what "a" has
    type Union = fn(i64) -> TargetUnion;
    let numbers: [(CompareTarget, Union, i64); 4] = [
        (CompareTarget::Version, TargetUnion::Version, 2),
        (CompareTarget::Create, TargetUnion::CreateRevision, 2),
        (CompareTarget::Mod, TargetUnion::ModRevision, 3),
        (CompareTarget::Lease, TargetUnion::Lease, 0),
    ];
    for (target, union, has) in numbers {
        for given in [has - 1, has, has + 1] {
            for (result, expected) in [
                (Equal, has == given),
                (NotEqual, has != given),
                (Greater, has > given),
                (Less, has < given),
            ] {
                let condition = compare("a", target, result, union(given));
                let held = succeeds(&mut keyspace, vec![condition]);
                assert_eq!(held, expected, "{target:?} {result:?} {given}");
            }
        }
    }
    for (value, equal, greater, less) in [
        ("1", true, false, false),
        ("0", false, true, false),
        ("10", false, false, true),
    ] {
        for (result, expected) in [
            (Equal, equal),
            (NotEqual, !equal),
            (Greater, greater),
            (Less, less),
        ] {
            let held = succeeds(&mut keyspace, vec![compare_value("a", result, value)]);
            assert_eq!(held, expected, "{result:?} {value}");
        }
    }
}

#[test]
fn conditions_on_a_missing_key() {
    let mut keyspace = letters();
    for result in [Equal, NotEqual, Greater, Less] {
        for value in ["", "x"] {
            assert!(!succeeds(
                &mut keyspace,
                vec![compare_value("no", result, value)]
            ));
        }
    }
    for (result, given, expected) in [
        (Equal, 0, true),
        (Equal, 1, false),
        (NotEqual, 0, false),
        (NotEqual, 1, true),
        (Less, 1, true),
        (Greater, -1, true),
    ] {
        let held = succeeds(&mut keyspace, vec![compare_version("no", result, given)]);
        assert_eq!(held, expected, "{result:?} {given}");
    }
}

#[test]
fn conditions_on_ranges() {
    let mut keyspace = letters();
    let over = |range_end: &str, condition: Compare| Compare {
        range_end: bytes(range_end),
        ..condition
    };
    let cases = [
        (over("c", compare_version("a", Greater, 0)), true),
        (over("c", compare_version("a", Greater, 1)), false),
        (over("\0", compare_version("b", Equal, 1)), true),
        (over("c", compare_value("a", Less, "3")), true),
        (over("c", compare_value("a", Less, "2")), false),
        // A range without keys counts as one missing key.
        (over("z", compare_version("x", Equal, 0)), true),
        (over("z", compare_version("x", Equal, 1)), false),
        (over("z", compare_value("x", NotEqual, "1")), false),
        (over("a", compare_version("b", Equal, 0)), true),
    ];
    for (condition, expected) in cases {
        assert_eq!(
            succeeds(&mut keyspace, vec![condition.clone()]),
            expected,
            "{condition:?}"
        );
    }
}

#[test]
fn strange_conditions() {
    let mut keyspace = letters();
    // An operand that does not fit counts as zero or empty.
    let unfit = compare(
        "a",
        CompareTarget::Version,
        Greater,
        TargetUnion::Value(bytes("9")),
    );
    assert!(succeeds(&mut keyspace, vec![unfit]));
    let unfit = compare("a", CompareTarget::Value, Greater, TargetUnion::Version(9));
    assert!(succeeds(&mut keyspace, vec![unfit]));
    let unfit = Compare {
        target_union: None,
        ..compare_version("no", Equal, 3)
    };
    assert!(succeeds(&mut keyspace, vec![unfit]));
    // Any key is equal in what is unknown, and in an unknown relation to everything.
    let unknown = |result: i32, target: i32| Compare {
        result,
        target,
        ..compare_version("a", Equal, 9)
    };
    assert!(succeeds(&mut keyspace, vec![unknown(0, 77)]));
    assert!(!succeeds(&mut keyspace, vec![unknown(1, 77)]));
    assert!(succeeds(&mut keyspace, vec![unknown(77, 0)]));
    // The same in a transaction that goes through the log.
    for (condition, expected) in [
        (unknown(0, 77), true),
        (unknown(3, 77), false),
        (unknown(77, 0), true),
    ] {
        let request = txn(vec![condition], vec![op_put("c", "1")], vec![]);
        assert_eq!(keyspace.txn(request).unwrap().succeeded, expected);
    }
}

#[test]
fn all_conditions_must_hold() {
    let mut keyspace = letters();
    let (yes, no) = (
        compare_version("a", Equal, 2),
        compare_version("a", Equal, 3),
    );
    assert!(succeeds(&mut keyspace, vec![]));
    assert!(succeeds(&mut keyspace, vec![yes.clone(), yes.clone()]));
    assert!(!succeeds(&mut keyspace, vec![yes, no]));
}

/// What the answers of a transaction say, one short text per operation.
fn texts(response: &TxnResponse) -> Vec<String> {
    let text = |answer: &Answer| match answer {
        Answer::ResponseRange(range) => {
            format!(
                "{:?}@{}",
                harness::pairs(range),
                range.header.unwrap().revision
            )
        }
        Answer::ResponsePut(put) => format!("put@{}", put.header.unwrap().revision),
        Answer::ResponseDeleteRange(delete) => {
            format!(
                "deleted {}@{}",
                delete.deleted,
                delete.header.unwrap().revision
            )
        }
        Answer::ResponseTxn(txn) => format!(
            "{} {:?}@{}",
            txn.succeeded,
            texts(txn),
            txn.header.as_ref().unwrap().revision
        ),
    };
    response
        .responses
        .iter()
        .map(|operation| text(operation.response.as_ref().unwrap()))
        .collect()
}

#[test]
fn operations_see_the_ones_before_them() {
    let mut keyspace = letters();
    let response = keyspace
        .txn(then(vec![
            op_range(single("c")),
            op_put("c", "3"),
            op_range(span("b", "\0")),
            op_range(RangeRequest {
                revision: 4,
                ..span("b", "\0")
            }),
            op_delete("b", ""),
            op_delete("b", ""),
            op_range(RangeRequest {
                count_only: true,
                ..span("a", "\0")
            }),
            op_txn(txn(
                vec![compare_version("c", Equal, 0)],
                vec![op_range(single("c"))],
                vec![],
            )),
        ]))
        .unwrap();
    assert_eq!(
        texts(&response),
        [
            r#"[]@4"#,
            "put@5",
            r#"["b=2", "c=3"]@5"#,
            r#"["b=2"]@5"#,
            "deleted 1@5",
            "deleted 0@5",
            "[]@5",
            // The nested condition looks at the state before the transaction.
            r#"true ["[\"c=3\"]@5"]@0"#,
        ]
    );
    assert_eq!(response.header.unwrap().revision, 5, "one revision for all");
    assert_eq!(keyspace.revision(), 5);
    let Some(Answer::ResponseRange(count)) = &response.responses[6].response else {
        panic!()
    };
    assert_eq!(count.count, 2);
}

#[test]
fn the_branch_not_taken_is_not_done() {
    let mut keyspace = letters();
    let branches = |condition| {
        txn(
            vec![condition],
            vec![op_put("yes", "")],
            vec![op_delete("a", ""), op_delete("b", "")],
        )
    };
    assert!(
        keyspace
            .txn(branches(compare_version("a", Greater, 0)))
            .unwrap()
            .succeeded
    );
    assert_eq!(keyspace.all(), ["a=1", "b=2", "yes="]);
    let response = keyspace
        .txn(branches(compare_version("a", Equal, 0)))
        .unwrap();
    assert!(!response.succeeded);
    assert_eq!(texts(&response), ["deleted 1@6", "deleted 1@6"]);
    assert_eq!(keyspace.all(), ["yes="]);
}

#[test]
fn nested_branches_are_decided_before_anything_is_done() {
    let mut keyspace = letters();
    let inner = |key: &str, value: &str| {
        txn(
            vec![compare_version(key, Equal, 0)],
            vec![op_put(key, value)],
            vec![op_range(single(key))],
        )
    };
    let response = keyspace
        .txn(then(vec![
            op_txn(inner("x", "1")),
            op_txn(txn(
                vec![],
                vec![op_txn(inner("a", "9")), op_txn(inner("y", "2"))],
                vec![],
            )),
            op_txn(inner("b", "9")),
        ]))
        .unwrap();
    assert_eq!(
        texts(&response),
        [
            r#"true ["put@5"]@0"#,
            r#"true ["false [\"[\\\"a=1\\\"]@5\"]@0", "true [\"put@5\"]@0"]@0"#,
            r#"false ["[\"b=2\"]@5"]@0"#,
        ]
    );
    assert_eq!(keyspace.all(), ["a=1", "b=2", "x=1", "y=2"]);
}

#[test]
fn whatever_fails_undoes_all() {
    let mut keyspace = letters();
    keyspace.compact(3).unwrap();
    let revision = |revision| {
        op_range(RangeRequest {
            revision,
            ..single("a")
        })
    };
    let ignoring = op(Operation::RequestPut(PutRequest {
        ignore_value: true,
        ..put("no", "")
    }));
    let leased = op(Operation::RequestPut(PutRequest {
        lease: 5,
        ..put("c", "")
    }));
    // A key that an earlier operation writes does not exist yet when ignore_value is checked.
    let earlier = op_txn(then(vec![op_put("z", "1")]));
    let cases = [
        (vec![op_put("z", "1"), revision(5)], Error::FutureRevision),
        (vec![op_put("z", "1"), revision(2)], Error::Compacted),
        (vec![op_put("z", "1"), revision(-1)], Error::Compacted),
        (vec![revision(2), op_delete("a", "")], Error::Compacted),
        (
            vec![op_delete("a", ""), ignoring.clone()],
            Error::KeyNotFound,
        ),
        (
            vec![op_delete("a", ""), leased.clone()],
            Error::LeaseNotFound,
        ),
        (
            vec![earlier, op_txn(then(vec![ignoring.clone()]))],
            Error::KeyNotFound,
        ),
        (vec![revision(5), ignoring.clone()], Error::FutureRevision),
        (vec![ignoring.clone(), revision(5)], Error::KeyNotFound),
        (
            vec![op_put("z", "1"), op_txn(then(vec![leased]))],
            Error::LeaseNotFound,
        ),
        (vec![revision(2)], Error::Compacted),
        (vec![revision(5)], Error::FutureRevision),
    ];
    for (operations, error) in cases {
        assert_eq!(
            keyspace.txn(then(operations.clone())),
            Err(error),
            "{operations:?}"
        );
        assert_eq!((keyspace.revision(), keyspace.all().len()), (4, 2));
    }
    // In a branch that is not taken none of this matters.
    let untaken = txn(vec![], vec![op_put("z", "1")], vec![ignoring, revision(9)]);
    keyspace.txn(untaken).unwrap();
    // A negative revision is compacted only where something is.
    let mut fresh = letters();
    fresh
        .txn(then(vec![revision(-1), op_put("z", "1")]))
        .unwrap();
    assert_eq!(fresh.txn(then(vec![revision(-2)])), Err(Error::Compacted));
}

#[test]
fn empty_transactions() {
    let mut keyspace = letters();
    let response = keyspace.txn(TxnRequest::default()).unwrap();
    assert!(response.succeeded && response.responses.is_empty());
    assert_eq!(response.header.unwrap().revision, 4);
    let nested = keyspace
        .txn(then(vec![op_txn(TxnRequest::default())]))
        .unwrap();
    assert_eq!(texts(&nested), ["true []@0"]);
    assert_eq!(
        nested.header.unwrap().revision,
        4,
        "nothing written, no revision"
    );
}

fn planned(request: TxnRequest) -> Result<Plan, Error> {
    plan(Request::Txn(request), &RequestLimits::default())
}

#[test]
fn what_is_a_read() {
    let stale = || {
        op_range(RangeRequest {
            serializable: true,
            ..single("a")
        })
    };
    let fresh = || op_range(single("a"));
    let cases = [
        (TxnRequest::default(), Some(true)),
        (then(vec![stale()]), Some(true)),
        (then(vec![stale(), fresh()]), Some(false)),
        (txn(vec![], vec![stale()], vec![fresh()]), Some(false)),
        (txn(vec![], vec![stale()], vec![op_put("a", "1")]), None),
        (then(vec![op_txn(TxnRequest::default())]), None),
        (then(vec![op_delete("a", "")]), None),
    ];
    for (request, expected) in cases {
        match (planned(request.clone()).unwrap(), expected) {
            (Plan::Read(read), Some(stale)) => {
                assert_eq!(read.serializable(), stale, "{request:?}")
            }
            (Plan::Command(_), None) => {}
            (other, _) => panic!("{request:?} became {other:?}"),
        }
    }
}

fn many(count: usize) -> Vec<RequestOp> {
    (0..count)
        .map(|number| op_range(single(&number.to_string())))
        .collect()
}

#[test]
fn how_many_operations() {
    let conditions = |count| vec![compare_version("a", Equal, 0); count];
    let too_many = Err(Error::TooManyOperations);
    assert!(planned(then(many(128))).is_ok());
    assert_eq!(planned(then(many(129))), too_many);
    assert!(planned(txn(conditions(128), many(128), many(128))).is_ok());
    assert_eq!(planned(txn(conditions(129), vec![], vec![])), too_many);
    assert_eq!(planned(txn(vec![], vec![], many(129))), too_many);
    // A nested transaction may use what the longest list around it leaves.
    let around = |outer: usize, inner: usize| {
        let mut operations = many(outer - 1);
        operations.push(op_txn(then(many(inner))));
        then(operations)
    };
    assert!(planned(around(64, 64)).is_ok());
    assert_eq!(planned(around(64, 65)), too_many);
    let nested = vec![op_txn(then(many(28)))];
    assert!(planned(txn(conditions(100), nested.clone(), vec![])).is_ok());
    assert_eq!(planned(txn(conditions(101), nested, vec![])), too_many);
}

#[test]
fn nesting_is_bounded_whatever_the_limit() {
    let nest = |depth: usize| {
        (1..depth).fold(then(vec![op_put("a", "1")]), |inner, _| {
            then(vec![op_txn(inner)])
        })
    };
    let limits = RequestLimits {
        max_txn_operations: 1 << 20,
        ..RequestLimits::default()
    };
    let Ok(Plan::Command(record)) = plan(Request::Txn(nest(128)), &limits) else {
        panic!()
    };
    assert!(Keyspace::default().execute(&record).is_ok());
    assert_eq!(
        plan(Request::Txn(nest(129)), &limits),
        Err(Error::TooManyOperations)
    );
}

#[test]
fn operations_are_checked_like_requests() {
    let nothing = RequestOp { request: None };
    let bad_put = op(Operation::RequestPut(PutRequest {
        ignore_value: true,
        ..put("a", "1")
    }));
    let bad_sort = op_range(RangeRequest {
        sort_order: 9,
        ..single("a")
    });
    let cases = [
        (
            txn(
                vec![compare_version("", Equal, 0)],
                vec![nothing.clone()],
                vec![],
            ),
            Error::KeyEmpty,
        ),
        (then(vec![nothing.clone()]), Error::KeyNotFound),
        (
            txn(vec![], vec![], vec![nothing.clone()]),
            Error::KeyNotFound,
        ),
        (then(vec![op_range(single(""))]), Error::KeyEmpty),
        (then(vec![op_delete("", "x")]), Error::KeyEmpty),
        (then(vec![op_put("", "x")]), Error::KeyEmpty),
        (then(vec![bad_put]), Error::ValueProvided),
        (then(vec![bad_sort]), Error::InvalidSortOption),
        (
            then(vec![op_txn(then(vec![nothing.clone()]))]),
            Error::KeyNotFound,
        ),
        // Operations are checked before overlaps are looked for.
        (
            then(vec![op_put("a", ""), op_put("a", ""), nothing]),
            Error::KeyNotFound,
        ),
    ];
    for (request, error) in cases {
        assert_eq!(planned(request.clone()), Err(error), "{request:?}");
    }
}

#[test]
fn no_key_is_written_twice() {
    let nested = |success, failure| op_txn(txn(vec![], success, failure));
    let (a, b) = (|| op_put("a", ""), || op_put("b", ""));
    let refused = [
        vec![a(), a()],
        vec![a(), op_delete("a", "")],
        vec![op_delete("a", ""), a()],
        vec![op_delete("a", "c"), b()],
        vec![op_delete("0", "\0"), b()],
        vec![op_delete("b", "d"), op_delete("a", "c"), b()],
        vec![a(), nested(vec![a()], vec![])],
        vec![a(), nested(vec![], vec![a()])],
        vec![a(), nested(vec![], vec![op_delete("a", "")])],
        vec![nested(vec![a()], vec![]), nested(vec![], vec![a()])],
        vec![op_delete("a", ""), nested(vec![a()], vec![])],
        vec![
            nested(vec![op_delete("a", "")], vec![]),
            nested(vec![a()], vec![]),
        ],
        vec![nested(vec![nested(vec![a()], vec![])], vec![]), a()],
        vec![nested(vec![a(), a()], vec![])],
    ];
    for operations in refused {
        let error = Err(Error::DuplicateKey);
        assert_eq!(planned(then(operations.clone())), error, "{operations:?}");
        assert_eq!(
            planned(txn(vec![], vec![], operations)),
            error,
            "in the other branch, too"
        );
    }
    let allowed = [
        vec![a(), b()],
        vec![op_delete("a", ""), op_delete("a", "c")],
        vec![op_delete("a", "b"), b()],
        vec![op_delete("c", "b"), b()],
        vec![nested(vec![a()], vec![a()])],
        vec![nested(vec![a()], vec![op_delete("a", "")])],
        vec![nested(vec![a()], vec![]), nested(vec![b()], vec![])],
        vec![
            nested(vec![b()], vec![]),
            nested(vec![op_delete("a", "b")], vec![]),
        ],
        vec![
            nested(vec![a()], vec![]),
            nested(vec![op_delete("a\0", "")], vec![]),
        ],
    ];
    for operations in allowed {
        assert!(planned(then(operations.clone())).is_ok(), "{operations:?}");
        let mut keyspace = letters();
        keyspace.txn(then(operations)).unwrap();
        assert_eq!(keyspace.revision(), 5);
    }
    assert!(
        planned(txn(vec![], vec![a()], vec![a()])).is_ok(),
        "one branch or the other"
    );
}

/// 64 transactions of 64 operations each.
fn thousands(operation: &RequestOp) -> TxnRequest {
    let inner = || op_txn(then(vec![operation.clone(); 64]));
    then((0..64).map(|_| inner()).collect())
}

fn thousand_keys(keyspace: &mut Keyspace) {
    for number in 0..1000 {
        keyspace.put(put(&format!("k{number:03}"), "")).unwrap();
    }
}

/// Ranges that answer little and look at much, and what stands before them.
fn costly_ranges(latest: i64) -> [(RequestOp, RequestOp); 4] {
    let everything = || span("\0", "\0");
    // Nothing passes, so all is looked at.
    let filtered = RangeRequest {
        limit: 1,
        min_mod_revision: i64::MAX,
        ..everything()
    };
    // What the transaction itself has deleted is looked at again and again.
    let counted = RangeRequest {
        count_only: true,
        ..everything()
    };
    let limited = RangeRequest {
        limit: 1,
        ..everything()
    };
    // After a write that revision is an older one, of which nobody knows how much there is.
    let pinned = RangeRequest {
        revision: latest,
        ..limited.clone()
    };
    [
        (op_put("k", ""), op_range(filtered)),
        (op_delete("\0", "\0"), op_range(counted)),
        (op_delete("\0", "\0"), op_range(limited)),
        (op_put("k", ""), op_range(pinned)),
    ]
}

/// Each operation may name everything, and each replica would do the work of all of them.
#[test]
fn what_a_transaction_looks_at_is_bounded() {
    let mut keyspace = Keyspace::default();
    thousand_keys(&mut keyspace);
    let everything = || span("\0", "\0");
    let older = RangeRequest {
        revision: 1000,
        ..everything()
    };
    for range in [everything(), older.clone()] {
        let error = keyspace.txn(thousands(&op_range(range))).unwrap_err();
        assert_eq!(error, Error::TxnTooLarge);
    }
    // What holds nothing costs nothing, and each key can be deleted once.
    let counted = RangeRequest {
        count_only: true,
        ..everything()
    };
    keyspace.txn(thousands(&op_range(counted))).unwrap();
    let few = RangeRequest {
        limit: 10,
        ..everything()
    };
    keyspace.txn(thousands(&op_range(few))).unwrap();

    for number in 0..3000 {
        keyspace.put(put(&format!("l{number:04}"), "")).unwrap();
    }
    let always = Compare {
        range_end: bytes("\0"),
        ..compare_version("\0", CompareResult::Greater, 0)
    };
    let compares = || op_txn(txn(vec![always.clone(); 64], vec![], vec![]));
    let error = keyspace.txn(then((0..64).map(|_| compares()).collect()));
    assert_eq!(error, Err(Error::TxnTooLarge));
    let error = keyspace.txn(thousands(&op_delete("\0", "\0")));
    assert_eq!(error, Err(Error::TxnTooLarge));
    assert_eq!(keyspace.all().len(), 4000, "nothing of it was done");
    for (first, range) in costly_ranges(keyspace.revision()) {
        let mut request = thousands(&range);
        request.success[0] = first;
        let error = keyspace.txn(request).unwrap_err();
        assert_eq!(error, Error::TxnTooLarge, "{range:?}");
    }
    assert_eq!(keyspace.all().len(), 4000, "nothing of it was done");
    // One look at everything is never too much.
    let all = then(vec![op_range(older), op_delete("\0", "\0")]);
    keyspace.txn(all).unwrap();
    assert!(keyspace.all().is_empty());
}

/// Where nobody waits for the answer, nothing is read for it; what is done is the same.
#[test]
fn an_answer_that_nobody_awaits_is_left_out() {
    let deletion = op(Operation::RequestDeleteRange(DeleteRangeRequest {
        prev_kv: true,
        ..delete("b", "d")
    }));
    let nested = op_txn(then(vec![op_range(span("a", "z"))]));
    let request = then(vec![
        op_put("a", "1"),
        op_range(span("a", "z")),
        deletion,
        nested,
    ]);
    let Ok(Plan::Command(record)) = planned(request) else {
        panic!("a writing transaction is a command")
    };
    let (mut one, mut other) = (letters(), letters());
    let awaited = one.execute_awaited(&record, true).unwrap();
    let unheard = other.execute_awaited(&record, false).unwrap();
    assert_eq!(one.state.digest(), other.state.digest());
    let found = |response: Response| -> (usize, usize) {
        let Response::Txn(answer) = response else {
            panic!("a transaction is answered as one")
        };
        let mut found = (0, 0);
        for response in answer.responses {
            match response.response {
                Some(Answer::ResponseRange(range)) => found.0 += range.kvs.len(),
                Some(Answer::ResponseDeleteRange(deleted)) => found.1 += deleted.prev_kvs.len(),
                _ => {}
            }
        }
        found
    };
    assert_eq!(found(awaited), (2, 1));
    assert_eq!(found(unheard), (0, 0));
}

/// Each level is a message within a message twice, and a hundred of these are read.
#[test]
fn fifty_transactions_in_each_other_are_read() {
    let nested = |depth: usize| {
        let innermost = then(vec![op_put("a", "1")]);
        let whole = (1..depth).fold(innermost, |inner, _| then(vec![op_txn(inner)]));
        TxnRequest::decode(&whole.encode_to_vec()[..])
    };
    assert!(nested(50).is_ok());
    assert!(nested(51).is_err());
}
