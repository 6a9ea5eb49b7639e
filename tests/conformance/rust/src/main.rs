//! The crate `etcd-client` against a three-node cluster, given by its endpoints.
//!
//! Processes are the business of `../rust_suite.py`, which starts this program: a line that
//! begins with `!` asks it to kill the leader or to start it again, and one line comes back.

mod cases;
mod failover;
mod locks;
mod leases;
mod watch;

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions};

/// A case fails by an error or a panic; either is reported, and the next case runs.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The cluster as this program sees it.
#[derive(Clone)]
pub struct Cluster {
    endpoints: Vec<String>,
}

impl Cluster {
    /// A client of all nodes, or of one.
    pub async fn client(&self, node: Option<usize>) -> Result<Client, etcd_client::Error> {
        let endpoints = match node {
            Some(node) => vec![self.endpoints[node].clone()],
            None => self.endpoints.clone(),
        };
        // Generous: a case that hangs must end, a slow machine must not fail it.
        let options = ConnectOptions::new()
            .with_timeout(Duration::from_secs(10))
            .with_connect_timeout(Duration::from_secs(5));
        Client::connect(endpoints, Some(options)).await
    }

    /// How many nodes there are, dead or alive.
    pub fn size(&self) -> usize {
        self.endpoints.len()
    }

    /// Kills the leader; returns which node it was.
    pub fn kill_leader(&self) -> usize {
        let endpoint = ask("!kill-leader");
        self.endpoints
            .iter()
            .position(|known| *known == endpoint)
            .expect("it is one of the nodes")
    }

    /// Starts what was killed, and waits until it serves.
    pub fn start_killed(&self) {
        ask("!start-killed");
    }
}

/// Sends a line to the side that owns the processes, and waits for its answer.
fn ask(request: &str) -> String {
    println!("{request}");
    std::io::stdout().flush().expect("the other side reads");
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .expect("the other side answers");
    answer.trim().to_owned()
}

/// Runs one case in a task of its own, so that a panic ends the case alone.
async fn passes(name: &str, case: impl Future<Output = Outcome> + Send + 'static) -> bool {
    let started = Instant::now();
    let fault = match tokio::spawn(case).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(panic) => Some(panic.to_string()),
    };
    match &fault {
        None => println!("  ok     {name} ({:.1} s)", started.elapsed().as_secs_f64()),
        Some(fault) => println!("  FAILED {name}: {fault}"),
    }
    fault.is_none()
}

#[tokio::main]
async fn main() -> ExitCode {
    let endpoints: Vec<String> = std::env::args().skip(1).collect();
    assert!(
        !endpoints.is_empty(),
        "usage: etcd-client-suite HOST:PORT..."
    );
    let cluster = Cluster { endpoints };
    let mut results = Vec::new();
    macro_rules! run {
        ($($module:ident :: $case:ident),* $(,)?) => {
            $(results.push(passes(stringify!($case), $module::$case(cluster.clone())).await);)*
        };
    }
    run!(
        cases::put_get_and_delete,
        cases::options_of_a_range,
        cases::history_and_compaction,
        cases::transactions,
        cases::errors_are_typed,
        cases::status_and_members,
        locks::a_lock_is_held_by_one,
        locks::a_lock_goes_with_its_lease,
        locks::who_gives_up_leaves_the_line,
        locks::a_lock_without_a_lease_gets_one,
        locks::an_election_has_one_leader,
        locks::a_line_outlives_the_leader,
        leases::a_lease_takes_its_keys_along,
        leases::errors_of_leases_are_typed,
        leases::a_lease_is_kept_alive_while_the_leader_dies,
        watch::many_watches_share_a_stream,
        watch::progress_overtakes_no_event,
        watch::a_large_revision_comes_whole_or_in_pieces,
        watch::a_transaction_is_one_message,
        watch::no_event_is_lost_or_repeated_with_the_leader,
        failover::no_acknowledged_write_is_lost_with_the_leader,
        failover::requests_sent_into_the_gap_are_answered,
    );
    let passed = results.iter().filter(|passed| **passed).count();
    let failed = results.len() - passed;
    println!("rust etcd-client: {passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
