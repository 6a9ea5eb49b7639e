//! What can be typed behind `quorate`.
//!
//! The flags of `serve` are not listed here: they are made from the server's own table of keys
//! (`server::configuration::KEYS`), so that a key cannot exist in the file and not as a flag.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use server::configuration::{KEYS, Sources};

use crate::bench::options::Bench;

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

A cluster forms once, when all nodes named by --cluster are there and empty. SIGTERM hands over
leadership, answers what is under way, and ends with status 0.";

const MEMBER_EXAMPLES: &str = "\
Examples:
  Replace a node whose disk was lost (its old data must not come back):
    quorate member remove n3
    quorate member add n3 10.0.0.3:2380
    (start it with an empty data folder and --join)
    quorate member promote n3

  quorate member list --admin 10.0.0.1:2390

A member is named by its name, or by its id where two members have one name. A new member is a
learner: it gets the data and has no vote, so that it cannot weaken the cluster while it is empty.";

const STATUS_EXAMPLES: &str = "\
Examples:
  quorate status
  quorate status --admin 10.0.0.1:2390
  quorate status --admin unix:/run/quorate/admin.sock
  quorate status --json | jq .leader";

const DEMO_EXAMPLES: &str = "\
Starts a cluster of processes on this machine, in a folder that is removed at the end. Clients write
through etcd's protocol; the leader is killed with SIGKILL and started again; then every node
is asked for every write that was acknowledged.

Examples:
  quorate demo                stays until Ctrl-C, so that you can try your own client
  quorate demo --once         ends after the verification; status 1 if anything was lost
  quorate demo --nodes 5";

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
    /// Show or change who belongs to the cluster
    #[command(after_help = MEMBER_EXAMPLES)]
    Member {
        #[command(subcommand)]
        task: MemberTask,
    },
    /// Watch a cluster on this machine survive the death of its leader
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(Demo),
    /// Measure how fast servers answer, ours or etcd's own
    Bench(Box<Bench>),
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
    /// Add a learner: a member that gets the data and has no vote yet
    Add {
        /// Its name, as it will be given to `serve --name`
        name: String,
        /// Where the other nodes will reach it
        #[arg(value_name = "HOST:PORT")]
        peer_address: String,
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

/// How the demonstration runs.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// End after the verification instead of waiting for Ctrl-C
    #[arg(long)]
    pub(crate) once: bool,
    /// How many nodes there are
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub(crate) nodes: u8,
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
            command.arg(
                Arg::new(key.name)
                    .long(key.name)
                    .value_name(key.value)
                    .help(help),
            )
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
