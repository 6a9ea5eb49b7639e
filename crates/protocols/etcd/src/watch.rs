//! etcd's watches: what a client asks for, and the messages that it gets.
//!
//! A message of events is written by hand rather than by the generated encoder, because one
//! event goes out to many watchers: its bytes are written once, straight from the state's own
//! event, and stand behind heads that differ in the watch's id alone.
//!
//! ```text
//!   WatchResponse:  header(1) watch_id(2) │ event(11) event(11) … │ fragment(7)
//!                   └── push_head ────────┘ └── push_event ─────┘   └ push_fragment
//! ```

use bytes::Bytes;
use prost::Message as _;
use state::{Event, EventKind, KeyRange, KeyValue};

use crate::error::Error;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};
use crate::span::KeySpan;

/// The watch id that stands for a whole stream, and for a watch that could not be opened.
pub const NO_WATCH_ID: i64 = -1;

/// A watch that a client wants, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchCreate {
    /// Which keys.
    pub range: KeyRange,
    /// The first revision wanted; `None` is from now on.
    pub start_revision: Option<i64>,
    /// The id that the client has chosen; `None` leaves it to the server.
    pub id: Option<i64>,
    /// Tell the revision from time to time while nothing happens.
    pub progress_notify: bool,
    /// Tell the key as it was before, too.
    pub previous: bool,
    /// Leave out writes.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
    /// A revision that is too large for one message may come in pieces.
    pub fragment: bool,
}

/// Why a watch was not opened, or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchRefusal {
    /// It would begin before all revisions.
    Compacted,
    /// Its range holds no key.
    EmptyRange,
    /// Another watch of the stream has its id.
    DuplicateId,
    /// The stream has as many watches as are allowed.
    TooManyOnStream,
    /// The node has as many watches as are allowed.
    TooManyOnNode,
    /// A revision does not fit into a message that clients can take.
    RevisionTooLarge,
    /// The client's user may not read what it wants to watch.
    PermissionDenied,
    /// The client's token is not valid, or no longer.
    InvalidAuthToken,
    /// Users or roles have changed since the token was given out.
    AuthOldRevision,
    /// The client has not signed in.
    UserEmpty,
}

/// Who the client is, or what it may do, does not allow a watch.
impl From<Error> for WatchRefusal {
    fn from(error: Error) -> WatchRefusal {
        match error {
            Error::InvalidAuthToken => WatchRefusal::InvalidAuthToken,
            Error::AuthOldRevision => WatchRefusal::AuthOldRevision,
            Error::UserEmpty => WatchRefusal::UserEmpty,
            _ => WatchRefusal::PermissionDenied,
        }
    }
}

impl WatchRefusal {
    /// What the client is told; for what etcd knows, in its words.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            WatchRefusal::Compacted => Error::Compacted.text(),
            WatchRefusal::EmptyRange => "mvcc: watcher range is empty",
            WatchRefusal::DuplicateId => "mvcc: duplicate watch ID provided on the WatchStream",
            WatchRefusal::TooManyOnStream => {
                "etcdserver: too many requests: this stream has as many watches as are allowed"
            }
            WatchRefusal::TooManyOnNode => {
                "etcdserver: too many requests: this node has as many watches as are allowed"
            }
            WatchRefusal::RevisionTooLarge => {
                "etcdserver: a revision is too large for one message; allow fragments, or watch \
                 fewer keys"
            }
            // Clients look for these as the Go library words a status.
            WatchRefusal::PermissionDenied => {
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
            }
            WatchRefusal::InvalidAuthToken => {
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
            }
            WatchRefusal::AuthOldRevision => {
                "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old"
            }
            WatchRefusal::UserEmpty => {
                "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
            }
        }
    }
}

