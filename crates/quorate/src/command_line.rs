//! What can be typed behind `quorate`.
//!
//! The flags of `serve` are not listed here: they are made from the server's own table of keys
//! (`server::configuration::KEYS`), so that a key cannot exist in the file and not as a flag.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use server::configuration::{KEYS, SWITCH, Sources};

use crate::access::Access;
use crate::bench::options::Bench;
use crate::migrate::options::Migrate;
use crate::record::Record;

mod keyspaces;

pub(crate) use keyspaces::KeyspaceTask;

const EXAMPLES: &str = "\
Examples:
  quorate demo                      see a cluster lose its leader, and nothing else
  quorate serve                     one node, for etcd's clients on 127.0.0.1:2379
  quorate status                    what that node sees

  etcdctl --endpoints 127.0.0.1:2379 put greeting hello

`quorate COMMAND --help` shows examples of each command.";

const SERVE_EXAMPLES: &str = "\
Every flag is a key of the file given by --config (TOML, the same names) and a variable
(QUORATE_LISTEN_ETCD for --listen-etcd). A flag wins over a variable, a variable over the file.

Examples:
  One node that keeps its data in ./quorate-data:
    quorate serve

  The first of three nodes; the others differ in --name, --data-dir and their listeners:
    quorate serve --name n1 --data-dir /var/lib/quorate \\
      --listen-peer 10.0.0.1:2380 --listen-etcd 10.0.0.1:2379 \\
      --cluster n1=10.0.0.1:2380,n2=10.0.0.2:2380,n3=10.0.0.3:2380

  A fourth node, once `quorate member add n4 10.0.0.4:2380` was run at one of the three:
    quorate serve --name n4 --data-dir /var/lib/quorate \\
      --listen-peer 10.0.0.4:2380 --listen-etcd 10.0.0.4:2379 --join 10.0.0.1:2380

  Two sites and a tie-breaker: n3 votes and holds no data, and writes go on while n1 or n2 is away
  (on each its own --name; the others without --witness):
    quorate serve --name n3 --witness --copies 1 \\
      --cluster n1=10.1.0.1:2380,n2=10.2.0.1:2380,n3=10.3.0.1:2380

A cluster forms once, when all nodes named by --cluster are there and empty. SIGTERM hands over
leadership, answers what is under way, and ends with status 0.";

const KEYSPACE_EXAMPLES: &str = "\
Examples:
  A keyspace on three nodes of the cluster, and one that agrees by Paxos:
    quorate keyspace create events
    quorate keyspace create locks --engine paxos
    quorate keyspace list
  A thousand, called tenant-1 to tenant-1000:
    quorate keyspace create tenant --count 1000
  Kubernetes' pods in a keyspace of their own, its clients unchanged:
    quorate keyspace create pods
    quorate keyspace route /registry/pods/ pods

Clients name a keyspace in the metadata of their calls: quorate-keyspace: events";

const PLACEMENT_EXAMPLES: &str = "\
Examples:
  quorate placement plan
  quorate placement apply --epoch 12          (as the plan named it)
  quorate placement explain events
  quorate placement set --replace-after 10m --rebalance off";

const GROUP_EXAMPLES: &str = "\
Examples:
  What is left of the first group, and what would be lost (nothing is changed):
    quorate group recover
    quorate group recover pods --admin 10.0.0.1:2390,10.0.0.4:2390

  On the machine of the node that is to go on, once the others are gone for good:
    quorate group recover --force --accept-loss n2,n3

Exit status without --force: 0 nothing is lost, 4 the quorum is; 1 no node can be asked.";

const MEMBER_EXAMPLES: &str = "\
Examples:
  Replace a node whose disk was lost (its old data must not come back):
    quorate member remove n3
    quorate member add n3 10.0.0.3:2380
    (start it with an empty data folder and --join)

  quorate member list --admin 10.0.0.1:2390

A member is named by its name, or by its id where two members have one name. A new member gets
the data first, and its vote by itself once it has caught up.";

