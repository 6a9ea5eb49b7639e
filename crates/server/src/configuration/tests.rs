//! What is accepted, what is refused, and with which words.

use super::*;

fn pairs(items: &[(&str, &str)]) -> Vec<(String, String)> {
    items
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn flags(items: &[(&str, &str)]) -> Result<Configuration, ConfigurationError> {
    Configuration::load(&Sources {
        flags: pairs(items),
        ..Sources::default()
    })
}

fn variables(items: &[(&str, &str)]) -> Result<Configuration, ConfigurationError> {
    Configuration::load(&Sources {
        variables: pairs(items),
        ..Sources::default()
    })
}

fn file(text: &str) -> Result<Configuration, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quorate.toml");
    std::fs::write(&path, text).unwrap();
    let sources = Sources {
        file: Some(path.clone()),
        ..Sources::default()
    };
    Configuration::load(&sources)
        .map_err(|error| error.to_string().replace(path.to_str().unwrap(), "FILE"))
}

#[test]
fn nothing_said_is_one_node_alone() {
    let configuration = flags(&[]).unwrap();
    assert_eq!(configuration, Configuration::default());
    assert_eq!(configuration.peer_listener(), Listen::None);
    assert_eq!(configuration.hints(), Vec::<String>::new());
}

#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quorate.toml");
    std::fs::write(
        &path,
        "name = 'a'\nlog-level = 'debug'\nlisten-etcd = 'none'\n",
    )
    .unwrap();
    let sources = Sources {
        file: None,
        variables: pairs(&[
            ("QUORATE_CONFIG", path.to_str().unwrap()),
            ("QUORATE_NAME", "b"),
            ("QUORATE_LOG_LEVEL", "warn"),
        ]),
        flags: pairs(&[("name", "c")]),
        ..Sources::default()
    };
    let configuration = Configuration::load(&sources).unwrap();
    assert_eq!(configuration.name.as_deref(), Some("c"));
    assert_eq!(configuration.log_level, LogLevel::Warn);
    assert_eq!(configuration.listen_etcd, Listen::None);
}

#[test]
fn every_key_can_be_set_in_all_three_ways() {
    let example = |key: &Key| match key.value {
        "NAME" | "FOLDER" => "n1",
        "ADDRESS" | "ADDRESS,..." | "HOST:PORT" | "HOST:PORT,..." => "127.0.0.1:2380",
        "FILE" | "HOST,..." | "NAME,..." | "SUITE,..." => "x",
        SWITCH if matches!(key.name, "gossip" | "strict-members") => "false",
        SWITCH => "true",
        "VERSION" if key.name == "tls-min-version" => "TLS1.3",
        "VERSION" => "TLS1.2",
        "URL,..." => "http://127.0.0.1:2379",
        "NAME=HOST:PORT,..." => "n1=127.0.0.1:2380",
        "NAME=ADDRESS,..." => "pods=127.0.0.1:2378",
        "DOMAIN" => "quorate.example",
        "ORIGIN,..." => "https://example.org",
        "elect=N,commit=N" => "elect=1,commit=1",
        "LEVEL" => "error",
        "FORMAT" => "json",
        "ENGINE" => "paxos",
        "DURATION" if key.name == "heartbeat-interval" => "50ms",
        "DURATION" => "20s",
        "NUMBER" => "77",
        "COST" => "7",
        "KIND" => "jwt,sign-method=HS256,priv-key=/secret",
        "BYTES" => "77000000",
        "HOW" => "when-disarmed",
        "HOW MUCH" => "24h",
        other => panic!("no example for {other}"),
    };
    for key in KEYS {
        let value = example(key);
        let mut expected = Configuration::default();
        (key.apply)(&mut expected, value).unwrap();
        assert_ne!(
            expected,
            Configuration::default(),
            "{} changes nothing",
            key.name
        );
        let named = |configuration: Configuration| match key.name {
            "cluster" => Configuration {
                name: None,
                ..configuration
            },
            _ => configuration,
        };
        let more: &[(&str, &str)] = match key.name {
            "cluster" => &[("name", "n1")],
            "election-timeout" => &[("request-timeout", "7s")],
            _ => &[],
        };
        let is_bound = |name: &str| {
            let settings = ["cert", "key-file", "ca-file", "crl-file"];
            name == "election-timeout" || settings.iter().any(|part| name.contains(part))
        };
        if is_bound(key.name) {
            continue; // to another key: see the table of refusals
        }
        let all = [&[(key.name, value)], more].concat();
        assert_eq!(
            flags(&all).map(named).as_ref(),
            Ok(&expected),
            "{}",
            key.name
        );
        let variable = key.variable();
        let more: &[(&str, &str)] = if key.name == "cluster" {
            &[("QUORATE_NAME", "n1")]
        } else {
            &[]
        };
        let all = [&[(variable.as_str(), value)], more].concat();
        assert_eq!(
            variables(&all).map(named).as_ref(),
            Ok(&expected),
            "{variable}"
        );
        let more = if key.name == "cluster" {
            "name = 'n1'"
        } else {
            ""
        };
        let text = match key.value {
            SWITCH => format!("{} = {value}\n", key.name),
            _ => format!("{} = '{value}'\n{more}\n", key.name),
        };
        assert_eq!(
            file(&text).map(named).as_ref(),
            Ok(&expected),
            "{}",
            key.name
        );
    }
}

