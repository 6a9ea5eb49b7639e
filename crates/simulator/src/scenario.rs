//! What one seed does: how large the cluster is, how good its parts are, which faults come when.
//!
//! ```text
//!  seed ──draw()──▶ Scenario ──world──▶ run
//!                      ▲  │ one line of JSON each: the setting, then the faults
//!                      │  ▼
//!                    script file ◀── minimised, edited by hand
//! ```
//!
//! Everything that a run does beside chance inside its streams is data, so that a failing run can
//! be made smaller by leaving faults away one by one. Swarm testing (Groce and others, 2012): each
//! seed leaves most kinds of faults out, because a run with everything hides what a run with one
//! thing finds.

use consensus::EngineKind;
use serde::{Deserialize, Serialize};

use crate::disk::Crash;

/// Microseconds of simulated time.
pub type Micros = u64;

/// Whom a fault strikes; looked up when it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// This host, from 0.
    Host(usize),
    /// Whoever leads.
    Leader,
    /// The nth of those who do not lead.
    Follower(usize),
    /// Everyone at once.
    Everyone,
}

/// Which links are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// One host alone, both ways.
    Isolated(Who),
    /// What this host sends arrives nowhere.
    Mute(Who),
    /// This host hears nothing.
    Deaf(Who),
    /// One link between two hosts, both ways.
    Link(Who, Who),
    /// One link, one way.
    OneWay(Who, Who),
    /// Hosts whose bit is set cannot talk to the others.
    Split(u64),
    /// Every link but those of one host that does not lead (OmniPaxos, section 2: "quorum loss"):
    /// only it reaches a quorum, and the leader loses its own.
    QuorumLoss,
    /// The leader is alone, and the only follower that reaches a quorum lags behind (OmniPaxos,
    /// section 2: "constrained election").
    ConstrainedElection,
    /// Each host reaches only its neighbours (OmniPaxos, section 2: "chained").
    Chained,
}

/// One thing that goes wrong.
#[allow(
    missing_docs,
    reason = "who, for how long, by how much: as each variant's text says"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A node dies, after so many more of its outputs were carried out, and starts again later.
    Kill {
        who: Who,
        crash: Crash,
        after_outputs: u32,
        down: Micros,
    },
    /// A node is stopped in good order, and starts again later.
    Stop { who: Who, down: Micros },
    /// A node loses its folder and is replaced: removed, added, started anew.
    Replace { host: usize },
    /// A node loses its folder and starts again as if nothing had been: it must stay out.
    Wipe { host: usize },
    /// A node does nothing for a while, and then goes on.
    Pause { who: Who, time: Micros },
    /// A node's processor is so many times slower for a while.
    SlowProcessor { who: Who, times: u32, time: Micros },
    /// Links are cut for a while.
    Partition { shape: Shape, time: Micros },
    /// All connections of a node break.
    BreakConnections { who: Who },
    /// A node's monotonic clock jumps ahead.
    ClockJump { who: Who, by: Micros },
    /// A node's monotonic clock stands still for a while.
    ClockFreeze { who: Who, time: Micros },
    /// A node's clock runs at another rate (parts per million more or less).
    ClockDrift { who: Who, parts: i64 },
    /// A node's wall clock is set.
    WallJump { who: Who, by_ms: i64 },
    /// A disk answers nothing for a while.
    DiskStall { who: Who, time: Micros },
    /// The journal's writes hang for a while; others go on.
    JournalStall { who: Who, time: Micros },
    /// A disk is so many times slower for a while.
    DiskSlow { who: Who, times: u64, time: Micros },
    /// A disk is full for a while.
    DiskFull { who: Who, time: Micros },
    /// A disk's next sync fails.
    SyncError { who: Who },
    /// A disk reports syncs that it does not do, for a while.
    SyncLies { host: usize, time: Micros },
    /// A disk loses a write.
    LostWrite { host: usize },
    /// A bit flips in something that a disk holds.
    BitRot { host: usize, draw: u64 },
    /// A sector cannot be read any more.
    UnreadableSector { host: usize, draw: u64 },
    /// A sector gets another sector's bytes.
    Misdirected { host: usize, draw: u64 },
    /// Whoever leads is cut off while its clock stands still: it goes on believing that it leads,
    /// however long that takes.
    FrozenLeader { time: Micros },
    /// An operator moves leadership.
    Transfer { to: Option<usize> },
    /// An operator removes a member, which stops, and adds it again later.
    Rejoin { host: usize },
    /// A node is stopped in good order, and started again with a build that knows a newer level.
    Upgrade { host: usize, down: Micros },
    /// The same with a build that does not.
    Downgrade { host: usize, down: Micros },
}

