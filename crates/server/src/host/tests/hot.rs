//! The hot calls, over HTTP/2 as it comes from the wire, friendly and hostile.

use std::io::{Read as _, Write as _};

use ::http::{HeaderMap, Request, StatusCode};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use prost::Message as _;

use super::*;

/// A connection of a client that frames its messages itself.
struct Wire {
    send: SendRequest<Bytes>,
    authority: String,
}

impl Wire {
    async fn open(address: String) -> Wire {
        let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        // Room for many answers that nobody has looked at yet.
        let mut builder = h2::client::Builder::new();
        let builder = builder.initial_connection_window_size(16 << 20);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Wire {
            send,
            authority: address,
        }
    }

    /// Begins a call; its body is the caller's.
    async fn begin(
        &self,
        path: &str,
        headers: &[(&'static str, &'static str)],
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::post(format!("http://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut send = self.send.clone().ready().await.unwrap();
        send.send_request(request.body(()).unwrap(), false).unwrap()
    }

    /// Makes a call with one message.
    async fn call(
        &self,
        path: &str,
        headers: &[(&'static str, &'static str)],
        message: &impl prost::Message,
    ) -> Outcome {
        let (response, mut send) = self.begin(path, headers).await;
        // Who is refused for the head alone may be answered, and the stream be over, before this.
        let _ = send.send_data(framed(message), true);
        outcome(response).await
    }
}

/// What came of a call.
#[derive(Debug)]
struct Outcome {
    http: u16,
    status: String,
    text: String,
    body: Vec<u8>,
}

async fn outcome(response: ResponseFuture) -> Outcome {
    let response = response.await.unwrap();
    let http = response.status().as_u16();
    let head = response.headers().clone();
    let mut stream = response.into_body();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        body.extend_from_slice(&piece);
    }
    let trailers = stream.trailers().await.unwrap().unwrap_or(head);
    let text = |name: &str, headers: &HeaderMap| {
        let value = headers.get(name).map(|value| value.to_str().unwrap());
        value.unwrap_or_default().to_owned()
    };
    Outcome {
        http,
        status: text("grpc-status", &trailers),
        text: text("grpc-message", &trailers).replace("%20", " "),
        body,
    }
}

fn framed(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

fn range_of(outcome: &Outcome) -> RangeResponse {
    assert_eq!(outcome.status, "0", "{outcome:?}");
    RangeResponse::decode(&outcome.body[5..]).unwrap()
}

const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

const PLAIN: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];

/// The machine counts what it is told to forget.
async fn wait_until_forgotten(wire: &Wire, count: i64) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while range_of(&wire.call(RANGE, PLAIN, &range("k")).await).count != count {
        assert!(std::time::Instant::now() < deadline, "not forgotten");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn clients_are_served_by_threads_of_their_own_or_by_the_nodes() {
    for workers in [0, 3] {
        let mut limits = Limits::default();
        limits.clients.workers = workers;
        let bench = Bench::start_within(limits, |_| {});
        for _ in 0..2 * workers + 1 {
            // A connection each, so that every worker has one.
            let _: PutResponse = bench.grpc(PUT, put("k", "v")).unwrap();
            let response: RangeResponse = bench.grpc(RANGE, range("k")).unwrap();
            assert_eq!(response.kvs[0].value, "v");
        }
        let stuck = bench.client.spawn(unary::<_, RangeResponse>(
            bench.channel(),
            RANGE,
            range("never"),
        ));
        bench.wait_for_a_call_under_way();
        bench.handle.shutdown();
        bench.handle.wait().unwrap();
        let error = bench.client.block_on(stuck).unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{workers} workers");
    }
}

#[test]
fn a_thousand_calls_of_one_connection_are_each_answered() {
    let bench = Bench::start(|_| {});
    bench.client.block_on(async {
        let wire = Wire::open(bench.etcd()).await;
        wire.call(PUT, PLAIN, &put("k", "v")).await;
        let mut responses = Vec::new();
        for _ in 0..1000 {
            let (response, mut send) = wire.begin(RANGE, PLAIN).await;
            send.send_data(framed(&range("k")), true).unwrap();
            responses.push(response);
        }
        for response in responses {
            assert_eq!(range_of(&outcome(response).await).kvs[0].value, "v");
        }
    });
}

#[test]
fn a_request_may_come_in_pieces_and_with_its_end_apart() {
    let bench = Bench::start(|_| {});
    bench.client.block_on(async {
        let wire = Wire::open(bench.etcd()).await;
        wire.call(PUT, PLAIN, &put("key", "v")).await;
        let (response, mut send) = wire.begin(RANGE, PLAIN).await;
        for byte in framed(&range("key")) {
            send.send_data(Bytes::copy_from_slice(&[byte]), false)
                .unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert_eq!(range_of(&outcome(response).await).kvs[0].value, "v");
    });
}

#[test]
fn what_is_unusual_or_wrong_is_answered_as_the_libraries_do() {
    let bench = Bench::start(|_| {});
    bench.client.block_on(async {
        let wire = Wire::open(bench.etcd()).await;
        let compressed = [
            ("content-type", "application/grpc"),
            ("grpc-encoding", "gzip"),
        ];
        let refused = wire.call(RANGE, &compressed, &range("k")).await;
        assert_eq!(refused.status, "12", "{refused:?}");
        assert!(refused.text.contains("\"gzip\""), "{refused:?}");
        for kind in [
            "application/grpc+proto",
            "application/grpc+other",
            "application/grpc;v=1",
        ] {
            range_of(
                &wire
                    .call(RANGE, &[("content-type", kind)], &range("k"))
                    .await,
            );
        }
        let web = [("content-type", "application/grpc-web")];
        let refused = wire.call(RANGE, &web, &range("k")).await;
        assert_eq!(refused.http, 415, "{refused:?}");
        let json = [("content-type", "application/json")];
        let refused = wire.call(RANGE, &json, &range("k")).await;
        assert_eq!(refused.http, 415, "{refused:?}");
        for (body, status, text) in [
            (&b""[..], "13", "Missing request message."),
            (b"\0\0\0", "13", "Missing request message."),
            (b"\x01\0\0\0\x01x", "13", "compressed-flag"),
            (b"\x07\0\0\0\x01x", "13", "compression flag: 7"),
            (b"\0\0\0\0\x01\x07", "13", "failed to decode"),
            (b"\0\xff\xff\xff\xff", "8", "larger than max (4294967295 vs"),
        ] {
            let (response, mut send) = wire.begin(RANGE, PLAIN).await;
            send.send_data(Bytes::from_static(body), true).unwrap();
            let refused = outcome(response).await;
            assert_eq!(refused.status, status, "{body:?}: {refused:?}");
            assert!(refused.text.contains(text), "{body:?}: {refused:?}");
        }
        // The connection has survived all of it.
        range_of(&wire.call(RANGE, PLAIN, &range("k")).await);
    });
}

#[test]
fn a_clients_own_time_limit_is_kept() {
    let bench = Bench::start(|_| {});
    bench.client.block_on(async {
        let wire = Wire::open(bench.etcd()).await;
        let hasty = [
            ("content-type", "application/grpc"),
            ("grpc-timeout", "50m"),
        ];
        let late = wire.call(RANGE, &hasty, &range("never")).await;
        assert_eq!(late.status, "4", "{late:?}");
        assert_eq!(late.text, "context deadline exceeded");
        wait_until_forgotten(&wire, 1).await;
    });
}

#[test]
fn calls_that_end_with_their_stream_or_their_connection_are_forgotten() {
    let bench = Bench::start(|_| {});
    bench.client.block_on(async {
        let wire = Wire::open(bench.etcd()).await;
        let never = framed(&range("never"));
        let (response, mut send) = wire.begin(RANGE, PLAIN).await;
        send.send_data(never.clone(), true).unwrap();
        // The server has it for sure once it has answered what came after it.
        range_of(&wire.call(RANGE, PLAIN, &range("k")).await);
        send.send_reset(Reason::CANCEL);
        drop(response);
        wait_until_forgotten(&wire, 1).await;

        let mut stream = tokio::net::TcpStream::connect(bench.etcd()).await.unwrap();
        {
            let (send, connection) = h2::client::handshake(&mut stream).await.unwrap();
            let other = Wire {
                send,
                authority: bench.etcd(),
            };
            let calls = async {
                let mut calls = Vec::new();
                for _ in 0..10 {
                    let (response, mut send) = other.begin(RANGE, PLAIN).await;
                    send.send_data(never.clone(), true).unwrap();
                    calls.push(response);
                }
                range_of(&other.call(RANGE, PLAIN, &range("k")).await);
                calls
            };
            tokio::select! {
                calls = calls => assert_eq!(calls.len(), 10),
                ended = connection => panic!("{ended:?}"),
            }
        }
        drop(stream);
        wait_until_forgotten(&wire, 11).await;
    });
}

#[test]
fn no_more_calls_of_one_connection_are_under_way_than_its_streams() {
    let mut limits = Limits::default();
    limits.clients.streams_per_connection = 3;
    let bench = Bench::start_within(limits, |_| {});
    bench.client.block_on(async {
        let wire = Wire::open(bench.etcd()).await;
        // The first answer tells that the server's settings have come.
        range_of(&wire.call(RANGE, PLAIN, &range("k")).await);
        let mut calls = Vec::new();
        for _ in 0..3 {
            let (response, mut send) = wire.begin(RANGE, PLAIN).await;
            send.send_data(framed(&range("never")), true).unwrap();
            calls.push((response, send));
        }
        let ready = wire.send.clone().ready();
        let more = tokio::time::timeout(Duration::from_millis(50), async {
            let mut send = ready.await.unwrap();
            let request = Request::post(format!("http://{}{RANGE}", bench.etcd()));
            let (response, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
            response.await
        });
        assert!(more.await.is_err(), "a fourth stream waits for a place");
    });
}

/// A message that is begun and does not go on is held for a while, and no longer.
#[test]
fn a_message_that_does_not_come_is_refused_with_the_reason() {
    const COMPACT: &str = "/etcdserverpb.KV/Compact";
    let mut limits = Limits::default();
    limits.clients.message_timeout = Duration::from_millis(200);
    let bench = Bench::start_within(limits, |_| {});
    bench.client.block_on(async {
        let wire = Wire::open(bench.etcd()).await;
        // Served here with one answer, here as a stream, and by the router.
        for path in [PUT, KEEP_ALIVE, COMPACT] {
            let (response, mut send) = wire.begin(path, PLAIN).await;
            let begun = framed(&put("k", "v"));
            send.send_data(begun.slice(..begun.len() - 1), false)
                .unwrap();
            let outcome = outcome(response).await;
            assert!(
                outcome.text.contains("took too long to arrive"),
                "{path}: {outcome:?}"
            );
            assert_ne!(outcome.status, "0");
        }
        // A stream whose messages are whole may be silent for as long as it likes.
        let (response, mut send) = wire.begin(KEEP_ALIVE, PLAIN).await;
        let message = framed(&LeaseKeepAliveRequest { id: 7 });
        for pause in [300, 300] {
            send.send_data(message.slice(..3), false).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            send.send_data(message.slice(3..), false).unwrap();
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        send.send_data(Bytes::new(), true).unwrap();
        let outcome = outcome(response).await;
        assert_eq!(outcome.status, "0", "{outcome:?}");
        assert!(!outcome.body.is_empty());
    });
}

/// As JSON over HTTP/2: between two objects a client may take its time, as over HTTP/1; within one
/// it may not.
#[test]
fn a_stream_of_json_may_be_silent_between_objects() {
    let mut limits = Limits::default();
    limits.clients.message_timeout = Duration::from_millis(200);
    let bench = Bench::start_within(limits, |_| {});
    bench.client.block_on(async {
        let wire = Wire::open(bench.etcd()).await;
        let (response, mut send) = wire.begin("/v3/lease/keepalive", &[]).await;
        for last in [false, false, true] {
            let object = Bytes::from_static(br#"{"ID":"7"}"#);
            send.send_data(object, last).unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let text = all(response.into_body()).await;
        assert_eq!(text.matches(r#""result""#).count(), 3, "{text}");

        let (response, mut send) = wire.begin("/v3/lease/keepalive", &[]).await;
        send.send_data(Bytes::from_static(br#"{"ID":"#), false)
            .unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 504);
        let text = all(response.into_body()).await;
        assert!(text.contains("did not arrive in time"), "{text}");
    });
}

async fn all(mut body: h2::RecvStream) -> String {
    let mut text = Vec::new();
    while let Some(piece) = body.data().await {
        text.extend_from_slice(&piece.unwrap());
    }
    String::from_utf8(text).unwrap()
}

/// A frame of HTTP/2 as it comes from the wire.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// Calls that are given up before they were looked at, as those with short time limits are where a
/// connection is read ten times a second, ended the connection when there were more than twenty.
#[test]
fn calls_that_are_given_up_at_once_end_no_connection() {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    const GO_AWAY: u8 = 7;
    const COUNT: u32 = 1000;
    // POST, http, the path, an authority and a type, without compression (RFC 7541).
    let path = [&[4, u8::try_from(RANGE.len()).unwrap()], RANGE.as_bytes()].concat();
    let rest = b"\x01\x01x\x0f\x10\x10application/grpc";
    let head = [&b"\x83\x86"[..], &path, rest].concat();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for number in 0..COUNT {
        bytes.extend(frame(HEADERS, 4, 2 * number + 1, &head));
        bytes.extend(frame(RESET, 0, 2 * number + 1, &8u32.to_be_bytes()));
    }
    let last = 2 * COUNT + 1;
    bytes.extend(frame(HEADERS, 4, last, &head));
    bytes.extend(frame(DATA, 1, last, &framed(&range("k"))));

    let bench = Bench::start(|_| {});
    let mut stream = TcpStream::connect(bench.etcd()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(&bytes).unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let [a, b, c, kind, _, number @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).unwrap();
        assert_ne!(kind, GO_AWAY, "{}", String::from_utf8_lossy(&payload));
        if u32::from_be_bytes(number) == last {
            assert_eq!(kind, HEADERS, "the last call is answered");
            return;
        }
    }
}

/// A client renews each of its leases again every half second until it is answered. What was not
/// read of that ended the connection, and with it the client's watches and calls.
#[test]
fn keep_alives_that_nobody_answers_end_no_connection() {
    const COUNT: usize = 160_000;
    let bench = Bench::start(|_| {});
    let received_bytes = || -> usize {
        let metrics = bench.http(&bench.handle.endpoints().admin, &get("/metrics"));
        let name = "etcd_network_client_grpc_received_bytes_total ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(name));
        count.map_or(0, |count| count.trim().parse().unwrap())
    };
    let message = framed(&LeaseKeepAliveRequest { id: NEVER_RENEWED });
    let frame_bytes = 9 + message.len();
    let wire = bench.client.block_on(Wire::open(bench.etcd()));
    let (_response, mut send) = bench.client.block_on(wire.begin(KEEP_ALIVE, PLAIN));
    for _ in 0..COUNT {
        send.send_data(message.clone(), false).unwrap();
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while received_bytes() < COUNT * frame_bytes {
        assert!(std::time::Instant::now() < deadline, "they do not arrive");
        let call = async { range_of(&wire.call(RANGE, PLAIN, &range("k")).await) };
        bench.client.block_on(call);
    }
}

#[test]
fn metadata_may_be_long_but_not_without_end() {
    let bench = Bench::start(|_| {});
    bench.client.block_on(async {
        let wire = Wire::open(bench.etcd()).await;
        let with_token = |length: usize| {
            let token: &'static str = "t".repeat(length).leak();
            [("content-type", "application/grpc"), ("token", token)]
        };
        let may_be = with_token(200_000);
        range_of(&wire.call(RANGE, &may_be, &range("k")).await);
        let (response, _) = wire.begin(RANGE, &with_token(300_000)).await;
        let refused = response.await.map(|response| response.status());
        assert!(!matches!(refused, Ok(StatusCode::OK)), "{refused:?}");
        range_of(&wire.call(RANGE, PLAIN, &range("k")).await);
    });
}