#[test]
fn the_defaults_that_people_are_told_are_the_real_ones() {
    let is_any_text =
        |key: &&Key| matches!(key.value, "FILE" | "HOST,..." | "NAME,..." | "SUITE,...");
    for key in KEYS.iter().filter(|key| !is_any_text(key)) {
        let mut configuration = Configuration::default();
        // A default that is a sentence does not parse; one that parses must change nothing.
        if (key.apply)(&mut configuration, key.default).is_ok() && key.name != "join" {
            assert_eq!(configuration, Configuration::default(), "{}", key.name);
        }
    }
}

#[test]
fn refusals_name_the_key_and_where_it_came_from_and_what_was_expected() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (
            &[("listen-etcd", "2379")],
            "configuration: listen-etcd (flag --listen-etcd): \"2379\" is not a valid value: \
             expected host:port, unix:/path or none",
        ),
        (
            &[("listen-etc", "x")],
            "configuration: listen-etc (flag --listen-etc): there is no such key; is listen-etcd \
             meant?",
        ),
        (
            &[("listen-admin", "unix:relative")],
            "expected unix:/ and an absolute path",
        ),
        (
            &[("listen-etcd", "unixs:relative")],
            "expected unixs:/ and an absolute path",
        ),
        (
            &[("listen-etcd", "unixs:/x")],
            "needs cert-file and key-file",
        ),
        (&[("listen-admin", "unixs:/x")], "is not encrypted"),
        (&[("listen-peer", "unix:/x")], "expected host:port (such as"),
        (&[("advertise-etcd", "unix://")], "expected a URL"),
        (&[("name", "a b")], "expected 1 to 128 of the characters"),
        (&[("cluster", "n1")], "\"n1\": expected NAME=HOST:PORT"),
        (
            &[("cluster", "n1=127.0.0.1:0"), ("name", "n1")],
            "expected host:port",
        ),
        (&[("cluster", " , ")], "expected at least one item"),
        (
            &[("cluster", "n1=h:1,n1=h:2"), ("name", "n1")],
            "the name n1 stands there twice",
        ),
        (
            &[("cluster", "n1=h:1,n2=h:1"), ("name", "n1")],
            "the address h:1 stands there twice",
        ),
        (
            &[("cluster", "n1=h:1,n2=h:2")],
            "name (not set): expected with cluster",
        ),
        (
            &[("cluster", "n1=h:1,n2=h:2"), ("name", "n3")],
            "name (flag --name): n3 is not in cluster, which names n1, n2",
        ),
        (
            &[
                ("cluster", "n1=h:1,n2=h:2"),
                ("name", "n1"),
                ("advertise-peer", "g:1"),
            ],
            "advertise-peer (flag --advertise-peer): g:1 differs from h:1",
        ),
        (
            &[("cluster", "n1=h:1"), ("join", "h:1"), ("name", "n1")],
            "cannot be combined",
        ),
        (
            &[("join", "h:1"), ("listen-peer", "none")],
            "the others would not reach this node",
        ),
        (
            &[("join", "h:1"), ("listen-peer", "0.0.0.0:2380")],
            "advertise-peer (not set)",
        ),
        (
            &[("advertise-peer", "0.0.0.0:2380")],
            "0.0.0.0 is no address that others",
        ),
        (
            &[("heartbeat-interval", "100")],
            "expected a duration such as",
        ),
        (&[("heartbeat-interval", "1ms")], "expected at least 5ms"),
        (&[("heartbeat-interval", "0s")], "more than zero"),
        (
            &[("election-timeout", "200ms")],
            "at least 3 times heartbeat-interval",
        ),
        (
            &[("election-timeout", "60s"), ("request-timeout", "60s")],
            "expected at most 50s",
        ),
        (
            &[("election-timeout", "20s")],
            "request-timeout (not set): expected at least",
        ),
        (&[("max-calls", "0")], "expected a number from 1"),
        (
            &[("log-level", "loud")],
            "expected error, warn, info, debug or trace",
        ),
        (
            &[("advertise-etcd", "10.0.0.1:2379")],
            "expected a URL such as",
        ),
    ];
    for (given, expected) in cases {
        let error = flags(given)
            .expect_err(&format!("{given:?} is accepted"))
            .to_string();
        assert!(
            error.contains(expected),
            "{given:?}\n  says {error}\n  not  {expected}"
        );
    }
}

