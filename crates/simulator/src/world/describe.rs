//! What frames and calls say, in a line.

use base::GroupId;
use bytes::Bytes;
use consensus::message::{Accepted, Body, FollowerState, Message, PaxosBody};
use node::wire::{Frame, GroupFrame};

/// A frame in a line.
pub(crate) fn frame(body: &Bytes) -> String {
    match Frame::decode(body.clone()) {
        Ok(Frame::Engine(messages)) => {
            let each = |(_, message): &(GroupId, Message)| {
                format!("{} {}", message.epoch, engine(&message.body))
            };
            messages.iter().map(each).collect::<Vec<_>>().join("; ")
        }
        Ok(Frame::Hello(hello)) => format!("hello {} {:?}", hello.node, hello.standing),
        Ok(Frame::Group(_, GroupFrame::Forward(commands))) => {
            let sequences: Vec<u64> = commands.iter().map(|each| each.sequence).collect();
            format!("forward {sequences:?}")
        }
        Ok(Frame::Group(_, GroupFrame::Refused { sequences, .. })) => {
            format!("refused {sequences:?}")
        }
        Ok(Frame::Group(_, GroupFrame::Facts(facts))) => {
            format!("facts applied {} table {}", facts.applied, facts.table.0)
        }
        Ok(other) => format!("{other:?}").chars().take(160).collect(),
        Err(error) => format!("nonsense: {}", error.0),
    }
}

fn engine(body: &Body) -> String {
    match body {
        Body::Append {
            session,
            round,
            previous,
            chosen,
            entries,
        } => {
            let what = match (entries.first(), entries.last()) {
                (Some(first), Some(last)) => format!("append {}..={}", first.slot, last.slot),
                _ => "heartbeat".to_owned(),
            };
            format!(
                "{what} after {}@{} chosen {chosen} round {round} session {session}",
                previous.slot, previous.epoch
            )
        }
        Body::AppendReply {
            session,
            round,
            matched,
            received,
            state,
        } => {
            let state = match state {
                FollowerState::Matching => String::new(),
                other => format!(" {other:?}"),
            };
            format!(
                "reply matched {matched} received {received} round {round} session {session}{state}"
            )
        }
        Body::SnapshotPiece { offset, bytes, .. } => {
            format!("snapshot piece {offset}+{}", bytes.len())
        }
        Body::Paxos(PaxosBody::Accept {
            session,
            round,
            chosen,
            last,
            entries,
        }) => {
            let slots: Vec<String> = entries
                .iter()
                .map(|entry| format!("{}@{}", entry.slot, entry.epoch))
                .collect();
            format!("accept {slots:?} last {last} chosen {chosen} round {round} session {session}")
        }
        Body::Paxos(PaxosBody::Promise {
            granted,
            first,
            next,
            chosen,
            accepted,
        }) => {
            let told: Vec<String> = accepted
                .iter()
                .map(|each| {
                    let Accepted { ballot, entry } = each;
                    format!("{}@{} under {ballot}", entry.slot, entry.epoch)
                })
                .collect();
            format!("promise {granted} from {first} next {next} chosen {chosen} told {told:?}")
        }
        Body::Paxos(PaxosBody::Learn {
            chosen, entries, ..
        }) => {
            let ends = entries.first().zip(entries.last());
            let slots = ends.map(|(first, last)| (first.slot, last.slot));
            format!("learn {slots:?} chosen {chosen}")
        }
        other => format!("{other:?}"),
    }
}

/// A request in a line.
pub(crate) fn request(request: &etcd::Request) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(24)]).into_owned();
    match request {
        etcd::Request::Range(range) => format!(
            "range {}{}{}",
            text(&range.key),
            if range.range_end.is_empty() { "" } else { ".." },
            if range.serializable {
                " serializable"
            } else {
                ""
            }
        ),
        etcd::Request::Put(put) => format!("put {} = {}", text(&put.key), text(&put.value)),
        etcd::Request::DeleteRange(delete) => format!("delete {}", text(&delete.key)),
        etcd::Request::Txn(txn) => match txn.compare.first() {
            Some(compare) => format!("swap {} if {:?}", text(&compare.key), compare.target_union),
            None => "txn".to_owned(),
        },
        etcd::Request::Compact(compact) => format!("compact {}", compact.revision),
        other => format!("{other:?}").chars().take(160).collect(),
    }
}

/// An answer in a line.
pub(crate) fn answer(answer: &node::Answer) -> String {
    match answer {
        node::Answer::Etcd(Ok(response)) => {
            let mut response = response.clone();
            let revision = response.header_mut().revision;
            match &response {
                etcd::Response::Range(range) => {
                    let last = range.kvs.first().map(|shown| shown.mod_revision);
                    format!(
                        "ok at {revision}: {} keys, first of {last:?}",
                        range.kvs.len()
                    )
                }
                etcd::Response::Txn(txn) => format!("ok at {revision}: {}", txn.succeeded),
                _ => format!("ok at {revision}"),
            }
        }
        node::Answer::Etcd(Err(error)) => format!("{error}"),
        other => format!("{other:?}").chars().take(160).collect(),
    }
}
