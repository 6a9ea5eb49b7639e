//! Ranges in their corners: spans, limits, order, filters, counts, older revisions, budgets.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use harness::{Keyspace, bytes, compare_version, delete, pairs, put, single, span, txn};
use quorate_etcd::proto::etcdserverpb::compare::CompareResult;
use quorate_etcd::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_etcd::proto::etcdserverpb::{
    Compare, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
};
use quorate_etcd::{
    Error, Plan, ReadBudget, ReadOutcome, Request, RequestLimits, Wanted, plan, read,
};

/// a (created 2, written again 7), b 3, c 4, d 5, e 6; values fall as keys rise.
fn letters() -> Keyspace {
    let mut keyspace = Keyspace::default();
    keyspace.fill(&[
        ("a", "0"),
        ("b", "8"),
        ("c", "7"),
        ("d", "6"),
        ("e", "5"),
        ("a", "9"),
    ]);
    assert_eq!(keyspace.revision(), 7);
    keyspace
}

fn sorted(target: SortTarget, order: SortOrder, limit: i64) -> RangeRequest {
    let (sort_target, sort_order) = (target.into(), order.into());
    RangeRequest {
        sort_target,
        sort_order,
        limit,
        ..span("a", "\0")
    }
}

#[test]
fn spans() {
    let mut keyspace = letters();
    let cases: &[(&str, &str, &[&str])] = &[
        ("b", "", &["b=8"]),
        ("x", "", &[]),
        ("b", "d", &["b=8", "c=7"]),
        ("b", "\0", &["b=8", "c=7", "d=6", "e=5"]),
        ("\0", "\0", &["a=9", "b=8", "c=7", "d=6", "e=5"]),
        ("d", "b", &[]),
        ("b", "b", &[]),
        ("b", "b\0", &["b=8"]),
        ("aa", "cc", &["b=8", "c=7"]),
    ];
    for (key, range_end, expected) in cases {
        let response = keyspace.range(span(key, range_end)).unwrap();
        assert_eq!(pairs(&response), *expected, "{key:?} {range_end:?}");
        assert_eq!(
            response.count,
            expected.len() as i64,
            "{key:?} {range_end:?}"
        );
        assert!(!response.more);
        assert_eq!(response.header.unwrap().revision, 7);
    }
}

#[test]
fn a_pair_tells_its_history() {
    let mut keyspace = letters();
    let pair = keyspace.range(single("a")).unwrap().kvs.remove(0);
    assert_eq!(
        (
            pair.create_revision,
            pair.mod_revision,
            pair.version,
            pair.lease
        ),
        (2, 7, 2, 0)
    );
    keyspace.delete(delete("a", "")).unwrap();
    keyspace.fill(&[("a", "new")]);
    let pair = keyspace.range(single("a")).unwrap().kvs.remove(0);
    assert_eq!(
        (pair.create_revision, pair.mod_revision, pair.version),
        (9, 9, 1)
    );
}

#[test]
fn limits_cut_and_tell_so() {
    let mut keyspace = letters();
    // limit, pairs answered, more
    let cases = [
        (0, 5, false),
        (-1, 5, false),
        (i64::MIN, 5, false),
        (1, 1, true),
        (4, 4, true),
    ];
    for (limit, answered, more) in cases
        .into_iter()
        .chain([(5, 5, false), (i64::MAX, 5, false)])
    {
        for order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
            let response = keyspace
                .range(sorted(SortTarget::Key, order, limit))
                .unwrap();
            assert_eq!(
                (response.kvs.len(), response.more),
                (answered, more),
                "{limit} {order:?}"
            );
            assert_eq!(response.count, 5, "count ignores the limit");
        }
    }
}

#[test]
fn count_starts_at_the_key_asked_for() {
    // Kubernetes pages by continuing at the last key + "\0" and expects the rest to be counted.
    let mut keyspace = letters();
    let response = keyspace
        .range(RangeRequest {
            limit: 2,
            ..span("c", "z")
        })
        .unwrap();
    assert_eq!(
        (response.count, response.more, response.kvs.len()),
        (3, true, 2)
    );
}

