//! The JSON gateway on a whole server.

use std::io::Write as _;

use super::*;

fn json(bench: &Bench, path: &str, body: &str) -> (u16, serde_json::Value) {
    let answer = bench.http(&bench.handle.endpoints().etcd, &post(path, "", body));
    let status = answer[9..12].parse().unwrap();
    let text = answer.split_once("\r\n\r\n").unwrap().1;
    let text = match answer.contains("transfer-encoding: chunked") {
        // One piece of the body, between its length and the last one.
        true => text.lines().nth(1).unwrap_or_default(),
        false => text,
    };
    (status, serde_json::from_str(text).unwrap())
}

#[test]
fn calls_are_served_as_json() {
    let bench = Bench::start(|_| {});
    let (status, _) = json(&bench, "/v3/kv/put", r#"{"key":"aw==","value":"dg=="}"#);
    assert_eq!(status, 200);
    let (status, found) = json(&bench, "/v3/kv/range", r#"{"key":"aw=="}"#);
    assert_eq!((status, &found["kvs"][0]["value"]), (200, &"dg==".into()));
    let (_, empty) = json(&bench, "/v3/kv/range", r#"{"key":"bm8="}"#);
    assert!(empty.get("kvs").is_none());
}

/// A page that anybody wrote may make a browser send a request without asking first, if it looks
/// like a form.
#[test]
fn pages_of_other_origins_change_nothing() {
    let bench = Bench::start(|configuration| {
        configuration.cors = vec!["https://a.example".to_owned()];
    });
    let port = &bench.handle.endpoints().etcd;
    let ask = |origin: &str| {
        let headers = format!("content-type: text/plain\r\n{origin}");
        bench.http(port, &post("/v3/kv/put", &headers, r#"{"key":"aw=="}"#))
    };
    for (origin, expected) in [
        ("", 200),
        ("origin: https://a.example\r\n", 200),
        ("origin: https://b.example\r\n", 403),
        ("origin: null\r\n", 403),
    ] {
        let answer = ask(origin);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")),
            "{answer}"
        );
    }
}

/// Connections of gRPC wait until the node serves clients; JSON came through, and was judged by
/// users and roles that the node might not have known yet.
#[test]
fn nothing_is_served_before_the_node_is_ready() {
    let temporary = tempfile::tempdir().unwrap();
    let configuration = configuration(&temporary.path().join("data"));
    let handle = start_within(configuration, Limits::default(), |startup| Simple {
        said_ready: true,
        ..Simple::make(startup)
    });
    let handle = handle.unwrap();
    let port = handle.endpoints().etcd.to_string();
    let ask = |request: &str| exchange(&mut TcpStream::connect(&port).unwrap(), request);
    for path in ["/v3/kv/range", "/v3/watch"] {
        let refused = ask(&post(path, "", r#"{"key":"aw=="}"#));
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
        assert!(refused.contains("etcdserver: no leader"), "{refused}");
    }
    let version = ask(&get("/version"));
    assert!(version.starts_with("HTTP/1.1 200"), "{version}");
}

#[test]
fn a_stream_is_lines_of_results() {
    let bench = Bench::start(|_| {});
    let (status, line) = json(&bench, "/v3/lease/keepalive", r#"{"ID":"8"}"#);
    assert_eq!(status, 200);
    assert_eq!(line["result"]["ID"], "8");
}

#[test]
fn errors_have_the_names_of_all_gateways() {
    let bench = Bench::start(|_| {});
    let port = &bench.handle.endpoints().etcd;
    let (status, error) = json(&bench, "/v3/kv/range", r#"{"key":"#);
    assert_eq!((status, &error["code"]), (400, &3.into()));
    assert_eq!(error["error"], error["message"]);
    let (status, error) = json(&bench, "/v3/nothing", "{}");
    assert_eq!((status, &error["code"]), (404, &5.into()));
    let got = bench.http(port, &get("/v3/kv/range"));
    assert!(got.starts_with("HTTP/1.1 501"), "{got}");
    let (status, error) = json(&bench, "/v3/watch", "[]");
    assert_eq!((status, &error["error"]["grpc_code"]), (400, &3.into()));
    let (status, error) = json(&bench, "/v3/watch", r#"{"create_request":{"#);
    assert_eq!((status, &error["error"]["http_code"]), (400, &400.into()));
}

#[test]
fn what_is_too_long_or_never_comes_is_refused() {
    let mut limits = Limits::default();
    limits.clients.gateway_text_bytes = 1000;
    limits.clients.body_timeout = Duration::from_millis(50);
    let bench = Bench::start_within(limits, |_| {});
    let long = format!(r#"{{"key":"{}"}}"#, "a".repeat(2000));
    for path in ["/v3/kv/range", "/v3/watch"] {
        let open = &long[..long.len() - 2];
        let (status, _) = json(&bench, path, if path == "/v3/watch" { open } else { &long });
        assert_eq!(status, 429, "{path}");
    }
    let mut stream = TcpStream::connect(bench.etcd()).unwrap();
    let begun = "POST /v3/kv/range HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{";
    stream.write_all(begun.as_bytes()).unwrap();
    let mut answer = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 504");
}

#[test]
fn calls_beyond_the_gateways_bound_are_refused_and_those_given_up_make_room() {
    let mut limits = Limits::default();
    limits.clients.gateway_calls = 2;
    let bench = Bench::start_within(limits, |_| {});
    let port = bench.etcd();
    // Neither is answered: the machine keeps to itself what `never` is.
    let hold = || {
        let mut stream = TcpStream::connect(&port).unwrap();
        let request = post("/v3/kv/range", "", r#"{"key":"bmV2ZXI="}"#);
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let (first, _second) = (hold(), hold());
    let under_way = || bench.http(&bench.handle.endpoints().admin, &get("/metrics"));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !under_way().contains("quorate_client_calls_under_way 2\n") {
        assert!(
            std::time::Instant::now() < deadline,
            "two calls are under way"
        );
    }
    // gRPC's code for it is Unknown, as in etcd.
    let (status, error) = json(&bench, "/v3/kv/range", r#"{"key":"aw=="}"#);
    assert_eq!(status, 500);
    assert_eq!(error["message"], "etcdserver: too many requests");
    drop(first);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while json(&bench, "/v3/kv/range", r#"{"key":"aw=="}"#).0 != 200 {
        assert!(std::time::Instant::now() < deadline, "no call has ended");
    }
}

#[test]
fn headers_that_are_too_long_harm_no_other_call() {
    let mut limits = Limits::default();
    limits.clients.header_bytes = 16 << 10;
    let bench = Bench::start_within(limits, |_| {});
    let port = &bench.handle.endpoints().etcd;
    let ask = |more: &str| bench.http(port, &post("/v3/kv/range", more, r#"{"key":"aw=="}"#));
    let many: String = (0..80)
        .map(|number| format!("grpc-metadata-x{number}: {}\r\n", "a".repeat(200)))
        .collect();
    for long in [format!("authorization: {}\r\n", "a".repeat(70_000)), many] {
        let refused = ask(&long);
        assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
        assert!(refused.contains("headers are too long"), "{refused}");
    }
    // As long as may be; and one that the connection would not take.
    for fits in [
        format!("authorization: {}\r\n", "a".repeat(15_000)),
        "grpc-metadata-content-length: 3\r\n".to_owned(),
        String::new(),
    ] {
        let answer = ask(&fits);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Begins a call, and returns once the server waits for its body.
fn begin(bench: &Bench, length: &str) -> TcpStream {
    let mut stream = TcpStream::connect(bench.etcd()).unwrap();
    let head = format!(
        "POST /v3/kv/range HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n\
         {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

/// A piece of a body that does not say its length.
fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A call used to take room for the longest body there may be before a byte of it had come, so that
/// one connection with 64 calls and nothing more shut the gateway for everybody.
#[test]
fn a_call_that_has_sent_nothing_takes_no_room_and_no_place() {
    let mut limits = Limits::default();
    limits.clients.gateway_calls = 1;
    limits.clients.gateway_held_bytes = 100;
    limits.clients.turn_timeout = Duration::from_millis(50);
    let bench = Bench::start_within(limits, |_| {});
    let _silent = [
        begin(&bench, "transfer-encoding: chunked"),
        begin(&bench, "content-length: 90"),
    ];
    let (status, answer) = json(&bench, "/v3/kv/range", r#"{"key":"aw=="}"#);
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn calls_that_wait_for_each_others_room_come_to_an_end() {
    let mut limits = Limits::default();
    limits.clients.gateway_held_bytes = 100;
    limits.clients.turn_timeout = Duration::from_millis(500);
    let bench = Bench::start_within(limits, |_| {});
    let mut both = [(); 2].map(|()| begin(&bench, "transfer-encoding: chunked"));
    // Each gets nearly half, and wants as much again.
    let spaces = chunk(&" ".repeat(45));
    for stream in &mut both {
        stream.write_all(spaces.as_bytes()).unwrap();
    }
    let small = post("/v3/kv/range", "", r#"{"key":"aw=="}"#);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while bench
        .http(&bench.handle.endpoints().etcd, &small)
        .contains("200 OK")
    {
        assert!(std::time::Instant::now() < deadline, "not all is held");
    }
    for stream in &mut both {
        let rest = format!("{spaces}0\r\n\r\n");
        stream.write_all(rest.as_bytes()).unwrap();
    }
    for mut stream in both {
        let mut answer = [0; 12];
        std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
        // Not for the time that a body may take.
        assert_ne!(&answer, b"HTTP/1.1 504");
    }
}

#[test]
fn texts_that_are_held_are_bounded_all_together() {
    let mut limits = Limits::default();
    limits.clients.gateway_held_bytes = 100;
    limits.clients.turn_timeout = Duration::from_millis(50);
    let bench = Bench::start_within(limits, |_| {});
    // Neither comes to its end: one has not arrived as a whole, the other is never answered.
    let spaces = " ".repeat(70);
    let head = "POST /v3/kv/range HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let unfinished = format!("{head}{}", chunk(&spaces));
    let never = post("/v3/kv/range", "", r#"{"key":"bmV2ZXI="}"#);
    let long = post("/v3/kv/range", "", &format!(r#"{{"key":"aw=="}}{spaces}"#));
    for begun in [&unfinished, &never] {
        let port = &bench.handle.endpoints().etcd;
        assert!(bench.http(port, &long).starts_with("HTTP/1.1 200"));
        let mut stream = TcpStream::connect(bench.etcd()).unwrap();
        stream.write_all(begun.as_bytes()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while bench.http(port, &long).contains("200 OK") {
            assert!(std::time::Instant::now() < deadline, "nothing is held");
        }
        let refused = bench.http(port, &long);
        assert!(refused.contains("too many requests"), "{refused}");
        drop(stream);
        while !bench.http(port, &long).contains("200 OK") {
            assert!(
                std::time::Instant::now() < deadline,
                "what is given up is held"
            );
        }
    }
}