const SNAPSHOT_EXAMPLES: &str = "\
Examples:
  quorate snapshot save backup.snapshot --endpoints 10.0.0.1:2379
  quorate snapshot status backup.snapshot

  From nodes that speak TLS and have users sign in (or QUORATE_USER instead of --user):
    quorate snapshot save backup.snapshot --endpoints 10.0.0.1:2379 --cacert ca.pem \\
      --user root:secret

  A node alone from it, which others may join:
    quorate snapshot restore backup.snapshot --data-dir /var/lib/quorate --name n1 \\
      --peer 10.0.0.1:2380

  Three nodes from it; each folder goes to its machine, and is used there once:
    quorate snapshot restore backup.snapshot --data-dir restored \\
      --cluster n1=10.0.0.1:2380,n2=10.0.0.2:2380,n3=10.0.0.3:2380

`etcdctl snapshot save` saves the same file. A restored cluster has new ids; its revision is raised
and all history before it compacted, so that clients of the old one notice.";

const CERT_EXAMPLES: &str = "\
Examples:
  An authority, a node's certificate and a client's, in ./certificates:
    quorate cert authority
    quorate cert node n1 --host 10.0.0.1,n1.example,localhost,127.0.0.1
    quorate cert client alice

  The node, for clients and peers that have certificates of this authority:
    quorate serve --cert-file certificates/n1.pem --key-file certificates/n1-key.pem \\
      --trusted-ca-file certificates/ca.pem

  The client is not to be let in any more (--client-crl-file certificates/revoked.pem):
    quorate cert revoke certificates/alice.pem

Files that exist are not replaced. Keys can be read by their owner alone. Whoever has ca-key.pem
can make certificates: keep it elsewhere.";

const STATUS_EXAMPLES: &str = "\
Examples:
  quorate status
  quorate status --admin 10.0.0.1:2390
  quorate status --admin unix:/run/quorate/admin.sock
  quorate status --json | jq .leader";

const DOCTOR_EXAMPLES: &str = "\
Looks at every member through whichever nodes can be asked: quorum, leader, lag, disks, clocks,
certificates, versions, settings, gossip beside the log. Changes nothing.

Exit status: 0 nothing worse than notes, 3 warnings, 4 something critical; 1 no node can be asked.

Examples:
  quorate doctor
  quorate doctor --admin 10.0.0.1:2390,10.0.0.2:2390
  quorate doctor --json | jq '.findings[] | select(.severity == \"critical\")'";

const DEMO_EXAMPLES: &str = "\
Starts a cluster of processes on this machine, in a folder that is removed at the end. Clients write
through etcd's protocol; the leader is killed with SIGKILL and started again; then every node
is asked for every write that was acknowledged.

Examples:
  quorate demo                stays until Ctrl-C, so that you can try your own client
  quorate demo --once         ends after the verification; status 1 if anything was lost
  quorate demo --nodes 5 --keyspaces 16 --chaos --minutes 10
                              kills, pauses, cuts off, wipes and damages one node at a time;
                              status 1 if it did not heal, or a client was told anything wrong";

/// A coordination service: keeps a small amount of important data available and consistent while
/// machines fail. Speaks etcd's protocol.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) task: Task,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Run a node
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Serve),
    /// Show what a node sees: who leads, how far everyone is
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        #[command(flatten)]
        admin: Admin,
        /// Print the node's answer as it is, for programs
        #[arg(long)]
        json: bool,
    },
    /// Look at a cluster as an expert would: what is wrong, how it shows, what to do
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(Doctor),
    /// Show or change who belongs to the cluster
    #[command(after_help = MEMBER_EXAMPLES)]
    Member {
        #[command(subcommand)]
        task: MemberTask,
    },
    /// Make, list or drop keyspaces: each has its own revisions, and a group of its own
    #[command(after_help = KEYSPACE_EXAMPLES)]
    Keyspace {
        #[command(subcommand)]
        task: KeyspaceTask,
    },
    /// What is left of a group that has lost its quorum, and going on with it
    #[command(after_help = GROUP_EXAMPLES)]
    Group {
        #[command(subcommand)]
        task: GroupTask,
    },
    /// Look at where replicas are and why, and have them moved
    #[command(after_help = PLACEMENT_EXAMPLES)]
    Placement {
        #[command(subcommand)]
        task: PlacementTask,
    },
    /// Empty a node before it is taken away, or let it take its share again
    Node {
        #[command(subcommand)]
        task: NodeTask,
    },
    /// Save a cluster's data to a file, look at one, make a new cluster from one
    #[command(after_help = SNAPSHOT_EXAMPLES)]
    Snapshot {
        #[command(subcommand)]
        task: SnapshotTask,
    },
    /// Copy a live etcd into this cluster, and follow it until told to cut over
    Migrate(Box<Migrate>),
    /// Watch a cluster on this machine survive the death of its leader
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(Demo),
    /// Make certificates: a private authority, nodes, clients
    #[command(after_help = CERT_EXAMPLES)]
    Cert {
        #[command(subcommand)]
        task: CertTask,
    },
    /// Run a node with etcd's flags; so does the program under the name etcd
    #[command(disable_help_flag = true)]
    Etcd {
        /// etcd's flags; --help lists what becomes of each
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Have clients work on a cluster, and write down what they are told, for `quorate-sim check`
    Record(Box<Record>),
    /// Measure how fast servers answer, ours or etcd's own
    Bench(Box<Bench>),
}