#[test]
fn orders() {
    let mut keyspace = letters();
    use SortOrder::{Ascend, Descend, None};
    use SortTarget::{Create, Key, Mod, Value, Version};
    let cases: &[(SortTarget, SortOrder, i64, &[&str])] = &[
        (Key, Descend, 2, &["e=5", "d=6"]),
        (Value, Ascend, 2, &["e=5", "d=6"]),
        (Value, Descend, 2, &["a=9", "b=8"]),
        (Mod, Ascend, 2, &["b=8", "c=7"]),
        (Mod, Descend, 2, &["a=9", "e=5"]),
        (Create, Ascend, 2, &["a=9", "b=8"]),
        (Create, Descend, 2, &["e=5", "d=6"]),
        (Version, Descend, 1, &["a=9"]),
        (Version, Ascend, 2, &["b=8", "c=7"]),
        // Without an order the limit comes first: limit + 1 keys in key order, sorted, cut.
        (Value, None, 2, &["c=7", "b=8"]),
        (Mod, None, 2, &["b=8", "c=7"]),
        (Value, None, 0, &["e=5", "d=6", "c=7", "b=8", "a=9"]),
        (Key, None, 2, &["a=9", "b=8"]),
    ];
    for (target, order, limit, expected) in cases {
        let response = keyspace.range(sorted(*target, *order, *limit)).unwrap();
        assert_eq!(pairs(&response), *expected, "{target:?} {order:?} {limit}");
        assert_eq!((response.count, response.more), (5, *limit != 0));
    }
}

/// Bounds of the modification and the creation revision, lowest and highest; 0 is no bound.
fn filtered(modified: (i64, i64), created: (i64, i64), limit: i64) -> RangeRequest {
    RangeRequest {
        min_mod_revision: modified.0,
        max_mod_revision: modified.1,
        min_create_revision: created.0,
        max_create_revision: created.1,
        limit,
        ..span("a", "\0")
    }
}

#[test]
fn filters() {
    let mut keyspace = letters();
    let by_value = RangeRequest {
        sort_target: SortTarget::Value.into(),
        ..filtered((4, 0), (0, 0), 1)
    };
    let cases: &[(RangeRequest, &[&str], bool)] = &[
        (filtered((5, 0), (0, 0), 0), &["a=9", "d=6", "e=5"], false),
        (filtered((0, 4), (0, 0), 0), &["b=8", "c=7"], false),
        (filtered((0, 0), (5, 0), 0), &["d=6", "e=5"], false),
        (filtered((0, 0), (0, 3), 0), &["a=9", "b=8"], false),
        (filtered((4, 5), (0, 0), 0), &["c=7", "d=6"], false),
        (filtered((7, 0), (0, 2), 0), &["a=9"], false),
        (
            filtered((-3, 0), (-3, 0), 4),
            &["a=9", "b=8", "c=7", "d=6"],
            true,
        ),
        (filtered((0, -3), (0, 0), 0), &[], false),
        // The limit counts what passes the filters.
        (filtered((5, 0), (0, 0), 2), &["a=9", "d=6"], true),
        (filtered((5, 0), (0, 0), 3), &["a=9", "d=6", "e=5"], false),
        // With filters, an order of none by another target sorts everything.
        (by_value, &["e=5"], true),
    ];
    for (request, expected, more) in cases {
        let response = keyspace.range(request.clone()).unwrap();
        assert_eq!(pairs(&response), *expected, "{request:?}");
        assert_eq!((response.count, response.more), (5, *more), "{request:?}");
    }
    // A single key is filtered as well, and counted nevertheless.
    let response = keyspace
        .range(RangeRequest {
            min_mod_revision: 8,
            ..single("a")
        })
        .unwrap();
    assert_eq!((response.count, response.kvs.len()), (1, 0));
}

#[test]
fn keys_only_and_count_only() {
    let mut keyspace = letters();
    let keys = RangeRequest {
        keys_only: true,
        limit: 2,
        ..span("a", "\0")
    };
    assert_eq!(keyspace.list(keys), ["a=", "b="]);
    assert_eq!(
        keyspace.list(RangeRequest {
            keys_only: true,
            ..single("a")
        }),
        ["a="]
    );
    let by_value = sorted(SortTarget::Value, SortOrder::Ascend, 2);
    assert_eq!(
        keyspace.list(RangeRequest {
            keys_only: true,
            ..by_value
        }),
        ["e=", "d="]
    );
    // etcd answers the others from its index, which does not know of leases.
    keyspace.grant(7, 60).unwrap();
    let leased = PutRequest {
        lease: 7,
        ..put("f", "0")
    };
    keyspace.put(leased).unwrap();
    for (target, expected) in [(SortTarget::Value, 7), (SortTarget::Mod, 0)] {
        let request = RangeRequest {
            keys_only: true,
            key: bytes("f"),
            range_end: bytes("g"),
            ..sorted(target, SortOrder::Ascend, 0)
        };
        let response = keyspace.range(request).unwrap();
        assert_eq!(response.kvs[0].lease, expected, "{target:?}");
    }
    keyspace.delete(delete("f", "")).unwrap();

    for revision in [0, 4] {
        let request = RangeRequest {
            count_only: true,
            limit: 1,
            revision,
            ..span("a", "\0")
        };
        let response = keyspace.range(request).unwrap();
        let expected = if revision == 0 { 5 } else { 3 };
        assert_eq!(
            (response.count, response.kvs.len(), response.more),
            (expected, 0, false)
        );
    }
    let response = keyspace
        .range(RangeRequest {
            count_only: true,
            ..single("a")
        })
        .unwrap();
    assert_eq!((response.count, response.kvs.len()), (1, 0));
}

