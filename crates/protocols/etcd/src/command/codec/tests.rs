//! Records: there and back, byte for byte as documented, and no bytes that do harm.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

use super::{Damage, Record, VERSION, decode, encode};
use crate::command::{
    Command, Compare, DeleteRange, Filters, Grant, Operand, Operation, Put, Range, Relation, Sort,
    Txn,
};
use crate::limits::MAX_TXN_DEPTH;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::span::KeySpan;

fn bytes() -> impl Strategy<Value = &'static [u8]> {
    let long = vec![b'x'; 300].leak();
    select(vec![&b""[..], b"a", b"\0", b"key", b"\xff\xff", long])
}

fn span() -> impl Strategy<Value = KeySpan<'static>> {
    prop_oneof![
        bytes().prop_map(KeySpan::Single),
        (bytes(), bytes()).prop_map(|(start, end)| KeySpan::Span(start, end)),
        bytes().prop_map(KeySpan::From),
    ]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(0),
        -2..3i64,
        Just(i64::MIN),
        Just(i64::MAX),
        any::<i64>()
    ]
}

fn put() -> impl Strategy<Value = Put<'static>> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (bytes(), bytes(), number(), flags).prop_map(|(key, value, lease, flags)| Put {
        key,
        value,
        lease,
        previous: flags.0,
        ignore_value: flags.1,
        ignore_lease: flags.2,
    })
}

fn delete_range() -> impl Strategy<Value = DeleteRange<'static>> {
    (span(), any::<bool>()).prop_map(|(span, previous)| DeleteRange { span, previous })
}

fn range() -> impl Strategy<Value = Range<'static>> {
    let sort = (0..5, 0..3).prop_map(|(target, order)| Sort {
        target: SortTarget::try_from(target).unwrap(),
        order: SortOrder::try_from(order).unwrap(),
    });
    let filters = prop_oneof![
        Just(Filters::default()),
        (number(), number(), number(), number()).prop_map(
            |(min_mod, max_mod, min_create, max_create)| Filters {
                min_mod,
                max_mod,
                min_create,
                max_create
            }
        ),
    ];
    let flags = (any::<bool>(), any::<bool>());
    (span(), number(), number(), sort, flags, filters).prop_map(
        |(span, limit, revision, sort, (keys_only, count_only), filters)| Range {
            span,
            limit,
            revision,
            sort,
            keys_only,
            count_only,
            filters,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare<'static>> {
    let relations = [
        Relation::Equal,
        Relation::Greater,
        Relation::Less,
        Relation::NotEqual,
        Relation::Any,
    ];
    let operand = prop_oneof![
        number().prop_map(Operand::Version),
        number().prop_map(Operand::CreateRevision),
        number().prop_map(Operand::ModRevision),
        number().prop_map(Operand::Lease),
        bytes().prop_map(Operand::Value),
        Just(Operand::Nothing),
    ];
    (span(), select(relations.to_vec()), operand).prop_map(|(span, relation, operand)| Compare {
        span,
        relation,
        operand,
    })
}

fn txn() -> impl Strategy<Value = Txn<'static>> {
    let empty = Txn {
        compares: vec![],
        success: vec![],
        failure: vec![],
    };
    Just(empty).prop_recursive(4, 32, 4, |nested| {
        let operation = prop_oneof![
            range().prop_map(Operation::Range),
            put().prop_map(Operation::Put),
            delete_range().prop_map(Operation::DeleteRange),
            nested.prop_map(Operation::Txn),
        ];
        let operations = || prop::collection::vec(operation.clone(), 0..4);
        let compares = prop::collection::vec(compare(), 0..4);
        let (success, failure) = (operations(), operations());
        (compares, success, failure).prop_map(|(compares, success, failure)| Txn {
            compares,
            success,
            failure,
        })
    })
}

fn command() -> impl Strategy<Value = Command<'static>> {
    prop_oneof![
        put().prop_map(Command::Put),
        delete_range().prop_map(Command::DeleteRange),
        txn().prop_map(Command::Txn),
        number().prop_map(Command::Compact),
        (number(), number()).prop_map(|(id, ttl)| Command::Grant(Grant { id, ttl })),
        number().prop_map(Command::Revoke),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(2379), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn there_and_back(command in command()) {
        let record = encode(None, &command);
        let caller = None;
        prop_assert_eq!(decode(&record), Ok(Record { caller, command }));
        let longer = [&record[..], &[0]].concat();
        prop_assert_eq!(decode(&longer), Err(Damage::Malformed), "something follows");
        for length in 0..record.len().min(100) {
            prop_assert!(decode(&record[..length]).is_err(), "cut to {} bytes", length);
        }
    }

    #[test]
    fn any_bytes_end_in_a_command_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode(&bytes);
        for kind in 0..8 {
            let _ = decode(&[&[VERSION, kind], &bytes[..]].concat());
        }
    }
}

