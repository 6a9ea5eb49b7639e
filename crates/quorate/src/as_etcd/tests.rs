//! What etcd's users have, and what becomes of it.

use server::configuration::{Listen, Place};

use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn prepared(
    line: &str,
    variables: &[(&str, &str)],
) -> Result<(Configuration, Vec<String>), String> {
    prepared_at(None, line, variables)
}

/// The same on a machine with this address on its default route.
fn prepared_at(
    host: Option<&str>,
    line: &str,
    variables: &[(&str, &str)],
) -> Result<(Configuration, Vec<String>), String> {
    let host = host.map(|host| host.parse().unwrap());
    let variables: Vec<(String, String)> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    match prepare(&words(line), &variables, &|| host)? {
        Prepared::Run(configuration, warnings) => Ok((*configuration, warnings)),
        Prepared::Say(text) => Err(text),
    }
}

#[test]
fn without_flags_it_is_etcds_default() {
    let (configuration, warnings) = prepared("", &[]).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(configuration.name.as_deref(), Some("default"));
    assert_eq!(configuration.data_dir, Path::new("default.etcd"));
    assert_eq!(
        configuration.listen_etcd,
        Listen::Tcp("localhost:2379".into())
    );
    assert_eq!(configuration.advertise_etcd, ["http://localhost:2379"]);
    let own = ("default".to_owned(), "localhost:2380".to_owned());
    assert_eq!(configuration.cluster, [own]);
    assert_eq!(configuration.listen_admin, Listen::None);
    assert_eq!(configuration.election_timeout.as_millis(), 1000);
}

#[test]
fn a_manifest_of_kubeadm_is_followed() {
    let (configuration, warnings) = prepared(
        "--advertise-client-urls=https://10.0.0.1:2379 --cert-file=/pki/server.crt \
         --client-cert-auth=true --data-dir=/var/lib/etcd \
         --experimental-initial-corrupt-check=true \
         --experimental-watch-progress-notify-interval=5s \
         --initial-advertise-peer-urls=https://10.0.0.1:2380 \
         --initial-cluster=cp=https://10.0.0.1:2380 --key-file=/pki/server.key \
         --listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379 \
         --listen-metrics-urls=http://127.0.0.1:2381 --listen-peer-urls=https://10.0.0.1:2380 \
         --name=cp --peer-cert-file=/pki/peer.crt --peer-client-cert-auth=true \
         --peer-key-file=/pki/peer.key --peer-trusted-ca-file=/pki/ca.crt \
         --snapshot-count=10000 --trusted-ca-file=/pki/ca.crt",
        &[],
    )
    .unwrap();
    assert_eq!(
        configuration.listen_etcd,
        Listen::Tcp("127.0.0.1:2379".into())
    );
    let also = [Listen::Tcp("10.0.0.1:2379".into())];
    assert_eq!(configuration.listen_etcd_also, also);
    let metrics = [Listen::Tcp("127.0.0.1:2381".into())];
    assert_eq!(configuration.listen_metrics, metrics);
    assert!(configuration.client_tls.asks_for_certificates());
    assert!(configuration.peer_tls.asks_for_certificates());
    assert_eq!(configuration.watch_progress_interval.as_secs(), 5);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("initial-corrupt-check"),
        "{warnings:?}"
    );
}

