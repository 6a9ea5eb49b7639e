//! Log lines on standard error, for people or for machines.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::configuration::{LogFormat, LogLevel};

/// How the targets of everything that is part of this product begin.
const OWN_TARGETS: &str = "quorate";

/// Sends everything logged in this process to standard error. If the embedding program has set up
/// logging of its own, that stays in force.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let targets = targets(level);
    // Fails if somebody else has set up logging.
    let _ = match format {
        LogFormat::Text => registry().with(lines.with_filter(targets)).try_init(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            registry().with(lines.with_filter(targets)).try_init()
        }
    };
}

/// What is logged: of our own what was asked for, of the libraries warnings at most, which would
/// otherwise drown it.
fn targets(level: LogLevel) -> Targets {
    let own = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(own.min(LevelFilter::WARN))
        .with_target(OWN_TARGETS, own)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn debugging_shows_our_own_lines_and_only_warnings_of_libraries() {
        // What a line of this crate carries, not what it is believed to carry.
        let own = module_path!();
        let debug = targets(LogLevel::Debug);
        assert!(debug.would_enable(own, &Level::DEBUG));
        assert!(!debug.would_enable(own, &Level::TRACE));
        assert!(debug.would_enable("h2::codec", &Level::WARN));
        assert!(!debug.would_enable("h2::codec", &Level::INFO));
        let error = targets(LogLevel::Error);
        assert!(!error.would_enable(own, &Level::WARN));
        assert!(!error.would_enable("h2::codec", &Level::WARN));
    }
}
