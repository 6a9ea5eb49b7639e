//! TLS: who is let in, who is not, and what happens to connections that never come to an end of
//! their handshake.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use etcd::proto::etcdserverpb::{AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest};

use super::*;
use crate::tls::TlsSettings;
use crate::tls::authority::{Authority, Issued, Wish};

const DAY: Duration = Duration::from_secs(86_400);

/// An authority, a folder for what it makes, and a server that has a certificate of it.
struct Secured {
    authority: Authority,
    own: Issued,
    folder: tempfile::TempDir,
}

impl Secured {
    fn new() -> Secured {
        let (authority, own) = Authority::new("test", DAY).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let secured = Secured {
            authority,
            own,
            folder,
        };
        secured.write("ca.pem", &secured.own.certificate);
        let node = secured.issue("node", &["127.0.0.1".to_owned()]);
        secured.write("cert.pem", &node.certificate);
        secured.write("key.pem", &node.key);
        secured
    }

    fn issue(&self, name: &str, hosts: &[String]) -> Issued {
        let wish = Wish {
            name,
            hosts,
            validity: DAY,
        };
        self.authority.issue(&wish).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaced at once, as a tool that renews certificates does.
    fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn settings(&self, asks: bool) -> TlsSettings {
        TlsSettings {
            cert_file: Some(self.path("cert.pem")),
            key_file: Some(self.path("key.pem")),
            trusted_ca_file: asks.then(|| self.path("ca.pem")),
            client_cert_auth: asks,
            ..TlsSettings::default()
        }
    }

    /// A client that trusts the authority and shows `shown`.
    fn client(&self, shown: Option<&Issued>, protocol: &[u8]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.own.certificate.as_bytes());
        roots.add(authority.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut client = match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let chain = CertificateDer::from_pem_slice(shown.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes());
                builder
                    .with_client_auth_cert(vec![chain.unwrap()], key.unwrap())
                    .unwrap()
            }
        };
        client.alpn_protocols = vec![protocol.to_vec()];
        client
    }
}

async fn connect(port: &str, config: ClientConfig) -> std::io::Result<TlsStream<TcpSocket>> {
    let stream = TcpSocket::connect(port).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await
}