#[test]
fn errors_in_a_file_name_its_line() {
    let error = file("name = 'n1'\n\nlisten-etcd = 'x'\n").unwrap_err();
    assert!(
        error.contains("listen-etcd (FILE, line 3): \"x\" is not"),
        "{error}"
    );
    let error = file("name = 'n1'\nlog_level = 'info'\n").unwrap_err();
    assert!(
        error.contains("log_level (FILE, line 2): there is no such key"),
        "{error}"
    );
    let error = file("name = 'n1'\nname = \n").unwrap_err();
    assert!(
        error.contains("config (FILE, line 2): is not TOML"),
        "{error}"
    );
    let error = file("[cluster]\nn1 = 'h:1'\n").unwrap_err();
    assert!(
        error.contains("cluster (FILE, line 1): expected a string, a number, true, false or"),
        "{error}"
    );
}

#[test]
fn a_list_in_a_file_may_be_a_list() {
    let text = "name = 'n2'\ncluster = ['n1=h:1', 'n2=h:2',\n  'n3=h:3']\nmax-calls = 5\n";
    let configuration = file(text).unwrap();
    assert_eq!(configuration.cluster.len(), 3);
    assert_eq!(configuration.max_calls, 5);
    assert_eq!(configuration.peer_listener(), Listen::Tcp("h:2".into()));
    assert_eq!(configuration.advertised_peer(None).as_deref(), Some("h:2"));
}

#[test]
fn where_the_log_says_how_a_node_is_reached_no_key_does() {
    let said = [
        ("name", "n1"),
        ("listen-peer", "0.0.0.0:2380"),
        ("advertise-peer", "h:1"),
    ];
    let with = |flags: &[(&str, &str)], place| {
        Configuration::load(&Sources {
            flags: pairs(flags),
            place,
            ..Sources::default()
        })
    };
    let configured = with(&said, Place::Configured).unwrap();
    assert_eq!(configured.advertised_peer(None).as_deref(), Some("h:1"));
    let logged = with(&said, Place::Logged).unwrap();
    assert_eq!(logged.advertised_peer("10.0.0.1:2380".parse().ok()), None);
    // Nor is any demanded.
    with(&said[..2], Place::Configured).unwrap_err();
    with(&said[..2], Place::Logged).unwrap();
}

#[test]
fn an_address_that_nobody_can_connect_to_is_let_pass_for_one_node_as_in_etcd() {
    let with = |cluster: &str, place| {
        let said = [("name", "n1"), ("cluster", cluster)];
        Configuration::load(&Sources {
            flags: pairs(&said),
            place,
            ..Sources::default()
        })
    };
    let alone = with("n1=0.0.0.0:2380", Place::AsEtcd).unwrap();
    let hints = alone.hints();
    let hint = "at 0.0.0.0:2380: no other member will reach this node under it";
    assert!(hints.iter().any(|said| said.contains(hint)), "{hints:?}");
    let two = with("n1=0.0.0.0:2380,n2=h:1", Place::AsEtcd).unwrap_err();
    assert!(two.to_string().contains("no address that others"), "{two}");
    with("n1=0.0.0.0:2380", Place::Configured).unwrap_err();
}

#[test]
fn variables_of_others_are_left_alone_and_misspelt_ones_are_not() {
    let foreign = [
        ("QUORATE_SERVICE_HOST", "10.0.0.1"),
        ("QUORATE_PORT", "tcp://10.0.0.1:2379"),
        ("QUORATE_PORT_2379_TCP_ADDR", "10.0.0.1"),
        ("QUORATE_ENDPOINTS", "127.0.0.1:2379"),
        ("QUORATE_USER", "root:secret"),
        ("HOME", "/"),
    ];
    assert_eq!(variables(&foreign), Ok(Configuration::default()));
    let error = variables(&[("QUORATE_LISTEN_ETC", "x")])
        .unwrap_err()
        .to_string();
    assert!(error.contains("variable QUORATE_LISTEN_ETC"), "{error}");
    assert!(error.contains("is listen-etcd meant?"), "{error}");
}

