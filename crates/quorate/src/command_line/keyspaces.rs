//! What can be typed behind `quorate keyspace`.

use clap::Subcommand;

use super::Admin;

/// What is to be done about a keyspace.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyspaceTask {
    /// Make keyspaces
    Create {
        /// Their names: a-z, 0-9 and -
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Make so many, called NAME-1, NAME-2 and so on
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        count: Option<u32>,
        /// How many nodes hold each: 1, 3, 5 or 7
        #[arg(long, default_value_t = 3)]
        replicas: usize,
        /// How their groups agree: raft or paxos
        #[arg(long, default_value = "raft")]
        engine: String,
        /// How many replicas elect a leader, and how many must have a write on disk; if not said,
        /// majorities
        #[arg(long, value_name = "elect=N,commit=N")]
        quorums: Option<String>,
        #[command(flatten)]
        admin: Admin,
    },
    /// List the keyspaces and who holds them
    List {
        #[command(flatten)]
        admin: Admin,
        /// Print the list as JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Show one keyspace
    Describe {
        /// Its name
        name: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// Move a keyspace to other nodes, without a pause for its clients
    #[command(group = clap::ArgGroup::new("where").required(true))]
    Move {
        /// Its name
        name: String,
        /// The node that gives up its replica, by name or id
        #[arg(long, value_name = "NODE", requires = "to")]
        from: Option<String>,
        /// The node that gets it; without --from, all nodes that shall hold the keyspace
        #[arg(long, value_delimiter = ',', value_name = "NODE", group = "where")]
        to: Vec<String>,
        /// Leave it where it is, if nobody has left yet
        #[arg(long, group = "where")]
        cancel: bool,
        #[command(flatten)]
        admin: Admin,
    },
    /// Have nodes hold a keyspace without a vote: they serve its reads and watches, and nobody
    /// waits for them
    Observe {
        /// The keyspace's name
        name: String,
        /// Members of the cluster, with or without a vote there, by name or id
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        admin: Admin,
    },
    /// Have nodes hold a keyspace no longer that have held it without a vote
    Unobserve {
        /// The keyspace's name
        name: String,
        /// Which nodes, by name or id
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        admin: Admin,
    },
    /// Give keys that begin alike to a keyspace, for clients that name none
    Route {
        /// What the keys begin with
        prefix: String,
        /// The keyspace's name
        name: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// Give keys that begin alike back to the default keyspace
    Unroute {
        /// What the keys begin with
        prefix: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// List which keys are given to which keyspace
    Routes {
        #[command(flatten)]
        admin: Admin,
    },
    /// End a keyspace, with all that it holds: nothing of it can be had back
    Drop {
        /// Its name
        name: String,
        #[command(flatten)]
        admin: Admin,
    },
}
