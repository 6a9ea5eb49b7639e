//! Says in words where an answer differs from the one that must be given.

use crate::history::{Key, KeyValue, RangeResult, Response, Revision, StepResult};
use crate::report::Rule;
use crate::run::Operation;

/// A difference in words.
pub(crate) struct Explained {
    pub(crate) rule: Rule,
    pub(crate) text: String,
    pub(crate) lines: Vec<u64>,
    /// The keys that differ, if these alone can be the cause.
    pub(crate) keys: Option<Vec<Key>>,
}

/// Who made a revision, in words, and the lines of it.
type Owner<'a> = &'a dyn Fn(Revision) -> (String, Vec<u64>);

/// Where the answer of `operation`, which stands at `at`, differs from `expected`.
pub(crate) fn difference(
    operation: &Operation<'_>,
    at: Revision,
    expected: &Response,
    seen: &Response,
    owner: Owner<'_>,
) -> Explained {
    let mut explained = match (expected, seen) {
        (Response::Range(expected), Response::Range(seen)) => range(expected, seen, at, owner),
        (Response::Put(expected), Response::Put(seen)) => previous(
            expected.prev_kv.as_slice(),
            seen.prev_kv.as_slice(),
            at,
            owner,
        ),
        (Response::Delete(expected), Response::Delete(seen)) => {
            let mut explained = previous(&expected.prev_kvs, &seen.prev_kvs, at, owner);
            if expected.deleted != seen.deleted {
                explained.text = format!(
                    "it says that {} keys were deleted; {} were there",
                    seen.deleted, expected.deleted
                );
                explained.keys = None;
            }
            explained
        }
        (Response::Txn(expected), Response::Txn(seen)) => txn(expected, seen, at, owner),
        _ => plain(format!(
            "the answer is {seen:?}, where it must be {expected:?}"
        )),
    };
    explained.text = format!(
        "{} was answered at revision {at}: {}",
        operation.describe(),
        explained.text
    );
    explained
}

fn plain(text: String) -> Explained {
    Explained {
        rule: Rule::WrongAnswer,
        text,
        lines: Vec::new(),
        keys: None,
    }
}

fn shown(kv: &KeyValue) -> String {
    let lease = if kv.lease.0 == 0 {
        String::new()
    } else {
        format!(", lease {}", kv.lease)
    };
    format!(
        "{} = {} (written at {}, created at {}, version {}{lease})",
        kv.key, kv.value, kv.mod_revision, kv.create_revision, kv.version
    )
}

fn range(expected: &RangeResult, seen: &RangeResult, at: Revision, owner: Owner<'_>) -> Explained {
    let mut explained = versions(&expected.key_values, &seen.key_values, at, owner);
    if expected.key_values == seen.key_values {
        explained.text = format!(
            "it counts {} keys (more: {}); there are {} (more: {})",
            seen.count, seen.more, expected.count, expected.more
        );
    }
    if expected.more || seen.more || expected.key_values == seen.key_values {
        explained.keys = None;
    }
    explained
}

fn previous(expected: &[KeyValue], seen: &[KeyValue], at: Revision, owner: Owner<'_>) -> Explained {
    let mut explained = versions(expected, seen, at, owner);
    explained.text = format!("as previous version {}", explained.text);
    explained.keys = None;
    explained
}

/// Compares two lists of versions in key order; explains the first difference.
fn versions(expected: &[KeyValue], seen: &[KeyValue], at: Revision, owner: Owner<'_>) -> Explained {
    let mut keys: Vec<Key> = Vec::new();
    let mut first: Option<(Option<&KeyValue>, Option<&KeyValue>)> = None;
    let (mut left, mut right) = (expected.iter().peekable(), seen.iter().peekable());
    loop {
        let pair = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => (left.next(), None),
            (None, Some(_)) => (None, right.next()),
            (Some(one), Some(other)) => match one.key.cmp(&other.key) {
                std::cmp::Ordering::Less => (left.next(), None),
                std::cmp::Ordering::Greater => (None, right.next()),
                std::cmp::Ordering::Equal => (left.next(), right.next()),
            },
        };
        if pair.0 != pair.1 {
            first.get_or_insert(pair);
            keys.extend(pair.0.or(pair.1).map(|kv| kv.key.clone()));
        }
    }
    let mut explained = match first {
        None => plain("nothing differs".to_owned()),
        Some((expected, seen)) => version(expected, seen, at, owner),
    };
    explained.keys = Some(keys);
    explained
}

fn version(
    expected: Option<&KeyValue>,
    seen: Option<&KeyValue>,
    at: Revision,
    owner: Owner<'_>,
) -> Explained {
    let (text, rule, cause) = match (expected, seen) {
        (Some(expected), None) => (
            format!("it did not see {}", shown(expected)),
            Rule::WrongAnswer,
            expected.mod_revision,
        ),
        (None, Some(seen)) => (
            format!("it saw {}, which is not there", shown(seen)),
            if seen.mod_revision > at {
                Rule::FutureRead
            } else {
                Rule::WrongAnswer
            },
            seen.mod_revision,
        ),
        (Some(expected), Some(seen)) => (
            format!("it saw {} instead of {}", shown(seen), shown(expected)),
            if seen.mod_revision > at {
                Rule::FutureRead
            } else if seen.mod_revision < expected.mod_revision {
                Rule::StaleRead
            } else {
                Rule::WrongAnswer
            },
            expected.mod_revision,
        ),
        (None, None) => unreachable!("two absent versions do not differ"),
    };
    let (made, lines) = owner(cause);
    Explained {
        rule,
        text: format!("{text}; revision {cause} was made {made}"),
        lines,
        keys: None,
    }
}

fn txn(
    expected: &crate::history::TxnResult,
    seen: &crate::history::TxnResult,
    at: Revision,
    owner: Owner<'_>,
) -> Explained {
    if expected.succeeded != seen.succeeded {
        let word = |held: bool| if held { "held" } else { "did not hold" };
        return plain(format!(
            "its conditions {}, but it was told that they {}",
            word(expected.succeeded),
            word(seen.succeeded)
        ));
    }
    for (index, pair) in expected.responses.iter().zip(&seen.responses).enumerate() {
        if pair.0 == pair.1 {
            continue;
        }
        let mut explained = match pair {
            (StepResult::Range(expected), StepResult::Range(seen)) => {
                range(expected, seen, at, owner)
            }
            (StepResult::Put(expected), StepResult::Put(seen)) => previous(
                expected.prev_kv.as_slice(),
                seen.prev_kv.as_slice(),
                at,
                owner,
            ),
            (StepResult::Delete(expected), StepResult::Delete(seen)) => {
                if expected.deleted == seen.deleted {
                    previous(&expected.prev_kvs, &seen.prev_kvs, at, owner)
                } else {
                    plain(format!(
                        "it says that {} keys were deleted; {} were there",
                        seen.deleted, expected.deleted
                    ))
                }
            }
            (StepResult::Txn(expected), StepResult::Txn(seen)) => txn(expected, seen, at, owner),
            (expected, seen) => plain(format!("{seen:?} instead of {expected:?}")),
        };
        explained.text = format!("in step {}: {}", index + 1, explained.text);
        explained.keys = None;
        return explained;
    }
    plain("nothing differs".to_owned())
}
