//! A machine: its disk, its clock, and the node that runs there, if one does.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Instant, NodeId, Random};
use bytes::Bytes;
use consensus::{EngineKind, QuorumSizes};
use journal::disk::RequestId;
use node::leases::LeaseLimits;
use node::running::scrubbing::ScrubLimits;
use node::{
    Config, ConnectionId, DialId, Halt, Identity, Input, Limits, MovingLimits, Node, Standing,
    Timing,
};

use crate::disk::{Crash, Disk};
use crate::invariants::groups::Said;
use crate::invariants::refusals::{Injuries, Reasons};
use crate::scenario::{Micros, Scenario, Small};
use crate::world::clock::Clock;
use crate::world::threads::Threads;

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
    /// What its disk sends when a request has succeeded, with what it says, if that was looked at.
    pub(crate) departing: BTreeMap<RequestId, Vec<(ConnectionId, Bytes, Option<Said>)>>,
    pub(crate) busy_until: Instant,
    pub(crate) is_free_due: bool,
    pub(crate) woken_at: Option<Instant>,
    pub(crate) slow: (u32, Instant),
    pub(crate) doom: Option<Doom>,
    pub(crate) reasons: Reasons,
    /// The life in which its disk was damaged last.
    pub(crate) hurt_in: u64,
    /// What was done to its disk, since it had this one.
    pub(crate) injuries: Injuries,
    /// What the last node said when it ended.
    pub(crate) halted: Option<Halt>,
    /// It is left alone: damaged, emptied, or cut off for good.
    pub(crate) is_given_up: bool,
    pub(crate) starts: u64,
    pub(crate) refusals: u32,
    /// The last epoch that its node asked for votes in.
    pub(crate) campaigned: base::Epoch,
    pub(crate) disk_random: Random,
    /// What lies between its node's thread and those of its disk.
    pub(crate) threads: Threads,
    /// The last slot that its node acknowledged, and of which group.
    pub(crate) promised: (base::GroupId, base::Slot),
    /// Bytes of its disk that acknowledgements have paid for reading.
    pub(crate) promise_credit: u64,
}

impl Host {
    pub(crate) fn id(&self) -> Option<NodeId> {
        self.disk
            .identity
            .as_ref()
            .map(|identity: &Identity| identity.node)
    }

    /// Whether its node has come to belong to a cluster, by its disk.
    pub(crate) fn is_member(&self) -> bool {
        let identity = self.disk.identity.as_ref();
        identity.is_some_and(|identity| matches!(identity.standing, Standing::Member { .. }))
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
        place_is_logged: false,
        client_urls: vec![format!("http://n{}:2379", host + 1)],
        peers_are_encrypted: false,
        cluster: match scenario.hosts {
            1 => Vec::new(),
            _ => everyone.map(|each| (name(each), address(each))).collect(),
        },
        join: Vec::new(),
        // The one that forms the cluster tells the others.
        engine: (host == 0).then_some(scenario.engine),
        quorums: scenario
            .quorums
            .filter(|_| host == 0)
            .map(|(elect, commit)| QuorumSizes { elect, commit }),
        copies: scenario
            .witness
            .filter(|_| host == 0)
            .and_then(|witness| witness.copies),
        is_witness: scenario.is_witness(host),
        domains: node::Domains::default(),
        tending: node::Tending::OFF,
        timing: Timing::default(),
        limits: Limits {
            // Where machines hear of each other late, the replica is far behind its engine.
            execution_bytes: match scenario.machine.handing_over {
                0 => Limits::default().execution_bytes,
                _ => 1,
            },
            moving: MovingLimits {
                grace: Duration::from_millis(300),
                // Where nobody moves keyspaces, they do not move by themselves, nor do leaders.
                tending_interval: match scenario.moves() {
                    true => Duration::from_secs(1),
                    false => Duration::from_secs(86_400),
                },
                leading_rest: Duration::from_secs(3),
                ..MovingLimits::default()
            },
            scrub: ScrubLimits {
                // Where nothing is done to anybody, there is nothing to be found: as seldom as in
                // production.
                rest: match scenario.faults.is_empty() {
                    true => ScrubLimits::default().rest,
                    false => Duration::from_millis(500),
                },
                ..scrub(&scenario.small)
            },
            epochs_ahead: epochs_ahead(scenario),
            ..limits(&scenario.small)
        },
    }
}