/// Which certificate is to be made.
#[derive(Debug, Subcommand)]
pub(crate) enum CertTask {
    /// Make an authority: ca.pem, which everybody gets, and ca-key.pem, which nobody gets
    Authority {
        #[command(flatten)]
        place: CertPlace,
        /// How long it is valid, in days
        #[arg(long, default_value_t = 3650, value_parser = days)]
        days: u32,
    },
    /// Make a node's certificate: NAME.pem and NAME-key.pem
    Node {
        /// The node's name
        name: String,
        /// Every name and address under which clients and peers reach it
        #[arg(
            long = "host",
            value_name = "HOST,...",
            value_delimiter = ',',
            required = true
        )]
        hosts: Vec<String>,
        #[command(flatten)]
        place: CertPlace,
        /// How long it is valid, in days
        #[arg(long, default_value_t = 365, value_parser = days)]
        days: u32,
    },
    /// Make a client's certificate: NAME.pem and NAME-key.pem
    Client {
        /// The client's name; with users switched on, that of its user
        name: String,
        #[command(flatten)]
        place: CertPlace,
        /// How long it is valid, in days
        #[arg(long, default_value_t = 365, value_parser = days)]
        days: u32,
    },
    /// Put certificates onto the list of those that are revoked: revoked.pem
    Revoke {
        /// The files of the certificates
        #[arg(value_name = "FILE", required = true)]
        certificates: Vec<PathBuf>,
        #[command(flatten)]
        place: CertPlace,
        /// After so many days the list should be made again
        #[arg(long, default_value_t = 365, value_parser = days)]
        days: u32,
    },
}

/// So that what is made lives for a century at most.
fn days(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(days) if (1..=36_500).contains(&days) => Ok(days),
        _ => Err("expected a number of days from 1 to 36500".to_owned()),
    }
}

/// Where certificates are kept.
#[derive(Debug, Args)]
pub(crate) struct CertPlace {
    /// The folder
    #[arg(long = "dir", value_name = "FOLDER", default_value = "certificates")]
    pub(crate) folder: PathBuf,
}

