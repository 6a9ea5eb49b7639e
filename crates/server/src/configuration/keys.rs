//! The table of keys, and which field the text of each value is for.
//!
//! The table is data, so that the command line can make its flags of it, and a test can hold the
//! operators' page (`docs/operating/configuration.md`) to it.

use std::path::PathBuf;

use super::values::{
    SWITCH, cluster_entry, copies, count, domain, duration, file, host_and_port, keyspace_listener,
    list, listen, listeners, node_name, origins, plain, switch, tcp_listen, tls_version, url,
};
use super::{AuthToken, Configuration, Listen, LogFormat, LogLevel, Retention};

/// One thing that can be set.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As it stands in the file and, behind `--`, among the flags. The variable is
    /// [`Key::variable`].
    pub name: &'static str,
    /// What a value looks like, for a line of help.
    pub value: &'static str,
    /// What holds if nothing is said, for people.
    pub default: &'static str,
    /// What it means, a sentence.
    pub meaning: &'static str,
    /// Puts the text of a value into the configuration, or says what was expected.
    pub(super) apply: fn(&mut Configuration, &str) -> Result<(), String>,
}

impl Key {
    /// The variable of this key: `QUORATE_LISTEN_ETCD` for `listen-etcd`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("QUORATE_{}", self.name.replace('-', "_").to_uppercase())
    }
}

