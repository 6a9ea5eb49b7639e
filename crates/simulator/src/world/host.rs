//! A machine: its disk, its clock, and the node that runs there, if one does.

use std::collections::BTreeMap;

use base::{Instant, NodeId, Random};
use node::{Config, DialId, Halt, Identity, Input, Limits, Node, Timing};

use crate::disk::{Crash, Disk};
use crate::invariants::refusals::Reasons;
use crate::scenario::{Micros, Scenario, Small};
use crate::world::clock::Clock;

/// A death that is waiting for its moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doom {
    /// Outputs that are still carried out.
    pub(crate) after_outputs: u32,
    pub(crate) crash: Crash,
    pub(crate) down: Micros,
}

/// A machine.
pub(crate) struct Host {
    pub(crate) config: Config,
    pub(crate) disk: Disk,
    pub(crate) node: Option<Node>,
    /// Counts starts and ends, so that events for an earlier node are dropped.
    pub(crate) life: u64,
    pub(crate) clock: Clock,
    pub(crate) dials: BTreeMap<DialId, String>,
    /// Nothing runs before this moment.
    pub(crate) paused_until: Instant,
    pub(crate) inbox: Vec<Input>,
    pub(crate) busy_until: Instant,
    pub(crate) is_free_due: bool,
    pub(crate) woken_at: Option<Instant>,
    pub(crate) slow: (u32, Instant),
    pub(crate) doom: Option<Doom>,
    pub(crate) reasons: Reasons,
    /// What the last node said when it ended.
    pub(crate) halted: Option<Halt>,
    /// It is left alone: damaged, emptied, or cut off for good.
    pub(crate) is_given_up: bool,
    pub(crate) starts: u64,
    pub(crate) refusals: u32,
    /// The last epoch that its node asked for votes in.
    pub(crate) campaigned: base::Epoch,
    pub(crate) disk_random: Random,
}

impl Host {
    pub(crate) fn id(&self) -> Option<NodeId> {
        self.disk
            .identity
            .as_ref()
            .map(|identity: &Identity| identity.node)
    }

    pub(crate) fn is_paused(&self, now: Instant) -> bool {
        self.paused_until > now
    }
}

/// Where a host's peers reach it.
pub(crate) fn address(host: usize) -> String {
    format!("n{}:2380", host + 1)
}

/// What the node on a host is called.
pub(crate) fn name(host: usize) -> String {
    format!("n{}", host + 1)
}

/// The settings of a host's node.
pub(crate) fn config(host: usize, scenario: &Scenario) -> Config {
    let everyone = 0..scenario.hosts;
    Config {
        name: name(host),
        peer_address: Some(address(host)),
        client_urls: vec![format!("http://n{}:2379", host + 1)],
        cluster: match scenario.hosts {
            1 => Vec::new(),
            _ => everyone.map(|each| (name(each), address(each))).collect(),
        },
        join: Vec::new(),
        timing: Timing::default(),
        limits: limits(&scenario.small),
    }
}

fn limits(small: &Small) -> Limits {
    let defaults = Limits::default();
    let consensus = consensus::Limits {
        cache_bytes: small.cache_bytes,
        append_bytes: small.append_bytes,
        inflight_messages: small.inflight_messages,
        window_entries: small.window_entries,
        piece_bytes: small.piece_bytes,
        fetch_bytes: small.append_bytes,
        ..defaults.consensus
    };
    let journal = journal::Limits {
        segment_bytes: small.segment_bytes,
        batch_bytes_max: small.segment_bytes / 4,
        read_bytes: 16 << 10,
        ..defaults.journal
    };
    Limits {
        consensus,
        journal,
        entry_commands: small.entry_commands,
        entry_bytes: 8 << 10,
        etcd: etcd::RequestLimits {
            max_request_bytes: 8 << 10,
            ..defaults.etcd
        },
        checkpoint_log_bytes: small.checkpoint_log_bytes,
        checkpoint_chunk_bytes: 16 << 10,
        checkpoint_sync_bytes: 32 << 10,
        ..defaults
    }
}
