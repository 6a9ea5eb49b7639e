//! How much a check may read, hold and try.

/// Limits of one check. Beyond the first three a history is refused; beyond `steps` the verdict is
/// *undecided*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest line, in bytes.
    pub line_bytes: usize,
    /// Most events in a history.
    pub events: usize,
    /// Most bytes in a history, line ends included.
    pub history_bytes: u64,
    /// Steps that the search for an order may take: one is one operation tried in one place.
    pub steps: u64,
    /// Findings reported in full; the rest is counted.
    pub findings: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            line_bytes: 16 << 20,
            events: 20_000_000,
            history_bytes: 4 << 30,
            steps: 5_000_000,
            findings: 20,
        }
    }
}
