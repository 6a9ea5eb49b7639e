//! What the runtime counts. Names follow etcd's where etcd has the same thing, because the
//! dashboards and alerts that people have read those; what is ours begins with `quorate_`.

mod gossip;
mod rpc;

use std::sync::Arc;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::http::{ETCD_CLUSTER_VERSION, ETCD_VERSION, QUORATE_VERSION};

pub(crate) use gossip::GossipMetrics;
pub(crate) use rpc::{CallCounters, CountedCall, RpcMetrics};

/// One label and its value.
pub(crate) type Label = [(&'static str, &'static str); 1];

/// Every counter of the runtime; cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// How long a sync of the log takes, with the writes it covers.
    pub(crate) journal_sync_seconds: Histogram,
    /// Requests served by one sync.
    pub(crate) journal_group: Histogram,
    /// Bytes written, by lane.
    pub(crate) disk_written_bytes: Family<Label, Counter>,
    /// Failed disk requests, by lane.
    pub(crate) disk_failures: Family<Label, Counter>,
    /// Bytes sent to peers.
    pub(crate) peer_sent_bytes: Counter,
    /// Bytes received from peers.
    pub(crate) peer_received_bytes: Counter,
    /// Frames sent to peers.
    pub(crate) peer_sent_frames: Counter,
    /// Frames received from peers.
    pub(crate) peer_received_frames: Counter,
    /// Peer connections that ended, by reason.
    pub(crate) peer_closed: Family<Label, Counter>,
    /// Peer connections that are up.
    pub(crate) peer_connections: Gauge,
    /// Client connections that are up.
    pub(crate) client_connections: Gauge,
    /// Client connections that ended, by reason.
    pub(crate) client_closed: Family<Label, Counter>,
    /// Client calls that the node has not answered yet.
    pub(crate) calls_under_way: Gauge,
    /// Client calls that found no turn in time.
    pub(crate) calls_refused: Counter,
    /// Inputs that one pass of the node's thread served.
    pub(crate) pass_inputs: Histogram,
    /// How long one pass of the node's thread took.
    pub(crate) pass_seconds: Histogram,
    /// Notes of the node, by name.
    pub(crate) notes: Family<Label, Counter>,
    /// Watches.
    pub(crate) watch: WatchMetrics,
    /// Calls of gRPC.
    pub(crate) rpc: RpcMetrics,
    /// Bytes read from clients' connections over HTTP/2.
    pub(crate) client_received_bytes: Counter,
    /// Bytes written to them.
    pub(crate) client_sent_bytes: Counter,
    /// How long it takes to connect to a peer: one round trip, by its address.
    pub(crate) peer_round_trip_seconds: Family<[(&'static str, String); 1], Histogram>,
    /// Connections to peers that failed, or could not be made.
    pub(crate) peer_failures: Counter,
    /// Answers of `/health`.
    pub(crate) health_checks: HealthChecks,
    /// Gossip.
    pub(crate) gossip: GossipMetrics,
    /// Calls in keyspaces that other nodes hold.
    pub(crate) relay: RelayMetrics,
}

/// Calls that are carried on to other nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct RelayMetrics {
    pub(crate) calls: Counter,
    /// Those that no other node has answered.
    pub(crate) failures: Counter,
}

impl RelayMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "quorate_relayed_calls",
            "Calls in keyspaces of other nodes that were carried on to them",
            self.calls.clone(),
        );
        registry.register(
            "quorate_relayed_calls_failed",
            "Calls in keyspaces of other nodes that none of those has answered",
            self.failures.clone(),
        );
    }
}

/// Answers of `/health`.
#[derive(Clone, Debug, Default)]
pub(crate) struct HealthChecks {
    pub(crate) successes: Counter,
    pub(crate) failures: Counter,
}

/// What the watches of all workers count.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchMetrics {
    /// Streams that are open.
    pub(crate) streams: Gauge,
    /// Watches there are.
    pub(crate) watchers: Gauge,
    /// Of these, the ones that wait for history or for their connection.
    pub(crate) lagging: Gauge,
    /// Events given out, each time to one watch.
    pub(crate) events: Counter,
    /// Messages given out.
    pub(crate) messages: Counter,
    /// Reads of history.
    pub(crate) history_reads: Counter,
    /// Streams and watches refused or ended because of a limit.
    pub(crate) refused: Counter,
}