impl WatchCreate {
    /// Checks a request. Keys are copied: they live as long as the watch, the request's bytes
    /// must not.
    ///
    /// # Errors
    /// etcd's, in etcd's order, for what can be said without knowing the stream.
    pub fn check(request: &WatchCreateRequest) -> Result<WatchCreate, WatchRefusal> {
        if request.start_revision < 0 {
            return Err(WatchRefusal::Compacted);
        }
        // The smallest key there can be.
        let key = match request.key.as_ref() {
            [] => &[0],
            key => key,
        };
        let span = KeySpan::new(key, &request.range_end);
        if span.is_empty() {
            return Err(WatchRefusal::EmptyRange);
        }
        let range = match span {
            KeySpan::Single(key) => KeyRange::Single(Bytes::copy_from_slice(key)),
            KeySpan::Span(start, end) => KeyRange::Span {
                start: Bytes::copy_from_slice(start),
                end: Bytes::copy_from_slice(end),
            },
            KeySpan::From(start) => KeyRange::From {
                start: Bytes::copy_from_slice(start),
            },
        };
        let leaves_out = |filter: FilterType| request.filters.contains(&(filter as i32));
        Ok(WatchCreate {
            range,
            start_revision: Some(request.start_revision).filter(|start| *start > 0),
            id: Some(request.watch_id).filter(|id| *id != 0),
            progress_notify: request.progress_notify,
            previous: request.prev_kv,
            no_put: leaves_out(FilterType::Noput),
            no_delete: leaves_out(FilterType::Nodelete),
            fragment: request.fragment,
        })
    }
}

/// What stands in the header of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchHeader {
    /// The cluster's id.
    pub cluster: u64,
    /// The id of the member that answers.
    pub member: u64,
    /// The revision of the keyspace.
    pub revision: i64,
    /// The engine's epoch.
    pub term: u64,
}

/// A message without events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchNews {
    /// The watch is open.
    Created,
    /// The watch could not be opened.
    Refused(WatchRefusal),
    /// The client has ended the watch.
    Canceled,
    /// The server has ended the watch.
    Ended(WatchRefusal),
    /// The server has ended the watch, because what it wants is forgotten: history begins here.
    Compacted(i64),
    /// Everything up to the header's revision has been told.
    Progress,
}

/// Writes a message without events.
#[must_use]
pub fn encode_news(header: &WatchHeader, watch_id: i64, news: WatchNews) -> Bytes {
    let mut response = WatchResponse {
        header: Some(ResponseHeader {
            cluster_id: header.cluster,
            member_id: header.member,
            revision: header.revision,
            raft_term: header.term,
        }),
        watch_id,
        ..WatchResponse::default()
    };
    match news {
        WatchNews::Created => response.created = true,
        WatchNews::Refused(refusal) => {
            response.created = true;
            response.canceled = true;
            response.cancel_reason = refusal.reason().to_owned();
        }
        WatchNews::Canceled => response.canceled = true,
        WatchNews::Ended(refusal) => {
            response.canceled = true;
            response.cancel_reason = refusal.reason().to_owned();
        }
        WatchNews::Compacted(compacted) => {
            response.canceled = true;
            response.compact_revision = compacted;
            // As in etcd: this says nothing about what has been told.
            if let Some(header) = &mut response.header {
                header.revision = 0;
            }
        }
        WatchNews::Progress => {}
    }
    response.encode_to_vec().into()
}

/// The most bytes that [`push_head`] writes.
pub const HEAD_BYTES_MAX: usize = 2 + 4 * 11 + 11;

/// Writes what stands in front of a message's events.
pub fn push_head(header: &WatchHeader, watch_id: i64, out: &mut Vec<u8>) {
    let fields = [
        header.cluster,
        header.member,
        header.revision as u64,
        header.term,
    ];
    out.push(0x0a);
    let length: usize = fields.iter().map(|field| number_length(*field)).sum();
    push_varint(length as u64, out);
    for (number, field) in (1u8..).zip(fields) {
        push_number(number << 3, field, out);
    }
    push_number(0x10, watch_id as u64, out);
}