#[test]
fn unknown_sort_options_are_refused() {
    let mut keyspace = letters();
    let order = RangeRequest {
        sort_order: 3,
        ..single("a")
    };
    assert_eq!(keyspace.range(order), Err(Error::InvalidSortOption));
    let target = RangeRequest {
        sort_target: 5,
        ..single("a")
    };
    assert_eq!(keyspace.range(target), Err(Error::InvalidSortOption));
    let no_key = RangeRequest {
        sort_target: 5,
        ..single("")
    };
    assert_eq!(
        keyspace.range(no_key),
        Err(Error::KeyEmpty),
        "the key is checked first"
    );
}

#[test]
fn older_revisions() {
    let mut keyspace = letters();
    keyspace.delete(delete("b", "")).unwrap();
    let at = |revision| RangeRequest {
        revision,
        ..span("a", "\0")
    };
    assert_eq!(keyspace.list(at(2)), ["a=0"]);
    assert_eq!(keyspace.list(at(4)), ["a=0", "b=8", "c=7"]);
    assert_eq!(keyspace.list(at(7)), ["a=9", "b=8", "c=7", "d=6", "e=5"]);
    assert_eq!(keyspace.list(at(8)), ["a=9", "c=7", "d=6", "e=5"]);
    assert_eq!(keyspace.list(at(1)), [""; 0]);
    assert_eq!(
        keyspace.list(at(-7)),
        keyspace.list(at(0)),
        "negative: the latest"
    );
    let response = keyspace.range(RangeRequest { limit: 1, ..at(4) }).unwrap();
    assert_eq!((response.count, response.more), (3, true));
    assert_eq!(
        response.header.unwrap().revision,
        8,
        "the header tells the latest revision"
    );
    assert_eq!(keyspace.range(at(9)), Err(Error::FutureRevision));
}

#[test]
fn compacted_revisions() {
    let mut keyspace = letters();
    keyspace.compact(4).unwrap();
    let at = |revision| RangeRequest {
        revision,
        ..span("a", "\0")
    };
    assert_eq!(keyspace.range(at(3)), Err(Error::Compacted));
    assert_eq!(
        keyspace.list(at(4)),
        ["a=0", "b=8", "c=7"],
        "the compacted revision itself stays"
    );
    assert_eq!(keyspace.list(at(-1)).len(), 5);
    assert_eq!(
        keyspace.range(RangeRequest {
            revision: 3,
            ..single("a")
        }),
        Err(Error::Compacted)
    );
}

/// The outcome of a request within a budget.
fn outcome(keyspace: &Keyspace, request: Request, budget: ReadBudget) -> ReadOutcome {
    let planned = plan(request, &RequestLimits::default()).unwrap();
    let Plan::Read(planned) = planned else {
        panic!("it is a read")
    };
    read(keyspace.state.reader(), &planned, budget)
}

fn within(keyspace: &Keyspace, request: RangeRequest, keys: u64, bytes: u64) -> ReadOutcome {
    let budget = ReadBudget::new(keys, bytes);
    outcome(keyspace, Request::Range(request), budget)
}