impl WatchMetrics {
    fn register(&self, registry: &mut Registry) {
        let mvcc = |name: &str| format!("etcd_debugging_mvcc_{name}");
        registry.register(
            mvcc("watch_stream_total"),
            "Watch streams that are open",
            self.streams.clone(),
        );
        registry.register(mvcc("watcher_total"), "Watches", self.watchers.clone());
        registry.register(
            mvcc("slow_watcher_total"),
            "Watches that wait for history or for their connection",
            self.lagging.clone(),
        );
        registry.register(
            mvcc("events"),
            "Events given out, each time to one watch",
            self.events.clone(),
        );
        registry.register(
            "quorate_watch_messages",
            "Messages of watches given out",
            self.messages.clone(),
        );
        registry.register(
            "quorate_watch_history_reads",
            "Reads of history for watches that fell behind",
            self.history_reads.clone(),
        );
        registry.register(
            "quorate_watch_refused",
            "Watch streams and watches refused or ended because of a limit",
            self.refused.clone(),
        );
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        let seconds = || Histogram::new(exponential_buckets(0.000_032, 2.0, 18));
        let counts = || Histogram::new(exponential_buckets(1.0, 2.0, 13));
        Metrics {
            journal_sync_seconds: seconds(),
            journal_group: counts(),
            disk_written_bytes: Family::default(),
            disk_failures: Family::default(),
            peer_sent_bytes: Counter::default(),
            peer_received_bytes: Counter::default(),
            peer_sent_frames: Counter::default(),
            peer_received_frames: Counter::default(),
            peer_closed: Family::default(),
            peer_connections: Gauge::default(),
            client_connections: Gauge::default(),
            client_closed: Family::default(),
            calls_under_way: Gauge::default(),
            calls_refused: Counter::default(),
            pass_inputs: counts(),
            pass_seconds: seconds(),
            notes: Family::default(),
            watch: WatchMetrics::default(),
            rpc: RpcMetrics::default(),
            client_received_bytes: Counter::default(),
            client_sent_bytes: Counter::default(),
            peer_round_trip_seconds: Family::new_with_constructor(round_trips),
            peer_failures: Counter::default(),
            health_checks: HealthChecks::default(),
            gossip: GossipMetrics::default(),
            relay: RelayMetrics::default(),
        }
    }
}

impl Metrics {
    /// Registers everything under its name.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let disk = |name: &str| format!("etcd_disk_{name}");
        registry.register(
            disk("wal_fsync_duration_seconds"),
            "Time to write and sync one group of the log",
            self.journal_sync_seconds.clone(),
        );
        // What makes a write last is one thing here, and two in etcd.
        registry.register(
            disk("backend_commit_duration_seconds"),
            "Time to write and sync one group of the log",
            self.journal_sync_seconds.clone(),
        );
        registry.register(
            "quorate_disk_journal_group_requests",
            "Requests served by one sync of the log",
            self.journal_group.clone(),
        );
        registry.register(
            "quorate_disk_written_bytes",
            "Bytes written, by lane",
            self.disk_written_bytes.clone(),
        );
        registry.register(
            "quorate_disk_failures",
            "Failed disk requests, by lane",
            self.disk_failures.clone(),
        );
        self.register_peers(registry);
        registry.register(
            "quorate_client_connections",
            "Client connections that are up",
            self.client_connections.clone(),
        );
        registry.register(
            "quorate_client_connections_closed",
            "Client connections that ended, by reason",
            self.client_closed.clone(),
        );
        registry.register(
            "quorate_client_calls_under_way",
            "Client calls that the node has not answered yet",
            self.calls_under_way.clone(),
        );
        registry.register(
            "quorate_client_calls_refused",
            "Client calls answered with too many requests",
            self.calls_refused.clone(),
        );
        registry.register(
            "quorate_node_pass_inputs",
            "Inputs served by one pass of the node",
            self.pass_inputs.clone(),
        );
        registry.register(
            "quorate_node_pass_seconds",
            "Time of one pass of the node",
            self.pass_seconds.clone(),
        );
        registry.register(
            "quorate_node_notes",
            "Notes of the node, by name",
            self.notes.clone(),
        );
        self.watch.register(registry);
        self.rpc.register(registry);
        self.gossip.register(registry);
        self.relay.register(registry);
        self.register_networks(registry);
        let health = &self.health_checks;
        registry.register(
            "etcd_server_health_success",
            "Health checks that succeeded",
            health.successes.clone(),
        );
        registry.register(
            "etcd_server_health_failures",
            "Health checks that failed",
            health.failures.clone(),
        );
        registry.register(
            "etcd_server_proposals_pending",
            "Client calls that the node has not answered yet",
            self.calls_under_way.clone(),
        );
    }

    /// What passes through sockets, under etcd's names.
    fn register_networks(&self, registry: &mut Registry) {
        let network = |name: &str| format!("etcd_network_{name}");
        registry.register(
            network("client_grpc_received_bytes"),
            "Bytes read from clients over HTTP/2",
            self.client_received_bytes.clone(),
        );
        registry.register(
            network("client_grpc_sent_bytes"),
            "Bytes written to clients over HTTP/2",
            self.client_sent_bytes.clone(),
        );
        registry.register(
            network("peer_sent_bytes"),
            "Bytes sent to peers",
            self.peer_sent_bytes.clone(),
        );
        registry.register(
            network("peer_received_bytes"),
            "Bytes received from peers",
            self.peer_received_bytes.clone(),
        );
        registry.register(
            network("peer_sent_failures"),
            "Connections to peers that failed or could not be made",
            self.peer_failures.clone(),
        );
        registry.register(
            network("peer_round_trip_time_seconds"),
            "Time to connect to a peer, by its address",
            self.peer_round_trip_seconds.clone(),
        );
    }

    fn register_peers(&self, registry: &mut Registry) {
        registry.register(
            "quorate_peer_sent_bytes",
            "Bytes sent to peers",
            self.peer_sent_bytes.clone(),
        );
        registry.register(
            "quorate_peer_received_bytes",
            "Bytes received from peers",
            self.peer_received_bytes.clone(),
        );
        registry.register(
            "quorate_peer_sent_frames",
            "Frames sent to peers",
            self.peer_sent_frames.clone(),
        );
        registry.register(
            "quorate_peer_received_frames",
            "Frames received from peers",
            self.peer_received_frames.clone(),
        );
        registry.register(
            "quorate_peer_connections_closed",
            "Peer connections that ended, by reason",
            self.peer_closed.clone(),
        );
        registry.register(
            "quorate_peer_connections",
            "Peer connections that are up",
            self.peer_connections.clone(),
        );
    }
}

