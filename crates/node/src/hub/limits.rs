//! What bounds a hub. Values, so that tests can shrink them until every bound is met all the time.

use std::time::Duration;

/// What bounds one hub, its streams and its watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubLimits {
    /// Streams that may be open at once; a further one is refused.
    pub streams: usize,
    /// Watchers on one stream; a further one is refused.
    pub stream_watchers: usize,
    /// Watchers of the hub; a further one is refused.
    pub watchers: usize,
    /// Revisions that the ring keeps.
    pub ring_revisions: usize,
    /// Bytes of events that the ring keeps, previous values included. They are shared by the hubs
    /// of a node and by its state.
    pub ring_bytes: usize,
    /// A message ends after the revision that brings it to this many bytes.
    pub message_bytes: usize,
    /// The longest message that clients can take. A revision that needs a longer one, on a watch
    /// that does not allow fragments, ends the watch.
    pub message_bytes_max: usize,
    /// Where a revision is split for watches that allow fragments.
    pub fragment_bytes: usize,
    /// Bytes that a stream may owe its connection. Events are held back while anything is owed;
    /// short answers are not, up to here. A stream whose client asks on without reading is ended.
    pub stream_debt_bytes: u64,
    /// Likewise for all streams of the hub together.
    pub debt_bytes: u64,
    /// Events looked at in one flush for watchers that lag; the next flush goes on.
    pub lagging_steps: usize,
    /// Bytes of messages, made for watchers that lag, that are kept for others like them.
    pub shared_bytes: usize,
    /// Changes that one read of history looks at.
    pub history_steps: usize,
    /// Bytes of events after which one read of history ends.
    pub history_bytes: usize,
    /// Watchers that one read of history serves.
    pub history_watchers: usize,
    /// The least time between the end of one read of history and the next.
    pub history_pause: Duration,
    /// That time doubles with each read in a row that could not be made, up to this.
    pub history_pause_max: Duration,
    /// How often a watcher that wants to hear of progress hears of it while nothing happens. A
    /// tenth of it is added at random, so that the notices of many streams do not coincide.
    pub progress_interval: Duration,
    /// How long a stream whose client insists on a leader stays open without one.
    pub leaderless_patience: Duration,
}

impl Default for HubLimits {
    fn default() -> HubLimits {
        HubLimits {
            streams: 100_000,
            stream_watchers: 100_000,
            watchers: 1_000_000,
            ring_revisions: 65_536,
            ring_bytes: 32 << 20,
            message_bytes: 1 << 20,
            message_bytes_max: i32::MAX as usize,
            fragment_bytes: 2 << 20,
            stream_debt_bytes: 1 << 20,
            debt_bytes: 64 << 20,
            lagging_steps: 20_000,
            shared_bytes: 32 << 20,
            history_steps: 16_384,
            history_bytes: 4 << 20,
            history_watchers: 256,
            history_pause: Duration::from_millis(5),
            history_pause_max: Duration::from_secs(5),
            progress_interval: Duration::from_secs(600),
            leaderless_patience: Duration::from_millis(1500),
        }
    }
}