#[test]
fn what_clients_are_told_is_never_a_wildcard() {
    let configuration = Configuration::default();
    let bound: SocketAddr = "0.0.0.0:2379".parse().unwrap();
    let told = configuration.advertised_etcd(Some(bound), Some("10.0.0.7:2380"));
    assert_eq!(told, ["http://10.0.0.7:2379"]);
    let told = configuration.advertised_etcd(Some(bound), None);
    assert_eq!(told, ["http://127.0.0.1:2379"]);
    let bound: SocketAddr = "[::1]:5".parse().unwrap();
    assert_eq!(
        configuration.advertised_etcd(Some(bound), None),
        ["http://[::1]:5"]
    );
}

#[test]
fn an_even_cluster_is_allowed_with_a_hint() {
    let two = flags(&[("name", "a"), ("cluster", "a=127.0.0.1:1,b=10.0.0.1:2")]).unwrap();
    let hints = two.hints();
    assert!(
        hints[0].contains("an even number survives no more failures than 1 do"),
        "{hints:?}"
    );
    assert!(hints[1].contains("mixes loopback"), "{hints:?}");
}

#[test]
fn quorums_that_may_miss_each_other_are_refused_with_the_sum() {
    let five = "a=127.0.0.1:1,b=127.0.0.1:2,c=127.0.0.1:3,d=127.0.0.1:4,e=127.0.0.1:5";
    let with = |sizes| flags(&[("name", "a"), ("cluster", five), ("quorums", sizes)]);
    let refused = |sizes| with(sizes).unwrap_err().to_string();
    let fewer = with("elect=4,commit=2").unwrap();
    let sizes = QuorumSizes {
        elect: 4,
        commit: 2,
    };
    assert_eq!(fewer.quorums, Some(sizes));
    let hints = fewer.hints();
    assert!(hints[0].contains("is acknowledged on 2 disks"), "{hints:?}");
    assert_eq!(
        with("elect=3,commit=4").unwrap().hints(),
        Vec::<String>::new()
    );
    let sum = refused("elect=3,commit=2");
    assert!(
        sum.contains("3 + 2 = 5 is not more than the 5 voters"),
        "{sum}"
    );
    assert!(sum.contains("quorums"), "{sum}");
    let twice = refused("elect=2,commit=5");
    assert!(
        twice.contains("2 * 2 = 4 is not more than the 5 voters"),
        "{twice}"
    );
    assert!(refused("elect=6,commit=2").contains("not between 1 and the 5 voters"));
    assert!(refused("4").contains("expected elect=NUMBER,commit=NUMBER"));
    let alone = flags(&[("quorums", "elect=2,commit=2")]).unwrap_err();
    assert!(
        alone.to_string().contains("between 1 and the 1 voters"),
        "{alone}"
    );
}

#[test]
fn the_operators_page_names_every_key_with_its_default_and_meaning() {
    let page = include_str!("../../../../docs/operating/configuration.md");
    for Key {
        name,
        value,
        default,
        meaning,
        ..
    } in KEYS
    {
        let row = format!("| `{name}` | `{value}` | {default} | {meaning} |");
        assert!(
            page.contains(&row),
            "docs/operating/configuration.md misses\n{row}"
        );
    }
}

#[test]
fn a_file_that_is_missing_has_no_lines() {
    let sources = Sources {
        file: Some("/nowhere/quorate.toml".into()),
        ..Sources::default()
    };
    let error = Configuration::load(&sources).unwrap_err().to_string();
    let expected = "configuration: config (/nowhere/quorate.toml): cannot be read: ";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn gossip_is_on_where_peers_connect_unless_it_would_be_less_than_was_asked_for() {
    let cluster = ("cluster", "n1=127.0.0.1:2380,n2=10.0.0.2:2380");
    let gossips = |more: &[(&str, &str)]| {
        let all = [&[cluster, ("name", "n1")], more].concat();
        let configuration = flags(&all).unwrap();
        let hints = configuration.hints().into_iter();
        let hints = hints.filter(|hint| hint.contains("gossip")).count();
        (configuration.gossips(), hints)
    };
    assert!(!Configuration::default().gossips(), "nobody connects");
    assert_eq!(gossips(&[]), (true, 0), "a trial on one machine");
    assert_eq!(gossips(&[("listen-peer", "10.0.0.1:2380")]), (true, 1));
    assert_eq!(gossips(&[("gossip", "false")]), (false, 0));
    assert_eq!(gossips(&[("peer-auto-tls", "true")]), (false, 1));
    let key = ("gossip-key-file", "x");
    assert_eq!(gossips(&[("peer-auto-tls", "true"), key]), (true, 0));
}
