//! What must hold between values, and hints about what is allowed but unwise.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use consensus::QuorumRule;

use super::sources::Origins;
use super::{Configuration, ConfigurationError, Listen, Place};

/// etcd's upper bound, for the same reason: beyond it a failure is not noticed in a useful time.
const LONGEST_ELECTION_TIMEOUT: Duration = Duration::from_secs(50);
/// Below this, a scheduler's hiccup looks like a dead leader.
const SHORTEST_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(5);
/// Notices of progress more often than this would be a load of their own; etcd's limit as well.
const SHORTEST_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// An election timeout must see several heartbeats fail.
const HEARTBEATS_IN_A_TIMEOUT: u32 = 3;

/// Says what is wrong first.
pub(super) fn check(
    configuration: &Configuration,
    origins: &Origins,
) -> Result<(), ConfigurationError> {
    let wrong = |key: &str, problem: String| {
        Err(ConfigurationError {
            key: key.to_owned(),
            origin: origins.of(key),
            problem,
        })
    };
    if !configuration.cluster.is_empty() && !configuration.join.is_empty() {
        let problem = "cannot be combined with cluster: a node either forms a new cluster or \
                       joins one that exists";
        return wrong("join", problem.into());
    }
    if let Err((key, problem)) = check_cluster(configuration) {
        return wrong(key, problem);
    }
    if let Some(sizes) = configuration.quorums
        && configuration.join.is_empty()
        // A member by its log: the folder is asked whether they are those that were agreed on.
        && configuration.place != Place::Logged
        && let Err(flaw) = QuorumRule::new(configuration.cluster.len().max(1), sizes)
    {
        return wrong("quorums", flaw);
    }
    if let Err((key, problem)) = check_peer_addresses(configuration) {
        return wrong(key, problem);
    }
    if let Err((key, problem)) = check_timing(configuration) {
        return wrong(key, problem);
    }
    if let Err((key, problem)) = check_tls(configuration) {
        return wrong(key, problem);
    }
    Ok(())
}