impl Fault {
    /// The family, for counting and for switching off together.
    #[must_use]
    pub fn family(&self) -> &'static str {
        match self {
            Fault::Kill {
                crash: Crash::Power,
                ..
            } => "power cut",
            Fault::Kill { .. } => "kill",
            Fault::Stop { .. } => "stop",
            Fault::Replace { .. } => "replace",
            Fault::Wipe { .. } => "wipe",
            Fault::Pause { .. } => "pause",
            Fault::SlowProcessor { .. } => "slow processor",
            Fault::Partition { shape, .. } => match shape {
                Shape::QuorumLoss => "partition: quorum loss",
                Shape::ConstrainedElection => "partition: constrained election",
                Shape::Chained => "partition: chained",
                Shape::Mute(_) | Shape::Deaf(_) | Shape::OneWay(..) => "partition: one way",
                _ => "partition",
            },
            Fault::BreakConnections { .. } => "broken connections",
            Fault::ClockJump { .. } => "clock jump",
            Fault::ClockFreeze { .. } => "clock freeze",
            Fault::ClockDrift { .. } => "clock drift",
            Fault::WallJump { .. } => "wall clock set",
            Fault::DiskStall { .. } => "disk stall",
            Fault::JournalStall { .. } => "journal stall",
            Fault::DiskSlow { .. } => "slow disk",
            Fault::DiskFull { .. } => "full disk",
            Fault::SyncError { .. } => "sync error",
            Fault::SyncLies { .. } => "lying sync",
            Fault::LostWrite { .. } => "lost write",
            Fault::BitRot { .. } => "bit rot",
            Fault::UnreadableSector { .. } => "unreadable sector",
            Fault::Misdirected { .. } => "misdirected write",
            Fault::FrozenLeader { .. } => "frozen leader",
            Fault::Transfer { .. } => "transfer",
            Fault::Rejoin { .. } => "rejoin",
            Fault::Upgrade { .. } => "upgrade",
            Fault::Downgrade { .. } => "downgrade",
        }
    }
}

/// A fault and when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Microseconds after the start.
    pub at: Micros,
    /// What.
    pub fault: Fault,
}

/// How good the network is. Shares are per million frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The shortest delay of a frame.
    pub delay: Micros,
    /// What is added at random.
    pub jitter: Micros,
    /// How many frames are held up for longer.
    pub tail_share: u64,
    /// By up to how much.
    pub tail: Micros,
    /// How many frames break their connection and are lost with it.
    pub break_share: u64,
    /// How many engine messages are said twice.
    pub duplicate_share: u64,
    /// How many engine messages come again much later, over whatever connection there is then.
    pub replay_share: u64,
    /// How many engine messages are overtaken by what follows them.
    pub reorder_share: u64,
    /// How many engine messages are lost while their connection stands.
    pub loss_share: u64,
    /// How long a connection without an answer is kept.
    pub timeout: Micros,
}

/// How good disks and processors are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The shortest write or read.
    pub disk_delay: Micros,
    /// What is added at random.
    pub disk_jitter: Micros,
    /// What one pass of the node takes.
    pub pass: Micros,
    /// How long what one machine of a node says to another may take at most, where a thread or a
    /// queue lies between them.
    #[serde(default)]
    pub handing_over: Micros,
    /// How long a request to a disk's thread, or its completion, may take at most to get there.
    #[serde(default)]
    pub threads: Micros,
}

/// What clients do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// How many clients there are, each with one request at a time.
    pub clients: usize,
    /// The mean pause between two requests of a client.
    pub pause: Micros,
    /// How many keys they share.
    pub keys: u64,
    /// The longest value in bytes.
    pub value_bytes: u64,
    /// Shares of the operations, out of their sum: put, read, serializable read, compare and
    /// swap, delete, range, compact, something with leases, something with locks.
    pub shares: [u64; 9],
    /// The share of something with elections.
    #[serde(default)]
    pub elections: u64,
    /// How many clients watch beside those that ask.
    pub watches: usize,
    /// How long a client waits for an answer.
    pub patience: Micros,
}

