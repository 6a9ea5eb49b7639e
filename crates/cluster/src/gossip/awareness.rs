//! How healthy a member thinks that it is itself (Lifeguard, section 3: local health multiplier).
//!
//! Whoever gets no answers from anybody is more likely to be slow itself than to be surrounded by
//! the dead. So it counts what speaks against itself, and with each count waits longer before it
//! speaks against others.

use std::time::Duration;

/// 0 is healthy; each point adds one probe interval to every wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awareness {
    score: u32,
    unhealthiest: u32,
}

impl Awareness {
    pub(crate) fn new(unhealthiest: u32) -> Awareness {
        Awareness {
            score: 0,
            unhealthiest,
        }
    }

    /// A probe was answered.
    pub(crate) fn better(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// Something that a healthy member would have had did not come.
    pub(crate) fn worse(&mut self, points: u32) {
        self.score = (self.score + points).min(self.unhealthiest.saturating_sub(1));
    }

    pub(crate) fn score(&self) -> u32 {
        self.score
    }

    pub(crate) fn stretch(&self, duration: Duration) -> Duration {
        duration * (self.score + 1)
    }
}
