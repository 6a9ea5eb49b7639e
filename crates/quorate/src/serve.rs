//! `quorate serve`: a node, as the server library runs it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::thread::disable_transparent_huge_pages;
use server::configuration::Configuration;

use crate::command_line::Serve;

/// The variable that says how often in a row this process has started itself again.
const TIMES: &str = "QUORATE_STARTED_AGAIN";

/// The pause before a start grows with the square of their number, up to this one: ten seconds.
const LONGEST_PAUSE: u32 = 10;

/// A node that has run for so long was mended by its last start: what comes now is something new.
const MENDED_AFTER: Duration = Duration::from_secs(600);

/// After so many starts in a row, about two minutes, another one will not help either.
const STARTS_MAX: u32 = 20;

/// What is to be done about a node that has ended because a start makes up for what was wrong.
#[derive(Debug, PartialEq, Eq)]
enum Again {
    /// It is started after this pause, as the one of this number.
    Start(Duration, u32),
    /// It has been started often enough.
    GiveUp,
}

/// Once is at once. What comes again and again shall not cost the others an election each time, and
/// in the end somebody has to look at it.
fn again(times: u32, ran: Duration) -> Again {
    let times = match ran < MENDED_AFTER {
        true => times,
        false => 0,
    };
    if times >= STARTS_MAX {
        return Again::GiveUp;
    }
    let steps = times.min(LONGEST_PAUSE);
    Again::Start(Duration::from_millis(100) * steps * steps, times + 1)
}

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
    take_ordinary_pages();
    let began = Instant::now();
    match server::run(configuration) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ended("quorate", &error, began),
    }
}

/// Has this process get its memory in ordinary pages. What a server holds is small and lives for
/// as long as some key or watcher does: of a huge page some always stays, and with it the two
/// mebibytes. (A million watchers took 393 bytes each with them and 258 without,
/// docs/benchmarks.md.) Whoever has told the allocator what to do about them is left alone.
pub(crate) fn take_ordinary_pages() {
    if std::env::var_os("MIMALLOC_ALLOW_THP").is_none() {
        // A kernel that does not know this has none to give.
        let _ = disable_transparent_huge_pages(true);
    }
}

/// The node has ended by itself. If a start makes up for what was wrong, this process becomes a new
/// one of the same program, arguments and number, so that whoever supervises it need not act.
#[allow(clippy::print_stderr, reason = "the last words of a process")]
pub(crate) fn ended(program: &str, error: &server::Error, began: Instant) -> ExitCode {
    eprintln!("{program}: {error}");
    if !matches!(error, server::Error::Again(_)) {
        return ExitCode::FAILURE;
    }
    let times = std::env::var(TIMES).ok();
    let times: u32 = times.and_then(|times| times.parse().ok()).unwrap_or(0);
    let Again::Start(pause, times) = again(times, began.elapsed()) else {
        eprintln!(
            "{program}: it has started itself again {times} times in a row, and that does not \
             help: look at the disk and the memory of this machine; start it again when they \
             are sound"
        );
        return ExitCode::FAILURE;
    };
    std::thread::sleep(pause);
    eprintln!("{program}: starting again");
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| program.into());
    // The very program that runs, whatever has become of its file.
    let problem = Command::new("/proc/self/exe")
        .arg0(name)
        .args(words)
        .env(TIMES, times.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_help_is_not_done_for_ever() {
        let short = Duration::from_secs(1);
        assert_eq!(again(0, short), Again::Start(Duration::ZERO, 1));
        assert_eq!(again(3, short), Again::Start(Duration::from_millis(900), 4));
        assert_eq!(again(19, short), Again::Start(Duration::from_secs(10), 20));
        assert_eq!(again(20, short), Again::GiveUp);
        assert_eq!(again(20, MENDED_AFTER), Again::Start(Duration::ZERO, 1));
    }
}
