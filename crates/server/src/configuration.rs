//! What a server is told before it starts.
//!
//! ```text
//!   defaults  <  file (--config, TOML)  <  variables (QUORATE_*)  <  flags (--key value)
//! ```
//!
//! One table ([`keys::KEYS`]) names every key once, with its default and what it means; the file,
//! the variables and the flags are three spellings of that table, so that a key cannot exist in
//! one of them only. A wrong value is answered with the key, where the value came from, and what
//! was expected: whoever reads that line at three in the morning has not read this file.
//!
//! - [`keys`]: the table, and which field a value is for.
//! - [`values`]: how the text of a value becomes what it means.
//! - [`sources`]: file, variables and flags, and where each value came from.
//! - [`checks`]: what must hold between values, and hints about what is allowed but unwise.

mod auth_token;
mod checks;
mod keys;
mod sources;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use consensus::{EngineKind, QuorumSizes};

use crate::tls::{TlsRules, TlsSettings};

pub use auth_token::{AuthToken, JwtOptions};
pub use keys::{KEYS, Key};
pub use node::group::space::Retention;
pub use node::operator::{check_address, check_name};
pub use sources::{ConfigurationError, Origin, Sources};
pub use values::SWITCH;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere: the listener is off.
    None,
    /// On a TCP address, `host:port`; port 0 lets the system choose.
    Tcp(String),
    /// On a Unix socket, plain: it stays on this machine, and its file says who may.
    Unix(PathBuf),
    /// On a Unix socket, with the TLS of clients.
    SecuredUnix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::None => write!(formatter, "none"),
            Listen::Tcp(address) => write!(formatter, "{address}"),
            Listen::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Listen::SecuredUnix(path) => write!(formatter, "unixs:{}", path.display()),
        }
    }
}

/// Who says where peers reach this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// The configuration, and what it says is made known to the others.
    #[default]
    Configured,
    /// The configuration, until the log says it. As in etcd a node that forms a cluster alone may
    /// say any address, even one that nobody can connect to.
    AsEtcd,
    /// The log, which does, and no flag: as in etcd once a node has data.
    Logged,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Only what stops the server or loses redundancy.
    Error,
    /// What an operator should look at.
    Warn,
    /// What happens to the cluster as a whole.
    Info,
    /// Decisions of the machines.
    Debug,
    /// Everything.
    Trace,
}