/// What is to be done about a member.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberTask {
    /// List the members
    List {
        #[command(flatten)]
        admin: Admin,
        /// Print the list as JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Add a member: it gets the data, and its vote by itself once it has caught up
    Add {
        /// Its name, as it will be given to `serve --name`
        name: String,
        /// Where the other nodes will reach it
        #[arg(value_name = "HOST:PORT")]
        peer_address: String,
        /// It is to vote and to hold no data; start it with `serve --witness`
        #[arg(long)]
        witness: bool,
        /// It is to hold the data and never to vote, unless it is promoted
        #[arg(long, conflicts_with = "witness")]
        observer: bool,
        #[command(flatten)]
        admin: Admin,
    },
    /// Give a learner its vote
    Promote {
        /// Its name or id
        member: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// Remove a member for good: its data folder cannot come back
    Remove {
        /// Its name or id
        member: String,
        #[command(flatten)]
        admin: Admin,
    },
}

/// What is to be done about where replicas are.
#[derive(Debug, Subcommand)]
pub(crate) enum PlacementTask {
    /// Show what would move, why, and who holds what
    Plan {
        #[command(flatten)]
        admin: Admin,
    },
    /// Move what the plan says
    Apply {
        /// Only if the table is still of this epoch, as the plan named it
        #[arg(long)]
        epoch: Option<u64>,
        #[command(flatten)]
        admin: Admin,
    },
    /// Say why a keyspace is where it is
    Explain {
        /// The keyspace's name
        keyspace: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// Say how the cluster looks after itself
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
    Set {
        /// How long a node must be dead before its replicas are made anew on others, such as 300s,
        /// 5m or never
        #[arg(long, value_name = "TIME", group = "what", value_parser = replace_after)]
        replace_after: Option<u64>,
        /// Whether replicas move by themselves so that each node holds its share
        #[arg(long, value_name = "on|off", group = "what", value_parser = on_or_off)]
        rebalance: Option<bool>,
        #[command(flatten)]
        admin: Admin,
    },
}

/// What is to be done with a node.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeTask {
    /// Move all replicas and leaderships off a node; ends when it is empty
    Drain {
        /// Its name or id
        node: String,
        /// Do not wait until the node is empty
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        admin: Admin,
    },
    /// Let a node that was emptied take its share again
    Undrain {
        /// Its name or id
        node: String,
        #[command(flatten)]
        admin: Admin,
    },
}

/// Seconds, from `300s`, `5m`, `1h`, or `never`, which is 0.
fn replace_after(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a time such as 300s, 5m or 1h, or never";
    if text == "never" {
        return Ok(0);
    }
    let unit = text.chars().last().ok_or(EXPECTED)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(EXPECTED.to_owned()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| EXPECTED)?;
    let seconds = number.checked_mul(seconds).filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| EXPECTED.to_owned())
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

/// What is to be done about a group.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupTask {
    /// Say what is left of a group without a quorum; with --force, go on with it
    Recover(Recover),
}

/// Which group is recovered, and how.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// The keyspace whose group it is
    #[arg(default_value = "default")]
    pub(crate) keyspace: String,
    /// Admin addresses of all nodes that are left: first the one that is to go on
    #[arg(
        long = "admin",
        value_name = "ADDRESS,...",
        value_delimiter = ',',
        env = "QUORATE_ADMIN",
        default_value = "127.0.0.1:2390"
    )]
    pub(crate) admins: Vec<String>,
    /// Go on without those who do not answer: what only they hold is lost
    #[arg(long)]
    pub(crate) force: bool,
    /// The names of all who are given up, as told without --force
    #[arg(
        long,
        value_name = "NODE,...",
        value_delimiter = ',',
        requires = "force"
    )]
    pub(crate) accept_loss: Vec<String>,
}

/// What is to be done with a snapshot.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotTask {
    /// Save what a node holds, and verify what was saved
    Save {
        /// The file to write
        file: PathBuf,
        /// The keyspace to save; a snapshot holds one
        #[arg(long, value_name = "NAME", default_value = "default")]
        keyspace: String,
        /// Nodes to ask, by their addresses for etcd's clients
        #[arg(
            long,
            value_name = "HOST:PORT,...",
            value_delimiter = ',',
            default_value = "127.0.0.1:2379"
        )]
        endpoints: Vec<String>,
        #[command(flatten)]
        access: Access,
    },
    /// Verify a file and show what is in it
    Status {
        /// The file
        file: PathBuf,
        /// Print it as JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Verify a file and make the data folders of a new cluster from it
    Restore {
        /// The file
        file: PathBuf,
        /// The new data folder; with --cluster, the folder to make one per member in
        #[arg(long, value_name = "FOLDER")]
        data_dir: PathBuf,
        /// The name of a node alone
        #[arg(long, default_value = "n1")]
        name: String,
        /// Where others will reach a node alone
        #[arg(long, value_name = "HOST:PORT", conflicts_with = "cluster")]
        peer: Option<String>,
        /// The members of the new cluster
        #[arg(long, value_name = "NAME=HOST:PORT,...", value_delimiter = ',')]
        cluster: Vec<String>,
        /// By how much the revision is raised; what the old cluster wrote since must be less
        #[arg(long, value_name = "NUMBER", default_value_t = server::snapshot::restore::RAISE_BY)]
        raise_revision: u64,
        /// How the new cluster agrees: raft or paxos
        #[arg(long, value_name = "ENGINE", env = "QUORATE_ENGINE", default_value_t)]
        engine: server::snapshot::restore::EngineKind,
    },
}