/// Writes everything that is counted in the text form that scrapers read.
#[derive(Clone)]
pub(crate) struct Exposition {
    registry: Arc<Registry>,
}

impl Exposition {
    pub(crate) fn new(metrics: &Metrics) -> Exposition {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        Exposition {
            registry: Arc::new(registry),
        }
    }

    /// Appends the text; what the node itself counts is left out if it did not answer.
    pub(crate) fn write(
        &self,
        counted: Option<&node::Metrics>,
        status: Option<&node::Status>,
        text: &mut String,
    ) -> std::fmt::Result {
        encode_registry(text, &self.registry)?;
        let mut registry = Registry::default();
        if let Some(counted) = counted {
            register_counted(counted, &mut registry);
        }
        if let Some(status) = status {
            register_status(status, &mut registry);
        }
        register_process(&mut registry);
        register_versions(&mut registry);
        encode_registry(text, &registry)?;
        encode_eof(text)
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstCounter::new(value));
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(
        name,
        help,
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)),
    );
}

fn register_counted(counted: &node::Metrics, registry: &mut Registry) {
    let counters = [
        // Of one group, as in etcd: an alert on it must not count one node's end for each
        // keyspace that the node led.
        (
            "etcd_server_leader_changes_seen",
            "Leaders of the first group seen",
            counted.first_leader_changes,
        ),
        (
            "quorate_leader_changes",
            "Leaders seen, of all groups here",
            counted.leader_changes,
        ),
        (
            "etcd_server_proposals_failed",
            "Calls without a known result",
            counted.calls_timed_out,
        ),
        (
            "quorate_entries_proposed",
            "Entries proposed here",
            counted.entries_proposed,
        ),
        (
            "quorate_commands_proposed",
            "Commands put into entries",
            counted.commands_proposed,
        ),
        (
            "quorate_commands_forwarded",
            "Commands sent to a leader",
            counted.commands_forwarded,
        ),
        (
            "quorate_commands_executed",
            "Commands executed here",
            counted.commands_executed,
        ),
        (
            "quorate_commands_repeated",
            "Commands that had run before",
            counted.commands_repeated,
        ),
        (
            "quorate_commands_panicked",
            "Commands that failed inside",
            counted.commands_panicked,
        ),
        (
            "quorate_read_rounds",
            "Read rounds asked for",
            counted.read_rounds,
        ),
        ("quorate_reads", "Reads answered", counted.reads),
        (
            "quorate_reads_offloaded",
            "Reads that ran on a snapshot",
            counted.reads_offloaded,
        ),
        (
            "quorate_leases_renewed",
            "Leases renewed for clients of this node",
            counted.leases_renewed,
        ),
        (
            "quorate_leases_expired",
            "Leases ended by this node as a leader",
            counted.leases_expired,
        ),
        (
            "quorate_calls_timed_out",
            "Calls without a known result",
            counted.calls_timed_out,
        ),
        (
            "quorate_checkpoints_written",
            "Checkpoints written",
            counted.checkpoints_written,
        ),
        (
            "quorate_checkpoints_failed",
            "Checkpoints that could not be written",
            counted.checkpoints_failed,
        ),
        (
            "quorate_damage_found",
            "Times that something on this disk was not as it was written",
            counted.damage_found,
        ),
        (
            "quorate_doubts_ended",
            "Replicas for which a leader has made up for what was lost here",
            counted.doubts_ended,
        ),
        (
            "quorate_scrubbed_bytes",
            "Bytes read only to see whether they are as they were written",
            counted.scrubbed_bytes,
        ),
        (
            "quorate_scrub_rounds",
            "Times that everything on this disk was read for that",
            counted.scrub_rounds,
        ),
        (
            "quorate_calls_without_room",
            "Calls refused because too many bytes wait already",
            counted.calls_refused,
        ),
        (
            "quorate_bad_frames",
            "Peer frames that made no sense",
            counted.bad_frames,
        ),
        (
            "quorate_journal_batches",
            "Batches made durable",
            counted.journal.batches,
        ),
        (
            "quorate_journal_records",
            "Records appended",
            counted.journal.records,
        ),
        (
            "quorate_groups_slept",
            "How often a group here fell asleep",
            counted.groups_slept,
        ),
        (
            "quorate_groups_woken",
            "How often a sleeping group here was woken",
            counted.groups_woken,
        ),
    ];
    for (name, help, value) in counters {
        counter(registry, name, help, value);
    }
    let gauges = [
        (
            "quorate_groups_in_doubt",
            "Replicas here that have lost something, and for which no leader has made up",
            counted.groups_in_doubt,
        ),
        (
            "quorate_groups_asleep",
            "Groups here that sleep, since nothing happens in them",
            counted.groups_asleep,
        ),
        (
            "quorate_journal_segments",
            "Segments in use",
            counted.journal.segments,
        ),
        (
            "quorate_journal_bytes",
            "Bytes of the log on disk",
            counted.journal.bytes,
        ),
        (
            "quorate_journal_buffered_bytes",
            "Bytes not durable yet",
            counted.journal.buffered_bytes,
        ),
    ];
    for (name, help, value) in gauges {
        gauge(registry, name, help, value);
    }
}