/// In which form log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Everything that can be set. [`Configuration::default`] is one embedded node that keeps its data
/// in `./quorate-data` and serves etcd's clients of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The node's name, unique in its cluster; `None`: the name in the data folder, or `n1`.
    pub name: Option<String>,
    /// The data folder.
    pub data_dir: PathBuf,
    /// Where peers connect; `None`: see [`Configuration::peer_listener`].
    pub listen_peer: Option<Listen>,
    /// Where etcd's clients connect.
    pub listen_etcd: Listen,
    /// Where else they connect.
    pub listen_etcd_also: Vec<Listen>,
    /// Where clients connect who name no keyspace and mean this one.
    pub listen_etcd_keyspace: Vec<(String, Listen)>,
    /// `NAME.domain` as the host of a request names the keyspace NAME; `None`: hosts name none.
    pub keyspace_domain: Option<String>,
    /// Where operators and scrapers connect.
    pub listen_admin: Listen,
    /// Where probes and scrapers connect that are to see nothing else; never encrypted.
    pub listen_metrics: Vec<Listen>,
    /// The address that peers are told; `None`: the own entry of `cluster`, or where this node
    /// listens.
    pub advertise_peer: Option<String>,
    /// Whether that counts. No key: only who starts the node can know it.
    pub place: Place,
    /// The URLs that clients are told; empty: derived from where this node listens.
    pub advertise_etcd: Vec<String>,
    /// The nodes that form a cluster: name and `host:port` of each.
    pub cluster: Vec<(String, String)>,
    /// Addresses of nodes of a cluster that this node shall join.
    pub join: Vec<String>,
    /// Whether this node takes part in gossip, where peers can connect; `None`: if it can.
    pub gossip: Option<bool>,
    /// The file with the keys of gossip.
    pub gossip_key_file: Option<PathBuf>,
    /// Replicas move to other nodes by themselves, when nodes die and to even things out, as long
    /// as no operator has said otherwise.
    pub heals_by_itself: bool,
    /// Where this node stands: a building, or an availability zone; perhaps empty.
    pub zone: String,
    /// A rack within that; perhaps empty.
    pub rack: String,
    /// How the group agrees that is created at the first start; `None`: by Raft, and later as the
    /// data folder says.
    pub engine: Option<EngineKind>,
    /// How many nodes elect and how many commit in the cluster that is formed; `None`: majorities.
    pub quorums: Option<QuorumSizes>,
    /// How many nodes that hold data must have a write, in the cluster that is formed; `None`: as
    /// many as commit.
    pub copies: Option<usize>,
    /// This node votes and holds no data.
    pub witness: bool,
    /// TLS with clients.
    pub client_tls: TlsSettings,
    /// TLS with peers.
    pub peer_tls: TlsSettings,
    /// Which TLS is spoken.
    pub tls_rules: TlsRules,
    /// How much is logged.
    pub log_level: LogLevel,
    /// In which form.
    pub log_format: LogFormat,
    /// A follower that has heard nothing from a leader for this long asks for votes.
    pub election_timeout: Duration,
    /// A leader shows that it is there this often.
    pub heartbeat_interval: Duration,
    /// A client's call is answered after this long, if need be by a time-out.
    pub request_timeout: Duration,
    /// A watch that wants to hear of progress hears of it this often while nothing happens.
    pub watch_progress_interval: Duration,
    /// How many bytes the group may hold, live keys and history; `None`: what it has agreed on.
    pub quota_bytes: Option<u64>,
    /// Whether a NOSPACE alarm ends by itself once there is room again; `None`: as the group has
    /// agreed.
    pub alarm_ends_by_itself: Option<bool>,
    /// How much history is kept.
    pub history: Retention,
    /// How much of the data folder is read each second in search of damage.
    pub scrub_bytes_per_second: u64,
    /// How many client connections are held at a time, over all listeners.
    pub max_connections: usize,
    /// How many client calls are under way at a time; see `limits.rs`.
    pub max_calls: usize,
    /// How long a stopping server waits for another leader and for calls under way.
    pub shutdown_timeout: Duration,
    /// Which kind of token users get who sign in.
    pub auth_token: AuthToken,
    /// How long a simple token is good that is not used.
    pub auth_token_ttl: Duration,
    /// Changes of members are refused that could cost the cluster its quorum.
    pub strict_members: bool,
    /// Learners that etcd's clients may add at a time.
    pub max_learners: usize,
    /// Origins whose web pages may send requests; `*` stands for all.
    pub cors: Vec<String>,
    /// The cost of hashing a password, from 4 to 31: one more takes twice as long.
    pub bcrypt_cost: u32,
}

impl Default for Configuration {
    fn default() -> Configuration {
        Configuration {
            name: None,
            data_dir: PathBuf::from("quorate-data"),
            listen_peer: None,
            listen_etcd: Listen::Tcp("127.0.0.1:2379".into()),
            listen_etcd_also: Vec::new(),
            listen_etcd_keyspace: Vec::new(),
            keyspace_domain: None,
            listen_admin: Listen::Tcp("127.0.0.1:2390".into()),
            listen_metrics: Vec::new(),
            advertise_peer: None,
            place: Place::Configured,
            advertise_etcd: Vec::new(),
            cluster: Vec::new(),
            join: Vec::new(),
            gossip: None,
            gossip_key_file: None,
            heals_by_itself: true,
            zone: String::new(),
            rack: String::new(),
            engine: None,
            quorums: None,
            copies: None,
            witness: false,
            client_tls: TlsSettings::default(),
            peer_tls: TlsSettings::default(),
            tls_rules: TlsRules::default(),
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
            election_timeout: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(100),
            request_timeout: Duration::from_secs(7),
            watch_progress_interval: Duration::from_secs(600),
            quota_bytes: None,
            alarm_ends_by_itself: None,
            history: Retention::All,
            scrub_bytes_per_second: 1 << 20,
            max_connections: 16_384,
            max_calls: 8_192,
            shutdown_timeout: Duration::from_secs(3),
            auth_token: AuthToken::Simple,
            auth_token_ttl: Duration::from_secs(300),
            strict_members: true,
            max_learners: 1,
            cors: Vec::new(),
            bcrypt_cost: 10,
        }
    }
}