/// A keyspace beside the default one: a group of its own, with clients of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyspace {
    /// How its replicas agree.
    #[serde(default, with = "engine_name")]
    pub engine: EngineKind,
    /// How many there are.
    pub replicas: usize,
    /// When an operator creates it.
    pub created: Micros,
    /// When an operator drops it, if ever.
    #[serde(default)]
    pub dropped: Option<Micros>,
    /// When an operator has one of its replicas moved to another host.
    #[serde(default)]
    pub moves: Vec<Micros>,
    /// When an operator has another host observe it, or one that does no longer.
    #[serde(default)]
    pub observations: Vec<Micros>,
    /// What its clients do.
    pub workload: Workload,
}

/// Keyspaces that a run may have beside the default one.
pub const KEYSPACES_MAX: usize = 3;
/// Clients that a keyspace may have.
pub const CLIENTS_MAX: usize = 64;

/// Limits that are set small, so that their edges are reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Small {
    /// Bytes of a journal segment.
    pub segment_bytes: u64,
    /// Log bytes between checkpoints.
    pub checkpoint_log_bytes: u64,
    /// Bytes of entries kept in memory.
    pub cache_bytes: u64,
    /// Bytes of one append.
    pub append_bytes: u64,
    /// Messages on their way to one peer.
    pub inflight_messages: usize,
    /// Entries that are not chosen yet.
    pub window_entries: u64,
    /// Bytes of a piece of a checkpoint.
    pub piece_bytes: u64,
    /// Commands in one entry.
    pub entry_commands: usize,
    /// Revisions that a hub keeps; its other limits follow.
    pub ring_revisions: usize,
}

/// A host that votes and holds no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// How many of the others must have an entry, if not as many as commit.
    pub copies: Option<usize>,
}

/// All of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// Where it came from; the streams of chance inside the run still come from it.
    pub seed: u64,
    /// Hosts of the cluster.
    pub hosts: usize,
    /// How they agree.
    #[serde(default, with = "engine_name")]
    pub engine: EngineKind,
    /// How many hosts elect and how many commit, if not majorities.
    #[serde(default)]
    pub quorums: Option<(usize, usize)>,
    /// The last host votes and holds no data.
    #[serde(default)]
    pub witness: Option<Witness>,
    /// How long the first phase takes.
    pub duration: Micros,
    /// Hosts whose disks may go bad; never so many that no quorum of sound ones is left.
    pub unsound: Vec<usize>,
    /// Beyond what any protocol survives: damage that a checksum shows may strike every host. Then
    /// nothing need be served, but nothing wrong may be.
    #[serde(default)]
    pub beyond: bool,
    /// Nodes are started with flags that differ from each other's, and from one start to the next.
    #[serde(default)]
    pub flags_differ: bool,
    /// Gossip is played as well, as the seed draws it.
    #[serde(default)]
    pub gossip: bool,
    /// The network.
    pub network: Network,
    /// The machines.
    pub machine: Machine,
    /// The clients.
    pub workload: Workload,
    /// Other keyspaces.
    #[serde(default)]
    pub keyspaces: Vec<Keyspace>,
    /// After so many seconds a dead host's replicas are made anew on others, if an operator says
    /// so at all; 0: never. Replicas also move to even out what hosts hold.
    #[serde(default)]
    pub tending: Option<u64>,
    /// The limits.
    pub small: Small,
    /// What goes wrong, in order of time.
    #[serde(skip)]
    pub faults: Vec<Planned>,
}

/// An engine is called by its name.
mod engine_name {
    use consensus::EngineKind;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    pub(super) fn serialize<S: Serializer>(
        engine: &EngineKind,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(engine.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<EngineKind, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(D::Error::custom)
    }
}

/// Why a script cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl std::fmt::Display for ScriptError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for ScriptError {}

impl Scenario {
    /// Whether any keyspace is moved.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.keyspaces.iter().any(|each| !each.moves.is_empty())
    }

    /// Whether a host votes and holds no data.
    #[must_use]
    pub fn is_witness(&self, host: usize) -> bool {
        self.witness.is_some() && host + 1 == self.hosts
    }

    /// How many hosts hold data.
    #[must_use]
    pub fn holders(&self) -> usize {
        self.hosts - usize::from(self.witness.is_some())
    }