/// Clients and peers elsewhere were once told `localhost`, as if each were the node itself.
#[test]
fn what_is_advertised_is_said_or_the_machines_own_address() {
    let refusal = "--advertise-client-urls is required when --listen-client-urls is set explicitly";
    let url = "http://0.0.0.0:5";
    let said = prepared(&format!("--listen-client-urls {url}"), &[]);
    assert_eq!(said.unwrap_err(), refusal);
    let said = prepared("", &[("ETCD_LISTEN_CLIENT_URLS", url)]);
    assert_eq!(said.unwrap_err(), refusal);

    let default = "http://localhost:2379";
    let clients = format!("--listen-client-urls {url} --advertise-client-urls {default}");
    let line = format!("--name n1 --listen-peer-urls http://0.0.0.0:6 {clients}");
    let peer = |address: &str| [("n1".to_owned(), address.to_owned())];
    for (host, client, address) in [
        ("10.0.0.7", "http://10.0.0.7:5", "10.0.0.7:6"),
        ("2001:db8::7", "http://[2001:db8::7]:5", "[2001:db8::7]:6"),
    ] {
        let (configuration, warnings) = prepared_at(Some(host), &line, &[]).unwrap();
        assert_eq!(configuration.advertise_etcd, [client]);
        assert_eq!(configuration.cluster, peer(address));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }
    let (configuration, warnings) = prepared(&line, &[]).unwrap();
    assert_eq!(configuration.advertise_etcd, [default]);
    assert_eq!(configuration.cluster, peer("localhost:2380"));
    assert!(warnings[0].contains("no default route"), "{warnings:?}");
    // Whoever says something is believed.
    let line = format!("{line} --initial-advertise-peer-urls http://127.0.0.1:2380");
    let (configuration, _) = prepared_at(Some("10.0.0.7"), &line, &[]).unwrap();
    assert_eq!(configuration.cluster, peer("127.0.0.1:2380"));
}

#[test]
fn a_file_need_not_say_what_is_advertised() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("etcd.yaml");
    std::fs::write(&file, "listen-client-urls: http://0.0.0.0:5").unwrap();
    let line = format!("--config-file {}", file.display());
    let (configuration, _) = prepared_at(Some("10.0.0.7"), &line, &[]).unwrap();
    assert_eq!(configuration.advertise_etcd, ["http://10.0.0.7:5"]);
}

/// The quick start in etcd's own documentation.
#[test]
fn a_container_that_listens_everywhere_says_so_of_its_one_member() {
    let line = "--name s1 --data-dir /etcd-data --listen-client-urls http://0.0.0.0:2379 \
                --advertise-client-urls http://0.0.0.0:2379 \
                --listen-peer-urls http://0.0.0.0:2380 \
                --initial-advertise-peer-urls http://0.0.0.0:2380 \
                --initial-cluster s1=http://0.0.0.0:2380 --initial-cluster-token tkn \
                --initial-cluster-state new --log-level info --logger zap --log-outputs stderr";
    let (configuration, _) = prepared(line, &[]).unwrap();
    let own = ("s1".to_owned(), "0.0.0.0:2380".to_owned());
    assert_eq!(configuration.cluster, [own]);
    let hints = configuration.hints();
    let hint = "no other member will reach this node";
    assert!(hints.iter().any(|said| said.contains(hint)), "{hints:?}");
    // Among others it would be a mistake.
    let two = line.replace(
        "s1=http://0.0.0.0:2380",
        "s1=http://0.0.0.0:2380,s2=http://h:1",
    );
    let error = prepared(&two, &[]).unwrap_err();
    assert!(error.starts_with("--initial-cluster: 0.0.0.0"), "{error}");
}

#[test]
fn a_member_that_is_added_joins() {
    let line = "--name n4 --initial-cluster n1=http://a:1,n4=http://d:4 \
                --initial-cluster-state existing --initial-advertise-peer-urls http://d:4 \
                --listen-peer-urls http://0.0.0.0:4";
    let (configuration, _) = prepared(line, &[]).unwrap();
    assert_eq!(configuration.join, ["a:1"]);
    assert_eq!(configuration.advertise_peer.as_deref(), Some("d:4"));
    assert!(configuration.cluster.is_empty());
}

/// A data folder with the identity file of a node called `n1`.
fn folder_of(identity: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("identity.toml"), identity).unwrap();
    folder
}

