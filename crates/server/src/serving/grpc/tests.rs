//! Frames, statuses and time limits, without a connection.

use prost::Message as _;

use super::*;

fn framed(messages: &[&[u8]]) -> Vec<u8> {
    let frames = messages
        .iter()
        .flat_map(|message| [&prefix(message.len())[..], message].concat());
    frames.collect()
}

#[test]
fn messages_come_out_as_they_went_in_however_they_are_cut() {
    let messages: [&[u8]; 4] = [b"one", b"", &[7; 500], b"last"];
    let bytes = framed(&messages);
    for step in [1, 2, 3, 7, 100, 508, bytes.len()] {
        let mut deframer = Deframer::new(500);
        let mut taken = Vec::new();
        for piece in bytes.chunks(step) {
            deframer.push(Bytes::copy_from_slice(piece));
            while let Some(message) = deframer.next().unwrap() {
                taken.push(message);
            }
        }
        assert_eq!(taken, messages, "in steps of {step}");
    }
}

#[test]
fn a_message_that_lies_in_one_piece_is_not_copied() {
    let bytes = Bytes::from(framed(&[b"first", b"second"]));
    let range = bytes.as_ptr_range();
    let mut deframer = Deframer::new(100);
    deframer.push(bytes);
    for _ in 0..2 {
        let message = deframer.next().unwrap().unwrap();
        assert!(range.contains(&message.as_ptr()));
    }
    assert_eq!(deframer.next(), Ok(None));
}

#[test]
fn a_message_is_refused_by_its_prefix_alone() {
    let refusal = |prefix: [u8; PREFIX_BYTES]| {
        let mut deframer = Deframer::new(100);
        deframer.push(Bytes::copy_from_slice(&prefix));
        deframer.next().unwrap_err()
    };
    let long = refusal(prefix(101));
    assert_eq!(long.code, etcd::Code::ResourceExhausted.number());
    let text = "grpc: received message larger than max (101 vs. 100)";
    assert_eq!(long.text, text);
    let compressed = refusal([1, 0, 0, 0, 1]);
    assert_eq!(compressed.code, etcd::Code::Internal.number());
    let nonsense = refusal([9, 0, 0, 0, 1]);
    assert!(nonsense.text.contains("invalid compression flag: 9"));
}

#[test]
fn a_payload_is_its_prefix_and_its_message() {
    let mut payload = Payload::message(Bytes::from_static(b"message"));
    let whole = framed(&[b"message"]);
    let mut slices = [IoSlice::new(&[]); 3];
    assert_eq!(payload.chunks_vectored(&mut slices), 2);
    assert_eq!([&slices[0][..], &slices[1][..]].concat(), whole);
    let mut read = Vec::new();
    while payload.has_remaining() {
        // One byte at a time, then what the chunk has, so that every boundary is crossed.
        let count = (read.len() % 2 * payload.chunk().len()).max(1);
        read.extend_from_slice(&payload.chunk()[..count]);
        payload.advance(count);
    }
    assert_eq!(read, whole);
    assert_eq!(Payload::plain(Bytes::from_static(b"abc")).chunk(), b"abc");
}

#[test]
fn time_limits_are_read_or_ignored() {
    let read = |text: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(text));
        time_allowed(&headers)
    };
    assert_eq!(read("5S"), Some(Duration::from_secs(5)));
    assert_eq!(
        read("99999999H"),
        Some(Duration::from_secs(99_999_999 * 3600))
    );
    assert_eq!(read("20m"), Some(Duration::from_millis(20)));
    for nonsense in ["", "S", "5", "5x", "-5S", "123456789S", "+5S"] {
        assert_eq!(read(nonsense), None, "{nonsense:?}");
    }
    assert_eq!(time_allowed(&HeaderMap::new()), None);
}

#[test]
fn texts_survive_the_way() {
    assert_eq!(
        percent_encoded("etcdserver: 100% full\n"),
        "etcdserver: 100%25 full%0A"
    );
    let headers = Status::new(13, "a b").headers();
    assert_eq!(headers["grpc-status"], "13");
    assert_eq!(headers["grpc-message"], "a b");
    assert!(Status::OK.headers().get("grpc-message").is_none());
}

#[test]
fn an_answer_that_no_prefix_can_tell_of_is_refused() {
    // All of them share one piece of memory.
    let value = Bytes::from(vec![0; 16 << 20]);
    let pair = |_| etcd::proto::mvccpb::KeyValue {
        value: value.clone(),
        ..Default::default()
    };
    let response = etcd::proto::etcdserverpb::RangeResponse {
        kvs: (0..300).map(pair).collect(),
        ..Default::default()
    };
    let length = response.encoded_len();
    assert!(u32::try_from(length).is_err(), "it is longer than 4 GiB");
    let Err(refused) = answer(response, 1 << 20) else {
        panic!("nobody could encode it");
    };
    assert_eq!(refused.code, etcd::Code::ResourceExhausted.number());
    let text = format!("grpc: trying to send message larger than max ({length} vs. 2147483647)");
    assert_eq!(refused.text, text);
}