/// Every key there is.
pub const KEYS: &[Key] = &[
    Key {
        name: "name",
        value: "NAME",
        default: "the name in the data folder, or n1",
        meaning: "The node's name, unique in its cluster.",
        apply: |configuration, text| {
            configuration.name = Some(node_name(text)?);
            Ok(())
        },
    },
    Key {
        name: "data-dir",
        value: "FOLDER",
        default: "quorate-data",
        meaning: "The folder that holds everything the node must not lose.",
        apply: |configuration, text| {
            if text.is_empty() {
                return Err("expected a folder".into());
            }
            configuration.data_dir = PathBuf::from(text);
            Ok(())
        },
    },
    Key {
        name: "listen-peer",
        value: "ADDRESS",
        default: "with cluster: the own entry there; with join: 127.0.0.1:2380; else none",
        meaning: "Where the other nodes of the cluster connect.",
        apply: |configuration, text| {
            configuration.listen_peer = Some(tcp_listen(text)?);
            Ok(())
        },
    },
    Key {
        name: "listen-etcd",
        value: "ADDRESS,...",
        default: "127.0.0.1:2379",
        meaning: "Where clients that speak etcd's protocol connect.",
        apply: |configuration, text| {
            let mut all = listeners(text)?.into_iter();
            configuration.listen_etcd = all.next().unwrap_or(Listen::None);
            configuration.listen_etcd_also = all.collect();
            Ok(())
        },
    },
    Key {
        name: "listen-etcd-keyspace",
        value: "NAME=ADDRESS,...",
        default: "none",
        meaning: "Where clients connect who name no keyspace and mean this one.",
        apply: |configuration, text| {
            configuration.listen_etcd_keyspace = list(text, keyspace_listener)?;
            Ok(())
        },
    },
    Key {
        name: "keyspace-domain",
        value: "DOMAIN",
        default: "none: hosts name no keyspaces",
        meaning: "A request to the host NAME.DOMAIN is about the keyspace NAME, by its host or by \
                  the server name of TLS.",
        apply: |configuration, text| {
            configuration.keyspace_domain = Some(domain(text)?);
            Ok(())
        },
    },
    Key {
        name: "listen-admin",
        value: "ADDRESS",
        default: "127.0.0.1:2390",
        meaning: "Where operators, probes and scrapers of metrics connect.",
        apply: |configuration, text| {
            configuration.listen_admin = listen(text)?;
            Ok(())
        },
    },
    Key {
        name: "listen-metrics",
        value: "ADDRESS,...",
        default: "none",
        meaning: "Where probes and scrapers of metrics connect that are to see nothing else.",
        apply: |configuration, text| {
            configuration.listen_metrics = listeners(text)?;
            configuration
                .listen_metrics
                .retain(|listen| *listen != Listen::None);
            Ok(())
        },
    },
    Key {
        name: "advertise-peer",
        value: "HOST:PORT",
        default: "the own entry of cluster, else where the node listens",
        meaning: "The address under which the other nodes reach this one.",
        apply: |configuration, text| {
            configuration.advertise_peer = Some(host_and_port(text, false)?);
            Ok(())
        },
    },
    Key {
        name: "advertise-etcd",
        value: "URL,...",
        default: "http:// and where the node listens",
        meaning: "The URLs under which clients reach this node, as told to them.",
        apply: |configuration, text| {
            configuration.advertise_etcd = list(text, url)?;
            Ok(())
        },
    },
    Key {
        name: "cluster",
        value: "NAME=HOST:PORT,...",
        default: "none: one node alone",
        meaning: "The nodes that form a new cluster; the same on each of them.",
        apply: |configuration, text| {
            configuration.cluster = list(text, cluster_entry)?;
            Ok(())
        },
    },
    Key {
        name: "join",
        value: "HOST:PORT,...",
        default: "none",
        meaning: "Peer addresses of nodes of a cluster that this node was added to.",
        apply: |configuration, text| {
            configuration.join = list(text, |item| host_and_port(item, false))?;
            Ok(())
        },
    },
    Key {
        name: "gossip",
        value: SWITCH,
        default: "true where peers connect; with peer-cert-file only with gossip-key-file",
        meaning: "Whether the node takes part in gossip (UDP, the port of listen-peer): who is \
                  alive, as a hint.",
        apply: |configuration, text| {
            configuration.gossip = Some(switch(text)?);
            Ok(())
        },
    },
    Key {
        name: "gossip-key-file",
        value: "FILE",
        default: "none: packets are open",
        meaning: "Keys of 64 hexadecimal digits, one a line: the first closes gossip's packets, \
                  all open them.",
        apply: |configuration, text| file(&mut configuration.gossip_key_file, text),
    },
    Key {
        name: "zone",
        value: "NAME",
        default: "not said",
        meaning: "The building or availability zone that the node stands in.",
        apply: |configuration, text| {
            configuration.zone = node_name(text)?;
            Ok(())
        },
    },
    Key {
        name: "rack",
        value: "NAME",
        default: "not said",
        meaning: "The rack that the node stands in, within its zone.",
        apply: |configuration, text| {
            configuration.rack = node_name(text)?;
            Ok(())
        },
    },
    Key {
        name: "engine",
        value: "ENGINE",
        default: "raft at the first start, then what the data folder holds",
        meaning: "How the replicas of a new cluster agree: raft or paxos. A cluster keeps the \
                  engine it was formed with. It is enough to tell the node whose name sorts \
                  first; the others, and those that join later, are told by it. A node that is \
                  told another one here refuses to start, and names both.",
        apply: |configuration, text| {
            configuration.engine = Some(text.parse()?);
            Ok(())
        },
    },
    Key {
        name: "quorums",
        value: "elect=N,commit=N",
        default: "majorities at the first start, then what the data folder holds",
        meaning: "How many nodes of a new cluster elect a leader, and how many must have a write \
                  on disk: the two sums elect + commit and 2 * elect must be more than the number \
                  of nodes. With another number of voters, majorities do both. As with engine, it \
                  is enough to tell the node whose name sorts first, and a node that is told other \
                  sizes than its cluster was formed with refuses to start.",
        apply: |configuration, text| {
            configuration.quorums = Some(text.parse()?);
            Ok(())
        },
    },
    Key {
        name: "witness",
        value: SWITCH,
        default: "false at the first start, then what the data folder holds",
        meaning: "This node votes and holds no data: it keeps the headers of entries and breaks \
                  ties, as the third of two sites that hold the data. It never leads, holds no \
                  keyspace and answers no client. Once a witness, always one; so is who holds \
                  data. See also copies.",
        apply: |configuration, text| {
            configuration.witness = switch(text)?;
            Ok(())
        },
    },
    Key {
        name: "copies",
        value: "NUMBER",
        default: "as many as commit, or as there are nodes that hold data",
        meaning: "How many nodes that hold data must have a write on disk before it is \
                  acknowledged, in a new cluster with a witness. Fewer than commit are waited for \
                  only while others are away: with 2 nodes, a witness and copies 1, writes go on \
                  while one of the two is down, and what was acknowledged meanwhile is lost with \
                  the other's disk. As with engine, it is enough to tell the node whose name sorts \
                  first.",
        apply: |configuration, text| {
            configuration.copies = Some(copies(text)?);
            Ok(())
        },
    },
    Key {
        name: "cert-file",
        value: "FILE",
        default: "none: plain connections",
        meaning: "The certificate shown to clients, PEM; clients then speak TLS.",
        apply: |configuration, text| file(&mut configuration.client_tls.cert_file, text),
    },
    Key {
        name: "key-file",
        value: "FILE",
        default: "none",
        meaning: "The private key of cert-file, PEM.",
        apply: |configuration, text| file(&mut configuration.client_tls.key_file, text),
    },
    Key {
        name: "trusted-ca-file",
        value: "FILE",
        default: "none",
        meaning: "Authorities, PEM; clients must then have a certificate of one of them.",
        apply: |configuration, text| file(&mut configuration.client_tls.trusted_ca_file, text),
    },
    Key {
        name: "client-cert-auth",
        value: SWITCH,
        default: "false",
        meaning: "Clients must have a certificate of an authority in trusted-ca-file.",
        apply: |configuration, text| {
            configuration.client_tls.client_cert_auth = switch(text)?;
            Ok(())
        },
    },
    Key {
        name: "client-crl-file",
        value: "FILE",
        default: "none",
        meaning: "Certificates of clients that are revoked: a list signed by their authority.",
        apply: |configuration, text| file(&mut configuration.client_tls.crl_file, text),
    },
    Key {
        name: "client-cert-allowed-hostname",
        value: "HOST,...",
        default: "any",
        meaning: "Only clients whose certificate is for one of these hosts are let in.",
        apply: |configuration, text| {
            configuration.client_tls.allowed_hosts = list(text, plain)?;
            Ok(())
        },
    },
    Key {
        name: "auto-tls",
        value: SWITCH,
        default: "false",
        meaning: "Clients speak TLS with a certificate made at the start, which nobody can verify.",
        apply: |configuration, text| {
            configuration.client_tls.auto = switch(text)?;
            Ok(())
        },
    },
    Key {
        name: "peer-cert-file",
        value: "FILE",
        default: "none: plain connections",
        meaning: "The certificate shown to peers, PEM; peers then speak TLS.",
        apply: |configuration, text| file(&mut configuration.peer_tls.cert_file, text),
    },
    Key {
        name: "peer-key-file",
        value: "FILE",
        default: "none",
        meaning: "The private key of peer-cert-file, PEM.",
        apply: |configuration, text| file(&mut configuration.peer_tls.key_file, text),
    },
    Key {
        name: "peer-trusted-ca-file",
        value: "FILE",
        default: "none",
        meaning: "Authorities, PEM; peers must have a certificate of one of them, both ways.",
        apply: |configuration, text| file(&mut configuration.peer_tls.trusted_ca_file, text),
    },
    Key {
        name: "peer-client-cert-auth",
        value: SWITCH,
        default: "false",
        meaning: "Peers that connect here must have a certificate of peer-trusted-ca-file.",
        apply: |configuration, text| {
            configuration.peer_tls.client_cert_auth = switch(text)?;
            Ok(())
        },
    },
    Key {
        name: "peer-crl-file",
        value: "FILE",
        default: "none",
        meaning: "Certificates of peers that are revoked: a list signed by their authority.",
        apply: |configuration, text| file(&mut configuration.peer_tls.crl_file, text),
    },
    Key {
        name: "peer-cert-allowed-cn",
        value: "NAME,...",
        default: "any",
        meaning: "Only peers whose certificate has one of these common names are let in.",
        apply: |configuration, text| {
            configuration.peer_tls.allowed_names = list(text, plain)?;
            Ok(())
        },
    },
    Key {
        name: "peer-cert-allowed-hostname",
        value: "HOST,...",
        default: "any",
        meaning: "Only peers whose certificate is for one of these hosts are let in.",
        apply: |configuration, text| {
            configuration.peer_tls.allowed_hosts = list(text, plain)?;
            Ok(())
        },
    },
    Key {
        name: "peer-auto-tls",
        value: SWITCH,
        default: "false",
        meaning: "Peers speak TLS with certificates made at the start, which nobody can verify.",
        apply: |configuration, text| {
            configuration.peer_tls.auto = switch(text)?;
            Ok(())
        },
    },
    Key {
        name: "cipher-suites",
        value: "SUITE,...",
        default: "the library's choice",
        meaning: "The suites of TLS 1.2 that are spoken, by their registered names.",
        apply: |configuration, text| {
            configuration.tls_rules.cipher_suites = list(text, plain)?;
            Ok(())
        },
    },
    Key {
        name: "tls-min-version",
        value: "VERSION",
        default: "TLS1.2",
        meaning: "The lowest version of TLS that is spoken: TLS1.2 or TLS1.3.",
        apply: |configuration, text| {
            configuration.tls_rules.lowest = tls_version(text)?;
            Ok(())
        },
    },
    Key {
        name: "tls-max-version",
        value: "VERSION",
        default: "TLS1.3",
        meaning: "The highest version of TLS that is spoken: TLS1.2 or TLS1.3.",
        apply: |configuration, text| {
            configuration.tls_rules.highest = tls_version(text)?;
            Ok(())
        },
    },
    Key {
        name: "log-level",
        value: "LEVEL",
        default: "info",
        meaning: "How much is logged: error, warn, info, debug or trace.",
        apply: |configuration, text| {
            configuration.log_level = match text {
                "error" => LogLevel::Error,
                "warn" => LogLevel::Warn,
                "info" => LogLevel::Info,
                "debug" => LogLevel::Debug,
                "trace" => LogLevel::Trace,
                _ => return Err("expected error, warn, info, debug or trace".into()),
            };
            Ok(())
        },
    },
    Key {
        name: "log-format",
        value: "FORMAT",
        default: "text",
        meaning: "The form of log lines: text, or json (one object a line).",
        apply: |configuration, text| {
            configuration.log_format = match text {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err("expected text or json".into()),
            };
            Ok(())
        },
    },
    Key {
        name: "election-timeout",
        value: "DURATION",
        default: "500ms",
        meaning: "A follower that hears nothing from a leader for this long asks for votes.",
        apply: |configuration, text| {
            configuration.election_timeout = duration(text)?;
            Ok(())
        },
    },
    Key {
        name: "heartbeat-interval",
        value: "DURATION",
        default: "100ms",
        meaning: "How often a leader shows that it is there.",
        apply: |configuration, text| {
            configuration.heartbeat_interval = duration(text)?;
            Ok(())
        },
    },
    Key {
        name: "request-timeout",
        value: "DURATION",
        default: "7s",
        meaning: "After this long a client's call is answered, if need be by a time-out.",
        apply: |configuration, text| {
            configuration.request_timeout = duration(text)?;
            Ok(())
        },
    },
    Key {
        name: "watch-progress-interval",
        value: "DURATION",
        default: "10m",
        meaning: "How often a watch that wants to hear of progress hears of it while nothing \
                  happens.",
        apply: |configuration, text| {
            configuration.watch_progress_interval = duration(text)?;
            Ok(())
        },
    },
    Key {
        name: "quota",
        value: "BYTES",
        default: "what the group has agreed on, 2147483648 at first",
        meaning: "How much the group may hold, live keys and history; the leader's value counts.",
        apply: |configuration, text| {
            // As small as one likes: what the group writes about itself does not count for it.
            let expected = "expected a number of bytes above 0";
            let bytes = text.parse().map_err(|_| expected)?;
            if bytes == 0 {
                return Err(expected.into());
            }
            configuration.quota_bytes = Some(bytes);
            Ok(())
        },
    },
    Key {
        name: "alarm-ends",
        value: "HOW",
        default: "what the group has agreed on, by-itself at first",
        meaning: "When a full store takes writes again: by-itself once there is room, or \
                  when-disarmed by a client; the leader's value counts.",
        apply: |configuration, text| {
            configuration.alarm_ends_by_itself = Some(match text {
                "by-itself" => true,
                "when-disarmed" => false,
                _ => return Err("expected by-itself or when-disarmed".into()),
            });
            Ok(())
        },
    },
    Key {
        name: "history",
        value: "HOW MUCH",
        default: "all",
        meaning: "How much history is kept: all, what was written in the last DURATION, or a \
                  NUMBER of revisions; the rest is compacted. The leader's value counts.",
        apply: |configuration, text| {
            configuration.history = match text {
                "all" => Retention::All,
                _ => match text.parse::<i64>() {
                    Ok(revisions) if revisions > 0 => Retention::Revisions(revisions),
                    _ => Retention::Time(duration(text).map_err(
                        |_| "expected all, a duration such as 30m or 24h, or a number of revisions",
                    )?),
                },
            };
            Ok(())
        },
    },
    Key {
        name: "scrub-rate",
        value: "BYTES",
        default: "1048576",
        meaning: "How much of the data folder is read each second in search of damage; 0 for none.",
        apply: |configuration, text| {
            let expected = |_| "expected a number of bytes, or 0";
            configuration.scrub_bytes_per_second = text.parse().map_err(expected)?;
            Ok(())
        },
    },
    Key {
        name: "max-connections",
        value: "NUMBER",
        default: "16384",
        meaning: "How many client connections are held at a time; further ones wait.",
        apply: |configuration, text| {
            configuration.max_connections = count(text)?;
            Ok(())
        },
    },
    Key {
        name: "max-calls",
        value: "NUMBER",
        default: "8192",
        meaning: "How many client calls are under way at a time; further ones wait, then are told \
                  \"too many requests\".",
        apply: |configuration, text| {
            configuration.max_calls = count(text)?;
            Ok(())
        },
    },
    Key {
        name: "auth-token",
        value: "KIND",
        default: "simple",
        meaning: "The tokens of users who sign in: simple, or \
                  jwt,sign-method=RS256,priv-key=FILE,pub-key=FILE,ttl=5m.",
        apply: |configuration, text| {
            configuration.auth_token = AuthToken::parse(text, duration)?;
            Ok(())
        },
    },
    Key {
        name: "auth-token-ttl",
        value: "DURATION",
        default: "5m",
        meaning: "How long a simple token is good that is not used.",
        apply: |configuration, text| {
            configuration.auth_token_ttl = duration(text)?;
            Ok(())
        },
    },
    Key {
        name: "strict-members",
        value: SWITCH,
        default: "true",
        meaning: "Clients' changes of members are refused that could cost the cluster its quorum; \
                  the leader's setting counts.",
        apply: |configuration, text| {
            configuration.strict_members = switch(text)?;
            Ok(())
        },
    },
    Key {
        name: "max-learners",
        value: "NUMBER",
        default: "1",
        meaning: "How many members that etcd's clients add may be learners at a time; the leader's \
                  setting counts.",
        apply: |configuration, text| {
            configuration.max_learners = count(text)?;
            Ok(())
        },
    },
    Key {
        name: "cors",
        value: "ORIGIN,...",
        default: "none",
        meaning: "Whose web pages may send requests to the ports of clients: * or origins such as \
                  https://console.example.",
        apply: |configuration, text| {
            configuration.cors = origins(text)?;
            Ok(())
        },
    },
    Key {
        name: "bcrypt-cost",
        value: "COST",
        default: "10",
        meaning: "How slowly passwords are hashed, from 4 to 31; one more takes twice as long.",
        apply: |configuration, text| {
            configuration.bcrypt_cost = match text.parse::<u32>() {
                Ok(cost) if (4..=31).contains(&cost) => cost,
                _ => return Err("expected a number from 4 to 31".into()),
            };
            Ok(())
        },
    },
    Key {
        name: "shutdown-timeout",
        value: "DURATION",
        default: "3s",
        meaning: "How long a stopping server waits for another leader and for calls under way.",
        apply: |configuration, text| {
            configuration.shutdown_timeout = duration(text)?;
            Ok(())
        },
    },
];
