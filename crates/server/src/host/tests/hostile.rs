//! Clients that say nothing, or too little, or too slowly.

use std::io::{ErrorKind, Read as _, Write as _};

use super::super::clients::places;
use super::*;

/// Short waits, so that tests need not wait for long.
fn hasty() -> Limits {
    let mut limits = Limits::default();
    limits.clients.header_timeout = Duration::from_millis(200);
    limits.clients.body_timeout = Duration::from_millis(200);
    limits.clients.keepalive_interval = Duration::from_millis(200);
    limits.clients.keepalive_timeout = Duration::from_millis(200);
    limits
}

/// Sends some bytes and returns what comes until the server closes the connection.
fn until_closed(address: &Listen, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address.to_string()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{:?} stays open: {error}", String::from_utf8_lossy(bytes)),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

impl Bench {
    fn wait_until_closed_for(&self, reason: &str, count: usize) {
        let line =
            format!("quorate_client_connections_closed_total{{reason=\"{reason}\"}} {count}\n");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let metrics = self.http(&self.handle.endpoints().admin, &get("/metrics"));
            if metrics.contains(&line) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{line} in {metrics}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn whoever_does_not_say_what_it_speaks_is_closed_and_counted() {
    let bench = Bench::start_within(hasty(), |_| {});
    let Endpoints { etcd, admin, .. } = bench.handle.endpoints().clone();
    for port in [&etcd, &admin] {
        assert_eq!(until_closed(port, b""), "");
        assert_eq!(until_closed(port, b"PRI * HT"), "");
    }
    bench.wait_until_closed_for("silent", 4);
    until_closed(&etcd, b"GET /version HTTP/1.1\r\nhost: x\r\n");
    bench.wait_until_closed_for("timed_out", 1);
    until_closed(&etcd, b"\0\0\0\0");
    bench.wait_until_closed_for("not_http", 1);
    // The whole preface, and never an answer to a probe.
    until_closed(
        &etcd,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    );
    bench.wait_until_closed_for("timed_out", 2);
}

/// Whoever spoke gRPC kept its place until the node served clients, even if it had gone: a node
/// that waited for its cluster for long was full of them.
#[test]
fn nobody_waits_for_ever_for_a_node_that_starts() {
    let temporary = tempfile::tempdir().unwrap();
    let configuration = configuration(&temporary.path().join("data"));
    let mut limits = Limits::default();
    limits.clients.starting_timeout = Duration::from_millis(100);
    let handle = start_within(configuration, limits, |startup| Simple {
        said_ready: true,
        ..Simple::make(startup)
    });
    let handle = handle.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    assert_eq!(until_closed(&handle.endpoints().etcd, preface), "");
}

#[test]
fn first_bytes_that_come_one_by_one_are_understood() {
    let bench = Bench::start(|_| {});
    let address = bench.etcd();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in get("/version").as_bytes() {
        stream.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let bench = Bench::start_within(hasty(), |_| {});
    let Endpoints { etcd, admin, .. } = bench.handle.endpoints().clone();
    let whole = post("/members/remove", "", r#"{"member":"n1"}"#);
    let answer = until_closed(&admin, &whole.as_bytes()[..whole.len() - 3]);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    // One byte too long, so that all of it is read: unread bytes would reset the connection.
    let long = post("/members/remove", "", &"x".repeat((64 << 10) + 1));
    let answer = until_closed(&admin, long.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let whole = post(RANGE, "", "12345");
    let answer = until_closed(&etcd, &whole.as_bytes()[..whole.len() - 3]);
    assert!(answer.starts_with("HTTP/1.1 505"), "{answer}");
}

#[test]
fn clients_do_not_take_the_operators_places() {
    let bench = Bench::start(|configuration| configuration.max_connections = 1);
    let _held = TcpStream::connect(bench.etcd()).unwrap();
    let admin = bench.handle.endpoints().admin.clone();
    for _ in 0..3 {
        let answer = bench.http(&admin, &get("/livez"));
        assert!(answer.ends_with("ok\n"), "{answer}");
    }
}

#[test]
fn a_place_is_free_again_when_its_client_was_silent() {
    let bench = Bench::start_within(hasty(), |configuration| configuration.max_connections = 2);
    let _silent = [(); 2].map(|()| TcpStream::connect(bench.etcd()).unwrap());
    let _: RangeResponse = bench.grpc(RANGE, range("k")).unwrap();
}

/// Answers nothing: its thread hangs in the first call, until the sender is dropped.
struct Stuck(std::sync::mpsc::Receiver<()>);

impl Machine for Stuck {
    fn step(&mut self, _: Instant, _: WallTime, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Shutdown => out.push(Output::Halt(Halt::Stopped)),
            _ => {
                self.0.recv().unwrap_err();
            }
        }
    }

    fn flush(&mut self, _: Instant, _: WallTime, _: &mut Vec<Output>) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn metrics(&self) -> node::Metrics {
        node::Metrics::default()
    }
}

#[test]
fn metrics_do_not_wait_for_a_node_that_is_stuck() {
    let temporary = tempfile::tempdir().unwrap();
    let mut limits = hasty();
    limits.clients.metrics_timeout = Duration::from_millis(200);
    let (release, hangs) = std::sync::mpsc::channel();
    let configuration = configuration(temporary.path());
    let handle = start_within(configuration, limits, |_| Stuck(hangs)).unwrap();
    // Dropped before the handle, which would wait for ever otherwise if this test failed.
    let release = release;
    let metrics = until_closed(&handle.endpoints().etcd, get("/metrics").as_bytes());
    drop(release);
    assert!(
        metrics.contains("quorate_client_connections 1\n"),
        "{metrics}"
    );
    assert!(!metrics.contains("quorate_term"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}

#[test]
fn clients_leave_files_for_peers_and_disks() {
    let limits = Limits::default();
    assert_eq!(places(16_384, None, &limits), 16_384);
    assert_eq!(places(16_384, Some(1 << 20), &limits), 16_384);
    assert_eq!(places(16_384, Some(1024), &limits), 544);
    assert_eq!(places(100, Some(1024), &limits), 100);
    assert_eq!(places(16_384, Some(64), &limits), 16);
    assert_eq!(places(1, Some(64), &limits), 1);
}
