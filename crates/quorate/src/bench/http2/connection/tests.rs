//! Connections fed with the bytes of a server, right and wrong.

use proptest::prelude::*;

use super::*;

/// A connection and the server's side of it, which does what the test says.
struct Talk {
    connection: Connection,
    /// What the connection was given and could not take yet.
    rest: Vec<u8>,
    events: Vec<String>,
}

impl Talk {
    /// A connection whose server has just sent these settings.
    fn with_settings(settings: &[(u16, u32)]) -> Talk {
        let mut talk = Talk {
            connection: Connection::new("host:1", None),
            rest: Vec::new(),
            events: Vec::new(),
        };
        talk.connection.output().clear();
        talk.settings(settings);
        talk
    }

    fn settings(&mut self, settings: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (setting, value) in settings {
            payload.extend_from_slice(&setting.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.frame(Kind::Settings, 0, 0, &payload).unwrap();
    }

    fn frame(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Result<(), String> {
        let mut bytes = Vec::new();
        frame::put(&mut bytes, kind, flags, stream, payload);
        self.bytes(&bytes)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.rest.extend_from_slice(bytes);
        let events = &mut self.events;
        let taken = self
            .connection
            .receive(&self.rest, &mut |event| events.push(format!("{event:?}")))?;
        self.rest.drain(..taken);
        Ok(())
    }

    /// The events since this was last asked.
    fn events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    /// The frames sent since this was last asked: kind, flags, stream, length.
    fn sent(&mut self) -> Vec<(Kind, u8, u32, usize)> {
        let output = std::mem::take(self.connection.output());
        let mut rest = output.as_slice();
        let mut sent = Vec::new();
        while let Some(frame) = Frame::parse(rest).unwrap() {
            sent.push((frame.kind, frame.flags, frame.stream, frame.payload.len()));
            rest = &rest[frame.length()..];
        }
        assert!(rest.is_empty(), "only whole frames are sent");
        sent
    }

    /// The bytes of DATA sent on a stream since this was last asked.
    fn data_sent(&mut self, stream: u32) -> usize {
        let sent = self.sent();
        let data = sent
            .iter()
            .filter(|(kind, _, on, _)| *kind == Kind::Data && *on == stream);
        data.map(|(_, _, _, length)| length).sum()
    }

    fn ask(&mut self, token: u32, bytes: usize) -> Stream {
        let message = vec![b'm'; bytes];
        self.connection.open(token, "/a/B", &message, true)
    }
}

/// `grpc-status: code` as a literal that no table keeps.
fn status(code: u8) -> Vec<u8> {
    let mut block = vec![0x00, 11];
    block.extend_from_slice(b"grpc-status");
    block.extend_from_slice(&[1, b'0' + code]);
    block
}

/// `:status: 200`, the eighth entry of the static table.
const FOUND: &[u8] = &[0x88];

const ALL: u8 = frame::END_HEADERS;
const END: u8 = frame::END_HEADERS | frame::END_STREAM;

fn message(content: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend_from_slice(&(content.len() as u32).to_be_bytes());
    message.extend_from_slice(content);
    message
}

#[test]
fn the_first_bytes_are_the_preface_settings_and_a_window() {
    let mut connection = Connection::new("host:1", None);
    let output = connection.output();
    assert!(output.starts_with(frame::PREFACE));
    let settings = Frame::parse(&output[frame::PREFACE.len()..])
        .unwrap()
        .unwrap();
    assert_eq!(settings.kind, Kind::Settings);
    assert_eq!(
        settings.payload[..6],
        [0, 1, 0, 0, 0, 0],
        "no table for fields"
    );
    assert!(!connection.has_room(), "the server has not spoken");
}

#[test]
fn a_call_is_sent_and_its_answer_heard() {
    let mut talk = Talk::with_settings(&[]);
    assert_eq!(talk.events(), ["Open"]);
    assert_eq!(talk.sent(), [(Kind::Settings, frame::ACK, 0, 0)]);
    talk.ask(7, 20);
    let sent = talk.sent();
    assert_eq!(sent[0].0, Kind::Headers);
    assert_eq!(sent[1], (Kind::Data, frame::END_STREAM, 1, 20));
    talk.frame(Kind::Headers, ALL, 1, FOUND).unwrap();
    talk.frame(Kind::Data, 0, 1, &message(b"hi")).unwrap();
    talk.frame(Kind::Headers, END, 1, &status(0)).unwrap();
    assert_eq!(talk.events(), ["Message(7, [104, 105])", "End(7, Ok(()))"]);
    talk.frame(Kind::Data, 0, 1, &message(b"late")).unwrap();
    assert_eq!(talk.events(), [""; 0], "nobody waits any more");
}

#[test]
fn answers_may_come_byte_by_byte_and_in_any_pieces() {
    let mut bytes = Vec::new();
    frame::put(&mut bytes, Kind::Headers, 0, 1, &FOUND[..0]);
    frame::put(&mut bytes, Kind::Continuation, ALL, 1, FOUND);
    let both = [message(b"ab"), message(b""), message(b"cdef")].concat();
    for piece in both.chunks(4) {
        frame::put(&mut bytes, Kind::Data, 0, 1, piece);
    }
    let end = status(0);
    frame::put(&mut bytes, Kind::Headers, frame::END_STREAM, 1, &end[..5]);
    frame::put(&mut bytes, Kind::Continuation, ALL, 1, &end[5..]);
    for step in 1..=bytes.len() {
        let mut talk = Talk::with_settings(&[]);
        talk.ask(0, 5);
        for piece in bytes.chunks(step) {
            talk.bytes(piece).unwrap();
        }
        assert_eq!(
            talk.events(),
            [
                "Open",
                "Message(0, [97, 98])",
                "Message(0, [])",
                "Message(0, [99, 100, 101, 102])",
                "End(0, Ok(()))"
            ],
            "in pieces of {step}"
        );
    }
}

#[test]
fn failures_have_their_reason() {
    let mut talk = Talk::with_settings(&[]);
    for token in 0..6 {
        talk.ask(token, 5);
    }
    talk.frame(Kind::Headers, END, 1, &status(5)).unwrap();
    talk.frame(Kind::ResetStream, 0, 3, &[0, 0, 0, 7]).unwrap();
    // An answer of something that is not gRPC: 404 is entry 13.
    talk.frame(Kind::Headers, END, 5, &[0x8d]).unwrap();
    talk.frame(Kind::Headers, ALL, 7, FOUND).unwrap();
    talk.frame(Kind::Data, frame::END_STREAM, 7, &[]).unwrap();
    talk.frame(Kind::Headers, ALL, 9, FOUND).unwrap();
    talk.frame(Kind::Data, 0, 9, &[0, 0, 0, 0, 9, 1]).unwrap();
    talk.frame(Kind::Headers, END, 9, &status(0)).unwrap();
    talk.frame(Kind::Data, 0, 11, &[1, 0, 0, 0, 0]).unwrap();
    assert_eq!(
        talk.events()[1..],
        [
            "End(0, Err(\"gRPC status 5\"))",
            "End(1, Err(\"stream reset: REFUSED_STREAM\"))",
            "End(2, Err(\"HTTP status 404\"))",
            "End(3, Err(\"an answer without a status\"))",
            "End(4, Err(\"an answer that is cut short\"))",
            "End(5, Err(\"a compressed message, which nobody asked for\"))",
        ]
    );
}

#[test]
fn a_request_waits_for_the_windows_of_stream_and_connection() {
    let mut talk = Talk::with_settings(&[(4, 10)]);
    talk.sent();
    talk.ask(0, 25);
    assert_eq!(talk.data_sent(1), 10);
    talk.frame(Kind::WindowUpdate, 0, 1, &[0, 0, 0, 4]).unwrap();
    assert_eq!(talk.data_sent(1), 4);
    // The first window of all streams grows, and with it that of this one.
    talk.settings(&[(4, 15)]);
    assert_eq!(talk.data_sent(1), 5);
    talk.settings(&[(4, 0)]);
    talk.frame(Kind::WindowUpdate, 0, 1, &[0, 0, 0, 15])
        .unwrap();
    assert_eq!(talk.data_sent(1), 0, "it owes what the server took back");
    talk.frame(Kind::WindowUpdate, 0, 1, &[0, 0, 0, 6]).unwrap();
    let last = talk.sent();
    assert_eq!(last.last(), Some(&(Kind::Data, frame::END_STREAM, 1, 6)));

    let mut talk = Talk::with_settings(&[(4, 1 << 20)]);
    talk.ask(0, 100_000);
    assert_eq!(
        talk.data_sent(1),
        65_535,
        "the connection has a window, too"
    );
    talk.ask(1, 10);
    assert_eq!(talk.data_sent(3), 0);
    talk.frame(Kind::WindowUpdate, 0, 0, &[0, 1, 0, 0]).unwrap();
    let sent: usize = talk.sent().iter().map(|(_, _, _, length)| length).sum();
    assert_eq!(sent, 100_000 - 65_535 + 10);
}

#[test]
fn the_server_is_told_what_was_read() {
    let mut talk = Talk::with_settings(&[]);
    talk.ask(0, 5);
    talk.sent();
    let mut granted = [0_usize; 2];
    let data = message(&[0; 16_379]);
    for _ in 0..2 * CONNECTION_WINDOW as usize / data.len() {
        talk.frame(Kind::Data, 0, 1, &data).unwrap();
        let output = std::mem::take(talk.connection.output());
        let mut rest = output.as_slice();
        while let Some(frame) = Frame::parse(rest).unwrap() {
            assert_eq!(frame.kind, Kind::WindowUpdate);
            granted[frame.stream as usize] += number(frame.payload).unwrap() as usize;
            rest = &rest[frame.length()..];
        }
        talk.events.clear();
    }
    let read = 2 * CONNECTION_WINDOW as usize;
    assert!(granted[0] >= read - CONNECTION_WINDOW as usize / 2 && granted[0] <= read);
    assert!(granted[1] >= read - STREAM_WINDOW as usize && granted[1] <= read);
}

#[test]
fn a_ping_is_answered_and_an_answer_is_not() {
    let mut talk = Talk::with_settings(&[]);
    talk.sent();
    talk.frame(Kind::Ping, 0, 0, b"12345678").unwrap();
    talk.frame(Kind::Ping, frame::ACK, 0, b"12345678").unwrap();
    assert_eq!(talk.sent(), [(Kind::Ping, frame::ACK, 0, 8)]);
}

#[test]
fn a_server_that_goes_away_answers_what_it_took() {
    let mut talk = Talk::with_settings(&[]);
    talk.ask(0, 5);
    talk.ask(1, 5);
    let payload = [0, 0, 0, 1, 0, 0, 0, 0];
    talk.frame(Kind::GoAway, 0, 0, &payload).unwrap();
    assert!(!talk.connection.has_room() && !talk.connection.is_drained());
    talk.frame(Kind::Headers, END, 1, &status(0)).unwrap();
    assert!(talk.connection.is_drained());
    assert_eq!(
        talk.events()[1..],
        [
            "End(1, Err(\"the server is going away: NO_ERROR\"))",
            "Draining",
            "End(0, Ok(()))"
        ]
    );
}

#[test]
fn no_more_streams_than_the_server_allows() {
    let mut talk = Talk::with_settings(&[(3, 2)]);
    let first = talk.ask(0, 5);
    talk.ask(1, 5);
    assert!(!talk.connection.has_room());
    talk.sent();
    talk.connection.cancel(first);
    assert!(talk.connection.has_room());
    assert_eq!(talk.sent(), [(Kind::ResetStream, 0, 1, 4)]);
    talk.frame(Kind::Headers, END, 1, &status(0)).unwrap();
    assert_eq!(talk.events(), ["Open"], "a call that was given up stays so");
    assert_eq!(talk.connection.tokens().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_server_that_breaks_the_protocol_is_left() {
    let wrong: &[(Kind, u8, u32, &[u8])] = &[
        (Kind::PushPromise, ALL, 1, &[0; 5]),
        (Kind::Ping, 0, 0, &[0; 7]),
        (Kind::Settings, 0, 0, &[0; 5]),
        (Kind::Settings, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
        (Kind::Settings, 0, 0, &[0, 1, 0, 0, 0, 0]),
        (Kind::WindowUpdate, 0, 0, &[0; 4]),
        (Kind::WindowUpdate, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        (Kind::WindowUpdate, 0, 1, &[0; 3]),
        (Kind::ResetStream, 0, 1, &[0; 3]),
        (Kind::GoAway, 0, 0, &[0; 7]),
        (Kind::Continuation, ALL, 1, FOUND),
        (Kind::Headers, ALL, 1, &[0xbe]),
        (Kind::Data, frame::PADDED, 1, &[9]),
    ];
    for (kind, flags, stream, payload) in wrong {
        let mut talk = Talk::with_settings(&[]);
        talk.ask(0, 5);
        let outcome = talk.frame(*kind, *flags, *stream, payload);
        assert!(outcome.is_err(), "{kind:?} {payload:?}");
    }
    let mut talk = Talk::with_settings(&[]);
    talk.ask(0, 5);
    talk.frame(Kind::Headers, 0, 1, FOUND).unwrap();
    assert!(talk.frame(Kind::Ping, 0, 0, &[0; 8]).is_err(), "in between");

    let mut connection = Connection::new("host:1", None);
    let answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    assert!(connection.receive(answer, &mut |_| ()).is_err());
}

#[test]
fn endless_header_fields_are_refused() {
    let mut talk = Talk::with_settings(&[]);
    talk.ask(0, 5);
    talk.frame(Kind::Headers, 0, 1, &[]).unwrap();
    let part = vec![0; 16_384];
    let refused = (0..100).any(|_| talk.frame(Kind::Continuation, 0, 1, &part).is_err());
    assert!(refused);
}

/// Frames that begin well, so that the bytes reach what is behind the first check.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![0_u8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 77]);
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(0_u8..4, 0..16),
        Just(FOUND.to_vec()),
        Just(status(0)),
        Just(message(b"abc")),
    ];
    let one = (kind, any::<u8>(), 0_u32..8, payload);
    prop::collection::vec(one, 0..40).prop_map(|frames| {
        let mut bytes = Vec::new();
        for (kind, flags, stream, payload) in frames {
            frame::put(&mut bytes, Kind::Data, flags, stream, &payload);
            let head = bytes.len() - payload.len() - frame::HEAD_BYTES;
            bytes[head + 3] = kind;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever a server sends, the connection says what it makes of it or why it gives up, and
    /// every call ends at most once.
    #[test]
    fn hostile_bytes_do_no_harm(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), frames()],
        step in 1_usize..64,
    ) {
        let mut talk = Talk::with_settings(&[]);
        for token in 0..4 {
            talk.ask(token, 70_000 * (token as usize % 2));
        }
        for piece in bytes.chunks(step) {
            if talk.bytes(piece).is_err() {
                break;
            }
        }
        let ended = talk.events().into_iter().filter(|event| event.starts_with("End"));
        prop_assert!(ended.count() + talk.connection.tokens().count() == 4);
    }
}
