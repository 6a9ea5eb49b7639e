//! Ranges in pieces: together they are what one read at the stream's revision would have been.

mod harness;

use harness::{Keyspace, delete, put, single, span};
use proptest::prelude::*;
use quorate_etcd::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_etcd::proto::etcdserverpb::{RangeRequest, RangeResponse};
use quorate_etcd::{Code, Error, ReadBudget};

fn budget(keys: u64) -> ReadBudget {
    ReadBudget::new(keys, 1 << 20)
}

fn filled(keys: usize) -> Keyspace {
    let mut keyspace = Keyspace::default();
    for number in 0..keys {
        keyspace.fill(&[(&format!("k{number:03}"), "value")]);
    }
    keyspace
}

/// What the messages say together, held against the rules for each.
fn whole(messages: Vec<RangeResponse>) -> RangeResponse {
    let (last, rest) = messages.split_last().expect("there is a last message");
    let mut whole = last.clone();
    whole.kvs.clear();
    for message in rest {
        assert!(message.header.is_none() && !message.more && message.count == 0);
        assert!(!message.kvs.is_empty(), "only the last may be empty");
    }
    whole.kvs = messages.into_iter().flat_map(|each| each.kvs).collect();
    whole
}

#[test]
fn pieces_are_of_one_revision_whatever_is_written_meanwhile() {
    let mut keyspace = filled(50);
    let before = keyspace.range(span("k", "l")).unwrap();
    let messages = keyspace.stream(span("k", "l"), budget(7), |keyspace| {
        keyspace.delete(delete("k04", "k05")).unwrap();
        keyspace.fill(&[("k0000", "new"), ("k049", "changed"), ("kzz", "new")]);
    });
    let messages = messages.unwrap();
    assert_eq!(messages.len(), 8);
    assert_eq!(whole(messages), before);
}

#[test]
fn a_stream_ends_when_its_revision_is_compacted() {
    let mut keyspace = filled(30);
    let ended = keyspace.stream(span("k", "l"), budget(10), |keyspace| {
        keyspace.fill(&[("other", "x")]);
        let revision = keyspace.revision();
        keyspace.compact(revision).unwrap();
    });
    assert_eq!(ended, Err(Error::Compacted));
}

#[test]
fn what_etcd_does_not_stream_is_unimplemented_in_its_words() {
    let mut keyspace = filled(1);
    let mut refused = |request| {
        let error = keyspace.stream(request, budget(10), |_| {}).unwrap_err();
        (error.code(), error.text())
    };
    let sorted = |order: SortOrder, target: SortTarget| RangeRequest {
        sort_order: order.into(),
        sort_target: target.into(),
        min_mod_revision: 1,
        ..span("a", "b")
    };
    let text = "RangeStream does not support custom sort orders";
    let expected = (Code::Unimplemented, text);
    assert_eq!(
        refused(sorted(SortOrder::Descend, SortTarget::Key)),
        expected
    );
    assert_eq!(
        refused(sorted(SortOrder::Ascend, SortTarget::Mod)),
        expected
    );
    let text = "RangeStream does not support revision filters";
    let expected = (Code::Unimplemented, text);
    assert_eq!(
        refused(sorted(SortOrder::Ascend, SortTarget::Key)),
        expected
    );
    assert_eq!(refused(sorted(SortOrder::None, SortTarget::Mod)), expected);
    let unknown = RangeRequest {
        sort_order: 9,
        ..span("a", "b")
    };
    assert_eq!(refused(unknown).1, Error::InvalidSortOption.text());
    assert_eq!(refused(span("", "b")).1, Error::KeyEmpty.text());
    let future = RangeRequest {
        revision: 100,
        ..span("a", "b")
    };
    assert_eq!(refused(future).1, Error::FutureRevision.text());
}

#[test]
fn one_key_and_a_count_are_one_message() {
    let mut keyspace = filled(20);
    let counted = RangeRequest {
        count_only: true,
        ..span("k", "l")
    };
    for request in [single("k007"), single("none"), counted] {
        let expected = keyspace.range(request.clone()).unwrap();
        let messages = keyspace.stream(request, budget(3), |_| {}).unwrap();
        assert_eq!(messages, [expected]);
    }
}

/// As in a range. Piece by piece it could not be done.
#[test]
fn a_target_without_an_order_sorts_and_is_one_message() {
    let mut keyspace = filled(20);
    keyspace.fill(&[("k019", "a value that comes first")]);
    let request = RangeRequest {
        sort_target: SortTarget::Value as i32,
        ..span("k", "l")
    };
    let expected = keyspace.range(request.clone()).unwrap();
    assert_eq!(expected.kvs[0].key, "k019");
    let messages = keyspace.stream(request, ReadBudget::UNLIMITED, |_| {});
    assert_eq!(messages.unwrap(), [expected]);
}

#[test]
fn one_large_value_is_a_piece_of_its_own() {
    let mut keyspace = Keyspace::default();
    let large = "x".repeat(1 << 10);
    for key in ["a", "b", "c"] {
        keyspace.put(put(key, &large)).unwrap();
    }
    let small = ReadBudget::new(100, 10);
    let expected = keyspace.range(span("a", "z")).unwrap();
    let messages = keyspace.stream(span("a", "z"), small, |_| {}).unwrap();
    assert_eq!(messages.len(), 3);
    assert_eq!(whole(messages), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_together_are_the_whole(
        from in 0..45usize, to in 0..45usize, limit in -1..45i64, keys in 1..20u64,
        back in 0..30i64, keys_only: bool, endless: bool,
    ) {
        let mut keyspace = filled(40);
        let end = if endless { "\0".to_owned() } else { format!("k{to:03}") };
        let request = RangeRequest {
            limit,
            keys_only,
            revision: if back == 0 { 0 } else { keyspace.revision() - back },
            ..span(&format!("k{from:03}"), &end)
        };
        let expected = keyspace.range(request.clone()).unwrap();
        let messages = keyspace.stream(request, budget(keys), |_| {}).unwrap();
        prop_assert_eq!(whole(messages), expected);
    }
}