/// A read went on to its end on a thread of its own, however long its client had been gone.
#[test]
fn a_read_ends_when_nobody_waits_for_it() {
    const KEYS: usize = 100;
    const WANTED: u64 = 10;
    let mut keyspace = Keyspace::default();
    keyspace.grant(1, 60).unwrap();
    for number in 0..KEYS {
        let leased = PutRequest {
            lease: 1,
            ..put(&format!("k{number:03}"), "value")
        };
        keyspace.put(leased).unwrap();
    }
    let all = || span("k", "l");
    let old = |request| RangeRequest {
        revision: keyspace.revision() - 1,
        ..request
    };
    let counted = RangeRequest {
        count_only: true,
        ..all()
    };
    let compared = Compare {
        range_end: "l".into(),
        ..compare_version("k", CompareResult::Equal, 1)
    };
    let to_live = LeaseTimeToLiveRequest { id: 1, keys: true };
    for request in [
        Request::Range(all()),
        Request::Range(old(all())),
        Request::Range(old(counted)),
        Request::Range(sorted(SortTarget::Value, SortOrder::Descend, 1)),
        Request::Txn(txn(vec![compared], vec![], vec![])),
        Request::LeaseTimeToLive(to_live),
    ] {
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let wanted: Wanted = Arc::new(move || count.fetch_add(1, Ordering::Relaxed) < WANTED);
        let budget = ReadBudget::UNLIMITED.while_wanted(wanted);
        assert_eq!(
            outcome(&keyspace, request.clone(), budget),
            ReadOutcome::Done(Err(Error::RequestCanceled)),
            "{request:?}"
        );
        assert_eq!(asked.load(Ordering::Relaxed), WANTED + 1, "{request:?}");
        let forever = ReadBudget::UNLIMITED.while_wanted(Arc::new(|| true));
        assert_eq!(
            outcome(&keyspace, request.clone(), forever),
            outcome(&keyspace, request, ReadBudget::UNLIMITED),
        );
    }
}

#[test]
fn budgets() {
    let mut keyspace = letters();
    let all = || span("a", "\0");
    let full = keyspace.range(all()).unwrap();
    let full = ReadOutcome::Done(Ok(quorate_etcd::Response::Range(full)));
    assert_eq!(within(&keyspace, all(), 5, 10), full);
    assert_eq!(within(&keyspace, all(), 4, 10), ReadOutcome::TooLarge);
    assert_eq!(within(&keyspace, all(), 5, 9), ReadOutcome::TooLarge);
    let done = |request, keys, bytes| {
        matches!(
            within(&keyspace, request, keys, bytes),
            ReadOutcome::Done(Ok(_))
        )
    };
    // The limit bounds what is fetched: one more than asked for.
    assert!(done(RangeRequest { limit: 1, ..all() }, 2, 10));
    assert!(!done(RangeRequest { limit: 1, ..all() }, 1, 10));
    // Another order needs all.
    assert!(!done(sorted(SortTarget::Key, SortOrder::Descend, 1), 4, 10));
    // The latest count costs nothing; an older one looks at each key, those that came later too.
    assert!(done(
        RangeRequest {
            count_only: true,
            ..all()
        },
        0,
        0
    ));
    assert!(!done(
        RangeRequest {
            count_only: true,
            revision: 4,
            ..all()
        },
        4,
        10
    ));
    assert!(done(
        RangeRequest {
            count_only: true,
            revision: 4,
            ..all()
        },
        5,
        10
    ));
    assert!(!done(
        RangeRequest {
            limit: 1,
            revision: 4,
            ..all()
        },
        2,
        10
    ));
    assert!(done(
        RangeRequest {
            keys_only: true,
            ..all()
        },
        5,
        5
    ));
    assert!(!done(single("a"), 0, 10));
}

#[test]
fn only_linearizable_unless_asked() {
    let limits = RequestLimits::default();
    for serializable in [false, true] {
        let request = Request::Range(RangeRequest {
            serializable,
            ..single("a")
        });
        let Ok(Plan::Read(planned)) = plan(request, &limits) else {
            panic!("a range is a read")
        };
        assert_eq!(planned.serializable(), serializable);
    }
}

/// Keys that are gone stay in history. To pass them by at the latest revision costs nothing; at an
/// older one each is looked at.
#[test]
fn deleted_keys_are_part_of_what_a_read_costs() {
    let mut keyspace = Keyspace::default();
    keyspace.put(put("a", "")).unwrap();
    for number in 0..500 {
        keyspace.put(put(&format!("b{number:03}"), "")).unwrap();
    }
    keyspace.delete(delete("b", "c")).unwrap();
    keyspace.put(put("c", "")).unwrap();
    let older = |limit| RangeRequest {
        limit,
        revision: keyspace.revision() - 1,
        ..span("b", "\0")
    };
    let latest = RangeRequest {
        revision: 0,
        ..older(0)
    };
    let is_done =
        |request, keys| matches!(within(&keyspace, request, keys, 100), ReadOutcome::Done(_));
    assert!(is_done(latest.clone(), 1));
    assert!(is_done(
        RangeRequest {
            count_only: true,
            ..latest
        },
        1
    ));
    for (keys, expected) in [(400, false), (501, true)] {
        assert_eq!(is_done(older(0), keys), expected, "{keys}");
        assert_eq!(is_done(older(1), keys), expected, "{keys}");
        let counted = RangeRequest {
            count_only: true,
            ..older(0)
        };
        assert_eq!(is_done(counted, keys), expected, "{keys}");
    }
}