/// Flags of a node that has data once said where its peers reach it: a rolling restart without
/// `--initial-…` made `localhost:2380` of all addresses, and the nodes never met again.
#[test]
fn a_member_takes_no_address_from_the_flags() {
    let member = folder_of(include_str!("testdata/member.toml"));
    let data = format!("--name n1 --data-dir {}", member.path().display());
    for flags in [
        "",
        "--initial-advertise-peer-urls http://x:1",
        "--initial-cluster n1=http://x:1 --initial-advertise-peer-urls http://x:1",
        "--initial-cluster n1=http://x:1 --initial-advertise-peer-urls http://y:1",
        "--initial-cluster n2=http://x:1,n3=http://z:1",
        "--initial-cluster n1=http://x:1,n2=http://z:1 --initial-cluster-state existing",
        "--initial-cluster-state existing",
        "--listen-peer-urls http://0.0.0.0:2380",
    ] {
        let (configuration, warnings) = prepared(&format!("{data} {flags}"), &[]).unwrap();
        assert_eq!(configuration.place, Place::Logged, "{flags}");
        assert_eq!(configuration.advertised_peer(None), None, "{flags}");
        assert!(configuration.cluster.is_empty(), "{flags}");
        assert!(configuration.join.is_empty(), "{flags}");
        assert_eq!(warnings, [""; 0], "{flags}");
    }
    // They were compared with one voter, which the flags name at most.
    let quorums = [("QUORATE_QUORUMS", "elect=2,commit=2")];
    let (configuration, _) = prepared(&data, &quorums).unwrap();
    assert!(configuration.quorums.is_some());
    // What cannot be read is refused all the same, as by etcd.
    for flags in [
        "--initial-cluster-state old",
        "--initial-advertise-peer-urls x:1",
    ] {
        prepared(&format!("{data} {flags}"), &[]).unwrap_err();
    }
}

#[test]
fn a_node_that_is_no_member_yet_takes_its_address_from_the_flags() {
    let forming = folder_of(include_str!("testdata/forming.toml"));
    let damaged = folder_of("damaged");
    let empty = tempfile::tempdir().unwrap();
    for folder in [forming.path(), damaged.path(), empty.path()] {
        let data = format!("--name n1 --data-dir {}", folder.display());
        let (configuration, _) = prepared(&data, &[]).unwrap();
        assert_eq!(configuration.place, Place::AsEtcd);
        let own = ("n1".to_owned(), "localhost:2380".to_owned());
        assert_eq!(configuration.cluster, [own]);
        prepared(&format!("{data} --initial-cluster n2=http://x:1"), &[]).unwrap_err();
    }
}

