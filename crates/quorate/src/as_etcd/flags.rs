//! Every flag of etcd 3.7, and what becomes of it. Flags that 3.5 and 3.6 had besides, or called
//! experimental, are there too: whoever moves has them in his files.

/// How a flag is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// With a value.
    Text,
    /// On or off; alone it is on.
    Switch,
    /// A length of time in Go's spelling.
    Duration,
}

/// What becomes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has its place in the translation, which looks it up by name.
    Followed,
    /// It is a key of ours, of this name; [`super::translate`] knows its value there. If this
    /// server has no such key, any value but the default is refused.
    Key(&'static str),
    /// It has no meaning here; why.
    PassedOver(&'static str),
    /// Any value but the default would promise what is not kept; why.
    Refused(&'static str),
}

/// A flag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What etcd has if nothing is said; of a list, any of these (`|`).
    pub(super) default: &'static str,
    pub(super) fate: Fate,
}

use Fate::{Followed, Key, PassedOver, Refused};
use Kind::{Duration, Switch, Text};

const fn flag(name: &'static str, kind: Kind, default: &'static str, fate: Fate) -> Flag {
    Flag {
        name,
        kind,
        default,
        fate,
    }
}

const ONE_LOG: &str = "the log lies in --data-dir, with everything else";
const OWN_STORE: &str = "it is about etcd's own storage";
const OWN_LOG: &str = "checkpoints and the log's length are decided by sizes, not by counts";
const DIGESTS: &str = "replicas compare digests of their state all the time";
const PEERS: &str = "connections between peers have time limits of their own";
const KEEPALIVE: &str = "clients are probed every 30s, and given up after another 20s";
const TRACING: &str = "there is no distributed tracing";
pub(super) const FORMS_ITSELF: &str = "nodes find each other by --initial-cluster alone";
const LOGGING: &str = "the log goes to standard error; rotating it is left to who reads it";
const NO_V2: &str = "there is no version 2 of the API";
const WARNING: &str = "slow requests are counted in /metrics, not logged";

/// The table.
#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    // Member.
    flag("name", Text, "default", Followed),
    flag("data-dir", Text, "", Followed),
    flag("wal-dir", Text, "", PassedOver(ONE_LOG)),
    flag("snapshot-count", Text, "10000|100000", PassedOver(OWN_LOG)),
    flag("snapshot-catchup-entries", Text, "5000", PassedOver(OWN_LOG)),
    flag("heartbeat-interval", Text, "100", Followed),
    flag("election-timeout", Text, "1000", Followed),
    flag("initial-election-tick-advance", Switch, "true",
        PassedOver("elections have no ticks here")),
    flag("listen-peer-urls", Text, "http://localhost:2380", Followed),
    flag("listen-client-urls", Text, "http://localhost:2379", Followed),
    flag("listen-client-http-urls", Text, "", Followed),
    flag("max-snapshots", Text, "5", PassedOver(OWN_LOG)),
    flag("max-wals", Text, "5", PassedOver(OWN_LOG)),
    flag("quota-backend-bytes", Text, "0", Key("quota")),
    flag("backend-bbolt-freelist-type", Text, "map", PassedOver(OWN_STORE)),
    flag("backend-batch-interval", Duration, "0s", PassedOver(OWN_STORE)),
    flag("backend-batch-limit", Text, "0", PassedOver(OWN_STORE)),
    flag("max-txn-ops", Text, "128", Key("max-txn-ops")),
    flag("max-request-bytes", Text, "1572864", Key("max-request-bytes")),
    flag("max-concurrent-streams", Text, "4294967295",
        PassedOver("a connection has at most 4096 calls under way")),
    flag("max-learners", Text, "1", Key("max-learners")),
    flag("enable-grpc-gateway", Switch, "true", Refused("the JSON gateway cannot be turned off")),
    flag("grpc-keepalive-min-time", Duration, "5s", PassedOver(KEEPALIVE)),
    flag("grpc-keepalive-interval", Duration, "2h", PassedOver(KEEPALIVE)),
    flag("grpc-keepalive-timeout", Duration, "20s", PassedOver(KEEPALIVE)),
    flag("socket-reuse-port", Switch, "false", PassedOver("a port belongs to one server")),
    flag("socket-reuse-address", Switch, "false", PassedOver("it is always so")),
    flag("raft-read-timeout", Duration, "5s", PassedOver(PEERS)),
    flag("raft-write-timeout", Duration, "5s", PassedOver(PEERS)),
    flag("watch-progress-notify-interval", Duration, "10m", Followed),
    flag("warning-apply-duration", Duration, "100ms", PassedOver(WARNING)),
    flag("warning-unary-request-duration", Duration, "300ms", PassedOver(WARNING)),
    flag("memory-mlock", Switch, "false",
        PassedOver("memory is not locked: turn swap off instead")),
    flag("bootstrap-defrag-threshold-megabytes", Text, "0",
        PassedOver("nothing has to be defragmented")),
    flag("compaction-batch-limit", Text, "1000",
        PassedOver("compaction goes along with other work, bit by bit")),
    flag("compaction-sleep-interval", Duration, "10ms",
        PassedOver("compaction goes along with other work, bit by bit")),
    flag("downgrade-check-time", Duration, "5s",
        PassedOver("levels of the state are raised by the leader")),
    // Clustering.
    flag("initial-advertise-peer-urls", Text, "http://localhost:2380", Followed),
    flag("initial-cluster", Text, "", Followed),
    flag("initial-cluster-state", Text, "new", Followed),
    flag("initial-cluster-token", Text, "etcd-cluster",
        PassedOver("a cluster draws a random id when it forms, and forms only of empty nodes")),
    flag("advertise-client-urls", Text, "http://localhost:2379", Followed),
    flag("strict-reconfig-check", Switch, "true", Key("strict-members")),
    flag("pre-vote", Switch, "true", PassedOver("votes are always asked for beforehand")),
    flag("auto-compaction-retention", Text, "0", Key("history")),
    flag("auto-compaction-mode", Text, "periodic", Key("history")),
    flag("discovery", Text, "", Refused(FORMS_ITSELF)),
    flag("discovery-fallback", Text, "proxy|exit", PassedOver(FORMS_ITSELF)),
    flag("discovery-proxy", Text, "", PassedOver(FORMS_ITSELF)),
    flag("discovery-srv", Text, "", Refused(FORMS_ITSELF)),
    flag("discovery-srv-name", Text, "", PassedOver(FORMS_ITSELF)),
    flag("discovery-token", Text, "", Refused(FORMS_ITSELF)),
    flag("discovery-endpoints", Text, "", Refused(FORMS_ITSELF)),
    flag("discovery-dial-timeout", Duration, "2s", PassedOver(FORMS_ITSELF)),
    flag("discovery-request-timeout", Duration, "5s", PassedOver(FORMS_ITSELF)),
    flag("discovery-keepalive-time", Duration, "2s", PassedOver(FORMS_ITSELF)),
    flag("discovery-keepalive-timeout", Duration, "6s", PassedOver(FORMS_ITSELF)),
    flag("discovery-insecure-transport", Switch, "true", PassedOver(FORMS_ITSELF)),
    flag("discovery-insecure-skip-tls-verify", Switch, "false", PassedOver(FORMS_ITSELF)),
    flag("discovery-cert", Text, "", PassedOver(FORMS_ITSELF)),
    flag("discovery-key", Text, "", PassedOver(FORMS_ITSELF)),
    flag("discovery-cacert", Text, "", PassedOver(FORMS_ITSELF)),
    flag("discovery-user", Text, "", PassedOver(FORMS_ITSELF)),
    flag("discovery-password", Text, "", PassedOver(FORMS_ITSELF)),
    flag("enable-v2", Switch, "false", Refused(NO_V2)),
    flag("v2-deprecation", Text, "", PassedOver(NO_V2)),
    flag("proxy", Text, "off", Refused("there is no proxy in here")),
    // Security.
    flag("cert-file", Text, "", Followed),
    flag("key-file", Text, "", Followed),
    flag("client-cert-auth", Switch, "false", Followed),
    flag("client-cert-file", Text, "", PassedOver("the gateway reaches its server in memory")),
    flag("client-key-file", Text, "", PassedOver("the gateway reaches its server in memory")),
    flag("client-crl-file", Text, "", Followed),
    flag("client-cert-allowed-hostname", Text, "", Followed),
    flag("trusted-ca-file", Text, "", Followed),
    flag("auto-tls", Switch, "false", Followed),
    flag("peer-cert-file", Text, "", Followed),
    flag("peer-key-file", Text, "", Followed),
    flag("peer-client-cert-auth", Switch, "false", Followed),
    flag("peer-trusted-ca-file", Text, "", Followed),
    flag("peer-cert-allowed-cn", Text, "", Followed),
    flag("peer-cert-allowed-hostname", Text, "", Followed),
    flag("peer-auto-tls", Switch, "false", Followed),
    flag("peer-client-cert-file", Text, "",
        Refused("peers show --peer-cert-file, whoever connects")),
    flag("peer-client-key-file", Text, "",
        Refused("peers show --peer-cert-file, whoever connects")),
    flag("peer-crl-file", Text, "", Followed),
    flag("peer-skip-client-san-verification", Switch, "false",
        PassedOver("where a peer comes from is not compared with its certificate")),
    flag("self-signed-cert-validity", Text, "1",
        PassedOver("certificates of one's own making are made anew at each start")),
    flag("cipher-suites", Text, "", Followed),
    flag("tls-min-version", Text, "TLS1.2", Followed),
    flag("tls-max-version", Text, "", Followed),
    flag("cors", Text, "", Key("cors")),
    flag("host-whitelist", Text, "*|", Refused("the host that a request names is not looked at")),
    flag("auth-token", Text, "simple", Key("auth-token")),
    flag("auth-token-ttl", Text, "300", Key("auth-token-ttl")),
    flag("bcrypt-cost", Text, "10", Key("bcrypt-cost")),
    // Profiling, monitoring, logging.
    flag("enable-pprof", Switch, "false", PassedOver("there are no profiles of Go's runtime")),
    flag("metrics", Text, "basic", PassedOver("there is one set of metrics")),
    flag("listen-metrics-urls", Text, "", Followed),
    flag("logger", Text, "zap", PassedOver("there is one logger")),
    flag("log-outputs", Text, "default|stderr|systemd/journal", PassedOver(LOGGING)),
    flag("log-level", Text, "info", Followed),
    flag("log-format", Text, "json", Followed),
    flag("enable-log-rotation", Switch, "false", PassedOver(LOGGING)),
    flag("log-rotation-config-json", Text, "", PassedOver(LOGGING)),
    flag("enable-distributed-tracing", Switch, "false", PassedOver(TRACING)),
    flag("distributed-tracing-address", Text, "", PassedOver(TRACING)),
    flag("distributed-tracing-service-name", Text, "", PassedOver(TRACING)),
    flag("distributed-tracing-instance-id", Text, "", PassedOver(TRACING)),
    flag("distributed-tracing-sampling-rate", Text, "", PassedOver(TRACING)),
    // Features.
    flag("feature-gates", Text, "", Followed),
    flag("initial-corrupt-check", Switch, "false", PassedOver(DIGESTS)),
    flag("corrupt-check-time", Duration, "0s", PassedOver(DIGESTS)),
    flag("compact-hash-check-enabled", Switch, "false", PassedOver(DIGESTS)),
    flag("compact-hash-check-time", Duration, "1m", PassedOver(DIGESTS)),
    flag("enable-lease-checkpoint", Switch, "false",
        PassedOver("what is left of a lease is always replicated")),
    flag("enable-lease-checkpoint-persist", Switch, "false",
        PassedOver("what is left of a lease is always replicated")),
    flag("txn-mode-write-with-shared-buffer", Switch, "true", PassedOver(OWN_STORE)),
    flag("stop-grpc-service-on-defrag", Switch, "false",
        PassedOver("nothing has to be defragmented")),
    flag("force-new-cluster", Switch, "false",
        Refused("a cluster is never made anew of one member's data by a flag")),
    flag("unsafe-no-fsync", Switch, "false",
        PassedOver("every write is synced, whatever is asked")),
    flag("config-file", Text, "", Followed),
];

