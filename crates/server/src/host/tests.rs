//! A whole server on real sockets and a real folder, around a machine that is simple enough to
//! know what it must answer.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;

use base::{Epoch, Instant, NodeId, Slot, WallTime};
use bytes::Bytes;
use consensus::Role;
use etcd::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, MemberListRequest, MemberListResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader, StatusRequest,
    StatusResponse, TxnRequest, TxnResponse,
};
use etcd::proto::mvccpb::KeyValue;
use journal::disk::{self, Lane, Operation, RequestId};
use node::{Answer, Call, CallId, Input, Output, RenewedLeases, Status};
use tonic::Code;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::*;

mod clocks;
mod gateway;
mod hostile;
mod hot;
mod jobs;
mod leases;
mod locks;
mod published;
mod restarted;
mod secured;

/// A renewal of this lease is never answered.
const NEVER_RENEWED: i64 = i64::MAX;

/// Keeps keys in a map, and answers a put once its value is on disk.
struct Simple {
    keys: BTreeMap<Bytes, Bytes>,
    waiting: BTreeMap<u64, CallId>,
    written: u64,
    forgotten: u64,
    renewals: u64,
    said_ready: bool,
    name: String,
}

impl Simple {
    fn make(startup: Startup) -> Simple {
        Simple {
            keys: BTreeMap::new(),
            waiting: BTreeMap::new(),
            written: 0,
            forgotten: 0,
            renewals: 0,
            said_ready: false,
            name: startup.config.name,
        }
    }

    fn etcd(&mut self, id: CallId, request: etcd::Request, out: &mut Vec<Output>) {
        let response = match request {
            etcd::Request::Put(put) => {
                let operation = Operation::Write {
                    file: disk::File::Segment(1),
                    offset: self.written,
                    data: vec![put.value.clone()],
                    sync: true,
                };
                self.written += put.value.len() as u64;
                self.waiting.insert(id.0, id);
                self.keys.insert(put.key, put.value);
                let id = RequestId(id.0);
                out.push(Output::Disk(disk::Request {
                    id,
                    lane: Lane::Journal,
                    operation,
                }));
                return;
            }
            etcd::Request::Range(range) => {
                if range.key == "never" {
                    return;
                }
                let value = self.keys.get(&range.key).cloned();
                let key = range.key;
                let kvs = value.map(|value| KeyValue {
                    key,
                    value,
                    ..KeyValue::default()
                });
                Ok(etcd::Response::Range(RangeResponse {
                    kvs: kvs.into_iter().collect(),
                    count: i64::try_from(self.forgotten).unwrap(),
                    ..RangeResponse::default()
                }))
            }
            etcd::Request::DeleteRange(_) => {
                Ok(etcd::Response::DeleteRange(DeleteRangeResponse::default()))
            }
            etcd::Request::Txn(_) => Ok(etcd::Response::Txn(TxnResponse::default())),
            etcd::Request::Compact(_) => Err(etcd::Error::Compacted),
            _ => Err(etcd::Error::LeaseNotFound),
        };
        out.push(Output::Answer {
            id,
            answer: Answer::Etcd(response),
        });
    }

    fn status(&self) -> Status {
        Status {
            name: self.name.clone(),
            id: NodeId(10),
            cluster: None,
            role: Role::Leader,
            phase: "serving",
            leader: Some(self.name.clone()),
            term: Epoch(2),
            chosen: Slot(3),
            applied: Slot(3),
            revision: 4,
            compacted: 0,
            level: 1,
            digest: 255,
            held_bytes: 0,
            live_bytes: 0,
            quota_bytes: 0,
            alarms: Vec::new(),
            quorums: consensus::QuorumSizes::majorities(1),
            copies: 1,
            members: Vec::new(),
        }
    }

    fn call(&mut self, id: CallId, call: Call, out: &mut Vec<Output>) {
        let answer = match call {
            Call::Etcd(request) => return self.etcd(id, request, out),
            Call::EtcdMemberList { .. } => {
                Answer::EtcdMemberList(Ok(MemberListResponse::default()))
            }
            Call::RenewLeases { leases, .. }
                if leases.iter().any(|lease| lease.0 == NEVER_RENEWED) =>
            {
                return;
            }
            Call::RenewLeases { leases, .. } => {
                self.renewals += leases.len() as u64;
                Answer::LeasesRenewed(Ok(RenewedLeases {
                    header: ResponseHeader::default(),
                    seconds: leases.iter().map(|lease| Ok(60.min(lease.0))).collect(),
                }))
            }
            Call::EtcdStatus => Answer::EtcdStatus(Ok(StatusResponse::default())),
            Call::Status => Answer::Status(Box::new(self.status())),
            Call::Ready => Answer::Ready(Ok(())),
            Call::MemberRemove { member } if member == "n9" => {
                Answer::Operator(Err("there is no member n9".into()))
            }
            other => Answer::Operator(Ok(format!("did {other:?}"))),
        };
        out.push(Output::Answer { id, answer });
    }
}

