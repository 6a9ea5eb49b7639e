//! The sequential model does what etcd documents.

use checker::history::{
    Compare, Comparison, Delete, DeleteResult, Failure, Key, KeyValue, LeaseId, Put, PutResult,
    Range, Request, Response, Revision, Step, StepResult, Target, Txn, Value,
};
use checker::oracle::Store;

fn put(key: &str, value: &str) -> Put {
    Put {
        key: key.into(),
        value: value.into(),
        ..Put::default()
    }
}

fn kv(key: &str, value: &str, create: u64, modified: u64, version: u64) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: Revision(create),
        mod_revision: Revision(modified),
        version,
        lease: LeaseId(0),
    }
}

fn read(store: &Store, key: &str, end: &str, at: u64) -> Vec<KeyValue> {
    let range = Range {
        key: key.into(),
        range_end: end.into(),
        ..Range::default()
    };
    store.read(&range, Revision(at)).key_values
}

#[test]
fn counters_follow_generations() {
    let mut store = Store::default();
    store.apply(&Request::Put(put("a", "1"))).unwrap();
    store.apply(&Request::Put(put("a", "2"))).unwrap();
    let delete = Request::Delete(Delete {
        key: "a".into(),
        prev_kv: true,
        ..Delete::default()
    });
    assert_eq!(
        store.apply(&delete),
        Ok(Response::Delete(DeleteResult {
            deleted: 1,
            prev_kvs: vec![kv("a", "2", 2, 3, 2)],
        }))
    );
    assert_eq!(store.revision(), Revision(4));
    let Ok(Response::Delete(nothing)) = store.apply(&delete) else {
        panic!("a deletion is answered");
    };
    assert_eq!(nothing.deleted, 0);
    assert_eq!(
        store.revision(),
        Revision(4),
        "nothing changed, so no revision"
    );
    store.apply(&Request::Put(put("a", "3"))).unwrap();
    assert_eq!(read(&store, "a", "", 5), [kv("a", "3", 5, 5, 1)]);
    assert_eq!(read(&store, "a", "", 4), []);
    assert_eq!(read(&store, "a", "", 3), [kv("a", "2", 2, 3, 2)]);
    store.undo_to(Revision(2));
    assert_eq!(read(&store, "a", "", 9), [kv("a", "1", 2, 2, 1)]);
    assert_eq!(store.revision(), Revision(2));
}

#[test]
fn ranges_limits_and_ends() {
    let mut store = Store::default();
    for key in ["a", "b", "c"] {
        store.apply(&Request::Put(put(key, "v"))).unwrap();
    }
    let keys = |key: &str, end: &str| -> Vec<Key> {
        let found = read(&store, key, end, 4);
        found.into_iter().map(|kv| kv.key).collect()
    };
    assert_eq!(keys("a", "c"), ["a".into(), "b".into()]);
    assert_eq!(keys("b", "\0"), ["b".into(), "c".into()]);
    assert_eq!(keys("c", "a"), []);
    let limited = Range {
        key: "a".into(),
        range_end: "\0".into(),
        limit: 2,
        keys_only: true,
        ..Range::default()
    };
    let result = store.read(&limited, Revision(4));
    assert_eq!((result.count, result.more), (3, true));
    assert_eq!(result.key_values.len(), 2);
    assert_eq!(result.key_values[0].value, Value::default());
}

#[test]
fn transactions_compare_first_and_see_their_own_steps() {
    let mut store = Store::default();
    store.apply(&Request::Put(put("a", "1"))).unwrap();
    let is = |key: &str, is: Comparison, target: Target| Compare {
        key: key.into(),
        range_end: Key::default(),
        is,
        target,
    };
    let inner = Txn {
        // Looks at the state before the outer put.
        compares: vec![is("a", Comparison::Equal, Target::Value("1".into()))],
        success: vec![Step::Put(put("inner", "yes"))],
        ..Txn::default()
    };
    let get = Range {
        key: "a".into(),
        ..Range::default()
    };
    let txn = Request::Txn(Txn {
        compares: vec![
            is(
                "a",
                Comparison::Greater,
                Target::CreateRevision(Revision(1)),
            ),
            is("none", Comparison::Equal, Target::Version(0)),
        ],
        success: vec![Step::Put(put("a", "2")), Step::Range(get), Step::Txn(inner)],
        failure: vec![],
    });
    let Ok(Response::Txn(result)) = store.apply(&txn) else {
        panic!("it is answered");
    };
    assert!(result.succeeded);
    let StepResult::Range(seen) = &result.responses[1] else {
        panic!("the second step reads");
    };
    assert_eq!(seen.key_values, [kv("a", "2", 2, 3, 2)]);
    assert_eq!(store.revision(), Revision(3), "one revision for all");
    assert_eq!(read(&store, "inner", "", 3), [kv("inner", "yes", 3, 3, 1)]);
    // The value of a key that is not there is not even empty.
    let empty = Request::Txn(Txn {
        compares: vec![is("none", Comparison::Equal, Target::Value("".into()))],
        ..Txn::default()
    });
    let Ok(Response::Txn(result)) = store.apply(&empty) else {
        panic!("it is answered");
    };
    assert!(!result.succeeded);
}

#[test]
fn failures_change_nothing() {
    let mut store = Store::default();
    let keep = Put {
        ignore_value: true,
        ..put("a", "")
    };
    let txn = Request::Txn(Txn {
        success: vec![Step::Put(put("b", "1")), Step::Put(keep)],
        ..Txn::default()
    });
    assert_eq!(store.apply(&txn), Err(Failure::KeyNotFound));
    assert_eq!(store, Store::default());
    let future = Request::Range(Range {
        key: "a".into(),
        revision: Revision(9),
        ..Range::default()
    });
    assert_eq!(store.apply(&future), Err(Failure::FutureRevision));
    let previous = Put {
        prev_kv: true,
        ..put("a", "1")
    };
    let answer = Response::Put(PutResult { prev_kv: None });
    assert_eq!(store.apply(&Request::Put(previous)), Ok(answer));
}
