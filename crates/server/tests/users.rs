//! Users, roles and tokens against real embedded nodes, over real connections.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::unwrap_used
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use etcd::proto::authpb::{Permission, UserAddOptions};
use etcd::proto::etcdserverpb::watch_request::RequestUnion;
use etcd::proto::etcdserverpb::*;
use etcd::proto::v3lockpb::{LockRequest, LockResponse};
use quorate_server::configuration::Listen;
use quorate_server::{Configuration, Handle, Server};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// Only something that hangs reaches this.
const PATIENCE: Duration = Duration::from_secs(60);

fn configuration(folder: &Path) -> Configuration {
    Configuration {
        data_dir: folder.to_owned(),
        listen_etcd: Listen::Tcp("127.0.0.1:0".into()),
        listen_admin: Listen::None,
        // The cheapest there is: what is tested is not how slow hashing is.
        bcrypt_cost: 4,
        ..Configuration::default()
    }
}

/// A client of one node, signed in or not.
#[derive(Clone)]
struct Client {
    grpc: Grpc<Channel>,
    token: Option<String>,
}

impl Client {
    async fn connect(node: &Handle) -> Client {
        let address = format!("http://{}", node.endpoints().etcd);
        let channel = Channel::from_shared(address).unwrap();
        let grpc = Grpc::new(channel.connect().await.unwrap());
        Client { grpc, token: None }
    }

    fn with(&self, token: &str) -> Client {
        Client {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    async fn sign_in(&mut self, name: &str, password: &str) -> Result<Client, Status> {
        let request = AuthenticateRequest {
            name: name.to_owned(),
            password: password.to_owned(),
        };
        let answer: AuthenticateResponse = self.auth("Authenticate", request).await?;
        Ok(self.with(&answer.token))
    }

    fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let token = token.parse().unwrap();
            request.metadata_mut().insert("token", token);
        }
        request
    }

