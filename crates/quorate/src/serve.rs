//! `quorate serve`: a node, as the server library runs it.

use std::process::ExitCode;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use server::configuration::Configuration;

use crate::command_line::Serve;

/// Runs a node until it is told to stop or cannot go on.
#[allow(
    clippy::print_stderr,
    reason = "a node that does not start has no log yet"
)]
pub(crate) fn serve(options: &Serve) -> ExitCode {
    if let Some(owner) = options.end_with
        && !end_with(owner)
    {
        eprintln!(
            "quorate: the process {owner}, named by --end-with, is not the one that started this"
        );
        return ExitCode::FAILURE;
    }
    let configuration = match Configuration::load(&options.sources()) {
        Ok(configuration) => configuration,
        Err(error) => {
            eprintln!("quorate: {error}");
            return ExitCode::from(2);
        }
    };
    match server::run(configuration) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Asks the kernel to kill this process when its parent ends, so that a demonstration or a test
/// that is killed itself leaves no nodes behind. False if the parent has ended already.
fn end_with(owner: u32) -> bool {
    set_parent_process_death_signal(Some(Signal::KILL)).is_ok()
        && getppid()
            .map(Pid::as_raw_nonzero)
            .is_some_and(|parent| parent.get() as u32 == owner)
}