/// The gates of 3.7: none changes anything here.
pub(super) const GATES: &[&str] = &[
    "AllAlpha",
    "AllBeta",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
    "InitialCorruptCheck",
    "CompactHashCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "SetMemberLocalAddr",
    "FastLeaseKeepAlive",
    "PriorityRequest",
];

/// A flag by its name, or by the name it had while it was experimental.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    let by_name = |name: &str| FLAGS.iter().find(|flag| flag.name == name);
    by_name(name).or_else(|| by_name(name.strip_prefix("experimental-")?))
}

/// What `--help` says.
pub(super) fn help() -> String {
    let mut text = "\
Usage: etcd [flags], or quorate etcd [flags]

Runs a node of Quorate as etcd is run. Every flag is also a variable (ETCD_NAME for --name) and a
key of the YAML file given by --config-file, which excludes both. Keys of `quorate serve` that etcd
does not have are set by variables, such as QUORATE_LISTEN_ADMIN.

Followed:
"
    .to_owned();
    let mut passed_over = "\nPassed over, as they have no meaning here:\n".to_owned();
    let mut refused = "\nRefused, unless they have etcd's default value:\n".to_owned();
    for flag in FLAGS {
        let Flag { name, default, .. } = flag;
        match flag.fate {
            Followed => text.push_str(&format!("  --{name} '{default}'\n")),
            Key(key)
                if server::configuration::KEYS
                    .iter()
                    .any(|known| known.name == key) =>
            {
                text.push_str(&format!("  --{name} '{default}'\n"));
            }
            Key(_) => refused.push_str(&format!("  --{name} '{default}'\n")),
            PassedOver(why) => passed_over.push_str(&format!("  --{name}: {why}\n")),
            Refused(why) => refused.push_str(&format!("  --{name} '{default}': {why}\n")),
        }
    }
    text + &passed_over + &refused
}