#[test]
fn flags_win_over_variables_and_a_file_over_both() {
    let variables = [
        ("ETCD_NAME", "v"),
        ("ETCD_LOG_LEVEL", "warn"),
        ("ETCD_PORT", "x"),
    ];
    let line = "-name f --initial-cluster=f=http://localhost:2380";
    let (configuration, warnings) = prepared(line, &variables).unwrap();
    assert_eq!(configuration.name.as_deref(), Some("f"));
    assert_eq!(
        configuration.log_level,
        server::configuration::LogLevel::Warn
    );
    assert!(warnings[0].contains("ETCD_PORT"), "{warnings:?}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("etcd.yaml");
    let text = "name: y\nelection-timeout: 2000\nwatch-progress-notify-interval: 3000000000\n\
                listen-client-urls: https://127.0.0.1:1\nlog-outputs: [stderr]\nnobody: 1\n\
                client-transport-security:\n  cert-file: c\n  key-file: k\n  auto-tls: false\n";
    std::fs::write(&file, text).unwrap();
    let line = format!("--config-file {} --name f", file.display());
    let (configuration, warnings) = prepared(&line, &variables).unwrap();
    assert_eq!(configuration.name.as_deref(), Some("y"));
    assert_eq!(configuration.election_timeout.as_secs(), 2);
    assert_eq!(configuration.watch_progress_interval.as_secs(), 3);
    assert_eq!(
        configuration.client_tls.cert_file.as_deref(),
        Some(Path::new("c"))
    );
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for bad in [
        "- a",
        "name: {a: b}",
        "client-transport-security: 1",
        "a: b: c",
    ] {
        std::fs::write(&file, bad).unwrap();
        let line = format!("--config-file {}", file.display());
        let error = prepared(&line, &[]).unwrap_err();
        assert!(error.contains("etcd.yaml"), "{error}");
    }
}

/// The nodes of a file that names a discovery service once formed a cluster each.
/// Compose files and charts pass on variables that nobody has set.
#[test]
fn what_has_no_value_says_nothing() {
    let unset = [
        "ETCD_DATA_DIR",
        "ETCD_ELECTION_TIMEOUT",
        "ETCD_INITIAL_CLUSTER_STATE",
        "ETCD_LISTEN_CLIENT_URLS",
        "ETCD_FORCE_NEW_CLUSTER",
        "ETCD_QUOTA_BACKEND_BYTES",
        "ETCD_NOBODY",
    ];
    let (default, _) = prepared("", &[]).unwrap();
    let (configuration, warnings) = prepared("", &unset.map(|name| (name, ""))).unwrap();
    assert_eq!(configuration, default);
    assert_eq!(warnings, [""; 0]);
    let line = "--listen-peer-urls= --initial-advertise-peer-urls=";
    assert_eq!(prepared(line, &[]).unwrap().0, default);
    // Given, it counts as said, and is not looked for elsewhere.
    let line = "--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls=";
    let elsewhere = [("ETCD_ADVERTISE_CLIENT_URLS", "http://x:1")];
    let (configuration, _) = prepared(line, &elsewhere).unwrap();
    assert_eq!(configuration.advertise_etcd, default.advertise_etcd);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("etcd.yaml");
    let text = "listen-peer-urls: ''\nlisten-client-urls: ''\nlisten-client-http-urls: ''\n\
                initial-advertise-peer-urls: ''\nadvertise-client-urls: ''\n\
                listen-metrics-urls: ''\ncors: ''\nhost-whitelist: ''\nfeature-gates: ''\n\
                initial-cluster-state: ''\n";
    std::fs::write(&file, text).unwrap();
    let line = format!("--config-file {}", file.display());
    let (configuration, warnings) = prepared(&line, &[]).unwrap();
    assert_eq!(configuration, default);
    assert_eq!(warnings, [""; 0]);
}

/// More than seven seconds once made the start fail, with the name of a flag that etcd does not
/// have.
#[test]
fn requests_may_take_five_seconds_and_two_elections() {
    for (timeout, expected) in [("1000", 7), ("10000", 25), ("50000", 105)] {
        let line = format!("--election-timeout {timeout}");
        let (configuration, _) = prepared(&line, &[]).unwrap();
        assert_eq!(configuration.request_timeout.as_secs(), expected, "{line}");
    }
    let line = "--election-timeout 10000";
    let own = [("QUORATE_REQUEST_TIMEOUT", "30s")];
    let (configuration, _) = prepared(line, &own).unwrap();
    assert_eq!(configuration.request_timeout.as_secs(), 30);
    let own = [("QUORATE_REQUEST_TIMEOUT", "9s")];
    let error = prepared(line, &own).unwrap_err();
    assert!(
        error.contains("variable QUORATE_REQUEST_TIMEOUT"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quorate.toml");
    let text = "request-timeout = \"40s\"\nlisten-admin = \"127.0.0.1:1\"\n";
    std::fs::write(&file, text).unwrap();
    let own = [("QUORATE_CONFIG", file.to_str().unwrap())];
    let (configuration, _) = prepared(line, &own).unwrap();
    assert_eq!(configuration.request_timeout.as_secs(), 40);
    assert_eq!(
        configuration.listen_admin,
        Listen::Tcp("127.0.0.1:1".into())
    );
}

#[test]
fn switches_in_a_file_are_those_of_yaml() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("etcd.yaml");
    let line = format!("--config-file {}", file.display());
    for (text, is_strict) in [("yes", true), ("On", true), ("n", false), ("OFF", false)] {
        let text = format!("enable-pprof: {text}\nstrict-reconfig-check: {text}\n");
        std::fs::write(&file, text).unwrap();
        let (configuration, _) = prepared(&line, &[]).unwrap();
        assert_eq!(configuration.strict_members, is_strict);
    }
    std::fs::write(&file, "enable-pprof: maybe").unwrap();
    let error = prepared(&line, &[]).unwrap_err();
    assert!(error.contains("neither true nor false"), "{error}");
}

#[test]
fn switches_are_compared_as_go_reads_them() {
    let line = "--force-new-cluster=0 --enable-grpc-gateway=1 --enable-v2=F --unsafe-no-fsync=f";
    let (_, warnings) = prepared(line, &[]).unwrap();
    assert_eq!(warnings, [""; 0]);
    for line in ["--force-new-cluster=T", "--enable-grpc-gateway=0"] {
        let error = prepared(line, &[]).unwrap_err();
        assert!(error.contains("is refused"), "{error}");
    }
    for line in ["--force-new-cluster=no", "--unsafe-no-fsync=no"] {
        let error = prepared(line, &[]).unwrap_err();
        assert!(error.contains("neither true nor false"), "{error}");
    }
}

#[test]
fn keys_of_a_file_that_are_no_flags_are_refused_where_they_promise_something() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("etcd.yaml");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        prepared(&format!("--config-file {}", file.display()), &[])
    };
    for text in [
        "discovery-config: {token: t, client: {endpoints: ['http://10.0.0.9:2379']}}",
        "discovery-config:\n  token: t",
        "discovery-config: something",
        "grpc-additional-server-options: [x]",
    ] {
        let error = read(text).unwrap_err();
        let (key, _) = text.split_once(':').unwrap();
        assert!(error.contains(&format!("{key} is refused")), "{error}");
    }
    for text in [
        "discovery-config:",
        "discovery-config: {token: '', client: {endpoints: []}}",
        "grpc-additional-server-options: []",
        "socket-options: {reuse-port: false, reuse-address: false}",
    ] {
        let (_, warnings) = read(text).unwrap();
        assert_eq!(warnings, [""; 0], "{text}");
    }
    let (_, warnings) = read("socket-options: {reuse-port: true}").unwrap();
    assert!(warnings[0].contains("socket-reuse-port"), "{warnings:?}");
    let text = "client-transport-security: {skip-client-san-verification: true}";
    let (_, warnings) = read(text).unwrap();
    assert!(warnings[0].contains("has no meaning"), "{warnings:?}");
}

