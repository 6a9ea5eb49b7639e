//! A node's clocks: a monotonic one that drifts, jumps and freezes, and a wall clock that is set.
//!
//! The world's own time is true time. A node sees `local(true)`, a line that is bent now and then:
//!
//! ```text
//!  local │        ╱──── frozen ────╱
//!        │   jump│                 │ goes on at its own rate
//!        │      ╱
//!        └────────────────────────────── true
//! ```

use base::{Instant, WallTime};
use std::time::Duration;

const MILLION: i128 = 1_000_000;

/// The clocks of one host.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    since: Instant,
    local: Instant,
    /// Parts per million more or less than true time.
    drift: i64,
    frozen_until: Instant,
    wall_offset_ms: i64,
}

/// What wall clocks showed when the run began: 2023-11-14T22:13:20Z.
const EPOCH_MS: i64 = 1_700_000_000_000;

impl Clock {
    /// A clock that shows `local` now.
    #[must_use]
    pub fn new(now: Instant, local: Instant) -> Clock {
        Clock {
            since: now,
            local,
            drift: 0,
            frozen_until: Instant(0),
            wall_offset_ms: 0,
        }
    }

    /// What the monotonic clock shows at a true time.
    #[must_use]
    pub fn local(&self, now: Instant) -> Instant {
        let from = self.since.max(self.frozen_until);
        if self.drift == 0 {
            return Instant(self.local.0 + now.0.saturating_sub(from.0));
        }
        let passed = i128::from(now.since(from).as_nanos() as u64);
        let passed = passed + passed * i128::from(self.drift) / MILLION;
        Instant(self.local.0 + passed as u64)
    }

    /// The true time at which it will show `local`, as things stand.
    #[must_use]
    pub fn when(&self, now: Instant, local: Instant) -> Instant {
        let missing = i128::from(local.0) - i128::from(self.local(now).0);
        if missing <= 0 {
            return now;
        }
        let real = match self.drift {
            0 => missing + 1,
            drift => missing * MILLION / (MILLION + i128::from(drift)) + 1,
        };
        let real = u64::try_from(real).unwrap_or(u64::MAX);
        Instant(now.max(self.frozen_until).0.saturating_add(real))
    }

    /// What the wall clock shows.
    #[must_use]
    pub fn wall(&self, now: Instant) -> WallTime {
        let local_ms = (now.0 / 1_000_000) as i64;
        WallTime((EPOCH_MS + local_ms + self.wall_offset_ms).max(0) as u64)
    }

    fn bend(&mut self, now: Instant) {
        self.local = self.local(now);
        self.since = now;
    }

    /// It runs at another rate from now on.
    pub fn set_drift(&mut self, now: Instant, parts: i64) {
        self.bend(now);
        self.drift = parts.clamp(-900_000, 900_000);
    }

    /// It jumps ahead.
    pub fn jump(&mut self, now: Instant, by: Duration) {
        self.bend(now);
        self.local = self.local + by;
    }

    /// It stands still until then.
    pub fn freeze(&mut self, now: Instant, time: Duration) {
        self.bend(now);
        self.frozen_until = now + time;
    }

    /// The wall clock is set.
    pub fn set_wall(&mut self, by_ms: i64) {
        self.wall_offset_ms += by_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_inverse_of_local() {
        let mut clock = Clock::new(Instant(0), Instant(1_000));
        clock.set_drift(Instant(500), 100_000);
        clock.freeze(Instant(2_000), Duration::from_nanos(300));
        for now in [2_000, 2_100, 2_300, 5_000] {
            let shown = clock.local(Instant(now));
            let at = clock.when(Instant(now), shown + Duration::from_nanos(700));
            assert!(clock.local(at) >= shown + Duration::from_nanos(700));
            assert!(clock.local(Instant(at.0 - 3)) < shown + Duration::from_nanos(700));
        }
    }

    #[test]
    fn it_never_goes_back() {
        let mut clock = Clock::new(Instant(0), Instant(0));
        let mut last = Instant(0);
        for now in 0..2_000_u64 {
            match now {
                100 => clock.freeze(Instant(now), Duration::from_nanos(200)),
                200 => clock.set_drift(Instant(now), -500_000),
                500 => clock.jump(Instant(now), Duration::from_nanos(50)),
                700 => clock.set_drift(Instant(now), 200_000),
                _ => {}
            }
            assert!(clock.local(Instant(now)) >= last, "at {now}");
            last = clock.local(Instant(now));
        }
    }
}