impl Configuration {
    /// Puts together what file, variables and flags say.
    ///
    /// # Errors
    /// The first thing that is wrong, with the key, where it came from, and what was expected.
    pub fn load(sources: &Sources) -> Result<Configuration, ConfigurationError> {
        let (configuration, origins) = sources::read(sources)?;
        checks::check(&configuration, &origins)?;
        Ok(configuration)
    }

    /// Checks what must hold between the values, for a configuration put together by a program.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigurationError> {
        checks::check(self, &sources::Origins::default())
    }

    /// What is allowed but perhaps not meant, a sentence each.
    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        checks::hints(self)
    }

    /// Where peers connect. Unless it is said, a node of a `cluster` listens on its own entry
    /// there, a node that joins on 127.0.0.1:2380, and a node alone not at all.
    #[must_use]
    pub fn peer_listener(&self) -> Listen {
        if let Some(listen) = &self.listen_peer {
            return listen.clone();
        }
        if let Some(address) = self.own_cluster_entry() {
            return Listen::Tcp(address.to_owned());
        }
        if self.join.is_empty() {
            Listen::None
        } else {
            Listen::Tcp("127.0.0.1:2380".into())
        }
    }

    /// What this node fails together with.
    #[must_use]
    pub fn domains(&self) -> node::Domains {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().into_owned();
        // The table takes no longer ones.
        let short = |text: &str| match text.len() <= 128 && !text.chars().any(char::is_control) {
            true => text.to_owned(),
            false => String::new(),
        };
        node::Domains {
            zone: short(&self.zone),
            rack: short(&self.rack),
            host: short(&host),
        }
    }

    /// The address that peers are told, given where this node really listens; `None` too where the
    /// log has told them.
    #[must_use]
    pub fn advertised_peer(&self, bound: Option<SocketAddr>) -> Option<String> {
        if self.place == Place::Logged {
            return None;
        }
        self.advertise_peer
            .clone()
            .or_else(|| self.own_cluster_entry().map(str::to_owned))
            .or_else(|| bound.map(|address| address.to_string()))
    }

    /// The URLs that clients are told, given where this node really listens. A wildcard address
    /// is no address to be told: the host of the peer address stands in for it.
    #[must_use]
    pub fn advertised_etcd(&self, bound: Option<SocketAddr>, peer: Option<&str>) -> Vec<String> {
        if !self.advertise_etcd.is_empty() {
            return self.advertise_etcd.clone();
        }
        let Some(bound) = bound else {
            return Vec::new();
        };
        let scheme = if self.client_tls.is_on() {
            "https"
        } else {
            "http"
        };
        if !bound.ip().is_unspecified() {
            return vec![format!("{scheme}://{bound}")];
        }
        let host = peer
            .and_then(|peer| peer.rsplit_once(':'))
            .map_or("127.0.0.1", |(host, _)| host);
        vec![format!("{scheme}://{host}:{}", bound.port())]
    }

    /// Whether this node takes part in gossip. Where peers speak TLS, packets that nobody closes
    /// would be less than was asked for: then gossip needs a key.
    #[must_use]
    pub fn gossips(&self) -> bool {
        let is_safe_enough = !self.peer_tls.is_on() || self.gossip_key_file.is_some();
        self.gossip.unwrap_or(true) && is_safe_enough && self.peer_listener() != Listen::None
    }

    /// The hosts under which others know this node: what a certificate of its own making names.
    #[must_use]
    pub(crate) fn own_hosts(&self) -> Vec<String> {
        let urls = self.advertise_etcd.iter();
        let urls = urls.filter_map(|url| url.split_once("://"));
        let urls = urls.filter(|(scheme, _)| scheme.starts_with("http"));
        let urls = urls.map(|(_, rest)| rest);
        let peers = self.advertise_peer.as_deref().or(self.own_cluster_entry());
        let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        for address in urls.chain(peers) {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let host = host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned();
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        hosts
    }

    /// This node's entry in `cluster`.
    fn own_cluster_entry(&self) -> Option<&str> {
        let name = self.name.as_deref()?;
        self.cluster
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, address)| address.as_str())
    }
}

#[cfg(test)]
mod tests;