impl Machine for Simple {
    fn step(&mut self, _: Instant, _: WallTime, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Call { id, call } => self.call(id, call, out),
            Input::Disk(completion) => {
                completion.result.unwrap();
                let id = self.waiting.remove(&completion.id.0).unwrap();
                let response = etcd::Response::Put(PutResponse::default());
                out.push(Output::Answer {
                    id,
                    answer: Answer::Etcd(Ok(response)),
                });
            }
            Input::Forget { .. } => self.forgotten += 1,
            Input::Shutdown => out.push(Output::Halt(Halt::Stopped)),
            other => panic!("nothing brings about {other:?}"),
        }
    }

    fn flush(&mut self, _: Instant, _: WallTime, out: &mut Vec<Output>) {
        if !std::mem::replace(&mut self.said_ready, true) {
            out.push(Output::Ready);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn metrics(&self) -> node::Metrics {
        node::Metrics {
            reads: 77,
            leader_changes: 5,
            first_leader_changes: 1,
            leases_renewed: self.renewals,
            ..node::Metrics::default()
        }
    }
}

fn configuration(folder: &Path) -> Configuration {
    Configuration {
        data_dir: folder.to_owned(),
        listen_etcd: Listen::Tcp("127.0.0.1:0".into()),
        listen_admin: Listen::Tcp("127.0.0.1:0".into()),
        ..Configuration::default()
    }
}

struct Bench {
    handle: Handle,
    client: Runtime,
    temporary: tempfile::TempDir,
}

impl Bench {
    fn start(change: impl FnOnce(&mut Configuration)) -> Bench {
        Bench::start_within(Limits::default(), change)
    }

    fn start_within(limits: Limits, change: impl FnOnce(&mut Configuration)) -> Bench {
        Bench::around(Simple::make, limits, change)
    }

    fn around<M: Machine>(
        make: impl FnOnce(Startup) -> M,
        limits: Limits,
        change: impl FnOnce(&mut Configuration),
    ) -> Bench {
        let temporary = tempfile::tempdir().unwrap();
        let mut configuration = configuration(&temporary.path().join("data"));
        change(&mut configuration);
        let handle = start_within(configuration, limits, make).unwrap();
        assert!(handle.wait_until_ready());
        let client = Runtime::new().unwrap();
        Bench {
            handle,
            client,
            temporary,
        }
    }

    fn etcd(&self) -> String {
        self.handle.endpoints().etcd.to_string()
    }

    fn channel(&self) -> Channel {
        let _context = self.client.enter();
        Channel::from_shared(format!("http://{}", self.etcd()))
            .unwrap()
            .connect_lazy()
    }

    fn grpc<Q, A>(&self, path: &'static str, request: Q) -> Result<A, tonic::Status>
    where
        Q: prost::Message + Send + 'static,
        A: prost::Message + Default + Send + 'static,
    {
        self.client.block_on(unary(self.channel(), path, request))
    }

    fn wait_for_a_call_under_way(&self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let metrics = || self.http(&self.handle.endpoints().admin, &get("/metrics"));
        while !metrics().contains("quorate_client_calls_under_way 1\n") {
            assert!(std::time::Instant::now() < deadline, "no call is under way");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn http(&self, address: &Listen, request: &str) -> String {
        let mut stream = TcpStream::connect(address.to_string()).unwrap();
        exchange(&mut stream, request)
    }
}

async fn unary<Q, A>(channel: Channel, path: &'static str, request: Q) -> Result<A, tonic::Status>
where
    Q: prost::Message + Send + 'static,
    A: prost::Message + Default + Send + 'static,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static(path);
    let codec = ProstCodec::<Q, A>::default();
    Ok(grpc
        .unary(tonic::Request::new(request), path, codec)
        .await?
        .into_inner())
}

fn exchange(stream: &mut (impl std::io::Read + std::io::Write), request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

fn post(path: &str, more: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\
         \r\n{more}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";

fn put(key: &'static str, value: impl Into<Bytes>) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: value.into(),
        ..PutRequest::default()
    }
}

fn range(key: &'static str) -> RangeRequest {
    RangeRequest {
        key: key.into(),
        ..RangeRequest::default()
    }
}

#[test]
fn one_port_speaks_grpc_and_http() {
    let bench = Bench::start(|_| {});
    let _: PutResponse = bench.grpc(PUT, put("k", "v")).unwrap();
    let response: RangeResponse = bench.grpc(RANGE, range("k")).unwrap();
    assert_eq!(response.kvs[0].value, "v");
    let segment = bench
        .temporary
        .path()
        .join("data/journal/0000000000000001.segment");
    assert_eq!(std::fs::read(segment).unwrap(), b"v");
    let port = &bench.handle.endpoints().etcd;
    let version = bench.http(port, &get("/version"));
    assert!(version.starts_with("HTTP/1.1 200"), "{version}");
    assert!(version.contains(r#""etcdserver":"3.7.1""#), "{version}");
    let health = bench.http(port, &get("/health"));
    assert!(
        health.contains(r#"{"health":"true","reason":""}"#),
        "{health}"
    );
    assert!(bench.http(port, &get("/readyz")).ends_with("ok\n"));
    assert!(bench.http(port, &get("/livez")).ends_with("ok\n"));
    assert!(
        bench
            .http(port, &get("/nothing"))
            .starts_with("HTTP/1.1 404")
    );
    let metrics = bench.http(port, &get("/metrics"));
    for line in [
        "etcd_server_has_leader 1",
        "quorate_reads_total 77",
        "etcd_server_leader_changes_seen_total 1",
        "quorate_leader_changes_total 5",
        "etcd_disk_wal_fsync_duration_seconds_count 1",
        "etcd_server_proposals_committed_total 3",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    bench.handle.shutdown();
    bench.handle.wait().unwrap();
}

#[test]
fn every_call_of_etcds_reaches_the_node_and_errors_keep_code_and_text() {
    let bench = Bench::start(|_| {});
    let kv = "/etcdserverpb.KV/DeleteRange";
    let _: DeleteRangeResponse = bench.grpc(kv, DeleteRangeRequest::default()).unwrap();
    let _: TxnResponse = bench
        .grpc("/etcdserverpb.KV/Txn", TxnRequest::default())
        .unwrap();
    let list = "/etcdserverpb.Cluster/MemberList";
    let _: MemberListResponse = bench.grpc(list, MemberListRequest::default()).unwrap();
    let status = "/etcdserverpb.Maintenance/Status";
    let _: StatusResponse = bench.grpc(status, StatusRequest::default()).unwrap();
    let compact = "/etcdserverpb.KV/Compact";
    let error = bench.grpc::<_, CompactionResponse>(compact, CompactionRequest::default());
    let error = error.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
    assert_eq!(
        error.message(),
        "etcdserver: mvcc: required revision has been compacted"
    );
}

#[test]
fn what_is_not_served_is_unimplemented() {
    let bench = Bench::start(|_| {});
    for path in [
        "/etcdserverpb.Maintenance/Nothing",
        "/etcdserverpb.KV/Nothing",
        "/etcdserverpb.Auth/Nothing",
        "/nobody.Knows/This",
    ] {
        let error = bench
            .grpc::<_, RangeResponse>(path, range("k"))
            .unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented, "{path}: {error}");
    }
}

#[test]
fn a_message_beyond_etcds_limit_is_refused_in_etcds_words() {
    let bench = Bench::start(|_| {});
    let _: PutResponse = bench.grpc(PUT, put("k", vec![0; 2_000_000])).unwrap();
    let error = bench
        .grpc::<_, PutResponse>(PUT, put("k", vec![0; 2_100_000]))
        .unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    let expected = "grpc: received message larger than max (2100";
    assert!(error.message().starts_with(expected), "{error}");
    assert!(error.message().ends_with(" vs. 2097152)"), "{error}");
}

#[test]
fn health_and_reflection_are_served() {
    use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
    let bench = Bench::start(|_| {});
    for service in ["", "etcdserverpb.KV"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let path = "/grpc.health.v1.Health/Check";
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            // The health task may be a moment behind the announcement.
            let response = bench.grpc::<_, HealthCheckResponse>(path, request.clone());
            if response.is_ok_and(|response| response.status == 1) {
                break;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{service:?} does not become healthy"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // A streaming call answers even an empty stream; that it is routed is what counts here.
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let answer = bench.grpc::<_, RangeResponse>(path, ());
    assert_ne!(
        answer.err().map(|error| error.code()),
        Some(Code::Unimplemented)
    );
}

#[test]
fn a_call_that_its_client_gives_up_is_forgotten() {
    let bench = Bench::start(|_| {});
    let channel = bench.channel();
    let given_up = bench.client.block_on(async {
        let call = unary::<_, RangeResponse>(channel, RANGE, range("never"));
        tokio::time::timeout(Duration::from_millis(200), call).await
    });
    assert!(given_up.is_err(), "the machine never answers this");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        // The machine tells in `count` how much it was told to forget.
        let response: RangeResponse = bench.grpc(RANGE, range("k")).unwrap();
        if response.count == 1 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "not forgotten");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_node_says_so_and_still_lets_in_what_makes_room() {
    let bench = Bench::start(|configuration| configuration.max_calls = 1);
    let channel = bench.channel();
    let stuck = unary::<_, RangeResponse>(channel, RANGE, range("never"));
    let stuck = bench.client.spawn(stuck);
    bench.wait_for_a_call_under_way();
    let error = bench
        .grpc::<_, RangeResponse>(RANGE, range("k"))
        .unwrap_err();
    assert_eq!(error.code(), Code::Unknown);
    assert_eq!(error.message(), "etcdserver: too many requests");
    let delete = "/etcdserverpb.KV/DeleteRange";
    let _: DeleteRangeResponse = bench.grpc(delete, DeleteRangeRequest::default()).unwrap();
    stuck.abort();
}

#[test]
fn a_call_under_way_is_answered_when_the_server_stops() {
    let bench = Bench::start(|_| {});
    let channel = bench.channel();
    let stuck = bench
        .client
        .spawn(unary::<_, RangeResponse>(channel, RANGE, range("never")));
    bench.wait_for_a_call_under_way();
    bench.handle.shutdown();
    bench.handle.wait().unwrap();
    let error = bench.client.block_on(stuck).unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.message(), "etcdserver: server stopped");
}

#[test]
fn operators_see_the_status_and_change_members_from_this_machine() {
    let bench = Bench::start(|_| {});
    let port = &bench.handle.endpoints().admin;
    let status = bench.http(port, &get("/status"));
    let body = status.split("\r\n\r\n").nth(1).unwrap();
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(status["name"], "n1");
    assert_eq!(status["role"], "leader");
    assert_eq!(status["id"], "000000000000000a");
    assert_eq!(status["digest"], "000000000000000000000000000000ff");
    assert_eq!(status["term"], 2);
    let body = r#"{"name":"n4","peer_address":"h:1"}"#;
    let answer = bench.http(port, &post("/members/add", "", body));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.ends_with(
            "did MemberAdd { name: \"n4\", peer_address: \"h:1\", is_witness: false }\n"
        ),
        "{answer}"
    );
    let answer = bench.http(port, &post("/members/promote", "", r#"{"member":"n4"}"#));
    assert!(answer.contains("did MemberPromote"), "{answer}");
    let answer = bench.http(port, &post("/leader/transfer", "", "{}"));
    assert!(
        answer.contains("did TransferLeadership { to: None }"),
        "{answer}"
    );
    let answer = bench.http(port, &post("/members/remove", "", r#"{"member":"n9"}"#));
    assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
    assert!(answer.ends_with("there is no member n9\n"), "{answer}");
    let answer = bench.http(port, &post("/members/remove", "", r#"{"nember":"n9"}"#));
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    let answer = bench.http(port, &get("/members/remove"));
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

#[test]
fn web_pages_change_nothing() {
    let bench = Bench::start(|_| {});
    let port = &bench.handle.endpoints().admin;
    let body = r#"{"member":"n1"}"#;
    let answer = bench.http(
        port,
        &post("/members/remove", "origin: http://evil\r\n", body),
    );
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    // What a page may send without asking first is not JSON.
    let plain = post("/members/remove", "", body).replace("application/json", "text/plain");
    let answer = bench.http(port, &plain);
    assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
}

#[test]
fn operators_may_use_a_unix_socket_and_its_file_ends_with_the_server() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("admin");
    // Left behind by a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let bench =
        Bench::start(|configuration| configuration.listen_admin = Listen::Unix(path.clone()));
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let answer = exchange(&mut stream, &post("/leader/transfer", "", r#"{"to":"n2"}"#));
    assert!(
        answer.contains("did TransferLeadership { to: Some(\"n2\") }"),
        "{answer}"
    );
    drop(bench);
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let mut configuration = configuration(&temporary.path().join("data"));
    configuration.listen_admin = Listen::Unix(path.clone());
    let error = start_hosting(configuration, Simple::make)
        .unwrap_err()
        .to_string();
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
    assert!(error.contains(&path.display().to_string()), "{error}");
    assert!(error.contains("--listen-admin"), "{error}");
    assert!(error.contains("not a socket"), "{error}");
}

#[test]
fn a_file_that_took_the_place_of_the_socket_is_not_removed() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("admin");
    let bench =
        Bench::start(|configuration| configuration.listen_admin = Listen::Unix(path.clone()));
    // Made before the other is removed, so that it cannot get the same number.
    let other = temporary.path().join("other");
    std::fs::write(&other, "data").unwrap();
    std::fs::rename(&other, &path).unwrap();
    drop(bench);
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
}

#[test]
fn a_port_in_use_is_named_with_its_flag_and_nothing_is_left_locked() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let temporary = tempfile::tempdir().unwrap();
    let mut configuration = configuration(temporary.path());
    configuration.listen_admin = Listen::Tcp(address.clone());
    let error = start_hosting(configuration.clone(), Simple::make)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("cannot listen on {address}")),
        "{error}"
    );
    assert!(error.contains("--listen-admin"), "{error}");
    configuration.data_dir = temporary.path().join("fresh");
    start_hosting(configuration.clone(), Simple::make).unwrap_err();
    assert!(
        !configuration.data_dir.exists(),
        "a start that failed left a folder behind"
    );
    configuration.data_dir = temporary.path().to_owned();
    configuration.listen_admin = Listen::None;
    drop(start_hosting(configuration, Simple::make).unwrap());
}

#[test]
fn a_node_that_refuses_says_why() {
    struct Refusing;
    impl Machine for Refusing {
        fn step(&mut self, _: Instant, _: WallTime, _: Input, _: &mut Vec<Output>) {}
        fn flush(&mut self, _: Instant, _: WallTime, out: &mut Vec<Output>) {
            out.push(Output::Halt(Halt::Refused(
                "the folder belongs to n2".into(),
            )));
        }
        fn deadline(&self) -> Option<Instant> {
            None
        }
        fn metrics(&self) -> node::Metrics {
            node::Metrics::default()
        }
    }
    let temporary = tempfile::tempdir().unwrap();
    let handle = start_hosting(configuration(temporary.path()), |_| Refusing).unwrap();
    assert!(!handle.wait_until_ready());
    assert_eq!(
        handle.wait().unwrap_err().to_string(),
        "the folder belongs to n2"
    );
}

#[test]
fn a_node_that_was_removed_says_so() {
    struct Removed;
    impl Machine for Removed {
        fn step(&mut self, _: Instant, _: WallTime, _: Input, _: &mut Vec<Output>) {}
        fn flush(&mut self, _: Instant, _: WallTime, out: &mut Vec<Output>) {
            out.push(Output::Halt(Halt::Removed));
        }
        fn deadline(&self) -> Option<Instant> {
            None
        }
        fn metrics(&self) -> node::Metrics {
            node::Metrics::default()
        }
    }
    let temporary = tempfile::tempdir().unwrap();
    let handle = start_hosting(configuration(temporary.path()), |_| Removed).unwrap();
    let error = handle.wait().unwrap_err();
    assert!(matches!(error, Error::Removed), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("this node has been removed"), "{text}");
}

#[test]
fn a_node_that_fails_inside_ends_the_server() {
    struct Failing;
    impl Machine for Failing {
        fn step(&mut self, _: Instant, _: WallTime, _: Input, _: &mut Vec<Output>) {}
        fn flush(&mut self, _: Instant, _: WallTime, _: &mut Vec<Output>) {
            panic!("a test's machine fails");
        }
        fn deadline(&self) -> Option<Instant> {
            None
        }
        fn metrics(&self) -> node::Metrics {
            node::Metrics::default()
        }
    }
    let temporary = tempfile::tempdir().unwrap();
    let handle = start_hosting(configuration(temporary.path()), |_| Failing).unwrap();
    assert!(matches!(handle.wait(), Err(Error::Failed)));
}

#[test]
fn a_signal_that_comes_twice_at_once_is_one_wish() {
    let start = std::time::Instant::now();
    let mut first = None;
    use super::signals::ECHO;
    assert_eq!(Told::at(&mut first, start), Told::First);
    let echo = start + ECHO - Duration::from_millis(1);
    assert_eq!(Told::at(&mut first, echo), Told::Echo);
    assert_eq!(Told::at(&mut first, start + ECHO), Told::Again);
    assert_eq!(Told::at(&mut first, start + 9 * ECHO), Told::Again);
}