fn register_status(status: &node::Status, registry: &mut Registry) {
    let leads = u64::from(status.role == consensus::Role::Leader);
    let voters = status.members.iter().filter(|member| member.voter).count() as u64;
    let witnesses = status.members.iter().filter(|each| each.is_witness).count() as u64;
    let revision = u64::try_from(status.revision).unwrap_or(0);
    let gauges = [
        (
            "etcd_server_has_leader",
            "A leader is known",
            u64::from(status.leader.is_some()),
        ),
        ("etcd_server_is_leader", "This node leads", leads),
        (
            "etcd_server_is_learner",
            "This node has no vote yet",
            u64::from(status.role == consensus::Role::Learner),
        ),
        // etcd counts both, and calls them totals although they begin with the log.
        (
            "etcd_server_proposals_committed_total",
            "Last chosen slot",
            status.chosen.0,
        ),
        (
            "etcd_server_proposals_applied_total",
            "Last executed slot",
            status.applied.0,
        ),
        (
            "etcd_server_quota_backend_bytes",
            "Bytes that may be held",
            status.quota_bytes,
        ),
        (
            "etcd_mvcc_db_total_size_in_bytes",
            "Bytes held",
            status.held_bytes,
        ),
        (
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Bytes of live keys",
            status.live_bytes,
        ),
        (
            "etcd_debugging_mvcc_current_revision",
            "Revision of the keyspace",
            revision,
        ),
        ("quorate_term", "The current term", status.term.0),
        (
            "quorate_members",
            "Members of the group",
            status.members.len() as u64,
        ),
        ("quorate_voters", "Members with a vote", voters),
        (
            "quorate_witnesses",
            "Members that vote and hold no data",
            witnesses,
        ),
        (
            "quorate_is_witness",
            "This node votes and holds no data",
            u64::from(status.is_witness()),
        ),
    ];
    for (name, help, value) in gauges {
        gauge(registry, name, help, value);
    }
}

fn register_process(registry: &mut Registry) {
    let gauges = [
        (
            "process_resident_memory_bytes",
            "Memory of the process that is in use",
            resident_bytes(),
        ),
        (
            "process_open_fds",
            "Files and sockets that are open",
            std::fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| files.count() as u64),
        ),
        (
            "process_max_fds",
            "Files and sockets that may be open",
            rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        ),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            gauge(registry, name, help, value);
        }
    }
}

/// Versions are labels, as a metric is a number.
fn register_versions(registry: &mut Registry) {
    let versions = [
        ("etcd_server_version", "server_version", ETCD_VERSION),
        (
            "etcd_cluster_version",
            "cluster_version",
            ETCD_CLUSTER_VERSION,
        ),
        ("quorate_version", "version", QUORATE_VERSION),
    ];
    for (name, label, version) in versions {
        let family = Family::<Label, Gauge>::default();
        family.get_or_create(&[(label, version)]).set(1);
        registry.register(name, "Which version runs; always 1", family);
    }
}

fn round_trips() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 15))
}

/// Where the system tells (Linux).
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
