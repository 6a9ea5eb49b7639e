//! Puts, deletes, compaction and the quota in their corners.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod harness;

use harness::{Keyspace, bytes, delete, op_delete, op_put, put, single, span, then, txn};
use quorate_etcd::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use quorate_etcd::{Code, Error};

#[test]
fn the_first_write_makes_revision_2() {
    let mut keyspace = Keyspace::default();
    assert_eq!(
        keyspace
            .range(single("a"))
            .unwrap()
            .header
            .unwrap()
            .revision,
        1
    );
    let response = keyspace.put(put("a", "1")).unwrap();
    let header = response.header.unwrap();
    assert_eq!(
        (header.revision, header.cluster_id, header.raft_term),
        (2, 0, 0)
    );
    assert_eq!(response.prev_kv, None);
    assert_eq!(
        keyspace
            .put(put("a", "1"))
            .unwrap()
            .header
            .unwrap()
            .revision,
        3,
        "same value"
    );
}

#[test]
fn previous_pairs() {
    let mut keyspace = Keyspace::default();
    let asking = |value| PutRequest {
        prev_kv: true,
        ..put("a", value)
    };
    assert_eq!(keyspace.put(asking("1")).unwrap().prev_kv, None);
    let previous = keyspace.put(asking("2")).unwrap().prev_kv.unwrap();
    assert_eq!(
        (previous.value, previous.mod_revision, previous.version),
        (bytes("1"), 2, 1)
    );
    assert_eq!(
        keyspace.put(put("a", "3")).unwrap().prev_kv,
        None,
        "not asked for"
    );
}

#[test]
fn ignoring_value_or_lease() {
    let mut keyspace = Keyspace::default();
    let ignore_value = |value| PutRequest {
        ignore_value: true,
        ..put("a", value)
    };
    let ignore_lease = |lease| PutRequest {
        ignore_lease: true,
        lease,
        ..put("a", "2")
    };
    assert_eq!(keyspace.put(ignore_value("")), Err(Error::KeyNotFound));
    assert_eq!(keyspace.put(ignore_lease(0)), Err(Error::KeyNotFound));
    assert_eq!(keyspace.put(ignore_value("x")), Err(Error::ValueProvided));
    assert_eq!(keyspace.put(ignore_lease(7)), Err(Error::LeaseProvided));
    assert_eq!(keyspace.revision(), 1, "refusals change nothing");

    keyspace.fill(&[("a", "1")]);
    keyspace.put(ignore_value("")).unwrap();
    assert_eq!(keyspace.all(), ["a=1"]);
    assert_eq!(keyspace.range(single("a")).unwrap().kvs[0].version, 2);
    keyspace.put(ignore_lease(0)).unwrap();
    assert_eq!(keyspace.all(), ["a=2"]);
}

#[test]
fn checks_come_in_order() {
    let mut keyspace = Keyspace::default();
    let wrong = PutRequest {
        ignore_value: true,
        ignore_lease: true,
        lease: 1,
        ..put("", "x")
    };
    assert_eq!(keyspace.put(wrong.clone()), Err(Error::KeyEmpty));
    let wrong = PutRequest {
        key: bytes("a"),
        ..wrong
    };
    assert_eq!(keyspace.put(wrong.clone()), Err(Error::ValueProvided));
    let wrong = PutRequest {
        value: bytes(""),
        ..wrong
    };
    assert_eq!(keyspace.put(wrong.clone()), Err(Error::LeaseProvided));
    let wrong = PutRequest {
        ignore_lease: false,
        ..wrong
    };
    assert_eq!(
        keyspace.put(wrong),
        Err(Error::LeaseNotFound),
        "before the missing key"
    );
    assert_eq!(keyspace.delete(delete("", "b")), Err(Error::KeyEmpty));
}

#[test]
fn a_lease_must_exist() {
    let mut keyspace = Keyspace::default();
    for lease in [1, -1, i64::MAX] {
        let request = PutRequest {
            lease,
            ..put("a", "1")
        };
        assert_eq!(keyspace.put(request), Err(Error::LeaseNotFound));
    }
    assert_eq!(Error::LeaseNotFound.code(), Code::NotFound);
    assert_eq!(keyspace.revision(), 1);
}

#[test]
fn pairs_tell_their_lease() {
    let mut keyspace = Keyspace::default();
    let lease = |keyspace: &mut Keyspace, keys_only| {
        let request = RangeRequest {
            keys_only,
            ..span("a", "b")
        };
        keyspace.range(request).unwrap().kvs[0].lease
    };
    keyspace.grant(7, 60).unwrap();
    let leased = PutRequest {
        lease: 7,
        ..put("a", "1")
    };
    keyspace.put(leased).unwrap();
    assert_eq!(lease(&mut keyspace, false), 7);
    assert_eq!(lease(&mut keyspace, true), 0, "as in 3.7");
    let alone = RangeRequest {
        keys_only: true,
        ..single("a")
    };
    assert_eq!(keyspace.range(alone).unwrap().kvs[0].lease, 0);

    keyspace
        .put(PutRequest {
            ignore_lease: true,
            ..put("a", "2")
        })
        .unwrap();
    assert_eq!(lease(&mut keyspace, false), 7, "kept");
    let ignoring = PutRequest {
        ignore_value: true,
        prev_kv: true,
        ..put("a", "")
    };
    let previous = keyspace.put(ignoring).unwrap().prev_kv.unwrap();
    assert_eq!((previous.lease, previous.value), (7, bytes("2")));
    assert_eq!(
        lease(&mut keyspace, false),
        0,
        "a put without a lease detaches"
    );
}