#[test]
fn common_names_of_a_files_peers_are_followed_and_those_of_clients_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("etcd.yaml");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        prepared(&format!("--config-file {}", file.display()), &[])
    };
    let peers = "listen-peer-urls: https://localhost:2380\n\
                 initial-advertise-peer-urls: https://localhost:2380\n\
                 peer-transport-security:\n  cert-file: c\n  key-file: k\n  \
                 trusted-ca-file: a\n  allowed-cn: n1\n";
    let (configuration, _) = read(peers).unwrap();
    assert_eq!(configuration.peer_tls.allowed_names, ["n1"]);
    for key in ["allowed-cn: alice", "allowed-cns: [alice]"] {
        let text = format!("{peers}client-transport-security:\n  {key}\n");
        let error = read(&text).unwrap_err();
        assert!(error.contains("client-transport-security"), "{error}");
        assert!(error.contains("use allowed-hostname"), "{error}");
    }
    let text = format!("{peers}client-transport-security:\n  allowed-cn: ''\n");
    let (configuration, _) = read(&text).unwrap();
    assert_eq!(configuration.peer_tls.allowed_names, ["n1"]);
}

#[test]
fn urls_of_https_are_never_served_plain() {
    let files = "--cert-file c --key-file k --advertise-client-urls https://127.0.0.1:2";
    let http = "--listen-client-http-urls https://127.0.0.1:1";
    for clients in [
        "unix:///tmp/etcd.sock",
        "unixs://localhost:2",
        "https://127.0.0.1:2",
    ] {
        let line = format!("--listen-client-urls {clients} {http} {files}");
        let (configuration, _) = prepared(&line, &[]).unwrap();
        assert!(configuration.client_tls.is_on(), "{line}");
    }
    // Plain ones beside it would be encrypted, or it would not.
    let line = format!("--listen-client-urls http://127.0.0.1:2 {http} {files}");
    let error = prepared(&line, &[]).unwrap_err();
    assert!(error.contains("either all are https"), "{error}");
}

