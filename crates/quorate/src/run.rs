//! Does what the command line says, and turns the outcome into a message and an exit status.

use std::process::ExitCode;

use clap::Parser;

use crate::command_line::{CommandLine, GroupTask, Task};
use crate::{
    as_etcd, bench, cert, demo, doctor, group, keyspace, migrate, operator, placement, record,
    serve, snapshot,
};

/// Runs the program: 0 if all went well, 1 if not, 2 if it was called in a wrong way.
#[must_use]
#[allow(clippy::print_stderr, reason = "the program's output")]
pub fn run() -> ExitCode {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default();
    let words: Vec<String> = words.collect();
    // etcd's flags are spelled in Go's way, which the library for ours does not know.
    if as_etcd::is_named_etcd(&program) {
        return as_etcd::run(&words);
    }
    if let Some(("etcd", words)) = words
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        return as_etcd::run(words);
    }
    let task = match CommandLine::parse().task {
        // The server brings its own threads and its own way to end.
        Task::Serve(options) => return serve::serve(&options),
        // The load driver as well: a runtime would be in the way of what it measures.
        Task::Bench(options) => return told(bench::bench(&options)),
        Task::Cert { task } => return told(cert::cert(&task)),
        Task::Etcd { arguments } => return as_etcd::run(&arguments),
        task => task,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("quorate: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let examined = match &task {
        Task::Doctor(options) => Some(runtime.block_on(doctor::doctor(options))),
        Task::Group {
            task: GroupTask::Recover(options),
        } => Some(runtime.block_on(group::recover(options))),
        _ => None,
    };
    if let Some(outcome) = examined {
        let (text, status) = match outcome {
            Ok((text, status)) => (Ok(text), status),
            Err(error) => (Err(error), ExitCode::FAILURE),
        };
        told(text);
        return status;
    }
    let outcome: Result<String, Box<dyn std::error::Error>> = runtime.block_on(async {
        match task {
            Task::Serve(_)
            | Task::Bench(_)
            | Task::Cert { .. }
            | Task::Etcd { .. }
            | Task::Group { .. }
            | Task::Doctor(_) => {
                unreachable!("handled above")
            }
            Task::Status { admin, json } => Ok(operator::status(&admin.address, json).await?),
            Task::Member { task } => Ok(operator::member(&task).await?),
            Task::Keyspace { task } => Ok(keyspace::keyspace(&task).await?),
            Task::Placement { task } => Ok(placement::placement(&task).await?),
            Task::Node { task } => Ok(placement::node(&task).await?),
            Task::Snapshot { task } => Ok(snapshot::snapshot(&task).await?),
            Task::Migrate(options) => Ok(migrate::migrate(&options).await?),
            Task::Record(options) => Ok(record::record(&options).await?),
            Task::Demo(options) => Ok(demo::demo(&options).await?),
        }
    });
    told(outcome)
}

/// Says how it went.
#[allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the program's output"
)]
fn told<E: std::fmt::Display>(outcome: Result<String, E>) -> ExitCode {
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("quorate: {error}");
            ExitCode::FAILURE
        }
    }
}
