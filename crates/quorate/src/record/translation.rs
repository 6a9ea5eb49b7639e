//! etcd's messages as lines of a history.

use checker::history::{Failure, Key, KeyValue, LeaseId, RangeResult, Revision, Value, WatchEvent};
use client::etcd::Error as Refusal;
use client::etcd::proto::etcdserverpb::{RangeResponse, ResponseHeader};
use client::etcd::proto::mvccpb;
use client::etcd::proto::mvccpb::event::EventType;

/// All keys that begin with `prefix`: the first, and the first beyond them.
pub(super) fn below(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (prefix.as_bytes().to_vec(), end);
        }
    }
    // Nothing lies beyond: everything from the prefix on.
    (
        if prefix.is_empty() {
            vec![0]
        } else {
            prefix.as_bytes().to_vec()
        },
        vec![0],
    )
}

pub(super) fn revision(header: Option<&ResponseHeader>) -> Revision {
    Revision(header.map_or(0, |header| header.revision as u64))
}

pub(super) fn key_value(pair: &mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: Key(pair.key.clone()),
        value: Value(pair.value.clone()),
        create_revision: Revision(pair.create_revision as u64),
        mod_revision: Revision(pair.mod_revision as u64),
        version: pair.version as u64,
        lease: LeaseId(pair.lease),
    }
}

pub(super) fn range_result(answer: &RangeResponse) -> RangeResult {
    RangeResult {
        key_values: answer.kvs.iter().map(key_value).collect(),
        count: answer.count as u64,
        more: answer.more,
    }
}

pub(super) fn event(event: &mvccpb::Event) -> WatchEvent {
    let pair = event.kv.clone().unwrap_or_default();
    let prev_kv = event.prev_kv.as_ref().map(key_value);
    match event.r#type() {
        EventType::Put => WatchEvent::Put {
            kv: key_value(&pair),
            prev_kv,
        },
        EventType::Delete => WatchEvent::Delete {
            key: Key(pair.key),
            mod_revision: Revision(pair.mod_revision as u64),
            prev_kv,
        },
    }
}

/// Why a call certainly had no effect.
pub(super) fn failure(error: &client::Error) -> Failure {
    if error.is(Refusal::Compacted) {
        Failure::Compacted
    } else if error.is(Refusal::FutureRevision) {
        Failure::FutureRevision
    } else {
        Failure::Other(error.to_string())
    }
}
