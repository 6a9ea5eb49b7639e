//! etcd's messages as bytes, as far as the load needs them, with gRPC's prefix in front.
//!
//! The types of `etcd::proto` would do, with an allocation or two for each message; at a million
//! events a second those are the driver's largest part. So requests are written into one buffer
//! that is used again, and of a response only the fields that count are looked at.

/// `/service/method` of the calls.
pub(crate) mod paths {
    pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
    pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
    pub(crate) const TXN: &str = "/etcdserverpb.KV/Txn";
    pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";
    pub(crate) const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
    pub(crate) const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
    pub(crate) const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
}

/// A message being written (Protocol Buffers encoding, gRPC length prefix).
#[derive(Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// Begins anew.
    pub(crate) fn begin(&mut self) -> &mut Message {
        self.0.clear();
        self.0.extend_from_slice(&[0; 5]);
        self
    }

    /// The whole message with its prefix.
    pub(crate) fn end(&mut self) -> &[u8] {
        let length = (self.0.len() - 5) as u32;
        self.0[1..5].copy_from_slice(&length.to_be_bytes());
        &self.0
    }

    /// A field of numbers. The default is not written, as the encoding wants it.
    pub(crate) fn number(&mut self, field: u32, value: u64) -> &mut Message {
        if value != 0 {
            self.varint(u64::from(field << 3));
            self.varint(value);
        }
        self
    }

    /// A field of bytes.
    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) -> &mut Message {
        self.varint(u64::from(field << 3 | 2));
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// A field that is itself a message.
    pub(crate) fn nested(&mut self, field: u32, write: impl FnOnce(&mut Message)) -> &mut Message {
        self.varint(u64::from(field << 3 | 2));
        let at = self.0.len();
        write(self);
        let length = self.0.len() - at;
        let end = self.0.len();
        self.varint(length as u64);
        // The length belongs in front of what it measures.
        let width = self.0.len() - end;
        self.0[at..].rotate_right(width);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 128 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A field of a message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    Number(u32, u64),
    Bytes(u32, &'a [u8]),
}

/// The fields of a message, as far as it can be understood: bytes that are no message end it.
pub(crate) fn fields(bytes: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || next_field(&mut rest))
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
    loop {
        let tag = varint(rest)?;
        let field = u32::try_from(tag >> 3).ok()?;
        match tag & 7 {
            0 => return Some(Field::Number(field, varint(rest)?)),
            2 => {
                let length = usize::try_from(varint(rest)?).ok()?;
                let (value, after) = rest.split_at_checked(length)?;
                *rest = after;
                return Some(Field::Bytes(field, value));
            }
            // Fixed-width numbers, of which etcd has none that we look at.
            1 => *rest = rest.get(8..)?,
            5 => *rest = rest.get(4..)?,
            _ => return None,
        }
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Writes a `PutRequest`.
pub(crate) fn put(message: &mut Message, key: &[u8], value: &[u8]) {
    message.bytes(1, key).bytes(2, value);
}

/// Writes a `RangeRequest` for one key.
pub(crate) fn range(message: &mut Message, key: &[u8], serializable: bool) {
    message.bytes(1, key).number(7, u64::from(serializable));
}

/// Writes a `TxnRequest` that compares the key's version with something that it always is above,
/// and so writes it; a read of the key is what it would do otherwise.
pub(crate) fn txn(message: &mut Message, key: &[u8], value: &[u8]) {
    message
        .nested(1, |compare| {
            // result: GREATER, target: VERSION (0), key, version: -1
            compare.number(1, 1).bytes(3, key).number(4, u64::MAX);
        })
        .nested(2, |success| {
            success.nested(2, |request| put(request, key, value));
        })
        .nested(3, |failure| {
            failure.nested(1, |request| range(request, key, false));
        });
}

/// Writes a `WatchRequest` that begins a watch of the keys from `key` to `range_end`; without an
/// end, of one key.
pub(crate) fn create_watch(message: &mut Message, key: &[u8], range_end: &[u8]) {
    message.nested(1, |create| {
        create.bytes(1, key);
        if !range_end.is_empty() {
            create.bytes(2, range_end);
        }
    });
}

/// Writes a `LeaseGrantRequest`; the server chooses the id.
pub(crate) fn grant(message: &mut Message, ttl_seconds: u64) {
    message.number(1, ttl_seconds);
}

/// Writes a `LeaseKeepAliveRequest` or a `LeaseRevokeRequest`.
pub(crate) fn lease(message: &mut Message, id: u64) {
    message.number(1, id);
}

/// The first key behind all that begin with `prefix`; empty: there is none.
pub(crate) fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// What counts of a `WatchResponse`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) is_created: bool,
    /// Why the watch has ended, if it has.
    pub(crate) canceled: Option<String>,
}

/// Reads a `WatchResponse`; hands over the value of every event.
pub(crate) fn watched(response: &[u8], mut event: impl FnMut(&[u8])) -> Watched {
    let mut watched = Watched::default();
    for field in fields(response) {
        match field {
            Field::Bytes(11, bytes) => event(event_value(bytes)),
            Field::Number(3, created) => watched.is_created = created != 0,
            Field::Number(4, canceled) if canceled != 0 => {
                watched.canceled.get_or_insert_default();
            }
            Field::Bytes(6, reason) => {
                watched.canceled = Some(String::from_utf8_lossy(reason).into_owned());
            }
            _ => {}
        }
    }
    watched
}

/// The value in an `Event`; empty if there is none.
fn event_value(event: &[u8]) -> &[u8] {
    let key_value = fields(event).find_map(|field| match field {
        Field::Bytes(2, key_value) => Some(key_value),
        _ => None,
    });
    let value = fields(key_value.unwrap_or_default()).find_map(|field| match field {
        Field::Bytes(5, value) => Some(value),
        _ => None,
    });
    value.unwrap_or_default()
}

/// Id and time to live in seconds, of a `LeaseGrantResponse` or a `LeaseKeepAliveResponse`.
pub(crate) fn leased(response: &[u8]) -> (u64, i64) {
    let mut leased = (0, 0);
    for field in fields(response) {
        match field {
            Field::Number(2, id) => leased.0 = id,
            Field::Number(3, seconds) => leased.1 = seconds.cast_signed(),
            _ => {}
        }
    }
    leased
}

/// Whether a `RangeResponse` holds a key.
pub(crate) fn has_key(response: &[u8]) -> bool {
    fields(response).any(|field| matches!(field, Field::Bytes(2, _)))
}

#[cfg(test)]
mod tests {
    use client::etcd::proto::etcdserverpb::{
        LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, RangeRequest,
        RangeResponse, ResponseHeader, TxnRequest, WatchRequest, WatchResponse, request_op,
        watch_request,
    };
    use client::etcd::proto::mvccpb::{Event, KeyValue};
    use prost::Message as _;

    use super::*;

    /// What the ordinary decoder makes of a message.
    fn decoded<T: prost::Message + Default>(write: impl FnOnce(&mut Message)) -> T {
        let mut message = Message::default();
        write(message.begin());
        let bytes = message.end();
        assert_eq!(bytes[0], 0, "not compressed");
        assert_eq!(bytes[1..5], (bytes.len() as u32 - 5).to_be_bytes());
        T::decode(&bytes[5..]).unwrap()
    }

    #[test]
    fn requests_are_what_the_ordinary_decoder_reads() {
        let value = vec![7; 300];
        let request: PutRequest = decoded(|message| put(message, b"k", &value));
        assert_eq!(
            request,
            PutRequest {
                key: "k".into(),
                value: value.clone().into(),
                ..PutRequest::default()
            }
        );
        for serializable in [false, true] {
            let request: RangeRequest = decoded(|message| range(message, b"k", serializable));
            assert_eq!(
                request,
                RangeRequest {
                    key: "k".into(),
                    serializable,
                    ..RangeRequest::default()
                }
            );
        }
        let request: TxnRequest = decoded(|message| txn(message, b"k", &value));
        assert_eq!(request.compare.len(), 1);
        assert_eq!(request.compare[0].key, "k");
        let Some(request_op::Request::RequestPut(put)) = &request.success[0].request else {
            panic!("it writes: {request:?}");
        };
        assert_eq!((&put.key[..], &put.value[..]), (&b"k"[..], &value[..]));
        let Some(request_op::Request::RequestRange(range)) = &request.failure[0].request else {
            panic!("or reads: {request:?}");
        };
        assert_eq!(range.key, "k");
    }

    #[test]
    fn a_key_in_a_response_is_seen() {
        let mut response = RangeResponse {
            header: Some(ResponseHeader {
                revision: 9,
                ..ResponseHeader::default()
            }),
            ..RangeResponse::default()
        };
        assert!(!has_key(&response.encode_to_vec()));
        response.kvs.push(KeyValue::default());
        assert!(has_key(&response.encode_to_vec()));
    }

    #[test]
    fn watches_are_asked_for_and_their_events_read() {
        let request: WatchRequest = decoded(|message| create_watch(message, b"a", b"b"));
        let Some(watch_request::RequestUnion::CreateRequest(create)) = request.request_union else {
            panic!("it creates");
        };
        assert_eq!(
            (&create.key[..], &create.range_end[..]),
            (&b"a"[..], &b"b"[..])
        );
        let event = |value: &'static str| Event {
            kv: Some(KeyValue {
                key: "k".into(),
                value: value.into(),
                mod_revision: 1 << 40,
                ..KeyValue::default()
            }),
            ..Event::default()
        };
        let response = WatchResponse {
            watch_id: 7,
            events: vec![event("x"), event(""), event("y")],
            ..WatchResponse::default()
        };
        let mut values = Vec::new();
        let read = watched(&response.encode_to_vec(), |value| {
            values.push(value.to_vec())
        });
        assert_eq!(read, Watched::default());
        assert_eq!(values, [&b"x"[..], b"", b"y"]);
        let canceled = WatchResponse {
            created: true,
            canceled: true,
            cancel_reason: "why".to_owned(),
            ..WatchResponse::default()
        };
        let read = watched(&canceled.encode_to_vec(), |_| panic!("no events"));
        assert_eq!(
            (read.is_created, read.canceled.as_deref()),
            (true, Some("why"))
        );
    }

    #[test]
    fn leases_are_asked_for_and_read() {
        let request: LeaseGrantRequest = decoded(|message| grant(message, 30));
        assert_eq!((request.ttl, request.id), (30, 0));
        let id = i64::MAX - 1;
        let request: LeaseKeepAliveRequest = decoded(|message| lease(message, id.cast_unsigned()));
        assert_eq!(request.id, id);
        let response = LeaseKeepAliveResponse {
            id,
            ttl: 29,
            ..LeaseKeepAliveResponse::default()
        };
        assert_eq!(leased(&response.encode_to_vec()), (id.cast_unsigned(), 29));
    }

    #[test]
    fn a_prefix_has_an_end() {
        assert_eq!(end_of_prefix(b"bench/"), b"bench0");
        assert_eq!(end_of_prefix(b"a\xff\xff"), b"b");
        assert_eq!(end_of_prefix(b"\xff"), b"\0", "all keys from there on");
        assert_eq!(end_of_prefix(b""), b"\0");
    }

    #[test]
    fn bytes_that_are_no_message_have_no_fields() {
        assert_eq!(fields(&[0x0a, 0x05, 1]).count(), 0, "too short");
        assert_eq!(fields(&[0x80; 11]).count(), 0, "a number without end");
        assert_eq!(fields(&[0x0b]).count(), 0, "a group, long out of use");
        assert_eq!(
            fields(&[0x0d, 0, 0, 0, 0, 0x10, 3]).collect::<Vec<_>>(),
            [Field::Number(2, 3)]
        );
    }
}
