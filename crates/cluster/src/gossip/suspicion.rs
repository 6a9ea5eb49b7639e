//! How long a suspect has to deny it (Lifeguard, section 3: local health aware suspicion).
//!
//! ```text
//!   max ┤●                    nobody else suspects it: perhaps the suspecter is the slow one
//!       │   ●
//!       │       ●
//!   min ┤            ●────    many do
//!       └┬───┬───┬───┬────
//!        0   1   2   3   confirmations by others
//! ```

use std::time::Duration;

use base::{Instant, NodeId};

use super::config::Config;
use super::member::Incarnation;

/// One suspicion, until it is denied or found true.
#[derive(Clone, Debug)]
pub(crate) struct Suspicion {
    pub(crate) incarnation: Incarnation,
    started: Instant,
    shortest: Duration,
    longest: Duration,
    /// Who suspects it: the first, then those who confirm.
    suspecters: Vec<NodeId>,
    wanted: usize,
}

impl Suspicion {
    pub(crate) fn new(
        config: &Config,
        members: usize,
        incarnation: Incarnation,
        by: NodeId,
        now: Instant,
    ) -> Suspicion {
        let scale = (members.max(1) as f64).log10().max(1.0);
        let shortest = config
            .probe_interval
            .mul_f64(config.suspicion_factor * scale);
        // Without enough others nobody could confirm: then the shortest time must do.
        let others = members.saturating_sub(2);
        let wanted = if others < config.confirmations {
            0
        } else {
            config.confirmations
        };
        Suspicion {
            incarnation,
            started: now,
            shortest,
            longest: shortest.mul_f64(config.suspicion_maximum_factor),
            suspecters: vec![by],
            wanted,
        }
    }

    /// Counts another suspecter. Returns whether that was news worth passing on.
    pub(crate) fn confirm(&mut self, by: NodeId) -> bool {
        let is_news = self.suspecters.len() <= self.wanted && !self.suspecters.contains(&by);
        if is_news {
            self.suspecters.push(by);
        }
        is_news
    }

    /// The one who waits stood still for so long: it has not heard any denial.
    pub(crate) fn postpone(&mut self, slept: Duration) {
        self.started = self.started + slept;
    }

    /// When the suspect is dead.
    pub(crate) fn deadline(&self) -> Instant {
        if self.wanted == 0 {
            return self.started + self.shortest;
        }
        let confirmations = (self.suspecters.len() - 1) as f64;
        let part = (confirmations + 1.0).ln() / (self.wanted as f64 + 1.0).ln();
        let saved = (self.longest - self.shortest).mul_f64(part.min(1.0));
        self.started + (self.longest - saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_confirmation_shortens_it_and_nobody_counts_twice() {
        let config = Config::local_network();
        let mut suspicion =
            Suspicion::new(&config, 10, Incarnation(1), NodeId(1), Instant::default());
        let seconds = |suspicion: &Suspicion| suspicion.deadline().0 / 1_000_000_000;
        assert_eq!(seconds(&suspicion), 24);
        assert!(!suspicion.confirm(NodeId(1)));
        assert_eq!(seconds(&suspicion), 24);
        assert!(suspicion.confirm(NodeId(2)));
        assert_eq!(seconds(&suspicion), 14);
        assert!(suspicion.confirm(NodeId(3)));
        assert!(suspicion.confirm(NodeId(4)));
        assert_eq!(seconds(&suspicion), 4);
        assert!(!suspicion.confirm(NodeId(5)), "enough is known");
    }

    #[test]
    fn where_nobody_can_confirm_the_shortest_time_holds() {
        let config = Config::local_network();
        let suspicion = Suspicion::new(&config, 2, Incarnation(1), NodeId(1), Instant::default());
        assert_eq!(
            suspicion.deadline(),
            Instant::default() + Duration::from_secs(4)
        );
    }
}
