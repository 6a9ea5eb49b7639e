//! What the load driver allows itself and the servers.

use std::time::Duration;

/// The limits of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long connecting may take.
    pub(crate) connect_timeout: Duration,
    /// The pause before a connection that could not be made is tried again.
    pub(crate) reconnect_pause: Duration,
    /// How long a client rests after an error, so that an error does not become millions.
    pub(crate) rest: Duration,
    /// How much is read at once.
    pub(crate) read_bytes: usize,
    /// With so much unsent on a connection nothing more is read from it.
    pub(crate) output_bytes: usize,
    /// How many different texts of errors are counted apart.
    pub(crate) error_texts: usize,
    /// How long events under way are waited for when the last write was answered.
    pub(crate) events_patience: Duration,
    /// After so long without an event none are expected, where it is not known how many come.
    pub(crate) quiet: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connect_timeout: Duration::from_secs(3),
            reconnect_pause: Duration::from_millis(50),
            rest: Duration::from_millis(5),
            read_bytes: 256 << 10,
            output_bytes: 4 << 20,
            error_texts: 32,
            events_patience: Duration::from_secs(10),
            quiet: Duration::from_millis(500),
        }
    }
}
