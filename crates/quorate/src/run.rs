//! Does what the command line says, and turns the outcome into a message and an exit status.

use std::process::ExitCode;

use clap::Parser;

use crate::command_line::{CommandLine, Task};
use crate::{bench, demo, operator, serve};

/// Runs the program: 0 if all went well, 1 if not, 2 if it was called in a wrong way.
#[must_use]
#[allow(clippy::print_stderr, reason = "the program's output")]
pub fn run() -> ExitCode {
    let task = match CommandLine::parse().task {
        // The server brings its own threads and its own way to end.
        Task::Serve(options) => return serve::serve(&options),
        // The load driver as well: a runtime would be in the way of what it measures.
        Task::Bench(options) => return told(bench::bench(&options)),
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
    let outcome: Result<String, Box<dyn std::error::Error>> = runtime.block_on(async {
        match task {
            Task::Serve(_) | Task::Bench(_) => unreachable!("handled above"),
            Task::Status { admin, json } => Ok(operator::status(&admin.address, json).await?),
            Task::Member { task } => Ok(operator::member(&task).await?),
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