/// Which node is asked.
#[derive(Debug, Args)]
pub(crate) struct Admin {
    /// The admin address of the node to ask: host:port or unix:/path
    #[arg(
        long = "admin",
        value_name = "ADDRESS",
        env = "QUORATE_ADMIN",
        default_value = "127.0.0.1:2390"
    )]
    pub(crate) address: String,
}

/// How a cluster is looked at.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Admin addresses of nodes to ask; the others are asked through them
    #[arg(
        long = "admin",
        value_name = "ADDRESS,...",
        value_delimiter = ',',
        env = "QUORATE_ADMIN",
        default_value = "127.0.0.1:2390"
    )]
    pub(crate) admins: Vec<String>,
    /// Print it as JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
    /// How long the cluster is looked on, in milliseconds
    #[arg(long = "window", value_name = "MILLISECONDS", default_value_t = 2000,
          value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub(crate) window_milliseconds: u64,
}

/// How the demonstration runs.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// End after the verification instead of waiting for Ctrl-C
    #[arg(long)]
    pub(crate) once: bool,
    /// How many nodes there are
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub(crate) nodes: u8,
    /// Kill, pause, cut off, wipe and damage one node after the other, and judge what clients of
    /// many keyspaces were told
    #[arg(long, conflicts_with = "once")]
    pub(crate) chaos: bool,
    /// How many keyspaces there are beside `default`
    #[arg(long, value_name = "N", default_value_t = 16, requires = "chaos",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) keyspaces: u16,
    /// How long faults strike, in minutes
    #[arg(long, default_value_t = 10.0, requires = "chaos", value_parser = minutes)]
    pub(crate) minutes: f64,
    /// What the faults follow from; drawn at random if not said
    #[arg(long, value_name = "NUMBER", requires = "chaos")]
    pub(crate) seed: Option<u64>,
}

/// A time that a demonstration may take.
fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if minutes > 0.0 && minutes <= 1440.0 => Ok(minutes),
        _ => Err("expected a number of minutes up to 1440".to_owned()),
    }
}

/// The settings of a node.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// A TOML file with the same keys as the flags
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// End when the process with this id, which started this one, ends
    #[arg(long, hide = true, value_name = "PROCESS")]
    pub(crate) end_with: Option<u32>,
}

impl Serve {
    /// What the server's configuration is read from.
    pub(crate) fn sources(&self) -> Sources {
        Sources {
            file: self.config.clone(),
            // A variable that is not text cannot be one of ours; reading it must not panic.
            variables: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
                .collect(),
            flags: self.settings.0.clone(),
            ..Sources::default()
        }
    }
}

/// The flags that are keys of the configuration: name and value of each that was given.
#[derive(Debug)]
pub(crate) struct Settings(Vec<(String, String)>);

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Settings, clap::Error> {
        let given = KEYS.iter().filter_map(|key| {
            let value = matches.get_one::<String>(key.name)?;
            Some((key.name.to_owned(), value.clone()))
        });
        Ok(Settings(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Settings::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Settings {
    fn augment_args(command: Command) -> Command {
        KEYS.iter().fold(command, |command, key| {
            let help = format!("{} [default: {}]", key.meaning, key.default);
            let flag = Arg::new(key.name)
                .long(key.name)
                .value_name(key.value)
                .help(help);
            command.arg(if key.value == SWITCH {
                flag.num_args(0..=1).default_missing_value("true")
            } else {
                flag
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Settings::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_key_is_a_flag() {
        for key in KEYS {
            let parsed = parse(&format!("quorate serve --{} value", key.name)).unwrap();
            let Task::Serve(serve) = parsed.task else {
                panic!("it is serve")
            };
            assert_eq!(
                serve.sources().flags,
                [(key.name.to_owned(), "value".to_owned())]
            );
        }
    }

    #[test]
    fn a_flag_is_given_once() {
        assert!(parse("quorate serve --name a --name b").is_err());
    }

    #[test]
    fn the_admin_address_has_a_default() {
        let parsed = parse("quorate member promote n4").unwrap();
        let Task::Member {
            task: MemberTask::Promote { member, admin },
        } = parsed.task
        else {
            panic!("it is member promote");
        };
        assert_eq!(
            (member.as_str(), admin.address.as_str()),
            ("n4", "127.0.0.1:2390")
        );
    }
}
