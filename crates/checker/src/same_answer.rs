//! Whether an answer is the one that the keyspace must give, where etcd's own versions differ.
//!
//! Pairs of a keys-only range come without their lease from etcd 3.7 on, which reads them from its
//! index alone, and with it before. Both are right; a wrong lease is not.

use crate::history::{KeyValue, LeaseId, Range, RangeResult, Request, Response};
use crate::history::{Step, StepResult, Txn, TxnResult};

/// Whether `seen` is as good an answer as `expected`.
pub(crate) fn is_same(request: &Request, expected: &Response, seen: &Response) -> bool {
    expected == seen
        || match (request, expected, seen) {
            (Request::Range(range), Response::Range(expected), Response::Range(seen)) => {
                ranges(range, expected, seen)
            }
            (Request::Txn(txn), Response::Txn(expected), Response::Txn(seen)) => {
                transactions(txn, expected, seen)
            }
            _ => false,
        }
}

fn ranges(range: &Range, expected: &RangeResult, seen: &RangeResult) -> bool {
    let alike = |(expected, seen): (&KeyValue, &KeyValue)| {
        let bare = KeyValue {
            lease: LeaseId(0),
            ..expected.clone()
        };
        expected == seen || bare == *seen
    };
    expected == seen
        || range.keys_only
            && (expected.count, expected.more) == (seen.count, seen.more)
            && expected.key_values.len() == seen.key_values.len()
            && expected.key_values.iter().zip(&seen.key_values).all(alike)
}

fn transactions(txn: &Txn, expected: &TxnResult, seen: &TxnResult) -> bool {
    let steps = match expected.succeeded {
        true => &txn.success,
        false => &txn.failure,
    };
    let alike = |(step, (expected, seen)): (&Step, (&StepResult, &StepResult))| match (
        step, expected, seen,
    ) {
        (Step::Range(range), StepResult::Range(expected), StepResult::Range(seen)) => {
            ranges(range, expected, seen)
        }
        (Step::Txn(txn), StepResult::Txn(expected), StepResult::Txn(seen)) => {
            transactions(txn, expected, seen)
        }
        _ => expected == seen,
    };
    let answers = expected.responses.iter().zip(&seen.responses);
    expected.succeeded == seen.succeeded
        && expected.responses.len() == seen.responses.len()
        && steps.iter().zip(answers).all(alike)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(lease: i64) -> RangeResult {
        let pair = KeyValue {
            key: "a".into(),
            lease: LeaseId(lease),
            ..KeyValue::default()
        };
        RangeResult {
            key_values: vec![pair],
            count: 1,
            more: false,
        }
    }

    #[test]
    fn only_a_keys_only_range_may_leave_the_lease_out_and_none_may_show_another() {
        for keys_only in [false, true] {
            let range = Range {
                key: "a".into(),
                keys_only,
                ..Range::default()
            };
            let txn = Request::Txn(Txn {
                success: vec![Step::Range(range.clone())],
                ..Txn::default()
            });
            let range = Request::Range(range);
            let in_txn = |lease| {
                Response::Txn(TxnResult {
                    succeeded: true,
                    responses: vec![StepResult::Range(answer(lease))],
                })
            };
            for (shown, same) in [(7, true), (0, keys_only), (8, false)] {
                let (expected, seen) = (Response::Range(answer(7)), Response::Range(answer(shown)));
                assert_eq!(
                    is_same(&range, &expected, &seen),
                    same,
                    "{keys_only} {shown}"
                );
                assert_eq!(is_same(&txn, &in_txn(7), &in_txn(shown)), same);
            }
        }
    }
}