    /// How the groups of this run agree.
    pub fn engines(&self) -> impl Iterator<Item = EngineKind> + '_ {
        let others = self.keyspaces.iter().map(|keyspace| keyspace.engine);
        std::iter::once(self.engine).chain(others)
    }

    /// Lets all groups agree by this engine.
    pub fn agree_by(&mut self, engine: EngineKind) {
        self.engine = engine;
        let others = self.keyspaces.iter_mut();
        others.for_each(|keyspace| keyspace.engine = engine);
    }

    /// The scenario as a script: one line for the setting, one for each fault.
    #[must_use]
    pub fn to_script(&self) -> String {
        let mut script = serde_json::to_string(self).expect("plain data has a JSON form");
        script.push('\n');
        for planned in &self.faults {
            script += &serde_json::to_string(planned).expect("plain data has a JSON form");
            script.push('\n');
        }
        script
    }

    /// Reads a script.
    ///
    /// # Errors
    /// The first line that makes no sense, and why.
    pub fn from_script(script: &str) -> Result<Scenario, ScriptError> {
        let wrong = |line: usize, reason: String| ScriptError {
            line: line + 1,
            reason,
        };
        let mut lines = script
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty());
        let (at, first) = lines
            .next()
            .ok_or_else(|| wrong(0, "the script is empty".to_owned()))?;
        let mut scenario: Scenario =
            serde_json::from_str(first).map_err(|error| wrong(at, error.to_string()))?;
        scenario.check().map_err(|reason| wrong(at, reason))?;
        for (at, line) in lines {
            let planned: Planned =
                serde_json::from_str(line).map_err(|error| wrong(at, error.to_string()))?;
            scenario.faults.push(planned);
        }
        scenario.faults.sort_by_key(|planned| planned.at);
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        if !(1..=7).contains(&self.hosts) {
            return Err(format!("{} hosts; there may be 1 to 7", self.hosts));
        }
        if self.witness.is_some() && (self.hosts < 3 || !self.unsound.is_empty()) {
            return Err("a witness among fewer than three hosts, or with unsound disks".to_owned());
        }
        if self.unsound.len() > (self.hosts - 1) / 2 {
            return Err("more unsound disks than a minority".to_owned());
        }
        if self.unsound.iter().any(|host| *host >= self.hosts) {
            return Err("an unsound disk of a host that does not exist".to_owned());
        }
        self.small.check()?;
        self.workload.check()?;
        if self.keyspaces.len() > KEYSPACES_MAX {
            return Err(format!("at most {KEYSPACES_MAX} keyspaces"));
        }
        for keyspace in &self.keyspaces {
            keyspace.workload.check()?;
            let Keyspace { replicas, .. } = keyspace;
            if !matches!(replicas, 1 | 3 | 5 | 7) || *replicas > self.holders() {
                return Err(format!(
                    "a keyspace on {replicas} of {} hosts",
                    self.holders()
                ));
            }
            let is_moved = !keyspace.moves.is_empty() || !keyspace.observations.is_empty();
            if is_moved && !self.unsound.is_empty() {
                return Err("unsound disks where keyspaces move or are observed".to_owned());
            }
            if self.unsound.len() > (replicas - 1) / 2 {
                return Err("more unsound disks than a minority of a keyspace".to_owned());
            }
        }
        Ok(())
    }
}

/// The smallest segment of a journal that a run may ask for.
const SEGMENT_BYTES_MIN: u64 = 16 << 10;

impl Small {
    fn check(&self) -> Result<(), String> {
        if !(SEGMENT_BYTES_MIN..=1 << 30).contains(&self.segment_bytes) {
            return Err(format!(
                "segments of {} bytes; they have {SEGMENT_BYTES_MIN} to 1 GiB",
                self.segment_bytes
            ));
        }
        let counts = [
            self.checkpoint_log_bytes,
            self.cache_bytes,
            self.append_bytes,
            self.inflight_messages as u64,
            self.window_entries,
            self.piece_bytes,
            self.entry_commands as u64,
        ];
        match counts.contains(&0) {
            true => Err("a limit of zero, with which nothing is ever done".to_owned()),
            false => Ok(()),
        }
    }
}

impl Workload {
    fn check(&self) -> Result<(), String> {
        if self.clients > CLIENTS_MAX || self.keys == 0 {
            return Err(format!("at most {CLIENTS_MAX} clients, at least one key"));
        }
        if self.watches > CLIENTS_MAX {
            return Err(format!("at most {CLIENTS_MAX} clients that watch"));
        }
        if self.shares.iter().sum::<u64>() + self.elections == 0 {
            return Err("clients that do nothing".to_owned());
        }
        Ok(())
    }
}