#[test]
fn sockets_are_paths_even_where_they_look_like_hosts() {
    let line = "--listen-client-urls unix://localhost:2,unixs:///run/etcd --auto-tls \
                --advertise-client-urls unix://localhost:2";
    let (configuration, _) = prepared(line, &[]).unwrap();
    let here = std::env::current_dir().unwrap();
    assert_eq!(
        configuration.listen_etcd,
        Listen::Unix(here.join("localhost:2"))
    );
    assert_eq!(
        configuration.listen_etcd_also,
        [Listen::SecuredUnix("/run/etcd".into())]
    );
    assert_eq!(configuration.advertise_etcd, ["unix://localhost:2"]);
    assert!(configuration.client_tls.is_on());
}

#[test]
fn what_has_no_meaning_is_said_and_what_would_break_a_promise_is_refused() {
    let (_, warnings) = prepared("--unsafe-no-fsync --wal-dir /wal", &[]).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (line, said) in [
        ("--force-new-cluster", "is refused"),
        ("--enable-grpc-gateway=false", "is refused"),
        ("--max-txn-ops 10000", "is not served yet"),
        ("--nonsense", "not defined: -nonsense"),
        ("nonsense", "'nonsense' is not a valid flag"),
        ("--name", "needs an argument"),
        ("--listen-client-urls 127.0.0.1:2379", "expected a URL"),
        (
            "--listen-client-urls https://127.0.0.1:2379",
            "https and unixs need",
        ),
        (
            "--listen-client-urls unixs:///run/etcd",
            "https and unixs need",
        ),
        ("--listen-client-urls unix://", "expected a URL"),
        ("--listen-client-urls unix:etcd", "expected a URL"),
        ("--name x", "couldn't find local name"),
        ("--election-timeout 10", "--election-timeout: expected"),
        ("--election-timeout ten", "no number of milliseconds"),
        ("--initial-cluster-state existing", "names no other"),
        ("--initial-cluster-state old", "neither new nor existing"),
        ("--feature-gates Nobody=true", "unrecognized feature gate"),
        (
            "--client-cert-auth=perhaps --auto-tls=1 --listen-client-urls https://a:1",
            "neither",
        ),
        ("grpc-proxy start", "proxies"),
        ("--config-file /nowhere", "cannot be read"),
    ] {
        let more = match line {
            "--name x" => "--initial-cluster y=http://localhost:2380",
            line if line.contains("--listen-client-urls") => {
                "--advertise-client-urls http://localhost:2379"
            }
            _ => "",
        };
        let error = prepared(&format!("{line} {more}"), &[]).unwrap_err();
        assert!(error.contains(said), "{line}: {error}");
    }
}

#[test]
fn version_and_help_are_said() {
    for line in ["--version", "-version", "version"] {
        let said = prepared(line, &[]).unwrap_err();
        assert!(said.starts_with("etcd Version: 3.7.1\n"), "{said}");
    }
    assert!(
        prepared("-h", &[])
            .unwrap_err()
            .contains("--listen-peer-urls")
    );
}

#[test]
fn data_of_etcd_itself_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("member/wal")).unwrap();
    let line = format!("--data-dir {}", folder.path().display());
    assert!(
        prepared(&line, &[])
            .unwrap_err()
            .contains("data of etcd itself")
    );
}

/// The page that lists the flags lists these, each with what becomes of it.
#[test]
fn the_page_of_flags_is_true() {
    use super::flags::{FLAGS, Fate};
    let page = include_str!("../../../../docs/compatibility/etcd-flags.md");
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .collect();
    let known = |key: &str| {
        server::configuration::KEYS
            .iter()
            .any(|each| each.name == key)
    };
    let expected = FLAGS.iter().map(|flag| match flag.fate {
        Fate::Followed => format!("| `--{}` | works | |", flag.name),
        Fate::Key(key) if !known(key) => {
            format!(
                "| `--{}` | refused | only the default is served yet |",
                flag.name
            )
        }
        Fate::Key(key) if key == flag.name => format!("| `--{}` | works | |", flag.name),
        Fate::Key(key) => format!("| `--{}` | works | `{key}` |", flag.name),
        Fate::PassedOver(why) => format!("| `--{}` | passed over | {why} |", flag.name),
        Fate::Refused(why) => format!("| `--{}` | refused | {why} |", flag.name),
    });
    assert_eq!(rows, expected.collect::<Vec<_>>());
}