#[test]
fn deletes() {
    let mut keyspace = Keyspace::default();
    keyspace.fill(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
    // key, range end, deleted, revision after
    let cases = [
        ("x", "", 0, 5),
        ("c", "b", 0, 5),
        ("a", "c", 2, 6),
        ("a", "c", 0, 6),
        ("c", "\0", 2, 7),
    ];
    for (key, range_end, deleted, revision) in cases {
        let response = keyspace.delete(delete(key, range_end)).unwrap();
        assert_eq!(response.deleted, deleted, "{key:?} {range_end:?}");
        assert_eq!(
            response.header.unwrap().revision,
            revision,
            "{key:?} {range_end:?}"
        );
        assert!(response.prev_kvs.is_empty(), "not asked for");
    }
    assert_eq!(keyspace.all(), [""; 0]);
}

#[test]
fn deletes_tell_what_they_deleted() {
    let mut keyspace = Keyspace::default();
    keyspace.fill(&[("b", "2"), ("a", "1"), ("a", "3")]);
    let request = DeleteRangeRequest {
        prev_kv: true,
        ..delete("\0", "\0")
    };
    let response = keyspace.delete(request.clone()).unwrap();
    let told: Vec<_> = response
        .prev_kvs
        .iter()
        .map(|pair| (&pair.value[..], pair.version))
        .collect();
    assert_eq!(told, [(&b"3"[..], 2), (&b"2"[..], 1)]);
    assert_eq!(keyspace.delete(request).unwrap().prev_kvs, []);
}

#[test]
fn one_revision_brings_one_batch_of_events() {
    let mut keyspace = Keyspace::default();
    keyspace.fill(&[("a", "1"), ("b", "2")]);
    keyspace
        .txn(then(vec![op_put("c", "3"), op_delete("a", "c")]))
        .unwrap();
    assert_eq!(keyspace.events.len(), 1);
    let events = &keyspace.events[0].events;
    let keys: Vec<_> = events
        .iter()
        .map(|event| event.key_value.key.clone())
        .collect();
    assert_eq!(keys, ["c", "a", "b"], "in the order of the operations");
    keyspace.delete(delete("zz", "")).unwrap();
    assert_eq!(keyspace.events, [], "nothing changed, nothing happened");
}

#[test]
fn compaction() {
    let mut keyspace = Keyspace::default();
    assert_eq!(keyspace.compact(-1), Err(Error::Compacted));
    assert_eq!(
        keyspace.compact(0),
        Ok(1),
        "a new keyspace may be compacted at 0"
    );
    assert_eq!(keyspace.compact(2), Err(Error::FutureRevision));
    keyspace.fill(&[("a", "1"), ("a", "2"), ("a", "3")]);
    assert_eq!(
        keyspace.compact(3),
        Ok(4),
        "the header tells the latest revision"
    );
    assert_eq!(keyspace.compact(3), Err(Error::Compacted));
    assert_eq!(keyspace.compact(0), Err(Error::Compacted));
    assert_eq!(keyspace.compact(5), Err(Error::FutureRevision));
    assert_eq!(keyspace.compact(4), Ok(4), "the latest revision");
    assert_eq!(
        keyspace.range(RangeRequest {
            revision: 3,
            ..single("a")
        }),
        Err(Error::Compacted)
    );
    assert_eq!(
        keyspace.list(RangeRequest {
            revision: 4,
            ..single("a")
        }),
        ["a=3"]
    );
}

#[test]
fn the_quota_stops_what_puts_and_nothing_else() {
    let mut keyspace = Keyspace::with_quota(5000);
    let value = "x".repeat(1000);
    let mut refused = None;
    for number in 0..10 {
        if let Err(error) = keyspace.put(put(&format!("key{number}"), &value)) {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused, Some(Error::NoSpace));
    let revision = keyspace.revision();
    let blocked = |operations| txn(vec![], vec![], operations);
    let not_taken = blocked(vec![op_put("y", &value)]);
    assert_eq!(
        keyspace.txn(not_taken),
        Err(Error::NoSpace),
        "the dearer branch counts"
    );
    assert_eq!(keyspace.revision(), revision);
    keyspace.range(span("\0", "\0")).unwrap();
    keyspace.txn(then(vec![op_delete("key0", "")])).unwrap();
    keyspace.delete(delete("\0", "\0")).unwrap();
    keyspace.compact(keyspace.revision()).unwrap();
    while keyspace.state.compaction_pending() {
        keyspace.txn(then(vec![op_delete("none", "")])).unwrap();
    }
    keyspace
        .put(put("y", &value))
        .expect("space that was freed can be used again");
}

#[test]
fn requests_have_a_largest_size() {
    let mut keyspace = Keyspace::default();
    keyspace.limits.max_request_bytes = 1000;
    keyspace.put(put("a", &"x".repeat(900))).unwrap();
    assert_eq!(
        keyspace.put(put("a", &"x".repeat(1000))),
        Err(Error::RequestTooLarge)
    );
    let half = "x".repeat(500);
    let both = then(vec![op_put("a", &half), op_put("b", &half)]);
    assert_eq!(keyspace.txn(both), Err(Error::RequestTooLarge));
    let key = "x".repeat(1000);
    assert_eq!(
        keyspace.delete(delete(&key, "")),
        Err(Error::RequestTooLarge)
    );
    assert_eq!(
        keyspace.range(single(&key)).unwrap().count,
        0,
        "reads are not written down"
    );
}
