//! `quorate serve`: a node, as the server library runs it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use server::configuration::Configuration;

use crate::command_line::Serve;

/// The variable that says how often this process has started itself again.
const TIMES: &str = "QUORATE_STARTED_AGAIN";

/// The pause before a start grows with the square of their number, up to this one: ten seconds.
const LONGEST_PAUSE: u32 = 10;

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
        Err(error) => ended("quorate", &error),
    }
}

/// The node has ended by itself. If a start makes up for what was wrong, this process becomes a new
/// one of the same program, arguments and number, so that whoever supervises it need not act.
#[allow(clippy::print_stderr, reason = "the last words of a process")]
pub(crate) fn ended(program: &str, error: &server::Error) -> ExitCode {
    eprintln!("{program}: {error}");
    if !matches!(error, server::Error::Again(_)) {
        return ExitCode::FAILURE;
    }
    let times = std::env::var(TIMES).ok();
    let times: u32 = times.and_then(|times| times.parse().ok()).unwrap_or(0);
    // Once is at once. What comes again and again shall not cost the others an election each time.
    let pause = Duration::from_millis(100) * times.min(LONGEST_PAUSE) * times.min(LONGEST_PAUSE);
    std::thread::sleep(pause);
    eprintln!("{program}: starting again");
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| program.into());
    // The very program that runs, whatever has become of its file.
    let problem = Command::new("/proc/self/exe")
        .arg0(name)
        .args(words)
        .env(TIMES, (times + 1).to_string())
        .exec();
    eprintln!("{program}: cannot start again by itself: {problem}; start it again");
    ExitCode::FAILURE
}

/// Asks the kernel to kill this process when its parent ends, so that a demonstration or a test
/// that is killed itself leaves no nodes behind. False if the parent has ended already.
fn end_with(owner: u32) -> bool {
    set_parent_process_death_signal(Some(Signal::KILL)).is_ok()
        && getppid()
            .map(Pid::as_raw_nonzero)
            .is_some_and(|parent| parent.get() as u32 == owner)
}