impl Bench {
    async fn secured(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpSocket>> {
        connect(&self.etcd(), config).await
    }

    /// The answer to a request of HTTP/1, or why there is none.
    fn secured_http(&self, config: ClientConfig, request: &str) -> std::io::Result<String> {
        self.client.block_on(async {
            let mut stream = self.secured(config).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            match stream.read_to_string(&mut answer).await {
                Err(error) if answer.is_empty() => Err(error),
                _ => Ok(answer),
            }
        })
    }

    /// A put on the hot path.
    fn secured_put(&self, config: ClientConfig) -> Result<(), Box<dyn std::error::Error>> {
        let message = put("k", vec![7; 300_000]);
        let status = self.client.block_on(async {
            let stream = self.secured(config).await?;
            call_over(stream, PUT, "", &message).await
        });
        assert_eq!(status?, "0");
        Ok(())
    }
}

/// The status of a call of gRPC, with a token if that is not empty.
async fn call_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
    token: &str,
    message: &impl prost::Message,
) -> Result<String, Box<dyn std::error::Error>> {
    let (mut requests, connection) = h2::client::handshake(stream).await?;
    let driving = tokio::spawn(connection);
    let mut request = ::http::Request::post(format!("https://x{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if !token.is_empty() {
        request = request.header("token", token);
    }
    let (response, mut send) = requests.send_request(request.body(())?, false)?;
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
    framed.extend_from_slice(&message);
    send.send_data(framed.into(), true)?;
    let (head, mut body) = response.await?.into_parts();
    while let Some(bytes) = body.data().await {
        let _ = bytes?;
    }
    let trailers = body.trailers().await?.unwrap_or(head.headers);
    driving.abort();
    let status = trailers.get("grpc-status").expect("each call has one");
    Ok(status.to_str()?.to_owned())
}

type TcpSocket = tokio::net::TcpStream;

const H1: &[u8] = b"http/1.1";
const H2: &[u8] = b"h2";

#[test]
fn both_protocols_are_served_over_tls_and_plain_ones_are_not() {
    let secured = Secured::new();
    let bench = Bench::start(|configuration| configuration.client_tls = secured.settings(false));
    let version = bench.secured_http(secured.client(None, H1), &get("/version"));
    assert!(version.unwrap().contains("3.7.1"));
    bench.secured_put(secured.client(None, H2)).unwrap();
    let json = post("/v3/kv/range", "", r#"{"key":"aw=="}"#);
    let found = bench.secured_http(secured.client(None, H1), &json).unwrap();
    assert!(found.contains(r#""kvs":[{"#), "{found}");
    // An ALPN of nobody, and plain HTTP.
    assert!(bench.secured_http(secured.client(None, b"h9"), "").is_err());
    let port = &bench.handle.endpoints().etcd;
    let mut stream = TcpStream::connect(port.to_string()).unwrap();
    let plain = std::io::Write::write_all(&mut stream, get("/version").as_bytes());
    let mut answer = Vec::new();
    let _ = plain.and_then(|()| std::io::Read::read_to_end(&mut stream, &mut answer));
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"));
}

#[test]
fn a_unix_socket_is_encrypted_only_where_that_is_asked_for() {
    let secured = Secured::new();
    let (encrypted, plain) = (secured.path("unixs"), secured.path("unix"));
    let bench = Bench::start(|configuration| {
        configuration.client_tls = secured.settings(false);
        configuration.listen_etcd_also = vec![
            Listen::SecuredUnix(encrypted.clone()),
            Listen::Unix(plain.clone()),
        ];
    });
    let message = put("k", vec![7; 300_000]);
    let config = Arc::new(secured.client(None, H2));
    let connect = async |path: &PathBuf| {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = TlsConnector::from(Arc::clone(&config));
        let stream = UnixStream::connect(path).await?;
        connector.connect(name, stream).await
    };
    bench.client.block_on(async {
        let stream = connect(&encrypted).await.unwrap();
        let status = call_over(stream, PUT, "", &message).await;
        assert_eq!(status.unwrap(), "0");
        let stream = UnixStream::connect(&plain).await.unwrap();
        let status = call_over(stream, PUT, "", &message).await;
        assert_eq!(status.unwrap(), "0");
        // Each speaks what it is for, and nothing else.
        let stream = UnixStream::connect(&encrypted).await.unwrap();
        assert!(call_over(stream, PUT, "", &message).await.is_err());
        assert!(connect(&plain).await.is_err());
    });
    drop(bench);
    assert!(!encrypted.exists() && !plain.exists());
}

#[test]
fn who_has_no_good_certificate_is_not_let_in() {
    let secured = Secured::new();
    let bench = Bench::start(|configuration| configuration.client_tls = secured.settings(true));
    let alice = secured.issue("alice", &[]);
    let with =
        |shown: Option<&Issued>| bench.secured_http(secured.client(shown, H1), &get("/version"));
    assert!(with(Some(&alice)).unwrap().contains("3.7.1"));
    assert!(with(None).is_err());
    let stranger = Secured::new().issue("alice", &[]);
    assert!(with(Some(&stranger)).is_err());
    bench.secured_put(secured.client(Some(&alice), H2)).unwrap();
}

#[test]
fn a_certificate_is_a_user_only_where_certificates_are_asked_for_by_name() {
    let secured = Secured::new();
    let root = secured.issue("root", &[]);
    let runtime = Runtime::new().unwrap();
    for is_asked_for in [false, true] {
        let mut configuration = configuration(&secured.path(&format!("data-{is_asked_for}")));
        configuration.bcrypt_cost = 4;
        configuration.client_tls = secured.settings(true);
        configuration.client_tls.client_cert_auth = is_asked_for;
        let handle = Server::start(configuration).unwrap();
        assert!(handle.wait_until_ready());
        let port = handle.endpoints().etcd.to_string();
        runtime.block_on(async {
            let connect = || async {
                let client = secured.client(Some(&root), H2);
                connect(&port, client).await.unwrap()
            };
            let add = AuthUserAddRequest {
                name: "root".into(),
                password: "rootpw".into(),
                ..AuthUserAddRequest::default()
            };
            let grant = AuthUserGrantRoleRequest {
                user: "root".into(),
                role: "root".into(),
            };
            let auth = |method: &str| format!("/etcdserverpb.Auth/{method}");
            let status = call_over(connect().await, &auth("UserAdd"), "", &add).await;
            assert_eq!(status.unwrap(), "0");
            let status = call_over(connect().await, &auth("UserGrantRole"), "", &grant).await;
            assert_eq!(status.unwrap(), "0");
            let enable = AuthEnableRequest {};
            let status = call_over(connect().await, &auth("AuthEnable"), "", &enable).await;
            assert_eq!(status.unwrap(), "0");
            // From when tokens are looked at, so are certificates.
            let one = put("k", "v");
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while call_over(connect().await, PUT, "bad", &one).await.unwrap() != "16" {
                assert!(std::time::Instant::now() < deadline, "bad tokens are good");
            }
            // Served by a worker, and by the router.
            let expected = if is_asked_for { "0" } else { "3" };
            let status = call_over(connect().await, PUT, "", &one).await;
            assert_eq!(status.unwrap(), expected, "{is_asked_for}");
            let path = "/etcdserverpb.Cluster/MemberList";
            let list = MemberListRequest { linearizable: true };
            let status = call_over(connect().await, path, "", &list).await;
            assert_eq!(status.unwrap(), expected, "{is_asked_for}");
        });
    }
}

#[test]
fn certificates_and_revocations_are_taken_up_without_a_restart() {
    let secured = Secured::new();
    let alice = secured.issue("alice", &[]);
    let bob = secured.issue("bob", &[]);
    let list = secured.authority.revoke(None, &[], DAY).unwrap();
    secured.write("revoked.pem", &list);
    let mut limits = Limits::default();
    limits.tls.refresh_interval = Duration::from_millis(5);
    let bench = Bench::start_within(limits, |configuration| {
        configuration.client_tls = secured.settings(true);
        configuration.client_tls.crl_file = Some(secured.path("revoked.pem"));
    });
    let is_let_in = |shown: &Issued| {
        let answer = bench.secured_http(secured.client(Some(shown), H1), &get("/version"));
        answer.is_ok_and(|answer| answer.contains("3.7.1"))
    };
    assert!(is_let_in(&alice) && is_let_in(&bob));
    // Damaged files change nothing.
    secured.write("cert.pem", "nonsense");
    std::thread::sleep(Duration::from_millis(50));
    assert!(is_let_in(&alice));
    let node = secured.issue("node", &["127.0.0.1".to_owned()]);
    secured.write("cert.pem", &node.certificate);
    secured.write("key.pem", &node.key);
    let certificates = [alice.certificate.clone()];
    let list = secured.authority.revoke(Some(&list), &certificates, DAY);
    secured.write("revoked.pem", &list.unwrap());
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while is_let_in(&alice) {
        assert!(
            std::time::Instant::now() < deadline,
            "alice is still let in"
        );
    }
    assert!(is_let_in(&bob));
}

#[test]
fn a_handshake_that_does_not_go_on_ends_and_its_place_is_free_again() {
    let secured = Secured::new();
    let mut limits = Limits::default();
    limits.clients.header_timeout = Duration::from_millis(100);
    let bench = Bench::start_within(limits, |configuration| {
        configuration.client_tls = secured.settings(false);
        configuration.max_connections = 4;
    });
    let port = bench.handle.endpoints().etcd.to_string();
    let mut silent: Vec<TcpStream> = Vec::new();
    for number in 0..12 {
        let mut stream = TcpStream::connect(&port).unwrap();
        // Nothing, half a record, or something else.
        let begun: [&[u8]; 3] = [b"", &[22, 3, 1, 2, 0, 1], b"GET / HTTP/1.1\r\n\r\n"];
        let _ = std::io::Write::write_all(&mut stream, begun[number % 3]);
        silent.push(stream);
    }
    let version = bench.secured_http(secured.client(None, H1), &get("/version"));
    assert!(version.unwrap().contains("3.7.1"));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    for reason in ["silent", "insecure"] {
        let counted = format!("connections_closed_total{{reason=\"{reason}\"}}");
        let metrics = || bench.http(&bench.handle.endpoints().admin, &get("/metrics"));
        while !metrics().contains(&counted) {
            assert!(std::time::Instant::now() < deadline, "none is {reason}");
        }
    }
}

#[test]
fn a_certificate_of_its_own_making_encrypts() {
    let secured = Secured::new();
    let bench = Bench::start(|configuration| configuration.client_tls.auto = true);
    // Nobody can verify it.
    let refused = bench.secured_http(secured.client(None, H1), &get("/version"));
    assert!(refused.unwrap_err().to_string().contains("certificate"));
}

#[test]
fn files_that_cannot_be_used_stop_the_start_and_are_named() {
    let secured = Secured::new();
    let start = |change: &dyn Fn(&mut TlsSettings)| {
        let mut configuration = configuration(&secured.path("data"));
        configuration.client_tls = secured.settings(true);
        change(&mut configuration.client_tls);
        let error = start_hosting(configuration, Simple::make).unwrap_err();
        error.to_string()
    };
    secured.write("empty.pem", "");
    let other = secured.issue("other", &[]);
    secured.write("other.pem", &other.key);
    let said = start(&|tls| tls.cert_file = Some(secured.path("missing.pem")));
    assert!(said.contains("missing.pem: cannot be read"), "{said}");
    let said = start(&|tls| tls.cert_file = Some(secured.path("empty.pem")));
    assert!(said.contains("empty.pem: holds no certificate"), "{said}");
    let said = start(&|tls| tls.key_file = Some(secured.path("other.pem")));
    assert!(said.contains("certificate"), "{said}");
    let said = start(&|tls| tls.key_file = None);
    assert!(said.contains("key-file"), "{said}");
    let said = start(&|tls| tls.trusted_ca_file = None);
    assert!(said.contains("client-cert-auth"), "{said}");
    assert!(!secured.path("data").exists(), "nothing was begun");
}