const PUT: Put<'_> = Put {
    key: b"k",
    value: b"val",
    lease: -3,
    previous: true,
    ignore_value: false,
    ignore_lease: true,
};
const PUT_BODY: &[u8] = b"\x0d\x01k\x03val\x05";

const DELETE: DeleteRange<'_> = DeleteRange {
    span: KeySpan::Span(b"a", b"bc"),
    previous: true,
};
const DELETE_BODY: &[u8] = b"\x01\x01\x01a\x02bc";

const RANGE: Range<'_> = Range {
    span: KeySpan::From(b"f"),
    limit: 100,
    revision: 0,
    sort: Sort {
        target: SortTarget::Mod,
        order: SortOrder::Descend,
    },
    keys_only: true,
    count_only: false,
    filters: Filters {
        min_mod: 1,
        max_mod: -1,
        min_create: 0,
        max_create: 64,
    },
};
const RANGE_BODY: &[u8] = b"\x35\x02\x01f\xc8\x01\x23\x02\x01\x00\x80\x01";

#[test]
fn records_are_as_documented() {
    let compare = |relation, operand| Compare {
        span: KeySpan::Single(b"c"),
        relation,
        operand,
    };
    let txn = Txn {
        compares: vec![
            compare(Relation::NotEqual, Operand::Value(b"x")),
            compare(Relation::Any, Operand::Nothing),
            compare(Relation::Greater, Operand::ModRevision(7)),
        ],
        success: vec![Operation::Range(RANGE), Operation::DeleteRange(DELETE)],
        failure: vec![Operation::Put(PUT)],
    };
    let txn_record = [
        &b"\x01\x03"[..],
        b"\x03\x33\x00\x01c\x01x\x45\x00\x01c\x12\x00\x01c\x0e",
        b"\x02\x05",
        RANGE_BODY,
        b"\x02",
        DELETE_BODY,
        b"\x01\x01",
        PUT_BODY,
    ];
    let cases = [
        (Command::Put(PUT), [b"\x01\x01", PUT_BODY].concat()),
        (
            Command::DeleteRange(DELETE),
            [b"\x01\x02", DELETE_BODY].concat(),
        ),
        (Command::Compact(300), b"\x01\x04\xd8\x04".to_vec()),
        (Command::Txn(txn), txn_record.concat()),
        (
            Command::Grant(Grant { id: -2, ttl: 60 }),
            b"\x01\x06\x03\x78".to_vec(),
        ),
        (Command::Revoke(64), b"\x01\x07\x80\x01".to_vec()),
    ];
    for (command, record) in cases {
        assert_eq!(encode(None, &command), record, "{command:?}");
    }
}

#[test]
fn what_means_nothing_is_refused() {
    let refused: &[&[u8]] = &[
        b"\x01\x01\x10\x01k\x00",                                 // unknown flag
        b"\x01\x02\x02\x00\x01k",                                 // unknown flag
        b"\x01\x02\x00\x03\x01k",                                 // unknown span
        b"\x01\x05\x00\x00\x01k",                                 // a range is no command
        b"\x01\x03\x00\x01\x04\x00\x00",                          // compact in a txn
        b"\x01\x03\x00\x01\x07\x02\x00",                          // revoke in a txn
        b"\x01\x03\x01\x06\x00\x01k\x00\x00\x00",                 // unknown target
        b"\x01\x03\x01\x50\x00\x01k\x00\x00\x00",                 // unknown relation
        b"\x01\x03\x00\x01\x05\x10\x00\x01k\x05\x00",             // unknown sort target
        b"\x01\x03\x00\x01\x05\x10\x00\x01k\x30\x00",             // unknown sort order
        b"\x01\x04\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02",      // more than 64 bits
        b"\x01\x04\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  // more than ten bytes
        b"\x01\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01k", // longer than there is
        b"\x01\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",      // more than there is
    ];
    for record in refused {
        assert_eq!(decode(record), Err(Damage::Malformed), "{record:x?}");
    }
    assert_eq!(decode(b"\x02\x04\x00"), Err(Damage::UnknownVersion));
    assert_eq!(decode(b"\x00"), Err(Damage::UnknownVersion));
    assert_eq!(decode(b""), Err(Damage::Malformed));
}

#[test]
fn nesting_is_bounded() {
    let nest = |depth: usize| {
        let mut record = vec![VERSION, 3];
        for _ in 1..depth {
            record.extend([0, 1, 3]);
        }
        record.extend([0; 3]);
        record.extend(vec![0; depth - 1]);
        record
    };
    assert!(decode(&nest(MAX_TXN_DEPTH)).is_ok());
    assert_eq!(decode(&nest(MAX_TXN_DEPTH + 1)), Err(Damage::Malformed));
    assert_eq!(decode(&nest(100_000)), Err(Damage::Malformed));
}