type Problem = (&'static str, String);

fn check_cluster(configuration: &Configuration) -> Result<(), Problem> {
    let cluster = &configuration.cluster;
    if cluster.is_empty() {
        return Ok(());
    }
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for (name, address) in cluster {
        if !names.insert(name) {
            return Err(("cluster", format!("the name {name} stands there twice")));
        }
        if !addresses.insert(address) {
            return Err((
                "cluster",
                format!("the address {address} stands there twice"),
            ));
        }
    }
    let Some(own) = &configuration.name else {
        let problem = "expected with cluster: which of its nodes is this one?";
        return Err(("name", problem.into()));
    };
    let Some((_, address)) = cluster.iter().find(|(name, _)| name == own) else {
        let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        let problem = format!("{own} is not in cluster, which names {}", names.join(", "));
        return Err(("name", problem));
    };
    match &configuration.advertise_peer {
        Some(advertised) if advertised != address => {
            let problem = format!(
                "{advertised} differs from {address}, which cluster tells the others; expected \
                 the same"
            );
            Err(("advertise-peer", problem))
        }
        _ => Ok(()),
    }
}

fn check_peer_addresses(configuration: &Configuration) -> Result<(), Problem> {
    let in_a_cluster = !configuration.join.is_empty() || configuration.cluster.len() > 1;
    let listener = configuration.peer_listener();
    match &listener {
        Listen::None if in_a_cluster => {
            let problem = "none cannot be combined with cluster or join: the others would not \
                           reach this node";
            return Err(("listen-peer", problem.into()));
        }
        Listen::Unix(_) | Listen::SecuredUnix(_) => {
            return Err(("listen-peer", "expected host:port or none".into()));
        }
        _ => {}
    }
    let advertised = configuration.advertised_peer(None);
    let may_be_any = configuration.place == Place::AsEtcd && configuration.cluster.len() == 1;
    if let Some(host) = advertised.as_deref().and_then(literal_host)
        && host.is_unspecified()
        && !may_be_any
    {
        let key = if configuration.cluster.is_empty() {
            "advertise-peer"
        } else {
            "cluster"
        };
        let problem = format!("{host} is no address that others can connect to");
        return Err((key, problem));
    }
    if let Listen::Tcp(address) = &listener
        && advertised.is_none()
        && configuration.place != Place::Logged
        && literal_host(address).is_some_and(|host| host.is_unspecified())
    {
        let problem = format!("expected, since listen-peer {address} is no address to be told");
        return Err(("advertise-peer", problem));
    }
    Ok(())
}

/// Whatever would leave connections less safe than was asked for stops the start.
fn check_tls(configuration: &Configuration) -> Result<(), Problem> {
    let Configuration {
        client_tls,
        peer_tls,
        ..
    } = configuration;
    let names = [
        [
            "cert-file",
            "key-file",
            "trusted-ca-file",
            "client-cert-auth",
            "client-crl-file",
        ],
        [
            "peer-cert-file",
            "peer-key-file",
            "peer-trusted-ca-file",
            "peer-client-cert-auth",
            "peer-crl-file",
        ],
    ];
    for (settings, [cert, key, authority, ask, revoked]) in [client_tls, peer_tls].iter().zip(names)
    {
        match (&settings.cert_file, &settings.key_file) {
            (Some(_), None) => return Err((key, format!("expected with {cert}"))),
            (None, Some(_)) => return Err((cert, format!("expected with {key}"))),
            _ => {}
        }
        let needs_tls = [
            (settings.trusted_ca_file.is_some(), authority),
            (settings.client_cert_auth, ask),
            (settings.crl_file.is_some(), revoked),
        ];
        if let Some((_, name)) = needs_tls.iter().find(|(is_set, _)| *is_set)
            && !settings.is_on()
        {
            let problem = format!("means nothing without {cert}: connections would be plain");
            return Err((name, problem));
        }
        if settings.trusted_ca_file.is_none() {
            let needs_authority = [
                (settings.client_cert_auth, ask),
                (settings.crl_file.is_some(), revoked),
                (!settings.allowed_names.is_empty(), "peer-cert-allowed-cn"),
                (!settings.allowed_hosts.is_empty(), ask),
            ];
            if let Some((_, name)) = needs_authority.iter().find(|(is_set, _)| *is_set) {
                let problem = format!("needs {authority}: whose certificates are to be accepted?");
                return Err((name, problem));
            }
        }
    }
    let has_no_authority = peer_tls.cert_file.is_some() && peer_tls.trusted_ca_file.is_none();
    if has_no_authority && !peer_tls.auto {
        let problem = "expected with peer-cert-file: peers verify each other";
        return Err(("peer-trusted-ca-file", problem.into()));
    }
    check_secured_sockets(configuration)
}

/// A socket that is to speak TLS does so with clients' certificates, or not at all.
fn check_secured_sockets(configuration: &Configuration) -> Result<(), Problem> {
    let is_secured = |listen: &Listen| matches!(listen, Listen::SecuredUnix(_));
    let Configuration {
        client_tls,
        listen_etcd,
        listen_etcd_also,
        listen_etcd_keyspace,
        listen_admin,
        listen_metrics,
        ..
    } = configuration;
    let of_keyspaces = listen_etcd_keyspace.iter().map(|(_, listen)| listen);
    let clients = std::iter::once(listen_etcd).chain(listen_etcd_also);
    if clients.chain(of_keyspaces).any(is_secured) && !client_tls.is_on() {
        let problem = "unixs: needs cert-file and key-file: connections would be plain";
        return Err(("listen-etcd", problem.into()));
    }
    let without_tls = [
        ("listen-admin", std::slice::from_ref(listen_admin)),
        ("listen-metrics", listen_metrics.as_slice()),
    ];
    for (key, listeners) in without_tls {
        if listeners.iter().any(is_secured) {
            return Err((key, "is not encrypted: expected unix:/path".into()));
        }
    }
    Ok(())
}

fn check_timing(configuration: &Configuration) -> Result<(), Problem> {
    let election = configuration.election_timeout;
    let heartbeat = configuration.heartbeat_interval;
    if heartbeat < SHORTEST_HEARTBEAT_INTERVAL {
        let least = SHORTEST_HEARTBEAT_INTERVAL.as_millis();
        return Err(("heartbeat-interval", format!("expected at least {least}ms")));
    }
    if election > LONGEST_ELECTION_TIMEOUT {
        let most = LONGEST_ELECTION_TIMEOUT.as_secs();
        return Err(("election-timeout", format!("expected at most {most}s")));
    }
    if heartbeat * HEARTBEATS_IN_A_TIMEOUT > election {
        let problem = format!(
            "expected at least {HEARTBEATS_IN_A_TIMEOUT} times heartbeat-interval \
             ({heartbeat:?}), better ten times"
        );
        return Err(("election-timeout", problem));
    }
    if configuration.watch_progress_interval < SHORTEST_PROGRESS_INTERVAL {
        let least = SHORTEST_PROGRESS_INTERVAL.as_millis();
        let problem = format!("expected at least {least}ms");
        return Err(("watch-progress-interval", problem));
    }
    if configuration.request_timeout < election {
        return Err((
            "request-timeout",
            "expected at least election-timeout".into(),
        ));
    }
    Ok(())
}

/// See [`Configuration::hints`].
pub(super) fn hints(configuration: &Configuration) -> Vec<String> {
    let mut hints = Vec::new();
    let size = configuration.cluster.len();
    if size > 1 && size.is_multiple_of(2) {
        hints.push(format!(
            "cluster has {size} nodes: an even number survives no more failures than {} do",
            size - 1
        ));
    }
    if size > 7 {
        hints.push(format!(
            "cluster has {size} nodes: more than 7 voters slow down every write"
        ));
    }
    if let Some(sizes) = configuration.quorums
        && sizes.commit < size / 2 + 1
    {
        hints.push(format!(
            "quorums {sizes}: a write is acknowledged on {} disks, fewer than a majority, and \
             survives the loss of one less than that",
            sizes.commit
        ));
    }
    let hosts = configuration
        .cluster
        .iter()
        .filter_map(|(_, address)| literal_host(address));
    let (loopback, others): (Vec<IpAddr>, Vec<IpAddr>) = hosts.partition(IpAddr::is_loopback);
    if !loopback.is_empty() && !others.is_empty() {
        hints.push(
            "cluster mixes loopback addresses with others: no other machine reaches \
                    a loopback address"
                .into(),
        );
    }
    if let Some(address) = configuration.advertised_peer(None)
        && literal_host(&address).is_some_and(|host| host.is_unspecified())
    {
        hints.push(format!(
            "peers are told that this node is at {address}: no other member will reach this node \
             under it"
        ));
    }
    for (is_auto, key) in [
        (configuration.client_tls.auto, "auto-tls"),
        (configuration.peer_tls.auto, "peer-auto-tls"),
    ] {
        if is_auto {
            hints.push(format!(
                "{key} encrypts and proves nothing: whoever is between two machines can read; \
                 `quorate cert` makes certificates that can be verified"
            ));
        }
    }
    hints.extend(gossip_hint(configuration));
    if let Listen::Tcp(address) = &configuration.listen_admin
        && literal_host(address).is_some_and(|host| !host.is_loopback())
    {
        hints.push(format!(
            "listen-admin {address} is open to other machines: they can read, while changes are \
             accepted from this machine only"
        ));
    }
    hints
}

/// Gossip that is off, or that strangers could speak.
fn gossip_hint(configuration: &Configuration) -> Option<String> {
    let Listen::Tcp(address) = configuration.peer_listener() else {
        return None;
    };
    if configuration.gossip == Some(false) || configuration.gossip_key_file.is_some() {
        return None;
    }
    if !configuration.gossips() {
        return Some(
            "gossip is off: peers speak TLS, and packets of gossip would be open; give all nodes \
             the same gossip-key-file"
                .into(),
        );
    }
    let is_local = literal_host(&address).is_some_and(|host| host.is_loopback());
    (!is_local).then(|| {
        "gossip is open: whoever reaches the peers' port can lie about who is alive (and could \
         speak as a peer, since peers are plain too); see gossip-key-file and peer-cert-file"
            .into()
    })
}

/// The host part, if it is an address and not a name.
fn literal_host(address: &str) -> Option<IpAddr> {
    address
        .parse::<SocketAddr>()
        .ok()
        .map(|address| address.ip())
}