/// Writes behind a message's events that pieces of the same revision follow.
pub fn push_fragment(out: &mut Vec<u8>) {
    push_number(0x38, 1, out);
}

/// The bytes that [`push_event`] writes.
#[must_use]
pub fn event_length(event: &Event, previous: bool) -> usize {
    let length = content_length(event, previous);
    1 + varint_length(length as u64) + length
}

/// Writes an event of a message, on request with the key as it was before.
pub fn push_event(event: &Event, previous: bool, out: &mut Vec<u8>) {
    out.push(0x5a);
    push_varint(content_length(event, previous) as u64, out);
    if event.kind == EventKind::Delete {
        push_number(0x08, 1, out);
    }
    push_pair(0x12, &event.key_value, out);
    if let Some(before) = event.previous.as_ref().filter(|_| previous) {
        push_pair(0x1a, before, out);
    }
}

fn content_length(event: &Event, previous: bool) -> usize {
    let field = |pair: &KeyValue| {
        let length = pair_length(pair);
        1 + varint_length(length as u64) + length
    };
    let kind = if event.kind == EventKind::Delete {
        2
    } else {
        0
    };
    let before = event
        .previous
        .as_ref()
        .filter(|_| previous)
        .map_or(0, field);
    kind + field(&event.key_value) + before
}

fn pair_length(pair: &KeyValue) -> usize {
    bytes_length(&pair.key)
        + number_length(pair.create_revision as u64)
        + number_length(pair.mod_revision as u64)
        + number_length(pair.version as u64)
        + bytes_length(&pair.value)
        + number_length(pair.lease as u64)
}

fn push_pair(tag: u8, pair: &KeyValue, out: &mut Vec<u8>) {
    out.push(tag);
    push_varint(pair_length(pair) as u64, out);
    push_bytes(0x0a, &pair.key, out);
    push_number(0x10, pair.create_revision as u64, out);
    push_number(0x18, pair.mod_revision as u64, out);
    push_number(0x20, pair.version as u64, out);
    push_bytes(0x2a, &pair.value, out);
    push_number(0x30, pair.lease as u64, out);
}

/// A field with its tag; nothing for zero, as proto3 has it.
fn number_length(number: u64) -> usize {
    if number == 0 {
        0
    } else {
        1 + varint_length(number)
    }
}

fn bytes_length(bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        0
    } else {
        1 + varint_length(bytes.len() as u64) + bytes.len()
    }
}

fn push_number(tag: u8, number: u64, out: &mut Vec<u8>) {
    if number != 0 {
        out.push(tag);
        push_varint(number, out);
    }
}

fn push_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.push(tag);
        push_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