/// How far ahead of their promises nodes write down that these may go. Where it is two elections a
/// vote may have to wait for that.
fn epochs_ahead(scenario: &Scenario) -> u64 {
    match (scenario.small.entry_commands, scenario.engine) {
        (1, EngineKind::Raft) => 2,
        // Of a ballot's number the lower byte says whose it is.
        (1, EngineKind::Paxos) => 2 << 8,
        _ => Limits::default().epochs_ahead,
    }
}

/// Election timeouts, in milliseconds, of nodes with flags of their own.
pub(crate) const ELECTION_TIMEOUTS: [u64; 5] = [300, 500, 500, 1_000, 2_500];

/// Changes what an operator may choose for one node alone: nothing that is replicated may depend on
/// it.
pub(crate) fn change_flags(config: &mut Config, random: &mut Random) {
    let mut pick = |from: &[u64]| from[random.below(from.len() as u64) as usize];
    // A leader's heartbeats must reach the most impatient follower in time: that much has to fit.
    config.timing.election_timeout = Duration::from_millis(pick(&ELECTION_TIMEOUTS));
    config.timing.heartbeat_interval = Duration::from_millis(pick(&[20, 50, 100]));
    config.timing.request_timeout = Duration::from_millis(pick(&[500, 2_000, 7_000]));
    config.timing.shutdown_patience = Duration::from_millis(pick(&[200, 1_000, 3_000]));
    let limits = &mut config.limits;
    limits.entry_commands = pick(&[1, 16, 256]) as usize;
    limits.entry_bytes = pick(&[1 << 10, 8 << 10, 64 << 10]) as usize;
    limits.pass_bytes = pick(&[1 << 10, 64 << 10, 4 << 20]) as usize;
    limits.execution_bytes = pick(&[1, 1 << 10, 4 << 20]);
    limits.queued_commands = pick(&[2, 64, 16_384]) as usize;
    limits.resend_delay = Duration::from_millis(pick(&[5, 20, 200]));
    limits.small_read.keys = pick(&[1, 20, 1_000]);
    limits.checkpoint_log_bytes = pick(&[4 << 10, 64 << 10, 1 << 20]);
    limits.checkpoints_kept = pick(&[1, 2, 4]) as usize;
    limits.compaction_interval = Duration::from_millis(pick(&[1, 10, 500]));
    limits.facts_interval = Duration::from_millis(pick(&[100, 1_000, 10_000]));
    limits.sleep_after = Some(Duration::from_millis(pick(&[20, 200, 3_000])));
    limits.woken_at_once = pick(&[1, 128]) as usize;
    limits.woken_together = limits.woken_at_once;
}

fn scrub(small: &Small) -> ScrubLimits {
    ScrubLimits {
        bytes_per_second: small.segment_bytes,
        chunk_bytes: 16 << 10,
        ..ScrubLimits::default()
    }
}

/// What one fetch asks of a journal, at least. A replica that was started again reads its log back
/// one fetch after the other, and a disk may take 28 ms for each: by single entries it would
/// execute fewer than clients write, and never catch up. In production a fetch is a mebibyte.
const FETCH_BYTES_MIN: u64 = 16 << 10;

fn limits(small: &Small) -> Limits {
    let defaults = Limits::default();
    let consensus = consensus::Limits {
        cache_bytes: small.cache_bytes,
        append_bytes: small.append_bytes,
        inflight_messages: small.inflight_messages,
        window_entries: small.window_entries,
        piece_bytes: small.piece_bytes,
        fetch_bytes: small.append_bytes.max(FETCH_BYTES_MIN),
        ..defaults.consensus
    };
    let journal = journal::Limits {
        segment_bytes: small.segment_bytes,
        batch_bytes_max: small.segment_bytes / 4,
        read_bytes: 16 << 10,
        ..defaults.journal
    };
    let leases = LeaseLimits {
        renewals_gathered: small.entry_commands,
        renewals_per_command: small.entry_commands,
        settled_per_pass: small.entry_commands,
        settled_while_following: 2,
        expiries_per_command: small.entry_commands,
        expired_keys_per_command: small.entry_commands as u64,
        ..defaults.leases
    };
    Limits {
        consensus,
        journal,
        leases,
        entry_commands: small.entry_commands,
        entry_bytes: 8 << 10,
        etcd: etcd::RequestLimits {
            max_request_bytes: 8 << 10,
            ..defaults.etcd
        },
        checkpoint_log_bytes: small.checkpoint_log_bytes,
        checkpoint_chunk_bytes: 16 << 10,
        checkpoint_sync_bytes: 32 << 10,
        // Clients rest for less than people do.
        sleep_after: Some(Duration::from_millis(300)),
        ..defaults
    }
}