    async fn call<Q, A>(&mut self, path: &str, message: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + 'static,
        A: prost::Message + Default + Send + 'static,
    {
        self.grpc.ready().await.unwrap();
        let request = self.request(message);
        let codec = ProstCodec::<Q, A>::default();
        let path: PathAndQuery = path.parse().unwrap();
        let answer = tokio::time::timeout(PATIENCE, self.grpc.unary(request, path, codec));
        Ok(answer.await.unwrap()?.into_inner())
    }

    async fn auth<Q, A>(&mut self, method: &str, message: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + 'static,
        A: prost::Message + Default + Send + 'static,
    {
        self.call(&format!("/etcdserverpb.Auth/{method}"), message)
            .await
    }

    async fn add_user(
        &mut self,
        name: &str,
        password: &str,
    ) -> Result<AuthUserAddResponse, Status> {
        let request = AuthUserAddRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            ..AuthUserAddRequest::default()
        };
        self.auth("UserAdd", request).await
    }

    async fn grant_role(&mut self, user: &str, role: &str) -> AuthUserGrantRoleResponse {
        let request = AuthUserGrantRoleRequest {
            user: user.to_owned(),
            role: role.to_owned(),
        };
        self.auth("UserGrantRole", request).await.unwrap()
    }

    /// A user who may read and write keys that begin with `prefix`, which is a letter.
    async fn add_user_for(&mut self, name: &str, prefix: u8) {
        self.add_user(name, "pw").await.unwrap();
        let role = AuthRoleAddRequest {
            name: name.to_owned(),
        };
        let _: AuthRoleAddResponse = self.auth("RoleAdd", role).await.unwrap();
        let grant = AuthRoleGrantPermissionRequest {
            name: name.to_owned(),
            perm: Some(Permission {
                perm_type: 2,
                key: vec![prefix].into(),
                range_end: vec![prefix + 1].into(),
            }),
        };
        let granted = self.auth("RoleGrantPermission", grant).await;
        let _: AuthRoleGrantPermissionResponse = granted.unwrap();
        self.grant_role(name, name).await;
    }

    async fn enable(&mut self) {
        self.add_user("root", "rootpw").await.unwrap();
        self.grant_role("root", "root").await;
        let enabled = self.auth("AuthEnable", AuthEnableRequest {}).await;
        let _: AuthEnableResponse = enabled.unwrap();
    }

    async fn put(&mut self, key: &str) -> Result<PutResponse, Status> {
        let request = PutRequest {
            key: key.to_owned().into(),
            ..PutRequest::default()
        };
        self.call("/etcdserverpb.KV/Put", request).await
    }

    /// A node that lags does not know of the user yet, or that one has to sign in.
    async fn put_once_known(&mut self, key: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while let Err(status) = self.put(key).await {
            assert!(std::time::Instant::now() < deadline, "{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn get(&mut self, key: &str) -> Result<RangeResponse, Status> {
        let request = RangeRequest {
            key: key.to_owned().into(),
            ..RangeRequest::default()
        };
        self.call("/etcdserverpb.KV/Range", request).await
    }

    async fn grant_lease(&mut self, id: i64, key: Option<&str>) {
        let grant = LeaseGrantRequest { id, ttl: 60 };
        let path = "/etcdserverpb.Lease/LeaseGrant";
        let _: LeaseGrantResponse = self.call(path, grant).await.unwrap();
        if let Some(key) = key {
            self.put_leased(key, id).await.unwrap();
        }
    }

    async fn put_leased(&mut self, key: &str, lease: i64) -> Result<PutResponse, Status> {
        let request = PutRequest {
            key: key.to_owned().into(),
            lease,
            ..PutRequest::default()
        };
        self.call("/etcdserverpb.KV/Put", request).await
    }

    async fn revoke_lease(&mut self, id: i64) -> Result<LeaseRevokeResponse, Status> {
        let request = LeaseRevokeRequest { id };
        self.call("/etcdserverpb.Lease/LeaseRevoke", request).await
    }

    async fn keys_of_lease(&mut self, id: i64) -> Result<Vec<String>, Status> {
        let request = LeaseTimeToLiveRequest { id, keys: true };
        let path = "/etcdserverpb.Lease/LeaseTimeToLive";
        let told: LeaseTimeToLiveResponse = self.call(path, request).await?;
        let keys = told.keys.iter();
        Ok(keys
            .map(|key| String::from_utf8(key.to_vec()).unwrap())
            .collect())
    }

    async fn renewals(&mut self) -> Renewals {
        self.grpc.ready().await.unwrap();
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let request = self.request(UnboundedReceiverStream::new(receiver));
        let codec = ProstCodec::<LeaseKeepAliveRequest, LeaseKeepAliveResponse>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        let answers = self.grpc.streaming(request, path, codec).await.unwrap();
        Renewals {
            sender,
            answers: answers.into_inner(),
        }
    }

    /// Renews a lease on a stream of its own.
    async fn renew(&mut self, id: i64) -> Result<i64, Status> {
        let mut renewals = self.renewals().await;
        renewals.renew(id).await
    }

    /// The first answer to a watch.
    async fn watch(&mut self, key: &str) -> WatchResponse {
        self.grpc.ready().await.unwrap();
        let create = WatchCreateRequest {
            key: key.to_owned().into(),
            ..WatchCreateRequest::default()
        };
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let request_union = Some(RequestUnion::CreateRequest(create));
        sender.send(WatchRequest { request_union }).unwrap();
        let request = self.request(UnboundedReceiverStream::new(receiver));
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let answers = self.grpc.streaming(request, path, codec).await.unwrap();
        let mut answers = answers.into_inner();
        let first = tokio::time::timeout(PATIENCE, answers.message()).await;
        first.unwrap().unwrap().unwrap()
    }
}

/// A stream of keep-alives.
struct Renewals {
    sender: tokio::sync::mpsc::UnboundedSender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl Renewals {
    async fn renew(&mut self, id: i64) -> Result<i64, Status> {
        self.sender.send(LeaseKeepAliveRequest { id }).unwrap();
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        let answer = answer.unwrap()?.unwrap();
        assert_eq!(answer.id, id);
        Ok(answer.ttl)
    }
}

/// What is answered to JSON over HTTP; `header` is one more, or none.
fn post(to: &Listen, path: &str, header: &str, body: &str) -> String {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\n{header}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(to.to_string()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[track_caller]
fn refused<A: std::fmt::Debug>(answer: Result<A, Status>, code: Code, text: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, text));
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(test)
}

const EMPTY: &str = "etcdserver: user name is empty";
const DENIED: &str = "etcdserver: permission denied";
const INVALID: &str = "etcdserver: invalid auth token";
const FAILED: &str = "etcdserver: authentication failed, invalid user ID or password";

#[test]
fn every_way_to_the_keys_is_guarded() {
    let temporary = tempfile::tempdir().unwrap();
    let node = Server::start(configuration(temporary.path())).unwrap();
    assert!(node.wait_until_ready());
    run(async {
        let mut nobody = Client::connect(&node).await;
        nobody.put("a").await.unwrap();
        nobody.enable().await;
        let mut root = nobody.sign_in("root", "rootpw").await.unwrap();
        root.add_user_for("u", b'u').await;
        let mut user = nobody.sign_in("u", "pw").await.unwrap();
        let mut stranger = nobody.with("what.is.this");

        // The calls that workers serve themselves.
        refused(nobody.put("u1").await, Code::InvalidArgument, EMPTY);
        refused(nobody.get("u1").await, Code::InvalidArgument, EMPTY);
        refused(stranger.put("u1").await, Code::Unauthenticated, INVALID);
        refused(stranger.get("u1").await, Code::Unauthenticated, INVALID);
        user.put("u1").await.unwrap();
        assert_eq!(user.get("u1").await.unwrap().count, 1);
        refused(user.put("a").await, Code::PermissionDenied, DENIED);
        refused(user.get("a").await, Code::PermissionDenied, DENIED);
        root.put("a").await.unwrap();

        // Nodes tell each other whose certificate was shown, and believe nobody else.
        let mut forged = Request::new(RangeRequest {
            key: "a".into(),
            ..RangeRequest::default()
        });
        let name = "root".parse().unwrap();
        forged.metadata_mut().insert("quorate-common-name", name);
        let codec = ProstCodec::<RangeRequest, RangeResponse>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
        nobody.grpc.ready().await.unwrap();
        let answer = nobody.grpc.unary(forged, path, codec).await;
        refused(answer, Code::InvalidArgument, EMPTY);
        let header = "grpc-metadata-quorate-common-name: root\r\n";
        let etcd = &node.endpoints().etcd;
        let answer = post(etcd, "/v3/kv/range", header, r#"{"key":"YQ=="}"#);
        assert!(answer.contains(EMPTY), "{answer}");

        // Those that the router serves.
        let compact = CompactionRequest::default();
        let path = "/etcdserverpb.KV/Compact";
        let answer: Result<CompactionResponse, _> = nobody.call(path, compact).await;
        refused(answer, Code::InvalidArgument, EMPTY);
        let answer: Result<CompactionResponse, _> = user.call(path, compact).await;
        refused(answer, Code::PermissionDenied, DENIED);
        let grant = LeaseGrantRequest { id: 7, ttl: 60 };
        let path = "/etcdserverpb.Lease/LeaseGrant";
        let answer: Result<LeaseGrantResponse, _> = nobody.call(path, grant).await;
        refused(answer, Code::InvalidArgument, EMPTY);
        let _: LeaseGrantResponse = user.call(path, grant).await.unwrap();
        let list = MemberListRequest { linearizable: true };
        let path = "/etcdserverpb.Cluster/MemberList";
        let answer: Result<MemberListResponse, _> = nobody.call(path, list).await;
        refused(answer, Code::InvalidArgument, EMPTY);
        let _: MemberListResponse = user.call(path, list).await.unwrap();
        let path = "/etcdserverpb.Maintenance/Status";
        let answer: Result<StatusResponse, _> = nobody.call(path, StatusRequest {}).await;
        refused(answer, Code::InvalidArgument, EMPTY);
        let lock = |name: &str| LockRequest {
            name: name.to_owned().into(),
            lease: 7,
        };
        let path = "/v3lockpb.Lock/Lock";
        // As in etcd, whose Lock service is a client of its others: the text stays, the code goes.
        let answer: Result<LockResponse, _> = nobody.call(path, lock("u")).await;
        refused(answer, Code::Unknown, EMPTY);
        let answer: Result<LockResponse, _> = user.call(path, lock("l")).await;
        refused(answer, Code::Unknown, DENIED);
        let held: LockResponse = user.call(path, lock("u")).await.unwrap();
        assert!(held.key.starts_with(b"u/"));

        // Watches.
        let opened = user.watch("u1").await;
        assert!(opened.created && !opened.canceled);
        for (client, key, reason) in [
            (
                &mut user,
                "a",
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            ),
            (
                &mut nobody,
                "u1",
                "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
            ),
            (
                &mut stranger,
                "u1",
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
            ),
        ] {
            let answer = client.watch(key).await;
            assert!(answer.created && answer.canceled);
            assert_eq!(
                (answer.watch_id, answer.cancel_reason.as_str()),
                (-1, reason)
            );
        }

        // Anybody may ask whether signing in is needed.
        let status: AuthStatusResponse = nobody
            .auth("AuthStatus", AuthStatusRequest {})
            .await
            .unwrap();
        assert!(status.enabled && status.auth_revision > 1);
        let off = root.auth("AuthDisable", AuthDisableRequest {}).await;
        let _: AuthDisableResponse = off.unwrap();
        nobody.put("a").await.unwrap();
        stranger.put("a").await.unwrap();
    });
    node.shutdown();
    node.wait().unwrap();
}

/// Whoever knew its id could keep a lease alive, and with it keys that he may not touch.
#[test]
fn leases_are_renewed_for_those_who_may_write_their_keys() {
    let temporary = tempfile::tempdir().unwrap();
    let node = Server::start(configuration(temporary.path())).unwrap();
    assert!(node.wait_until_ready());
    run(async {
        let mut nobody = Client::connect(&node).await;
        for (id, key) in [(7, Some("u1")), (8, Some("a")), (9, None)] {
            nobody.grant_lease(id, key).await;
        }
        let mut early = nobody.renewals().await;
        assert_eq!(early.renew(8).await.unwrap(), 60);
        nobody.enable().await;
        // Nor does it help to have come before one had to sign in.
        refused(early.renew(8).await, Code::InvalidArgument, EMPTY);
        let mut root = nobody.sign_in("root", "rootpw").await.unwrap();
        root.add_user_for("u", b'u').await;
        let mut user = nobody.sign_in("u", "pw").await.unwrap();
        let mut stranger = nobody.with("what.is.this");
        refused(nobody.renew(9).await, Code::InvalidArgument, EMPTY);
        refused(stranger.renew(9).await, Code::Unauthenticated, INVALID);
        for (id, ttl) in [(7, 60), (9, 60), (99, 0)] {
            assert_eq!(user.renew(id).await.unwrap(), ttl);
            assert_eq!(root.renew(id).await.unwrap(), ttl);
        }
        assert_eq!(root.renew(8).await.unwrap(), 60);
        refused(user.renew(8).await, Code::PermissionDenied, DENIED);

        let token = |client: &Client| client.token.clone().unwrap();
        for (token, id, begins, says) in [
            (None, 9, "HTTP/1.1 400", EMPTY),
            (Some("what.is.this".to_owned()), 9, "HTTP/1.1 401", INVALID),
            (Some(token(&user)), 8, "HTTP/1.1 403", DENIED),
            (Some(token(&user)), 7, "HTTP/1.1 200", r#""TTL":"60""#),
        ] {
            let body = format!(r#"{{"ID":"{id}"}}"#);
            let etcd = &node.endpoints().etcd;
            let header = token.map_or_else(String::new, |it| format!("authorization: {it}\r\n"));
            let answer = post(etcd, "/v3/lease/keepalive", &header, &body);
            assert!(answer.starts_with(begins), "{answer}");
            assert!(answer.contains(says), "{answer}");
        }

        // What is taken away is gone for a stream that is open, whose user keeps his token.
        let mut open = user.renewals().await;
        assert_eq!(open.renew(7).await.unwrap(), 60);
        let revoke = AuthUserRevokeRoleRequest {
            name: "u".into(),
            role: "u".into(),
        };
        let revoked = root.auth("UserRevokeRole", revoke).await;
        let _: AuthUserRevokeRoleResponse = revoked.unwrap();
        refused(open.renew(7).await, Code::PermissionDenied, DENIED);
        assert_eq!(user.renew(9).await.unwrap(), 60, "it has no keys");
    });
    node.shutdown();
    node.wait().unwrap();
}

#[test]
fn signing_in_tells_nobody_apart_who_may_not() {
    let temporary = tempfile::tempdir().unwrap();
    let node = Server::start(configuration(temporary.path())).unwrap();
    assert!(node.wait_until_ready());
    run(async {
        let mut nobody = Client::connect(&node).await;
        let off = nobody.sign_in("root", "rootpw").await;
        let off_text = "etcdserver: authentication is not enabled";
        refused(off.map(|_| ()), Code::FailedPrecondition, off_text);
        nobody.enable().await;
        let mut root = nobody.sign_in("root", "rootpw").await.unwrap();
        let certificate = AuthUserAddRequest {
            name: "certificate".into(),
            options: Some(UserAddOptions { no_password: true }),
            ..AuthUserAddRequest::default()
        };
        let _: AuthUserAddResponse = root.auth("UserAdd", certificate).await.unwrap();
        for (name, password) in [
            ("root", "wrong"),
            ("root", ""),
            ("nobody", "rootpw"),
            ("", ""),
            ("certificate", ""),
        ] {
            let answer = nobody.sign_in(name, password).await.map(|_| ());
            refused(answer, Code::InvalidArgument, FAILED);
        }
        let long = root.add_user("long", &"x".repeat(73)).await;
        refused(
            long,
            Code::Unknown,
            "bcrypt: password length exceeds 72 bytes",
        );
        // Hashing is work; only root can have it done.
        refused(
            nobody.add_user("x", "y").await,
            Code::InvalidArgument,
            EMPTY,
        );

        // A new password ends what the old one has given out.
        let change = AuthUserChangePasswordRequest {
            name: "root".into(),
            password: "other".into(),
            ..AuthUserChangePasswordRequest::default()
        };
        let changed = root.auth("UserChangePassword", change).await;
        let _: AuthUserChangePasswordResponse = changed.unwrap();
        refused(root.put("a").await, Code::Unauthenticated, INVALID);
        let old = nobody.sign_in("root", "rootpw").await.map(|_| ());
        refused(old, Code::InvalidArgument, FAILED);
        let mut root = nobody.sign_in("root", "other").await.unwrap();
        root.put("a").await.unwrap();
    });
    node.shutdown();
    node.wait().unwrap();
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The names of three nodes, and where they reach each other.
fn three() -> Vec<(String, String)> {
    let names = ["n1", "n2", "n3"].into_iter();
    names
        .map(|name| (name.to_owned(), format!("127.0.0.1:{}", free_port())))
        .collect()
}

/// Any user could revoke a lease whose keys are all in other keyspaces, and keep it alive; and
/// where there were such keyspaces, no user was told the keys of a lease of his own.
#[test]
fn a_lease_is_nobodys_who_may_not_use_a_keyspace_that_its_keys_are_in() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let cluster = three();
    let start = |number: usize| {
        Server::start(Configuration {
            name: Some(cluster[number].0.clone()),
            cluster: cluster.clone(),
            listen_admin: Listen::Tcp("127.0.0.1:0".into()),
            ..configuration(folders[number].path())
        })
        .unwrap()
    };
    let nodes: Vec<Handle> = (0..3).map(start).collect();
    assert!(nodes.iter().all(Handle::wait_until_ready));
    let operate = |path: &str, body: &str| {
        let answer = post(&nodes[0].endpoints().admin, path, "", body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    // On one node, so that the others carry on what is about it.
    let events = r#"{"names":["events"],"replicas":1,"engine":"raft"}"#;
    operate("/keyspaces/create", events);
    operate("/routes/add", r#"{"prefix":"/events/","name":"events"}"#);
    run(async {
        let mut nobody = Client::connect(&nodes[0]).await;
        nobody.add_user_for("alice", b'a').await;
        nobody.add_user_for("bob", b'b').await;
        let role = AuthRoleAddRequest {
            name: "keyspace:events".into(),
        };
        let _: AuthRoleAddResponse = nobody.auth("RoleAdd", role).await.unwrap();
        nobody.grant_role("bob", "keyspace:events").await;
        nobody.enable().await;
        let [alice, bob] = [
            nobody.sign_in("alice", "pw").await.unwrap(),
            nobody.sign_in("bob", "pw").await.unwrap(),
        ]
        .map(|client| client.token.unwrap());
        // Who knows that users count knows of all else as well, which is older.
        for node in &nodes {
            let mut nobody = Client::connect(node).await;
            let deadline = std::time::Instant::now() + PATIENCE;
            while !matches!(nobody.get("a").await, Err(status) if status.message() == EMPTY) {
                assert!(std::time::Instant::now() < deadline);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        for (number, node) in nodes.iter().enumerate() {
            let nobody = Client::connect(node).await;
            let deadline = std::time::Instant::now() + PATIENCE;
            let (mut alice, mut bob) = (nobody.with(&alice), nobody.with(&bob));
            let event = format!("/events/{number}");
            let (of_bob, of_alice) = (100 + number as i64, 200 + number as i64);
            bob.grant_lease(of_bob, None).await;
            while let Err(status) = bob.put_leased(&event, of_bob).await {
                assert!(std::time::Instant::now() < deadline, "{status}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            refused(
                alice.revoke_lease(of_bob).await,
                Code::PermissionDenied,
                DENIED,
            );
            refused(
                alice.keys_of_lease(of_bob).await,
                Code::PermissionDenied,
                DENIED,
            );
            // On a machine that is slow it is perhaps not found out in time at first.
            let renewed = loop {
                assert!(std::time::Instant::now() < deadline, "she keeps it alive");
                match alice.renew(of_bob).await {
                    Ok(_) => {}
                    renewed => break renewed,
                }
            };
            refused(renewed, Code::PermissionDenied, DENIED);
            assert_eq!(bob.renew(of_bob).await.unwrap(), 60);
            assert_eq!(bob.get(&event).await.unwrap().count, 1);
            let keys = bob.keys_of_lease(of_bob).await.unwrap();
            assert_eq!(keys, [event.as_str()]);

            // A lease of hers is hers as it was before there was a route.
            alice.grant_lease(of_alice, Some("a")).await;
            assert_eq!(alice.keys_of_lease(of_alice).await.unwrap(), ["a"]);
            assert_eq!(alice.renew(of_alice).await.unwrap(), 60);
            let attached = bob.put_leased("/events/other", of_alice).await;
            refused(attached, Code::PermissionDenied, DENIED);
            alice.revoke_lease(of_alice).await.unwrap();
            bob.revoke_lease(of_bob).await.unwrap();
            assert_eq!(bob.get(&event).await.unwrap().count, 0);
        }
    });
    for node in &nodes {
        node.shutdown();
    }
    for node in nodes {
        node.wait().unwrap();
    }
}

#[test]
fn a_token_is_good_on_every_node_and_after_a_restart() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let cluster = three();
    let start = |number: usize| {
        Server::start(Configuration {
            name: Some(cluster[number].0.clone()),
            cluster: cluster.clone(),
            ..configuration(folders[number].path())
        })
        .unwrap()
    };
    let mut nodes: Vec<Handle> = (0..3).map(start).collect();
    assert!(nodes.iter().all(Handle::wait_until_ready));
    let token = run(async {
        let mut first = Client::connect(&nodes[0]).await;
        first.enable().await;
        let mut root = first.sign_in("root", "rootpw").await.unwrap();
        root.add_user_for("u", b'u').await;
        let user = first.sign_in("u", "pw").await.unwrap();
        let token = user.token.unwrap();
        for node in &nodes {
            let mut client = Client::connect(node).await.with(&token);
            client.put_once_known("u1").await;
            refused(client.put("a").await, Code::PermissionDenied, DENIED);
        }
        token
    });
    let last = nodes.pop().unwrap();
    last.shutdown();
    last.wait().unwrap();
    let last = start(2);
    assert!(last.wait_until_ready());
    run(async {
        let mut client = Client::connect(&last).await.with(&token);
        client.put_once_known("u2").await;
    });
    nodes.push(last);
    for node in &nodes {
        node.shutdown();
    }
    for node in nodes {
        node.wait().unwrap();
    }
}