/// Seven bits a byte.
fn varint_length(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

fn push_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use state::Space;

    use super::*;
    use crate::proto::mvccpb;
    use crate::range::whole_pair;

    fn pair(key: &'static [u8], value: usize, numbers: [i64; 4]) -> KeyValue {
        let [create_revision, mod_revision, version, lease] = numbers;
        KeyValue {
            key: Bytes::from_static(key),
            value: vec![b'v'; value].into(),
            create_revision,
            mod_revision,
            version,
            lease,
        }
    }

    fn events() -> Vec<Event> {
        let put = |key_value, previous| Event {
            space: Space::ETCD,
            kind: EventKind::Put,
            key_value,
            previous,
        };
        vec![
            put(pair(b"a", 0, [2, 2, 1, 0]), None),
            put(
                pair(b"long", 300, [i64::MAX / 2, 1 << 35, 127, -1]),
                Some(pair(b"long", 20_000, [128, 129, 16_383, i64::MIN])),
            ),
            Event {
                space: Space::ETCD,
                kind: EventKind::Delete,
                key_value: pair(b"gone", 0, [0, 77, 0, 0]),
                previous: Some(pair(b"gone", 127, [16_384, 76, 3, 9])),
            },
        ]
    }

    /// Every kind of event and every length of number, against the library's encoder.
    #[test]
    fn messages_are_written_as_the_library_writes_them() {
        for previous in [false, true] {
            for fragment in [false, true] {
                for watch_id in [0, 1, 300, -1, i64::MAX] {
                    let header = WatchHeader {
                        cluster: u64::MAX,
                        member: 1,
                        revision: 1 << 40,
                        term: 0,
                    };
                    let mut written = Vec::new();
                    push_head(&header, watch_id, &mut written);
                    assert!(written.len() <= HEAD_BYTES_MAX);
                    for event in events() {
                        let before = written.len();
                        push_event(&event, previous, &mut written);
                        assert_eq!(written.len() - before, event_length(&event, previous));
                    }
                    if fragment {
                        push_fragment(&mut written);
                    }
                    let expected = WatchResponse {
                        header: Some(ResponseHeader {
                            cluster_id: u64::MAX,
                            member_id: 1,
                            revision: 1 << 40,
                            raft_term: 0,
                        }),
                        watch_id,
                        fragment,
                        events: events()
                            .into_iter()
                            .map(|event| mvccpb::Event {
                                r#type: i32::from(event.kind == EventKind::Delete),
                                kv: Some(whole_pair(event.key_value)),
                                prev_kv: event.previous.filter(|_| previous).map(whole_pair),
                            })
                            .collect(),
                        ..WatchResponse::default()
                    };
                    let read = WatchResponse::decode(written.as_slice()).unwrap();
                    assert_eq!(read, expected);
                    assert_eq!(expected.encoded_len(), written.len());
                }
            }
        }
    }

    fn request(key: &[u8], range_end: &[u8]) -> WatchCreateRequest {
        WatchCreateRequest {
            key: Bytes::copy_from_slice(key),
            range_end: Bytes::copy_from_slice(range_end),
            ..WatchCreateRequest::default()
        }
    }

    #[test]
    fn ranges_are_read_by_etcds_rules() {
        let range = |key, end| WatchCreate::check(&request(key, end)).map(|watch| watch.range);
        let bytes = Bytes::from_static;
        assert_eq!(range(b"a", b""), Ok(KeyRange::Single(bytes(b"a"))));
        assert_eq!(range(b"", b""), Ok(KeyRange::Single(bytes(b"\0"))));
        let all = KeyRange::From {
            start: bytes(b"\0"),
        };
        assert_eq!(range(b"", b"\0"), Ok(all));
        let (start, end) = (bytes(b"a"), bytes(b"b"));
        assert_eq!(range(b"a", b"b"), Ok(KeyRange::Span { start, end }));
        assert_eq!(range(b"b", b"a"), Err(WatchRefusal::EmptyRange));
        assert_eq!(range(b"a", b"a"), Err(WatchRefusal::EmptyRange));
    }

    #[test]
    fn a_negative_start_is_told_before_an_empty_range() {
        let mut request = request(b"b", b"a");
        request.start_revision = -1;
        assert_eq!(WatchCreate::check(&request), Err(WatchRefusal::Compacted));
    }

    #[test]
    fn filters_that_do_not_exist_leave_nothing_out() {
        let mut request = request(b"a", b"");
        request.filters = vec![7, 1];
        let watch = WatchCreate::check(&request).unwrap();
        assert!(!watch.no_put && watch.no_delete);
    }

    #[test]
    fn a_compacted_watch_ends_with_revision_0_and_without_a_reason() {
        let header = WatchHeader {
            cluster: 1,
            member: 2,
            revision: 3,
            term: 4,
        };
        let bytes = encode_news(&header, 5, WatchNews::Compacted(6));
        let response = WatchResponse::decode(bytes).unwrap();
        assert!(response.canceled && !response.created);
        assert_eq!(response.header.unwrap().revision, 0);
        assert_eq!((response.compact_revision, response.watch_id), (6, 5));
        assert_eq!(response.cancel_reason, "");
    }
}
