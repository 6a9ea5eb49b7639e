//! Every bound of an engine, by name. A value of [`Limits`] is passed in, so that a simulator can
//! shrink the bounds until they are hit all the time.

use std::time::Duration;

/// How much an engine may hold, send and hand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries kept in memory, in bytes. Entries that are not chosen or not durable yet are kept
    /// beyond it; those are bounded by the window.
    pub cache_bytes: u64,
    /// A leader refuses proposals while its entries that are not chosen yet exceed this, in bytes.
    pub window_bytes: u64,
    /// A leader refuses proposals while it has this many entries that are not chosen yet.
    pub window_entries: u64,
    /// A write to the journal is given in parts of about this many bytes, each with a mark of its
    /// own: a disk that works through a long write shows that it works.
    pub write_bytes: u64,
    /// The entries of one message, in bytes (a single larger entry is sent alone).
    pub append_bytes: u64,
    /// What a candidate whose log is too old pulls at once from a voter whose log is newer, in
    /// bytes; 0 if it does not. At most `append_bytes` count.
    pub pull_bytes: u64,
    /// What may be on its way to one peer, not yet durable there, in bytes.
    pub inflight_bytes: u64,
    /// What may be on its way to one peer, not yet durable there, in messages.
    pub inflight_messages: usize,
    /// Paxos: an acceptor that leaves a message unanswered for less than this is not asked again,
    /// however fast it usually answers. At most, it is left to the next heartbeat.
    pub repeat_after: Duration,
    /// Paxos: what is sent again, on no other sign than silence, with one question, in bytes.
    pub repeat_bytes: u64,
    /// Chosen entries handed out that the replica has not executed yet, in bytes.
    pub delivery_bytes: u64,
    /// What one fetch asks of the journal, in bytes.
    pub fetch_bytes: u64,
    /// The size of one piece of a checkpoint, in bytes.
    pub piece_bytes: u64,
    /// Pieces on their way to one peer, not yet stored there.
    pub pieces_in_flight: u64,
    /// Reads that wait for a read round.
    pub waiting_reads: usize,
    /// A learner gets a vote only if it is at most this many slots behind.
    pub promotion_lag_slots: u64,
    /// Members of a group.
    pub members: usize,
    /// A member's name or address, in bytes.
    pub member_text_bytes: usize,
}

impl Limits {
    /// A witness keeps the headers of at least so many chosen slots. By Paxos it tells candidates
    /// of them: who has just started may know less to be chosen than it had accepted, by as much as
    /// a window and a write.
    #[must_use]
    pub fn headers_kept(&self) -> u64 {
        self.window_entries.saturating_mul(2)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            cache_bytes: 32 << 20,
            window_bytes: 64 << 20,
            window_entries: 16 << 10,
            write_bytes: 4 << 20,
            append_bytes: 1 << 20,
            pull_bytes: 0,
            inflight_bytes: 16 << 20,
            inflight_messages: 256,
            repeat_after: Duration::from_millis(5),
            repeat_bytes: 64 << 10,
            delivery_bytes: 16 << 20,
            fetch_bytes: 1 << 20,
            piece_bytes: 1 << 20,
            pieces_in_flight: 4,
            waiting_reads: 64 << 10,
            promotion_lag_slots: 1024,
            members: 64,
            member_text_bytes: 1024,
        }
    }
}
